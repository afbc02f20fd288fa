"""Attribute estimation: what an upload tells about the person (Eq. 5, Section 6.5).

Threat model: the receiver, or whoever gets hold of the upload, has the saved 8-bit image alone. They neither know nor
ask the recognition service, and they feed the image to a published attribute network as it is, or after a face
detector has found the face in it. They want age, gender, emotion and race for a use that the person did not agree to.
They succeed as far as the answers are those that the original photograph would have given.

The paper uses the networks of DeepFace (Serengil, Ozpinar: LightFace. ASYU 2020), whose weights no package index
carries: :func:`deepface_estimate` runs them where they are. :func:`estimate` runs those of
:mod:`pmtlib.attribute_zoo`, which are other networks and have to be reported under their own names.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pmtlib import attribute_zoo, devices, faces
from pmtlib.errors import AssetError, ConfigError
from pmtlib.images import batches

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

DEEPFACE = "deepface"
"""The network name under which :func:`deepface_estimate` reports."""


@dataclass(frozen=True, eq=False)
class AttributeEstimates:
    """What attribute networks say about N images.

    Attributes:
        probabilities: network to attribute to probabilities (N, labels), the vectors A(x) of Eq. 11. The rows of
            images in which the network's own detector found no face are NaN.
        labels: network to attribute to the labels, in the order of the probabilities.
        years: network to age (N,) in years, of those that tell one; NaN as above.
        detected: network to whether its own detector found a face, (N,); a network that looks at the whole image,
            without a detector, has no entry.
    """

    probabilities: Mapping[str, Mapping[str, Floats]]
    labels: Mapping[str, Mapping[str, tuple[str, ...]]]
    years: Mapping[str, Floats] = field(default_factory=dict)
    detected: Mapping[str, Bools] = field(default_factory=dict)

    def named(self, network: str, attribute: str) -> list[str | None]:
        """The likeliest label of each image; None where there is no estimate."""
        labels = self.labels[network][attribute]
        rows = self.probabilities[network][attribute]
        return [None if np.isnan(row).any() else labels[int(row.argmax())] for row in rows]


@torch.no_grad()
def estimate(
    images: Tensor, networks: Sequence[str], device: torch.device | str = "cpu", *, batch: int = 64
) -> AttributeEstimates:
    """The attributes of aligned crops or uploads, by networks of :mod:`pmtlib.attribute_zoo`.

    Args:
        images: (N, 3, 112, 112), RGB in [0, 1]; uploads as they were saved (:func:`pmtlib.images.quantise`).
        networks: names of :func:`pmtlib.attribute_zoo.names`.
        device: to compute on; a name that :func:`pmtlib.devices.resolve` takes.
        batch: images at a time.

    Returns:
        Estimates for every image: no detector decides here, so the network answers whatever the image shows.

    Raises:
        NetworkError: there is no such network, or its weights do not fit.
        AssetError: a weight file cannot be had.
    """
    if images.ndim != 4 or tuple(images.shape[1:]) != (3, faces.SIZE, faces.SIZE):
        raise ValueError(f"expected images (N, 3, {faces.SIZE}, {faces.SIZE}), got {tuple(images.shape)}")
    target = devices.resolve(device) if isinstance(device, str) else device
    probabilities: dict[str, Mapping[str, Floats]] = {}
    labels: dict[str, Mapping[str, tuple[str, ...]]] = {}
    years: dict[str, Floats] = {}
    for name in networks:
        network = attribute_zoo.load(name, target)
        labels[name] = attribute_zoo.card(name).labels
        parts: dict[str, list[Floats]] = {attribute: [] for attribute in labels[name]}
        ages: list[Floats] = []
        for part in batches(len(images), batch):
            output = network(images[part].to(target, torch.float32))
            for attribute, rows in parts.items():
                rows.append(_array(output[attribute]))
            if (age := network.years(output)) is not None:
                ages.append(_array(age))
        probabilities[name] = {
            attribute: np.concatenate(rows) if rows else np.empty((0, len(labels[name][attribute])))
            for attribute, rows in parts.items()
        }
        if ages:
            years[name] = np.concatenate(ages)
    return AttributeEstimates(probabilities, labels, years)


def _array(tensor: Tensor) -> Floats:
    return np.asarray(tensor.cpu().numpy(), dtype=np.float64)


# --------------------------------------------------------------------------------------------------------------------
# Comparing two estimates
# --------------------------------------------------------------------------------------------------------------------


def label_agreement(a: ArrayLike, b: ArrayLike) -> Bools:
    """Whether two estimates name the same label: ``argmax_c a_ic = argmax_c b_ic``.

    Args:
        a: (N, C) probabilities, such as those of the originals.
        b: (N, C) probabilities of the same attribute and network, such as those of the uploads.

    Returns:
        (N,) bool. A row without an estimate (NaN) agrees with nothing: where no face is found, nothing is told.
    """
    first, second = _winners(a, b)
    return np.asarray((first >= 0) & (first == second))


def chance_agreement(a: ArrayLike, b: ArrayLike) -> float:
    """How often two estimates would agree if the labels of ``b`` had nothing to do with those of ``a``.

    It is ``sum_c p_a(c) p_b(c)``, p_a(c) the part of the N rows of ``a`` whose likeliest label is c. A network that
    gives nearly every image the same label agrees with itself whatever it is shown: what counts as knowledge is the
    mean of :func:`label_agreement` above this value, not the mean itself.

    Args:
        a: (N, C) probabilities.
        b: (N, C) probabilities. Rows without an estimate (NaN) count in N, and for no label.

    Returns:
        In [0, 1]; NaN where N is 0.
    """
    first, second = _winners(a, b)
    if not len(first):
        return float("nan")
    width = np.asarray(a).shape[1]
    shares = [np.bincount(winners[winners >= 0], minlength=width) / len(winners) for winners in (first, second)]
    return float(shares[0] @ shares[1])


def _winners(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The likeliest label of each row, -1 for rows with NaN."""
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.ndim != 2 or first.shape != second.shape or not first.shape[1]:
        raise ValueError(f"expected two arrays (N, C) of one shape, got {first.shape} and {second.shape}")
    one, other = (np.where(np.isnan(rows).any(1), -1, rows.argmax(1)).astype(np.int64) for rows in (first, second))
    return one, other


