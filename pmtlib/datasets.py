"""Verification sets: aligned faces and labelled pairs of them.

:func:`load` reads the sets in the forms that people have them in: InsightFace ``.bin`` files, the LFW folder with
``pairs.txt``, the CFP protocol, an image folder with a list of labels, and tables of pairs. Research sets lie in the
folder that ``PMT_DATA`` names, and nothing of them is copied. :func:`samples` is a small built-in set of photographs.

Huang et al.: Labeled Faces in the Wild. UMass TR 07-49, 2007. Moschoglou et al.: AgeDB. CVPRW 2017. Sengupta et al.:
Frontal to profile face verification in the wild (CFP). WACV 2016. Zheng, Deng, Hu: Cross-age LFW. arXiv 1708.08197.
"""

from __future__ import annotations

import csv
import hashlib
import importlib
import importlib.resources
import os
import pickle
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor

from pmtlib import assets, faces, pickles
from pmtlib.errors import DatasetError, PhotoError
from pmtlib.faces import SIZE
from pmtlib.images import UInt8Image, png_bytes, to_tensor, write_atomic
from pmtlib.paths import check_regular, data_dir

SUFFIXES = (".jpg", ".png", ".jpeg", ".bmp", ".webp")
"""Image files that are looked for in the folders of a set, the usual one first."""

_FOLDS = 10


class _Named(NamedTuple):
    title: str
    spellings: tuple[str, ...]


NAMED: Mapping[str, _Named] = MappingProxyType(
    {
        "lfw": _Named("LFW", ("lfw", "lfwhome", "lfwfunneled", "lfwdeepfunneled")),
        "agedb_30": _Named("AgeDB-30", ("agedb30", "agedb")),
        "cfp_ff": _Named("CFP-FF", ("cfpff", "cfp", "cfpdataset")),
        "cfp_fp": _Named("CFP-FP", ("cfpfp", "cfp", "cfpdataset")),
        "calfw": _Named("CALFW", ("calfw",)),
        "cplfw": _Named("CPLFW", ("cplfw",)),
    }
)
"""Sets that are known by name: their title, and the names that their folders and files go by (letters and digits)."""


# --------------------------------------------------------------------------------------------------------------------
# Images, read when they are asked for
# --------------------------------------------------------------------------------------------------------------------


class Images(ABC):
    """A sequence of aligned crops (112, 112, 3) RGB, 0..255, each read when it is asked for."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> UInt8Image: ...

    @abstractmethod
    def name(self, index: int) -> str:
        """What errors and reports call the image."""

    @abstractmethod
    def content(self, index: int) -> bytes:
        """Bytes that determine the crop: the encoded file, and how it was aligned."""

    def __iter__(self) -> Iterator[UInt8Image]:
        return (self[index] for index in range(len(self)))


class _Files(Images):
    """Files that are aligned crops."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> UInt8Image:
        try:
            return faces.load_aligned(self.paths[index])
        except PhotoError as error:
            raise DatasetError(str(error)) from error

    def name(self, index: int) -> str:
        return str(self.paths[index])

    def content(self, index: int) -> bytes:
        return _read(self.paths[index])


class _Photographs(_Files):
    """Files that are not aligned yet: each is, whenever it is read, or once where there is a folder for the crops.

    Args:
        paths: the photographs.
        central: take the face nearest to the centre (LFW's), else the largest.
        crop_cache: folder for the crops, as PNG.
    """

    def __init__(self, paths: Sequence[Path], *, central: bool, crop_cache: Path | None) -> None:
        super().__init__(paths)
        self.central = central
        self.crop_cache = crop_cache

    @cached_property
    def _detector(self) -> faces.Detector:
        # The photograph is known to hold the face, so a weak detection of it is welcome.
        return faces.Detector(score_threshold=0.3, min_size=0)

    def content(self, index: int) -> bytes:
        how = f"{faces.ALIGNMENT_VERSION}/{'central' if self.central else 'largest'}"
        return super().content(index) + how.encode()

    def __getitem__(self, index: int) -> UInt8Image:
        if self.crop_cache is None:
            return self._aligned(index)
        kept = self.crop_cache / f"{hashlib.sha256(self.content(index)).hexdigest()[:40]}.png"
        if kept.is_file():
            try:
                return faces.load_aligned(kept)
            except PhotoError:
                kept.unlink(missing_ok=True)
        image = self._aligned(index)
        write_atomic(kept, png_bytes(image))
        return image

    def _aligned(self, index: int) -> UInt8Image:
        path = self.paths[index]
        try:
            photo = faces.read_photo(path)
            found = self._detector(photo)
            if found:
                return faces.align(photo, (_central(found, photo) if self.central else found[0]).landmarks)
            if self.central:
                return faces.align(photo, _lfw_landmarks(photo))
        except PhotoError as error:
            raise DatasetError(str(error)) from error
        raise DatasetError(f"no face found in {path}. Remedy: replace it by an aligned {SIZE}x{SIZE} crop, or drop it")


def _central(found: Sequence[faces.Face], photo: UInt8Image) -> faces.Face:
    middle = np.array([photo.shape[1], photo.shape[0]]) / 2
    return min(found, key=lambda face: float(np.linalg.norm(face.landmarks.mean(0) - middle)))


def _lfw_landmarks(photo: UInt8Image) -> NDArray[np.float64]:
    """Where LFW's construction puts the landmarks: its photographs are Viola-Jones boxes widened by 2.2 (TR 07-49).

    In such a box the eyes lie at 0.39 of the height, 0.38 of the width apart.
    """
    height, width = photo.shape[:2]
    box = max(height, width) / 2.2
    scale = 0.38 * box / float(np.linalg.norm(faces.TEMPLATE[0] - faces.TEMPLATE[1]))
    eyes = np.array([width / 2, height / 2 - box / 2 + 0.39 * box])
    return np.asarray((faces.TEMPLATE - faces.TEMPLATE[:2].mean(0)) * scale + eyes, dtype=np.float64)


