"""Every setting of the filter under attackers who need not see uploads first: plain filters, and translation.

The audit's learners are trained anew for every setting. A filter is not, and a translator serves all settings of a
cut, so that cuts, numbers of steps, pooling and variants can be laid side by side on the evaluated sets. Nothing is
chosen here: which variant the audit attacks thoroughly was settled on other people
(:meth:`~pmtlib.experiments.audit.Audit.choice`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pmtlib import metrics, page_data
from pmtlib.attacks.adaptive.deobfuscate import make_pairs
from pmtlib.attacks.adaptive.purify import Purification
from pmtlib.attacks.adaptive.translate import Translator, Uploads, translations
from pmtlib.attacks.reconstruction import split_people
from pmtlib.datasets import PairSet, People
from pmtlib.experiments import audit_beyond as beyond
from pmtlib.experiments import claims
from pmtlib.experiments.common import TITLES, Outcome, rounded, share_interval
from pmtlib.experiments.trade_off import far_thresholds, threshold_set
from pmtlib.experiments.variants import Photographs
from pmtlib.images import quantise
from pmtlib.progress import progress_bar
from pmtlib.results import Request
from pmtlib.shallow import ShallowModel
from pmtlib.transform import PMTConfig
from pmtlib.variants.decoy import DecoyConfig
from pmtlib.variants.deep import DeepConfig
from pmtlib.variants.embedding import EmbeddingConfig, know
from pmtlib.variants.guarded import GuardedConfig
from pmtlib.variants.pooled import PooledConfig
from pmtlib.variants.projected import ProjectedConfig

if TYPE_CHECKING:
    from pmtlib.experiments.audit import Audit, AuditSettings

NOT_RUN = "not run: this profile looks at the audited variants alone"
OWN_SEED = 100
"""Seed of the first head or translator that protects; those that attack have small ones."""
Setting = tuple[PMTConfig, int | str, tuple[int, ...]]
"""A configuration, a cut, and the numbers of steps that are looked at."""


def late_decoy(batch_size: int, **changes: Any) -> DecoyConfig:
    """The decoy for a late map: with the steps of *deep*, and whatever else changes."""
    late = {name: getattr(DeepConfig(), name) for name in ("steps", "step_size", "aggregate", "augmentation")}
    return DecoyConfig(batch_size=batch_size, **late, **changes)


def tried(settings: AuditSettings) -> dict[str, Setting]:
    """Every setting by its name: configuration, cut and numbers of steps."""
    size = settings.pmt.batch_size
    plain = settings.pmt.model_copy(update={"steps": max(settings.frontier_steps)})
    deep = DeepConfig(batch_size=size, steps=max(settings.frontier_deep_steps))
    found: dict[str, Setting] = {f"pmt, first {settings.cut} units": (plain, settings.cut, settings.frontier_steps)}
    found |= {f"pmt, {cut}": (plain, cut, settings.frontier_steps) for cut in settings.choice_cuts[1:]}
    found |= {f"deep, {cut}": (deep, cut, settings.frontier_deep_steps) for cut in settings.choice_cuts}
    if settings.choice_cuts:
        last = settings.choice_cuts[-1]
        for window in settings.frontier_windows:
            pooled = PooledConfig(batch_size=size, steps=deep.steps, window=window)
            found[f"pooled {window}x{window}, {last}"] = (pooled, last, settings.frontier_deep_steps)
        decoy = DecoyConfig(batch_size=size)
        found[f"decoy, first {settings.cut} units"] = (decoy, settings.cut, (decoy.steps,))
        decoy = late_decoy(size)
        found[f"decoy, {last}"] = (decoy, last, (decoy.steps,))
    return found


def weighed(audit: Audit, dataset: str, filters: Sequence[Purification]) -> Outcome:
    """Who recognises the uploads of every setting, as they are, after filters, and translated.

    The translator of a cut is that of the audit: trained on other people's photographs, thresholds from people held
    out. ``filters`` are met by every setting: the best of each audited variant.
    """
    if not audit.settings.frontier_steps:
        return Outcome(None, NOT_RUN)
    return settled(audit, dataset, "settings", filters, tried(audit.settings))


def settled(
    audit: Audit, dataset: str, name: str, filters: Sequence[Purification], candidates: Mapping[str, Setting]
) -> Outcome:
    """What :func:`weighed` says, of settings that need nobody to learn from; ``name`` is that of the result."""
    if audit.settings.translator is None or dataset not in beyond.STITCHING_PEOPLE:
        return Outcome(None, NOT_RUN)
    listed = {one: [config.model_dump(mode="json"), cut, list(keep)] for one, (config, cut, keep) in candidates.items()}
    request = _request(audit, dataset, name, filters, {"tried": listed})
    return audit.obtain(
        request, audit.source(dataset), lambda: _measured(audit, dataset, filters, lambda _: candidates)
    )


def bounds(audit: Audit, dataset: str) -> Outcome:
    """What the same translators make of the *photographs'* own features at each cut.

    No filter that matches all of a cut's features goes below it: its upload translates as the photograph does.
    """
    settings = audit.settings
    if not settings.frontier_steps or settings.translator is None or dataset not in beyond.STITCHING_PEOPLE:
        return Outcome(None, NOT_RUN)
    cuts: tuple[int | str, ...] = (settings.cut, *settings.choice_cuts)

    def compute() -> dict[str, Any]:
        sample, photographs = audit.sample(dataset), audit.photographs(dataset)
        assert isinstance(sample, PairSet)
        people, about = beyond.learned_from(beyond.STITCHING_PEOPLE[dataset], sample)
        found = {}
        for cut in cuts:
            teller, thresholds = beyond.translator(audit, audit.shallow(settings.authorised, cut), people)
            found[cut if isinstance(cut, str) else f"first {cut} units"] = {
                "networks": _translated(audit, photographs, teller, photographs.originals),
                "translated_at": {network: round(value, 5) for network, value in thresholds.items()},
            }
        return {"same": photographs.same.astype(int).tolist(), "cuts": found, "people": about}

    request = _request(audit, dataset, "settings-bound", (), {"cuts": list(cuts)})
    return audit.obtain(request, audit.source(dataset), compute)


def bound_points(outcomes: Mapping[str, Outcome], settings: AuditSettings) -> pd.DataFrame:
    """The mean TAR of the other networks on translated photographs.

    Args:
        outcomes: of :func:`bounds`, by the data set's name.
        settings: the audit's.

    Returns:
        DataFrame with columns dataset, cut, bound, bound_low, bound_high (95% bootstrap interval over pairs), n.
    """
    lines = []
    for dataset, outcome in outcomes.items():
        if outcome.result is None:
            continue
        same = np.array(outcome.result.values["same"], dtype=bool)
        for cut, entry in outcome.result.values["cuts"].items():
            share = share_of_others(entry["networks"], {}, entry["translated_at"], settings.authorised, same)
            lines.append({"dataset": dataset, "cut": cut, **others_rate("bound", share), "n": int(same.sum())})
    return pd.DataFrame(lines)


def embedded(audit: Audit, dataset: str, filters: Sequence[Purification]) -> Outcome:
    """The same of uploads that match only what heads of the user's own tell (:mod:`pmtlib.variants.embedding`).

    The heads are trained on the people who also train the translator, from other weights than any head that attacks.
    """
    settings = audit.settings
    if settings.own_head is None or settings.translator is None or dataset not in beyond.STITCHING_PEOPLE:
        return Outcome(None, NOT_RUN)
    own = settings.own_head
    config = EmbeddingConfig(**_of_embedding(settings), heads=(("",),))
    parameters = {
        # Which heads is said by how they are trained.
        "pmt": config.model_dump(mode="json", exclude={"heads"}),
        "cuts": list(settings.own_head_cuts),
        "steps": list(settings.own_head_steps),
        "head": own.model_dump(mode="json"),
        "heads": settings.own_heads,
    }

    def candidates(people: People) -> dict[str, Setting]:
        found: dict[str, Setting] = {}
        for cut in settings.own_head_cuts:
            shared = audit.shallow(settings.authorised, cut)
            seeds = range(OWN_SEED, OWN_SEED + settings.own_heads)
            heads = [
                beyond.trained_head(shared, people, own.model_copy(update={"seed": seed})).units[-1] for seed in seeds
            ]
            config = EmbeddingConfig(**_of_embedding(settings), heads=(tuple(know(head) for head in heads),))
            found[f"embedding, {cut}"] = (config, cut, settings.own_head_steps)
        return found

    request = _request(audit, dataset, "settings-embedding", filters, parameters)
    return audit.obtain(request, audit.source(dataset), lambda: _measured(audit, dataset, filters, candidates))


def guarded(audit: Audit, dataset: str, filters: Sequence[Purification]) -> Outcome:
    """The same of uploads that deceive translators of the user's own (:mod:`pmtlib.variants.guarded`), and of *deep*.

    Each setting meets one more attacker: a translator trained afterwards, from the beginning, on the photographs that
    train the other one and on uploads of some of them, made in the same way with other seeds.
    """
    settings = audit.settings
    return _after(audit, dataset, "guarded", filters, beside=settings.guard_beside, weights=settings.guard_weights)


def projected(audit: Audit, dataset: str, filters: Sequence[Purification]) -> Outcome:
    """The same of uploads that match random directions of their own (:mod:`pmtlib.variants.projected`)."""
    return _after(audit, dataset, "projected", filters, directions=audit.settings.guard_directions)


def _after(
    audit: Audit,
    dataset: str,
    name: str,
    filters: Sequence[Purification],
    *,
    beside: Sequence[int] = (),
    weights: Sequence[float] = (),
    directions: Sequence[int] = (),
) -> Outcome:
    """Settings under an attacker who comes after: *deep* at numbers of steps, *guarded* by weight, *projected*."""
    settings = audit.settings
    if settings.guard is None or settings.translator is None or dataset not in beyond.STITCHING_PEOPLE:
        return Outcome(None, NOT_RUN)
    training, cut, size = settings.guard, settings.guard_cut, settings.pmt.batch_size
    deep = DeepConfig(batch_size=size, steps=max(beside, default=0))
    random = [ProjectedConfig(batch_size=size, directions=count) for count in directions]
    parameters: dict[str, Any] = {
        "beside": [deep.model_dump(mode="json"), list(beside)],
        "projected": [one.model_dump(mode="json") for one in random],
        "cut": cut,
        "uploads": [settings.guard_uploads, settings.guard_held, settings.tuning_seed, list(settings.pair_seeds)],
    }
    if weights:
        config = GuardedConfig(batch_size=size, steps=max(settings.guard_steps), guards=(("",),))
        parameters |= {
            # Which guards is said by how they are trained.
            "pmt": config.model_dump(mode="json", exclude={"guards", "guard_weight"}),
            "weights": list(weights),
            "steps": list(settings.guard_steps),
            "guard": training.model_dump(mode="json", exclude={"seed"}),
            "guards": settings.guards,
        }

    def candidates(people: People) -> dict[str, Setting]:
        found: dict[str, Setting] = {f"deep, {cut}": (deep, cut, tuple(beside))} if beside else {}
        if weights:
            shared = audit.shallow(settings.authorised, cut)
            seeds = range(OWN_SEED, OWN_SEED + settings.guards)
            own = (
                beyond.trained_translator(audit, shared, people, training.model_copy(update={"seed": seed}))
                for seed in seeds
            )
            names = (tuple(map(know, own)),)
        for weight in weights:
            config = GuardedConfig(batch_size=size, steps=max(settings.guard_steps), guards=names, guard_weight=weight)
            found[f"guarded {weight:g}, {cut}"] = (config, cut, settings.guard_steps)
        for one in random:
            found[f"projected {one.directions}, {cut}"] = (one, cut, (one.steps,))
        return found

    from pmtlib.experiments.audit import not_yet

    request = _request(audit, dataset, f"settings-{name}", filters, parameters)
    return not_yet(
        audit.obtain(
            request, audit.source(dataset), lambda: _measured(audit, dataset, filters, candidates, learned=True)
        )
    )


def _to_learn_from(
    audit: Audit, people: People, shared: ShallowModel, config: PMTConfig, keep: Sequence[int]
) -> list[Uploads]:
    """Uploads of some of the people whom the translator is trained on, and of some held out, for each number of steps.

    A list over ``keep``.
    """
    settings = audit.settings
    assert settings.translator is not None
    split, draw = split_people(people, settings.translator), np.random.default_rng(settings.tuning_seed)
    wanted = ((split.training, settings.guard_uploads), (split.validation, settings.guard_held))
    chosen = np.concatenate(
        [np.sort(draw.choice(rows, min(count, len(rows)), replace=False)) for rows, count in wanted]
    )
    with progress_bar("uploads to learn from", len(chosen)) as advance:
        pairs = make_pairs(
            people.subset(chosen), [shared], [config], seeds=settings.pair_seeds, keep=keep, chunk=config.batch_size,
            progress=advance,
        )  # fmt: skip
    places = torch.from_numpy(chosen)
    return [
        Uploads(pairs.protected[start :: len(keep)].contiguous(), places[pairs.rows[start :: len(keep)]])
        for start in range(len(keep))
    ]


def _of_embedding(settings: AuditSettings) -> dict[str, Any]:
    return {"batch_size": settings.pmt.batch_size, "steps": max(settings.own_head_steps)}


def _request(
    audit: Audit, dataset: str, name: str, filters: Sequence[Purification], parameters: Mapping[str, Any]
) -> Request:
    settings = audit.settings
    assert settings.translator is not None
    whole = {
        "authorised": settings.authorised,
        **parameters,
        "filters": [[one.name, one.strength] for one in filters],
        "translator": settings.translator.model_dump(mode="json"),
        "people": beyond.STITCHING_PEOPLE[dataset],
        "without": beyond.EVALUATED,
        "thresholds_of": threshold_set(dataset),
    }
    return audit.request("audit", f"{dataset}--{name}", 1, whole, (settings.authorised,))


def _measured(
    audit: Audit,
    dataset: str,
    filters: Sequence[Purification],
    candidates: Callable[[People], Mapping[str, Setting]],
    *,
    learned: bool = False,
) -> dict[str, Any]:
    """What is stored about settings; ``candidates`` gives them for the people whom users and attackers learn from.

    With ``learned`` each setting also meets a translator that is trained on its uploads.
    """
    settings = audit.settings
    photographs = audit.photographs(dataset)
    sample = audit.sample(dataset)
    assert isinstance(sample, PairSet)
    people, about = beyond.learned_from(beyond.STITCHING_PEOPLE[dataset], sample)
    found: dict[str, Any] = {}
    translated_at: dict[str, Any] = {}
    tellers: dict[int, tuple[Translator, dict[str, float]]] = {}
    for name, (config, cut, keep) in candidates(people).items():
        shared = audit.shallow(settings.authorised, cut)
        if shared.cut not in tellers:
            tellers[shared.cut] = beyond.translator(audit, shared, people)
        teller, thresholds = tellers[shared.cut]
        translated_at[str(cut)] = {network: round(value, 5) for network, value in thresholds.items()}
        made = audit.protect(
            photographs.originals, settings.authorised, f"{dataset}, {name}", config=config, cut=cut, keep=keep
        )
        more = _to_learn_from(audit, people, shared, config, keep) if learned else [None] * len(keep)
        for steps, images, examples in zip(keep, made.kept, more, strict=True):
            uploads = quantise(images)
            attacked = {beyond.UPLOAD: uploads, **{f"{one.name} {one.strength:g}": one(uploads) for one in filters}}
            entry: dict[str, Any] = {"cut": str(cut), "attacks": {}}
            for attack, what in attacked.items():
                entry["attacks"][attack] = seen(audit, photographs, what)
            entry["attacks"][beyond.TRANSLATION] = {"networks": _translated(audit, photographs, teller, uploads)}
            if examples is not None:
                pupil, at = beyond.translator(audit, shared, people, examples)
                cosines = _translated(audit, photographs, pupil, uploads)
                entry["attacks"][beyond.LEARNED_TRANSLATION] = {"networks": cosines}
                entry["learned_at"] = {network: round(value, 5) for network, value in at.items()}
            found[f"{name}, K = {steps}"] = entry
    return {
        "same": photographs.same.astype(int).tolist(),
        "photograph": photographs.place.tolist(),
        "thresholds": {network: far_thresholds(network, dataset) for network in settings.networks},
        "translated_at": translated_at,
        "settings": found,
        "people": about,
    }


def seen(audit: Audit, photographs: Photographs, images: Tensor) -> dict[str, Any]:
    """What is stored about attacked uploads (U, 3, 112, 112): each pair's cosines, each image's SSIM."""
    opinions = audit.opinions(photographs, images)
    networks = {network: scores["other"] for network, scores in opinions["networks"].items()}
    return {"networks": networks, "ssim": opinions["ssim"]}


def _translated(audit: Audit, photographs: Photographs, teller: Translator, uploads: Tensor) -> dict[str, list[float]]:
    """For each network and pair the cosine of the upload's translation and of the other photograph's embedding."""
    return {
        network: rounded(metrics.cosine(mine[photographs.place], audit.embed_once(network, photographs.others)))
        for network, mine in translations(teller, uploads).items()
    }


def points(outcomes: Mapping[str, Sequence[Outcome]], settings: AuditSettings) -> pd.DataFrame:
    """Utility and leak of every setting.

    Args:
        outcomes: of :func:`weighed` and :func:`embedded`, by the data set's name.
        settings: the audit's.

    Returns:
        DataFrame with columns dataset, setting, steps, cut, n (pairs of one person); service, service_low,
        service_high: the service's TAR on uploads as they are, with 95% Wilson interval; for each of ``filters`` (the
        best of the upload as it is and after the filters), ``translated``, ``learned`` (translated by who learned from
        uploads too; NaN where nobody did) and ``best`` (of all): the mean TAR of the other networks, with its 95%
        bootstrap interval over pairs (``_low``, ``_high``) and what gives it (``_attack``); ssim: the highest mean SSIM
        after a filter.
    """
    lines = []
    for dataset, outcome in ((dataset, one) for dataset, several in outcomes.items() for one in several):
        if outcome.result is None:
            continue
        values = outcome.result.values
        same = np.array(values["same"], dtype=bool)
        for name, entry in values["settings"].items():
            setting, _, steps = name.rpartition(", K = ")
            line: dict[str, Any] = {"dataset": dataset, "setting": setting, "steps": int(steps), "cut": entry["cut"]}
            line["n"] = int(same.sum())
            shares: dict[str, Any] = {}
            for attack, found in entry["attacks"].items():
                at = {
                    beyond.TRANSLATION: values["translated_at"][entry["cut"]],
                    beyond.LEARNED_TRANSLATION: entry.get("learned_at"),
                }.get(attack)
                shares[attack] = share_of_others(found["networks"], values["thresholds"], at, settings.authorised, same)
            line |= service_rate(
                entry["attacks"][beyond.UPLOAD]["networks"], values["thresholds"], settings.authorised, same
            )
            translating = (beyond.TRANSLATION, beyond.LEARNED_TRANSLATION)
            plain = [attack for attack in shares if attack not in translating]
            kinds = {"filters": plain, "translated": [beyond.TRANSLATION], "best": list(shares)}
            if beyond.LEARNED_TRANSLATION in shares:
                kinds["learned"] = [beyond.LEARNED_TRANSLATION]
            line |= dict.fromkeys(("learned", "learned_low", "learned_high"), np.nan)
            for kind, attacks in kinds.items():
                best = max(attacks, key=lambda attack: float(shares[attack].mean()))
                line |= {**others_rate(kind, shares[best]), f"{kind}_attack": best}
            line["ssim"] = max(float(np.mean(entry["attacks"][attack]["ssim"])) for attack in plain)
            lines.append(line)
    return pd.DataFrame(lines)


Thresholds = Mapping[str, Mapping[str, float] | None]


def service_rate(
    networks: Mapping[str, Sequence[float]], thresholds: Thresholds, authorised: str, same: Any
) -> dict[str, float]:
    """TAR of the authorised network with its 95% Wilson interval; nothing where it has no threshold."""
    own = thresholds[authorised]
    if own is None:
        return {}
    accepted = np.array(networks[authorised])[same] > own[beyond.FAR_NAME]
    low, high = metrics.wilson(int(accepted.sum()), len(accepted))
    return {"service": float(accepted.mean()), "service_low": low, "service_high": high}


def others_rate(name: str, share: Any) -> dict[str, float]:
    """The mean of a share over pairs, with its 95% interval (``_low``, ``_high``)."""
    interval = share_interval(share)
    return {name: float(share.mean()), f"{name}_low": interval.low, f"{name}_high": interval.high}


def share_of_others(
    networks: Mapping[str, Sequence[float]],
    thresholds: Thresholds,
    translated_at: Mapping[str, float] | None,
    authorised: str,
    same: Any,
) -> Any:
    """The share of other networks that recognise the person, for each pair of one person."""
    accepted = []
    for network, cosines in networks.items():
        if network == authorised:
            continue
        if translated_at is not None:
            accepted.append(np.array(cosines)[same] > translated_at[network])
        elif (found := thresholds[network]) is not None:
            accepted.append(np.array(cosines)[same] > found[beyond.FAR_NAME])
    return np.mean(accepted, axis=0)


ABOUT_AS_WELL = 0.1
"""How far apart the service's rates under two settings may be for these to be told beside each other."""

