from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pmtlib.attacks.adaptive.link import (
    LinkScores,
    identify,
    link_scores,
    link_scores_within,
    local_linkability,
    unlinkability,
)
from pmtlib.errors import ConfigError

RANDOM = np.random.default_rng(0)


def scores_of(mated: np.ndarray, non_mated: np.ndarray, people: int = 20) -> LinkScores:
    """Scores whose people are dealt out in turn."""
    pairs = np.stack([np.arange(len(non_mated)) % people, (np.arange(len(non_mated)) + 1) % people], 1)
    return LinkScores(mated, non_mated, np.arange(len(mated)) % people, pairs)


def loop_d_sys(mated: list[float], non_mated: list[float], bins: int, omega: float) -> float:
    """The paper's two equations, bin by bin, with densities."""
    low, high = min(*mated, *non_mated), max(*mated, *non_mated)
    width = (high - low) / bins
    total = 0.0
    for place in range(bins):
        left, right, last = low + place * width, low + (place + 1) * width, place == bins - 1

        def density(scores: list[float], left: float = left, right: float = right, last: bool = last) -> float:
            inside = [s for s in scores if left <= s < right or (last and s >= left)]
            return len(inside) / len(scores) / width

        p_mated, p_non_mated = density(mated), density(non_mated)
        if p_mated == 0:
            continue
        ratio = omega * p_mated / p_non_mated if p_non_mated else math.inf
        local = 0.0 if ratio <= 1 else (1.0 if math.isinf(ratio) else 2 * ratio / (1 + ratio) - 1)
        total += local * p_mated * width
    return total


@pytest.mark.parametrize(("omega", "bins"), [(1.0, 7), (0.5, 12), (2.0, 3)])
def test_the_global_measure_is_the_papers_integral(omega: float, bins: int) -> None:
    mated, non_mated = RANDOM.normal(0.4, 0.2, 150), RANDOM.normal(0.1, 0.15, 400)
    found = unlinkability(scores_of(mated, non_mated), omega=omega, bins=bins)
    assert found.d_sys == pytest.approx(loop_d_sys(mated.tolist(), non_mated.tolist(), bins, omega), abs=1e-9)
    assert len(found.local) == bins
    assert found.interval.low < found.d_sys < found.interval.high


def test_equal_scores_are_unlinkable_and_disjoint_ones_are_linked() -> None:
    same = RANDOM.normal(0, 1, 200)
    assert unlinkability(scores_of(same, same)).d_sys == 0
    apart = unlinkability(scores_of(same, same + 100))
    assert apart.d_sys == pytest.approx(1)
    assert apart.interval.low == pytest.approx(1)
    # Two draws of one distribution are as linkable as chance makes them, and no more.
    other = unlinkability(scores_of(same, RANDOM.normal(0, 1, 2000)))
    assert 0 < other.d_sys < other.chance * 2
    assert other.chance < 0.2


def test_the_number_of_bins_is_a_tenth_of_the_mated_scores_within_bounds() -> None:
    for count, bins in ((5, 4), (80, 8), (5000, 100)):
        found = unlinkability(scores_of(RANDOM.normal(size=count), RANDOM.normal(size=50)), resamples=5)
        assert len(found.local) == bins


def test_the_local_measure_is_bounded_and_rises_with_the_ratio() -> None:
    edges = np.array([0.0, 1, 2, 3, 4])
    mated = np.repeat([0.5, 1.5, 2.5], [1, 3, 4])
    non_mated = np.repeat([0.5, 1.5], [5, 3])
    found = local_linkability(mated, non_mated, edges)
    np.testing.assert_allclose(found, [0, 0, 1, 0])
    # LR of the second bin is 1: with twice the prior 2 * 2 / 3 - 1.
    np.testing.assert_allclose(local_linkability(mated, non_mated, edges, omega=2.0), [0, 1 / 3, 1, 0])


def test_scores_are_the_cosines_of_all_pairs_and_say_who_is_in_them() -> None:
    first, second = RANDOM.normal(size=(3, 4)), RANDOM.normal(size=(2, 4))
    names, others = ["a", "b", "a"], ["b", "c"]
    found = link_scores(torch.from_numpy(first), second, names, others)
    mated, non_mated = [], []
    for i, name in enumerate(names):
        for j, other in enumerate(others):
            dot = sum(x * y for x, y in zip(first[i], second[j], strict=True))
            cosine = dot / math.sqrt(sum(x * x for x in first[i]) * sum(y * y for y in second[j]))
            (mated if name == other else non_mated).append(cosine)
    np.testing.assert_allclose(found.mated, mated, atol=1e-12)
    np.testing.assert_allclose(found.non_mated, non_mated, atol=1e-12)
    assert found.mated_people.tolist() == [1]
    learned = link_scores(torch.from_numpy(first).requires_grad_(True), torch.from_numpy(second), names, others)
    np.testing.assert_array_equal(learned.mated, found.mated)
    assert found.non_mated_people.tolist() == [[0, 1], [0, 2], [1, 2], [0, 1], [0, 2]]
    within = link_scores_within(first, names)
    np.testing.assert_allclose(within.mated, [link_scores(first[:1], first[2:], ["a"], ["a"]).mated[0]])
    assert len(within.non_mated) == 2


def test_distractors_only_make_it_harder() -> None:
    gallery = np.eye(4)
    probes = np.eye(4) + 0.1
    names = ["a", "b", "c", "d"]
    alone = identify(probes, gallery, names, names, ks=(1, 2))
    assert alone[1].all()
    nearer = np.array([[1.0, 0.1, 0.1, 0.1]])
    found = identify(probes, gallery, names, names, distractors=nearer, ks=(1, 2))
    assert found[1].tolist() == [False, True, True, True]
    assert found[2].all()
    # A stranger is nobody, not even where a person is called by a number.
    numbered = identify(probes[:1], gallery[:1], [0], [0], distractors=nearer, ks=(1,))
    assert numbered[1].tolist() == [False]


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ConfigError, match="one row each"):
        link_scores_within(np.zeros((2, 3)), ["a"])
    with pytest.raises(ConfigError, match="one row each"):
        link_scores_within(np.full((1, 3), np.nan), ["a"])
    with pytest.raises(ConfigError, match="cannot be compared"):
        link_scores(np.ones((1, 3)), np.ones((1, 2)), ["a"], ["a"])
    with pytest.raises(ConfigError, match="some of both"):
        unlinkability(link_scores_within(np.eye(2), ["a", "b"]))
    with pytest.raises(ConfigError, match="omega"):
        unlinkability(scores_of(np.ones(3), np.ones(3)), omega=0)
    with pytest.raises(ConfigError, match="do not fit"):
        identify(np.eye(2), np.eye(2), ["a", "b"], ["a", "b"], distractors=np.ones((1, 3)))
    with pytest.raises(ConfigError, match="not in the gallery"):
        identify(np.eye(2), np.eye(2), ["a", "z"], ["a", "b"])
