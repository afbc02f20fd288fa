from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from pmtlib import metrics
from pmtlib.attacks.adaptive import deobfuscate
from pmtlib.attacks.adaptive.deobfuscate import (
    Deobfuscator,
    DeobfuscatorConfig,
    IdentityConfig,
    identity_loss,
    load_deobfuscator,
    load_protected_recface,
    make_pairs,
    pair_loss,
    train_deobfuscator,
    train_protected_recface,
)
from pmtlib.attacks.training import TRAINING
from pmtlib.errors import ConfigError, ResultError
from pmtlib.images import to_uint8
from pmtlib.shallow import ShallowModel
from pmtlib.transform import PMTConfig, protect
from tests.crowd import crowd, smooth
from tests.small_network import SmallNetwork, photographs

TINY = DeobfuscatorConfig(steps=6, batch_size=3, width=8, linear_images=4, validate_every=3, average=0.5)
FEW = PMTConfig(steps=3, batch_size=2)


def shallow(cut: int = 2) -> ShallowModel:
    return ShallowModel(SmallNetwork(), cut)


def filtered(images: Tensor, seed: int = 0) -> Tensor:
    """A stand-in for the filter that is quick: less contrast under strong noise."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return (0.5 + 0.5 * (images - 0.5) + 0.2 * noise).clamp(0, 1)


# -- pairs -----------------------------------------------------------------------------------------------------------


def test_pairs_are_uploads_with_seeds_and_settings_in_turn(tmp_path: Path) -> None:
    people = crowd(5, 1)
    configs = [FEW, FEW.model_copy(update={"steps": 2, "rule": "sign"})]
    pairs = make_pairs(people, [shallow()], configs, seeds=[7, 8], keep=(1, 2), chunk=1, folder=tmp_path)
    assert len(pairs) == 10
    assert pairs.rows.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    for image, (config, seed) in enumerate([(0, 7), (0, 8), (1, 7), (1, 8), (0, 7)]):
        photo = people.tensor([image])
        done = protect(photo, [shallow()], configs[config].model_copy(update={"seed": seed}), keep=(1, 2))
        for place in range(2):
            expected = torch.from_numpy(to_uint8(done.kept[place])[0]).permute(2, 0, 1)
            assert torch.equal(pairs.protected[2 * image + place], expected)
            assert torch.equal(pairs.originals[2 * image + place], (photo[0] * 255).to(torch.uint8))
    some = pairs.subset([9, 0])
    assert some.rows.tolist() == [4, 0]
    assert torch.equal(some.protected[0], pairs.protected[9])


def test_chunks_are_made_once_and_a_damaged_one_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMT_CACHE", str(tmp_path))
    people, asked = crowd(3, 2), [0]

    def counting(images: Tensor, *arguments: Any, **options: Any) -> Any:
        asked[0] += len(images)
        return protect(images, *arguments, **options)

    monkeypatch.setattr(deobfuscate, "protect", counting)
    first = make_pairs(people, [shallow()], [FEW], seeds=[1], chunk=4)
    assert asked == [6]
    assert first.protected.dtype == torch.uint8
    chunks = sorted(tmp_path.glob("pairs/*/*.safetensors"))
    assert [safetensors.torch.load_file(path)["protected"].shape[0] for path in chunks] == [4, 2]
    chunks[1].write_bytes(b"short")
    steps: list[int] = []
    again = make_pairs(people, [shallow()], [FEW], seeds=[1], chunk=4, progress=steps.append)
    assert asked == [8]
    assert steps == [4, 2]
    assert torch.equal(again.protected, first.protected)
    # Whatever changes the uploads changes where they are kept.
    others: list[tuple[Any, ...]] = [
        (crowd(3, 2, seed=9), [shallow()], [FEW]),
        (people, [shallow(1)], [FEW]),
        (people, [shallow()], [FEW.model_copy(update={"steps": 2})]),
    ]
    for arguments in others:
        make_pairs(*arguments, seeds=[1], chunk=4)
    make_pairs(people, [shallow()], [FEW], seeds=[2], chunk=4)
    assert len(list(tmp_path.glob("pairs/*"))) == 5
    with pytest.raises(ConfigError, match="1 or more each"):
        make_pairs(people, [shallow()], [FEW], seeds=[])


# -- training --------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_absolute_error_and_what_lacks_to_full_similarity() -> None:
    x, made = photographs(2, dtype=torch.float64), photographs(2, seed=4, dtype=torch.float64)
    absolute = sum(abs(a - b) for a, b in zip(x.flatten().tolist(), made.flatten().tolist(), strict=True)) / x.numel()
    expected = 2 * absolute + 0.25 * (1 - metrics.ssim(x, made).mean())
    config = DeobfuscatorConfig(l1_weight=2, ssim_weight=0.25)
    assert float(pair_loss(x, made, config)) == pytest.approx(expected, rel=1e-9)


def test_a_deobfuscator_learns_four_images_and_beats_its_input() -> None:
    originals = smooth(4)
    uploads = filtered(originals)
    config = TINY.model_copy(update={"steps": 40, "batch_size": 4, "learning_rate": 3e-3, "flip": False})
    record: list[int] = []
    start = train_deobfuscator(uploads, originals, config.model_copy(update={"steps": 1, "learning_rate": 1e-12}))
    model = train_deobfuscator(uploads, originals, config, progress=record.append)
    assert len(record) == 40
    given = metrics.ssim(uploads, originals).mean()
    linear = metrics.ssim(start(uploads), originals).mean()
    learnt = metrics.ssim(model(uploads), originals).mean()
    assert given + 0.1 < linear < learnt - 0.02
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_it_helps_people_it_has_not_seen(tmp_path: Path) -> None:
    seen, unseen = smooth(12), smooth(3, seed=8)
    config = TINY.model_copy(update={"steps": 12, "linear_images": 12})
    held = (filtered(unseen, 5), unseen)
    train_deobfuscator(filtered(seen), seen, config, validation=held, folder=tmp_path)
    model = load_deobfuscator(tmp_path)
    found = metrics.ssim(model(held[0]), unseen).mean()
    assert found > metrics.ssim(*held).mean() + 0.1
    curve = deobfuscate._DEOBFUSCATOR.read(tmp_path)["curve"]
    # What is trained on are 8-bit images, so the figure is that of the uploads up to rounding.
    assert curve[-1]["val_ssim"] == pytest.approx(found, abs=1e-3)


class Stop(KeyboardInterrupt):
    """Ctrl-C at a chosen step."""


def stop_after(count: int) -> Any:
    done = 0

    def progress(steps: int) -> None:
        nonlocal done
        done += steps
        if done == count:
            raise Stop

    return progress


def test_an_interrupted_training_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    originals = smooth(5)
    uploads = filtered(originals)
    validation = (uploads[:1], originals[:1])
    whole = train_deobfuscator(uploads, originals, TINY, validation=validation, folder=tmp_path / "whole")
    parts: dict[str, Any] = {"validation": validation, "folder": tmp_path / "parts"}
    with pytest.raises(Stop):
        train_deobfuscator(uploads, originals, TINY, **parts, progress=stop_after(4), checkpoint_seconds=0)
    with pytest.raises(ResultError, match="finished"):
        load_deobfuscator(tmp_path / "parts")
    steps: list[int] = []
    resumed = train_deobfuscator(uploads, originals, TINY, **parts, progress=steps.append)
    assert steps == [3, 1, 1, 1]
    loaded = load_deobfuscator(tmp_path / "parts")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
        assert torch.equal(tensor, loaded.state_dict()[name]), name


def test_recface_learns_from_the_features_of_uploads(tmp_path: Path) -> None:
    originals = smooth(6)
    uploads = filtered(originals)
    model = shallow(1)
    config = TINY.model_copy(update={"steps": 30, "learning_rate": 3e-3, "flip": False, "linear_images": 6})
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    found = train_protected_recface(model, uploads, originals, config, folder=tmp_path)
    torch.testing.assert_close(torch.rand(2), expected, rtol=0, atol=0)
    made = found(model.feature(uploads))
    assert made.shape == originals.shape
    assert metrics.ssim(made, originals).mean() > metrics.ssim(uploads, originals).mean() + 0.1
    with pytest.raises(ConfigError, match="other source"):
        train_protected_recface(shallow(2), uploads, originals, config, folder=tmp_path)


def test_recface_on_uploads_is_stored_and_read_again(tmp_path: Path) -> None:
    originals, model = smooth(4), shallow(2)
    uploads = filtered(originals)
    with pytest.raises(ResultError, match="train one"):
        load_protected_recface(tmp_path)
    made = train_protected_recface(model, uploads, originals, TINY, folder=tmp_path)
    found = load_protected_recface(tmp_path)
    features = model.feature(uploads)
    torch.testing.assert_close(found(features), made(features), rtol=0, atol=0)
    (tmp_path / deobfuscate._RECFACE.weights).write_bytes(b"short")
    with pytest.raises(ResultError, match="damaged"):
        load_protected_recface(tmp_path)


def test_an_attacker_may_train_for_a_network_of_their_own(tmp_path: Path) -> None:
    originals, model = smooth(4), shallow(2)
    uploads, own = filtered(originals), SmallNetwork(seed=9)
    tiny = IdentityConfig(**TINY.model_dump(), identity_weight=2.0)
    made = train_protected_recface(model, uploads, originals, tiny, identity=own, folder=tmp_path)
    plain = train_protected_recface(model, uploads, originals, TINY)
    assert any(not torch.equal(a, b) for a, b in zip(made.parameters(), plain.parameters(), strict=True))
    features = model.feature(uploads)
    torch.testing.assert_close(load_protected_recface(tmp_path)(features), made(features), rtol=0, atol=0)
    with pytest.raises(ConfigError, match="other source"):
        train_protected_recface(model, uploads, originals, tiny, identity=SmallNetwork(seed=8), folder=tmp_path)
    with pytest.raises(ConfigError, match="has an IdentityConfig"):
        train_protected_recface(model, uploads, originals, TINY, identity=own)


def test_the_identity_loss_is_one_minus_the_mean_cosine() -> None:
    images, made, own = photographs(3), photographs(3, seed=5).requires_grad_(True), SmallNetwork()
    by_hand = 0.0
    for place in range(3):
        a, b = (own(side[place : place + 1])[0].detach() for side in (images, made))
        by_hand += 1 - float(a @ b / a.norm() / b.norm())
    loss = identity_loss(images, made, own)
    assert float(loss) == pytest.approx(by_hand / 3, abs=1e-6)
    (gradient,) = torch.autograd.grad(loss, made)
    assert gradient.abs().sum() > 0


def test_features_that_are_remembered_are_those_that_are_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    originals, model = smooth(5), shallow(2)
    uploads = filtered(originals)
    remembered = train_protected_recface(model, uploads, originals, TINY)
    monkeypatch.setattr(deobfuscate, "_REMEMBERED", 0)
    anew = train_protected_recface(model, uploads, originals, TINY)
    # Not to the bit: convolutions of other batches round differently.
    for name, tensor in remembered.state_dict().items():
        torch.testing.assert_close(tensor, anew.state_dict()[name], rtol=1e-3, atol=1e-4, msg=name)


def test_flips_are_of_both_images_of_a_pair() -> None:
    """Pairs that are equal stay equal under every draw: then the identity is learnt in closed form."""
    images = smooth(4)
    run = deobfuscate._PairTraining(
        "x", deobfuscate._DEOBFUSCATOR, lambda x: x, {}, (images, images), None, TINY, torch.device("cpu"), None, True
    )
    run.encode = lambda x: x
    seen: list[Tensor] = []

    def unclipped(encoded: Tensor) -> Tensor:
        seen.append(encoded)
        return encoded + 0 * run.model.last.weight.sum()

    run.model.unclipped = unclipped  # type: ignore[method-assign]
    mirrored = 0
    for step in range(6):
        run.step = step
        assert float(run.loss().detach()) == pytest.approx(0, abs=1e-5)
        rows = run.rows(4)
        mirrored += sum(not torch.equal(one, images[row]) for one, row in zip(seen[-1], rows.tolist(), strict=True))
    assert 0 < mirrored < 18


def test_what_makes_no_pairs_or_is_damaged_is_refused(tmp_path: Path) -> None:
    originals = smooth(2)
    with pytest.raises(ConfigError, match="must both be"):
        train_deobfuscator(originals[:1], originals, TINY)
    with pytest.raises(ConfigError, match="no pairs"):
        train_deobfuscator(originals[:0], originals[:0], TINY)
    with pytest.raises(ConfigError, match="takes images"):
        Deobfuscator(width=8)(photographs(1))
    with pytest.raises(ResultError, match="train one"):
        load_deobfuscator(tmp_path)
    train_deobfuscator(originals, originals, TINY.model_copy(update={"steps": 1}), folder=tmp_path)
    with pytest.raises(ConfigError, match="other config"):
        train_deobfuscator(originals, originals, TINY, folder=tmp_path)
    with pytest.raises(ConfigError, match="other pairs"):
        train_deobfuscator(originals[:1], originals[:1], TINY.model_copy(update={"steps": 1}), folder=tmp_path)
    (tmp_path / TRAINING).write_bytes(b"PK")
    with pytest.raises(ResultError, match="damaged"):
        train_deobfuscator(originals, originals, TINY.model_copy(update={"steps": 1}), folder=tmp_path)
    (tmp_path / deobfuscate._DEOBFUSCATOR.weights).write_bytes(b"short")
    with pytest.raises(ResultError, match="damaged"):
        load_deobfuscator(tmp_path)