NEEDED = 0.9
"""The share of what it recognises of photographs that a service needs at least, by the second goal."""


def reading(frame: pd.DataFrame, audited: pd.DataFrame) -> str:
    """Which settings serve the service, and what the best of these attackers gets from the least leaky of them.

    Args:
        frame: of :func:`points`.
        audited: of :func:`pmtlib.experiments.audit_numbers.frontier`; the service's TAR on photographs stands there.

    Returns:
        Sentences and tables (Markdown).
    """
    if not len(frame) or not len(audited):
        return "*Not computed: these settings have not been measured yet; only the audited variants have.*"
    clean = audited.groupby("dataset")["clean"].first()
    serving = frame[frame["service"] >= NEEDED * np.array([clean[str(name)] for name in frame["dataset"]])]
    counts, rows, least_of_all = [], [], []
    for dataset, part in frame.groupby("dataset", sort=False):
        title, useful = TITLES.get(str(dataset), str(dataset)), serving[serving["dataset"] == dataset]
        counts.append(f"{len(useful) or 'none'} of {len(part)} on {title} (n = {int(part['n'].max())})")
        for kind, what in (("filters", "filters alone"), ("best", "filters and translation")) if len(useful) else ():
            least = min(useful.to_dict("records"), key=lambda line: float(line[kind]))
            rows.append([title, what, _named(least), f"{100 * least['service']:.0f}%", _rate(least, kind)])
            if kind == "best":
                least_of_all.append(float(least[kind]))
    kept = f"{100 * NEEDED:.0f}% of what the service recognises of photographs"
    parts = [f"Of the settings {claims.listed(counts)} keep at least {kept}."]
    if rows:
        parts[0] += (
            f" Against filters and translation each of these leaves others at least {100 * min(least_of_all):.0f}%. "
            "Those that leave least:"
        )
        parts.append(page_data.markdown(["set", "against", "leaves least", "the service", "others"], rows))
    if heads := list(_of_heads(frame)):
        names = serving[serving["setting"].str.startswith(_HEADS)]
        where = [
            f"*{setting}* on {TITLES.get(dataset, dataset)}"
            for dataset, setting in dict.fromkeys(zip(names["dataset"], names["setting"], strict=True))
        ]
        parts.append(
            f"Of uploads that match heads, {claims.listed(where) if where else 'none'} "
            f"{'keep' if len(where) > 1 else 'keeps'} {kept}. Each at the K at which it serves best, and the "
            "nearest *deep* of its cut where one serves the service about as well:"
        )
        headings = ["set", "setting", "the service", "others, best filter", "others, translated"]
        parts.append(page_data.markdown(headings, heads))
    return "\n\n".join(part.strip() for part in parts)


