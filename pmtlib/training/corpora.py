"""What recognition networks are trained on: folders of people, InsightFace RecordIO and WebDataset shards.

Images are read when they are asked for, from where they lie; nothing is unpacked. Workers of a data loader may share a
corpus: each read names its own place in the file.
"""

from __future__ import annotations

import os
import re
import struct
import tarfile
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from pmtlib import datasets
from pmtlib.convert.state import first_line
from pmtlib.datasets import EncodedImages, People
from pmtlib.errors import DatasetError

_MAGIC = 0xCED7230A
_RECORD = struct.Struct("<II")
_HEADER = struct.Struct("<IfQQ")
"""RecordIO's header of an image: how many labels follow, the label where none do, and two numbers of its own."""
_PICTURES = ("jpg", "jpeg", "png", "webp")
# A crop of 112x112 takes some kilobytes; more than this is another kind of file.
_LARGEST = 16 * 2**20
_OPEN_FILES = 64


class Packed(EncodedImages):
    """Encoded images inside large files.

    Args:
        paths: the files.
        place: (M, 3) int64, for each image the index of its file, the offset of its first byte and its length.
    """

    def __init__(self, paths: Sequence[Path], place: NDArray[np.int64]) -> None:
        self.paths, self.place = tuple(paths), place
        self._owner = os.getpid()
        self._open: OrderedDict[int, BinaryIO] = OrderedDict()

    def __len__(self) -> int:
        return len(self.place)

    def name(self, index: int) -> str:
        """The file and where in it the image begins."""
        file, offset, _ = self.place[index]
        return f"{self.paths[file]}, byte {offset}"

    def content(self, index: int) -> bytes:
        """The encoded image."""
        file, offset, size = (int(number) for number in self.place[index])
        source = self._file(file)
        source.seek(offset)
        found = source.read(size)
        if len(found) < size:
            raise DatasetError(f"{self.name(index)}: the file ends within an image. Remedy: copy it again")
        return found

    def _file(self, number: int) -> BinaryIO:
        """An open file of this process: the place in one that a fork shares would be moved by others."""
        if self._owner != os.getpid():
            self._owner, self._open = os.getpid(), OrderedDict()
        if number in self._open:
            self._open.move_to_end(number)
        else:
            if len(self._open) >= _OPEN_FILES:
                self._open.popitem(last=False)[1].close()
            self._open[number] = self.paths[number].open("rb")
        return self._open[number]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": OrderedDict()}


def load_corpus(name_or_path: str | Path) -> People:
    """Load labelled faces for training.

    Args:
        name_or_path: one of

            - a ``.rec`` file of InsightFace's RecordIO with its ``.idx`` beside it, or a folder with ``train.rec``;
            - a ``.tar`` shard of WebDataset (``KEY.jpg`` and ``KEY.cls`` for each image), or a folder of such shards;
            - whatever :func:`pmtlib.datasets.load_people` takes: a set of ``PMT_DATA``, or a folder of people.

    Returns:
        Aligned crops and who they show; of RecordIO and shards, the number of the identity as text.

    Raises:
        DatasetError: there is no such corpus, or it is malformed.
    """
    path = Path(name_or_path).expanduser()
    if path.suffix == ".rec":
        return _record_io(path)
    if path.suffix == ".tar":
        return _shards([path], path.stem)
    if path.is_dir() and (path / "train.rec").is_file():
        return _record_io(path / "train.rec")
    if path.is_dir() and (shards := sorted(path.glob("*.tar"))):
        return _shards(shards, path.name)
    return datasets.load_people(name_or_path)


def _record_io(path: Path) -> People:
    """MXNet's RecordIO as InsightFace writes it: record 0 says how many images there are, from record 1 on."""
    index = path.with_suffix(".idx")
    try:
        lines = index.read_text(encoding="ascii").splitlines()
        offsets = {int(key): int(offset) for key, offset in (line.split("\t") for line in lines if line.strip())}
        if offsets and not 0 <= min(offsets.values()) <= max(offsets.values()) < 2**62:
            raise ValueError("an offset that no file has")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"{index}: cannot be read ({first_line(error)}). Remedy: put it beside {path.name}"
        ) from error
    except ValueError as error:
        raise DatasetError(f"{index}: not lines of a key, a tab and an offset. Remedy: copy it again") from error
    if not offsets:
        raise DatasetError(f"{index} lists no records. Remedy: copy it again")
    place, people = array("q"), []
    try:
        with path.open("rb") as file:
            last = max(offsets) + 1
            if 0 in offsets:
                flag, labels, _, _ = _read_record(file, offsets[0], path)
                if flag > 0:
                    last = int(labels[0])
            for key in sorted(offsets):
                if not 1 <= key < last and not (0 not in offsets and key == 0):
                    continue
                _, labels, start, size = _read_record(file, offsets[key], path)
                place.extend((0, start, size))
                people.append(str(int(labels[0])))
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}). Remedy: copy it again") from error
    if not people:
        raise DatasetError(f"{path} holds no images. Remedy: name the corpus's train.rec")
    return People(path.parent.name or path.stem, Packed([path], _table(place)), tuple(people))


