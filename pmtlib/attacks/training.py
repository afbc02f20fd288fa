"""Training of an attacker's network that can be interrupted: what all of them share.

Order and augmentation of a step come from the seed and the step's number, so a training that goes on from its last
checkpoint gives the same weights as one in a single run, on the same device with the same number of threads.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import safetensors.torch
import torch
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from pmtlib.checkpoints import afresh, read_state, refuse_another, write_state
from pmtlib.datasets import People
from pmtlib.errors import ResultError
from pmtlib.faces import SIZE
from pmtlib.images import batches, write_atomic
from pmtlib.randomness import derived_generator, reproducible
from pmtlib.shallow import ShallowModel

TRAINING = "training.pt"
"""File of a training's last state."""

_BETAS = (0.9, 0.99)

_Model = TypeVar("_Model", bound=nn.Module)
Progress = Callable[[int], Any]
Teacher = Callable[[Tensor], Tensor | ArrayLike]
"""From images (N, 3, 112, 112) in [0, 1] to embeddings (N, D); any network of the zoo is one."""
Answers = tuple[Tensor, dict[str, Tensor]]
"""Features (N, C, h, w) of images in half precision, and each teacher's embeddings (N, D) of them, on the CPU."""


class TrainingConfig(BaseModel):
    """What every training has; a subclass adds what is its own and says which defaults it changes.

    Attributes:
        steps: updates.
        batch_size: samples an update.
        learning_rate: of AdamW, at its highest; it rises over the first 2% of the steps and falls as a cosine to 0.
        weight_decay: of AdamW.
        average: decay of the running average of the weights, which is what is kept.
        flip: mirror each sample with probability 1/2.
        validate_every: updates between two measurements on what is held out.
        precision: arithmetic of the updates. ``bfloat16`` halves the time on processors that have it; others crawl.
        seed: of weights, order and augmentation, and of who is held out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(3000, ge=1, le=10_000_000)
    batch_size: int = Field(16, ge=1, le=4096)
    learning_rate: float = Field(1e-3, gt=0, allow_inf_nan=False)
    weight_decay: float = Field(1e-4, ge=0, allow_inf_nan=False)
    average: float = Field(0.99, ge=0, lt=1)
    flip: bool = True
    validate_every: int = Field(200, ge=1)
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = Field(0, ge=0, lt=2**31)


@dataclass(frozen=True)
class Files:
    """Names of the files of a trained network: what it is and how training went, and its weights."""

    record: str
    weights: str

    def read(self, folder: Path) -> dict[str, Any]:
        """The record in a folder; empty where there is none."""
        try:
            record = json.loads((folder / self.record).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}


class Training(ABC, Generic[_Model]):
    """One training: its state and its files. A subclass says what is built, what the loss is, and what is measured.

    The rate rises over the first 2% of the steps and falls as a cosine to 0. What is kept is a running average of the
    weights; buffers are those of the start.

    Args:
        config: every choice.
        record: what tells this training from others, ready for JSON.
        device: where to train.
        folder: for weights, state and record; nothing is stored without one.
        resume: go on from the folder's last state.

    Raises:
        ConfigError: the folder holds the training of something else.
        ResultError: the folder's state is damaged.
    """

    title: str
    stream: str
    """Prefix of the seeds that are derived, so that two kinds of network draw differently."""
    files: Files
    model: _Model
    averaged: _Model

    def __init__(
        self, config: TrainingConfig, record: dict[str, Any], device: torch.device, folder: Path | None, resume: bool
    ) -> None:
        self.schedule, self.record, self.device, self.folder = config, record, device, folder
        self._state = self._stored(resume)
        self.finished = folder is not None and self._state is not None and self._stored_record()["finished"] is True
        self.step, self.seconds, self.losses = 0, 0.0, 0.0
        self.curve: list[dict[str, float | None]] = []

    @abstractmethod
    def begin(self) -> None:
        """Set the weights that training starts from, where they are not the random ones."""

    @abstractmethod
    def loss(self) -> Tensor:
        """The loss of this step's batch, a scalar."""

    @abstractmethod
    def quality(self) -> dict[str, float | None]:
        """Figures of the averaged weights for the curve."""

    def build(self, make: Callable[[], _Model]) -> None:
        """Make model, average and optimiser, in the state that was stored last."""
        self.model = _with_layout(seeded(self.schedule.seed, make).to(self.device), torch.channels_last)
        self.averaged = _with_layout(seeded(self.schedule.seed, make).to(self.device), torch.channels_last)
        self.averaged.requires_grad_(False)
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(),
            lr=self.schedule.learning_rate,
            betas=_BETAS,
            weight_decay=self.schedule.weight_decay,
        )
        if self._state is not None:
            self._restore(self._state)
            self._state = None

    def train(self, progress: Progress | None, checkpoint_seconds: float) -> _Model:
        """Train to the end with bits that can be had again: the averaged model, frozen, in evaluation mode."""
        with reproducible():
            self.go(progress, checkpoint_seconds)
        # In the layout in which weights are read from a file: libraries choose an algorithm by it, and what was just
        # trained shall give the bits that it gives when it is loaded.
        return _with_layout(self.averaged, torch.contiguous_format).eval().requires_grad_(False)

    def go(self, progress: Progress | None, checkpoint_seconds: float) -> None:
        """Train to the end, from wherever the state is."""
        if progress is not None and self.step:
            progress(self.step)
        if self.step == 0:
            self.begin()
            self.averaged.load_state_dict(self.model.state_dict())
            self._measure()
        begun = stored = time.monotonic()
        before = self.seconds
        while self.step < self.schedule.steps:
            self.losses += self._update()
            self.step += 1
            now = time.monotonic()
            self.seconds = before + now - begun
            if self.step % self.schedule.validate_every == 0 or self.step == self.schedule.steps:
                self._measure()
            if progress is not None:
                progress(1)
            if now - stored >= checkpoint_seconds and self.step < self.schedule.steps:
                self._store()
                stored = time.monotonic()
        if not self.finished:
            self._store()

    def order(self, count: int, epoch: int) -> Tensor:
        """The order of ``count`` samples in an epoch."""
        return torch.randperm(count, generator=self.generator("order", epoch))

    def rows(self, count: int) -> Tensor:
        """Which of ``count`` samples are in this step's batch; a function of the seed and the step's number alone."""
        size = self.schedule.batch_size
        places = range(self.step * size, (self.step + 1) * size)
        orders = {epoch: self.order(count, epoch) for epoch in {place // count for place in places}}
        return torch.stack([orders[place // count][place % count] for place in places])

    def mirrored(self, *sides: Tensor) -> tuple[Tensor, ...]:
        """Batches (B, C, H, W) of this step, each sample mirrored in all of them with probability 1/2, if asked for."""
        if not self.schedule.flip:
            return sides
        chosen = torch.rand(len(sides[0]), generator=self.generator("flips", self.step)) < 0.5
        return tuple(torch.where(chosen[:, None, None, None], side.flip(3), side) for side in sides)

    def generator(self, purpose: str, number: int) -> torch.Generator:
        """A generator on the CPU for one purpose at one step."""
        return derived_generator(f"{self.stream}:{self.schedule.seed}:{purpose}:{number}")

    def floats(self, eight_bit: Tensor) -> Tensor:
        """8-bit images on the device, in [0, 1]."""
        return eight_bit.to(self.device).to(torch.float32).div(255.0)

    def arithmetic(self) -> torch.autocast:
        """The precision of an update."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.schedule.precision == "bfloat16")

    def _update(self) -> float:
        schedule = self.schedule
        warm = max(1, round(0.02 * schedule.steps))
        rate = min(1.0, (self.step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * self.step / schedule.steps))
        for group in self.optimiser.param_groups:
            group["lr"] = schedule.learning_rate * rate
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.loss()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        # Early on the average would otherwise remember the start for too long.
        decay = min(schedule.average, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            for kept, new in zip(self.averaged.parameters(), self.model.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)
        return float(loss.detach())

    def _measure(self) -> None:
        """A point of the curve: the mean loss since the last one, and the figures of the averaged weights."""
        since = self.step - (int(self.curve[-1]["step"] or 0) if self.curve else 0)
        self.curve.append(
            {
                "step": self.step,
                "train_loss": self.losses / since if since else None,
                **self.quality(),
                "seconds": round(self.seconds, 3),
            }
        )
        self.losses = 0.0

    def _stored_record(self) -> dict[str, Any]:
        return {"finished": False, **(self.files.read(self.folder) if self.folder is not None else {})}

    def _stored(self, resume: bool) -> dict[str, Any] | None:
        """The folder's last state if it is of this training, None where there is none."""
        if self.folder is None or not resume or not (self.folder / TRAINING).is_file():
            return None
        stored = self.files.read(self.folder)
        if stored:
            refuse_another(self.folder, self.title, stored, self.record)
        return read_state(self.folder / TRAINING)

    def _restore(self, state: dict[str, Any]) -> None:
        try:
            self.model.load_state_dict(state["model"])
            self.averaged.load_state_dict(state["averaged"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self.seconds, self.losses = int(state["step"]), float(state["seconds"]), float(state["losses"])
            self.curve = [dict(point) for point in state["curve"]]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ResultError(f"{self.folder}/{TRAINING} does not fit this version; {afresh(self.folder)}") from error

    def _store(self) -> None:
        if self.folder is None:
            return
        state = {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "losses": self.losses,
            "curve": self.curve,
        }
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.averaged.state_dict().items()}
        finished = self.step == self.schedule.steps
        record = {**self.record, "finished": finished, "steps_done": self.step, "seconds": round(self.seconds, 3)}
        record["curve"] = self.curve
        # The record last: where it says that training is finished, the weights are there.
        write_state(self.folder / TRAINING, state)
        write_atomic(self.folder / self.files.weights, safetensors.torch.save(weights))
        write_atomic(self.folder / self.files.record, (json.dumps(record, indent=1) + "\n").encode())
        self.finished = finished


def seeded(seed: int, make: Callable[[], _Model]) -> _Model:
    """A model whose initial weights come from a seed; the caller's random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def checksum(model: nn.Module) -> str:
    """SHA-256, in hex, over the names and values of a model's parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def answers(shallow: ShallowModel, teachers: Mapping[str, Teacher], eight_bit: Tensor) -> Answers:
    """What a shared model sees in 8-bit images (N, 3, 112, 112), and what each teacher says of them.

    Computed once, for a training that meets each image many times: two bytes a number of a feature are held.
    """
    if not len(eight_bit):
        return torch.empty(0), {}
    device = next(shallow.parameters()).device
    features = []
    said: dict[str, list[Tensor]] = {name: [] for name in teachers}
    for chunk in batches(len(eight_bit), 64):
        images = eight_bit[chunk].to(device).to(torch.float32).div(255.0)
        features.append(shallow.feature(images).half().cpu())
        for name, teacher in teachers.items():
            said[name].append(torch.as_tensor(teacher(images)).to("cpu", torch.float32))
    return torch.cat(features), {name: torch.cat(parts) for name, parts in said.items()}


def read_eight_bit(people: People, rows: NDArray[np.int64]) -> Tensor:
    """Images as 8-bit (n, 3, 112, 112): a training set in memory at a quarter of the size."""
    parts = [people.images[int(row)] for row in rows]
    stack = np.stack(parts) if parts else np.empty((0, SIZE, SIZE, 3), np.uint8)
    return torch.from_numpy(stack).permute(0, 3, 1, 2).contiguous()


def _with_layout(model: _Model, layout: torch.memory_format) -> _Model:
    """The same model, its kernels laid out in memory so; channels_last is the layout in which it trains fastest."""
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)
    return model
