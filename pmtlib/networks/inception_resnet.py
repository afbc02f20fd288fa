"""Inception-ResNet-v1, the network of FaceNet's public checkpoints.

Papers: Szegedy, Ioffe, Vanhoucke and Alemi, "Inception-v4, Inception-ResNet and the Impact of Residual Connections on
Learning" (AAAI 2017); Schroff, Kalenichenko and Philbin, "FaceNet" (CVPR 2015). Parameters are named as in
facenet-pytorch (T. Esler), whose checkpoints, made from D. Sandberg's, load as they are.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from pmtlib.networks.base import PublishedNetwork

_SIDE = 160


class Convolution(nn.Module):
    """Convolution without bias, batch normalisation (epsilon 1e-3, TensorFlow's) and ReLU.

    Args:
        inputs: channels in.
        outputs: channels out.
        kernel: its side, or height and width.
        stride: of both axes.
        padding: on every side, or above and below, left and right.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, features: Tensor) -> Tensor:
        """(N, inputs, h, w) to (N, outputs, h', w')."""
        return torch.relu(self.bn(self.conv(features)))


class InceptionResidual(nn.Module):
    """Branches side by side, joined by a 1x1 convolution, scaled and added to the input; then ReLU.

    Args:
        channels: in and out.
        branches: each a unit of its own, to be concatenated.
        joined: channels of the concatenation.
        scale: of what is added.
        linear: no ReLU at the end.

    Shape:
        input and output: (N, channels, h, w).
    """

    def __init__(self, channels: int, branches: list[nn.Module], joined: int, scale: float, *, linear: bool = False):
        super().__init__()
        self.count = len(branches)
        for number, branch in enumerate(branches):
            self.add_module(f"branch{number}", branch)
        self.conv2d = nn.Conv2d(joined, channels, 1)
        self.scale, self.linear = scale, linear

    def forward(self, features: Tensor) -> Tensor:
        """(N, channels, h, w) to the same shape."""
        branches = [self.get_submodule(f"branch{number}")(features) for number in range(self.count)]
        changed = self.conv2d(torch.cat(branches, 1)) * self.scale + features
        return changed if self.linear else torch.relu(changed)


class InceptionReduction(nn.Module):
    """Branches side by side, concatenated; each halves the map.

    Args:
        branches: each a unit of its own.
    """

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.count = len(branches)
        for number, branch in enumerate(branches):
            self.add_module(f"branch{number}", branch)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, h, w) to (N, C', h', w')."""
        return torch.cat([self.get_submodule(f"branch{number}")(features) for number in range(self.count)], 1)


def _block35() -> InceptionResidual:
    return InceptionResidual(
        256,
        [
            Convolution(256, 32, 1),
            nn.Sequential(Convolution(256, 32, 1), Convolution(32, 32, 3, padding=1)),
            nn.Sequential(
                Convolution(256, 32, 1), Convolution(32, 32, 3, padding=1), Convolution(32, 32, 3, padding=1)
            ),
        ],
        96,
        0.17,
    )


def _crossed(channels: int, width: int, length: int, scale: float, *, linear: bool = False) -> InceptionResidual:
    """Two branches of ``width`` channels, one of them with a row and then a column of ``length``."""
    half = length // 2
    return InceptionResidual(
        channels,
        [
            Convolution(channels, width, 1),
            nn.Sequential(
                Convolution(channels, width, 1),
                Convolution(width, width, (1, length), padding=(0, half)),
                Convolution(width, width, (length, 1), padding=(half, 0)),
            ),
        ],
        2 * width,
        scale,
        linear=linear,
    )


class InceptionResNetV1(PublishedNetwork):
    """facenet-pytorch's InceptionResnetV1.

    Units, with their maps for the 160-pixel input: ``conv2d_1a`` 32 x 79 x 79, ``conv2d_2a`` 32 x 77 x 77,
    ``conv2d_2b`` 64 x 77 x 77, ``maxpool_3a`` and ``conv2d_3b`` 38 x 38, ``conv2d_4a`` 192 x 36 x 36, ``conv2d_4b``
    256 x 17 x 17, ``repeat_1_0`` .. ``repeat_1_4`` 17 x 17, ``mixed_6a`` 896 x 8 x 8, ``repeat_2_0`` .. ``repeat_2_9``
    8 x 8, ``mixed_7a`` 1792 x 3 x 3, ``repeat_3_0`` .. ``repeat_3_4`` and ``block8`` 3 x 3, ``head`` the embedding.

    Args:
        bgr: the network takes blue, green, red.
        embedding: its length.

    Shape:
        input: (N, 3, 112, 112), RGB in [0, 1], enlarged bilinearly to 160 x 160; the network works on
            (255 x - 127.5) / 128.
        output: (N, embedding), not of unit length (facenet-pytorch divides by the length; cosines are the same).
    """

    def __init__(self, *, bgr: bool = False, embedding: int = 512) -> None:
        modules = OrderedDict[str, nn.Module](
            conv2d_1a=Convolution(3, 32, 3, 2),
            conv2d_2a=Convolution(32, 32, 3),
            conv2d_2b=Convolution(32, 64, 3, padding=1),
            maxpool_3a=nn.MaxPool2d(3, 2),
            conv2d_3b=Convolution(64, 80, 1),
            conv2d_4a=Convolution(80, 192, 3),
            conv2d_4b=Convolution(192, 256, 3, 2),
            repeat_1=nn.Sequential(*(_block35() for _ in range(5))),
            mixed_6a=InceptionReduction(
                Convolution(256, 384, 3, 2),
                nn.Sequential(
                    Convolution(256, 192, 1), Convolution(192, 192, 3, padding=1), Convolution(192, 256, 3, 2)
                ),
                nn.MaxPool2d(3, 2),
            ),
            repeat_2=nn.Sequential(*(_crossed(896, 128, 7, 0.10) for _ in range(10))),
            mixed_7a=InceptionReduction(
                nn.Sequential(Convolution(896, 256, 1), Convolution(256, 384, 3, 2)),
                nn.Sequential(Convolution(896, 256, 1), Convolution(256, 256, 3, 2)),
                nn.Sequential(
                    Convolution(896, 256, 1), Convolution(256, 256, 3, padding=1), Convolution(256, 256, 3, 2)
                ),
                nn.MaxPool2d(3, 2),
            ),
            repeat_3=nn.Sequential(*(_crossed(1792, 192, 3, 0.20) for _ in range(5))),
            block8=_crossed(1792, 192, 3, 1.0, linear=True),
        )
        units = OrderedDict[str, nn.Module]()
        for name, module in modules.items():
            if name.startswith("repeat_"):
                units.update((f"{name}_{place}", block) for place, block in enumerate(module.children()))
            else:
                units[name] = module
        modules["dropout"] = nn.Dropout(0.6)
        modules["last_linear"] = nn.Linear(1792, embedding, bias=False)
        modules["last_bn"] = nn.BatchNorm1d(embedding, eps=0.001)
        units["head"] = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), modules["dropout"], modules["last_linear"], modules["last_bn"]
        )
        super().__init__(modules, units, scale=128.0, bgr=bgr)

    def prepare(self, images: Tensor) -> Tensor:
        """(N, 3, 112, 112) in [0, 1] to (N, 3, 160, 160), (255 x - 127.5) / 128."""
        larger = functional.interpolate(images, size=(_SIDE, _SIDE), mode="bilinear", align_corners=False)
        return self.normalise(larger)
