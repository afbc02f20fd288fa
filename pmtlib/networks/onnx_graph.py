"""Any recognition network that is an ONNX file, as a differentiable module with units found from its graph.

The operators are converted by onnx2torch. A *unit* ends where one value alone carries everything that comes later: such
a value separates the network, so that it may be the shallow feature of a service. Between two of them a unit holds one
layer with weights, or one residual block, and the normalisation and activation that follow.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto, NodeProto, numpy_helper
from torch import Tensor, fx, nn
from torch.nn import functional

from pmtlib.convert.onnx import read_onnx_constants
from pmtlib.convert.state import first_line
from pmtlib.errors import NetworkError
from pmtlib.networks.base import FaceNetwork

_SIDE = 112
_LARGEST_SIDE = 512
_OPERATOR_SET = 17
# Parameters of a convolution or a linear layer have two axes or more; those of a normalisation have one.
_WEIGHT_AXES = 2


class OnnxNetwork(FaceNetwork):
    """A network read from an ONNX file with one image input and one embedding output.

    Units ``unit1``, ``unit2``, .. and, last, ``head``, which ends in the embedding.

    Args:
        path: the file; its weights must be in it, not beside it.
        mean: subtracted from the images, in 0..255.
        scale: the difference is divided by it.
        bgr: the network takes blue, green, red.

    Shape:
        input: (N, 3, 112, 112), RGB in [0, 1]; where the file asks for another shape, the middle of that shape (of
            112 x 96: columns 8 to 104), and where it asks for another size, resized bilinearly.
        output: (N, D).

    Raises:
        NetworkError: the file is not ONNX, has other inputs and outputs, has an operator that cannot be converted, or
            cannot be separated anywhere.
    """

    def __init__(self, path: Path, *, mean: float = 127.5, scale: float = 127.5, bgr: bool = False) -> None:
        model = _folded(path)
        size, last = _input(model, path)
        super().__init__(_units(_converted(model, path), path))
        self.mean, self.scale, self.bgr = mean, scale, bgr
        self.size, self.channels_last = size, last

    def prepare(self, images: Tensor) -> Tensor:
        """(255 x - ``mean``) / ``scale`` in the file's own size, channel order and layout."""
        height, width = self.size
        rows, columns = (min(_SIDE, round(_SIDE * height / width)), min(_SIDE, round(_SIDE * width / height)))
        top, left = (_SIDE - rows) // 2, (_SIDE - columns) // 2
        images = images[..., top : top + rows, left : left + columns]
        if images.shape[2:] != self.size:
            images = functional.interpolate(images, size=self.size, mode="bilinear", align_corners=False)
        seen = (255.0 * (images.flip(1) if self.bgr else images) - self.mean) / self.scale
        return seen.permute(0, 2, 3, 1) if self.channels_last else seen


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
    from onnx2torch import convert  # type: ignore[import-untyped]

    try:
        module: fx.GraphModule = convert(model)
    except NotImplementedError as error:
        raise NetworkError(f"{path}: an operator cannot be converted: {first_line(error)[:160]}") from error
    except Exception as error:
        # The converter raises whatever its operators raise on a graph that it did not expect.
        raise NetworkError(f"{path}: cannot be converted ({first_line(error)[:160]})") from error
    return module


def _units(module: fx.GraphModule, path: Path) -> OrderedDict[str, nn.Module]:
    nodes = [node for node in module.graph.nodes if node.op != "output"]
    (output,) = [node for node in module.graph.nodes if node.op == "output"]
    (image,) = [node for node in nodes if node.op == "placeholder"]
    depends = {image}
    for node in nodes:
        if any(source in depends for source in node.all_input_nodes):
            depends.add(node)
    flow = [node for node in nodes if node in depends and node is not image]
    result = output.args[0] if isinstance(output.args[0], fx.Node) else output.all_input_nodes[0]
    # Position in the flow after which a value is no longer used.
    last_use = {
        node: max((flow.index(user) for user in node.users if user in depends and user is not output), default=-1)
        for node in (image, *flow)
    }
    last_use[result] = len(flow)
    segments: list[list[fx.Node]] = [[]]
    for place, node in enumerate(flow):
        segments[-1].append(node)
        alive = [value for value in (image, *flow[: place + 1]) if last_use[value] > place]
        if alive == [node] and place < len(flow) - 1:
            segments.append([])
    joined: list[list[fx.Node]] = []
    for segment in segments:
        if joined and not (_has_weights(module, segment) and _has_weights(module, joined[-1])):
            joined[-1] += segment
        else:
            joined.append(segment)
    if len(joined) < 2:
        raise NetworkError(f"{path}: no single value separates its graph anywhere, so it has no shallow model")
    units: OrderedDict[str, nn.Module] = OrderedDict()
    before = image
    for number, segment in enumerate(joined, start=1):
        part = _slice(module, before, segment)
        # Some files end in a map of one pixel.
        last = number == len(joined)
        units["head" if last else f"unit{number}"] = nn.Sequential(part, nn.Flatten()) if last else part
        before = segment[-1]
    return units


def _has_weights(module: fx.GraphModule, nodes: Sequence[fx.Node]) -> bool:
    for node in nodes:
        if node.op == "call_module" and any(
            parameter.ndim >= _WEIGHT_AXES for parameter in module.get_submodule(str(node.target)).parameters()
        ):
            return True
        for source in node.all_input_nodes:
            # A slope of PReLU has the axes of a map, all but one of length one.
            if source.op == "get_attr" and sum(side > 1 for side in _attribute(module, str(source.target)).shape) >= 2:
                return True
    return False


def _attribute(module: fx.GraphModule, target: str) -> Tensor:
    found: Any = module
    for part in target.split("."):
        found = getattr(found, part)
    return found if isinstance(found, Tensor) else torch.empty(0)


def _slice(module: fx.GraphModule, before: fx.Node, nodes: Sequence[fx.Node]) -> fx.GraphModule:
    """The part of the graph that computes ``nodes`` from the value of ``before``, with the constants it needs."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {before: graph.placeholder("features")}

    def copy(node: fx.Node) -> fx.Node:
        for source in node.all_input_nodes:
            if source not in copies:
                copies[source] = copy(source)
        return graph.node_copy(node, lambda source: copies[source])

    for node in nodes:
        copies[node] = copy(node)
    graph.output(copies[nodes[-1]])
    graph.lint()  # type: ignore[no-untyped-call]
    return fx.GraphModule(module, graph)
