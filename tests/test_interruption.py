"""`pmt protect` is ended at any moment, by any signal, and nothing is lost: the next run ends as one would have."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from pmtlib import cli, devices, paths, pipeline
from pmtlib.errors import SIGNALS, ResultError
from pmtlib.pipeline import Job, Optimiser, run
from pmtlib.report import LINES, TABLE, read
from pmtlib.transform import PMTConfig, Protected, protect
from tests import photographs
from tests.photographs import NETWORK
from tests.test_pipeline import digests

needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise there")

STEPS, COUNT, MOMENTS = 2, 4, 50
CONFIG = PMTConfig(steps=STEPS, batch_size=1)
CODES = {signal.SIGINT: (130,), signal.SIGTERM: (143,), signal.SIGKILL: (-signal.SIGKILL,)}

# Fifty starts of Python with torch would take minutes: each run is a fork of one process that has imported everything.
# The fork runs the command's own main, with the handlers of a process that was just started.
SERVER = """
import json, os, signal, sys
import torch
torch.set_num_threads(1)
from pmtlib import cli, cluster, faces, pipeline, settings, zoo
for line in sys.stdin:
    arguments = json.loads(line)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        log = os.open(arguments.pop(), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1); os.dup2(log, 2); os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        code = 99
        try:
            cli.main(arguments)
        except SystemExit as leave:
            code = leave.code
        os._exit(code)
    print(child, flush=True)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


class Server:
    """Runs the command in forks of one process that has everything loaded."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log.txt"
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __call__(
        self, arguments: list[object], kill: tuple[signal.Signals, Callable[[], bool], float] | None = None
    ) -> tuple[int, str]:
        """Exit code and output of a run, ended by a signal some seconds after something holds."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([*map(str, arguments), str(self.log)]) + "\n")
        self.process.stdin.flush()
        child = int(self.process.stdout.readline())
        ended = threading.Event()

        def send(number: signal.Signals, holds: Callable[[], bool], seconds: float) -> None:
            while not holds():
                if ended.wait(0.002):
                    return
            if not ended.wait(seconds):
                # The number is not given to another process before its exit code was read, which is below.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, number)

        thread = threading.Thread(target=send, args=kill) if kill is not None else None
        if thread is not None:
            thread.start()
        code = int(self.process.stdout.readline())
        ended.set()
        if thread is not None:
            thread.join()
        return code, self.log.read_text(errors="replace")

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def has(out: Path, count: int) -> bool:
    """Whether so many results are in a folder."""
    return count <= len(list(out.glob("*.png")))


def half_written(out: Path) -> set[Path]:
    """Files that were not yet given their names."""
    return set(out.rglob(".*.part"))


def finished_of(out: Path) -> int:
    """How many photographs the report says are done."""
    return len({row.input for row in read(out / LINES)[0]})


def check_folder(out: Path, whole: dict[str, str]) -> None:
    """Whatever is there is whole: files are what the uninterrupted run makes, and rows name what is there."""
    if not out.exists():
        return
    found = digests(out)
    for name, digest in found.items():
        assert digest == whole[name], name
        with Image.open(out / name) as image:
            image.load()
    lines = (out / LINES).read_bytes().split(b"\n") if (out / LINES).exists() else [b""]
    for line in lines[:-1]:
        json.loads(line)
    rows, torn = read(out / LINES)
    assert torn <= (lines[-1] != b"")
    for row in rows:
        assert row.status == "done"
        assert row.outputs == {name: found[name] for name in row.outputs}
    assert {path.suffix for path in out.iterdir()} <= {".png", ".jsonl", ".txt", ".lock", ".part"}


