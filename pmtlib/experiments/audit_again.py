"""A number of steps that was seen to reach a goal, put to the test on pairs of other people.

The frontier shows what a variant reaches at other numbers of steps than the one that was chosen for it. To pick one of
them by looking, and to report it on the pairs that were looked at, would be to choose on the evaluated pairs. Here one
number is fixed before, and pairs of people who are in none of those pairs decide, once. The goal is that against
filters and networks that restore a face; translation goes beyond it, as the frontier says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pmtlib import datasets, metrics
from pmtlib.errors import DatasetError
from pmtlib.experiments.audit import (
    DEOBFUSCATOR,
    IDENTITY_RECFACE,
    PHOTOGRAPH,
    RECFACE,
    UPLOAD,
    Audit,
    AuditSettings,
    chosen_filters,
    label,
    not_yet,
)
from pmtlib.experiments.audit_beyond import FAR_NAME
from pmtlib.experiments.audit_numbers import GOALS
from pmtlib.experiments.common import TITLES, Outcome, balanced
from pmtlib.experiments.trade_off import far_thresholds, threshold_set
from pmtlib.images import quantise
from pmtlib.variants import PLAIN

VARIANT = "deep"
VERSION = 1
_GOAL = GOALS["restored"]


class OtherPeople(Audit):
    """The audit on pairs that have nobody in common with the evaluated ones."""

    def sample(self, name: str) -> datasets.PairSet | DatasetError:
        """As many pairs, of people who are in no evaluated pair, drawn with the seed ``again_seed``."""
        whole, evaluated = self.whole(name), super().sample(name)
        if isinstance(whole, DatasetError):
            return whole
        assert isinstance(evaluated, datasets.PairSet)
        rest = whole.subset(datasets.disjoint(whole, evaluated))
        if not balanced(rest):
            return DatasetError(f"{whole.name} has no pairs of people who are in no evaluated pair")
        return rest.sample(min(self.settings.pairs, balanced(rest)), self.settings.again_seed)


def tested(audit: Audit, dataset: str, tuned: Mapping[str, Outcome]) -> Outcome:
    """Uploads of *deep* after ``again_steps`` and of the transform as published, on pairs of other people.

    *deep* meets every filter at its best strength and learners that were trained on its uploads, whose numbers of steps
    have this one among them: the de-obfuscator, and RecFace for identity (or for likeness, where none is trained for
    identity; on the evaluated pairs it gets less by every measure). The published transform, at its own number of
    steps, meets the filters alone: what these leave is less than what learners would, so that shares of it are the
    harder goal.
    """
    settings = audit.settings
    if not settings.again_steps or not settings.pair_people or not {PLAIN, VARIANT} <= set(settings.variants):
        return Outcome(None, "not run: this profile tests no other number of steps")
    other = OtherPeople(settings, audit.device, recompute=audit.recompute)
    other.command = audit.command
    filters = {name: chosen_filters(tuned[name], settings) for name in (PLAIN, VARIANT)}
    config = audit.config(VARIANT).model_copy(update={"steps": settings.again_steps})
    identity = VARIANT in settings.identity_variants
    parameters: dict[str, Any] = {
        "again_seed": settings.again_seed,
        "authorised": settings.authorised,
        "made": {
            PLAIN: [audit.cut(PLAIN), audit.config(PLAIN).model_dump(mode="json")],
            VARIANT: [audit.cut(VARIANT), config.model_dump(mode="json")],
        },
        "filters": {name: [[one.name, one.strength] for one in several] for name, several in filters.items()},
        "thresholds_of": threshold_set(dataset),
        **audit.training(),
    }
    if identity:
        parameters["identity"] = [settings.identity, settings.identity_training.model_dump(mode="json")]

    def compute() -> dict[str, Any]:
        photographs, shared = other.photographs(dataset), audit.shared(VARIANT)
        found: dict[str, Any] = {}
        for name, one in ((PLAIN, audit.config(PLAIN)), (VARIANT, config)):
            made = other.protect(
                photographs.originals, settings.authorised, f"{dataset}, {name}", config=one, cut=audit.cut(name)
            )
            uploads = quantise(made.images)
            attacked = {label(filtering): filtering(uploads) for filtering in filters[name]}
            if name == VARIANT:
                features = audit._features(shared, uploads)
                attacked[DEOBFUSCATOR] = audit.through(audit.deobfuscator(name), uploads)
                restored = audit.through(audit.inverter(name, identity=identity), features)
                attacked[IDENTITY_RECFACE if identity else RECFACE] = restored
            found[name] = {attack: _seen(other.opinions(photographs, images)) for attack, images in attacked.items()}
        found[PHOTOGRAPH] = {PHOTOGRAPH: _seen(other.opinions(photographs, photographs.originals))}
        return {
            "same": photographs.same.astype(int).tolist(),
            "thresholds": {network: far_thresholds(network, dataset) for network in settings.networks},
            "attacks": found,
        }

    request = audit.request("audit", f"{dataset}--other-people", VERSION, parameters, (settings.authorised,))
    return not_yet(other.obtain(request, other.source(dataset), compute))


def _seen(opinions: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "networks": {network: scores["other"] for network, scores in opinions["networks"].items()},
        "ssim": opinions["ssim"],
    }


def table(outcomes: Mapping[str, Outcome], settings: AuditSettings) -> pd.DataFrame:
    """One line for each attack.

    Args:
        outcomes: of :func:`tested`, by the data set's name.
        settings: the audit's.

    Returns:
        DataFrame with columns dataset, variant (``photograph`` for none), steps, attack, n (pairs of one person),
        service: TAR of the authorised network with 95% Wilson interval (``service_low``, ``service_high``); others:
        mean TAR of the other networks with 95% bootstrap interval over pairs (``others_low``, ``others_high``); ssim.
    """
    lines = []
    for dataset, outcome in outcomes.items():
        if outcome.result is None:
            continue
        values = outcome.result.values
        same = np.array(values["same"], dtype=bool)
        made = outcome.result.request.parameters["made"]
        for variant, attacks in values["attacks"].items():
            for attack, entry in attacks.items():
                line: dict[str, Any] = {"dataset": dataset, "variant": variant, "attack": attack, "n": int(same.sum())}
                line["steps"] = made[variant][1]["steps"] if variant in made else 0
                accepted = {
                    network: np.array(cosines)[same] > at[FAR_NAME]
                    for network, cosines in entry["networks"].items()
                    if (at := values["thresholds"][network]) is not None
                }
                own = accepted.pop(settings.authorised)
                low, high = metrics.wilson(int(own.sum()), len(own))
                line |= {"service": float(own.mean()), "service_low": low, "service_high": high}
                share = np.mean(list(accepted.values()), axis=0)
                interval = metrics.bootstrap(share, seed=0)
                line |= {"others": float(share.mean()), "others_low": interval.low, "others_high": interval.high}
                line["ssim"] = float(np.mean(entry["ssim"]))
                lines.append(line)
    return pd.DataFrame(lines)


def verdicts(frame: pd.DataFrame) -> pd.DataFrame:
    """Whether the goal against filters and networks that restore a face is reached.

    Args:
        frame: of :func:`table`.

    Returns:
        DataFrame with columns dataset, steps, n; service, service_low, service_high, clean: TAR on uploads, with its
        interval, and on photographs; others, others_low, others_high and attack: what the best attacker gets;
        published: what the best filter gets from the transform as published; ssim and published_ssim likewise; reached:
        by the means; surely: by the intervals' nearer ends too.
    """
    lines = []
    for dataset, part in frame.groupby("dataset", sort=False) if len(frame) else ():
        mine, theirs = (part[part["variant"] == name] for name in (VARIANT, PLAIN))
        best = max(mine.to_dict("records"), key=lambda line: float(line["others"]))
        upload = mine[mine["attack"] == UPLOAD].iloc[0]
        clean = float(part[part["variant"] == PHOTOGRAPH].iloc[0]["service"])
        line: dict[str, Any] = {"dataset": dataset, "steps": int(upload["steps"]), "n": int(upload["n"])}
        line["clean"] = clean
        line |= {name: float(upload[name]) for name in ("service", "service_low", "service_high")}
        line |= {name: best[name] for name in ("others", "others_low", "others_high", "attack")}
        line |= {"published": float(theirs["others"].max()), "published_ssim": float(theirs["ssim"].max())}
        line["ssim"] = float(mine["ssim"].max())
        _, least, most_others, most_ssim = _GOAL
        line["reached"] = bool(
            line["service"] >= least * clean
            and line["others"] <= most_others * line["published"]
            and line["ssim"] <= most_ssim * line["published_ssim"]
        )
        line["surely"] = bool(
            line["reached"]
            and line["service_low"] >= least * clean
            and line["others_high"] <= most_others * line["published"]
        )
        lines.append(line)
    return pd.DataFrame(lines)


def reading(judged: pd.DataFrame) -> str:
    """What came of the test, in words.

    Args:
        judged: of :func:`verdicts`.
    """
    if not len(judged):
        return "*Not computed: no other number of steps was tested here.*"
    what, least, most_others, most_ssim = _GOAL
    return (
        f"**The test of K = {int(judged['steps'].iloc[0])}**, fixed before it, on people who are in none of the pairs "
        f"above. The goal against {what}: the service at least {100 * least:.0f}% of what it recognises of "
        f"photographs; others at most {100 * most_others:.0f}%, and an SSIM of at most {100 * most_ssim:.0f}%, of what "
        f"*{PLAIN}* leaves here to the best *filter* (learners get more of it, so that this asks for more). "
        + " ".join(_told(judged))
    )


def _told(judged: pd.DataFrame) -> Iterator[str]:
    for line in judged.to_dict("records"):
        narrowly = "" if line["surely"] else ", narrowly: an interval reaches beyond its limit"
        verdict = f"reached**{narrowly}" if line["reached"] else "not reached**"
        yield (
            f"{TITLES.get(str(line['dataset']), line['dataset'])} (n = {int(line['n'])}): the service "
            f"{100 * line['service']:.0f}% [{100 * line['service_low']:.0f}, {100 * line['service_high']:.0f}] (of "
            f"photographs {100 * line['clean']:.0f}%), others at most {100 * line['others']:.0f}% "
            f"[{100 * line['others_low']:.0f}, {100 * line['others_high']:.0f}], by {line['attack']} (of *{PLAIN}* "
            f"{100 * line['published']:.0f}%), SSIM at most {line['ssim']:.2f} (of *{PLAIN}* "
            f"{line['published_ssim']:.2f}): **{verdict}."
        )


def summary(judged: pd.DataFrame) -> dict[str, float]:
    """Headline numbers, ``again_SET_KIND`` with the kinds service, others (percent) and ssim, and ``again_reached``.

    ``again_reached`` is the number of sets on which the goal is reached.
    """
    found = {
        f"again_{line['dataset']}_{kind}": value * (1 if kind == "ssim" else 100)
        for line in judged.to_dict("records")
        for kind, value in ((kind, float(line[kind])) for kind in ("service", "others", "ssim"))
    }
    return found | ({"again_reached": int(judged["reached"].sum())} if len(judged) else {})


def provenance(outcomes: Mapping[str, Outcome]) -> Sequence[tuple[str, str, Outcome]]:
    """Set, row and outcome, for the provenance table."""
    return [(name, "other people", outcome) for name, outcome in outcomes.items()]
