"""Photographs, faces and the aligned crop that every recognition network takes.

A photograph is read (:func:`read_photo`), its faces are found with five landmarks each (:class:`Detector`, YuNet
through OpenCV), and a face is warped so that its landmarks fall on the ArcFace template (:func:`align`).
:func:`examine` does all of it for one file.

Wu, Peng, Yu: YuNet, a tiny millisecond-level face detector. Machine Intelligence Research, 2023.
Deng et al.: ArcFace. CVPR 2019 (the 112x112 template, as in the InsightFace project).
"""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from pmtlib import assets
from pmtlib.errors import AssetError, PhotoError
from pmtlib.images import UInt8Image

SIZE = 112
"""Side of an aligned crop, in pixels."""

TEMPLATE: NDArray[np.float64] = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""(5, 2) where the eyes, the nose tip and the mouth corners belong in a 112x112 crop, (x, y) in pixels; the eye and
the mouth corner on the left of the picture come first."""
TEMPLATE.setflags(write=False)

MIN_FACE = 32
"""Shorter side of the box, in photograph pixels, below which a face carries too little to be protected or compared."""

ALIGNMENT_VERSION = "yunet-2023mar-int8bq/umeyama/1"
"""Names the detector and the warp; part of the fingerprint of every crop that is made here."""

MAX_PIXELS = 178_000_000
"""Largest photograph that is decoded: above it a small file can fill the memory (a decompression bomb)."""

MAX_BYTES = 1 << 29
"""Largest file that is read as a photograph."""

_REFUSED_FORMATS = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
"""Formats that Pillow opens and that are no photographs: it hands EPS, a program, to Ghostscript, and the others to
handlers of other packages or of the system."""

Reason = Literal["unreadable", "no_face", "too_small", "not_aligned"]


class UnusablePhoto(PhotoError):
    """A photograph that gives no crop.

    Attributes:
        reason: ``unreadable`` (no such file, no image, truncated, too large), ``no_face``, ``too_small`` (faces, all
            below the smallest usable size) or ``not_aligned`` (an aligned crop was wanted).
    """

    def __init__(self, message: str, reason: Reason) -> None:
        super().__init__(message)
        self.reason: Reason = reason


# --------------------------------------------------------------------------------------------------------------------
# Reading
# --------------------------------------------------------------------------------------------------------------------


def read_photo(path: str | Path) -> UInt8Image:
    """Read a photograph in any format that Pillow itself decodes; HEIC too where ``pillow-heif`` is installed.

    The EXIF orientation is applied, transparency is laid on white, the first frame of an animation is taken, and
    16-bit, 32-bit and floating-point grey are scaled to 8 bits. Embedded colour profiles are not applied.

    Args:
        path: the file.

    Returns:
        (H, W, 3) RGB, 0..255.

    Raises:
        UnusablePhoto: with reason ``unreadable``; one line with the file and the remedy.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise _unreadable(path, "is a folder", "name a photograph in it")
        if not path.exists():
            raise _unreadable(path, "does not exist", "check the spelling of the path")
        if not path.is_file():
            raise _unreadable(path, "is not a regular file", "name a photograph")
        if path.stat().st_size > MAX_BYTES:
            raise _unreadable(path, f"is larger than {MAX_BYTES >> 20} MiB", "export a smaller copy")
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise _unreadable(path, f"cannot be read ({why})", "check the path and its permissions") from error
    return decode(content, str(path))


