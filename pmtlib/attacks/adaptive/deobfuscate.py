"""A learned attacker: networks trained on (PMT(x), x) pairs of other people.

Threat model: the attacker holds photographs of other people and may protect them, with the public shallow model or by
black-box access to the filter. They know which upload came from which photograph, and learn the way back. Against
uploaded images that is :class:`Deobfuscator`, from image to image; against uploaded features it is RecFace on the
features of protected images. Neither ever sees a photograph of the victim. Where the victim's settings are not known,
they train on a mixture of seeds, steps and configurations (:func:`make_pairs`).
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pmtlib import cache, metrics
from pmtlib.attacks.reconstruction import RecFace, differentiable_ssim
from pmtlib.attacks.training import Files, Progress, Training, TrainingConfig, checksum, read_eight_bit, seeded
from pmtlib.datasets import People
from pmtlib.errors import ConfigError, ResultError
from pmtlib.faces import SIZE
from pmtlib.images import batches, to_uint8, write_atomic
from pmtlib.shallow import ShallowModel
from pmtlib.transform import PMTConfig, protect
from pmtlib.variants import code_digest

_FOLD = 4
_REMEMBERED = 4 * 2**30
"""Bytes of feature maps that a training may keep."""
_FORMAT = 1
_DEOBFUSCATOR = Files("deobfuscator.json", "deobfuscator.safetensors")
_RECFACE = Files("protected-recface.json", "protected-recface.safetensors")


# --------------------------------------------------------------------------------------------------------------------
# Pairs
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pairs:
    """Uploads and the photographs they were made of.

    Attributes:
        protected: (P, 3, 112, 112), 8-bit.
        originals: the same shape, 8-bit; a photograph stands beside each of its uploads.
        rows: (P,) int64, which of the people's images each is.
    """

    protected: Tensor
    originals: Tensor
    rows: Tensor

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.protected)

    def subset(self, indices: Sequence[int] | Tensor) -> Pairs:
        """The pairs ``indices``, in that order."""
        places = torch.as_tensor(indices, dtype=torch.int64)
        return Pairs(self.protected[places], self.originals[places], self.rows[places])


def make_pairs(
    people: People,
    shallow_models: Sequence[ShallowModel],
    configs: Sequence[PMTConfig],
    *,
    seeds: Sequence[int],
    keep: Sequence[int] = (),
    chunk: int = 16,
    folder: Path | None = None,
    progress: Callable[[int], Any] | None = None,
) -> Pairs:
    """Protect photographs of other people with mixed settings.

    The images are taken in chunks, and each chunk is protected with the next combination of a configuration and a
    seed. Chunks are stored as they are made, so that an interrupted run goes on where it stopped.

    Args:
        people: whose images are protected, in their order.
        shallow_models: of the authorised services.
        configs: of the transform, taken in turn; their seeds are replaced.
        seeds: taken in turn.
        keep: numbers of steps at which the uploads of one run are taken, each a pair; the end of the run by default.
        chunk: images protected together.
        folder: for the chunks; in the cache by default.
        progress: called with the number of images done since its last call.

    Returns:
        Pairs, the images in the order of ``people``, for each image one pair for every entry of ``keep``.

    Raises:
        ConfigError: no configuration, no seed, a chunk below 1, or whatever :func:`pmtlib.transform.protect` refuses.
    """
    if not configs or not seeds or chunk < 1:
        raise ConfigError(f"{len(configs)} configurations, {len(seeds)} seeds, chunks of {chunk}; give 1 or more each")
    if folder is None:
        folder = cache.folder("pairs") / _pairs_key(people, shallow_models, configs, seeds, keep, chunk)
    combinations = list(itertools.product(configs, seeds))
    protected, rows = [], []
    for number, part in enumerate(batches(len(people), chunk)):
        path = folder / f"{number:05d}.safetensors"
        own = torch.arange(part.start, part.stop)
        made = _read_chunk(path, len(own), max(1, len(keep)))
        if made is None:
            config, seed = combinations[number % len(combinations)]
            seeded_config = config.model_copy(update={"seed": seed})
            made = _protected(people.tensor(own.numpy()), shallow_models, seeded_config, keep)
            write_atomic(path, safetensors.torch.save({"protected": made}))
        protected.append(made.flatten(0, 1))
        rows.append(own.repeat_interleave(made.shape[1]))
        if progress is not None:
            progress(len(own))
    everyone = torch.cat(rows) if rows else torch.zeros(0, dtype=torch.int64)
    originals = read_eight_bit(people, np.arange(len(people), dtype=np.int64))
    uploads = torch.cat(protected) if protected else originals
    return Pairs(uploads, originals[everyone], everyone)


def _protected(
    images: Tensor, shallow_models: Sequence[ShallowModel], config: PMTConfig, keep: Sequence[int]
) -> Tensor:
    """Uploads (n, S, 3, H, W), 8-bit, after each of the S numbers of steps."""
    device = next(shallow_models[0].parameters()).device if shallow_models else images.device
    done = protect(images.to(device), shallow_models, config, keep=keep)
    versions = done.kept if keep else done.images[None]
    return torch.stack([_eight_bit(version) for version in versions], 1)


def _read_chunk(path: Path, images: int, versions: int) -> Tensor | None:
    """A stored chunk; None where there is none, or it is damaged."""
    try:
        made = safetensors.torch.load_file(path)["protected"]
    except (OSError, KeyError, safetensors.SafetensorError):
        return None
    return made if made.shape == (images, versions, 3, SIZE, SIZE) and made.dtype == torch.uint8 else None


def _pairs_key(
    people: People,
    shallow_models: Sequence[ShallowModel],
    configs: Sequence[PMTConfig],
    seeds: Sequence[int],
    keep: Sequence[int],
    chunk: int,
) -> str:
    asked = {
        "people": people.fingerprint,
        "models": [checksum(model) for model in shallow_models],
        "configs": [config.model_dump(mode="json") for config in configs],
        "seeds": list(seeds),
        "keep": list(keep),
        "chunk": chunk,
        "code": [code_digest(config) for config in configs],
        "on": [torch.__version__, *(str(next(model.parameters()).device.type) for model in shallow_models)],
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:24]


def _eight_bit(images: Tensor) -> Tensor:
    """Images (N, 3, H, W) in [0, 1], or 8-bit ones, as 8-bit ones on the CPU."""
    if images.dtype == torch.uint8:
        return images.detach().cpu()
    return torch.from_numpy(to_uint8(images)).permute(0, 3, 1, 2).contiguous()


# --------------------------------------------------------------------------------------------------------------------
# Networks
# --------------------------------------------------------------------------------------------------------------------


class Deobfuscator(nn.Module):
    """A U-Net from protected images to photographs.

    It is :class:`pmtlib.attacks.reconstruction.RecFace` on the image itself, folded into cells of 4x4 pixels: a linear
    map of each 12x12 neighbourhood, fitted in closed form (a Wiener filter), gives the first picture, and a U-Net with
    levels of 28x28, 14x14 and 7x7 cells adds what is not linear.

    Args:
        width: channels where a cell stands for 4x4 pixels.
        blocks: residual blocks on each side of a level.

    Shape:
        input: (N, 3, 112, 112), RGB in [0, 1].
        output: the same.
    """

    def __init__(self, *, width: int = 64, blocks: int = 1) -> None:
        super().__init__()
        cells = SIZE // _FOLD
        self.network = RecFace((3 * _FOLD**2, cells, cells), width=width, blocks=blocks)

    def forward(self, images: Tensor) -> Tensor:
        """Photographs (N, 3, 112, 112) in [0, 1] of protected images (N, 3, 112, 112)."""
        return self.network(folded(images))  # type: ignore[no-any-return]


def folded(images: Tensor) -> Tensor:
    """Images (N, 3, 112, 112) as a map of cells of 4x4 pixels, (N, 48, 28, 28)."""
    if tuple(images.shape[1:]) != (3, SIZE, SIZE):
        raise ConfigError(f"a de-obfuscator takes images (N, 3, {SIZE}, {SIZE}), not {tuple(images.shape)}")
    return F.pixel_unshuffle(images, _FOLD)


class DeobfuscatorConfig(TrainingConfig):
    """Every choice of a training on pairs, whether of :class:`Deobfuscator` or of RecFace.

    Attributes:
        steps: updates.
        batch_size: pairs an update.
        width: of the network.
        blocks: of the network.
        l1_weight: of the mean absolute error.
        ssim_weight: of 1 - SSIM (of :func:`pmtlib.metrics.ssim`).
        flip: mirror both images of a pair with probability 1/2. The mirror image of an upload is not quite the upload
            of a mirror image, as networks are not symmetric.
        linear_images: pairs for the closed-form start.
    """

    steps: int = Field(1500, ge=1, le=10_000_000)
    batch_size: int = Field(8, ge=1, le=4096)
    width: int = Field(64, ge=4, le=1024)
    blocks: int = Field(1, ge=1, le=16)
    l1_weight: float = Field(1.0, ge=0, allow_inf_nan=False)
    ssim_weight: float = Field(0.5, ge=0, allow_inf_nan=False)
    flip: bool = True
    linear_images: int = Field(192, ge=1, le=100_000)


class IdentityConfig(DeobfuscatorConfig):
    """A training that also has a network of the attacker's recognise the person in what is made.

    Attributes:
        identity_weight: of 1 - the cosine of that network's embeddings of what is made and of the photograph.
    """

    identity_weight: float = Field(0.5, ge=0, allow_inf_nan=False)


def identity_loss(images: Tensor, made: Tensor, network: nn.Module) -> Tensor:
    """1 - the cosine of a network's embeddings of two (N, 3, H, W), mean, a scalar; no gradient for ``images``."""
    with torch.no_grad():
        goal = network(images)
    return 1 - F.cosine_similarity(network(made.clamp(0.0, 1.0)), goal).mean()


