"""Purification by any filter: what an attacker gets who tries the usual ones and restores the contrast.

Threat model: the attacker holds the upload, knows that it was filtered, and asks nothing of anybody. To choose a
filter and its strength (:func:`tune`) they protect photographs of *other* people themselves, with the public shallow
model, and see what brings those back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from kornia.filters import median_blur
from numpy.typing import NDArray
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle, denoise_wavelet
from torch import Tensor

from pmtlib.errors import ConfigError
from pmtlib.filters import blur, stretch
from pmtlib.images import recoded
from pmtlib.metrics import Floats

Filter = Callable[[Tensor, float], Tensor]
"""Images (N, 3, H, W) in [0, 1] and a strength to images of the same shape."""

Score = Callable[[Tensor, Tensor], Floats | Tensor]
"""Purified images and originals, (N, 3, H, W) each, to (N,): what the attacker got, higher is better for them."""

_BILATERAL_REACH = 3.0
_PATCH, _PATCH_REACH = 5, 6


@dataclass(frozen=True)
class Purifier:
    """A filter as an attacker would try it.

    Attributes:
        function: the filter.
        strengths: the ones to try, from one that does next to nothing to one that leaves little.
        unit: what the strength is.
    """

    function: Filter
    strengths: tuple[float, ...]
    unit: str


@dataclass(frozen=True)
class Purification:
    """One way to purify: a filter of :data:`PURIFIERS`, its strength, and whether the contrast is restored."""

    name: str
    strength: float
    contrast: bool = True

    def __call__(self, images: Tensor) -> Tensor:
        """:func:`purify` with these choices."""
        return purify(images, self.name, self.strength, contrast=self.contrast)


@dataclass(frozen=True)
class Tuned:
    """What :func:`tune` found.

    Attributes:
        choice: the purification with the highest mean score.
        scores: the scores (N,) of every purification that was tried, in the order of trial.
    """

    choice: Purification
    scores: Mapping[Purification, Floats]

    def best(self, name: str) -> Purification:
        """The purification with the highest mean score among those by one filter.

        Raises:
            ConfigError: that filter was not tried.
        """
        tried = {one: scores for one, scores in self.scores.items() if one.name == name}
        if not tried:
            raise ConfigError(
                f"{name!r} was not tried; tried are {', '.join(dict.fromkeys(o.name for o in self.scores))}"
            )
        return _highest(tried)


def purify(images: Tensor, name: str, strength: float, *, contrast: bool = True) -> Tensor:
    """Filter images, then restore their contrast.

    Args:
        images: (N, 3, H, W), RGB in [0, 1].
        name: of a filter in :data:`PURIFIERS`.
        strength: between the weakest and the strongest of that filter's strengths.
        contrast: rescale each colour channel to the contrast of photographs (:func:`pmtlib.filters.stretch`).

    Returns:
        Tensor (N, 3, H, W) in [0, 1].

    Raises:
        ConfigError: there is no such filter, or the strength is outside its range.
    """
    if name not in PURIFIERS:
        raise ConfigError(f"there is no purifier {name!r}; known are {', '.join(PURIFIERS)}")
    purifier = PURIFIERS[name]
    low, high = min(purifier.strengths), max(purifier.strengths)
    # Written so that a NaN, which compares false with everything, is refused as well.
    if not low <= strength <= high:
        raise ConfigError(f"strength {strength:g} of {name} is outside {low:g}..{high:g} ({purifier.unit})")
    if not len(images):
        return images
    filtered = purifier.function(images, strength).clamp(0.0, 1.0)
    return stretch(filtered) if contrast else filtered


def candidates(names: Sequence[str] | None = None) -> tuple[Purification, ...]:
    """The upload as it is, and every strength of every filter with the contrast restored.

    Args:
        names: of filters in :data:`PURIFIERS`; all by default. With ``none`` the contrast alone is restored.

    Raises:
        ConfigError: there is no such filter.
    """
    chosen = tuple(PURIFIERS) if names is None else tuple(names)
    if unknown := [name for name in chosen if name not in PURIFIERS]:
        raise ConfigError(f"there is no purifier {unknown[0]!r}; known are {', '.join(PURIFIERS)}")
    tried = [Purification(name, strength) for name in chosen for strength in PURIFIERS[name].strengths]
    return (Purification("none", 0.0, contrast=False), *tried)


def tune(
    protected: Tensor,
    originals: Tensor,
    score: Score,
    *,
    purifications: Sequence[Purification] | None = None,
    progress: Callable[[int], object] | None = None,
) -> Tuned:
    """Choose the filter and its strength by what they bring back of *other* people's photographs.

    Args:
        protected: (N, 3, H, W) in [0, 1], uploads of people who are not attacked, as they are received (8-bit).
        originals: their photographs, the same shape.
        score: how well an image attacks its original: :func:`pmtlib.metrics.ssim`, a cosine of embeddings.
        purifications: to try; all of :func:`candidates` by default. Of equally good ones the first is chosen.
        progress: called with 1 after each.

    Raises:
        ConfigError: the images do not belong together, there is nothing to try, or a score is not one finite number
            an image.
    """
    tried = candidates() if purifications is None else tuple(purifications)
    if protected.shape != originals.shape or not len(protected) or not tried:
        raise ConfigError(
            f"{len(tried)} purifications of {tuple(protected.shape)} for originals {tuple(originals.shape)}; "
            "give one original an image, and one or more of everything"
        )
    scores: dict[Purification, Floats] = {}
    for purification in tried:
        found = np.asarray(torch.as_tensor(score(purification(protected), originals)).cpu(), dtype=np.float64)
        if found.shape != (len(protected),) or not np.isfinite(found).all():
            raise ConfigError(f"the score must be one finite number an image, got {found.shape} for {purification}")
        scores[purification] = found
        if progress is not None:
            progress(1)
    return Tuned(_highest(scores), MappingProxyType(scores))


def _highest(scores: Mapping[Purification, Floats]) -> Purification:
    return max(scores, key=lambda one: float(scores[one].mean()))


# -- filters ---------------------------------------------------------------------------------------------------------


def _nothing(images: Tensor, _strength: float) -> Tensor:
    return images


def _median(images: Tensor, strength: float) -> Tensor:
    radius = round(strength)
    if radius == 0:
        return images
    padded = F.pad(images, (radius,) * 4, mode="replicate")
    filtered: Tensor = median_blur(padded, 2 * radius + 1)
    return filtered[..., radius:-radius, radius:-radius]


def _each(images: Tensor, function: Callable[[NDArray[np.float32]], Any]) -> Tensor:
    """Apply a function of one image (H, W, 3) float32 in [0, 1] on the CPU."""
    arrays = images.detach().to("cpu", torch.float32).permute(0, 2, 3, 1).contiguous().numpy()
    made = np.stack([np.asarray(function(array), dtype=np.float32) for array in arrays])
    return torch.from_numpy(made).permute(0, 3, 1, 2).contiguous().to(images.device, images.dtype)


def _bilateral(images: Tensor, strength: float) -> Tensor:
    """OpenCV's, sigma 3 pixels in space; the strength is sigma in colour, summed over the channels as OpenCV does."""
    return _each(images, lambda x: cv2.bilateralFilter(x, -1, strength, _BILATERAL_REACH))


