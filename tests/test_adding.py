"""Recognising checkpoints, and networks that the user adds."""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pmtlib import added, adding, architectures, datasets, inventory, protocols, zoo
from pmtlib.architectures import ARCHITECTURES, PUBLISHED, Options, recognise
from pmtlib.datasets import Images, PairSet
from pmtlib.errors import AssetError, DatasetError, NetworkError
from pmtlib.experiments import ablation, abuse, common, scalability
from pmtlib.networks.graph import traced
from pmtlib.networks.mobileface import MobileFace
from pmtlib.networks.onnx_graph import OnnxNetwork
from pmtlib.shallow import ServerModel, ShallowModel
from tests.oracles import asset_or_skip


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PMT_NETWORKS", str(tmp_path / "networks"))
    return tmp_path / "networks"


def untrained(embedding: int = 32, seed: int = 0) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return dict(MobileFace(embedding=embedding).state_dict())


def checkpoint(folder: Path, content: object, name: str = "net.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


class Pictures(Images):
    """Pictures in memory."""

    def __init__(self, pictures: NDArray[np.uint8]) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        return self.pictures[index]

    def name(self, index: int) -> str:
        return f"picture {index}"

    def content(self, index: int) -> bytes:
        return self.pictures[index].tobytes()


def doubles(pairs: int = 40, stand_in: bool = False) -> PairSet:
    """Random pictures, each with a slightly noisy copy: even an untrained network tells the pairs from others."""
    random = np.random.default_rng(0)
    first = random.integers(0, 256, (pairs, 112, 112, 3))
    second = np.clip(first + random.integers(-3, 4, first.shape), 0, 255)
    images: NDArray[np.uint8] = np.concatenate([first, second]).astype(np.uint8)
    here = np.arange(pairs)
    found = np.concatenate([np.stack([here, here + pairs], 1), np.stack([here, np.roll(here, 1) + pairs], 1)])
    folds = np.concatenate([here % 10, here % 10])
    return PairSet(
        "doubles", Pictures(images), found, np.arange(2 * pairs) < pairs, folds, None, "Doubles", "", stand_in
    )


# Recognition -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_is_recognised_by_its_tensors_alone(name: str) -> None:
    with torch.device("meta"):
        state = ARCHITECTURES[name].module(Options(embedding=96)).state_dict()
    state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    found = {other: architectures._options(state, architecture) for other, architecture in ARCHITECTURES.items()}
    assert {other for other, options in found.items() if options is not None} == {name}
    assert found[name].embedding == len(state[ARCHITECTURES[name].embedding])


@pytest.mark.parametrize("wrapper", [None, "state_dict", "net_state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "module.net."])
def test_wrappers_and_prefixes_make_no_difference(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    state = untrained()
    content: Any = {f"{prefix}{key}": value for key, value in state.items()}
    if wrapper:
        content = {wrapper: content, "epoch": 3}
    found = recognise(checkpoint(tmp_path, content), "robfr")
    assert found.architecture.name == "mobileface"
    assert found.options == Options(embedding=32, bgr=True, scale=128.0)
    torch.testing.assert_close(found.state["conv1.conv.weight"], state["conv1.conv.weight"])


def test_a_112x96_network_is_told_by_its_last_kernel(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, MobileFace(embedding=16, columns=(8, 104)).state_dict())
    assert recognise(path, "robfr").options.columns == (8, 104)


def test_tensors_of_the_training_are_left_out(tmp_path: Path) -> None:
    with torch.device("meta"):
        state = ARCHITECTURES["inception-resnet-v1"].module(Options()).state_dict()
    kept, ignored = architectures._without_heads(
        {**state, "logits.weight": torch.zeros(7, 512), "logits.bias": torch.zeros(7)},
        ARCHITECTURES["inception-resnet-v1"],
    )
    assert ignored == ("logits.weight", "logits.bias")
    assert kept.keys() == state.keys()


def test_file_names_of_public_checkpoints_give_the_variant(tmp_path: Path) -> None:
    for name, published in PUBLISHED.items():
        assert published.architecture in ARCHITECTURES
        assert published.publisher in ARCHITECTURES[published.architecture].publishers, name
    name = next(name for name, published in PUBLISHED.items() if published.title == "MobileFace")
    found = recognise(checkpoint(tmp_path, untrained(512), name), "robfr")
    assert found.published is PUBLISHED[name]
    assert found.convention.bgr is True
    # The same name on another architecture says nothing.
    other = next(name for name, published in PUBLISHED.items() if published.title == "ResNet50-casia")
    assert recognise(checkpoint(tmp_path, untrained(512), other), "robfr").published is None


def damaged(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "conv1.conv.weight": torch.full_like(state["conv1.conv.weight"], torch.nan)}


@pytest.mark.parametrize(
    ("content", "publisher", "kind", "says"),
    [
        (lambda state: [1, 2], "robfr", NetworkError, "holds list, not a state dict"),
        (lambda state: {"epoch": 3}, "robfr", NetworkError, "holds no tensors"),
        (lambda state: {"a": torch.zeros(2)}, "robfr", NetworkError, "of no architecture known here; tried are"),
        (
            lambda state: {key: value for key, value in state.items() if key != "linear7.bn.bias"},
            "robfr",
            NetworkError,
            "nearest is MobileFaceNet, 100% the same; linear7.bn.bias is missing",
        ),
        (
            lambda state: {**state, "conv2.conv.weight": torch.zeros(500, 128, 1, 1)},
            "robfr",
            NetworkError,
            "conv2.conv.weight has shape (500, 128, 1, 1), not (512, 128, 1, 1)",
        ),
        (lambda state: state, "insightface", NetworkError, "not insightface's; use `pmt networks add robfr`"),
        (damaged, "robfr", NetworkError, "conv1.conv.weight holds values that are not finite"),
    ],
)
def test_what_is_no_such_checkpoint_gets_one_line(
    tmp_path: Path, content: Any, publisher: Any, kind: type[Exception], says: str
) -> None:
    path = checkpoint(tmp_path, content(untrained()))
    with pytest.raises(kind) as error:
        recognise(path, publisher)
    assert says in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, {"state_dict": Hostile(tmp_path / "ran")})
    with pytest.raises(AssetError, match="tensors and plain containers"):
        recognise(path, "robfr")
    assert not (tmp_path / "ran").exists()
    for name, text in (("words.pth", b"not a checkpoint"), ("empty.pth", b"")):
        (tmp_path / name).write_bytes(text)
        with pytest.raises(AssetError, match=name):
            recognise(tmp_path / name, "robfr")
    (tmp_path / "note.txt").write_text("hello\n")
    with pytest.raises(AssetError, match=r"it is no file of torch\.save"):
        recognise(tmp_path / "note.txt", "robfr")


# Adding ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def easy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A set on which an untrained network stands; for what happens around the figures, never for the figures."""
    monkeypatch.setattr(datasets, "available", lambda name: name == "lfw")
    monkeypatch.setattr(datasets, "load", lambda name: doubles())


def test_an_added_network_is_used_like_any_other(pmt: Any, tmp_path: Path, home: Path, easy: None) -> None:
    path = checkpoint(tmp_path, {"state_dict": {f"module.{key}": value for key, value in untrained().items()}})
    done = pmt(
        "networks", "add", "robfr", "--checkpoint", path, "--name", "mine", "--json", "--quiet", "--device", "cpu"
    )
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert (said["architecture"], said["embedding"], said["source"]) == ("mobileface", 32, "net.pth")
    assert set(said["tried"]) == {"RGB (x - 127.5) / 128", "BGR (x - 127.5) / 128"}
    assert (said["default_cut"], said["units"]["blocks2"]) == (5, [64, 28, 28])
    assert zoo.names()[-1] == "mine"
    assert zoo.is_added("mine")
    network = zoo.load("mine")
    torch.testing.assert_close(network.state_dict()["linear1.conv.weight"], untrained()["linear1.conv.weight"])
    images = torch.rand(1, 3, 112, 112)
    straight = MobileFace(embedding=32, bgr=said["bgr"])
    straight.load_state_dict(untrained())
    torch.testing.assert_close(network(images), straight.eval()(images))
    stored = zoo.calibration("mine")
    assert stored is not None
    assert stored.threshold_accuracy == pytest.approx(said["measured"]["threshold_accuracy"])
    assert stored.weights == zoo.weights_checksum("mine")
    row = json.loads(pmt("networks", "mine", "--json").out)[0]
    assert row["present"]
    assert row["dataset"] == "doubles"
    assert "added from net.pth" in row["note"]
    # Measured anew, the figures go beside its weights, not into the file of the package.
    assert protocols.calibrate(["mine"], ["doubles"], recompute=True)[0] == stored
    assert added.calibration_path("mine").is_file()
    table = pmt(
        "networks", "add", "robfr", "--checkpoint", path, "--name", "other", "--channels", "bgr", "--device", "cpu"
    )
    assert "MobileFaceNet (mobileface), 0.95 M" in table.out
    assert "input BGR (x - 127.5) / 128" in table.out
    assert "AUC" not in table.out
    assert "20 units, cut by default behind unit 5, blocks2, at 64x28x28" in table.out
    assert table.out.rstrip().endswith("stored; use it as --authorise other")
    assert pmt("networks", "remove", "mine").out == "mine is removed\n"
    assert added.names() == ("other",)
    assert not (home / "mine").exists()


def test_a_network_at_chance_is_refused_and_nothing_is_kept(
    pmt: Any, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed = doubles()
    same = np.random.default_rng(1).permutation(mixed.same)
    monkeypatch.setattr(datasets, "available", lambda name: True)
    monkeypatch.setattr(
        datasets,
        "load",
        lambda name: PairSet("mixed", mixed.images, mixed.pairs, same, mixed.folds, None, "Mixed"),
    )
    path = checkpoint(tmp_path, untrained())
    done = pmt("networks", "add", "robfr", "--checkpoint", path, "--name", "mine", "--quiet", "--device", "cpu")
    assert done.code == 2
    assert "mine is at chance on mixed" in done.error
    assert not home.exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("mobilefacenet", "is a network of the package"),
        ("add", "cannot be called 'add'"),
        ("../up", "cannot be called '../up'"),
        ("Ünlü", "use lower-case letters"),
        ("", "cannot be called ''"),
    ],
)
def test_names_that_cannot_be_used(pmt: Any, tmp_path: Path, home: Path, name: str, says: str) -> None:
    path = checkpoint(tmp_path, untrained())
    done = pmt("networks", "add", "robfr", "--checkpoint", path, "--name", name, "--quiet")
    assert done.code == 2
    assert says in done.error
    assert not home.exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nobody", "--checkpoint", "x", "--name", "a"], "no kind 'nobody' of network; known are robfr, evolve"),
        (["robfr", "--checkpoint", "absent.pth", "--name", "a"], "there is no file absent.pth"),
        (["robfr", "--checkpoint", "x", "--name", "a", "--channels", "grb"], "no channel order 'grb'"),
        (["robfr", "--name", "a"], "Missing option '--checkpoint'"),
    ],
)
def test_wrong_usage_is_one_line(pmt: Any, arguments: list[str], says: str) -> None:
    done = pmt("networks", "add", *arguments)
    assert done.code == 2
    assert says in done.error


