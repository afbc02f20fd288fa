"""Every number of the paper's Section 6.2 and of the field's verification protocols.

Four families, all of plain arrays in, plain numbers out:

* how alike two images are: :func:`ssim`, :func:`psnr`, :func:`lpips`;
* whether a service recognises a face: :func:`cosine`, :func:`eq10`, :func:`roc`, :func:`auc`, :func:`eer`,
  :func:`tar_at_far`, :func:`best_threshold`, :func:`kfold_accuracy`, :func:`rank_k`, :func:`identification`;
* what an attack gets and what is left of the use: :func:`srra`, :func:`cossim`, :func:`utility`, :func:`up`;
* how sure a rate, a difference of two or a mean is: :func:`wilson`, :func:`newcombe`, :func:`bootstrap`.

One convention holds throughout: a pair is *accepted* when its score is **strictly above** the threshold, as in the
indicator of Eq. 10. A score equal to the threshold is a rejection, so tied scores are always decided alike.

SciPy's and scikit-learn's statistics take longer to import than all else here together, torch aside, and protecting
photographs needs none of them: they are imported where they are used.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
import skimage.metrics
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from pmtlib import assets
from pmtlib.errors import AssetError, NetworkError
from pmtlib.images import batches

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
LpipsNet = Literal["vgg", "alex"]
Labels = Sequence[Hashable] | NDArray[Any] | Tensor
"""One name each, of anything that can be a key: a list of strings, an array of integers."""

SSIM_WINDOW = 7
"""Side of SSIM's sliding window, pixels: scikit-image's default, and its smallest image."""
LPIPS_SMALLEST = 32
"""Smallest image side, pixels, that both LPIPS trunks can take."""
_RANGE_TOLERANCE = 1e-6
_LPIPS_WEIGHTS: dict[str, tuple[str, str]] = {"vgg": ("lpips-vgg16", "VGG16_0"), "alex": ("lpips-alexnet", "AlexNet_0")}


class Interval(NamedTuple):
    """An interval estimate, both ends included."""

    low: float
    high: float


class Roc(NamedTuple):
    """A receiver operating characteristic, from "accept nothing" to "accept everything".

    Attributes:
        far: (T,) share of different-identity pairs accepted, rising from 0 to 1.
        tar: (T,) share of same-identity pairs accepted, rising from 0 to 1.
        thresholds: (T,) falling; point ``i`` accepts the scores strictly above ``thresholds[i]``. The last is -inf.
    """

    far: Floats
    tar: Floats
    thresholds: Floats


class TarAtFar(NamedTuple):
    """True acceptance rate at a bounded false acceptance rate, and the threshold that gives it."""

    tar: float
    threshold: float


class KFold(NamedTuple):
    """Cross-validated verification accuracy.

    Attributes:
        mean: mean of ``per_fold``.
        std: standard deviation of ``per_fold`` over the folds (of the population, as face-recognition papers print it).
        per_fold: (F,) accuracy on each fold, in the order of the sorted fold labels.
        thresholds: (F,) the threshold used on each fold, chosen on all other folds.
    """

    mean: float
    std: float
    per_fold: Floats
    thresholds: Floats


class UP(NamedTuple):
    """Eq. 9 of the paper, image by image, its two terms apart; the paper's UP is the mean of ``total``.

    Attributes:
        utility: (N,) whether the noisy obfuscated image is recognised, the first term.
        privacy: (N,) how far it is from the original to whoever looks for private information, the second term.
        total: (N,) their sum.
    """

    utility: Bools
    privacy: Floats
    total: Floats


# ---------------------------------------------------------------------------------------------- images


def _image_pair(a: Tensor, b: Tensor, smallest: int) -> None:
    for name, images in (("a", a), ("b", b)):
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"{name}: expected RGB images (N, 3, H, W), got shape {tuple(images.shape)}")
        if not images.is_floating_point():
            raise ValueError(f"{name}: expected floats in [0, 1], got {images.dtype}")
    if a.shape != b.shape:
        raise ValueError(f"images differ in shape: {tuple(a.shape)} and {tuple(b.shape)}")
    if min(a.shape[2:]) < smallest:
        raise ValueError(f"images must be at least {smallest} pixels wide and high, got {tuple(a.shape[2:])}")
    for name, images in (("a", a), ("b", b)):
        if not images.numel():
            continue
        low, high = float(images.min()), float(images.max())
        # Written so that a NaN, which compares false with everything, is refused as well.
        if not (low >= -_RANGE_TOLERANCE and high <= 1.0 + _RANGE_TOLERANCE):
            raise ValueError(f"{name}: expected values in [0, 1], got [{low:g}, {high:g}]")


def _channels_last(images: Tensor) -> Floats:
    array: Floats = images.detach().to("cpu", torch.float64).permute(0, 2, 3, 1).contiguous().numpy()
    return array


def ssim(a: Tensor, b: Tensor) -> Floats:
    """Structural similarity of each image of ``a`` with the image of ``b`` at the same place.

    scikit-image's implementation with its defaults: a uniform 7x7 window, computed on each of the three RGB channels
    and averaged, data range 1.

    Args:
        a: (N, 3, H, W), RGB, in [0, 1]; H and W at least 7.
        b: the same shape.

    Returns:
        (N,), in [-1, 1]; 1 for identical images.

    Raises:
        ValueError: a shape, size or range is wrong.

    References:
        Wang et al., Image quality assessment: from error visibility to structural similarity, IEEE TIP 2004.
    """
    _image_pair(a, b, SSIM_WINDOW)
    return np.array(
        [
            skimage.metrics.structural_similarity(x, y, win_size=SSIM_WINDOW, channel_axis=2, data_range=1.0)  # type: ignore[no-untyped-call]
            for x, y in zip(_channels_last(a), _channels_last(b), strict=True)
        ],
        dtype=np.float64,
    )


def psnr(a: Tensor, b: Tensor) -> Floats:
    """Peak signal-to-noise ratio in decibels, ``-10 log10(mean squared difference)``, image by image.

    Args:
        a: (N, 3, H, W), RGB, in [0, 1].
        b: the same shape.

    Returns:
        (N,), at least 0; ``inf`` for identical images. A mean over images of which one is identical is ``inf`` too.

    Raises:
        ValueError: a shape or range is wrong.
    """
    _image_pair(a, b, 1)
    with np.errstate(divide="ignore"):
        return np.array(
            [
                skimage.metrics.peak_signal_noise_ratio(x, y, data_range=1.0)  # type: ignore[no-untyped-call]
                for x, y in zip(_channels_last(a), _channels_last(b), strict=True)
            ],
            dtype=np.float64,
        )


def lpips(a: Tensor, b: Tensor, net: LpipsNet = "vgg", *, batch: int = 32) -> Floats:
    """Learned perceptual distance (LPIPS v0.1), image by image.

    The paper puts LPIPS with the VGG trunk in place of the second term of Eq. 9.

    Args:
        a: (N, 3, H, W), RGB, in [0, 1]; H and W at least 32. The computation runs on its device.
        b: the same shape.
        net: the trunk, "vgg" (VGG16) or "alex" (AlexNet), both trained on ImageNet.
        batch: images per forward pass.

    Returns:
        (N,), at least 0; 0 for identical images. Larger is less alike.

    Raises:
        ValueError: a shape, size or range is wrong, or ``net`` is unknown.
        AssetError: the trunk's weights cannot be had.

    References:
        Zhang et al., The unreasonable effectiveness of deep features as a perceptual metric, CVPR 2018.
    """
    _image_pair(a, b, LPIPS_SMALLEST)
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    model = lpips_model(net, a.device)
    distances = np.empty(len(a), dtype=np.float64)
    with torch.inference_mode():
        for part in batches(len(a), batch):
            x = a[part].detach().to(torch.float32) * 2.0 - 1.0
            y = b[part].detach().to(a.device, torch.float32) * 2.0 - 1.0
            distances[part] = model(x, y).flatten().cpu().numpy()
    return distances


def lpips_model(net: LpipsNet = "vgg", device: torch.device | str = "cpu") -> nn.Module:
    """The LPIPS network itself, for use inside a loss: differentiable in its inputs, without trainable parameters.

    Kept after the first call, one for each trunk and device.

    Args:
        net: "vgg" or "alex".
        device: where it lives.

    Returns:
        A module in evaluation mode that takes two (N, 3, H, W) RGB tensors **in [-1, 1]** to distances (N, 1, 1, 1).

    Raises:
        ValueError: ``net`` is unknown.
        AssetError: the trunk's weights cannot be had.
        NetworkError: torchvision does not fit torch, or the weights do not fit the trunk.
    """
    if net not in _LPIPS_WEIGHTS:
        raise ValueError(f"net must be one of {', '.join(_LPIPS_WEIGHTS)}, got {net!r}")
    return _lpips_model(net, str(torch.device(device)))


@lru_cache(maxsize=4)
def _lpips_model(net: str, device: str) -> nn.Module:
    # The weights first: without them there is no reason to pay for torchvision's random initialisation.
    trunk = _lpips_trunk(net)
    quiet = contextlib.redirect_stdout(io.StringIO())
    with quiet, warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        try:
            from lpips import LPIPS
        except (ImportError, RuntimeError) as error:
            raise NetworkError(
                f"LPIPS cannot be loaded ({str(error).splitlines()[0]}): install torch and torchvision from one source"
            ) from error
        # pnet_rand keeps the constructor from downloading; the heads come with the package.
        model: nn.Module = LPIPS(net=net, pnet_rand=True, verbose=False)
    convolutions = [
        layer for name, layer in model.named_modules() if name.startswith("net.") and isinstance(layer, nn.Conv2d)
    ]
    if [(layer.weight.shape, layer.bias.shape) for layer in convolutions if layer.bias is not None] != [
        (weight.shape, bias.shape) for weight, bias in trunk
    ]:
        raise NetworkError(
            f"the weights of {_LPIPS_WEIGHTS[net][0]} do not fit the trunk: update lpips and torchvision"
        )
    for layer, (weight, bias) in zip(convolutions, trunk, strict=True):
        layer.weight.data.copy_(weight)
        assert layer.bias is not None
        layer.bias.data.copy_(bias)
    return model.eval().requires_grad_(False).to(device)


def _lpips_trunk(net: str) -> list[tuple[Tensor, Tensor]]:
    """Weights (out, in, h, w) and biases (out,) of the trunk's convolutions, first layer first."""
    asset, body = _LPIPS_WEIGHTS[net]
    file = assets.path(asset)
    stored: Any = assets.read_pickle(file)
    try:
        layers: dict[str, Any] = stored[body]
        ordered = [layers[f"Conv_{index}"] for index in range(len(layers))]
        return [
            # Stored (h, w, in, out).
            (
                torch.from_numpy(np.array(layer["kernel"], dtype=np.float32).transpose(3, 2, 0, 1).copy()),
                torch.from_numpy(np.array(layer["bias"], dtype=np.float32)),
            )
            for layer in ordered
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise AssetError(f"{file}: not the weights of {asset} ({error}); delete it and fetch it again") from error


# ---------------------------------------------------------------------------------------------- recognition


def as_array(values: ArrayLike | Tensor) -> Floats:
    """Numbers as an array of float64; a tensor's from whatever device it is on, without its gradient."""
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float64)


