"""Face reconstruction: what a receiver of shallow features can make of them (Sections 4.1.1 and 6.3).

Level 1, black box (Eq. 1). The attacker holds photographs of other people, may send any image to the shallow model and
sees the feature that comes back. They train :class:`RecFace` on such pairs, and apply it to the features of a victim.

Level 2, white box (Eq. 2 to 4). The attacker holds the shallow model itself, and no data. :func:`invert` looks for an
image whose features are those of the victim.

Neither sees a photograph of the victim, nor anything of the network behind the cut.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from kornia.geometry.transform import get_affine_matrix2d, warp_affine
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from pmtlib import cache, faces, metrics, zoo
from pmtlib.attacks.layers import grown, residual_blocks
from pmtlib.attacks.training import Files, Progress, Training, TrainingConfig, read_eight_bit, seeded
from pmtlib.datasets import SUFFIXES, Images, People, load_people, sample_photos
from pmtlib.errors import ConfigError, DatasetError, PhotoError, ResultError
from pmtlib.faces import SIZE
from pmtlib.images import UInt8Image, batches
from pmtlib.paths import data_dir
from pmtlib.randomness import derived_generator, reproducible
from pmtlib.shallow import ShallowModel

RECORD, WEIGHTS = "recface.json", "recface.safetensors"
"""Files of a trained RecFace: what it is and how training went; its weights."""

LISTING = "identities_disjoint_from_pairs.txt"
"""A list that an image set may hold: the identities that are in no evaluated pair."""

ATTACKED = ("obama",)
"""Who is attacked where the sample photographs stand in for a data set: the one with several portraits."""

_WIDEST = 32
_FORMAT = 1
_INVERSION_BETAS = (0.9, 0.99)

_FILES = Files(RECORD, WEIGHTS)


# --------------------------------------------------------------------------------------------------------------------
# Level 1: the reconstruction network
# --------------------------------------------------------------------------------------------------------------------


class RecFace(nn.Module):
    """The reconstruction network R of Eq. 1: "a modified U-Net" from shallow features to faces.

    A linear map of each feature cell's neighbourhood, fitted in closed form by :meth:`fit_linear`, gives a first
    picture; a U-Net with two levels below the feature map's own adds what is not linear. All scales come from the
    feature's shape: larger maps are folded into channels first, so that the work is done at 32x32 cells or fewer.

    Args:
        feature: (C, h, w) of the features.
        width: channels where a cell stands for 4x4 pixels; coarser levels have more, finer ones fewer.
        blocks: residual blocks on each side of a level.

    Shape:
        input: (N, C, h, w), features.
        output: (N, 3, 112, 112), RGB in [0, 1].
    """

    mean: Tensor
    deviation: Tensor
    linear: Tensor
    offset: Tensor

    def __init__(self, feature: Sequence[int], *, width: int = 64, blocks: int = 2) -> None:
        super().__init__()
        if len(feature) != 3 or min(feature) < 1:
            raise ConfigError(f"a feature map (C, h, w) is needed, not {tuple(feature)}; choose a cut before the head")
        channels, height, rows = feature[0], feature[1], max(feature[1:])
        self.feature: tuple[int, int, int] = (channels, height, feature[2])
        self.fold = 1
        while rows > _WIDEST * self.fold:
            self.fold *= 2
        rows = math.ceil(rows / self.fold)
        # A cell of the working map becomes scale x scale pixels.
        self.scale = 2 ** max(1, math.ceil(math.log2(SIZE / rows)))
        channels *= self.fold**2
        # Folded cells carry their neighbours in their channels.
        self.window = 3 if self.fold == 1 else 1
        top, middle, bottom = (self._width(width, self.scale * step) for step in (1, 2, 4))
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("deviation", torch.ones(channels, 1, 1))
        self.register_buffer("linear", torch.zeros(3 * self.scale**2, channels, self.window, self.window))
        self.register_buffer("offset", torch.zeros(3 * self.scale**2))
        self.stem = nn.Conv2d(channels, top, 3, padding=1)
        self.down0, self.down1 = residual_blocks(top, blocks), residual_blocks(middle, blocks)
        self.to1 = nn.Conv2d(top, middle, 3, stride=2, padding=1)
        self.to2 = nn.Conv2d(middle, bottom, 3, stride=2, padding=1)
        self.bottom = residual_blocks(bottom, blocks)
        self.from2, self.from1 = nn.Conv2d(bottom, middle * 4, 1), nn.Conv2d(middle, top * 4, 1)
        self.join1, self.join0 = nn.Conv2d(middle * 2, middle, 1), nn.Conv2d(top * 2, top, 1)
        self.up1, self.up0 = residual_blocks(middle, blocks), residual_blocks(top, blocks)
        finer: list[nn.Module] = []
        scale, now = self.scale, top
        while scale > 2:
            scale //= 2
            then = self._width(width, scale)
            finer += [nn.Conv2d(now, then * 4, 1), nn.PixelShuffle(2), residual_blocks(then, 1)]
            now = then
        self.finer = nn.Sequential(*finer)
        self.last = nn.Conv2d(now, 12, 3, padding=1)
        # The first picture is the linear one: training starts from there.
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    @staticmethod
    def _width(width: int, scale: int) -> int:
        return {1: width // 4, 2: width // 2, 4: width, 8: width * 3 // 2}.get(scale, width * 2)

    def forward(self, features: Tensor) -> Tensor:
        """Faces (N, 3, 112, 112) in [0, 1] of features (N, C, h, w)."""
        return self.unclipped(features).clamp(0.0, 1.0)

    def unclipped(self, features: Tensor) -> Tensor:
        """The faces before they are clipped: outside [0, 1] a clipped one has no gradient to learn from."""
        cells = self._cells(features)
        picture = F.pixel_shuffle(self._first(cells), self.scale)
        level0 = self.down0(F.leaky_relu(self.stem(cells), 0.1))
        level1 = self.down1(self.to1(level0))
        level2 = self.bottom(self.to2(level1))
        level1 = self.up1(self.join1(torch.cat([level1, grown(self.from2(level2), level1)], 1)))
        level0 = self.up0(self.join0(torch.cat([level0, grown(self.from1(level1), level0)], 1)))
        detail = F.pixel_shuffle(self.last(self.finer(level0)), 2)
        return _to_square(picture + detail.to(picture.dtype))

    def _cells(self, features: Tensor) -> Tensor:
        """Standardised features, folded, with sides that the folding divides."""
        if tuple(features.shape[1:]) != self.feature:
            raise ConfigError(
                f"features {tuple(features.shape[1:])} do not fit a RecFace for {self.feature}; train one for this cut"
            )
        if self.fold > 1:
            below, right = (-side % self.fold for side in features.shape[2:])
            features = F.pixel_unshuffle(F.pad(features, (0, right, 0, below)), self.fold)
        return (features - self.mean) / self.deviation

    def _first(self, cells: Tensor) -> Tensor:
        with torch.autocast(cells.device.type, enabled=False):
            return F.conv2d(cells.float(), self.linear, self.offset, padding=self.window // 2)

    @torch.no_grad()
    def fit_linear(self, features: Tensor, images: Tensor, *, ridge: float = 1e-5, batch: int = 16) -> None:
        """Set the standardisation, and the linear map to the least-squares solution of these pairs.

        Args:
            features: (N, C, h, w).
            images: (N, 3, 112, 112) in [0, 1], what the features are of.
            ridge: added to the diagonal, relative to its mean: few pairs do not determine every weight.
            batch: images whose neighbourhoods are laid out at once.
        """
        self.mean.zero_()
        self.deviation.fill_(1.0)
        cells = self._cells(features)
        self.mean.copy_(cells.mean((0, 2, 3))[:, None, None])
        self.deviation.copy_(cells.std((0, 2, 3)).clamp_min(1e-6)[:, None, None])
        # In float64, where the device has it: the normal equations square the condition number.
        exact = torch.float32 if features.device.type == "mps" else torch.float64
        square: Tensor | None = None
        right: Tensor | None = None
        for chunk in batches(len(features), batch):
            part = self._cells(features[chunk])
            rows = F.unfold(part, self.window, padding=self.window // 2).transpose(1, 2).flatten(0, 1)
            rows = torch.cat([rows, rows.new_ones(len(rows), 1)], 1)
            height, width = (side * self.scale for side in part.shape[2:])
            goal = F.pixel_unshuffle(_from_square(images[chunk], height, width), self.scale)
            goal = goal.permute(0, 2, 3, 1).flatten(0, 2)
            ours, theirs = (rows.T @ rows).to(exact), (rows.T @ goal).to(exact)
            square = ours if square is None else square + ours
            right = theirs if right is None else right + theirs
        if square is None or right is None:
            raise DatasetError("no images to fit RecFace to. Remedy: give one or more")
        square.diagonal().add_(ridge * square.diagonal().mean())
        solution = torch.linalg.solve(square, right).to(self.linear.dtype)
        self.linear.copy_(solution[:-1].T.reshape(self.linear.shape))
        self.offset.copy_(solution[-1])


def _to_square(picture: Tensor) -> Tensor:
    """To 112x112: the longer side is resized where it must be, the shorter filled up with its border's pixels.

    A network that looks at the middle columns of a crop has a feature map that is higher than wide.
    """
    height, width = picture.shape[2:]
    longer = max(height, width)
    if longer != SIZE:
        height, width = (max(1, round(side * SIZE / longer)) for side in (height, width))
        picture = F.interpolate(picture, (height, width), mode="bilinear", align_corners=False)
    above, left = (SIZE - height) // 2, (SIZE - width) // 2
    return F.pad(picture, (left, SIZE - width - left, above, SIZE - height - above), mode="replicate")


def _from_square(images: Tensor, height: int, width: int) -> Tensor:
    """The part of 112x112 images that :func:`_to_square` fills from a (height, width) picture, at that size."""
    longer = max(height, width)
    rows, columns = (max(1, round(side * SIZE / longer)) for side in (height, width))
    above, left = (SIZE - rows) // 2, (SIZE - columns) // 2
    part = images[..., above : above + rows, left : left + columns]
    if longer == SIZE:
        return part
    return F.interpolate(part, (height, width), mode="bilinear", align_corners=False, antialias=True)


class RecFaceConfig(TrainingConfig):
    """Every choice of RecFace's training. The paper gives none but Eq. 1 and "a modified U-Net".

    Attributes:
        width: of :class:`RecFace`.
        blocks: of :class:`RecFace`.
        norm_weight: of Eq. 1, the L2 norm of an image's error, divided by that of an all-ones image.
        l1_weight: of the mean absolute error.
        ssim_weight: of 1 - SSIM (of :func:`pmtlib.metrics.ssim`), the figure by which Table 6 judges the attack.
        average: decay of the running average of the weights, which is what is kept.
        affine: probability of a rotation, shift and change of size. They blur a little, so not all images have it.
        affine_degrees: largest rotation, degrees.
        affine_shift: largest shift, as a fraction of the side.
        affine_scale: largest relative change of size.
        brightness: largest addition to an image, on the [0, 1] scale.
        contrast: largest relative change of contrast.
        linear_images: training images for the closed-form start.
        validation_people: identities that are held out, each with all images.
    """

    width: int = Field(64, ge=4, le=1024)
    blocks: int = Field(2, ge=1, le=16)
    norm_weight: float = Field(1.0, ge=0, allow_inf_nan=False)
    l1_weight: float = Field(1.0, ge=0, allow_inf_nan=False)
    ssim_weight: float = Field(0.5, ge=0, allow_inf_nan=False)
    average: float = Field(0.995, ge=0, lt=1)
    affine: float = Field(0.3, ge=0, le=1)
    affine_degrees: float = Field(6.0, ge=0, le=180)
    affine_shift: float = Field(0.05, ge=0, le=1)
    affine_scale: float = Field(0.08, ge=0, lt=1)
    brightness: float = Field(0.08, ge=0, le=1)
    contrast: float = Field(0.15, ge=0, lt=1)
    linear_images: int = Field(192, ge=1, le=100_000)
    validation_people: int = Field(32, ge=0, le=100_000)


def reconstruction_loss(images: Tensor, reconstructed: Tensor, config: RecFaceConfig) -> Tensor:
    r"""What RecFace is trained on: Eq. 1, :math:`\sum_i \|x_i - R(z_i)\|_2`, with an L1 and an SSIM term.

    Eq. 1's norm is divided by the square root of an image's number of values, and the sum by the number of images:
    a change of scale only, after which the figures do not depend on either.

    Args:
        images: (N, 3, H, W).
        reconstructed: the same shape.
        config: the three weights.

    Returns:
        A scalar.
    """
    difference = (images - reconstructed).flatten(1)
    total = images.new_zeros(())
    if config.norm_weight:
        norm = difference.square().sum(1).clamp_min(1e-12).sqrt() / math.sqrt(difference.shape[1])
        total = total + config.norm_weight * norm.mean()
    if config.l1_weight:
        total = total + config.l1_weight * difference.abs().mean()
    if config.ssim_weight:
        total = total + config.ssim_weight * (1 - differentiable_ssim(images, reconstructed).mean())
    return total


def differentiable_ssim(a: Tensor, b: Tensor) -> Tensor:
    """:func:`pmtlib.metrics.ssim` with a gradient: (N,) for two (N, 3, H, W)."""
    window = metrics.SSIM_WINDOW

    def mean(x: Tensor) -> Tensor:
        # One direction after the other: 14 additions a pixel in place of 49.
        return F.avg_pool2d(F.avg_pool2d(x, (window, 1), stride=1), (1, window), stride=1)

    unbiased = window**2 / (window**2 - 1)
    mean_a, mean_b = mean(a), mean(b)
    var_a = unbiased * (mean(a * a) - mean_a * mean_a)
    var_b = unbiased * (mean(b * b) - mean_b * mean_b)
    cov = unbiased * (mean(a * b) - mean_a * mean_b)
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * mean_a * mean_b + c1) * (2 * cov + c2)
    return (top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean((1, 2, 3))


# --------------------------------------------------------------------------------------------------------------------
# Level 1: training
# --------------------------------------------------------------------------------------------------------------------


def recface_key(network_checksum: str, cut: int | str, config: RecFaceConfig, people_fingerprint: str) -> str:
    """What tells one trained RecFace from another: 16 hex digits.

    Args:
        network_checksum: :func:`pmtlib.zoo.weights_checksum` of the network whose features are read.
        cut: its number of shared units.
        config: of the training.
        people_fingerprint: :attr:`pmtlib.datasets.People.fingerprint` of the people, those held out included.
    """
    parts = [_FORMAT, network_checksum, cut, config.model_dump(mode="json"), people_fingerprint]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def recface_folder(key: str) -> Path:
    """Where the RecFace of a key is kept; the folder need not exist."""
    return cache.folder("recface") / key


def find_recface(network_name: str, cut: int | str, config: RecFaceConfig, people_fingerprint: str) -> Path | None:
    """The folder of a RecFace whose training is finished, or None.

    Args:
        network_name: one of :func:`pmtlib.zoo.names`.
        cut: number of shared units; what was trained for is a number, so that nothing is found for a name.
        config: of the training.
        people_fingerprint: of the people it was trained and validated on.

    Raises:
        NetworkError: there is no such network.
    """
    key = recface_key(zoo.weights_checksum(network_name), cut, config, people_fingerprint)
    folder = recface_folder(key)
    return folder if recface_record(folder).get("finished") is True and (folder / WEIGHTS).is_file() else None


def recface_record(folder: Path) -> dict[str, Any]:
    """What is stored beside the weights: network, cut, configuration, people and curve; empty where nothing is."""
    return _FILES.read(folder)


def load_recface(folder_or_key: str | Path, device: torch.device | str = "cpu", *, partial: bool = False) -> RecFace:
    """A trained RecFace, frozen, in evaluation mode.

    Args:
        folder_or_key: its folder, or its key in the cache.
        device: where to.
        partial: take the last checkpoint of a training that is not finished, too.

    Raises:
        ResultError: there is none, it is damaged, or its training is not finished.
    """
    folder = Path(folder_or_key)
    if not folder.is_dir() and folder.name == str(folder_or_key):
        folder = recface_folder(folder.name)
    record = recface_record(folder)
    remedy = "train one with `pmt train-recface`"
    if not record or not (folder / WEIGHTS).is_file():
        raise ResultError(f"no trained RecFace in {folder}; {remedy}")
    if not partial and record.get("finished") is not True:
        raise ResultError(f"the training of the RecFace in {folder} is not finished; run `pmt train-recface` again")
    try:
        config = RecFaceConfig.model_validate(record["config"])
        model = seeded(config.seed, lambda: _build(record["feature"], config))
        model.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS))
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
        raise ResultError(f"the RecFace in {folder} is damaged; remove the folder and {remedy}") from error
    model.eval().requires_grad_(False)
    return model.to(device)


@dataclass(frozen=True)
class Split:
    """Rows of the people that train and of those that are held out; no identity is in both."""

    training: NDArray[np.int64]
    validation: NDArray[np.int64]


class HeldOut(Protocol):
    """What :func:`split_people` needs of a configuration."""

    @property
    def validation_people(self) -> int:
        """Identities that are held out."""

    @property
    def seed(self) -> int:
        """Of who they are."""


def split_people(people: People, config: HeldOut) -> Split:
    """Hold out ``config.validation_people`` identities, drawn with ``config.seed``.

    Raises:
        DatasetError: nobody is left to train on.
    """
    names = people.names
    if len(names) <= config.validation_people:
        raise DatasetError(
            f"{people.name} shows {len(names)} people, and {config.validation_people} are held out. "
            "Remedy: name a larger set, or hold fewer out"
        )
    drawn = np.random.Generator(np.random.PCG64(config.seed)).permutation(len(names))[: config.validation_people]
    held = {names[int(index)] for index in drawn}
    rows = np.array([identity in held for identity in people.identities], dtype=np.bool_)
    return Split(np.flatnonzero(~rows).astype(np.int64), np.flatnonzero(rows).astype(np.int64))


def train_recface(
    shallow: ShallowModel,
    people: People,
    config: RecFaceConfig | None = None,
    *,
    folder: Path | None = None,
    progress: Progress | None = None,
    resume: bool = True,
    checkpoint_seconds: float = 30.0,
) -> RecFace:
    """Train RecFace on the features that ``shallow`` gives for the images of ``people`` (Eq. 1).

    Only features that the attacker can ask for are used: the shallow model is queried, not looked into. Order and
    augmentation of a step come from the seed and the step's number, so an interrupted training that goes on gives the
    same weights as one in a single run, on the same device with the same number of threads.

    Args:
        shallow: the model whose features are read, on the device to train on.
        people: aligned crops with identities; some are held out for validation.
        config: every choice.
        folder: for the weights, the state and the record with the curve; nothing is stored without one.
        progress: called with the number of steps done since its last call.
        resume: go on from the folder's last checkpoint; otherwise it is started anew and overwritten.
        checkpoint_seconds: between two checkpoints. An interruption loses what came after the last one.

    Returns:
        RecFace: frozen, in evaluation mode, on the device of ``shallow``, with the averaged weights.

    Raises:
        DatasetError: nobody to train on.
        ConfigError: the folder holds the training of something else.
        ResultError: the folder's state is damaged.
    """
    config = config or RecFaceConfig()
    return _Training(shallow, people, config, folder, resume).train(progress, checkpoint_seconds)


def _build(feature: Sequence[int], config: RecFaceConfig) -> RecFace:
    return RecFace(feature, width=config.width, blocks=config.blocks)


class _Training(Training[RecFace]):
    """The training of one RecFace."""

    title, stream, files = "RecFace", "recface", _FILES

    def __init__(
        self, shallow: ShallowModel, people: People, config: RecFaceConfig, folder: Path | None, resume: bool
    ) -> None:
        self.shallow, self.config = shallow, config
        self.split = split_people(people, config)
        record = {
            "format": _FORMAT,
            "network": shallow.name,
            "cut": shallow.cut,
            "config": config.model_dump(mode="json"),
            "people": {
                "name": people.name,
                "fingerprint": people.fingerprint,
                "training_images": len(self.split.training),
                "validation_images": len(self.split.validation),
            },
        }
        super().__init__(config, record, next(shallow.parameters()).device, folder, resume)
        self.images = read_eight_bit(people, self.split.training)
        self.held = read_eight_bit(people, self.split.validation)
        shape = self._features(self.images[:1]).shape[1:]
        if len(shape) != 3:
            raise ConfigError(
                f"cut {shallow.cut} gives no feature map but {tuple(shape)}; choose a cut before the head"
            )
        self.record["feature"] = list(shape)
        self.build(lambda: _build(shape, config))

    def _features(self, eight_bit: Tensor) -> Tensor:
        with torch.no_grad():
            return self.shallow.feature(self.floats(eight_bit))

    def begin(self) -> None:
        """The closed-form start, on the first images of the first epoch's order."""
        chosen = self.images[self.order(len(self.images), 0)[: self.config.linear_images]]
        flipped = chosen.flip(3) if self.config.flip else chosen[:0]
        pairs = torch.cat([chosen, flipped])
        features = torch.cat([self._features(pairs[chunk]) for chunk in batches(len(pairs), 32)])
        self.model.fit_linear(features, self.floats(pairs))

    def loss(self) -> Tensor:
        """Of this step's augmented images and what is made of their features."""
        generator = self.generator("augmentation", self.step)
        images = _augmented(self.floats(self.images[self.rows(len(self.images))]), self.config, generator)
        with torch.no_grad():
            features = self.shallow.feature(images)
        with self.arithmetic():
            made = self.model.unclipped(features.contiguous(memory_format=torch.channels_last))
        return reconstruction_loss(images, made.float(), self.config)

    def quality(self) -> dict[str, float | None]:
        """SSIM and PSNR on the people held out."""
        ssim, psnr = reconstruction_quality(self.averaged, self.shallow, self.floats(self.held))
        return {"val_ssim": ssim, "val_psnr": psnr}


