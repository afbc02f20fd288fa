"""The attribute estimation attack: its networks against the published graphs, and what it says about photographs."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from pmtlib import assets, attribute_zoo, datasets, zoo
from pmtlib.assets import ASSETS
from pmtlib.attacks import attributes as attack
from pmtlib.errors import AssetError, ConfigError, DatasetError, NetworkError
from pmtlib.images import to_tensor
from pmtlib.networks import attributes as networks
from tests import tfjs_graph
from tests.network_checks import pattern
from tests.oracles import asset_or_skip

NAMES = ("faceres", "gear", "fer-big-xception")
# The graph's nodes in the order of the card's attributes.
NODES = {
    "faceres": ["age_pred/Softmax", "gender_pred/Sigmoid"],
    "gear": ["Identity", "Identity_1", "Identity_2"],
    "fer-big-xception": ["Identity"],
}


def files(name: str) -> dict[str, Path]:
    return {asset: asset_or_skip(asset) for asset in attribute_zoo.card(name).assets}


def converted(name: str) -> networks.AttributeNetwork:
    """The network with weights converted now, not read from the cache."""
    card = attribute_zoo.card(name)
    network = card.build()
    network.load_state_dict(card.convert(files(name)), strict=True)
    return network.eval().requires_grad_(False)


def faces_or_skip() -> tuple[list[str], torch.Tensor]:
    """Who the sample photographs show, and their crops."""
    people, crops = [], []
    try:
        for photo in datasets.sample_photos():
            for person, crop in zip(photo.persons, photo.crops(), strict=True):
                people.append(person)
                crops.append(crop.image)
    except (AssetError, DatasetError) as error:
        pytest.skip(str(error))
    return people, to_tensor(crops)


# -- networks --------------------------------------------------------------------------------------------------------


def assert_agrees_with_the_graph(name: str, network: networks.AttributeNetwork, prepared: torch.Tensor) -> None:
    topology, shard = (files(name)[asset] for asset in attribute_zoo.card(name).assets)
    expected = tfjs_graph.run(topology, shard, prepared.permute(0, 2, 3, 1).numpy(), NODES[name])
    found = network.infer(prepared)
    assert list(found) == list(attribute_zoo.card(name).labels)
    for (attribute, rows), graph in zip(found.items(), expected, strict=True):
        if name == "faceres" and attribute == "gender":
            graph = np.concatenate([graph, 1 - graph], axis=1)
        assert rows.shape == graph.shape == (len(prepared), len(attribute_zoo.card(name).labels[attribute]))
        np.testing.assert_allclose(rows.double().numpy(), graph, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_the_network_is_the_published_graph_on_noise(name: str) -> None:
    network = converted(name)
    images = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    assert_agrees_with_the_graph(name, network, network.prepare(torch.cat([images, pattern()])))


@pytest.mark.parametrize("name", NAMES)
def test_the_network_is_the_published_graph_on_photographs(name: str) -> None:
    network, (_, crops) = converted(name), faces_or_skip()
    assert_agrees_with_the_graph(name, network, network.prepare(crops[:4]))


def test_the_interpreter_pads_as_tensorflow_does() -> None:
    """SAME, kernel 3, stride 2: nothing in front of an even side, one pixel at each end of an odd one."""

    def node(op: str) -> tfjs_graph._Node:
        text = {key: {"s": base64.b64encode(value).decode()} for key, value in (("padding", b"SAME"),)}
        numbers = {"strides": {"list": {"i": ["1", "2", "2", "1"]}}, "ksize": {"list": {"i": ["1", "3", "3", "1"]}}}
        return tfjs_graph._Node({"op": op, "attr": {**text, **numbers}})

    for side in (4, 5):
        x = np.arange(side * side, dtype=float).reshape(1, side, side, 1) - 100
        starts = range(0 if side == 4 else -1, side, 2)[: -(-side // 2)]
        for row, top in enumerate(starts):
            for column, left in enumerate(starts):
                window = [
                    x[0, i, j, 0]
                    for i in range(top, top + 3)
                    for j in range(left, left + 3)
                    if 0 <= i < side and 0 <= j < side
                ]
                assert tfjs_graph._max_pool(node("MaxPool"), x)[0, row, column, 0] == max(window)
                summed = tfjs_graph._conv(node("Conv2D"), x, np.ones((3, 3, 1, 1)))
                assert summed[0, row, column, 0] == sum(window)


@pytest.mark.parametrize("side", [14, 15])
def test_the_pooling_of_a_block_pads_as_tensorflow_does(side: int) -> None:
    """For maps of either parity, though the published input meets odd ones alone."""
    torch.manual_seed(side)
    block = networks.XceptionBlock(2, 3)
    for layer in (block.shortcut, block.depthwise1, block.pointwise1, block.depthwise2):
        torch.nn.init.zeros_(layer.weight)
    for layer in (block.shortcut, block.pointwise1):
        torch.nn.init.zeros_(layer.bias)
    # What is pooled is the bias alone, negative: padding with zeros would show.
    torch.nn.init.constant_(block.pointwise2.bias, -1.0)
    x = torch.rand(1, 2, side, side)
    assert block(x, x).shape == (1, 3, -(-side // 2), -(-side // 2))
    assert torch.equal(block(x, x), torch.full_like(block(x, x), -1.0))


def test_prepare_of_faceres_enlarges_swaps_and_centres() -> None:
    flat = torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1).expand(1, 3, 112, 112)
    prepared = networks.FaceRes().prepare(flat)
    assert prepared.shape == (1, 3, 224, 224)
    for channel, (value, mean) in enumerate(((0.9, 103.939), (0.5, 116.779), (0.2, 123.68))):
        torch.testing.assert_close(prepared[0, channel], torch.full((224, 224), 255 * value - mean), atol=1e-4, rtol=0)


def test_prepare_of_the_others() -> None:
    flat = torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1).expand(1, 3, 112, 112)
    colour = networks.Gear().prepare(flat)
    assert colour.shape == (1, 3, 198, 198)
    torch.testing.assert_close(colour[0, :, 7, 9], torch.tensor([0.2, 0.5, 0.9]))
    grey = networks.BigXception().prepare(flat)
    assert grey.shape == (1, 1, 64, 64)
    expected = 2 * (0.299 * 0.2 + 0.587 * 0.5 + 0.114 * 0.9) - 1
    torch.testing.assert_close(grey, torch.full_like(grey, expected))


def test_reducing_skips_no_pixel() -> None:
    """Each of the 112 columns has the same weight in the 64, but for those at the edge."""
    images = torch.eye(112).view(112, 1, 1, 112).expand(112, 3, 112, 112)
    weight = (networks.BigXception().prepare(images)[:, 0, 32] + 1).sum(1) / 2
    assert float(weight[4:-4].min()) > 0.9 * 64 / 112
    assert float(weight[4:-4].max()) < 1.1 * 64 / 112


def test_the_age_is_the_mean_of_the_two_likeliest() -> None:
    probabilities = torch.full((3, 100), 1e-4)
    probabilities[0, 29], probabilities[0, 39] = 0.6, 0.2
    probabilities[1, 99] = 0.9
    probabilities[1, 0] = 0.05
    probabilities[2, 0], probabilities[2, 1] = 0.5, 0.5
    expected = []
    for row in probabilities.tolist():
        (p, i), (q, j) = sorted(((value, place) for place, value in enumerate(row)), reverse=True)[:2]
        expected.append((p * (i + 1) + q * (j + 1)) / (p + q))
    assert expected[0] == pytest.approx(32.5)
    assert networks.FaceRes().years({"age": probabilities}).tolist() == pytest.approx(expected, rel=1e-6)
    assert networks.Gear().years({}) is None


@pytest.mark.parametrize("name", NAMES)
def test_another_model_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    card = attribute_zoo.card(name)
    topology, shard = tmp_path / "other.json", tmp_path / "other.bin"
    weights = [{"name": "dense/kernel", "shape": [1], "dtype": "float32"}]
    topology.write_text(json.dumps({"weightsManifest": [{"paths": ["other.bin"], "weights": weights}]}))
    shard.write_bytes(bytes(4))
    with pytest.raises(NetworkError, match=r"^[^\n]*other\.json: no weight [^\n]*$"):
        card.convert(dict(zip(card.assets, (topology, shard), strict=True)))


# -- zoo -------------------------------------------------------------------------------------------------------------


def test_cards() -> None:
    assert attribute_zoo.names() == NAMES
    for name in NAMES:
        card = attribute_zoo.card(name)
        assert card.name == name
        assert all(asset in ASSETS for asset in card.assets)
        assert all((card.training_set, card.licence, card.input))
        network = card.build().eval()
        assert sum(parameter.numel() for parameter in network.parameters()) == card.parameters
        with torch.no_grad():
            output = network(torch.rand(2, 3, 112, 112))
        assert {attribute: rows.shape[1] for attribute, rows in output.items()} == {
            attribute: len(labels) for attribute, labels in card.labels.items()
        }
        for rows in output.values():
            torch.testing.assert_close(rows.sum(1), torch.ones(2))


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(NetworkError, match=r"no attribute network 'faceress'; did you mean 'faceres'\? known are"):
        attribute_zoo.load("faceress")
    for function in (attribute_zoo.available, attribute_zoo.weights_checksum, attribute_zoo.converted_path):
        with pytest.raises(NetworkError, match="no attribute network 'zzzz'; known are faceres, "):
            function("zzzz")


def test_files_of_the_recognition_networks_are_others() -> None:
    """The trunk's asset serves two networks, whose converted files must not meet."""
    paths = [attribute_zoo.converted_path(name) for name in NAMES] + [zoo.converted_path(name) for name in zoo.names()]
    assert len(set(paths)) == len(paths)


