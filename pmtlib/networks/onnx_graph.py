"""Any recognition network that is an ONNX file, as a differentiable module with units found from its graph.

The operators are converted by onnx2torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx.version_converter
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto, NodeProto, numpy_helper
from torch import fx

from pmtlib.convert.onnx import read_onnx_constants
from pmtlib.convert.state import first_line
from pmtlib.errors import NetworkError, PMTError
from pmtlib.networks.graph import GraphNetwork

_SIDE = 112
_LARGEST_SIDE = 512
_OPERATOR_SET = 17


class OnnxNetwork(GraphNetwork):
    """A network read from an ONNX file with one image input and one embedding output.

    Args:
        path: the file; its weights must be in it, not beside it.
        mean: subtracted from the images, in 0..255.
        scale: the difference is divided by it.
        bgr: the network takes blue, green, red.

    Shape:
        input: (N, 3, 112, 112), RGB in [0, 1], prepared as :class:`GraphNetwork` says.
        output: (N, D).

    Raises:
        NetworkError: the file is not ONNX, has other inputs and outputs, has an operator that cannot be converted, or
            cannot be separated anywhere.
    """

    def __init__(self, path: Path, *, mean: float = 127.5, scale: float = 127.5, bgr: bool = False) -> None:
        try:
            model = _folded(path)
            size, last = _input(model, path)
        except PMTError:
            raise
        except Exception as error:
            # Names that are no text, nodes without inputs, and whatever else a damaged graph holds.
            raise NetworkError(f"{path}: a damaged ONNX file ({first_line(error)[:160]}); export it again") from error
        graph = _converted(model, path)
        super().__init__(graph, size=size, mean=mean, scale=scale, bgr=bgr, channels_last=last, label=str(path))


def _folded(path: Path) -> ModelProto:
    """The model with everything that is computed from constants alone as a constant: quantised weights among it."""
    constants = read_onnx_constants(path)
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (OSError, DecodeError, ValueError) as error:
        raise NetworkError(f"{path}: not a readable ONNX file ({first_line(error)}); export it again") from error
    graph = model.graph
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.initializer):
        raise NetworkError(f"{path}: its weights are in another file; save the model with all weights inside")
    stored = {tensor.name for tensor in graph.initializer}
    results = {entry.name for entry in graph.output}
    kept = _without_dropout([node for node in graph.node if not set(node.output) <= constants.keys()], results)
    used = {name for node in kept for name in node.input}
    made = [
        numpy_helper.from_array(np.ascontiguousarray(value), name)
        for name, value in constants.items()
        if name in used and name not in stored
    ]
    initialisers = [tensor for tensor in graph.initializer if tensor.name in used]
    # Some files list their weights, even those that nothing uses any more, as inputs.
    inputs = [entry for entry in graph.input if entry.name in used and entry.name not in constants]
    del graph.node[:], graph.initializer[:], graph.input[:]
    graph.node.extend(kept)
    graph.initializer.extend([*initialisers, *made])
    graph.input.extend(inputs)
    return _lowered(model)


def _without_dropout(nodes: Sequence[NodeProto], results: set[str]) -> list[NodeProto]:
    """Nodes in order, without those that do nothing outside the training; what read their output reads their input."""
    source: dict[str, str] = {}
    kept = []
    for node in nodes:
        if node.op_type in ("Dropout", "Identity") and node.output[0] not in results:
            source[node.output[0]] = source.get(node.input[0], node.input[0])
            continue
        for place, name in enumerate(node.input):
            node.input[place] = source.get(name, name)
        kept.append(node)
    return kept


def _lowered(model: ModelProto) -> ModelProto:
    """The model in an operator set that onnx2torch knows, where it can be expressed in it."""
    if all(entry.version <= _OPERATOR_SET for entry in model.opset_import if entry.domain in ("", "ai.onnx")):
        return model
    try:
        return onnx.version_converter.convert_version(model, _OPERATOR_SET)
    except RuntimeError:
        # It says so itself when it meets what it cannot convert.
        return model


def _input(model: ModelProto, path: Path) -> tuple[tuple[int, int], bool]:
    """Height and width that the file asks for, and whether the channels come last."""
    inputs, outputs = model.graph.input, model.graph.output
    if len(inputs) != 1 or len(outputs) != 1:
        raise NetworkError(
            f"{path}: {len(inputs)} inputs and {len(outputs)} outputs; a recognition network has one image and one "
            "embedding"
        )
    shape = [dimension.dim_value for dimension in inputs[0].type.tensor_type.shape.dim]
    if len(shape) != 4 or 3 not in (shape[1], shape[3]):
        given = " x ".join(str(value or "?") for value in shape) or "unknown"
        raise NetworkError(f"{path}: its input is {given}; a recognition network takes N x 3 x height x width")
    last = shape[1] != 3
    height, width = shape[1:3] if last else shape[2:]
    if max(height, width) > _LARGEST_SIDE:
        raise NetworkError(f"{path}: its input is {height} x {width}; at most {_LARGEST_SIDE} pixels a side")
    return (height or _SIDE, width or _SIDE), last


def _converted(model: ModelProto, path: Path) -> fx.GraphModule:
    # Imported when asked for: it brings torchvision, which other networks do without.
    from onnx2torch import convert

    try:
        module: fx.GraphModule = convert(model)
    except NotImplementedError as error:
        raise NetworkError(f"{path}: an operator cannot be converted: {first_line(error)[:160]}") from error
    except Exception as error:
        # The converter raises whatever its operators raise on a graph that it did not expect.
        raise NetworkError(f"{path}: cannot be converted ({first_line(error)[:160]})") from error
    return module
