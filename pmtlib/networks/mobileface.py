"""MobileFaceNet with its batch normalisation, as it is trained, and MobileNet for faces, as RobFR has them.

Papers: S. Chen, Y. Liu, X. Gao and Z. Han, "MobileFaceNets" (CCBR 2018); Howard et al., "MobileNets" (2017). RobFR
(https://github.com/ShawnXYang/Face-Robustness-Benchmark) is where the paper's networks come from; the parameters have
its names, so that its checkpoints load as they are. :mod:`pmtlib.networks.mobilefacenet` holds MobileFaceNets of other
publishers, folded.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from torch import Tensor, nn

from pmtlib.networks.base import PublishedNetwork
from pmtlib.networks.mobilefacenet import STAGES


class ConvBlock(nn.Module):
    """Convolution, batch normalisation and, unless it is linear, PReLU.

    Args:
        inputs: channels in.
        outputs: channels out.
        kernel: height and width.
        stride: of both axes.
        padding: on every side.
        depthwise: one kernel a channel.
        linear: nothing behind the normalisation.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int],
        stride: int = 1,
        padding: int = 0,
        *,
        depthwise: bool = False,
        linear: bool = False,
    ) -> None:
        super().__init__()
        groups = inputs if depthwise else 1
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        if not linear:
            self.prelu = nn.PReLU(outputs)
        self.linear = linear

    def forward(self, features: Tensor) -> Tensor:
        """(N, inputs, h, w) to (N, outputs, h', w')."""
        normalised: Tensor = self.bn(self.conv(features))
        return normalised if self.linear else self.prelu(normalised)


class Bottleneck(nn.Module):
    """1x1 expansion, 3x3 depthwise, linear 1x1 projection; the input is added where the shapes agree.

    Args:
        inputs: channels in.
        outputs: channels out.
        stride: of the depthwise convolution.
        expansion: how many times wider the inside is.

    Shape:
        input: (N, inputs, h, w).
        output: (N, outputs, h / stride, w / stride).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.PReLU(hidden),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.PReLU(hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(N, inputs, h, w) to (N, outputs, h / stride, w / stride)."""
        changed: Tensor = self.conv(features)
        return features + changed if self.residual else changed


class MobileFace(PublishedNetwork):
    """RobFR's MobileFace, and the MobileFaceNet of Xiaoccer's code, which has the same parameters.

    Units: ``conv1`` and ``dw_conv1`` 64 x 56 x 56, ``blocks0`` .. ``blocks4`` 64 x 28 x 28, ``blocks5`` ..
    ``blocks11`` 128 x 14 x 14, ``blocks12`` .. ``blocks14`` 128 x 7 x 7, ``conv2`` 512 x 7 x 7, ``linear7``
    512 x 1 x 1, ``linear1`` the embedding. The first five units end at 64 x 28 x 28.

    Args:
        embedding: its length; 512 in RobFR.
        bgr: the network takes blue, green, red; so RobFR's.
        columns: columns of the 112-wide crop that it sees; (8, 104) for a network of 112 x 96 images.

    Shape:
        input: (N, 3, 112, 112), RGB in [0, 1]; the network works on (255 x - 127.5) / 128.
        output: (N, embedding).
    """

    def __init__(self, *, embedding: int = 512, bgr: bool = True, columns: tuple[int, int] = (0, 112)) -> None:
        modules = OrderedDict[str, nn.Module](
            conv1=ConvBlock(3, 64, (3, 3), 2, 1), dw_conv1=ConvBlock(64, 64, (3, 3), 1, 1, depthwise=True)
        )
        blocks: list[nn.Module] = []
        channels = 64
        for expansion, outputs, count, stride in STAGES:
            for position in range(count):
                blocks.append(Bottleneck(channels, outputs, stride if position == 0 else 1, expansion))
                channels = outputs
        units = OrderedDict(modules)
        units.update((f"blocks{place}", block) for place, block in enumerate(blocks))
        modules["blocks"] = nn.Sequential(*blocks)
        tail = OrderedDict[str, nn.Module](
            conv2=ConvBlock(channels, 512, (1, 1)),
            linear7=ConvBlock(512, 512, (7, (columns[1] - columns[0]) // 16), depthwise=True, linear=True),
            linear1=ConvBlock(512, embedding, (1, 1), linear=True),
        )
        modules.update(tail)
        units.update(tail)
        units["linear1"] = nn.Sequential(tail["linear1"], nn.Flatten())
        super().__init__(modules, units, scale=128.0, bgr=bgr, columns=columns)


_MOBILENET = (
    (32, 64, 1),
    (64, 128, 2),
    (128, 128, 1),
    (128, 256, 2),
    (256, 256, 1),
    (256, 512, 2),
    *((512, 512, 1),) * 5,
    (512, 1024, 2),
    (1024, 1024, 1),
)
"""(channels in, channels out, stride) of each depthwise separable block: Table 1 of the MobileNets paper."""


def _separable(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class MobileNet(PublishedNetwork):
    """RobFR's Mobilenet (stride 2) and Mobilenet-stride1: MobileNet v1 with a global depthwise convolution.

    Units: ``model0`` (a convolution), ``model1`` .. ``model13`` (depthwise separable blocks), ``head`` (the global
    depthwise convolution and a linear layer). The first five end at 256 x 14 x 14 with stride 2, at 256 x 28 x 28
    with stride 1.

    Args:
        stride: of the first convolution.
        bgr: the network takes blue, green, red; so RobFR's.
        embedding: its length.

    Shape:
        input: (N, 3, 112, 112), RGB in [0, 1]; the network works on (255 x - 127.5) / 128.
        output: (N, embedding).
    """

    def __init__(self, stride: Literal[1, 2] = 2, *, bgr: bool = True, embedding: int = 512) -> None:
        stem = nn.Sequential(nn.Conv2d(3, 32, 3, stride, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        model = nn.Sequential(stem, *(_separable(*block) for block in _MOBILENET))
        side = 7 if stride == 1 else 4
        linear7 = nn.Conv2d(1024, 1024, side, groups=1024, bias=False)
        fc = nn.Linear(1024, embedding)
        units: dict[str, nn.Module] = {f"model{place}": block for place, block in enumerate(model)}
        units["head"] = nn.Sequential(linear7, nn.Flatten(), fc)
        super().__init__({"model": model, "linear7": linear7, "fc": fc}, units, scale=128.0, bgr=bgr)
