"""Training of recognition networks: corpora, losses, and a run that goes on where it was interrupted."""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import signal
import struct
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError
from torch.utils.flop_counter import FlopCounterMode

from pmtlib import settings
from pmtlib.architectures import recognise
from pmtlib.datasets import People
from pmtlib.errors import ConfigError, DatasetError, NetworkError, ResultError, interrupt
from pmtlib.training import recogniser
from pmtlib.training.corpora import load_corpus
from pmtlib.training.heads import Head, build_head
from pmtlib.training.recogniser import RecogniserConfig, rate, train_recogniser


def picture(person: int, number: int) -> NDArray[np.uint8]:
    """A coarse pattern of a person's own, with a little noise of the photograph's."""
    pattern = np.random.default_rng(person).integers(0, 256, (7, 7, 3))
    noise = np.random.default_rng(1000 * person + number + 7).integers(-20, 21, (112, 112, 3))
    return np.clip(np.kron(pattern, np.ones((16, 16, 1))) + noise, 0, 255).astype(np.uint8)


def encoded(person: int, number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(person, number)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight people, four photographs each."""
    root = tmp_path_factory.mktemp("corpus") / "people"
    for person in range(8):
        (root / f"p{person}").mkdir(parents=True)
        for number in range(4):
            (root / f"p{person}" / f"{number}.png").write_bytes(encoded(person, number))
    return root


# Corpora ---------------------------------------------------------------------------------------------------------


def record(labels: Sequence[float], content: bytes) -> bytes:
    flag = 0 if len(labels) == 1 else len(labels)
    header = struct.pack("<IfQQ", flag, labels[0] if not flag else 0.0, 0, 0)
    body = header + (struct.pack(f"<{flag}f", *labels) if flag else b"") + content
    return struct.pack("<II", 0xCED7230A, len(body)) + body + b"\0" * (-len(body) % 4)


def record_io(root: Path, entries: Sequence[tuple[Sequence[float], bytes]], head: bool = True) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    records = [record(labels, content) for labels, content in entries]
    if head:
        records.insert(0, record([len(entries) + 1, len(entries) + 3], b""))
        # Behind the images InsightFace keeps one record an identity, which is no image.
        records.append(record([1, 2], b""))
    offset, lines = 0, []
    for key, one in enumerate(records, start=0 if head else 1):
        lines.append(f"{key}\t{offset}")
        offset += len(one)
    (root / "train.rec").write_bytes(b"".join(records))
    (root / "train.idx").write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize("head", [True, False])
def test_record_io_gives_images_and_identities(tmp_path: Path, head: bool) -> None:
    entries = [
        ([person] if person % 2 else [person, 0.0], encoded(person, number)) for person in (3, 4) for number in (0, 1)
    ]
    people = load_corpus(record_io(tmp_path / "casia", entries, head))
    assert people.identities == ("3", "3", "4", "4")
    assert people.name == "casia"
    for row, (person, number) in enumerate([(3, 0), (3, 1), (4, 0), (4, 1)]):
        np.testing.assert_array_equal(people.images[row], picture(person, number))
    assert load_corpus(tmp_path / "casia" / "train.rec").identities == people.identities
    # A data loader's worker gets a copy.
    copy = pickle.loads(pickle.dumps(people.images))
    np.testing.assert_array_equal(copy[3], picture(4, 1))


def shard(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def test_webdataset_shards_give_images_and_identities(tmp_path: Path) -> None:
    shard(tmp_path / "b.tar", {"x/9.png": encoded(2, 0), "x/9.cls": b"12\n", "x/9.json": b"{}"})
    shard(tmp_path / "a.tar", {"1.cls": b"7", "1.png": encoded(1, 0), "2.png": encoded(1, 1), "2.cls": b"7"})
    people = load_corpus(tmp_path)
    assert people.identities == ("7", "7", "12")
    np.testing.assert_array_equal(people.images[1], picture(1, 1))
    np.testing.assert_array_equal(people.images[2], picture(2, 0))


@pytest.mark.parametrize("share", [0.3, 0.5, 0.62, 0.8, 0.97])
def test_a_shard_that_is_cut_off_is_refused_wherever_it_ends(tmp_path: Path, share: float) -> None:
    names = [f"{number}.{suffix}" for number in range(12) for suffix in ("png", "cls")]
    whole = shard(tmp_path / "a.tar", {name: b"1" if name.endswith("cls") else encoded(1, 0) for name in names})
    content = whole.read_bytes()
    assert len(load_corpus(whole)) == 12
    # What tarfile writes ends in a row of empty blocks: of these alone a part may go.
    used = len(content.rstrip(bytes(1)))
    for end in (int(used * share), int(used * share) // 512 * 512):
        whole.write_bytes(content[:end])
        with pytest.raises(DatasetError, match=r"a\.tar: .*Remedy"):
            load_corpus(whole)


def test_a_folder_of_people_is_taken_as_everywhere_else(folder: Path) -> None:
    people = load_corpus(folder)
    assert len(people) == 32
    assert people.names == tuple(f"p{person}" for person in range(8))


def spoil(path: Path, place: int, content: bytes) -> None:
    whole = bytearray(path.read_bytes())
    whole[place : place + len(content)] = content
    path.write_bytes(bytes(whole))


def test_malformed_corpora_get_one_line(tmp_path: Path) -> None:
    def refused(path: Path) -> str:
        def last() -> None:
            people = load_corpus(path)
            people.images[len(people) - 1]

        with pytest.raises(DatasetError) as error:
            last()
        assert "\n" not in str(error.value)
        assert "Remedy" in str(error.value)
        return str(error.value)

    entries = [([1.0], encoded(1, 0)), ([2.0], encoded(2, 0))]
    fresh = (record_io(tmp_path / f"r{number}", entries) for number in range(20))
    root = next(fresh)
    (root / "train.idx").unlink()
    assert "train.idx: cannot be read" in refused(root)
    for index, says in (
        ("nothing", "not lines of a key, a tab and an offset"),
        ("", "lists no records"),
        ("1\t3\n", "no record begins there"),
        ("1\t99999999\n", "the file ends within a record"),
    ):
        root = next(fresh)
        (root / "train.idx").write_text(index)
        assert says in refused(root)
    for place, word, says in (
        (4, (1 << 29) | 40, "a record in several parts"),
        (8, 10**6, "1000000 labels in a record"),
    ):
        root = next(fresh)
        spoil(root / "train.rec", place, struct.pack("<I", word))
        assert says in refused(root)
    root = record_io(tmp_path / "nan", [([math.nan], encoded(1, 0))])
    assert "a label that is no number" in refused(root)
    root = record_io(tmp_path / "cut", entries, head=False)
    (root / "train.rec").write_bytes((root / "train.rec").read_bytes()[:-400])
    assert "the file ends within an image" in refused(root)
    root = record_io(tmp_path / "words", [([1.0], b"no picture")])
    assert "byte" in refused(root)
    small = io.BytesIO()
    Image.new("RGB", (50, 60)).save(small, "PNG")
    assert "is 50x60. Remedy: use aligned 112x112 crops" in refused(
        record_io(tmp_path / "small", [([1.0], small.getvalue())])
    )
    (tmp_path / "no.tar").write_bytes(b"no archive" * 100)
    assert "not a readable tar archive" in refused(tmp_path / "no.tar")
    assert "has no 1.cls with a number" in refused(shard(tmp_path / "unlabelled.tar", {"1.png": encoded(1, 0)}))
    assert "no KEY.jpg with a KEY.cls" in refused(shard(tmp_path / "empty.tar", {"note.txt": b"x"}))


# Losses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", get_args(Head))
def test_each_loss_is_its_papers_formula_in_plain_loops(kind: Any) -> None:
    torch.manual_seed(0)
    margin = {"softmax": None, "sphereface": 3, "cosface": 0.2, "arcface": 0.4}[kind]
    scale = None if kind == "softmax" else 1.0 if kind == "sphereface" else 8.0
    head = build_head(kind, 5, 6, margin=margin, scale=scale).double()
    embeddings = torch.randn(4, 6, dtype=torch.float64)
    labels = torch.tensor([0, 3, 3, 1])
    total = 0.0
    for embedding, label in zip(embeddings.tolist(), labels.tolist(), strict=True):
        length = math.sqrt(sum(value * value for value in embedding))
        logits = []
        for j in range(5):
            if kind == "softmax":
                weights, bias = head.classifier.weight[j].tolist(), float(head.classifier.bias[j])
                logits.append(sum(a * b for a, b in zip(weights, embedding, strict=True)) + bias)
                continue
            weights = head.W[:, j].tolist()
            norm = math.sqrt(sum(value * value for value in weights))
            cosine = sum(a * b for a, b in zip(weights, embedding, strict=True)) / norm / length
            angle = math.acos(cosine)
            if j == label and kind == "arcface":
                # Behind pi - m the cosine of the sum would rise again.
                cosine = math.cos(angle + 0.4) if angle <= math.pi - 0.4 else cosine - 0.4 * math.sin(0.4)
            elif j == label and kind == "cosface":
                cosine -= 0.2
            elif j == label and kind == "sphereface":
                k = math.floor(angle / (math.pi / 3))
                cosine = (-1) ** k * math.cos(3 * angle) - 2 * k
            logits.append(cosine * (length if kind == "sphereface" else 8.0))
        total += math.log(sum(math.exp(value) for value in logits)) - logits[label]
    assert float(head(embeddings, labels)) == pytest.approx(total / 4, rel=1e-9)


def test_margins_that_make_no_sense_are_refused() -> None:
    for options in ({"kind": "softmax", "margin": 0.3}, {"kind": "sphereface", "margin": 1.5}):
        with pytest.raises(ValueError, match="margin"):
            build_head(classes=3, embedding=4, **options)  # type: ignore[arg-type]
    for wrong in (
        {"head": "softmax", "scale": 3.0},
        {"head": "sphereface", "margin": 1.5},
        {"milestones": (0.9, 0.5)},
        {"milestones": (1.5,)},
        {"speed": 3},
    ):
        with pytest.raises(ValidationError):
            RecogniserConfig(**wrong)  # type: ignore[arg-type]


# The run ---------------------------------------------------------------------------------------------------------

SMALL = RecogniserConfig(
    embedding=16, epochs=2, batch_size=8, learning_rate=0.02, held_out=2, validate_every=4, milestones=(0.5,)
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def people(folder: Path) -> People:
    return load_corpus(folder)


@pytest.fixture(scope="module")
def whole(people: People, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, recogniser.Trained]:
    out = tmp_path_factory.mktemp("whole")
    return out, train_recogniser(people, SMALL, out, device=CPU)


def test_the_rate_rises_and_falls_by_tens() -> None:
    config = RecogniserConfig(warmup=0.1, milestones=(0.5, 0.75))
    found = [rate(config, step, 40) for step in range(40)]
    assert found[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert found[19:21] == pytest.approx([1.0, 0.1])
    assert found[29:31] == pytest.approx([0.1, 0.01])


def test_nobody_who_is_held_out_is_trained_on(people: People) -> None:
    trained, pairs = recogniser._split(people, SMALL)
    assert pairs is not None
    kept = {people.images.name(row) for row in range(len(people))} - {
        trained.images.name(row) for row in range(len(trained))
    }
    assert {pairs.images.name(int(row)) for row in np.unique(pairs.pairs)} <= kept
    assert len(trained.names) == 6
    assert pairs.same.sum() == (~pairs.same).sum() == 12
    for (one, other), same in zip(pairs.pairs, pairs.same, strict=True):
        owners = [Path(pairs.images.name(int(row))).parent.name for row in (one, other)]
        assert (owners[0] == owners[1]) == same


def test_a_training_leaves_curve_and_checkpoint(whole: tuple[Path, recogniser.Trained]) -> None:
    out, done = whole
    stored = json.loads((out / recogniser.RECORD).read_text())
    assert stored == json.loads(json.dumps(done.record))
    assert stored["finished"]
    assert [point["step"] for point in stored["curve"]] == [0, 4, 6]
    assert stored["curve"][-1]["loss"] < stored["curve"][1]["loss"]
    assert stored["curve"][0]["held_out"]["n"] == 24
    found = recognise(out / recogniser.MODEL, done.publisher)  # type: ignore[arg-type]
    assert found.architecture.name == "mobileface"
    torch.testing.assert_close(found.state["conv1.conv.weight"], done.network.state_dict()["conv1.conv.weight"])


def interrupted_at(step: int) -> Any:
    done = 0

    def progress(count: int) -> None:
        nonlocal done
        done += count
        if done >= step:
            raise KeyboardInterrupt

    return progress


def test_an_interrupted_training_goes_on_to_the_same_weights(
    people: People, whole: tuple[Path, recogniser.Trained], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train_recogniser(people, SMALL, tmp_path, device=CPU, progress=interrupted_at(3))
    assert not json.loads((tmp_path / recogniser.RECORD).read_text())["finished"]
    torch.manual_seed(5)
    before = torch.get_rng_state()
    again = train_recogniser(people, SMALL, tmp_path, device=CPU)
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in whole[1].network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name]), name
    strip = [{key: value for key, value in point.items() if key != "seconds"} for point in again.record["curve"]]
    assert strip == [
        {key: value for key, value in point.items() if key != "seconds"} for point in whole[1].record["curve"]
    ]
    # Finished: nothing is trained again.
    assert train_recogniser(people, SMALL, tmp_path, device=CPU, progress=interrupted_at(7)).record == again.record


def test_half_an_update_is_not_gone_on_with(
    people: People, whole: tuple[Path, recogniser.Trained], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted within an update, after the weights have moved: what is stored is the last whole state."""
    step = torch.optim.SGD.step
    calls = 0

    def moved(self: Any, closure: Any = None) -> Any:
        nonlocal calls
        calls += 1
        found = step(self, closure)
        if calls == 5:
            raise KeyboardInterrupt
        return found

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", moved)
        with pytest.raises(KeyboardInterrupt):
            train_recogniser(people, SMALL, tmp_path, device=CPU, checkpoint_seconds=0.0)
    assert json.loads((tmp_path / recogniser.RECORD).read_text())["steps_done"] == 4
    again = train_recogniser(people, SMALL, tmp_path, device=CPU)
    for name, value in whole[1].network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name]), name
    assert [point["step"] for point in again.record["curve"]] == [0, 4, 6]


