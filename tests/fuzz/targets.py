"""What is fuzzed: every parser of pmtlib that reads files of others, each with small whole files to start from.

A target takes bytes and a folder of its own. It may do nothing or raise a :class:`pmtlib.errors.PMTError` of one line;
anything else that comes out of it, and anything that takes seconds or gigabytes, is a finding.
"""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import struct
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import onnx
import safetensors.torch
import tflite
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from pmtlib import converted, datasets, faces, pipeline, report
from pmtlib.architectures import recognise
from pmtlib.convert.dlib import read_dlib_layers
from pmtlib.convert.onnx import read_onnx_constants
from pmtlib.convert.tfjs import read_tfjs_weights
from pmtlib.convert.tflite import read_operators
from pmtlib.convert.torch_quantised import read_quantised_state
from pmtlib.errors import PMTError
from pmtlib.intake import is_safe
from pmtlib.networks.onnx_graph import OnnxNetwork
from pmtlib.settings import as_yaml, configure
from pmtlib.training.corpora import load_corpus
from pmtlib.variants import VARIANTS
from tests.test_report import row


@dataclass(frozen=True)
class Target:
    """A parser.

    Attributes:
        run: gives it the bytes, through files in the folder where it reads files.
        seeds: whole files of its format.
    """

    run: Callable[[bytes, Path], Any]
    seeds: Callable[[], Sequence[bytes]]


