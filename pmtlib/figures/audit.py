"""Figures and tables of the audit. They compute nothing."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from pmtlib.attacks.adaptive.purify import PURIFIERS
from pmtlib.experiments.audit import PHOTOGRAPH, UPLOAD, AuditSettings, Portrait, attacker, best_strengths, label
from pmtlib.experiments.common import TITLES, Outcome
from pmtlib.figures.common import picture, styled
from pmtlib.figures.variants import MARKERS, PALETTE


def audit_table(frame: pd.DataFrame, dataset: str, variant: str, settings: AuditSettings) -> Styler:
    """Every attack on one variant's uploads of one set, weakest first within each kind."""
    part = frame[(frame["dataset"] == dataset) & (frame["variant"] == variant)]
    rows = []
    for line in part.to_dict("records"):
        rows.append(
            {
                "attack": line["attack"],
                "others' TAR %": f"{100 * line['others']:.1f}<br>[{100 * line['others_low']:.1f}, "
                f"{100 * line['others_high']:.1f}]",
                "highest of them": f"{100 * line['highest']:.1f}<br>{line['network']}",
                "own photograph %": f"{100 * line['own']:.1f}",
                "false %": f"{100 * line['false']:.1f}",
                "service %": f"{100 * line['service']:.1f}",
                "SSIM": f"{line['ssim']:.2f}<br>[{line['ssim_low']:.2f}, {line['ssim_high']:.2f}]",
                "highest SSIM": f"{line['ssim_worst']:.2f}",
                "LPIPS": f"{line['lpips']:.2f}",
                "lowest LPIPS": f"{line['lpips_worst']:.2f}",
            }
        )
    count, images = (int(part[name].max()) if len(part) else 0 for name in ("n", "images"))
    caption = (
        f"{TITLES.get(dataset, dataset)}, {variant}: what {settings.authorised}'s upload gives to someone who knows "
        f"the filter. TAR at a FAR of 10⁻² against the person's other photograph, n = {count}, mean over the other "
        "networks with 95% bootstrap interval; own photograph: the same against the photograph itself, "
        f"{images} of them; false: pairs of two people accepted; SSIM and LPIPS (VGG) to the photograph, mean and "
        f"worst case. Lines that begin with '{PHOTOGRAPH}' are controls."
    )
    return styled(pd.DataFrame(rows), caption).hide(axis="index")


def tuning_table(tuned: dict[str, Outcome]) -> Styler:
    """The best strength of each filter for each variant, and the score there."""
    rows = []
    for variant, outcome in tuned.items():
        if outcome.result is None:
            continue
        for one, score in best_strengths(outcome.result):
            rows.append(
                {
                    "variant": variant,
                    "filter": label(one),
                    "strength": f"{one.strength:g}",
                    "unit": PURIFIERS[one.name].unit,
                    "mean cosine": f"{score:.3f}",
                }
            )
    return styled(
        pd.DataFrame(rows),
        "Filters at the strength that gives the highest mean cosine, over the networks that are not authorised, of the "
        "embeddings of filtered upload and photograph; on other people. Before them: no filter, and the contrast alone",
    ).hide(axis="index")


def audit_figure(frame: pd.DataFrame) -> Figure:
    """The other networks' TAR and the mean SSIM after each attack: a row a data set, a colour a variant."""
    sets = list(dict.fromkeys(frame["dataset"])) if len(frame) else []
    shown = attacker(frame)
    names = list(dict.fromkeys(shown["attack"])) if len(shown) else []
    figure, axes = plt.subplots(
        max(len(sets), 1), 2, figsize=(9.5, 0.8 + (0.26 * len(names) + 0.5) * max(len(sets), 1)),
        squeeze=False, layout="constrained", sharey=True,
    )  # fmt: skip
    for row, dataset in zip(axes, sets, strict=False):
        part = shown[shown["dataset"] == dataset]
        clean = frame[(frame["dataset"] == dataset) & (frame["attack"] == PHOTOGRAPH)]
        _points(row[0], part, names, "others", "TAR of the other networks at FAR 10⁻²")
        row[0].axvline(float(clean["others"].iloc[0]), color="0.4", linestyle=":", label="photographs themselves")
        _points(row[1], part, names, "ssim", "mean SSIM to the photograph")
        row[0].set_title(TITLES.get(str(dataset), str(dataset)), loc="left", fontsize=10)
        row[0].legend(frameon=False, fontsize=8)
    plt.close(figure)
    return figure


def strip(portraits: Sequence[Portrait]) -> Figure:
    """A row a portrait: the photograph, its uploads, and what each attacker makes of them."""
    names = list(portraits[0].images) if portraits else []
    figure, axes = plt.subplots(
        max(len(portraits), 1), max(len(names), 1), figsize=(2.3 * max(len(names), 1), 2.9 * max(len(portraits), 1)),
        squeeze=False, layout="constrained", dpi=100,
    )  # fmt: skip
    for row, portrait in zip(axes, portraits, strict=False):
        for axis, name in zip(row, names, strict=True):
            picture(axis, portrait.images[name], portrait.title if name == PHOTOGRAPH else name, portrait.below[name])
    plt.close(figure)
    return figure


def _points(axis: Axes, part: pd.DataFrame, names: list[str], measure: str, title: str) -> None:
    variants = list(dict.fromkeys(part["variant"]))
    for index, variant in enumerate(variants):
        lines = part[part["variant"] == variant]
        places = [names.index(name) + 0.18 * (index - (len(variants) - 1) / 2) for name in lines["attack"]]
        errors = [lines[measure] - lines[f"{measure}_low"], lines[f"{measure}_high"] - lines[measure]]
        axis.errorbar(
            lines[measure], places, xerr=errors, fmt=MARKERS[index], markersize=4.5, linewidth=1.2,
            color=sns.color_palette(PALETTE)[index], label=str(variant),
        )  # fmt: skip
    axis.set_yticks(range(len(names)), ["upload as it is" if name == UPLOAD else name for name in names], fontsize=8)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_xlim(-0.03, 1.03)
    axis.set_xlabel(title, fontsize=9)
    axis.grid(axis="x", alpha=0.3)
