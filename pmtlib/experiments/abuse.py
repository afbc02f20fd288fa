"""Section 6.4, defence against data abuse (Table 7): who recognises an image that was protected for one network."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import Field

from pmtlib import datasets, metrics, results, zoo
from pmtlib.attacks.purify import blur_and_stretch
from pmtlib.errors import DatasetError
from pmtlib.experiments.claims import HOLDS, NOT, Claim, graded, mean, overall
from pmtlib.experiments.claims import rate as written
from pmtlib.experiments.common import (
    PEOPLE,
    TITLES,
    Bench,
    Floats,
    Outcome,
    SectionSettings,
    Source,
    first_pictures,
    own_name,
    paper_table,
    rate,
    rounded,
    same_data,
    section_settings,
    stored_threshold,
)
from pmtlib.images import UInt8Image, quantise, to_tensor, to_uint8
from pmtlib.reproduction import difference


class AbuseSettings(SectionSettings):
    """Parameters of Section 6.4 (Table 7); the networks are authorised in turn.

    Attributes:
        blur_sigma: of the filter in the last block, pixels.
        step_people: people in no pair of LFW on whom the number of steps was chosen.
        step_choices: the numbers of steps that were tried.
    """

    section: ClassVar[str] = "abuse"

    blur_sigma: float = 1.5
    step_people: int = Field(16, ge=1)
    step_choices: tuple[int, ...] = (25, 50, 100)


def abuse_settings(profile: str, **overrides: Any) -> AbuseSettings:
    """Settings of a profile, see :func:`pmtlib.experiments.common.section_settings`."""
    return section_settings(AbuseSettings, profile, **overrides)


@dataclass(frozen=True)
class AbuseBlock:
    """Everything of one data set in Table 7.

    Attributes:
        dataset: its name.
        clean: thresholds and scores on unprotected images.
        rows: authorised network to its outcome.
    """

    dataset: str
    clean: Outcome
    rows: Mapping[str, Outcome]


class Abuse(Bench[AbuseSettings]):
    """Table 7: authorised against unauthorised networks on protected images (Section 6.4, Eq. 10).

    Args:
        settings: see :class:`AbuseSettings`.
        device: where to compute.
        recompute: compute also what is stored.
        profile: the profile's name, for the command in manifests.
    """

    VERSION = 1

    def run(self) -> list[AbuseBlock]:
        """All blocks of the table. Each row is stored when done, so an interrupted run goes on where it was."""
        return [self._block(name) for name in self.settings.datasets]

    def _block(self, name: str) -> AbuseBlock:
        sample = self.sample(name)
        clean = self.thresholds(name, recompute=self.recompute)
        rows = {authorised: self._row(name, sample, authorised) for authorised in self.settings.networks}
        return AbuseBlock(name, clean, rows)

    def _row(self, name: str, sample: datasets.PairSet | DatasetError, authorised: str) -> Outcome:
        pmt = self.settings.pmt.model_dump()
        parameters = {
            "authorised": authorised, "cut": self.settings.cut, "blur_sigma": self.settings.blur_sigma, "pmt": pmt,
        }  # fmt: skip
        request = self.request("abuse", f"{name}--{authorised}", self.VERSION, parameters)

        def compute() -> dict[str, Any]:
            assert isinstance(sample, datasets.PairSet)
            return self._row_values(sample, authorised)

        return self.obtain(request, Source.of_pairs(sample), compute)

    def _row_values(self, sample: datasets.PairSet, authorised: str) -> dict[str, Any]:
        # A photograph that is first in several pairs is protected once: its result depends on nothing else.
        first, place = np.unique(sample.pairs[:, 0], return_inverse=True)
        second = sample.pairs[:, 1]
        originals = sample.tensor(first)
        protected = self.protect(originals, authorised, f"{sample.title}, {authorised}")
        # What is measured is what would be uploaded: 8-bit pixels.
        uploaded = quantise(protected.images)
        purified = quantise(blur_and_stretch(uploaded, self.settings.blur_sigma))
        others = sample.tensor(second)
        networks: dict[str, Any] = {}
        for name in self.settings.networks:
            own = self.embed(name, originals)[place]
            other = self.embed(name, others)
            raw, filtered = (self.embed(name, images)[place] for images in (uploaded, purified))
            networks[name] = {
                "own": rounded(metrics.cosine(raw, own)),
                "other": rounded(metrics.cosine(raw, other)),
                "purified_own": rounded(metrics.cosine(filtered, own)),
                "purified_other": rounded(metrics.cosine(filtered, other)),
            }
        return {
            "same": sample.same.astype(int).tolist(),
            "networks": networks,
            "ssim": rounded(metrics.ssim(uploaded, originals)[place]),
            "ssim_purified": rounded(metrics.ssim(purified, originals)[place]),
            "feature_error": rounded(protected.error[:, 0].numpy()[place]),
            "feature_cosine": rounded(protected.cosine[:, 0].numpy()[place]),
        }


def step_choice(abuse: Abuse) -> Outcome:
    """How many steps: likeness and authorised recognition against K, on people who are in no pair of LFW.

    Returns:
        Outcome whose values hold, for each network and K, the SSIM to the photograph and the cosine of the authorised
        network with it, one number a person.
    """
    settings = abuse.settings
    pmt = settings.pmt.model_dump(exclude={"steps"})
    parameters = {
        "people": settings.step_people,
        "people_seed": settings.pair_seed,
        "steps": list(settings.step_choices),
        "cut": settings.cut,
        "pmt": pmt,
    }
    weights = {network: zoo.weights_checksum(network) for network in settings.networks}
    request = results.Request("abuse", own_name(f"{PEOPLE}--steps", weights), abuse.VERSION, parameters, weights)
    try:
        people: datasets.People | DatasetError = first_pictures(settings.step_people, settings.pair_seed)
    except DatasetError as error:
        people = error
    source: Source | DatasetError = (
        people
        if isinstance(people, DatasetError)
        else Source(people.name, "LFW, people in no pair", people.fingerprint, len(people))
    )

    def compute() -> dict[str, Any]:
        assert isinstance(people, datasets.People)
        originals = people.tensor(range(len(people)))
        values: dict[str, Any] = {}
        for name in settings.networks:
            own = abuse.embed(name, originals)
            values[name] = {}
            for steps in settings.step_choices:
                config = settings.pmt.model_copy(update={"steps": steps})
                made = quantise(abuse.protect(originals, name, f"{name}, K = {steps}", config=config).images)
                cosine = metrics.cosine(abuse.embed(name, made), own)
                values[name][str(steps)] = {"ssim": rounded(metrics.ssim(made, originals)), "cosine": rounded(cosine)}
        return values

    return abuse.obtain(request, source, compute)


def step_table(outcome: Outcome) -> pd.DataFrame:
    """The numbers of :func:`step_choice`, one line a network and K.

    Returns:
        DataFrame with columns network, steps, ssim (mean), cosine (median), lowest (cosine), threshold (calibrated on
        LFW), accepted, n.
    """
    columns = ["network", "steps", "ssim", "cosine", "lowest", "threshold", "accepted", "n"]
    lines = []
    for name, by_steps in outcome.result.values.items() if outcome.result else ():
        for steps, entry in by_steps.items():
            cosine = np.array(entry["cosine"])
            accepted = int((cosine > stored_threshold(name)).sum())
            likeness = float(np.mean(entry["ssim"]))
            line = (
                name,
                int(steps),
                likeness,
                np.median(cosine),
                cosine.min(),
                stored_threshold(name),
                accepted,
                len(cosine),
            )
            lines.append(line)
    return pd.DataFrame(lines, columns=columns)


PROTECTED, PURIFIED, CLEAN = "protected", "purified", "clean"


def abuse_cells(blocks: Sequence[AbuseBlock], settings: AbuseSettings) -> pd.DataFrame:
    """Table 7 in long form, one line a cell.

    Returns:
        DataFrame with columns dataset, images (``clean``, ``protected`` or ``purified``), authorised (None for clean),
        network, threshold (``paper`` or ``calibrated``), kappa, successes, n, accuracy, low, high (95% Wilson).
    """
    lines: list[dict[str, Any]] = []
    for block in blocks:
        if block.clean.result is None:
            continue
        clean = block.clean.result.values
        same = np.array(clean["same"], dtype=bool)
        for network in settings.networks:
            entry = clean["networks"][network]
            for kind, kappa in (("paper", settings.kappa), ("calibrated", entry["threshold"])):
                if kind == "paper" and network in settings.kappa_excluded:
                    continue
                where = {"dataset": block.dataset, "network": network, "threshold": kind, "kappa": kappa}
                # Without protection the first condition of Eq. 10 compares an image with itself.
                scores = np.array(entry["scores"])
                correct = metrics.eq10(np.ones_like(scores), scores, same, kappa)
                lines.append({**where, "images": CLEAN, "authorised": None, **rate(correct)})
                for authorised, outcome in block.rows.items():
                    if outcome.result is None:
                        continue
                    same_data(block.clean.result, outcome.result)
                    cell = outcome.result.values["networks"][network]
                    for images, prefix in ((PROTECTED, ""), (PURIFIED, "purified_")):
                        own, other = np.array(cell[prefix + "own"]), np.array(cell[prefix + "other"])
                        correct = metrics.eq10(own, other, same, kappa)
                        lines.append({**where, "images": images, "authorised": authorised, **rate(correct)})
    columns = [
        "dataset", "images", "authorised", "network", "threshold", "kappa", "successes", "n", "accuracy", "low", "high",
    ]  # fmt: skip
    return pd.DataFrame(lines, columns=columns)


def abuse_summary(cells: pd.DataFrame, likeness: pd.DataFrame) -> dict[str, float]:
    """Headline numbers of Table 7 over all its data sets, in percent; SSIM as it is.

    For both thresholds and both kinds of image (``protected_calibrated_...``): the mean and the lowest accuracy of
    authorised cells, the mean, lowest and highest of unauthorised ones, the lowest and highest mean of a network
    that looks (``..._network_lowest``) and of the others by the authorised network (``..._for_lowest``);
    ``clean_...`` without protection; ``ssim_...``.
    """
    summary: dict[str, float] = {}
    for threshold in ("paper", "calibrated"):
        part = cells[cells["threshold"] == threshold]
        for images in (CLEAN, PROTECTED, PURIFIED):
            of_kind = part[part["images"] == images]
            own = of_kind[of_kind["authorised"] == of_kind["network"]]["accuracy"]
            unauthorised = of_kind[of_kind["authorised"] != of_kind["network"]]
            others = unauthorised["accuracy"]
            label = f"{images}_{threshold}"
            if images == CLEAN:
                summary[f"{label}_mean"] = 100 * others.mean()
                continue
            summary[f"{label}_authorised_mean"] = 100 * own.mean()
            summary[f"{label}_authorised_lowest"] = 100 * own.min()
            summary[f"{label}_unauthorised_mean"] = 100 * others.mean()
            summary[f"{label}_unauthorised_lowest"] = 100 * others.min()
            summary[f"{label}_unauthorised_highest"] = 100 * others.max()
            for one, name in (("network", "network"), ("authorised", "for")):
                means = unauthorised.groupby(one)["accuracy"].mean()
                summary[f"{label}_{name}_lowest"] = 100 * means.min()
                summary[f"{label}_{name}_highest"] = 100 * means.max()
    for kind, group in likeness.groupby("images"):
        summary[f"ssim_{kind}_mean"] = group["ssim"].mean()
        summary[f"ssim_{kind}_worst"] = group["worst"].max()
    return {name: round(float(value), 3) for name, value in summary.items()}


def abuse_likeness(blocks: Sequence[AbuseBlock]) -> pd.DataFrame:
    """How much the uploads look like the photographs, one line a row of Table 7.

    Returns:
        DataFrame with columns dataset, authorised, images, ssim, low, high (95% bootstrap of the mean), worst (the
        highest SSIM of an image), n.
    """
    lines = []
    for block in blocks:
        for authorised, outcome in block.rows.items():
            if outcome.result is None:
                continue
            for images, name in ((PROTECTED, "ssim"), (PURIFIED, "ssim_purified")):
                values = np.array(outcome.result.values[name])
                interval = metrics.bootstrap(values, seed=0)
                line = (block.dataset, authorised, images, values.mean(), *interval, values.max(), len(values))
                lines.append(line)
    return pd.DataFrame(lines, columns=["dataset", "authorised", "images", "ssim", "low", "high", "worst", "n"])


@dataclass(frozen=True)
class Upload:
    """One portrait protected for one network.

    Attributes:
        image: the upload, (112, 112, 3), 8 bits.
        purified: the same after the blur of :func:`pmtlib.attacks.purify.blur_and_stretch`.
        ssim: of the upload and the photograph; ``ssim_purified`` likewise.
        recognition: network to the cosine of its embeddings of upload and photograph, the same for the blurred
            upload, and its calibrated threshold.
        cosine: that of the authorised network.
        accepted: whether it accepts the upload at its calibrated threshold.
    """

    image: UInt8Image
    purified: UInt8Image
    ssim: float
    ssim_purified: float
    recognition: Mapping[str, tuple[float, float, float]]
    cosine: float
    accepted: bool


@dataclass(frozen=True)
class Portrait:
    """A sample photograph that may be shown, and its uploads by authorised network."""

    title: str
    original: UInt8Image
    uploads: Mapping[str, Upload]


def portraits(abuse: Abuse, count: int) -> list[Portrait]:
    """The first sample photographs that may be shown, protected here and now for each network that is present."""
    shown = [photo for photo in datasets.sample_photos() if photo.display][:count]
    crops = [photo.crops()[0].image for photo in shown]
    originals = to_tensor(crops)
    networks = abuse.usable()
    embeddings = {name: abuse.embed(name, originals) for name in networks}
    uploads: list[dict[str, Upload]] = [{} for _ in shown]
    for authorised in networks:
        uploaded = quantise(
            abuse.protect(originals, authorised, f"Sample photographs, {authorised}", shown=True).images
        )
        purified = quantise(blur_and_stretch(uploaded, abuse.settings.blur_sigma))
        raw = {name: metrics.cosine(abuse.embed(name, uploaded), embeddings[name]) for name in networks}
        blurred = {name: metrics.cosine(abuse.embed(name, purified), embeddings[name]) for name in networks}
        likeness = metrics.ssim(uploaded, originals), metrics.ssim(purified, originals)
        for index, entry in enumerate(uploads):
            recognition = {
                name: (float(raw[name][index]), float(blurred[name][index]), stored_threshold(name))
                for name in networks
            }
            cosine, _, threshold = recognition[authorised]
            entry[authorised] = Upload(
                to_uint8(uploaded)[index],
                to_uint8(purified)[index],
                float(likeness[0][index]),
                float(likeness[1][index]),
                recognition,
                cosine,
                cosine > threshold,
            )
    return [Portrait(photo.title, crop, entry) for photo, crop, entry in zip(shown, crops, uploads, strict=True)]


def not_run(blocks: Sequence[AbuseBlock]) -> list[str]:
    """One line for each part of Table 7 that has no result, or whose result could not be computed again."""
    lines = []
    for block in blocks:
        notes = {"thresholds": block.clean.note, **{name: outcome.note for name, outcome in block.rows.items()}}
        distinct = {note for note in notes.values() if note}
        title = TITLES.get(block.dataset, block.dataset)
        if len(distinct) == 1 and all(notes.values()):
            lines.append(f"{title}: {distinct.pop()}")
        else:
            lines += [f"{title}, {name}: {note}" for name, note in notes.items() if note]
    return lines


KEPT_WITHIN, EVERY_CELL = 5.0, 90.0
"""Served, in points of Eq. 10: a mean loss of the authorised networks of at most that, and each of their cells at least
that (which :mod:`~pmtlib.experiments.scalability` asks too). A mean alone hides a network that serves badly."""
_KEPT_OUT, _HALF_OUT = 15.0, 50.0
"""Accuracies of the others that count as kept out, and as kept out in part."""


def abuse_reading(summary: Mapping[str, float], cells: pd.DataFrame, settings: AbuseSettings) -> str:
    """The interpretation of Table 7 in words, with the numbers of the results at hand (Markdown)."""
    if not (cells["images"] == PROTECTED).any():
        return "Nothing was measured."
    value = {name: f"{number:.1f}" for name, number in summary.items()}
    chosen = cells[(cells["threshold"] == "calibrated") & (cells["images"] == PROTECTED)]
    others = chosen[chosen["authorised"] != chosen["network"]]
    by_accuracy = sorted(others.to_dict("records"), key=lambda line: float(line["accuracy"]))
    lines = [
        f"- **The authorised service** has {value['protected_calibrated_authorised_mean']}% on average at its own "
        f"threshold (lowest cell {value['protected_calibrated_authorised_lowest']}%), where clean images have "
        f"{value['clean_calibrated_mean']}%.",
        f"- **Other networks, shown the upload as it is,** have {value['protected_calibrated_unauthorised_mean']}% on "
        f"average at their own thresholds and {value['protected_paper_unauthorised_mean']}% at the paper's κ = "
        f"{settings.kappa}. The paper's average over its unauthorised cells is {paper_mean():.1f}%.",
    ]
    if by_accuracy:
        lowest, highest = (
            f"{written(line)}, {line['network']} on images for {line['authorised']} "
            f"({TITLES.get(line['dataset'], line['dataset'])}, n = {line['n']})"
            for line in (by_accuracy[0], by_accuracy[-1])
        )
        each, by_authorised = (
            ", ".join(f"{network} {mean:.1f}%" for network, mean in _means(others, one).items())
            for one in ("network", "authorised")
        )
        lines.append(
            f"- **Averages hide pairs of networks.** Unauthorised cells run from {lowest}, to {highest}. Means by the "
            f"network that looks: {each}. Means of the others by the authorised network: {by_authorised}."
        )
    lost = summary["clean_calibrated_mean"] - summary["protected_calibrated_unauthorised_mean"]
    left = summary["clean_calibrated_mean"] - summary["purified_calibrated_unauthorised_mean"]
    undone = lost > 0 and left < lost / 2
    lines.append(
        f"- **{'A blur undoes much of it.' if undone else 'After a blur.'}** Other networks then have "
        f"{value['purified_calibrated_unauthorised_mean']}% on average, the authorised ones "
        f"{value['purified_calibrated_authorised_mean']}%, and the mean SSIM to the photograph goes from "
        f"{summary['ssim_protected_mean']:.2f} to {summary['ssim_purified_mean']:.2f}."
    )
    alike = _of_one_kind(others)
    if len(alike):
        pairs = ", ".join(
            f"{line['network']} on images for {line['authorised']} {written(line)} "
            f"({TITLES.get(line['dataset'], line['dataset'])})"
            for line in alike.to_dict("records")
        )
        lines.append(f"- **The same architecture** as the authorised network has: {pairs}.")
    lines.append(
        f"- *What counts as what.* Served: a loss of at most {KEPT_WITHIN:g} points on average and every cell at least "
        f"{EVERY_CELL:g}%; in part: one of the two. Kept out: at most {_KEPT_OUT:g}% at their own thresholds; in part: "
        f"at most {_HALF_OUT:g}%. Networks of the authorised one's architecture are kept out where each "
        "interval ends below that."
    )
    return "\n".join(lines)


def _means(cells: pd.DataFrame, column: str) -> pd.Series[float]:
    """Mean accuracies of cells by ``column``, percent, the lowest first."""
    return 100 * cells.groupby(column, sort=False)["accuracy"].mean().sort_values()


def _of_one_kind(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells in which a network has the architecture of the authorised one."""
    return cells[
        [
            len(kinds := {zoo.card(name).paper_counterpart for name in (line["authorised"], line["network"])}) == 1
            and None not in kinds
            for line in cells.to_dict("records")
        ]
    ]