@pytest.mark.parametrize("handler", [signal.default_int_handler, interrupt])
def test_a_signal_is_waited_with_until_the_update_is_whole(people: People, tmp_path: Path, handler: Any) -> None:
    update = recogniser._Run._update

    def interrupted(self: Any, *batch: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        update(self, *batch)

    # Whoever runs the tests may have a handler of their own.
    theirs = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(recogniser._Run, "_update", interrupted)
            with pytest.raises(KeyboardInterrupt):
                train_recogniser(people, SMALL, tmp_path, device=CPU)
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, theirs)
    assert json.loads((tmp_path / recogniser.RECORD).read_text())["steps_done"] == 1


def test_another_corpus_of_the_same_size_is_noticed(people: People, whole: tuple[Path, recogniser.Trained]) -> None:
    other = People(people.name, people.images, tuple(f"q{name[1:]}" for name in people.identities))
    with pytest.raises(ConfigError, match="holds another training \\(other corpus\\)"):
        train_recogniser(other, SMALL, whole[0], device=CPU)


def test_a_folder_that_cannot_be_written_to_shows_before_the_first_update(people: People, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        train_recogniser(people, SMALL, tmp_path / "file" / "out", device=CPU, progress=interrupted_at(1))


def test_a_folder_with_another_or_a_damaged_training_is_not_gone_on_with(
    people: People, whole: tuple[Path, recogniser.Trained], tmp_path: Path
) -> None:
    out, _ = whole
    other = SMALL.model_copy(update={"seed": 9})
    with pytest.raises(ConfigError, match="holds another training \\(other config\\)"):
        train_recogniser(people, other, out, device=CPU)
    (tmp_path / recogniser.STATE).write_bytes(b"damaged")
    # Commands on a folder of one's own have the option; a state in the cache is deleted.
    with pytest.raises(ResultError, match=f"start afresh with --fresh, or delete {tmp_path}"):
        train_recogniser(people, SMALL, tmp_path, device=CPU)


def test_what_cannot_be_trained_is_said_at_once(people: People, tmp_path: Path) -> None:
    def refused(kind: type[Exception], **changes: Any) -> str:
        with pytest.raises(kind) as error:
            train_recogniser(people, SMALL.model_copy(update=changes), tmp_path, device=CPU)
        assert not (tmp_path / recogniser.MODEL).exists()
        return str(error.value)

    assert "less than a batch of 64" in refused(DatasetError, batch_size=64)
    assert "of whom 7 are held out" in refused(DatasetError, held_out=7)
    assert "float16 needs CUDA" in refused(ConfigError, precision="float16")
    assert "did you mean 'resnet-50'" in refused(ConfigError, architecture="resnet50")
    assert "deepface" not in refused(ConfigError, architecture="resnet50")
    assert "another package's" in refused(ConfigError, architecture="timm:resnet18")
    assert "lower the learning rate" in refused(NetworkError, learning_rate=1e30, warmup=0.0)


def test_processes_share_each_batch_without_overlap(people: People, tmp_path: Path) -> None:
    alone = recogniser._Run(people, SMALL, tmp_path, CPU, None, 0, 1)
    shares = [recogniser._Run(people, SMALL, tmp_path, CPU, None, rank, 2) for rank in (0, 1)]
    for step in range(alone.steps):
        batches = [share.rows(step) for share in shares]
        assert sorted(batches[0] + batches[1]) == sorted(alone.rows(step))
        assert len(batches[0]) == len(batches[1]) == 4
    seen = [row for step in range(alone.per_epoch) for row in alone.rows(step)]
    assert len(set(seen)) == len(seen) == 24
    with pytest.raises(ConfigError, match="cannot be shared by 3 processes"):
        recogniser._Run(people, SMALL, tmp_path, CPU, None, 0, 3)


def test_the_command_trains_and_says_what_to_do_with_the_result(
    pmt: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX2")
    config = tmp_path / "recipe.yaml"
    config.write_text("embedding: 16\nepochs: 5\nbatch_size: 8\nheld_out: 2\nlearning_rate: 0.02\n")
    out = tmp_path / "out"
    options = ("--out", out, "--config", config, "--epochs", 1, "--head", "softmax", "--device", "cpu")
    done = pmt("train", folder, *options)
    assert done.code == 0, done.err
    assert "no instructions for" not in done.out
    assert "people held out: accuracy" in done.out
    assert f"pmt networks add robfr --checkpoint {out / 'model.pt'} --channels rgb --name NAME" in done.out.replace(
        "\n", ""
    )
    stored = json.loads((out / "training.json").read_text())
    assert (stored["config"]["epochs"], stored["config"]["head"], stored["steps_done"]) == (1, "softmax", 3)
    slow = pmt("train", folder, *options, "--fresh", "--precision", "bfloat16")
    assert (slow.code, "no instructions for bfloat16" in slow.out) == (0, True)
    config.write_text("embeding: 16\n")
    assert "there is no field 'embeding'" in pmt("train", folder, *options).error
    assert "Remedy" in pmt("train", tmp_path / "nowhere", "--out", out).error
    assert "head" in pmt("train", folder, "--out", out, "--head", "arcloss").error


def test_two_processes_train_one_network(folder: Path, tmp_path: Path) -> None:
    """torchrun on this machine: both see the same weights at the end, which is what the first one stores."""
    config = tmp_path / "recipe.yaml"
    config.write_text("embedding: 16\nepochs: 1\nbatch_size: 8\nheld_out: 2\nlearning_rate: 0.02\n")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "pmtlib"]
    command += ["train", str(folder), "--out", str(tmp_path / "out"), "--config", str(config), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    stored = json.loads((tmp_path / "out" / "training.json").read_text())
    assert (stored["finished"], stored["steps_done"]) == (True, 3)
    assert done.stdout.count("use it: pmt networks add") == 1


def test_the_recipes_are_configurations() -> None:
    files = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))
    assert files
    for file in files:
        config = settings.layered(RecogniserConfig, file, {}, "")
        architecture, options, _ = recogniser.architecture_of(config)
        assert config.epochs == 100
        # What the file says of its cost is what the network costs, counted.
        with torch.device("meta"):
            network, images = architecture.network(options).train(), torch.zeros(2, 3, 112, 112)
        with FlopCounterMode(display=False) as counted:
            network(images).sum().backward()
        an_image = counted.get_total_flops() / 2
        assert f"{an_image / 1e9:.0f} billion floating-point operations" in file.read_text()
        assert f"so {an_image * 490_623 * 100:.1e}".replace("e+", "e") + " operations" in file.read_text()
