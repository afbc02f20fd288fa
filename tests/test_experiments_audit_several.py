"""Uploads of several photographs put together: who is drawn, who is recognised, and what the words say."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch

from pmtlib import datasets
from pmtlib.errors import DatasetError
from pmtlib.experiments import audit, audit_beyond, audit_several
from pmtlib.experiments.common import Outcome
from pmtlib.figures import audit as figures
from pmtlib.transform import PMTConfig
from tests.crowd import crowd
from tests.test_experiments_audit import NETWORKS, NOTHING, SETTINGS, outcome

TRANSLATION = audit_beyond.TRANSLATION
OF_ONE = f"{TRANSLATION}, {audit_several.ONE_PHOTOGRAPH}"


def test_who_is_accepted_is_told_by_a_loop_over_the_other_half() -> None:
    draw = np.random.default_rng(0)
    people, enrolled = 8, 40
    scores = draw.normal(0.1, 0.1, (2, people, enrolled))
    scores[1] *= 3
    for person in range(people):
        scores[:, person, person] += 0.1 * person
    found = audit_several.recognised(scores)
    false, compared = 0, 0
    for person in range(people):
        values = []
        for network in range(2):
            impostors = [
                scores[network, other, place]
                for other in range(people)
                for place in range(enrolled)
                if other % 2 != person % 2 and place != other
            ]
            values.append((np.mean(impostors), np.std(impostors)))

        def together(who: int, place: int, values: list[Any] = values) -> float:
            return float(np.mean([(scores[m, who, place] - values[m][0]) / values[m][1] for m in range(2)]))

        strangers = [
            together(other, place)
            for other in range(people)
            for place in range(enrolled)
            if other % 2 != person % 2 and place != other
        ]
        threshold = np.quantile(strangers, 0.99)
        mine = [together(person, place) for place in range(enrolled)]
        assert found["accepted"][person] == (mine[person] > threshold)
        assert found["first"][person] == (int(np.argmax(mine)) == person)
        false += sum(mine[place] > threshold for place in range(enrolled) if place != person)
        compared += enrolled - 1
    assert 0 < sum(found["accepted"]) < people
    assert found["false"] == pytest.approx(false / compared, abs=1e-5)


def test_a_score_of_ones_own_sets_nothing() -> None:
    """Whoever is very much like themselves does not raise a threshold, of their own half or of the other."""
    scores = np.random.default_rng(1).normal(0, 0.1, (1, 6, 200))
    before = audit_several.recognised(scores)
    scores[0, np.arange(6), np.arange(6)] = 50.0
    after = audit_several.recognised(scores)
    assert after["false"] == before["false"]
    assert after["accepted"] == after["first"] == [1] * 6


def test_several_networks_that_each_know_little_know_more_together() -> None:
    draw = np.random.default_rng(2)
    scores = draw.normal(0, 1, (4, 60, 300))
    scores[:, np.arange(60), np.arange(60)] += 2
    alone = [np.mean(audit_several.recognised(one[None])["accepted"]) for one in scores]
    assert np.mean(audit_several.recognised(scores)["accepted"]) > max(alone) + 0.2


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> audit.Audit:
    """Ten people with five pictures each; p0 is in an evaluated pair, p1 taught the translator, p2 has three alone."""
    everybody = crowd(10, 5)
    everybody = everybody.subset([row for row in range(50) if row not in (13, 14)])
    changed: dict[str, Any] = {
        "several_people": 4,
        "several_counts": (1, 3),
        "several_strangers": 3,
        "several_copies": (2,),
    }
    changed |= {
        "strengths": {"gaussian": 1.5},
        "translator": audit_beyond.TranslatorConfig(),
        "guard": audit_beyond.TranslatorConfig(),
    }
    made = audit.Audit(SETTINGS.model_copy(update=changed), torch.device("cpu"))
    sample = type("Pairs", (datasets.PairSet,), {"__init__": lambda self: None})()
    monkeypatch.setattr(made, "sample", lambda _: sample)
    monkeypatch.setattr(datasets, "load_people", lambda _: everybody)
    monkeypatch.setattr(datasets, "comparable_names", lambda _, names: list(names))
    monkeypatch.setattr(audit_beyond, "learned_from", lambda *_: (everybody.subset(range(5, 10)), {"identities": 1}))
    outside = everybody.subset(range(5, len(everybody)))
    monkeypatch.setattr(audit_beyond, "strangers_of", lambda *_: (outside, ["p0"]))
    return made


def test_nobody_is_asked_about_who_is_in_a_pair_or_was_learned_from(bench: audit.Audit) -> None:
    who = audit_several.people(bench, "lfw")
    names = np.array(who.everybody.identities)
    shown = names[who.pictures]
    assert shown.shape == (4, 4)
    assert all(len(set(line)) == 1 for line in shown)
    assert len(set(shown[:, 0])) == 4
    assert not {"p0", "p1", "p2"} & set(shown[:, 0])
    # Each photograph once: what is enrolled is never uploaded.
    assert len(set(who.pictures.ravel())) == who.pictures.size
    assert len(set(names[who.strangers])) == 3
    assert not set(names[who.strangers]) & set(shown[:, 0])
    assert who.source.n == 4
    assert len(who.enrolled()) == 7
    assert torch.equal(who.enrolled()[:4], who.everybody.tensor(who.pictures[:, 0]))
    assert [len(images) for images in who.photographs()] == [4, 4, 4]
    assert (audit_several.people(bench, "lfw").pictures == who.pictures).all()


def test_what_is_uploaded_is_protected_and_what_is_enrolled_is_not(
    bench: audit.Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uploads of several photographs have one base seed, those of one photograph each another."""
    who = audit_several.people(bench, "lfw")
    made: list[tuple[int, bool]] = []
    first = who.photographs()[0]

    def protect(images: torch.Tensor, *_: str, config: PMTConfig, cut: object) -> Any:
        made.append((config.seed, torch.equal(images, first)))
        return type("Made", (), {"images": (1 - images) / (1 + config.seed)})()

    class Teller:
        sizes = MappingProxyType({"sface": 4, "dlib-resnet29": 4})

    def embed(_: str, images: torch.Tensor) -> Any:
        return images.flatten(1)[:, :: 112 * 28].double().numpy() + 0.01

    for name, instead in (
        ("protect", protect),
        ("embed", embed),
        ("embed_once", embed),
        ("shallow", lambda *_: None),
        ("features", lambda _, images: images),
        ("obtain", lambda request, source, compute: outcome("several", compute())),
    ):
        monkeypatch.setattr(bench, name, instead)
    filtered: list[torch.Tensor] = []

    def best(images: torch.Tensor) -> torch.Tensor:
        filtered.append(images)
        return images

    best.name, best.strength = "best", 1.0  # type: ignore[attr-defined]
    chosen: list[str] = []
    monkeypatch.setattr(bench, "tuning", lambda variant: chosen.append(variant))
    monkeypatch.setattr(audit, "chosen_filters", lambda *_: [audit.AS_IT_IS, best])
    monkeypatch.setattr(audit_beyond, "translator", lambda *_: (Teller(), {}))
    translated: list[torch.Tensor] = []

    def translations(teller: Teller, images: torch.Tensor) -> Any:
        translated.append(images)
        return {name: embed("", images) for name in teller.sizes}

    monkeypatch.setattr(audit_several, "translations", translations)
    monkeypatch.setattr(audit_several, "feature_translations", lambda teller, given: translations(teller, given))
    found = audit_several.measured(bench, "lfw", audit_several.PROJECTED)
    assert made == [(0, True), (0, False), (0, False), (1, True)]
    assert found.result is not None
    attacks = found.result.values["attacks"]
    control = "photograph, translation of features"
    assert list(attacks) == ["photograph", control, "upload", audit_several.FILTERED, TRANSLATION, OF_ONE]
    assert [list(counts) for counts in attacks.values()] == [["1", "3"]] * 5 + [["2"]]
    assert set(attacks["upload"]["1"]) == {*NETWORKS, "together"}
    assert set(attacks[TRANSLATION]["3"]) == {*Teller.sizes, "together"}
    # A photograph of the person, then their uploads, which are negatives here; last the mean of two of a photograph.
    assert len(translated) == 7
    assert torch.equal(translated[0], first)
    negatives = [((255 - first * 255) / weaker).round() / 255 for weaker in (1, 2)]
    assert torch.allclose(translated[3], negatives[0])
    assert torch.allclose(translated[6], (negatives[0] + negatives[1]) / 2, atol=1 / 255)
    assert torch.equal(filtered[0], translated[3])
    assert len(filtered) == 3
    made.clear()
    plain = audit_several.measured(bench, "lfw", "pmt")
    assert made == [(0, True), (0, False), (0, False)]
    assert plain.result is not None
    # For *projected* nothing was tuned: the last variant's filter takes that place.
    assert chosen == [list(bench.settings.variants)[-1], "pmt"]
    assert OF_ONE not in plain.result.values["attacks"]


