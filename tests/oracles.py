"""Reference values (``oracles.json``, see its note) and the pictures that they belong to."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut
from torch import Tensor
from torch.nn.functional import normalize

from pmtlib import assets, paths, zoo
from pmtlib.errors import AssetError
from pmtlib.images import to_tensor
from pmtlib.networks.base import FaceNetwork

ORACLES: dict[str, Any] = json.loads((Path(__file__).parent / "oracles.json").read_text())
ATOL = 1e-5
"""Half a unit of the fifth decimal, to which the values are rounded, and as much again for the arithmetic."""


def network_or_skip(name: str) -> FaceNetwork:
    """The network, or a skip that says why its weights cannot be had."""
    try:
        return zoo.load(name)
    except AssetError as error:
        pytest.skip(f"weights of {name} cannot be had: {error}")


def asset_or_skip(name: str) -> Path:
    """The asset's file, or a skip that says why it cannot be had."""
    try:
        return assets.path(name)
    except AssetError as error:
        pytest.skip(str(error))


def lfw_crops_or_skip() -> Tensor:
    """The four LFW crops (4, 3, 112, 112) in [0, 1], or a skip without them."""
    folder = paths.data_dir()
    if folder is None:
        pytest.skip("PMT_DATA is not set: no LFW crops")
    files = [folder / ORACLES["lfw_folder"] / file for file in ORACLES["files"]]
    missing = [file for file in files if not file.is_file()]
    if missing:
        pytest.skip(f"PMT_DATA has no {missing[0].relative_to(folder)}")
    return to_tensor([np.asarray(Image.open(file).convert("RGB")) for file in files])


def astronaut_crop() -> Tensor:
    """A face (1, 3, 112, 112) in [0, 1] that needs no data; roughly where the ArcFace template has it."""
    return to_tensor(astronaut()[52:164, 168:280])


@torch.no_grad()
def unit_embeddings(network: FaceNetwork, images: Tensor) -> Tensor:
    """L2-normalised embeddings in float64."""
    return normalize(network(images).double())


def assert_lfw_embeddings(name: str) -> None:
    """The network gives the recorded embeddings of the LFW crops."""
    network, crops = network_or_skip(name), lfw_crops_or_skip()
    expected = ORACLES["networks"][name]
    found = unit_embeddings(network, crops)
    assert found.shape == (4, expected["dim"])
    torch.testing.assert_close(found[:, :8], torch.tensor(expected["first8"]).double(), rtol=0, atol=ATOL)
    for i, j in combinations(range(4), 2):
        if f"cos_{i}{j}" in expected:
            assert float(found[i] @ found[j]) == pytest.approx(expected[f"cos_{i}{j}"], abs=ATOL)


def assert_astronaut_embedding(name: str) -> None:
    """The network gives the recorded embedding of the astronaut."""
    found = unit_embeddings(network_or_skip(name), astronaut_crop())
    expected = torch.tensor([ORACLES["astronaut"][name]]).double()
    torch.testing.assert_close(found[:, :8], expected, rtol=0, atol=ATOL)
