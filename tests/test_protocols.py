"""Verification from images to figures: by loops on a small network, and on real networks and faces where they are."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pmtlib import datasets, metrics, protocols, zoo
from pmtlib.calibration import calibrations, find
from pmtlib.datasets import Images, PairSet
from pmtlib.errors import DatasetError, NetworkError, ResultError
from pmtlib.images import UInt8Image, to_tensor
from tests.oracles import network_or_skip
from tests.small_network import SmallNetwork

needs_lfw = pytest.mark.skipif(not datasets.available("lfw"), reason="PMT_DATA has no lfw folder")
needs_network = pytest.mark.skipif(
    not zoo.converted_path("mobilefacenet").exists() and not zoo.available("mobilefacenet"),
    reason="the weights of mobilefacenet cannot be had",
)


class Arrays(Images):
    def __init__(self, images: list[UInt8Image]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> UInt8Image:
        return self.images[index]

    def name(self, index: int) -> str:
        return f"image {index}"

    def content(self, index: int) -> bytes:
        return self.images[index].tobytes()


def pair_set(people: int = 6, views: int = 3, *, noise: float = 12.0, folds: int = 3, seed: int = 0) -> PairSet:
    """Coloured noise for people, seen several times; all same pairs and as many different ones.

    The last image is in no pair.
    """
    random = np.random.default_rng(seed)
    faces = random.integers(40, 216, size=(people, 4, 4, 3)).repeat(28, axis=1).repeat(28, axis=2)
    images = [
        np.clip(face + random.normal(0, noise, face.shape), 0, 255).astype(np.uint8)
        for face in faces
        for _ in range(views)
    ]
    images.append(np.zeros((112, 112, 3), np.uint8))
    alike = [(views * p + i, views * p + j) for p in range(people) for i in range(views) for j in range(i)]
    unlike = [
        (views * p + int(random.integers(views)), views * q + int(random.integers(views)))
        for p, q in (random.choice(people, 2, replace=False) for _ in alike)
    ]
    pairs = np.array(alike + unlike, dtype=np.int64)
    same = np.array([True] * len(alike) + [False] * len(unlike))
    identities = (*(f"person {p}" for p in range(people) for _ in range(views)), "nobody")
    return PairSet(
        name="patches",
        images=Arrays(images),
        pairs=pairs,
        same=same,
        folds=np.arange(len(pairs), dtype=np.int64) % folds,
        identities=identities,
        title="Coloured patches",
    )


class Counting(SmallNetwork):
    """Notes how many images pass."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        assert torch.is_inference_mode_enabled()
        assert not self.training
        self.sizes.append(len(images))
        return super().prepare(images)


# ---------------------------------------------------------------------------------------------- embed


def test_embed_takes_each_image_of_a_pair_once_and_no_other() -> None:
    pairset, network = pair_set(), Counting()
    embeddings = protocols.embed(network, pairset, batch=5)
    assert network.sizes == [5, 5, 5, 3]
    assert embeddings.dtype == np.float32
    assert embeddings.shape == (19, 5)
    assert np.isnan(embeddings[18]).all()
    for index in range(18):
        with torch.no_grad():
            alone = SmallNetwork()(to_tensor(pairset.images[index]))[0].numpy()
        np.testing.assert_allclose(embeddings[index], alone, atol=1e-6)


def test_embed_follows_a_subset_of_the_pairs() -> None:
    pairset, network = pair_set(), Counting()
    part = pairset.subset(np.array([0, 1]))
    protocols.embed(network, part)
    assert sum(network.sizes) == len(set(pairset.pairs[:2].ravel().tolist()))


def test_embed_leaves_the_network_in_its_mode() -> None:
    network = Counting()
    network.train()
    protocols.embed(network, pair_set(), device="cpu", progress=True)
    assert network.training


def test_embed_refuses_values_that_are_not_finite_and_impossible_batches() -> None:
    network = SmallNetwork()
    network.units.head[2].bias.data[0] = math.nan  # type: ignore[union-attr, index]
    network.train()
    with pytest.raises(NetworkError, match="not finite"):
        protocols.embed(network, pair_set())
    assert network.training
    with pytest.raises(ValueError, match="batch"):
        protocols.embed(SmallNetwork(), pair_set(), batch=0)


# ---------------------------------------------------------------------------------------------- evaluate


def test_pair_scores_are_the_cosines_of_the_pairs() -> None:
    pairset, network = pair_set(), SmallNetwork()
    scores = protocols.pair_scores(network, pairset)
    for score, (i, j) in zip(scores, pairset.pairs, strict=True):
        with torch.no_grad():
            x, y = network(pairset.tensor(np.array([i, j]))).double()
        assert score == pytest.approx(float(x @ y / x.norm() / y.norm()), abs=1e-6)