class EncodedImages(Images):
    """Encoded aligned crops in something larger than a file each; a subclass says where their bytes are."""

    def __getitem__(self, index: int) -> UInt8Image:
        try:
            image = faces.decode(self.content(index), self.name(index))
        except PhotoError as error:
            raise DatasetError(str(error)) from error
        if image.shape != (SIZE, SIZE, 3):
            raise DatasetError(
                f"{self.name(index)} is {image.shape[1]}x{image.shape[0]}. Remedy: use aligned {SIZE}x{SIZE} crops"
            )
        return image


class _Encoded(EncodedImages):
    """Encoded images in memory, as a ``.bin`` file holds them."""

    def __init__(self, encoded: Sequence[bytes], origin: str) -> None:
        self.encoded = tuple(encoded)
        self.origin = origin

    def __len__(self) -> int:
        return len(self.encoded)

    def name(self, index: int) -> str:
        return f"{self.origin}, image {index}"

    def content(self, index: int) -> bytes:
        return self.encoded[index]


class _Chosen(Images):
    """Some images of another sequence."""

    def __init__(self, source: Images, indices: NDArray[np.int64]) -> None:
        self.source, self.indices = source, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> UInt8Image:
        return self.source[int(self.indices[index])]

    def name(self, index: int) -> str:
        return self.source.name(int(self.indices[index]))

    def content(self, index: int) -> bytes:
        return self.source.content(int(self.indices[index]))


def _choose(source: Images, indices: NDArray[np.int64]) -> Images:
    if isinstance(source, _Chosen):
        return _Chosen(source.source, source.indices[indices])
    return _Chosen(source, indices)


def _stack(images: Images, indices: ArrayLike | Sequence[int]) -> Tensor:
    rows = np.asarray(indices, dtype=np.int64).reshape(-1)
    if not len(rows):
        return torch.empty((0, 3, SIZE, SIZE))
    return to_tensor([images[int(row)] for row in rows])


