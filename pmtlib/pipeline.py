"""The batch work behind ``pmt protect``: photographs in; obfuscated faces, or shallow features, and a report out.

Photographs are read and searched for faces one by one, ahead of the optimisation and beside it, and the aligned faces
are optimised in batches, so that memory does not grow with their number. A face's randomness comes from its pixels:
results do not depend on the batch, the order, or on whether the work was interrupted.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import math
import os
import queue
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import cv2
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pmtlib import devices, faces, intake, metrics, variants, zoo
from pmtlib.errors import ConfigError, PhotoError, PMTError, ResultError
from pmtlib.images import UInt8Image, batches, png_bytes, sweep, to_tensor, to_uint8, write_atomic
from pmtlib.networks.base import FaceNetwork
from pmtlib.paths import check_regular, file_sha256
from pmtlib.progress import progress_bar
from pmtlib.report import LINES, TABLE, Agreement, Report, Row, Shard, cannot_write, suffix
from pmtlib.shallow import ServerModel, ShallowModel, fast_layout
from pmtlib.transform import PMTConfig, Protected, image_seeds, model_weights, protect, service_seed

CARD = "model-card.json"
CARD_KEY = "model-card"
"""Under this key the metadata of a features file hold its model card, as JSON."""
FEATURES = "features"
"""The tensor's name in a features file: (1, C, h, w), float32."""
_VERSION = 2
"""Raised whenever the same photograph and configuration would give another result."""


