"""The recognition networks by name: architecture, weights, input convention, provenance and operating points.

    >>> from pmtlib import zoo
    >>> zoo.names()
    ('mobilefacenet', ...)
    >>> network = zoo.load("mobilefacenet")  # doctest: +SKIP

Weights come in foreign formats (TFLite, ONNX, TF.js, dlib, torch). Each is converted once to a safetensors file with
the names of our own module, which is kept in the cache and checked whenever it is read.

Networks that the user has added (:mod:`pmtlib.added`) stand beside those and are asked for in the same way.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from pmtlib import added, assets, converted, devices
from pmtlib.calibration import CALIBRATION_FILE, DEFAULT_DATASET, Calibration, calibrations, find
from pmtlib.errors import NetworkError
from pmtlib.networks.base import FaceNetwork
from pmtlib.paths import file_sha256

ROUGH_PAIRS = 1000
"""A threshold found on fewer pairs is called a rough guide: the sample photographs have some tens."""


@dataclass(frozen=True)
class NetworkCard:
    """What is known about a network.

    Attributes:
        name: by which it is asked for.
        build: gives the architecture, its parameters at random.
        convert: gives the float32 state dict from the verified asset files (asset name to path).
        assets: names in :data:`pmtlib.assets.ASSETS`.
        training_set: what it was trained on, as far as its publisher says.
        loss: what it was trained with.
        licence: of the weights, as far as it is stated.
        embedding: length of the embedding.
        parameters: how many the whole network has.
        input: what the network itself sees of the aligned crop, in words.
        default_cut: units of the shallow model unless another cut is asked for; the paper's "first five layers".
        paper_counterpart: the paper's name of the same kind of architecture, if it has one.
        note: what a user should know besides.
        conversion: version of ``convert`` and of the module's parameter names; a new one makes cached files stale.
    """

    name: str
    build: Callable[[], FaceNetwork]
    convert: Callable[[Mapping[str, Path]], dict[str, Tensor]]
    assets: tuple[str, ...]
    training_set: str
    loss: str
    licence: str
    embedding: int
    parameters: int
    input: str
    default_cut: int = 5
    paper_counterpart: str | None = None
    note: str = ""
    conversion: int = 1


def names() -> tuple[str, ...]:
    """The names of all networks, those that the user has added last."""
    return (*CARDS, *(name for name in added.names() if name not in CARDS))


def card(name: str) -> NetworkCard:
    """What is known about a network.

    Raises:
        NetworkError: there is no such network.
    """
    if name in CARDS:
        return CARDS[name]
    if added.exists(name):
        return _added_card(added.read(name))
    known = names()
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    guess = f" did you mean {close[0]!r}?" if close else ""
    raise NetworkError(f"no network {name!r};{guess} known are {', '.join(known)}")


def is_added(name: str) -> bool:
    """Whether the network is one that the user has added."""
    return name not in CARDS and added.exists(name)


PAPERS_TITLES = ("MobileFace", "ResNet50", "IR50-Softmax", "IR50-SphereFace", "ArcFace")
"""RobFR's names of the paper's networks, (1) to (5) of its Table 9."""


def papers_networks() -> tuple[str, ...]:
    """RobFR's five networks of the paper's names, in the order of its Table 9, where all have been added; else none.

    They are those whose checkpoint was recognised as RobFR's of that name.
    """
    by_title: dict[str, str] = {}
    for name in added.names():
        try:
            record = added.read(name)
        except NetworkError:
            # Whoever asks for that network is told.
            continue
        if record.publisher == "robfr":
            by_title.setdefault(record.title, name)
    found = tuple(by_title[title] for title in PAPERS_TITLES if title in by_title)
    return found if len(found) == len(PAPERS_TITLES) else ()


def _added_card(record: added.AddedNetwork) -> NetworkCard:
    path = added.weights_path(record.name, record.architecture)

    def build() -> FaceNetwork:
        if record.architecture == added.ONNX:
            from pmtlib.networks.onnx_graph import OnnxNetwork

            return OnnxNetwork(path, mean=record.mean, scale=record.scale, bgr=record.bgr)
        from pmtlib import architectures

        options = architectures.Options(record.embedding, record.bgr, record.mean, record.scale, record.columns)
        return architectures.find(record.architecture).network(options)

    def convert(_: Mapping[str, Path]) -> dict[str, Tensor]:
        raise NetworkError(
            f"{path}: not the weights of {record.architecture}; upgrade pmtlib, or add {record.name} again"
        )

    channels = "BGR" if record.bgr else "RGB"
    left, right = record.columns
    return NetworkCard(
        name=record.name,
        build=build,
        convert=convert,
        assets=(),
        training_set=record.training_set,
        loss=record.loss,
        licence="that of the checkpoint",
        embedding=record.embedding,
        parameters=record.parameters,
        input=f"112x{right - left} {channels}, (x - {record.mean:g}) / {record.scale:g}",
        default_cut=record.default_cut,
        note=f"{record.title}, added from {record.source}",
    )


def load(name: str, device: torch.device | str = "cpu") -> FaceNetwork:
    """A network with its published weights, frozen, in evaluation mode.

    The first call fetches and converts the weights; later calls read the converted file. A damaged or foreign
    converted file is made anew. The global random state of torch is left as it was.

    Args:
        name: one of :func:`names`.
        device: where to; a name that :func:`pmtlib.devices.resolve` takes.

    Raises:
        NetworkError: there is no such network, or its weights do not fit the architecture.
        AssetError: a weight file cannot be had.
        ConfigError: the device cannot be used.
    """
    wanted = card(name)
    target = devices.resolve(device) if isinstance(device, str) else device
    if is_added(name):
        return _load_added(added.read(name), wanted).to(target)
    network = converted.load(
        name, converted_path(name), wanted.build, lambda: wanted.convert(assets.fetch(wanted.assets))
    )
    return network.to(target)


def _load_added(record: added.AddedNetwork, wanted: NetworkCard) -> FaceNetwork:
    path = added.weights_path(record.name, record.architecture)
    try:
        whole = file_sha256(path) == record.content
    except OSError:
        whole = False
    if not whole:
        raise NetworkError(
            f"{path}: the weights of {record.name} are absent or damaged; "
            f"`pmt networks remove {record.name}` and add it again"
        )
    if record.architecture == added.ONNX:
        # Its weights are in its graph.
        return wanted.build().eval().requires_grad_(False)
    return converted.load(record.name, path, wanted.build, lambda: wanted.convert({}))


def available(name: str) -> bool:
    """Whether the weights are here or can be downloaded.

    Raises:
        NetworkError: there is no such network.
    """
    wanted = card(name)
    return is_added(name) or converted_path(name).is_file() or all(map(assets.obtainable, wanted.assets))


def weights_checksum(name: str) -> str:
    """SHA-256 that stands for a network's weights: of its assets' checksums and the version of their conversion.

    It comes from the asset table alone, or from the record of an added network; no weights are read.

    Raises:
        NetworkError: there is no such network.
    """
    wanted = card(name)
    return added.read(name).weights if is_added(name) else converted.checksum(wanted.assets, wanted.conversion)


def converted_path(name: str) -> Path:
    """Where the converted weights are kept; the file need not exist.

    Raises:
        NetworkError: there is no such network.
    """
    if is_added(name):
        return added.weights_path(name, added.read(name).architecture)
    return converted.location(name, weights_checksum(name))


def calibration_file(name: str) -> Path:
    """Where a network's operating points are: shipped with the package, or beside the weights of an added network."""
    return added.calibration_path(name) if is_added(name) else CALIBRATION_FILE


