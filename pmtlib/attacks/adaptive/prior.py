"""White-box inversion with more: an untrained network as a prior, and the best of many configurations and starts.

Threat model: the attacker holds the uploaded features and the public shallow model, as in
:func:`pmtlib.attacks.reconstruction.invert`, and time. They may have faces of other people for a mean face. They never
see the photograph: among several results they choose by an objective that they can compute.

Ulyanov, Vedaldi, Lempitsky: Deep image prior. CVPR 2018.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from pmtlib.attacks.reconstruction import ADAM, InversionConfig, check_features, inversion_objective, invert
from pmtlib.attacks.training import Progress, seeded
from pmtlib.datasets import People
from pmtlib.errors import ConfigError, DatasetError
from pmtlib.faces import SIZE
from pmtlib.images import batches
from pmtlib.randomness import derived_seed, reproducible
from pmtlib.shallow import ShallowModel


class PriorConfig(BaseModel):
    """Every choice of the deep image prior.

    Attributes:
        steps: updates of the network's weights, for each image.
        learning_rate: of Adam, at its highest; it falls as a cosine to 0.
        width: channels of the network.
        levels: doublings between the noise that the network sees and the image.
        noise: standard deviation of what is added to its input at each step, relative to the input's; it keeps the
            network from using details of the input. It falls with the rate.
        objective: what is minimised, with its TV weight; its rule, steps and starts are not used otherwise. The
            network is a prior on its own: by default TV has a tenth of the weight that it has without one.
        seed: of weights and input, with the image's own seed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(600, ge=1, le=1_000_000)
    learning_rate: float = Field(5e-3, gt=0, allow_inf_nan=False)
    width: int = Field(32, ge=4, le=1024)
    levels: int = Field(4, ge=1, le=8)
    noise: float = Field(0.03, ge=0, le=1)
    objective: InversionConfig = InversionConfig(tv_weight=ADAM.tv_weight / 10)
    seed: int = Field(0, ge=0, lt=2**31)


