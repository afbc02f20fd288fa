"""Architectures that public checkpoints come in, and which of them a state dict belongs to.

An architecture is recognised by the names and shapes of its tensors alone. What those do not tell, the order of the
channels and the scale of the input, comes from the publisher's convention or from the name of a published file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from pmtlib import assets
from pmtlib.convert.state import fitted
from pmtlib.errors import AssetError, NetworkError
from pmtlib.networks.base import PublishedNetwork
from pmtlib.networks.inception_resnet import InceptionResNetV1
from pmtlib.networks.ir import IRESNET_BLOCKS, IResNet, IRNet
from pmtlib.networks.mobileface import MobileFace, MobileNet
from pmtlib.networks.resnet import ResNet

Publisher = Literal["robfr", "evolve", "insightface", "facenet"]
PUBLISHERS: tuple[Publisher, ...] = get_args(Publisher)
"""RobFR; face.evoLVe; InsightFace's arcface_torch; facenet-pytorch."""

_CASIA_COLUMNS = (8, 104)
# What training code wraps a state dict in, and what it puts before every name.
_WRAPPERS = ("state_dict", "net_state_dict", "model_state_dict", "model", "backbone")
_PREFIXES = ("module.", "backbone.", "model.", "net.")


@dataclass(frozen=True)
class Architecture:
    """One that checkpoints come in.

    Attributes:
        name: by which records name it.
        title: for a reader.
        build: gives the network, its parameters at random; takes the keywords of :class:`Options`.
        embedding: the tensor whose rows are the dimensions of the embedding.
        publishers: who publishes such checkpoints, with the channel order (True: blue, green, red; None: it differs
            from file to file) and the scale of their input.
        heads: prefixes of tensors that belong to the training, not to the network.
    """

    name: str
    title: str
    build: Callable[..., PublishedNetwork]
    embedding: str
    publishers: Mapping[Publisher, tuple[bool | None, float]]
    heads: tuple[str, ...] = ()


@dataclass(frozen=True)
class Options:
    """What a checkpoint leaves open in its architecture.

    Attributes:
        embedding: length of the embedding.
        bgr: the network takes blue, green, red.
        scale: the images, in 0..255, minus 127.5, are divided by it.
        columns: columns of the 112-wide crop that the network sees, half open.
    """

    embedding: int = 512
    bgr: bool = False
    scale: float = 127.5
    columns: tuple[int, int] = (0, 112)


def _ir(depth: Any, excitation: bool) -> Callable[..., PublishedNetwork]:
    def build(options: Options) -> PublishedNetwork:
        return IRNet(depth, excitation=excitation, scale=options.scale, bgr=options.bgr, embedding=options.embedding)

    return build


def _iresnet(depth: int) -> Callable[..., PublishedNetwork]:
    return lambda options: IResNet(depth, bgr=options.bgr, embedding=options.embedding)


def _resnet(depth: Any) -> Callable[..., PublishedNetwork]:
    return lambda options: ResNet(depth, scale=options.scale, bgr=options.bgr, embedding=options.embedding)


def _mobilenet(stride: Any) -> Callable[..., PublishedNetwork]:
    return lambda options: MobileNet(stride, bgr=options.bgr, embedding=options.embedding)


def _mobileface(options: Options) -> PublishedNetwork:
    return MobileFace(embedding=options.embedding, bgr=options.bgr, columns=options.columns)


