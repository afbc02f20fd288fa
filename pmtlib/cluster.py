"""``pmt protect --engine ray``: the work of :mod:`pmtlib.pipeline` on a cluster, by Ray Data.

Photographs are a data set: local files, or whatever ``fsspec`` reads by an address (``s3://bucket/folder``). Actors on
processors read them and find and align faces; actors on GPUs, or processors where there is none, optimise batches of
them and write the results. What was done goes to ``manifest/*.parquet`` below the output, one line a face, and a run
that is started again leaves out what stands there. A face's randomness comes from its pixels and no bit hangs on what
else is in its batch, so that a cluster and a laptop with the same kind of device give the same images.

Ray restarts an actor that dies and hands its work to it again: a result may be written twice, with the same bytes, and
has one line. A photograph that cannot be read is a line that says so. Lines come a block at a time, so that of a run
that is killed results stand there without one: which are its own, the names say that it has claimed beforehand.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import hashlib
import io
import itertools
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import torch

from pmtlib import devices, faces, intake, memory, pipeline
from pmtlib.errors import ConfigError, PhotoError, ResultError, show_slowness
from pmtlib.images import write_atomic
from pmtlib.pipeline import Job, Summary
from pmtlib.report import Report, Row, cannot_write, compact, everything

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST = "manifest"
CLAIMS = f"{MANIFEST}/_claims.json"
"""By source what a photograph's results are called, and which files of such names stood there before: those of a killed
run have no line yet. Readers of a folder of Parquet pass over what begins with ``_``."""
_RESULT = re.compile(r"(-face\d+)?(\.png|\.[^/]+\.safetensors)")
"""What follows a target in the names of results, see :func:`pmtlib.report.suffix`."""
_BATCHES_A_BLOCK = 4
"""How many batches' results share a file of the manifest; what a killed run does again at most, for each worker."""
_A_PROCESSOR, _NEXT_TO_NONE = 0.999, 0.0001
"""What an actor that computes asks of a machine, and what the others ask for, Ray's smallest share. However many of the
first are on a machine, of up to 998 processors, ten of the others fit beside them. Actors of a machine that is lost
begin again on those that are left: they would hold these to the end, while the ones that feed them wait for a place."""
_SECONDS_TO_ANSWER = 10
"""What a cluster's head is given to take a connection."""


def is_address(text: str) -> bool:
    """Whether a photograph or folder is named by an address, ``s3://bucket/folder``, and not by a path."""
    scheme, found, _ = text.partition("://")
    return bool(found) and scheme.isascii() and scheme.isidentifier()


def run(job: Job, photos: Sequence[str], out: str, *, show: bool = True) -> Summary:
    """Do a job on the cluster that ``RAY_ADDRESS`` names, or that ``ray start`` began here, or else on this machine.

    A folder here is locked, one behind an address is not: stores offer no lock that a killed run would let go. Two runs
    of one configuration at once do the same work twice and write the same bytes; of two configurations, each writes
    over the other's results and the manifest keeps the lines of both. One at a time is up to the caller.

    Args:
        job: what to do; its ``photos`` and ``out`` are not read.
        photos: files and folders, paths or addresses.
        out: folder of the results, a path or an address. Where it is a path, the report of
            :mod:`pmtlib.report` is written there too when all is done.
        show: draw Ray's progress bars.

    Returns:
        Summary: rows of all that stands in the manifest for these photographs.

    Raises:
        ConfigError: Ray is not installed, or see :func:`pmtlib.pipeline.check`.
        NetworkError, AssetError: an authorised network does not exist, or cannot be had.
        PhotoError: there is no photograph.
        ResultError: another run uses the folder here, it cannot be written to, the cluster takes no work, or it failed.
    """
    ray = _import_ray()
    pipeline.check(job)
    if job.device.startswith("cuda:"):
        raise ConfigError(f"--device {job.device}: with --engine ray each actor has a GPU of its own; give cuda")
    if job.device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device {intake.shown(job.device)}: with --engine ray there are auto, cpu and cuda")
    begun = time.monotonic()
    # A network or a cut that cannot be had should show here and at once, not in an actor somewhere.
    pipeline.Optimiser(job, torch.device("cpu"))
    key, store = job.key(), _Store(out)
    try:
        reported = [] if is_address(out) else everything(Path(out))[0]
    except OSError as error:
        raise ResultError(cannot_write(Path(out), error)) from error
    if job.features:
        pipeline.kept_cards(store.read, out)
    manifest = list(store.rows())
    entries, ignored = _entries(photos, out, [name for row in (*reported, *manifest) for name in row.outputs])
    if is_address(out):
        return _run(ray, job, key, entries, ignored, store, begun, show, manifest)
    summary = None
    try:
        with Report(Path(out)) as report:
            summary = _run(ray, job, key, entries, ignored, store, begun, show, manifest, report.rows)
            known = {row.model_dump_json() for row in report.rows}
            report.extend([row for row in summary.rows if row.model_dump_json() not in known])
    except (OSError, ResultError) as error:
        if summary is None:
            raise
        # Of all that is done the manifest tells.
        summary.stopped = str(error) if isinstance(error, ResultError) else cannot_write(Path(out), error)
    return summary


