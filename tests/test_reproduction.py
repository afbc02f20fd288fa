"""The ledger of results that were computed twice."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pmtlib import paths, reproduction, results
from pmtlib.experiments.common import Source, obtain

MANIFEST = {"commit": "abc", "date": "2026-01-01", "seconds": 1.0, "hardware": {"device": "cpu"}}
REQUEST = results.Request("abuse", "some", 1, {"pairs": 4}, {})


def stored(values: dict[str, Any], commit: str = "abc") -> results.Result:
    data = {"name": "lfw", "title": "LFW", "fingerprint": "f", "n": 4}
    return results.Result(REQUEST, data, values, {**MANIFEST, "commit": commit})


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PMT_RESULTS", str(tmp_path))
    return tmp_path


def again(values: dict[str, Any], recompute: reproduction.Recompute = "once") -> list[int]:
    """Ask for the result, which would now come out as ``values``: a number for each time it was computed."""
    computed = []

    def compute() -> dict[str, Any]:
        computed.append(1)
        return values

    source = Source("lfw", "LFW", "f", 4)
    obtain(REQUEST, source, compute, store=True, recompute=recompute, device=torch.device("cpu"), command="x")
    return computed


def test_what_came_out_the_same_is_not_computed_a_third_time() -> None:
    first = stored({"cosine": [0.5, 0.25], "n": 3})
    results.write(first)
    assert not reproduction.done(first)
    assert again({"cosine": [0.5, 0.25], "n": 3}) == [1]
    assert reproduction.done(first)
    assert again({"cosine": [0.5, 0.25], "n": 3}) == []
    assert again({"cosine": [0.5, 0.25], "n": 3}, True) == [1]
    assert again({"cosine": [0.5, 0.25], "n": 3}, False) == []
    assert "1 of 1 stored results" in reproduction.summary()


def test_a_number_that_moves_within_the_tolerance_leaves_the_stored_one() -> None:
    results.write(stored({"cosine": [0.5]}))
    again({"cosine": [0.501]})
    kept = results.read(results.path_of(REQUEST))
    assert kept.values == {"cosine": [0.5]}
    assert reproduction.done(kept)
    assert reproduction.entries()["abuse/some.json"]["difference"] == pytest.approx(0.001)
    assert "0.00100" in reproduction.summary()


def test_what_moves_further_replaces_the_stored_one_and_is_not_done() -> None:
    results.write(stored({"cosine": [0.5]}))
    again({"cosine": [0.52]})
    kept = results.read(results.path_of(REQUEST))
    assert kept.values == {"cosine": [0.52]}
    assert not reproduction.done(kept)
    assert again({"cosine": [0.52]}) == [1]
    assert reproduction.done(kept)


def test_a_result_of_no_commit_is_replaced_by_one_that_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    results.write(stored({"cosine": [0.5]}, commit="abc+changes"))
    monkeypatch.setattr("pmtlib.provenance.commit", lambda: "def")
    again({"cosine": [0.5]})
    kept = results.read(results.path_of(REQUEST))
    assert kept.manifest["commit"] == "def"
    assert reproduction.done(kept)


def test_an_edited_result_is_no_longer_what_was_computed_twice() -> None:
    results.write(stored({"cosine": [0.5]}))
    again({"cosine": [0.5]})
    other = stored({"cosine": [0.7]})
    assert not reproduction.done(other)
    assert not reproduction.done(replace(other, manifest={**MANIFEST, "date": "2026-01-02"}))


@pytest.mark.parametrize(
    ("ours", "theirs", "moved"),
    [
        ({"a": 1, "b": [0.5, 0.25]}, {"b": [0.5, 0.5], "a": 1}, 0.25),
        ({"a": 3}, {"a": 1}, 2.0),
        ({"a": "word"}, {"a": "other"}, 0.0),
        ({"a": [1.0]}, {"a": [1.0, 2.0]}, math.inf),
        ({"a": 1.0, "seconds": 5.0, "curve": [{"loss": 3.0}]}, {"a": 1.0, "seconds": 9.0, "curve": []}, 0.0),
        ({}, {}, 0.0),
    ],
)
def test_the_difference_is_the_largest_of_any_number(ours: Any, theirs: Any, moved: float) -> None:
    assert reproduction.difference(ours, theirs) == moved


def test_the_shift_is_that_of_a_mean_in_half_widths_of_its_interval() -> None:
    theirs = {"ssim": [0.1, 0.2, 0.3, 0.6], "n": 4}
    ours = {"ssim": [0.12, 0.22, 0.3, 0.66], "n": 4}
    half = 1.96 * statistics.stdev(theirs["ssim"]) / 2
    assert reproduction.shift(ours, theirs) == pytest.approx(0.025 / half)
    assert reproduction.correlation(ours, theirs) == pytest.approx(statistics.correlation(ours["ssim"], theirs["ssim"]))
    assert reproduction.shift({**ours, "n": 5}, theirs) == math.inf
    assert reproduction.shift({"ssim": [0.1], "n": 4}, theirs) == math.inf
    assert reproduction.shift({"a": [1, 1, 0.99]}, {"a": [1, 1, 1]}) == 0
    assert reproduction.shift({"a": [1, 1, 0.9]}, {"a": [1, 1, 1]}) == math.inf
    assert reproduction.correlation({"a": [1, 1, 1]}, {"a": [1, 2, 3]}) == -1
    assert reproduction.correlation({"a": 1}, {"a": 1}) == 1


def test_numbers_that_change_places_are_not_the_same() -> None:
    theirs = {"cosine": [0.1, 0.9, 0.2, 0.8, 0.15, 0.85], "photograph": [0, 1, 2, 3, 4, 5]}
    turned = {"cosine": theirs["cosine"][::-1], "photograph": theirs["photograph"]}
    assert reproduction.shift(turned, theirs) == pytest.approx(0)
    assert reproduction.correlation(turned, theirs) < 0
    swapped = {"cosine": theirs["cosine"], "photograph": [1, 0, 3, 2, 5, 4]}
    for ours in (turned, swapped):
        results.write(stored(theirs))
        again(ours, True)
        assert not reproduction.done(results.read(results.path_of(REQUEST)))


def test_single_images_may_move_a_little() -> None:
    results.write(stored({"ssim": [0.1, 0.2, 0.3, 0.6]}))
    assert again({"ssim": [0.12, 0.19, 0.3, 0.61]}) == [1]
    kept = results.read(results.path_of(REQUEST))
    assert kept.values == {"ssim": [0.1, 0.2, 0.3, 0.6]}
    assert reproduction.done(kept)
    assert "0 with no number moved" in reproduction.summary()
    assert "1 with no mean moved by more than 0.0" in reproduction.summary()
    again({"ssim": [0.7, 0.8]}, True)
    assert reproduction.entries()["abuse/some.json"]["difference"] is None
    assert not reproduction.done(results.read(results.path_of(REQUEST)))
    results.write(kept)
    assert again({"ssim": [0.7, 0.8, 0.6, 0.9]}, True) == [1]
    assert not reproduction.done(results.read(results.path_of(REQUEST)))


def test_the_projects_own_ledger_speaks_of_results_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    root = paths.project_dir() / "results"
    monkeypatch.setenv("PMT_RESULTS", str(root))
    for name, entry in reproduction.entries().items():
        assert (root / name).is_file(), name
        assert entry["commit"]
        assert entry["difference"] is None or entry["difference"] >= 0