def _floats(values: ArrayLike | Tensor, name: str, ndim: int = 1) -> Floats:
    array = as_array(values)
    if array.ndim != ndim:
        raise ValueError(f"{name}: expected {ndim} dimension(s), got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: {int((~np.isfinite(array)).sum())} of {array.size} values are not finite")
    return array


def _labels(values: ArrayLike | Tensor, name: str, length: int) -> Bools:
    array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    if array.shape != (length,):
        raise ValueError(f"{name}: expected shape ({length},), got {array.shape}")
    if array.dtype != np.bool_ and not np.isin(array, (0, 1)).all():
        raise ValueError(f"{name}: expected booleans, or 0 and 1")
    return array.astype(np.bool_)


def _scored_pairs(scores: ArrayLike | Tensor, same: ArrayLike | Tensor) -> tuple[Floats, Bools]:
    """Both arrays checked; at least one pair of each kind."""
    values = _floats(scores, "scores")
    labels = _labels(same, "same", len(values))
    alike = int(labels.sum())
    if not 0 < alike < len(labels):
        raise ValueError(
            f"need pairs of the same and of different identities, got {alike} and {len(labels) - alike} of them"
        )
    return values, labels


def cosine(e1: ArrayLike | Tensor, e2: ArrayLike | Tensor) -> Floats:
    """Cosine similarity (COS) of each embedding of ``e1`` with the one of ``e2`` at the same place.

    Computed in double precision. An embedding of length zero resembles nothing: its cosine is 0.

    Args:
        e1: (N, D).
        e2: (N, D).

    Returns:
        (N,), in [-1, 1].

    Raises:
        ValueError: the shapes differ, or a value is not finite.
    """
    x, y = _floats(e1, "e1", 2), _floats(e2, "e2", 2)
    if x.shape != y.shape:
        raise ValueError(f"embeddings differ in shape: {x.shape} and {y.shape}")
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    dots = np.einsum("nd,nd->n", x, y)
    cosines: Floats = np.divide(dots, lengths, out=np.zeros_like(dots), where=lengths > 0)
    return cosines.clip(-1.0, 1.0)


