"""Purification: filters that anyone can apply to an upload, without any knowledge of the transform."""

from __future__ import annotations

import math

from kornia.filters import gaussian_blur2d
from torch import Tensor

DEVIATION = 0.2
"""Standard deviation of a colour channel that :func:`stretch` restores; photographs of faces have about this."""


def blur_and_stretch(images: Tensor, sigma: float, *, deviation: float = DEVIATION) -> Tensor:
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
    return stretch(gaussian_blur(images, sigma), deviation=deviation)


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur with mirrored borders, its kernel cut at three sigma.

    Args:
        images: (N, 3, H, W).
        sigma: pixels; 0 leaves the images as they are.
    """
    if sigma <= 0:
        return images
    # Beyond the image's side there is nothing to mirror.
    size = min(2 * math.ceil(3 * sigma) + 1, 2 * min(images.shape[-2:]) - 1)
    blurred: Tensor = gaussian_blur2d(images, (size, size), (sigma, sigma), border_type="reflect")
    return blurred


def stretch(images: Tensor, *, deviation: float = DEVIATION) -> Tensor:
    """Each colour channel of each image rescaled about its mean to a natural contrast.

    Args:
        images: (N, 3, H, W).
        deviation: standard deviation of a channel afterwards, before what leaves [0, 1] is clipped.

    Returns:
        Tensor (N, 3, H, W) in [0, 1].
    """
    mean = images.mean((2, 3), keepdim=True)
    spread = images.std((2, 3), keepdim=True).clamp_min(1e-6)
    return (mean + (images - mean) * (deviation / spread)).clamp(0.0, 1.0)
