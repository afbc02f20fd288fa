"""Photographs for tests, made of a public-domain portrait that scikit-image carries, so that no download is needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from skimage.data import astronaut

from tests.oracles import asset_or_skip, network_or_skip

NETWORK = "mobilefacenet"


def ready() -> None:
    """Skip unless the detector and :data:`NETWORK` can be had."""
    asset_or_skip("yunet-onnx")
    network_or_skip(NETWORK)


def portrait(path: Path, *, brightness: float = 1.0, size: int = 220) -> Path:
    """A portrait with one face of about 80 of 220 pixels."""
    return _save(path, _head(size, brightness))


def pair(path: Path) -> Path:
    """Two faces, the larger one at the right."""
    canvas = np.full((220, 400, 3), 90, dtype=np.uint8)
    canvas[30:180, 10:160] = _head(150, 1.0)
    canvas[:, 180:400] = _head(220, 0.9)
    return _save(path, canvas)


def empty(path: Path) -> Path:
    """A picture without a face."""
    return _save(path, np.full((200, 200, 3), 128, dtype=np.uint8))


def _head(size: int, brightness: float) -> np.ndarray:
    part = Image.fromarray(astronaut()[0:220, 115:335]).resize((size, size), Image.Resampling.LANCZOS)
    return np.clip(np.asarray(part) * brightness, 0, 255).astype(np.uint8)


def _save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)
    return path
