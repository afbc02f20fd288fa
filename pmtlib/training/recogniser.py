"""Train a recognition network on labelled faces: any architecture of :mod:`pmtlib.architectures`, any of four losses.

The paper's own networks are "trained on CASIA-WebFace for 100 epochs with different loss functions" (Section 6.1).
Order, mirroring and dropout of a step come from the seed and the step's number, so a training that goes on from its
last checkpoint gives the same weights as one in a single run, on the same device with the same number of threads. Under
``torchrun`` every process takes its share of each batch; batch normalisation uses the statistics of that share.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, Sampler

from pmtlib import protocols
from pmtlib.architectures import ARCHITECTURES, OWN, Architecture, Options, find
from pmtlib.checkpoints import read_state, refuse_another, write_state
from pmtlib.datasets import PairSet, People
from pmtlib.errors import ConfigError, DatasetError, NetworkError, ResultError, interrupt
from pmtlib.images import write_atomic
from pmtlib.networks.base import FaceNetwork
from pmtlib.randomness import derived_generator, derived_seed, reproducible
from pmtlib.training.heads import Head, build_head

STATE, MODEL, RECORD = "training.pt", "model.pt", "training.json"
"""Files of a training: its last state; the checkpoint for `pmt networks add`; configuration and curve."""
STATE_FORMAT = 2
"""Of :data:`STATE`; raised when what is stored changes."""
_HELD_PAIRS = 10
"""Same pairs of a held-out person that validation draws at most."""


class RecogniserConfig(BaseModel):
    """Every choice of a training. The defaults are usual ones for CASIA-WebFace; the paper gives none but the epochs.

    Attributes:
        architecture: a name of :data:`pmtlib.architectures.ARCHITECTURES` that is no other package's.
        embedding: length of the embedding.
        head: the loss.
        margin: of the loss; None for its usual one.
        scale: of the loss; None for its usual one.
        epochs: passes over the corpus; an incomplete last batch is left out.
        batch_size: images an update, over all processes together.
        learning_rate: of stochastic gradient descent, at its highest.
        momentum: of it.
        weight_decay: of it.
        warmup: share of the updates over which the rate rises.
        milestones: shares of the updates after which the rate is divided by ten.
        flip: mirror each image with probability 1/2.
        precision: of network and gradients; ``float16`` needs CUDA, ``bfloat16`` a processor that has it.
        held_out: people of the corpus who are not trained on, for the curve.
        validate_every: updates between two points of the curve.
        seed: of weights, order and mirroring, and of who is held out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: str = "mobileface"
    embedding: int = Field(512, ge=2, le=4096)
    head: Head = "arcface"
    margin: float | None = Field(None, ge=0, allow_inf_nan=False)
    scale: float | None = Field(None, gt=0, allow_inf_nan=False)
    epochs: int = Field(40, ge=1, le=10_000)
    batch_size: int = Field(256, ge=2, le=65_536)
    learning_rate: float = Field(0.1, gt=0, allow_inf_nan=False)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0, allow_inf_nan=False)
    warmup: float = Field(0.02, ge=0, le=1)
    milestones: tuple[float, ...] = (0.5, 0.75, 0.9)
    flip: bool = True
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    held_out: int = Field(100, ge=0)
    validate_every: int = Field(1000, ge=1)
    seed: int = Field(0, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _consistent(self) -> RecogniserConfig:
        if any(not 0 < share < 1 for share in self.milestones) or list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError("milestones are shares between 0 and 1, in rising order")
        if self.head == "softmax" and (self.margin is not None or self.scale is not None):
            raise ValueError("softmax has neither margin nor scale")
        if self.head == "sphereface" and self.margin is not None and self.margin != int(self.margin):
            raise ValueError("the margin of sphereface is a whole number")
        return self


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Attributes:
        network: frozen, in evaluation mode, on the device of the training.
        record: what was stored of it: configuration, corpus, curve.
        publisher: what `pmt networks add` calls checkpoints of this architecture.
    """

    network: FaceNetwork
    record: dict[str, Any]
    publisher: str


def architecture_of(config: RecogniserConfig) -> tuple[Architecture, Options, str]:
    """The architecture, its options (RGB, and the scale of its publisher), and the publisher.

    Raises:
        ConfigError: it is another package's, which brings modules that cannot be trained here.
    """
    trainable = [name for name, one in ARCHITECTURES.items() if one.wrap is None]
    if config.architecture not in ARCHITECTURES and not config.architecture.startswith("timm:"):
        close = difflib.get_close_matches(config.architecture, trainable, n=1)
        guess = f" did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"no architecture {config.architecture!r};{guess} known are {', '.join(trainable)}")
    try:
        architecture = find(config.architecture)
    except NetworkError as error:
        raise ConfigError(str(error)) from error
    if architecture.wrap is not None:
        raise ConfigError(f"{architecture.title} is another package's; train it there, and add its checkpoint")
    publisher, convention = next(iter(architecture.publishers.items()))
    return architecture, Options(config.embedding, False, convention.mean, convention.scale), publisher


def train_recogniser(
    people: People,
    config: RecogniserConfig,
    folder: Path,
    *,
    device: torch.device,
    pairs: PairSet | None = None,
    resume: bool = True,
    workers: int = 0,
    progress: Callable[[int], Any] | None = None,
    checkpoint_seconds: float = 300.0,
) -> Trained:
    """Train a network, or go on with a training that was interrupted.

    Args:
        people: the corpus.
        config: every choice.
        folder: for :data:`STATE`, :data:`MODEL` and :data:`RECORD`, written whole or not at all.
        device: where to train; each process of ``torchrun`` has its own.
        pairs: a verification set for the curve, beside the people held out; nobody in it should be in the corpus.
        resume: go on from the folder's last state.
        workers: processes that read images.
        progress: called with the number of updates done since the last call.
        checkpoint_seconds: between two states that are stored; one is stored on an interruption as well.

    Raises:
        ConfigError: the folder holds another training, or the configuration does not fit corpus or device.
        DatasetError: the corpus is too small, or an image of it cannot be read.
        NetworkError: the loss is no longer finite.
        ResultError: the folder's state is damaged.
    """
    cards = [device] if device.type == "cuda" else []
    with _group(device) as (rank, world), reproducible(), torch.random.fork_rng(devices=cards):
        run = _Run(people, config, folder, device, pairs, rank, world)
        run.restore(resume)
        return run.go(workers, progress, checkpoint_seconds)


@contextmanager
def _group(device: torch.device) -> Iterator[tuple[int, int]]:
    """Rank and size of the group of processes that ``torchrun`` has started; (0, 1) without it."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield 0, 1
        return
    already = distributed.is_initialized()
    if not already:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield distributed.get_rank(), world
    finally:
        if not already:
            distributed.destroy_process_group()


@contextmanager
def _between_updates() -> Iterator[Callable[[], bool]]:
    """Says whether the user has interrupted; a second interruption is not waited with. In the main thread only."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    usual = signal.getsignal(signal.SIGINT)

    def ask(number: int, _frame: Any) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, usual)

    if usual not in (signal.default_int_handler, interrupt):
        # Somebody else's handler, or none: it keeps its say.
        yield lambda: False
        return
    signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, usual)


class _Joint(nn.Module):
    """Network and loss as one module, so that the gradients of both are shared."""

    def __init__(self, network: FaceNetwork, head: nn.Module, precision: str) -> None:
        super().__init__()
        self.network, self.head, self.precision = network, head, precision

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        half = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(self.precision)
        with torch.autocast(images.device.type, half, enabled=half is not None):
            embeddings = self.network(images)
        # The angle of a margin needs full precision.
        loss: Tensor = self.head(embeddings.float(), labels)
        return loss


class _Crops(Dataset[tuple[Tensor, int]]):
    def __init__(self, people: People, rows: NDArray[np.int64], labels: NDArray[np.int64]) -> None:
        self.people, self.rows, self.labels = people, rows, labels

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.people.images[int(self.rows[index])]
        return torch.from_numpy(np.array(image)).permute(2, 0, 1), int(self.labels[index])


class _Rest(Sampler[list[int]]):
    """This process's share of every batch from one step on."""

    def __init__(self, run: _Run, start: int) -> None:
        self.run, self.start = run, start

    def __iter__(self) -> Iterator[list[int]]:
        return (self.run.rows(step) for step in range(self.start, self.run.steps))

    def __len__(self) -> int:
        return self.run.steps - self.start


class _Run:
    def __init__(
        self,
        people: People,
        config: RecogniserConfig,
        folder: Path,
        device: torch.device,
        pairs: PairSet | None,
        rank: int,
        world: int,
    ) -> None:
        if config.batch_size % world:
            raise ConfigError(
                f"a batch of {config.batch_size} cannot be shared by {world} processes; choose a multiple"
            )
        if config.precision == "float16" and device.type != "cuda":
            raise ConfigError("float16 needs CUDA; train in float32 or bfloat16")
        self.config, self.folder, self.device, self.rank, self.world = config, folder, device, rank, world
        self.pairs = pairs
        trained, self.held = _split(people, config)
        names = sorted(set(trained.identities))
        number = {name: place for place, name in enumerate(names)}
        labels = np.array([number[name] for name in trained.identities], dtype=np.int64)
        self.crops = _Crops(trained, np.arange(len(trained), dtype=np.int64), labels)
        self.per_epoch = len(trained) // config.batch_size
        if not self.per_epoch:
            raise DatasetError(
                f"{people.name}: {len(trained)} images to train on are less than a batch of {config.batch_size}. "
                "Remedy: a smaller batch, or fewer people held out"
            )
        self.steps = config.epochs * self.per_epoch
        architecture, options, self.publisher = architecture_of(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            network = architecture.network(options)
            head = build_head(config.head, len(names), config.embedding, margin=config.margin, scale=config.scale)
        # The memory layout in which convolutions are fastest.
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.joint = _Joint(network, head, config.precision).to(device)
        self.network = network
        self.optimiser = torch.optim.SGD(
            self.joint.parameters(),
            lr=config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )
        self.scaler = torch.amp.grad_scaler.GradScaler(device.type, enabled=config.precision == "float16")
        self.step, self.seconds, self.losses = 0, 0.0, [0.0, 0.0]
        self.curve: list[dict[str, Any]] = []
        self._ordered = (-1, torch.empty(0))
        self.corpus = people.name
        self.record = {
            "config": config.model_dump(mode="json"),
            "corpus": {
                "name": people.name,
                "images": len(trained),
                "people": len(names),
                "held_out": config.held_out,
                "sample": _sampled(people),
            },
            "validation": None
            if pairs is None
            else {"name": pairs.name, "pairs": len(pairs), "sha256": pairs.fingerprint},
        }

    def rows(self, step: int) -> list[int]:
        """The rows of this process in a step's batch."""
        epoch = step // self.per_epoch
        if epoch != self._ordered[0]:
            self._ordered = epoch, torch.randperm(len(self.crops), generator=self._generator("order", epoch))
        first = step % self.per_epoch * self.config.batch_size
        return self._ordered[1][first : first + self.config.batch_size][self.rank :: self.world].tolist()

    def _generator(self, purpose: str, number: int) -> torch.Generator:
        return derived_generator(f"recogniser:{self.config.seed}:{purpose}:{number}")

    # State ---------------------------------------------------------------------------------------------------------

    def restore(self, resume: bool) -> None:
        path = self.folder / STATE
        if not resume or not path.is_file():
            return
        state = read_state(path)
        refuse_another(self.folder, "training", state.get("record", {}), self.record)
        try:
            self.joint.load_state_dict(state["joint"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.scaler.load_state_dict(state["scaler"])
            self.step, self.seconds = int(state["step"]), float(state["seconds"])
            self.curve, self.losses = [dict(point) for point in state["curve"]], list(state["losses"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ResultError(f"{path} does not fit this version; start afresh with --fresh") from error

    def store(self) -> None:
        if self.rank:
            return
        state = {
            "record": self.record,
            "joint": self.joint.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "curve": self.curve,
            "losses": self.losses,
        }
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.network.state_dict().items()}
        # What a state dict does not tell, for `pmt networks add`.
        about = {"channels": "rgb", "training_set": self.corpus, "loss": self.config.head}
        write_state(self.folder / MODEL, {"state_dict": weights, OWN: about})
        write_state(self.folder / STATE, state)
        # The record last: where it says that training is finished, the weights are there.
        write_atomic(self.folder / RECORD, (json.dumps(self._stored(), indent=1) + "\n").encode())

    def _stored(self) -> dict[str, Any]:
        finished = self.step == self.steps
        return {
            **self.record,
            "steps": self.steps,
            "steps_done": self.step,
            "finished": finished,
            "seconds": round(self.seconds, 3),
            "curve": self.curve,
        }

    # The run -------------------------------------------------------------------------------------------------------

    def go(self, workers: int, progress: Callable[[int], Any] | None, checkpoint_seconds: float) -> Trained:
        if progress is not None and self.step:
            progress(self.step)
        if self.rank == 0 and self.step == 0:
            # Before anything is computed: a folder that cannot be written to should not show after hours.
            write_atomic(self.folder / RECORD, (json.dumps(self._stored(), indent=1) + "\n").encode())
        if self.step == 0:
            self._measure()
        module: nn.Module = self.joint
        if self.world > 1:
            places = [self.device.index or 0] if self.device.type == "cuda" else None
            module = DistributedDataParallel(self.joint, device_ids=places)
        loader = DataLoader(
            self.crops,
            batch_sampler=_Rest(self, self.step),
            num_workers=workers,
            pin_memory=self.device.type == "cuda",
        )
        begun = stored = time.monotonic()
        before, kept, whole = self.seconds, self.step, True
        with _between_updates() as stop:
            try:
                for images, labels in loader:
                    whole = False
                    self._update(module, images, labels)
                    self.step += 1
                    now = time.monotonic()
                    self.seconds = before + now - begun
                    if self.step % self.config.validate_every == 0 or self.step == self.steps:
                        self._measure()
                    whole = True
                    if progress is not None:
                        progress(1)
                    if now - stored >= checkpoint_seconds or self.step == self.steps:
                        self.store()
                        stored, kept = now, self.step
                    if stop():
                        raise KeyboardInterrupt
            except KeyboardInterrupt:
                # Half an update is no state to go on from: weights would have moved and the step's number not.
                if whole and self.step > kept:
                    self.store()
                raise
        return Trained(self.network.eval().requires_grad_(False), self._stored(), self.publisher)

    def _update(self, module: nn.Module, images: Tensor, labels: Tensor) -> None:
        config = self.config
        for group in self.optimiser.param_groups:
            group["lr"] = config.learning_rate * rate(config, self.step, self.steps)
        floats = images.to(self.device, torch.float32, non_blocking=True).div(255.0)
        if config.flip:
            chosen = torch.rand(config.batch_size, generator=self._generator("flips", self.step)) < 0.5
            mine = chosen[self.rank :: self.world].to(self.device)
            floats = torch.where(mine[:, None, None, None], floats.flip(3), floats)
        floats = floats.contiguous(memory_format=torch.channels_last)
        # Dropout draws from the global generator: a step's draws must not depend on where the training began.
        torch.manual_seed(derived_seed(f"recogniser:{config.seed}:dropout:{self.step}:{self.rank}"))
        module.train()
        self.optimiser.zero_grad(set_to_none=True)
        loss = module(floats, labels.to(self.device))
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NetworkError(
                f"the loss is {value} at update {self.step + 1}; lower the learning rate, or raise the warm-up, and "
                "start afresh with --fresh"
            )
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.losses[0] += value
        self.losses[1] += 1

    def _measure(self) -> None:
        """A point of the curve, on the first process; the others wait for its next gradient."""
        total, count = self.losses
        self.losses = [0.0, 0]
        point: dict[str, Any] = {
            "step": self.step,
            "epoch": round(self.step / self.per_epoch, 3),
            "loss": round(total / count, 5) if count else None,
            "rate": self.config.learning_rate * rate(self.config, max(self.step - 1, 0), self.steps),
            "seconds": round(self.seconds, 3),
        }
        if self.rank == 0:
            for label, pairs in (("held_out", self.held), ("validation", self.pairs)):
                if pairs is not None:
                    found = protocols.evaluate(self.network, pairs)
                    point[label] = {
                        "n": found.n,
                        "accuracy": round(found.accuracy_mean, 5),
                        "interval": [round(bound, 5) for bound in found.accuracy_interval],
                        "auc": round(found.auc, 5),
                        "tar_far_1e2": round(found.tar_far_1e2, 5),
                    }
        self.curve.append(point)


def updates(people: People, config: RecogniserConfig) -> int:
    """How many updates a training on a corpus has.

    Raises:
        DatasetError: the corpus is too small.
    """
    held = _held(people, config)
    return config.epochs * (sum(name not in held for name in people.identities) // config.batch_size)


def rate(config: RecogniserConfig, step: int, steps: int) -> float:
    """The learning rate of an update as a share of the highest: a linear rise, then steps of ten downwards."""
    rise = max(1, round(config.warmup * steps))
    passed = sum(step >= share * steps for share in config.milestones)
    return float(min(1.0, (step + 1) / rise) * 0.1**passed)


def _held(people: People, config: RecogniserConfig) -> set[str]:
    """Who is held out."""
    names = people.names
    if len(names) - config.held_out < 2:
        raise DatasetError(
            f"{people.name}: {len(names)} people, of whom {config.held_out} are held out. Remedy: hold out fewer, or "
            "take a larger corpus"
        )
    order = torch.randperm(len(names), generator=derived_generator(f"recogniser:{config.seed}:held out")).tolist()
    return {names[place] for place in order[: config.held_out]}


def _split(people: People, config: RecogniserConfig) -> tuple[People, PairSet | None]:
    """Who is trained on, and pairs of those who are held out: each person's pairs, and as many of two people."""
    held = _held(people, config)
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(people.identities):
        if name in held:
            rows.setdefault(name, []).append(row)
    trained = people.subset([row for row, name in enumerate(people.identities) if name not in held])
    random = np.random.default_rng(derived_seed(f"recogniser:{config.seed}:pairs"))
    alike = []
    for name in sorted(rows):
        every = [(a, b) for place, a in enumerate(rows[name]) for b in rows[name][place + 1 :]]
        chosen = random.permutation(len(every))[:_HELD_PAIRS]
        alike += [every[int(place)] for place in chosen]
    if len(alike) < 2 or len(rows) < 2:
        return trained, None
    owners = sorted(rows)
    unlike = []
    for _ in alike:
        one, other = (owners[int(place)] for place in random.choice(len(owners), 2, replace=False))
        unlike.append((int(random.choice(rows[one])), int(random.choice(rows[other]))))
    same = np.arange(2 * len(alike)) < len(alike)
    folds = np.concatenate([np.arange(len(alike)) % 10] * 2)
    pairs = PairSet(f"{people.name}-held-out", people.images, np.array(alike + unlike), same, folds, None, "Held out")
    return trained, pairs.subset(np.arange(len(same)))


def _sampled(people: People, count: int = 64) -> str:
    """SHA-256 over who every image shows and the bytes of some images: enough to tell one corpus from another."""
    digest = hashlib.sha256("\0".join(people.identities).encode())
    for row in np.linspace(0, len(people) - 1, min(count, len(people)), dtype=np.int64):
        digest.update(people.images.content(int(row)))
    return digest.hexdigest()