def eq10(
    cos_own: ArrayLike | Tensor, cos_other: ArrayLike | Tensor, same: ArrayLike | Tensor, kappa: float = 0.2
) -> Bools:
    """Eq. 10 of the paper, pair by pair; its accuracy ``acc`` is the mean.

    A pair (x1, x2, y) counts when the obfuscated image of x1 is recognised as x1, ``cos_own > kappa``, **and** the
    comparison with x2 gives the right answer, ``(cos_other > kappa) == y``.

    Args:
        cos_own: (N,) cosine of the obfuscated x1 with the clean x1.
        cos_other: (N,) cosine of the obfuscated x1 with x2.
        same: (N,) y, whether x1 and x2 show the same identity.
        kappa: the threshold; the paper "usually" sets 0.2.

    Returns:
        (N,) booleans.

    Raises:
        ValueError: the shapes differ, or a value is not finite.
    """
    own = _floats(cos_own, "cos_own")
    other = _floats(cos_other, "cos_other")
    if own.shape != other.shape:
        raise ValueError(f"cos_own and cos_other differ in shape: {own.shape} and {other.shape}")
    labels = _labels(same, "same", len(own))
    correct: Bools = (own > kappa) & ((other > kappa) == labels)
    return correct


def roc(scores: ArrayLike | Tensor, same: ArrayLike | Tensor) -> Roc:
    """False and true acceptance rates at every threshold that makes a difference.

    Args:
        scores: (N,) similarity of each pair, larger is more alike.
        same: (N,) whether the pair shows one identity.

    Returns:
        The curve; tied scores are one step of it.

    Raises:
        ValueError: shapes differ, a score is not finite, or all pairs are of one kind.
    """
    from sklearn.metrics import roc_curve

    values, labels = _scored_pairs(scores, same)
    far, tar, at_least = roc_curve(labels, values, drop_intermediate=False)
    # scikit-learn accepts score >= threshold: that is score > the next lower score.
    return Roc(far, tar, np.append(at_least[1:], -np.inf))


