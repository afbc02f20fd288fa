"""Images at the edges, devices, paths, progress and provenance."""

from __future__ import annotations

import ctypes
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pmtlib
from pmtlib import devices, images, memory, paths, progress, provenance
from pmtlib.errors import ConfigError
from pmtlib.progress import progress_bar


def test_every_8_bit_value_survives_the_tensor_and_the_png():
    picture = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    picture[..., 1] = 255 - picture[..., 1]
    tensor = images.to_tensor(picture)
    assert tensor.shape == (1, 3, 16, 16)
    assert tensor.dtype == torch.float32
    assert (images.to_uint8(tensor)[0] == picture).all()
    assert torch.equal(images.quantise(tensor), tensor)
    data = images.png_bytes(picture)
    assert data == images.png_bytes(picture.copy())
    opened = Image.open(io.BytesIO(data))
    assert (np.asarray(opened) == picture).all()
    assert not opened.info


def test_quantise_is_what_the_png_holds():
    tensor = torch.rand(2, 3, 9, 7, generator=torch.Generator().manual_seed(0)) * 1.2 - 0.1
    saved = [np.asarray(Image.open(io.BytesIO(images.png_bytes(image)))) for image in images.to_uint8(tensor)]
    assert torch.equal(images.to_tensor(np.stack(saved)), images.quantise(tensor))


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 4), np.uint8)]
)
def test_other_arrays_are_refused(bad):
    with pytest.raises(ValueError, match="8-bit RGB"):
        images.to_tensor([bad])


def test_a_read_only_array_is_taken_without_a_warning(recwarn):
    picture = np.zeros((4, 4, 3), np.uint8)
    picture.setflags(write=False)
    images.to_tensor(picture)
    assert not recwarn.list


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.png"
    images.write_atomic(target, b"old")
    with pytest.raises(TypeError):
        images.write_atomic(target, "not bytes")  # type: ignore[arg-type]
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_an_interruption_just_when_a_file_is_made_leaves_none(tmp_path, monkeypatch):
    make = images._make

    def interrupted(path, mode):
        os.close(make(path, mode))
        raise KeyboardInterrupt

    monkeypatch.setattr(images, "_make", interrupted)
    with pytest.raises(KeyboardInterrupt):
        images.write_atomic(tmp_path / "a.png", b"new")
    assert not list(tmp_path.iterdir())


def test_a_file_of_somebody_elses_with_the_same_unfinished_name_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(images.secrets, "token_hex", lambda count: "0" * 2 * count)
    theirs = tmp_path / ".a.png.00000000.part"
    theirs.write_bytes(b"theirs")
    with pytest.raises(FileExistsError):
        images.write_atomic(tmp_path / "a.png", b"new")
    assert theirs.read_bytes() == b"theirs"
    images.sweep(tmp_path, ["a.png"])
    assert not list(tmp_path.iterdir())


def test_batches_cover_everything_once():
    covered = [i for part in images.batches(10, 4) for i in range(10)[part]]
    assert covered == list(range(10))


def test_devices():
    assert devices.resolve("cpu") == torch.device("cpu")
    assert devices.resolve("auto").type in ("cpu", "cuda", "mps")
    assert devices.describe(torch.device("cpu")) == "cpu"
    for name in ("gpu0", "cuda:99"):
        with pytest.raises(ConfigError, match="try --device cpu") as caught:
            devices.resolve(name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("vectors", "device", "precision", "crawls"),
    [
        ("AVX2", "cpu", "bfloat16", True),
        ("AVX2", "cpu", "float16", True),
        ("AVX2", "cpu", "float32", False),
        ("AVX512", "cpu", "bfloat16", False),
        ("AVX2", "meta", "bfloat16", False),
    ],
)
def test_a_processor_without_instructions_for_half_precision_is_known(monkeypatch, vectors, device, precision, crawls):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: vectors)
    assert devices.crawls(torch.device(device), precision) is crawls


