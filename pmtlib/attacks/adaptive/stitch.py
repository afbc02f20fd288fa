"""Stitching: an unauthorised party completes the shared shallow model to a recogniser of its own.

Threat model: the attacker holds the public shallow model and labelled photographs of other people. Uploads are made to
match that model's features, so a head that is trained on the features of clean photographs recognises the owner of an
upload as the authorised service does, without any filter and without the service's hidden layers.

Two heads. :func:`train_head` starts from random weights and knows names alone. :func:`stitch_network` has the later
units of a recogniser that the attacker holds already, behind a seam of one 1x1 convolution, and learns from the names
and from what that recogniser says of the photographs.

Wang et al.: CosFace: large margin cosine loss for deep face recognition. CVPR 2018.
Lenc, Vedaldi: Understanding image representations by measuring their equivariance and equivalence. CVPR 2015.
Bansal, Nakkiran, Barak: Revisiting model stitching to compare neural representations. NeurIPS 2021.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pmtlib import metrics
from pmtlib.attacks.reconstruction import split_people
from pmtlib.attacks.training import (
    Files,
    Progress,
    Training,
    TrainingConfig,
    answers,
    checksum,
    read_eight_bit,
)
from pmtlib.datasets import People
from pmtlib.errors import ConfigError, DatasetError
from pmtlib.faces import SIZE
from pmtlib.images import batches
from pmtlib.networks.base import FaceNetwork
from pmtlib.randomness import reproducible
from pmtlib.shallow import ShallowModel, resolve_cut

_FORMAT = 1
_SMALLEST = 8


class HeadConfig(TrainingConfig):
    """Every choice of a stitched head's training.

    Attributes:
        batch_size: images an update.
        learning_rate: of AdamW, at its highest; it rises over the first 2% of the steps and falls as a cosine to 0.
        weight_decay: of AdamW.
        width: channels of the head's first convolution; each further one has twice as many, up to eight times.
        embedding: length of the embedding.
        scale: s of CosFace, the inverse temperature of the softmax.
        margin: m of CosFace, by which the own identity's cosine must be ahead; 0 is a plain softmax on cosines.
        validation_people: identities that are held out, each with all images.
    """

    batch_size: int = Field(64, ge=1, le=4096)
    learning_rate: float = Field(2e-3, gt=0, allow_inf_nan=False)
    weight_decay: float = Field(5e-4, ge=0, allow_inf_nan=False)
    width: int = Field(128, ge=4, le=1024)
    embedding: int = Field(256, ge=2, le=4096)
    scale: float = Field(32.0, gt=0, allow_inf_nan=False)
    margin: float = Field(0.2, ge=0, lt=1)
    validation_people: int = Field(100, ge=0, le=100_000)


class StitchConfig(TrainingConfig):
    """Every choice in the tuning of a network that is stitched to a shared model.

    Attributes:
        steps: updates.
        batch_size: images an update.
        learning_rate: of AdamW, at its highest; it rises over the first 2% of the steps and falls as a cosine to 0.
        weight_decay: of AdamW.
        scale: s of CosFace, the inverse temperature of the softmax.
        margin: m of CosFace, by which the own identity's cosine must be ahead.
        teaching: how much one minus the cosine with the network's own embedding counts beside CosFace.
        noise: the largest standard deviation of the noise that is added to a photograph's feature, in that of features
            (of 512 photographs); an upload does not match its feature exactly.
        validation_people: identities that are held out, each with all images.

    The defaults were set by hand. Beside them one change was tried, on LFW's pairs: to learn without names, which
    recognised as many.
    """

    steps: int = Field(300, ge=1, le=10_000_000)
    batch_size: int = Field(64, ge=1, le=4096)
    learning_rate: float = Field(1e-3, gt=0, allow_inf_nan=False)
    weight_decay: float = Field(5e-4, ge=0, allow_inf_nan=False)
    scale: float = Field(32.0, gt=0, allow_inf_nan=False)
    margin: float = Field(0.2, ge=0, lt=1)
    teaching: float = Field(10.0, ge=0, allow_inf_nan=False)
    noise: float = Field(0.5, ge=0, allow_inf_nan=False)
    validation_people: int = Field(100, ge=0, le=100_000)


class Head(nn.Module):
    """A small network from shallow features to embeddings: convolutions of stride 2 to at most 8x8 cells, one layer.

    Args:
        feature: (C, h, w) of the features.
        width: channels of the first convolution.
        embedding: length of the embedding.

    Shape:
        input: (N, C, h, w).
        output: (N, embedding), not normalised.
    """

    def __init__(self, feature: Sequence[int], *, width: int = 128, embedding: int = 256) -> None:
        super().__init__()
        if len(feature) != 3 or min(feature) < 1:
            raise ConfigError(f"a feature map (C, h, w) is needed, not {tuple(feature)}; choose a cut before the head")
        channels, height, columns = feature
        layers: list[nn.Module] = [nn.GroupNorm(1, channels)]
        wide = width
        while True:
            stride = 2 if max(height, columns) > _SMALLEST else 1
            layers += [nn.Conv2d(channels, wide, 3, stride=stride, padding=1), nn.GroupNorm(1, wide), nn.PReLU(wide)]
            height, columns = -(-height // stride), -(-columns // stride)
            channels, wide = wide, min(2 * wide, 8 * width)
            if stride == 1:
                break
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * columns, embedding))

    def forward(self, features: Tensor) -> Tensor:
        """Embeddings (N, embedding) of features (N, C, h, w)."""
        return self.layers(features)  # type: ignore[no-any-return]


class Completion(nn.Module):
    """A seam, then the later units of a recogniser: from a map of the same height as the shared one to its embedding.

    The seam is one 1x1 convolution between maps, on the other network's grid: where that sees a part of the columns
    alone, or has another number of cells, the shared map is interpolated at the places of its cells.

    Args:
        feature: (C, h, w) of the shared features.
        network: the recogniser. A copy is held of its units behind the deepest whose map has h rows or more.

    Shape:
        input: (N, C, h, w).
        output: (N, D), the network's embedding, not normalised.

    Raises:
        ConfigError: the features are no map, or the network has none of that height.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, feature: Sequence[int], network: FaceNetwork) -> None:
        super().__init__()
        if len(feature) != 3 or min(feature) < 1:
            raise ConfigError(f"a feature map (C, h, w) is needed, not {tuple(feature)}; choose a cut before the head")
        channels, height, width = feature
        start = resolve_cut(network, f"{height}x{height}")
        parameter = next(network.parameters())
        blank = torch.zeros((1, 3, SIZE, SIZE), device=parameter.device)
        with torch.no_grad():
            _, wanted, rows, columns = network.run_units(network.prepare(blank), 0, start)[-1].shape
        self.seam = nn.Conv2d(channels, wanted, 1)
        self.later = copy.deepcopy(network.units[start:]).requires_grad_(True).eval()
        self.register_buffer("rows", _resampling(height, rows, (0, SIZE)), persistent=False)
        self.register_buffer("columns", _resampling(width, columns, network.columns), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Embeddings (N, D) of features (N, C, h, w)."""
        resampled = self.rows.T @ features @ self.columns
        return self.later(self.seam(resampled))  # type: ignore[no-any-return]


def _resampling(cells: int, wanted: int, seen: tuple[int, int]) -> Tensor:
    """Weights (cells, wanted) of linear interpolation.

    Args:
        cells: that divide the whole side of a crop.
        wanted: cells that divide a part of it.
        seen: first and last pixel of that part, half open.
    """
    first, last = seen
    centres = first + (torch.arange(wanted) + 0.5) * (last - first) / wanted
    places = (centres * cells / SIZE - 0.5).clamp(0, cells - 1)
    # The weight of a cell falls from 1 to 0 over the distance to the next one.
    return (1 - (places - torch.arange(cells)[:, None]).abs()).clamp_min(0)


class StitchedNetwork(FaceNetwork):
    """A shared shallow model with a head of one's own: two units, ``shallow`` and ``head``.

    Args:
        shallow: the shared model; a copy is held.
        head: from its features to embeddings, such as a :class:`Head` or a :class:`Completion`.

    Shape:
        input: (N, 3, 112, 112), RGB in [0, 1].
        output: (N, D), the embedding, not normalised.
    """

    def __init__(self, shallow: ShallowModel, head: nn.Module) -> None:
        super().__init__({"shallow": _Feature(copy.deepcopy(shallow)), "head": head})
        self.requires_grad_(False).eval()

    def prepare(self, images: Tensor) -> Tensor:
        """The images as they are: the shallow model prepares them itself."""
        return images


class _Feature(nn.Module):
    """The last output of a shallow model."""

    def __init__(self, shallow: ShallowModel) -> None:
        super().__init__()
        self.shallow = shallow

    def forward(self, images: Tensor) -> Tensor:
        return self.shallow.feature(images)


def cosine_softmax(embeddings: Tensor, prototypes: Tensor, labels: Tensor, *, scale: float, margin: float) -> Tensor:
    r"""CosFace: :math:`-\log \frac{e^a}{e^a + \sum_{j \ne y} e^{s\cos\theta_j}}` with :math:`a = s(\cos\theta_y - m)`.

    Args:
        embeddings: (N, D).
        prototypes: (I, D), one an identity.
        labels: (N,) int64, the identity of each embedding.
        scale: s.
        margin: m.

    Returns:
        The mean, a scalar.
    """
    cosines = F.normalize(embeddings, dim=1) @ F.normalize(prototypes, dim=1).T
    own = F.one_hot(labels, len(prototypes)).to(cosines.dtype)
    return F.cross_entropy(scale * (cosines - margin * own), labels)


def train_head(
    shallow: ShallowModel,
    people: People,
    config: HeadConfig | None = None,
    *,
    folder: Path | None = None,
    progress: Progress | None = None,
    resume: bool = True,
    checkpoint_seconds: float = 30.0,
) -> StitchedNetwork:
    """Train a head on the clean shallow features of other people's photographs.

    Args:
        shallow: the shared model, on the device to train on.
        people: who are not attacked, two or more after those that are held out for the curve.
        config: every choice.
        folder: for the weights, the state and the record with the curve; nothing is stored without one.
        progress: called with the number of steps done since its last call.
        resume: go on from the folder's last checkpoint; otherwise it is started anew and overwritten.
        checkpoint_seconds: between two checkpoints. An interruption loses what came after the last one.

    Returns:
        StitchedNetwork: frozen, in evaluation mode, on the device of ``shallow``, with the averaged weights.

    Raises:
        DatasetError: fewer than two identities are left to train on.
        ConfigError: the cut gives no feature map, or the folder holds the training of something else.
        ResultError: the folder's state is damaged.
    """
    training = _HeadTraining(shallow, people, config or HeadConfig(), folder, resume)
    return StitchedNetwork(shallow, training.train(progress, checkpoint_seconds).head)


def stitch_network(
    shallow: ShallowModel,
    network: FaceNetwork,
    people: People,
    config: StitchConfig | None = None,
    *,
    folder: Path | None = None,
    progress: Progress | None = None,
    resume: bool = True,
    checkpoint_seconds: float = 30.0,
) -> StitchedNetwork:
    """Stitch the later units of a recogniser that one holds to the shared model, and tune them.

    Learned are the seam and the later units, from other people's photographs: CosFace on their names, whose prototypes
    begin as the means of what the network says of each person's photographs, and one minus the cosine with what it
    says of each. Features and embeddings are computed once, also those of the mirrored photographs where ``flip`` is
    on, and held in the processor's memory: two bytes a number of a feature.

    Args:
        shallow: the shared model, on the device to train on.
        network: the recogniser, on the same device. It is told from others by its weights.
        people: who are not attacked, two or more after those that are held out for the curve.
        config: every choice.
        folder: for the weights, the state and the record with the curve; nothing is stored without one.
        progress: called with the number of steps done since its last call.
        resume: go on from the folder's last checkpoint; otherwise it is started anew and overwritten.
        checkpoint_seconds: between two checkpoints. An interruption loses what came after the last one.

    Returns:
        StitchedNetwork: frozen, in evaluation mode, on the device of ``shallow``, with the averaged weights.

    Raises:
        DatasetError: fewer than two identities are left to train on.
        ConfigError: the cut gives no feature map, the network has no map of its height, or the folder holds the
            training of something else.
        ResultError: the folder's state is damaged.
    """
    training = _StitchTraining(shallow, network, people, config or StitchConfig(), folder, resume)
    return StitchedNetwork(shallow, training.train(progress, checkpoint_seconds).head)


class _Classifier(nn.Module):
    """A head and one prototype (I, D) for each identity that it is trained on."""

    def __init__(self, head: nn.Module, prototypes: Tensor) -> None:
        super().__init__()
        self.head, self.prototypes = head, nn.Parameter(prototypes)


class _Named(Training[_Classifier]):
    """A training with names on the features of a shared model."""

    config: HeadConfig | StitchConfig

    def __init__(
        self,
        shallow: ShallowModel,
        people: People,
        config: HeadConfig | StitchConfig,
        folder: Path | None,
        resume: bool,
        more: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.shallow, self.config = shallow, config
        split = split_people(people, config)
        names = sorted({people.identities[int(row)] for row in split.training})
        if len(names) < 2:
            raise DatasetError(f"{people.name} leaves {len(names)} identity to train on. Remedy: name a larger set")
        record = {
            "format": _FORMAT,
            "network": shallow.name,
            "cut": shallow.cut,
            "checksum": checksum(shallow),
            "config": config.model_dump(mode="json"),
            "people": {"name": people.name, "fingerprint": people.fingerprint, "identities": len(names)},
            **more,
        }
        super().__init__(config, record, next(shallow.parameters()).device, folder, resume)
        numbers = {name: number for number, name in enumerate(names)}
        self.images = read_eight_bit(people, split.training)
        self.labels = torch.tensor([numbers[people.identities[int(row)]] for row in split.training])
        self.held = read_eight_bit(people, split.validation)
        self.held_names = [people.identities[int(row)] for row in split.validation]
        self.shape = tuple(self._features(self.images[:1]).shape[1:])
        self.record["feature"] = list(self.shape)
        self.names = names

    @torch.no_grad()
    def _features(self, eight_bit: Tensor) -> Tensor:
        return self.shallow.feature(self.floats(eight_bit))

    def begin(self) -> None:
        """From the weights that the model was built with."""

    def named(self, embeddings: Tensor, rows: Tensor) -> Tensor:
        """CosFace of the embeddings (N, D) of images, on their names."""
        return cosine_softmax(
            embeddings.float(),
            self.model.prototypes,
            self.labels[rows].to(self.device),
            scale=self.config.scale,
            margin=self.config.margin,
        )

    @torch.no_grad()
    def quality(self) -> dict[str, float | None]:
        """The area under the ROC curve over all pairs of the images held out."""
        pairs = list(itertools.combinations(range(len(self.held)), 2))
        same = [self.held_names[a] == self.held_names[b] for a, b in pairs]
        if not any(same) or all(same):
            return {"val_auc": None}
        embeddings = torch.cat(
            [self.averaged.head(self._features(self.held[chunk])) for chunk in batches(len(self.held), 64)]
        ).cpu()
        first, second = np.array(pairs).T
        return {"val_auc": metrics.auc(metrics.cosine(embeddings[first], embeddings[second]), same)}


class _HeadTraining(_Named):
    """The training of one head."""

    title, stream, files = "head", "head", Files("head.json", "head.safetensors")

    config: HeadConfig

    def __init__(
        self, shallow: ShallowModel, people: People, config: HeadConfig, folder: Path | None, resume: bool
    ) -> None:
        super().__init__(shallow, people, config, folder, resume)
        self.build(self._made)

    def _made(self) -> _Classifier:
        head = Head(self.shape, width=self.config.width, embedding=self.config.embedding)
        return _Classifier(head, torch.randn(len(self.names), self.config.embedding))

    def loss(self) -> Tensor:
        """CosFace on this step's images."""
        rows = self.rows(len(self.images))
        (images,) = self.mirrored(self.images[rows])
        # Not channels_last: torch 2.12 crashes in the backward pass of a group norm on such an input.
        features = self._features(images).contiguous()
        with self.arithmetic():
            embeddings = self.model.head(features)
        return self.named(embeddings, rows)


class _StitchTraining(_Named):
    """The tuning of one completion."""

    title, stream, files = "stitched network", "stitched", Files("stitched.json", "stitched.safetensors")

    config: StitchConfig

    def __init__(
        self,
        shallow: ShallowModel,
        network: FaceNetwork,
        people: People,
        config: StitchConfig,
        folder: Path | None,
        resume: bool,
    ) -> None:
        super().__init__(shallow, people, config, folder, resume, {"completed_by": checksum(network)})
        with reproducible():
            sides = [self.images, self.images.flip(3)] if config.flip else [self.images]
            # Of a training that is finished, the weights alone are needed.
            sides = sides if not self.finished else [self.images[:1]]
            known = [answers(shallow, {"": network}, side) for side in sides]
        self.features, self.said = [one[0] for one in known], [one[1][""] for one in known]
        self.spread = float(self.features[0][:512].float().std())
        self.build(lambda: _Classifier(Completion(self.shape, network), self._means()))

    def _means(self) -> Tensor:
        """The mean direction of what the network says of each person, (I, D)."""
        said = F.normalize(self.said[0], dim=1)
        means = torch.zeros((len(self.names), said.shape[1]))
        return F.normalize(means.index_add_(0, self.labels[: len(said)], said), dim=1)

    def loss(self) -> Tensor:
        """CosFace on this step's images, and one minus the cosine with what the network says of them."""
        rows = self.rows(len(self.images))
        draw = self.generator("draw", self.step)
        sides = torch.randint(len(self.features), (len(rows),), generator=draw).tolist()
        features, said = (
            torch.stack([of[side][int(row)] for side, row in zip(sides, rows, strict=True)])
            for of in (self.features, self.said)
        )
        amount = self.config.noise * self.spread * torch.rand((len(rows), 1, 1, 1), generator=draw)
        noisy = features.float() + amount * torch.randn(features.shape, generator=draw)
        with self.arithmetic():
            embeddings = self.model.head(noisy.to(self.device))
        taught = (1 - F.cosine_similarity(embeddings.float(), said.to(self.device), dim=1)).mean()
        return self.named(embeddings, rows) + self.config.teaching * taught