def mixtures(frame: pd.DataFrame, audited: pd.DataFrame) -> pd.DataFrame:
    r"""What a user gains who draws a configuration anew for each photograph.

    Rates of such a mixture are means of those of its settings, where the attacker is told which of them made an upload.
    So what mixtures reach is the convex hull of what settings reach, and two settings are enough for the least leak at
    a given utility:

    .. math::
        \min_{i, j, 0 \le p \le 1} \; p \ell_i + (1 - p) \ell_j
        \quad \text{so that} \quad p u_i + (1 - p) u_j \ge u

    with the leak l of a setting, its utility u and the utility that is needed, :data:`NEEDED` of that of photographs.

    Args:
        frame: of :func:`points`.
        audited: of :func:`pmtlib.experiments.audit_numbers.frontier`; the service's TAR on photographs stands there.

    Returns:
        DataFrame with columns dataset, n, service (of the mixture), leak (to the best attacker on each setting),
        leak_low, leak_high (the ends of their intervals, mixed likewise; that the share is estimated too is left out);
        share, setting, steps: of the first setting; rest, rest_steps: the other; alone, alone_low, alone_high,
        alone_setting, alone_steps: the best setting alone.
    """
    lines: list[dict[str, Any]] = []
    if not len(frame) or not len(audited):
        return pd.DataFrame(lines)
    clean = audited.groupby("dataset")["clean"].first()
    for dataset, part in frame.groupby("dataset", sort=False):
        needed, rows = NEEDED * clean[str(dataset)], part.to_dict("records")
        serving = [line for line in rows if line["service"] >= needed]
        if not serving:
            continue
        alone = min(serving, key=lambda line: float(line["best"]))
        found = (1.0, alone, alone)
        for one, other in itertools.product(serving, rows):
            spare = one["service"] - other["service"]
            share = (needed - other["service"]) / spare if spare > 0 else 1.0
            if 0 < share < 1 and _mixed((share, one, other), "best") < _mixed(found, "best"):
                found = (share, one, other)
        share, one, other = found
        line: dict[str, Any] = {"dataset": dataset, "n": one["n"], "service": _mixed(found, "service")}
        line |= {f"leak{end}": _mixed(found, f"best{end}") for end in _ENDS}
        line |= {"share": share, "setting": one["setting"], "steps": one["steps"]}
        line |= {"rest": other["setting"], "rest_steps": other["steps"]}
        line |= {f"alone{end}": alone[f"best{end}"] for end in _ENDS}
        lines.append({**line, "alone_setting": alone["setting"], "alone_steps": alone["steps"]})
    return pd.DataFrame(lines)


