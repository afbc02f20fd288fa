"""The same work on a cluster: nothing lost, nothing twice, the same images, whoever is killed half-way.

All that starts Ray is in this file, for one worker: two clusters beside each other starve on a small machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import torch

from pmtlib import cluster, faces, intake, pipeline
from pmtlib.errors import ConfigError, PhotoError, ResultError
from pmtlib.pipeline import Job
from pmtlib.report import LINES, TABLE, Row, read
from pmtlib.transform import PMTConfig
from tests import photographs
from tests.photographs import NETWORK
from tests.test_pipeline import digests

ray = pytest.importorskip("ray", reason="Ray is an extra: pip install -e '.[ray]'")
pq = pytest.importorskip("pyarrow.parquet")
CONFIG = PMTConfig(steps=2, batch_size=1)


@pytest.fixture(scope="module", autouse=True)
def _alone() -> Iterator[None]:
    """Keep off whatever else runs or ran on the machine."""
    # Ray's sockets lie below its folder, and their paths have to be short.
    with pytest.MonkeyPatch.context() as patched, tempfile.TemporaryDirectory(prefix="ray") as place:
        # Ray puts its workers behind all else on a machine, where they starve while other tests keep it busy.
        patched.setenv("RAY_worker_niceness", "0")
        # A cluster that somebody started, or left, is not ours to work on.
        patched.setenv("RAY_TMPDIR", place)
        patched.delenv("RAY_ADDRESS", raising=False)
        yield


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Ray leaves a handler of SIGTERM, and what comes later in this process would be ended by it."""
    usual = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, usual)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight faces on seven pictures, one without a face, one that is none, and the images that one process makes."""
    photographs.ready()
    place = tmp_path_factory.mktemp("cluster")
    for number in range(6):
        photographs.portrait(place / "in" / f"{number}.png", brightness=1 - number / 14)
    photographs.pair(place / "in" / "sub" / "two.png")
    photographs.empty(place / "in" / "none.png")
    (place / "in" / "broken.jpg").write_bytes(b"not a picture")
    pipeline.run(job(place, "whole"), show=False)
    return place


@pytest.fixture
def _two_workers() -> Iterator[None]:
    """A cluster of one machine with two processors, real or not: two actors optimise, and one finds faces."""
    path = str(Path(__file__).resolve().parent.parent)
    environment = {"env_vars": {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=environment)
    yield
    ray.shutdown()


def job(place: Path, out: str, **about: object) -> Job:
    values = {"photos": [place / "in"], "authorised": [NETWORK], "config": CONFIG, "device": "cpu", **about}
    return Job(out=place / out, **values)  # type: ignore[arg-type]


def same(row: Row) -> dict[str, object]:
    """What of a row does not depend on who did it, and when; the source is a hash of where a photograph lies."""
    return row.model_dump(exclude={"seconds", "source"})


def actors(kind: str = "_Optimise") -> list[int]:
    """Processes of the actors that optimise for this process, or find; others on the machine may have some, too."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and kind.encode() in (entry / "cmdline").read_bytes().split(b"\0")[0]:
                process = int(entry.name)
                if os.getpid() in (parent(process), parent(parent(process))):
                    found.append(process)
    return found


def parent(process: int) -> int:
    """The process that started another: of an actor the node's scheduler, and of that who started the node."""
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


@contextlib.contextmanager
def meanwhile(action: Callable[[], bool]) -> Iterator[None]:
    """Try an action again and again beside the block, until it says that it is done or the block ends."""
    ended = threading.Event()

    def again() -> None:
        while not ended.wait(0.05) and not action():
            pass

    thread = threading.Thread(target=again)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").is_file(), reason="looks for processes in /proc")
