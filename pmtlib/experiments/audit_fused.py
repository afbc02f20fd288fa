"""One attacker who holds all the face networks, and adds up what they say.

Elsewhere the audit gives the mean over networks of whom each recognises by itself, the measure that its goals were set
in. Somebody who has several networks need not ask them one by one. The simplest fusion of scores is taken here, the sum
rule of Kittler et al. ("On combining classifiers", 1998) on normalised scores: for a pair of images

.. math:: s = \\frac{1}{M} \\sum_{m=1}^{M} \\frac{c_m - \\mu_m}{\\sigma_m}

with the cosine c of network m and the mean and deviation of its cosines of pairs of two people (z-norm). Nothing is
trained, and nothing is set on the evaluated pairs: the means, the deviations and the threshold at a false acceptance
rate of 10⁻² come from the pairs of two people of the *other* data sets, under the same attack. Anybody can make such
pairs. Since they are few, the threshold is that of a normal distribution, and what it lets in here stands beside it.
Each network by itself is also asked at a threshold that was found so, which tells what fusing does from what the
thresholds do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pmtlib import metrics, page_data
from pmtlib.experiments import audit_beyond as beyond
from pmtlib.experiments import claims
from pmtlib.experiments.audit import PHOTOGRAPH, UPLOAD, AuditBlock, AuditSettings
from pmtlib.experiments.audit_again import RESTORED, VARIANT
from pmtlib.experiments.audit_frontier import share_of_others
from pmtlib.experiments.audit_numbers import GOALS, reaches, share_of
from pmtlib.experiments.common import TITLES, Floats, Outcome
from pmtlib.variants import PLAIN

FAR = 1e-2
FEWEST = 20
"""Pairs of two people from which on a threshold is taken from them."""
HERE, AGAIN = "the pairs above", "other people"
_STEPS = "K = "


class Scores(NamedTuple):
    """Cosines of the pairs of a data set under an attack.

    Attributes:
        networks: (P,) cosines by the network's name, without the authorised one's.
        same: (P,) booleans, whether a pair is of one person.
        mean: (S,) the share of networks that recognise the person by themselves, for the S pairs of one person.
    """

    networks: Mapping[str, Floats]
    same: NDArray[np.bool_]
    mean: Floats


class Case(NamedTuple):
    """What was attacked, and how: whose pairs, the uploads, and the attack."""

    pairs: str
    uploads: str
    attack: str


def fused(scores: Floats, impostors: Floats) -> tuple[Floats, float]:
    """Scores of several networks as one, and its threshold.

    Args:
        scores: (M, P) of M networks for P pairs.
        impostors: (M, Q) of the same networks for Q other pairs, each of two people.

    Returns:
        (P,) means of the normalised scores, and the threshold of a FAR of 1e-2 by a normal distribution.
    """
    together, of_impostors = normalised(scores, impostors)
    threshold = of_impostors.mean() + NormalDist().inv_cdf(1 - FAR) * of_impostors.std(ddof=1)
    return together, float(threshold)


def normalised(scores: Floats, impostors: Floats) -> tuple[Floats, Floats]:
    """Scores of several networks as one: each less the mean of its scores of two people, over their deviation.

    Args:
        scores: (M, P) of M networks.
        impostors: (M, Q) of the same networks, of pairs of two people.

    Returns:
        (P,) and (Q,), the means over networks of both.
    """
    mean, deviation = impostors.mean(1, keepdims=True), impostors.std(1, ddof=1, keepdims=True)
    deviation = np.where(deviation > 0, deviation, 1.0)
    first, second = (((each - mean) / deviation).mean(0) for each in (scores, impostors))
    return first, second


def table(
    blocks: Sequence[AuditBlock],
    tests: Mapping[str, Sequence[Outcome]],
    weighed: Mapping[str, Sequence[Outcome]],
    settings: AuditSettings,
) -> pd.DataFrame:
    """Every attack that met pairs of two people on at least two data sets.

    Args:
        blocks: of :meth:`pmtlib.experiments.audit.Audit.run`.
        tests: of :func:`pmtlib.experiments.audit_again.tested`, by the data set's name.
        weighed: of the settings of :mod:`pmtlib.experiments.audit_frontier`, likewise.
        settings: the audit's.

    Returns:
        DataFrame with columns dataset, pairs (:data:`HERE` or :data:`AGAIN`), uploads, attack, n (pairs of one person);
        mean: mean TAR of the networks as the rest of the audit has it; single, network: the highest TAR of one of them
        at a threshold as the fusion's, and whose; fused, low, high: TAR of all together with 95% Wilson interval;
        false, strangers: the share of pairs of two people that these accept, and how many there are.
    """
    found: dict[Case, dict[str, Scores]] = {}
    for dataset, case, scores in _cases(blocks, tests, weighed, settings.authorised):
        known = found.setdefault(case, {}).get(dataset)
        # An attack on few pairs and on all of them is one row, of all.
        if known is None or len(scores.same) > len(known.same):
            found[case][dataset] = scores
    lines = []
    for case, sets in found.items():
        for dataset, mine in sets.items():
            asked = mine.networks.keys()
            theirs = [one for other, one in sets.items() if other != dataset and one.networks.keys() == asked]
            impostors = {
                network: np.concatenate([one.networks[network][~one.same] for one in theirs] or [np.empty(0)])
                for network in asked
            }
            if not impostors or min(map(len, impostors.values())) < FEWEST:
                continue
            lines.append({"dataset": dataset, **case._asdict(), **_rates(mine, impostors)})
    return pd.DataFrame(lines)


def divided(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The lines of the audited variants and of photographs, and the lines of all that was made to leave less.

    The first are of the evaluated pairs and of each variant's own number of steps; the others of other numbers, of
    other settings, and of other people.

    Args:
        frame: of :func:`table`.
    """
    if not len(frame):
        return frame, frame
    own = (frame["pairs"] == HERE) & ~frame["uploads"].str.contains(",")
    return frame[own].reset_index(drop=True), frame[~own].reset_index(drop=True)


