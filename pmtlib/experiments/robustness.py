"""Section 6.7, robustness: uploads and features under noise (Figs. 9 and 10), and under what services do to images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pmtlib import datasets, metrics
from pmtlib.attacks.reconstruction import RecFaceConfig, load_recface
from pmtlib.experiments.claims import HOLDS, IN_PART, NOT, UNJUDGED, Claim, listed, overall
from pmtlib.experiments.claims import rate as claims_rate
from pmtlib.experiments.common import (
    TITLES,
    Floats,
    Outcome,
    rate,
    rounded,
    same_data,
    section_settings,
    share_interval,
    trained_recface,
    with_interval,
)
from pmtlib.experiments.trade_off import ORIGINALS, UPLOADS, identities, strangers, thresholds
from pmtlib.experiments.variants import Gap, Variants, VariantSettings, recomputed, up_lines, up_terms
from pmtlib.experiments.variants import not_run as _not_run
from pmtlib.filters import blur
from pmtlib.images import add_noise, batches, quantise, recoded
from pmtlib.shallow import ServerModel

VERSION = 1
ABSOLUTE, RELATIVE = "absolute", "relative"
NONE = "none"
TERMS = ("utility", "stranger", "privacy", "total")
STABLE = 0.1
"""A mean that moves by no more than this counts as stable in the verdicts on the paper's claims."""


class Operation(NamedTuple):
    """What a service may do to an image it gets.

    Attributes:
        kind: ``none``, ``jpeg`` and ``webp`` (value: quality), ``resize`` (to that share of the side, and back),
            ``crop`` (the central share of the side, enlarged), ``blur`` (Gaussian, sigma in pixels) or ``bits`` (a
            channel).
        value: its strength; 0 for ``none``.
    """

    kind: str
    value: float

    @property
    def key(self) -> str:
        """Its name in stored results."""
        return self.kind if self.kind == NONE else f"{self.kind}-{self.value:g}"


class RobustnessSettings(VariantSettings):
    """Parameters of Section 6.7.

    Attributes:
        kappas: its thresholds.
        up_kappa: the threshold of Fig. 9, for which the paper gives none; that of its Fig. 8.
        amplitudes: standard deviation of the noise on features, as it is (Fig. 9).
        multiples: the same in multiples of the standard deviation of the photographs' features.
        jpeg: qualities.
        webp: qualities.
        resize: shares of the side.
        crop: shares of the side.
        blur: sigmas, pixels.
        bits: a channel.
    """

    section: ClassVar[str] = "robustness"

    kappas: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    up_kappa: float = 0.5
    amplitudes: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3)
    multiples: tuple[float, ...] = (0.5, 1.0, 2.0)
    jpeg: tuple[int, ...] = (95, 75, 50, 30)
    webp: tuple[int, ...] = (50,)
    resize: tuple[float, ...] = (0.5, 0.25)
    crop: tuple[float, ...] = (0.9,)
    blur: tuple[float, ...] = (1.0, 2.0)
    bits: tuple[int, ...] = (5, 3)

    def operations(self) -> tuple[Operation, ...]:
        """All of them, no operation first."""
        kinds = ("jpeg", "webp", "resize", "crop", "blur", "bits")
        return (
            Operation(NONE, 0.0),
            *(Operation(kind, float(value)) for kind in kinds for value in getattr(self, kind)),
        )


def robustness_settings(profile: str, **overrides: Any) -> RobustnessSettings:
    """Settings of a profile, see :func:`pmtlib.experiments.common.section_settings`."""
    return section_settings(RobustnessSettings, profile, **overrides)


def processed(images: Tensor, operation: Operation) -> Tensor:
    """Images as a service has them after an operation: 8-bit in, 8-bit out, of the same size.

    Args:
        images: (N, 3, H, W) in [0, 1].
        operation: which.

    Returns:
        (N, 3, H, W), multiples of 1/255 in [0, 1].

    Raises:
        ValueError: there is no such operation.
    """
    kind, value = operation
    images = quantise(images)
    side = images.shape[2:]
    if kind == NONE:
        return images
    if kind in ("jpeg", "webp"):
        return recoded(images, kind, round(value))
    if kind == "resize":
        small = [max(1, round(length * value)) for length in side]
        return _resized(quantise(_resized(images, small)), side)
    if kind == "crop":
        height, width = (max(1, round(length * value)) for length in side)
        top, left = (side[0] - height) // 2, (side[1] - width) // 2
        return _resized(images[..., top : top + height, left : left + width], side)
    if kind == "blur":
        return quantise(blur(images, value))
    if kind == "bits":
        steps = 2 ** round(value) - 1
        return quantise(images.mul(steps).round().div(steps))
    raise ValueError(f"no operation {kind!r}")


def _resized(images: Tensor, side: Sequence[int]) -> Tensor:
    return quantise(F.interpolate(images, tuple(side), mode="bicubic", align_corners=False, antialias=True))


