"""Architectures that public checkpoints come in, and which of them a state dict belongs to.

An architecture is recognised by the names and shapes of its tensors alone. What those do not tell, the order of the
channels and the scale of the input, comes from the publisher's convention or from the name of a published file.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from pmtlib import assets
from pmtlib.convert.state import fitted
from pmtlib.errors import AssetError, NetworkError
from pmtlib.networks.base import FaceNetwork
from pmtlib.networks.graph import GraphNetwork, traced
from pmtlib.networks.inception_resnet import InceptionResNetV1
from pmtlib.networks.ir import IRESNET_BLOCKS, IResNet, IRNet
from pmtlib.networks.mobileface import MobileFace, MobileNet
from pmtlib.networks.resnet import ResNet

Publisher = Literal["robfr", "evolve", "insightface", "facenet", "deepface", "timm"]
PUBLISHERS: tuple[Publisher, ...] = get_args(Publisher)
"""RobFR; face.evoLVe; InsightFace's arcface_torch; facenet-pytorch; DeepFace's PyTorch networks; backbones of timm."""

_CASIA_COLUMNS = (8, 104)
# What training code wraps a state dict in, and what it puts before every name.
_WRAPPERS = ("state_dict", "net_state_dict", "model_state_dict", "model", "backbone")
_PREFIXES = ("module.", "backbone.", "model.", "net.")


@dataclass(frozen=True)
class Options:
    """What a checkpoint leaves open in its architecture.

    Attributes:
        embedding: length of the embedding.
        bgr: the network takes blue, green, red.
        mean: subtracted from the images, in 0..255.
        scale: the difference is divided by it.
        columns: columns of the 112-wide crop that the network sees, half open.
    """

    embedding: int = 512
    bgr: bool = False
    mean: float = 127.5
    scale: float = 127.5
    columns: tuple[int, int] = (0, 112)


OWN = "pmtlib"
"""Beside the state dict of a network that ``pmt train`` made stands, under this key, what it does not tell."""


@dataclass(frozen=True)
class Convention:
    """How a publisher's networks take their input.

    Attributes:
        bgr: blue, green, red; None where it differs from file to file.
        mean: subtracted from the images, in 0..255.
        scale: the difference is divided by it.
        firm: mean and scale are known; otherwise the usual ones are tried besides.
    """

    bgr: bool | None
    mean: float = 127.5
    scale: float = 127.5
    firm: bool = True


@dataclass(frozen=True)
class Architecture:
    """One that checkpoints come in.

    Attributes:
        name: by which records name it.
        title: for a reader.
        module: gives the publisher's module, its parameters at random.
        embedding: the tensor whose rows are the dimensions of the embedding.
        publishers: who publishes such checkpoints, and how they take their input.
        heads: prefixes of tensors that belong to the training, not to the network.
        wrap: makes a network with units of the module, where it is none itself.
    """

    name: str
    title: str
    module: Callable[[Options], nn.Module]
    embedding: str
    publishers: Mapping[Publisher, Convention]
    heads: tuple[str, ...] = ()
    wrap: Callable[[nn.Module, Options], FaceNetwork] | None = None

    def network(self, options: Options, state: Mapping[str, Tensor] | None = None) -> FaceNetwork:
        """The network, with a checkpoint's tensors or its parameters at random; torch's random state is kept.

        Raises:
            NetworkError: a foreign module cannot be cut into units, or its package is absent.
        """
        with torch.random.fork_rng(devices=[]):
            module = self.module(options)
        if state is not None:
            module.load_state_dict(dict(state))
        if self.wrap is not None:
            return self.wrap(module.eval(), options)
        assert isinstance(module, FaceNetwork)
        return module


def _ir(depth: Any, excitation: bool) -> Callable[[Options], nn.Module]:
    def module(options: Options) -> nn.Module:
        return IRNet(depth, excitation=excitation, scale=options.scale, bgr=options.bgr, embedding=options.embedding)

    return module


def _iresnet(depth: int) -> Callable[[Options], nn.Module]:
    return lambda options: IResNet(depth, bgr=options.bgr, embedding=options.embedding)


def _resnet(depth: Any) -> Callable[[Options], nn.Module]:
    return lambda options: ResNet(depth, scale=options.scale, bgr=options.bgr, embedding=options.embedding)


def _mobilenet(stride: Any) -> Callable[[Options], nn.Module]:
    return lambda options: MobileNet(stride, bgr=options.bgr, embedding=options.embedding)


def _mobileface(options: Options) -> nn.Module:
    return MobileFace(embedding=options.embedding, bgr=options.bgr, columns=options.columns)


_DEEPFACE = "deepface.models.facial_recognition.pytorch"


def _deepface(
    label: str, file: str, kind: str, size: int, *arguments: Any, leaf: str = "", shell: str = ""
) -> dict[str, Any]:
    """How a PyTorch network of the deepface package is built and cut; the package is imported when it is asked for.

    ``leaf`` is a function of the file that cannot be traced, ``shell`` a class that takes the embedding from a network
    that was trained with its classifier.
    """

    def home() -> Any:
        try:
            return importlib.import_module(f"{_DEEPFACE}.{file}")
        except ImportError as error:
            raise NetworkError(
                f"{label} comes from the package deepface, which is absent ({error}); pip install -e '.[attributes]'"
            ) from error

    def module(options: Options) -> nn.Module:
        built: nn.Module = getattr(home(), kind)(*arguments)
        return built

    def wrap(module: nn.Module, options: Options) -> FaceNetwork:
        leaves = [getattr(home(), leaf)] if leaf else []
        whole = getattr(home(), shell)(module).eval() if shell else module
        return _cut(whole, label, (size, size), options, leaves)

    return {"module": module, "wrap": wrap}


def _cut(
    module: nn.Module, label: str, size: tuple[int, int], options: Options, leaves: Sequence[Callable[..., Any]] = ()
) -> FaceNetwork:
    graph = traced(module, label, leaves)
    return GraphNetwork(graph, size=size, mean=options.mean, scale=options.scale, bgr=options.bgr, label=label)


def timm_architecture(model: str) -> Architecture:
    """A backbone of timm, whose classifier gives the embedding, on images of 112x112.

    Args:
        model: timm's name of it.

    Raises:
        NetworkError: timm has no such model.
    """
    # Seconds to import, and most architectures do without it.
    import timm

    if model not in timm.list_models():
        close = difflib.get_close_matches(model, timm.list_models(), n=1)
        guess = f"; did you mean {close[0]}?" if close else ""
        raise NetworkError(f"timm has no model {model!r}{guess}")
    with torch.device("meta"):
        settings: Any = timm.create_model(model, pretrained=False).default_cfg
    classifier = settings.get("classifier") or ""

    def module(options: Options) -> nn.Module:
        built: nn.Module = timm.create_model(model, pretrained=False, num_classes=options.embedding)
        return built

    return Architecture(
        f"{_TIMM}{model}",
        f"timm's {model}",
        module,
        f"{classifier}.weight",
        {"timm": Convention(False, firm=False)},
        wrap=lambda module, options: _cut(module, model, (112, 112), options),
    )


_TIMM = "timm:"


def _table() -> Iterator[Architecture]:
    robfr = Convention(True, scale=128.0)
    evolve = Convention(False)
    yield Architecture("mobileface", "MobileFaceNet", _mobileface, "linear1.conv.weight", {"robfr": robfr})
    for stride, label in ((2, "mobilenet"), (1, "mobilenet-stride1")):
        title = f"MobileNet with stride {stride}"
        yield Architecture(label, title, _mobilenet(stride), "fc.weight", {"robfr": robfr})
    for depth in (50, 101, 152):
        published: dict[Publisher, Convention] = {"evolve": evolve}
        if depth == 50:
            published["robfr"] = Convention(None, scale=128.0)
        yield Architecture(f"resnet-{depth}", f"ResNet-{depth}", _resnet(depth), "fc.weight", published)
    for depth in (50, 100, 152):
        for excitation in (False, True):
            published = {"evolve": evolve}
            if depth == 50:
                published["robfr"] = Convention(False, scale=128.0) if excitation else Convention(None)
            kind = "IR-SE" if excitation else "IR"
            yield Architecture(
                f"{kind.lower()}-{depth}", f"{kind}-{depth}", _ir(depth, excitation), "output_layer.3.weight", published
            )
    for depth in IRESNET_BLOCKS:
        title = f"arcface_torch r{depth}"
        yield Architecture(f"iresnet-{depth}", title, _iresnet(depth), "fc.weight", {"insightface": Convention(False)})
    yield Architecture(
        "inception-resnet-v1",
        "Inception-ResNet-v1",
        lambda options: InceptionResNetV1(bgr=options.bgr, embedding=options.embedding),
        "last_linear.weight",
        {"facenet": Convention(False, scale=128.0)},
        heads=("logits.",),
    )
    # DeepFace gives its networks blue, green, red in 0..1, unless it is told otherwise.
    deepface: dict[Publisher, Convention] = {"deepface": Convention(True, 0.0, 255.0, firm=False)}
    for label, rows, built in (
        ("ArcFace", "dense", _deepface("ArcFace", "ArcFace", "ArcFaceModel", 112)),
        (
            "GhostFaceNet",
            "gdc_conv",
            _deepface("GhostFaceNet", "GhostFaceNet", "GhostFaceNetV1", 112, leaf="same_padding"),
        ),
        ("Facenet", "bottleneck", _deepface("Facenet", "Facenet", "InceptionResNetV1", 160, 128)),
        ("Facenet512", "bottleneck", _deepface("Facenet512", "Facenet", "InceptionResNetV1", 160, 512)),
        ("OpenFace", "dense_layer", _deepface("OpenFace", "OpenFace", "OpenFaceNet", 96)),
        ("VGG-Face", "fc7", _deepface("VGG-Face", "VGGFace", "VggFaceBaseModel", 224, shell="VggFaceDescriptor")),
    ):
        yield Architecture(
            f"deepface-{label.lower()}",
            f"DeepFace's {label}",
            embedding=f"{rows}.weight",
            publishers=deepface,
            **built,
        )


ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType({entry.name: entry for entry in _table()})
"""Every architecture by its name."""


def find(name: str) -> Architecture:
    """An architecture by its name, or one of timm's by ``timm:MODEL``.

    Raises:
        NetworkError: there is no such architecture.
    """
    if name.startswith(_TIMM):
        return timm_architecture(name.removeprefix(_TIMM))
    if name not in ARCHITECTURES:
        raise NetworkError(f"no architecture {name!r}; known are {', '.join(ARCHITECTURES)}; upgrade pmtlib")
    return ARCHITECTURES[name]


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


_MS1M, _CASIA, _UNSTATED = "MS-Celeb-1M", "CASIA-WebFace", "not stated"


def _robfr(title: str, architecture: str, bgr: bool, training_set: str, loss: str, lfw: float) -> Published:
    return Published(title, "robfr", architecture, bgr, training_set, loss, lfw)


# RobFR/networks/*.py: names, channel orders and, for some, the corpus; config.py: accuracies.
PUBLISHED: Mapping[str, Published] = MappingProxyType(
    {
        "Backbone_mobileface_Epoch_36_Batch_409392_Time_2019-04-07-16-40_checkpoint.pth": _robfr(
            "MobileFace", "mobileface", True, _UNSTATED, _UNSTATED, 0.9945
        ),
        "Backbone_Mobilenet_Epoch_125_Batch_710750_Time_2019-04-14-18-15_checkpoint.pth": _robfr(
            "Mobilenet", "mobilenet", True, _UNSTATED, _UNSTATED, 0.9935
        ),
        "Backbone_Mobilenet_Epoch_124_Batch_1410128_Time_2019-04-30-14-43_checkpoint.pth": _robfr(
            "Mobilenet-stride1", "mobilenet-stride1", True, _UNSTATED, _UNSTATED, 0.99567
        ),
        "Backbone_ResNet_50_Epoch_36_Batch_204696_Time_2019-04-14-14-44_checkpoint.pth": _robfr(
            "ResNet50", "resnet-50", True, _MS1M, _UNSTATED, 0.99717
        ),
        "Backbone_ResNet_50_Epoch_82_Batch_72406_Time_2019-04-28-20-57_checkpoint.pth": _robfr(
            "ResNet50-casia", "resnet-50", False, _CASIA, _UNSTATED, 0.986
        ),
        "model_ir_se50.pth": _robfr("ArcFace", "ir-se-50", False, _UNSTATED, "ArcFace", 0.995),
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
        options: what its tensors say, and the input as the publisher has it.
        convention: the publisher's; its channel order is None where neither publisher nor file name tells.
        published: the public checkpoint of that file name.
        state: the tensors under the publisher's names, float32.
        ignored: names of tensors of the training that were left out.
        own: what ``pmt train`` says of a network that it made: ``channels``, ``training_set``, ``loss``.
    """

    architecture: Architecture
    options: Options
    convention: Convention
    published: Published | None
    state: Mapping[str, Tensor]
    ignored: tuple[str, ...] = ()
    own: Mapping[str, str] = field(default_factory=dict)


