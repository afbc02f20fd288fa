"""Averaging: what several protected copies of one photograph give away together.

Threat model: the attacker collects the uploads of one photograph that was protected anew each time (for several
services, or again and again for one), with starting noise that differs. What the copies share is the photograph's,
what differs is noise, and the mean of n copies has an n-th of its variance. The attacker needs no knowledge of the
transform; a mean of features is then attacked like any other feature.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pmtlib.errors import ConfigError
from pmtlib.images import quantise
from pmtlib.metrics import Floats
from pmtlib.shallow import ShallowModel
from pmtlib.transform import PMTConfig, protect


@dataclass(frozen=True)
class Copies:
    """Protected copies of the same photographs, as they are uploaded.

    Attributes:
        images: (n, N, 3, H, W) in [0, 1], rounded to 8 bits: n copies of N photographs.
        features: for each model the obfuscated shallow features (n, N, C, h, w), the other upload mode.
    """

    images: Tensor
    features: tuple[Tensor, ...]


def protected_copies(
    images: Tensor,
    shallow_models: Sequence[ShallowModel],
    config: PMTConfig,
    seeds: Sequence[int],
    *,
    progress: Callable[[int], Any] | None = None,
) -> Copies:
    """Protect each photograph once for every seed (:func:`pmtlib.transform.protect`).

    Args:
        images: (N, 3, H, W), RGB in [0, 1], aligned crops.
        shallow_models: of the authorised services.
        config: of the transform; its seed is replaced.
        seeds: one a copy, each another.
        progress: called with the number of image-steps done since its last call.

    Raises:
        ConfigError: no seed, one that occurs twice, or whatever :func:`pmtlib.transform.protect` refuses.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise ConfigError(f"seeds {list(seeds)} must be one or more, each another: equal copies average to themselves")
    made = [
        protect(images, shallow_models, config.model_copy(update={"seed": seed}), progress=progress) for seed in seeds
    ]
    return Copies(
        images=torch.stack([quantise(one.images) for one in made]),
        features=tuple(torch.stack(features) for features in zip(*(one.features for one in made), strict=True)),
    )


def average_images(copies: Tensor) -> Tensor:
    """The mean of protected copies.

    Args:
        copies: (n, N, 3, H, W) in [0, 1].

    Returns:
        Tensor (N, 3, H, W) in [0, 1].

    Raises:
        ConfigError: there is no copy, or the shape is another.
    """
    if copies.ndim != 5 or copies.shape[2] != 3 or not len(copies):
        raise ConfigError(f"copies must be (n, N, 3, H, W) with n at least 1, got {tuple(copies.shape)}")
    return copies.mean(0)


def average_features(copies: Tensor) -> Tensor:
    """The mean of the shallow features of protected copies, for any inverter of features.

    Args:
        copies: (n, N, C, h, w).

    Returns:
        Tensor (N, C, h, w).

    Raises:
        ConfigError: there is no copy, or the shape is another.
    """
    if copies.ndim != 5 or not len(copies):
        raise ConfigError(f"copies must be (n, N, C, h, w) with n at least 1, got {tuple(copies.shape)}")
    return copies.mean(0)


def average_embeddings(embeddings: Floats) -> Floats:
    """A template of several images of one person: the mean of the directions of their embeddings.

    Args:
        embeddings: (n, N, D) of n images of N people, none of length 0.

    Returns:
        (N, D), not normalised: its length says how well the images agree.

    Raises:
        ConfigError: there is no image, the shape is another, or an embedding has length 0 or is not finite.
    """
    if embeddings.ndim != 3 or not len(embeddings):
        raise ConfigError(f"embeddings must be (n, N, D) with n at least 1, got {embeddings.shape}")
    lengths = np.linalg.norm(embeddings, axis=2, keepdims=True)
    if not np.isfinite(lengths).all() or not lengths.all():
        raise ConfigError("an embedding has no direction: its length is 0, or it is not finite")
    mean: Floats = (embeddings / lengths).mean(0)
    return mean
