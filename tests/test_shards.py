"""Parts of one folder's photographs, done by processes beside each other: nothing lost, nothing twice, same images."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from pmtlib import devices, pipeline
from pmtlib.cli import _shard
from pmtlib.errors import ConfigError, ResultError
from pmtlib.pipeline import Job, run
from pmtlib.report import LINES, TABLE, Report, Row, everything, lines_name, read
from pmtlib.transform import PMTConfig
from tests import photographs
from tests.photographs import NETWORK
from tests.test_pipeline import digests

QUICK = PMTConfig(steps=2, batch_size=1)


@pytest.fixture(autouse=True, scope="module")
def _ready() -> None:
    photographs.ready()


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Seven aligned crops, each of another brightness, and a file that is no picture."""
    folder = tmp_path / "in"
    for number in range(7):
        photographs.portrait(folder / f"{number}.png", brightness=1 - number / 14, size=112)
    (folder / "broken.png").write_bytes(b"not a picture")
    return folder


def go(folder: Path, out: str, **about: object) -> pipeline.Summary:
    values = {"photos": [folder / "in"], "authorised": [NETWORK], "config": QUICK, "device": "cpu", "aligned": True}
    return run(Job(out=folder / out, **{**values, **about}), show=False)  # type: ignore[arg-type]


def same(row: Row) -> dict[str, object]:
    """What of a row does not depend on who did it, and when."""
    return row.model_dump(exclude={"seconds"})


def test_shards_do_all_once_and_a_run_of_the_whole_gathers_them(tmp_path: Path, faces: Path) -> None:
    whole = go(tmp_path, "whole")
    parts = [go(tmp_path, "out", shard=(part, 3)) for part in (1, 2, 3)]
    assert sum(part.photographs for part in parts) == whole.photographs == 8
    assert (sum(part.done for part in parts), sum(part.failed for part in parts)) == (7, 1)
    out = tmp_path / "out"
    assert not (out / LINES).exists()
    assert not (out / TABLE).exists()
    assert [same(row) for row in everything(out)[0]] == [same(row) for row in whole.rows]
    gathered = go(tmp_path, "out")
    assert (gathered.reused, gathered.done) == (7, 7)
    assert sorted(path.name for path in out.glob("report*")) == [LINES, TABLE]
    assert [same(row) for row in read(out / LINES)[0]] == [same(row) for row in whole.rows]
    assert digests(out) == digests(tmp_path / "whole")
    assert go(tmp_path, "out", shard=(2, 3)).reused == parts[1].done


def test_a_shard_that_is_killed_is_done_again_and_the_others_do_not_notice(tmp_path: Path, faces: Path) -> None:
    # Enough steps for a process to be killed at work.
    slow = QUICK.model_copy(update={"steps": 12})
    whole, out = go(tmp_path, "whole", config=slow), tmp_path / "out"
    command = [
        sys.executable, "-m", "pmtlib.cli", "protect", str(faces), "-a", NETWORK, "-o", str(out), "--aligned",
        "--batch-size", "1", "--device", "cpu", "--quiet", "--steps", str(slow.steps), "--shard",
    ]  # fmt: skip
    report = out / lines_name((1, 2))
    killed = subprocess.Popen([*command, "1/2"], stderr=subprocess.DEVNULL)
    try:
        while killed.poll() is None and not (report.is_file() and report.read_bytes().count(b"\n")):
            time.sleep(0.01)
        killed.send_signal(signal.SIGKILL)
    finally:
        killed.wait()
    assert killed.returncode == -signal.SIGKILL
    assert 0 < len(read(report)[0]) < 4
    for part in ("2/2", "1/2"):
        done = subprocess.run([*command, part], capture_output=True, text=True)
        assert done.returncode == (1 if part == "2/2" else 0), done.stderr
    rows = everything(out)[0]
    assert [same(row) for row in rows] == [same(row) for row in whole.rows]
    assert digests(out) == digests(tmp_path / "whole")


def test_names_do_not_depend_on_the_shard(tmp_path: Path, faces: Path) -> None:
    Image.open(faces / "0.png").save(faces / "0.bmp")
    whole = go(tmp_path, "whole")
    for part in (2, 1):
        go(tmp_path, "out", shard=(part, 2))
    assert "0.bmp.png" in digests(tmp_path / "out")
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
    assert [row.input for row in everything(tmp_path / "out")[0]] == [row.input for row in whole.rows]