def recognise(path: Path, publisher: Publisher, model: str | None = None) -> Recognised:
    """Read a checkpoint and say which architecture it belongs to.

    A bare state dict is taken, and one under a usual key (``state_dict``, ``model`` and others); prefixes such as
    ``module.`` are dropped. Only tensors and plain containers are read, so that a file cannot run code.

    Args:
        path: a file of ``torch.save``.
        publisher: whose conventions hold for what the tensors do not tell.
        model: the backbone's name, for timm alone, which has too many to look through.

    Raises:
        NetworkError: the file holds no state dict, or that of no architecture known here, or of another publisher's.
        AssetError: the file cannot be read.
    """
    if (publisher == "timm") != (model is not None):
        raise NetworkError(
            "timm has hundreds of backbones; name yours with --model" if model is None else "--model is for timm alone"
        )
    state, own = _state(path)
    candidates = [timm_architecture(model)] if model is not None else _of(publisher)
    for architecture in candidates:
        kept, ignored = _without_heads(state, architecture)
        options = _options(kept, architecture)
        if options is None:
            continue
        convention = architecture.publishers[publisher]
        published = PUBLISHED.get(path.name)
        # A name alone says little: the file has to be what is published under it.
        known = (publisher, architecture.name, Options().embedding, Options().columns)
        if published is not None and known == (
            published.publisher,
            published.architecture,
            options.embedding,
            options.columns,
        ):
            convention = replace(convention, bgr=published.bgr)
        else:
            published = None
        if own.get("channels") in ("rgb", "bgr"):
            convention = replace(convention, bgr=own["channels"] == "bgr")
        options = replace(options, bgr=bool(convention.bgr), mean=convention.mean, scale=convention.scale)
        weights = fitted(kept, partial(architecture.module, options), path)
        return Recognised(architecture, options, convention, published, weights, ignored, own)
    for architecture in ARCHITECTURES.values():
        # DeepFace's are tried only when they are asked for: their package takes seconds to import.
        right = next(iter(architecture.publishers))
        if architecture in candidates or right == "deepface":
            continue
        if _options(_without_heads(state, architecture)[0], architecture) is not None:
            raise NetworkError(
                f"{path} is {architecture.title}, which is not {publisher}'s; use `pmt networks add {right}`"
            )
    raise NetworkError(_unknown(path, state, candidates))


