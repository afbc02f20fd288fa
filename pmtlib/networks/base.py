"""What every recognition network of pmtlib is: a preparation and an ordered sequence of named units."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn


class FaceNetwork(nn.Module):
    """A face-recognition network as ``prepare`` followed by named, ordered ``units``.

    A *unit* is a block of the architecture (a stem, a residual block, a head), so that "the first k units" is a
    cut of the network: the shallow model that a service shares (Section 3.1 of the paper) is ``prepare`` and the
    units before the cut; the server keeps the rest. The last unit ends in the embedding.

    Shape:
        input: (N, 3, 112, 112), RGB, float in [0, 1], aligned to the ArcFace template.
        output: (N, D), the embedding, not normalised.
    """

    units: nn.Sequential

    def __init__(self, units: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.units = nn.Sequential(OrderedDict(units))

    @property
    def unit_names(self) -> tuple[str, ...]:
        """Names of the units, input first."""
        return tuple(name for name, _ in self.units.named_children())

    def prepare(self, images: Tensor) -> Tensor:
        """Images (N, 3, 112, 112) in [0, 1] to this network's own input (size, channel order, normalisation).

        Differentiable, without parameters. Subclasses override it.
        """
        raise NotImplementedError

    def run_units(self, features: Tensor, start: int, stop: int) -> list[Tensor]:
        """Outputs of units ``start + 1`` .. ``stop`` (1-based, inclusive) given the output of unit ``start``."""
        outputs: list[Tensor] = []
        for unit in list(self.units)[start:stop]:
            features = unit(features)
            outputs.append(features)
        return outputs

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings (N, D) of images (N, 3, 112, 112) in [0, 1]."""
        return self.units(self.prepare(images))  # type: ignore[no-any-return]
