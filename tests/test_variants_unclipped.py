"""PMT without limits: Algorithm 1 once more in a loop, and nothing else of PMT changed."""

from __future__ import annotations

import torch

from pmtlib.shallow import ShallowModel
from pmtlib.transform import PMTConfig, protect
from pmtlib.variants.unclipped import UnclippedConfig
from tests.small_network import SmallNetwork

PRINTED = {"rule": "raw", "relative": False, "aggregate": False, "augmentation": "none", "kernel": "none"}


def test_as_printed_it_is_algorithm_1_downhill(images: torch.Tensor) -> None:
    shallow = ShallowModel(SmallNetwork(), 2)
    steps, alpha = 3, 0.02
    config = UnclippedConfig(steps=steps, step_size=alpha, noise_start=1.0, **PRINTED)
    found = protect(images, [shallow], config).images
    begun = protect(images, [shallow], config.model_copy(update={"steps": 0})).images
    # Noise of unit deviation, cut off nowhere.
    assert begun.std().item() > 0.9
    assert begun.min() < -1
    for image, start, result in zip(images, begun, found, strict=True):
        goal = shallow.feature(image[None])
        moved = start[None].clone()
        for _ in range(steps):
            moved = moved.detach().requires_grad_()
            (gradient,) = torch.autograd.grad((goal - shallow.feature(moved)).square().sum(), moved)
            moved = moved - alpha * gradient
        torch.testing.assert_close(result, moved[0].detach(), rtol=1e-4, atol=1e-5)


def test_it_is_pmt_where_nothing_leaves_the_range(images: torch.Tensor) -> None:
    """A start without noise and small steps: the limit is never met, however the step is computed."""
    shallow = ShallowModel(SmallNetwork(), 2)
    values = {"steps": 3, "noise_start": 0.05, "step_size": 0.001}
    ours, theirs = (protect(images, [shallow], config(**values)).images for config in (PMTConfig, UnclippedConfig))
    assert 0 < theirs.min() < theirs.max() < 1
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_pixels_leave_the_range_and_those_of_pmt_do_not(images: torch.Tensor) -> None:
    shallow = ShallowModel(SmallNetwork(), 2)
    ours, theirs = (protect(images, [shallow], config(steps=2)).images for config in (PMTConfig, UnclippedConfig))
    assert 0 <= ours.min() <= ours.max() <= 1
    assert theirs.min() < 0
    assert theirs.max() > 1
