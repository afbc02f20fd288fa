"""Adding a network to the zoo from a checkpoint: recognise it, verify with it, keep it if it recognises people."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from pmtlib import added, converted, datasets, devices, metrics, protocols, zoo
from pmtlib.architectures import Publisher, recognise, valid_name
from pmtlib.errors import NetworkError
from pmtlib.images import write_atomic
from pmtlib.inventory import CHECK_SETS
from pmtlib.networks.base import FaceNetwork
from pmtlib.shallow import DEFAULT_CUT

Channels = Literal["auto", "rgb", "bgr"]
RESERVED = ("add", "list", "remove")
"""Words of ``pmt networks``, which no network may be called."""
TRIAL_PAIRS = 600
"""Pairs on which ways to prepare the input are tried."""
INPUTS = ((127.5, 127.5), (0.0, 1.0), (0.0, 255.0))
"""(mean, scale) of the inputs that are tried for an ONNX file: -1..1, 0..255, 0..1."""


@dataclass(frozen=True)
class Addition:
    """A network that was added.

    Attributes:
        record: what is stored of it.
        measured: how it does on the verification set.
        tried: area under the ROC curve of each way to prepare the input, on :data:`TRIAL_PAIRS` pairs, where more than
            one was tried.
        units: its units and the shapes of their outputs for one image.
        published: the publisher's accuracy on LFW, a share, where the file is a public one.
        ignored: how many tensors of the training were left out.
        note: what a reader of the figures has to know.
    """

    record: added.AddedNetwork
    measured: protocols.Verification
    tried: Mapping[str, float]
    units: Mapping[str, tuple[int, ...]]
    published: float | None = None
    ignored: int = 0
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            **asdict(self.record),
            "measured": self.measured.to_dict(),
            "tried": dict(self.tried),
            "units": {name: list(shape) for name, shape in self.units.items()},
            "published_lfw": self.published,
            "ignored": self.ignored,
            "note": self.note or None,
        }


def add_checkpoint(
    path: Path,
    publisher: Publisher,
    name: str,
    *,
    model: str | None = None,
    channels: Channels = "auto",
    mean: float | None = None,
    scale: float | None = None,
    dataset: str | None = None,
    device: str = "auto",
    replacing: bool = False,
    show: bool = True,
) -> Addition:
    """Add the network of a checkpoint to the zoo under a name of one's own.

    The architecture is recognised from the tensors (:func:`pmtlib.architectures.recognise`). The channel order is the
    one that is asked for; else that of the public file of this name; else the publisher's, unless the other separates
    :data:`TRIAL_PAIRS` pairs surely better. Then the whole set is verified with it. A network at chance
    (:func:`pmtlib.protocols.check`) is refused, and nothing is kept of it.

    Args:
        path: the checkpoint, a file of ``torch.save``.
        publisher: whose conventions its input follows.
        name: by which it will be asked for.
        model: timm's name of the backbone, for that publisher alone.
        channels: the order in which the network takes the colours.
        mean: subtracted from the images, in 0..255, and ``scale``, by which the difference is divided: where the
            publisher's networks take more than one (DeepFace, timm), both or neither, and then they are tried as well.
        scale: see ``mean``.
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
    _check_input(mean, scale)
    if mean is not None and publisher not in ("deepface", "timm"):
        raise NetworkError(f"the networks of {publisher} have a known mean and scale; leave --mean and --scale out")
    found = recognise(path, publisher, model)
    trial = _Trial(path, name, dataset, device, show)
    known = found.convention
    if channels != "auto":
        orders = [channels == "bgr"]
    elif known.bgr is not None and (found.published is not None or trial.pairset.stand_in):
        orders = [known.bgr]
    else:
        orders = [bool(known.bgr), not known.bgr]
    inputs = [(known.mean, known.scale)]
    if mean is not None and scale is not None:
        inputs = [(mean, scale)]
    elif not known.firm and not trial.pairset.stand_in:
        inputs = list(dict.fromkeys([*inputs, *INPUTS]))

    def network(way: _Input) -> FaceNetwork:
        return found.architecture.network(replace(found.options, bgr=way[0], mean=way[1], scale=way[2]), found.state)

    way, tried = trial.best(_ways(orders, inputs), network, "--channels rgb or bgr")
    chosen = network(way)
    measured = trial.measure(chosen)
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in chosen.state_dict().items()}
    shapes = _shapes(chosen)
    published = found.published
    if published is not None and trial.contradicts(measured, published.lfw):
        trial.notes.append(
            f"{path.name} is the name of {published.title}, whose publisher gives {published.lfw} on LFW; this is "
            "another network"
        )
        published = None
    record = added.AddedNetwork(
        name=name,
        architecture=found.architecture.name,
        publisher=publisher,
        title=published.title if published is not None else found.architecture.title,
        embedding=found.options.embedding,
        bgr=way[0],
        mean=way[1],
        scale=way[2],
        columns=found.options.columns,
        parameters=_parameters(chosen),
        training_set=published.training_set if published is not None else "not stated",
        loss=published.loss if published is not None else "not stated",
        source=path.name,
        source_sha256=_sha256(path),
        content=converted.digest(state),
        default_cut=DEFAULT_CUT if found.architecture.wrap is None else _first_small(shapes),
    )
    points = protocols.operating_points(name, record.weights, measured)
    added.store(record, lambda target: converted.write(target, state), points, replacing=replacing)
    trial.measure_others(name)
    return Addition(
        record,
        measured,
        tried,
        shapes,
        published=None if published is None else published.lfw,
        ignored=len(found.ignored),
        note="; ".join(trial.notes),
    )