@dataclass(frozen=True)
class RobustnessBlock:
    """Everything of one data set.

    Attributes:
        dataset: its name.
        clean: thresholds and scores on unprotected images.
        originals: the terms of Eq. 9 for the photographs under noise.
        uploads: the same for the uploads.
        features: recognition of noisy features.
        reconstructions: how far RecFace's images of noisy features are from the photographs.
        processing: who recognises processed uploads and photographs.
    """

    dataset: str
    clean: Outcome
    originals: Outcome
    uploads: Outcome
    features: Outcome
    reconstructions: Outcome
    processing: Outcome

    def rows(self) -> list[tuple[str, str, Outcome]]:
        """Set, row and outcome, for the provenance table."""
        named = (
            ("thresholds", self.clean),
            ("noise, originals", self.originals),
            ("noise, uploads", self.uploads),
            ("features", self.features),
            ("features, privacy", self.reconstructions),
            ("processing", self.processing),
        )
        return [(self.dataset, name, outcome) for name, outcome in named]


class Robustness(Variants[RobustnessSettings]):
    """Figs. 9 and 10, and uploads that a service has recompressed, resized, cropped, blurred or quantised.

    Args:
        settings: see :class:`RobustnessSettings`.
        device: where to compute.
        recompute: compute also what is stored.
        profile: the profile's name, for the command in manifests.
    """

    def run(self) -> list[RobustnessBlock]:
        """All sets. Each result is stored when done, so an interrupted run goes on where it was."""
        return [
            RobustnessBlock(
                name,
                self.thresholds(name),
                self.noisy(name, None),
                self.noisy(name, {}),
                self.features(name),
                self.reconstructions(name),
                self.processing(name),
            )
            for name in self.settings.datasets
        ]

    def _common(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "authorised": settings.authorised,
            "cut": settings.cut,
            "pmt": settings.pmt.model_dump(mode="json"),
        }

    def _feature_parameters(self) -> dict[str, Any]:
        settings = self.settings
        amplitudes = {"amplitudes": list(settings.amplitudes), "multiples": list(settings.multiples)}
        return {**self._common(), **amplitudes, "noise_seed": settings.noise_seed}

    def features(self, dataset: str) -> Outcome:
        """Fig. 9, Utility: how the service's model recognises features under noise.

        For each amplitude the cosine of the server model's embedding of the noisy feature with that of the
        photograph's feature without noise, and with that of a stranger's photograph.
        """
        parameters, authorised = self._feature_parameters(), self.settings.authorised
        request = self.request("robustness", f"{dataset}--features", VERSION, parameters, (authorised,))

        def compute() -> dict[str, Any]:
            server = ServerModel(self.network(authorised), self.settings.cut)

            def embedded(features: Tensor) -> Floats:
                with torch.inference_mode():
                    parts = [server(features[chunk].to(self.device)).cpu() for chunk in batches(len(features), 64)]
                return torch.cat(parts).numpy().astype(np.float64)

            features = self._features(dataset)
            own = embedded(features[ORIGINALS])
            sample = self.sample(dataset)
            assert isinstance(sample, datasets.PairSet)
            named = identities(sample)
            other = strangers([named[image] for image in np.unique(sample.pairs[:, 0])])
            values: dict[str, Any] = {"deviation": round(float(features[ORIGINALS].std()), 6)}
            for images, scale, amplitude, noisy in self._noisy_features(features):
                seen = embedded(noisy)
                values.setdefault(images, {}).setdefault(scale, {})[str(amplitude)] = {
                    "cosine": rounded(metrics.cosine(seen, own)),
                    "stranger": rounded(metrics.cosine(seen, own[other])),
                }
            return values

        return self.obtain(request, self.source(dataset), compute)

    def reconstructions(self, dataset: str) -> Outcome:
        """Fig. 9, Privacy: LPIPS between the photograph and what a trained RecFace makes of the noisy feature.

        The paper does not say what LPIPS compares where a feature is uploaded. Without a RecFace trained for this
        network and cut the result is not run.
        """
        authorised, config = self.settings.authorised, RecFaceConfig()
        parameters = {**self._feature_parameters(), "recface": config.model_dump(mode="json")}
        request = self.request("robustness", f"{dataset}--reconstructions", VERSION, parameters, (authorised,))

        def compute() -> dict[str, Any]:
            folder, _ = trained_recface(authorised, self.settings.cut, config)
            recface = load_recface(folder, self.device)
            originals = self.photographs(dataset).originals.to(self.device)
            values: dict[str, Any] = {"recface": folder.name}
            for images, scale, amplitude, noisy in self._noisy_features(self._features(dataset)):
                with torch.inference_mode():
                    parts = [recface(noisy[chunk].to(self.device)) for chunk in batches(len(noisy), 32)]
                distances = rounded(metrics.lpips(torch.cat(parts), originals, "vgg"))
                values.setdefault(images, {}).setdefault(scale, {})[str(amplitude)] = distances
            return values

        return self.obtain(request, self.source(dataset), compute)

    def _features(self, dataset: str) -> dict[str, Tensor]:
        """Shallow features of the photographs and of their uploads, (U, C, h, w) each."""
        shallow = self.shallow(self.settings.authorised)
        originals = self.photographs(dataset).originals
        found = {}
        for name, images in ((ORIGINALS, originals), (UPLOADS, quantise(self.made(dataset, {}).images))):
            with torch.inference_mode():
                parts = [shallow.feature(images[chunk].to(self.device)).cpu() for chunk in batches(len(images), 32)]
            found[name] = torch.cat(parts)
        return found

    def _noisy_features(self, features: Mapping[str, Tensor]) -> Iterator[tuple[str, str, float, Tensor]]:
        """Whose features, scale of the amplitude, amplitude, noisy features; originals and uploads have their own."""
        deviation = float(features[ORIGINALS].std())
        levels = [(ABSOLUTE, amplitude, amplitude) for amplitude in self.settings.amplitudes]
        levels += [(RELATIVE, multiple, multiple * deviation) for multiple in self.settings.multiples]
        for place, (images, part) in enumerate(features.items()):
            for scale, amplitude, sigma in levels:
                seed = self.settings.noise_seed + place
                yield images, scale, amplitude, add_noise(part, sigma, seed, clamp=False, indices=range(len(part)))

    def processing(self, dataset: str) -> Outcome:
        """Who recognises uploads, and photographs, after each operation (Eq. 10), and their SSIM to the photograph."""
        authorised, operations = self.settings.authorised, self.settings.operations()
        parameters = {**self._common(), "operations": [operation.key for operation in operations]}
        request = self.request("robustness", f"{dataset}--processing", VERSION, parameters, (authorised,))

        def compute() -> dict[str, Any]:
            photographs = self.photographs(dataset)
            uploads = quantise(self.made(dataset, {}).images)
            found: dict[str, Any] = {}
            for operation in operations:
                found[operation.key] = {}
                for name, images in ((UPLOADS, uploads), (ORIGINALS, photographs.originals)):
                    opinions = self.opinions(photographs, processed(images, operation))
                    found[operation.key][name] = {"networks": opinions["networks"], "ssim": opinions["ssim"]}
            same = photographs.same.astype(int).tolist()
            return {"same": same, "photograph": photographs.place.tolist(), "operations": found}

        return self.obtain(request, self.source(dataset), compute)


