"""Images as tensors and as what is uploaded.

Everywhere in pmtlib an image is a float32 tensor (N, 3, H, W), RGB, in [0, 1].
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

UInt8Image = NDArray[np.uint8]
"""(H, W, 3) RGB, 0..255."""


def to_tensor(images: Sequence[UInt8Image] | UInt8Image, device: torch.device | str = "cpu") -> Tensor:
    """8-bit images (H, W, 3), or a stack (N, H, W, 3), to a float32 tensor (N, 3, H, W) in [0, 1]."""
    # np.stack copies, so that a read-only array of a decoder does no harm.
    stack = np.stack([images] if isinstance(images, np.ndarray) and images.ndim == 3 else list(images))
    if stack.dtype != np.uint8 or stack.ndim != 4 or stack.shape[3] != 3:
        raise ValueError(f"expected 8-bit RGB images (H, W, 3), got {stack.dtype} {stack.shape}")
    return torch.from_numpy(stack).to(device).permute(0, 3, 1, 2).to(torch.float32).div(255.0).contiguous()


def to_uint8(images: Tensor) -> NDArray[np.uint8]:
    """A tensor (N, 3, H, W) in [0, 1] to 8-bit images (N, H, W, 3), rounded to nearest, clipped."""
    scaled = images.detach().to("cpu", torch.float32).clamp(0.0, 1.0).mul(255.0).round()
    array: NDArray[np.uint8] = scaled.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return array


def quantise(images: Tensor) -> Tensor:
    """What a receiver of the 8-bit PNG sees: ``images`` (N, 3, H, W) rounded to multiples of 1/255."""
    return images.detach().clamp(0.0, 1.0).mul(255.0).round().div(255.0)


def png_bytes(image: UInt8Image) -> bytes:
    """An 8-bit RGB PNG without any metadata chunk; the same pixels always give the same bytes."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=False, compress_level=6)
    return buffer.getvalue()


def write_atomic(path: Path, content: bytes) -> None:
    """Write ``content`` so that ``path`` is whole or absent, whatever happens meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def batches(count: int, size: int) -> Iterable[slice]:
    """Slices of at most ``size`` that cover ``range(count)``."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
