"""The audit: what the filter leaks to someone who knows it. Not in the paper, whose attackers do not.

Every attacker holds the public shallow model, the filter and photographs of *other* people, on whom whatever there is
to choose or to train is chosen and trained. What they make of an upload is judged by its likeness to the photograph
and by the networks that must not recognise it, at thresholds found on another data set.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from pmtlib import cache, datasets, metrics, results, zoo
from pmtlib.attacks.adaptive.average import average_features, average_images
from pmtlib.attacks.adaptive.deobfuscate import (
    Deobfuscator,
    DeobfuscatorConfig,
    IdentityConfig,
    Pairs,
    load_deobfuscator,
    load_protected_recface,
    make_pairs,
    train_deobfuscator,
    train_protected_recface,
)
from pmtlib.attacks.adaptive.prior import PriorConfig, best_of, mean_image
from pmtlib.attacks.adaptive.purify import Purification, candidates, tune
from pmtlib.attacks.adaptive.stitch import HeadConfig, StitchConfig
from pmtlib.attacks.adaptive.translate import TranslatorConfig
from pmtlib.attacks.reconstruction import ADAM, InversionConfig, RecFace, Start
from pmtlib.attacks.training import read_eight_bit
from pmtlib.errors import AssetError, DatasetError, ResultError
from pmtlib.experiments.audit_frontier import Setting, late_decoy
from pmtlib.experiments.common import (
    PEOPLE,
    PEOPLE_LIST,
    Floats,
    Made,
    Outcome,
    Source,
    first_pictures,
    rounded,
    section_settings,
)
from pmtlib.experiments.trade_off import far_thresholds, threshold_set
from pmtlib.experiments.variants import Photographs, Variants, VariantSettings
from pmtlib.images import UInt8Image, batches, quantise, to_tensor, to_uint8
from pmtlib.progress import progress_bar
from pmtlib.shallow import ShallowModel
from pmtlib.transform import PMTConfig
from pmtlib.variants import PLAIN, Method, find
from pmtlib.variants.decoy import DecoyConfig
from pmtlib.variants.deep import DeepConfig

VERSION = 1
PHOTOGRAPH, UPLOAD = "photograph", "upload"
CONTRAST = "contrast"
DEOBFUSCATOR, RECFACE, CLEAN_RECFACE = "de-obfuscator", "RecFace", "RecFace of photographs"
IDENTITY_RECFACE, CLEAN_IDENTITY_RECFACE = "RecFace for identity", "RecFace for identity of photographs"
INVERSION = "inversion with priors"
AS_IT_IS = Purification("none", 0.0, contrast=False)
_STARTS: tuple[Start, ...] = ("grey", "mean", "noise")
STRIP_COPIES = 8
"""Copies that the pictures of the page average, at most: they are made whenever the page is."""
FAR = "far_1e2"
"""Thresholds at a false acceptance rate of 1e-2 (:func:`pmtlib.experiments.trade_off.far_thresholds`)."""


class AuditSettings(VariantSettings):
    """Parameters of the audit.

    Attributes:
        variants: ways to protect, by name; each with the fields in which it differs from its defaults (``pmt``: from
            the section's transform). Two entries are no fields of a configuration: ``variant``, of which variant it is
            where the name is another, and ``cut``.
        thorough: those of them that meet the costly attacks as well: averages, inversion, linkage, attributes,
            stitching, and what a service does to what it gets. The others are filtered and learned from.
        tuning_people: people of LFW who are in no pair, one photograph each, on whom filters are tuned.
        tuning_seed: of the draw of them.
        strengths: of the filters, where they are not to be tuned but were found elsewhere, on other people. The last is
            the best; filters that are not named are left out.
        copies: how many uploads of one photograph are averaged.
        few: pairs for the averages of ``copies``, through a learner too.
        copies_of_all: the same for all pairs, without learners; none leaves that out.
        most_of_all: by variant, the largest of those numbers that all pairs meet; larger ones meet the pairs of one
            person alone, since each copy costs an upload of every photograph. A variant not named has no limit.
        pair_people: people of LFW who are in no pair, one photograph each, on whose uploads the learners are trained;
            0 leaves them out.
        held_people: yet other people, on whom the trainings are followed.
        pair_factors: numbers of steps of those uploads, in those of the variant.
        pair_seeds: of those uploads.
        deobfuscator: the training of the de-obfuscator, and of RecFace on the features of uploads.
        identity: the attacker's own network, for which another RecFace is trained on the features of uploads: it shall
            recognise the person in what is made. Its later units are stitched to the shared model, too. One of the
            networks that are not authorised.
        identity_variants: variants that meet this RecFace.
        identity_training: its training.
        inversion_pairs: pairs of one person for the white-box inversion with priors, which costs most and is spared
            those of two people; 0 leaves it out.
        inversion_steps: of that inversion, from each start.
        inversion_tv: its weights of the total variation.
        prior_steps: of the deep image prior, which competes with it.
        distractors: strangers in the gallery of the 1:N linkage; 0 leaves linkage out.
        attribute_networks: read from what attackers make of uploads; none leaves them out.
        stitching: the tuning of the network ``identity``, stitched to the shared shallow model; None leaves it out.
        translator: the training of the translator from shared features to the attacker's own embeddings; None leaves it
            out.
        qualities: of JPEG, at which a service may compress what it gets; none leaves out what a service does.
        choice_people: people of LFW who are in no pair and have two photographs or more, on whom a better filter is
            chosen; 0 leaves the choice out.
        choice_cuts: the cuts that are tried.
        choice_steps: the numbers of steps that are tried.
        decoy_cuts: cuts at which the variant ``decoy`` is tuned on the same people (:mod:`~.audit_decoy`); none leaves
            that out.
        decoy_purify_weights: what is tried there as the weight of a purification in each step.
        decoy_copies: how many uploads by the way that is picked there are averaged; none leaves that out.
        frontier_steps: numbers of steps of the transform as published at which every cut of ``choice_cuts`` is looked
            at on the evaluated sets, under filters and translation; none leaves all such settings out.
        frontier_deep_steps: the same of the variants that match a late map alone.
        frontier_windows: windows over which the last map is averaged there.
        own_head: the training of the heads that the variant ``embedding`` matches, looked at on the evaluated sets too;
            None leaves it out. The seed is not used: each has its own.
        own_heads: how many, on each cut.
        own_head_cuts: the cuts.
        own_head_steps: the numbers of steps.
        guard: the training of the translators that the variant ``guarded`` deceives, looked at on the evaluated sets
            with an attacker who learns from its uploads afterwards; None leaves it out. The seed is not used. Their
            people and networks are those of the attacker.
        guards: how many.
        guard_cut: the cut.
        guard_weights: how much they count. 0.1 was picked by hand from 0.1 and 0.3, as were the steps, on 48 people of
            LFW who are in no pair, before the attacker who comes after was there.
        guard_steps: the numbers of steps. 160 came after 80 had served the service worse than any *deep* beside it.
        guard_beside: numbers of steps of *deep* at that cut that meet the same attacker; 10 came with that 160.
        guard_directions: of the variant ``projected`` at that cut, which meets the same attacker; 64 was picked from
            16 and 64 on the same people. The number of steps is the variant's.
        guard_uploads: photographs of other people on whose uploads that attacker is trained as well.
        guard_held: photographs of people held out of that training, whose uploads give its thresholds.
        again_steps: a number of steps of the variant ``deep`` that is tested on pairs of people who are in no evaluated
            pair (:mod:`~.audit_again`); 0 leaves that out. 80 was seen to reach a goal on the frontier, and fixed
            before those pairs were drawn.
        again_filter_steps: the same for the goal without learning; 0 leaves that out. 120 is the largest of
            ``choice_steps`` at which, on the people of the choice, no blur leaves others more than a quarter of what
            they get of photographs.
        again_seed: of the draw of those pairs; the pairs of the goal without learning have the next one.
        several_people: people who are in no pair, of each of whom several photographs are uploaded
            (:mod:`~.audit_several`); 0 leaves that out.
        several_counts: how many an attacker puts together.
        several_copies: of the variant ``projected``, how many uploads of one photograph they do.
        several_strangers: others who are enrolled beside those people.
    """

    section: ClassVar[str] = "audit"

    variants: Mapping[str, Mapping[str, Any]] = {PLAIN: {}}
    thorough: tuple[str, ...] = (PLAIN,)
    tuning_people: int = Field(48, ge=1)
    tuning_seed: int = 0
    strengths: Mapping[str, float] = {}
    copies: tuple[int, ...] = (2, 4, 8)
    few: int = Field(32, ge=2)
    copies_of_all: tuple[int, ...] = ()
    most_of_all: Mapping[str, int] = {}
    pair_people: int = Field(480, ge=0)
    held_people: int = Field(32, ge=1)
    pair_factors: tuple[float, ...] = (0.6, 1.0, 2.0)
    pair_seeds: tuple[int, ...] = (1, 2, 3, 4)
    deobfuscator: DeobfuscatorConfig = DeobfuscatorConfig()
    identity: str = "mobilefacenet-casia"
    identity_variants: tuple[str, ...] = ()
    identity_training: IdentityConfig = IdentityConfig()
    inversion_pairs: int = Field(0, ge=0)
    inversion_steps: int = Field(300, ge=1)
    inversion_tv: tuple[float, ...] = (2.0, 20.0)
    prior_steps: int = Field(300, ge=1)
    distractors: int = Field(0, ge=0)
    attribute_networks: tuple[str, ...] = ()
    stitching: StitchConfig | None = None
    translator: TranslatorConfig | None = None
    qualities: tuple[int, ...] = ()
    choice_people: int = Field(0, ge=0)
    choice_cuts: tuple[str, ...] = ("28x28", "14x14", "7x7")
    choice_steps: tuple[int, ...] = (20, 40, 60, 80, 120, 160)
    decoy_cuts: tuple[str, ...] = ()
    decoy_purify_weights: tuple[float, ...] = (0.0, 1.0)
    decoy_copies: tuple[int, ...] = ()
    frontier_steps: tuple[int, ...] = ()
    frontier_deep_steps: tuple[int, ...] = (20, 40, 80)
    frontier_windows: tuple[int, ...] = (3, 7)
    own_head: HeadConfig | None = None
    own_heads: int = Field(2, ge=1)
    own_head_cuts: tuple[str, ...] = ("28x28", "14x14", "7x7")
    own_head_steps: tuple[int, ...] = (40, 80, 160)
    guard: TranslatorConfig | None = None
    guards: int = Field(2, ge=1)
    guard_cut: str = "7x7"
    guard_weights: tuple[float, ...] = (0.1,)
    guard_steps: tuple[int, ...] = Field((80, 160), min_length=1)
    guard_beside: tuple[int, ...] = Field((10, 20, 40), min_length=1)
    guard_directions: tuple[int, ...] = (64,)
    guard_uploads: int = Field(320, ge=1)
    guard_held: int = Field(48, ge=2)
    again_steps: int = Field(0, ge=0)
    again_filter_steps: int = Field(0, ge=0)
    again_seed: int = 1
    several_people: int = Field(0, ge=0)
    several_counts: tuple[int, ...] = Field((1, 2, 4, 8), min_length=1)
    several_copies: tuple[int, ...] = (2, 4)
    several_strangers: int = Field(400, ge=0)


def audit_settings(profile: str, **overrides: Any) -> AuditSettings:
    """Settings of a profile, see :func:`pmtlib.experiments.common.section_settings`."""
    return section_settings(AuditSettings, profile, **overrides)


class FiltersSettings(AuditSettings):
    """The same for the page on filters that leave less, whose results are the audit's too."""

    section: ClassVar[str] = "filters"


def filters_settings(profile: str, **overrides: Any) -> FiltersSettings:
    """Settings of a profile, see :func:`pmtlib.experiments.common.section_settings`."""
    return section_settings(FiltersSettings, profile, **overrides)


@dataclass(frozen=True)
class AuditBlock:
    """Every attack on one variant's uploads of one data set.

    Attributes:
        dataset: its name.
        variant: how the uploads were made.
        attacks: what was done, and its result: ``values["attacks"]`` has one entry a row of the audit's table.
        steps: uploads of other numbers of steps, for the frontier; entries likewise. None where nobody asked for them.
        beyond: what is measured in numbers of its own: see :mod:`pmtlib.experiments.audit_beyond`.
    """

    dataset: str
    variant: str
    attacks: Mapping[str, Outcome]
    steps: Outcome | None
    beyond: Mapping[str, Outcome]

    def rows(self) -> list[tuple[str, str, Outcome]]:
        """Set, row and outcome, for the provenance table."""
        steps = {} if self.steps is None else {"steps": self.steps}
        parts = {**self.attacks, **steps, **self.beyond}
        return [(self.dataset, f"{name} ({self.variant})", outcome) for name, outcome in parts.items()]


@dataclass(frozen=True)
class Portrait:
    """A sample photograph that may be shown, and what became of it.

    Attributes:
        title: who it shows.
        images: what was done, and the picture (112, 112, 3) that came out; the photograph first.
        below: for each of them, what to say below it.
    """

    title: str
    images: Mapping[str, UInt8Image]
    below: Mapping[str, str]


def label(filtering: Purification) -> str:
    """A filter's name in results: ``upload`` for none at all, ``contrast`` for its restoration alone, or its own."""
    if filtering.name != "none":
        return filtering.name
    return CONTRAST if filtering.contrast else UPLOAD


def means(copies: Sequence[Tensor], count: int, filters: Sequence[Purification]) -> dict[str, Tensor]:
    """The mean of the first uploads of each photograph, by its name in results: as it is, and filtered."""
    mean = average_images(torch.stack(list(copies[:count])))
    filtered = {f"{count} copies, {label(filtering)}": filtering(mean) for filtering in filters}
    return {f"{count} copies": mean, **filtered}


class Audit(Variants[AuditSettings]):
    """Attacks on uploads by someone who knows the filter.

    Args:
        settings: see :class:`AuditSettings`.
        device: where to compute.
        recompute: compute also what is stored.
        profile: the profile's name, for the command in manifests.
    """

    def run(
        self, *, steps: bool = True, beyond: Collection[str] | None = None
    ) -> tuple[dict[str, Outcome], list[AuditBlock]]:
        """How the filters were tuned for each variant, and all blocks.

        Each result is stored when done, so an interrupted run goes on where it was.

        Args:
            steps: whether blocks have uploads of other numbers of steps too.
            beyond: what of :func:`pmtlib.experiments.audit_beyond.run` they have; None for all.
        """
        tuned = {variant: self.tuning(variant) for variant in self.settings.variants}
        return tuned, [
            self.block(dataset, variant, tuned[variant], steps=steps, beyond=beyond)
            for dataset in self.settings.datasets
            for variant in self.settings.variants
        ]

    def block(
        self, dataset: str, variant: str, tuning: Outcome, *, steps: bool = True, beyond: Collection[str] | None = None
    ) -> AuditBlock:
        """One variant's uploads of one data set under every attack; what else there is, as :meth:`run` has it."""
        from pmtlib.experiments import audit_beyond

        settings, filters = self.settings, chosen_filters(tuning, self.settings)
        attacks = {
            "purification": self.purified(dataset, variant, filters),
            "learning": self.learned(dataset, variant),
            "translation": audit_beyond.translated(self, dataset, variant),
        }
        if variant in settings.identity_variants:
            attacks["learning of photographs"] = self.learned_identity(dataset, variant)
        numbers: dict[str, Outcome] = {}
        if variant in settings.thorough:
            attacks["averaging"] = self.averaged(dataset, variant, filters[-1])
            attacks["averaging of all"] = self.averaged_of_all(dataset, variant, filters[-1])
            attacks["translated averages"] = audit_beyond.averages_translated(self, dataset, variant)
            if self.counts_of_all(variant, many=True):
                attacks["averaging of many"] = self.averaged_of_all(dataset, variant, filters[-1], many=True)
                of_many = audit_beyond.averages_translated(self, dataset, variant, many=True)
                attacks["translated averages of many"] = of_many
            attacks["inversion"] = self.inverted(dataset, variant)
            numbers = audit_beyond.run(self, dataset, variant, filters, beyond)
        others = not_yet(self.other_steps(dataset, variant, filters[-1])) if steps else None
        attacks, numbers = ({name: not_yet(one) for name, one in part.items()} for part in (attacks, numbers))
        return AuditBlock(dataset, variant, attacks, others, numbers)

    def _entry(self, variant: str) -> tuple[Method, dict[str, Any]]:
        """What a name of the settings stands for, and the fields that it changes."""
        changes = dict(self.settings.variants[variant])
        return find(changes.pop("variant", variant)), changes

    def cut(self, variant: str) -> int | str:
        """Where a variant cuts the authorised network."""
        method, changes = self._entry(variant)
        chosen: int | str = changes.get("cut") or method.cut or self.settings.cut
        return chosen

    def config(self, variant: str) -> PMTConfig:
        """A variant's configuration.

        Raises:
            ConfigError: there is no such variant.
            ValueError: a value is not allowed.
        """
        method, changes = self._entry(variant)
        changes.pop("cut", None)
        if method.config is PMTConfig:
            return self.configured(changes)
        return method.config.model_validate({"batch_size": self.settings.pmt.batch_size, **changes})

    def shared(self, variant: str) -> ShallowModel:
        """The shallow model that a variant matches."""
        return self.shallow(self.settings.authorised, self.cut(variant))

    def common(self, variant: str) -> dict[str, Any]:
        """What every result on a variant's uploads depends on."""
        settings = self.settings
        return {
            "authorised": settings.authorised,
            "cut": self.cut(variant),
            "pmt": self.config(variant).model_dump(mode="json"),
        }

    def uploads(self, dataset: str, variant: str, seed: int = 0) -> Tensor:
        """What is uploaded of the photographs of a set, (U, 3, 112, 112), as 8-bit images hold it.

        Args:
            dataset: which set.
            variant: how.
            seed: added to the configuration's, for another copy of each.
        """
        return self.copy(self.photographs(dataset).originals, dataset, variant, seed)

    def copy(self, originals: Tensor, name: str, variant: str, seed: int, *, shown: bool = False) -> Tensor:
        """What is uploaded of photographs (N, 3, 112, 112); ``name`` says whose they are, for the progress bar."""
        config = self.config(variant)
        config = config.model_copy(update={"seed": config.seed + seed})
        return quantise(self._protected(originals, name, variant, config, shown=shown).images)

    def _protected(
        self, originals: Tensor, name: str, variant: str, config: PMTConfig, keep: Sequence[int] = (), *,
        shown: bool = False,
    ) -> Made:  # fmt: skip
        authorised, cut = self.settings.authorised, self.cut(variant)
        return self.protect(originals, authorised, f"{name}, {variant}", config=config, cut=cut, keep=keep, shown=shown)

    # -- what an attacker chooses on other people -------------------------------------------------------------------

    def tuning(self, variant: str) -> Outcome:
        """Every strength of every filter, on uploads of other people.

        The score is one that an attacker can compute: the mean cosine, over the networks that are not authorised, of
        the embeddings of purified upload and photograph.
        """
        settings = self.settings
        if settings.strengths:
            return Outcome(None, "not run: the strengths are given")
        source: Source | DatasetError
        try:
            people = first_pictures(settings.tuning_people, settings.tuning_seed)
            source = Source(PEOPLE, "LFW, other people", people.fingerprint, len(people))
        except DatasetError as error:
            source = error
        tried = candidates()
        parameters = {
            **self.common(variant),
            "people": settings.tuning_people,
            "seed": settings.tuning_seed,
            "tried": [[label(one), one.strength] for one in tried],
        }
        name = f"{PEOPLE}--{variant.replace(' ', '-')}--tuning"
        request = self.request("audit", name, VERSION, parameters, (settings.authorised,))

        def compute() -> dict[str, Any]:
            originals = people.tensor(range(len(people)))
            made = self._protected(originals, PEOPLE, variant, self.config(variant))
            with progress_bar("filters", len(tried)) as advance:
                found = tune(quantise(made.images), originals, self._alike, purifications=tried, progress=advance)
            scores = [round(float(values.mean()), 5) for values in found.scores.values()]
            return {"scores": scores}

        return self.obtain(request, source, compute)

    def _alike(self, images: Tensor, originals: Tensor, names: Sequence[str] = ()) -> Floats:
        others = names or self.others
        found = [metrics.cosine(self.embed(name, images), self.embed_once(name, originals)) for name in others]
        return np.asarray(np.mean(found, axis=0))

    @property
    def others(self) -> list[str]:
        """The networks that are not authorised."""
        return [name for name in self.settings.networks if name != self.settings.authorised]

    def choice(self) -> Outcome:
        """Candidates for a better filter, on other people, by filters, without learning.

        For every cut and number of steps: how many uploads the service recognises by *another* photograph of the
        person, how many the other networks recognise so, as they are and after each of three blurs, and the mean SSIM
        of each to the photograph that was uploaded; under ``photograph``, the same of photographs. The variant
        ``decoy`` is a candidate too, at the section's cut and at the deepest.
        """
        return self.weighed("choice", self._candidates())

    def weighed(self, name: str, tried: Mapping[str, Setting]) -> Outcome:
        """What is measured of candidates on other people, see :meth:`choice`; ``name`` is that of the result."""
        settings = self.settings
        if not settings.choice_people or not tried:
            return Outcome(None, "not run: this profile chooses nothing")
        source: Source | DatasetError
        try:
            people = two_pictures(settings.choice_people, settings.tuning_seed + 2)
            source = Source(PEOPLE, "LFW, other people", people.fingerprint, len(people) // 2)
        except DatasetError as error:
            source = error
        blurs = [Purification("gaussian", sigma) for sigma in (1.0, 1.5, 2.5)]
        parameters = {
            "authorised": settings.authorised,
            "tried": {
                one: [config.model_dump(mode="json"), cut, list(keep)] for one, (config, cut, keep) in tried.items()
            },
            "people": settings.choice_people,
            "seed": settings.tuning_seed + 2,
            "judged_by": "another photograph",
            "blurs": [one.strength for one in blurs],
        }
        request = self.request("audit", f"{PEOPLE}--{name}", VERSION, parameters, (settings.authorised,))

        def compute() -> dict[str, Any]:
            originals, others = (people.tensor(range(start, len(people), 2)) for start in (0, 1))
            found = {PHOTOGRAPH: self._candidate([originals, *(one(originals) for one in blurs)], originals, others)}
            for candidate, (config, cut, keep) in tried.items():
                made = self.protect(
                    originals, settings.authorised, f"{PEOPLE}, {candidate}", config=config, cut=cut, keep=keep
                )
                for steps, images in zip(keep, made.kept, strict=True):
                    uploads = quantise(images)
                    attacked = [uploads, *(one(uploads) for one in blurs)]
                    found[f"{candidate}, K = {steps}"] = self._candidate(attacked, originals, others)
            return found

        return self.obtain(request, source, compute)

    def _candidates(self) -> dict[str, Setting]:
        """Every candidate for a better filter."""
        settings, size = self.settings, self.settings.pmt.batch_size
        steps = settings.choice_steps
        deep = DeepConfig(batch_size=size, steps=max(steps))
        tried: dict[str, Setting] = {f"deep, {cut}": (deep, cut, steps) for cut in settings.choice_cuts}
        decoy = DecoyConfig(batch_size=size)
        tried[f"decoy, first {settings.cut} units"] = (decoy, settings.cut, (decoy.steps,))
        decoy = late_decoy(size)
        tried["decoy, 7x7"] = (decoy, "7x7", (decoy.steps,))
        return tried

    def _candidate(self, attacked: Sequence[Tensor], originals: Tensor, others: Tensor) -> dict[str, Any]:
        """What is stored about a candidate's uploads, as they are and after each filter."""
        accepted = [self._accepted(one, others) for one in attacked]
        return {
            "service": accepted[0][self.settings.authorised],
            "others": [self._mean_of_others(one) for one in accepted],
            "ssim": [round(float(metrics.ssim(one, originals).mean()), 5) for one in attacked],
        }

    def _accepted(self, images: Tensor, photographs: Tensor) -> dict[str, float]:
        """The share of images that each network recognises by a photograph of the person, at a FAR of 1e-2 on LFW."""
        found = {}
        for name in self.settings.networks:
            # The people are LFW's, so the thresholds are those of the other set.
            thresholds = far_thresholds(name, "lfw")
            if thresholds is not None:
                cosines = metrics.cosine(self.embed(name, images), self.embed_once(name, photographs))
                found[name] = round(float((cosines > thresholds[FAR]).mean()), 5)
        return found

    def _mean_of_others(self, accepted: Mapping[str, float]) -> float:
        others = [share for name, share in accepted.items() if name != self.settings.authorised]
        return round(float(np.mean(others)), 5)

    # -- attacks ----------------------------------------------------------------------------------------------------

    def purified(self, dataset: str, variant: str, filters: Sequence[Purification]) -> Outcome:
        """The upload as it is and after each filter; and, as a control, the photograph after each."""
        parameters = {"filters": [[label(one), one.strength] for one in filters]}

        def compute(photographs: Photographs) -> dict[str, Any]:
            uploads = self.uploads(dataset, variant)
            found = {label(one): self._judged(photographs, one(uploads)) for one in filters}
            for one in filters:
                name = PHOTOGRAPH if one == AS_IT_IS else f"{PHOTOGRAPH}, {label(one)}"
                found[name] = self._judged(photographs, one(photographs.originals))
            return found

        return self._attack(dataset, variant, "purification", parameters, compute)

    def averaged(self, dataset: str, variant: str, best: Purification) -> Outcome:
        """Means of several uploads of one photograph, made with other seeds: as they are, filtered, and their features.

        The mean of the features goes through the RecFace that was trained on uploads, where one is trained. A few pairs
        stand for all; without a learner all pairs are met by :meth:`averaged_of_all`.
        """
        settings = self.settings
        parameters: dict[str, Any] = {"copies": list(settings.copies), "filter": [label(best), best.strength]}
        if settings.pair_people:
            parameters |= self.training()

        def compute(photographs: Photographs) -> dict[str, Any]:
            copies = [self.copy(photographs.originals, dataset, variant, seed) for seed in range(max(settings.copies))]
            inverter = self.inverter(variant) if settings.pair_people else None
            return self._averages(photographs, variant, best, settings.copies, copies, inverter)

        return self._attack(dataset, variant, "averaging", parameters, compute, few=settings.few)

    def averaged_of_all(self, dataset: str, variant: str, best: Purification, *, many: bool = False) -> Outcome:
        """Means of several uploads of each photograph of every pair, as they are and filtered.

        With ``many``, the numbers of copies that the pairs of one person alone meet.
        """
        counts = self.counts_of_all(variant, many=many)
        if not counts:
            return Outcome(None, "not run: this profile averages the uploads of few pairs alone")
        parameters = {"copies": counts, "filter": [label(best), best.strength]}

        def compute(photographs: Photographs) -> dict[str, Any]:
            copies = self.copies_of_all(dataset, variant, many=many)
            return self._averages(photographs, variant, best, counts, copies)

        name = "averaging-of-many" if many else "averaging-of-all"
        # As many pairs of one person as there are.
        few = self.settings.pairs if many else 0
        return self._attack(dataset, variant, name, parameters, compute, few=few, strangers=not many)

    def counts_of_all(self, variant: str, *, many: bool = False) -> list[int]:
        """How many uploads are averaged for all pairs or, with ``many``, for those of one person alone."""
        settings = self.settings
        most = settings.most_of_all.get(variant, max(settings.copies_of_all, default=0))
        return [count for count in settings.copies_of_all if (count > most) == many]

    def copies_of_all(self, dataset: str, variant: str, *, many: bool = False) -> list[Tensor]:
        """Uploads to be averaged for all pairs, or for those of one person alone: each (U, 3, 112, 112).

        Of these, only what all pairs do not meet is made for them.
        """
        everybody, made = self.photographs(dataset), max(self.counts_of_all(variant), default=0)
        if not many:
            return [self.uploads(dataset, variant, seed) for seed in range(made)]
        rows = np.unique(everybody.place[everybody.same])
        return [
            self.uploads(dataset, variant, seed)[rows]
            if seed < made
            else self.copy(everybody.originals[rows], dataset, variant, seed)
            for seed in range(max(self.counts_of_all(variant, many=True)))
        ]

    def _averages(
        self,
        photographs: Photographs,
        variant: str,
        best: Purification,
        counts: Sequence[int],
        copies: Sequence[Tensor],
        inverter: RecFace | None = None,
    ) -> dict[str, Any]:
        shared = self.shared(variant)
        features = [self.features(shared, one) for one in copies] if inverter is not None else []
        found: dict[str, Any] = {}
        for count in counts:
            for name, mean in means(copies, count, [best]).items():
                found[name] = self._judged(photographs, mean)
            if inverter is not None:
                images = self.through(inverter, average_features(torch.stack(features[:count])))
                found[f"{count} copies, {RECFACE}"] = self._judged(photographs, images)
        return found

    def learned(self, dataset: str, variant: str) -> Outcome:
        """What networks make of the uploads that were trained on other people.

        The de-obfuscator sees the image, RecFace the features; each is trained on uploads of this variant. A RecFace
        trained on photographs has never seen an upload; what it makes of a *photograph's* features is the bound below
        which no filter goes that matches them in full. The de-obfuscators of the other variants, as far as they are
        thorough, show what it costs to have trained for something else.
        """
        settings = self.settings
        if not settings.pair_people:
            return Outcome(None, "not run: this profile trains no de-obfuscator")
        others = [name for name in settings.thorough if name != variant]
        parameters = {**self.training(), "others": {name: self.common(name) for name in others}}
        identity = variant in settings.identity_variants
        if identity:
            parameters["identity"] = [settings.identity, settings.identity_training.model_dump(mode="json")]

        def compute(photographs: Photographs) -> dict[str, Any]:
            uploads, originals = self.uploads(dataset, variant), photographs.originals
            images, inverter, clean = self.deobfuscator(variant), self.inverter(variant), self.inverter(variant, True)
            shared = self.shared(variant)
            of_uploads, of_photographs = (self.features(shared, one) for one in (uploads, originals))
            made = {
                DEOBFUSCATOR: self.through(images, uploads),
                RECFACE: self.through(inverter, of_uploads),
                CLEAN_RECFACE: self.through(clean, of_uploads),
                f"{PHOTOGRAPH}, {DEOBFUSCATOR}": self.through(images, originals),
                f"{PHOTOGRAPH}, {RECFACE}": self.through(clean, of_photographs),
            }
            if identity:
                made[IDENTITY_RECFACE] = self.through(self.inverter(variant, identity=True), of_uploads)
            for other in others:
                made[f"{DEOBFUSCATOR} of {other}"] = self.through(self.deobfuscator(other), uploads)
            return {name: self._judged(photographs, one) for name, one in made.items()}

        return self._attack(dataset, variant, "learning", parameters, compute)

    def learned_identity(self, dataset: str, variant: str) -> Outcome:
        """What a RecFace for identity, trained on photographs, makes of uploads and, as a control, of photographs.

        What it makes of photographs' own features shows that the attack works where nothing is protected, and bounds
        what a RecFace trained for identity gets from a filter that matches the features in full.
        """
        settings = self.settings
        if not settings.pair_people:
            return Outcome(None, "not run: this profile trains no de-obfuscator")
        asked = ("pair_people", "held_people", "people_seed")
        parameters = {name: value for name, value in self.training().items() if name in asked}
        parameters["identity"] = [settings.identity, settings.identity_training.model_dump(mode="json")]

        def compute(photographs: Photographs) -> dict[str, Any]:
            inverter, shared = self.inverter(variant, clean=True, identity=True), self.shared(variant)
            seen = {
                CLEAN_IDENTITY_RECFACE: self.uploads(dataset, variant),
                f"{PHOTOGRAPH}, {IDENTITY_RECFACE}": photographs.originals,
            }
            return {
                name: self._judged(photographs, self.through(inverter, self.features(shared, images)))
                for name, images in seen.items()
            }

        return self._attack(dataset, variant, "learning-of-photographs", parameters, compute)

    def other_steps(self, dataset: str, variant: str, best: Purification) -> Outcome:
        """Uploads of other numbers of steps, of those that the learners saw: as they are, filtered and learned from."""
        settings = self.settings
        wanted = self.other_numbers(variant)
        if not settings.pair_people or not wanted:
            return Outcome(None, "not run: this profile trains no de-obfuscator")
        parameters = {**self.training(), "steps": wanted, "filter": [label(best), best.strength]}
        identity = variant in settings.identity_variants
        if identity:
            parameters["identity"] = [settings.identity, settings.identity_training.model_dump(mode="json")]

        def compute(photographs: Photographs) -> dict[str, Any]:
            images, inverter, shared = self.deobfuscator(variant), self.inverter(variant), self.shared(variant)
            found: dict[str, Any] = {}
            for steps, uploads in self.other_uploads(dataset, variant).items():
                attacks = {
                    UPLOAD: uploads,
                    label(best): best(uploads),
                    DEOBFUSCATOR: self.through(images, uploads),
                    RECFACE: self.through(inverter, self.features(shared, uploads)),
                }
                if identity:
                    own = self.inverter(variant, identity=True)
                    attacks[IDENTITY_RECFACE] = self.through(own, self.features(shared, uploads))
                found |= {f"K = {steps}, {name}": self._judged(photographs, one) for name, one in attacks.items()}
            return found

        return self._attack(dataset, variant, "steps", parameters, compute)

    def other_numbers(self, variant: str) -> list[int]:
        """The numbers of steps of the frontier, beside the variant's own: those that the learners see."""
        return [steps for steps in self._trained_steps(variant) if steps != self.config(variant).steps]

    def other_uploads(self, dataset: str, variant: str) -> dict[int, Tensor]:
        """Uploads of those numbers of steps, (U, 3, 112, 112) each."""
        wanted = self.other_numbers(variant)
        longest = self.config(variant).model_copy(update={"steps": max(wanted)})
        kept = self._protected(self.photographs(dataset).originals, dataset, variant, longest, wanted).kept
        return {steps: quantise(made) for steps, made in zip(wanted, kept, strict=True)}

    def inverted(self, dataset: str, variant: str) -> Outcome:
        """White-box inversion of the features with priors: several starts and smoothness weights, and a network.

        The attempt with the lowest objective counts. As a control the photograph's own features are inverted too. The
        pairs are of one person alone.
        """
        settings = self.settings
        if not settings.inversion_pairs:
            return Outcome(None, "not run: this profile inverts nothing")
        attempts: list[InversionConfig | PriorConfig] = [
            ADAM.model_copy(update={"steps": settings.inversion_steps, "tv_weight": weight, "starts": _STARTS})
            for weight in settings.inversion_tv
        ]
        attempts.append(PriorConfig(steps=settings.prior_steps))
        parameters = {"attempts": [one.model_dump(mode="json") for one in attempts]}

        def compute(photographs: Photographs) -> dict[str, Any]:
            try:
                face = mean_image(first_pictures(settings.pair_people or settings.tuning_people, settings.tuning_seed))
            except DatasetError as error:
                raise AssetError(f"the mean face is that of the people of {PEOPLE}, who are not there") from error
            shared = self.shared(variant)
            uploads = self.copy(photographs.originals, dataset, variant, 0)
            found = {}
            for name, images in ((INVERSION, uploads), (f"{PHOTOGRAPH}, {INVERSION}", photographs.originals)):
                features = self.features(shared, images).to(self.device)
                steps = len(images) * (settings.inversion_steps * len(_STARTS) * len(settings.inversion_tv))
                with progress_bar(f"{dataset}, {variant}, {name}", steps + len(images) * settings.prior_steps) as bar:
                    best = best_of(features, shared, attempts, mean_image=face.to(self.device), progress=bar)
                found[name] = self._judged(photographs, quantise(best.images.cpu()))
            return found

        return self._attack(
            dataset, variant, "inversion", parameters, compute, few=settings.inversion_pairs, strangers=False
        )

    # -- what the learners are --------------------------------------------------------------------------------------

    def training(self) -> dict[str, Any]:
        """What the learners depend on, beside the variant."""
        settings = self.settings
        return {
            "pair_people": settings.pair_people,
            "held_people": settings.held_people,
            "pair_factors": list(settings.pair_factors),
            "pair_seeds": list(settings.pair_seeds),
            "people_seed": settings.tuning_seed,
            "deobfuscator": settings.deobfuscator.model_dump(mode="json"),
        }

    def _trained_steps(self, variant: str) -> list[int]:
        config = self.config(variant)
        return [max(1, round(factor * config.steps)) for factor in self.settings.pair_factors]

    def _learners(self) -> datasets.People:
        settings = self.settings
        try:
            return first_pictures(settings.pair_people + settings.held_people, settings.tuning_seed)
        except DatasetError as error:
            raise AssetError(f"a de-obfuscator is trained on the people of {PEOPLE}, who are not there") from error

    def _folder(self, kind: str, *asked: Any) -> Path:
        weights = zoo.weights_checksum(self.settings.authorised)
        key = json.dumps([*asked, self.training(), weights, torch.__version__], sort_keys=True)
        return cache.folder(kind) / hashlib.sha256(key.encode()).hexdigest()[:24]

    def _pairs(self, variant: str, people: datasets.People) -> tuple[Pairs, Pairs]:
        """Uploads of other people with their photographs, those to train on and those that are held out."""
        settings, config = self.settings, self.config(variant)
        keep = self._trained_steps(variant)
        longest = config.model_copy(update={"steps": max(keep)})
        with progress_bar(f"{variant}, uploads to learn from", len(people)) as advance:
            pairs = make_pairs(
                people, [self.shared(variant)], [longest], seeds=settings.pair_seeds, keep=keep,
                chunk=config.batch_size, progress=advance,
            )  # fmt: skip
        held = pairs.rows >= len(people) - settings.held_people
        return pairs.subset(torch.nonzero(~held)[:, 0]), pairs.subset(torch.nonzero(held)[:, 0])

    def deobfuscator(self, variant: str, *, train: bool = True) -> Deobfuscator:
        """The de-obfuscator of a variant's uploads, from the cache or trained now (which can be interrupted).

        Raises:
            AssetError: the photographs to train on are not there, or it is not trained and shall not be.
        """
        people = self._learners()
        folder = self._folder("deobfuscator", self.common(variant), people.fingerprint)
        try:
            return load_deobfuscator(folder, self.device)
        except ResultError as error:
            if not train:
                raise AssetError(f"no de-obfuscator is trained for {variant}") from error
        training, held = self._pairs(variant, people)
        with progress_bar(f"{variant}, {DEOBFUSCATOR}", self.settings.deobfuscator.steps) as advance:
            return train_deobfuscator(
                training.protected, training.originals, self.settings.deobfuscator,
                validation=(held.protected, held.originals), device=self.device, folder=folder, progress=advance,
            ).to(self.device)  # fmt: skip

    def inverter(self, variant: str, clean: bool = False, *, identity: bool = False) -> RecFace:
        """RecFace from the features of a variant's uploads, or of the photographs themselves, to photographs.

        Args:
            variant: which.
            clean: learn from photographs, not from uploads.
            identity: have the attacker's own network recognise the person in what is made.

        Raises:
            AssetError: the photographs to train on are not there.
        """
        settings, people = self.settings, self._learners()
        config: DeobfuscatorConfig = settings.identity_training if identity else settings.deobfuscator
        asked: list[Any] = [[settings.authorised, self.cut(variant)] if clean else self.common(variant)]
        if identity:
            asked.append([settings.identity, zoo.weights_checksum(settings.identity), config.model_dump(mode="json")])
        folder = self._folder("inverter", *asked, people.fingerprint)
        try:
            return load_protected_recface(folder, self.device)
        except ResultError:
            pass
        if clean:
            photographs = read_eight_bit(people, np.arange(len(people), dtype=np.int64))
            held = len(people) - settings.held_people
            training, validation = ((part, part) for part in (photographs[:held], photographs[held:]))
        else:
            training, validation = ((part.protected, part.originals) for part in self._pairs(variant, people))
        with progress_bar(f"{variant}, {RECFACE}", config.steps) as advance:
            return train_protected_recface(
                self.shared(variant), *training, config, identity=self.network(settings.identity) if identity else None,
                validation=validation, folder=folder, progress=advance,
            )  # fmt: skip

    def features(self, shared: ShallowModel, images: Tensor) -> Tensor:
        """Shallow features (N, C, h, w) of images, on the CPU."""
        with torch.no_grad():
            return torch.cat([shared.feature(images[part].to(self.device)).cpu() for part in batches(len(images), 16)])

    def through(self, model: nn.Module, given: Tensor) -> Tensor:
        """What a learner makes of uploads or features, as 8-bit images hold it."""
        with torch.no_grad():
            parts = [model(given[chunk].to(self.device)).cpu() for chunk in batches(len(given), 16)]
        return quantise(torch.cat(parts))

    def portraits(self, people: int, tuned: Mapping[str, Outcome]) -> list[Portrait]:
        """Sample photographs, one a person, their uploads of each variant, and what the attackers make of those.

        The cosines are means over the other networks whose weights are here; ``skipped`` says which are not.
        """
        others = self.usable(self.others)
        shown = {photo.persons: photo for photo in reversed(datasets.sample_photos()) if photo.display}
        photos = list(reversed(shown.values()))[:people]
        originals = to_tensor([photo.crops()[0].image for photo in photos])
        made = {PHOTOGRAPH: originals}
        count = min(STRIP_COPIES, max(self.settings.copies))
        for variant, tuning in tuned.items():
            copies = [self.copy(originals, "sample photographs", variant, seed, shown=True) for seed in range(count)]
            filtering = chosen_filters(tuning, self.settings)[-1]
            made[variant] = copies[0]
            made[f"{variant}, {label(filtering)}"] = filtering(copies[0])
            made[f"{variant}, {count} copies"] = average_images(torch.stack(copies))
            try:
                learned = self.deobfuscator(variant, train=False)
            except AssetError:
                continue
            made[f"{variant}, {DEOBFUSCATOR}"] = self.through(learned, copies[0])
        below = {}
        for name, images in made.items():
            alike, ssim = self._alike(images, originals, others), metrics.ssim(images, originals)
            below[name] = [f"SSIM {a:.2f}, cosine {b:.2f}" for a, b in zip(ssim, alike, strict=True)]
        pictures = {name: to_uint8(images) for name, images in made.items()}
        return [
            Portrait(
                photo.title,
                {name: images[index] for name, images in pictures.items()},
                {name: words[index] for name, words in below.items()},
            )
            for index, photo in enumerate(photos)
        ]

    def _attack(
        self,
        dataset: str,
        variant: str,
        name: str,
        parameters: Mapping[str, Any],
        compute: Callable[[Photographs], dict[str, Any]],
        *,
        few: int = 0,
        strangers: bool = True,
    ) -> Outcome:
        """The result of an attack, with what all of them need: who is whom, and thresholds of another data set.

        ``few`` pairs, if not 0, stand for all; without ``strangers`` they are of one person each.
        """
        authorised = self.settings.authorised
        parameters = {**self.common(variant), **parameters, "thresholds_of": threshold_set(dataset)}
        if few:
            parameters["few"] = few
        if not strangers:
            parameters["strangers"] = False
        file = f"{dataset}--{variant.replace(' ', '-')}--{name}"
        request = self.request("audit", file, VERSION, parameters, (authorised,))

        def whole() -> dict[str, Any]:
            photographs = self.photographs(dataset)
            if few:
                photographs = some(photographs, few, strangers=strangers)
            return {
                "same": photographs.same.astype(int).tolist(),
                "photograph": photographs.place.tolist(),
                "thresholds": {network: far_thresholds(network, dataset) for network in self.settings.networks},
                "attacks": compute(photographs),
            }

        return self.obtain(request, self.source(dataset), whole)

    def _judged(self, photographs: Photographs, images: Tensor) -> dict[str, Any]:
        """What is stored about attacked uploads (U, 3, 112, 112): each pair's cosines, each image's SSIM and LPIPS."""
        opinions = self.opinions(photographs, images)
        distances = metrics.lpips(images.to(self.device), photographs.originals.to(self.device), "vgg")
        return {"networks": opinions["networks"], "ssim": opinions["ssim"], "lpips": rounded(distances)}


def not_yet(outcome: Outcome) -> Outcome:
    """An attack that was not run on a set that the audit has is not computed yet, wherever the page is made."""
    if outcome.result is None and outcome.note == "not run: data not present":
        return Outcome(None, "not run: not computed yet, and PMT_DATA is not set here")
    return outcome


def two_pictures(count: int, seed: int) -> datasets.People:
    """Two pictures each, one after the other, of ``count`` people of LFW who are in no pair, drawn with a seed.

    Raises:
        DatasetError: the data are not there.
    """
    people = datasets.load_people(PEOPLE, identities=PEOPLE_LIST)
    _, first, pictures = np.unique(people.identities, return_index=True, return_counts=True)
    several = first[pictures > 1]
    chosen = np.sort(np.random.default_rng(seed).choice(several, min(count, len(several)), replace=False))
    rows = []
    for row in chosen:
        mine = [place for place, who in enumerate(people.identities) if who == people.identities[row]]
        rows += mine[:2]
    return people.subset(np.array(rows))


def some(photographs: Photographs, pairs: int, *, strangers: bool = True) -> Photographs:
    """The first pairs of one person and as many of two people, ``pairs`` in all or as many as there are.

    Without ``strangers``, the first pairs of one person alone.
    """
    kinds = (photographs.same, ~photographs.same) if strangers else (photographs.same,)
    rows = np.sort(np.concatenate([np.flatnonzero(kind)[: pairs // len(kinds)] for kind in kinds]))
    kept, place = np.unique(photographs.place[rows], return_inverse=True)
    return Photographs(photographs.originals[kept], place, photographs.others[rows], photographs.same[rows])


def best_strengths(tuning: results.Result) -> list[tuple[Purification, float]]:
    """Each filter at its best strength, with its score; ascending, the upload as it is among them."""
    best: dict[str, tuple[Purification, float]] = {}
    for one, score in zip(candidates(), tuning.values["scores"], strict=True):
        if label(one) not in best or score > best[label(one)][1]:
            best[label(one)] = (one, score)
    return sorted(best.values(), key=lambda pair: pair[1])


def chosen_filters(tuning: Outcome, settings: AuditSettings) -> list[Purification]:
    """The upload as it is, then each filter at its best strength, the best of all last.

    Without a tuning, the filters at the strengths of the settings, the last of these last.
    """
    if tuning.result is None:
        return [AS_IT_IS, *(Purification(name, strength) for name, strength in settings.strengths.items())]
    return [AS_IT_IS, *(one for one, _ in best_strengths(tuning.result) if one != AS_IT_IS)]
