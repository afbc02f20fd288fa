"""Figures and tables of Section 6.7, robustness. They compute nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib import colormaps
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from pmtlib.experiments.common import TITLES
from pmtlib.experiments.robustness import ABSOLUTE, RELATIVE, RobustnessBlock, label
from pmtlib.experiments.trade_off import ORIGINALS, UPLOADS
from pmtlib.experiments.variants import CALIBRATED, PAPER
from pmtlib.figures.common import COLOURS, percent, styled
from pmtlib.figures.common import provenance_table as _provenance_table
from pmtlib.page_data import keep, slug

_WORDS = {ORIGINALS: "original", UPLOADS: "upload"}


def grid_figure(grid: pd.DataFrame) -> Figure:
    """Fig. 10: UP over noise bound and threshold; uploads above, originals below, a column a data set."""
    keep("grid", grid)
    sets = list(dict.fromkeys(grid["dataset"]))
    width = max(len(sets), 1)
    figure, axes = plt.subplots(2, width, figsize=(1.0 + 5.4 * width, 6.6), squeeze=False, layout="constrained")
    top = float(grid["total"].max()) if len(grid) else 1.0
    for column, dataset in enumerate(sets):
        for row, images in enumerate((UPLOADS, ORIGINALS)):
            axis = axes[row][column]
            part = grid[(grid["dataset"] == dataset) & (grid["images"] == images)]
            table = part.pivot(index="bound", columns="kappa", values="total").sort_index(ascending=False)
            sns.heatmap(
                table, ax=axis, vmin=0, vmax=top, cmap=COLOURS, annot=True, fmt=".2f", annot_kws={"fontsize": 7},
                cbar=column == len(sets) - 1, cbar_kws={"label": "UP(δ, κ)"},
            )  # fmt: skip
            count = int(part["n"].max())
            axis.set_title(f"{TITLES.get(str(dataset), str(dataset))}, {images} (n = {count} photographs)", fontsize=10)
            axis.set_xlabel("threshold κ" if row == 1 else "")
            axis.set_ylabel("noise bound δ" if column == 0 else "")
            axis.tick_params(axis="y", rotation=0)
    plt.close(figure)
    return figure


def feature_figure(lines: pd.DataFrame) -> Figure:
    """Fig. 9: noisy features, two rows a data set; the noise as it is above, in the features' deviations below.

    Left are original features, right obfuscated ones.
    """
    keep("features", lines)
    places = [(str(dataset), scale) for dataset in dict.fromkeys(lines["dataset"]) for scale in (ABSOLUTE, RELATIVE)]
    rows = max(len(places), 1)
    figure, axes = plt.subplots(rows, 2, figsize=(10, 0.4 + 2.9 * rows), squeeze=False, layout="constrained")
    dark, middle, light = (colormaps[COLOURS](share) for share in (0.05, 0.5, 0.85))
    highest = lines[["utility_high", "total_high", "privacy_high"]].max().max() if len(lines) else 1.0
    for row, (dataset, scale) in enumerate(places):
        for column, images in enumerate((ORIGINALS, UPLOADS)):
            axis = axes[row][column]
            chosen = (lines["dataset"] == dataset) & (lines["images"] == images) & (lines["scale"] == scale)
            here = lines[chosen].sort_values("amplitude")
            for threshold, style in ((PAPER, "-"), (CALIBRATED, "--")):
                curve = here[here["threshold"] == threshold]
                if len(curve):
                    # The calibrated one differs by set; the legend serves all panels.
                    kappa = f"κ = {curve['kappa'].iloc[0]:.2g}" if threshold == PAPER else "calibrated κ"
                    _band(axis, curve, "utility", dark, f"Utility, {kappa}", style, "o")
                    _band(axis, curve, "total", light, f"UP, {kappa}", style, "D")
            _band(axis, here[here["threshold"] == PAPER], "privacy", middle, "Privacy (LPIPS)", "-", "s")
            count = int(here["n"].max()) if len(here) else 0
            title = f"{TITLES.get(dataset, dataset)}, {_WORDS[images]} features (n = {count})"
            axis.set_title(title, fontsize=10)
            axis.set_xlabel("noise, σ" if scale == ABSOLUTE else "noise, σ in standard deviations of the features")
            axis.set_ylim(-0.04, 1.06 * float(highest))
            axis.grid(alpha=0.3)
    if places:
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8, handlelength=4)
    plt.close(figure)
    return figure


def _band(axis: Any, curve: pd.DataFrame, term: str, colour: Any, text: str, style: str, marker: str) -> None:
    if not len(curve) or bool(curve[term].isna().all()):
        return
    axis.plot(curve["amplitude"], curve[term], style, color=colour, marker=marker, markersize=4, label=text)
    axis.fill_between(curve["amplitude"], curve[f"{term}_low"], curve[f"{term}_high"], color=colour, alpha=0.18, lw=0)


def feature_table(lines: pd.DataFrame, dataset: str) -> Styler:
    """The numbers of Fig. 9, with their intervals."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    part = lines[lines["dataset"] == dataset]
    for line in part.to_dict("records"):
        unit = "" if line["scale"] == ABSOLUTE else " std"
        row = rows.setdefault((f"{line['amplitude']:g}{unit}", f"{line['sigma']:.3g}"), {})
        word, kappa = _WORDS[line["images"]], f"κ = {line['kappa']:.2g}"
        row[f"{word}: Utility %, {kappa}"] = _three(line, "utility", 100, 0)
        row[f"{word}: strangers accepted %, {kappa}"] = _three(line, "stranger", 100, 0)
        if pd.isna(line["privacy"]):
            continue
        row[f"{word}: Privacy"] = _three(line, "privacy", 1, 2)
        row[f"{word}: UP, {kappa}"] = _three(line, "total", 1, 2)
    frame = pd.DataFrame.from_dict(rows, orient="index").fillna("–")
    frame = frame[sorted(frame.columns)]
    if len(frame):
        frame.index = pd.MultiIndex.from_tuples(list(rows), names=["amplitude", "σ"])
    count = int(part["n"].max()) if len(part) else 0
    title = TITLES.get(dataset, dataset)
    caption = f"{title}: noisy features, 95% intervals, n = {count} photographs"
    return styled(frame, caption, slug("features", dataset), part)


