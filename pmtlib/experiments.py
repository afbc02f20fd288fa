"""The experiments behind the book: one function a table or figure, each result stored under its key.

A profile (``notebooks/profiles/*.yaml``) gives every parameter. ``paper`` is the full measurement on research data
and is stored; ``quick`` runs the same code on the sample photographs and ``smoke`` on a few steps, for tests.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from pmtlib import datasets, metrics, paths, protocols, provenance, results, zoo
from pmtlib.attacks.purify import blur_and_stretch
from pmtlib.errors import AssetError, ConfigError, DatasetError, ResultError
from pmtlib.images import UInt8Image, batches, quantise, to_tensor, to_uint8
from pmtlib.networks.base import FaceNetwork
from pmtlib.progress import progress_bar
from pmtlib.shallow import ShallowModel
from pmtlib.transform import PMTConfig, Protected, protect

Floats = NDArray[np.float64]


TITLES = {"lfw": "LFW", "agedb_30": "AgeDB-30", "calfw": "CALFW", "cfp_ff": "CFP-FF", "samples": "Sample photographs"}


class AbuseSettings(BaseModel):
    """Parameters of Section 6.4, defence against data abuse (Table 7).

    Attributes:
        datasets: verification sets, one block of the table each.
        networks: authorised and evaluated networks, in order.
        pairs: pairs a set; the paper's cells are multiples of 1/104.
        pair_seed: of the draw of those pairs.
        calibration_pairs: pairs that share no identity with the evaluated ones, for each network's threshold.
        cut: units of the shallow model.
        kappa: the paper's threshold of Eq. 10.
        kappa_excluded: networks for which that threshold says nothing.
        blur_sigma: of the filter in the last block, pixels.
        step_people: people in no pair of LFW on whom the number of steps was chosen.
        step_choices: the numbers of steps that were tried.
        pmt: the transform.
        store: whether results go to ``results/``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    datasets: tuple[str, ...]
    networks: tuple[str, ...]
    pairs: int = Field(104, ge=2)
    pair_seed: int = 0
    calibration_pairs: int = Field(2000, ge=2)
    cut: int = 5
    kappa: float = 0.2
    kappa_excluded: tuple[str, ...] = ("dlib-resnet29",)
    blur_sigma: float = 1.5
    step_people: int = Field(16, ge=1)
    step_choices: tuple[int, ...] = (25, 50, 100)
    pmt: PMTConfig = PMTConfig()
    store: bool = False


def profile_values(section: str, profile: str) -> dict[str, Any]:
    """The raw parameters of a section in ``notebooks/profiles/PROFILE.yaml``.

    The environment variable ``PMT_PROFILE`` takes the place of ``profile``: nbval cannot pass parameters.

    Raises:
        ConfigError: no such profile or section.
    """
    profile = os.environ.get("PMT_PROFILE") or profile
    folder = paths.project_dir() / "notebooks" / "profiles"
    file = folder / f"{profile}.yaml"
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in folder.glob("*.yaml"))) or f"none in {folder}"
        raise ConfigError(f"no profile {profile!r}; there are: {known}")
    values = yaml.safe_load(file.read_text("utf-8")).get(section)
    if not isinstance(values, dict):
        raise ConfigError(f"{file.name} has no section {section!r}")
    return values


def abuse_settings(profile: str, **overrides: Any) -> AbuseSettings:
    """Settings of a profile; an override of None leaves the profile's value, ``pmt`` entries are merged.

    What differs from the profile is a trial: its results are not stored, so that it cannot replace the profile's.
    """
    values = profile_values("abuse", profile)
    changed = {name: value for name, value in overrides.items() if value is not None and value != {}}
    pmt = {**values.get("pmt", {}), **changed.pop("pmt", {})}
    trial = {**values, **changed, "pmt": pmt}
    values = {**trial, "store": bool(values.get("store")) and trial == {**values, "pmt": values.get("pmt", {})}}
    try:
        return AbuseSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"profile {profile!r}, abuse: {where}: {first['msg']}") from error


