"""The shallow model that a service shares, and the server model that it keeps (Section 3.1, Fig. 1)."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pmtlib.errors import ConfigError
from pmtlib.faces import SIZE
from pmtlib.networks import fused, image_wise
from pmtlib.networks.base import FaceNetwork
from pmtlib.networks.frozen import freeze
from pmtlib.networks.fused import FusedUnits

Layout = Literal["contiguous", "channels_last"]
DEFAULT_CUT = 5
"""The paper separates "the first five layers"; at block level that is five units (a 28x28 map at 112x112)."""


def fast_layout(device: torch.device) -> Layout:
    """The layout in which a shallow model is the faster in float32 on a device, as far as that was measured.

    On processors, and on one GPU (``benchmarks/gpu.py``), where the difference is small.
    """
    return "channels_last" if device.type == "cpu" else "contiguous"


def resolve_cut(network: FaceNetwork, cut: int | str) -> int:
    """A cut as a number of units: ``5``, ``"block2"`` (that unit included), ``-1`` (all but the last) or ``"7x7"``.

    The last kind names the size of a map and serves networks of any depth: the deepest unit whose map still has at
    least that many rows, for a photograph of 112x112.

    Raises:
        ConfigError: there is no such unit, or no map as large.
    """
    names = network.unit_names
    if isinstance(cut, str) and cut not in names and (side := re.fullmatch(r"(\d+)x\1", cut)):
        return _deepest(network, int(side[1]), cut)
    if isinstance(cut, str):
        if cut not in names:
            raise ConfigError(f"no unit {cut!r} in {type(network).__name__}; its units are {', '.join(names)}")
        return names.index(cut) + 1
    resolved = len(names) + cut if cut < 0 else cut
    if not 1 <= resolved <= len(names):
        raise ConfigError(f"cut {cut} is outside 1..{len(names)}, the units of {type(network).__name__}")
    return resolved


@torch.no_grad()
def _deepest(network: FaceNetwork, side: int, cut: str) -> int:
    parameter = next(network.parameters())
    blank = torch.zeros((1, 3, 112, 112), device=parameter.device, dtype=parameter.dtype)
    maps = network.run_units(network.prepare(blank), 0, len(network.units) - 1)
    fitting = [place for place, made in enumerate(maps, start=1) if made.ndim == 4 and made.shape[2] >= side]
    if not fitting:
        raise ConfigError(f"no unit of {type(network).__name__} has a map of {cut}; give a smaller one")
    return fitting[-1]


class ShallowModel(nn.Module):
    """The first ``cut`` units of a network: :math:`E_c` of the paper, shared with users like a public key.

    A copy of these units only is held, so nothing behind the cut is computed or given away. It is frozen.

    Args:
        network: the authorised service's network.
        cut: how many units are shared, see :func:`resolve_cut`.
        name: a label for reports.
        layout: how maps lie in memory. With ``channels_last`` the channels of a place stand side by side, and a
            processor convolves faster. Shapes and meaning of everything are the same, its last bits are not: stored
            results were made with ``contiguous`` unless their parameters say otherwise.

    Shape:
        input: (N, 3, 112, 112), RGB in [0, 1].
        output: a list of ``cut`` tensors, the outputs of the units in order; the last is the shallow feature.
    """

    layout: Layout = "contiguous"

    def __init__(
        self,
        network: FaceNetwork,
        cut: int | str = DEFAULT_CUT,
        *,
        name: str = "",
        layout: Layout = "contiguous",
    ) -> None:
        super().__init__()
        self.cut = resolve_cut(network, cut)
        self.name = name or type(network).__name__
        # A copy without the units behind the cut: this model is handed out, and the caller's network stays as it is.
        self.network = copy.deepcopy(network)
        self.network.truncate(self.cut)
        freeze(self)
        self._fused: dict[tuple[torch.device, str], FusedUnits | None] = {}
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]
        self.layout = layout
        if layout == "channels_last":
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __getstate__(self) -> dict[str, Any]:
        """A copy, in this process or another, makes anew what is built for a device."""
        return {**self.__dict__, "_fused": {}}

    def forward(self, images: Tensor) -> list[Tensor]:
        """Outputs of all units up to the cut, for images (N, 3, 112, 112) in [0, 1]."""
        prepared = self.network.prepare(images)
        if self.layout == "channels_last":
            prepared = prepared.contiguous(memory_format=torch.channels_last)
        return self.network.run_units(prepared, 0, self.cut)

    def fused(self, images: Tensor, window: int, precision: str) -> FusedUnits | None:
        """The shared units as one function from images to means over windows, where there is one.

        In bfloat16 it computes on an NVIDIA GPU as autocast does (:mod:`pmtlib.networks.fused`); in float32 on a
        processor, for models with channels last, whose last bits may differ (:mod:`pmtlib.networks.image_wise`).

        Args:
            images: what it is for, (N, 3, H, W); its shape and device are looked at.
            window: of the means.
            precision: ``"bfloat16"`` or ``"float32"``; there is none for others.
        """
        device = images.device
        if images.dtype != torch.float32 or images.shape[2:] != (SIZE, SIZE):
            return None
        if precision == "float32" and device.type == "cpu" and self.layout == "channels_last":
            fuse: Callable[[FaceNetwork, int], FusedUnits | None] = image_wise.fuse
        elif precision == "bfloat16" and fused.usable(device):
            fuse = fused.fuse
        else:
            return None
        if (device, precision) not in self._fused:
            self._fused[device, precision] = fuse(self.network, self.cut)
        found = self._fused[device, precision]
        return found if found is not None and window <= found.smallest(images) else None

    @property
    def unit_names(self) -> tuple[str, ...]:
        """Names of the shared units, input first."""
        return self.network.unit_names

    def feature(self, images: Tensor) -> Tensor:
        """The shallow feature z = E_c(x): the output of the last shared unit, (N, C, h, w)."""
        return self.forward(images)[-1].contiguous()

    def card(self) -> dict[str, Any]:
        """What a receiver must know to use features of this model: network, cut and units."""
        return {"network": self.name, "cut": self.cut, "units": list(self.unit_names)}


def _forget(model: ShallowModel, _keys: object) -> None:
    """Have what was built of a model's weights built anew: they have been replaced."""
    model._fused.clear()


class ServerModel(nn.Module):
    """The units behind the cut: :math:`E_s`, which the service keeps.

    Shape:
        input: the shallow feature (N, C, h, w).
        output: (N, D), the embedding, not normalised.
    """

    def __init__(self, network: FaceNetwork, cut: int | str = DEFAULT_CUT) -> None:
        super().__init__()
        self.cut = resolve_cut(network, cut)
        self.units = copy.deepcopy(network.units[self.cut :])
        self.requires_grad_(False)
        self.eval()

    def forward(self, feature: Tensor) -> Tensor:
        """Embeddings (N, D) of shallow features (N, C, h, w)."""
        return self.units(feature)  # type: ignore[no-any-return]
