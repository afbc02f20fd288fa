"""Read a float TFLite file: its operators in execution order, each with the constant tensors that it uses.

TFLite is a FlatBuffer (schema: tensorflow/lite/schema/schema.fbs); the ``tflite`` package holds the generated
accessors. Only what a converter of a plain convolutional network needs is read: no graph is executed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tflite
from numpy.typing import NDArray

from pmtlib.errors import AssetError, PMTError

_KINDS: dict[int, str] = {code: name for name, code in vars(tflite.BuiltinOperator).items() if isinstance(code, int)}
_DTYPES: dict[int, type[np.generic]] = {
    tflite.TensorType.FLOAT32: np.float32,
    tflite.TensorType.FLOAT16: np.float16,
    tflite.TensorType.INT32: np.int32,
    tflite.TensorType.INT64: np.int64,
}
_CONVOLUTIONS = {"CONV_2D": tflite.Conv2DOptions, "DEPTHWISE_CONV_2D": tflite.DepthwiseConv2DOptions}


@dataclass(frozen=True)
class Convolution:
    """Geometry of a convolution: strides (vertical, horizontal), ``SAME`` or ``VALID``, fused activation or not."""

    stride: tuple[int, int]
    same: bool
    fused_activation: bool


@dataclass(frozen=True)
class Operator:
    """One operator of the graph.

    Attributes:
        kind: TFLite's name, such as ``"CONV_2D"``.
        name: name of the operator's output tensor.
        inputs: indices of the tensors that it reads.
        output: index of the tensor that it writes.
        constants: the constant inputs by tensor name, in input order, in the file's own layout (a convolution
            kernel is (out, height, width, in), a depthwise kernel (1, height, width, channels)).
        convolution: geometry, for the convolutions only.
    """

    kind: str
    name: str
    inputs: tuple[int, ...]
    output: int
    constants: dict[str, NDArray[Any]]
    convolution: Convolution | None


def read_operators(path: Path) -> list[Operator]:
    """The operators of the first subgraph of a TFLite file, in execution order.

    Raises:
        AssetError: not a TFLite file, a damaged one, or one with constants other than float or integer tensors (a
            quantised one).
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise AssetError(f"{path} cannot be read ({error.strerror}); fetch it again") from error
    if content[4:8] != b"TFL3":
        raise AssetError(f"{path} is not a TFLite file (identifier TFL3 missing); delete it and fetch it again")
    try:
        model = tflite.Model.GetRootAsModel(content, 0)
        graph = model.Subgraphs(0)
        # An entry takes four bytes at least; a damaged count would be gone through to its end.
        if max(graph.TensorsLength(), graph.OperatorsLength()) > len(content) // 4:
            raise ValueError("more entries than the file has room for")
        names = [graph.Tensors(i).Name().decode() for i in range(graph.TensorsLength())]
        return [_operator(model, graph, names, graph.Operators(i), path) for i in range(graph.OperatorsLength())]
    except PMTError:
        raise
    except Exception as error:  # The accessors follow whatever offsets a damaged file holds.
        raise AssetError(f"{path} is a damaged TFLite file ({type(error).__name__}); fetch it again") from error


def kernel_to_torch(kernel: NDArray[Any], *, depthwise: bool) -> NDArray[Any]:
    """A TFLite kernel, OHWI or 1HWC when depthwise, to torch's (out, in / groups, height, width)."""
    return np.ascontiguousarray(kernel.transpose(3, 0, 1, 2) if depthwise else kernel.transpose(0, 3, 1, 2))


def _operator(model: Any, graph: Any, names: list[str], operator: Any, path: Path) -> Operator:
    code = model.OperatorCodes(operator.OpcodeIndex())
    # Files older than schema 3a hold the code in the deprecated field only; newer ones fill both up to 127.
    kind = _KINDS[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
    inputs = tuple(int(i) for i in operator.InputsAsNumpy() if i >= 0)
    output = int(operator.OutputsAsNumpy()[0])
    constants = {}
    for index in inputs:
        value = _constant(model, graph.Tensors(index), path)
        if value is not None:
            constants[names[index]] = value
    return Operator(kind, names[output], inputs, output, constants, _convolution(kind, operator))


def _constant(model: Any, tensor: Any, path: Path) -> NDArray[Any] | None:
    buffer = model.Buffers(tensor.Buffer())
    if not buffer.DataLength():
        return None
    dtype = _DTYPES.get(tensor.Type())
    if dtype is None:
        raise AssetError(f"{path} holds tensor {tensor.Name().decode()} of a quantised type; a float file is needed")
    shape = tuple(int(n) for n in tensor.ShapeAsNumpy()) if tensor.ShapeLength() else ()
    array: NDArray[Any] = buffer.DataAsNumpy().view(dtype).reshape(shape)
    return array


def _convolution(kind: str, operator: Any) -> Convolution | None:
    if kind not in _CONVOLUTIONS:
        return None
    table = operator.BuiltinOptions()
    options = _CONVOLUTIONS[kind]()
    options.Init(table.Bytes, table.Pos)
    return Convolution(
        stride=(int(options.StrideH()), int(options.StrideW())),
        same=options.Padding() == tflite.Padding.SAME,
        fused_activation=options.FusedActivationFunction() != tflite.ActivationFunctionType.NONE,
    )