def pair_loss(images: Tensor, made: Tensor, config: DeobfuscatorConfig) -> Tensor:
    """The mean absolute error and 1 - SSIM, weighted, a scalar, for two (N, 3, H, W)."""
    absolute = (images - made).abs().mean()
    return config.l1_weight * absolute + config.ssim_weight * (1 - differentiable_ssim(images, made).mean())


# --------------------------------------------------------------------------------------------------------------------
# Training
# --------------------------------------------------------------------------------------------------------------------


def train_deobfuscator(
    protected: Tensor,
    originals: Tensor,
    config: DeobfuscatorConfig | None = None,
    *,
    validation: tuple[Tensor, Tensor] | None = None,
    device: torch.device | str = "cpu",
    folder: Path | None = None,
    progress: Progress | None = None,
    resume: bool = True,
    checkpoint_seconds: float = 30.0,
) -> Deobfuscator:
    """Train a network that makes photographs of uploads, on pairs of people who are not attacked.

    Args:
        protected: (P, 3, 112, 112), uploads, 8-bit or in [0, 1]; they are used as 8-bit images, as they are received.
        originals: their photographs, likewise.
        config: every choice.
        validation: protected and original images of yet other people, for the curve.
        device: where to train.
        folder: for the weights, the state and the record with the curve; nothing is stored without one.
        progress: called with the number of steps done since its last call.
        resume: go on from the folder's last checkpoint; otherwise it is started anew and overwritten.
        checkpoint_seconds: between two checkpoints. An interruption loses what came after the last one.

    Returns:
        Deobfuscator: frozen, in evaluation mode, with the averaged weights.

    Raises:
        ConfigError: the images do not make pairs, or the folder holds the training of something else.
        ResultError: the folder's state is damaged.
    """
    config = config or DeobfuscatorConfig()
    pairs, place = (protected, originals), torch.device(device)
    run = _PairTraining("de-obfuscator", _DEOBFUSCATOR, folded, {}, pairs, validation, config, place, folder, resume)
    made = _deobfuscator(config)
    made.network = run.train(progress, checkpoint_seconds)
    return made.eval()