def test_a_name_in_use_is_replaced_only_when_asked(tmp_path: Path, easy: None) -> None:
    first, second = (checkpoint(tmp_path, untrained(seed=seed), f"{seed}.pth") for seed in (1, 2))

    def add(path: Path, **options: Any) -> adding.Addition:
        return adding.add(path, "robfr", "mine", channels="rgb", device="cpu", show=False, **options)

    kept = add(first).record
    with pytest.raises(NetworkError, match="or give --replace"):
        add(second)
    assert added.read("mine") == kept
    new = add(second, replacing=True).record
    assert new.source == "2.pth"
    assert new.weights != kept.weights == add(first, replacing=True).record.weights


def test_on_the_samples_an_unknown_channel_order_has_to_be_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "available", lambda name: False)
    monkeypatch.setattr(datasets, "load", lambda name: doubles(stand_in=True))
    entry = ARCHITECTURES["mobileface"]
    unsure = dataclasses.replace(entry, publishers={"robfr": architectures.Convention(None, scale=128.0)})
    path = checkpoint(tmp_path, untrained())
    known = adding.add(path, "robfr", "known", device="cpu", show=False)
    assert known.record.bgr
    assert "rough guide" in known.note
    monkeypatch.setattr(architectures, "ARCHITECTURES", {"mobileface": unsure})
    with pytest.raises(NetworkError, match="give --channels rgb or bgr"):
        adding.add(path, "robfr", "unsure", device="cpu", show=False)


