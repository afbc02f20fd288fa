"""Algorithm 1, Algorithm 2 and Eq. 8, each re-derived here in plain loops and float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from kornia.filters import filter2d
from pydantic import ValidationError

from pmtlib import datasets, metrics, transform
from pmtlib.errors import ConfigError
from pmtlib.images import to_tensor
from pmtlib.shallow import ShallowModel
from pmtlib.transform import PMTConfig, Run, image_seed, protect, row_sums, smoothing_kernel
from tests.oracles import network_or_skip
from tests.small_network import SmallNetwork, photographs

PLAIN = {"augmentation": "none", "aggregate": False, "kernel": "none", "relative": False}


def shallow(seed: int = 0, cut: int = 2, dtype: torch.dtype = torch.float64) -> ShallowModel:
    return ShallowModel(SmallNetwork(seed).to(dtype), cut)


def start(image: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, torch.Generator]:
    """The starting noise of one image and its generator, ready for the augmentation draws."""
    generator = torch.Generator().manual_seed(image_seed(seed, image))
    noise = torch.empty_like(image).normal_(generator=generator)
    return (0.5 + 0.5 * noise).clamp(0, 1), generator


def derivative(loss, image: torch.Tensor) -> torch.Tensor:
    candidate = image.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(candidate), candidate)
    return gradient


def test_algorithm_1_is_gradient_descent_on_the_shallow_feature_distance():
    x = photographs(2, dtype=torch.float64)
    model = shallow()
    config = PMTConfig(steps=4, step_size=0.01, rule="raw", **PLAIN)
    result = protect(x, [model], config)
    for i in range(2):
        current, _ = start(x[i])
        z = model.feature(x[i][None])[0]
        for step in range(4):

            def loss(candidate, z=z):
                total = candidate.new_zeros(())
                for own, goal in zip(model.feature(candidate[None])[0].flatten(), z.flatten(), strict=True):
                    total = total + (goal - own) ** 2
                return total

            assert float(result.trace[i, step]) == pytest.approx(float(loss(current)), rel=1e-6)
            current = (current - 0.01 * derivative(loss, current)).clamp(0, 1)
        torch.testing.assert_close(result.images[i], current, rtol=0, atol=1e-12)
        torch.testing.assert_close(result.features[0][i], model.feature(current[None])[0])


def loop_average_pool(feature: torch.Tensor, window: int) -> list[torch.Tensor]:
    channels, height, width = feature.shape
    cells = []
    for c in range(channels):
        for i in range(height // window):
            for j in range(width // window):
                cells.append(
                    sum(feature[c, i * window + a, j * window + b] for a in range(window) for b in range(window))
                    / window**2
                )
    return cells


def loop_convolve(image: torch.Tensor, kernel: list[list[float]]) -> torch.Tensor:
    """'Same' convolution with zeros outside, one channel at a time."""
    k = len(kernel) // 2
    out = torch.zeros_like(image)
    channels, height, width = image.shape
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                for i in range(-k, k + 1):
                    for j in range(-k, k + 1):
                        if 0 <= y + i < height and 0 <= x + j < width:
                            out[c, y, x] += kernel[i + k][j + k] * image[c, y + i, x + j]
    return out


def loop_kernel(kind: str, k: int) -> list[list[float]]:
    raw = []
    for i in range(-k, k + 1):
        row = []
        for j in range(-k, k + 1):
            if kind == "linear":
                row.append((1 - abs(i) / (k + 1)) * (1 - abs(j) / (k + 1)))
            else:
                sigma = k / math.sqrt(3)
                row.append(1 / (2 * math.pi * sigma**2) * math.exp(-(i**2 + j**2) / (2 * sigma**2)))
        raw.append(row)
    total = sum(sum(row) for row in raw)
    return [[value / total for value in row] for row in raw]


def test_algorithm_2_pools_all_layers_normalises_by_l1_and_smooths():
    x = photographs(2, size=8, dtype=torch.float64)
    model = shallow()
    config = PMTConfig(
        steps=3, step_size=2.0, rule="l1", augmentation="noise", noise_std=0.05, pool=2, kernel="gaussian",
        kernel_length=1, relative=False,
    )  # fmt: skip
    result = protect(x, [model], config)
    kernel = loop_kernel("gaussian", 1)
    for i in range(2):
        current, generator = start(x[i])
        for step in range(3):
            noise = 0.05 * torch.empty_like(x[i]).normal_(generator=generator)
            z = [cell for output in model((x[i] + noise)[None]) for cell in loop_average_pool(output[0], 2)]

            def loss(candidate, noise=noise, z=z):
                own = [cell for out in model((candidate + noise)[None]) for cell in loop_average_pool(out[0], 2)]
                return sum((a - b) ** 2 for a, b in zip(z, own, strict=True))

            assert float(result.trace[i, step]) == pytest.approx(float(loss(current)), rel=1e-6)
            gradient = derivative(loss, current)
            delta = loop_convolve(gradient / sum(abs(float(g)) for g in gradient.flatten()), kernel)
            current = (current - 2.0 * delta).clamp(0, 1)
        torch.testing.assert_close(result.images[i], current, rtol=0, atol=1e-10)


@pytest.mark.parametrize("augmentation", ["none", "affine"])
@pytest.mark.parametrize("distance", ["squared", "norm"])
@pytest.mark.parametrize(("rule", "alpha"), [("mean-abs", 4 / 255), ("l1", 2.0), ("raw", 0.05)])
def test_float32_stays_within_a_bound_of_float64(rule, alpha, distance, augmentation):
    """From one start: noise is drawn anew for each type of number, so the start is a blur.

    The bound is 8 units in the last place of 1 for the start and for each step: a pixel is rounded once a step, and the
    gradient, a sum of some hundred products, to a few units. Later a PReLU's kink may be met from its other side, and
    what that moves is far less than half a level of 8 bits. Rules that take signs have no bound: of a gradient near 0,
    rounding decides the sign.
    """
    x = photographs(4, dtype=torch.float64)
    ulp = torch.finfo(torch.float32).eps
    for steps, bound in ((0, 8 * ulp), (1, 16 * ulp), (10, 88 * ulp), (25, 0.5 / 255)):
        config = PMTConfig(
            steps=steps, step_size=alpha, rule=rule, distance=distance, augmentation=augmentation, batch_size=4,
            initialisation="blur", blur_start=4,
        )  # fmt: skip
        exact = protect(x, [shallow()], config)
        single = protect(x.float(), [shallow(dtype=torch.float32)], config)
        assert (exact.images.dtype, single.images.dtype) == (torch.float64, torch.float32)
        assert float((exact.images - single.images.double()).abs().max()) <= bound, steps
        if 0 < steps <= 10:
            torch.testing.assert_close(single.trace, exact.trace, rtol=1e-5, atol=0)


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("pool", [None, 1, 2, 3, 5])
@pytest.mark.parametrize("distance", ["squared", "norm"])
def test_the_gradient_of_a_step_is_that_of_the_loss_by_central_differences(distance, pool, relative):
    """The gradient that a step takes, for every pixel; ``pool`` None is the last map alone. Layers are frozen, with
    backward passes of their own, and windows of 3 leave a rest of the maps of 8x8 and 4x4."""
    seen = []

    class Seeing(Run):
        def _direction(self, gradient):
            seen.append(gradient.clone())
            return super()._direction(gradient)

    config = PMTConfig(
        steps=1, rule="raw", distance=distance, aggregate=pool is not None, pool=pool or 1, relative=relative,
        augmentation="none", kernel="none",
    )  # fmt: skip
    x = photographs(2, dtype=torch.float64)
    models = [shallow(0), shallow(3, cut=1)]
    run = Seeing(x, models, [1.0, 0.25], config, 0, [])

    def loss(candidate):
        errors, _ = run._errors(candidate, run.fixed_target)
        return run._combine(errors)

    begun, step = run.current.clone(), 1e-6
    run.step()
    (gradient,) = seen
    assert gradient.dtype == torch.float64
    expected = torch.empty_like(begun)
    # Images do not mix, so both are moved at once.
    for place in range(begun[0].numel()):
        moved = torch.zeros_like(begun).flatten(1)
        moved[:, place] = step
        moved = moved.view_as(begun)
        expected.flatten(1)[:, place] = (loss(begun + moved) - loss(begun - moved)) / (2 * step)
    # Differences of a loss of about 1 are good to 1e-16 / 1e-6, and the square of the step is far below that.
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-8 * max(1.0, float(expected.abs().max())))


def test_equation_8_sums_the_norms_of_all_models_with_their_weights():
    x = photographs(1, dtype=torch.float64)
    models = [shallow(0), shallow(3, cut=1)]
    config = PMTConfig(steps=2, step_size=0.05, rule="raw", distance="norm", weights=(1.0, 0.25), **PLAIN)
    result = protect(x, models, config)
    current, _ = start(x[0])
    for step in range(2):

        def loss(candidate):
            total = candidate.new_zeros(())
            for weight, model in zip((1.0, 0.25), models, strict=True):
                difference = (model.feature(candidate[None]) - model.feature(x)).flatten()
                total = total + weight * sum(d**2 for d in difference) ** 0.5
            return total

        assert float(result.trace[0, step]) == pytest.approx(float(loss(current)), rel=1e-6)
        current = (current - 0.05 * derivative(loss, current)).clamp(0, 1)
    torch.testing.assert_close(result.images[0], current, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("sign", lambda g: np.sign(g)),
        ("mean-abs", lambda g: g / np.mean(np.abs(g))),
        ("l1", lambda g: g / np.sum(np.abs(g))),
        ("adam", lambda g: g / (np.abs(g) + 1e-12)),  # the bias-corrected first step
    ],
)
def test_each_rule_turns_the_gradient_into_its_step(rule, expected):
    x = photographs(1, dtype=torch.float64)
    model = shallow()
    alpha = 1e-3 if rule != "l1" else 1e-1
    start_image = protect(x, [model], PMTConfig(steps=0, noise_start=0.1, **PLAIN)).images
    result = protect(x, [model], PMTConfig(steps=1, step_size=alpha, rule=rule, noise_start=0.1, **PLAIN))
    gradient = derivative(lambda c: (model.feature(c) - model.feature(x)).square().sum(), start_image).numpy()
    moved = (start_image - result.images).numpy()
    np.testing.assert_allclose(moved, alpha * expected(gradient), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("kind", ["linear", "gaussian"])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_kernels_are_the_formulas_of_section_5_3(kind, k):
    kernel = smoothing_kernel(kind, k)
    np.testing.assert_allclose(kernel.numpy(), np.array(loop_kernel(kind, k)), rtol=1e-12)
    assert kernel.shape == (2 * k + 1, 2 * k + 1)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_is_smoothed_with_zeros_around_it(k, dtype):
    kernel = torch.rand((1, 2 * k + 1, 2 * k + 1), generator=torch.Generator().manual_seed(0)).to(dtype)
    image = photographs(2, dtype=dtype)[:, :, :9, :12]
    found = transform._smoothed(image, kernel)
    assert found.is_contiguous()
    assert torch.equal(found, filter2d(image, kernel, border_type="constant"))
    padded = np.pad(image.numpy(), ((0, 0), (0, 0), (k, k), (k, k)))
    for row, column in ((0, 0), (4, 5), (8, 11)):
        window = padded[:, :, row : row + 2 * k + 1, column : column + 2 * k + 1]
        wanted = (window * kernel.numpy()).sum((2, 3))
        np.testing.assert_allclose(found[:, :, row, column].numpy(), wanted, rtol=1e-5)


def test_the_squared_distance_has_the_bits_of_torch_and_the_derivative_of_both_sides():
    own, goal = (torch.randn((3, 40), generator=torch.Generator().manual_seed(seed)) for seed in range(2))

    def plain(one, other):
        return row_sums((one - other).square())

    found = []
    for distance in (plain, transform._RowDistance.apply):
        sides = [side.clone().requires_grad_(True) for side in (own, goal)]
        total = distance(*sides)
        found.append((total, *torch.autograd.grad((total * torch.tensor([0.1, 3.0, -2.0])).sum(), sides)))
    for torchs, ours in zip(*found, strict=True):
        assert torch.equal(torchs, ours)


class DarkConfig(PMTConfig):
    """A variant: bright images are penalised."""

    darkness: float = 0.0

    @property
    def run(self):
        return DarkRun


class DarkRun(Run):
    config: DarkConfig

    def _penalty(self, candidate, transform, target):
        return self.config.darkness * candidate.square().flatten(1).sum(1)

    def _step_size(self, step):
        return self.config.step_size / (1 + step)


def test_a_variant_adds_its_penalty_and_sets_the_step():
    x = photographs(2, dtype=torch.float64)
    model = shallow()
    result = protect(x, [model], DarkConfig(steps=3, step_size=0.01, rule="raw", darkness=0.2, **PLAIN))
    for i in range(2):
        current, _ = start(x[i])
        z = model.feature(x[i][None])[0]
        for step in range(3):

            def loss(candidate, z=z):
                own = model.feature(candidate[None]).flatten()
                total = sum((a - b) ** 2 for a, b in zip(z.flatten(), own, strict=True))
                return total + 0.2 * sum(value**2 for value in candidate.flatten())

            assert float(result.trace[i, step]) == pytest.approx(float(loss(current)), rel=1e-6)
            current = (current - 0.01 / (1 + step) * derivative(loss, current)).clamp(0, 1)
        torch.testing.assert_close(result.images[i], current, rtol=0, atol=1e-12)


def test_a_variant_may_match_an_embedding_in_place_of_the_features():
    network = SmallNetwork().double()

    class HeadRun(Run):
        def _aggregate(self, outputs, model):
            assert model == 0
            return [network.units[-1](outputs[-1])]

    class HeadConfig(PMTConfig):
        @property
        def run(self):
            return HeadRun

    x = photographs(2, dtype=torch.float64)
    result = protect(x, [ShallowModel(network, 2)], HeadConfig(steps=40, augmentation="none", rule="adam"))
    own, goal = network(result.images), network(x)
    error = (own - goal).square().sum(1) / goal.square().sum(1)
    torch.testing.assert_close(result.error[:, 0], error)
    assert (error < 0.01).all()
    # Features are free where the embedding does not see them.
    features, targets = result.features[0], ShallowModel(network, 2).feature(x)
    assert ((features - targets).square().sum((1, 2, 3)) > 0.1 * targets.square().sum((1, 2, 3))).all()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_a_variant_may_put_another_output_in_the_place_of_one(layout):
    class DoubledRun(Run):
        def _aggregate(self, outputs, model):
            outputs[-1] = 2 * outputs[-1]
            return super()._aggregate(outputs, model)

    class DoubledConfig(PMTConfig):
        @property
        def run(self):
            return DoubledRun

    x, model = photographs(2), ShallowModel(SmallNetwork(), 2, layout=layout)
    config = {"steps": 1, "augmentation": "none", "relative": False}
    plain, doubled = (protect(x, [model], kind(**config)).trace[:, 0] for kind in (PMTConfig, DoubledConfig))
    first = protect(x, [ShallowModel(SmallNetwork(), 1, layout=layout)], PMTConfig(**config)).trace[:, 0]
    # The last unit's part of the squared distance is four times as large, the other's is what it was.
    torch.testing.assert_close(doubled - first, 4 * (plain - first), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rule", ["mean-abs", "adam"])
def test_a_configuration_that_changes_nothing_changes_no_bit(rule):
    class SameConfig(PMTConfig):
        @property
        def run(self):
            return type("SameRun", (Run,), {})

    x, model = photographs(3), shallow(dtype=torch.float32)
    plain = protect(x, [model], PMTConfig(steps=8, rule=rule))
    same = protect(x, [model], SameConfig(steps=8, rule=rule))
    assert torch.equal(plain.images, same.images)
    assert torch.equal(plain.trace, same.trace)


@pytest.fixture(params=["cpu", "cuda", "mps"])
def device(request):
    """Each kind of device that is here."""
    there = {
        "cpu": lambda: True,
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
    }
    if not there[request.param]():
        pytest.skip(f"no {request.param} device here: what it computes twice is not compared")
    return torch.device(request.param)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_an_image_is_the_same_whatever_batch_it_was_in(device, layout):
    x = photographs(5).to(device)
    model = ShallowModel(SmallNetwork().to(device), 2, layout=layout)
    # On a GPU the derivative of a warp is summed in whatever order its threads come.
    augmentation = "mix" if device.type == "cpu" else "noise"
    config = PMTConfig(steps=6, augmentation=augmentation, batch_size=3)
    together = protect(x, [model], config)
    alone = torch.cat([protect(image[None], [model], config).images for image in x])
    reversed_order = protect(x.flip(0), [model], config).images.flip(0)
    assert torch.equal(together.images, alone)
    assert torch.equal(together.images, reversed_order)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_a_real_network_gives_an_image_the_same_bits_in_any_batch(device, layout):
    """At one thread and full size libraries do choose other algorithms for other batch sizes."""
    model = ShallowModel(network_or_skip("mobilefacenet").to(device), layout=layout)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        x = photographs(5, size=112).to(device)
        config = PMTConfig(steps=4, batch_size=4)
        together = protect(x, [model], config).images
        assert torch.equal(together[3:4], protect(x[3:4], [model], config).images)
        assert torch.equal(together.flip(0), protect(x.flip(0), [model], config).images)
    finally:
        torch.set_num_threads(threads)


NETWORKS = ["mobilefacenet", "sface", "dlib-resnet29", "edgeface-xs"]
LAYOUTS = ("contiguous", "channels_last")


@pytest.mark.parametrize("name", NETWORKS)
def test_both_layouts_give_the_same_images_but_for_last_bits(name):
    """The bounds are those of ``benchmarks/transform.py`` for two ways to the same images.

    Where a network has kinks, as dlib's maxima over windows, a last bit may decide which way the gradient goes.
    """
    network = network_or_skip(name)
    x = to_tensor([photo.crops()[0].image for photo in datasets.sample_photos()[:3]])
    config = PMTConfig(steps=10, batch_size=3)
    made = [protect(x, [ShallowModel(network, layout=layout)], config) for layout in LAYOUTS]
    # Far from the photographs, both: images that had not moved would agree too.
    assert all(metrics.ssim(one.images, x).max() < 0.9 for one in made)
    assert metrics.ssim(made[0].images, made[1].images).mean() > 0.999
    assert metrics.cosine(*(network(one.images) for one in made)).mean() > 0.999
    # What would be uploaded in their place is in the order of its shape (N, C, h, w), in memory too.
    assert all(one.features[0].is_contiguous() for one in made)


@pytest.mark.parametrize("name", NETWORKS)
def test_both_layouts_are_the_same_algorithm(name):
    """In float64 nothing is left between them: ten steps do not carry a bit as far as the ninth decimal."""
    network = network_or_skip(name)
    x = to_tensor([photo.crops()[0].image for photo in datasets.sample_photos()[:2]]).double()
    models = [ShallowModel(network, layout=layout).double() for layout in LAYOUTS]
    one, other = (protect(x, [model], PMTConfig(steps=10, batch_size=2)) for model in models)
    torch.testing.assert_close(one.images, other.images, rtol=0, atol=1e-9)
    torch.testing.assert_close(one.features[0], other.features[0], rtol=0, atol=1e-7)


@pytest.mark.parametrize("changes", [{}, {"rule": "sign", "augmentation": "affine"}, {"stop_cosine": 0.8}, {"pool": 1}])
def test_layouts_agree_step_by_step_in_float64(changes):
    x = photographs(3, dtype=torch.float64)
    models = [ShallowModel(SmallNetwork().double(), 2, layout=layout) for layout in LAYOUTS]
    one, other = (protect(x, [model], PMTConfig(steps=5, **changes)) for model in models)
    torch.testing.assert_close(one.images, other.images, rtol=0, atol=1e-9)
    torch.testing.assert_close(one.trace, other.trace, rtol=1e-9, atol=0, equal_nan=True)
    assert torch.equal(one.steps, other.steps)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_gradient_mode_does_not_matter(mode):
    x, model = photographs(2), shallow(dtype=torch.float32)
    expected = protect(x, [model], PMTConfig(steps=2)).images
    with mode():
        assert torch.equal(protect(x.clone(), [model], PMTConfig(steps=2)).images, expected)


def test_the_norm_has_a_derivative_at_exact_agreement():
    x = photographs(2)
    config = PMTConfig(
        steps=1, augmentation="none", initialisation="blur", blur_start=1e-3, distance="norm", kernel="none"
    )
    result = protect(x, [shallow(dtype=torch.float32)], config)
    assert result.finite.all()
    torch.testing.assert_close(result.images, x, atol=1e-3, rtol=0)


def test_seed_and_generator_decide_the_result(device):
    x = photographs(2).to(device)
    model = shallow(dtype=torch.float32).to(device)
    config = PMTConfig(steps=2)
    assert torch.equal(protect(x, [model], config).images, protect(x, [model], config).images)
    other = protect(x, [model], config.model_copy(update={"seed": 1})).images
    assert not torch.equal(protect(x, [model], config).images, other)
    first, second = (protect(x, [model], config, torch.Generator().manual_seed(7)).images for _ in range(2))
    assert torch.equal(first, second)
    generator = torch.Generator().manual_seed(7)
    assert torch.equal(first, protect(x, [model], config, generator).images)
    assert not torch.equal(first, protect(x, [model], config, generator).images)


def test_the_obfuscated_image_approaches_the_features_and_not_the_pixels():
    x = photographs(3)
    result = protect(x, [shallow(dtype=torch.float32)], PMTConfig(steps=60, augmentation="none"))
    assert (result.trace[:, -1] < 0.2 * result.trace[:, 0]).all()
    assert result.images.min() >= 0
    assert result.images.max() <= 1
    assert ((result.images - x).abs().mean((1, 2, 3)) > 0.05).all()
    assert result.finite.all()
    assert (result.steps == 60).all()


@pytest.mark.parametrize("rule", [{"stop_error": 0.05}, {"stop_cosine": 0.97}])
def test_an_image_that_is_good_enough_stops_while_others_go_on(rule):
    model = shallow(dtype=torch.float32)
    x = photographs(4)
    config = PMTConfig(steps=80, augmentation="none", **rule)
    result = protect(x, [model], config)
    assert len(set(result.steps.tolist())) > 1
    for i, steps in enumerate(result.steps.tolist()):
        assert torch.isfinite(result.trace[i, :steps]).all()
        assert torch.isnan(result.trace[i, steps:]).all()
        if steps < 80:
            reached = result.error[i, 0] <= 0.05 if "stop_error" in rule else result.cosine[i, 0] >= 0.97
            assert reached
        # Stopping freezes the image: the run that ends there gives the same one.
        same = protect(x[i : i + 1], [model], PMTConfig(steps=steps, augmentation="none")).images[0]
        assert torch.equal(same, result.images[i])


def test_an_image_whose_loss_is_not_finite_leaves_the_others_alone():
    class Poisoned(SmallNetwork):
        def prepare(self, images):
            dark = images.mean((1, 2, 3), keepdim=True) < 0.3
            return torch.where(dark, torch.full_like(images, math.inf), images * 2 - 1)

    x = photographs(3)
    x[1] *= 0.2
    good = protect(x[[0, 2]], [ShallowModel(Poisoned(), 2)], PMTConfig(steps=5))
    result = protect(x, [ShallowModel(Poisoned(), 2)], PMTConfig(steps=5))
    assert result.finite.tolist() == [True, False, True]
    torch.testing.assert_close(result.images[[0, 2]], good.images, rtol=0, atol=2e-6)
    assert torch.isfinite(result.images).all()


@pytest.mark.parametrize("kind", ["blur", "substitution", "noise"])
def test_initialisations(kind):
    x = photographs(2)
    begun = protect(x, [shallow(dtype=torch.float32)], PMTConfig(steps=0, initialisation=kind, blur_start=3)).images
    assert begun.shape == x.shape
    if kind == "substitution":
        for image, original in zip(begun, x, strict=True):
            columns, expected = image.flatten(1).T.tolist(), original.flatten(1).T.tolist()
            assert columns != expected
            assert sorted(columns) == sorted(expected)
    elif kind == "blur":
        assert (begun.std((2, 3)) < 0.5 * x.std((2, 3))).all()
        assert ((begun.mean((2, 3)) - x.mean((2, 3))).abs() < 0.1).all()
    else:
        # Half-width noise about mid-grey, clipped: a third of the pixels at either end.
        clipped = ((begun == 0) | (begun == 1)).float().mean()
        assert 0.25 < clipped < 0.40


def test_augmentation_treats_photograph_and_obfuscated_image_alike():
    """Started at the photograph itself, any T leaves nothing to correct."""
    x = photographs(2, dtype=torch.float64)
    for augmentation in ("noise", "affine", "mix"):
        config = PMTConfig(steps=1, augmentation=augmentation, initialisation="blur", blur_start=1e-3)
        begun = protect(x, [shallow()], config.model_copy(update={"steps": 0})).images
        torch.testing.assert_close(begun, x)
        assert (protect(x, [shallow()], config).trace.abs() < 1e-12).all()


def test_affine_augmentation_changes_the_run_and_respects_its_bounds():
    x = photographs(2)
    model = shallow(dtype=torch.float32)
    none = protect(x, [model], PMTConfig(steps=3, augmentation="none"))
    still = PMTConfig(steps=3, augmentation="affine", affine_degrees=0, affine_shift=0, affine_scale=0)
    torch.testing.assert_close(none.images, protect(x, [model], still).images, rtol=0, atol=1e-4)
    assert not torch.allclose(none.images, protect(x, [model], PMTConfig(steps=3, augmentation="affine")).images)


def test_mixed_precision_stays_close_to_float32():
    x = photographs(2)
    model = shallow(dtype=torch.float32)
    config = PMTConfig(steps=40, augmentation="none")
    exact = protect(x, [model], config)
    mixed = protect(x, [model], config.model_copy(update={"precision": "bfloat16"}))
    assert mixed.images.dtype == torch.float32
    assert (mixed.cosine > exact.cosine - 0.02).all()


def test_progress_accounts_for_every_step():
    done: list[int] = []
    protect(photographs(5), [shallow(dtype=torch.float32)], PMTConfig(steps=3, batch_size=2), progress=done.append)
    assert sum(done) == 15


def test_no_images_give_no_images():
    result = protect(photographs(0), [shallow(dtype=torch.float32)], PMTConfig(steps=3))
    assert result.images.shape == (0, 3, 16, 16)
    assert result.trace.shape == (0, 3)
    assert result.features[0].shape[0] == 0


@pytest.mark.parametrize(
    ("images", "models", "config", "message"),
    [
        (photographs(1), 0, {}, "no authorised model"),
        (photographs(1) * 255, 1, {}, "divide 8-bit pixels by 255"),
        (photographs(1)[0], 1, {}, r"\(N, 3, H, W\)"),
        (photographs(1)[..., :0], 1, {}, r"\(N, 3, H, W\)"),
        (
            photographs(1).double(),
            1,
            {},
            r"torch.float64, and .* computes in torch.float32; give images.to\(torch.float32",
        ),
        (photographs(1) * math.nan, 1, {}, "NaN"),
        (photographs(1), 1, {"weights": (1.0, 1.0)}, "do not fit 1 model"),
        (photographs(1), 1, {"weights": (0.0,)}, "not all 0"),
    ],
)
def test_impossible_requests_are_refused_in_one_line(images, models, config, message):
    with pytest.raises(ConfigError, match=message) as caught:
        protect(images, [shallow(dtype=torch.float32)] * models, PMTConfig(**config))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values", [{"stepz": 1}, {"steps": -1}, {"step_size": 0}, {"rule": "best"}, {"kernel_length": 0}, {"seed": -1}]
)
def test_the_configuration_refuses_what_it_does_not_know(values):
    with pytest.raises(ValidationError):
        PMTConfig(**values)