def grid(blocks: Sequence[RobustnessBlock], settings: RobustnessSettings) -> pd.DataFrame:
    """Fig. 10: UP over noise bound and threshold, from the same stored numbers as Fig. 8.

    Returns:
        DataFrame as of :func:`pmtlib.experiments.variants.up_lines`, with columns dataset and images in front, and of
        the same photographs: gap, gap_low, gap_high, UP of uploads minus that of originals with its 95% interval; and
        peaked, whether UP of these images at this kappa is highest inside the range of bounds, above both ends beyond
        the intervals of the differences.
    """
    parts = []
    for block in blocks:
        sides = {UPLOADS: block.uploads, ORIGINALS: block.originals}
        for kappa in settings.kappas:
            frame = up_lines([({"dataset": block.dataset, "images": name}, one) for name, one in sides.items()], kappa)
            if not len(frame):
                continue
            terms = {name: up_terms(one, kappa) for name, one in sides.items()}
            for column in ("gap", "gap_low", "gap_high"):
                frame[column] = np.nan
            frame["peaked"] = False
            for name, found in terms.items():
                frame.loc[frame["images"] == name, "peaked"] = _peaked(found)
            for bound in terms[UPLOADS].keys() & terms[ORIGINALS].keys():
                at = frame["bound"] == bound
                gap = Gap.of(terms[UPLOADS][bound], terms[ORIGINALS][bound])
                frame.loc[at, ["gap", "gap_low", "gap_high"]] = list(gap)
            parts.append(frame)
    columns = ["dataset", "images", "bound", "kappa", "n", "utility", "privacy", "total", "gap", "gap_low", "gap_high"]
    columns.append("peaked")
    return pd.concat(parts, ignore_index=True) if any(map(len, parts)) else pd.DataFrame(columns=columns)


def _peaked(terms: Mapping[float, Floats]) -> bool:
    if len(terms) < _PEAK_BOUNDS:
        return False
    bounds = sorted(terms)
    top = max(bounds, key=lambda bound: float(terms[bound].mean()))
    return top not in (bounds[0], bounds[-1]) and all(
        Gap.of(terms[top], terms[end]).sign > 0 for end in (bounds[0], bounds[-1])
    )


_PEAK_BOUNDS = 3