# --------------------------------------------------------------------------------------------------------------------
# Whether a face is found at all
# --------------------------------------------------------------------------------------------------------------------


def own_detector_finds(images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]) -> Bools:
    """Whether :class:`pmtlib.faces.Detector` (YuNet) finds a face in each upload, at its usual threshold and size.

    A crop is filled by its face; the detector looks at it enlarged twice, and once more with a black border around it,
    as it does with every small photograph.

    Args:
        images: (N, H, W, 3) RGB, 0..255.

    Returns:
        (N,) bool; its mean is the detection rate.

    Raises:
        AssetError: the detector's weights cannot be had.
    """
    detector = faces.Detector()
    return np.array([bool(detector(image)) for image in images], dtype=np.bool_)


# --------------------------------------------------------------------------------------------------------------------
# DeepFace
# --------------------------------------------------------------------------------------------------------------------

DEEPFACE_LABELS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "emotion": ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"),
        "gender": ("Woman", "Man"),
        "race": ("asian", "indian", "black", "white", "middle eastern", "latino hispanic"),
    }
)
"""DeepFace's attributes with probabilities, labels in its own order; age comes in years alone."""

DEEPFACE_ACTIONS = ("age", "emotion", "gender", "race")

# What DeepFace's PyTorch engine looks for in $DEEPFACE_HOME/.deepface/weights, and downloads where it is absent.
_ACTION_FILES = {
    "age": "age_model_weights.pth",
    "emotion": "facial_expression_model_weights.pth",
    "gender": "gender_model_weights.pth",
    "race": "race_model_single_batch.pth",
}
_DETECTOR_FILES: dict[str, tuple[str, ...]] = {
    "skip": (),
    "opencv": ("haarcascade_frontalface_default.xml", "haarcascade_eye.xml"),
    "yunet": ("face_detection_yunet_2023mar.onnx",),
}


def deepface_missing(actions: Sequence[str] = DEEPFACE_ACTIONS, detector_backend: str = "skip") -> tuple[str, ...]:
    """What DeepFace lacks to run without a download: packages by name, files by path; empty where nothing.

    Nothing is imported: the import alone makes DeepFace create its folder.

    Args:
        actions: of :data:`DEEPFACE_ACTIONS`.
        detector_backend: ``skip`` (none), ``opencv`` or ``yunet``; the files of other detectors are not known here.

    Raises:
        ConfigError: an action or a detector is not among these.
    """
    for action in actions:
        if action not in _ACTION_FILES:
            raise ConfigError(f"DeepFace estimates no {action!r}; choose from {', '.join(DEEPFACE_ACTIONS)}")
    if not actions:
        raise ConfigError(f"no attribute asked of DeepFace; choose from {', '.join(DEEPFACE_ACTIONS)}")
    if detector_backend not in _DETECTOR_FILES:
        raise ConfigError(f"no detector {detector_backend!r} for DeepFace; choose from {', '.join(_DETECTOR_FILES)}")
    missing = [] if _importable("deepface") else ["package deepface"]
    folder = Path(os.environ.get("DEEPFACE_HOME") or Path.home()) / ".deepface" / "weights"
    missing += [
        str(folder / _ACTION_FILES[action]) for action in actions if not _is_file(folder / _ACTION_FILES[action])
    ]
    for name in _DETECTOR_FILES[detector_backend]:
        # OpenCV 4 brings its cascades along; OpenCV 5 does not.
        if not _is_file(folder / name) and not _is_file(Path(cv2.__file__).parent / "data" / name):
            missing.append(str(folder / name))
    return tuple(missing)


