"""Section 6.1, choice of parameters (Tables 3, 4, 5, Figs. 4, 5), and what the paper leaves out: K and the cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from pmtlib.experiments.abuse import KEPT_WITHIN
from pmtlib.experiments.claims import HOLDS, IN_PART, NOT, UNESTABLISHED, Claim, listed, mean
from pmtlib.experiments.common import TITLES, Outcome, Source, paper_table, section_settings
from pmtlib.experiments.variants import (
    CALIBRATED,
    LPIPS_ALEX,
    Gap,
    Variants,
    VariantSettings,
    by_bound,
    keeps,
    role_means,
    role_shares,
    up_gaps,
    up_lines,
)
from pmtlib.images import quantise
from pmtlib.results import Result

CURVE_VERSION = 1


class ParameterSettings(VariantSettings):
    """Parameters of Section 6.1.

    Attributes:
        up_kappa: threshold of UP in Figs. 4 and 5; the paper does not give it.
        kernel_lengths: of Fig. 4, beside the default.
        step_curve: numbers of steps K at which the uploads of one run are looked at.
        cut_curve: cuts k, units of the shallow model.
    """

    section: ClassVar[str] = "parameters"

    up_kappa: float = 0.3
    kernel_lengths: tuple[int, ...] = (1, 2, 3)
    step_curve: tuple[int, ...] = (0, 5, 10, 15, 25, 50, 100)
    cut_curve: tuple[int, ...] = (1, 3, 5, 8, 12, 15)


def parameter_settings(profile: str, **overrides: Any) -> ParameterSettings:
    """Settings of a profile, see :func:`pmtlib.experiments.common.section_settings`."""
    return section_settings(ParameterSettings, profile, **overrides)


@dataclass(frozen=True)
class Option:
    """A row of Tables 3 to 5.

    Attributes:
        table: ``table3``, ``table4`` or ``table5``.
        group: what is chosen: initialisation, augmentation, aggregation or kernel.
        name: as the paper prints it.
        changes: fields of the transform that differ from the chosen ones.
        paper: its authorised and unauthorised accuracy in the paper, percent.
        chosen: whether it is the paper's choice.
    """

    table: str
    group: str
    name: str
    changes: Mapping[str, Any]
    paper: tuple[float, float]
    chosen: bool


_CHANGES: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("Initial Status", "Random Sort"): {"initialisation": "substitution"},
    ("Initial Status", "Random Blur"): {"initialisation": "blur"},
    ("Initial Status", "Random Noise"): {},
    ("Augmentation", "Mix"): {"augmentation": "mix"},
    ("Augmentation", "None"): {"augmentation": "none"},
    ("Augmentation", "Random Noise"): {},
    ("Augmentation", "Random Affine"): {"augmentation": "affine"},
    ("Layer Aggregation", "Yes"): {},
    ("Layer Aggregation", "No"): {"aggregate": False},
    ("Kernel", "None"): {"kernel": "none"},
    ("Kernel", "Linear Kernel"): {"kernel": "linear"},
    ("Kernel", "Gaussian Kernel"): {},
}


def options() -> list[Option]:
    """All rows of Tables 3, 4 and 5, in their order."""
    found = []
    for table in ("table3", "table4", "table5"):
        content = paper_table(table)
        parts = content.get("parts") or {{"table3": "Initial Status", "table5": "Kernel"}[table]: content["rows"]}
        for group, rows in parts.items():
            for name, (authorised, unauthorised) in rows.items():
                changes = _CHANGES[group, name]
                found.append(Option(table, group, name, changes, (authorised, unauthorised), not changes))
    return found


@dataclass(frozen=True)
class OptionRow:
    """An option on one data set."""

    dataset: str
    option: Option
    recognised: Outcome


def run(bench: Variants[ParameterSettings]) -> tuple[dict[str, Outcome], list[OptionRow]]:
    """Thresholds of each set, and every row of Tables 3 to 5 on each."""
    thresholds, rows = {}, []
    for dataset in bench.settings.datasets:
        thresholds[dataset] = bench.thresholds(dataset)
        rows += [OptionRow(dataset, option, bench.recognised(dataset, option.changes)) for option in options()]
    return thresholds, rows


def table(thresholds: Mapping[str, Outcome], rows: Sequence[OptionRow], settings: ParameterSettings) -> pd.DataFrame:
    """Tables 3 to 5, one line a data set and option.

    Returns:
        DataFrame with columns dataset, table, group, option, chosen, paper_authorised, paper_unauthorised (percent),
        authorised and unauthorised (mean Eq. 10 at each network's own threshold; ``_low``, ``_high``), ssim, n.
    """
    lines = []
    for row in rows:
        means = role_means([({"dataset": row.dataset}, row.recognised)], thresholds, settings)
        if not len(means):
            continue
        option = row.option
        line: dict[str, Any] = {
            "dataset": row.dataset, "table": option.table, "group": option.group, "option": option.name,
            "chosen": option.chosen, "paper_authorised": option.paper[0], "paper_unauthorised": option.paper[1],
        }  # fmt: skip
        for entry in means[means["threshold"] == CALIBRATED].to_dict("records"):
            role = entry["role"]
            line |= {role: entry["accuracy"], f"{role}_low": entry["low"], f"{role}_high": entry["high"]}
            line |= {"n": entry["n"], "ssim": entry["ssim"]}
        lines.append(line)
    return pd.DataFrame(lines)


def kernel_curves(
    bench: Variants[ParameterSettings], settings: ParameterSettings
) -> tuple[list[tuple[str, str, Outcome]], pd.DataFrame]:
    """Fig. 4: UP against the noise bound for each kernel length (0 is no kernel)."""
    chosen = []
    for dataset in settings.datasets:
        chosen.append((dataset, "none", bench.noisy(dataset, {"kernel": "none"})))
        for length in settings.kernel_lengths:
            changes = {} if length == settings.pmt.kernel_length else {"kernel_length": length}
            chosen.append((dataset, f"length {length}", bench.noisy(dataset, changes)))
    return chosen, _up_frame(chosen, "kernel", settings)


def augmentation_curves(
    bench: Variants[ParameterSettings], settings: ParameterSettings
) -> tuple[list[tuple[str, str, Outcome]], pd.DataFrame]:
    """Fig. 5: UP against the noise bound for each mode of augmentation."""
    chosen = []
    for dataset in settings.datasets:
        for option in options():
            if option.group == "Augmentation":
                chosen.append((dataset, option.name.lower(), bench.noisy(dataset, option.changes)))
    return chosen, _up_frame(chosen, "augmentation", settings)


def _up_frame(chosen: Sequence[tuple[str, str, Outcome]], column: str, settings: ParameterSettings) -> pd.DataFrame:
    return up_lines(
        [({"dataset": dataset, column: name}, outcome) for dataset, name, outcome in chosen], settings.up_kappa
    )


def step_curve(bench: Variants[ParameterSettings], settings: ParameterSettings) -> list[tuple[str, Outcome]]:
    """Recognition and SSIM against the number of steps K: copies from one run, which are what a run of that K gives."""
    found = []
    for dataset in settings.datasets:
        config = settings.pmt.model_copy(update={"steps": max(settings.step_curve)})
        parameters = {
            "authorised": [settings.authorised],
            "cut": settings.cut,
            "steps": list(settings.step_curve),
            "pmt": config.model_dump(mode="json"),
        }
        request = bench.request("parameters", f"{dataset}--steps", CURVE_VERSION, parameters)
        source = Source.of_pairs(bench.sample(dataset))

        def compute(dataset: str = dataset, config: Any = config) -> dict[str, Any]:
            photographs = bench.photographs(dataset)
            made = bench.protect(
                photographs.originals, settings.authorised, f"{dataset}, K", config=config, keep=settings.step_curve
            )
            return {
                str(steps): bench.opinions(photographs, quantise(images))
                for steps, images in zip(settings.step_curve, made.kept, strict=True)
            }

        found.append((dataset, bench.obtain(request, source, compute)))
    return found


def by_steps(curve: Sequence[tuple[str, Outcome]]) -> list[tuple[str, int, Outcome]]:
    """The results of :func:`step_curve`, one for each number of steps: data set, K, result."""
    found = []
    for dataset, outcome in curve:
        result = outcome.result
        for steps, values in result.values.items() if result else ():
            assert result is not None
            found.append((dataset, int(steps), Outcome(Result(result.request, result.data, values, result.manifest))))
    return found


def step_lines(
    curve: Sequence[tuple[str, Outcome]], thresholds: Mapping[str, Outcome], settings: ParameterSettings
) -> pd.DataFrame:
    """The numbers of :func:`step_curve`: columns dataset, steps and those of :func:`role_means`."""
    outcomes = [({"dataset": dataset, "steps": steps}, one) for dataset, steps, one in by_steps(curve)]
    return role_means(outcomes, thresholds, settings)


def cut_curve(bench: Variants[ParameterSettings], settings: ParameterSettings) -> list[tuple[str, int, Outcome]]:
    """Recognition and SSIM against the cut k, the number of units that are shared."""
    return [
        (dataset, cut, bench.recognised(dataset, {}, cut=None if cut == settings.cut else cut))
        for dataset in settings.datasets
        for cut in settings.cut_curve
    ]


def cut_lines(
    curve: Sequence[tuple[str, int, Outcome]], thresholds: Mapping[str, Outcome], settings: ParameterSettings
) -> pd.DataFrame:
    """The numbers of :func:`cut_curve`: columns dataset, cut and those of :func:`role_means`."""
    outcomes = [({"dataset": dataset, "cut": cut}, outcome) for dataset, cut, outcome in curve]
    return role_means(outcomes, thresholds, settings)


def curve_reading(chosen: Sequence[tuple[str, str, Outcome]], choice: str, claim: str, kappa: float) -> str:
    """Whether a choice has the highest UP under noise, against each other line of a figure, in words (Markdown).

    Args:
        chosen: data set, name of the line and result, as the figure shows them.
        choice: the name of the paper's choice.
        claim: the paper's, in words.
        kappa: of Eq. 9.
    """
    gaps = up_gaps(chosen, choice, kappa)
    if not len(gaps):
        return "Nothing was measured."
    counts = ", ".join(
        f"{TITLES.get(str(dataset), dataset)}: n = {part['n'].max()}"
        for dataset, part in gaps.groupby("dataset", sort=False)
    )
    first, second = by_bound(gaps), by_bound(up_gaps(chosen, choice, kappa, LPIPS_ALEX))
    other = "the verdicts are the same" if first == second else f"it {second}"
    return (
        f"{claim} **The claim {first}** (UP of {choice} above that of each other line on the same photographs, beyond "
        f"the 95% interval of each difference, on every set; {counts} photographs). With AlexNet in LPIPS "
        f"{other}."
    )


def summary(frame: pd.DataFrame, steps: pd.DataFrame, cuts: pd.DataFrame) -> dict[str, float]:
    """Headline numbers, means over the data sets, percent; SSIM as it is."""
    found: dict[str, float] = {}
    if len(frame):
        for option, part in frame.groupby("option"):
            key = str(option).lower().replace(" ", "_")
            found[f"{key}_unauthorised"] = round(100 * float(part["unauthorised"].mean()), 3)
    for name, column, curve in (("k", "steps", steps), ("cut", "cut", cuts)):
        part = curve[(curve["threshold"] == CALIBRATED)] if len(curve) else curve
        for (value, role), group in part.groupby([column, "role"]) if len(part) else ():
            found[f"{name}{value}_{role}"] = round(100 * float(group["accuracy"].mean()), 3)
            found[f"{name}{value}_ssim"] = round(float(group["ssim"].mean()), 4)
    return found


def gaps(
    thresholds: Mapping[str, Outcome], rows: Sequence[OptionRow], settings: ParameterSettings
) -> dict[tuple[str, str], dict[str, dict[str, Gap]]]:
    """Each option against the paper's choice of its group, over the same pairs.

    Returns:
        (data set, group) to option to role to the gap of accuracies, option minus choice.
    """
    found: dict[tuple[str, str], dict[str, dict[str, Gap]]] = {}
    shares = {
        (row.dataset, row.option.group, row.option.name): role_shares(row.recognised, thresholds[row.dataset], settings)
        for row in rows
    }
    for row in rows:
        if not row.option.chosen:
            continue
        chosen = shares[row.dataset, row.option.group, row.option.name]
        for (dataset, group, name), other in shares.items():
            if (dataset, group) == (row.dataset, row.option.group) and name != row.option.name and chosen and other:
                by_role = {role: Gap.of(other[role], chosen[role]) for role in chosen if role in other}
                found.setdefault((dataset, group), {})[name] = by_role
    return found


def judged(options: Mapping[str, Mapping[str, Gap]]) -> tuple[str, list[str]]:
    """Whether a choice leaves the others least among the options that keep the service, and which options do not.

    What keeps the service, :func:`~pmtlib.experiments.variants.keeps` says, by its accuracy against that of the choice.
    """
    lost = [name for name, gap in options.items() if not keeps(gap["authorised"].mean)]
    signs = [gap["unauthorised"].sign for name, gap in options.items() if name not in lost]
    means = [gap["unauthorised"].mean for name, gap in options.items() if name not in lost]
    if not signs:
        return UNESTABLISHED, lost
    if all(sign > 0 for sign in signs):
        return HOLDS, lost
    if any(sign < 0 for sign in signs):
        return NOT, lost
    return MEANS if all(mean > 0 for mean in means) else UNESTABLISHED, lost


def together(alone: Mapping[str, str], pooled: str) -> str:
    """The verdict on a choice from those on each set and that on all sets together, which counts."""
    if {*alone.values()} >= {HOLDS, NOT}:
        return IN_PART
    against = [TITLES.get(dataset, dataset) for dataset, verdict in alone.items() if verdict == NOT]
    return f"{pooled}; on {listed(against)} it {NOT}" if pooled == UNESTABLISHED and against else pooled


MEANS = "holds by the means alone"
"""A verdict: the choice has the lowest mean, and an interval of a difference includes none."""

_SAYS = {
    "Initial Status": "starting from noise",
    "Augmentation": "augmenting with noise",
    "Layer Aggregation": "comparing all shared layers",
    "Kernel": "smoothing with a Gaussian kernel",
}


def claims(
    thresholds: Mapping[str, Outcome],
    rows: Sequence[OptionRow],
    kernels: Sequence[tuple[str, str, Outcome]],
    augmentations: Sequence[tuple[str, str, Outcome]],
    settings: ParameterSettings,
) -> list[Claim]:
    """What the paper says of Tables 3 to 5 and Figs. 4 and 5, held against all sets together."""
    found = gaps(thresholds, rows, settings)
    said: list[Claim] = []
    for group in dict.fromkeys(group for _, group in found):
        by_set = {dataset: options for (dataset, one), options in found.items() if one == group}
        shares = {
            (row.option.name, row.dataset): role_shares(row.recognised, thresholds[row.dataset], settings)
            for row in rows
            if row.option.group == group
        }
        names = list(dict.fromkeys(name for name, _ in shares))
        choice = next(row.option.name for row in rows if row.option.group == group and row.option.chosen)
        told, pooled = [], {}
        for name in [choice, *(name for name in names if name != choice)]:
            values = [shares[name, dataset] for dataset in by_set]
            roles = ("authorised", "unauthorised")
            numbers = "/".join(f"{100 * np.mean(np.concatenate([one[role] for one in values])):.0f}" for role in roles)
            gap = ""
            if name != choice:
                ours, theirs = (
                    {role: np.concatenate([shares[one, dataset][role] for dataset in by_set]) for role in roles}
                    for one in (name, choice)
                )
                pooled[name] = {role: Gap.of(ours[role], theirs[role]) for role in roles}
                gap = f", unauthorised {pooled[name]['unauthorised'].points()} points"
                kept = keeps(pooled[name]["authorised"].mean)
                gap += "" if kept else f", and the service loses more than {KEPT_WITHIN:g} points"
            told.append(f"{name} {numbers}%{gap}")
        said.append(
            Claim(
                f"so does {_SAYS[group]}"
                if said
                else f"{_SAYS[group]} leaves unauthorised networks least accuracy, at nearly full authorised accuracy",
                _papers(group),
                ("" if said else "authorised/unauthorised accuracy, and points against the paper's choice: ")
                + "; ".join(told),
                together({dataset: judged(options)[0] for dataset, options in by_set.items()}, judged(pooled)[0]),
            )
        )
    figures = (
        ("of all kernels the Gaussian one of length 1 has the highest UP under noise (Fig. 4)", kernels, "length 1"),
        ("of all augmentations that with noise has the highest UP under noise (Fig. 5)", augmentations, "random noise"),
    )
    for says, chosen, choice in figures:
        apart = up_gaps(chosen, choice, settings.up_kappa)
        if len(apart):
            low, high = (pick(apart["gap"], key=lambda gap: gap.mean) for pick in (min, max))
            photographs = listed([str(n) for n in apart.groupby("dataset", sort=False)["n"].max()])
            measured = (
                f"UP of {choice} minus that of each other line at each bound, on the same photographs (n = "
                f"{photographs}), is from {low.plain()} to {high.plain()}; with AlexNet in LPIPS the claim "
                f"{by_bound(up_gaps(chosen, choice, settings.up_kappa, LPIPS_ALEX))}"
            )
            said.append(Claim(says, "", measured, by_bound(apart)))
    return said


def _papers(group: str) -> str:
    """The paper's unauthorised accuracies of a group: of its choice, and of the others."""
    rows = [option for option in options() if option.group == group]
    chosen = next(option for option in rows if option.chosen)
    others = listed([f"{option.paper[1]:.1f}" for option in rows if not option.chosen])
    return f"unauthorised {chosen.paper[1]:.1f}% against {others}%"


def reading(
    frame: pd.DataFrame,
    found: Mapping[tuple[str, str], Mapping[str, Mapping[str, Gap]]],
) -> str:
    """Each option on each set against the paper's choice, in words (Markdown)."""
    if not len(frame):
        return "Nothing was measured."
    lines = []
    for group, part in frame.groupby("group", sort=False):
        said = []
        for dataset, rows in part.groupby("dataset", sort=False):
            title = TITLES.get(str(dataset), str(dataset))
            options = found.get((str(dataset), str(group)), {})
            numbers = []
            for line in rows.to_dict("records"):
                text = f"{line['option']} {100 * line['authorised']:.1f}/{100 * line['unauthorised']:.1f}%"
                if line["option"] in options:
                    text += f" (unauthorised {options[line['option']]['unauthorised'].points()} points)"
                numbers.append(text)
            verdict, lost = judged(options)
            costs = ""
            if lost:
                costs = f"{listed(lost)} cost{'s' if len(lost) == 1 else ''} the service over {KEPT_WITHIN:g} points; "
            said.append(f"{title} (n = {int(rows['n'].max())}): {', '.join(numbers)}; {costs}the claim {verdict}")
        lines.append(f"- **{group}** (authorised/unauthorised, mean over networks). {'. '.join(said)}.")
    lines.append(
        "- *What counts as what.* An option counts where the service keeps its accuracy: where the mean is at most "
        f"{KEPT_WITHIN:g} points below that with the paper's choice, the margin for data abuse and for the ablation, "
        "whatever the interval of that difference. The claim holds where every such option leaves the unauthorised "
        "networks more, beyond the 95% interval of the difference over the same pairs; it does not where one leaves "
        "them less; by the means alone, where all have higher means; otherwise, or where no option counts, it is not "
        "established. The table above judges all sets together, and says in part where a claim holds on one set "
        "and does not on another. Intervals are not widened for the number of options; those of differences are "
        "Newcombe's for one network, and a bootstrap for the mean of several and for UP."
    )
    return "\n".join(lines)


def curve_text(
    curve: Sequence[tuple[str, Any, Outcome]], thresholds: Mapping[str, Outcome], settings: ParameterSettings, name: str
) -> str:
    """Authorised and unauthorised accuracy against K or the cut, over all sets together, in words (Markdown).

    Args:
        curve: data set, value and result.
        thresholds: of each set.
        settings: of the section.
        name: of what changes.
    """
    by_value: dict[Any, list[tuple[dict[str, Any], Any]]] = {}
    for dataset, value, outcome in curve:
        shares = role_shares(outcome, thresholds[dataset], settings)
        if shares and outcome.result:
            by_value.setdefault(value, []).append((shares, outcome.result.values["ssim"]))
    if not by_value:
        return "Nothing was measured."
    n = sum(len(shares["authorised"]) for shares, _ in next(iter(by_value.values())))
    lines = []
    for value, parts in by_value.items():
        rates = [
            mean([shares[role] for shares, _ in parts], 0, percent=True)
            for role in ("authorised", "unauthorised")
            if all(role in shares for shares, _ in parts)
        ]
        lines.append(f"{value}: {' and '.join(rates)}, SSIM {mean([ssim for _, ssim in parts])}")
    return (
        f"Authorised and unauthorised accuracy over all sets together (n = {n} pairs) at {name} = {'; '.join(lines)}."
    )
