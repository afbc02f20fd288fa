"""The runner on real notebooks, in a project of its own: real kernels, real papermill."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pmtlib import __version__, results, runner
from pmtlib.errors import ConfigError, ResultError

PARAMETERS = "pairs: int = 2  # how many\nlabel: str = 'x'"
# What a section does when it asks for a result: the file's name goes to the log that the runner reads.
LOOKS_UP = "from pmtlib import results; _ = results.find(results.Request('tally', 'one', 1, {'x': 1}))\n"
TALLY = LOOKS_UP + "print(label * pairs)"


def cell(source: str, *tags: str, kind: str = "code") -> dict[str, Any]:
    common = {"cell_type": kind, "metadata": {"tags": list(tags)} if tags else {}, "source": source}
    return common if kind == "markdown" else {**common, "execution_count": None, "outputs": []}


def write_notebook(path: Path, *cells: dict[str, Any]) -> None:
    path.write_text(json.dumps({"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 4}))


def write_profile(project: Path, name: str, content: Any) -> None:
    (project / "notebooks" / "profiles" / f"{name}.yaml").write_text(yaml.safe_dump(content))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one notebook, ``tally``, and one profile, ``paper``."""
    (tmp_path / "notebooks" / "profiles").mkdir(parents=True)
    (tmp_path / "results" / "tally").mkdir(parents=True)
    stored = results.Result(
        results.Request("tally", "one", 1, {"x": 1}), {"name": "s", "fingerprint": "f", "n": 1}, {"value": 1}, {}
    )
    results.write(stored, tmp_path / "results")
    monkeypatch.setenv("PMT_PROJECT", str(tmp_path))
    for variable in ("PMT_RESULTS", "PMT_DATA", "PMT_WEIGHTS", "PMT_CACHE", "PMT_PROFILE"):
        monkeypatch.delenv(variable, raising=False)
    write_notebook(
        tmp_path / "notebooks" / "tally.ipynb",
        cell("# Tally", kind="markdown"),
        cell(PARAMETERS, "parameters"),
        cell(TALLY),
    )
    write_profile(tmp_path, "paper", {"common": {"label": "ab"}, "tally": {"pairs": 3}})
    return tmp_path


def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """The command line in this process: exit status, standard output, standard error."""
    before = sys.argv
    sys.argv = ["runner", *arguments]
    try:
        with pytest.raises(SystemExit) as ended:
            runner.main()
    finally:
        sys.argv = before
    captured = capsys.readouterr()
    code = ended.value.code
    return (code if isinstance(code, int) else 0), captured.out, captured.err


def page(project: Path, name: str = "tally") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((project / "book" / "results" / f"{name}.ipynb").read_text())
    return content


def printed(notebook: dict[str, Any]) -> str:
    return "".join(
        "".join(output.get("text", "")) for entry in notebook["cells"] for output in entry.get("outputs", [])
    )


def test_execute_injects_the_profile_and_writes_page_and_manifest(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = run("execute", capsys=capsys)
    assert status == 0
    assert "tally: executed with profile paper" in out
    assert printed(page(project)) == "ababab\n"
    entry = json.loads((project / "book" / "results" / "manifest.json").read_text())["notebooks"]["tally"]
    assert entry["profile"] == "paper"
    assert entry["pmtlib"] == __version__
    assert list(entry["results"]) == ["tally/one.json"]
    assert entry["refused"] == {}
    assert run("check", capsys=capsys)[0] == 0


def test_a_second_run_gives_the_same_bytes_without_times_or_paths(project: Path) -> None:
    folder = project / "book" / "results"
    assert runner.execute(report=str) == []
    before = {path.name: path.read_bytes() for path in folder.rglob("*.*")}
    assert runner.execute(report=str) == []
    assert {path.name: path.read_bytes() for path in folder.rglob("*.*")} == before
    text = before["tally.ipynb"].decode()
    for trace in ("start_time", "duration", "iopub", "papermill", str(project), sys.prefix):
        assert trace not in text
    assert set(page(project)["metadata"]) == {"kernelspec", "language_info"}
    assert page(project)["metadata"]["language_info"] == {"name": "python"}


def test_the_kernel_is_this_interpreter_and_sees_neither_the_users_profile_nor_pmt_profile(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    startup = home / ".ipython" / "profile_default" / "startup" / "spoil.py"
    startup.parent.mkdir(parents=True)
    startup.write_text("print = lambda *things: None")
    spec = home / ".local" / "share" / "jupyter" / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["false"], "display_name": "Python 3", "language": "python"}))
    before = sorted(path for path in home.rglob("*"))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PMT_PROFILE", "paper")
    write_notebook(
        project / "notebooks" / "tally.ipynb",
        cell(PARAMETERS, "parameters"),
        cell(
            "import hashlib, os, sys\n"
            "print(hashlib.sha256(sys.executable.encode()).hexdigest(), os.environ.get('PMT_PROFILE'))"
        ),
    )
    assert runner.execute(report=str) == []
    assert printed(page(project)) == f"{hashlib.sha256(sys.executable.encode()).hexdigest()} None\n"
    assert sorted(path for path in home.rglob("*")) == before