@pytest.mark.usefixtures("_two_workers")
def test_a_killed_worker_costs_nothing_and_what_is_done_is_not_done_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read from an address and written to one, with a file of somebody else's in the way."""
    out, killed = folder / "far", []
    out.mkdir()
    (out / "0.png").write_bytes(b"somebody else's")

    def kill() -> bool:
        if len(list(out.glob("*.png"))) > 1 and (found := actors()):
            os.kill(found[0], signal.SIGKILL)
            killed.append(found[0])
        return bool(killed)

    # Enough steps for a worker to be killed at work.
    slow = CONFIG.model_copy(update={"steps": 30})
    whole = pipeline.run(job(folder, "whole-slow", config=slow), show=False)
    address = (folder / "in").as_uri()
    photographs.portrait(folder / "in" / "gone.png")
    foreign = cluster._foreign

    def deleted(*arguments: Any) -> dict[str, list[str]]:
        # The photographs have been listed and none is read yet.
        (folder / "in" / "gone.png").unlink(missing_ok=True)
        return foreign(*arguments)

    monkeypatch.setattr(cluster, "_foreign", deleted)
    with meanwhile(kill):
        summary = cluster.run(job(folder, "far", config=slow), [address], out.as_uri(), show=False)
    assert killed
    assert (summary.photographs, summary.done, summary.failed) == (10, 7, 4)
    gone = next(row.reason for row in summary.rows if row.input == "gone.png")
    assert gone == "does not exist. Remedy: check the spelling of the path"
    assert next(row.reason for row in summary.rows if row.input == "0.png") == (
        "0.png is there already and is not this photograph's result; move it away"
    )
    assert (out / "0.png").read_bytes() == b"somebody else's"
    assert not (out / LINES).exists()
    lines = [row for path in (out / cluster.MANIFEST).glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    assert max(Counter((line["source"], line["face"]) for line in lines).values()) == 1
    assert not [line for line in lines if str(folder) in json.dumps(line)]
    others = [line for line in sorted(lines, key=_place) if line["input"] not in ("0.png", "gone.png")]
    made = [same(Row.model_validate_json(line["row"])) for line in others]
    assert made == [same(row) for row in sorted(whole.rows, key=_place_of) if row.input != "0.png"]
    assert {tuple(line["networks"]) for line in lines if line["status"] == "done"} == {(NETWORK,)}
    # A photograph that has changed and a result that is gone are done again, whatever the manifest says.
    (out / "0.png").unlink()
    (out / "2.png").unlink()
    photographs.portrait(folder / "in" / "1.png", brightness=0.5)
    whole = pipeline.run(job(folder, "whole-slow", config=slow), show=False)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    again = cluster.run(job(folder, "far", config=slow), [address], str(out), show=False)
    assert (again.reused, again.done, again.failed) == (5, 8, 2)
    changed = {path.name for path in before if path.stat().st_mtime_ns != before[path]}
    assert changed == {"1.png"}
    assert digests(out) == digests(folder / "whole-slow")
    # The output is a folder here this time, so the report of a run on one machine stands there too.
    assert [same(row) for row in read(out / LINES)[0]] == [same(row) for row in read(folder / "whole-slow" / LINES)[0]]
    assert (out / TABLE).is_file()


@pytest.mark.slow
def test_a_bucket_gives_the_images_of_a_folder(folder: Path) -> None:
    """By S3's own protocol, against a server on this machine; with ``pmt protect`` as it is typed."""
    why = "a server of S3 is wanted: pip install 'moto[s3]' flask flask-cors s3fs"
    server = pytest.importorskip("moto.server", reason=why).ThreadedMotoServer(port=0)
    pytest.importorskip("s3fs", reason=why)
    import fsspec

    server.start()
    try:
        host, port = server.get_host_and_port()
        address = f"http://{host}:{port}"
        keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
        environment = {**os.environ, **keys, "AWS_ENDPOINT_URL": address}
        files = fsspec.filesystem("s3", key="x", secret="x", endpoint_url=address, use_listings_cache=False)
        files.mkdir("bucket")
        files.put(str(folder / "in"), "bucket/in", recursive=True)
        command = [sys.executable, "-m", "pmtlib", "protect", "s3://bucket/in", "-o", "s3://bucket/out", "-a", NETWORK,
                   "--engine", "ray", "--steps", str(CONFIG.steps), "--batch-size", str(CONFIG.batch_size),
                   "--device", "cpu"]  # fmt: skip
        later = photographs.portrait(folder / "later.png", brightness=0.4)
        for said in "8 faces done, 2 failed", "9 faces done (8 by an earlier run), 2 failed":
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            assert done.returncode == 1, done.stderr
            assert said in done.stdout + done.stderr
            files.put(str(later), "bucket/in/later.png")
        whole = folder / "whole-bucket"
        pipeline.run(job(folder, "whole-bucket"), show=False)
        made = {str(path.relative_to(whole)): path.read_bytes() for path in whole.rglob("*.png")}
        assert len(made) == 8
        assert made == {
            name.removeprefix("bucket/out/"): files.cat(name)
            for name in files.find("bucket/out")
            if name.endswith(".png") and name != "bucket/out/later.png"
        }
    finally:
        server.stop()


def _place(line: dict[str, object]) -> tuple[object, object]:
    return line["input"], line["face"] or 0


def _place_of(row: Row) -> tuple[object, object]:
    return row.input, row.face or 0


@pytest.mark.parametrize("name", ["none.png", "broken.jpg", "gone.png", "locked.png", "dir.png", "large.png", "0.png"])
def test_a_photograph_that_fails_is_told_in_the_words_of_one_machine_and_without_where_it_lies(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Of every kind of failure: the row of the pipeline on one machine."""
    path = tmp_path / "in" / name
    path.parent.mkdir()
    if (folder / "in" / name).exists():
        path.write_bytes((folder / "in" / name).read_bytes())
    elif name == "dir.png":
        path.mkdir()
    elif name != "gone.png":
        path.write_bytes(b"x" * 40)
    said = {"dir.png": "cannot be read (Is a directory). Remedy: check the path and its permissions"}
    with monkeypatch.context() as patched:
        patched.setattr(faces, "MAX_BYTES", 39 if name == "large.png" else faces.MAX_BYTES)
        if name == "locked.png":
            # The administrator, who may run this, reads everything.
            refuse = PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            patched.setattr(cluster, "_read", lambda _location: _raise(refuse))
            said[name] = "cannot be read (Permission denied). Remedy: check the path and its permissions"
        if name == "0.png":
            text = (
                f"[ONNXRuntimeError] load model from {path.parent}/model.onnx failed, see '/opt/worker/log.txt'\nmore"
            )
            patched.setattr(pipeline.Finder, "__call__", lambda *_: _raise(RuntimeError(text)))
            said[name] = "[ONNXRuntimeError] load model from model.onnx failed, see 'log.txt'"
        photo = intake.Photo(path, name, "source", "target")
        found = cluster._Find(job(folder, "none"), "key")._rows(photo, str(path), {})
    if name not in said:
        if name == "large.png":
            monkeypatch.setattr(faces, "MAX_BYTES", 39)
        with pytest.raises(PhotoError) as raised:
            pipeline.Finder(job(folder, "none"))(faces.read_photo(path), str(path))
        said[name] = pipeline._reason(raised.value, photo)
    assert len(found) == 1
    row = Row.model_validate_json(found[0]["row"])
    assert (row.status, row.reason) == ("failed", said[name])
    assert str(tmp_path) not in str(row.reason)


def _raise(error: BaseException) -> NoReturn:
    raise error


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "cannot be written (No space left on device); make room, or give another --out"),
        (errno.ENAMETOOLONG, "cannot be written (File name too long); rename the photograph"),
    ],
)
def test_what_cannot_be_written_is_told_without_a_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    failure = OSError(number, os.strerror(number), "/mnt/bucket/0.png")
    monkeypatch.setattr(cluster._Store, "write", lambda *_: _raise(failure))
    row = next(row for row in read(folder / "whole" / LINES)[0] if row.status == "failed")
    worker = object.__new__(cluster._Optimise)
    worker.job, worker.store = job(folder, "none"), cluster._Store(str(folder / "none"))
    assert worker._keep(row, "0", [], pipeline.Made((b"x",))).reason == said


def test_a_worker_whose_gpu_is_lost_ends_and_one_whose_face_fails_does_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Optimiser:
        device = torch.device("cuda", 0)

        def __call__(self, crops: list[str]) -> list[pipeline.Made]:
            if "bad" in crops:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            return [pipeline.Made((crop.encode(),)) for crop in crops]

    worker, asked = object.__new__(cluster._Optimise), []
    worker.optimise = Optimiser()  # type: ignore[assignment]
    monkeypatch.setattr(os, "_exit", lambda code: _raise(SystemExit(code)))
    monkeypatch.setattr(torch.cuda, "synchronize", asked.append)
    made = worker._made(["a", "bad", "b"])
    assert [bool(one.reason) for one in made] == [False, True, False]
    assert asked == [Optimiser.device]
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: _raise(RuntimeError("CUDA error")))
    with pytest.raises(SystemExit) as left:
        worker._made(["a", "bad", "b"])
    assert left.value.code == 1
    monkeypatch.setattr(Optimiser, "device", torch.device("cpu"))
    assert len(worker._made(["bad"])) == 1


def test_ray_tells_its_makers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._common.usage import usage_lib

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    assert usage_lib.usage_stats_enabled()
    begun: list[bool] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: begun.append(usage_lib.usage_stats_enabled()))
    cluster._start(ray, show=False)
    assert begun == [False]


def test_ray_leaves_the_signals_to_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own handler would end the command without a word of what is kept, and with another code."""

    def init(**_: object) -> None:
        signal.signal(signal.SIGTERM, lambda *_: None)

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    usual = signal.getsignal(signal.SIGTERM)
    cluster._start(ray, show=False)
    assert signal.getsignal(signal.SIGTERM) is usual
    # A signal can be handled in the main thread alone, and Ray leaves them alone elsewhere.
    monkeypatch.setattr(ray, "init", lambda **_: None)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(cluster._start, ray, False).result()


def test_the_manifest_has_one_form_whatever_its_lines_hold(folder: Path) -> None:
    rows = read(folder / "whole" / LINES)[0]
    done, failed = (next(row for row in rows if row.status == status) for status in ("done", "failed"))
    tables = [cluster.manifest_table([row]) for row in (done, failed)]
    assert tables[0].schema == tables[1].schema == cluster.manifest_table([]).schema
    assert tables[0].column("cosines").to_pylist() == [[done.networks[0].cosine]]
    assert Row.model_validate_json(tables[1].column("row")[0].as_py()) == failed


def test_what_is_wrong_is_said_before_anything_starts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PhotoError, match="no such file or folder"):
        cluster.run(job(folder, "none"), [(folder / "nowhere").as_uri()], str(folder / "none"), show=False)
    with pytest.raises(PhotoError, match="is both input and --out"):
        cluster.run(job(folder, "none"), [(folder / "in").as_uri()], (folder / "in").as_uri(), show=False)
    with pytest.raises(ConfigError, match="cut 99 is outside"):
        cluster.run(job(folder, "none", cut=99), [str(folder / "in")], str(folder / "none"), show=False)
    with pytest.raises(ConfigError, match="no authorised network"):
        cluster.run(job(folder, "none", authorised=[]), [str(folder / "in")], str(folder / "none"), show=False)
    with pytest.raises(ConfigError, match=r"nonesuch://in is no address of a known kind .*; check it"):
        cluster.run(job(folder, "none"), ["nonesuch://in"], str(folder / "none"), show=False)
    (folder / "a-file").write_bytes(b"")
    with pytest.raises(ResultError, match=r"cannot write to .*a-file \(Not a directory\)"):
        cluster.run(job(folder, "none"), [str(folder / "in")], str(folder / "a-file"), show=False)
    with pytest.raises(ConfigError, match=r"gs://in needs a package that is not installed"):
        cluster.run(job(folder, "none"), ["gs://in"], str(folder / "none"), show=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[ray\]'"):
        cluster.run(job(folder, "none"), [str(folder / "in")], str(folder / "none"), show=False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["in", "-o", "out", "--engine", "spark"], "'spark' is none; there are local and ray"),
        (["in", "-o", "out", "--engine", "ray", "--shard", "1/2"], "Ray shares the work itself"),
        (["s3://bucket/in", "-o", "out"], "s3://bucket/in is an address, which needs --engine ray"),
    ],
)
def test_an_engine_is_chosen_in_words(tmp_path: Path, arguments: list[str], said: str) -> None:
    command = [sys.executable, "-m", "pmtlib.cli", "protect", *arguments, "-a", NETWORK]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("text", "so"), [("s3://bucket/a", True), ("file:///a", True), ("a/b.png", False), ("c:/x", False), ("://x", False)]
)
def test_an_address_is_told_from_a_path(text: str, so: bool) -> None:
    assert cluster.is_address(text) is so


