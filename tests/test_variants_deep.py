"""Deep PMT: what is compared, where the networks are cut, and what the command does with it."""

from __future__ import annotations

import torch

from pmtlib import pipeline, variants
from pmtlib.shallow import ShallowModel
from pmtlib.transform import PMTConfig, protect
from pmtlib.variants.deep import DeepConfig
from tests.small_network import SmallNetwork, photographs


def test_only_the_last_map_is_compared() -> None:
    shallow, images = ShallowModel(SmallNetwork(), 2), photographs(3)
    config = DeepConfig(steps=4, batch_size=3)
    made = protect(images, [shallow], config)
    goal, own = (shallow.feature(x).flatten(1).double() for x in (images, made.images))
    by_hand = (own - goal).square().sum(1) / goal.square().sum(1)
    torch.testing.assert_close(made.error[:, 0].double(), by_hand)
    # The transform as published compares every unit's output.
    published = protect(images, [shallow], config.model_copy(update={"aggregate": True}))
    assert not torch.equal(published.images, made.images)


def test_it_comes_nearer_to_the_map_with_every_ten_steps() -> None:
    shallow, images = ShallowModel(SmallNetwork(), 2), photographs(4)
    kept = protect(images, [shallow], DeepConfig(steps=40, batch_size=4), keep=(0, 10, 40)).kept
    goal = shallow.feature(images)
    errors = [float((shallow.feature(one) - goal).square().sum()) for one in kept]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_the_variant_brings_its_cut_unless_another_is_asked_for() -> None:
    def cut(config: PMTConfig, asked: int | str | None) -> int | str:
        return pipeline.Job(photos=[], out=None, authorised=["sface"], config=config, cut=asked).cut_of("sface")

    assert cut(DeepConfig(), None) == variants.VARIANTS["deep"].cut == "7x7"
    assert cut(DeepConfig(), 8) == 8
    assert cut(PMTConfig(), None) == 5
    assert variants.name_of(DeepConfig()) == "deep"
