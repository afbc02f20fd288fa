"""MobileFaceNet (S. Chen, Y. Liu, X. Gao, Z. Han: MobileFaceNets, CCBR 2018) in three published variants.

Inverted residual bottlenecks (MobileNetV2) with few channels, and a global *depthwise* convolution at the end, which
weighs the positions of the last map instead of averaging them. Every convolution of a frozen network has its batch
normalisation folded in, so all variants are made of convolutions with a bias and an activation.

========== ==================== ============================================================ =========
unit       map at 112x112       what                                                         stride
========== ==================== ============================================================ =========
conv1      64 x 56 x 56         3x3 convolution                                              2
dw_conv1   64 x 56 x 56         3x3 depthwise, in two variants followed by a 1x1 convolution 1
block0     64 x 28 x 28         bottleneck, expansion 2                                      2
block1-4   64 x 28 x 28         residual bottlenecks, expansion 2                            1
block5     128 x 14 x 14        bottleneck, expansion 4                                      2
block6-11  128 x 14 x 14        residual bottlenecks, expansion 2                            1
block12    128 x 7 x 7          bottleneck, expansion 4                                      2
block13-14 128 x 7 x 7          residual bottlenecks, expansion 2                            1
conv2      512 x 7 x 7          1x1 convolution                                              1
linear7    512 x 1 x 1          7x7 global depthwise convolution (GDConv), linear            1
linear1    embedding            1x1 convolution, linear, flattened                           1
========== ==================== ============================================================ =========

The first five units are conv1, dw_conv1, block0, block1 and block2; they end at a 64 x 28 x 28 map. The CASIA variant
sees a 112 x 96 image, so its maps are 7/6 as high as wide: 64 x 28 x 24 after the fifth unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pmtlib import assets
from pmtlib.convert.state import REMEDY, fitted
from pmtlib.convert.tflite import Operator, kernel_to_torch, read_operators
from pmtlib.convert.torchfile import fold_batch_norm
from pmtlib.errors import NetworkError
from pmtlib.networks.base import FaceNetwork
from pmtlib.networks.frozen import on_a_processor, strided_depthwise

Activation = Literal["prelu", "relu", "relu6", "linear"]

STAGES = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))
"""(expansion, channels, blocks, stride of the first block) of each stage: Table 1 of the paper."""


@dataclass(frozen=True)
class Variant:
    """What distinguishes one published MobileFaceNet from another.

    Attributes:
        embedding: length of the embedding.
        activation: non-linearity of the network.
        stem: activations of the stem's depthwise convolution and of the 1x1 convolution behind it, if there is one.
        columns: columns of the 112-wide crop that the network sees, half open.
        mean: subtracted from the image in [0, 1], per channel (R, G, B).
        std: the difference is divided by it, per channel.
        tf_same: TensorFlow's SAME padding, which puts the odd row and column of zeros below and right; otherwise
            half the kernel on every side.
        head_pointwise: a linear 1x1 convolution follows the global depthwise one.
    """

    embedding: int
    activation: Activation
    stem: tuple[Activation, ...]
    columns: tuple[int, int] = (0, 112)
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (128 / 255, 128 / 255, 128 / 255)
    tf_same: bool = False
    head_pointwise: bool = False


SIRIUS = Variant(embedding=192, activation="prelu", stem=("prelu", "linear"), tf_same=True, head_pointwise=True)
"""sirius-ai/MobileFaceNet_TF: separable convolutions of TF-slim, so the stem and the head have a linear 1x1 part."""

CASIA = Variant(embedding=128, activation="prelu", stem=("prelu",), columns=(8, 104))
"""Xiaoccer/MobileFaceNet_Pytorch: the paper's layers on a 112 x 96 image."""

MS1M = Variant(
    embedding=128,
    activation="relu6",
    stem=("relu", "relu"),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)
"""foamliu/MobileFaceNet: ReLU6 in place of PReLU, ImageNet's mean and standard deviation."""


