from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pmtlib.convert.onnx import dequantise_blocks, read_onnx_constants
from pmtlib.errors import NetworkError


def save(path, nodes, **constants):
    initialisers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    picture = helper.make_tensor_value_info("picture", TensorProto.FLOAT, [1])
    graph = helper.make_graph(nodes, "graph", [picture], [], initialisers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), str(path))
    return path


@pytest.mark.parametrize(("axis", "block", "length"), [(1, 4, 10), (0, 3, 3), (1, 10, 10), (-1, 4, 10)])
def test_blocks_are_dequantised_one_number_at_a_time(axis, block, length):
    rng = np.random.default_rng(0)
    q = rng.integers(-128, 128, (3, 10)).astype(np.int8)
    shape = [3, 10]
    assert shape[axis] == length
    shape[axis] = -(-length // block)
    scale, zero = rng.random(shape).astype(np.float32), rng.integers(-5, 5, shape).astype(np.int8)
    result = dequantise_blocks(q, scale, zero, axis=axis, block_size=block)
    for i in range(3):
        for j in range(10):
            k = (i // block, j) if axis == 0 else (i, j // block)
            assert result[i, j] == np.float32((float(q[i, j]) - float(zero[k])) * scale[k])


def test_scales_for_each_index_and_for_the_whole():
    q = np.array([[1, 2], [3, 4]], np.int8)
    assert dequantise_blocks(q, np.float32([2, 10]), axis=0).tolist() == [[2, 4], [30, 40]]
    assert dequantise_blocks(q, np.float32([2, 10]), axis=1).tolist() == [[2, 20], [6, 40]]
    assert dequantise_blocks(q, np.array(0.5, np.float32), np.array(1, np.int8)).tolist() == [[0, 0.5], [1, 1.5]]
    assert dequantise_blocks(np.array(3, np.int8), np.array(2, np.float32)).tolist() == 6


def test_constants_are_computed_in_node_order_and_the_picture_is_left_alone(tmp_path):
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=0, block_size=2),
        helper.make_node("Reshape", ["w", "shape"], ["kernel"]),
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.float32([7]))),
        helper.make_node("Reshape", ["picture", "shape"], ["not_a_constant"]),
    ]
    path = save(
        tmp_path / "net.onnx",
        nodes,
        q=np.int8([4, 6, 8]),
        s=np.float32([1, 2]),
        z=np.int8([1, 0]),
        shape=np.int64([3, 1]),
    )
    constants = read_onnx_constants(path)
    assert list(constants) == ["q", "s", "z", "shape", "w", "kernel", "c"]
    assert constants["kernel"].tolist() == [[3.0], [5.0], [16.0]]
    assert constants["c"].tolist() == [7.0]


def test_malformed_files_are_named_in_one_line(tmp_path):
    whole = save(tmp_path / "net.onnx", [], w=np.arange(100, dtype=np.float32)).read_bytes()
    for content in (b"", b"\xff" * 64, b"<html>not found</html>", whole[: len(whole) // 2], whole[:-1]):
        path = tmp_path / "broken.onnx"
        path.write_bytes(content)
        with pytest.raises(NetworkError, match=r"^[^\n]*broken\.onnx: [^\n]*fetch[^\n]*$"):
            read_onnx_constants(path)
    with pytest.raises(NetworkError, match=r"^[^\n]*absent\.onnx: [^\n]*$"):
        read_onnx_constants(tmp_path / "absent.onnx")


@pytest.mark.parametrize(
    ("scale", "zero", "attributes"),
    [
        ([1, 1], [0, 0], {"axis": 0, "block_size": 1}),
        ([1, 1, 1], [0, 0], {"axis": 0, "block_size": 1}),
        ([1, 1, 1], [0, 0, 0], {"axis": 4, "block_size": 1}),
        ([1, 1], [0, 0], {"axis": 0}),
    ],
)
def test_scales_that_do_not_fit_name_the_node(tmp_path, scale, zero, attributes):
    node = helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], name="layer_5", **attributes)
    path = save(tmp_path / "net.onnx", [node], q=np.int8([4, 6, 8]), s=np.float32(scale), z=np.int8(zero))
    with pytest.raises(NetworkError, match=r"^[^\n]*net\.onnx: layer_5 is malformed[^\n]*$"):
        read_onnx_constants(path)


def test_initialiser_with_too_few_numbers_is_named(tmp_path):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[5], raw_data=bytes(8))
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(helper.make_graph([], "graph", [], [], [tensor])), str(path))
    with pytest.raises(NetworkError, match=r"^[^\n]*net\.onnx: w is malformed[^\n]*$"):
        read_onnx_constants(path)
