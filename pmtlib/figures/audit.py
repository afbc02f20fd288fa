"""Figures and tables of the audit. They compute nothing."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from pandas.io.formats.style import Styler

from pmtlib.attacks.adaptive.purify import PURIFIERS
from pmtlib.experiments.audit import DEOBFUSCATOR, PHOTOGRAPH, UPLOAD, AuditSettings, Portrait, best_strengths, label
from pmtlib.experiments.audit_beyond import TRANSLATION
from pmtlib.experiments.audit_fused import shown
from pmtlib.experiments.audit_numbers import AGE, ENOUGH, GOALS, attacker, chosen_steps
from pmtlib.experiments.audit_several import FILTERED
from pmtlib.experiments.common import TITLES, Outcome
from pmtlib.figures.common import picture, styled
from pmtlib.figures.variants import MARKERS, PALETTE
from pmtlib.metrics import wilson
from pmtlib.page_data import keep, slug
from pmtlib.variants.deep import CUT, DeepConfig

HALO = [withStroke(linewidth=2, foreground="white")]
"""Around labels, which may lie on lines."""
_RIGHT, _CLOSE = 0.9, 0.05
"""From which place on a label right of a point leaves its panel; how far apart lines must be for one between them."""


def audit_table(frame: pd.DataFrame, dataset: str, variant: str, settings: AuditSettings) -> Styler:
    """Every attack on one variant's uploads of one set, weakest first within each kind."""
    part = frame[(frame["dataset"] == dataset) & (frame["variant"] == variant)]
    rows = []
    for line in part.to_dict("records"):
        rows.append(
            {
                "attack": line["attack"],
                "pairs, images": f"{line['n']}, {line['images']}",
                "others' TAR %": f"{100 * line['others']:.1f}<br>[{100 * line['others_low']:.1f}, "
                f"{100 * line['others_high']:.1f}]",
                "highest of them": f"{100 * line['highest']:.1f}<br>{line['network']}",
                "own photograph %": f"{100 * line['own']:.1f}",
                "false %": "" if pd.isna(line["false"]) else f"{100 * line['false']:.1f}",
                "service %": "" if pd.isna(line["service"]) else f"{100 * line['service']:.1f}",
                **_likeness(line),
            }
        )
    caption = (
        f"{TITLES.get(dataset, dataset)}, {variant}: what {settings.authorised}'s upload gives to someone who knows "
        "the filter. TAR at a FAR of 10⁻² against the person's other photograph, mean over the pairs of one person and "
        "the other networks, with 95% bootstrap interval; own photograph: the same against the photograph itself, of "
        "all images; false: pairs of two people accepted, where any were met; SSIM and LPIPS (VGG) to the "
        f"photograph, mean and worst case. Lines that begin with '{PHOTOGRAPH}' are controls."
    )
    return styled(pd.DataFrame(rows), caption, slug("attacks", dataset, variant), part).hide(axis="index")


def _likeness(line: Mapping[Any, Any]) -> dict[str, str]:
    """The cells on how alike the photograph it is; empty where there is no image."""
    if pd.isna(line["ssim"]):
        return dict.fromkeys(("SSIM", "highest SSIM", "LPIPS", "lowest LPIPS"), "")
    return {
        "SSIM": f"{line['ssim']:.2f}<br>[{line['ssim_low']:.2f}, {line['ssim_high']:.2f}]",
        "highest SSIM": f"{line['ssim_worst']:.2f}",
        "LPIPS": f"{line['lpips']:.2f}",
        "lowest LPIPS": f"{line['lpips_worst']:.2f}",
    }


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
    people = max((one.result.request.parameters["people"] for one in tuned.values() if one.result), default=0)
    return styled(
        pd.DataFrame(rows),
        "Filters at the strength that gives the highest mean cosine, over the networks that are not authorised, of the "
        f"embeddings of filtered upload and photograph; on {people} other people. Before them: no filter, and the "
        "contrast alone",
        "tuning",
    ).hide(axis="index")


