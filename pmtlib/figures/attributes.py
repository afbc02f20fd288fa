"""Figures and tables of Section 6.5, defence against attribute estimation. They compute nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from pmtlib.experiments.attributes import (
    ALL,
    BLURRED,
    KIND_TITLES,
    NOISY,
    NOISY_BLURRED,
    ORIGINAL,
    OTHERS,
    PMT,
    UPLOADS,
    WEAKER,
    AttributesBlock,
    AttributesSettings,
    Portrait,
)
from pmtlib.experiments.common import TITLES
from pmtlib.figures.common import percent, picture, styled
from pmtlib.figures.common import provenance_table as _provenance_table
from pmtlib.page_data import keep, slug

# Okabe and Ito's colours, told apart with any colour vision; the shape of the marker says the same once more.
_MARKS = {
    NOISY: ("o", "#E69F00"),
    WEAKER: ("v", "#D55E00"),
    PMT: ("s", "#0072B2"),
    NOISY_BLURRED: ("o", "#F0E442"),
    BLURRED: ("s", "#56B4E9"),
    OTHERS: ("D", "#555555"),
}


def _title(dataset: str) -> str:
    return "all sets" if dataset == ALL else TITLES.get(dataset, dataset)


def _between(line: Mapping[Any, Any], value: str, digits: int) -> str:
    if np.isnan(line[value]):
        return "–"
    return f"{line[value]:.{digits}f}<br>[{line['low']:.{digits}f}, {line['high']:.{digits}f}]"


def _count(table: pd.DataFrame, kind: str = PMT) -> int:
    images = table[table["kind"] == kind]["n"]
    return int(images.max()) if len(images) else 0


def table8(table: pd.DataFrame, ages: pd.DataFrame, dataset: str, settings: AttributesSettings) -> Styler:
    """Our block of Table 8: kinds of image down; similarities by network and attribute, and years, across.

    Args:
        table: from :func:`pmtlib.experiments.attributes.attribute_table`.
        ages: from :func:`pmtlib.experiments.attributes.age_table`.
        dataset: which block.
        settings: of the section.
    """
    columns: dict[tuple[str, str], dict[str, str]] = {}
    chosen = table[table["dataset"] == dataset]
    for line in chosen.to_dict("records"):
        heading = (f"{line['attribute'].capitalize()}, CosSim", str(line["network"]))
        columns.setdefault(heading, {})[line["kind"]] = _between(line, "cossim", 2)
    for line in ages[ages["dataset"] == dataset].to_dict("records"):
        columns.setdefault(("Age, years apart", str(line["network"])), {})[line["kind"]] = _between(line, "years", 1)
    frame = pd.DataFrame(columns).reindex([*UPLOADS, OTHERS]).rename(index=KIND_TITLES)
    count = _count(chosen)
    caption = (
        f"{_title(dataset)}: how alike the attributes of what is uploaded and of the photograph are (Eq. 11), and how "
        f"far apart the ages, mean with 95% bootstrap interval over persons; n = {count} "
        f"images, δ with σ = {settings.noise}, PMT for {settings.authorised}, seed {settings.pmt.seed}. The last line "
        "compares clean photographs of two different people."
    )
    both = pd.concat([chosen, ages[ages["dataset"] == dataset]], ignore_index=True)
    return styled(frame, caption, slug("table 8", dataset), both)


def paper_table8(table: Mapping[str, Any], dataset: str) -> Styler:
    """The paper's block of Table 8, as printed."""
    columns = [f"{name}, {'years apart' if name == 'Age' else 'CosSim'}" for name in table["columns"]]
    rows = {label: [f"{value:.2f}" for value in values] for label, values in table["datasets"][dataset].items()}
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=columns).loc[["x + delta", "PMT(x)"]]
    frame = frame.rename(index={"x + delta": KIND_TITLES[NOISY]})
    caption = f"{TITLES[dataset]}: the paper's Table 8, DeepFace's networks; n is not given"
    return styled(frame, caption, slug("paper table 8", dataset))


