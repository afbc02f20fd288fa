"""Seeds that come from what they are for, and arithmetic that gives the same bits twice."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derived_seed(purpose: str, content: bytes = b"") -> int:
    """A seed of 63 bits: a hash of what it is for, and of the content that it shall depend on."""
    digest = hashlib.sha256(purpose.encode() + content).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def derived_generator(purpose: str) -> torch.Generator:
    """A generator on the CPU, whose draws are the same for every device, with a :func:`derived_seed`."""
    return torch.Generator().manual_seed(derived_seed(purpose))


@contextmanager
def reproducible() -> Iterator[None]:
    """Optimise whatever the caller's mode is, by algorithms that give the same bits twice (no TensorFloat-32)."""
    exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with torch.inference_mode(False), torch.enable_grad(), exact:
        yield
