"""ResNet-50 for faces as face.evoLVe and RobFR have it.

Paper: He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition" (CVPR 2016); the embedding is a linear
layer over the whole last map, between two batch normalisations (option E of Section 3.2 of the ArcFace paper).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn

from pmtlib.networks.base import PublishedNetwork

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Residual blocks of the four stages."""
_EXPANSION = 4


class ResidualBottleneck(nn.Module):
    """1x1, 3x3 with the stride, 1x1 to four times the width; the input is added, then ReLU.

    Args:
        inputs: channels in.
        width: channels inside; four times as many come out.
        stride: of the 3x3 convolution and of the shortcut.

    Shape:
        input: (N, inputs, h, w).
        output: (N, 4 width, h / stride, w / stride).
    """

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * _EXPANSION
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, features: Tensor) -> Tensor:
        """(N, inputs, h, w) to (N, 4 width, h / stride, w / stride)."""
        changed: Tensor = torch.relu(self.bn1(self.conv1(features)))
        changed = torch.relu(self.bn2(self.conv2(changed)))
        changed = self.bn3(self.conv3(changed))
        return torch.relu(changed + (features if self.downsample is None else self.downsample(features)))


class ResNet(PublishedNetwork):
    """ResNet-50, -101 or -152 with a 512-dimensional embedding.

    Units: ``conv1``, ``bn1`` and ``relu`` 64 x 56 x 56, ``maxpool`` 64 x 28 x 28, ``layer1`` 256 x 28 x 28, ``layer2``
    512 x 14 x 14, ``layer3`` 1024 x 7 x 7, ``layer4`` 2048 x 4 x 4, ``head`` the embedding. The first five are the
    children of the published module, so the fifth is a whole stage.

    Args:
        depth: 50, 101 or 152.
        scale: the images, in 0..255, minus 127.5, are divided by it; 128 in RobFR, 127.5 in face.evoLVe.
        bgr: the network takes blue, green, red; so RobFR's of MS1M.
        embedding: its length.

    Shape:
        input: (N, 3, 112, 112), RGB in [0, 1].
        output: (N, embedding), batch-normalised, not of unit length.
    """

    def __init__(
        self, depth: Literal[50, 101, 152] = 50, *, scale: float = 128.0, bgr: bool = True, embedding: int = 512
    ) -> None:
        modules = OrderedDict[str, nn.Module](
            conv1=nn.Conv2d(3, 64, 7, 2, 3, bias=False),
            bn1=nn.BatchNorm2d(64),
            relu=nn.ReLU(),
            maxpool=nn.MaxPool2d(3, 2, 1),
        )
        inputs = 64
        for number, count in enumerate(BLOCKS[depth], start=1):
            width = 64 * 2 ** (number - 1)
            blocks: list[nn.Module] = []
            for position in range(count):
                blocks.append(ResidualBottleneck(inputs, width, 2 if number > 1 and position == 0 else 1))
                inputs = width * _EXPANSION
            modules[f"layer{number}"] = nn.Sequential(*blocks)
        units = OrderedDict(modules)
        head = OrderedDict[str, nn.Module](
            bn_o1=nn.BatchNorm2d(inputs), fc=nn.Linear(inputs * 16, embedding), bn_o2=nn.BatchNorm1d(embedding)
        )
        units["head"] = nn.Sequential(head["bn_o1"], nn.Dropout(), nn.Flatten(), head["fc"], head["bn_o2"])
        super().__init__({**modules, **head}, units, scale=scale, bgr=bgr)
