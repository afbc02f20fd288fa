"""Frozen layers: the numbers and the gradients of torch's own, bit for bit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pmtlib.networks.frozen import FrozenPReLU, freeze, window_means
from pmtlib.shallow import ShallowModel
from tests.small_network import SmallNetwork, photographs


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(2, 5, 7, 6), (3, 5)])
@pytest.mark.parametrize("slopes", [5, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_values_and_gradients_are_torchs_own(shape: tuple[int, ...], slopes: int, dtype: torch.dtype) -> None:
    usual = nn.PReLU(slopes).to(dtype)
    usual.weight.data = draw(slopes, seed=1).to(dtype)
    frozen = FrozenPReLU(usual)
    values = draw(*shape).to(dtype)
    values.view(-1)[:2] = torch.tensor([0.0, -0.0], dtype=dtype)  # at the kink too
    above = draw(*shape, seed=2).to(dtype)
    found = []
    for layer in (usual, frozen):
        given = values.clone().requires_grad_(True)
        made = layer(given)
        (gradient,) = torch.autograd.grad(made, given, above)
        found.append((made, gradient))
    for own, torchs in zip(found[1], found[0], strict=True):
        assert own.dtype == dtype
        assert torch.equal(own, torchs)
    with torch.no_grad():
        assert torch.equal(frozen(values), usual(values))


def test_the_derivative_is_that_of_finite_differences() -> None:
    frozen = FrozenPReLU(nn.PReLU(3).double())
    torch.autograd.gradcheck(frozen, draw(2, 3, 4).double().requires_grad_(True))


def test_under_autocast_it_does_what_torchs_own_does() -> None:
    usual = nn.PReLU(5)
    gradients = []
    for layer in (usual, FrozenPReLU(usual)):
        given = draw(2, 5, 3, 3).requires_grad_(True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            made = layer(given)
        gradients.append((made.dtype, torch.autograd.grad(made.float().sum(), given)[0]))
    assert gradients[0][0] == gradients[1][0]
    assert gradients[1][1].dtype == torch.float32
    torch.testing.assert_close(gradients[1][1], gradients[0][1])


def test_a_module_that_hangs_in_two_places_stays_one_and_the_network_given_stays_as_it_is() -> None:
    shared = nn.PReLU(4)
    network = nn.ModuleDict({"one": nn.Sequential(shared, nn.Tanh()), "other": nn.Sequential(shared)})
    before = dict(network.state_dict())
    freeze(network)
    assert isinstance(network["one"][0], FrozenPReLU)
    assert network["one"][0] is network["other"][0]
    assert {name: value.data_ptr() for name, value in network.state_dict().items()} == {
        name: value.data_ptr() for name, value in before.items()
    }
    whole = SmallNetwork()
    shallow = ShallowModel(whole, 2)
    assert type(whole.units.first[1]) is nn.PReLU
    assert isinstance(shallow.network.units.first[1], FrozenPReLU)
    assert list(shallow.state_dict()) == [f"network.{name}" for name in whole.state_dict() if "head" not in name]


def test_the_gradient_of_a_shallow_model_is_that_of_the_network_it_was_cut_from() -> None:
    whole = SmallNetwork()
    images = photographs(2)
    gradients = []
    for outputs in (lambda x: whole.run_units(whole.prepare(x), 0, 2), ShallowModel(whole, 2)):
        given = images.clone().requires_grad_(True)
        gradients.append(torch.autograd.grad(outputs(given)[-1].square().sum(), given)[0])
    assert torch.equal(*gradients)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 3, 7, 9), (1, 2, 3, 3)])
@pytest.mark.parametrize("window", [1, 2, 3])
def test_window_means_are_torchs_average_pooling(shape: tuple[int, ...], window: int) -> None:
    values = draw(*shape)
    for given in (values, values.contiguous(memory_format=torch.channels_last), values.double()):
        found = []
        for pooling in (F.avg_pool2d, window_means):
            leaf = given.clone().requires_grad_(True)
            made = pooling(leaf, window)
            above = draw(*made.shape, seed=3).to(given.dtype)
            found.append((made, torch.autograd.grad(made, leaf, above)[0]))
        for torchs, own in zip(*found, strict=True):
            assert torch.equal(own, torchs)