def _augmented(images: Tensor, config: RecFaceConfig, generator: torch.Generator) -> Tensor:
    """Mirrored, moved and relit copies of (N, 3, H, W) in [0, 1]. All draws are on the CPU, whatever the device."""
    count, device = len(images), images.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    flips, moves = uniform(count) < 0.5, uniform(count) < config.affine
    turn, shift, size = uniform(count) * 2 - 1, uniform(count, 2) * 2 - 1, uniform(count) * 2 - 1
    gain, lift = uniform(count, 1, 1, 1) * 2 - 1, uniform(count, 1, 1, 1) * 2 - 1
    if config.flip:
        images = torch.where(flips.to(device)[:, None, None, None], images.flip(3), images)
    rows = torch.nonzero(moves)[:, 0]
    if len(rows):
        height, width = images.shape[2:]
        matrix = get_affine_matrix2d(
            shift[rows] * config.affine_shift * torch.tensor([width, height]),
            torch.tensor([(width - 1) / 2, (height - 1) / 2]).expand(len(rows), 2),
            (1 + config.affine_scale * size[rows])[:, None].expand(-1, 2),
            turn[rows] * config.affine_degrees,
        )[:, :2]
        target = rows.to(device)
        moved = warp_affine(
            images[target], matrix.to(device), (height, width), padding_mode="reflection", align_corners=True
        )
        images = images.clone()
        images[target] = moved
    middle = images.mean((1, 2, 3), keepdim=True)
    relit = middle + (images - middle) * (1 + config.contrast * gain.to(device)) + config.brightness * lift.to(device)
    # What is sent to the shallow model is an 8-bit image.
    return relit.clamp(0.0, 1.0).mul(255.0).round().div(255.0)


