"""What every step of the transform computes, made cheaper.

The transform goes through a shallow model forwards and backwards at every step, and only the image is to change.
torch's backward pass of a parametric ReLU computes the slopes' gradient as well, frozen or not. On a processor, its
averages over windows of maps with channels first visit one number at a time, and the gradient of a picture's three
channels is found with room for sixteen, that of depthwise convolutions with a stride and in bfloat16 one number at a
time. ``benchmarks/transform.py --layers`` times all against torch's own.

Where maps lie with channels last the last bits may differ from torch's; else they are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW = 4
"""Channels of a convolution's input up to which its gradient is found in blocks: those of a picture."""


def on_a_processor(maps: Tensor) -> bool:
    """Whether maps are a processor's, and lie with channels last: where what is cheaper may differ in last bits."""
    last = maps.ndim == 4 and not maps.is_contiguous() and maps.is_contiguous(memory_format=torch.channels_last)
    return last and maps.device.type == "cpu"


def _of_input_alone(values: Tensor, weight: Tensor) -> bool:
    """Whether a gradient is wanted, and of a layer's input only."""
    return torch.is_grad_enabled() and values.requires_grad and not weight.requires_grad


class _InputGradient(torch.autograd.Function):
    """A parametric ReLU whose slopes have no gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, slopes: Tensor) -> Tensor:
        ctx.save_for_backward(values, slopes)
        return torch.prelu(values, slopes)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        values, slopes = ctx.saved_tensors
        by_channel = slopes.to(gradient.dtype).view(1, -1, *(1,) * (values.ndim - 2))
        above = torch.ops.aten.threshold_backward(gradient, values.to(gradient.dtype), 0)
        if on_a_processor(above):
            # In place, where a last bit may differ: new memory for a map costs more than what is computed.
            return above.lerp_(gradient, by_channel).to(values.dtype), None
        # One of the two terms is 0 everywhere, so nothing is rounded twice; torch.where is slower on a processor.
        return above.addcmul_(gradient - above, by_channel).to(values.dtype), None


class FrozenPReLU(nn.PReLU):
    """A parametric ReLU that will not be trained: the numbers of :class:`torch.nn.PReLU`.

    Shape:
        input and output: (N, C, ...).
    """

    def __init__(self, trained: nn.PReLU) -> None:
        nn.Module.__init__(self)
        self.num_parameters = trained.num_parameters
        self.weight = nn.Parameter(trained.weight.detach(), requires_grad=False)

    def forward(self, input: Tensor) -> Tensor:
        """Its values where they are positive, elsewhere times the channel's slope."""
        if not _of_input_alone(input, self.weight):
            return super().forward(input)
        return _InputGradient.apply(input, self.weight)  # type: ignore[no-any-return, no-untyped-call]


