"""Stored numbers: what was asked, on what data, with what weights, what came out, and how it was run.

A result is one JSON file under ``results/``. Its key is a hash of the experiment, its version, the parameters, the
weights' checksums and the data's fingerprint. Without the data a result can still be shown, because all but the
fingerprint is known; with the data the fingerprint is compared too.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pmtlib import paths
from pmtlib.errors import ResultError
from pmtlib.images import write_atomic


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True)
class Request:
    """What is asked of an experiment.

    Attributes:
        experiment: its name, also the folder of its results.
        name: the file's name, readable, unique within the experiment.
        version: raised whenever the experiment's code changes what comes out.
        parameters: everything that shapes the values, as plain JSON.
        weights: network name to checksum.
    """

    experiment: str
    name: str
    version: int
    parameters: Mapping[str, Any]
    weights: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for part in (self.experiment, *self.name.split("/")):
            if not re.fullmatch(r"[a-z0-9][a-z0-9_.+-]*", part):
                raise ValueError(f"not a result name: {self.experiment}/{self.name}")

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "experiment": self.experiment,
            "name": self.name,
            "version": self.version,
            "parameters": dict(self.parameters),
            "weights": dict(self.weights),
        }

    def key(self, data_fingerprint: str) -> str:
        """The result's key, 16 hexadecimal digits."""
        return hashlib.sha256(_canonical([self.as_dict(), data_fingerprint]).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Result:
    """A stored or fresh result.

    Attributes:
        request: what was asked.
        data: ``name``, ``fingerprint``, ``n`` and, where the set only stands in for another, ``stand_in``.
        values: the numbers, plain JSON.
        manifest: see :func:`pmtlib.provenance.manifest`.
    """

    request: Request
    data: Mapping[str, Any]
    values: Mapping[str, Any]
    manifest: Mapping[str, Any]

    @property
    def key(self) -> str:
        """See :meth:`Request.key`."""
        return self.request.key(self.data["fingerprint"])

    @property
    def checksum(self) -> str:
        """SHA-256 over data, values and manifest, so that a changed number is noticed."""
        return hashlib.sha256(_canonical([self.data, self.values, self.manifest]).encode()).hexdigest()


def path_of(request: Request, root: Path | None = None) -> Path:
    """The file of a request's result."""
    return (root or paths.results_dir()) / request.experiment / f"{request.name}.json"


def everything(root: Path | None = None) -> list[tuple[str, Result]]:
    """All stored results, by their path below the folder of results, in the order of their names.

    Args:
        root: that folder; by default :func:`pmtlib.paths.results_dir`.

    Raises:
        ResultError: a file is damaged.
    """
    folder = root or paths.results_dir()
    return [(path.relative_to(folder).as_posix(), read(path)) for path in sorted(folder.glob("*/*.json"))]


def read(path: Path) -> Result:
    """Read a stored result.

    Raises:
        ResultError: the file is missing, damaged, or its key does not fit its content.
    """
    remedy = "restore it from the repository or compute it again with -p recompute True"
    try:
        raw = json.loads(path.read_text("utf-8"))
        request = Request(**raw["request"])
        result = Result(request, raw["data"], raw["values"], raw["manifest"])
        key, checksum = raw["key"], raw["checksum"]
    except FileNotFoundError:
        raise ResultError(f"{path.name}: no such result in {path.parent.name}/; compute it first") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultError(f"{path}: not a readable result ({type(error).__name__}); {remedy}") from error
    if key != result.key or checksum != result.checksum:
        raise ResultError(f"{path}: its key or checksum does not fit its content, it was edited or damaged; {remedy}")
    return result


def write(result: Result, root: Path | None = None) -> Path:
    """Store a result.

    Where the same values are stored already, their manifest stays as it is, unless it is of code that was in no commit
    and the new one is not.
    """
    path = path_of(result.request, root)
    try:
        stored = read(path)
    except ResultError:
        stored = None
    same = stored is not None and stored.key == result.key and _canonical(stored.values) == _canonical(result.values)
    if stored is None or not same or (_uncommitted(stored) and not _uncommitted(result)):
        content = {
            "key": result.key,
            "checksum": result.checksum,
            "request": result.request.as_dict(),
            "data": dict(result.data),
            "manifest": dict(result.manifest),
            "values": dict(result.values),
        }
        write_atomic(path, _layout(content).encode())
    return path


def _uncommitted(result: Result) -> bool:
    commit = result.manifest.get("commit")
    return commit is None or str(commit).endswith("+changes")


def find(request: Request, data_fingerprint: str | None = None, root: Path | None = None) -> tuple[Result | None, str]:
    """The stored result that answers ``request``, or None and the reason.

    Args:
        request: what is asked.
        data_fingerprint: of the data at hand; None where the data is absent, then it is not compared.
        root: folder of results.
    """
    stored, reason = _answer(request, data_fingerprint, root)
    _log(path_of(request, root), reason)
    return stored, reason


MISSING = "not computed yet"
"""Why there is no answer where nothing is stored."""


def _answer(request: Request, data_fingerprint: str | None, root: Path | None) -> tuple[Result | None, str]:
    path = path_of(request, root)
    if not path.is_file():
        return None, MISSING
    stored = read(path)
    if _canonical(stored.request.as_dict()) != _canonical(request.as_dict()):
        changed = [
            part
            for part, value in request.as_dict().items()
            if _canonical(value) != _canonical(stored.request.as_dict()[part])
        ]
        return None, f"stored with other {', '.join(changed)}"
    if data_fingerprint is not None and stored.data["fingerprint"] != data_fingerprint:
        return None, "stored for other data of that name"
    return stored, ""


def _log(path: Path, reason: str) -> None:
    """Name the file in ``PMT_RESULTS_LOG``: so the runner knows which results a page was made from, or looked for.

    After a tab follows why what is stored was not used.
    """
    log = os.environ.get("PMT_RESULTS_LOG")
    root = paths.results_dir()
    if log and path.is_relative_to(root):
        with Path(log).open("a", encoding="utf-8") as file:
            file.write(f"{path.relative_to(root).as_posix()}\t{'' if reason == MISSING else reason}\n")


def _layout(content: dict[str, Any]) -> str:
    """Indented JSON with lists of numbers on one line: readable, and small in a diff."""
    text = json.dumps(content, indent=1, allow_nan=False)
    pattern = r"\[\s+((?:-?[\d.eE+-]+|true|false|null)(?:,\s+(?:-?[\d.eE+-]+|true|false|null))*)\s+\]"
    return re.sub(pattern, lambda match: "[" + re.sub(r",\s+", ", ", match[1]) + "]", text) + "\n"