@torch.no_grad()
def reconstruction_quality(model: RecFace, shallow: ShallowModel, images: Tensor) -> tuple[float | None, float | None]:
    """Mean SSIM and mean PSNR (dB) of the faces that ``model`` makes of the images' features; None without images."""
    if not len(images):
        return None, None
    made = torch.cat([model(shallow.feature(images[chunk])) for chunk in batches(len(images), 16)])
    return float(metrics.ssim(images, made).mean()), float(metrics.psnr(images, made).mean())


def sample_recface(
    shallow: ShallowModel,
    config: RecFaceConfig | None = None,
    *,
    attacked: Sequence[str] = ATTACKED,
    progress: Progress | None = None,
) -> RecFace:
    """RecFace of an attacker who has a handful of photographs: the sample photographs of people not attacked.

    A stand-in for a machine without a data set, in about a minute on one core. Nearly all of what it can do is its
    closed-form start: nine faces give some seven thousand neighbourhoods, and a strong augmentation more.

    Args:
        shallow: the model whose features are read.
        config: :data:`SAMPLE_CONFIG` by default.
        attacked: identities of the sample photographs that are attacked, and so not trained on.
        progress: called with the number of steps done since its last call.

    Raises:
        ConfigError: one of ``attacked`` is not in the sample photographs.
        DatasetError: nobody is left to train on.
        AssetError: a photograph cannot be had.
    """
    return train_recface(shallow, sample_people(attacked), config or SAMPLE_CONFIG, progress=progress)