def abuse_claims(blocks: Sequence[AbuseBlock], cells: pd.DataFrame, settings: AbuseSettings) -> list[Claim]:
    """What the paper says of Table 7, held against the cells at each network's own threshold."""
    chosen = cells[(cells["threshold"] == "calibrated") & (cells["images"] == PROTECTED)]
    if not len(chosen):
        return []
    own, _ = paper_cells()
    shares = {
        (role, prefix): [one for block in blocks if len(one := _shares(block, settings, role, prefix))]
        for role in ("authorised", "unauthorised")
        for prefix in ("", "purified_")
    }
    at_papers = [one for block in blocks if len(one := _shares(block, settings, "unauthorised", "", settings.kappa))]
    services = chosen[chosen["authorised"] == chosen["network"]].sort_values("accuracy").to_dict("records")
    photographs = cells[(cells["threshold"] == "calibrated") & (cells["images"] == CLEAN)]
    clean = photographs["accuracy"].mean()
    cost = 100 * float(clean - np.mean(np.concatenate(shares["authorised", ""])))
    before = {(line["dataset"], line["network"]): 100 * line["accuracy"] for line in photographs.to_dict("records")}

    def cell(line: Mapping[Any, Any]) -> str:
        where = f"{line['network']}, {TITLES.get(line['dataset'], line['dataset'])}"
        return f"{written(line)} ({where}; photographs {before[line['dataset'], line['network']]:.1f}%)"

    short = [line for line in services if 100 * line["accuracy"] < EVERY_CELL]
    found = [
        Claim(
            "the authorised service goes on recognising people",
            f"{min(own):.1f} to {max(own):.1f}%",
            f"it has {mean(shares['authorised', ''], 1, percent=True)} on average at each network's own threshold, "
            f"{100 * clean:.1f}% with photographs; "
            + (
                f"of {len(services)} cells {len(short)} {'has' if len(short) == 1 else 'have'} less than "
                f"{EVERY_CELL:g}%: {', '.join(map(cell, short))}"
                if short
                else f"the lowest cell is {cell(services[0])}"
            )
            + "; no face is looked for in uploads",
            overall([cost <= KEPT_WITHIN, not short]),
        )
    ]
    others = chosen[chosen["authorised"] != chosen["network"]]
    if not len(others):
        return found
    remaining = 100 * float(np.mean(np.concatenate(shares["unauthorised", ""])))
    measured = set(others["dataset"]) & set(paper_table("table7")["datasets"])
    here = f", {paper_mean(measured):.1f}% on those measured here" if measured else ""
    ends = _means(others, "authorised")
    found.append(
        Claim(
            "other networks fail",
            f"{paper_mean():.1f}% on average over its four sets{here}, at κ = {settings.kappa:g}, which it calls usual",
            (f"they have {mean(at_papers, 1, percent=True)} at that κ, " if at_papers else "they have ")
            + f"{mean(shares['unauthorised', ''], 1, percent=True)} at their own thresholds (means by the authorised "
            f"network from {ends.iloc[0]:.1f}%, {ends.index[0]}, to {ends.iloc[-1]:.1f}%, {ends.index[-1]}), after a "
            f"blur {mean(shares['unauthorised', 'purified_'], 1, percent=True)}; these networks need no face to be "
            "found in the upload either",
            graded(remaining, _KEPT_OUT, _HALF_OUT),
        )
    )
    alike = _of_one_kind(others)
    if len(alike):
        extremes = sorted(alike.to_dict("records"), key=lambda line: line["accuracy"])
        found.append(
            Claim(
                "so do those of the authorised network's own architecture",
                "{:.1f} to {:.1f}% between IR50-Softmax and IR50-Sphereface".format(*paper_alike()),
                f"these have {written(extremes[0])} to {written(extremes[-1])} in {len(extremes)} cells",
                HOLDS if (100 * alike["high"] < _KEPT_OUT).all() else NOT,
            )
        )
    return found