@dataclass(frozen=True)
class Outcome:
    """A result, or the reason why there is none.

    Attributes:
        result: None where the experiment was not run.
        note: why it was not run, or what a reader must know about the result; empty otherwise.
        previous: what was stored before a recomputation.
    """

    result: results.Result | None
    note: str = ""
    previous: results.Result | None = None


@dataclass(frozen=True)
class Source:
    """The data of a result: name, title, fingerprint of the images and pairs used, and how many were used."""

    name: str
    title: str
    fingerprint: str
    n: int

    @classmethod
    def of_pairs(cls, pairs: datasets.PairSet | DatasetError) -> Source | DatasetError:
        """That of a set of pairs; the error where there is none."""
        if isinstance(pairs, DatasetError):
            return pairs
        return cls(pairs.name, pairs.title, pairs.fingerprint, len(pairs.same))


def obtain(
    request: results.Request,
    data: Source | DatasetError,
    compute: Callable[[], Mapping[str, Any]],
    *,
    store: bool,
    recompute: bool,
    device: torch.device,
    command: str,
) -> Outcome:
    """The stored result of a request, or a fresh one where it is missing or asked for.

    Without the data, or without a network, a stored result is shown and nothing is computed.
    """
    fingerprint = None if isinstance(data, DatasetError) else data.fingerprint
    stored, reason = results.find(request, fingerprint) if store else (None, "")
    if stored is not None and not recompute:
        return Outcome(stored)

    def without(lack: str) -> Outcome:
        if stored is not None:
            return Outcome(stored, f"not recomputed: {lack}")
        return Outcome(None, f"not run: {lack}" + (f" ({reason})" if reason not in ("", "not computed yet") else ""))

    if isinstance(data, DatasetError):
        return without("data not present")
    begun = time.monotonic()
    try:
        values = compute()
    except AssetError as error:
        return without(f"weights not present ({error})")
    manifest = provenance.manifest(list(request.weights), device, seconds=time.monotonic() - begun, command=command)
    fresh = results.Result(request, asdict(data), values, manifest)
    if store:
        results.write(fresh)
    return Outcome(fresh, previous=stored)


def load_set(name: str) -> datasets.PairSet | DatasetError:
    """A verification set, or the error that says why it is not there (the samples may lack a client to fetch)."""
    try:
        return datasets.load(name)
    except DatasetError as error:
        return error
    except AssetError as error:
        return DatasetError(str(error))


@dataclass(frozen=True)
class AbuseBlock:
    """Everything of one data set in Table 7.

    Attributes:
        dataset: its name.
        clean: thresholds and scores on unprotected images.
        rows: authorised network to its outcome.
    """

    dataset: str
    clean: Outcome
    rows: Mapping[str, Outcome]


