"""The ledger of what was computed twice: ``results/reproduced.jsonl``.

A stored result that is computed again is held against itself, and a line is appended that says when, by which code, on
what, and by how much its numbers moved. An attack whose steps are signs, or a network that is trained anew, gives
somewhat other numbers for single images where a last bit differs; the line has the shift of any list's mean, in half
widths of its 95% interval, and the correlation of its numbers with themselves too. With ``recompute="once"`` a notebook
computes again what has no such line yet, so that an interrupted reproduction of everything goes on where it stopped.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np

from pmtlib import paths
from pmtlib.results import Result, everything, path_of, read

LEDGER = "reproduced.jsonl"
TOLERANCE = 0.005
"""Cosines and likenesses may move by this on other hardware; a rate moves by whole pairs, and not within it."""

ALIKE = 0.9
"""The least correlation of a list's numbers, one an image or a pair, with those of the first time."""

_ASIDE = ("seconds", "curve")
"""Entries that are no results: times, and how a training went."""

Recompute = bool | Literal["once"]


def record(stored: Result, fresh: Result) -> None:
    """Append a line about a result that was computed again; ``stored`` is what was there before."""
    line = {
        "result": _name(stored),
        "checksum": read(path_of(stored.request)).checksum,
        # JSON knows no infinity.
        "difference": _finite(round(difference(fresh.values, stored.values), 6)),
        "shift": _finite(round(shift(fresh.values, stored.values), 4)),
        "correlation": round(correlation(fresh.values, stored.values), 4),
        "date": fresh.manifest["date"],
        "commit": fresh.manifest["commit"],
        "seconds": fresh.manifest["seconds"],
        "hardware": fresh.manifest["hardware"],
    }
    path = paths.results_dir() / LEDGER
    path.parent.mkdir(parents=True, exist_ok=True)
    # One write of a short line: two runs at once do not mix theirs.
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, (json.dumps(line, sort_keys=True) + "\n").encode())
    finally:
        os.close(handle)


def confirmed(stored: Result, fresh: Result) -> bool:
    """Whether a fresh result says what the stored one says, and a commit has the code of the stored one."""
    known = not str(stored.manifest.get("commit") or "+changes").endswith("+changes")
    return known and _same(*_compared(fresh.values, stored.values))


def entries() -> dict[str, dict[str, Any]]:
    """The last line about each result, by the path of its file below the results folder."""
    try:
        lines = (paths.results_dir() / LEDGER).read_text("utf-8").splitlines()
    except FileNotFoundError:
        return {}
    found = (json.loads(line) for line in lines if line.strip())
    return {entry["result"]: entry for entry in found}


def done(stored: Result) -> bool:
    """Whether a result, as it is stored now, was computed again and came out the same: each number, or each mean."""
    entry = entries().get(_name(stored))
    return entry is not None and entry["checksum"] == stored.checksum and _same(*_moved(entry))


def wanted(stored: Result, recompute: Recompute) -> bool:
    """Whether a stored result is to be computed again."""
    return not done(stored) if recompute == "once" else bool(recompute)


def summary() -> str:
    """How many of the stored results came out the same when they were computed again, in words."""
    stored = [result for _, result in everything()]
    again = [_moved(entries()[_name(one)]) for one in stored if done(one)]
    exact = [moved for moved, _, _ in again if moved <= TOLERANCE]
    means = [shifted for moved, shifted, _ in again if moved > TOLERANCE]
    words = (
        f"{len(again)} of {len(stored)} stored results were computed again and came out the same: {len(exact)} with no "
        f"number moved by more than {max(exact, default=0.0):.5f}"
    )
    if means:
        words += f", {len(means)} with no mean moved by more than {max(means):.2f} of half its 95% interval"
    return words + "."


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _moved(entry: Mapping[str, Any]) -> tuple[float, float, float]:
    """Difference, shift and correlation of a line; the worst where the line has none."""
    moved, shifted, alike = (entry.get(name) for name in ("difference", "shift", "correlation"))
    return (
        math.inf if moved is None else moved,
        math.inf if shifted is None else shifted,
        -1.0 if alike is None else alike,
    )


def _compared(fresh: Mapping[str, Any], stored: Mapping[str, Any]) -> tuple[float, float, float]:
    return difference(fresh, stored), shift(fresh, stored), correlation(fresh, stored)


def _same(moved: float, shifted: float, alike: float) -> bool:
    """No number moved; or each mean is within its interval, and single numbers are about what they were."""
    return moved <= TOLERANCE or (shifted <= 1 and alike >= ALIKE)


def difference(fresh: Mapping[str, Any], stored: Mapping[str, Any]) -> float:
    """The largest difference of any number in two results' values; infinite where they have not the same numbers."""
    moved = (abs(a - b) for one, other in _paired(fresh, stored) for a, b in zip(one, other, strict=True))
    return max(moved, default=0.0)


def shift(fresh: Mapping[str, Any], stored: Mapping[str, Any]) -> float:
    """By how much any list's mean moved, in half widths of its 95% interval (normal).

    What is no list, or a list without spread, may move by :data:`TOLERANCE`; beyond it the shift is infinite, as where
    there are not the same numbers.
    """
    return max((_shift(one, other) for one, other in _paired(fresh, stored)), default=0.0)


def correlation(fresh: Mapping[str, Any], stored: Mapping[str, Any]) -> float:
    """The lowest correlation of any list of three numbers or more with itself; 1 where none moved.

    So that numbers which change places do not pass for the same.
    """
    found = [
        float(np.nan_to_num(np.corrcoef(one, other)[0, 1], nan=-1.0)) if np.std(one) > 0 else -1.0
        for one, other in _paired(fresh, stored)
        if len(other) > 2 and np.std(other) > 0
    ]
    return min(found, default=1.0)


def _shift(ours: list[float], theirs: list[float]) -> float:
    moved = abs(float(np.mean(ours)) - float(np.mean(theirs)))
    half = 1.96 * float(np.std(theirs, ddof=1)) / len(theirs) ** 0.5 if len(theirs) > 1 else 0.0
    if half > 0:
        return moved / half
    return 0.0 if moved <= TOLERANCE else math.inf


def _paired(fresh: Mapping[str, Any], stored: Mapping[str, Any]) -> list[tuple[list[float], list[float]]]:
    """The lists of both; where they do not fit together, one pair that is infinitely far apart."""
    ours, theirs = list(_rows(fresh)), list(_rows(stored))
    if [len(row) for row in ours] != [len(row) for row in theirs]:
        return [([math.inf], [0.0])]
    return list(zip(ours, theirs, strict=True))


def _rows(value: Any) -> Iterator[list[float]]:
    """The lists of numbers in stored values, and each number that is in none as a list of its own."""
    if isinstance(value, Mapping):
        # By name: what is read from a file need not be in the order in which it was computed.
        for name in sorted(value, key=str):
            if name not in _ASIDE:
                yield from _rows(value[name])
    elif isinstance(value, (list, tuple)):
        if value and all(isinstance(part, (int, float)) for part in value):
            yield [float(part) for part in value]
        else:
            for part in value:
                yield from _rows(part)
    elif isinstance(value, (int, float)):
        yield [float(value)]


def _name(result: Result) -> str:
    return path_of(result.request).relative_to(paths.results_dir()).as_posix()
