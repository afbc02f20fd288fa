"""Hostile inputs of every kind: nothing crashes, nothing runs, nothing is written elsewhere, the good ones are done."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import re
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import tracemalloc
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from PIL import Image

from pmtlib import adding, assets, audit, datasets, faces, pickles, pipeline
from pmtlib.convert.onnx import read_onnx_constants
from pmtlib.errors import AssetError, ConfigError, DatasetError, PhotoError, PMTError
from pmtlib.intake import Photo, collect
from pmtlib.pipeline import Job, run
from pmtlib.report import LINES, TABLE, read
from pmtlib.settings import configure
from pmtlib.training.corpora import load_corpus
from pmtlib.transform import PMTConfig
from tests import hostile, photographs
from tests.fuzz.__main__ import mutated
from tests.fuzz.targets import TARGETS, check, joined, onnx_file, tflite_file
from tests.photographs import NETWORK

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links, pipes and names that Windows does not have")

QUICK = PMTConfig(steps=1, batch_size=8)
LIMIT = 3 << 30
"""Bytes that the process may grow by over the whole corpus. A picture just below the limit of pixels takes 0.6 GB as
RGB; refused ones would take tens of gigabytes."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> hostile.Corpus:
    photographs.ready()
    return hostile.make(tmp_path_factory.mktemp("hostile") / "in")


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything below a folder, with size and time of change, without following links."""
    found = {}
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            about = os.lstat(os.path.join(root, name))  # noqa: PTH118
            found[os.path.join(root, name)] = (about.st_size, about.st_mtime_ns)  # noqa: PTH118
    return {path: values for path, values in found.items() if not os.path.isdir(path)}  # noqa: PTH112


def judge(corpus: hostile.Corpus, rows: list[Any], ignored: int, out: Path, *, good: bool = True) -> None:
    """Each input has rows, as it deserves; each result is whole and is what its row says."""
    by_source: dict[str, list[Any]] = {}
    for row in rows:
        by_source.setdefault(row.source, []).append(row)
    from pmtlib.intake import source_of

    for kind in ("good", "bad", "either"):
        for path in getattr(corpus, kind):
            found = by_source.pop(source_of(Path(path)), None)
            assert found, f"no row for {path!r}"
            states = {row.status for row in found}
            if kind == "bad":
                assert states == {"failed"}, path
            elif kind == "good" and good:
                assert states == {"done"}, (path, found[0].reason)
    assert not by_source
    assert ignored == corpus.ignored
    outputs: dict[str, str] = {}
    for row in rows:
        if row.status == "failed":
            reason = row.reason or ""
            assert len(reason.splitlines()) == 1
            assert reason.isprintable()
            # What is wrong, and after it what to do.
            assert re.search(r"Remedy: \w|; \w", reason), reason
            assert os.fspath(corpus.folder) not in reason
            assert not row.outputs
        for name, digest in row.outputs.items():
            assert name not in outputs, "two faces share a file"
            outputs[name] = digest
            assert pipeline.checksum(out / name) == digest
            with Image.open(out / name) as image:
                image.load()
                assert (image.size, image.mode) == ((112, 112), "RGB")
    written = {os.path.relpath(path, out) for path in tree(out)}
    assert written == {*outputs, LINES, TABLE, ".pmt.lock"}


def test_a_folder_of_some_four_hundred_hostile_files(corpus: hostile.Corpus) -> None:
    assert len(corpus) >= 300
    above = corpus.folder.parent
    before, peak = tree(above), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    out = above / "out"
    job = Job(
        photos=[corpus.folder, *corpus.given], out=out, authorised=[NETWORK], config=QUICK, device="cpu", aligned=True
    )
    summary = run(job, show=False)
    assert summary.stopped == ""
    rows, torn = read(out / LINES)
    assert torn == 0
    assert sorted(row.model_dump_json() for row in rows) == sorted(row.model_dump_json() for row in summary.rows)
    judge(corpus, rows, summary.ignored, out)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024 < LIMIT
    assert {path: values for path, values in tree(above).items() if not path.startswith(f"{out}/")} == before
    assert not list(Path.cwd().glob("ran"))
    again = run(job, show=False)
    assert (again.done, again.failed, again.reused) == (summary.done, summary.failed, summary.done)


def test_the_command_over_the_same_folder(corpus: hostile.Corpus) -> None:
    """Without --aligned, so that every picture goes through the detector, on a terminal that knows ASCII alone."""
    above = corpus.folder.parent
    out, cwd = above / "out-of-the-command", above / "cwd"
    cwd.mkdir()
    command = [sys.executable, "-m", "pmtlib", "protect", os.fspath(corpus.folder)]
    command += ["-a", NETWORK, "--steps", "1", "--device", "cpu", "-o", os.fspath(out), "--min-face", "24"]
    package = os.fspath(Path(pipeline.__file__).parent.parent)
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "ascii:strict",
        "PYTHONPATH": package,
    }  # fmt: skip
    # The names that begin with a dash are behind the two dashes, as everywhere.
    command += ["--", *map(os.fspath, corpus.given)]
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", env=environment, cwd=cwd, timeout=500,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 26, 1 << 26)),
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    for text in (done.stdout, done.stderr):
        assert "Traceback" not in text
        assert "\x1b[31m" not in text
        assert "unexpected" not in text
    assert not list(cwd.iterdir())
    rows, torn = read(out / LINES)
    assert torn == 0
    # Whether the detector sees a face in a picture of one bit is its own affair.
    judge(corpus, rows, corpus.ignored, out, good=False)
    done_names = {row.input for row in rows if row.status == "done"}
    assert {"whole/a.png", "whole/cmyk.jpg", "names/日本語.png", "..png", "special/link.png"} <= done_names


def test_a_locale_that_lacks_the_letters_of_a_name_is_one_line(
    pmt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the calls of the system raise where Python takes names for ASCII (LC_ALL=C with PYTHONUTF8=0)."""
    photographs.portrait(tmp_path / "日本語.png", size=112)
    monkeypatch.setattr(pipeline, "run", lambda *_, **__: "日本語".encode("ascii"))
    done = pmt("protect", tmp_path / "日本語.png", "-a", NETWORK, "-o", tmp_path / "out")
    assert done.code == 2
    assert done.error == "the name of a file cannot be written in ascii, this locale's; set PYTHONUTF8=1"


