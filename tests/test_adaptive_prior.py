from __future__ import annotations

import pytest
import torch

from pmtlib.attacks.adaptive.prior import (
    Decoder,
    PriorConfig,
    best_of,
    invert_with_network,
    mean_image,
)
from pmtlib.attacks.reconstruction import ADAM, SIGN, InversionConfig, inversion_objective, invert
from pmtlib.errors import ConfigError, DatasetError
from pmtlib.shallow import ShallowModel
from tests.crowd import crowd, gathered, smooth
from tests.small_network import SmallNetwork, photographs

SHAPE = (16, 12)
PRIOR = PriorConfig(steps=150, width=16, levels=2, learning_rate=2e-2)


def shallow(cut: int = 1) -> ShallowModel:
    return ShallowModel(SmallNetwork(), cut)


def pictures(count: int = 2) -> torch.Tensor:
    return torch.nn.functional.interpolate(photographs(count, size=4), SHAPE, mode="bicubic").clamp(0, 1)


@pytest.mark.parametrize(("size", "levels"), [((16, 12), 2), ((112, 112), 4), ((9, 31), 3)])
def test_the_decoder_makes_images_of_any_size(size: tuple[int, int], levels: int) -> None:
    coarse = [-(-side // 2**levels) for side in size]
    made = Decoder(width=8, levels=levels)(torch.randn(2, 8, *coarse), size)
    assert made.shape == (2, 3, *size)
    assert 0 < float(made.detach().min()) <= float(made.detach().max()) < 1


def test_the_network_is_fitted_to_the_features_each_image_on_its_own() -> None:
    images, model = pictures(), shallow()
    z = model.feature(images)
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    steps: list[int] = []
    found = invert_with_network(z, model, PRIOR, image_shape=SHAPE, progress=steps.append)
    torch.testing.assert_close(torch.rand(2), expected, rtol=0, atol=0)
    assert sum(steps) == 2 * 150
    assert found.trace.shape == (2, 150)
    assert (found.objective < found.trace[:, 0] / 4).all()
    recomputed = inversion_objective(found.images, z, model, PRIOR.objective)
    torch.testing.assert_close(found.objective, recomputed, rtol=1e-4, atol=1e-6)
    alone = invert_with_network(z[1:], model, PRIOR, seeds=[1], image_shape=SHAPE)
    assert torch.equal(alone.images, found.images[1:])
    # It comes nearer to the photograph than a grey image, which it has never seen.
    grey = (images - 0.5).square().mean()
    assert (found.images - images).square().mean() < grey / 2


def test_nothing_to_invert() -> None:
    z = shallow().feature(pictures())[:0]
    assert invert_with_network(z, shallow(), PRIOR, image_shape=SHAPE).images.shape == (0, 3, *SHAPE)
    assert best_of(z, shallow(), [PRIOR, SIGN], image_shape=SHAPE).images.shape == (0, 3, *SHAPE)


def test_the_attempt_with_the_lowest_objective_is_kept() -> None:
    z = shallow().feature(pictures(3))
    face = pictures(5).mean(0)
    short = ADAM.model_copy(update={"steps": 3, "starts": ("grey", "noise", "noise", "mean")})
    configs = [short, InversionConfig(rule="sign", steps=2), PRIOR.model_copy(update={"steps": 3})]
    found = best_of(z, shallow(), configs, mean_image=face, image_shape=SHAPE)
    assert found.labels == ("0: grey", "0: noise", "0: noise", "0: mean", "1: grey", "2: network")
    assert found.objectives.shape == (3, 6)
    assert not torch.equal(found.objectives[:, 1], found.objectives[:, 2])
    for n in range(3):
        values = found.objectives[n].tolist()
        assert values[int(found.chosen[n])] == min(values)
    # The judge is the one that was named, for all attempts alike.
    torch.testing.assert_close(found.objective, inversion_objective(found.images, z, shallow(), ADAM))
    strict = ADAM.model_copy(update={"tv_weight": 1e6})
    other = best_of(z, shallow(), configs, mean_image=face, image_shape=SHAPE, judge=strict)
    torch.testing.assert_close(other.objective, inversion_objective(other.images, z, shallow(), strict))
    assert not torch.equal(other.objectives, found.objectives)


def test_more_attempts_are_never_worse() -> None:
    z = shallow().feature(pictures(3))
    few = [InversionConfig(steps=2)]
    more = [*few, InversionConfig(steps=30)]
    first, second = (best_of(z, shallow(), configs, image_shape=SHAPE).objective for configs in (few, more))
    assert (second < first).all()


def test_the_mean_start_sets_out_from_the_image_that_is_given() -> None:
    z = shallow().feature(pictures())
    face = pictures(4).mean(0)
    none = InversionConfig(steps=0, starts=("mean",))
    found = invert(z, shallow(), none, image_shape=SHAPE, mean_image=face)
    assert torch.equal(found.images, face.expand(2, -1, -1, -1))
    for wrong in (None, face[:, :8]):
        with pytest.raises(ConfigError, match="needs a mean image"):
            invert(z, shallow(), none, image_shape=SHAPE, mean_image=wrong)


def test_the_mean_face_is_the_mean_over_all_images() -> None:
    images = smooth(5)
    torch.testing.assert_close(mean_image(gathered(images, 2), batch=2), images.mean(0), atol=1e-6, rtol=0)
    with pytest.raises(DatasetError, match="holds no image"):
        mean_image(crowd(1, 1).subset([]))


def test_what_cannot_be_inverted_is_refused() -> None:
    z = shallow().feature(pictures())
    with pytest.raises(ConfigError, match="seeds"):
        invert_with_network(z, shallow(), PRIOR, seeds=[1], image_shape=SHAPE)
    with pytest.raises(ConfigError, match="not of this shallow model"):
        invert_with_network(z, shallow(2), PRIOR, image_shape=SHAPE)
    with pytest.raises(ConfigError, match="not finite"):
        invert_with_network(z * torch.nan, shallow(), PRIOR, image_shape=SHAPE)
    with pytest.raises(ConfigError, match="one or more"):
        best_of(z, shallow(), [], image_shape=SHAPE)