_ENDS = ("", "_low", "_high")


def _mixed(mixture: tuple[float, Mapping[Any, Any], Mapping[Any, Any]], column: str) -> float:
    share, one, other = mixture
    return share * float(one[column]) + (1 - share) * float(other[column])


def mixed_reading(frame: pd.DataFrame) -> str:
    """What a draw among the settings for each photograph gains, in words and a table (Markdown).

    Args:
        frame: of :func:`mixtures`.
    """
    if not len(frame):
        return "*Not computed: these settings have not been measured yet.*"
    rows = []
    for line in frame.to_dict("records"):
        first, rest, alone = (
            _named(line, *keys) for keys in ((), ("rest", "rest_steps"), ("alone_setting", "alone_steps"))
        )
        mixed = line["share"] < 1
        mixture = f"{first} for {100 * line['share']:.0f}%, {rest} for the others"
        rows.append(
            [
                f"{TITLES.get(str(line['dataset']), line['dataset'])}, n = {int(line['n'])}",
                mixture if mixed else "none leaves less",
                _rate(line, "leak") if mixed else "",
                alone,
                _rate(line, "alone"),
            ]
        )
    gain = 100 * float((frame["alone"] - frame["leak"]).max())
    gained = (
        f"gains {gain:.1f} points at most over the best setting alone"
        if (frame["share"] < 1).any()
        else "gains nothing over the best setting alone"
    )
    return (
        f"**Several random configurations**, one drawn for each photograph: that {gained}. To an attacker who is told "
        "which of them made an upload, a mixture leaks as its settings do in the mean, and it serves so: it lies on "
        "the straight line between them. The least that any mixture leaves to the best of these attackers which keeps "
        f"{100 * NEEDED:.0f}% of what the service recognises of photographs, picked here by looking, in the filter's "
        "favour:\n\n"
        + page_data.markdown(
            ["set", "mixture, by shares of photographs", "leaves", "best setting alone", "leaves"], rows
        ).strip()
    )