def test_load_is_frozen_and_the_second_one_needs_the_converted_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PMT_OFFLINE", "1")
    monkeypatch.setenv("PMT_CACHE", str(tmp_path))
    if not attribute_zoo.available("gear"):
        pytest.skip("PMT_WEIGHTS has no weights of gear")
    before = torch.random.get_rng_state()
    first = attribute_zoo.load("gear")
    assert torch.equal(before, torch.random.get_rng_state())
    assert not first.training
    assert not any(parameter.requires_grad for parameter in first.parameters())
    monkeypatch.delenv("PMT_WEIGHTS", raising=False)
    assert not any(map(assets.obtainable, attribute_zoo.card("gear").assets))
    assert attribute_zoo.is_present("gear")
    assert attribute_zoo.available("gear")
    second = attribute_zoo.load("gear")
    assert torch.equal(first(pattern())["race"], second(pattern())["race"])


def test_asking_for_a_card_imports_no_architecture() -> None:
    script = (
        "import sys; from pmtlib import attribute_zoo as z; [z.weights_checksum(n) for n in z.names()];"
        "print([m for m in sys.modules if m.startswith(('timm', 'deepface', 'pmtlib.networks.'))])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


# -- the attack ------------------------------------------------------------------------------------------------------


class Constant(networks.AttributeNetwork):
    """Tells the first pixel's colour."""

    def infer(self, prepared: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"colour": prepared[:, :, 0, 0] / prepared[:, :, 0, 0].sum(1, keepdim=True)}

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        return images

    def years(self, probabilities):
        return probabilities["colour"][:, 0] * 100


@pytest.fixture
def constant(monkeypatch: pytest.MonkeyPatch) -> None:
    card = types.SimpleNamespace(labels={"colour": ("red", "green", "blue")})
    monkeypatch.setattr(attribute_zoo, "load", lambda name, device: Constant().to(device))
    monkeypatch.setattr(attribute_zoo, "card", lambda name: card)


def test_estimates_come_in_the_order_of_the_images(constant: None) -> None:
    images = torch.rand(7, 3, 112, 112, generator=torch.Generator().manual_seed(3)) + 0.01
    found = attack.estimate(images, ["one", "other"], batch=3)
    assert list(found.probabilities) == ["one", "other"]
    rows = found.probabilities["other"]["colour"]
    assert rows.dtype == np.float64
    for image, row, year, label in zip(images, rows, found.years["other"], found.named("other", "colour"), strict=True):
        first = image[:, 0, 0].tolist()
        assert row == pytest.approx([value / sum(first) for value in first], rel=1e-5)
        assert year == pytest.approx(100 * row[0], rel=1e-5)
        assert label == ("red", "green", "blue")[first.index(max(first))]
    assert attack.estimate(images[:0], ["one"]).probabilities["one"]["colour"].shape == (0, 3)


def test_only_aligned_crops_are_taken(constant: None) -> None:
    with pytest.raises(ValueError, match=r"expected images \(N, 3, 112, 112\), got \(1, 3, 64, 64\)"):
        attack.estimate(torch.rand(1, 3, 64, 64), ["one"])


def random_rows(seed: int, count: int = 40, width: int = 4) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    a, b = generator.dirichlet([0.5] * width, count), generator.dirichlet([0.5] * width, count)
    b[: count // 2] = a[: count // 2]
    a[3], b[5], a[7], b[7] = np.nan, np.nan, np.nan, np.nan
    return a, b


def test_label_agreement_in_loops() -> None:
    a, b = random_rows(0)
    expected = []
    for row, other in zip(a.tolist(), b.tolist(), strict=True):
        told = not any(value != value for value in row + other)
        expected.append(told and row.index(max(row)) == other.index(max(other)))
    assert attack.label_agreement(a, b).tolist() == expected
    assert not attack.label_agreement(a, b)[[3, 5, 7]].any()
    assert 15 < sum(expected) < 40


def test_chance_agreement_in_loops() -> None:
    """Every image of ``a`` is compared with every image of ``b``: as if the uploads had been dealt out at random."""
    a, b = random_rows(1)
    hits = 0
    for row in a.tolist():
        for other in b.tolist():
            if not any(value != value for value in row + other):
                hits += row.index(max(row)) == other.index(max(other))
    assert attack.chance_agreement(a, b) == pytest.approx(hits / len(a) ** 2, rel=1e-12)


def test_chance_agreement_of_the_same_answer_for_all_is_one() -> None:
    same = np.tile([0.1, 0.9], (10, 1))
    assert attack.chance_agreement(same, same) == 1.0
    assert attack.chance_agreement(same, np.full((10, 2), np.nan)) == 0.0
    assert np.isnan(attack.chance_agreement(np.empty((0, 2)), np.empty((0, 2))))
    with pytest.raises(ValueError, match="of one shape"):
        attack.label_agreement(same, same[:5])


def test_our_detector_finds_faces_in_crops_and_none_in_noise() -> None:
    _, crops = faces_or_skip()
    noise = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), dtype=np.uint8)
    images = [*(crops.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy(), *noise]
    found = attack.own_detector_finds(images)
    assert found.dtype == np.bool_
    assert found[: len(crops)].all()
    assert not found[len(crops) :].any()
    assert attack.own_detector_finds([]).shape == (0,)


# -- what it says about photographs ----------------------------------------------------------------------------------


def test_the_attack_works_on_photographs_that_nobody_protected() -> None:
    people, crops = faces_or_skip()
    for name in NAMES:
        files(name)
    found = attack.estimate(crops, NAMES)
    men, women = {"obama", "biden", "hanks"}, {"collins"}
    for network in ("faceres", "gear"):
        for person, label in zip(people, found.named(network, "gender"), strict=True):
            if person in men | women:
                assert label == ("male" if person in men else "female"), (network, person)
    years = dict(zip(people, found.years["faceres"], strict=True))
    assert set(found.years) == {"faceres"}
    # Portraits in high office, at 66 or more and between 47 and 56, and fifteen years for the network's error.
    assert years["biden"] > 51
    for person, age in zip(people, found.years["faceres"], strict=True):
        if person == "obama":
            assert 32 < age < 71
            assert age < years["biden"]
    labels = found.named("fer-big-xception", "emotion")
    # Both smile with their teeth: the portrait in an orange suit, and the first of Obama.
    assert labels[people.index("collins")] == labels[people.index("obama")] == "happy"
    # In noise nobody smiles more than in those two.
    noise = torch.rand(4, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    happy = attribute_zoo.card("fer-big-xception").labels["emotion"].index("happy")
    smiles = found.probabilities["fer-big-xception"]["emotion"][:, happy]
    in_noise = attack.estimate(noise, ["fer-big-xception"]).probabilities["fer-big-xception"]["emotion"][:, happy]
    assert in_noise.max() < 0.5 < min(smiles[people.index("collins")], smiles[people.index("obama")])


# -- DeepFace --------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DeepFace home whose weights folder is empty."""
    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path))
    folder = tmp_path / ".deepface" / "weights"
    folder.mkdir(parents=True)
    return folder


