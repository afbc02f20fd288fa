"""Seeds that come from what they are for, and arithmetic that gives the same bits twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def derived_seed(purpose: str, content: bytes = b"") -> int:
    """A seed of 63 bits: a hash of what it is for, and of the content that it shall depend on."""
    digest = hashlib.sha256(purpose.encode() + content).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def derived_generator(purpose: str) -> torch.Generator:
    """A generator on the CPU, whose draws are the same for every device, with a :func:`derived_seed`."""
    return torch.Generator().manual_seed(derived_seed(purpose))


@contextmanager
def reproducible() -> Iterator[None]:
    """Optimise whatever the caller's mode is, by algorithms that give the same bits twice (no TensorFloat-32).

    On CUDA the derivatives of bilinear resizing, of dlib's network and some others, and of the augmentations ``affine``
    and ``mix``, are sums in an order that torch does not fix: last bits may differ there.
    """
    with torch.inference_mode(False), torch.enable_grad(), _exact():
        yield


@contextmanager
def _exact() -> Iterator[None]:
    """CuDNN's algorithms that give the same bits twice, and float32 that is nothing less.

    torch has two ways to say how exact float32 is, and refuses to read the older one where the two disagree: both are
    set, and set back, the newer one last.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    switches = {name: getattr(cudnn, name) for name in ("enabled", "benchmark", "deterministic")}
    older = (_held(lambda: cudnn.allow_tf32), _held(torch.get_float32_matmul_precision))
    parts = (matmul, getattr(cudnn, "conv", None), getattr(cudnn, "rnn", None))
    newer: list[Any] = [part for part in parts if hasattr(part, "fp32_precision")]
    held = [part.fp32_precision for part in newer]

    def put(allowed: bool | None, precision: str | None, each: Sequence[str]) -> None:
        if allowed is not None:
            cudnn.allow_tf32 = allowed
        if precision is not None:
            torch.set_float32_matmul_precision(precision)
        for part, one in zip(newer, each, strict=True):
            part.fp32_precision = one

    try:
        cudnn.enabled, cudnn.benchmark, cudnn.deterministic = True, False, True
        put(False, "highest", ["ieee"] * len(newer))
        yield
    finally:
        put(*older, held)
        for name, value in switches.items():
            setattr(cudnn, name, value)


def _held(read: Callable[[], T]) -> T | None:
    """A setting of torch; None where it is set in the newer way alone."""
    try:
        return read()
    except RuntimeError:
        return None
