"""Section 6.5, defence against attribute estimation (Table 8, Fig. 7): what an upload tells about the person."""

from __future__ import annotations

import importlib.metadata
import itertools
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from pmtlib import attribute_zoo, datasets, metrics, results
from pmtlib.attacks.attributes import (
    DEEPFACE,
    AttributeEstimates,
    chance_agreement,
    deepface_available,
    deepface_estimate,
    estimate,
    label_agreement,
    own_detector_finds,
)
from pmtlib.attacks.purify import blur_and_stretch
from pmtlib.attacks.reconstruction import RecFaceConfig, load_recface
from pmtlib.errors import AssetError, DatasetError
from pmtlib.experiments.claims import HOLDS, IN_PART, NOT, UNJUDGED, Claim
from pmtlib.experiments.common import (
    TITLES,
    Bench,
    Outcome,
    SectionSettings,
    Source,
    paper_table,
    section_settings,
    trained_recface,
)
from pmtlib.images import UInt8Image, add_noise, batches, quantise, to_tensor, to_uint8
from pmtlib.reproduction import difference

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

ORIGINAL, NOISY, WEAKER, PMT, NOISY_BLURRED, BLURRED = "original", "noisy", "weaker", "pmt", "noisy_blurred", "blurred"
OTHERS = "others"
"""Clean photographs of two different people: what is alike although nothing about the person is known."""

UPLOADS = (NOISY, WEAKER, PMT, NOISY_BLURRED, BLURRED)
REBUILT, REBUILT_NOISY, REBUILT_PMT = "rebuilt", "rebuilt_noisy", "rebuilt_pmt"
FACES_OF_FEATURES = (REBUILT, REBUILT_NOISY, REBUILT_PMT)
"""What a trained RecFace makes of the features of photographs, of noisy photographs and of uploads."""
ATTRIBUTES = ("emotion", "race", "gender", "age")
"""In the order of the paper's Table 8."""


class AttributesSettings(SectionSettings):
    """Parameters of Section 6.5 (Table 8).

    Attributes:
        authorised: network for which the images are protected; the paper does not say which it was.
        attribute_networks: networks of :mod:`pmtlib.attribute_zoo` that read the attributes.
        noise: standard deviation of the paper's comparison x + delta, in units of images in [0, 1].
        weaker_noise: the same, were the paper's amplitude meant for images in [-1, 1].
        noise_seed: of both.
        blur_sigma: of the blur of the stronger attacker, pixels.
        others_seed: of the draw of another person for each image.
        deepface_detectors: detectors with which DeepFace is run where it is present.
    """

    section: ClassVar[str] = "attributes"

    authorised: str = "mobilefacenet"
    attribute_networks: tuple[str, ...] = ("faceres", "gear", "fer-big-xception")
    noise: float = Field(0.3, ge=0)
    weaker_noise: float = Field(0.15, ge=0)
    noise_seed: int = 0
    blur_sigma: float = Field(1.5, ge=0)
    others_seed: int = 0
    deepface_detectors: tuple[str, ...] = ("skip", "opencv")


def attributes_settings(profile: str, **overrides: Any) -> AttributesSettings:
    """Settings of a profile, see :func:`pmtlib.experiments.common.section_settings`."""
    return section_settings(AttributesSettings, profile, **overrides)


@dataclass(frozen=True)
class AttributesBlock:
    """Everything of one data set in Table 8.

    Attributes:
        dataset: its name.
        estimates: what the networks of :mod:`pmtlib.attribute_zoo` say.
        deepface: what DeepFace says.
        missing: network to the reason why it has no numbers here.
        features: what the same networks say of faces rebuilt from features, where features are uploaded.
    """

    dataset: str
    estimates: Outcome
    deepface: Outcome = field(default_factory=lambda: Outcome(None))
    missing: Mapping[str, str] = field(default_factory=dict)
    features: Outcome = field(default_factory=lambda: Outcome(None))

    @property
    def parts(self) -> dict[str, Outcome]:
        """The results on images by the names under which they are shown."""
        return {"attributes": self.estimates, "DeepFace": self.deepface}

    @property
    def results(self) -> dict[str, Outcome]:
        """All results by the names under which they are shown."""
        return {**self.parts, "faces of features": self.features}


