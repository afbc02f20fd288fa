from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pmtlib.convert.onnx import read_onnx_constants
from pmtlib.errors import NetworkError
from pmtlib.networks.sface import SFace, convert_sface
from tests import network_checks as checks


def test_five_units_end_at_28x28():
    sizes = checks.map_sizes(SFace().eval(), checks.pattern())
    assert list(sizes)[:5] == ["conv1", "block2", "block3", "block4", "block5"]
    assert [size[1] for size in list(sizes.values())[:-1]] == [112, 112, 56, 56, 28, 28, *[14] * 6, 7, 7]
    assert sizes["block5"] == (256, 28, 28)
    assert sizes["head"] == (128,)


def test_prepare_is_the_published_scaling_and_differentiable():
    network = SFace()
    x = torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1).expand(1, 3, 112, 112)
    assert network.prepare(x)[0, :, 3, 4].tolist() == pytest.approx([-127.5 / 128, 0.0, 127.5 / 128])
    checks.assert_prepare_has_the_right_slope(network)


def test_gradient_reaches_the_picture():
    torch.manual_seed(0)
    checks.assert_gradient_reaches_the_picture(SFace())


def test_embeddings_agree_with_the_independent_interpreter():
    checks.assert_agrees_with_oracle("sface")


def test_embedding_of_the_pattern_is_the_recorded_one():
    recorded = [-0.52229, 0.228954, 1.063809, -0.0175, -0.693372, 0.479064, 0.175669, 0.045504]
    assert checks.fingerprint(checks.converted("sface")(checks.pattern())) == pytest.approx(recorded, abs=2e-5)


def test_folding_changes_nothing():
    """First block and head against the published operators, normalisations apart (epsilons 1e-3 and 2e-5)."""
    network = checks.converted("sface")
    c = {name: torch.tensor(v) for name, v in read_onnx_constants(checks.files("sface")["sface-onnx"]).items()}

    def norm(x, layer, eps):
        mean, var = c[f"{layer}_moving_mean"], c[f"{layer}_moving_var"]
        return F.batch_norm(x, mean, var, c[f"{layer}_gamma"], c[f"{layer}_beta"], eps=eps)

    x = network.prepare(checks.pattern())
    y = norm(F.conv2d(x, c["conv_1_conv2d_weight_reshaped"], padding=1), "conv_1_batchnorm", 1e-3)
    expected = F.prelu(y, c["conv_1_relu_gamma"].flatten())
    torch.testing.assert_close(network.units[0](x), expected, atol=1e-4, rtol=1e-4)

    z = torch.randn(2, 1024, 7, 7, generator=torch.Generator().manual_seed(0))
    flat = norm(z, "bn1", 2e-5).flatten(1)
    expected = norm(F.linear(flat, c["pre_fc1_weight_dequantized"], c["pre_fc1_bias_dequantized"]), "fc1", 2e-5)
    torch.testing.assert_close(network.units[-1](z), expected, atol=1e-4, rtol=1e-4)


def test_another_network_is_refused_in_one_line(tmp_path):
    onnx = pytest.importorskip("onnx")
    value = onnx.numpy_helper.from_array(torch.zeros(2).numpy(), "something_else")
    graph = onnx.helper.make_graph([], "g", [], [], [value])
    path = tmp_path / "other.onnx"
    onnx.save(onnx.helper.make_model(graph), str(path))
    with pytest.raises(NetworkError, match=r"^[^\n]*other\.onnx: no constant conv_1_conv2d_weight_reshaped[^\n]*$"):
        convert_sface({"sface-onnx": path})
