"""What every section shares: settings from a profile, stored results, networks, protected images, thresholds."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import safetensors
import safetensors.torch
import torch
import yaml
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from pmtlib import cache, datasets, metrics, paths, protocols, provenance, reproduction, results, variants, zoo
from pmtlib.attacks.reconstruction import RecFaceConfig, find_recface
from pmtlib.errors import AssetError, ConfigError, DatasetError, NetworkError, ResultError
from pmtlib.images import batches, write_atomic
from pmtlib.networks.base import FaceNetwork
from pmtlib.progress import progress_bar
from pmtlib.reproduction import Recompute
from pmtlib.shallow import Layout, ShallowModel
from pmtlib.transform import PMTConfig, protect

Floats = NDArray[np.float64]

TITLES = {"lfw": "LFW", "agedb_30": "AgeDB-30", "calfw": "CALFW", "cfp_ff": "CFP-FF", "samples": "Sample photographs"}

PEOPLE, PEOPLE_LIST = "lfw_rest", "identities_disjoint_from_pairs.txt"
"""People of LFW who are in no pair of LFW's protocol, for choices that must not touch the evaluated pairs."""


class SectionSettings(BaseModel):
    """Parameters that every section of the paper's evaluation has.

    Attributes:
        section: the notebook's name, and that of its group in a profile.
        datasets: verification sets.
        networks: evaluated networks, in order.
        pairs: pairs a set; the paper's cells are multiples of 1/104.
        pair_seed: of the draw of those pairs.
        calibration_pairs: pairs that share no identity with the evaluated ones, for each network's threshold.
        cut: units of the shallow model; or the size of a map, ``28x28``, which fits networks of any depth.
        kappa: the paper's threshold of Eq. 10.
        kappa_excluded: networks for which that threshold says nothing.
        pmt: the transform.
        store: whether results go to ``results/``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    section: ClassVar[str] = ""

    datasets: tuple[str, ...]
    networks: tuple[str, ...]
    pairs: int = Field(104, ge=2)
    pair_seed: int = 0
    calibration_pairs: int = Field(2000, ge=2)
    cut: int | str = 5
    kappa: float = 0.2
    kappa_excluded: tuple[str, ...] = ("dlib-resnet29",)
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


_Settings = TypeVar("_Settings", bound=SectionSettings)


_PAPERS_SECTIONS = ("abuse", "scalability", "ablation")


def section_settings(model: type[_Settings], profile: str, **overrides: Any) -> _Settings:
    """A section's settings in a profile; an override of None leaves the profile's value, ``pmt`` entries are merged.

    What differs from the profile is a trial: its results are not stored, so that it cannot replace the profile's.
    Where the paper's own networks have been added (:func:`pmtlib.zoo.papers_networks`), the sections of its Tables 7, 9
    and 10 have them in the paper profile, and the one of Table 10 authorises the paper's, IR50-Softmax.

    Raises:
        ConfigError: no such profile or section, or a value that is not allowed.
    """
    values = profile_values(model.section, profile)
    if profile == "paper" and model.section in _PAPERS_SECTIONS and (own := zoo.papers_networks()):
        values["networks"] = list(own)
        if model.section == "ablation":
            values["authorised"] = own[zoo.PAPERS_TITLES.index("IR50-Softmax")]
    changed = {name: value for name, value in overrides.items() if value is not None and value != {}}
    pmt = {**values.get("pmt", {}), **changed.pop("pmt", {})}
    trial = {**values, **changed, "pmt": pmt}
    values = {**trial, "store": bool(values.get("store")) and trial == {**values, "pmt": values.get("pmt", {})}}
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ": ".join(["", ".".join(str(part) for part in first["loc"])] if first["loc"] else [""])
        message = first["msg"]
        if first["type"] == "tuple_type" and isinstance(first["input"], str):
            # papermill hands over what follows -p as it is, a list in brackets too.
            message = f'{first["input"]!r} is text, not a list; papermill takes a list by -y "{first["loc"][0]}: [...]"'
        raise ConfigError(f"profile {profile!r}, {model.section}{where}: {message}") from error


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
    recompute: Recompute,
    device: torch.device,
    command: str,
) -> Outcome:
    """The stored result of a request, or a fresh one where it is missing or asked for.

    Without the data, or without a network, a stored result is shown and nothing is computed. A stored result that
    comes out the same stays as it is, and the ledger says so (:mod:`pmtlib.reproduction`).
    """
    fingerprint = None if isinstance(data, DatasetError) else data.fingerprint
    stored, reason = results.find(request, fingerprint) if store else (None, "")
    if stored is not None and not reproduction.wanted(stored, recompute):
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
        return without(f"weights not present: {error}")
    manifest = provenance.manifest(list(request.weights), device, seconds=time.monotonic() - begun, command=command)
    fresh = results.Result(request, asdict(data), values, manifest)
    if store:
        if stored is None or not reproduction.confirmed(stored, fresh):
            results.write(fresh)
        if stored is not None:
            reproduction.record(stored, fresh)
    return Outcome(fresh, previous=stored)


def with_interval(line: Any, name: str, places: int = 2) -> str:
    """A mean with its interval, ``0.53 [0.43, 0.62]``, from a line with ``NAME``, ``NAME_low`` and ``NAME_high``."""
    mean, low, high = (line[f"{name}{end}"] for end in ("", "_low", "_high"))
    return f"{mean:.{places}f} [{low:.{places}f}, {high:.{places}f}]"


def own_name(name: str, weights: Mapping[str, str]) -> str:
    """A result's name, marked where a network is not the package's: it must not replace one that is shipped."""
    if all(network in zoo.CARDS for network in weights):
        return name
    return f"{name}--own-{hashlib.sha256(json.dumps(weights, sort_keys=True).encode()).hexdigest()[:8]}"


def load_set(name: str) -> datasets.PairSet | DatasetError:
    """A verification set, or the error that says why it is not there (the samples may lack a client to fetch)."""
    try:
        return datasets.load(name)
    except DatasetError as error:
        return error
    except AssetError as error:
        return DatasetError(str(error))


def balanced(pairs: datasets.PairSet) -> int:
    """The largest number of pairs with as many of the same as of different people."""
    return 2 * int(min(pairs.same.sum(), (~pairs.same).sum()))


@dataclass(frozen=True)
class Made:
    """Protected images of a set and how well they fit.

    Attributes:
        images: (N, 3, 112, 112) in [0, 1], not rounded, on the CPU.
        error: relative squared feature error, (N, M) for M authorised networks.
        cosine: of the features with their targets, (N, M).
        kept: images after the numbers of steps that were asked for, (S, N, 3, 112, 112); S may be 0.
    """

    images: Tensor
    error: Tensor
    cosine: Tensor
    kept: Tensor


class Bench(Generic[_Settings]):
    """Networks, thresholds and protected images for one section.

    Args:
        settings: the section's parameters.
        device: where to compute.
        recompute: compute also what is stored; ``once``: what was not computed a second time yet.
        profile: the profile's name, for the command in manifests.
    """

    def __init__(
        self, settings: _Settings, device: torch.device, *, recompute: Recompute = False, profile: str = "paper"
    ) -> None:
        self.settings = settings
        self.device = device
        self.recompute = recompute
        self.command = f"papermill notebooks/{settings.section}.ipynb OUT.ipynb -p profile {profile} -p recompute True"
        self.skipped: dict[str, str] = {}
        self._networks: dict[str, FaceNetwork] = {}
        self._embedded: dict[tuple[str, str], Floats] = {}
        self._sets: dict[str, datasets.PairSet | DatasetError] = {}
        self._made: dict[Path, Made] = {}
        self._written: set[Path] = set()

    def obtain(
        self,
        request: results.Request,
        data: Source | DatasetError,
        compute: Callable[[], Mapping[str, Any]],
        *,
        recompute: Recompute | None = None,
    ) -> Outcome:
        """See :func:`obtain`; with these settings, on this device."""
        return obtain(
            request,
            data,
            compute,
            store=self.settings.store,
            recompute=self.recompute if recompute is None else recompute,
            device=self.device,
            command=self.command,
        )

    def request(
        self, experiment: str, name: str, version: int, parameters: Mapping[str, Any], networks: Sequence[str] = ()
    ) -> results.Request:
        """A request on the section's pairs; ``networks`` beside those that are evaluated."""
        common = {"pairs": self.settings.pairs, "pair_seed": self.settings.pair_seed}
        weights = {name: zoo.weights_checksum(name) for name in (*self.settings.networks, *networks)}
        return results.Request(experiment, own_name(name, weights), version, {**common, **parameters}, weights)

    def whole(self, name: str) -> datasets.PairSet | DatasetError:
        """A verification set with all its pairs, loaded once."""
        if name not in self._sets:
            self._sets[name] = load_set(name)
        return self._sets[name]

    def sample(self, name: str) -> datasets.PairSet | DatasetError:
        """The pairs of a set that are evaluated."""
        whole = self.whole(name)
        if isinstance(whole, DatasetError):
            return whole
        return whole.sample(min(self.settings.pairs, balanced(whole)), self.settings.pair_seed)

    def network(self, name: str) -> FaceNetwork:
        """A network of the zoo, on the section's device, loaded once."""
        if name not in self._networks:
            self._networks[name] = zoo.load(name, self.device)
        return self._networks[name]

    def usable(self, wanted: Sequence[str] | None = None) -> list[str]:
        """The networks whose weights are here or can be fetched; ``skipped`` says why others are not.

        Raises:
            AssetError: none is.
        """
        found = []
        for name in self.settings.networks if wanted is None else wanted:
            try:
                self.network(name)
            except AssetError as error:
                self.skipped[name] = str(error)
            else:
                found.append(name)
        if not found:
            raise AssetError(next(iter(self.skipped.values()), "the settings name no network"))
        return found

    def shallow(self, name: str, cut: int | str | None = None, layout: Layout = "contiguous") -> ShallowModel:
        """The shallow model of a network at the section's cut, or another."""
        return ShallowModel(self.network(name), self.settings.cut if cut is None else cut, name=name, layout=layout)

    def embed(self, name: str, images: Tensor) -> Floats:
        """Embeddings (N, D) of images (N, 3, 112, 112)."""
        network = self.network(name)
        parts = []
        with torch.inference_mode():
            for chunk in batches(len(images), 64):
                parts.append(network(images[chunk].to(self.device)).cpu().numpy())
        return np.concatenate(parts).astype(np.float64)

    def embed_once(self, name: str, images: Tensor) -> Floats:
        """:meth:`embed`, remembered while the section runs: for photographs that are compared again and again."""
        key = (name, hashlib.sha256(images.numpy().tobytes()).hexdigest())
        if key not in self._embedded:
            self._embedded[key] = self.embed(name, images)
        return self._embedded[key]

    def protect(
        self,
        images: Tensor,
        authorised: str | Sequence[str],
        description: str,
        *,
        config: PMTConfig | None = None,
        cut: int | str | None = None,
        keep: Sequence[int] = (),
        shown: bool = False,
        layout: Layout = "contiguous",
    ) -> Made:
        """PMT of images (N, 3, 112, 112) for one or several authorised networks, with a progress bar.

        A batch that is not full is filled up, and costs as much as a full one. What is only ``shown`` is made in a
        batch of its own size; what is counted keeps the one that its result names, to which its last bits belong.

        Sections of the book look at the same uploads from several sides; where results are stored, the protected
        images are therefore kept in the cache (``protected/``), unless everything is to be computed again.
        """
        names = (authorised,) if isinstance(authorised, str) else tuple(authorised)
        config = config or self.settings.pmt
        if shown:
            config = config.model_copy(update={"batch_size": min(config.batch_size, max(2, len(images)))})
        cut = self.settings.cut if cut is None else cut
        path = self._made_path(images, names, cut, config, keep, layout)
        if path in self._made:
            return self._made[path]
        # What this very run has made may be read back, also where everything is to be computed again.
        fresh = self.recompute and path not in self._written
        if self.settings.store and not fresh and (found := _read_made(path)) is not None:
            return found
        models = [self.shallow(name, cut, layout) for name in names]
        with progress_bar(description, len(images) * config.steps) as advance:
            done = protect(images.to(self.device), models, config, progress=advance, keep=keep)
        made = Made(done.images.cpu(), done.error, done.cosine, done.kept.cpu())
        if self.settings.store:
            tensors = {"images": made.images, "error": made.error, "cosine": made.cosine, "kept": made.kept}
            write_atomic(path, safetensors.torch.save({key: value.contiguous() for key, value in tensors.items()}))
            self._written.add(path)
        else:
            self._made[path] = made
        return made

    def _made_path(
        self,
        images: Tensor,
        names: Sequence[str],
        cut: int | str,
        config: PMTConfig,
        keep: Sequence[int],
        layout: Layout,
    ) -> Path:
        asked = {
            "networks": [(name, zoo.weights_checksum(name)) for name in names],
            "cut": cut,
            "pmt": config.model_dump(),
            "keep": list(keep),
            "layout": layout,
            "on": [self.device.type, torch.__version__, variants.code_digest(config)],
        }
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode() + images.numpy().tobytes())
        return cache.folder("protected") / f"{digest.hexdigest()[:24]}.safetensors"

    def thresholds(self, name: str, *, recompute: Recompute = False) -> Outcome:
        """Clean scores of the evaluated pairs and a threshold for each network, from pairs of other people.

        All sections share this result; only the one on data abuse computes it again when asked to.
        """
        sample = self.sample(name)
        request = self.request("thresholds", name, 1, {"calibration_pairs": self.settings.calibration_pairs})

        def compute() -> dict[str, Any]:
            whole = self.whole(name)
            assert isinstance(whole, datasets.PairSet)
            assert isinstance(sample, datasets.PairSet)
            return self._threshold_values(whole, sample)

        return self.obtain(request, Source.of_pairs(sample), compute, recompute=recompute)

    def _threshold_values(self, whole: datasets.PairSet, sample: datasets.PairSet) -> dict[str, Any]:
        calibration = self._calibration_pairs(whole, sample)
        networks: dict[str, Any] = {}
        for name in self.settings.networks:
            network = self.network(name)
            scores = protocols.pair_scores(network, sample, device=self.device)
            if calibration is None:
                threshold, source = stored_threshold(name), "the set of pmt networks"
            else:
                held_out = protocols.pair_scores(network, calibration, device=self.device)
                threshold = float(metrics.best_threshold(held_out, calibration.same))
                source = f"{whole.name}, {len(calibration.same)} pairs of other people"
            networks[name] = {"threshold": round(threshold, 5), "calibrated_on": source, "scores": rounded(scores)}
        return {"same": sample.same.astype(int).tolist(), "networks": networks}

    def _calibration_pairs(self, whole: datasets.PairSet, sample: datasets.PairSet) -> datasets.PairSet | None:
        """Pairs of people who are not evaluated; None where the set has too few (the sample photographs)."""
        rest = whole.subset(datasets.disjoint(whole, sample))
        if balanced(rest) < 200:
            return None
        return rest.sample(min(self.settings.calibration_pairs, balanced(rest)), self.settings.pair_seed)


