"""The book needs no network to be read, and no button of it leads nowhere."""

from __future__ import annotations

import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import yaml

from tests.built import ROOT

# Release 3.2.2 of the npm package mathjax (Apache-2.0), es5/tex-svg-full.js: TeX in, SVG out, fonts inside.
MATHJAX = "a4354ff94fd868aea0cc6eaaa79a57fda0588646fc46ee3700a349ee0a11cbe6"
MATHJAX_LICENCE = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
# Elements that a browser fetches something for without being asked, and the attributes that say what.
FETCHING = {
    "script": ("src",), "link": ("href",), "img": ("src", "srcset"), "iframe": ("src",), "source": ("src", "srcset"),
    "video": ("src", "poster"), "audio": ("src",), "embed": ("src",), "object": ("data",), "use": ("href",),
}  # fmt: skip
NAMING = {"canonical", "license", "author", "me"}
"""Relations of a link that name an address and fetch nothing."""


class _Fetched(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "link" and set((values.get("rel") or "").split()) & NAMING:
            return
        self.found += [values[name] or "" for name in FETCHING.get(tag, ()) if name in values]


def test_mathjax_is_the_published_file_with_its_licence() -> None:
    folder = ROOT / "book" / "_extra" / "mathjax"
    assert hashlib.sha256((folder / "tex-svg-full.js").read_bytes()).hexdigest() == MATHJAX
    assert hashlib.sha256((folder / "LICENSE").read_bytes()).hexdigest() == MATHJAX_LICENCE
    assert "Apache License" in (folder / "LICENSE").read_text()


def test_no_page_fetches_anything_from_elsewhere(built: tuple[Path, str]) -> None:
    html = built[0] / "_build" / "html"
    pages = sorted(html.rglob("*.html"))
    assert len(pages) > 15
    outside = []
    for page in pages:
        parser = _Fetched()
        text = page.read_text(encoding="utf-8")
        parser.feed(text)
        outside += [f"{page.name}: {address}" for address in parser.found if re.match(r"(?:[a-z]+:)?//", address)]
        outside += [
            f"{page.name}: {found}"
            for found in re.findall(r"THEBE_JS_URL|x-thebe-config|sphinx-thebe|require(?:\.min)?\.js", text)
        ]
    assert outside == []


def test_no_style_sheet_fetches_anything_from_elsewhere(built: tuple[Path, str]) -> None:
    html = built[0] / "_build" / "html"
    outside = [
        f"{sheet.name}: {found}"
        for sheet in html.rglob("*.css")
        for found in re.findall(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')]+)""", sheet.read_text("utf-8"))
    ]
    assert outside == []


def test_formulas_use_the_file_beside_the_pages(built: tuple[Path, str]) -> None:
    html = built[0] / "_build" / "html"
    (source,) = re.findall(r'<script[^>]* src="([^"?]*mathjax[^"?]*)', (html / "api.html").read_text())
    assert (html / source).resolve() == (html / "mathjax" / "tex-svg-full.js").resolve()


def test_buttons_exist_only_for_what_exists(built: tuple[Path, str]) -> None:
    configuration = yaml.safe_load((ROOT / "_config.yml").read_text())
    assert configuration["repository"]["url"] == ""
    wanted = {**configuration["html"], **configuration["launch_buttons"]}
    buttons = (
        "use_edit_page_button",
        "use_repository_button",
        "use_issues_button",
        "binderhub_url",
        "colab_url",
        "thebe",
    )
    assert not any(wanted[name] for name in buttons)
    for page in (built[0] / "_build" / "html").rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r'class="[^"]*\bbtn-(?:source-(?:edit|issues|repository)|launch)', text), page.name
        assert not re.search(r"dropdown-(?:launch|source)-buttons", text), page.name
