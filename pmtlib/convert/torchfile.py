"""Torch checkpoints to the plain convolutions that a frozen network needs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

BATCH_NORM_EPSILON = 1e-5
"""PyTorch's default; a checkpoint does not say which one its network used."""


def fold_batch_norm(
    state: Mapping[str, Tensor], convolution: str, norm: str, epsilon: float = BATCH_NORM_EPSILON
) -> tuple[Tensor, Tensor]:
    """A convolution and the batch normalisation behind it as one convolution with a bias.

    With scale g / sqrt(v + epsilon) per output channel the weight becomes w * scale and the bias
    (b - m) * scale + beta (Ioffe and Szegedy 2015, Algorithm 2, line 11). Computed in float64, returned in float32.

    Args:
        state: a checkpoint's state dict.
        convolution: prefix of the convolution's ``weight`` (out, in, h, w) and optional ``bias`` (out,).
        norm: prefix of the normalisation's ``weight``, ``bias``, ``running_mean`` and ``running_var`` (out,).
        epsilon: the normalisation's epsilon.

    Returns:
        weight (out, in, h, w) and bias (out,).

    Raises:
        KeyError: ``state`` lacks one of these tensors.
    """
    weight = state[f"{convolution}.weight"].double()
    mean = state[f"{norm}.running_mean"].double()
    scale = state[f"{norm}.weight"].double() / torch.sqrt(state[f"{norm}.running_var"].double() + epsilon)
    bias = state[f"{convolution}.bias"].double() if f"{convolution}.bias" in state else torch.zeros_like(mean)
    folded = (bias - mean) * scale + state[f"{norm}.bias"].double()
    return (weight * scale.view(-1, 1, 1, 1)).float(), folded.float()