def auc(scores: ArrayLike | Tensor, same: ArrayLike | Tensor) -> float:
    """Area under the ROC curve: the chance that a same pair scores above a different pair, ties counting one half.

    Raises:
        ValueError: as :func:`roc`.
    """
    from sklearn.metrics import roc_auc_score

    values, labels = _scored_pairs(scores, same)
    return float(roc_auc_score(labels, values))


def eer(scores: ArrayLike | Tensor, same: ArrayLike | Tensor) -> float:
    """Equal error rate: where the false acceptance rate meets the false rejection rate.

    The ROC is a staircase and need not pass through a point of equality; the two points around the crossing are
    joined by a straight line.

    Raises:
        ValueError: as :func:`roc`.
    """
    curve = roc(scores, same)
    excess = curve.far - (1.0 - curve.tar)  # from -1 up to 1
    after = int(np.argmax(excess >= 0.0))
    before = after - 1
    share = -excess[before] / (excess[after] - excess[before])
    return float(curve.far[before] + share * (curve.far[after] - curve.far[before]))


def tar_at_far(scores: ArrayLike | Tensor, same: ArrayLike | Tensor, far: float) -> TarAtFar:
    """True acceptance rate at the lowest threshold whose false acceptance rate is at most ``far``.

    The threshold is always the score of a different-identity pair, the one that must be the first to be rejected;
    different pairs tied with it are rejected too, so the rate reached may be below ``far``, never above. With fewer
    than ``1 / far`` different pairs it is the highest of their scores: no false acceptance at all is seen.

    Args:
        scores: (N,) similarity of each pair.
        same: (N,) whether the pair shows one identity.
        far: the bound, in [0, 1).

    Returns:
        The share of same pairs strictly above the threshold, and the threshold.

    Raises:
        ValueError: as :func:`roc`, or ``far`` is out of range.
    """
    if not 0.0 <= far < 1.0:
        raise ValueError(f"far must be in [0, 1), got {far}")
    values, labels = _scored_pairs(scores, same)
    impostors = np.sort(values[~labels])[::-1]
    # 1e-3 of 3000 pairs is 3 of them, whatever the product's last bit says.
    allowed = math.floor(far * len(impostors) + 1e-9)
    threshold = float(impostors[min(allowed, len(impostors) - 1)])
    return TarAtFar(float(np.mean(values[labels] > threshold)), threshold)


