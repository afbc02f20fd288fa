from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pmtlib import paths, results
from pmtlib.errors import ResultError

REQUEST = results.Request("abuse", "lfw--net", 1, {"pairs": 104, "pmt": {"steps": 25}}, {"net": "ab12"})


def result(**changes) -> results.Result:
    made = results.Result(
        REQUEST, {"name": "lfw", "fingerprint": "f1", "n": 2}, {"own": [0.5, -1e-05]}, {"date": "d", "commit": "abc"}
    )
    return replace(made, **changes)


def test_a_result_survives_the_round_trip(tmp_path):
    path = results.write(result(), tmp_path)
    assert path == tmp_path / "abuse" / "lfw--net.json"
    assert results.read(path) == result()
    assert results.find(REQUEST, "f1", tmp_path) == (result(), "")
    # A list of numbers is one line, so that a change of one value is a small diff.
    assert "[0.5, -1e-05]" in path.read_text()


def test_without_the_data_a_result_is_found_and_with_other_data_it_is_not(tmp_path):
    results.write(result(), tmp_path)
    assert results.find(REQUEST, None, tmp_path)[0] == result()
    assert results.find(REQUEST, "f2", tmp_path) == (None, "stored for other data of that name")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"version": 2}, "version"),
        ({"parameters": {"pairs": 104, "pmt": {"steps": 50}}}, "parameters"),
        ({"weights": {"net": "cd34"}}, "weights"),
    ],
)
def test_a_request_that_differs_is_not_answered_by_what_is_stored(tmp_path, change, part):
    results.write(result(), tmp_path)
    assert results.find(replace(REQUEST, **change), "f1", tmp_path) == (None, f"stored with other {part}")
    assert replace(REQUEST, **change).key("f1") != REQUEST.key("f1")


def test_equal_values_leave_the_stored_manifest_alone(tmp_path):
    path = results.write(result(), tmp_path)
    before = path.read_bytes()
    results.write(result(manifest={"date": "later", "commit": "def"}), tmp_path)
    assert path.read_bytes() == before
    results.write(result(manifest={"date": "later", "commit": "def"}, values={"own": [0.6, 0.0]}), tmp_path)
    assert results.read(path).manifest["date"] == "later"


def test_a_manifest_of_committed_code_takes_the_place_of_one_that_was_not(tmp_path):
    path = results.write(result(manifest={"commit": "abc+changes"}), tmp_path)
    results.write(result(manifest={"commit": "def+changes"}), tmp_path)
    assert results.read(path).manifest["commit"] == "abc+changes"
    results.write(result(manifest={"commit": "def"}), tmp_path)
    assert results.read(path).manifest["commit"] == "def"


def test_a_damaged_or_edited_result_is_refused_in_one_line(tmp_path):
    path = results.write(result(), tmp_path)
    content = json.loads(path.read_text())
    content["request"]["parameters"]["pairs"] = 6000
    path.write_text(json.dumps(content))
    with pytest.raises(ResultError, match="edited or damaged") as caught:
        results.read(path)
    assert "\n" not in str(caught.value)
    results.write(result(), tmp_path)
    path.unlink()
    results.write(result(), tmp_path)
    path.write_text(path.read_text().replace("0.5", "0.6"))
    with pytest.raises(ResultError, match="edited or damaged"):
        results.read(path)
    path.write_text(path.read_text()[:50])
    with pytest.raises(ResultError, match="not a readable result"):
        results.read(path)
    with pytest.raises(ResultError, match="no such result"):
        results.read(tmp_path / "abuse" / "none.json")


@pytest.mark.parametrize("name", ["../escape", "UPPER", "", "a//b"])
def test_a_result_cannot_be_named_out_of_its_folder(name):
    with pytest.raises(ValueError, match="not a result name"):
        replace(REQUEST, name=name)


STORED = sorted((paths.project_dir() / "results").rglob("*.json"))


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_every_stored_result_is_whole_and_names_no_place_of_a_machine(path):
    stored = results.read(path)
    assert results.path_of(stored.request) == path
    text = path.read_text()
    assert "/home/" not in text
    assert "/root" not in text
    for name in ("commit", "date", "seconds", "command", "python", "packages", "hardware", "weights"):
        assert name in stored.manifest