@dataclass(frozen=True)
class _Reach:
    """Where along an axis the gradient of a convolution's input comes from, in blocks of two places.

    With stride s, padding p and weights W, the gradient at place 2 b + r - shift is

    .. math:: \\sum_{d = -before}^{after} W[r + p - shift - s d]^T \\, g[2 b / s + d]

    of the output's gradient g.
    """

    shift: int
    before: int
    after: int

    @classmethod
    def least(cls, stride: int, padding: int, kernel: int, given: int, made: int) -> _Reach:
        """The shorter of the two, for an axis of ``given`` places that became ``made``.

        A block reaches as far before its own place as zeros have to stand on either side of g for the last one.
        """
        found = []
        for shift in range(2):
            after = (1 + padding - shift) // stride
            blocks = -(-(given + shift) // 2)
            before = max((kernel - 1 - padding + shift) // stride, 2 // stride * (blocks - 1) + after - (made - 1))
            found.append(cls(shift, before, after))
        return min(found, key=lambda one: one.before + one.after)

    def edges(self, stride: int, padding: int, kernel: int) -> tuple[int, int]:
        """Zeros to stand before and behind the weights for all that is summed; fewer than none where some are not."""
        first = padding - self.shift - stride * self.after
        return -first, 2 + padding - self.shift + stride * self.before - kernel


class _InBlocks(torch.autograd.Function):
    """A convolution with the gradient of its input as one too, whose channels are the four places of a block."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.given, ctx.dtype, ctx.stride, ctx.padding = values.shape[2:], values.dtype, stride, padding
        return F.conv2d(values, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        how, sizes = (ctx.stride, ctx.padding), (weight.shape[2:], ctx.given, gradient.shape[2:])
        down, across = (_Reach.least(*how, *axis) for axis in zip(*sizes, strict=True))
        edges = (*across.edges(*how, weight.shape[3]), *down.edges(*how, weight.shape[2]))
        taps = F.pad(weight.to(gradient.dtype), edges).flip(2, 3)
        rows, columns = (axis.before + axis.after + 1 for axis in (down, across))
        places = [
            taps[:, :, 1 - row :: ctx.stride, 1 - column :: ctx.stride][:, :, :rows, :columns]
            for row in range(2)
            for column in range(2)
        ]
        kernel = torch.stack(places, 1).flatten(1, 2).transpose(0, 1).contiguous(memory_format=torch.channels_last)
        blocks = F.conv2d(gradient, kernel, None, 2 // ctx.stride, (down.before, across.before))
        # To places by what stands side by side in memory: a block's row.
        made = blocks.permute(0, 2, 3, 1)
        count, height, width, _ = made.shape
        made = made.reshape(count, height, width, 2, -1).transpose(2, 3)
        made = made.reshape(count, 2 * height, 2 * width, -1).permute(0, 3, 1, 2)
        made = made[:, :, down.shift : down.shift + ctx.given[0], across.shift : across.shift + ctx.given[1]]
        return made.to(ctx.dtype), None, None, None, None


class _FrozenConv(nn.Conv2d):
    """A convolution that will not be trained, with another one's settings and weights."""

    def __init__(self, trained: nn.Conv2d) -> None:
        nn.Module.__init__(self)
        for name in nn.Conv2d.__constants__:
            setattr(self, name, getattr(trained, name))
        self.weight = nn.Parameter(trained.weight.detach(), requires_grad=False)
        self.bias = None if trained.bias is None else nn.Parameter(trained.bias.detach(), requires_grad=False)

    @classmethod
    def fits(cls, layer: nn.Conv2d) -> bool:
        """Whether a convolution is of the kind whose gradient is found here otherwise than by torch."""
        return layer.dilation == (1, 1) and layer.padding_mode == "zeros" and isinstance(layer.padding, tuple)


class FrozenImageConv(_FrozenConv):
    """A convolution of a picture's few channels that will not be trained.

    On a processor, and with channels last, its gradient is found in blocks of 2 x 2 places: torch's own has room for
    sixteen channels where there are three.

    Shape:
        input: (N, C, H, W), C of at most :data:`FEW`; output: as of :class:`torch.nn.Conv2d`.
    """

    @classmethod
    def fits(cls, layer: nn.Conv2d) -> bool:
        """Whether it is one: all axes alike, and no gradient of a place's from nothing but zeros around."""
        few = layer.in_channels <= FEW and layer.groups == 1 and layer.stride in ((1, 1), (2, 2))
        alike = len(set(layer.padding)) == 1 and int(layer.padding[0]) < min(layer.kernel_size)
        return super().fits(layer) and few and alike

    def forward(self, input: Tensor) -> Tensor:
        """The convolution."""
        if not (_of_input_alone(input, self.weight) and on_a_processor(input)):
            return super().forward(input)
        found = _InBlocks.apply(input, self.weight, self.bias, self.stride[0], self.padding[0])  # type: ignore[no-untyped-call]
        return found  # type: ignore[no-any-return]


class _InFloat32(torch.autograd.Function):
    """A depthwise convolution whose gradient is found in float32, whatever kind of number it comes and goes in."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.given, ctx.dtype, ctx.stride, ctx.padding = values.shape, values.dtype, stride, padding
        return F.conv2d(values, weight, bias, stride, padding, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        # Its shape and its layout are looked at, and nothing that is in it.
        like = torch.empty(ctx.given, dtype=torch.float32, device="cpu", memory_format=torch.channels_last)
        found = torch.ops.aten.convolution_backward(
            gradient.float(), like, weight.float(), None, ctx.stride, ctx.padding, (1, 1), False, (0, 0), len(weight),
            (True, False, False),
        )[0]  # fmt: skip
        return found.to(ctx.dtype), None, None, None, None


def strided_depthwise(values: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any) -> Tensor:
    """:func:`torch.nn.functional.conv2d` of maps (N, C, H, W) by a kernel (C, 1, k, l) a channel, with a stride.

    A processor finds the gradient of such a convolution in bfloat16 far more slowly than in float32, so there it is
    found in float32, where the weights are frozen.
    """
    half = values.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
    if half and _of_input_alone(values, weight) and on_a_processor(values):
        return _InFloat32.apply(values, weight, bias, stride, padding)  # type: ignore[no-any-return, no-untyped-call]
    return F.conv2d(values, weight, bias, stride, padding, 1, len(weight))


class FrozenDepthwise(_FrozenConv):
    """A depthwise convolution with a stride that will not be trained; see :func:`strided_depthwise`.

    Shape:
        input: (N, C, H, W); output: as of :class:`torch.nn.Conv2d`.
    """

    @classmethod
    def fits(cls, layer: nn.Conv2d) -> bool:
        """Whether it is one: a channel in and out for each group, and a stride."""
        depthwise = layer.groups == layer.in_channels == layer.out_channels > 1
        return super().fits(layer) and depthwise and max(layer.stride) > 1

    def forward(self, input: Tensor) -> Tensor:
        """The convolution."""
        return strided_depthwise(input, self.weight, self.bias, self.stride, self.padding)


def _cheaper(layer: nn.Module) -> nn.Module:
    """What takes a layer's place in a frozen network: one of ours, or the layer itself."""
    if type(layer) is nn.PReLU:
        return FrozenPReLU(layer)
    if type(layer) is nn.Conv2d:
        for kind in (FrozenImageConv, FrozenDepthwise):
            if kind.fits(layer):
                return kind(layer)
    return layer


def freeze(network: nn.Module) -> None:
    """Freeze a network in place: no gradients for parameters, evaluation mode, and cheaper layers where there are."""
    network.requires_grad_(False)
    network.eval()
    made: dict[int, nn.Module] = {}
    # A module may hang in several places: each parent's view of it is exchanged for the same one.
    for parent in list(network.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and (cheaper := made.setdefault(id(child), _cheaper(child))) is not child:
                setattr(parent, name, cheaper)


class _WindowMeans(torch.autograd.Function):
    """Means over windows of w x w: sums of w * w strided views, in the order in which torch takes them."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, window: int) -> Tensor:
        height, width = (size // window * window for size in values.shape[2:])
        ctx.shape, ctx.window = values.shape, window
        views = [
            values[:, :, row:height:window, column:width:window] for row in range(window) for column in range(window)
        ]
        total = views[0] + views[1]
        for view in views[2:]:
            total += view
        return total.div_(window * window)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        count, channels, rows, columns = gradient.shape
        window = ctx.window
        spread = (gradient / (window * window))[:, :, :, None, :, None]
        spread = spread.expand(count, channels, rows, window, columns, window)
        spread = spread.reshape(count, channels, rows * window, columns * window)
        missing = (ctx.shape[3] - columns * window, ctx.shape[2] - rows * window)
        return F.pad(spread, (0, missing[0], 0, missing[1])) if any(missing) else spread, None


def window_means(values: Tensor, window: int) -> Tensor:
    """Means of maps (N, C, H, W) over windows of w x w that do not overlap, (N, C, H // w, W // w).

    Bit for bit :func:`torch.nn.functional.avg_pool2d`, in the memory layout of the maps.
    """
    if window == 1:
        return values
    if values.device.type != "cpu" or values.dtype != torch.float32 or not values.is_contiguous():
        return F.avg_pool2d(values, window)
    return _WindowMeans.apply(values, window)  # type: ignore[no-any-return, no-untyped-call]
