"""Section 6.6: curves, differences and measures are what plain loops over the stored values give."""

from __future__ import annotations

import numpy as np
import pytest

from pmtlib import calibration, datasets, metrics, results
from pmtlib.errors import DatasetError
from pmtlib.experiments import trade_off as experiments
from pmtlib.experiments.common import Outcome
from pmtlib.experiments.trade_off import COMPARISONS, TradeOffBlock, TradeOffSettings
from pmtlib.figures import trade_off as figures
from pmtlib.images import to_uint8

SETTINGS = TradeOffSettings(datasets=("lfw",), networks=("mobilefacenet", "sface"))
PAIRS, PHOTOGRAPHS = 40, 36


def outcome(name: str, values: dict, experiment: str = "trade-off") -> Outcome:
    request = results.Request(experiment, name, 1, {"authorised": "mobilefacenet"})
    manifest = {"date": "2026-01-01", "seconds": 1, "hardware": {"device": "cpu"}, "packages": {"torch": "2"}}
    return Outcome(results.Result(request, {"name": "lfw", "fingerprint": "f", "n": PAIRS}, values, manifest))


def noise(draw: np.random.Generator, shift: float) -> dict:
    return {
        str(bound): {
            "cosine": (draw.uniform(-0.2, 1, PHOTOGRAPHS) - shift * bound).clip(-1, 1).round(5).tolist(),
            "lpips": draw.uniform(0, 1, PHOTOGRAPHS).round(5).tolist(),
        }
        for bound in (0.0, 0.1, 0.2, 0.3)
    }


def control(draw: np.random.Generator) -> dict:
    return {
        images: {
            str(bound): {
                "stranger": draw.uniform(-0.2, 1, PHOTOGRAPHS).round(5).tolist(),
                "rank_1": draw.integers(0, 2, PHOTOGRAPHS).tolist(),
            }
            for bound in (0.0, 0.1, 0.2, 0.3)
        }
        for images in ("originals", "uploads")
    }