def calibration(name: str, dataset: str | None = None) -> Calibration | None:
    """The stored operating points of a network with its present weights, or None where there are none.

    Args:
        name: one of :func:`names`.
        dataset: on which they were measured; None for LFW, or what an added network was measured on in its place.

    Raises:
        NetworkError: there is no such network.
        ResultError: the file is damaged.
    """
    weights, path = weights_checksum(name), calibration_file(name)
    found = find(name, dataset or DEFAULT_DATASET, weights=weights, path=path)
    if found is None and dataset is None and is_added(name):
        return next((entry for entry in calibrations(path) if entry.weights == weights), None)
    return found


def threshold_caveats(names: Iterable[str]) -> str:
    """What to know of thresholds that are not of the usual set, in words; empty where all are.

    An added network may have been measured on another set, or on a handful of sample photographs.
    """
    said = []
    for name in names:
        entry = calibration(name)
        if entry is not None and entry.dataset != DEFAULT_DATASET:
            rough = ", a rough guide" if entry.n < ROUGH_PAIRS else ""
            said.append(f"The threshold of {name} is of {entry.dataset} ({entry.n} pairs{rough}).")
    return " ".join(said)


def _network(module: str, function: str, *constants: str) -> Callable[..., Any]:
    """``pmtlib.networks.<module>.<function>`` called with constants of that module; imported only when called.

    Some architectures need large libraries; asking for one network must not import those of all others.
    """

    def call(*arguments: Any) -> Any:
        home = importlib.import_module(f"pmtlib.networks.{module}")
        return getattr(home, function)(*(getattr(home, constant) for constant in constants), *arguments)

    return call


_EDGEFACE_LICENCE = (
    "code BSD-3-Clause; weights for non-commercial research only: CC BY-NC-SA 4.0 where Idiap publishes the float "
    "models, not stated for the quantised files"
)

