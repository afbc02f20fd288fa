"""Adding a network to the zoo from a checkpoint: recognise it, verify with it, keep it if it recognises people."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray

from pmtlib import added, converted, datasets, devices, metrics, protocols, zoo
from pmtlib.architectures import PUBLISHERS, Convention, Published, Publisher, recognise
from pmtlib.errors import NetworkError, PMTError
from pmtlib.images import write_atomic
from pmtlib.inventory import CHECK_SETS
from pmtlib.networks.base import FaceNetwork
from pmtlib.paths import file_sha256
from pmtlib.shallow import DEFAULT_CUT

Channels = Literal["auto", "rgb", "bgr"]
RESERVED = ("add", "list", "remove")
"""Words of ``pmt networks``, which no network may be called."""
_QUARTER = 28
_WHOLE_LFW = 6000
_Input = tuple[bool, float, float]
"""Whether blue, green, red; mean; scale."""
TRIAL_PAIRS = 600
"""Pairs on which ways to prepare the input are tried."""
INPUTS = ((127.5, 127.5), (0.0, 1.0), (0.0, 255.0))
"""(mean, scale) of the inputs that are tried where nothing tells: -1..1, 0..255, 0..1."""


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


@dataclass(frozen=True)
class _Source:
    """What a file says of its network.

    Attributes:
        architecture: as in the record.
        publisher: as in the record.
        title: as in the record.
        convention: how the input is prepared, as far as it is known.
        columns: columns of the crop that the network sees.
        network: gives the network, with its weights, for a way to prepare the input.
        write: stores it.
        remedy: the options that say what cannot be told.
        graph: its units are found from its graph.
        published: the public checkpoint that the file is by its name.
        ignored: how many tensors of the training were left out.
        own: what ``pmt train`` says of a network that it trained: ``channels``, ``training_set``, ``loss``.
    """

    architecture: str
    publisher: str
    title: str
    convention: Convention
    columns: tuple[int, int]
    network: Callable[[_Input], FaceNetwork]
    write: Callable[[FaceNetwork, Path], None]
    remedy: str
    graph: bool
    published: Published | None = None
    ignored: int = 0
    own: Mapping[str, str] = field(default_factory=dict)


def add(
    path: Path,
    kind: str,
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
    """Add a network to the zoo under a name of one's own.

    A checkpoint's architecture is recognised from its tensors (:func:`pmtlib.architectures.recognise`); an ONNX file is
    its own (:class:`pmtlib.networks.onnx_graph.OnnxNetwork`). How the input is prepared is what is asked for; else what
    the name of a public file or the publisher says, unless another order of the channels, or (ONNX, DeepFace, timm)
    another of :data:`INPUTS`, separates :data:`TRIAL_PAIRS` pairs surely better. Then the whole set is verified. A
    network at chance (:func:`pmtlib.protocols.check`) is refused, and nothing is kept of it. The default cut is five
    units; where units are found from a graph, the first whose map is at most 28 high, the paper's.

    Args:
        path: a file of ``torch.save``, or an ONNX file with its weights in it.
        kind: one of :data:`pmtlib.architectures.PUBLISHERS`, or :data:`pmtlib.added.ONNX`.
        name: by which it will be asked for.
        model: timm's name of the backbone, for that publisher alone.
        channels: the order in which the network takes the colours.
        mean: subtracted from the images, in 0..255; given together with ``scale``, where a kind has more than one.
        scale: the difference is divided by it.
        dataset: the verification set; None for the first of LFW, CFP-FF and the sample photographs that is at hand, and
            then the operating points of the other whole set are stored as well.
        device: where to compute.
        replacing: an added network of that name is replaced.
        show: draw progress bars on standard error.

    Raises:
        NetworkError: there is no such kind, the name cannot be used, the file holds no network of that kind, how its
            input is prepared cannot be told, or the network is at chance.
        AssetError: the checkpoint cannot be read.
        DatasetError: the set is absent or damaged.
        OSError: the network cannot be stored.
    """
    if kind != added.ONNX and kind not in PUBLISHERS:
        raise NetworkError(f"no kind {kind!r} of network; known are {', '.join((*PUBLISHERS, added.ONNX))}")
    _check_name(name, replacing)
    _check_input(mean, scale)
    # Read before the set is: most files that cannot be used are refused at once.
    source = _onnx(path, model) if kind == added.ONNX else _checkpoint(path, cast(Publisher, kind), model)
    if mean is not None and source.convention.firm:
        raise NetworkError(f"the networks of {kind} have a known mean and scale; leave --mean and --scale out")
    trial = _Trial(path, name, dataset, device, show)
    ways = _ways(source, channels, None if mean is None or scale is None else (mean, scale), trial.pairset.stand_in)
    way, tried = trial.best(ways, source)
    network = source.network(way)
    try:
        measured = trial.measure(network)
    except NetworkError as error:
        seen = "; ".join(f"{label} {area:.3f}" for label, area in tried.items())
        raise NetworkError(
            f"{error} (recognised as {source.title}, taken for {ways[way]}{f'; AUC tried: {seen}' if seen else ''})"
        ) from error
    shapes, published, notes = _shapes(network), source.published, trial.notes
    if published is not None and _contradicts(measured, published.lfw):
        notes = [
            *notes,
            f"{path.name} is the name of {published.title}, whose publisher gives {published.lfw} on LFW; this is "
            "another network",
        ]
        published = None
    record = added.store(
        added.AddedNetwork(
            name=name,
            architecture=source.architecture,
            publisher=source.publisher,
            title=source.title if published is None else published.title,
            embedding=next(reversed(shapes.values()))[0],
            bgr=way[0],
            mean=way[1],
            scale=way[2],
            columns=source.columns,
            parameters=sum(parameter.numel() for parameter in network.parameters()),
            training_set=source.own.get("training_set", "not stated") if published is None else published.training_set,
            loss=source.own.get("loss", "not stated") if published is None else published.loss,
            source=path.name,
            source_sha256=file_sha256(path),
            default_cut=_first_small(shapes) if source.graph else DEFAULT_CUT,
        ),
        lambda target: source.write(network, target),
        lambda weights: protocols.operating_points(name, weights, measured),
        replacing=replacing,
    )
    try:
        trial.measure_others()
    except PMTError as error:
        # The network is there and verified; what went wrong is another set's.
        notes = [*notes, f"no operating points of another set: {error}"]
    lfw = None if published is None else published.lfw
    return Addition(record, measured, tried, shapes, lfw, source.ignored, "; ".join(notes))


def _checkpoint(path: Path, publisher: Publisher, model: str | None) -> _Source:
    found = recognise(path, publisher, model)

    def network(way: _Input) -> FaceNetwork:
        return found.architecture.network(replace(found.options, bgr=way[0], mean=way[1], scale=way[2]), found.state)

    def write(network: FaceNetwork, target: Path) -> None:
        converted.write(target, {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()})

    return _Source(
        architecture=found.architecture.name,
        publisher=publisher,
        title=found.architecture.title,
        convention=found.convention,
        own=found.own,
        columns=found.options.columns,
        network=network,
        write=write,
        remedy="--channels rgb or bgr",
        graph=found.architecture.wrap is not None,
        published=found.published,
        ignored=len(found.ignored),
    )


def _onnx(path: Path, model: str | None) -> _Source:
    from pmtlib.networks.onnx_graph import OnnxNetwork

    if model is not None:
        raise NetworkError("--model is for timm alone")
    network = OnnxNetwork(path).requires_grad_(False)
    _check_batch(network, path)

    def prepared(way: _Input) -> FaceNetwork:
        network.bgr, network.mean, network.scale = way
        return network

    return _Source(
        architecture=added.ONNX,
        publisher=added.ONNX,
        title=path.name,
        convention=Convention(None, firm=False),
        columns=(0, 112),
        network=prepared,
        write=lambda _, target: write_atomic(target, path.read_bytes()),
        remedy="--channels, --mean and --scale",
        graph=True,
    )


def _ways(source: _Source, channels: Channels, asked: tuple[float, float] | None, stand_in: bool) -> dict[_Input, str]:
    """The ways to prepare the input that are in question, the usual one first."""
    known = source.convention
    if channels != "auto":
        orders = [channels == "bgr"]
    elif known.bgr is not None and (source.published is not None or source.own or stand_in):
        orders = [known.bgr]
    else:
        orders = [bool(known.bgr), not known.bgr]
    inputs = [asked or (known.mean, known.scale)]
    if asked is None and not known.firm and not (stand_in and known.bgr is not None):
        inputs = list(dict.fromkeys([*inputs, *INPUTS]))
    return {
        (bgr, mean, scale): f"{'BGR' if bgr else 'RGB'} (x - {mean:g}) / {scale:g}"
        for mean, scale in inputs
        for bgr in orders
    }


def _first_small(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """The first unit whose map is at most 28 high, the paper's; of a network without one, the fifth or the last."""
    maps = [place for place, shape in enumerate(shapes.values(), start=1) if len(shape) == 3 and shape[1] <= _QUARTER]
    return maps[0] if maps else min(DEFAULT_CUT, len(shapes))