def test_without_the_data_it_is_said(bench: audit.Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "sample", lambda _: DatasetError("not there"))
    assert audit_several.measured(bench, "lfw", "pmt").note.startswith("not run: not computed yet")
    assert audit_several.measured(bench, "samples", "pmt").note == audit_several.NOT_RUN
    plain = audit.Audit(SETTINGS, torch.device("cpu"))
    assert audit_several.measured(plain, "lfw", "pmt").note == audit_several.NOT_RUN
    assert list(audit_several.ways(plain)) == ["pmt"]


def stored(raised: int) -> Outcome:
    """Ten people; of ``raised`` and more of them each network is sure."""

    def rates(count: int, *, service: bool = True) -> dict[str, Any]:
        hits = [1] * count + [0] * (10 - count)
        others = {"sface": hits, "dlib-resnet29": hits[::-1]}
        networks = {**others, "together": [1] * min(10, count + 2) + [0] * max(0, 8 - count)}
        if service:
            networks["mobilefacenet"] = [1] * 9 + [0]
        return {name: {"first": one, "accepted": one, "false": 0.011} for name, one in networks.items()}

    attacks = {
        "photograph": {"1": rates(9), "8": rates(10)},
        "upload": {"1": rates(raised), "8": rates(raised + 2)},
        audit_several.FILTERED: {"1": rates(raised), "8": rates(raised + 1)},
        TRANSLATION: {"1": rates(raised + 1, service=False), "8": rates(raised + 5, service=False)},
        OF_ONE: {"2": rates(raised + 3, service=False)},
    }
    return outcome("several", {"people": 10, "strangers": 400, "attacks": attacks})


