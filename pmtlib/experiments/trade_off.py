"""Section 6.6, the trade-off between privacy and utility (Fig. 8), and verification by the field's own measures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pmtlib import datasets, metrics, zoo
from pmtlib.errors import DatasetError
from pmtlib.experiments.claims import Claim, overall
from pmtlib.experiments.claims import rate as written
from pmtlib.experiments.common import TITLES, Floats, Outcome, Source, rate, rounded, section_settings, with_interval
from pmtlib.experiments.variants import CALIBRATED, LPIPS, PAPER, Gap, Variants, VariantSettings, recomputed, up_lines
from pmtlib.experiments.variants import not_run as _not_run
from pmtlib.images import add_noise, quantise

VERSION = 1
ORIGINALS, UPLOADS = "originals", "uploads"
CLEAN_CLEAN, PROTECTED_CLEAN, PROTECTED_PROTECTED = "clean-clean", "protected-clean", "protected-protected"
COMPARISONS = (CLEAN_CLEAN, PROTECTED_CLEAN, PROTECTED_PROTECTED)
AUC, EER, ACCURACY, RANK_1, RANK_5 = "auc", "eer", "accuracy", "rank_1", "rank_5"
RANKS = (1, 5)
ALMOST_ZERO = 0.1
"""A rate at most this counts as almost 0 in the verdict on the paper's claim."""

_OTHER_SET = {"lfw": "cfp_ff"}


class TradeOffSettings(VariantSettings):
    """Parameters of Section 6.6.

    Attributes:
        up_kappa: the threshold of its Utility; the paper sets 0.5 here.
    """

    section: ClassVar[str] = "trade-off"

    up_kappa: float = 0.5


def trade_off_settings(profile: str, **overrides: Any) -> TradeOffSettings:
    """Settings of a profile, see :func:`pmtlib.experiments.common.section_settings`."""
    return section_settings(TradeOffSettings, profile, **overrides)


@dataclass(frozen=True)
class TradeOffBlock:
    """Everything of one data set.

    Attributes:
        dataset: its name.
        clean: thresholds and scores on unprotected images.
        originals: the terms of Eq. 9 for the photographs under noise.
        uploads: the same for the uploads.
        control: the same criterion as Utility's between strangers, and identification, under the same noise.
        matching: scores of the three kinds of comparison, and identification.
    """

    dataset: str
    clean: Outcome
    originals: Outcome
    uploads: Outcome
    control: Outcome
    matching: Outcome

    def rows(self) -> list[tuple[str, str, Outcome]]:
        """Set, row and outcome, for the provenance table."""
        named = (
            ("thresholds", self.clean),
            ("noise, originals", self.originals),
            ("noise, uploads", self.uploads),
            ("noise, strangers", self.control),
            ("matching", self.matching),
        )
        return [(self.dataset, name, outcome) for name, outcome in named]

    def noise(self) -> list[tuple[Mapping[str, Any], Outcome]]:
        """The results under noise, as :func:`pmtlib.experiments.variants.up_lines` takes them."""
        return [
            ({"dataset": self.dataset, "images": ORIGINALS}, self.originals),
            ({"dataset": self.dataset, "images": UPLOADS}, self.uploads),
        ]