def feature_lines(blocks: Sequence[RobustnessBlock], settings: RobustnessSettings) -> pd.DataFrame:
    """Fig. 9: Utility, Privacy and UP of noisy features.

    Returns:
        DataFrame with columns dataset, images, scale (``absolute``, or ``relative`` to the features' standard
        deviation), amplitude, sigma (on the features' scale), threshold (``paper`` or ``calibrated``), kappa, n and,
        for each of utility, stranger (the same criterion with a stranger's photograph), privacy and total, the mean
        and its 95% interval (Wilson for the two rates, else a bootstrap over photographs); privacy and total are NaN
        where no RecFace is trained.
    """
    lines = []
    for block in blocks:
        if block.features.result is None:
            continue
        values = block.features.result.values
        apart = None
        if block.reconstructions.result is not None:
            same_data(block.features.result, block.reconstructions.result)
            apart = block.reconstructions.result.values
        for threshold, kappa in thresholds(block.clean, settings.up_kappa, settings.authorised):
            for images in (ORIGINALS, UPLOADS):
                for scale, entries in values[images].items():
                    for amplitude, entry in entries.items():
                        cosines = entry["cosine"]
                        sigma = float(amplitude) * (1 if scale == ABSOLUTE else values["deviation"])
                        line = {
                            "dataset": block.dataset, "images": images, "scale": scale, "amplitude": float(amplitude),
                            "sigma": sigma, "threshold": threshold, "kappa": kappa, "n": len(cosines),
                        }  # fmt: skip
                        recognised = np.asarray(metrics.utility(cosines, kappa), dtype=np.float64)
                        mistaken = np.asarray(metrics.utility(entry["stranger"], kappa), dtype=np.float64)
                        terms = {"utility": recognised, "stranger": mistaken}
                        if apart is not None:
                            distance = np.asarray(apart[images][scale][amplitude], dtype=np.float64)
                            terms |= {"privacy": distance, "total": recognised + distance}
                        for name in TERMS:
                            line |= _mean(name, terms.get(name), is_rate=name in ("utility", "stranger"))
                        lines.append(line)
    terms_of = [f"{name}{end}" for name in TERMS for end in ("", "_low", "_high")]
    columns = ["dataset", "images", "scale", "amplitude", "sigma", "threshold", "kappa", "n", *terms_of]
    return pd.DataFrame(lines, columns=columns)


def _mean(name: str, numbers: Floats | None, *, is_rate: bool) -> dict[str, float]:
    if numbers is None:
        return {name: math.nan, f"{name}_low": math.nan, f"{name}_high": math.nan}
    low, high = metrics.wilson(int(numbers.sum()), len(numbers)) if is_rate else metrics.bootstrap(numbers, seed=0)
    return {name: float(numbers.mean()), f"{name}_low": low, f"{name}_high": high}


def processing_cells(blocks: Sequence[RobustnessBlock], settings: RobustnessSettings) -> pd.DataFrame:
    """Eq. 10 after each operation, at each network's calibrated threshold.

    Returns:
        DataFrame with columns dataset, operation, images, role, accuracy, low, high, n (pairs), ssim (mean), change,
        change_low, change_high. For ``authorised`` the interval is Wilson's; for ``unauthorised`` accuracy is the mean
        over the networks, with a bootstrap over first photographs. The change is against the same images without an
        operation, on the same pairs, with Newcombe's interval for ``authorised`` and else a bootstrap over first
        photographs.
    """
    lines = []
    for block in blocks:
        if block.processing.result is None or block.clean.result is None:
            continue
        same_data(block.clean.result, block.processing.result)
        values, limits = block.processing.result.values, block.clean.result.values["networks"]
        same = np.array(values["same"], dtype=bool)
        untouched: dict[tuple[str, str], Floats] = {}
        # What is left as it is first: the others are held against it.
        for operation, kinds in sorted(values["operations"].items(), key=lambda item: item[0] != NONE):
            for images, entry in kinds.items():
                right: dict[str, list[NDArray[np.bool_]]] = {}
                for network, scores in entry["networks"].items():
                    role = "authorised" if network == settings.authorised else "unauthorised"
                    correct = metrics.eq10(scores["own"], scores["other"], same, limits[network]["threshold"])
                    right.setdefault(role, []).append(correct)
                for role, columns_of in right.items():
                    share = np.mean(columns_of, axis=0)
                    low, high = share_interval(share, values["photograph"])
                    line = {"accuracy": float(share.mean()), "low": low, "high": high, "n": len(share)}
                    if role == "authorised":
                        line |= {name: value for name, value in rate(columns_of[0]).items() if name in line}
                    moved = Gap.of(share, untouched.setdefault((images, role), share), values["photograph"])
                    line |= {"change": moved.mean, "change_low": moved.low, "change_high": moved.high}
                    where = {"dataset": block.dataset, "operation": operation, "images": images, "role": role}
                    lines.append({**where, **line, "ssim": float(np.mean(entry["ssim"]))})
    columns = ["dataset", "operation", "images", "role", "accuracy", "low", "high", "n", "ssim"]
    columns += ["change", "change_low", "change_high"]
    return pd.DataFrame(lines, columns=columns)


