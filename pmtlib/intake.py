"""Which photographs a user means, and what their results are called.

Names come from the paths alone, in a fixed order, so that the same folder gives the same names on every machine. No
two photographs share a name, whatever the file system thinks of upper and lower case.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pmtlib.errors import PhotoError, one_line

PICTURES = frozenset(
    {".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
)
"""Suffixes of the files that are taken from a folder; others in it are counted and left alone."""


@dataclass(frozen=True)
class Photo:
    """One input of a run.

    Attributes:
        path: where it is.
        name: its name in the report: relative to the folder that was given, or the name of the file that was given.
        source: a hash of where it lies. It tells a changed photograph from another one of the same name. A reader of
            the report who guesses the path can confirm it: the report is not to be sent along with the uploads.
        target: its results' path below the output folder, without ``.png``; never absolute, never with ``..``.
        fault: why it cannot be read, as far as that is known without opening it; "" where nothing speaks against it.
        uri: its address, where it is no file here; "" where it is.
    """

    path: Path
    name: str
    source: str
    target: str
    fault: str = ""
    uri: str = ""


@dataclass
class Found:
    """What :func:`collect` found.

    Attributes:
        entries: paths, each file once, in the order of the arguments and sorted within a folder.
        ignored: files of folders that are no pictures by their suffix. Hidden files are not counted.
    """

    entries: list[Entry] = field(default_factory=list)
    ignored: int = 0


@dataclass(frozen=True)
class Entry:
    """A file, the folder it was found through, why it cannot be used if that shows already, and its address if any."""

    path: Path
    root: str
    relative: PurePosixPath
    fault: str = ""
    uri: str = ""


def collect(arguments: Sequence[Path], out: Path | None, outputs: Collection[str] = (), *, some: bool = True) -> Found:
    """The files behind the arguments: files as they are, folders with all below them.

    Links are followed, each folder and each file is visited once. The output folder and its earlier ``outputs``
    (paths below it) are never inputs. ``out`` is None where the results go to no folder here.

    Raises:
        PhotoError: ``some`` argument has to exist and none does, or an argument is the output folder itself.
    """
    if some and not any(os.path.lexists(argument) for argument in arguments):
        raise PhotoError(f"no such file or folder: {', '.join(map(shown, arguments))}; check the spelling")
    results = None if out is None else os.path.realpath(out)
    seen = set() if out is None else {os.path.realpath(out), *(os.path.realpath(out / output) for output in outputs)}
    found = Found()
    for argument in arguments:
        if not os.path.isdir(argument):  # noqa: PTH112 -- pathlib raises for a name that is too long
            _add_file(found, seen, argument, Path(os.path.realpath(argument)).parent.name, PurePosixPath(argument.name))
        elif os.path.realpath(argument) == results:
            raise PhotoError(f"{shown(argument)} is both input and --out; give another folder for the results")
        else:
            root = Path(os.path.realpath(argument)).name
            for path, relative in _walk(argument, PurePosixPath(), seen, found):
                _add_file(found, seen, path, root, relative)
    return found


def plan(
    entries: Sequence[Entry],
    out: Path,
    earlier: Mapping[str, str],
    in_use: Collection[str],
    recognise: Callable[[Entry, str], str | None] = lambda _entry, _name: None,
) -> list[Photo]:
    """Give each file its name in the report and the path of its results.

    The results of ``holiday/beach.jpg`` are ``holiday/beach``. Where two inputs would share that, both keep their
    suffix (``beach.jpg``, ``beach.png``); where that is not enough, the later one is numbered (``beach.jpg~2``).

    Args:
        entries: of :func:`collect`.
        out: the output folder.
        earlier: target by source, of an earlier run; a photograph keeps its name when others join it.
        in_use: targets of an earlier run; a name in use is not given to another photograph.
        recognise: the earlier target of an entry, by its name, whose file was moved as a whole; None if it is new.
    """
    names = _names(entries)
    sources = [source_of(entry.uri or entry.path) for entry in entries]
    claims = _Claims(out, entries)
    for target in in_use:
        claims.add(target)
    targets: dict[int, str] = {}
    kept: set[str] = set()
    for i, (entry, name, source) in enumerate(zip(entries, names, sources, strict=True)):
        known = earlier.get(source) or recognise(entry, name)
        if known is not None and known not in kept:
            targets[i] = known
            kept.add(known)
            claims.add(known)
    stems = Counter(_fold(_stem(name)) for i, name in enumerate(names) if i not in targets)
    for i, name in enumerate(names):
        if i not in targets:
            stem = [_stem(name)] if stems[_fold(_stem(name))] == 1 else []
            numbered = (f"{name}~{number}" for number in itertools.count(2))
            targets[i] = next(filter(claims.free, itertools.chain(stem, [name], numbered)))
            claims.add(targets[i])
    return [
        Photo(entry.path, name, source, targets[i], entry.fault, entry.uri)
        for i, (entry, name, source) in enumerate(zip(entries, names, sources, strict=True))
    ]


class _Claims:
    """Targets that are in use, and the test whether one more can join them."""

    def __init__(self, out: Path, entries: Iterable[Entry]) -> None:
        self._out = Path(os.path.realpath(out))
        self._inputs = {os.path.realpath(entry.path) for entry in entries if not entry.uri}
        self._names: set[str] = set()
        self._faced: set[str] = set()

    def add(self, target: str) -> None:
        key = _fold(target)
        self._names.add(key)
        if match := _FACE.fullmatch(key):
            self._faced.add(match[1])

    def free(self, target: str) -> bool:
        key = _fold(target)
        if key in self._names or os.path.realpath(self._out / f"{target}.png") in self._inputs:
            return False
        # The second face of "a" is "a-face2", which a photograph may be called as well.
        match = _FACE.fullmatch(key)
        return key not in self._faced and not (match and match[1] in self._names)


def source_of(path: Path | str) -> str:
    """A hash of where a file lies, 16 hexadecimal digits; of an address, text, as it stands."""
    place = path if isinstance(path, str) else os.path.realpath(path)
    return hashlib.sha256(os.fsencode(place)).hexdigest()[:16]


def shown(name: str | Path | PurePosixPath) -> str:
    """A file name fit for one line of a terminal: control characters and undecodable bytes are spelled out."""
    return one_line(str(name))


def is_safe(relative: str) -> bool:
    """Whether a path written in a report stays below the folder of the report."""
    path = PurePosixPath(relative)
    return bool(relative) and "\0" not in relative and not path.is_absolute() and ".." not in path.parts


_FACE = re.compile(r"(.+)-face\d+", re.DOTALL)


def _fold(name: str) -> str:
    """Equal for names that some file system takes for the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _stem(name: str) -> str:
    return name.removesuffix(PurePosixPath(name).suffix)


