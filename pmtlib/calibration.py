"""Operating points of the networks, measured once over whole protocols and shipped with the package.

Networks differ in where their cosines lie, so a threshold means something for one network only. The file
``pmtlib/data/calibration.json`` keeps, for each network and data set, the thresholds found and how well the network
does there. An entry carries the checksum of the weights it was measured with: of other weights it says nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from pmtlib.errors import ResultError
from pmtlib.images import write_atomic

CALIBRATION_FILE = Path(__file__).resolve().parent / "data" / "calibration.json"
DEFAULT_DATASET = "lfw"
_FORMAT = 1


@dataclass(frozen=True)
class Calibration:
    """How one network does on one verification set, and the thresholds found there (cosine, accept strictly above).

    Attributes:
        network: its name in the zoo.
        dataset: the pair set's name.
        weights: checksum of the network's weights, ``zoo.weights_checksum``.
        fingerprint: of the images and pairs, ``PairSet.fingerprint``.
        n: how many pairs.
        accuracy_mean: mean accuracy over the folds, each at the threshold best on the others.
        accuracy_std: standard deviation over the folds.
        auc: area under the ROC curve.
        eer: equal error rate.
        tar_far_1e2: true acceptance rate at a false acceptance rate of at most 1e-2.
        tar_far_1e3: the same at 1e-3.
        tar_far_1e3_interval: its 95% Wilson interval.
        threshold_accuracy: the threshold of highest accuracy over all pairs.
        threshold_far_1e2: the threshold of ``tar_far_1e2``.
        threshold_far_1e3: the threshold of ``tar_far_1e3``.
    """

    network: str
    dataset: str
    weights: str
    fingerprint: str
    n: int
    accuracy_mean: float
    accuracy_std: float
    auc: float
    eer: float
    tar_far_1e2: float
    tar_far_1e3: float
    tar_far_1e3_interval: tuple[float, float]
    threshold_accuracy: float
    threshold_far_1e2: float
    threshold_far_1e3: float

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class _File:
    format: int
    entries: list[Calibration]

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


def calibrations(path: Path = CALIBRATION_FILE) -> tuple[Calibration, ...]:
    """All entries, sorted by network and data set; none when there is no file.

    Raises:
        ResultError: the file is damaged or of another format.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return ()
    try:
        stored = TypeAdapter(_File).validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        where = f" at {place}" if place else ""
        raise ResultError(
            f"{path}: damaged calibration file ({first['msg']}{where}); write it anew with 'pmt networks --calibrate'"
        ) from error
    if stored.format != _FORMAT:
        raise ResultError(
            f"{path}: calibration format {stored.format}, expected {_FORMAT}; "
            "write it anew with 'pmt networks --calibrate'"
        )
    return _sorted(stored.entries)


def find(
    network: str, dataset: str = DEFAULT_DATASET, *, weights: str | None = None, path: Path = CALIBRATION_FILE
) -> Calibration | None:
    """The entry of a network on a data set, or None when there is none or it is stale.

    Args:
        network: name in the zoo.
        dataset: the pair set's name.
        weights: the checksum of the network's weights now; an entry measured with others is stale. None skips that.
        path: the calibration file.

    Raises:
        ResultError: the file is damaged or of another format.
    """
    for entry in calibrations(path):
        if (entry.network, entry.dataset) == (network, dataset):
            return entry if weights in (None, entry.weights) else None
    return None


def write(entries: Iterable[Calibration], path: Path = CALIBRATION_FILE, *, anew: bool = False) -> None:
    """Replace the entries of the same network and data set and keep all others; the file is whole at any time.

    Args:
        entries: what is stored.
        path: the calibration file.
        anew: where the existing file is damaged or of another format, keep nothing of it.

    Raises:
        ResultError: the existing file is damaged or of another format.
    """
    try:
        kept = calibrations(path)
    except ResultError:
        if not anew:
            raise
        kept = ()
    merged = {(entry.network, entry.dataset): entry for entry in (*kept, *entries)}
    content = {"format": _FORMAT, "entries": [asdict(entry) for entry in _sorted(merged.values())]}
    write_atomic(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def _sorted(entries: Iterable[Calibration]) -> tuple[Calibration, ...]:
    return tuple(sorted(entries, key=lambda entry: (entry.network, entry.dataset)))
