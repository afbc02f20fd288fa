"""The report of ``pmt protect``: one line of JSON a face, and what lets an interrupted run go on.

Lines are appended, and forced to the disk, as faces are done. A line that was torn by a crash is passed over. At the
end of a run the file is written anew, each result once, in the order of the names.

Runs that share one folder's work (shards) have a report each, and none may run beside a run of the whole, which gathers
their reports into one.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, computed_field
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pmtlib.errors import ResultError
from pmtlib.images import write_atomic
from pmtlib.intake import is_safe, shown

if sys.platform != "win32":
    import fcntl

LINES = "report.jsonl"
TABLE = "report.txt"
LOCK = ".pmt.lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF)

Shard = tuple[int, int]
"""Which part of the photographs, from 1, and of how many parts."""
_SHARDS = "report-*-of-*.jsonl"


def _safe(outputs: dict[str, str]) -> dict[str, str]:
    if not all(map(is_safe, outputs)):
        raise ValueError("an output outside the folder")
    return outputs


class Agreement(BaseModel):
    """How well an obfuscated face serves one authorised network.

    Attributes:
        network: its name.
        cut: units of the shallow model, as asked for.
        weights: checksum of the network's weights.
        feature_cosine: cosine of the shallow features with those of the photograph.
        feature_error: relative squared error of the shallow features.
        cosine: cosine of the whole network's embedding of what is uploaded with that of the photograph.
        threshold: the network's calibrated threshold of highest accuracy on LFW; None where it has none.
        verdict: ``accepted`` where ``cosine`` is above it, else ``rejected``; None without a threshold.
    """

    model_config = ConfigDict(frozen=True)

    network: str
    cut: int | str
    weights: str
    feature_cosine: float
    feature_error: float
    cosine: float
    threshold: float | None
    verdict: Literal["accepted", "rejected"] | None


class Row(BaseModel):
    """One face, or one photograph of which no face could be protected.

    Attributes:
        input: the photograph's name, relative to the folder that was given.
        source: a hash of where it lies.
        face: 1 for the largest face, and so on; None where the whole photograph failed.
        faces: how many faces were to be done in this photograph.
        status: ``done`` or ``failed``.
        reason: why it failed.
        mode: what is uploaded, an ``image`` or shallow ``features``.
        outputs: path below the report's folder, to the SHA-256 of the file.
        box: x, y, width and height of the face in the photograph, pixels.
        score: the detector's, 0 to 1.
        networks: how well it serves each authorised network.
        ssim: similarity of the uploaded image with the aligned photograph; None for features.
        steps: updates that were taken.
        seconds: time a face took, its share of the batch.
        seed: of this face; it comes from the base seed and the pixels.
        variant: of the transform, a name of :data:`pmtlib.variants.VARIANTS`.
        config: hash of all that shapes the result, besides the photograph.
        settings: fields of the transform's configuration that are not the variant's defaults; None in a report of an
            earlier version, which did not say.
        input_sha256: of the photograph's file.
        device: where it was computed.
        batch_size: how many faces were optimised together, where memory did not suffice for as many as the
            configuration says: the image may then differ from what that gives, in its last bits at first and in more
            after many steps. None where as many were.
    """

    model_config = ConfigDict(frozen=True)

    input: str
    source: str
    face: int | None = None
    faces: int | None = None
    status: Literal["done", "failed"]
    reason: str | None = None
    mode: Literal["image", "features"]
    outputs: Annotated[dict[str, str], AfterValidator(_safe)] = {}
    box: tuple[float, float, float, float] | None = None
    score: float | None = None
    networks: tuple[Agreement, ...] = ()
    ssim: float | None = None
    steps: int | None = None
    seconds: float | None = None
    seed: int | None = None
    variant: str = "pmt"
    config: str
    settings: dict[str, Any] | None = None
    input_sha256: str | None = None
    device: str | None = None
    batch_size: int | None = None

    # mypy knows no decorated properties (its issue 1362).
    @computed_field  # type: ignore[prop-decorator]
    @property
    def warning(self) -> str | None:
        """Why a face that is done may serve nobody, a field of the report too; None where nothing speaks against it."""
        if self.status == "failed":
            return None
        reasons = ["nothing was optimised (0 steps)"] if self.steps == 0 else []
        for network in self.networks:
            if network.verdict == "rejected" and network.threshold is not None:
                figures = f"cosine {network.cosine:.3f}, threshold {network.threshold:.3f}"
                reasons.append(f"{network.network} itself rejects it ({figures}); try more --steps")
        return "; ".join(reasons) or None

    @property
    def target(self) -> str | None:
        """The photograph's results' common path, see :class:`pmtlib.intake.Photo`; None without an output."""
        for output in self.outputs:
            tail = suffix(self.face or 1, None if self.mode == "image" else self.networks[0].network)
            if output.endswith(tail):
                return output.removesuffix(tail)
        return None


def suffix(face: int, network: str | None) -> str:
    """What follows a target in the name of a file: ``.png``, ``-face2.png`` or ``.mobilefacenet.safetensors``."""
    number = "" if face == 1 else f"-face{face}"
    return f"{number}.png" if network is None else f"{number}.{network}.safetensors"


class Report:
    """The report of an output folder, held by one run at a time.

    Use it as a context manager: entering takes the folder's lock and reads what is there; leaving, for whatever
    reason, writes the report anew and lets the lock go.

    A shard shares the folder with other shards, but with no run of the whole.

    Attributes:
        rows: all rows, earlier ones first; of a shard also those that others had written before it began.
        gathered: the rows of the last run of the whole, which stay as they are while shards run.
        damaged: lines that could not be read.

    Raises:
        ResultError: the folder is in use by another run, or it cannot be made or written to.
    """

    def __init__(self, folder: Path, shard: Shard | None = None) -> None:
        self.folder = folder
        self.shard = shard
        self.rows: list[Row] = []
        self.gathered: list[Row] = []
        self.damaged = 0
        self.name = lines_name(shard)
        self._own: list[Row] = []
        self._locks: list[IO[bytes]] = []
        self._lines: IO[bytes] | None = None

    def __enter__(self) -> Report:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._take(LOCK, shared=self.shard is not None)
            if self.shard is not None:
                self._take(f".pmt-{self.shard[0]}-of-{self.shard[1]}.lock", shared=False)
            found = {path.name: read(path) for path in (*_reports(self.folder), self.folder / self.name)}
            self.gathered = found[LINES][0]
            self._own, self.damaged = found[self.name]
            if self.damaged:
                write_atomic(self.folder / self.name, b"".join(map(_line, self._own)))
            # A later row counts more: what shards did after the last run of the whole, and one's own before others'.
            names = sorted(found, key=lambda name: (name != LINES, name == self.name))
            self.rows = [row for name in names for row in found[name][0]]
            self._lines = (self.folder / self.name).open("ab")
        except BlockingIOError:
            self._release()
            whose = "another run" if len(self._locks) < 2 else "another run of this shard"
            reason = f"{shown(self.folder)} is in use by {whose}; wait for it, or give another --out"
            raise ResultError(reason) from None
        except OSError as error:
            self._release()
            raise ResultError(cannot_write(self.folder, error)) from error
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._lines is not None
        try:
            self._lines.close()
            rows = compact(self.rows if self.shard is None else self._own)
            write_atomic(self.folder / self.name, b"".join(map(_line, rows)))
            if self.shard is None:
                write_atomic(self.folder / TABLE, table_text(rows).encode())
                for path in _reports(self.folder)[1:]:
                    path.unlink(missing_ok=True)
        except OSError as full:
            # What was appended is on the disk; an error under way says more than this one.
            if error is None:
                raise ResultError(cannot_write(self.folder, full)) from full
        finally:
            self._release()

    def _take(self, name: str, *, shared: bool) -> None:
        # For reading too: where a network's file system makes other locks of these, a shared one asks for that.
        lock = (self.folder / name).open("a+b")
        self._locks.append(lock)
        if sys.platform != "win32":
            try:
                fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                reason = f"{shown(self.folder)} is on a file system without locks ({error.strerror})"
                raise ResultError(f"{reason}; give an --out on another") from error

    def _release(self) -> None:
        for lock in self._locks:
            lock.close()

    def add(self, row: Row) -> None:
        """Append a row; it is on the disk when this returns.

        Raises:
            OSError: it cannot be written.
        """
        self.extend([row])

    def extend(self, rows: Sequence[Row]) -> None:
        """Append rows, which are all on the disk when this returns: forcing them there takes as long as for one.

        Raises:
            OSError: they cannot be written.
        """
        assert self._lines is not None
        if not rows:
            return
        self._lines.write(b"".join(map(_line, rows)))
        self._lines.flush()
        os.fsync(self._lines.fileno())
        self.rows += rows
        self._own += rows


def lines_name(shard: Shard | None = None) -> str:
    """The name of the report of a run: that of the whole, or ``report-2-of-8.jsonl`` of a shard."""
    return LINES if shard is None else f"report-{shard[0]}-of-{shard[1]}.jsonl"


def _reports(folder: Path) -> list[Path]:
    """The whole's report, which may be absent, and those of shards that were not gathered yet."""
    return [folder / LINES, *sorted(folder.glob(_SHARDS))]


