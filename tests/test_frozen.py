"""Frozen layers: the numbers and the gradients of torch's own, bit for bit where maps do not lie channels last."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pmtlib.networks.frozen import (
    FrozenDepthwise,
    FrozenImageConv,
    FrozenPReLU,
    freeze,
    on_a_processor,
    strided_depthwise,
    window_means,
)
from pmtlib.shallow import ShallowModel
from tests.small_network import SmallNetwork, photographs

LAST = torch.channels_last


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


def both_ways(layer, values: torch.Tensor, above: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A layer's output for values, and the gradient of the values for one of the output."""
    given = values.clone(memory_format=torch.preserve_format).requires_grad_(True)
    made = layer(given)
    return made.detach(), torch.autograd.grad(made, given, above)[0]


def test_what_lies_channels_last_is_told_from_what_does_not() -> None:
    maps = draw(2, 3, 4, 5)
    assert not on_a_processor(maps)
    assert on_a_processor(maps.contiguous(memory_format=LAST))
    assert not on_a_processor(draw(2, 3))
    assert not on_a_processor(maps[:, :, ::2].contiguous(memory_format=LAST).to("meta"))


@pytest.mark.parametrize("slopes", [(0.1, 0.25, 0.4), (0.5, 0.9, 1.0), (-9.4, 8.9, -0.6)])
def test_with_channels_last_a_parametric_relu_gives_torchs_gradient_but_for_its_last_bit(slopes) -> None:
    usual = nn.PReLU(3)
    usual.weight.data = torch.tensor(slopes)
    values = draw(2, 3, 7, 6).contiguous(memory_format=LAST)
    values[0, :, 0, :2] = torch.tensor([0.0, -0.0])
    above = draw(2, 3, 7, 6, seed=2).contiguous(memory_format=LAST)
    (made, gradient), (torchs, wanted) = (both_ways(one, values, above) for one in (FrozenPReLU(usual), usual))
    assert torch.equal(made, torchs)
    torch.testing.assert_close(gradient, wanted, rtol=5e-7, atol=0)
    assert gradient.is_contiguous(memory_format=LAST)


def test_a_convolution_of_a_picture_gives_torchs_gradient_whatever_its_kernel_stride_and_padding() -> None:
    kernels = [(1, 1), (2, 3), (3, 3), (4, 4), (5, 3), (7, 7)]
    sizes = [(8, 8), (9, 8), (13, 7), (7, 12)]
    tried = 0
    for kernel, stride, channels, size in itertools.product(kernels, (1, 2), (2, 3), sizes):
        for padding in range(min(kernel)):
            usual = nn.Conv2d(channels, 5, kernel, stride, padding, bias=padding > 0).double()
            assert FrozenImageConv.fits(usual)
            values = draw(2, channels, *size).double().contiguous(memory_format=LAST)
            above = torch.randn_like(usual(values))
            found, wanted = (both_ways(one, values, above) for one in (FrozenImageConv(usual), usual))
            for own, torchs in zip(found, wanted, strict=True):
                torch.testing.assert_close(own, torchs, rtol=1e-12, atol=1e-12)
            tried += 1
    assert tried == 2 * 2 * 4 * (1 + 2 + 3 + 4 + 3 + 7)


def test_the_convolution_of_a_picture_is_torchs_own_where_it_is_not_for_it() -> None:
    usual = nn.Conv2d(3, 4, 3, 2, 1)
    frozen = FrozenImageConv(usual)
    values, above = draw(2, 3, 8, 8), draw(2, 4, 4, 4, seed=1)
    for own, torchs in zip(both_ways(frozen, values, above), both_ways(usual, values, above), strict=True):
        assert torch.equal(own, torchs)
    last = values.contiguous(memory_format=LAST).requires_grad_(True)
    assert "InBlocks" in type(frozen(last).grad_fn).__name__
    with torch.no_grad():
        assert torch.equal(frozen(last), usual(last))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = frozen(last)
    assert made.dtype == torch.bfloat16
    (gradient,) = torch.autograd.grad(made, last, above.bfloat16())
    assert gradient.dtype == torch.float32
    wanted = both_ways(usual, last.detach(), above)[1]
    torch.testing.assert_close(gradient, wanted, rtol=0.05, atol=0.05)
    for other in (
        nn.Conv2d(5, 4, 3),
        nn.Conv2d(3, 6, 3, groups=3),
        nn.Conv2d(3, 4, 3, stride=3),
        nn.Conv2d(3, 4, 3, stride=(1, 2)),
        nn.Conv2d(3, 4, 3, dilation=2),
        nn.Conv2d(3, 4, 3, padding="same"),
        nn.Conv2d(3, 4, 3, padding=3),
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
    ):
        assert not FrozenImageConv.fits(other)


def test_freezing_exchanges_a_convolution_of_a_picture_and_keeps_what_is_saved() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3))
    before = {name: value.data_ptr() for name, value in network.state_dict().items()}
    freeze(network)
    assert [isinstance(one, FrozenImageConv) for one in network] == [True, False, True, False]
    assert {name: value.data_ptr() for name, value in network.state_dict().items()} == before
    assert not any(parameter.requires_grad for parameter in network.parameters())


SIZES = [((8, 8), 2, 1), ((9, 7), 2, 0), ((8, 9), 3, 1), ((8, 8), 1, 1)]


@pytest.mark.parametrize(("size", "stride", "padding"), SIZES)
def test_a_depthwise_convolution_in_bfloat16_has_the_gradient_of_float32(size, stride: int, padding: int) -> None:
    usual = nn.Conv2d(16, 16, 3, stride, padding, groups=16).requires_grad_(False)
    frozen = FrozenDepthwise(usual)
    values = draw(2, 16, *size).contiguous(memory_format=LAST)
    above = torch.randn_like(usual(values))
    wanted = both_ways(usual, values, above)
    # In float32, and where maps do not lie so, it is torch's own.
    for given in (values, values.contiguous()):
        for own, torchs in zip(both_ways(frozen, given, above), both_ways(usual, given, above), strict=True):
            assert torch.equal(own, torchs)
    for given in (values, values.bfloat16()):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            leaf = given.clone(memory_format=torch.preserve_format).requires_grad_(True)
            made = frozen(leaf)
        assert "InFloat32" in type(made.grad_fn).__name__
        assert made.dtype == torch.bfloat16
        (gradient,) = torch.autograd.grad(made, leaf, above.bfloat16())
        assert gradient.dtype == given.dtype
        assert gradient.is_contiguous(memory_format=LAST)
        torch.testing.assert_close(gradient.float(), wanted[1], rtol=0.02, atol=0.02)


def test_freezing_exchanges_depthwise_convolutions_with_a_stride_and_no_others() -> None:
    layers = [
        nn.Conv2d(8, 8, 3, 2, 1, groups=8),
        nn.Conv2d(8, 8, 3, 1, 1, groups=8),
        nn.Conv2d(8, 8, 3, 2, 1),
        nn.Conv2d(8, 8, 3, 2, 1, groups=8, padding_mode="reflect"),
        nn.Conv2d(8, 8, 3, 2, dilation=2, groups=8),
    ]
    network = nn.Sequential(*layers)
    freeze(network)
    assert [isinstance(one, FrozenDepthwise) for one in network] == [True, False, False, False, False]
    trained = layers[0].requires_grad_(True)
    given = draw(1, 8, 6, 6).contiguous(memory_format=LAST)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = strided_depthwise(given.requires_grad_(True), trained.weight, None, (2, 2), (1, 1))
    assert torch.autograd.grad(made.float().sum(), trained.weight)[0].abs().sum() > 0
