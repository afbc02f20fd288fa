from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tflite
import torch
from torch import nn
from torch.nn.functional import normalize

from pmtlib import assets, zoo
from pmtlib.convert.tflite import kernel_to_torch, read_operators
from pmtlib.convert.torchfile import fold_batch_norm
from pmtlib.errors import AssetError, NetworkError
from pmtlib.networks.mobilefacenet import (
    CASIA,
    MS1M,
    SIRIUS,
    ConvLayer,
    MobileFaceNet,
    convert_mobilefacenet,
    convert_mobilefacenet_casia,
    convert_mobilefacenet_ms1m,
)
from tests.oracles import (
    assert_astronaut_embedding,
    assert_lfw_embeddings,
    asset_or_skip,
    astronaut_crop,
    network_or_skip,
)

NAMES = ("mobilefacenet", "mobilefacenet-casia", "mobilefacenet-ms1m")


@pytest.mark.parametrize("name", NAMES)
def test_embeddings_of_lfw_crops_are_those_of_the_original_file(name: str) -> None:
    assert_lfw_embeddings(name)


@pytest.mark.parametrize("name", NAMES)
def test_embedding_of_the_astronaut_is_that_of_the_original_file(name: str) -> None:
    assert_astronaut_embedding(name)


@pytest.mark.parametrize(("variant", "width"), [(SIRIUS, 28), (CASIA, 24), (MS1M, 28)])
def test_units_and_their_maps(variant, width: int) -> None:
    network = MobileFaceNet(variant).eval()
    assert network.unit_names == (
        *("conv1", "dw_conv1"),
        *(f"block{i}" for i in range(15)),
        *("conv2", "linear7", "linear1"),
    )
    with torch.no_grad():
        outputs = network.run_units(network.prepare(torch.rand(2, 3, 112, 112)), 0, len(network.units))
    shapes = dict(zip(network.unit_names, (tuple(output.shape[1:]) for output in outputs), strict=True))
    assert shapes["conv1"] == shapes["dw_conv1"] == (64, 56, 2 * width)
    assert shapes["block0"] == shapes["block2"] == shapes["block4"] == (64, 28, width)
    assert shapes["block5"] == shapes["block11"] == (128, 14, width // 2)
    assert shapes["block12"] == shapes["block14"] == (128, 7, width // 4)
    assert shapes["conv2"] == (512, 7, width // 4)
    assert shapes["linear7"] == (512, 1, 1)
    assert shapes["linear1"] == (variant.embedding,)


def test_residual_blocks_are_those_that_keep_their_shape() -> None:
    units = MobileFaceNet(CASIA).units
    residual = [i for i in range(15) if units.get_submodule(f"block{i}").residual]
    assert residual == [1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 13, 14]


def test_input_conventions() -> None:
    image = torch.rand(1, 3, 112, 112)
    byte = image * 255
    torch.testing.assert_close(MobileFaceNet(SIRIUS).prepare(image), (byte - 127.5) / 128, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        MobileFaceNet(CASIA).prepare(image), (byte[:, :, :, 8:104] - 127.5) / 128, rtol=0, atol=1e-6
    )
    prepared = MobileFaceNet(MS1M).prepare(image)
    for channel, (mean, std) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]):
        torch.testing.assert_close(prepared[:, channel], (image[:, channel] - mean) / std)


def test_gradient_reaches_the_image_where_the_network_looks() -> None:
    image = torch.rand(1, 3, 112, 112, requires_grad=True)
    MobileFaceNet(CASIA).eval()(image).square().sum().backward()
    assert image.grad is not None
    assert (image.grad[..., 8:104] != 0).any()
    assert (image.grad[..., :8] == 0).all()
    assert (image.grad[..., 104:] == 0).all()


@torch.no_grad()
def test_tensorflow_padding_in_plain_loops() -> None:
    # SAME with stride 2 on an even axis pads one row below and one column right, none above and left.
    layer = ConvLayer(1, 1, (3, 3), stride=2, padding="tf_same")
    image = torch.randn(1, 1, 6, 8, dtype=torch.float32)
    kernel, bias = layer.conv.weight[0, 0], layer.conv.bias
    assert bias is not None
    expected = torch.zeros(3, 4)
    for row in range(3):
        for column in range(4):
            total = float(bias)
            for i in range(3):
                for j in range(3):
                    y, x = 2 * row + i, 2 * column + j
                    if y < 6 and x < 8:
                        total += float(kernel[i, j]) * float(image[0, 0, y, x])
            expected[row, column] = total
    torch.testing.assert_close(layer(image)[0, 0], expected)


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("stride", [1, 2])
def test_tensorflow_padding_keeps_ceil_of_size_over_stride(size: int, stride: int) -> None:
    layer = ConvLayer(1, 1, (3, 3), stride=stride, padding="tf_same")
    assert layer(torch.zeros(1, 1, size, size)).shape[2:] == (-(-size // stride),) * 2


@pytest.mark.parametrize("size", [(8, 8), (7, 8), (9, 5)])
@pytest.mark.parametrize("groups", [1, 4])
def test_tensorflow_padding_of_maps_with_channels_last_is_that_of_others(size: tuple[int, int], groups: int) -> None:
    layer = ConvLayer(4, 4, (3, 3), stride=2, groups=groups, padding="tf_same", activation="prelu")
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        values = torch.randn((2, 4, *size), generator=torch.Generator().manual_seed(0)).contiguous(memory_format=layout)
        values.requires_grad_(True)
        made = layer(values)
        found.append((made, torch.autograd.grad(made.square().sum(), values)[0]))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_folding_equals_convolution_then_normalisation() -> None:
    generator = torch.Generator().manual_seed(0)
    plain = nn.Conv2d(4, 6, 3, bias=True)
    norm = nn.BatchNorm2d(6).eval()
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        assert tensor is not None
        tensor.copy_(torch.rand(6, generator=generator) + 0.1)
    state = {f"c.{key}": value for key, value in plain.state_dict().items()}
    state |= {f"n.{key}": value for key, value in norm.state_dict().items()}
    folded = nn.Conv2d(4, 6, 3)
    weight, bias = fold_batch_norm(state, "c", "n")
    folded.load_state_dict({"weight": weight, "bias": bias})
    image = torch.randn(2, 4, 8, 8, generator=generator)
    torch.testing.assert_close(folded(image), norm(plain(image)), rtol=1e-5, atol=1e-5)
    del state["c.bias"]
    without = fold_batch_norm(state, "c", "n")[1]
    torch.testing.assert_close(bias - without, plain.bias * norm.weight / torch.sqrt(norm.running_var + 1e-5))


def test_folded_checkpoint_agrees_with_its_batch_normalisation_kept_apart() -> None:
    network = network_or_skip("mobilefacenet-casia")
    state = assets.read_torch(asset_or_skip("mobilefacenet-casia-ckpt"))["net_state_dict"]
    # conv1 and dw_conv1 as the checkpoint has them: convolution, normalisation, PReLU.
    features = network.prepare(astronaut_crop())
    for unit, stride, groups in (("conv1", 2, 1), ("dw_conv1", 1, 64)):
        features = nn.functional.conv2d(features, state[f"{unit}.conv.weight"], None, stride, 1, 1, groups)
        statistics = (state[f"{unit}.bn.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        features = nn.functional.prelu(nn.functional.batch_norm(features, *statistics), state[f"{unit}.prelu.weight"])
    with torch.no_grad():
        found = network.run_units(network.prepare(astronaut_crop()), 0, 2)[-1]
    assert float(1 - (normalize(found.flatten(1)) * normalize(features.flatten(1))).sum()) < 1e-6
    torch.testing.assert_close(found, features, rtol=1e-4, atol=1e-5)


# -- the foreign files ------------------------------------------------------------------------------------------------


def test_tflite_operators_in_order_with_their_constants() -> None:
    operators = read_operators(asset_or_skip("mobilefacenet-tflite"))
    kinds = [operator.kind for operator in operators]
    assert kinds.count("CONV_2D") == 35
    assert kinds.count("DEPTHWISE_CONV_2D") == 17
    assert kinds.count("RELU") == kinds.count("ABS") == 33
    first = operators[0]
    assert [value.shape for value in first.constants.values()] == [(64, 3, 3, 3), (64,)]
    assert first.convolution is not None
    assert first.convolution.stride == (2, 2)
    assert first.convolution.same
    strided = [
        operator.name for operator in operators if operator.convolution and operator.convolution.stride == (2, 2)
    ]
    assert len(strided) == 4


def test_prelu_slopes_reproduce_the_arithmetic_of_the_file() -> None:
    path = asset_or_skip("mobilefacenet-tflite")
    product = next(operator for operator in read_operators(path) if operator.kind == "MUL")
    (constant,) = (torch.tensor(value).flatten() for value in product.constants.values())
    slopes = convert_mobilefacenet({"mobilefacenet-tflite": path})["units.conv1.activation.weight"]
    value = torch.randn(1, 64, 5, 5)
    spelt = value.relu() + constant.view(1, -1, 1, 1) * (value - value.abs())
    torch.testing.assert_close(nn.functional.prelu(value, slopes), spelt, rtol=1e-6, atol=1e-6)


def test_kernels_are_transposed_to_torch() -> None:
    dense = np.arange(2 * 3 * 5 * 7).reshape(2, 3, 5, 7)  # out, height, width, in
    moved = kernel_to_torch(dense, depthwise=False)
    assert moved.shape == (2, 7, 3, 5)
    assert moved[1, 6, 2, 4] == dense[1, 2, 4, 6]
    deep = np.arange(3 * 5 * 7).reshape(1, 3, 5, 7)  # 1, height, width, channels
    moved = kernel_to_torch(deep, depthwise=True)
    assert moved.shape == (7, 1, 3, 5)
    assert moved[6, 0, 2, 4] == deep[0, 2, 4, 6]


def test_a_file_that_is_no_tflite_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "wrong.tflite"
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(AssetError, match=r"wrong\.tflite is not a TFLite file"):
        read_operators(path)


def test_a_quantised_tflite_is_refused(tmp_path: Path) -> None:
    content = bytearray(asset_or_skip("mobilefacenet-tflite").read_bytes())
    # Turn the element type of the one integer constant, the shape of RESHAPE, to int8 in place in the FlatBuffer.
    graph = tflite.Model.GetRootAsModel(content, 0).Subgraphs(0)
    tensor = graph.Tensors(int(graph.Operators(graph.OperatorsLength() - 1).InputsAsNumpy()[1]))
    assert tensor.Type() == tflite.TensorType.INT32
    content[tensor._tab.Pos + tensor._tab.Offset(6)] = tflite.TensorType.INT8
    path = tmp_path / "quantised.tflite"
    path.write_bytes(content)
    with pytest.raises(AssetError, match="quantised"):
        read_operators(path)


def test_another_tflite_network_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    path = asset_or_skip("mobilefacenet-tflite")
    operators = read_operators(path)
    monkeypatch.setattr("pmtlib.networks.mobilefacenet.read_operators", lambda _: operators[:-2])
    with pytest.raises(NetworkError, match="51 convolutions, MobileFaceNet has 52"):
        convert_mobilefacenet({"mobilefacenet-tflite": path})
    monkeypatch.setattr("pmtlib.networks.mobilefacenet.read_operators", lambda _: operators[6:] + operators[:6])
    with pytest.raises(NetworkError, match=r"is not MobileFaceNet's units\.conv1; fetch"):
        convert_mobilefacenet({"mobilefacenet-tflite": path})


def test_another_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(NetworkError, match="no entry net_state_dict"):
        convert_mobilefacenet_casia({"mobilefacenet-casia-ckpt": path})
    with pytest.raises(NetworkError, match="has no tensor"):
        convert_mobilefacenet_ms1m({"mobilefacenet-ms1m-pt": path})


@pytest.mark.parametrize("name", NAMES)
def test_an_embedding_does_not_depend_on_the_batch(name: str) -> None:
    network = network_or_skip(name)
    crop = astronaut_crop()
    batch = torch.cat([torch.rand(2, 3, 112, 112), crop])
    with torch.no_grad():
        alone, among = normalize(network(crop)), normalize(network(batch)[2:])
    assert float(1 - (alone.double() * among.double()).sum()) < 1e-6
    assert zoo.card(name).embedding == alone.shape[1]