def test_what_a_directory_forbids_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that may be listed but not entered, one that may not be listed, and a file that may not be read."""
    photographs.ready()
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        for inside in ("a.png", "listed/b.png", "closed/c.png", "d.png"):
            photographs.portrait(folder / "in" / inside, size=112)
        (folder / "in" / "d.png").chmod(0)
        (folder / "in" / "listed").chmod(0o444)
        (folder / "in" / "closed").chmod(0)
        folder.chmod(0o777)
        # Weights may lie where only this user may look.
        run(Job([folder / "in" / "a.png"], folder / "warm", [NETWORK], QUICK, device="cpu", aligned=True), show=False)
        root = os.geteuid() == 0
        try:
            if root:
                os.seteuid(65534)
            found = collect([folder / "in"], folder / "out")
            # By itself: beside one that can be read the weights would be, by a user who may not look at them.
            alone = run(Job([folder / "in" / "d.png"], folder / "out", [NETWORK], QUICK, device="cpu"), show=False)
        finally:
            if root:
                os.seteuid(0)
        assert [(row.input, row.status) for row in alone.rows] == [("d.png", "failed")]
        assert alone.rows[0].reason == "cannot be read (Permission denied). Remedy: check the path and its permissions"
        assert alone.rows[0].input_sha256 is None
        assert alone.stopped == ""
        assert {path.name for path in (folder / "out").iterdir()} == {".pmt.lock", LINES, TABLE}
        faults = {entry.path.name: entry.fault for entry in found.entries}
        assert faults["a.png"] == ""
        assert "Permission denied" in faults["b.png"]
        assert "cannot be listed" in faults["closed"]
        for path in ("in/listed", "in/closed", "in/d.png"):
            (folder / path).chmod(0o700)


PANORAMAS = """
import resource, sys
from pathlib import Path
from pmtlib.pipeline import Job, run
from pmtlib.transform import PMTConfig
from tests.photographs import NETWORK
def work(name):
    job = Job([Path(name)], Path("out"), [NETWORK], PMTConfig(steps=1, batch_size=1), device="cpu")
    assert [row.status for row in run(job, show=False).rows] == ["done"], name
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = work("small.png")
print((max(work("wide.jpg"), work("high.jpg")) - before) * (1 if sys.platform == "darwin" else 1024))
"""


def test_a_face_in_a_photograph_of_twenty_thousand_pixels_is_done_in_less_than_a_gigabyte(tmp_path: Path) -> None:
    """More than a run on a small photograph takes; in a process of its own, for a peak is never forgotten."""
    photographs.ready()
    photographs.portrait(tmp_path / "small.png")
    (tmp_path / "wide.jpg").write_bytes(hostile.panorama())
    (tmp_path / "high.jpg").write_bytes(hostile.panorama(upright=True))
    package = os.fspath(Path(pipeline.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", PANORAMAS], cwd=tmp_path, env={**os.environ, "PYTHONPATH": package},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1 << 30
    for name in ("small", "wide", "high"):
        with Image.open(tmp_path / "out" / f"{name}.png") as image:
            assert image.size == (112, 112)


def test_folders_deeper_than_the_stack_is_high() -> None:
    # Not in pytest's own folder, which it removes by recursion.
    top = Path(tempfile.mkdtemp())
    here = os.open(top, os.O_RDONLY)
    try:
        for _ in range(1200):
            os.mkdir("d", dir_fd=here)
            deeper = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = deeper
        os.close(os.open("a.png", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        assert [entry.fault for entry in collect([top], top.with_name("out")).entries] == [""]
    finally:
        os.close(here)
        subprocess.run(["rm", "-rf", str(top)], check=True)


def test_a_name_too_long_to_exist_is_one_input_among_others(tmp_path: Path) -> None:
    good = photographs.portrait(tmp_path / "a.png", size=112)
    found = collect([tmp_path / ("x" * 300), good], tmp_path / "out")
    assert [bool(entry.fault) for entry in found.entries] == [True, False]


def test_a_pipe_and_a_device_are_never_opened(tmp_path: Path) -> None:
    photographs.ready()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    names = [tmp_path / "pipe.png", tmp_path / "zero.png"]
    summary = run(Job(names, tmp_path / "out", [NETWORK], QUICK, device="cpu"), show=False)
    assert [row.reason for row in summary.rows] == ["is not a regular file; name a photograph"] * 2


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_neither_is_one_in_the_place_of_other_files(tmp_path: Path, kind: str) -> None:
    def place(name: str) -> Path:
        if kind == "pipe":
            os.mkfifo(tmp_path / name)
        else:
            (tmp_path / name).symlink_to("/dev/zero")
        return tmp_path / name

    good = photographs.portrait(tmp_path / "good.png", size=112)
    for reader in (pipeline.read_features, assets.read_torch, assets.read_pickle, read_onnx_constants):
        with pytest.raises(PMTError, match=r"regular file|readable pickle"):
            reader(place(f"{reader.__name__}.x"))
    with pytest.raises(DatasetError, match="regular file"):
        datasets._read(place("of a pair list"))
    for name in ("pairs.txt", "pairs.csv", "a.bin"):
        with pytest.raises(DatasetError):
            datasets.load(place(name))
    with pytest.raises(PhotoError, match="is not a regular file"):
        audit.gather(place("a.jpg"), good)
    assert pipeline.checksum(tmp_path / "a.jpg") is None
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").symlink_to("../a.jpg")
    job = Job([good], tmp_path / "out", [NETWORK], QUICK, aligned=True, device="cpu")
    run(job, show=False)
    cases, failed = audit.gather(tmp_path / "in", tmp_path / "out")
    assert not cases
    assert "is not in" in failed["good.png"]


def test_a_pickle_asks_for_no_memory_but_its_own(tmp_path: Path) -> None:
    content = pickle.dumps(np.zeros(4), protocol=2)
    shape, huge = b"K\x04\x85", b"\x8a\x06" + (1 << 45).to_bytes(6, "little") + b"\x85"
    assert content.count(shape) == 1
    (tmp_path / "a").write_bytes(content.replace(shape, huge))
    with pytest.raises(AssetError, match="not a readable pickle"):
        assets.read_pickle(tmp_path / "a")
    # Lists of one another: a few bytes that stand for 2^40 numbers.
    nested: Any = [1]
    for _ in range(40):
        nested = [nested, nested]
    (tmp_path / "b").write_bytes(pickle.dumps(nested))
    assert len(assets.read_pickle(tmp_path / "b")) == 2


def test_postscript_is_not_handed_to_ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(PhotoError, match="is not an image that can be read"):
        faces.decode(hostile.postscript(), "x.jpg")
    assert not (tmp_path / "ran").exists()


def test_a_large_grey_photograph_takes_little_more_than_itself() -> None:
    """Sixteen bits a pixel once took sixty bytes a pixel on the way."""
    values = np.zeros((6000, 6000), np.uint16)
    values[::7] = 65535
    tracemalloc.start()
    try:
        found = faces._grey8(values, wide=True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (found.min(), found.max(), found.dtype) == (0, 255, np.uint8)
    # The result, and a part's float64 with what the arithmetic makes beside it.
    assert peak < values.size + (1 << 20) * 8 * 6


def test_whatever_the_detector_makes_of_a_photograph_the_others_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photographs.ready()
    for name, brightness in (("a.png", 1.0), ("b.png", 0.8), ("c.png", 0.6)):
        photographs.portrait(tmp_path / "in" / name, brightness=brightness, size=112)
    find = pipeline.Finder.__call__
    troubles: dict[str, Exception] = {"a.png": MemoryError(), "b.png": ValueError("two\nlines")}

    def troubled(self: pipeline.Finder, picture: Any, name: str) -> Any:
        if Path(name).name in troubles:
            raise troubles[Path(name).name]
        return find(self, picture, name)

    monkeypatch.setattr(pipeline.Finder, "__call__", troubled)
    summary = run(Job([tmp_path / "in"], tmp_path / "out", [NETWORK], QUICK, device="cpu", aligned=True), show=False)
    assert [row.reason for row in summary.rows] == [
        "cannot be searched for faces (MemoryError); save it anew as PNG",
        "cannot be searched for faces (two lines); save it anew as PNG",
        None,
    ]


# Configuration --------------------------------------------------------------------------------------------------------

BOMB = b"a: &a [1,1,1,1,1,1,1,1,1]\n" + b"".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n".encode() for i in range(12)
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"steps: 1.5\n", "steps: "),
        (b"steps: 10000001\n", "steps: input should be less than or equal to 1000000"),
        (b"steps: 99999999999999999999999999\n", "steps: "),
        (b"steps: 1e400\n", "steps: "),
        (b"steps: .inf\n", "steps: "),
        (b"steps: [1]\n", "steps: "),
        (b"steps: {a: 1}\n", "steps: "),
        (b"steps: 0x" + b"f" * 20_000 + b"\n", "steps: .*thousands of digits"),
        (b"steps: " + b"9" * 20_000 + b"\n", "not YAML|steps: "),
        (b"step_size: -0.0\n", "step_size: "),
        (b"step_size: .inf\n", "step_size: "),
        (b"batch_size: 0\n", "batch_size: "),
        (b"seed: -1\n", "seed: "),
        (b"weights: [.nan]\n", ""),
        (b"steps:\t3\n\tseed: 1\n", "not YAML"),
        (b"steps: 2001-99-99\n", "not YAML"),
        (b"steps: !!int\n", "not YAML"),
        (b"steps: !!float abc\n", "not YAML"),
        (b"steps: !!bool abc\n", "not YAML"),
        (b"steps: !!timestamp abc\n", "not YAML"),
        (b"steps: !!binary abcde\n", "not YAML"),
        (b"steps: 0x_\n", "not YAML"),
        (b"? [1, 2]\n: 3\n", "not YAML .*a key is a list"),
        (b"1: 2\n", "expected lines"),
        (b"--- 1\n--- 2\n", "not YAML"),
        (b"\0\1\2\3", "not YAML"),
        (b"caf\xe9: 1\n", "not UTF-8"),
        (b"[" * 5000, "nested too deeply"),
        (b"a: &a [*a]\n", "no field 'a'"),
        (b"weights: &a [*a]\n", "weights"),
        (BOMB, "no field 'a'"),
        (BOMB.replace(b"\nm: ", b"\nsteps: "), "no field|steps"),
        (BOMB.replace(b"\nm: ", b"\nvariant: "), "no variant"),
        (b"variant: \"" + b"\\e[2J" * 20_000 + b"\"\n", "no variant"),
        (b"x" * 900 + b": 1\n", "no field"),
        (b"#" * (2 << 20), "larger than 1 MiB"),
    ],
)  # fmt: skip
def test_a_hostile_configuration_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(content)
    if not message:
        # The numbers are refused by the transform, which knows how many models there are.
        configure(file)
        return
    with pytest.raises(ConfigError, match=message) as raised:
        configure(file)
    line = str(raised.value)
    assert "c.yaml" in line
    assert line.isprintable()
    assert len(line) < 1000


def test_a_configuration_that_never_ends_or_is_a_folder(tmp_path: Path) -> None:
    for file in (Path("/dev/zero"), tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            configure(file)


def test_the_command_and_a_hostile_configuration(pmt: Any, tmp_path: Path) -> None:
    photographs.portrait(tmp_path / "a.png", size=112)
    (tmp_path / "c.yaml").write_bytes(BOMB)
    done = pmt("protect", tmp_path / "a.png", "-a", NETWORK, "-o", tmp_path / "out", "--config", tmp_path / "c.yaml")
    assert done.code == 2
    assert "no field 'a'" in done.error
    assert not (tmp_path / "out").exists()


# Data sets ------------------------------------------------------------------------------------------------------------


class Runs:
    """Unpickled, it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.marker),))


