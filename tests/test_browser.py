"""The built book in a browser: what every page does there, the sliders, a phone's width, and accessibility.

Pages are opened from files, as ``make html`` tells a reader to. Nothing but files may be asked for.
"""

from __future__ import annotations

import functools
import http.server
import itertools
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from pmtlib.printing import find_chromium
from tests.built import toc_entries

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make setup")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed: make setup")

PAGES = [*toc_entries(), "genindex", "search"]
PHONE = 390
"""Width in CSS pixels of a common phone."""

# What a page tells of itself. Boxes that scroll by themselves do not widen the page.
FACTS = """() => ({
  ids: [...document.querySelectorAll("[id]")].map((e) => e.id),
  links: [...document.querySelectorAll("a[href]")].map((e) => e.href),
  images: [...document.images].map((e) => ({src: e.getAttribute("src"), alt: e.getAttribute("alt"),
                                            whole: e.loading === "lazy" || e.naturalWidth > 0})),
})"""
WIDEST = """() => {
  const width = document.documentElement.clientWidth;
  const contained = (e) => {
    for (let box = e.parentElement; box && box !== document.body; box = box.parentElement) {
      const style = getComputedStyle(box);
      if (style.overflowX !== "visible" || style.position === "fixed") return true;
    }
    return false;
  };
  return [...document.querySelectorAll("main *")]
    .filter((e) => e.getBoundingClientRect().right > width + 1 && !contained(e))
    .slice(0, 5).map((e) => `${e.tagName}.${e.className}`);
}"""


@dataclass
class Visit:
    """What came of opening a page."""

    faults: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    phone: tuple[int, list[str]] = (0, [])
    violations: list[str] = field(default_factory=list)
    seconds: float = 0.0


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    executable = find_chromium()
    if executable is None:
        pytest.skip("no Chromium on the path (or PMT_CHROMIUM): the book is not looked at in a browser")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=executable)
        yield started
        started.close()


@pytest.fixture(scope="module")
def html(built: tuple[Path, str]) -> Path:
    return (built[0] / "_build" / "html").resolve()


def watched(page: Any, visit: Visit) -> Any:
    page.on("console", lambda said: visit.faults.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: visit.faults.append(str(error)))
    page.on("requestfailed", lambda request: visit.faults.append(f"not loaded: {request.url}"))
    page.on(
        "request", lambda r: visit.outside.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else None
    )
    return page


# Rows, entries and objects that repeat the first ones; to look at the contrast of all of them takes minutes.
REPEATED = (
    "tbody tr:nth-child(n+4), dl.py ~ dl.py, section section section ~ section ~ section, "
    ".genindextable li:nth-child(n+4), .field-list li:nth-child(n+4), .sig-param:nth-of-type(n+4), "
    ".bd-sidebar-secondary ul ul, .toc-entry .toc-entry .toc-entry"
)


def faults_of(page: Any) -> list[str]:
    """Serious and critical faults that axe-core finds. (It would fetch style sheets, which files do not allow.)"""
    page.evaluate("repeated => document.querySelectorAll(repeated).forEach((e) => e.remove())", REPEATED)
    found = axe.Axe().run(page, None, {"resultTypes": ["violations"], "preload": False}).response["violations"]
    return [
        f"{fault['id']} ({fault['impact']}): {' '.join(node['html'].split())[:150]}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"][:3]
    ]


