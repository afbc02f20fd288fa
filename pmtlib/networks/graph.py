"""Networks that are known by their graph alone: units found where the graph can be separated.

A *unit* ends where one value alone carries everything that comes later: such a value separates the network, so that it
may be the shallow feature of a service. Between two of them a unit holds one layer with weights, or one residual block,
and the normalisation and activation that follow.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from pmtlib.convert.state import first_line
from pmtlib.errors import NetworkError
from pmtlib.networks.base import FaceNetwork

_SIDE = 112
# Parameters of a convolution or a linear layer have two axes or more; those of a normalisation have one.
_WEIGHT_AXES = 2


class GraphNetwork(FaceNetwork):
    """A network cut into units ``unit1``, ``unit2``, .. and, last, ``head``, which ends in the embedding.

    Args:
        graph: of the whole network, from one image batch to one embedding.
        size: height and width of the images that it takes.
        mean: subtracted from the images, in 0..255.
        scale: the difference is divided by it.
        bgr: the network takes blue, green, red.
        channels_last: it takes (N, height, width, 3).
        label: what errors call it.

    Shape:
        input: (N, 3, 112, 112), RGB in [0, 1]; where the network takes another shape, the middle of that shape (of
            112 x 96: columns 8 to 104), and where it takes another size, resized bilinearly.
        output: (N, D).

    Raises:
        NetworkError: the graph has not one input and one output, or cannot be separated anywhere.
    """

    def __init__(
        self,
        graph: fx.GraphModule,
        *,
        size: tuple[int, int],
        mean: float,
        scale: float,
        bgr: bool,
        channels_last: bool = False,
        label: str,
    ) -> None:
        super().__init__(_units(graph, label))
        self.size, self.channels_last = size, channels_last
        self.mean, self.scale, self.bgr = mean, scale, bgr

    def prepare(self, images: Tensor) -> Tensor:
        """(255 x - ``mean``) / ``scale`` in the network's own shape, size, channel order and layout."""
        height, width = self.size
        rows, columns = (min(_SIDE, round(_SIDE * height / width)), min(_SIDE, round(_SIDE * width / height)))
        top, left = (_SIDE - rows) // 2, (_SIDE - columns) // 2
        images = images[..., top : top + rows, left : left + columns]
        if images.shape[2:] != self.size:
            images = functional.interpolate(images, size=self.size, mode="bilinear", align_corners=False)
        seen = (255.0 * (images.flip(1) if self.bgr else images) - self.mean) / self.scale
        return seen.permute(0, 2, 3, 1) if self.channels_last else seen


def traced(module: nn.Module, label: str, leaves: Sequence[Callable[..., Any]] = ()) -> fx.GraphModule:
    """The graph of a module of another package, by symbolic tracing.

    Args:
        module: takes one batch of images; its other arguments keep their defaults.
        label: what errors call it.
        leaves: functions of the module's own file that are not looked into, as they ask for the size of a tensor.

    Raises:
        NetworkError: what it computes depends on the values it computes with, so it has no graph.
    """
    try:
        return fx.GraphModule(module, fx.Tracer(autowrap_functions=tuple(leaves)).trace(module))
    except Exception as error:
        # The module is foreign code, which raises whatever it raises on a symbol in the place of a tensor.
        raise NetworkError(f"{label}: cannot be traced ({first_line(error)[:160]}), so it has no units") from error


def _units(module: fx.GraphModule, label: str) -> OrderedDict[str, nn.Module]:
    nodes = [node for node in module.graph.nodes if node.op != "output"]
    (output,) = [node for node in module.graph.nodes if node.op == "output"]
    inputs = [node for node in nodes if node.op == "placeholder" and node.users]
    if len(inputs) != 1:
        raise NetworkError(f"{label}: {len(inputs)} inputs; a recognition network takes one batch of images")
    image = inputs[0]
    depends = {image}
    for node in nodes:
        if any(source in depends for source in node.all_input_nodes):
            depends.add(node)
    flow = [node for node in nodes if node in depends and node is not image]
    result = output.args[0] if isinstance(output.args[0], fx.Node) else output.all_input_nodes[0]
    # What is computed behind the result is of no use.
    flow = flow[: flow.index(result) + 1]
    position = {node: place for place, node in enumerate(flow)}
    segments: list[list[fx.Node]] = [[]]
    reach = max(position[user] for user in image.users if user in position)
    for place, node in enumerate(flow):
        segments[-1].append(node)
        # A segment ends where no value from before this node is used behind it.
        if reach <= place and node is not result:
            segments.append([])
        reach = max([reach, *(position[user] for user in node.users if user in position)])
    joined: list[list[fx.Node]] = []
    for segment in segments:
        if joined and not (_has_weights(module, segment) and _has_weights(module, joined[-1])):
            joined[-1] += segment
        else:
            joined.append(segment)
    if len(joined) < 2:
        raise NetworkError(f"{label}: no single value separates its graph anywhere, so it has no shallow model")
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
