"""The appendix on training: what is stored, shown and said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pmtlib import metrics
from pmtlib.experiments import training
from pmtlib.experiments.common import Outcome
from pmtlib.figures import training as figures

CPU = torch.device("cpu")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> training.TrainingSettings:
    monkeypatch.setenv("PMT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PMT_RESULTS", str(tmp_path / "results"))
    images = torch.randint(0, 256, (24, 112, 112, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    corpus = tmp_path / "people"
    for row, image in enumerate(images):
        from PIL import Image

        folder = corpus / f"p{row // 4}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.numpy()).save(folder / f"{row}.png")
    recipe = {"embedding": 16, "epochs": 1, "batch_size": 8, "held_out": 2, "validate_every": 1, "learning_rate": 0.01}
    return training.training_settings("smoke", recipes={"small": recipe}, corpus=str(corpus)).model_copy(
        update={"store": True}
    )


def test_a_training_is_stored_and_shown_again(
    settings: training.TrainingSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A path is no name of a result; a set's name is.
    monkeypatch.setattr(training, "_people", lambda corpus, path=settings.corpus: training.load_corpus(path))
    settings = settings.model_copy(update={"corpus": "people"})
    ((name, first),) = training.run(settings, CPU, recompute=False, profile="smoke")
    assert (name, first.note) == ("small", "")
    assert first.result is not None
    assert (tmp_path / "results" / "training" / "people--small.json").is_file()
    assert (first.result.values["images"], first.result.values["people"]) == (16, 4)
    assert not any("seconds" in point for point in first.result.values["curve"])

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("trained again")

    with monkeypatch.context() as patch:
        patch.setattr(training, "train_recogniser", never)
        ((_, again),) = training.run(settings, CPU, recompute=False, profile="smoke")
    assert again.result == first.result
    # Trained anew it comes out the same, and the ledger says so.
    training.run(settings, CPU, recompute=True, profile="smoke")
    line = json.loads((tmp_path / "results" / "reproduced.jsonl").read_text())
    assert line["difference"] == 0
    frame = training.curves([(name, first)])
    assert list(frame["seen"]) == [0, 8, 16]
    assert frame["loss"].isna().tolist() == [True, False, False]
    assert "people 66" not in training.reading(frame, [(name, first)])
    assert "16 images of 4 people, 2 updates" in training.reading(frame, [(name, first)])
    assert figures.training_curves(frame).axes[0].get_legend() is not None
    assert "cosface" not in figures.recipe_table(settings).to_html()


def test_the_words_follow_the_numbers() -> None:
    def outcome(last: tuple[float, float, float]) -> Outcome:
        point = {"auc": 0.9, "tar_far_1e2": 0.3, "n": 200}
        values = {
            "curve": [
                {"step": 0, "loss": None, "held_out": {"accuracy": 0.6, "interval": [0.55, 0.65], **point}},
                {"step": 9, "loss": 1.0, "held_out": {"accuracy": last[0], "interval": list(last[1:]), **point}},
            ],
            "images": 10, "people": 4, "held_out": 2, "parameters": 10**6,
        }  # fmt: skip
        config = {"architecture": "mobileface", "head": "arcface", "batch_size": 4}
        request = training.results.Request("training", "x", 1, {"config": config})
        data = {"name": "x", "fingerprint": "f", "n": 10}
        return Outcome(training.results.Result(request, data, values, {}))

    for last, learnt in (((0.8, 0.75, 0.85), True), ((0.66, 0.6, 0.72), False)):
        found = [("a", outcome(last))]
        text = training.reading(training.curves(found), found)
        low, high = metrics.wilson(30, 100)  # half of the 200 pairs are of one person
        assert f"TAR 30.0% [{100 * low:.1f}, {100 * high:.1f}]" in text
        assert ("whom it has never seen" in text) == learnt
        assert ("not beyond" in text) != learnt
    assert training.reading(training.curves([]), []) == "Nothing was measured."


def test_without_the_corpus_it_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PMT_DATA", raising=False)
    settings = training.training_settings("paper").model_copy(update={"store": False})
    found = training.run(settings, CPU, recompute=False, profile="paper")
    assert {outcome.note for _, outcome in found} == {"not run: data not present"}
    assert figures.training_curves(training.curves(found)).axes