def _read_record(file: BinaryIO, offset: int, path: Path) -> tuple[int, tuple[float, ...], int, int]:
    """Flag and labels of a record, and where its image begins and how long it is."""
    where = f"{path}, byte {offset}"
    file.seek(offset)
    head = file.read(_RECORD.size + _HEADER.size)
    if len(head) < _RECORD.size + _HEADER.size:
        raise DatasetError(f"{where}: the file ends within a record. Remedy: copy it again")
    magic, length = _RECORD.unpack_from(head)
    if magic != _MAGIC:
        raise DatasetError(f"{where}: no record begins there. Remedy: give the .idx that belongs to the .rec")
    if length >> 29:
        raise DatasetError(f"{where}: a record in several parts, which is not read. Remedy: pack the images anew")
    flag, label, _, _ = _HEADER.unpack_from(head, _RECORD.size)
    size, begin = length & (2**29 - 1), offset + _RECORD.size + _HEADER.size
    labels: tuple[float, ...] = (label,)
    if flag > 0:
        if flag > 64 or _HEADER.size + 4 * flag > size:
            raise DatasetError(f"{where}: {flag} labels in a record. Remedy: copy it again")
        labels = struct.unpack(f"<{flag}f", file.read(4 * flag).ljust(4 * flag, b"\0"))
    if size < _HEADER.size:
        raise DatasetError(f"{where}: a record that is shorter than its header. Remedy: copy it again")
    if not np.isfinite(labels[0]):
        raise DatasetError(f"{where}: a label that is no number. Remedy: copy it again")
    return flag, labels, begin + 4 * flag, size - _HEADER.size - 4 * flag


def _shards(paths: Sequence[Path], name: str) -> People:
    place, people = array("q"), []
    for number, path in enumerate(paths):
        pictures: dict[str, tuple[int, int]] = {}
        classes: dict[str, str] = {}
        for key, suffix, start, size in _members(path):
            if suffix in _PICTURES and size <= _LARGEST:
                pictures[key] = (start, size)
            elif suffix == "cls":
                with path.open("rb") as file:
                    file.seek(start)
                    classes[key] = file.read(min(size, 32)).decode("ascii", "replace").strip()
        for key, (start, size) in pictures.items():
            if not re.fullmatch(r"\d{1,18}", classes.get(key, "")):
                raise DatasetError(f"{path}: {key} has no {key}.cls with a number. Remedy: pack the shard anew")
            place.extend((number, start, size))
            people.append(str(int(classes[key])))
    if not people:
        raise DatasetError(f"{paths[0]}: no KEY.jpg with a KEY.cls in it. Remedy: name shards of labelled images")
    return People(name, Packed(paths, _table(place)), tuple(people))


def _members(path: Path) -> Iterator[tuple[str, str, int, int]]:
    """Key, suffix, offset and length of each file of a tar archive; links and folders are passed over."""
    try:
        with tarfile.open(path, "r:") as archive:
            end = 0
            for member in archive:
                if member.size < 0 or member.offset_data < end:
                    # Read on, it would go in circles.
                    raise tarfile.ReadError("a file in it ends before it begins")
                end = member.offset_data + member.size
                folder, _, last = member.name.rpartition("/")
                key, _, suffix = last.partition(".")
                if member.isreg() and not member.issparse():
                    yield f"{folder}/{key}" if folder else key, suffix.lower(), member.offset_data, member.size
            # tarfile takes the end of the file for that of the archive, which has an empty block.
            with path.open("rb") as file:
                file.seek(-(-end // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE)
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError("it is cut off or damaged")
    except (tarfile.TarError, OSError, ValueError, OverflowError, EOFError) as error:
        raise DatasetError(
            f"{path}: not a readable tar archive ({first_line(error)}). Remedy: copy it again"
        ) from error


def _table(place: array[int]) -> NDArray[np.int64]:
    return np.frombuffer(place, dtype=np.int64).reshape(-1, 3).copy()
