"""What a step of the transform costs: arithmetic and memory traffic, counted, and what a machine can do, measured.

Counting comes before timing: a time says little without what had to be computed and how fast the machine could do it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from pmtlib.shallow import ShallowModel

_VIEWS = (
    "view",
    "expand",
    "slice",
    "select",
    "transpose",
    "permute",
    "detach",
    "alias",
    "as_strided",
    "unsqueeze",
    "t",
)


@dataclass(frozen=True)
class Cost:
    """Work on one image.

    Attributes:
        flops: floating-point operations of convolutions and matrix products, a multiplication and an addition each.
        traffic: bytes that operations read and write when each goes to memory for its inputs and outputs: what is
            moved without fusion and without caches.
    """

    flops: float
    traffic: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.traffic + other.traffic)


@dataclass(frozen=True)
class Machine:
    """What a device can do.

    Attributes:
        flops: floating-point operations a second, of a large product of float32 matrices.
        bandwidth: bytes a second that a copy of a large array reads and writes.
    """

    flops: float
    bandwidth: float


class _Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of every operation's tensors, in and out."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ not in _VIEWS:
            held = [*tree_iter((args, kwargs)), *tree_iter(made)]
            self.bytes += sum(one.numel() * one.element_size() for one in held if isinstance(one, Tensor))
        return made


def step_cost(shallow: ShallowModel, images: Tensor) -> tuple[Cost, Cost]:
    """Forward pass, and backward pass to the input alone, of a shallow model on images (N, 3, H, W): cost an image.

    The loss is the squared size of every unit's output: a step of the transform needs the two passes for the obfuscated
    image and, where the photograph is augmented anew, another forward pass for it.
    """
    held = images.detach().clone().requires_grad_(True)
    flops: list[float] = []
    traffic: list[float] = []
    with FlopCounterMode(display=False) as arithmetic, _Traffic() as bytes_moved:
        outputs = shallow(held)
        flops.append(arithmetic.get_total_flops())
        traffic.append(bytes_moved.bytes)
        # Not autograd.grad, which the counter of operations does not support.
        torch.stack([output.square().sum() for output in outputs]).sum().backward()  # type: ignore[no-untyped-call]
        flops.append(arithmetic.get_total_flops() - flops[0])
        traffic.append(bytes_moved.bytes - traffic[0])
    count = len(images)
    return Cost(flops[0] / count, traffic[0] / count), Cost(flops[1] / count, traffic[1] / count)


def wait_for(device: torch.device) -> None:
    """Until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that some work takes, its device included."""
    wait_for(device)
    begun = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - begun


def measure(device: torch.device, *, size: int = 0, repeats: int = 5, dtype: torch.dtype = torch.float32) -> Machine:
    """Measure a device: the best of some products of matrices and of some copies.

    Args:
        device: which.
        size: rows of the matrices; by default what keeps the device busy for a moment.
        repeats: of each.
        dtype: of the matrices.
    """
    rows = size or (8192 if device.type == "cuda" else 1536)
    left, right = (torch.randn(rows, rows, device=device, dtype=dtype) for _ in range(2))
    source = torch.randn((rows * rows * 8) if not size else rows * rows, device=device)
    target = torch.empty_like(source)
    left @ right, target.copy_(source)  # the first of each is slower
    product = min(timed(lambda: left @ right, device) for _ in range(repeats))
    copy = min(timed(lambda: target.copy_(source), device) for _ in range(repeats))
    return Machine(2 * rows**3 / product, 2 * source.numel() * source.element_size() / copy)