def agreement_table(table: pd.DataFrame, dataset: str, kinds: Sequence[str] = UPLOADS) -> Styler:
    """How often the upload is given the photograph's label, with the agreement that chance would give."""
    chosen = table[table["dataset"] == dataset]
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for line in chosen.to_dict("records"):
        values = {"accuracy": line["agreement"], "low": line["agreement_low"], "high": line["agreement_high"]}
        text = "–" if np.isnan(line["agreement"]) else percent(values)
        if not np.isnan(line["chance"]):
            text += f"<br>chance {100 * line['chance']:.1f}"
        rows.setdefault((line["attribute"], line["network"]), {})[KIND_TITLES[line["kind"]]] = text
    columns = [KIND_TITLES[kind] for kind in (*kinds, OTHERS)]
    frame = pd.DataFrame.from_dict(rows, orient="index").reindex(columns=columns)
    frame.index = pd.MultiIndex.from_tuples(list(rows), names=["attribute", "network"])
    count = _count(chosen, kinds[-1])
    caption = (
        f"{_title(dataset)}: images with the photograph's likeliest label, percent with 95% Wilson interval, and what "
        f"labels without any connection would give; n = {count} images. The last "
        "column compares clean photographs of two different people."
    )
    return styled(frame, caption, slug("labels", dataset, *(() if kinds == UPLOADS else ("rebuilt",))), chosen)