def _shares(block: AbuseBlock, settings: AbuseSettings, role: str, prefix: str, kappa: float | None = None) -> Floats:
    """The share of a block's cells of a role that are right for a pair, (P,); empty where there is none.

    At each network's own threshold, or at ``kappa``, without those networks for which it says nothing.
    """
    if block.clean.result is None:
        return np.zeros(0)
    clean = block.clean.result.values
    same = np.array(clean["same"], dtype=bool)
    right = []
    for authorised, outcome in block.rows.items():
        for network in settings.networks if outcome.result else ():
            if kappa is not None and network in settings.kappa_excluded:
                continue
            if (network == authorised) is (role == "authorised"):
                assert outcome.result is not None
                cell = outcome.result.values["networks"][network]
                own, other = (np.array(cell[prefix + name]) for name in ("own", "other"))
                limit = clean["networks"][network]["threshold"] if kappa is None else kappa
                right.append(metrics.eq10(own, other, same, limit))
    return np.mean(right, axis=0) if right else np.zeros(0)


def paper_cells(datasets: Container[str] | None = None) -> tuple[list[float], list[float]]:
    """The cells of the paper's Table 7 on ``datasets``, or on all four, percent: authorised ones, and the others."""
    own: list[float] = []
    others: list[float] = []
    for name, rows in paper_table("table7")["datasets"].items():
        if datasets is not None and name not in datasets:
            continue
        for index, row in enumerate(rows.values()):
            for column, value in enumerate(row["accuracy"]):
                if index > 0:
                    (own if column == index - 1 else others).append(value)
    return own, others