class Attributes(Bench[AttributesSettings]):
    """Table 8: attributes of the upload against those of the photograph (Section 6.5, Eq. 11).

    Args:
        settings: see :class:`AttributesSettings`.
        device: where to compute.
        recompute: compute also what is stored.
        profile: the profile's name, for the command in manifests.
    """

    VERSION = 1

    def run(self) -> list[AttributesBlock]:
        """All blocks of the table, each stored when done."""
        return [self._block(name) for name in self.settings.datasets]

    def available(self) -> list[str]:
        """The attribute networks whose weights are here or can be fetched; ``skipped`` says that others are not."""
        found = []
        for name in self.settings.attribute_networks:
            if attribute_zoo.available(name):
                found.append(name)
            else:
                self.skipped[name] = "not run: its weights are not present"
        return found

    def uploads(self, originals: Tensor, description: str, *, shown: bool = False) -> dict[str, Tensor]:
        """The photographs (N, 3, 112, 112) and what a receiver of 8-bit images gets in their place, by kind."""
        settings = self.settings
        noisy = quantise(add_noise(originals, settings.noise, settings.noise_seed))
        uploaded = quantise(self.protect(originals, settings.authorised, description, shown=shown).images)
        return {
            ORIGINAL: originals,
            NOISY: noisy,
            WEAKER: quantise(add_noise(originals, settings.weaker_noise, settings.noise_seed)),
            PMT: uploaded,
            NOISY_BLURRED: quantise(blur_and_stretch(noisy, settings.blur_sigma)),
            BLURRED: quantise(blur_and_stretch(uploaded, settings.blur_sigma)),
        }

    def _parameters(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "authorised": settings.authorised,
            "cut": settings.cut,
            "pmt": settings.pmt.model_dump(),
            "noise": settings.noise,
            "weaker_noise": settings.weaker_noise,
            "noise_seed": settings.noise_seed,
            "blur_sigma": settings.blur_sigma,
            "others_seed": settings.others_seed,
        }

    def _asked(self, dataset: str, attribute_networks: Sequence[str]) -> results.Request:
        checksums = {name: attribute_zoo.weights_checksum(name) for name in attribute_networks}
        parameters = {**self._parameters(), "attribute_networks": checksums}
        return self.request("attributes", dataset, self.VERSION, parameters, networks=self._besides())

    def _besides(self) -> list[str]:
        return [self.settings.authorised] if self.settings.authorised not in self.settings.networks else []

    def _block(self, name: str) -> AttributesBlock:
        sample = self.sample(name)
        estimates, missing = self._estimates(name, sample)
        return AttributesBlock(name, estimates, self._deepface(name, sample), missing, self._features(name, sample))

    def _estimates(self, name: str, sample: datasets.PairSet | DatasetError) -> tuple[Outcome, dict[str, str]]:
        networks = self.available()
        request = self._asked(name, self.settings.attribute_networks)
        data = Source.of_pairs(sample)
        missing = {
            network: self.skipped[network] for network in self.settings.attribute_networks if network not in networks
        }

        def compute() -> dict[str, Any]:
            assert isinstance(sample, datasets.PairSet)
            if not networks:
                raise AssetError("no attribute network")
            return self._values(
                sample, lambda images: estimate(images, networks, self.device), f"{sample.title}, attributes"
            )

        if not missing:
            return self.obtain(request, data, compute), {}
        # Some networks are not here. A stored result has their numbers; what can be computed now is not stored.
        fingerprint = None if isinstance(data, DatasetError) else data.fingerprint
        stored, _ = results.find(request, fingerprint) if self.settings.store else (None, "")
        if stored is not None:
            note = f"not recomputed: weights not present ({', '.join(missing)})" if self.recompute else ""
            return Outcome(stored, note), {}
        if isinstance(data, DatasetError):
            return Outcome(None, "not run: data not present"), {}
        if not networks:
            return Outcome(None, "not run: no attribute network's weights are present"), {}
        partial = Attributes(self.settings.model_copy(update={"store": False}), self.device)
        return partial.obtain(self._asked(name, networks), data, compute), missing

    def _deepface(self, name: str, sample: datasets.PairSet | DatasetError) -> Outcome:
        detectors = self.settings.deepface_detectors
        present = all(deepface_available(detector_backend=detector) for detector in detectors)
        parameters = {**self._parameters(), "detectors": list(detectors)}
        request = self.request("attributes", f"{name}--deepface", self.VERSION, parameters, networks=self._besides())

        def compute() -> dict[str, Any]:
            assert isinstance(sample, datasets.PairSet)
            if not present:
                raise AssetError("DeepFace's networks")
            values = self._values(sample, self._ask_deepface, f"{sample.title}, DeepFace")
            return {**values, "deepface": importlib.metadata.version("deepface")}

        outcome = self.obtain(request, Source.of_pairs(sample), compute)
        if outcome.result is None and not present and not isinstance(sample, DatasetError):
            return Outcome(None, "not run: its weights are not present")
        return outcome

    def _features(self, name: str, sample: datasets.PairSet | DatasetError) -> Outcome:
        """Section 6.1: the attacker who gets features rebuilds the face first, with a RecFace trained on photographs.

        Not run without a trained RecFace, or without one of the attribute networks.
        """
        settings, config = self.settings, RecFaceConfig()
        asked = self._asked(name, settings.attribute_networks)
        parameters = {**asked.parameters, "recface": config.model_dump(mode="json")}
        request = self.request("attributes", f"{name}--features", self.VERSION, parameters, networks=self._besides())

        def compute() -> dict[str, Any]:
            assert isinstance(sample, datasets.PairSet)
            if lacking := sorted(set(settings.attribute_networks) - set(self.available())):
                raise AssetError(", ".join(lacking))
            folder, _ = trained_recface(settings.authorised, settings.cut, config)
            recface, shallow = load_recface(folder, self.device), self.shallow(settings.authorised)

            def rebuilt(images: Tensor) -> Tensor:
                with torch.inference_mode():
                    parts = [
                        recface(shallow.feature(images[rows].to(self.device))) for rows in batches(len(images), 32)
                    ]
                return quantise(torch.cat(parts).cpu())

            first = np.unique(sample.pairs[:, 0])
            made = self.uploads(sample.tensor(first), f"{sample.title}, attributes")
            images = {
                ORIGINAL: made[ORIGINAL],
                REBUILT: rebuilt(made[ORIGINAL]),
                REBUILT_NOISY: rebuilt(made[NOISY]),
                REBUILT_PMT: rebuilt(made[PMT]),
            }
            told = {
                kind: estimate(pictures, settings.attribute_networks, self.device) for kind, pictures in images.items()
            }
            return {"recface": folder.name, **self._compared(sample, told)}

        return self.obtain(request, Source.of_pairs(sample), compute)

    def _ask_deepface(self, images: Tensor) -> AttributeEstimates:
        probabilities: dict[str, Mapping[str, Floats]] = {}
        labels: dict[str, Mapping[str, tuple[str, ...]]] = {}
        years: dict[str, Floats] = {}
        for detector in self.settings.deepface_detectors:
            told = deepface_estimate(to_uint8(images), detector)
            name = f"{DEEPFACE}-{detector}"
            probabilities[name], labels[name] = told.probabilities[DEEPFACE], told.labels[DEEPFACE]
            years[name] = told.years[DEEPFACE]
        return AttributeEstimates(probabilities, labels, years)

    def _values(
        self, sample: datasets.PairSet, read: Callable[[Tensor], AttributeEstimates], description: str
    ) -> dict[str, Any]:
        first = np.unique(sample.pairs[:, 0])
        uploads = self.uploads(sample.tensor(first), description)
        told = {kind: read(images) for kind, images in uploads.items()}
        return {
            **self._compared(sample, told),
            "detected": {
                kind: own_detector_finds(to_uint8(images)).astype(int).tolist() for kind, images in uploads.items()
            },
            "clean": self._clean(sample, first, told[ORIGINAL], read),
        }

    def _compared(self, sample: datasets.PairSet, told: Mapping[str, AttributeEstimates]) -> dict[str, Any]:
        """What was read from each kind of image, held against what was read from the photograph."""
        first = np.unique(sample.pairs[:, 0])
        names = [str(index) if sample.identities is None else sample.identities[index] for index in first]
        kinds = [kind for kind in told if kind != ORIGINAL]
        partner = different_people(names, self.settings.others_seed)
        clear = told[ORIGINAL]
        networks: dict[str, Any] = {}
        for network, by_attribute in clear.probabilities.items():
            networks[network] = {}
            for attribute, own in by_attribute.items():
                entry: dict[str, Any] = {"labels": list(clear.labels[network][attribute]), ORIGINAL: _named(own)}
                for kind in kinds:
                    rows = told[kind].probabilities[network][attribute]
                    entry[kind] = {"named": _named(rows), **_compared(rows, own)}
                known = partner >= 0
                entry[OTHERS] = _compared(own[partner[known]], own[known])
                networks[network][attribute] = entry
        years: dict[str, Any] = {}
        for network, own in clear.years.items():
            years[network] = {ORIGINAL: _numbers(own)}
            for kind in kinds:
                years[network][kind] = _numbers(np.abs(told[kind].years[network] - own))
            years[network][OTHERS] = _numbers(np.abs(own[partner[partner >= 0]] - own[partner >= 0]))
        persons = {name: code for code, name in enumerate(dict.fromkeys(names))}
        return {
            "persons": [persons[name] for name in names],
            "others": partner.tolist(),
            "networks": networks,
            "years": years,
        }

    def _clean(
        self,
        sample: datasets.PairSet,
        first: Integers,
        clear: AttributeEstimates,
        read: Callable[[Tensor], AttributeEstimates],
    ) -> dict[str, Any]:
        """Two photographs of a pair, both unprotected: does the network tell anything about a person at all?"""
        left = np.searchsorted(first, sample.pairs[:, 0])
        second, right = np.unique(sample.pairs[:, 1], return_inverse=True)
        other = read(sample.tensor(second))
        return {
            "same": sample.same.astype(int).tolist(),
            "networks": {
                network: {
                    attribute: _compared(other.probabilities[network][attribute][right], own[left])
                    for attribute, own in by_attribute.items()
                }
                for network, by_attribute in clear.probabilities.items()
            },
            "years": {
                network: _numbers(np.abs(other.years[network][right] - own[left]))
                for network, own in clear.years.items()
            },
        }


