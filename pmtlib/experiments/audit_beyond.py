"""What the audit measures in numbers of its own: linkage, attributes, a stitched recogniser, and what a service does.

Each function asks an :class:`~pmtlib.experiments.audit.Audit` for uploads and for what the attackers made of them, and
each has a control on the photographs themselves: an attack that fails there says nothing about uploads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from pmtlib import attribute_zoo, cache, datasets, metrics, results, zoo
from pmtlib.attacks.adaptive.average import average_features
from pmtlib.attacks.adaptive.link import identify, link_scores, unlinkability
from pmtlib.attacks.adaptive.purify import Purification
from pmtlib.attacks.adaptive.stitch import HeadConfig, StitchConfig, StitchedNetwork, stitch_network, train_head
from pmtlib.attacks.adaptive.translate import (
    Translator,
    TranslatorConfig,
    Uploads,
    feature_translations,
    train_translator,
    translation_thresholds,
    translations,
    translator_folder,
)
from pmtlib.attacks.attributes import AttributeEstimates, estimate, label_agreement
from pmtlib.attacks.reconstruction import split_people
from pmtlib.attacks.training import TrainingConfig
from pmtlib.errors import AssetError, DatasetError
from pmtlib.experiments.attributes import different_people
from pmtlib.experiments.common import PEOPLE, Floats, Outcome, Source, first_pictures, rounded
from pmtlib.experiments.trade_off import far_thresholds, identities, threshold_set
from pmtlib.experiments.variants import Photographs
from pmtlib.faces import Detector, align
from pmtlib.images import batches, quantise, recoded, to_tensor, to_uint8
from pmtlib.progress import progress_bar
from pmtlib.shallow import ShallowModel

if TYPE_CHECKING:
    from pmtlib.experiments.audit import Audit

VERSION = 1
PHOTOGRAPH, UPLOAD = "photograph", "upload"
DEOBFUSCATOR, TRANSLATION = "de-obfuscator", "translation of features"
LEARNED_TRANSLATION = "translation learned from uploads too"
STRANGER = "another person"
EVALUATED = "people of the evaluated pairs"
RANKS = (1, 5)
FAR, FAR_NAME = 1e-2, "far_1e2"
STITCHING_PEOPLE = {"lfw": "cfp_ff", "cfp_ff": PEOPLE}
"""Whose photographs train the head that attacks a data set: the people of the other one."""


def run(
    audit: Audit,
    dataset: str,
    variant: str,
    filters: Sequence[Purification],
    wanted: Collection[str] | None = None,
) -> dict[str, Outcome]:
    """Everything here for one variant's uploads of one data set, or what is ``wanted``; the last filter is the best."""
    best = filters[-1]
    parts: dict[str, Callable[[], Outcome]] = {
        "linkage": lambda: linked(audit, dataset, variant, best),
        "linkage after filters": lambda: linked_after(audit, dataset, variant, filters),
        "linkage by translation": lambda: linked_by_translation(audit, dataset, variant),
        "attributes": lambda: read(audit, dataset, variant, best),
        "stitching": lambda: stitched(audit, dataset, variant),
        "service": lambda: received(audit, dataset, variant),
    }
    return {name: measured() for name, measured in parts.items() if wanted is None or name in wanted}


def _obtain(
    audit: Audit,
    dataset: str,
    variant: str,
    name: str,
    parameters: Mapping[str, Any],
    compute: Callable[[datasets.PairSet], dict[str, Any]],
) -> Outcome:
    sample = audit.sample(dataset)
    file = f"{dataset}--{variant.replace(' ', '-')}--{name}"
    asked = {**audit.common(variant), **parameters}
    request = results.Request(
        "audit",
        file,
        VERSION,
        {"pairs": audit.settings.pairs, "pair_seed": audit.settings.pair_seed, **asked},
        {network: zoo.weights_checksum(network) for network in (*audit.settings.networks, audit.settings.authorised)},
    )

    def whole() -> dict[str, Any]:
        assert isinstance(sample, datasets.PairSet)
        return compute(sample)

    return audit.obtain(request, Source.of_pairs(sample), whole)


