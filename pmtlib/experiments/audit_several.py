r"""Several photographs of one person: what an attacker gets who has followed somebody for a while.

Elsewhere the audit attacks one upload, or several of one photograph. Somebody who uses a service uploads photograph
after photograph, and whoever collects them need not recognise each: a *template*, the mean of the directions of their
embeddings, is the simplest way to put them together (as set-based face recognition does since IJB-A), and a network
that fails on one upload may not on the mean of eight. An attacker knows that uploads are one person's by the account
that they come from.

People are asked about who are in no evaluated pair, and by their names in none of the photographs that the translator
learned from. One photograph of each is enrolled, among those of strangers; the others are protected. Besides who comes
first, it is counted who is accepted: by each network, and by all that are not authorised together, the mean of their
scores, each less the mean of its scores of two people and over their deviation (as in
:mod:`pmtlib.experiments.audit_fused`). The thresholds, means and deviations of half of the people come from the
comparisons of the *other* half with everybody else who is enrolled, more than ten thousand, so that a false
acceptance rate of 10⁻² needs no distribution to be assumed; nobody's own threshold comes from a comparison with
themselves. The comparisons are of some thirty people with one gallery, though, and intervals take thresholds for given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from pmtlib import datasets, page_data
from pmtlib.attacks.adaptive.average import average_embeddings, average_features
from pmtlib.attacks.adaptive.purify import Purification
from pmtlib.attacks.adaptive.translate import Translator, feature_translations, translations
from pmtlib.errors import AssetError, DatasetError
from pmtlib.experiments import audit_beyond as beyond
from pmtlib.experiments import claims
from pmtlib.experiments.audit_fused import FAR, normalised
from pmtlib.experiments.common import PEOPLE, TITLES, Floats, Outcome, Source, share_interval
from pmtlib.images import quantise
from pmtlib.transform import PMTConfig
from pmtlib.variants.projected import ProjectedConfig

if TYPE_CHECKING:
    from pmtlib.experiments.audit import Audit, AuditSettings

VERSION = 1
ATTACKED: Mapping[str, str] = {"lfw": PEOPLE, "cfp_ff": "cfp_ff"}
"""Whose photographs are attacked, by the data set that the results are told under."""
PROJECTED = "projected"
FILTERED = f"{beyond.UPLOAD}, filtered"
UPLOADS = (beyond.UPLOAD, FILTERED, beyond.TRANSLATION)
"""The attacks on uploads of several photographs; the others are controls, or on several uploads of one."""
ONE_PHOTOGRAPH = "of one photograph"
TOGETHER = "together"
NOT_RUN = "not run: this profile attacks one photograph of a person"


def ways(audit: Audit) -> dict[str, tuple[PMTConfig, int | str]]:
    """What is attacked: the audited variants, and *projected*, which draws other directions for each upload."""
    settings = audit.settings
    found: dict[str, tuple[PMTConfig, int | str]] = {
        name: (audit.config(name), audit.cut(name)) for name in settings.variants
    }
    for directions in settings.guard_directions[:1] if settings.guard is not None else ():
        config = ProjectedConfig(batch_size=settings.pmt.batch_size, directions=directions)
        found[PROJECTED] = (config, settings.guard_cut)
    return found


@dataclass(frozen=True)
class People:
    """Who is attacked, and who else is enrolled.

    Attributes:
        everybody: the people of a set.
        pictures: (P, 1 + n) rows of ``everybody``: of each person the photograph that is enrolled, then the others.
        strangers: (S,) rows, one photograph each of other people.
    """

    everybody: datasets.People
    pictures: NDArray[np.int64]
    strangers: NDArray[np.int64]

    @property
    def source(self) -> Source:
        """What a result rests on; n counts the people who are attacked."""
        name = self.everybody.name
        used = self.everybody.subset(np.concatenate([self.pictures.ravel(), self.strangers]))
        return Source(name, f"{TITLES.get(name, 'LFW')}, other people", used.fingerprint, len(self.pictures))

    def photographs(self) -> list[Tensor]:
        """Those that are protected: n times (P, 3, 112, 112)."""
        return [self.everybody.tensor(column) for column in self.pictures[:, 1:].T]

    def enrolled(self) -> Tensor:
        """(P + S, 3, 112, 112), first those who are attacked."""
        return self.everybody.tensor(np.concatenate([self.pictures[:, 0], self.strangers]))


def people(audit: Audit, dataset: str) -> People:
    """Drawn from those with enough photographs, who are in no evaluated pair and taught the translator nothing.

    Raises:
        DatasetError: the data are not there.
        AssetError: those of whom the translator learns are not there.
    """
    settings, name = audit.settings, ATTACKED[dataset]
    sample = audit.sample(dataset)
    if isinstance(sample, DatasetError):
        raise sample
    everybody = datasets.load_people(name)
    known, _ = beyond.learned_from(beyond.STITCHING_PEOPLE[dataset], sample)
    taught = set(datasets.comparable_names(beyond.STITCHING_PEOPLE[dataset], known.names))
    outside, _ = beyond.strangers_of(everybody, name, sample)
    spelled = dict(zip(outside.names, datasets.comparable_names(name, outside.names), strict=True))
    rows: dict[str, list[int]] = {}
    for row, who in enumerate(everybody.identities):
        rows.setdefault(who, []).append(row)
    wanted = 1 + max(settings.several_counts)
    enough = [who for who in outside.names if len(rows[who]) >= wanted and spelled[who] not in taught]
    draw = np.random.default_rng(settings.tuning_seed)
    chosen = sorted(draw.permutation(enough)[: settings.several_people].tolist())
    pictures = np.array([draw.permutation(rows[who])[:wanted] for who in chosen], dtype=np.int64)
    rest = [mine[0] for who, mine in sorted(rows.items()) if who not in set(chosen)]
    strangers = np.sort(draw.permutation(rest)[: settings.several_strangers])
    return People(everybody, pictures.reshape(-1, wanted), strangers.astype(np.int64))


def measured(audit: Audit, dataset: str, way: str) -> Outcome:
    """Who is recognised by templates of so many photographs, uploads and translations, see the module.

    One photograph is the first of those drawn. Uploads are filtered too, by what the audit found to be the best for one
    upload of the variant; those of *projected*, for which nothing was tuned, by that of the last variant of the audit.

    Of *projected* several uploads of *one* photograph are asked about too: each has directions of its own.
    """
    from pmtlib.experiments.audit import chosen_filters, not_yet

    settings = audit.settings
    if not settings.several_people or settings.translator is None or dataset not in ATTACKED:
        return Outcome(None, NOT_RUN)
    config, cut = ways(audit)[way]
    copies = settings.several_copies if way == PROJECTED else ()
    tuned = way if way in settings.variants else list(settings.variants)[-1]
    best = chosen_filters(audit.tuning(tuned), settings)[-1]
    parameters = {
        "authorised": settings.authorised,
        "pmt": config.model_dump(mode="json"),
        "cut": cut,
        "people": [ATTACKED[dataset], settings.several_people, settings.several_strangers, settings.tuning_seed],
        "photographs": list(settings.several_counts),
        "copies": list(copies),
        "filter": [best.name, best.strength],
        "translator": settings.translator.model_dump(mode="json"),
        "learned_from": beyond.STITCHING_PEOPLE[dataset],
    }
    request = audit.request("audit", f"{dataset}--{way}--several", VERSION, parameters, (settings.authorised,))
    source: Source | DatasetError
    try:
        who = people(audit, dataset)
        source = who.source
    except (DatasetError, AssetError) as error:
        source = DatasetError(str(error))

    def compute() -> dict[str, Any]:
        return _measured(audit, dataset, way, who, copies, best)

    return not_yet(audit.obtain(request, source, compute))


def _measured(
    audit: Audit, dataset: str, way: str, who: People, copies: Sequence[int], best: Purification
) -> dict[str, Any]:
    settings = audit.settings
    config, cut = ways(audit)[way]
    shared = audit.shallow(settings.authorised, cut)
    sample = audit.sample(dataset)
    assert isinstance(sample, datasets.PairSet)
    learners, about = beyond.learned_from(beyond.STITCHING_PEOPLE[dataset], sample)
    photographs, enrolled = who.photographs(), who.enrolled()
    gallery = {network: audit.embed_once(network, enrolled) for network in settings.networks}
    teller, _ = beyond.translator(audit, shared, learners)

    def upload(images: Tensor, what: str, seed: int = 0) -> Tensor:
        one = config.model_copy(update={"seed": config.seed + seed})
        made = audit.protect(images, settings.authorised, f"{dataset}, {way}, {what}", config=one, cut=cut)
        return quantise(made.images)

    uploads = [upload(images, f"photograph {number + 1}") for number, images in enumerate(photographs)]
    said = {
        beyond.PHOTOGRAPH: _embedded(audit, photographs),
        f"{beyond.PHOTOGRAPH}, {beyond.TRANSLATION}": _translated(teller, photographs),
        beyond.UPLOAD: _embedded(audit, uploads),
        FILTERED: _embedded(audit, [best(images) for images in uploads]),
        beyond.TRANSLATION: _translated(teller, uploads),
    }
    found = {
        attack: {str(count): _rates(by, count, gallery, settings.authorised) for count in settings.several_counts}
        for attack, by in said.items()
    }
    if copies:
        again = [uploads[0], *(upload(photographs[0], f"copy {seed + 1}", seed) for seed in range(1, max(copies)))]
        features = [audit.features(shared, images) for images in again]
        told = {}
        for count in copies:
            by = feature_translations(teller, average_features(torch.stack(features[:count])))
            one = {network: embeddings[None] for network, embeddings in by.items()}
            told[str(count)] = _rates(one, 1, gallery, settings.authorised)
        found[f"{beyond.TRANSLATION}, {ONE_PHOTOGRAPH}"] = told
    return {
        "people": len(who.pictures), "strangers": len(who.strangers), "learned_from": about, "attacks": found,
    }  # fmt: skip


def _embedded(audit: Audit, images: Sequence[Tensor]) -> dict[str, Floats]:
    return {network: np.stack([audit.embed(network, one) for one in images]) for network in audit.settings.networks}


def _translated(teller: Translator, images: Sequence[Tensor]) -> dict[str, Floats]:
    each = [translations(teller, one) for one in images]
    return {network: np.stack([one[network] for one in each]) for network in teller.sizes}


def _rates(by: Mapping[str, Floats], count: int, gallery: Mapping[str, Floats], authorised: str) -> dict[str, Any]:
    """Who is recognised by the templates of the first ``count`` embeddings (n, P, D) of each network, and of all."""
    scores = {
        network: _directions(average_embeddings(each[:count])) @ _directions(gallery[network]).T
        for network, each in by.items()
    }
    found = {network: recognised(one[None]) for network, one in scores.items()}
    others = [one for network, one in scores.items() if network != authorised]
    if len(others) > 1:
        found[TOGETHER] = recognised(np.stack(others))
    return found


def _directions(embeddings: Floats) -> Floats:
    found: Floats = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return found


def recognised(scores: Floats) -> dict[str, Any]:
    """Who comes first and who is accepted, with what two halves of the people set for each other.

    Args:
        scores: (M, P, G) of M networks for P people and G who are enrolled, of whom the first P are they.

    Returns:
        ``first`` and ``accepted``, (P,) 0 or 1; ``false``, the share of comparisons of two people that are accepted, of
        both halves together: where one's threshold is too low for the other, the other's is too high for it.
    """
    people, enrolled = scores.shape[1:]
    other = np.arange(enrolled)[None] != np.arange(people)[:, None]
    first, accepted = np.zeros(people, dtype=int), np.zeros(people, dtype=int)
    let_in = 0
    for half in range(2):
        mine = np.arange(people) % 2 == half
        impostors = scores[:, ~mine][:, other[~mine]]
        together, of_impostors = normalised(scores[:, mine].reshape(len(scores), -1), impostors)
        threshold, fused = np.quantile(of_impostors, 1 - FAR), together.reshape(-1, enrolled)
        own = fused[np.arange(len(fused)), np.flatnonzero(mine)]
        first[mine] = fused.argmax(1) == np.flatnonzero(mine)
        accepted[mine] = own > threshold
        let_in += int((fused > threshold)[other[mine]].sum())
    return {
        "first": first.tolist(), "accepted": accepted.tolist(), "false": round(float(let_in / other.sum()), 5),
    }  # fmt: skip


# -- what the page shows -------------------------------------------------------------------------------------------


def table(outcomes: Mapping[tuple[str, str], Outcome], settings: AuditSettings) -> pd.DataFrame:
    """One line for each attack and number of photographs.

    Args:
        outcomes: of :func:`measured`, by data set and way.
        settings: the audit's.

    Returns:
        DataFrame with columns dataset, way, attack, photographs (or copies of one), n (people), strangers (others who
        are enrolled); others: mean TAR of the networks that are not authorised, each by itself, with 95% interval
        (``_low``, ``_high``); together: TAR of all of them as one; first: how often the right person comes first among
        all who are enrolled, by all of them as one; both with 95% Wilson interval; false: share of comparisons of two
        people that all as one accept; service: TAR of the authorised network, NaN of translations.
    """
    lines = []
    for (dataset, way), outcome in outcomes.items():
        if outcome.result is None:
            continue
        values = outcome.result.values
        for attack, counts in values["attacks"].items():
            for count, networks in counts.items():
                others = [one for name, one in networks.items() if name not in (settings.authorised, TOGETHER)]
                share = np.mean([one["accepted"] for one in others], axis=0)
                line: dict[str, Any] = {"dataset": dataset, "way": way, "attack": attack, "photographs": int(count)}
                line |= {"n": values["people"], "strangers": values["strangers"]}
                line |= _rate("others", share)
                line |= _rate(TOGETHER, networks[TOGETHER]["accepted"]) | _rate("first", networks[TOGETHER]["first"])
                line["false"] = networks[TOGETHER]["false"]
                own = networks.get(settings.authorised)
                line |= _rate("service", own["accepted"]) if own else dict.fromkeys(_rate("service", [0]), np.nan)
                lines.append(line)
    return pd.DataFrame(lines)


def _rate(name: str, hits: Any) -> dict[str, float]:
    interval = share_interval(hits)
    return {name: float(np.mean(hits)), f"{name}_low": interval.low, f"{name}_high": interval.high}


def reading(frame: pd.DataFrame) -> str:
    """What more photographs give to whom, in words and a table (Markdown).

    Args:
        frame: of :func:`table`.
    """
    if not len(frame):
        return "*Not run: nobody put uploads of several photographs together here.*"
    several = frame[~frame["attack"].str.contains(ONE_PHOTOGRAPH)]
    fewest, most = int(several["photographs"].min()), int(several["photographs"].max())
    controls = (beyond.PHOTOGRAPH, f"{beyond.PHOTOGRAPH}, {beyond.TRANSLATION}")
    rows: list[list[str]] = []
    told: set[tuple[str, ...]] = set()
    for (dataset, way), part in frame.groupby(["dataset", "way"], sort=False):
        title = str(TITLES.get(str(dataset), dataset))
        for attack in (*controls, *UPLOADS, f"{beyond.TRANSLATION}, {ONE_PHOTOGRAPH}"):
            mine = part[part["attack"] == attack].sort_values("photographs").to_dict("records")
            if not mine:
                continue
            row = _row(attack, mine[0], mine[-1])
            # Photographs are the same for all filters, and so are their translations where these share a cut.
            if attack not in controls or (title, *row) not in told:
                rows.append([title if attack == beyond.PHOTOGRAPH else f"{title}, *{way}*", *row])
            told.add((title, *row))
    gains = []
    for way, part in several[several["attack"].isin(UPLOADS)].groupby("way", sort=False):
        sets = []
        for dataset, those in part.groupby("dataset", sort=False):
            best = [f"{100 * those[those['photographs'] == count][TOGETHER].max():.0f}" for count in (fewest, most)]
            sets.append(f"{' and '.join(best)}% ({TITLES.get(str(dataset), dataset)})")
        gains.append(f"of *{way!s}* {', '.join(sets)}")
    people = claims.listed(
        [
            f"{int(part['n'].iloc[0])} ({TITLES.get(str(dataset), dataset)})"
            for dataset, part in frame.groupby("dataset", sort=False)
        ]
    )
    headings = [
        "set, uploads", "attack", "how many", "networks one by one", "all as one", "comes first", "the service",
    ]  # fmt: skip
    false = frame["false"]
    return (
        f"**What {most} photographs of a person tell, where one does not.** The networks that are not authorised, all "
        f"as one, recognise by uploads of {fewest} and of {most} photographs, under the best attack: "
        f"{'; '.join(gains)}. Asked about are {people} people, with {int(frame['strangers'].min())} strangers enrolled "
        f"beside them. The thresholds of both halves accept {100 * false.min():.1f} to {100 * false.max():.1f}% of the "
        "comparisons of two people, where they were to accept 1% (one half makes up for the other here). Each "
        "cell has the fewest, then the most, in percent:\n\n" + page_data.markdown(headings, rows).strip()
    )


def _row(attack: str, one: Mapping[Any, Any], several: Mapping[Any, Any]) -> list[str]:
    kinds = ("others", TOGETHER, "first", "service")
    return [
        attack.replace(f", {ONE_PHOTOGRAPH}", f", all {ONE_PHOTOGRAPH}"),
        f"{one['photographs']}; {several['photographs']}",
        *("" if np.isnan(one[kind]) else f"{_told(one, kind)}; {_told(several, kind)}" for kind in kinds),
    ]


def _told(line: Mapping[Any, Any], kind: str) -> str:
    return f"{100 * line[kind]:.0f} [{100 * line[f'{kind}_low']:.0f}, {100 * line[f'{kind}_high']:.0f}]"


def summary(frame: pd.DataFrame) -> dict[str, float]:
    """Headline numbers, percent, means over the data sets.

    A key is ``several_WAY_ATTACK_COUNT`` with the attack upload, filtered or translated, of all networks as one; with
    ``_mean`` behind it the mean over networks, each by itself, with ``_first`` how often the right person comes first,
    by all as one; ``several_WAY_service_COUNT`` is the service's.
    """
    found: dict[str, float] = {}
    kinds = {beyond.PHOTOGRAPH: "photograph", beyond.UPLOAD: "upload", FILTERED: "filtered"}
    kinds |= {beyond.TRANSLATION: "translated", f"{beyond.TRANSLATION}, {ONE_PHOTOGRAPH}": "copies_translated"}
    rates = {"": TOGETHER, "_mean": "others", "_first": "first"}
    for (way, attack, count), part in frame.groupby(["way", "attack", "photographs"]) if len(frame) else ():
        if attack in kinds:
            key = f"several_{str(way).replace('-', '_')}_{kinds[str(attack)]}_{count}"
            found |= {f"{key}{end}": 100 * float(part[rate].mean()) for end, rate in rates.items()}
            if attack == beyond.UPLOAD:
                found[f"several_{str(way).replace('-', '_')}_service_{count}"] = 100 * float(part["service"].mean())
    return found