def best_threshold(scores: ArrayLike | Tensor, same: ArrayLike | Tensor) -> float:
    """The threshold with the most right answers.

    Accuracy is constant between neighbouring scores, so the optimum is one or several intervals: the middle of the
    widest is taken, of the lowest among equally wide ones. Where only accepting (rejecting) every pair is optimal,
    the threshold is just below the lowest score (is the highest score).

    Args:
        scores: (N,) similarity of each pair.
        same: (N,) whether the pair shows one identity.

    Returns:
        The threshold, to be used with a strict ``>``.

    Raises:
        ValueError: as :func:`roc`.
    """
    values, labels = _scored_pairs(scores, same)
    steps, position = np.unique(values, return_inverse=True)
    # right[i]: answers that are right when exactly the scores above steps[i - 1] are accepted; i = 0 accepts all.
    gain = np.bincount(position, weights=np.where(labels, -1.0, 1.0), minlength=len(steps))
    right = labels.sum() + np.concatenate([[0.0], np.cumsum(gain)])
    between = np.flatnonzero(right[1:-1] == right.max())
    if not len(between):
        return float(np.nextafter(steps[0], -np.inf)) if right[0] == right.max() else float(steps[-1])
    widths = steps[between + 1] - steps[between]
    chosen = between[int(np.argmax(widths))]
    low, high = float(steps[chosen]), float(steps[chosen + 1])
    middle = low + (high - low) / 2.0
    return middle if middle < high else low


def kfold_accuracy(scores: ArrayLike | Tensor, same: ArrayLike | Tensor, folds: ArrayLike | Tensor) -> KFold:
    """Verification accuracy as the LFW protocol has it: each fold is judged at the threshold best on the others.

    Args:
        scores: (P,) similarity of each pair.
        same: (P,) whether the pair shows one identity.
        folds: (P,) fold label of each pair.

    Returns:
        Mean and standard deviation over the folds, and each fold's accuracy and threshold.

    Raises:
        ValueError: shapes differ, a score is not finite, there is only one fold, or the other folds of some fold hold
            pairs of one kind only.

    References:
        Huang et al., Labeled Faces in the Wild, University of Massachusetts TR 07-49, 2007.
    """
    values = _floats(scores, "scores")
    labels = _labels(same, "same", len(values))
    parts = np.asarray(folds.detach().cpu() if isinstance(folds, Tensor) else folds)
    if parts.shape != values.shape:
        raise ValueError(f"folds: expected shape {values.shape}, got {parts.shape}")
    names = np.unique(parts)
    if len(names) < 2:
        raise ValueError(f"cross-validation needs at least 2 folds, got {len(names)}")
    thresholds = np.array([best_threshold(values[parts != fold], labels[parts != fold]) for fold in names])
    per_fold = np.array(
        [
            np.mean((values[parts == fold] > threshold) == labels[parts == fold])
            for fold, threshold in zip(names, thresholds, strict=True)
        ]
    )
    return KFold(float(per_fold.mean()), float(per_fold.std()), per_fold, thresholds)


def _names(values: Labels, name: str, length: int) -> list[Hashable]:
    """The labels as plain values: equal ones are then one key, whatever array they came in."""
    if isinstance(values, np.ndarray | Tensor) and values.ndim != 1:
        raise ValueError(f"{name}: expected {length} labels, got shape {tuple(values.shape)}")
    listed: list[Hashable] = values.tolist() if isinstance(values, np.ndarray | Tensor) else list(values)
    if len(listed) != length:
        raise ValueError(f"{name}: expected {length} labels, got {len(listed)}")
    return listed


def _groups(names: Sequence[Hashable]) -> tuple[dict[Hashable, int], NDArray[np.int64]]:
    """The distinct labels, numbered in the order of their first appearance, and the number of each label."""
    numbers: dict[Hashable, int] = {}
    codes = [numbers.setdefault(name, len(numbers)) for name in names]
    return numbers, np.array(codes, dtype=np.int64)