@dataclass(frozen=True)
class Job:
    """What ``pmt protect`` is asked to do.

    Attributes:
        photos: files and folders.
        out: folder of the results and the report.
        authorised: names of the networks that shall recognise the results.
        config: of the transform, or of a variant of it.
        cut: units of the shallow models; None for that of the variant, or else each network's own default.
        largest: only the largest face of a photograph.
        aligned: the photographs are aligned 112x112 crops already.
        min_face: smallest side of a face's box, pixels; smaller ones are refused.
        features: write the obfuscated shallow features, not the image.
        device: where to compute, see :func:`pmtlib.devices.resolve`.
        force: do again what is done.
        shard: do only this part of the photographs, ``(2, 8)`` for the second of eight; None does all, and gathers
            what shards have done.
    """

    photos: Sequence[Path]
    out: Path
    authorised: Sequence[str]
    config: PMTConfig = field(default_factory=PMTConfig)
    cut: int | str | None = None
    largest: bool = False
    aligned: bool = False
    min_face: int = faces.MIN_FACE
    features: bool = False
    device: str = "auto"
    force: bool = False
    shard: Shard | None = None

    @property
    def mode(self) -> Literal["image", "features"]:
        """What is uploaded: ``image`` or ``features``."""
        return "features" if self.features else "image"

    @property
    def at_once(self) -> int:
        """How many faces are handed on together: a batch, or several where images stop at different times.

        The place of one that has stopped goes to the next.
        """
        return self.config.batch_size * (_BATCHES_AT_ONCE if self.config.may_stop else 1)

    def cut_of(self, name: str) -> int | str:
        """The cut of an authorised network."""
        if self.cut is not None:
            return self.cut
        return variants.find(variants.name_of(self.config)).cut or zoo.card(name).default_cut

    def key(self) -> str:
        """Hash of all that shapes a result besides the photograph and the device, 16 hexadecimal digits."""
        content = {
            "version": _VERSION,
            "mode": self.mode,
            "networks": [[name, self.cut_of(name), zoo.weights_checksum(name)] for name in self.authorised],
            "faces": {"largest": self.largest, "aligned": self.aligned, "min_face": self.min_face},
            "pmt": self.config.model_dump(mode="json"),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


_BATCHES_AT_ONCE = 4
"""Batches that are optimised as one stream where a rule stops images; what an interruption loses at most."""
STAGES = ("finding", "optimising", "writing")
OF_A_NAME = frozenset({errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.EISDIR, errno.ENOTDIR, errno.EEXIST})
"""What a disk says of a file's name; everything else it says is of the whole output."""


@dataclass
class Summary:
    """What came of a run.

    Attributes:
        rows: of this run, in the order of the photographs as they were named.
        photographs: how many there were.
        ignored: files of the folders that are no pictures.
        reused: faces that an earlier run had done.
        replaced: faces whose result of another configuration was there and was overwritten.
        seconds: of the whole run.
        stages: seconds of its parts: ``finding`` (reading photographs, finding and aligning faces; beside the others),
            ``optimising`` and ``writing``.
        batch_size: how many faces were optimised together in the end, where memory did not suffice for as many as the
            configuration says; None where it did.
        stopped: why the run ended before its time; "" if it did not.
        torn: of a cluster's manifest the files that cannot be read, whose faces were done again.
    """

    rows: list[Row] = field(default_factory=list)
    photographs: int = 0
    ignored: int = 0
    reused: int = 0
    replaced: int = 0
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    batch_size: int | None = None
    stopped: str = ""
    torn: list[str] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Faces whose results are there."""
        return sum(row.status == "done" for row in self.rows)

    @property
    def warned(self) -> int:
        """Faces whose results are there and may serve nobody, see :attr:`pmtlib.report.Row.warning`."""
        return sum(row.warning is not None for row in self.rows)

    @property
    def failed(self) -> int:
        """Faces and photographs that could not be done."""
        return len(self.rows) - self.done

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the rows without their parts that are ``None`` stay as in the report."""
        return {
            "photographs": self.photographs,
            "ignored": self.ignored,
            "done": self.done,
            "reused": self.reused,
            "replaced": self.replaced,
            "warned": self.warned,
            "failed": self.failed,
            "seconds": round(self.seconds, 2),
            "stages": {name: round(seconds, 2) for name, seconds in self.stages.items()},
            "batch_size": self.batch_size,
            "stopped": self.stopped or None,
            "torn": self.torn,
            "rows": [row.model_dump(mode="json") for row in self.rows],
        }


def run(job: Job, *, show: bool = True) -> Summary:
    """Do a job, or what is left of it.

    Results are complete files or absent, whenever the run ends. Ctrl-C drops the batch under way; what was done
    before stays and is not done again by the next run. Where memory does not suffice, batches are halved.

    Args:
        job: what to do.
        show: draw a progress bar on standard error.

    Returns:
        Summary: with ``stopped`` set when the disk is full or refuses to be written to, at the end too, or when memory
            does not suffice for one face.

    Raises:
        PhotoError: there is no photograph.
        ConfigError: no network, a cut or a device that does not exist.
        NetworkError: an authorised network does not exist or cannot be built.
        AssetError: its weights cannot be had.
        ResultError: another run uses the folder, or it cannot be made or written to from the beginning.
    """
    check(job)
    begun = time.monotonic()
    # A misspelt or an empty input must not leave a folder behind.
    found = intake.collect(job.photos, job.out)
    # An output that is one of the photographs is complained about when the report is opened.
    if not job.out.is_file():
        _refuse_nothing(job, found)
    work = None
    try:
        with Report(job.out, job.shard) as report:
            work = _Work(job, report)
            _attempt(work, show)
    except ResultError as error:
        if work is None:
            raise
        # The report could not be written anew in the end; its lines are on the disk since their faces were done.
        work.summary.stopped = work.summary.stopped or str(error)
    summary = work.summary
    summary.batch_size = work.halved
    summary.rows.sort(key=lambda row: (work.order[row.source], row.face or 0))
    summary.seconds = time.monotonic() - begun
    return summary


def _attempt(work: _Work, show: bool) -> None:
    """Do the work, or as much as the disk and the memory allow."""
    with progress_bar(work.title, work.total, show=show) as advance:
        work.advance = advance
        try:
            work.do()
        except _DiskError as error:
            work.summary.stopped = str(error)
        except (RuntimeError, MemoryError) as error:
            if not devices.is_out_of_memory(error):
                raise
            work.summary.stopped = (
                f"not enough memory on {work.device} even for one face; close what else uses it, or give another "
                "--device"
            )


def check(job: Job) -> None:
    """Refuse what cannot be done whatever the photographs are.

    Raises:
        ConfigError: no authorised network, one named twice, weights that do not fit them, or a part of the photographs
            that there is not.
        NetworkError: an authorised network does not exist.
    """
    if job.shard is not None and not 1 <= job.shard[0] <= job.shard[1]:
        raise ConfigError(f"no shard {job.shard[0]} of {job.shard[1]}; they are counted from 1")
    if not job.authorised:
        raise ConfigError(f"no authorised network; name one of {', '.join(zoo.names())} with --authorise")
    for name in job.authorised:
        zoo.card(name)
    if len(set(job.authorised)) < len(job.authorised):
        raise ConfigError(f"an authorised network is named twice: {', '.join(job.authorised)}")
    model_weights(job.config, len(job.authorised))


@dataclass(frozen=True)
class Face:
    """A face of a photograph: its aligned crop, or why it is not to be optimised.

    Attributes:
        number: 1 for the largest of the photograph.
        count: faces of the photograph.
        crop: (112, 112, 3), 8 bits; None where there is a reason against it.
        box: x, y, width and height in the photograph, pixels; None of a crop that came aligned.
        score: the detector's.
        reason: why it is refused; "" where it is not.
    """

    number: int
    count: int
    crop: UInt8Image | None
    box: tuple[float, float, float, float] | None = None
    score: float | None = None
    reason: str = ""

    @property
    def about(self) -> dict[str, Any]:
        """What a row of the report says of it."""
        return {"face": self.number, "faces": self.count, "box": self.box, "score": self.score}


class Finder:
    """Finds and aligns the faces that a job asks for."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._detector: faces.Detector | None = None

    def __call__(self, picture: UInt8Image, name: str) -> list[Face]:
        """The faces of a photograph (H, W, 3), largest first, those that are too small with a reason.

        Raises:
            PhotoError: there is none, or the photograph is no aligned crop although it should be; it begins with
                ``name``.
        """
        if self.job.aligned:
            return [Face(1, 1, faces.as_aligned(picture, name))]
        if self._detector is None:
            self._detector = faces.Detector(min_size=self.job.min_face)
        found = self._detector.detect(picture)
        if not found.faces and not found.too_small:
            raise PhotoError("no face was found; use an upright photograph in which it is visible")
        if self.job.largest:
            found = faces.Detection(found.faces[:1], () if found.faces else found.too_small[:1])
        count = len(found.faces) + len(found.too_small)
        made = []
        for number, face in enumerate((*found.faces, *found.too_small), 1):
            crop, reason = None, ""
            if number <= len(found.faces):
                crop = faces.align(picture, face.landmarks)
            else:
                width, height = face.box[2:]
                reason = f"the face is {width:.0f}x{height:.0f} pixels, below --min-face {self.job.min_face}"
            made.append(Face(number, count, crop, face.box, face.score, reason))
        return made


@dataclass(frozen=True)
class Made:
    """What became of one face.

    Attributes:
        contents: one file for each output, in the order of :func:`output_names`.
        cards: what a receiver must know of each network's features; none of images.
        about: fields of its row in the report.
        reason: why there is nothing; "" where there is.
    """

    contents: tuple[bytes, ...] = ()
    cards: tuple[dict[str, Any], ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


class Optimiser:
    """Makes what is uploaded from aligned crops, and judges it; the networks are loaded when it is made.

    Raises:
        NetworkError: an authorised network cannot be built.
        AssetError: its weights cannot be had.
        ConfigError: a cut that does not exist.
    """

    def __init__(self, job: Job, device: torch.device) -> None:
        self.job = job
        self.device = device
        self.services = [_Service(name, job.cut_of(name), device, job.features) for name in job.authorised]
        # Uploads for other services shall not start from the same noise.
        self.config = job.config.model_copy(update={"seed": service_seed(job.config.seed, job.authorised)})
        self.batch_size = job.config.batch_size

    def __call__(self, crops: Sequence[UInt8Image], progress: Callable[[float], Any] | None = None) -> list[Made]:
        """One result for each crop (112, 112, 3).

        Where memory does not suffice for it, :attr:`batch_size` is halved, for what comes later too, and the results
        say so: images may depend on it in their last bits.

        Args:
            crops: at most as many as the job's ``at_once``.
            progress: called with the number of image-steps done since its last call; negative where steps were lost.

        Raises:
            RuntimeError, MemoryError: memory does not suffice for one face; :func:`pmtlib.devices.is_out_of_memory`
                knows it.
        """
        made: list[Made] = []
        while len(made) < len(crops):
            ticked = [0]

            def tick(steps: int, ticked: list[int] = ticked) -> None:
                ticked[0] += steps
                if progress is not None:
                    progress(steps)

            try:
                made += self._together(crops[len(made) : len(made) + self.at_once], tick)
                continue
            except (RuntimeError, MemoryError) as error:
                if self.batch_size == 1 or not devices.is_out_of_memory(error):
                    raise
            # Outside of the handler, whose error holds on to the tensors that do not fit.
            self.batch_size //= 2
            devices.release(self.device)
            tick(-ticked[0])
        return made

    @property
    def at_once(self) -> int:
        """The job's, or less where memory did not suffice."""
        return self.job.at_once * self.batch_size // self.job.config.batch_size

    def _together(self, crops: Sequence[UInt8Image], progress: Callable[[int], Any]) -> list[Made]:
        begun = time.monotonic()
        halved = self.batch_size < self.job.config.batch_size
        config = self.config.model_copy(update={"batch_size": self.batch_size}) if halved else self.config
        originals = to_tensor(list(crops), self.device)
        result = protect(originals, [service.shallow for service in self.services], config, progress=progress)
        pixels = to_uint8(result.images)
        with torch.inference_mode():
            seen = to_tensor(pixels, self.device)
            embeddings = [self._by_batch(service.embed, originals) for service in self.services]
            if self.job.features:
                uploaded = [
                    self._by_batch(service.finish, part)
                    for service, part in zip(self.services, result.features, strict=True)
                ]
                similarity: Sequence[float | None] = [None] * len(crops)
            else:
                uploaded = [self._by_batch(service.embed, seen) for service in self.services]
                similarity = [float(value) for value in metrics.ssim(originals, seen)]
        finite = result.finite & torch.isfinite(torch.cat([*embeddings, *uploaded], 1)).all(1)
        # The measure refuses numbers that are not finite; those of other faces in the batch count.
        pairs = [
            [torch.where(finite[:, None], part, 1.0) for part in both]
            for both in zip(embeddings, uploaded, strict=True)
        ]
        cosines = [metrics.cosine(a, b) for a, b in pairs]
        seconds = (time.monotonic() - begun) / len(crops)
        seeds = image_seeds(config.seed, originals)
        made = []
        for i in range(len(crops)):
            if not bool(result.finite[i]):
                reason = "the optimisation did not stay finite; try a smaller --step-size or --precision float32"
                made.append(Made(reason=reason))
                continue
            numbers = [*result.cosine[i].tolist(), *result.error[i].tolist(), *(float(part[i]) for part in cosines)]
            if not (bool(finite[i]) and all(map(math.isfinite, numbers))):
                reason = "a network gives no finite numbers for it; try --precision float32, or leave that network out"
                made.append(Made(reason=reason))
                continue
            about = {
                "networks": tuple(
                    service.agreement(float(result.cosine[i, m]), float(result.error[i, m]), float(cosines[m][i]))
                    for m, service in enumerate(self.services)
                ),
                "ssim": similarity[i],
                "steps": int(result.steps[i]),
                "seconds": round(seconds, 3),
                "seed": seeds[i],
                "device": devices.describe(self.device),
                "batch_size": self.batch_size if halved else None,
            }
            made.append(Made(*self._files(result, pixels[i], i), about))
        return made

    def _by_batch(self, embed: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
        return torch.cat([embed(given[chunk]) for chunk in batches(len(given), self.batch_size)])

    def _files(self, result: Protected, pixels: UInt8Image, i: int) -> tuple[tuple[bytes, ...], tuple[Any, ...]]:
        if not self.job.features:
            return (png_bytes(pixels),), ()
        tensors = [part[i : i + 1] for part in result.features]
        cards = tuple(service.card(tensor) for service, tensor in zip(self.services, tensors, strict=True))
        return tuple(features_bytes(tensor, card) for tensor, card in zip(tensors, cards, strict=True)), cards


def output_names(job: Job, target: str, number: int) -> list[str]:
    """The paths, below the output folder, of the results of a photograph's face."""
    networks: Sequence[str | None] = job.authorised if job.features else [None]
    return [target + suffix(number, network) for network in networks]


def in_the_way(name: str) -> str:
    """Why a file of somebody else's is not overwritten."""
    return f"{intake.shown(name)} is there already and is not this photograph's result; move it away"


def sweep_results(out: Path, photos: Iterable[intake.Photo]) -> None:
    """Delete what a run that was killed while it wrote photographs' results left beside them; nobody may be writing."""
    by_folder = defaultdict(list, {out: [LINES, TABLE, CARD]})
    for photo in photos:
        path = out / photo.target
        by_folder[path.parent] += [f"{path.name}.", f"{path.name}-face"]
    for folder, beginnings in by_folder.items():
        sweep(folder, beginnings)


def kept_cards(read: Callable[[str], bytes | None], folder: Path | str = "") -> dict[str, Any]:
    """The descriptions of networks that stand beside features, by the networks' names; none where no file is.

    Args:
        read: gives a file of the folder of results, None where there is none.
        folder: its name for an error.

    Raises:
        ResultError: the file is no such description, but a user's own.
    """
    content = read(CARD)
    try:
        return {} if content is None else dict(json.loads(content)["networks"])
    except (ValueError, KeyError, TypeError) as error:
        where = intake.shown(f"{folder}/{CARD}" if folder else CARD)
        raise ResultError(f"{where} is there already and describes no networks; move it away") from error


def write_cards(
    cards: Sequence[dict[str, Any]], read: Callable[[str], bytes | None], write: Callable[[str, bytes], None]
) -> None:
    """Keep one description of every network beside the features; those of earlier runs stay."""
    kept = kept_cards(read)
    merged = {**kept, **{card["network"]: card for card in cards}}
    if merged != kept:
        text = json.dumps({"format": 1, "networks": merged}, indent=1, sort_keys=True, ensure_ascii=False)
        write(CARD, text.encode() + b"\n")


def row_of(job: Job, key: str, photo: intake.Photo, status: Literal["done", "failed"], **about: Any) -> Row:
    """A line of the report; ``key`` is the job's."""
    settings = job.config.model_dump(mode="json", exclude_defaults=True, exclude={"variant"})
    return Row(
        input=photo.name, source=photo.source, mode=job.mode, variant=variants.name_of(job.config), config=key,
        settings=settings, status=status, **about,
    )  # fmt: skip


@dataclass(frozen=True)
class _Queued:
    """A face that waits to be optimised, and where it comes from."""

    photo: intake.Photo
    sha256: str
    face: Face


_Photo = TypeVar("_Photo")
_Prepared = TypeVar("_Prepared")


MOST_FINDERS = 16
"""Threads that find faces beside a GPU, at most."""


def finders(device: torch.device) -> int:
    """How many threads find faces.

    One on a processor, which has little to do beside the optimisation. A GPU optimises faster than one thread finds:
    beside it every processor but one does.
    """
    if device.type == "cpu":
        return 1
    return max(min(devices.processors() - 1, MOST_FINDERS), 1)


def _ahead(
    prepare: Callable[[_Photo], _Prepared], photos: Iterable[_Photo], count: int, workers: int = 1
) -> Generator[tuple[_Photo, Callable[[], _Prepared]], None, None]:
    """Each photograph with a call that gives what ``prepare`` makes of it, or raises what it raised.

    They are prepared in ``workers`` threads of their own, at most ``count`` ahead, and given in order. Reading and
    finding faces is not Python's work, nor is optimising, so all go on at once. Leaving the loop prepares no more.
    """
    left = iter(photos)
    with ThreadPoolExecutor(workers, thread_name_prefix="pmt-photographs") as pool:
        waiting: deque[tuple[_Photo, Future[_Prepared]]] = deque()
        try:
            while True:
                for photo in itertools.islice(left, count + 1 - len(waiting)):
                    waiting.append((photo, pool.submit(prepare, photo)))
                if not waiting:
                    return
                photo, future = waiting.popleft()
                yield photo, future.result
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def _threads_of_opencv(threads: int) -> Iterator[None]:
    """Where several threads find faces, none of them has OpenCV's threads as well."""
    usual = cv2.getNumThreads()
    cv2.setNumThreads(usual if threads == 1 else 1)
    try:
        yield
    finally:
        cv2.setNumThreads(usual)


class _DiskError(Exception):
    """The output folder can no longer be written to."""


class _Work:
    """One run over all photographs."""

    def __init__(self, job: Job, report: Report) -> None:
        self.job = job
        self.report = report
        if job.features:
            # A folder of that name is no description either.
            kept_cards(lambda name: b"" if (job.out / name).is_dir() else _read(job.out / name), job.out)
        self.key = job.key()
        self.advance: Callable[[int], Any] = lambda _count: None
        self.device = devices.resolve(job.device)
        self._optimiser: Optimiser | None = None
        # A detector serves one thread at a time; whoever finds faces takes one, and gives it back.
        self._finders: queue.SimpleQueue[Finder] = queue.SimpleQueue()
        self._count = finders(self.device)
        for _ in range(self._count):
            self._finders.put(Finder(job))
        self._timing = threading.Lock()
        self._queue: list[_Queued] = []
        self._written: set[str] = set()
        self._taken: set[tuple[str, int]] = set()
        self._owed = 0.0
        self._finished: dict[tuple[str, str], list[Row]] = defaultdict(list)
        self._owners: dict[str, Row] = {}
        for row in report.rows:
            self._remember(row)
        found = intake.collect(job.photos, job.out, self._owners)
        _refuse_nothing(job, found)
        earlier: dict[str, str] = {}
        self._named: dict[str, list[Row]] = defaultdict(list)
        named = self._owners
        if job.shard is not None:
            # What other shards have done so far must not decide on a name: they and this one plan alike.
            named = {output: row for row in report.gathered if row.status == "done" for output in row.outputs}
        for row in named.values():
            if row.target is not None:
                earlier[row.source] = row.target
                self._named[row.input].append(row)
        in_use = {row.target for row in named.values() if row.target is not None}
        self.photos = intake.plan(found.entries, job.out, earlier, in_use, self._recognise)
        if job.shard is not None:
            part, parts = job.shard
            self.photos = self.photos[part - 1 :: parts]
        else:
            # Not beside other shards, which may be writing.
            sweep_results(job.out, self.photos)
        self.order = {photo.source: i for i, photo in enumerate(self.photos)}
        self.summary = Summary(photographs=len(self.photos), ignored=found.ignored)
        self.total = len(self.photos) * max(job.config.steps, 1)
        count = len(self.photos)
        self.title = f"protecting {count} photograph{'' if count == 1 else 's'}"

    def _remember(self, row: Row) -> None:
        if row.status == "done":
            self._owners.update(dict.fromkeys(row.outputs, row))
            if row.input_sha256 is not None:
                self._finished[row.input_sha256, row.config].append(row)

    def _recognise(self, entry: intake.Entry, name: str) -> str | None:
        """The target of a photograph that was moved together with its folder, or was given by another path."""
        rows = self._named.get(name, [])
        digest = checksum(entry.path) if rows else None
        return next((row.target for row in rows if row.input_sha256 == digest), None)

    def do(self) -> None:
        """Every photograph, then what is left in the queue."""
        ahead = _ahead(self._prepare, self.photos, self.job.at_once, self._count)
        with contextlib.closing(ahead) as prepared, _threads_of_opencv(self._count):
            for photo, wait in prepared:
                try:
                    self._take(photo, wait())
                except PhotoError as error:
                    self._fail(photo, _reason(error, photo))
        self._flush()

    def _prepare(self, photo: intake.Photo) -> tuple[str, list[Face] | None]:
        """The checksum of a photograph's file, and its faces, unless all of them seem to be done.

        Raises:
            PhotoError: it cannot be read, or there is no face.
        """
        if photo.fault:
            raise PhotoError(photo.fault)
        digest = checksum(photo.path)
        if digest is None:
            faces.read_photo(photo.path)  # It says why.
            raise PhotoError("changed while it was read; run again")
        return digest, None if self._all_done(photo, digest) else self._faces(photo)

    def _faces(self, photo: intake.Photo) -> list[Face]:
        find = self._finders.get()
        begun = time.monotonic()
        try:
            return find(faces.read_photo(photo.path), str(photo.path))
        except PMTError:
            raise
        except Exception as error:
            # One photograph must not end the work on all others, whatever the libraries make of it.
            why = " ".join(str(error).split())[:120] or type(error).__name__
            raise PhotoError(f"cannot be searched for faces ({why}); save it anew as PNG") from error
        finally:
            self._finders.put(find)
            with self._timing:
                self.summary.stages["finding"] += time.monotonic() - begun

    def _take(self, photo: intake.Photo, prepared: tuple[str, list[Face] | None]) -> None:
        """Queue the faces of a photograph that are not done yet.

        Raises:
            PhotoError: it cannot be read, or there is no face.
        """
        digest, found = prepared
        if self._reuse_all(photo, digest):
            return
        self._load()
        if found is None:
            found = self._faces(photo)
        refused = [face for face in found if face.reason]
        left = [face for face in found if not face.reason and not self._reuse(photo, digest, face.number)]
        for face in refused:
            self._record(self._row(photo, "failed", reason=face.reason, input_sha256=digest, **face.about))
        self._tick(max(self.job.config.steps, 1) * (1 - len(left) / len(found)))
        for face in left:
            self._queue.append(_Queued(photo, digest, face))
            if len(self._queue) == self.job.at_once:
                self._flush()

    def _all_done(self, photo: intake.Photo, digest: str) -> int:
        """How many faces a photograph has, if the results of all of them are there; else 0."""
        rows = self._finished.get((digest, self.key), [])
        count = next((row.faces for row in rows if row.faces is not None), 0)
        done = not self.job.force and all(self._found(photo, digest, n) for n in range(1, count + 1))
        return count if done else 0

    def _reuse_all(self, photo: intake.Photo, digest: str) -> bool:
        """Take over every face of a photograph; False unless all are done and nothing is in the way of one."""
        count = self._all_done(photo, digest)
        if not count or not all(self._reuse(photo, digest, number) for number in range(1, count + 1)):
            return False
        self._tick(max(self.job.config.steps, 1))
        return True

    def _found(self, photo: intake.Photo, digest: str, number: int) -> Row | None:
        """The row of a face with the same content and configuration whose files are as they were written."""
        rows = [row for row in self._finished.get((digest, self.key), []) if row.face == number]
        rows.sort(key=lambda row: row.target != photo.target)
        return next((row for row in rows if self._intact(row)), None)

    def _intact(self, row: Row) -> bool:
        return all(checksum(self.job.out / output) == digest for output, digest in row.outputs.items())

    def _reuse(self, photo: intake.Photo, digest: str, number: int) -> bool:
        """Take over a face that is done, once; the result of an equal photograph of another name is copied."""
        if (photo.source, number) in self._taken:
            return True
        row = None if self.job.force else self._found(photo, digest, number)
        if row is None:
            return False
        outputs = self._names(photo, number)
        if outputs != list(row.outputs):
            contents = [_read(self.job.out / output) for output in row.outputs]
            if None in contents or self._in_the_way(photo, digest, dict(zip(outputs, contents, strict=True))):
                return False
            for output, content in zip(outputs, contents, strict=True):
                assert content is not None
                self._write(output, content)
        moved = {
            "input": photo.name,
            "source": photo.source,
            "outputs": dict(zip(outputs, row.outputs.values(), strict=True)),
        }
        self._written.update(outputs)
        current = row.model_copy(update=moved)
        # Of several rows of one result the last counts, which may be of another configuration that this has replaced.
        if current == row and all(self._owners[output] is row for output in outputs):
            self.summary.rows.append(row)
        else:
            self._record(current)
        self._taken.add((photo.source, number))
        self.summary.reused += 1
        return True

    def _names(self, photo: intake.Photo, number: int) -> list[str]:
        return output_names(self.job, photo.target, number)

    def _flush(self) -> None:
        """Optimise the faces in the queue, and write what comes out."""
        batch, self._queue = self._queue, []
        if not batch:
            return
        optimise = self._load()
        share = sum(1 / queued.face.count for queued in batch) / len(batch)
        crops = [queued.face.crop for queued in batch if queued.face.crop is not None]
        begun = time.monotonic()
        made = optimise(crops, lambda steps: self._tick(steps * share))
        between = time.monotonic()
        for queued, result in zip(batch, made, strict=True):
            self._keep(queued, result)
        self.summary.stages["optimising"] += between - begun
        self.summary.stages["writing"] += time.monotonic() - between

    def _keep(self, queued: _Queued, made: Made) -> None:
        """Write one face's files and its row."""
        photo, about = queued.photo, {**queued.face.about, "input_sha256": queued.sha256}
        if made.reason:
            self._record(self._row(photo, "failed", reason=made.reason, **about))
            return
        contents = dict(zip(self._names(photo, queued.face.number), made.contents, strict=True))
        blocked = self._in_the_way(photo, queued.sha256, contents)
        if blocked:
            self._record(self._row(photo, "failed", reason=blocked, **about))
            return
        owners = [self._owners[name] for name in contents if name in self._owners]
        try:
            if made.cards:
                write_cards(made.cards, lambda name: _read(self.job.out / name), self._write)
            for name, content in contents.items():
                self._write(name, content)
        except PhotoError as error:
            self._record(self._row(photo, "failed", reason=str(error), **about))
            return
        self.summary.replaced += any(owner.config != self.key for owner in owners)
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        self._record(self._row(photo, "done", outputs=digests, **made.about, **about))

    def _in_the_way(self, photo: intake.Photo, digest: str, contents: Mapping[str, bytes | None]) -> str:
        """Why the files may not be written, or "": nothing is overwritten but this photograph's own results."""
        for name, content in contents.items():
            path = self.job.out / name
            if not Path(os.path.realpath(path.parent)).is_relative_to(os.path.realpath(self.job.out)):
                return f"a link leads {intake.shown(name)} out of the output folder; remove the link"
            owner = self._owners.get(name)
            own = owner is not None and (
                owner.source == photo.source or (owner.input, owner.input_sha256) == (photo.name, digest)
            )
            own = own and name not in self._written
            if not own and os.path.lexists(path) and _read(path) != content:
                return in_the_way(name)
        return ""

    def _write(self, name: str, content: bytes) -> None:
        """Write a file below the output folder.

        Raises:
            PhotoError: this name cannot be written.
            _DiskError: nothing can be written any more.
        """
        try:
            write_atomic(self.job.out / name, content)
        except OSError as error:
            if error.errno in OF_A_NAME:
                where = intake.shown(name)[:60]
                raise PhotoError(f"{where} cannot be written ({error.strerror}); rename the photograph") from error
            raise _DiskError(cannot_write(self.job.out, error)) from error

    @property
    def halved(self) -> int | None:
        """The size of batches, where it is not that of the configuration any more."""
        size = self.job.config.batch_size if self._optimiser is None else self._optimiser.batch_size
        return size if size < self.job.config.batch_size else None

    def _load(self) -> Optimiser:
        if self._optimiser is None:
            self._optimiser = Optimiser(self.job, self.device)
        return self._optimiser

    def _row(self, photo: intake.Photo, status: Literal["done", "failed"], **about: Any) -> Row:
        return row_of(self.job, self.key, photo, status, **about)

    def _fail(self, photo: intake.Photo, reason: str) -> None:
        self._record(self._row(photo, "failed", reason=reason, input_sha256=checksum(photo.path)))
        self._tick(max(self.job.config.steps, 1))

    def _record(self, row: Row) -> None:
        try:
            self.report.add(row)
        except OSError as error:
            raise _DiskError(cannot_write(self.job.out, error)) from error
        self.summary.rows.append(row)
        self._written.update(row.outputs)
        self._remember(row)

    def _tick(self, steps: float) -> None:
        self._owed += steps
        whole = int(self._owed)
        if whole > 0:
            self._owed -= whole
            self.advance(whole)


class _Service:
    """An authorised network: what it shares, what it keeps where ``features`` are uploaded, and its threshold."""

    def __init__(self, name: str, cut: int | str, device: torch.device, features: bool) -> None:
        self.name = name
        self.cut = cut
        self.network: FaceNetwork = zoo.load(name, device)
        self.shallow = ShallowModel(self.network, cut, name=name, layout=fast_layout(device))
        # A copy of most of the network.
        self.server = ServerModel(self.network, cut) if features else None
        stored = zoo.calibration(name)
        self.threshold = None if stored is None else stored.threshold_accuracy

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings of images (N, 3, 112, 112), by the whole network."""
        found: Tensor = self.network(images)
        return found.float().cpu()

    def finish(self, features: Tensor) -> Tensor:
        """Embeddings of uploaded features (N, C, h, w), by the units behind the cut."""
        assert self.server is not None
        found: Tensor = self.server(features.float())
        return found.float().cpu()

    def agreement(self, feature_cosine: float, feature_error: float, cosine: float) -> Agreement:
        """The report's entry of one face."""
        return Agreement(
            network=self.name,
            cut=self.cut,
            weights=zoo.weights_checksum(self.name),
            feature_cosine=feature_cosine,
            feature_error=feature_error,
            cosine=cosine,
            threshold=self.threshold,
            verdict=verdict(cosine, self.threshold),
        )

    def card(self, features: Tensor) -> dict[str, Any]:
        """What a receiver must know to use features (1, C, h, w)."""
        return {
            **self.shallow.card(),
            "input": zoo.card(self.name).input,
            "weights": zoo.weights_checksum(self.name),
            "shape": list(features.shape),
            "dtype": "float32",
            "embedding": zoo.card(self.name).embedding,
        }


def verdict(cosine: float, threshold: float | None) -> Literal["accepted", "rejected"] | None:
    """``accepted`` strictly above the threshold, else ``rejected``; None without a threshold."""
    if threshold is None:
        return None
    return "accepted" if cosine > threshold else "rejected"


def features_bytes(features: Tensor, card: dict[str, Any]) -> bytes:
    """A safetensors file with one tensor, ``features`` (1, C, h, w), and its model card in the metadata."""
    # One key only: the library does not keep an order among several, and equal features shall give equal files.
    metadata = {CARD_KEY: json.dumps(card, sort_keys=True)}
    return safetensors.torch.save({FEATURES: features.detach().cpu().float().contiguous()}, metadata=metadata)


def read_features(path: Path) -> tuple[Tensor, dict[str, Any]]:
    """The features (1, C, h, w) of a file of ``pmt protect --features``, and their model card.

    Raises:
        ResultError: it is no such file.
    """
    try:
        check_regular(path)
        with safetensors.safe_open(path, framework="pt") as file:
            card = json.loads((file.metadata() or {})[CARD_KEY])
            features = file.get_tensor(FEATURES)
        if list(features.shape) != card["shape"] or not torch.isfinite(features).all():
            raise ValueError("the tensor does not fit the card")
        card["network"], card["cut"], card["weights"]
    except (OSError, safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:100]
        raise ResultError(f"{intake.shown(path)} holds no features of pmt protect ({reason})") from error
    return features.float(), card


def _refuse_nothing(job: Job, found: intake.Found) -> None:
    if not found.entries:
        others = f", only {found.ignored} other file{'s'[: found.ignored != 1]}" if found.ignored else ""
        where = ", ".join(map(intake.shown, job.photos))
        raise PhotoError(f"no photograph in {where}{others}; name photographs (JPEG, PNG, WebP, ...) or their folder")


def _reason(error: PhotoError, photo: intake.Photo) -> str:
    """The error without the path before it: the report tells it by its name and holds no other path."""
    path, name = intake.shown(photo.path), intake.shown(photo.name)
    return str(error).removeprefix(f"{path} ").replace(path, name)


def checksum(path: Path) -> str | None:
    """SHA-256 of a photograph's or result's file; None where it cannot be read or is far too large to be either."""
    try:
        check_regular(path)
        return file_sha256(path) if path.stat().st_size <= faces.MAX_BYTES else None
    except OSError:
        return None


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes() if path.is_file() else None
    except OSError:
        return None