def train_protected_recface(
    shallow: ShallowModel,
    protected: Tensor,
    originals: Tensor,
    config: DeobfuscatorConfig | None = None,
    *,
    identity: nn.Module | None = None,
    validation: tuple[Tensor, Tensor] | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
    resume: bool = True,
    checkpoint_seconds: float = 30.0,
) -> RecFace:
    """Train RecFace on the shallow features of uploads, in place of those of photographs (Eq. 1).

    Args:
        shallow: the model whose features are read, on the device to train on.
        protected: (P, 3, 112, 112), uploads, 8-bit or in [0, 1].
        originals: their photographs, likewise.
        config: every choice; an :class:`IdentityConfig` where ``identity`` is given.
        identity: a recognition network of the attacker's, frozen, on the same device, that shall recognise the person
            in what is made; None trains for likeness alone.
        validation: protected and original images of yet other people, for the curve.
        folder: for the weights, the state and the record with the curve; nothing is stored without one.
        progress: called with the number of steps done since its last call.
        resume: go on from the folder's last checkpoint; otherwise it is started anew and overwritten.
        checkpoint_seconds: between two checkpoints.

    Returns:
        RecFace: frozen, in evaluation mode, on the device of ``shallow``, with the averaged weights.

    Raises:
        ConfigError: the images do not make pairs, the cut gives no feature map, the configuration has no weight for
            the identity, or the folder holds the training of something else.
        ResultError: the folder's state is damaged.
    """
    config = config or (DeobfuscatorConfig() if identity is None else IdentityConfig())
    source = {"network": shallow.name, "cut": shallow.cut, "checksum": checksum(shallow)}
    if identity is not None:
        if not isinstance(config, IdentityConfig):
            raise ConfigError("a training for the identity has an IdentityConfig; give one")
        source["identity"] = checksum(identity)
    run = _PairTraining(
        "RecFace on protected features",
        _RECFACE,
        shallow.feature,
        source,
        (protected, originals),
        validation,
        config,
        next(shallow.parameters()).device,
        folder,
        resume,
    )
    run.identity = identity
    return run.train(progress, checkpoint_seconds)


