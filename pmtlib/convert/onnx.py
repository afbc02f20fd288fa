"""Constants of an ONNX graph, with block-quantised weights dequantised.

Format: the ONNX operator specification, https://onnx.ai/onnx/operators/ (DequantizeLinear since version 21: a scale and
a zero point for each block along one axis).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import numpy_helper

from pmtlib.convert.state import REMEDY, first_line
from pmtlib.errors import NetworkError
from pmtlib.paths import check_regular

Constants = dict[str, NDArray[Any]]


def read_onnx_constants(path: Path) -> Constants:
    """Every constant of the graph by its name.

    First the initialisers as stored, then, in node order, whatever is computed from constants alone by
    ``DequantizeLinear`` (as float32) or ``Reshape``, and the values of ``Constant`` nodes. Nodes that take the input
    image are passed over: an architecture of pmtlib states its own computation.

    Raises:
        NetworkError: the file is not ONNX, or a constant in it is malformed.
    """
    try:
        check_regular(path)
        graph = onnx.load(str(path), load_external_data=False).graph
    except (OSError, DecodeError, ValueError) as error:
        raise NetworkError(f"{path}: not a readable ONNX file ({first_line(error)}); {REMEDY}") from error
    _refuse_external(graph, path)
    if not graph.initializer:
        raise NetworkError(f"{path}: an ONNX graph without weights; {REMEDY}")
    constants: Constants = {}
    name = ""
    try:
        for tensor in graph.initializer:
            name = tensor.name
            constants[name] = numpy_helper.to_array(tensor)
        for node in graph.node:
            name = node.name or node.op_type
            attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
            if node.op_type == "Constant" and "value" in attributes:
                constants[node.output[0]] = numpy_helper.to_array(attributes["value"])
            elif all(key in constants for key in node.input):
                inputs = [constants[key] for key in node.input]
                if node.op_type == "DequantizeLinear":
                    constants[node.output[0]] = dequantise_blocks(
                        *inputs, axis=attributes.get("axis", 1), block_size=attributes.get("block_size", 0)
                    )
                elif node.op_type == "Reshape":
                    constants[node.output[0]] = inputs[0].reshape([int(size) for size in inputs[1]])
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise NetworkError(f"{path}: {name} is malformed ({first_line(error)}); {REMEDY}") from error
    return constants


def _refuse_external(graph: onnx.GraphProto, path: Path) -> None:
    """Weights beside the file would be read from wherever the file says."""
    inside = [item.t for node in graph.node for item in node.attribute if item.HasField("t")]
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in (*graph.initializer, *inside)):
        raise NetworkError(f"{path}: its weights are in another file; save the model with all weights inside")


def dequantise_blocks(
    quantised: NDArray[Any],
    scale: NDArray[Any],
    zero_point: NDArray[Any] | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
) -> NDArray[np.float32]:
    """``(quantised - zero_point) * scale`` with one scale for each tensor, each index or each block along ``axis``.

    Args:
        quantised: integers, any shape.
        scale: a scalar; or a vector, one value for each index along ``axis``; or, where ``block_size`` is positive,
            ``quantised``'s shape with ``axis`` divided by the block size, rounded up.
        zero_point: as ``scale``; zero where absent.
        axis: the axis that scales run along.
        block_size: number of neighbours along ``axis`` that share a scale; 0 means no blocks.

    Raises:
        ValueError: the shapes do not fit together.
    """
    if zero_point is not None and zero_point.shape != scale.shape:
        raise ValueError(f"scale has shape {scale.shape}, zero point {zero_point.shape}")
    if not -quantised.ndim <= axis < max(quantised.ndim, 1):
        axis_free = scale.size == 1 and block_size == 0
        if not axis_free:
            raise ValueError(f"axis {axis} of a tensor with {quantised.ndim} axes")

    def spread(values: NDArray[Any]) -> NDArray[np.float32]:
        values = values.astype(np.float32)
        if block_size > 0:
            blocks = list(quantised.shape)
            blocks[axis] = -(-blocks[axis] // block_size)
            if list(values.shape) != blocks:
                raise ValueError(f"scales of shape {values.shape}, not {tuple(blocks)}")
            # A block may be said to be longer than the axis, and would be repeated as often.
            length = min(block_size, max(quantised.shape[axis], 1))
            return np.repeat(values, length, axis).take(np.arange(quantised.shape[axis]), axis)
        if values.size == 1:
            return values.reshape(())
        if values.shape != (quantised.shape[axis],):
            raise ValueError(f"scales of shape {values.shape} along an axis of {quantised.shape[axis]}")
        return values.reshape([-1 if index == axis % quantised.ndim else 1 for index in range(quantised.ndim)])

    offset = np.float32(0.0) if zero_point is None else spread(zero_point)
    result: NDArray[np.float32] = (quantised.astype(np.float32) - offset) * spread(scale)
    return result