def different_people(names: Sequence[str], seed: int) -> Integers:
    """For each image another image, of another person: a random cycle through all of them.

    Args:
        names: who each of N images shows.
        seed: of the draw.

    Returns:
        (N,) indices; -1 where no cycle among a thousand gives every image another person, for those that have none.
    """
    draw = np.random.default_rng(seed)
    people = np.array(names)
    best = np.full(len(names), -1, dtype=np.int64)
    for _ in range(1000):
        order = draw.permutation(len(names))
        partner = np.empty(len(names), dtype=np.int64)
        partner[order] = np.roll(order, -1)
        partner[people[partner] == people] = -1
        if (partner >= 0).sum() > (best >= 0).sum():
            best = partner
        if (best >= 0).all():
            break
    return best


def _named(rows: Floats) -> list[int]:
    """Number of the likeliest label of each row, -1 where there is no estimate."""
    return [-1 if np.isnan(row).any() else int(row.argmax()) for row in rows]


def _numbers(values: Floats) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), 5) for value in values]


def _compared(rows: Floats, own: Floats) -> dict[str, Any]:
    """CosSim of Eq. 11 and agreement of the likeliest labels, row by row."""
    told = ~(np.isnan(rows).any(1) | np.isnan(own).any(1))
    cosine = np.full(len(rows), np.nan)
    if told.any():
        cosine[told] = metrics.cossim(rows[told], own[told])
    return {"cosine": _numbers(cosine), "agrees": label_agreement(rows, own).astype(int).tolist()}


# --------------------------------------------------------------------------------------------------------------------
# Tables
# --------------------------------------------------------------------------------------------------------------------

ALL = "all"
"""The data set's name in rows that pool the images of all sets."""


def _stored(blocks: Sequence[AttributesBlock], pooled: bool) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    """Per line of a table: the name of the set, and the values that go into it."""
    found = [
        (block.dataset, outcome.result.values)
        for block in blocks
        for outcome in block.parts.values()
        if outcome.result is not None
    ]
    if not pooled:
        yield from ((dataset, [values]) for dataset, values in found)
    elif found:
        yield ALL, [values for _, values in found]


def _cells(parts: Sequence[Mapping[str, Any]], key: str) -> Iterator[tuple[str, list[tuple[int, Any]]]]:
    """Network to what the parts that know it hold below ``key``, each with the part's number."""
    for network in dict.fromkeys(name for part in parts for name in part[key]):
        yield network, [(number, part[key][network]) for number, part in enumerate(parts) if network in part[key]]


def _persons(parts: Sequence[Mapping[str, Any]], numbers: Sequence[int], kind: str) -> list[tuple[int, int]]:
    """Who each value is about. Values of one person are not independent: intervals draw persons."""
    return [
        (number, person)
        for number in numbers
        for person, other in zip(parts[number]["persons"], parts[number]["others"], strict=True)
        if kind != OTHERS or other >= 0
    ]


def _mean(values: Sequence[float | None], persons: Sequence[tuple[int, int]]) -> tuple[float, float, float]:
    """Mean of the values that there are, and its 95% interval (bootstrap over persons); NaN where there is none."""
    kept = [(value, person) for value, person in zip(values, persons, strict=True) if value is not None]
    if not kept:
        return (float("nan"),) * 3
    numbers = np.array([value for value, _ in kept])
    interval = metrics.bootstrap(numbers, seed=0, groups=[f"{set_}-{person}" for _, (set_, person) in kept])
    return float(numbers.mean()), interval.low, interval.high


def _share(agrees: Sequence[int]) -> tuple[float, float, float]:
    interval = metrics.wilson(sum(agrees), len(agrees))
    return (sum(agrees) / len(agrees) if agrees else float("nan")), interval.low, interval.high