def test_damaged_and_foreign_files_of_an_added_network_are_named(tmp_path: Path, home: Path, easy: None) -> None:
    path = checkpoint(tmp_path, untrained())
    adding.add(path, "robfr", "mine", channels="rgb", device="cpu", show=False)
    record = home / "mine" / "network.json"
    good = record.read_text()
    for text in ("{", good.replace('"format": 1', '"format": 9'), good.replace('"scale"', '"skale"')):
        record.write_text(text)
        with pytest.raises(NetworkError, match="`pmt networks remove mine` and add it again"):
            zoo.load("mine")
    record.write_text(good)
    weights = home / "mine" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(NetworkError, match="absent or damaged"):
        zoo.load("mine")
    (home / "half-way").mkdir()
    assert added.names() == ("mine",)
    with pytest.raises(NetworkError, match="no added network 'half-way' to remove; added are mine"):
        added.remove("half-way")


def test_a_real_checkpoint_in_robfrs_form_recognises_people(tmp_path: Path) -> None:
    """Xiaoccer's MobileFaceNet has RobFR's names: the same weights as ``mobilefacenet-casia``, which is folded."""
    path = asset_or_skip("mobilefacenet-casia-ckpt")
    done = adding.add(path, "robfr", "casia", channels="rgb", dataset="samples", device="cpu", show=False)
    assert done.record.columns == (8, 104)
    assert done.measured.auc > 0.95
    told = f"The threshold of casia is of samples ({done.measured.n} pairs, a rough guide)."
    assert zoo.threshold_caveats(["mobilefacenet", "casia"]) == told
    images = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(zoo.load("casia")(images), zoo.load("mobilefacenet-casia")(images), atol=1e-4, rtol=1e-4)


