"""The audit's numbers of their own kind, and the frontier and goals, each once more in plain loops."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from pmtlib import datasets, metrics, zoo
from pmtlib.attacks.adaptive.stitch import HeadConfig, StitchedNetwork, train_head
from pmtlib.attacks.adaptive.translate import TranslatorConfig, train_translator
from pmtlib.attacks.reconstruction import RecFaceConfig, split_people, training_people
from pmtlib.errors import AssetError, DatasetError
from pmtlib.experiments import audit, audit_again, audit_beyond, audit_frontier, audit_nobody, common
from pmtlib.experiments import audit_numbers as numbers
from pmtlib.experiments.common import Outcome
from pmtlib.experiments.trade_off import identities
from pmtlib.experiments.variants import Photographs
from pmtlib.figures import audit as figures
from pmtlib.images import to_uint8
from pmtlib.shallow import ShallowModel
from pmtlib.transform import PMTConfig, protect
from pmtlib.variants.deep import DeepConfig
from pmtlib.variants.projected import ProjectedConfig
from tests import photographs
from tests.crowd import gathered, smooth
from tests.oracles import network_or_skip
from tests.test_experiments_audit import IMAGES, NOTHING, SETTINGS, attacked, outcome


def block(variant: str = "pmt", raised: float = 0.0, **beyond: dict[str, Any]) -> audit.AuditBlock:
    """A block whose uploads are recognised the more the higher they are raised; its numbers measure nothing."""
    filters = attacked({"upload": raised, "gaussian": raised + 0.2, "photograph": 0.8})
    learners = attacked({"de-obfuscator": raised + 0.3, "RecFace": raised + 0.25, "photograph, RecFace": 0.4})
    steps = attacked({"K = 7, upload": raised - 0.2, "K = 7, gaussian": raised, "K = 7, RecFace": raised + 0.1})
    parts = {name: outcome(name, values) for name, values in beyond.items()}
    return audit.AuditBlock("lfw", variant, {"purification": filters, "learning": learners}, steps, parts)


STEPS = {"pmt": 25, "deep": 40}


def cells(text: str, name: str) -> dict[str, str]:
    """The cells of the one row of a Markdown table in a text that begins with ``name``, by their columns' headings."""
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:1] == "|"]
    (place,) = (place for place, line in enumerate(lines) if line[0] == name)
    head = max(at for at in range(place) if set(lines[at + 1]) == {"---"})
    return dict(zip(lines[head][1:], lines[place][1:], strict=True))


def goals(blocks: list[audit.AuditBlock]) -> Any:
    return numbers.goals(numbers.table(blocks, SETTINGS), numbers.frontier(blocks, SETTINGS, STEPS))


def test_the_frontier_has_the_best_attacker_of_each_number_of_steps() -> None:
    one = block()
    points = numbers.frontier([one], SETTINGS, {"pmt": 25}).set_index("steps")
    assert list(points.index) == [7, 25]
    table = numbers.table([one], SETTINGS).set_index("attack")
    own = table[~table.index.str.startswith("photograph")]
    assert points.loc[25, "others"] == max(own["others"])
    assert points.loc[25, "attack"] == own["others"].idxmax()
    assert points.loc[25, "ssim"] == max(own["ssim"])
    assert points.loc[25, "service"] == table.loc["upload", "service"]
    assert points.loc[25, "bound"] == table.loc["photograph, RecFace", "others"]
    assert points.loc[25, "clean"] == table.loc["photograph", "service"]
    # At other numbers of steps only what was made of those uploads counts.
    values = one.steps.result.values
    renamed = {name.removeprefix("K = 7, "): entry for name, entry in values["attacks"].items()}
    other = dataclasses.replace(one, attacks={"purification": outcome("steps", {**values, "attacks": renamed})})
    rows = numbers.table([other], SETTINGS).set_index("attack")
    assert points.loc[7, "others"] == points.loc[7, "restored"] == max(rows["others"])
    assert points.loc[7, "service"] == rows.loc["upload", "service"]
    assert len(figures.frontier_figure(points.reset_index()).axes) == 3


def test_the_bound_is_that_of_the_better_recface_trained_on_photographs() -> None:
    one = block()
    for raised in (0.3, 0.9):
        made = attacked({"RecFace for identity of photographs": 0.2, "photograph, RecFace for identity": raised})
        both = dataclasses.replace(one, attacks={**one.attacks, "learning of photographs": made})
        points = numbers.frontier([both], SETTINGS, {"pmt": 25}).set_index("steps")
        table = numbers.table([both], SETTINGS).set_index("attack")
        controls = table.loc[["photograph, RecFace", "photograph, RecFace for identity"]]
        assert points.loc[25, "bound"] == max(controls["others"])
        assert points.loc[25, "bound_ssim"] == max(controls["ssim"])
        assert table.loc["RecFace for identity of photographs", "kind"] == "learning"
        # A control is no attack.
        assert not points["attack"].str.startswith("photograph").any()


def test_a_recface_for_identity_meets_photographs_as_a_control(monkeypatch: pytest.MonkeyPatch) -> None:
    update = {"datasets": ("samples",), "pair_people": 3, "identity_variants": ("pmt",)}
    bench = audit.Audit(SETTINGS.model_copy(update=update), torch.device("cpu"))
    originals, uploads = smooth(2, seed=1), smooth(2, seed=2)
    asked: list[dict[str, bool]] = []

    def inverter(_: str, **how: bool) -> str:
        asked.append(how)
        return "trained"

    monkeypatch.setattr(bench, "inverter", inverter)
    monkeypatch.setattr(bench, "shared", lambda _: "shared")
    monkeypatch.setattr(bench, "uploads", lambda *_: uploads)
    monkeypatch.setattr(bench, "features", lambda shared, images: (shared, images))
    monkeypatch.setattr(bench, "through", lambda model, given: (model, *given))
    monkeypatch.setattr(bench, "_judged", lambda _, made: made)
    kept: dict[str, Any] = {}

    def attack(_: str, __: str, name: str, parameters: dict[str, Any], compute: Callable[..., Any]) -> Outcome:
        kept.update(compute(SimpleNamespace(originals=originals)), name=name, parameters=parameters)
        return Outcome(None, "")

    monkeypatch.setattr(bench, "_attack", attack)
    bench.learned_identity("samples", "pmt")
    assert asked == [{"clean": True, "identity": True}]
    for name, seen in (
        ("RecFace for identity of photographs", uploads),
        ("photograph, RecFace for identity", originals),
    ):
        assert kept[name][:2] == ("trained", "shared")
        assert kept[name][2] is seen
    # It hangs on whom it learned from and how, not on uploads of other people.
    assert set(kept["parameters"]) == {"pair_people", "held_people", "people_seed", "identity"}


def translation(raised: float) -> Outcome:
    """A translation of uploads, of photographs and of uploads of 7 steps; without the service, and with no image."""
    made = attacked({"translation of features": raised, "K = 7, translation of features": raised - 0.1,
                     "photograph, translation of features": raised + 0.1})  # fmt: skip
    for entry in made.result.values["attacks"].values():
        del entry["ssim"], entry["lpips"], entry["networks"]["mobilefacenet"]
    made.result.values["people"] = {"name": "others", "identities": 4, "images": 9, "left_out": 1}
    return made


def test_a_translation_competes_by_rates_and_has_no_likeness() -> None:
    without = block()
    one = dataclasses.replace(without, attacks={**without.attacks, "translation": translation(0.7)})
    frame = numbers.table([one], SETTINGS)
    rows = frame.set_index("attack")
    assert "K = 7, translation of features" not in rows.index
    line = rows.loc["translation of features"]
    assert np.isnan(line["ssim"])
    assert np.isnan(line["service"])
    strongest = numbers.best(frame).iloc[0]
    assert strongest["attack"] == "translation of features"
    assert numbers.best(frame, "ssim").iloc[0]["attack"] != "translation of features"
    before = numbers.frontier([without], SETTINGS, {"pmt": 25}).set_index("steps")
    points = numbers.frontier([one], SETTINGS, {"pmt": 25}).set_index("steps")
    for steps in (7, 25):
        assert points.loc[steps, "attack"] == "translation of features"
        assert points.loc[steps, "others"] > points.loc[steps, "restored"] == before.loc[steps, "others"]
        assert points.loc[steps, "ssim"] == before.loc[steps, "ssim"]
    assert points.loc[25, "others"] == line["others"]
    bounds = [rows.loc[f"photograph, {name}", "others"] for name in ("translation of features", "RecFace")]
    assert points.loc[25, "bound_best"] == max(bounds)
    assert "nan" not in figures.audit_table(frame, "lfw", "pmt", SETTINGS).to_html()
    rate = f"{100 * line['others']:.0f}% [{100 * line['others_low']:.0f}, {100 * line['others_high']:.0f}]"
    assert f"| others, by translation | {rate} |" in numbers.reading(frame)
    told = numbers.translation([one])
    assert set(told["condition"]) == {"upload", "upload, K = 7", "photograph"}
    assert set(told["network"]) == {"sface", "dlib-resnet29"}
    upload = told[told["condition"] == "upload"]
    assert upload["accuracy"].mean() == pytest.approx(line["others"])
    assert upload["false"].mean() == pytest.approx(line["false"])
    assert "9 of 4 people" in figures.translation_table(told).to_html()
    assert not len(numbers.translation([without]))
    assert numbers.summary(frame)["pmt_translated_others"] == pytest.approx(100 * line["others"], abs=1e-3)


