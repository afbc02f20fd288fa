"""The ledger of what was computed twice: ``results/reproduced.jsonl``.

A stored result that is computed again is held against itself, and a line is appended that says when, by which code, on
what, and by how much any number moved. With ``recompute="once"`` a notebook computes again what has no such line yet,
so that an interrupted reproduction of everything goes on where it stopped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pmtlib import paths
from pmtlib.results import Result, path_of, read

LEDGER = "reproduced.jsonl"
TOLERANCE = 0.005
"""Cosines and likenesses may move by this on other hardware; a rate moves by whole pairs, and not within it."""

Recompute = bool | Literal["once"]


def record(stored: Result, fresh: Result) -> None:
    """Append a line about a result that was computed again; ``stored`` is what was there before."""
    line = {
        "result": _name(stored),
        "checksum": read(path_of(stored.request)).checksum,
        "difference": round(difference(fresh.values, stored.values), 6),
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
    return known and difference(fresh.values, stored.values) <= TOLERANCE


def entries() -> dict[str, dict[str, Any]]:
    """The last line about each result, by the path of its file below the results folder."""
    try:
        lines = (paths.results_dir() / LEDGER).read_text("utf-8").splitlines()
    except FileNotFoundError:
        return {}
    found = (json.loads(line) for line in lines if line.strip())
    return {entry["result"]: entry for entry in found}


def done(stored: Result) -> bool:
    """Whether a result, as it is stored now, was computed again and came out the same."""
    entry = entries().get(_name(stored))
    return entry is not None and entry["checksum"] == stored.checksum and entry["difference"] <= TOLERANCE


def wanted(stored: Result, recompute: Recompute) -> bool:
    """Whether a stored result is to be computed again."""
    return not done(stored) if recompute == "once" else bool(recompute)


def summary() -> str:
    """How many of the stored results came out the same when they were computed again, in words."""
    root = paths.results_dir()
    stored = [read(path) for path in sorted(root.glob("*/*.json"))]
    again = [one for one in stored if done(one)]
    moved = max((entries()[_name(one)]["difference"] for one in again), default=0.0)
    return (
        f"{len(again)} of {len(stored)} stored results were computed again and came out the same; no number of theirs "
        f"moved by more than {moved:.5f}."
    )


def difference(fresh: Mapping[str, Any], stored: Mapping[str, Any]) -> float:
    """The largest difference of any number in two results' values; infinite where they have not the same numbers."""
    ours, theirs = list(_numbers(fresh)), list(_numbers(stored))
    if len(ours) != len(theirs):
        return float("inf")
    return max((abs(a - b) for a, b in zip(ours, theirs, strict=True)), default=0.0)


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, Mapping):
        # By name: what is read from a file need not be in the order in which it was computed.
        for name in sorted(value, key=str):
            yield from _numbers(value[name])
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _numbers(part)
    elif isinstance(value, (int, float)):
        yield float(value)


def _name(result: Result) -> str:
    return path_of(result.request).relative_to(paths.results_dir()).as_posix()
