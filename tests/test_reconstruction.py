"""Eq. 1 to 4 in plain loops, RecFace on features of every shape, and a training that is interrupted."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pmtlib import metrics, zoo
from pmtlib.attacks import reconstruction
from pmtlib.attacks.reconstruction import (
    ADAM,
    ATTACKED,
    RECORD,
    SAMPLE_CONFIG,
    SIGN,
    WEIGHTS,
    InversionConfig,
    RecFace,
    RecFaceConfig,
    differentiable_ssim,
    find_recface,
    inversion_objective,
    invert,
    load_recface,
    recface_folder,
    recface_key,
    recface_record,
    reconstruction_loss,
    sample_people,
    sample_recface,
    split_people,
    total_variation,
    train_recface,
    training_people,
)
from pmtlib.attacks.training import TRAINING
from pmtlib.cli import main
from pmtlib.datasets import People
from pmtlib.errors import ConfigError, DatasetError, ResultError
from pmtlib.images import png_bytes, to_uint8
from pmtlib.shallow import ShallowModel
from tests.oracles import network_or_skip
from tests.small_network import SmallNetwork, photographs

TINY = RecFaceConfig(
    steps=6, batch_size=3, width=8, blocks=1, linear_images=4, validation_people=1, validate_every=3, average=0.5
)


def shallow(cut: int = 2, dtype: torch.dtype = torch.float32) -> ShallowModel:
    return ShallowModel(SmallNetwork().to(dtype), cut)


def smooth(count: int, seed: int = 3) -> torch.Tensor:
    """Random pictures without high frequencies, 8-bit, (N, 3, 112, 112)."""
    coarse = photographs(count, size=14, seed=seed)
    large = torch.nn.functional.interpolate(coarse, (112, 112), mode="bicubic").clamp(0, 1)
    return (large * 255).round() / 255


def crowd(people: int = 4, each: int = 2) -> People:
    crops = list(to_uint8(smooth(people * each)))
    identities = tuple(f"p{index // each}" for index in range(people * each))
    return People("crowd", reconstruction._Crops(crops, identities), identities)


# -- equations -------------------------------------------------------------------------------------------------------


def test_equation_1_is_the_sum_of_norms_up_to_scale() -> None:
    x, made = photographs(3, dtype=torch.float64), photographs(3, seed=2, dtype=torch.float64)
    config = RecFaceConfig(norm_weight=1, l1_weight=0, ssim_weight=0)
    total = 0.0
    for i in range(3):
        squares = 0.0
        for a, b in zip(x[i].flatten().tolist(), made[i].flatten().tolist(), strict=True):
            squares += (a - b) ** 2
        total += math.sqrt(squares)
    scale = 3 * math.sqrt(x[0].numel())
    assert float(reconstruction_loss(x, made, config)) == pytest.approx(total / scale, rel=1e-12)
    both = RecFaceConfig(norm_weight=0.5, l1_weight=2.0, ssim_weight=0.25)
    absolute = sum(abs(a - b) for a, b in zip(x.flatten().tolist(), made.flatten().tolist(), strict=True)) / x.numel()
    expected = 0.5 * total / scale + 2 * absolute + 0.25 * (1 - metrics.ssim(x, made).mean())
    assert float(reconstruction_loss(x, made, both)) == pytest.approx(expected, rel=1e-9)


def test_the_ssim_that_is_trained_on_is_the_one_that_is_reported() -> None:
    a, b = smooth(2).double(), (smooth(2).double() * 0.8 + 0.1)
    np.testing.assert_allclose(differentiable_ssim(a, b).numpy(), metrics.ssim(a, b), atol=1e-9)


@pytest.mark.parametrize("beta", [1.0, 2.0, 2.5])
def test_total_variation_is_equation_3(beta: float) -> None:
    images = photographs(2, size=6, dtype=torch.float64)
    for n in range(2):
        total = 0.0
        for c in range(3):
            x = images[n, c].tolist()
            for i in range(6):
                for j in range(6):
                    if j >= 1 and i + 1 < 6:
                        total += ((x[i][j - 1] - x[i][j]) ** 2 + (x[i + 1][j] - x[i][j]) ** 2) ** (beta / 2)
        assert float(total_variation(images, beta)[n]) == pytest.approx(total, rel=1e-12)
    flat = torch.full((1, 3, 6, 6), 0.5, requires_grad=True)
    (gradient,) = torch.autograd.grad(total_variation(flat, beta).sum(), flat)
    assert torch.equal(gradient, torch.zeros_like(flat))


def test_equations_2_and_4_step_along_the_sign_downhill_within_0_to_255() -> None:
    x = photographs(2, size=8, dtype=torch.float64)
    model = shallow(dtype=torch.float64)
    z = model.feature(x)
    alpha, weight = 60.0, 0.01
    config = InversionConfig(rule="sign", steps=3, step_size=alpha, tv_weight=weight)
    result = invert(z, model, config, image_shape=(8, 8))
    for n in range(2):
        current = torch.full((3, 8, 8), 127.5, dtype=torch.float64)
        for step in range(3):
            candidate = current.clone().requires_grad_(True)
            feature = model.feature(candidate[None] / 255)[0]
            squares = sum((a - b) ** 2 for a, b in zip(feature.flatten(), z[n].flatten(), strict=True))
            objective = torch.sqrt(squares) + weight * total_variation(candidate[None] / 255, 2.0)[0]
            assert float(result.trace[n, 0, step]) == pytest.approx(float(objective.detach()), rel=1e-9)
            (gradient,) = torch.autograd.grad(objective, candidate)
            for place in np.ndindex(3, 8, 8):
                slope = float(gradient[place])
                moved = float(current[place]) - alpha * ((slope > 0) - (slope < 0))
                current[place] = min(255.0, max(0.0, moved))
        torch.testing.assert_close(result.images[n], current / 255, rtol=0, atol=1e-12)
        # alpha is large enough for the clipping to have been at work.
        assert {0.0, 1.0} & set(result.images[n].flatten().tolist())


def test_the_tuned_attack_minimises_the_relative_squared_error_and_variation() -> None:
    x, other = photographs(2, dtype=torch.float64), photographs(2, seed=5, dtype=torch.float64)
    model = shallow(dtype=torch.float64)
    z = model.feature(x)
    config = InversionConfig(tv_weight=3.0)
    measured = inversion_objective(other, z, model, config)
    for n in range(2):
        feature = model.feature(other[n][None])[0]
        error = sum(float((a - b) ** 2) for a, b in zip(feature.flatten(), z[n].flatten(), strict=True))
        size = sum(float(b**2) for b in z[n].flatten())
        expected = error / size + 3.0 * float(total_variation(other[n][None])[0]) / (3 * 16 * 16)
        assert float(measured[n]) == pytest.approx(expected, rel=1e-9)


# -- level 2 ---------------------------------------------------------------------------------------------------------


def test_the_tuned_attack_goes_downhill_stays_in_range_and_beats_the_sign() -> None:
    x = smooth(2)
    model = shallow(cut=1)
    z = model.feature(x)
    tuned = invert(z, model, ADAM.model_copy(update={"steps": 40}))
    sign = invert(z, model, SIGN.model_copy(update={"steps": 40}))
    assert 0 <= float(tuned.images.min()) <= float(tuned.images.max()) <= 1
    assert (tuned.objective < tuned.trace[:, 0, 0] / 10).all()
    assert metrics.ssim(x, tuned.images).mean() > metrics.ssim(x, sign.images).mean()
    torch.testing.assert_close(tuned.objective, inversion_objective(tuned.images, z, model, ADAM), rtol=1e-5, atol=1e-7)


def test_an_image_of_a_batch_is_attacked_on_its_own() -> None:
    z = shallow().feature(photographs(3, dtype=torch.float32))
    config = InversionConfig(steps=4, starts=("grey", "noise"), batch_size=3, noise_start=0.3)
    together = invert(z, shallow(), config, image_shape=(16, 16))
    alone = invert(z[2:], shallow(), config, image_shape=(16, 16), seeds=[2])
    torch.testing.assert_close(together.images[2:], alone.images, rtol=0, atol=1e-3)
    torch.testing.assert_close(together.objectives[2:], alone.objectives, rtol=1e-3, atol=0)
    assert together.trace.shape == (3, 2, 4)


def test_the_start_with_the_lowest_objective_is_kept() -> None:
    z = shallow().feature(photographs(3))
    config = InversionConfig(steps=3, starts=("grey", "noise", "noise"), noise_start=0.3)
    result = invert(z, shallow(), config, image_shape=(16, 16))
    assert result.chosen.tolist() == result.objectives.argmin(1).tolist()
    assert not torch.equal(result.objectives[:, 1], result.objectives[:, 2])
    recomputed = inversion_objective(result.images, z, shallow(), config)
    torch.testing.assert_close(result.objective, recomputed, rtol=1e-5, atol=1e-7)


def test_nothing_to_invert_and_what_cannot_be_inverted() -> None:
    model = shallow()
    z = model.feature(photographs(2))
    empty = invert(z[:0], model, SIGN, image_shape=(16, 16))
    assert empty.images.shape == (0, 3, 16, 16)
    assert empty.trace.shape == (0, 1, SIGN.steps)
    with pytest.raises(ConfigError, match="not of this shallow model"):
        invert(z, model)
    with pytest.raises(ConfigError, match="seeds"):
        invert(z, model, SIGN, seeds=[1], image_shape=(16, 16))
    with pytest.raises(ConfigError, match="not finite"):
        invert(z * math.nan, model, SIGN, image_shape=(16, 16))
    with pytest.raises(ValidationError):
        InversionConfig(rule="lbfgs")  # type: ignore[arg-type]


# -- level 1: the network --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "feature", [(8, 28, 28), (8, 56, 56), (4, 112, 112), (6, 14, 14), (5, 7, 7), (8, 28, 24), (3, 38, 38), (3, 75, 75)]
)
def test_a_recface_fits_any_feature_map(feature: tuple[int, int, int]) -> None:
    model = RecFace(feature, width=8, blocks=1)
    z = torch.randn((2, *feature), generator=torch.Generator().manual_seed(0))
    images = smooth(2)
    model.fit_linear(z, images)
    made = model(z)
    assert made.shape == (2, 3, 112, 112)
    assert 0 <= float(made.detach().min()) <= float(made.detach().max()) <= 1
    loss = reconstruction_loss(images, model.unclipped(z), TINY)
    loss.backward()  # type: ignore[no-untyped-call]
    assert model.last.weight.grad is not None
    assert float(model.last.weight.grad.abs().sum()) > 0


def test_the_closed_form_start_is_the_least_squares_solution_and_its_margin_is_filled() -> None:
    """Features that are the pixels themselves, folded: a linear map reconstructs them exactly."""
    images = smooth(6)
    folded = torch.nn.functional.pixel_unshuffle(images, 4)
    model = RecFace(folded.shape[1:], width=8, blocks=1)
    model.fit_linear(folded, images, ridge=1e-9)
    torch.testing.assert_close(model(folded), images, atol=2e-3, rtol=0)
    # A network that sees columns 8 to 104 only: the others are filled with their border's.
    narrow = torch.nn.functional.pixel_unshuffle(images[..., 8:104], 4)
    model = RecFace(narrow.shape[1:], width=8, blocks=1)
    model.fit_linear(narrow, images, ridge=1e-9)
    made = model(narrow)
    torch.testing.assert_close(made[..., 8:104], images[..., 8:104], atol=2e-3, rtol=0)
    torch.testing.assert_close(made[..., :8], made[..., 8:9].expand(-1, -1, -1, 8))


def test_a_recface_refuses_other_features() -> None:
    with pytest.raises(ConfigError, match="do not fit a RecFace"):
        RecFace((4, 28, 28), width=8)(torch.zeros(1, 4, 14, 14))
    with pytest.raises(ConfigError, match="before the head"):
        RecFace((192,), width=8)
    with pytest.raises(ConfigError, match="before the head"):
        train_recface(shallow(cut=3), crowd(), TINY)


# -- level 1: training -----------------------------------------------------------------------------------------------


def test_nobody_is_in_training_and_in_validation() -> None:
    people = crowd(people=5, each=3)
    split = split_people(people, TINY.model_copy(update={"validation_people": 2}))
    training = {people.identities[row] for row in split.training}
    held = {people.identities[row] for row in split.validation}
    assert len(held) == 2
    assert not training & held
    assert sorted([*split.training, *split.validation]) == list(range(15))
    with pytest.raises(DatasetError, match="Remedy"):
        split_people(people, TINY.model_copy(update={"validation_people": 5}))


class Stop(KeyboardInterrupt):
    """Ctrl-C at a chosen step."""


def interrupted(folder: Path, after: int) -> None:
    done = 0

    def count(steps: int) -> None:
        nonlocal done
        done += steps
        if done == after:
            raise Stop

    with pytest.raises(Stop):
        train_recface(shallow(), crowd(), TINY, folder=folder, progress=count, checkpoint_seconds=0)


def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole = train_recface(shallow(), crowd(), TINY, folder=tmp_path / "whole")
    interrupted(tmp_path / "parts", after=4)
    record = recface_record(tmp_path / "parts")
    assert (record["finished"], record["steps_done"]) == (False, 3)
    with pytest.raises(ResultError, match="not finished"):
        load_recface(tmp_path / "parts")
    load_recface(tmp_path / "parts", partial=True)
    steps: list[int] = []
    resumed = train_recface(shallow(), crowd(), TINY, folder=tmp_path / "parts", progress=steps.append)
    assert steps == [3, 1, 1, 1]
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    first, second = (recface_record(tmp_path / name) for name in ("whole", "parts"))
    for record in (first, second):
        assert record["finished"] is True
        assert [point["step"] for point in record["curve"]] == [0, 3, 6]
    for mine, other in zip(first["curve"], second["curve"], strict=True):
        assert {**mine, "seconds": 0} == {**other, "seconds": 0}
    loaded = load_recface(tmp_path / "parts")
    z = shallow().feature(smooth(2))
    torch.testing.assert_close(loaded(z), whole(z))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    # Nothing is left to do, and nothing is written again.
    before = (tmp_path / "whole" / WEIGHTS).stat().st_mtime_ns
    train_recface(shallow(), crowd(), TINY, folder=tmp_path / "whole")
    assert (tmp_path / "whole" / WEIGHTS).stat().st_mtime_ns == before


def test_training_reduces_the_error_on_people_it_has_not_seen() -> None:
    config = TINY.model_copy(update={"steps": 30, "learning_rate": 3e-3, "affine": 0.0})
    run = reconstruction._Training(shallow(), crowd(8), config, None, True)
    run.go(None, 1e9)
    assert run.curve[-1]["val_ssim"] > run.curve[0]["val_ssim"]
    assert run.curve[-1]["train_loss"] < run.curve[1]["train_loss"]


def test_training_leaves_the_random_state_and_the_shallow_model_alone() -> None:
    model = shallow()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train_recface(model, crowd(), TINY)
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_folder_of_another_training_and_a_damaged_one_are_refused(tmp_path: Path) -> None:
    train_recface(shallow(), crowd(), TINY, folder=tmp_path)
    other = TINY.model_copy(update={"seed": 1})
    with pytest.raises(ConfigError, match="another RecFace"):
        train_recface(shallow(), crowd(), other, folder=tmp_path)
    train_recface(shallow(), crowd(), other, folder=tmp_path, resume=False)
    assert recface_record(tmp_path)["config"]["seed"] == 1
    (tmp_path / TRAINING).write_bytes(b"PK")
    with pytest.raises(ResultError, match="damaged"):
        train_recface(shallow(), crowd(), other, folder=tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"short")
    with pytest.raises(ResultError, match="damaged"):
        load_recface(tmp_path)
    (tmp_path / RECORD).unlink()
    with pytest.raises(ResultError, match="pmt train-recface"):
        load_recface(tmp_path)


def test_a_state_that_would_execute_code_is_refused(tmp_path: Path) -> None:
    train_recface(shallow(), crowd(), TINY, folder=tmp_path)
    torch.save({"step": Path("x")}, tmp_path / TRAINING)
    with pytest.raises(ResultError, match="damaged"):
        train_recface(shallow(), crowd(), TINY, folder=tmp_path)


def test_the_key_and_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMT_CACHE", str(tmp_path))
    name, people = "mobilefacenet", crowd()
    key = recface_key(zoo.weights_checksum(name), 2, TINY, people.fingerprint)
    others = {
        recface_key("0", 2, TINY, people.fingerprint),
        recface_key(zoo.weights_checksum(name), 3, TINY, people.fingerprint),
        recface_key(zoo.weights_checksum(name), 2, TINY.model_copy(update={"seed": 1}), people.fingerprint),
        recface_key(zoo.weights_checksum(name), 2, TINY, "0"),
    }
    assert len({key, *others}) == 5
    assert find_recface(name, 2, TINY, people.fingerprint) is None
    interrupted(recface_folder(key), after=2)
    assert find_recface(name, 2, TINY, people.fingerprint) is None
    train_recface(shallow(), people, TINY, folder=recface_folder(key))
    assert find_recface(name, 2, TINY, people.fingerprint) == tmp_path / "recface" / key
    assert load_recface(key).feature == (6, 28, 28)


# -- where people come from ------------------------------------------------------------------------------------------


def write_people(root: Path) -> None:
    images = to_uint8(smooth(6))
    for index, image in enumerate(images):
        folder = root / f"person{index // 2}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{index}.png").write_bytes(png_bytes(image))


def test_people_of_a_folder_a_listing_and_single_crops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_people(tmp_path / "set")
    monkeypatch.setenv("PMT_DATA", str(tmp_path))
    assert training_people("set").names == ("person0", "person1", "person2")
    (tmp_path / "set" / reconstruction.LISTING).write_text("person2\n")
    assert training_people("set").names == ("person2",)
    crops = tmp_path / "set" / "person0"
    assert training_people(str(crops)).names == ("0", "1")
    with pytest.raises(DatasetError, match="--data samples"):
        training_people("nowhere")
    monkeypatch.delenv("PMT_DATA")
    with pytest.raises(ConfigError, match="PMT_DATA is not set"):
        training_people("set")


def test_the_attacked_people_of_the_sample_photographs_are_not_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    everyone = [("astronaut", "collins"), ("obama", "obama"), ("pair", "biden"), ("pair", "obama")]

    class Photo:
        def __init__(self, name: str) -> None:
            self.persons = tuple(person for photo, person in everyone if photo == name)

        def crops(self) -> tuple[Any, ...]:
            return tuple(type("Crop", (), {"image": image}) for image in to_uint8(smooth(len(self.persons))))

    photos = [Photo(name) for name in ("astronaut", "obama", "pair")]
    monkeypatch.setattr(reconstruction, "sample_photos", lambda: photos)
    assert sample_people().identities == ("collins", "obama", "biden", "obama")
    assert sample_people(ATTACKED).identities == ("collins", "biden")
    trained: list[People] = []
    monkeypatch.setattr(reconstruction, "train_recface", lambda _s, people, *_a, **_k: trained.append(people))
    sample_recface(shallow(), attacked=("biden", "obama"))
    assert trained[0].identities == ("collins",)
    with pytest.raises(ConfigError, match="known are collins, obama, biden"):
        sample_recface(shallow(), attacked=("nobody",))
    assert SAMPLE_CONFIG.validation_people == 0


# -- the command -----------------------------------------------------------------------------------------------------


def pmt(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as leave:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert isinstance(leave.value.code, int)
    return leave.value.code, captured.out, captured.err


@pytest.fixture
def small_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of three people, and a network of three units in place of a published one."""
    monkeypatch.setattr(zoo, "load", lambda _name: SmallNetwork())
    monkeypatch.setattr(reconstruction, "RecFaceConfig", lambda: TINY)
    monkeypatch.setenv("PMT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PMT_DATA", str(tmp_path))
    write_people(tmp_path / "lfw_rest")
    return tmp_path


