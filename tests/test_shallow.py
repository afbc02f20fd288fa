from __future__ import annotations

import io

import pytest
import torch

from pmtlib.errors import ConfigError
from pmtlib.shallow import ServerModel, ShallowModel, fast_layout, resolve_cut
from tests.small_network import SmallNetwork, photographs


@pytest.mark.parametrize("cut", [1, 2, 3, "second", -1])
def test_shallow_and_server_model_together_are_the_network(cut):
    network, x = SmallNetwork(), photographs(2)
    shallow, server = ShallowModel(network, cut), ServerModel(network, cut)
    torch.testing.assert_close(server(shallow.feature(x)), network(x))
    assert len(shallow(x)) == resolve_cut(network, cut) == shallow.card()["cut"]


def test_a_layout_changes_how_maps_lie_and_nothing_else():
    network, x = SmallNetwork(), photographs(2)
    usual, other = ShallowModel(network, 2), ShallowModel(network, 2, layout="channels_last")
    assert usual.layout == ShallowModel.layout == "contiguous"
    for one, two in zip(usual(x), other(x), strict=True):
        torch.testing.assert_close(two, one)
        assert one.is_contiguous()
        assert two.is_contiguous(memory_format=torch.channels_last)
        assert not two.is_contiguous()
    # A feature is handed on: its order in memory is that of its shape.
    assert other.feature(x).is_contiguous()
    assert usual.card() == other.card()
    for name, value in usual.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
    assert network.units.first[0].weight.is_contiguous()
    assert [fast_layout(torch.device(kind)) for kind in ("cpu", "cuda")] == ["channels_last", "contiguous"]


def test_the_shallow_model_holds_nothing_behind_the_cut_and_is_frozen():
    network = SmallNetwork()
    shallow = ShallowModel(network, 1)
    assert {name.split(".")[2] for name, _ in shallow.named_parameters()} == {"first"}
    assert not any(p.requires_grad for p in shallow.parameters())
    assert shallow.unit_names == ("first",)
    # Nor does the file that a service would hand out.
    file = io.BytesIO()
    torch.save(shallow, file)
    kept = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    assert kept.network.unit_names == ("first",)
    head = network.units.head[2].weight.numpy().tobytes()
    assert head not in file.getvalue()
    first = network.units.first[0].weight.numpy().tobytes()
    assert first in file.getvalue()


def test_the_network_that_is_cut_stays_as_it_is():
    network = SmallNetwork().requires_grad_(True).train()
    ShallowModel(network, 1)
    ServerModel(network, 1)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert network.unit_names == ("first", "second", "head")


@pytest.mark.parametrize("cut", [0, 4, -3, -4, "third"])
def test_a_cut_that_does_not_exist_is_refused(cut):
    with pytest.raises(ConfigError, match="SmallNetwork"):
        resolve_cut(SmallNetwork(), cut)


@pytest.mark.parametrize(("cut", "units"), [("56x56", 1), ("29x29", 1), ("28x28", 2), ("7x7", 2)])
def test_a_cut_by_the_size_of_a_map_is_the_deepest_unit_with_that_many_rows(cut, units):
    assert resolve_cut(SmallNetwork(), cut) == units


@pytest.mark.parametrize("cut", ["57x57", "112x112"])
def test_a_map_that_no_unit_has_is_refused(cut):
    with pytest.raises(ConfigError, match=f"has a map of {cut}"):
        resolve_cut(SmallNetwork(), cut)


def test_a_size_that_is_not_square_is_no_cut():
    with pytest.raises(ConfigError, match="no unit '7x6'"):
        resolve_cut(SmallNetwork(), "7x6")
