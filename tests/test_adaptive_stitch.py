from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pmtlib import metrics
from pmtlib.attacks.adaptive import stitch
from pmtlib.attacks.adaptive.stitch import (
    Completion,
    Head,
    HeadConfig,
    StitchConfig,
    StitchedNetwork,
    cosine_softmax,
    stitch_network,
    train_head,
)
from pmtlib.attacks.training import TRAINING
from pmtlib.datasets import PairSet, People
from pmtlib.errors import ConfigError, DatasetError, ResultError
from pmtlib.networks.mobilefacenet import CASIA, MobileFaceNet
from pmtlib.protocols import embed
from pmtlib.shallow import ShallowModel
from tests.crowd import crowd, gathered, smooth
from tests.interruption import goes_on_to_the_same_bits
from tests.small_network import SmallNetwork

TINY = HeadConfig(
    steps=6, batch_size=4, width=4, embedding=8, validation_people=2, validate_every=3, average=0.5, margin=0.1
)

STITCH = StitchConfig(steps=6, batch_size=4, validation_people=2, validate_every=3, average=0.5)


class Narrow(SmallNetwork):
    """It sees the middle half of the columns."""

    columns = (28, 84)

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        return super().prepare(images[..., 28:84])


def shallow(cut: int = 1) -> ShallowModel:
    return ShallowModel(SmallNetwork(), cut)


def alike(people: int, each: int, seed: int = 3, noise_seed: int = 0) -> People:
    """People whose pictures are noisy versions of one."""
    images = smooth(people, seed).repeat_interleave(each, 0)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(noise_seed))
    return gathered((images + 0.1 * noise).clamp(0, 1), each)


@pytest.mark.parametrize("feature", [(4, 56, 56), (6, 28, 24), (5, 14, 14), (3, 7, 7), (8, 1, 1)])
def test_a_head_fits_any_feature_map(feature: tuple[int, int, int]) -> None:
    assert Head(feature, width=4, embedding=8)(torch.randn(2, *feature)).shape == (2, 8)


def test_the_loss_is_cosface() -> None:
    generator = torch.Generator().manual_seed(0)
    e, w = (torch.randn(n, 4, generator=generator, dtype=torch.float64) for n in (3, 5))
    labels, s, m = [4, 0, 2], 7.0, 0.3
    total = 0.0
    for n in range(3):
        cosines = [float(e[n] @ w[j] / (e[n].norm() * w[j].norm())) for j in range(5)]
        own = math.exp(s * (cosines[labels[n]] - m))
        others = sum(math.exp(s * cosines[j]) for j in range(5) if j != labels[n])
        total -= math.log(own / (own + others))
    assert float(cosine_softmax(e, w, torch.tensor(labels), scale=s, margin=m)) == pytest.approx(total / 3, rel=1e-9)


def test_a_head_learns_three_identities() -> None:
    config = TINY.model_copy(update={"steps": 40, "validation_people": 0, "batch_size": 6, "learning_rate": 5e-3})
    network = train_head(shallow(), alike(3, 4), config)
    fresh = alike(3, 2, noise_seed=9)
    embeddings = network(fresh.tensor(range(6)))
    found = metrics.identification(
        embeddings[::2], embeddings[1::2], gallery_identities="abc", probe_identities="abc", ks=(1,)
    )
    assert found[1].all()
    same = metrics.cosine(embeddings[::2], embeddings[1::2])
    different = metrics.cosine(embeddings[[0, 2, 4]], embeddings[[2, 4, 0]])
    assert same.min() > different.max() + 0.3


def test_what_comes_back_is_a_face_network(tmp_path: Path) -> None:
    model = shallow()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    people = crowd(5, 2)
    network = train_head(model, people, TINY, folder=tmp_path)
    assert isinstance(network, StitchedNetwork)
    assert network.unit_names == ("shallow", "head")
    assert not any(parameter.requires_grad for parameter in network.parameters())
    images = people.tensor([0, 1])
    head = network.units[1]
    torch.testing.assert_close(network(images), head(model.feature(images)))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    curve = stitch._HeadTraining.files.read(tmp_path)["curve"]
    assert [point["step"] for point in curve] == [0, 3, 6]
    assert all(0 <= point["val_auc"] <= 1 for point in curve)