def mixed_summary(frame: pd.DataFrame) -> dict[str, float]:
    """Headline numbers of :func:`mixtures`, percent: ``mixed_SET``, and ``mixed_SET_alone`` of one setting alone."""
    found: dict[str, float] = {}
    for line in frame.to_dict("records"):
        key = f"mixed_{line['dataset']}"
        found |= {key: 100 * float(line["leak"]), f"{key}_alone": 100 * float(line["alone"])}
    return found


def repeated(frame: pd.DataFrame, audited: pd.DataFrame, cut: str) -> str:
    """How far rates moved where one setting was measured twice: here, and by the audit's thorough attacks.

    Args:
        frame: of :func:`points`.
        audited: of :func:`pmtlib.experiments.audit_numbers.frontier`.
        cut: of the audited *deep*.

    Returns:
        Words, and a table with each rate twice (Markdown); empty where nothing was measured twice.
    """
    rows, moved = [], []
    for line in audited[audited["variant"] == "deep"].to_dict("records") if len(audited) and len(frame) else ():
        twin = frame[
            (frame["dataset"] == line["dataset"])
            & (frame["setting"] == f"deep, {cut}")
            & (frame["steps"] == line["steps"])
        ]
        for again in twin.to_dict("records"):
            rates = [float(one[kind]) for kind in ("service", "translated") for one in (line, again)]
            moved += [abs(there - here) for there, here in zip(rates[::2], rates[1::2], strict=True)]
            rows.append(
                [
                    TITLES.get(str(line["dataset"]), str(line["dataset"])),
                    str(int(line["steps"])),
                    *(f"{100 * one:.0f}%" for one in rates),
                ]
            )
    if not rows:
        return ""
    headings = ["set", "K", "the service, there", "here", "others, translated, there", "here"]
    return (
        f"*deep, {cut}* stands under *The frontier* too, from another run. Where the processor is another one, last "
        f"bits differ, and over the steps so do the images: rates by up to {100 * max(moved):.1f} points. Differences "
        "of this size mean nothing.\n\n" + page_data.markdown(headings, rows).strip()
    )


