"""Embedding PMT: what is compared, and heads that are not there."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pmtlib.errors import ConfigError
from pmtlib.shallow import ShallowModel
from pmtlib.transform import PMTConfig, protect
from pmtlib.variants import code_digest, embedding, name_of
from pmtlib.variants.embedding import EmbeddingConfig


def head(seed: int, channels: int = 6) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.AdaptiveAvgPool2d(2), nn.Flatten())


def test_the_error_is_that_of_the_heads_unit_embeddings(images: torch.Tensor, shallow: ShallowModel) -> None:
    heads = [head(1), head(2)]
    config = EmbeddingConfig(steps=3, heads=(tuple(embedding.know(one) for one in heads),))
    result = protect(images, [shallow], config)
    for row in range(len(images)):
        wrong = 0.0
        for one in heads:
            own, goal = (one(shallow.feature(which[row : row + 1]))[0] for which in (result.images, images))
            own, goal = own / own.square().sum().sqrt(), goal / goal.square().sum().sqrt()
            wrong += float((own - goal).square().sum())
        assert result.error[row, 0].item() == pytest.approx(wrong / len(heads), rel=1e-4)


def test_steps_bring_embeddings_nearer_and_leave_the_map_free(images: torch.Tensor, shallow: ShallowModel) -> None:
    narrow = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2))
    names = ((embedding.know(narrow),),)
    before = protect(images, [shallow], EmbeddingConfig(steps=0, heads=names))
    after = protect(images, [shallow], EmbeddingConfig(steps=40, heads=names))
    assert (after.error < 0.05 * before.error).all()
    goal = shallow.feature(images)
    distance = (shallow.feature(after.images) - goal).flatten(1).norm(dim=1) / goal.flatten(1).norm(dim=1)
    assert (distance > 0.2).all()


def test_the_name_is_that_of_the_weights(images: torch.Tensor) -> None:
    assert embedding.know(head(1)) == embedding.know(head(1)) != embedding.know(head(2))
    config = EmbeddingConfig(heads=((embedding.know(head(1)),),))
    assert name_of(config) == "embedding"
    assert code_digest(config) != code_digest(PMTConfig())


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ((("0" * 64,),), "head 000000000000 is not known here"),
        ((), "at least 1 item"),
        (((),), "give one or more for each"),
        ((("0" * 64,), ("0" * 64,)), "heads for 2 of 1 network"),
    ],
)
def test_heads_that_are_not_there_are_said(
    heads: tuple[tuple[str, ...], ...], message: str, images: torch.Tensor, shallow: ShallowModel
) -> None:
    with pytest.raises((ConfigError, ValueError), match=message):
        protect(images, [shallow], EmbeddingConfig(steps=1, heads=heads))


def test_a_head_of_another_cut_is_said(images: torch.Tensor, shallow: ShallowModel) -> None:
    config = EmbeddingConfig(steps=1, heads=((embedding.know(head(1, channels=5)),),))
    with pytest.raises(ConfigError, match="does not fit its map"):
        protect(images, [shallow], config)