# --------------------------------------------------------------------------------------------------------------------
# Sets
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PairSet:
    """Aligned faces and pairs of them, of one person or of two.

    Attributes:
        name: short name, such as ``lfw``.
        images: M crops (112, 112, 3) RGB, 0..255, read when asked for.
        pairs: (P, 2) int64, indices into ``images``.
        same: (P,) bool, whether a pair shows one person.
        folds: (P,) int64, from 0, the part of the protocol that a pair belongs to.
        identities: who each image shows, M names; None where the set does not say.
        title: for tables and captions.
        note: what a reader of a result on this set has to know; empty for a benchmark as published.
        stand_in: a demonstration set, which stands in for a benchmark.

    Raises:
        DatasetError: the parts do not fit together.
    """

    name: str
    images: Images
    pairs: NDArray[np.int64]
    same: NDArray[np.bool_]
    folds: NDArray[np.int64]
    identities: tuple[str, ...] | None
    title: str
    note: str = ""
    stand_in: bool = False

    def __post_init__(self) -> None:
        for field, kind, shape in (("pairs", np.int64, (-1, 2)), ("same", np.bool_, (-1,)), ("folds", np.int64, (-1,))):
            object.__setattr__(self, field, np.array(getattr(self, field), dtype=kind).reshape(shape))
        if not len(self.pairs) == len(self.same) == len(self.folds):
            raise DatasetError(
                f"{self.name}: {len(self.pairs)} pairs, {len(self.same)} labels and {len(self.folds)} folds. "
                "Remedy: give one label and one fold a pair"
            )
        if len(self.pairs) and not 0 <= self.pairs.min() <= self.pairs.max() < len(self.images):
            raise DatasetError(
                f"{self.name}: a pair names an image outside 0..{len(self.images) - 1}. Remedy: correct its pair list"
            )
        if self.identities is not None and len(self.identities) != len(self.images):
            raise DatasetError(
                f"{self.name}: {len(self.identities)} identities for {len(self.images)} images. "
                "Remedy: give one identity an image"
            )

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.pairs)

    def tensor(self, indices: ArrayLike | Sequence[int]) -> Tensor:
        """Images ``indices`` as a float32 tensor (n, 3, 112, 112), RGB in [0, 1]."""
        return _stack(self.images, indices)

    def subset(self, indices: ArrayLike | Sequence[int]) -> PairSet:
        """The pairs ``indices`` (a list of rows, or a mask), with the images that they use and no other."""
        rows = np.asarray(indices)
        rows = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows.astype(np.int64).reshape(-1)
        used, places = np.unique(self.pairs[rows], return_inverse=True)
        return PairSet(
            self.name,
            _choose(self.images, used.astype(np.int64)),
            places.reshape(-1, 2),
            self.same[rows],
            self.folds[rows],
            None if self.identities is None else tuple(self.identities[int(image)] for image in used),
            self.title,
            self.note,
            self.stand_in,
        )

    def sample(self, n: int, seed: int) -> PairSet:
        """``n`` pairs, half of one person and half of two, spread evenly over the folds, in the order of the set.

        Where ``n`` is odd, one pair more shows one person. A fold that is short of pairs is made up for by others.

        Args:
            n: number of pairs.
            seed: of the PCG64 generator that draws them; the same seed draws the same pairs.

        Raises:
            DatasetError: the set does not hold that many pairs of each kind.
        """
        if n < 1:
            raise DatasetError(f"{self.name}: a sample of {n} pairs was asked for. Remedy: ask for 1 or more")
        generator = np.random.Generator(np.random.PCG64(seed))
        drawn: list[int] = []
        for alike, wanted in ((True, n - n // 2), (False, n // 2)):
            rows = np.flatnonzero(self.same == alike)
            if len(rows) < wanted:
                kind = "one person" if alike else "two persons"
                raise DatasetError(
                    f"{self.name} holds {len(rows)} pairs of {kind}, and a sample of {n} needs {wanted}. "
                    "Remedy: ask for fewer pairs"
                )
            drawn.extend(_spread(rows, self.folds[rows], wanted, generator))
        return self.subset(sorted(drawn))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, over the bytes of the images that the pairs use, the pairs, their labels and folds.

        Images that no pair uses do not count, so that a set and the subset of all its pairs agree.
        """
        used, places = np.unique(self.pairs, return_inverse=True)
        digest = hashlib.sha256()
        for image in used:
            digest.update(hashlib.sha256(self.images.content(int(image))).digest())
        for array in (places.reshape(-1, 2).astype("<i8"), self.same.astype("u1"), self.folds.astype("<i8")):
            digest.update(array.tobytes())
        return digest.hexdigest()


def _spread(
    rows: NDArray[np.int64], folds: NDArray[np.int64], wanted: int, generator: np.random.Generator
) -> list[int]:
    """``wanted`` of ``rows``: each fold in random order, the folds taken in turn, in random order each turn."""
    heaps = [list(generator.permutation(rows[folds == fold])) for fold in np.unique(folds)]
    drawn: list[int] = []
    while len(drawn) < wanted:
        for place in generator.permutation(len(heaps)):
            if heaps[place] and len(drawn) < wanted:
                drawn.append(int(heaps[place].pop()))
    return drawn


def disjoint(pairset: PairSet, evaluated: PairSet | ArrayLike) -> NDArray[np.int64]:
    """Pairs that have nobody in common with the evaluated ones: for thresholds that must not come from them.

    Where both sets name identities, no identity is shared; otherwise no image is, by content.

    Args:
        pairset: the set to choose from.
        evaluated: the evaluated pairs: a set, or rows of ``pairset`` (indices, or a mask).

    Returns:
        (K,) int64 rows of ``pairset``, ascending; empty where nothing is left.
    """
    other = evaluated if isinstance(evaluated, PairSet) else pairset.subset(np.asarray(evaluated))
    used = np.unique(other.pairs)
    if pairset.identities is not None and other.identities is not None:
        taken = {other.identities[int(image)] for image in used}
        hit = np.array([person in taken for person in pairset.identities], dtype=np.bool_)
    else:
        seen = {hashlib.sha256(other.images.content(int(image))).digest() for image in used}
        hit = np.zeros(len(pairset.images), dtype=np.bool_)
        for image in np.unique(pairset.pairs):
            hit[image] = hashlib.sha256(pairset.images.content(int(image))).digest() in seen
    return np.flatnonzero(~hit[pairset.pairs].any(axis=1)).astype(np.int64)


@dataclass(frozen=True, eq=False)
class People:
    """Labelled faces without pairs, for whoever trains or tunes on them.

    Attributes:
        name: short name.
        images: M crops (112, 112, 3) RGB, 0..255, read when asked for.
        identities: who each image shows, M names.
    """

    name: str
    images: Images
    identities: tuple[str, ...]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.identities)

    @property
    def names(self) -> tuple[str, ...]:
        """The identities, each once, sorted."""
        return tuple(sorted(set(self.identities)))

    def tensor(self, indices: ArrayLike | Sequence[int]) -> Tensor:
        """Images ``indices`` as a float32 tensor (n, 3, 112, 112), RGB in [0, 1]."""
        return _stack(self.images, indices)

    def subset(self, indices: ArrayLike | Sequence[int]) -> People:
        """The images ``indices``, in that order."""
        rows = np.asarray(indices, dtype=np.int64).reshape(-1)
        return People(self.name, _choose(self.images, rows), tuple(self.identities[int(row)] for row in rows))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, over the bytes of all images and their identities."""
        digest = hashlib.sha256()
        for index, person in enumerate(self.identities):
            digest.update(hashlib.sha256(self.images.content(index)).digest())
            digest.update(person.encode() + b"\0")
        return digest.hexdigest()


# --------------------------------------------------------------------------------------------------------------------
# Finding a set
# --------------------------------------------------------------------------------------------------------------------


def load(name_or_path: str | Path, *, crop_cache: Path | None = None) -> PairSet:
    """Load a verification set.

    A name (``lfw``, ``agedb_30``, ``cfp_ff``, ``cfp_fp``, ``calfw``, ``cplfw``, in any spelling, or that of any other
    set there) is looked up in the folder ``PMT_DATA``; ``samples`` is built in. Anything else is a path.

    A path is one of:

    - an InsightFace ``.bin`` file: a pickle of encoded images and labels, read without running any of its code;
    - a ``.csv`` or ``.tsv`` table with the columns ``img1``, ``img2``, ``same`` (1 or 0) and perhaps ``fold``, with
      paths relative to the table, or to ``data/`` or ``images/`` beside it;
    - a folder with such a table named ``pairs.csv``, ``pairs.tsv``, ``pairs_ff.tsv`` or ``pairs_fp.tsv``;
    - a folder with LFW's ``pairs.txt`` (``NAME i j``, ``NAME1 i NAME2 j``, or ``IMAGE1 IMAGE2 0|1``), images
      ``NAME/NAME_0001.jpg`` in it or in a folder such as ``data/`` or ``lfw_funneled/``;
    - a folder with CFP's ``Protocol/Split`` and ``Protocol/Pair_list_F.txt``;
    - a folder of images, pair k being images 2k and 2k+1 in order, with the labels in ``NAME_list.npy`` or
      ``issame.npy`` in it or beside it (face.evoLVe).

    Images are aligned 112x112 crops. Where the first one of a folder or table is not, all are taken for photographs
    and aligned here whenever they are read, and ``note`` says so.

    Args:
        name_or_path: the set.
        crop_cache: folder for the crops of photographs that are aligned here; without it they are aligned each time.

    Raises:
        DatasetError: the set is absent, incomplete or malformed; one line with the file (and line) and the remedy.
    """
    text = str(name_or_path)
    if text == "samples":
        return samples()
    found = _find(text)
    if found is not None:
        return _load_path(found, _canonical(text), crop_cache)
    path = Path(text).expanduser()
    if path.exists():
        return _load_path(path, _canonical(path.stem if path.is_file() else path.resolve().name), crop_cache)
    raise DatasetError(_absent(text))


def available(name: str) -> bool:
    """Whether :func:`load` would find the set: in ``PMT_DATA``, built in, or as a path."""
    if name == "samples":
        return all(assets.obtainable(photo.asset) for photo in sample_photos() if photo.asset is not None)
    path = Path(name).expanduser()
    return (
        _find(name) is not None
        or path.is_file()
        or (path.is_dir() and _layout(path, _canonical(path.name)) is not None)
    )


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _canonical(name: str) -> str:
    """The usual name of a known set, however it is spelt; other names as they are."""
    return next((known for known, named in NAMED.items() if _key(name) in (_key(known), named.spellings[0])), name)


def _find(name: str) -> Path | None:
    """The folder or file of ``PMT_DATA`` that holds the set ``name``."""
    root = data_dir()
    if root is None or not root.is_dir() or not _key(name) or name != Path(name).name:
        return None
    canonical = _canonical(name)
    spellings = NAMED[canonical].spellings if canonical in NAMED else (_key(name),)
    entries = sorted(root.iterdir(), key=lambda entry: entry.name)
    for spelling in spellings:
        for entry in entries:
            if _key(entry.name) == spelling and entry.is_dir() and _layout(entry, canonical) is not None:
                return entry
        for suffix in (".bin", ".csv", ".tsv"):
            for entry in entries:
                if entry.suffix.lower() == suffix and _key(entry.stem) == spelling and entry.is_file():
                    return entry
    return None


def _absent(name: str) -> str:
    if "/" in name or "\\" in name or Path(name).suffix:
        return f"there is no data set at {name}. Remedy: check the path, or use the built-in set `samples`"
    root = data_dir()
    if root is None:
        return (
            f"there is no data set {name}, and PMT_DATA is not set. Remedy: set PMT_DATA to the folder that holds "
            f"{name}/ or {name}.bin, or use the built-in set `samples`"
        )
    return (
        f"there is no data set {name} in {root} (PMT_DATA). Remedy: put {name}.bin, or {name}/ with its pair list, "
        "there, or use the built-in set `samples`"
    )


@dataclass(frozen=True)
class _Layout:
    """How a folder holds its pairs: the kind, and the file that says so."""

    kind: str
    file: Path


def _layout(folder: Path, name: str) -> _Layout | None:
    profile = name == "cfp_fp"
    tables = ["pairs_fp"] if profile else ["pairs", "pairs_ff"]
    for stem in tables:
        for suffix in (".tsv", ".csv"):
            if (folder / f"{stem}{suffix}").is_file():
                return _Layout("table", folder / f"{stem}{suffix}")
    if (folder / "pairs.txt").is_file():
        return _Layout("lfw", folder / "pairs.txt")
    split = folder / "Protocol" / "Split" / ("FP" if profile else "FF")
    if split.is_dir():
        return _Layout("cfp", split)
    for labels in (
        folder / f"{folder.name}_list.npy",
        folder / f"{name}_list.npy",
        folder / "issame.npy",
        folder / "issame_list.npy",
        folder.parent / f"{folder.name}_list.npy",
    ):
        if labels.is_file():
            return _Layout("list", labels)
    return None


def _load_path(path: Path, name: str, crop_cache: Path | None) -> PairSet:
    if path.is_file():
        suffix = path.suffix.lower()
        if suffix == ".bin":
            return _load_bin(path, name)
        if suffix in (".csv", ".tsv"):
            return _load_table(path, name, crop_cache)
        raise DatasetError(f"{path} is no data set. Remedy: name a .bin, .csv or .tsv file, or a folder of images")
    layout = _layout(path, name)
    if layout is None:
        raise DatasetError(
            f"{path} holds no pair list. Remedy: put pairs.txt (LFW), Protocol/ (CFP), pairs.csv or "
            f"{path.name}_list.npy there"
        )
    if layout.kind == "table":
        return _load_table(layout.file, name, crop_cache)
    if layout.kind == "lfw":
        return _load_lfw(layout.file, name, crop_cache)
    if layout.kind == "cfp":
        return _load_cfp(layout.file, name, crop_cache)
    return _load_list(path, layout.file, name, crop_cache)


# --------------------------------------------------------------------------------------------------------------------
# Pair lists
# --------------------------------------------------------------------------------------------------------------------


class _Row(NamedTuple):
    first: Path
    second: Path
    same: bool
    fold: int | None
    where: str


def _title(name: str) -> str:
    return NAMED[name].title if name in NAMED else name


def _assemble(name: str, rows: Sequence[_Row], origin: Path, crop_cache: Path | None, *, central: bool) -> PairSet:
    """A set of the files that ``rows`` name; each file is one image, however many pairs it is in."""
    if not rows:
        raise DatasetError(f"{origin} names no pairs. Remedy: get the pair list again from its source")
    places: dict[Path, int] = {}
    for row in rows:
        for path in (row.first, row.second):
            if path not in places:
                # Not pathlib's, which raises where a name is too long.
                if not os.path.isfile(path):  # noqa: PTH113
                    raise DatasetError(
                        f"{row.where}: there is no image {path}. Remedy: complete the images, or correct the pair list"
                    )
                places[path] = len(places)
    paths = tuple(places)
    same = np.array([row.same for row in rows], dtype=np.bool_)
    if all(row.fold is not None for row in rows):
        folds = np.unique([row.fold for row in rows], return_inverse=True)[1]
    else:
        folds = _even_folds(same)
    aligned = _is_aligned(paths[0])
    images = _Files(paths) if aligned else _Photographs(paths, central=central, crop_cache=crop_cache)
    return PairSet(
        name,
        images,
        np.array([[places[row.first], places[row.second]] for row in rows]),
        same,
        folds,
        _folder_identities(paths, rows),
        _title(name),
        "" if aligned else "photographs aligned here with YuNet, not the published crops",
    )


def _is_aligned(path: Path) -> bool:
    try:
        check_regular(path)
        with Image.open(path) as image:
            return image.size == (SIZE, SIZE)
    except Exception as error:  # Pillow's format plugins raise whatever a broken file makes them raise.
        raise DatasetError(f"{path} is not an image that can be read. Remedy: copy it again") from error


def _person(path: Path) -> str:
    """The folder of an image, without CFP's inner folders for poses."""
    return path.parent.parent.name if path.parent.name in ("frontal", "profile") else path.parent.name


def _folder_identities(paths: Sequence[Path], rows: Sequence[_Row]) -> tuple[str, ...] | None:
    """Names of the images' folders, where they agree with every label: that is what makes them identities."""
    if any((_person(row.first) == _person(row.second)) != row.same for row in rows):
        return None
    return tuple(_person(path) for path in paths)


def _even_folds(same: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Up to ten folds of neighbouring pairs, with the same share of each label in each."""
    folds = np.zeros(len(same), dtype=np.int64)
    kinds = [rows for rows in (np.flatnonzero(same), np.flatnonzero(~same)) if len(rows)]
    count = min(_FOLDS, *(len(rows) for rows in kinds))
    for rows in kinds:
        for fold, part in enumerate(np.array_split(rows, count)):
            folds[part] = fold
    return folds


def _read(path: Path) -> bytes:
    try:
        check_regular(path)
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be read ({error.strerror}). Remedy: check the file and its permissions"
        ) from error


def _lines(path: Path) -> list[str]:
    try:
        return _read(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not text. Remedy: get the pair list again from its source") from error


def _load_table(path: Path, name: str, crop_cache: Path | None) -> PairSet:
    lines = _lines(path)
    reader = csv.reader(lines, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    try:
        header = [cell.strip().lower() for cell in next(reader, [])]
        if not {"img1", "img2", "same"} <= set(header):
            raise DatasetError(f"{path}:1: no columns img1, img2, same. Remedy: name the columns in the first line")
        records = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise DatasetError(f"{path}: not a table ({error}). Remedy: save it as plain CSV") from error
    first, second, label = (header.index(column) for column in ("img1", "img2", "same"))
    fold = header.index("fold") if "fold" in header else None
    roots = (path.parent, path.parent / "data", path.parent / "images")
    rows: list[_Row] = []
    root: Path | None = None
    for number, cells in records:
        where = f"{path}:{number}"
        if len(cells) != len(header):
            raise DatasetError(f"{where}: {len(cells)} cells, and {len(header)} columns. Remedy: correct the line")
        if root is None:
            at = (place for place in roots if os.path.isfile(place / cells[first].strip()))  # noqa: PTH113
            root = next(at, path.parent)
        rows.append(
            _Row(
                root / cells[first].strip(),
                root / cells[second].strip(),
                _label(cells[label], where),
                None if fold is None else _number(cells[fold], where),
                where,
            )
        )
    return _assemble(name, rows, path, crop_cache, central=False)


def _label(cell: str, where: str) -> bool:
    try:
        return {"1": True, "0": False, "true": True, "false": False}[cell.strip().lower()]
    except KeyError:
        raise DatasetError(f"{where}: {cell[:40]!r} is no label. Remedy: write 1 (one person) or 0 (two)") from None


def _number(cell: str, where: str) -> int:
    try:
        return int(cell)
    except ValueError:
        raise DatasetError(f"{where}: {cell[:40]!r} is no whole number. Remedy: correct the line") from None


def _load_lfw(listing: Path, name: str, crop_cache: Path | None, root: Path | None = None) -> PairSet:
    """LFW's pair list: a header (folds and pairs of each kind, or pairs of each kind), then one pair a line."""
    lines = [(number, line) for number, line in enumerate(_lines(listing), start=1) if line.strip()]
    header = (
        [int(cell) for cell in lines[0][1].split()]
        if lines and re.fullmatch(r"\s*[0-9]{1,9}(\s+[0-9]{1,9})?\s*", lines[0][1])
        else []
    )
    if header:
        lines = lines[1:]
    expected = 2 * int(np.prod(header)) if header else len(lines)
    if len(lines) != expected:
        raise DatasetError(
            f"{listing} announces {expected} pairs and holds {len(lines)}. Remedy: get it again from its source"
        )
    rows: list[_Row] = []
    finder = _PersonFiles(listing.parent, root)
    for place, (number, line) in enumerate(lines):
        where = f"{listing}:{number}"
        cells = line.strip().split("\t") if "\t" in line else line.split()
        fold = place // (2 * header[1]) if len(header) == 2 else None
        if len(cells) == 3 and _is_number(cells[1]) and _is_number(cells[2]):
            first, second, same = finder(cells[0], cells[1]), finder(cells[0], cells[2]), True
        elif len(cells) == 4 and _is_number(cells[1]) and _is_number(cells[3]):
            first, second, same = finder(cells[0], cells[1]), finder(cells[2], cells[3]), False
        elif len(cells) == 3 and cells[2] in ("0", "1"):
            first, second, same = finder.direct(cells[0]), finder.direct(cells[1]), cells[2] == "1"
        else:
            raise DatasetError(
                f"{where}: not a pair. Remedy: write NAME i j, NAME1 i NAME2 j or IMAGE1 IMAGE2 0|1, with tabs between"
            )
        rows.append(_Row(first, second, same, fold, where))
    return _assemble(name, rows, listing, crop_cache, central=True)


def _is_number(cell: str) -> bool:
    """Whether a cell is the number of an image; Python refuses to read one of thousands of digits."""
    return cell.isdecimal() and len(cell) <= 9


class _PersonFiles:
    """Files of an LFW tree: ``NAME/NAME_0001.jpg`` below the first usual folder that holds the first name."""

    _FOLDERS = ("data", "lfw_funneled", "lfw-funneled", "lfw-deepfunneled", "lfw", "images", ".")

    def __init__(self, folder: Path, root: Path | None) -> None:
        self.folder = folder
        self.root = root
        self.suffix: str | None = None

    def __call__(self, person: str, number: str) -> Path:
        return self.direct(f"{person}/{person}_{int(number):04d}")

    def direct(self, relative: str) -> Path:
        if self.root is None:
            first = relative.split("/")[0]
            self.root = next(
                (self.folder / at for at in self._FOLDERS if os.path.exists(self.folder / at / first)),  # noqa: PTH110
                self.folder,
            )
        path = self.root / relative
        if path.suffix.lower() in SUFFIXES:
            return path
        if self.suffix is None:
            ends = (end for end in SUFFIXES if os.path.isfile(f"{path}{end}"))  # noqa: PTH113
            self.suffix = next(ends, SUFFIXES[0])
        return Path(f"{path}{self.suffix}")


def _load_cfp(split: Path, name: str, crop_cache: Path | None) -> PairSet:
    """CFP's own protocol: ``Split/FF/01/same.txt`` with a pair of image numbers a line, which ``Pair_list_F.txt``
    translates to files; in FP the second number is one of ``Pair_list_P.txt``."""
    protocol = split.parent.parent
    frontal = _cfp_files(protocol / "Pair_list_F.txt")
    other = _cfp_files(protocol / "Pair_list_P.txt") if split.name == "FP" else frontal
    rows: list[_Row] = []
    for fold, folder in enumerate(sorted(path for path in split.iterdir() if path.is_dir())):
        for file, same in ((folder / "same.txt", True), (folder / "diff.txt", False)):
            for number, line in enumerate(_lines(file), start=1):
                if not line.strip():
                    continue
                where = f"{file}:{number}"
                cells = line.split(",")
                if len(cells) != 2:
                    raise DatasetError(f"{where}: not two image numbers. Remedy: get the protocol again")
                numbers = [_number(cell, where) for cell in cells]
                for value, listed in zip(numbers, (frontal, other), strict=True):
                    if value not in listed:
                        raise DatasetError(
                            f"{where}: image {value} is not in the list of images. Remedy: get the protocol again"
                        )
                rows.append(_Row(frontal[numbers[0]], other[numbers[1]], same, fold, where))
    return _assemble(name, rows, split, crop_cache, central=False)


def _cfp_files(listing: Path) -> dict[int, Path]:
    files: dict[int, Path] = {}
    flat = listing.parent.parent / "data"
    for number, line in enumerate(_lines(listing), start=1):
        cells = line.split(maxsplit=1)
        if not cells:
            continue
        if len(cells) != 2:
            raise DatasetError(f"{listing}:{number}: not a number and a path. Remedy: get the protocol again")
        relative = Path(cells[1].strip().replace("\\", "/"))
        published = listing.parent.parent / Path(*[part for part in relative.parts if part != ".."])
        # Aligned copies commonly drop the folder of the pose: data/ID/NN.jpg for Data/Images/ID/frontal/NN.jpg.
        bare = flat / relative.parent.parent.name / relative.name
        usable = relative.parent.name == "frontal" and not published.is_file() and bare.is_file()
        files[_number(cells[0], f"{listing}:{number}")] = bare if usable else published
    return files


def _load_list(folder: Path, labels: Path, name: str, crop_cache: Path | None) -> PairSet:
    """A folder of images in order, two a pair, and an array of labels (face.evoLVe)."""
    try:
        with labels.open("rb") as file:
            # Not np.load, which takes archives of arrays as well.
            issame = np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # The header is text that is parsed, and its shape is memory that is asked for.
        raise DatasetError(f"{labels} is not a plain array of labels. Remedy: save it as a bool .npy") from error
    if issame.ndim != 1 or issame.dtype.kind not in "bui":
        raise DatasetError(f"{labels} holds {issame.dtype} {issame.shape}, not labels. Remedy: save a bool vector")
    roots = [root for root in (folder / folder.name, folder / name, folder / "images", folder) if root.is_dir()]
    files: list[Path] = []
    for root in roots:
        if (root / "meta" / "storage").is_file():
            raise DatasetError(
                f"{root} is a bcolz array, which is not read here. Remedy: use {name}.bin, or save its images there as "
                "000000.png, 000001.png, ..., pair k being images 2k and 2k+1"
            )
        files = sorted((path for path in root.iterdir() if path.suffix.lower() in SUFFIXES), key=_natural)
        if files:
            break
    if len(files) != 2 * len(issame):
        raise DatasetError(
            f"{folder} holds {len(files)} images for the {len(issame)} labels of {labels.name}, which need "
            f"{2 * len(issame)}. Remedy: complete the images"
        )
    folds = _contiguous_folds(len(issame))
    rows = [
        _Row(files[2 * place], files[2 * place + 1], bool(same), int(folds[place]), str(labels))
        for place, same in enumerate(issame)
    ]
    found = _assemble(name, rows, labels, crop_cache, central=False)
    return PairSet(name, found.images, found.pairs, found.same, found.folds, None, found.title, found.note)


def _natural(path: Path) -> tuple[tuple[int, str], ...]:
    """Sorts 2.png before 10.png."""
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name) if part)


def _contiguous_folds(pairs: int) -> NDArray[np.int64]:
    """Ten blocks of neighbouring pairs, as InsightFace evaluates its lists (KFold without shuffling)."""
    folds = np.zeros(pairs, dtype=np.int64)
    for fold, part in enumerate(np.array_split(np.arange(pairs), max(1, min(_FOLDS, pairs)))):
        folds[part] = fold
    return folds


# --------------------------------------------------------------------------------------------------------------------
# InsightFace's .bin
# --------------------------------------------------------------------------------------------------------------------


def _load_bin(path: Path, name: str) -> PairSet:
    remedy = "Remedy: get it again from its source"
    try:
        check_regular(path)
        with path.open("rb") as file:
            # Most of these files were written by Python 2, whose strings are bytes.
            content = pickles.load(file, encoding="bytes")
    except pickle.UnpicklingError as error:
        why = " ".join(str(error).split())[:80]
        raise DatasetError(f"{path} is no plain pickle of images and labels: refused at {why}. {remedy}") from error
    except Exception as error:  # A broken pickle raises whatever its opcodes run into.
        raise DatasetError(f"{path} is not a readable .bin file ({type(error).__name__}). {remedy}") from error
    if not isinstance(content, (tuple, list)) or len(content) != 2:
        raise DatasetError(f"{path} is not a pair of images and labels. {remedy}")
    encoded, labels = content
    if encoded is None or labels is None:
        raise DatasetError(f"{path} is not a pair of images and labels. {remedy}")
    try:
        blobs = [_blob(item) for item in encoded]
        same = np.array([_truth(label) for label in labels], dtype=np.bool_)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{path} is not a list of encoded images and one of labels ({error}). {remedy}") from error
    if not len(same):
        raise DatasetError(f"{path} names no pairs. {remedy}")
    if len(blobs) != 2 * len(same):
        raise DatasetError(
            f"{path} holds {len(blobs)} images for {len(same)} pairs, which need twice as many. {remedy}"
        )
    # An image that is in several pairs is stored as often; it is one image here.
    places: dict[bytes, int] = {}
    order = [places.setdefault(blob, len(places)) for blob in blobs]
    return PairSet(
        name,
        _Encoded(tuple(places), str(path)),
        np.array(order).reshape(-1, 2),
        same,
        _contiguous_folds(len(same)),
        None,
        _title(name),
    )


def _blob(item: object) -> bytes:
    if isinstance(item, (bytes, bytearray)):
        return bytes(item)
    if isinstance(item, np.ndarray) and item.dtype == np.uint8:
        return item.tobytes()
    raise TypeError(f"an image is {type(item).__name__}")


def _truth(label: object) -> bool:
    if isinstance(label, (bool, np.bool_, int, np.integer)) and label in (0, 1):
        return bool(label)
    plain = isinstance(label, (str, bytes, int, float, np.number)) and len(str(label)) <= 20
    raise TypeError(f"a label is {str(label)!r}" if plain else f"a label is of type {type(label).__name__}")


# --------------------------------------------------------------------------------------------------------------------
# People
# --------------------------------------------------------------------------------------------------------------------


def load_people(
    name_or_path: str | Path, *, identities: str | Path | Sequence[str] | None = None, crop_cache: Path | None = None
) -> People:
    """Load a folder of identity folders, for training or tuning.

    Args:
        name_or_path: a folder of ``PMT_DATA``, or a path; the identity folders lie in it, or in its ``data/`` or
            ``images/``.
        identities: the ones to take: names, or a text file (in the folder, or a path) with one name a line; None
            takes all. An image set that overlaps an evaluated one often comes with such a list.
        crop_cache: folder for crops of photographs that are aligned here, as in :func:`load`.

    Returns:
        The images, sorted by identity and file name.

    Raises:
        DatasetError: no such folder, no images, or an identity without a folder.
    """
    folder = _people_folder(str(name_or_path))
    root = next((folder / at for at in ("data", "images") if (folder / at).is_dir()), folder)
    if identities is None:
        chosen = [(person.name, str(folder)) for person in sorted(root.iterdir()) if person.is_dir()]
    elif isinstance(identities, (str, Path)):
        listing = folder / identities if (folder / identities).is_file() else Path(identities)
        if not listing.is_file():
            raise DatasetError(f"there is no list {identities}, nor one in {folder}. Remedy: check the path")
        chosen = [
            (line.strip(), f"{listing}:{number}")
            for number, line in enumerate(_lines(listing), start=1)
            if line.strip()
        ]
    else:
        chosen = [(person, "the list of identities") for person in identities]
    paths: list[Path] = []
    people: list[str] = []
    for person, where in sorted(dict(chosen).items()):
        place = root / person
        if place.parent != root or not place.is_dir():
            raise DatasetError(f"{where}: there is no folder {place}. Remedy: complete the images, or correct the list")
        files = sorted((path for path in place.iterdir() if path.suffix.lower() in SUFFIXES), key=_natural)
        paths.extend(files)
        people.extend([person] * len(files))
    if not paths:
        raise DatasetError(f"{root} holds no identity folders with images. Remedy: name a folder of such folders")
    aligned = _is_aligned(paths[0])
    images = _Files(paths) if aligned else _Photographs(paths, central=False, crop_cache=crop_cache)
    return People(folder.name, images, tuple(people))


def comparable_names(name_or_path: str | Path, identities: Sequence[str]) -> list[str]:
    """Names of people in a spelling that can be compared across sets: ``Hugo_Chávez`` and ``Hugo Chavez`` are alike.

    Args:
        name_or_path: the set that the identities are of. CFP numbers its people; their names are on the lines of its
            ``list_name.txt``, where that is there.
        identities: as the set has them.

    Returns:
        Letters and digits only, in lower case, one for each identity.
    """
    try:
        listing = _people_folder(str(name_or_path)) / "list_name.txt"
        listed = _lines(listing) if listing.is_file() else []
    except DatasetError:
        listed = []
    found = []
    for identity in identities:
        named = identity.isdigit() and 1 <= int(identity) <= len(listed)
        spelling = unicodedata.normalize("NFKD", listed[int(identity) - 1] if named else identity)
        found.append("".join(letter for letter in spelling.casefold() if letter.isalnum()))
    return found


def _people_folder(name: str) -> Path:
    root = data_dir()
    if root is not None and name == Path(name).name and (root / name).is_dir():
        return root / name
    path = Path(name).expanduser()
    if path.is_dir():
        return path.resolve()
    raise DatasetError(
        f"there is no folder {name}. Remedy: check the path, or set PMT_DATA to the folder that holds it"
    )


# --------------------------------------------------------------------------------------------------------------------
# LFW through scikit-learn
# --------------------------------------------------------------------------------------------------------------------


def fetch_lfw(
    data_home: str | Path | None = None,
    *,
    funneled: bool = True,
    download: bool = True,
    crop_cache: Path | None = None,
) -> PairSet:
    """LFW's ten folds through scikit-learn's fetcher, aligned here.

    For those who have a network and no copy of the set. scikit-learn keeps the 250x250 photographs (about 200 MB) in
    its own data folder. Each is aligned when it is read: the face nearest to the centre, or, where none is found, the
    face box that LFW was built around. The crops differ from the published ``lfw.bin``, and ``note`` says so.

    Args:
        data_home: scikit-learn's data folder; None is its default, ``~/scikit_learn_data``.
        funneled: the photographs aligned by funneling, as scikit-learn takes them by default, or the original ones.
        download: fetch what is missing, unless ``PMT_OFFLINE`` forbids it.
        crop_cache: folder to keep the crops in; without it nothing is kept, and each reading aligns anew.

    Returns:
        6,000 pairs in ten folds, with identities.

    Raises:
        DatasetError: the set is not there and cannot be fetched, or is incomplete.
    """
    fetcher = importlib.import_module("sklearn.datasets")
    home = Path(fetcher.get_data_home(None if data_home is None else str(data_home)))
    folder = home / "lfw_home"
    photographs = folder / ("lfw_funneled" if funneled else "lfw")
    listing = folder / "pairs.txt"
    if not (listing.is_file() and photographs.is_dir()):
        try:
            # The fetcher decodes what it fetches; a corner of the smallest subset is the least it can be asked for.
            corner = (slice(0, 8), slice(0, 8))
            fetcher.fetch_lfw_pairs(
                subset="test",
                data_home=str(home),
                funneled=funneled,
                resize=None,
                slice_=corner,
                download_if_missing=download and not assets.offline(),
            )
        except (OSError, RuntimeError, ValueError) as error:
            why = " ".join(str(error).split())[:160]
            raise DatasetError(
                f"LFW is not in {folder} and scikit-learn does not get it ({why}). "
                "Remedy: check the network, or put lfw.bin into the folder PMT_DATA"
            ) from error
    return _load_lfw(listing, "lfw", crop_cache, photographs)


# --------------------------------------------------------------------------------------------------------------------
# The built-in photographs
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SamplePhoto:
    """A built-in photograph.

    Attributes:
        name: short name.
        title: for captions.
        asset: the asset that holds it; None where a library carries it.
        persons: who it shows, from left to right.
        display: whether figures may show it; the others serve for numbers alone.
    """

    name: str
    title: str
    asset: str | None
    persons: tuple[str, ...]
    display: bool

    def read(self) -> UInt8Image:
        """The photograph (H, W, 3) RGB, 0..255.

        Raises:
            AssetError: it cannot be had.
        """
        if self.asset is None:
            astronaut: UInt8Image = np.asarray(importlib.import_module("skimage.data").astronaut(), dtype=np.uint8)
            return astronaut
        return faces.read_photo(assets.path(self.asset))

    def crops(self) -> tuple[faces.Crop, ...]:
        """The aligned faces from left to right, one for each of ``persons``.

        Raises:
            AssetError: the photograph or the detector cannot be had.
            DatasetError: the detector does not find the faces that the photograph shows.
        """
        return _sample_crops(self)

    def source(self) -> bytes:
        """The bytes of the photograph's file, or of its pixels where a library carries it."""
        return self.read().tobytes() if self.asset is None else _read(assets.path(self.asset))


@lru_cache(maxsize=32)
def _sample_crops(photo: SamplePhoto) -> tuple[faces.Crop, ...]:
    picture = photo.read()
    found = sorted(faces.Detector()(picture), key=lambda face: face.box[0] + face.box[2] / 2)
    if len(found) != len(photo.persons):
        raise DatasetError(
            f"{len(found)} faces found in the sample photograph {photo.name}, which shows {len(photo.persons)}. "
            "Remedy: install the versions of requirements.lock"
        )
    crops = tuple(faces.crop(picture, face, index) for index, face in enumerate(found))
    for item in crops:
        item.image.setflags(write=False)
    return crops


_SAMPLES = (
    SamplePhoto("astronaut", "Eileen Collins (NASA, public domain)", None, ("collins",), True),
    SamplePhoto("obama", "Barack Obama, first portrait", "photo-obama", ("obama",), True),
    SamplePhoto("obama2", "Barack Obama, second portrait", "photo-obama2", ("obama",), True),
    SamplePhoto("obama3", "Barack Obama, third portrait", "photo-obama3", ("obama",), True),
    SamplePhoto("obama-partial", "Barack Obama, cut at the left", "photo-obama-partial", ("obama",), True),
    SamplePhoto("obama-partial2", "Barack Obama, cut at the right", "photo-obama-partial2", ("obama",), True),
    SamplePhoto("biden", "Joe Biden", "photo-biden", ("biden",), True),
    SamplePhoto("hanks", "Tom Hanks", "photo-hanks", ("hanks",), False),
    SamplePhoto("group", "six persons", "photo-group", tuple(f"group-{place}" for place in range(1, 7)), False),
)


def sample_photos() -> list[SamplePhoto]:
    """The built-in photographs; ``display`` says which of them figures may show."""
    return list(_SAMPLES)


class _SampleFaces(Images):
    """Faces of built-in photographs."""

    def __init__(self, places: Sequence[tuple[SamplePhoto, int]]) -> None:
        self.places = tuple(places)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> UInt8Image:
        photo, face = self.places[index]
        return photo.crops()[face].image.copy()

    def name(self, index: int) -> str:
        photo, face = self.places[index]
        return photo.name if len(photo.persons) == 1 else f"{photo.name}, face {face + 1} from the left"

    def content(self, index: int) -> bytes:
        photo, face = self.places[index]
        return photo.source() + f"{faces.ALIGNMENT_VERSION}/face {face}".encode()


def samples() -> PairSet:
    """The built-in set: pairs of the sample photographs' faces, as ``pmtlib/data/sample_pairs.csv`` lists them.

    It shows how things work, on any machine; with five portraits of one person in every pair of equals it measures
    nothing about faces at large. The table names each face by its place in the photograph, from the left, from 0.

    Raises:
        DatasetError: the table is damaged. Photographs are fetched when an image is read, with their own errors.
    """
    table = importlib.resources.files("pmtlib") / "data" / "sample_pairs.csv"
    photos = {photo.name: photo for photo in _SAMPLES}
    places: dict[tuple[str, int], int] = {}
    pairs: list[tuple[int, int]] = []
    same: list[bool] = []
    reader = csv.DictReader(table.read_text(encoding="utf-8").splitlines())
    for row in reader:
        ends = [(row[f"photo{end}"], int(row[f"face{end}"])) for end in (1, 2)]
        for name, face in ends:
            if name not in photos or not 0 <= face < len(photos[name].persons):
                raise DatasetError(f"{table}:{reader.line_num}: no face {face} of {name}. Remedy: install pmtlib again")
        pairs.append((places.setdefault(ends[0], len(places)), places.setdefault(ends[1], len(places))))
        same.append(row["same"] == "1")
    labels = np.array(same, dtype=np.bool_)
    folds = np.zeros(len(labels), dtype=np.int64)
    for alike in (True, False):
        rows = np.flatnonzero(labels == alike)
        folds[rows] = np.arange(len(rows)) % 5
    return PairSet(
        "samples",
        _SampleFaces([(photos[name], face) for name, face in places]),
        np.array(pairs),
        labels,
        folds,
        tuple(photos[name].persons[face] for name, face in places),
        "sample photographs",
        f"{len(pairs)} pairs of the built-in sample photographs: a demonstration set, not a benchmark",
        stand_in=True,
    )
