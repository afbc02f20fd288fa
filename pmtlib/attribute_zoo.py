"""The attribute networks by name: architecture, weights, labels, provenance.

    >>> from pmtlib import attribute_zoo
    >>> attribute_zoo.names()
    ('faceres', 'gear', 'fer-big-xception')
    >>> network = attribute_zoo.load("gear")  # doctest: +SKIP
    >>> attribute_zoo.card("gear").labels["gender"]
    ('male', 'female')

They stand in for the networks of DeepFace, whose weights no package index carries, and are reported under their own
names. Weights are converted once, as those of :mod:`pmtlib.zoo`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pmtlib import assets, converted, devices
from pmtlib.errors import NetworkError

if TYPE_CHECKING:
    from pmtlib.networks.attributes import AttributeNetwork


@dataclass(frozen=True)
class AttributeCard:
    """What is known about an attribute network.

    Attributes:
        name: by which it is asked for.
        build: gives the architecture, its parameters at random.
        convert: gives the float32 state dict from the verified asset files (asset name to path).
        assets: names in :data:`pmtlib.assets.ASSETS`.
        labels: the attributes that it estimates, each with its labels in the order of the probabilities.
        training_set: what it was trained on, as far as its publisher says.
        licence: of the weights, as far as it is stated.
        parameters: how many the network has.
        input: what the network itself sees of the aligned crop, in words.
        note: what a user should know besides.
        conversion: version of ``convert`` and of the module's parameter names; a new one makes cached files stale.
    """

    name: str
    build: Callable[[], AttributeNetwork]
    convert: Callable[[Mapping[str, Path]], dict[str, Tensor]]
    assets: tuple[str, ...]
    labels: Mapping[str, tuple[str, ...]]
    training_set: str
    licence: str
    parameters: int
    input: str
    note: str = ""
    conversion: int = 1


def names() -> tuple[str, ...]:
    """The names of all attribute networks."""
    return tuple(CARDS)


def card(name: str) -> AttributeCard:
    """What is known about an attribute network.

    Raises:
        NetworkError: there is no such network.
    """
    if name in CARDS:
        return CARDS[name]
    close = difflib.get_close_matches(name, CARDS, n=1, cutoff=0.5)
    guess = f" did you mean {close[0]!r}?" if close else ""
    raise NetworkError(f"no attribute network {name!r};{guess} known are {', '.join(CARDS)}")


def load(name: str, device: torch.device | str = "cpu") -> AttributeNetwork:
    """An attribute network with its published weights, frozen, in evaluation mode.

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
    network = converted.load(
        name, converted_path(name), wanted.build, lambda: wanted.convert(assets.fetch(wanted.assets))
    )
    return network.to(target)


def is_present(name: str) -> bool:
    """Whether a network can be loaded without a download.

    Raises:
        NetworkError: there is no such network.
    """
    return converted_path(name).is_file() or all(assets.available(asset) for asset in card(name).assets)


def available(name: str) -> bool:
    """Whether the weights are here or can be downloaded.

    Raises:
        NetworkError: there is no such network.
    """
    return converted_path(name).is_file() or all(assets.obtainable(asset) for asset in card(name).assets)


def weights_checksum(name: str) -> str:
    """SHA-256 that stands for a network's weights, from the asset table alone.

    Raises:
        NetworkError: there is no such network.
    """
    wanted = card(name)
    return converted.checksum(wanted.assets, wanted.conversion)


def converted_path(name: str) -> Path:
    """Where the converted weights are kept; the file need not exist.

    Raises:
        NetworkError: there is no such network.
    """
    return converted.location(name, weights_checksum(name))


def _function(name: str) -> Callable[..., Any]:
    """``pmtlib.networks.attributes.<name>``, imported only when it is called."""

    def call(*arguments: Any) -> Any:
        return getattr(importlib.import_module("pmtlib.networks.attributes"), name)(*arguments)

    return call


_GENDERS = ("male", "female")

_TABLE = (
    AttributeCard(
        name="faceres",
        build=_function("FaceRes"),
        convert=_function("convert_faceres"),
        assets=("faceres-deep-json", "faceres-deep-bin"),
        labels=MappingProxyType({"age": tuple(str(year) for year in range(1, 101)), "gender": _GENDERS}),
        training_set="VGGFace2 (trunk); ages and genders of IMDB-WIKI faces (heads)",
        licence="MIT (package human-models); Apache-2.0 (HSE_FaceRec_tf)",
        parameters=3_484_389,
        input="224x224 BGR, minus (103.939, 116.779, 123.68)",
        note="The trunk is that of mobilenet-vggface2. Its ages peak at 10, 17, 30, 40, 50 and 70.",
    ),
    AttributeCard(
        name="gear",
        build=_function("Gear"),
        convert=_function("convert_gear"),
        assets=("gear-json", "gear-bin"),
        labels=MappingProxyType(
            {
                "age": ("0-20", "21-25", "26-30", "31-40", "41-50", "51-60", "61+"),
                "gender": _GENDERS,
                "race": ("White", "Black", "Asian", "Indian", "Others"),
            }
        ),
        training_set="not stated (the labels are those of UTKFace)",
        licence="MIT (human-models)",
        parameters=749_454,
        input="198x198 RGB, x / 255",
        note="Half-precision weights. Weak: it takes many women for men and most people for White.",
    ),
    AttributeCard(
        name="fer-big-xception",
        build=_function("BigXception"),
        convert=_function("convert_big_xception"),
        assets=("emotion-json", "emotion-bin"),
        labels=MappingProxyType({"emotion": ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")}),
        training_set="FER2013",
        licence="MIT (oarriaga/face_classification, human-models)",
        parameters=205_127,
        input="64x64 grey, x / 127.5 - 1",
        note="The larger of the two XCEPTION networks of its authors (big_XCEPTION).",
    ),
)

CARDS: Mapping[str, AttributeCard] = MappingProxyType({entry.name: entry for entry in _TABLE})
"""Every attribute network by its name."""