def _table() -> Iterator[Architecture]:
    yield Architecture("mobileface", "MobileFaceNet", _mobileface, "linear1.conv.weight", {"robfr": (True, 128.0)})
    for stride, label in ((2, "mobilenet"), (1, "mobilenet-stride1")):
        title = f"MobileNet with stride {stride}"
        yield Architecture(label, title, _mobilenet(stride), "fc.weight", {"robfr": (True, 128.0)})
    for depth in (50, 101, 152):
        published: dict[Publisher, tuple[bool | None, float]] = {"evolve": (False, 127.5)}
        if depth == 50:
            published["robfr"] = (None, 128.0)
        yield Architecture(f"resnet-{depth}", f"ResNet-{depth}", _resnet(depth), "fc.weight", published)
    for depth in (50, 100, 152):
        for excitation in (False, True):
            published = {"evolve": (False, 127.5)}
            if depth == 50:
                published["robfr"] = (False, 128.0) if excitation else (None, 127.5)
            kind = "IR-SE" if excitation else "IR"
            yield Architecture(
                f"{kind.lower()}-{depth}", f"{kind}-{depth}", _ir(depth, excitation), "output_layer.3.weight", published
            )
    for depth in IRESNET_BLOCKS:
        title = f"arcface_torch r{depth}"
        yield Architecture(f"iresnet-{depth}", title, _iresnet(depth), "fc.weight", {"insightface": (False, 127.5)})
    yield Architecture(
        "inception-resnet-v1",
        "Inception-ResNet-v1",
        lambda options: InceptionResNetV1(bgr=options.bgr, embedding=options.embedding),
        "last_linear.weight",
        {"facenet": (False, 128.0)},
        heads=("logits.",),
    )


ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType({entry.name: entry for entry in _table()})
"""Every architecture by its name."""


def build(architecture: str, options: Options) -> PublishedNetwork:
    """The network of an architecture, its parameters at random.

    Raises:
        NetworkError: there is no such architecture.
    """
    if architecture not in ARCHITECTURES:
        raise NetworkError(f"no architecture {architecture!r}; known are {', '.join(ARCHITECTURES)}; upgrade pmtlib")
    return ARCHITECTURES[architecture].build(options)


@dataclass(frozen=True)
class Published:
    """A checkpoint that can be had by its name.

    Attributes:
        title: the publisher's name of the network.
        publisher: whose.
        architecture: a key of :data:`ARCHITECTURES`.
        bgr: the network takes blue, green, red.
        training_set: what it was trained on.
        loss: what it was trained with.
        lfw: the publisher's accuracy on LFW, a share.
    """

    title: str
    publisher: Publisher
    architecture: str
    bgr: bool
    training_set: str
    loss: str
    lfw: float | None = None


_MS1M, _CASIA = "MS-Celeb-1M", "CASIA-WebFace"


def _robfr(title: str, architecture: str, bgr: bool, training_set: str, loss: str, lfw: float) -> Published:
    return Published(title, "robfr", architecture, bgr, training_set, loss, lfw)