class Abuse:
    """Table 7: authorised against unauthorised networks on protected images (Section 6.4, Eq. 10).

    Args:
        settings: see :class:`AbuseSettings`.
        device: where to compute.
        recompute: compute also what is stored.
        profile: the profile's name, for the command in manifests.
    """

    VERSION = 1

    def __init__(
        self, settings: AbuseSettings, device: torch.device, *, recompute: bool = False, profile: str = "paper"
    ) -> None:
        self.settings = settings
        self.device = device
        self.recompute = recompute
        self.command = f"papermill notebooks/abuse.ipynb OUT.ipynb -p profile {profile} -p recompute True"
        self.skipped: dict[str, str] = {}
        self._networks: dict[str, FaceNetwork] = {}

    def run(self) -> list[AbuseBlock]:
        """All blocks of the table. Each row is stored when done, so an interrupted run goes on where it was."""
        return [self._block(name) for name in self.settings.datasets]

    def _block(self, name: str) -> AbuseBlock:
        whole = load_set(name)
        sample: datasets.PairSet | DatasetError = whole
        if isinstance(whole, datasets.PairSet):
            sample = whole.sample(min(self.settings.pairs, _balanced(whole)), self.settings.pair_seed)
        clean = self._clean(name, whole, sample)
        rows = {authorised: self._row(name, sample, authorised) for authorised in self.settings.networks}
        return AbuseBlock(name, clean, rows)

    def _request(self, name: str, parameters: Mapping[str, Any]) -> results.Request:
        common = {"pairs": self.settings.pairs, "pair_seed": self.settings.pair_seed}
        weights = {network: zoo.weights_checksum(network) for network in self.settings.networks}
        return results.Request("abuse", name, self.VERSION, {**common, **parameters}, weights)

    def _clean(
        self, name: str, whole: datasets.PairSet | DatasetError, sample: datasets.PairSet | DatasetError
    ) -> Outcome:
        request = self._request(f"{name}--clean", {"calibration_pairs": self.settings.calibration_pairs})

        def compute() -> dict[str, Any]:
            assert isinstance(whole, datasets.PairSet)
            assert isinstance(sample, datasets.PairSet)
            return self._clean_values(whole, sample)

        return self.obtain(request, Source.of_pairs(sample), compute)

    def _clean_values(self, whole: datasets.PairSet, sample: datasets.PairSet) -> dict[str, Any]:
        calibration = self._calibration_pairs(whole, sample)
        networks: dict[str, Any] = {}
        for name in self.settings.networks:
            network = self._network(name)
            scores = protocols.pair_scores(network, sample, device=self.device)
            if calibration is None:
                threshold, source = _threshold(name), "the set of pmt networks"
            else:
                held_out = protocols.pair_scores(network, calibration, device=self.device)
                threshold = float(metrics.best_threshold(held_out, calibration.same))
                source = f"{whole.name}, {len(calibration.same)} pairs of other people"
            networks[name] = {"threshold": round(threshold, 5), "calibrated_on": source, "scores": _rounded(scores)}
        return {"same": sample.same.astype(int).tolist(), "networks": networks}

    def _calibration_pairs(self, whole: datasets.PairSet, sample: datasets.PairSet) -> datasets.PairSet | None:
        """Pairs of people who are not evaluated; None where the set has too few (the sample photographs)."""
        rest = whole.subset(datasets.disjoint(whole, sample))
        if _balanced(rest) < 200:
            return None
        return rest.sample(min(self.settings.calibration_pairs, _balanced(rest)), self.settings.pair_seed)

    def _row(self, name: str, sample: datasets.PairSet | DatasetError, authorised: str) -> Outcome:
        pmt = self.settings.pmt.model_dump()
        parameters = {
            "authorised": authorised, "cut": self.settings.cut, "blur_sigma": self.settings.blur_sigma, "pmt": pmt,
        }  # fmt: skip
        request = self._request(f"{name}--{authorised}", parameters)

        def compute() -> dict[str, Any]:
            assert isinstance(sample, datasets.PairSet)
            return self._row_values(sample, authorised)

        return self.obtain(request, Source.of_pairs(sample), compute)

    def _row_values(self, sample: datasets.PairSet, authorised: str) -> dict[str, Any]:
        # A photograph that is first in several pairs is protected once: its result depends on nothing else.
        first, place = np.unique(sample.pairs[:, 0], return_inverse=True)
        second = sample.pairs[:, 1]
        originals = sample.tensor(first)
        protected = self.protect(originals, authorised, f"{sample.title}, {authorised}")
        # What is measured is what would be uploaded: 8-bit pixels.
        uploaded = quantise(protected.images.cpu())
        purified = quantise(blur_and_stretch(uploaded, self.settings.blur_sigma))
        others = sample.tensor(second)
        networks: dict[str, Any] = {}
        for name in self.settings.networks:
            own = self.embed(name, originals)[place]
            other = self.embed(name, others)
            raw, filtered = (self.embed(name, images)[place] for images in (uploaded, purified))
            networks[name] = {
                "own": _rounded(metrics.cosine(raw, own)),
                "other": _rounded(metrics.cosine(raw, other)),
                "purified_own": _rounded(metrics.cosine(filtered, own)),
                "purified_other": _rounded(metrics.cosine(filtered, other)),
            }
        return {
            "same": sample.same.astype(int).tolist(),
            "networks": networks,
            "ssim": _rounded(metrics.ssim(uploaded, originals)[place]),
            "ssim_purified": _rounded(metrics.ssim(purified, originals)[place]),
            "feature_error": _rounded(protected.error[:, 0].numpy()[place]),
            "feature_cosine": _rounded(protected.cosine[:, 0].numpy()[place]),
        }

    def obtain(
        self, request: results.Request, data: Source | DatasetError, compute: Callable[[], Mapping[str, Any]]
    ) -> Outcome:
        """See :func:`obtain`; with these settings, on this device."""
        return obtain(
            request,
            data,
            compute,
            store=self.settings.store,
            recompute=self.recompute,
            device=self.device,
            command=self.command,
        )

    def protect(self, images: Tensor, authorised: str, description: str, steps: int | None = None) -> Protected:
        """PMT of images (N, 3, 112, 112) for one authorised network, with a progress bar; ``steps`` in place of K."""
        shallow = ShallowModel(self._network(authorised), self.settings.cut, name=authorised)
        config = self.settings.pmt if steps is None else self.settings.pmt.model_copy(update={"steps": steps})
        with progress_bar(description, len(images) * config.steps) as advance:
            return protect(images.to(self.device), [shallow], config, progress=advance)

    def embed(self, name: str, images: Tensor) -> Floats:
        """Embeddings (N, D) of images (N, 3, 112, 112)."""
        network = self._network(name)
        parts = []
        with torch.inference_mode():
            for chunk in batches(len(images), 64):
                parts.append(network(images[chunk].to(self.device)).cpu().numpy())
        return np.concatenate(parts).astype(np.float64)

    def usable(self) -> list[str]:
        """The networks of the settings whose weights are here or can be fetched; ``skipped`` says why others are not.

        Raises:
            AssetError: none is.
        """
        found = []
        for name in self.settings.networks:
            try:
                self._network(name)
            except AssetError as error:
                self.skipped[name] = str(error)
            else:
                found.append(name)
        if not found:
            raise AssetError(next(iter(self.skipped.values()), "the settings name no network"))
        return found

    def _network(self, name: str) -> FaceNetwork:
        if name not in self._networks:
            self._networks[name] = zoo.load(name, self.device)
        return self._networks[name]