def _names(entries: Sequence[Entry]) -> list[str]:
    """Relative paths; where folders that were given hold equal ones, these begin with their folder's name."""
    names = [_text(entry.relative) for entry in entries]
    count = Counter(map(_fold, names))
    return [
        _text(PurePosixPath(entry.root) / entry.relative) if count[_fold(name)] > 1 else name
        for entry, name in zip(entries, names, strict=True)
    ]


def _text(path: PurePosixPath) -> str:
    """A path as text that can be encoded; bytes that are no UTF-8 are spelled out."""
    return os.fsencode(str(path)).decode("utf-8", "backslashreplace")


def _add_file(found: Found, seen: set[str], path: Path, root: str, relative: PurePosixPath) -> None:
    resolved, fault = os.path.realpath(path), ""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            fault = "is not a regular file; name a photograph"
    except OSError as error:
        fault = f"cannot be read ({error.strerror}); check the path, the link and the permissions"
    if resolved not in seen:
        seen.add(resolved)
        found.entries.append(Entry(path, root, relative, fault))


def _walk(top: Path, start: PurePosixPath, seen: set[str], found: Found) -> Iterator[tuple[Path, PurePosixPath]]:
    """Pictures below a folder, its own first, sorted by name; hidden files and folders are left out."""
    # No recursion: folders may lie deeper in each other than Python's stack is high.
    waiting = [(top, start, os.path.realpath(top))]
    while waiting:
        folder, relative, resolved = waiting.pop()
        if resolved in seen:
            continue
        seen.add(resolved)
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            fault = f"the folder cannot be listed ({error.strerror}); check its permissions"
            found.entries.append(Entry(folder, Path(resolved).name, relative, fault))
            continue
        folders = []
        for entry in entries:
            path, name = folder / entry.name, relative / entry.name
            if entry.name.startswith("."):
                continue
            # The functions of os.path: pathlib's raise where permissions or a path's length forbid to look.
            if os.path.isdir(path):  # noqa: PTH112
                # Resolved as a whole, each level would be looked at once more for every level below it.
                inside = os.path.realpath(path) if entry.is_symlink() else f"{resolved}{os.sep}{entry.name}"
                folders.append((path, name, inside))
            elif path.suffix.lower() in PICTURES and _may_be_file(path):
                yield path, name
            else:
                found.ignored += 1
        waiting += reversed(folders)


def _may_be_file(path: Path) -> bool:
    """Whether a path is a file or a link, or cannot be looked at, which the report then says."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return True
    return stat.S_ISREG(mode) or stat.S_ISLNK(mode)
