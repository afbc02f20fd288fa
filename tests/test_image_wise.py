"""Shallow models taken an image at a time on a processor: the same numbers as torch's layers, whatever the batch."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pmtlib
from pmtlib import costs
from pmtlib.errors import SlowWarning
from pmtlib.networks import image_wise
from pmtlib.networks.base import FaceNetwork
from pmtlib.networks.dlib_resnet import DlibResNet29
from pmtlib.networks.image_wise import ImageWise
from pmtlib.networks.mobilefacenet import CASIA, MS1M, SIRIUS, MobileFaceNet, Variant
from pmtlib.networks.sface import SFace
from pmtlib.shallow import ShallowModel

if image_wise.loops() is None:
    pytest.skip("no C compiler here: no loops for processors", allow_module_level=True)

CLOSE = 3e-3
"""Of derivatives: a number near 0 may fall on the other side of an activation's bend, at this place or that. A row at
the border that were wrong would be off by some hundredths."""


class Odd(FaceNetwork):
    """Layers of numbers of channels that fill no vector."""

    def __init__(self) -> None:
        units = {
            "picture": nn.Sequential(nn.Conv2d(3, 10, 5, stride=2, padding=1), nn.PReLU(10)),
            "wide": nn.Sequential(
                nn.Conv2d(10, 35, 3, padding=1), nn.PReLU(35), nn.Conv2d(35, 5, 3, padding=1), nn.MaxPool2d(2)
            ),
            "pool": nn.MaxPool2d(3, 2),
            "narrow": nn.Sequential(nn.Conv2d(5, 19, 1), nn.ReLU(), nn.Conv2d(19, 3, 3, padding=1)),
            "tall": nn.Sequential(nn.Conv2d(3, 33, 1), nn.PReLU(33)),
            "last": nn.Identity(),
        }
        super().__init__(units)

    def prepare(self, images: Tensor) -> Tensor:
        return images * 2 - 1


NETWORKS = {
    "sirius": lambda: MobileFaceNet(SIRIUS),
    "casia": lambda: MobileFaceNet(CASIA),
    "sface": SFace,
    "dlib": DlibResNet29,
    "odd": Odd,
}


def network(name: str) -> FaceNetwork:
    """Drawn weights, with slopes of both signs as trained networks have them: equations do not need trained ones."""
    generator = torch.Generator().manual_seed(3)
    made: FaceNetwork = NETWORKS[name]()
    for module in made.modules():
        if isinstance(module, nn.Conv2d):
            fan = module.weight[0].numel()
            module.weight.data.normal_(0, (2 / fan) ** 0.5, generator=generator)
            assert module.bias is not None
            module.bias.data.normal_(0, 0.1, generator=generator)
        if isinstance(module, nn.PReLU):
            module.weight.data.normal_(0, 0.5, generator=generator)
    return made.eval()


def drawn(count: int, height: int = 112, width: int = 112, seed: int = 0) -> Tensor:
    return torch.rand((count, 3, height, width), generator=torch.Generator().manual_seed(seed))


def model(name: str, cut: int) -> tuple[ImageWise, FaceNetwork]:
    """One as the transform has it, and the network in float64, to hold it against."""
    whole = network(name)
    found = ShallowModel(whole, cut, layout="channels_last").fused(drawn(1), 1, "float32")
    assert isinstance(found, ImageWise)
    exact = copy.deepcopy(whole).double()
    if isinstance(whole, DlibResNet29):
        # Where its chip samples a crop is rounded to float32: as much part of what it is as its weights.
        half = (112 - 1) / 2
        exact.grid = ((whole.grid + 1) * half).double() / half - 1
    return found, exact


def expected(exact: FaceNetwork, images: Tensor, cut: int, window: int) -> list[Tensor]:
    maps = exact.run_units(exact.prepare(images), 0, cut)
    return [nn.functional.avg_pool2d(one, window).permute(0, 2, 3, 1).flatten(1) for one in maps]


def off(found: Tensor, exact: Tensor) -> float:
    return float((found.detach().double() - exact.detach()).norm() / exact.detach().norm())


@pytest.mark.parametrize("window", [1, 2, 3])
@pytest.mark.parametrize(
    ("name", "cut"), [("sirius", 8), ("casia", 9), ("sface", 7), ("sface", 1), ("dlib", 5), ("dlib", 2), ("odd", 5)]
)
def test_means_and_their_derivative_are_those_of_the_layers(name: str, cut: int, window: int) -> None:
    found, exact = model(name, cut)
    images = drawn(2)
    wanted = [*range(cut)] if window == 2 else sorted({0, cut - 1})
    seen = images.clone().requires_grad_(True)
    means = found.means(seen, wanted, window)
    right = images.double().requires_grad_(True)
    whole = expected(exact, right, cut, window)
    weights = [torch.randn(one.shape, generator=torch.Generator().manual_seed(7)) for one in means]
    for own, place in zip(means, wanted, strict=True):
        assert off(own, whole[place]) < 1e-5
    sum((own * weight).sum() for own, weight in zip(means, weights, strict=True)).backward()
    sum((whole[place] * weight).sum() for place, weight in zip(wanted, weights, strict=True)).backward()
    assert off(seen.grad, right.grad) < CLOSE
    plain = found.means(images, wanted, window)
    assert all(torch.equal(one, other) for one, other in zip(plain, means, strict=True))
    squares = sum(one.double().square().sum(1) for one in plain)
    assert plain.squares is not None
    assert torch.allclose(plain.squares, squares, rtol=1e-6)


@pytest.mark.parametrize("size", [(37, 61), (112, 96), (24, 24)])
@pytest.mark.parametrize("name", ["sirius", "casia", "sface", "dlib", "odd"])
def test_pictures_of_odd_sizes_are_served(name: str, size: tuple[int, int]) -> None:
    """One variant of MobileFaceNet sees some columns, and what it does not see has no derivative."""
    found, exact = model(name, 5)
    images = drawn(2, size[0], 112 if name == "sirius" else size[1])
    seen, right = images.clone().requires_grad_(True), images.double().requires_grad_(True)
    means, whole = found.means(seen, range(5), 2), expected(exact, right, 5, 2)
    assert [one.shape for one in means] == [one.shape for one in whole]
    torch.cat(means, 1).sin().sum().backward()
    torch.cat(whole, 1).sin().sum().backward()
    assert off(torch.cat(means, 1), torch.cat(whole, 1)) < 1e-5
    assert off(seen.grad, right.grad) < CLOSE


def test_the_distance_and_its_derivative_are_those_of_the_means() -> None:
    found, exact = model("sirius", 5)
    images, photographs = drawn(3), drawn(3, seed=1)
    goal = found.means(photographs, range(5), 2)
    seen, right = images.clone().requires_grad_(True), images.double().requires_grad_(True)
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    squares = found.distance(seen, goal, range(5), 2)
    (squares * weights).sum().backward()
    targets = expected(exact, photographs.double(), 5, 2)
    gaps = zip(expected(exact, right, 5, 2), targets, strict=True)
    whole = torch.stack([(own - target).square().sum(1) for own, target in gaps]).sum(0)
    (whole * weights).sum().backward()
    assert off(squares, whole) < 1e-5
    assert off(seen.grad, right.grad) < CLOSE
    # Loops in C would read beyond the end of a goal of other images or windows.
    for wrong in (found.means(photographs[:2], range(5), 2), found.means(photographs, range(5), 3)):
        with pytest.raises(ValueError, match="is not of these units and images"):
            found.distance(images, wrong, range(5), 2)
    # A goal that was put together anew has no whole beside it.
    assert torch.equal(found.distance(images, [one.clone() for one in goal], range(5), 2), squares.detach())
    # Of some units alone, and of the outputs themselves.
    goal, seen, right = found.means(photographs, [4], 1), images.clone().requires_grad_(True), right.detach()
    squares = found.distance(seen, goal, [4], 1)
    squares.sum().backward()
    own = right.requires_grad_(True)
    gap = expected(exact, own, 5, 1)[4] - expected(exact, photographs.double(), 5, 1)[4]
    own.grad = None
    gap.square().sum().backward()
    assert off(squares, gap.square().sum(1)) < 1e-5
    assert off(seen.grad, own.grad) < CLOSE


def test_means_come_in_the_order_asked_for() -> None:
    found, _ = model("sirius", 4)
    images = drawn(2).requires_grad_(True)
    usual, turned = found.means(images, [0, 2, 3], 2), found.means(images, [3, 0, 2], 2)
    assert all(torch.equal(one, usual[place]) for one, place in zip(turned, (2, 0, 1), strict=True))
    assert all(
        torch.equal(one, usual[place])
        for one, place in zip(found.means(images.detach(), [3, 0, 2], 2), (2, 0, 1), strict=True)
    )
    gradients = [
        torch.autograd.grad(found.distance(images, found.means(drawn(2, seed=1), wanted, 2), wanted, 2).sum(), images)[
            0
        ]
        for wanted in ([0, 2, 3], [3, 0, 2])
    ]
    assert torch.equal(*gradients)


def test_what_is_no_number_is_not_lost_in_a_maximum() -> None:
    found, exact = model("dlib", 2)
    images = drawn(1)
    images[0, 1, 50, 60] = torch.nan
    (own,), right = found.means(images, [1], 1), expected(exact, images.double(), 2, 1)[1]
    assert right.isnan().any()
    assert torch.equal(own.isnan(), right.isnan())


def test_the_feature_is_the_last_units_output() -> None:
    found, exact = model("casia", 5)
    images = drawn(2)
    whole = exact.run_units(exact.prepare(images.double()), 0, 5)[-1]
    assert found.feature(images).shape == whole.shape
    assert off(found.feature(images), whole) < 1e-5


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sirius", {}),
        ("sirius", {"stop_cosine": 0.9}),
        ("sirius", {"aggregate": False}),
        ("sirius", {"aggregate": False, "augmentation": "none", "rule": "adam", "step_size": 0.06}),
        ("sirius", {"augmentation": "none", "rule": "adam", "step_size": 0.06, "stop_cosine": 0.9}),
        ("sirius", {"augmentation": "none"}),
        ("dlib", {}),
    ],
)
def test_images_are_those_of_the_plain_path(
    name: str, options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = pmtlib.PMTConfig(steps=4, batch_size=3, **options)  # type: ignore[arg-type]
    shallow = ShallowModel(network(name), 4, layout="channels_last")
    images = drawn(5)
    calls = []
    forward = image_wise._Room.forward
    monkeypatch.setattr(image_wise._Room, "forward", lambda *given: calls.append(1) or forward(*given))
    made = pmtlib.protect(images, [shallow], config)
    taken = len(calls)
    monkeypatch.setattr(ShallowModel, "fused", lambda *given: None)
    plain = pmtlib.protect(images, [shallow], config)
    assert taken > 0
    assert len(calls) == taken
    # Adam divides what is nearly 0 by its size: where that is rounding alone a pixel goes the other way.
    some = 10 if config.rule == "adam" else 1
    assert off(made.images, plain.images) < some * CLOSE
    assert torch.allclose(made.trace, plain.trace, rtol=some * 1e-3, equal_nan=True)
    assert off(made.features[0], plain.features[0]) < some * CLOSE
    assert torch.allclose(made.cosine, plain.cosine, atol=some * 1e-4)


def test_bits_depend_neither_on_the_batch_nor_on_the_threads() -> None:
    shallow, images = ShallowModel(network("sface"), 4, layout="channels_last"), drawn(5)
    threads = torch.get_num_threads()
    found = []
    try:
        for count, size in ((1, 1), (2, 2), (3, 5)):
            torch.set_num_threads(count)
            given = shallow.fused(images, 2, "float32")
            assert given is not None
            parts = [images[place : place + size] for place in range(0, 5, size)]
            goals = [given.means(part.flip(2), range(4), 2) for part in parts]
            seen = [part.clone().requires_grad_(True) for part in parts]
            for part, goal in zip(seen, goals, strict=True):
                given.distance(part, goal, range(4), 2).sum().backward()
            found.append((torch.cat([torch.cat(goal, 1) for goal in goals]), torch.cat([part.grad for part in seen])))
    finally:
        torch.set_num_threads(threads)
    for one, other in pairwise(found):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"augmentation": "none", "rule": "l1", "kernel_length": 2},
        {"augmentation": "none", "rule": "adam", "aggregate": False},
    ],
)
def test_nothing_of_an_image_hangs_on_its_batch_and_none_is_filled_up(
    options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [ShallowModel(network(name), 3, layout="channels_last") for name in ("sirius", "sface")]
    images, steps = drawn(5), 4
    calls = []
    forward = image_wise._Room.forward
    monkeypatch.setattr(image_wise._Room, "forward", lambda *given: calls.append(1) or forward(*given))
    threads = torch.get_num_threads()
    found = []
    try:
        for count, size, chosen in ((2, 8, [slice(0, 5)]), (1, 3, [slice(0, 2), slice(2, 5)]), (3, 8, range(5))):
            torch.set_num_threads(count)
            config = pmtlib.PMTConfig(steps=steps, batch_size=size, **options)  # type: ignore[arg-type]
            calls.clear()
            parts = [images[one if isinstance(one, slice) else slice(one, one + 1)] for one in chosen]
            found.append([pmtlib.protect(part, models, config) for part in parts])
            # A step looks at the upload, and at the photograph where that is augmented; the end at both, or at one.
            looks = steps + 1 if options else 2 * steps + 1
            assert len(models) * 5 * looks <= len(calls) <= len(models) * 5 * (looks + 2)
    finally:
        torch.set_num_threads(threads)
    for name in ("images", "features", "trace", "steps", "error", "cosine"):
        values = [[getattr(part, name) for part in parts] for parts in found]
        if name == "features":
            values = [[torch.cat([one.flatten(1) for one in part], 1) for part in parts] for parts in values]
        one, *others = [torch.cat(parts) for parts in values]
        assert all(torch.equal(one, other) for other in others), name


def test_one_that_does_not_stay_finite_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    shallow = ShallowModel(network("sirius"), 3, layout="channels_last")
    images, config = drawn(3), pmtlib.PMTConfig(steps=3)
    right = pmtlib.protect(images, [shallow], config, keep=[1])
    backward = image_wise._Room.backward
    calls = []

    def broken(room: object, means: object, out: Tensor, *signs: object) -> None:
        backward(room, means, out, *signs)  # type: ignore[arg-type]
        calls.append(1)
        if len(calls) == 3 + 2:  # the second image's second step
            out[0, 50, 50] = float("nan")

    monkeypatch.setattr(image_wise._Room, "backward", broken)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    made = pmtlib.protect(images, [shallow], config)
    assert made.finite.tolist() == [True, False, True]
    assert torch.equal(made.images[1], right.kept[0, 1])
    assert torch.equal(made.images[[0, 2]], right.images[[0, 2]])


@pytest.mark.parametrize("radius", [0, 1, 4, 20])
@pytest.mark.parametrize("size", [(112, 112), (7, 300), (30, 5)])
def test_a_step_is_that_of_torch(radius: int, size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    gradient = torch.randn((4, 3, *size), generator=generator)
    current, factor = drawn(4, *size), torch.tensor([0.01, 0.3, 0.0, 1e-4])
    kernel = torch.rand((1, 2 * radius + 1, 2 * radius + 1), generator=generator)
    kernel /= kernel.sum()
    smoothed = nn.functional.conv2d(gradient.double(), kernel.double().expand(3, 1, -1, -1), padding=radius, groups=3)
    right = (current - factor.view(-1, 1, 1, 1) * smoothed).clamp(0, 1)
    untouched = current[2].clone()
    gradient[2, 0, 0, 0] = float("nan")
    image_wise.move_(current, gradient, factor, kernel)
    assert torch.equal(current[2], untouched)
    assert float((current - right).abs().max()) < 1e-6
    assert not torch.equal(current[0], drawn(4, *size)[0])
    sizes = image_wise.row_sizes(gradient)
    assert sizes[2].isnan()
    assert torch.allclose(sizes[:2], gradient[:2].double().abs().flatten(1).sum(1), rtol=1e-12)
    assert image_wise.row_sizes(torch.full((1, 3), -torch.inf)).item() == torch.inf


@pytest.mark.parametrize("radius", [0, 2])
@pytest.mark.parametrize("size", [(112, 112), (7, 300), (30, 5)])
def test_a_step_of_adam_is_that_of_torch(radius: int, size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    kernel = torch.rand((1, 2 * radius + 1, 2 * radius + 1), generator=generator)
    kernel /= kernel.sum()
    current, factors = drawn(3, *size), [0.01, 0.0, 0.3]
    right, untouched = current.double().requires_grad_(True), current[1].clone()
    moments = (torch.zeros_like(current), torch.zeros_like(current))
    adam = torch.optim.Adam([right], lr=1.0, betas=(0.9, 0.999), eps=1e-12)
    for step in range(3):
        gradient = torch.randn((3, 3, *size), generator=generator)
        smoothed = nn.functional.conv2d(
            gradient.double(), kernel.double().expand(3, 1, -1, -1), padding=radius, groups=3
        )
        before = right.detach().clone()
        right.grad = smoothed
        adam.step()
        moved = torch.tensor(factors).view(-1, 1, 1, 1) * (right.detach() - before)
        right.data.copy_((before + moved).clamp(0, 1))
        gradient[1, 0, 0, 0] = float("nan")
        image_wise.adapt_(
            current, gradient, moments, factors, [(1 - 0.9 ** (step + 1), 1 - 0.999 ** (step + 1))] * 3, kernel
        )
    assert torch.equal(current[1], untouched)
    assert not moments[0][1].any()
    # Where a gradient is nearly 0 its rounding is divided by its size.
    apart = (current - right.detach()).abs()
    assert float(apart.mean()) < 1e-6
    assert float(apart.max()) < 1e-3
    assert not torch.equal(current[0], drawn(3, *size)[0])


def test_where_there_is_nothing_to_go_by_nothing_moves() -> None:
    """Blurred, a black photograph is what it was: no gradient, and a step that is large beside a norm of 0."""
    shallow = ShallowModel(network("sirius"), 3, layout="channels_last")
    config = pmtlib.PMTConfig(steps=2, rule="l1", step_size=590.0, initialisation="blur")
    made = pmtlib.protect(torch.zeros((1, 3, 112, 112)), [shallow], config)
    assert made.finite.all()
    assert torch.equal(made.images, torch.zeros((1, 3, 112, 112)))


def test_images_that_stop_have_the_bits_of_each_alone() -> None:
    shallow = ShallowModel(network("sirius"), 3, layout="channels_last")
    images = drawn(5)
    config = pmtlib.PMTConfig(steps=8, stop_cosine=0.83, batch_size=2)
    together = pmtlib.protect(images, [shallow], config, keep=[0, 3, 8])
    assert len(set(together.steps.tolist())) > 1
    for place, image in enumerate(images):
        alone = pmtlib.protect(image[None], [shallow], config, keep=[0, 3, 8])
        assert torch.equal(alone.images[0], together.images[place])
        assert torch.equal(alone.kept[:, 0], together.kept[:, place])


def test_a_preparation_of_its_own_is_asked() -> None:
    class Darker(SFace):
        def prepare(self, images: Tensor) -> Tensor:
            return super().prepare(images) * 0.5

    torch.manual_seed(0)
    own = Darker().eval()
    found = ShallowModel(own, 1, layout="channels_last").fused(drawn(1), 2, "float32")
    assert found is not None
    assert (
        off(found.means(drawn(2), [0], 2)[0], expected(copy.deepcopy(own).double(), drawn(2).double(), 1, 2)[0]) < 1e-5
    )


def test_noise_is_that_of_each_rows_generator() -> None:
    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in (5, 6, 7)]

    first, second = drawn(3), drawn(3, seed=1)
    noise = torch.stack([torch.empty_like(first[0]).normal_(generator=one) for one in generators()]) * 0.1
    made = image_wise.noised(first, second, generators(), 0.1)
    assert all(torch.equal(own, given + noise) for own, given in zip(made, (first, second), strict=True))


def test_what_is_of_another_kind_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    images = drawn(1)

    def served(whole: FaceNetwork, images: Tensor = images, **options: object) -> bool:
        shallow = ShallowModel(whole.eval(), **{"cut": 5, "layout": "channels_last", **options})  # type: ignore[arg-type]
        return shallow.fused(images, 2, "float32") is not None

    variant: Variant = MS1M
    assert served(network("sirius"))
    assert not served(network("sirius"), layout="contiguous")
    assert not served(network("sirius"), drawn(1).double())
    assert not served(MobileFaceNet(variant))
    assert served(DlibResNet29())
    assert not served(DlibResNet29(), cut=6)
    shallow = ShallowModel(network("sirius"), 5, layout="channels_last")
    assert shallow.fused(drawn(1), 29, "float32") is None
    monkeypatch.setattr(image_wise, "loops", lambda: None)
    assert not served(network("sirius"))


@pytest.mark.parametrize("changes", [{}, {"stop_error": 1e-9}, {"rule": "adam", "aggregate": False}])
def test_torchs_default_dtype_changes_no_bit(changes: dict[str, Any]) -> None:
    """The loops read and write float32, whatever numbers are where nobody says so."""
    config = pmtlib.PMTConfig(steps=2, batch_size=2, **changes)
    images, shallow = drawn(2), [ShallowModel(network(name), 3, layout="channels_last") for name in ("sface", "sirius")]
    others = copy.deepcopy(shallow)
    usual = pmtlib.protect(images, shallow, config)
    torch.set_default_dtype(torch.float64)
    try:
        found = pmtlib.protect(images, others, config)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found.images, usual.images)
    assert all(torch.equal(one, other) for one, other in zip(found.features, usual.features, strict=True))
    assert torch.equal(found.error, usual.error)


def test_weights_that_are_loaded_later_count() -> None:
    shallow, other = (ShallowModel(network("sface"), 2, layout="channels_last") for _ in range(2))
    images = drawn(1)
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(0.9)
    before = shallow.fused(images, 2, "float32")
    assert before is not None
    # As a part of another module too.
    nn.Sequential(copy.deepcopy(shallow), shallow).load_state_dict(nn.Sequential(other, other).state_dict())
    after, wanted = shallow.fused(images, 2, "float32"), other.fused(images, 2, "float32")
    assert after is not None
    assert wanted is not None
    assert torch.equal(after.feature(images), wanted.feature(images))
    assert not torch.equal(after.feature(images), before.feature(images))
    assert pickle.loads(pickle.dumps(shallow)).fused(images, 2, "float32") is not None


def test_a_copy_of_a_model_makes_its_own() -> None:
    shallow = ShallowModel(network("sface"), 2, layout="channels_last")
    found = shallow.fused(drawn(1), 2, "float32")
    assert found is not None
    for other in (copy.deepcopy(shallow), pickle.loads(pickle.dumps(shallow))):
        made = other.fused(drawn(1), 2, "float32")
        assert made is not None
        assert made is not found
        assert torch.equal(made.feature(drawn(1)), found.feature(drawn(1)))
    assert shallow.fused(drawn(1), 2, "float32") is found


def test_no_image_is_no_work() -> None:
    found, _ = model("sface", 3)
    assert [one.shape[0] for one in found.means(drawn(0), range(3), 2)] == [0, 0, 0]
    shallow = ShallowModel(network("sface"), 3, layout="channels_last")
    assert pmtlib.protect(drawn(0), [shallow]).images.shape == (0, 3, 112, 112)


def test_an_error_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = model("sface", 1)
    program = found.program(drawn(1), (), 1)
    done: list[int] = []

    def work(place: int, room: object) -> None:
        if place == 1:
            raise ValueError("no such place")
        time.sleep(0.05)
        done.append(place)

    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with pytest.raises(ValueError, match="no such place"):
        found.in_parallel(work, 50, program, 1)
    assert len(done) <= 1


def test_an_error_is_not_taken_for_the_end() -> None:
    found, _ = model("sface", 1)
    with pytest.raises(IndexError, match="out of range"):
        found.in_parallel(lambda place, room: [][place], 3, found.program(drawn(1), (), 1), 1)


FORKING = """
import multiprocessing
import torch
from tests.test_image_wise import drawn, model

