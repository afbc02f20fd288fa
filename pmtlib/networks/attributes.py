"""Networks that estimate attributes of a person from the aligned crop: what an attacker of Eq. 5 uses.

Each gives, for every attribute, a probability for each of its labels; :mod:`pmtlib.attribute_zoo` has the labels in
order, the weights' origin and their licence. All three were converted from TensorFlow.js graphs.

Savchenko: Efficient facial representations for age, gender and identity recognition in organizing photo albums using
multi-output ConvNet. PeerJ Computer Science 5:e197, 2019 (FaceRes). Arriaga, Valdenegro-Toro, Plöger: Real-time
convolutional neural networks for emotion and gender classification. arXiv 1710.07557 (XCEPTION). GEAR-Predictor:
gender, ethnicity and age, a plain convolutional network in the packages human and human-models.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from pmtlib.convert.state import REMEDY, fitted
from pmtlib.convert.tfjs import read_tfjs_weights
from pmtlib.errors import NetworkError
from pmtlib.networks.mobilenet_vggface2 import MobileNetVGGFace2, convert_mobilenet_vggface2


class AttributeNetwork(nn.Module):
    """A network that estimates attributes: :meth:`prepare`, then :meth:`infer`.

    Shape:
        input: (N, 3, 112, 112), RGB in [0, 1], aligned to the ArcFace template.
        output: attribute to probabilities (N, number of its labels), each row of sum 1.
    """

    def prepare(self, images: Tensor) -> Tensor:
        """Images (N, 3, 112, 112) in [0, 1] to the network's own input (size, channel order, normalisation)."""
        raise NotImplementedError

    def infer(self, prepared: Tensor) -> dict[str, Tensor]:
        """Probabilities of each attribute from the network's own input."""
        raise NotImplementedError

    def years(self, probabilities: Mapping[str, Tensor]) -> Tensor | None:
        """Age (N,) in years from this network's output; None where it tells no age, or only age groups."""
        return None

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Probabilities of each attribute for images (N, 3, 112, 112) in [0, 1]."""
        return self.infer(self.prepare(images))


def _resized(images: Tensor, size: int) -> Tensor:
    """Bilinear, pixel centres at half positions; where it reduces, the triangle is widened, so that none is skipped."""
    return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False, antialias=True)


# --------------------------------------------------------------------------------------------------------------------
# FaceRes: age and gender
# --------------------------------------------------------------------------------------------------------------------

# Mean colour of ImageNet in the order blue, green, red. The identity network of the same trunk takes VGGFace2's.
_MEAN_BGR = (103.939, 116.779, 123.68)


class FaceRes(AttributeNetwork):
    """Age and gender: heads on the trunk of :class:`~pmtlib.networks.mobilenet_vggface2.MobileNetVGGFace2`.

    Shape:
        input: (N, 3, 112, 112), RGB in [0, 1]; the network works on 224x224 (bilinear), blue-green-red,
            255 x - (103.939, 116.779, 123.68).
        output: ``age`` (N, 100), one bin a year from 1; ``gender`` (N, 2), male and female. The published head is one
            sigmoid, the probability of male; its authors call a face male from 0.6 on, the larger of the two here.
    """

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        # The same architecture under the same names, so that one conversion of the trunk serves both.
        self.units = MobileNetVGGFace2().units
        self.features = nn.Linear(1024, 256)
        self.age = nn.Linear(256, 100)
        self.gender = nn.Linear(256, 1)
        self.register_buffer("mean", torch.tensor(_MEAN_BGR).view(1, 3, 1, 1), persistent=False)

    def prepare(self, images: Tensor) -> Tensor:
        """Images (N, 3, 112, 112), RGB in [0, 1], to (N, 3, 224, 224), blue-green-red, less the mean colour."""
        return _resized(images, 224).flip(1) * 255.0 - self.mean.to(images)

    def infer(self, prepared: Tensor) -> dict[str, Tensor]:
        """Probabilities of ``age`` and ``gender`` from (N, 3, 224, 224)."""
        features = F.relu(self.features(self.units(prepared)))
        male = torch.sigmoid(self.gender(features))
        return {"age": F.softmax(self.age(features), dim=1), "gender": torch.cat([male, 1.0 - male], dim=1)}

    def years(self, probabilities: Mapping[str, Tensor]) -> Tensor:
        """The mean of the two likeliest ages, weighted by their probabilities, as the authors take it: (N,) years."""
        likeliest, bins = probabilities["age"].topk(2, dim=1)
        return 1.0 + (likeliest * bins).sum(1) / likeliest.sum(1)


def convert_faceres(files: Mapping[str, Path]) -> dict[str, Tensor]:
    """The state dict of :class:`FaceRes` from the TensorFlow.js model.

    Args:
        files: the verified files under ``"faceres-deep-json"`` and ``"faceres-deep-bin"``.

    Raises:
        NetworkError: the files are not those of this network.
    """
    weights = _Weights(files["faceres-deep-json"], files["faceres-deep-bin"])
    state = convert_mobilenet_vggface2(files)
    for ours, theirs in (("features", "feats"), ("age", "age_pred"), ("gender", "gender_pred")):
        state[f"{ours}.weight"] = weights.dense(f"{theirs}/kernel")
        state[f"{ours}.bias"] = weights[f"{theirs}/bias"]
    return fitted(state, FaceRes, weights.source)


# --------------------------------------------------------------------------------------------------------------------
# GEAR: age group, gender, race
# --------------------------------------------------------------------------------------------------------------------

_GEAR_CHANNELS = (3, 32, 64, 96, 128, 160, 192)
# Hidden width and labels of each head, and the names that the graph has for its two layers.
_GEAR_HEADS = {
    "age": (256, 7, "dense_1", "age_output"),
    "gender": (128, 2, "dense_3", "gender_output"),
    "race": (128, 5, "dense_2", "race_output"),
}


class GearBlock(nn.Module):
    """A 3x3 convolution without padding, ReLU, then batch normalisation (behind the ReLU) and 2x2 maximum pooling."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3)
        self.scale = nn.Parameter(torch.ones(outputs))
        self.offset = nn.Parameter(torch.zeros(outputs))

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, inputs, H, W) to (N, outputs, (H - 2) // 2, (W - 2) // 2)."""
        positive = F.relu(self.conv(features))
        return F.max_pool2d(positive * self.scale.view(-1, 1, 1) + self.offset.view(-1, 1, 1), 2)


class Gear(AttributeNetwork):
    """Age group, gender and race.

    Shape:
        input: (N, 3, 112, 112), RGB in [0, 1]; the network works on 198x198 (bilinear), RGB in [0, 1].
        output: ``age`` (N, 7), groups; ``gender`` (N, 2); ``race`` (N, 5).
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, _GEAR_CHANNELS[1], 3)
        self.blocks = nn.Sequential(
            *(GearBlock(*_GEAR_CHANNELS[place : place + 2]) for place in range(1, len(_GEAR_CHANNELS) - 1))
        )
        self.heads = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(_GEAR_CHANNELS[-1], hidden), nn.ReLU(), nn.Linear(hidden, labels))
                for name, (hidden, labels, _, _) in _GEAR_HEADS.items()
            }
        )

    def prepare(self, images: Tensor) -> Tensor:
        """Images (N, 3, 112, 112) in [0, 1] to (N, 3, 198, 198)."""
        return _resized(images, 198)

    def infer(self, prepared: Tensor) -> dict[str, Tensor]:
        """Probabilities of ``age``, ``gender`` and ``race`` from (N, 3, 198, 198)."""
        features = self.blocks(F.relu(self.stem(prepared))).amax((2, 3))
        return {name: F.softmax(head(features), dim=1) for name, head in self.heads.items()}


def convert_gear(files: Mapping[str, Path]) -> dict[str, Tensor]:
    """The state dict of :class:`Gear` from the TensorFlow.js model.

    Args:
        files: the verified files under ``"gear-json"`` and ``"gear-bin"``.

    Raises:
        NetworkError: the files are not those of this network.
    """
    weights = _Weights(files["gear-json"], files["gear-bin"])
    prefix = "StatefulPartitionedCall/model_1"
    state: dict[str, Tensor] = {}
    for number in range(1, len(_GEAR_CHANNELS)):
        ours = "stem" if number == 1 else f"blocks.{number - 2}.conv"
        state[f"{ours}.weight"] = weights.kernel(f"{prefix}/conv2d_{number}/Conv2D/ReadVariableOp")
        state[f"{ours}.bias"] = weights[f"{prefix}/conv2d_{number}/BiasAdd/ReadVariableOp"]
        if number > 1:
            norm = f"{prefix}/batch_normalization_{number - 1}/FusedBatchNormV3"
            state[f"blocks.{number - 2}.scale"] = weights[f"{norm}/Scaled"]
            state[f"blocks.{number - 2}.offset"] = weights[f"{norm}/Offset"]
    for name, (_, _, hidden, output) in _GEAR_HEADS.items():
        for place, layer in ((0, hidden), (2, output)):
            state[f"heads.{name}.{place}.weight"] = weights.dense(f"{prefix}/{layer}/MatMul/ReadVariableOp")
            state[f"heads.{name}.{place}.bias"] = weights[f"{prefix}/{layer}/BiasAdd/ReadVariableOp"]
    return fitted(state, Gear, weights.source)


# --------------------------------------------------------------------------------------------------------------------
# XCEPTION: emotion
# --------------------------------------------------------------------------------------------------------------------

# Rec. 601, the weights of the grey pictures of FER2013 and of the published demonstration.
_GREY = (0.299, 0.587, 0.114)


class XceptionBlock(nn.Module):
    """Two depthwise-separable convolutions and a maximum pooling, beside a 1x1 convolution of stride 2.

    TensorFlow's "SAME" padding of the 3x3 pooling at stride 2 is one pixel on every side of a map of odd side, and
    lies below and on the right alone of an even one.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=2)
        self.depthwise1 = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False)
        self.pointwise1 = nn.Conv2d(inputs, outputs, 1)
        self.depthwise2 = nn.Conv2d(outputs, outputs, 3, padding=1, groups=outputs, bias=False)
        self.pointwise2 = nn.Conv2d(outputs, outputs, 1)

    def forward(self, features: Tensor, activated: Tensor) -> Tensor:
        """Features (N, inputs, H, W), for the shortcut and for the main path, to (N, outputs, ceil(H / 2), ...)."""
        main = F.relu(self.pointwise1(self.depthwise1(activated)))
        main = self.pointwise2(self.depthwise2(main))
        rows, columns = (side % 2 for side in main.shape[-2:])
        main = F.max_pool2d(F.pad(main, (columns, 1, rows, 1), value=float("-inf")), 3, stride=2)
        summed: Tensor = main + self.shortcut(features)
        return summed


