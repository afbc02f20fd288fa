"""Differentiable filters that several parts need: the transform's variants inside their loop, attackers afterwards."""

from __future__ import annotations

import math

from torch import Tensor


def blur(images: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur of images (N, C, H, W), mirrored at the borders; ``sigma`` in pixels, 0 changes nothing."""
    if sigma <= 0 or not len(images):
        return images
    from kornia.filters import gaussian_blur2d

    # Beyond the image's side there is nothing to mirror.
    size = min(2 * math.ceil(3 * sigma) + 1, 2 * min(images.shape[-2:]) - 1)
    blurred: Tensor = gaussian_blur2d(images, (size, size), (sigma, sigma), border_type="reflect")
    return blurred


def stretch(images: Tensor, deviation: float = 0.2) -> Tensor:
    """Images (N, C, H, W) with each channel's standard deviation set to ``deviation``, clipped to [0, 1]."""
    mean = images.mean((2, 3), keepdim=True)
    spread = images.std((2, 3), keepdim=True).clamp_min(1e-6)
    return (mean + (images - mean) * (deviation / spread)).clamp(0.0, 1.0)