def _call(module: str, name: str, *arguments: object) -> bytes:
    """A pickle that calls a function: what a file could do with whatever it may name."""
    return b"c" + f"{module}\n{name}\n".encode() + pickle.dumps(arguments, protocol=2)[2:-1] + b"R."


@pytest.mark.parametrize("wrapped", [lambda x: x, lambda x: ([x, x], [True]), lambda x: ([b"a", b"b"], [x])])
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_code_in_a_bin_never_runs(tmp_path: Path, wrapped: Callable[[object], object], protocol: int) -> None:
    (tmp_path / "a.bin").write_bytes(pickle.dumps(wrapped(Runs(tmp_path / "ran")), protocol=protocol))
    with pytest.raises(DatasetError, match="no plain pickle"):
        datasets.load(tmp_path / "a.bin")
    assert not (tmp_path / "ran").exists()


_LAUGHS = b"]q\0" + b"".join(bytes([*b"]h", i, *b"ah", i, *b"aq", i + 1]) for i in range(60))


@pytest.mark.parametrize(
    "content",
    [
        _call("builtins", "bytearray", 1 << 40),
        _call("__builtin__", "bytearray", 10**10),
        _call("numpy", "ndarray", (1 << 40,), "u1"),
        _call("numpy", "ndarray", (1 << 33,), "u1", b"x", 0, (0,)),
        _call("numpy", "dtype", "O"),
        _call("numpy", "dtype", [("a", "O")]),
        _call("numpy", "dtype", "V99999999999"),
        _call("_codecs", "encode", "x", "zlib"),
        _call("builtins", "getattr", 1, "real"),
        _call("numpy.core.multiarray", "_reconstruct", 3, (0,), b"b"),
        b"Vx\nr\xff\xff\xff\xff.",
        b"Vx\np99999999999\n.",
        b"\x80\x05\x8e" + struct.pack("<Q", 1 << 60) + b"x.",
        b"I" + b"9" * 9000 + b"\n.",
        b"(" * 100_000,
        b"\x80\x02" + _LAUGHS + b"C\x01aC\x01b\x86h\x3c\x85\x86.",
    ],
)  # fmt: skip
def test_a_bin_that_asks_for_memory_or_functions(tmp_path: Path, content: bytes) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(DatasetError) as raised:
        datasets.load(tmp_path / "a.bin")
    assert len(str(raised.value).splitlines()) == 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 512 << 10