def test_a_notebook_with_a_profile_parameter_is_given_the_name(project: Path) -> None:
    write_notebook(
        project / "notebooks" / "tally.ipynb", cell("profile = 'smoke'", "parameters"), cell("print(profile)")
    )
    write_profile(project, "paper", {"tally": {"steps": 5}})
    assert runner.execute(report=str) == []
    assert printed(page(project)) == "paper\n"
    write_profile(project, "paper", {"tally": {"steps": 6}})
    assert runner.check() == ["tally: its parameters in profile paper have changed since"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"tally": {"pair": 3}}, "no parameter 'pair'; did you mean 'pairs'?"),
        ({"common": {"shade": 3}}, "no parameter 'shade'; known: label, pairs"),
        ({"taly": {"pairs": 3}}, "no notebook 'taly'; did you mean 'tally'?"),
        ({"tally": [1, 2]}, "must map notebook names"),
    ],
)
def test_a_profile_that_fits_nothing_is_refused_in_one_line_and_nothing_runs(
    project: Path, content: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_profile(project, "paper", content)
    status, _, err = run("execute", capsys=capsys)
    assert status == 1
    assert message in err
    assert err.count("\n") == 1
    assert not (project / "book").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--profile", "papr"), "no profile 'papr'; did you mean 'paper'?"),
        (("--only", "tall"), "no notebook 'tall'; did you mean 'tally'?"),
    ],
)
def test_unknown_names_on_the_command_line(
    project: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = run("execute", *arguments, capsys=capsys)
    assert (status, err) == (1, f"error: {message}\n")


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([cell(PARAMETERS), cell(TALLY)], "has 0 cells tagged 'parameters'; tag exactly one"),
        ([cell(PARAMETERS, "parameters"), cell(PARAMETERS, "parameters")], "has 2 cells tagged"),
        ([cell("pairs = len('ab')", "parameters")], "in the cell tagged 'parameters' does not assign a literal"),
        ([cell("import os", "parameters")], "'import os' in the cell tagged 'parameters' does not assign"),
        ([cell("pairs: int", "parameters")], "'pairs: int' in the cell tagged 'parameters' does not assign"),
        ([cell("pairs = ", "parameters")], "is not Python"),
    ],
)
def test_a_malformed_source_is_refused(project: Path, cells: list[dict[str, Any]], message: str) -> None:
    write_notebook(project / "notebooks" / "tally.ipynb", *cells)
    with pytest.raises(ConfigError) as caught:
        runner.execute(report=str)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_notebook_is_refused(project: Path) -> None:
    (project / "notebooks" / "tally.ipynb").write_text("not JSON")
    with pytest.raises(ConfigError, match=r"notebooks/tally\.ipynb is not a notebook"):
        runner.read_source("tally")


