from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pmtlib.convert.dlib import read_dlib_layers
from pmtlib.errors import NetworkError
from pmtlib.networks.dlib_resnet import DlibResNet29, ResidualBlock, chip_to_crop, convert_dlib_resnet29
from tests import network_checks as checks


def test_units_and_map_sizes():
    sizes = checks.map_sizes(DlibResNet29().eval(), checks.pattern())
    assert list(sizes)[:5] == ["conv1", "pool1", "block1", "block2", "block3"]
    assert sizes["block3"] == (32, 35, 35)
    assert [size[1] for size in list(sizes.values())[:-1]] == [72, *[35] * 4, *[17] * 4, *[8] * 3, *[4] * 3, 2]
    assert sizes["head"] == (128,)


def test_it_has_29_convolutions():
    assert sum(isinstance(m, torch.nn.Conv2d) for m in DlibResNet29().modules()) == 29


def test_chip_transform_is_the_least_squares_similarity():
    """Against a general least-squares solver on the stacked equations x' = a x - b y + c, y' = b x + a y + d."""
    mean_face = [(0.2255, 0.2160), (0.7548, 0.2160), (0.490127, 0.515625), (0.254149, 0.780233), (0.726104, 0.780233)]
    template = [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
    rows, right = [], []
    for (u, v), (x, y) in zip(mean_face, template, strict=True):
        px, py = (150 * (value + 0.25) / 1.5 for value in (u, v))
        rows += [[px, -py, 1, 0], [py, px, 0, 1]]
        right += [x, y]
    a, b, c, d = np.linalg.lstsq(np.array(rows), np.array(right), rcond=None)[0]
    np.testing.assert_allclose(chip_to_crop(), [[a, -b, c], [b, a, d]], atol=1e-9)


def test_chip_is_a_bilinear_warp_with_repeated_border():
    """Chip pixels against a plain reading of four neighbours, the border repeated outside."""
    x = torch.rand(1, 3, 112, 112, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    chip = DlibResNet29().prepare(x)
    assert chip.shape == (1, 3, 150, 150)
    matrix, mean = chip_to_crop(), (122.782, 117.001, 104.298)

    def read(channel, column, row):
        column, row = min(max(column, 0.0), 111.0), min(max(row, 0.0), 111.0)
        left, top = min(math.floor(column), 110), min(math.floor(row), 110)
        s, t = column - left, row - top
        plane = x[0, channel]
        above = (1 - s) * plane[top, left] + s * plane[top, left + 1]
        below = (1 - s) * plane[top + 1, left] + s * plane[top + 1, left + 1]
        return float((1 - t) * above + t * below)

    outside = 0
    for row, column in [(0, 0), (0, 149), (149, 0), (149, 149), (75, 75), (31, 118), (132, 60), (140, 3)]:
        u, v = matrix @ [column, row, 1.0]
        outside += v > 111
        for channel in range(3):
            expected = (255 * read(channel, u, v) - mean[channel]) / 256
            assert float(chip[0, channel, row, column]) == pytest.approx(expected, abs=1e-4)
    assert outside >= 3


def test_block_that_halves_fills_up_with_zeros():
    """dlib's add_prev: an 8x8 map gives 3x3 on the convolutions' side and 4x4 on the shortcut's."""
    torch.manual_seed(0)
    block = ResidualBlock(2, 3, halves=True)
    x = torch.randn(1, 2, 8, 8)
    residual = F.conv2d(x, block.conv1.weight, block.conv1.bias, stride=2).relu()
    residual = F.conv2d(residual, block.conv2.weight, block.conv2.bias, padding=1)
    assert residual.shape == (1, 3, 3, 3)
    expected = torch.zeros(1, 3, 4, 4)
    for c in range(3):
        for i in range(4):
            for j in range(4):
                if c < 2:
                    expected[0, c, i, j] += x[0, c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean()
                if i < 3 and j < 3:
                    expected[0, c, i, j] += residual[0, c, i, j]
    torch.testing.assert_close(block(x), expected.relu())


def test_prepare_is_differentiable():
    checks.assert_prepare_has_the_right_slope(DlibResNet29())


def test_prepare_follows_the_picture_not_the_module():
    """A shallow model keeps ``prepare`` but not its network, whose buffers then stay where they were."""
    network = DlibResNet29()
    assert network.prepare(torch.zeros(1, 3, 112, 112, device="meta")).device.type == "meta"
    assert not any(name in network.state_dict() for name in ("grid", "mean"))


def test_gradient_reaches_the_picture():
    torch.manual_seed(0)
    checks.assert_gradient_reaches_the_picture(DlibResNet29())


def test_embeddings_agree_with_the_independent_interpreter():
    checks.assert_agrees_with_oracle("dlib-resnet29")


def test_embedding_of_the_pattern_is_the_recorded_one():
    recorded = [-0.953336, -0.02725, -0.177604, 0.385846, 1.087056, 0.857258, 0.252352, -0.604072]
    embedding = checks.converted("dlib-resnet29")(checks.pattern())
    assert checks.fingerprint(embedding) == pytest.approx(recorded, abs=2e-5)


def test_published_file_has_29_convolutions_with_affine_layers_and_one_full_layer():
    layers = read_dlib_layers(checks.files("dlib-resnet29")["dlib-resnet29-dat"])
    assert [layer.kind for layer in layers] == ["con", "affine"] * 29 + ["fc"]
    assert layers[0].settings == (32, 7, 7, 2, 2, 0, 0)
    assert layers[-1].settings == (128, 256)


def test_another_network_is_refused_in_one_line(tmp_path):
    path = tmp_path / "other.dat"
    path.write_bytes(b"\x01\x04fc_2\x01\x02\x01\x01\x01\x02\x01\x02\x01\x01\x01\x01\x01\x01" + bytes(8))
    wrong = r"^[^\n]*other\.dat: a layer fc\(2, 1\) where units\.conv1\.0 wants con[^\n]*$"
    with pytest.raises(NetworkError, match=wrong):
        convert_dlib_resnet29({"dlib-resnet29-dat": path})
