"""What was found, in two short tables: for the book's front page and the README, from what the pages have published.

The first holds the paper's own tests beside the paper's numbers, the second what somebody gets who knows the filter.
Their numbers are those that the pages glue and publish as CSV, so that none is typed.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from pmtlib import metrics
from pmtlib.experiments import abuse
from pmtlib.experiments.audit import UPLOAD
from pmtlib.experiments.audit_beyond import TRANSLATION
from pmtlib.experiments.audit_fused import HERE
from pmtlib.experiments.claims import listed
from pmtlib.experiments.common import TITLES, paper_table
from pmtlib.variants import PLAIN

NOT_RUN, NOT_GIVEN = "not run", "not given"
VARIANTS = (PLAIN, "deep")


class Table(NamedTuple):
    """A table in words, and what it rests on, a sentence."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str


def glued(page: Path) -> dict[str, float]:
    """The numbers that an executed page has glued, by name; none where there is no such page."""
    if not page.is_file():
        return {}
    found: dict[str, float] = {}
    for cell in json.loads(page.read_bytes())["cells"]:
        for output in cell.get("outputs", ()):
            name = output.get("metadata", {}).get("scrapbook", {}).get("name")
            if name is not None:
                found[name] = float(output["data"]["application/papermill.record/text/plain"])
    return found


def papers_tests(folder: Path) -> list[list[str]]:
    """Lines of the first table: what is measured, ours of photographs and of uploads, and the paper's of uploads.

    Args:
        folder: of the executed pages.
    """
    found = {**glued(folder / "abuse.ipynb"), **glued(folder / "reconstruction.ipynb")}

    def ours(name: str, places: int = 0, unit: str = "%") -> str:
        return f"{found[name]:.{places}f}{unit}" if name in found else NOT_RUN

    own, others = abuse.paper_cells()
    rebuilt = [rows["Ours"]["black_box"][0] for rows in paper_table("table6")["datasets"].values()]
    clean = ours("abuse_clean_calibrated_mean")
    unauthorised = "abuse_protected_{}_unauthorised_mean"
    return [
        ["the authorised service recognises its users, at its own threshold", clean,
         ours("abuse_protected_calibrated_authorised_mean"), f"{sum(own) / len(own):.0f}%"],
        ["other networks recognise them, at the paper's threshold", ours("abuse_clean_paper_mean"),
         ours(unauthorised.format("paper")), f"{sum(others) / len(others):.0f}%"],
        ["the same at each network's own threshold", clean, ours(unauthorised.format("calibrated")), NOT_GIVEN],
        ["the same after a blur and a contrast stretch", "",
         ours("abuse_purified_calibrated_unauthorised_mean"), NOT_GIVEN],
        ["likeness of the face that a network rebuilds from the features (mean SSIM)",
         ours("reconstruction_black_box_unprotected_ssim", 2, ""), ours("reconstruction_black_box_pmt_ssim", 2, ""),
         f"{min(rebuilt):.2f} to {max(rebuilt):.2f}"],
        ["other networks take that face for the photograph", ours("reconstruction_black_box_unprotected_others"),
         ours("reconstruction_black_box_pmt_others"), NOT_GIVEN],
    ]  # fmt: skip


def attacked(folder: Path) -> list[list[str]]:
    """Lines of the second table: the attack, then what is recognised of each filter's uploads, with 95% intervals.

    Args:
        folder: of the executed pages, with their numbers in ``data/``.
    """
    rates = {(row["variant"], row["kind"], row["who"]): row for row in _read(folder, "audit", "together")}
    fused = [row for row in _read(folder, "audit", "together-by-fusion") if row["pairs"] == HERE]

    def by_mean(variant: str, kind: str, who: str = "others") -> str:
        row = rates.get((variant, kind, who))
        return NOT_RUN if row is None else _share(*(float(row[name]) for name in ("accuracy", "low", "high")))

    def by_fusion(variant: str, attack: str) -> str:
        rows = [row for row in fused if (row["uploads"], row["attack"]) == (variant, attack)]
        if not rows:
            return NOT_RUN
        counted = [(round(float(row["fused"]) * int(row["n"])), int(row["n"])) for row in rows]
        right, n = (sum(column) for column in zip(*counted, strict=True))
        interval = metrics.wilson(right, n)
        return _share(right / n, interval.low, interval.high)

    def both(words: str, cell: Callable[[str, str], str], kind: str) -> list[str]:
        return [words, *(cell(variant, kind) for variant in VARIANTS)]

    found = glued(folder / "audit.ipynb")
    likeness = [found.get(f"audit_{variant}_best_ssim") for variant in VARIANTS]
    return [
        ["*the service, which is meant to*", *(by_mean(variant, "upload", "service") for variant in VARIANTS)],
        both("*others, of photographs*", by_mean, "photograph"),
        both("of uploads as they are", by_mean, "upload"),
        both("after the best of eight plain filters", by_mean, "filters"),
        both("of the face that a network restores, trained on other people's uploads", by_mean, "learned"),
        both("by *translation*, which restores no face", by_mean, "translated"),
        both("of uploads as they are, by four networks together", by_fusion, UPLOAD),
        both("by translation, by four networks together", by_fusion, TRANSLATION),
        ["likeness of the best restored face (mean SSIM)",
         *(NOT_RUN if value is None else f"{value:.2f}" for value in likeness)],
    ]  # fmt: skip


def tables(folder: Path) -> dict[str, Table]:
    """Both tables, by name: ``tests`` and ``attacks``.

    Args:
        folder: of the executed pages, with their numbers in ``data/``.
    """
    sizes = {row["dataset"]: row["n"] for row in _read(folder, "abuse", "ssim")}
    pairs = listed([f"{TITLES.get(name, name)} ({n} pairs)" for name, n in sizes.items()])
    n = max((int(row["n"]) for row in _read(folder, "audit", "together")), default=0)
    return {
        "tests": Table(
            ("by the paper's own measures", "of photographs", "of PMT's uploads", "the paper, of uploads"),
            papers_tests(folder),
            f"Means over the cells of all networks on {pairs or 'no set'}.",
        ),
        "attacks": Table(
            ("who recognises the person, and how", "PMT", "*deep*"),
            attacked(folder),
            f"Of {n} pairs of one person, with 95% intervals; the best of a kind is picked in the attacker's favour.",
        ),
    }


def _share(share: float, low: float, high: float) -> str:
    return f"{100 * share:.0f}% [{100 * low:.0f}, {100 * high:.0f}]"


def _read(folder: Path, page: str, name: str) -> list[dict[str, str]]:
    path = folder / "data" / page / f"{name}.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
