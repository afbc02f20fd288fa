from __future__ import annotations

import numpy as np
import pytest
import torch

from pmtlib import datasets, faces, zoo
from pmtlib.errors import AssetError
from pmtlib.filters import blur
from pmtlib.images import to_tensor
from pmtlib.variants import decoys
from pmtlib.variants.decoys import FACES, SIZE, decoy
from tests.oracles import asset_or_skip, network_or_skip


def sample_people() -> torch.Tensor:
    """Every face of the sample photographs that are here, (M, 3, 112, 112); at least the astronaut."""
    asset_or_skip("yunet-onnx")
    crops = []
    for photo in datasets.sample_photos():
        try:
            crops += [crop.image for crop in photo.crops()]
        except AssetError:
            continue
    return to_tensor(crops)


def test_decoys_are_images_and_come_from_their_seed_alone() -> None:
    first = decoy(3, 3)
    assert first.shape == (3, 3, SIZE, SIZE)
    assert first.dtype == torch.float32
    assert 0 <= first.min() < first.max() <= 1
    torch.manual_seed(99)
    assert torch.equal(decoy(3, 2), first[:2])
    assert decoy(3, 0).shape == (0, 3, SIZE, SIZE)


def test_decoys_of_two_seeds_differ_where_anchors_look() -> None:
    many = torch.cat([decoy(seed) for seed in range(6)] + [decoy(0, 2)[1:]])
    coarse = blur(many, 4.0)
    for i in range(len(many)):
        for j in range(i):
            # Two photographs of two people differ by about 0.2.
            assert (coarse[i] - coarse[j]).abs().mean() > 0.02, (i, j)


def test_no_face_dominates_a_blend(monkeypatch: pytest.MonkeyPatch) -> None:
    """With unit vectors in place of the faces the blend's pixels are its weights."""
    units = torch.eye(100, dtype=torch.float64).view(100, 10, 10)
    monkeypatch.setattr(decoys, "_faces", lambda: units)
    # Mirrored as well: a flip moves a weight to another pixel, where it may meet a second one.
    monkeypatch.setattr(torch.Tensor, "flip", lambda image, *_: image)
    for seed in range(50):
        weights = decoys._blend(torch.Generator().manual_seed(seed)).flatten()
        assert float(weights.sum()) == pytest.approx(1)
        assert int((weights > 0).sum()) == FACES >= 16
        assert float(weights.max()) < 0.25


def test_the_faces_are_registered_to_the_template() -> None:
    asset_or_skip("yunet-onnx")
    detector, found = faces.Detector(), []
    for grey in decoys._faces()[:20]:
        picture = ((grey * 0.2 + 0.5).clamp(0, 1) * 255).byte().numpy()
        framed = np.pad(np.stack([picture] * 3, -1), ((60, 60), (60, 60), (0, 0)), mode="edge")
        found += [face.landmarks - 60 for face in detector(framed)[:1]]
    assert len(found) > 10
    # A pixel of the crops is 4.4 pixels here, and poses differ.
    assert np.abs(np.median(found, axis=0) - faces.TEMPLATE).max() < 4.4


def test_the_tint_is_a_skin_colour_and_does_not_follow_the_face() -> None:
    mean = torch.cat([decoy(seed) for seed in range(20)]).mean((2, 3))
    red, green, blue = mean.T
    assert ((red > green) & (green > blue)).all()
    assert (red > 0.45).all()
    assert (red < 0.8).all()
    assert red.std() > 0.03


@pytest.mark.parametrize("name", ["mobilefacenet", "sface", "dlib-resnet29", "mobilefacenet-casia"])
def test_decoys_are_nobody_among_the_sample_people(name: str) -> None:
    network, people = network_or_skip(name), sample_people()
    calibration = zoo.calibration(name)
    assert calibration is not None
    with torch.inference_mode():
        enrolled = network(people)
        asked = network(torch.cat([decoy(seed) for seed in range(12)]))
        again = network(people[:1])
    found = torch.cosine_similarity(asked[:, None], enrolled[None], dim=2).amax(1)
    assert (found < calibration.threshold_far_1e3).all(), found.max()
    # The measure itself can say yes: a person is found among the enrolled.
    known = torch.cosine_similarity(again[:, None], enrolled[None], dim=2)
    assert known.argmax(1).tolist() == [0]
    assert float(known.max()) > calibration.threshold_far_1e3
