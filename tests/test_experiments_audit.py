"""The audit: its table in plain loops, what an attacker chooses, and what the words say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pmtlib import metrics, results
from pmtlib.attacks.adaptive.purify import candidates
from pmtlib.experiments import audit, common
from pmtlib.experiments import audit_numbers as numbers
from pmtlib.experiments.common import Outcome
from pmtlib.figures import audit as figures
from pmtlib.transform import PMTConfig

NETWORKS = ("mobilefacenet", "sface", "dlib-resnet29")
SETTINGS = audit.AuditSettings(datasets=("lfw",), networks=NETWORKS, pmt=PMTConfig(steps=1))
THRESHOLDS = {"mobilefacenet": 0.3, "sface": 0.25, "dlib-resnet29": 0.9}
PAIRS, IMAGES = 40, 30
NOTHING = Outcome(None, "not run")


def outcome(name: str, values: dict[str, Any]) -> Outcome:
    """An outcome in the stored form; its numbers measure nothing."""
    request = results.Request("audit", name, 1, {"authorised": ["mobilefacenet"]})
    hardware = {"device": "cpu", "torch_threads": 1}
    manifest = {"date": "2026-01-01", "seconds": 1, "hardware": hardware, "packages": {"torch": "2"}}
    return Outcome(results.Result(request, {"name": "lfw", "fingerprint": "f", "n": PAIRS}, values, manifest))


def attacked(raised: dict[str, float]) -> Outcome:
    """A result with one row for each name; ``raised`` is added to its cosines."""
    draw = np.random.default_rng(0)
    # Every photograph is the first of a pair at least once.
    place = np.concatenate([np.arange(IMAGES), draw.integers(0, IMAGES, PAIRS - IMAGES)])
    entries = {}
    for name, by in raised.items():
        own = {network: draw.uniform(-0.5, 0.5, IMAGES) + by for network in NETWORKS}
        networks = {
            network: {"own": own[network][place].tolist(), "other": (draw.uniform(-0.5, 0.5, PAIRS) + by).tolist()}
            for network in NETWORKS
        }
        likeness = (draw.uniform(0, 0.5, IMAGES) + by / 2).tolist()
        entries[name] = {"networks": networks, "ssim": likeness, "lpips": draw.uniform(0, 1, IMAGES).tolist()}
    return outcome(
        "lfw--pmt--purification",
        {
            "same": draw.integers(0, 2, PAIRS).tolist(),
            "photograph": place.tolist(),
            "thresholds": {network: {"far_1e2": value, "far_1e3": 2.0} for network, value in THRESHOLDS.items()},
            "attacks": entries,
        },
    )


@pytest.fixture
def block() -> audit.AuditBlock:
    made = attacked({"upload": 0.0, "gaussian": 0.3, "contrast": -0.2, "photograph": 0.6, "photograph, gaussian": 0.5})
    return audit.AuditBlock("lfw", "pmt", {"purification": made}, NOTHING, {})


def test_the_table_is_the_rates_in_a_loop(block: audit.AuditBlock) -> None:
    frame = numbers.table([block], SETTINGS)
    values = block.attacks["purification"].result.values
    assert list(frame["attack"]) == list(values["attacks"])
    for line in frame.to_dict("records"):
        entry = values["attacks"][line["attack"]]
        rates = {}
        for network in NETWORKS:
            accepted, genuine, falsely, impostors = 0, 0, 0, 0
            for score, same in zip(entry["networks"][network]["other"], values["same"], strict=True):
                above = score > THRESHOLDS[network]
                genuine, impostors = genuine + same, impostors + 1 - same
                accepted, falsely = accepted + above * same, falsely + above * (1 - same)
            recognised = {
                photograph: score > THRESHOLDS[network]
                for photograph, score in zip(values["photograph"], entry["networks"][network]["own"], strict=True)
            }
            rates[network] = (accepted / genuine, falsely / impostors, sum(recognised.values()) / len(recognised))
        others = [rates["sface"], rates["dlib-resnet29"]]
        assert line["service"] == pytest.approx(rates["mobilefacenet"][0])
        assert line["others"] == pytest.approx((others[0][0] + others[1][0]) / 2)
        assert line["others_low"] <= line["others"] <= line["others_high"]
        assert line["highest"] == pytest.approx(max(others[0][0], others[1][0]))
        assert line["false"] == pytest.approx((others[0][1] + others[1][1]) / 2)
        assert line["own"] == pytest.approx((others[0][2] + others[1][2]) / 2)
        assert line["ssim_worst"] == max(entry["ssim"])
        assert line["lpips_worst"] == min(entry["lpips"])
        assert line["images"] == IMAGES


def test_a_network_without_a_threshold_is_left_out(block: audit.AuditBlock) -> None:
    before = numbers.table([block], SETTINGS)
    block.attacks["purification"].result.values["thresholds"]["dlib-resnet29"] = None
    frame = numbers.table([block], SETTINGS)
    assert set(frame["network"]) == {"sface"}
    assert not np.allclose(frame["others"], before["others"])


def test_the_best_attack_is_never_a_control(block: audit.AuditBlock) -> None:
    frame = numbers.table([block], SETTINGS)
    assert frame.loc[frame["others"].idxmax(), "attack"].startswith("photograph")
    assert list(numbers.best(frame)["attack"]) == ["gaussian"]
    found = numbers.summary(frame)
    line = frame[frame["attack"] == "gaussian"].iloc[0]
    assert found["pmt_best_others"] == pytest.approx(100 * line["others"], abs=1e-3)


def test_the_sets_together_are_their_pairs_in_a_loop(block: audit.AuditBlock) -> None:
    raised = {"upload": 0.1, "gaussian": 0.1, "median": 0.4, "photograph": 2.0}
    other = audit.AuditBlock("cfp_ff", "pmt", {"purification": attacked(raised)}, NOTHING, {})
    blocks = [block, other]
    found = numbers.together(numbers.table(blocks, SETTINGS), blocks, SETTINGS).set_index(["kind", "who"])
    chosen = {"photograph": ("photograph",) * 2, "upload": ("upload",) * 2, "filters": ("gaussian", "median")}
    assert sorted(found.index) == sorted(
        [(kind, "others") for kind in chosen] + [("photograph", "service"), ("upload", "service")]
    )
    for kind, attacks in chosen.items():
        service, others = [], []
        for one, attack in zip(blocks, attacks, strict=True):
            values = one.attacks["purification"].result.values
            for place, same in enumerate(values["same"]):
                if same:
                    entry = values["attacks"][attack]["networks"]
                    accepted = {name: entry[name]["other"][place] > THRESHOLDS[name] for name in NETWORKS}
                    service.append(accepted["mobilefacenet"])
                    others.append((accepted["sface"] + accepted["dlib-resnet29"]) / 2)
        line = found.loc[kind, "others"]
        assert (line["n"], line["accuracy"]) == (len(others), pytest.approx(sum(others) / len(others)))
        assert line["low"] < line["accuracy"] <= line["high"]
        if kind != "filters":
            assert found.loc[(kind, "service"), "accuracy"] == pytest.approx(sum(service) / len(service))
    # Photographs are all recognised here, and yet others might not be.
    assert found.loc["photograph", "others"]["low"] < 1
    html = figures.together_table(found.reset_index()).to_html()
    assert "gaussian, median" in html


def test_where_each_is_right_or_wrong_the_interval_is_wilsons() -> None:
    assert common.share_interval([1.0] * 8) == metrics.wilson(8, 8)
    assert common.share_interval([0.0] * 8, groups=[0, 0, 1, 1, 2, 2, 3, 3]) == metrics.wilson(0, 4)
    # One network's outcomes are a rate, whether it is right of all pairs or of some.
    assert common.share_interval([1.0, 1.0, 0.0, 1.0]) == metrics.wilson(3, 4)
    assert common.share_interval([1.0, 1.0, 0.0, 1.0], groups=["a", "a", "b", "c"]) == metrics.wilson(2, 3)
    assert common.share_interval([0.5] * 8) == (0.5, 0.5)
    shares = [0.0, 0.5, 1.0, 1.0]
    assert common.share_interval(shares) == metrics.bootstrap(shares, seed=0)


def lines(text: str) -> dict[str, list[str]]:
    """The rows of the table in a text: their cells but the first, by the first."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    return {first: rest for first, *rest in cells[2:]}