class FaceNotDetected(ValueError):
    pass


class FakeDeepFace:
    """Answers as ``DeepFace.analyze`` does: dicts in percent, in an order of its own."""

    def __init__(self) -> None:
        self.calls: list[dict] = []
        self.engine: str | None = None

    def analyze(self, **call):
        self.calls.append(call)
        self.engine = os.environ.get("DEEPFACE_BACKEND_ENGINE")
        image = call["img_path"]
        assert image.flags["C_CONTIGUOUS"]
        if call["detector_backend"] != "skip" and image.max() == 0:
            assert call["enforce_detection"] is True
            raise FaceNotDetected("Face could not be detected")
        blue, green, red = (float(value) for value in image[0, 0])
        small, large = {"w": 10, "h": 10}, {"w": 50, "h": 60}
        answer = {
            "age": int(red),
            "gender": {"Man": 100 * green / 255, "Woman": 100 - 100 * green / 255},
            "race": dict(
                zip(
                    ["white", "black", "asian", "indian", "latino hispanic", "middle eastern"],
                    [blue / 255 * 100, 100 - blue / 255 * 100, 0.0, 0.0, 0.0, 0.0],
                    strict=True,
                )
            ),
            "emotion": {
                "happy": 30.0,
                "sad": 20.0,
                "angry": 10,
                "fear": 10,
                "disgust": 10,
                "surprise": 5,
                "neutral": 15,
            },
            "region": large,
        }
        wrong = {**answer, "age": 99, "region": small}
        return [{key: one[key] for key in (*call["actions"], "region")} for one in (wrong, answer)]


