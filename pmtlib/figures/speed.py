"""Figures of the appendix on cost. They compute nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from pmtlib.experiments.common import with_interval
from pmtlib.experiments.speed import BATCH, CUT, GPU_STEPS, SIDE, STEPS, Run, memory_growth
from pmtlib.figures.common import styled
from pmtlib.page_data import keep

_AXES = {
    BATCH: ("images a batch", "ms an image-step"),
    STEPS: ("steps K", "ms an image-step"),
    CUT: ("cut k, units", "ms an image-step"),
    SIDE: ("longer side of the photograph, pixels", "ms to find a face"),
}


def cost_curves(frame: pd.DataFrame) -> Figure:
    """A panel a curve: medians, with the lowest and the highest of the rounds as a band."""
    keep("curves", frame)
    figure, axes = plt.subplots(1, len(_AXES), figsize=(12.5, 3.1), layout="constrained")
    for axis, (curve, (below, beside)) in zip(axes, _AXES.items(), strict=True):
        part = frame[frame["curve"] == curve].sort_values("value") if len(frame) else frame
        if len(part):
            axis.plot(part["value"], part["milliseconds"], color="#00204d", marker="o", markersize=3)
            axis.fill_between(
                part["value"], part["milliseconds_low"], part["milliseconds_high"], color="#00204d", alpha=0.2
            )
            axis.set_xticks(part["value"], [str(value) for value in part["value"]], fontsize=8)
        if curve in (BATCH, SIDE):
            axis.set_xscale("log", base=2)
            axis.minorticks_off()
            if len(part):
                axis.set_xticks(part["value"], [str(value) for value in part["value"]], fontsize=8)
        axis.set_ylim(bottom=0)
        axis.set_xlabel(below)
        axis.set_ylabel(beside)
        axis.spines[["top", "right"]].set_visible(False)
    plt.close(figure)
    return figure


def cost_table(frame: pd.DataFrame) -> Styler:
    """The curves in numbers."""
    rows = [
        {
            "curve": _AXES[str(line["curve"])][0],
            "value": str(line["value"]),
            "ms": with_interval(line, "milliseconds"),
            "relative to the first": with_interval(line, "relative"),
        }
        for line in frame.to_dict("records")
    ]
    table = pd.DataFrame(rows, columns=["curve", "value", "ms", "relative to the first"])
    rounds = int(frame["rounds"].max()) if len(frame) else 0
    caption = f"The curves in numbers: medians of n = {rounds} rounds, with the lowest and the highest"
    return styled(table, caption, "curves", frame).hide(axis="index")


def loops_table(frame: pd.DataFrame, manifest: Mapping[str, Any], name: str) -> Styler:
    """How many times as fast pmtlib is as plain loops, and how alike the images are.

    Args:
        frame: of :func:`pmtlib.experiments.speed.against_loops`.
        manifest: of the same run.
        name: the table's; each run has its own.
    """
    rows = [
        {
            "network": line["network"],
            "against": line["way"],
            "times as fast": f"{line['ratio']:.2f} [{line['low']:.2f}, {line['high']:.2f}]",
            "goal": ""
            if np.isnan(line["goal"])
            else f"{line['goal']:g}: {'reached' if line['ratio'] >= line['goal'] else 'missed'}",
            "lowest cosine": "other images" if np.isnan(line["cosine"]) else f"{line['cosine']:.5f}",
            "lowest SSIM": "" if np.isnan(line["ssim"]) else f"{line['ssim']:.5f}",
            f"images/s at K = {line['steps']}": f"{line['images_a_second']:.2f}",
            "Mflop, MB a step": f"{line['megaflops']:.0f}, {line['megabytes']:.0f}",
            "of arithmetic, memory": f"{100 * line['of_arithmetic']:.0f}%, {100 * line['of_memory']:.0f}%",
        }
        for line in frame.to_dict("records")
    ]
    hardware = manifest["hardware"]
    machine = ", ".join(hardware[key] for key in ("device", "processor", "vectors") if hardware.get(key))
    caption = (
        f"{manifest['command']}: {machine}, {hardware['torch_threads']} thread(s), {manifest['date']}; medians of the "
        "rounds, with the lowest and the highest; a goal is reached where the median is. Mflop and MB are counted, of "
        "a step of one image, and the shares of the limits, like images/s, are pmtlib's"
    )
    return styled(pd.DataFrame(rows), caption, name, frame).hide(axis="index")


def counts_table(frame: pd.DataFrame) -> Styler:
    """What a step of an image computes and moves, of :func:`pmtlib.experiments.speed.counted`: a line a network."""
    rows = []
    for network, part in frame.groupby("network", sort=False):
        row = {"network": network}
        for line in part.to_dict("records"):
            units = f"{line['cut']} unit{'' if line['cut'] == 1 else 's'}"
            row[units] = f"{line['megaflops']:,.0f}, {line['megabytes']:,.0f}"
        rows.append(row)
    caption = (
        "A step of one image by network and cut: Mflop of convolutions and matrix products (a multiplication and an "
        "addition each), and MB that operations in float32 read and write. Counted, so the same on every machine"
    )
    return styled(pd.DataFrame(rows).fillna(""), caption, "counts", frame).hide(axis="index")


def gpu_table(frame: pd.DataFrame) -> Styler:
    """Rates on a GPU, of :func:`pmtlib.experiments.speed.on_gpu`."""
    rows = [
        {
            "layers": line["layers"],
            "images at once": f"{line['batch']:,}",
            "K": line["steps"],
            "image-steps a second": f"{line['image_steps_a_second']:,.0f}",
            f"images/s at K = {GPU_STEPS}": f"{line['images_a_second']:,.0f}",
            "service's cosine": f"{line['cosine']:.3f}",
        }
        for line in frame.to_dict("records")
    ]
    caption = (
        "The transform on a GPU by its layers, fused kernels or torch's; images/s follow from the image-steps. The "
        "cosine, of images and photographs, grows with K and is the mean of 64"
    )
    return styled(pd.DataFrame(rows), caption, "on-a-gpu", frame).hide(axis="index")


def command_table(runs: Sequence[Mapping[str, Any]]) -> Styler:
    """Where the time of whole runs went."""
    rows = []
    for run in runs:
        values = run["memory"]["megabytes"]
        row = {
            "photographs": f"{run['photographs']:,}",
            "K": run["steps"],
            "broken": run["broken"],
            "done": f"{run['done']:,}",
            "a second": f"{run['photographs_a_second']:.2f}",
            "seconds": f"{run['run_seconds']:.0f}",
        }
        row |= {f"{stage} %": f"{100 * share:.0f}" for stage, share in run["shares"].items()}
        row["finding beside the others %"] = "" if run["overlapped"] is None else f"{100 * run['overlapped']:.0f}"
        row |= {"highest memory, MB": f"{max(values):.0f}", "growth, MB": f"{memory_growth(run):+.0f}"}
        rows.append(row)
    manifests = [run["manifest"] for run in runs]
    said = "; ".join(
        f"{one['command']} ({one['hardware']['device']}, {one['hardware']['torch_threads']} thread(s), {one['date']})"
        for one in manifests
    )
    caption = (
        "Whole runs of pmt protect, one each, decoding and detection included: share of the run that each part took "
        "(finding goes on beside the others, so that they may add up to more than all), and how much of the time of "
        "finding passed while the others went on. That does not make it free: where both use the same processors each "
        "is slower, and a run without the other was not timed. Growth of memory between the medians of the second and "
        f"the last quarter. {said}"
    )
    return styled(pd.DataFrame(rows), caption, "command").hide(axis="index")


def memory_figure(runs: Sequence[Mapping[str, Any]]) -> Figure:
    """Resident memory of whole runs, over the run."""
    frame = pd.DataFrame(
        [
            {"photographs": run["photographs"], "steps": run["steps"], "second": second, "megabytes": megabytes}
            for run in runs
            for second, megabytes in zip(run["memory"]["seconds"], run["memory"]["megabytes"], strict=True)
        ],
        columns=["photographs", "steps", "second", "megabytes"],
    )
    keep("memory", frame)
    figure, axis = plt.subplots(figsize=(6.5, 2.8), layout="constrained")
    for (count, steps), part in frame.groupby(["photographs", "steps"], sort=False):
        share = 100 * part["second"] / part["second"].max()
        axis.plot(share, part["megabytes"], label=f"{count:,} photographs, K = {steps}", linewidth=1.2)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("share of the run, %")
    axis.set_ylabel("resident memory, MB")
    axis.spines[["top", "right"]].set_visible(False)
    if len(frame):
        axis.legend(frameon=False, fontsize=8)
    plt.close(figure)
    return figure


def million_table(runs: Sequence[Run]) -> Styler:
    """Simulated runs, one line a number of machines."""
    rows = [
        {
            "machines": str(run.workers),
            "hours": f"{run.hours:.1f}",
            "machine-hours": f"{run.busy:.0f}",
            "died": str(run.deaths),
            "photographs begun again": str(run.again),
        }
        for run in runs
    ]
    caption = "A million photographs, simulated: not measured on as many machines"
    return styled(pd.DataFrame(rows), caption, "million").hide(axis="index")