def _attacked(audit: Audit, variant: str, best: Purification, uploads: Tensor) -> dict[str, Tensor]:
    """Uploads, and what a filter and a learner make of them."""
    from pmtlib.experiments.audit import label

    made = {UPLOAD: uploads, label(best): best(uploads)}
    if audit.settings.pair_people:
        made[DEOBFUSCATOR] = audit.through(audit.deobfuscator(variant), uploads)
    return made


def _learning(audit: Audit) -> dict[str, Any]:
    return audit.training() if audit.settings.pair_people else {}


# -- linkage -----------------------------------------------------------------------------------------------------


def linked(audit: Audit, dataset: str, variant: str, best: Purification) -> Outcome:
    """Whether uploads can be linked: to photographs of the person, and to other uploads, with strangers among them.

    For every network that is not authorised: D_sys between the first photographs of all pairs, as the attacker has
    them, and the second ones, which are photographs or uploads too; and identification of the first photographs of
    pairs of one person among the second ones of all. Among photographs there are strangers' as distractors; among
    uploads there are none.
    """
    settings = audit.settings
    if not settings.distractors:
        return Outcome(None, "not run: this profile links nothing")
    parameters = {"distractors": settings.distractors, "filter": [best.name, best.strength], **_learning(audit)}

    def compute(sample: datasets.PairSet) -> dict[str, Any]:
        def attacked(uploads: Tensor) -> dict[str, Tensor]:
            return _attacked(audit, variant, best, uploads)

        return _all_linked(audit, dataset, variant, sample, attacked)

    return _obtain(audit, dataset, variant, "linkage", parameters, compute)


def linked_after(audit: Audit, dataset: str, variant: str, filters: Sequence[Purification]) -> Outcome:
    """The same after each filter, at the strength that was tuned, and without learners."""
    from pmtlib.experiments.audit import label

    settings = audit.settings
    if not settings.distractors:
        return Outcome(None, "not run: this profile links nothing")
    parameters = {"distractors": settings.distractors, "filters": [[label(one), one.strength] for one in filters]}

    def compute(sample: datasets.PairSet) -> dict[str, Any]:
        def attacked(uploads: Tensor) -> dict[str, Tensor]:
            return {label(one): one(uploads) for one in filters}

        return _all_linked(audit, dataset, variant, sample, attacked)

    return _obtain(audit, dataset, variant, "linkage-after-filters", parameters, compute)


def linked_by_translation(audit: Audit, dataset: str, variant: str) -> Outcome:
    """The same by translation (:func:`translated`): it is what a network would say of the photograph, and no image.

    Photographs, strangers' too, are in the gallery as the network itself embeds them; uploads as they translate. The
    control is the photographs, translated.
    """
    settings = audit.settings
    if not settings.distractors or settings.translator is None or dataset not in STITCHING_PEOPLE:
        return Outcome(None, "not run: this profile links nothing by translation")
    people_set = STITCHING_PEOPLE[dataset]
    parameters = {
        "distractors": settings.distractors,
        "translator": settings.translator.model_dump(mode="json"),
        "people": people_set,
        "without": EVALUATED,
    }

    def compute(sample: datasets.PairSet) -> dict[str, Any]:
        people, about = learned_from(people_set, sample)
        teller, _ = translator(audit, audit.shared(variant), people)
        parties = _Parties.of(audit, dataset, variant, sample)
        by_photograph, by_upload, by_other = (
            translations(teller, images) for images in (parties.photographs.originals, parties.uploads, parties.others)
        )
        found: dict[str, Any] = {}
        for network in teller.sizes:
            known, among = audit.embed(network, parties.second), audit.embed(network, parties.crowd)
            found[network] = {
                f"{PHOTOGRAPH}, {TRANSLATION}": {"photographs": parties.linkage(by_photograph[network], known, among)},
                TRANSLATION: {
                    "photographs": parties.linkage(by_upload[network], known, among),
                    "uploads": parties.linkage(by_upload[network], by_other[network], None),
                },
            }
        return {"networks": found, **parties.counts, "people": about}

    return _obtain(audit, dataset, variant, "linkage-by-translation", parameters, compute)


