"""Networks that the user has added to the zoo: their records and weights, one folder each.

A folder of :func:`pmtlib.paths.networks_dir` holds ``network.json``, the record; ``weights.safetensors``, under the
names of the architecture, or ``model.onnx``; and ``calibration.json``, its operating points. How a network gets there
is in :mod:`pmtlib.adding`; :mod:`pmtlib.zoo` loads it like any other.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from pmtlib import calibration
from pmtlib.calibration import Calibration
from pmtlib.errors import NetworkError
from pmtlib.images import write_atomic
from pmtlib.paths import file_sha256, networks_dir

_FORMAT = 1
_RECORD, _CALIBRATION = "network.json", "calibration.json"
_WEIGHTS, _MODEL = "weights.safetensors", "model.onnx"
ONNX = "onnx"
"""The architecture of a network that is read from its own graph."""


@dataclass(frozen=True)
class AddedNetwork:
    """The record of an added network.

    Attributes:
        name: by which it is asked for.
        architecture: a key of :data:`pmtlib.architectures.ARCHITECTURES`, or :data:`ONNX`.
        publisher: whose conventions its input follows.
        title: the publisher's name of the checkpoint, or the architecture's title.
        embedding: length of the embedding.
        bgr: the network takes blue, green, red.
        mean: subtracted from the images, in 0..255.
        scale: the difference is divided by it.
        columns: columns of the 112-wide crop that the network sees, half open.
        parameters: how many it has.
        training_set: what it was trained on, or "not stated".
        loss: what it was trained with, or "not stated".
        source: the checkpoint's file name.
        source_sha256: the checkpoint's checksum.
        default_cut: units of the shallow model unless another cut is asked for.
        content: SHA-256 of the stored file of the weights; "" until it is stored.
        format: of this record.
    """

    name: str
    architecture: str
    publisher: str
    title: str
    embedding: int
    bgr: bool
    mean: float
    scale: float
    columns: tuple[int, int]
    parameters: int
    training_set: str
    loss: str
    source: str
    source_sha256: str
    default_cut: int
    content: str = ""
    format: int = _FORMAT

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    @property
    def weights(self) -> str:
        """SHA-256 that stands for the network: its weights and how its input is prepared, which is part of it."""
        parts = [self.content, self.architecture, self.bgr, self.mean, self.scale, list(self.columns)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def folder(name: str) -> Path:
    """Where an added network is kept; the folder need not exist."""
    return networks_dir() / name


def weights_path(name: str, architecture: str) -> Path:
    """The weights of an added network: a safetensors file, or the ONNX file itself."""
    return folder(name) / (_MODEL if architecture == ONNX else _WEIGHTS)


def calibration_path(name: str) -> Path:
    """The operating points of an added network."""
    return folder(name) / _CALIBRATION


def names() -> tuple[str, ...]:
    """The added networks, sorted. A folder without a record, left by an interruption, is none."""
    home = networks_dir()
    try:
        # What begins with a dot is being made.
        found = sorted(one.name for one in home.iterdir() if one.name[:1] != "." and (one / _RECORD).is_file())
    except OSError:
        return ()
    return tuple(found)


def exists(name: str) -> bool:
    """Whether there is an added network of that name; a name with a separator in it never is."""
    return name == Path(name).name and (folder(name) / _RECORD).is_file()


def read(name: str) -> AddedNetwork:
    """The record of an added network.

    Raises:
        NetworkError: there is none, or it is damaged.
    """
    path = folder(name) / _RECORD
    try:
        record = TypeAdapter(AddedNetwork).validate_json(path.read_bytes())
    except OSError as error:
        raise NetworkError(f"{path}: cannot be read ({error.strerror}); add the network again") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its text"
        raise NetworkError(
            f"{path}: a damaged record ({where}: {first['msg']}); `pmt networks remove {name}` and add it again"
        ) from error
    if record.format != _FORMAT or record.name != name:
        raise NetworkError(
            f"{path}: not the record of {name} in format {_FORMAT}; `pmt networks remove {name}` and add it again"
        )
    return record


def store(
    record: AddedNetwork, write: Callable[[Path], None], points: Callable[[str], Calibration], *, replacing: bool
) -> AddedNetwork:
    """Store a network: whole or not at all, and an older one of that name stays until the new one is there.

    Args:
        record: what is stored of it.
        write: writes the weights to the path that it is given.
        points: gives its operating points for the checksum that stands for it.
        replacing: an older one of that name is replaced.

    Returns:
        The record as it is stored, with the checksum of the weights.

    Raises:
        NetworkError: there is one of that name by now, and it is not to be replaced.
        OSError: a file cannot be written.
    """
    home = networks_dir()
    home.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=home, prefix=f".{record.name}."))
    try:
        weights = made / weights_path(record.name, record.architecture).name
        write(weights)
        record = replace(record, content=file_sha256(weights))
        calibration.write([points(record.weights)], made / _CALIBRATION)
        write_atomic(made / _RECORD, (json.dumps(asdict(record), indent=1) + "\n").encode())
        if exists(record.name) and not replacing:
            raise NetworkError(f"there is a network {record.name} by now; choose another name, or give --replace")
        _put(made, folder(record.name))
        return record
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _put(made: Path, place: Path) -> None:
    """Rename a folder to a place; one that is there already is put aside until then, and put back where it fails."""
    older = made.with_name(f"{made.name}.older")
    with contextlib.suppress(FileNotFoundError):
        place.replace(older)
    try:
        made.replace(place)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            older.replace(place)
        raise
    shutil.rmtree(older, ignore_errors=True)


def remove(name: str) -> None:
    """Delete an added network, the record first.

    Raises:
        NetworkError: there is none of that name.
    """
    if not exists(name):
        known = ", ".join(names()) or "none"
        raise NetworkError(f"no added network {name!r} to remove; added are {known}")
    (folder(name) / _RECORD).unlink()
    shutil.rmtree(folder(name), ignore_errors=True)
