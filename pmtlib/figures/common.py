"""What all figures and tables share: colours, table styles, rates, pictures, provenance."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from pmtlib import page_data
from pmtlib.experiments.common import TITLES, Outcome, SectionSettings
from pmtlib.images import UInt8Image
from pmtlib.transform import PMTConfig

# Perceptually even and readable with any colour vision, also in grey print.
COLOURS = "cividis"
CELL: Any = [
    {"selector": "", "props": "font-size: 0.78em"},
    {"selector": "caption", "props": "caption-side: top; text-align: left; padding: 1em 0 0.5em"},
    {"selector": "td", "props": "white-space: nowrap; text-align: right; vertical-align: top; padding: 0.2em 0.35em"},
    {"selector": "th", "props": "text-align: left; vertical-align: top; padding: 0.2em 0.35em"},
]


def percent(line: Mapping[Any, Any]) -> str:
    """A rate with its interval below it, ``99.0<br>[94.8, 99.8]``, in percent (HTML)."""
    return f"{100 * line['accuracy']:.1f}<br>[{100 * line['low']:.1f}, {100 * line['high']:.1f}]"


class Table(Styler):
    """A table in the book's style. On a page of the book a link to its numbers stands below it.

    Attributes:
        address: of the CSV file, relative to the page; None where there is none.
    """

    address: str | None = None

    def _ipython_display_(self) -> None:
        from IPython.display import publish_display_data

        # A line of plain text in place of pandas's own, which has an address in memory that differs from run to run.
        publish_display_data({"text/html": self.to_html(), "text/plain": "a table"})  # type: ignore[no-untyped-call]
        if self.address:
            publish_display_data({"text/markdown": f"Data: [CSV]({self.address})", "text/plain": self.address})  # type: ignore[no-untyped-call]


def styled(frame: pd.DataFrame, caption: str, name: str, data: pd.DataFrame | None = None) -> Table:
    """A table with its caption, in the book's style.

    Args:
        frame: what is shown.
        caption: stands above it, and must do without the text around.
        name: of the file with its numbers, see :func:`pmtlib.page_data.keep`.
        data: the numbers that it was written from; by default those that are read back from its cells.
    """
    # Nothing refers to the ids of cells without a style of their own.
    table = Table(frame, cell_ids=False)
    table.address = page_data.keep(name, page_data.split(frame) if data is None else data)
    # An id made from the caption keeps an executed notebook the same from run to run, and tables apart on one page.
    identity = hashlib.sha256(caption.encode()).hexdigest()[:8]
    table.set_uuid(identity).set_caption(caption).set_table_styles(CELL)
    return table


def picture(axis: Any, image: UInt8Image, title: str, below: str) -> None:
    """A picture (H, W, 3) on an axis, with a title above and text below."""
    axis.imshow(image, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_frame_on(False)
    axis.set_title(title, fontsize=9)
    axis.set_xlabel(below, fontsize=8)


def configuration_table(settings: SectionSettings, variants: Mapping[str, PMTConfig] = MappingProxyType({})) -> Styler:
    """What was drawn and with which seeds, and every value of the transform's configuration.

    Args:
        settings: of the section.
        variants: configurations of variants that the section has too, of which the values that differ are listed.
    """
    drawn = ("pairs", "pair_seed", "calibration_pairs", "cut", "authorised", "noise_seed")
    values = {name: getattr(settings, name) for name in drawn if hasattr(settings, name)}
    values["pairs"] = f"{settings.pairs} a set, or as many as it has"
    plain = settings.pmt.model_dump()
    values |= {f"pmt: {name}": value for name, value in plain.items()}
    for variant, config in variants.items():
        own = {name: value for name, value in config.model_dump().items() if value != plain.get(name)}
        values |= {f"{variant}: {name}": value for name, value in own.items() if name != "variant"}
    frame = pd.DataFrame({"value": [str(value) for value in values.values()]}, index=list(values))
    return styled(frame, "The section's draws and seeds, and the transform's configuration", "configuration")


def provenance_table(outcomes: Iterable[tuple[str, str, Outcome]]) -> Styler:
    """Where every number comes from: one line a stored result (set, row, outcome), or why there is none."""
    lines = []
    for dataset, name, outcome in outcomes:
        title = TITLES.get(dataset, dataset)
        result = outcome.result
        if result is None:
            lines.append((title, name, outcome.note, "", "", "", ""))
            continue
        manifest = result.manifest
        lines.append(
            (
                title,
                name,
                result.key + (f" ({outcome.note})" if outcome.note else ""),
                str(result.data["n"]),
                manifest["date"],
                f"{manifest['hardware']['device']}, torch {manifest['packages']['torch']}",
                f"{manifest['seconds']:.0f} s",
            )
        )
    columns = ["set", "row", "result", "n", "date", "on", "took"]
    caption = "Stored results of this page; n: pairs, or images where there are no pairs"
    return styled(pd.DataFrame(lines, columns=columns), caption, "provenance").hide(axis="index")
