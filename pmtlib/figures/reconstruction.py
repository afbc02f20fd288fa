"""Figures and tables of Section 6.3, defence against face reconstruction. They compute nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from pmtlib.experiments.common import TITLES, paper_table
from pmtlib.experiments.reconstruction import (
    ADAM,
    ATTACK_TITLES,
    ATTACKS,
    BLACK_BOX,
    IMAGE,
    NOISE,
    PAPER_ATTACKS,
    PAPER_UPLOADS,
    PMT,
    SIGN,
    UNPROTECTED,
    ReconstructionBlock,
    ReconstructionSettings,
    Strip,
    upload_title,
)
from pmtlib.figures.common import picture, styled
from pmtlib.figures.common import provenance_table as _provenance_table
from pmtlib.page_data import keep, slug

IMAGE_TITLE = "none: the PMT image itself"
MEASURES = {
    "ssim": "SSIM",
    "psnr": "PSNR (dB)",
    "lpips": "LPIPS",
    "cosine": "COS",
    "srra": "SRRA",
    "srra_own": "SRRA, own threshold",
}
_DASH = "–"


def table6(cells: pd.DataFrame, dataset: str, settings: ReconstructionSettings) -> Styler:
    """Table 6 on one data set: each mean with its 95% interval, the paper's value in the column beside it.

    Args:
        cells: from :func:`pmtlib.experiments.reconstruction.table`.
        dataset: which block.
        settings: for the order of rows.
    """
    own = cells["network"].isna() | (cells["network"] == settings.authorised)
    chosen = cells[(cells["dataset"] == dataset) & own]
    shown = [measure for measure in MEASURES if (chosen["measure"] == measure).any()]
    paper = paper_table("table6")
    printed = paper["datasets"].get(dataset, {})
    rows: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
    for attack in (*ATTACKS, IMAGE):
        for upload in settings.uploads():
            part = chosen[(chosen["attack"] == attack) & (chosen["upload"] == upload)]
            if not len(part):
                continue
            lines = {str(line["measure"]): line for line in part.to_dict("records")}
            row = {(MEASURES[measure], "ours"): _cell(measure, lines.get(measure)) for measure in shown}
            values = printed.get(PAPER_UPLOADS.get(upload, ""), {}).get(PAPER_ATTACKS.get(attack, ""))
            for index, measure in enumerate(("ssim", "psnr", "cosine", "srra")):
                if measure in shown:
                    row[(MEASURES[measure], "paper")] = _DASH if values is None else _printed(measure, values[index])
            rows[(ATTACK_TITLES.get(attack, IMAGE_TITLE), upload_title(upload, settings))] = row
    columns = [
        (MEASURES[measure], source)
        for measure in shown
        for source in (("ours",) if measure in ("lpips", "srra_own") else ("ours", "paper"))
    ]
    frame = pd.DataFrame.from_dict(rows, orient="index").reindex(columns=pd.MultiIndex.from_tuples(columns))
    frame.index = pd.MultiIndex.from_tuples(list(rows) or [("", "")][:0], names=["attack", "uploaded features"])
    frame = frame.fillna(_DASH)
    count = int(chosen["n"].max()) if len(chosen) else 0
    caption = (
        f"{TITLES.get(dataset, dataset)}: reconstructions beside photographs, mean with 95% interval, n = {count} "
        f"images; COS and SRRA of {settings.authorised}; SRRA in percent, at κ = {settings.kappa} and at the "
        f"network's own threshold. The paper's threshold of SRRA is not given. Pair seed {settings.pair_seed}, PMT "
        f"seed {settings.pmt.seed}, noise seed {settings.noise_seed}"
    )
    if dataset == "samples":
        caption += (
            ". A demonstration, not a measurement: RecFace was trained here on those faces of the sample photographs "
            "that are not attacked"
        )
    return styled(frame, caption, slug("table 6", dataset), chosen)


def _cell(measure: str, line: Mapping[Any, Any] | None) -> str:
    if line is None:
        return _DASH
    places = {"psnr": 1, "srra": 0, "srra_own": 0}.get(measure, 2)
    scale = 100 if measure.startswith("srra") else 1
    mean, low, high = (scale * line[name] for name in ("mean", "low", "high"))
    return f"{mean:.{places}f}<br>[{low:.{places}f}, {high:.{places}f}]"


def _printed(measure: str, value: float) -> str:
    return f"{100 * value:.0f}" if measure == "srra" else f"{value:.2f}"


def recognition_table(cells: pd.DataFrame, dataset: str, settings: ReconstructionSettings) -> Styler:
    """Who recognises the reconstructions: percentage that each network accepts at its own threshold, mean cosine."""
    chosen = cells[(cells["dataset"] == dataset) & cells["network"].notna()]
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for attack in (*ATTACKS, IMAGE):
        for upload in settings.uploads():
            part = chosen[(chosen["attack"] == attack) & (chosen["upload"] == upload)]
            row = {}
            for network in settings.networks:
                lines = {str(line["measure"]): line for line in part[part["network"] == network].to_dict("records")}
                if "srra_own" in lines:
                    row[network] = f"{_cell('srra_own', lines['srra_own'])}<br>cos {lines['cosine']['mean']:.2f}"
            if row:
                rows[(ATTACK_TITLES.get(attack, IMAGE_TITLE), upload_title(upload, settings))] = row
    frame = pd.DataFrame.from_dict(rows, orient="index").reindex(columns=list(settings.networks)).fillna(_DASH)
    frame.index = pd.MultiIndex.from_tuples(list(rows) or [("", "")][:0], names=["attack", "uploaded features"])
    frame.columns.name = "evaluated"
    count = int(chosen["n"].max()) if len(chosen) else 0
    caption = (
        f"{TITLES.get(dataset, dataset)}: reconstructions that each network takes for the person in the photograph, at "
        f"its own threshold calibrated on other people, in percent with 95% Wilson interval; below, the mean cosine; "
        f"n = {count}. Only {settings.authorised} is authorised"
    )

    def emphasis(table: pd.DataFrame) -> pd.DataFrame:
        own = np.array([[column == settings.authorised for column in table.columns] for _ in table.index])
        return pd.DataFrame(np.where(own, "font-weight: bold", ""), index=table.index, columns=table.columns)

    table = styled(frame, caption, slug("recognition", dataset), chosen)
    return table.apply(emphasis, axis=None) if len(frame) else table


def features_table(features: pd.DataFrame, settings: ReconstructionSettings) -> Styler:
    """How far uploaded features are from the photograph's, from the table of that name."""
    lines = features.to_dict("records")
    frame = pd.DataFrame(
        {
            "set": [TITLES.get(line["dataset"], line["dataset"]) for line in lines],
            "uploaded features": [upload_title(line["upload"], settings) for line in lines],
            "relative squared error": [
                f"{line['error']:.2f} [{line['low']:.2f}, {line['high']:.2f}]" for line in lines
            ],
            "cosine of the features": [f"{line['cosine']:.2f}" for line in lines],
            "cosine of the embeddings": [f"{line['service']:.2f}" for line in lines],
            "n": [line["n"] for line in lines],
        }
    )
    caption = (
        "Uploaded features beside those of the photograph: squared error relative to the squared norm (mean with 95% "
        f"interval), their cosine, and that of the embeddings that {settings.authorised} computes from both"
    )
    return styled(frame.set_index(["set", "uploaded features"]), caption, "features", features)


