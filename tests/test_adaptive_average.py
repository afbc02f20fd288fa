from __future__ import annotations

import numpy as np
import pytest
import torch

from pmtlib import metrics
from pmtlib.attacks.adaptive.average import average_embeddings, average_features, average_images, protected_copies
from pmtlib.errors import ConfigError
from pmtlib.images import quantise
from pmtlib.shallow import ShallowModel
from pmtlib.transform import PMTConfig, protect
from tests.oracles import astronaut_crop
from tests.small_network import SmallNetwork, photographs

FEW = PMTConfig(steps=3, batch_size=2)


def test_a_copy_is_the_upload_that_its_seed_gives() -> None:
    images = photographs(2)
    models = [ShallowModel(SmallNetwork(), 2), ShallowModel(SmallNetwork(1), 1)]
    copies = protected_copies(images, models, FEW, [4, 9])
    assert copies.images.shape == (2, 2, 3, 16, 16)
    assert [tuple(feature.shape) for feature in copies.features] == [(2, 2, 6, 4, 4), (2, 2, 4, 8, 8)]
    for place, seed in enumerate((4, 9)):
        alone = protect(images, models, FEW.model_copy(update={"seed": seed}))
        assert torch.equal(copies.images[place], quantise(alone.images))
        for ours, theirs in zip(copies.features, alone.features, strict=True):
            assert torch.equal(ours[place], theirs)
    assert not torch.equal(copies.images[0], copies.images[1])


def test_the_mean_is_over_the_copies_and_not_over_the_photographs() -> None:
    copies = torch.rand(3, 2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    for average in (average_images, average_features):
        mean = average(copies)
        for n in range(2):
            torch.testing.assert_close(mean[n], (copies[0, n] + copies[1, n] + copies[2, n]) / 3)


def test_more_copies_are_closer_to_the_photograph() -> None:
    clean = astronaut_crop()
    noise = torch.randn((16, *clean.shape), generator=torch.Generator().manual_seed(0))
    copies = (clean + 0.1 * noise).clamp(0, 1)
    found = [float(metrics.ssim(average_images(copies[:n]), clean)[0]) for n in (1, 4, 16)]
    assert found[0] + 0.1 < found[1]
    assert found[1] + 0.05 < found[2]


def test_what_cannot_be_averaged_is_refused() -> None:
    model = [ShallowModel(SmallNetwork(), 2)]
    for seeds in ([], [1, 1]):
        with pytest.raises(ConfigError, match="each another"):
            protected_copies(photographs(1), model, FEW, seeds)
    with pytest.raises(ConfigError, match="n, N, 3, H, W"):
        average_images(torch.zeros(2, 3, 4, 4))
    with pytest.raises(ConfigError, match="at least 1"):
        average_features(torch.zeros(0, 2, 6, 4, 4))


def test_a_template_is_the_mean_of_directions_whatever_their_lengths() -> None:
    first, second = np.array([[3.0, 0.0], [0.0, 0.5]]), np.array([[0.0, 4.0], [0.0, 9.0]])
    assert np.allclose(average_embeddings(np.stack([first, second])), [[0.5, 0.5], [0.0, 1.0]])
    for wrong in (first, np.zeros((0, 2, 2)), np.zeros((1, 2, 2)), np.full((1, 2, 2), np.nan)):
        with pytest.raises(ConfigError, match="embedding"):
            average_embeddings(wrong)