COMMAND = ("train-recface", "-n", "mobilefacenet", "--cut", "second", "--device", "cpu")


def test_the_command_trains_into_the_cache_and_goes_on(
    small_set: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = pmt(capsys, *COMMAND, "--steps", 3, "--batch-size", 2, "--seed", 7)
    assert code == 0, err
    assert "SSIM" in out
    config = TINY.model_copy(update={"steps": 3, "batch_size": 2, "seed": 7})
    found = find_recface("mobilefacenet", 2, config, training_people("lfw_rest").fingerprint)
    assert found is not None
    assert str(found) in out.replace("\n", "")
    record = json.loads((found / RECORD).read_text())
    assert (record["network"], record["cut"], record["finished"]) == ("mobilefacenet", 2, True)
    assert pmt(capsys, *COMMAND, "--steps", 3, "--batch-size", 2, "--seed", 7, "-q")[:2] == (0, "")
    out_folder = small_set / "out"
    original, updates = reconstruction._Training._update, 0

    def update(self: Any) -> float:
        nonlocal updates
        updates += 1
        if updates == 3:
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(reconstruction._Training, "_update", update)
    always = functools.partial(reconstruction.train_recface, checkpoint_seconds=0)
    monkeypatch.setattr(reconstruction, "train_recface", always)
    code, _, err = pmt(capsys, *COMMAND, "--out", out_folder, "-q")
    assert code == 130
    assert "run again" in err
    assert recface_record(out_folder)["steps_done"] == 2
    code, _, err = pmt(capsys, *COMMAND, "--out", out_folder, "--seed", 9, "-q")
    assert code == 2
    assert "holds another RecFace" in err
    monkeypatch.setattr(reconstruction._Training, "_update", original)
    assert pmt(capsys, *COMMAND, "--out", out_folder, "--seed", 9, "--fresh", "-q")[0] == 0
    assert recface_record(out_folder)["finished"] is True


def test_the_command_without_data_or_with_a_wrong_name_says_what_to_do(
    small_set: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PMT_DATA")
    for arguments, words in (
        (COMMAND, "--data samples"),
        (("train-recface", "-n", "mobilefacent"), "did you mean 'mobilefacenet'"),
        ((*COMMAND[:3], "--cut", "9", "--data", small_set / "lfw_rest"), "outside 1..3"),
        ((*COMMAND, "--steps", "0"), "--steps"),
    ):
        code, _, err = pmt(capsys, *arguments)
        assert code == 2
        assert err.startswith("error: ")
        assert len(err.strip().splitlines()) == 1
        assert words in err


# -- a published network ---------------------------------------------------------------------------------------------


def test_a_published_shallow_model_gives_the_face_back() -> None:
    """The first five units of a network pass most of a face on: even a few steps show it, without any data."""
    model = ShallowModel(network_or_skip("mobilefacenet"), 5)
    face = smooth(1)
    found = invert(model.feature(face), model, ADAM.model_copy(update={"steps": 60}))
    assert metrics.ssim(face, found.images)[0] > 0.9
