"""Section 6.8, scalability (Table 9): one upload for several authorised services, MR-PMT (Eq. 8)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import Field

from pmtlib import zoo
from pmtlib.errors import DatasetError
from pmtlib.experiments.abuse import EVERY_CELL
from pmtlib.experiments.claims import HOLDS, IN_PART, UNJUDGED, Claim, graded, mean, rate
from pmtlib.experiments.common import TITLES, Floats, Outcome, Source, paper_table, section_settings
from pmtlib.experiments.variants import CALIBRATED, Variants, VariantSettings, recognition_cells, role_shares
from pmtlib.progress import progress_bar
from pmtlib.transform import protect


class ScalabilitySettings(VariantSettings):
    """Parameters of Section 6.8.

    Attributes:
        networks: those that stand for ① to ⑤ of Table 9, in its order.
        combinations: places in ``networks``, from 1, that are authorised together: the rows of Table 9.
        cost_images: photographs on which the time of a step is measured.
        cost_steps: steps that are timed.
        cost_rounds: how often everything is timed, in turn, so that a machine that is busy for a while is seen.
    """

    section: ClassVar[str] = "scalability"
    one_authorised: ClassVar[bool] = False

    combinations: tuple[tuple[int, ...], ...] = ((1, 2), (2, 3), (1, 2, 3), (2, 3, 4), (1, 2, 3, 4), (2, 3, 4, 5))
    cost_images: int = 8
    cost_steps: int = 5
    cost_rounds: int = Field(5, ge=1)


def scalability_settings(profile: str, **overrides: Any) -> ScalabilitySettings:
    """Settings of a profile, see :func:`pmtlib.experiments.common.section_settings`."""
    return section_settings(ScalabilitySettings, profile, **overrides)


def marks(combination: Sequence[int]) -> str:
    """A row's name as the paper prints it, ``①+②``."""
    return "+".join(chr(ord("①") + place - 1) for place in combination)


@dataclass(frozen=True)
class ScalabilityRow:
    """One row of Table 9 on one data set; a single authorised network has a combination of length 1."""

    dataset: str
    combination: tuple[int, ...]
    recognised: Outcome


def run(
    bench: Variants[ScalabilitySettings], settings: ScalabilitySettings
) -> tuple[dict[str, Outcome], list[ScalabilityRow]]:
    """Thresholds of each set, and all rows of the table on each."""
    thresholds, rows = {}, []
    for dataset in settings.datasets:
        thresholds[dataset] = bench.thresholds(dataset)
        for combination in settings.combinations:
            names = [settings.networks[place - 1] for place in combination]
            rows.append(ScalabilityRow(dataset, combination, bench.recognised(dataset, {}, names)))
    return thresholds, rows


def cells(
    thresholds: Mapping[str, Outcome], rows: Sequence[ScalabilityRow], settings: ScalabilitySettings
) -> pd.DataFrame:
    """Table 9 in long form, see :func:`recognition_cells`; with columns dataset, combination and members (a count)."""
    outcomes = [
        (
            {"dataset": row.dataset, "combination": marks(row.combination), "members": len(row.combination)},
            row.recognised,
        )
        for row in rows
    ]
    return recognition_cells(outcomes, thresholds, settings)


def cost(bench: Variants[ScalabilitySettings], settings: ScalabilitySettings) -> Outcome:
    """Seconds of a step of MR-PMT against the number of authorised networks, in one run on one machine.

    Returns:
        Outcome whose values hold, a number a round, the seconds of an image-step for each network alone and for the
        first 1, 2, ... networks of the settings together.
    """
    dataset = next((name for name in settings.datasets if not isinstance(bench.sample(name), DatasetError)), None)
    source = DatasetError("no data set is present") if dataset is None else Source.of_pairs(bench.sample(dataset))
    parameters = {
        "images": settings.cost_images,
        "steps": settings.cost_steps,
        "rounds": settings.cost_rounds,
        "cut": settings.cut,
        "pmt": settings.pmt.model_dump(mode="json"),
        "dataset": settings.datasets[0] if dataset is None else dataset,
    }
    request = bench.request("scalability", "cost", 2, parameters)

    def compute() -> dict[str, Any]:
        assert dataset is not None
        images = bench.photographs(dataset).originals[: settings.cost_images].to(bench.device)
        config = settings.pmt.model_copy(update={"steps": settings.cost_steps, "batch_size": len(images)})
        warm = config.model_copy(update={"steps": 1})

        def seconds(names: Sequence[str]) -> float:
            models = [bench.shallow(name) for name in names]
            protect(images, models, warm)
            begun = time.perf_counter()
            protect(images, models, config)
            return round((time.perf_counter() - begun) / (config.steps * len(images)), 5)

        networks = settings.networks
        firsts = [networks[:count] for count in range(2, len(networks) + 1)]
        alone: dict[str, list[float]] = {name: [] for name in networks}
        together: list[list[float]] = [[] for _ in firsts]
        with progress_bar("cost, rounds", settings.cost_rounds) as advance:
            for _ in range(settings.cost_rounds):
                for name in networks:
                    alone[name].append(seconds([name]))
                for names, taken in zip(firsts, together, strict=True):
                    taken.append(seconds(names))
                advance(1)
        return {
            "alone": alone,
            "together": [
                {"networks": list(names), "seconds": taken}
                for names, taken in zip([networks[:1], *firsts], [alone[networks[0]], *together], strict=True)
            ],
        }

    # A time is not reproduced to the digit, so a recomputation would always be a change.
    return bench.obtain(request, source, compute, recompute=False)


