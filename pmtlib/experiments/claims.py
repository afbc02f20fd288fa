"""What the paper claims, what was measured and whether it holds: one table a page, made from the numbers.

A page's details are tables and readings of its own; this is what they come to. A verdict needs people and pairs enough:
on the handful of sample photographs none is drawn (:func:`judged`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from pmtlib import metrics, page_data
from pmtlib.experiments.common import TITLES, share_interval

HOLDS, IN_PART, NOT = "holds", "holds in part", "does not hold"
UNJUDGED, UNESTABLISHED = "cannot be judged here", "is not established"

ENOUGH = 50
"""Pairs, or photographs, a set below which no verdict is drawn."""


@dataclass(frozen=True)
class Claim:
    """One claim of the paper held against the numbers at hand.

    Attributes:
        says: the claim, a clause that follows "that", without a full stop.
        paper: the paper's own number for it; empty where it gives none.
        measured: ours, with 95% intervals, a clause.
        verdict: such as :data:`HOLDS`.
    """

    says: str
    paper: str
    measured: str
    verdict: str


def overall(right: Sequence[bool]) -> str:
    """A claim's verdict from those on its parts: all right, some, none; :data:`UNJUDGED` without parts."""
    if not right:
        return UNJUDGED
    return HOLDS if all(right) else IN_PART if any(right) else NOT


def reversals(parts: Mapping[str, Sequence[int]]) -> str:
    """Where a claim holds and where its opposite does, in words; empty unless there are both.

    :func:`overall` says of both alike that it holds in part, as where on the other part nothing can be told.

    Args:
        parts: 1 where it holds, -1 where the opposite does, 0 where neither is sure: for each set, by the part's name.
    """
    said = {
        sign: [
            name if all(found == sign for found in signs) else f"{name} on {signs.count(sign)} of {len(signs)} sets"
            for name, signs in parts.items()
            if sign in signs
        ]
        for sign in (1, -1)
    }
    return f"holds for {listed(said[1])}, reversed for {listed(said[-1])}" if all(said.values()) else ""


def graded(value: float, most: float, in_part: float) -> str:
    """A verdict on what is to be small: at most ``most``, or at most ``in_part``."""
    return HOLDS if value <= most else IN_PART if value <= in_part else NOT


def judged(sizes: Mapping[str, int]) -> bool:
    """Whether a verdict may be drawn.

    Args:
        sizes: pairs or photographs of each measured set, by its name.
    """
    return bool(sizes) and all(name != "samples" and size >= ENOUGH for name, size in sizes.items())


def in_short(
    claims: Sequence[Claim],
    sizes: Mapping[str, int],
    unit: str = "pairs",
    *,
    steps: int | None = None,
    beyond: str = "",
) -> str:
    """The paper's claims, what was measured and the verdicts, a line each (Markdown).

    Args:
        claims: of a page, in order; they are numbered.
        sizes: ``unit`` of each measured set, by its name.
        unit: what n counts.
        steps: K of the uploads.
        beyond: what was measured without a claim of the paper, a sentence; empty leaves that out.
    """
    if not claims or not sizes:
        return "Nothing was measured."
    titles = {name: TITLES.get(name, name) for name in sizes}
    if len(sizes) > 1 and len(set(sizes.values())) == 1:
        where = f"{listed(list(titles.values()))} (n = {next(iter(sizes.values()))} {unit} each)"
    else:
        where = listed(
            [
                f"{titles[name]} (n = {size}{'' if place else f' {unit}'})"
                for place, (name, size) in enumerate(sizes.items())
            ]
        )
    if len(sizes) > 1:
        where += " together"
    if steps is not None:
        where += f", with K = {steps} steps"
    where += ", with 95% intervals" if steps is None else " and 95% intervals"
    headings = ["", "The paper claims that", "the paper's number", "measured here", "verdict"]
    rows = [
        [f"({place})", claim.says, claim.paper, claim.measured, f"**{claim.verdict}**"]
        for place, claim in enumerate(claims, 1)
    ]
    parts = [f"Measured on {where}."]
    if not judged(sizes):
        headings, rows = headings[:-1], [row[:-1] for row in rows]
        parts[0] += (
            " No verdict is drawn: these are too few people to judge a claim by. The published page has the numbers of "
            "the paper profile, which needs the research data."
        )
    parts.append(page_data.markdown(headings, rows))
    if beyond:
        parts.append(f"**Beyond the paper:** {beyond}")
    return "\n\n".join(part.strip() for part in parts)