class BigXception(AttributeNetwork):
    """Emotion: ``big_XCEPTION`` of oarriaga/face_classification, trained on FER2013.

    human-models publishes it as ``emotion``. The smaller ``mini_XCEPTION`` of the same paper is another network.

    Shape:
        input: (N, 3, 112, 112), RGB in [0, 1]; the network works on 64x64 (bilinear, antialiased), grey in [-1, 1].
        output: ``emotion`` (N, 7).
    """

    grey: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, stride=2)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.block2 = XceptionBlock(64, 128)
        self.block3 = XceptionBlock(128, 256)
        self.conv3 = nn.Conv2d(256, 7, 3, padding=1)
        self.register_buffer("grey", torch.tensor(_GREY).view(1, 3, 1, 1), persistent=False)

    def prepare(self, images: Tensor) -> Tensor:
        """Images (N, 3, 112, 112), RGB in [0, 1], to (N, 1, 64, 64), grey in [-1, 1]."""
        return 2.0 * _resized((images * self.grey.to(images)).sum(1, keepdim=True), 64) - 1.0

    def infer(self, prepared: Tensor) -> dict[str, Tensor]:
        """Probabilities of ``emotion`` from (N, 1, 64, 64)."""
        features = F.relu(self.conv2(F.relu(self.conv1(prepared))))
        features = self.block2(features, features)
        # Only the main path of the last block is activated; its shortcut takes the sum as it is.
        features = self.block3(features, F.relu(features))
        return {"emotion": F.softmax(self.conv3(features).mean((2, 3)), dim=1)}


