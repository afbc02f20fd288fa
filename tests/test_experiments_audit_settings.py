"""Draws among settings, and the tuned decoy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from pmtlib.experiments import audit, audit_beyond, audit_decoy, audit_frontier
from pmtlib.experiments import audit_numbers as numbers
from pmtlib.experiments.common import Outcome
from pmtlib.experiments.variants import Photographs
from pmtlib.figures import audit as figures
from pmtlib.transform import Protected
from pmtlib.variants.decoy import DecoyConfig
from tests.test_experiments_audit import SETTINGS, attacked, outcome
from tests.test_experiments_audit_beyond import block, cells


def settings_of(*lines: tuple[str, float, float]) -> pd.DataFrame:
    """Settings (name, service, leak to the best attacker) of one set."""
    return pd.DataFrame(
        [
            {"dataset": "lfw", "setting": name, "steps": 40, "n": 52, "service": service}
            | {f"{kind}{end}": leak + shift for kind in ("best", "filters", "translated")
               for end, shift in (("", 0), ("_low", -0.1), ("_high", 0.1))}
            for name, service, leak in lines
        ]
    )  # fmt: skip


def test_a_mixture_lies_on_the_line_between_two_settings() -> None:
    audited = pd.DataFrame([{"dataset": "lfw", "clean": 1.0}])
    # 90% are needed: of b, 90% itself; of a and c, a share p with p + 0.4 (1 - p) = 0.9.
    frame = settings_of(("a", 1.0, 0.6), ("b", 0.9, 0.8), ("c", 0.4, 0.1))
    line = audit_frontier.mixtures(frame, audited).iloc[0]
    share = 0.5 / 0.6
    assert (line["setting"], line["rest"], line["alone_setting"]) == ("a", "c", "a")
    assert line["share"] == pytest.approx(share)
    assert line["service"] == pytest.approx(0.9)
    assert line["leak"] == pytest.approx(0.6 * share + 0.1 * (1 - share))
    assert line["leak_high"] == pytest.approx(line["leak"] + 0.1)
    words = audit_frontier.mixed_reading(audit_frontier.mixtures(frame, audited))
    mixture = "*a* (K = 40) for 83%, *c* (K = 40) for the others"
    assert f"| LFW, n = 52 | {mixture} | 52% [42, 62] | *a* (K = 40) | 60% [50, 70] |" in words
    assert "gains 8.3 points at most over the best setting alone" in words
    found = audit_frontier.mixed_summary(audit_frontier.mixtures(frame, audited))
    assert found == {"mixed_lfw": pytest.approx(100 * line["leak"]), "mixed_lfw_alone": pytest.approx(60)}
    assert audit_frontier.mixed_summary(audit_frontier.mixtures(frame.head(0), audited)) == {}


def test_every_mixture_of_two_settings_is_looked_at() -> None:
    draw = np.random.default_rng(0)
    audited = pd.DataFrame([{"dataset": "lfw", "clean": 0.9}])
    for _ in range(20):
        numbers_of = draw.random((5, 2)).round(3)
        frame = settings_of(*((str(row), *pair) for row, pair in enumerate(numbers_of)))
        found = audit_frontier.mixtures(frame, audited)
        shares = np.linspace(0, 1, 2001)[:, None, None]
        service, leak = (shares * column[:, None] + (1 - shares) * column[None] for column in numbers_of.T)
        allowed = leak[service >= 0.81 - 1e-9]
        assert len(found) == bool(len(allowed))
        if len(found):
            assert found["leak"].iloc[0] <= allowed.min() + 1e-9
            assert found["leak"].iloc[0] == pytest.approx(allowed.min(), abs=1e-3)
            assert found["service"].iloc[0] >= 0.81 - 1e-9


def test_no_mixture_is_made_up_where_none_helps() -> None:
    audited = pd.DataFrame([{"dataset": "lfw", "clean": 1.0}])
    frame = settings_of(("a", 1.0, 0.1), ("b", 0.5, 0.2))
    words = audit_frontier.mixed_reading(audit_frontier.mixtures(frame, audited))
    assert "| LFW, n = 52 | none leaves less |  | *a* (K = 40) | 10% [0, 20] |" in words
    assert "gains nothing over the best setting alone" in words
    assert not len(audit_frontier.mixtures(settings_of(("b", 0.5, 0.2)), audited))
    assert "Not computed" in audit_frontier.mixed_reading(audit_frontier.mixtures(frame.head(0), audited))


def decoys_weighed(*lines: tuple[str, float, float]) -> Outcome:
    values = {name: {"service": service, "others": [0.0, leak], "ssim": [0.1, 0.2]} for name, service, leak in lines}
    return outcome("choice-of-decoys", {"photograph": {"service": 1.0, "others": [1, 1], "ssim": [1, 1]}, **values})


def test_the_decoy_is_picked_by_what_it_leaves_among_those_that_serve() -> None:
    weighed = decoys_weighed(("a, K = 40", 0.94, 0.0), ("b, K = 40", 0.95, 0.3), ("c, K = 40", 1.0, 0.2))
    assert audit_decoy.picked(weighed) == "c"
    assert audit_decoy.picked(decoys_weighed(("a, K = 40", 0.94, 0.0))) is None
    assert audit_decoy.picked(Outcome(None, "x")) is None
    ways = audit_decoy.tried(SETTINGS.model_copy(update={"decoy_cuts": ("14x14", "7x7")}))
    assert list(ways) == [
        "decoy tuned, 14x14", "decoy tuned, purified 1, 14x14", "decoy tuned, 7x7", "decoy tuned, purified 1, 7x7",
    ]  # fmt: skip
    config, cut, _ = ways["decoy tuned, purified 1, 14x14"]
    assert (config.steps, config.schedule, config.purify_weight, cut) == (40, "cosine", 1.0, "14x14")  # type: ignore[attr-defined]


def test_the_words_on_the_tuned_decoy_hold_it_against_the_goal() -> None:
    way = "decoy tuned, purified 1, 14x14"
    settings = SETTINGS.model_copy(update={"decoy_cuts": ("14x14",)})
    weighed = decoys_weighed((f"{way}, K = 40", 1.0, 0.2))
    frame = numbers.table([block()], SETTINGS)
    upload = frame[frame["kind"] == "purification"]
    upload = upload[~upload["attack"].str.startswith("photograph")]
    points = settings_of((way, 1.0, 0.2 * float(upload["others"].max())))
    points = points.assign(service_low=0.9, service_high=1.0, ssim=0.1 * float(upload["ssim"].max()))
    no = pd.DataFrame()
    words = audit_decoy.reading(weighed, points, no, frame, settings)
    assert "Of 1 ways, weighed on" in words
    assert f"*{way}* leaves least" in words
    assert "`--variant decoy --cut 14x14`, and in the file of `--config` `steps: 40`" in words
    assert "`purify_weight: 1.0`" in words
    assert "`rule:" not in words
    assert cells(words, "the most without learning, of what *pmt* leaves") == {"LFW (n = 52)": "20%, SSIM 10%"}
    assert cells(words, "the goal without learning") == {"LFW (n = 52)": "reached, but for averages"}
    assert "The goal without learning is reached, but for averages, on LFW." in words
    assert cells(words, "others, of means") == {"LFW (n = 52)": "not measured"}
    clean = float(frame[frame["attack"] == "photograph"]["service"].iloc[0])
    served = f"100% [90, 100] (of photographs {100 * clean:.0f}%)"
    assert cells(words, "the service") == {"LFW (n = 52)": served}
    (line,) = points.to_dict("records")
    told = f"{100 * line['filters']:.0f}% [{100 * line['filters_low']:.0f}, {100 * line['filters_high']:.0f}]"
    told = f"{told}, SSIM {line['ssim']:.2f}".replace("-", "\N{MINUS SIGN}")
    assert cells(words, "others, after the best filter") == {"LFW (n = 52)": told}
    assert cells(words, "others, translated") == {"LFW (n = 52)": f"{100 * line['translated']:.0f}%"}
    worse = audit_decoy.reading(weighed, points.assign(service=0.5), no, frame, settings)
    assert "The goal without learning is not reached, but for averages, on LFW." in worse
    assert audit_decoy.reading(Outcome(None, "x"), points, no, frame, settings) == "*The decoy was not tuned here.*"
    none = decoys_weighed(("c, K = 40", 0.5, 0.2))
    assert "none lets the service keep 95%" in audit_decoy.reading(none, points, no, frame, settings)
    found = audit_decoy.summary(weighed, points, no)
    assert found["decoy_lfw_service"] == pytest.approx(100)
    assert "decoy_lfw_averaged" not in found
    assert audit_decoy.summary(weighed, points.head(0), no) == {}
    assert audit_decoy.summary(Outcome(None, "x"), points, no) == {}
    # What means of uploads leave counts, where it is more: the highest rate and the highest SSIM of any of them.
    left = float(upload["others"].max())
    lines = [("2 copies", 0.3 * left, 0.0), ("8 copies", 0.1 * left, 0.4 * float(upload["ssim"].max()))]
    averages = pd.DataFrame(
        [
            {"dataset": "lfw", "attack": attack, "others": rate, "others_low": 0.0, "others_high": 1.0, "ssim": ssim}
            for attack, rate, ssim in lines
        ]
    )
    words = audit_decoy.reading(weighed, points, averages, frame, settings)
    ssim = 0.4 * float(upload["ssim"].max())
    told = f"{30 * left:.0f}% [0, 100] (2 copies), SSIM {ssim:.2f}"
    assert cells(words, "others, of means") == {"LFW (n = 52)": told}
    assert cells(words, "the most without learning, of what *pmt* leaves") == {"LFW (n = 52)": "30%, SSIM 40%"}
    assert cells(words, "the goal without learning") == {"LFW (n = 52)": "not reached"}
    assert "The goal without learning is not reached on LFW." in words
    found = audit_decoy.summary(weighed, points, averages)
    assert found["decoy_lfw_averaged"] == pytest.approx(30 * left)
    other_set = averages.assign(dataset="cfp_ff")
    assert "but for averages" in audit_decoy.reading(weighed, points, other_set, frame, settings)
    assert "purification in each step" in figures.decoys_table(weighed).to_html()
    assert "not run" in figures.decoys_table(Outcome(None, "not run")).to_html()


def test_means_of_decoys_are_of_uploads_with_other_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The picked way's configuration and cut are used, and each count takes the first of the same uploads."""
    asked = {"datasets": ("samples",), "decoy_cuts": ("14x14",), "decoy_copies": (2, 3), "store": False}
    bench = audit.Audit(SETTINGS.model_copy(update=asked), torch.device("cpu"))
    originals, same = torch.zeros(2, 3, 2, 2), np.array([True, False])
    everybody = Photographs(originals, np.array([0, 1]), originals, same)
    made: list[tuple[int, str, float]] = []

    def protect(images: torch.Tensor, *_: str, config: DecoyConfig, cut: str) -> Protected:
        made.append((config.seed, cut, config.purify_weight))
        return Protected(images + 0.2 * config.seed, *[torch.zeros(0)] * 7)

    def seen(_: audit.Audit, photographs: Photographs, images: torch.Tensor) -> float:
        assert photographs is everybody
        return float(images.mean())

    monkeypatch.setattr(bench, "photographs", lambda _: everybody)
    monkeypatch.setattr(bench, "protect", protect)
    monkeypatch.setattr(audit_frontier, "seen", seen)
    way = "decoy tuned, purified 1, 14x14"
    weighed = decoys_weighed((f"{way}, K = 40", 1.0, 0.2))
    found = audit_decoy.averaged(bench, "samples", [audit.AS_IT_IS], weighed)
    assert found.result is not None, found.note
    assert made == [(0, "14x14", 1.0), (1, "14x14", 1.0), (2, "14x14", 1.0)]
    attacks = found.result.values["attacks"][way]
    assert attacks == {
        "2 copies": pytest.approx(0.1), "2 copies, upload": pytest.approx(0.1),
        "3 copies": pytest.approx(0.2), "3 copies, upload": pytest.approx(0.2),
    }  # fmt: skip
    assert found.result.values["same"] == [1, 0]
    none = decoys_weighed(("c, K = 40", 0.5, 0.2))
    assert audit_decoy.averaged(bench, "samples", [], none).note == audit_decoy.NOT_PICKED
    bench.settings = bench.settings.model_copy(update={"decoy_copies": ()})
    assert audit_decoy.averaged(bench, "samples", [], weighed).note == "not run: this profile averages no decoys"


