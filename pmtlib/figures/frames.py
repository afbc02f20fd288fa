"""Frames of the book's interactive page: one photograph, protected step by step, as it is and after a blur.

Every frame is an upload of one variant after K steps, as 8 bits hold it, and what one attacker makes of it. What is
measured of a frame is measured on those pixels; the page shows them lossily compressed, all in one picture (a sprite)
of rows by columns, with the measurements in a JSON file beside it.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor

from pmtlib import datasets, metrics, provenance, variants, zoo
from pmtlib.attacks.adaptive.purify import Purification
from pmtlib.devices import resolve
from pmtlib.errors import ConfigError, ResultError
from pmtlib.figures.common import picture
from pmtlib.images import UInt8Image, quantise, to_tensor, to_uint8, write_atomic
from pmtlib.paths import project_dir
from pmtlib.progress import progress_bar
from pmtlib.shallow import DEFAULT_CUT, ShallowModel, resolve_cut
from pmtlib.transform import PMTConfig, protect

COMMAND = "python -m pmtlib.runner frames"
FORMAT = 1
SPRITE, MEASUREMENTS, PHOTOGRAPH, STRIP = "frames.webp", "frames.json", "photograph.webp", "strip.jpg"
LIMIT = 1_500_000
"""Largest sum of the files in bytes: they are committed."""

FAR = "1e-2"
"""False acceptance rate of the thresholds, on LFW (:mod:`pmtlib.calibration`)."""

_DECIMALS = 4
_TITLES = {"pmt": "PMT", "deep": "deep", "decoy": "decoy"}


class FrameSettings(BaseModel):
    """What the frames are of.

    Attributes:
        photo: a sample photograph that may be shown (:func:`pmtlib.datasets.sample_photos`).
        authorised: the network that the uploads are made for.
        others: networks that are not authorised.
        variants: how uploads are made (:data:`pmtlib.variants.VARIANTS`), each with its own configuration.
        steps: numbers of steps K, ascending; 0 is the start.
        sigmas: what the attacker does: None for nothing, else a Gaussian blur of that many pixels and the contrast
            restored (:class:`pmtlib.attacks.adaptive.purify.Purification`); 0 restores the contrast alone.
        quality: of WebP, 1..100.
        batch_size: images optimised together (:class:`pmtlib.transform.PMTConfig`); part of what gives equal bits.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    photo: str = "astronaut"
    authorised: str = "mobilefacenet"
    others: tuple[str, ...] = ("mobilefacenet-casia", "sface", "edgeface-xs", "dlib-resnet29")
    variants: tuple[str, ...] = ("pmt", "deep", "decoy")
    steps: tuple[int, ...] = Field((0, 1, 2, 3, 5, 7, 10, 15, 20, 25, 30, 40, 60, 80, 100), min_length=1)
    sigmas: tuple[float | None, ...] = Field((None, 0.0, 1.0, 1.5, 2.5), min_length=1)
    quality: int = Field(72, ge=1, le=100)
    batch_size: int = Field(2, ge=1)

    @field_validator("steps")
    @classmethod
    def _ascending(cls, steps: tuple[int, ...]) -> tuple[int, ...]:
        if list(steps) != sorted(set(steps)) or steps[0] < 0:
            raise ValueError("numbers of steps must ascend from 0 or above")
        return steps


@dataclass(frozen=True)
class Frames:
    """Frames and what was measured of them.

    Attributes:
        photograph: (112, 112, 3), RGB, 0..255.
        pictures: (F, 112, 112, 3), RGB, 0..255: variant after variant, within it attacker after attacker, within that
            step after step.
        measurements: one a frame: ``variant``, ``steps``, ``sigma``, ``ssim`` to the photograph and ``cosine``, for
            each network, of the embeddings of frame and photograph.
        settings: of what they are.
    """

    photograph: UInt8Image
    pictures: UInt8Image
    measurements: list[dict[str, Any]]
    settings: FrameSettings


def default_folder() -> Path:
    """Where the book has the frames."""
    return project_dir() / "book" / "_static" / "interactive"


def configuration(variant: str, settings: FrameSettings) -> PMTConfig:
    """The configuration of a variant, with as many steps as its last frame has.

    Raises:
        ConfigError: there is no such variant.
    """
    changes = {"steps": settings.steps[-1], "batch_size": settings.batch_size}
    return variants.find(variant).config(**changes)


def attacked(uploads: Tensor, sigma: float | None) -> Tensor:
    """What the attacker sees of uploads (N, 3, H, W) in [0, 1], as 8 bits hold it; None is no attack."""
    if sigma is None:
        return uploads
    attack = Purification("gaussian", sigma) if sigma else Purification("none", 0.0)
    return quantise(attack(uploads))


