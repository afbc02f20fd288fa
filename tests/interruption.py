"""A training of six steps that is stopped after the fourth and goes on, as every resumable training must."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn


class Stop(KeyboardInterrupt):
    """Ctrl-C at a chosen step."""


def goes_on_to_the_same_bits(train: Callable[..., nn.Module], folder: Path) -> None:
    """Train in one run and in two; ``train`` takes ``folder``, ``progress`` and ``checkpoint_seconds``."""
    whole, done = train(folder=folder / "whole"), [0]

    def stop(steps: int) -> None:
        done[0] += steps
        if done[0] == 4:
            raise Stop

    with pytest.raises(Stop):
        train(folder=folder / "parts", progress=stop, checkpoint_seconds=0)
    steps: list[int] = []
    resumed = train(folder=folder / "parts", progress=steps.append)
    assert steps == [3, 1, 1, 1]
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