def _one_hot(named: Sequence[int], width: int) -> Floats:
    rows = np.full((len(named), width), np.nan)
    for place, label in enumerate(named):
        if label >= 0:
            rows[place] = np.eye(width)[label]
    return rows


def attribute_table(
    blocks: Sequence[AttributesBlock],
    settings: AttributesSettings,
    *,
    pooled: bool = False,
    kinds: Sequence[str] = UPLOADS,
) -> pd.DataFrame:
    """Table 8's similarities in long form, one line a set, network, attribute and kind of image.

    Args:
        blocks: from :meth:`Attributes.run`.
        settings: for the order of attributes' networks.
        pooled: one line for the images of all sets together instead.
        kinds: of image that are compared with the photograph.

    Returns:
        DataFrame with columns dataset, network, attribute, kind (or ``others``: clean photographs of two different
        people), cossim, low, high (Eq. 11, mean and 95% bootstrap over persons), agreement,
        agreement_low, agreement_high (part of the images with the photograph's label, 95% Wilson), chance (the
        agreement of labels that have nothing to do with each other; NaN for ``others``), others (mean CosSim of
        different people), n.
    """
    columns = [
        "dataset", "network", "attribute", "kind", "cossim", "low", "high", "agreement", "agreement_low",
        "agreement_high", "chance", "others", "n",
    ]  # fmt: skip
    lines = []
    for dataset, parts in _stored(blocks, pooled):
        for network, holders in _cells(parts, "networks"):
            numbers = [number for number, _ in holders]
            for attribute in sorted(holders[0][1], key=ATTRIBUTES.index):
                entries = [entry[attribute] for _, entry in holders]
                apart = _mean(_joined(entries, OTHERS, "cosine"), _persons(parts, numbers, OTHERS))
                width = len(entries[0]["labels"])
                original = _one_hot([label for entry in entries for label in entry[ORIGINAL]], width)
                for kind in (*kinds, OTHERS):
                    agrees = _joined(entries, kind, "agrees")
                    cossim = _mean(_joined(entries, kind, "cosine"), _persons(parts, numbers, kind))
                    chance = float("nan")
                    if kind != OTHERS:
                        chance = chance_agreement(original, _one_hot(_joined(entries, kind, "named"), width))
                    where = (dataset, network, attribute, kind)
                    lines.append((*where, *cossim, *_share(agrees), chance, apart[0], len(agrees)))
    table = pd.DataFrame(lines, columns=columns)
    return _ordered(table, settings)


def _joined(entries: Sequence[Mapping[str, Any]], kind: str, what: str) -> list[Any]:
    return [value for entry in entries for value in entry[kind][what]]


def _ordered(table: pd.DataFrame, settings: AttributesSettings) -> pd.DataFrame:
    """By set as they come, then by attribute, then by network as in the settings."""
    if table.empty:
        return table
    sets = list(dict.fromkeys(table["dataset"]))
    networks = list(dict.fromkeys([*settings.attribute_networks, *table["network"]]))
    rank = [
        (sets.index(line["dataset"]), ATTRIBUTES.index(line["attribute"]), networks.index(line["network"]), place)
        for place, line in enumerate(table.to_dict("records"))
    ]
    return table.iloc[[entry[-1] for entry in sorted(rank)]].reset_index(drop=True)


def age_table(
    blocks: Sequence[AttributesBlock], *, pooled: bool = False, kinds: Sequence[str] = UPLOADS
) -> pd.DataFrame:
    """Absolute differences of ages in years, of the networks that tell one.

    Returns:
        DataFrame with columns dataset, network, kind (as in :func:`attribute_table`), years, low, high (mean and 95%
        bootstrap over persons), others (mean difference of different people), n (images with an estimate).
    """
    lines = []
    for dataset, parts in _stored(blocks, pooled):
        for network, holders in _cells(parts, "years"):
            numbers = [number for number, _ in holders]
            means = {}
            for kind in (*kinds, OTHERS):
                values: list[float | None] = [value for _, entry in holders for value in entry[kind]]
                means[kind] = (*_mean(values, _persons(parts, numbers, kind)), sum(v is not None for v in values))
            for kind, (mean, low, high, count) in means.items():
                lines.append((dataset, network, kind, mean, low, high, means[OTHERS][0], count))
    return pd.DataFrame(lines, columns=["dataset", "network", "kind", "years", "low", "high", "others", "n"])


def detection_table(blocks: Sequence[AttributesBlock], *, pooled: bool = False) -> pd.DataFrame:
    """In how many images our detector still finds a face.

    Returns:
        DataFrame with columns dataset, kind (``original`` or of :data:`UPLOADS`), found, n, rate, low, high (95%
        Wilson).
    """
    lines = []
    for dataset, parts in _stored([AttributesBlock(b.dataset, b.estimates) for b in blocks], pooled):
        for kind in (ORIGINAL, *UPLOADS):
            found = [value for part in parts for value in part["detected"][kind]]
            lines.append((dataset, kind, sum(found), len(found), *_share(found)))
    return pd.DataFrame(lines, columns=["dataset", "kind", "found", "n", "rate", "low", "high"])