def sample_people(without: Sequence[str] = ()) -> People:
    """The faces of the sample photographs with who they show.

    Raises:
        ConfigError: one of those to leave out is not in the sample photographs.
        AssetError: a photograph cannot be had.
    """
    photos = sample_photos()
    known = list(dict.fromkeys(person for photo in photos for person in photo.persons))
    unknown = sorted(set(without) - set(known))
    if unknown:
        raise ConfigError(f"no sample photograph shows {', '.join(unknown)}; known are {', '.join(known)}")
    wanted = [photo for photo in photos if not set(photo.persons) <= set(without)]
    found = [
        (crop.image, person)
        for photo in wanted
        for crop, person in zip(photo.crops(), photo.persons, strict=True)
        if person not in without
    ]
    identities = tuple(person for _, person in found)
    return People("samples", _Crops([image for image, _ in found], identities), identities)


def training_people(data: str) -> People:
    """The people to train RecFace on.

    Args:
        data: ``samples``, the sample photographs without :data:`ATTACKED`; else a folder of ``PMT_DATA`` or a path. It
            holds folders of images, one a person, of which :data:`LISTING` names the ones to take if it is there; or
            aligned crops, each taken for a person of its own.

    Raises:
        DatasetError: no such folder, or no images in it.
        ConfigError: a name is given, and PMT_DATA is not set.
        AssetError: a sample photograph cannot be had.
    """
    if data == "samples":
        return sample_people(ATTACKED)
    path, root = Path(data).expanduser(), data_dir()
    if root is None and not path.is_dir():
        raise ConfigError(
            f"{data!r} is no folder and PMT_DATA is not set: set it to the folder that holds {data}, or give "
            "--data samples (a handful of faces)"
        )
    if root is not None and data == Path(data).name and (root / data).is_dir():
        path = root / data
    if not path.is_dir():
        raise DatasetError(f"there is no folder {data}, nor one in {root}. Remedy: check it, or give --data samples")
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
    if files:
        try:
            crops = [faces.load_aligned(file) for file in files]
        except PhotoError as error:
            raise DatasetError(str(error)) from error
        names = tuple(file.stem for file in files)
        return People(path.name, _Crops(crops, names), names)
    return load_people(path, identities=LISTING if (path / LISTING).is_file() else None)