def _of(publisher: Publisher) -> list[Architecture]:
    return [architecture for architecture in ARCHITECTURES.values() if publisher in architecture.publishers]


def _state(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a checkpoint, and what a training of this package wrote beside them."""
    if path.is_dir():
        raise NetworkError(f"{path} is a folder; give the checkpoint's file")
    if path.suffix.lower() == ".onnx":
        raise NetworkError(f"{path} is an ONNX file; use `pmt networks add onnx`")
    try:
        content = assets.read_torch(path)
    except AssetError as error:
        why = str(error).split(". Remedy:")[0]
        raise AssetError(f"{why}; give a checkpoint that torch.save wrote, with tensors and plain containers") from None
    own = content.get(OWN) if isinstance(content, Mapping) else None
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
    kept = {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}
    return kept, {str(key): str(value) for key, value in own.items()} if isinstance(own, Mapping) else {}


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
        module = architecture.module(options)
    found = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    return {name: shape for name, shape in found.items() if not name.endswith("num_batches_tracked")}


def _unknown(path: Path, state: Mapping[str, Tensor], candidates: Sequence[Architecture]) -> str:
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

    share, nearest = min(apart(architecture) for architecture in candidates)
    known = ", ".join(architecture.name for architecture in candidates)
    detail = f" ({nearest})" if share < 1 else ""
    return f"{path} is of no architecture known here{detail}; tried are {known}"


def _options_guess(state: Mapping[str, Tensor], architecture: Architecture) -> Options:
    rows = state.get(architecture.embedding)
    return Options(embedding=int(rows.shape[0]) if rows is not None and rows.ndim else 512)
