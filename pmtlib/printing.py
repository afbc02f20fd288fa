"""The built book as one PDF, printed by a Chromium that is on the machine: ``python -m pmtlib.runner pdf``.

The pages of ``_build/html`` become chapters of one long page, in the order of the contents, with links from chapter to
chapter inside it; ``book.css`` says how it looks on paper.
"""

from __future__ import annotations

import os
import posixpath
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import yaml

from pmtlib.errors import AssetError, ConfigError
from pmtlib.paths import project_dir

if TYPE_CHECKING:
    from bs4 import BeautifulSoup, Tag

BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
    "msedge",
)
"""Names by which a Chromium may be found on the path."""

_ELSEWHERE = {
    "darwin": (
        "/Applications/Chromium.app/Contents/MacOS/Chromium",
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
        "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
    ),
    "win32": (
        r"C:\Program Files\Google\Chrome\Application\chrome.exe",
        r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
    ),
}
_TIMEOUT = 300_000  # ms; formulas and some dozens of figures on a slow machine
_WHOLE = "whole.html"


def find_chromium() -> Path | None:
    """A Chromium on this machine: ``PMT_CHROMIUM``, else one on the path or where the platform keeps it, or None."""
    chosen = os.environ.get("PMT_CHROMIUM", "").strip()
    candidates = [chosen] if chosen else [*BROWSERS, *_ELSEWHERE.get(sys.platform, ())]
    return next((Path(found) for name in candidates if (found := shutil.which(name))), None)


def chapters(contents: Path) -> list[str]:
    """The pages of the book in the order of its contents, without ``.html``.

    Args:
        contents: ``_toc.yml``.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        entries = yaml.safe_load(contents.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{contents.name} cannot be read ({' '.join(str(error).split())}); restore it") from None
    return list(_files(entries))


def _files(node: Any) -> Sequence[str]:
    if isinstance(node, dict):
        found = [str(value) for key, value in node.items() if key in ("root", "file")]
        return found + [name for value in node.values() for name in _files(value)]
    return [name for part in node for name in _files(part)] if isinstance(node, list) else []


def one_page(html: Path, names: Sequence[str]) -> str:
    """All pages as one, to be kept beside ``index.html``.

    Ids get their chapter's name in front, since every page has them for itself, and links follow. Scripts other than
    those of the formulas are left out.

    Args:
        html: the folder of the built pages.
        names: the pages, see :func:`chapters`.

    Raises:
        ConfigError: a page is missing, or is no page of a book.
    """
    from bs4 import BeautifulSoup

    first: BeautifulSoup | None = None
    articles: list[Tag] = []
    for name in names:
        file = html / f"{name}.html"
        if not file.is_file():
            raise ConfigError(f"the built book has no {name}.html; build it first: make html")
        page = BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser")
        article = page.select_one("article.bd-article")
        if article is None:
            raise ConfigError(f"{name}.html is no page of a book; build it anew: make html")
        _relocate(article, name, set(names))
        article["id"] = _anchor(name)
        article["class"] = "bd-article pmt-chapter"
        for part in article.select(".headerlink, noscript, .prev-next-area"):
            part.decompose()
        articles.append(article)
        first = first or page
    assert first is not None
    body = first.body
    assert body is not None
    for script in first.select("script"):
        if "mathjax" not in str(script).lower():
            script.decompose()
    body.clear()
    body["class"] = "pmt-print"
    for article in articles:
        for script in article.select("script"):
            script.decompose()
        body.append(article)
    root = first.html
    assert root is not None
    # Paper is white, whatever the reader's screen is set to.
    root["data-theme"] = root["data-mode"] = "light"
    if "mathjax" not in str(first.head).lower():
        found = next((html / "mathjax").glob("*.js"), None)
        if found is not None and first.head is not None:
            first.head.append(first.new_tag("script", src=f"mathjax/{found.name}"))
    return str(first)


def _anchor(page: str, fragment: str = "") -> str:
    start = "page-" + page.replace("/", "-")
    return f"{start}--{fragment}" if fragment else start


def _relocate(article: Tag, page: str, names: set[str]) -> None:
    """Make ids unique in the book, and addresses relative to its top."""
    for part in article.select("[id]"):
        part["id"] = _anchor(page, str(part["id"]))
    for attribute in ("aria-labelledby", "aria-describedby", "for"):
        for part in article.select(f"[{attribute}]"):
            part[attribute] = _anchor(page, str(part[attribute]))
    here = PurePosixPath(page).parent
    for attribute in ("href", "src"):
        for part in article.select(f"[{attribute}]"):
            target = str(part[attribute])
            if "://" in target or target.startswith(("mailto:", "data:")):
                continue
            path, _, fragment = target.partition("#")
            if not path:
                part[attribute] = "#" + _anchor(page, fragment)
                continue
            found = posixpath.normpath(str(here / path))
            linked = found.removesuffix(".html")
            if found.endswith(".html") and linked in names:
                part[attribute] = "#" + _anchor(linked, fragment)
            elif attribute == "href":
                # A download or the index: nothing that a PDF has beside it.
                del part[attribute]
            else:
                part[attribute] = found


def pdf(target: Path, html: Path | None = None, contents: Path | None = None) -> int:
    """Print the built book.

    Args:
        target: the PDF.
        html: the folder of the built pages; ``_build/html`` by default.
        contents: ``_toc.yml``; the project's by default.

    Returns:
        int: the PDF's size in bytes.

    Raises:
        AssetError: there is no Chromium, or no package to drive it.
        ConfigError: the book is not built.
    """
    html = html or project_dir() / "_build" / "html"
    text = one_page(html, chapters(contents or project_dir() / "_toc.yml"))
    executable = find_chromium()
    if executable is None:
        raise AssetError(
            "no Chromium on the path to print the book with; install chromium or Google Chrome, or name one in "
            "PMT_CHROMIUM"
        )
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        raise AssetError("playwright drives Chromium and is not installed; run make setup") from None
    whole = html / _WHOLE
    whole.write_text(text, encoding="utf-8")
    try:
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=executable)
            page = browser.new_page()
            page.goto(whole.resolve().as_uri(), timeout=_TIMEOUT)
            page.evaluate("() => window.MathJax?.startup?.promise")
            target.parent.mkdir(parents=True, exist_ok=True)
            page.pdf(
                path=target,
                format="A4",
                margin={"top": "18mm", "bottom": "18mm", "left": "16mm", "right": "16mm"},
                display_header_footer=True,
                header_template="<span></span>",
                footer_template=(
                    '<div style="font-size:8px;width:100%;text-align:center"><span class="pageNumber"></span></div>'
                ),
                outline=True,
                tagged=True,
            )
            browser.close()
    except Error as error:
        raise AssetError(f"{executable.name} did not print the book ({' '.join(str(error).split())[:200]})") from None
    finally:
        whole.unlink(missing_ok=True)
    return target.stat().st_size
