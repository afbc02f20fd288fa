"""MobileFaceNet's shallow model in fused kernels, for the transform on an NVIDIA GPU in bfloat16.

The transform compares means of maps over windows, and needs the derivative by the image alone. So this is one function
from images to such means, or to their distance from a goal, and maps stay inside (``pmtlib/networks/_kernels.py``). It
computes what autocast does, but for the order of sums and for maps that are not rounded between layers that are one
here, nor before their means.

:meth:`pmtlib.shallow.ShallowModel.fused` gives it where it can be had. The plain path is its reference in the tests,
and is taken everywhere else. The draws, sums and moves of a step that are kernels too stand at the end.
"""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pmtlib import devices
from pmtlib.errors import SlowWarning
from pmtlib.networks.base import FaceNetwork
from pmtlib.networks.mobilefacenet import Bottleneck, ConvLayer, MobileFaceNet, tf_same_zeros

_BLOCKS = 4
"""Blocks of places that a program of a 1x1 convolution takes one after the other, with the same matrix at hand."""
_NARROW = 128
"""Channels up to which a program holds all of four places."""
_TAPS = 32
"""Numbers that the first convolution sees, 27, filled up to what a matrix product on the device takes."""


@cache
def kernels() -> Any:
    """The kernels, or None where there is no Triton, or one that cannot be imported."""
    try:
        from pmtlib.networks import _kernels as found
    except ImportError:
        return None
    return found


def usable(device: torch.device) -> bool:
    """Whether the kernels run on a device: an NVIDIA GPU that multiplies matrices of bfloat16, with Triton.

    Triton's interpreter runs them on a processor, for the tests.
    """
    # The device first: Triton takes a third of a second to import.
    if device.type == "cuda":
        return _works(torch.cuda.current_device() if device.index is None else device.index)
    return device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1" and kernels() is not None


@cache
def _works(index: int) -> bool:
    """Whether a GPU runs a small kernel; a warning says why not."""
    device = torch.device("cuda", index)
    if torch.version.hip is not None or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    if kernels() is None:
        warnings.warn(
            f"{torch.cuda.get_device_name(device)} is used without fused kernels, several times slower: Triton cannot "
            "be imported. Remedy: install it anew, pip install triton",
            SlowWarning,
            stacklevel=2,
        )
        return False
    try:
        some = torch.zeros(1, dtype=torch.int64, device=device)
        drawn = normal_rows(some, some, torch.empty((1, 4), dtype=torch.float32, device=device), 1.0)
        return bool(torch.isfinite(drawn).all())
    except Exception as error:
        # A GPU that is full now may not be later.
        if devices.is_out_of_memory(error):
            raise
        # Triton builds at run time and says in many ways why it cannot, most often for want of a C compiler.
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        warnings.warn(
            f"{torch.cuda.get_device_name(device)} is used without fused kernels, several times slower: Triton cannot "
            f"build them ({reason[0]}). Remedy: install a C compiler such as gcc",
            SlowWarning,
            stacklevel=2,
        )
        return False


_watchers: list[Callable[[int], Any]] = []


