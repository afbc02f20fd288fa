from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pmtlib import assets, faces, metrics, zoo
from pmtlib.errors import AssetError, ConfigError, NetworkError, PhotoError, ResultError
from pmtlib.images import to_tensor
from pmtlib.pipeline import Job, features_bytes, read_features, run
from pmtlib.transform import PMTConfig
from pmtlib.verify import compare
from tests import photographs
from tests.photographs import NETWORK


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``a.jpg``, its protected image and features in ``out``, and its aligned crop ``crop.png``."""
    photographs.ready()
    place = tmp_path_factory.mktemp("verify")
    photo = faces.read_photo(photographs.portrait(place / "a.jpg"))
    crop = faces.align(photo, faces.Detector()(photo)[0].landmarks)
    Image.fromarray(crop).save(place / "crop.png")
    for features in (False, True):
        config = PMTConfig(steps=4)
        run(Job([place / "a.jpg"], place / "out", [NETWORK], config, features=features, device="cpu"), show=False)
    return place


def test_an_image_is_judged_as_it_was_saved(folder: Path) -> None:
    protected = folder / "out" / "a.png"
    found = compare(folder / "a.jpg", protected, [NETWORK], device="cpu")
    original, uploaded = (to_tensor([np.array(Image.open(path))]) for path in (folder / "crop.png", protected))
    network = zoo.load(NETWORK)
    cosine = torch.cosine_similarity(network(original), network(uploaded)).item()
    (opinion,) = found.networks
    assert opinion.cosine == pytest.approx(cosine, abs=1e-5)
    stored = zoo.calibration(NETWORK)
    if stored is None:
        assert opinion.verdict is None
    else:
        assert opinion.threshold == stored.threshold_accuracy
        assert opinion.verdict == ("accepted" if cosine > stored.threshold_accuracy else "rejected")
    error = float(((original - uploaded) ** 2).mean())
    assert found.psnr == pytest.approx(-10 * np.log10(error), abs=1e-4)
    assert found.ssim == pytest.approx(metrics.ssim(original, uploaded)[0])
    if assets.available("lpips-alexnet"):
        assert found.lpips_alex == pytest.approx(metrics.lpips(original, uploaded, "alex")[0])
    assert (found.original, found.uploaded) == ("largest face", "image")


def test_without_weights_of_lpips_the_networks_still_speak(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> float:
        raise AssetError("no network")

    monkeypatch.setattr(metrics, "lpips", refused)
    monkeypatch.setattr(assets, "obtainable", lambda name: True)
    found = compare(folder / "crop.png", folder / "crop.png", [NETWORK], device="cpu")
    assert (found.lpips_vgg, found.lpips_alex) == (None, None)
    assert found.networks[0].cosine == pytest.approx(1)


def test_an_aligned_crop_is_known_by_its_size(folder: Path) -> None:
    found = compare(folder / "crop.png", folder / "crop.png", [NETWORK], device="cpu")
    assert found.original == "as it is"
    assert found.networks[0].cosine == pytest.approx(1)
    assert found.ssim == pytest.approx(1)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["psnr"] is None
    assert compare(folder / "crop.png", folder / "crop.png", [NETWORK], aligned=True).original == "as it is"
    with pytest.raises(PhotoError, match="an aligned crop is 112x112"):
        compare(folder / "a.jpg", folder / "crop.png", [NETWORK], aligned=True)


def test_features_are_finished_by_their_own_network(folder: Path) -> None:
    protected = folder / "out" / f"a.{NETWORK}.safetensors"
    found = compare(folder / "a.jpg", protected, device="cpu")
    row = json.loads((folder / "out" / "report.jsonl").read_text("utf-8").splitlines()[0])
    assert row["mode"] == "features"
    assert [opinion.network for opinion in found.networks] == [NETWORK]
    assert found.networks[0].cosine == pytest.approx(row["networks"][0]["cosine"], abs=1e-5)
    assert (found.uploaded, found.ssim) == ("features", None)
    with pytest.raises(ConfigError, match=f"holds features for {NETWORK}"):
        compare(folder / "a.jpg", protected, ["sface"], device="cpu")


def test_features_that_do_not_fit_are_refused(folder: Path) -> None:
    features, card = read_features(folder / "out" / f"a.{NETWORK}.safetensors")
    for name, tensor, changed, kind, message in (
        ("weights", features, {"weights": "0" * 64}, NetworkError, "made for other weights"),
        ("shape", features[:, :3], {"shape": [1, 3, 28, 28]}, ResultError, "and mobilefacenet has"),
        ("network", features, {"network": "mobileface"}, NetworkError, "no network 'mobileface'"),
        ("cut", features, {"cut": 77}, ConfigError, "cut 77 is outside"),
        ("lie", features, {"shape": [1, 2]}, ResultError, "holds no features"),
    ):
        path = folder / f"{name}.safetensors"
        path.write_bytes(features_bytes(tensor, {**card, **changed}))
        with pytest.raises(kind, match=message):
            compare(folder / "a.jpg", path, device="cpu")


def test_what_was_not_saved_by_protect_is_refused(folder: Path) -> None:
    with pytest.raises(PhotoError, match=r"a\.jpg is 220x220, and pmt protect saves 112x112"):
        compare(folder / "a.jpg", folder / "a.jpg", [NETWORK], device="cpu")
    with pytest.raises(PhotoError, match="no face was found"):
        compare(photographs.empty(folder / "nobody.png"), folder / "crop.png", [NETWORK], device="cpu")