class _Crops(Images):
    """Crops in memory."""

    def __init__(self, crops: Sequence[UInt8Image], names: Sequence[str]) -> None:
        self.crops, self.names = tuple(crops), tuple(names)

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> UInt8Image:
        return self.crops[index]

    def name(self, index: int) -> str:
        return self.names[index]

    def content(self, index: int) -> bytes:
        return self.crops[index].tobytes()


SAMPLE_CONFIG = RecFaceConfig(
    steps=300,
    batch_size=8,
    learning_rate=2e-3,
    width=48,
    blocks=1,
    average=0.95,
    affine=0.7,
    affine_degrees=15.0,
    affine_shift=0.1,
    affine_scale=0.2,
    brightness=0.2,
    contrast=0.3,
    validation_people=0,
)
"""Training on a handful of faces: few steps, a smaller network, strong augmentation, nobody held out."""


# --------------------------------------------------------------------------------------------------------------------
# Level 2: optimisation through the shallow model
# --------------------------------------------------------------------------------------------------------------------

Start = Literal["grey", "noise", "mean"]


class InversionConfig(BaseModel):
    r"""Every choice of the white-box attack.

    Attributes:
        rule: ``sign`` is Eq. 2 to 4: steps of ``step_size`` along the sign of the gradient of
            :math:`\|E_c(\hat x) - z\|_2 + w\,TV(\hat x)`, downhill (Eq. 4's plus sign would climb). ``adam`` is the
            stronger attack: Adam on the squared relative error of the features with the same TV term, its rate falling
            as a cosine to 0, on an image that is a sum of maps of several sizes.
        steps: updates, from each start. The paper does not give it.
        step_size: alpha, on the 0 to 255 scale of Eq. 4: the change of every pixel, or Adam's rate.
        tv_weight: w. Eq. 2 has 1 for images on a scale it does not give; here TV is taken on the [0, 1] scale, summed
            with ``sign`` as in Eq. 3, and divided by the image's number of values with ``adam``.
        tv_beta: beta of Eq. 3.
        levels: sizes of those maps with ``adam``, each half of the one before; 1 is the pixels alone.
        starts: from where to start. Each is run to its end, and the one with the lowest objective is kept: the
            attacker cannot judge by closeness to a photograph that they do not have. Grey alone found the lowest
            objectives when the defaults were chosen. ``mean`` is an image that is given to :func:`invert`.
        noise_start: standard deviation of the starting noise about mid-grey, on the [0, 1] scale.
        batch_size: images optimised together; no operation mixes them.
        seed: of the starting noise, with the image's own seed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rule: Literal["sign", "adam"] = "adam"
    steps: int = Field(150, ge=0, le=1_000_000)
    step_size: float = Field(5.0, gt=0, le=255)
    tv_weight: float = Field(2.0, ge=0, allow_inf_nan=False)
    tv_beta: float = Field(2.0, gt=0, le=4)
    levels: int = Field(5, ge=1, le=12)
    starts: tuple[Start, ...] = Field(("grey",), min_length=1, max_length=32)
    noise_start: float = Field(0.1, ge=0, le=10)
    batch_size: int = Field(16, ge=1, le=4096)
    seed: int = Field(0, ge=0, lt=2**63)


SIGN = InversionConfig(rule="sign", steps=100, step_size=1.0, tv_weight=1.0)
"""The paper's white-box attack, Eq. 2 to 4."""