def choice_table(outcome: Outcome) -> Styler:
    """Candidates for a better filter, and what each leaves."""
    if outcome.result is None:
        return _candidates(outcome, f"Candidates for a better filter: {outcome.note}", "candidates")
    enough = chosen_steps(outcome, f"deep, {CUT}")
    wanted = "at none of the numbers tried" if enough is None else f"at K = {enough}"
    caption = (
        f"Candidates for a better filter on {outcome.result.data['n']} people of LFW who are in no pair: share of "
        "uploads recognised by another photograph of the person at a FAR of 10⁻², for the service with 95% Wilson "
        "interval, for the others the mean of the networks. The default of the variant deep, K = "
        f"{DeepConfig().steps}, came from an easier rule: the smallest K at which the service recognised every upload "
        "by the very photograph. Of uploads of deep it recognises "
        f"at least {100 * ENOUGH:.0f}% of what it recognises of photographs {wanted}"
    )
    return _candidates(outcome, caption, "candidates")


def decoys_table(outcome: Outcome) -> Styler:
    """Ways to tune the decoy, and what each leaves."""
    if outcome.result is None:
        return _candidates(outcome, f"Ways to tune the decoy: {outcome.note}", "decoys")
    caption = (
        f"Ways to tune the decoy, on the same {outcome.result.data['n']} people and in the same numbers: anchors at "
        "four scales, a step size that falls to 0, and with or without a purification in each step; the number after "
        "purified is its weight"
    )
    return _candidates(outcome, caption, "decoys")


def _candidates(outcome: Outcome, caption: str, name: str) -> Styler:
    rows = []
    if outcome.result is not None:
        n = outcome.result.data["n"]
        for title, entry in outcome.result.values.items():
            candidate, _, steps = title.partition(", K = ")
            low, high = wilson(round(entry["service"] * n), n)
            rows.append(
                {
                    "candidate": candidate,
                    "K": steps,
                    "service %": f"{100 * entry['service']:.0f} [{100 * low:.0f}, {100 * high:.0f}]",
                    "others % as it is": f"{100 * entry['others'][0]:.0f}",
                    "others % after the best blur": f"{100 * max(entry['others']):.0f}",
                    "highest SSIM": f"{max(entry['ssim'] if steps else entry['ssim'][1:]):.2f}",
                }
            )
    return styled(pd.DataFrame(rows), caption, name).hide(axis="index")


def audit_figure(frame: pd.DataFrame) -> Figure:
    """The other networks' TAR and the mean SSIM after each attack: a row a data set, a colour a variant."""
    sets = list(dict.fromkeys(frame["dataset"])) if len(frame) else []
    shown = attacker(frame)
    keep("attacks", shown)
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
        # Above the panel: inside it there is always a point in the way.
        row[0].legend(
            frameon=False,
            fontsize=8,
            loc="lower right",
            bbox_to_anchor=(1, 0.99),
            ncols=3,
            handlelength=1,
            columnspacing=1,
        )
    plt.close(figure)
    return figure