def rank_k(
    similarities: ArrayLike | Tensor, gallery_identities: Labels, probe_identities: Labels, ks: Sequence[int] = (1, 5)
) -> dict[int, Bools]:
    """Closed-set identification (1:N): whether the right identity is among the ``k`` most alike of the gallery.

    Each identity counts once, with the best of its gallery images. An identity as alike as the right one comes before
    it: what answers the same for everybody identifies nobody.

    Args:
        similarities: (P, G) of each probe to each gallery image, larger is more alike.
        gallery_identities: (G,) who is on each gallery image.
        probe_identities: (P,) who is on each probe; every one of them is in the gallery.
        ks: the ranks asked for, each at least 1.

    Returns:
        For each of ``ks``, (P,) booleans; the rank-k rate is their mean. With ``k`` at least the number of identities
        all are true.

    Raises:
        ValueError: a shape is wrong, a similarity is not finite, a rank is below 1, or a probe's identity is not in
            the gallery.
    """
    values = _floats(similarities, "similarities", 2)
    gallery = _names(gallery_identities, "gallery_identities", values.shape[1])
    probes = _names(probe_identities, "probe_identities", values.shape[0])
    if any(k < 1 for k in ks):
        raise ValueError(f"ranks must be at least 1, got {list(ks)}")
    numbers, codes = _groups(gallery)
    missing = [name for name in probes if name not in numbers]
    if missing:
        raise ValueError(f"{len(missing)} of {len(probes)} probes are of an identity not in the gallery: {missing[0]}")
    if not probes:
        return {k: np.zeros(0, dtype=np.bool_) for k in ks}
    order = np.argsort(codes, kind="stable")
    first = np.searchsorted(codes[order], np.arange(len(numbers)))
    best: Floats = np.maximum.reduceat(values[:, order], first, axis=1)
    own = best[np.arange(len(probes)), [numbers[name] for name in probes]]
    ranks = (best >= own[:, None]).sum(axis=1)
    return {k: ranks <= k for k in ks}


def identification(
    probe_embeddings: ArrayLike | Tensor,
    gallery_embeddings: ArrayLike | Tensor,
    *,
    gallery_identities: Labels,
    probe_identities: Labels,
    ks: Sequence[int] = (1, 5),
) -> dict[int, Bools]:
    """:func:`rank_k` by the cosine of embeddings.

    The cosines are rounded to 12 decimals, so that the last bits of a matrix product decide no tie.

    Args:
        probe_embeddings: (P, D).
        gallery_embeddings: (G, D).
        gallery_identities: (G,).
        probe_identities: (P,).
        ks: the ranks asked for.

    Returns:
        For each of ``ks``, (P,) booleans.

    Raises:
        ValueError: as :func:`rank_k`, or the embeddings differ in length.
    """
    probes, gallery = _floats(probe_embeddings, "probe_embeddings", 2), _floats(gallery_embeddings, "gallery", 2)
    if probes.shape[1] != gallery.shape[1]:
        raise ValueError(f"embeddings differ in length: {probes.shape[1]} and {gallery.shape[1]}")
    cosines = (_directions(probes) @ _directions(gallery).T).round(12)
    return rank_k(cosines, gallery_identities, probe_identities, ks)


