"""Translation: from the features of the shared shallow model to the embeddings of recognisers of one's own.

Threat model: the attacker holds the public shallow model, any face networks, a gallery that these embedded long ago,
and photographs of other people *without names*. A small head learns from those photographs to say of a shallow feature
what each network says of the face. Uploads are made to match shallow features, so their translations are compared with
the gallery as a photograph's embeddings would be. No filter is undone and no face restored. Whoever can protect
photographs too may show the head uploads beside them, so that it learns what a filter does to features.

It is stitching (:mod:`~pmtlib.attacks.adaptive.stitch`) by distillation: a teacher tells more of a photograph than the
name of who is on it, and names are not needed.

Hinton, Vinyals, Dean: Distilling the knowledge in a neural network. arXiv:1503.02531, 2015.
Mai, Cao, Yuen, Jain: On the reconstruction of face images from deep face templates. TPAMI 41(5), 2019 (the threat).
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from pmtlib import cache
from pmtlib.attacks.adaptive.link import link_scores
from pmtlib.attacks.adaptive.stitch import Head
from pmtlib.attacks.reconstruction import split_people
from pmtlib.attacks.training import (
    Answers,
    Files,
    Progress,
    Teacher,
    Training,
    TrainingConfig,
    answers,
    checksum,
    read_eight_bit,
)
from pmtlib.datasets import People
from pmtlib.errors import ConfigError
from pmtlib.faces import SIZE
from pmtlib.images import batches
from pmtlib.metrics import Floats
from pmtlib.randomness import reproducible
from pmtlib.shallow import ShallowModel

_FORMAT = 1
_OF_UPLOADS = 0.5
"""The share of a batch that is uploads, where there are any."""
_FILES = Files("translator.json", "translator.safetensors")


class Uploads(NamedTuple):
    """Uploads of photographs that are there too.

    Attributes:
        images: (P, 3, 112, 112), 8-bit.
        rows: (P,) int64, which of the people's images each was made of.
    """

    images: Tensor
    rows: Tensor

    @property
    def digest(self) -> str:
        """sha256 of both."""
        content = [part.cpu().contiguous().numpy().tobytes() for part in self]
        return hashlib.sha256(b"".join(content)).hexdigest()


class TranslatorConfig(TrainingConfig):
    """Every choice of a translator's training.

    Attributes:
        steps: updates.
        batch_size: images an update.
        learning_rate: of AdamW, at its highest; it rises over the first 2% of the steps and falls as a cosine to 0.
        weight_decay: of AdamW.
        width: channels of the head's first convolution; each further one has twice as many, up to eight times.
        noise: up to how much noise is added to a photograph's feature, its standard deviation in that of all features;
            an upload matches its feature only so far. Uploads that are learned from have none added.
        validation_people: identities that are held out, each with all images: for the curve, and for thresholds.
    """

    steps: int = Field(1200, ge=1, le=10_000_000)
    batch_size: int = Field(64, ge=1, le=4096)
    learning_rate: float = Field(2e-3, gt=0, allow_inf_nan=False)
    weight_decay: float = Field(5e-4, ge=0, allow_inf_nan=False)
    width: int = Field(128, ge=4, le=1024)
    noise: float = Field(0.5, ge=0, allow_inf_nan=False)
    validation_people: int = Field(100, ge=0, le=100_000)


class Translator(nn.Module):
    """A shared shallow model with a head that speaks for several networks at once.

    Args:
        shallow: the shared model; a copy is held.
        head: from its features to the embeddings of all teachers, one after the other.
        sizes: length of each teacher's embedding, by its name.

    Shape:
        input: (N, 3, 112, 112), RGB in [0, 1].
        output: for each teacher its embedding, (N, D), not normalised.
    """

    def __init__(self, shallow: ShallowModel, head: Head, sizes: Mapping[str, int]) -> None:
        super().__init__()
        self.shallow, self.head, self.sizes = copy.deepcopy(shallow), head, dict(sizes)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Translations of the features of images (N, 3, 112, 112)."""
        return self.of_features(self.shallow.feature(images))

    def of_features(self, features: Tensor) -> dict[str, Tensor]:
        """Translations of features (N, C, h, w)."""
        parts = torch.split(self.head(features), list(self.sizes.values()), dim=1)
        return dict(zip(self.sizes, parts, strict=True))