def test_a_dtypes_own_flags_are_not_believed(tmp_path: Path) -> None:
    """NumPy's dtype takes flags from a pickle; an array of them would be freed as if it held objects."""
    array = np.frombuffer(b"\x89PNG" * 2, np.uint8)
    content = pickle.dumps(([array, array], [True]), protocol=2)
    state = pickle.dumps((3, "|", None, None, None, -1, -1, 0), protocol=2)
    assert b"dtype" in content
    assert len(state) > 8
    kind = pickles._Kind("u1")
    kind.__setstate__((3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 63))
    assert kind.dtype == np.uint8
    assert pickles._Kind(b"<i8").dtype == np.int64


@pytest.mark.parametrize("stored", ["npz", "pickle", "huge", "header", "objects", "floats"])
def test_labels_that_are_none(tmp_path: Path, stored: str) -> None:
    buffer = io.BytesIO()
    if stored == "npz":
        np.savez(buffer, a=np.array([True]))
    elif stored == "pickle":
        pickle.dump(Runs(tmp_path / "ran"), buffer)
    elif stored == "huge":
        np.lib.format.write_array_header_1_0(buffer, {"descr": "|b1", "fortran_order": False, "shape": (1 << 45,)})
    elif stored == "header":
        buffer.write(b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65_535)
    elif stored == "objects":
        np.save(buffer, np.array([Runs(tmp_path / "ran")], dtype=object))
    else:
        np.save(buffer, np.array([0.5]))
    (tmp_path / "issame.npy").write_bytes(buffer.getvalue())
    with pytest.raises(DatasetError, match=r"issame\.npy"):
        datasets.load(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("pairs.csv", f"img1,img2,same\n{'a' * 5000},b,1\n"),
        ("pairs.csv", "img1,img2,same\na\0b,c,1\n"),
        ("pairs.csv", f"img1,img2,same,fold\na,b,1,{'9' * 9000}\n"),
        ("pairs.csv", f"img1,img2,same\na,b,{'x' * 9000}\n"),
        ("pairs.csv", "img1,img2,same\n" + '"' * 200_000),
        ("pairs.txt", f"{'9' * 9000}\nA 1 2\n"),
        ("pairs.txt", f"A {'9' * 9000} 2\n"),
        ("pairs.txt", f"{'A' * 5000} 1 2\n"),
        ("pairs.txt", "A\0 1 2\n"),
        ("pairs.txt", "../../../etc/passwd ../x 1\n"),
        ("pairs.txt", "\x1b[2J 1 2 3 4\n"),
        ("pairs.txt", "A ¹ ²\n"),
    ],
)
def test_a_hostile_pair_list_is_one_line(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DatasetError) as raised:
        datasets.load(tmp_path)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 1000


