"""Parts of which the attackers' image networks are made."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two convolutions whose result is added to their input.

    Args:
        width: channels.

    Shape:
        input, output: (N, width, H, W).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        # Without normalisation layers a deep sum of blocks must start near its input.
        self.second.weight.data.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """The input with what the convolutions add to it."""
        return x + self.second(F.leaky_relu(self.first(x), 0.1))  # type: ignore[no-any-return]


def residual_blocks(width: int, count: int) -> nn.Sequential:
    """``count`` residual blocks in a row."""
    return nn.Sequential(*(ResidualBlock(width) for _ in range(count)))


def grown(coarse: Tensor, like: Tensor) -> Tensor:
    """A coarse map (N, 4C, h, w) at twice the resolution (N, C, 2h, 2w), cut to the sides of ``like``."""
    return F.pixel_shuffle(coarse, 2)[..., : like.shape[2], : like.shape[3]]
