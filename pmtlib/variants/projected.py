r"""Projected deep PMT: of the last shared map each image matches random directions of its own, and no others.

.. math::
    f_i(x) = R_x E_c^{(i)}(x), \quad (R_x)_{dc} \sim \mathcal{N}(0, 1/D)

with C channels mixed to D directions at every place of the map. The directions are drawn from the image's seed, a hash
of its pixels: who has not the photograph does not know them, and uploads of two photographs never match the same ones.
The fewer there are, the more of the map is free, for a translator and for the service's hidden layers alike.
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from pmtlib.errors import ConfigError
from pmtlib.randomness import derived_generator
from pmtlib.transform import Run
from pmtlib.variants.deep import DeepConfig


class ProjectedConfig(DeepConfig):
    """Choices of projected deep PMT, beside those of :class:`~pmtlib.variants.deep.DeepConfig`.

    Attributes:
        variant: which variant this configuration is for.
        directions: D, numbers that are matched at each place of the last map, for each authorised network.
    """

    variant: Literal["projected"] = "projected"  # type: ignore[assignment]
    directions: int = Field(16, ge=1, le=65_536)

    @property
    def run(self) -> type[Run]:
        """The run that compares projections."""
        return ProjectedRun


class ProjectedRun(Run):
    """A batch of projected deep PMT.

    Raises:
        ConfigError: a network's last shared output is no map.
    """

    OF_IMAGES: ClassVar[tuple[str, ...]] = ("directions",)

    config: ProjectedConfig

    @cached_property
    def directions(self) -> dict[int, Tensor]:
        """For each network by its number the directions of every image, (N, D, C)."""
        return {}

    def _drawn(self, model: int, channels: int) -> Tensor:
        count = self.config.directions
        rows = [
            torch.randn((count, channels), generator=derived_generator(f"projection:{model}:{seed}"))
            for seed in self.seeds
        ]
        drawn = torch.stack(rows) if rows else torch.empty(0, count, channels)
        return drawn.div_(count**0.5)

    def _aggregate(self, outputs: list[Tensor], model: int) -> list[Tensor]:
        parts, last = super()._aggregate(outputs, model), outputs[-1]
        if last.ndim != 4:
            raise ConfigError(f"the last shared output is no map but {tuple(last.shape[1:])}; choose an earlier cut")
        if model not in self.directions:
            self.directions[model] = self._drawn(model, last.shape[1]).to(self.original)
        parts[-1] = (self.directions[model] @ last.to(self.original.dtype).flatten(2)).flatten(1)
        return parts
