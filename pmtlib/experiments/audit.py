"""The audit: what the filter leaks to someone who knows it. Not in the paper, whose attackers do not.

Every attacker holds the public shallow model, the filter and photographs of *other* people, on whom whatever there is
to choose or to train is chosen and trained. What they make of an upload is judged by its likeness to the photograph
and by the networks that must not recognise it, at thresholds found on another data set.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from torch import Tensor

from pmtlib import datasets, metrics, paths, results, zoo
from pmtlib.attacks.adaptive.average import average_images
from pmtlib.attacks.adaptive.deobfuscate import (
    Deobfuscator,
    DeobfuscatorConfig,
    load_deobfuscator,
    make_pairs,
    train_deobfuscator,
)
from pmtlib.attacks.adaptive.purify import Purification, candidates, tune
from pmtlib.errors import AssetError, DatasetError, ResultError
from pmtlib.experiments.common import (
    PEOPLE,
    TITLES,
    Floats,
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
from pmtlib.transform import PMTConfig
from pmtlib.variants import PLAIN, find

VERSION = 1
PHOTOGRAPH, UPLOAD = "photograph", "upload"
CONTRAST = "contrast"
AS_IT_IS = Purification("none", 0.0, contrast=False)
FAR = "far_1e2"
"""Thresholds at a false acceptance rate of 1e-2 (:func:`pmtlib.experiments.trade_off.far_thresholds`)."""


class AuditSettings(VariantSettings):
    """Parameters of the audit.

    Attributes:
        variants: ways to protect, by name; each with the fields in which it differs from its defaults (``pmt``: from
            the section's transform).
        tuning_people: people of LFW who are in no pair, one photograph each, on whom filters are tuned.
        tuning_seed: of the draw of them.
        strengths: of the filters, where they are not to be tuned but were found elsewhere, on other people. The last is
            the best; filters that are not named are left out.
        copies: how many uploads of one photograph are averaged.
        pair_people: people of LFW who are in no pair, one photograph each, on whose uploads the de-obfuscator is
            trained; 0 leaves it out.
        held_people: yet other people, on whom its training is followed.
        pair_factors: numbers of steps of those uploads, in those of the variant.
        pair_seeds: of those uploads.
        deobfuscator: its training.
    """

    section: ClassVar[str] = "audit"

    variants: Mapping[str, Mapping[str, Any]] = {PLAIN: {}}
    tuning_people: int = Field(48, ge=1)
    tuning_seed: int = 0
    strengths: Mapping[str, float] = {}
    copies: tuple[int, ...] = (2, 4, 8)
    pair_people: int = Field(480, ge=0)
    held_people: int = Field(32, ge=1)
    pair_factors: tuple[float, ...] = (0.6, 1.0, 2.0)
    pair_seeds: tuple[int, ...] = (1, 2, 3, 4)
    deobfuscator: DeobfuscatorConfig = DeobfuscatorConfig()


def audit_settings(profile: str, **overrides: Any) -> AuditSettings:
    """Settings of a profile, see :func:`pmtlib.experiments.common.section_settings`."""
    return section_settings(AuditSettings, profile, **overrides)


@dataclass(frozen=True)
class AuditBlock:
    """Every attack on one variant's uploads of one data set.

    Attributes:
        dataset: its name.
        variant: how the uploads were made.
        attacks: what was done, and its result: ``values["attacks"]`` has one entry a row of the audit's table.
    """

    dataset: str
    variant: str
    attacks: Mapping[str, Outcome]

    def rows(self) -> list[tuple[str, str, Outcome]]:
        """Set, row and outcome, for the provenance table."""
        return [(self.dataset, f"{name} ({self.variant})", outcome) for name, outcome in self.attacks.items()]


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


class Audit(Variants[AuditSettings]):
    """Attacks on uploads by someone who knows the filter.

    Args:
        settings: see :class:`AuditSettings`.
        device: where to compute.
        recompute: compute also what is stored.
        profile: the profile's name, for the command in manifests.
    """

    def run(self) -> tuple[dict[str, Outcome], list[AuditBlock]]:
        """How the filters were tuned for each variant, and all blocks.

        Each result is stored when done, so an interrupted run goes on where it was.
        """
        tuned = {variant: self.tuning(variant) for variant in self.settings.variants}
        return tuned, [
            self.block(dataset, variant, tuned[variant])
            for dataset in self.settings.datasets
            for variant in self.settings.variants
        ]

    def block(self, dataset: str, variant: str, tuning: Outcome) -> AuditBlock:
        """One variant's uploads of one data set under every attack."""
        filters = chosen_filters(tuning, self.settings)
        attacks = {
            "purification": self.purified(dataset, variant, filters),
            "averaging": self.averaged(dataset, variant, filters[-1]),
            "learning": self.learned(dataset, variant),
        }
        return AuditBlock(dataset, variant, attacks)

    def config(self, variant: str) -> PMTConfig:
        """A variant's configuration.

        Raises:
            ConfigError: there is no such variant.
            ValueError: a value is not allowed.
        """
        changes = dict(self.settings.variants[variant])
        if variant == PLAIN:
            return self.configured(changes)
        return find(variant).config.model_validate({"batch_size": self.settings.pmt.batch_size, **changes})

    def _common(self, variant: str) -> dict[str, Any]:
        settings = self.settings
        return {
            "authorised": settings.authorised,
            "cut": settings.cut,
            "pmt": self.config(variant).model_dump(mode="json"),
        }

    def uploads(self, dataset: str, variant: str, seed: int = 0) -> Tensor:
        """What is uploaded of the photographs of a set, (U, 3, 112, 112), as 8-bit images hold it.

        Args:
            dataset: which set.
            variant: how.
            seed: added to the configuration's, for another copy of each.
        """
        return self._copy(self.photographs(dataset).originals, dataset, variant, seed)

    def _copy(self, originals: Tensor, name: str, variant: str, seed: int) -> Tensor:
        config = self.config(variant)
        config = config.model_copy(update={"seed": config.seed + seed})
        made = self.protect(originals, self.settings.authorised, f"{name}, {variant}", config=config)
        return quantise(made.images)

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
            **self._common(variant),
            "people": settings.tuning_people,
            "seed": settings.tuning_seed,
            "tried": [[label(one), one.strength] for one in tried],
        }
        request = self.request("audit", f"{PEOPLE}--{variant}--tuning", VERSION, parameters, (settings.authorised,))

        def compute() -> dict[str, Any]:
            originals = people.tensor(range(len(people)))
            made = self.protect(originals, settings.authorised, f"{PEOPLE}, {variant}", config=self.config(variant))
            with progress_bar("filters", len(tried)) as advance:
                found = tune(quantise(made.images), originals, self._alike, purifications=tried, progress=advance)
            scores = [round(float(values.mean()), 5) for values in found.scores.values()]
            return {"scores": scores}

        return self.obtain(request, source, compute)

    def _alike(self, images: Tensor, originals: Tensor) -> Floats:
        others = [name for name in self.settings.networks if name != self.settings.authorised]
        found = [metrics.cosine(self.embed(name, images), self.embed_once(name, originals)) for name in others]
        return np.asarray(np.mean(found, axis=0))

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
        """Means of several uploads of one photograph, made with other seeds: as they are, and after the best filter."""
        settings = self.settings
        parameters = {"copies": list(settings.copies), "filter": [label(best), best.strength]}

        def compute(photographs: Photographs) -> dict[str, Any]:
            copies = [self.uploads(dataset, variant, seed) for seed in range(max(settings.copies))]
            found: dict[str, Any] = {}
            for count in settings.copies:
                mean = average_images(torch.stack(copies[:count]))
                found[f"{count} copies"] = self._judged(photographs, mean)
                found[f"{count} copies, {label(best)}"] = self._judged(photographs, best(mean))
            return found

        return self._attack(dataset, variant, "averaging", parameters, compute)

    def learned(self, dataset: str, variant: str) -> Outcome:
        """What a network makes of the uploads that was trained on those of other people."""
        settings = self.settings
        if not settings.pair_people:
            return Outcome(None, "not run: this profile trains no de-obfuscator")

        def compute(photographs: Photographs) -> dict[str, Any]:
            model = self.deobfuscator(variant)
            images = self._deobfuscated(model, self.uploads(dataset, variant))
            control = self._deobfuscated(model, photographs.originals)
            return {
                "de-obfuscator": self._judged(photographs, images),
                f"{PHOTOGRAPH}, de-obfuscator": self._judged(photographs, control),
            }

        return self._attack(dataset, variant, "learning", self._training(), compute)

    def _training(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "pair_people": settings.pair_people,
            "held_people": settings.held_people,
            "pair_factors": list(settings.pair_factors),
            "pair_seeds": list(settings.pair_seeds),
            "people_seed": settings.tuning_seed,
            "deobfuscator": settings.deobfuscator.model_dump(mode="json"),
        }

    def deobfuscator(self, variant: str, *, train: bool = True) -> Deobfuscator:
        """The de-obfuscator of a variant's uploads, from the cache or trained now (which can be interrupted).

        Raises:
            AssetError: the photographs to train on are not there, or it is not trained and shall not be.
        """
        settings, config = self.settings, self.config(variant)
        try:
            people = first_pictures(settings.pair_people + settings.held_people, settings.tuning_seed)
        except DatasetError as error:
            raise AssetError(f"a de-obfuscator is trained on the people of {PEOPLE}, who are not there") from error
        weights = zoo.weights_checksum(settings.authorised)
        asked = [self._common(variant), self._training(), people.fingerprint, weights, torch.__version__]
        key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:24]
        folder = paths.cache_dir() / "deobfuscator" / key
        if not train:
            try:
                return load_deobfuscator(folder, self.device)
            except ResultError as error:
                raise AssetError(f"no de-obfuscator is trained for {variant}") from error
        keep = [max(1, round(factor * config.steps)) for factor in settings.pair_factors]
        longest = config.model_copy(update={"steps": max(keep)})
        with progress_bar(f"{variant}, uploads to learn from", len(people)) as advance:
            pairs = make_pairs(
                people, [self.shallow(settings.authorised)], [longest], seeds=settings.pair_seeds, keep=keep,
                chunk=config.batch_size, progress=advance,
            )  # fmt: skip
        held = pairs.rows >= len(people) - settings.held_people
        with progress_bar(f"{variant}, de-obfuscator", settings.deobfuscator.steps) as advance:
            return train_deobfuscator(
                pairs.protected[~held], pairs.originals[~held], settings.deobfuscator,
                validation=(pairs.protected[held], pairs.originals[held]),
                device=self.device, folder=folder, progress=advance,
            ).to(self.device)  # fmt: skip

    def _deobfuscated(self, model: Deobfuscator, images: Tensor) -> Tensor:
        with torch.no_grad():
            parts = [model(images[chunk].to(self.device)).cpu() for chunk in batches(len(images), 16)]
        return quantise(torch.cat(parts))

    def portraits(self, people: int, tuned: Mapping[str, Outcome]) -> list[Portrait]:
        """Sample photographs, one a person, their uploads of each variant, and what the attackers make of those."""
        shown = {photo.persons: photo for photo in reversed(datasets.sample_photos()) if photo.display}
        photos = list(reversed(shown.values()))[:people]
        originals = to_tensor([photo.crops()[0].image for photo in photos])
        made = {PHOTOGRAPH: originals}
        count = max(self.settings.copies)
        for variant, tuning in tuned.items():
            copies = [self._copy(originals, "sample photographs", variant, seed) for seed in range(count)]
            filtering = chosen_filters(tuning, self.settings)[-1]
            made[variant] = copies[0]
            made[f"{variant}, {label(filtering)}"] = filtering(copies[0])
            made[f"{variant}, {count} copies"] = average_images(torch.stack(copies))
            try:
                learned = self.deobfuscator(variant, train=False)
            except AssetError:
                continue
            made[f"{variant}, de-obfuscator"] = self._deobfuscated(learned, copies[0])
        below = {}
        for name, images in made.items():
            alike, ssim = self._alike(images, originals), metrics.ssim(images, originals)
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
    ) -> Outcome:
        """The result of an attack, with what all of them need: who is whom, and thresholds of another data set."""
        authorised = self.settings.authorised
        parameters = {**self._common(variant), **parameters, "thresholds_of": threshold_set(dataset)}
        request = self.request("audit", f"{dataset}--{variant}--{name}", VERSION, parameters, (authorised,))

        def whole() -> dict[str, Any]:
            photographs = self.photographs(dataset)
            return {
                "same": photographs.same.astype(int).tolist(),
                "photograph": photographs.place.tolist(),
                "thresholds": {network: far_thresholds(network, dataset) for network in self.settings.networks},
                "attacks": compute(photographs),
            }

        return self.obtain(request, self._source(dataset), whole)

    def _judged(self, photographs: Photographs, images: Tensor) -> dict[str, Any]:
        """What is stored about attacked uploads (U, 3, 112, 112): each pair's cosines, each image's SSIM and LPIPS."""
        opinions = self.opinions(photographs, images)
        distances = metrics.lpips(images.to(self.device), photographs.originals.to(self.device), "vgg")
        return {"networks": opinions["networks"], "ssim": opinions["ssim"], "lpips": rounded(distances)}


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


