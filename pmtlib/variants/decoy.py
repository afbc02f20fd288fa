"""Decoy-anchored PMT: the authorised features are matched, the low frequencies pulled to a face that is nobody's.

PMT as published leaves the photograph's low frequencies in the upload, under noise: a blur and a contrast stretch give
the face back, to the eye and to networks that were not authorised. Here the blurred upload is tied to a decoy's:

.. math::
    \\min_{\\tilde x \\in [0, 1]} \\sum_i w_i \\| f_i(T(\\tilde x)) - f_i(T(x)) \\|^2
        + \\frac{\\lambda}{|S|} \\sum_{\\sigma \\in S} \\| G_\\sigma * \\tilde x - G_\\sigma * d \\|^2

where the first sum is Eq. 8 of the paper, :math:`G_\\sigma` is a Gaussian blur and d the decoy. With ``relative``, as
by default, each distance is divided by the size of its target, and lambda weighs the two shares.

Experimental: with the present weights the photographed face can still be seen in the upload, blurred or not, and an
attacker who learns from uploads and their photographs undoes it, because the features still hold the face.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from pmtlib.filters import blur, stretch
from pmtlib.transform import PMTConfig, Rule, Run, Transform, relative_error, row_sums
from pmtlib.variants.decoys import decoy

Sigmas = tuple[Annotated[float, Field(gt=0, le=100)], ...]


class DecoyConfig(PMTConfig):
    """Choices of decoy-anchored PMT, beside those of :class:`~pmtlib.transform.PMTConfig`.

    Attributes:
        variant: which variant this configuration is for.
        steps: K of Algorithm 1, the number of updates; more than plain PMT's, because two goals pull.
        step_size: alpha; with the rule adam its learning rate, on the [0, 1] scale.
        anchor_weight: lambda, how much the decoy counts beside the features; 0 is plain PMT.
        anchor_sigmas: S, standard deviations of the blurs at which upload and decoy are compared, in pixels.
        noise_about: what the starting noise is laid over, the decoy or mid-grey. Without effect on other
            initialisations.
        schedule: alpha over the steps, constant or falling to 0 on half a cosine.
        purify_weight: how much one purification a step counts, an expectation over what an attacker may do. The
            upload is blurred and its contrast stretched; it shall then still show the decoy, and its features shall
            miss the photograph's, by a relative error of up to 1 for each model. 0 leaves it out.
        purify_sigmas: the blurs of which each step and image draws one, in pixels.
    """

    variant: Literal["decoy"] = "decoy"
    steps: int = Field(100, ge=0, le=1_000_000)
    step_size: float = Field(0.02, gt=0, allow_inf_nan=False)
    rule: Rule = "adam"
    anchor_weight: float = Field(3.0, ge=0, allow_inf_nan=False)
    anchor_sigmas: Sigmas = Field((2.0, 4.0), min_length=1)
    noise_about: Literal["decoy", "grey"] = "decoy"
    schedule: Literal["constant", "cosine"] = "constant"
    purify_weight: float = Field(0.0, ge=0, allow_inf_nan=False)
    purify_sigmas: Sigmas = Field((1.0, 2.0), min_length=1)

    @property
    def run(self) -> type[Run]:
        """The run with the decoy's penalty."""
        return DecoyRun


class DecoyRun(Run):
    """A batch of decoy-anchored PMT."""

    OF_IMAGES: ClassVar[tuple[str, ...]] = ("decoys",)

    config: DecoyConfig

    @cached_property
    def decoys(self) -> Tensor:
        """One decoy an image, (N, 3, H, W), by the image's seed."""
        x = self.original
        if not len(x):
            return x.clone()
        drawn = torch.cat([decoy(seed) for seed in self.seeds])
        fitting = drawn if drawn.shape == x.shape else F.interpolate(drawn, x.shape[-2:], mode="area")
        return fitting.to(x)

    def _start(self) -> Tensor:
        config = self.config
        if config.initialisation != "noise" or config.noise_about != "decoy":
            return super()._start()
        return (self.decoys + self._gaussian(config.noise_start)).clamp_(0.0, 1.0)

    def _step_size(self, step: int) -> float:
        config = self.config
        if config.schedule == "constant":
            return config.step_size
        return config.step_size * (1 + math.cos(math.pi * step / config.steps)) / 2

    def _penalty(self, candidate: Tensor, transform: Transform, target: list[list[Tensor]]) -> Tensor | None:
        config = self.config
        penalty = config.anchor_weight * self._distance(candidate, self.decoys)
        if config.purify_weight:
            penalty = penalty + config.purify_weight * self._purified_penalty(candidate, transform, target)
        return penalty.to(candidate.dtype)

    def _distance(self, images: Tensor, decoys: Tensor) -> Tensor:
        """Mean over the anchors of the squared distance of the blurred images, (N,)."""
        parts = []
        for sigma in self.config.anchor_sigmas:
            goal = blur(decoys, sigma).flatten(1)
            part = row_sums((blur(images, sigma).flatten(1) - goal).square())
            parts.append(part / row_sums(goal.square()) if self.config.relative else part)
        return torch.stack(parts).mean(0)

    def _purified_penalty(self, candidate: Tensor, transform: Transform, target: list[list[Tensor]]) -> Tensor:
        sigmas = self.config.purify_sigmas
        draws = [torch.randint(len(sigmas), (1,), generator=g, device=g.device) for g in self.generators]
        choice = torch.cat(draws).view(-1, 1, 1, 1)
        purified = self._purified(candidate, choice)
        features = self._features(transform(purified), gradient=True)
        errors = [relative_error(own, goal) for own, goal in zip(features, target, strict=True)]
        near = torch.stack([(1 - error).clamp_min(0) for error in errors]).sum(0)
        return self._distance(purified, self._purified(self.decoys, choice)) + near

    def _purified(self, images: Tensor, choice: Tensor) -> Tensor:
        """Each image by the purification of its choice. All are computed: images are not regrouped by their draws."""
        purified = images
        for place, sigma in enumerate(self.config.purify_sigmas):
            purified = torch.where(choice == place, stretch(blur(images, sigma)), purified)
        return purified
