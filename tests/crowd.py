"""People for tests, made of random pictures: they show nobody."""

from __future__ import annotations

import torch
from torch import Tensor

from pmtlib.attacks.reconstruction import _Crops
from pmtlib.datasets import People
from pmtlib.images import to_uint8
from tests.small_network import photographs


def smooth(count: int, seed: int = 3) -> Tensor:
    """Random 8-bit pictures without high frequencies, (N, 3, 112, 112) in [0, 1]."""
    coarse = photographs(count, size=14, seed=seed)
    large = torch.nn.functional.interpolate(coarse, (112, 112), mode="bicubic").clamp(0, 1)
    return (large * 255).round() / 255


def crowd(people: int = 4, each: int = 2, seed: int = 3) -> People:
    """``people`` identities with ``each`` pictures, which have nothing in common."""
    return gathered(smooth(people * each, seed), each)


def gathered(images: Tensor, each: int) -> People:
    """Images as people, ``each`` in a row of one."""
    identities = tuple(f"p{index // each}" for index in range(len(images)))
    return People("crowd", _Crops(list(to_uint8(images)), identities), identities)