def clipping_table(frame: pd.DataFrame, settings: ReconstructionSettings) -> Styler:
    """PMT with and without clipping, from the table of that name."""
    lines = frame.to_dict("records")
    shown = pd.DataFrame(
        {
            "set": [TITLES.get(line["dataset"], line["dataset"]) for line in lines],
            "PMT": ["clipped to [0, 1]" if line["clipped"] else "not clipped" for line in lines],
            "K": [line["steps"] for line in lines],
            "pixels outside, %": [f"{100 * line['outside']:.0f}" for line in lines],
            "relative squared error": [f"{line['error']:.2f}" for line in lines],
            "served, %": [
                f"{100 * line['served']:.0f} [{100 * line['served_low']:.0f}, {100 * line['served_high']:.0f}]"
                for line in lines
            ],
            "SSIM of what the black box makes": [
                f"{line['ssim']:.2f} [{line['ssim_low']:.2f}, {line['ssim_high']:.2f}]" for line in lines
            ],
            "recognised by others, %": [f"{100 * line['others']:.0f}" for line in lines],
            "n": [line["n"] for line in lines],
        }
    )
    caption = (
        "PMT with and without clipping of the image to [0, 1] in each step, when features are uploaded: the error of "
        f"the features, the share of photographs that {settings.authorised} recognises by them at its own threshold, "
        "and the mean SSIM of what RecFace makes of them, with 95% intervals; the last is a mean over the other "
        "networks, at their own thresholds"
    )
    return styled(shown.set_index(["set", "PMT"]), caption, "clipping", frame)


