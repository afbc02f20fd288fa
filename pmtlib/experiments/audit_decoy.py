"""The decoy, tuned: anchors of several scales, a step size that falls to 0, and purification inside the loop.

The ways are weighed on the people on whom a better filter was chosen, by blurs alone. The one that leaves least to the
other networks, of those that serve the service well enough, meets filters, translation and averages of several uploads
on the evaluated sets.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from torch import Tensor

from pmtlib import page_data
from pmtlib.attacks.adaptive.purify import Purification
from pmtlib.experiments import audit_frontier as frontier
from pmtlib.experiments import claims
from pmtlib.experiments.audit import PHOTOGRAPH, Audit, AuditSettings, means, not_yet
from pmtlib.experiments.audit_numbers import ENOUGH, met, reaches, share_of, strongest
from pmtlib.experiments.common import TITLES, Outcome
from pmtlib.experiments.trade_off import far_thresholds, threshold_set
from pmtlib.images import quantise
from pmtlib.variants.decoy import DecoyConfig

VERSION = 1
NOT_PICKED = "not run: no way to tune the decoy serves the service well enough"

SIGMAS, WEIGHT = (1.0, 2.0, 4.0, 8.0), 10.0
"""Scales of the anchors, pixels, and their weight. Neither was varied here."""


def tried(settings: AuditSettings) -> dict[str, frontier.Setting]:
    """Every way to tune the decoy: the steps of *deep*, each cut with and without a purification in each step."""
    anchors: dict[str, Any] = {"anchor_sigmas": SIGMAS, "anchor_weight": WEIGHT, "schedule": "cosine"}
    found: dict[str, frontier.Setting] = {}
    for cut in settings.decoy_cuts:
        for weight in settings.decoy_purify_weights:
            config = frontier.late_decoy(settings.pmt.batch_size, **anchors, purify_weight=weight)
            found[f"decoy tuned{f', purified {weight:g}' if weight else ''}, {cut}"] = (config, cut, (config.steps,))
    return found


def tuned(audit: Audit) -> Outcome:
    """All of them on other people, measured as in :meth:`~pmtlib.experiments.audit.Audit.choice`."""
    return not_yet(audit.weighed("choice-of-decoys", tried(audit.settings)))


def picked(outcome: Outcome) -> str | None:
    """The way that leaves the others least, as it is or after a blur, of those that serve the service well enough.

    Returns:
        Its name; None where nothing was measured or no way suffices.
    """
    if outcome.result is None:
        return None
    values = outcome.result.values
    least = ENOUGH * values[PHOTOGRAPH]["service"]
    leaks = {
        name.partition(", K = ")[0]: max(entry["others"])
        for name, entry in values.items()
        if name != PHOTOGRAPH and entry["service"] >= least
    }
    return min(leaks, key=lambda name: leaks[name], default=None)


def measured(audit: Audit, dataset: str, filters: Sequence[Purification], choice: Outcome) -> Outcome:
    """The way that was picked, on the evaluated pairs, as :func:`~.audit_frontier.weighed` measures a setting."""
    name = picked(choice)
    if name is None:
        return Outcome(None, choice.note or NOT_PICKED)
    candidates = {name: tried(audit.settings)[name]}
    return not_yet(frontier.settled(audit, dataset, "settings-decoy", filters, candidates))


def averaged(audit: Audit, dataset: str, filters: Sequence[Purification], choice: Outcome) -> Outcome:
    """Means of several uploads of each photograph by the way that was picked: as they are, and filtered.

    The uploads have other seeds, and so other decoys, of which a mean may leave little.
    """
    settings, name = audit.settings, picked(choice)
    if name is None:
        return Outcome(None, choice.note or NOT_PICKED)
    if not settings.decoy_copies:
        return Outcome(None, "not run: this profile averages no decoys")
    config, cut, _ = tried(settings)[name]
    parameters = {
        "authorised": settings.authorised,
        "made": {name: [cut, config.model_dump(mode="json")]},
        "copies": list(settings.decoy_copies),
        "filters": [[one.name, one.strength] for one in filters],
        "thresholds_of": threshold_set(dataset),
    }

    def compute() -> dict[str, Any]:
        photographs = audit.photographs(dataset)
        copies = []
        for number in range(max(settings.decoy_copies)):
            one = config.model_copy(update={"seed": config.seed + number})
            what = f"{dataset}, {name}, copy {number + 1}"
            made = audit.protect(photographs.originals, settings.authorised, what, config=one, cut=cut)
            copies.append(quantise(made.images))
        attacked: dict[str, Tensor] = {}
        for count in settings.decoy_copies:
            attacked |= means(copies, count, filters)
        found = {attack: frontier.seen(audit, photographs, images) for attack, images in attacked.items()}
        return {
            "same": photographs.same.astype(int).tolist(),
            "thresholds": {network: far_thresholds(network, dataset) for network in settings.networks},
            "attacks": {name: found},
        }

    request = audit.request("audit", f"{dataset}--averages-of-decoy", VERSION, parameters, (settings.authorised,))
    return not_yet(audit.obtain(request, audit.source(dataset), compute))


def recipe(settings: AuditSettings, name: str) -> str:
    """How a way is had from ``pmt protect``: options, and the fields that a configuration file changes (Markdown)."""
    config, cut, _ = tried(settings)[name]
    plain = DecoyConfig(batch_size=config.batch_size).model_dump(mode="json")
    changed = {field: value for field, value in config.model_dump(mode="json").items() if value != plain[field]}
    fields = ", ".join(f"`{field}: {json.dumps(value)}`" for field, value in changed.items())
    return f"`--variant decoy --cut {cut}`, and in the file of `--config` {fields}"


def reading(
    choice: Outcome, points: pd.DataFrame, averages: pd.DataFrame, published: pd.DataFrame, settings: AuditSettings
) -> str:
    """Which way was picked, and whether it reaches the goal without learning, in words and a table (Markdown).

    Args:
        choice: of :func:`tuned`.
        points: of :func:`pmtlib.experiments.audit_frontier.points`, with the way that was picked among the settings.
        averages: of :func:`pmtlib.experiments.audit_again.table` for :func:`averaged`.
        published: of :func:`pmtlib.experiments.audit_numbers.table`: what the published transform leaves to filters and
            averages stands there.
        settings: the audit's.
    """
    if choice.result is None:
        return "*The decoy was not tuned here.*"
    name, n, ways = picked(choice), choice.result.data["n"], len(choice.result.values) - 1
    start = f"**The decoy, tuned.** Of {ways} ways, weighed on {n} people who are in no pair,"
    enough = f"{100 * ENOUGH:.0f}% of what it recognises of photographs"
    if name is None:
        return f"{start} none lets the service keep {enough}."
    start += f" *{name}* leaves least, as it is or after a blur, of those with which the service keeps {enough}"
    columns: dict[str, list[str]] = {}
    verdicts: dict[str, list[str]] = {}
    for line in points[points["setting"] == name].to_dict("records") if len(points) else ():
        theirs = published[(published["dataset"] == line["dataset"]) & (published["variant"] == "pmt")]
        if not len(theirs):
            continue
        clean = float(theirs[theirs["attack"] == PHOTOGRAPH]["service"].iloc[0])
        left, mean = met(theirs, "filters"), of_means(averages, str(line["dataset"]))
        service = share_of(line["service"], clean)
        others = share_of(max(line["filters"], mean.get("others", 0.0)), left["others"].max())
        ssim = share_of(max(line["ssim"], mean.get("ssim", 0.0)), left["ssim"].max())
        verdict = "reached" if reaches("filters", service, others, ssim) else "not reached"
        verdict += "" if mean else ", but for averages"
        title = TITLES.get(str(line["dataset"]), str(line["dataset"]))
        verdicts.setdefault(verdict, []).append(title)
        columns[f"{title} (n = {int(line['n'])})"] = [
            f"{claims.rate(line, 'service', 0)} (of photographs {100 * clean:.0f}%)",
            f"{claims.rate(line, 'filters', 0)}, SSIM {line['ssim']:.2f}",
            f"{claims.rate(mean, 'others', 0)} ({mean['attack']}), SSIM {mean['ssim']:.2f}" if mean else "not measured",
            f"{100 * line['translated']:.0f}%",
            f"{100 * others:.0f}%, SSIM {100 * ssim:.0f}%",
            verdict,
        ]
    if not columns:
        return f"{start}: {recipe(settings, name)}."
    judged = "; ".join(
        f"{verdict}{',' if ',' in verdict else ''} on {claims.listed(where)}" for verdict, where in verdicts.items()
    )
    headings = [
        "the service",
        "others, after the best filter",
        "others, of means",
        "others, translated",
        "the most without learning, of what *pmt* leaves",
        "the goal without learning",
    ]
    table = page_data.markdown(["", *columns], zip(headings, *columns.values(), strict=True))
    return f"{start}. The goal without learning is {judged}.\n\n{table}\nHow to make it: {recipe(settings, name)}."


def of_means(averages: pd.DataFrame, dataset: str) -> dict[str, Any]:
    """What means of uploads of a set give at most (:func:`.audit_numbers.strongest`); empty where none was measured."""
    lines = averages[averages["dataset"] == dataset] if len(averages) else averages
    return strongest(lines) if len(lines) else {}


def summary(choice: Outcome, points: pd.DataFrame, averages: pd.DataFrame) -> dict[str, float]:
    """Headline numbers of the way that was picked.

    A key is ``decoy_SET_KIND``, with the kinds service, filters, averaged and translated, in percent, and ssim.
    """
    name, found = picked(choice), {}
    rows: Sequence[Mapping[Any, Any]] = points[points["setting"] == name].to_dict("records") if len(points) else ()
    for line in rows:
        for kind in ("service", "filters", "translated"):
            found[f"decoy_{line['dataset']}_{kind}"] = 100 * float(line[kind])
        found[f"decoy_{line['dataset']}_ssim"] = float(line["ssim"])
        if mean := of_means(averages, str(line["dataset"])):
            found[f"decoy_{line['dataset']}_averaged"] = 100 * float(mean["others"])
    return found
