"""Guarded PMT: the penalty, once more in a loop, and guards that are not there."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pmtlib.attacks.adaptive.stitch import Head
from pmtlib.attacks.adaptive.translate import Translator
from pmtlib.errors import ConfigError
from pmtlib.shallow import ShallowModel
from pmtlib.transform import protect
from pmtlib.variants import name_of
from pmtlib.variants.deep import DeepConfig
from pmtlib.variants.embedding import know
from pmtlib.variants.guarded import GuardedConfig


def guard(shallow: ShallowModel, seed: int) -> Translator:
    torch.manual_seed(seed)
    return Translator(shallow, Head((6, 8, 8), width=4, embedding=7), {"one": 4, "two": 3})


def agreement(guards: list[Translator], images: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
    """Mean over guards and networks of the cosine above zero, in a loop."""
    rows = []
    for image, photograph in zip(images, goal, strict=True):
        found = []
        for one in guards:
            own, wanted = one(image[None]), one(photograph[None])
            for name in own:
                a, b = own[name][0], wanted[name][0]
                found.append(max(0.0, float(a @ b / a.norm() / b.norm())))
        rows.append(sum(found) / len(found))
    return torch.tensor(rows)


def test_the_loss_is_deeps_and_the_guards(images: torch.Tensor, shallow: ShallowModel) -> None:
    guards = [guard(shallow, 1), guard(shallow, 2)]
    names = (tuple(know(one) for one in guards),)
    plain = protect(images, [shallow], DeepConfig(steps=1))
    made = protect(images, [shallow], GuardedConfig(steps=1, guards=names, guard_weight=0.7))
    start = protect(images, [shallow], DeepConfig(steps=0)).images
    added = made.trace[:, 0] - plain.trace[:, 0]
    assert torch.allclose(added, 0.7 * agreement(guards, start, images), atol=1e-5)


def test_steps_turn_the_guards_away(images: torch.Tensor, shallow: ShallowModel) -> None:
    guards = [guard(shallow, 1), guard(shallow, 2)]
    names = (tuple(know(one) for one in guards),)
    deep = protect(images, [shallow], DeepConfig(steps=40))
    made = protect(images, [shallow], GuardedConfig(steps=40, guards=names, guard_weight=2.0))
    assert agreement(guards, made.images, images).mean() < 0.5 * agreement(guards, deep.images, images).mean()
    free = protect(images, [shallow], GuardedConfig(steps=3, guards=names, guard_weight=0.0))
    assert torch.equal(free.images, protect(images, [shallow], DeepConfig(steps=3)).images)


def test_an_image_is_the_same_in_any_batch(images: torch.Tensor, shallow: ShallowModel) -> None:
    names = ((know(guard(shallow, 1)),),)
    config = GuardedConfig(steps=3, batch_size=4, guards=names)
    together = protect(images, [shallow], config).images
    assert torch.equal(protect(images[2:], [shallow], config).images[0], together[2])


def test_what_is_not_there_is_said(images: torch.Tensor, shallow: ShallowModel) -> None:
    assert name_of(GuardedConfig(guards=(("",),))) == "guarded"
    with pytest.raises(ConfigError, match="guard 000000000000 is not known here"):
        protect(images, [shallow], GuardedConfig(steps=1, guards=(("0" * 64,),)))
    with pytest.raises(ConfigError, match="is no translator"):
        protect(images, [shallow], GuardedConfig(steps=1, guards=((know(nn.Identity()),),)))
    other = Translator(shallow, Head((5, 8, 8), width=4, embedding=7), {"one": 7})
    with pytest.raises(ConfigError, match="does not fit its map"):
        protect(images, [shallow], GuardedConfig(steps=1, guards=((know(other),),)))
    renamed = Translator(shallow, guard(shallow, 1).head, {"one": 3, "two": 4})
    assert know(renamed) != know(guard(shallow, 1)) == know(guard(shallow, 1))
    with pytest.raises(ConfigError, match="guards for 1 of 2 network"):
        protect(images, [shallow, shallow], GuardedConfig(steps=1, guards=((know(nn.Identity()),),)))