def _balanced(pairs: datasets.PairSet) -> int:
    """The largest number of pairs with as many of the same as of different people."""
    return 2 * int(min(pairs.same.sum(), (~pairs.same).sum()))


PEOPLE, PEOPLE_LIST = "lfw_rest", "identities_disjoint_from_pairs.txt"
"""People of LFW who are in no pair of LFW's protocol, for choices that must not touch the evaluated pairs."""


def step_choice(abuse: Abuse) -> Outcome:
    """How many steps: likeness and authorised recognition against K, on people who are in no pair of LFW.

    Returns:
        Outcome whose values hold, for each network and K, the SSIM to the photograph and the cosine of the authorised
        network with it, one number a person.
    """
    settings = abuse.settings
    pmt = settings.pmt.model_dump(exclude={"steps"})
    parameters = {
        "people": settings.step_people,
        "people_seed": settings.pair_seed,
        "steps": list(settings.step_choices),
        "cut": settings.cut,
        "pmt": pmt,
    }
    weights = {network: zoo.weights_checksum(network) for network in settings.networks}
    request = results.Request("abuse", f"{PEOPLE}--steps", abuse.VERSION, parameters, weights)
    try:
        people: datasets.People | DatasetError = _first_pictures(settings.step_people, settings.pair_seed)
    except DatasetError as error:
        people = error
    source: Source | DatasetError = (
        people
        if isinstance(people, DatasetError)
        else Source(people.name, "LFW, people in no pair", people.fingerprint, len(people))
    )

    def compute() -> dict[str, Any]:
        assert isinstance(people, datasets.People)
        originals = people.tensor(range(len(people)))
        values: dict[str, Any] = {}
        for name in settings.networks:
            own = abuse.embed(name, originals)
            values[name] = {}
            for steps in settings.step_choices:
                made = quantise(abuse.protect(originals, name, f"{name}, K = {steps}", steps=steps).images.cpu())
                cosine = metrics.cosine(abuse.embed(name, made), own)
                values[name][str(steps)] = {"ssim": _rounded(metrics.ssim(made, originals)), "cosine": _rounded(cosine)}
        return values

    return abuse.obtain(request, source, compute)