def decode(content: bytes, name: str) -> UInt8Image:
    """Decode the bytes of an image file as :func:`read_photo` does.

    Args:
        content: the encoded image.
        name: what errors call it, such as its path.

    Returns:
        (H, W, 3) RGB, 0..255.

    Raises:
        UnusablePhoto: with reason ``unreadable``.
    """
    if not content:
        raise _unreadable(name, "is empty (zero bytes)", "copy it again from its source")
    heic = _register_heif()
    try:
        with warnings.catch_warnings():
            # Pillow warns from half the size on at which it refuses; the limit here is MAX_PIXELS, and it is checked.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=_formats()) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError(f"{image.width}x{image.height}")
                image.seek(0)
                image.load()
                return _to_rgb(_upright(image))
    except UnidentifiedImageError as error:
        if not heic and content[4:8] == b"ftyp" and content[8:12] in _HEIF_BRANDS:
            raise _unreadable(
                name, "is HEIC, which needs a plugin", "pip install -e '.[heic]', or convert it to JPEG"
            ) from error
        raise _unreadable(name, "is not an image that can be read", "save it as JPEG or PNG") from error
    except Image.DecompressionBombError as error:
        raise _unreadable(
            name, f"has more than {MAX_PIXELS // 1_000_000} million pixels", "export a smaller copy"
        ) from error
    except MemoryError as error:
        raise _unreadable(name, "does not fit in memory", "export a smaller copy") from error
    except Exception as error:  # Pillow's format plugins raise whatever a broken file makes them raise.
        why = " ".join(str(error).split())[:120] or type(error).__name__
        raise _unreadable(name, f"is truncated or broken ({why})", "copy it again, or save it anew as PNG") from error


_HEIF_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"})


def _unreadable(name: str | Path, what: str, remedy: str) -> UnusablePhoto:
    return UnusablePhoto(f"{name} {what}. Remedy: {remedy}", "unreadable")


def _formats() -> list[str]:
    Image.init()
    return [name for name in Image.ID if name not in _REFUSED_FORMATS]


def _register_heif() -> bool:
    try:
        plugin = importlib.import_module("pillow_heif")
    except ImportError:
        return False
    plugin.register_heif_opener()
    return True


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # A damaged EXIF block says nothing about the pixels, and its parser raises many kinds.
        return image


def _to_rgb(image: Image.Image) -> UInt8Image:
    if image.mode == "F" or image.mode.startswith("I"):
        grey = _grey8(np.asarray(image), wide=image.mode.startswith("I;16"))
        return np.ascontiguousarray(np.repeat(grey[:, :, None], 3, axis=2))
    if "transparency" in image.info or image.mode in ("PA", "LA", "La", "RGBA", "RGBa"):
        layer = image.convert("RGBA")
        canvas = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        canvas.alpha_composite(layer)
        image = canvas
    return np.ascontiguousarray(np.asarray(image.convert("RGB"), dtype=np.uint8))


