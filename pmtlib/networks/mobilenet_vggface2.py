"""MobileNet-v1 trained to identify the people of VGGFace2.

Source: A. V. Savchenko, "Efficient facial representations for age, gender and identity recognition in organizing photo
albums using multi-output ConvNet", PeerJ Computer Science 5:e197 (2019); HSE_FaceRec_tf, Apache-2.0. The weights are
the TensorFlow.js model ``faceres-deep`` of human-models (MIT package), of which the embedding part is used.
Architecture: Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications"
(2017), width 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pmtlib.convert.state import REMEDY, fitted
from pmtlib.convert.tfjs import read_tfjs_weights
from pmtlib.errors import NetworkError
from pmtlib.networks.base import FaceNetwork

INPUT_SIZE = 224
"""Side of the network's own input, in pixels."""

# Output channels and stride of the depthwise-separable blocks 1..13.
_BLOCKS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1),
    (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip
# Mean colour of VGGFace2 in the order blue, green, red.
_MEAN_BGR = (91.4953, 103.8827, 131.0912)


class ConvBlock(nn.Module):
    """Convolution with TensorFlow's "SAME" padding, then ReLU6.

    At stride 2 on an even map TensorFlow pads one row below and one column on the right, none above or on the left.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.pads_behind = stride == 2
        padding = 0 if self.pads_behind else kernel // 2
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups)

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, inputs, H, W), H and W even at stride 2, to (N, outputs, H / stride, W / stride)."""
        if self.pads_behind:
            features = F.pad(features, (0, 1, 0, 1))
        return F.relu6(self.conv(features))


class SeparableBlock(nn.Sequential):
    """A depthwise 3x3 and a pointwise 1x1 :class:`ConvBlock`; the depthwise one has the stride."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.depthwise = ConvBlock(inputs, inputs, 3, stride, groups=inputs)
        self.pointwise = ConvBlock(inputs, outputs, 1)


class MobileNetVGGFace2(FaceNetwork):
    """MobileNet-v1, ending in the mean over its last map.

    Units and the maps they end in: ``conv1`` and ``block1`` 112x112, ``block2`` and ``block3`` 56x56, ``block4`` and
    ``block5`` 28x28, ``block6`` .. ``block11`` 14x14, ``block12`` and ``block13`` 7x7, ``pool``. The first five units
    end at 28x28 with 256 channels. Batch normalisation is folded into the convolutions, as in the published file.

    Shape:
        input: (N, 3, 112, 112), RGB in [0, 1]; the network works on 224x224 (bilinear), blue-green-red,
            255 x - (91.4953, 103.8827, 131.0912).
        output: (N, 1024), not negative.
    """

    mean: Tensor

    def __init__(self) -> None:
        units: dict[str, nn.Module] = {"conv1": ConvBlock(3, 32, 3, stride=2)}
        channels = 32
        for number, (outputs, stride) in enumerate(_BLOCKS, start=1):
            units[f"block{number}"] = SeparableBlock(channels, outputs, stride)
            channels = outputs
        units["pool"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        super().__init__(units)
        self.register_buffer("mean", torch.tensor(_MEAN_BGR).view(1, 3, 1, 1), persistent=False)

    def prepare(self, images: Tensor) -> Tensor:
        """Images (N, 3, 112, 112), RGB in [0, 1], to (N, 3, 224, 224), blue-green-red, less the mean colour."""
        size = (INPUT_SIZE, INPUT_SIZE)
        enlarged = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
        return enlarged.flip(1) * 255.0 - self.mean.to(images)


def convert_mobilenet_vggface2(files: Mapping[str, Path]) -> dict[str, Tensor]:
    """The network's state dict from the TensorFlow.js model.

    Args:
        files: the verified files under ``"faceres-deep-json"`` and ``"faceres-deep-bin"``.

    Raises:
        NetworkError: the files are not those of this network.
    """
    source = files["faceres-deep-bin"]
    weights = read_tfjs_weights(files["faceres-deep-json"], [source])
    state: dict[str, Tensor] = {}

    def weight(name: str) -> Tensor:
        try:
            return torch.tensor(weights[name])
        except KeyError:
            raise NetworkError(f"{files['faceres-deep-json']}: no weight {name}; {REMEDY}") from None

    def put_full(name: str, layer: str) -> None:
        # The scale of the batch normalisation is already in the file's kernel (height, width, in, out).
        state[f"units.{name}.conv.weight"] = weight(f"{layer}/convolution/merged_input").permute(3, 2, 0, 1)
        state[f"units.{name}.conv.bias"] = weight(f"{layer}_bn/batchnorm_1/sub")

    def put_depthwise(name: str, layer: str) -> None:
        kernel = weight(f"{layer}/depthwise_kernel").permute(2, 3, 0, 1)
        scale = weight(f"{layer}_bn/batchnorm_1/mul").view(-1, 1, 1, 1)
        state[f"units.{name}.conv.weight"] = kernel * scale
        state[f"units.{name}.conv.bias"] = weight(f"{layer}_bn/batchnorm_1/sub")

    try:
        put_full("conv1", "conv1")
        for number in range(1, 1 + len(_BLOCKS)):
            put_depthwise(f"block{number}.depthwise", f"conv_dw_{number}")
            put_full(f"block{number}.pointwise", f"conv_pw_{number}")
    except RuntimeError as error:
        raise NetworkError(f"{source}: a kernel without four axes, or a scale that does not fit; {REMEDY}") from error
    return fitted(state, MobileNetVGGFace2, source)