def _run(
    ray: Any,
    job: Job,
    key: str,
    entries: Sequence[intake.Entry],
    ignored: int,
    store: _Store,
    begun: float,
    show: bool,
    manifest: Sequence[Row],
    reported: Sequence[Row] = (),
) -> Summary:
    written = [*reported, *manifest]
    earlier = compact(written)
    named = {row.source: row.target for row in earlier if row.status == "done" and row.target is not None}
    claims = store.claims()
    # A photograph keeps the name that a killed run gave it, unless a line has given that to another one.
    taken = set(named.values())
    named = {source: claim.target for source, claim in claims.items() if claim.target not in taken} | named
    planned = intake.plan(entries, Path(store.out), named, set(named.values()))
    if not is_address(store.out):
        pipeline.sweep_results(Path(store.out), planned)
    summary = Summary(photographs=len(planned), ignored=ignored)
    finished = {} if job.force else _finished(earlier, _latest(written), key)
    _start(ray, show)
    if job.device == "cuda" and not ray.cluster_resources().get("GPU"):
        raise ConfigError("--device cuda: no machine of the cluster has a GPU; give auto or cpu")
    try:
        done = _unchanged_of(ray, [photo for photo in planned if photo.source in finished], finished, store)
        left = [photo for photo in planned if photo.source not in done or not done[photo.source].whole]
        if left:
            foreign = _foreign(left, earlier, store, claims)
            for photo in left:
                claim = claims.get(photo.source)
                if claim is None or claim.target != photo.target:
                    claims[photo.source] = _Claim(photo.target, foreign[photo.source])
            store.claim(claims)
            _compute(ray, dataclasses.replace(job, photos=(), out=Path()), key, left, foreign, done, store)
    except ray.exceptions.RayError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ResultError(f"the cluster failed ({(lines or [type(error).__name__])[-1][:160]}); run again") from error
    sources = {photo.source: place for place, photo in enumerate(planned)}
    written = [*reported, *store.rows(summary.torn)]
    latest = _latest(written)
    rows = [row for row in compact(written) if row.source in sources and row.config == key]
    missing = len(sources.keys() - {row.source for row in rows})
    # Of a photograph that was another one before, not what that had.
    rows = [row for row in rows if row.input_sha256 in (None, latest.get(row.source))]
    if claims:
        _settle(planned, rows, compact(written), store, claims)
    if missing:
        reason = f"{missing} of {len(planned)} photographs have no line in {intake.shown(store.out)}/{MANIFEST}"
        raise ResultError(f"{reason}; give an --out that all machines of the cluster share, and run again")
    summary.rows = sorted(rows, key=lambda row: (sources[row.source], row.face or 0))
    made = [
        row
        for row in summary.rows
        if row.status == "done" and not (row.source in done and row.face in done[row.source].faces)
    ]
    summary.reused = summary.done - len(made)
    before = {name: row.config for row in earlier if row.status == "done" for name in row.outputs}
    summary.replaced = sum(any(before.get(name, key) != key for name in row.outputs) for row in made)
    summary.batch_size = min((row.batch_size for row in made if row.batch_size is not None), default=None)
    summary.seconds = time.monotonic() - begun
    return summary


def _latest(rows: Sequence[Row]) -> dict[str, str]:
    """The checksum of each photograph as it was last read, by its source; of rows, the oldest first."""
    return {row.source: row.input_sha256 for row in rows if row.input_sha256 is not None}


def _finished(rows: Sequence[Row], latest: Mapping[str, str], key: str) -> dict[str, list[Row]]:
    """Faces that are done in this configuration, of photographs as they were last read, by the source of these."""
    by_source: dict[str, list[Row]] = {}
    for row in rows:
        if row.status == "done" and row.config == key and row.input_sha256 == latest.get(row.source):
            by_source.setdefault(row.source, []).append(row)
    return by_source


