"""Uploads made in other ways: what the sections on parameters, ablation, scalability and robustness look at.

Two results are stored for each set and variant, shared by all sections that ask for it: ``variants``, who recognises
the uploads (Eq. 10) and how alike they are to the photographs; and ``noise``, the terms of Eq. 9 under noise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from pydantic import model_validator
from pydantic_core import PydanticCustomError
from torch import Tensor

from pmtlib import metrics
from pmtlib.errors import DatasetError
from pmtlib.experiments.abuse import KEPT_WITHIN
from pmtlib.experiments.claims import listed
from pmtlib.experiments.common import (
    Bench,
    Floats,
    Made,
    Outcome,
    SectionSettings,
    Source,
    binary,
    rate,
    rounded,
    same_data,
    share_interval,
)
from pmtlib.images import add_noise, quantise
from pmtlib.reproduction import Recompute, difference
from pmtlib.transform import PMTConfig

VERSION = 1
LPIPS, LPIPS_ALEX = "lpips", "lpips_alex"
"""The distances of Eq. 9's Privacy in stored results: VGG's trunk, which the tables use, and AlexNet's beside it."""
PAPER, CALIBRATED = "paper", "calibrated"
ORIGINAL = "original"
"""Stands for the photograph itself in the place of an upload."""


class VariantSettings(SectionSettings):
    """Parameters of a section that compares uploads made in several ways.

    Attributes:
        authorised: the network whose shallow model is used. The paper's is IR50-Softmax.
        noise_bounds: sigma of Eq. 9 (the paper's noise bound), standard deviation on the [0, 1] scale; its figures
            go from 0 to 0.3.
        noise_seed: of those draws; photograph and upload have noise of their own.
    """

    one_authorised: ClassVar[bool] = True
    """Whether the section is about one authorised network, which is then one of those that are evaluated."""

    authorised: str = "mobilefacenet"
    noise_bounds: tuple[float, ...] = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
    noise_seed: int = 0

    @model_validator(mode="after")
    def _evaluated(self) -> Self:
        if self.one_authorised and self.authorised not in self.networks:
            raise PydanticCustomError(
                "authorised",
                "the authorised network, {name}, must be one of the evaluated ones; name it among networks, or another "
                "as authorised",
                {"name": self.authorised},
            )
        return self


class Photographs(NamedTuple):
    """The photographs of a set of pairs: each first one once, since its upload depends on nothing else.

    Attributes:
        originals: (U, 3, 112, 112), the distinct first photographs.
        place: (P,) row of a pair's first photograph in ``originals``.
        others: (P, 3, 112, 112), the second photographs.
        same: (P,) whether the two show one person.
    """

    originals: Tensor
    place: NDArray[np.int64]
    others: Tensor
    same: NDArray[np.bool_]


_Settings = TypeVar("_Settings", bound=VariantSettings)


