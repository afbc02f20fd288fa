"""SFace's published network: MobileNet-v1 with PReLU on 112x112 faces.

Paper: Zhong, Deng, Hu, Zhao, Li and Wen, "SFace: Sigmoid-Constrained Hypersphere Loss for Robust Face Recognition",
IEEE Transactions on Image Processing 30 (2021). Weights: OpenCV Zoo (``face_recognition_sface_2021dec``,
block-quantised to int8), Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pmtlib.convert.state import REMEDY, first_line, fitted
from pmtlib.convert.torchfile import fold_batch_norm
from pmtlib.errors import NetworkError
from pmtlib.networks.base import FaceNetwork

# Output channels and stride of the depthwise-separable blocks 2..14 (block 1 is the plain convolution).
_BLOCKS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1),
    (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip
_BLOCK_EPSILON = 1e-3
_HEAD_EPSILON = 2e-5
_HEAD_SIDE = 7
MEAN, DIVISOR = 127.5, 128.0
"""What is taken from a colour of 0 to 255, and what the rest is divided by."""


class ConvBlock(nn.Sequential):
    """Convolution and PReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups)
        self.act = nn.PReLU(outputs)


class SeparableBlock(nn.Sequential):
    """A depthwise 3x3 and a pointwise 1x1 :class:`ConvBlock`; the depthwise one has the stride."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.depthwise = ConvBlock(inputs, inputs, 3, stride, groups=inputs)
        self.pointwise = ConvBlock(inputs, outputs, 1)


class SFace(FaceNetwork):
    """SFace's MobileNet-v1.

    Units and the maps they end in: ``conv1`` 112x112, ``block2`` 112x112, ``block3`` and ``block4`` 56x56, ``block5``
    and ``block6`` 28x28, ``block7`` .. ``block12`` 14x14, ``block13`` and ``block14`` 7x7, ``head``. The first five
    units end at 28x28 with 256 channels. Batch normalisation is folded into the convolutions and into the head's one
    fully connected layer.

    Shape:
        input: (N, 3, 112, 112), RGB in [0, 1]; the network works on (255 x - 127.5) / 128.
        output: (N, 128).
    """

    def __init__(self) -> None:
        units: dict[str, nn.Module] = {"conv1": ConvBlock(3, 32, 3)}
        channels = 32
        for number, (outputs, stride) in enumerate(_BLOCKS, start=2):
            units[f"block{number}"] = SeparableBlock(channels, outputs, stride)
            channels = outputs
        units["head"] = nn.Sequential(nn.Flatten(), nn.Linear(channels * _HEAD_SIDE**2, 128))
        super().__init__(units)

    def prepare(self, images: Tensor) -> Tensor:
        """Images (N, 3, 112, 112) in [0, 1] to about [-1, 1]."""
        return (images * 255.0 - MEAN) / DIVISOR


def convert_sface(files: Mapping[str, Path]) -> dict[str, Tensor]:
    """SFace's state dict from its ONNX file, int8 weights dequantised once.

    Args:
        files: the verified file under ``"sface-onnx"``.

    Raises:
        NetworkError: the file is not SFace's.
    """
    # ONNX takes a moment to import, and a network that has been converted needs none of it.
    from pmtlib.convert.onnx import read_onnx_constants

    source = files["sface-onnx"]
    constants = read_onnx_constants(source)

    def constant(name: str) -> Tensor:
        try:
            return torch.tensor(constants[name])
        except KeyError:
            raise NetworkError(f"{source}: no constant {name}; {REMEDY}") from None

    def norm(layer: str) -> dict[str, Tensor]:
        return {
            "norm.weight": constant(f"{layer}_gamma"),
            "norm.bias": constant(f"{layer}_beta"),
            "norm.running_mean": constant(f"{layer}_moving_mean"),
            "norm.running_var": constant(f"{layer}_moving_var"),
        }

    def block(name: str, layer: str) -> dict[str, Tensor]:
        parts = {"conv.weight": constant(f"{layer}_conv2d_weight_reshaped"), **norm(f"{layer}_batchnorm")}
        weight, bias = fold_batch_norm(parts, "conv", "norm", _BLOCK_EPSILON)
        slopes = constant(f"{layer}_relu_gamma").flatten()
        return {
            f"units.{name}.conv.weight": weight,
            f"units.{name}.conv.bias": bias,
            f"units.{name}.act.weight": slopes,
        }

    try:
        state = block("conv1", "conv_1")
        for number in range(2, 2 + len(_BLOCKS)):
            state |= block(f"block{number}.depthwise", f"conv_{number}_dw")
            state |= block(f"block{number}.pointwise", f"conv_{number}")
        # The head normalises the map, multiplies, and normalises the embedding. The first normalisation is a 1x1
        # depthwise convolution; the second follows a linear layer seen as a convolution that covers the map.
        channels = _BLOCKS[-1][0]
        scale, shift = fold_batch_norm(
            {"conv.weight": torch.ones(channels, 1, 1, 1), **norm("bn1")}, "conv", "norm", _HEAD_EPSILON
        )
        linear = constant("pre_fc1_weight_dequantized").double().view(128, channels, _HEAD_SIDE, _HEAD_SIDE)
        bias = constant("pre_fc1_bias_dequantized").double() + linear.sum((2, 3)) @ shift.double()
        parts = {"conv.weight": linear * scale.double().view(1, -1, 1, 1), "conv.bias": bias, **norm("fc1")}
        weight, bias = fold_batch_norm(parts, "conv", "norm", _HEAD_EPSILON)
        state |= {"units.head.1.weight": weight.flatten(1), "units.head.1.bias": bias}
    except RuntimeError as error:
        raise NetworkError(f"{source}: constants of shapes that do not fit ({first_line(error)}); {REMEDY}") from error
    return fitted(state, SFace, source)
