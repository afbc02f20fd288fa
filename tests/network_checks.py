"""What several networks' tests share: fresh conversion, a picture made of integers, and checks of gradients."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from pmtlib import zoo
from tests.oracles import ATOL, ORACLES, asset_or_skip, lfw_crops_or_skip, unit_embeddings


def files(name: str) -> dict[str, Path]:
    """The network's verified weight files, or a skip that says why they cannot be had."""
    return {asset: asset_or_skip(asset) for asset in zoo.card(name).assets}


def converted(name: str):
    """The network with weights converted now (not read from the cache), frozen."""
    card = zoo.card(name)
    network = card.build()
    network.load_state_dict(card.convert(files(name)), strict=True)
    return network.eval().requires_grad_(False)


def pattern() -> torch.Tensor:
    """A picture (1, 3, 112, 112) in [0, 1] that is the same on every machine: integer arithmetic, then 8 bits."""
    c, i, j = torch.meshgrid(torch.arange(3), torch.arange(112), torch.arange(112), indexing="ij")
    return (((3 + c) * i + (5 + 2 * c) * j + i * j // 7) % 256).float().div(255)[None]


def fingerprint(embedding: torch.Tensor) -> list[float]:
    """Eight cosine-transform coefficients of a normalised embedding (1, D); each depends on all of its entries."""
    values = F.normalize(embedding.double())[0].tolist()
    size = len(values)
    return [
        sum(value * math.cos(math.pi * order * (index + 0.5) / size) for index, value in enumerate(values))
        for order in range(1, 9)
    ]


def assert_agrees_with_oracle(name: str) -> None:
    """The published weights give the embeddings that an independent interpreter of the original file gave."""
    oracle, crops = ORACLES["networks"][name], lfw_crops_or_skip()
    found = unit_embeddings(converted(name), crops)
    assert found.shape == (4, oracle["dim"])
    torch.testing.assert_close(found[:, :8], torch.tensor(oracle["first8"]).double(), atol=ATOL, rtol=0)
    compared = [(i, j) for i, j in combinations(range(4), 2) if f"cos_{i}{j}" in oracle]
    assert len(compared) >= 3
    for i, j in compared:
        assert float(found[i] @ found[j]) == pytest.approx(oracle[f"cos_{i}{j}"], abs=ATOL)


def map_sizes(network, images: torch.Tensor) -> dict[str, tuple[int, ...]]:
    """Unit -> shape of its output, without the batch."""
    outputs = network.run_units(network.prepare(images), 0, len(network.unit_names))
    return {name: tuple(output.shape[1:]) for name, output in zip(network.unit_names, outputs, strict=True)}


def assert_gradient_reaches_the_picture(network) -> None:
    """The gradient of an embedding with respect to the picture is finite and not zero."""
    torch.manual_seed(0)
    picture = torch.rand(2, 3, 112, 112).requires_grad_()
    network.eval()(picture).square().sum().backward()
    assert picture.grad is not None
    assert bool(torch.isfinite(picture.grad).all())
    assert float(picture.grad.abs().amax(dim=(1, 2, 3)).min()) > 0


def assert_prepare_has_the_right_slope(network) -> None:
    """Autograd through ``prepare`` equals a central difference along a random direction, in float64."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(1, 3, 112, 112, generator=generator, dtype=torch.float64).requires_grad_()
    direction = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    prepared = network.prepare(x)
    assert prepared.dtype == torch.float64
    weights = torch.randn(prepared.shape, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((prepared * weights).sum(), x)
    step = 1e-4
    with torch.no_grad():
        ahead, behind = (network.prepare(x + sign * step * direction) for sign in (1, -1))
        numeric = ((ahead - behind) * weights).sum() / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), numeric, rtol=1e-7, atol=1e-7)
    assert float(gradient.abs().max()) > 0