_TABLE = (
    NetworkCard(
        name="mobilefacenet",
        build=_network("mobilefacenet", "MobileFaceNet", "SIRIUS"),
        convert=_network("mobilefacenet", "convert_mobilefacenet"),
        assets=("mobilefacenet-tflite",),
        training_set="refined MS1M (MS-Celeb-1M)",
        loss="ArcFace",
        licence="Apache-2.0 (sirius-ai/MobileFaceNet_TF)",
        embedding=192,
        parameters=1_292_992,
        input="112x112 RGB, (x - 127.5) / 128",
        paper_counterpart="MobileFace",
    ),
    NetworkCard(
        name="mobilefacenet-casia",
        build=_network("mobilefacenet", "MobileFaceNet", "CASIA"),
        convert=_network("mobilefacenet", "convert_mobilefacenet_casia"),
        assets=("mobilefacenet-casia-ckpt",),
        training_set="CASIA-WebFace",
        loss="ArcFace",
        licence="none stated (Xiaoccer/MobileFaceNet_Pytorch)",
        embedding=128,
        parameters=989_760,
        input="112x96 RGB, columns 8 to 104 of the crop, (x - 127.5) / 128",
        paper_counterpart="MobileFace",
        note="The training set of the paper's networks. The columns outside 8 to 104 have no influence.",
    ),
    NetworkCard(
        name="mobilefacenet-ms1m",
        build=_network("mobilefacenet", "MobileFaceNet", "MS1M"),
        convert=_network("mobilefacenet", "convert_mobilefacenet_ms1m"),
        assets=("mobilefacenet-ms1m-pt",),
        training_set="refined MS1M (MS-Celeb-1M)",
        loss="ArcFace",
        licence="Apache-2.0 (foamliu/MobileFaceNet)",
        embedding=128,
        parameters=989_952,
        input="112x112 RGB, x / 255, ImageNet mean and standard deviation",
        paper_counterpart="MobileFace",
        note="ReLU6 in place of PReLU.",
    ),
    NetworkCard(
        name="sface",
        build=_network("sface", "SFace"),
        convert=_network("sface", "convert_sface"),
        assets=("sface-onnx",),
        training_set="an MS-Celeb-1M variant (which one is not stated)",
        loss="SFace, a sigmoid-constrained hypersphere loss (Zhong et al. 2021)",
        licence="Apache-2.0 (OpenCV Zoo)",
        embedding=128,
        parameters=9_629_632,
        input="112x112 RGB, 0..255, normalised inside",
        note="The block-wise int8 weights of the published file, dequantised.",
    ),
    NetworkCard(
        name="edgeface-xs",
        build=_network("edgeface", "edgeface_xs"),
        convert=_network("edgeface", "convert_edgeface_xs"),
        assets=("edgeface-xs-pt",),
        training_set="WebFace260M subset (the publisher names the 12M and 4M subsets, not which one)",
        loss="CosFace",
        licence=_EDGEFACE_LICENCE,
        embedding=512,
        parameters=2_242_620,
        input="112x112 RGB, (x / 255 - 0.5) / 0.5",
        note="The int8 weights of the published quantised file, dequantised.",
    ),
    NetworkCard(
        name="edgeface-xxs",
        build=_network("edgeface", "edgeface_xxs"),
        convert=_network("edgeface", "convert_edgeface_xxs"),
        assets=("edgeface-xxs-pt",),
        training_set="WebFace260M subset (the publisher names the 12M and 4M subsets, not which one)",
        loss="CosFace",
        licence=_EDGEFACE_LICENCE,
        embedding=512,
        parameters=1_244_744,
        input="112x112 RGB, (x / 255 - 0.5) / 0.5",
        note="The int8 weights of the published quantised file, dequantised.",
    ),
    NetworkCard(
        name="dlib-resnet29",
        build=_network("dlib_resnet", "DlibResNet29"),
        convert=_network("dlib_resnet", "convert_dlib_resnet29"),
        assets=("dlib-resnet29-dat",),
        training_set="about 3 million faces of FaceScrub, the VGG face data set and the web",
        loss="metric loss (pairwise hinge)",
        licence="CC0-1.0",
        embedding=128,
        parameters=5_607_488,
        input="150x150 RGB, dlib's own chip warped from the crop, (x - mean) / 256",
        note="Its cosines sit high: a threshold of another network means nothing here.",
    ),
    NetworkCard(
        name="mobilenet-vggface2",
        build=_network("mobilenet_vggface2", "MobileNetVGGFace2"),
        convert=_network("mobilenet_vggface2", "convert_mobilenet_vggface2"),
        assets=("faceres-deep-json", "faceres-deep-bin"),
        training_set="VGGFace2",
        loss="softmax",
        licence="MIT (package human-models)",
        embedding=1024,
        parameters=3_196_032,
        input="224x224 BGR, minus (91.4953, 103.8827, 131.0912)",
        paper_counterpart="MobileNet",
    ),
)

CARDS: Mapping[str, NetworkCard] = MappingProxyType({entry.name: entry for entry in _TABLE})
"""Every network that comes with the package, by its name."""
