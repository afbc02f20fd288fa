"""Section 6.5: tables are what plain loops over the stored values give; the claim is judged by the numbers alone."""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd
import pytest
import torch

from pmtlib import datasets, results
from pmtlib.attacks.attributes import AttributeEstimates
from pmtlib.errors import AssetError, DatasetError
from pmtlib.experiments import attributes as experiments
from pmtlib.experiments.attributes import UPLOADS, Attributes, AttributesBlock, AttributesSettings
from pmtlib.experiments.common import Outcome
from pmtlib.figures import attributes as figures
from pmtlib.transform import PMTConfig

SETTINGS = AttributesSettings(datasets=("lfw",), networks=("mobilefacenet",), pmt=PMTConfig(steps=1))
WIDTHS = {"faceres": {"age": 5, "gender": 2}, "gear": {"age": 3, "race": 4}, "fer-big-xception": {"emotion": 7}}


def made_up_values(seed: int, n: int = 30, level: dict[str, float] | None = None) -> dict:
    """Random values in the stored form, to check arithmetic with; they measure nothing."""
    draw = np.random.default_rng(seed)
    level = level or {}
    persons = draw.integers(0, n // 2, n).tolist()
    partner = draw.integers(0, n, n)
    partner[:3] = -1

    def compared(count: int, kind: str) -> dict:
        cosine = (level.get(kind, 0.4) + draw.uniform(0, 0.2, count)).round(5).tolist()
        return {"cosine": cosine, "agrees": draw.integers(0, 2, count).tolist()}

    networks: dict = {}
    for network, attributes in WIDTHS.items():
        networks[network] = {}
        for attribute, width in attributes.items():
            named = {kind: draw.integers(0, width, n).tolist() for kind in ("original", *UPLOADS)}
            entry: dict = {"labels": [str(i) for i in range(width)], "original": named["original"]}
            for kind in UPLOADS:
                entry[kind] = {"named": named[kind], **compared(n, kind)}
                entry[kind]["agrees"] = [int(a == b) for a, b in zip(named[kind], named["original"], strict=True)]
            entry["others"] = compared(n - 3, "others")
            networks[network][attribute] = entry
    years = {kind: draw.uniform(0, 20, n).round(5).tolist() for kind in ("original", *UPLOADS)}
    years["others"] = draw.uniform(0, 20, n - 3).round(5).tolist()
    return {
        "persons": persons,
        "others": partner.tolist(),
        "networks": networks,
        "years": {"faceres": years},
        "detected": {kind: draw.integers(0, 2, n).tolist() for kind in ("original", *UPLOADS)},
        "clean": {
            "same": [1, 0] * 10,
            "networks": {
                network: {attribute: compared(20, "clean") for attribute in attributes}
                for network, attributes in WIDTHS.items()
            },
            "years": {"faceres": draw.uniform(0, 20, 20).round(5).tolist()},
        },
    }


def made_up_block(seed: int = 0, dataset: str = "lfw", **options) -> AttributesBlock:
    request = results.Request("attributes", dataset, 1, {})
    manifest = {"date": "2026-01-01", "seconds": 1, "hardware": {"device": "cpu"}, "packages": {"torch": "2"}}
    data = {"name": dataset, "fingerprint": "f", "n": 30}
    result = results.Result(request, data, made_up_values(seed, **options), manifest)
    return AttributesBlock(dataset, Outcome(result), Outcome(None, "not run: its weights are not present"))


def wilson_by_hand(k: int, n: int) -> tuple[float, float]:
    z = 1.959963984540054
    centre = (k / n + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(k / n * (1 - k / n) / n + z * z / (4 * n * n))
    return centre - half, centre + half


def test_every_line_of_the_attribute_table_is_a_plain_loop():
    block = made_up_block()
    values = block.estimates.result.values
    table = experiments.attribute_table([block], SETTINGS)
    assert len(table) == 5 * (len(UPLOADS) + 1)
    assert list(dict.fromkeys(table["attribute"])) == ["emotion", "race", "gender", "age"]
    for line in table.to_dict("records"):
        entry = values["networks"][line["network"]][line["attribute"]]
        cosine, agrees = entry[line["kind"]]["cosine"], entry[line["kind"]]["agrees"]
        assert line["n"] == len(cosine) == (27 if line["kind"] == "others" else 30)
        assert line["cossim"] == pytest.approx(sum(cosine) / len(cosine))
        assert line["low"] < line["cossim"] < line["high"]
        assert line["others"] == pytest.approx(sum(entry["others"]["cosine"]) / 27)
        assert line["agreement"] == pytest.approx(sum(agrees) / len(agrees))
        assert (line["agreement_low"], line["agreement_high"]) == pytest.approx(
            wilson_by_hand(sum(agrees), len(agrees)), abs=1e-9
        )
        if line["kind"] == "others":
            assert math.isnan(line["chance"])
            continue
        chance = 0.0
        for label in range(len(entry["labels"])):
            one = sum(value == label for value in entry["original"]) / 30
            other = sum(value == label for value in entry[line["kind"]]["named"]) / 30
            chance += one * other
        assert line["chance"] == pytest.approx(chance)


def test_the_interval_draws_persons_not_images():
    """With one value a person, repeated, the interval is that of the persons, wider than that of the images."""
    block = made_up_block(1)
    values = block.estimates.result.values
    entry = values["networks"]["gear"]["race"]["pmt"]
    values["persons"][:] = [i // 10 for i in range(30)]
    entry["cosine"][:] = [0.1 + 0.3 * (i // 10) for i in range(30)]
    line = experiments.attribute_table([block], SETTINGS).query("attribute == 'race' and kind == 'pmt'").iloc[0]
    # Three persons: one in 27 resamples is the lowest three times, more than 2.5%.
    assert (line["low"], line["high"]) == pytest.approx((0.1, 0.7))


def test_ages_detection_and_clean_pairs_are_plain_loops():
    block = made_up_block(2)
    values = block.estimates.result.values
    for line in experiments.age_table([block]).to_dict("records"):
        gaps = values["years"]["faceres"][line["kind"]]
        assert line["years"] == pytest.approx(sum(gaps) / len(gaps))
        assert line["n"] == len(gaps)
    for line in experiments.detection_table([block]).to_dict("records"):
        found = values["detected"][line["kind"]]
        assert (line["found"], line["n"]) == (sum(found), 30)
        assert (line["low"], line["high"]) == pytest.approx(wilson_by_hand(sum(found), 30), abs=1e-9)
    clean = experiments.clean_table([block], SETTINGS)
    assert len(clean) == 6
    for line in clean.to_dict("records"):
        held = values["clean"]["years"]["faceres"]
        if line["measure"] == "agreement":
            held = values["clean"]["networks"][line["network"]][line["attribute"]]["agrees"]
        assert line["same"] == pytest.approx(sum(held[::2]) / 10)
        assert line["different"] == pytest.approx(sum(held[1::2]) / 10)


def test_pooling_joins_the_images_of_all_sets():
    blocks = [made_up_block(3), made_up_block(4, "cfp_ff", n=20)]
    single = experiments.attribute_table(blocks, SETTINGS)
    for line in experiments.attribute_table(blocks, SETTINGS, pooled=True).to_dict("records"):
        keys = ("network", "attribute", "kind")
        parts = [one for one in single.to_dict("records") if all(one[key] == line[key] for key in keys)]
        assert [part["dataset"] for part in parts] == ["lfw", "cfp_ff"]
        assert line["n"] == sum(part["n"] for part in parts)
        assert line["cossim"] == pytest.approx(sum(part["cossim"] * part["n"] for part in parts) / line["n"])


@pytest.mark.parametrize(
    ("level", "verdict", "found"),
    [
        ({"noisy": 0.8, "pmt": 0.1}, "holds", "holds"),
        ({"noisy": 0.1, "pmt": 0.8}, "does not hold", "does not hold"),
    ],
)
def test_the_claim_is_judged_by_the_interval_of_the_paired_difference(level, verdict, found):
    block = made_up_block(5, level=level)
    values = block.estimates.result.values
    compared = experiments.comparison([block], SETTINGS)
    for line in compared.to_dict("records"):
        if line["measure"] == "years":
            noisy, pmt = (values["years"]["faceres"][kind] for kind in ("noisy", "pmt"))
            gaps = [b - a for a, b in zip(noisy, pmt, strict=True)]
        else:
            entry = values["networks"][line["network"]][line["attribute"]]
            gaps = [a - b for a, b in zip(entry["noisy"]["cosine"], entry["pmt"]["cosine"], strict=True)]
            assert line["verdict"] == verdict
        assert line["more"] == pytest.approx(sum(gaps) / len(gaps))
    # Where a network tells years, the paper's measure of age takes the place of its age vectors.
    assert sorted(zip(compared["network"], compared["measure"], strict=True)) == [
        ("faceres", "cossim"), ("faceres", "years"), ("fer-big-xception", "cossim"), ("gear", "cossim"),
        ("gear", "cossim"),
    ]  # fmt: skip
    by_attribute = experiments.verdicts(compared)
    assert {by_attribute[name] for name in ("emotion", "race", "gender")} == {found}
    text = experiments.reading([block], SETTINGS)
    assert f"**Emotion: {experiments.MOMENT}.**" in text
    # Only those speak that tell the attribute on photographs; of emotions, which are of the moment, none can show it.
    known = {(line["network"], line["attribute"]) for _, line in experiments.clean_table([block], SETTINGS).iterrows()
             if line["tells"]}  # fmt: skip
    for attribute in ("race", "gender"):
        able = any(one == attribute for _, one in known)
        assert f"**{attribute.capitalize()}: {found if able else experiments.UNTOLD}.**" in text
    cells = experiments.attribute_table([block], SETTINGS).query("kind == 'blurred'")
    count = sum((line["network"], line["attribute"]) in known for _, line in cells.iterrows())
    assert f" of {count} network–attribute cells that can be judged" in text
    # None of these made-up networks tells anything of photographs, so that none speaks against half the noise either.
    assert (
        "the claim cannot be judged here: by networks that tell the attribute on photographs more in 0, less in 0"
        in text
    )


def test_against_half_the_noise_those_speak_that_tell_the_attribute_on_photographs():
    block = made_up_block(5, level={"pmt": 0.1, "weaker": 0.8})
    values = block.estimates.result.values
    values["clean"]["networks"]["gear"]["race"]["agrees"] = values["clean"]["same"]
    # The one that tells is confused less, the others more.
    entry = values["networks"]["gear"]["race"]
    entry["pmt"]["cosine"], entry["weaker"]["cosine"] = entry["weaker"]["cosine"], entry["pmt"]["cosine"]
    told = r"the claim does not hold: .* on photographs more in 0, less in 1 \(by all, of 5, in 3 and 1\)"
    assert re.search(told, experiments.reading([block], SETTINGS))
    (claim, *_) = experiments.claims([block], SETTINGS)
    assert "in [−1, 1], in 0 and 1, of all in 3 and 1;" in claim.measured


def test_mixed_comparisons_hold_in_part():
    right, wrong = ({"noisy": 0.8, "pmt": 0.1}, {"noisy": 0.1, "pmt": 0.8})
    blocks = [made_up_block(6, level=right), made_up_block(7, "cfp_ff", level=wrong)]
    compared = experiments.comparison(blocks, SETTINGS)
    assert experiments.verdicts(compared)["emotion"] == "holds in part"


def test_a_claim_fails_where_more_comparisons_are_the_other_way():
    right, wrong = ({"noisy": 0.8, "pmt": 0.1}, {"noisy": 0.1, "pmt": 0.8})
    others = [made_up_block(7 + i, name, level=wrong) for i, name in enumerate(("cfp_ff", "calfw"))]
    blocks = [made_up_block(6, level=right), *others]
    assert experiments.verdicts(experiments.comparison(blocks, SETTINGS))["emotion"] == "does not hold"


def test_the_summary_is_the_pooled_tables():
    blocks = [made_up_block(8), made_up_block(9, "cfp_ff", level={"noisy": 0.1, "weaker": 0.9, "pmt": 0.8})]
    for block in blocks:
        clean = block.estimates.result.values["clean"]
        clean["networks"]["gear"]["race"]["agrees"] = clean["same"]
    summary = experiments.summary(blocks, SETTINGS)
    gaps = [gap for block in blocks for gap in block.estimates.result.values["years"]["faceres"]["pmt"]]
    assert summary["faceres_age_pmt_years"] == pytest.approx(sum(gaps) / 60, abs=1e-3)
    found = [value for block in blocks for value in block.estimates.result.values["detected"]["blurred"]]
    assert summary["detected_blurred"] == pytest.approx(100 * sum(found) / 60, abs=1e-3)
    assert summary["images"] == 60
    # Of what no network tells on photographs nothing is counted.
    for against, name in (("noisy", "compared"), ("weaker", "weaker")):
        lines = experiments.comparison(blocks, SETTINGS, against=against).to_dict("records")
        verdicts = [line["verdict"] for line in lines if (line["network"], line["attribute"]) == ("gear", "race")]
        assert summary["compared"] == len(verdicts) == 2
        assert summary[f"{name}_more"] == verdicts.count("holds")
        assert summary[f"{name}_less"] == verdicts.count("does not hold")
    assert (summary["compared_less"], summary["weaker_less"]) == (1, 0)
    assert "fer_big_xception_emotion_pmt_cossim" in summary
    assert experiments.paper_means()["pmt"]["emotion"] == pytest.approx((0.31 + 0.32 + 0.37 + 0.40) / 4)
    assert experiments.paper_means()["noisy"]["age"] == pytest.approx((5.1 + 3.72 + 5.95 + 4.2) / 4)


def test_tables_and_figures_show_the_lines():
    block = made_up_block(10)
    table, ages = experiments.attribute_table([block], SETTINGS), experiments.age_table([block])
    html = figures.table8(table, ages, "lfw", SETTINGS).to_html()
    for line in [*table.to_dict("records")]:
        assert f"{line['cossim']:.2f}<br>[{line['low']:.2f}, {line['high']:.2f}]" in html
    for line in ages.to_dict("records"):
        assert f"{line['years']:.1f}<br>[{line['low']:.1f}, {line['high']:.1f}]" in html
    labels = figures.agreement_table(table, "lfw").to_html()
    for line in table.to_dict("records"):
        assert f"{100 * line['agreement']:.1f}<br>" in labels
    paper = experiments.paper_table("table8")
    assert "0.31" in figures.paper_table8(paper, "lfw").to_html()
    points = figures.similarity_figure(table, SETTINGS).axes[0]
    heights = sorted(float(line.get_ydata()[0]) for line in points.lines if line.get_marker() in ("o", "s", "D", "v"))
    assert heights == pytest.approx(sorted(table["cossim"]))
    assert figures.comparison_table(experiments.comparison([block], SETTINGS)).to_html().count("PMT(x) confuses") == 1
    assert "n = 10" in figures.clean_table(experiments.clean_table([block], SETTINGS)).to_html()
    assert "n = 30" in figures.detection_table(experiments.detection_table([block])).to_html()
    assert figures.provenance_table([block]).to_html().count("2026-01-01") == 1


def test_without_any_result_there_is_nothing_and_it_is_said():
    absent = Outcome(None, "not run: data not present")
    block = AttributesBlock("calfw", absent, absent)
    assert experiments.not_run([block]) == ["CALFW: not run: data not present"]
    assert experiments.reading([block], SETTINGS) == "Nothing was measured."
    assert experiments.attribute_table([block], SETTINGS).empty
    assert experiments.summary([block], SETTINGS) == {}
    assert len(figures.similarity_figure(experiments.attribute_table([block], SETTINGS), SETTINGS).axes) == 1
    assert experiments.not_run([made_up_block()]) == ["LFW, DeepFace: not run: its weights are not present"]


def test_everyone_is_compared_with_somebody_else():
    names = ["a", "a", "b", "c", "d", "d", "e"]
    partner = experiments.different_people(names, 0)
    assert sorted(partner) == list(range(7))
    assert all(names[i] != names[j] for i, j in enumerate(partner))
    assert (partner == experiments.different_people(names, 0)).all()
    assert (experiments.different_people(["a", "a"], 0) == -1).all()
    # Three photographs of one person among four: only two of the four can be matched in a cycle.
    some = experiments.different_people(["a", "a", "a", "b"], 0)
    assert sorted(some >= 0) == [False, False, True, True]


LABELS = ("one", "two", "three")


def brightness(images: torch.Tensor, networks, *_arguments) -> AttributeEstimates:
    """An attribute network of which the answers can be told by hand: the shares of red, green and blue."""
    shares = images.mean((2, 3)).numpy().astype(np.float64)
    return AttributeEstimates(
        {name: {"race": shares / shares.sum(1, keepdims=True)} for name in networks},
        {name: {"race": LABELS} for name in networks},
        {networks[0]: 100 * shares[:, 0]},
    )


@pytest.fixture
def bench(tmp_path, monkeypatch) -> Attributes:
    from PIL import Image

    monkeypatch.setenv("PMT_RESULTS", str(tmp_path / "results"))
    draw = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        Image.fromarray(draw.integers(0, 256, (112, 112, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "pairs.csv").write_text("img1,img2,same\na.png,b.png,1\nb.png,c.png,0\n")
    pairs = datasets.load(str(tmp_path / "pairs.csv"))
    monkeypatch.setattr(experiments, "estimate", brightness)
    monkeypatch.setattr(experiments, "own_detector_finds", lambda images: np.arange(len(images)) % 2 == 0)
    monkeypatch.setattr(experiments.attribute_zoo, "available", lambda name: True)
    monkeypatch.setattr(experiments, "deepface_available", lambda **_: False)

    def untrained(*_arguments):
        raise AssetError("no trained RecFace")

    monkeypatch.setattr(experiments, "trained_recface", untrained)
    settings = SETTINGS.model_copy(update={"store": True, "attribute_networks": ("gear",), "pairs": 2})
    bench = Attributes(settings, torch.device("cpu"))
    monkeypatch.setattr(Attributes, "sample", lambda self, name: pairs)

    def uploads(self: Attributes, originals: torch.Tensor, _description: str) -> dict[str, torch.Tensor]:
        return {kind: originals ** (1 + place) for place, kind in enumerate(("original", *UPLOADS))}

    monkeypatch.setattr(Attributes, "uploads", uploads)
    return bench


def test_what_is_stored_compares_each_upload_with_its_photograph(bench):
    (block,) = bench.run()
    values = block.estimates.result.values
    pairs = bench.sample("lfw")
    originals = pairs.tensor([0, 1, 2])
    shares = originals.mean((2, 3)).numpy().astype(np.float64)
    squared = (originals**2).mean((2, 3)).numpy().astype(np.float64)
    first = sorted(set(pairs.pairs[:, 0].tolist()))
    entry = values["networks"]["gear"]["race"]
    for place, index in enumerate(first):
        own, upload = shares[index], squared[index]
        cosine = sum(own * upload) / math.sqrt(sum(own**2) * sum(upload**2))
        assert entry["noisy"]["cosine"][place] == pytest.approx(cosine, abs=1e-5)
        assert entry["noisy"]["agrees"][place] == int(own.argmax() == upload.argmax())
        assert entry["original"][place] == own.argmax()
        assert values["years"]["gear"]["noisy"][place] == pytest.approx(100 * abs(own[0] - upload[0]), abs=1e-4)
    assert values["detected"]["pmt"] == [1, 0]
    for place, (one, two) in enumerate(pairs.pairs):
        cosine = shares[one] @ shares[two] / np.linalg.norm(shares[one]) / np.linalg.norm(shares[two])
        assert values["clean"]["networks"]["gear"]["race"]["cosine"][place] == pytest.approx(cosine, abs=1e-5)
    assert block.deepface == Outcome(None, "not run: its weights are not present")


def test_a_stored_result_shows_without_data_and_without_weights(bench, monkeypatch):
    (first,) = bench.run()
    monkeypatch.setattr(experiments.attribute_zoo, "available", lambda name: False)
    (again,) = bench.run()
    assert again.estimates.result.values == first.estimates.result.values
    monkeypatch.setattr(Attributes, "sample", lambda self, name: DatasetError("lfw: not found"))
    (absent,) = bench.run()
    assert absent.estimates.result.values == first.estimates.result.values
    assert absent.deepface.note == "not run: data not present"


def test_a_network_without_weights_is_left_out_and_the_rest_not_stored(bench, monkeypatch, tmp_path):
    settings = bench.settings.model_copy(update={"attribute_networks": ("gear", "faceres")})
    monkeypatch.setattr(experiments.attribute_zoo, "available", lambda name: name == "gear")
    (block,) = Attributes(settings, torch.device("cpu")).run()
    assert list(block.estimates.result.values["networks"]) == ["gear"]
    assert "LFW, faceres: not run: its weights are not present" in experiments.not_run([block])
    assert not list((tmp_path / "results").rglob("*.json"))
    monkeypatch.setattr(experiments.attribute_zoo, "available", lambda name: False)
    (none,) = Attributes(settings, torch.device("cpu")).run()
    assert none.estimates == Outcome(None, "not run: no attribute network's weights are present")


def test_faces_rebuilt_from_features_are_held_against_the_photograph(bench, monkeypatch, tmp_path):
    (block,) = bench.run()
    assert block.features == Outcome(None, "not run: weights not present: no trained RecFace")
    assert experiments.features_reading([block], bench.settings) == "Nothing was measured."

    class Shallow:
        def feature(self, images: torch.Tensor) -> torch.Tensor:
            return images.flip(1)

    # The features of an image are its channels in the other order, and the attacker's network knows no better.
    monkeypatch.setattr(experiments, "trained_recface", lambda *_: (tmp_path / "recface", None))
    monkeypatch.setattr(experiments, "load_recface", lambda *_: lambda features: features)
    monkeypatch.setattr(Attributes, "shallow", lambda self, name: Shallow())
    (block,) = bench.run()
    entry = block.features.result.values["networks"]["gear"]["race"]
    pairs = bench.sample("lfw")
    for place, index in enumerate(sorted(set(pairs.pairs[:, 0].tolist()))):
        own = pairs.tensor([index])[0].double().mean((1, 2)).numpy()
        for kind, power in (("rebuilt", 1), ("rebuilt_noisy", 2), ("rebuilt_pmt", 4)):
            image = (pairs.tensor([index])[0] ** power).mul(255).round().div(255)
            seen = image.double().mean((1, 2)).numpy()[::-1]
            cosine = sum(own * seen) / math.sqrt(sum(own**2) * sum(seen**2))
            assert entry[kind]["cosine"][place] == pytest.approx(cosine, abs=2e-4)
            assert entry[kind]["agrees"][place] == int(own.argmax() == seen.argmax())
    assert experiments.features_reading([block], bench.settings).startswith("No network here tells an attribute")
    assert len(experiments.claims([block], bench.settings)) == 1
    tells = pd.DataFrame([{"network": "gear", "attribute": "race", "tells": True}])
    monkeypatch.setattr(experiments, "clean_table", lambda *_, **__: tells)
    assert "n = 2 images" in experiments.features_reading([block], bench.settings)
    assert experiments.claims([block], bench.settings)[1].verdict == "cannot be judged here"
    table = experiments.attribute_table(
        experiments.of_features([block]), bench.settings, kinds=experiments.FACES_OF_FEATURES
    )
    assert "from features of PMT(x)" in figures.agreement_table(table, "lfw", experiments.FACES_OF_FEATURES).to_html()
    ages = experiments.age_table(experiments.of_features([block]), kinds=experiments.FACES_OF_FEATURES)
    assert "from features of x" in figures.years_table(ages, experiments.FACES_OF_FEATURES).to_html()


def test_deepface_has_a_result_of_its_own_and_an_undetected_face_tells_nothing(bench, monkeypatch):
    def told(images: np.ndarray, detector: str) -> AttributeEstimates:
        count = len(images)
        rows = np.tile([0.2, 0.8], (count, 1))
        years = np.full(count, 30.0)
        if detector != "skip":
            rows[1:], years[1:] = np.nan, np.nan
        return AttributeEstimates(
            {"deepface": {"gender": rows}}, {"deepface": {"gender": ("Woman", "Man")}}, {"deepface": years}
        )

    monkeypatch.setattr(experiments, "deepface_available", lambda **_: True)
    monkeypatch.setattr(experiments, "deepface_estimate", told)
    monkeypatch.setattr(experiments.importlib.metadata, "version", lambda name: "1.0")
    (block,) = bench.run()
    entry = block.deepface.result.values["networks"]["deepface-opencv"]["gender"]
    assert entry["pmt"]["cosine"] == [1.0, None]
    assert entry["pmt"]["agrees"] == [1, 0]
    assert entry["pmt"]["named"] == [1, -1]
    table = experiments.attribute_table([block], bench.settings).set_index(["network", "kind"])
    assert table.loc[("deepface-opencv", "pmt"), "agreement"] == 0.5
    assert table.loc[("deepface-skip", "pmt"), "agreement"] == 1.0
    assert block.deepface.result.request.name == "lfw--deepface"