def _all_linked(
    audit: Audit,
    dataset: str,
    variant: str,
    sample: datasets.PairSet,
    attacked: Callable[[Tensor], Mapping[str, Tensor]],
) -> dict[str, Any]:
    """Linkage by every network that is not authorised, in every condition that ``attacked`` makes of uploads."""
    parties = _Parties.of(audit, dataset, variant, sample)
    first = {PHOTOGRAPH: parties.photographs.originals, **attacked(parties.uploads)}
    against = {PHOTOGRAPH: parties.second, **attacked(parties.others)}
    found: dict[str, Any] = {}
    names = audit.others
    with progress_bar(f"{dataset}, {variant}, linkage", len(names) * len(first)) as advance:
        for network in names:
            known, among = audit.embed(network, parties.second), audit.embed(network, parties.crowd)
            found[network] = {}
            for condition, images in first.items():
                probes = audit.embed(network, images)
                entry = {"photographs": parties.linkage(probes, known, among)}
                if condition != PHOTOGRAPH:
                    entry["uploads"] = parties.linkage(probes, audit.embed(network, against[condition]), None)
                found[network][condition] = entry
                advance(1)
    return {"networks": found, **parties.counts}


@dataclass(frozen=True)
class _Parties:
    """Who is linked to whom: images (N, 3, 112, 112) and whom they show.

    Attributes:
        photographs: of the sample; the first ones of all pairs are its ``originals``.
        uploads: of those.
        second: the second ones, each once, and ``others``, uploads of them.
        crowd: photographs of strangers.
        place: (pairs,) which of the second ones is a pair's.
        who_first: whom the first ones show, and ``who_second`` the second ones.
    """

    photographs: Photographs
    uploads: Tensor
    second: Tensor
    others: Tensor
    crowd: Tensor
    place: Any
    who_first: list[str]
    who_second: list[str]

    @classmethod
    def of(cls, audit: Audit, dataset: str, variant: str, sample: datasets.PairSet) -> Self:
        """Those of a variant's uploads of a data set."""
        people = identities(sample)
        second, place = np.unique(sample.pairs[:, 1], return_inverse=True)
        targets = sample.tensor(second)
        others = audit.copy(targets, f"{dataset}, second photographs", variant, 0)
        return cls(
            audit.photographs(dataset), audit.uploads(dataset, variant), targets, others, crowd(audit), place,
            [people[index] for index in np.unique(sample.pairs[:, 0])], [people[index] for index in second],
        )  # fmt: skip

    @property
    def counts(self) -> dict[str, int]:
        return {"probes": int(self.photographs.same.sum()), "distractors": len(self.crowd)}

    def linkage(self, probes: Floats, gallery: Floats, distractors: Floats | None) -> dict[str, Any]:
        """D_sys between embeddings of the first and the second ones, and the ranks of pairs of one person."""
        scores = link_scores(probes, gallery, self.who_first, self.who_second)
        found = unlinkability(scores, resamples=200)
        rows = np.flatnonzero(self.photographs.same)
        wanted = [self.who_second[self.place[row]] for row in rows]
        ranks = identify(
            probes[self.photographs.place[rows]], gallery, wanted, self.who_second, distractors=distractors, ks=RANKS
        )
        return {
            "d_sys": round(found.d_sys, 5),
            "low": round(found.interval.low, 5),
            "high": round(found.interval.high, 5),
            "chance": round(found.chance, 5),
            "ranks": {str(k): hits.astype(int).tolist() for k, hits in ranks.items()},
        }