def _first_pictures(count: int, seed: int) -> datasets.People:
    """One picture each of ``count`` people, drawn with a seed."""
    people = datasets.load_people(PEOPLE, identities=PEOPLE_LIST)
    _, first = np.unique(people.identities, return_index=True)
    chosen = np.random.default_rng(seed).choice(first, min(count, len(first)), replace=False)
    return people.subset(np.sort(chosen))


def step_table(outcome: Outcome) -> pd.DataFrame:
    """The numbers of :func:`step_choice`, one line a network and K.

    Returns:
        DataFrame with columns network, steps, ssim (mean), cosine (median), lowest (cosine), threshold (calibrated on
        LFW), accepted, n.
    """
    columns = ["network", "steps", "ssim", "cosine", "lowest", "threshold", "accepted", "n"]
    lines = []
    for name, by_steps in outcome.result.values.items() if outcome.result else ():
        for steps, entry in by_steps.items():
            cosine = np.array(entry["cosine"])
            accepted = int((cosine > _threshold(name)).sum())
            likeness = float(np.mean(entry["ssim"]))
            line = (
                name,
                int(steps),
                likeness,
                np.median(cosine),
                cosine.min(),
                _threshold(name),
                accepted,
                len(cosine),
            )
            lines.append(line)
    return pd.DataFrame(lines, columns=columns)


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 5) for value in values]


PROTECTED, PURIFIED, CLEAN = "protected", "purified", "clean"


def abuse_cells(blocks: Sequence[AbuseBlock], settings: AbuseSettings) -> pd.DataFrame:
    """Table 7 in long form, one line a cell.

    Returns:
        DataFrame with columns dataset, images (``clean``, ``protected`` or ``purified``), authorised (None for clean),
        network, threshold (``paper`` or ``calibrated``), kappa, successes, n, accuracy, low, high (95% Wilson).
    """
    lines: list[dict[str, Any]] = []
    for block in blocks:
        if block.clean.result is None:
            continue
        clean = block.clean.result.values
        same = np.array(clean["same"], dtype=bool)
        for network in settings.networks:
            entry = clean["networks"][network]
            for kind, kappa in (("paper", settings.kappa), ("calibrated", entry["threshold"])):
                if kind == "paper" and network in settings.kappa_excluded:
                    continue
                where = {"dataset": block.dataset, "network": network, "threshold": kind, "kappa": kappa}
                # Without protection the first condition of Eq. 10 compares an image with itself.
                scores = np.array(entry["scores"])
                correct = metrics.eq10(np.ones_like(scores), scores, same, kappa)
                lines.append({**where, "images": CLEAN, "authorised": None, **_rate(correct)})
                for authorised, outcome in block.rows.items():
                    if outcome.result is None:
                        continue
                    _same_data(block.clean.result, outcome.result)
                    cell = outcome.result.values["networks"][network]
                    for images, prefix in ((PROTECTED, ""), (PURIFIED, "purified_")):
                        own, other = np.array(cell[prefix + "own"]), np.array(cell[prefix + "other"])
                        correct = metrics.eq10(own, other, same, kappa)
                        lines.append({**where, "images": images, "authorised": authorised, **_rate(correct)})
    columns = [
        "dataset", "images", "authorised", "network", "threshold", "kappa", "successes", "n", "accuracy", "low", "high",
    ]  # fmt: skip
    return pd.DataFrame(lines, columns=columns)