@needs_signals
@pytest.mark.slow
def test_fifty_ends_at_random_moments_cost_nothing(tmp_path: Path) -> None:
    photographs.ready()
    for number in range(COUNT):
        photographs.portrait(tmp_path / "in" / f"{number}.png", brightness=1 - number / 20, size=112)
    options = ["--aligned", "-a", NETWORK, "--steps", STEPS, "--batch-size", 1, "--device", "cpu"]
    server = Server(tmp_path)

    def command(out: str) -> list[object]:
        return ["protect", tmp_path / "in", "-o", tmp_path / out, *options]

    try:
        server(command("warm"))
        begun = time.monotonic()
        code, log = server(command("whole"))
        length = time.monotonic() - begun
        assert code == 0, log
        whole = digests(tmp_path / "whole")
        assert len(whole) == COUNT
        face = sum(row.seconds or 0 for row in read(tmp_path / "whole" / LINES)[0]) / COUNT
        generator, ended, went_on, finished = random.Random(7), dict.fromkeys(CODES, 0), 0, 0
        for moment in range(MOMENTS):
            # Every third end is in a folder of its own; the others go on in one until it is finished.
            out = f"fresh{moment}" if moment % 3 == 2 else f"again{finished}"
            number = list(CODES)[moment % 3 - 1 if moment % 2 else moment // 3 % 3]
            before, left = finished_of(tmp_path / out), half_written(tmp_path / out)
            # Starting takes most of the time, so every other end comes between the first result and the last.
            wanted = generator.randint(before + 1, COUNT - 1) if moment % 2 and before < COUNT - 1 else 0
            seconds = generator.uniform(0, face if wanted else length)
            code, log = server(command(out), (number, partial(has, tmp_path / out, wanted), seconds))
            assert "Traceback" not in log, log
            assert "unexpected" not in log, log
            if code != 0:
                assert code in CODES[number], (number, code, log)
                ended[number] += 1
            if code in (130, 143):
                assert log.count("error: ") == 1
                assert "what was finished is kept, run again to go on" in log
                # One that ends before it looks around lets lie what an earlier end by SIGKILL left; it adds nothing.
                assert half_written(tmp_path / out) <= left
            check_folder(tmp_path / out, whole)
            there = finished_of(tmp_path / out)
            assert there >= before
            if code == 0 and before:
                assert f"({before} by an earlier run)" in log
                went_on += 1
            if code == 0:
                # Nor what an earlier end by SIGKILL left.
                assert not half_written(tmp_path / out)
            if out.startswith("again"):
                finished += code == 0
            elif (tmp_path / out).exists():
                done, log = server(command(out))
                assert done == 0, log
                if 0 < there < COUNT:
                    assert f"({there} by an earlier run)" in log
                    went_on += 1
                assert digests(tmp_path / out) == whole
        # Else it is a test of runs that nothing ended, or of ends that came before there was anything to lose.
        assert all(ended.values()), ended
        assert sum(ended.values()) >= 30, ended
        assert went_on >= 5
        if (tmp_path / f"again{finished}").exists():
            assert server(command(f"again{finished}"))[0] == 0
        for folder in tmp_path.glob("again*"):
            assert digests(folder) == whole
            assert len(read(folder / LINES)[0]) == COUNT
            assert (folder / TABLE).is_file()
    finally:
        server.close()


@needs_signals
@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGTERM, 143, "ended"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_signal_ends_a_command_in_one_line(
    pmt: Any, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int, word: str
) -> None:
    from pmtlib import assets

    monkeypatch.setattr(assets, "status", lambda: signal.raise_signal(number) or [])
    before = signal.getsignal(signal.SIGTERM)
    # Shells have the commands that they start in the background ignore it.
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        done = pmt("assets", "list")
    finally:
        signal.signal(signal.SIGINT, usual)
    assert done.code == code
    assert done.error == f"{word}; what was finished is kept, run again to go on"
    assert signal.getsignal(signal.SIGTERM) is before


@needs_signals
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_error_that_a_library_puts_in_the_place_of_a_signal_is_told_as_the_signal(
    pmt: Any, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    """As reading of safetensors does: "could not determine the shape of object type UntypedStorage"."""
    from pmtlib import assets

    def status() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(number)
        raise ValueError("could not determine the shape")

    monkeypatch.setattr(assets, "status", status)
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        done = pmt("assets", "list")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, usual)
    assert done.code == code
    assert done.error.endswith("; what was finished is kept, run again to go on")


@needs_signals
def test_sigterm_asks_a_training_as_ctrl_c_does_and_leaves_other_handlers_alone() -> None:
    """A training waits until its update is whole: its handler of SIGINT is asked, not passed over."""
    asked: list[int] = []
    usual = signal.signal(signal.SIGINT, lambda number, _frame: asked.append(number))
    try:
        with cli._terminable():
            signal.raise_signal(signal.SIGTERM)
        assert (asked, SIGNALS) == ([signal.SIGINT], [signal.SIGTERM])
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with cli._terminable(), pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        own = signal.signal(signal.SIGTERM, lambda number, _frame: asked.append(number))
        try:
            with cli._terminable():
                signal.raise_signal(signal.SIGTERM)
            assert asked[-1] == signal.SIGTERM
        finally:
            signal.signal(signal.SIGTERM, own)
    finally:
        signal.signal(signal.SIGINT, usual)


# Memory ---------------------------------------------------------------------------------------------------------------


def small_device(monkeypatch: pytest.MonkeyPatch, most: int, error: Callable[[], Exception]) -> list[int]:
    """Batches above ``most`` do not fit; the sizes that were tried are returned."""
    tried: list[int] = []

    def limited(images: Tensor, models: Any, config: PMTConfig, **options: Any) -> Protected:
        tried.append(config.batch_size)
        if config.batch_size > most:
            options["progress"](len(images))
            raise error()
        return protect(images, models, config, **options)

    monkeypatch.setattr(pipeline, "protect", limited)
    return tried


def crops(folder: Path, count: int) -> Path:
    for number in range(count):
        photographs.portrait(folder / "in" / f"{number}.png", brightness=1 - number / 20, size=112)
    return folder / "in"


def job(folder: Path, out: str, **about: Any) -> Job:
    config = about.pop("config", PMTConfig(steps=1, batch_size=4))
    return Job([folder / "in"], folder / out, [NETWORK], config, device="cpu", aligned=True, **about)


@pytest.mark.parametrize(
    "error",
    [
        lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
        lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory"),
        lambda: RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)"),
        lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        lambda: MemoryError("Unable to allocate 9.00 GiB for an array"),
    ],
)
def test_a_batch_that_does_not_fit_is_halved_and_the_report_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Callable[[], Exception], pmt: Any
) -> None:
    photographs.ready()
    crops(tmp_path, 5)
    expected = run(job(tmp_path, "two", config=PMTConfig(steps=1, batch_size=2)), show=False)
    tried = small_device(monkeypatch, 2, error)
    summary = run(job(tmp_path, "out"), show=False)
    assert (summary.done, summary.failed, summary.stopped, summary.batch_size) == (5, 0, "", 2)
    # Once too large, never again.
    assert tried == [4, 2, 2, 2]
    assert {row.batch_size for row in summary.rows} == {2}
    assert all(row.batch_size is None for row in expected.rows)
    # The images are those of the smaller batch, bit by bit.
    assert digests(tmp_path / "out") == digests(tmp_path / "two")
    again = run(job(tmp_path, "out"), show=False)
    assert (again.reused, again.batch_size) == (5, None)
    assert {row.batch_size for row in read(tmp_path / "out" / LINES)[0]} == {2}
    done = pmt("protect", tmp_path / "in", "-o", tmp_path / "three", "-a", NETWORK, "--steps", "1", "--aligned",
               "--batch-size", "4", "--device", "cpu")  # fmt: skip
    assert done.code == 0
    assert "warning: memory sufficed for 2 faces at once" in done.out


