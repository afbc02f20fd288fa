"""dlib's face recognition network: a ResNet with 29 convolutions on 150x150 chips.

Source: Davis E. King, "High Quality Face Recognition with Deep Metric Learning" (dlib blog, 2017) and dlib's
``dnn_face_recognition_ex.cpp``; ``dlib_face_recognition_resnet_model_v1.dat``, CC0. The residual block is that of
He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition" (CVPR 2016), with dlib's parameter-free
shortcut.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from pmtlib.convert.dlib import DlibLayer, read_dlib_layers
from pmtlib.convert.state import REMEDY, fitted
from pmtlib.errors import NetworkError
from pmtlib.networks.base import FaceNetwork

CROP_SIZE = 112
"""Side of the aligned crop, in pixels."""
CHIP_SIZE = 150
"""Side of dlib's face chip, in pixels."""
CHIP_PADDING = 0.25
"""Margin around the mean face's box on each side, as a fraction of the box."""

# Left eye, right eye, nose tip, left and right corner of the mouth (as seen in the picture), x and y in pixels of the
# aligned crop: the ArcFace template.
_CROP_LANDMARKS = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)
# The same five points of dlib's mean face (``mean_face_shape_x`` and ``_y`` of dlib's ``interpolation.h``, landmarks
# 36-41, 42-47, 30, 48 and 54; each eye is the mean of its six points), in units of the face's box.
_MEAN_FACE_LANDMARKS = (
    (0.2255, 0.2160),
    (0.7548, 0.2160),
    (0.490127, 0.515625),
    (0.254149, 0.780233),
    (0.726104, 0.780233),
)
# Mean colour that dlib's ``input_rgb_image_sized`` takes off, and the divisor after it.
_MEAN_RGB = (122.782, 117.001, 104.298)
DIVISOR = 256.0

# (blocks, channels, whether the first block halves the map), in the order of the network.
_STAGES = ((3, 32, False), (4, 64, True), (3, 128, True), (3, 256, True), (1, 256, True))


def chip_to_crop() -> NDArray[np.float64]:
    """The similarity (2, 3) that takes pixel positions (x, y, 1) of the chip to positions in the aligned crop.

    Least squares over five landmarks (Umeyama, "Least-squares estimation of transformation parameters between two
    point patterns", IEEE PAMI 13(4), 1991), from the chip's mean face to the crop's template.
    """
    mean_face = np.asarray(_MEAN_FACE_LANDMARKS)
    source = (mean_face + CHIP_PADDING) / (1.0 + 2.0 * CHIP_PADDING) * CHIP_SIZE
    target = np.asarray(_CROP_LANDMARKS)
    # A similarity of the plane is z -> a z + b with complex a and b, so that least squares is a single ratio.
    source_z, target_z = (points[:, 0] + 1j * points[:, 1] for points in (source, target))
    centred_source, centred_target = source_z - source_z.mean(), target_z - target_z.mean()
    a = np.vdot(centred_source, centred_target) / np.vdot(centred_source, centred_source).real
    b = target_z.mean() - a * source_z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def _sampling_grid() -> NDArray[np.float32]:
    """Where each chip pixel lies in the crop (150, 150, 2), in ``grid_sample``'s coordinates (corners aligned)."""
    rows, columns = np.mgrid[0:CHIP_SIZE, 0:CHIP_SIZE].astype(np.float64)
    positions = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ chip_to_crop().T
    grid: NDArray[np.float32] = (2.0 * positions / (CROP_SIZE - 1) - 1.0).astype(np.float32)
    return grid


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut without parameters.

    A block that halves the map starts with a stride of 2 and no padding, and its shortcut is a 2x2 mean. Where the two
    differ in size or channels, the smaller is filled up with zeros (dlib's ``add_prev``).
    """

    def __init__(self, inputs: int, outputs: int, halves: bool) -> None:
        super().__init__()
        self.halves = halves
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=2 if halves else 1, padding=0 if halves else 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, C, H, W) to (N, outputs, H, W), or to half the height and width (rounded down)."""
        residual = self.conv2(F.relu(self.conv1(features)))
        shortcut = F.avg_pool2d(features, 2) if self.halves else features
        if residual.shape != shortcut.shape:
            size = [max(sizes) for sizes in zip(residual.shape[1:], shortcut.shape[1:], strict=True)]
            residual, shortcut = _fill_up(residual, size), _fill_up(shortcut, size)
        return F.relu(residual + shortcut)


def _fill_up(features: Tensor, size: list[int]) -> Tensor:
    channels, height, width = (want - have for want, have in zip(size, features.shape[1:], strict=True))
    return F.pad(features, (0, width, 0, height, 0, channels))


class Head(nn.Sequential):
    """Mean over the map, then one fully connected layer without bias."""

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(channels, embedding, bias=False)


class DlibResNet29(FaceNetwork):
    """dlib's ResNet-29, behind the warp from the aligned crop to dlib's chip.

    Units and the maps they end in: ``conv1`` 72x72 (7x7, stride 2), ``pool1`` 35x35, ``block1`` .. ``block3`` 35x35,
    ``block4`` .. ``block7`` 17x17, ``block8`` .. ``block10`` 8x8, ``block11`` .. ``block13`` 4x4, ``block14`` 2x2,
    ``head``. No unit ends at 28x28; the first five end at 35x35 with 32 channels, a quarter of the 150x150 chip as
    28x28 is a quarter of a 112x112 crop. dlib's affine layers (batch normalisation at test time) are folded into the
    convolutions before them.

    Shape:
        input: (N, 3, 112, 112), RGB in [0, 1], aligned to the ArcFace template; the network works on a 150x150 chip,
            (255 x - (122.782, 117.001, 104.298)) / 256.
        output: (N, 128). dlib compares them by distance; cosines sit high, so use a calibrated threshold.
    """

    grid: Tensor
    mean: Tensor

    def __init__(self) -> None:
        units: dict[str, nn.Module] = {
            "conv1": nn.Sequential(nn.Conv2d(3, 32, 7, stride=2), nn.ReLU()),
            "pool1": nn.MaxPool2d(3, 2),
        }
        channels, number = 32, 0
        for blocks, outputs, halves in _STAGES:
            for index in range(blocks):
                number += 1
                units[f"block{number}"] = ResidualBlock(channels, outputs, halves and index == 0)
                channels = outputs
        units["head"] = Head(channels, 128)
        super().__init__(units)
        self.register_buffer("grid", torch.from_numpy(_sampling_grid()), persistent=False)
        self.register_buffer("mean", torch.tensor(_MEAN_RGB).view(1, 3, 1, 1), persistent=False)

    def prepare(self, images: Tensor) -> Tensor:
        """Crops (N, 3, 112, 112) in [0, 1] to normalised chips (N, 3, 150, 150).

        Bilinear; the chip reaches a little below the crop, where the crop's border is repeated.
        """
        grid = self.grid.to(images).expand(len(images), -1, -1, -1)
        chips = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=True)
        return (chips * 255.0 - self.mean.to(images)) / DIVISOR