# -- numbers -----------------------------------------------------------------------------------------------------


def table(blocks: Sequence[AuditBlock], settings: AuditSettings) -> pd.DataFrame:
    """One line for each row of each block.

    Returns:
        DataFrame with columns dataset, variant, kind (of attack), attack, n (pairs of one person), images;
        service: TAR of the authorised network; others: mean TAR of the other networks, with its 95% bootstrap interval
        over pairs (``others_low``, ``others_high``); highest and network: the other network with the highest TAR;
        own: share of photographs that the other networks recognise in what was made of their own upload, mean;
        false: share of pairs of two people that they accept, mean; ssim, ssim_low, ssim_high, ssim_worst (the highest
        of any image), lpips and lpips_worst (the lowest). TAR is at a FAR of 1e-2 and compares what the attacker made
        with the person's *other* photograph.
    """
    lines = []
    for block in blocks:
        for kind, outcome in block.attacks.items():
            if outcome.result is None:
                continue
            values = outcome.result.values
            same = np.array(values["same"], dtype=bool)
            _, first = np.unique(values["photograph"], return_index=True)
            for attack, entry in values["attacks"].items():
                line: dict[str, Any] = {"dataset": block.dataset, "variant": block.variant, "kind": kind}
                line |= {"attack": attack, "n": int(same.sum()), "images": len(first)}
                lines.append(line | _rates(entry, values["thresholds"], same, first, settings) | _likeness(entry))
    return pd.DataFrame(lines)