def make(settings: FrameSettings | None = None, device: str = "auto", *, show: bool = False) -> Frames:
    """Protect the photograph with every variant, keep the frames and measure them.

    Args:
        settings: of what; the page's by default.
        device: where to compute.
        show: show progress.

    Raises:
        ConfigError: there is no such photograph or variant, or figures may not show the photograph.
        AssetError: the weights of a network cannot be had.
    """
    settings = settings or FrameSettings()
    place = resolve(device)
    photo = next((photo for photo in datasets.sample_photos() if photo.name == settings.photo), None)
    if photo is None or not photo.display:
        known = ", ".join(photo.name for photo in datasets.sample_photos() if photo.display)
        raise ConfigError(f"no photograph {settings.photo!r} that figures may show; there are {known}")
    networks = {name: zoo.load(name, place) for name in (settings.authorised, *settings.others)}
    photograph = photo.crops()[0].image
    original = to_tensor(photograph, place)
    rows: list[Tensor] = []
    for variant in settings.variants:
        method, config = variants.find(variant), configuration(variant, settings)
        cut = resolve_cut(networks[settings.authorised], DEFAULT_CUT if method.cut is None else method.cut)
        model = ShallowModel(networks[settings.authorised], cut=cut)
        with progress_bar(variant, config.steps, show=show) as advance:
            made = protect(original, [model], config, progress=advance, keep=settings.steps)
        uploads = quantise(made.kept[:, 0])
        rows += [attacked(uploads, sigma) for sigma in settings.sigmas]
    images = torch.cat(rows)
    keys = [
        {"variant": variant, "steps": steps, "sigma": sigma}
        for variant in settings.variants
        for sigma in settings.sigmas
        for steps in settings.steps
    ]
    alike = metrics.ssim(images, original.expand_as(images))
    cosines = {
        name: metrics.cosine(embeddings[1:], embeddings[:1].expand_as(embeddings[1:]))
        for name, network in networks.items()
        for embeddings in [_embed(network, torch.cat([original, images]))]
    }
    measurements = [
        {
            **key,
            "ssim": round(float(alike[index]), _DECIMALS),
            "cosine": {name: round(float(values[index]), _DECIMALS) for name, values in cosines.items()},
        }
        for index, key in enumerate(keys)
    ]
    return Frames(photograph, to_uint8(images), measurements, settings)


def _embed(network: torch.nn.Module, images: Tensor) -> Tensor:
    # One at a time: the last bits of an embedding depend on the batch, and one frame is to be measured alone, too.
    with torch.inference_mode():
        return torch.cat([network(image[None]).cpu() for image in images])


def sprite(pictures: UInt8Image, columns: int) -> UInt8Image:
    """Pictures (F, H, W, 3) as one, (H * F / columns, W * columns, 3), row after row.

    Raises:
        ConfigError: they do not fill the rows.
    """
    count, height, width, depth = pictures.shape
    if columns < 1 or count % columns:
        raise ConfigError(f"{count} pictures do not fill rows of {columns}")
    rows = count // columns
    tiles = pictures.reshape(rows, columns, height, width, depth).transpose(0, 2, 1, 3, 4)
    whole: UInt8Image = np.ascontiguousarray(tiles).reshape(rows * height, columns * width, depth)
    return whole


def _encoded(image: UInt8Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="WEBP", quality=quality, method=6)
    return buffer.getvalue()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write(frames: Frames, folder: Path, *, seconds: float = 0.0, device: str = "auto") -> int:
    """Write sprite, photograph, strip and measurements.

    Args:
        frames: of :func:`make`.
        folder: for the files; made if need be.
        seconds: that making them took.
        device: where they were made.

    Returns:
        int: the sum of the files' sizes in bytes.

    Raises:
        ResultError: they are larger than :data:`LIMIT`; nothing is written.
    """
    settings = frames.settings
    networks = (settings.authorised, *settings.others)
    photo = next(photo for photo in datasets.sample_photos() if photo.name == settings.photo)
    columns = len(settings.steps)
    files = {
        SPRITE: _encoded(sprite(frames.pictures, columns), settings.quality),
        PHOTOGRAPH: _encoded(frames.photograph, 90),
        STRIP: _strip_bytes(frames),
    }
    side = frames.photograph.shape[0]
    content = {
        "format": FORMAT,
        "photo": {"name": photo.name, "title": photo.title, "pixels": _sha256(frames.photograph.tobytes())},
        "sprite": {
            "columns": columns, "rows": len(frames.measurements) // columns, "side": side,
            "files": {name: _sha256(data) for name, data in files.items()},
        },
        "networks": [_network(name, authorised=name == settings.authorised) for name in networks],
        "variants": [
            {"name": name, "title": _TITLES.get(name, name), "summary": variants.find(name).summary,
             "default_steps": variants.find(name).config().steps}
            for name in settings.variants
        ],
        "steps": list(settings.steps),
        "sigmas": list(settings.sigmas),
        "frames": frames.measurements,
        "provenance": {
            "settings": settings.model_dump(mode="json"),
            "configurations": {
                name: configuration(name, settings).model_dump(mode="json") for name in settings.variants
            },
            **provenance.manifest(networks, resolve(device), seconds=seconds, command=COMMAND),
        },
    }  # fmt: skip
    files[MEASUREMENTS] = _dumped(content)
    size = sum(map(len, files.values()))
    if size > LIMIT:
        raise ResultError(f"the frames have {size:,} bytes, more than {LIMIT:,}; take fewer, or a lower quality")
    for name, data in files.items():
        write_atomic(folder / name, data)
    return size