def crowd(audit: Audit) -> Tensor:
    """One photograph of each of the strangers who are in a gallery, (S, 3, 112, 112).

    Raises:
        AssetError: their set is not there.
    """
    try:
        strangers = first_pictures(audit.settings.distractors, audit.settings.tuning_seed + 1)
    except DatasetError as error:
        raise AssetError(f"the distractors are people of {PEOPLE}, who are not there") from error
    return strangers.tensor(range(len(strangers)))


# -- attributes --------------------------------------------------------------------------------------------------


def read(audit: Audit, dataset: str, variant: str, best: Purification) -> Outcome:
    """What attribute networks read from uploads, filtered ones and de-obfuscated ones, held against the photograph.

    Agreement of the likeliest label, and the absolute difference of ages; the chance level is what the photograph of
    another person agrees to.
    """
    settings = audit.settings
    if not settings.attribute_networks:
        return Outcome(None, "not run: this profile reads no attributes")
    checksums = {name: attribute_zoo.weights_checksum(name) for name in settings.attribute_networks}
    parameters = {"attribute_networks": checksums, "filter": [best.name, best.strength], **_learning(audit)}

    def compute(sample: datasets.PairSet) -> dict[str, Any]:
        people = identities(sample)
        originals = audit.photographs(dataset).originals
        partner = different_people([people[index] for index in np.unique(sample.pairs[:, 0])], settings.tuning_seed)
        made = _attacked(audit, variant, best, audit.uploads(dataset, variant))
        own = estimate(originals, settings.attribute_networks, audit.device)
        told = {name: estimate(images, settings.attribute_networks, audit.device) for name, images in made.items()}
        return _agreements(own, told, partner)

    return _obtain(audit, dataset, variant, "attributes", parameters, compute)


def _agreements(own: AttributeEstimates, told: Mapping[str, AttributeEstimates], partner: Any) -> dict[str, Any]:
    known = partner >= 0
    labels: dict[str, Any] = {}
    for network, by_attribute in own.probabilities.items():
        labels[network] = {}
        for attribute, rows in by_attribute.items():
            entry = {
                name: label_agreement(one.probabilities[network][attribute], rows).astype(int).tolist()
                for name, one in told.items()
            }
            entry[STRANGER] = label_agreement(rows[partner[known]], rows[known]).astype(int).tolist()
            labels[network][attribute] = entry
    years = {
        network: {
            **{name: rounded(np.abs(one.years[network] - ages)) for name, one in told.items()},
            STRANGER: rounded(np.abs(ages[partner[known]] - ages[known])),
        }
        for network, ages in own.years.items()
    }
    return {"labels": labels, "years": years}


def strangers_of(
    people: datasets.People, people_set: str | Path, sample: datasets.PairSet
) -> tuple[datasets.People, list[str]]:
    """The people who are in none of the evaluated pairs, and the names of those left out, compared by spelling."""
    shown = identities(sample)
    evaluated = {shown[int(index)] for index in np.unique(sample.pairs)}
    attacked = set(datasets.comparable_names(sample.name, sorted(evaluated)))
    spelled = dict(zip(people.names, datasets.comparable_names(people_set, people.names), strict=True))
    kept = [row for row, who in enumerate(people.identities) if spelled[who] not in attacked]
    return people.subset(kept), [name for name in people.names if spelled[name] in attacked]


def learned_from(people_set: str, sample: datasets.PairSet) -> tuple[datasets.People, dict[str, Any]]:
    """The people that a head on the shared model learns from to attack a sample, and what is stored about them."""
    try:
        everybody = datasets.load_people(people_set)
    except DatasetError as error:
        raise AssetError(f"heads are trained on the people of {people_set}, who are not there") from error
    people, left_out = strangers_of(everybody, people_set, sample)
    numbers = {"identities": len(people.names), "images": len(people), "left_out": len(left_out)}
    return people, {"name": people_set, **numbers}