@pytest.mark.parametrize("state", ["none", "newer", "high", "older"])
def test_float32_is_exact_whichever_way_torch_was_told_otherwise_and_stays_so_told(state):
    """In a process of its own: what torch was told cannot all be taken back."""
    script = """
import sys, torch
from pmtlib.randomness import reproducible
cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
def read(what):
    try:
        return what()
    except RuntimeError:
        return "mixed"
def told():
    newer = [part.fp32_precision for part in (matmul, cudnn.conv, cudnn.rnn)] if hasattr(cudnn, "conv") else []
    older = [read(lambda: matmul.allow_tf32), read(lambda: cudnn.allow_tf32), read(torch.get_float32_matmul_precision)]
    return [*newer, *older, cudnn.benchmark, cudnn.deterministic]
if sys.argv[1] == "newer":
    torch.backends.fp32_precision = "tf32"
elif sys.argv[1] == "high":
    torch.set_float32_matmul_precision("high")
    cudnn.benchmark = True
elif sys.argv[1] == "older":
    matmul.allow_tf32, cudnn.allow_tf32 = True, False
before = told()
with reproducible():
    inside = told()
assert told() == before, (before, told())
*newer, matmul_allowed, cudnn_allowed, precision, benchmark, deterministic = inside
assert set(newer) <= {"ieee"} and not matmul_allowed and not cudnn_allowed and precision == "highest", inside
assert deterministic and not benchmark
"""
    if state == "newer" and not hasattr(torch.backends, "fp32_precision"):
        pytest.skip("this torch knows the older way alone")
    done = subprocess.run([sys.executable, "-c", script, state], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_is_no_file_is_refused_before_it_is_opened(tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "link").symlink_to("a")
    paths.check_regular(tmp_path / "link")
    for place in (tmp_path, Path(os.devnull)):
        with pytest.raises(OSError, match="not a regular file"):
            paths.check_regular(place)
    with pytest.raises(FileNotFoundError):
        paths.check_regular(tmp_path / "absent")


def test_a_folder_of_the_environment_that_cannot_be_is_named(monkeypatch):
    monkeypatch.setenv("PMT_CACHE", "~nobody-of-that-name/x")
    with pytest.raises(ConfigError, match=r"PMT_CACHE is '~nobody-of-that-name/x', which cannot be a folder"):
        paths.cache_dir()


def test_paths_come_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("PMT_DATA", str(tmp_path))
    monkeypatch.setenv("PMT_CACHE", str(tmp_path / "c"))
    monkeypatch.setenv("PMT_RESULTS", str(tmp_path / "r"))
    assert paths.data_dir() == tmp_path.resolve()
    assert paths.cache_dir().name == "c"
    assert paths.results_dir().name == "r"
    monkeypatch.setenv("PMT_DATA", " ")
    assert paths.data_dir() is None
    monkeypatch.delenv("PMT_RESULTS")
    monkeypatch.delenv("PMT_PROJECT", raising=False)
    assert paths.results_dir() == paths.project_dir() / "results"


def test_the_bar_counts_and_is_silent_when_asked(capsys):
    with progress_bar("work", 3) as advance:
        advance(3)
    with progress_bar("work", 3, show=False) as advance:
        advance(3)
    assert capsys.readouterr().out == ""


def test_in_a_log_there_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    with progress_bar("work", 3) as advance:
        advance(1)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "_LOGGED_EVERY", 0.0)
    with progress_bar("work", 3) as advance:
        advance(1)
        advance(2)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("work: 1 of 3, about 0 s left")


def test_a_manifest_says_what_ran_and_names_no_place():
    made = provenance.manifest(["mobilefacenet"], torch.device("cpu"), seconds=1.26, command="c")
    text = json.dumps(made)
    assert made["seconds"] == 1.3
    assert (
        made["packages"]["torch"] == torch.__version__.split("+")[0] or made["packages"]["torch"] == torch.__version__
    )
    assert made["pmtlib"] == pmtlib.__version__
    assert str(paths.project_dir()) not in text
    assert len(made["weights"]["mobilefacenet"]) >= 16


