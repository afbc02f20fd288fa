"""Numbers of steps that were fixed before, put to the test on pairs of other people.

The frontier shows what a variant reaches at other numbers of steps than the one that was chosen for it. To pick one of
them by looking, and to report it on the pairs that were looked at, would be to choose on the evaluated pairs. Here a
number is fixed for a goal, and pairs of people who are in none of those pairs decide, once. One goal is that against
filters and networks that restore a face, the other that without learning; translation goes beyond both, as the frontier
says.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from pmtlib import datasets, page_data
from pmtlib.errors import DatasetError
from pmtlib.experiments import claims
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
    means,
    not_yet,
    some,
)
from pmtlib.experiments.audit_frontier import others_rate, seen, service_rate, share_of_others
from pmtlib.experiments.audit_numbers import GOALS, reaches, share_of
from pmtlib.experiments.common import TITLES, Outcome, balanced
from pmtlib.experiments.trade_off import far_thresholds, threshold_set
from pmtlib.images import quantise
from pmtlib.shallow import fast_layout
from pmtlib.transform import PMTConfig
from pmtlib.variants import PLAIN

VARIANT = "deep"
VERSION = 1
RESTORED, FILTERS = "restored", "filters"
"""Goals that are tested: keys of :data:`~pmtlib.experiments.audit_numbers.GOALS`."""
_COPIES = 2
_SERVICE = ("service", "service_low", "service_high")
_OTHERS = ("others", "others_low", "others_high")


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


def _others(audit: Audit, seed: int) -> OtherPeople:
    settings = audit.settings.model_copy(update={"again_seed": seed})
    other = OtherPeople(settings, audit.device, recompute=audit.recompute)
    other.command = audit.command
    return other


def tested(audit: Audit, dataset: str, tuned: Mapping[str, Outcome], goal: str) -> Outcome:
    """Uploads of *deep* after a number of steps and of the transform as published, on pairs of other people.

    That number is ``again_steps`` for the goal against who restores faces, ``again_filter_steps`` for the one without
    learning.

    *deep* meets every filter at its best strength and learners that were trained on its uploads, whose numbers of steps
    have this one among them: the de-obfuscator, and RecFace for identity (or for likeness, where none is trained for
    identity; on the evaluated pairs fewer are recognised in what that makes, and what the de-obfuscator makes is more
    like the photograph). Without learning it meets averages of two uploads instead. The published transform, at its own
    number of steps, meets the filters alone: what these leave is less than what others would, so that shares of it are
    the harder goal.
    """
    settings, learning = audit.settings, goal == RESTORED
    steps = settings.again_steps if learning else settings.again_filter_steps
    seed = settings.again_seed + (not learning)
    if not steps or (learning and not settings.pair_people) or not {PLAIN, VARIANT} <= set(settings.variants):
        return Outcome(None, "not run: this profile tests no other number of steps")
    other = _others(audit, seed)
    filters = {name: chosen_filters(tuned[name], settings) for name in (PLAIN, VARIANT)}
    config = audit.config(VARIANT).model_copy(update={"steps": steps})
    identity = learning and VARIANT in settings.identity_variants
    parameters: dict[str, Any] = {
        "again_seed": seed,
        "authorised": settings.authorised,
        "made": {
            PLAIN: [audit.cut(PLAIN), audit.config(PLAIN).model_dump(mode="json")],
            VARIANT: [audit.cut(VARIANT), config.model_dump(mode="json")],
        },
        "filters": {name: [[one.name, one.strength] for one in several] for name, several in filters.items()},
        "thresholds_of": threshold_set(dataset),
        **(audit.training() if learning else {"averaged": f"{_COPIES} copies"}),
    }
    if identity:
        parameters["identity"] = [settings.identity, settings.identity_training.model_dump(mode="json")]

    def made(originals: Tensor, name: str, one: PMTConfig) -> Tensor:
        """Uploads, as 8-bit images hold them."""
        what = f"{dataset}, {name}"
        protected = other.protect(originals, settings.authorised, what, config=one, cut=audit.cut(name))
        return quantise(protected.images)

    def compute() -> dict[str, Any]:
        photographs, shared = other.photographs(dataset), audit.shared(VARIANT)
        found: dict[str, Any] = {}
        for name, one in ((PLAIN, audit.config(PLAIN)), (VARIANT, config)):
            uploads = made(photographs.originals, name, one)
            attacked = {label(filtering): filtering(uploads) for filtering in filters[name]}
            if name == VARIANT and not learning:
                copy = made(photographs.originals, name, one.model_copy(update={"seed": one.seed + 1}))
                attacked |= means([uploads, copy], _COPIES, filters[name][-1:])
            elif name == VARIANT:
                features = audit.features(shared, uploads)
                attacked[DEOBFUSCATOR] = audit.through(audit.deobfuscator(name), uploads)
                restored = audit.through(audit.inverter(name, identity=identity), features)
                attacked[IDENTITY_RECFACE if identity else RECFACE] = restored
            found[name] = {attack: seen(other, photographs, images) for attack, images in attacked.items()}
        found[PHOTOGRAPH] = {PHOTOGRAPH: seen(other, photographs, photographs.originals)}
        return {
            "same": photographs.same.astype(int).tolist(),
            "thresholds": {network: far_thresholds(network, dataset) for network in settings.networks},
            "attacks": found,
        }

    file = f"{dataset}--other-people" + ("" if learning else "--without-learning")
    request = audit.request("audit", file, VERSION, parameters, (settings.authorised,))
    return not_yet(other.obtain(request, other.source(dataset), compute))


def averaged(audit: Audit, dataset: str, tuned: Mapping[str, Outcome]) -> Outcome:
    """Means of more uploads of *deep*, of the test without learning: as they are, and after every filter.

    As many uploads of a photograph as ``copies_of_all`` says, beyond those of :func:`tested`, made with other seeds.
    They meet its pairs of one person alone, since each costs an upload of every photograph; and they are made in the
    layout that ``pmt protect`` takes on the device, which on processors costs a fifth.
    """
    settings = audit.settings
    counts = [count for count in settings.copies_of_all if count > _COPIES]
    if not counts or not settings.again_filter_steps or VARIANT not in settings.variants:
        return Outcome(None, "not run: this profile averages no more uploads after another number of steps")
    seed = settings.again_seed + 1
    other, filters = _others(audit, seed), chosen_filters(tuned[VARIANT], settings)
    config = audit.config(VARIANT).model_copy(update={"steps": settings.again_filter_steps})
    layout = fast_layout(audit.device)
    parameters = {
        "again_seed": seed,
        "authorised": settings.authorised,
        "made": {VARIANT: [audit.cut(VARIANT), config.model_dump(mode="json")]},
        "layout": layout,
        "copies": counts,
        "filters": [[one.name, one.strength] for one in filters],
        "thresholds_of": threshold_set(dataset),
        "strangers": False,
    }

    def compute() -> dict[str, Any]:
        photographs = some(other.photographs(dataset), settings.pairs, strangers=False)
        copies = []
        for number in range(max(counts)):
            one = config.model_copy(update={"seed": config.seed + number})
            what = f"{dataset}, {VARIANT}, copy {number + 1} of {max(counts)}"
            made = other.protect(
                photographs.originals, settings.authorised, what, config=one, cut=audit.cut(VARIANT), layout=layout
            )
            copies.append(quantise(made.images))
        attacked = {name: images for count in counts for name, images in means(copies, count, filters[1:]).items()}
        return {
            "same": photographs.same.astype(int).tolist(),
            "thresholds": {network: far_thresholds(network, dataset) for network in settings.networks},
            "attacks": {VARIANT: {name: seen(other, photographs, images) for name, images in attacked.items()}},
        }

    request = audit.request("audit", f"{dataset}--other-people--averages", VERSION, parameters, (settings.authorised,))
    return not_yet(other.obtain(request, other.source(dataset), compute))


def table(
    outcomes: Mapping[str, Outcome], settings: AuditSettings, more: Mapping[str, Outcome] = MappingProxyType({})
) -> pd.DataFrame:
    """One line for each attack.

    Args:
        outcomes: of :func:`tested`, by the data set's name.
        settings: the audit's.
        more: of :func:`averaged`, likewise; those of sets that were not tested are left out.

    Returns:
        DataFrame with columns dataset, variant (``photograph`` for none), steps, attack, n (pairs of one person),
        service: TAR of the authorised network with 95% Wilson interval (``service_low``, ``service_high``); others:
        mean TAR of the other networks with 95% bootstrap interval over pairs (``others_low``, ``others_high``); ssim.
    """
    lines = []
    both = [(name, outcome) for name, tests in outcomes.items() if tests.result for outcome in (tests, more.get(name))]
    for dataset, outcome in both:
        if outcome is None or outcome.result is None:
            continue
        values = outcome.result.values
        same = np.array(values["same"], dtype=bool)
        made = outcome.result.request.parameters["made"]
        for variant, attacks in values["attacks"].items():
            about = {"dataset": dataset, "variant": variant, "n": int(same.sum())}
            about["steps"] = made[variant][1]["steps"] if variant in made else 0
            for attack, entry in attacks.items():
                asked = entry["networks"], values["thresholds"]
                share = share_of_others(*asked, None, settings.authorised, same)
                rates = {**service_rate(*asked, settings.authorised, same), **others_rate("others", share)}
                lines.append({**about, "attack": attack, **rates, "ssim": float(np.mean(entry["ssim"]))})
    return pd.DataFrame(lines)


def verdicts(frame: pd.DataFrame, goal: str = RESTORED) -> pd.DataFrame:
    """Whether a goal is reached.

    Args:
        frame: of :func:`table`.
        goal: which.

    Returns:
        DataFrame with columns dataset, steps, n; service, service_low, service_high, clean: TAR on uploads, with its
        interval, and on photographs; others, others_low, others_high and attack: what the best attacker gets;
        published: what the best filter gets from the transform as published; ssim and published_ssim likewise; copies:
        the most uploads that were averaged, 0 for none; reached: by the means; surely: by the intervals' nearer ends
        too.
    """
    lines = []
    for _, part in frame.groupby("dataset", sort=False) if len(frame) else ():
        mine, theirs = (part[part["variant"] == name] for name in (VARIANT, PLAIN))
        best = max(mine.to_dict("records"), key=lambda line: float(line["others"]))
        upload = mine[mine["attack"] == UPLOAD].iloc[0]
        clean = float(part[part["variant"] == PHOTOGRAPH].iloc[0]["service"])
        line: dict[str, Any] = {name: upload[name] for name in ("dataset", "steps", "n", *_SERVICE)}
        line |= {name: best[name] for name in (*_OTHERS, "attack")}
        line |= {"clean": clean, "ssim": float(mine["ssim"].max())}
        line |= {"published": float(theirs["others"].max()), "published_ssim": float(theirs["ssim"].max())}
        line["copies"] = max((int(name.split()[0]) for name in mine["attack"] if " copies" in name), default=0)
        ssim = share_of(line["ssim"], line["published_ssim"])
        # By the means, and by the ends of the intervals that lie nearer to the limits.
        for verdict, service, others in (("reached", "service", "others"), ("surely", "service_low", "others_high")):
            shares = share_of(line[service], clean), share_of(line[others], line["published"])
            line[verdict] = reaches(goal, *shares, ssim)
        lines.append(line)
    return pd.DataFrame(lines)


_BEFORE = {
    RESTORED: "fixed before it",
    FILTERS: "the largest number tried at which no blur leaves others a quarter on the people of the choice",
}
_MORE = {RESTORED: "learners get more of it, so that this asks for more", FILTERS: "averages may get more of it"}


def reading(judged: pd.DataFrame, goal: str = RESTORED) -> str:
    """What came of the test, in words and a table (Markdown).

    Args:
        judged: of :func:`verdicts`.
        goal: that was judged.
    """
    if not len(judged):
        return "*Not computed: no other number of steps was tested here.*"
    what, least, most_others, most_ssim = GOALS[goal]
    if goal == RESTORED:
        limits = "Inversion with priors, which restores faces too, had no part in it: it takes a GPU, and met the "
        limits += "variants' own numbers of steps alone"
    else:
        told = {
            TITLES.get(str(line["dataset"]), line["dataset"]): int(line["copies"]) for line in judged.to_dict("records")
        }
        most = ", ".join(f"{count} ({name})" for name, count in told.items())
        limits = (
            f"Averages are those of at most {most} uploads of a photograph, filters' strengths those for one upload"
        )
    verdicts: dict[str, list[str]] = {}
    columns: dict[str, list[str]] = {}
    for line in judged.to_dict("records"):
        title = str(TITLES.get(str(line["dataset"]), line["dataset"]))
        narrowly = line["reached"] and not line["surely"]
        verdict = f"**{'reached' if line['reached'] else 'not reached'}**"
        verdicts.setdefault(f"{verdict}{', narrowly,' if narrowly else ''}", []).append(title)
        columns[f"{title} (n = {int(line['n'])})"] = [
            f"{claims.rate(line, 'service', 0)} (of photographs {100 * line['clean']:.0f}%)",
            f"{claims.rate(line, 'others', 0)} by {line['attack']} (of *{PLAIN}* {100 * line['published']:.0f}%)",
            f"{line['ssim']:.2f} (of *{PLAIN}* {line['published_ssim']:.2f})",
            f"{verdict}{', narrowly: an interval reaches beyond its limit' if narrowly else ''}",
        ]
    came = "; ".join(f"{verdict} on {claims.listed(where)}" for verdict, where in verdicts.items())
    rows = [
        ["the service", f"at least {100 * least:.0f}% of photographs"],
        ["others, by the best attack", f"at most {100 * most_others:.0f}% of what *{PLAIN}* leaves"],
        ["highest SSIM", f"at most {100 * most_ssim:.0f}% of what *{PLAIN}* leaves"],
        ["the goal", ""],
    ]
    cells = [[*row, *(column[place] for column in columns.values())] for place, row in enumerate(rows)]
    return (
        f"**The test of K = {int(judged['steps'].iloc[0])}**, {_BEFORE[goal]}, on people who are in none of the pairs "
        f"above. The goal against {what}: {came}.\n\n"
        + page_data.markdown(["", "limit", *columns], cells)
        + f"\nLimits are shares of what the service recognises of photographs, and of what *{PLAIN}* leaves here to "
        f"the best *filter* ({_MORE[goal]}). {limits}."
    )


def summary(judged: pd.DataFrame, goal: str = RESTORED) -> dict[str, float]:
    """Headline numbers, ``again_SET_KIND`` with the kinds service, others (percent) and ssim, and ``again_reached``.

    ``again_reached`` is the number of sets on which the goal is reached. Those of the goal without learning begin with
    ``again_filters`` instead.
    """
    found: dict[str, float] = {}
    start = "again" if goal == RESTORED else f"again_{goal}"
    for line in judged.to_dict("records"):
        key = f"{start}_{line['dataset']}"
        found |= {f"{key}_service": 100 * line["service"], f"{key}_others": 100 * line["others"]}
        found[f"{key}_ssim"] = line["ssim"]
    if len(judged):
        found[f"{start}_reached"] = int(judged["reached"].sum())
    return found
