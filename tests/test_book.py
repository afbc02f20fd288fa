"""The book as a reader builds it, with every warning an error, in a copy that holds only what the build may need."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from pmtlib import book_tables, page_data, publication, runner, transform, zoo
from pmtlib.figures import diagrams
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


# The pages of prose
# ------------------

PROSE = ("method", "threat-model", "related-work", "settings", "limits", "glossary", "cite")


def page(name: str) -> str:
    return (ROOT / "book" / f"{name}.md").read_text("utf-8")


def find(name: str) -> Any:
    """What a dotted name of the package stands for."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize("name", PROSE)
def test_every_name_of_the_package_in_a_page_exists(name: str) -> None:
    for target in re.findall(r"\{py:\w+\}`(?:[^`<]*<)?~?(pmtlib[\w.]*)", page(name)):
        assert find(target) is not None, target


def test_the_steps_that_the_method_names_exist() -> None:
    rows = [line for line in page("method").splitlines() if line.startswith("|") and "`_" in line]
    steps = set(re.findall(r"`(_\w+)`", "\n".join(rows))) | {"optimise", "step", "finish"}
    assert {"_start", "_features", "_error", "step", "_draw_augmentation", "_aggregate", "_direction"} <= steps
    assert [step for step in steps if not callable(getattr(transform.Run, step, None))] == []
    for written in re.findall(r"`(PMTConfig\([^`]*\))`", page("method")):
        assert isinstance(eval(written, {"PMTConfig": transform.PMTConfig}), transform.PMTConfig)


def test_the_equations_of_the_method_have_the_numbers_of_the_paper(built: tuple[Path, str]) -> None:
    assert re.findall(r"^\$\$ \((eq-\d+)\)$", page("method"), re.MULTILINE) == [f"eq-{n}" for n in range(1, 12)]
    html = (built[0] / "_build" / "html" / "method.html").read_text()
    numbers = re.findall(r'id="equation-eq-(\d+)">\s*<span class="eqno">\((\d+)\)', html)
    assert numbers == [(str(n), str(n)) for n in range(1, 12)]


def test_the_example_of_the_method_runs() -> None:
    if not zoo.available("mobilefacenet"):
        pytest.skip("the weights of mobilefacenet cannot be had")
    (example,) = re.findall(r"```python\n(.*?)```", page("method"), re.DOTALL)
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(example, names)
    assert names["upload"].shape == names["photograph"].shape
    # It started from noise, whose features are at a relative error of about 1.
    assert 0 < names["result"].error.item() < 0.5
    assert len(printed.getvalue().splitlines()) == 2