def summary(up: pd.DataFrame, lines: pd.DataFrame, cells: pd.DataFrame) -> dict[str, float]:
    """Headline numbers: UP at a few points, Utility of features in percent, accuracies in percent.

    Names: ``lfw_uploads_up_0.1_0.5``, ``lfw_uploads_features_absolute_0.2_utility``, ``lfw_uploads_blur-1_authorised``.
    """
    found: dict[str, float] = {}
    for line in up.to_dict("records"):
        if line["bound"] in (0.0, 0.1, 0.2) and line["kappa"] in (0.0, 0.5, 0.6, 0.9):
            found[f"{line['dataset']}_{line['images']}_up_{line['bound']:g}_{line['kappa']:g}"] = line["total"]
    for line in lines[lines["threshold"] == "paper"].to_dict("records"):
        name = f"{line['dataset']}_{line['images']}_features_{line['scale']}_{line['amplitude']:g}"
        found[f"{name}_utility"] = 100 * line["utility"]
        if not math.isnan(line["privacy"]):
            found[f"{name}_privacy"] = line["privacy"]
    for line in cells.to_dict("records"):
        found[f"{line['dataset']}_{line['images']}_{line['operation']}_{line['role']}"] = 100 * line["accuracy"]
    return {name: round(float(value), 3) for name, value in found.items()}


def reading(up: pd.DataFrame, lines: pd.DataFrame, cells: pd.DataFrame) -> str:
    """The paper's claims of Section 6.7 held against the numbers at hand, and the rest in words (Markdown)."""
    said = [_reading_of_grid(name, part) for name, part in up.groupby("dataset", sort=False)]
    for keys, part in lines.groupby(["dataset", "threshold"], sort=False):
        said.append(_reading_of_features(next(iter(keys)), part))
    said += [_reading_of_processing(name, part) for name, part in cells.groupby("dataset", sort=False)]
    return "\n".join(f"- {line}" for line in said if line) or "Nothing was measured."


def _title(dataset: Any) -> str:
    return TITLES.get(str(dataset), str(dataset))


_MOST = "holds in most cells"


class _Count(NamedTuple):
    """In how many of ``size`` comparisons UP of uploads is above and below that of originals, beyond the interval."""

    higher: int
    lower: int
    size: int

    @classmethod
    def of(cls, gaps: pd.DataFrame) -> _Count:
        return cls(int((gaps["gap_low"] > 0).sum()), int((gaps["gap_high"] < 0).sum()), len(gaps))


def _overall(*parts: _Count) -> str:
    """The verdict on what the paper says of cells overall, judged in parts: in part where not of each.

    A part needs most of its cells, and the verdict says so where it is not all.
    """
    said = {
        HOLDS if one.higher == one.size else _MOST if 2 * one.higher > one.size else NOT for one in parts if one.size
    }
    if NOT in said:
        return NOT if said == {NOT} else IN_PART
    return _MOST if _MOST in said else HOLDS


def _total(counts: Sequence[_Count]) -> _Count:
    return _Count(*(sum(column) for column in zip(*counts, strict=True)))


@dataclass(frozen=True)
class _Grid:
    """Fig. 10 of one set in counts.

    Attributes:
        alike: the noise bounds with thresholds that both recognise all images at. UP is 1 + LPIPS there whatever the
            threshold is, so that its cells are one comparison.
        told: the other cells.
        worse: the thresholds of cells where it is not above.
        span: the thresholds up to 0.6, first and last.
        lost: how far UP of uploads falls at most over that span.
        stable, bounds: at how many of the noise bounds it falls by no more than :data:`STABLE`.
        falls: images to the first threshold at which UP has fallen by that, at each bound.
        earlier: at how many bounds that comes first for originals.
        peaks, thresholds: at how many of the thresholds UP of originals has a peak over the bounds.
        n: photographs.
    """

    alike: _Count
    told: _Count
    worse: Sequence[float]
    span: tuple[float, float]
    lost: float
    stable: int
    bounds: int
    falls: Mapping[str, Mapping[float, float]]
    earlier: int
    peaks: int
    thresholds: int
    n: int


def _grid(up: pd.DataFrame) -> _Grid | None:
    table = {name: part.pivot(index="bound", columns="kappa", values="total") for name, part in up.groupby("images")}
    if set(table) != {UPLOADS, ORIGINALS}:
        return None
    ours = table[UPLOADS]
    gaps, others = (
        up[up["images"] == images].set_index(["bound", "kappa"]).sort_index() for images in (UPLOADS, ORIGINALS)
    )
    all_recognised = (gaps["utility"] == 1) & (others["utility"] == 1)
    upto = [float(kappa) for kappa in up["kappa"].unique() if kappa <= 0.6]
    moved = ours[upto].max(axis=1) - ours[upto].min(axis=1)
    falls = {str(name): _falls(part) for name, part in table.items()}
    return _Grid(
        _Count.of(gaps[all_recognised].groupby("bound").first()),
        _Count.of(gaps[~all_recognised]),
        sorted({float(kappa) for _, kappa in gaps.index[gaps["gap_low"] <= 0]}),
        (upto[0], upto[-1]),
        float(moved.to_numpy().max()),
        int((moved <= STABLE).sum()),
        len(ours),
        falls,
        sum(falls[ORIGINALS][bound] < falls[UPLOADS][bound] for bound in ours.index),
        int(up[(up["images"] == ORIGINALS) & up["peaked"].astype(bool)]["kappa"].nunique()),
        len(table[ORIGINALS].columns),
        int(up["n"].max()),
    )


