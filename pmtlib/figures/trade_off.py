"""Figures and tables of Section 6.6, the trade-off between privacy and utility. They compute nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import colormaps
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from pmtlib import metrics
from pmtlib.experiments.common import TITLES
from pmtlib.experiments.trade_off import (
    ACCURACY,
    AUC,
    COMPARISONS,
    EER,
    ORIGINALS,
    RANK_1,
    RANK_5,
    UPLOADS,
    TradeOffBlock,
    TradeOffSettings,
    threshold_set,
)
from pmtlib.experiments.variants import PAPER
from pmtlib.figures.common import COLOURS, styled
from pmtlib.figures.common import provenance_table as _provenance_table
from pmtlib.page_data import keep, slug

_HEADINGS = {
    AUC: "AUC",
    EER: "EER",
    ACCURACY: "accuracy over folds",
    "tar_far_1e2": "TAR, FAR 10⁻²",
    "false_far_1e2": "false acceptances",
    "tar_far_1e3": "TAR, FAR 10⁻³",
    "false_far_1e3": "false acceptances ",
    RANK_1: "rank 1",
    RANK_5: "rank 5",
}
_MARKERS = ("o", "s", "D")


def trade_off_figure(lines: pd.DataFrame, control: pd.DataFrame) -> Figure:
    """Fig. 8: Utility (left axis, dark) and Privacy (right axis, light) of originals and uploads, a row a data set.

    Beside Utility stand its control from :func:`pmtlib.experiments.trade_off.control_lines`: the same criterion between
    strangers, and identification.
    """
    keep("noise", _beside(lines, control))
    sets = list(dict.fromkeys(lines["dataset"]))
    figure, axes = plt.subplots(
        max(len(sets), 1), 2, figsize=(10, 0.5 + 3.3 * max(len(sets), 1)), squeeze=False, layout="constrained",
        sharex=True,
    )  # fmt: skip
    dark, middle, light = (colormaps[COLOURS](share) for share in (0.1, 0.45, 0.8))
    top = float(lines["privacy_high"].max()) * 1.08 if len(lines) else 1.0
    for row, dataset in enumerate(sets):
        for column, (images, letter) in enumerate(((ORIGINALS, "(a) original"), (UPLOADS, "(b) upload"))):
            axis = axes[row][column]
            other = axis.twinx()
            part = lines[(lines["dataset"] == dataset) & (lines["images"] == images)].sort_values("bound")
            handles = []
            curve = part[part["threshold"] == PAPER]
            kappa = f"κ = {curve['kappa'].iloc[0]:.2g}"
            handles.append(_band(axis, curve, "utility", dark, f"Utility, {kappa}", style="-", marker="o"))
            chosen = (control["dataset"] == dataset) & (control["images"] == images) & (control["threshold"] == PAPER)
            beside = control[chosen].sort_values("bound")
            if len(beside):
                text = f"strangers accepted, {kappa}"
                handles.append(_band(axis, beside, "stranger", middle, text, style=":", marker="X"))
                handles.append(_band(axis, beside, "rank_1", middle, "right person first", style="--", marker="^"))
            handles.append(_band(other, curve, "privacy", light, "Privacy (LPIPS)", style="-", marker="s"))
            axis.set_ylim(-0.04, 1.04)
            other.set_ylim(0, top)
            axis.set_title(f"{letter}, {TITLES.get(str(dataset), str(dataset))}", fontsize=10)
            axis.set_xlabel("noise bound δ" if row == len(sets) - 1 else "")
            axis.set_ylabel("Utility" if column == 0 else "")
            other.set_ylabel("Privacy (LPIPS-VGG)" if column == 1 else "")
            if row == 0 and column == 0:
                axis.legend(handles=handles, fontsize=8, loc="center left")
    plt.close(figure)
    return figure


def _beside(lines: pd.DataFrame, control: pd.DataFrame) -> pd.DataFrame:
    """The curves with their control in the same rows."""
    shared = [
        name
        for name in control.columns
        if name in lines.columns and name in ("dataset", "images", "threshold", "bound")
    ]
    added = [name for name in control.columns if name not in lines.columns]
    return lines.merge(control[[*shared, *added]], on=shared, how="left") if shared else lines


def _band(axis: Any, curve: pd.DataFrame, term: str, colour: Any, label: str, *, style: str, marker: str) -> Any:
    (handle,) = axis.plot(curve["bound"], curve[term], style, color=colour, marker=marker, markersize=4, label=label)
    axis.fill_between(curve["bound"], curve[f"{term}_low"], curve[f"{term}_high"], color=colour, alpha=0.18, lw=0)
    return handle


def trade_off_table(lines: pd.DataFrame, control: pd.DataFrame, dataset: str) -> Styler:
    """The numbers of Fig. 8, with their intervals."""
    part = lines[lines["dataset"] == dataset]
    rows: dict[str, dict[str, str]] = {}
    for line in part.to_dict("records"):
        row = rows.setdefault(f"{line['bound']:g}", {})
        kappa = f"κ = {line['kappa']:.2g}"
        row[f"{line['images']}: Utility, {kappa}"] = _three(line, "utility", 100, 0) + " %"
        if line["threshold"] == PAPER:
            row[f"{line['images']}: Privacy"] = _three(line, "privacy", 1, 2)
    beside = control[(control["dataset"] == dataset) & (control["threshold"] == PAPER)]
    for line in beside.to_dict("records"):
        row = rows.setdefault(f"{line['bound']:g}", {})
        row[f"{line['images']}: strangers accepted, κ = {line['kappa']:.2g}"] = _three(line, "stranger", 100, 0) + " %"
        row[f"{line['images']}: right person first"] = _three(line, "rank_1", 100, 0) + " %"
    frame = pd.DataFrame.from_dict(rows, orient="index").fillna("–")
    frame = frame[sorted(frame.columns)]
    frame.index.name = "δ"
    count = int(part["n"].max()) if len(part) else 0
    title = TITLES.get(dataset, dataset)
    caption = f"{title}: Utility, Privacy and control with 95% intervals, n = {count} photographs"
    data = _beside(part, control[control["dataset"] == dataset])
    return styled(frame, caption, slug("noise", dataset), data)


def _three(line: Any, name: str, scale: float, digits: int) -> str:
    middle, low, high = (scale * line[key] for key in (name, f"{name}_low", f"{name}_high"))
    return f"{middle:.{digits}f}<br>[{low:.{digits}f}, {high:.{digits}f}]"


def matching_table(cells: pd.DataFrame, dataset: str, settings: TradeOffSettings) -> Styler:
    """Every network's measures, a row a kind of comparison; the authorised network in bold."""
    part = cells[cells["dataset"] == dataset]
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for network in settings.networks:
        for kind in COMPARISONS:
            for line in part[(part["network"] == network) & (part["comparison"] == kind)].to_dict("records"):
                scale, digits = (1, 3) if line["measure"] == AUC else (100, 1)
                value, low, high = (f"{scale * line[key]:.{digits}f}" for key in ("value", "low", "high"))
                text = f"{value}<br>[{low}, {high}]"
                rows.setdefault((network, kind.replace("-", "–")), {})[_HEADINGS[str(line["measure"])]] = text
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame = frame[[heading for heading in _HEADINGS.values() if heading in frame]].fillna("–")
    if len(frame):
        frame.index = pd.MultiIndex.from_tuples(list(rows), names=["network", "comparison"])
    counts = {measure: int(group["n"].max()) for measure, group in part.groupby("measure")}
    title, other = TITLES.get(dataset, dataset), threshold_set(dataset)
    caption = (
        f"{title}: verification and identification, percent but for AUC, with 95% interval. n = {counts.get(AUC, 0)} "
        f"pairs (AUC, EER, accuracy), {counts.get('tar_far_1e2', 0)} of one person (TAR), "
        f"{counts.get('false_far_1e2', 0)} of two (false acceptances), {counts.get(RANK_1, 0)} probes (rank). "
        f"Thresholds for FAR 10⁻² and 10⁻³ are those found on {TITLES.get(other, other)}. "
        f"Authorised: {settings.authorised}."
    )

    def emphasis(table: pd.DataFrame) -> pd.DataFrame:
        bold = ["font-weight: bold" if key[0] == settings.authorised else "" for key in table.index]
        return pd.DataFrame(dict.fromkeys(table.columns, bold), index=table.index)

    return styled(frame, caption, slug("matching", dataset), part).apply(emphasis, axis=None)


