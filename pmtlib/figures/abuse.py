"""Figures and tables of Section 6.4, defence against data abuse. They compute nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from pmtlib.experiments.abuse import CLEAN, PROTECTED, PURIFIED, AbuseBlock, AbuseSettings, Portrait, Upload
from pmtlib.experiments.common import TITLES
from pmtlib.figures.common import COLOURS, percent, picture, styled
from pmtlib.figures.common import provenance_table as _provenance_table
from pmtlib.page_data import keep, slug


def abuse_table(cells: pd.DataFrame, dataset: str, settings: AbuseSettings, *, images: str, threshold: str) -> Styler:
    """A block of Table 7: authorised networks down, evaluated networks across, authorised cells in bold.

    Args:
        cells: from :func:`pmtlib.experiments.abuse.abuse_cells`.
        dataset: which block.
        settings: for the order of networks.
        images: ``protected`` or ``purified``.
        threshold: ``paper`` or ``calibrated``.
    """
    chosen = cells[(cells["dataset"] == dataset) & (cells["threshold"] == threshold)]
    count = int(chosen["n"].max()) if len(chosen) else 0
    rows: dict[str, dict[str, str]] = {}
    clean = chosen[chosen["images"] == CLEAN]
    rows["clean"] = {str(line["network"]): percent(line) for line in clean.to_dict("records")}
    for authorised in settings.networks:
        part = chosen[(chosen["images"] == images) & (chosen["authorised"] == authorised)]
        rows[authorised] = {str(line["network"]): percent(line) for line in part.to_dict("records")}
        others = part[part["network"] != authorised]["accuracy"]
        if len(others):
            rows[authorised]["mean of others"] = f"{100 * others.mean():.1f}"
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=[*settings.networks, "mean of others"])
    frame = frame.fillna("–")
    frame.index.name, frame.columns.name = "authorised", "evaluated"
    kappa = (
        f"κ = {settings.kappa}" if threshold == "paper" else "each network's own threshold, calibrated on other people"
    )
    treated = (
        "the upload as it is" if images == PROTECTED else f"the upload after a blur (σ = {settings.blur_sigma} px)"
    )
    caption = (
        f"{TITLES.get(dataset, dataset)}, {treated}: accuracy (Eq. 10) in percent with 95% Wilson interval; {kappa}; "
        f"n = {count} pairs, pair seed {settings.pair_seed}, PMT seed {settings.pmt.seed}"
    )

    def emphasis(table: pd.DataFrame) -> pd.DataFrame:
        own = np.array([[row == column for column in table.columns] for row in table.index])
        return pd.DataFrame(np.where(own, "font-weight: bold", ""), index=table.index, columns=table.columns)

    shown = chosen[chosen["images"].isin([CLEAN, images])]
    return styled(frame, caption, slug("table 7", dataset, images, threshold), shown).apply(emphasis, axis=None)


def paper_table7(table: Mapping[str, Any], dataset: str) -> Styler:
    """The paper's block of Table 7, as printed, with the mean of the unauthorised cells recomputed beside it."""
    columns = table["columns"]
    rows = {}
    for index, (name, row) in enumerate(table["datasets"][dataset].items()):
        others = [value for column, value in enumerate(row["accuracy"]) if index == 0 or column != index - 1]
        rows[name] = [*(f"{value:.1f}" for value in row["accuracy"]), f"{row['average']:.1f}", f"{np.mean(others):.1f}"]
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=[*columns, "average as printed", "mean of its cells"])
    frame.index.name, frame.columns.name = "authorised", "evaluated"
    return styled(
        frame,
        f"{TITLES[dataset]}: the paper's Table 7, percent; κ = 0.2, its own networks; by its cells 104 pairs, the row "
        "Clean another number that it does not give",
        slug("paper table 7", dataset),
    )


def abuse_heat_map(cells: pd.DataFrame, settings: AbuseSettings, *, threshold: str = "calibrated") -> Figure:
    """Accuracy of every network on every upload: a column of panels a data set, as uploaded above, blurred below."""
    shown = cells[(cells["threshold"] == threshold) & (cells["images"] != CLEAN)]
    keep("heat-map", shown)
    sets = list(dict.fromkeys(shown["dataset"]))
    networks = list(settings.networks)
    figure, axes = plt.subplots(
        2, max(len(sets), 1), figsize=(1.2 + 4.6 * max(len(sets), 1), 8.2), squeeze=False, layout="constrained"
    )
    for column, dataset in enumerate(sets):
        for row, (images, text) in enumerate(((PROTECTED, "as uploaded"), (PURIFIED, "after a blur"))):
            axis = axes[row][column]
            part = shown[(shown["dataset"] == dataset) & (shown["images"] == images)]
            grid = part.pivot(index="authorised", columns="network", values="accuracy").reindex(networks)[networks]
            sns.heatmap(
                100 * grid, ax=axis, vmin=0, vmax=100, cmap=COLOURS, annot=True, fmt=".0f", square=True,
                cbar=column == len(sets) - 1, cbar_kws={"label": "accuracy, Eq. 10 (%)", "shrink": 0.8},
            )  # fmt: skip
            axis.set_title(f"{TITLES.get(dataset, dataset)}, {text}")
            axis.set_xlabel("evaluated network")
            axis.set_ylabel("authorised network" if column == 0 else "")
            axis.tick_params(axis="y", rotation=0)
            # Turned about their ends, long names neither overlap nor stand under the next column.
            axis.set_xticklabels(networks, rotation=40, ha="right", rotation_mode="anchor")
    plt.close(figure)
    return figure