def _rates(mine: Scores, impostors: Mapping[str, Floats]) -> dict[str, Any]:
    alone = {}
    for network, cosines in mine.networks.items():
        score, threshold = fused(cosines[None], impostors[network][None])
        alone[network] = float((score > threshold)[mine.same].mean())
    network = max(alone, key=lambda name: alone[name])
    # Both in the same order of networks.
    score, threshold = fused(*(np.stack([each[name] for name in alone]) for each in (mine.networks, impostors)))
    accepted = score > threshold
    low, high = metrics.wilson(int(accepted[mine.same].sum()), int(mine.same.sum()))
    strangers = int((~mine.same).sum())
    return {
        "n": int(mine.same.sum()), "mean": float(mine.mean.mean()), "single": alone[network], "network": network,
        "fused": float(accepted[mine.same].mean()), "low": low, "high": high,
        "false": float(accepted[~mine.same].mean()) if strangers else float("nan"), "strangers": strangers,
    }  # fmt: skip


def _cases(
    blocks: Sequence[AuditBlock],
    tests: Mapping[str, Sequence[Outcome]],
    weighed: Mapping[str, Sequence[Outcome]],
    authorised: str,
) -> Iterator[tuple[str, Case, Scores]]:
    for block in blocks:
        for outcome in (*block.attacks.values(), *([] if block.steps is None else [block.steps])):
            for attack, entry, values in _entries(outcome, "attacks"):
                uploads, name = block.variant, attack
                if attack.startswith(_STEPS):
                    steps, name = attack.split(", ", 1)
                    uploads = f"{block.variant}, {steps}"
                if not attack.startswith(f"{PHOTOGRAPH}, "):
                    case = Case(HERE, PHOTOGRAPH if attack == PHOTOGRAPH else uploads, name)
                    yield block.dataset, case, _scores(entry, values, None, authorised)
    for dataset, outcome in ((dataset, one) for dataset, several in tests.items() for one in several):
        for variant, attacks, values in _entries(outcome, "attacks"):
            made = outcome.result.request.parameters["made"] if outcome.result is not None else {}
            steps = f", K = {made[variant][1]['steps']}" if variant in made and variant != PLAIN else ""
            for attack, entry in attacks.items():
                yield dataset, Case(AGAIN, f"{variant}{steps}", attack), _scores(entry, values, None, authorised)
    for dataset, outcome in ((dataset, one) for dataset, several in weighed.items() for one in several):
        for setting, entry, values in _entries(outcome, "settings"):
            at = {
                beyond.TRANSLATION: values["translated_at"][entry["cut"]],
                beyond.LEARNED_TRANSLATION: entry.get("learned_at"),
            }
            for attack, one in entry["attacks"].items():
                yield dataset, Case(HERE, setting, attack), _scores(one, values, at.get(attack), authorised)


