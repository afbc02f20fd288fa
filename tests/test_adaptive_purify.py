from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pmtlib import metrics
from pmtlib.attacks.adaptive.purify import (
    PURIFIERS,
    Purification,
    candidates,
    purify,
    tune,
)
from pmtlib.errors import ConfigError
from tests.oracles import astronaut_crop

NAMES = [name for name in PURIFIERS if name != "none"]


def noisy(images: Tensor, sigma: float, seed: int = 0) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return (images + sigma * noise).clamp(0, 1)


def ssim(images: Tensor, originals: Tensor) -> float:
    return float(metrics.ssim(images, originals).mean())


@pytest.mark.parametrize("name", NAMES)
def test_the_weakest_does_next_to_nothing_and_some_strength_removes_noise(name: str) -> None:
    clean = astronaut_crop()
    strengths = PURIFIERS[name].strengths
    assert ssim(purify(clean, name, strengths[0], contrast=False), clean) > 0.95
    # The strongest does too much: every range has its best strength inside of it.
    upload = noisy(clean, 0.2)
    found = [ssim(purify(upload, name, strength, contrast=False), clean) for strength in strengths]
    assert max(found) > ssim(upload, clean) + 0.15
    assert int(np.argmax(found)) > 0
    assert ssim(purify(clean, name, strengths[-1], contrast=False), clean) < 0.8


@pytest.mark.parametrize("name", list(PURIFIERS))
def test_shape_range_batch_and_contrast(name: str) -> None:
    images = torch.cat([noisy(astronaut_crop(), 0.1), noisy(astronaut_crop(), 0.3, seed=1)])[..., 20:84, 30:86]
    strength = PURIFIERS[name].strengths[len(PURIFIERS[name].strengths) // 2]
    made = purify(images, name, strength)
    assert made.shape == images.shape
    assert made.dtype == images.dtype
    assert 0 <= float(made.min()) <= float(made.max()) <= 1
    torch.testing.assert_close(made[1:], purify(images[1:], name, strength), atol=1e-5, rtol=0)
    plain = purify(images * 0.5 + 0.25, name, strength, contrast=False)
    restored = purify(images * 0.5 + 0.25, name, strength)
    spread = restored.std((2, 3)) / plain.std((2, 3))
    torch.testing.assert_close(spread, 0.2 / plain.std((2, 3)), rtol=0.1, atol=0)
    assert purify(images[:0], name, strength).shape == (0, 3, 64, 56)


def test_what_is_unknown_or_out_of_range_is_refused() -> None:
    image = astronaut_crop()
    with pytest.raises(ConfigError, match="known are none, gaussian"):
        purify(image, "magic", 1.0)
    for strength in (100.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="outside"):
            purify(image, "gaussian", strength)
    with pytest.raises(ConfigError, match="known are none"):
        candidates(["magic"])


def test_tuning_takes_the_best_filter_and_keeps_every_score() -> None:
    clean = torch.cat([astronaut_crop(), astronaut_crop().flip(3)])
    upload = noisy(clean, 0.25)
    tried = [one for one in candidates(["none", "gaussian", "median"]) if one.strength <= 3]
    seen: list[int] = []
    tuned = tune(upload, clean, metrics.ssim, purifications=tried, progress=lambda count: seen.append(count))
    assert list(tuned.scores) == tried
    assert len(seen) == len(tried)
    means = {one: metrics.ssim(one(upload), clean).mean() for one in tried}
    assert means[tuned.choice] == max(means.values())
    for name in ("none", "gaussian", "median"):
        own = {one: value for one, value in means.items() if one.name == name}
        assert means[tuned.best(name)] == max(own.values())
    np.testing.assert_array_equal(tuned.scores[tuned.choice], metrics.ssim(tuned.choice(upload), clean))
    with pytest.raises(ConfigError, match="was not tried"):
        tuned.best("jpeg")


def test_what_is_clean_is_best_left_alone() -> None:
    clean = astronaut_crop()
    assert tune(clean, clean, metrics.ssim, purifications=candidates(["gaussian"])).choice == Purification(
        "none", 0.0, contrast=False
    )


def test_tuning_refuses_what_is_no_score() -> None:
    clean = astronaut_crop()
    one = [Purification("none", 0.0)]
    for score in (lambda a, _b: a.mean(), lambda a, _b: torch.full((len(a),), torch.nan)):
        with pytest.raises(ConfigError, match="one finite number an image"):
            tune(clean, clean, score, purifications=one)
    with pytest.raises(ConfigError, match="one original an image"):
        tune(clean, clean[:0], metrics.ssim, purifications=one)
    with pytest.raises(ConfigError, match="one or more"):
        tune(clean, clean, metrics.ssim, purifications=[])