def test_every_entry_of_the_bibliography_is_cited_and_every_citation_has_one() -> None:
    entries = re.findall(r"^@\w+\{([\w-]+),", (ROOT / "book" / "references.bib").read_text("utf-8"), re.MULTILINE)
    assert len(entries) == len(set(entries))
    pages = [*(ROOT / "book").glob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")]
    found = re.findall(r"\{cite:\w+\}`([^`]+)`", "\n".join(file.read_text("utf-8") for file in pages))
    cited = {key.strip() for keys in found for key in keys.split(",")}
    assert cited == set(entries)


def test_every_entry_of_the_bibliography_says_who_what_when_and_where() -> None:
    text = (ROOT / "book" / "references.bib").read_text("utf-8")
    for entry in re.split(r"^@", text, flags=re.MULTILINE)[1:]:
        fields = set(re.findall(r"^\s+(\w+)\s*=", entry, re.MULTILINE))
        assert {"author", "title", "year"} <= fields, entry
        assert fields & {"journal", "booktitle", "institution", "publisher", "eprint"}, entry


# Percentages in prose that are not results of ours.
NOT_OURS = {
    "method": {"50%": "what acc is not"},
    "settings": {"95%": "the level of an interval"},
    "limits": {},
}


@pytest.mark.parametrize("name", PROSE)
def test_no_percentage_of_ours_is_typed(name: str) -> None:
    prose = re.sub(r"```.*?```|`[^`]*`", "", page(name), flags=re.DOTALL)
    assert set(re.findall(r"\d[\d.,]*\s?%", prose)) <= set(NOT_OURS.get(name, {}))


@pytest.mark.parametrize("name", sorted(book_tables.TABLES))
def test_the_tables_of_the_pages_are_what_the_code_says(name: str) -> None:
    """Fails when a card, a calibration or a stored result has changed since: ``python -m pmtlib.runner tables``."""
    assert (book_tables.folder() / f"{name}.md").read_text("utf-8") == book_tables.TABLES[name]()
    included = "\n".join(path.read_text("utf-8") for path in (ROOT / "book").glob("*.md"))
    assert f"_tables/{name}.md" in included


def test_no_table_is_left_over() -> None:
    assert {file.stem for file in book_tables.folder().glob("*")} == set(book_tables.TABLES)


def test_the_papers_choices_are_of_fields_that_there_are() -> None:
    assert set(book_tables.PAPER_CHOICES) <= set(transform.PMTConfig.model_fields)
    assert set(book_tables.PUBLISHED) <= set(zoo.CARDS)


def test_a_table_escapes_bars_and_refuses_a_line_of_another_length() -> None:
    assert page_data.markdown(["a", "b"], [["1|2", "3"]]) == "| a | b |\n| --- | --- |\n| 1\\|2 | 3 |\n"
    with pytest.raises(ValueError, match="1 cells for 2 columns"):
        page_data.markdown(["a", "b"], [["1"]])


@pytest.mark.parametrize("name", sorted(diagrams.DRAWINGS))
def test_a_drawing_is_what_the_code_draws_and_keeps_inside_its_frame(name: str) -> None:
    """Fails when the code has changed since: ``python -m pmtlib.runner tables``."""
    content = diagrams.path(name).read_text("utf-8")
    drawing = diagrams.DRAWINGS[name]()
    assert content == drawing.svg()
    root = ElementTree.fromstring(content)
    space = "{http://www.w3.org/2000/svg}"
    assert root.find(f"{space}title") is not None
    boxes = [box for box in root.iter(f"{space}rect") if box.get("x") is not None]
    assert boxes
    for box in boxes:
        left, top, width, height = (float(box.get(side, "nan")) for side in ("x", "y", "width", "height"))
        assert left >= 0
        assert top >= 0
        assert left + width <= diagrams.WIDTH
        assert top + height <= drawing.height
    for text in root.iter(f"{space}text"):
        # Half of the width of the widest letters that a usual font has at this size, so that words stay in the frame.
        half = len("".join(text.itertext())) * 13 * 0.52 / (2 if text.get("text-anchor") == "middle" else 1)
        middle = float(text.get("x", "nan"))
        assert middle + half * (0 if text.get("text-anchor") == "end" else 1) <= diagrams.WIDTH + 1, text.text
        assert middle - half * (0 if text.get("text-anchor") == "start" else 1) >= -1, text.text


def test_every_drawing_is_shown_with_words_for_who_cannot_see_it() -> None:
    figures = re.findall(r"```\{figure\} (\S+)\n(.*?)\n\n(.*?)```", "".join(map(page, PROSE)), re.DOTALL)
    assert {target for target, _, _ in figures} == {f"_static/{name}.svg" for name in diagrams.DRAWINGS}
    for target, options, caption in figures:
        assert re.search(r"^:alt: .{40,}", options, re.MULTILINE), target
        assert len(caption) > 100, target


def test_the_citation_is_that_of_the_citation_file() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    written = page("cite")
    for part in (citation["title"], citation["version"], citation["license"]):
        assert str(part) in written
    paper = citation["preferred-citation"]
    assert all(str(paper[field]) in written for field in ("title", "doi", "journal", "year"))
    assert all(author["family-names"] in written for author in paper["authors"])