def claims(up: pd.DataFrame, lines: pd.DataFrame) -> list[Claim]:
    """What the paper says of Figs. 9 and 10, held against all sets together; features at that of Section 6.6."""
    found = {str(name): one for name, part in up.groupby("dataset", sort=False) if (one := _grid(part)) is not None}
    said = []

    def each(write: Callable[[_Grid], str]) -> str:
        return ", ".join(f"{write(one)} ({_title(name)})" for name, one in found.items())

    if found:
        grids = list(found.values())
        peaked = overall([one.peaks == one.thresholds for one in grids])
        said += [
            Claim(
                "UP of uploads is overall above that of photographs (Fig. 10)",
                "",
                "where both have a Utility of 100%, so that κ does not matter, it is higher at "
                f"{each(lambda one: f'{one.alike.higher} of {one.alike.size} noise bounds')}; in the other cells "
                f"higher in {each(lambda one: f'{one.told.higher} and lower in {one.told.lower} of {one.told.size}')}",
                _overall(_total([one.alike for one in grids]), _total([one.told for one in grids])),
            ),
            Claim(
                "UP of uploads is stable up to κ = 0.6",
                "",
                f"it falls by at most {max(one.lost for one in grids):.2f}",
                overall([one.stable == one.bounds for one in grids]),
            ),
            Claim(
                "UP of photographs, in contrast, falls as κ rises",
                "",
                f"it has fallen by {STABLE} at a lower κ than that of uploads at "
                + each(lambda one: f"{one.earlier} of {one.bounds} noise bounds"),
                overall([one.earlier == one.bounds for one in grids]),
            ),
            Claim(
                "UP of photographs always has a peak (read as: over δ)",
                "",
                f"it has one inside the range at {each(lambda one: f'{one.peaks} of {one.thresholds} thresholds')}",
                peaked,
            ),
        ]
    absolute = {
        str(name): feature
        for name, part in lines[lines["threshold"] == "paper"].groupby("dataset", sort=False)
        if (feature := _features(part)) is not None
    }
    if absolute:
        term = "UP" if all(one.term == "total" for one in absolute.values()) else "Utility"
        clear = ", ".join(f"{one.clear} of {one.count} ({_title(name)})" for name, one in absolute.items())
        reversed_at = {name: min(one.reversed) for name, one in absolute.items() if one.reversed}
        beyond = (
            f"; these are at most {100 * max(one.small for one in absolute.values()):.1f}% of the features' standard "
            "deviation"
        )
        if reversed_at:
            which = listed([f"{where:g} ({_title(name)})" for name, where in reversed_at.items()])
            beyond += f", and at {which} times that deviation the order is reversed"
        said += [
            Claim(
                "UP of features of uploads is significantly above that of photographs' (Fig. 9)",
                "",
                f"at κ = {next(iter(absolute.values())).kappa:g}, that of the paper's Section 6.6, the intervals lie "
                f"apart at {clear} amplitudes{beyond}"
                if term == "UP"
                else "Privacy of features was not run",
                overall([one.clear == one.count for one in absolute.values()]) if term == "UP" else UNJUDGED,
            ),
            Claim(
                "UP of those features does not move for noise up to 0.2",
                "",
                f"{term} moves by {max(one.moved for one in absolute.values()):.2f}, and that of photographs by "
                f"{max(one.theirs for one in absolute.values()):.2f}",
                overall([one.moved <= STABLE for one in absolute.values()]),
            ),
        ]
    return said


@dataclass(frozen=True)
class _Features:
    """Fig. 9 of one set and threshold in counts.

    Attributes:
        term: what is compared: UP (``total``), or Utility where Privacy was not run.
        clear, count: at how many of the paper's amplitudes the intervals of uploads lie above those of originals.
        moved: how far uploads move from 0 to 0.2; ``theirs``: originals.
        reversed: the amplitudes, in standard deviations of features, at which originals lie above.
        small: the paper's largest amplitude in standard deviations of the features; not a number without such.
        kappa: the threshold of Utility.
    """

    term: str
    clear: int
    count: int
    moved: float
    theirs: float
    reversed: Sequence[float]
    small: float
    kappa: float