def test_translation_counts_in_the_third_goal_and_in_the_advice() -> None:
    blocks = [block(), block("deep", raised=-0.4)]
    before = goals(blocks)
    assert "all" not in set(before["against"])
    translated = [dataclasses.replace(one, attacks={**one.attacks, "translation": translation(0.7)}) for one in blocks]
    after = goals(translated)
    kept = after[after["against"] != "all"].reset_index(drop=True)
    assert kept.equals(before)
    rates = numbers.table(translated, SETTINGS).set_index(["variant", "attack"])["others"]
    line = after[after["own"] & (after["against"] == "all")].iloc[0]
    assert line["attack"] == "translation of features"
    published = max(rates["pmt"][[name for name in rates["pmt"].index if not name.startswith("photograph")]])
    assert line["others"] == pytest.approx(rates["deep", "translation of features"] / published)
    assert not line["reached"]
    points = numbers.frontier(translated, SETTINGS, STEPS)
    later = after[~after["own"] & (after["against"] == "all")].iloc[0]
    assert later["others_value"] == points.set_index(["variant", "steps"]).loc[("deep", 7), "translated"]
    text = numbers.advice(after, points)
    told = cells(text, "others, by the best attack")["*deep* (K = 40), LFW"]
    assert told == f"{100 * rates['deep', 'translation of features']:.0f}% (translation of features)"
    own = points.set_index(["variant", "steps"])
    served = cells(text, "the service, uploads as they are")
    assert served == {
        f"*{name}* (K = {steps}), LFW": f"{100 * own.loc[(name, steps), 'service']:.0f}%"
        for name, steps in STEPS.items()
    }
    assert "; nor against every attack, translation included." in text
    assert "every attack,<br>translation included" in figures.goals_table(after).to_html()
    # The mean of several uploads, translated, is such an attack too.
    means = translation(0.9)
    assert means.result is not None
    entries = means.result.values["attacks"]
    means.result.values["attacks"] = {"8 copies, translation of features": entries["translation of features"]}
    several = [dataclasses.replace(one, attacks={**one.attacks, "translated averages": means}) for one in translated]
    frame, most = numbers.table(several, SETTINGS), goals(several)
    averaged = frame[(frame["variant"] == "deep") & (frame["kind"] == "translated averages")]["others"].iloc[0]
    assert averaged > line["others_value"]
    assert most[most["own"] & (most["against"] == "all")]["others_value"].iloc[0] == averaged
    assert most[most["against"] != "all"].reset_index(drop=True).equals(before)
    told = f"{100 * averaged:.0f}% (8 copies, translation of features)"
    assert cells(numbers.advice(most, points, frame), "others, by the best attack")["*deep* (K = 40), LFW"] == told
    assert told not in numbers.advice(most, points)


@pytest.mark.parametrize(("share", "said"), [(0.8, "Rely on none of these filters"), (0.5, "attack gives other")])
def test_the_advice_says_nearly_only_where_it_is_so(share: float, said: str) -> None:
    points = numbers.frontier([block()], SETTINGS, {"pmt": 25})
    assert "Translation was not measured" in numbers.advice(goals([block(), block("deep")]), points)
    points["others"] = points["translated"] = share * points["service"]
    assert said in numbers.advice(goals([block(), block("deep")]), points)


def test_the_frontiers_summary_has_the_means_over_the_sets() -> None:
    blocks = [block(), dataclasses.replace(block(raised=0.1), dataset="cfp_ff")]
    points = numbers.frontier(blocks, SETTINGS, STEPS)
    found = numbers.frontier_summary(points)
    at_7 = points[points["steps"] == 7]
    assert len(at_7) == 2
    assert found["pmt_k7_others"] == pytest.approx(100 * sum(at_7["others"]) / 2, abs=1e-3)
    assert found["pmt_k7_service"] == pytest.approx(100 * sum(at_7["service"]) / 2, abs=1e-3)
    assert found["pmt_k25_ssim"] == pytest.approx(points[points["own"]]["ssim"].mean(), abs=1e-4)
    assert not any(name.endswith("_translated") for name in found)
    assert numbers.frontier_summary(points.assign(translated=0.5))["pmt_k7_translated"] == 50.0


def test_uploads_that_were_not_measured_have_no_point() -> None:
    empty = audit.AuditBlock("lfw", "pmt", {"purification": NOTHING, "learning": NOTHING}, NOTHING, {})
    assert not len(numbers.frontier([empty], SETTINGS, {"pmt": 25}))
    assert not len(goals([empty]))
    assert "nothing to advise" in numbers.advice(goals([empty]), numbers.frontier([empty], SETTINGS, {"pmt": 25}))


def test_a_goal_is_reached_by_shares_of_what_the_published_transform_leaves() -> None:
    blocks = [block(), block("deep", raised=-0.4)]
    frame = numbers.table(blocks, SETTINGS)
    every = goals(blocks)
    assert set(every["variant"]) == {"deep"}
    found = every[every["own"]].set_index("against")
    assert set(found["steps"]) == {40}
    other = every[~every["own"]].iloc[0]
    assert (len(every), other["steps"], other["against"]) == (3, 7, "restored")
    points = numbers.frontier(blocks, SETTINGS, STEPS).set_index(["variant", "steps"])
    assert other["others"] == pytest.approx(points.loc[("deep", 7), "others"] / points.loc[("pmt", 25), "others"])
    assert other["ssim"] == pytest.approx(points.loc[("deep", 7), "ssim"] / points.loc[("pmt", 25), "ssim"])
    for against, kinds in (("filters", ["purification"]), ("restored", ["purification", "learning"])):
        highest = {}
        for variant in ("pmt", "deep"):
            lines = [
                line
                for line in frame.to_dict("records")
                if line["variant"] == variant and line["kind"] in kinds and not line["attack"].startswith("photograph")
            ]
            highest[variant] = max(line["others"] for line in lines)
        assert found.loc[against, "others"] == pytest.approx(highest["deep"] / highest["pmt"])
        _, least, most_others, most_ssim = numbers.GOALS[against]
        line = found.loc[against]
        reached = line["service"] >= least and line["others"] <= most_others and line["ssim"] <= most_ssim
        assert line["reached"] == reached
    html = figures.goals_table(every).to_html()
    assert "not reached" in html
    assert "7 (frontier)" in html


def test_the_advice_follows_the_goals() -> None:
    blocks = [block(), block("deep")]
    frame, points = goals(blocks), numbers.frontier(blocks, SETTINGS, STEPS)
    chosen = "*deep* at K = 40 (the K that was chosen beforehand) does not reach its goal"
    assert chosen in numbers.advice(frame, points)
    assert "K = 7 (" not in numbers.advice(frame, points)
    frame["reached"] = True
    seen = (
        "- *deep* at K = 7 (a K of the frontier, seen after; the tests on other people stand further below) reaches "
        "its goal on every set against filters, and a de-obfuscator and RecFace trained afresh."
    )
    assert seen in numbers.advice(frame, points).splitlines()
    # A variant's own number is told with every goal: those that it reaches, and those that it does not.
    frame["reached"] = frame["against"] == "filters"
    reached, missed = (line for line in numbers.advice(frame, points).splitlines() if "at K = 40 (" in line)
    assert reached.endswith(" reaches its goal on every set against filters, averages and contrast, without learning.")
    assert missed.endswith(
        " does not reach its goal on every set against filters, and a de-obfuscator and RecFace trained afresh."
    )
    # What the words leave out stands in the table beside them.
    html = figures.goals_table(goals(blocks)).to_html()
    for line in goals(blocks).to_dict("records"):
        rates = [f"{100 * line[name]:.1f}" for name in ("others_value", "others_low", "others_high")]
        assert f"{rates[0]}<br>[{rates[1]}, {rates[2]}]" in html
        assert f"{100 * line['service']:.0f}% (" in html
        assert f"over {line['n']} pairs of one person" in html


def test_the_advice_says_what_copies_and_compression_do() -> None:
    one = block()
    values = one.attacks["purification"].result.values
    pairs = {name: values[name] for name in ("same", "photograph")}
    copies = outcome("copies", attacked({"2 copies": 0.6, "8 copies": 0.9}).result.values | pairs)
    frame = numbers.table([dataclasses.replace(one, attacks={**one.attacks, "averaging of all": copies})], SETTINGS)
    rates = frame.set_index("attack")["others"]
    received = {
        "same": [1, 1, 0], "photograph": [0, 1, 2], "threshold": {"far_1e2": 0.5},
        "received": {
            "photograph": {"detected": [1, 1, 1], "cosines": {"as it is": [0.9] * 3, "aligned again": [0.9] * 3}},
            "upload": {
                "detected": [0, 0, 0],
                "cosines": {"as it is": [0.9] * 3, "JPEG 90": [0.9, 0.1, 0.1], "aligned again": [0.9] * 3},
            },
        },
    }  # fmt: skip
    seen = numbers.service([block(service=received)])
    goal, points = goals([block(), block("deep")]), numbers.frontier([block(), block("deep")], SETTINGS, STEPS)
    words = numbers.advice(goal, points, frame, seen)
    assert "- Upload a photograph once" in words
    column = "*pmt* (K = 25), LFW"
    assert cells(words, "others, mean of several, no filter") == {column: f"{100 * rates['8 copies']:.0f}% (8 copies)"}
    assert cells(words, "others, one upload, no filter") == {column: f"{100 * rates['upload']:.0f}%"}
    assert cells(words, "the service, uploads as they are") == {column: "100%"}
    worst = cells(words, "the service, at the JPEG quality at which it recognises fewest")
    assert worst == {column: "50% (JPEG 90)"}
    assert "finds a face in 0% of uploads" in words
    # Of who was not measured that is said.
    both = points.assign(translated=points["others"])
    told = cells(numbers.advice(goal, both, frame, seen), "others, one upload, no filter")
    assert told == {column: f"{100 * rates['upload']:.0f}%", "*deep* (K = 40), LFW": "not measured"}
    assert "Upload a photograph once" not in numbers.advice(goal, points)


def test_what_was_measured_twice_is_told_with_both_rates() -> None:
    frame = pd.DataFrame([{"dataset": "lfw", "setting": "deep, 7x7", "steps": 40, "service": 0.85, "translated": 0.79}])
    audited = pd.DataFrame(
        [{"dataset": "lfw", "variant": "deep", "steps": 40, "service": 0.87, "translated": 0.75}] * 1
        + [{"dataset": "lfw", "variant": "deep", "steps": 80, "service": 1.0, "translated": 0.9}]
    )
    words = audit_frontier.repeated(frame, audited, "7x7")
    assert "| LFW | 40 | 87% | 85% | 75% | 79% |" in words
    assert "| set | K | the service, there | here | others, translated, there | here |" in words
    assert "rates by up to 4.0 points" in words
    assert "| 80 |" not in words
    assert (
        audit_frontier.repeated(frame, audited, "14x14") == audit_frontier.repeated(frame.head(0), audited, "7x7") == ""
    )