def add_onnx(
    path: Path,
    name: str,
    *,
    channels: Channels = "auto",
    mean: float | None = None,
    scale: float | None = None,
    dataset: str | None = None,
    device: str = "auto",
    replacing: bool = False,
    show: bool = True,
) -> Addition:
    """Add a recognition network that is an ONNX file, see :class:`pmtlib.networks.onnx_graph.OnnxNetwork`.

    What the file does not tell, the channel order, the mean and the scale of its input, is what is asked for; what is
    not asked for is tried on :data:`TRIAL_PAIRS` pairs (:data:`INPUTS`, both orders), and of those that are not surely
    worse than the best by area under the ROC curve, the first is taken. The default cut is the first unit whose map is
    at most a quarter as high as the image, the paper's 28x28.

    Args:
        path: the ONNX file, with its weights in it.
        name: by which it will be asked for.
        channels: the order in which the network takes the colours.
        mean: subtracted from the images, in 0..255; given together with ``scale``.
        scale: the difference is divided by it.
        dataset: as in :func:`add_checkpoint`.
        device: where to compute.
        replacing: an added network of that name is replaced.
        show: draw progress bars on standard error.

    Raises:
        NetworkError: the name cannot be used, the file is no recognition network that can be converted, its input
            cannot be told, or it is at chance.
        DatasetError: the set is absent or damaged.
        OSError: the network cannot be stored.
    """
    from pmtlib.networks.onnx_graph import OnnxNetwork

    _check_name(name, replacing)
    _check_input(mean, scale)
    # Read before the set is: most files that cannot be used are refused at once.
    network = OnnxNetwork(path).requires_grad_(False)
    _check_batch(network, path)
    trial = _Trial(path, name, dataset, device, show)
    inputs = INPUTS if mean is None or scale is None else ((mean, scale),)
    orders = (False, True) if channels == "auto" else (channels == "bgr",)

    def prepared(way: _Input) -> FaceNetwork:
        network.bgr, network.mean, network.scale = way
        return network

    way, tried = trial.best(_ways(orders, inputs), prepared, "--channels, --mean and --scale")
    measured = trial.measure(prepared(way))
    content = path.read_bytes()
    shapes = _shapes(network)
    record = added.AddedNetwork(
        name=name,
        architecture=added.ONNX,
        publisher="onnx",
        title=path.name,
        embedding=next(reversed(shapes.values()))[0],
        bgr=way[0],
        mean=way[1],
        scale=way[2],
        columns=(0, 112),
        parameters=_parameters(network),
        training_set="not stated",
        loss="not stated",
        source=path.name,
        source_sha256=hashlib.sha256(content).hexdigest(),
        content=hashlib.sha256(content).hexdigest(),
        default_cut=_first_small(shapes),
    )
    points = protocols.operating_points(name, record.weights, measured)
    added.store(record, lambda target: write_atomic(target, content), points, replacing=replacing)
    trial.measure_others(name)
    return Addition(record, measured, tried, shapes, note="; ".join(trial.notes))