def frontier_figure(points: pd.DataFrame) -> Figure:
    """Utility against leak under the best attacker: a row a data set, a panel a measure of the leak, a line a variant.

    A point is a number of steps. In the first panel all attackers compete, in the others those that make an image. The
    dotted line of a variant is its bound: what the attacker trained on photographs makes of the photographs' own
    features at its cut. On the diagonal of the rates an attacker recognises as much as the service.
    """
    keep("frontier", points)
    sets = list(dict.fromkeys(points["dataset"])) if len(points) else []
    panels = (
        ("others", "bound_best", "TAR of the other networks\nbest attacker"),
        ("restored", "bound", "TAR of the other networks\nbest restored image"),
        ("ssim", "bound_ssim", "mean SSIM\nbest restored image"),
    )
    figure, axes = plt.subplots(
        max(len(sets), 1), 3, figsize=(11, 0.6 + 3.5 * max(len(sets), 1)), squeeze=False, layout="constrained"
    )
    for row, dataset in zip(axes, sets, strict=False):
        part = points[points["dataset"] == dataset]
        for axis, (measure, bound, title) in zip(row, panels, strict=True):
            for index, (variant, line) in enumerate(part.groupby("variant", sort=False)):
                colour = sns.color_palette(PALETTE)[index]
                errors = [line[measure] - line[f"{measure}_low"], line[f"{measure}_high"] - line[measure]]
                axis.errorbar(
                    line["service"], line[measure], yerr=errors, color=colour, marker=MARKERS[index], markersize=5,
                    linewidth=1, elinewidth=0.8, label=str(variant),
                )  # fmt: skip
                # The ends above the line and what is between them below it, or the labels would lie on one another.
                for place, at in enumerate(line.to_dict("records")):
                    end, right = place in (0, len(line) - 1), at["service"] > _RIGHT
                    axis.annotate(
                        f"K={at['steps']}", (at["service"], at[measure]), fontsize=7, textcoords="offset points",
                        ha="right" if end or right else "left", xytext=(-5 if end or right else 4, 3 if end else -10),
                        color=colour, path_effects=HALO, zorder=1.9,
                    )  # fmt: skip
                axis.axhline(float(line[bound].iloc[0]), color=colour, linestyle=":", linewidth=1)
            axis.axvline(float(part["clean"].iloc[0]), color="0.4", linestyle="--", linewidth=0.8)
            if measure != "ssim":
                axis.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, zorder=0)
            axis.set_xlim(-0.03, 1.05)
            axis.set_ylim(-0.03, 1.05)
            axis.set_xlabel("TAR of the service (dashed: on photographs)", fontsize=8)
            axis.set_ylabel(title, fontsize=8)
            heading = f"{TITLES.get(str(dataset), str(dataset))}, n = {int(part['n'].max())}"
            axis.set_title(heading, loc="left", fontsize=10)
            axis.grid(alpha=0.3)
        # Lines go over the top and bounds through the middle; this corner is the only one that is always empty.
        row[0].legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(0.93, 0.0))
    plt.close(figure)
    return figure


def goals_table(frame: pd.DataFrame) -> Styler:
    """Each variant against the transform as published, and whether it reaches what a better filter is to reach."""
    rows = []
    for line in frame.to_dict("records"):
        what, least, most_others, most_ssim = GOALS[line["against"]]
        rows.append(
            {
                "set": TITLES.get(line["dataset"], line["dataset"]),
                "variant": line["variant"],
                "K": f"{line['steps']}{'' if line['own'] else ' (frontier)'}",
                "against": _breaking(what),
                "service, of clean": f"{100 * line['service']:.0f}% (≥ {100 * least:.0f}%)",
                "others, of the published": f"{100 * line['others']:.0f}% (≤ {100 * most_others:.0f}%)",
                "SSIM, of the published": f"{100 * line['ssim']:.0f}% (≤ {100 * most_ssim:.0f}%)",
                "others' TAR %": f"{100 * line['others_value']:.1f}<br>"
                f"[{100 * line['others_low']:.1f}, {100 * line['others_high']:.1f}]",
                "SSIM": f"{line['ssim_value']:.2f}",
                "best attack": _breaking(line["attack"]),
                "goal": _breaking(_goal(line), 11),
            }
        )
    caption = (
        "What a variant leaves to the best attacker, as a share of what the transform as published leaves to its own "
        "best attacker, and the goals. The first two were set beforehand; the third, which holds a filter to the same "
        "limits against every attack, came with translation. The variant and its K were chosen on people of LFW who "
        "are in no pair; a K of the frontier was not, so that what it reaches here is an observation, not a test. TAR "
        f"with 95% bootstrap interval over {int(frame['n'].max()) if len(frame) else 0} pairs of one person."
    )
    return styled(pd.DataFrame(rows), caption, "goals", frame).hide(axis="index")


def _goal(line: Mapping[Any, Any]) -> str:
    if not line["reached"]:
        return "not reached"
    return "reached" if line["own"] else "reached, seen after"


def _breaking(words: str, width: int = 20) -> str:
    """Words in lines of so many letters at most, for a cell."""
    return "<br>".join(textwrap.wrap(words, width, break_on_hyphens=False))


