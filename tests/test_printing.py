"""``make pdf``: the chapters as one page, and the PDF that a Chromium prints of it."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pmtlib import printing, runner
from pmtlib.errors import AssetError, ConfigError
from tests.built import ROOT, toc_entries

PAGE = """<html><head><link href="_static/book.css" rel="stylesheet"></head><body>
<script src="x.js"></script><div id="sidebar">sidebar</div>
<article class="bd-article"><h1 id="top">{title}<a class="headerlink" href="#top">#</a></h1>
<a href="{to}">there</a><a href="#top">up</a><a href="https://example.org/">out</a><a href="_sources/x.md">source</a>
<img src="{image}" alt="x"></article></body></html>"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A built book of two pages, one of them in a folder."""
    html = tmp_path / "html"
    (html / "results").mkdir(parents=True)
    (html / "index.html").write_text(PAGE.format(title="First", to="results/one.html#top", image="_images/a.png"))
    (html / "results" / "one.html").write_text(
        PAGE.format(title="Second", to="../index.html", image="../_images/b.png")
    )
    return html


def test_the_chapters_are_those_of_the_contents() -> None:
    assert printing.chapters(ROOT / "_toc.yml") == toc_entries()
    with pytest.raises(ConfigError, match="cannot be read"):
        printing.chapters(ROOT / "no_toc.yml")


def test_links_between_pages_lead_inside_the_one_page(small: Path) -> None:
    text = printing.one_page(small, ["index", "results/one"])
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids)) == 4
    links = re.findall(r'<a[^>]* href="([^"]+)"', text)
    assert [link for link in links if link.startswith("#") and link[1:] not in ids] == []
    assert "#page-results-one--top" in links
    assert "#page-index" in links
    assert "https://example.org/" in links
    assert not any("_sources" in link for link in links)
    assert re.findall(r'<img[^>]* src="([^"]+)"', text) == ["_images/a.png", "_images/b.png"]
    assert "sidebar" not in text
    assert "x.js" not in text


def test_a_page_that_is_not_built_is_told_of(small: Path) -> None:
    with pytest.raises(ConfigError, match=r"no deviations\.html; build it first: make html"):
        printing.one_page(small, ["index", "deviations"])


def test_without_a_chromium_the_error_is_one_line(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PMT_CHROMIUM", str(tmp_path / "nothing"))
    contents = tmp_path / "_toc.yml"
    contents.write_text("root: index\n")
    with pytest.raises(AssetError, match="no Chromium on the path"):
        printing.pdf(tmp_path / "book.pdf", small, contents)
    assert not (tmp_path / "book.pdf").exists()
    monkeypatch.setattr(printing, "project_dir", lambda: tmp_path)
    (tmp_path / "_build").mkdir()
    small.rename(tmp_path / "_build" / "html")
    done = CliRunner().invoke(runner.app, ["pdf", "--output", str(tmp_path / "book.pdf")])
    assert isinstance(done.exception, AssetError)
    assert len(str(done.exception).splitlines()) == 1


def test_the_book_is_printed(built: tuple[Path, str], tmp_path: Path) -> None:
    if printing.find_chromium() is None:
        pytest.skip("no Chromium on the path (or PMT_CHROMIUM): nothing prints the book")
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make setup")
    html = built[0] / "_build" / "html"
    target = tmp_path / "book.pdf"
    assert printing.pdf(target, html, ROOT / "_toc.yml") == target.stat().st_size > 500_000
    assert not (html / "whole.html").exists()
    content = target.read_bytes()
    assert content.startswith(b"%PDF-")
    packed = re.findall(rb"stream\r?\n(.*?)endstream", content, re.DOTALL)
    whole = content + b"".join(_unpacked(part) for part in packed)
    assert len(re.findall(rb"/Type\s*/Page\b", whole)) > 2 * len(toc_entries())
    # Links from chapter to chapter, and no address of the machine on which it was printed.
    assert b"page-results-abuse" in whole
    assert b"file://" not in whole


def _unpacked(stream: bytes) -> bytes:
    try:
        return zlib.decompress(stream)
    except zlib.error:
        return b""
