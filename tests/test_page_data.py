"""The CSV files behind figures and tables."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pmtlib import page_data
from pmtlib.errors import ResultError
from pmtlib.figures.common import styled

FRAME = pd.DataFrame({"dataset": ["lfw", "cfp_ff"], "rate": [2 / 3, np.nan], "n": [3, 5]})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "data" / "abuse"
    monkeypatch.setenv(page_data.VARIABLE, str(made))
    return made


def test_numbers_survive_the_file_and_the_address_is_that_beside_the_page(folder: Path) -> None:
    assert page_data.keep("heat-map", FRAME) == "data/abuse/heat-map.csv"
    assert (folder / "heat-map.csv").read_text() == "dataset,rate,n\nlfw,0.666667,3\ncfp_ff,,5\n"


def test_an_index_of_words_is_kept_and_one_that_counts_is_not(folder: Path) -> None:
    page_data.keep("named", FRAME.set_index("dataset"))
    assert (folder / "named.csv").read_text().startswith("dataset,rate,n\n")
    page_data.keep("words", pd.DataFrame({"value": ["a"]}, index=["steps"]))
    assert (folder / "words.csv").read_text() == ",value\nsteps,a\n"
    page_data.keep("part", FRAME[FRAME["n"] == 5])
    assert (folder / "part.csv").read_text() == "dataset,rate,n\ncfp_ff,,5\n"


def test_outside_of_the_runner_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(page_data.VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    assert page_data.keep("heat-map", FRAME) is None
    assert list(tmp_path.iterdir()) == []


def test_one_name_stands_for_the_same_numbers_only(folder: Path) -> None:
    page_data.keep("up", FRAME)
    page_data.keep("up", FRAME.copy())
    with pytest.raises(ResultError, match=r"up\.csv was written before with other numbers"):
        page_data.keep("up", FRAME.assign(n=0))


@pytest.mark.parametrize("cell", [[1, 2], np.zeros(3), b"\x89PNG", object()])
def test_only_numbers_and_words_are_published(folder: Path, cell: object) -> None:
    with pytest.raises(ResultError, match="only numbers and words"):
        page_data.keep("pictures", pd.DataFrame({"image": [cell]}))
    assert not folder.exists()


@pytest.mark.parametrize("name", ["../escape", "Upper", "", "a.csv"])
def test_a_name_stays_in_the_folder(folder: Path, name: str) -> None:
    with pytest.raises(ResultError, match="is no name"):
        page_data.keep(name, FRAME)


def test_a_large_file_is_refused(folder: Path) -> None:
    with pytest.raises(ResultError, match="publish fewer numbers"):
        page_data.keep("pixels", pd.DataFrame({"value": np.arange(100_000)}))


def test_slugs() -> None:
    assert page_data.slug("Table 10", "cfp_ff", "") == "table-10-cfp-ff"


def test_written_cells_are_taken_apart() -> None:
    written = pd.DataFrame(
        {
            ("SSIM", "ours"): ["0.62<br>[0.60, 0.64]", "\N{EN DASH}"],
            "points": ["+12.3 [+8.9, \N{MINUS SIGN}15.6]", "1 [0, 2]<br>n = 4"],
            "who": ["a<br>b", "c"],
            "n": [3, 4],
        }
    )
    apart = page_data.split(written)
    assert apart.to_dict("list") == {
        "SSIM ours": ["0.62", "\N{EN DASH}"],
        "SSIM ours low": ["0.60", pytest.approx(np.nan, nan_ok=True)],
        "SSIM ours high": ["0.64", pytest.approx(np.nan, nan_ok=True)],
        "points": ["+12.3", "1"],
        "points low": ["+8.9", "0"],
        "points high": ["-15.6", "2"],
        "points note": ["", "n = 4"],
        "who": ["a b", "c"],
        "n": [3, 4],
    }


def test_a_table_has_its_link_on_a_page_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = styled(FRAME, "A caption", "rates", FRAME)
    assert table.address == "data/abuse/rates.csv"
    back = pd.read_csv(io.BytesIO((folder / "rates.csv").read_bytes()))
    pd.testing.assert_frame_equal(back, FRAME, rtol=1e-5)
    # What is done to it afterwards, such as hiding the index, leaves the link.
    assert table.hide(axis="index") is table
    monkeypatch.delenv(page_data.VARIABLE)
    assert styled(FRAME, "A caption", "rates").address is None