ADAM = InversionConfig()
"""The stronger white-box attack: step size and TV weight chosen on people of LFW who are in no pair, at cut 5 of
``mobilefacenet``."""


@dataclass(frozen=True)
class Inverted:
    """What :func:`invert` returns, in the order of the features.

    Attributes:
        images: (N, 3, 112, 112) in [0, 1].
        trace: the objective before each step, (N, starts, steps).
        objectives: the objective at the end, (N, starts).
        chosen: the start that was kept, (N,).
    """

    images: Tensor
    trace: Tensor
    objectives: Tensor
    chosen: Tensor

    @property
    def objective(self) -> Tensor:
        """The objective at the end of the start that was kept, (N,)."""
        return self.objectives.gather(1, self.chosen[:, None])[:, 0]


def total_variation(images: Tensor, beta: float = 2.0) -> Tensor:
    r"""Eq. 3: :math:`\sum_{i,j} ((x_{i,j-1} - x_{i,j})^2 + (x_{i+1,j} - x_{i,j})^2)^{\beta/2}`, summed over channels.

    The sum runs over the pixels that have both neighbours. Where both differences are 0 the gradient is 0.

    Args:
        images: (N, C, H, W).
        beta: the exponent.

    Returns:
        (N,).
    """
    here = images[:, :, :-1, 1:]
    squares = (images[:, :, :-1, :-1] - here).square() + (images[:, :, 1:, 1:] - here).square()
    if beta != 2:
        # A power below 1 has no finite derivative at 0, and a flat region has nothing to lose.
        flat = squares == 0
        squares = torch.where(flat, 0.0, torch.where(flat, 1.0, squares) ** (beta / 2))
    return squares.sum((1, 2, 3))


