"""Pooled deep PMT: what is compared, once more in a loop."""

from __future__ import annotations

import pytest
import torch

from pmtlib.shallow import ShallowModel
from pmtlib.transform import protect
from pmtlib.variants.deep import DeepConfig
from pmtlib.variants.pooled import PooledConfig
from tests.small_network import SmallNetwork


def test_the_error_is_that_of_the_averages_over_windows(images: torch.Tensor) -> None:
    shallow = ShallowModel(SmallNetwork(), 2)
    result = protect(images, [shallow], PooledConfig(steps=3, window=4))
    own, goal = (shallow.feature(one) for one in (result.images, images))
    for row in range(len(images)):
        wrong, size = 0.0, 0.0
        for channel in range(own.shape[1]):
            for top in range(0, own.shape[2] - 3, 4):
                for left in range(0, own.shape[3] - 3, 4):
                    a = own[row, channel, top : top + 4, left : left + 4].mean().item()
                    b = goal[row, channel, top : top + 4, left : left + 4].mean().item()
                    wrong, size = wrong + (a - b) ** 2, size + b**2
        assert result.error[row, 0].item() == pytest.approx(wrong / size, rel=1e-4)


def test_a_window_of_one_is_deep_and_a_larger_one_is_not(images: torch.Tensor) -> None:
    shallow = ShallowModel(SmallNetwork(), 2)
    deep = protect(images, [shallow], DeepConfig(steps=3)).images
    assert torch.equal(protect(images, [shallow], PooledConfig(steps=3, window=1)).images, deep)
    assert not torch.equal(protect(images, [shallow], PooledConfig(steps=3, window=100)).images, deep)
