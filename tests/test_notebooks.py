"""Every notebook source: its form, and that it runs, by nbval as a reader would and by the runner, on a few steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pmtlib import runner

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROFILES = ("smoke", "quick", "paper")

each = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """What is computed here goes to a folder of its own; data and weights are those of whoever runs the tests."""
    kept = {key: value for key, value in os.environ.items() if key not in ("PMT_PROFILE", "PMT_PROJECT")}
    return {**kept, "PMT_RESULTS": str(tmp_path / "results"), "IPYTHONDIR": str(tmp_path / "ipython")}


def run(arguments: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=900,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


def test_there_are_notebooks() -> None:
    assert SOURCES


@each
def test_a_source_carries_no_output(source: Path) -> None:
    for number, cell in enumerate(json.loads(source.read_text())["cells"], start=1):
        assert not cell.get("outputs"), f"cell {number} of {source.name} carries an output; clear it"
        assert cell.get("execution_count") is None, f"cell {number} of {source.name} carries a number; clear it"


@each
def test_a_source_defines_no_algorithm(source: Path) -> None:
    """Notebooks hold prose, parameters and calls; what computes lives in the package, where it is tested."""
    for number, cell in enumerate(json.loads(source.read_text())["cells"], start=1):
        lines = "".join(cell["source"]).splitlines() if cell["cell_type"] == "code" else []
        assert not [line for line in lines if line.lstrip().startswith(("def ", "class "))], f"cell {number}"


@pytest.mark.parametrize("profile", PROFILES)
def test_each_profile_fits_the_notebooks(profile: str) -> None:
    assert set(runner.read_profile(profile)) == {path.stem for path in SOURCES}


def test_ruff_finds_nothing_in_the_notebooks(environment: dict[str, str]) -> None:
    run(["ruff", "check", "notebooks"], environment)
    run(["ruff", "format", "--check", "notebooks"], environment)


@pytest.mark.slow
@each
def test_nbval_runs_the_source_as_it_stands(source: Path, environment: dict[str, str]) -> None:
    """nbval cannot pass parameters; PMT_PROFILE takes the place of the profile in the source."""
    options = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=600", "-q", "-p", "no:cacheprovider"]
    run(["pytest", *options, "-p", "no:xdist", str(source)], {**environment, "PMT_PROFILE": "smoke"})


@pytest.mark.slow
@each
def test_the_runner_executes_the_source(source: Path, environment: dict[str, str], tmp_path: Path) -> None:
    arguments = ["execute", "--profile", "smoke", "--only", source.stem, "--output-dir", str(tmp_path / "pages")]
    run(["pmtlib.runner", *arguments], environment)
    assert (tmp_path / "pages" / source.name).is_file()
