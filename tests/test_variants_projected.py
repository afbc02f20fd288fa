"""Projected deep PMT: what is compared, once more in a loop, and whose directions they are."""

from __future__ import annotations

import pytest
import torch

from pmtlib.errors import ConfigError
from pmtlib.shallow import ShallowModel
from pmtlib.transform import image_seed, protect
from pmtlib.variants import name_of
from pmtlib.variants.deep import DeepConfig
from pmtlib.variants.projected import ProjectedConfig, ProjectedRun
from tests.small_network import SmallNetwork


def run_of(images: torch.Tensor, shallow: ShallowModel, config: ProjectedConfig, seed: int = 0) -> ProjectedRun:
    run = config.run(images, [shallow], [1.0], config, seed, ())
    assert isinstance(run, ProjectedRun)
    return run


def test_the_error_is_that_of_the_projections(images: torch.Tensor, shallow: ShallowModel) -> None:
    config = ProjectedConfig(steps=3, directions=2)
    result = protect(images, [shallow], config)
    own, goal = shallow.feature(result.images), shallow.feature(images)
    directions = run_of(images, shallow, config).directions[0]
    assert directions.shape == (3, 2, own.shape[1])
    for row in range(len(images)):
        wrong, size = 0.0, 0.0
        for direction in directions[row]:
            for top in range(own.shape[2]):
                for left in range(own.shape[3]):
                    a = float(direction @ own[row, :, top, left])
                    b = float(direction @ goal[row, :, top, left])
                    wrong, size = wrong + (a - b) ** 2, size + b**2
        assert result.error[row, 0].item() == pytest.approx(wrong / size, rel=1e-3)


def test_directions_are_an_images_own_and_the_seeds(images: torch.Tensor, shallow: ShallowModel) -> None:
    config = ProjectedConfig(directions=4)
    one = run_of(images, shallow, config).directions[0]
    assert not torch.allclose(one[0], one[1])
    assert torch.equal(run_of(images[1:2], shallow, config).directions[0], one[1:2])
    assert not torch.allclose(run_of(images, shallow, config, seed=1).directions[0], one)
    assert len({image_seed(0, image) for image in images}) == 3
    assert one.std().item() == pytest.approx(0.5, abs=0.1)
    assert len(run_of(images[:0], shallow, config).directions[0]) == 0


def test_what_is_not_looked_at_is_free(images: torch.Tensor, shallow: ShallowModel) -> None:
    def distance(made: torch.Tensor) -> float:
        goal = shallow.feature(images)
        return float((shallow.feature(made) - goal).norm() / goal.norm())

    few = protect(images, [shallow], ProjectedConfig(steps=60, directions=1))
    many = protect(images, [shallow], ProjectedConfig(steps=60, directions=64))
    deep = protect(images, [shallow], DeepConfig(steps=60))
    assert few.error.mean() < 0.2
    assert distance(few.images) > 2 * distance(deep.images)
    assert distance(many.images) < 1.5 * distance(deep.images)


def test_names_and_what_has_no_map(images: torch.Tensor) -> None:
    assert name_of(ProjectedConfig()) == "projected"
    with pytest.raises(ConfigError, match="is no map"):
        protect(images, [ShallowModel(SmallNetwork(), 3)], ProjectedConfig(steps=1))
