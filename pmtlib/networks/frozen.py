"""What every step of the transform computes, made cheaper with the same bits coming out.

The transform goes through a shallow model forwards and backwards at every step, and only the image is to change.
torch's backward pass of a parametric ReLU computes the slopes' gradient as well, frozen or not, and its averages over
windows visit one number at a time on a processor. ``benchmarks/transform.py --layers`` times both against torch's own.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
        # One of the two terms is 0 everywhere, so nothing is rounded twice; torch.where is slower on a processor.
        above = torch.ops.aten.threshold_backward(gradient, values.to(gradient.dtype), 0)
        return above.addcmul_(gradient - above, by_channel).to(values.dtype), None


class FrozenPReLU(nn.PReLU):
    """A parametric ReLU that will not be trained: bit for bit the numbers of :class:`torch.nn.PReLU`.

    Shape:
        input and output: (N, C, ...).
    """

    def __init__(self, trained: nn.PReLU) -> None:
        nn.Module.__init__(self)
        self.num_parameters = trained.num_parameters
        self.weight = nn.Parameter(trained.weight.detach(), requires_grad=False)

    def forward(self, input: Tensor) -> Tensor:
        """Its values where they are positive, elsewhere times the channel's slope."""
        if not (torch.is_grad_enabled() and input.requires_grad):
            return super().forward(input)
        return _InputGradient.apply(input, self.weight)  # type: ignore[no-any-return, no-untyped-call]


def freeze(network: nn.Module) -> None:
    """Freeze a network in place: no gradients for parameters, evaluation mode, and cheaper layers where there are."""
    network.requires_grad_(False)
    network.eval()
    made: dict[int, FrozenPReLU] = {}
    # A module may hang in several places: each parent's view of it is exchanged for the same one.
    for parent in list(network.modules()):
        for name, child in list(parent._modules.items()):
            if type(child) is nn.PReLU:
                setattr(parent, name, made.setdefault(id(child), FrozenPReLU(child)))


class _WindowMeans(torch.autograd.Function):
    """Means over windows of w x w: sums of w * w strided views, in the order in which torch takes them."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, window: int) -> Tensor:
        height, width = (size // window * window for size in values.shape[2:])
        ctx.shape, ctx.window, ctx.channels_last = values.shape, window, not values.is_contiguous()
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
        spread = gradient / (window * window)
        if ctx.channels_last:
            # The same numbers, laid down with a place's channels side by side.
            spread = spread.permute(0, 2, 3, 1)[:, :, None, :, None, :]
            spread = spread.expand(count, rows, window, columns, window, channels)
            spread = spread.reshape(count, rows * window, columns * window, channels).permute(0, 3, 1, 2)
        else:
            spread = spread[:, :, :, None, :, None].expand(count, channels, rows, window, columns, window)
            spread = spread.reshape(count, channels, rows * window, columns * window)
        missing = (ctx.shape[3] - columns * window, ctx.shape[2] - rows * window)
        return F.pad(spread, (0, missing[0], 0, missing[1])) if any(missing) else spread, None


def window_means(values: Tensor, window: int) -> Tensor:
    """Means of maps (N, C, H, W) over windows of w x w that do not overlap, (N, C, H // w, W // w).

    Bit for bit :func:`torch.nn.functional.avg_pool2d`, in the memory layout of the maps.
    """
    if window == 1:
        return values
    dense = values.is_contiguous() or values.is_contiguous(memory_format=torch.channels_last)
    if values.device.type != "cpu" or values.dtype != torch.float32 or not dense:
        return F.avg_pool2d(values, window)
    return _WindowMeans.apply(values, window)  # type: ignore[no-any-return, no-untyped-call]