def test_what_a_run_wrote_into_the_folder_of_photographs_is_no_photograph(folder: Path, tmp_path: Path) -> None:
    photographs.portrait(tmp_path / "in" / "a.png")
    photographs.portrait(tmp_path / "in" / "done" / "a.png")
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    for given in (tmp_path / "in").as_uri(), str(tmp_path / "in"):
        for out in (tmp_path / "in" / "done").as_uri(), str(tmp_path / "in" / "done"):
            entries, ignored = cluster._entries([given], out, ())
            assert [str(entry.relative) for entry in entries] == ["a.png"]
            assert ignored == 1


def test_results_above_the_photographs_hide_none_and_are_none(folder: Path, tmp_path: Path) -> None:
    photographs.portrait(tmp_path / "top" / "in" / "a.png")
    photographs.portrait(tmp_path / "top" / "in" / "b.png")
    for given in (tmp_path / "top" / "in").as_uri(), str(tmp_path / "top" / "in"):
        for out in (tmp_path / "top").as_uri(), str(tmp_path / "top"):
            entries, _ = cluster._entries([given], out, ["in/b.png", "a.png"])
            assert [str(entry.relative) for entry in entries] == ["a.png"]


def test_an_address_is_taken_as_a_path_is(folder: Path, tmp_path: Path) -> None:
    """Each photograph once; a file that is named whatever it is called; what is not there has a line of its own."""
    photographs.portrait(tmp_path / "in" / "sub" / "a.png")
    (tmp_path / "in" / "photograph").write_bytes((tmp_path / "in" / "sub" / "a.png").read_bytes())
    names = ["in", "in/sub", "in/photograph", "in/gone.png"]
    given = [str(tmp_path / "lost.png"), *((tmp_path / name).as_uri() for name in names)]
    entries, ignored = cluster._entries(given, str(tmp_path / "out"), ())
    assert [(str(entry.relative), entry.fault[:14]) for entry in entries] == [
        ("lost.png", "cannot be read"), ("sub/a.png", ""), ("photograph", ""), ("gone.png", "does not exist")
    ]  # fmt: skip
    assert ignored == 1
    planned = intake.plan(entries, tmp_path / "out", {}, ())
    found = cluster._Find(job(folder, "none"), "key")._rows(planned[3], cluster._location(planned[3]), {})
    (row,) = (Row.model_validate_json(one["row"]) for one in found)
    assert row.reason == "does not exist. Remedy: check the spelling of the address"
    # None of them, wherever they would be.
    for missing in given[:1], given[-1:], [given[0], given[-1]]:
        with pytest.raises(PhotoError, match=r"^no such file or folder: "):
            cluster._entries(missing, str(tmp_path / "out"), ())


