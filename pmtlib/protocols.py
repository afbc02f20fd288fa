"""Face verification over a pair set: embed, score, summarise; refuse a network at chance; calibrate the zoo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pmtlib import datasets, devices, zoo
from pmtlib.calibration import Calibration, find, write
from pmtlib.datasets import PairSet
from pmtlib.errors import DatasetError, NetworkError
from pmtlib.images import batches
from pmtlib.metrics import (
    Floats,
    Interval,
    auc,
    best_threshold,
    cosine,
    eer,
    kfold_accuracy,
    tar_at_far,
    wilson,
)
from pmtlib.networks.base import FaceNetwork
from pmtlib.progress import progress_bar

CHANCE_AUC = 0.75
"""A network stands when its area under the ROC curve is above this. On LFW's aligned crops the cosine of the centred
pixels reaches 0.71 and an untrained MobileFaceNet 0.67, because crops of one photograph session look alike; the weakest
network of the zoo reaches 0.98."""
CHANCE_P = 0.01
"""A network stands when the rank test against chance has at most this p-value; with few pairs an area can be luck."""
STAND_IN_AUC = 0.95
"""The same on the few sample photographs, where an area of 0.75 is luck too often; the zoo's networks all have more."""
_SPARE_FOLDS = 10


@dataclass(frozen=True)
class Verification:
    """What one network does on one pair set. Scores are cosines; a pair is accepted strictly above a threshold.

    Attributes:
        dataset: the pair set's name.
        fingerprint: of its images and pairs.
        n: pairs.
        n_same: pairs of one identity; the true acceptance rates are shares of these.
        n_different: pairs of two identities; a false acceptance rate below ``1 / n_different`` cannot be seen.
        accuracy_mean: mean accuracy over the folds, each at the threshold best on the other folds.
        accuracy_std: standard deviation over the folds.
        accuracy_interval: 95% Wilson interval of the share of right answers over all pairs.
        auc: area under the ROC curve.
        eer: equal error rate.
        tar_far_1e2: true acceptance rate at a false acceptance rate of at most 1e-2.
        tar_far_1e2_interval: its 95% Wilson interval.
        tar_far_1e3: the same at 1e-3.
        tar_far_1e3_interval: its 95% Wilson interval.
        threshold_accuracy: the threshold of highest accuracy over all pairs.
        threshold_far_1e2: the threshold of ``tar_far_1e2``.
        threshold_far_1e3: the threshold of ``tar_far_1e3``.
    """

    dataset: str
    fingerprint: str
    n: int
    n_same: int
    n_different: int
    accuracy_mean: float
    accuracy_std: float
    accuracy_interval: Interval
    auc: float
    eer: float
    tar_far_1e2: float
    tar_far_1e2_interval: Interval
    tar_far_1e3: float
    tar_far_1e3_interval: Interval
    threshold_accuracy: float
    threshold_far_1e2: float
    threshold_far_1e3: float

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, ready for JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def embed(
    network: FaceNetwork,
    pairset: PairSet,
    batch: int = 64,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> NDArray[np.float32]:
    """Embeddings of the images that occur in a pair; the image as it is, without its mirror image.

    Args:
        network: evaluated in inference mode; left in the mode (training or not) that it was in.
        pairset: its images.
        batch: images per forward pass.
        device: where to compute; the network is moved there. None: where the network is.
        progress: show a bar on standard error.

    Returns:
        (M, D) float32, one row an image of the set, not normalised, so that pairs index it. Rows of images that are
        in no pair are NaN.

    Raises:
        ValueError: ``batch`` is below 1, or the set has no pairs.
        NetworkError: the network gives values that are not finite.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    used = np.unique(pairset.pairs)
    if not len(used):
        raise ValueError(f"{pairset.name}: no pairs to embed")
    if device is not None:
        network.to(devices.resolve(device) if isinstance(device, str) else device)
    place = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    embeddings: NDArray[np.float32] | None = None
    training = network.training
    network.eval()
    try:
        with torch.inference_mode(), progress_bar(f"embedding {pairset.name}", len(used), show=progress) as advance:
            for part in batches(len(used), batch):
                rows = used[part]
                found = network(pairset.tensor(rows).to(place)).to("cpu", torch.float32).numpy()
                if not np.isfinite(found).all():
                    raise NetworkError(
                        f"{type(network).__name__} gives embeddings of {pairset.name} that are not finite: "
                        "its weights are damaged, or of another network"
                    )
                if embeddings is None:
                    embeddings = np.full((len(pairset.images), found.shape[1]), np.nan, dtype=np.float32)
                embeddings[rows] = found
                advance(len(rows))
    finally:
        network.train(training)
    assert embeddings is not None
    return embeddings


def pair_scores(
    network: FaceNetwork,
    pairset: PairSet,
    batch: int = 64,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> Floats:
    """Cosine of each pair's two embeddings, (P,) float64; arguments and errors as :func:`embed`."""
    embeddings = embed(network, pairset, batch, device, progress)
    return cosine(embeddings[pairset.pairs[:, 0]], embeddings[pairset.pairs[:, 1]])


def summarise(scores: Floats, pairset: PairSet) -> Verification:
    """All figures of a verification from the scores (P,) of a set's pairs.

    Where the set's own folds cannot be cross-validated (fewer than two of them, or a fold that holds all pairs of one
    kind), up to ten folds with both kinds in proportion are made from the pairs in their order.

    Raises:
        DatasetError: the set has fewer than two pairs of either kind.
    """
    same = np.asarray(pairset.same, dtype=np.bool_)
    alike, unlike = int(same.sum()), int((~same).sum())
    folds = _usable_folds(pairset, same)
    accuracy = kfold_accuracy(scores, same, folds)
    right = sum(
        int(((scores[folds == fold] > threshold) == same[folds == fold]).sum())
        for fold, threshold in zip(np.unique(folds), accuracy.thresholds, strict=True)
    )
    at_1e2, at_1e3 = tar_at_far(scores, same, 1e-2), tar_at_far(scores, same, 1e-3)
    return Verification(
        dataset=pairset.name,
        fingerprint=pairset.fingerprint,
        n=len(same),
        n_same=alike,
        n_different=unlike,
        accuracy_mean=accuracy.mean,
        accuracy_std=accuracy.std,
        accuracy_interval=wilson(right, len(same)),
        auc=auc(scores, same),
        eer=eer(scores, same),
        tar_far_1e2=at_1e2.tar,
        tar_far_1e2_interval=wilson(round(at_1e2.tar * alike), alike),
        tar_far_1e3=at_1e3.tar,
        tar_far_1e3_interval=wilson(round(at_1e3.tar * alike), alike),
        threshold_accuracy=best_threshold(scores, same),
        threshold_far_1e2=at_1e2.threshold,
        threshold_far_1e3=at_1e3.threshold,
    )


def _usable_folds(pairset: PairSet, same: NDArray[np.bool_]) -> NDArray[np.int64]:
    alike, unlike = int(same.sum()), int((~same).sum())
    if min(alike, unlike) < 2:
        raise DatasetError(
            f"{pairset.name}: {alike} pairs of one identity and {unlike} of two; verification needs at least 2 of each"
        )
    folds = np.asarray(pairset.folds, dtype=np.int64)
    if all(0 < same[folds != fold].sum() < (folds != fold).sum() for fold in np.unique(folds)):
        return folds
    from sklearn.model_selection import StratifiedKFold

    made = np.empty(len(same), dtype=np.int64)
    splitter = StratifiedKFold(n_splits=min(_SPARE_FOLDS, alike, unlike))
    for number, (_, members) in enumerate(splitter.split(made, same)):
        made[members] = number
    return made


def evaluate(
    network: FaceNetwork,
    pairset: PairSet,
    batch: int = 64,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> Verification:
    """Verification of a pair set by the cosine of a network's embeddings; arguments as :func:`embed`.

    Raises:
        DatasetError: the set has fewer than two pairs of either kind.
        NetworkError: the network gives values that are not finite.
    """
    return summarise(pair_scores(network, pairset, batch, device, progress), pairset)


def check(
    name: str,
    pairset: PairSet,
    batch: int = 64,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> Verification:
    """Verify with a network of the zoo and refuse it at chance: wrong weights or a wrong input convention show here.

    The rule, for sets of any size and balance: the area under the ROC curve is above 0.75, which pixels alone do not
    reach, and the one-sided Mann-Whitney test of "same pairs score higher" has p at most 0.01. (Pairs that share an
    image are not independent, so that p is a rule of thumb.)

    Args:
        name: in the zoo.
        pairset: what to verify on.
        batch: images per forward pass.
        device: where to compute.
        progress: show a bar on standard error.

    Returns:
        The figures of a network that stands.

    Raises:
        NetworkError: the network is unknown, cannot be loaded, or is at chance.
        DatasetError: the set has fewer than two pairs of either kind.
    """
    scores = pair_scores(zoo.load(name, device), pairset, batch, device, progress)
    found = summarise(scores, pairset)
    refuse_chance(name, found, scores, pairset.same, stand_in=pairset.stand_in)
    return found


def refuse_chance(
    name: str, found: Verification, scores: Floats, same: NDArray[np.bool_], *, stand_in: bool = False
) -> None:
    """Apply the rule of :func:`check` to scores (P,) and their summary; a stricter one on a stand-in for a real set.

    Raises:
        NetworkError: the scores are at chance.
    """
    from scipy.stats import mannwhitneyu

    p = float(mannwhitneyu(scores[same], scores[~same], alternative="greater").pvalue)
    least = STAND_IN_AUC if stand_in else CHANCE_AUC
    if not (found.auc > least and p <= CHANCE_P):
        raise NetworkError(
            f"{name} is at chance on {found.dataset}, or near it: AUC {found.auc:.3f} and p = {p:.2g} over {found.n} "
            f"pairs, needed above {least} and at most {CHANCE_P}; its weights or its input preparation are wrong, or "
            "it is too weak to use"
        )


def calibrate(
    names: Sequence[str] | None = None,
    pairset_names: Sequence[str] = ("lfw", "cfp_ff"),
    *,
    batch: int = 64,
    device: torch.device | str = "cpu",
    progress: bool = False,
    recompute: bool = False,
    path: Path | None = None,
) -> tuple[Calibration, ...]:
    """Evaluate networks over whole protocols and keep the figures in the calibration file.

    The file is written after each network, atomically, and entries of other networks and data sets stay; an
    interrupted run goes on where it stopped.

    Args:
        names: in the zoo; None for all that come with the package.
        pairset_names: data sets to load.
        batch: images per forward pass.
        device: where to compute.
        progress: show a bar on standard error.
        recompute: measure again what is there for the same weights and the same data.
        path: the calibration file; None for each network's own, see :func:`pmtlib.zoo.calibration_file`.

    Returns:
        The entries asked for, new and kept.

    Raises:
        NetworkError: a network is unknown, cannot be loaded, or is at chance.
        AssetError: a network's weights cannot be had.
        DatasetError: a data set is absent or malformed.
        ResultError: the existing calibration file is damaged, unless all is measured anew (``recompute``).
    """
    chosen = tuple(names) if names is not None else tuple(zoo.CARDS)
    for name in chosen:
        zoo.card(name)
    # All sets before the first network: a missing one should not show after an hour.
    pairsets = [datasets.load(name) for name in pairset_names]
    entries = []
    for pairset in pairsets:
        for name in chosen:
            weights, kept_in = zoo.weights_checksum(name), path or zoo.calibration_file(name)
            entry = None if recompute else find(name, pairset.name, weights=weights, path=kept_in)
            if entry is None or entry.fingerprint != pairset.fingerprint:
                entry = operating_points(name, weights, check(name, pairset, batch, device, progress))
                write([entry], kept_in, anew=recompute)
            entries.append(entry)
    return tuple(entries)


def operating_points(name: str, weights: str, found: Verification) -> Calibration:
    """What is stored of a verification, for a network of that name whose weights have that checksum."""
    shared = {field.name: getattr(found, field.name) for field in fields(Calibration) if hasattr(found, field.name)}
    return Calibration(network=name, weights=weights, **shared)