class Decoder(nn.Module):
    """An untrained network that prefers natural images: convolutions between bilinear enlargements.

    Args:
        width: channels.
        levels: doublings.

    Shape:
        input: (N, width, ceil(H / 2^levels), ceil(W / 2^levels)).
        output: (N, 3, H, W) in (0, 1).
    """

    def __init__(self, *, width: int = 32, levels: int = 4) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate"),
                # One group: each image is normalised on its own, and a batch of one works.
                nn.GroupNorm(1, width),
                nn.LeakyReLU(0.2),
            )
            for _ in range(levels + 1)
        )
        self.last = nn.Conv2d(width, 3, 1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Images (N, 3, h, w) in (0, 1), of the size that is asked for."""
        stages = list(self.stages)
        x = stages[0](x)
        for place, stage in enumerate(stages[1:], start=2):
            sides = [math.ceil(side / 2 ** (len(stages) - place)) for side in size]
            x = stage(F.interpolate(x, sides, mode="bilinear", align_corners=False))
        return torch.sigmoid(self.last(x))


@dataclass(frozen=True)
class NetworkInverted:
    """What :func:`invert_with_network` returns, in the order of the features.

    Attributes:
        images: (N, 3, H, W) in [0, 1].
        trace: the objective before each step, (N, steps).
        objective: at the end, (N,).
    """

    images: Tensor
    trace: Tensor
    objective: Tensor


@dataclass(frozen=True)
class Best:
    """What :func:`best_of` returns, in the order of the features.

    Attributes:
        images: (N, 3, H, W) in [0, 1], of the attempt with the lowest objective.
        objectives: of every attempt, (N, attempts), by the judge.
        chosen: the attempt that was kept, (N,).
        labels: of the attempts, as "place of the configuration: start".
    """

    images: Tensor
    objectives: Tensor
    chosen: Tensor
    labels: tuple[str, ...]

    @property
    def objective(self) -> Tensor:
        """The objective of the attempt that was kept, (N,)."""
        return self.objectives.gather(1, self.chosen[:, None])[:, 0]


def invert_with_network(
    features: Tensor,
    shallow: ShallowModel,
    config: PriorConfig | None = None,
    *,
    seeds: Sequence[int] | None = None,
    image_shape: tuple[int, int] = (SIZE, SIZE),
    progress: Progress | None = None,
) -> NetworkInverted:
    """Reconstruct images as outputs of untrained networks, one network an image (deep image prior).

    The weights of :class:`Decoder`, not pixels, are optimised until the shallow features of its output are the
    target's.

    Args:
        features: z, (N, C, h, w), on the device of ``shallow``.
        shallow: the model that made them.
        config: every choice.
        seeds: one seed an image, so that a result does not depend on the others; 0, 1, 2, ... by default.
        image_shape: (H, W) of the images to find.
        progress: called with the number of image-steps done since its last call.

    Raises:
        ConfigError: the features do not fit the shallow model, or the seeds the features.
    """
    config = config or PriorConfig()
    own = list(range(len(features))) if seeds is None else list(seeds)
    if len(own) != len(features):
        raise ConfigError(f"{len(own)} seeds for {len(features)} features; give one each")
    with reproducible():
        target = features.detach().clone()
        check_features(target, shallow, image_shape)
        runs = [
            _fit(target[place : place + 1], shallow, config, seed, image_shape, progress)
            for place, seed in enumerate(own)
        ]
    return NetworkInverted(
        images=torch.cat([target.new_zeros((0, 3, *image_shape)), *(run[0] for run in runs)]),
        trace=torch.cat([target.new_zeros((0, config.steps)), *(run[1] for run in runs)]),
        objective=torch.cat([target.new_zeros(0), *(run[2] for run in runs)]),
    )


def _fit(
    target: Tensor,
    shallow: ShallowModel,
    config: PriorConfig,
    seed: int,
    size: tuple[int, int],
    progress: Progress | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Image (1, 3, H, W), trace (1, steps) and objective (1,) of one target."""
    number = derived_seed(f"prior:{config.seed}:{seed}")
    network = seeded(number, lambda: Decoder(width=config.width, levels=config.levels)).to(target.device, target.dtype)
    # Drawn on the CPU: the same input on every device.
    generator = torch.Generator().manual_seed(number)
    shape = (1, config.width, *(math.ceil(side / 2**config.levels) for side in size))
    fixed = torch.randn(shape, generator=generator).to(target.device, target.dtype)
    optimiser = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    trace = target.new_zeros((1, config.steps))
    for step in range(config.steps):
        falling = 0.5 * (1 + math.cos(math.pi * step / config.steps))
        optimiser.param_groups[0]["lr"] = config.learning_rate * falling
        noise = torch.randn(shape, generator=generator).to(fixed) * (config.noise * falling)
        objective = inversion_objective(network(fixed + noise, size), target, shallow, config.objective)
        trace[:, step] = objective.detach()
        optimiser.zero_grad(set_to_none=True)
        objective.sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if progress is not None:
            progress(1)
    with torch.no_grad():
        image = network(fixed, size)
        return image, trace, inversion_objective(image, target, shallow, config.objective)


def mean_image(people: People, *, batch: int = 64) -> Tensor:
    """The mean face of people who are not attacked, for the start ``mean``: (3, 112, 112) in [0, 1].

    Raises:
        DatasetError: there is no image.
    """
    if not len(people):
        raise DatasetError(f"{people.name} holds no image. Remedy: name a set with faces for a mean face")
    total = torch.zeros((3, SIZE, SIZE), dtype=torch.float64)
    for chunk in batches(len(people), batch):
        total += people.tensor(range(chunk.start, chunk.stop)).double().sum(0)
    return (total / len(people)).float()


def best_of(
    features: Tensor,
    shallow: ShallowModel,
    configs: Sequence[InversionConfig | PriorConfig],
    *,
    judge: InversionConfig = ADAM,
    mean_image: Tensor | None = None,
    seeds: Sequence[int] | None = None,
    image_shape: tuple[int, int] = (SIZE, SIZE),
    progress: Progress | None = None,
) -> Best:
    """Attack with every configuration from every start, and keep for each image the attempt that fits best.

    Configurations minimise objectives that cannot be compared with each other, so that all attempts are judged by one:
    :func:`pmtlib.attacks.reconstruction.inversion_objective` of ``judge``. The photograph is not looked at.

    Args:
        features: z, (N, C, h, w), on the device of ``shallow``.
        shallow: the model that made them.
        configs: of :func:`pmtlib.attacks.reconstruction.invert` or of :func:`invert_with_network`.
        judge: whose rule, TV weight and exponent decide.
        mean_image: (3, H, W) in [0, 1], where a configuration starts from ``mean``.
        seeds: one seed an image; 0, 1, 2, ... by default.
        image_shape: (H, W) of the images to find.
        progress: called with the number of image-steps done since its last call.

    Raises:
        ConfigError: there is no configuration, or what the inversions refuse.
    """
    if not configs:
        raise ConfigError("no configuration to choose from; give one or more")
    attempts: list[Tensor] = []
    labels: list[str] = []
    own = list(range(len(features))) if seeds is None else list(seeds)
    for place, config in enumerate(configs):
        if isinstance(config, PriorConfig):
            made = invert_with_network(features, shallow, config, seeds=own, image_shape=image_shape, progress=progress)
            attempts.append(made.images)
            labels.append(f"{place}: network")
            continue
        for number, start in enumerate(config.starts):
            # Each start on its own, so that the judge sees all of them; noise differs from start to start.
            alone = config.model_copy(update={"starts": (start,), "seed": config.seed + number})
            found = invert(
                features,
                shallow,
                alone,
                seeds=own,
                image_shape=image_shape,
                mean_image=mean_image,
                progress=progress,
            )
            attempts.append(found.images)
            labels.append(f"{place}: {start}")
    stack = torch.stack(attempts, 1)
    objectives = torch.stack([_judged(images, features, shallow, judge) for images in attempts], 1)
    # An attempt that ended in no number must not win.
    chosen = torch.nan_to_num(objectives, nan=math.inf).argmin(1)
    rows = torch.arange(len(features), device=stack.device)
    return Best(stack[rows, chosen], objectives, chosen, tuple(labels))


@torch.no_grad()
def _judged(images: Tensor, features: Tensor, shallow: ShallowModel, judge: InversionConfig) -> Tensor:
    parts = [
        inversion_objective(images[chunk], features[chunk], shallow, judge)
        for chunk in batches(len(images), judge.batch_size)
    ]
    return torch.cat([features.new_zeros(0), *parts])
