"""What ``pmt networks`` shows: every network of the zoo, how good it is, and whether its weights are here.

What evaluates is imported where it is called: a list should not wait for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pmtlib import assets, calibration, zoo
from pmtlib.errors import AssetError, NetworkError, ResultError

if TYPE_CHECKING:
    from pmtlib import protocols

CHECK_SETS = ("lfw", "cfp_ff", "samples")
"""Sets on which networks are checked: the first that is at hand."""


@dataclass(frozen=True)
class NetworkInfo:
    """A network of the zoo.

    Attributes:
        name: by which it is asked for.
        parameters: how many it has.
        embedding: length of its embedding.
        training_set: what it was trained on.
        loss: what it was trained with.
        licence: of the weights.
        dataset: on which the following were measured; None where nothing was.
        accuracy: mean 10-fold accuracy.
        accuracy_std: its standard deviation over the folds.
        tar_far_1e3: true acceptance rate at a false acceptance rate of 1e-3.
        threshold: the cosine of highest accuracy.
        present: whether it can be used without a download.
        source: where the weights are, or how to get them.
        note: what a user should know besides.
    """

    name: str
    parameters: int
    embedding: int
    training_set: str
    loss: str
    licence: str
    dataset: str | None
    accuracy: float | None
    accuracy_std: float | None
    tar_far_1e3: float | None
    threshold: float | None
    present: bool
    source: str
    note: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def networks(names: Sequence[str] = ()) -> list[NetworkInfo]:
    """The networks named, or all. Nothing is downloaded, and no weight is read.

    Raises:
        NetworkError: there is no such network.
    """
    return [_info(name) for name in names] if names else [_listed(name) for name in zoo.names()]


def _listed(name: str) -> NetworkInfo:
    """As :func:`_info`, but a damaged added network does not hide the others."""
    try:
        return _info(name)
    except (NetworkError, ResultError) as error:
        return NetworkInfo(name, 0, 0, "", "", "", None, None, None, None, None, False, str(error), "damaged")


def _info(name: str) -> NetworkInfo:
    card = zoo.card(name)
    stored = zoo.calibration(name)
    return NetworkInfo(
        name=name,
        parameters=card.parameters,
        embedding=card.embedding,
        training_set=card.training_set,
        loss=card.loss,
        licence=card.licence,
        dataset=None if stored is None else stored.dataset,
        accuracy=None if stored is None else stored.accuracy_mean,
        accuracy_std=None if stored is None else stored.accuracy_std,
        tar_far_1e3=None if stored is None else stored.tar_far_1e3,
        threshold=None if stored is None else stored.threshold_accuracy,
        present=is_present(name),
        source=_source(card),
        note=card.note,
    )


def is_present(name: str) -> bool:
    """Whether a network can be loaded without a download.

    Raises:
        NetworkError: there is no such network.
    """
    if zoo.is_added(name):
        try:
            return zoo.converted_path(name).is_file()
        except NetworkError:
            return False
    return zoo.converted_path(name).is_file() or all(assets.available(asset) for asset in zoo.card(name).assets)


def _source(card: zoo.NetworkCard) -> str:
    if is_present(card.name):
        return "present"
    if zoo.is_added(card.name):
        return f"its weights are gone: pmt networks remove {card.name}, and add it again"
    missing = [name for name in card.assets if not assets.available(name)]
    if all(assets.obtainable(name) for name in missing):
        return f"pmt assets fetch {' '.join(missing)}"
    return f"put {', '.join(missing)} into PMT_WEIGHTS"


@dataclass(frozen=True)
class Check:
    """How a network does on a set now, beside what is stored.

    Attributes:
        name: the network.
        dataset: the set.
        measured: the figures; None where it was refused or is not at hand.
        stored: the shipped figures of the same network and set, if any.
        refused: why it must not be used; "" if it may.
        absent: why it was not checked; "" if it was.
    """

    name: str
    dataset: str
    measured: protocols.Verification | None = None
    stored: calibration.Calibration | None = None
    refused: str = ""
    absent: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "name": self.name,
            "dataset": self.dataset,
            "measured": None if self.measured is None else self.measured.to_dict(),
            "stored": None if self.stored is None else asdict(self.stored),
            "refused": self.refused or None,
            "absent": self.absent or None,
        }


def check(
    names: Sequence[str] = (), dataset: str | None = None, *, device: str = "auto", show: bool = True
) -> Iterator[Check]:
    """Verify with the networks named, or with all whose weights can be had; a network at chance is refused.

    Args:
        names: networks.
        dataset: a verification set; None for the first of :data:`CHECK_SETS` that is at hand.
        device: where to compute.
        show: draw progress bars on standard error.

    Raises:
        NetworkError: there is no such network, or one that was named is damaged.
        DatasetError: the set is absent or damaged.
        AssetError: the weights of a network that was named cannot be had.
    """
    from pmtlib import datasets, protocols

    for name in names:
        zoo.card(name)
    chosen = dataset or next((name for name in CHECK_SETS if datasets.available(name)), CHECK_SETS[-1])
    pairset = datasets.load(chosen)
    for name in names:
        # Before the first is measured, whose figures an error would take with it.
        zoo.load(name)
    for name in names or zoo.names():
        stored = None
        try:
            stored = zoo.calibration(name, pairset.name)
            measured = protocols.check(name, pairset, device=device, progress=show)
        except NetworkError as error:
            yield Check(name, pairset.name, stored=stored, refused=str(error))
        except (AssetError, ResultError) as error:
            yield Check(name, pairset.name, stored=stored, absent=str(error))
        else:
            yield Check(name, pairset.name, measured, stored)


def calibrate(names: Sequence[str] = (), sets: Sequence[str] = (), *, device: str = "auto", show: bool = True) -> int:
    """Measure the networks named, or all whose weights can be had, anew; how many figures are stored now.

    Raises:
        DatasetError: no set of whole protocols is at hand.
        PMTError: as :func:`pmtlib.protocols.calibrate`.
    """
    from pmtlib import datasets, protocols

    whole = tuple(sets) or tuple(name for name in CHECK_SETS[:2] if datasets.available(name)) or CHECK_SETS[:1]
    chosen = tuple(names) or tuple(name for name in zoo.names() if zoo.available(name))
    return len(protocols.calibrate(chosen, whole, device=device, progress=show, recompute=True))
