"""What the README says is what is stored, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
import typer

from pmtlib import book_tables, cli, glance, metrics
from pmtlib.experiments import abuse as experiments
from pmtlib.experiments import audit, audit_again, audit_fused, audit_numbers, audit_several, reconstruction

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
CLAIMS = (ROOT / "book" / "results" / "claims.md").read_text("utf-8")


def test_its_tables_are_what_the_pages_publish():
    """Fails when a page was executed anew with other numbers: ``python -m pmtlib.runner tables``."""
    assert book_tables.readme() == README
    for name in glance.tables(ROOT / "book" / "results"):
        assert README.count(f"<!-- glance-{name} -->") == 1


def rows(name):
    """The lines of one of its tables: their cells but the first, by the first."""
    block = README.partition(f"<!-- glance-{name} -->")[2].partition("<!-- end -->")[0]
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.*\|$", block, re.MULTILINE)
    ]
    return {line[0]: line[1:] for line in lines[2:]}


def test_its_numbers_are_those_of_the_stored_results(monkeypatch):
    for variable in ("PMT_DATA", "PMT_PROFILE", "PMT_RESULTS"):
        monkeypatch.delenv(variable, raising=False)
    settings = experiments.abuse_settings("paper")
    blocks = experiments.Abuse(settings, torch.device("cpu")).run()
    assert [block.dataset for block in blocks if block.clean.result is not None] == ["lfw", "cfp_ff"]
    cells = experiments.abuse_cells(blocks, settings)
    summary = experiments.abuse_summary(cells, experiments.abuse_likeness(blocks))
    table = rows("tests")
    clean = f"{summary['clean_paper_mean']:.0f}%"
    paper = [f"{np.mean(cells):.0f}%" for cells in experiments.paper_cells({"lfw", "cfp_ff"})]
    for words, kind, theirs in (
        ("the authorised service recognises its users, at the paper's threshold", "authorised", paper[0]),
        ("other networks recognise them, at the paper's threshold", "unauthorised", paper[1]),
    ):
        assert table[words] == [clean, f"{summary[f'protected_paper_{kind}_mean']:.0f}%", theirs]
    clean = f"{summary['clean_calibrated_mean']:.0f}%"
    own = f"{summary['protected_calibrated_unauthorised_mean']:.0f}%"
    assert table["the same at each network's own threshold"] == [clean, own, "not given"]
    blurred = f"{summary['purified_calibrated_unauthorised_mean']:.0f}%"
    assert table["the same after a blur and a contrast stretch"] == ["", blurred, "not given"]
    assert f"EdgeFace, leave the others {summary['protected_calibrated_for_lowest']:.0f}%." in " ".join(README.split())
    assert settings.pmt.steps == 25
    assert "after K = 25 steps" in README
    # SFace is kept out, by the rule of the page, and after the blur nobody is.
    others = cells[(cells["threshold"] == "calibrated") & cells["authorised"].notna()]
    others = others[others["authorised"] != others["network"]]
    means = others[others["images"] == "protected"].groupby("authorised")["accuracy"].mean()
    assert means.idxmin() == "edgeface-xs"
    means = others.groupby(["images", "network"])["accuracy"].mean()
    assert set(means[means <= 0.15].index) == {("protected", "sface")}
    # dlib's network alone has no cell at the paper's threshold.
    at_papers = cells[(cells["threshold"] == "paper") & cells["accuracy"].notna()]
    assert set(cells["network"]) - set(at_papers["network"]) == {"dlib-resnet29"}


def test_its_count_of_claims_is_that_of_the_pages():
    counted = re.search(r"^(\d+) claims\. Holds: (\d+); .*?: (\d+); .*?: (\d+); .*?: (\d+)\.$", CLAIMS, re.MULTILINE)
    assert counted
    total, right, part, wrong, untold = counted.groups()
    words = " ".join(README.split())
    assert (
        f"Of the {total} claims of the paper that were tested {right} hold, {part} hold in part, {wrong} do not, and "
        f"{untold} cannot be told" in words
    )


def test_what_it_says_of_reconstruction_is_stored(monkeypatch):
    for variable in ("PMT_DATA", "PMT_PROFILE", "PMT_RESULTS"):
        monkeypatch.delenv(variable, raising=False)
    settings = reconstruction.reconstruction_settings("paper")
    blocks = reconstruction.Reconstruction(settings, torch.device("cpu")).run()
    cells, features = reconstruction.table(blocks, settings), reconstruction.features_table(blocks)
    summary = reconstruction.summary(cells, features, settings)
    table = rows("tests")
    assert table["likeness of the face that a network rebuilds from the features (mean SSIM)"] == [
        f"{summary['black_box_unprotected_ssim']:.2f}", f"{summary['black_box_pmt_ssim']:.2f}", "0.03",
    ]  # fmt: skip
    frame = reconstruction.clipping_table(blocks, settings)
    frame = frame[~frame["clipped"] & (frame["steps"] == settings.pmt.steps)]
    unclipped = f"{(frame['ssim'] * frame['n']).sum() / frame['n'].sum():.2f}"
    words = "the same where pixels are not clipped, as the paper prints its algorithm"
    assert table[words] == ["", unclipped, "0.03"]
    assert table["other networks take the rebuilt face for the photograph"] == [
        f"{summary['black_box_unprotected_others']:.0f}%", f"{summary['black_box_pmt_others']:.0f}%", "not given",
    ]  # fmt: skip


def test_what_it_says_of_the_audit_is_stored(monkeypatch):
    for variable in ("PMT_DATA", "PMT_PROFILE", "PMT_RESULTS"):
        monkeypatch.delenv(variable, raising=False)
    settings = audit.audit_settings("paper")
    bench = audit.Audit(settings, torch.device("cpu"))
    _, blocks = bench.run()
    frame = audit_numbers.table(blocks, settings)
    summary = audit_numbers.summary(frame)
    together = audit_numbers.together(frame, blocks, settings).set_index(["variant", "kind", "who"])
    table = rows("attacks")

    def shares(words):
        return [float(cell.partition("%")[0]) for cell in table.pop(words)]

    for words, kind, who in (
        ("*the service, which is meant to, of uploads*", "upload", "service"),
        ("*others, of photographs*", "photograph", "others"),
        ("others, of uploads as they are", "upload", "others"),
        ("others, after the best of eight plain filters", "filters", "others"),
        ("others, of the face that a trained network restores", "learned", "others"),
        ("others, by *translation*, which restores no face", "translated", "others"),
    ):
        stored = [together.loc[(variant, kind, who)] for variant in ("pmt", "deep")]
        cells = [f"{100 * row['accuracy']:.0f}% [{100 * row['low']:.0f}, {100 * row['high']:.0f}]" for row in stored]
        assert table[words] == cells
        assert [row["n"] for row in stored] == [104, 104]
        name = {"photograph": "clean"}.get(kind, kind)
        expected = [
            summary[f"{one}_service" if who == "service" else f"{one}_{name}_others"] for one in ("pmt", "deep")
        ]
        assert shares(words) == [round(value) for value in expected]
    by_fusion = audit_fused.table(blocks, {}, {}, settings).set_index(["uploads", "attack", "dataset"])["fused"]
    # Of what is restored, by the learner that is the best on a set by the mean over networks.
    for words, kind in (
        ("the four combined, of that face", "learned"),
        ("the four combined, by translation", "translated"),
    ):
        expected = []
        for variant in ("pmt", "deep"):
            attacks = together.loc[(variant, kind, "others"), "attack"].split(", ")
            places = zip(settings.datasets, attacks if len(attacks) > 1 else attacks * 2, strict=True)
            expected.append(round(100 * float(np.mean([by_fusion[variant, attack, name] for name, attack in places]))))
        assert shares(words) == expected
    collected = {
        (name, way): audit_several.measured(bench, name, way)
        for name in settings.datasets
        for way in audit_several.ways(bench)
    }
    several = audit_several.table(collected, settings)
    for words, count in (
        ("the four combined, of uploads of 8 photographs of a person", 8),
        ("*the same of one of these uploads*", 1),
    ):
        part = several[(several["photographs"] == count) & several["attack"].isin(audit_several.UPLOADS)]
        people = part["n"] / part.groupby(["way", "attack"])["n"].transform("sum")
        best = (people * part["together"]).groupby([part["way"], part["attack"]]).sum().groupby("way").max()
        assert shares(words) == [round(100 * best[variant]) for variant in ("pmt", "deep")]
    # What the findings say in words of eight uploads: of filters by the set, and beside the service.
    stored = {key: outcome.result.values["attacks"] for key, outcome in collected.items()}

    def beside(first, second):
        one, other = (np.array(hits, dtype=bool) for hits in (first, second))
        counts = [int(pair.sum()) for pair in (one & other, one & ~other, ~one & other, ~one & ~other)]
        return metrics.newcombe(*counts)

    filtered = {
        name: [stored[name, "deep"][audit_several.FILTERED][count]["together"]["accepted"] for count in ("8", "1")]
        for name in settings.datasets
    }
    assert beside(*filtered["lfw"]).low > 0
    within = beside(*filtered["cfp_ff"])
    assert within.low < 0 < within.high
    for name in settings.datasets:
        attacks = stored[name, "projected"]
        translated = attacks["translation of features"]["8"]["together"]["accepted"]
        about = beside(translated, attacks["upload"]["8"][settings.authorised]["accepted"])
        assert about.low < 0 < about.high
    likeness = [f"{summary[f'{variant}_best_ssim']:.2f}" for variant in ("pmt", "deep")]
    assert table.pop("likeness of the best restored face (mean SSIM)") == likeness
    assert not table
    words = " ".join(README.split())
    told = {name: f"{value:.0f}%" for name, value in audit_several.summary(several).items()}
    deep, projected = (
        [told[f"several_{way}_{kind}"] for kind in ("translated_8", "translated_1", "service_1", "service_8")]
        for way in ("deep", "projected")
    )
    assert (
        f"the four combined recognise {deep[0]} of the people of *deep* ({deep[1]} by one upload) and {projected[0]} "
        f"of *projected* ({projected[1]}), a filter that leaves translators less and serves worse (the service "
        f"recognises {projected[2]} by one upload, {projected[3]} by eight)."
    ) in words
    assert len(settings.networks) - 1 == 4
    assert "The attacker has four networks" in words
    assert f"the output of one late layer alone, K = {bench.config('deep').steps}, chosen on other people" in words
    assert f"the authorised one is `{settings.authorised}`" in words
    assert set(audit_numbers.service_summary(audit_numbers.service(blocks)).values()) == {0.0}
    assert "aligns it anew recognises nobody" in words


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
    start = f"K = {settings.again_steps}, picked by looking, then tested once on other people, narrowly meets a goal"
    assert start in words
    _, least, most_others, most_ssim = audit_again.GOALS[audit_again.RESTORED]
    assert (least, most_others, round(most_ssim, 2)) == (0.9, 0.5, 0.67)
    assert (
        "the service recognises at least 90% of what it does of photographs, and others, of what filters and two "
        "networks restore, at most half as many as of PMT's filtered uploads, at two thirds of their SSIM" in words
    )
    assert settings.again_steps == 2 * bench.config("deep").steps
    assert judged["reached"].tolist() == [True, True]
    assert not judged["surely"].any()
    frame = audit_fused.table([], {dataset: [outcome] for dataset, outcome in outcomes.items()}, {}, settings)
    by_fusion = audit_fused.verdicts(frame, judged, audit_again.RESTORED)
    assert by_fusion["reached"].tolist() == [False, False]
    lfw, cfp_ff = 100 * by_fusion["fused"]
    assert f"four networks combined recognise {lfw:.0f}% (LFW) and {cfp_ff:.0f}% (CFP-FF) of what is restored" in words
    page = glance.glued(ROOT / "book" / "results" / "filters.ipynb")
    translated = page[f"audit_deep_k{settings.again_steps}_translated"]
    assert f"Inversion and translation are left out there; translation gets {translated:.0f}%." in words
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