# ONNX ------------------------------------------------------------------------------------------------------------


class Exported(nn.Module):
    """What is exported: the units alone, as publishers do, with what a file may hold besides."""

    def __init__(self, network: MobileFace, *, last: bool = False, dropout: bool = False) -> None:
        super().__init__()
        self.units, self.last = network.units, last
        self.dropout = nn.Dropout(0.4) if dropout else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.dropout(self.units(images.permute(0, 3, 1, 2) if self.last else images))


def network_of(seed: int = 0) -> MobileFace:
    network = MobileFace(embedding=32, bgr=False)
    network.load_state_dict(untrained(seed=seed))
    return network.eval().requires_grad_(False)


def export(module: nn.Module, shape: tuple[int, ...], path: Path, *, free: bool = True) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (torch.rand(shape),),
            str(path),
            dynamo=False,
            input_names=["image"],
            output_names=["embedding"],
            dynamic_axes={"image": {0: "n"}, "embedding": {0: "n"}} if free else None,
            opset_version=17,
        )
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(Exported(network_of()), (1, 3, 112, 112), tmp_path_factory.mktemp("onnx") / "mobileface.onnx")


def test_an_onnx_file_gives_the_embeddings_gradients_and_units_of_the_network(exported: Path) -> None:
    found, straight = OnnxNetwork(exported, mean=127.5, scale=128).eval(), network_of()
    images = torch.rand(3, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    one, other = images.clone().requires_grad_(), images.clone().requires_grad_()
    torch.testing.assert_close(found(one), straight(other), atol=1e-5, rtol=1e-4)
    found(one).square().sum().backward()
    straight(other).square().sum().backward()
    torch.testing.assert_close(one.grad, other.grad, atol=1e-4, rtol=1e-3)
    outputs = dict(zip(found.unit_names, found.run_units(found.prepare(images), 0, len(found.units)), strict=True))
    # Every map of the network is the end of a unit; a bottleneck without a shortcut can be cut inside as well.
    for name, output in zip(
        straight.unit_names, straight.run_units(straight.prepare(images), 0, len(straight.units)), strict=True
    ):
        close = [
            unit
            for unit, value in outputs.items()
            if value.shape == output.shape and torch.allclose(value, output, atol=1e-4)
        ]
        assert close, name
    assert list(outputs)[-1] == "head"


def test_a_cut_of_an_onnx_file_holds_the_units_before_it_and_the_server_the_rest(exported: Path) -> None:
    network = OnnxNetwork(exported, scale=128).eval()
    images = torch.rand(2, 3, 112, 112)
    for cut in (1, 5, "7x7"):
        shallow, server = ShallowModel(network, cut), ServerModel(network, cut)
        torch.testing.assert_close(server(shallow.feature(images)), network(images))
        kept, all_of_them = (sum(value.numel() for value in one.state_dict().values()) for one in (shallow, network))
        assert 0 < kept < all_of_them


def test_layout_size_and_dropout_of_an_onnx_file(tmp_path: Path) -> None:
    network = network_of()
    images = torch.rand(2, 3, 112, 112)
    last = export(Exported(network, last=True, dropout=True), (1, 112, 112, 3), tmp_path / "last.onnx")
    found = OnnxNetwork(last, scale=128).train()
    assert found.channels_last
    torch.testing.assert_close(found.eval()(images), network(images), atol=1e-5, rtol=1e-4)
    narrow = MobileFace(embedding=32, bgr=False, columns=(8, 104)).eval()
    path = export(Exported(narrow), (1, 3, 112, 96), tmp_path / "narrow.onnx")
    torch.testing.assert_close(OnnxNetwork(path, scale=128).eval()(images), narrow(images), atol=1e-5, rtol=1e-4)
    large = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 6, 3, 2), nn.AdaptiveAvgPool2d(1))
    wide = OnnxNetwork(export(large, (1, 3, 160, 160), tmp_path / "wide.onnx"), mean=0, scale=255, bgr=True).eval()
    assert wide.prepare(images).shape == (2, 3, 160, 160)
    enlarged = torch.nn.functional.interpolate(images.flip(1), size=(160, 160), mode="bilinear")
    torch.testing.assert_close(wide(images), large(enlarged).flatten(1), atol=1e-5, rtol=1e-4)