def test_the_words_follow_the_numbers(block: audit.AuditBlock) -> None:
    frame = numbers.table([block], SETTINGS)
    rows = lines(numbers.reading(frame))
    assert rows["the filter"] == ["**does not stand**"]
    strongest = numbers.best(frame).iloc[0]
    assert strongest["attack"] == "gaussian"
    share = strongest["others"] / frame.set_index("attack").loc["photograph", "others"]
    assert rows["the strongest of all, of what photographs give"] == [f"{100 * share:.0f}%, gaussian"]
    assert list(rows)[-1] == "the filter"
    strong = audit.AuditBlock(
        "lfw", "pmt", {"purification": attacked({"upload": -0.9, "gaussian": -0.8, "photograph": 0.9})}, NOTHING, {}
    )
    assert lines(numbers.reading(numbers.table([strong], SETTINGS)))["the filter"] == ["**stands**"]
    assert numbers.reading(numbers.table([], SETTINGS)) == "Nothing was measured."


def test_filters_are_chosen_by_their_scores_and_the_best_comes_last() -> None:
    tried = candidates()
    scores = [0.0] * len(tried)
    wanted = {name: next(i for i, one in enumerate(tried) if one.name == name) + 1 for name in ("gaussian", "median")}
    scores[wanted["gaussian"]], scores[wanted["median"]] = 0.5, 0.7
    chosen = audit.chosen_filters(outcome("lfw_rest--pmt--tuning", {"scores": scores}), SETTINGS)
    assert chosen[0] == audit.AS_IT_IS
    assert chosen[-1] == tried[wanted["median"]]
    assert tried[wanted["gaussian"]] in chosen
    assert len({audit.label(one) for one in chosen}) == len(chosen)


