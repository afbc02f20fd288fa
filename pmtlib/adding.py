"""Adding a network to the zoo from a checkpoint: recognise it, verify with it, keep it if it recognises people."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from pmtlib import added, calibration, converted, datasets, devices, metrics, protocols, zoo
from pmtlib.architectures import Options, Publisher, Recognised, recognise, valid_name
from pmtlib.errors import NetworkError
from pmtlib.inventory import CHECK_SETS
from pmtlib.networks.base import FaceNetwork

Channels = Literal["auto", "rgb", "bgr"]
RESERVED = ("add", "list", "remove")
"""Words of ``pmt networks``, which no network may be called."""
ORDER_PAIRS = 600
"""Pairs on which both channel orders are tried."""


@dataclass(frozen=True)
class Addition:
    """A network that was added.

    Attributes:
        record: what is stored of it.
        measured: how it does on the verification set.
        orders: area under the ROC curve by channel order, on :data:`ORDER_PAIRS` pairs, where both were tried.
        published: the publisher's accuracy on LFW, a share, where the file is a public one.
        ignored: how many tensors of the training were left out.
        note: what a reader of the figures has to know.
    """

    record: added.AddedNetwork
    measured: protocols.Verification
    orders: Mapping[str, float]
    published: float | None = None
    ignored: int = 0
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            **asdict(self.record),
            "measured": self.measured.to_dict(),
            "orders": dict(self.orders),
            "published_lfw": self.published,
            "ignored": self.ignored,
            "note": self.note or None,
        }


def add_checkpoint(
    path: Path,
    publisher: Publisher,
    name: str,
    *,
    channels: Channels = "auto",
    dataset: str | None = None,
    device: str = "auto",
    replacing: bool = False,
    show: bool = True,
) -> Addition:
    """Add the network of a checkpoint to the zoo under a name of one's own.

    The architecture is recognised from the tensors (:func:`pmtlib.architectures.recognise`). The channel order is the
    one that is asked for; else that of the public file of this name; else the better of both on
    :data:`ORDER_PAIRS` pairs, by area under the ROC curve. Then the whole set is verified with it. A network at chance
    (:func:`pmtlib.protocols.check`) is refused, and nothing is kept of it.

    Args:
        path: the checkpoint, a file of ``torch.save``.
        publisher: whose conventions its input follows.
        name: by which it will be asked for.
        channels: the order in which the network takes the colours.
        dataset: the verification set; None for the first of LFW, CFP-FF and the sample photographs that is at hand.
        device: where to compute.
        replacing: an added network of that name is replaced.
        show: draw progress bars on standard error.

    Raises:
        NetworkError: the name cannot be used, the checkpoint is of no known architecture, the channel order cannot be
            told, or the network is at chance.
        AssetError: the checkpoint cannot be read.
        DatasetError: the set is absent or damaged.
        OSError: the network cannot be stored.
    """
    _check_name(name, replacing)
    found = recognise(path, publisher)
    place = devices.resolve(device)
    chosen = dataset or next((known for known in CHECK_SETS if datasets.available(known)), CHECK_SETS[-1])
    pairset = datasets.load(chosen)
    orders: dict[str, float] = {}
    if channels != "auto":
        bgr = channels == "bgr"
    elif found.published is not None and found.bgr is not None:
        bgr = found.bgr
    elif pairset.stand_in:
        if found.bgr is None:
            raise NetworkError(
                f"{path}: neither its name nor {publisher} tells the channel order of {found.architecture.title}, and "
                f"{pairset.name} is too small a set to measure it; give --channels rgb or bgr"
            )
        bgr = found.bgr
    else:
        some = pairset.sample(min(ORDER_PAIRS, 2 * int(min(pairset.same.sum(), (~pairset.same).sum()))), 0)
        for label in ("rgb", "bgr"):
            network = _network(found, replace(found.options, bgr=label == "bgr"), place)
            orders[label] = metrics.auc(protocols.pair_scores(network, some, progress=show), some.same)
        bgr = orders["bgr"] > orders["rgb"]
    options = replace(found.options, bgr=bgr)
    network = _network(found, options, place)
    scores = protocols.pair_scores(network, pairset, progress=show)
    measured = protocols.summarise(scores, pairset)
    protocols.refuse_chance(name, measured, scores, pairset.same)
    record = added.AddedNetwork(
        name=name,
        architecture=found.architecture.name,
        publisher=publisher,
        title=found.published.title if found.published is not None else found.architecture.title,
        embedding=options.embedding,
        bgr=options.bgr,
        scale=options.scale,
        columns=options.columns,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        training_set=found.published.training_set if found.published is not None else "not stated",
        loss=found.published.loss if found.published is not None else "not stated",
        source=path.name,
        source_sha256=_sha256(path),
        weights=_store(name, network, replacing),
    )
    calibration.write([protocols.operating_points(name, record.weights, measured)], added.calibration_path(name))
    added.write_record(record)
    return Addition(
        record,
        measured,
        orders,
        published=None if found.published is None else found.published.lfw,
        ignored=len(found.ignored),
        note=f"{pairset.name} is a demonstration set: its threshold is a rough guide" if pairset.stand_in else "",
    )


def _check_name(name: str, replacing: bool) -> None:
    if not valid_name(name) or name in RESERVED:
        raise NetworkError(
            f"a network cannot be called {name!r}; use lower-case letters, digits, dots, dashes and underscores, "
            f"and none of {', '.join(RESERVED)}"
        )
    if name in zoo.CARDS:
        raise NetworkError(f"{name} is a network of the package; choose another name")
    if added.exists(name) and not replacing:
        raise NetworkError(f"there is a network {name} already; choose another name, or give --replace")


def _network(found: Recognised, options: Options, place: torch.device) -> FaceNetwork:
    with torch.random.fork_rng(devices=[]):
        network = found.architecture.build(options)
    network.load_state_dict(dict(found.state))
    return network.to(place).eval().requires_grad_(False)


def _store(name: str, network: FaceNetwork, replacing: bool) -> str:
    """Keep the weights and give their checksum. What is replaced goes first, so that no record has foreign weights."""
    if replacing and added.exists(name):
        added.remove(name)
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in network.state_dict().items()}
    converted.write(added.weights_path(name), state)
    return converted.digest(state)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