@pytest.mark.parametrize(
    ("error", "so"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 5 GB, other allocations: 1 GB)"), True),
        (RuntimeError("Invalid buffer size: 58.37 GB"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), False),
        (RuntimeError("shapes do not match"), False),
        # Of a disk or a file, whatever it says.
        (OSError("out of memory"), False),
    ],
)
def test_lack_of_memory_is_known_by_what_devices_say(error: Exception, so: bool) -> None:
    assert devices.is_out_of_memory(error) is so


@pytest.mark.parametrize("error", [lambda: torch.OutOfMemoryError("CUDA out of memory"), MemoryError])
def test_memory_that_does_not_suffice_for_one_face_ends_the_run_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Callable[[], Exception]
) -> None:
    photographs.ready()
    crops(tmp_path, 3)
    tried = small_device(monkeypatch, 0, error)
    summary = run(job(tmp_path, "out"), show=False)
    assert tried == [4, 2, 1]
    assert summary.done == 0
    assert "not enough memory on cpu even for one face" in summary.stopped
    monkeypatch.undo()
    assert run(job(tmp_path, "out"), show=False).done == 3


def test_another_error_is_not_taken_for_lack_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photographs.ready()
    crops(tmp_path, 1)
    small_device(monkeypatch, 0, lambda: RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        run(job(tmp_path, "out"), show=False)


# Not a number ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("stage", ["optimisation", "network"])
def test_numbers_that_are_not_finite_fail_one_face_and_leave_the_batch_its_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float, stage: str
) -> None:
    photographs.ready()
    crops(tmp_path, 4)
    run(job(tmp_path, "whole"), show=False)
    whole = digests(tmp_path / "whole")
    if stage == "optimisation":
        from pmtlib.transform import Run

        errors = Run._errors

        def poisoned(self: Run, images: Tensor, target: Any) -> Any:
            found, features = errors(self, images, target)
            # Of the second image alone, in the loss and its derivative, whatever has computed them.
            bad = torch.ones(len(images))
            if len(images) > 1:
                bad[1] = value
            return [one * bad for one in found], features

        monkeypatch.setattr(Run, "_errors", poisoned)
        reason = "did not stay finite"
    else:
        embed = pipeline._Service.embed

        def broken(self: Any, images: Tensor) -> Tensor:
            found = embed(self, images).clone()
            found[1] = value
            return found

        monkeypatch.setattr(pipeline._Service, "embed", broken)
        reason = "no finite numbers"
    summary = run(job(tmp_path, "out"), show=False)
    assert [row.status for row in summary.rows] == ["done", "failed", "done", "done"]
    assert reason in (summary.rows[1].reason or "")
    found = digests(tmp_path / "out")
    assert found == {name: digest for name, digest in whole.items() if name != "1.png"}
    # What is written to a report can be read from it: JSON has no NaN.
    assert read(tmp_path / "out" / LINES)[1] == 0
    monkeypatch.undo()
    assert run(job(tmp_path, "out"), show=False).reused == 3
    assert digests(tmp_path / "out") == whole


