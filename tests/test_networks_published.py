"""Architectures of public checkpoints against the publishers' own classes: names, shapes, unit outputs, embeddings."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pmtlib.architectures import ARCHITECTURES, Options, find
from pmtlib.networks.base import PublishedNetwork
from pmtlib.networks.inception_resnet import InceptionResNetV1
from pmtlib.networks.ir import IRNet
from pmtlib.networks.mobileface import MobileFace, MobileNet
from pmtlib.networks.resnet import ResNet
from pmtlib.shallow import ServerModel, ShallowModel
from tests import network_checks as checks

FACTS = json.loads((Path(__file__).parent / "published_networks.json").read_text())
ROBFR = {
    "MobileFace": MobileFace,
    "ResNet50": ResNet,
    "IR50": IRNet,
    "ArcFace_IRSE50": lambda: IRNet(excitation=True, scale=128.0),
    "Mobilenet_s2": MobileNet,
    "Mobilenet_s1": lambda: MobileNet(1),
}


def stated(name: str, shape: list[int]) -> Tensor:
    """The weights that the facts were measured with."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    seed = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
    uniform = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    if name.endswith("running_var"):
        return uniform + 0.5
    if name.endswith("running_mean"):
        return (uniform - 0.5) * 0.1
    if len(shape) == 1:
        return uniform * 0.5 + 0.5 if name.endswith("weight") else (uniform - 0.5) * 0.1
    return (uniform - 0.5) * 2 * math.sqrt(3 / math.prod(shape[1:]))


def with_stated_weights(network: PublishedNetwork) -> PublishedNetwork:
    state = {name: stated(name, list(value.shape)) for name, value in network.state_dict().items()}
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


def pictures() -> Tensor:
    return torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("name", ROBFR)
def test_the_state_dict_is_robfrs_key_for_key_and_shape_for_shape(name: str) -> None:
    network, facts = ROBFR[name](), FACTS["networks"][name]
    found = {key: list(value.shape) for key, value in network.state_dict().items()}
    assert found == facts["state_dict"]
    assert sum(parameter.numel() for parameter in network.parameters()) == facts["parameters"]


@pytest.mark.parametrize("name", ROBFR)
def test_unit_outputs_and_embedding_are_robfrs(name: str) -> None:
    network, facts = with_stated_weights(ROBFR[name]()), FACTS["networks"][name]
    # RobFR's wrapper reverses the channels before the class that was measured.
    images = pictures().flip(1) if network.bgr else pictures()
    units = network.run_units(network.prepare(images), 0, 5)
    for unit, output in zip(facts["five_units"], units, strict=True):
        assert list(output.shape[1:]) == facts["unit_output_shapes"][unit]
        # RobFR's ReLU works in place, so what was measured behind bn1 of its ResNet is what the ReLU made of it.
        kept = torch.relu(output) if (name, unit) == ("ResNet50", "bn1") else output
        assert float(kept.abs().mean()) == pytest.approx(facts["unit_output_mean_abs"][unit], abs=2e-6)
    embedding = network(images)
    assert embedding[0, :8].tolist() == pytest.approx(facts["embedding_row0_first8"], rel=1e-4, abs=2e-5)
    assert float(embedding[0].norm()) == pytest.approx(facts["embedding_norm_row0"], rel=1e-5)


@pytest.mark.parametrize("name", ROBFR)
def test_channel_order_and_scale_are_robfrs(name: str) -> None:
    network, facts = ROBFR[name](), FACTS["networks"][name]
    order = facts["channel_order"]
    assert network.bgr == (order == "bgr")
    assert network.scale == (127.5 if name == "IR50" else 128.0)
    picture = torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1).expand(1, 3, 112, 112)
    expected = [-127.5 / network.scale, 0.0, 127.5 / network.scale]
    assert network.prepare(picture)[0, :, 3, 4].tolist() == pytest.approx(expected[::-1] if network.bgr else expected)


@pytest.mark.parametrize("name", FACTS["others"])
def test_embeddings_are_those_of_the_publishers_class(name: str) -> None:
    facts = FACTS["others"][name]
    network = with_stated_weights(find(name).network(Options()))
    assert sum(parameter.numel() for parameter in network.parameters()) == facts["parameters"]
    embedding = network(pictures())[0]
    if name == "inception-resnet-v1":
        embedding = embedding / embedding.norm()
    # Fifty layers of float32 differ between processors by some 1e-6 of the norm, whatever the size of a component.
    assert embedding[:8].tolist() == pytest.approx(facts["first8"], abs=2e-6 * facts["norm"])
    assert float(embedding.norm()) == pytest.approx(facts["norm"], rel=1e-5)
    assert list(network.run_units(network.prepare(pictures()), 0, 5)[-1].shape[1:]) == facts["last_unit"]


@pytest.mark.parametrize("name", [name for name, entry in ARCHITECTURES.items() if entry.wrap is None])
def test_every_architecture_has_units_that_say_where_it_can_be_cut(name: str) -> None:
    with torch.device("meta"):
        network = find(name).network(Options())
    assert len(network.unit_names) >= 6
    saved, used = set(network.state_dict()), {id(value) for value in network.units.parameters()}
    assert used == {id(value) for value in network.parameters()}, "a unit is missing, or one is no part of the network"
    assert not any(key.startswith("units.") for key in saved)


def test_a_shallow_model_keeps_nothing_behind_the_cut_and_the_server_goes_on_from_it() -> None:
    network = with_stated_weights(MobileFace(embedding=64))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    shallow, server = ShallowModel(network, 5), ServerModel(network, 5)
    assert shallow.unit_names == ("conv1", "dw_conv1", "blocks0", "blocks1", "blocks2")
    kept = sum(value.numel() for value in shallow.state_dict().values())
    assert kept == sum(value.numel() for unit in network.units[:5] for value in unit.state_dict().values())
    images = pictures()
    torch.testing.assert_close(server(shallow.feature(images)), network(images))
    assert network.state_dict().keys() == before.keys()
    torch.testing.assert_close(dict(network.state_dict()), before)


def test_a_copy_and_a_move_keep_units_and_parameters_together() -> None:
    network = copy.deepcopy(MobileFace(embedding=16)).double()
    first = network.units[0].conv.weight
    assert first is network.conv1.conv.weight
    assert first.dtype == torch.float64


def test_dropout_follows_the_mode_of_the_network() -> None:
    for network in (ResNet(50), InceptionResNetV1(), IRNet(50)):
        for mode in (False, True):
            network.train(mode)
            assert all(module.training == mode for module in network.units.modules() if isinstance(module, nn.Dropout))


def test_columns_outside_have_no_influence() -> None:
    network = with_stated_weights(MobileFace(embedding=16, columns=(8, 104)))
    images = pictures().requires_grad_()
    network(images).sum().backward()
    assert images.grad is not None
    assert float(images.grad[..., :8].abs().max()) == float(images.grad[..., 104:].abs().max()) == 0
    assert float(images.grad[..., 8:104].abs().max()) > 0


@pytest.mark.parametrize("network", [MobileFace(embedding=16), InceptionResNetV1(embedding=16)], ids=["112", "160"])
def test_preparation_is_differentiable(network: PublishedNetwork) -> None:
    checks.assert_prepare_has_the_right_slope(network)