def test_it_is_usable_in_the_protocols() -> None:
    people = crowd(4, 2)
    network = train_head(shallow(), people, TINY)
    pairs = PairSet("p", people.images, np.array([[0, 1], [1, 2]]), np.array([True, False]), np.zeros(2), None, "p")
    found = embed(network, pairs)
    np.testing.assert_allclose(found[:3], network(people.tensor(range(3))).numpy(), atol=1e-5)


def test_an_interrupted_training_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    people = crowd(5, 2)
    goes_on_to_the_same_bits(lambda **options: train_head(shallow(), people, TINY, **options), tmp_path)


def test_what_cannot_be_trained_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="Remedy"):
        train_head(shallow(), crowd(3, 2), TINY)
    with pytest.raises(DatasetError, match="Remedy"):
        train_head(shallow(), crowd(2, 2), TINY)
    with pytest.raises(ConfigError, match="before the head"):
        train_head(shallow(3), crowd(4, 1), TINY)
    train_head(shallow(), crowd(4, 1), TINY, folder=tmp_path)
    with pytest.raises(ConfigError, match="holds another head"):
        train_head(shallow(2), crowd(4, 1), TINY, folder=tmp_path)
    (tmp_path / TRAINING).write_bytes(b"PK")
    with pytest.raises(ResultError, match="damaged"):
        train_head(shallow(), crowd(4, 1), TINY, folder=tmp_path)


def test_a_head_of_the_usual_size_trains() -> None:
    """Wide maps in a memory layout that the group norm cannot differentiate once ended the process."""
    config = HeadConfig(steps=1, batch_size=64, validation_people=0, validate_every=1)
    shallow = ShallowModel(SmallNetwork(), 1)
    widened = ShallowModel(SmallNetwork(), 1)
    widened.feature = lambda images: shallow.feature(images).repeat(1, 128, 1, 1)[..., ::8, ::8].contiguous()  # type: ignore[method-assign]
    assert train_head(widened, crowd(4, 16), config) is not None


def test_a_network_stitched_to_its_own_first_units_is_that_network() -> None:
    network, images = SmallNetwork(), smooth(3)
    completion = Completion((4, 56, 56), network)
    torch.nn.init.dirac_(completion.seam.weight)
    torch.nn.init.zeros_(completion.seam.bias)  # type: ignore[arg-type]
    torch.testing.assert_close(completion(shallow().feature(images)), network(images))


def test_a_seam_looks_where_the_other_network_looks() -> None:
    completion = Completion((4, 56, 56), Narrow())
    assert completion.rows.shape == (56, 56)
    assert torch.equal(completion.rows, torch.eye(56))
    assert completion.columns.shape == (56, 28)
    # Its cells are those of the middle: where grids agree, nothing is interpolated.
    assert torch.equal(completion.columns, torch.eye(56)[:, 14:42])
    assert completion(torch.randn(2, 4, 56, 56)).shape == (2, 5)


def test_the_columns_of_a_real_network_are_its_own() -> None:
    """A network of 112x96 has maps of 7x6, whose cells lie half-way between those of a map of 7x7."""
    completion = Completion((512, 7, 7), MobileFaceNet(CASIA))
    torch.testing.assert_close(completion.columns, stitch._resampling(7, 6, (8, 104)))
    assert completion.seam.weight.shape == (512, 512, 1, 1)
    wider = Completion((64, 28, 28), MobileFaceNet(CASIA))
    assert torch.equal(wider.columns, torch.eye(28)[:, 2:26])
    # What follows from the two networks is not stored with the weights.
    assert not {"rows", "columns"} & set(completion.state_dict())


def test_a_seam_interpolates_between_cells() -> None:
    # Seven cells of 16 pixels, six cells from pixel 8 on: each lies half-way between two.
    weights = stitch._resampling(7, 6, (8, 104))
    expected = torch.zeros(7, 6)
    for place in range(6):
        expected[place : place + 2, place] = 0.5
    torch.testing.assert_close(weights, expected)
    # More cells than there are: weights of each still add up to one, also beyond the first centre.
    torch.testing.assert_close(stitch._resampling(4, 9, (0, 112)).sum(0), torch.ones(9))


