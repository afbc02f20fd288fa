from __future__ import annotations

import os
import unicodedata
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pmtlib.errors import PhotoError
from pmtlib.intake import Entry, collect, is_safe, plan, shown

OUT = Path("results")


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def targets(arguments: list[Path], out: Path) -> dict[str, str]:
    return {photo.name: photo.target for photo in plan(collect(arguments, out).entries, out, {}, ())}


def test_folders_keep_their_structure_and_other_files_are_counted(tmp_path: Path) -> None:
    for name in (
        "b.jpg",
        "a.PNG",
        "sub/deep/c.webp",
        "notes.txt",
        "film.mp4",
        ".hidden.jpg",
        ".git/d.jpg",
        "x.jpg/e.jpg",
    ):
        touch(tmp_path / "in" / name)
    found = collect([tmp_path / "in"], tmp_path / "out")
    assert found.ignored == 2
    assert targets([tmp_path / "in"], tmp_path / "out") == {
        "a.PNG": "a",
        "b.jpg": "b",
        "sub/deep/c.webp": "sub/deep/c",
        "x.jpg/e.jpg": "x.jpg/e",
    }


def test_a_given_file_is_taken_whatever_its_name(tmp_path: Path) -> None:
    file = touch(tmp_path / ".odd.txt")
    assert targets([file], tmp_path / "out") == {".odd.txt": ".odd"}


def test_equal_stems_keep_their_suffix_and_equal_names_their_folder(tmp_path: Path) -> None:
    for name in ("one/a.jpg", "one/a.png", "two/a.jpg", "one/A.jpeg", "one/b.jpg"):
        touch(tmp_path / name)
    assert targets([tmp_path / "one", tmp_path / "two"], tmp_path / "out") == {
        "one/a.jpg": "one/a",
        "a.png": "a.png",
        "A.jpeg": "A.jpeg",
        "b.jpg": "b",
        "two/a.jpg": "two/a",
    }


def test_files_of_one_name_are_numbered_where_nothing_else_tells_them_apart(tmp_path: Path) -> None:
    first, second = touch(tmp_path / "x" / "f" / "a.jpg"), touch(tmp_path / "y" / "f" / "a.jpg")
    photos = plan(collect([first, second], tmp_path / "out").entries, tmp_path / "out", {}, ())
    assert [photo.target for photo in photos] == ["f/a.jpg", "f/a.jpg~2"]


def test_the_name_of_a_second_face_is_not_given_to_a_photograph(tmp_path: Path) -> None:
    for name in ("a.jpg", "a-face2.jpg"):
        touch(tmp_path / name)
    names = targets([tmp_path], tmp_path / "out")
    taken = {f"{names['a.jpg']}-face{number}" for number in range(2, 9)}
    assert names["a-face2.jpg"] not in taken


def test_a_link_loop_and_a_second_way_to_a_file_end(tmp_path: Path) -> None:
    touch(tmp_path / "in" / "a.jpg")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in", target_is_directory=True)
    (tmp_path / "in" / "b.jpg").symlink_to(tmp_path / "in" / "a.jpg")
    (tmp_path / "in" / "c.jpg").symlink_to(tmp_path / "in" / "c.jpg")
    found = collect([tmp_path / "in", tmp_path / "in" / "a.jpg"], tmp_path / "out")
    assert [(str(entry.relative), bool(entry.fault)) for entry in found.entries] == [("a.jpg", False), ("c.jpg", True)]


def test_results_are_never_inputs(tmp_path: Path) -> None:
    for name in ("a.jpg", "out/a.png", "b.png"):
        touch(tmp_path / name)
    names = [str(entry.relative) for entry in collect([tmp_path], tmp_path / "out").entries]
    assert names == ["a.jpg", "b.png"]
    inner = touch(tmp_path / "photos" / "photos" / "c.jpg")
    outputs = ["photos/c.png"]
    touch(tmp_path / outputs[0])
    assert [entry.path for entry in collect([tmp_path / "photos"], tmp_path, outputs).entries] == [inner]