def _same_data(clean: results.Result, row: results.Result) -> None:
    if clean.data["fingerprint"] != row.data["fingerprint"]:
        raise ResultError(
            f"{clean.request.name} and {row.request.name} were computed on different data; "
            "compute both again with -p recompute True"
        )


def _rate(correct: NDArray[np.bool_]) -> dict[str, Any]:
    successes, n = int(correct.sum()), len(correct)
    interval = metrics.wilson(successes, n)
    return {"successes": successes, "n": n, "accuracy": successes / n, "low": interval.low, "high": interval.high}


def abuse_summary(cells: pd.DataFrame, likeness: pd.DataFrame) -> dict[str, float]:
    """Headline numbers of Table 7 over all its data sets, in percent; SSIM as it is.

    For both thresholds and both kinds of image (``protected_calibrated_...``): the mean and the lowest accuracy of
    authorised cells, the mean, lowest and highest of unauthorised ones; ``clean_...`` without protection; ``ssim_...``.
    """
    summary: dict[str, float] = {}
    for threshold in ("paper", "calibrated"):
        part = cells[cells["threshold"] == threshold]
        for images in (CLEAN, PROTECTED, PURIFIED):
            of_kind = part[part["images"] == images]
            own = of_kind[of_kind["authorised"] == of_kind["network"]]["accuracy"]
            others = of_kind[of_kind["authorised"] != of_kind["network"]]["accuracy"]
            label = f"{images}_{threshold}"
            if images == CLEAN:
                summary[f"{label}_mean"] = 100 * others.mean()
                continue
            summary[f"{label}_authorised_mean"] = 100 * own.mean()
            summary[f"{label}_authorised_lowest"] = 100 * own.min()
            summary[f"{label}_unauthorised_mean"] = 100 * others.mean()
            summary[f"{label}_unauthorised_lowest"] = 100 * others.min()
            summary[f"{label}_unauthorised_highest"] = 100 * others.max()
    for kind, group in likeness.groupby("images"):
        summary[f"ssim_{kind}_mean"] = group["ssim"].mean()
        summary[f"ssim_{kind}_worst"] = group["worst"].max()
    return {name: round(float(value), 3) for name, value in summary.items()}


def abuse_likeness(blocks: Sequence[AbuseBlock]) -> pd.DataFrame:
    """How much the uploads look like the photographs, one line a row of Table 7.

    Returns:
        DataFrame with columns dataset, authorised, images, ssim, low, high (95% bootstrap of the mean), worst (the
        highest SSIM of an image), n.
    """
    lines = []
    for block in blocks:
        for authorised, outcome in block.rows.items():
            if outcome.result is None:
                continue
            for images, name in ((PROTECTED, "ssim"), (PURIFIED, "ssim_purified")):
                values = np.array(outcome.result.values[name])
                interval = metrics.bootstrap(values, seed=0)
                line = (block.dataset, authorised, images, values.mean(), *interval, values.max(), len(values))
                lines.append(line)
    return pd.DataFrame(lines, columns=["dataset", "authorised", "images", "ssim", "low", "high", "worst", "n"])


