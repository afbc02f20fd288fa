"""The two tables of what was found, from pages and their numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pmtlib import glance, metrics


def page(folder: Path, name: str, **numbers: float) -> None:
    outputs = [
        {"data": {"application/papermill.record/text/plain": repr(value)}, "metadata": {"scrapbook": {"name": key}}}
        for key, value in numbers.items()
    ]
    cells = [{"cell_type": "markdown", "source": []}, {"cell_type": "code", "outputs": [{"metadata": {}}, *outputs]}]
    (folder / f"{name}.ipynb").write_text(json.dumps({"cells": cells}))


def csv(folder: Path, name: str, *lines: str) -> None:
    path = folder / "data" / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def test_without_pages_nothing_was_run(tmp_path: Path) -> None:
    tables = glance.tables(tmp_path)
    for table in tables.values():
        assert all(len(row) == len(table.headings) for row in table.rows)
    assert {row[1] for row in tables["attacks"].rows} == {glance.NOT_RUN}
    assert {row[2] for row in tables["tests"].rows} == {glance.NOT_RUN}
    assert {row[3] for row in tables["tests"].rows} == {glance.NOT_GIVEN}
    assert "no set" in tables["tests"].note


def test_the_papers_numbers_are_of_the_sets_that_were_measured(tmp_path: Path) -> None:
    page(tmp_path, "abuse", abuse_protected_paper_unauthorised_mean=33.3)
    csv(tmp_path, "abuse/ssim", "dataset,images,n", "agedb_30,protected,104", "calfw,protected,104")
    rows = {row[0]: row[1:] for row in glance.tables(tmp_path)["tests"].rows}
    published = json.loads((Path(glance.__file__).parent / "data" / "paper" / "table7.json").read_text())["datasets"]
    others = [
        value
        for name in ("agedb_30", "calfw")
        for place, row in enumerate([row for key, row in published[name].items() if key != "Clean"])
        for column, value in enumerate(row["accuracy"])
        if column != place
    ]
    expected = f"{sum(others) / len(others):.0f}%"
    assert rows["other networks recognise them, at the paper's threshold"] == [glance.NOT_RUN, "33%", expected]
    assert rows["likeness of the face that a network rebuilds from the features (mean SSIM)"][2] == "0.02 to 0.03"


def test_unclipped_photographs_of_all_sets_count_alike(tmp_path: Path) -> None:
    csv(
        tmp_path, "reconstruction/clipping", "dataset,clipped,steps,ssim,n",
        "lfw,True,25,0.9,10", "lfw,False,25,0.5,10", "cfp_ff,False,25,0.2,30", "lfw,False,100,0.99,10",
    )  # fmt: skip
    rows = {row[0]: row[1:] for row in glance.papers_tests(tmp_path)}
    likeness = f"{(0.5 * 10 + 0.2 * 30) / 40:.2f}"
    assert rows["the same where pixels are not clipped, as the paper prints its algorithm"][1] == likeness


@pytest.mark.parametrize("learner", ["B, A", "B"])
def test_all_networks_meet_on_each_set_what_the_best_learner_restores(tmp_path: Path, learner: str) -> None:
    csv(
        tmp_path, "audit/together", "variant,kind,attack,who,n,accuracy,low,high",
        f'pmt,learned,"{learner}",others,8,0.5,0.25,0.75', "pmt,upload,upload,others,8,0.125,0,0.3",
    )  # fmt: skip
    fused = {("lfw", "A"): 0.25, ("lfw", "B"): 0.5, ("cfp_ff", "A"): 1.0, ("cfp_ff", "B"): 0.75}
    csv(
        tmp_path, "audit/together-by-fusion", "dataset,pairs,uploads,attack,n,fused",
        *(f"{name},{glance.HERE},pmt,{attack},4,{value}" for (name, attack), value in fused.items()),
        "lfw,other people,pmt,B,4,0", f"lfw,{glance.HERE},deep,B,4,0",
    )  # fmt: skip
    rows = {row[0]: row[1:] for row in glance.attacked(tmp_path)}
    assert rows["others, of the face that a trained network restores"] == ["50% [25, 75]", glance.NOT_RUN]
    right = 2 + (4 if learner == "B, A" else 3)
    interval = metrics.wilson(right, 8)
    told = f"{100 * right / 8:.0f}% [{100 * interval.low:.0f}, {100 * interval.high:.0f}]"
    assert rows["the four combined, of that face"] == [told, glance.NOT_RUN]


def test_of_several_photographs_the_best_attack_on_all_sets_counts(tmp_path: Path) -> None:
    csv(
        tmp_path, "audit/several-photographs", "dataset,way,attack,photographs,n,together",
        "lfw,pmt,photograph,8,10,1.0", "lfw,pmt,upload,8,10,0.9", "cfp_ff,pmt,upload,8,20,0.1",
        "lfw,pmt,translation of features,8,10,0.5", "cfp_ff,pmt,translation of features,8,20,0.6",
        'lfw,pmt,"translation of features, of one photograph",8,10,1.0', "lfw,pmt,upload,1,10,1.0",
    )  # fmt: skip
    table = glance.tables(tmp_path)["attacks"]
    rows = {row[0]: row[1:] for row in table.rows}
    interval = metrics.wilson(17, 30)
    told = f"57% [{100 * interval.low:.0f}, {100 * interval.high:.0f}]"
    assert rows["the four combined, of uploads of 8 photographs of a person"] == [told, glance.NOT_RUN]
    one = metrics.wilson(10, 10)
    assert rows["*the same of one of these uploads*"][0] == f"100% [{100 * one.low:.0f}, {100 * one.high:.0f}]"
    assert "and one of them: 30 other people" in table.note
