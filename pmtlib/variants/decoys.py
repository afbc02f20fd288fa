"""Decoys that belong to nobody: blends of many faces, made from what every installation has.

The faces are the hundred grey 25x25 crops of LFW that scikit-image carries (:func:`skimage.data.lfw_subset`). They are
small, but a decoy is only looked at through blurs of two pixels and more, and four pixels of a 112x112 image make one
of theirs. Nothing of a decoy depends on a photograph but its seed, not even the tint.

    >>> decoy(seed=3, count=2).shape
    torch.Size([2, 3, 112, 112])
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from pmtlib.faces import SIZE
from pmtlib.randomness import derived_generator

FACES = 24
"""How many faces, or their mirror images, are blended into each half of a decoy."""
CONCENTRATION = 4
"""Of the symmetric Dirichlet distribution of their weights: the largest of 24 is about a tenth."""
SCALE = 4.357
SHIFT = (11.38, 16.29)
"""A pixel p of a 25x25 crop lies at ``SCALE * p + SHIFT``, (x, y), of the 112x112 frame.

The least-squares fit of :data:`pmtlib.faces.TEMPLATE` to the medians of the landmarks that the detector finds in 95 of
the crops, enlarged: eyes, nose and mouth fall within 2.6 pixels of the template."""


def decoy(seed: int, count: int = 1) -> Tensor:
    """Synthetic faces in the frame of the ArcFace template.

    Each half of a decoy is a convex blend of :data:`FACES` faces, mirrored or not by chance, at equal brightness and
    contrast; the halves fade into each other at the nose. The blend's contrast is raised to that of a photograph, and
    brightness and tint are drawn from a fixed range of skin colours.

    Args:
        seed: of all draws.
        count: how many; the first ones are the same for any count.

    Returns:
        Tensor (count, 3, 112, 112) in [0, 1], on the CPU.
    """
    # Not the seed itself: the transform draws its starting noise from a generator of that seed.
    generator = derived_generator(f"decoy:{seed}")
    decoys = torch.empty(count, 3, SIZE, SIZE)
    for image in decoys:
        image.copy_(_one(generator))
    return decoys


def _one(generator: torch.Generator) -> Tensor:
    """A decoy (3, 112, 112), in float64."""
    left, right = _blend(generator), _blend(generator)
    # From one half to the other over the middle third.
    fade = (torch.arange(SIZE, dtype=torch.float64) * 3 / (SIZE - 1) - 1).clamp(0, 1)
    grey = left * (1 - fade) + right * fade
    contrast = (grey - grey.mean()) / grey.std()
    draws = torch.rand(4, generator=generator, dtype=torch.float64)
    red = 0.50 + 0.25 * draws[0]
    green = red * (0.72 + 0.12 * draws[1])
    colour = torch.stack([red, green, green * (0.76 + 0.14 * draws[2])])
    spread = 0.30 + 0.10 * draws[3]
    return (colour[:, None, None] * (1 + spread * contrast)).clamp(0, 1)


def _blend(generator: torch.Generator) -> Tensor:
    """A convex blend of faces, (112, 112) in float64."""
    faces = _faces()
    chosen = faces[torch.randperm(len(faces), generator=generator)[:FACES]]
    mirrored = torch.rand(FACES, generator=generator) < 0.5
    chosen = torch.where(mirrored[:, None, None], chosen.flip(-1), chosen)
    # Dirichlet weights are normalised gamma variables, and one of a whole shape is a sum of exponential ones.
    uniform = torch.rand(FACES, CONCENTRATION, generator=generator, dtype=torch.float64)
    weights = -torch.log1p(-uniform).sum(1)
    return (chosen * (weights / weights.sum())[:, None, None]).sum(0)


@cache
def _faces() -> Tensor:
    """The crops in the frame of the template, (100, 112, 112) in float64, each with mean 0 and deviation 1."""
    # What runs without a decoy does not wait for these.
    from kornia.geometry.transform import warp_affine
    from skimage.data import lfw_subset

    # Behind the hundred faces come as many pictures without one.
    crops = torch.from_numpy(lfw_subset()[:100]).double()[:, None]  # type: ignore[no-untyped-call]
    place = torch.tensor([[SCALE, 0.0, SHIFT[0]], [0.0, SCALE, SHIFT[1]]], dtype=torch.float64).expand(len(crops), 2, 3)
    faces = warp_affine(crops, place, (SIZE, SIZE), mode="bicubic", padding_mode="reflection", align_corners=True)[:, 0]
    return (faces - faces.mean((1, 2), keepdim=True)) / faces.std((1, 2), keepdim=True)