def _entries(outcome: Outcome, kind: str) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    if outcome.result is not None:
        values = outcome.result.values
        yield from ((name, entry, values) for name, entry in values[kind].items())


def _scores(
    entry: Mapping[str, Any], values: Mapping[str, Any], at: Mapping[str, float] | None, authorised: str
) -> Scores:
    same = np.array(values["same"], dtype=bool)
    cosines = {
        # Attacks of the audit are also held against the protected photograph itself.
        network: scores["other"] if isinstance(scores, Mapping) else scores
        for network, scores in entry["networks"].items()
        if network != authorised and (at is not None or values["thresholds"][network] is not None)
    }
    mean = share_of_others(cosines, values["thresholds"], at, authorised, same)
    return Scores({network: np.array(one, dtype=float) for network, one in cosines.items()}, same, mean)


def verdicts(frame: pd.DataFrame, judged: pd.DataFrame, goal: str) -> pd.DataFrame:
    """Whether a goal that was tested on other people is reached against all networks together.

    Args:
        frame: of :func:`table`.
        judged: of :func:`pmtlib.experiments.audit_again.verdicts` for that goal.
        goal: which, of :data:`~pmtlib.experiments.audit_numbers.GOALS`.

    Returns:
        DataFrame with columns dataset, uploads, n, service, attack, fused, low, high, false, strangers (of the
        strongest attack); published: what the best filter gives them of the transform as published; alone: whether the
        goal is reached by the mean over networks; reached: by their fusion, with shares of what fusion gets there.
    """
    lines = []
    for line in judged.to_dict("records"):
        part = frame[(frame["dataset"] == line["dataset"]) & (frame["pairs"] == AGAIN)] if len(frame) else frame
        mine = part[part["uploads"] == f"{VARIANT}, K = {line['steps']}"] if len(part) else part
        theirs = part[part["uploads"] == PLAIN] if len(part) else part
        if not len(mine) or not len(theirs):
            continue
        best = max(mine.to_dict("records"), key=lambda one: float(one["fused"]))
        shares = (
            share_of(line["service"], line["clean"]),
            share_of(best["fused"], float(theirs["fused"].max())),
            share_of(line["ssim"], line["published_ssim"]),
        )
        about = {name: best[name] for name in ("dataset", "uploads", "n", "attack", *_RATE, "false", "strangers")}
        about |= {"service": line["service"], "published": float(theirs["fused"].max())}
        lines.append({**about, "alone": bool(line["reached"]), "reached": reaches(goal, *shares)})
    return pd.DataFrame(lines)


_RATE = ("fused", "low", "high")


def reading(frame: pd.DataFrame, judged: Mapping[str, pd.DataFrame]) -> str:
    """What an attacker gets who adds up what the networks say, in words, and a table of the goals (Markdown).

    Args:
        frame: of :func:`table`.
        judged: of :func:`verdicts`, by goal.
    """
    if not len(frame):
        return "*Not computed: no attack met pairs of two people on two data sets.*"
    parts: list[str] = []
    columns: dict[str, list[str]] = {}
    for goal, part in judged.items():
        verdicts: dict[tuple[str, str, str], list[str]] = {}
        for line in part.to_dict("records"):
            both = ["reached" if line[kind] else "not reached" for kind in ("reached", "alone")]
            verdicts.setdefault((line["uploads"], *both), []).append(_title(line))
            columns[f"*{line['uploads']}*, {_title(line)} (n = {int(line['n'])})"] = [
                f"{_rate(line)} by {line['attack']}",
                f"{100 * line['published']:.0f}%",
                f"{100 * line['false']:.0f}% of {int(line['strangers'])}",
                f"{100 * line['service']:.0f}%",
                f"**{both[0]}**",
                both[1],
            ]
        parts += [
            f"- *{uploads}*, on other people, the goal against {GOALS[goal][0]}: **By fusion {verdict}** on "
            f"{claims.listed(where)}, by the mean over networks {alone}."
            for (uploads, verdict, alone), where in verdicts.items()
        ]
    parts = ["\n".join(parts)] if parts else []
    if columns:
        names = [
            "together they recognise", f"the same of *{PLAIN}*", "pairs of two people accepted", "the service",
            "the goal, by fusion", "the goal, by the mean over networks",
        ]  # fmt: skip
        rows = zip(names, *columns.values(), strict=True)
        parts.append(page_data.markdown(["on other people", *columns], rows).strip())
    false = frame["false"].dropna()
    parts.append(
        f"Thresholds found so accept {100 * false.mean():.1f}% of the pairs of two people in the mean over "
        f"{len(false)} rows, {100 * false.max():.0f}% at most, where they were to accept one in a hundred: each rests "
        "on few pairs."
    )
    return "\n\n".join(parts)