def test_the_command_and_a_hostile_data_set(pmt: Any, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(pickle.dumps(Runs(tmp_path / "ran")))
    done = pmt("networks", "--check", NETWORK, "--set", tmp_path / "a.bin", "--quiet")
    assert done.code == 2
    assert "no plain pickle" in done.error
    assert not (tmp_path / "ran").exists()


def test_an_archive_that_goes_in_circles(tmp_path: Path) -> None:
    """A size below zero sends tarfile back to where it came from (CVE-2025-8194)."""
    content = bytearray(TARGETS["webdataset"].seeds()[0])
    content[124:136] = b"\xff" * 11 + b"\x00"
    header = bytearray(content[:512])
    header[148:156] = b" " * 8
    content[148:156] = f"{sum(header):06o}\0 ".encode()
    (tmp_path / "a.tar").write_bytes(bytes(content))
    with pytest.raises(DatasetError, match=r"a\.tar"):
        load_corpus(tmp_path / "a.tar")


@pytest.mark.parametrize(
    ("index", "records"),
    [
        (f"1\t{1 << 70}\n", b""),
        ("1\t-8\n", b"x" * 100),
        ("1\t0\n", struct.pack("<IIIfQQ", 0xCED7230A, 4, 0, 1.0, 0, 0) + b"rest" * 100),
        ("1\t0\n", struct.pack("<IIIfQQ", 0xCED7230A, 24, 0, float("nan"), 0, 0)),
        ("1\t0\n", struct.pack("<IIIfQQ", 0xCED7230A, 24, 2**32 - 1, 1.0, 0, 0)),
    ],
)
def test_records_that_lie(tmp_path: Path, index: str, records: bytes) -> None:
    (tmp_path / "train.idx").write_text(index)
    (tmp_path / "train.rec").write_bytes(records)
    with pytest.raises(DatasetError) as raised:
        load_corpus(tmp_path)
    assert len(str(raised.value).splitlines()) == 1


# Networks -------------------------------------------------------------------------------------------------------------


def _state(value: float = 0.0, **about: Any) -> dict[str, Any]:
    return {"layer.weight": torch.full((4, 3), value), **about}


def _zip_bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 100_000_000)
    return buffer.getvalue()