def convert_big_xception(files: Mapping[str, Path]) -> dict[str, Tensor]:
    """The state dict of :class:`BigXception` from the TensorFlow.js model, its batch normalisation folded in already.

    Args:
        files: the verified files under ``"emotion-json"`` and ``"emotion-bin"``.

    Raises:
        NetworkError: the files are not those of this network.
    """
    weights = _Weights(files["emotion-json"], files["emotion-bin"])
    prefix = "StatefulPartitionedCall/model_1"
    state = {
        "conv3.weight": weights.kernel("unknown_43"),
        "conv3.bias": weights["unknown_44"],
        # A depthwise kernel is (height, width, in, 1).
        "block2.depthwise1.weight": weights.kernel("unknown_9").transpose(0, 1),
        "block2.depthwise2.weight": weights.kernel("unknown_15").transpose(0, 1),
        "block3.depthwise1.weight": weights.kernel("unknown_26").transpose(0, 1),
        "block3.depthwise2.weight": weights.kernel("unknown_32").transpose(0, 1),
    }
    for ours, theirs in (
        ("conv1", "conv2d_1/Conv2D"),
        ("conv2", "conv2d_2/Conv2D"),
        ("block2.shortcut", "conv2d_3/Conv2D"),
        ("block2.pointwise1", "separable_conv2d_1/separable_conv2d"),
        ("block2.pointwise2", "separable_conv2d_2/separable_conv2d"),
        ("block3.shortcut", "conv2d_4/Conv2D"),
        ("block3.pointwise1", "separable_conv2d_3/separable_conv2d"),
        ("block3.pointwise2", "separable_conv2d_4/separable_conv2d"),
    ):
        state[f"{ours}.weight"] = weights.kernel(f"{prefix}/{theirs}_weights")
        state[f"{ours}.bias"] = weights[f"{prefix}/{theirs}_bn_offset"]
    return fitted(state, BigXception, weights.source)


class _Weights:
    """The weights of a TensorFlow.js graph by name, in torch's order of axes, or one clear error."""

    def __init__(self, topology: Path, source: Path) -> None:
        self.topology = topology
        self.source = source
        self._arrays: dict[str, NDArray[Any]] = read_tfjs_weights(topology, [source])

    def __getitem__(self, name: str) -> Tensor:
        try:
            return torch.tensor(self._arrays[name])
        except KeyError:
            raise NetworkError(f"{self.topology}: no weight {name}; {REMEDY}") from None

    def kernel(self, name: str) -> Tensor:
        """A convolution's kernel, (height, width, in, out) to (out, in, height, width)."""
        return self._ordered(name, (3, 2, 0, 1))

    def dense(self, name: str) -> Tensor:
        """A dense layer's matrix, (in, out) to (out, in)."""
        return self._ordered(name, (1, 0))

    def _ordered(self, name: str, axes: tuple[int, ...]) -> Tensor:
        tensor = self[name]
        if tensor.ndim != len(axes):
            raise NetworkError(f"{self.source}: {name} has {tensor.ndim} axes, not {len(axes)}; {REMEDY}")
        return tensor.permute(axes)