class TradeOff(Variants[TradeOffSettings]):
    """Fig. 8, and the measures by which face recognition is judged elsewhere.

    Args:
        settings: see :class:`TradeOffSettings`.
        device: where to compute.
        recompute: compute also what is stored.
        profile: the profile's name, for the command in manifests.
    """

    def run(self) -> list[TradeOffBlock]:
        """All sets. Each result is stored when done, so an interrupted run goes on where it was."""
        return [
            TradeOffBlock(
                name,
                self.thresholds(name),
                self.noisy(name, None),
                self.noisy(name, {}),
                self.control(name),
                self.matching(name),
            )
            for name in self.settings.datasets
        ]

    def control(self, dataset: str) -> Outcome:
        """What Utility does not ask: whether a noisy upload is told apart from other people's noisy photographs.

        For each noise bound, with the noise of Fig. 8: the cosine of each upload (and of each photograph) with the
        noisy photograph of a stranger, and whether the most alike of all noisy photographs shows the right person.
        """
        settings, sample = self.settings, self.sample(dataset)
        parameters = {
            "authorised": settings.authorised,
            "cut": settings.cut,
            "pmt": settings.pmt.model_dump(mode="json"),
            "bounds": list(settings.noise_bounds),
            "noise_seed": settings.noise_seed,
        }
        request = self.request("trade-off", f"{dataset}--strangers", VERSION, parameters, (settings.authorised,))

        def compute() -> dict[str, Any]:
            assert isinstance(sample, datasets.PairSet)
            named = identities(sample)
            people = [named[image] for image in np.unique(sample.pairs[:, 0])]
            originals = self.photographs(dataset).originals
            uploads = quantise(self.made(dataset, {}).images)
            other = strangers(people)
            values: dict[str, Any] = {ORIGINALS: {}, UPLOADS: {}}
            for bound in settings.noise_bounds:
                references = self.embed(settings.authorised, add_noise(originals, bound, settings.noise_seed))
                for name, images in ((ORIGINALS, originals), (UPLOADS, uploads)):
                    ours = self.embed(settings.authorised, add_noise(images, bound, settings.noise_seed + 1))
                    found = metrics.identification(
                        ours, references, gallery_identities=people, probe_identities=people, ks=(1,)
                    )
                    values[name][str(bound)] = {
                        "stranger": rounded(metrics.cosine(ours, references[other])),
                        "rank_1": found[1].astype(int).tolist(),
                    }
            return values

        return self.obtain(request, Source.of_pairs(sample), compute)

    def matching(self, dataset: str) -> Outcome:
        """Every network's scores of clean and protected photographs, and whom it takes them for among the others.

        A gallery holds the second photographs of all pairs; probes are the first ones of the pairs of one person. The
        thresholds stored with them are of another data set.
        """
        sample = self.sample(dataset)
        authorised = self.settings.authorised
        parameters = {
            "authorised": authorised,
            "cut": self.settings.cut,
            "pmt": self.settings.pmt.model_dump(mode="json"),
            "thresholds_of": threshold_set(dataset),
        }
        request = self.request("trade-off", f"{dataset}--matching", VERSION, parameters, (authorised,))

        def compute() -> dict[str, Any]:
            assert isinstance(sample, datasets.PairSet)
            return self._matching_values(dataset, sample)

        return self.obtain(request, Source.of_pairs(sample), compute)

    def _matching_values(self, dataset: str, sample: datasets.PairSet) -> dict[str, Any]:
        originals, place, others, same = self.photographs(dataset)
        authorised = self.settings.authorised
        uploads = quantise(self.made(dataset, {}).images)
        second, second_place = np.unique(sample.pairs[:, 1], return_inverse=True)
        description = f"{dataset}, {authorised}, second photographs"
        other_uploads = quantise(self.protect(sample.tensor(second), authorised, description).images)
        people = identities(sample)
        networks = {}
        for name in self.settings.networks:
            clean, other = self.embed_once(name, originals)[place], self.embed_once(name, others)
            protected = self.embed(name, uploads)[place]
            other_protected = self.embed(name, other_uploads)[second_place]
            sides = {
                CLEAN_CLEAN: (clean, other),
                PROTECTED_CLEAN: (protected, other),
                PROTECTED_PROTECTED: (protected, other_protected),
            }
            networks[name] = {
                "thresholds": far_thresholds(name, dataset),
                "scores": {kind: rounded(metrics.cosine(*pair)) for kind, pair in sides.items()},
                "identification": {
                    kind: {f"rank_{k}": found.astype(int).tolist() for k, found in identified(*pair, sample, people)}
                    for kind, pair in sides.items()
                },
            }
        return {
            "same": same.astype(int).tolist(),
            "fold": sample.folds.tolist(),
            "photograph": place.tolist(),
            "gallery": {"images": len(second), "people": len({people[image] for image in second})},
            "networks": networks,
        }


def strangers(people: Sequence[str]) -> NDArray[np.int64]:
    """For each of ``people`` the row of the next one, round the end, who is somebody else.

    Raises:
        DatasetError: all are one person.
    """
    count = len(people)
    if len(set(people)) < 2:
        raise DatasetError("no two people among the first photographs of the pairs. Remedy: take more pairs")
    return np.array(
        [next((i + k) % count for k in range(1, count) if people[(i + k) % count] != people[i]) for i in range(count)]
    )


def threshold_set(dataset: str) -> str:
    """The data set whose thresholds are used on ``dataset``: never its own."""
    return _OTHER_SET.get(dataset, "lfw")