def _read_made(path: Path) -> Made | None:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return Made(*(file.get_tensor(key) for key in ("images", "error", "cosine", "kept")))
    except (OSError, safetensors.SafetensorError):
        return None


def first_pictures(count: int, seed: int) -> datasets.People:
    """One picture each of ``count`` people of LFW who are in no pair, drawn with a seed.

    Raises:
        DatasetError: the data are not there.
    """
    people = datasets.load_people(PEOPLE, identities=PEOPLE_LIST)
    _, first = np.unique(people.identities, return_index=True)
    chosen = np.random.default_rng(seed).choice(first, min(count, len(first)), replace=False)
    return people.subset(np.sort(chosen))


def trained_recface(authorised: str, cut: int | str, config: RecFaceConfig) -> tuple[Path, datasets.People]:
    """The folder of the RecFace that is trained for a shallow model, and the people it was trained on.

    Raises:
        AssetError: there is none, or not these people.
    """
    lack = f"no trained RecFace for {authorised}, cut {cut}"
    try:
        people = datasets.load_people(PEOPLE, identities=PEOPLE_LIST)
    except DatasetError as error:
        raise AssetError(f"{lack}; set PMT_DATA to where {PEOPLE} is, and run pmt train-recface") from error
    try:
        folder = find_recface(authorised, cut, config, people.fingerprint)
    except NetworkError as error:
        raise AssetError(f"{lack}: {error}") from error
    if folder is None:
        raise AssetError(f"{lack}; run pmt train-recface")
    return folder, people


