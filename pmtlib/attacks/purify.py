"""Purification: filters that anyone can apply to an upload, without any knowledge of the transform."""

from __future__ import annotations

from torch import Tensor

from pmtlib.filters import blur, stretch


def blur_and_stretch(images: Tensor, sigma: float, *, deviation: float = 0.2) -> Tensor:
    """A Gaussian blur, then each colour channel rescaled to a natural contrast.

    Optimised images hold the photograph's low frequencies at a reduced contrast under noise of high frequency; the
    blur removes the noise and the stretch restores the contrast. Nothing here is fitted to an image or a network.

    Args:
        images: (N, 3, H, W), in [0, 1].
        sigma: of the blur, pixels; 0 leaves the images unblurred.
        deviation: standard deviation of a channel afterwards; photographs of faces have about 0.2.

    Returns:
        Tensor (N, 3, H, W) in [0, 1].
    """
    return stretch(blur(images, sigma), deviation)
