from __future__ import annotations

import json
import math

import pytest
import torch
import torch.nn.functional as F

from pmtlib.convert.tfjs import read_tfjs_weights
from pmtlib.errors import NetworkError
from pmtlib.networks.mobilenet_vggface2 import ConvBlock, MobileNetVGGFace2, convert_mobilenet_vggface2
from tests import network_checks as checks

NAME = "mobilenet-vggface2"


def test_five_units_end_at_28x28():
    sizes = checks.map_sizes(MobileNetVGGFace2().eval(), checks.pattern())
    assert list(sizes)[:5] == ["conv1", "block1", "block2", "block3", "block4"]
    assert sizes["block4"] == (256, 28, 28)
    assert [size[1] for size in list(sizes.values())[:-1]] == [112, 112, 56, 56, 28, 28, *[14] * 6, 7, 7]
    assert sizes["pool"] == (1024,)


def test_prepare_enlarges_swaps_and_centres():
    """Against bilinear interpolation written out, pixel centres at half positions (not the corners) kept."""
    x = torch.rand(1, 3, 112, 112, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    prepared = MobileNetVGGFace2().prepare(x)
    assert prepared.shape == (1, 3, 224, 224)
    for row, column in [(0, 0), (0, 223), (1, 2), (100, 101), (223, 223)]:
        v, u = (min(max((place + 0.5) / 2 - 0.5, 0.0), 111.0) for place in (row, column))
        top, left = min(math.floor(v), 110), min(math.floor(u), 110)
        t, s = v - top, u - left
        for channel, (plane, mean) in enumerate(((2, 91.4953), (1, 103.8827), (0, 131.0912))):
            p = x[0, plane]
            value = (1 - t) * ((1 - s) * p[top, left] + s * p[top, left + 1]) + t * (
                (1 - s) * p[top + 1, left] + s * p[top + 1, left + 1]
            )
            assert float(prepared[0, channel, row, column]) == pytest.approx(255 * float(value) - mean, abs=1e-4)


def test_stride_two_pads_below_and_on_the_right():
    block = ConvBlock(1, 1, 3, stride=2)
    block.conv.weight.data.fill_(1.0)
    block.conv.bias.data.zero_()
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 0, 0], x[0, 0, 3, 3] = 1.0, 2.0
    # Windows start at rows and columns 0 and 2: the corner pixels are in the first and in the last window only.
    assert block(x)[0, 0].tolist() == [[1.0, 0.0], [0.0, 2.0]]
    assert block(x * 100).max() == 6.0


def test_prepare_is_differentiable():
    checks.assert_prepare_has_the_right_slope(MobileNetVGGFace2())


def test_gradient_reaches_the_picture():
    torch.manual_seed(0)
    checks.assert_gradient_reaches_the_picture(MobileNetVGGFace2())


def test_embeddings_agree_with_the_independent_interpreter():
    checks.assert_agrees_with_oracle(NAME)


def test_embedding_of_the_pattern_is_the_recorded_one():
    recorded = [0.332346, -0.923519, -0.26484, 0.316157, -0.117775, -0.361595, -0.301703, -0.573919]
    assert checks.fingerprint(checks.converted(NAME)(checks.pattern())) == pytest.approx(recorded, abs=2e-5)


def test_folded_depthwise_block_is_the_published_one():
    files = checks.files(NAME)
    w = {
        name: torch.tensor(value)
        for name, value in read_tfjs_weights(files["faceres-deep-json"], [files["faceres-deep-bin"]]).items()
    }
    block = checks.converted(NAME).units[1]
    x = torch.rand(1, 32, 12, 12, generator=torch.Generator().manual_seed(0)) * 6
    kernel = w["conv_dw_1/depthwise_kernel"].permute(2, 3, 0, 1)
    y = F.conv2d(x, kernel, padding=1, groups=32) * w["conv_dw_1_bn/batchnorm_1/mul"].view(-1, 1, 1)
    y = (y + w["conv_dw_1_bn/batchnorm_1/sub"].view(-1, 1, 1)).clamp(0, 6)
    y = F.conv2d(y, w["conv_pw_1/convolution/merged_input"].permute(3, 2, 0, 1))
    y = (y + w["conv_pw_1_bn/batchnorm_1/sub"].view(-1, 1, 1)).clamp(0, 6)
    torch.testing.assert_close(block(x), y, atol=2e-5, rtol=1e-4)


def test_another_model_is_refused_in_one_line(tmp_path):
    topology, shard = tmp_path / "other.json", tmp_path / "other.bin"
    weights = [{"name": "dense/kernel", "shape": [1], "dtype": "float32"}]
    topology.write_text(json.dumps({"weightsManifest": [{"paths": ["other.bin"], "weights": weights}]}))
    shard.write_bytes(bytes(4))
    with pytest.raises(NetworkError, match=r"^[^\n]*other\.json: no weight conv1/convolution/merged_input[^\n]*$"):
        convert_mobilenet_vggface2({"faceres-deep-json": topology, "faceres-deep-bin": shard})
