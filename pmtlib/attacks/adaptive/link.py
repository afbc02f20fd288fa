"""Linkage: whether two uploads, or an upload and a photograph, can be told to show one person.

Threat model: the attacker holds uploads, as they are or purified, and photographs or other uploads, and any network but
the authorised ones' hidden layers. They do not restore a face; they compare. Every measure here takes embeddings, so
that it serves protected against clean, and protected against protected, alike.

Gomez-Barrero, Galbally, Rathgeb, Busch: General framework to evaluate unlinkability in biometric template protection
systems. IEEE Transactions on Information Forensics and Security 13(6), 2018.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pmtlib import metrics
from pmtlib.errors import ConfigError
from pmtlib.metrics import Bools, Floats, Interval

_SCORES_PER_BIN, _MOST_BINS, _FEWEST_BINS = 10, 100, 4


@dataclass(frozen=True)
class LinkScores:
    """Comparisons of embeddings, by whether they show one person.

    Attributes:
        mated: (A,) cosines of two images of one person.
        non_mated: (B,) cosines of images of two persons.
        mated_people: (A,) int64, a number for the person of each.
        non_mated_people: (B, 2) int64, the numbers of both persons.
    """

    mated: Floats
    non_mated: Floats
    mated_people: NDArray[np.int64]
    non_mated_people: NDArray[np.int64]


@dataclass(frozen=True)
class Unlinkability:
    """How linkable scores are, :func:`unlinkability`.

    Attributes:
        d_sys: the global measure, from 0 (unlinkable) to 1 (fully linkable).
        interval: of ``d_sys``, by a bootstrap over people.
        chance: mean of what the same estimate gives once the labels of the scores are shuffled: the local measure is
            never negative, so that an estimate from few scores is above 0 also where nothing can be linked.
        edges: (T + 1,) of the bins.
        local: (T,) the local measure in each bin; 0 where there is no score.
    """

    d_sys: float
    interval: Interval
    chance: float
    edges: Floats
    local: Floats


def link_scores(
    first: ArrayLike | Tensor,
    second: ArrayLike | Tensor,
    first_identities: Sequence[Hashable],
    second_identities: Sequence[Hashable],
) -> LinkScores:
    """The cosine of each embedding of one set with each of another, such as uploads with photographs.

    Args:
        first: (P, D).
        second: (Q, D).
        first_identities: (P,) who each shows.
        second_identities: (Q,).

    Raises:
        ConfigError: the shapes do not fit together, or a value is not finite.
    """
    a, b = _directions(first, first_identities), _directions(second, second_identities)
    if a.shape[1] != b.shape[1]:
        raise ConfigError(f"embeddings of length {a.shape[1]} and {b.shape[1]} cannot be compared")
    rows, columns = (grid.ravel() for grid in np.indices((len(a), len(b))))
    return _labelled((a @ b.T).ravel(), list(first_identities), list(second_identities), rows, columns)


def link_scores_within(embeddings: ArrayLike | Tensor, identities: Sequence[Hashable]) -> LinkScores:
    """The cosine of each two embeddings of one set, such as uploads among each other.

    Args:
        embeddings: (P, D).
        identities: (P,) who each shows.

    Raises:
        ConfigError: the shapes do not fit together, or a value is not finite.
    """
    directions = _directions(embeddings, identities)
    rows, columns = np.triu_indices(len(directions), 1)
    cosines = (directions @ directions.T)[rows, columns]
    return _labelled(cosines, list(identities), list(identities), rows, columns)


def local_linkability(mated: ArrayLike, non_mated: ArrayLike, edges: Floats, *, omega: float = 1.0) -> Floats:
    r"""The local measure of each bin: :math:`D_\leftrightarrow(s) = \max(0, \frac{\omega LR(s)-1}{\omega LR(s)+1})`.

    :math:`LR(s) = p(s|H_m) / p(s|H_{nm})`, whose densities are estimated by histograms. This is the paper's
    :math:`2\,\omega LR/(1+\omega LR) - 1`, and 0 where :math:`\omega LR \le 1`.

    Args:
        mated: (A,) scores of one person, A at least 1.
        non_mated: (B,) scores of two persons, B at least 1.
        edges: (T + 1,) of the bins, which hold all scores.
        omega: :math:`p(H_m) / p(H_{nm})`, 1 where nothing is known.

    Returns:
        (T,), in [0, 1]; 0 in a bin without scores.
    """
    return _local(_shares(mated, edges), _shares(non_mated, edges), omega)


def unlinkability(
    scores: LinkScores, *, omega: float = 1.0, bins: int | None = None, resamples: int = 500, seed: int = 0
) -> Unlinkability:
    r"""The global measure :math:`D^{sys}_\leftrightarrow = \int p(s|H_m) D_\leftrightarrow(s) ds`, with an interval.

    Both densities are histograms over the common range of all scores. The number of bins is a tenth of the number of
    mated scores, as in the authors' implementation, but from 4 to 100. The integral is then a sum, without a further
    approximation.

    The 95% interval is a percentile bootstrap over people (Bolle et al.): people are drawn with replacement, and a
    score of two persons counts as often as both were drawn, in product. It does not take the upward bias away that
    ``chance`` measures, and adds some: a sample has fewer different people than there are. Near 0 the interval thus
    lies too high, with the estimate in its lower half, and is to be read beside ``chance``.

    Args:
        scores: mated and non-mated, one or more of each.
        omega: :math:`p(H_m) / p(H_{nm})`; 1 is the authors' advice where nothing is known.
        bins: in place of the rule above.
        resamples: of the bootstrap; a fifth as many shuffles give ``chance``.
        seed: of both.

    Raises:
        ConfigError: there is no score of one kind, or an argument is out of range.

    References:
        Bolle, Ratha, Pankanti: Error analysis of pattern recognition systems: the subsets bootstrap, CVIU 2004.
    """
    mated, non_mated = scores.mated, scores.non_mated
    if not len(mated) or not len(non_mated):
        raise ConfigError(f"{len(mated)} mated and {len(non_mated)} non-mated scores; linkage needs some of both")
    if omega <= 0 or resamples < 5 or (bins is not None and bins < 1):
        raise ConfigError(f"omega {omega:g} must be positive, resamples {resamples} at least 5, bins {bins} at least 1")
    count = bins or min(_MOST_BINS, max(_FEWEST_BINS, len(mated) // _SCORES_PER_BIN))
    everything = np.concatenate([mated, non_mated])
    edges = np.histogram_bin_edges(everything, count)
    places = np.clip(np.searchsorted(edges, everything, side="right") - 1, 0, count - 1)
    mine, others = places[: len(mated)], places[len(mated) :]
    random = np.random.default_rng(seed)

    def measure(ours: NDArray[np.int64], theirs: NDArray[np.int64], *weights: Floats) -> float:
        given = weights or (None, None)
        first, second = (
            np.bincount(one, weight, minlength=count) for one, weight in zip((ours, theirs), given, strict=True)
        )
        return _global(first / first.sum(), second / second.sum(), omega)

    people = 1 + int(max(scores.mated_people.max(), scores.non_mated_people.max()))
    drawn = []
    for _ in range(resamples):
        times = np.bincount(random.integers(people, size=people), minlength=people).astype(np.float64)
        ours, theirs = times[scores.mated_people], times[scores.non_mated_people].prod(1)
        # Nobody with two images may have been drawn: such a sample says nothing.
        if ours.any() and theirs.any():
            drawn.append(measure(mine, others, ours, theirs))
    shuffled = [random.permutation(places) for _ in range(max(1, resamples // 5))]
    low, high = np.quantile(drawn or [0.0, 1.0], [0.025, 0.975])
    return Unlinkability(
        d_sys=measure(mine, others),
        interval=Interval(float(low), float(high)),
        chance=float(np.mean([measure(one[: len(mine)], one[len(mine) :]) for one in shuffled])),
        edges=edges,
        local=local_linkability(mated, non_mated, edges, omega=omega),
    )


def identify(
    probes: ArrayLike | Tensor,
    gallery: ArrayLike | Tensor,
    probe_identities: Sequence[Hashable],
    gallery_identities: Sequence[Hashable],
    *,
    distractors: ArrayLike | Tensor | None = None,
    ks: Sequence[int] = (1, 5),
) -> dict[int, Bools]:
    """1:N linkage: whether the right person is among the ``k`` most alike, with strangers in the gallery.

    Args:
        probes: (P, D) embeddings of uploads.
        gallery: (G, D) of photographs, or of other uploads.
        probe_identities: (P,), each of them in the gallery.
        gallery_identities: (G,).
        distractors: (S, D) of images of people who are no probe's; each counts as a person of its own.
        ks: the ranks asked for.

    Returns:
        For each of ``ks``, (P,) booleans (:func:`pmtlib.metrics.identification`).

    Raises:
        ConfigError: the shapes do not fit together, or a probe's identity is not in the gallery.
    """
    known, names = metrics.as_array(gallery), list(gallery_identities)
    if distractors is not None:
        strangers = metrics.as_array(distractors)
        if strangers.ndim != 2 or known.ndim != 2 or strangers.shape[1] != known.shape[1]:
            raise ConfigError(f"distractors {strangers.shape} do not fit the gallery {known.shape}")
        known = np.concatenate([known, strangers])
        names += [_Stranger(number) for number in range(len(strangers))]
    try:
        return metrics.identification(
            probes, known, gallery_identities=names, probe_identities=list(probe_identities), ks=ks
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


@dataclass(frozen=True)
class _Stranger:
    """An identity that no name of a person equals."""

    number: int


def _directions(embeddings: ArrayLike | Tensor, identities: Sequence[Hashable]) -> Floats:
    values = metrics.as_array(embeddings)
    if values.ndim != 2 or len(values) != len(identities) or not np.isfinite(values).all():
        raise ConfigError(
            f"embeddings {values.shape} for {len(identities)} identities must be finite numbers (P, D), one row each"
        )
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.where(lengths > 0, lengths, 1.0))


def _labelled(
    cosines: Floats,
    first: list[Hashable],
    second: list[Hashable],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
) -> LinkScores:
    numbers = {name: number for number, name in enumerate(dict.fromkeys([*first, *second]))}
    one = np.array([numbers[name] for name in first], dtype=np.int64)[rows]
    other = np.array([numbers[name] for name in second], dtype=np.int64)[columns]
    same = one == other
    # The last bits of a matrix product should decide no bin.
    cosines = cosines.round(12)
    return LinkScores(cosines[same], cosines[~same], one[same], np.stack([one, other], 1)[~same])


def _shares(scores: ArrayLike, edges: Floats) -> Floats:
    counts = np.histogram(scores, edges)[0].astype(np.float64)
    return np.asarray(counts / counts.sum())


def _local(mated: Floats, non_mated: Floats, omega: float) -> Floats:
    # (omega m - n) / (omega m + n) is the formula without a division by a density of 0.
    top, bottom = omega * mated - non_mated, omega * mated + non_mated
    return np.divide(np.maximum(top, 0.0), bottom, out=np.zeros_like(top), where=bottom > 0)


def _global(mated: Floats, non_mated: Floats, omega: float) -> float:
    return float((mated * _local(mated, non_mated, omega)).sum())