def test_quantised_weights_of_an_onnx_file_are_dequantised() -> None:
    """OpenCV's SFace, block-wise int8, is the native module of the zoo."""
    path = asset_or_skip("sface-onnx")
    found = OnnxNetwork(path, mean=0.0, scale=1.0).eval()
    images = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found(images), zoo.load("sface")(images), atol=1e-4, rtol=1e-4)


def test_an_added_onnx_file_is_used_like_any_other(pmt: Any, exported: Path, home: Path, easy: None) -> None:
    said = json.loads(
        pmt("networks", "add", "onnx", "--checkpoint", exported, "--name", "graph", "--json", "--device", "cpu").out
    )
    assert len(said["tried"]) == 6
    assert (said["architecture"], said["embedding"], said["title"]) == ("onnx", 32, "mobileface.onnx")
    assert (said["mean"], said["scale"], said["bgr"]) in [
        (*given, bgr) for given in adding.INPUTS for bgr in (False, True)
    ]
    shape = list(said["units"].values())[said["default_cut"] - 1]
    assert shape[1] == 28
    images = torch.rand(2, 3, 112, 112)
    straight = OnnxNetwork(exported, mean=said["mean"], scale=said["scale"], bgr=said["bgr"]).eval()
    torch.testing.assert_close(zoo.load("graph")(images), straight(images))
    assert zoo.card("graph").default_cut == said["default_cut"]
    assert zoo.calibration("graph") is not None
    kept = home / "graph" / "model.onnx"
    assert kept.read_bytes() == exported.read_bytes()
    kept.write_bytes(exported.read_bytes()[:-7])
    with pytest.raises(NetworkError, match="absent or damaged"):
        zoo.load("graph")


def test_onnx_files_that_cannot_be_used(pmt: Any, tmp_path: Path, home: Path, easy: None) -> None:
    def refused(path: Path, *options: str) -> str:
        done = pmt("networks", "add", "onnx", "--checkpoint", path, "--name", "graph", "--quiet", *options)
        assert done.code == 2
        assert not home.exists()
        return str(done.error)

    (tmp_path / "words.onnx").write_text("no graph")
    assert "words.onnx" in refused(tmp_path / "words.onnx")
    assert "absent.onnx" in refused(tmp_path / "absent.onnx")
    assert "its input is ? x 5" in refused(export(nn.Linear(5, 2), (1, 5), tmp_path / "flat.onnx"))
    straight = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    path = export(straight, (1, 3, 112, 112), tmp_path / "one.onnx")
    assert "has no shallow model" in refused(path)
    assert "at most 512 pixels" in refused(export(straight, (1, 3, 600, 600), tmp_path / "large.onnx"))
    two = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = onnx.load(str(export(two, (1, 3, 112, 112), tmp_path / "odd.onnx")))
    model.graph.node[1].op_type = "NoSuchOperator"
    onnx.save(model, str(tmp_path / "odd.onnx"))
    assert "an operator cannot be converted" in refused(tmp_path / "odd.onnx")
    assert "mean and scale belong together" in refused(path, "--mean", "3")
    assert "the scale above zero" in refused(path, "--mean", "3", "--scale", "0")
    known = checkpoint(tmp_path, untrained())
    robfr = ("networks", "add", "robfr", "--checkpoint", known, "--name", "a", "--mean", "3", "--scale", "4")
    assert "leave --mean and --scale out" in pmt(*robfr).error
    assert "--model is for timm" in refused(path, "--model", "resnet18")