def cost_lines(outcome: Outcome) -> pd.DataFrame:
    """Time against the number of authorised networks: medians over the rounds, with the lowest and the highest.

    Returns:
        DataFrame with columns members, networks, rounds and, each with ``_low`` and ``_high``, seconds (of an
        image-step), of_first (relative to the first network alone) and of_sum (relative to the sum of each alone);
        ratios are formed within a round.
    """
    lines = []
    values: Mapping[str, Any] = outcome.result.values if outcome.result else {"together": []}
    for entry in values["together"]:
        names, taken = entry["networks"], np.array(entry["seconds"])
        alone = np.array([values["alone"][name] for name in names])
        if len(names) == 1:
            # Earlier results timed the first network alone twice, which told noise from itself.
            taken = alone[0]
        line: dict[str, Any] = {"members": len(names), "networks": " + ".join(names), "rounds": len(taken)}
        measured = {"seconds": taken, "of_first": taken / alone[0], "of_sum": taken / alone.sum(0)}
        for name, numbers in measured.items():
            line |= {name: np.median(numbers), f"{name}_low": numbers.min(), f"{name}_high": numbers.max()}
        lines.append(line)
    return pd.DataFrame(lines)


def summary(frame: pd.DataFrame) -> dict[str, float]:
    """Means and extremes over the cells at calibrated thresholds, percent, of all sets together."""
    found: dict[str, float] = {}
    if not len(frame):
        return found
    part = frame[frame["threshold"] == CALIBRATED]
    for role, group in part.groupby("role"):
        found[f"{role}_mean"] = round(100 * float(group["accuracy"].mean()), 3)
        found[f"{role}_lowest"] = round(100 * float(group["accuracy"].min()), 3)
        found[f"{role}_highest"] = round(100 * float(group["accuracy"].max()), 3)
    return found


def paper_means() -> dict[str, float]:
    """Means over Table 9's cells, percent: ``authorised``, ``unauthorised`` and ``unauthorised_highest``."""
    content = paper_table("table9")
    found: dict[str, list[float]] = {"authorised": [], "unauthorised": []}
    for rows in content["datasets"].values():
        for row in rows:
            for column, value in zip(content["columns"], row["accuracy"], strict=True):
                found["authorised" if column in row["authorised"] else "unauthorised"].append(value)
    means = {role: float(np.mean(values)) for role, values in found.items()}
    return {**means, "unauthorised_highest": max(found["unauthorised"])}


def paper_small() -> tuple[float, float]:
    """The paper's cells of its smallest network, MobileFace, where all four others are authorised, percent."""
    content = paper_table("table9")
    values = [rows[-1]["accuracy"][content["columns"].index("MobileFace")] for rows in content["datasets"].values()]
    return min(values), max(values)


_LOW, _HALF_LOW = 0.15, 0.5
"""What decides the verdicts beside :data:`~pmtlib.experiments.abuse.EVERY_CELL`: the mean of the others that counts as
low, and as low in part."""