def linkage_table(frame: pd.DataFrame) -> Styler:
    """Linkage of uploads, means over the networks that are not authorised."""
    rows = []
    keys = ["dataset", "variant", "condition", "gallery"]
    for (dataset, variant, condition, gallery), part in frame.groupby(keys, sort=False) if len(frame) else ():
        strangers = f" and {int(part['distractors'].iloc[0])} strangers" if part["distractors"].iloc[0] else ""
        rows.append(
            {
                "set": TITLES.get(str(dataset), str(dataset)),
                "variant": variant,
                "attacker holds": condition,
                "compares with": f"{gallery}{strangers}",
                **_linked(part),
                "by chance": f"{part['chance'].mean():.2f}",
                "rank 5 %": f"{100 * part['rank5'].mean():.1f}",
            }
        )
    caption = (
        f"Linkage by networks that are not authorised. {_LINKED} By chance: D_sys with shuffled labels. Identification "
        f"of {_probes(frame)} probes among the second photographs of all pairs; uploads compared with uploads are "
        "treated alike on both sides"
    )
    return styled(pd.DataFrame(rows), caption, "linkage", frame).hide(axis="index")


_LINKED = (
    "D_sys: 0 unlinkable, 1 fully linkable; mean over the networks, and the highest of them with a 95% bootstrap over "
    "people, which near 0 lies too high."
)


def _linked(part: pd.DataFrame) -> dict[str, str]:
    """What every table of linkage says of some networks' numbers on one gallery."""
    worst = max(part.to_dict("records"), key=lambda line: float(line["d_sys"]))
    return {
        "D_sys, mean": f"{part['d_sys'].mean():.2f}",
        "highest": f"{worst['d_sys']:.2f} [{worst['low']:.2f}, {worst['high']:.2f}]<br>{worst['network']}",
        "rank 1 %": f"{100 * part['rank1'].mean():.1f}",
    }


def _probes(frame: pd.DataFrame) -> int:
    return int(frame["probes"].max()) if len(frame) else 0


def filtered_linkage_table(frame: pd.DataFrame) -> Styler:
    """Linkage after each filter: a row a set, variant and filter; against photographs and against filtered uploads."""
    rows = []
    # Both stand in the table of linkage.
    shown = frame[~frame["condition"].isin([PHOTOGRAPH, UPLOAD])] if len(frame) else frame
    keys = ["dataset", "variant", "condition"]
    for (dataset, variant, condition), part in shown.groupby(keys, sort=False) if len(shown) else ():
        row = {"set": TITLES.get(str(dataset), str(dataset)), "variant": variant, "filter": condition}
        for gallery, lines in part.groupby("gallery", sort=False):
            row |= {f"{gallery}: {name}": cell for name, cell in _linked(lines).items()}
        rows.append(row)
    strangers = int(frame["distractors"].max()) if len(frame) else 0
    chance = f"By chance {shown['chance'].min():.2f} to {shown['chance'].max():.2f}. " if len(shown) else ""
    caption = (
        f"The same after every filter, each at the strength that was tuned on other people. {_LINKED} {chance}"
        f"{_probes(frame)} probes are compared with photographs, {strangers} strangers among them, and with uploads "
        "that were filtered likewise"
    )
    return styled(pd.DataFrame(rows), caption, "linkage-after-filters", frame).hide(axis="index")


def settings_figure(frame: pd.DataFrame, bounds: pd.DataFrame) -> Figure:
    """Every setting: the service's TAR and what other networks recognise after a filter, and translated.

    A line is a setting over its numbers of steps. A row a data set; the diagonal as in :func:`frontier_figure`. Dotted:
    what translators make of photographs, for each cut.
    """
    sets = list(dict.fromkeys(frame["dataset"])) if len(frame) else []
    keep("settings", frame)
    names = list(dict.fromkeys(frame["setting"])) if len(frame) else []
    panels = (
        ("filters", "TAR of the other networks\nbest filter"),
        ("translated", "TAR of the other networks\ntranslation"),
    )
    figure, axes = plt.subplots(
        max(len(sets), 1), 2, figsize=(9.5, 0.8 + 4.0 * max(len(sets), 1)), squeeze=False, layout="constrained",
        sharex=True, sharey=True,
    )  # fmt: skip
    colours = sns.color_palette(PALETTE, len(MARKERS))
    for row, dataset in zip(axes, sets, strict=False):
        part = frame[frame["dataset"] == dataset]
        for axis, (measure, title) in zip(row, panels, strict=True):
            for index, name in enumerate(names):
                line = part[part["setting"] == name].sort_values("steps")
                errors = [line[measure] - line[f"{measure}_low"], line[f"{measure}_high"] - line[measure]]
                axis.errorbar(
                    line["service"], line[measure], yerr=errors, color=colours[_family(name)],
                    marker=MARKERS[index % len(MARKERS)], markersize=5, linewidth=1, elinewidth=0.7, alpha=0.9,
                    label=name,
                )  # fmt: skip
            axis.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, zorder=0)
            if measure == "translated" and len(bounds):
                here = bounds[bounds["dataset"] == dataset]
                for index, line in enumerate(here.to_dict("records")):
                    axis.axhline(line["bound"], color="0.4", linestyle=":", linewidth=1)
                    # Below its line where another is close above it.
                    close = ((here["bound"] > line["bound"]) & (here["bound"] < line["bound"] + _CLOSE)).any()
                    axis.annotate(
                        f"photographs, {line['cut']}", (0.2 * index, line["bound"]), fontsize=7, color="0.3",
                        xytext=(0, -8 if close else 2), textcoords="offset points", path_effects=HALO,
                    )  # fmt: skip
            axis.set_xlim(-0.03, 1.03)
            axis.set_ylim(-0.03, 1.03)
            axis.set_xlabel("TAR of the service", fontsize=8)
            axis.set_ylabel(title, fontsize=8)
            axis.set_title(
                f"{TITLES.get(str(dataset), str(dataset))}, n = {int(part['n'].max())}", loc="left", fontsize=10
            )
            axis.grid(alpha=0.3)
    if names:
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    plt.close(figure)
    return figure