@pytest.fixture(scope="module")
def visits(browser: Any, html: Path) -> dict[str, Visit]:
    """Every page once: as on a laptop, in the dark, and on a phone."""
    found = {}
    context = browser.new_context(
        viewport={"width": 1280, "height": 900}, color_scheme="light", reduced_motion="reduce"
    )
    for name in PAGES:
        visit = found[name] = Visit()
        started = time.monotonic()
        page = watched(context.new_page(), visit)
        page.goto((html / f"{name}.html").as_uri())
        page.evaluate("() => window.MathJax?.startup?.promise")
        visit.facts = page.evaluate(FACTS)
        page.set_viewport_size({"width": PHONE, "height": 800})
        visit.phone = (page.evaluate("() => document.documentElement.scrollWidth"), page.evaluate(WIDEST))
        for scheme in ("light", "dark"):
            page.evaluate("theme => { document.documentElement.dataset.theme = theme }", scheme)
            visit.violations += [f"{scheme}: {fault}" for fault in faults_of(page)]
        visit.seconds = time.monotonic() - started
        page.close()
    context.close()
    return found


@pytest.mark.parametrize("name", PAGES)
def test_a_page_loads_without_a_fault_and_without_a_network(visits: dict[str, Visit], name: str) -> None:
    assert visits[name].faults == []
    assert visits[name].outside == []


def test_no_link_inside_the_book_is_dead(visits: dict[str, Visit], html: Path) -> None:
    ids = {html / f"{name}.html": set(visit.facts["ids"]) for name, visit in visits.items()}
    dead = []
    for name, visit in visits.items():
        for link in visit.facts["links"]:
            parts = urlsplit(link)
            if parts.scheme != "file":
                continue
            target, fragment = Path(unquote(parts.path)), unquote(parts.fragment)
            if not target.is_file() or (fragment and target in ids and fragment not in ids[target]):
                dead.append(f"{name}: {link.removeprefix(html.as_uri())}")
    assert dead == []


@pytest.mark.parametrize("name", PAGES)
def test_every_picture_loads_and_says_what_it_shows(visits: dict[str, Visit], name: str) -> None:
    for image in visits[name].facts["images"]:
        assert image["whole"], image["src"]
        # Sphinx puts the file's name where nobody has written a text.
        assert image["alt"], image["src"]
        assert not re.search(r"\.(png|jpe?g|webp|svg)$", image["alt"]), f"{image['src']} has no text: see mystnb.image"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_a_phone(visits: dict[str, Visit], name: str) -> None:
    width, widest = visits[name].phone
    assert width <= PHONE, widest


@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_no_serious_fault(visits: dict[str, Visit], name: str) -> None:
    assert visits[name].violations == []


# ------------------------------------------------------------------------------------------------ the page with sliders


@pytest.fixture
def frames(browser: Any, html: Path) -> Iterator[Any]:
    visit = Visit()
    page = watched(browser.new_page(viewport={"width": 1280, "height": 1000}), visit)
    page.goto((html / "interactive.html").as_uri())
    yield page
    page.close()
    assert visit.faults == []
    assert visit.outside == []


def test_the_controls_stand_in_place_of_the_words_that_they_need_scripts(frames: Any) -> None:
    assert frames.locator("#pmt-frames").is_visible()
    assert not frames.locator("#pmt-static").is_visible()


def shown(page: Any) -> tuple[str, str, bytes]:
    """Summary, table, and picture as it is on the screen."""
    return page.inner_text("#pmt-summary"), page.inner_text("#pmt-networks"), page.locator("#pmt-picture").screenshot()


def test_each_control_changes_picture_and_numbers(frames: Any) -> None:
    seen = [shown(frames)]
    for change in (
        lambda: frames.locator("#pmt-steps").fill("2"),
        lambda: frames.locator("#pmt-blur").fill("3"),
        lambda: frames.get_by_label("deep").check(),
    ):
        change()
        seen.append(shown(frames))
    for before, after in itertools.pairwise(seen):
        assert all(old != new for old, new in zip(before, after, strict=True))