@dataclasses.dataclass(frozen=True)
class _Done:
    """What need not be done again of a photograph: faces whose results are as they were written.

    Attributes:
        input: checksum of the photograph that they are of.
        faces: their numbers.
        whole: whether the photograph has no others.
    """

    input: str
    faces: tuple[int, ...]
    whole: bool


def _unchanged_of(
    ray: Any, photos: Sequence[intake.Photo], rows: Mapping[str, Sequence[Row]], store: _Store
) -> dict[str, _Done]:
    """What is done of photographs that are what they were, by their source: they and the results are all read."""
    if not photos:
        return {}
    items = [
        {
            "source": photo.source,
            "path": _location(photo),
            "input": rows[photo.source][0].input_sha256,
            "outputs": json.dumps({row.face or 1: row.outputs for row in rows[photo.source]}),
        }
        for photo in photos
    ]
    checked = ray.data.from_items(items).map_batches(
        _unchanged, fn_kwargs={"store": store}, batch_size=32, num_cpus=0.5, batch_format="numpy"
    )
    found = {}
    for row in checked.take_all():
        source, numbers = str(row["source"]), tuple(json.loads(str(row["faces"])))
        first = rows[source][0]
        found[source] = _Done(first.input_sha256 or "", numbers, len(numbers) == first.faces)
    return found


def _unchanged(batch: Mapping[str, Any], store: _Store) -> dict[str, list[str]]:
    kept: dict[str, list[str]] = {"source": [], "faces": []}
    for source, path, digest, outputs in zip(
        *(batch[name] for name in ("source", "path", "input", "outputs")), strict=True
    ):
        try:
            same = _sha256(_read(str(path))) == str(digest)
        except Exception:
            same = False  # whatever is wrong with it now is told when it is its turn
        if same:
            faces_of = json.loads(str(outputs)).items()
            intact = [
                int(face) for face, names in faces_of if all(_sha256(store.read(n)) == d for n, d in names.items())
            ]
            kept["source"].append(str(source))
            kept["faces"].append(json.dumps(intact))
    return kept


@dataclasses.dataclass(frozen=True)
class _Claim:
    """What a photograph's results are called before there is a line of them.

    Attributes:
        target: what their names begin with.
        foreign: files of such names that stood there when it was claimed, which are not the photograph's.
    """

    target: str
    foreign: Sequence[str]

    def covers(self, name: str) -> bool:
        """Whether a file is the photograph's, where no line says whose it is."""
        fits = name.startswith(self.target) and _RESULT.fullmatch(name, len(self.target)) is not None
        return fits and name not in self.foreign


def _foreign(
    photos: Sequence[intake.Photo], earlier: Sequence[Row], store: _Store, claims: Mapping[str, _Claim]
) -> dict[str, list[str]]:
    """Files that stand where a photograph's results would go and are not its own, by its source."""
    own = {output: row.source for row in earlier if row.status == "done" for output in row.outputs}
    found: dict[str, list[str]] = {}
    for photo, names in _standing(photos, store):
        claim = claims.get(photo.source)
        claimed = {name for name in names if claim is not None and claim.target == photo.target and claim.covers(name)}
        found[photo.source] = [
            name for name in names if own.get(name, photo.source if name in claimed else None) != photo.source
        ]
    return found


def _standing(photos: Sequence[intake.Photo], store: _Store) -> Iterator[tuple[intake.Photo, list[str]]]:
    """Each photograph, and the files that stand where its results would go."""
    taken = sorted(store.names())
    for photo in photos:
        names = []
        for beginning in (f"{photo.target}.", f"{photo.target}-face"):
            for name in itertools.islice(taken, bisect.bisect_left(taken, beginning), None):
                if not name.startswith(beginning):
                    break
                names.append(name)
        yield photo, names


def _settle(
    photos: Sequence[intake.Photo],
    rows: Sequence[Row],
    written: Sequence[Row],
    store: _Store,
    claims: Mapping[str, _Claim],
) -> None:
    """Drop the claims of photographs of this run whose results have lines; ``rows`` are of it, ``written`` all.

    One of a face that failed is kept where a part of its results stands there all the same: what a user puts in such a
    place later is not to be taken for a result.
    """
    done = Counter(row.source for row in rows if row.status == "done")
    whole = {row.source for row in rows if row.status == "done" and done[row.source] == row.faces}
    told = {row.source for row in rows}
    lined = {output for row in written for output in row.outputs}
    failed = [photo for photo in photos if photo.source in claims and photo.source in told - whole]
    torn = {
        photo.source
        for photo, names in (_standing(failed, store) if failed else ())
        if any(claims[photo.source].covers(name) for name in names if name not in lined)
    }
    left = {source: claim for source, claim in claims.items() if source not in told or source in torn}
    if left != claims:
        # All is done by now: one too many harms nobody.
        with contextlib.suppress(ResultError):
            store.claim(left)


