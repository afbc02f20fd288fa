"""EdgeFace: EdgeNeXt (convolution and cross-covariance attention) for 112x112 faces.

Paper: George, Ecabert, Otroshi Shahreza, Kotwal and Marcel, "EdgeFace: Efficient Face Recognition Model for Edge
Devices", IEEE Transactions on Biometrics, Behavior, and Identity Science 6(2) (2024). Architecture: Maaz et al.,
"EdgeNeXt: Efficiently Amalgamated CNN-Transformer Architecture for Mobile Vision Applications" (ECCVW 2022), taken
from timm. Weights: Idiap's quantised checkpoints ``edgeface_xs_q`` and ``edgeface_xxs_q``; code BSD-3-Clause, weights
for non-commercial research.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import timm
from torch import Tensor, nn

from pmtlib.convert.state import fitted
from pmtlib.convert.torch_quantised import read_quantised_state
from pmtlib.networks.base import FaceNetwork

Variant = Literal["xs", "xxs"]

_TIMM_NAMES: dict[Variant, str] = {"xs": "edgenext_x_small", "xxs": "edgenext_xx_small"}


def _named_parts(variant: Variant) -> dict[str, tuple[str, nn.Module]]:
    """Unit name -> (timm's name of the part, the part), input first."""
    # An EdgeNeXt applies nothing but these parts: ``norm_pre`` is an identity, and stage 1 has no downsampling.
    model: Any = timm.create_model(_TIMM_NAMES[variant], pretrained=False)
    model.reset_classifier(512)
    parts: dict[str, tuple[str, nn.Module]] = {
        "stem_conv": ("stem.0", model.stem[0]),
        "stem_norm": ("stem.1", model.stem[1]),
    }
    for index, stage in enumerate(model.stages):
        if isinstance(stage.downsample, nn.Sequential):
            for part, name in enumerate(("norm", "down")):
                parts[f"stage{index + 1}_{name}"] = (f"stages.{index}.downsample.{part}", stage.downsample[part])
        for block, module in enumerate(stage.blocks):
            parts[f"stage{index + 1}_block{block + 1}"] = (f"stages.{index}.blocks.{block}", module)
    parts["head"] = ("head", model.head)
    return parts


class EdgeFace(FaceNetwork):
    """EdgeFace-XS or -XXS.

    Units and the maps they end in: ``stem_conv`` and ``stem_norm`` 28x28 (4x4 patches), ``stage1_block1`` .. 28x28,
    ``stage2_norm`` 28x28, ``stage2_down`` and ``stage2_block1`` .. 14x14, ``stage3_norm`` 14x14, ``stage3_down`` and
    ``stage3_block1`` .. 7x7, ``stage4_norm`` 7x7, ``stage4_down`` and ``stage4_block1`` .. 3x3, ``head``. Stages have
    3, 3, 9, 3 blocks (XS) or 2, 2, 6, 2 (XXS); the last block of stages 2, 3 and 4 holds attention. The first five
    units end at 28x28: with ``stage1_block3`` and 32 channels (XS), with ``stage2_norm`` and 24 channels (XXS).

    Args:
        variant: ``"xs"`` or ``"xxs"``.

    Shape:
        input: (N, 3, 112, 112), RGB in [0, 1]; the network works on (x - 0.5) / 0.5.
        output: (N, 512).
    """

    def __init__(self, variant: Variant) -> None:
        super().__init__({name: module for name, (_, module) in _named_parts(variant).items()})
        self.variant = variant

    def prepare(self, images: Tensor) -> Tensor:
        """Images (N, 3, 112, 112) in [0, 1] to [-1, 1]."""
        return (images - 0.5) / 0.5


def edgeface_xs() -> EdgeFace:
    """EdgeFace-XS, weights not loaded."""
    return EdgeFace("xs")


def edgeface_xxs() -> EdgeFace:
    """EdgeFace-XXS, weights not loaded."""
    return EdgeFace("xxs")


def convert_edgeface_xs(files: Mapping[str, Path]) -> dict[str, Tensor]:
    """EdgeFace-XS's state dict from ``files["edgeface-xs-pt"]``, int8 linear layers dequantised.

    Raises:
        NetworkError: the file is not this network's.
    """
    return _convert("xs", files["edgeface-xs-pt"])


def convert_edgeface_xxs(files: Mapping[str, Path]) -> dict[str, Tensor]:
    """EdgeFace-XXS's state dict from ``files["edgeface-xxs-pt"]``, int8 linear layers dequantised.

    Raises:
        NetworkError: the file is not this network's.
    """
    return _convert("xxs", files["edgeface-xxs-pt"])


def _convert(variant: Variant, source: Path) -> dict[str, Tensor]:
    stored = read_quantised_state(source)
    unit_of = {f"model.{theirs}": f"units.{ours}" for ours, (theirs, _) in _named_parts(variant).items()}
    state: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        part = next((part for part in unit_of if name.startswith(f"{part}.")), None)
        # A name that belongs to no unit is kept as it is, so that the check below names it.
        state[name if part is None else unit_of[part] + name[len(part) :]] = tensor
    return fitted(state, lambda: EdgeFace(variant), source)