def _grey8(values: NDArray[Any], *, wide: bool) -> NDArray[np.uint8]:
    """Grey of an unstated range to 0..255: 16-bit modes by their range, others by the smallest usual one that fits."""
    # In parts: float64 of a whole photograph, with what the arithmetic makes beside it, is gigabytes.
    rows = max(1, (1 << 20) // max(values.shape[1], 1))
    parts = [slice(start, start + rows) for start in range(0, len(values), rows)]

    def part(place: slice) -> NDArray[np.float64]:
        return np.nan_to_num(values[place].astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)

    highest = max((float(part(place).max(initial=0.0)) for place in parts), default=0.0)
    fractional = any(bool((found != np.round(found)).any()) for found in map(part, parts))
    if wide:
        white = 65535.0
    elif fractional and highest <= 1.0:
        white = 1.0
    else:
        white = next((limit for limit in (255.0, 65535.0) if highest <= limit), highest)
    grey = np.empty(values.shape, dtype=np.uint8)
    for place in parts:
        grey[place] = np.clip(np.round(part(place) / white * 255.0), 0, 255)
    return grey


def load_aligned(path: str | Path) -> UInt8Image:
    """Read a picture that is an aligned 112x112 crop already; it is used as it is.

    Args:
        path: the file.

    Returns:
        (112, 112, 3) RGB, 0..255.

    Raises:
        UnusablePhoto: reason ``unreadable``, or ``not_aligned`` for any other size.
    """
    return as_aligned(read_photo(path), str(path))


def as_aligned(image: UInt8Image, name: str) -> UInt8Image:
    """A picture that is said to be an aligned crop, if it has the size of one.

    Raises:
        UnusablePhoto: reason ``not_aligned``; ``name`` is what the error calls it.
    """
    height, width = image.shape[:2]
    if (height, width) != (SIZE, SIZE):
        raise UnusablePhoto(
            f"{name} is {width}x{height}, and an aligned crop is {SIZE}x{SIZE}. "
            "Remedy: give it as a photograph, so that its face is found and aligned",
            "not_aligned",
        )
    return image


# --------------------------------------------------------------------------------------------------------------------
# Detection
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Face:
    """A detected face, in pixels of the photograph.

    Attributes:
        box: (x, y, width, height); it may reach beyond the picture.
        landmarks: (5, 2) float32 (x, y), in the order of :data:`TEMPLATE`. YuNet names the person's right eye first,
            which is the left one in the picture.
        score: the detector's confidence, 0..1.
    """

    box: tuple[float, float, float, float]
    landmarks: NDArray[np.float32]
    score: float

    @property
    def size(self) -> float:
        """Shorter side of the box, in pixels."""
        return min(self.box[2], self.box[3])

    @property
    def eye_distance(self) -> float:
        """Distance between the eyes, in pixels."""
        return float(np.linalg.norm(self.landmarks[0] - self.landmarks[1]))


@dataclass(frozen=True, eq=False)
class Detection:
    """What a photograph holds.

    Attributes:
        faces: the usable faces, largest first.
        too_small: faces below the smallest usable size, largest first.
    """

    faces: tuple[Face, ...]
    too_small: tuple[Face, ...]


@dataclass(frozen=True)
class _View:
    """A way to look at a photograph: a black border of ``border`` times its longer side, then a scale of at most
    ``enlarge`` that brings the whole to ``side`` pixels."""

    border: float
    side: int
    enlarge: float


class Detector:
    """Finds faces with YuNet.

    The photograph is seen at a bounded size, and once more with a border around it, smaller: a face that fills the
    picture, or is cut by its edge, is found there. Only where neither shows a face, a larger view is tried. The
    landmarks of each face are then found again in a close-up of it and in the mirrored close-up, at two scales, and
    averaged: YuNet's landmarks move with the scale of the face, and the average moves less.

    The same photograph gives the same faces. An instance is not for use by several threads at once.

    Args:
        score_threshold: detections below it are dropped, 0..1.
        min_size: shorter side of the box, in photograph pixels, from which on a face is usable.
        max_side: longer side, in pixels, at which a photograph is seen.

    Raises:
        AssetError: the detector's weights cannot be had.

    Example:
        >>> faces = Detector()(read_photo("portrait.jpg"))  # doctest: +SKIP
    """

    def __init__(self, *, score_threshold: float = 0.7, min_size: float = MIN_FACE, max_side: int = 1280) -> None:
        if not 0.0 < score_threshold < 1.0:
            raise ValueError(f"score_threshold is {score_threshold}, and must lie between 0 and 1")
        if max_side < 160:
            raise ValueError(f"max_side is {max_side}, and must be at least 160")
        self.score_threshold = score_threshold
        self.min_size = min_size
        self.max_side = max_side
        self._network = _load_yunet(score_threshold)

    def __call__(self, photo: UInt8Image) -> list[Face]:
        """Usable faces of ``photo`` (H, W, 3), largest first."""
        return list(self.detect(photo).faces)

    def detect(self, photo: UInt8Image) -> Detection:
        """Faces of ``photo`` (H, W, 3) RGB, usable ones and those that are too small."""
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
            raise ValueError(f"expected an 8-bit RGB image (H, W, 3), got {photo.dtype} {photo.shape}")
        # Small pictures are enlarged at most twice: beyond that there is nothing more to see.
        enlarge = 2.0 if max(photo.shape) < 320 else 1.0
        found = self._look(photo, _View(0.0, self.max_side, enlarge))
        found += self._look(photo, _View(0.5, self.max_side // 2, enlarge))
        if not found:
            found = self._look(photo, _View(0.0, 2 * self.max_side, 2.0))
        faces = [self._refine(photo, face) for face in _distinct(found)]
        faces.sort(key=lambda face: (-face.box[2] * face.box[3], -face.score, face.box))
        return Detection(
            tuple(face for face in faces if face.size >= self.min_size),
            tuple(face for face in faces if face.size < self.min_size),
        )

    def _look(self, photo: UInt8Image, view: _View) -> list[Face]:
        height, width = photo.shape[:2]
        longer = max(height, width)
        border = round(view.border * longer)
        scale = min(view.side / (longer + 2 * border), view.enlarge)
        picture = _resize(photo, scale)
        edge = round(border * scale)
        if edge:
            picture = _bordered(picture, edge, edge, edge, edge)
        steps = np.array([_resized(width, scale) / width, _resized(height, scale) / height])
        return [_mapped(face, 1.0 / steps, -edge) for face in self._run(picture)]

    def _refine(self, photo: UInt8Image, face: Face) -> Face:
        """``face`` with the mean landmarks of close-ups; a close-up that shows another face does not count."""
        x, y, width, height = face.box
        side = max(width, height)
        centre = np.array([x + width / 2, y + height / 2])
        estimates: list[NDArray[np.float64]] = []
        for pixels in (160.0, 224.0):
            frame = round(2 * pixels)
            closeup = _closeup(photo, centre, side / pixels, frame)
            for mirrored in (False, True):
                picture = np.ascontiguousarray(closeup[:, ::-1]) if mirrored else closeup
                candidates = self._run(picture)
                if not candidates:
                    continue
                middle = (frame - 1) / 2
                best = min(candidates, key=lambda other: float(np.linalg.norm(_middle(other) - middle)))
                landmarks = best.landmarks.astype(np.float64)
                if mirrored:
                    landmarks[:, 0] = frame - 1 - landmarks[:, 0]
                    landmarks = landmarks[[1, 0, 2, 4, 3]]
                landmarks = (landmarks - middle) * (side / pixels) + centre
                if np.abs(landmarks - face.landmarks).max() < 0.25 * side:
                    estimates.append(landmarks)
        if not estimates:
            return face
        return Face(face.box, np.mean(estimates, axis=0).astype(np.float32), face.score)

    def _run(self, picture: UInt8Image) -> list[Face]:
        height, width = picture.shape[:2]
        if min(height, width) < 8:
            return []
        self._network.setInputSize((width, height))
        rows: Any = self._network.detect(np.ascontiguousarray(picture[:, :, ::-1]))[1]
        if rows is None:
            return []
        return [
            Face(
                (float(row[0]), float(row[1]), float(row[2]), float(row[3])),
                np.array(row[4:14], dtype=np.float32).reshape(5, 2),
                min(float(row[14]), 1.0),
            )
            for row in rows
            if np.isfinite(row).all() and row[2] > 0 and row[3] > 0
        ]


@contextlib.contextmanager
def _quiet_opencv() -> Iterator[None]:
    # OpenCV 5 prints a warning of its own making whenever a detector is created.
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


def _load_yunet(score_threshold: float) -> cv2.FaceDetectorYN:
    file = assets.path("yunet-onnx")
    try:
        # From memory, since OpenCV cannot open every path that the platform allows.
        model = np.frombuffer(file.read_bytes(), dtype=np.uint8)
        with _quiet_opencv():
            return cv2.FaceDetectorYN.create(
                "onnx", model, np.empty(0, np.uint8), (320, 320), score_threshold, 0.3, 5000
            )
    except (cv2.error, OSError) as error:
        raise AssetError(
            f"OpenCV {cv2.__version__} cannot load the face detector {file}. "
            "Remedy: update opencv-contrib-python-headless (4.10 or newer)"
        ) from error


def _resized(length: int, scale: float) -> int:
    return max(1, round(length * scale))


def _resize(photo: UInt8Image, scale: float) -> UInt8Image:
    height, width = photo.shape[:2]
    size = (_resized(width, scale), _resized(height, scale))
    if size == (width, height):
        return photo
    result = cv2.resize(photo, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return np.asarray(result, dtype=np.uint8)


def _bordered(photo: UInt8Image, top: int, bottom: int, left: int, right: int) -> UInt8Image:
    result = cv2.copyMakeBorder(photo, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(0, 0, 0))
    return np.asarray(result, dtype=np.uint8)


def _mapped(face: Face, steps: NDArray[np.float64], offset: int) -> Face:
    """A face of a view in photograph pixels; a pixel's centre lies at its whole coordinate, as OpenCV has it."""
    x, y, width, height = face.box
    corner = (np.array([x, y]) + offset) * steps
    landmarks = (face.landmarks + offset + 0.5) * steps - 0.5
    box = (float(corner[0]), float(corner[1]), float(width * steps[0]), float(height * steps[1]))
    return Face(box, landmarks.astype(np.float32), face.score)


def _middle(face: Face) -> NDArray[np.float64]:
    x, y, width, height = face.box
    return np.array([x + width / 2, y + height / 2])


def _distinct(faces: list[Face]) -> list[Face]:
    """One detection a face, the most confident: those that overlap a better one, or lie within it, are dropped."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: (-face.score, face.box)):
        if all(_overlap(face, other) < 0.5 for other in kept):
            kept.append(face)
    return kept


def _overlap(first: Face, second: Face) -> float:
    """Shared area over the smaller area."""
    left, top = max(first.box[0], second.box[0]), max(first.box[1], second.box[1])
    right = min(first.box[0] + first.box[2], second.box[0] + second.box[2])
    bottom = min(first.box[1] + first.box[3], second.box[1] + second.box[3])
    shared = max(0.0, right - left) * max(0.0, bottom - top)
    return shared / min(first.box[2] * first.box[3], second.box[2] * second.box[3])


def _closeup(photo: UInt8Image, centre: NDArray[np.float64], step: float, frame: int) -> UInt8Image:
    """A square of ``frame`` pixels around ``centre``, each as wide as ``step`` photograph pixels."""
    scale = 1.0 / step
    middle = (frame - 1) / 2
    matrix = np.array([[scale, 0.0, middle - scale * centre[0]], [0.0, scale, middle - scale * centre[1]]])
    return _warp(photo, matrix, frame)


# --------------------------------------------------------------------------------------------------------------------
# Alignment
# --------------------------------------------------------------------------------------------------------------------


def similarity(source: NDArray[np.floating], target: NDArray[np.floating]) -> NDArray[np.float64]:
    """Least-squares rotation, uniform scale and shift that takes ``source`` to ``target``.

    Umeyama: Least-squares estimation of transformation parameters between two point patterns. PAMI 13(4), 1991. In
    the plane, with the points as complex numbers less their means, the factor is ``sum(conj(s) t) / sum(|s|^2)``.

    Args:
        source: (K, 2) points.
        target: (K, 2) points.

    Returns:
        (2, 3) matrix for column vectors (x, y, 1).

    Raises:
        PhotoError: the source points coincide, or are not finite.
    """
    from_ = np.asarray(source, dtype=np.float64) @ np.array([1, 1j])
    to = np.asarray(target, dtype=np.float64) @ np.array([1, 1j])
    centred = from_ - from_.mean()
    spread = float((np.abs(centred) ** 2).sum())
    if not np.isfinite(spread) or spread < 1e-9:
        raise PhotoError("the landmarks of a face coincide or are not finite. Remedy: use another photograph")
    factor = (centred.conj() * (to - to.mean())).sum() / spread
    shift = to.mean() - factor * from_.mean()
    return np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])


def align(photo: UInt8Image, landmarks: NDArray[np.floating], size: int = SIZE) -> UInt8Image:
    """Warp a face so that its landmarks fall on the ArcFace template; black where the photograph ends.

    Bilinear. A photograph more than twice as fine as the crop is averaged over whole blocks of pixels first, which
    a bilinear warp alone would sample with gaps.

    Args:
        photo: (H, W, 3) RGB, 0..255.
        landmarks: (5, 2) (x, y) in photograph pixels, in the order of :data:`TEMPLATE`.
        size: side of the crop in pixels; the template is scaled to it.

    Returns:
        (size, size, 3) RGB, 0..255.

    Raises:
        PhotoError: the landmarks coincide, or are not finite.
    """
    return _warp(photo, similarity(landmarks, TEMPLATE * (size / SIZE)), size)


def _warp(photo: UInt8Image, matrix: NDArray[np.float64], size: int) -> UInt8Image:
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    block = max(1, int(1.0 / scale))
    # OpenCV's warp takes no side of 32768 pixels or more; a panorama is reduced to the part that the crop sees.
    if block > 1 or max(photo.shape) > 32767:
        photo, matrix = _averaged(photo, matrix, size, block)
    warped = cv2.warpAffine(
        photo, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(0, 0, 0)
    )
    return np.asarray(warped, dtype=np.uint8)


def _averaged(
    photo: UInt8Image, matrix: NDArray[np.float64], size: int, block: int
) -> tuple[UInt8Image, NDArray[np.float64]]:
    """The part of ``photo`` that the crop sees as means of ``block`` x ``block`` pixels, and the warp from there."""
    inverse = cv2.invertAffineTransform(matrix)
    corners = np.array([[0, 0, 1], [size - 1, 0, 1], [0, size - 1, 1], [size - 1, size - 1, 1]]) @ inverse.T
    height, width = photo.shape[:2]
    low = np.floor((corners.min(0) - 2 * block) / block).astype(int) * block
    high = np.ceil((corners.max(0) + 2 * block) / block).astype(int) * block
    left, top = np.clip(low, 0, [max(width - 1, 0), max(height - 1, 0)])
    left, top = int(left) // block * block, int(top) // block * block
    right, bottom = int(np.clip(high[0], left + 1, width)), int(np.clip(high[1], top + 1, height))
    part = photo[top:bottom, left:right]
    # Blocks that the picture's edge cuts are completed with the border's black.
    below, beside = -part.shape[0] % block, -part.shape[1] % block
    if below or beside:
        part = _bordered(part, 0, below, 0, beside)
    small = cv2.resize(part, (part.shape[1] // block, part.shape[0] // block), interpolation=cv2.INTER_AREA)
    to_photo = np.array(
        [[block, 0, left + (block - 1) / 2], [0, block, top + (block - 1) / 2], [0, 0, 1]], dtype=np.float64
    )
    return np.asarray(small, dtype=np.uint8), matrix @ to_photo


# --------------------------------------------------------------------------------------------------------------------
# A photograph's crops
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Crop:
    """An aligned face of a photograph.

    Attributes:
        image: (112, 112, 3) RGB, 0..255.
        index: place among the photograph's usable faces, largest first, from 0.
        box: (x, y, width, height) in photograph pixels.
        score: the detector's confidence, 0..1.
        eye_distance: in photograph pixels; about 35 is the crop's own resolution.
        landmarks: (5, 2) float32 in photograph pixels.
    """

    image: UInt8Image
    index: int
    box: tuple[float, float, float, float]
    score: float
    eye_distance: float
    landmarks: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Findings:
    """The crops of a photograph, and its faces that are too small for one."""

    crops: tuple[Crop, ...]
    too_small: tuple[Face, ...]


def crop(photo: UInt8Image, face: Face, index: int = 0) -> Crop:
    """The aligned crop of one detected face."""
    return Crop(align(photo, face.landmarks), index, face.box, face.score, face.eye_distance, face.landmarks)


def examine(
    path: str | Path, *, largest: bool = False, min_size: float = MIN_FACE, detector: Detector | None = None
) -> Findings:
    """Read a photograph and align its faces.

    Args:
        path: the file.
        largest: take the largest usable face alone.
        min_size: smallest usable face, shorter side of its box in photograph pixels.
        detector: one to use for many photographs; its own ``min_size`` does not count.

    Returns:
        At least one crop, and the faces that are too small.

    Raises:
        UnusablePhoto: reason ``unreadable``, ``no_face``, or ``too_small`` where every face is below ``min_size``.
        AssetError: the detector's weights cannot be had.
    """
    photo = read_photo(path)
    detection = (detector or Detector(min_size=min_size)).detect(photo)
    everything = (*detection.faces, *detection.too_small)
    usable = [face for face in everything if face.size >= min_size]
    too_small = tuple(face for face in everything if face.size < min_size)
    if not everything:
        raise UnusablePhoto(
            f"no face found in {path}. Remedy: use an upright photograph in which the face is visible", "no_face"
        )
    if not usable:
        raise UnusablePhoto(
            f"face too small in {path} ({max(face.size for face in too_small):.0f} px; at least {min_size:g}). "
            "Remedy: use a larger photograph",
            "too_small",
        )
    crops = [crop(photo, face, index) for index, face in enumerate(usable[:1] if largest else usable)]
    return Findings(tuple(crops), too_small)


def extract(
    path: str | Path, *, largest: bool = False, min_size: float = MIN_FACE, detector: Detector | None = None
) -> list[Crop]:
    """The aligned faces of a photograph, largest first: :func:`examine` without the faces that are too small."""
    return list(examine(path, largest=largest, min_size=min_size, detector=detector).crops)
