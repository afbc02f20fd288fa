"""One attacker with all the networks: fusion by hand, thresholds from the other set alone, the verdict turned round."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from pmtlib.experiments import audit, audit_again, audit_fused
from pmtlib.experiments.common import Outcome
from pmtlib.figures import audit as figures
from tests.test_experiments_audit import NOTHING, outcome
from tests.test_experiments_audit_beyond import cells

PAIRS = 400
SCALES = {"mobilefacenet-casia": 1.0, "sface": 0.2, "edgeface-xs": 3.0, "dlib-resnet29": 0.05}
"""Networks and the deviation of their cosines: no two have the same scale."""
SETTINGS = audit.AuditSettings(datasets=("lfw", "cfp_ff"), networks=("mobilefacenet", *SCALES))
AT = {network: {"far_1e2": 2.326 * scale} for network, scale in SCALES.items()}
SAME = np.arange(PAIRS) % 2


def said(seed: int, signal: float, shift: float = 0.0) -> dict[str, list[float]]:
    """What each network says of the pairs, with noise of its own: ``signal`` deviations more of one person."""
    draw = np.random.default_rng(seed)
    networks = {
        name: ((draw.normal(size=PAIRS) + signal * SAME + shift) * scale).tolist() for name, scale in SCALES.items()
    }
    return {"mobilefacenet": [0.9] * PAIRS, **networks}


def block(dataset: str, attacks: dict[str, dict[str, list[float]]]) -> audit.AuditBlock:
    entries = {name: {"networks": {n: {"other": c} for n, c in networks.items()}} for name, networks in attacks.items()}
    values = {"same": SAME.tolist(), "thresholds": {"mobilefacenet": {"far_1e2": 0.5}, **AT}, "attacks": entries}
    return audit.AuditBlock(dataset, "pmt", {"purification": outcome(dataset, values)}, NOTHING, {})


def other_people(attacks: dict[str, dict[str, dict[str, list[float]]]]) -> Outcome:
    entries = {
        variant: {name: {"networks": networks} for name, networks in several.items()}
        for variant, several in attacks.items()
    }
    values = {"same": SAME.tolist(), "thresholds": {"mobilefacenet": {"far_1e2": 0.5}, **AT}, "attacks": entries}
    found = outcome("other-people", values)
    assert found.result is not None
    found.result.request.parameters["made"] = {"pmt": ["5", {"steps": 25}], "deep": ["7x7", {"steps": 80}]}
    return found


def test_fusion_is_the_mean_of_normalised_cosines() -> None:
    scores, impostors = np.array([[1.0, 5.0], [10.0, 20.0]]), np.array([[0.0, 2.0, 4.0], [0.0, 10.0, 2.0]])
    found, threshold = audit_fused.fused(scores, impostors)
    deviation = float(np.std([0, 10, 2], ddof=1))
    assert found == pytest.approx([((1 - 2) / 2 + (10 - 4) / deviation) / 2, ((5 - 2) / 2 + (20 - 4) / deviation) / 2])
    of_two = [(x / 2 + y / deviation) / 2 for x, y in ((-2, -4), (0, 6), (2, -2))]
    assert threshold == pytest.approx(np.mean(of_two) + 2.3263 * np.std(of_two, ddof=1), abs=1e-4)


def test_weak_networks_are_strong_together_and_the_threshold_lets_in_one_in_a_hundred() -> None:
    blocks = [block(name, {"upload": said(seed, 1.5)}) for seed, name in enumerate(("lfw", "cfp_ff"))]
    frame = audit_fused.table(blocks, {}, {}, SETTINGS)
    assert list(frame["dataset"]) == ["lfw", "cfp_ff"]
    for line in frame.to_dict("records"):
        # By theory: one network P(N > 2.33 - 1.5), four with half the noise P(N > 2.33 - 3).
        assert line["mean"] == pytest.approx(0.20, abs=0.08)
        assert line["single"] < 0.45
        assert line["fused"] == pytest.approx(0.75, abs=0.12)
        assert line["low"] < line["fused"] < line["high"]
        assert line["false"] == pytest.approx(0.01, abs=0.02)
        assert (line["n"], line["strangers"]) == (PAIRS // 2, PAIRS // 2)


def test_where_nobody_recognises_anybody_fusion_does_not_either() -> None:
    blocks = [block(name, {"upload": said(seed, 0.0)}) for seed, name in enumerate(("lfw", "cfp_ff"))]
    frame = audit_fused.table(blocks, {}, {}, SETTINGS)
    assert (frame["fused"] < 0.05).all()


def test_nothing_is_set_on_the_pairs_that_are_judged() -> None:
    one = audit_fused.table(
        [block("lfw", {"upload": said(0, 1.0)}), block("cfp_ff", {"upload": said(1, 1.0)})], {}, {}, SETTINGS
    )
    # The pairs of two people of CFP-FF move: LFW's threshold with them, CFP-FF's own not.
    moved = said(1, 1.0)
    for name, scale in SCALES.items():
        moved[name] = [value + 9 * scale * (not same) for value, same in zip(moved[name], SAME, strict=True)]
    other = audit_fused.table(
        [block("lfw", {"upload": said(0, 1.0)}), block("cfp_ff", {"upload": moved})], {}, {}, SETTINGS
    )
    assert one["fused"][0] > 0.2
    assert other["fused"][0] == 0
    assert other["fused"][1] == one["fused"][1]
    assert other["false"][1] == 1


def test_an_attack_on_one_set_or_on_pairs_of_one_person_alone_has_no_threshold() -> None:
    lone = [block("lfw", {"upload": said(0, 1.0), "gaussian": said(2, 1.0)}), block("cfp_ff", {"upload": said(1, 1.0)})]
    assert set(audit_fused.table(lone, {}, {}, SETTINGS)["attack"]) == {"upload"}
    for one in lone:
        result = one.attacks["purification"].result
        assert result is not None
        result.values["same"] = [1] * PAIRS
    assert not len(audit_fused.table(lone, {}, {}, SETTINGS))
    assert "Not computed" in audit_fused.reading(audit_fused.table([], {}, {}, SETTINGS), {})


def test_the_verdict_is_turned_round_and_told() -> None:
    tests = {
        name: [
            other_people(
                {
                    "pmt": {"gaussian": said(seed, 4.0)},
                    "deep": {"upload": said(seed + 2, 0.0), "RecFace": said(seed + 4, 1.5)},
                }
            )
        ]
        for seed, name in enumerate(("lfw", "cfp_ff"))
    }
    frame = audit_fused.table([], tests, {}, SETTINGS)
    line: dict[str, Any] = {
        "steps": 80,
        "n": PAIRS // 2,
        "service": 0.95,
        "clean": 1.0,
        "ssim": 0.1,
        "published_ssim": 0.9,
    }
    judged = pd.DataFrame([{"dataset": name, "reached": True, **line} for name in tests])
    by_fusion = audit_fused.verdicts(frame, judged, audit_again.RESTORED)
    assert list(by_fusion["attack"]) == ["RecFace", "RecFace"]
    assert list(by_fusion["alone"]) == [True, True]
    assert list(by_fusion["reached"]) == [False, False]
    words = audit_fused.reading(frame, {audit_again.RESTORED: by_fusion})
    assert words.count("**By fusion not reached** on LFW and CFP-FF, by the mean over networks reached.") == 1
    for line, title in zip(by_fusion.to_dict("records"), ("LFW", "CFP-FF"), strict=True):
        rate = f"{100 * line['fused']:.0f}% [{100 * line['low']:.0f}, {100 * line['high']:.0f}]"
        told = {
            "together they recognise": f"{rate} by RecFace",
            "the same of *pmt*": f"{100 * line['published']:.0f}%",
            "pairs of two people accepted": f"{100 * line['false']:.0f}% of {PAIRS // 2}",
            "the service": "95%",
            "the goal, by fusion": "**not reached**",
            "the goal, by the mean over networks": "reached",
        }
        assert {name: cells(words, name)[f"*deep, K = 80*, {title} (n = {PAIRS // 2})"] for name in told} == told
    # Without goals there is a sentence on the thresholds alone, and no table.
    alone = audit_fused.reading(frame, {})
    false = frame["false"].dropna()
    assert alone == words.split("\n\n")[-1]
    assert alone.startswith(f"Thresholds found so accept {100 * false.mean():.1f}% of the pairs of two people")
    assert f"over {len(false)} rows, {100 * false.max():.0f}% at most" in alone
    found = audit_fused.summary(frame, {audit_again.RESTORED: by_fusion})
    assert found["fused_again_reached"] == 0
    assert found["fused_again_lfw"] == pytest.approx(100 * by_fusion["fused"][0])
    # Against weaker images the goal holds by fusion too.
    weak = {
        name: [other_people({"pmt": {"gaussian": said(5, 4.0)}, "deep": {"upload": said(6, 0.0)}})] for name in tests
    }
    assert list(
        audit_fused.verdicts(audit_fused.table([], weak, {}, SETTINGS), judged, audit_again.RESTORED)["reached"]
    ) == [True, True]


def test_the_table_shows_uploads_as_they_are_and_the_strongest_attack() -> None:
    blocks = [
        block(name, {"upload": said(seed, 1.0), "weak": said(seed, 0.5), "strong": said(seed, 2.0)})
        for seed, name in enumerate(("lfw", "cfp_ff"))
    ]
    frame = audit_fused.table(blocks, {}, {}, SETTINGS)
    assert list(audit_fused.shown(frame)["attack"]) == ["upload", "strong", "upload", "strong"]
    html = figures.fused_table(frame).to_html()
    assert "n = 200 pairs of one person" in html
    for line in audit_fused.shown(frame).to_dict("records"):
        assert f"{100 * line['fused']:.0f} [{100 * line['low']:.0f}, {100 * line['high']:.0f}]" in html


def test_lines_are_of_the_audited_variants_or_of_what_was_made_to_leave_less() -> None:
    attacks = {"photograph": said(0, 3.0), "upload": said(1, 1.0), "K = 15, upload": said(2, 1.0)}
    blocks = [block(name, attacks) for name in ("lfw", "cfp_ff")]
    tests = {name: [other_people({"pmt": {"upload": said(3, 1.0)}})] for name in ("lfw", "cfp_ff")}
    frame = audit_fused.table(blocks, tests, {}, SETTINGS)
    audited, rest = audit_fused.divided(frame)
    assert list(audited["uploads"]) == ["photograph", "photograph", "pmt", "pmt"]
    assert list(zip(rest["pairs"], rest["uploads"], strict=True)) == [
        *[(audit_fused.HERE, "pmt, K = 15")] * 2,
        *[(audit_fused.AGAIN, "pmt")] * 2,
    ]
    # No number hangs on what else is asked.
    alone, _ = audit_fused.divided(audit_fused.table(blocks, {}, {}, SETTINGS))
    pd.testing.assert_frame_equal(alone, audited)
    assert not any(map(len, audit_fused.divided(audit_fused.table([], {}, {}, SETTINGS))))
