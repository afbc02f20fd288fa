from __future__ import annotations

import errno
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from pmtlib import report as module
from pmtlib.errors import ResultError
from pmtlib.report import LINES, TABLE, Agreement, Report, Row, compact, read, suffix, table_text

AGREEMENT = Agreement(
    network="sface",
    cut=5,
    weights="w",
    feature_cosine=0.9,
    feature_error=0.1,
    cosine=0.7,
    threshold=0.3,
    verdict="accepted",
)


def row(name: str = "a.jpg", *, done: bool = True, **about: Any) -> Row:
    values: dict[str, Any] = {"input": name, "source": f"source of {name}", "mode": "image", "config": "c"}
    if done:
        values |= {"status": "done", "face": 1, "faces": 1, "outputs": {f"{name[:-4]}.png": "0" * 64}}
        values |= {"networks": (AGREEMENT,), "ssim": 0.1, "seconds": 2.0}
    else:
        values |= {"status": "failed", "reason": "no face"}
    return Row(**{**values, **about})


def test_rows_come_back_as_they_were_and_lines_are_plain_json(tmp_path: Path) -> None:
    rows = [row("b\nc.jpg"), row("é.jpg", done=False)]
    with Report(tmp_path / "new" / "folder") as report:
        for entry in rows:
            report.add(entry)
        lines = (report.folder / LINES).read_text("utf-8").splitlines()
    assert [json.loads(line)["input"] for line in lines] == ["b\nc.jpg", "é.jpg"]
    assert read(report.folder / LINES) == (rows, 0)
    assert "no face" in (report.folder / TABLE).read_text("utf-8")


def test_rows_are_on_the_disk_before_the_run_ends(tmp_path: Path) -> None:
    with Report(tmp_path) as report:
        report.add(row())
        assert read(tmp_path / LINES)[0] == [row()]


def test_many_rows_are_forced_to_the_disk_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forced: list[int] = []
    with Report(tmp_path) as report:
        monkeypatch.setattr(module.os, "fsync", forced.append)
        report.extend([row("a.jpg"), row("b.jpg")])
        report.extend([])
        assert len(forced) == 1
        assert read(tmp_path / LINES)[0] == report.rows == [row("a.jpg"), row("b.jpg")]
        monkeypatch.undo()


def test_a_torn_last_line_is_passed_over_and_the_next_row_is_whole(tmp_path: Path) -> None:
    with Report(tmp_path) as report:
        report.add(row("a.jpg"))
        report.add(row("b.jpg"))
    content = (tmp_path / LINES).read_bytes()
    (tmp_path / LINES).write_bytes(content[:-20])
    with Report(tmp_path) as report:
        assert (report.rows, report.damaged) == ([row("a.jpg")], 1)
        report.add(row("c.jpg"))
        assert read(tmp_path / LINES) == ([row("a.jpg"), row("c.jpg")], 0)


@pytest.mark.parametrize("output", ["../out.png", "/etc/passwd", ""])
def test_a_report_cannot_name_files_outside_its_folder(tmp_path: Path, output: str) -> None:
    forged = json.loads(row().model_dump_json()) | {"outputs": {output: "0" * 64}}
    (tmp_path / LINES).write_text(json.dumps(forged) + "\n")
    assert read(tmp_path / LINES) == ([], 1)


@pytest.mark.skipif(sys.platform == "win32", reason="the lock needs fcntl")
def test_a_folder_is_held_by_one_run_and_let_go_after_an_error(tmp_path: Path) -> None:
    def break_off() -> None:
        with Report(tmp_path) as report:
            report.add(row())
            with pytest.raises(ResultError, match="in use by another run"), Report(tmp_path):
                pass
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        break_off()
    with Report(tmp_path) as report:
        assert report.rows == [row()]


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks")
def test_a_lock_is_one_that_a_networks_file_system_can_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS makes a shared lock of the kind that asks for a file that can be read, an exclusive one for writing."""
    asked = []
    monkeypatch.setattr(module.fcntl, "flock", lambda file, _: asked.append((file.readable(), file.writable())))
    with Report(tmp_path, (1, 2)), Report(tmp_path / "whole"):
        pass
    assert asked == [(True, True)] * 3

    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(module.fcntl, "flock", none)
    with (
        pytest.raises(ResultError, match=r"without locks \(No locks available\); give an --out on another"),
        Report(tmp_path),
    ):
        pass


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ResultError, match=r"cannot write to .*file/out \(Not a directory\)"),
        Report(tmp_path / "file" / "out"),
    ):
        pass


def test_compacting_keeps_the_latest_of_each_result_and_drops_failures_made_good() -> None:
    rows = [
        row("b.jpg"),
        row("a.jpg", done=False),
        row("c.jpg", done=False),
        row("c.jpg", done=False, reason="no face, again"),
        row("a.jpg", config="first"),
        row("a.jpg", config="second"),
        row("b.jpg", done=False, face=2, faces=2),
    ]
    kept = compact(rows)
    assert [(r.input, r.status, r.face) for r in kept] == [
        ("a.jpg", "done", 1),
        ("b.jpg", "done", 1),
        ("b.jpg", "failed", 2),
        ("c.jpg", "failed", None),
    ]
    assert kept[0].config == "second"
    assert kept[3].reason == "no face, again"
    assert compact(kept) == kept


@pytest.mark.parametrize(("mode", "face"), [("image", 1), ("image", 3), ("features", 1), ("features", 2)])
def test_the_target_of_a_row_is_what_its_names_begin_with(mode: str, face: int) -> None:
    tail = suffix(face, None if mode == "image" else "sface")
    assert row(mode=mode, face=face, outputs={f"x/y.jpg{tail}": "0"}).target == "x/y.jpg"


def test_the_table_has_a_line_a_network_and_shows_names_on_one_line() -> None:
    text = table_text([row("a\n[red]b.jpg", networks=(AGREEMENT, AGREEMENT)), row("c.jpg", done=False)])
    assert len(text.splitlines()) == 4
    assert "a\\n[red]b.jpg" in text
    assert "failed: no face" in text


def test_a_network_of_any_name_is_shown_as_it_is() -> None:
    assert "[/x]" in table_text([row(networks=(AGREEMENT.model_copy(update={"network": "[/x]"}),))])


def test_a_row_warns_where_a_result_serves_nobody() -> None:
    rejected = AGREEMENT.model_copy(update={"verdict": "rejected", "cosine": 0.21})
    assert row(steps=25).warning is None
    assert row(networks=(AGREEMENT.model_copy(update={"verdict": None, "threshold": None}),)).warning is None
    assert row(done=False).warning is None
    refused = row(networks=(AGREEMENT, rejected), steps=25)
    assert refused.warning == "sface itself rejects it (cosine 0.210, threshold 0.300); try more --steps"
    idle = row(steps=0)
    assert idle.warning == "nothing was optimised (0 steps)"
    for entry in (refused, idle):
        stored = json.loads(entry.model_dump_json())
        assert stored["warning"] == entry.warning
        assert Row.model_validate(stored) == entry
        assert " ".join((entry.warning or "").split()[:2]) in table_text([entry])


def test_a_row_from_before_there_were_variants_is_of_plain_pmt() -> None:
    old = row().model_dump(mode="json")
    del old["variant"]
    assert Row.model_validate(old) == row()
    assert row().variant == "pmt"