def clean_table(
    blocks: Sequence[AttributesBlock], settings: AttributesSettings, *, pooled: bool = False
) -> pd.DataFrame:
    """What the networks know of unprotected photographs: two of the same person against two of different people.

    A network that agrees with itself no more often on one person than on two knows nothing that could be hidden.
    Emotions are of the moment: two photographs of a person need not share them.

    Returns:
        DataFrame with columns dataset, network, attribute, measure (``agreement`` or ``years``), same, same_low,
        same_high, n_same, different, different_low, different_high, n_different, and tells (whether the intervals lie
        apart in the direction expected).
    """
    columns = [
        "dataset", "network", "attribute", "measure", "same", "same_low", "same_high", "n_same", "different",
        "different_low", "different_high", "n_different", "tells",
    ]  # fmt: skip
    lines: list[tuple[Any, ...]] = []
    for dataset, parts in _stored(blocks, pooled):
        clean = [part["clean"] for part in parts]
        for network, holders in _cells(clean, "networks"):
            same = [flag for number, _ in holders for flag in clean[number]["same"]]
            for attribute in holders[0][1]:
                agrees = [value for _, entry in holders for value in entry[attribute]["agrees"]]
                own, other = ([a for a, flag in zip(agrees, same, strict=True) if flag == wanted] for wanted in (1, 0))
                one, two = _share(own), _share(other)
                where = (dataset, network, attribute, "agreement")
                lines.append((*where, *one, len(own), *two, len(other), one[1] > two[2]))
        for network, holders in _cells(clean, "years"):
            same = [flag for number, _ in holders for flag in clean[number]["same"]]
            gaps: list[float | None] = [gap for _, entry in holders for gap in entry]
            means = []  # of the pairs of one person, then of two
            for wanted in (1, 0):
                chosen = [gap for gap, flag in zip(gaps, same, strict=True) if flag == wanted]
                means.append((*_mean(chosen, [(0, place) for place in range(len(chosen))]), len(chosen)))
            one_, two_ = means
            lines.append((dataset, network, "age", "years", *one_, *two_, one_[2] < two_[1]))
    return _ordered(pd.DataFrame(lines, columns=columns), settings)


def comparison(
    blocks: Sequence[AttributesBlock], settings: AttributesSettings, *, pooled: bool = False, against: str = NOISY
) -> pd.DataFrame:
    """The paper's claim, image by image: how much more PMT(x) confuses a network than x + delta.

    Args:
        blocks: from :meth:`Attributes.run`.
        settings: for the order of attributes' networks.
        pooled: one line for the images of all sets together instead.
        against: the noise, ``noisy`` or ``weaker``.

    Returns:
        DataFrame with columns dataset, network, attribute (age by networks that tell years: their difference; age
        groups and all others: CosSim), measure (``cossim`` or ``years``), more (mean of CosSim of x + delta minus that
        of PMT(x), or of PMT(x)'s years minus those of x + delta: positive where the claim is right), low, high (95%
        bootstrap over persons, paired), n, verdict (``holds`` where the interval lies above zero, ``does not hold``
        where it lies below, ``no difference seen`` where it has zero in it).
    """
    columns = ["dataset", "network", "attribute", "measure", "more", "low", "high", "n", "verdict"]
    lines: list[tuple[Any, ...]] = []

    def add(
        where: tuple[str, ...], noisy: list[Any], pmt: list[Any], sign: int, persons: list[tuple[int, int]]
    ) -> None:
        gaps = [None if a is None or b is None else sign * (a - b) for a, b in zip(noisy, pmt, strict=True)]
        more, low, high = _mean(gaps, persons)
        verdict = HOLDS if low > 0 else NOT if high < 0 else "no difference seen"
        lines.append((*where, more, low, high, sum(gap is not None for gap in gaps), verdict))

    for dataset, parts in _stored(blocks, pooled):
        telling = {network for part in parts for network in part["years"]}
        for network, holders in _cells(parts, "networks"):
            persons = _persons(parts, [number for number, _ in holders], PMT)
            for attribute in holders[0][1]:
                if attribute == "age" and network in telling:
                    continue
                entries = [entry[attribute] for _, entry in holders]
                noisy, pmt = (_joined(entries, kind, "cosine") for kind in (against, PMT))
                add((dataset, network, attribute, "cossim"), noisy, pmt, 1, persons)
        for network, holders in _cells(parts, "years"):
            persons = _persons(parts, [number for number, _ in holders], PMT)
            noisy, pmt = ([value for _, entry in holders for value in entry[kind]] for kind in (against, PMT))
            add((dataset, network, "age", "years"), noisy, pmt, -1, persons)
    return _ordered(pd.DataFrame(lines, columns=columns), settings)


UNTOLD = "cannot be judged, since no network here tells it on clean photographs"
MOMENT = "cannot be judged, since no control can show that a network tells it: emotions are of the moment"


def verdicts(compared: pd.DataFrame) -> dict[str, str]:
    """Attribute to whether the claim holds: in every comparison; in part: in as many as are the other way; or not."""
    found = {}
    for attribute in ATTRIBUTES:
        single = compared[compared["attribute"] == attribute]["verdict"]
        if len(single):
            right = int((single == HOLDS).sum())
            opposite = int((single == NOT).sum())
            found[attribute] = HOLDS if right == len(single) else IN_PART if right and right >= opposite else NOT
    return found


def paper_means() -> dict[str, dict[str, float]]:
    """The paper's Table 8, mean over its data sets: kind to attribute to CosSim, years for age."""
    table = paper_table("table8")
    return {
        kind: {
            column.lower(): float(np.mean([rows[label][place] for rows in table["datasets"].values()]))
            for place, column in enumerate(table["columns"])
        }
        for kind, label in ((PMT, "PMT(x)"), (NOISY, "x + delta"))
    }


def summary(blocks: Sequence[AttributesBlock], settings: AttributesSettings) -> dict[str, float]:
    """Headline numbers over the images of all sets.

    ``NETWORK_ATTRIBUTE_KIND_cossim``, ``..._agreement`` and ``..._chance`` (percent), ``NETWORK_age_KIND_years``,
    ``detected_KIND`` (percent), ``images``; hyphens of networks' names become underscores. ``compared`` counts the
    comparisons of :func:`comparison` by networks that tell the attribute on photographs, ``compared_more`` and
    ``compared_less`` those in which PMT(x) confuses more or less than x + delta; ``weaker_more`` and ``weaker_less``
    the same of the weaker noise.
    """
    numbers: dict[str, float] = {}
    restored = attribute_table(of_features(blocks), settings, pooled=True, kinds=FACES_OF_FEATURES)
    restored = restored[restored["kind"] != OTHERS]
    lines = [table.to_dict("records") for table in (attribute_table(blocks, settings, pooled=True), restored)]
    for line in itertools.chain(*lines):
        label = f"{line['network']}_{line['attribute']}_{line['kind']}"
        numbers[f"{label}_cossim"] = line["cossim"]
        numbers[f"{label}_agreement"] = 100 * line["agreement"]
        if line["kind"] != OTHERS:
            numbers[f"{label}_chance"] = 100 * line["chance"]
    for line in age_table(blocks, pooled=True).to_dict("records"):
        numbers[f"{line['network']}_age_{line['kind']}_years"] = line["years"]
    for line in detection_table(blocks, pooled=True).to_dict("records"):
        numbers[f"detected_{line['kind']}"] = 100 * line["rate"]
        numbers["images"] = line["n"]
    able = _able(clean_table(blocks, settings, pooled=True))
    for against, name in ((NOISY, "compared"), (WEAKER, "weaker")):
        known = _told_of_photographs(comparison(blocks, settings, against=against), able)
        if len(known):
            numbers["compared"] = len(known)
            numbers[f"{name}_more"], numbers[f"{name}_less"], _ = _counted(known)
    return {name.replace("-", "_"): round(float(value), 3) for name, value in numbers.items()}


