"""Appendix: small networks trained here, to show that the training works (Section 6.1 trains the paper's on CASIA)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch

from pmtlib import cache, metrics, results
from pmtlib.attacks.reconstruction import sample_people
from pmtlib.datasets import People
from pmtlib.errors import AssetError, DatasetError
from pmtlib.experiments.common import TITLES, Outcome, SectionSettings, Source, obtain, section_settings
from pmtlib.progress import progress_bar
from pmtlib.reproduction import Recompute
from pmtlib.training.corpora import load_corpus
from pmtlib.training.recogniser import STATE_FORMAT, RecogniserConfig, train_recogniser, updates

VERSION = 1
SAMPLES = "samples"


class TrainingSettings(SectionSettings):
    """Parameters of the appendix on training.

    Attributes:
        corpus: labelled faces, as ``pmt train`` takes them, or ``samples``.
        recipes: what is trained, by a short name.
    """

    section: ClassVar[str] = "training"

    datasets: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    corpus: str = "cfp_ff"
    recipes: dict[str, RecogniserConfig]


def training_settings(profile: str, **overrides: Any) -> TrainingSettings:
    """Settings of a profile, see :func:`pmtlib.experiments.common.section_settings`."""
    return section_settings(TrainingSettings, profile, **overrides)


def run(
    settings: TrainingSettings, device: torch.device, *, recompute: Recompute, profile: str
) -> list[tuple[str, Outcome]]:
    """Each recipe by its name, with its curve: stored, or trained now, which takes long and can be interrupted."""
    people = _people(settings.corpus)
    if isinstance(people, DatasetError):
        data: Source | DatasetError = people
    else:
        data = Source(people.name, TITLES.get(people.name, people.name), people.fingerprint, len(people))
    command = f"papermill notebooks/training.ipynb OUT.ipynb -p profile {profile}"
    found = []
    for name, config in settings.recipes.items():
        parameters = {"config": config.model_dump(mode="json"), "corpus": settings.corpus}
        request = results.Request("training", f"{settings.corpus}--{name}", VERSION, parameters)

        def compute(config: RecogniserConfig = config) -> dict[str, Any]:
            assert isinstance(people, People)
            return _trained(people, config, device, fresh=bool(recompute))

        outcome = obtain(
            request, data, compute, store=settings.store, recompute=recompute, device=device, command=command
        )
        found.append((name, outcome))
    return found


def _people(corpus: str) -> People | DatasetError:
    try:
        return sample_people(()) if corpus == SAMPLES else load_corpus(corpus)
    except DatasetError as error:
        return error
    except AssetError as error:
        return DatasetError(str(error))


def _trained(people: People, config: RecogniserConfig, device: torch.device, *, fresh: bool) -> dict[str, Any]:
    folder = recogniser_folder(people, config)
    with progress_bar(f"training {config.architecture}", updates(people, config), show=True) as advance:
        done = train_recogniser(people, config, folder, device=device, resume=not fresh, progress=advance)
    # How long it took is in the manifest, and no part of what comes out.
    curve = [{key: value for key, value in point.items() if key != "seconds"} for point in done.record["curve"]]
    return {
        "curve": curve,
        "images": done.record["corpus"]["images"],
        "people": done.record["corpus"]["people"],
        "held_out": config.held_out,
        "parameters": sum(parameter.numel() for parameter in done.network.parameters()),
    }


def recogniser_folder(people: People, config: RecogniserConfig) -> Path:
    """Where a training of this section is kept, by corpus and configuration: in the cache."""
    asked = [STATE_FORMAT, VERSION, people.fingerprint, config.model_dump(mode="json")]
    key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    return cache.folder("recogniser") / key[:16]


def curves(found: Sequence[tuple[str, Outcome]]) -> pd.DataFrame:
    """Points of the curves in long form.

    Columns: recipe, architecture, head, step, seen (images), loss, accuracy, low, high, auc, tar (at FAR 1e-2), n.
    """
    lines = []
    for name, outcome in found:
        if outcome.result is None:
            continue
        config = outcome.result.request.parameters["config"]
        for point in outcome.result.values["curve"]:
            measured: Mapping[str, Any] = point.get("held_out", {})
            low, high = measured.get("interval", (None, None))
            lines.append(
                {
                    "recipe": name,
                    "architecture": config["architecture"],
                    "head": config["head"],
                    "step": point["step"],
                    "seen": point["step"] * config["batch_size"],
                    "loss": point["loss"],
                    "accuracy": measured.get("accuracy"),
                    "low": low,
                    "high": high,
                    "auc": measured.get("auc"),
                    "tar": measured.get("tar_far_1e2"),
                    "n": measured.get("n"),
                }
            )
    return pd.DataFrame(lines)


def summary(frame: pd.DataFrame) -> dict[str, float]:
    """Accuracy at the start and at the end of each recipe, in percent, for the page's prose."""
    found = {}
    if len(frame):
        for recipe, part in frame.dropna(subset=["accuracy"]).groupby("recipe", sort=False):
            found[f"{recipe}_start"] = 100 * float(part["accuracy"].iloc[0])
            found[f"{recipe}_end"] = 100 * float(part["accuracy"].iloc[-1])
    return found


def reading(frame: pd.DataFrame, found: Sequence[tuple[str, Outcome]]) -> str:
    """What came out, in words (Markdown)."""
    part = frame.dropna(subset=["accuracy"]) if len(frame) else frame
    if not len(part):
        return "Nothing was measured."
    lines = []
    for name, outcome in found:
        mine = part[part["recipe"] == name]
        if outcome.result is None or not len(mine):
            continue
        values, first, last = outcome.result.values, mine.iloc[0], mine.iloc[-1]
        learnt = last["low"] > first["high"] and last["low"] > 0.5
        # Half of the pairs held out are of one person.
        alike = int(last["n"]) // 2
        accepted = metrics.wilson(round(last["tar"] * alike), alike)
        lines.append(
            f"**{last['architecture']}** with {last['head']}, {values['parameters'] / 1e6:.1f} M parameters, "
            f"{values['images']} images of {values['people']} people, {last['step']} updates: on "
            f"{int(last['n'])} pairs of {values['held_out']} other people {100 * last['accuracy']:.1f}% "
            f"[{100 * last['low']:.1f}, {100 * last['high']:.1f}] (10-fold accuracy, 95% Wilson intervals), TAR "
            f"{100 * last['tar']:.1f}% [{100 * accepted.low:.1f}, {100 * accepted.high:.1f}] at FAR 1e-2. "
            f"Untrained it has {100 * first['accuracy']:.1f}% [{100 * first['low']:.1f}, {100 * first['high']:.1f}]: "
            "crops of one photograph session look alike to any network. "
            + (
                "It has learnt to tell people apart whom it has never seen."
                if learnt
                else "That is not beyond what it could untrained."
            )
        )
    return "\n\n".join(lines)