def summary(frame: pd.DataFrame) -> dict[str, float]:
    """Headline numbers of *embedding, 7x7* where it serves the service best, and of *deep* beside it, percent.

    A key is ``embedding_SET_KIND``, or ``embedding_SET_deep_KIND``, with the kinds service, filters and translated.
    """
    found: dict[str, float] = {}
    if not len(frame):
        return found
    for dataset, part in frame.groupby("dataset", sort=False):
        own = part[part["setting"] == "embedding, 7x7"].to_dict("records")
        if not own:
            continue
        best = max(own, key=lambda line: float(line["service"]))
        for name, line in (("", best), ("deep_", _peer(part, best, "deep, 7x7"))):
            if line is not None:
                kinds = ("service", "filters", "translated")
                found |= {f"embedding_{dataset}_{name}{kind}": 100 * float(line[kind]) for kind in kinds}
    return found


_HEADS = "embedding, "
"""How the settings that match heads begin."""


def _of_heads(frame: pd.DataFrame) -> Iterator[list[str]]:
    """What uploads that match heads come to, each cut beside *deep* where that serves the service about as well."""
    own = frame[frame["setting"].str.startswith(_HEADS)]
    for (dataset, setting), lines in own.groupby(["dataset", "setting"], sort=False):
        best = max(lines.to_dict("records"), key=lambda line: float(line["service"]))
        peer = _peer(frame[frame["dataset"] == dataset], best, f"deep, {str(setting).removeprefix(_HEADS)}")
        for name, line in (("", best), ("beside it ", peer)):
            if line is not None:
                rates = (_rate(line, kind) for kind in ("service", "filters", "translated"))
                yield [TITLES.get(str(dataset), str(dataset)), f"{name}{_named(line)}", *rates]