def matching_figure(cells: pd.DataFrame, settings: TradeOffSettings) -> Figure:
    """Area under the ROC curve, true acceptances at FAR 1e-3 and rank 1 of each network: a row a data set."""
    keep("matching", cells)
    sets = list(dict.fromkeys(cells["dataset"]))
    measures = ((AUC, "AUC", 1), ("tar_far_1e3", "TAR at FAR 10⁻³ (%)", 100), (RANK_1, "rank 1 (%)", 100))
    figure, axes = plt.subplots(
        max(len(sets), 1), 3, figsize=(11, 0.9 + 0.5 * len(settings.networks) * max(len(sets), 1)), squeeze=False,
        sharey=True, layout="constrained",
    )  # fmt: skip
    colours = [colormaps[COLOURS](share) for share in (0.05, 0.5, 0.85)]
    for row, dataset in enumerate(sets):
        for column, (measure, heading, scale) in enumerate(measures):
            axis = axes[row][column]
            for place, (kind, colour, marker) in enumerate(zip(COMPARISONS, colours, _MARKERS, strict=True)):
                part = cells[
                    (cells["dataset"] == dataset) & (cells["measure"] == measure) & (cells["comparison"] == kind)
                ]
                heights = [settings.networks.index(name) + 0.22 * (place - 1) for name in part["network"]]
                ends = scale * part["low"], scale * part["high"]
                axis.hlines(heights, *ends, color=colour, lw=1.2)
                axis.plot(
                    scale * part["value"], heights, marker, color=colour, markersize=5, label=kind.replace("-", "–"),
                    markeredgecolor="black", markeredgewidth=0.4,
                )  # fmt: skip
            title = TITLES.get(str(dataset), str(dataset))
            axis.set_title(f"{title}: {heading}", fontsize=9)
            axis.set_xlim(-0.03 * scale, 1.03 * scale)
            names = [f"{name} (authorised)" if name == settings.authorised else name for name in settings.networks]
            axis.set_yticks(range(len(names)), names, fontsize=8)
            axis.set_ylim(len(names) - 0.5, -0.5)
            axis.grid(axis="x", alpha=0.3)
    if sets:
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    plt.close(figure)
    return figure