def test_evaluate_gives_the_figures_of_its_scores() -> None:
    pairset, network = pair_set(noise=60.0), SmallNetwork()
    found = protocols.evaluate(network, pairset)
    scores, same, folds = protocols.pair_scores(network, pairset), pairset.same, pairset.folds
    assert (found.n, found.n_same, found.n_different) == (36, 18, 18)
    right = []
    for fold in range(3):
        threshold = metrics.best_threshold(scores[folds != fold], same[folds != fold])
        right.append((scores[folds == fold] > threshold) == same[folds == fold])
    assert found.accuracy_mean == pytest.approx(np.mean([part.mean() for part in right]))
    assert found.accuracy_interval == metrics.wilson(sum(int(part.sum()) for part in right), 36)
    # Fewer than 100 different pairs: no false acceptance is allowed at either rate.
    highest = max(scores[~same])
    assert found.threshold_far_1e2 == found.threshold_far_1e3 == highest
    assert found.tar_far_1e3 == np.mean(scores[same] > highest)
    assert found.tar_far_1e3_interval == metrics.wilson(int((scores[same] > highest).sum()), 18)
    assert found.auc == metrics.auc(scores, same)
    assert found.eer == metrics.eer(scores, same)
    assert found.threshold_accuracy == metrics.best_threshold(scores, same)
    assert found.fingerprint == pairset.fingerprint


def test_a_verification_is_plain_json() -> None:
    found = protocols.evaluate(SmallNetwork(), pair_set())
    stored = found.to_dict()
    assert json.loads(json.dumps(stored, allow_nan=False)) == stored
    assert stored["accuracy_interval"] == [found.accuracy_interval.low, found.accuracy_interval.high]


@pytest.mark.parametrize("folds", [np.zeros(36), np.array([0] * 18 + [1] * 18)])
def test_folds_that_cannot_be_cross_validated_are_replaced(folds: np.ndarray) -> None:
    pairset = replace(pair_set(), folds=folds)
    found = protocols.summarise(np.where(pairset.same, 0.9, 0.1) + np.arange(36) * 1e-3, pairset)
    assert found.accuracy_mean == 1.0
    assert found.accuracy_interval == metrics.wilson(36, 36)


def test_too_few_pairs_are_refused() -> None:
    pairset = pair_set()
    with pytest.raises(DatasetError, match="18 pairs of one identity and 1 of two"):
        protocols.evaluate(SmallNetwork(), pairset.subset(np.arange(19)))


# ---------------------------------------------------------------------------------------------- chance


def _verdict(scores: np.ndarray, pairset: PairSet) -> None:
    protocols.refuse_chance("net", protocols.summarise(scores, pairset), scores, pairset.same)


@pytest.mark.parametrize("people", [6, 70])
def test_scores_at_chance_are_refused_and_good_ones_are_not(people: int) -> None:
    pairset = pair_set(people)
    noise = np.random.default_rng(2).normal(size=len(pairset.same))
    for scores in (noise, np.zeros_like(noise), noise - 2.0 * pairset.same):
        with pytest.raises(NetworkError, match="net is at chance on patches") as caught:
            _verdict(scores, pairset)
        assert "\n" not in str(caught.value)
    _verdict(noise + 2.0 * pairset.same, pairset)


def test_better_than_chance_is_not_enough_and_neither_is_luck() -> None:
    many = pair_set(70)
    # As good as pixels: an area near 0.69 that no rank test over 420 pairs takes for chance.
    scores = np.random.default_rng(2).normal(size=len(many.same)) + 0.7 * many.same
    assert 0.65 < metrics.auc(scores, many.same) < 0.75
    with pytest.raises(NetworkError, match="at chance"):
        _verdict(scores, many)
    # Three pairs of each kind in perfect order happen by luck once in twenty.
    few = pair_set().subset([0, 1, 2, 18, 19, 20])
    with pytest.raises(NetworkError, match=r"AUC 1\.000 and p = 0\.05"):
        _verdict(np.arange(6.0)[::-1], few)


def test_on_a_stand_in_for_a_real_set_more_is_asked() -> None:
    pairset = pair_set(70)
    scores = np.random.default_rng(2).normal(size=len(pairset.same)) + 2.0 * pairset.same
    found = protocols.summarise(scores, pairset)
    assert 0.75 < found.auc < 0.95
    protocols.refuse_chance("net", found, scores, pairset.same)
    with pytest.raises(NetworkError, match=r"needed above 0\.95"):
        protocols.refuse_chance("net", found, scores, pairset.same, stand_in=True)