def rounded(values: Any) -> list[float]:
    """Numbers with five decimals, as they are stored."""
    return [round(float(value), 5) for value in values]


def stored_threshold(name: str) -> float:
    """The shipped threshold of a network (best accuracy on LFW).

    Raises:
        ConfigError: it has none for its weights.
    """
    stored = zoo.calibration(name)
    if stored is None:
        raise ConfigError(f"network {name} has no calibrated threshold; run pmt networks --calibrate {name}")
    return stored.threshold_accuracy


def same_data(first: results.Result, second: results.Result) -> None:
    """Two results that are joined must be of the same pairs.

    Raises:
        ResultError: they are not.
    """
    if first.data["fingerprint"] != second.data["fingerprint"]:
        raise ResultError(
            f"{first.request.name} and {second.request.name} were computed on different data; "
            "compute both again with -p recompute True"
        )


def rate(correct: NDArray[np.bool_]) -> dict[str, Any]:
    """successes, n, accuracy and its 95% Wilson interval (low, high)."""
    successes, n = int(correct.sum()), len(correct)
    interval = metrics.wilson(successes, n)
    return {"successes": successes, "n": n, "accuracy": successes / n, "low": interval.low, "high": interval.high}


def binary(values: ArrayLike) -> bool:
    """Whether all values are 0 or 1, as those of one network are that is right or wrong."""
    return bool(np.isin(np.asarray(values, dtype=np.float64), (0.0, 1.0)).all())


def share_interval(shares: ArrayLike, groups: Sequence[Any] | None = None) -> metrics.Interval:
    """95% interval of the mean of shares in [0, 1], one for each pair or image: bootstrap, or Wilson's.

    Where each is 0 or 1, the mean is a rate, and has Wilson's interval. Those of one network are so; and those of
    several where they agree on all pairs, which resampling takes for all that could be. Near 0 and 1 the bootstrap of
    several that do not is too narrow as well, for it sees few refusals or few acceptances.

    Args:
        shares: (N,), at least one.
        groups: as in :func:`pmtlib.metrics.bootstrap`; Wilson's interval is of as many independent units.
    """
    values = np.asarray(shares, dtype=np.float64)
    if binary(values):
        units = len(values) if groups is None else len(set(groups))
        return metrics.wilson(round(units * float(values.mean())), units)
    return metrics.bootstrap(values, seed=0, groups=groups)


def paper_table(name: str) -> dict[str, Any]:
    """A table of the paper, transcribed, from the package's data (``table7``, ...)."""
    text = (resources.files("pmtlib") / "data" / "paper" / f"{name}.json").read_text("utf-8")
    content: dict[str, Any] = json.loads(text)
    return content
