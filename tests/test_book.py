"""The book as a reader builds it, with every warning an error, in a copy that holds only what the build may need."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from pmtlib import runner
from tests.built import ROOT, toc_entries

# Not in the reference: the command line has --help, and the parsers of foreign formats serve the networks only.
NOT_IN_REFERENCE = {"cli"}


def test_every_entry_of_the_contents_becomes_a_page_where_the_readme_says(built: tuple[Path, str]) -> None:
    copy, _ = built
    missing = [entry for entry in toc_entries() if not (copy / "_build" / "html" / f"{entry}.html").is_file()]
    assert missing == []
    assert not (copy / "book" / "_build").exists()


def test_nothing_is_executed(built: tuple[Path, str]) -> None:
    assert "execution_mode='off'" in built[1]
    assert "Executing notebook" not in built[1]


def test_every_local_link_and_picture_leads_to_a_file(built: tuple[Path, str]) -> None:
    html = built[0] / "_build" / "html"
    broken = []
    for entry in toc_entries():
        page = html / f"{entry}.html"
        for target in re.findall(r'(?:href|src)="([^"#?]+)', page.read_text()):
            if not re.match(r"(?:[a-z]+:|//)", target) and not (page.parent / target).exists():
                broken.append(f"{entry}: {target}")
    assert broken == []


def test_the_contents_beside_the_pages_are_the_contents_above() -> None:
    link = ROOT / "book" / "_toc.yml"
    assert link.is_symlink()
    assert link.readlink() == Path("../_toc.yml")


def test_the_executed_pages_are_up_to_date() -> None:
    """Fails when a source, its parameters or a stored result has changed since: run ``make notebooks``."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PMT_")}
    done = subprocess.run(
        [sys.executable, "-m", "pmtlib.runner", "check"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_executed_pages_are_small_and_free_of_times_and_paths() -> None:
    pages = sorted((ROOT / "book" / "results").glob("*.ipynb"))
    assert pages
    for page in pages:
        assert page.stat().st_size <= runner.PAGE_LIMIT
        notebook = json.loads(page.read_text())
        assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
        for cell in notebook["cells"]:
            assert set(cell["metadata"]) <= {"tags", "mystnb"}
            assert not [output for output in cell.get("outputs", []) if output["output_type"] == "error"]
            texts = json.dumps([{**output, "data": _text_only(output)} for output in cell.get("outputs", [])])
            assert not re.search(r"/(?:home|Users|root|tmp|work)/\w", texts), page.name


def _text_only(output: dict[str, Any]) -> dict[str, Any]:
    return {kind: value for kind, value in output.get("data", {}).items() if not kind.startswith("image/")}


def test_the_reference_has_every_public_module() -> None:
    package = ROOT / "pmtlib"
    modules = {path.stem for path in package.glob("*.py")} - {"__init__"} - NOT_IN_REFERENCE
    for folder in ("networks", "attacks", "attacks.adaptive", "experiments", "figures", "training", "variants"):
        files = (package / folder.replace(".", "/")).glob("*.py")
        modules |= {f"{folder}.{path.stem}" for path in files} - {f"{folder}.__init__"}
    modules |= {"attacks.adaptive", "experiments", "figures", "training", "variants"}
    public = {module for module in modules if not module.rpartition(".")[2].startswith("_")}
    listed = set(re.findall(r"automodule:: pmtlib\.([\w.]+)", (ROOT / "book" / "api.md").read_text()))
    assert listed == public


def test_the_reference_shows_every_module(built: tuple[Path, str]) -> None:
    page = (built[0] / "_build" / "html" / "api.html").read_text()
    listed = re.findall(r"automodule:: (pmtlib[\w.]*)", (ROOT / "book" / "api.md").read_text())
    assert [name for name in listed if f'id="module-{name}"' not in page] == []
    assert "pmtlib.experiments.common.SectionSettings" in page


def test_every_notebook_has_its_page_in_the_contents() -> None:
    results = {entry.removeprefix("results/") for entry in toc_entries() if entry.startswith("results/")}
    assert results == set(runner.names())