# -- stitching ---------------------------------------------------------------------------------------------------


def stitched(audit: Audit, dataset: str, variant: str) -> Outcome:
    """A recogniser that an unauthorised party completes from the shared shallow model (:mod:`~.stitch`).

    Completed by the later units of the network ``identity``, which the attacker holds. Its threshold is that of a FAR
    of 1e-2 among the people held out of its training.
    """
    settings = audit.settings
    if settings.stitching is None or dataset not in STITCHING_PEOPLE:
        return Outcome(None, "not run: this profile stitches nothing")
    config, people_set = settings.stitching, STITCHING_PEOPLE[dataset]
    parameters = {
        "stitching": config.model_dump(mode="json"),
        "completed_by": [settings.identity, zoo.weights_checksum(settings.identity)],
        "people": people_set,
        "without": EVALUATED,
    }

    def compute(sample: datasets.PairSet) -> dict[str, Any]:
        people, about = learned_from(people_set, sample)
        network = trained_stitched(audit, audit.shared(variant), people, config)
        rows = split_people(people, config).validation
        held = _embedded(network, people.tensor(rows), audit)
        names = [people.identities[int(row)] for row in rows]
        impostors = link_scores(held, held, names, names).non_mated
        photographs = audit.photographs(dataset)
        others = _embedded(network, photographs.others, audit)
        found = {}
        for name, images in ((PHOTOGRAPH, photographs.originals), (UPLOAD, audit.uploads(dataset, variant))):
            mine = _embedded(network, images, audit)[photographs.place]
            found[name] = rounded(metrics.cosine(mine, others))
        return {
            "same": photographs.same.astype(int).tolist(),
            "threshold": round(float(np.quantile(impostors, 1 - FAR)), 5),
            "cosines": found,
            "people": about,
        }

    return _obtain(audit, dataset, variant, "stitching", parameters, compute)


def trained_stitched(
    audit: Audit, shared: ShallowModel, people: datasets.People, config: StitchConfig
) -> StitchedNetwork:
    """The attacker's network stitched to a shared model, tuned on people or found in the cache."""
    own = audit.settings.identity
    asked = [own, zoo.weights_checksum(own), *_trained_for(shared, people, config)]
    with progress_bar(f"{own} stitched to {shared.name}, cut {shared.cut}", config.steps) as advance:
        folder = _folder("stitched", asked)
        return stitch_network(shared, audit.network(own), people, config, folder=folder, progress=advance)


def trained_head(shared: ShallowModel, people: datasets.People, config: HeadConfig) -> StitchedNetwork:
    """A head on a shared model, trained on people or found in the cache."""
    with progress_bar(f"head on {shared.name}, cut {shared.cut}", config.steps) as advance:
        folder = _folder("head", _trained_for(shared, people, config))
        return train_head(shared, people, config, folder=folder, progress=advance)


def _trained_for(shared: ShallowModel, people: datasets.People, config: TrainingConfig) -> list[Any]:
    return [shared.name, shared.cut, config.model_dump(mode="json"), people.fingerprint, torch.__version__]


def _folder(kind: str, asked: Sequence[Any]) -> Path:
    return cache.folder(kind) / hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:24]


def _embedded(network: StitchedNetwork, images: Tensor, audit: Audit) -> Floats:
    with torch.inference_mode():
        parts = [network(images[chunk].to(audit.device)).cpu().numpy() for chunk in batches(len(images), 64)]
    return np.concatenate(parts).astype(np.float64)


# -- translation ---------------------------------------------------------------------------------------------------