def _family(setting: str) -> int:
    """The place of a setting's variant among the variants: the colour of its lines."""
    return ("pmt", "deep", "pooled", "decoy", "embedding").index(setting.split(",")[0].split(" ")[0])


def settings_table(frame: pd.DataFrame) -> Styler:
    """Every setting at every number of steps."""
    columns = {"service": "service %", "filters": "others, best filter %", "translated": "others, translated %"}
    caption = (
        "Every setting on the evaluated sets: TAR at a FAR of 10⁻² against the person's other photograph, the "
        "service's with 95% Wilson interval, the other networks' mean with 95% bootstrap interval over pairs; highest "
        f"SSIM: the mean of the upload as it is or after a filter. n = {_pairs_of_one(frame)} pairs of one person a set"
    )
    return _settings(frame, columns, caption, "settings")


def loop_table(frame: pd.DataFrame) -> Styler:
    """Settings that meet an attacker who learned from their uploads."""
    columns = {
        "service": "service %",
        "filters": "others, best filter %",
        "translated": "others, translated %",
        "learned": "others, translated by who learned from uploads %",
    }
    caption = (
        "An attacker who is trained after the filter: TAR at a FAR of 10⁻² against the person's other photograph, with "
        f"95% intervals as above. n = {_pairs_of_one(frame)} pairs of one person a set"
    )
    return _settings(frame, columns, caption, "attacker-in-the-loop")