def not_run(blocks: Sequence[AttributesBlock]) -> list[str]:
    """One line for each part that has no result, or whose result could not be computed again."""
    lines = []
    for block in blocks:
        title = TITLES.get(block.dataset, block.dataset)
        if block.estimates.note and block.estimates.note == block.deepface.note:
            lines.append(f"{title}: {block.estimates.note}")
            continue
        lines += [f"{title}, {network}: {reason}" for network, reason in block.missing.items()]
        lines += [f"{title}, {name}: {outcome.note}" for name, outcome in block.results.items() if outcome.note]
    return lines


def reading(blocks: Sequence[AttributesBlock], settings: AttributesSettings) -> str:
    """What the paper claims, what was measured and whether it holds, in words, decided by the numbers (Markdown)."""
    compared = comparison(blocks, settings)
    if compared.empty:
        return "Nothing was measured."
    table = attribute_table(blocks, settings, pooled=True)
    ages = age_table(blocks, pooled=True)
    paper = paper_means()
    right, opposite, _ = _counted(compared)
    clean = clean_table(blocks, settings, pooled=True)
    able = _able(clean)
    known = _told_of_photographs(compared, able)
    by_attribute = {
        one: MOMENT if one == "emotion" else UNTOLD for one in ATTRIBUTES if one in set(compared["attribute"])
    }
    by_attribute |= verdicts(known)
    weaker = comparison(blocks, settings, against=WEAKER)
    weaker_right, weaker_opposite, weaker_overall = _counted(_told_of_photographs(weaker, able))
    everything = _counted(weaker)
    lines = [
        f"PMT(x) confuses more than x + δ (σ = {settings.noise}) in {right} of {len(compared)} comparisons (a network "
        f"and attribute on a set, 95% interval above zero), less in {opposite}, and no difference is seen in "
        f"{len(compared) - right - opposite}. {_among(known)}Were the amplitude meant for images in [−1, 1] (σ = "
        f"{settings.weaker_noise} here), the claim {weaker_overall}: by networks that tell the attribute on "
        f"photographs more in {weaker_right}, less in {weaker_opposite} (by all, of {len(weaker)}, in {everything[0]} "
        f"and {everything[1]}). All numbers below are of the images of all sets together.",
        "",
    ]
    for attribute, verdict in by_attribute.items():
        measured = []
        for network in dict.fromkeys(table[table["attribute"] == attribute]["network"]):
            part = table[(table["attribute"] == attribute) & (table["network"] == network)].set_index("kind")
            years = ages[ages["network"] == network].set_index("kind") if attribute == "age" else ages[:0]
            measured.append(_words(network, part, years))
        unit = "years apart" if attribute == "age" else "CosSim"
        measured_paper = f"{paper[PMT][attribute]:.2f} against {paper[NOISY][attribute]:.2f}"
        lines.append(
            f"- **{attribute.capitalize()}: {verdict}.** {' '.join(measured)} The paper, with DeepFace, on average: "
            f"{measured_paper} ({unit})."
        )
    # What a network does not know of photographs it cannot tell of uploads; agreement by chance is no survival.
    judged = [line for line in table.to_dict("records") if (line["network"], line["attribute"]) in able]
    left = [line for line in judged if line["kind"] == BLURRED]
    told = [line for line in left if line["agreement_low"] > line["chance"]]
    raw = [line for line in judged if line["kind"] == PMT and line["agreement_low"] > line["chance"]]
    lines.append(
        f"- **Does an attribute survive?** The label is told better than by chance (Wilson interval above it) in "
        f"{len(raw)} of {len(left)} network–attribute cells that can be judged, from the upload as it "
        f"is{_list(raw)}, and in {len(told)} after a blur of the upload (σ = {settings.blur_sigma} px){_list(told)}."
    )
    found = detection_table(blocks, pooled=True).set_index("kind")
    if len(found):
        rates = ", ".join(
            f"{100 * line['rate']:.0f}% [{100 * line['low']:.0f}, {100 * line['high']:.0f}] of {KIND_TITLES[str(kind)]}"
            for kind, line in found.iterrows()
        )
        lines.append(f"- **A face is found** by our detector in {rates} (n = {int(found['n'].iloc[0])}).")
    weak = clean[~clean["tells"].astype(bool) & (clean["attribute"] != "emotion")]
    if len(weak):
        named = ", ".join(
            f"{line['attribute']} ({line['network']}, {line['measure']})" for line in weak.to_dict("records")
        )
        lines.append(
            f"- **What cannot be judged here.** On clean photographs {named} is not told apart better for one person "
            "than for two: the network knows too little on these crops for a filter to hide it."
        )
    lines.append(
        "- *What counts as what.* More or less confusion: the 95% interval of the difference over the same images "
        "lies on that side of 0. The first claim holds where PMT(x) confuses more in every comparison by a network "
        "that tells the attribute on photographs; in part where in one at least, and in as many as it confuses "
        "less. The second holds where nothing is told from faces rebuilt from PMT's features of what is told from "
        "those of unprotected ones; in part where some of it is not; told is an agreement whose interval is above "
        "chance."
    )
    return "\n".join(lines)


