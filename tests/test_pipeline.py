from __future__ import annotations

import errno
import hashlib
import json
import os
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pmtlib import faces, images, metrics, pipeline, report, zoo
from pmtlib.errors import AssetError, ConfigError, NetworkError, PhotoError, ResultError
from pmtlib.images import to_tensor
from pmtlib.pipeline import CARD, Job, read_features, run
from pmtlib.report import LINES, LOCK, TABLE, Report, Row, read
from pmtlib.shallow import ServerModel, ShallowModel
from pmtlib.transform import PMTConfig, Protected, image_seed, protect, service_seed
from tests import photographs
from tests.oracles import network_or_skip
from tests.photographs import NETWORK

QUICK = PMTConfig(steps=2, batch_size=2)


@pytest.fixture(autouse=True, scope="module")
def _ready() -> None:
    photographs.ready()


@pytest.fixture
def optimised(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that are really optimised."""
    sizes: list[int] = []

    def counting(images: Tensor, *arguments: Any, **options: Any) -> Protected:
        sizes.append(len(images))
        return protect(images, *arguments, **options)

    monkeypatch.setattr(pipeline, "protect", counting)
    return sizes


def job(folder: Path, *, out: str = "out", **about: Any) -> Job:
    values: dict[str, Any] = {"photos": [folder / "in"], "authorised": [NETWORK], "config": QUICK, "device": "cpu"}
    return Job(out=folder / out, **{**values, **about})


def go(folder: Path, **about: Any) -> pipeline.Summary:
    return run(job(folder, **about), show=False)


def digests(out: Path) -> dict[str, str]:
    return {
        str(file.relative_to(out)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(out.rglob("*"))
        if file.suffix in (".png", ".safetensors")
    }


def chunks(png: bytes) -> list[str]:
    """Names of a PNG's chunks, by the format's own layout."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    names, place = [], 8
    while place < len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        names.append(png[place + 4 : place + 8].decode())
        place += 12 + length
    return names


def test_every_face_gets_an_image_and_a_row_that_tells_the_truth(tmp_path: Path) -> None:
    photographs.portrait(tmp_path / "in" / "one.jpg")
    photographs.pair(tmp_path / "in" / "sub" / "two.png")
    (tmp_path / "in" / "notes.txt").write_text("not a picture")
    summary = go(tmp_path)
    out = tmp_path / "out"
    assert (summary.photographs, summary.done, summary.failed, summary.ignored) == (2, 3, 0, 1)
    assert list(digests(out)) == ["one.png", "sub/two-face2.png", "sub/two.png"]
    rows, damaged = read(out / LINES)
    assert damaged == 0
    assert rows == summary.rows
    assert [(row.input, row.face, row.faces) for row in rows] == [
        ("one.jpg", 1, 1),
        ("sub/two.png", 1, 2),
        ("sub/two.png", 2, 2),
    ]
    network = zoo.load(NETWORK)
    for row in rows:
        path = tmp_path / "in" / row.input
        assert row.input_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert row.outputs == {name: digests(out)[name] for name in row.outputs}
        photo = faces.read_photo(path)
        face = faces.Detector()(photo)[(row.face or 0) - 1]
        assert row.box == pytest.approx(face.box)
        original = to_tensor([faces.align(photo, face.landmarks)])
        (name,) = row.outputs
        picture = Image.open(out / name)
        assert (picture.mode, picture.size, picture.info) == ("RGB", (112, 112), {})
        uploaded = to_tensor([np.array(picture)])
        assert row.seed == image_seed(service_seed(0, [NETWORK]), original[0])
        assert row.ssim == pytest.approx(metrics.ssim(original, uploaded)[0], abs=1e-6)
        (agreement,) = row.networks
        cosine = torch.cosine_similarity(network(original), network(uploaded)).item()
        assert agreement.cosine == pytest.approx(cosine, abs=1e-4)
        config = QUICK.model_copy(update={"seed": service_seed(0, [NETWORK])})
        result = protect(original, [ShallowModel(network, layout="channels_last")], config)
        assert agreement.feature_cosine == pytest.approx(result.cosine.item(), abs=1e-4)
        assert agreement.feature_error == pytest.approx(result.error.item(), abs=1e-4)
    assert set(rows[1].outputs) == {"sub/two.png"}
    assert rows[1].box is not None
    assert rows[2].box is not None
    assert rows[1].box[2] > rows[2].box[2]
    table = (out / TABLE).read_text("utf-8")
    assert all(name in table for name in ("one.png", "sub/two-face2.png"))


def test_images_carry_no_metadata_and_the_report_no_path(tmp_path: Path) -> None:
    picture = Image.open(photographs.portrait(tmp_path / "in" / "a.jpg"))
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    picture.save(tmp_path / "in" / "a.jpg", exif=exif, icc_profile=b"profile", comment=b"secret")
    go(tmp_path)
    content = (tmp_path / "out" / "a.png").read_bytes()
    assert chunks(content) == ["IHDR", "IDAT", "IEND"]
    for name in (LINES, TABLE):
        assert str(tmp_path) not in (tmp_path / "out" / name).read_text("utf-8")


def test_hostile_inputs_fail_one_by_one_and_the_others_are_done(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    whole = photographs.portrait(folder / "a good\nname é.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 3])
    (folder / "zero.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("this is text")
    (folder / "thin.png").write_bytes(b"")
    Image.new("RGB", (3000, 1)).save(folder / "thin.png")
    Image.new("L", (1, 1)).save(folder / "dot.png")
    photographs.empty(folder / "nobody.png")
    photographs.portrait(folder / "folder.jpg" / "inside.jpg", brightness=0.8)
    (folder / "dangling.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / os.fsdecode(b"caf\xe9.jpg")).write_bytes(whole)
    summary = go(tmp_path, photos=[folder, tmp_path / "missing.jpg"])
    rows = {row.input: row for row in summary.rows}
    done = {name for name, row in rows.items() if row.status == "done"}
    assert done == {"a good\nname é.jpg", "folder.jpg/inside.jpg", "caf\\xe9.jpg"}
    assert (tmp_path / "out" / "a good\nname é.png").is_file()
    for name, reason in {
        "truncated.jpg": "truncated",
        "zero.jpg": "empty",
        "text.jpg": "not an image",
        "thin.png": "no face",
        "dot.png": "no face",
        "nobody.png": "no face",
        "dangling.jpg": "No such file",
        "missing.jpg": "No such file",
    }.items():
        assert reason in (rows[name].reason or ""), name
        assert str(tmp_path) not in (rows[name].reason or "")
        assert "\n" not in (rows[name].reason or "")
    assert len((tmp_path / "out" / LINES).read_bytes().splitlines()) == len(rows) == 11


def test_faces_below_the_limit_are_refused_by_name(tmp_path: Path) -> None:
    photographs.pair(tmp_path / "in" / "two.png")
    detected = faces.Detector()(faces.read_photo(tmp_path / "in" / "two.png"))
    limit = int(detected[1].size) + 1
    summary = go(tmp_path, min_face=limit)
    assert [(row.face, row.status) for row in summary.rows] == [(1, "done"), (2, "failed")]
    assert f"below --min-face {limit}" in (summary.rows[1].reason or "")
    again = go(tmp_path, min_face=limit)
    assert (again.reused, again.failed) == (1, 1)
    assert go(tmp_path, out="other", largest=True, min_face=limit).failed == 0
    none = go(tmp_path, out="none", largest=True, min_face=int(detected[0].size) + 1)
    assert [(row.face, row.status) for row in none.rows] == [(1, "failed")]


def test_a_second_run_does_nothing_and_a_lost_result_is_made_again(tmp_path: Path, optimised: list[int]) -> None:
    photographs.portrait(tmp_path / "in" / "a.jpg")
    photographs.portrait(tmp_path / "in" / "b.jpg", brightness=0.8)
    photographs.pair(tmp_path / "in" / "c.png")
    out = tmp_path / "out"
    first = go(tmp_path)
    before = digests(out)
    assert optimised == [2, 2]
    again = go(tmp_path)
    assert (again.reused, again.done, again.rows) == (4, 4, first.rows)
    assert optimised == [2, 2]
    (out / "c-face2.png").unlink()
    (out / "b.png").write_bytes(b"edited")
    repaired = go(tmp_path)
    assert repaired.reused == 2
    assert optimised == [2, 2, 2]
    assert digests(out) == before
    # Another batch size may give other bits, so it is another result.
    assert go(tmp_path, config=QUICK.model_copy(update={"batch_size": 1})).reused == 0
    assert go(tmp_path, force=True).reused == 0
    assert digests(out) == before


@pytest.mark.parametrize(
    "change",
    [
        {"config": QUICK.model_copy(update={"seed": 1})},
        {"config": QUICK.model_copy(update={"steps": 3})},
        {"cut": 4},
        {"cut": "block1"},
    ],
)
def test_another_configuration_is_done_again_in_place(tmp_path: Path, change: dict[str, Any]) -> None:
    photographs.portrait(tmp_path / "in" / "a.jpg")
    go(tmp_path)
    before = digests(tmp_path / "out")
    summary = go(tmp_path, **change)
    after = digests(tmp_path / "out")
    assert (summary.reused, summary.replaced) == (0, 1)
    assert list(after) == list(before)
    assert after != before
    assert read(tmp_path / "out" / LINES)[0] == summary.rows


def test_a_changed_photograph_is_done_again_in_place(tmp_path: Path) -> None:
    photographs.portrait(tmp_path / "in" / "a.jpg")
    before = go(tmp_path).rows
    photographs.portrait(tmp_path / "in" / "a.jpg", brightness=0.8)
    after = go(tmp_path)
    assert (after.reused, after.replaced) == (0, 0)
    assert list(after.rows[0].outputs) == ["a.png"]
    assert after.rows[0].outputs != before[0].outputs
    assert len(read(tmp_path / "out" / LINES)[0]) == 1


def test_the_batch_and_the_order_do_not_change_an_image(tmp_path: Path) -> None:
    for name, brightness in (("a.jpg", 1.0), ("b.jpg", 0.8), ("c.jpg", 0.6)):
        photographs.portrait(tmp_path / "in" / name, brightness=brightness)
    go(tmp_path)
    go(tmp_path, out="one", config=QUICK.model_copy(update={"batch_size": 1}))
    names = [tmp_path / "in" / name for name in ("c.jpg", "a.jpg", "b.jpg")]
    go(tmp_path, out="turned", photos=names)
    expected = digests(tmp_path / "out")
    assert digests(tmp_path / "one") == expected
    assert digests(tmp_path / "turned") == expected


def test_an_equal_photograph_of_another_name_is_copied(tmp_path: Path, optimised: list[int]) -> None:
    photographs.portrait(tmp_path / "in" / "a.jpg")
    go(tmp_path)
    (tmp_path / "in" / "b.jpg").write_bytes((tmp_path / "in" / "a.jpg").read_bytes())
    (tmp_path / "in" / "a.jpg").rename(tmp_path / "in" / "renamed.jpg")
    summary = go(tmp_path)
    assert (summary.reused, optimised) == (2, [1])
    found = digests(tmp_path / "out")
    assert list(found) == ["a.png", "b.png", "renamed.png"]
    assert len(set(found.values())) == 1


def test_a_copy_whose_place_is_taken_is_told(tmp_path: Path) -> None:
    """Of two faces one has nothing in its way, and is not counted twice."""
    photographs.pair(tmp_path / "in" / "a.jpg")
    go(tmp_path)
    (tmp_path / "in" / "b.jpg").write_bytes((tmp_path / "in" / "a.jpg").read_bytes())
    (tmp_path / "out" / "b-face2.png").write_bytes(b"precious")
    summary = go(tmp_path)
    assert (summary.reused, summary.done, summary.failed) == (3, 3, 1)
    (failed,) = (row for row in summary.rows if row.status == "failed")
    assert (failed.input, failed.face) == ("b.jpg", 2)
    assert "is there already" in (failed.reason or "")
    assert (tmp_path / "out" / "b-face2.png").read_bytes() == b"precious"


def test_a_folder_that_was_moved_keeps_its_names(tmp_path: Path, optimised: list[int]) -> None:
    photographs.portrait(tmp_path / "in" / "a.jpg")
    go(tmp_path)
    (tmp_path / "in").rename(tmp_path / "moved")
    assert go(tmp_path, photos=[tmp_path / "moved"]).reused == 1
    go(tmp_path, photos=[tmp_path / "moved"], config=QUICK.model_copy(update={"seed": 1}))
    assert list(digests(tmp_path / "out")) == ["a.png"]
    assert optimised == [1, 1]


def test_another_photograph_of_the_same_name_does_not_replace_the_first(tmp_path: Path) -> None:
    photographs.portrait(tmp_path / "in" / "a.jpg")
    photographs.portrait(tmp_path / "other" / "a.jpg", brightness=0.7)
    go(tmp_path)
    before = digests(tmp_path / "out")["a.png"]
    go(tmp_path, photos=[tmp_path / "other"])
    after = digests(tmp_path / "out")
    assert after["a.png"] == before
    assert list(after) == ["a.jpg.png", "a.png"]
    assert len(read(tmp_path / "out" / LINES)[0]) == 2


def test_a_file_that_is_no_result_is_never_overwritten(tmp_path: Path) -> None:
    photographs.portrait(tmp_path / "in" / "a.jpg")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_bytes(b"precious")
    for force in (False, True):
        summary = go(tmp_path, force=force)
        assert "is there already" in (summary.rows[0].reason or "")
        assert (tmp_path / "out" / "a.png").read_bytes() == b"precious"


def test_a_result_whose_row_was_lost_is_taken_over(tmp_path: Path) -> None:
    photographs.portrait(tmp_path / "in" / "a.jpg")
    go(tmp_path)
    before = digests(tmp_path / "out")
    (tmp_path / "out" / LINES).unlink()
    assert go(tmp_path).done == 1
    assert digests(tmp_path / "out") == before


def test_a_link_in_the_output_folder_leads_nowhere(tmp_path: Path) -> None:
    photographs.portrait(tmp_path / "in" / "sub" / "a.jpg")
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    summary = go(tmp_path)
    assert "out of the output folder" in (summary.rows[0].reason or "")
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("out", [".", "in/results"])
def test_results_below_the_input_are_not_taken_as_inputs(tmp_path: Path, out: str) -> None:
    photographs.portrait(tmp_path / "in" / "in" / "a.jpg")
    for reused in (0, 1):
        summary = go(tmp_path, out=out)
        assert (summary.photographs, summary.reused) == (1, reused)
    assert (tmp_path / out / "in" / "a.png").is_file()


def test_a_broken_off_run_goes_on_to_the_same_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimised: list[int]
) -> None:
    for number in range(5):
        photographs.portrait(tmp_path / "in" / f"{number}.jpg", brightness=1 - number / 10)
    go(tmp_path, out="whole")
    counted = pipeline.protect

    def interrupted(images: Tensor, *arguments: Any, **options: Any) -> Protected:
        if len(optimised) == 4:
            raise KeyboardInterrupt
        return counted(images, *arguments, **options)

    monkeypatch.setattr(pipeline, "protect", interrupted)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path)
    monkeypatch.setattr(pipeline, "protect", counted)
    assert len(read(tmp_path / "out" / LINES)[0]) == 2
    summary = go(tmp_path)
    assert (summary.reused, summary.done) == (2, 5)
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


def test_a_full_disk_ends_the_run_in_one_line_and_keeps_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        photographs.portrait(tmp_path / "in" / f"{number}.jpg", brightness=1 - number / 10)
    write = pipeline.write_atomic

    def full(path: Path, content: bytes) -> None:
        if path.name == "1.png":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    monkeypatch.setattr(pipeline, "write_atomic", full)
    summary = go(tmp_path)
    assert "No space left on device" in summary.stopped
    assert list(digests(tmp_path / "out")) == ["0.png"]
    assert [row.input for row in read(tmp_path / "out" / LINES)[0]] == ["0.jpg"]
    monkeypatch.undo()
    assert go(tmp_path).done == 3


class _Half:
    """A file on a disk that takes half of what is written."""

    def __init__(self, file: Any, failure: Callable[[], OSError]) -> None:
        self.file, self.failure = file, failure

    def __enter__(self) -> _Half:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, content: bytes) -> None:
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        raise self.failure()


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three aligned crops, and what a run makes of them that nothing stops."""
    folder = tmp_path_factory.mktemp("three")
    for number in range(3):
        photographs.portrait(folder / "in" / f"{number}.png", brightness=1 - number / 10, size=faces.SIZE)
    go(folder, out="whole", aligned=True, config=PMTConfig(steps=1, batch_size=1))
    return folder


PLACES = ("make", "write", "fsync", "replace", "add", "torn", LINES, TABLE)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES], ids=errno.errorcode.get)
@pytest.mark.parametrize(("place", "before"), [*((place, 1) for place in PLACES), ("make", 0), ("add", 0)])
def test_a_disk_that_takes_nothing_more_is_one_line_and_the_next_run_makes_the_same_files(
    three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pmt: Any, place: str, before: int, number: int
) -> None:
    """Wherever it shows, from the line of the report after ``before`` others on."""
    added: list[Row] = []
    add, make, fsync, replace, fdopen = Report.add, images._make, os.fsync, Path.replace, os.fdopen
    write = report.write_atomic
    command = ["protect", three / "in", "-o", tmp_path / "out", "-a", NETWORK, "--aligned", "--steps", 1,
               "--batch-size", 1, "--device", "cpu", "--quiet"]  # fmt: skip

    def failure() -> OSError:
        return OSError(number, os.strerror(number), "/some/where")

    def failing(call: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*arguments: Any, **options: Any) -> Any:
            if len(added) >= before:
                raise failure()
            return call(*arguments, **options)

        return instead

    def counted(self: Report, row: Row) -> None:
        if place == "torn" and len(added) >= before:
            assert self._lines is not None
            self._lines.write(row.model_dump_json().encode()[:40])
            self._lines.flush()
            raise failure()
        (failing(add) if place == "add" else add)(self, row)
        added.append(row)

    def named(path: Path, content: bytes) -> None:
        if path.name == place:
            raise failure()
        write(path, content)

    with monkeypatch.context() as broken:
        broken.setattr(Report, "add", counted)
        broken.setattr(report, "write_atomic", named)
        if place == "make":
            broken.setattr(images, "_make", failing(make))
        elif place == "fsync":
            broken.setattr(os, "fsync", failing(fsync))
        elif place == "replace":
            broken.setattr(Path, "replace", failing(replace))
        elif place == "write":
            broken.setattr(
                os,
                "fdopen",
                lambda *a, **o: _Half(fdopen(*a, **o), failure) if len(added) >= before else fdopen(*a, **o),
            )
        done = pmt(*command)
    finished = 3 if place in (LINES, TABLE) else before
    assert len(added) == finished
    assert done.code == (1 if finished else 2), done.err
    said = f"cannot write to {tmp_path / 'out'} ({os.strerror(number)}); make room, or give another --out"
    assert done.error == said
    whole = digests(three / "whole")
    there = digests(tmp_path / "out")
    assert there.items() <= whole.items()
    assert len(there) >= finished
    assert not list((tmp_path / "out").rglob("*.part"))
    rows, torn = read(tmp_path / "out" / LINES)
    assert [row.input for row in rows] == [f"{i}.png" for i in range(finished)]
    assert torn == 0
    again = pmt(*command)
    assert (again.code, again.err) == (0, "")
    assert digests(tmp_path / "out") == whole
    rows, torn = read(tmp_path / "out" / LINES)
    assert torn == 0
    assert list(map(_untimed, rows)) == list(map(_untimed, read(three / "whole" / LINES)[0]))
    assert (tmp_path / "out" / TABLE).is_file()


def _untimed(row: Row) -> dict[str, Any]:
    return row.model_dump(exclude={"seconds"})


def test_a_name_too_long_for_a_result_fails_alone(tmp_path: Path) -> None:
    photographs.portrait(tmp_path / "in" / "a.jpg")
    (tmp_path / "in" / ("b" * 251 + ".jpg")).write_bytes((tmp_path / "in" / "a.jpg").read_bytes())
    summary = go(tmp_path, features=True)
    assert [row.status for row in summary.rows] == ["done", "failed"]
    assert "too long" in (summary.rows[1].reason or "")


def test_an_image_that_did_not_stay_finite_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photographs.portrait(tmp_path / "in" / "a.jpg")
    photographs.portrait(tmp_path / "in" / "b.jpg", brightness=0.8)

    def diverging(images: Tensor, *arguments: Any, **options: Any) -> Protected:
        result = protect(images, *arguments, **options)
        result.finite[0] = False
        return result

    monkeypatch.setattr(pipeline, "protect", diverging)
    summary = go(tmp_path)
    assert [row.status for row in summary.rows] == ["failed", "done"]
    assert "finite" in (summary.rows[0].reason or "")
    assert list(digests(tmp_path / "out")) == ["b.png"]


def test_features_alone_let_the_service_recognise(tmp_path: Path) -> None:
    photographs.pair(tmp_path / "in" / "a.jpg")
    summary = go(tmp_path, features=True)
    out = tmp_path / "out"
    assert list(digests(out)) == [f"a-face2.{NETWORK}.safetensors", f"a.{NETWORK}.safetensors"]
    network = zoo.load(NETWORK)
    photo = faces.read_photo(tmp_path / "in" / "a.jpg")
    detected = faces.Detector()(photo)
    for row, face in zip(summary.rows, detected, strict=True):
        (name,) = row.outputs
        features, card = read_features(out / name)
        original = to_tensor([faces.align(photo, face.landmarks)])
        assert card == json.loads((out / CARD).read_text("utf-8"))["networks"][NETWORK]
        assert card["units"] == list(network.unit_names[:5])
        assert card["shape"] == list(features.shape) == list(ShallowModel(network).feature(original).shape)
        assert card["weights"] == zoo.weights_checksum(NETWORK)
        embedding = ServerModel(network, card["cut"])(features)
        cosine = torch.cosine_similarity(embedding, network(original)).item()
        assert row.networks[0].cosine == pytest.approx(cosine, abs=1e-4)
        assert row.ssim is None
    before = digests(out)
    assert go(tmp_path, features=True).reused == 2
    assert go(tmp_path, features=True, force=True).reused == 0
    assert digests(out) == before
    assert len(go(tmp_path).rows) == 2
    assert len(read(out / LINES)[0]) == 4


@pytest.mark.parametrize("content", [b'{"my": "card"}', b"[]", None])
def test_a_users_own_file_in_the_place_of_the_card_stays(tmp_path: Path, content: bytes | None) -> None:
    photographs.portrait(tmp_path / "in" / "a.jpg")
    card = tmp_path / "out" / CARD
    if content is None:
        card.mkdir(parents=True)
    else:
        card.parent.mkdir()
        card.write_bytes(content)
    with pytest.raises(
        ResultError, match=r"out/model-card\.json is there already and describes no networks; move it away$"
    ):
        go(tmp_path, features=True)
    assert not digests(tmp_path / "out")
    assert content is None or card.read_bytes() == content
    assert go(tmp_path).done == 1


@pytest.mark.parametrize("content", [b"", b"\x00" * 20, b"\xff" * 8, b'{"a":1}'])
def test_a_damaged_features_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(ResultError, match=r"holds no features of pmt protect"):
        read_features(tmp_path / "a.safetensors")


def test_aligned_crops_are_taken_as_they_are(tmp_path: Path) -> None:
    photo = faces.read_photo(photographs.portrait(tmp_path / "a.png"))
    crop = faces.align(photo, faces.Detector()(photo)[0].landmarks)
    (tmp_path / "in").mkdir()
    Image.fromarray(crop).save(tmp_path / "in" / "a.png")
    photographs.portrait(tmp_path / "in" / "large.png")
    summary = go(tmp_path, aligned=True)
    assert [(row.input, row.status) for row in summary.rows] == [("a.png", "done"), ("large.png", "failed")]
    assert summary.rows[0].box is None
    assert summary.rows[0].seed == image_seed(service_seed(0, [NETWORK]), to_tensor([crop])[0])


def test_uploads_for_other_services_start_from_other_noise(tmp_path: Path) -> None:
    other_service = "sface"
    network_or_skip(other_service)
    photographs.portrait(tmp_path / "in" / "a.png")
    start = PMTConfig(steps=0, batch_size=1)
    made = {}
    for services in ((NETWORK,), (other_service,), (NETWORK, other_service), (other_service, NETWORK)):
        out = "-".join(services)
        assert go(tmp_path, out=out, authorised=list(services), config=start).done == 1
        made[services] = np.array(Image.open(tmp_path / out / "a.png")).astype(float).ravel()
    one, other, both, turned = made.values()
    for first, second in ((one, other), (one, both), (other, both)):
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.05
    # In any order they are the same services.
    assert (both == turned).all()


def test_a_seed_for_services_is_a_hash_of_all_that_it_is_for() -> None:
    given = [(0, ["a"]), (1, ["a"]), (0, ["b"]), (0, ["a", "b"]), (0, ["ab"]), (0, ['a", "b'])]
    seeds = [service_seed(seed, names) for seed, names in given]
    assert len(set(seeds)) == len(given)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert service_seed(0, ["b", "a"]) == service_seed(0, ("a", "b"))


def test_two_networks_are_both_in_the_report(tmp_path: Path) -> None:
    photographs.portrait(tmp_path / "in" / "a.jpg")
    try:
        summary = go(tmp_path, authorised=[NETWORK, "sface"])
    except AssetError as error:
        pytest.skip(str(error))
    assert [agreement.network for agreement in summary.rows[0].networks] == [NETWORK, "sface"]
    assert go(tmp_path).reused == 0


@pytest.mark.parametrize(
    ("about", "kind", "message"),
    [
        ({"authorised": []}, ConfigError, "no authorised network"),
        ({"authorised": ["mobilefacent"]}, NetworkError, "did you mean 'mobilefacenet'"),
        ({"authorised": [NETWORK, NETWORK]}, ConfigError, "named twice"),
        ({"config": PMTConfig(weights=(1.0, 2.0))}, ConfigError, "do not fit 1 model"),
        ({"cut": 99}, ConfigError, "cut 99 is outside"),
        ({"cut": "block99"}, ConfigError, "no unit 'block99'"),
        ({"device": "abacus"}, ConfigError, "device 'abacus' cannot be used"),
        ({"photos": [Path("nowhere")]}, PhotoError, "no such file or folder: nowhere"),
    ],
)
def test_wrong_usage_is_one_line(tmp_path: Path, about: dict[str, Any], kind: type[Exception], message: str) -> None:
    photographs.portrait(tmp_path / "in" / "a.jpg")
    with pytest.raises(kind, match=message) as raised:
        go(tmp_path, **about)
    assert "\n" not in str(raised.value)
    assert digests(tmp_path) == {}


def test_a_folder_without_photographs_says_so(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("x")
    with pytest.raises(PhotoError, match=r"no photograph in .*in, only 1 other file; name photographs .* folder$"):
        go(tmp_path)
    assert not (tmp_path / "out").exists()


def test_the_key_holds_what_shapes_a_result_and_nothing_else(tmp_path: Path) -> None:
    base = job(tmp_path)
    same = [job(tmp_path, out="elsewhere"), job(tmp_path, force=True), job(tmp_path, photos=[]), job(tmp_path, cut=5)]
    assert {entry.key() for entry in same} == {base.key()}
    changes: list[dict[str, Any]] = [
        {"largest": True},
        {"aligned": True},
        {"min_face": 33},
        {"features": True},
        {"cut": 4},
        {"authorised": ["sface"]},
        {"config": PMTConfig(steps=2, rule="sign")},
    ]
    assert len({base.key(), *(job(tmp_path, **change).key() for change in changes)}) == len(changes) + 1


def test_no_leftovers(tmp_path: Path) -> None:
    photographs.portrait(tmp_path / "in" / "a.jpg")
    go(tmp_path)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"a.png", LINES, TABLE, LOCK}
    assert all(isinstance(row, Row) for row in read(tmp_path / "out" / LINES)[0])


@pytest.mark.slow
def test_default_settings_are_accepted_and_have_a_low_ssim(tmp_path: Path) -> None:
    """The acceptance test of the command: the sample photographs, all faces, nothing but the defaults."""
    from pmtlib.datasets import sample_photos

    (tmp_path / "in").mkdir()
    for photo in sample_photos():
        try:
            Image.fromarray(photo.read()).save(tmp_path / "in" / f"{photo.name}.png")
        except AssetError as error:
            pytest.skip(str(error))
    summary = go(tmp_path, config=PMTConfig())
    calibration = zoo.calibration(NETWORK)
    if calibration is None:
        pytest.skip(f"{NETWORK} has no calibrated threshold; run pmt networks --calibrate")
    assert summary.failed == 0
    assert summary.done == sum(len(photo.persons) for photo in sample_photos())
    for row in summary.rows:
        assert row.networks[0].verdict == "accepted", row
        assert row.warning is None
        assert row.ssim is not None
        assert row.ssim < 0.15, row


@pytest.mark.parametrize("workers", [1, 3])
def test_photographs_are_given_in_order_and_prepared_only_so_far_ahead(workers: int) -> None:
    prepared: list[int] = []

    def prepare(number: int) -> int:
        prepared.append(number)
        if number == 3:
            raise PhotoError("three")
        return -number

    seen: list[object] = []
    steps = pipeline._ahead(prepare, range(20), 4, workers)
    for number, wait in steps:
        try:
            seen.append(wait())
        except PhotoError as error:
            seen.append(str(error))
        assert max(prepared) <= number + 4
        if number == 9:
            steps.close()
            break
    assert seen == [0, -1, -2, "three", *range(-4, -10, -1)]
    # One thread prepares them in their order, too.
    assert (prepared if workers == 1 else sorted(prepared)) == list(range(len(prepared)))
    assert len(prepared) <= 14


def test_several_threads_that_find_faces_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        photographs.portrait(tmp_path / "in" / f"{number}.png", brightness=1 - number / 9)
    photographs.pair(tmp_path / "in" / "pair.png")
    photographs.empty(tmp_path / "in" / "none.png")
    one = go(tmp_path, out="one")
    at_once, most, usual = 0, 0, pipeline.Finder.__call__
    lock, threads = threading.Lock(), cv2.getNumThreads()

    def counted(self: pipeline.Finder, picture: Any, name: str) -> Any:
        nonlocal at_once, most
        assert cv2.getNumThreads() == 1
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.2)
        try:
            return usual(self, picture, name)
        finally:
            with lock:
                at_once -= 1

    monkeypatch.setattr(pipeline.Finder, "__call__", counted)
    monkeypatch.setattr(pipeline, "finders", lambda _: 3)
    three = go(tmp_path, out="three")
    assert most == 3
    assert cv2.getNumThreads() == threads
    assert [row.model_dump(exclude={"seconds"}) for row in three.rows] == [
        row.model_dump(exclude={"seconds"}) for row in one.rows
    ]
    assert (three.done, three.failed) == (7, 1)


def test_beside_a_gpu_every_processor_but_one_finds_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert pipeline.finders(torch.device("cpu")) == 1
    assert pipeline.finders(torch.device("cuda")) == 7
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    assert pipeline.finders(torch.device("cuda")) == 1
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert pipeline.finders(torch.device("cuda")) == pipeline.MOST_FINDERS


def test_it_is_told_where_the_time_went(tmp_path: Path) -> None:
    for number in range(3):
        photographs.portrait(tmp_path / "in" / f"{number}.png", brightness=1 - number / 9)
    summary = go(tmp_path)
    assert set(summary.stages) == set(pipeline.STAGES)
    assert all(seconds > 0 for seconds in summary.stages.values())
    assert summary.to_dict()["stages"]["optimising"] <= summary.seconds
    assert not any(go(tmp_path).stages.values())


def test_faces_that_stop_early_make_room_and_come_out_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = PMTConfig(steps=12, batch_size=2, stop_cosine=0.85)
    for number in range(5):
        photographs.portrait(tmp_path / "in" / f"{number}.png", brightness=1 - number / 8)
        photographs.portrait(tmp_path / f"in{number}" / f"{number}.png", brightness=1 - number / 8)
    handed: list[int] = []
    protect = pipeline.protect

    def noted(images: torch.Tensor, *given: Any, **options: Any) -> Any:
        handed.append(len(images))
        return protect(images, *given, **options)

    monkeypatch.setattr(pipeline, "protect", noted)
    whole = go(tmp_path, config=config)
    assert handed == [5]
    steps = [row.steps for row in whole.rows]
    assert len(set(steps)) > 1
    for number in range(5):
        alone = go(tmp_path, photos=[tmp_path / f"in{number}"], out=f"out{number}", config=config)
        mine, theirs = whole.rows[number], alone.rows[0]
        assert mine.outputs == theirs.outputs
        assert mine.steps == theirs.steps
        for one, other in zip(mine.networks, theirs.networks, strict=True):
            # Several threads of torch share the embedding of a batch, which is not part of the image, by its size.
            assert one.cosine == pytest.approx(other.cosine, abs=1e-6)
            assert one.model_copy(update={"cosine": other.cosine}) == other
    handed.clear()
    go(tmp_path, out="plain", config=PMTConfig(steps=1, batch_size=2))
    assert handed == [2, 2, 1]