def load_deobfuscator(folder: Path, device: torch.device | str = "cpu") -> Deobfuscator:
    """A trained de-obfuscator, frozen, in evaluation mode.

    Raises:
        ResultError: there is none, its training is not finished, or it is damaged.
    """

    def build(record: dict[str, Any]) -> Deobfuscator:
        return _deobfuscator(DeobfuscatorConfig.model_validate(record["config"]))

    return _load(_DEOBFUSCATOR, folder, device, "de-obfuscator", build, lambda model: model.network)


def load_protected_recface(folder: Path, device: torch.device | str = "cpu") -> RecFace:
    """A trained RecFace of :func:`train_protected_recface`, frozen, in evaluation mode.

    Raises:
        ResultError: there is none, its training is not finished, or it is damaged.
    """

    def build(record: dict[str, Any]) -> RecFace:
        kind = IdentityConfig if "identity_weight" in record["config"] else DeobfuscatorConfig
        return _recface(record["feature"], kind.model_validate(record["config"]))

    return _load(_RECFACE, folder, device, "RecFace", build, lambda model: model)


_Trained = TypeVar("_Trained", bound=nn.Module)


def _load(
    files: Files,
    folder: Path,
    device: torch.device | str,
    title: str,
    build: Callable[[dict[str, Any]], _Trained],
    inner: Callable[[_Trained], nn.Module],
) -> _Trained:
    """The network of a folder, frozen: made by its record, its weights read into what ``inner`` names."""
    record = files.read(folder)
    if record.get("finished") is not True:
        raise ResultError(f"no {title} with a finished training in {folder}; train one")
    try:
        model = build(record)
        inner(model).load_state_dict(safetensors.torch.load_file(folder / files.weights))
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        raise ResultError(f"the {title} in {folder} is damaged; remove the folder and train one") from error
    return model.eval().requires_grad_(False).to(device)


def _recface(feature: Sequence[int], config: DeobfuscatorConfig) -> RecFace:
    return seeded(config.seed, lambda: RecFace(feature, width=config.width, blocks=config.blocks))


def _deobfuscator(config: DeobfuscatorConfig) -> Deobfuscator:
    return seeded(config.seed, lambda: Deobfuscator(width=config.width, blocks=config.blocks))


