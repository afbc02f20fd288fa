from __future__ import annotations

import pytest
import timm
import torch

from pmtlib.errors import NetworkError
from pmtlib.networks import edgeface
from tests import network_checks as checks
from tests.oracles import lfw_crops_or_skip, unit_embeddings

BUILD = {"edgeface-xs": edgeface.edgeface_xs, "edgeface-xxs": edgeface.edgeface_xxs}
CONVERT = {"edgeface-xs": edgeface.convert_edgeface_xs, "edgeface-xxs": edgeface.convert_edgeface_xxs}
RECORDED = {
    "edgeface-xs": [1.18345, 0.551226, 0.40353, -0.503412, -0.435601, -0.221213, -0.911495, 0.546327],
    "edgeface-xxs": [0.193334, -0.517693, 0.521503, 0.818127, 0.04154, -0.086248, -0.46398, -0.108891],
}
names = pytest.mark.parametrize("name", list(BUILD))


@names
def test_five_units_end_at_28x28(name):
    sizes = checks.map_sizes(BUILD[name]().eval(), checks.pattern())
    last, channels = {"edgeface-xs": ("stage1_block3", 32), "edgeface-xxs": ("stage2_norm", 24)}[name]
    assert list(sizes)[:3] == ["stem_conv", "stem_norm", "stage1_block1"]
    assert list(sizes)[4] == last
    assert all(list(sizes.values())[k] == (channels, 28, 28) for k in range(5))
    assert list(sizes)[5] in ("stage2_norm", "stage2_down")
    assert sizes["stage2_down"][1:] == (14, 14)
    assert sizes["head"] == (512,)


@names
def test_units_in_a_row_are_timms_network(name):
    """Every part of timm's forward pass is in the units, once and in order."""
    torch.manual_seed(0)
    network = BUILD[name]().eval()
    reference = timm.create_model({"xs": "edgenext_x_small", "xxs": "edgenext_xx_small"}[network.variant]).eval()
    reference.reset_classifier(512)
    # Both hold the same parameters in the same order; random values keep any two of them apart.
    ours, theirs = list(network.parameters()), list(reference.parameters())
    assert [p.shape for p in ours] == [p.shape for p in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        other.data.normal_(0, 0.2)
        mine.data.copy_(other.data)
    x = torch.rand(2, 3, 112, 112)
    torch.testing.assert_close(network(x), reference(x * 2 - 1), atol=1e-4, rtol=1e-4)


@names
def test_prepare_and_gradient(name):
    torch.manual_seed(0)
    network = BUILD[name]()
    checks.assert_prepare_has_the_right_slope(network)
    checks.assert_gradient_reaches_the_picture(network)


@names
def test_embedding_of_the_pattern_is_the_recorded_one(name):
    network = checks.converted(name)
    assert checks.fingerprint(network(checks.pattern())) == pytest.approx(RECORDED[name], abs=2e-5)


@names
def test_two_photographs_of_a_person_are_nearer_than_of_two_persons(name):
    embeddings = unit_embeddings(checks.converted(name), lfw_crops_or_skip())
    cosine = embeddings @ embeddings.T
    assert float(cosine[0, 1]) > 0.5
    assert float(cosine[2, 3]) > 0.5
    assert float(cosine[:2, 2:].max()) < 0.2


@names
def test_int8_layers_come_out_on_their_grid(name):
    """A dequantised weight is scale * (integer - zero point), with at most 256 integers."""
    state = CONVERT[name](checks.files(name))
    weight = state["units.stage1_block1.mlp.fc1.weight"]
    levels = weight.unique()
    assert 2 < len(levels) <= 256
    steps = (levels - levels[0]) / levels.diff().min()
    torch.testing.assert_close(steps, steps.round(), atol=1e-2, rtol=0)
    assert all(tensor.dtype == torch.float32 for tensor in state.values())


@names
def test_another_state_dict_is_refused_in_one_line(name, tmp_path):
    path = tmp_path / "other.pt"
    torch.save({"model.stem.0.weight": torch.zeros(24, 3, 4, 4), "classifier.weight": torch.zeros(2)}, path)
    with pytest.raises(NetworkError, match=r"^[^\n]*other\.pt: no weights for units\.[^\n]*missing[^\n]*$"):
        CONVERT[name]({f"{name}-pt": path})