def years_table(ages: pd.DataFrame, kinds: Sequence[str]) -> Styler:
    """How far apart the ages of photograph and image are, a row a set and network, from :func:`age_table`."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for line in ages.to_dict("records"):
        cells = rows.setdefault((_title(line["dataset"]), str(line["network"])), {})
        cells[KIND_TITLES[line["kind"]]] = _between(line, "years", 1)
        if line["kind"] == kinds[-1]:
            cells["n"] = str(line["n"])
    columns = [*(KIND_TITLES[kind] for kind in (*kinds, OTHERS)), "n"]
    frame = pd.DataFrame.from_dict(rows, orient="index").reindex(columns=columns)
    frame.index = pd.MultiIndex.from_tuples(list(rows), names=["set", "network"])
    caption = "Years between the age told of the photograph and of the image, 95% bootstrap over persons"
    return styled(frame, caption, "years-rebuilt", ages)


def comparison_table(compared: pd.DataFrame, noise: str = "x + δ") -> Styler:
    """Whether PMT(x) confuses more than noise, from :func:`pmtlib.experiments.attributes.comparison`."""
    digits = {"cossim": 2, "years": 1}
    frame = pd.DataFrame(
        {
            "set": compared["dataset"].map(_title),
            "attribute": compared["attribute"],
            "network": compared["network"],
            "measure": compared["measure"].map({"cossim": "CosSim", "years": "years apart"}),
            "PMT(x) confuses more by": [
                f"{line['more']:+.{digits[line['measure']]}f} [{line['low']:+.{digits[line['measure']]}f}, "
                f"{line['high']:+.{digits[line['measure']]}f}]"
                for line in compared.to_dict("records")
            ],
            "n": compared["n"],
            "claim": compared["verdict"],
        }
    )
    caption = (
        f"{noise} less PMT(x) in CosSim, PMT(x) less {noise} in years: positive where the paper's claim is right. Mean "
        "over images with 95% bootstrap interval over persons, paired"
    )
    return styled(frame, caption, slug("against", noise.replace("δ", "noise")), compared).hide(axis="index")


def clean_table(table: pd.DataFrame) -> Styler:
    """What the networks know of clean photographs, from :func:`pmtlib.experiments.attributes.clean_table`."""

    def text(line: Mapping[Any, Any], side: str) -> str:
        scale, digits = (100, 0) if line["measure"] == "agreement" else (1, 1)
        mean, low, high = (scale * line[f"{side}{end}"] for end in ("", "_low", "_high"))
        return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}], n = {line[f'n_{side}']}"

    lines = table.to_dict("records")
    frame = pd.DataFrame(
        {
            "set": table["dataset"].map(_title),
            "attribute": table["attribute"],
            "network": table["network"],
            "measure": table["measure"].map({"agreement": "same label, %", "years": "years apart"}),
            "two photographs of one person": [text(line, "same") for line in lines],
            "of two people": [text(line, "different") for line in lines],
            "told apart": table["tells"].map({True: "yes", False: "no"}),
        }
    )
    caption = (
        "Unprotected photographs, both of each pair: agreement with 95% Wilson interval, years with bootstrap interval"
    )
    pooled = "pooled" if ALL in set(table["dataset"]) else ""
    return styled(frame, caption, slug("photographs", pooled), table).hide(axis="index")


def detection_table(table: pd.DataFrame) -> Styler:
    """Where a face is found, from :func:`pmtlib.experiments.attributes.detection_table`."""
    rows: dict[str, dict[str, str]] = {}
    for line in table.to_dict("records"):
        rate = percent({"accuracy": line["rate"], "low": line["low"], "high": line["high"]})
        rows.setdefault(_title(line["dataset"]), {})[KIND_TITLES[line["kind"]]] = f"{rate}<br>n = {line['n']}"
    frame = pd.DataFrame.from_dict(rows, orient="index")
    caption = "Images in which YuNet finds a face, percent with 95% Wilson interval"
    return styled(frame, caption, "detection", table)


def similarity_figure(table: pd.DataFrame, settings: AttributesSettings) -> Figure:
    """CosSim with intervals by kind of image: a panel a data set, a group of points an attribute and network."""
    keep("similarity", table)
    sets = list(dict.fromkeys(table["dataset"]))
    rows = max(len(sets), 1)
    size = (9.2, 0.6 + 3.0 * rows)
    figure, axes = plt.subplots(rows, 1, figsize=size, squeeze=False, sharex=True, layout="constrained")
    for axis, dataset in zip(axes[:, 0], sets, strict=False):
        part = table[table["dataset"] == dataset]
        groups = list(dict.fromkeys(zip(part["attribute"], part["network"], strict=True)))
        for place, (attribute, network) in enumerate(groups):
            for line in part[(part["attribute"] == attribute) & (part["network"] == network)].to_dict("records"):
                mark, colour = _MARKS[line["kind"]]
                where = place + 0.13 * (list(_MARKS).index(line["kind"]) - 2.5)
                bars = [[line["cossim"] - line["low"]], [line["high"] - line["cossim"]]]
                axis.errorbar(
                    where, line["cossim"], yerr=bars, fmt=mark, color=colour, markeredgecolor="black",
                    markeredgewidth=0.5, ecolor="black", elinewidth=1, capsize=2, markersize=6,
                    label=KIND_TITLES[line["kind"]] if place == 0 else None,
                )  # fmt: skip
        axis.set_xticks(range(len(groups)), [f"{attribute}\n{network}" for attribute, network in groups])
        axis.set_ylim(0, 1.03)
        axis.set_ylabel("CosSim (Eq. 11)")
        axis.set_title(_title(dataset))
        axis.grid(axis="y", alpha=0.3)
    if sets:
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=len(_MARKS))
    plt.close(figure)
    return figure


def strip(portraits: Sequence[Portrait]) -> Figure:
    """Fig. 7: a row a portrait: photograph, with noise, protected, protected and blurred; below, what networks say."""
    kinds = (ORIGINAL, NOISY, PMT, BLURRED)
    said = [(one.title, KIND_TITLES.get(kind, kind), "; ".join(one.words[kind])) for one in portraits for kind in kinds]
    keep("portraits", pd.DataFrame(said, columns=["photograph", "image", "answers"]))
    figure, axes = plt.subplots(
        max(len(portraits), 1), len(kinds), figsize=(3.1 * len(kinds), 3.1 * max(len(portraits), 1)), squeeze=False,
        layout="constrained", dpi=100,
    )  # fmt: skip
    for row, portrait in zip(axes, portraits, strict=False):
        for axis, kind in zip(row, kinds, strict=True):
            title = portrait.title if kind == ORIGINAL else KIND_TITLES[kind]
            picture(axis, portrait.images[kind], title, "\n".join(portrait.words[kind]))
    plt.close(figure)
    return figure


def provenance_table(blocks: Sequence[AttributesBlock]) -> Styler:
    """Where every number comes from: one line a stored result, or why there is none."""
    return _provenance_table(
        (block.dataset, name, outcome) for block in blocks for name, outcome in block.results.items()
    )