def test_a_failing_cell_is_named_the_old_page_kept_and_the_other_notebooks_still_run(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runner.execute(report=str) == []
    before = (project / "book" / "results" / "tally.ipynb").read_bytes()
    write_notebook(
        project / "notebooks" / "tally.ipynb",
        cell("# Tally", kind="markdown"),
        cell(PARAMETERS, "parameters"),
        cell("raise ValueError('no\\nluck')"),
        cell(TALLY),
    )
    write_notebook(project / "notebooks" / "zebra.ipynb", cell("stripes = 1", "parameters"), cell("print(stripes)"))
    status, out, err = run("execute", capsys=capsys)
    lines = [line for line in err.splitlines() if line.startswith("notebook ")]
    assert status == 1
    # The injected cell is not counted: the third cell of the source failed.
    assert lines == ["notebook tally, cell 3 failed: ValueError: no luck; see _build/failed/tally.ipynb"]
    assert (project / "_build" / "failed" / "tally.ipynb").is_file()
    assert (project / "book" / "results" / "tally.ipynb").read_bytes() == before
    assert "zebra: executed" in out
    assert printed(page(project, "zebra")) == "1\n"
    assert run("check", capsys=capsys)[0] == 1


def test_a_kernel_that_dies_is_one_line(project: Path) -> None:
    write_notebook(
        project / "notebooks" / "tally.ipynb", cell(PARAMETERS, "parameters"), cell("import os; os._exit(3)")
    )
    (failure,) = runner.execute(report=str)
    assert failure.startswith("notebook tally")
    assert "\n" not in failure
    assert not (project / "book" / "results" / "tally.ipynb").exists()


def test_a_page_that_is_too_large_or_shows_a_path_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_notebook(
        project / "notebooks" / "tally.ipynb",
        cell(PARAMETERS, "parameters"),
        cell("from pathlib import Path\nprint(f'stored in {Path.cwd()}')"),
    )
    write_notebook(
        project / "notebooks" / "zebra.ipynb", cell("stripes = 1", "parameters"), cell("print('z' * 1_600_000)")
    )
    shown, large = runner.execute(report=str)
    assert shown == (
        "notebook tally, cell 2: its output shows the project folder of this machine; print names, not absolute paths"
    )
    assert large.startswith("notebook zebra: the executed page has 1,6")
    assert large.endswith("more than 1,500,000; show fewer or smaller figures")
    assert not (project / "book").exists()


def test_check_finds_every_kind_of_change(project: Path) -> None:
    assert runner.check() == ["tally: has never been executed"]
    assert runner.execute(report=str) == []
    assert runner.check() == []

    source = project / "notebooks" / "tally.ipynb"
    good = source.read_text()
    source.write_text(good.replace("# Tally", "# The tally"))
    assert runner.check() == ["tally: notebooks/tally.ipynb has changed since"]
    editor_only = json.loads(good)
    editor_only["cells"][0]["metadata"]["collapsed"] = True
    source.write_text(json.dumps(editor_only))
    assert runner.check() == []
    captioned = json.loads(good)
    captioned["cells"][2]["metadata"]["mystnb"] = {"figure": {"caption": "new"}}
    source.write_text(json.dumps(captioned))
    assert runner.check() == ["tally: notebooks/tally.ipynb has changed since"]
    source.write_text(good)

    write_profile(project, "paper", {"common": {"label": "ab"}, "tally": {"pairs": 4}})
    assert runner.check() == ["tally: its parameters in profile paper have changed since"]
    write_profile(project, "paper", {"common": {"label": "ab"}, "tally": {"pairs": 3}})

    stored = project / "results" / "tally" / "one.json"
    content = stored.read_text()
    stored.write_text(content + "\n")
    assert runner.check() == ["tally: stored result tally/one.json has changed since"]
    stored.unlink()
    lists = "is not what the pages and stored results give"
    listed = [f"book/results/{name} {lists}" for name in ("provenance.md", "data/provenance.csv")]
    assert runner.check() == ["tally: stored result tally/one.json is gone", *listed]
    # A result that a page looked for in vain makes it out of date once it is there.
    assert runner.execute() == []
    stored.write_text(content)
    assert runner.check() == ["tally: stored result tally/one.json is new", *listed]
    assert runner.execute() == []
    assert runner.check() == []

    executed = project / "book" / "results" / "tally.ipynb"
    published = executed.read_text()
    executed.write_text(published.replace("ababab", "cdcdcd"))
    assert runner.check() == ["tally: book/results/tally.ipynb was not written by the runner"]
    executed.write_text(published)

    source.unlink()
    assert runner.check() == ["tally: has a page but no source"]


def test_a_result_of_another_version_of_the_experiment_fails_the_check_even_once_the_page_is_executed(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runner.execute(report=str) == []
    assert runner.check() == []
    newer = TALLY.replace("'one', 1,", "'one', 2,")
    write_notebook(
        project / "notebooks" / "tally.ipynb",
        cell("# Tally", kind="markdown"),
        cell(PARAMETERS, "parameters"),
        cell(newer),
    )
    assert runner.check() == ["tally: notebooks/tally.ipynb has changed since"]
    assert runner.execute(report=str) == []
    assert runner.check() == [
        "tally: stored result tally/one.json does not answer what the page asks: stored with other version; compute it"
        " again"
    ]
    assert run("check", capsys=capsys)[0] == 1


def test_the_code_that_draws_a_page_is_all_that_it_imports(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules that are imported by modules count too: the version of an experiment may stand in one of them."""
    package = project / "pmtlib"
    files = {
        "experiments/one.py": "VERSION = 1",
        "experiments/two.py": 'from pmtlib.experiments.one import VERSION\nSTORED = "benchmarks/rates-of_2.json"',
        "experiments/other.py": "",
        "figures/shown.py": "import pmtlib.experiments.two",
        "page_data.py": "",
        "data/table.json": "{}",
    }
    for name, code in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(code)
    monkeypatch.setattr(runner, "__file__", str(package / "runner.py"))
    write_notebook(
        project / "notebooks" / "tally.ipynb",
        cell(PARAMETERS, "parameters"),
        cell("if False:\n    from pmtlib.figures import common, shown\nprint(label)"),
    )
    assert runner.execute(report=str) == []
    for name, code in files.items():
        stale = (
            []
            if name == "experiments/other.py"
            else ["tally: the code or tables of pmtlib that draw it have changed since"]
        )
        (package / name).write_text(code + " ")
        assert runner.check() == stale, name
        (package / name).write_text(code)
    assert runner.check() == []
    (project / "benchmarks").mkdir()
    (project / "benchmarks" / "rates-of_2.json").write_text("{}")
    assert runner.check() == ["tally: the code or tables of pmtlib that draw it have changed since"]


KEEPS = "import pandas\nfrom pmtlib import page_data\npage_data.keep('rates', pandas.DataFrame({'rate': [0.5]}))\n"


def test_the_numbers_behind_figures_are_published_with_the_page_and_checked(project: Path) -> None:
    def write(*keeps: str) -> None:
        cells = [cell(PARAMETERS, "parameters"), *map(cell, keeps)]
        write_notebook(project / "notebooks" / "tally.ipynb", *cells)

    folder = project / "book" / "results" / "data" / "tally"
    write(KEEPS, KEEPS.replace("rates", "others"))
    assert runner.execute(report=str) == []
    assert sorted(path.name for path in folder.iterdir()) == ["others.csv", "rates.csv"]
    assert (folder / "rates.csv").read_text() == "rate\n0.5\n"
    assert runner.check() == []
    (folder / "rates.csv").write_text("rate\n0.6\n")
    (folder / "others.csv").unlink()
    assert runner.check() == [
        "tally: book/results/data/tally/others.csv is gone",
        "tally: book/results/data/tally/rates.csv was not written by the runner",
    ]
    # What a page no longer has goes with the next execution.
    write(KEEPS)
    assert runner.execute(report=str) == []
    assert [path.name for path in folder.iterdir()] == ["rates.csv"]
    assert runner.check() == []


def test_a_stored_result_that_the_provenance_lacks_fails_the_check(project: Path) -> None:
    assert runner.execute(report=str) == []
    assert "`tally/one`" in (project / "book" / "results" / "provenance.md").read_text()
    results.write(
        results.Result(
            results.Request("tally", "two", 1, {}), {"name": "s", "fingerprint": "f", "n": 1}, {"value": 1}, {}
        ),
        project / "results",
    )
    lacks = "is not what the pages and stored results give"
    assert runner.check() == [f"book/results/{name} {lacks}" for name in ("provenance.md", "data/provenance.csv")]
    runner.write_tables()
    assert runner.check() == []
    (project / "book" / "results" / "claims.md").write_text("All claims hold.")
    assert runner.check() == [f"book/results/claims.md {lacks}"]


def test_pages_without_a_source_go_when_all_are_executed(project: Path) -> None:
    write_notebook(project / "notebooks" / "zebra.ipynb", cell("stripes = 1", "parameters"), cell("print(stripes)"))
    assert runner.execute(report=str) == []
    (project / "notebooks" / "zebra.ipynb").unlink()
    assert runner.execute(report=str) == []
    assert not (project / "book" / "results" / "zebra.ipynb").exists()
    assert runner.check() == []


def test_pages_that_another_run_publishes_meanwhile_stay_known(project: Path) -> None:
    for name in ("aardvark", "zebra"):
        write_notebook(project / "notebooks" / f"{name}.ipynb", cell("legs = 4", "parameters"), cell("print(legs)"))

    def meanwhile(line: str) -> None:
        if line.startswith("aardvark"):
            assert runner.execute(only=["tally"], report=str) == []

    assert runner.execute(only=["aardvark", "zebra"], report=meanwhile) == []
    assert runner.check() == []


def test_output_dir_leaves_the_book_alone(project: Path, tmp_path: Path) -> None:
    assert runner.execute(only=["tally"], output_dir=tmp_path / "elsewhere", report=str) == []
    written = sorted(path.name for path in (tmp_path / "elsewhere").iterdir())
    tables = [f"glance-{name}.md" for name in ("attacks", "tests")]
    assert written == ["claims.md", "data", *tables, "manifest.json", "provenance.md", "tally.ipynb"]
    assert not (project / "book").exists()
    assert runner.check(tmp_path / "elsewhere") == []


def test_a_damaged_manifest_is_one_line(project: Path) -> None:
    folder = project / "book" / "results"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ResultError, match=r"book/results/manifest\.json is damaged.*make notebooks"):
        runner.check()
