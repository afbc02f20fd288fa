"""What the runner writes beside the executed pages: what was found at a glance, every claim, and every stored result.

All are made from files, so that none is typed: the first by :mod:`pmtlib.glance`, the claims from what each page
published of its own (:func:`pmtlib.experiments.claims.publish`), the provenance from ``results/`` and its ledger. The
book includes them.
"""

from __future__ import annotations

import csv
import io
import json
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pmtlib import glance, page_data, reproduction, results
from pmtlib.experiments.claims import HOLDS, NOT, UNESTABLISHED, UNJUDGED

CLAIMS = "claims.md"
GLANCE = "glance-{}.md"
"""By the name of a table of :func:`pmtlib.glance.tables`."""
PROVENANCE = "provenance.md"
PROVENANCE_DATA = "data/provenance.csv"

SECTIONS = {
    "reconstruction": "Section 6.3",
    "abuse": "Section 6.4",
    "attributes": "Section 6.5",
    "trade-off": "Section 6.6",
    "robustness": "Section 6.7",
    "scalability": "Section 6.8",
    "ablation": "Section 6.9",
    "parameters": "Section 6.1",
}
"""Pages that hold claims of the paper against numbers, and the paper's section, in the book's order."""

NOT_RUN = "not run"


def files(folder: Path, manifest: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> dict[str, bytes]:
    """The files to write, by their path below the folder of the pages.

    Args:
        folder: of the pages, which has their numbers in ``data/``.
        manifest: the runner's entries, by page.
        names: of the notebooks that there are.
    """
    sections = [name for name in SECTIONS if name in set(names)]
    lines = provenance()
    return {
        **{
            GLANCE.format(name): f"{_table(table.headings, table.rows, 'glance')}\n{table.note}\n".encode()
            for name, table in glance.tables(folder).items()
        },
        CLAIMS: claims_table(folder, sections).encode(),
        PROVENANCE: provenance_tables(lines, manifest).encode(),
        PROVENANCE_DATA: _csv(lines).encode(),
    }


def claims_table(folder: Path, sections: Sequence[str]) -> str:
    """A table of every claim: the paper's number, ours, the verdict, and the page (MyST).

    Args:
        folder: of the pages.
        sections: names of pages, in order; one that has published no claims is a line that says "not run".
    """
    rows = []
    for section in sections:
        page = f"{{doc}}`{section} </results/{section}>`"
        claims = read_claims(folder, section)
        for claim in claims:
            where = " ".join([page, f"({claim['claim']})", *(f"{{numref}}`{one}`" for one in claim["see"].split())])
            where += f"; n: {claim['n']}"
            rows.append([claim["says"], claim["paper"], claim["measured"], f"**{claim['verdict']}**", where])
        if not claims:
            rows.append([f"what {SECTIONS.get(section, section)} says", "", "", f"**{NOT_RUN}**", page])
    counts = Counter(_kind(row[3].strip("*")) for row in rows)
    said = "; ".join(f"{words}: {counts[kind]}" for kind, words in _KINDS.items() if counts[kind])
    table = _table(
        ["The paper claims that", "the paper's number", "measured here", "verdict", "page, and n"], rows, "claims"
    )
    return f"{len(rows)} claims. {said.capitalize()}.\n\n{table}"


_KINDS = {
    HOLDS: "holds",
    "part": "holds in part or under some conditions",
    NOT: "does not hold",
    "open": "cannot be judged here or is not established",
    NOT_RUN: "not run",
}


def _kind(verdict: str) -> str:
    if verdict in _KINDS:
        return verdict
    if verdict.startswith(NOT):
        return NOT
    return "open" if verdict.startswith((UNJUDGED, UNESTABLISHED)) else "part"


def read_claims(folder: Path, section: str) -> list[dict[str, str]]:
    """The claims that a page has published, as words; none where there is no such page."""
    return page_data.read(folder, section, page_data.CLAIMS)


def provenance() -> list[dict[str, str]]:
    """A line a stored result, from the files below ``results/`` and the ledger, in the order of their names.

    Raises:
        ResultError: a file is damaged.
    """
    again = reproduction.entries()
    lines = []
    for name, stored in results.everything():
        manifest = stored.manifest
        lines.append(
            {
                "experiment": stored.request.experiment,
                "name": stored.request.name,
                "file": name,
                "data": str(stored.data.get("title", stored.data["name"])),
                "n": str(stored.data["n"]),
                "version": str(stored.request.version),
                "date": str(manifest.get("date", "")),
                "commit": str(manifest.get("commit") or ""),
                "seconds": str(manifest.get("seconds", "")),
                "hardware": _hardware(manifest),
                "weights": " ".join(
                    f"{network}:{checksum}" for network, checksum in sorted(stored.request.weights.items())
                ),
                "computed twice": _twice(stored, again.get(name)),
                "key": stored.key,
                "data fingerprint": str(stored.data["fingerprint"]),
                "parameters": json.dumps(dict(stored.request.parameters), sort_keys=True, ensure_ascii=False),
                "packages": " ".join(f"{key}={value}" for key, value in manifest.get("packages", {}).items()),
                "command": str(manifest.get("command", "")),
            }
        )
    return lines


def _hardware(manifest: Mapping[str, Any]) -> str:
    hardware = manifest.get("hardware")
    if not hardware:
        return ""
    return (
        f"{hardware['device']}, {hardware['system']} {hardware['machine']}, {hardware['cpu_count']} processors, "
        f"{hardware['torch_threads']} thread(s), Python {manifest['python']}, torch {manifest['packages']['torch']}"
    )


def _twice(stored: results.Result, entry: Mapping[str, Any] | None) -> str:
    """Whether a result was computed again, and the largest shift: of a number, or of a mean in half interval widths."""
    if entry is None:
        return "no"
    if entry["checksum"] != stored.checksum:
        return "an earlier version"
    if not reproduction.done(stored):
        return "differs"
    moved = entry["difference"]
    if moved is not None and moved <= reproduction.TOLERANCE:
        return f"same, within {moved:.5f}"
    return f"same means, within {entry['shift']:.2f}"


def provenance_tables(lines: Sequence[Mapping[str, str]], manifest: Mapping[str, Mapping[str, Any]]) -> str:
    """Tables of the weights, the machines, the pages and every stored result (MyST)."""
    weights = list(dict.fromkeys(one for line in lines for one in line["weights"].split()))
    machines = list(dict.fromkeys(line["hardware"] for line in lines if line["hardware"]))
    letters = {one: _letters(place) for place, one in enumerate(weights)}
    numbers = {one: f"M{place}" for place, one in enumerate(machines, 1)}
    shown: dict[str, list[str]] = {}
    for page, entry in sorted(manifest.items()):
        for file in entry.get("results", {}):
            shown.setdefault(file, []).append(page)
    rows = [
        [
            f"`{line['file'].removesuffix('.json')}`",
            ", ".join(f"{{doc}}`{page} </results/{page}>`" for page in shown.get(line["file"], [])) or "none",
            f"{line['data']}, {line['n']}",
            line["version"],
            line["date"],
            f"`{line['commit']}`" if line["commit"] else "",
            line["seconds"],
            numbers.get(line["hardware"], ""),
            " ".join(letters[one] for one in line["weights"].split()) or "none",
            line["computed twice"],
        ]
        for line in lines
    ]
    headings = ["result", "page", "data, n", "version", "date", "commit", "seconds", "on", "weights", "computed twice"]
    return "\n".join(
        [
            f"## The {len(lines)} stored results",
            "",
            f"All columns, parameters and packages among them: [CSV](/results/{PROVENANCE_DATA}).",
            "",
            _table(headings, rows, "provenance"),
            "## Pages",
            "",
            _pages(lines, manifest),
            "## Machines",
            "",
            _table(["", "machine"], [[number, machine] for machine, number in numbers.items()], "provenance"),
            "## Weights",
            "",
            _table(
                ["", "network", "sha256 of the weights"],
                [[letter, one.partition(":")[0], f"`{one.partition(':')[2]}`"] for one, letter in letters.items()],
                "provenance",
            ),
        ]
    )


def _pages(lines: Sequence[Mapping[str, str]], manifest: Mapping[str, Mapping[str, Any]]) -> str:
    seconds = {line["file"]: float(line["seconds"] or 0) for line in lines}
    rows = []
    for page, entry in sorted(manifest.items()):
        used = [file for file in entry.get("results", {}) if file in seconds]
        rows.append(
            [
                f"{{doc}}`{page} </results/{page}>`",
                str(entry.get("profile", "")),
                str(len(used)),
                f"{sum(seconds[file] for file in used) / 60:.0f}",
                f"`papermill notebooks/{page}.ipynb OUT.ipynb -p profile {entry.get('profile')} -p recompute True`",
            ]
        )
    headings = ["page", "profile", "stored results", "minutes they took", "computed again by"]
    return _table(headings, rows, "provenance")


def _letters(place: int) -> str:
    """A, B, ..., Z, AA, AB, ..."""
    before, last = divmod(place, 26)
    return (_letters(before - 1) if before else "") + string.ascii_uppercase[last]


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], style: str) -> str:
    return f":::{{table}}\n:class: {style}\n\n{page_data.markdown(headings, rows)}:::\n"


def _csv(lines: Sequence[Mapping[str, str]]) -> str:
    if not lines:
        return ""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
