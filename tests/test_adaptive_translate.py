"""The translator: what it learns, on a network small enough to learn from in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pmtlib.attacks.adaptive import translate
from pmtlib.attacks.adaptive.translate import Translator, TranslatorConfig, Uploads, train_translator
from pmtlib.attacks.training import TRAINING, read_eight_bit
from pmtlib.errors import ConfigError, DatasetError, ResultError
from pmtlib.shallow import ShallowModel
from tests.crowd import crowd
from tests.interruption import goes_on_to_the_same_bits
from tests.small_network import SmallNetwork

TINY = TranslatorConfig(steps=6, batch_size=4, width=4, validation_people=2, validate_every=3, average=0.5)


def shallow(cut: int = 1) -> ShallowModel:
    return ShallowModel(SmallNetwork(), cut)


def colours(images: Tensor) -> Tensor:
    """A teacher that is easy to learn: the mean colours of four quarters, about grey."""
    return F.adaptive_avg_pool2d(images, 2).flatten(1) - 0.5


def brightness(images: Tensor) -> Any:
    """A teacher that answers in numpy, with embeddings of another length."""
    return (F.adaptive_avg_pool2d(images.mean(1, keepdim=True), 3).flatten(1) - 0.5).numpy()


TEACHERS: dict[str, translate.Teacher] = {"colours": colours, "brightness": brightness}


def test_a_translation_is_what_the_teacher_says_of_people_it_never_saw() -> None:
    config = TINY.model_copy(update={"steps": 150, "batch_size": 16, "learning_rate": 5e-3, "average": 0.9})
    translator = train_translator(shallow(), crowd(60, 1), TEACHERS, config)
    strangers = crowd(12, 1, seed=77).tensor(range(12))
    said = translator(strangers)
    assert {name: tuple(one.shape) for name, one in said.items()} == {"colours": (12, 12), "brightness": (12, 9)}
    whole = translate.translations(translator, strangers, batch=5)
    assert all(np.allclose(whole[name], said[name], atol=1e-5) for name in TEACHERS)
    for name, teacher in TEACHERS.items():
        wanted = torch.as_tensor(teacher(strangers))
        own = F.cosine_similarity(said[name], wanted, dim=1)
        others = F.cosine_similarity(said[name], wanted.roll(1, 0), dim=1)
        assert own.mean() > others.mean() + 0.2, name


def test_with_uploads_it_learns_what_the_filter_does_to_features() -> None:
    """The filter here makes everything dark."""
    config = TINY.model_copy(update={"steps": 150, "batch_size": 16, "learning_rate": 5e-3, "average": 0.9})
    people, strangers = crowd(60, 1), crowd(12, 1, seed=77).tensor(range(12))
    uploads = Uploads(read_eight_bit(people, np.arange(60)) // 8, torch.arange(60))
    alike = []
    for given in (None, uploads):
        translator = train_translator(shallow(), people, {"colours": colours}, config, uploads=given)
        said = translator(strangers / 8)["colours"]
        alike.append(float(F.cosine_similarity(said, colours(strangers), dim=1).mean()))
    assert alike[0] + 0.25 < alike[1]


def test_uploads_of_people_held_out_are_not_learned_from(tmp_path: Path) -> None:
    people = crowd(6, 2)
    held = translate.split_people(people, TINY).validation
    images = read_eight_bit(people, np.arange(12))
    other = images.clone()
    other[held] = 255 - other[held]
    one, two = (
        train_translator(shallow(), people, TEACHERS, TINY, uploads=Uploads(given, torch.arange(12)))
        for given in (images, other)
    )
    assert all(torch.equal(a, b) for a, b in zip(one.head.parameters(), two.head.parameters(), strict=True))
    train_translator(shallow(), people, TEACHERS, TINY, folder=tmp_path)
    with pytest.raises(ConfigError, match="holds another translator"):
        train_translator(shallow(), people, TEACHERS, TINY, uploads=Uploads(images, torch.arange(12)), folder=tmp_path)
    for bad, message in (
        (Uploads(images.float(), torch.arange(12)), "8-bit images"),
        (Uploads(images, torch.arange(11)), "a row for each"),
        (Uploads(images, torch.arange(12) + 1), r"outside 0\.\.11"),
        (Uploads(images[held], torch.from_numpy(held)), "no upload is of a person"),
    ):
        with pytest.raises(ConfigError, match=message):
            train_translator(shallow(), people, TEACHERS, TINY, uploads=bad)


def test_it_is_frozen_and_the_shared_model_stays_as_it_was(tmp_path: Path) -> None:
    model = shallow()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    translator = train_translator(model, crowd(5, 2), TEACHERS, TINY, folder=tmp_path)
    assert isinstance(translator, Translator)
    assert not any(parameter.requires_grad for parameter in translator.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    images = crowd(2, 1).tensor([0, 1])
    whole, parts = translator(images), translator.of_features(model.feature(images))
    assert all(torch.equal(whole[name], parts[name]) for name in TEACHERS)
    curve = translate._FILES.read(tmp_path)["curve"]
    assert [point["step"] for point in curve] == [0, 3, 6]
    assert all(-1 <= point["val_cosine"] <= 1 for point in curve)


def test_the_loss_is_one_minus_the_mean_cosine() -> None:
    config = TINY.model_copy(update={"noise": 0.0, "flip": False})
    people = crowd(5, 2)
    training = translate._TranslatorTraining(shallow(), people, TEACHERS, config, None, None, False)
    loss = training.loss().item()
    chosen = translate.split_people(people, config).training[training.rows(training.count).numpy()]
    total = 0.0
    for row in chosen:
        image = people.tensor([int(row)])
        # Features are remembered in half precision.
        said = training.model(training.shallow.feature(image).half().float())[0]
        for part, teacher in zip(said.split([12, 9]), (colours, brightness), strict=True):
            goal = torch.as_tensor(teacher(image))[0]
            total += 1 - (part @ goal / (part.norm() * goal.norm())).item()
    assert loss == pytest.approx(total / (2 * len(chosen)), abs=1e-5)


def test_a_stored_head_says_the_same_of_each_teacher_in_whatever_order_they_are_given(tmp_path: Path) -> None:
    def shades(images: Tensor) -> Tensor:
        """As long as ``colours``, and something else."""
        return -colours(images).roll(3, 1)

    people, images = crowd(5, 2), crowd(2, 1).tensor([0, 1])
    one = train_translator(shallow(), people, {"colours": colours, "shades": shades}, TINY, folder=tmp_path)
    other = train_translator(shallow(), people, {"shades": shades, "colours": colours}, TINY, folder=tmp_path)
    assert not torch.equal(one(images)["colours"], one(images)["shades"])
    for name in ("colours", "shades"):
        assert torch.equal(one(images)[name], other(images)[name])


def test_thresholds_are_those_of_translation_against_embedding_of_people_held_out() -> None:
    people, config = crowd(30, 1), TINY.model_copy(update={"validation_people": 12})
    translator = train_translator(shallow(), people, TEACHERS, config)
    found = translate.translation_thresholds(translator, people, TEACHERS, config)
    rows = [int(row) for row in translate.split_people(people, config).validation]
    for name, teacher in TEACHERS.items():
        scores = []
        for a in rows:
            for b in rows:
                if a != b:
                    said = translator(people.tensor([a]))[name][0].double()
                    known = torch.as_tensor(teacher(people.tensor([b])))[0].double()
                    scores.append(float(said @ known / said.norm() / known.norm()))
        assert found[name] == pytest.approx(np.quantile(scores, 0.99), abs=1e-5)
    few = TINY.model_copy(update={"validation_people": 10})
    with pytest.raises(ConfigError, match="give 90 comparisons of two people, too few"):
        translate.translation_thresholds(translator, people, TEACHERS, few)
    assert translate.comparisons("aabc") == 10


def test_thresholds_on_uploads_are_those_of_their_translations() -> None:
    people, config = crowd(30, 1), TINY.model_copy(update={"validation_people": 12})
    translator = train_translator(shallow(), people, TEACHERS, config)
    rows = [int(row) for row in translate.split_people(people, config).validation]
    dark = read_eight_bit(people, np.arange(30)) // 3
    found = translate.translation_thresholds(
        translator, people, TEACHERS, config, far=0.1, uploads=Uploads(dark, torch.arange(30))
    )
    for name, teacher in TEACHERS.items():
        scores = []
        for a in rows:
            for b in rows:
                if a != b:
                    said = translator(dark[a : a + 1] / 255)[name][0].double()
                    known = torch.as_tensor(teacher(people.tensor([b])))[0].double()
                    scores.append(float(said @ known / said.norm() / known.norm()))
        assert found[name] == pytest.approx(np.quantile(scores, 0.9), abs=1e-5)
    others = [row for row in range(30) if row not in rows]
    with pytest.raises(ConfigError, match="no upload is of a person"):
        translate.translation_thresholds(
            translator, people, TEACHERS, config, uploads=Uploads(dark[others], torch.tensor(others))
        )


def test_an_interrupted_training_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    people = crowd(5, 2)
    goes_on_to_the_same_bits(lambda **options: train_translator(shallow(), people, TEACHERS, TINY, **options), tmp_path)


def test_a_finished_training_asks_the_teachers_for_their_sizes_only(tmp_path: Path) -> None:
    people = crowd(5, 2)
    train_translator(shallow(), people, TEACHERS, TINY, folder=tmp_path)
    asked = []

    def counting(images: Tensor) -> Tensor:
        asked.append(len(images))
        return colours(images)

    train_translator(shallow(), people, {**TEACHERS, "colours": counting}, TINY, folder=tmp_path)
    assert asked == [1]


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    people = crowd(4, 1)
    with pytest.raises(ConfigError, match="no network"):
        train_translator(shallow(), people, {}, TINY)
    with pytest.raises(DatasetError, match="Remedy"):
        train_translator(shallow(), crowd(2, 2), TEACHERS, TINY)
    with pytest.raises(ConfigError, match="before the head"):
        train_translator(shallow(3), people, TEACHERS, TINY)
    train_translator(shallow(), people, TEACHERS, TINY, folder=tmp_path)
    with pytest.raises(ConfigError, match="holds another translator"):
        train_translator(shallow(), people, {"colours": colours}, TINY, folder=tmp_path)
    (tmp_path / TRAINING).write_bytes(b"PK")
    with pytest.raises(ResultError, match="damaged"):
        train_translator(shallow(), people, TEACHERS, TINY, folder=tmp_path)
