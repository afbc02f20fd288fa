"""Formulas against plain loops on random data, and their edge cases."""

from __future__ import annotations

import io
import json
import math
import warnings
from contextlib import redirect_stdout
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pmtlib import assets, metrics
from pmtlib.errors import AssetError
from pmtlib.images import add_noise, to_tensor
from pmtlib.paths import data_dir

ORACLES = json.loads((Path(__file__).parent / "oracles.json").read_text())
needs_lpips = pytest.mark.skipif(
    not (assets.available("lpips-vgg16") and assets.available("lpips-alexnet")),
    reason="the LPIPS weights are not on this machine (pmt assets fetch)",
)


def noise(count: int = 2, size: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.rand((count, 3, size, size), generator=torch.Generator().manual_seed(seed))


def random_scores(seed: int, n: int = 60, decimals: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping scores of both kinds; few decimals make ties."""
    random = np.random.default_rng(seed)
    same = random.random(n) < 0.5
    same[:2] = True, False
    scores = random.normal(size=n) + same
    return (scores if decimals is None else scores.round(decimals)), same


# ---------------------------------------------------------------------------------------------- images


def test_ssim_is_the_mean_over_windows_and_channels() -> None:
    a, b = noise(2, 10, 0), noise(2, 10, 1)
    expected = []
    for x, y in zip(a.double().numpy(), b.double().numpy(), strict=True):
        values = []
        for channel in range(3):
            for top in range(10 - 7 + 1):
                for left in range(10 - 7 + 1):
                    p = x[channel, top : top + 7, left : left + 7].ravel()
                    q = y[channel, top : top + 7, left : left + 7].ravel()
                    cov = sum((p - p.mean()) * (q - q.mean())) / 48
                    c1, c2 = 0.01**2, 0.03**2
                    values.append(
                        (2 * p.mean() * q.mean() + c1)
                        * (2 * cov + c2)
                        / ((p.mean() ** 2 + q.mean() ** 2 + c1) * (p.var(ddof=1) + q.var(ddof=1) + c2))
                    )
        expected.append(np.mean(values))
    np.testing.assert_allclose(metrics.ssim(a, b), expected, rtol=1e-9)


def test_psnr_is_in_decibels_of_the_mean_squared_difference() -> None:
    a, b = noise(3, 8, 0), noise(3, 8, 1)
    expected = [
        -10 * math.log10(sum((float(p) - float(q)) ** 2 for p, q in zip(x.ravel(), y.ravel(), strict=True)) / x.numel())
        for x, y in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(metrics.psnr(a, b), expected, rtol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert metrics.psnr(a, a).tolist() == [math.inf] * 3
    assert metrics.ssim(a, a).tolist() == [1.0] * 3


def test_images_of_an_empty_batch_have_no_values() -> None:
    empty = torch.empty((0, 3, 16, 16))
    assert metrics.ssim(empty, empty).shape == metrics.psnr(empty, empty).shape == (0,)


@pytest.mark.parametrize("metric", [metrics.ssim, metrics.psnr, metrics.lpips])
@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (noise(2, 32), noise(3, 32), "differ in shape"),
        (noise(2, 32)[0], noise(2, 32)[0], "expected RGB images"),
        (noise(2, 32)[:, :1], noise(2, 32)[:, :1], "expected RGB images"),
        (noise(2, 32) * 255, noise(2, 32), r"values in \[0, 1\]"),
        (noise(2, 32), noise(2, 32) * 2 - 1, r"values in \[0, 1\]"),
        (noise(2, 32), noise(2, 32) * math.nan, r"values in \[0, 1\]"),
        ((noise(2, 32) * 255).to(torch.uint8), noise(2, 32), "expected floats"),
    ],
)
def test_images_of_wrong_shape_or_range_are_refused(metric, a, b, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        metric(a, b)


def test_images_smaller_than_the_window_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 7 pixels"):
        metrics.ssim(noise(1, 6), noise(1, 6))
    with pytest.raises(ValueError, match="at least 32 pixels"):
        metrics.lpips(noise(1, 16), noise(1, 16))


def test_lpips_refuses_an_unknown_trunk() -> None:
    with pytest.raises(ValueError, match="vgg, alex"):
        metrics.lpips(noise(1, 32), noise(1, 32), "squeeze")  # type: ignore[arg-type]


def test_lpips_weights_of_another_layout_are_an_asset_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(assets, "path", lambda name: tmp_path / name)
    monkeypatch.setattr(assets, "read_pickle", lambda path: {"VGG16_0": {"Conv_1": {}}})
    metrics._lpips_model.cache_clear()
    try:
        with pytest.raises(AssetError, match="not the weights of lpips-vgg16"):
            metrics.lpips(noise(1, 32), noise(1, 32), "vgg")
    finally:
        metrics._lpips_model.cache_clear()


@needs_lpips
def test_lpips_loads_quietly_and_leaves_the_random_state_alone() -> None:
    metrics._lpips_model.cache_clear()
    state = torch.random.get_rng_state()
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()) as printed:
        warnings.simplefilter("error")
        model = metrics.lpips_model("alex")
    assert printed.getvalue() == ""
    assert torch.equal(state, torch.random.get_rng_state())
    assert metrics.lpips_model("alex", torch.device("cpu")) is model


@needs_lpips
@pytest.mark.parametrize("net", ["vgg", "alex"])
def test_lpips_is_symmetric_and_the_same_in_any_batch(net: metrics.LpipsNet) -> None:
    a, b = noise(3, 48, 0), noise(3, 48, 1)
    whole = metrics.lpips(a, b, net)
    assert (whole > 0.05).all()
    np.testing.assert_allclose(metrics.lpips(a, b, net, batch=1), whole, rtol=1e-5)
    np.testing.assert_allclose(metrics.lpips(b, a, net), whole, rtol=1e-5)
    assert metrics.lpips(a, a, net).tolist() == [0.0] * 3


@needs_lpips
def test_lpips_model_is_differentiable_and_has_nothing_to_train() -> None:
    model = metrics.lpips_model("alex")
    x = noise(1, 48).requires_grad_()
    model(x * 2 - 1, noise(1, 48, 1) * 2 - 1).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0
    assert not any(parameter.requires_grad for parameter in model.parameters())


@needs_lpips
@pytest.mark.parametrize("net", ["vgg", "alex"])
def test_lpips_agrees_with_an_independent_reader_of_the_weights(net: metrics.LpipsNet) -> None:
    root = data_dir()
    if root is None or not (root / ORACLES["lfw_folder"]).is_dir():
        pytest.skip("PMT_DATA has no lfw folder")
    a, b = (to_tensor(np.array(Image.open(root / ORACLES["lfw_folder"] / name))) for name in ORACLES["files"][:2])
    assert metrics.lpips(a, b, net)[0] == pytest.approx(ORACLES["lpips"][net], abs=1e-5)


# ---------------------------------------------------------------------------------------------- recognition


def test_cosine_by_loops() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(7, 5)), random.normal(size=(7, 5))
    expected = []
    for p, q in zip(x, y, strict=True):
        dot = sum(i * j for i, j in zip(p, q, strict=True))
        expected.append(dot / math.sqrt(sum(i * i for i in p)) / math.sqrt(sum(j * j for j in q)))
    np.testing.assert_allclose(metrics.cosine(x, y), expected, rtol=1e-12)
    np.testing.assert_allclose(metrics.cosine(torch.tensor(x), torch.tensor(y)), expected, rtol=1e-12)


def test_cosine_edges() -> None:
    assert metrics.cosine([[0.0, 0.0], [1.0, 1.0]], [[1.0, 0.0], [-2.0, -2.0]]).tolist() == pytest.approx([0.0, -1.0])
    # Rounding must not push a cosine of equal vectors above 1.
    x = np.random.default_rng(0).normal(size=(500, 128)).astype(np.float32)
    assert metrics.cosine(x, x).max() <= 1.0
    with pytest.raises(ValueError, match="differ in shape"):
        metrics.cosine([[1.0, 0.0]], [[1.0, 0.0, 0.0]])
    with pytest.raises(ValueError, match="not finite"):
        metrics.cosine([[1.0, math.nan]], [[1.0, 0.0]])


def test_eq10_by_its_truth_table() -> None:
    kappa = 0.2
    rows = [
        # own, other, same, counts
        (0.5, 0.4, True, True),
        (0.5, 0.1, True, False),
        (0.5, 0.4, False, False),
        (0.5, 0.1, False, True),
        (0.1, 0.4, True, False),
        (0.1, 0.1, False, False),
        (0.2, 0.4, True, False),  # strictly above, on both sides
        (0.5, 0.2, True, False),
        (0.5, 0.2, False, True),
    ]
    own, other, same, counts = (list(column) for column in zip(*rows, strict=True))
    assert metrics.eq10(own, other, same, kappa).tolist() == counts
    assert metrics.eq10(own, other, [int(y) for y in same]).tolist() == counts
    with pytest.raises(ValueError, match="differ in shape"):
        metrics.eq10([0.1], [0.1, 0.2], [True])
    with pytest.raises(ValueError, match="same"):
        metrics.eq10([0.1], [0.1], [2])


@pytest.mark.parametrize("decimals", [None, 1])
@pytest.mark.parametrize("seed", range(4))
def test_roc_gives_the_rates_at_its_thresholds(seed: int, decimals: int | None) -> None:
    scores, same = random_scores(seed, decimals=decimals)
    curve = metrics.roc(scores, same)
    assert len(curve.thresholds) == len(set(scores)) + 1
    for far, tar, threshold in zip(*curve, strict=True):
        accepted = [s > threshold for s in scores]
        assert far == pytest.approx(sum(a and not y for a, y in zip(accepted, same, strict=True)) / (~same).sum())
        assert tar == pytest.approx(sum(a and y for a, y in zip(accepted, same, strict=True)) / same.sum())
    assert (curve.far[0], curve.tar[0]) == (0.0, 0.0)
    assert (curve.far[-1], curve.tar[-1]) == (1.0, 1.0)


@pytest.mark.parametrize("decimals", [None, 1])
def test_auc_counts_the_pairs_in_order(decimals: int | None) -> None:
    scores, same = random_scores(0, decimals=decimals)
    wins = [0.5 * (p == q) + (p > q) for p in scores[same] for q in scores[~same]]
    assert metrics.auc(scores, same) == pytest.approx(sum(wins) / len(wins))


def test_eer_is_where_the_two_error_rates_meet() -> None:
    # At a threshold of 0.45: one of four different pairs accepted, one of four same pairs rejected.
    scores = [0.1, 0.2, 0.3, 0.5, 0.4, 0.6, 0.7, 0.8]
    same = [False] * 4 + [True] * 4
    assert metrics.eer(scores, same) == pytest.approx(0.25)
    assert metrics.eer([0.0, 0.1, 0.8, 0.9], [False, False, True, True]) == pytest.approx(0.0)
    assert metrics.eer([0.8, 0.9, 0.0, 0.1], [False, False, True, True]) == pytest.approx(1.0)
    assert metrics.eer([0.5] * 4, [False, False, True, True]) == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(4))
def test_eer_lies_between_the_neighbouring_points_of_the_curve(seed: int) -> None:
    scores, same = random_scores(seed)
    rate = metrics.eer(scores, same)
    below, above = 0.0, 1.0
    for threshold in [-math.inf, *scores]:
        far = np.mean(scores[~same] > threshold)
        frr = np.mean(scores[same] <= threshold)
        below, above = max(below, min(far, frr)), min(above, max(far, frr))
    assert below - 1e-12 <= rate <= above + 1e-12


@pytest.mark.parametrize("far", [0.0, 0.01, 0.1, 0.3, 0.999])
@pytest.mark.parametrize("decimals", [None, 1])
@pytest.mark.parametrize("seed", range(3))
def test_tar_at_far_takes_the_lowest_threshold_within_the_bound(seed: int, decimals: int | None, far: float) -> None:
    scores, same = random_scores(seed, decimals=decimals)
    allowed = [t for t in scores if np.mean(scores[~same] > t) <= far]
    found = metrics.tar_at_far(scores, same, far)
    assert found.threshold == min(allowed)
    assert found.tar == np.mean(scores[same] > min(allowed))


def test_tar_at_far_allows_exactly_the_share_asked_for() -> None:
    # 0.29 * 100 is 28.999999999999996 in floating point; 29 false acceptances are allowed all the same.
    impostors = np.arange(100) / 100
    found = metrics.tar_at_far([*impostors, 2.0], [False] * 100 + [True], 0.29)
    assert np.sum(impostors > found.threshold) == 29
    for bad in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match="far"):
            metrics.tar_at_far([0.0, 1.0], [False, True], bad)


@pytest.mark.parametrize("decimals", [None, 1, 0])
@pytest.mark.parametrize("seed", range(6))
def test_best_threshold_has_the_most_right_answers(seed: int, decimals: int | None) -> None:
    scores, same = random_scores(seed, n=40, decimals=decimals)
    threshold = metrics.best_threshold(scores, same)
    steps = sorted(set(scores))
    optimum = max(np.mean((scores > t) == same) for t in [-math.inf, *steps])
    assert np.mean((scores > threshold) == same) == optimum
    # The widest optimal interval between neighbours, and its middle.
    optimal = [
        (high - low, -low, (low + high) / 2)
        for low, high in pairwise(steps)
        if np.mean((scores > low) == same) == optimum
    ]
    if optimal:
        assert threshold == pytest.approx(max(optimal)[2])


def test_best_threshold_edges() -> None:
    assert metrics.best_threshold([0.0, 1.0], [False, True]) == 0.5
    # Two optima of the same width: the lower.
    assert metrics.best_threshold([0.0, 1.0, 2.0, 3.0], [False, True, False, True]) == 0.5
    # The wider one, though it is not the first.
    assert metrics.best_threshold([0.0, 1.0, 2.0, 5.0], [False, True, False, True]) == 3.5
    # Scores the wrong way round: accept nothing, or everything.
    nothing = metrics.best_threshold([0.0, 1.0, 2.0], [True, False, False])
    assert nothing >= 2.0
    everything = metrics.best_threshold([0.0, 1.0, 2.0], [True, True, False])
    assert everything < 0.0
    # Neighbouring numbers have nothing between them.
    low, high = 1.0, float(np.nextafter(1.0, 2.0))
    assert metrics.best_threshold([low, high], [False, True]) == low
    # All tied: half right whatever is done.
    tied = metrics.best_threshold([0.5] * 4, [True, True, False, False])
    assert np.mean((np.full(4, 0.5) > tied) == [True, True, False, False]) == 0.5


def test_kfold_accuracy_by_loops() -> None:
    scores, same = random_scores(3, n=80)
    folds = np.arange(80) % 5 + 1
    found = metrics.kfold_accuracy(scores, same, folds)
    per_fold = []
    for fold in range(1, 6):
        train = [i for i in range(80) if folds[i] != fold]
        test = [i for i in range(80) if folds[i] == fold]
        threshold = metrics.best_threshold(scores[train], same[train])
        per_fold.append(sum((scores[i] > threshold) == same[i] for i in test) / len(test))
    np.testing.assert_allclose(found.per_fold, per_fold)
    assert found.mean == pytest.approx(sum(per_fold) / 5)
    assert found.std == pytest.approx(math.sqrt(sum((a - found.mean) ** 2 for a in per_fold) / 5))


def test_kfold_accuracy_never_looks_at_the_fold_it_judges() -> None:
    scores = np.array([0.0, 1.0, 0.0, 1.0])
    same = np.array([False, True, True, False])  # the second fold is the first one upside down
    found = metrics.kfold_accuracy(scores, same, [0, 0, 1, 1])
    assert found.per_fold[1] == 0.0


def test_one_kind_of_pair_is_refused() -> None:
    for measure in (metrics.roc, metrics.auc, metrics.eer, metrics.best_threshold):
        for labels in ([True, True], [False, False]):
            with pytest.raises(ValueError, match="same and of different"):
                measure([0.1, 0.2], labels)
        with pytest.raises(ValueError, match="same and of different"):
            measure([], [])
    with pytest.raises(ValueError, match="same and of different"):
        metrics.tar_at_far([0.1, 0.2], [True, True], 0.1)
    with pytest.raises(ValueError, match="same and of different"):
        metrics.kfold_accuracy([0.1, 0.2, 0.3], [True, False, True], [0, 0, 1])
    with pytest.raises(ValueError, match="at least 2 folds"):
        metrics.kfold_accuracy([0.1, 0.2], [True, False], [3, 3])


def test_scores_of_wrong_shape_or_value_are_refused() -> None:
    with pytest.raises(ValueError, match="same: expected shape"):
        metrics.auc([0.1, 0.2], [True])
    with pytest.raises(ValueError, match="dimension"):
        metrics.auc([[0.1, 0.2]], [[True, False]])
    with pytest.raises(ValueError, match="not finite"):
        metrics.auc([0.1, math.nan], [True, False])
    with pytest.raises(ValueError, match="folds"):
        metrics.kfold_accuracy([0.1, 0.2], [True, False], [1])


@pytest.mark.parametrize("decimals", [None, 1])
@pytest.mark.parametrize("seed", range(4))
def test_rank_k_by_loops(seed: int, decimals: int | None) -> None:
    random = np.random.default_rng(seed)
    gallery = random.integers(6, size=15)
    probes = random.choice(gallery, 12)
    scores = random.normal(size=(12, 15))
    scores = scores if decimals is None else scores.round(decimals)
    found = metrics.rank_k(scores, gallery, probes, (1, 2, 5, 6))
    for p, identity in enumerate(probes):
        best: dict[int, float] = {}
        for g, name in enumerate(gallery):
            best[name] = max(best.get(name, -math.inf), scores[p, g])
        before = sum(score >= best[identity] for name, score in best.items() if name != identity)
        for k in (1, 2, 5, 6):
            assert found[k][p] == (before < k)
    assert found[6].all()


def test_rank_k_counts_identities_and_not_images() -> None:
    # Four images of a and one of b come before c.
    scores = [[0.9, 0.8, 0.7, 0.6, 0.5, 0.4]]
    found = metrics.rank_k(scores, ["a", "a", "a", "b", "a", "c"], ["c"], (1, 2, 3))
    assert {k: hit.tolist() for k, hit in found.items()} == {1: [False], 2: [False], 3: [True]}
    # The best image speaks for the identity.
    assert metrics.rank_k([[0.1, 0.5, 0.9]], ["a", "b", "a"], ["a"])[1].tolist() == [True]


def test_rank_k_counts_ties_against() -> None:
    same = metrics.rank_k(np.full((3, 3), 0.5), [0, 1, 2], [0, 1, 2], (1, 2, 3))
    assert {k: hit.tolist() for k, hit in same.items()} == {1: [False] * 3, 2: [False] * 3, 3: [True] * 3}
    # A tie within one identity is none.
    assert metrics.rank_k([[0.5, 0.5, 0.1]], [0, 0, 1], [0])[1].tolist() == [True]


def test_rank_k_takes_labels_of_any_kind() -> None:
    scores = [[0.9, 0.1], [0.9, 0.1]]
    labels = [
        ([0, 1], (0, 1)),
        (["a", "b"], ["a", "b"]),
        (np.array(["a", "b"]), ("a", "b")),
        (torch.tensor([7, 8]), [7, 8]),
    ]
    for gallery, probes in [*labels, ([("a", 1), ("b", 2)], [("a", 1), ("b", 2)]), (np.array([7, 8]), [7, 8])]:
        assert metrics.rank_k(scores, gallery, probes)[1].tolist() == [True, False]


def test_rank_k_edges() -> None:
    empty = metrics.rank_k(np.zeros((0, 2)), [0, 1], [])
    assert {k: hit.shape for k, hit in empty.items()} == {1: (0,), 5: (0,)}
    assert metrics.rank_k(np.zeros((0, 0)), [], [], (3,))[3].shape == (0,)
    with pytest.raises(ValueError, match="1 of 2 probes are of an identity not in the gallery: c"):
        metrics.rank_k(np.zeros((2, 2)), ["a", "b"], ["a", "c"])
    with pytest.raises(ValueError, match="gallery_identities: expected 2 labels"):
        metrics.rank_k(np.zeros((2, 2)), ["a"], ["a", "a"])
    with pytest.raises(ValueError, match="probe_identities: expected 2 labels"):
        metrics.rank_k(np.zeros((2, 2)), ["a", "b"], np.array([["a"], ["b"]]))
    with pytest.raises(ValueError, match="at least 1"):
        metrics.rank_k(np.zeros((1, 1)), ["a"], ["a"], (0,))
    with pytest.raises(ValueError, match="not finite"):
        metrics.rank_k([[math.nan]], ["a"], ["a"])


def test_identification_is_rank_k_of_the_cosines() -> None:
    random = np.random.default_rng(0)
    names = [f"person {i}" for i in range(20)]
    gallery = random.normal(size=(20, 8))
    probes = gallery * random.uniform(0.1, 10, (20, 1)) + 4 * random.normal(size=(20, 8))
    found = metrics.identification(probes, gallery, gallery_identities=names, probe_identities=names)
    scores = [metrics.cosine([probe] * 20, gallery) for probe in probes]
    expected = metrics.rank_k(scores, names, names)
    assert list(found) == [1, 5]
    assert 0 < found[1].sum() < found[5].sum()
    for k in (1, 5):
        assert found[k].tolist() == expected[k].tolist()


def test_identification_by_equal_embeddings_finds_nobody() -> None:
    one = np.random.default_rng(0).normal(size=128)
    gallery = np.tile(one, (37, 1)) * np.linspace(0.5, 2, 37)[:, None]
    found = metrics.identification(gallery, gallery, gallery_identities=range(37), probe_identities=range(37))
    assert not found[5].any()
    zero = metrics.identification(np.zeros((2, 3)), np.eye(3)[:2], gallery_identities="ab", probe_identities="ab")
    assert not zero[1].any()
    with pytest.raises(ValueError, match="differ in length: 3 and 4"):
        metrics.identification(np.eye(3), np.eye(4), gallery_identities=range(4), probe_identities=range(3))


# ---------------------------------------------------------------------------------------------- attacks and utility


@pytest.mark.parametrize("kappa", [0.2, 0.5])
def test_srra_and_utility_are_cosines_strictly_above_kappa(kappa: float) -> None:
    cosines = [kappa, math.nextafter(kappa, 1), -1.0, 1.0, 0.3]
    expected = []
    for cosine in cosines:
        expected.append(cosine > kappa)
    assert metrics.srra(cosines, kappa).tolist() == expected
    assert metrics.utility(torch.tensor(cosines, dtype=torch.float64), kappa).tolist() == expected
    assert metrics.srra([0.2, 0.21]).tolist() == [False, True]
    assert metrics.srra([]).dtype == metrics.utility([], kappa).dtype == np.bool_
    for measure in (metrics.srra, metrics.utility):
        with pytest.raises(ValueError, match="not finite"):
            measure([math.nan], kappa)
        with pytest.raises(ValueError, match="dimension"):
            measure([[0.1]], kappa)


def test_cossim_is_eq11_by_loops() -> None:
    # Scores of attributes are shares: not negative.
    random = np.random.default_rng(0)
    read, true = random.dirichlet(np.ones(7), 9), random.dirichlet(np.ones(7), 9)
    for value, p, q in zip(metrics.cossim(read, true), read, true, strict=True):
        dot = sum(a * b for a, b in zip(p, q, strict=True))
        assert value == pytest.approx(dot / math.sqrt(sum(a * a for a in p) * sum(b * b for b in q)))
        assert value > 0
    # The example of the docstring.
    assert metrics.cossim([[0.6, 0.4]], [[0.9, 0.1]])[0] == pytest.approx(0.89, abs=0.005)


@pytest.mark.parametrize("kappa", [0.3, 0.5])
def test_up_is_eq9_by_loops(kappa: float) -> None:
    random = np.random.default_rng(0)
    cosines, distances = random.uniform(-1, 1, 50), random.uniform(0, 1, 50)
    cosines[0] = kappa
    found = metrics.up(cosines, torch.from_numpy(distances), kappa)
    total = 0.0
    for n in range(50):
        first = 1 if cosines[n] > kappa else 0
        assert found.utility[n] == first
        assert found.privacy[n] == distances[n]
        assert found.total[n] == first + distances[n]
        total += first + distances[n]
    assert found.total.mean() == pytest.approx(total / 50)
    # Added, not averaged: Table 10 of the paper has values above 1.
    assert found.total.max() > 1
    with pytest.raises(ValueError, match="differ in shape"):
        metrics.up([0.1], [0.1, 0.2], kappa)
    with pytest.raises(ValueError, match="at least 0"):
        metrics.up([0.1], [-0.1], kappa)


def test_up_of_noisy_images_by_loops() -> None:
    """Eq. 9 whole, with a network and a distance that are simple enough to be written out."""
    originals, protected = noise(4, 8, 0), noise(4, 8, 1)
    x, y = add_noise(originals, 0.1, 1), add_noise(protected, 0.1, 2)
    distances = (x - y).abs().mean(dim=(1, 2, 3))
    found = metrics.up(metrics.cosine(y.flatten(1) - 0.5, x.flatten(1) - 0.5), distances, 0.0)
    for n in range(4):
        p, q = (x[n].flatten() - 0.5).tolist(), (y[n].flatten() - 0.5).tolist()
        recognised = sum(a * b for a, b in zip(p, q, strict=True)) > 0
        apart = sum(abs(a - b) for a, b in zip(p, q, strict=True)) / len(p)
        assert found.total[n] == pytest.approx(recognised + apart, rel=1e-5)


def test_noise_has_its_standard_deviation_and_its_mean() -> None:
    images = torch.full((4, 3, 64, 64), 0.5)
    added = add_noise(images, 0.1, 0, indices=range(4)) - images
    # 12288 values in each image: the deviation of the deviation is .0006, of the mean .0009.
    assert (added.std(dim=(1, 2, 3)) - 0.1).abs().max() < 0.004
    assert added.mean(dim=(1, 2, 3)).abs().max() < 0.005
    features = add_noise(torch.zeros(1, 64, 28, 28) - 3, 2.0, 0, clamp=False)
    assert float(features.std()) == pytest.approx(2.0, abs=0.04)
    assert float(features.mean()) == pytest.approx(-3.0, abs=0.04)
    # Normal, by the shares within one and two deviations.
    scaled = ((features + 3) / 2).abs()
    assert float((scaled < 1).float().mean()) == pytest.approx(0.683, abs=0.01)
    assert float((scaled < 2).float().mean()) == pytest.approx(0.954, abs=0.005)


def test_noise_is_independent_of_seeds_images_and_places() -> None:
    images = torch.full((2, 3, 64, 64), 0.5)
    first, second = (add_noise(images, 0.05, seed, indices=[0, 1]) - images for seed in (0, 1))
    for a, b in (
        (first[0], first[1]),
        (first[0], second[0]),
        (first[0, 0], first[0, 1]),
        (first[0], first[0].roll(1, 1)),
    ):
        assert abs(np.corrcoef(a.flatten(), b.flatten())[0, 1]) < 0.06


def test_noise_of_an_image_is_the_same_in_any_batch() -> None:
    images = noise(5, 16)
    whole = add_noise(images, 0.2, 3)
    assert torch.equal(add_noise(images, 0.2, 3), whole)
    assert not torch.equal(add_noise(images, 0.2, 4), whole)
    for n in (4, 0):
        assert torch.equal(add_noise(images[n : n + 1], 0.2, 3)[0], whole[n])
    assert torch.equal(add_noise(images.flip(0), 0.2, 3).flip(0), whole)
    numbered = add_noise(images, 0.2, 3, indices=[10, 11, 12, 13, 14])
    assert torch.equal(add_noise(images[3:], 0.2, 3, indices=[13, 14]), numbered[3:])
    # The global random state plays no part and is left alone.
    state = torch.random.get_rng_state()
    torch.manual_seed(5)
    assert torch.equal(add_noise(images, 0.2, 3), whole)
    torch.random.set_rng_state(state)
    add_noise(images, 0.2, 3)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_noise_of_features_does_not_depend_on_their_last_bits_when_numbered() -> None:
    features = torch.randn(3, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    other = features * (1 + 1e-6)
    a, b = (add_noise(values, 0.3, 0, clamp=False, indices=range(3)) for values in (features, other))
    assert (a - b).abs().max() < 1e-4
    c, d = (add_noise(values, 0.3, 0, clamp=False) for values in (features, other))
    assert (c - d).abs().max() > 0.1


def test_noise_is_clipped_to_an_image_and_scales_with_sigma() -> None:
    images = noise(3, 16).requires_grad_()
    noisy = add_noise(images, 0.5, 0)
    free = add_noise(images, 0.5, 0, clamp=False)
    assert free.min() < 0
    assert free.max() > 1
    assert torch.equal(noisy, free.clamp(0, 1))
    assert torch.equal(add_noise(images, 0.0, 0), images)
    torch.testing.assert_close(add_noise(images, 0.25, 0, clamp=False) - images, (free - images) / 2)
    assert noisy.dtype == images.dtype
    assert add_noise(images.detach().double(), 0.5, 0).dtype == torch.float64
    assert add_noise(torch.zeros(0, 3, 8, 8), 0.5, 0).shape == (0, 3, 8, 8)
    noisy.sum().backward()
    assert images.grad is not None


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (noise(2, 8), {"sigma": -0.1}, "sigma"),
        (noise(2, 8), {"sigma": math.nan}, "sigma"),
        (noise(2, 8), {"indices": [1]}, "expected 2 indices"),
        (noise(2, 8) * 255, {}, r"features take clamp=False"),
        (noise(2, 8) * math.nan, {}, r"features take clamp=False"),
        ((noise(2, 8) * 255).to(torch.uint8), {}, "expected floats"),
    ],
)
def test_noise_on_what_is_no_image_is_refused(images: torch.Tensor, options: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=message):
        add_noise(images, **{"sigma": 0.1, "seed": 0, **options})


# ---------------------------------------------------------------------------------------------- uncertainty


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (0, 104), (104, 104), (52, 104), (1, 3), (2997, 3000)])
def test_wilson_by_its_formula(successes: int, n: int) -> None:
    z = 1.959963984540054
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    found = metrics.wilson(successes, n)
    assert found.low == pytest.approx(centre - half, abs=1e-12)
    assert found.high == pytest.approx(centre + half, abs=1e-12)
    assert 0 <= found.low <= p <= found.high <= 1


def test_wilson_edges() -> None:
    assert metrics.wilson(0, 0) == (0.0, 1.0)
    narrow, wide = metrics.wilson(5, 10, 0.5), metrics.wilson(5, 10, 0.99)
    assert wide.low < narrow.low < 0.5 < narrow.high < wide.high
    assert metrics.wilson(np.int64(3), np.int64(4)) == metrics.wilson(3, 4)  # type: ignore[arg-type]
    for bad in ((-1, 3), (4, 3), (0, -1)):
        with pytest.raises(ValueError, match="successes"):
            metrics.wilson(*bad)
    with pytest.raises(ValueError, match="level"):
        metrics.wilson(1, 2, 95)


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [
        # Airway hyper-responsiveness before and after a transplantation (Bentur et al. 2009), complete response before
        # and after a therapy (Cavo et al. 2012): Fagerland, Lydersen and Laake, Statistical Analysis of Contingency
        # Tables, CRC 2017, chapter 8.
        ((1, 1, 7, 12), -0.5069, -0.0256),
        ((59, 6, 16, 80), -0.1186, -0.0046),
    ],
)
def test_newcombe_gives_published_intervals(counts: tuple[int, int, int, int], low: float, high: float) -> None:
    assert metrics.newcombe(*counts) == pytest.approx((low, high), abs=5e-5)


def test_newcombe_holds_the_difference_and_turns_with_it() -> None:
    for n in (1, 2, 5, 9):
        for both, first, second in product(range(n + 1), repeat=3):
            neither = n - both - first - second
            if neither < 0:
                continue
            found = metrics.newcombe(both, first, second, neither)
            assert -1 <= found.low <= (first - second) / n <= found.high <= 1
            assert found.low < found.high
            turned = metrics.newcombe(both, second, first, neither)
            assert turned == pytest.approx((-found.high, -found.low), abs=1e-12)
            # What did not happen in place of what did, and turned: the same difference.
            opposite = metrics.newcombe(neither, first, second, both)
            assert opposite == pytest.approx((found.low, found.high), abs=1e-12)


def test_newcombe_needs_more_than_four_of_a_hundred_that_go_one_way() -> None:
    for neither in (0, 1, 20, 50):
        assert metrics.newcombe(100 - neither, 4, 0, neither).low < 0
        assert metrics.newcombe(98 - neither, 6, 0, neither).low > 0
    # A bootstrap takes four for proof.
    assert metrics.bootstrap([1.0] * 4 + [0.0] * 100, seed=0).low > 0


def test_newcombe_covers_what_it_says() -> None:
    random = np.random.default_rng(0)
    shares = (0.95, 0.04, 0.01, 0.0)
    drawn = random.multinomial(104, shares, size=1000)
    inside = [low <= shares[1] - shares[2] <= high for low, high in (metrics.newcombe(*one) for one in drawn)]
    assert 0.93 < np.mean(inside) < 0.99


def test_newcombe_edges() -> None:
    assert metrics.newcombe(0, 0, 0, 0) == (-1.0, 1.0)
    assert metrics.newcombe(0, 5, 0, 0).high == 1.0
    narrow, wide = metrics.newcombe(50, 6, 2, 46, 0.5), metrics.newcombe(50, 6, 2, 46, 0.99)
    assert wide.low < narrow.low < narrow.high < wide.high
    numbers = [np.int64(10**5)] * 4  # whose products would not fit
    assert metrics.newcombe(*numbers) == metrics.newcombe(*[10**5] * 4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="counts must be at least 0"):
        metrics.newcombe(3, -1, 0, 0)
    with pytest.raises(ValueError, match="level"):
        metrics.newcombe(1, 1, 1, 1, 95)


def test_bootstrap_is_the_quantiles_of_resampled_means() -> None:
    values = np.random.default_rng(0).normal(size=30)
    random = np.random.default_rng(7)
    means = sorted(np.mean([values[i] for i in random.integers(30, size=30)]) for _ in range(400))
    found = metrics.bootstrap(values, seed=7, resamples=400)
    # Linear interpolation between order statistics.
    for share, end in ((0.025, found.low), (0.975, found.high)):
        place = share * 399
        k = int(place)
        assert end == pytest.approx(means[k] + (place - k) * (means[k + 1] - means[k]))
    assert metrics.bootstrap(values, seed=7, resamples=400) == found
    assert metrics.bootstrap(values, seed=8, resamples=400) != found


@pytest.mark.parametrize("statistic", [np.mean, np.median])
def test_bootstrap_of_groups_draws_whole_groups(statistic) -> None:  # type: ignore[no-untyped-def]
    values = np.random.default_rng(0).normal(size=12)
    groups = ["b", "a", "b", "c", "c", "c", "a", "d", "b", "e", "d", "d"]
    order = ["b", "a", "c", "d", "e"]  # of first appearance
    random = np.random.default_rng(7)
    found = []
    for _ in range(300):
        sample = []
        for drawn in random.integers(5, size=5):
            for value, group in zip(values, groups, strict=True):
                if group == order[drawn]:
                    sample.append(value)
        found.append(statistic(sample))
    interval = metrics.bootstrap(values, seed=7, resamples=300, statistic=statistic, groups=groups)
    assert interval == pytest.approx(tuple(np.quantile(found, [0.025, 0.975])))


def test_bootstrap_of_groups_of_one_is_the_plain_one() -> None:
    values = np.random.default_rng(0).normal(size=30)
    plain = metrics.bootstrap(values, seed=3, resamples=200)
    for groups in (np.arange(30)[::-1], torch.arange(30), [f"photograph {i}" for i in range(30)]):
        assert metrics.bootstrap(values, seed=3, resamples=200, groups=groups) == pytest.approx(plain)


def test_bootstrap_of_groups_is_wider_where_values_repeat() -> None:
    once = np.random.default_rng(0).normal(size=40)
    values, groups = np.repeat(once, 9), np.repeat(np.arange(40), 9)
    plain = metrics.bootstrap(values, seed=0)
    clustered = metrics.bootstrap(values, seed=0, groups=groups)
    # Nine copies of a value are no more news than one: the width is that of 40 values.
    ratio = (clustered.high - clustered.low) / (plain.high - plain.low)
    assert ratio == pytest.approx(3, rel=0.1)
    single = metrics.bootstrap([0.0, 1.0], seed=0, groups=["a", "a"])
    assert single == (0.5, 0.5)
    with pytest.raises(ValueError, match="groups: expected 2 labels"):
        metrics.bootstrap([0.0, 1.0], seed=0, groups=["a"])


def test_bootstrap_edges() -> None:
    assert metrics.bootstrap([0.25], seed=0) == (0.25, 0.25)
    median = metrics.bootstrap([0.0, 0.0, 0.0, 0.0, 100.0], seed=0, statistic=np.median, level=0.5)
    assert median == (0.0, 0.0)
    with pytest.raises(ValueError, match="at least one"):
        metrics.bootstrap([], seed=0)
    with pytest.raises(ValueError, match="not finite"):
        metrics.bootstrap([math.inf, 1.0], seed=0)
    with pytest.raises(ValueError, match="resamples"):
        metrics.bootstrap([1.0], seed=0, resamples=0)


@pytest.mark.parametrize(("n", "mean"), [(200, 0.0)])
def test_bootstrap_covers_the_true_mean_about_as_often_as_it_says(n: int, mean: float) -> None:
    random = np.random.default_rng(1)
    hits = 0
    for trial in range(200):
        low, high = metrics.bootstrap(random.normal(mean, 1.0, n), seed=trial, resamples=300)
        hits += low <= mean <= high
    assert 180 <= hits <= 199