# RobFR/networks/*.py: names and channel orders; config.py: accuracies.
PUBLISHED: Mapping[str, Published] = MappingProxyType(
    {
        "Backbone_mobileface_Epoch_36_Batch_409392_Time_2019-04-07-16-40_checkpoint.pth": _robfr(
            "MobileFace", "mobileface", True, _MS1M, "not stated", 0.9945
        ),
        "Backbone_Mobilenet_Epoch_125_Batch_710750_Time_2019-04-14-18-15_checkpoint.pth": _robfr(
            "Mobilenet", "mobilenet", True, _MS1M, "not stated", 0.9935
        ),
        "Backbone_Mobilenet_Epoch_124_Batch_1410128_Time_2019-04-30-14-43_checkpoint.pth": _robfr(
            "Mobilenet-stride1", "mobilenet-stride1", True, _MS1M, "not stated", 0.99567
        ),
        "Backbone_ResNet_50_Epoch_36_Batch_204696_Time_2019-04-14-14-44_checkpoint.pth": _robfr(
            "ResNet50", "resnet-50", True, _MS1M, "not stated", 0.99717
        ),
        "Backbone_ResNet_50_Epoch_82_Batch_72406_Time_2019-04-28-20-57_checkpoint.pth": _robfr(
            "ResNet50-casia", "resnet-50", False, _CASIA, "not stated", 0.986
        ),
        "model_ir_se50.pth": _robfr("ArcFace", "ir-se-50", False, _MS1M, "ArcFace", 0.995),
        "Backbone_IR_50_Epoch_9_Batch_131004_Time_2019-11-09-12-30_checkpoint.pth": _robfr(
            "IR50-Softmax", "ir-50", True, _MS1M, "softmax", 0.996
        ),
        "Backbone_IR_50_Epoch_11_Batch_160116_Time_2019-11-09-10-45_checkpoint.pth": _robfr(
            "IR50-SphereFace", "ir-50", True, _MS1M, "SphereFace", 0.99583
        ),
        "Backbone_IR_50_Epoch_11_Batch_160116_Time_2019-11-09-10-02_checkpoint.pth": _robfr(
            "IR50-CosFace", "ir-50", True, _MS1M, "CosFace", 0.997
        ),
        "Backbone_IR_50_Epoch_11_Batch_160116_Time_2019-11-09-09-42_checkpoint.pth": _robfr(
            "IR50-ArcFace", "ir-50", True, _MS1M, "ArcFace", 0.997
        ),
        "Backbone_IR_50_Epoch_3_Batch_43668_Time_2019-11-12-08-30_checkpoint.pth": _robfr(
            "IR50-Am", "ir-50", True, _MS1M, "AM-Softmax", 0.99217
        ),
        "Backbone_IR_50_Epoch_32_Batch_28256_Time_2020-07-10-06-55_checkpoint.pth": _robfr(
            "CASIA-Softmax", "ir-50", False, _CASIA, "softmax", 0.98833
        ),
        "Backbone_IR_50_Epoch_32_Batch_28256_Time_2020-07-10-23-13_checkpoint.pth": _robfr(
            "CASIA-CosFace", "ir-50", False, _CASIA, "CosFace", 0.99117
        ),
        "Backbone_IR_50_Epoch_16_Batch_14128_Time_2020-08-20-09-55_checkpoint.pth": _robfr(
            "CASIA-ArcFace", "ir-50", False, _CASIA, "ArcFace", 0.9905
        ),
        "Backbone_IR_50_Epoch_32_Batch_28256_Time_2020-07-31-01-10_checkpoint.pth": _robfr(
            "CASIA-SphereFace", "ir-50", False, _CASIA, "SphereFace", 0.9765
        ),
        "Backbone_IR_50_Epoch_32_Batch_28256_Time_2020-08-02-15-02_checkpoint.pth": _robfr(
            "CASIA-Am", "ir-50", False, _CASIA, "AM-Softmax", 0.978
        ),
        "20180402-114759-vggface2.pt": Published(
            "InceptionResnetV1-vggface2", "facenet", "inception-resnet-v1", False, "VGGFace2", "softmax", 0.9965
        ),
        "20180408-102900-casia-webface.pt": Published(
            "InceptionResnetV1-casia-webface", "facenet", "inception-resnet-v1", False, _CASIA, "softmax", 0.9905
        ),
    }
)
"""Public checkpoints by file name."""


@dataclass(frozen=True)
class Recognised:
    """A checkpoint with its architecture.

    Attributes:
        architecture: which.
        options: what its tensors say; channel order and scale are those of the publisher, see ``bgr``.
        bgr: the channel order, or None where neither file name nor publisher tells.
        published: the public checkpoint of that file name.
        state: the tensors under the architecture's names, float32.
        ignored: names of tensors of the training that were left out.
    """

    architecture: Architecture
    options: Options
    bgr: bool | None
    published: Published | None
    state: Mapping[str, Tensor]
    ignored: tuple[str, ...] = ()


def recognise(path: Path, publisher: Publisher) -> Recognised:
    """Read a checkpoint and say which architecture it belongs to.

    A bare state dict is taken, and one under a usual key (``state_dict``, ``model`` and others); prefixes such as
    ``module.`` are dropped. Only tensors and plain containers are read, so that a file cannot run code.

    Args:
        path: a file of ``torch.save``.
        publisher: whose conventions hold for what the tensors do not tell.

    Raises:
        NetworkError: the file holds no state dict, or that of no architecture known here, or of another publisher's.
        AssetError: the file cannot be read.
    """
    state = _state(path)
    for architecture in ARCHITECTURES.values():
        kept, ignored = _without_heads(state, architecture)
        options = _options(kept, architecture)
        if options is None:
            continue
        if publisher not in architecture.publishers:
            right = next(iter(architecture.publishers))
            raise NetworkError(
                f"{path} is {architecture.title}, which is not {publisher}'s; use `pmt networks add {right}`"
            )
        bgr, scale = architecture.publishers[publisher]
        published = PUBLISHED.get(path.name)
        if published is not None and (published.publisher, published.architecture) == (publisher, architecture.name):
            bgr = published.bgr
        else:
            published = None
        options = Options(options.embedding, bool(bgr), scale, options.columns)
        weights = fitted(kept, partial(architecture.build, options), path)
        return Recognised(architecture, options, bgr, published, weights, ignored)
    raise NetworkError(_unknown(path, state))