def check(name: str, data: bytes, folder: Path) -> str:
    """Run a target once.

    Returns:
        The error's line, or "" where the bytes were taken.

    Raises:
        AssertionError: the error is not one line.
        Exception: whatever else the parser let through: a finding.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            TARGETS[name].run(data, folder)
        except PMTError as error:
            line = str(error)
            assert line, "an error without a word"
            assert len(line.splitlines()) == 1, f"an error of several lines: {line!r}"
            assert len(line) < 1000, f"an error of {len(line)} characters"
            return line
    return ""


def _file(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def split(data: bytes) -> tuple[bytes, bytes]:
    """Two files in one: the first two bytes are the length of the first."""
    size = int.from_bytes(data[:2], "little")
    return data[2 : 2 + size], data[2 + size :]


def joined(first: bytes, second: bytes) -> bytes:
    """The opposite of :func:`split`."""
    return len(first).to_bytes(2, "little") + first + second


# Images ---------------------------------------------------------------------------------------------------------------


def _image_seeds() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (picture, "JPEG", {"exif": exif}),
        (picture, "JPEG", {"progressive": True}),
        (picture, "PNG", {}),
        (picture.convert("P"), "PNG", {"transparency": 3}),
        (Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257), "PNG", {}),
        (picture, "WEBP", {"lossless": True}),
        (picture, "GIF", {"save_all": True, "append_images": [picture.rotate(90)]}),
        (picture, "TIFF", {"compression": "tiff_lzw"}),
        (picture.convert("F"), "TIFF", {}),
        (picture.convert("CMYK"), "TIFF", {}),
        (picture, "BMP", {}),
    ]
    found = []
    for image, kind, options in kinds:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        found.append(buffer.getvalue())
    return found


def _image(data: bytes, folder: Path) -> None:
    # The decoders are Pillow's; ours is the way to them, and from their modes to RGB. Large pictures cost time alone.
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > 1 << 20:
                return
    except Exception:
        pass
    picture = faces.decode(data, "x.jpg")
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert picture.shape[2] == 3


# Weights --------------------------------------------------------------------------------------------------------------


def _integer(value: int) -> bytes:
    size = max(1, (abs(value).bit_length() + 7) // 8)
    return bytes([size | (0x80 if value < 0 else 0)]) + abs(value).to_bytes(size, "little")


def _dlib_seeds() -> list[bytes]:
    def tensor(values: Sequence[float], sizes: Sequence[int]) -> bytes:
        return b"".join(map(_integer, (2, *sizes))) + struct.pack(f"<{len(values)}f", *values)

    def named(text: str) -> bytes:
        return _integer(len(text)) + text.encode()

    con = named("con_4") + tensor(range(12), (12, 1, 1, 1)) + b"".join(map(_integer, (1, 3, 3, 2, 1, 0, 300)))
    rest = named("affine_") + tensor([1, 2], (2, 1, 1, 1)) + named("fc_2") + _integer(1) + _integer(2)
    return [named("loss_metric_2") + con + rest + tensor([1, 2], (2, 1, 1, 1)) + _integer(-7)]


def tflite_file(count: int = 1, quantised: str = "") -> bytes:
    """A TFLite file with a convolution: the least that the reader looks at."""
    builder = flatbuffers.Builder(0)
    kernel = builder.CreateByteVector(np.arange(12, dtype="<f4").tobytes())
    tflite.BufferStart(builder)
    empty = tflite.BufferEnd(builder)
    tflite.BufferStart(builder)
    tflite.BufferAddData(builder, kernel)
    full = tflite.BufferEnd(builder)

    def tensor(name: str, shape: Sequence[int], buffer: int) -> int:
        text = builder.CreateString(name)
        sizes = builder.CreateNumpyVector(np.array(shape, np.int32))
        tflite.TensorStart(builder)
        tflite.TensorAddShape(builder, sizes)
        tflite.TensorAddType(builder, tflite.TensorType.INT8 if quantised else tflite.TensorType.FLOAT32)
        tflite.TensorAddBuffer(builder, buffer)
        tflite.TensorAddName(builder, text)
        return int(tflite.TensorEnd(builder))

    kernel_tensor = tensor(quantised or "kernel", (4, 1, 1, 3), 1)
    tensors = [tensor("in", (1, 4, 4, 3), 0), kernel_tensor, tensor("out", (1, 4, 4, 4), 0)]
    tflite.Conv2DOptionsStart(builder)
    tflite.Conv2DOptionsAddStrideH(builder, 1)
    tflite.Conv2DOptionsAddStrideW(builder, 1)
    options = tflite.Conv2DOptionsEnd(builder)
    inputs = builder.CreateNumpyVector(np.array([0, 1], np.int32))
    outputs = builder.CreateNumpyVector(np.array([2], np.int32))
    operators = []
    for _ in range(count):
        tflite.OperatorStart(builder)
        tflite.OperatorAddOpcodeIndex(builder, 0)
        tflite.OperatorAddInputs(builder, inputs)
        tflite.OperatorAddOutputs(builder, outputs)
        tflite.OperatorAddBuiltinOptionsType(builder, tflite.BuiltinOptions.Conv2DOptions)
        tflite.OperatorAddBuiltinOptions(builder, options)
        operators.append(tflite.OperatorEnd(builder))

    def table(start: Callable[..., Any], entries: Sequence[int]) -> int:
        start(builder, len(entries))
        for entry in reversed(entries):
            builder.PrependUOffsetTRelative(entry)
        return int(builder.EndVector())

    tensor_list = table(tflite.SubGraphStartTensorsVector, tensors)
    operator_list = table(tflite.SubGraphStartOperatorsVector, operators)
    tflite.SubGraphStart(builder)
    tflite.SubGraphAddTensors(builder, tensor_list)
    tflite.SubGraphAddOperators(builder, operator_list)
    graph = tflite.SubGraphEnd(builder)
    tflite.OperatorCodeStart(builder)
    tflite.OperatorCodeAddDeprecatedBuiltinCode(builder, tflite.BuiltinOperator.CONV_2D)
    tflite.OperatorCodeAddBuiltinCode(builder, tflite.BuiltinOperator.CONV_2D)
    code = tflite.OperatorCodeEnd(builder)
    codes = table(tflite.ModelStartOperatorCodesVector, [code])
    graphs = table(tflite.ModelStartSubgraphsVector, [graph])
    buffers = table(tflite.ModelStartBuffersVector, [empty, full])
    tflite.ModelStart(builder)
    tflite.ModelAddVersion(builder, 3)
    tflite.ModelAddOperatorCodes(builder, codes)
    tflite.ModelAddSubgraphs(builder, graphs)
    tflite.ModelAddBuffers(builder, buffers)
    builder.Finish(tflite.ModelEnd(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _tfjs_seeds() -> list[bytes]:
    weights = [
        {"name": "kernel", "shape": [1, 2, 3], "dtype": "float32"},
        {"name": "half", "shape": [2], "dtype": "float32", "quantization": {"dtype": "float16"}},
        {
            "name": "byte",
            "shape": [3],
            "dtype": "float32",
            "quantization": {"dtype": "uint8", "scale": 0.5, "min": -1.0},
        },
    ]
    topology = {"format": "graph-model", "weightsManifest": [{"paths": ["a.bin"], "weights": weights}]}
    return [joined(json.dumps(topology).encode(), bytes(range(31)))]


def _tfjs(data: bytes, folder: Path) -> None:
    topology, weights = split(data)
    read_tfjs_weights(_file(folder, "model.json", topology), [_file(folder, "a.bin", weights)])


def onnx_file() -> bytes:
    """A network of a few layers, of which a unit can be cut off."""
    generator = np.random.default_rng(0)

    def constant(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array(generator.normal(size=shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["a"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "w3"], ["embedding"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 16, 16])
    embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 5])
    constants = [constant("w1", 2, 3, 3, 3), constant("w2", 4, 2, 3, 3), constant("w3", 4, 5)]
    graph = helper.make_graph(nodes, "graph", [image], [embedding], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    return bytes(model.SerializeToString())


def _onnx_seeds() -> list[bytes]:
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=0, block_size=2),
        helper.make_node("Reshape", ["w", "shape"], ["kernel"]),
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.float32([7]))),
    ]
    stored = {
        "q": np.int8([4, 6, 8]),
        "s": np.float32([1, 2]),
        "z": np.int8([1, 0]),
        "shape": np.int64([3, 1]),
    }
    constants = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    picture = helper.make_tensor_value_info("picture", TensorProto.FLOAT, [1])
    graph = helper.make_graph(nodes, "graph", [picture], [], constants)
    return [bytes(onnx.helper.make_model(graph).SerializeToString()), onnx_file()]


def _saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _torch_seeds() -> list[bytes]:
    state = {"layer.weight": torch.arange(6.0).reshape(2, 3), "layer.bias": torch.zeros(2)}
    old = io.BytesIO()
    torch.save(state, old, _use_new_zipfile_serialization=False)
    return [_saved(state), _saved({"state_dict": state, "epoch": 3}), old.getvalue()]


def _features_seeds() -> list[bytes]:
    card = {"network": "sface", "cut": 5, "weights": "0", "shape": [1, 2, 2, 2]}
    return [pipeline.features_bytes(torch.arange(8.0).reshape(1, 2, 2, 2), card)]


def _converted_seeds() -> list[bytes]:
    return [safetensors.torch.save({"a": torch.arange(4.0)}, metadata={"content-sha256": "0"})]


# Data sets ------------------------------------------------------------------------------------------------------------


def _bin_seeds() -> list[bytes]:
    blob = b"\x89PNG"
    array = np.frombuffer(blob, np.uint8)
    contents = [
        ([blob, blob, b"x", b"y"], [True, False]),
        ([array, array], np.array([True])),
        ([bytearray(blob)] * 2, [1]),
    ]
    return [pickle.dumps(content, protocol=protocol) for content in contents for protocol in (2, 5)]


def _crop() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (112, 112), (120, 90, 60)).save(buffer, "PNG")
    return buffer.getvalue()


_CROP = _crop()


def _bin(data: bytes, folder: Path) -> None:
    found = datasets.load(_file(folder, "set.bin", data))
    assert len(found.pairs) == len(found.same)
    _look(found.images)


def _look(images: datasets.Images) -> None:
    for index in range(min(len(images), 4)):
        with contextlib.suppress(PMTError):
            assert images[index].shape == (112, 112, 3)


def _record_seeds() -> list[bytes]:
    def record(labels: Sequence[float], content: bytes) -> bytes:
        flag = 0 if len(labels) == 1 else len(labels)
        body = struct.pack("<IfQQ", flag, labels[0] if not flag else 0.0, 0, 0)
        body += (struct.pack(f"<{flag}f", *labels) if flag else b"") + content
        return struct.pack("<II", 0xCED7230A, len(body)) + body + b"\0" * (-len(body) % 4)

    records = [record([3, 5], b""), record([1], b"image"), record([2, 0], b"other"), record([1, 2], b"")]
    offsets = [sum(map(len, records[:key])) for key in range(4)]
    index = "".join(f"{key}\t{offset}\n" for key, offset in enumerate(offsets))
    return [joined(index.encode(), b"".join(records))]


def _record(data: bytes, folder: Path) -> None:
    index, records = split(data)
    _file(folder, "train.idx", index)
    _look(load_corpus(_file(folder, "train.rec", records)).images)


def _tar_seeds() -> list[bytes]:
    import tarfile

    found = []
    for form in (tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
            for name, content in (
                ("1.cls", b"7"),
                ("1.png", b"image"),
                ("é" * (20 if form == tarfile.USTAR_FORMAT else 80) + ".json", b"{}"),
            ):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        found.append(buffer.getvalue()[:6144])
    return found


def _tar(data: bytes, folder: Path) -> None:
    _look(load_corpus(_file(folder, "a.tar", data)).images)


def _lists(name: str, images: Sequence[str]) -> Callable[[bytes, Path], None]:
    def run(data: bytes, folder: Path) -> None:
        for image in images:
            path = folder / image
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(_CROP)
        _file(folder, name, data)
        datasets.load(folder if name != "pairs.csv" else folder / name)

    return run


def _cfp(data: bytes, folder: Path) -> None:
    split_folder = folder / "Protocol" / "Split" / "FF" / "01"
    split_folder.mkdir(parents=True, exist_ok=True)
    listing, pairs = split(data)
    (folder / "Protocol" / "Pair_list_F.txt").write_bytes(listing)
    (split_folder / "same.txt").write_bytes(pairs)
    (split_folder / "diff.txt").write_bytes(b"")
    datasets.load(folder)


def _labels_seeds() -> list[bytes]:
    buffer = io.BytesIO()
    np.save(buffer, np.array([True]))
    return [buffer.getvalue()]


# Text -----------------------------------------------------------------------------------------------------------------


def _yaml_seeds() -> list[bytes]:
    odd = b"a: &a [1, 2]\nb: *a\nc: {d: 2001-01-01, e: 0x1F, f: 1_0, g: .nan, h: !!binary aGk=, ? i : ~}\n<<: *a\n"
    return [*(as_yaml(kind.config()).encode() for kind in VARIANTS.values()), odd, b"steps: 7\nweights: [1, 0.5]\n"]


def _yaml(data: bytes, folder: Path) -> None:
    configure(_file(folder, "c.yaml", data))


def _report_seeds() -> list[bytes]:
    return [
        row().model_dump_json().encode() + b"\n",
        row(done=False, reason="no face").model_dump_json().encode() + b"\n",
    ]


def _report(data: bytes, folder: Path) -> None:
    rows, _ = report.read(_file(folder, "report.jsonl", data))
    report.table_text(report.compact(rows))
    for one in rows:
        assert all(is_safe(name) for name in one.outputs)


TARGETS: dict[str, Target] = {
    "image": Target(_image, _image_seeds),
    "dlib": Target(lambda data, folder: read_dlib_layers(_file(folder, "a.dat", data)), _dlib_seeds),
    "tflite": Target(lambda data, folder: read_operators(_file(folder, "a.tflite", data)), lambda: [tflite_file()]),
    "tfjs": Target(_tfjs, _tfjs_seeds),
    "onnx": Target(lambda data, folder: read_onnx_constants(_file(folder, "a.onnx", data)), _onnx_seeds),
    "onnx-network": Target(lambda data, folder: OnnxNetwork(_file(folder, "a.onnx", data)), lambda: [onnx_file()]),
    "torch": Target(lambda data, folder: read_quantised_state(_file(folder, "a.pth", data)), _torch_seeds),
    "checkpoint": Target(lambda data, folder: recognise(_file(folder, "a.pth", data), "robfr"), _torch_seeds),
    "converted": Target(lambda data, folder: converted.read(_file(folder, "a.safetensors", data)), _converted_seeds),
    "features": Target(
        lambda data, folder: pipeline.read_features(_file(folder, "a.safetensors", data)), _features_seeds
    ),
    "bin": Target(_bin, _bin_seeds),
    "recordio": Target(_record, _record_seeds),
    "webdataset": Target(_tar, _tar_seeds),
    "table": Target(
        _lists("pairs.csv", ["a.png", "b.png"]), lambda: [b"img1,img2,same,fold\na.png,b.png,1,0\nb.png,a.png,0,1\n"]
    ),
    "lfw": Target(
        _lists("pairs.txt", ["A/A_0001.png", "A/A_0002.png", "B/B_0001.png"]),
        lambda: [b"1\t1\nA\t1\t2\nA\t1\tB\t1\n", b"A/A_0001.png B/B_0001.png 0\n"],
    ),
    "cfp": Target(_cfp, lambda: [joined(b"1 ../Data/Images/001/frontal/01.jpg\n2 b.jpg\n", b"1,2\n")]),
    "labels": Target(_lists("issame.npy", ["a.png", "b.png"]), _labels_seeds),
    "yaml": Target(_yaml, _yaml_seeds),
    "report": Target(_report, _report_seeds),
}
