"""Tables and figures of Section 6.8, scalability. They compute nothing."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from pandas.io.formats.style import Styler

from pmtlib.experiments.common import TITLES, Outcome, paper_table, with_interval
from pmtlib.experiments.scalability import ScalabilitySettings, cost_lines
from pmtlib.experiments.variants import CALIBRATED
from pmtlib.figures.common import COLOURS, percent, styled
from pmtlib.page_data import keep, slug

_ENDS = ("seconds", "seconds_low", "seconds_high")


def scalability_table(
    frame: pd.DataFrame, dataset: str, settings: ScalabilitySettings, threshold: str = CALIBRATED
) -> Styler:
    """Table 9 on one data set: combinations down, networks across, authorised cells in bold."""
    part = frame[(frame["dataset"] == dataset) & (frame["threshold"] == threshold)]
    rows: dict[str, dict[str, str]] = {}
    own = set()
    for line in part.to_dict("records"):
        column = _numbered(settings)[line["network"]]
        rows.setdefault(line["combination"], {})[column] = percent(line)
        if line["role"] == "authorised":
            own.add((line["combination"], column))
    table = pd.DataFrame.from_dict(rows, orient="index").fillna("–")
    table = table[[name for name in _numbered(settings).values() if name in table]]
    table.index.name, table.columns.name = "authorised", "evaluated"
    kappa = f"κ = {settings.kappa}" if threshold != CALIBRATED else "each network's own threshold"
    count = int(part["n"].max()) if len(part) else 0

    def emphasis(shown: pd.DataFrame) -> pd.DataFrame:
        marked = shown.copy()
        for row in shown.index:
            for column in shown.columns:
                marked.loc[row, column] = "font-weight: bold" if (row, column) in own else ""
        return marked

    caption = f"{TITLES.get(dataset, dataset)}: accuracy (Eq. 10) in percent, 95% Wilson interval; {kappa}; n = {count}"
    return styled(table, caption, slug("table 9", dataset, threshold), part).apply(emphasis, axis=None)


def paper_table9(dataset: str) -> Styler:
    """The paper's block of Table 9, as printed."""
    content = paper_table("table9")
    symbol = {name: chr(ord("①") + place) for place, name in enumerate(content["columns"])}
    rows = {
        "+".join(symbol[name] for name in row["authorised"]): [f"{value:.1f}" for value in row["accuracy"]]
        for row in content["datasets"][dataset]
    }
    columns = [f"{symbol[name]} {name}" for name in content["columns"]]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    caption = f"{TITLES[dataset]}: the paper's Table 9, percent; its own networks; most cells fit counts of 104 pairs"
    return styled(table, caption, slug("paper table 9", dataset))


def _numbered(settings: ScalabilitySettings) -> Mapping[str, str]:
    return {name: f"{chr(ord('①') + place)} {name}" for place, name in enumerate(settings.networks)}


def scalability_heat_map(frame: pd.DataFrame, settings: ScalabilitySettings) -> Figure:
    """Accuracy at calibrated thresholds, a panel a data set; authorised cells are outlined."""
    part = frame[frame["threshold"] == CALIBRATED] if len(frame) else frame
    keep("heat-map", part)
    sets = list(dict.fromkeys(part["dataset"])) if len(part) else []
    figure, axes = plt.subplots(
        1, max(len(sets), 1), figsize=(1.2 + 4.8 * max(len(sets), 1), 4.6), squeeze=False, layout="constrained"
    )
    for place, (axis, dataset) in enumerate(zip(axes[0], sets, strict=False)):
        block = part[part["dataset"] == dataset]
        rows = list(dict.fromkeys(block["combination"]))
        columns = [name for name in settings.networks if name in set(block["network"])]
        grid = block.pivot(index="combination", columns="network", values="accuracy").reindex(rows)[columns]
        sns.heatmap(
            100 * grid, ax=axis, vmin=0, vmax=100, cmap=COLOURS, annot=True, fmt=".0f",
            cbar=place == len(sets) - 1, cbar_kws={"label": "accuracy, Eq. 10 (%)"},
        )  # fmt: skip
        for line in block[block["role"] == "authorised"].to_dict("records"):
            corner = (columns.index(line["network"]) + 0.06, rows.index(line["combination"]) + 0.06)
            # The map is bright where values are high: an outline must show on both ends of it.
            edge = "black" if line["accuracy"] > 0.6 else "white"
            axis.add_patch(Rectangle(corner, 0.88, 0.88, fill=False, edgecolor=edge, linewidth=2))
        axis.set_title(TITLES.get(str(dataset), str(dataset)))
        axis.set_xlabel("evaluated network")
        axis.set_ylabel("authorised together" if place == 0 else "")
        axis.tick_params(axis="y", rotation=0)
        axis.set_xticklabels(
            [_numbered(settings)[name] for name in columns], rotation=35, ha="right", rotation_mode="anchor"
        )
    plt.close(figure)
    return figure


def cost_table(outcome: Outcome) -> Styler | None:
    """Seconds of an image-step against the number of authorised networks; None without a result."""
    if outcome.result is None:
        return None
    frame = cost_lines(outcome)
    rows = {
        int(line["members"]): {
            "networks": line["networks"],
            "ms an image-step": with_interval({key: 1000 * line[key] for key in _ENDS}, "seconds", 1),
            "relative to the first alone": with_interval(line, "of_first", 1),
            "relative to the sum of each alone": with_interval(line, "of_sum"),
        }
        for line in frame.to_dict("records")
    }
    hardware = outcome.result.manifest["hardware"]
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index.name = "M"
    machine = f"{hardware['device']}, {hardware['torch_threads']} thread(s)"
    rounds = int(frame["rounds"].max())
    caption = (
        f"Time of a step for M authorised networks on {machine}: median of {rounds} rounds [lowest, highest]; ratios "
        "within a round"
    )
    return styled(table, caption, "cost", frame)