def _state(path: Path) -> dict[str, Tensor]:
    try:
        content = assets.read_torch(path)
    except AssetError as error:
        why = str(error).split(". Remedy:")[0]
        raise AssetError(f"{why}; give a checkpoint that torch.save wrote, with tensors and plain containers") from None
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise NetworkError(f"{path} holds {type(content).__name__}, not a state dict; give the file of the weights")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise NetworkError(f"{path} holds no tensors; give the file of the weights")
    stripped = True
    while stripped:
        stripped = False
        for prefix in _PREFIXES:
            if all(name.startswith(prefix) for name in tensors):
                # MobileNet's own names begin with "model." but for its last layers, so not all do.
                tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
                stripped = True
    return {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}


def _without_heads(
    state: Mapping[str, Tensor], architecture: Architecture
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    ignored = tuple(name for name in state if name.startswith(architecture.heads)) if architecture.heads else ()
    return {name: value for name, value in state.items() if name not in ignored}, ignored


def _options(state: Mapping[str, Tensor], architecture: Architecture) -> Options | None:
    """The options under which the architecture has just these tensors, or None."""
    rows = state.get(architecture.embedding)
    if rows is None or not rows.ndim or not rows.shape[0]:
        return None
    columns = (0, 112)
    kernel = state.get("linear7.conv.weight")
    if kernel is not None and kernel.ndim == 4 and kernel.shape[3] == 6:
        columns = _CASIA_COLUMNS
    options = Options(embedding=int(rows.shape[0]), columns=columns)
    return options if _shapes(architecture, options) == {k: tuple(v.shape) for k, v in state.items()} else None


def _shapes(architecture: Architecture, options: Options) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        network = architecture.build(options)
    found = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    return {name: shape for name, shape in found.items() if not name.endswith("num_batches_tracked")}


def _unknown(path: Path, state: Mapping[str, Tensor]) -> str:
    """The error for a state dict of no known architecture: which one comes nearest, and where they part."""

    def apart(architecture: Architecture) -> tuple[float, str]:
        kept, _ = _without_heads(state, architecture)
        shapes = _shapes(architecture, _options_guess(kept, architecture))
        missing = [name for name in shapes if name not in kept]
        other = [name for name in kept if name not in shapes]
        wrong = [name for name in shapes if name in kept and tuple(kept[name].shape) != shapes[name]]
        first = (
            f"{missing[0]} is missing"
            if missing
            else f"{other[0]} is not in it"
            if other
            else f"{wrong[0]} has shape {tuple(kept[wrong[0]].shape)}, not {shapes[wrong[0]]}"
        )
        share = (len(missing) + len(other) + len(wrong)) / max(len(shapes) + len(other), 1)
        return share, f"nearest is {architecture.title}, {100 * (1 - share):.0f}% the same; {first}"

    share, nearest = min(apart(architecture) for architecture in ARCHITECTURES.values())
    known = ", ".join(ARCHITECTURES)
    detail = f" ({nearest})" if share < 1 else ""
    return f"{path} is of no architecture known here{detail}; known are {known}"


def _options_guess(state: Mapping[str, Tensor], architecture: Architecture) -> Options:
    rows = state.get(architecture.embedding)
    return Options(embedding=int(rows.shape[0]) if rows is not None and rows.ndim else 512)


def valid_name(name: str) -> bool:
    """Whether a network may be called so: lower-case letters, digits, dots, dashes and underscores."""
    return re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", name) is not None
