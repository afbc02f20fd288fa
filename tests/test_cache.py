"""What is kept on the user's machine: who can read it, how to be rid of it, and that no photograph is among it."""

from __future__ import annotations

import ast
import json
import os
import socket
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from pmtlib import cache, paths, pipeline
from pmtlib.errors import ConfigError, ResultError
from pmtlib.images import write_atomic
from pmtlib.transform import PMTConfig
from tests import photographs
from tests.photographs import NETWORK

ROOT = Path(__file__).parent.parent


@pytest.fixture
def empty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("PMT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fill(folder: Path) -> None:
    for kind, size in (("pairs", 10), ("head", 20)):
        (folder / kind / "deep").mkdir(parents=True)
        (folder / kind / "deep" / "file").write_bytes(b"x" * size)
    (folder / "mine.txt").write_text("not pmtlib's")


def test_folders_are_the_users_alone(empty: Path) -> None:
    assert cache.folder("head") == empty / "head"
    assert not empty.exists()
    write_atomic(cache.folder("head") / "deep" / "file", b"x")
    for folder in (empty, empty / "head", empty / "head" / "deep"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.skipif(sys.platform == "win32", reason="has no such permissions")
def test_folders_and_files_that_others_can_open_are_closed_to_them(
    empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier version's, or made by hand; but no folder that PMT_CACHE names, and nothing that a link points to."""
    mine, elsewhere = empty / "mine", tmp_path / "elsewhere"
    for folder in (empty / "head" / "deep", empty / "pairs", mine, elsewhere / "deep"):
        folder.mkdir(parents=True)
    (empty / "recface").symlink_to(elsewhere)
    for folder in (tmp_path, empty, *empty.rglob("*"), elsewhere, elsewhere / "deep"):
        folder.chmod(0o755)
    (empty / "head" / "deep" / "file").write_bytes(b"old")
    for path in ("head/deep/file", "recface/deep/file", "mine/file"):
        write_atomic(empty / path, b"x")

    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    assert {mode(empty / "head"), mode(empty / "head" / "deep")} == {0o700}
    assert mode(empty / "head" / "deep" / "file") == 0o600
    # Nothing was written into this one.
    assert mode(empty / "pairs") == 0o755
    assert {mode(folder) for folder in (tmp_path, empty, mine, elsewhere, elsewhere / "deep")} == {0o755}
    umask = os.umask(0o022)
    try:
        write_atomic(mine / "file", b"x")
        write_atomic(tmp_path / "file", b"x")
    finally:
        os.umask(umask)
    assert {mode(mine / "file"), mode(tmp_path / "file")} == {0o644}
    # The umask is the whole process's: to look at it is to change it, for other threads too.
    with monkeypatch.context() as patched:
        patched.setattr(os, "umask", lambda _: pytest.fail("changed for all threads"))
        write_atomic(mine / "file", b"x")
    # The platform's own folder for the cache holds nothing else.
    monkeypatch.delenv("PMT_CACHE")
    monkeypatch.setattr(paths, "cache_dir", lambda: empty)
    write_atomic(empty / "head" / "file", b"x")
    assert mode(empty) == 0o700
    assert mode(tmp_path) == 0o755


@pytest.mark.skipif(sys.platform == "win32", reason="has no such permissions")
def test_a_folder_of_somebody_else_is_left_as_it_is(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (empty / "head").mkdir(parents=True)
    (empty / "head").chmod(0o755)
    monkeypatch.setattr(os, "geteuid", lambda: empty.stat().st_uid + 1)
    paths.make_folder(empty / "head")
    assert stat.S_IMODE((empty / "head").stat().st_mode) == 0o755
    monkeypatch.undo()
    monkeypatch.setenv("PMT_CACHE", str(empty))

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refuse)
    paths.make_folder(empty / "head")


def test_what_is_there_is_counted_and_deleted_by_kind(empty: Path) -> None:
    fill(empty)
    assert {one for one in cache.usage() if one.files} == {("pairs", 1, 10), ("head", 1, 20)}
    assert cache.clear(["head", "head"]) == [("head", 1, 20)]
    assert not (empty / "head").exists()
    assert (empty / "pairs" / "deep" / "file").exists()
    cache.clear()
    assert [path.name for path in empty.iterdir()] == ["mine.txt"]


def test_what_a_link_points_to_is_not_the_caches(empty: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_text("kept")
    empty.mkdir()
    (empty / "pairs").symlink_to(tmp_path / "elsewhere")
    cache.clear(["pairs"])
    assert not (empty / "pairs").is_symlink()
    assert (tmp_path / "elsewhere" / "file").read_text() == "kept"


def test_an_unknown_kind_and_what_cannot_be_deleted_are_said(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(empty)
    with pytest.raises(ConfigError, match=r"nothing called '\.\.' is cached; there are assets, "):
        cache.clear(["pairs", ".."])
    assert (empty / "pairs").exists()

    def refuse(place: Path) -> None:
        raise PermissionError(13, "Permission denied", str(place))

    monkeypatch.setattr(cache.shutil, "rmtree", refuse)
    with pytest.raises(ResultError, match=r"pairs cannot be deleted \(Permission denied\)\. Remedy"):
        cache.clear(["pairs"])


def test_the_command_lists_and_clears(empty: Path, pmt: Any) -> None:
    fill(empty)
    listed = pmt("cache")
    assert listed.code == 0
    assert all(kind in listed.out for kind in cache.KINDS)
    assert str(empty) in listed.out
    found = json.loads(pmt("cache", "--json").out)
    assert {one["kind"]: one["size"] for one in found["kinds"] if one["files"]} == {"pairs": 10, "head": 20}
    assert pmt("cache", "clear", "pairs").out == "1 file deleted, 0.0 MB\n"
    wrong = pmt("cache", "clear", "everything")
    assert (wrong.code, wrong.err.count("\n")) == (2, 1)
    assert (empty / "head").exists()


def test_every_use_of_the_cache_goes_through_a_kind() -> None:
    """A folder that nobody lists cannot be cleared."""
    used = set()
    for file in (ROOT / "pmtlib").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            words = ast.unparse(node.func)
            assert words != "cache_dir" or file.name in ("cache.py", "paths.py", "assets.py", "runner.py"), file
            assert words != "paths.cache_dir" or file.name == "cli.py", file
            if words == "cache.folder" and isinstance(node.args[0], ast.Constant):
                used.add(node.args[0].value)
    assert used <= set(cache.KINDS)
    assert {"converted", "protected", "pairs", "translator"} <= used


def test_protecting_and_verifying_leave_nothing_in_the_cache_and_use_no_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pmt: Any
) -> None:
    photographs.ready()
    photographs.pair(tmp_path / "in" / "two.png")
    kept = tmp_path / "cache"
    kept.mkdir()
    for kind in ("assets", "converted"):
        (kept / kind).symlink_to(paths.cache_dir() / kind)
    monkeypatch.setenv("PMT_CACHE", str(kept))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was tried")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("create_connection", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    job = pipeline.Job(
        photos=[tmp_path / "in"], authorised=[NETWORK], out=tmp_path / "out", device="cpu",
        config=PMTConfig(steps=1, batch_size=2),
    )  # fmt: skip
    assert pipeline.run(job, show=False).done == 2
    verified = pmt("verify", tmp_path / "in" / "two.png", tmp_path / "out" / "two.png", "-n", NETWORK)
    assert verified.code in (0, 1), verified.err
    assert {"two.png", "two-face2.png"} <= {path.name for path in (tmp_path / "out").iterdir()}
    for arguments in (["networks"], ["assets", "list"], ["config"], ["cache"]):
        done = pmt(*arguments)
        assert done.code == 0, done.err
    # Loops for the processor are the program's: nothing of a photograph is in them.
    assert {path.name for path in kept.iterdir()} - {"loops"} == {"assets", "converted"}
    assert all(path.suffix == ".so" for path in (kept / "loops").glob("*"))
