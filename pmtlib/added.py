"""Networks that the user has added to the zoo: their records and weights, one folder each.

A folder of :func:`pmtlib.paths.networks_dir` holds ``network.json``, the record; ``weights.safetensors``, under the
names of the architecture, or ``model.onnx``; and ``calibration.json``, its operating points. How a network gets there
is in :mod:`pmtlib.adding`; :mod:`pmtlib.zoo` loads it like any other.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from pmtlib.errors import NetworkError
from pmtlib.images import write_atomic
from pmtlib.paths import networks_dir

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
        weights: checksum of the stored weights.
        default_cut: units of the shallow model unless another cut is asked for.
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
    weights: str
    default_cut: int = 5
    format: int = _FORMAT

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)


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
        found = sorted(entry.name for entry in home.iterdir() if (entry / _RECORD).is_file())
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


def write_record(record: AddedNetwork) -> None:
    """Store a record, the last step of adding: with it the network is there, without it it is not.

    Raises:
        OSError: the file cannot be written.
    """
    write_atomic(folder(record.name) / _RECORD, (json.dumps(asdict(record), indent=1) + "\n").encode())


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