def train_translator(
    shallow: ShallowModel,
    people: People,
    teachers: Mapping[str, Teacher],
    config: TranslatorConfig | None = None,
    *,
    uploads: Uploads | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
    resume: bool = True,
    checkpoint_seconds: float = 30.0,
) -> Translator:
    """Train a head that says of the features of photographs what other networks say of the photographs.

    With uploads, about half of each batch is features of these, with what the networks say of their photographs.

    Features and embeddings are computed once, also those of the mirrored photographs where ``flip`` is on, and held in
    the processor's memory: two bytes a number of a feature. Teachers are told apart by name and size alone; a folder
    should be named by their weights too.

    Args:
        shallow: the shared model, on the device to train on.
        people: who are not attacked. Their names are used for nothing but to hold some of them out.
        teachers: networks by name.
        config: every choice.
        uploads: of photographs of these people; those of people held out are left out.
        folder: for the weights, the state and the record with the curve; nothing is stored without one.
        progress: called with the number of steps done since its last call.
        resume: go on from the folder's last checkpoint; otherwise it is started anew and overwritten.
        checkpoint_seconds: between two checkpoints. An interruption loses what came after the last one.

    Raises:
        ConfigError: there is no teacher, the cut gives no feature map, uploads are not of these people, or the folder
            holds the training of something else.
        DatasetError: nobody is left to train on.
        ResultError: the folder's state is damaged.
    """
    if not teachers:
        raise ConfigError("no network to translate for; name one or more")
    # In the order of their names: the head's outputs mean the same however they were given.
    ordered = {name: teachers[name] for name in sorted(teachers)}
    training = _TranslatorTraining(shallow, people, ordered, config or TranslatorConfig(), uploads, folder, resume)
    return Translator(shallow, training.train(progress, checkpoint_seconds), training.sizes)