def test_many_copies_meet_the_pairs_of_one_person_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uploads of few copies are those that all pairs meet; of the others only what is needed is made."""
    asked = {
        "datasets": ("samples",),
        "pair_people": 0,
        "copies_of_all": (2, 3),
        "most_of_all": {"pmt": 2},
        "store": False,
    }
    bench = audit.Audit(SETTINGS.model_copy(update=asked), torch.device("cpu"))
    originals = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 3, 2, 2)
    place, same = np.array([0, 1, 3, 4, 3]), np.array([False, True, True, False, True])
    everybody = Photographs(originals, place, originals, same)
    made: list[tuple[int, list[float]]] = []

    def copy(images: torch.Tensor, name: str, variant: str, seed: int) -> torch.Tensor:
        made.append((seed, images[:, 0, 0, 0].tolist()))
        return images + 10 * seed

    judged: list[tuple[list[float], list[float]]] = []

    def judge(photographs: Photographs, images: torch.Tensor) -> dict[str, float]:
        judged.append((photographs.originals[:, 0, 0, 0].tolist(), images[:, 0, 0, 0].tolist()))
        return {}

    monkeypatch.setattr(bench, "photographs", lambda _: everybody)
    monkeypatch.setattr(bench, "copy", copy)
    monkeypatch.setattr(bench, "_judged", judge)
    few, many = (bench.averaged_of_all("samples", "pmt", audit.AS_IT_IS, many=many) for many in (False, True))
    assert few.result is not None
    assert many.result is not None
    assert list(few.result.values["attacks"]) == ["2 copies", "2 copies, upload"]
    assert list(many.result.values["attacks"]) == ["3 copies", "3 copies, upload"]
    assert (few.result.values["same"], many.result.values["same"]) == ([0, 1, 1, 0, 1], [1, 1, 1])
    assert made == [(0, [0, 1, 2, 3, 4]), (1, [0, 1, 2, 3, 4])] * 2 + [(2, [1, 3])]
    # The mean of three copies of photographs 1 and 3: each plus 0, 10 and 20.
    assert judged[2] == ([1, 3], [11, 13])
    assert judged[0] == ([0, 1, 2, 3, 4], [5, 6, 7, 8, 9])
    # A variant without a limit has no such attack.
    monkeypatch.setattr(bench, "averaged", lambda *_: Outcome(None, ""))
    monkeypatch.setattr(bench, "averaged_of_all", lambda *_, many=False: Outcome(None, str(many)))
    monkeypatch.setattr(audit_beyond, "run", lambda *_: {})
    monkeypatch.setattr(bench, "purified", lambda *_: Outcome(None, ""))
    both = {"thorough": ("pmt", "deep"), "variants": {"pmt": {}, "deep": {}}, "inversion_pairs": 0}
    bench.settings = bench.settings.model_copy(update=both)
    met = {variant: bench.block("samples", variant, Outcome(None, "")).attacks for variant in ("pmt", "deep")}
    assert "averaging of many" in met["pmt"]
    assert "averaging of all" in met["deep"]
    assert "averaging of many" not in met["deep"]


def test_averages_of_many_are_averages_in_the_table() -> None:
    entries = attacked({"32 copies": 0.5})
    frame = numbers.table([audit.AuditBlock("lfw", "pmt", {"averaging of many": entries}, entries, {})], SETTINGS)
    assert list(frame["kind"]) == ["averaging"]