def training_curve(about: Mapping[str, Any] | None) -> Figure | None:
    """Loss and held-out SSIM of the black-box attacker's network against its steps; None where none was recorded."""
    points = [] if about is None else list(about["curve"])
    keep("training", pd.DataFrame(points, columns=["step", "val_ssim", "train_loss"]))
    if not any(point["val_ssim"] is not None for point in points):
        return None
    figure, axis = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    steps = [point["step"] for point in points]
    axis.plot(steps, [point["val_ssim"] for point in points], "o-", color="#00346e", label="SSIM, people held out")
    axis.set_xlabel("training step")
    axis.set_ylabel("mean SSIM", color="#00346e")
    axis.grid(alpha=0.3)
    other = axis.twinx()
    losses = [(point["step"], point["train_loss"]) for point in points if point["train_loss"] is not None]
    other.plot(*zip(*losses, strict=True), "s--", color="#8f6b00", label="training loss")
    other.set_ylabel("training loss", color="#8f6b00")
    other.set_ylim(bottom=0)
    handles = axis.get_lines() + other.get_lines()
    axis.legend(handles=handles, loc="center right", fontsize=8)
    plt.close(figure)
    return figure


def ssim_distributions(blocks: Sequence[ReconstructionBlock], settings: ReconstructionSettings) -> Figure:
    """SSIM of every reconstruction: a panel an attack and data set, a box and its points a row."""
    sets = [block for block in blocks if any(block.measured(attack) for attack in ATTACKS)]
    figure, axes = plt.subplots(
        max(len(sets), 1), len(ATTACKS), figsize=(10.5, 0.6 + 2.7 * max(len(sets), 1)), squeeze=False, sharey=True,
        sharex=True, layout="constrained",
    )  # fmt: skip
    uploads = settings.uploads()
    colours = plt.get_cmap("cividis")(np.linspace(0.1, 0.85, len(uploads)))
    points = [
        (block.dataset, attack, upload, image, value)
        for block in sets
        for attack in ATTACKS
        for upload, measured in block.measured(attack).items()
        for image, value in enumerate(measured["ssim"])
    ]
    keep("ssim", pd.DataFrame(points, columns=["dataset", "attack", "upload", "image", "ssim"]))
    for line, block in zip(axes, sets, strict=False):
        for axis, attack in zip(line, ATTACKS, strict=True):
            measured = block.measured(attack)
            for place, upload in enumerate(uploads):
                if upload not in measured:
                    continue
                values = np.array(measured[upload]["ssim"])
                axis.boxplot(
                    values, positions=[place], widths=0.55, showfliers=False, patch_artist=True,
                    boxprops={"facecolor": colours[place], "alpha": 0.45}, medianprops={"color": "black"},
                )  # fmt: skip
                # Points side by side in the order of the images: no random jitter.
                spread = place + np.linspace(-0.2, 0.2, len(values))
                axis.plot(spread, values, ".", color=colours[place], markersize=3, alpha=0.8)
            if attack in PAPER_ATTACKS:
                printed = paper_table("table6")["datasets"].get(block.dataset, {})
                for place, upload in enumerate(uploads):
                    values = printed.get(PAPER_UPLOADS.get(upload, ""), {}).get(PAPER_ATTACKS[attack])
                    if values is not None:
                        axis.plot(place, values[0], "D", color="black", markerfacecolor="white", markersize=6, zorder=5)
            axis.set_title(f"{TITLES.get(block.dataset, block.dataset)}, {ATTACK_TITLES[attack]}", fontsize=9)
            axis.set_xticks(range(len(uploads)), [upload_title(u, settings).replace(", ", "\n") for u in uploads])
            axis.tick_params(axis="x", labelsize=8)
            axis.set_ylim(-0.05, 1.02)
            axis.grid(axis="y", alpha=0.3)
        line[0].set_ylabel("SSIM to the photograph")
    plt.close(figure)
    return figure


