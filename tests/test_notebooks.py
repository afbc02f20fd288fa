"""Every notebook source: its form, and that it runs, by nbval as a reader would and by the runner, on a few steps."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from pmtlib import runner

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROFILES = ("smoke", "quick", "paper")

each = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with a profile ``smoke`` that stores its results, as ``paper`` does, in a folder of its own.

    What nbval has computed is then there for the runner, which draws from stored results as it does for the book.
    """
    folder = tmp_path_factory.mktemp("project")
    for entry in ROOT.iterdir():
        if entry.name not in ("notebooks", "results", ".git"):
            (folder / entry.name).symlink_to(entry)
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    file = folder / "notebooks" / "profiles" / "smoke.yaml"
    sections = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({name: {**values, "store": True} for name, values in sections.items()}))
    return folder


@pytest.fixture(scope="module")
def environment(project: Path) -> dict[str, str]:
    """Data and weights are those of whoever runs the tests."""
    kept = {key: value for key, value in os.environ.items() if key not in ("PMT_PROFILE", "PMT_RESULTS")}
    return {**kept, "PMT_PROJECT": str(project), "IPYTHONDIR": str(project / "ipython")}


def run(arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=1500,
    )


@pytest.fixture(scope="module")
def by_nbval(project: Path, environment: dict[str, str]) -> dict[str, list[str]]:
    """What every cell of every source said that failed, by nbval, which cannot pass parameters: PMT_PROFILE does."""
    report = project / "nbval.xml"
    options = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=600", "-q", "-p", "no:cacheprovider"]
    files = [str(source) for source in SOURCES]
    told = run(
        ["pytest", *options, "-p", "no:xdist", f"--junitxml={report}", *files], {**environment, "PMT_PROFILE": "smoke"}
    )
    assert report.is_file(), (told.stdout + told.stderr)[-4000:]
    found: dict[str, list[str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        failed = [*case.iter("failure"), *case.iter("error")]
        of = found.setdefault(str(case.get("classname")).removesuffix(".ipynb").rpartition(".")[2], [])
        of.extend(f"{case.get('name')}: {entry.get('message')}\n{entry.text}" for entry in failed)
    assert (told.returncode == 0) == (not any(found.values())), (told.stdout + told.stderr)[-4000:]
    return found


@pytest.fixture(scope="module")
def executed(
    project: Path, environment: dict[str, str], by_nbval: dict[str, list[str]]
) -> subprocess.CompletedProcess[str]:
    """The runner over all sources, after nbval has computed what they draw."""
    return run(["pmtlib.runner", "execute", "--profile", "smoke", "--output-dir", str(project / "pages")], environment)


def test_there_are_notebooks() -> None:
    assert SOURCES


@each
def test_a_source_carries_no_output(source: Path) -> None:
    for number, cell in enumerate(json.loads(source.read_text())["cells"], start=1):
        assert not cell.get("outputs"), f"cell {number} of {source.name} carries an output; clear it"
        assert cell.get("execution_count") is None, f"cell {number} of {source.name} carries a number; clear it"


@each
def test_every_figure_has_a_name_a_caption_an_alternative_text_and_its_numbers(source: Path) -> None:
    """What draws a figure is a cell of its own: MyST-NB numbers a figure only if it is all that the cell puts out."""
    names = []
    for number, cell in enumerate(json.loads(source.read_text())["cells"], start=1):
        code = "".join(cell["source"]) if cell["cell_type"] == "code" else ""
        described = cell["metadata"].get("mystnb", {})
        drawn = re.search(r"\b(\w+_(?:figure|map|curves|grid|distributions)|strip)\((?!.*\bdisplay\b)", code)
        if drawn and "import" not in code and not re.match(r"\w+(, \w+)* = ", code):
            assert "figure" in described, f"cell {number} of {source.name} draws {drawn[1]} without a name"
        if "figure" in described:
            figure = described["figure"]
            names.append(figure["name"])
            assert "alt" not in figure, "MyST-NB looks for it under image"
            assert len(described["image"]["alt"]) > 40, f"cell {number}"
            caption, _, link = figure["caption"].rpartition("\n\n")
            assert len(caption) > 80, f"cell {number}"
            assert re.fullmatch(rf"Data: \[CSV\]\(data/{source.stem}/[a-z0-9-]+\.csv\)", link), f"cell {number}"
            assert "hide-input" in cell["metadata"]["tags"]
    assert names
    assert len(set(names)) == len(names)


@each
def test_a_source_has_the_parts_of_a_section(source: Path) -> None:
    """Question, what was done, limits, the commands that make the page again, and its provenance in a drop-down."""
    cells = json.loads(source.read_text())["cells"]
    prose = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert "**Question.**" in prose
    assert re.search(r"^\*\*(?:What is done here|Who attacks)\.\*\*", prose, re.MULTILINE)
    assert re.search(r"^## (?:In short|What comes out)$", prose, re.MULTILINE)
    assert "\n## Limits\n" in prose
    assert f"\n$ python -m pmtlib.runner execute --only {source.stem}\n" in prose
    if source.stem != "speed":  # times are never the same twice
        assert f"\n$ papermill notebooks/{source.name} OUT.ipynb -p profile paper -p recompute True\n" in prose
    last = cells[-1]
    assert "provenance_table(" in "".join(last["source"])
    assert last["metadata"]["tags"] == ["hide-cell"]
    for cell in cells[:-1]:
        if cell["cell_type"] == "code":
            assert "hide-input" in cell["metadata"]["tags"]


@each
def test_a_source_defines_no_algorithm(source: Path) -> None:
    """Notebooks hold prose, parameters and calls; what computes lives in the package, where it is tested."""
    for number, cell in enumerate(json.loads(source.read_text())["cells"], start=1):
        lines = "".join(cell["source"]).splitlines() if cell["cell_type"] == "code" else []
        assert not [line for line in lines if line.lstrip().startswith(("def ", "class "))], f"cell {number}"


@pytest.mark.parametrize("profile", PROFILES)
def test_each_profile_fits_the_notebooks(profile: str) -> None:
    assert set(runner.read_profile(profile)) == {path.stem for path in SOURCES}


@pytest.mark.parametrize("profile", PROFILES)
def test_the_page_on_filters_has_the_values_of_the_audit(profile: str) -> None:
    """They draw from the same stored results, so that a value of one alone would make the other page out of date."""
    values = runner.read_profile(profile)
    assert values["filters"] == values["audit"]


def test_ruff_finds_nothing_in_the_notebooks(environment: dict[str, str]) -> None:
    for arguments in (["check"], ["format", "--check"]):
        told = run(["ruff", *arguments, "notebooks"], environment)
        assert told.returncode == 0, told.stdout + told.stderr


@pytest.mark.slow
@each
def test_nbval_runs_the_source_as_it_stands(source: Path, by_nbval: dict[str, list[str]]) -> None:
    assert by_nbval[source.stem] == []


@pytest.mark.slow
def test_the_runner_ends_well(executed: subprocess.CompletedProcess[str]) -> None:
    assert executed.returncode == 0, (executed.stdout + executed.stderr)[-4000:]


@pytest.mark.slow
@each
def test_the_runner_executes_the_source(
    source: Path, executed: subprocess.CompletedProcess[str], project: Path
) -> None:
    assert f"{source.stem}: executed with profile smoke" in executed.stdout
    page = json.loads((project / "pages" / source.name).read_text())
    assert any(cell.get("outputs") for cell in page["cells"])