def _network(name: str, *, authorised: bool) -> dict[str, Any]:
    entry = zoo.calibration(name)
    return {
        "name": name,
        "authorised": authorised,
        "threshold": None if entry is None else round(entry.threshold_far_1e2, _DECIMALS),
        "threshold_of": None if entry is None else f"{entry.dataset}, {entry.n} pairs, FAR {FAR}",
    }


def _dumped(content: dict[str, Any]) -> bytes:
    """Indented JSON with one line a frame. No ``</`` is in it: the page holds the file inside a script element."""
    listed = content["frames"]
    text = json.dumps({**content, "frames": "FRAMES"}, indent=1, ensure_ascii=False, allow_nan=False)
    lines = ",\n".join("  " + json.dumps(line, ensure_ascii=False, allow_nan=False) for line in listed)
    return (text.replace('"FRAMES"', f"[\n{lines}\n ]").replace("</", "<\\/") + "\n").encode()


def read(folder: Path) -> dict[str, Any]:
    """The measurements, once they are seen to belong to the pictures beside them.

    Raises:
        ResultError: a file is missing or damaged, or was not written with the others.
    """
    try:
        content: dict[str, Any] = json.loads((folder / MEASUREMENTS).read_text(encoding="utf-8"))
        sprite_entry = content["sprite"]
        rows, columns, side = (int(sprite_entry[key]) for key in ("rows", "columns", "side"))
        wanted = rows * columns
        for name, digest in sprite_entry["files"].items():
            if _sha256((folder / name).read_bytes()) != digest:
                raise ResultError(f"{name} and {MEASUREMENTS} were not written together; write them anew: {COMMAND}")
        with Image.open(folder / SPRITE) as image:
            size = image.size
        combinations = len(content["variants"]) * len(content["sigmas"]) * len(content["steps"])
        if not (len(content["frames"]) == wanted == combinations and size == (columns * side, rows * side)):
            raise ResultError(f"{SPRITE} has not the frames of {MEASUREMENTS}; write them anew: {COMMAND}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultError(f"the frames are damaged or missing ({error}); write them anew: {COMMAND}") from None
    return content


def tile(folder: Path, index: int) -> UInt8Image:
    """A frame (112, 112, 3) of the stored sprite, as the page shows it.

    Raises:
        ResultError: see :func:`read`.
    """
    entry = read(folder)["sprite"]
    row, column = divmod(index, entry["columns"])
    side = entry["side"]
    with Image.open(folder / SPRITE) as image:
        part = image.convert("RGB").crop((column * side, row * side, (column + 1) * side, (row + 1) * side))
    found: UInt8Image = np.asarray(part, dtype=np.uint8)
    return found


def strip(frames: Frames, steps: Sequence[int] = (0, 5, 25, 40, 100), sigma: float = 1.5) -> Figure:
    """A row a variant: the photograph, uploads after some numbers of steps, and the variant's own K after a blur.

    Steps and blurs of which there is no frame are left out.
    """
    settings = frames.settings
    found = {(line["variant"], line["steps"], line["sigma"]): i for i, line in enumerate(frames.measurements)}
    rows = []
    for variant in settings.variants:
        own = min(settings.steps, key=lambda k: abs(k - variants.find(variant).config().steps))
        wanted = [((variant, k, None), f"K = {k}") for k in steps] + [
            ((variant, own, sigma), f"K = {own}, blur {sigma:g}")
        ]
        rows.append([(found[key], title) for key, title in wanted if key in found])
    width = 1 + max(map(len, rows), default=0)
    figure, axes = plt.subplots(
        max(len(rows), 1), width, figsize=(1.62 * width, 2.3 * max(len(rows), 1)), squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for row, tiles, variant in zip(axes, rows, settings.variants, strict=False):
        row[0].set_axis_on()
        picture(row[0], frames.photograph, "photograph", _TITLES.get(variant, variant))
        for axis, (index, title) in zip(row[1:], tiles, strict=False):
            axis.set_axis_on()
            line = frames.measurements[index]
            service = line["cosine"][settings.authorised]
            others = [line["cosine"][name] for name in settings.others]
            mean = sum(others) / len(others) if others else math.nan
            below = f"SSIM {line['ssim']:.2f}\nservice {service:.2f}\nothers {mean:.2f}"
            picture(axis, frames.pictures[index], title, below)
    plt.close(figure)
    return figure


def _strip_bytes(frames: Frames) -> bytes:
    buffer = io.BytesIO()
    figure = strip(frames)
    figure.savefig(buffer, format="jpeg", dpi=90, facecolor="white", pil_kwargs={"quality": 78})
    return buffer.getvalue()