def again_table(frame: pd.DataFrame, name: str = "again") -> Styler:
    """Every attack of a test on other people, a column pair a set; of filtered averages the strongest on each set."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    count = frame["attack"].str.extract(r"^(\d+ copies), ", expand=False)
    best = frame.groupby([count, "dataset", "variant"])["others"].idxmax()
    shown = set(frame.loc[best, "attack"])
    for line in frame[count.isna() | frame["attack"].isin(shown)].to_dict("records"):
        made = f"{line['variant']}, K = {line['steps']}" if line["steps"] else ""
        row = rows.setdefault((made, line["attack"]), {"uploads": made, "attack": line["attack"]})
        title = TITLES.get(line["dataset"], line["dataset"])
        low, high = 100 * line["others_low"], 100 * line["others_high"]
        row |= {
            f"{title}: service %": f"{100 * line['service']:.0f}",
            f"{title}: others %": f"{100 * line['others']:.0f} [{low:.0f}, {high:.0f}]",
            f"{title}: SSIM": f"{line['ssim']:.2f}",
        }
    caption = (
        "People who are in no evaluated pair: TAR at a FAR of 10⁻² against the person's other photograph, the others' "
        f"with 95% bootstrap interval over {_pairs_of_one(frame)} pairs of one person a set"
        + "; of averages of uploads the filter that gives most on a set, the others in the data"
        * bool(shown)
    )
    return styled(pd.DataFrame(list(rows.values())), caption, name, frame).hide(axis="index")


def _pairs_of_one(frame: pd.DataFrame) -> int:
    return int(frame["n"].max()) if len(frame) else 0


def _settings(frame: pd.DataFrame, columns: Mapping[str, str], caption: str, name: str) -> Styler:
    rows = [
        {
            "set": TITLES.get(line["dataset"], line["dataset"]),
            "setting": line["setting"],
            "K": line["steps"],
            **{
                title: f"{100 * line[kind]:.0f} [{100 * line[f'{kind}_low']:.0f}, {100 * line[f'{kind}_high']:.0f}]"
                for kind, title in columns.items()
            },
            "highest SSIM": f"{line['ssim']:.2f}",
        }
        for line in frame.to_dict("records")
    ]
    return styled(pd.DataFrame(rows), caption, name, frame).hide(axis="index")


def several_figure(frame: pd.DataFrame) -> Figure:
    """What the networks recognise as one of uploads of so many photographs: a panel a data set, a colour a filter.

    Dashed lines are filtered uploads, solid ones translations; the dotted grey line is the photographs.

    Args:
        frame: of :func:`pmtlib.experiments.audit_several.table`.
    """
    keep("several-photographs", frame)
    sets = list(dict.fromkeys(frame["dataset"])) if len(frame) else []
    figure, axes = plt.subplots(
        1, max(len(sets), 1), figsize=(4.6 * max(len(sets), 1), 3.6), squeeze=False, sharey=True, layout="constrained"
    )
    for axis, dataset in zip(axes[0], sets, strict=False):
        part = frame[frame["dataset"] == dataset]
        for index, (way, mine) in enumerate(part.groupby("way", sort=False)):
            colour = sns.color_palette(PALETTE)[index]
            for attack, style in ((FILTERED, "--"), (TRANSLATION, "-")):
                line = mine[mine["attack"] == attack].sort_values("photographs")
                errors = [line["together"] - line["together_low"], line["together_high"] - line["together"]]
                axis.errorbar(
                    line["photographs"] * (1 + 0.02 * (index - 1)), line["together"], yerr=errors, color=colour,
                    linestyle=style, marker=MARKERS[index], markersize=5, linewidth=1, elinewidth=0.8,
                    label=f"{way}, {attack}",
                )  # fmt: skip
        line = part[part["attack"] == PHOTOGRAPH].drop_duplicates("photographs").sort_values("photographs")
        axis.plot(line["photographs"], line["together"], color="0.4", linestyle=":", label=PHOTOGRAPH)
        counts = sorted(set(line["photographs"]))
        axis.set_xscale("log", base=2)
        axis.set_xticks(counts, [str(count) for count in counts])
        axis.set_ylim(-0.03, 1.05)
        axis.set_xlabel("photographs of a person whose uploads are put together", fontsize=8)
        axis.set_title(
            f"{TITLES.get(str(dataset), dataset)}, n = {int(part['n'].max())} people", loc="left", fontsize=10
        )
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("TAR of the other networks, all as one", fontsize=8)
    if sets:
        # Lines run everywhere, so that no corner of a panel is free.
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, frameon=False, fontsize=7, loc="outside lower center", ncols=4)
    plt.close(figure)
    return figure


def traits_table(frame: pd.DataFrame) -> Styler:
    """Agreement of attributes with those of the photograph, a column a condition."""
    rows = []
    keys = ["dataset", "variant", "network", "attribute"]
    for (dataset, variant, network, attribute), part in frame.groupby(keys, sort=False) if len(frame) else ():
        row = {"set": TITLES.get(str(dataset), str(dataset)), "variant": variant, "network": network}
        row["attribute"] = str(attribute)
        scale, digits = (1, 1) if attribute == AGE else (100, 0)
        for line in part.to_dict("records"):
            low, high = scale * line["low"], scale * line["high"]
            row[str(line["condition"])] = (
                f"{scale * line['agreement']:.{digits}f}<br>[{low:.{digits}f}, {high:.{digits}f}]"
            )
        rows.append(row)
    parts = frame.groupby("dataset", sort=False)["n"] if len(frame) else ()
    counted = ", ".join(f"{part.max()} of {TITLES.get(str(name), name)}" for name, part in parts)
    caption = (
        "Attributes of what an attacker holds against those that the same network reads from the photograph: agreement "
        "of the likeliest label, percent, with 95% Wilson interval; for ages the mean absolute difference, years, with "
        "a bootstrap interval. Another person: what somebody else's photograph agrees to, the level of chance. "
        f"Photographs: {counted or 0}"
    )
    return styled(pd.DataFrame(rows).fillna(""), caption, "attributes", frame).hide(axis="index")


def translation_table(frame: pd.DataFrame) -> Styler:
    """What each network recognises by translation: a row a set, variant and condition, a column a network."""
    rows = []
    for (dataset, variant, condition), part in frame.groupby(["dataset", "variant", "condition"], sort=False):
        row = {"set": TITLES.get(str(dataset), str(dataset)), "variant": variant, "translated": condition}
        for line in part.to_dict("records"):
            row[f"{line['network']} %"] = (
                f"{100 * line['accuracy']:.0f}<br>[{100 * line['low']:.0f}, {100 * line['high']:.0f}]"
            )
        row["mean %"] = f"{100 * part['accuracy'].mean():.0f}"
        row["false %"] = f"{100 * part['false'].mean():.1f}"
        row["learned from"] = f"{part['images'].iloc[0]} of {part['people'].iloc[0]} people"
        rows.append(row)
    caption = (
        "TAR by translation, against the embedding of the person's other photograph, with 95% Wilson interval; n = "
        f"{int(frame['n'].max())} pairs of one person. The thresholds are those of a FAR of 10⁻² among people of the "
        "training set who were held out, and who count under *learned from*; false: pairs of two people accepted, mean"
    )
    return styled(pd.DataFrame(rows), caption, "translation", frame).hide(axis="index")


def together_table(frame: pd.DataFrame) -> Styler:
    """The rates of the front page, of the pairs of all sets together."""
    named = {"photograph": "none: photographs", "upload": "none: uploads as they are", "filters": "the best filter"}
    named |= {"learned": "the best learner", "translated": "translation"}
    named["averaged_translated"] = "translation of the mean of several uploads"
    rows = []
    for (variant, kind), part in frame.groupby(["variant", "kind"], sort=False):
        row = {"variant": variant, "attack": named[str(kind)], "service %": ""}
        for line in part.to_dict("records"):
            rate = f"{100 * line['accuracy']:.1f}<br>[{100 * line['low']:.1f}, {100 * line['high']:.1f}]"
            row[f"{line['who']} %"] = rate
        rows.append({**row, "which": "" if kind in ("photograph", "upload") else part["attack"].iloc[0]})
    caption = (
        f"TAR at FAR 10⁻² of the pairs of all sets together, n = {int(frame['n'].max())} of one person, with 95% "
        "interval: Wilson for the service, bootstrap over pairs for the mean of the others. The best attack is picked "
        "on each set in the attacker's favour: which"
    )
    return styled(pd.DataFrame(rows), caption, "together", frame).hide(axis="index")


def fused_table(frame: pd.DataFrame) -> Styler:
    """What the networks recognise together, beside what they do one by one.

    Args:
        frame: of :func:`pmtlib.experiments.audit_fused.table`; of its settings a choice is shown.
    """
    rows = [
        {
            "set": TITLES.get(line["dataset"], line["dataset"]),
            "pairs": line["pairs"],
            "uploads": line["uploads"],
            "attack": line["attack"],
            "mean of all %": f"{100 * line['mean']:.0f}",
            "the best one %": f"{100 * line['single']:.0f}",
            "together %": f"{100 * line['fused']:.0f} [{100 * line['low']:.0f}, {100 * line['high']:.0f}]",
            "false %": f"{100 * line['false']:.0f}",
        }
        for line in shown(frame).to_dict("records")
    ]
    caption = (
        f"TAR of uploads as they are and under the attack that gives most, n = {_pairs_of_one(frame)} pairs of one "
        "person a set. Mean of all: each network by itself, thresholds of photographs, as in the rest of this page. "
        "The best one, and together: thresholds of a FAR of 10⁻² from pairs of two people of the other set under the "
        "same attack, with 95% Wilson interval; false: what of as many pairs of two people all together accept here"
    )
    return styled(pd.DataFrame(rows), caption, "together-by-fusion", frame).hide(axis="index")


def stitching_table(frame: pd.DataFrame) -> Styler:
    """The stitched recogniser on photographs and on uploads."""
    rows = [
        {
            "set": TITLES.get(line["dataset"], line["dataset"]),
            "variant": line["variant"],
            "it sees": line["condition"],
            "TAR %": f"{100 * line['accuracy']:.1f}<br>[{100 * line['low']:.1f}, {100 * line['high']:.1f}]",
            "false %": f"{100 * line['false']:.1f}",
            "people it learned from": line["people"],
        }
        for line in frame.to_dict("records")
    ]
    caption = (
        "A network of an unauthorised party, stitched to the shared shallow model and tuned on labelled photographs of "
        "another data set; TAR with 95% Wilson interval at the threshold of a FAR of 10⁻² among people held out of its "
        "training, "
        f"n = {int(frame['n'].max())} pairs of one person a set; false: accepted pairs of two people"
    )
    return styled(pd.DataFrame(rows), caption, "stitching", frame).hide(axis="index")


def service_table(frame: pd.DataFrame) -> Styler:
    """What the authorised service recognises after processing."""
    rows = []
    keys = ["dataset", "variant", "processing"]
    for (dataset, variant, processing), part in frame.groupby(keys, sort=False) if len(frame) else ():
        row = {"set": TITLES.get(str(dataset), str(dataset)), "variant": variant, "service": processing}
        for line in part.to_dict("records"):
            seen = "" if pd.isna(line["detected"]) else f"<br>face found in {100 * line['detected']:.0f}%"
            low, high = 100 * line["low"], 100 * line["high"]
            row[f"{line['condition']}s, TAR %"] = f"{100 * line['accuracy']:.1f} [{low:.1f}, {high:.1f}]{seen}"
        rows.append(row)
    caption = (
        "The authorised service's TAR at a FAR of 10⁻² with 95% Wilson interval, on what it makes of what it gets; "
        f"n = {int(frame['n'].max()) if len(frame) else 0} pairs of one person a set"
    )
    return styled(pd.DataFrame(rows), caption, "service", frame).hide(axis="index")


def strip(portraits: Sequence[Portrait]) -> Figure:
    """A row a portrait: the photograph, its uploads, and what each attacker makes of them."""
    names = list(portraits[0].images) if portraits else []
    below = [(one.title, name, words) for one in portraits for name, words in one.below.items()]
    keep("portraits", pd.DataFrame(below, columns=["photograph", "image", "numbers"]))
    figure, axes = plt.subplots(
        max(len(portraits), 1), max(len(names), 1), figsize=(2.3 * max(len(names), 1), 2.9 * max(len(portraits), 1)),
        squeeze=False, layout="constrained", dpi=92,
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


def portrait_row(portrait: Portrait, variants: Sequence[str]) -> Figure:
    """One photograph and, for each variant, its upload and what attackers make of it: the picture of the README."""
    shown = {PHOTOGRAPH: "photograph"}
    for variant in variants:
        for name in portrait.images:
            if name == variant:
                shown[name] = f"upload by {variant}"
            elif name.startswith(f"{variant}, ") and "copies" not in name:
                attack = name.removeprefix(f"{variant}, ")
                shown[name] = "a network learned\nto undo it" if attack == DEOBFUSCATOR else f"{attack} filter"
    figure, axes = plt.subplots(1, len(shown), figsize=(1.75 * len(shown), 2.5), layout="constrained")
    for axis, (name, title) in zip(axes, shown.items(), strict=True):
        below = portrait.title.replace(" (", "\n(") if name == PHOTOGRAPH else portrait.below[name].replace(", ", "\n")
        picture(axis, portrait.images[name], title, below)
    plt.close(figure)
    return figure


def main(target: str) -> None:
    """Draw the README's picture to ``target``: a public-domain portrait, uploads of it, and attacks on those."""
    from pmtlib import devices
    from pmtlib.experiments.audit import Audit, audit_settings

    settings = audit_settings("paper")
    audit = Audit(settings.model_copy(update={"copies": (1,)}), devices.resolve("auto"))
    (portrait,) = audit.portraits(1, {variant: audit.tuning(variant) for variant in settings.thorough})
    portrait_row(portrait, settings.thorough).savefig(target, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    import sys

    main(sys.argv[1])