@pytest.mark.parametrize("name", zoo.CARDS)
def test_every_network_of_the_zoo_stands_on_the_sample_photographs(name: str) -> None:
    network_or_skip(name)
    assert protocols.check(name, datasets.load("samples")).auc > protocols.STAND_IN_AUC


def test_check_refuses_a_network_of_the_zoo_whose_weights_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Constant(SmallNetwork):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.ones(len(images), 5)

    monkeypatch.setattr(zoo, "load", lambda name, device: Constant())
    with pytest.raises(NetworkError, match="sface is at chance"):
        protocols.check("sface", pair_set())
    with pytest.raises(NetworkError, match="sface is at chance"):
        protocols.check("sface", pair_set(70))


def test_check_names_an_unknown_network() -> None:
    with pytest.raises(NetworkError, match="mobilefacenet"):
        protocols.check("mobilefacenett", pair_set())


@needs_lfw
@needs_network
def test_a_real_network_stands_on_real_faces_and_an_untrained_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    few = datasets.load("lfw").sample(40, seed=0)
    found = protocols.check("mobilefacenet", few)
    assert found.n == 40
    assert found.accuracy_mean >= 0.9
    assert found.auc >= 0.97

    def shuffled(name: str, device: str) -> torch.nn.Module:
        # Now and then chance alone puts a random network above the bar on so few pairs, so it is always the same one.
        torch.manual_seed(0)
        network = zoo.card(name).build()
        state = network.state_dict()
        generator = torch.Generator().manual_seed(0)
        for value in state.values():
            if value.is_floating_point():
                flat = value.flatten()
                value.copy_(flat[torch.randperm(len(flat), generator=generator)].reshape(value.shape))
        return network.eval()

    monkeypatch.setattr(zoo, "load", shuffled)
    with pytest.raises(NetworkError, match="mobilefacenet is at chance on lfw"):
        protocols.check("mobilefacenet", few)


# ---------------------------------------------------------------------------------------------- calibrate


def test_calibrate_measures_once_keeps_the_rest_and_sees_staleness(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "calibration.json"
    sets = {"patches": pair_set()}
    loads: list[str] = []

    def load(name: str, device: str) -> SmallNetwork:
        loads.append(name)
        return SmallNetwork()

    monkeypatch.setattr(datasets, "load", lambda name: sets[name])
    monkeypatch.setattr(zoo, "load", load)
    found = protocols.calibrate(["sface", "dlib-resnet29"], ["patches"], path=file)
    assert [entry.network for entry in found] == ["sface", "dlib-resnet29"]
    assert set(calibrations(file)) == set(found)
    expected = protocols.evaluate(SmallNetwork(), sets["patches"])
    entry = find("sface", "patches", weights=zoo.weights_checksum("sface"), path=file)
    assert entry is not None
    assert entry.n == 36
    assert entry.accuracy_mean == expected.accuracy_mean
    assert entry.threshold_far_1e3 == expected.threshold_far_1e3
    assert entry.tar_far_1e3_interval == expected.tar_far_1e3_interval
    assert loads == ["sface", "dlib-resnet29"]

    protocols.calibrate(["sface"], ["patches"], path=file)
    assert len(loads) == 2
    protocols.calibrate(["sface"], ["patches"], path=file, recompute=True)
    assert len(loads) == 3
    sets["patches"] = pair_set(seed=1)  # other images under the same name
    changed = protocols.calibrate(["sface"], ["patches"], path=file)
    assert len(loads) == 4
    assert changed[0].fingerprint != entry.fingerprint
    assert len(calibrations(file)) == 2
    # A damaged file says how it is written anew, and that way works.
    file.write_text("{")
    with pytest.raises(ResultError, match="write it anew with 'pmt networks --calibrate'"):
        protocols.calibrate(["sface"], ["patches"], path=file)
    again = protocols.calibrate(["sface", "dlib-resnet29"], ["patches"], path=file, recompute=True)
    assert set(calibrations(file)) == set(again)


def test_calibrate_finds_an_unknown_name_before_it_computes(tmp_path: Path) -> None:
    with pytest.raises(NetworkError):
        protocols.calibrate(["no such network"], [], path=tmp_path / "c.json")
    with pytest.raises(DatasetError):
        protocols.calibrate(["sface"], [str(tmp_path / "nothing here")], path=tmp_path / "c.json")
    assert not (tmp_path / "c.json").exists()