def made_up_block(seed: int = 0) -> TradeOffBlock:
    """Random numbers in the stored form, to check arithmetic with; they measure nothing."""
    draw = np.random.default_rng(seed)
    same = np.tile([1, 0], PAIRS // 2)
    networks = {}
    for network in SETTINGS.networks:
        networks[network] = {
            "thresholds": {"far_1e2": 0.3, "far_1e3": 0.4},
            "scores": {kind: (draw.uniform(-0.3, 0.6, PAIRS) + 0.3 * same).round(1).tolist() for kind in COMPARISONS},
            "identification": {
                kind: {f"rank_{k}": draw.integers(0, 2, PAIRS // 2).tolist() for k in (1, 5)} for kind in COMPARISONS
            },
        }
    matching = {
        "same": same.tolist(),
        "fold": np.repeat(np.arange(10), PAIRS // 10).tolist(),
        "photograph": draw.integers(0, PHOTOGRAPHS, PAIRS).tolist(),
        "gallery": {"images": PAIRS, "people": PAIRS},
        "networks": networks,
    }
    clean = {"same": same.tolist(), "networks": {name: {"threshold": 0.37} for name in SETTINGS.networks}}
    return TradeOffBlock(
        "lfw",
        outcome("lfw", clean, "thresholds"),
        outcome("lfw--a", noise(draw, 3.0), "noise"),
        outcome("lfw--b", noise(draw, 0.5), "noise"),
        outcome("lfw--strangers", control(draw)),
        outcome("lfw--matching", matching),
    )


def test_the_curves_count_photographs_above_the_threshold():
    block = made_up_block()
    lines = experiments.curves([block], SETTINGS)
    assert len(lines) == 2 * 2 * 4
    for line in lines.to_dict("records"):
        kappa = {"paper": 0.5, "calibrated": 0.37}[line["threshold"]]
        stored = getattr(block, line["images"]).result.values[str(line["bound"])]
        recognised = sum(1 for cosine in stored["cosine"] if cosine > kappa) / PHOTOGRAPHS
        assert line["utility"] == pytest.approx(recognised)
        assert line["privacy"] == pytest.approx(sum(stored["lpips"]) / PHOTOGRAPHS)
        assert line["utility_low"] <= line["utility"] <= line["utility_high"]
        assert line["kappa"] == kappa


def test_the_control_counts_strangers_above_the_same_threshold():
    block = made_up_block(6)
    lines = experiments.control_lines([block], SETTINGS)
    assert len(lines) == 2 * 2 * 4
    for line in lines.to_dict("records"):
        stored = block.control.result.values[line["images"]][str(line["bound"])]
        kappa = {"paper": 0.5, "calibrated": 0.37}[line["threshold"]]
        assert line["stranger"] == pytest.approx(sum(1 for c in stored["stranger"] if c > kappa) / PHOTOGRAPHS)
        assert line["rank_1"] == pytest.approx(sum(stored["rank_1"]) / PHOTOGRAPHS)
        assert line["stranger_low"] <= line["stranger"] <= line["stranger_high"]
    assert experiments.strangers(["a", "a", "b", "c"]).tolist() == [2, 2, 3, 0]
    with pytest.raises(DatasetError, match="no two people"):
        experiments.strangers(["a", "a"])


def test_the_difference_is_that_of_the_same_photograph():
    block = made_up_block(1)
    apart = experiments.comparison([block], SETTINGS)
    assert len(apart) == 2 * 4 * 2
    for line in apart.to_dict("records"):
        ours, theirs = (o.result.values[str(line["bound"])] for o in (block.uploads, block.originals))
        total = 0.0
        for i in range(PHOTOGRAPHS):
            if line["term"] == "utility":
                total += (ours["cosine"][i] > line["kappa"]) - (theirs["cosine"][i] > line["kappa"])
            else:
                total += ours["lpips"][i] - theirs["lpips"][i]
        assert line["difference"] == pytest.approx(total / PHOTOGRAPHS)
        assert line["low"] <= line["difference"] <= line["high"]
        if line["term"] == "utility":
            pairs = [
                (a > line["kappa"], b > line["kappa"]) for a, b in zip(ours["cosine"], theirs["cosine"], strict=True)
            ]
            counts = [pairs.count(one) for one in ((True, True), (True, False), (False, True), (False, False))]
            assert (line["low"], line["high"]) == metrics.newcombe(*counts)


def test_every_measure_is_what_a_loop_gives():
    block = made_up_block(2)
    cells = experiments.matching_cells([block], SETTINGS).set_index(["network", "comparison", "measure"])
    stored = block.matching.result.values
    same = stored["same"]
    for network in SETTINGS.networks:
        for kind in COMPARISONS:
            scores = stored["networks"][network]["scores"][kind]
            wins = [
                (a > b) + 0.5 * (a == b)
                for a, y in zip(scores, same, strict=True)
                if y
                for b, z in zip(scores, same, strict=True)
                if not z
            ]
            found = cells.loc[network, kind]
            assert found.loc["auc", "value"] == pytest.approx(sum(wins) / len(wins))
            assert found.loc["auc", "low"] <= found.loc["auc", "value"] <= found.loc["auc", "high"]
            for name, threshold in (("far_1e2", 0.3), ("far_1e3", 0.4)):
                accepted = [score > threshold for score in scores]
                true = sum(a for a, y in zip(accepted, same, strict=True) if y)
                false = sum(a for a, y in zip(accepted, same, strict=True) if not y)
                assert found.loc[f"tar_{name}", "value"] == pytest.approx(true / (PAIRS // 2))
                assert found.loc[f"false_{name}", "value"] == pytest.approx(false / (PAIRS // 2))
                assert found.loc[f"tar_{name}", "n"] == PAIRS // 2
            folds = metrics.kfold_accuracy(scores, same, stored["fold"])
            assert found.loc["accuracy", "value"] == pytest.approx(folds.mean)  # the folds are of one size
            ranks = stored["networks"][network]["identification"][kind]["rank_1"]
            assert found.loc["rank_1", "value"] == pytest.approx(sum(ranks) / len(ranks))
    roles = cells.reset_index().groupby("network")["role"].first()
    assert roles.to_dict() == {"mobilefacenet": "authorised", "sface": "unauthorised"}


def test_the_bootstrap_repeats_pairs_as_often_as_their_photograph_was_drawn():
    draw = np.random.default_rng(3)
    scores, same = draw.normal(size=60).round(1), draw.integers(0, 2, 60).astype(bool)
    photographs = draw.integers(0, 45, 60).tolist()
    found = experiments.resampled(scores, same, photographs, seed=5, resamples=30)
    names, codes = np.unique(photographs, return_inverse=True)
    drawn = np.random.default_rng(5).multinomial(len(names), np.full(len(names), 1 / len(names)), 30)
    for index in range(30):
        rows = [row for row in range(60) for _ in range(drawn[index][codes[row]])]
        assert found["auc"][index] == pytest.approx(metrics.auc(scores[rows], same[rows]))
        assert found["eer"][index] == pytest.approx(metrics.eer(scores[rows], same[rows]))


class Pictures(datasets.Images):
    """Noise, one picture an index."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int):
        import torch

        return to_uint8(torch.rand(1, 3, 112, 112, generator=torch.Generator().manual_seed(index)))[0]

    def name(self, index: int) -> str:
        return str(index)

    def content(self, index: int) -> bytes:
        return self[index].tobytes()


def pair_set(identities: tuple[str, ...] | None) -> datasets.PairSet:
    pairs = np.array([[0, 1], [2, 3], [1, 4], [0, 5]])
    same = np.array([True, True, False, False])
    return datasets.PairSet("x", Pictures(), pairs, same, np.zeros(4), identities, "X")


def test_a_probe_is_not_found_by_its_own_photograph():
    # Image 1 is in the gallery as the second of pair 0, and the first of pair 2.
    people = ["a", "a", "b", "b", "c", "d"]
    sample = pair_set(tuple(people))
    assert experiments.identities(sample) == people
    first, second = np.eye(4), np.eye(4)
    found = dict(experiments.identified(first, second, sample, people))
    assert found[1].tolist() == [True, True]
    second[3] = first[0] * 2  # somebody else looks the same as the probe of pair 0: a tie does not identify
    assert dict(experiments.identified(first, second, sample, people))[1].tolist() == [False, True]
    assert dict(experiments.identified(first, second, sample, people))[5].tolist() == [True, True]
    # The probe's own photograph in the gallery, under another pair, is passed over.
    own = datasets.PairSet("x", Pictures(), np.array([[0, 1], [2, 0]]), np.array([True, False]), np.zeros(2), None, "X")
    known = ["a", "a", "b", "b", "c", "d"]
    embeddings = np.array([[1.0, 0.0], [0.0, 1.0]])
    gallery = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert dict(experiments.identified(embeddings, gallery, own, known))[1].tolist() == [True]


def test_without_names_pairs_of_one_person_link_images():
    labels = experiments.identities(pair_set(None))
    assert labels[0] == labels[1]
    assert labels[2] == labels[3]
    assert len(set(labels)) == 4


def test_thresholds_are_never_those_of_the_set_itself():
    assert experiments.threshold_set("lfw") == "cfp_ff"
    for name in ("cfp_ff", "samples", "agedb_30", "calfw"):
        assert experiments.threshold_set(name) == "lfw"
    stored = calibration.find("sface", "cfp_ff")
    assert experiments.far_thresholds("sface", "lfw") == {
        "far_1e2": round(stored.threshold_far_1e2, 5),
        "far_1e3": round(stored.threshold_far_1e3, 5),
    }


def test_the_verdicts_follow_the_numbers():
    def constant(cosine: float, distance: float) -> dict:
        entry = {"cosine": [cosine] * PHOTOGRAPHS, "lpips": [distance] * PHOTOGRAPHS}
        return {str(bound): entry for bound in (0.0, 0.1, 0.2, 0.3)}

    block = made_up_block(4)

    def said(originals: dict, uploads: dict) -> str:
        made = TradeOffBlock("lfw", Outcome(None), outcome("a", originals), outcome("b", uploads), *[Outcome(None)] * 2)
        lines, apart = experiments.curves([made], SETTINGS), experiments.comparison([made], SETTINGS)
        beside = experiments.control_lines([made], SETTINGS)
        return experiments.reading(lines, apart, beside, experiments.matching_cells([made], SETTINGS), SETTINGS)

    def verdict(originals: dict, uploads: dict) -> str:
        made = TradeOffBlock("lfw", Outcome(None), outcome("a", originals), outcome("b", uploads), *[Outcome(None)] * 2)
        curves, apart = experiments.curves([made], SETTINGS), experiments.comparison([made], SETTINGS)
        return experiments.claims(curves, apart, experiments.control_lines([made], SETTINGS))[0].verdict

    # Of two halves, each at every bound; where nobody is lost, Utility cannot be higher.
    assert verdict(constant(0.1, 0.2), constant(0.9, 0.8)) == "holds"
    assert verdict(constant(0.9, 0.2), constant(0.9, 0.8)) == "holds in part"
    assert verdict(constant(0.9, 0.8), constant(0.1, 0.2)) == "does not hold"
    good = said(constant(0.1, 0.2), constant(0.9, 0.8))
    # Uploads that noise does not touch neither lose Utility nor gain Privacy.
    assert good.count("Does not hold") == good.count("drops at no bound up to 0.3, and their Privacy does not move")
    assert good.count("Holds") == 2
    bad = said(constant(0.9, 0.2), constant(0.1, 0.8))
    assert bad.count("Does not hold") == 3
    assert "Utility of uploads is lower at δ = 0, 0.1, 0.2" in bad
    lines, apart = experiments.curves([block], SETTINGS), experiments.comparison([block], SETTINGS)
    cells, beside = experiments.matching_cells([block], SETTINGS), experiments.control_lines([block], SETTINGS)
    summary = experiments.summary(lines, beside, cells)
    value = cells.query("role == 'authorised' and comparison == 'protected-clean' and measure == 'tar_far_1e3'")[
        "value"
    ]
    assert summary["lfw_authorised_protected_clean_tar_far_1e3"] == pytest.approx(100 * value.iloc[0], abs=1e-3)
    assert f"{100 * value.iloc[0]:.0f}% [" in experiments.reading(lines, apart, beside, cells, SETTINGS)


def test_tables_and_figures_show_the_numbers():
    block = made_up_block(5)
    lines, cells = experiments.curves([block], SETTINGS), experiments.matching_cells([block], SETTINGS)
    beside = experiments.control_lines([block], SETTINGS)
    html = figures.trade_off_table(lines, beside, "lfw").to_html()
    for line in lines.to_dict("records"):
        assert f"{100 * line['utility']:.0f}<br>" in html
    html = figures.matching_table(cells, "lfw", SETTINGS).to_html()
    for line in cells.to_dict("records"):
        scale, digits = (1, 3) if line["measure"] == "auc" else (100, 1)
        assert f"{scale * line['value']:.{digits}f}<br>" in html
    assert "CFP-FF" in html
    assert len(figures.trade_off_figure(lines, beside).axes) == 4
    assert len(figures.matching_figure(cells, SETTINGS).axes) == 3
    assert figures.provenance_table([block]).to_html().count("2026-01-01") == 5


def test_nothing_measured_is_said_and_drawn():
    block = TradeOffBlock("lfw", *(Outcome(None, "not run: data not present") for _ in range(5)))
    assert experiments.not_run([block]) == ["LFW: not run: data not present"]
    lines, apart = experiments.curves([block], SETTINGS), experiments.comparison([block], SETTINGS)
    cells, beside = experiments.matching_cells([block], SETTINGS), experiments.control_lines([block], SETTINGS)
    assert experiments.summary(lines, beside, cells) == {}
    assert experiments.reading(lines, apart, beside, cells, SETTINGS) == "Nothing was measured."
    figures.trade_off_figure(lines, beside)
    figures.matching_figure(cells, SETTINGS)
