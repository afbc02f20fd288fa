"""The paper's tables, as transcribed: shapes, ranges, and what the tables say of themselves."""

from __future__ import annotations

import json
from importlib import resources
from itertools import product
from typing import Any

import numpy as np
import pytest

DATASETS = ["lfw", "agedb_30", "calfw", "cfp_ff"]
FOLDER = resources.files("pmtlib") / "data" / "paper"


def table(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    return content


def is_share(percent: float, of: int) -> bool:
    """Whether some count of ``of`` prints as this percentage."""
    return any(f"{100 * count / of:.1f}" == f"{percent:.1f}" for count in range(of + 1))


def accuracies(number: int) -> dict[tuple[Any, ...], float]:
    """Every accuracy of a table, by its place."""
    content = table(f"table{number}")
    columns = content["columns"]
    cells: dict[tuple[Any, ...], float] = {}
    if number in (3, 5):
        cells = {(r, c): v for r, row in content["rows"].items() for c, v in zip(columns, row, strict=True)}
    elif number == 4:
        for part, rows in content["parts"].items():
            cells |= {(part, r, c): v for r, row in rows.items() for c, v in zip(columns, row, strict=True)}
    elif number == 9:
        for dataset, rows in content["datasets"].items():
            for r, row in enumerate(rows):
                cells |= {(dataset, r, c): v for c, v in zip(columns, row["accuracy"], strict=True)}
    elif number == 10:
        for r, row in enumerate(content["rows"]):
            cells |= {(r, c): v for c, v in zip(columns, row["values"], strict=True) if c != "UP"}
    return cells


@pytest.mark.parametrize("number", [3, 4, 5, 6, 8, 9, 10])
def test_every_table_says_where_it_is_from_and_what_it_holds(number: int) -> None:
    content = table(f"table{number}")
    assert content["source"].startswith(f"Table {number} of the paper (arXiv 2310.15590)")
    assert content["columns"]
    assert content["units"]
    assert all(isinstance(note, str) and note.endswith(".") for note in content["notes"])
    if isinstance(content["units"], list):
        assert len(content["units"]) == len(content["columns"])
    if "better" in content:
        assert len(content["better"]) == len(content["columns"])
        assert set(content["better"]) <= {"higher", "lower"}
    if "datasets" in content:
        assert list(content["datasets"]) == DATASETS


@pytest.mark.parametrize(("number", "count"), [(3, 6), (4, 12), (5, 6), (9, 120), (10, 16)])
def test_accuracies_are_percentages_and_those_that_are_no_count_of_pairs_are_listed(number: int, count: int) -> None:
    content, cells = table(f"table{number}"), accuracies(number)
    assert len(cells) == count
    assert all(0 <= value <= 100 and round(value, 1) == value for value in cells.values())
    # Table 10 gives no number of pairs; it is compared with the one of the others.
    pairs = content["pairs"] or 104
    odd = {place for place, value in cells.items() if not is_share(value, pairs)}
    assert odd == {tuple(place) for place in content["not_multiples"]}
    assert len(content["not_multiples"]) == len(odd)


def test_a_count_of_pairs_is_told_from_another_number() -> None:
    assert is_share(99.0, 104)
    assert is_share(0.0, 104)
    assert not is_share(99.1, 104)
    assert not is_share(50.5, 104)


@pytest.mark.parametrize("number", [3, 4, 5])
def test_the_paper_chose_what_protects_best(number: int) -> None:
    content = table(f"table{number}")
    parts = content["parts"] if number == 4 else {"": content["rows"]}
    chosen = content["chosen"] if number == 4 else {"": content["chosen"]}
    assert (content["authorised"], content["unauthorised"]) == (["IR50-Softmax"], ["MobileFace"])
    for part, rows in parts.items():
        assert min(rows, key=lambda name: rows[name][1]) == chosen[part]


def test_table6_orders_the_images_as_the_text_does() -> None:
    content = table("table6")
    assert content["attacks"] == ["white_box", "black_box"]
    for dataset, attack in product(DATASETS, content["attacks"]):
        rows = content["datasets"][dataset]
        assert list(rows) == ["Unprotected", "Random Noise", "Ours"]
        clean, noisy, ours = (dict(zip(content["columns"], row[attack], strict=True)) for row in rows.values())
        for measure in ("SSIM", "PSNR"):
            assert ours[measure] < noisy[measure] < clean[measure]
        assert noisy["COS"] < ours["COS"] < clean["COS"]
        for row in (clean, noisy, ours):
            assert row["SRRA"] == 1.0
            assert 0 <= row["SSIM"] <= 1
            assert 0 <= row["COS"] <= 1
            assert 5 < row["PSNR"] < 40
    # The two examples of Section 6.3.
    assert content["datasets"]["lfw"]["Unprotected"]["black_box"][:2] == [0.99, 34.4]
    assert content["datasets"]["lfw"]["Ours"]["black_box"][:2] == [0.03, 11.21]
    assert content["datasets"]["calfw"]["Unprotected"]["white_box"][:2] == [0.62, 15.14]
    assert content["datasets"]["calfw"]["Ours"]["white_box"][:2] == [0.02, 11.6]


def test_table8_has_pmt_better_than_noise_everywhere() -> None:
    content = table("table8")
    for rows in content["datasets"].values():
        assert list(rows) == ["PMT(x)", "x + delta"]
        for better, ours, noisy in zip(content["better"], *rows.values(), strict=True):
            assert (ours < noisy) == (better == "lower")
            assert min(ours, noisy) > 0
        assert max(rows["PMT(x)"][:3] + rows["x + delta"][:3]) < 1


def test_table9_authorises_the_same_networks_on_every_dataset() -> None:
    content = table("table9")
    columns = content["columns"]
    assert sorted(columns) == sorted(table("table7")["columns"])
    combinations = [[row["authorised"] for row in rows] for rows in content["datasets"].values()]
    assert all(combination == combinations[0] for combination in combinations)
    numbers = [[columns.index(name) + 1 for name in authorised] for authorised in combinations[0]]
    assert numbers == [[1, 2], [2, 3], [1, 2, 3], [2, 3, 4], [1, 2, 3, 4], [2, 3, 4, 5]]
    others: list[float] = []
    for rows in content["datasets"].values():
        for row in rows:
            inside = [v for c, v in zip(columns, row["accuracy"], strict=True) if c in row["authorised"]]
            outside = [v for c, v in zip(columns, row["accuracy"], strict=True) if c not in row["authorised"]]
            assert len(inside) == len(row["authorised"])
            assert min(inside) > max(outside)
            others += outside
    # As its notes say.
    assert (min(others), max(others)) == (14.4, 76.5)
    assert round(float(np.mean(others)), 1) == 42.2


def test_table10_has_every_combination_once() -> None:
    content = table("table10")
    rows = {tuple(row["components"]): row["values"] for row in content["rows"]}
    assert set(rows) == set(product([False, True], repeat=3))
    assert (content["dataset"], content["sigma"], content["kappa"]) == ("lfw", 0.1, 0.3)
    # More than 1: LPIPS is added to the first term, not averaged with it.
    assert all(1 < values[2] < 2 for values in rows.values())
    full = rows[True, True, True]
    assert full[1] == min(values[1] for values in rows.values())
    assert full[2] == max(values[2] for values in rows.values())
    # Not so the authorised accuracy, whatever the text says.
    assert full[0] < max(values[0] for values in rows.values())
    fitting = (n for n in range(1, 1000) if all(is_share(v, n) for values in rows.values() for v in values[:2]))
    assert next(fitting) == 684


def test_figures_are_claims_without_invented_numbers() -> None:
    figures = table("figures")["figures"]
    assert list(figures) == ["fig4", "fig5", "fig8", "fig9", "fig10", "fig11"]
    for figure in figures.values():
        assert figure["caption"]
        assert figure["section"].startswith("6.")
        assert figure["dataset"] in (None, *DATASETS)
        assert figure["claims"]
        assert all(claim.endswith(".") and len(claim) < 120 for claim in figure["claims"])
        assert "values" not in figure
    assert {name: figure["kappa"] for name, figure in figures.items()} == {
        "fig4": None,
        "fig5": None,
        "fig8": 0.5,
        "fig9": None,
        "fig10": "varied",
        "fig11": 0.3,
    }