def _directions(embeddings: Floats) -> Floats:
    """(N, D) of length one; zeros stay zeros."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    directions: Floats = np.divide(embeddings, lengths, out=np.zeros_like(embeddings), where=lengths > 0)
    return directions


# ---------------------------------------------------------------------------------------------- attacks and utility


def srra(cos_reconstructed: ArrayLike | Tensor, kappa: float = 0.2) -> Bools:
    """Success of a reconstruction attack, image by image; the paper's SRRA is the mean.

    The attack succeeds when the recognition network takes the reconstructed image for the original: their cosine is
    above ``kappa``. The paper names no threshold for it; 0.2 is what it "usually" sets.

    Args:
        cos_reconstructed: (N,) cosine of each reconstructed image with its original.
        kappa: the threshold.

    Returns:
        (N,) booleans.

    Raises:
        ValueError: the shape is wrong, or a value is not finite.
    """
    success: Bools = _floats(cos_reconstructed, "cos_reconstructed") > kappa
    return success


def cossim(a: ArrayLike | Tensor, b: ArrayLike | Tensor) -> Floats:
    """Eq. 11 of the paper, ``CosSim = cos(A(x~), A(x))``: how alike the attributes read from two images are.

    The lower, the less of an attribute is left. Attribute vectors hold scores that are not negative (shares of
    seven emotions, of two genders), so unlike embeddings they seldom come near 0: two gender scores of (0.9, 0.1) and
    (0.6, 0.4) have a cosine of 0.89, and an answer that is the same for every image one of 1.

    Args:
        a: (N, C) attribute vectors of the obfuscated images.
        b: (N, C) attribute vectors of the originals.

    Returns:
        (N,), in [-1, 1]; 0 where a vector is zero.

    Raises:
        ValueError: the shapes differ, or a value is not finite.
    """
    return cosine(a, b)


def utility(cosines: ArrayLike | Tensor, kappa: float) -> Bools:
    """First term of Eq. 9, image by image: ``cos(f(x~), f(x)) > kappa``.

    Args:
        cosines: (N,) cosine of the noisy obfuscated image with the noisy original.
        kappa: the threshold.

    Returns:
        (N,) booleans.

    Raises:
        ValueError: the shape is wrong, or a value is not finite.
    """
    recognised: Bools = _floats(cosines, "cosines") > kappa
    return recognised


def up(cosines: ArrayLike | Tensor, distances: ArrayLike | Tensor, kappa: float) -> UP:
    """Eq. 9 of the paper, the balance of utility and privacy, image by image.

    ``UP(sigma, kappa) = E{ I(cos(f(x~), f(x)) > kappa) + 1/K sum_i Dist(m_i(x), m_i(x~)) }``, the expectation over
    images X and obfuscated images X~ with the noise of an environment, ``x ~ N(X, sigma^2)`` and
    ``x~ ~ N(X~, sigma^2)``. The paper puts one number for the sum over privacy-infringing models: LPIPS with the VGG
    trunk, added to the first term and not averaged with it, so that UP runs from 0 to beyond 1.

    The noise is the caller's: draw x and x~ with :func:`pmtlib.images.add_noise` and two different seeds, so that
    their noises are independent, then give the cosine of their embeddings and their :func:`lpips`.

    Args:
        cosines: (N,) cosine of the embedding of x~ with the one of x.
        distances: (N,) distance of x and x~, at least 0.
        kappa: the threshold; the paper sets 0.5 (Section 6.6) and 0.3 (Table 10).

    Returns:
        Both terms and their sum.

    Raises:
        ValueError: the shapes differ, a value is not finite, or a distance is negative.
    """
    recognised = utility(cosines, kappa)
    apart = _floats(distances, "distances")
    if recognised.shape != apart.shape:
        raise ValueError(f"cosines and distances differ in shape: {recognised.shape} and {apart.shape}")
    if (apart < 0).any():
        raise ValueError(f"distances: must be at least 0, got {apart.min():g}")
    return UP(recognised, apart, recognised + apart)


# ---------------------------------------------------------------------------------------------- uncertainty


def _level(level: float) -> None:
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must be between 0 and 1, got {level}")


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a rate.

    Args:
        successes: how often it happened, 0..n.
        n: how often it could have. With 0 the interval is [0, 1]: nothing is known.
        level: confidence.

    Returns:
        The interval, within [0, 1].

    Raises:
        ValueError: ``successes`` is not in 0..n, or ``level`` not in (0, 1).

    References:
        Wilson, Probable inference, the law of succession, and statistical inference, JASA 1927.
    """
    _level(level)
    if n < 0 or not 0 <= successes <= n:
        raise ValueError(f"successes must be in 0..n, got {successes} of {n}")
    if n == 0:
        return Interval(0.0, 1.0)
    from scipy.stats import binomtest

    found = binomtest(int(successes), int(n)).proportion_ci(confidence_level=level, method="wilson")
    return Interval(float(found.low), float(found.high))