def claims(
    thresholds: Mapping[str, Outcome], rows: Sequence[ScalabilityRow], settings: ScalabilitySettings
) -> list[Claim]:
    """What the paper says of Table 9, held against the cells at each network's own threshold."""
    frame = cells(thresholds, rows, settings)
    part = frame[frame["threshold"] == CALIBRATED] if len(frame) else frame
    if not len(part):
        return []
    paper, found = paper_means(), summary(frame)
    shares: dict[str, dict[str, list[tuple[Floats, int]]]] = {}
    for row in rows:
        inside = {"authorised": len(row.combination), "unauthorised": len(settings.networks) - len(row.combination)}
        for role, values in role_shares(row.recognised, thresholds[row.dataset], settings).items():
            shares.setdefault(role, {}).setdefault(row.dataset, []).append((values, inside[role]))

    def average(role: str) -> str:
        # The combinations of a set are of the same pairs, so that a pair counts once; cells weigh alike.
        by_set = [list(zip(*parts, strict=True)) for parts in shares[role].values()]
        return mean([np.average(values, axis=0, weights=weights) for values, weights in by_set], 1, percent=True)

    said = [
        Claim(
            "one upload serves several authorised services",
            f"{paper['authorised']:.1f}% on average",
            f"authorised cells have {average('authorised')} on average, at least {found['authorised_lowest']:.1f}%, at "
            "each network's own threshold",
            HOLDS if found["authorised_lowest"] >= EVERY_CELL else IN_PART,
        )
    ]
    if "unauthorised" in shares:
        said.append(
            Claim(
                "the others stay low",
                f"its own cells have {paper['unauthorised']:.1f}% on average, up to "
                f"{paper['unauthorised_highest']:.1f}%, which it notes of MobileFace",
                f"unauthorised cells have {average('unauthorised')}, up to {found['unauthorised_highest']:.1f}%",
                graded(found["unauthorised_mean"] / 100, _LOW, _HALF_LOW),
            )
        )
        said.append(
            Claim(
                "a network of few parameters is the one that is reached",
                "MobileFace {:.1f} to {:.1f}% in the last row".format(*paper_small()),
                "so few networks, which differ in more than their size, cannot show it",
                UNJUDGED,
            )
        )
    return said


def reading(thresholds: Mapping[str, Outcome], rows: Sequence[ScalabilityRow], settings: ScalabilitySettings) -> str:
    """The cells by combination and by network, in words (Markdown)."""
    frame = cells(thresholds, rows, settings)
    if not len(frame):
        return "Nothing was measured."
    part = frame[frame["threshold"] == CALIBRATED]
    lines = []
    outside = part[part["role"] == "unauthorised"]
    if len(outside):
        by_row = []
        for combination in dict.fromkeys(outside["combination"]):
            chosen = [row for row in rows if marks(row.combination) == combination]
            shares = [
                found["unauthorised"]
                for row in chosen
                if "unauthorised" in (found := role_shares(row.recognised, thresholds[row.dataset], settings))
            ]
            by_row.append(f"{combination} {mean(shares, 1, percent=True)}")
        by_network = []
        for name, cells_of in outside.groupby("network", sort=False):
            low, high, count = 100 * cells_of["accuracy"].min(), 100 * cells_of["accuracy"].max(), len(cells_of)
            span = f"{low:.1f}%" if round(low, 1) == round(high, 1) else f"{low:.1f} to {high:.1f}%"
            size = zoo.card(str(name)).parameters / 1e6
            by_network.append(f"{name} ({size:.1f} M parameters) {span} in {count} {'cell' if count == 1 else 'cells'}")
        lines.append(
            f"Unauthorised accuracy by combination, all sets together: {', '.join(by_row)}; by network: "
            f"{', '.join(by_network)}. Combinations differ in who is left outside, so that the number of authorised "
            "networks and the network that is not among them cannot be separated. Whether few parameters make a "
            "network easy to reach, as the paper says of MobileFace, so few networks cannot show: they differ in more "
            "than their size."
        )
        worst = outside.sort_values("accuracy").iloc[-1]
        lines.append(
            f"The highest unauthorised cell is {rate(worst)}: {worst['network']} on images for {worst['combination']} "
            f"({TITLES.get(str(worst['dataset']), worst['dataset'])}, n = {worst['n']})."
        )
    lines.append(
        f"*What counts as what.* Served: every authorised cell has at least {EVERY_CELL:.0f}%. Low: at most "
        f"{100 * _LOW:.0f}% on average; in part: at most {100 * _HALF_LOW:.0f}%. The paper's own table does not bear "
        "out that others stay low."
    )
    return "\n\n".join(lines)


def places(settings: ScalabilitySettings) -> str:
    """Which network stands at which place, in words: ``① mobilefacenet, ② sface``."""
    return ", ".join(f"{marks([place])} {name}" for place, name in enumerate(settings.networks, 1))