def test_faces_that_are_done_are_left_out_unless_the_photograph_is_another(folder: Path) -> None:
    path = folder / "in" / "sub" / "two.png"
    photo, find = intake.Photo(path, "two.png", "source", "two"), cluster._Find(job(folder, "none"), "key")
    digest = cluster._sha256(path.read_bytes())
    assert digest is not None
    for done, left in (({}, [1, 2]), ({1: digest}, [2]), ({1: "another"}, [1, 2]), ({1: digest, 2: digest}, [])):
        rows = [Row.model_validate_json(one["row"]) for one in find._rows(photo, str(path), done)]
        assert [row.face for row in rows] == left


def _done(face: int, digest: str, *, config: str = "key", faces: int = 2) -> Row:
    name = "a.png" if face == 1 else f"a-face{face}.png"
    return Row(
        input="a.png", source="a", face=face, faces=faces, status="done", mode="image", outputs={name: "0"},
        config=config, input_sha256=digest,
    )  # fmt: skip


def test_what_a_photograph_had_before_it_changed_is_neither_done_nor_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = [_done(1, "old"), _done(2, "old")], [_done(1, "new", faces=1)]
    unread = before[0].model_copy(update={"status": "failed", "face": None, "input_sha256": None})
    assert cluster._latest([*before, *after, unread]) == {"a": "new"}
    finished = cluster._finished([*before, *after], {"a": "new"}, "key")
    assert finished == {"a": after}
    assert cluster._finished(before, {"a": "old"}, "other") == {}
    # A cluster is not needed to see what is told.
    engine = SimpleNamespace(exceptions=SimpleNamespace(RayError=ZeroDivisionError))
    store, written = cluster._Store(str(folder / "told")), [*before]
    monkeypatch.setattr(cluster._Store, "rows", lambda *_: iter(written))
    monkeypatch.setattr(cluster, "_start", lambda *_: None)
    monkeypatch.setattr(cluster, "_unchanged_of", lambda *_: {})
    monkeypatch.setattr(cluster, "_compute", lambda *_: written.extend(after))
    entry = intake.Entry(Path("/in/a.png"), "in", PurePosixPath("a.png"), uri="a")
    monkeypatch.setattr(cluster.intake, "source_of", lambda place: str(place))
    summary = cluster._run(engine, job(folder, "told"), "key", [entry], 0, store, 0.0, False, before)
    assert summary.rows == after
    assert (summary.replaced, summary.batch_size) == (0, None)
    # What was made in place of another configuration's result, and by fewer at once.
    made = after[-1].model_copy(update={"config": "third", "batch_size": 3, "face": 1, "faces": 1})
    written[:] = before
    monkeypatch.setattr(cluster, "_compute", lambda *_: written.append(made))
    summary = cluster._run(engine, job(folder, "told"), "third", [entry], 0, store, 0.0, False, before)
    assert (summary.rows, summary.replaced, summary.batch_size) == ([made], 1, 3)
    written[:] = [*before, *after]
    monkeypatch.setattr(cluster, "_compute", lambda *_: None)
    # A folder that machines do not share holds the lines of this one alone.
    other = dataclasses.replace(entry, path=Path("/in/b.png"), relative=PurePosixPath("b.png"), uri="b")
    with pytest.raises(ResultError, match=r"1 of 2 photographs have no line in .*/manifest; give an --out"):
        cluster._run(engine, job(folder, "told"), "key", [entry, other], 0, store, 0.0, False, before)