def roc_figure(blocks: Sequence[TradeOffBlock], settings: TradeOffSettings) -> Figure:
    """ROC curves of every network for the three kinds of comparison: a row a data set, a column a kind."""
    found = [(block.dataset, block.matching.result.values) for block in blocks if block.matching.result is not None]
    figure, axes = plt.subplots(
        max(len(found), 1), 3, figsize=(10.5, 3.6 * max(len(found), 1)), squeeze=False, sharex=True, sharey=True,
        layout="constrained",
    )  # fmt: skip
    colours = sns.color_palette("colorblind", len(settings.networks))
    points = []
    for row, (dataset, values) in zip(axes, found, strict=False):
        same = np.array(values["same"], dtype=bool)
        for axis, kind in zip(row, COMPARISONS, strict=True):
            for place, network in enumerate(name for name in settings.networks if name in values["networks"]):
                curve = metrics.roc(np.array(values["networks"][network]["scores"][kind]), same)
                points += [(dataset, kind, network, far, tar) for far, tar in zip(curve.far, curve.tar, strict=True)]
                own = network == settings.authorised
                label = f"{network} (authorised)" if own else network
                axis.step(
                    curve.far, curve.tar, where="post", color=colours[place], lw=2.4 if own else 1.2,
                    ls=("-", "--", "-.", ":", (0, (5, 1)))[place % 5], label=label,
                )  # fmt: skip
            axis.set_title(f"{TITLES.get(dataset, dataset)}: {kind.replace('-', '–')}", fontsize=9)
            axis.set_xlabel("false acceptance rate")
            axis.grid(alpha=0.3)
        row[0].set_ylabel("true acceptance rate")
    keep("roc", pd.DataFrame(points, columns=["dataset", "comparison", "network", "far", "tar"]))
    if found:
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    plt.close(figure)
    return figure


def provenance_table(blocks: Sequence[TradeOffBlock]) -> Styler:
    """Where every number comes from: one line a stored result, or why there is none."""
    return _provenance_table(row for block in blocks for row in block.rows())