class Variants(Bench[_Settings]):
    """A :class:`~pmtlib.experiments.common.Bench` that measures uploads made in many ways.

    Args:
        settings: the section's parameters.
        device: where to compute.
        recompute: compute also what is stored.
        profile: the profile's name, for the command in manifests.
    """

    def __init__(
        self, settings: _Settings, device: torch.device, *, recompute: Recompute = False, profile: str = "paper"
    ) -> None:
        super().__init__(settings, device, recompute=recompute, profile=profile)
        self._photographs: dict[str, Photographs] = {}

    def photographs(self, dataset: str) -> Photographs:
        """Those of the evaluated pairs, loaded once.

        Raises:
            DatasetError: the set is not there.
        """
        if dataset not in self._photographs:
            sample = self.sample(dataset)
            if isinstance(sample, DatasetError):
                raise sample
            first, place = np.unique(sample.pairs[:, 0], return_inverse=True)
            originals, others = sample.tensor(first), sample.tensor(sample.pairs[:, 1])
            self._photographs[dataset] = Photographs(originals, place, others, np.asarray(sample.same, dtype=bool))
        return self._photographs[dataset]

    def configured(self, changes: Mapping[str, Any]) -> PMTConfig:
        """The section's transform with some fields changed.

        Raises:
            ValueError: a value is not allowed.
        """
        return PMTConfig.model_validate({**self.settings.pmt.model_dump(), **changes})

    def made(
        self, dataset: str, changes: Mapping[str, Any], authorised: Sequence[str] = (), cut: int | None = None
    ) -> Made:
        """The uploads of a variant, not yet rounded."""
        names = tuple(authorised) or (self.settings.authorised,)
        description = f"{dataset}, {'+'.join(names)}, {variant_name(changes, cut)}"
        originals = self.photographs(dataset).originals
        return self.protect(originals, names, description, config=self.configured(changes), cut=cut)

    def recognised(
        self,
        dataset: str,
        changes: Mapping[str, Any] | None = None,
        authorised: Sequence[str] = (),
        cut: int | None = None,
    ) -> Outcome:
        """Who recognises the uploads of a variant, and how alike they are to the photographs.

        Args:
            dataset: which set.
            changes: fields of the transform that differ from the section's.
            authorised: networks it is made for; the section's by default.
            cut: units of the shallow model; the section's by default.
        """
        changes = dict(changes or {})
        names = tuple(authorised) or (self.settings.authorised,)
        parameters = {
            "authorised": list(names),
            "cut": self.settings.cut if cut is None else cut,
            "pmt": self.configured(changes).model_dump(mode="json"),
        }
        name = f"{dataset}--{'+'.join(names)}--{variant_name(changes, cut)}"
        request = self.request("variants", name, VERSION, parameters, names)

        def compute() -> dict[str, Any]:
            made = self.made(dataset, changes, names, cut)
            return {
                **self.opinions(self.photographs(dataset), quantise(made.images)),
                "feature_error": [rounded(column) for column in made.error.numpy().T],
                "feature_cosine": [rounded(column) for column in made.cosine.numpy().T],
            }

        return self.obtain(request, self.source(dataset), compute)

    def opinions(self, photographs: Photographs, uploaded: Tensor) -> dict[str, Any]:
        """What is stored about uploads (U, 3, 112, 112): cosines of each network for each pair, and SSIM."""
        originals, place, others, same = photographs
        networks = {}
        for name in self.settings.networks:
            seen = self.embed(name, uploaded)[place]
            networks[name] = {
                "own": rounded(metrics.cosine(seen, self.embed_once(name, originals)[place])),
                "other": rounded(metrics.cosine(seen, self.embed_once(name, others))),
            }
        return {
            "same": same.astype(int).tolist(),
            "networks": networks,
            "ssim": rounded(metrics.ssim(uploaded, originals)),
        }

    def noisy(
        self,
        dataset: str,
        changes: Mapping[str, Any] | None = None,
    ) -> Outcome:
        """The two terms of Eq. 9 for the uploads of a variant, or for the photographs themselves.

        Both sides have Gaussian noise of their own and are what a service would hold: rounded to 8 bits first.

        Args:
            dataset: which set.
            changes: fields of the transform that differ from the section's; None for the photographs.
        """
        settings = self.settings
        pmt = None if changes is None else self.configured(changes).model_dump(mode="json")
        parameters = {
            "authorised": settings.authorised,
            "cut": self.settings.cut,
            "pmt": pmt,
            "bounds": list(settings.noise_bounds),
            "noise_seed": settings.noise_seed,
            "distances": ["lpips-vgg", "lpips-alex"],
        }
        what = ORIGINAL if changes is None else variant_name(changes, None)
        name = f"{dataset}--{settings.authorised}--{what}"
        request = self.request("noise", name, VERSION, parameters, (settings.authorised,))

        def compute() -> dict[str, Any]:
            originals = self.photographs(dataset).originals
            uploads = originals if changes is None else quantise(self.made(dataset, changes).images)
            values = {}
            for bound in settings.noise_bounds:
                ours = add_noise(uploads, bound, settings.noise_seed + 1)
                theirs = add_noise(originals, bound, settings.noise_seed)
                cosines = metrics.cosine(self.embed(settings.authorised, ours), self.embed(settings.authorised, theirs))
                ours, theirs = ours.to(self.device), theirs.to(self.device)
                values[str(bound)] = {
                    "cosine": rounded(cosines),
                    LPIPS: rounded(metrics.lpips(ours, theirs, "vgg")),
                    LPIPS_ALEX: rounded(metrics.lpips(ours, theirs, "alex")),
                }
            return values

        return self.obtain(request, self.source(dataset), compute)

    def source(self, dataset: str) -> Source | DatasetError:
        """What a data set's results are of, or why there is none."""
        return Source.of_pairs(self.sample(dataset))