def loop_reading(frame: pd.DataFrame) -> str:
    """What is left of a variant's gain when the attacker is trained after the filter was fixed.

    Each setting stands beside the *deep* that serves the service about as well, if there is one. The rates are left to
    :func:`pmtlib.figures.audit.loop_table`, which stands below.

    Args:
        frame: of :func:`points`, of the outcomes of :func:`guarded` and :func:`projected`.

    Returns:
        Sentences, and a table of the differences (Markdown).
    """
    if not len(frame):
        return "*Not computed: these settings have not been measured yet.*"
    rows: list[list[str]] = []
    differences: list[tuple[float, ...]] = []
    for dataset, part in frame.groupby("dataset", sort=False):
        where = f"{TITLES.get(str(dataset), str(dataset))}, n = {int(part['n'].max())}"
        for line in part[~part["setting"].str.startswith("deep, ")].to_dict("records"):
            peer = _peer(part, line)
            if peer is None:
                rows.append([where, _named(line), "no *deep* here serves about as well", "", ""])
                continue
            gain = tuple(100 * (float(peer[kind]) - float(line[kind])) for kind in ("translated", "learned"))
            differences.append(gain)
            rows.append([where, _named(line), _named(peer), *(_signed(one) for one in gain)])
    told = "No setting has a *deep* beside it that serves the service about as well."
    if differences:
        before, after = (
            f"{_signed(min(column))} to {_signed(max(column))}" if len(differences) > 1 else _signed(column[0])
            for column in zip(*differences, strict=True)
        )
        told = (
            "Beside the *deep* that serves the service about as well, other networks recognise fewer by "
            f"{before} points under the translator that was there before, and by {after} under the one that comes "
            "after and learned from such uploads."
        )
    headings = ["set", "setting", "beside it", "points fewer, before", "points fewer, after"]
    return f"{told} The rates stand in the table below.\n\n{page_data.markdown(headings, rows).strip()}"