def _three(line: Any, name: str, scale: float, digits: int) -> str:
    middle, low, high = (scale * line[key] for key in (name, f"{name}_low", f"{name}_high"))
    return f"{middle:.{digits}f}<br>[{low:.{digits}f}, {high:.{digits}f}]"


def processing_figure(cells: pd.DataFrame) -> Figure:
    """Accuracy (Eq. 10) after each operation: uploads filled, photographs hollow; a panel a data set."""
    sets = list(dict.fromkeys(cells["dataset"]))
    keep("processing", cells)
    operations = list(dict.fromkeys(cells["operation"]))
    figure, axes = plt.subplots(
        1, max(len(sets), 1), figsize=(2.6 + 4.4 * max(len(sets), 1), 1.2 + 0.32 * len(operations)), squeeze=False,
        sharey=True, layout="constrained",
    )  # fmt: skip
    styles = (("authorised", "o", 0.05, -0.12), ("unauthorised", "D", 0.75, 0.12))
    for axis, dataset in zip(axes[0], sets, strict=False):
        for role, marker, share, shift in styles:
            colour = colormaps[COLOURS](share)
            for images in (ORIGINALS, UPLOADS):
                part = cells[(cells["dataset"] == dataset) & (cells["images"] == images) & (cells["role"] == role)]
                heights = [operations.index(name) + shift for name in part["operation"]]
                hollow = images == ORIGINALS
                if not hollow:
                    axis.hlines(heights, 100 * part["low"], 100 * part["high"], color=colour, lw=1.5)
                axis.plot(
                    100 * part["accuracy"], heights, marker, markersize=5, label=f"{images}, {role}",
                    markeredgecolor=colour, markerfacecolor="white" if hollow else colour, linestyle="none",
                )  # fmt: skip
        axis.set_yticks(range(len(operations)), [label(name) for name in operations], fontsize=8)
        axis.set_ylim(len(operations) - 0.5, -0.5)
        axis.set_xlim(-3, 103)
        axis.set_xlabel("accuracy, Eq. 10 (%)")
        axis.set_title(TITLES.get(str(dataset), str(dataset)), fontsize=10)
        axis.grid(alpha=0.3)
    if sets:
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    plt.close(figure)
    return figure


def processing_table(cells: pd.DataFrame, dataset: str) -> Styler:
    """The numbers of :func:`processing_figure`, with their intervals."""
    part = cells[cells["dataset"] == dataset]
    rows: dict[str, dict[str, str]] = {}
    for line in part.to_dict("records"):
        row = rows.setdefault(label(line["operation"]), {})
        row[f"{line['images']}, {line['role']}"] = percent(line)
        row[f"{line['images']}, SSIM"] = f"{line['ssim']:.2f}"
    frame = pd.DataFrame.from_dict(rows, orient="index").fillna("–")
    frame = frame[sorted(frame.columns, reverse=True)]
    frame.index.name = "operation"
    caption = (
        f"{TITLES.get(dataset, dataset)}: accuracy (Eq. 10) in percent at calibrated thresholds, n = "
        f"{int(part['n'].max()) if len(part) else 0} pairs; authorised with 95% Wilson interval, unauthorised is the "
        "mean over the other networks with a 95% bootstrap interval over photographs; SSIM to the photograph."
    )
    return styled(frame, caption, slug("processing", dataset), part)


def provenance_table(blocks: Sequence[RobustnessBlock]) -> Styler:
    """Where every number comes from: one line a stored result, or why there is none."""
    return _provenance_table(row for block in blocks for row in block.rows())