def paper_alike() -> tuple[float, float]:
    """The lowest and the highest cell of Table 7 between the paper's two networks of one architecture, percent."""
    content = paper_table("table7")
    columns, two = list(content["columns"]), ("IR50-Softmax", "IR50-Sphereface")
    values = [
        rows[own]["accuracy"][columns.index(other)]
        for rows in content["datasets"].values()
        for own, other in (two, two[::-1])
    ]
    return min(values), max(values)


def paper_mean(datasets: Container[str] | None = None) -> float:
    """Mean of the unauthorised cells of the paper's Table 7 on ``datasets``, or on all four, percent."""
    return float(np.mean(paper_cells(datasets)[1]))


def reproduction(blocks: Sequence[AbuseBlock], settings: AbuseSettings) -> pd.DataFrame:
    """After a recomputation: each cell beside the one stored before, and whether it lies in that one's interval."""
    before = [
        AbuseBlock(
            block.dataset,
            Outcome(block.clean.previous),
            {name: Outcome(outcome.previous) for name, outcome in block.rows.items()},
        )
        for block in blocks
    ]
    keys = ["dataset", "images", "authorised", "network", "threshold"]
    fresh, stored = abuse_cells(blocks, settings), abuse_cells(before, settings)
    joined = stored.merge(fresh[[*keys, "accuracy"]], on=keys, suffixes=("_stored", "_recomputed"))
    rates = joined["accuracy_recomputed"]
    joined["inside"] = (rates >= joined["low"]) & (rates <= joined["high"])
    return joined


def largest_difference(blocks: Sequence[AbuseBlock]) -> float:
    """After a recomputation: the largest difference of any cosine or SSIM from what was stored before."""
    outcomes = [outcome for block in blocks for outcome in (block.clean, *block.rows.values())]
    return max(
        (difference(o.result.values, o.previous.values) for o in outcomes if o.result and o.previous), default=0.0
    )
