from __future__ import annotations

import math

import pytest
import torch

from pmtlib.attacks.purify import blur_and_stretch
from tests.small_network import photographs


def loop_blur(image: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur with mirrored borders, pixel by pixel."""
    radius = math.ceil(3 * sigma)
    weights = [[math.exp(-(i * i + j * j) / (2 * sigma**2)) for j in range(-radius, radius + 1)]
               for i in range(-radius, radius + 1)]  # fmt: skip
    total = sum(map(sum, weights))
    side = image.shape[-1]

    def mirrored(index: int) -> int:
        index = abs(index)
        return index if index < side else 2 * (side - 1) - index

    out = torch.zeros_like(image)
    for y in range(side):
        for x in range(side):
            for i in range(-radius, radius + 1):
                for j in range(-radius, radius + 1):
                    weight = weights[i + radius][j + radius] / total
                    out[:, y, x] += weight * image[:, mirrored(y + i), mirrored(x + j)]
    return out


def test_the_blur_and_the_stretch_are_their_formulas():
    image = photographs(1, size=10, dtype=torch.float64)
    blurred = loop_blur(image[0], 1.0)
    expected = torch.empty_like(blurred)
    for channel in range(3):
        values = blurred[channel].flatten()
        mean = sum(values) / len(values)
        deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
        expected[channel] = mean + (blurred[channel] - mean) * 0.2 / deviation
    torch.testing.assert_close(blur_and_stretch(image, 1.0)[0], expected.clamp(0, 1), atol=1e-6, rtol=0)


def test_noise_of_high_frequency_goes_and_the_coarse_picture_stays():
    ramp = torch.linspace(0.3, 0.7, 32).expand(1, 3, 32, 32)
    checks = ((torch.arange(32)[:, None] + torch.arange(32)) % 2).float() * 0.4 - 0.2
    restored = blur_and_stretch(ramp + checks, 1.5, deviation=float(ramp.std()))
    assert (restored - ramp).abs().mean() < 0.05
    assert (ramp + checks - ramp).abs().mean() == pytest.approx(0.2, abs=1e-3)


def test_without_a_blur_only_the_contrast_changes():
    image = photographs(2, size=8)
    stretched = blur_and_stretch(image, 0, deviation=0.05)
    torch.testing.assert_close(stretched.std((2, 3)), torch.full((2, 3), 0.05), atol=1e-4, rtol=0)
    flat = torch.full((1, 3, 8, 8), 0.4)
    torch.testing.assert_close(blur_and_stretch(flat, 1.0), flat, atol=1e-4, rtol=0)


def test_a_blur_wider_than_the_image_is_cut_to_it():
    assert torch.isfinite(blur_and_stretch(photographs(1, size=8), 3.0)).all()