def test_results_of_a_killed_run_are_its_own_though_no_line_tells_of_them(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One block, whose faces are written and whose lines are not; done anew with other steps. Ray is stood in for."""
    killed = [True]

    def compute(_ray: Any, job: Job, key: str, photos: Any, foreign: Any, _done: Any, store: cluster._Store) -> None:
        found = [
            {**row, "foreign": json.dumps(foreign[photo.source])}
            for photo in photos
            for row in cluster._Find(job, key)._rows(photo, cluster._location(photo), {})
        ]
        batch = {name: [row[name] for row in found] for name in ("row", "crop", "target", "foreign")}
        table = cluster._Optimise(job, key, store)(batch)
        if killed[0]:
            raise KeyboardInterrupt
        pq.write_table(table, tmp_path / "out" / cluster.MANIFEST / "a.parquet")

    monkeypatch.setattr(cluster, "_start", lambda *_: None)
    monkeypatch.setattr(cluster, "_compute", compute)
    out, given = tmp_path / "out", [str(tmp_path / "in")]
    photographs.portrait(tmp_path / "in" / "a.png")
    photographs.pair(tmp_path / "in" / "two.png")
    photographs.portrait(tmp_path / "in" / "mine.png", brightness=0.7)
    out.mkdir()
    (out / "mine.png").write_bytes(b"a user's own")
    with pytest.raises(KeyboardInterrupt):
        cluster.run(job(tmp_path, "out"), given, str(out), show=False)
    before = digests(out)
    assert {"a.png", "two.png", "two-face2.png"} <= before.keys()
    assert (out / cluster.CLAIMS).is_file()
    # Another photograph would share a name with one whose result stands there.
    photographs.portrait(tmp_path / "in" / "a.jpg", brightness=0.6)
    other, killed[0] = CONFIG.model_copy(update={"steps": 1}), False
    summary = cluster.run(job(tmp_path, "out", config=other), given, str(out), show=False)
    told = {(row.input, row.face): (row.status, *row.outputs) for row in summary.rows}
    assert told == {
        ("a.jpg", 1): ("done", "a.jpg.png"), ("a.png", 1): ("done", "a.png"), ("mine.png", 1): ("failed",),
        ("two.png", 1): ("done", "two.png"), ("two.png", 2): ("done", "two-face2.png"),
    }  # fmt: skip
    after = digests(out)
    assert all(after[name] != before[name] for name in ("a.png", "two.png", "two-face2.png"))
    assert (out / "mine.png").read_bytes() == b"a user's own"
    # Nothing is left without a line, so that what a user puts there later is the user's.
    assert not (out / cluster.CLAIMS).exists()
    store = cluster._Store(str(out))
    for damaged in b"[]", b"{", b'{"a": 1}', b'{"a": ["../b", []]}', b"\xff":
        store.write(cluster.CLAIMS, damaged)
        assert store.claims() == {}


@pytest.mark.parametrize(
    ("device", "says"), [("gpu", "with --engine ray there are auto, cpu and cuda"), ("cuda:1", "has a GPU of its own")]
)
def test_a_device_that_actors_cannot_have_is_refused_at_once(folder: Path, device: str, says: str) -> None:
    with pytest.raises(ConfigError, match=f"^--device {device}: .*{says}"):
        cluster.run(job(folder, "none", device=device), [str(folder / "in")], str(folder / "none"), show=False)
    assert not (folder / "none").exists()


def test_a_cluster_without_a_gpu_is_told_from_one_that_failed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = SimpleNamespace(cluster_resources=lambda: {"CPU": 2.0})
    monkeypatch.setattr(cluster, "_start", lambda *_: None)
    entry, store = intake.Entry(Path("/in/a.png"), "in", PurePosixPath("a.png")), cluster._Store(str(folder / "none"))
    with pytest.raises(ConfigError, match=r"^--device cuda: no machine of the cluster has a GPU"):
        cluster._run(engine, job(folder, "none", device="cuda"), "key", [entry], 0, store, 0.0, False, [])


@pytest.mark.parametrize("where", ["extend", "__exit__"])
def test_a_report_that_cannot_be_written_in_the_end_hides_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Results and manifest are there; the summary says what is not."""
    summary = pipeline.Summary(rows=[_done(1, "digest")], photographs=1)
    monkeypatch.setattr(cluster, "_run", lambda *_: summary)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    error = full if where == "extend" else ResultError("report.jsonl: No space left on device; make room")
    leave = cluster.Report.__exit__

    def fail(self: Any, *arguments: Any) -> None:
        if where == "__exit__":
            leave(self, *arguments)
        raise error

    monkeypatch.setattr(cluster.Report, where, fail)
    found = cluster.run(job(folder, "x"), [str(folder / "in")], str(tmp_path / "out"), show=False)
    assert found is summary
    assert "No space left on device" in found.stopped
    # Before there is anything to tell, it is an error as it was.
    monkeypatch.setattr(cluster, "_run", lambda *_: _raise(ResultError("the cluster failed (x); run again")))
    monkeypatch.setattr(cluster.Report, "__exit__", leave)
    with pytest.raises(ResultError, match="the cluster failed"):
        cluster.run(job(folder, "x"), [str(folder / "in")], str(tmp_path / "out"), show=False)


def test_a_torn_file_of_the_manifest_is_passed_over(folder: Path, tmp_path: Path) -> None:
    manifest = tmp_path / cluster.MANIFEST
    manifest.mkdir()
    row = read(folder / "whole" / LINES)[0][0]
    pq.write_table(cluster.manifest_table([row]), manifest / "b.parquet")
    (manifest / "a.parquet").write_bytes((manifest / "b.parquet").read_bytes()[:-9])
    store, torn = cluster._Store(str(tmp_path)), []
    assert list(store.rows(torn)) == [row]
    assert torn == [str(manifest / "a.parquet")]
    # What is whole and cannot be read is another matter.
    (manifest / "a.parquet").unlink()
    (manifest / "a.parquet").symlink_to(manifest / "a.parquet")
    with pytest.raises(ResultError, match=r"a\.parquet cannot be read"):
        list(store.rows())


def test_a_result_is_written_whole_or_what_was_there_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for out in str(folder / "whole-writes"), (folder / "whole-writes").as_uri():
        store = cluster._Store(out)
        store.write("sub/a.png", b"before")
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", lambda _: _raise(OSError(errno.ENOSPC, "No space left on device")))
            with pytest.raises(OSError, match="No space left"):
                store.write("sub/a.png", b"a result that is longer")
        assert (store.read("sub/a.png"), store.names()) == (b"before", ["sub/a.png"])


def test_what_other_processes_write_is_seen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a file system that remembers its listings, as that of S3 does."""
    import fsspec

    files, known = fsspec.filesystem("memory"), {}
    listed = type(files).ls

    def remembered(self: Any, path: str, detail: bool = True, **options: Any) -> Any:
        if (path, detail) not in known:
            known[path, detail] = listed(self, path, detail=detail, **options)
        return known[path, detail]

    monkeypatch.setattr(type(files), "ls", remembered)
    monkeypatch.setattr(type(files), "invalidate_cache", lambda *_: known.clear())
    row, other = read(folder / "whole" / LINES)[0][:2]
    store = cluster._Store("memory://remembered")
    for name, line in (("a", row), ("b", other)):
        content = io.BytesIO()
        pq.write_table(cluster.manifest_table([line]), content)
        files.pipe(f"/remembered/{cluster.MANIFEST}/{name}.parquet", content.getvalue())
        assert line in list(store.rows())
    assert len(store.names()) == 2


def test_where_no_cluster_is_a_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "no such\nkind")
    why = "Invalid address format: no such.n?kind"
    with pytest.raises(
        ResultError, match=rf"^there is no cluster to be had at RAY_ADDRESS, no such.n?kind \({why}\); start one"
    ):
        cluster._start(ray, False)
    # Nobody listens there, for which Ray would wait for minutes.
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    begun: list[object] = []
    monkeypatch.setattr(ray, "init", lambda address, **_: begun.append(address))
    for address in f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", "127.0.0.1:65536":
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ResultError, match=rf"RAY_ADDRESS, {address} \(nobody answers\); start one"):
            cluster._start(ray, False)
    assert begun == []
    # One that is remembered, or wants a token, and does not take the work.
    monkeypatch.delenv("RAY_ADDRESS")
    for error in ConnectionError("not reached"), ray.exceptions.AuthenticationError("not reached. Ensure that much"):
        monkeypatch.setattr(ray, "init", lambda error=error, **_: _raise(error))
        with pytest.raises(ResultError, match=r"at the address that Ray remembers \(ray stop\) \(not reached\);"):
            cluster._start(ray, False)


def test_a_cluster_that_runs_here_is_used_and_one_that_has_gone_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray leaves a file with the address of the last, and would wait minutes for one that has gone."""
    from ray._private.utils import get_ray_address_file

    begun: list[object] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda address, **_: begun.append(address))
    for folder in "RAY_TMPDIR", "TMPDIR":
        monkeypatch.setenv(folder, str(tmp_path / folder))
        cluster._start(ray, False)
        place = Path(get_ray_address_file(None))
        assert place.is_relative_to(tmp_path / folder)
        place.parent.mkdir(parents=True)
        with socket.create_server(("127.0.0.1", 0)) as server:
            place.write_text(f"127.0.0.1:{server.getsockname()[1]}\n")
            # Ray finds it by itself, and with it the token of its cluster.
            cluster._start(ray, False)
        cluster._start(ray, False)
        monkeypatch.setenv("RAY_ADDRESS", "local")
        cluster._start(ray, False)
        monkeypatch.delenv("RAY_ADDRESS")
        assert begun == [None, None, "local", None]
        begun.clear()
        monkeypatch.delenv(folder)