def claims(blocks: Sequence[AttributesBlock], settings: AttributesSettings) -> list[Claim]:
    """What the paper says of Table 8, and what follows for whoever rebuilds faces, against all sets together."""
    compared = comparison(blocks, settings)
    if compared.empty:
        return []
    paper, able = paper_means(), _able(clean_table(blocks, settings, pooled=True))
    known = _told_of_photographs(compared, able)
    right, opposite, verdict = _counted(known)
    table = attribute_table(blocks, settings, pooled=True)
    labels = [
        f"{line['attribute']} {100 * line['agreement']:.0f}% [{100 * line['agreement_low']:.0f}, "
        f"{100 * line['agreement_high']:.0f}] by {line['network']} (by chance {100 * line['chance']:.0f}%)"
        for line in table[table["kind"] == PMT].to_dict("records")
        if (line["network"], line["attribute"]) in able
    ]
    everything = _counted(compared)
    weaker = comparison(blocks, settings, against=WEAKER)
    weaker_right, weaker_opposite, _ = _counted(_told_of_photographs(weaker, able))
    weaker_everything = _counted(weaker)
    unknown = [one for one in ATTRIBUTES if one not in {attribute for _, attribute in able}]
    unjudged = f"; {' and '.join(unknown)} cannot be judged, since no network here tells them on photographs"
    means = [np.mean([paper[kind][one] for one in ATTRIBUTES if one != "age"]) for kind in (PMT, NOISY)]
    found = [
        Claim(
            f"what networks say of PMT(x) suffers “from enormous confusion” compared with x + δ (σ = {settings.noise})",
            f"CosSim {means[0]:.2f} against {means[1]:.2f} on average, ages {paper[PMT]['age']:.1f} against "
            f"{paper[NOISY]['age']:.1f} years apart",
            f"of {len(known)} comparisons by networks that tell the attribute on photographs, PMT(x) confuses more in "
            f"{right} and less in {opposite}, of all {len(compared)} in {everything[0]} and {everything[1]}; with half "
            f"the noise, were the amplitude meant for images in [−1, 1], in {weaker_right} and {weaker_opposite}, of "
            f"all in {weaker_everything[0]} and {weaker_everything[1]}; the label of PMT(x) is that of the photograph "
            f"for {', '.join(labels)}" + (unjudged if unknown else ""),
            verdict,
        )
    ]
    restored = _restored(blocks, settings)
    if restored is not None and restored.cells:
        told, cells, agreement, count, holds = restored
        rates = ", ".join(f"{100 * value:.0f}% {KIND_TITLES[kind]}" for kind, value in agreement.items())
        found.append(
            Claim(
                "who gets features “cannot disclose the privacy of the original data by conducting a face "
                "reconstruction attack or attribute estimation attack” (Section 1; read as: not by the first and then "
                "the second either)",
                "",
                f"of faces rebuilt from PMT's features {len(told[REBUILT_PMT])} of {cells} such cells (a network and "
                f"attribute) tell the label of the photograph better than by chance, of those from unprotected ones "
                f"{len(told[REBUILT])} (n = {count} images; mean agreement {rates})",
                holds,
            )
        )
    return found


KIND_TITLES = {
    ORIGINAL: "photographs",
    NOISY: "x + δ",
    WEAKER: "x + δ/2",
    PMT: "PMT(x)",
    NOISY_BLURRED: "x + δ, blurred",
    BLURRED: "PMT(x), blurred",
    OTHERS: "different people",
    REBUILT: "from features of x",
    REBUILT_NOISY: "from features of x + δ",
    REBUILT_PMT: "from features of PMT(x)",
}


def of_features(blocks: Sequence[AttributesBlock]) -> list[AttributesBlock]:
    """The same blocks with the faces rebuilt from features in the place of images, for the tables."""
    return [AttributesBlock(block.dataset, block.features) for block in blocks]


class _Restored(NamedTuple):
    """What is read from faces rebuilt from features.

    Attributes:
        told: kind of face to the (attribute, network) cells that tell the photograph's label better than by chance.
        cells: how many cells can be judged; where there is none, the rest is empty.
        agreement: kind of face to the mean agreement over the cells.
        images: how many.
        verdict: whether the attributes are kept from whoever rebuilds the face.
    """

    told: Mapping[str, Any]
    cells: int
    agreement: Mapping[str, float]
    images: int
    verdict: str


def _able(clean: pd.DataFrame) -> set[tuple[str, str]]:
    """The (network, attribute) pairs that tell something of a person, by :func:`clean_table`."""
    return {(line["network"], line["attribute"]) for line in clean.to_dict("records") if line["tells"]}


def _restored(blocks: Sequence[AttributesBlock], settings: AttributesSettings) -> _Restored | None:
    """What is read from faces rebuilt from features; None where nothing was measured."""
    table = attribute_table(of_features(blocks), settings, pooled=True, kinds=FACES_OF_FEATURES)
    if not len(table):
        return None
    values = ["agreement_low", "chance"]
    able = _able(clean_table(blocks, settings, pooled=True))
    table = table[[pair in able for pair in zip(table["network"], table["attribute"], strict=True)]]
    if not len(table):
        return _Restored({}, 0, {}, 0, UNJUDGED)
    cells = table.pivot_table(values, index=["attribute", "network"], columns="kind", sort=False)
    lower, chance = cells["agreement_low"], cells["chance"]
    told = {kind: lower.index[lower[kind] > chance[kind]] for kind in FACES_OF_FEATURES}
    count = int(table[table["kind"] == REBUILT]["n"].max())
    agreement = {kind: table[table["kind"] == kind]["agreement"].mean() for kind in (*FACES_OF_FEATURES, OTHERS)}
    kept = set(told[REBUILT])
    holds = (
        UNJUDGED if not kept
        else NOT if set(told[REBUILT_PMT]) >= kept
        else IN_PART if set(told[REBUILT_PMT]) & kept
        else HOLDS
    )  # fmt: skip
    return _Restored(told, len(cells), agreement, count, holds)