def test_without_a_tuning_the_settings_give_the_strengths() -> None:
    settings = SETTINGS.model_copy(update={"strengths": {"median": 2.0, "gaussian": 1.5}})
    chosen = audit.chosen_filters(Outcome(None, "not run"), settings)
    assert [(audit.label(one), one.strength) for one in chosen] == [("upload", 0), ("median", 2.0), ("gaussian", 1.5)]


def test_tables_and_figures_show_every_line(block: audit.AuditBlock) -> None:
    frame = numbers.table([block], SETTINGS)
    html = figures.audit_table(frame, "lfw", "pmt", SETTINGS).to_html()
    for name in frame["attack"]:
        assert name in html
    count = frame["n"].iloc[0]
    assert html.count(f">{count}, {IMAGES}<") == len(frame)
    axis = figures.audit_figure(frame).axes[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["upload as it is", "gaussian", "contrast"]


def test_the_picture_of_the_readme_has_upload_filter_and_learner_of_each_variant() -> None:
    names = ["photograph", "pmt", "pmt, gaussian", "pmt, 8 copies", "pmt, de-obfuscator", "deep", "deep, median"]
    pixels = np.zeros((112, 112, 3), np.uint8)
    portrait = audit.Portrait("Somebody", dict.fromkeys(names, pixels), dict.fromkeys(names, "SSIM 0.10, cosine 0.20"))
    axes = figures.portrait_row(portrait, ["pmt", "deep"]).axes
    assert [axis.get_title() for axis in axes] == [
        "photograph", "upload by pmt", "gaussian filter", "a network learned\nto undo it", "upload by deep",
        "median filter",
    ]  # fmt: skip