def test_the_words_and_numbers_are_those_of_the_results() -> None:
    frame = audit_several.table(
        {("lfw", "pmt"): stored(0), ("cfp_ff", "pmt"): stored(2), ("lfw", "deep"): NOTHING}, SETTINGS
    )
    assert len(frame) == 18
    line = frame.query(f"dataset == 'cfp_ff' and attack == '{TRANSLATION}' and photographs == 8").iloc[0]
    assert (line["others"], line["together"], line["first"], line["n"]) == (0.7, 0.9, 0.9, 10)
    assert line["together_low"] < 0.9 < line["together_high"]
    assert np.isnan(line["service"])
    words = audit_several.reading(frame)
    best = (
        "by uploads of 1 and of 8 photographs, under the best attack: of *pmt* 30 and 70% (LFW), 50 and 90% (CFP-FF)."
    )
    assert best in words
    assert "10 (LFW) and 10 (CFP-FF) people, with 400 strangers" in words
    assert "accept 1.1 to 1.1%" in words
    row = next(line for line in words.splitlines() if "CFP-FF" in line and f"| {TRANSLATION} |" in line)
    assert "| 1; 8 | 30 [" in row
    assert "; 90 [60, 98]" in row
    assert f"| {TRANSLATION}, all of one photograph | 2; 2 |" in words
    # A control that is the same for two filters stands there once.
    twice = {("lfw", "pmt"): stored(0), ("lfw", "deep"): stored(1), ("cfp_ff", "pmt"): stored(2)}
    lines = audit_several.reading(audit_several.table(twice, SETTINGS)).splitlines()
    assert [line.split(" | ")[0] for line in lines if " | photograph | " in line] == ["| LFW", "| CFP-FF"]
    assert sum(" | upload | " in line for line in lines) == 3
    found = audit_several.summary(frame)
    assert found["several_pmt_translated_8"] == pytest.approx(80)
    assert found["several_pmt_translated_8_mean"] == pytest.approx(60)
    assert found["several_pmt_translated_8_first"] == pytest.approx(80)
    assert found["several_pmt_service_1"] == pytest.approx(90)
    assert found["several_pmt_copies_translated_2"] == pytest.approx(60)
    drawn = figures.several_figure(frame)
    assert [axis.get_title(loc="left") for axis in drawn.axes] == ["LFW, n = 10 people", "CFP-FF, n = 10 people"]
    labels = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert sorted(labels) == ["photograph", f"pmt, {TRANSLATION}", f"pmt, {audit_several.FILTERED}"]


def test_without_results_that_is_said() -> None:
    empty = audit_several.table({("lfw", "pmt"): NOTHING}, SETTINGS)
    assert "Not run" in audit_several.reading(empty)
    assert audit_several.summary(empty) == {}
    assert len(figures.several_figure(empty).axes) == 1