@pytest.fixture
def fake(home: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDeepFace:
    """A DeepFace whose weights are all there."""
    names = [name for group in attack._DETECTOR_FILES.values() for name in group] + list(attack._ACTION_FILES.values())
    for name in names:
        (home / name).write_bytes(b"weights")
    double = FakeDeepFace()
    modules = {"deepface": {}, "deepface.DeepFace": {"analyze": double.analyze}, "deepface.modules": {}}
    modules["deepface.modules.exceptions"] = {"FaceNotDetected": FaceNotDetected}
    for name, content in modules.items():
        module = types.ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("DEEPFACE_BACKEND_ENGINE", "tensorflow")
    return double


def colours() -> np.ndarray:
    images = np.zeros((3, 112, 112, 3), dtype=np.uint8)
    images[0], images[2] = (60, 204, 51), (30, 51, 204)
    return images


def test_deepface_probabilities_are_in_the_labels_order(fake: FakeDeepFace) -> None:
    found = attack.deepface_estimate(colours(), "opencv")
    assert fake.engine == "pytorch"
    gender, race = (found.probabilities["deepface"][name] for name in ("gender", "race"))
    # Woman, Man; the red, green and blue of the image arrive as such though DeepFace takes them in the other order.
    assert gender[0] == pytest.approx([0.2, 0.8])
    assert gender[2] == pytest.approx([0.8, 0.2])
    assert race[0] == pytest.approx([0, 0, 0.8, 0.2, 0, 0])
    assert found.named("deepface", "race") == ["black", None, "white"]
    emotion = dict(zip(found.labels["deepface"]["emotion"], found.probabilities["deepface"]["emotion"][0], strict=True))
    assert emotion["happy"] == pytest.approx(0.3)
    assert emotion["neutral"] == pytest.approx(0.15)
    assert sum(emotion.values()) == pytest.approx(1.0)
    assert found.years["deepface"][[0, 2]].tolist() == [60, 30]


def test_an_image_without_a_face_is_told_and_never_analysed_whole(fake: FakeDeepFace) -> None:
    found = attack.deepface_estimate(colours(), "yunet")
    assert found.detected["deepface"].tolist() == [True, False, True]
    for rows in found.probabilities["deepface"].values():
        assert np.isnan(rows).all(1).tolist() == [False, True, False]
    assert np.isnan(found.years["deepface"]).tolist() == [False, True, False]
    assert all(call["enforce_detection"] is True for call in fake.calls)


def test_without_a_detector_nothing_is_said_about_detection(fake: FakeDeepFace) -> None:
    found = attack.deepface_estimate(colours(), actions=("gender",))
    assert {call["detector_backend"] for call in fake.calls} == {"skip"}
    assert all(call["actions"] == ["gender"] for call in fake.calls)
    assert list(found.probabilities["deepface"]) == ["gender"]
    assert found.detected == {}
    assert found.years == {}


def test_another_failure_of_deepface_is_not_taken_for_a_missing_face(
    fake: FakeDeepFace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**call):
        raise ValueError("weights of another network")

    monkeypatch.setattr(sys.modules["deepface.DeepFace"], "analyze", fail)
    with pytest.raises(ValueError, match="another network"):
        attack.deepface_estimate(colours(), "opencv")


def test_what_deepface_lacks_is_named(home: Path) -> None:
    assert not attack.deepface_available()
    missing = attack.deepface_missing(("emotion", "race"), "yunet")
    names = [Path(item).name for item in missing if not item.startswith("package")]
    assert names == [
        "facial_expression_model_weights.pth",
        "race_model_single_batch.pth",
        "face_detection_yunet_2023mar.onnx",
    ]
    for name in names:
        (home / name).write_bytes(b"")
    assert attack.deepface_missing(("emotion", "race"), "yunet") == missing
    for name in names:
        (home / name).write_bytes(b"weights")
    assert [item for item in attack.deepface_missing(("emotion", "race"), "yunet") if "/" in item] == []


def test_without_weights_nothing_is_imported_made_or_downloaded(tmp_path: Path) -> None:
    """Really, in a process of its own: the package may be installed, its weights are not here."""
    script = (
        "import sys, numpy as np\n"
        "import socket\n"
        "def refuse(*a, **k): raise SystemExit('a connection was tried')\n"
        "socket.socket.connect = refuse\n"
        "from pmtlib.attacks import attributes as attack\n"
        "from pmtlib.errors import AssetError\n"
        "assert not attack.deepface_available()\n"
        "try:\n"
        "    attack.deepface_estimate(np.zeros((1, 112, 112, 3), np.uint8), 'opencv')\n"
        "except AssetError as error:\n"
        "    print(error)\n"
        "print(any(m.startswith(('deepface', 'tensorflow')) for m in sys.modules))\n"
    )
    environment = {**os.environ, "DEEPFACE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    message, imported = done.stdout.strip().splitlines()
    assert "DeepFace cannot run without" in message
    assert "Remedy: " in message
    assert imported == "False"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("actions", "detector"), [(("hair",), "skip"), ((), "skip"), (("age",), "mtcnn")])
def test_what_deepface_does_not_know_is_refused(actions: tuple[str, ...], detector: str) -> None:
    with pytest.raises(ConfigError, match="choose from"):
        attack.deepface_available(actions, detector)


def test_the_installed_deepface_has_the_labels_files_and_names_that_are_relied_on(tmp_path: Path) -> None:
    """Against the real package, in a process of its own: what the wrapper assumes of it."""
    if not attack._importable("deepface"):
        pytest.skip("deepface is not installed")
    script = (
        "import inspect, sys, warnings\n"
        "from pmtlib.attacks import attributes as attack\n"
        "before = list(warnings.filters)\n"
        "analyse, not_detected = attack._deepface()\n"
        "assert list(warnings.filters) == before\n"
        "assert 'tensorflow' not in sys.modules\n"
        "from deepface.commons.backend_utils import get_backend_engine\n"
        "assert get_backend_engine() == 'pytorch'\n"
        "from deepface.models.demography import DemographyUtils as utils\n"
        "assert tuple(utils.EMOTION_LABELS) == attack.DEEPFACE_LABELS['emotion']\n"
        "assert tuple(utils.GENDER_LABELS) == attack.DEEPFACE_LABELS['gender']\n"
        "assert tuple(utils.RACE_LABELS) == attack.DEEPFACE_LABELS['race']\n"
        "from deepface.models.demography.pytorch import Age, Emotion, Gender, Race\n"
        "for module in (Age, Emotion, Gender, Race):\n"
        "    name = attack._ACTION_FILES[module.__name__.rpartition('.')[2].lower()]\n"
        "    assert name in inspect.getsource(module.load_model)\n"
        "from deepface.models.face_detection import OpenCv, YuNet\n"
        "assert set(attack._DETECTOR_FILES['opencv']) == set(OpenCv.HAARCASCADE_FILES.values())\n"
        "assert attack._DETECTOR_FILES['yunet'][0] in inspect.getsource(YuNet.YuNetClient.build_model)\n"
        "assert {'img_path', 'actions', 'detector_backend', 'enforce_detection', 'silent'} <= set(\n"
        "    inspect.signature(analyse).parameters)\n"
        "assert issubclass(not_detected, ValueError)\n"
    )
    environment = {**os.environ, "DEEPFACE_HOME": str(tmp_path), "DEEPFACE_BACKEND_ENGINE": ""}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