def test_the_public_names_are_there_and_importing_is_light():
    for name in pmtlib.__all__:
        assert getattr(pmtlib, name) is not None
        assert name in dir(pmtlib)
    with pytest.raises(AttributeError, match="no attribute 'protekt'"):
        _ = pmtlib.protekt
    code = "import sys, pmtlib; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_a_killed_writer_left_is_swept_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "n" * 60
    names = ["a.png", f"{long}.png", "a-face2.png"]
    with monkeypatch.context() as killed:
        # As SIGKILL leaves it: neither put in place nor taken away.
        killed.setattr(Path, "replace", lambda *_: None)
        for name in names:
            images.write_atomic(tmp_path / name, b"half")
    assert len(list(tmp_path.glob(".*.part"))) == len(names)
    others = [".b.png.abcd1234.part", ".a.png.part", "a.png.abcd1234.part", ".a.png.ABCD1234.part", "a.png"]
    for name in others:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / ".a.png.folder00.part").mkdir()
    images.sweep(tmp_path, ["a.", "a-face", f"{long}."])
    assert {path.name for path in tmp_path.iterdir()} == {*others, ".a.png.folder00.part"}
    images.sweep(tmp_path / "absent", ["a."])


_TAKEN = """
import ctypes, resource, sys
# In pages of 4 KB, however the system is set: PR_SET_THP_DISABLE.
assert ctypes.CDLL(None).prctl(41, 1, 0, 0, 0) == 0
from pmtlib import memory
if sys.argv[1] == "kept":
    assert memory.keep()
import torch

def step():
    # Larger than what glibc keeps by itself.
    first = torch.ones(10 << 20)
    return torch.ones(12 << 20) if len(first) else None

taken = []
# Many, for a system that is short of memory takes pages back meanwhile.
for _ in range(60):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
    taken.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(taken))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_memory_that_is_kept_is_not_taken_from_the_system_again():
    pages = {}
    for how in ("kept", "as it is"):
        environment = {name: value for name, value in os.environ.items() if name not in memory._VARIABLES}
        done = subprocess.run(
            [sys.executable, "-c", _TAKEN, how], capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr
        pages[how] = float(done.stdout)
    assert pages["as it is"] > 1000
    assert pages["kept"] < 100


def test_keeping_memory_takes_what_a_library_gives_and_leaves_what_the_environment_says(monkeypatch):
    asked = []
    most = [1 << 30]

    class Library:
        @staticmethod
        def mallopt(number, size):
            asked.append((number, size))
            return int(number == -1 or size <= most[0])

    monkeypatch.setattr(ctypes, "CDLL", lambda _name: Library)
    monkeypatch.setattr(sys, "platform", "linux")
    for name in (memory.LARGE_PAGES, *memory._VARIABLES):
        # Set first, so that it is as it was afterwards.
        monkeypatch.setenv(name, "0")
        monkeypatch.delenv(name)
    assert memory.keep()
    assert asked == [(-3, 256 << 20), (-1, 1 << 30)]
    assert os.environ[memory.LARGE_PAGES] == "1"
    # An older glibc, and one that takes nothing: nothing else is set there.
    for limit, taken, then in ((32 << 20, True, [(-3, 32 << 20), (-1, 1 << 30)]), (0, False, [(-3, 32 << 20)])):
        asked.clear()
        most[0] = limit
        assert memory.keep() == taken
        assert asked == [(-3, 256 << 20), *then]
    asked.clear()
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    monkeypatch.setenv(memory.LARGE_PAGES, "0")
    assert not memory.keep()
    assert not asked
    assert os.environ[memory.LARGE_PAGES] == "0"
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_")
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    assert not memory.keep()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not memory.keep()


def test_the_command_keeps_memory_before_torch_is_imported():
    program = (
        "import sys; from pmtlib import memory, __main__ as command; sys.argv = ['pmt', '--help'];"
        "memory.keep = lambda: print('torch' in sys.modules); command.main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[0] == "False"