def newcombe(both: int, first: int, second: int, neither: int, level: float = 0.95) -> Interval:
    """Newcombe's square-and-add interval (his method 10) of the difference of two rates over the same units.

    Wilson's limits of each rate, joined by the correlation of the outcomes. Where few units differ, a bootstrap sees
    no others, and calls four that all go one way beyond chance; this does not.

    Args:
        both: units with both outcomes, such as pairs that are right under either of two conditions.
        first: units with the first outcome alone.
        second: units with the second outcome alone.
        neither: units with none. Without any unit the interval is [-1, 1]: nothing is known.
        level: confidence.

    Returns:
        The interval of ``(first - second) / n``, within [-1, 1].

    Raises:
        ValueError: a count is below zero, or ``level`` not in (0, 1).

    References:
        Newcombe, Improved confidence intervals for the difference between binomial proportions based on paired data,
        Statistics in Medicine 1998, 17, 2635-2650.
    """
    _level(level)
    counts = (int(both), int(first), int(second), int(neither))
    if min(counts) < 0:
        raise ValueError(f"counts must be at least 0, got {counts}")
    both, first, second, neither = counts
    n = sum(counts)
    if n == 0:
        return Interval(-1.0, 1.0)
    one, other = both + first, both + second
    product = one * (n - one) * other * (n - other)
    # A positive correlation makes the interval narrower: his continuity correction takes from that, and from it alone.
    excess = float(both * neither - first * second)
    if excess > 0:
        excess = max(excess - n / 2, 0.0)
    phi = excess / math.sqrt(product) if product else 0.0
    ends, other_ends = wilson(one, n, level), wilson(other, n, level)
    one_down, one_up = one / n - ends.low, ends.high - one / n
    other_down, other_up = other / n - other_ends.low, other_ends.high - other / n
    below = math.sqrt(max(one_down**2 - 2 * phi * one_down * other_up + other_up**2, 0.0))
    above = math.sqrt(max(one_up**2 - 2 * phi * one_up * other_down + other_down**2, 0.0))
    middle = (first - second) / n
    return Interval(max(middle - below, -1.0), min(middle + above, 1.0))


def bootstrap(
    values: ArrayLike | Tensor,
    seed: int,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    statistic: Callable[..., Any] = np.mean,
    groups: Labels | None = None,
) -> Interval:
    """Percentile bootstrap interval of a statistic of independent values, the mean unless told otherwise.

    Values that are not independent, such as those of pairs that share a photograph, belong together: with ``groups``
    whole groups are drawn, each with all of its values (the cluster bootstrap).

    The same values and seed give the same interval. A single value, or a single group, gives an interval of width
    zero, which says nothing.

    Args:
        values: (N,) one for each independent unit (image, pair), or several for each group; N at least 1.
        seed: of the resampling.
        level: confidence.
        resamples: how many samples of N values, or of as many groups as there are, are drawn with replacement.
        statistic: takes an array (R, M) and ``axis=1`` to (R,), like ``numpy.mean``.
        groups: (N,) label of the group of each value, such as a photograph; None makes every value one of its own.

    Returns:
        The ``(1 - level) / 2`` and ``(1 + level) / 2`` quantiles of the statistic over the resamples.

    Raises:
        ValueError: there is no value, one is not finite, there is not one group label for each, or an argument is
            out of range.

    References:
        Efron, Bootstrap methods: another look at the jackknife, Annals of Statistics 1979.
        Davison and Hinkley, Bootstrap Methods and their Application, section 3.8, Cambridge 1997.
    """
    _level(level)
    sample = _floats(values, "values")
    if not len(sample):
        raise ValueError("values: need at least one")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    random = np.random.default_rng(seed)
    found = np.empty(resamples)
    # A table of indices that a cache can hold at a time.
    parts = batches(resamples, max(1, 100_000 // len(sample)))
    if groups is None:
        for part in parts:
            drawn = random.integers(len(sample), size=(part.stop - part.start, len(sample)))
            found[part] = statistic(sample[drawn], axis=1)
    else:
        numbers, codes = _groups(_names(groups, "groups", len(sample)))
        ordered = sample[np.argsort(codes, kind="stable")]
        sizes = np.bincount(codes)
        starts = np.cumsum(sizes) - sizes
        for part in parts:
            chosen = random.integers(len(numbers), size=(part.stop - part.start, len(numbers)))
            # One after the other, the values of the chosen groups: a sample has as many as these hold.
            lengths = sizes[chosen].ravel()
            ends = np.cumsum(lengths)
            offsets = np.repeat(starts[chosen].ravel() - (ends - lengths), lengths)
            samples = np.split(ordered[offsets + np.arange(len(offsets))], ends[len(numbers) - 1 : -1 : len(numbers)])
            found[part] = [statistic(values[None], axis=1)[0] for values in samples]
    low, high = np.quantile(found, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return Interval(float(low), float(high))