class ConvLayer(nn.Module):
    """A convolution with a bias and an activation.

    Args:
        inputs: channels in.
        outputs: channels out.
        kernel: height and width.
        stride: of both axes.
        groups: equal to ``inputs`` for a depthwise convolution.
        padding: ``"half"`` (half the kernel on every side), ``"tf_same"`` or ``"valid"`` (none).
        activation: after the convolution.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int],
        *,
        stride: int = 1,
        groups: int = 1,
        padding: Literal["half", "tf_same", "valid"] = "half",
        activation: Activation = "linear",
    ) -> None:
        super().__init__()
        # Without a stride SAME pads an odd kernel evenly, which the convolution does by itself.
        self.tf_same = padding == "tf_same" and stride > 1
        half = (0, 0) if self.tf_same or padding == "valid" else (kernel[0] // 2, kernel[1] // 2)
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, half, groups=groups)
        self.activation = _activation(activation, outputs)

    def forward(self, features: Tensor) -> Tensor:
        """(N, inputs, h, w) to (N, outputs, h', w')."""
        if not self.tf_same:
            return self.activation(self.conv(features))  # type: ignore[no-any-return]
        top, bottom = tf_same_zeros(features.shape[2], self.conv.kernel_size[0], self.conv.stride[0])
        left, right = tf_same_zeros(features.shape[3], self.conv.kernel_size[1], self.conv.stride[1])
        if self.conv.groups == 1 or not on_a_processor(features):
            made = self.conv(functional.pad(features, (left, right, top, bottom)))
        else:
            # Odd zeros before the kernel, not behind the map: the same products, and no copy of the map.
            kernel = functional.pad(self.conv.weight, (right - left, 0, bottom - top, 0))
            made = strided_depthwise(features, kernel, self.conv.bias, self.conv.stride, (bottom, right))
        return self.activation(made)  # type: ignore[no-any-return]


def _activation(kind: Activation, channels: int) -> nn.Module:
    match kind:
        case "prelu":
            return nn.PReLU(channels)
        case "relu":
            return nn.ReLU()
        case "relu6":
            return nn.ReLU6()
        case "linear":
            return nn.Identity()


class Bottleneck(nn.Module):
    """1x1 expansion, 3x3 depthwise, linear 1x1 projection; the input is added where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, variant: Variant) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.expand = ConvLayer(inputs, hidden, (1, 1), activation=variant.activation)
        self.depthwise = ConvLayer(
            hidden,
            hidden,
            (3, 3),
            stride=stride,
            groups=hidden,
            padding="tf_same" if variant.tf_same else "half",
            activation=variant.activation,
        )
        self.project = ConvLayer(hidden, outputs, (1, 1))

    def forward(self, features: Tensor) -> Tensor:
        """(N, inputs, h, w) to (N, outputs, h / stride, w / stride)."""
        change: Tensor = self.project(self.depthwise(self.expand(features)))
        return features + change if self.residual else change