def _contradicts(measured: protocols.Verification, published: float | None) -> bool:
    """Whether whole LFW says that this is not the network whose accuracy was published."""
    whole = measured.dataset == CHECK_SETS[0] and measured.n >= _WHOLE_LFW
    low, high = measured.accuracy_interval
    return whole and published is not None and not low <= published <= high


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

    def best(self, ways: Mapping[_Input, str], source: _Source) -> tuple[_Input, dict[str, float]]:
        """The first of the ways that is not surely worse than the best, and the areas under the ROC curve by label.

        Surely: the 95% bootstrap interval over pairs of the difference to the best excludes zero. A few pairs must not
        turn a convention over. A single way is not tried.
        """
        if len(ways) == 1:
            return next(iter(ways)), {}
        if self.pairset.stand_in:
            raise NetworkError(
                f"{self.path}: nothing tells how its input is prepared, and {self.pairset.name} is too small a set to "
                f"measure it; give {source.remedy}"
            )
        alike = int(self.pairset.same.sum())
        some = self.pairset.sample(min(TRIAL_PAIRS, 2 * min(alike, len(self.pairset) - alike)), 0)
        scores: dict[_Input, metrics.Floats] = {}
        for way in ways:
            built = source.network(way).to(self.place).eval().requires_grad_(False)
            scores[way] = protocols.pair_scores(built, some, progress=self.show)
        areas = {way: metrics.auc(found, some.same) for way, found in scores.items()}
        best = max(areas, key=lambda way: areas[way])
        chosen = next(way for way in ways if not surely_less(scores[way], scores[best], some.same))
        return chosen, {ways[way]: area for way, area in areas.items()}

    def measure_others(self) -> None:
        """Operating points on the other whole sets at hand: a set's own pairs must not give it its threshold."""
        sets = [one for one in self.others if one != self.pairset.name and datasets.available(one)]
        if sets and not self.pairset.stand_in:
            protocols.calibrate([self.name], sets, device=self.place, progress=self.show)

    def measure(self, network: FaceNetwork) -> protocols.Verification:
        """Verify the whole set, and refuse a network at chance."""
        network.to(self.place).eval().requires_grad_(False)
        scores = protocols.pair_scores(network, self.pairset, progress=self.show)
        measured = protocols.summarise(scores, self.pairset)
        stand_in = self.pairset.stand_in
        protocols.refuse_chance(self.name, measured, scores, self.pairset.same, stand_in=stand_in)
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


def _check_input(mean: float | None, scale: float | None) -> None:
    if (mean is None) != (scale is None):
        raise NetworkError("mean and scale belong together; give both, or neither")
    if scale is not None and not (math.isfinite(scale) and scale > 0 and math.isfinite(mean or 0.0)):
        raise NetworkError(f"mean {mean:g} and scale {scale:g} are no preparation; give numbers, the scale above zero")


def _check_name(name: str, replacing: bool) -> None:
    if re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", name) is None or name in RESERVED:
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