def test_one_folder_for_input_and_results_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "a.jpg")
    with pytest.raises(PhotoError, match="both input and --out"):
        collect([tmp_path], tmp_path / "x" / "..")


def test_a_result_never_takes_the_place_of_its_own_photograph(tmp_path: Path) -> None:
    file = touch(tmp_path / "a.png")
    assert targets([file], tmp_path) == {"a.png": "a.png"}


def test_only_arguments_that_all_do_not_exist_are_an_error(tmp_path: Path) -> None:
    missing = tmp_path / "missing.jpg"
    with pytest.raises(PhotoError, match="no such file"):
        collect([missing], tmp_path / "out")
    found = collect([missing, touch(tmp_path / "a.jpg")], tmp_path / "out")
    why = "cannot be read (No such file or directory); check the path, the link and the permissions"
    assert [entry.fault for entry in found.entries] == [why, ""]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    assert collect([tmp_path], tmp_path / "out").ignored == 1
    assert (
        collect([tmp_path / "a.jpg"], tmp_path / "out").entries[0].fault == "is not a regular file; name a photograph"
    )


def test_names_stay_when_photographs_join(tmp_path: Path) -> None:
    touch(tmp_path / "in" / "a.jpg")
    out = tmp_path / "out"
    (first,) = plan(collect([tmp_path / "in"], out).entries, out, {}, ())
    touch(tmp_path / "in" / "a.png")
    photos = plan(collect([tmp_path / "in"], out).entries, out, {first.source: first.target}, {first.target})
    assert {photo.name: photo.target for photo in photos} == {"a.jpg": "a", "a.png": "a.png"}


def test_a_name_in_use_is_not_given_to_another_photograph_of_that_name(tmp_path: Path) -> None:
    touch(tmp_path / "two" / "a.jpg")
    entries = collect([tmp_path / "two"], tmp_path / "out").entries
    assert plan(entries, tmp_path / "out", {}, {"a"})[0].target == "a.jpg"
    assert plan(entries, tmp_path / "out", {}, {"a", "A.JPG"})[0].target == "a.jpg~2"
    assert (
        plan(entries, tmp_path / "out", {}, {"a"}, lambda _entry, name: "a" if name == "a.jpg" else None)[0].target
        == "a"
    )


NAMES = st.lists(
    st.sampled_from(["a", "A", "a-face2", "a-face3-face2", "é", "é", "ß", "ss", "a.jpg", "a.jpg~2"]).flatmap(
        lambda stem: st.sampled_from([".jpg", ".png", ".JPG", ""]).map(lambda suffix: stem + suffix)
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=200, deadline=None)
@given(NAMES, st.sampled_from([(), ("a",), ("a.jpg", "SS"), ("a-face2",)]))
def test_no_two_photographs_ever_share_a_file(names: list[str], in_use: tuple[str, ...]) -> None:
    entries = [Entry(Path(f"/nowhere/{i}/{name}"), f"root{i % 2}", PurePosixPath(name)) for i, name in enumerate(names)]
    photos = plan(entries, OUT, {}, in_use)
    assert plan(entries, OUT, {}, in_use) == photos
    assert all(is_safe(photo.target) for photo in photos)
    every = [*in_use, *(photo.target for photo in photos)]
    files = [f"{target}{face}.png" for target in every for face in ("", "-face2", "-face3")]
    folded = [unicodedata.normalize("NFC", file).casefold() for file in files]
    assert len(set(folded)) == len(files)


def test_names_are_shown_on_one_line() -> None:
    assert shown("a\nb\x1b[31m\u202e") == "a\\nb\\x1b[31m\\u202e"
    assert shown(os.fsdecode(b"caf\xe9.jpg")) == "caf\\udce9.jpg"
    assert shown("é") == "é"


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../a", "a/../../b", "a\0b"])
def test_paths_that_leave_the_folder_are_not_safe(path: str) -> None:
    assert not is_safe(path)
    assert is_safe("a/b..c/d.png")
