"""The book's drawings: who holds what, the way of an upload, the optimisation. SVG without a library.

``python -m pmtlib.runner tables`` writes them into ``book/_static``. They have paper of their own, light or dark as
the page is, so that they can be read wherever a viewer does not say which; colours are those of Okabe and Ito, and
nothing is told by colour alone. They are narrow, to be read on a phone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Literal
from xml.sax.saxutils import escape

from pmtlib.images import write_atomic
from pmtlib.paths import project_dir

Kind = Literal["plain", "user", "service", "filter", "attacker"]
Arrow = Literal["line", "dashed"]

WIDTH = 400
"""Of every drawing, in its own units: about the pixels of a phone."""
_LINE = 16

_STYLE = """
text { font-family: system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; font-size: 13px; }
.paper { fill: #ffffff; }
.ink { fill: #1a1a1a; }
.head { font-weight: 600; }
.small { font-size: 12px; }
.line { stroke: #1a1a1a; stroke-width: 1.4; fill: none; }
.tip { fill: #1a1a1a; }
.dashed { stroke-dasharray: 5 4; }
.plain { fill: #f4f4f4; stroke: #6b6b6b; stroke-width: 1.2; }
.user { fill: #e3f0fa; stroke: #0072b2; stroke-width: 1.6; }
.service { fill: #e2f4ee; stroke: #007a5a; stroke-width: 1.6; }
.filter { fill: #fff3d6; stroke: #9a6700; stroke-width: 2.4; }
.attacker { fill: #fde9dc; stroke: #b34700; stroke-width: 1.6; stroke-dasharray: 5 3; }
.zone { fill: none; stroke: #8a8a8a; stroke-width: 1; stroke-dasharray: 2 3; }
@media screen and (prefers-color-scheme: dark) {
.paper { fill: #14181e; }
.ink { fill: #f0f0f0; }
.line { stroke: #f0f0f0; }
.tip { fill: #f0f0f0; }
.plain { fill: #2a2f36; stroke: #9aa0a6; }
.user { fill: #12314a; stroke: #56b4e9; }
.service { fill: #0f3a2e; stroke: #3fc79a; }
.filter { fill: #43350e; stroke: #e6b325; }
.attacker { fill: #472410; stroke: #f0894a; }
}
"""


class Drawing:
    """An SVG that grows by boxes, arrows and words.

    In words, ``E_c`` sets the letter after the underscore lower, and ``|`` begins a new line.

    Args:
        title: what it shows, for who cannot see it.
        description: the same in full.
        height: in units of its own; the width is :data:`WIDTH`.
    """

    def __init__(self, title: str, description: str, height: int) -> None:
        self.title, self.description, self.height = title, description, height
        self.parts: list[str] = []

    def words(self, x: float, y: float, text: str, style: str = "", anchor: str = "middle") -> None:
        """Lines of text, the middle of the first at ``y``."""
        for place, line in enumerate(text.split("|")):
            low = re.sub(
                r"_(\w)", r'<tspan dy="4" font-size="10">\1</tspan><tspan dy="-4">&#8203;</tspan>', escape(line)
            )
            self.parts.append(
                f'<text class="ink {style}" x="{x:g}" y="{y + 4.5 + _LINE * place:g}" '
                f'text-anchor="{anchor}">{low}</text>'
            )

    def box(self, x: float, y: float, width: float, height: float, text: str, kind: Kind = "plain") -> None:
        """A box with its words in the middle; ``x`` and ``y`` are of its upper left corner."""
        lines = text.count("|") + 1
        self.parts.append(f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6"/>')
        self.words(x + width / 2, y + height / 2 - _LINE * (lines - 1) / 2, text)

    def zone(self, x: float, y: float, width: float, height: float, text: str) -> None:
        """A place with its name at the upper left."""
        self.parts.append(f'<rect class="zone" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="8"/>')
        self.words(x + 8, y + 14, text, "head small", "start")

    def arrow(self, *points: tuple[float, float], style: Arrow = "line", tip: bool = True) -> None:
        """A line through points, with a tip at the last."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        extra = " dashed" if style == "dashed" else ""
        end = ' marker-end="url(#tip)"' if tip else ""
        self.parts.append(f'<polyline class="line{extra}" points="{path}"{end}/>')

    def svg(self) -> str:
        """The file's text."""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height}" width="{WIDTH}" '
            f'height="{self.height}" role="img" aria-labelledby="title description">\n'
            f'<title id="title">{escape(self.title)}</title>\n'
            f'<desc id="description">{escape(self.description)}</desc>\n'
            f"<style>{_STYLE}</style>\n"
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            '<path class="tip" d="M0,0 L8,4 L0,8 z"/></marker></defs>\n'
            f'<rect class="paper" width="{WIDTH}" height="{self.height}" rx="8"/>\n'
            + "\n".join(self.parts)
            + "\n</svg>\n"
        )


def system() -> Drawing:
    """What is uploaded, features or an image, and where the filter stands."""
    drawing = Drawing(
        "Two ways to use a face recognition service, with the filter in both",
        "Left: the user filters the photograph, runs the shared shallow model and uploads features; the service runs "
        "the rest of the network. Right: the user filters the photograph and uploads an image; the service runs the "
        "whole network. In both the service compares an embedding with an enrolled one.",
        492,
    )
    drawing.words(102, 18, "A. Features uploaded", "head")
    drawing.words(298, 18, "B. Image uploaded", "head")
    drawing.zone(8, 34, 384, 214, "User")
    drawing.zone(8, 284, 384, 200, "Service")
    for left in (17, 213):
        middle = left + 85
        drawing.box(left, 60, 170, 30, "photograph x", "user")
        drawing.arrow((middle, 90), (middle, 106))
        drawing.box(left, 108, 170, 44, "PMT filter, uses E_c:|x becomes x̃", "filter")
    drawing.arrow((102, 152), (102, 178))
    drawing.box(17, 180, 170, 44, "shallow model E_c,|shared (first units)", "service")
    drawing.arrow((102, 224), (102, 310))
    drawing.words(112, 267, "features z̃", "head", "start")
    drawing.arrow((298, 152), (298, 310))
    drawing.words(308, 267, "image x̃", "head", "start")
    drawing.box(17, 312, 170, 44, "server model E_s,|kept (the other units)", "service")
    drawing.box(213, 312, 170, 44, "whole network:|E_c, then E_s", "service")
    for left in (17, 213):
        middle = left + 85
        drawing.arrow((middle, 356), (middle, 372))
        drawing.box(left, 374, 170, 30, "embedding", "service")
        drawing.arrow((middle, 404), (middle, 420))
        drawing.box(left, 422, 170, 50, "cosine with the enrolled|embedding above κ?", "service")
    return drawing


def flow() -> Drawing:
    """From training to verification, and what each kind of attacker gets hold of on the way."""
    drawing = Drawing(
        "The way of an upload, and where attackers stand",
        "Five steps from top to bottom: the service trains a network and cuts it, shares the shallow model, the user "
        "filters, uploads, and is verified. Beside them, attackers: who holds the shared model can invert, train "
        "reconstruction and translate; who can run the filter can learn from its output; who holds uploads can look, "
        "filter, read attributes, recognise with other networks, link and average.",
        500,
    )
    drawing.words(104, 18, "What happens", "head")
    drawing.words(308, 18, "Who can attack with it", "head")
    steps: list[tuple[int, str, Kind]] = [
        (36, "1. Service trains a network|and cuts it: E_c and E_s", "service"),
        (126, "2. Service shares E_c|with every user", "service"),
        (216, "3. User filters:|x becomes x̃", "filter"),
        (306, "4. User uploads x̃ as 8-bit|image, or z̃ = E_c(x̃)", "user"),
        (416, "5. Service compares with|the enrolled embedding", "service"),
    ]
    for top, text, kind in steps:
        drawing.box(10, top, 188, 54, text, kind)
    for (above, _, _), (below, _, _) in pairwise(steps):
        drawing.arrow((104, above + 54), (104, below - 2))
    attackers = [
        (110, 84, "holds E_c: inverts,|learns to rebuild faces,|translates features to|networks of their own"),
        (206, 74, "runs the filter on other|people: learns the way|back from x̃ to x"),
        (
            292,
            116,
            "holds uploads: looks,|filters, reads attributes,|recognises with other|"
            "networks, links uploads,|averages several",
        ),
    ]
    for y, height, told in attackers:
        drawing.box(222, y, 168, height, told, "attacker")
    for y in (153, 243, 333):
        drawing.arrow((198, y), (220, y), style="dashed")
    drawing.words(306, 450, "Nobody here sees x or E_s;|other photographs of the|person may be enrolled.", "small")
    return drawing


def loop() -> Drawing:
    """One step of the optimisation, and what repeats."""
    drawing = Drawing(
        "The loop of PMT",
        "The photograph x and the candidate, which starts as noise, get the same random augmentation T and go through "
        "the shared shallow model. The outputs of all shared units are pooled and joined to z and z-tilde. Their "
        "squared distance J has a gradient in the pixels of the candidate. It is scaled and smoothed by a kernel; a "
        "step downhill, clipped to the range of pixels, gives the next candidate. This repeats K times.",
        520,
    )
    drawing.box(16, 14, 150, 44, "photograph x|(fixed)", "user")
    drawing.box(206, 14, 150, 44, "candidate x̃|(starts as noise)", "filter")
    for middle in (91, 281):
        drawing.arrow((middle, 58), (middle, 78))
    drawing.box(16, 80, 340, 32, "T: the same draw of noise for both", "plain")
    for middle in (91, 281):
        drawing.arrow((middle, 112), (middle, 132))
    drawing.box(16, 134, 340, 44, "shared shallow model E_c:|outputs of every unit 1 to L", "service")
    for middle in (91, 281):
        drawing.arrow((middle, 178), (middle, 198))
    drawing.box(16, 200, 340, 32, "average pooling, joined to one vector", "plain")
    drawing.arrow((91, 232), (91, 264), (152, 264), (152, 288))
    drawing.words(82, 250, "z", "head", "end")
    drawing.arrow((281, 232), (281, 264), (220, 264), (220, 288))
    drawing.words(290, 250, "z̃", "head", "start")
    drawing.box(86, 290, 200, 44, "distance J between z̃ and z,|one term for each service", "plain")
    drawing.arrow((186, 334), (186, 354))
    drawing.box(86, 356, 200, 44, "gradient in the pixels of x̃,|divided by its size", "plain")
    drawing.arrow((186, 400), (186, 420))
    drawing.box(86, 422, 200, 30, "smoothing with kernel W", "plain")
    drawing.arrow((186, 452), (186, 468))
    drawing.box(86, 470, 200, 36, "step α downhill, clip to [0, 1]", "filter")
    drawing.arrow((286, 488), (382, 488), (382, 36), (358, 36))
    drawing.words(374, 390, "K times", "head", "end")
    return drawing


DRAWINGS: Mapping[str, Callable[[], Drawing]] = MappingProxyType({"system": system, "flow": flow, "loop": loop})
"""Every drawing by its name: ``book/_static/<name>.svg``."""


def path(name: str) -> Path:
    """Where a drawing is kept."""
    return project_dir() / "book" / "_static" / f"{name}.svg"


def write() -> list[Path]:
    """Write every drawing; returns where."""
    for name, draw in DRAWINGS.items():
        write_atomic(path(name), draw().svg().encode())
    return [path(name) for name in DRAWINGS]