def test_what_was_done_by_other_parts_is_not_done_again(tmp_path: Path, faces: Path) -> None:
    for part in (1, 2):
        go(tmp_path, "out", shard=(part, 2))
    again = [go(tmp_path, "out", shard=(part, 5)) for part in range(1, 6)]
    assert sum(part.reused for part in again) == sum(part.done for part in again) == 7
    assert go(tmp_path, "out", shard=(9, 9)).photographs == 0


def test_shards_run_beside_each_other_and_not_beside_the_whole(tmp_path: Path) -> None:
    with Report(tmp_path, (1, 2)):
        with Report(tmp_path, (2, 2)):
            pass
        with pytest.raises(ResultError, match=r"another run of this shard; wait"), Report(tmp_path, (1, 2)):
            pass
        with pytest.raises(ResultError, match=r"in use by another run; wait"), Report(tmp_path):
            pass
    with Report(tmp_path), pytest.raises(ResultError, match=r"another run; wait"), Report(tmp_path, (1, 2)):
        pass
    assert not list(tmp_path.glob("report-*"))


def test_a_later_row_of_a_shard_replaces_that_of_the_whole(tmp_path: Path, faces: Path) -> None:
    go(tmp_path, "out")
    changed = QUICK.model_copy(update={"seed": 5})
    for part in (1, 2):
        assert go(tmp_path, "out", shard=(part, 2), config=changed).replaced
    gathered = go(tmp_path, "out", config=changed)
    assert gathered.reused == 7
    assert {row.config for row in read(tmp_path / "out" / LINES)[0] if row.status == "done"} == {
        row.config for row in gathered.rows if row.status == "done"
    }


def test_a_reused_result_is_what_the_gathered_report_says(tmp_path: Path, faces: Path) -> None:
    """A part of another division has done it anew, and its report is not the last by its name."""
    older, newer = QUICK, QUICK.model_copy(update={"seed": 5})
    for part in (1, 2):
        go(tmp_path, "out", shard=(part, 2), config=older)
    for part in (1, 2, 3):
        go(tmp_path, "out", shard=(part, 3), config=newer)
    assert go(tmp_path, "out", config=newer).reused == 7
    gathered = [row for row in read(tmp_path / "out" / LINES)[0] if row.status == "done"]
    assert len(gathered) == 7
    for row in gathered:
        for name, digest in row.outputs.items():
            assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize(
    ("text", "environment", "part"),
    [
        ("2/8", {}, (2, 8)),
        ("env", {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, (1, 4)),
        ("env", {"RANK": "3", "WORLD_SIZE": "4"}, (4, 4)),
        # Torchrun that Slurm has started, as one task.
        ("env", {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "RANK": "3", "WORLD_SIZE": "8"}, (4, 8)),
    ],
)
def test_a_part_is_read(text: str, environment: dict[str, str], part: tuple[int, int]) -> None:
    assert _shard(text, environment) == part


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/2/3", "-1/2", "a/b", "", "1/0", "env"])
def test_what_is_no_part_is_refused_in_a_line(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _shard(text, {"RANK": "x", "WORLD_SIZE": "2"})
    assert "--shard" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_processes_of_a_machine_take_its_devices_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(devices.torch.cuda, "device_count", lambda: 2)
    assert [str(devices.resolve(f"auto:{rank}")) for rank in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    for variables in ({"LOCAL_RANK": "1"}, {"SLURM_LOCALID": "1"}, {"LOCAL_RANK": "1", "SLURM_LOCALID": "0"}):
        assert devices.for_process("auto", variables) == "auto:1"
        assert devices.for_process("cuda:0", variables) == "cuda:0"
        assert devices.for_process("cpu", variables) == "cpu"
    assert devices.for_process("auto", {"LOCAL_RANK": "x"}) == devices.for_process("auto", {}) == "auto"
    monkeypatch.setattr(devices, "resolve", lambda device: torch.device(device))
    assert devices.for_process("cuda", {"LOCAL_RANK": "1"}) == "auto:1"
    monkeypatch.undo()
    monkeypatch.setattr(devices.torch.cuda, "is_available", lambda: False)
    assert devices.resolve("auto:1") == devices.resolve("auto")
    if not torch.cuda.device_count():
        with pytest.raises(ConfigError, match="'cuda' cannot be used"):
            devices.for_process("cuda", {"LOCAL_RANK": "1"})


def test_a_shard_that_is_none_is_refused_before_anything_is_made(tmp_path: Path, faces: Path) -> None:
    with pytest.raises(ConfigError, match="counted from 1"):
        go(tmp_path, "out", shard=(3, 2))
    assert not os.path.lexists(tmp_path / "out")
