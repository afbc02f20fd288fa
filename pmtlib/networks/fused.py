"""MobileFaceNet's shallow model in fused kernels, for the transform on an NVIDIA GPU in bfloat16.

The transform compares means of maps over windows, and needs the derivative by the image alone. So this is one function
from images to such means, and maps stay inside (``pmtlib/networks/_kernels.py``). It computes what autocast does, but
for the order of sums and for maps that are not rounded between layers that are one here.

:meth:`pmtlib.shallow.ShallowModel.fused` gives it where it can be had. The plain path is its reference in the tests,
and is taken everywhere else. The draws, sums and moves of a step that are kernels too stand at the end.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pmtlib.networks.base import FaceNetwork
from pmtlib.networks.mobilefacenet import Bottleneck, ConvLayer, MobileFaceNet

_TAPS = 32
"""Numbers that the first convolution sees, 27, filled up to what a matrix product on the device takes."""


@cache
def kernels() -> Any:
    """The kernels, or None where there is no Triton."""
    if importlib.util.find_spec("triton") is None:
        return None
    from pmtlib.networks import _kernels as found

    return found


def usable(device: torch.device) -> bool:
    """Whether the kernels run on a device: an NVIDIA GPU that multiplies matrices of bfloat16, with Triton.

    Triton's interpreter runs them on a processor, for the tests.
    """
    if kernels() is None:
        return False
    if device.type != "cuda":
        return device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
    return _works(torch.cuda.current_device() if device.index is None else device.index)


@cache
def _works(index: int) -> bool:
    """Whether a GPU runs a small kernel; a warning says why not."""
    device = torch.device("cuda", index)
    if torch.version.hip is not None or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    try:
        some = torch.zeros(1, dtype=torch.int64, device=device)
        drawn = normal_rows(some, some, torch.empty((1, 4), device=device), 1.0)
        return bool(torch.isfinite(drawn).all())
    except Exception as error:
        # Triton builds at run time and says in many ways why it cannot, most often for want of a C compiler.
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        warnings.warn(
            f"{torch.cuda.get_device_name(device)} is used without fused kernels, several times slower: Triton cannot "
            f"build them ({reason[0]}). Remedy: install a C compiler such as gcc",
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


@dataclass(frozen=True)
class _Launch:
    """How a kernel is laid out: places a program, channels at once, warps."""

    block: int
    part: int
    warps: int


@dataclass(frozen=True)
class _Separable:
    """A depthwise convolution of 3x3 with its activation, and a linear 1x1 convolution.

    Attributes:
        expand: the 1x1 convolution before it, (weight (I, C), weight transposed, bias), or None.
        slope_in: of the activation before the depthwise convolution, (C,).
        depthwise: (9, C), with its bias (C,).
        slope: of the activation behind it, (C,).
        project: (C, O), transposed (O, C), and bias (O,).
        stride: of the depthwise convolution.
        tf_same: odd zeros stand below and right.
        residual: the input is added to the output.
    """

    expand: tuple[Tensor, Tensor, Tensor] | None
    slope_in: Tensor
    depthwise: tuple[Tensor, Tensor]
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


def _slope(activation: nn.Module, channels: int, like: Tensor) -> Tensor | None:
    """An activation as slopes below 0, (channels,); None where it is none of that kind."""
    if isinstance(activation, nn.PReLU):
        return activation.weight.detach().float().expand(channels).contiguous()
    slopes = {nn.ReLU: 0.0, nn.Identity: 1.0}
    value = slopes.get(type(activation))
    return None if value is None else torch.full((channels,), value, device=like.device)


def _matrix(layer: ConvLayer, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    weight = layer.conv.weight.detach().flatten(1).T.to(dtype)
    assert layer.conv.bias is not None
    return weight.contiguous(), weight.T.contiguous(), layer.conv.bias.detach().float()


def _depthwise(layer: ConvLayer, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    assert layer.conv.bias is not None
    # Rounded as autocast has them.
    weight = layer.conv.weight.detach().flatten(1).T.to(dtype).float()
    return weight.contiguous(), layer.conv.bias.detach().float()


def _fits(channels: int) -> bool:
    return channels >= 16 and channels & (channels - 1) == 0


class FusedMobileFaceNet:
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
        self.scale = torch.ones(_TAPS)
        self.shift = torch.zeros(_TAPS)
        self.scale[: len(std)], self.shift[: len(std)] = 1 / std, -mean / std
        self.scale, self.shift = self.scale.to(device), self.shift.to(device)

    def means(self, images: Tensor, wanted: Sequence[int], window: int) -> list[Tensor]:
        """Means over windows of the outputs of units, differentiable by the images.

        Args:
            images: (N, 3, H, W) in [0, 1], float32.
            wanted: places of units, 0 the first.
            window: the windows' side; 1 gives the outputs themselves.

        Returns:
            (N, H' // window * W' // window * C) in float32 for each, in the order (H, W, C).

        Raises:
            ValueError: there is a head, and other means than its output itself are asked for.
        """
        if self.head is not None:
            if list(wanted) != [self.units - 1] or window != 1:
                raise ValueError(f"of {self.units} units with a head only the last output can be had")
            weight, bias, slope = self.head
            (below,) = _Fused.apply(images.contiguous(), self, (self.units - 2,), 1)  # type: ignore[no-untyped-call]
            # Few numbers, in a product of matrices: torch's own.
            found = F.linear(below.view(len(below), -1, weight.shape[1]).to(self.dtype), weight, bias)
            return [torch.where(found > 0, found, found * slope).flatten(1).float()]
        return list(_Fused.apply(images.contiguous(), self, tuple(wanted), window))  # type: ignore[no-untyped-call]

    def smallest(self, images: Tensor) -> int:
        """The shortest side of any unit's map."""
        return min(min(size) for size in self._sizes(images))

    def _sizes(self, images: Tensor) -> list[tuple[int, int]]:
        """Rows and columns of the outputs of all units."""
        sizes = [(-(-images.shape[2] // 2), -(-(self.columns[1] - self.columns[0]) // 2))]
        for layer in self.separable:
            rows, columns = sizes[-1]
            sizes.append((-(-rows // layer.stride), -(-columns // layer.stride)))
        return sizes

    @staticmethod
    def _pad(size: int, stride: int, tf_same: bool) -> int:
        """Zeros before an axis that a 3x3 convolution sees."""
        return max((-(-size // stride) - 1) * stride + 3 - size, 0) // 2 if tf_same else 1

    def forward(
        self, images: Tensor, wanted: Sequence[int], window: int, keep: bool
    ) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
        """The means that are asked for; for the derivative the signs before each separable unit's two activations."""
        sizes = self._sizes(images)
        count, (rows, columns), out = len(images), sizes[0], self.channels
        left, right = self.columns
        x = self._map(images, rows * columns, out)
        signs = self._signs(x) if keep else x
        means: dict[int, Tensor] = {}
        folded = _foldable(sizes[0])
        if 0 in wanted and window == 2 and folded:
            means[0] = images.new_empty((count, rows // 2 * (columns // 2) * out))
        pads = (self._pad(images.shape[2], 2, self.tf_same), self._pad(right - left, 2, self.tf_same))
        _launch(
            "stem", (-(-rows * columns // STEM.block), count), images, self.scale, self.shift, self.weight, self.bias,
            self.separable[0].slope_in, x, signs, means.get(0, x), images.shape[2], images.shape[3], right - left, left,
            rows, columns, *pads, KEEP=keep, MEANS=0 in means, FOLDED=folded, BLOCK=STEM.block, OUT=out,
            num_warps=STEM.warps,
        )  # fmt: skip
        if 0 in wanted and 0 not in means:
            means[0] = self._means(x, sizes[0], window)
        kept: list[tuple[Tensor, Tensor]] = []
        for place, layer in enumerate(self.separable, start=1):
            given = x
            if layer.expand is not None:
                x, signs = self._expand(given, layer, keep=keep)
            residual = given if layer.residual else None
            ask = place in wanted and window == 2
            x, middle, found = self._separable(x, layer, residual, sizes[place - 1], sizes[place], keep=keep, ask=ask)
            kept.append((signs, middle))
            if found is not None:
                means[place] = found
            elif place in wanted:
                means[place] = self._means(x, sizes[place], window)
        return [means[place] for place in wanted], kept if keep else []

    def _map(self, images: Tensor, places: int, channels: int) -> Tensor:
        return torch.empty((len(images), places, channels), dtype=self.dtype, device=images.device)

    @staticmethod
    def _signs(x: Tensor) -> Tensor:
        return torch.empty(x.shape, dtype=torch.int8, device=x.device)

    def _expand(self, x: Tensor, layer: _Separable, *, keep: bool) -> tuple[Tensor, Tensor]:
        assert layer.expand is not None
        weight, _, bias = layer.expand
        places, hidden = x.shape[0] * x.shape[1], layer.hidden
        made = self._map(x, x.shape[1], hidden)
        signs = self._signs(made) if keep else made
        part = min(hidden, EXPAND.part)
        _launch(
            "pointwise", (-(-places // EXPAND.block), hidden // part), x, weight, bias, layer.slope_in, made, signs,
            places, KEEP=keep, BLOCK=EXPAND.block, IN=weight.shape[0], OUT=hidden, PART=part, num_warps=EXPAND.warps,
        )  # fmt: skip
        return made, signs

    def _separable(
        self,
        x: Tensor,
        layer: _Separable,
        residual: Tensor | None,
        size: tuple[int, int],
        size_out: tuple[int, int],
        *,
        keep: bool,
        ask: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The unit's output, the signs before its inner activation, and its means over windows of 2x2."""
        (rows, columns), (rows_out, columns_out) = size, size_out
        count, places = len(x), rows_out * columns_out
        out = self._map(x, places, layer.outputs)
        signs = torch.empty((count, places, layer.hidden), dtype=torch.int8, device=x.device) if keep else out
        folded = _foldable(size_out)
        means = None
        if ask and folded:
            means = torch.empty((count, rows_out // 2 * (columns_out // 2) * layer.outputs), device=x.device)
        pads = (self._pad(rows, layer.stride, layer.tf_same), self._pad(columns, layer.stride, layer.tf_same))
        _launch(
            "depthwise_pointwise", (-(-places // FORWARD.block), count), x, *layer.depthwise, layer.slope,
            layer.project[0], layer.project[2], out if residual is None else residual, signs, out,
            out if means is None else means, rows, columns, rows_out, columns_out, *pads,
            RESIDUAL=residual is not None, KEEP=keep, MEANS=means is not None, FOLDED=folded, STRIDE=layer.stride,
            BLOCK=FORWARD.block, IN=layer.hidden, OUT=layer.outputs, PART=min(layer.hidden, FORWARD.part),
            num_warps=FORWARD.warps,
        )  # fmt: skip
        return out, signs, means

    def _means(self, x: Tensor, size: tuple[int, int], window: int) -> Tensor:
        rows, columns, channels = *(side // window for side in size), x.shape[2]
        made = torch.empty((len(x), rows * columns * channels), device=x.device)
        _launch(
            "window_means", (-(-rows * columns // MEANS.block), len(x)), x, made, *size, rows, columns, WINDOW=window,
            BLOCK=MEANS.block, CHANNELS=channels, num_warps=MEANS.warps,
        )  # fmt: skip
        return made

    def backward(
        self, images: Tensor, kept: Sequence[tuple[Tensor, Tensor]], given: dict[int, Tensor], window: int
    ) -> Tensor:
        """The derivative by the images, (N, 3, H, W), from those by the means, by unit."""
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
            (rows, columns), (rows_out, columns_out) = sizes[place - 1], sizes[place]
            places, hidden = rows_out * columns_out, layer.hidden
            pooled_size = (rows_out // window, columns_out // window)
            inner = self._map(images, places, hidden)
            part = min(hidden, BACK_POINTWISE.part)
            _launch(
                "pointwise_backward", (-(-places // BACK_POINTWISE.block), count, hidden // part),
                inner if above is None else above, self.scale if pooled is None else pooled, layer.project[1], middle,
                layer.slope, inner, rows_out, columns_out, *pooled_size, GRADIENT=above is not None,
                POOLED=pooled is not None, WINDOW=window, BLOCK=BACK_POINTWISE.block, IN=hidden, OUT=layer.outputs,
                PART=part, num_warps=BACK_POINTWISE.warps,
            )  # fmt: skip
            weight = self.transposed if layer.expand is None else layer.expand[1]
            below = self._map(images, rows * columns, weight.shape[1])
            pooled_in = given.get(0) if place == 1 else None
            passed, pooled = (above, pooled) if layer.residual else (None, None)
            pads = (self._pad(rows, layer.stride, layer.tf_same), self._pad(columns, layer.stride, layer.tf_same))
            kinds = layer.stride**2
            most = -(-rows // layer.stride) * -(-columns // layer.stride)
            _launch(
                "depthwise_backward", (-(-most // BACK_DEPTHWISE.block), count, kinds), inner, layer.depthwise[0],
                signs, layer.slope_in, self.scale if pooled_in is None else pooled_in, weight,
                below if passed is None else passed, self.scale if pooled is None else pooled, below, rows, columns,
                rows_out, columns_out, *pads, rows // window, columns // window, *pooled_size,
                POOLED_IN=pooled_in is not None, RESIDUAL=passed is not None, POOLED=pooled is not None,
                WINDOW=window, STRIDE=layer.stride, BLOCK=BACK_DEPTHWISE.block, IN=hidden, OUT=weight.shape[1],
                PART=min(hidden, BACK_DEPTHWISE.part), num_warps=BACK_DEPTHWISE.warps,
            )  # fmt: skip
            above = below
        assert above is not None
        gradient = torch.empty_like(images)
        left, right = self.columns
        height, width = images.shape[2:]
        pads = (self._pad(height, 2, self.tf_same), self._pad(right - left, 2, self.tf_same))
        _launch(
            "stem_backward", (-(-height * width // BACK_STEM.block), count), above, self.scale, gradient, height,
            width, right - left, left, *sizes[0], *pads, BLOCK=BACK_STEM.block, num_warps=BACK_STEM.warps,
        )  # fmt: skip
        return gradient


def _foldable(size: tuple[int, int]) -> bool:
    """Whether a map falls into windows of 2x2."""
    return size[0] % 2 == 0 and size[1] % 2 == 0


# Found by trying some on an H200.
STEM = _Launch(64, 64, 4)
EXPAND = _Launch(64, 128, 4)
FORWARD = _Launch(32, 128, 4)
BACK_POINTWISE = _Launch(128, 128, 4)
BACK_DEPTHWISE = _Launch(32, 128, 4)
BACK_STEM = _Launch(256, 1, 4)
MEANS = _Launch(32, 1, 4)


class _Fused(torch.autograd.Function):
    """The means as a function of the images."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, model: FusedMobileFaceNet, wanted: tuple[int, ...], window: int) -> Any:
        keep = ctx.needs_input_grad[0]
        means, kept = model.forward(images, wanted, window, keep)
        ctx.model, ctx.wanted, ctx.window, ctx.kept = model, wanted, window, kept
        ctx.save_for_backward(images)
        return tuple(means)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (images,) = ctx.saved_tensors
        given = {place: one.contiguous() for place, one in zip(ctx.wanted, gradients, strict=True)}
        return ctx.model.backward(images, ctx.kept, given, ctx.window), None, None, None


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
    slope = _slope(stem.activation, stem.conv.out_channels, stem.conv.weight) if isinstance(stem, ConvLayer) else None
    second = _stem_separable(units[1], slope, dtype) if slope is not None else None
    if not isinstance(stem, ConvLayer) or second is None:
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
    slope = _slope(unit.activation, unit.conv.out_channels, unit.conv.weight)
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
    slope = _slope(depthwise.activation, channels, depthwise.conv.weight)
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
    return _Separable(
        None, slope_in, _depthwise(depthwise, dtype), slope, project, 1, depthwise.tf_same, residual=False
    )


def _bottleneck(unit: Bottleneck, dtype: torch.dtype) -> _Separable | None:
    hidden = unit.depthwise.conv.out_channels
    slopes = [_slope(layer.activation, hidden, layer.conv.weight) for layer in (unit.expand, unit.depthwise)]
    widths = (hidden, unit.expand.conv.in_channels, unit.project.conv.out_channels)
    if slopes[0] is None or slopes[1] is None or not all(map(_fits, widths)):
        return None
    return _Separable(
        _matrix(unit.expand, dtype),
        slopes[0],
        _depthwise(unit.depthwise, dtype),
        slopes[1],
        _matrix(unit.project, dtype),
        unit.depthwise.conv.stride[0],
        unit.depthwise.tf_same,
        unit.residual,
    )


_ROW_BLOCK = 4096
_MOVE_BLOCK = 512


def normal_rows(seeds: Tensor, draws: Tensor, like: Tensor, scale: float) -> Tensor:
    """Normal numbers as ``like`` (N, ...), a row of each seed, (N,) int64, at its number of draws, (N,), before.

    Philox: a number follows from seed and place alone, so that one kernel draws for all rows and no row depends on
    another. The count of a row's numbers is a multiple of 4.
    """
    made = torch.empty_like(like)
    quarter = made[0].numel() // 4 if len(made) else 0
    _launch("normal_rows", (-(-quarter // 1024), len(made)), seeds, draws, made, scale, quarter, BLOCK=1024)
    return made


def move(current: Tensor, gradient: Tensor, factor: Tensor, smoothing: Tensor) -> Tensor:
    """Images moved against their smoothed gradients: current - factor * smoothed, within [0, 1].

    Args:
        current: images (N, 3, H, W).
        gradient: of the same shape; what is not finite counts as 0.
        factor: (N,).
        smoothing: an odd square kernel; beyond the border there are zeros.
    """
    current, gradient = current.contiguous(), gradient.contiguous()
    made = torch.empty_like(current)
    height, width = current.shape[2:]
    grid = (-(-height * width // _MOVE_BLOCK), 3 * len(current))
    _launch(
        "descend", grid, current, gradient, factor, smoothing, made, height, width, RADIUS=smoothing.shape[-1] // 2,
        BLOCK=_MOVE_BLOCK,
    )  # fmt: skip
    return made


def _row_sums(kind: str, own: Tensor, goal: Tensor) -> Tensor:
    blocks = -(-own.shape[1] // _ROW_BLOCK)
    parts = torch.empty((len(own), blocks), device=own.device)
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