def _first_small(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """The first unit whose map is at most 28 high, the paper's; of a network without one, the fifth or the last."""
    maps = [place for place, shape in enumerate(shapes.values(), start=1) if len(shape) == 3 and shape[1] <= _QUARTER]
    return maps[0] if maps else min(DEFAULT_CUT, len(shapes))


_QUARTER = 28
_WHOLE_LFW = 6000
_Way = TypeVar("_Way")
_Input = tuple[bool, float, float]
"""Whether blue, green, red; mean; scale."""


class _Trial:
    """The verification set and what is done on it before a network is kept."""

    def __init__(self, path: Path, name: str, dataset: str | None, device: str, show: bool) -> None:
        self.path, self.name, self.show = path, name, show
        self.place = devices.resolve(device)
        chosen = dataset or next((known for known in CHECK_SETS if datasets.available(known)), CHECK_SETS[-1])
        self.pairset = datasets.load(chosen)
        self.others = () if dataset is not None else CHECK_SETS[:2]
        self.notes = (
            [f"{self.pairset.name} is a demonstration set: its threshold is a rough guide"]
            if self.pairset.stand_in
            else []
        )

    def best(
        self, ways: Mapping[_Way, str], network: Callable[[_Way], FaceNetwork], remedy: str
    ) -> tuple[_Way, dict[str, float]]:
        """The first of the ways that is not surely worse than the best, and the areas under the ROC curve by label.

        Surely: the 95% bootstrap interval over pairs of the difference to the best excludes zero. A few pairs must not
        turn a convention over. A single way is not tried.
        """
        if len(ways) == 1:
            return next(iter(ways)), {}
        if self.pairset.stand_in:
            raise NetworkError(
                f"{self.path}: nothing tells how its input is prepared, and {self.pairset.name} is too small a set to "
                f"measure it; give {remedy}"
            )
        alike = int(self.pairset.same.sum())
        some = self.pairset.sample(min(TRIAL_PAIRS, 2 * min(alike, len(self.pairset) - alike)), 0)
        scores: dict[_Way, metrics.Floats] = {}
        for way in ways:
            built = network(way).to(self.place).eval().requires_grad_(False)
            scores[way] = protocols.pair_scores(built, some, progress=self.show)
        areas = {way: metrics.auc(found, some.same) for way, found in scores.items()}
        best = max(areas, key=lambda way: areas[way])
        chosen = next(way for way in ways if not surely_less(scores[way], scores[best], some.same))
        return chosen, {ways[way]: area for way, area in areas.items()}

    def contradicts(self, measured: protocols.Verification, published: float | None) -> bool:
        """Whether whole LFW says that this is not the network whose accuracy was published."""
        whole = measured.dataset == "lfw" and measured.n >= _WHOLE_LFW
        low, high = measured.accuracy_interval
        return whole and published is not None and not low <= published <= high

    def measure_others(self, name: str) -> None:
        """Operating points on the other whole sets at hand: a set's own pairs must not give it its threshold."""
        sets = [one for one in self.others if one != self.pairset.name and datasets.available(one)]
        if sets and not self.pairset.stand_in:
            protocols.calibrate([name], sets, device=self.place, progress=self.show)

    def measure(self, network: FaceNetwork) -> protocols.Verification:
        """Verify the whole set, and refuse a network at chance."""
        network.to(self.place).eval().requires_grad_(False)
        scores = protocols.pair_scores(network, self.pairset, progress=self.show)
        measured = protocols.summarise(scores, self.pairset)
        protocols.refuse_chance(self.name, measured, scores, self.pairset.same)
        return measured


def surely_less(one: metrics.Floats, best: metrics.Floats, same: NDArray[np.bool_], draws: int = 200) -> bool:
    """Whether scores (P,) separate the pairs worse than others of the same pairs, beyond what the pairs' choice can do.

    The share of ``draws`` bootstrap samples, of same and of different pairs apart, in which the area under the ROC
    curve of ``one`` is at least that of ``best``, is below 2.5%.
    """
    random = np.random.default_rng(0)
    alike, unlike = np.flatnonzero(same), np.flatnonzero(~same)
    level = 0
    for _ in range(draws):
        rows = np.concatenate([random.choice(alike, len(alike)), random.choice(unlike, len(unlike))])
        level += metrics.auc(one[rows], same[rows]) >= metrics.auc(best[rows], same[rows])
    return level < 0.025 * draws


def _ways(orders: Sequence[bool], inputs: Sequence[tuple[float, float]]) -> dict[_Input, str]:
    return {
        (bgr, mean, scale): f"{'BGR' if bgr else 'RGB'} (x - {mean:g}) / {scale:g}"
        for mean, scale in inputs
        for bgr in orders
    }


def _check_input(mean: float | None, scale: float | None) -> None:
    if (mean is None) != (scale is None):
        raise NetworkError("mean and scale belong together; give both, or neither")
    if scale is not None and not (math.isfinite(scale) and scale > 0 and math.isfinite(mean or 0.0)):
        raise NetworkError(f"mean {mean:g} and scale {scale:g} are no preparation; give numbers, the scale above zero")


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


@torch.no_grad()
def _check_batch(network: FaceNetwork, path: Path) -> None:
    """Two images at once give what each gives alone, or the file has a batch of one built in."""
    images = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    try:
        alone = torch.cat([network.eval()(image[None]) for image in images])
        together = network(images)
    except Exception as error:
        # Whatever its operators raise on shapes that they were not made for.
        why = " ".join(str(error).split())[:160]
        raise NetworkError(
            f"{path}: does not run on one image and on two ({why}); export it with a free batch axis"
        ) from error
    if together.shape != alone.shape or not torch.allclose(together, alone, rtol=1e-3, atol=1e-3):
        raise NetworkError(f"{path}: gives other embeddings in a batch than alone; export it with a free batch axis")


@torch.no_grad()
def _shapes(network: FaceNetwork) -> dict[str, tuple[int, ...]]:
    parameter = next(network.parameters())
    blank = torch.zeros(1, 3, 112, 112, device=parameter.device)
    outputs = network.run_units(network.prepare(blank), 0, len(network.units))
    return {name: tuple(output.shape[1:]) for name, output in zip(network.unit_names, outputs, strict=True)}


def _parameters(network: FaceNetwork) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