def portrait_grid(portraits: Sequence[Portrait]) -> Figure:
    """Photographs above; below, a row an authorised network: what is uploaded, and the same after a blur.

    Under each upload stand its SSIM to the photograph and the cosine of the authorised network.
    """
    networks = list(portraits[0].uploads)
    keep("portraits", _below(portraits))
    rows, columns = 1 + len(networks), 2 * len(portraits)
    figure, axes = plt.subplots(
        rows, columns, figsize=(1.75 * columns, 2.1 * rows), squeeze=False, layout="constrained", dpi=110
    )
    for index, portrait in enumerate(portraits):
        left, right = axes[:, 2 * index], axes[:, 2 * index + 1]
        picture(left[0], portrait.original, portrait.title, "photograph")
        right[0].set_axis_off()
        for row, name in enumerate(networks, start=1):
            upload = portrait.uploads[name]
            picture(left[row], upload.image, f"for {name}", _under(upload))
            picture(right[row], upload.purified, "the same, blurred", f"SSIM {upload.ssim_purified:.2f}\n")
    plt.close(figure)
    return figure


def _below(portraits: Sequence[Portrait]) -> pd.DataFrame:
    """The numbers below the pictures."""
    lines = [
        (one.title, name, upload.ssim, upload.ssim_purified, upload.cosine, upload.accepted)
        for one in portraits
        for name, upload in one.uploads.items()
    ]
    return pd.DataFrame(lines, columns=["photograph", "authorised", "ssim", "ssim_after_blur", "cosine", "accepted"])


def _under(upload: Upload) -> str:
    return f"SSIM {upload.ssim:.2f}\ncos {upload.cosine:.2f}, {'accepted' if upload.accepted else 'rejected'}"


def likeness_table(likeness: pd.DataFrame) -> Styler:
    """SSIM of uploads to photographs, from :func:`pmtlib.experiments.abuse.abuse_likeness`."""
    text = [
        f"{line['ssim']:.3f} [{line['low']:.3f}, {line['high']:.3f}]<br>highest {line['worst']:.3f}"
        for line in likeness.to_dict("records")
    ]
    kinds = likeness["images"].map({PROTECTED: "as uploaded", PURIFIED: "after a blur"})
    sets = likeness["dataset"].map(lambda name: TITLES.get(name, name))
    frame = pd.DataFrame({"set": sets, "authorised": likeness["authorised"], "images": kinds, "SSIM": text})
    table = frame.pivot(index=["set", "authorised"], columns="images", values="SSIM")
    table = table[[kind for kind in ("as uploaded", "after a blur") if kind in table]]
    count = int(likeness["n"].max()) if len(likeness) else 0
    return styled(table, f"SSIM to the photograph, n = {count} a row", "ssim", likeness)


def step_table(table: pd.DataFrame) -> Styler:
    """Likeness and authorised recognition against K, from :func:`~pmtlib.experiments.abuse.step_table`."""
    count = int(table["n"].max()) if len(table) else 0
    frame = table.drop(columns="n").rename(
        columns={
            "steps": "K",
            "ssim": "mean SSIM",
            "cosine": "median cosine",
            "lowest": "lowest cosine",
            "accepted": f"accepted of {count}",
        }
    )
    caption = (
        f"The number of steps K on {count} people of LFW who are in no pair: likeness to the photograph, and how the "
        "authorised network recognises the upload."
    )
    shown = frame.set_index(["network", "K"])
    return styled(shown, caption, "steps", table).format(
        precision=3, subset=["mean SSIM", "median cosine", "lowest cosine", "threshold"]
    )


def portrait_table(portraits: Sequence[Portrait]) -> Styler:
    """Who recognises the sample portraits: cosine of each network with the photograph, by authorised network."""
    lines = []
    for portrait in portraits:
        for authorised, upload in portrait.uploads.items():
            for network, (cosine, blurred, threshold) in upload.recognition.items():
                lines.append((authorised, network, cosine > threshold, blurred > threshold, cosine, threshold))
    columns = ["authorised", "evaluated", "accepted", "accepted blurred", "cosine", "threshold"]
    frame = pd.DataFrame(lines, columns=columns)
    grouped = frame.groupby(["authorised", "evaluated"], sort=False).agg(
        **{
            "accepted as uploaded": ("accepted", "sum"),
            "accepted after a blur": ("accepted blurred", "sum"),
            "median cosine": ("cosine", "median"),
            "threshold": ("threshold", "first"),
        }
    )
    caption = (
        f"Of {len(portraits)} sample portraits, how many each network takes for the person in the photograph, at its "
        "threshold calibrated on LFW. A demonstration on a handful of pictures, not a measurement."
    )
    return styled(grouped, caption, "portraits-accepted", grouped.reset_index()).format(
        precision=2, subset=["median cosine", "threshold"]
    )


def provenance_table(blocks: Sequence[AbuseBlock]) -> Styler:
    """Where every number comes from: one line a stored result, or why there is none."""
    return _provenance_table(
        (block.dataset, name, outcome)
        for block in blocks
        for name, outcome in (("thresholds", block.clean), *block.rows.items())
    )