def _torch_file(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


class _Doubled(torch.nn.Module):
    def forward(self, given: torch.Tensor) -> torch.Tensor:
        return given * 2


def _torchscript() -> bytes:
    """What ``torch.jit.save`` writes: a program, which torch would run."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(_Doubled(), torch.zeros(1)), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("empty", lambda folder: b""),
        ("text", lambda folder: b"not a checkpoint"),
        ("runs", lambda folder: _torch_file({"state_dict": Runs(folder / "ran")})),
        ("runs-old", lambda folder: pickle.dumps(Runs(folder / "ran"))),
        ("list", lambda folder: _torch_file([1, 2])),
        ("nan", lambda folder: _torch_file(_state(float("nan")))),
        ("foreign", lambda folder: _torch_file(_state())),
        ("names", lambda folder: _torch_file({"\x1b[2J\n" * 400: torch.zeros(1), "layer.weight": torch.zeros(2)})),
        ("zip", lambda folder: _zip_bomb()),
        ("cut", lambda folder: _torch_file(_state())[:200]),
        ("safetensors", lambda folder: safetensors.torch.save(_state())),
        ("safetensors-head", lambda folder: struct.pack("<Q", 1 << 62) + b"{}"),
        ("meta", lambda folder: _torch_file({"a.weight": torch.zeros(3, device="meta")})),
        ("sparse", lambda folder: _torch_file({"a.weight": torch.eye(3).to_sparse()})),
        ("torchscript", lambda folder: _torchscript()),
        ("strided", lambda folder: _torch_file({"a.weight": torch.zeros(1).expand(1 << 20, 1 << 20)})),
    ],
)
@pytest.mark.parametrize("kind", ["robfr", "onnx"])
def test_a_hostile_checkpoint_is_one_line(
    pmt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, make: Callable[[Path], bytes], kind: str
) -> None:
    monkeypatch.setenv("PMT_NETWORKS", str(tmp_path / "networks"))
    file = tmp_path / f"{name}.pth"
    file.write_bytes(make(tmp_path))
    done = pmt("networks", "add", kind, "--checkpoint", file, "--name", "mine", "--set", "samples", "--quiet")
    assert done.code == 2, done.out
    assert f"{name}.pth" in done.error
    assert "unexpected" not in done.error
    if (name, kind) == ("torchscript", "robfr"):
        assert "it is TorchScript, a program, and is not run; give a checkpoint that torch.save wrote" in done.error
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "networks").exists() or not list((tmp_path / "networks").iterdir())


def test_torchscript_is_refused_without_the_advice_of_torch(tmp_path: Path) -> None:
    (tmp_path / "ts.pt").write_bytes(_torchscript())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with pytest.raises(AssetError, match="TorchScript") as raised:
            assets.read_torch(tmp_path / "ts.pt")
    assert not said
    assert "weights_only" not in str(raised.value)


def _onnx(change: Callable[[onnx.ModelProto], None]) -> bytes:
    model = onnx.load_model_from_string(onnx_file())
    change(model)
    return bytes(model.SerializeToString())


def _outside(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../../../../../etc/passwd"


def _quantised(model: onnx.ModelProto) -> None:
    """A block of 2^62 numbers, of which three are there."""
    node = helper.make_node("DequantizeLinear", ["q", "s"], ["w1x"], axis=0, block_size=1 << 62)
    model.graph.node.insert(0, node)
    model.graph.initializer.extend(
        [
            onnx.numpy_helper.from_array(np.int8([1, 2, 3]), "q"),
            onnx.numpy_helper.from_array(np.float32([0.5]), "s"),
        ]
    )


def _dims(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = 1 << 62


def _cycle(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "embedding"


def _input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 1 << 40


@pytest.mark.parametrize("change", [_outside, _dims, _cycle, _input])
def test_a_hostile_onnx_file_is_one_line(tmp_path: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    (tmp_path / "a.onnx").write_bytes(_onnx(change))
    with pytest.raises(PMTError) as raised:
        adding._onnx(tmp_path / "a.onnx", None)
    assert "a.onnx" in str(raised.value)
    assert "passwd" not in str(raised.value)


def test_a_block_longer_than_its_axis_takes_no_memory(tmp_path: Path) -> None:
    from pmtlib.convert.onnx import read_onnx_constants

    (tmp_path / "a.onnx").write_bytes(_onnx(_quantised))
    assert read_onnx_constants(tmp_path / "a.onnx")["w1x"].tolist() == [0.5, 1.0, 1.5]


_OLD = TARGETS["torch"].seeds()[-1]

# Parsers, by random changes -------------------------------------------------------------------------------------------


def _topology(weight: str) -> bytes:
    return joined(b'{"weightsManifest": [{"paths": ["a"], "weights": [' + weight.encode() + b"]}]}", b"")


def _renumbered(data: bytes) -> bytes:
    """A digit of the last number in a file changed: the list of what follows names something else."""
    place = next(place for place in range(len(data) - 1, 0, -1) if data[place - 6 : place + 1].isdigit())
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


_HUGE = f'{{"name": "x", "shape": [0, {2**70}], "dtype": "bool"}}'

# Regression cases: what fuzzing found, or would have found before it was begun.
FOUND: dict[str, tuple[str, bytes]] = {
    "an offset beyond a machine's integers": ("recordio", joined(b"1\t99999999999999999999999\n", b"x" * 64)),
    "a shape beyond a machine's integers": ("tfjs", _topology(_HUGE)),
    "a shape that is infinite": ("tfjs", _topology('{"name": 1, "shape": [1e999], "dtype": "bool"}')),
    "JSON nested beyond the stack": ("tfjs", joined(b'{"weightsManifest": ' + b"[" * 60_000, b"")),
    "a TFLite file without a graph": ("tflite", b"\x08\0\0\0TFL3" + bytes(60)),
    # atheris: the name of a quantised tensor was printed as it stands.
    "a TFLite tensor with control characters in its name": ("tflite", tflite_file(quantised="k\n\x1b[2J")),
    # atheris: torch raises TypeError and AssertionError on damaged files of its old form.
    "a call in a torch file that lacks an argument": ("torch", _OLD.replace(b"tensor_v2", b"tensor_v3")),
    "a storage that a torch file lists and does not have": ("checkpoint", _renumbered(_OLD)),
    # atheris: names in a graph that are no text.
    "an ONNX node whose input has no name that is text": ("onnx-network", onnx_file().replace(b"\x01b", b"\x01\xe5")),
    "a date that is none": ("yaml", b"steps: 2001-99-99\n"),
}


@pytest.mark.parametrize("case", FOUND)
def test_what_was_found_stays_mended(case: str, tmp_path: Path) -> None:
    name, data = FOUND[case]
    check(name, data, tmp_path)


@pytest.mark.parametrize("name", TARGETS)
def test_a_parser_takes_or_refuses_whatever_it_is_given(name: str, tmp_path: Path) -> None:
    """A hundred small changes of whole files; `python -m tests.fuzz` makes millions."""
    generator, seeds = random.Random(name), list(TARGETS[name].seeds())
    for number in range(20 if name in ("onnx-network", "checkpoint") else 100):
        check(name, mutated(generator, seeds[number % len(seeds)], seeds), tmp_path)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp())
    yield folder
    shutil.rmtree(folder)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["dlib", "tflite", "tfjs", "onnx", "bin", "recordio", "yaml", "report"]), st.binary(max_size=300)
)
def test_bytes_without_any_sense(place: Path, name: str, data: bytes) -> None:
    check(name, data, place)


_PICTURES = TARGETS["image"].seeds()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(_PICTURES),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6),
    st.none() | st.integers(0, 2000),
    st.binary(max_size=12),
    st.integers(0, 2000),
)
def test_a_picture_with_any_bytes_changed(
    place: Path, picture: bytes, changes: list[tuple[int, int]], end: int | None, put: bytes, at: int
) -> None:
    """Bytes changed, some put in between, and the end cut off; what fails is shrunk to the change that matters."""
    data = bytearray(picture)
    for position, value in changes:
        data[position % len(data)] = value
    at %= len(data)
    data[at:at] = put
    check("image", bytes(data[:end]), place)


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
_VALUES = st.recursive(
    _SCALARS,
    lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=6), one, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from([*PMTConfig.model_fields, "variant", "x"]), _VALUES, max_size=4))
def test_a_configuration_of_any_values(place: Path, values: dict[str, object]) -> None:
    import yaml

    check("yaml", yaml.safe_dump(values, allow_unicode=True).encode("utf-8", "replace"), place)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.fixed_dictionaries(
            {"name": _VALUES, "shape": _VALUES, "dtype": st.sampled_from(["float32", "bool", "x"]) | _VALUES},
            optional={"quantization": st.fixed_dictionaries({"dtype": _VALUES, "scale": _VALUES, "min": _VALUES})},
        ),
        max_size=2,
    ),
    st.binary(max_size=40),
)
def test_a_topology_of_any_values(place: Path, entries: list[Any], shard: bytes) -> None:
    text = json.dumps({"weightsManifest": [{"paths": ["a"], "weights": entries}]})
    check("tfjs", joined(text.encode(), shard), place)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_VALUES, st.integers(0, 5))
def test_a_pickle_of_any_values(place: Path, value: object, protocol: int) -> None:
    for content in (value, (value, value), ([b"a", b"b"], value)):
        check("bin", pickle.dumps(content, protocol=protocol), place)


def test_the_generator_makes_the_same_files_each_time(tmp_path: Path) -> None:
    first, second = (hostile.make(tmp_path / name / "in") for name in ("one", "two"))
    assert [len(getattr(first, kind)) for kind in ("good", "bad", "either")] == [
        len(getattr(second, kind)) for kind in ("good", "bad", "either")
    ]
    suffixes = Counter(Path(name).suffix.lower() for name in first.either)
    assert set(suffixes) == {".png", ".jpg", ".webp", ".gif", ".tif", ".bmp"}
    for name in first.either:
        relative = Path(name).relative_to(first.folder)
        assert (first.folder / relative).read_bytes() == (second.folder / relative).read_bytes()


def test_a_photo_without_a_fault_that_vanishes_is_said(tmp_path: Path) -> None:
    photographs.ready()
    photographs.portrait(tmp_path / "a.png", size=112)
    work_photo = Photo(tmp_path / "gone.png", "gone.png", "0", "gone")
    with pytest.raises(PhotoError, match="does not exist"):
        pipeline._Work._prepare(object.__new__(pipeline._Work), work_photo)


def test_a_sparse_tensor_that_points_outside_is_refused(tmp_path: Path) -> None:
    """Unchecked, its indices would be followed to memory that is not its own."""
    from pmtlib.assets import read_torch

    tensor = torch.sparse_coo_tensor([[0, 1 << 40]], [1.0, 2.0], (1 << 41,), check_invariants=False)
    tensor._indices()[0, 1] = 1 << 42
    (tmp_path / "a.pth").write_bytes(_torch_file({"a.weight": tensor}))
    with pytest.raises(PMTError, match=r"a\.pth"):
        read_torch(tmp_path / "a.pth")
