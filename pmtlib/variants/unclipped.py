"""PMT without limits: Algorithms 1 and 2 have no clipping, so pixels may leave [0, 1].

What comes out is no image that could be sent; its features can be uploaded, which the paper allows as well. It is here
as a control of the clipping of :mod:`pmtlib.transform`, and is no variant of the command line.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from pmtlib.transform import PMTConfig, Run


class UnclippedConfig(PMTConfig):
    """Choices of PMT without limits: those of :class:`~pmtlib.transform.PMTConfig`.

    Attributes:
        variant: which variant this configuration is for.
    """

    variant: Literal["unclipped"] = "unclipped"

    @property
    def run(self) -> type[Run]:
        """The run that limits nothing."""
        return UnclippedRun


class UnclippedRun(Run):
    """A batch of PMT whose pixels may have any value."""

    def _limited(self, images: Tensor) -> Tensor:
        return images