def _non_local_means(images: Tensor, strength: float) -> Tensor:
    """scikit-image's with 5x5 patches; h is 0.8 of the noise level, as its documentation advises."""
    return _each(
        images,
        lambda x: denoise_nl_means(
            x,
            patch_size=_PATCH,
            patch_distance=_PATCH_REACH,
            h=0.8 * strength,
            sigma=strength,
            fast_mode=True,
            channel_axis=2,
        ),
    )


def _total_variation(images: Tensor, strength: float) -> Tensor:
    return _each(images, lambda x: denoise_tv_chambolle(x, weight=strength, channel_axis=2))  # type: ignore[no-untyped-call]


def _wavelet(images: Tensor, strength: float) -> Tensor:
    """scikit-image's: soft thresholds by BayesShrink (Chang, Yu, Vetterli, IEEE TIP 2000) for a given noise level."""
    return _each(
        images,
        lambda x: denoise_wavelet(x, sigma=strength, wavelet="db2", method="BayesShrink", mode="soft", channel_axis=2),
    )


def _jpeg(images: Tensor, strength: float) -> Tensor:
    return recoded(images, "jpeg", round(strength))


def _resample(images: Tensor, strength: float) -> Tensor:
    height, width = images.shape[2:]
    size = (max(1, round(height / strength)), max(1, round(width / strength)))
    small = F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
    return F.interpolate(small, (height, width), mode="bicubic", align_corners=False)


PURIFIERS: Mapping[str, Purifier] = MappingProxyType(
    {
        "none": Purifier(_nothing, (0.0,), "no strength"),
        "gaussian": Purifier(blur, (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0), "sigma, pixels"),
        "median": Purifier(_median, (0.0, 1.0, 2.0, 3.0, 4.0, 5.0), "radius, pixels"),
        "bilateral": Purifier(
            _bilateral, (0.01, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2), "sigma of the colour's difference, on [0, 1]"
        ),
        "non-local means": Purifier(
            _non_local_means, (0.005, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6), "noise level on [0, 1]"
        ),
        "total variation": Purifier(
            _total_variation, (0.002, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0), "weight of the variation"
        ),
        "wavelet": Purifier(_wavelet, (0.002, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6), "noise level on [0, 1]"),
        "jpeg": Purifier(_jpeg, (95.0, 75.0, 50.0, 30.0, 20.0, 15.0, 10.0, 5.0, 2.0), "quality of Pillow"),
        "resample": Purifier(_resample, (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0), "factor down and up again"),
    }
)
"""The filters by name, strengths from weak to strong."""
