"""Purification: filters that anyone can apply to an upload, without any knowledge of the transform."""

from __future__ import annotations

import math

from kornia.filters import gaussian_blur2d
from torch import Tensor


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
    if sigma > 0:
        # Beyond the image's side there is nothing to mirror.
        size = min(2 * math.ceil(3 * sigma) + 1, 2 * min(images.shape[-2:]) - 1)
        images = gaussian_blur2d(images, (size, size), (sigma, sigma), border_type="reflect")
    mean = images.mean((2, 3), keepdim=True)
    spread = images.std((2, 3), keepdim=True).clamp_min(1e-6)
    return (mean + (images - mean) * (deviation / spread)).clamp(0.0, 1.0)