torch.get_num_threads = lambda: 2  # ours alone: torch's own threads do not live through a fork

def found(images):
    units, _ = model("sface", 2)
    return torch.cat(units.means(images, [0, 1], 2), 1)

images = drawn(2)
right = found(images)
with multiprocessing.get_context("fork").Pool(1) as pool:
    assert torch.equal(pool.apply_async(found, (images,)).get(60), right)
"""


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
def test_a_forked_child_has_threads_of_its_own() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", FORKING],
        cwd=Path(__file__).parents[1], env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_what_a_step_costs_is_counted_by_the_layers() -> None:
    """The plain path is what is counted, whatever computes: a step's cost must not vanish with it."""
    forward, backward = costs.step_cost(ShallowModel(network("sirius"), 3), drawn(2))
    assert forward.flops > 1e7
    assert backward.flops > 1e7


# ----------------------------------------------------------------------------------------------------------- building


@pytest.fixture
def unbuilt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """As on a machine that has built nothing yet."""
    monkeypatch.setenv("PMT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(image_wise, "loops", image_wise.loops.__wrapped__)
    return tmp_path / "cache" / "loops"


def test_loops_are_built_once_for_a_processor(unbuilt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert image_wise.loops() is not None
    (built,) = unbuilt.iterdir()
    monkeypatch.setattr(image_wise.subprocess, "run", lambda *given, **more: pytest.fail("built again"))
    assert image_wise.loops() is not None
    monkeypatch.undo()
    monkeypatch.setenv("PMT_CACHE", str(unbuilt.parent))
    monkeypatch.setattr(image_wise, "_processor", lambda: "flags: another")
    assert image_wise.loops.__wrapped__() is not None
    assert len(list(unbuilt.iterdir())) == 2
    assert built.is_file()


def test_without_a_compiler_torch_does_it_all(unbuilt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(unbuilt))
    with pytest.warns(SlowWarning, match=r"no C compiler here .* Remedy: install one such as gcc"):
        assert image_wise.loops() is None
    monkeypatch.setattr(image_wise, "loops", lambda: None)
    shallow = ShallowModel(network("sface"), 2, layout="channels_last")
    assert shallow.fused(drawn(1), 2, "float32") is None
    made = pmtlib.protect(drawn(1), [shallow], pmtlib.PMTConfig(steps=1, batch_size=1))
    assert bool(made.finite.all())


def test_a_compiler_that_knows_nothing_of_the_processor_will_do(
    unbuilt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = image_wise._compiler()
    assert compiler is not None
    plain = tmp_path / "plain"
    plain.write_text(
        '#!/bin/sh\nfor word in "$@"; do [ "$word" = -march=native ] && echo "no such option" >&2 && exit 1; done\n'
        f'exec {" ".join(compiler)} "$@"\n'
    )
    plain.chmod(0o755)
    monkeypatch.setenv("CC", str(plain))
    assert image_wise.loops() is not None
    assert len(list(unbuilt.iterdir())) == 1


def test_a_compiler_whose_name_is_no_command_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = image_wise._compiler()
    monkeypatch.setenv("CC", "'clang")
    assert image_wise._compiler() in (usual, ["cc"], ["gcc"], ["clang"])


def test_processors_are_told_apart_where_the_system_has_no_list_of_instructions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*given: object, **more: object) -> str:
        raise OSError

    found = []
    monkeypatch.setattr(image_wise.Path, "read_text", refuse)
    for brand in "Apple M1\n", "Apple M4\n":
        monkeypatch.setattr(
            image_wise.subprocess, "run", lambda *_, brand=brand, **__: subprocess.CompletedProcess([], 0, brand)
        )
        found.append(image_wise._processor())
    assert "Apple M1" in found[0]
    assert found[0] != found[1]
    monkeypatch.setattr(image_wise.subprocess, "run", refuse)
    assert image_wise._processor().strip() == image_wise.platform.processor()


def test_a_compiler_that_fails_is_told_in_one_line(
    unbuilt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'fatal error: string.h: No such file' >&2\necho more >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    with pytest.warns(
        SlowWarning, match=r"cannot build its loops \(fatal error: string.h: No such file\). Remedy"
    ) as told:
        assert image_wise.loops() is None
    assert len(told) == 1
    assert list(unbuilt.glob("*")) == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="whoever may write anywhere is not kept out")
def test_a_cache_that_cannot_be_written_to_is_told(
    unbuilt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.warns(SlowWarning, match="PMT_CACHE"):
            assert image_wise.loops() is not None
    finally:
        tmp_path.chmod(0o700)


def test_where_the_cache_cannot_be_written_to_the_loops_lie_elsewhere_until_the_end(unbuilt: Path) -> None:
    script = """
import tempfile, sys
from pathlib import Path
from pmtlib.networks import image_wise
assert image_wise.loops() is not None
(made,) = Path(tempfile.gettempdir()).glob("pmtlib-loops-*/*.so")
assert made.parent.stat().st_mode & 0o77 == 0
"""
    place = unbuilt.parent.parent / "temporary"
    place.mkdir()
    unbuilt.parent.write_text("in the way")
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "TMPDIR": str(place)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "SlowWarning: the transform's loops are built anew by each process" in done.stderr
    assert not list(place.iterdir())
