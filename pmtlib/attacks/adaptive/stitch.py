"""Stitching: an unauthorised party completes the shared shallow model to a recogniser of its own.

Threat model: the attacker holds the public shallow model and labelled photographs of other people. Uploads are made to
match that model's features, so a head that is trained on the features of clean photographs recognises the owner of an
upload as the authorised service does, without any filter and without the service's hidden layers.

Wang et al.: CosFace: large margin cosine loss for deep face recognition. CVPR 2018.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pmtlib import metrics
from pmtlib.attacks.reconstruction import split_people
from pmtlib.attacks.training import Files, Progress, Training, TrainingConfig, checksum, read_eight_bit
from pmtlib.datasets import People
from pmtlib.errors import ConfigError, DatasetError
from pmtlib.images import batches
from pmtlib.networks.base import FaceNetwork
from pmtlib.shallow import ShallowModel

_FORMAT = 1
_FILES = Files("head.json", "head.safetensors")
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


class StitchedNetwork(FaceNetwork):
    """A shared shallow model with a head of one's own: two units, ``shallow`` and ``head``.

    Args:
        shallow: the shared model; a copy is held.
        head: from its features to embeddings.

    Shape:
        input: (N, 3, 112, 112), RGB in [0, 1].
        output: (N, D), the embedding, not normalised.
    """

    def __init__(self, shallow: ShallowModel, head: Head) -> None:
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
    classifier = _HeadTraining(shallow, people, config or HeadConfig(), folder, resume).train(
        progress, checkpoint_seconds
    )
    return StitchedNetwork(shallow, classifier.head)


class _Classifier(nn.Module):
    """A head and one prototype for each identity that it is trained on."""

    def __init__(self, feature: Sequence[int], identities: int, config: HeadConfig) -> None:
        super().__init__()
        self.head = Head(feature, width=config.width, embedding=config.embedding)
        self.prototypes = nn.Parameter(torch.randn(identities, config.embedding))


class _HeadTraining(Training[_Classifier]):
    """The training of one head."""

    title, stream, files = "head", "head", _FILES

    def __init__(
        self, shallow: ShallowModel, people: People, config: HeadConfig, folder: Path | None, resume: bool
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
        }
        super().__init__(config, record, next(shallow.parameters()).device, folder, resume)
        numbers = {name: number for number, name in enumerate(names)}
        self.images = read_eight_bit(people, split.training)
        self.labels = torch.tensor([numbers[people.identities[int(row)]] for row in split.training])
        self.held = read_eight_bit(people, split.validation)
        self.held_names = [people.identities[int(row)] for row in split.validation]
        shape = tuple(self._features(self.images[:1]).shape[1:])
        self.record["feature"] = list(shape)
        self.build(lambda: _Classifier(shape, len(names), config))

    @torch.no_grad()
    def _features(self, eight_bit: Tensor) -> Tensor:
        return self.shallow.feature(self.floats(eight_bit))

    def begin(self) -> None:
        """From random weights."""

    def loss(self) -> Tensor:
        """CosFace on this step's images."""
        rows = self.rows(len(self.images))
        (images,) = self.mirrored(self.images[rows])
        # Not channels_last: torch 2.12 crashes in the backward pass of a group norm on such an input.
        features = self._features(images).contiguous()
        with self.arithmetic():
            embeddings = self.model.head(features)
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