def variant_name(changes: Mapping[str, Any], cut: int | None) -> str:
    """A readable name of what differs from the section's settings, fit for a file: ``kernel-none+cut-7``."""
    parts = [f"{key.replace('_', '-')}-{str(value).lower()}" for key, value in sorted(changes.items())]
    return "+".join([*parts, *([] if cut is None else [f"cut-{cut}"])]) or "defaults"


def recognition_cells(
    outcomes: Iterable[tuple[Mapping[str, Any], Outcome]], thresholds: Mapping[str, Outcome], settings: SectionSettings
) -> pd.DataFrame:
    """Eq. 10 for each variant and network, in long form.

    Args:
        outcomes: what identifies a variant (``dataset`` and whatever else becomes a column), and its result.
        thresholds: data set to its thresholds.
        settings: for the paper's threshold and the networks it says nothing about.

    Returns:
        DataFrame with the identifying columns, network, role (``authorised`` or ``unauthorised``), threshold
        (``paper`` or ``calibrated``), kappa, successes, n, accuracy, low, high (95% Wilson).
    """
    lines = []
    for identity, outcome in outcomes:
        clean = thresholds[identity["dataset"]].result
        if outcome.result is None or clean is None:
            continue
        same_data(clean, outcome.result)
        values = outcome.result.values
        same = np.array(values["same"], dtype=bool)
        authorised = outcome.result.request.parameters["authorised"]
        for network, scores in values["networks"].items():
            role = "authorised" if network in authorised else "unauthorised"
            for kind, kappa in ((PAPER, settings.kappa), (CALIBRATED, clean.values["networks"][network]["threshold"])):
                if kind == PAPER and network in settings.kappa_excluded:
                    continue
                correct = metrics.eq10(scores["own"], scores["other"], same, kappa)
                where = {"network": network, "role": role, "threshold": kind, "kappa": kappa}
                lines.append({**identity, **where, **rate(correct)})
    return pd.DataFrame(lines)


def role_means(
    outcomes: Iterable[tuple[Mapping[str, Any], Outcome]],
    thresholds: Mapping[str, Outcome],
    settings: SectionSettings,
) -> pd.DataFrame:
    """Mean accuracy (Eq. 10) over authorised and over unauthorised networks, with intervals over pairs.

    A pair counts with the share of the networks that got it right; pairs are resampled, so that networks that fail on
    the same pairs do not make the interval look narrow. One network alone has a rate, with Wilson's interval.

    Returns:
        DataFrame with the identifying columns, threshold, role, accuracy, low, high (95%), n, and ssim (mean).
    """
    lines = []
    for identity, outcome in outcomes:
        clean = thresholds[identity["dataset"]].result
        if outcome.result is None or clean is None:
            continue
        for kind in (PAPER, CALIBRATED):
            for role, share in role_shares(outcome, thresholds[identity["dataset"]], settings, kind).items():
                interval = share_interval(share)
                line = {"threshold": kind, "role": role, "accuracy": share.mean(), "low": interval.low}
                rest = {"high": interval.high, "n": len(share), "ssim": float(np.mean(outcome.result.values["ssim"]))}
                lines.append({**identity, **line, **rest})
    return pd.DataFrame(lines)


