"""IR and IR-SE networks: the improved residual units of ArcFace, with and without squeeze-and-excitation.

Papers: Deng, Guo, Xue and Zafeiriou, "ArcFace: Additive Angular Margin Loss for Deep Face Recognition" (CVPR 2019),
Section 3.2; He et al., "Deep Residual Learning" (CVPR 2016); Hu, Shen and Sun, "Squeeze-and-Excitation Networks" (CVPR
2018). Parameters are named as in face.evoLVe and InsightFace_Pytorch (TreB1eN), whose checkpoints, and RobFR's, load as
they are.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn

from pmtlib.networks.base import PublishedNetwork

Depth = Literal[50, 100, 152]

BLOCKS: dict[Depth, tuple[int, int, int, int]] = {50: (3, 4, 14, 3), 100: (3, 13, 30, 3), 152: (3, 8, 36, 3)}
"""Residual blocks of the four stages, which have 64, 128, 256 and 512 channels."""
_CHANNELS = (64, 128, 256, 512)
_REDUCTION = 16


class SqueezeExcitation(nn.Module):
    """Channel weights in (0, 1) from the mean of each channel, by two 1x1 convolutions without bias.

    Args:
        channels: of the map.
        reduction: the first convolution has this many times fewer.

    Shape:
        input and output: (N, channels, h, w).
    """

    def __init__(self, channels: int, reduction: int = _REDUCTION) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """(N, channels, h, w) to the same shape."""
        squeezed = torch.relu(self.fc1(features.mean((2, 3), keepdim=True)))
        return features * torch.sigmoid(self.fc2(squeezed))


class IRBlock(nn.Module):
    """BN, 3x3, PReLU, 3x3 with the stride, BN, and the input added: the improved residual unit.

    Args:
        inputs: channels in.
        outputs: channels out.
        stride: of the second convolution and of the shortcut.
        excitation: squeeze-and-excitation at the end of the residual branch.

    Shape:
        input: (N, inputs, h, w).
        output: (N, outputs, h / stride, w / stride).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, *, excitation: bool) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module
        if inputs == outputs:
            # Every stride-th row and column, as it is.
            self.shortcut_layer = nn.MaxPool2d(1, stride)
        else:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        branch = [
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        self.res_layer = nn.Sequential(*branch, *([SqueezeExcitation(outputs)] if excitation else []))

    def forward(self, features: Tensor) -> Tensor:
        """(N, inputs, h, w) to (N, outputs, h / stride, w / stride)."""
        changed: Tensor = self.res_layer(features)
        shortcut: Tensor = self.shortcut_layer(features)
        return changed + shortcut


class IRNet(PublishedNetwork):
    """IR-50, IR-100, IR-152 and their squeeze-and-excitation forms.

    Units: ``input_layer`` 64 x 112 x 112; ``body0`` .. one a residual block, of which the first of each stage halves
    the map (56, 28, 14, 7); ``output_layer`` the embedding. The first five units of IR-50 end at 128 x 28 x 28.

    Args:
        depth: 50, 100 or 152.
        excitation: with squeeze-and-excitation (IR-SE).
        scale: the images, in 0..255, minus 127.5, are divided by it; 127.5 in face.evoLVe and for RobFR's IR-50, 128
            for RobFR's ArcFace.
        bgr: the network takes blue, green, red.
        embedding: its length.

    Shape:
        input: (N, 3, 112, 112), RGB in [0, 1].
        output: (N, embedding), batch-normalised, not of unit length.
    """

    def __init__(
        self,
        depth: Depth = 50,
        *,
        excitation: bool = False,
        scale: float = 127.5,
        bgr: bool = False,
        embedding: int = 512,
    ) -> None:
        blocks: list[nn.Module] = []
        inputs = _CHANNELS[0]
        for channels, count in zip(_CHANNELS, BLOCKS[depth], strict=True):
            for position in range(count):
                blocks.append(IRBlock(inputs, channels, 2 if position == 0 else 1, excitation=excitation))
                inputs = channels
        stem = nn.Sequential(nn.Conv2d(3, _CHANNELS[0], 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64))
        head = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Dropout(),
            nn.Flatten(),
            nn.Linear(inputs * 49, embedding),
            nn.BatchNorm1d(embedding),
        )
        units = OrderedDict[str, nn.Module](input_layer=stem)
        units.update((f"body{place}", block) for place, block in enumerate(blocks))
        units["output_layer"] = head
        super().__init__(
            {"input_layer": stem, "output_layer": head, "body": nn.Sequential(*blocks)}, units, scale=scale, bgr=bgr
        )


class IResNetBlock(nn.Module):
    """The same unit as :class:`IRBlock`, named as in InsightFace's ``arcface_torch``.

    Args:
        inputs: channels in.
        outputs: channels out.
        stride: of the second convolution and of the shortcut.

    Shape:
        input: (N, inputs, h, w).
        output: (N, outputs, h / stride, w / stride).
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.prelu = nn.PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, features: Tensor) -> Tensor:
        """(N, inputs, h, w) to (N, outputs, h / stride, w / stride)."""
        changed: Tensor = self.prelu(self.bn2(self.conv1(self.bn1(features))))
        changed = self.bn3(self.conv2(changed))
        return changed + (features if self.downsample is None else self.downsample(features))


IRESNET_BLOCKS = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 14, 3),
    100: (3, 13, 30, 3),
    200: (6, 26, 60, 6),
}
"""Residual blocks of the four stages of each ``arcface_torch`` backbone; 10 is not published there, and small."""


class IResNet(PublishedNetwork):
    """InsightFace's ``arcface_torch`` backbones r18, r34, r50, r100 and r200, and a smaller one, r10.

    Units: ``stem`` 64 x 112 x 112; ``layer1_0`` .. one a residual block, the first of each stage halves the map;
    ``head`` the embedding. The first five units of r50 end at 128 x 28 x 28, those of r18 too (``layer2_1``).

    Args:
        depth: a key of :data:`IRESNET_BLOCKS`.
        bgr: the network takes blue, green, red.
        embedding: its length.

    Shape:
        input: (N, 3, 112, 112), RGB in [0, 1]; the network works on (x - 0.5) / 0.5.
        output: (N, embedding), batch-normalised, not of unit length.
    """

    def __init__(self, depth: int = 50, *, bgr: bool = False, embedding: int = 512) -> None:
        modules = OrderedDict[str, nn.Module](
            conv1=nn.Conv2d(3, 64, 3, 1, 1, bias=False), bn1=nn.BatchNorm2d(64), prelu=nn.PReLU(64)
        )
        units = OrderedDict[str, nn.Module](stem=nn.Sequential(*modules.values()))
        inputs = _CHANNELS[0]
        for number, (channels, count) in enumerate(zip(_CHANNELS, IRESNET_BLOCKS[depth], strict=True), start=1):
            blocks: list[nn.Module] = []
            for position in range(count):
                blocks.append(IResNetBlock(inputs, channels, 2 if position == 0 else 1))
                inputs = channels
                units[f"layer{number}_{position}"] = blocks[-1]
            modules[f"layer{number}"] = nn.Sequential(*blocks)
        modules["bn2"] = nn.BatchNorm2d(inputs)
        modules["dropout"] = nn.Dropout(0.0)
        modules["fc"] = nn.Linear(inputs * 49, embedding)
        modules["features"] = nn.BatchNorm1d(embedding)
        units["head"] = nn.Sequential(
            modules["bn2"], nn.Flatten(), modules["dropout"], modules["fc"], modules["features"]
        )
        super().__init__(modules, units, scale=127.5, bgr=bgr)
