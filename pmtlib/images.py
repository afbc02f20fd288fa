"""Images as tensors and as what is uploaded.

Everywhere in pmtlib an image is a float32 tensor (N, 3, H, W), RGB, in [0, 1].
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
import re
import secrets
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pmtlib.paths import is_cached, make_folder

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
    # On their device, from which a byte a number is copied then.
    scaled = images.detach().to(torch.float32).clamp(0.0, 1.0).mul(255.0).round()
    array: NDArray[np.uint8] = scaled.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return array


def quantise(images: Tensor) -> Tensor:
    """What a receiver of the 8-bit PNG sees: ``images`` (N, 3, H, W) rounded to multiples of 1/255."""
    return images.detach().clamp(0.0, 1.0).mul(255.0).round().div(255.0)


def add_noise(
    images: Tensor, sigma: float, seed: int, *, clamp: bool = True, indices: Sequence[int] | None = None
) -> Tensor:
    """Gaussian noise on each image, as in Eq. 9 of the paper: a draw from N(image, sigma^2) in every value.

    The noise of an image comes from the seed and the image alone, whatever batch it is in, and is drawn on the CPU,
    whatever device it lives on. It is the same direction for every ``sigma``, so that a curve over ``sigma`` is
    smooth; the mean over several draws takes several seeds.

    Equal images get equal noise, and so do two images of one index. Where a noisy image is compared with a noisy
    version of itself, or of what was made of it, give the two sides **different seeds**.

    Args:
        images: (N, 3, H, W) in [0, 1]; with ``clamp=False`` any floats (N, ...), such as feature maps.
        sigma: standard deviation, in units of ``images``.
        seed: base of the draws.
        clamp: clip the result to [0, 1]: what a service holds is an image.
        indices: (N,) what stands for each image beside the seed, in place of its content. For features: the last bits
            of a network's output depend on the batch, and they would decide the draw.

    Returns:
        A tensor like ``images``.

    Raises:
        ValueError: ``sigma`` is negative or not finite, ``images`` holds no floats, ``indices`` has another length,
            or there are values outside of [0, 1] and ``clamp`` is set.
    """
    if not (math.isfinite(sigma) and sigma >= 0):
        raise ValueError(f"sigma must be at least 0, got {sigma}")
    if not images.is_floating_point() or images.ndim < 2:
        raise ValueError(f"expected floats (N, ...), got {images.dtype} {tuple(images.shape)}")
    if indices is not None and len(indices) != len(images):
        raise ValueError(f"expected {len(images)} indices, got {len(indices)}")
    values = images.detach().to("cpu", torch.float32)
    # Written so that a NaN, which compares false with everything, is refused as well.
    if clamp and values.numel() and not (float(values.min()) >= -1e-6 and float(values.max()) <= 1.0 + 1e-6):
        raise ValueError("expected images in [0, 1]; features take clamp=False")
    noise = torch.empty(images.shape, dtype=torch.float32)
    for position, image in enumerate(values):
        own = image.contiguous().numpy().tobytes() if indices is None else f"index {indices[position]}".encode()
        digest = hashlib.sha256(f"noise:{seed}:".encode() + own).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        noise[position] = torch.randn(image.shape, generator=generator)
    noisy = images + sigma * noise.to(images.device, images.dtype)
    return noisy.clamp(0.0, 1.0) if clamp else noisy


def png_bytes(image: UInt8Image) -> bytes:
    """An 8-bit RGB PNG without any metadata chunk; the same pixels always give the same bytes."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=False, compress_level=6)
    return buffer.getvalue()


def recoded(images: Tensor, kind: str, quality: int) -> Tensor:
    """Images (N, 3, H, W) in [0, 1] after a file of a lossy kind (``jpeg``, ``webp``), rounded to 8 bits before."""
    decoded = []
    for image in to_uint8(images):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format=kind.upper(), quality=quality)
        decoded.append(np.array(Image.open(buffer).convert("RGB")))
    return to_tensor(decoded, images.device).to(images.dtype) if decoded else images


_SHOWN = 40
"""Characters of a file's name that are in the name of its unfinished one."""
_LEFT = re.compile(r"\.(.+)\.[a-z0-9_]{8}\.part", re.DOTALL)


def write_atomic(path: Path, content: bytes) -> None:
    """Write ``content`` so that ``path`` is whole or absent, whatever happens meanwhile.

    In the cache only the user can read it.

    Raises:
        OSError: it cannot be written; what was there before is as it was.
    """
    make_folder(path.parent)
    # Named before it is made: an interruption between the two would leave it behind.
    temporary = path.parent / f".{path.name[:_SHOWN]}.{secrets.token_hex(4)}.part"
    try:
        with os.fdopen(_make(temporary, 0o600 if is_cached(path) else 0o666), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except FileExistsError:
        # Somebody else's of the same name.
        raise
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _make(path: Path, mode: int) -> int:
    """Make a file of a mode, from which the system takes the process's umask, and give its descriptor."""
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), mode)


def sweep(folder: Path, beginnings: Collection[str]) -> None:
    """Delete what processes that were killed in :func:`write_atomic` left in a folder.

    Nobody else may be writing there: what is being written looks the same.

    Args:
        folder: not looked into more deeply.
        beginnings: of the names of the files that were to be written; of other files nothing is deleted.
    """
    shown = tuple(beginning[:_SHOWN] for beginning in beginnings)
    with contextlib.suppress(OSError):
        for path in list(folder.iterdir()):
            left = _LEFT.fullmatch(path.name)
            if left and left[1].startswith(shown) and path.is_file() and not path.is_symlink():
                with contextlib.suppress(OSError):
                    path.unlink()


def batches(count: int, size: int) -> Iterable[slice]:
    """Slices of at most ``size`` that cover ``range(count)``."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