def far_thresholds(network: str, dataset: str) -> dict[str, float] | None:
    """A network's stored thresholds at FAR 1e-2 and 1e-3, found on another data set; None where there are none."""
    entry = zoo.calibration(network, threshold_set(dataset))
    if entry is None:
        return None
    return {"far_1e2": round(entry.threshold_far_1e2, 5), "far_1e3": round(entry.threshold_far_1e3, 5)}


def identities(sample: datasets.PairSet) -> list[str]:
    """Who is on each image; where the set does not say, images linked by pairs of one person are one person."""
    if sample.identities is not None:
        return list(sample.identities)
    linked = sample.pairs[sample.same]
    size = len(sample.images)
    graph = coo_array((np.ones(len(linked)), (linked[:, 0], linked[:, 1])), shape=(size, size))
    return [str(label) for label in connected_components(graph, directed=False)[1]]


def identified(
    first: Floats, second: Floats, sample: datasets.PairSet, people: Sequence[str]
) -> list[tuple[int, NDArray[np.bool_]]]:
    """Rank-k identification of the first photographs of same pairs among the second ones of all pairs.

    A photograph that is a probe and in the gallery is left out of the gallery for that probe.

    Args:
        first: (P, D) embeddings of the first photographs, pair by pair.
        second: (P, D) those of the second.
        sample: the pairs.
        people: who is on each image.

    Returns:
        Each k of 1 and 5 with (S,) booleans, for the S pairs of one person in their order.
    """
    rows = np.flatnonzero(sample.same)
    similarities = (_unit(first[rows]) @ _unit(second).T).round(12)
    probes, gallery = sample.pairs[rows, 0], sample.pairs[:, 1]
    similarities[probes[:, None] == gallery[None, :]] = -2.0
    ranks = metrics.rank_k(similarities, [people[i] for i in gallery], [people[i] for i in probes], RANKS)
    return list(ranks.items())