def translated(audit: Audit, dataset: str, variant: str) -> Outcome:
    """Uploads whose features are translated to the embeddings of the attacker's networks (:mod:`~.translate`).

    The person's other photograph is enrolled as the network itself embeds it. A network's threshold is that of a FAR of
    1e-2 between the translation of one photograph and the embedding of another, among the people held out of the
    training. Uploads of the frontier's other numbers of steps meet the same translator.
    """
    settings = audit.settings
    if settings.translator is None or dataset not in STITCHING_PEOPLE:
        return Outcome(None, "not run: this profile translates nothing")
    config, people_set = settings.translator, STITCHING_PEOPLE[dataset]
    steps = audit.other_numbers(variant) if settings.pair_people else []
    parameters: dict[str, Any] = {"translator": config.model_dump(mode="json"), "people": people_set, "steps": steps}
    parameters["without"] = EVALUATED

    def compute(sample: datasets.PairSet) -> dict[str, Any]:
        people, about = learned_from(people_set, sample)
        teller, thresholds = translator(audit, audit.shared(variant), people)
        photographs = audit.photographs(dataset)
        attacked = {TRANSLATION: audit.uploads(dataset, variant)}
        if steps:
            made = audit.other_uploads(dataset, variant)
            attacked |= {f"K = {count}, {TRANSLATION}": uploads for count, uploads in made.items()}
        attacked[f"{PHOTOGRAPH}, {TRANSLATION}"] = photographs.originals
        said = {attack: translations(teller, images) for attack, images in attacked.items()}
        return _held_against(audit, photographs, said, thresholds) | {"people": about}

    return _obtain(audit, dataset, variant, "translation", parameters, compute)


def averages_translated(audit: Audit, dataset: str, variant: str, *, many: bool = False) -> Outcome:
    """The mean of the features of several uploads of each photograph, translated as in :func:`translated`.

    With ``many``, for the numbers of copies that the pairs of one person alone meet.
    """
    from pmtlib.experiments.audit import some

    settings, counts = audit.settings, audit.counts_of_all(variant, many=many)
    if settings.translator is None or not counts or dataset not in STITCHING_PEOPLE:
        return Outcome(None, "not run: this profile translates no averages")
    config, people_set = settings.translator, STITCHING_PEOPLE[dataset]
    parameters: dict[str, Any] = {"translator": config.model_dump(mode="json"), "people": people_set, "copies": counts}
    parameters |= {"without": EVALUATED, "strangers": not many}

    def compute(sample: datasets.PairSet) -> dict[str, Any]:
        people, about = learned_from(people_set, sample)
        shared = audit.shared(variant)
        teller, thresholds = translator(audit, shared, people)
        everybody = audit.photographs(dataset)
        photographs = some(everybody, settings.pairs, strangers=False) if many else everybody
        features = [audit.features(shared, one) for one in audit.copies_of_all(dataset, variant, many=many)]
        said = {
            f"{count} copies, {TRANSLATION}": feature_translations(
                teller, average_features(torch.stack(features[:count]))
            )
            for count in counts
        }
        return _held_against(audit, photographs, said, thresholds) | {"people": about}

    return _obtain(audit, dataset, variant, f"translation-of-{'many' if many else 'averages'}", parameters, compute)


def _held_against(
    audit: Audit,
    photographs: Photographs,
    said: Mapping[str, Mapping[str, Floats]],
    thresholds: Mapping[str, float],
) -> dict[str, Any]:
    """What is stored of translations: their cosines with each network's embeddings of both photographs of a pair."""
    found = {}
    for attack, translated_by in said.items():
        networks = {}
        for name, embeddings in translated_by.items():
            mine = embeddings[photographs.place]
            own = audit.embed_once(name, photographs.originals)[photographs.place]
            other = audit.embed_once(name, photographs.others)
            networks[name] = {
                "own": rounded(metrics.cosine(mine, own)), "other": rounded(metrics.cosine(mine, other)),
            }  # fmt: skip
        found[attack] = {"networks": networks}
    return {
        "same": photographs.same.astype(int).tolist(),
        "photograph": photographs.place.tolist(),
        "thresholds": {name: {FAR_NAME: round(value, 5)} for name, value in thresholds.items()},
        "attacks": found,
    }