def convert_dlib_resnet29(files: Mapping[str, Path]) -> dict[str, Tensor]:
    """The network's state dict from dlib's ``.dat``.

    Args:
        files: the verified file under ``"dlib-resnet29-dat"``.

    Raises:
        NetworkError: the file holds another network.
    """
    source = files["dlib-resnet29-dat"]
    layers = iter(read_dlib_layers(source))
    with torch.device("meta"):
        network = DlibResNet29()
    state: dict[str, Tensor] = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            state[f"{name}.weight"], state[f"{name}.bias"] = _convolution(layers, module, name, source)
        elif isinstance(module, nn.Linear):
            layer = _next(layers, "fc", (module.out_features, module.in_features), name, source)
            _require_count(layer, module.weight.numel(), name, source)
            rows = torch.from_numpy(layer.parameters).view(module.in_features, module.out_features)
            state[f"{name}.weight"] = rows.t()
    if next(layers, None) is not None:
        raise NetworkError(f"{source}: holds more layers than dlib's face recognition network; {REMEDY}")
    return fitted(state, DlibResNet29, source)


def _convolution(layers: Iterator[DlibLayer], module: nn.Conv2d, name: str, source: Path) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution and the affine layer behind it: g (w * x + b) + s = (g w) * x + (g b + s)."""
    settings = (
        module.out_channels,
        *module.kernel_size,
        *module.stride,
        *cast("tuple[int, int]", module.padding),
    )
    convolution = _next(layers, "con", settings, name, source)
    affine = _next(layers, "affine", (), name, source)
    outputs = module.out_channels
    _require_count(convolution, module.weight.numel() + outputs, name, source)
    _require_count(affine, 2 * outputs, name, source)
    weights = torch.from_numpy(convolution.parameters).double()
    filters, bias = weights[:-outputs], weights[-outputs:]
    gain, shift = torch.from_numpy(affine.parameters).double().view(2, outputs)
    return filters.view(module.weight.shape) * gain.view(-1, 1, 1, 1), gain * bias + shift


def _next(layers: Iterator[DlibLayer], kind: str, settings: tuple[int, ...], name: str, source: Path) -> DlibLayer:
    layer = next(layers, None)
    if layer is None or layer.kind != kind or layer.settings != settings:
        found = "no layer" if layer is None else f"a layer {layer.kind}{layer.settings}"
        raise NetworkError(f"{source}: {found} where {name} wants {kind}{settings}; {REMEDY}")
    return layer


def _require_count(layer: DlibLayer, count: int, name: str, source: Path) -> None:
    if layer.parameters.size != count:
        raise NetworkError(f"{source}: {layer.parameters.size} parameters where {name} wants {count}; {REMEDY}")