def _unit(embeddings: Floats) -> Floats:
    """Rows of length one; zeros stay zeros."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit: Floats = np.divide(embeddings, lengths, out=np.zeros_like(embeddings), where=lengths > 0)
    return unit


def curves(blocks: Sequence[TradeOffBlock], settings: TradeOffSettings) -> pd.DataFrame:
    """Fig. 8: Utility and Privacy of originals and uploads against the noise bound.

    Returns:
        DataFrame as of :func:`pmtlib.experiments.variants.up_lines`, with columns dataset, images, threshold
        (``paper`` for ``up_kappa``, or ``calibrated``) in front.
    """
    parts = []
    for block in blocks:
        for threshold, kappa in thresholds(block.clean, settings.up_kappa, settings.authorised):
            noise = [({**identity, "threshold": threshold}, outcome) for identity, outcome in block.noise()]
            parts.append(up_lines(noise, kappa))
    columns = ["dataset", "images", "threshold", "bound", "kappa", "n"]
    if not any(map(len, parts)):
        return pd.DataFrame(columns=columns)
    return pd.concat(parts, ignore_index=True)


def thresholds(clean: Outcome, kappa: float, network: str) -> list[tuple[str, float]]:
    """The paper's threshold, and the network's own where it was calibrated."""
    own = [] if clean.result is None else [(CALIBRATED, float(clean.result.values["networks"][network]["threshold"]))]
    return [(PAPER, kappa), *own]


def control_lines(blocks: Sequence[TradeOffBlock], settings: TradeOffSettings) -> pd.DataFrame:
    """The control of Fig. 8, from :meth:`TradeOff.control`.

    Returns:
        DataFrame with columns dataset, images, threshold, bound, kappa, n, and stranger and rank_1 (rates) with their
        95% Wilson intervals (``stranger_low``, ...). rank_1 needs no threshold.
    """
    lines = []
    for block in blocks:
        if block.control.result is None:
            continue
        for threshold, kappa in thresholds(block.clean, settings.up_kappa, settings.authorised):
            for images, by_bound in block.control.result.values.items():
                for bound, entry in by_bound.items():
                    line = {"dataset": block.dataset, "images": images, "threshold": threshold, "bound": float(bound)}
                    line |= {"kappa": kappa, "n": len(entry["stranger"])}
                    accepted = np.asarray(entry["stranger"]) > kappa
                    for name, right in (("stranger", accepted), ("rank_1", np.array(entry["rank_1"], dtype=bool))):
                        cell = _share(right)
                        line |= {name: cell["value"], f"{name}_low": cell["low"], f"{name}_high": cell["high"]}
                    lines.append(line)
    ends = [f"{name}{end}" for name in ("stranger", "rank_1") for end in ("", "_low", "_high")]
    return pd.DataFrame(lines, columns=["dataset", "images", "threshold", "bound", "kappa", "n", *ends])


def comparison(blocks: Sequence[TradeOffBlock], settings: TradeOffSettings) -> pd.DataFrame:
    """What the upload has over the original at each noise bound, photograph by photograph.

    Returns:
        DataFrame with columns dataset, threshold, bound, kappa, term (``utility`` or ``privacy``), difference (mean of
        upload minus original), low, high (95%: Newcombe's for utility, a bootstrap over photographs for privacy), n.
    """
    lines = []
    for block in blocks:
        if block.originals.result is None or block.uploads.result is None:
            continue
        for threshold, kappa in thresholds(block.clean, settings.up_kappa, settings.authorised):
            for bound, original in block.originals.result.values.items():
                upload = block.uploads.result.values[bound]
                ours, theirs = (metrics.up(entry["cosine"], entry[LPIPS], kappa) for entry in (upload, original))
                for term in ("utility", "privacy"):
                    apart = Gap.of(getattr(ours, term), getattr(theirs, term))
                    line = {"dataset": block.dataset, "threshold": threshold, "bound": float(bound), "kappa": kappa}
                    rest = {"difference": apart.mean, "low": apart.low, "high": apart.high, "n": len(ours.total)}
                    lines.append({**line, "term": term, **rest})
    columns = ["dataset", "threshold", "bound", "kappa", "term", "difference", "low", "high", "n"]
    return pd.DataFrame(lines, columns=columns)


def matching_cells(blocks: Sequence[TradeOffBlock], settings: TradeOffSettings) -> pd.DataFrame:
    """Verification and identification of every network, in long form.

    Returns:
        DataFrame with columns dataset, network, role (``authorised`` or ``unauthorised``), comparison, measure
        (``auc``, ``eer``, ``accuracy`` over the folds, ``tar_far_1e2``, ``false_far_1e2`` and the same for 1e-3: the
        rates of true and of false acceptance at a threshold of another data set; ``rank_1``, ``rank_5``), value, low,
        high (95%: Wilson for rates, a bootstrap over first photographs for ``auc`` and ``eer``), n.
    """
    lines = []
    for block in blocks:
        if block.matching.result is None:
            continue
        values = block.matching.result.values
        same, folds = np.array(values["same"], dtype=bool), np.array(values["fold"])
        for network, entry in values["networks"].items():
            role = "authorised" if network == settings.authorised else "unauthorised"
            for kind in COMPARISONS:
                where = {"dataset": block.dataset, "network": network, "role": role, "comparison": kind}
                scores = np.array(entry["scores"][kind])
                cells = _cells(scores, same, folds, values["photograph"], entry["thresholds"])
                for rank, found in entry["identification"][kind].items():
                    cells[rank] = _share(np.array(found, dtype=bool))
                lines += [{**where, "measure": measure, **cell} for measure, cell in cells.items()]
    columns = ["dataset", "network", "role", "comparison", "measure", "value", "low", "high", "n"]
    return pd.DataFrame(lines, columns=columns)


def _cells(
    scores: Floats,
    same: NDArray[np.bool_],
    folds: NDArray[np.int64],
    photographs: Sequence[int],
    own: Mapping[str, float] | None,
) -> dict[str, dict[str, Any]]:
    cells: dict[str, dict[str, Any]] = {}
    samples = resampled(scores, same, photographs)
    for measure, function in ((AUC, metrics.auc), (EER, metrics.eer)):
        low, high = map(float, np.quantile(samples[measure], [0.025, 0.975]))
        cells[measure] = {"value": function(scores, same), "low": low, "high": high, "n": len(scores)}
    try:
        found = metrics.kfold_accuracy(scores, same, folds)
    except ValueError:
        pass  # Too few pairs for folds.
    else:
        names = np.unique(folds).tolist()
        limits = np.array([found.thresholds[names.index(fold)] for fold in folds.tolist()])
        cells[ACCURACY] = _share((scores > limits) == same)
    for rate_name, threshold in (own or {}).items():
        cells[f"tar_{rate_name}"] = _share(scores[same] > threshold)
        cells[f"false_{rate_name}"] = _share(scores[~same] > threshold)
    return cells


def _share(right: NDArray[np.bool_]) -> dict[str, Any]:
    found = rate(right)
    return {"value": found["accuracy"], "low": found["low"], "high": found["high"], "n": found["n"]}


def resampled(
    scores: Floats, same: NDArray[np.bool_], photographs: Sequence[int], *, seed: int = 0, resamples: int = 2000
) -> dict[str, Floats]:
    """AUC and EER of bootstrap samples, as :func:`pmtlib.metrics.auc` and :func:`pmtlib.metrics.eer` give them.

    Whole groups of pairs that share the first photograph are drawn: a pair counts as often as its group was.

    Returns:
        ``auc`` and ``eer``, (R,) each; samples without pairs of both kinds are left out.
    """
    groups, codes = np.unique(np.asarray(photographs), return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(len(groups), np.full(len(groups), 1 / len(groups)), resamples)
    weights: Floats = drawn[:, codes].astype(np.float64)
    weights = weights[(weights[:, same].sum(1) > 0) & (weights[:, ~same].sum(1) > 0)]
    alike, apart = (weights[:, kind] / weights[:, kind].sum(1, keepdims=True) for kind in (same, ~same))
    pairs = scores[same][:, None], scores[~same][None, :]
    area = ((alike @ ((pairs[0] > pairs[1]) + 0.5 * (pairs[0] == pairs[1]))) * apart).sum(1)
    limits = np.append(np.unique(scores)[::-1], -np.inf)
    excess = apart @ (scores[~same][:, None] > limits) - 1.0 + alike @ (scores[same][:, None] > limits)
    # The last limit accepts all; rounding must not hide the crossing there.
    excess[:, -1] = 1.0
    after = np.argmax(excess >= -1e-12, axis=1)
    rows = np.arange(len(excess))
    low, high = excess[rows, after - 1], np.maximum(excess[rows, after], 0.0)
    share = -low / (high - low)
    rates = apart @ (scores[~same][:, None] > limits)
    equal = rates[rows, after - 1] + share * (rates[rows, after] - rates[rows, after - 1])
    return {AUC: area, EER: equal}


def summary(lines: pd.DataFrame, control: pd.DataFrame, cells: pd.DataFrame) -> dict[str, float]:
    """Headline numbers: Utility, Privacy and control at the bounds 0 to 0.3, rates in percent, areas as they are.

    Names: ``lfw_uploads_paper_utility_0.2``, ``lfw_authorised_protected_clean_tar_far_1e3``.
    """
    found: dict[str, float] = {}
    for line in lines.to_dict("records"):
        if line["bound"] in (0.0, 0.1, 0.2, 0.3):
            name = f"{line['dataset']}_{line['images']}_{line['threshold']}"
            found[f"{name}_utility_{line['bound']:g}"] = 100 * line["utility"]
            found[f"{name}_privacy_{line['bound']:g}"] = line["privacy"]
    for line in control[control["threshold"] == PAPER].to_dict("records"):
        if line["bound"] in (0.0, 0.1, 0.2, 0.3):
            for term in ("stranger", "rank_1"):
                found[f"{line['dataset']}_{line['images']}_{term}_{line['bound']:g}"] = 100 * line[term]
    for keys, group in cells.groupby(["dataset", "role", "comparison", "measure"], sort=False):
        dataset, role, kind, measure = map(str, keys)
        scale = 1 if measure == AUC else 100
        found[f"{dataset}_{role}_{kind.replace('-', '_')}_{measure}"] = scale * group["value"].mean()
    return {name: round(float(value), 3) for name, value in found.items()}


def reading(
    lines: pd.DataFrame,
    apart: pd.DataFrame,
    control: pd.DataFrame,
    cells: pd.DataFrame,
    settings: TradeOffSettings,
) -> str:
    """The paper's claims of Section 6.6 held against the numbers at hand (Markdown)."""
    said = []
    for dataset in dict.fromkeys(lines["dataset"]):
        title = TITLES.get(str(dataset), str(dataset))
        for threshold in dict.fromkeys(lines["threshold"]):
            part = apart[(apart["dataset"] == dataset) & (apart["threshold"] == threshold)]
            curve = lines[(lines["dataset"] == dataset) & (lines["threshold"] == threshold)]
            if len(part):
                said.append(_reading_of_curve(title, str(threshold), part, curve))
        part = control[(control["dataset"] == dataset) & (control["threshold"] == PAPER)]
        if len(part):
            said.append(_reading_of_control(title, part))
    for dataset in dict.fromkeys(cells["dataset"]):
        title = TITLES.get(str(dataset), str(dataset))
        said.append(_reading_of_matching(title, cells[cells["dataset"] == dataset], settings))
    if not said:
        return "Nothing was measured."
    said.append(
        "*What counts as what.* Higher: the 95% interval of the mean difference over the same photographs (Newcombe's "
        f"for Utility, a bootstrap for Privacy) lies above zero. Almost 0: at most {100 * ALMOST_ZERO:.0f}%. Drops, "
        "rises: the intervals lie apart. A claim holds where it does on every set, and in part where on one."
    )
    return "\n".join(f"- {line}" for line in said)


@dataclass(frozen=True)
class _Judged:
    """The paper's claims on one curve: columns of numbers, and which hold.

    Attributes:
        higher: term to the bounds up to 0.2 at which it is higher for uploads, lower, and not told apart.
        gone: whether the originals' Utility near 0.2 is almost zero; None if that bound was not measured.
        drops: the bounds at which the uploads' Utility is clearly lower than without noise.
        moves: whether their Privacy rises (1), falls (-1) or does neither clearly, from the first bound to the last.
    """

    higher: Mapping[str, tuple[list[float], list[float], list[float]]]
    gone: bool | None
    drops: list[float]
    moves: int

    def whole(self, term: str) -> bool:
        """Whether Utility or Privacy of uploads is higher at every bound up to 0.2."""
        _, lower, rest = self.higher[term]
        return not lower and not rest


def _judge(apart: pd.DataFrame, curve: pd.DataFrame) -> _Judged:
    near = apart[apart["bound"] <= 0.2]
    higher = {}
    for term in ("utility", "privacy"):
        part = near[near["term"] == term]
        above, below = part["low"] > 0, part["high"] < 0
        at_bounds = [part[which]["bound"].tolist() for which in (above, below, ~above & ~below)]
        higher[term] = (at_bounds[0], at_bounds[1], at_bounds[2])
    at = curve[(curve["images"] == ORIGINALS) & (curve["bound"] == 0.2)]
    ours = curve[curve["images"] == UPLOADS].sort_values("bound")
    first, last = ours.iloc[0], ours.iloc[-1]
    rises, falls = last["privacy_low"] > first["privacy_high"], last["privacy_high"] < first["privacy_low"]
    return _Judged(
        higher,
        bool(at["utility"].iloc[0] <= ALMOST_ZERO) if len(at) else None,
        ours[ours["utility_high"] < first["utility_low"]]["bound"].tolist(),
        int(rises) - int(falls),
    )


def claims(lines: pd.DataFrame, apart: pd.DataFrame, control: pd.DataFrame) -> list[Claim]:
    """What the paper says of Fig. 8, at its own threshold, held against all sets together."""
    sets = [str(dataset) for dataset in dict.fromkeys(apart["dataset"])]
    paper = {
        name: (
            apart[(apart["dataset"] == name) & (apart["threshold"] == PAPER)],
            lines[(lines["dataset"] == name) & (lines["threshold"] == PAPER)],
        )
        for name in sets
    }
    judged = {name: _judge(*parts) for name, parts in paper.items() if all(map(len, parts))}
    if not judged:
        return []

    kappa = float(next(iter(paper.values()))[0]["kappa"].iloc[0])

    def each(write: Callable[[str], str]) -> str:
        return ", ".join(f"{write(name)} ({TITLES.get(name, name)})" for name in judged)

    def utility(name: str, images: str) -> str:
        curve = paper[name][1]
        return written(curve[(curve["images"] == images) & (curve["bound"] == 0.2)].iloc[0], "utility", 0)

    def privacy(name: str) -> str:
        ours = paper[name][1]
        ours = ours[ours["images"] == UPLOADS].sort_values("bound")
        return f"{with_interval(ours.iloc[0], 'privacy')} to {with_interval(ours.iloc[-1], 'privacy')}"

    def least(name: str) -> str:
        curve = paper[name][1]
        return f"{100 * float(curve[curve['bound'] <= 0.2]['utility'].min()):.0f}%"

    bounds = sum(map(len, next(iter(judged.values())).higher["utility"]))
    found = [
        Claim(
            f"up to δ = 0.2 uploads have higher Utility (at κ = {kappa:g}) and higher Privacy than photographs",
            "",
            f"Utility is higher at {each(lambda name: str(len(judged[name].higher['utility'][0])))} and Privacy at "
            f"{each(lambda name: str(len(judged[name].higher['privacy'][0])))} of {bounds} bounds (at δ = 0 by "
            f"definition); Utility is at least {each(least)} on both sides",
            overall([judged[name].whole(term) for name in judged for term in ("utility", "privacy")]),
        )
    ]
    if all(one.gone is not None for one in judged.values()):
        found.append(
            Claim(
                "near δ = 0.2 the Utility of photographs is almost 0",
                "",
                f"it is {each(lambda name: utility(name, ORIGINALS))}, that of uploads "
                f"{each(lambda name: utility(name, UPLOADS))}{_blind(control)}",
                overall([bool(one.gone) for one in judged.values()]),
            )
        )
    found.append(
        Claim(
            "only under stronger noise the Utility of uploads drops clearly, and then their Privacy rises",
            "",
            f"their Utility drops at {each(lambda name: str(len(judged[name].drops)))} bounds, their Privacy goes from "
            f"{each(privacy)}",
            overall([bool(one.drops) and one.moves > 0 for one in judged.values()]),
        )
    )
    return found


def _blind(control: pd.DataFrame) -> str:
    """What the control says of a Utility that does not fall."""
    part = control[(control["threshold"] == PAPER) & (control["bound"] == 0.2)]
    if not len(part):
        return ""
    said = []
    for images, name in ((ORIGINALS, "photographs"), (UPLOADS, "uploads")):
        rows = part[part["images"] == images]
        stranger, right = (_span(100 * rows[which]) for which in ("stranger", "rank_1"))
        said.append(f"{name} are taken for a stranger's as well in {stranger}, and most alike to their own in {right}")
    return f"; by the control at that bound {'; '.join(said)}"


def _span(values: pd.Series) -> str:
    low, high = f"{values.min():.0f}", f"{values.max():.0f}"
    return f"{low}%" if low == high else f"{low} to {high}%"


def _reading_of_curve(title: str, threshold: str, apart: pd.DataFrame, curve: pd.DataFrame) -> str:
    kappa, n = float(apart["kappa"].iloc[0]), int(apart["n"].max())
    label = f"the paper's κ = {kappa:g}" if threshold == PAPER else f"the network's own κ = {kappa:.2f}"
    judged = _judge(apart, curve)
    words = []
    for term, name in (("utility", "Utility"), ("privacy", "Privacy")):
        which = zip(("higher", "lower", "neither higher nor lower"), judged.higher[term], strict=True)
        words.append(f"{name} of uploads is {', '.join(f'{text} at {_listed(at)}' for text, at in which if at)}")
    holds = all(map(judged.whole, judged.higher))
    text = (
        f"**{title}, {label}.** *Claimed: up to δ = 0.2 uploads have higher Utility and Privacy than originals.* "
        f"{'Holds' if holds else 'Does not hold as stated'}: {'; '.join(words)} (beyond the 95% interval of the "
        f"mean difference, n = {n} photographs)."
    )
    at = curve[(curve["images"] == ORIGINALS) & (curve["bound"] == 0.2)]
    if len(at):
        line = at.iloc[0]
        text += (
            " *Claimed: near δ = 0.2 the Utility of originals is almost 0.* "
            f"{'Holds' if judged.gone else 'Does not hold'}: "
            f"{100 * line['utility']:.0f}% [{100 * line['utility_low']:.0f}, {100 * line['utility_high']:.0f}]"
        )
        ours = curve[(curve["images"] == UPLOADS) & (curve["bound"] == 0.2)]
        if len(ours):
            line = ours.iloc[0]
            text += (
                f", where uploads have {100 * line['utility']:.0f}% "
                f"[{100 * line['utility_low']:.0f}, {100 * line['utility_high']:.0f}]"
            )
        text += "."
    ours = curve[curve["images"] == UPLOADS].sort_values("bound")
    if len(ours) > 1:
        first, last = ours.iloc[0], ours.iloc[-1]
        moves = {1: "rises", -1: "falls", 0: "does not move clearly"}[judged.moves]
        text += (
            " *Claimed: only when the noise is too intense does the Utility of uploads drop clearly, and their Privacy "
            f"rises.* {'Holds' if judged.drops and judged.moves > 0 else 'Does not hold'}: their Utility "
            + (
                f"is clearly lower at {_listed(judged.drops)}"
                if judged.drops
                else f"drops at no bound up to {last['bound']:g}"
            )
            + f", and their Privacy {moves}, from "
            f"{with_interval(first, 'privacy')} at δ = {first['bound']:g} to {with_interval(last, 'privacy')} at "
            f"{last['bound']:g}."
        )
    return text


def _reading_of_control(title: str, control: pd.DataFrame) -> str:
    strongest = control[control["bound"] == control["bound"].max()].set_index("images")
    kappa, n, bound = (strongest[name].iloc[0] for name in ("kappa", "n", "bound"))

    def written(images: str, name: str) -> str:
        line = strongest.loc[images]
        return f"{100 * line[name]:.0f}% [{100 * line[name + '_low']:.0f}, {100 * line[name + '_high']:.0f}]"

    empty = float(strongest.loc[ORIGINALS, "stranger"]) > 0.5
    opening = "Utility is blind to what noise does" if empty else "Utility against strangers"
    return (
        f"**{title}, {opening}.** By Utility's criterion (κ = {kappa:g}) a photograph at δ = {bound:g} is also "
        f'"recognised" as a stranger\'s noisy photograph in {written(ORIGINALS, "stranger")} of cases, an upload in '
        f"{written(UPLOADS, 'stranger')} (n = {n}). The right person is the most alike of all for "
        f"{written(ORIGINALS, 'rank_1')} of the photographs and {written(UPLOADS, 'rank_1')} of the uploads."
    )


def _listed(bounds: Iterable[float]) -> str:
    return "δ = " + ", ".join(f"{bound:g}" for bound in bounds)


def _reading_of_matching(title: str, cells: pd.DataFrame, settings: TradeOffSettings) -> str:
    def cell(measure: str, kind: str, role: str) -> pd.DataFrame:
        return cells[(cells["measure"] == measure) & (cells["comparison"] == kind) & (cells["role"] == role)]

    def one(measure: str, kind: str, role: str = "authorised") -> str:
        part = cell(measure, kind, role)
        if not len(part):
            return "–"
        if role != "authorised":
            return f"{100 * part['value'].mean():.0f}% (highest {100 * part['value'].max():.0f}%)"
        line = part.iloc[0]
        return f"{100 * line['value']:.0f}% [{100 * line['low']:.0f}, {100 * line['high']:.0f}]"

    text = (
        f"**{title}, by the field's measures.** At another data set's threshold for FAR 10⁻³, {settings.authorised} "
        f"accepts {one('tar_far_1e3', CLEAN_CLEAN)} of the pairs of one person among photographs, "
        f"{one('tar_far_1e3', PROTECTED_CLEAN)} when one is an upload and "
        f"{one('tar_far_1e3', PROTECTED_PROTECTED)} when both are; of pairs of two people "
        f"{one('false_far_1e3', CLEAN_CLEAN)}, {one('false_far_1e3', PROTECTED_CLEAN)} and "
        f"{one('false_far_1e3', PROTECTED_PROTECTED)}. Among the second photographs of all pairs it finds the person "
        f"of an upload at rank 1 in {one(RANK_1, PROTECTED_CLEAN)} (of a photograph: {one(RANK_1, CLEAN_CLEAN)})."
    )
    if len(cell("tar_far_1e3", PROTECTED_CLEAN, "unauthorised")):
        text += (
            f" Networks without authorisation accept {one('tar_far_1e3', PROTECTED_CLEAN, 'unauthorised')} on average "
            f"when one is an upload, {one('tar_far_1e3', PROTECTED_PROTECTED, 'unauthorised')} when both are (but then "
            f"also {one('false_far_1e3', PROTECTED_PROTECTED, 'unauthorised')} of pairs of two people), and find the "
            f"person of an upload at rank 1 in {one(RANK_1, PROTECTED_CLEAN, 'unauthorised')}."
        )
    return text


def not_run(blocks: Sequence[TradeOffBlock]) -> list[str]:
    """One line for each part that has no result, or whose result could not be computed again."""
    return _not_run((row for block in blocks for row in block.rows()), TITLES)


def reproduction(blocks: Sequence[TradeOffBlock]) -> str:
    """After a recomputation: by how much any stored number has moved; empty where nothing was computed again."""
    return recomputed(outcome for block in blocks for _, _, outcome in block.rows())