class MobileFaceNet(FaceNetwork):
    """MobileFaceNet; see the module's table for the units and their maps.

    Args:
        variant: which of the published networks.

    Shape:
        input: (N, 3, 112, 112), RGB in [0, 1].
        output: (N, ``variant.embedding``), not normalised.
    """

    def __init__(self, variant: Variant) -> None:
        padding: Literal["half", "tf_same"] = "tf_same" if variant.tf_same else "half"
        width = variant.columns[1] - variant.columns[0]
        units: dict[str, nn.Module] = {
            "conv1": ConvLayer(3, 64, (3, 3), stride=2, padding=padding, activation=variant.activation)
        }
        stem = [ConvLayer(64, 64, (3, 3), groups=64, padding=padding, activation=variant.stem[0])]
        stem += [ConvLayer(64, 64, (1, 1), activation=activation) for activation in variant.stem[1:]]
        units["dw_conv1"] = nn.Sequential(*stem)
        channels = 64
        for expansion, outputs, blocks, first_stride in STAGES:
            for position in range(blocks):
                stride = first_stride if position == 0 else 1
                units[f"block{len(units) - 2}"] = Bottleneck(channels, outputs, expansion, stride, variant)
                channels = outputs
        units["conv2"] = ConvLayer(channels, 512, (1, 1), activation=variant.activation)
        head = [ConvLayer(512, 512, (7, width // 16), groups=512, padding="valid")]
        head += [ConvLayer(512, 512, (1, 1))] if variant.head_pointwise else []
        units["linear7"] = nn.Sequential(*head)
        units["linear1"] = nn.Sequential(ConvLayer(512, variant.embedding, (1, 1)), nn.Flatten())
        super().__init__(units)
        self.variant, self.columns = variant, variant.columns

    def prepare(self, images: Tensor) -> Tensor:
        """The variant's columns of (N, 3, 112, 112) in [0, 1], minus its mean, over its standard deviation.

        The columns outside ``columns`` have no influence, hence a zero gradient.
        """
        left, right = self.columns
        mean = images.new_tensor(self.variant.mean).view(3, 1, 1)
        std = images.new_tensor(self.variant.std).view(3, 1, 1)
        return (images[..., left:right] - mean) / std


def convert_mobilefacenet(files: Mapping[str, Path]) -> dict[str, Tensor]:
    """State dict of ``MobileFaceNet(SIRIUS)`` from the asset ``mobilefacenet-tflite``.

    The file holds one convolution after another in execution order, with the batch normalisation folded in. PReLU is
    spelt relu(x) + c (x - |x|) with a constant c per channel, so its slope is 2c.

    Raises:
        NetworkError: the file holds another network.
    """
    path = files["mobilefacenet-tflite"]
    found = list(_tflite_layers(read_operators(path), path))
    with torch.device("meta"):
        expected = _layers(MobileFaceNet(SIRIUS))
    if len(found) != len(expected):
        raise NetworkError(f"{path} holds {len(found)} convolutions, MobileFaceNet has {len(expected)}; {REMEDY}")
    state: dict[str, Tensor] = {}
    for (name, layer), (operator, slope) in zip(expected, found, strict=True):
        kernel, bias = operator.constants.values()
        depthwise = operator.kind == "DEPTHWISE_CONV_2D"
        weight = torch.tensor(kernel_to_torch(kernel, depthwise=depthwise))
        geometry = operator.convolution
        # A 1x1 convolution, and the global one, are the same under either padding.
        padding_differs = layer.conv.kernel_size == (3, 3) and geometry is not None and not geometry.same
        if (
            geometry is None
            or geometry.stride != layer.conv.stride
            or geometry.fused_activation
            or padding_differs
            or weight.shape != layer.conv.weight.shape
            or (slope is not None) != isinstance(layer.activation, nn.PReLU)
        ):
            raise NetworkError(f"{path}: {operator.name} is not MobileFaceNet's {name}; {REMEDY}")
        state[f"{name}.conv.weight"] = weight
        state[f"{name}.conv.bias"] = torch.tensor(bias)
        if slope is not None:
            state[f"{name}.activation.weight"] = slope
    return fitted(state, lambda: MobileFaceNet(SIRIUS), path)


def convert_mobilefacenet_casia(files: Mapping[str, Path]) -> dict[str, Tensor]:
    """State dict of ``MobileFaceNet(CASIA)`` from the asset ``mobilefacenet-casia-ckpt`` (key ``net_state_dict``).

    Raises:
        NetworkError: the file holds another network.
    """
    path = files["mobilefacenet-casia-ckpt"]
    checkpoint = assets.read_torch(path)
    if "net_state_dict" not in checkpoint:
        raise NetworkError(f"{path} has no entry net_state_dict; {REMEDY}")
    sources = {
        "conv1": ("conv1.conv", "conv1.bn", "conv1.prelu"),
        "dw_conv1.0": ("dw_conv1.conv", "dw_conv1.bn", "dw_conv1.prelu"),
        "conv2": ("conv2.conv", "conv2.bn", "conv2.prelu"),
        "linear7.0": ("linear7.conv", "linear7.bn", ""),
        "linear1.0": ("linear1.conv", "linear1.bn", ""),
    }
    for block in range(15):
        prefix = f"blocks.{block}.conv"
        sources[f"block{block}.expand"] = (f"{prefix}.0", f"{prefix}.1", f"{prefix}.2")
        sources[f"block{block}.depthwise"] = (f"{prefix}.3", f"{prefix}.4", f"{prefix}.5")
        sources[f"block{block}.project"] = (f"{prefix}.6", f"{prefix}.7", "")
    state = _fold(checkpoint["net_state_dict"], sources, path)
    return fitted(state, lambda: MobileFaceNet(CASIA), path)


def convert_mobilefacenet_ms1m(files: Mapping[str, Path]) -> dict[str, Tensor]:
    """State dict of ``MobileFaceNet(MS1M)`` from the asset ``mobilefacenet-ms1m-pt``.

    Raises:
        NetworkError: the file holds another network.
    """
    path = files["mobilefacenet-ms1m-pt"]
    sources = {
        "conv1": ("conv1.0", "conv1.1", ""),
        "dw_conv1.0": ("dw_conv.depthwise", "dw_conv.bn1", ""),
        "dw_conv1.1": ("dw_conv.pointwise", "dw_conv.bn2", ""),
        "conv2": ("conv2.0", "conv2.1", ""),
        "linear7.0": ("gdconv.depthwise", "gdconv.bn", ""),
        "linear1.0": ("conv3", "bn", ""),
    }
    for block in range(15):
        prefix = f"features.{block}.conv"
        sources[f"block{block}.expand"] = (f"{prefix}.0.0", f"{prefix}.0.1", "")
        sources[f"block{block}.depthwise"] = (f"{prefix}.1.0", f"{prefix}.1.1", "")
        sources[f"block{block}.project"] = (f"{prefix}.2", f"{prefix}.3", "")
    return fitted(_fold(assets.read_torch(path), sources, path), lambda: MobileFaceNet(MS1M), path)


def _fold(state: Mapping[str, Tensor], sources: Mapping[str, tuple[str, str, str]], path: Path) -> dict[str, Tensor]:
    """Fold (convolution, norm, PReLU or "") of the checkpoint into each of our layers."""
    folded: dict[str, Tensor] = {}
    try:
        for name, (convolution, norm, prelu) in sources.items():
            weight, bias = fold_batch_norm(state, convolution, norm)
            folded[f"units.{name}.conv.weight"], folded[f"units.{name}.conv.bias"] = weight, bias
            if prelu:
                folded[f"units.{name}.activation.weight"] = state[f"{prelu}.weight"].float()
    except KeyError as missing:
        raise NetworkError(f"{path} has no tensor {missing}; {REMEDY}") from missing
    return folded


def _layers(network: MobileFaceNet) -> list[tuple[str, ConvLayer]]:
    """The network's convolutions by name; they are registered in execution order."""
    return [(name, module) for name, module in network.named_modules() if isinstance(module, ConvLayer)]


def _tflite_layers(operators: list[Operator], path: Path) -> Iterator[tuple[Operator, Tensor | None]]:
    """Each convolution of the graph with the slopes of the PReLU behind it, if there is one."""
    prelu = ["RELU", "ABS", "SUB", "MUL", "ADD"]
    for position, operator in enumerate(operators):
        if operator.convolution is None:
            continue
        following = operators[position + 1 : position + 1 + len(prelu)]
        if [other.kind for other in following] != prelu:
            yield operator, None
            continue
        relu, absolute, difference, product, total = following
        wired = (
            relu.inputs == absolute.inputs == (operator.output,)
            and difference.inputs == (operator.output, absolute.output)
            and difference.output in product.inputs
            and set(total.inputs) == {relu.output, product.output}
        )
        if not wired or len(product.constants) != 1:
            raise NetworkError(f"{path}: {total.name} is not a PReLU of {operator.name}; {REMEDY}")
        (constant,) = product.constants.values()
        yield operator, 2.0 * torch.tensor(constant).flatten()


def tf_same_zeros(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis under TensorFlow's SAME padding: ceil(size / stride) outputs."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2