def role_shares(
    outcome: Outcome, clean: Outcome, settings: SectionSettings, kind: str = CALIBRATED
) -> dict[str, Floats]:
    """For each role, the share of its networks that got a pair right (Eq. 10), (P,); {} without a result."""
    if outcome.result is None or clean.result is None:
        return {}
    same_data(clean.result, outcome.result)
    values = outcome.result.values
    same = np.array(values["same"], dtype=bool)
    authorised = outcome.result.request.parameters["authorised"]
    right: dict[str, list[NDArray[np.bool_]]] = {}
    for network, scores in values["networks"].items():
        if kind == PAPER and network in settings.kappa_excluded:
            continue
        kappa = settings.kappa if kind == PAPER else clean.result.values["networks"][network]["threshold"]
        role = "authorised" if network in authorised else "unauthorised"
        right.setdefault(role, []).append(metrics.eq10(scores["own"], scores["other"], same, kappa))
    return {role: np.mean(right[role], axis=0) for role in ("authorised", "unauthorised") if role in right}


class Gap(NamedTuple):
    """A mean difference over the same pairs or photographs, and its 95% interval.

    The interval is Newcombe's where both sides are right or wrong, as one network is; otherwise, as for a mean over
    several networks, a bootstrap.
    """

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, one: ArrayLike, other: ArrayLike, groups: Sequence[Any] | None = None) -> Gap:
        """Of ``one`` minus ``other``.

        Args:
            one: (n,), at least one value.
            other: (n,), of the same pairs or photographs.
            groups: as in :func:`pmtlib.metrics.bootstrap`; outcomes of one network count as independent regardless.
        """
        ours, theirs = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
        mean = float((ours - theirs).mean())
        if binary(ours) and binary(theirs):
            first, second = ours == 1, theirs == 1
            cells = (first & second, first & ~second, ~first & second, ~first & ~second)
            return cls(mean, *metrics.newcombe(*(int(cell.sum()) for cell in cells)))
        return cls(mean, *metrics.bootstrap(ours - theirs, seed=0, groups=groups))

    @property
    def sign(self) -> int:
        """1 or -1 where the interval excludes zero, else 0."""
        return int(self.low > 0) - int(self.high < 0)

    def points(self) -> str:
        """In percentage points: ``+3.1 [+1.0, +5.2]``."""
        return _signed(f"{100 * self.mean:+.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]")

    def plain(self) -> str:
        """As it is: ``+0.31 [+0.10, +0.52]``."""
        return _signed(f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]")


def keeps(change: float) -> bool:
    """Whether a service keeps its accuracy: a mean change, a share, of no loss beyond :data:`KEPT_WITHIN` points.

    The margin of the page on data abuse, by the mean alone: an interval of a hundred pairs would hold most losses.
    """
    return 100 * change >= -KEPT_WITHIN


def _signed(text: str) -> str:
    # A hyphen in front of a number in running text reads as a dash.
    return text.replace("-", "\N{MINUS SIGN}")


def up_terms(outcome: Outcome, kappa: float, distance: str = LPIPS) -> dict[float, Floats]:
    """UP of Eq. 9 of each photograph by noise bound, with one of the stored distances; {} without a result."""
    if outcome.result is None:
        return {}
    return {
        float(bound): np.asarray(metrics.up(entry["cosine"], entry[distance], kappa).total, dtype=np.float64)
        for bound, entry in outcome.result.values.items()
    }