def _features(lines: pd.DataFrame) -> _Features | None:
    absolute, relative = (lines[lines["scale"] == scale] for scale in (ABSOLUTE, RELATIVE))
    term = "total" if bool(absolute["total"].notna().all()) else "utility"
    table = {name: part.set_index("amplitude") for name, part in absolute.groupby("images")}
    if set(table) != {UPLOADS, ORIGINALS}:
        return None
    ours, theirs = table[UPLOADS], table[ORIGINALS]
    moved = {name: float(np.ptp(part[part.index <= 0.2][term])) for name, part in table.items()}
    wide = {str(name): part.set_index("amplitude").sort_index() for name, part in relative.groupby("images")}
    other_way = (
        [float(one) for one in wide[UPLOADS].index if _apart(wide, one, term) < 0]
        if set(wide) == {UPLOADS, ORIGINALS}
        else []
    )
    clear = int((ours[f"{term}_low"] > theirs[f"{term}_high"]).sum())
    small = math.nan
    if len(other := wide.get(UPLOADS, ours[:0])):
        small = float(absolute["amplitude"].max()) * float(other.index[0]) / float(other["sigma"].iloc[0])
    kappa = float(lines["kappa"].iloc[0])
    return _Features(term, clear, len(ours), moved[UPLOADS], moved[ORIGINALS], other_way, small, kappa)


def _apart(table: Mapping[str, pd.DataFrame], amplitude: Any, term: str) -> int:
    """1 where the interval of uploads lies above that of originals, -1 where below, 0 where they overlap."""
    one, other = table[UPLOADS].loc[amplitude], table[ORIGINALS].loc[amplitude]
    return int(one[f"{term}_low"] > other[f"{term}_high"]) - int(one[f"{term}_high"] < other[f"{term}_low"])


def _reading_of_grid(dataset: Any, up: pd.DataFrame) -> str:
    found = _grid(up)
    if found is None:
        return ""
    beyond = (
        f"; the cells where it is not higher are at κ = {', '.join(f'{kappa:g}' for kappa in found.worse)}"
        if found.worse
        else ""
    )
    contrast = HOLDS if found.earlier == found.bounds else IN_PART if found.earlier else "does not exist"
    return (
        f"**{_title(dataset)}, images (Fig. 10).** *UP of uploads above that of originals, overall:* "
        f"{_overall(found.alike, found.told)}: where both have a Utility of 100% (UP is 1 + LPIPS there whatever κ is) "
        f"it is higher at {found.alike.higher} of {found.alike.size} noise bounds and lower at {found.alike.lower}; "
        f"in the other cells it is higher in {found.told.higher} of {found.told.size} and lower in "
        f"{found.told.lower}, beyond the 95% interval of the difference on the same photographs (n = {found.n})"
        f"{beyond}. "
        f"*UP of uploads stable up to κ = 0.6:* {overall([found.stable == found.bounds])}: between κ = "
        f"{found.span[0]:g} and {found.span[1]:g} it falls by at most {found.lost:.2f}, and by {STABLE} or less at "
        f"{found.stable} of {found.bounds} noise bounds. *In contrast UP of originals keeps falling as κ rises:* the "
        f"contrast {contrast}: it has fallen by {STABLE} at {_range(found.falls[ORIGINALS])}, that of uploads at "
        f"{_range(found.falls[UPLOADS])}; at {found.earlier} of {found.bounds} noise bounds originals fall first (by "
        f"its definition UP never rises with κ). *UP of originals always has a peak over δ:* "
        f"{overall([found.peaks == found.thresholds])}: at {found.peaks} of {found.thresholds} thresholds UP inside "
        "the range is above that at both its ends, beyond the 95% intervals of the differences."
    )


def _falls(table: pd.DataFrame) -> dict[float, float]:
    """For each noise bound the first kappa at which UP has fallen by :data:`STABLE`; infinity if at none."""
    kappas = table.columns.to_numpy(dtype=np.float64)
    found = {}
    for bound, values in zip(table.index.to_numpy(dtype=np.float64), table.to_numpy(dtype=np.float64), strict=True):
        low = np.flatnonzero(values[0] - values >= STABLE)
        found[float(bound)] = float(kappas[low[0]]) if len(low) else math.inf
    return found


def _range(falls: Mapping[float, float]) -> str:
    low, high = min(falls.values()), max(falls.values())
    if math.isinf(low):
        return "no κ that was looked at"
    if math.isinf(high):
        return f"κ = {low:g} at the earliest and, at some noise bounds, at no κ that was looked at"
    return f"κ = {low:g}" if low == high else f"κ = {low:g} to {high:g}"


