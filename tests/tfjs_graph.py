"""A TensorFlow.js graph run node by node, in numpy and float64: another road to what our own modules compute.

It knows nothing of the architectures: it follows the inputs that the graph's JSON names, in the graph's own layout
(N, height, width, channels), with TensorFlow's rules of padding.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np

from pmtlib.convert.tfjs import read_tfjs_weights


def run(topology: Path, shard: Path, image: np.ndarray, outputs: list[str]) -> list[np.ndarray]:
    """The nodes ``outputs`` of the graph for a batch ``image`` (N, height, width, channels)."""
    nodes = {node["name"]: node for node in json.loads(topology.read_bytes())["modelTopology"]["node"]}
    weights = read_tfjs_weights(topology, [shard])
    values: dict[str, np.ndarray] = {}

    def value(name: str) -> np.ndarray:
        if name not in values:
            node = nodes[name]
            if node["op"] == "Placeholder":
                values[name] = image.astype(np.float64)
            elif node["op"] == "Const":
                constant = weights[name]
                values[name] = constant.astype(np.float64) if constant.dtype.kind == "f" else constant
            else:
                # Inputs first, one level of recursion a node: the graphs have a few hundred.
                values[name] = _OPERATIONS[node["op"]](_Node(node), *[value(source) for source in node["input"]])
        return values[name]

    return [value(name) for name in outputs]


class _Node:
    """Attributes of a node; strings are base64 in the file."""

    def __init__(self, node: dict[str, Any]) -> None:
        self.attributes = node.get("attr", {})
        assert self.text("data_format", "NHWC") == "NHWC"
        assert self.numbers("dilations", [1, 1, 1, 1]) == [1, 1, 1, 1]
        assert not self.flag("transpose_a")
        assert not self.flag("transpose_b")

    def text(self, name: str, default: str) -> str:
        return base64.b64decode(self.attributes[name]["s"]).decode() if name in self.attributes else default

    def flag(self, name: str) -> bool:
        return bool(self.attributes.get(name, {}).get("b", False))

    def numbers(self, name: str, default: list[int]) -> list[int]:
        return [int(number) for number in self.attributes[name]["list"]["i"]] if name in self.attributes else default

    def fused(self) -> list[str]:
        return [base64.b64decode(text).decode() for text in self.attributes["fused_ops"]["list"]["s"]]


def _windows(node: _Node, x: np.ndarray, kernel: tuple[int, int], fill: float) -> np.ndarray:
    """Windows (N, rows, columns, channels, kernel height, kernel width) of a padded map.

    "SAME" gives ceil(side / stride) windows; what the last one needs beyond the map is shared out between the two
    ends, the odd pixel behind.
    """
    strides = node.numbers("strides", [1, 1, 1, 1])[1:3]
    if node.text("padding", "VALID") == "SAME":
        pads = []
        for side, size, stride in zip(x.shape[1:3], kernel, strides, strict=True):
            missing = max((-(-side // stride) - 1) * stride + size - side, 0)
            pads.append((missing // 2, missing - missing // 2))
        x = np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=fill)
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel, axis=(1, 2))
    return windows[:, :: strides[0], :: strides[1]]


def _conv(node: _Node, x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return np.tensordot(_windows(node, x, kernel.shape[:2], 0.0), kernel, axes=([3, 4, 5], [2, 0, 1]))


def _depthwise(node: _Node, x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    assert kernel.shape[3] == 1
    windows = _windows(node, x, kernel.shape[:2], 0.0)
    return sum(
        windows[..., row, column] * kernel[row, column, :, 0]
        for row in range(kernel.shape[0])
        for column in range(kernel.shape[1])
    )


def _max_pool(node: _Node, x: np.ndarray) -> np.ndarray:
    return _windows(node, x, tuple(node.numbers("ksize", [])[1:3]), -np.inf).max((4, 5))


def _with_fused(node: _Node, y: np.ndarray, bias: np.ndarray) -> np.ndarray:
    operations = node.fused()
    assert operations in (["BiasAdd"], ["BiasAdd", "Relu"])
    return np.maximum(y + bias, 0) if "Relu" in operations else y + bias


def _reduced(function: Any, node: _Node, x: np.ndarray, axes: np.ndarray) -> np.ndarray:
    return function(x, axis=tuple(int(axis) for axis in axes), keepdims=node.flag("keep_dims"))


def _softmax(_: _Node, x: np.ndarray) -> np.ndarray:
    shifted = np.exp(x - x.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


_OPERATIONS = {
    "Conv2D": _conv,
    "_FusedConv2D": lambda node, x, kernel, bias: _with_fused(node, _conv(node, x, kernel), bias),
    "DepthwiseConv2dNative": _depthwise,
    "_FusedMatMul": lambda node, x, matrix, bias: _with_fused(node, x @ matrix, bias),
    "MaxPool": _max_pool,
    "Max": lambda node, x, axes: _reduced(np.max, node, x, axes),
    "Mean": lambda node, x, axes: _reduced(np.mean, node, x, axes),
    "Add": lambda _, a, b: a + b,
    "AddV2": lambda _, a, b: a + b,
    "Mul": lambda _, a, b: a * b,
    "Minimum": lambda _, a, b: np.minimum(a, b),
    "Maximum": lambda _, a, b: np.maximum(a, b),
    "Relu": lambda _, x: np.maximum(x, 0),
    "Sigmoid": lambda _, x: 1 / (1 + np.exp(-x)),
    "Softmax": _softmax,
    "Identity": lambda _, x: x,
}
