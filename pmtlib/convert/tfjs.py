"""Weights of a TensorFlow.js graph model: a JSON topology and binary shards.

Format: https://github.com/tensorflow/tfjs/tree/master/tfjs-converter (``weightsManifest``: in each group the weights
follow one another in the concatenated shards; quantised ones are float16, or integers with a scale and a minimum).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmtlib.convert.state import REMEDY, first_line
from pmtlib.errors import NetworkError

_TYPES: dict[str, str] = {
    "float32": "<f4",
    "float16": "<f2",
    "int32": "<i4",
    "uint8": "u1",
    "uint16": "<u2",
    "bool": "?",
}


def read_tfjs_weights(topology: Path, shards: Sequence[Path]) -> dict[str, NDArray[Any]]:
    """Every weight of the model by its name, in TensorFlow's own layout (kernels: height, width, in, out).

    Args:
        topology: the model's JSON file.
        shards: its binary files in the manifest's order, wherever they lie.

    Returns:
        Arrays in the type that the graph works in (float32 for quantised weights).

    Raises:
        NetworkError: a file is not what it should be, or the two do not belong together.
    """
    try:
        manifest = json.loads(topology.read_bytes())["weightsManifest"]
        groups = [(len(group["paths"]), list(group["weights"])) for group in manifest]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        message = f"{topology}: not a TensorFlow.js graph model ({first_line(error)}); {REMEDY}"
        raise NetworkError(message) from error
    if (listed := sum(count for count, _ in groups)) != len(shards):
        raise NetworkError(f"{topology}: lists {listed} weight files, {len(shards)} given; give each of them once")
    remaining = list(shards)
    weights: dict[str, NDArray[Any]] = {}
    for count, entries in groups:
        members, remaining = remaining[:count], remaining[count:]
        label = ", ".join(str(member) for member in members)
        try:
            data = b"".join(member.read_bytes() for member in members)
        except OSError as error:
            raise NetworkError(f"{label}: cannot be read ({first_line(error)}); {REMEDY}") from error
        position = 0
        for entry in entries:
            try:
                name = str(entry["name"])
                weights[name], position = _weight(entry, data, position)
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
                raise NetworkError(
                    f"{label}: does not hold what {topology.name} says ({first_line(error)}); {REMEDY}"
                ) from error
        if position != len(data):
            raise NetworkError(f"{label}: {len(data)} bytes, but {topology.name} describes {position}; {REMEDY}")
    return weights


def _weight(entry: Mapping[str, Any], data: bytes, position: int) -> tuple[NDArray[Any], int]:
    """One weight and the position behind it."""
    quantisation = entry.get("quantization")
    stored = np.dtype(_TYPES[quantisation["dtype"] if quantisation else entry["dtype"]])
    shape = tuple(int(size) for size in entry["shape"])
    if min(shape, default=0) < 0:
        raise ValueError(f"{entry['name']} has shape {shape}")
    count = math.prod(shape)
    end = position + count * stored.itemsize
    if end > len(data):
        raise ValueError(f"{entry['name']} ends at byte {end} of {len(data)}")
    array: NDArray[Any] = np.frombuffer(data, stored, count, position).reshape(shape)
    if quantisation:
        array = array.astype(np.float32)
        if quantisation["dtype"] != "float16":
            array = array * np.float32(quantisation["scale"]) + np.float32(quantisation["min"])
    return array.astype(np.dtype(_TYPES[entry["dtype"]])), end