def inversion_objective(images: Tensor, target: Tensor, shallow: ShallowModel, config: InversionConfig) -> Tensor:
    """What :func:`invert` minimises, one value an image: Eq. 2 with ``sign``, its relative square with ``adam``.

    Args:
        images: (N, 3, H, W) in [0, 1].
        target: the features z, (N, C, h, w).
        shallow: the shallow model.
        config: rule, TV weight and exponent.
    """
    difference = (shallow.feature(images) - target).flatten(1).square().sum(1)
    variation = total_variation(images, config.tv_beta)
    if config.rule == "sign":
        return difference.clamp_min(1e-20).sqrt() + config.tv_weight * variation
    size = target.flatten(1).square().sum(1).clamp_min(1e-12)
    return difference / size + config.tv_weight * variation / images[0].numel()


def invert(
    features: Tensor,
    shallow: ShallowModel,
    config: InversionConfig | None = None,
    *,
    seeds: Sequence[int] | None = None,
    image_shape: tuple[int, int] = (SIZE, SIZE),
    mean_image: Tensor | None = None,
    progress: Progress | None = None,
) -> Inverted:
    """Reconstruct images from shallow features through the shallow model (Eq. 2 to 4).

    Args:
        features: z, (N, C, h, w), on the device of ``shallow``.
        shallow: the model that made them; the attacker holds it (Level 2), and nothing else.
        config: every choice.
        seeds: one seed an image for its starting noise, so that it does not depend on the batch; 0, 1, 2, ... by
            default.
        image_shape: (H, W) of the images to find.
        mean_image: (3, H, W) in [0, 1], from where the start ``mean`` sets out; the mean of faces of other people.
        progress: called with the number of image-steps done since its last call.

    Returns:
        Inverted: images and how the optimisation went.

    Raises:
        ConfigError: the features do not fit the shallow model, the seeds the features or the mean image the images,
            or a start asks for a mean image that is not given.
    """
    config = config or InversionConfig()
    own_seeds = list(range(len(features))) if seeds is None else list(seeds)
    if len(own_seeds) != len(features):
        raise ConfigError(f"{len(own_seeds)} seeds for {len(features)} features; give one each")
    if "mean" in config.starts and (mean_image is None or tuple(mean_image.shape) != (3, *image_shape)):
        given = "none" if mean_image is None else str(tuple(mean_image.shape))
        raise ConfigError(f"the start 'mean' needs a mean image {(3, *image_shape)}, got {given}")
    with reproducible():
        target = features.detach().clone()
        check_features(target, shallow, image_shape)
        images, traces, ends, chosen = [target.new_zeros((0, 3, *image_shape))], [], [], []
        for chunk in batches(len(target), config.batch_size):
            runs = [
                _descend(
                    _begin_at(start, own_seeds[chunk], place, image_shape, mean_image, config, target),
                    target[chunk],
                    shallow,
                    config,
                    progress,
                )
                for place, start in enumerate(config.starts)
            ]
            end = torch.stack([run[2] for run in runs], 1)
            # A start that ended in no number must not win.
            best = torch.nan_to_num(end, nan=math.inf).argmin(1)
            everything = torch.stack([run[0] for run in runs], 1)
            images.append(everything[torch.arange(len(best), device=best.device), best])
            traces.append(torch.stack([run[1] for run in runs], 1))
            ends.append(end)
            chosen.append(best)
    count = len(config.starts)
    empty = target.new_zeros((0, count))
    return Inverted(
        images=torch.cat(images),
        trace=torch.cat([empty.new_zeros((0, count, config.steps)), *traces]),
        objectives=torch.cat([empty, *ends]),
        chosen=torch.cat([torch.zeros(0, dtype=torch.int64, device=target.device), *chosen]),
    )