@dataclass(frozen=True)
class Upload:
    """One portrait protected for one network.

    Attributes:
        image: the upload, (112, 112, 3), 8 bits.
        purified: the same after the blur of :func:`pmtlib.attacks.purify.blur_and_stretch`.
        ssim: of the upload and the photograph; ``ssim_purified`` likewise.
        recognition: network to the cosine of its embeddings of upload and photograph, the same for the blurred
            upload, and its calibrated threshold.
        cosine: that of the authorised network.
        accepted: whether it accepts the upload at its calibrated threshold.
    """

    image: UInt8Image
    purified: UInt8Image
    ssim: float
    ssim_purified: float
    recognition: Mapping[str, tuple[float, float, float]]
    cosine: float
    accepted: bool


@dataclass(frozen=True)
class Portrait:
    """A sample photograph that may be shown, and its uploads by authorised network."""

    title: str
    original: UInt8Image
    uploads: Mapping[str, Upload]


def portraits(abuse: Abuse, count: int) -> list[Portrait]:
    """The first sample photographs that may be shown, protected here and now for each network that is present."""
    shown = [photo for photo in datasets.sample_photos() if photo.display][:count]
    crops = [photo.crops()[0].image for photo in shown]
    originals = to_tensor(crops)
    networks = abuse.usable()
    embeddings = {name: abuse.embed(name, originals) for name in networks}
    uploads: list[dict[str, Upload]] = [{} for _ in shown]
    for authorised in networks:
        uploaded = quantise(abuse.protect(originals, authorised, f"Sample photographs, {authorised}").images.cpu())
        purified = quantise(blur_and_stretch(uploaded, abuse.settings.blur_sigma))
        raw = {name: metrics.cosine(abuse.embed(name, uploaded), embeddings[name]) for name in networks}
        blurred = {name: metrics.cosine(abuse.embed(name, purified), embeddings[name]) for name in networks}
        likeness = metrics.ssim(uploaded, originals), metrics.ssim(purified, originals)
        for index, entry in enumerate(uploads):
            recognition = {
                name: (float(raw[name][index]), float(blurred[name][index]), _threshold(name)) for name in networks
            }
            cosine, _, threshold = recognition[authorised]
            entry[authorised] = Upload(
                to_uint8(uploaded)[index],
                to_uint8(purified)[index],
                float(likeness[0][index]),
                float(likeness[1][index]),
                recognition,
                cosine,
                cosine > threshold,
            )
    return [Portrait(photo.title, crop, entry) for photo, crop, entry in zip(shown, crops, uploads, strict=True)]


def _threshold(name: str) -> float:
    """The stored threshold of a network.

    Raises:
        ConfigError: it has none for its weights.
    """
    stored = zoo.calibration(name)
    if stored is None:
        raise ConfigError(f"network {name} has no calibrated threshold; run pmt networks --calibrate {name}")
    return stored.threshold_accuracy


def not_run(blocks: Sequence[AbuseBlock]) -> list[str]:
    """One line for each part of Table 7 that has no result, or whose result could not be computed again."""
    lines = []
    for block in blocks:
        notes = {"thresholds": block.clean.note, **{name: outcome.note for name, outcome in block.rows.items()}}
        distinct = {note for note in notes.values() if note}
        title = TITLES.get(block.dataset, block.dataset)
        if len(distinct) == 1 and all(notes.values()):
            lines.append(f"{title}: {distinct.pop()}")
        else:
            lines += [f"{title}, {name}: {note}" for name, note in notes.items() if note]
    return lines