class _TranslatorTraining(Training[Head]):
    """The training of one translator."""

    title, stream, files = "translator", "translator", _FILES

    def __init__(
        self,
        shallow: ShallowModel,
        people: People,
        teachers: Mapping[str, Teacher],
        config: TranslatorConfig,
        uploads: Uploads | None,
        folder: Path | None,
        resume: bool,
    ) -> None:
        self.shallow, self.teachers, self.config = shallow, teachers, config
        split = split_people(people, config)
        images = read_eight_bit(people, split.training)
        self.device = next(shallow.parameters()).device
        feature, said = self._answers(images[:1])
        shape = tuple(feature.shape[1:])
        self.sizes = {name: one.shape[1] for name, one in said.items()}
        record = {
            "format": _FORMAT,
            "network": shallow.name,
            "cut": shallow.cut,
            "checksum": checksum(shallow),
            "config": config.model_dump(mode="json"),
            "people": {"name": people.name, "fingerprint": people.fingerprint},
            "teachers": [[name, size] for name, size in self.sizes.items()],
            "feature": list(shape),
        }
        if uploads is not None:
            uploads = _checked(uploads, people, split.training)
            # Not in the record of a training without, which stays what it was.
            record["uploads"] = uploads.digest
        super().__init__(config, record, self.device, folder, resume)
        self.build(lambda: Head(shape, width=config.width, embedding=sum(self.sizes.values())))
        self.count = len(images)
        if self.step < config.steps:
            with reproducible():
                self.held = self._answers(read_eight_bit(people, split.validation))
                self.known = [self._answers(images)]
                if config.flip:
                    self.known.append(self._answers(images.flip(3)))
                self.protected = None if uploads is None else self._of_uploads(uploads, split.training)
            self.spread = float(self.known[0][0][:512].float().std())

    def _answers(self, eight_bit: Tensor) -> Answers:
        return answers(self.shallow, self.teachers, eight_bit)

    @torch.no_grad()
    def _of_uploads(self, uploads: Uploads, training: NDArray[np.int64]) -> Answers:
        """Features of uploads, and what each teacher says of their photographs."""
        places = torch.searchsorted(torch.from_numpy(training), uploads.rows)
        parts = [self.shallow.feature(self.floats(uploads.images[chunk])) for chunk in batches(len(places), 64)]
        return torch.cat(parts).half().cpu(), {name: said[places] for name, said in self.known[0][1].items()}

    def begin(self) -> None:
        """From random weights."""

    def loss(self) -> Tensor:
        """One minus the cosine of translation and embedding, mean over images and teachers."""
        rows = self.rows(self.count)
        draw = self.generator("draw", self.step)
        mirrored = torch.rand(len(rows), generator=draw) < (0.5 if self.config.flip else 0.0)
        sides = [(self.known[int(side)], int(row)) for row, side in zip(rows, mirrored, strict=True)]
        amount = self.config.noise * self.spread * torch.rand((len(rows), 1, 1, 1), generator=draw)
        if self.protected is not None:
            generator = self.generator("uploads", self.step)
            chosen = torch.rand(len(rows), generator=generator) < _OF_UPLOADS
            others = torch.randint(len(self.protected[0]), (len(rows),), generator=generator)
            sides = [
                (self.protected, int(other)) if upload else side
                for side, other, upload in zip(sides, others, chosen, strict=True)
            ]
            amount[chosen] = 0
        features = torch.stack([known[0][row] for known, row in sides]).float().to(self.device)
        features = features + (amount * torch.randn(features.shape, generator=draw)).to(self.device)
        with self.arithmetic():
            # Not channels_last: torch 2.12 crashes in the backward pass of a group norm on such an input.
            said = self.model(features.contiguous()).float()
        wanted = {
            name: torch.stack([known[1][name][row] for known, row in sides]).to(self.device) for name in self.sizes
        }
        return (1 - self._agreement(said, wanted)).mean()

    def _agreement(self, said: Tensor, wanted: Mapping[str, Tensor]) -> Tensor:
        """Mean over the teachers of the cosine of translation and embedding, (N,)."""
        parts = torch.split(said, list(self.sizes.values()), dim=1)
        cosines = [F.cosine_similarity(part, wanted[name], dim=1) for part, name in zip(parts, self.sizes, strict=True)]
        return torch.stack(cosines).mean(0)

    @torch.no_grad()
    def quality(self) -> dict[str, float | None]:
        """The same cosine on the people held out."""
        features, wanted = self.held
        if not len(features):
            return {"val_cosine": None}
        parts = [self.averaged(features[chunk].float().to(self.device)).cpu() for chunk in batches(len(features), 64)]
        said = torch.cat(parts)
        return {"val_cosine": round(float(self._agreement(said, wanted).mean()), 6)}


def _checked(uploads: Uploads, people: People, allowed: NDArray[np.int64]) -> Uploads:
    """The uploads of photographs that may be used."""
    images, rows = uploads
    if images.dtype != torch.uint8 or tuple(images.shape[1:]) != (3, SIZE, SIZE) or len(images) != len(rows):
        raise ConfigError(
            f"uploads {images.dtype} {tuple(images.shape)} of {len(rows)} photographs; give 8-bit images "
            f"(P, 3, {SIZE}, {SIZE}) and a row for each"
        )
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(people):
        raise ConfigError(f"uploads are of rows {int(rows.min())} to {int(rows.max())}, outside 0..{len(people) - 1}")
    kept = torch.isin(rows, torch.from_numpy(allowed))
    if not kept.any():
        raise ConfigError("no upload is of a person it is for: those to learn from, or those held out of it")
    return Uploads(images[kept].contiguous(), rows[kept])