def _rates(
    entry: Mapping[str, Any],
    thresholds: Mapping[str, Mapping[str, float] | None],
    same: Any,
    first: Any,
    settings: AuditSettings,
) -> dict[str, Any]:
    accepted, own = {}, {}
    for network, scores in entry["networks"].items():
        found = thresholds[network]
        if found is not None:
            accepted[network] = np.array(scores["other"]) > found[FAR]
            own[network] = np.array(scores["own"])[first] > found[FAR]
    line: dict[str, Any] = {}
    if settings.authorised in accepted:
        line["service"] = float(accepted[settings.authorised][same].mean())
    others = [network for network in accepted if network != settings.authorised]
    if others:
        share = np.mean([accepted[network][same] for network in others], axis=0)
        interval = metrics.bootstrap(share, seed=0)
        line |= {"others": float(share.mean()), "others_low": interval.low, "others_high": interval.high}
        rates = {network: float(accepted[network][same].mean()) for network in others}
        highest = max(rates, key=lambda network: rates[network])
        line |= {"highest": rates[highest], "network": highest}
        line["own"] = float(np.mean([own[network] for network in others]))
        line["false"] = float(np.mean([accepted[network][~same] for network in others]))
    return line


def _likeness(entry: Mapping[str, Any]) -> dict[str, float]:
    ssim, lpips = np.array(entry["ssim"]), np.array(entry["lpips"])
    interval = metrics.bootstrap(ssim, seed=0)
    return {
        "ssim": float(ssim.mean()), "ssim_low": interval.low, "ssim_high": interval.high,
        "ssim_worst": float(ssim.max()), "lpips": float(lpips.mean()), "lpips_worst": float(lpips.min()),
    }  # fmt: skip