def check_features(features: Tensor, shallow: ShallowModel, image_shape: tuple[int, int]) -> None:
    """Refuse what cannot be features (N, C, h, w) of this shallow model for images (H, W).

    Raises:
        ConfigError: the shape is another, or a value is not finite.
    """
    grey = torch.full((1, 3, *image_shape), 0.5, dtype=features.dtype, device=features.device)
    with torch.no_grad():
        wanted = shallow.feature(grey).shape if features.is_floating_point() else ()
    if wanted[1:] != features.shape[1:] or not features.is_floating_point():
        raise ConfigError(
            f"features {tuple(features.shape)} are not of this shallow model, which gives {tuple(wanted[1:])}"
        )
    if not bool(torch.isfinite(features).all()):
        raise ConfigError("a feature is not finite; features must hold numbers only")


def _begin_at(
    start: Start,
    seeds: Sequence[int],
    place: int,
    shape: tuple[int, int],
    mean_image: Tensor | None,
    config: InversionConfig,
    like: Tensor,
) -> Tensor:
    if start == "grey":
        return like.new_full((len(seeds), 3, *shape), 0.5)
    if start == "mean" and mean_image is not None:
        return mean_image.to(like.device, like.dtype).clamp(0.0, 1.0).expand(len(seeds), -1, -1, -1).clone()
    generators = [derived_generator(f"invert:{config.seed}:{seed}:{place}") for seed in seeds]
    noise = [torch.randn((3, *shape), generator=generator) for generator in generators]
    return (0.5 + config.noise_start * torch.stack(noise)).clamp(0.0, 1.0).to(like.device, like.dtype)


class _Pyramid:
    """Images as a sum of maps of halving sides, each enlarged to the image's size, and Adam's moments of the maps.

    Pixels on their own are badly conditioned: a change of a whole region's brightness takes every pixel's agreement.
    """

    def __init__(self, images: Tensor, levels: int) -> None:
        sides = images.shape[2:]
        sizes = [tuple(max(1, math.ceil(side / 2**level)) for side in sides) for level in range(1, levels)]
        self.maps = [images, *(images.new_zeros((*images.shape[:2], *size)) for size in sizes)]
        self.first = [torch.zeros_like(part) for part in self.maps]
        self.second = [torch.zeros_like(part) for part in self.maps]

    def images(self) -> Tensor:
        """The sum of the levels."""
        total, size = self.maps[0], self.maps[0].shape[2:]
        for part in self.maps[1:]:
            total = total + F.interpolate(part, size, mode="bilinear", align_corners=False)
        return total

    def move(self, gradients: Sequence[Tensor], rate: float, step: int) -> None:
        """One update of Adam; what leaves [0, 1] is taken back by the finest level."""
        # Lists are replaced, not changed in place: the maps may still be part of a graph.
        moved = []
        for part, gradient, first, second in zip(self.maps, gradients, self.first, self.second, strict=True):
            first.lerp_(gradient, 1 - _INVERSION_BETAS[0])
            second.lerp_(gradient.square(), 1 - _INVERSION_BETAS[1])
            size = (second / (1 - _INVERSION_BETAS[1] ** (step + 1))).sqrt()
            mean = first / (1 - _INVERSION_BETAS[0] ** (step + 1))
            moved.append(part.detach() - rate * mean / size.clamp_min(torch.finfo(size.dtype).tiny))
        self.maps = moved
        total = self.images()
        self.maps[0] = self.maps[0] + (total.clamp(0.0, 1.0) - total)


def _descend(
    images: Tensor, target: Tensor, shallow: ShallowModel, config: InversionConfig, progress: Progress | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Images, trace (n, steps) and objective (n,) after all steps from one start."""
    trace = target.new_zeros((len(images), config.steps))
    pyramid = _Pyramid(images, 1 if config.rule == "sign" else config.levels)
    rate = config.step_size / 255
    for step in range(config.steps):
        pyramid.maps = [part.detach().requires_grad_(True) for part in pyramid.maps]
        objective = inversion_objective(pyramid.images(), target, shallow, config)
        trace[:, step] = objective.detach()
        # The sum's gradient is each image's own: no objective depends on another's image.
        gradients = torch.autograd.grad(objective.sum(), pyramid.maps)
        if config.rule == "sign":
            pyramid.maps = [(pyramid.maps[0].detach() - rate * gradients[0].sign()).clamp(0.0, 1.0)]
        else:
            pyramid.move(gradients, rate * 0.5 * (1 + math.cos(math.pi * step / config.steps)), step)
        if progress is not None:
            progress(len(images))
    with torch.no_grad():
        # The levels' sum is in [0, 1] up to rounding.
        images = pyramid.images().detach().clamp(0.0, 1.0)
        return images, trace, inversion_objective(images, target, shallow, config)