def loop_summary(frame: pd.DataFrame) -> dict[str, float]:
    """Headline numbers of each setting that met an attacker who came after, percent.

    A key is ``loop_SET_VARIANT_kSTEPS_KIND``, with the kinds service, translated and learned; the first setting of a
    variant counts. Without a set it is the mean over all.
    """
    found: dict[str, float] = {}
    sets: dict[str, list[float]] = {}
    for line in frame.to_dict("records"):
        variant = line["setting"].split(",")[0].split(" ")[0]
        for kind in ("service", "translated", "learned"):
            name = f"{variant}_k{int(line['steps'])}_{kind}"
            if (key := f"loop_{line['dataset']}_{name}") not in found:
                found[key] = 100 * float(line[kind])
                sets.setdefault(f"loop_{name}", []).append(found[key])
    return found | {key: float(np.mean(values)) for key, values in sets.items()}


def _peer(part: pd.DataFrame, line: Mapping[Any, Any], setting: str = "deep, ") -> dict[Any, Any] | None:
    """The line of a setting that serves the service about as well, the nearest; None where none does."""
    peers = part[part["setting"].str.startswith(setting)].to_dict("records")
    peer = min(peers, key=lambda one: abs(float(one["service"]) - float(line["service"])), default=None)
    near = peer is not None and abs(float(peer["service"]) - float(line["service"])) <= ABOUT_AS_WELL
    return peer if near else None


def _named(line: Mapping[Any, Any], setting: str = "setting", steps: str = "steps") -> str:
    return f"*{line[setting]}* (K = {int(line[steps])})"


def _signed(points: float) -> str:
    return str(round(points)).replace("-", "\N{MINUS SIGN}")


def _rate(line: Mapping[Any, Any], kind: str) -> str:
    return f"{100 * line[kind]:.0f}% [{100 * line[f'{kind}_low']:.0f}, {100 * line[f'{kind}_high']:.0f}]"
