"""Losses that recognition networks are trained with: softmax, and the margins of pytorch-metric-learning."""

from __future__ import annotations

import math
import warnings
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

Head = Literal["softmax", "sphereface", "cosface", "arcface"]


class Softmax(nn.Module):
    """Cross-entropy of a linear classifier with a bias: the loss of IR50-Softmax.

    Args:
        classes: how many identities.
        embedding: length of the embedding.

    Shape:
        input: embeddings (N, embedding) and labels (N,) int64.
        output: a scalar, the mean over the batch.
    """

    def __init__(self, classes: int, embedding: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(embedding, classes)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch."""
        return functional.cross_entropy(self.classifier(embeddings), labels)


def build_head(
    kind: Head, classes: int, embedding: int, *, margin: float | None = None, scale: float | None = None
) -> nn.Module:
    """A loss with its class weights at random; called with embeddings (N, D) and labels (N,), it gives a scalar.

    - ``softmax``: :class:`Softmax`; no margin, no scale.
    - ``sphereface``: Liu et al., "SphereFace" (CVPR 2017), a multiplicative angular margin, a whole number, by default
      4; without the paper's annealing. The scale is by default 1, on top of the length of the embedding.
    - ``cosface``: Wang et al., "CosFace" (CVPR 2018), an additive cosine margin, by default 0.35; scale 64.
    - ``arcface``: Deng et al., "ArcFace" (CVPR 2019), an additive angular margin in radians, by default 0.5; scale 64.

    Args:
        kind: which.
        classes: how many identities.
        embedding: length of the embedding.
        margin: another than the default.
        scale: another than the default.

    Raises:
        ValueError: a margin or scale for ``softmax``, or a margin of ``sphereface`` that is no whole number.
    """
    if kind == "softmax":
        if margin is not None or scale is not None:
            raise ValueError("softmax has neither margin nor scale")
        return Softmax(classes, embedding)
    with warnings.catch_warnings():
        # Its progress bars complain in a notebook without widgets, and none of them is drawn here.
        warnings.simplefilter("ignore")
        from pytorch_metric_learning import losses

    if kind == "sphereface":
        if margin is not None and margin != int(margin):
            raise ValueError(f"the margin of sphereface is a whole number, not {margin:g}")
        whole = 4 if margin is None else int(margin)
        return losses.SphereFaceLoss(classes, embedding, margin=whole, scale=scale or 1.0)  # type: ignore[no-any-return]
    if kind == "cosface":
        return losses.CosFaceLoss(  # type: ignore[no-any-return]
            classes, embedding, margin=0.35 if margin is None else margin, scale=scale or 64.0
        )
    # That library takes the angle in degrees.
    angle = math.degrees(0.5 if margin is None else margin)
    return losses.ArcFaceLoss(classes, embedding, margin=angle, scale=scale or 64.0)  # type: ignore[no-any-return]
