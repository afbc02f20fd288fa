"""Section 6.3: tables are plain means of what is stored, verdicts follow from them, and the noise is PMT's shuffled."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch

from pmtlib import assets, results
from pmtlib.errors import AssetError, ConfigError, DatasetError
from pmtlib.experiments import common
from pmtlib.experiments import reconstruction as experiments
from pmtlib.experiments.claims import HOLDS, IN_PART, NOT
from pmtlib.experiments.common import Outcome
from pmtlib.experiments.reconstruction import (
    ADAM,
    ATTACKS,
    BLACK_BOX,
    IMAGE,
    NOISE,
    PMT,
    SIGN,
    UNPROTECTED,
    ReconstructionBlock,
    ReconstructionSettings,
)
from pmtlib.figures import reconstruction as figures
from pmtlib.transform import PMTConfig

NETWORKS = ("mobilefacenet", "sface")
THRESHOLDS = {"mobilefacenet": 0.37, "sface": 0.45}
SETTINGS = ReconstructionSettings(datasets=("lfw",), networks=NETWORKS, more_steps=(100,), pmt=PMTConfig(steps=1))
CURVE = [
    {"step": 0, "train_loss": None, "val_ssim": 0.9, "val_psnr": 30.0, "seconds": 0.0},
    {"step": 10, "train_loss": 0.1, "val_ssim": 0.95, "val_psnr": 33.0, "seconds": 60.0},
]
LEVELS = {UNPROTECTED: 0.8, NOISE: 0.6, PMT: 0.3, "pmt-100": 0.7}


def outcome(name: str, values: dict) -> Outcome:
    request = results.Request("reconstruction", name, 1, {})
    manifest = {"date": "2026-01-01", "seconds": 1, "hardware": {"device": "cpu"}, "packages": {"torch": "2"}}
    return Outcome(results.Result(request, {"name": "lfw", "fingerprint": "f", "n": 30}, values, manifest))


def made_up_block(seed: int = 0, n: int = 30, levels: dict[str, float] = LEVELS, cosine: float = 0.9):
    """Random measures in the stored form, to check arithmetic with; they measure nothing."""
    draw = np.random.default_rng(seed)

    def measures(level: float) -> dict:
        return {
            "ssim": (level + draw.uniform(-0.02, 0.02, n)).round(5).tolist(),
            "psnr": draw.uniform(10, 30, n).round(5).tolist(),
            "cosine": {name: (cosine - draw.uniform(0, 1, n)).round(5).tolist() for name in NETWORKS},
        }

    clean = outcome("lfw", {"networks": {name: {"threshold": kappa} for name, kappa in THRESHOLDS.items()}})
    features = {
        row: {name: draw.uniform(0, 1, n).round(5).tolist() for name in ("error", "cosine", "service")}
        for row in LEVELS
    }
    uploads = outcome(
        "lfw--uploads", {"features": features, "images": {row: measures(0.1) for row in (PMT, "pmt-100")}}
    )
    people = {"name": "lfw_rest", "training_images": 20, "validation_images": 4}
    about = {"demonstration": False, "people": people, "identities": 9, "curve": CURVE, "seconds": 60.0}
    attacks = {}
    for attack in ATTACKS:
        extra = {"recface": about} if attack == BLACK_BOX else {}
        rows = {row: measures(levels[row]) for row in (UNPROTECTED, NOISE, PMT)}
        more = {"pmt-100": measures(levels["pmt-100"])}
        attacks[attack] = [
            outcome(f"lfw--{attack}", {"uploads": rows, **extra}),
            outcome(f"lfw--{attack}-k100", {"uploads": more, **extra}),
        ]
    return ReconstructionBlock("lfw", clean, uploads, attacks)


def everything(block: ReconstructionBlock):
    cells = experiments.table([block], SETTINGS)
    features = experiments.features_table([block])
    return cells, features, experiments.summary(cells, features, SETTINGS)


def test_every_line_is_a_mean_of_the_stored_values():
    block = made_up_block()
    cells, _, _ = everything(block)
    for line in cells.to_dict("records"):
        if line["attack"] == IMAGE:
            stored = block.uploads.result.values["images"][line["upload"]]
        else:
            place = 1 if line["upload"] == "pmt-100" else 0
            stored = block.attacks[line["attack"]][place].result.values["uploads"][line["upload"]]
        if line["measure"] in ("ssim", "psnr"):
            numbers = stored[line["measure"]]
        elif line["measure"] == "cosine":
            numbers = stored["cosine"][line["network"]]
        else:
            kappa = 0.2 if line["measure"] == "srra" else THRESHOLDS[line["network"]]
            numbers = [1.0 if value > kappa else 0.0 for value in stored["cosine"][line["network"]]]
        assert line["mean"] == pytest.approx(sum(numbers) / len(numbers))
        assert line["low"] <= line["mean"] <= line["high"]
        assert line["n"] == 30
    # The image itself in 2 rows and 3 attacks on 4 rows; 2 of pixels, and 3 for each of 2 networks.
    assert len(cells) == (2 + 3 * 4) * (2 + 3 * 2)


def test_the_summary_tells_the_authorised_network_from_the_others():
    block = made_up_block(1)
    _, features, summary = everything(block)
    stored = block.attacks[ADAM][0].result.values["uploads"][PMT]
    own = stored["cosine"]["mobilefacenet"]
    assert summary["white_box_adam_pmt_ssim"] == pytest.approx(sum(stored["ssim"]) / 30, abs=1e-3)
    assert summary["white_box_adam_pmt_cosine"] == pytest.approx(sum(own) / 30, abs=1e-3)
    assert summary["white_box_adam_pmt_srra"] == pytest.approx(100 * sum(v > 0.2 for v in own) / 30, abs=1e-3)
    others = sum(value > THRESHOLDS["sface"] for value in stored["cosine"]["sface"])
    assert summary["white_box_adam_pmt_others"] == pytest.approx(100 * others / 30, abs=1e-3)
    error = block.uploads.result.values["features"][PMT]["error"]
    assert summary["pmt_error"] == pytest.approx(sum(error) / 30, abs=1e-3)
    assert set(features["upload"]) == set(LEVELS)


def test_verdicts_follow_from_the_numbers():
    said = experiments.verdicts([made_up_block()], everything(made_up_block())[0], SETTINGS)
    assert said["hidden"] == NOT
    assert said["noise"] == HOLDS
    assert said["attack"] == said["recognised"] == NOT  # cosines spread widely below 0.9
    as_printed = made_up_block(levels={**LEVELS, PMT: 0.03}, cosine=1.4)
    cells, features, _ = everything(as_printed)
    said = experiments.verdicts([as_printed], cells, SETTINGS)
    assert said["attack"] == said["hidden"] == said["recognised"] == said["noise"] == HOLDS
    assert said["noise_cosine"] == NOT
    text = experiments.reading([as_printed], cells, features, SETTINGS)
    assert "less well than unprotected" in text
    equal = made_up_block(levels={**LEVELS, PMT: 0.79})
    cells, features, summary = everything(equal)
    text = experiments.reading([equal], cells, features, SETTINGS)
    assert "nearly as well as unprotected ones by" in text
    assert f"{100 * summary['pmt_error']:.0f}% of their squared norm" in text
    one = ReconstructionBlock("lfw", equal.clean, equal.uploads, {**as_printed.attacks, SIGN: equal.attacks[SIGN]})
    assert experiments.verdicts([one], everything(one)[0], SETTINGS)["hidden"] == IN_PART


def test_what_is_recognised_is_judged_at_both_thresholds():
    """Cosines between the paper's threshold and the network's own: the paper names neither."""
    block = made_up_block()
    for attack in (BLACK_BOX, SIGN):
        block.measured(attack)[NOISE]["cosine"]["mobilefacenet"][:] = [0.3] * 30
    said = experiments.verdicts([block], everything(block)[0], SETTINGS)
    assert said["noise_recognised"] == f"{HOLDS} at κ = 0.2, {NOT} at the service's own threshold"
    assert experiments.verdicts([block], everything(block)[0], SETTINGS)["noise"] == HOLDS
    assert experiments.reversed_parts([block], SETTINGS)["noise"] == ""
    # By one attack noise hides more, surely: as much evidence as for the opposite by the other.
    block.measured(BLACK_BOX)[NOISE]["ssim"][:] = [0.0] * 30
    assert experiments.verdicts([block], everything(block)[0], SETTINGS)["noise"] == IN_PART
    told = "holds for the white box, reversed for the black box"
    assert experiments.reversed_parts([block], SETTINGS)["noise"] == told
    held = {claim.says: claim for claim in experiments.claims([block], everything(block)[0], SETTINGS)}
    less = held["random noise of the same amplitude hides less by SSIM"]
    assert (less.verdict, less.measured.endswith(f"; {told}")) == (IN_PART, True)
    cells, features, _ = everything(block)
    assert f"by SSIM it holds in part ({told})." in experiments.reading([block], cells, features, SETTINGS)
    block.measured(BLACK_BOX)[NOISE]["ssim"][:] = [0.99] * 30
    alone = SETTINGS.model_copy(update={"kappa_excluded": ("mobilefacenet",)})
    cells = experiments.table([block], alone)
    assert experiments.verdicts([block], cells, alone)["noise_recognised"] == NOT
    found = {claim.says: claim for claim in experiments.claims([block], cells, alone)}
    assert "κ" not in found["what is made of noisy features is recognised all the same"].measured


def test_the_claims_are_the_means_of_what_is_stored():
    blocks = [made_up_block()]
    cells, _, _ = everything(blocks[0])
    found = {claim.says: claim for claim in experiments.claims(blocks, cells, SETTINGS)}
    hidden = found["PMT's features do not"]
    assert hidden.verdict == experiments.verdicts(blocks, cells, SETTINGS)["hidden"]
    for attack in (BLACK_BOX, SIGN):
        stored = blocks[0].measured(attack)[PMT]
        assert f"{attack.split('-')[0]} box {np.mean(stored['ssim']):.2f} [" in hidden.measured
        accepted = np.mean(np.array(stored["cosine"]["sface"]) > THRESHOLDS["sface"])
        assert f"{100 * accepted:.0f}% [" in hidden.measured
    served = found["the service still recognises what is made of them"].measured
    own = np.array(blocks[0].measured(SIGN)[PMT]["cosine"]["mobilefacenet"]) > THRESHOLDS["mobilefacenet"]
    assert f"white box {100 * own.mean():.0f}% [" in served
    usual = np.array(blocks[0].measured(SIGN)[PMT]["cosine"]["mobilefacenet"]) > SETTINGS.kappa
    assert usual.mean() != own.mean()
    assert f"white box {100 * usual.mean():.0f}% [" in served.partition(" at its own threshold; at κ = 0.2")[2]
    assert hidden.paper == "black box 0.02 to 0.03; white box 0.02 to 0.03"


def test_the_control_without_clipping_is_told_by_what_is_stored():
    draw = np.random.default_rng(3)
    block = made_up_block()
    stored = {
        str(steps): {
            "ssim": draw.uniform(level - 0.02, level + 0.02, 30).round(5).tolist(),
            "cosine": {name: draw.uniform(0, 1, 30).round(5).tolist() for name in NETWORKS},
        }
        for steps, level in ((1, 0.1), (2, 0.9))
    }
    features = {
        steps: {"error": draw.uniform(0, 1, 30).tolist(), "cosine": [0.5] * 30, "service": [service] * 30}
        for steps, service in (("1", 0.3), ("2", 0.5))
    }
    outside = {steps: [0.25] * 30 for steps in features}
    free = outcome("lfw--unclipped", {"features": features, "uploads": stored, "outside": outside})
    block = dataclasses.replace(block, unclipped=free)
    assert [label for label, _ in block.outcomes()][-1] == "without clipping"
    frame = experiments.clipping_table([block], SETTINGS)
    assert list(zip(frame["clipped"], frame["steps"], strict=True)) == [(True, 1), (True, 100), (False, 1), (False, 2)]
    for line in frame[~frame["clipped"]].to_dict("records"):
        one = stored[str(line["steps"])]
        assert line["ssim"] == pytest.approx(np.mean(one["ssim"]))
        assert line["others"] == pytest.approx(np.mean(np.array(one["cosine"]["sface"]) > THRESHOLDS["sface"]))
        assert (line["outside"], line["n"]) == (0.25, 30)
        assert line["error"] == pytest.approx(np.mean(features[str(line["steps"])]["error"]))
    # The service's own threshold is 0.37.
    assert frame[~frame["clipped"]]["served"].tolist() == [0.0, 1.0]
    said = experiments.clipping_reading(frame)
    assert "Only at K = 2 the service is served (recognises at least 90% on each set); an SSIM of 0.90 is left" in said
    assert "Of identity less is left: other networks recognise" in said
    assert "recognises 100%" in said
    # One photograph in thirty that is not recognised does not make the service unserved, and neither does the order.
    soon = frame.assign(served=frame["served"].where(frame["clipped"] | (frame["steps"] != 1), 29 / 30), others=1.0)
    assert "Already at K = 1 the service is served" in experiments.clipping_reading(soon)
    assert "Identity leaks all the same: other networks recognise 100%" in experiments.clipping_reading(soon)
    missed = pd.concat([soon, soon[~soon["clipped"]].assign(dataset="cfp_ff", served=0.89)])
    assert "At none of these K is the service served (recognises" in experiments.clipping_reading(missed)
    hidden = experiments.claims([block], everything(block)[0], SETTINGS)[1].measured
    assert f"the black box makes {np.mean(stored['1']['ssim']):.2f} [" in hidden
    assert hidden.endswith("at the same K")
    assert "not clipped" not in experiments.claims([made_up_block()], everything(block)[0], SETTINGS)[1].measured
    never = frame[(frame["steps"] == 1) | frame["clipped"]]
    assert "At none of these K" in experiments.clipping_reading(never)
    html = figures.clipping_table(frame, SETTINGS).to_html()
    assert html.count("not clipped") >= 1
    assert f"{frame['ssim'].iloc[-1]:.2f} [{frame['ssim_low'].iloc[-1]:.2f}, " in html
    without = experiments.clipping_table([made_up_block()], SETTINGS)
    assert list(without.columns) == list(frame.columns)
    assert experiments.clipping_reading(without) == "*Not run: PMT without clipping.*"


def test_nothing_measured_is_said():
    empty = ReconstructionBlock("lfw", Outcome(None, "x"), Outcome(None, "x"), {BLACK_BOX: [Outcome(None, "x")]})
    cells, features, summary = everything(empty)
    assert list(cells.columns) == list(everything(made_up_block())[0].columns)
    assert summary == {}
    assert experiments.reading([empty], cells, features, SETTINGS) == "Nothing was measured."
    assert experiments.claims([empty], cells, SETTINGS) == []
    assert experiments.not_run([empty]) == ["LFW: x"]
    assert experiments.training([empty]) is None
    assert "not run" in experiments.training_text(None)


def test_what_was_not_run_is_named():
    block = made_up_block()
    lack = Outcome(None, "not run: weights not present: no trained RecFace")
    partly = ReconstructionBlock("lfw", block.clean, block.uploads, {**block.attacks, BLACK_BOX: [lack, lack]})
    assert experiments.not_run([partly]) == [
        f"LFW, black-box: {lack.note}",
        f"LFW, black-box, further K: {lack.note}",
    ]
    cells, features, _ = everything(partly)
    assert BLACK_BOX not in set(cells["attack"])
    assert "Not measured: black box" in experiments.reading([partly], cells, features, SETTINGS)


def test_the_noise_has_the_values_of_the_perturbation_in_another_order():
    perturbation = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    noise = experiments.shuffled(perturbation, 0)
    assert noise.shape == perturbation.shape
    for mine, theirs in zip(noise, perturbation, strict=True):
        assert sorted(mine.flatten().tolist()) == sorted(theirs.flatten().tolist())
        assert not torch.equal(mine, theirs)
    assert torch.equal(experiments.shuffled(perturbation, 0), noise)
    assert not torch.equal(experiments.shuffled(perturbation, 1), noise)
    # Images do not share an order.
    twice = experiments.shuffled(perturbation[:1].repeat(2, 1, 1, 1), 0)
    assert not torch.equal(twice[0], twice[1])


def test_tables_and_figures_show_the_numbers_beside_the_papers():
    block = made_up_block(3)
    cells, features, _ = everything(block)
    html = figures.table6(cells, "lfw", SETTINGS).to_html()
    for line in cells[cells["measure"] == "ssim"].to_dict("records"):
        assert f"{line['mean']:.2f}<br>[{line['low']:.2f}, {line['high']:.2f}]" in html
    for value in ("0.62", "14.61", "34.40", "0.03", "11.21", "0.71"):
        assert f">{value}<" in html
    assert "n = 30" in html
    assert "demonstration" not in html
    assert "demonstration" in figures.table6(cells.assign(dataset="samples"), "samples", SETTINGS).to_html()
    assert "bold" in figures.recognition_table(cells, "lfw", SETTINGS).to_html()
    assert "further K" in figures.provenance_table([block]).to_html()
    assert figures.features_table(features, SETTINGS).to_html().count("<tr>") == 2 + len(LEVELS)
    assert "tv_weight" in figures.inversion_table(SETTINGS).to_html()
    about = experiments.training([block])
    assert "20 photographs" in experiments.training_text(about)
    curve = figures.training_curve(about)
    assert curve.axes[0].lines[0].get_ydata().tolist() == [0.9, 0.95]
    assert curve.axes[1].lines[0].get_ydata().tolist() == [0.1]
    assert figures.training_curve({**about, "curve": []}) is None
    figure = figures.ssim_distributions([block], SETTINGS)
    shown = [line.get_ydata() for line in figure.axes[0].lines if line.get_marker() == "."]
    stored = [block.measured(BLACK_BOX)[row]["ssim"] for row in LEVELS]
    assert [values.tolist() for values in shown] == stored
    diamonds = [line.get_ydata()[0] for line in figure.axes[1].lines if line.get_marker() == "D"]
    assert diamonds == [0.62, 0.38, 0.03]


def test_the_range_of_the_paper_that_the_page_quotes():
    rows = common.paper_table("table6")["datasets"].values()

    def found(attack: str, row: str) -> tuple[float, float]:
        values = [block[row][attack][0] for block in rows]
        return min(values), max(values)

    assert found("black_box", "Unprotected") == (0.98, 0.99)
    assert found("white_box", "Unprotected") == (0.53, 0.62)
    assert found("black_box", "Ours") == found("white_box", "Ours") == (0.02, 0.03)
    source = "".join(
        "".join(cell["source"])
        for cell in json.loads((common.paths.project_dir() / "notebooks" / "reconstruction.ipynb").read_text("utf-8"))[
            "cells"
        ]
    ).replace("\n", " ")
    assert "0.98 to 0.99 and of 0.53 to 0.62; from PMT's, 0.02 to 0.03" in source


def test_settings_come_from_the_profiles(monkeypatch):
    monkeypatch.delenv("PMT_PROFILE", raising=False)
    paper = experiments.reconstruction_settings("paper")
    abuse = common.profile_values("abuse", "paper")
    # The same pairs and networks, so that the thresholds of Section 6.4 are found.
    for name in ("networks", "pairs", "calibration_pairs", "pmt"):
        ours = common.profile_values("reconstruction", "paper")[name]
        assert ours == abuse[name]
    assert paper.store
    assert (paper.white_box_sign.rule, paper.white_box_adam.rule) == ("sign", "adam")
    assert not experiments.reconstruction_settings("quick").store
    with pytest.raises(ConfigError, match="white_box_sign"):
        experiments.reconstruction_settings("quick", white_box_sign={"rule": "climb"})


def test_without_a_trained_recface_the_black_box_is_not_run(monkeypatch):
    def absent(*_args, **_kwargs):
        raise DatasetError("lfw_rest: not found")

    monkeypatch.setattr(experiments.datasets, "load_people", absent)
    bench = experiments.Reconstruction(SETTINGS, torch.device("cpu"))
    with pytest.raises(AssetError, match="cut 5; set PMT_DATA to where lfw_rest is, and run pmt train-recface"):
        bench.recface()


@pytest.mark.slow
def test_the_samples_are_reconstructed_from_real_features():
    for name in ("yunet-onnx", "photo-obama", "mobilefacenet-tflite", "sface-onnx"):
        if not assets.obtainable(name):
            pytest.skip(f"{name} is neither here nor to be fetched")
    settings = experiments.reconstruction_settings("smoke")
    bench = experiments.Reconstruction(settings, torch.device("cpu"))
    (block,) = bench.run()
    if block.clean.result is None:
        pytest.skip(block.clean.note)
    black_box = block.measured(BLACK_BOX)
    # The closed-form start alone gives the unprotected face; with the noise of three steps of PMT it is lost.
    assert min(black_box[UNPROTECTED]["ssim"]) > 0.6
    assert max(black_box[NOISE]["ssim"]) < min(black_box[UNPROTECTED]["ssim"])
    features = block.uploads.result.values["features"]
    assert features[NOISE]["error"] == pytest.approx(features[PMT]["error"], rel=1e-3)
    assert max(features[UNPROTECTED]["error"]) == 0
    assert experiments.training([block])["demonstration"]
