"""The table that says what the paper claims, what was measured and whether it holds."""

import numpy as np
import pandas as pd
import pytest

from pmtlib import metrics
from pmtlib.experiments import claims
from pmtlib.experiments.claims import Claim

TWO = [
    Claim("it serves", "99%", "it has 98% [95, 99]", claims.HOLDS),
    Claim("others fail", "", "they have 60% [55, 65]", claims.NOT),
    Claim("they always do", "", "they do at 1 of 5", claims.NOT),
]


def test_the_table_has_claims_numbers_and_verdicts() -> None:
    assert claims.in_short(TWO, {"lfw": 104, "cfp_ff": 104}, beyond="More.") == (
        "Measured on LFW and CFP-FF (n = 104 pairs each) together, with 95% intervals.\n\n"
        "|  | The paper claims that | the paper's number | measured here | verdict |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| (1) | it serves | 99% | it has 98% [95, 99] | **holds** |\n"
        "| (2) | others fail |  | they have 60% [55, 65] | **does not hold** |\n"
        "| (3) | they always do |  | they do at 1 of 5 | **does not hold** |\n\n"
        "**Beyond the paper:** More."
    )
    assert "LFW (n = 102 photographs) and CFP-FF (n = 103) together, with K = 9 steps and 95%" in claims.in_short(
        TWO, {"lfw": 102, "cfp_ff": 103}, "photographs", steps=9
    )


@pytest.mark.parametrize("sizes", [{"samples": 104}, {"lfw": 20}, {"lfw": 104, "cfp_ff": 4}])
def test_no_verdict_is_drawn_from_a_handful_of_pairs(sizes: dict[str, int]) -> None:
    text = claims.in_short(TWO, sizes)
    assert "No verdict is drawn" in text
    assert "hold" not in text
    assert "60% [55, 65]" in text
    assert "holds" not in claims.details("It holds.", sizes)
    assert claims.details("It holds.", {"lfw": 104}) == "It holds."


def test_without_claims_or_sets_nothing_was_measured() -> None:
    assert claims.in_short([], {"lfw": 104}) == claims.in_short(TWO, {}) == "Nothing was measured."
    assert claims.sizes(pd.DataFrame()) == {}
    assert claims.sizes(pd.DataFrame({"dataset": ["a", "a", "b"], "n": [3, 5, 2]})) == {"a": 5, "b": 2}


def test_the_verdict_over_parts() -> None:
    assert [claims.overall(right) for right in ([True] * 2, [True, False], [False], [])] == [
        "holds", "holds in part", "does not hold", "cannot be judged here",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"white": [1, 1], "black": [-1, -1]}, "holds for white, reversed for black"),
        ({"white": [1, 1], "black": [0, -1]}, "holds for white, reversed for black on 1 of 2 sets"),
        ({"white": [1, 1], "black": [0, 0]}, ""),
        ({"white": [-1, -1], "black": [-1, 0]}, ""),
        ({}, ""),
    ],
)
def test_a_part_that_is_reversed_is_not_told_as_one_that_is_unsure(parts: dict[str, list[int]], words: str) -> None:
    assert claims.reversals(parts) == words


def test_a_mean_is_of_all_sets_together() -> None:
    several = [np.array([0.0, 0.5, 1.0]), np.array([1.0])]
    interval = metrics.bootstrap(np.array([0, 50, 100, 100]), seed=0)
    assert claims.mean(several, 1, percent=True) == f"62.5% [{interval.low:.1f}, {interval.high:.1f}]"
    assert claims.mean([np.array([-0.25, -0.25])]) == "\N{MINUS SIGN}0.25 [\N{MINUS SIGN}0.25, \N{MINUS SIGN}0.25]"
    # Of one network each is right or wrong: a rate. A bootstrap of values that are all alike has no width.
    sets = [np.array([0.0, 1.0, 1.0]), np.array([1.0])]
    assert claims.mean(sets, percent=True) == claims.share(sets, 2)
    low, high = metrics.wilson(4, 4)
    assert claims.mean([np.ones(4)], percent=True) == f"100.00% [{100 * low:.2f}, {100 * high:.2f}]"
    low, high = metrics.wilson(3, 4)
    assert claims.share(sets) == f"75% [{100 * low:.0f}, {100 * high:.0f}]"
