"""Where things are: one function a place, so that the command, the notebooks and the tests agree; and checksums."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from pmtlib.errors import ConfigError

if sys.platform != "win32":
    import fcntl


def _from_env(variable: str) -> Path | None:
    value = os.environ.get(variable, "").strip()
    try:
        return Path(value).expanduser().resolve() if value else None
    except (RuntimeError, OSError, ValueError) as error:
        raise ConfigError(f"{variable} is {value[:200]!r}, which cannot be a folder ({error}); correct it") from error


def data_dir() -> Path | None:
    """Folder of research data sets (``PMT_DATA``), or None."""
    return _from_env("PMT_DATA")


def weights_dir() -> Path | None:
    """Folder of weights that no package index carries (``PMT_WEIGHTS``), or None."""
    return _from_env("PMT_WEIGHTS")


def cache_dir() -> Path:
    """The user's cache: ``PMT_CACHE``, else the platform's cache folder. Not created here."""
    chosen = _from_env("PMT_CACHE")
    if chosen is not None:
        return chosen
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "pmtlib"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", str(Path.home() / "AppData" / "Local"))) / "pmtlib"
    return (_from_env("XDG_CACHE_HOME") or Path.home() / ".cache") / "pmtlib"


def is_cached(path: Path) -> bool:
    """Whether a path is that of a kind of :data:`pmtlib.cache.KINDS`, or below it; the cache may hold other things too,
    where ``PMT_CACHE`` names a folder of the user's."""
    from pmtlib.cache import KINDS

    root = cache_dir()
    return path != root and path.is_relative_to(root) and path.relative_to(root).parts[0] in KINDS


def make_folder(folder: Path) -> None:
    """Make a folder with all above it; in the cache so that only the user can open it and what is made on the way.

    A folder of the cache that others can open, because it is older or came from elsewhere, is closed to them.

    Raises:
        OSError: it cannot be made.
    """
    root = cache_dir()
    if not folder.is_relative_to(root):
        folder.mkdir(parents=True, exist_ok=True)
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    linked, named = False, _from_env("PMT_CACHE") is not None
    for part in reversed([folder, *folder.parents]):
        if part.is_relative_to(root):
            part.mkdir(mode=0o700, exist_ok=True)
            linked = linked or part.is_symlink()
            # What a link points to is not the cache's, and what else is in a folder that the user has named neither.
            if not linked and (is_cached(part) or not named):
                _close(part)


def _close(folder: Path) -> None:
    """Let nobody but the user into a folder of the user's."""
    if sys.platform == "win32":
        return
    with contextlib.suppress(OSError):
        about = folder.stat()
        if about.st_uid == os.geteuid() and stat.S_IMODE(about.st_mode) & 0o077:
            folder.chmod(0o700)


def networks_dir() -> Path:
    """Networks that the user has added: ``PMT_NETWORKS``, else the platform's folder for data. Not created here.

    They are no cache: nothing else holds what is in there.
    """
    chosen = _from_env("PMT_NETWORKS")
    if chosen is not None:
        return chosen
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "pmtlib" / "networks"
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA", str(Path.home() / "AppData" / "Roaming"))) / "pmtlib" / "networks"
    return (_from_env("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "pmtlib" / "networks"


def project_dir() -> Path:
    """The checkout that holds ``notebooks/`` and ``results/``: ``PMT_PROJECT``, the package's parent, or the
    nearest such parent of the working directory."""
    chosen = _from_env("PMT_PROJECT")
    if chosen is not None:
        return chosen
    for folder in (Path(__file__).resolve().parent.parent, Path.cwd(), *Path.cwd().parents):
        if (folder / "notebooks").is_dir() and (folder / "pyproject.toml").is_file():
            return folder
    return Path.cwd()


def results_dir() -> Path:
    """Stored numbers: ``PMT_RESULTS``, else ``results/`` of the project."""
    return _from_env("PMT_RESULTS") or project_dir() / "results"


def check_regular(path: Path) -> None:
    """Refuse what is no file, before it is opened: a pipe would be waited for, and a device read without end.

    Raises:
        OSError: it is none, or there is nothing.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hex.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Let one process at a time do what it does with a folder, or with a file that is made for it.

    On Windows nothing is locked: two processes may do the same work, and each file still appears whole.
    """
    if sys.platform == "win32":
        yield
        return
    handle = os.open(path, os.O_RDONLY) if path.is_dir() else os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
