"""What ``pmt verify`` measures: one uploaded image, or one file of features, against its photograph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from pmtlib import assets, devices, faces, metrics, zoo
from pmtlib.errors import AssetError, ConfigError, NetworkError, PhotoError, ResultError
from pmtlib.images import UInt8Image, to_tensor
from pmtlib.intake import shown
from pmtlib.inventory import is_present
from pmtlib.pipeline import read_features, verdict
from pmtlib.shallow import ServerModel, ShallowModel, resolve_cut


@dataclass(frozen=True)
class Opinion:
    """What one network says about the pair.

    Attributes:
        network: its name.
        cosine: of its two embeddings.
        threshold: its calibrated threshold of highest accuracy, on LFW or what an added network was measured on; None
            where it has none.
        verdict: ``accepted`` where the cosine is above it, else ``rejected``; None without a threshold.
    """

    network: str
    cosine: float
    threshold: float | None
    verdict: Literal["accepted", "rejected"] | None


@dataclass(frozen=True)
class Comparison:
    """A photograph's face and what was uploaded in its place.

    Attributes:
        original: how the photograph was taken: its ``largest face``, or ``as it is``, an aligned crop.
        uploaded: ``image`` or ``features``.
        networks: what each network says.
        ssim: structural similarity; None for features, as are the following.
        psnr: peak signal-to-noise ratio, decibels; infinite for equal images.
        lpips_vgg: perceptual distance with the VGG trunk; None where its weights cannot be had.
        lpips_alex: the same with the AlexNet trunk.
        note: what to know of the thresholds; empty where all are of LFW.
    """

    original: Literal["largest face", "as it is"]
    uploaded: Literal["image", "features"]
    networks: tuple[Opinion, ...]
    ssim: float | None = None
    psnr: float | None = None
    lpips_vgg: float | None = None
    lpips_alex: float | None = None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, which knows no infinity: the ``psnr`` of equal images is None."""
        values = asdict(self)
        values["psnr"] = None if self.psnr is None or math.isinf(self.psnr) else self.psnr
        return values


def compare(
    original: Path,
    protected: Path,
    networks: Sequence[str] | None = None,
    *,
    aligned: bool = False,
    device: str = "auto",
) -> Comparison:
    """Judge an uploaded file as a service would, without looking for a face in it.

    Args:
        original: the photograph; its largest face is taken. A picture of exactly 112x112 is an aligned crop.
        protected: the 112x112 PNG of ``pmt protect``, or the safetensors file of ``pmt protect --features``.
        networks: names; None for all whose weights are on this machine. Features have one network only.
        aligned: take the photograph as an aligned crop, and refuse any other size.
        device: where to compute.

    Raises:
        PhotoError: a picture cannot be read, holds no face, or is of a wrong size.
        ResultError: the features file is damaged.
        NetworkError: a network is unknown, or the features were made for other weights.
        ConfigError: the device cannot be used, or ``networks`` does not fit the features.
    """
    for name in networks or ():
        zoo.card(name)
    place = devices.resolve(device)
    crop, how = _original(original, aligned)
    photo = to_tensor([crop], place)
    if protected.suffix.lower() == ".safetensors":
        opinion = _of_features(photo, protected, networks)
        return Comparison(how, "features", (opinion,), note=zoo.threshold_caveats([opinion.network]))
    picture = faces.read_photo(protected)
    if picture.shape != crop.shape:
        size = f"{picture.shape[1]}x{picture.shape[0]}"
        raise PhotoError(f"{shown(protected)} is {size}, and pmt protect saves 112x112; give that file as it was saved")
    uploaded = to_tensor([picture], place)
    chosen = tuple(networks) if networks else _at_hand()
    return Comparison(
        how,
        "image",
        tuple(_of_image(name, photo, uploaded) for name in chosen),
        ssim=float(metrics.ssim(photo, uploaded)[0]),
        psnr=float(metrics.psnr(photo, uploaded)[0]),
        lpips_vgg=_lpips(photo, uploaded, "vgg", "lpips-vgg16"),
        lpips_alex=_lpips(photo, uploaded, "alex", "lpips-alexnet"),
        note=zoo.threshold_caveats(chosen),
    )


def _original(path: Path, aligned: bool) -> tuple[UInt8Image, Literal["largest face", "as it is"]]:
    if aligned:
        return faces.load_aligned(path), "as it is"
    picture = faces.read_photo(path)
    if picture.shape[:2] == (faces.SIZE, faces.SIZE):
        return picture, "as it is"
    found = faces.Detector(min_size=1)(picture)
    if not found:
        raise PhotoError(f"no face was found in {shown(path)}; use an upright photograph in which it is visible")
    return faces.align(picture, found[0].landmarks), "largest face"


def _at_hand() -> tuple[str, ...]:
    chosen = tuple(name for name in zoo.names() if is_present(name))
    if not chosen:
        raise NetworkError(
            "no network's weights are on this machine; run pmt assets fetch, or name one with --networks"
        )
    return chosen


def _of_image(name: str, photo: torch.Tensor, uploaded: torch.Tensor) -> Opinion:
    network = zoo.load(name, photo.device)
    with torch.inference_mode():
        return _opinion(name, network(photo), network(uploaded))


def _of_features(photo: torch.Tensor, path: Path, networks: Sequence[str] | None) -> Opinion:
    features, card = read_features(path)
    name, cut = str(card["network"]), card["cut"]
    if networks and tuple(networks) != (name,):
        raise ConfigError(f"{shown(path)} holds features for {name}; no other network can take them")
    if zoo.weights_checksum(name) != card["weights"]:
        raise NetworkError(f"{shown(path)} was made for other weights of {name}; protect the photograph again")
    network = zoo.load(name, photo.device)
    with torch.inference_mode():
        expected = ShallowModel(network, resolve_cut(network, cut)).feature(photo).shape
        if features.shape != expected:
            raise ResultError(f"{shown(path)} holds {tuple(features.shape)}, and {name} has {tuple(expected)} at {cut}")
        return _opinion(name, network(photo), ServerModel(network, cut)(features.to(photo.device)))


def _opinion(name: str, own: torch.Tensor, other: torch.Tensor) -> Opinion:
    stored = zoo.calibration(name)
    threshold = None if stored is None else stored.threshold_accuracy
    cosine = float(metrics.cosine(own, other)[0])
    return Opinion(name, cosine, threshold, verdict(cosine, threshold))


def _lpips(a: torch.Tensor, b: torch.Tensor, net: metrics.LpipsNet, asset: str) -> float | None:
    """The distance, or None where its weights cannot be had: what the networks say does not wait for them."""
    if not assets.obtainable(asset):
        return None
    try:
        return float(metrics.lpips(a, b, net)[0])
    except AssetError:
        return None