def test_the_numbers_shown_are_those_of_the_frame(frames: Any) -> None:
    data = frames.evaluate("() => JSON.parse(document.getElementById('pmt-frames-data').textContent)")
    frames.get_by_label("decoy").check()
    frames.locator("#pmt-steps").fill("4")
    frames.locator("#pmt-blur").fill("1")
    (frame,) = [
        frame
        for frame in data["frames"]
        if (frame["variant"], frame["steps"], frame["sigma"]) == ("decoy", data["steps"][4], data["sigmas"][1])
    ]
    summary, table, _ = shown(frames)
    assert summary.startswith(f"SSIM {frame['ssim']:.2f}.")
    for network in data["networks"]:
        cosine = frame["cosine"][network["name"]]
        (line,) = [row for row in table.splitlines() if row.split()[0] == network["name"]]
        assert f"{cosine:.2f}" in line
        assert line.endswith("yes" if cosine > network["threshold"] else "no")


def test_the_picture_shown_is_the_tile_of_the_frame(frames: Any, html: Path) -> None:
    """Row and column are what the stored order says: the tile, drawn alone at the same size, has the same pixels."""
    frames.get_by_label("deep").check()
    frames.locator("#pmt-steps").fill("6")
    frames.locator("#pmt-blur").fill("2")
    offset = frames.evaluate(
        """() => {
          const picture = document.getElementById("pmt-picture"), style = getComputedStyle(picture);
          const data = JSON.parse(document.getElementById("pmt-frames-data").textContent).sprite;
          const [x, y] = style.backgroundPosition.split(" ").map(parseFloat);
          return [x / 100 * (data.columns - 1), y / 100 * (data.rows - 1)];
        }"""
    )
    data = frames.evaluate("() => JSON.parse(document.getElementById('pmt-frames-data').textContent)")
    place = data["frames"].index(
        next(
            frame
            for frame in data["frames"]
            if (frame["variant"], frame["steps"], frame["sigma"]) == ("deep", data["steps"][6], data["sigmas"][2])
        )
    )
    row, column = divmod(place, data["sprite"]["columns"])
    assert offset == pytest.approx([column, row], abs=0.01)


def test_the_controls_work_from_the_keyboard_and_have_names(frames: Any) -> None:
    frames.get_by_role("radio", name="PMT").focus()
    before = shown(frames)
    frames.keyboard.press("ArrowDown")
    assert frames.get_by_role("radio", name="deep").is_checked()
    frames.keyboard.press("Tab")
    slider = frames.get_by_role("slider", name="Steps K")
    assert slider.evaluate("e => e === document.activeElement")
    frames.keyboard.press("ArrowLeft")
    assert re.fullmatch(r"K\s=\s\d+", slider.get_attribute("aria-valuetext"))
    frames.keyboard.press("Tab")
    blur = frames.get_by_role("slider", name="Attacker’s blur")
    assert blur.evaluate("e => e === document.activeElement")
    frames.keyboard.press("End")
    assert blur.get_attribute("aria-valuetext") == "sigma 2.5 and contrast"
    assert shown(frames) != before


def test_without_scripts_the_page_shows_frames_and_no_controls(browser: Any, html: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((html / "interactive.html").as_uri())
    assert not page.locator("#pmt-frames").is_visible()
    assert page.locator("#pmt-static").is_visible()
    assert page.locator("img[src$='strip.jpg']").is_visible()
    context.close()


# -------------------------------------------------------------------------------------------------- search and formulas


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def served(html: Path) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=html)) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_search_finds_pages_from_files_and_from_a_server(browser: Any, html: Path, served: str) -> None:
    for start in (html.as_uri(), served):
        page = browser.new_page()
        page.goto(f"{start}/search.html?q=reconstruction")
        page.wait_for_selector("#search-results ul.search li a")
        assert page.locator("#search-results a[href*='results/reconstruction.html']").count() >= 1
        page.close()


def test_formulas_are_set_without_a_network(browser: Any, html: Path) -> None:
    page = browser.new_page()
    page.goto((html / "api.html").as_uri())
    page.evaluate("() => MathJax.startup.promise")
    assert page.locator("mjx-container svg").count() == page.locator(".math").count() > 5
    assert page.locator("mjx-merror").count() == 0
    page.close()
