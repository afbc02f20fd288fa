"""Whether decoys, and uploads made with them, are taken for somebody who is enrolled.

A decoy (:mod:`pmtlib.variants.decoys`) shall belong to nobody. Every network compares each with the enrolled
photographs of the evaluated people and of strangers; photographs of people who are not enrolled say how many such
comparisons a network accepts of any face.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from pmtlib import datasets, metrics, page_data
from pmtlib.experiments import claims
from pmtlib.experiments.audit_beyond import FAR_NAME, VERSION, crowd, learned_from
from pmtlib.experiments.audit_frontier import tried
from pmtlib.experiments.common import TITLES, Outcome, rounded
from pmtlib.experiments.trade_off import far_thresholds, identities, threshold_set
from pmtlib.images import quantise
from pmtlib.metrics import Bools, Floats
from pmtlib.variants.decoys import decoy

if TYPE_CHECKING:
    from pmtlib.experiments.audit import Audit

DATASET = "lfw"
"""The faces that decoys are blended from are of LFW, so that its people are the ones to ask about."""
ABSENT_PEOPLE = "cfp_ff"
DECOY, UPLOAD, ABSENT = "decoy", "upload with a decoy", "photograph of somebody who is not enrolled"
_IN_WORDS = {
    DECOY: "decoys",
    UPLOAD: "uploads with a decoy",
    ABSENT: f"photographs of strangers, of {TITLES[ABSENT_PEOPLE]}",
}
_FIRST_SEED = 10_000
"""Far from the seeds of uploads, whose decoys come from the photographs' pixels."""


def measured(audit: Audit) -> Outcome:
    """Cosines of decoys, of uploads made with decoys, and of photographs of other people with all who are enrolled.

    The uploads are those of the decoy at the deepest cut among all settings (:func:`~.audit_frontier.tried`). Enrolled
    are the second photographs of LFW's evaluated pairs and one photograph of each of the distractors. Of an upload the
    person whom it shows is left out.
    """
    settings = audit.settings
    if not settings.distractors or not settings.choice_people or DATASET not in settings.datasets:
        return Outcome(None, "not run: this profile does not look whom decoys are taken for")
    (config, cut, keep) = tried(settings)[f"decoy, {settings.choice_cuts[-1]}"]
    parameters = {
        "authorised": settings.authorised,
        "pmt": config.model_dump(mode="json"),
        "cut": cut,
        "distractors": settings.distractors,
        "seed": _FIRST_SEED,
        "absent": ABSENT_PEOPLE,
        "thresholds_of": threshold_set(DATASET),
    }
    request = audit.request("audit", f"{DATASET}--decoys", VERSION, parameters, (settings.authorised,))

    def compute() -> dict[str, Any]:
        sample, photographs = audit.sample(DATASET), audit.photographs(DATASET)
        assert isinstance(sample, datasets.PairSet)
        who = identities(sample)
        second = np.unique(sample.pairs[:, 1])
        strangers = crowd(audit)
        enrolled = torch.cat([sample.tensor(second), strangers])
        count = len(photographs.originals)
        absent, _ = learned_from(ABSENT_PEOPLE, sample)
        _, rows = np.unique(np.array(absent.identities), return_index=True)
        made = audit.protect(
            photographs.originals, settings.authorised, f"{DATASET}, decoy", config=config, cut=cut, keep=keep
        )
        asked = {
            DECOY: torch.cat([decoy(_FIRST_SEED + number) for number in range(count)]),
            UPLOAD: quantise(made.images),
            ABSENT: absent.tensor(rows[:count]),
        }
        shown = [who[int(index)] for index in np.unique(sample.pairs[:, 0])]
        own = np.array([[person == who[int(index)] for index in second] for person in shown])
        own = np.pad(own, ((0, 0), (0, len(strangers))))
        found: dict[str, Any] = {}
        for network in settings.networks:
            thresholds = far_thresholds(network, DATASET)
            if thresholds is None:
                continue
            known = audit.embed(network, enrolled)
            found[network] = {
                kind: _compared(audit.embed(network, images), known, own if kind == UPLOAD else None, thresholds)
                for kind, images in asked.items()
            }
        return {"networks": found, "enrolled": len(enrolled), "images": count}

    return audit.obtain(request, audit.source(DATASET), compute)