@contextmanager
def watched(watcher: Callable[[int], Any]) -> Iterator[None]:
    """Have every kernel's bytes told, those of what it reads and writes, each once."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


def _launch(name: str, grid: tuple[int, ...], *given: Any, **constants: Any) -> None:
    """Start a kernel, unless there is nothing to do."""
    if not all(grid):
        return
    tensors = [one for one in given if isinstance(one, Tensor)]
    # Triton starts a kernel on the current device, wherever its tensors are.
    with torch.cuda.device(tensors[0].device) if tensors[0].is_cuda else nullcontext():
        getattr(kernels(), name)[grid](*given, **constants)
    if _watchers:
        held = {one.data_ptr(): one.numel() * one.element_size() for one in tensors}
        for watcher in _watchers:
            watcher(sum(held.values()))


class Means(list[Tensor]):
    """Means of units' outputs, (N, F) each.

    Attributes:
        squares: (N,) in float64, the sum of their squares, where a kernel has found it.
        whole: all of them side by side, where they are views of that.
    """

    squares: Tensor | None = None
    whole: Tensor | None = None


class FusedUnits(ABC):
    """The first units of a frozen network as one function of images, whose maps stay inside.

    Attributes:
        units: how many.
        head: of a last unit that is no map, else None; then only its output itself can be had.
    """

    units: int
    head: Any = None

    @abstractmethod
    def means(self, images: Tensor, wanted: Sequence[int], window: int) -> Means:
        """Means over windows of the outputs of units, differentiable by the images.

        Args:
            images: (N, 3, H, W) in [0, 1], float32.
            wanted: places of units, 0 the first, each once.
            window: the windows' side; 1 gives the outputs themselves.

        Returns:
            (N, H' // window * W' // window * C) in float32 for each, in the order (H, W, C). Their squares are summed
            where that costs no pass of its own and no derivative is asked for.

        Raises:
            ValueError: there is a head, and other means than its output itself are asked for.
        """

    @abstractmethod
    def compares(self, images: Tensor, wanted: Sequence[int], window: int) -> bool:
        """Whether :meth:`distance` is there, for means of these units over windows of this side."""

    @abstractmethod
    def distance(self, images: Tensor, goal: Sequence[Tensor], wanted: Sequence[int], window: int) -> Tensor:
        """Squared distance of units' means over windows from a goal, differentiable by the images.

        Maps, means and differences stay inside.

        Args:
            images: (N, 3, H, W) in [0, 1], float32, for which :meth:`compares` is true.
            goal: what :meth:`means` gives of these units.
            wanted: places of units, as there.
            window: of the means.

        Returns:
            (N,) in float64.

        Raises:
            ValueError: the goal is of other units, images or windows, where that would be read beyond its end.
        """

    @abstractmethod
    def sizes(self, images: Tensor) -> list[tuple[int, int, int]]:
        """Rows, columns and channels of the outputs of all units, for images of a size."""

    def feature(self, images: Tensor) -> Tensor:
        """The last unit's output (N, C, H', W') in float32."""
        (found,) = self.means(images, [self.units - 1], 1)
        return found.view(len(images), *self.sizes(images)[-1]).permute(0, 3, 1, 2).contiguous()

    def smallest(self, images: Tensor) -> int:
        """The shortest side of any unit's map."""
        return min(min(size[:2]) for size in self.sizes(images))


@dataclass(frozen=True)
class _Launch:
    """How a kernel is laid out: places or windows a program, channels at once, warps for these, and most registers."""

    block: int
    part: int
    warps: int
    registers: int | None = None

    def options(self, channels: int | None = None) -> dict[str, int]:
        """For narrower maps fewer warps, so that a thread has as much to do."""
        warps = self.warps if channels is None else max(self.warps * channels // self.part, 1)
        # Without stages: loads that go through shared memory first are the slower ones here.
        return {"num_warps": warps, "num_stages": 1, **({"maxnreg": self.registers} if self.registers else {})}

    def windows(self, size: tuple[int, int]) -> int:
        """Programs for the windows of 2x2 of a map."""
        return -(-((size[0] + 1) // 2) * ((size[1] + 1) // 2) // self.block)


@dataclass(frozen=True)
class _Separable:
    """A depthwise convolution of 3x3 with its activation, and a linear 1x1 convolution.

    Attributes:
        expand: the 1x1 convolution before it, (weight (I, C), weight transposed, bias), or None.
        slope_in: of the activation before the depthwise convolution, (C,).
        depthwise: (9, C), with its bias (C,).
        flipped: the same, the last tap first.
        slope: of the activation behind it, (C,).
        project: (C, O), transposed (O, C), and bias (O,).
        stride: of the depthwise convolution.
        tf_same: odd zeros stand below and right.
        residual: the input is added to the output.
    """

    expand: tuple[Tensor, Tensor, Tensor] | None
    slope_in: Tensor
    depthwise: tuple[Tensor, Tensor]
    flipped: Tensor
    slope: Tensor
    project: tuple[Tensor, Tensor, Tensor]
    stride: int
    tf_same: bool
    residual: bool

    @property
    def hidden(self) -> int:
        return self.project[0].shape[0]

    @property
    def outputs(self) -> int:
        return self.project[0].shape[1]

    @property
    def narrow(self) -> bool:
        """Whether all channels of some places are a program's at once."""
        return self.hidden <= _NARROW


def slopes_of(activation: nn.Module, channels: int, like: Tensor) -> Tensor | None:
    """An activation as slopes below 0, (channels,); None where it is none of that kind."""
    if isinstance(activation, nn.PReLU):
        return activation.weight.detach().float().expand(channels).contiguous()
    slopes = {nn.ReLU: 0.0, nn.Identity: 1.0}
    value = slopes.get(type(activation))
    return None if value is None else torch.full((channels,), value, dtype=torch.float32, device=like.device)


def _matrix(layer: ConvLayer, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    weight = layer.conv.weight.detach().flatten(1).T.to(dtype)
    assert layer.conv.bias is not None
    return weight.contiguous(), weight.T.contiguous(), layer.conv.bias.detach().float()


def _depthwise(layer: ConvLayer, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    assert layer.conv.bias is not None
    weight = layer.conv.weight.detach().flatten(1).T.to(dtype)
    return weight.contiguous(), layer.conv.bias.detach().float()


def _fits(channels: int) -> bool:
    return channels >= 16 and channels & (channels - 1) == 0


class FusedMobileFaceNet(FusedUnits):
    """The first units of a frozen :class:`~pmtlib.networks.mobilefacenet.MobileFaceNet`, as one function.

    Made by :func:`fuse`. Its weights are copies in bfloat16.

    Attributes:
        units: how many.
        head: the 1x1 convolution behind the bottlenecks, where it is the last unit: weight (O, I), bias and slopes.
    """

    def __init__(
        self,
        stem: ConvLayer,
        separable: Sequence[_Separable],
        columns: tuple[int, int],
        normalised: tuple[Any, Any],
        head: tuple[Tensor, Tensor, Tensor] | None = None,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        weight = stem.conv.weight.detach()
        device = weight.device
        self.units = 1 + len(separable) + (head is not None)
        self.head = head
        self.separable = list(separable)
        self.columns = columns
        self.tf_same = stem.tf_same
        self.channels = weight.shape[0]
        matrix = weight.new_zeros((_TAPS, self.channels))
        matrix[: weight[0].numel()] = weight.flatten(1).T
        self.dtype = dtype
        self.weight = matrix.to(dtype)
        self.transposed = self.weight.T.contiguous()
        assert stem.conv.bias is not None
        self.bias = stem.conv.bias.detach().float()
        mean, std = (torch.tensor(one, dtype=torch.float32).repeat_interleave(9) for one in normalised)
        self.scale = torch.ones(_TAPS, dtype=torch.float32)
        self.shift = torch.zeros(_TAPS, dtype=torch.float32)
        self.scale[: len(std)], self.shift[: len(std)] = 1 / std, -mean / std
        self.scale, self.shift = self.scale.to(device), self.shift.to(device)
        self.spread = _spread().to(device, dtype)

    def means(self, images: Tensor, wanted: Sequence[int], window: int) -> Means:
        """As in the base class; squares are there where :meth:`has_means` is true of all."""
        if self.head is not None:
            if list(wanted) != [self.units - 1] or window != 1:
                raise ValueError(f"of {self.units} units with a head only the last output can be had")
            weight, bias, slope = self.head
            (below,) = _Fused.apply(images.contiguous(), self, (self.units - 2,), 1)  # type: ignore[no-untyped-call]
            # Few numbers, in a product of matrices: torch's own.
            found = F.linear(below.view(len(below), -1, weight.shape[1]).to(self.dtype), weight, bias)
            return Means([torch.where(found > 0, found, found * slope).flatten(1).float()])
        if images.requires_grad and torch.is_grad_enabled():
            return Means(_Fused.apply(images.contiguous(), self, tuple(wanted), window))  # type: ignore[no-untyped-call]
        return self.forward(images.contiguous(), wanted, window, keep=False)[0]

    def compares(self, images: Tensor, wanted: Sequence[int], window: int) -> bool:
        """Where all units' maps fall into windows of 2x2, and all of them are asked for."""
        whole = self.head is None and window == 2 and list(wanted) == list(range(self.units))
        return whole and all(map(self.has_means, range(self.units), self._sizes(images)))

    def has_means(self, place: int, size: tuple[int, int]) -> bool:
        """Whether a unit's own kernel makes means over windows of 2x2 of its output, a map of a size."""
        return size[0] % 2 == 0 and size[1] % 2 == 0 and (place == 0 or self.separable[place - 1].narrow)

    def distance(self, images: Tensor, goal: Sequence[Tensor], wanted: Sequence[int], window: int) -> Tensor:
        """As in the base class, of all units over windows of 2x2, for which alone :meth:`compares` is ever true."""
        of = [(len(images), rows // 2 * (columns // 2) * channels) for rows, columns, channels in self.sizes(images)]
        if [(*one.shape, one.dtype) for one in goal] != [(*shape, images.dtype) for shape in of]:
            raise ValueError(f"a goal of shapes {[tuple(one.shape) for one in goal]} is not of these units and images")
        return _Distance.apply(images.contiguous(), self, [one.contiguous() for one in goal])  # type: ignore[no-any-return, no-untyped-call]

    def sizes(self, images: Tensor) -> list[tuple[int, int, int]]:
        """Rows, columns and channels of the outputs of all units."""
        maps = self._sizes(images)
        channels = [self.channels, *(layer.outputs for layer in self.separable)]
        if self.head is not None:
            maps, channels = [*maps, maps[-1]], [*channels, len(self.head[0])]
        return [(*size, count) for size, count in zip(maps, channels, strict=True)]

    def _sizes(self, images: Tensor) -> list[tuple[int, int]]:
        """Rows and columns of the outputs of all units but a head."""
        sizes = [(-(-images.shape[2] // 2), -(-(self.columns[1] - self.columns[0]) // 2))]
        for layer in self.separable:
            rows, columns = sizes[-1]
            sizes.append((-(-rows // layer.stride), -(-columns // layer.stride)))
        return sizes

    @staticmethod
    def _pad(size: int, stride: int, tf_same: bool) -> int:
        """Zeros before an axis that a 3x3 convolution sees."""
        return tf_same_zeros(size, 3, stride)[0] if tf_same else 1

    def forward(
        self, images: Tensor, wanted: Sequence[int], window: int, *, keep: bool, goal: Sequence[Tensor] | None = None
    ) -> tuple[Means, list[tuple[Tensor, Tensor]]]:
        """The means that are asked for; for the derivative the signs before each separable unit's two activations.

        With a ``goal``, of as many means, these are differences from it.
        """
        sizes = self._sizes(images)
        count, (rows, columns), out = len(images), sizes[0], self.channels
        left, right = self.columns
        asked = _Asked(images, self, sizes, wanted, window, goal)
        x = self._map(images, rows * columns, out)
        signs = self._signs(x, out) if keep else x
        pads = (self._pad(images.shape[2], 2, self.tf_same), self._pad(right - left, 2, self.tf_same))
        tensors, flags = asked.of(0, x)
        _launch(
            "stem", (STEM.windows(sizes[0]), count), images, self.scale, self.shift, self.weight, self.bias,
            self.separable[0].slope_in, x, signs, *tensors, images.shape[2], images.shape[3], right - left, left, rows,
            columns, *pads, KEEP=keep, **flags, BLOCK=STEM.block, OUT=out, **STEM.options(),
        )  # fmt: skip
        if 0 in wanted and not asked.inside(0):
            asked.means[0] = self._means(x, sizes[0], window)
        kept: list[tuple[Tensor, Tensor]] = []
        for place, layer in enumerate(self.separable, start=1):
            given = x
            if layer.expand is not None:
                x, signs = self._expand(given, layer, keep=keep)
            residual = given if layer.residual else None
            x, middle = self._separable(x, layer, residual, sizes[place - 1], sizes[place], asked, place, keep=keep)
            kept.append((signs, middle))
            if place in wanted and not asked.inside(place):
                asked.means[place] = self._means(x, sizes[place], window)
        return asked.found(), kept if keep else []

    def _map(self, images: Tensor, places: int, channels: int) -> Tensor:
        return torch.empty((len(images), places, channels), dtype=self.dtype, device=images.device)

    @staticmethod
    def _signs(x: Tensor, channels: int) -> Tensor:
        """For a bit a number of maps (N, P, C)."""
        return torch.empty((*x.shape[:2], channels // 8), dtype=torch.uint8, device=x.device)

    def _expand(self, x: Tensor, layer: _Separable, *, keep: bool) -> tuple[Tensor, Tensor]:
        assert layer.expand is not None
        weight, _, bias = layer.expand
        places, hidden = x.shape[0] * x.shape[1], layer.hidden
        made = self._map(x, x.shape[1], hidden)
        signs = self._signs(made, hidden) if keep else made
        part = min(hidden, EXPAND.part)
        _launch(
            "pointwise", (-(-places // (EXPAND.block * _BLOCKS)), hidden // part), x, weight, bias, layer.slope_in,
            made, signs, places, KEEP=keep, BLOCKS=_BLOCKS, BLOCK=EXPAND.block, IN=weight.shape[0], OUT=hidden,
            PART=part, **EXPAND.options(),
        )  # fmt: skip
        return made, signs

    def _separable(
        self,
        x: Tensor,
        layer: _Separable,
        residual: Tensor | None,
        size: tuple[int, int],
        size_out: tuple[int, int],
        asked: _Asked,
        place: int,
        *,
        keep: bool,
    ) -> tuple[Tensor, Tensor]:
        """The unit's output, and the signs before its inner activation."""
        (rows, columns), (rows_out, columns_out) = size, size_out
        count, places = len(x), rows_out * columns_out
        out = self._map(x, places, layer.outputs)
        signs = self._signs(out, layer.hidden) if keep else out
        pads = (self._pad(rows, layer.stride, layer.tf_same), self._pad(columns, layer.stride, layer.tf_same))
        given = (
            x, *layer.depthwise, layer.slope, layer.project[0], layer.project[2], out if residual is None else residual,
            signs, out,
        )  # fmt: skip
        sides = (rows, columns, rows_out, columns_out, *pads)
        constants = {
            "RESIDUAL": residual is not None, "KEEP": keep, "STRIDE": layer.stride, "IN": layer.hidden,
            "OUT": layer.outputs,
        }  # fmt: skip
        if layer.narrow:
            tensors, flags = asked.of(place, out)
            # Nobody reads the last map whose means are made on the way.
            flags["STORE"] = place < len(self.separable) or (place in asked.wanted and not asked.inside(place))
            _launch(
                "depthwise_pointwise_windows", (FORWARD_WINDOWS.windows(size_out), count), *given, *tensors, *sides, 1,
                **constants, **flags, BLOCK=FORWARD_WINDOWS.block, **FORWARD_WINDOWS.options(layer.hidden),
            )  # fmt: skip
        else:
            _launch(
                "depthwise_pointwise", (-(-places // FORWARD.block), count), *given, *sides, **constants,
                BLOCK=FORWARD.block, PART=min(layer.hidden, FORWARD.part), **FORWARD.options(),
            )  # fmt: skip
        return out, signs

    @staticmethod
    def parts(place: int, size: tuple[int, int]) -> int:
        """How many programs a sum over a unit's means comes from."""
        return (STEM if place == 0 else FORWARD_WINDOWS).windows(size)

    def _means(self, x: Tensor, size: tuple[int, int], window: int) -> Tensor:
        rows, columns, channels = *(side // window for side in size), x.shape[2]
        made = torch.empty((len(x), rows * columns * channels), dtype=torch.float32, device=x.device)
        _launch(
            "window_means", (-(-rows * columns // MEANS.block), len(x)), x, made, *size, rows, columns, WINDOW=window,
            BLOCK=MEANS.block, CHANNELS=channels, **MEANS.options(),
        )  # fmt: skip
        return made

    def backward(
        self,
        images: Tensor,
        kept: Sequence[tuple[Tensor, Tensor]],
        given: dict[int, Tensor],
        window: int,
        factors: Tensor,
    ) -> Tensor:
        """The derivative by the images, (N, 3, H, W), from those by the means, by unit, each times (N,) ``factors``."""
        sizes = self._sizes(images)
        count = len(images)
        above: Tensor | None = None
        for place in range(len(self.separable), 0, -1):
            layer = self.separable[place - 1]
            pooled = given.get(place)
            if above is None and pooled is None:
                # Units behind the last that is compared.
                continue
            signs, middle = kept[place - 1]
            rows_out, columns_out = sizes[place]
            places, hidden = rows_out * columns_out, layer.hidden
            inner = self._map(images, places, hidden)
            part = min(hidden, BACK_POINTWISE.part)
            _launch(
                "pointwise_backward", (-(-places // BACK_POINTWISE.block), count, hidden // part),
                inner if above is None else above, factors if pooled is None else pooled, factors, layer.project[1],
                middle, layer.slope, inner, rows_out, columns_out, rows_out // window, columns_out // window,
                GRADIENT=above is not None, POOLED=pooled is not None, WINDOW=window, BLOCK=BACK_POINTWISE.block,
                IN=hidden, OUT=layer.outputs, PART=part, **BACK_POINTWISE.options(),
            )  # fmt: skip
            passed = (above, pooled) if layer.residual else (None, None)
            above = self._depthwise_backward(
                layer, inner, signs, given.get(0) if place == 1 else None, passed, factors, (sizes[place - 1],
                sizes[place]), window,
            )  # fmt: skip
        assert above is not None
        left, right = self.columns
        height, width = images.shape[2:]
        gradient = torch.empty_like(images) if right - left == width else torch.zeros_like(images)
        pads = (self._pad(height, 2, self.tf_same), self._pad(right - left, 2, self.tf_same))
        down, across = ((side - 1 + pad) // 2 + 1 for side, pad in zip((height, right - left), pads, strict=True))
        _launch(
            "stem_backward", (-(-down * across // BACK_STEM.block), count), above, self.spread, self.scale, gradient,
            height, width, right - left, left, *sizes[0], *pads, across, BLOCK=BACK_STEM.block, **BACK_STEM.options(),
        )  # fmt: skip
        return gradient

    def _depthwise_backward(
        self,
        layer: _Separable,
        inner: Tensor,
        signs: Tensor,
        pooled_in: Tensor | None,
        passed: tuple[Tensor | None, Tensor | None],
        factors: Tensor,
        both: tuple[tuple[int, int], tuple[int, int]],
        window: int,
    ) -> Tensor:
        """The derivative by what stands before a unit, from that by its depthwise convolution's output."""
        (rows, columns), (rows_out, columns_out) = both
        size, size_out = both
        count, hidden = len(inner), layer.hidden
        weight = self.transposed if layer.expand is None else layer.expand[1]
        below = self._map(inner, rows * columns, weight.shape[1])
        residual, pooled = passed
        tensors = (
            signs, layer.slope_in, factors if pooled_in is None else pooled_in, weight,
            below if residual is None else residual, factors if pooled is None else pooled, factors, below,
        )  # fmt: skip
        in_windows = (rows // window, columns // window)
        windows = (rows_out // window, columns_out // window)
        shape = {"IN": hidden, "OUT": weight.shape[1]}
        added = {"POOLED_IN": pooled_in is not None, "RESIDUAL": residual is not None, "POOLED": pooled is not None}
        pads = (self._pad(rows, layer.stride, layer.tf_same), self._pad(columns, layer.stride, layer.tf_same))
        if layer.narrow and layer.stride == 1 and window == 2:
            _launch(
                "depthwise_backward_windows", (BACK_WINDOWS.windows(size), count), inner, layer.flipped, *tensors,
                *size, 1, **shape, **added, BLOCK=BACK_WINDOWS.block, **BACK_WINDOWS.options(hidden),
            )  # fmt: skip
        else:
            most = -(-rows // layer.stride) * -(-columns // layer.stride)
            _launch(
                "depthwise_backward", (-(-most // BACK_DEPTHWISE.block) * layer.stride**2, count), inner,
                layer.depthwise[0], *tensors, *size, *size_out, *pads, *in_windows, *windows, **shape, **added,
                WINDOW=window, STRIDE=layer.stride, BLOCK=BACK_DEPTHWISE.block, PART=min(hidden, BACK_DEPTHWISE.part),
                **BACK_DEPTHWISE.options(),
            )  # fmt: skip
        return below


class _Asked:
    """The means that a forward pass is asked for, and sums of their squares where kernels find them on the way."""

    def __init__(
        self,
        images: Tensor,
        model: FusedMobileFaceNet,
        sizes: Sequence[tuple[int, int]],
        wanted: Sequence[int],
        window: int,
        goal: Sequence[Tensor] | None,
    ) -> None:
        self.wanted = wanted
        self.goal = None if goal is None else dict(zip(wanted, goal, strict=True))
        self.means: dict[int, Tensor] = {}
        self.begins: dict[int, int] = {}
        total = 0
        for place in wanted:
            rows, columns = sizes[place]
            if window == 2 and model.has_means(place, sizes[place]):
                channels = model.channels if place == 0 else model.separable[place - 1].outputs
                # Differences are for the derivative alone, whose maps are rounded too.
                dtype = images.dtype if goal is None else model.dtype
                self.means[place] = images.new_empty((len(images), rows // 2 * (columns // 2) * channels), dtype=dtype)
                self.begins[place] = total
                total += model.parts(place, sizes[place])
        self.sums = images.new_empty((len(images), max(total, 1)))

    def inside(self, place: int) -> bool:
        """Whether a unit's own kernel makes its means."""
        return place in self.begins

    def of(self, place: int, unused: Tensor) -> tuple[tuple[Any, ...], dict[str, bool]]:
        """What a unit's kernel is given: means, goals, sums and how many of these an image has; and constants."""
        flags = {"MEANS": self.inside(place), "GOAL": self.inside(place) and self.goal is not None}
        if not self.inside(place):
            return (unused, unused, unused, 0), flags
        means, sums = self.means[place], self.sums[:, self.begins[place] :]
        return (means, means if self.goal is None else self.goal[place], sums, self.sums.shape[1]), flags

    def found(self) -> Means:
        """The means in the order asked for."""
        made = Means(self.means[place] for place in self.wanted)
        if all(map(self.inside, self.wanted)):
            made.squares = self.sums.sum(1, dtype=torch.float64)
        return made


def _spread() -> Tensor:
    """Which pixel of 2x2, of three channels, has what a place took from it by a tap: (4, 32, 16) of zeros and ones.

    The first axis is the place: that of the square, the one left of it, the one above, and the one left of that.
    """
    made = torch.zeros(4, 3, 3, 3, 3, 4)
    for down in range(3):
        for across in range(3):
            place = 2 * (down == 2) + (across == 2)
            made[place, range(3), down, across, range(3), 2 * (down == 1) + (across == 1)] = 1
    return F.pad(made.reshape(4, 27, 12), (0, 4, 0, 5))


# Found by trying some on an H200. Fewer registers than a compiler would take let more warps run at once.
STEM = _Launch(16, 64, 4)
EXPAND = _Launch(64, 128, 4)
FORWARD = _Launch(32, 128, 4)
FORWARD_WINDOWS = _Launch(16, 128, 8, 128)
BACK_POINTWISE = _Launch(64, 128, 4)
BACK_DEPTHWISE = _Launch(64, 128, 4)
BACK_WINDOWS = _Launch(16, 128, 8, 128)
BACK_STEM = _Launch(128, 1, 4)
MEANS = _Launch(32, 1, 4)
DRAWS = _Launch(512, 1, 4)
MOVE = _Launch(512, 1, 4)


class _Fused(torch.autograd.Function):
    """The means as a function of the images."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, model: FusedMobileFaceNet, wanted: tuple[int, ...], window: int) -> Any:
        means, kept = model.forward(images, wanted, window, keep=ctx.needs_input_grad[0])
        ctx.model, ctx.wanted, ctx.window, ctx.kept = model, wanted, window, kept
        ctx.save_for_backward(images)
        return tuple(means)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (images,) = ctx.saved_tensors
        given = {place: one.contiguous() for place, one in zip(ctx.wanted, gradients, strict=True)}
        factors = images.new_ones(len(images))
        return ctx.model.backward(images, ctx.kept, given, ctx.window, factors), None, None, None


class _Distance(torch.autograd.Function):
    """The squared distance of the means from a goal as a function of the images."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, model: FusedMobileFaceNet, goal: Sequence[Tensor]) -> Any:
        found, kept = model.forward(images, range(model.units), 2, keep=ctx.needs_input_grad[0], goal=goal)
        ctx.model, ctx.kept = model, kept
        ctx.save_for_backward(images, *found)
        return found.squares

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        images, *differences = ctx.saved_tensors
        given = dict(enumerate(differences))
        return ctx.model.backward(images, ctx.kept, given, 2, (2 * gradient).to(images.dtype)), None, None


def fuse(network: FaceNetwork, cut: int, dtype: torch.dtype = torch.bfloat16) -> FusedMobileFaceNet | None:
    """The first ``cut`` units of a network as one function, or None where these kernels do not compute them."""
    if not isinstance(network, MobileFaceNet) or cut < 2:
        return None
    units = list(network.units)[:cut]
    head = None
    if isinstance(units[-1], ConvLayer):
        head = _head(units.pop(), dtype)
        if head is None:
            return None
    stem = units[0]
    if not isinstance(stem, ConvLayer):
        return None
    slope = slopes_of(stem.activation, stem.conv.out_channels, stem.conv.weight)
    second = None if slope is None else _stem_separable(units[1], slope, dtype)
    if second is None:
        return None
    separable = [second]
    for unit in units[2:]:
        layer = _bottleneck(unit, dtype) if isinstance(unit, Bottleneck) else None
        if layer is None:
            return None
        separable.append(layer)
    variant = network.variant
    return FusedMobileFaceNet(stem, separable, variant.columns, (variant.mean, variant.std), head, dtype)


def _head(unit: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor] | None:
    assert isinstance(unit, ConvLayer)
    slope = slopes_of(unit.activation, unit.conv.out_channels, unit.conv.weight)
    if slope is None or unit.conv.kernel_size != (1, 1):
        return None
    _, weight, bias = _matrix(unit, dtype)
    return weight, bias.to(dtype), slope.to(dtype)


def _stem_separable(unit: nn.Module, slope_in: Tensor, dtype: torch.dtype) -> _Separable | None:
    layers = list(unit.children())
    if not layers or not all(isinstance(layer, ConvLayer) for layer in layers) or len(layers) > 2:
        return None
    depthwise = layers[0]
    assert isinstance(depthwise, ConvLayer)
    channels = depthwise.conv.out_channels
    slope = slopes_of(depthwise.activation, channels, depthwise.conv.weight)
    if slope is None or not _fits(channels):
        return None
    if len(layers) == 2:
        pointwise = layers[1]
        assert isinstance(pointwise, ConvLayer)
        if not isinstance(pointwise.activation, nn.Identity) or not _fits(pointwise.conv.out_channels):
            return None
        project = _matrix(pointwise, dtype)
    else:
        # Without a 1x1 convolution: one that changes nothing.
        same = torch.eye(channels, dtype=dtype, device=slope.device)
        project = (same, same, torch.zeros_like(slope))
    taps = _depthwise(depthwise, dtype)
    return _Separable(None, slope_in, taps, taps[0].flip(0), slope, project, 1, depthwise.tf_same, residual=False)


def _bottleneck(unit: Bottleneck, dtype: torch.dtype) -> _Separable | None:
    hidden = unit.depthwise.conv.out_channels
    slopes = [slopes_of(layer.activation, hidden, layer.conv.weight) for layer in (unit.expand, unit.depthwise)]
    widths = (hidden, unit.expand.conv.in_channels, unit.project.conv.out_channels)
    if slopes[0] is None or slopes[1] is None or not all(map(_fits, widths)):
        return None
    taps = _depthwise(unit.depthwise, dtype)
    return _Separable(
        _matrix(unit.expand, dtype),
        slopes[0],
        taps,
        taps[0].flip(0),
        slopes[1],
        _matrix(unit.project, dtype),
        unit.depthwise.conv.stride[0],
        unit.depthwise.tf_same,
        unit.residual,
    )


_ROW_BLOCK = 4096


def normal_rows(seeds: Tensor, draws: Tensor, like: Tensor, scale: float) -> Tensor:
    """Normal numbers as ``like`` (N, ...), a row of each seed, (N,) int64, at its number of draws, (N,), before.

    Philox: a number follows from seed and place alone, so that one kernel draws for all rows and no row depends on
    another. The count of a row's numbers is a multiple of 4.
    """
    made = torch.empty_like(like)
    quarter = made[0].numel() // 4 if len(made) else 0
    grid = (-(-quarter // DRAWS.block), len(made))
    _launch("normal_rows", grid, seeds, draws, made, scale, quarter, BLOCK=DRAWS.block, **DRAWS.options())
    return made


def noised(seeds: Tensor, draws: Tensor, first: Tensor, second: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Two batches (N, ...) with the numbers of :func:`normal_rows` added, the same to both."""
    made = torch.empty_like(first), torch.empty_like(second)
    quarter = first[0].numel() // 4 if len(first) else 0
    grid = (-(-quarter // DRAWS.block), len(first))
    _launch(
        "noised_rows", grid, seeds, draws, first, second, *made, scale, quarter, BLOCK=DRAWS.block, **DRAWS.options()
    )
    return made


def move_(current: Tensor, gradient: Tensor, factor: Tensor, smoothing: Tensor) -> None:
    """Move images in place against their smoothed gradients: current - factor * smoothed, within [0, 1].

    Args:
        current: images (N, 3, H, W), contiguous.
        gradient: of the same shape; what is not finite counts as 0.
        factor: (N,).
        smoothing: an odd square kernel; beyond the border there are zeros.
    """
    height, width = current.shape[2:]
    grid = (-(-height * width // MOVE.block), 3 * len(current))
    _launch(
        "descend", grid, current, gradient.contiguous(), factor, smoothing, height, width,
        RADIUS=smoothing.shape[-1] // 2, BLOCK=MOVE.block, **MOVE.options(),
    )  # fmt: skip


def _row_sums(kind: str, own: Tensor, goal: Tensor) -> Tensor:
    blocks = -(-own.shape[1] // _ROW_BLOCK)
    parts = torch.empty((len(own), blocks), dtype=torch.float32, device=own.device)
    _launch("row_sums", (blocks, len(own)), own, goal, parts, own.shape[1], blocks, KIND=kind, BLOCK=_ROW_BLOCK)
    return parts.sum(1, dtype=torch.float64)


def row_squares(rows: Tensor) -> Tensor:
    """Sums of squares of rows (N, F), (N,) in float64."""
    return _row_sums("square", rows, rows)


def row_sizes(rows: Tensor) -> Tensor:
    """Sums of absolute values of rows (N, F), (N,) in float64; what is not finite stays so."""
    return _row_sums("size", rows, rows)


def squared_distance(own: Tensor, goal: Tensor) -> Tensor:
    """Squared distances of rows (N, F), (N,) in float64, differentiable by ``own`` alone."""
    return _SquaredDistance.apply(own, goal)  # type: ignore[no-any-return, no-untyped-call]


class _SquaredDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, goal: Tensor) -> Tensor:
        ctx.save_for_backward(own, goal)
        return _row_sums("distance", own, goal)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        own, goal = ctx.saved_tensors
        made = torch.empty_like(own)
        blocks = -(-own.shape[1] // _ROW_BLOCK)
        scale = (2 * gradient).to(own.dtype)
        _launch("scaled_difference", (blocks, len(own)), own, goal, scale, made, own.shape[1], BLOCK=_ROW_BLOCK)
        return made, None