@pytest.fixture
def nodes() -> Iterator[Any]:
    """A head that computes nothing, and two nodes with two processors each, real or not.

    Machines are stood in for by Ray nodes on this one: each has a scheduler, an object store and workers of its own,
    and nothing but the network between them.
    """
    from ray.cluster_utils import Cluster

    # A node that says nothing for some seconds is lost; Ray waits for half a minute otherwise.
    settings = {"health_check_period_ms": 1000, "health_check_timeout_ms": 5000, "health_check_failure_threshold": 5}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": settings})
    workers = [made.add_node(num_cpus=2) for _ in range(2)]
    path = os.pathsep.join([str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", "")])
    variables = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
    try:
        ray.init(address=made.address, log_to_driver=False, runtime_env={"env_vars": variables})
        made.lose = functools.partial(_lose, made, workers)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def _lose(machines: Any, workers: list[Any], kind: str) -> bool:
    """Lose a node on which there is an actor of a kind; False where there is none yet."""
    schedulers = {info.process.pid: node for node in workers for info in node.all_processes.get("raylet", [])}
    for process in actors(kind):
        with contextlib.suppress(OSError):
            if (scheduler := parent(process)) in schedulers:
                machines.remove_node(schedulers[scheduler], allow_graceful=False)
                return True
    return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").is_file(), reason="several nodes on one machine need Linux")
@pytest.mark.parametrize("kind", ["_Optimise", "_Find"])
def test_a_lost_machine_costs_nothing(kind: str, nodes: Any, tmp_path: Path) -> None:
    """One at work, or one that finds faces, of which there is one: those that optimise take all other processors."""
    photographs.ready()
    count = 10
    for number in range(count):
        photographs.portrait(tmp_path / "in" / f"{number}.png", brightness=1 - number / 2 / count)
    # Enough steps for a machine to be lost at work.
    config = CONFIG.model_copy(update={"steps": 30})
    whole = pipeline.run(job(tmp_path, "whole", config=config), show=False)
    out, lost = tmp_path / "far", threading.Event()
    out.mkdir()
    left: list[int] = []

    def lose() -> bool:
        written = len(list(out.glob("*.png")))
        ready = written > 1 if kind == "_Optimise" else len(actors()) > 2
        if ready and nodes.lose(kind):
            left.append(count - written)
            lost.set()
        return lost.is_set()

    with meanwhile(lose):
        address = (tmp_path / "in").as_uri()
        summary = cluster.run(job(tmp_path, "far", config=config), [address], out.as_uri(), show=False)
    assert lost.is_set()
    assert left[0] > 0
    assert sorted(node["Alive"] for node in ray.nodes()) == [False, True, True]
    assert (summary.photographs, summary.done, summary.failed) == (count, count, 0)
    made = {name: digest for name, digest in digests(out).items() if name.endswith(".png")}
    assert made == {name: digest for name, digest in digests(tmp_path / "whole").items() if name.endswith(".png")}
    by_input = {row.input: same(row) for row in whole.rows}
    assert {row.input: same(row) for row in summary.rows} == by_input
    assert len(summary.rows) == count
