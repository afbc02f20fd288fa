"""The book as a reader builds it, with every warning an error, in a copy that holds only what the build may need."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pmtlib import publication, runner

ROOT = Path(__file__).resolve().parent.parent

# Not in the reference: the command line has --help, and the parsers of foreign formats serve the networks only.
NOT_IN_REFERENCE = {"cli"}


def toc_entries() -> list[str]:
    found: list[str] = []

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                if key in ("root", "file"):
                    found.append(value)
                else:
                    walk(value)
        elif isinstance(node, list):
            for part in node:
                walk(part)

    walk(yaml.safe_load((ROOT / "_toc.yml").read_text()))
    return found


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What ``jupyter-book build book/`` makes of a copy, and what it printed."""
    copy = tmp_path_factory.mktemp("book")
    for name in ("_config.yml", "_toc.yml", "CHANGELOG.md"):
        shutil.copy(ROOT / name, copy / name)
    shutil.copytree(ROOT / "book", copy / "book", symlinks=True, ignore=shutil.ignore_patterns("_build"))
    command = [Path(sys.executable).parent / "jupyter-book", "build", "book/", "-n", "-W", "--keep-going"]
    done = subprocess.run(
        command, cwd=copy, capture_output=True, text=True, stdin=subprocess.DEVNULL, env={**os.environ, "NO_COLOR": "1"}
    )
    output = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    problems = [line for line in output.splitlines() if re.search(r"\b(WARNING|ERROR|CRITICAL)\b", line)]
    assert done.returncode == 0, "\n".join(problems) or output[-3000:]
    return copy, output


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


def test_every_picture_of_a_page_says_in_words_what_it_shows(built: tuple[Path, str]) -> None:
    html = built[0] / "_build" / "html"
    silent = []
    for entry in toc_entries():
        text = (html / f"{entry}.html").read_text()
        for picture in re.findall(r"<img\b[^>]*>", text.partition('<article class="bd-article"')[2]):
            if len((re.search(r'alt="([^"]*)"', picture) or [""] * 2)[1]) < 40:
                silent.append(f"{entry}: {picture[:120]}")
    assert silent == []


def test_every_figure_and_table_has_its_numbers_beside_it(built: tuple[Path, str]) -> None:
    """A table's link is right below it, a figure's in its legend; the build fails where a file is not there."""
    for page in sorted((ROOT / "book" / "results").glob("*.ipynb")):
        cells = json.loads(page.read_text())["cells"]
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        for output, following in zip(outputs, [*outputs[1:], {}], strict=True):
            if "<table" in "".join(output.get("data", {}).get("text/html", "")):
                below = "".join(following.get("data", {}).get("text/markdown", ""))
                assert re.fullmatch(rf"Data: \[CSV\]\(data/{page.stem}/[a-z0-9-]+\.csv\)", below), page.name
        html = (built[0] / "_build" / "html" / "results" / f"{page.stem}.html").read_text()
        linked = {Path(target).name for target in re.findall(r'download="" href="([^"]+\.csv)"', html)}
        # The claims stand on the front page.
        published = {path.name for path in (page.parent / "data" / page.stem).glob("*.csv")} - {"claims.csv"}
        assert linked == published
        assert len(published) >= html.count("<figure")


def test_the_front_page_has_every_claim_of_the_pages(built: tuple[Path, str]) -> None:
    front = (built[0] / "_build" / "html" / "index.html").read_text()
    table = front.partition('class="claims')[2].partition("</table>")[0]
    folder = ROOT / "book" / "results"
    published = [line for name in publication.SECTIONS for line in publication.read_claims(folder, name)]
    assert table.count("<tr") == len(published) + 1
    assert table.count("<strong>does not hold") == sum(
        line["verdict"].startswith("does not hold") for line in published
    )
    assert {line["verdict"] for line in published} & {"holds", "does not hold"}


def test_the_provenance_lists_every_stored_result(built: tuple[Path, str]) -> None:
    page = (built[0] / "_build" / "html" / "provenance.html").read_text()
    stored = [path.relative_to(ROOT / "results").with_suffix("") for path in (ROOT / "results").rglob("*.json")]
    assert stored
    assert [name for name in stored if f'<span class="pre">{name.as_posix()}</span>' not in page] == []


def test_make_html_builds_no_book_of_pages_that_are_out_of_date() -> None:
    """The order of what ``make html`` runs: a check that fails ends it."""
    done = subprocess.run(["make", "-n", "html"], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if "runner check" in line or "jupyter-book build" in line]
    assert ["runner check" in line for line in lines] == [True, False]


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