# Rows and columns of the paper's Fig. 6, which has no tuned white box.
_LETTERS = {
    (UNPROTECTED, BLACK_BOX): "(b)", (UNPROTECTED, SIGN): "(c)", (NOISE, BLACK_BOX): "(d)", (NOISE, SIGN): "(e)",
    (PMT, BLACK_BOX): "(g)", (PMT, SIGN): "(h)",
}  # fmt: skip
_SHORT = {BLACK_BOX: "black box", SIGN: "white box", ADAM: "white box, tuned"}


def strip(strips: Sequence[Strip]) -> Figure:
    """Fig. 6, three rows a portrait: unprotected features, random noise, PMT; the letters are the paper's columns.

    Left stand the photograph (a) and the PMT image (f); then what each attack makes of the features of that row. Under
    each picture is its SSIM to the photograph.
    """
    rows = (UNPROTECTED, NOISE, PMT)
    columns = 1 + len(ATTACKS)
    figure, axes = plt.subplots(
        len(rows) * len(strips), columns, figsize=(1.9 * columns, 2.15 * len(rows) * len(strips)), squeeze=False,
        layout="constrained", dpi=110,
    )  # fmt: skip
    names = {UNPROTECTED: "unprotected", NOISE: "random noise", PMT: "PMT"}
    below = [
        (one.title, names[row], attack, one.made[row][attack][1])
        for one in strips
        for row in rows
        for attack in ATTACKS
    ]
    below += [(one.title, "none", "the PMT image itself", one.image[1]) for one in strips]
    keep("portraits", pd.DataFrame(below, columns=["photograph", "features", "attack", "ssim"]))
    for index, portrait in enumerate(strips):
        for place, row in enumerate(rows):
            line = axes[index * len(rows) + place]
            if row == UNPROTECTED:
                picture(line[0], portrait.original, "(a) photograph", portrait.title.split(" (")[0])
            elif row == PMT:
                picture(line[0], portrait.image[0], "(f) PMT image", f"SSIM {portrait.image[1]:.2f}")
            else:
                line[0].set_axis_off()
            for axis, attack in zip(line[1:], ATTACKS, strict=True):
                image, likeness = portrait.made[row][attack]
                letter = _LETTERS.get((row, attack), "")
                picture(axis, image, f"{letter} {names[row]},\n{_SHORT[attack]}".strip(), f"SSIM {likeness:.2f}")
    plt.close(figure)
    return figure


def provenance_table(blocks: Sequence[ReconstructionBlock]) -> Styler:
    """Where every number comes from: one line a stored result, or why there is none."""
    return _provenance_table((block.dataset, label, outcome) for block in blocks for label, outcome in block.outcomes())


def inversion_table(settings: ReconstructionSettings) -> Styler:
    """Every value of both white-box attacks."""
    columns = {ATTACK_TITLES[attack]: settings.inversion(attack).model_dump() for attack in (SIGN, ADAM)}
    frame = pd.DataFrame({name: {key: str(value) for key, value in entry.items()} for name, entry in columns.items()})
    return styled(frame, "The white-box attacks", "white-box")