def everything(folder: Path) -> tuple[list[Row], int]:
    """The rows of all reports of a folder, each result once, and how many lines cannot be read."""
    parts = [read(path) for path in _reports(folder)]
    return compact(row for rows, _ in parts for row in rows), sum(damaged for _, damaged in parts)


def cannot_write(folder: Path, error: OSError) -> str:
    """Why nothing can be written to a folder, in one line."""
    return f"cannot write to {shown(folder)} ({error.strerror}); make room, or give another --out"


def read(path: Path) -> tuple[list[Row], int]:
    """The rows of a report, and how many of its lines cannot be read; no rows where there is no file."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], 0
    rows, damaged = [], int(lines.pop() != b"")
    for line in lines:
        try:
            rows.append(Row.model_validate_json(line))
        except ValidationError:
            damaged += 1
    return rows, damaged


def compact(rows: Iterable[Row]) -> list[Row]:
    """Each result once, the latest; failures that a later row has made good are left out. Sorted by name and face."""
    done: dict[str, Row] = {}
    failed: dict[tuple[str, int | None], Row] = {}
    for row in rows:
        if row.status == "failed":
            failed[row.source, row.face] = row
            continue
        for stale in (row.face, None):
            failed.pop((row.source, stale), None)
        first = next(iter(row.outputs), "")
        # Taken out first, so that the rows stay in the order of their last change.
        done.pop(first, None)
        done[first] = row
    return sorted((*done.values(), *failed.values()), key=lambda row: (row.input, row.face or 0, row.mode, row.source))


def table(rows: Iterable[Row], *, wide: bool = False) -> Table:
    """The faces that are done, one line for each network.

    Args:
        rows: of a report; failed ones are left out unless the table is wide.
        wide: with the names of the results, the time taken, warnings, and why a face failed.
    """
    shape = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    shape.add_column("photograph", overflow="fold", min_width=10)
    shape.add_column("face", no_wrap=True)
    if wide:
        shape.add_column("result", overflow="fold")
        shape.add_column("variant", no_wrap=True)
    shape.add_column("network", no_wrap=True)
    for name in ("features", "cosine", "threshold"):
        shape.add_column(name, justify="right", no_wrap=True)
    shape.add_column("verdict", no_wrap=True)
    for name in ("SSIM", "seconds") if wide else ("SSIM",):
        shape.add_column(name, justify="right", no_wrap=True)
    if wide:
        shape.add_column("warning", overflow="fold")
    for row in rows:
        head = [Text(shown(row.input)), Text("" if row.face is None else f"{row.face}/{row.faces}")]
        if row.status == "failed":
            if wide:
                shape.add_row(*head, Text(f"failed: {shown(row.reason or '')}"))
            continue
        tail = [_number(row.ssim), "" if row.seconds is None else f"{row.seconds:.1f}"]
        outputs = [Text(shown(output)) for output in row.outputs]
        for i, network in enumerate(row.networks):
            verdict = network.verdict or "-"
            shape.add_row(
                *(head if i == 0 else ["", ""]),
                *([outputs[i] if i < len(outputs) else "", Text(row.variant if i == 0 else "")] if wide else []),
                Text(shown(network.network)),
                _number(network.feature_cosine),
                _number(network.cosine),
                _number(network.threshold),
                Text(verdict, style={"accepted": "green", "rejected": "red"}.get(verdict, "")),
                *(tail if i == 0 else ["", ""])[: 1 + wide],
                *([Text(row.warning or "" if i == 0 else "")] if wide else []),
            )
    return shape


def table_text(rows: Sequence[Row]) -> str:
    """:func:`table` as plain text."""
    buffer = io.StringIO()
    Console(file=buffer, width=200, color_system=None, legacy_windows=False).print(table(rows, wide=True))
    return "".join(f"{line.rstrip()}\n" for line in buffer.getvalue().splitlines())


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _line(row: Row) -> bytes:
    return row.model_dump_json().encode() + b"\n"