def translator(
    audit: Audit, shared: ShallowModel, people: datasets.People, uploads: Uploads | None = None
) -> tuple[Translator, dict[str, float]]:
    """A translator of what a shared model sees to embeddings of the other networks, and its thresholds.

    It learns from ``people``. Where there are ``uploads`` of photographs of theirs, it learns from those too, in twice
    the steps, so that as many photographs are seen as without; uploads of people held out give the thresholds then.
    """
    config = audit.settings.translator
    assert config is not None
    if uploads is not None:
        config = config.model_copy(update={"steps": 2 * config.steps})
    made = trained_translator(audit, shared, people, config, uploads)
    return made, translation_thresholds(made, people, _teachers(audit), config, far=FAR, uploads=uploads)


def trained_translator(
    audit: Audit,
    shared: ShallowModel,
    people: datasets.People,
    config: TranslatorConfig,
    uploads: Uploads | None = None,
) -> Translator:
    """A translator to embeddings of the other networks, trained with a configuration or found in the cache."""
    weights = {name: zoo.weights_checksum(name) for name in (*audit.others, audit.settings.authorised)}
    folder = translator_folder(shared, people, config, weights)
    if uploads is not None:
        folder /= uploads.digest[:24]
    with progress_bar(f"translator on {shared.name}, cut {shared.cut}", config.steps) as advance:
        return train_translator(
            shared, people, _teachers(audit), config, uploads=uploads, folder=folder, progress=advance
        ).to(audit.device)


def _teachers(audit: Audit) -> dict[str, Callable[[Tensor], Floats]]:
    def teacher(name: str) -> Callable[[Tensor], Floats]:
        # Remembered: the translators of other cuts ask for the same.
        return lambda images: audit.embed_once(name, images.cpu())

    return {name: teacher(name) for name in audit.others}


# -- the authorised service --------------------------------------------------------------------------------------


def received(audit: Audit, dataset: str, variant: str) -> Outcome:
    """The authorised service that compresses what it gets, or finds the face in it again and aligns it anew.

    Where no face is found nobody is recognised. Photographs go through the same.
    """
    settings = audit.settings
    if not settings.qualities:
        return Outcome(None, "not run: this profile has no service that processes uploads")
    parameters = {"qualities": list(settings.qualities), "thresholds_of": threshold_set(dataset)}

    def compute(_: datasets.PairSet) -> dict[str, Any]:
        photographs = audit.photographs(dataset)
        found: dict[str, Any] = {}
        for name, images in ((PHOTOGRAPH, photographs.originals), (UPLOAD, audit.uploads(dataset, variant))):
            again, seen = realigned(images)
            made = {"as it is": images, "aligned again": again}
            made |= {f"JPEG {quality}": recoded(images, "jpeg", quality) for quality in settings.qualities}
            theirs = audit.embed_once(settings.authorised, photographs.others)
            cosines = {}
            for what, result in made.items():
                mine = audit.embed(settings.authorised, result)[photographs.place]
                cosines[what] = rounded(metrics.cosine(mine, theirs))
            found[name] = {"cosines": cosines, "detected": seen.astype(int).tolist()}
        return {
            "same": photographs.same.astype(int).tolist(),
            "photograph": photographs.place.tolist(),
            "threshold": far_thresholds(settings.authorised, dataset),
            "received": found,
        }

    return _obtain(audit, dataset, variant, "service", parameters, compute)


def realigned(images: Tensor) -> tuple[Tensor, Any]:
    """Images (N, 3, 112, 112) as a service has them that looks for the face again, and whether it found one, (N,).

    An image without a face stays as it is; what becomes of it is the caller's choice.
    """
    detector = Detector()
    made, seen = [], []
    for image in to_uint8(images):
        faces = detector(image)
        seen.append(bool(faces))
        made.append(align(image, faces[0].landmarks) if faces else image)
    return quantise(to_tensor(made, images.device)), np.array(seen, dtype=np.bool_)