def _reading_of_features(dataset: Any, lines: pd.DataFrame) -> str:
    kappa, n = float(lines["kappa"].iloc[0]), int(lines["n"].max())
    absolute = lines[lines["scale"] == ABSOLUTE]
    text = f"**{_title(dataset)}, features (Fig. 9), κ = {kappa:.2g}.** "
    found = _features(lines)
    term = "total" if found is None else found.term
    if found is not None:
        text += "*UP of obfuscated features significantly above that of original ones:* "
        if term == "total":
            text += (
                f"{overall([found.clear == found.count])}: the intervals lie apart at {found.clear} of {found.count} "
                "amplitudes "
            )
        else:
            text += "not judged: Privacy was not run "
        text += (
            f"(n = {n}). *Not sensitive to noise from 0 to 0.2:* {overall([found.moved <= STABLE])}"
            f"{'' if term == 'total' else ' for Utility'}: it moves by {found.moved:.2f}."
        )
    relative = lines[lines["scale"] == RELATIVE]
    wide = {str(name): part.set_index("amplitude").sort_index() for name, part in relative.groupby("images")}
    if set(wide) == {UPLOADS, ORIGINALS} and len(absolute):
        ours, theirs = wide[UPLOADS], wide[ORIGINALS]
        small = float(absolute["amplitude"].max()) * float(ours.index[0]) / float(ours["sigma"].iloc[0])
        parts = []
        for amplitude in ours.index:
            one, other = ours.loc[amplitude], theirs.loc[amplitude]
            apart = {1: "higher", -1: "lower: the claim is reversed", 0: "not told apart"}[
                _apart(wide, amplitude, term)
            ]
            parts.append(f"at {amplitude:g} {with_interval(one, term)} against {with_interval(other, term)} ({apart})")
        name = "UP" if term == "total" else "Utility"
        text += (
            f" But those amplitudes are at most {100 * small:.1f}% of the features' standard deviation, and {name} of "
            f"originals moves as little. In standard deviations, {name} of uploads against originals: "
            f"{'; '.join(parts)}."
        )
        last = ours.index[-1]
        text += (
            f" At {last:g} (σ = {float(ours['sigma'].iloc[-1]):.2f}) Utility is "
            f"{with_interval(ours.loc[last], 'utility')} for uploads and "
            f"{with_interval(theirs.loc[last], 'utility')} for originals (strangers accepted: "
            f"{100 * ours.loc[last, 'stranger']:.0f} and {100 * theirs.loc[last, 'stranger']:.0f}%)."
        )
    return text


def beyond(cells: pd.DataFrame) -> str:
    """What operations of a service do to uploads at worst, on any set, a sentence (Markdown); empty without results."""
    part = cells[(cells["images"] == UPLOADS) & (cells["operation"] != NONE)] if len(cells) else cells
    if not len(part):
        return ""

    def written(line: Any) -> str:
        return f"{claims_rate(line, places=0)} (after {label(str(line['operation']))}, {_title(line['dataset'])})"

    own, others = (part[part["role"] == role].sort_values("accuracy") for role in ("authorised", "unauthorised"))
    text = f"of what services do to images, the worst leaves the authorised one {written(own.iloc[0])}"
    return text + (f", and the best gives the others {written(others.iloc[-1])}." if len(others) else ".")


def _reading_of_processing(dataset: Any, cells: pd.DataFrame) -> str:
    def at(images: str, role: str) -> pd.DataFrame:
        return cells[(cells["images"] == images) & (cells["role"] == role)].set_index("operation")

    def written(line: Any) -> str:
        return claims_rate(line, places=0)

    own, others, clean = at(UPLOADS, "authorised"), at(UPLOADS, "unauthorised"), at(ORIGINALS, "authorised")
    changed = own.drop(index=NONE, errors="ignore")
    if not len(changed) or NONE not in own.index:
        return ""
    worst = str(changed["accuracy"].idxmin())
    lowered = changed[changed["change_high"] < 0]
    n = int(cells["n"].max())
    which = f" ({'; '.join(label(str(one)) for one in lowered.index)})" if len(lowered) else ""
    text = (
        f"**{_title(dataset)}, processed uploads** (Eq. 10, n = {n} pairs, calibrated thresholds). The authorised "
        f"service has {written(own.loc[NONE])} on uploads as they are. {len(lowered)} of {len(changed)} operations "
        f"lower that rate beyond Newcombe's 95% interval of the change on the same pairs{which}; the lowest rate is "
        f"{written(own.loc[worst])} after {label(worst)}, where photographs have {written(clean.loc[worst])}."
    )
    if len(others):
        best = str(others.drop(index=NONE)["accuracy"].idxmax())
        text += (
            f" Networks without authorisation have {written(others.loc[NONE])} on average as they are, and at most "
            f"{written(others.loc[best])} after {label(best)} (SSIM to the photograph "
            f"{float(others['ssim'][best]):.2f})."
        )
    return text


def label(key: str) -> str:
    """An operation in words, from its key in stored results."""
    kind, _, value = key.partition("-")
    words = {
        NONE: "no operation",
        "jpeg": f"JPEG, quality {value}",
        "webp": f"WebP, quality {value}",
        "resize": f"resizing to {value} of the side and back",
        "crop": f"cropping to {value} of the side",
        "blur": f"a blur, σ = {value} px",
        "bits": f"rounding to {value} bits",
    }
    return words[kind]


def not_run(blocks: Sequence[RobustnessBlock]) -> list[str]:
    """One line for each part that has no result, or whose result could not be computed again."""
    return _not_run((row for block in blocks for row in block.rows()), TITLES)


def reproduction(blocks: Sequence[RobustnessBlock]) -> str:
    """After a recomputation: by how much any stored number has moved; empty where nothing was computed again."""
    return recomputed(outcome for block in blocks for _, _, outcome in block.rows())
