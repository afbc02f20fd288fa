"""Tables and curves that several sections draw: rates with intervals, Eq. 9 against noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from pmtlib.experiments.common import TITLES
from pmtlib.experiments.variants import CALIBRATED
from pmtlib.figures.common import percent, styled
from pmtlib.page_data import keep, slug

PALETTE = "colorblind"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
ROLES = {"authorised": "authorised network", "unauthorised": "other networks, mean"}


def role_rate(line: Mapping[str, Any], role: str) -> str:
    """A rate of a role with its interval below it, in percent (HTML)."""
    return f"{100 * line[role]:.1f}<br>[{100 * line[f'{role}_low']:.1f}, {100 * line[f'{role}_high']:.1f}]"


def value_with_interval(line: Mapping[str, Any], name: str) -> str:
    """A mean with its interval below it (HTML)."""
    return f"{line[name]:.3f}<br>[{line[f'{name}_low']:.3f}, {line[f'{name}_high']:.3f}]"


def up_curves(frame: pd.DataFrame, column: str, *, term: str = "total", label: str = "UP(δ, κ)") -> Figure:
    """Eq. 9, or one of its terms, against the noise bound: a panel a data set, a line a value of ``column``.

    Args:
        frame: from :func:`pmtlib.experiments.variants.up_lines`.
        column: what tells the lines apart.
        term: ``total``, ``utility`` or ``privacy``.
        label: of the vertical axis.
    """
    keep(slug("up", column), frame)
    sets = list(dict.fromkeys(frame["dataset"])) if len(frame) else []
    figure, axes = _panels(len(sets))
    for axis, dataset in zip(axes, sets, strict=False):
        part = frame[frame["dataset"] == dataset]
        for index, (name, line) in enumerate(part.groupby(column, sort=False)):
            _band(axis, line["bound"], line[term], line[f"{term}_low"], line[f"{term}_high"], str(name), index)
        axis.set_title(TITLES.get(str(dataset), str(dataset)))
        axis.set_xlabel("noise bound δ (standard deviation, [0, 1] scale)")
        axis.set_ylabel(f"{label}, κ = {part['kappa'].iloc[0]:g}" if term != "privacy" else label)
        axis.legend(frameon=False, fontsize=8)
    plt.close(figure)
    return figure


def up_table(frame: pd.DataFrame, column: str, title: str) -> Styler:
    """The numbers of :func:`up_curves`: UP and its two terms at each noise bound, with intervals and n."""
    lines = [
        {
            "set": TITLES.get(str(line["dataset"]), str(line["dataset"])),
            column: str(line[column]),
            "δ": f"{line['bound']:g}",
            "UP": value_with_interval(line, "total"),  # type: ignore[arg-type]
            "utility": value_with_interval(line, "utility"),  # type: ignore[arg-type]
            "privacy (LPIPS)": value_with_interval(line, "privacy"),  # type: ignore[arg-type]
            "n": str(line["n"]),
        }
        for line in frame.to_dict("records")
    ]
    kappa = f", κ = {frame['kappa'].iloc[0]:g}" if len(frame) else ""
    caption = (
        f"{title}: UP(δ, κ) of Eq. 9 and its terms{kappa}; 95% intervals over n photographs, Wilson for utility and "
        "else a bootstrap"
    )
    return styled(pd.DataFrame(lines), caption, slug("up", column), frame).hide(axis="index")


def gap_table(by_trunk: Mapping[str, pd.DataFrame], choice: str, title: str) -> Styler:
    """Differences of UP on the same photographs, a row a set and noise bound.

    Args:
        by_trunk: the trunk of LPIPS, and what :func:`pmtlib.experiments.variants.up_gaps` has with it.
        choice: the line that the others are taken from.
        title: of the figure they belong to.
    """
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for trunk, frame in by_trunk.items():
        for line in frame.to_dict("records"):
            row = (TITLES.get(str(line["dataset"]), str(line["dataset"])), f"{line['bound']:g}")
            column = f"minus {line['other']} ({trunk})"
            lines.setdefault(row, {"n": str(line["n"])})[column] = line["gap"].plain().replace(" [", "<br>[")
    table = pd.DataFrame([{"set": name, "δ": bound, **cells} for (name, bound), cells in lines.items()])
    caption = (
        f"{title}: UP of {choice} minus that of another line (with which trunk of LPIPS); 95% bootstrap, n photographs"
    )
    return styled(table, caption, slug(title)).hide(axis="index")


def role_table(frame: pd.DataFrame, column: str, label: str, title: str) -> Styler:
    """The numbers of :func:`role_curves`."""
    part = frame[frame["threshold"] == CALIBRATED] if len(frame) else frame
    lines = []
    for (dataset, value), rows in part.groupby(["dataset", column], sort=False) if len(part) else ():
        line: dict[str, str] = {"set": TITLES.get(str(dataset), str(dataset)), label: f"{value:g}"}
        for row in rows.to_dict("records"):
            line[f"{row['role']} %"] = percent(row)
            line |= {"mean SSIM": f"{row['ssim']:.3f}", "n": str(row["n"])}
        lines.append(line)
    caption = (
        f"{title}: accuracy (Eq. 10, own thresholds), 95% intervals over n pairs, Wilson for one network and a "
        "bootstrap for a mean of several"
    )
    return styled(pd.DataFrame(lines), caption, slug("against", column), part).hide(axis="index")


def role_curves(frame: pd.DataFrame, column: str, label: str, *, logarithmic: bool = False) -> Figure:
    """Accuracy of authorised and other networks, and SSIM, against a parameter: a panel a data set.

    Args:
        frame: from :func:`pmtlib.experiments.variants.role_means`.
        column: the parameter.
        label: of the horizontal axis.
        logarithmic: draw the parameter on a logarithmic axis (0 has its own place).
    """
    frame = frame[frame["threshold"] == CALIBRATED] if len(frame) else frame
    keep(slug("against", column), frame)
    sets = list(dict.fromkeys(frame["dataset"])) if len(frame) else []
    figure, axes = _panels(len(sets))
    for axis, dataset in zip(axes, sets, strict=False):
        part = frame[frame["dataset"] == dataset]
        for index, (role, name) in enumerate(ROLES.items()):
            line = part[part["role"] == role].sort_values(column)
            _band(axis, line[column], line["accuracy"], line["low"], line["high"], name, index)
        alike = part[part["role"] == "authorised"].sort_values(column)
        _band(axis, alike[column], alike["ssim"], None, None, "mean SSIM to the photograph", 2)
        if logarithmic:
            axis.set_xscale("symlog", linthresh=5)
            axis.set_xticks(sorted(set(part[column])), [f"{value:g}" for value in sorted(set(part[column]))])
        axis.set_ylim(-0.03, 1.03)
        axis.set_title(TITLES.get(str(dataset), str(dataset)))
        axis.set_xlabel(label)
        axis.set_ylabel("accuracy (Eq. 10, own thresholds); SSIM")
        axis.legend(frameon=False, fontsize=8)
    plt.close(figure)
    return figure


def _panels(count: int) -> tuple[Figure, Sequence[Axes]]:
    figure, axes = plt.subplots(
        1, max(count, 1), figsize=(1 + 4.4 * max(count, 1), 3.9), squeeze=False, layout="constrained"
    )
    return figure, list(axes[0])


def _band(axis: Axes, x: Any, y: Any, low: Any, high: Any, name: str, index: int) -> None:
    colour = sns.color_palette(PALETTE)[index % 8]
    axis.plot(x, y, marker=MARKERS[index % len(MARKERS)], color=colour, label=name, markersize=4.5, linewidth=1.4)
    if low is not None:
        axis.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    axis.grid(visible=True, alpha=0.25)
