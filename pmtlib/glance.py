"""What was found, in two short tables: for the book's front page and the README, from what the pages have published.

The first holds the paper's own tests beside the paper's numbers, the second what somebody gets who knows the filter.
Their numbers are those that the pages glue and publish as CSV, so that none is typed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pmtlib import metrics, page_data
from pmtlib.experiments import abuse
from pmtlib.experiments.audit_fused import HERE
from pmtlib.experiments.audit_several import UPLOADS
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

    The paper's numbers are those on the sets that were measured here (Tables 6 and 7).

    Args:
        folder: of the executed pages, with their numbers in ``data/``.
    """
    found = {**glued(folder / "abuse.ipynb"), **glued(folder / "reconstruction.ipynb")}
    measured = _pairs(folder)

    def ours(name: str, places: int = 0, unit: str = "%") -> str:
        return f"{found[name]:.{places}f}{unit}" if name in found else NOT_RUN

    own, others = abuse.paper_cells(measured)
    black_box = [sets["Ours"]["black_box"][0] for name, sets in paper_table("table6")["datasets"].items()
                 if name in measured]  # fmt: skip
    likeness = " to ".join(dict.fromkeys(f"{ends(black_box):.2f}" for ends in (min, max) if black_box))
    theirs = [f"{sum(cells) / len(cells):.0f}%" if cells else NOT_GIVEN for cells in (own, others)]
    unauthorised = "abuse_protected_{}_unauthorised_mean"
    unclipped = [row for row in page_data.read(folder, "reconstruction", "clipping") if row["clipped"] == "False"]
    fewest = min((int(row["steps"]) for row in unclipped), default=0)
    mean = _weighted(row for row in unclipped if int(row["steps"]) == fewest)
    return [
        ["the authorised service recognises its users, at the paper's threshold", ours("abuse_clean_paper_mean"),
         ours("abuse_protected_paper_authorised_mean"), theirs[0]],
        ["other networks recognise them, at the paper's threshold", ours("abuse_clean_paper_mean"),
         ours(unauthorised.format("paper")), theirs[1]],
        ["the same at each network's own threshold", ours("abuse_clean_calibrated_mean"),
         ours(unauthorised.format("calibrated")), NOT_GIVEN],
        ["the same after a blur and a contrast stretch", "",
         ours("abuse_purified_calibrated_unauthorised_mean"), NOT_GIVEN],
        ["likeness of the face that a network rebuilds from the features (mean SSIM)",
         ours("reconstruction_black_box_unprotected_ssim", 2, ""), ours("reconstruction_black_box_pmt_ssim", 2, ""),
         likeness or NOT_GIVEN],
        ["the same where pixels are not clipped, as the paper prints its algorithm", "",
         NOT_RUN if mean is None else f"{mean:.2f}", likeness or NOT_GIVEN],
        ["other networks take the rebuilt face for the photograph", ours("reconstruction_black_box_unprotected_others"),
         ours("reconstruction_black_box_pmt_others"), NOT_GIVEN],
    ]  # fmt: skip


def attacked(folder: Path) -> list[list[str]]:
    """Lines of the second table: the attack, then what is recognised of each filter's uploads, with 95% intervals.

    Args:
        folder: of the executed pages, with their numbers in ``data/``.
    """
    rates = {(row["variant"], row["kind"], row["who"]): row for row in page_data.read(folder, "audit", "together")}
    fused = [row for row in page_data.read(folder, "audit", "together-by-fusion") if row["pairs"] == HERE]
    several = _several(folder)
    most = max((int(row["photographs"]) for row in several), default=0)

    def by_mean(variant: str, kind: str, who: str = "others") -> str:
        row = rates.get((variant, kind, who))
        return NOT_RUN if row is None else _share(*(float(row[name]) for name in ("accuracy", "low", "high")))

    def by_fusion(variant: str, kind: str) -> str:
        """Of the attack on each set that is the best by the mean over networks."""
        chosen = rates.get((variant, kind, "others"), {"attack": ""})["attack"].split(", ")
        sets = list(dict.fromkeys(row["dataset"] for row in fused))
        attacks = dict(zip(sets, chosen if len(chosen) == len(sets) else chosen * len(sets), strict=False))
        rows = [row for row in fused if row["uploads"] == variant and attacks[row["dataset"]] == row["attack"]]
        if not rows:
            return NOT_RUN
        right, n = (sum(column) for column in zip(*map(_counted, rows), strict=True))
        return _rate(right, n)

    def by_template(variant: str, count: int) -> str:
        """Of so many uploads, by the attack that is the best on all sets together."""
        counted: dict[str, tuple[int, int]] = {}
        for row in several:
            if row["way"] == variant and int(row["photographs"]) == count:
                n, right = counted.get(row["attack"], (0, 0))
                counted[row["attack"]] = (n + int(row["n"]), right + _counted(row, "together")[0])
        if not counted:
            return NOT_RUN
        n, right = max(counted.values(), key=lambda one: one[1])
        return _rate(right, n)

    def both(words: str, cell: Callable[[str, str], str], kind: str) -> list[str]:
        return [words, *(cell(variant, kind) for variant in VARIANTS)]

    found = glued(folder / "audit.ipynb")
    likeness = [found.get(f"audit_{variant}_best_ssim") for variant in VARIANTS]
    return [
        ["*the service, which is meant to, of uploads*",
         *(by_mean(variant, "upload", "service") for variant in VARIANTS)],
        both("*others, of photographs*", by_mean, "photograph"),
        both("others, of uploads as they are", by_mean, "upload"),
        both("others, after the best of eight plain filters", by_mean, "filters"),
        both("others, of the face that a trained network restores", by_mean, "learned"),
        both("the four combined, of that face", by_fusion, "learned"),
        both("others, by *translation*, which restores no face", by_mean, "translated"),
        both("the four combined, by translation", by_fusion, "translated"),
        [f"the four combined, of uploads of {most or 'several'} photographs of a person",
         *(by_template(variant, most) for variant in VARIANTS)],
        ["*the same of one of these uploads*", *(by_template(variant, 1) for variant in VARIANTS)],
        ["likeness of the best restored face (mean SSIM)",
         *(NOT_RUN if value is None else f"{value:.2f}" for value in likeness)],
    ]  # fmt: skip


