"""Images that stop at different times give their place in the batch to the next ones, and the same bits come out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from pmtlib.attacks.adaptive.stitch import Head
from pmtlib.attacks.adaptive.translate import Translator
from pmtlib.shallow import ShallowModel
from pmtlib.transform import PMTConfig, Protected, Run, protect
from pmtlib.variants.decoy import DecoyConfig
from pmtlib.variants.deep import DeepConfig
from pmtlib.variants.embedding import know
from pmtlib.variants.guarded import GuardedConfig
from pmtlib.variants.projected import ProjectedConfig
from tests.small_network import SmallNetwork, photographs

COUNT, SIZE = 11, 4
STOP = {"batch_size": SIZE, "steps": 40}


def model() -> ShallowModel:
    return ShallowModel(SmallNetwork(), 2)


def guarded(**about: Any) -> GuardedConfig:
    torch.manual_seed(0)
    guard = Translator(model(), Head((6, 4, 4), width=4, embedding=7), {"one": 4, "two": 3})
    return GuardedConfig(guards=((know(guard),),), **about)


CONFIGS = {
    "cosine": PMTConfig(stop_cosine=0.93, augmentation="none", **STOP),
    "error": PMTConfig(stop_error=0.2, augmentation="none", **STOP),
    "augmented": PMTConfig(stop_cosine=0.9, augmentation="mix", initialisation="substitution", **STOP),
    "adam": DeepConfig(stop_cosine=0.85, **STOP),
    "decoy": DecoyConfig(stop_cosine=0.9, schedule="cosine", purify_weight=0.2, **STOP),
    "projected": ProjectedConfig(stop_cosine=0.8, directions=3, **STOP),
    "guarded": guarded(stop_cosine=0.8, **STOP),
}


def rows(result: Protected) -> list[list[torch.Tensor]]:
    """Everything that belongs to an image, image by image."""
    everything = [result.images, *result.features, result.trace.nan_to_num(-1), result.steps, result.error]
    everything += [result.cosine, result.finite, result.kept.transpose(0, 1)]
    return [[part[row] for part in everything] for row in range(len(result.images))]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_bits_are_those_of_each_image_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, config, steps = photographs(COUNT), CONFIGS[name], 0
    step = Run.step

    def counted(run: Run) -> None:
        nonlocal steps
        steps += 1
        step(run)

    monkeypatch.setattr(Run, "step", counted)
    seen: list[int] = []
    together = protect(x, [model()], config, keep=(0, 3, 17, 40), progress=seen.append)
    taken = steps
    alone = [protect(x[row : row + 1], [model()], config, keep=(0, 3, 17, 40)) for row in range(COUNT)]
    for row, mine in enumerate(rows(together)):
        for ours, theirs in zip(mine, rows(alone[row])[0], strict=True):
            assert torch.equal(ours, theirs), row
    assert sum(seen) == COUNT * config.steps
    # They stop at different times, and whoever waits for the last of a batch takes longer.
    assert len(set(together.steps.tolist())) > 2
    # An image that stops early is looked at once more than it moves.
    looked = [min(steps + 1, config.steps) for steps in together.steps.tolist()]
    assert taken < sum(max(looked[start : start + SIZE]) for start in range(0, COUNT, SIZE))


def test_steps_that_end_by_a_rule_give_what_that_many_steps_give() -> None:
    x = photographs(COUNT)
    result = protect(x, [model()], CONFIGS["adam"])
    for row, steps in enumerate(result.steps.tolist()):
        same = protect(x[row : row + 1], [model()], DeepConfig(steps=steps, batch_size=SIZE)).images[0]
        assert torch.equal(same, result.images[row])


@pytest.mark.parametrize("name", ["cosine", "error"])
def test_one_that_does_not_stay_finite_is_not_taken_for_done_and_frees_its_place(name: str) -> None:
    class Poisoned(SmallNetwork):
        def prepare(self, images: torch.Tensor) -> torch.Tensor:
            dark = images.mean((1, 2, 3), keepdim=True) < 0.3
            return torch.where(dark, torch.full_like(images, math.inf), images * 2 - 1)

    x = photographs(COUNT)
    x[5] *= 0.2
    network, config = ShallowModel(Poisoned(), 2), CONFIGS[name]
    result = protect(x, [network], config)
    good = protect(x[[row for row in range(COUNT) if row != 5]], [network], config)
    assert result.finite.tolist() == [row != 5 for row in range(COUNT)]
    assert torch.equal(result.images[[row for row in range(COUNT) if row != 5]], good.images)


@pytest.mark.parametrize(("count", "steps"), [(0, 3), (2, 0), (9, 1)])
def test_few_images_and_few_steps(count: int, steps: int) -> None:
    config = PMTConfig(stop_error=0.0, batch_size=SIZE, steps=steps)
    result = protect(photographs(count), [model()], config, keep=(0, steps))
    plain = protect(photographs(count), [model()], PMTConfig(batch_size=SIZE, steps=steps), keep=(0, steps))
    assert torch.equal(result.images, plain.images)
    assert torch.equal(result.kept, plain.kept)
    assert result.steps.tolist() == [steps] * count