def _import_ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ConfigError(f"--engine ray needs Ray ({error}); install it: pip install -e '.[ray]'") from error
    return ray


def _start(ray: Any, show: bool) -> None:
    import logging

    if not ray.is_initialized():
        # Ray reports what it is used for to its makers otherwise; a cluster that runs already has settings of its own.
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        # The package may run from a checkout, of which workers know nothing.
        package = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join([package, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        variables = {
            "PYTHONPATH": path,
            "RAY_DATA_DISABLE_PROGRESS_BARS": "0" if show else "1",
            memory.LARGE_PAGES: os.environ.get(memory.LARGE_PAGES, "1"),
        }
        ended = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(
                address=_address(), runtime_env={"env_vars": variables}, log_to_driver=show,
                logging_level=logging.ERROR, include_dashboard=False, _metrics_export_port=None,
            )  # fmt: skip
        except (ConnectionError, ValueError, ray.exceptions.RayError) as error:
            named = os.environ.get("RAY_ADDRESS")
            where = f"RAY_ADDRESS, {intake.shown(named)}" if named else "the address that Ray remembers (ray stop)"
            why = intake.shown(str(error).split(". ")[0].rstrip("."))
            raise ResultError(
                f"there is no cluster to be had at {where} ({why}); start one, or name it in RAY_ADDRESS, or unset "
                "that; one that wants a token is told it by RAY_AUTH_MODE=token"
            ) from error
        if threading.current_thread() is threading.main_thread():
            # Ray's own handler would end the command without a word of what is kept, and with another code.
            signal.signal(signal.SIGTERM, ended)
    context = ray.data.DataContext.get_current()
    bars = show and sys.stderr.isatty()
    context.enable_progress_bars = context.enable_rich_progress_bars = bars
    if not bars:
        # Without a terminal Ray writes its progress into the log, ten lines at a time.
        logging.getLogger("ray.data").setLevel(logging.ERROR)


def _address() -> str | None:
    """``local``, this machine, where the cluster that Ray would take has gone; else nothing, by which Ray takes it.

    Ray takes the one that ``RAY_ADDRESS`` names, or that was started last on this machine, and waits for minutes where
    nobody answers.

    Raises:
        ConnectionError: nobody answers where ``RAY_ADDRESS`` says.
    """
    if named := os.environ.get("RAY_ADDRESS"):
        if not _answers(named):
            raise ConnectionError("nobody answers")
        return None
    remembered = (
        Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp") / "ray" / "ray_current_cluster"
    )
    try:
        return None if _answers(remembered.read_text().strip()) else "local"
    except (OSError, UnicodeDecodeError):
        return None


def _answers(address: str) -> bool:
    """Whether somebody listens at ``host:port`` or ``ray://host:port``; of other addresses Ray decides."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not (host and port.isdecimal()):
        return True
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError, UnicodeError):
        return False
    return True


def _compute(
    ray: Any,
    job: Job,
    key: str,
    photos: Sequence[intake.Photo],
    foreign: Mapping[str, Sequence[str]],
    done: Mapping[str, _Done],
    store: _Store,
) -> None:
    """Protect photographs, but for faces that are done.

    Files named in ``foreign``, by their photographs' sources, are not overwritten.
    """
    resources = ray.cluster_resources()
    gpus = 0 if job.device == "cpu" else int(resources.get("GPU", 0))
    processors = max(int(resources.get("CPU", 1)), 1)
    # An actor has one thread. One optimises for each processor: those that find faces are few, and idle before long.
    workers = gpus or processors
    # Where images stop early several batches are handed on together, but no worker is to wait for another's.
    batch = job.config.batch_size
    size = max(min(job.at_once, len(photos) // workers // batch * batch), batch)
    # Without a GPU finding takes a small part of the time, and an actor's start more than many photographs.
    # A processor for each GPU, and one for the tasks that write, stay free of it.
    finders = max(processors - gpus - 1, processors // 2, 1) if gpus else max(processors // 8, 1)
    blocks = max(-(-len(photos) // (size * _BATCHES_A_BLOCK)), min(workers, -(-len(photos) // size)))
    items = [
        {
            **{name: getattr(photo, name) for name in ("name", "source", "target", "fault")},
            "path": _location(photo),
            "foreign": json.dumps(list(foreign[photo.source])),
            "input": done[photo.source].input if photo.source in done else "",
            "faces": json.dumps(list(done[photo.source].faces) if photo.source in done else []),
        }
        for photo in photos
    ]
    found = ray.data.from_items(items, override_num_blocks=blocks).map_batches(
        _Find, fn_constructor_args=(job, key), batch_size=1, num_cpus=_A_PROCESSOR if gpus else _NEXT_TO_NONE,
        concurrency=finders, batch_format="numpy",
    )  # fmt: skip
    made = found.map_batches(
        _Optimise, fn_constructor_args=(job, key, store), batch_size=size, concurrency=workers, batch_format="numpy",
        # Said, since Ray would have each wait for a processor that those which find faces hold to the end.
        **({"num_gpus": 1, "num_cpus": 0} if gpus else {"num_cpus": _A_PROCESSOR}),
    )  # fmt: skip
    made.write_parquet(store.manifest, filesystem=store.arrow(), ray_remote_args={"num_cpus": _NEXT_TO_NONE})


class _Find:
    """An actor that reads photographs and finds their faces; a row a face, or one that says what is wrong."""

    def __init__(self, job: Job, key: str) -> None:
        self.job, self.key = job, key
        self.find = pipeline.Finder(job)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        rows: list[dict[str, Any]] = []
        for place in range(len(batch["path"])):
            values = {name: str(batch[name][place]) for name in ("name", "source", "target", "fault")}
            photo = intake.Photo(path=Path(), **values)
            done = dict.fromkeys(json.loads(str(batch["faces"][place])), str(batch["input"][place]))
            found = self._rows(photo, str(batch["path"][place]), done)
            rows += [{**row, "foreign": str(batch["foreign"][place])} for row in found]
        return {name: [row[name] for row in rows] for name in ("row", "crop", "target", "foreign")}

    def _rows(self, photo: intake.Photo, location: str, done: Mapping[int, str]) -> list[dict[str, Any]]:
        """Of faces that are not ``done``; these are numbers, with the checksum of the photograph that they are of."""
        digest = None
        try:
            if photo.fault:
                raise PhotoError(photo.fault)
            content = _content(location)
            digest = _sha256(content)
            found = self.find(faces.decode(content, photo.name), photo.name)
        except Exception as error:
            reason = _why(error, photo.name, location)
            row = pipeline.row_of(self.job, self.key, photo, "failed", reason=reason, input_sha256=digest)
            return [{"row": row.model_dump_json(), "crop": b"", "target": photo.target}]
        rows = []
        for face in (face for face in found if done.get(face.number) != digest):
            about = {**face.about, "input_sha256": digest}
            row = pipeline.row_of(self.job, self.key, photo, "failed", reason=face.reason or None, **about)
            crop = b"" if face.crop is None else face.crop.tobytes()
            rows.append({"row": row.model_dump_json(), "crop": crop, "target": photo.target})
        return rows


class _Optimise:
    """An actor that optimises aligned faces, writes what is uploaded, and says what it wrote."""

    def __init__(self, job: Job, key: str, store: _Store) -> None:
        memory.keep()
        # In one line, of which Ray shows one for all workers that say the same.
        show_slowness()
        self.job, self.key, self.store = job, key, store
        self.optimise = pipeline.Optimiser(job, devices.resolve(job.device))

    def __call__(self, batch: Mapping[str, Any]) -> pa.Table:
        import numpy as np

        rows = [Row.model_validate_json(str(text)) for text in batch["row"]]
        chosen = [place for place, crop in enumerate(batch["crop"]) if len(crop)]
        crops = [
            np.frombuffer(bytes(batch["crop"][place]), np.uint8).reshape(faces.SIZE, faces.SIZE, 3) for place in chosen
        ]
        made = self._made([crop.copy() for crop in crops])
        for place, result in zip(chosen, made, strict=True):
            foreign = json.loads(str(batch["foreign"][place]))
            rows[place] = self._keep(rows[place], str(batch["target"][place]), foreign, result)
        return manifest_table(rows)

    def _made(self, crops: Sequence[Any]) -> list[pipeline.Made]:
        """A batch that fails is taken apart until it is known at which face; one too large halves itself."""
        if not crops:
            return []
        try:
            return self.optimise(crops)
        except Exception as error:
            if len(crops) == 1:
                _end_without_a_gpu(self.optimise.device)
                return [pipeline.Made(reason=_why(error))]
            half = len(crops) // 2
            return [*self._made(crops[:half]), *self._made(crops[half:])]

    def _keep(self, row: Row, target: str, foreign: Sequence[str], made: pipeline.Made) -> Row:
        if made.reason:
            return row.model_copy(update={"reason": made.reason})
        names = pipeline.output_names(self.job, target, row.face or 1)
        try:
            for name, content in zip(names, made.contents, strict=True):
                if name in foreign and self.store.read(name) != content:
                    return row.model_copy(update={"reason": pipeline.in_the_way(name)})
            if made.cards:
                pipeline.write_cards(made.cards, self.store.read, self.store.write)
            for name, content in zip(names, made.contents, strict=True):
                self.store.write(name, content)
        except ResultError as error:
            return row.model_copy(update={"reason": str(error)})
        except OSError as error:
            remedy = (
                "rename the photograph" if error.errno in pipeline.OF_A_NAME else "make room, or give another --out"
            )
            return row.model_copy(update={"reason": f"cannot be written ({_said(error)}); {remedy}"})
        digests = {name: _sha256(one) for name, one in zip(names, made.contents, strict=True)}
        return row.model_copy(update={"status": "done", "reason": None, "outputs": digests, **made.about})


def _end_without_a_gpu(device: torch.device) -> None:
    """End an actor's process where its GPU does nothing any more, as after an illegal access: all faces would fail.

    Ray starts another in its place, and hands its work to that.
    """
    if device.type != "cuda":
        return
    try:
        torch.cuda.synchronize(device)
    except Exception as error:
        print(f"the GPU is lost to this process, which ends: {_why(error)}", file=sys.stderr, flush=True)
        # No interpreter's end, which would ask the GPU once more.
        os._exit(1)


@dataclasses.dataclass(frozen=True)
class _Store:
    """The output: a folder here, or one behind an address."""

    out: str

    @property
    def manifest(self) -> str:
        """The folder of the manifest, as :meth:`arrow` knows it."""
        return str(PurePosixPath(self._fs()[1]) / MANIFEST)

    def _fs(self) -> tuple[Any, str]:
        system, root = _system(self.out if is_address(self.out) else os.path.realpath(self.out))
        # What stands there is written by other processes, of which one that remembers listings knows nothing.
        system.invalidate_cache()
        return system, root

    def arrow(self) -> Any:
        """The file system for pyarrow."""
        from pyarrow.fs import FSSpecHandler, PyFileSystem

        return PyFileSystem(FSSpecHandler(self._fs()[0]))

    def write(self, name: str, content: bytes) -> None:
        """Write a file below the folder, whole or not at all."""
        system, root = self._fs()
        if _is_here(system):
            write_atomic(Path(root) / name, content)
            return
        path = str(PurePosixPath(root) / name)
        system.makedirs(str(PurePosixPath(path).parent), exist_ok=True)
        with system.transaction, system.open(path, "wb") as file:
            file.write(content)

    def read(self, name: str) -> bytes | None:
        """A file below the folder; None where there is none."""
        system, root = self._fs()
        try:
            content: bytes = system.cat_file(str(PurePosixPath(root) / name))
        except OSError:
            return None
        return content

    def names(self) -> list[str]:
        """All files below the folder, relative to it."""
        system, root = self._fs()
        found = system.find(root) if system.exists(root) else []
        return [str(PurePosixPath(name).relative_to(PurePosixPath(root))) for name in found]

    def claims(self) -> dict[str, _Claim]:
        """Those of runs that have not ended; none where the file is none of that kind."""
        try:
            claims = {
                str(source): _Claim(str(target), [str(name) for name in foreign])
                for source, (target, foreign) in json.loads(self.read(CLAIMS) or b"{}").items()
            }
        except (ValueError, TypeError, AttributeError):
            return {}
        return {source: claim for source, claim in claims.items() if intake.is_safe(claim.target)}

    def claim(self, claims: Mapping[str, _Claim]) -> None:
        """Put claims in the place of those that are there.

        Raises:
            ResultError: they cannot be written.
        """
        content = json.dumps({source: [claim.target, list(claim.foreign)] for source, claim in sorted(claims.items())})
        try:
            if claims:
                self.write(CLAIMS, content.encode())
            elif self.read(CLAIMS) is not None:
                system, root = self._fs()
                system.rm_file(str(PurePosixPath(root) / CLAIMS))
        except Exception as error:
            reason = f"{intake.shown(self.out)} cannot be written to ({_why(error)})"
            raise ResultError(f"{reason}; make room or check the permissions, or give another --out") from error

    def rows(self, torn: list[str] | None = None) -> Iterator[Row]:
        """What stands in the manifest, oldest file first; none where there is none.

        Args:
            torn: gets the names of files that a kill or a full disk has torn, which are passed over.

        Raises:
            ConfigError: see :func:`_system`.
            ResultError: the folder or a file cannot be looked into.
        """
        import pyarrow.parquet as pq

        system, root = self._fs()
        folder = str(PurePosixPath(root) / MANIFEST)
        try:
            entries = system.ls(folder, detail=True) if system.exists(folder) else []
        except Exception as error:
            # Whatever a store behind an address says, such as that it knows no password.
            reason = f"{intake.shown(self.out)} cannot be listed ({_why(error)})"
            raise ResultError(f"{reason}; check the address and the credentials, or give another --out") from error
        listed = [entry for entry in entries if entry["name"].endswith(".parquet")]
        for entry in sorted(listed, key=lambda one: (_age(one), one["name"])):
            try:
                with system.open(entry["name"], "rb") as file:
                    content = file.read()
            except Exception as error:
                reason = f"{intake.shown(entry['name'])} cannot be read ({_why(error)})"
                raise ResultError(f"{reason}; check the address and the credentials, or give another --out") from error
            try:
                table = pq.read_table(io.BytesIO(content), columns=["row"])
            except (OSError, ValueError):
                if torn is not None:
                    torn.append(str(entry["name"]))
                continue
            yield from (Row.model_validate_json(text) for text in table.column("row").to_pylist())


def _age(entry: Mapping[str, Any]) -> float:
    """When a file was written, for whatever a file system calls it; 0 where it does not say."""
    when = next(
        (
            entry[name]
            for name in ("mtime", "LastModified", "last_modified", "updated", "modificationTime", "created")
            if name in entry
        ),
        0.0,
    )
    if hasattr(when, "timestamp"):
        return float(when.timestamp())
    return float(when) if isinstance(when, int | float) else 0.0


def manifest_table(rows: Sequence[Row]) -> pa.Table:
    """Lines of the manifest: columns to look things up by, and ``row``, the report's line as JSON."""
    import pyarrow as pa

    schema = pa.schema(
        [
            ("input", pa.string()), ("source", pa.string()), ("face", pa.int32()), ("faces", pa.int32()),
            ("status", pa.string()), ("reason", pa.string()), ("variant", pa.string()), ("config", pa.string()),
            ("input_sha256", pa.string()), ("outputs", pa.list_(pa.string())), ("networks", pa.list_(pa.string())),
            ("cosines", pa.list_(pa.float64())), ("verdicts", pa.list_(pa.string())), ("ssim", pa.float64()),
            ("steps", pa.int32()), ("seconds", pa.float64()), ("row", pa.string()),
        ]
    )  # fmt: skip
    plain = (
        "input",
        "source",
        "face",
        "faces",
        "status",
        "reason",
        "variant",
        "config",
        "input_sha256",
        "ssim",
        "steps",
    )
    return pa.Table.from_pylist(
        [
            {
                **{name: getattr(row, name) for name in (*plain, "seconds")},
                "outputs": list(row.outputs),
                "networks": [network.network for network in row.networks],
                "cosines": [network.cosine for network in row.networks],
                "verdicts": [network.verdict for network in row.networks],
                "row": row.model_dump_json(),
            }
            for row in rows
        ],
        schema=schema,
    )


def _system(address: str) -> tuple[Any, str]:
    """The file system behind an address or an absolute path, and the place there.

    Raises:
        ConfigError: there is no such kind of address, or it needs a package that is not here.
    """
    import fsspec

    try:
        return fsspec.core.url_to_fs(address)  # type: ignore[no-any-return]
    except ImportError as error:
        reason = " ".join(str(error).split())[:120]
        raise ConfigError(f"{intake.shown(address)} needs a package that is not installed: {reason}") from error
    except ValueError as error:
        reason = " ".join(str(error).split())[:120]
        raise ConfigError(f"{intake.shown(address)} is no address of a known kind ({reason}); check it") from error


def _is_here(system: Any) -> bool:
    """Whether a file system is that of this machine."""
    import fsspec

    return type(system) is type(fsspec.filesystem("file"))


def _entries(photos: Sequence[str], out: str, outputs: Collection[str]) -> tuple[list[intake.Entry], int]:
    """The photographs behind paths and addresses, and how many other files there were.

    Earlier ``outputs``, paths below the results' folder, are no photographs, nor is anything else in that folder unless
    it is one above the photographs.
    """
    target, results = _system(out if is_address(out) else os.path.realpath(out))
    here = Path(results) if _is_here(target) else None
    paths = [Path(photo) for photo in photos if not is_address(photo)]
    found = intake.collect(paths, here, outputs, some=False)
    missing = sum(not os.path.lexists(path) for path in paths)
    entries, ignored = list(found.entries), found.ignored
    seen: set[str] = set()
    for address in (photo for photo in photos if is_address(photo)):
        system, root = _system(address)
        folder = PurePosixPath(root)
        output = PurePosixPath(results) if type(system) is type(target) else None
        if output == folder:
            raise PhotoError(f"{intake.shown(address)} is both input and --out; give another folder for the results")
        written = {output / name for name in outputs} if output is not None else set()
        try:
            names = [root] if system.isfile(root) else sorted(system.find(root))
            there = bool(names) or system.exists(root)
        except Exception as error:
            # Whatever a store says, such as that it knows no password.
            reason = f"{intake.shown(address)} cannot be listed ({_why(error)})"
            raise PhotoError(f"{reason}; check the address and the credentials") from error
        if not there:
            missing += 1
            fault = "does not exist. Remedy: check the spelling of the address"
            entries.append(intake.Entry(Path(root), folder.parent.name, PurePosixPath(folder.name), fault, uri=address))
        alone = names == [root]
        for path in map(PurePosixPath, names):
            relative = path.relative_to(folder.parent if alone else folder)
            uri = str(system.unstrip_protocol(str(path)))
            inside = output in path.parents and output not in folder.parents
            hidden = not alone and any(part.startswith(".") for part in relative.parts)
            if inside or path in written or uri in seen or hidden:
                continue
            if alone or path.suffix.lower() in intake.PICTURES:
                seen.add(uri)
                entries.append(intake.Entry(Path(path), folder.name, relative, uri=uri))
            else:
                ignored += 1
    where = ", ".join(map(intake.shown, photos))
    if entries and missing == len(photos):
        raise PhotoError(f"no such file or folder: {where}; check the spelling")
    if not entries:
        raise PhotoError(f"no photograph in {where}; name photographs (JPEG, PNG, WebP, ...) or their folder")
    return entries, ignored


def _location(photo: intake.Photo) -> str:
    return photo.uri or os.path.realpath(photo.path)


def _sha256(content: bytes | None) -> str | None:
    return None if content is None else hashlib.sha256(content).hexdigest()


def _read(location: str) -> bytes:
    import fsspec

    with fsspec.open(location, "rb") as file:
        content: bytes = file.read(faces.MAX_BYTES + 1)
    if len(content) > faces.MAX_BYTES:
        raise PhotoError(f"is larger than {faces.MAX_BYTES >> 20} MiB. Remedy: export a smaller copy")
    return content


def _content(location: str) -> bytes:
    """A photograph's file.

    Raises:
        PhotoError: it cannot be read; in the words of :func:`pmtlib.faces.read_photo`, without where it lies.
    """
    try:
        return _read(location)
    except PhotoError:
        raise
    except FileNotFoundError as error:
        raise PhotoError("does not exist. Remedy: check the spelling of the path") from error
    except OSError as error:
        raise PhotoError(f"cannot be read ({_said(error)}). Remedy: check the path and its permissions") from error
    except Exception as error:
        # Whatever a store behind an address says, such as that it knows no password.
        raise PhotoError(f"cannot be read ({_why(error, location=location)}). Remedy: check the address") from error


_FOLDERS = re.compile(r"""(?<![^\s'"(=])/(?:[^\s'"/]+/)+""")
"""The folders of an absolute path."""


def _said(error: OSError) -> str:
    """What the system says, without the file that it says it of."""
    return _FOLDERS.sub("", " ".join((error.strerror or type(error).__name__).split()))[:160]


def _why(error: Exception, name: str = "", location: str = "") -> str:
    """An error for a row, in one line: with a photograph's name where its location stood, and with no other folder.

    The manifest is read by others than the owner of the machine that could not do it.
    """
    text = " ".join((str(error).strip().splitlines() or [""])[0].split())
    for where in filter(None, (location, intake.shown(location))):
        text = text.replace(where, name)
    text = _FOLDERS.sub("", text.removeprefix(f"{intake.shown(name)} "))
    return text[:300] or type(error).__name__