def summary(frame: pd.DataFrame, judged: Mapping[str, pd.DataFrame]) -> dict[str, float]:
    """Headline numbers, percent.

    ``fused_V_KIND``, for a variant V at its own number of steps the mean over the data sets of what fusion gets: of
    uploads as they are (``upload``), by translation (``translated``); ``fused_SETTING_SET_KIND`` for settings of
    :data:`TOLD`; and for a goal of ``judged`` ``fused_again_SET``, with ``fused_again_reached`` the number of sets on
    which it is reached; those of the goal without learning begin with ``fused_again_filters``.
    """
    found: dict[str, float] = {}
    here = frame[frame["pairs"] == HERE] if len(frame) else frame
    kinds = {UPLOAD: "upload", beyond.TRANSLATION: "translated", beyond.LEARNED_TRANSLATION: "learned"}
    for (uploads, attack), part in here.groupby(["uploads", "attack"], sort=False) if len(here) else ():
        if attack in kinds and "," not in str(uploads):
            found[f"fused_{str(uploads).replace('-', '_')}_{kinds[str(attack)]}"] = 100 * float(part["fused"].mean())
    for line in here.to_dict("records"):
        for name, beginning in TOLD.items():
            if line["uploads"].startswith(beginning):
                key = f"fused_{name}_{line['dataset']}"
                if line["attack"] in kinds:
                    found[f"{key}_{kinds[line['attack']]}"] = 100 * line["fused"]
                if line["attack"] not in (beyond.TRANSLATION, beyond.LEARNED_TRANSLATION):
                    found[f"{key}_filters"] = max(100 * line["fused"], found.get(f"{key}_filters", 0.0))
    for goal, part in judged.items():
        start = "fused_again" if goal == RESTORED else f"fused_again_{goal}"
        for line in part.to_dict("records"):
            found[f"{start}_{line['dataset']}"] = 100 * line["fused"]
        if len(part):
            found[f"{start}_reached"] = int(part["reached"].sum())
    return found


TOLD: Mapping[str, str] = {
    "decoy": "decoy tuned",
    "projected": "projected",
    "guarded": "guarded 0.1, 7x7, K = 160",
    "deep_k20": "deep, 7x7, K = 20",
}
"""Settings that are told of in prose, by the name of their numbers: how what the table calls them begins."""


def shown(frame: pd.DataFrame) -> pd.DataFrame:
    """Of each data set and kind of uploads: as they are, and after the attack by which fusion gets most.

    Of the settings, which have a cut in their names, the latter, for those of :data:`TOLD`.

    Args:
        frame: of :func:`table`.
    """
    if not len(frame):
        return frame
    # Other numbers of steps than a variant's own are told where it was tested with them.
    tested = set(frame[frame["pairs"] == AGAIN]["uploads"])
    own = ~frame["uploads"].str.contains("x|units|K = ") | frame["uploads"].isin(tested)
    part = frame[own | frame["uploads"].str.startswith(tuple(TOLD.values()))]
    best = part.loc[part.groupby(["dataset", "pairs", "uploads"], sort=False)["fused"].idxmax()]
    plain = (part["attack"] == UPLOAD) & ~part["uploads"].str.startswith(tuple(TOLD.values()))
    found: pd.DataFrame = part[part.index.isin(best.index) | plain]
    places = {name: {one: place for place, one in enumerate(dict.fromkeys(frame[name]))} for name in _ORDER}
    return found.sort_values(list(_ORDER), key=lambda column: column.map(places[str(column.name)]), kind="stable")


_ORDER = ("pairs", "uploads", "dataset")
"""What is shown together: kinds of uploads as they come, of one set after the other."""


def _title(line: Mapping[Any, Any]) -> str:
    return str(TITLES.get(str(line["dataset"]), line["dataset"]))


def _rate(line: Mapping[Any, Any]) -> str:
    return f"{100 * line['fused']:.0f}% [{100 * line['low']:.0f}, {100 * line['high']:.0f}]"
