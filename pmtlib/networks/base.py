"""What every recognition network of pmtlib is: a preparation and an ordered sequence of named units."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
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
    columns: tuple[int, int] = (0, 112)
    """Columns of the 112-wide crop that the network sees, half open."""

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

    def truncate(self, count: int) -> None:
        """Drop the units behind the first ``count`` and all their parameters; ``forward`` then ends in a map."""
        self.units = nn.Sequential(OrderedDict(list(self.units.named_children())[:count]))

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings (N, D) of images (N, 3, 112, 112) in [0, 1].

        Processors embed with channels last where nothing is derived, which is faster for most networks in batches and
        changes last bits.
        """
        prepared = self.prepare(images)
        if prepared.device.type == "cpu" and not torch.is_grad_enabled():
            prepared = prepared.contiguous(memory_format=torch.channels_last)
        return self.units(prepared)  # type: ignore[no-any-return]


class PublishedNetwork(FaceNetwork):
    """A network whose parameters keep the names of the code that its checkpoints come from.

    A checkpoint of that code loads as it is, and what is trained here loads there. ``units`` is a second view of the
    same modules, in the order in which data pass through them, and adds nothing to the state dict.

    Args:
        modules: what is saved, under the publisher's names.
        units: the units by name, made of those modules.
        scale: the images, in 0..255, minus 127.5, are divided by it.
        bgr: the network takes its channels in the order blue, green, red.
        columns: columns of the 112-wide crop that the network sees, half open.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        units: Mapping[str, nn.Module],
        *,
        scale: float,
        bgr: bool,
        columns: tuple[int, int] = (0, 112),
    ) -> None:
        nn.Module.__init__(self)
        for name, module in modules.items():
            self.add_module(name, module)
        # Past the registration of nn.Module, which would save the same parameters under a second name.
        self.__dict__["units"] = nn.Sequential(OrderedDict(units))
        self.scale, self.bgr, self.columns = scale, bgr, columns

    def prepare(self, images: Tensor) -> Tensor:
        """(255 x - 127.5) / ``scale`` of the columns of (N, 3, 112, 112) in [0, 1], channels reversed for BGR.

        Columns outside have no influence, hence a zero gradient.
        """
        left, right = self.columns
        return self.normalise(images[..., left:right])

    def normalise(self, images: Tensor) -> Tensor:
        """(255 x - 127.5) / ``scale`` of images (N, 3, h, w) in [0, 1], channels reversed for BGR."""
        return (255.0 * (images.flip(1) if self.bgr else images) - 127.5) / self.scale

    def train(self, mode: bool = True) -> PublishedNetwork:
        """Also of the modules that only the units hold, such as a dropout that the publisher calls as a function."""
        super().train(mode)
        self.units.train(mode)
        return self

    def truncate(self, count: int) -> None:
        """As in the base class. What is left is saved under the names of the units, no longer the publisher's."""
        kept = list(self.units.named_children())[:count]
        del self.__dict__["units"]
        for name in list(self._modules):
            delattr(self, name)
        self.units = nn.Sequential(OrderedDict(kept))
