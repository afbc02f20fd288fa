"""Pooled deep PMT: of the last shared map only averages over windows are matched, so that where things lie is free.

.. math::
    f_i(x) = P_w(E_c^{(i)}(x))

with :math:`P_w` the average over windows of w x w; a window as large as the map leaves one number a channel. It lets
less through than :mod:`~pmtlib.variants.deep`, and a service whose hidden layers look at places recognises less of it.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from pmtlib.transform import Run
from pmtlib.variants.deep import DeepConfig


class PooledConfig(DeepConfig):
    """Choices of pooled deep PMT, beside those of :class:`~pmtlib.variants.deep.DeepConfig`.

    Attributes:
        variant: which variant this configuration is for.
        window: w, rows and columns of a window; one larger than the map is as large as the map.
    """

    variant: Literal["pooled"] = "pooled"  # type: ignore[assignment]
    window: int = Field(3, ge=1, le=112)

    @property
    def run(self) -> type[Run]:
        """The run that compares averages."""
        return PooledRun


class PooledRun(Run):
    """A batch of pooled deep PMT."""

    config: PooledConfig

    def _aggregate(self, outputs: list[Tensor], model: int) -> list[Tensor]:
        parts = super()._aggregate(outputs, model)
        last = outputs[-1]
        window = min(self.config.window, *last.shape[2:]) if last.ndim == 4 else 1
        if window > 1:
            parts[-1] = F.avg_pool2d(last, window).flatten(1).to(self.original.dtype)
        return parts