def translations(translator: Translator, images: Tensor, *, batch: int = 64) -> dict[str, Floats]:
    """What a translator makes of images (N, 3, 112, 112): for each teacher (N, D)."""
    return _said(translator, translator, images, batch)


def feature_translations(translator: Translator, features: Tensor, *, batch: int = 64) -> dict[str, Floats]:
    """What a translator makes of shallow features (N, C, h, w), such as means of those of several uploads."""
    return _said(translator, translator.of_features, features, batch)


def _said(
    translator: Translator, tell: Callable[[Tensor], dict[str, Tensor]], given: Tensor, batch: int
) -> dict[str, Floats]:
    place = next(translator.parameters()).device
    with torch.inference_mode():
        parts = [tell(given[chunk].to(place)) for chunk in batches(len(given), batch)]
    return {
        name: np.concatenate([part[name].cpu().numpy() for part in parts]).astype(np.float64)
        for name in translator.sizes
    }


def translation_thresholds(
    translator: Translator,
    people: People,
    teachers: Mapping[str, Teacher],
    config: TranslatorConfig,
    *,
    far: float = 1e-2,
    most: int = 1000,
    uploads: Uploads | None = None,
) -> dict[str, float]:
    """Each teacher's threshold at a false acceptance rate, on the people who were held out of the training.

    The translation of one photograph, or of an upload of it, is compared with the teacher's own embedding of another
    person's photograph.

    Args:
        translator: of :func:`train_translator`.
        people: those that it was given.
        teachers: likewise.
        config: likewise.
        far: the rate.
        most: photographs that are compared, at most.
        uploads: of photographs of people held out, to translate in their place; others are left out.

    Raises:
        ConfigError: the people held out give fewer than 1 / far comparisons, or no upload is of them.
    """
    rows = split_people(people, config).validation[:most]
    names = [people.identities[int(row)] for row in rows]
    if not enough_held_out(people, config, far=far):
        raise ConfigError(
            f"{people.name}: the people held out give {comparisons(names)} comparisons of two people, too few for a "
            f"threshold at a rate of {far:g}; name a larger set"
        )
    images = people.tensor(rows)
    probes, asked = images, names
    if uploads is not None:
        own = _checked(uploads, people, split_people(people, config).validation)
        probes, asked = own.images.float() / 255, [people.identities[int(row)] for row in own.rows]
    said = translations(translator, probes)
    place = next(translator.parameters()).device
    found = {}
    for name in translator.sizes:
        with torch.inference_mode():
            parts = [teachers[name](images[chunk].to(place)) for chunk in batches(len(images), 64)]
        known = torch.cat([torch.as_tensor(part).cpu() for part in parts]).numpy()
        found[name] = float(np.quantile(link_scores(said[name], known, asked, names).non_mated, 1 - far))
    return found


def enough_held_out(people: People, config: TranslatorConfig, *, far: float = 1e-2) -> bool:
    """Whether the people held out of a training give 1 / far comparisons, as a threshold at that rate needs."""
    if len(people.names) <= config.validation_people:
        return False
    rows = split_people(people, config).validation
    return comparisons([people.identities[int(row)] for row in rows]) >= 1 / far


def translator_folder(
    shallow: ShallowModel, people: People, config: TranslatorConfig, weights: Mapping[str, str]
) -> Path:
    """Where a translator is kept in the cache; ``weights`` are the checksums of the networks and of the service's."""
    asked = [shallow.name, shallow.cut, config.model_dump(mode="json"), people.fingerprint, dict(weights)]
    key = hashlib.sha256(json.dumps([*asked, torch.__version__], sort_keys=True).encode()).hexdigest()[:24]
    return cache.folder("translator") / key


def comparisons(identities: Sequence[str]) -> int:
    """How many ordered pairs of images show two people."""
    _, counts = np.unique(list(identities), return_counts=True)
    return int(len(identities) ** 2 - (counts**2).sum())
