"""Weights of a network in dlib's own serialisation (``.dat``).

Format: dlib's ``serialize.h``, ``dnn/layers.h`` and ``dnn/tensor.h`` (http://dlib.net, Boost licence). An integer is
one control byte (low four bits: number of bytes that follow; top bit: sign) and its bytes, low end first; a string is
its length and its bytes; a tensor is the integer 2, four sizes, and float32 values, low end first. A layer's subnetwork
is written before the layer itself, so layers come in the order in which data pass through them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pmtlib.convert.state import REMEDY, first_line
from pmtlib.errors import NetworkError

LayerKind = Literal["con", "affine", "fc"]

# The layers with parameters, as they announce themselves: string length, then name and version.
_TAGS: dict[bytes, LayerKind] = {b"\x01\x05con_4": "con", b"\x01\x07affine_": "affine", b"\x01\x04fc_2": "fc"}
_TENSOR_VERSION = 2


@dataclass(frozen=True)
class DlibLayer:
    """A layer with parameters.

    Attributes:
        kind: ``con`` (convolution, filters then biases), ``affine`` (scales then shifts), ``fc`` (fully connected,
            one row for each input).
        parameters: float32, flat.
        settings: ``con``: filters, kernel rows, kernel columns, vertical stride, horizontal stride, vertical padding,
            horizontal padding. ``fc``: outputs, inputs. ``affine``: empty.
    """

    kind: LayerKind
    parameters: NDArray[np.float32]
    settings: tuple[int, ...] = ()


class _Cursor:
    """Reads dlib's primitives one after another from ``position`` on."""

    def __init__(self, data: bytes, position: int) -> None:
        self.data = data
        self.position = position

    def integer(self) -> int:
        control = self._take(1)[0]
        size = control & 0x0F
        if not 1 <= size <= 8 or control & 0x70:
            raise ValueError(f"no integer at byte {self.position - 1}")
        value = int.from_bytes(self._take(size), "little")
        return -value if control & 0x80 else value

    def integers(self, count: int) -> tuple[int, ...]:
        return tuple(self.integer() for _ in range(count))

    def tensor(self) -> NDArray[np.float32]:
        if (version := self.integer()) != _TENSOR_VERSION:
            raise ValueError(f"tensor version {version} before byte {self.position}")
        sizes = self.integers(4)
        if min(sizes) < 0:
            raise ValueError(f"tensor of {sizes} before byte {self.position}")
        count = sizes[0] * sizes[1] * sizes[2] * sizes[3]
        return np.frombuffer(self._take(4 * count), "<f4").astype(np.float32)

    def _take(self, count: int) -> bytes:
        taken = self.data[self.position : self.position + count]
        if len(taken) < count:
            raise ValueError(f"the file ends at byte {len(self.data)}, within a value")
        self.position += count
        return taken


def read_dlib_layers(path: Path) -> list[DlibLayer]:
    """The layers with parameters, in the order in which data pass through them.

    Layers without parameters (activations, pooling, skip connections) are passed over.

    Raises:
        NetworkError: the file is not dlib's, is cut short, or a layer in it is malformed.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise NetworkError(f"{path}: cannot be read ({first_line(error)}); {REMEDY}") from error
    announcement = re.compile(b"|".join(re.escape(tag) for tag in _TAGS))
    layers: list[DlibLayer] = []
    position = 0
    # Each search starts behind the last layer's parameters, so that weights are never taken for an announcement.
    while found := announcement.search(data, position):
        kind = _TAGS[found.group()]
        cursor = _Cursor(data, found.end())
        try:
            layers.append(_layer(cursor, kind))
        except ValueError as error:
            raise NetworkError(f"{path}: layer {len(layers) + 1} ({kind}) is malformed: {error}; {REMEDY}") from error
        position = cursor.position
    if not layers:
        raise NetworkError(f"{path}: not a dlib network (no layer with parameters in it); {REMEDY}")
    return layers


def _layer(cursor: _Cursor, kind: LayerKind) -> DlibLayer:
    if kind == "con":
        parameters = cursor.tensor()
        return DlibLayer(kind, parameters, cursor.integers(7))
    if kind == "fc":
        settings = cursor.integers(2)
        return DlibLayer(kind, cursor.tensor(), settings)
    return DlibLayer(kind, cursor.tensor())