def up_lines(outcomes: Iterable[tuple[Mapping[str, Any], Outcome]], kappa: float) -> pd.DataFrame:
    """Eq. 9 and its terms for each variant and noise bound.

    Returns:
        DataFrame with the identifying columns, bound, kappa, n and, for each of utility, privacy and total, the mean
        and its 95% interval (``total``, ``total_low``, ``total_high``): Wilson's for utility, a rate, else a bootstrap.
    """
    lines = []
    for identity, outcome in outcomes:
        if outcome.result is None:
            continue
        for bound, entry in outcome.result.values.items():
            terms = metrics.up(entry["cosine"], entry[LPIPS], kappa)
            line: dict[str, Any] = {**identity, "bound": float(bound), "kappa": kappa, "n": len(terms.total)}
            for name, term in zip(terms._fields, terms, strict=True):
                numbers: Floats = np.asarray(term, dtype=np.float64)
                low, high = share_interval(numbers) if name == "utility" else metrics.bootstrap(numbers, seed=0)
                line |= {name: float(numbers.mean()), f"{name}_low": low, f"{name}_high": high}
            lines.append(line)
    return pd.DataFrame(lines)


def up_gaps(
    chosen: Sequence[tuple[str, str, Outcome]], choice: str, kappa: float, distance: str = LPIPS
) -> pd.DataFrame:
    """UP of one line of a figure minus that of each other one, on the same photographs, at each noise bound.

    Args:
        chosen: data set, name of the line and result.
        choice: the name of the line that the others are taken from.
        kappa: of Eq. 9.
        distance: :data:`LPIPS` or :data:`LPIPS_ALEX`.

    Returns:
        DataFrame with columns dataset, bound, other, n and gap (a :class:`Gap`).
    """
    lines = []
    for dataset in dict.fromkeys(dataset for dataset, _, _ in chosen):
        terms = {name: up_terms(outcome, kappa, distance) for one, name, outcome in chosen if one == dataset}
        own = terms.pop(choice, {})
        for bound, values in own.items():
            for name, other in terms.items():
                if bound in other:
                    line = {"dataset": dataset, "bound": bound, "other": name, "n": len(values)}
                    lines.append({**line, "gap": Gap.of(values, other[bound])})
    return pd.DataFrame(lines, columns=["dataset", "bound", "other", "n", "gap"])


def by_bound(gaps: pd.DataFrame) -> str:
    """Whether a line is above all others, on every set, and at which noise bounds, in words.

    ``holds at δ = 0 and 0.1, does not hold at δ = 0.3``, or one verdict alone where it is the same at all. A claim
    holds where every gap is above zero beyond its interval, and does not where one is below.
    """
    bounds: dict[str, list[str]] = {}
    for bound, part in gaps.groupby("bound"):
        signs = [gap.sign for gap in part["gap"]]
        told = "holds" if min(signs) > 0 else "does not hold" if min(signs) < 0 else "is not established"
        bounds.setdefault(told, []).append(f"{bound:g}")
    if len(bounds) == 1:
        return f"{next(iter(bounds))} at any of the bounds" if len(gaps["bound"].unique()) > 1 else next(iter(bounds))
    return ", ".join(f"{told} at δ = {listed(values)}" for told, values in bounds.items())


def not_run(outcomes: Iterable[tuple[str, str, Outcome]], titles: Mapping[str, str]) -> list[str]:
    """One line for a set none of whose results are there, else one a reason with the results that it holds for."""
    by_set: dict[str, dict[str, str]] = {}
    for dataset, row, outcome in outcomes:
        by_set.setdefault(dataset, {})[row] = outcome.note
    lines = []
    for dataset, notes in by_set.items():
        title, distinct = titles.get(dataset, dataset), {note for note in notes.values() if note}
        if len(distinct) == 1 and all(notes.values()):
            lines.append(f"{title}: {distinct.pop()}")
        else:
            for note in sorted(distinct):
                rows = ", ".join(row for row, said in notes.items() if said == note)
                lines.append(f"{title}, {rows}: {note}")
    return lines


def recomputed(outcomes: Iterable[Outcome]) -> str:
    """After a recomputation: by how much any stored number has moved, in words; empty where nothing was."""
    moved = [difference(o.result.values, o.previous.values) for o in outcomes if o.result and o.previous]
    if not moved:
        return ""
    return f"Recomputed {len(moved)} results: no stored number differs by more than {max(moved):.5f}."