def attacker(frame: pd.DataFrame) -> pd.DataFrame:
    """The lines of :func:`table` without the controls on photographs."""
    if not len(frame):
        return frame
    return frame[~frame["attack"].str.startswith(PHOTOGRAPH)]


def best(frame: pd.DataFrame, measure: str = "others") -> pd.DataFrame:
    """The strongest attack on each variant's uploads of each set, by the mean of a measure.

    It is chosen by looking at the result, in the attacker's favour: whoever relies on a filter should expect the worst.
    """
    tried = attacker(frame)
    if not len(tried):
        return tried
    return tried.loc[tried.groupby(["dataset", "variant"], sort=False)[measure].idxmax()].reset_index(drop=True)


def summary(frame: pd.DataFrame) -> dict[str, float]:
    """Headline numbers for each variant, means over the data sets; rates in percent."""
    found: dict[str, float] = {}
    if not len(frame):
        return found
    strongest, closest = best(frame), best(frame, "ssim")
    for variant, part in frame.groupby("variant", sort=False):
        key = str(variant).replace("-", "_")
        plain, clean = part[part["attack"] == UPLOAD], part[part["attack"] == PHOTOGRAPH]
        for name, rows, column in (
            ("service", plain, "service"),
            ("upload_others", plain, "others"),
            ("clean_service", clean, "service"),
            ("clean_others", clean, "others"),
            ("best_others", strongest[strongest["variant"] == variant], "others"),
        ):
            found[f"{key}_{name}"] = round(100 * float(rows[column].mean()), 3)
        found[f"{key}_upload_ssim"] = round(float(plain["ssim"].mean()), 4)
        found[f"{key}_best_ssim"] = round(float(closest[closest["variant"] == variant]["ssim"].mean()), 4)
    return found