class OneByOne(nn.Module):
    """Ties the batch together: no embedding of an image alone."""

    def __init__(self) -> None:
        super().__init__()
        self.units = nn.Sequential(nn.Conv2d(3, 4, 3, 4), nn.ReLU(), nn.Conv2d(4, 4, 3, 4))

    def forward(self, images: Tensor) -> Tensor:
        features = self.units(images).mean((2, 3))
        return features - features.mean(0, keepdim=True) + features.sum()


def test_a_file_that_mixes_the_images_of_a_batch_is_refused(tmp_path: Path, easy: None) -> None:
    path = export(OneByOne(), (2, 3, 112, 112), tmp_path / "mixed.onnx")
    with pytest.raises(NetworkError, match="other embeddings in a batch than alone"):
        adding.add(path, "onnx", "mixed", device="cpu", show=False)


def test_a_convention_stands_unless_another_is_surely_better() -> None:
    random = np.random.default_rng(3)
    same = np.arange(400) < 200
    good = random.normal(size=400) + 3 * same
    assert not adding.surely_less(good, good, same)
    assert not adding.surely_less(good + 0.05 * random.normal(size=400), good, same)
    assert adding.surely_less(random.normal(size=400) + 1.5 * same, good, same)


# Networks of other packages --------------------------------------------------------------------------------------

DEEPFACE = [name for name in ARCHITECTURES if name.startswith("deepface-")]


@pytest.mark.parametrize("name", DEEPFACE)
def test_deepface_networks_have_units_and_give_deepfaces_embeddings(name: str) -> None:
    """Weights at random: what is compared is the same module before and after it is cut."""
    pytest.importorskip("deepface")
    if name == "deepface-vgg-face":
        pytest.skip("145 million parameters: cut by hand only")
    architecture, options = ARCHITECTURES[name], Options(bgr=True, mean=0.0, scale=255.0)
    torch.manual_seed(0)
    module = architecture.module(options).eval()
    network = architecture.wrap(module, options).eval()  # type: ignore[misc]
    images = torch.rand(2, 3, 112, 112)
    prepared = torch.nn.functional.interpolate(images, size=network.size, mode="bilinear").flip(1)
    with torch.no_grad():
        torch.testing.assert_close(network(images), module(prepared).flatten(1), atol=1e-5, rtol=1e-4)
    assert len(network.units) > 8


def test_a_deepface_checkpoint_is_told_from_the_others(tmp_path: Path) -> None:
    pytest.importorskip("deepface")
    torch.manual_seed(0)
    state = ARCHITECTURES["deepface-openface"].module(Options()).state_dict()
    found = recognise(checkpoint(tmp_path, state, "openface_weights.pth"), "deepface")
    assert found.architecture.name == "deepface-openface"
    assert (found.options.bgr, found.options.mean, found.options.scale) == (True, 0.0, 255.0)
    assert not found.convention.firm


def test_a_backbone_of_timm_is_added_and_loaded_again(tmp_path: Path, easy: None) -> None:
    torch.manual_seed(0)
    module = timm.create_model("edgenext_xx_small", pretrained=False, num_classes=24).eval()
    path = checkpoint(tmp_path, {"model": {f"module.{key}": value for key, value in module.state_dict().items()}})
    done = adding.add(
        path,
        "timm",
        "backbone",
        model="edgenext_xx_small",
        channels="rgb",
        mean=127.5,
        scale=128,
        device="cpu",
        show=False,
    )
    assert (done.record.architecture, done.record.embedding) == ("timm:edgenext_xx_small", 24)
    assert done.tried == {}
    images = torch.rand(2, 3, 112, 112)
    network = zoo.load("backbone")
    with torch.no_grad():
        torch.testing.assert_close(network(images), module((255 * images - 127.5) / 128), atol=1e-5, rtol=1e-4)
    assert next(output for output in network.run_units(network.prepare(images), 0, 1)).shape[2] == 28
    with pytest.raises(NetworkError, match="name yours with --model"):
        recognise(path, "timm")
    with pytest.raises(NetworkError, match="no model 'edgenext_xsmall'; did you mean edgenext_x"):
        recognise(path, "timm", "edgenext_xsmall")
    with pytest.raises(NetworkError, match="--model is for timm alone"):
        recognise(path, "robfr", "resnet18")


