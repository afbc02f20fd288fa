from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from pmtlib import assets, converted, zoo
from pmtlib.errors import ConfigError, NetworkError
from pmtlib.networks.base import FaceNetwork
from tests.oracles import asset_or_skip, astronaut_crop

NAMES = (
    "mobilefacenet",
    "mobilefacenet-casia",
    "mobilefacenet-ms1m",
    "sface",
    "edgeface-xs",
    "edgeface-xxs",
    "dlib-resnet29",
    "mobilenet-vggface2",
)


@pytest.fixture
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache and a weights folder that holds the TFLite file alone; nothing is downloaded. The cache."""
    original = asset_or_skip("mobilefacenet-tflite")
    weights = tmp_path / "weights"
    weights.mkdir()
    shutil.copyfile(original, weights / assets.ASSETS["mobilefacenet-tflite"].filename)
    monkeypatch.setenv("PMT_WEIGHTS", str(weights))
    monkeypatch.setenv("PMT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PMT_OFFLINE", "1")
    return tmp_path / "cache"


def test_names_and_cards() -> None:
    assert zoo.names() == NAMES
    for name in NAMES:
        card = zoo.card(name)
        assert card.name == name
        assert all(asset in assets.ASSETS for asset in card.assets)
        assert card.assets
        assert all((card.training_set, card.loss, card.licence, card.input))


@pytest.mark.parametrize("name", NAMES)
def test_every_architecture_has_the_embedding_of_its_card_and_its_default_cut(name: str) -> None:
    card = zoo.card(name)
    network = card.build().eval()
    assert isinstance(network, FaceNetwork)
    assert 1 <= card.default_cut < len(network.units)
    with torch.no_grad():
        outputs = network.run_units(network.prepare(torch.rand(1, 3, 112, 112)), 0, len(network.units))
    assert outputs[-1].shape == (1, card.embedding)
    assert sum(parameter.numel() for parameter in network.parameters()) == card.parameters
    assert outputs[card.default_cut - 1].ndim == 4


def test_an_unknown_name_suggests_the_nearest_and_lists_all() -> None:
    with pytest.raises(NetworkError, match=r"no network 'mobilfacenet'; did you mean 'mobilefacenet'\?") as caught:
        zoo.load("mobilfacenet")
    assert all(name in str(caught.value) for name in NAMES)
    assert "\n" not in str(caught.value)
    for function in (zoo.card, zoo.available, zoo.weights_checksum, zoo.converted_path, zoo.calibration):
        with pytest.raises(NetworkError, match="no network 'zzzzzz'; known are mobilefacenet, "):
            function("zzzzzz")


def test_the_checksum_stands_for_the_assets_and_the_conversion() -> None:
    shas = [assets.ASSETS[asset].sha256 for asset in ("faceres-deep-json", "faceres-deep-bin")]
    expected = hashlib.sha256(("\n".join(sorted(shas)) + "\nconversion 1").encode()).hexdigest()
    assert zoo.weights_checksum("mobilenet-vggface2") == expected
    assert len({zoo.weights_checksum(name) for name in NAMES}) == len(NAMES)


def test_a_new_conversion_has_a_new_checksum_and_file(monkeypatch: pytest.MonkeyPatch) -> None:
    before = zoo.weights_checksum("sface"), zoo.converted_path("sface")
    monkeypatch.setattr(zoo, "CARDS", {"sface": replace(zoo.card("sface"), conversion=2)})
    after = zoo.weights_checksum("sface"), zoo.converted_path("sface")
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_load_is_frozen_in_evaluation_mode_and_leaves_the_random_state(private: Path) -> None:
    before = torch.random.get_rng_state()
    network = zoo.load("mobilefacenet")
    assert torch.equal(before, torch.random.get_rng_state())
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())


def test_the_second_load_needs_the_converted_file_alone(private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = zoo.load("mobilefacenet")(astronaut_crop())
    assert [file.name for file in (private / "converted").iterdir()] == [zoo.converted_path("mobilefacenet").name]
    shutil.rmtree(private.parent / "weights")
    second = zoo.load("mobilefacenet")(astronaut_crop())
    assert torch.equal(first, second)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1000] ^= 0x10
    path.write_bytes(content)


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100_000])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _other_network(path: Path) -> None:
    safetensors.torch.save_file({"units.conv1.weight": torch.zeros(3)}, path)


def _valid_but_another_network(path: Path) -> None:
    state = {"units.conv1.weight": torch.zeros(3)}
    converted.write(path, state)


@pytest.mark.parametrize("damage", [_flip, _cut_short, _empty, _other_network, _valid_but_another_network])
def test_a_damaged_converted_file_is_made_anew(private: Path, damage) -> None:
    first = zoo.load("mobilefacenet")(astronaut_crop())
    path = zoo.converted_path("mobilefacenet")
    whole = path.read_bytes()
    damage(path)
    assert torch.equal(zoo.load("mobilefacenet")(astronaut_crop()), first)
    assert path.read_bytes() == whole


def test_weights_that_do_not_fit_are_refused_and_not_kept(private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = zoo.card("mobilefacenet")

    def lossy(files):
        state = good.convert(files)
        del state["units.conv2.conv.bias"]
        return state

    monkeypatch.setattr(zoo, "CARDS", {"mobilefacenet": replace(good, convert=lossy)})
    with pytest.raises(NetworkError, match=r"weights of mobilefacenet do not fit .*conv2\.conv\.bias") as caught:
        zoo.load("mobilefacenet")
    assert "\n" not in str(caught.value)
    assert not zoo.converted_path("mobilefacenet").exists()


def test_a_cache_that_cannot_be_written_is_named(private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = private.parent / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("PMT_CACHE", str(blocked))
    with pytest.raises(NetworkError, match=r"cannot write .*file.*; set PMT_CACHE to a folder"):
        zoo.load("mobilefacenet")


def test_availability_follows_the_files(private: Path) -> None:
    assert zoo.available("mobilefacenet")
    assert not zoo.available("edgeface-xs")


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="device 'nonsense'"):
        zoo.load("mobilefacenet", device="nonsense")


def test_calibration_of_other_weights_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "CARDS", {"sface": replace(zoo.card("sface"), conversion=99)})
    assert zoo.calibration("sface") is None


def test_asking_for_a_card_imports_no_architecture() -> None:
    script = (
        "import sys; from pmtlib import zoo; [zoo.weights_checksum(n) for n in zoo.names()];"
        "print([m for m in sys.modules if m.startswith(('timm', 'onnx', 'tflite', 'pmtlib.networks.'))])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "['pmtlib.networks.base']"