def publish(
    claims: Sequence[Claim],
    sizes: Mapping[str, int],
    unit: str = "pairs",
    *,
    see: Mapping[str, Sequence[int]] | None = None,
) -> None:
    """Hand a page's claims over to the book's table of all claims (:mod:`pmtlib.publication`).

    Args:
        claims: of a page, in order; they are numbered.
        sizes: ``unit`` of each measured set, by its name.
        unit: what n counts.
        see: names of figures, and the numbers of the claims that each shows.
    """
    n = ", ".join(f"{TITLES.get(name, name)} {size}" for name, size in sizes.items())
    lines = [
        {
            "claim": place,
            "says": claim.says,
            "paper": claim.paper,
            "measured": claim.measured,
            "verdict": claim.verdict if judged(sizes) else UNJUDGED,
            "n": f"{n} {unit}",
            "see": " ".join(name for name, places in (see or {}).items() if place in places),
        }
        for place, claim in enumerate(claims, 1)
    ]
    # Without a set there is nothing measured, and the page's lines are those of what was not run.
    columns = ["claim", "says", "paper", "measured", "verdict", "n", "see"]
    page_data.keep(page_data.CLAIMS, pd.DataFrame(lines if sizes else [], columns=columns))


def sizes(frame: pd.DataFrame) -> dict[str, int]:
    """How many pairs or photographs each set has: the largest ``n`` of its lines in a table of results."""
    if not len(frame):
        return {}
    return {str(name): int(part.max()) for name, part in frame.groupby("dataset", sort=False)["n"]}


def details(text: str, sizes: Mapping[str, int]) -> str:
    """A reading in words where a verdict may be drawn, else a line that says why there is none (Markdown)."""
    if judged(sizes):
        return text
    return "*Not put into words: these are too few people to judge a claim by.*"


def listed(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def mean(values: Sequence[ArrayLike], places: int = 2, *, percent: bool = False) -> str:
    """The mean of the values of all sets together with its 95% interval, ``0.62 [0.60, 0.64]``, ``62% [60, 64]``.

    The interval is a bootstrap, and Wilson's for the rate of one network, see
    :func:`pmtlib.experiments.common.share_interval`.

    Args:
        values: a set's values, one for each pair or photograph; several for each set are to be averaged before.
        places: decimal places.
        percent: values are shares.
    """
    together = np.concatenate([np.asarray(one, dtype=np.float64) for one in values])
    interval = share_interval(together) if percent else metrics.bootstrap(together, seed=0)
    value, low, high = ((100 if percent else 1) * float(one) for one in (together.mean(), *interval))
    return _written(value, low, high, places, percent)


def rate(line: Any, name: str = "accuracy", places: int = 1) -> str:
    """A rate of a table's line in percent, ``62.2% [60.0, 64.4]``.

    From ``NAME``, ``NAME_low`` and ``NAME_high``, or from the line's ``low`` and ``high`` where these are not there.
    """
    low, high = (line[f"{name}_{end}" if f"{name}_{end}" in line else end] for end in ("low", "high"))
    return _written(100 * line[name], 100 * low, 100 * high, places, True)


def share(right: Sequence[ArrayLike], places: int = 0) -> str:
    """The share of what is true in all sets together with its Wilson interval, ``62% [60, 64]``."""
    together = np.concatenate([np.asarray(one, dtype=bool) for one in right])
    low, high = metrics.wilson(int(together.sum()), len(together))
    return _written(100 * float(together.mean()), 100 * low, 100 * high, places, True)


def _written(value: float, low: float, high: float, places: int, percent: bool) -> str:
    unit = "%" if percent else ""
    text = f"{value:.{places}f}{unit} [{low:.{places}f}, {high:.{places}f}]"
    # A hyphen in front of a number in running text reads as a dash.
    return text.replace("-", "\N{MINUS SIGN}")