def test_an_attack_on_fewer_pairs_says_on_how_many() -> None:
    one = block()
    few = attacked({"2 copies": 0.4})
    keep = 12
    values = few.result.values
    values["same"], values["photograph"] = values["same"][:keep], values["photograph"][:keep]
    for network in values["attacks"]["2 copies"]["networks"].values():
        network["own"], network["other"] = network["own"][:keep], network["other"][:keep]
    text = numbers.reading(
        numbers.table([dataclasses.replace(one, attacks={**one.attacks, "inversion": few})], SETTINGS)
    )
    assert f"(n = {sum(values['same'])})" in text
    assert "(n = " not in numbers.reading(numbers.table([one], SETTINGS))


def test_portraits_do_without_networks_whose_weights_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    photographs.ready()
    network_or_skip("sface")
    settings = audit.AuditSettings(
        datasets=("samples",), networks=("mobilefacenet", "mobilefacenet-casia", "sface"), pairs=4, copies=(1,),
        strengths={"gaussian": 1.5}, pmt=PMTConfig(steps=1), pair_people=0,
    )  # fmt: skip
    load = zoo.load

    def some(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "mobilefacenet-casia":
            raise AssetError("cannot get it")
        return load(name, *arguments, **options)

    monkeypatch.setattr(zoo, "load", some)
    bench = audit.Audit(settings, torch.device("cpu"))
    (portrait,) = bench.portraits(1, {"pmt": NOTHING})
    assert bench.skipped == {"mobilefacenet-casia": "cannot get it"}
    sface = bench.network("sface")
    images = [audit.to_tensor([portrait.images[name]]) for name in ("pmt", "photograph")]
    cosine = torch.cosine_similarity(*(sface(image) for image in images)).item()
    assert portrait.below["pmt"].endswith(f"cosine {cosine:.2f}")


def test_a_share_of_nothing() -> None:
    assert numbers.share_of(0.0, 0.0) == 0
    assert numbers.share_of(0.1, 0.0) == float("inf")
    assert numbers.share_of(0.1, 0.4) == pytest.approx(0.25)


def test_a_few_pairs_are_balanced_and_keep_their_photographs() -> None:
    draw = np.random.default_rng(0)
    originals = torch.arange(20.0).view(20, 1, 1, 1).expand(20, 3, 2, 2)
    place, same = draw.integers(0, 20, 30), np.arange(30) % 3 == 0
    others = torch.arange(100.0, 130.0).view(30, 1, 1, 1).expand(30, 3, 2, 2)
    few = audit.some(Photographs(originals, place, others, same), 8)
    assert (few.same.sum(), len(few.same)) == (4, 8)
    assert len(few.originals) == len(set(few.place))
    for row in range(8):
        old = int(few.others[row, 0, 0, 0]) - 100
        assert few.same[row] == same[old]
        assert few.originals[few.place[row], 0, 0, 0] == place[old]


def test_pairs_of_one_person_alone() -> None:
    same = np.arange(6) % 2 == 0
    place = np.array([3, 0, 3, 1, 2, 4])
    originals = torch.arange(5.0).view(5, 1, 1, 1)
    alone = audit.some(Photographs(originals, place, torch.arange(6.0).view(6, 1, 1, 1), same), 9, strangers=False)
    assert alone.same.tolist() == [True] * 3
    assert alone.others.flatten().tolist() == [0, 2, 4]
    assert alone.originals[alone.place].flatten().tolist() == [3, 3, 2]
    few = Photographs(originals, place, torch.arange(6.0).view(6, 1, 1, 1), same)
    first = audit.some(few, 1, strangers=False)
    assert (first.originals.flatten().tolist(), first.place.tolist()) == ([3], [0])
    values = attacked({"inversion with priors": 0.9}).result.values
    one = outcome("alone", values | {"same": [1] * len(values["same"])})
    frame = numbers.table([dataclasses.replace(block(), attacks={**block().attacks, "inversion": one})], SETTINGS)
    line = frame.set_index("attack")["false"]
    assert np.isnan(line["inversion with priors"])
    assert not np.isnan(line["upload"])
    assert figures.audit_table(frame, "lfw", "pmt", SETTINGS).data.set_index("attack")["false %"].tolist()[-1] == ""


def test_the_inversion_meets_pairs_of_one_person_and_their_photographs(monkeypatch: pytest.MonkeyPatch) -> None:
    photographs.ready()
    settings = audit.AuditSettings(
        datasets=("samples",), networks=("mobilefacenet",), pairs=6, pmt=PMTConfig(steps=1), inversion_pairs=1,
        inversion_steps=1, prior_steps=1,
    )  # fmt: skip
    monkeypatch.setattr(audit, "first_pictures", lambda *_: gathered(smooth(2), 2))
    monkeypatch.setattr(audit, "far_thresholds", lambda *_: None)
    bench = audit.Audit(settings, torch.device("cpu"))
    result = bench.inverted("samples", "pmt").result
    assert result is not None
    assert result.request.parameters["few"] == 1
    assert result.request.parameters["strangers"] is False
    assert result.values["same"] == [1]
    assert list(result.values["attacks"]) == [audit.INVERSION, f"photograph, {audit.INVERSION}"]
    for entry in result.values["attacks"].values():
        assert len(entry["ssim"]) == len(entry["lpips"]) == 1


def test_linkage_and_its_table() -> None:
    draw = np.random.default_rng(1)
    probes, gallery = draw.normal(size=(6, 4)), draw.normal(size=(7, 4))
    gallery[:6] = probes + 0.05 * draw.normal(size=(6, 4))
    who = list("abcdef")
    photographs = Photographs(
        torch.zeros(6, 3, 1, 1), np.arange(6), torch.zeros(6, 3, 1, 1), np.array([True] * 5 + [False])
    )
    empty = torch.zeros(0)
    parties = audit_beyond._Parties(photographs, *[empty] * 4, np.arange(6), who, [*who, "g"])
    entry = parties.linkage(probes, gallery, draw.normal(size=(9, 4)))
    assert entry["ranks"]["1"] == [1] * 5
    assert entry["low"] <= entry["d_sys"] <= entry["high"]
    assert entry["d_sys"] > entry["chance"]
    values = {
        "networks": {"sface": {"upload": {"photographs": entry, "uploads": entry}}},
        "probes": 5,
        "distractors": 9,
    }
    frame = numbers.linkage([block(linkage=values)])
    assert list(frame["distractors"]) == [9, 0]
    assert set(frame["rank1"]) == {1.0}
    assert f"{entry['d_sys']:.2f}" in figures.linkage_table(frame).to_html()
    # After filters: one row a filter with both galleries; what stands in the table above is not told twice.
    entries = dict.fromkeys(("photograph", "upload", "gaussian", "jpeg"), values["networks"]["sface"]["upload"])
    after = outcome("linkage-after-filters", {**values, "networks": {"sface": entries}})
    one = dataclasses.replace(block(), beyond={"linkage after filters": after})
    filtered = numbers.linkage([one], "linkage after filters")
    assert len(numbers.linkage([one])) == 0
    table = figures.filtered_linkage_table(filtered).data
    assert list(table["filter"]) == ["gaussian", "jpeg"]
    for gallery in ("photographs", "uploads"):
        assert list(table[f"{gallery}: D_sys, mean"]) == [f"{entry['d_sys']:.2f}"] * 2
        assert list(table[f"{gallery}: rank 1 %"]) == ["100.0"] * 2
    assert figures.filtered_linkage_table(filtered.head(0)) is not None
    # What chance gives stands beside intervals that lie too high, in this table's caption.
    shown = filtered[~filtered["condition"].isin([audit.PHOTOGRAPH, audit.UPLOAD])]["chance"]
    said = figures.filtered_linkage_table(filtered).to_html()
    assert "near 0 lies too high. By chance " + f"{shown.min():.2f} to {shown.max():.2f}." in said


def test_translations_are_linked_with_what_the_network_itself_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture's pixels are its embedding; a translation swaps two of them, so that only like is found among like."""
    draw = torch.Generator().manual_seed(0)
    first = torch.randn(6, 4, generator=draw)
    who = list("abcdef")
    photographs = Photographs(first, np.arange(6), first, np.ones(6, dtype=bool))
    crowd = torch.randn(30, 4, generator=draw)
    parties = audit_beyond._Parties(photographs, first, first, first, crowd, np.arange(6), who, who)
    swap = torch.tensor([3, 2, 1, 0])
    monkeypatch.setattr(audit_beyond._Parties, "of", lambda *_: parties)
    monkeypatch.setattr(audit_beyond, "learned_from", lambda *_: (None, {"identities": 9}))
    monkeypatch.setattr(audit_beyond, "translator", lambda *_: (SimpleNamespace(sizes={"sface": 4}), {}))
    monkeypatch.setattr(audit_beyond, "translations", lambda _, images: {"sface": images[:, swap].double().numpy()})
    monkeypatch.setattr(audit_beyond, "_obtain", lambda *given: (given[3], given[5](None)))
    bench = SimpleNamespace(
        settings=SimpleNamespace(distractors=30, translator=TranslatorConfig()), shared=lambda _: None,
        embed=lambda _, images: images.double().numpy(),
    )  # fmt: skip
    name, found = audit_beyond.linked_by_translation(bench, "lfw", "deep")  # type: ignore[arg-type]
    assert name == "linkage-by-translation"
    assert (found["probes"], found["distractors"]) == (6, 30)
    control, translated = found["networks"]["sface"].values()
    assert list(control) == ["photographs"]
    assert translated["photographs"] == control["photographs"]
    assert np.mean(translated["photographs"]["ranks"]["1"]) < 0.5
    assert translated["uploads"]["ranks"]["1"] == [1] * 6
    both = dataclasses.replace(
        block(), beyond=dict.fromkeys(("linkage", "linkage by translation"), outcome("linkage", found))
    )
    assert len(numbers.linkage([both])) == 3
    assert len(numbers.linkage([both], "linkage", "linkage by translation")) == 6
    words = numbers.linkage_reading(numbers.linkage([both], "linkage by translation"))
    assert "against photographs, 30 strangers among them: by translation of features D_sys" in words
    assert numbers.linkage_reading(numbers.linkage([])) == ""
    headline = numbers.linkage_summary(numbers.linkage([both], "linkage by translation"))
    rank1 = 100 * np.mean(translated["photographs"]["ranks"]["1"])
    assert headline == {
        "pmt_linked_translated_d_sys": pytest.approx(translated["photographs"]["d_sys"]),
        "pmt_linked_translated_rank1": pytest.approx(rank1),
    }
    assert numbers.linkage_summary(numbers.linkage([])) == {}


def test_a_decoy_that_is_somebody_is_told() -> None:
    """One network takes every decoy for one of ten who are enrolled; what is a person's own upload does not count."""
    draw = np.random.default_rng(0)
    enrolled = np.linalg.qr(draw.normal(size=(10, 10)))[0]
    own = np.eye(4, 10, dtype=bool)
    at = {"far_1e2": 0.5}
    mine = audit_nobody._compared(enrolled[:4], enrolled, own, at)
    assert (mine["accepted"], mine["compared"]) == ([0] * 4, [9] * 4)
    assert mine["nearest"] == pytest.approx([0.0] * 4, abs=1e-4)
    theirs = audit_nobody._compared(enrolled[:4], enrolled, None, at)
    assert (theirs["accepted"], theirs["compared"]) == ([1] * 4, [10] * 4)
    kinds = (audit_nobody.DECOY, audit_nobody.UPLOAD, audit_nobody.ABSENT)
    values = {
        "networks": {
            "sface": dict.fromkeys(kinds, mine),
            "dlib-resnet29": {**dict.fromkeys(kinds, mine), kinds[0]: theirs},
        },
        "enrolled": 10,
        "images": 4,
    }
    frame = audit_nobody.rates(outcome("decoys", values))
    words = audit_nobody.reading(frame)
    assert cells(words, "decoys") == {
        "mean": "5.00%",
        "highest": "10.00% [10.00, 10.00], dlib-resnet29",
        "more often than the strangers": "dlib-resnet29 (10.00% to 0.00%)",
    }
    assert cells(words, "photographs of strangers, of CFP-FF")["mean"] == "0.00%"
    assert cells(words, "uploads with a decoy")["more often than the strangers"] == "none"
    assert "strangers, decoys are taken for somebody by dlib-resnet29, uploads with a decoy by none. 4 of" in words
    assert "10 enrolled" in words
    harmless = audit_nobody.reading(frame[frame["network"] == "sface"])
    assert "strangers, decoys are taken for somebody by none, uploads with a decoy by none." in harmless
    assert "not measured" in audit_nobody.reading(audit_nobody.rates(NOTHING))


def test_whom_stored_decoys_are_taken_for_is_what_the_book_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("PMT_DATA", "PMT_PROFILE", "PMT_RESULTS"):
        monkeypatch.delenv(variable, raising=False)
    settings = audit.audit_settings("paper")
    stored = audit_nobody.measured(audit.Audit(settings, torch.device("cpu")))
    more = audit_nobody.more_than_strangers(audit_nobody.rates(stored))
    assert more == {
        audit_nobody.DECOY: ["dlib-resnet29"],
        audit_nobody.UPLOAD: [settings.authorised, "dlib-resnet29"],
    }
    page = " ".join((Path(__file__).resolve().parent.parent / "book" / "findings.md").read_text("utf-8").split())
    assert (
        "dlib's network takes them for people of a gallery more often than it does strangers (of CFP-FF), and of "
        "uploads with a decoy so do it and the MobileFaceNet for which they are made" in page
    )


def test_who_of_the_evaluated_people_the_learners_saw_is_what_the_book_says() -> None:
    if not (datasets.available("lfw") and datasets.available("cfp_ff")):
        pytest.skip("LFW or CFP-FF is not in PMT_DATA")
    settings = audit.audit_settings("paper")
    try:
        learned = common.first_pictures(480 + 32, settings.tuning_seed)
        everybody = datasets.load_people(common.PEOPLE, identities=common.PEOPLE_LIST)
    except DatasetError as error:
        pytest.skip(str(error))
    assert (settings.pair_people, settings.held_people) == (480, 32)
    rebuilt = everybody.subset(split_people(everybody, RecFaceConfig()).training)
    seen = [set(datasets.comparable_names(common.PEOPLE, people.names)) for people in (rebuilt, learned)]
    bench = audit.Audit(settings, torch.device("cpu"))
    others = audit_again._others(bench, settings.again_seed)
    found = {}
    for name in ("lfw", "cfp_ff"):
        for kind, sample in (("pairs", bench.sample(name)), ("again", others.sample(name))):
            assert isinstance(sample, datasets.PairSet)
            who = identities(sample)
            asked = set(datasets.comparable_names(name, sorted({who[int(index)] for index in np.unique(sample.pairs)})))
            found[name, kind] = (len(asked), *(len(asked & one) for one in seen))
    assert found["lfw", "pairs"][1:] == found["lfw", "again"][1:] == (0, 0)
    assert found["cfp_ff", "pairs"] == (139, 4, 1)
    assert found["cfp_ff", "again"][::2] == (132, 2)


def again(service: float, others: float, ssim: float) -> Outcome:
    """A test on four pairs, two of one person: the cosines are those of every pair, the rates follow from 0.5."""

    def entry(own: float, theirs: float, alike: float) -> dict[str, Any]:
        networks = {
            "mobilefacenet": [own] * 2 + [0.0] * 2,
            "sface": [theirs, 0.0, 1.0, 1.0],
            "dlib-resnet29": [theirs] * 4,
        }
        return {"networks": networks, "ssim": [alike, alike]}

    found = outcome(
        "again",
        {
            "same": [1, 1, 0, 0],
            "thresholds": {"mobilefacenet": {"far_1e2": 0.5}, "sface": {"far_1e2": 0.5}, "dlib-resnet29": None},
            "attacks": {
                "pmt": {"upload": entry(1.0, 0.2, 0.2), "gaussian": entry(0.0, 0.9, 0.6)},
                "deep": {"upload": entry(service, 0.0, 0.01), "RecFace": entry(0.0, others, ssim)},
                "photograph": {"photograph": entry(1.0, 1.0, 1.0)},
            },
        },
    )
    return made_of(found)


def made_of(found: Outcome) -> Outcome:
    """The same, told by what variants after how many steps it is."""
    assert found.result is not None
    made = {"pmt": [5, {"steps": 25}], "deep": ["7x7", {"steps": 80}]}
    request = dataclasses.replace(found.result.request, parameters={"made": made})
    return dataclasses.replace(found, result=dataclasses.replace(found.result, request=request))


@pytest.mark.parametrize(
    ("service", "others", "ssim", "reached"),
    [
        (0.9, 0.1, 0.39, True),
        # The service sees nobody; half of the pairs are as many as are left of the published transform; 0.41 > 0.4.
        (0.1, 0.1, 0.39, False),
        (0.9, 0.9, 0.39, False),
        (0.9, 0.1, 0.41, False),
    ],
)
def test_a_goal_is_held_against_what_filters_get_from_the_published_transform(
    service: float, others: float, ssim: float, reached: bool
) -> None:
    frame = audit_again.table({"lfw": again(service, others, ssim)}, SETTINGS)
    lines = frame.set_index(["variant", "attack"])
    # Of two networks one has a threshold, and it accepts the first of the two pairs of one person.
    assert lines.loc[("pmt", "gaussian"), "others"] == 0.5
    assert lines.loc[("deep", "upload"), "service"] == float(service > 0.5)
    assert lines.loc[("deep", "RecFace"), "others"] == 0.5 * (others > 0.5)
    assert set(frame["n"]) == {2}
    judged = audit_again.verdicts(frame)
    assert judged["reached"].tolist() == [reached]
    words = audit_again.reading(judged)
    assert "K = 80" in words
    # Two pairs leave an interval that no limit is clear of.
    assert ("trained afresh: **reached**, narrowly, on LFW." in words) is reached
    assert ("trained afresh: **not reached** on LFW." in words) is not reached
    verdict = "**reached**, narrowly: an interval reaches beyond its limit" if reached else "**not reached**"
    assert cells(words, "the goal") == {"limit": "", "LFW (n = 2)": verdict}
    line = judged.iloc[0]
    told = f"{100 * line['service']:.0f}% [{100 * line['service_low']:.0f}, {100 * line['service_high']:.0f}]"
    assert cells(words, "the service")["LFW (n = 2)"] == f"{told} (of photographs 100%)"
    told = f"{100 * line['others']:.0f}% [{100 * line['others_low']:.0f}, {100 * line['others_high']:.0f}]"
    assert cells(words, "others, by the best attack")["LFW (n = 2)"] == f"{told} by {line['attack']} (of *pmt* 50%)"
    assert cells(words, "others, by the best attack")["limit"] == "at most 50% of what *pmt* leaves"
    assert cells(words, "highest SSIM") == {
        "limit": "at most 67% of what *pmt* leaves",
        "LFW (n = 2)": f"{ssim:.2f} (of *pmt* 0.60)",
    }
    assert not judged["surely"].any()
    assert audit_again.summary(judged)["again_reached"] == int(reached)
    # Without learning half of the pairs are too many.
    without = audit_again.verdicts(frame, audit_again.FILTERS)
    assert without["reached"].tolist() == [False]
    words = audit_again.reading(without, audit_again.FILTERS)
    assert "without learning: **not reached** on LFW." in words
    assert cells(words, "the service")["limit"] == "at least 95% of photographs"
    assert audit_again.summary(without, audit_again.FILTERS)["again_filters_reached"] == 0
    assert "80" in figures.again_table(frame).to_html()


def eight_people() -> audit.datasets.PairSet:
    """Two pictures of each; eight pairs of one person and four of two."""
    names = tuple(f"person {number // 2}" for number in range(16))
    pairs = [(2 * one, 2 * one + 1) for one in range(8)] + [(2 * one, 2 * one + 3) for one in range(0, 8, 2)]
    same = np.arange(12) < 8
    pictures = gathered(smooth(16), 1).images
    return audit.datasets.PairSet("lfw", pictures, np.array(pairs), same, np.zeros(12), names, "LFW")


def test_who_is_asked_again_is_in_no_evaluated_pair() -> None:
    """Four pairs are evaluated, and nobody in them comes again."""
    whole = eight_people()
    settings = SETTINGS.model_copy(update={"pairs": 4, "again_seed": 1})
    both = [kind(settings, torch.device("cpu")) for kind in (audit.Audit, audit_again.OtherPeople)]
    for one in both:
        one._sets["lfw"] = whole
    evaluated, other = (one.sample("lfw") for one in both)
    first, second = ({sample.identities[index] for index in np.unique(sample.pairs)} for sample in (evaluated, other))
    assert first
    assert second
    assert not first & second
    assert len(other.same) >= 2
    # Where everybody is evaluated nobody is left.
    both[1].settings = settings.model_copy(update={"pairs": 12})
    both[1]._sets["lfw"] = whole
    assert "no evaluated pair" in str(both[1].sample("lfw"))


def test_more_uploads_are_averaged_of_those_who_are_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    network, _ = (network_or_skip(name) for name in ("mobilefacenet", "sface"))
    changed = {
        "variants": {"pmt": {}, "deep": {"variant": "deep", "cut": "7x7"}},
        "networks": ("mobilefacenet", "sface"),
    }
    changed |= {"pairs": 4, "again_seed": 1, "again_filter_steps": 2, "copies_of_all": (2, 3, 4), "store": False}
    settings = SETTINGS.model_copy(update={**changed, "strengths": {"gaussian": 1.0}})
    whole = eight_people()
    monkeypatch.setattr(audit_again.OtherPeople, "whole", lambda _self, _name: whole)
    monkeypatch.setattr(audit_again, "far_thresholds", lambda *_: {"far_1e2": 0.5})
    bench = audit.Audit(settings, torch.device("cpu"))
    found = audit_again.averaged(bench, "lfw", {"deep": NOTHING})
    assert found.result is not None, found.note
    values = found.result.values
    other = audit_again.OtherPeople(settings.model_copy(update={"again_seed": 2}), torch.device("cpu"))
    photographs = audit.some(other.photographs("lfw"), 4, strangers=False)
    # Of one person alone, with other seeds, and not the two uploads that were averaged before.
    assert values["same"] == [1] * len(photographs.same)
    attacks = values["attacks"]["deep"]
    assert list(attacks) == ["3 copies", "3 copies, gaussian", "4 copies", "4 copies, gaussian"]
    model = ShallowModel(network, "7x7", layout="channels_last")
    config = DeepConfig(steps=2, batch_size=settings.pmt.batch_size)
    copies = [
        to_uint8(protect(photographs.originals, [model], config.model_copy(update={"seed": seed})).images) / 255.0
        for seed in range(4)
    ]
    for count in (3, 4):
        mean = torch.from_numpy(np.mean(copies[:count], axis=0)).permute(0, 3, 1, 2).float()
        expected = metrics.ssim(mean, photographs.originals)
        assert attacks[f"{count} copies"]["ssim"] == pytest.approx(expected.tolist(), abs=1e-4)
    # They stand beside the test, and its best attack may be one of them; without it they stand nowhere.
    before = {"lfw": again(0.9, 0.1, 0.39)}
    assert len(audit_again.table(before, settings, {"lfw": found})) == len(audit_again.table(before, settings)) + 4
    assert len(audit_again.table({"lfw": NOTHING}, settings, {"lfw": found})) == 0
    at = {"far_1e2": 0.5}
    entry = {"networks": {"mobilefacenet": [0.0, 0.0], "sface": [1.0, 1.0]}, "ssim": [0.1]}
    seen = {"same": [1, 1], "thresholds": {"mobilefacenet": at, "sface": at}, "attacks": {"deep": {"32 copies": entry}}}
    more = made_of(outcome("averages", seen))
    judged = audit_again.verdicts(audit_again.table(before, SETTINGS, {"lfw": more}), audit_again.FILTERS)
    assert judged[["attack", "copies", "others"]].to_numpy().tolist() == [["32 copies", 32, 1.0]]
    assert "Averages are those of at most 32 (LFW) uploads" in audit_again.reading(judged, audit_again.FILTERS)
    # The table shows the strongest filter of an average on each set, its numbers all.
    many = audit_again.table(before, settings, {"lfw": found}).assign(others=lambda frame: range(len(frame)))
    html = figures.again_table(many).to_html()
    assert all(text in html for text in ("3 copies<", "3 copies, gaussian<", "4 copies, gaussian<"))
    html = figures.again_table(
        pd.concat([many, many.iloc[-1:].assign(attack="4 copies, jpeg", others=99)], ignore_index=True)
    ).to_html()
    assert "4 copies, jpeg<" in html
    assert "4 copies, gaussian<" not in html
    # Nobody asked for more.
    few = audit.Audit(settings.model_copy(update={"copies_of_all": (2,)}), torch.device("cpu"))
    assert "averages no more uploads" in audit_again.averaged(few, "lfw", {"deep": NOTHING}).note


def test_nothing_is_tested_again_where_the_profile_does_not_ask() -> None:
    bench = audit.Audit(SETTINGS, torch.device("cpu"))
    found, without = (
        audit_again.tested(bench, "lfw", {}, goal) for goal in (audit_again.RESTORED, audit_again.FILTERS)
    )
    assert found.result is None
    assert "tests no other number of steps" in found.note == without.note
    assert len(audit_again.table({"lfw": found}, SETTINGS)) == 0
    assert "Not computed" in audit_again.reading(audit_again.verdicts(audit_again.table({"lfw": found}, SETTINGS)))
    assert audit_again.summary(audit_again.verdicts(pd.DataFrame())) == {}


def test_attributes_and_their_table() -> None:
    values = {
        "labels": {"faceres": {"gender": {"upload": [1, 0, 1, 1], "another person": [0, 1, 0, 1]}}},
        "years": {"faceres": {"upload": [1.0, 3.0], "another person": [10.0, 20.0]}},
    }
    frame = numbers.traits([block(attributes=values)])
    gender = frame[(frame["attribute"] == "gender") & (frame["condition"] == "upload")].iloc[0]
    assert gender["agreement"] == 0.75
    assert (gender["low"], gender["high"]) == tuple(metrics.wilson(3, 4))
    ages = frame[frame["attribute"] == numbers.AGE].set_index("condition")["agreement"]
    assert (ages["upload"], ages["another person"]) == (2.0, 15.0)
    html = figures.traits_table(frame).to_html()
    assert "75<br>" in html
    assert "15.0<br>" in html


def test_the_stitched_recogniser_counts_at_its_own_threshold() -> None:
    values = {
        "same": [1, 1, 0, 0], "threshold": 0.5, "people": {"identities": 7},
        "cosines": {"photograph": [0.9, 0.6, 0.1, 0.7], "upload": [0.9, 0.5, 0.1, 0.2]},
    }  # fmt: skip
    frame = numbers.stitching([block(stitching=values)]).set_index("condition")
    assert (frame.loc["photograph", "accuracy"], frame.loc["photograph", "false"]) == (1.0, 0.5)
    assert (frame.loc["upload", "accuracy"], frame.loc["upload", "false"]) == (0.5, 0.0)
    assert ">7<" in figures.stitching_table(frame.reset_index()).to_html()


def test_the_summary_and_the_words_have_the_stitched_recogniser_and_each_kind_of_attack() -> None:
    values = {
        "same": [1, 1, 1, 1, 0], "threshold": 0.5, "people": {"identities": 7},
        "cosines": {"photograph": [0.9, 0.9, 0.9, 0.9, 0.1], "upload": [0.9, 0.9, 0.9, 0.1, 0.1]},
    }  # fmt: skip
    one = block(stitching=values)
    frame, stitched = numbers.table([one], SETTINGS), numbers.stitching([one])
    found = numbers.summary(frame, stitched)
    assert (found["pmt_stitched_upload"], found["pmt_stitched_photograph"]) == (75.0, 100.0)
    table = frame.set_index("attack")
    learned = table.loc[["de-obfuscator", "RecFace"]]
    assert found["pmt_learned_others"] == pytest.approx(100 * max(learned["others"]), abs=1e-3)
    assert found["pmt_learned_ssim"] == pytest.approx(max(learned["ssim"]), abs=1e-4)
    filters = table.loc[["upload", "gaussian"]]
    assert found["pmt_filters_others"] == pytest.approx(100 * max(filters["others"]), abs=1e-3)
    row = "| a stranger's network stitched to the shared model, of "
    assert f"{row}uploads | 75% [" in numbers.reading(frame, stitched)
    assert f"{row}photographs | 100% [" in numbers.reading(frame, stitched)
    wrong = numbers.reading(frame, stitched.assign(false=[0.5, 0.25]))
    assert re.search(rf"^{re.escape(row)}photographs .*; accepts 50% of two people \\|$", wrong, re.MULTILINE)
    assert re.search(rf"^{re.escape(row)}uploads .*; accepts 25% of two people \\|$", wrong, re.MULTILINE)
    assert "hardly works" not in wrong
    assert "hardly works" in numbers.reading(frame, stitched.assign(accuracy=0.4))
    assert "stranger's network" not in numbers.reading(frame)


def test_attacks_on_fewer_pairs_do_not_count_as_the_strongest() -> None:
    one = block()
    few = outcome("few", attacked({"2 copies": 3.0}).result.values | {"same": [1] * 4 + [0] * 36})
    frame = numbers.table([dataclasses.replace(one, attacks={**one.attacks, "inversion": few})], SETTINGS)
    assert frame.set_index("attack")["others"].idxmax() == "2 copies"
    assert list(numbers.best(frame)["attack"]) != ["2 copies"]


def test_averages_of_all_pairs_take_the_place_of_those_of_few_and_count_for_the_goals() -> None:
    one, other = block(), block("deep", -0.5)
    few = outcome("few", attacked({"2 copies": 3.0, "32 copies": 3.0}).result.values | {"same": [1] * 4 + [0] * 36})
    values = one.attacks["purification"].result.values
    everybody = attacked({"2 copies": 0.9}).result.values | {"same": values["same"], "photograph": values["photograph"]}
    everybody = outcome("everybody", everybody)
    for order in (("averaging", "averaging of all"), ("averaging of all", "averaging")):
        averages = dict(zip(order, (few, everybody) if order[0] == "averaging" else (everybody, few), strict=True))
        both = dataclasses.replace(one, attacks={**one.attacks, **averages})
        frame = numbers.table([both, other], SETTINGS)
        line = frame[(frame["variant"] == "pmt") & (frame["attack"] == "2 copies")]
        upload = frame[(frame["variant"] == "pmt") & (frame["attack"] == "upload")]
        assert list(line["n"]) == list(upload["n"])
        assert set(line["kind"]) == {"averaging"}
        found = numbers.goals(frame, numbers.frontier([both, other], SETTINGS, STEPS))
        against = found[found["against"] == "filters"].iloc[0]
        # The published transform's best attack without learning is now the average, but never the one of 32 copies.
        theirs = frame[(frame["variant"] == "pmt") & frame["kind"].isin(["purification", "averaging"])]
        theirs = theirs[~theirs["attack"].str.startswith("photograph") & (theirs["attack"] != "32 copies")]
        assert against["others"] == pytest.approx(against["others_value"] / theirs["others"].max())


def weighed_by_hand() -> dict[str, Any]:
    """Three pairs of one person and one of two, two networks beside the service, one of them without a threshold."""
    cosines = {"mobilefacenet": [0.9, 0.1, 0.9, 0.9], "sface": [0.9, 0.0, 0.0, 0.9], "dlib-resnet29": [0.9] * 4}
    attacks = {
        "upload": {"networks": cosines, "ssim": [0.1, 0.2, 0.3, 0.4]},
        "gaussian": {"networks": {**cosines, "sface": [0.9, 0.9, 0.0, 0.0]}, "ssim": [0.5, 0.5, 0.5, 0.5]},
        "translation of features": {"networks": {"sface": [0.9, 0.9, 0.9, 0.0], "dlib-resnet29": [0.9, 0.0, 0.0, 0.0]}},
    }
    at = {"far_1e2": 0.5, "far_1e3": 0.6}
    return {
        "same": [1, 1, 1, 0], "photograph": [0, 1, 2, 3], "thresholds": {"mobilefacenet": at, "sface": at,
        "dlib-resnet29": None}, "translated_at": {"7x7": {"sface": 0.5, "dlib-resnet29": 0.5}},
        "settings": {"deep, 7x7, K = 20": {"cut": "7x7", "attacks": attacks}}, "people": {},
    }  # fmt: skip


def test_a_setting_is_told_by_its_best_filter_and_by_translation() -> None:
    frame = audit_frontier.points(
        {"lfw": [outcome("settings", weighed_by_hand()), NOTHING], "cfp_ff": [NOTHING]}, SETTINGS
    )
    (line,) = frame.to_dict("records")
    assert (line["dataset"], line["setting"], line["steps"], line["n"]) == ("lfw", "deep, 7x7", 20, 3)
    assert line["service"] == pytest.approx(2 / 3)
    assert (line["filters"], line["filters_attack"]) == (pytest.approx(2 / 3), "gaussian")
    # Of the three pairs sface's translation accepts all, dlib's the first.
    assert line["translated"] == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert line["best"] == pytest.approx(2 / 3)
    assert line["ssim"] == pytest.approx(0.5)
    audited = numbers.frontier([block()], SETTINGS, STEPS)
    words = audit_frontier.reading(frame, audited.assign(clean=1.0))
    assert "none of 1 on LFW (n = 3) keep at least 90%" in words
    assert "|" not in words
    words = audit_frontier.reading(frame, audited.assign(clean=0.7))
    assert "1 of 1 on LFW (n = 3) keep at least 90%" in words
    assert "leaves others at least 67%" in words
    for kind, what in (("filters", "filters alone"), ("best", "filters and translation")):
        interval = f"[{100 * line[f'{kind}_low']:.0f}, {100 * line[f'{kind}_high']:.0f}]"
        assert f"| LFW | {what} | *deep, 7x7* (K = 20) | 67% | 67% {interval} |" in words
    assert "have not been measured yet" in audit_frontier.reading(frame.head(0), audited)
    assert "at which it serves best" not in words
    # Each rate and interval in its own place, of the least leaky under each attacker.
    leaks = {"filters": 0.1, "translated": 0.4, "best": 0.5}
    apart = {f"{kind}{end}": leak + shift for kind, leak in leaks.items()
             for end, shift in (("", 0), ("_low", -0.04), ("_high", 0.04))}  # fmt: skip
    both = {"filters": 0.2, "best": 0.45, "best_low": 0.41, "best_high": 0.49}
    less_to_both = frame.assign(setting="pmt", **{**apart, **both}, service=0.8)
    several = pd.concat([frame.assign(**apart), less_to_both, frame.assign(setting="bad", service=0.1, best=0.0)])
    words = audit_frontier.reading(several, audited.assign(clean=0.7))
    assert "2 of 3 on LFW (n = 3) keep at least 90%" in words
    assert "leaves others at least 45%" in words
    assert "| LFW | filters alone | *deep, 7x7* (K = 20) | 67% | 10% [6, 14] |" in words
    assert "| LFW | filters and translation | *pmt* (K = 20) | 80% | 45% [41, 49] |" in words
    of_heads = frame.assign(setting="embedding, 7x7", **apart)
    words = audit_frontier.reading(of_heads, audited.assign(clean=0.7))
    served = f"67% [{100 * line['service_low']:.0f}, {100 * line['service_high']:.0f}]"
    assert f"| LFW | *embedding, 7x7* (K = 20) | {served} | 10% [6, 14] | 40% [36, 44] |" in words
    heads = frame.assign(setting="embedding, 7x7", steps=40, service=0.6)
    less = heads.assign(steps=80, service=0.2)
    words = audit_frontier.reading(pd.concat([frame, heads, less]), audited.assign(clean=0.7))
    kinds = ("service", "filters", "translated")
    ends = [f"[{100 * line[f'{kind}_low']:.0f}, {100 * line[f'{kind}_high']:.0f}]" for kind in kinds]
    assert f"| LFW | *embedding, 7x7* (K = 40) | 60% {ends[0]} | 67% {ends[1]} | 67% {ends[2]} |" in words
    assert f"| LFW | beside it *deep, 7x7* (K = 20) | 67% {ends[0]} | 67% {ends[1]} | 67% {ends[2]} |" in words
    assert "(K = 80)" not in words
    assert "Of uploads that match heads, none keeps 90%" in words
    assert "beside it" not in audit_frontier.reading(pd.concat([frame, less]), audited.assign(clean=0.7))
    words = audit_frontier.reading(pd.concat([frame, heads.assign(service=0.7), less]), audited.assign(clean=0.7))
    assert "Of uploads that match heads, *embedding, 7x7* on LFW keeps 90%" in words
    assert audit_frontier.summary(frame) == audit_frontier.summary(frame.head(0)) == {}
    headline = audit_frontier.summary(pd.concat([frame, heads, less]))
    assert headline["embedding_lfw_service"] == pytest.approx(60)
    assert headline["embedding_lfw_deep_service"] == pytest.approx(200 / 3)
    assert "deep, 7x7" in figures.settings_table(frame).to_html()
    # Photographs translate too: both accept the first, sface the second as well.
    entry = {"networks": {"sface": [0.9, 0.9, 0.1, 0.9], "dlib-resnet29": [0.9, 0.1, 0.1, 0.9]}}
    entry |= {"translated_at": {"sface": 0.5, "dlib-resnet29": 0.5}}
    bound = outcome("bound", {"same": [1, 1, 1, 0], "cuts": {"7x7": entry}})
    limits = audit_frontier.bound_points({"lfw": bound, "cfp_ff": NOTHING}, SETTINGS)
    (limit,) = limits.to_dict("records")
    assert (limit["dataset"], limit["cut"], limit["n"]) == ("lfw", "7x7", 3)
    assert limit["bound"] == pytest.approx((1 + 0.5 + 0) / 3)
    drawn = figures.settings_figure(frame, limits)
    assert [axis.get_title(loc="left") for axis in drawn.axes] == ["LFW, n = 3"] * 2
    assert [[text.get_text() for text in axis.texts] for axis in drawn.axes] == [[], ["photographs, 7x7"]]
    assert figures.settings_figure(frame.head(0), limits.head(0)) is not None


def test_every_setting_has_a_line_of_its_own_kind() -> None:
    settings = SETTINGS.model_copy(update={"frontier_steps": (1, 2), "frontier_deep_steps": (3,)})
    found = audit_frontier.tried(settings)
    assert {name: keep for name, (_, _, keep) in found.items()} == {
        "pmt, first 5 units": (1, 2), "pmt, 14x14": (1, 2), "pmt, 7x7": (1, 2),
        "deep, 28x28": (3,), "deep, 14x14": (3,), "deep, 7x7": (3,), "pooled 3x3, 7x7": (3,), "pooled 7x7, 7x7": (3,),
        "decoy, first 5 units": (100,), "decoy, 7x7": (40,),
    }  # fmt: skip
    for config, _, keep in found.values():
        assert config.steps == max(keep)


def test_a_service_that_finds_no_face_recognises_nobody() -> None:
    entry = {"cosines": {"as it is": [0.9, 0.9, 0.0], "aligned again": [0.9, 0.9, 0.0]}, "detected": [1, 0]}
    values = {
        "same": [1, 1, 0], "photograph": [0, 1, 0], "threshold": {"far_1e2": 0.3, "far_1e3": 0.4},
        "received": {"photograph": {**entry, "detected": [1, 1]}, "upload": entry},
    }  # fmt: skip
    lines = numbers.service([block(service=values)])
    assert numbers.service_summary(lines) == {"pmt_aligned": 50.0}
    assert numbers.service_summary(lines.head(0)) == {}
    frame = lines.set_index(["condition", "processing"])
    assert frame.loc[("upload", "as it is"), "accuracy"] == 1.0
    assert frame.loc[("upload", "aligned again"), "accuracy"] == 0.5
    assert frame.loc[("upload", "aligned again"), "detected"] == 0.5
    assert "face found in 50%" in figures.service_table(frame.reset_index()).to_html()


def test_the_choice_shows_the_highest_of_its_filters() -> None:
    values = {
        "photograph": {"service": 0.8, "others": [0.9, 0.9, 0.8], "ssim": [1.0, 0.7, 0.6]},
        "deep, 7x7, K = 40": {"service": 0.75, "others": [0.05, 0.25, 0.1], "ssim": [0.01, 0.3, 0.2]},
        "deep, 7x7, K = 120": {"service": 0.78, "others": [0.1, 0.45, 0.1], "ssim": [0.01, 0.3, 0.35]},
        "deep, 7x7, K = 80": {"service": 0.76, "others": [0.1, 0.3, 0.1], "ssim": [0.01, 0.3, 0.2]},
        "deep, 14x14, K = 20": {"service": 0.8, "others": [0.1, 0.3, 0.1], "ssim": [0.01, 0.3, 0.2]},
    }
    made = outcome("lfw_rest--choice", values)
    html = figures.choice_table(made).to_html()
    for shown in ("deep, 7x7", ">40<", ">25<", "0.30", "of photographs at K = 80", "0.70"):
        assert shown in html
    assert numbers.chosen_steps(made, "deep, 7x7") == 80
    assert numbers.chosen_steps(made, "deep, 14x14") == 20
    assert numbers.chosen_steps(made, "decoy, 7x7") is None
    assert numbers.chosen_steps(NOTHING, "deep, 7x7") is None
    assert "not run" in figures.choice_table(NOTHING).to_html()


def test_two_pictures_of_a_person_follow_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    everybody = gathered(smooth(9), 3)
    once = dataclasses.replace(everybody, identities=("a", "b", "a", "c", "b", "a", "d", "b", "e"))
    monkeypatch.setattr(audit.datasets, "load_people", lambda *_, **__: once)
    found = audit.two_pictures(5, 0)
    assert found.identities == ("a", "a", "b", "b")
    assert torch.equal(found.tensor([1, 3]), once.tensor([2, 4]))
    assert len(audit.two_pictures(1, 0)) == 2


def test_images_without_a_face_stay_as_they_are() -> None:
    grey = torch.full((1, 3, 112, 112), 100 / 255)
    made, seen = audit_beyond.realigned(grey)
    assert not seen.any()
    torch.testing.assert_close(made, grey)


def test_a_name_may_stand_for_a_variant_with_another_cut() -> None:
    settings = SETTINGS.model_copy(
        update={"variants": {"pmt": {}, "deep": {}, "late": {"variant": "deep", "cut": "14x14", "steps": 9}}}
    )
    bench = audit.Audit(settings, torch.device("cpu"))
    assert [bench.cut(name) for name in settings.variants] == [5, "7x7", "14x14"]
    assert [bench.config(name).steps for name in settings.variants] == [1, 40, 9]
    assert IMAGES


def test_what_is_not_asked_for_is_not_run() -> None:
    bench = audit.Audit(SETTINGS.model_copy(update={"datasets": ("samples",), "pair_people": 0}), torch.device("cpu"))
    best = audit.Purification("gaussian", 1.5)
    outcomes: list[Outcome] = [bench.choice(), bench.inverted("samples", "pmt"), bench.learned("samples", "pmt")]
    outcomes.append(bench.learned_identity("samples", "pmt"))
    outcomes += [bench.averaged_of_all("samples", "pmt", best), audit_frontier.weighed(bench, "samples", [best])]
    outcomes.append(audit_frontier.embedded(bench, "samples", [best]))
    outcomes += [measure(bench, "samples", [best]) for measure in (audit_frontier.guarded, audit_frontier.projected)]
    outcomes += audit_beyond.run(bench, "samples", "pmt", [best]).values()
    assert all(one.result is None and one.note.startswith("not run: this profile") for one in outcomes)


def test_a_page_runs_what_it_shows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = ("linkage", "linkage after filters", "linkage by translation", "attributes", "stitching", "service")
    asked: list[str] = []

    def noted(name: str) -> Callable[..., Outcome]:
        def measure(*_: object) -> Outcome:
            asked.append(name)
            return Outcome(None, "")

        return measure

    functions = ("linked", "linked_after", "linked_by_translation", "read", "stitched", "received")
    for function, name in zip(functions, parts, strict=True):
        monkeypatch.setattr(audit_beyond, function, noted(name))
    update = {"datasets": ("samples",), "pair_people": 0, "strengths": {"gaussian": 1.5}, "copies": ()}
    bench = audit.Audit(SETTINGS.model_copy(update=update), torch.device("cpu"))
    for name in ("purified", "averaged"):
        monkeypatch.setattr(bench, name, noted(name))
    _, (whole,) = bench.run()
    assert asked == ["purified", "averaged", *parts]
    assert tuple(whole.beyond) == parts
    assert "steps (pmt)" in [row for _, row, _ in whole.rows()]
    asked.clear()
    _, (some,) = bench.run(steps=False, beyond=["service"])
    assert asked == ["purified", "averaged", "service"]
    assert (some.steps, tuple(some.beyond)) == (None, ("service",))
    assert "steps (pmt)" not in [row for _, row, _ in some.rows()]
    assert not len(numbers.frontier([some], SETTINGS, STEPS))


def test_nobody_is_learned_from_who_is_attacked_under_another_sets_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PMT_DATA", str(tmp_path))
    (tmp_path / "numbered").mkdir()
    (tmp_path / "numbered" / "list_name.txt").write_text("Hugo Chávez\n50 Cent\n", encoding="utf-8")
    assert audit.datasets.comparable_names("numbered", ["002", "001", "3"]) == ["50cent", "hugochavez", "3"]
    assert audit.datasets.comparable_names("absent", ["001", "Jean-Luc_B"]) == ["001", "jeanlucb"]
    people = dataclasses.replace(gathered(smooth(3), 1), identities=("002", "001", "003"))
    pairs = np.array([[0, 1]])
    sample = audit.datasets.PairSet(
        "lfw", people.images, pairs, np.array([True]), np.zeros(1), ("Hugo_Chavez", "Hugo_Chavez", "x_003"), "p"
    )
    kept, left_out = audit_beyond.strangers_of(people, "numbered", sample)
    assert (kept.identities, left_out) == (("002", "003"), ["001"])


def test_translations_meet_the_networks_own_embeddings_of_the_other_photograph(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One update of a head on real networks: what is stored is compared in a loop, not how good it is."""
    photographs.ready()
    network_or_skip("sface")
    people = training_people("samples")
    monkeypatch.setattr(audit_beyond, "STITCHING_PEOPLE", {"samples": "samples"})
    monkeypatch.setattr(audit_beyond.datasets, "load_people", lambda _: people)
    monkeypatch.setattr(audit_beyond, "FAR", 0.5)
    training = TranslatorConfig(steps=1, batch_size=2, width=4, validation_people=2)
    settings = audit.AuditSettings(
        datasets=("samples",), networks=("mobilefacenet", "sface"), pairs=4, pmt=PMTConfig(steps=1),
        translator=training, pair_people=1,
    )  # fmt: skip
    bench = audit.Audit(settings, torch.device("cpu"))
    bench.usable()
    bench.photographs("samples")
    # From here on nothing is fetched, and the translator belongs in a cache of its own.
    monkeypatch.setenv("PMT_CACHE", str(tmp_path))
    found = audit_beyond.translated(bench, "samples", "pmt")
    assert found.result is not None, found.note
    values = found.result.values
    # Uploads of twice the steps are those of the frontier.
    named = [f"{name}translation of features" for name in ("", "K = 2, ", "photograph, ")]
    assert list(values["attacks"]) == named
    assert list(values["thresholds"]) == ["sface"]
    sample = bench.sample("samples")
    assert isinstance(sample, audit.datasets.PairSet)
    others, left_out = audit_beyond.strangers_of(people, "samples", sample)
    assert values["people"]["left_out"] == len(left_out)
    translator = train_translator(bench.shared("pmt"), others, {"sface": bench.network("sface")}, training)
    shown = bench.photographs("samples")
    attacked = [bench.uploads("samples", "pmt"), bench.other_uploads("samples", "pmt")[2], shown.originals]
    assert not torch.equal(attacked[0], attacked[1])
    for name, images in zip(named, attacked, strict=True):
        entry = values["attacks"][name]["networks"]["sface"]
        for pair, place in enumerate(shown.place):
            said = translator(images[place : place + 1])["sface"]
            other = bench.network("sface")(shown.others[pair : pair + 1])
            own = bench.network("sface")(shown.originals[place : place + 1])
            assert entry["other"][pair] == pytest.approx(torch.cosine_similarity(said, other).item(), abs=2e-5)
            assert entry["own"][pair] == pytest.approx(torch.cosine_similarity(said, own).item(), abs=2e-5)
    held = audit_beyond.split_people(others, training).validation
    scores = [
        torch.cosine_similarity(
            translator(others.tensor([int(a)]))["sface"], bench.network("sface")(others.tensor([int(b)]))
        ).item()
        for a in held
        for b in held
        if others.identities[int(a)] != others.identities[int(b)]
    ]
    assert values["thresholds"]["sface"]["far_1e2"] == pytest.approx(np.quantile(scores, 0.5), abs=2e-5)
    # Means of features, of all pairs and of those of one person alone.
    averages = {"copies_of_all": (2, 3), "most_of_all": {"pmt": 2}}
    several = audit.Audit(settings.model_copy(update=averages), torch.device("cpu"))
    several.usable()
    few, many = (audit_beyond.averages_translated(several, "samples", "pmt", many=many) for many in (False, True))
    copies = [bench.uploads("samples", "pmt", seed) for seed in range(3)]
    assert not torch.equal(copies[1], copies[2])
    for outcome_of, count, alone in ((few, 2, shown), (many, 3, audit.some(shown, 4, strangers=False))):
        assert outcome_of.result is not None, outcome_of.note
        assert outcome_of.result.values["same"] == alone.same.astype(int).tolist()
        assert outcome_of.result.values["thresholds"] == values["thresholds"]
        ((named_so, entry),) = outcome_of.result.values["attacks"].items()
        assert named_so == f"{count} copies, translation of features"
        for pair, place in enumerate(alone.place):
            at = next(row for row, one in enumerate(shown.originals) if torch.equal(one, alone.originals[place]))
            features = [bench.shared("pmt").feature(copy[at : at + 1]) for copy in copies[:count]]
            said = translator.of_features(torch.stack(features).mean(0))["sface"]
            other = bench.network("sface")(alone.others[pair : pair + 1])
            assert entry["networks"]["sface"]["other"][pair] == pytest.approx(
                torch.cosine_similarity(said, other).item(), abs=2e-5
            )
    assert audit_beyond.averages_translated(bench, "samples", "pmt").note.startswith("not run: this profile")
    # Every setting, on the same four pairs: the row of the transform as published is what the attacks above found.
    monkeypatch.setattr(audit_frontier, "tried", lambda _: {"pmt": (PMTConfig(steps=1), 5, (1,))})
    wider = audit.Audit(settings.model_copy(update={"frontier_steps": (1,)}), torch.device("cpu"))
    wider.usable()
    blurs = [audit.Purification("gaussian", 1.5), audit.Purification("median", 2.0)]
    everything = audit_frontier.weighed(wider, "samples", blurs)
    assert everything.result is not None, everything.note
    (entry,) = everything.result.values["settings"].values()
    assert list(entry["attacks"]) == ["upload", "gaussian 1.5", "median 2", "translation of features"]
    told = entry["attacks"]["translation of features"]["networks"]["sface"]
    assert told == pytest.approx(values["attacks"][named[0]]["networks"]["sface"]["other"], abs=2e-5)
    seen = entry["attacks"]["upload"]["networks"]["mobilefacenet"]
    for pair, place in enumerate(shown.place):
        own = bench.network("mobilefacenet")(attacked[0][place : place + 1])
        other = bench.network("mobilefacenet")(shown.others[pair : pair + 1])
        assert seen[pair] == pytest.approx(torch.cosine_similarity(own, other).item(), abs=2e-5)
    # Heads of one's own, which are not the attacker's: what is matched is what they say.
    seeds = []

    def noted(shared: ShallowModel, people: audit.datasets.People, config: HeadConfig) -> StitchedNetwork:
        seeds.append(config.seed)
        return train_head(shared, people, config)

    monkeypatch.setattr(audit_beyond, "trained_head", noted)
    changed = {"own_head": HeadConfig(steps=2, width=4, validation_people=1), "own_head_cuts": ("7x7",)}
    owner = audit.Audit(settings.model_copy(update={**changed, "own_head_steps": (1, 2)}), torch.device("cpu"))
    owner.usable()
    protectors = audit_frontier.embedded(owner, "samples", blurs)
    assert protectors.result is not None, protectors.note
    assert list(protectors.result.values["settings"]) == ["embedding, 7x7, K = 1", "embedding, 7x7, K = 2"]
    assert seeds == [audit_frontier.OWN_SEED, audit_frontier.OWN_SEED + 1]
    drawn = audit_frontier.points({"samples": [everything, protectors]}, owner.settings)
    assert list(drawn["setting"]) == ["pmt", "embedding, 7x7", "embedding, 7x7"]
    narrow = audit.Audit(wider.settings.model_copy(update={"choice_cuts": ()}), torch.device("cpu"))
    narrow.usable()
    limits = audit_frontier.bounds(narrow, "samples")
    assert limits.result is not None, limits.note
    # Of the photographs the page's other table has the same, by the same translator.
    told = limits.result.values["cuts"][f"first {settings.cut} units"]["networks"]["sface"]
    assert told == pytest.approx(values["attacks"][named[-1]]["networks"]["sface"]["other"], abs=2e-5)
    assert figures.settings_figure(drawn, audit_frontier.bound_points({"samples": limits}, settings)) is not None
    # An attacker who is trained after the filter, on uploads of people who are no one's evaluated pair.
    trainings: list[tuple[int, int, int]] = []
    shown_uploads: list[Any] = []

    def followed(*given: Any, uploads: Any = None, **options: Any) -> Any:
        trainings.append((given[3].seed, given[3].steps, 0 if uploads is None else len(uploads.images)))
        shown_uploads.append(uploads)
        assert given[1].fingerprint == others.fingerprint
        return train_translator(*given, uploads=uploads, **options)

    monkeypatch.setattr(audit_beyond, "train_translator", followed)
    changed = {"guard": training, "guards": 2, "guard_weights": (0.5,), "guard_steps": (2,), "guard_beside": (1, 2)}
    changed |= {"guard_directions": (3,), "guard_uploads": 2, "guard_held": 2}
    guarding = audit.Audit(settings.model_copy(update=changed), torch.device("cpu"))
    guarding.usable()
    monkeypatch.setattr(audit_frontier, "ProjectedConfig", functools.partial(ProjectedConfig, steps=1))
    looped = audit_frontier.guarded(guarding, "samples", blurs)
    assert looped.result is not None, looped.note
    random = audit_frontier.projected(guarding, "samples", blurs)
    assert random.result is not None, random.note
    names = ["deep, 7x7, K = 1", "deep, 7x7, K = 2", "guarded 0.5, 7x7, K = 2", "projected 3, 7x7, K = 1"]
    assert [*looped.result.values["settings"], *random.result.values["settings"]] == names
    own = audit_frontier.OWN_SEED
    # Half of a batch is uploads, so twice the steps see as many photographs as before.
    alone, after = (training.seed, training.steps, 0), (training.seed, 2 * training.steps, 4)
    assert trainings == [(own, training.steps, 0), (own + 1, training.steps, 0), alone, *[after] * 3, alone, after]
    split = audit_beyond.split_people(others, training)
    for steps, uploads in zip((1, 2), shown_uploads[3:5], strict=True):
        rows = uploads.rows.tolist()
        assert sum(row in split.training for row in rows) == sum(row in split.validation for row in rows) == 2
        config = DeepConfig(batch_size=settings.pmt.batch_size, steps=steps, seed=settings.pair_seeds[0])
        made = protect(others.tensor(rows), [bench.shallow("mobilefacenet", "7x7")], config).images
        assert torch.equal(uploads.images, torch.from_numpy(to_uint8(made)).permute(0, 3, 1, 2))
    entry = looped.result.values["settings"]["guarded 0.5, 7x7, K = 2"]
    assert entry["attacks"][audit_beyond.TRANSLATION] != entry["attacks"][audit_beyond.LEARNED_TRANSLATION]
    frame = audit_frontier.points({"samples": [looped, random]}, guarding.settings)
    assert list(frame["setting"]) == [name.rpartition(", K")[0] for name in names]
    accepted = np.array(entry["attacks"][audit_beyond.LEARNED_TRANSLATION]["networks"]["sface"])
    share = (accepted > entry["learned_at"]["sface"])[np.array(looped.result.values["same"], dtype=bool)].mean()
    assert frame["learned"][2] == pytest.approx(share)
    words = audit_frontier.loop_reading(frame)
    n = int(np.sum(looped.result.values["same"]))
    title = common.TITLES.get("samples", "samples")
    assert f"| {title}, n = {n} | *guarded 0.5, 7x7* (K = 2) | " in words
    assert "learned from such uploads" in words
    # The rates themselves stand in the table below the words.
    html = figures.loop_table(frame).to_html()
    for line in frame.to_dict("records"):
        for kind in ("service", "translated", "learned"):
            assert f"{100 * line[kind]:.0f} [{100 * line[f'{kind}_low']:.0f}, {100 * line[f'{kind}_high']:.0f}]" in html
    assert f"n = {n} pairs of one person" in html
    assert "not been measured" in audit_frontier.loop_reading(frame.head(0))
    # A setting is laid beside the *deep* that serves about as well, and beside none that does not.
    told = frame.assign(service=[0.5, 0.9, 0.8, 0.2], translated=[0.4, 0.7, 0.3, 0.1], learned=[0.5, 0.75, 0.72, 0.2])
    words = audit_frontier.loop_reading(told)
    assert "| *guarded 0.5, 7x7* (K = 2) | *deep, 7x7* (K = 2) | 40 | 3 |" in words
    assert "by 40 points under the translator that was there before, and by 3 under the one that comes after" in words
    assert words.count("| no *deep* here serves about as well |  |  |") == 1
    # A gain may be a loss, and that of several is told from the lowest to the highest.
    words = audit_frontier.loop_reading(told.assign(service=[0.5, 0.9, 0.8, 0.5]))
    assert "| *projected 3, 7x7* (K = 1) | *deep, 7x7* (K = 1) | 30 | 30 |" in words
    assert "by 30 to 40 points under the translator that was there before, and by 3 to 30 under the one" in words
    assert "| \N{MINUS SIGN}7 |" in audit_frontier.loop_reading(told.assign(learned=[0.5, 0.65, 0.72, 0.2]))
    headline = audit_frontier.loop_summary(told)
    assert headline["loop_samples_guarded_k2_learned"] == pytest.approx(72)
    assert (headline["loop_samples_deep_k1_service"], headline["loop_samples_deep_k2_learned"]) == (
        pytest.approx(50),
        pytest.approx(75),
    )
    assert audit_frontier.loop_summary(told.head(0)) == {}
    assert "projected 3, 7x7" in figures.loop_table(frame).to_html()
    without = audit.Audit(settings.model_copy(update={"translator": None}), torch.device("cpu"))
    assert "translates nothing" in audit_beyond.translated(without, "samples", "pmt").note