class _PairTraining(Training[RecFace]):
    """The training of a RecFace on what ``encode`` makes of uploads.

    Args:
        title: what is trained, for errors.
        files: where it is stored.
        encode: uploads (N, 3, 112, 112) in [0, 1] to a map (N, C, h, w).
        source: what tells ``encode`` from another, ready for JSON.
        pairs: uploads and photographs.
        validation: the same of other people.
        config: every choice.
        device: where to train.
        folder: for the files.
        resume: go on from the folder's state.
    """

    stream = "pairs"
    identity: nn.Module | None = None
    """The attacker's network of an :class:`IdentityConfig`."""

    def __init__(
        self,
        title: str,
        files: Files,
        encode: Callable[[Tensor], Tensor],
        source: dict[str, Any],
        pairs: tuple[Tensor, Tensor],
        validation: tuple[Tensor, Tensor] | None,
        config: DeobfuscatorConfig,
        device: torch.device,
        folder: Path | None,
        resume: bool,
    ) -> None:
        self.title, self.files, self.encode, self.config = title, files, encode, config
        self.protected, self.originals = _checked(pairs)
        self.held = _checked(validation) if validation is not None else None
        if not len(self.protected):
            raise ConfigError("there are no pairs to train on; make some with make_pairs")
        record = {
            "format": _FORMAT,
            "source": source,
            "config": config.model_dump(mode="json"),
            "pairs": _fingerprint(self.protected, self.originals),
            "validation": None if self.held is None else _fingerprint(*self.held),
        }
        super().__init__(config, record, device, folder, resume)
        shape = self._encoded(self.protected[:1]).shape[1:]
        self.record["feature"] = list(shape)
        self._known: tuple[Tensor, Tensor] | None = None
        self._remembers = self.device.type == "cpu" and 8 * len(self.protected) * shape.numel() <= _REMEMBERED
        self.build(lambda: RecFace(shape, width=config.width, blocks=config.blocks))

    @torch.no_grad()
    def _encoded(self, eight_bit: Tensor) -> Tensor:
        return self.encode(self.floats(eight_bit))

    def begin(self) -> None:
        """The closed-form start, on the first pairs of the first epoch's order."""
        chosen = self.order(len(self.protected), 0)[: self.config.linear_images]
        uploads, originals = self.protected[chosen], self.originals[chosen]
        if self.config.flip:
            uploads, originals = torch.cat([uploads, uploads.flip(3)]), torch.cat([originals, originals.flip(3)])
        encoded = torch.cat([self._encoded(uploads[chunk]) for chunk in batches(len(uploads), 32)])
        self.model.fit_linear(encoded, self.floats(originals))

    def loss(self) -> Tensor:
        """Of this step's pairs."""
        rows = self.rows(len(self.protected))
        uploads, originals = self.mirrored(self.protected[rows], self.originals[rows])
        encoded = self._features(rows, uploads).contiguous(memory_format=torch.channels_last)
        with self.arithmetic():
            made = self.model.unclipped(encoded).float()
        photographs = self.floats(originals)
        loss = pair_loss(photographs, made, self.config)
        if self.identity is not None and isinstance(self.config, IdentityConfig):
            loss = loss + self.config.identity_weight * identity_loss(photographs, made, self.identity)
        return loss

    def _features(self, rows: Tensor, uploads: Tensor) -> Tensor:
        """What ``encode`` makes of a step's uploads, mirrored or not.

        Where the maps of all uploads and their mirror images fit into memory they are made once: a deep shallow model
        takes longer than the network that is trained.
        """
        if not self._remembers:
            return self._encoded(uploads)
        if self._known is None:
            self._known = (self._all(self.protected), self._all(self.protected.flip(3)))
        plain, mirrored = (side[rows] for side in self._known)
        flipped = (uploads != self.protected[rows]).flatten(1).any(1)
        return torch.where(flipped[:, None, None, None], mirrored, plain)

    def _all(self, eight_bit: Tensor) -> Tensor:
        return torch.cat([self._encoded(eight_bit[chunk]) for chunk in batches(len(eight_bit), 16)])

    @torch.no_grad()
    def quality(self) -> dict[str, float | None]:
        """SSIM and PSNR on the validation pairs."""
        if self.held is None or not len(self.held[0]):
            return {"val_ssim": None, "val_psnr": None}
        uploads, originals = self.held[0], self.floats(self.held[1])
        made = torch.cat([self.averaged(self._encoded(uploads[chunk])) for chunk in batches(len(uploads), 16)])
        return {
            "val_ssim": float(metrics.ssim(originals, made).mean()),
            "val_psnr": float(metrics.psnr(originals, made).mean()),
        }


def _checked(pairs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Both sides as 8-bit images on the CPU."""
    protected, originals = pairs
    if protected.shape != originals.shape or tuple(protected.shape[1:]) != (3, SIZE, SIZE):
        raise ConfigError(
            f"protected images {tuple(protected.shape)} and originals {tuple(originals.shape)} must both be "
            f"(N, 3, {SIZE}, {SIZE})"
        )
    return _eight_bit(protected), _eight_bit(originals)


def _fingerprint(protected: Tensor, originals: Tensor) -> str:
    digest = hashlib.sha256(f"{len(protected)}:".encode())
    for images in (protected, originals):
        digest.update(images.contiguous().numpy().tobytes())
    return digest.hexdigest()
