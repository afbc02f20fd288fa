"""A network of three units that tests can follow by hand. It recognises nobody: never a source of results."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pmtlib.networks.base import FaceNetwork


class SmallNetwork(FaceNetwork):
    """Two convolutions and a head on images of any size from 8x8."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(
            {
                "first": nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.PReLU(4)),
                "second": nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.Tanh()),
                "head": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)),
            }
        )
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.4
        self.requires_grad_(False).eval()

    def prepare(self, images: Tensor) -> Tensor:
        return images * 2 - 1


def photographs(count: int, size: int = 16, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random 8-bit images as a tensor (N, 3, size, size) in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator).to(dtype) / 255
