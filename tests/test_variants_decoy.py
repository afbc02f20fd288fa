"""Decoy-anchored PMT, its loss re-derived in plain loops."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from pmtlib import filters
from pmtlib.experiments.common import Bench
from pmtlib.filters import blur
from pmtlib.shallow import ShallowModel
from pmtlib.transform import PMTConfig, image_seed, protect
from pmtlib.variants import VARIANTS, name_of
from pmtlib.variants.decoy import DecoyConfig
from pmtlib.variants.decoys import decoy
from tests.oracles import network_or_skip
from tests.small_network import SmallNetwork, photographs
from tests.test_variants_decoys import sample_people

PLAIN = {"augmentation": "none", "aggregate": False, "kernel": "none", "rule": "raw"}


def shallow(dtype: torch.dtype = torch.float32) -> ShallowModel:
    return ShallowModel(SmallNetwork().to(dtype), 2)


def decoy_of(image: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return F.interpolate(decoy(image_seed(seed, image)), image.shape[-2:], mode="area")[0].to(image)


def loop_blur(image: torch.Tensor, sigma: float) -> torch.Tensor:
    """A Gaussian blur as a matrix along each axis, its entries collected one by one at mirrored places."""
    side, radius = image.shape[-1], math.ceil(3 * sigma)
    weights = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(-radius, radius + 1)]
    matrix = torch.zeros(side, side, dtype=image.dtype)
    for place in range(side):
        for offset in range(-radius, radius + 1):
            index = abs(place + offset)
            index = index if index < side else 2 * (side - 1) - index
            matrix[place, index] += weights[offset + radius] / sum(weights)
    return torch.stack([matrix @ channel @ matrix.T for channel in image])


def square(values: torch.Tensor) -> torch.Tensor:
    return (values**2).sum()


def loop_stretch(image: torch.Tensor) -> torch.Tensor:
    channels = []
    for channel in image:
        mean = channel.sum() / channel.numel()
        deviation = (square(channel - mean) / (channel.numel() - 1)) ** 0.5
        channels.append(mean + (channel - mean) * 0.2 / deviation)
    return torch.stack(channels).clamp(0, 1)


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("purify", [0.0, 0.4])
def test_the_loss_and_its_steps_are_the_equation_in_plain_loops(relative: bool, purify: float) -> None:
    x = photographs(2, size=8, dtype=torch.float64)
    model = shallow(torch.float64)
    config = DecoyConfig(
        steps=2, step_size=0.02, relative=relative, anchor_weight=0.7, anchor_sigmas=(0.8, 1.5), noise_start=0.3,
        purify_weight=purify, purify_sigmas=(1.2,), **PLAIN,
    )  # fmt: skip
    result = protect(x, [model], config, keep=(0,))
    for i in range(2):
        face = decoy_of(x[i])
        goal = model.feature(x[i][None])[0]

        def distance(image: torch.Tensor, face: torch.Tensor) -> torch.Tensor:
            parts = []
            for sigma in (0.8, 1.5):
                wanted = loop_blur(face, sigma)
                size = square(wanted) if relative else 1.0
                parts.append(square(loop_blur(image, sigma) - wanted) / size)
            return sum(parts) / 2

        def loss(image: torch.Tensor, face: torch.Tensor = face, goal: torch.Tensor = goal) -> torch.Tensor:
            error = square(model.feature(image[None])[0] - goal)
            total = error / square(goal) if relative else error
            total = total + 0.7 * distance(image, face)
            if purify:
                filtered = loop_stretch(loop_blur(image, 1.2))
                missed = square(model.feature(filtered[None])[0] - goal) / square(goal)
                total = total + purify * distance(filtered, loop_stretch(loop_blur(face, 1.2)))
                total = total + purify * max(torch.zeros_like(missed), 1 - missed)
            return total

        current = result.kept[0, i]
        for step in range(2):
            candidate = current.clone().requires_grad_(True)
            value = loss(candidate)
            # The library's blur has a kernel of single precision.
            assert float(result.trace[i, step]) == pytest.approx(float(value.detach()), rel=1e-5)
            (gradient,) = torch.autograd.grad(value, candidate)
            current = (current - 0.02 * gradient).clamp(0, 1)
        torch.testing.assert_close(result.images[i], current, rtol=0, atol=1e-5)


def test_each_image_starts_about_a_decoy_of_its_own_seed() -> None:
    x = photographs(3, size=112)
    start = protect(x, [shallow()], DecoyConfig(steps=0, noise_start=0)).images
    for image, begun in zip(x, start, strict=True):
        assert torch.equal(begun, decoy(image_seed(0, image))[0])
    assert not torch.equal(start[0], start[1])
    other = protect(x, [shallow()], DecoyConfig(steps=0, noise_start=0, seed=1)).images
    assert not torch.equal(start, other)
    grey = protect(x, [shallow()], DecoyConfig(steps=0, noise_about="grey")).images
    assert torch.equal(grey, protect(x, [shallow()], PMTConfig(steps=0)).images)


def test_without_its_weights_it_is_plain_pmt_to_the_bit() -> None:
    x, same = photographs(3), {"steps": 6, "rule": "adam", "step_size": 0.02}
    off = DecoyConfig(anchor_weight=0, noise_about="grey", **same)
    assert torch.equal(protect(x, [shallow()], off).images, protect(x, [shallow()], PMTConfig(**same)).images)


def test_an_image_is_the_same_whatever_batch_it_was_in() -> None:
    x, model = photographs(5), shallow()
    config = DecoyConfig(steps=6, augmentation="mix", batch_size=3, purify_weight=0.5, schedule="cosine")
    together = protect(x, [model], config).images
    assert torch.equal(together, torch.cat([protect(image[None], [model], config).images for image in x]))
    assert torch.equal(together, protect(x.flip(0), [model], config).images.flip(0))
    assert protect(x[:0], [model], config).images.shape == (0, 3, 16, 16)


def test_a_real_network_gives_an_image_the_same_bits_in_any_batch() -> None:
    network = network_or_skip("mobilefacenet")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        x = photographs(3, size=112)
        config = DecoyConfig(steps=3, batch_size=3, purify_weight=0.5)
        together = protect(x, [ShallowModel(network)], config).images
        assert torch.equal(together[2:], protect(x[2:], [ShallowModel(network)], config).images)
        assert torch.equal(together.flip(0), protect(x.flip(0), [ShallowModel(network)], config).images)
    finally:
        torch.set_num_threads(threads)


def test_the_purification_of_a_step_is_drawn_for_each_image_alone() -> None:
    """Blurs of no and of much effect: were they one draw a batch, images would agree in which they met."""
    x = photographs(1).expand(1, -1, -1, -1)
    met = set()
    for seed in range(8):
        both = DecoyConfig(steps=1, purify_weight=1.0, purify_sigmas=(0.1, 3.0), seed=seed, augmentation="none")
        trace = protect(x, [shallow()], both).trace
        traces = [
            protect(x, [shallow()], both.model_copy(update={"purify_sigmas": (sigma,)})).trace for sigma in (0.1, 3.0)
        ]
        matching = [i for i, alone in enumerate(traces) if torch.equal(trace, alone)]
        assert len(matching) == 1
        met.add(matching[0])
    assert met == {0, 1}


def test_the_cosine_schedule_falls_from_alpha_towards_nothing() -> None:
    config = DecoyConfig(
        steps=4, rule="sign", step_size=0.01, schedule="cosine", noise_start=0.02, kernel="none", augmentation="none"
    )
    kept = protect(photographs(1), [shallow()], config, keep=range(5)).kept
    for step in range(4):
        expected = 0.01 * 0.5 * (1 + math.cos(math.pi * step / 4))
        assert float((kept[step + 1] - kept[step]).abs().max()) == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_the_low_frequencies_show_the_decoy_and_the_features_still_the_person() -> None:
    model = ShallowModel(network_or_skip("mobilefacenet"))
    x = sample_people()[:3]
    config = DecoyConfig(steps=30, batch_size=len(x))
    plain = protect(x, [model], PMTConfig(batch_size=len(x)))
    anchored = protect(x, [model], config)
    faces = torch.cat([decoy(image_seed(0, image)) for image in x])
    for sigma in config.anchor_sigmas:
        goal = blur(faces, sigma)

        def off(images: torch.Tensor, goal: torch.Tensor = goal, sigma: float = sigma) -> torch.Tensor:
            return (blur(images, sigma) - goal).square().mean((1, 2, 3))

        assert (off(anchored.images) < 0.5 * off(plain.images)).all()
        assert (off(anchored.images) < 0.5 * off(x)).all()
    # Measured for plain PMT at its defaults: 0.07; features of nothing have 1.
    assert (anchored.error < 0.2).all(), anchored.error
    assert (anchored.cosine > 0.9).all(), anchored.cosine


def test_the_table_names_each_variant_and_its_configuration() -> None:
    assert list(VARIANTS) == ["pmt", "decoy", "deep"]
    for name, variant in VARIANTS.items():
        assert name_of(variant.config()) == name
        assert "\n" not in variant.summary
    # The keys of stored results are made of these fields.
    assert "variant" not in PMTConfig().model_dump()
    assert DecoyConfig().model_dump()["variant"] == "decoy"


def test_uploads_kept_for_experiments_are_made_again_when_the_variants_code_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = SimpleNamespace(device=torch.device("cpu"))

    def kept(config: PMTConfig) -> Path:
        return Bench._made_path(bench, photographs(1), ("mobilefacenet",), 5, config, (), "contiguous")  # type: ignore[arg-type]

    before = kept(PMTConfig()), kept(DecoyConfig())
    assert before[0] != before[1]
    (tmp_path / "filters.py").write_text("changed")
    monkeypatch.setattr(filters, "__file__", str(tmp_path / "filters.py"))
    assert kept(PMTConfig()) == before[0]
    assert kept(DecoyConfig()) != before[1]


@pytest.mark.parametrize(
    "values",
    [{"variant": "pmt"}, {"anchor_weight": -1}, {"anchor_sigmas": ()}, {"anchor_sigmas": (0.0,)}, {"decoy": 1}],
)
def test_the_configuration_refuses_what_it_does_not_know(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DecoyConfig.model_validate(values)