_STANDS, _PARTLY = 0.25, 0.5
"""Shares of what the other networks make of photographs up to which a filter stands, or stands in part."""


def reading(frame: pd.DataFrame) -> str:
    """What the attacks came to, and whether the filter stands, in words (Markdown)."""
    if not len(frame):
        return "Nothing was measured."
    lines = [
        "**The claim under audit:** an upload hides the face from everybody but the authorised service. The paper "
        "tested it against parties that know nothing of the filter."
    ]
    for (dataset, variant), part in frame.groupby(["dataset", "variant"], sort=False):
        by_name = {str(line["attack"]): line for line in part.to_dict("records")}
        upload, clean = by_name[UPLOAD], by_name[PHOTOGRAPH]
        worst, closest = (best(part, measure).iloc[0].to_dict() for measure in ("others", "ssim"))
        kinds = (best(rows).iloc[0].to_dict() for _, rows in attacker(part).groupby("kind", sort=False))
        share = worst["others"] / clean["others"] if clean["others"] else float("nan")
        verdict = "stands" if share <= _STANDS else "stands in part" if share <= _PARTLY else "does not stand"
        lines.append(
            f"**{TITLES.get(str(dataset), dataset)}, {variant}** (TAR at FAR 10⁻², n = {int(upload['n'])} pairs of one "
            f"person, {int(upload['images'])} photographs): the service recognises {100 * upload['service']:.0f}% of "
            f"the uploads (of the photographs {100 * clean['service']:.0f}%). The other networks recognise "
            f"{_rate(upload)} of the uploads as they are, {_rate(clean)} of the photographs, and of what the strongest "
            f"attack of each kind made of the uploads: {', '.join(f'{_named(line)} {_rate(line)}' for line in kinds)}. "
            f"The likeness is highest after {_named(closest)}: mean SSIM {closest['ssim']:.2f} "
            f"[{closest['ssim_low']:.2f}, {closest['ssim_high']:.2f}], for the worst-hidden face "
            f"{closest['ssim_worst']:.2f}. **Verdict: the filter {verdict}** against {_named(worst)}, which gives the "
            f"other networks {100 * share:.0f}% of what photographs give them."
        )
    return "\n\n".join(lines)


def _named(line: Mapping[Any, Any]) -> str:
    return "no attack at all" if line["attack"] == UPLOAD else str(line["attack"])


def _rate(line: Mapping[Any, Any]) -> str:
    return f"{100 * line['others']:.0f}% [{100 * line['others_low']:.0f}, {100 * line['others_high']:.0f}]"