def _compared(asked: Floats, enrolled: Floats, own: Bools | None, thresholds: Mapping[str, float]) -> dict[str, Any]:
    """The nearest of those enrolled to each, and how many of all comparisons a threshold accepts."""
    cosines = np.stack([metrics.cosine(np.broadcast_to(one, enrolled.shape), enrolled) for one in asked])
    others = np.ones_like(cosines, dtype=bool) if own is None else ~own
    accepted = (cosines > thresholds[FAR_NAME]) & others
    return {
        "nearest": rounded(np.where(others, cosines, -1.0).max(1)),
        "accepted": accepted.sum(1).astype(int).tolist(),
        "compared": others.sum(1).astype(int).tolist(),
    }


def rates(outcome: Outcome) -> pd.DataFrame:
    """How often each network takes each kind of image for somebody who is enrolled.

    Returns:
        DataFrame with columns network, kind, accepted (share of all comparisons), low, high (95% bootstrap interval
        over images; the enrolled, whom all are compared with, are not resampled), nearest (mean of the highest cosine),
        images, enrolled.
    """
    if outcome.result is None:
        return pd.DataFrame()
    values = outcome.result.values
    lines = []
    for network, kinds in values["networks"].items():
        for kind, entry in kinds.items():
            share = np.array(entry["accepted"]) / np.array(entry["compared"])
            interval = metrics.bootstrap(share, seed=0)
            lines.append(
                {
                    "network": network, "kind": kind, "accepted": float(share.mean()), "low": interval.low,
                    "high": interval.high, "nearest": float(np.mean(entry["nearest"])), "images": len(share),
                    "enrolled": values["enrolled"],
                }
            )  # fmt: skip
    return pd.DataFrame(lines)


def more_than_strangers(frame: pd.DataFrame) -> dict[str, list[str]]:
    """The networks that take decoys, and uploads with them, for somebody more often than strangers' photographs.

    More often: the interval lies above the strangers'.

    Args:
        frame: of :func:`rates`.
    """
    low, high = (
        {(line["network"], line["kind"]): float(line[end]) for line in frame.to_dict("records")}
        for end in ("low", "high")
    )
    names = list(dict.fromkeys(map(str, frame["network"])))
    return {kind: [name for name in names if low[name, kind] > high[name, ABSENT]] for kind in (DECOY, UPLOAD)}


def reading(frame: pd.DataFrame) -> str:
    """Whether decoys belong to nobody, in words and a table (Markdown).

    Args:
        frame: of :func:`rates`.
    """
    if not len(frame):
        return "*Whom decoys are taken for was not measured here.*"
    share = {(line["network"], line["kind"]): 100 * line["accepted"] for line in frame.to_dict("records")}
    above = more_than_strangers(frame)
    rows = []
    for kind, words in _IN_WORDS.items():
        part = frame[frame["kind"] == kind].to_dict("records")
        worst = max(part, key=lambda line: float(line["accepted"]))
        names = [f"{name} ({share[name, kind]:.2f}% to {share[name, ABSENT]:.2f}%)" for name in above.get(kind, ())]
        rows.append(
            [
                words,
                f"{100 * float(np.mean([line['accepted'] for line in part])):.2f}%",
                f"{claims.rate(worst, 'accepted', 2)}, {worst['network']}",
                ", ".join(names) or ("none" if kind in above else ""),
            ]
        )
    by = {kind: f"by {claims.listed(names) if names else 'none'}" for kind, names in above.items()}
    line = frame.iloc[0]
    headings = ["comparisons accepted", "mean", "highest", "more often than the strangers"]
    return (
        f"**Decoys are nobody's?** More often than strangers, {_IN_WORDS[DECOY]} are taken for somebody {by[DECOY]}, "
        f"{_IN_WORDS[UPLOAD]} {by[UPLOAD]}. {int(line['images'])} of each kind were compared with "
        f"{int(line['enrolled'])} enrolled photographs of LFW's people, whose faces decoys are blended from, at a FAR "
        "of 10⁻². (Intervals resample the images, not the enrolled.)\n\n" + page_data.markdown(headings, rows).strip()
    )
