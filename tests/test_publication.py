"""The tables that the runner writes: every claim, and every stored result."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from pmtlib import page_data, publication, reproduction, results
from pmtlib.experiments import claims

MANIFEST: dict[str, Any] = {
    "commit": "abc123",
    "date": "2026-01-02",
    "seconds": 61.5,
    "command": "papermill x",
    "python": "3.12.1",
    "packages": {"torch": "2.9.0"},
    "hardware": {"device": "cpu", "system": "Linux", "machine": "x86_64", "cpu_count": 2, "torch_threads": 1},
    "weights": {},
}
TWO = [
    claims.Claim("it serves", "99%", "98% [95, 99] | as it is", claims.HOLDS),
    claims.Claim("others fail", "", "60% [55, 65]", "does not hold: the reverse is measured"),
    claims.Claim("it costs nothing", "", "1 s", "holds at one of two"),
]


def stored(name: str, value: float = 1.0, **manifest: Any) -> results.Result:
    request = results.Request("abuse", name, 3, {"pairs": 104}, {"sface": "f00d"})
    data = {"name": "lfw", "title": "LFW", "fingerprint": "f", "n": 104}
    return results.Result(request, data, {"value": value}, {**MANIFEST, **manifest})


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PMT_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results"


def test_every_stored_result_is_a_line(root: Path) -> None:
    for name in ("lfw--a", "lfw--b"):
        results.write(stored(name))
    lines = publication.provenance()
    assert [line["file"] for line in lines] == ["abuse/lfw--a.json", "abuse/lfw--b.json"]
    first = lines[0]
    assert (first["data"], first["n"], first["version"], first["date"]) == ("LFW", "104", "3", "2026-01-02")
    assert (first["commit"], first["seconds"], first["weights"]) == ("abc123", "61.5", "sface:f00d")
    assert first["hardware"] == "cpu, Linux x86_64, 2 processors, 1 thread(s), Python 3.12.1, torch 2.9.0"
    assert json.loads(first["parameters"]) == {"pairs": 104}
    text = publication.provenance_tables(lines, {"abuse": {"profile": "paper", "results": {"abuse/lfw--a.json": "x"}}})
    assert (
        "| `abuse/lfw--a` | {doc}`abuse </results/abuse>` | LFW, 104 | 3 | 2026-01-02 | `abc123` | 61.5 | M1 | A |"
        in text
    )
    # A result that no page shows is listed all the same.
    assert "| `abuse/lfw--b` | none |" in text
    assert "| A | sface | `f00d` |" in text


def test_it_says_what_was_computed_twice(root: Path) -> None:
    first = stored("lfw--a")
    results.write(first)
    reproduction.record(first, stored("lfw--a", 1.001))
    results.write(stored("lfw--b"))
    reproduction.record(stored("lfw--b"), stored("lfw--b", 3.0))
    results.write(stored("lfw--c"))
    reproduction.record(stored("lfw--c"), stored("lfw--c"))
    results.write(stored("lfw--c", 7.0))
    results.write(stored("lfw--d"))
    assert [line["computed twice"] for line in publication.provenance()] == [
        "same, within 0.00100",
        "differs",
        "an earlier version",
        "no",
    ]


def test_claims_go_from_the_page_to_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(page_data.VARIABLE, str(tmp_path / "data" / "abuse"))
    claims.publish(TWO, {"lfw": 104, "cfp_ff": 103}, see={"abuse-heat-map": [1]})
    lines = publication.read_claims(tmp_path, "abuse")
    assert [line["measured"] for line in lines] == [claim.measured for claim in TWO]
    assert lines[0]["n"] == "LFW 104, CFP-FF 103 pairs"
    text = publication.claims_table(tmp_path, ["abuse", "ablation"])
    words = "4 claims. Holds: 1; holds in part or under some conditions: 1; does not hold: 1; not run: 1.\n"
    assert text.startswith(words)
    where = "{doc}`abuse </results/abuse>` (1) {numref}`abuse-heat-map`; n: LFW 104, CFP-FF 103 pairs"
    assert f"| it serves | 99% | 98% [95, 99] \\| as it is | **holds** | {where} |" in text
    assert "| what Section 6.9 says |  |  | **not run** | {doc}`ablation </results/ablation>` |" in text


def test_no_verdict_of_a_handful_of_pairs_reaches_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(page_data.VARIABLE, str(tmp_path / "data" / "abuse"))
    claims.publish(TWO, {"samples": 20})
    assert {line["verdict"] for line in publication.read_claims(tmp_path, "abuse")} == {claims.UNJUDGED}
    monkeypatch.setenv(page_data.VARIABLE, str(tmp_path / "data" / "ablation"))
    claims.publish(TWO, {})
    assert publication.read_claims(tmp_path, "ablation") == []


def test_the_csv_has_every_column(root: Path) -> None:
    results.write(stored("lfw--a"))
    content = publication.files(root, {}, [])[publication.PROVENANCE_DATA].decode()
    (line,) = csv.DictReader(io.StringIO(content))
    assert line == publication.provenance()[0]


def test_letters_go_on_after_z() -> None:
    found = publication.provenance_tables(
        [{**dict.fromkeys(("file", "data", "n", "version", "date", "commit", "seconds", "hardware"), ""),
          "weights": " ".join(f"net{place}:{place}" for place in range(28)), "computed twice": "no"}], {},
    )  # fmt: skip
    assert "| Z | net25 |" in found
    assert "| AB | net27 |" in found