def test_a_seam_learns_to_join_two_networks() -> None:
    """Another network's later units learn to speak of the shared features as that network speaks of the faces."""
    other = SmallNetwork(seed=7)
    config = STITCH.model_copy(
        update={"steps": 120, "batch_size": 12, "learning_rate": 2e-2, "noise": 0.0, "teaching": 1e4}
    )
    people = alike(12, 4)
    before, after = (
        stitch_network(shallow(), other, people, config.model_copy(update={"steps": steps})) for steps in (1, 120)
    )
    fresh = alike(12, 1, noise_seed=9).tensor(range(12))
    first, last = (1 - float(metrics.cosine(network(fresh), other(fresh)).mean()) for network in (before, after))
    assert last < 0.25 * first, (first, last)


def test_the_loss_of_a_stitched_network_is_names_and_teaching() -> None:
    people, other = alike(6, 3), SmallNetwork(seed=7)

    def loss(**changes: float) -> float:
        config = STITCH.model_copy(update={"noise": 0.0, "flip": False, **changes})
        training = stitch._StitchTraining(shallow(), other, people, config, None, False)
        return float(training.loss().detach())

    taught = loss(teaching=1.0) - loss(teaching=0.0)
    assert 0 < taught < 2
    assert loss(teaching=3.0) == pytest.approx(loss(teaching=0.0) + 3 * taught, rel=1e-5)


def test_mirrored_features_are_taught_what_is_said_of_mirrored_photographs() -> None:
    people, other = alike(6, 3), SmallNetwork(seed=7)
    training = stitch._StitchTraining(shallow(), other, people, STITCH, None, False)
    images = people.tensor([row for row in range(18) if people.identities[row] in training.names])
    for side, seen in enumerate((images, images.flip(3))):
        torch.testing.assert_close(training.said[side], other(seen), atol=1e-4, rtol=0)
        torch.testing.assert_close(training.features[side].float(), shallow().feature(seen), atol=5e-3, rtol=5e-3)
    assert not torch.equal(training.said[0], training.said[1])


def test_noise_is_in_units_of_the_features() -> None:
    people, other = alike(6, 3), SmallNetwork(seed=7)
    config = STITCH.model_copy(update={"flip": False, "noise": 0.5, "batch_size": 12, "validation_people": 0})
    training = stitch._StitchTraining(shallow(), other, people, config, None, False)
    given: list[torch.Tensor] = []
    training.model.head.register_forward_pre_hook(lambda _, features: given.append(features[0].detach()))
    training.loss()
    added = (given[0] - training.features[0][training.rows(18)].float()).flatten(1).std(1)
    # A photograph's amount is uniform between none and the largest.
    assert 0 < float(added.min()) < 0.25 * training.spread < float(added.max()) < 1.02 * 0.5 * training.spread


def test_prototypes_begin_where_the_network_puts_each_person() -> None:
    people, other = alike(5, 3), SmallNetwork(seed=7)
    config = STITCH.model_copy(update={"flip": False})
    training = stitch._StitchTraining(shallow(), other, people, config, None, False)
    for number, name in enumerate(training.names):
        rows = [row for row, who in enumerate(people.identities) if who == name]
        mean = torch.nn.functional.normalize(other(people.tensor(rows)), dim=1).mean(0)
        own = training.model.prototypes[number].detach()
        assert float(torch.nn.functional.cosine_similarity(own, mean, dim=0)) == pytest.approx(1, abs=1e-4)


def test_a_stitched_network_is_told_from_others(tmp_path: Path) -> None:
    people, other = alike(5, 2), SmallNetwork(seed=7)
    network = stitch_network(shallow(), other, people, STITCH, folder=tmp_path)
    assert network.unit_names == ("shallow", "head")
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not any(parameter.requires_grad for parameter in other.parameters())
    curve = stitch._StitchTraining.files.read(tmp_path)["curve"]
    assert [point["step"] for point in curve] == [0, 3, 6]
    images = people.tensor([0, 1])
    again = stitch_network(shallow(), other, people, STITCH, folder=tmp_path)
    assert torch.equal(again(images), network(images))
    with pytest.raises(ConfigError, match="holds another stitched network"):
        stitch_network(shallow(), SmallNetwork(seed=8), people, STITCH, folder=tmp_path)
    with pytest.raises(ConfigError, match="before the head"):
        stitch_network(shallow(3), other, people, STITCH)
    with pytest.raises(ConfigError, match="give a smaller one"):
        Completion((4, 112, 112), other)


def test_an_interrupted_stitching_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    people, other = alike(5, 2), SmallNetwork(seed=7)
    goes_on_to_the_same_bits(lambda **options: stitch_network(shallow(), other, people, STITCH, **options), tmp_path)