def abuse_reading(summary: Mapping[str, float], cells: pd.DataFrame, settings: AbuseSettings) -> str:
    """The interpretation of Table 7 in words, with the numbers of the results at hand (Markdown)."""
    if not (cells["images"] == PROTECTED).any():
        return "Nothing was measured."
    value = {name: f"{number:.1f}" for name, number in summary.items()}
    chosen = cells[(cells["threshold"] == "calibrated") & (cells["images"] == PROTECTED)]
    others = chosen[chosen["authorised"] != chosen["network"]]
    worst = max(others.to_dict("records"), key=lambda line: line["accuracy"], default=None)
    lines = [
        f"- **The authorised service** has {value['protected_calibrated_authorised_mean']}% on average at its own "
        f"threshold (lowest cell {value['protected_calibrated_authorised_lowest']}%), where clean images have "
        f"{value['clean_calibrated_mean']}%.",
        f"- **Other networks, shown the upload as it is,** have {value['protected_calibrated_unauthorised_mean']}% on "
        f"average at their own thresholds and {value['protected_paper_unauthorised_mean']}% at the paper's κ = "
        f"{settings.kappa}. The paper's average over its unauthorised cells is {paper_mean():.1f}%.",
    ]
    if worst is not None:
        lines.append(
            f"- **Averages hide pairs of networks.** The highest unauthorised cell is {100 * worst['accuracy']:.1f}% "
            f"[{100 * worst['low']:.1f}, {100 * worst['high']:.1f}]: {worst['network']} on images for "
            f"{worst['authorised']} ({TITLES.get(worst['dataset'], worst['dataset'])}, n = {worst['n']})."
        )
    lost = summary["clean_calibrated_mean"] - summary["protected_calibrated_unauthorised_mean"]
    left = summary["clean_calibrated_mean"] - summary["purified_calibrated_unauthorised_mean"]
    undone = lost > 0 and left < lost / 2
    lines.append(
        f"- **{'A blur undoes much of it.' if undone else 'After a blur.'}** Other networks then have "
        f"{value['purified_calibrated_unauthorised_mean']}% on average, the authorised ones "
        f"{value['purified_calibrated_authorised_mean']}%, and the mean SSIM to the photograph goes from "
        f"{summary['ssim_protected_mean']:.2f} to {summary['ssim_purified_mean']:.2f}."
    )
    return "\n".join(lines)


def paper_mean() -> float:
    """Mean of all unauthorised cells of the paper's Table 7, percent."""
    table = paper_table("table7")
    values = [
        value
        for rows in table["datasets"].values()
        for index, row in enumerate(rows.values())
        for column, value in enumerate(row["accuracy"])
        if index > 0 and column != index - 1
    ]
    return float(np.mean(values))


def reproduction(blocks: Sequence[AbuseBlock], settings: AbuseSettings) -> pd.DataFrame:
    """After a recomputation: each cell beside the one stored before, and whether it lies in that one's interval."""
    before = [
        AbuseBlock(
            block.dataset,
            Outcome(block.clean.previous),
            {name: Outcome(outcome.previous) for name, outcome in block.rows.items()},
        )
        for block in blocks
    ]
    keys = ["dataset", "images", "authorised", "network", "threshold"]
    fresh, stored = abuse_cells(blocks, settings), abuse_cells(before, settings)
    joined = stored.merge(fresh[[*keys, "accuracy"]], on=keys, suffixes=("_stored", "_recomputed"))
    rates = joined["accuracy_recomputed"]
    joined["inside"] = (rates >= joined["low"]) & (rates <= joined["high"])
    return joined


def largest_difference(blocks: Sequence[AbuseBlock]) -> float:
    """After a recomputation: the largest difference of any cosine or SSIM from what was stored before."""

    def numbers(value: Any) -> Iterator[float]:
        if isinstance(value, Mapping):
            for part in value.values():
                yield from numbers(part)
        elif isinstance(value, list):
            yield from value
        elif isinstance(value, float):
            yield value

    largest = 0.0
    for block in blocks:
        for outcome in (block.clean, *block.rows.values()):
            if outcome.result is not None and outcome.previous is not None:
                pairs = zip(numbers(outcome.result.values), numbers(outcome.previous.values), strict=True)
                largest = max([largest, *(abs(a - b) for a, b in pairs)])
    return largest


def paper_table(name: str) -> dict[str, Any]:
    """A table of the paper, transcribed, from the package's data (``table7``, ...)."""
    text = (resources.files("pmtlib") / "data" / "paper" / f"{name}.json").read_text("utf-8")
    content: dict[str, Any] = json.loads(text)
    return content