class Depends(nn.Module):
    """What it computes depends on what it sees, so that it has no graph."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) if images.sum() > 0 else images.amax((2, 3))


def test_a_module_without_a_graph_is_refused_in_one_line() -> None:
    with pytest.raises(NetworkError, match="Depends: cannot be traced"):
        traced(Depends(), "Depends")


def measured() -> protocols.Verification:
    """Figures of no network; for what happens around them."""
    pairs = doubles(20)
    return protocols.summarise(np.linspace(1, 0, len(pairs)), pairs)


def test_how_the_input_is_prepared_is_part_of_what_a_network_is(tmp_path: Path, easy: None) -> None:
    path = checkpoint(tmp_path, untrained())
    sums = set()
    for channels in ("rgb", "bgr"):
        adding.add(path, "robfr", "mine", channels=channels, device="cpu", show=False, replacing=True)
        sums.add(zoo.weights_checksum("mine"))
    assert len(sums) == 2


def test_an_older_network_stays_until_the_new_one_is_there(
    tmp_path: Path, home: Path, easy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (checkpoint(tmp_path, untrained(seed=seed), f"{seed}.pth") for seed in (1, 2))

    def add(path: Path, **options: Any) -> None:
        adding.add(path, "robfr", "mine", channels="rgb", device="cpu", show=False, **options)

    add(first)
    with monkeypatch.context() as patch:

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(adding.converted, "write", full)
        with pytest.raises(OSError, match="No space left"):
            add(second, replacing=True)
    assert added.read("mine").source == "1.pth"
    assert [one.name for one in home.iterdir()] == ["mine"]
    with monkeypatch.context() as patch:
        rename = Path.replace

        def refused(self: Path, target: Path) -> Path:
            if target == home / "mine" and not self.name.endswith(".older"):
                raise OSError(5, "Input/output error")
            return rename(self, target)

        patch.setattr(Path, "replace", refused)
        with pytest.raises(OSError, match="Input/output"):
            add(second, replacing=True)
    assert added.read("mine").source == "1.pth"
    assert [one.name for one in home.iterdir()] == ["mine"]
    # One that appeared while the other was measured is not replaced either.
    with monkeypatch.context() as patch:
        patch.setattr(adding, "_check_name", lambda name, replacing: None)
        with pytest.raises(NetworkError, match="a network mine by now"):
            add(second)
    assert added.read("mine").source == "1.pth"
    # Weights of another network in its folder are noticed.
    adding.add(second, "robfr", "other", channels="rgb", device="cpu", show=False)
    (home / "mine" / "weights.safetensors").write_bytes((home / "other" / "weights.safetensors").read_bytes())
    with pytest.raises(NetworkError, match="absent or damaged"):
        zoo.load("mine")


def test_a_broken_network_does_not_hide_the_others(
    pmt: Any, tmp_path: Path, home: Path, easy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = checkpoint(tmp_path, untrained())
    for name in ("good", "bad", "gone", "figures"):
        adding.add(path, "robfr", name, channels="rgb", device="cpu", show=False)
    (home / "bad" / "network.json").write_text("{")
    added.calibration_path("figures").write_text("{")
    (home / "gone" / "weights.safetensors").unlink()
    rows = {row["name"]: row for row in json.loads(pmt("networks", "--json").out)}
    assert rows["good"]["present"]
    assert not rows["bad"]["present"]
    assert not rows["gone"]["present"]
    assert "damaged record" in rows["bad"]["source"]
    assert "its weights are gone" in rows["gone"]["source"]
    assert "damaged calibration file" in rows["figures"]["source"]
    assert zoo.papers_networks() == ()
    # What can be measured is, and what cannot is told beside it. (The package's networks would take half a minute.)
    monkeypatch.setattr(zoo, "names", lambda: ("good", "gone", "figures"))
    checks = {check.name: check for check in inventory.check(device="cpu", show=False)}
    assert checks["good"].measured is not None
    assert "damaged calibration file" in checks["figures"].absent
    assert "absent or damaged" in checks["gone"].refused
    # Named, it is refused before the first is measured.
    monkeypatch.setattr(protocols, "check", lambda *_, **__: pytest.fail("was measured"))
    with pytest.raises(NetworkError, match="absent or damaged"):
        list(inventory.check(["good", "gone"], device="cpu", show=False))


def test_another_set_that_is_damaged_does_not_undo_what_was_added(
    pmt: Any, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str) -> PairSet:
        if name == "cfp_ff":
            raise DatasetError("cfp_ff: there is no image a.png")
        return dataclasses.replace(doubles(), name=name)

    monkeypatch.setattr(datasets, "available", lambda name: name in ("lfw", "cfp_ff"))
    monkeypatch.setattr(datasets, "load", load)
    path = checkpoint(tmp_path, untrained())
    done = pmt(
        "networks", "add", "robfr", "--checkpoint", path, "--name", "mine", "--channels", "rgb", "--device", "cpu"
    )
    assert done.code == 0, done.err
    assert "no operating points of another set: cfp_ff: there is no image a.png" in done.out
    assert zoo.is_added("mine")


def test_a_public_name_on_another_file_says_nothing(tmp_path: Path) -> None:
    name = next(name for name, published in PUBLISHED.items() if published.title == "MobileFace")
    assert recognise(checkpoint(tmp_path, untrained(32), name), "robfr").published is None
    narrow = MobileFace(embedding=512, columns=(8, 104)).state_dict()
    assert recognise(checkpoint(tmp_path, narrow, name), "robfr").published is None
    whole = dataclasses.replace(measured(), dataset="lfw", n=6000, accuracy_interval=(0.97, 0.98))
    assert adding._contradicts(whole, 0.995)
    assert not adding._contradicts(whole, 0.975)
    assert not adding._contradicts(dataclasses.replace(whole, dataset="cfp_ff"), 0.995)


def test_results_of_networks_of_ones_own_have_files_of_their_own() -> None:
    ours = {"sface": "a", "mobilefacenet": "b"}
    assert common.own_name("lfw", ours) == "lfw"
    one, other = (common.own_name("lfw", {**ours, "mine": checksum}) for checksum in ("c", "d"))
    assert one.startswith("lfw--own-")
    assert len({one, other, "lfw"}) == 3


def test_what_is_no_checkpoint_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="is a folder"):
        recognise(tmp_path, "robfr")
    (tmp_path / "x.onnx").write_bytes(b"x")
    with pytest.raises(NetworkError, match="pmt networks add onnx"):
        recognise(tmp_path / "x.onnx", "robfr")


# The paper's own networks ----------------------------------------------------------------------------------------


def test_the_papers_five_become_the_default_of_the_paper_profile_when_all_are_there(home: Path) -> None:
    ours = abuse.abuse_settings("paper").networks
    assert zoo.papers_networks() == ()
    titles = ("ArcFace", "IR50-Softmax", "MobileFace", "ResNet50", "IR50-SphereFace")
    for title in titles:
        assert abuse.abuse_settings("paper").networks == ours
        published = next(one for one in PUBLISHED.values() if (one.title, one.publisher) == (title, "robfr"))
        record = added.AddedNetwork(
            name=f"robfr-{title.lower()}",
            architecture=published.architecture,
            publisher="robfr",
            title=title,
            embedding=512,
            bgr=published.bgr,
            mean=127.5,
            scale=128.0,
            columns=(0, 112),
            parameters=1,
            training_set=published.training_set,
            loss=published.loss,
            source="x.pth",
            source_sha256="0",
            default_cut=5,
        )
        name = record.name
        added.store(
            record,
            lambda path: path.write_bytes(b"no weights") and None,
            lambda weights, name=name: protocols.operating_points(name, weights, measured()),
            replacing=False,
        )
    five = ("robfr-mobileface", "robfr-resnet50", "robfr-ir50-softmax", "robfr-ir50-sphereface", "robfr-arcface")
    assert zoo.papers_networks() == five
    assert abuse.abuse_settings("paper").networks == five
    assert scalability.scalability_settings("paper").networks == five
    table10 = ablation.ablation_settings("paper")
    assert (table10.networks, table10.authorised, table10.store) == (five, "robfr-ir50-softmax", True)
    # Asked for by hand, or in another profile, they are not put in the place of what was asked for.
    assert abuse.abuse_settings("paper", networks=["sface", "mobilefacenet"]).networks == ("sface", "mobilefacenet")
    assert "robfr-arcface" not in abuse.abuse_settings("quick").networks