def features_reading(blocks: Sequence[AttributesBlock], settings: AttributesSettings) -> str:
    """What is read from faces rebuilt from features, in words (Markdown)."""
    restored = _restored(blocks, settings)
    if restored is None:
        return "Nothing was measured."
    told, cells, agreement, count, _ = restored
    if not cells:
        return "No network here tells an attribute on clean photographs, so nothing can be judged of rebuilt faces."

    def named(kind: str) -> str:
        which = ", ".join(f"{attribute} by {network}" for attribute, network in told[kind])
        several = f" ({which})" if which and len(told[kind]) < cells else ""
        return f"{len(told[kind])} of {cells}{several}"

    rates = ", ".join(f"{100 * value:.0f}% {KIND_TITLES[kind]}" for kind, value in agreement.items())
    return (
        "The paper has the attacker who gets features rebuild the image first (Section 6.1) and gives no numbers. The "
        f"label of the photograph is told better than by chance (95% Wilson interval above it, n = {count} images) "
        f"from the faces of unprotected features in {named(REBUILT)} network–attribute cells "
        "that can be judged, from those of features "
        f"of x + δ in {named(REBUILT_NOISY)}, from those of features of PMT(x) in {named(REBUILT_PMT)}. Mean agreement "
        f"over the cells: {rates}. This RecFace was trained on photographs."
    )


def _words(network: str, part: pd.DataFrame, years: pd.DataFrame) -> str:
    def between(line: Any, value: str, low: str, high: str, scale: float, digits: int) -> str:
        return f"{scale * line[value]:.{digits}f} [{scale * line[low]:.{digits}f}, {scale * line[high]:.{digits}f}]"

    pmt, noisy = part.loc[PMT], part.loc[NOISY]
    text = (
        f"{network} (n = {pmt['n']}): CosSim {between(pmt, 'cossim', 'low', 'high', 1, 2)} for PMT(x), "
        f"{between(noisy, 'cossim', 'low', 'high', 1, 2)} for x + δ, {part.loc[WEAKER]['cossim']:.2f} for x + δ/2, "
        f"{part.loc[BLURRED]['cossim']:.2f} for the blurred "
        f"upload, {pmt['others']:.2f} for different people"
    )
    if len(years):
        told = {kind: between(years.loc[kind], "years", "low", "high", 1, 1) for kind in (PMT, NOISY)}
        text += (
            f"; {told[PMT]} years apart for PMT(x), {told[NOISY]} for x + δ, {years.loc[WEAKER]['years']:.1f} for "
            f"x + δ/2, {years.loc[BLURRED]['years']:.1f} for the blurred upload, "
            f"{years.loc[OTHERS]['years']:.1f} for different people"
        )
    else:
        agreement = ("agreement", "agreement_low", "agreement_high")
        text += (
            f"; the same label in {between(pmt, *agreement, 100, 0)}% for PMT(x) (by chance {100 * pmt['chance']:.0f}%)"
            f", {between(noisy, *agreement, 100, 0)}% for x + δ ({100 * noisy['chance']:.0f}%), "
            f"{between(part.loc[BLURRED], *agreement, 100, 0)}% for the blurred upload "
            f"({100 * part.loc[BLURRED]['chance']:.0f}%)"
        )
    return text + "."


def _told_of_photographs(compared: pd.DataFrame, able: Container[tuple[str, str]]) -> pd.DataFrame:
    """The comparisons by networks that tell the attribute of a person on photographs."""
    pairs = zip(compared["network"], compared["attribute"], strict=True)
    return compared[np.array([pair in able for pair in pairs], dtype=bool)]


def _counted(compared: pd.DataFrame) -> tuple[int, int, str]:
    """In how many comparisons the claim is right, in how many the opposite is, and the verdict."""
    right, opposite = (int((compared["verdict"] == verdict).sum()) for verdict in (HOLDS, NOT))
    if not len(compared):
        return 0, 0, UNJUDGED
    return right, opposite, HOLDS if right == len(compared) else IN_PART if right and right >= opposite else NOT


def _among(known: pd.DataFrame) -> str:
    right, opposite, _ = _counted(known)
    if not len(known):
        return ""
    return (
        f"Among the {len(known)} by networks that tell the attribute of a person on clean photographs, it is more in "
        f"{right} and less in {opposite}. "
    )


def _list(lines: Sequence[Mapping[Any, Any]]) -> str:
    cells = [f"{line['attribute']} by {line['network']}" for line in lines]
    return f" ({', '.join(cells)})" if cells else ""


def largest_difference(blocks: Sequence[AttributesBlock]) -> float:
    """After a recomputation: the largest difference of any cosine or age from what was stored before."""
    outcomes = [outcome for block in blocks for outcome in block.results.values()]
    return max(
        (difference(o.result.values, o.previous.values) for o in outcomes if o.result and o.previous), default=0.0
    )


# --------------------------------------------------------------------------------------------------------------------
# Fig. 7
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Portrait:
    """A sample photograph that may be shown, what becomes of it, and what the networks say of each.

    Attributes:
        title: of the photograph.
        images: kind of image to the image, (112, 112, 3), 8 bits.
        words: kind of image to a line a network.
    """

    title: str
    images: Mapping[str, UInt8Image]
    words: Mapping[str, tuple[str, ...]]


def portraits(attributes: Attributes, count: int) -> list[Portrait]:
    """Sample photographs that may be shown, one a person, and their attributes, computed here and now."""
    shown = {photo.persons: photo for photo in reversed(datasets.sample_photos()) if photo.display}
    photos = list(reversed(shown.values()))[:count]
    uploads = attributes.uploads(
        to_tensor([photo.crops()[0].image for photo in photos]), "Sample photographs", shown=True
    )
    networks = attributes.available()
    told = {kind: estimate(images, networks, attributes.device) for kind, images in uploads.items()}
    pictures = {kind: to_uint8(images) for kind, images in uploads.items()}
    return [
        Portrait(
            photo.title,
            {kind: images[index] for kind, images in pictures.items()},
            {kind: tuple(_said(estimates, name, index) for name in networks) for kind, estimates in told.items()},
        )
        for index, photo in enumerate(photos)
    ]


def _said(estimates: AttributeEstimates, network: str, index: int) -> str:
    words = []
    for attribute, rows in estimates.probabilities[network].items():
        if attribute == "age" and network in estimates.years:
            words.append(f"{estimates.years[network][index]:.0f} years")
        else:
            best = int(rows[index].argmax())
            words.append(f"{estimates.labels[network][attribute][best]} {100 * rows[index][best]:.0f}%")
    return f"{network}: {', '.join(words)}"