def tables(folder: Path) -> dict[str, Table]:
    """Both tables, by name: ``tests`` and ``attacks``.

    Args:
        folder: of the executed pages, with their numbers in ``data/``.
    """
    pairs = _pairs(folder)
    each = listed(list(dict.fromkeys(str(n) for n in pairs.values()))) or "no"
    titles = listed([TITLES.get(name, name) for name in pairs]) or "no set"
    pictures = {(row["dataset"], row["image"]) for row in page_data.read(folder, "reconstruction", "ssim")}
    n = max((int(row["n"]) for row in page_data.read(folder, "audit", "together")), default=0)
    return {
        "tests": Table(
            ("by the paper's own measures", "of photographs", "of PMT's uploads", "the paper, of uploads"),
            papers_tests(folder),
            "The first four lines: the paper's Eq. 10, by which a network that accepts everybody has 50%; means over "
            f"all pairs of networks on {titles}, {each} pairs a set. The others: uploads for MobileFaceNet, "
            f"{len(pictures)} photographs, each network at its own threshold.",
        ),
        "attacks": Table(
            ("who recognises the person, and how", "PMT", "*deep*"),
            attacked(folder),
            f"Of {n} pairs of one person, both sets together, with 95% intervals; *others* is the mean of four "
            "networks, *combined* their standardised scores added up. The best of a kind is picked in the attacker's "
            f"favour, the likeness apart from the rate.{_asked_about(folder)}",
        ),
    }


def _pairs(folder: Path) -> dict[str, int]:
    """The sets of the paper's tests, and the pairs of each."""
    return {row["dataset"]: int(row["n"]) for row in page_data.read(folder, "abuse", "ssim")}


def _weighted(rows: Iterable[Mapping[str, str]]) -> float | None:
    """The mean SSIM of all photographs of several sets; None without any."""
    sizes = [(float(row["ssim"]), int(row["n"])) for row in rows]
    n = sum(size for _, size in sizes)
    return sum(value * size for value, size in sizes) / n if n else None


def _several(folder: Path) -> list[dict[str, str]]:
    """The lines of uploads of several photographs of a person."""
    return [row for row in page_data.read(folder, "audit", "several-photographs") if row["attack"] in UPLOADS]


def _asked_about(folder: Path) -> str:
    """Of whom several photographs were uploaded, a sentence; empty where nobody's were."""
    people = {row["dataset"]: int(row["n"]) for row in _several(folder)}
    if not people:
        return ""
    attacks = "the best of none, a filter and translation"
    return f" Several photographs, and one of them: {sum(people.values())} other people, {attacks}."


def _counted(row: Mapping[str, str], rate: str = "fused") -> tuple[int, int]:
    """How many of one person a line recognises, and of how many."""
    n = int(row["n"])
    return round(float(row[rate]) * n), n


def _rate(right: int, n: int) -> str:
    interval = metrics.wilson(right, n)
    return _share(right / n, interval.low, interval.high)


def _share(share: float, low: float, high: float) -> str:
    return f"{100 * share:.0f}% [{100 * low:.0f}, {100 * high:.0f}]"