# Side by side ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="folders are not locked there")
def test_of_two_runs_on_one_folder_the_second_is_refused_and_the_first_ends_as_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photographs.ready()
    crops(tmp_path, 3)
    run(job(tmp_path, "alone"), show=False)
    refused: list[str] = []
    call = Optimiser.__call__

    def meanwhile(self: Optimiser, *arguments: Any, **options: Any) -> Any:
        for force in (False, True):
            with pytest.raises(ResultError, match="in use by another run; wait for it") as raised:
                run(job(tmp_path, "out", force=force), show=False)
            refused.append(str(raised.value))
        return call(self, *arguments, **options)

    monkeypatch.setattr(Optimiser, "__call__", meanwhile)
    summary = run(job(tmp_path, "out"), show=False)
    assert (summary.done, len(refused)) == (3, 2)
    assert digests(tmp_path / "out") == digests(tmp_path / "alone")
    assert len(read(tmp_path / "out" / LINES)[0]) == 3


CONVERTS = """
import sys, time
from pathlib import Path
import torch
from pmtlib import converted
from torch import nn
def build():
    torch.manual_seed(1)
    return nn.Linear(400, 400)
def convert():
    time.sleep(0.05)
    return {"weight": torch.full((400, 400), 2.0), "bias": torch.zeros(400)}
path = Path(sys.argv[1])
for _ in range(12):
    network = converted.load("x", path, build, convert)
    assert float(network.weight.min()) == float(network.weight.max()) == 2.0
    path.unlink(missing_ok=True)
"""


def test_conversions_of_one_network_at_once_give_whole_files(tmp_path: Path) -> None:
    """Each process deletes the file after it was read, so that they meet in every state."""
    path = tmp_path / "converted" / "x.safetensors"
    command = [sys.executable, "-c", CONVERTS, str(path)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        assert process.communicate(timeout=300)[1] == ""
        assert process.returncode == 0
    assert {left.name for left in path.parent.iterdir()} <= {"x.safetensors"}


def test_one_process_at_a_time_is_in_an_exclusive_part(tmp_path: Path) -> None:
    inside, most = 0, 0

    def enter() -> None:
        nonlocal inside, most
        for _ in range(20):
            with paths.exclusive(tmp_path / "lock"):
                inside += 1
                most = max(most, inside)
                time.sleep(0.001)
                inside -= 1

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_the_configuration_of_a_run_is_in_its_key_whatever_memory_does() -> None:
    base = Job([], Path("out"), [NETWORK], CONFIG)
    assert base.key() != Job([], Path("out"), [NETWORK], CONFIG.model_copy(update={"batch_size": 2})).key()
