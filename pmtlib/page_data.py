"""The numbers behind a page's figures and tables, as CSV files that a reader can download.

The code that draws a figure or table hands over the table that it draws from. While the runner executes a notebook,
the environment variable ``PMT_PAGE_DATA`` names a folder ``data/NOTEBOOK``, which the runner publishes beside the page;
a notebook that is opened by hand keeps nothing.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pmtlib.errors import ResultError
from pmtlib.images import write_atomic

VARIABLE = "PMT_PAGE_DATA"

CLAIMS = "claims"
"""Name of the file with a page's claims, from which the runner makes the table of all pages."""

LIMIT = 300_000
"""Largest CSV file in bytes: all of them are committed."""


def keep(name: str, frame: pd.DataFrame) -> str | None:
    """Write the numbers behind one figure or table.

    Args:
        name: of the file without ``.csv``: lower case, digits and hyphens; unique on its page.
        frame: numbers and words; an index that counts rows is left out. Real numbers get six significant digits.

    Returns:
        str: the file's address relative to the page, ``data/NOTEBOOK/NAME.csv``; None where no page is being made.

    Raises:
        ResultError: the name is taken by other numbers, is not a name, a cell is neither number nor word, or the file
            is too large.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise ResultError(f"{name!r} is no name for a file of numbers; use lower case, digits and hyphens")
    cells = (cell for column in range(frame.shape[1]) for cell in frame.iloc[:, column])
    strange = {type(cell).__name__ for cell in cells if not _flat(cell)}
    if strange:
        raise ResultError(f"{name}.csv would hold {', '.join(sorted(strange))}; only numbers and words are published")
    folder = os.environ.get(VARIABLE)
    if not folder:
        return None
    counted = isinstance(frame.index, pd.RangeIndex) or (frame.index.name is None and not _words(frame.index))
    content = frame.to_csv(index=not counted, float_format="%.6g", lineterminator="\n").encode()
    if len(content) > LIMIT:
        raise ResultError(f"{name}.csv has {len(content):,} bytes, more than {LIMIT:,}; publish fewer numbers")
    path = Path(folder) / f"{name}.csv"
    if path.is_file() and path.read_bytes() != content:
        raise ResultError(f"{name}.csv was written before with other numbers; give each figure and table its own name")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content)
    return f"{path.parent.parent.name}/{path.parent.name}/{path.name}"


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table.

    Args:
        columns: the head.
        rows: lines of as many cells; a vertical bar in a cell is escaped, and a cell stands on one line.

    Raises:
        ValueError: a line has another number of cells.
    """
    lines = [list(columns), ["---"] * len(columns)]
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"{len(row)} cells for {len(columns)} columns: {row}")
        lines.append([" ".join(cell.replace("|", "\\|").split()) for cell in row])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def read(folder: Path, page: str, name: str) -> list[dict[str, str]]:
    """The lines of a file of numbers that a page has published, as words; none where there is no such file.

    Args:
        folder: of the executed pages.
        page: the notebook's name.
        name: of the file, as for :func:`keep`.
    """
    path = folder / "data" / page / f"{name}.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def slug(*parts: object) -> str:
    """A name for :func:`keep` from words: ``slug("table 10", "cfp_ff")`` is ``table-10-cfp-ff``."""
    return re.sub(r"[^a-z0-9]+", "-", " ".join(map(str, parts)).lower()).strip("-")


def split(frame: pd.DataFrame) -> pd.DataFrame:
    """A table of written cells with its intervals apart: ``62.2<br>[60.0, 64.4]`` becomes three columns.

    A column in which some cell is a number with an interval has ``COLUMN low`` and ``COLUMN high`` beside it; tags are
    taken out of all others. Names of columns with several levels are joined.
    """
    pattern = r"\s*".join((r"^([+-]?[\d.]+)", r"%?", r"\[([+-]?[\d.]+),", r"([+-]?[\d.]+)\]", r"(.*)$"))
    columns: dict[str, pd.Series] = {}
    headings: list[Any] = list(frame.columns)
    for place, heading in enumerate(headings):
        name = " ".join(map(str, heading)).strip() if isinstance(heading, tuple) else str(heading)
        cells = frame.iloc[:, place]
        text = cells.astype(str).str.replace(r"<[^>]+>", " ", regex=True).str.replace("\N{MINUS SIGN}", "-").str.strip()
        parts = text.str.extract(pattern, flags=re.DOTALL)
        if parts[1].notna().any():
            columns[name] = parts[0].where(parts[1].notna(), text)
            columns[f"{name} low"], columns[f"{name} high"] = parts[1], parts[2]
            if (parts[3].fillna("") != "").any():
                columns[f"{name} note"] = parts[3]
        else:
            columns[name] = cells if pd.api.types.is_numeric_dtype(cells) else text
    return pd.DataFrame(columns, index=frame.index)


def _flat(cell: object) -> bool:
    return cell is None or cell is pd.NA or isinstance(cell, (str, bool, int, float, np.generic))


def _words(index: pd.Index) -> bool:
    return isinstance(index, pd.MultiIndex) or any(isinstance(entry, str) for entry in index)