def deepface_available(actions: Sequence[str] = DEEPFACE_ACTIONS, detector_backend: str = "skip") -> bool:
    """Whether DeepFace is installed and the weights of ``actions`` and of the detector are here; downloads nothing.

    Raises:
        ConfigError: as :func:`deepface_missing`.
    """
    return not deepface_missing(actions, detector_backend)


def deepface_estimate(
    images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
    detector_backend: str = "skip",
    *,
    actions: Sequence[str] = DEEPFACE_ACTIONS,
) -> AttributeEstimates:
    """The attributes of images by DeepFace, on PyTorch.

    With a detector, DeepFace analyses the largest face that it finds. An image in which it finds none has NaN rows and
    is marked in ``detected``: it is never analysed whole instead, which would make up attributes of no face.

    Args:
        images: (N, H, W, 3) RGB, 0..255.
        detector_backend: ``skip`` takes each image for a face, as aligned crops are; ``opencv`` and ``yunet`` look
            for one first, as the paper did with DeepFace's default, ``opencv``.
        actions: of :data:`DEEPFACE_ACTIONS`.

    Returns:
        Estimates under the network name :data:`DEEPFACE`. DeepFace cuts ages to whole years.

    Raises:
        AssetError: the package or a weight file is not here; nothing is downloaded.
        ConfigError: an action or a detector is not known.
    """
    if missing := deepface_missing(actions, detector_backend):
        raise AssetError(
            f"DeepFace cannot run without {missing[0]} ({len(missing)} missing). Remedy: pip install -e "
            "'.[attributes]', and put the weights of github.com/serengil/deepface_models there"
        )
    analyse, not_detected = _deepface()
    wanted = {attribute: DEEPFACE_LABELS[attribute] for attribute in DEEPFACE_LABELS if attribute in actions}
    count = len(images)
    probabilities: dict[str, Floats] = {name: np.full((count, len(labels)), np.nan) for name, labels in wanted.items()}
    years = np.full(count, np.nan)
    detected = np.zeros(count, dtype=np.bool_)
    for place, image in enumerate(images):
        try:
            found = analyse(
                # DeepFace takes arrays for OpenCV's blue-green-red.
                img_path=np.ascontiguousarray(np.asarray(image)[:, :, ::-1]),
                actions=list(actions),
                detector_backend=detector_backend,
                enforce_detection=True,
                silent=True,
            )
        except not_detected:
            continue
        if not found:
            continue
        detected[place] = True
        face = max(found, key=lambda one: one["region"]["w"] * one["region"]["h"])
        for attribute, labels in wanted.items():
            scores = np.array([float(face[attribute][label]) for label in labels])
            # In percent; the sum is one but for rounding.
            probabilities[attribute][place] = scores / scores.sum()
        if "age" in actions:
            years[place] = float(face["age"])
    return AttributeEstimates(
        {DEEPFACE: probabilities},
        {DEEPFACE: wanted},
        {DEEPFACE: years} if "age" in actions else {},
        {} if detector_backend == "skip" else {DEEPFACE: detected},
    )


def _deepface() -> tuple[Any, type[Exception]]:
    """DeepFace's ``analyze`` and the error with which it says that it found no face."""
    # It is read at the first import; without it DeepFace takes TensorFlow wherever that is installed.
    os.environ["DEEPFACE_BACKEND_ENGINE"] = "pytorch"
    try:
        # Its import silences every warning of the process.
        with warnings.catch_warnings():
            analyse = importlib.import_module("deepface.DeepFace").analyze
            not_detected = importlib.import_module("deepface.modules.exceptions").FaceNotDetected
    except (ImportError, AttributeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise AssetError(
            f"DeepFace cannot be imported ({reason}). Remedy: pip install -e '.[attributes]' (deepface 0.0.102 or "
            "newer)"
        ) from error
    return analyse, not_detected


def _importable(package: str) -> bool:
    return package in sys.modules or importlib.util.find_spec(package) is not None


def _is_file(path: Path) -> bool:
    # A download that broke off leaves an empty file behind, which DeepFace would take for the weights.
    return path.is_file() and path.stat().st_size > 0
