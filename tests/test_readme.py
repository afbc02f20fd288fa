"""What the README says is what is stored, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import typer

from pmtlib import cli
from pmtlib.experiments import abuse as experiments
from pmtlib.experiments import audit, audit_again, audit_frontier, audit_fused, audit_numbers, reconstruction

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def test_its_numbers_are_those_of_the_stored_results(monkeypatch):
    for variable in ("PMT_DATA", "PMT_PROFILE", "PMT_RESULTS"):
        monkeypatch.delenv(variable, raising=False)
    settings = experiments.abuse_settings("paper")
    blocks = experiments.Abuse(settings, torch.device("cpu")).run()
    assert [block.dataset for block in blocks if block.clean.result is not None] == ["lfw", "cfp_ff"]
    summary = experiments.abuse_summary(experiments.abuse_cells(blocks, settings), experiments.abuse_likeness(blocks))
    found = re.search(
        r"service keeps\s+(\S+)% .*?\(clean: (\S+)%\), as long as .*?But other networks have (\S+)% at the paper's.*?"
        r"cells average (\S+)%\. At thresholds of their own they have (\S+)%, and (\S+)% "
        r"after a blur and a contrast stretch; one of the\s+five, SFace, is kept out until then, and uploads for one, "
        r"EdgeFace, leave the others (\S+)%\.",
        README,
        re.DOTALL,
    )
    assert found
    expected = [
        summary["protected_calibrated_authorised_mean"],
        summary["clean_calibrated_mean"],
        summary["protected_paper_unauthorised_mean"],
        experiments.paper_mean(),
        summary["protected_calibrated_unauthorised_mean"],
        summary["purified_calibrated_unauthorised_mean"],
        summary["protected_calibrated_for_lowest"],
    ]
    assert [float(number) for number in found.groups()] == [round(value, 1) for value in expected]
    # SFace is kept out, by the rule of the page, and after the blur nobody is.
    cells = experiments.abuse_cells(blocks, settings)
    others = cells[(cells["threshold"] == "calibrated") & cells["authorised"].notna()]
    others = others[others["authorised"] != others["network"]]
    means = others[others["images"] == "protected"].groupby("authorised")["accuracy"].mean()
    assert means.idxmin() == "edgeface-xs"
    means = others.groupby(["images", "network"])["accuracy"].mean()
    assert set(means[means <= 0.15].index) == {("protected", "sface")}


def test_what_it_says_of_reconstruction_is_stored(monkeypatch):
    for variable in ("PMT_DATA", "PMT_PROFILE", "PMT_RESULTS"):
        monkeypatch.delenv(variable, raising=False)
    settings = reconstruction.reconstruction_settings("paper")
    blocks = reconstruction.Reconstruction(settings, torch.device("cpu")).run()
    cells, features = reconstruction.table(blocks, settings), reconstruction.features_table(blocks)
    summary = reconstruction.summary(cells, features, settings)
    found = re.search(
        r"rebuilds faces at a mean SSIM of (\S+)\s+\(from unprotected features (\S+);.*?take (\S+)% for the photo",
        README,
        re.DOTALL,
    )
    assert found
    expected = (
        f"{summary['black_box_pmt_ssim']:.2f}",
        f"{summary['black_box_unprotected_ssim']:.2f}",
        f"{summary['black_box_pmt_others']:.1f}",
    )
    assert found.groups() == expected


def test_what_it_says_of_the_audit_is_stored(monkeypatch):
    for variable in ("PMT_DATA", "PMT_PROFILE", "PMT_RESULTS"):
        monkeypatch.delenv(variable, raising=False)
    settings = audit.audit_settings("paper")
    bench = audit.Audit(settings, torch.device("cpu"))
    tuned, blocks = bench.run()
    frame = audit_numbers.table(blocks, settings)
    summary = audit_numbers.summary(frame)
    words = " ".join(README.split())
    patterns = (
        (r"person, from (\S+)% to (\S+)% \(of the photographs: (\S+)%\)", ["pmt_upload", "pmt_filters", "pmt_clean"]),
        (r"people's uploads gives them (\S+)%,", ["pmt_learned"]),
        (r"other networks (\S+)% as they are and (\S+)% of the best image", ["deep_upload", "deep_learned"]),
        (r"recognise (\S+)% of deep's uploads,", ["deep_translated"]),
    )
    for pattern, names in patterns:
        found = re.search(pattern, words)
        assert found, pattern
        expected = [round(summary[f"{name}_others"], 1) for name in names]
        assert [float(number) for number in found.groups()] == expected
    rates = audit_numbers.together(frame, blocks, settings).set_index(["variant", "kind", "who"])["accuracy"]
    assert 100 * rates["deep", "translated", "others"] == pytest.approx(summary["deep_translated_others"], abs=1e-3)
    assert 100 * rates["pmt", "upload", "service"] == pytest.approx(summary["pmt_service"], abs=1e-3)
    points = audit_numbers.frontier(blocks, settings, {name: bench.config(name).steps for name in settings.variants})
    after = audit_numbers.frontier_summary(points)[f"deep_k{settings.again_steps}_translated"]
    assert (
        f"translation (below), which restores none, gets {after:.1f}% on the pairs above after so many steps" in words
    )
    assert "K = 25, 104 pairs" in words
    assert (settings.pmt.steps, settings.pairs) == (25, 104)
    assert f"that was chosen beforehand, {bench.config('deep').steps}, it loses" in words
    assert set(audit_numbers.service_summary(audit_numbers.service(blocks)).values()) == {0.0}
    assert "a detector finds no face in those for MobileFaceNet" in words
    assert settings.authorised == "mobilefacenet"
    strongest = list(dict.fromkeys(audit.chosen_filters(tuning, settings)[-1] for tuning in tuned.values()))
    loops = {dataset: [audit_frontier.guarded(bench, dataset, strongest)] for dataset in settings.datasets}
    learned = audit_frontier.loop_summary(audit_frontier.points(loops, settings))["loop_deep_k40_learned"]
    assert f"deep's uploads, and {learned:.1f}% where the head has learned" in words
    together = audit_fused.summary(audit_fused.table(blocks, {}, {}, settings), {})
    assert f"needs no filter: {together['fused_pmt_upload']:.1f}% of the uploads as they are." in words
    assert f"added up, {together['fused_deep_translated']:.1f}% without that" in words
    assert f"where the service itself recognises {summary['deep_service']:.1f}%" in words
    found = re.search(r"service recognises (\S+)% of its uploads \(of photographs (\S+)%\)", words)
    assert found
    expected = [round(summary[f"deep_{name}"], 1) for name in ("service", "clean_service")]
    assert [float(number) for number in found.groups()] == expected
    found = re.search(
        r"mean SSIM of (\S+)\. \(Filter.*\*\*A better.*mean SSIM of (\S+) \(mean of the two sets\)\. The service must",
        words,
    )
    assert found
    assert found.groups() == (f"{summary['pmt_learned_ssim']:.2f}", f"{summary['deep_best_ssim']:.2f}")


def test_what_it_says_of_the_test_on_other_people_is_stored(monkeypatch):
    for variable in ("PMT_DATA", "PMT_PROFILE", "PMT_RESULTS"):
        monkeypatch.delenv(variable, raising=False)
    settings = audit.audit_settings("paper")
    bench = audit.Audit(settings, torch.device("cpu"))
    tuned = {variant: bench.tuning(variant) for variant in settings.variants}
    outcomes = {
        dataset: audit_again.tested(bench, dataset, tuned, audit_again.RESTORED) for dataset in settings.datasets
    }
    judged = audit_again.verdicts(audit_again.table(outcomes, settings))
    words = " ".join(README.split())
    assert f"Twice the steps, `--steps {settings.again_steps}`, tested once on other people, narrowly reach" in words
    _, least, most_others, most_ssim = audit_again.GOALS[audit_again.RESTORED]
    assert (least, most_others, round(most_ssim, 2)) == (0.9, 0.5, 0.67)
    assert (
        "narrowly reach on both sets the goal against filters and two networks trained to restore faces, by the mean "
        "over networks: the service recognises at least 90% of what it does of photographs, others at most half, at "
        "two thirds of the SSIM, of what PMT leaves" in words
    )
    assert settings.again_steps == 2 * bench.config("deep").steps
    assert judged["reached"].tolist() == [True, True]
    assert not judged["surely"].any()
    frame = audit_fused.table([], {dataset: [outcome] for dataset, outcome in outcomes.items()}, {}, settings)
    by_fusion = audit_fused.verdicts(frame, judged, audit_again.RESTORED)
    assert by_fusion["reached"].tolist() == [False, False]
    lfw, cfp_ff = 100 * by_fusion["fused"]
    assert f"reverses that verdict on both sets:** of the same images they recognise {lfw:.1f}% (LFW)" in words
    assert f"and {cfp_ff:.1f}% (CFP-FF) together" in words
    # What the book says in words of the goal without learning.
    assert settings.again_filter_steps == 120 == 3 * bench.config("deep").steps
    goal = audit_again.FILTERS
    outcomes = {dataset: audit_again.tested(bench, dataset, tuned, goal) for dataset in settings.datasets}
    several = {dataset: audit_again.averaged(bench, dataset, tuned) for dataset in settings.datasets}
    of_two = audit_again.verdicts(audit_again.table(outcomes, settings), goal)
    assert (of_two["reached"].tolist(), of_two["copies"].tolist()) == ([True, False], [2, 2])
    judged = audit_again.verdicts(audit_again.table(outcomes, settings, several), goal).set_index("dataset")
    assert (judged["reached"].tolist(), judged["copies"].tolist()) == ([False, False], [32, 32])
    assert judged.loc["lfw", "service"] >= 0.95 * judged.loc["lfw", "clean"]
    missed = judged.loc["cfp_ff"]
    one = 1 / missed["n"]
    assert missed["service"] < 0.95 * missed["clean"] <= missed["service"] + one


def test_its_commands_and_files_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for target in re.findall(r"(?:^|`)make ([a-z]+)", README, re.MULTILINE):
        assert target in targets, target
    for link in re.findall(r"\]\(((?!http)[^)#]+)\)", README):
        assert (ROOT / link).is_file(), link
    commands = typer.main.get_command(cli.app).commands
    for command in re.findall(r"^pmt ([a-z-]+)", README, re.MULTILINE):
        assert command in commands, command
