"""The privacy minimization transformation (PMT): Algorithm 1, Algorithm 2 and Eq. 8 of the paper.

An obfuscated image starts from noise and is optimised until the shallow features of the authorised networks agree
with those of the photograph. It never sees a whole network, an attacker, or another image.

    >>> from pmtlib import zoo
    >>> from pmtlib.shallow import ShallowModel
    >>> shallow = ShallowModel(zoo.load("mobilefacenet"), cut=5)
    >>> result = protect(images, [shallow], PMTConfig())       # images: (N, 3, 112, 112) in [0, 1]
    >>> result.images.shape, result.features[0].shape
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from pmtlib.errors import ConfigError
from pmtlib.images import batches, to_uint8
from pmtlib.networks import fused, image_wise
from pmtlib.networks.frozen import window_means
from pmtlib.networks.fused import FusedUnits, Means
from pmtlib.networks.image_wise import ImageWise
from pmtlib.randomness import derived_seed, reproducible
from pmtlib.shallow import ShallowModel

Rule = Literal["raw", "sign", "l1", "mean-abs", "adam"]
Initialisation = Literal["noise", "blur", "substitution"]
Augmentation = Literal["none", "noise", "affine", "mix"]
Kernel = Literal["none", "linear", "gaussian"]
Precision = Literal["float32", "bfloat16", "float16"]
_REFILLED_AT, _REFILLED_AT_ONCE = 4, 16
"""One place in so many must be free before new images are taken in: where their features are computed then, once for
all steps, which costs a pass of the whole batch; and where they are not."""
_HASHED_AT_ONCE = 64
"""Images that a thread hashes, where there are more."""
_RECORDED = 256
"""Images of a batch up to which a step is recorded: there a GPU waits for the processor that starts its kernels."""
Transform = Callable[[Tensor], Tensor]


class PMTConfig(BaseModel):
    """Every choice of the transform. The defaults are the paper's, where it gives one (Section 6.1, last paragraph).

    The book's page "Deviations" says which values the paper leaves open and how they were set.

    Attributes:
        steps: K of Algorithm 1, the number of updates. The paper does not give it. 25 is the largest of 25, 50 and 100
            at which the mean SSIM to the photograph is below 0.15 for each network of Section 6.4, on people of LFW
            who are in no pair of its protocol (:func:`pmtlib.experiments.abuse.step_choice`).
        step_size: alpha. With ``mean-abs`` the mean absolute change of a pixel in a step (before smoothing), on the
            [0, 1] scale; with ``sign`` the change of every pixel; with ``l1`` the summed absolute change of an image;
            with ``adam`` the learning rate; with ``raw`` the factor of the gradient.
        rule: how a gradient becomes a step. Algorithm 2 divides by the L1 norm (``l1``; ``mean-abs`` is the same
            direction on a scale that does not depend on the image's size); the text says "gradient sign" (``sign``);
            Algorithm 1 takes the gradient itself (``raw``, with ``relative`` off).
        initialisation: Gaussian ``noise``, a Gaussian ``blur`` of the photograph, or ``substitution``, its pixels in
            random order ("random sort" in Table 3).
        noise_start: standard deviation of the starting noise about mid-grey, on the [0, 1] scale. 0.5 is
            ``randn_like`` on the [-1, 1] scale on which networks see an image.
        blur_start: sigma of the starting blur, in pixels.
        augmentation: T of Algorithm 2, drawn anew each step and applied alike to photograph and obfuscated image.
        noise_std: standard deviation of the augmentation noise, on the [0, 1] scale.
        affine_degrees: largest rotation of the augmentation, degrees.
        affine_shift: largest shift, as a fraction of the side.
        affine_scale: largest relative change of size.
        aggregate: compare the outputs of all shared units, average-pooled and concatenated (Algorithm 2, lines 2 to
            6), not only that of the last one (Algorithm 1).
        pool: window and stride of that average pooling, in feature-map cells.
        kernel: translation-invariant smoothing of the gradient (Section 5.3).
        kernel_length: k of the kernel formulas: a radius, so that length 1 is a 3x3 kernel.
        distance: ``squared`` (the algorithms' J) or ``norm`` (Eq. 7 and 8).
        relative: divide each model's distance by the size of its target features, so that no model of Eq. 8
            outweighs another only because its features are larger. Without effect on the direction for one model.
        weights: one weight a model (Eq. 8 has 1 for all, the default).
        stop_error: stop an image once its relative feature error (squared, summed over models) is at most this.
        stop_cosine: stop an image once the cosine of its features with the target is at least this, for each model.
            Both look at the features of the step, that is under its augmentation.
        precision: arithmetic of the networks; with ``float32`` TensorFloat-32 is off, the others use autocast.
        batch_size: images optimised together; a shorter batch is filled up. Libraries choose a convolution's algorithm
            by it, so it is part of what must be equal for equal bits, as is the number of threads. Neither is, and
            nothing is filled up, where all is computed an image at a time: on a processor in float32, with networks
            that :mod:`pmtlib.networks.image_wise` serves in ``channels_last``, a smoothed step by a norm (``l1``,
            ``mean-abs``) or ``adam``, noise or no augmentation, no rule to stop, any start but ``blur``, and no variant
            with a :class:`Run` of its own.
        seed: base of all randomness, with the image's own pixels. Whoever knows it and has the photograph can make the
            same upload; two uploads with one seed start from the same noise, whatever for: see :func:`service_seed`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(25, ge=0, le=1_000_000)
    step_size: float = Field(4 / 255, gt=0, allow_inf_nan=False)
    rule: Rule = "mean-abs"
    initialisation: Initialisation = "noise"
    noise_start: float = Field(0.5, ge=0, le=10)
    blur_start: float = Field(8.0, gt=0, le=100)
    augmentation: Augmentation = "noise"
    noise_std: float = Field(8 / 255, ge=0, le=1)
    affine_degrees: float = Field(5.0, ge=0, le=180)
    affine_shift: float = Field(0.03, ge=0, le=1)
    affine_scale: float = Field(0.05, ge=0, lt=1)
    aggregate: bool = True
    pool: int = Field(2, ge=1, le=112)
    kernel: Kernel = "gaussian"
    kernel_length: int = Field(1, ge=1, le=20)
    distance: Literal["squared", "norm"] = "squared"
    relative: bool = True
    weights: tuple[float, ...] | None = None
    stop_error: float | None = Field(None, ge=0)
    stop_cosine: float | None = Field(None, ge=-1, le=1)
    precision: Precision = "float32"
    batch_size: int = Field(8, ge=1, le=4096)
    seed: int = Field(0, ge=0, lt=2**63)

    @property
    def run(self) -> type[Run]:
        """What carries this configuration out. The configuration of a variant names its own subclass here."""
        return Run

    @property
    def may_stop(self) -> bool:
        """Whether a rule may end an image's optimisation before its last step."""
        return self.stop_error is not None or self.stop_cosine is not None


@dataclass(frozen=True)
class Protected:
    """What :func:`protect` returns; everything is in the order of the input images.

    Attributes:
        images: obfuscated images (N, 3, H, W) in [0, 1], not yet rounded to 8 bits.
        features: for each model the obfuscated shallow features (N, C, h, w), the other upload mode.
        trace: loss before each step, (N, K); NaN after an image has stopped.
        steps: steps taken, (N,). This and what follows is on the CPU.
        error: relative squared feature error at the end, without augmentation, (N, M).
        cosine: cosine of the features with their targets at the end, (N, M).
        finite: False where a loss or gradient was not finite; such an image keeps its last finite state. (N,)
        kept: the images after each number of steps that was asked for, (S, N, 3, H, W); S may be 0.
    """

    images: Tensor
    features: tuple[Tensor, ...]
    trace: Tensor
    steps: Tensor
    error: Tensor
    cosine: Tensor
    finite: Tensor
    kept: Tensor


def smoothing_kernel(kind: Kernel, length: int) -> Tensor | None:
    r"""The translation-invariant kernel W of Section 5.3, (2k+1, 2k+1), entries summing to 1; None for ``none``.

    linear: :math:`(1-|i|/(k+1))(1-|j|/(k+1))`; gaussian: :math:`\exp(-(i^2+j^2)/2\sigma^2)` with
    :math:`\sigma = k/\sqrt 3`; both normalised.
    """
    if kind == "none":
        return None
    offsets = torch.arange(-length, length + 1, dtype=torch.float64)
    if kind == "linear":
        profile = 1 - offsets.abs() / (length + 1)
    else:
        profile = torch.exp(-(offsets**2) / (2 * (length / math.sqrt(3)) ** 2))
    kernel = torch.outer(profile, profile)
    return kernel / kernel.sum()


def image_seed(seed: int, image: Tensor) -> int:
    """Seed of one image (3, H, W): a hash of the base seed and the 8-bit pixels.

    Seeds that come from the content give the same image on a laptop and on a cluster, in whatever batch or order, where
    they compute on devices of one kind.
    """
    return image_seeds(seed, image[None])[0]


def service_seed(seed: int, services: Iterable[str]) -> int:
    """The base seed for uploads to some services: a hash of a base seed and of the services' names, in any order.

    ``pmt protect`` goes by it: with one seed for all, uploads of a photograph for two services would start from the
    same noise, by which anybody can tell that they are of one photograph.
    """
    return derived_seed(f"services:{seed}:", json.dumps(sorted(services)).encode())


def image_seeds(seed: int, images: Tensor) -> list[int]:
    """:func:`image_seed` of each of the images (N, 3, H, W)."""
    # Copied from the device once, not image by image.
    pixels = to_uint8(images)

    def of(part: slice) -> list[int]:
        return [derived_seed(f"pmt:{seed}:", eight_bit.tobytes()) for eight_bit in pixels[part]]

    parts = batches(len(pixels), _HASHED_AT_ONCE)
    if len(pixels) <= _HASHED_AT_ONCE:
        return [found for part in parts for found in of(part)]
    with ThreadPoolExecutor() as threads:
        # Python lets go of its lock while it hashes.
        return [found for part in threads.map(of, parts) for found in part]


def protect(
    images: Tensor,
    shallow_models: Sequence[ShallowModel],
    config: PMTConfig | None = None,
    generator: torch.Generator | None = None,
    *,
    progress: Callable[[int], Any] | None = None,
    keep: Sequence[int] = (),
) -> Protected:
    r"""Obfuscate images so that only the networks behind ``shallow_models`` recognise them (MR-PMT).

    Minimises, for each image x on its own,
    :math:`\sum_i w_i \| f_i(T(\tilde x)) - f_i(T(x)) \|^2` over :math:`\tilde x \in [0, 1]` (Eq. 7 for one model,
    Eq. 8 for several), by the updates of Algorithms 1 and 2, downhill: Algorithm 1's plus sign would climb.

    Args:
        images: (N, 3, H, W), RGB in [0, 1], aligned crops.
        shallow_models: one authorised model or more, on the device of the images.
        config: every choice; the paper's values by default.
        generator: source of the base seed in place of ``config.seed``. Each image then has a generator of its own,
            seeded from the base seed and its pixels: the result does not depend on the batch it was in. On an NVIDIA
            GPU with Triton the noise is drawn from the same seeds by another generator (Philox).
        progress: called with the number of image-steps done since its last call.
        keep: numbers of steps after which to keep a copy of the images; 0 is the start. Such a copy is what a run with
            that K gives, unless a variant's step size depends on K.

    Returns:
        Protected: images, features and how the optimisation went.

    Raises:
        ConfigError: no model, a wrong number of weights, images of a wrong shape or range, or a copy asked for that
            is not among the steps.
    """
    config = config or PMTConfig()
    models = list(shallow_models)
    weights = _check(images, models, config)
    if outside := [steps for steps in keep if not 0 <= steps <= config.steps]:
        raise ConfigError(f"keep {outside[0]} is outside 0..{config.steps}, the steps of this run")
    base = config.seed
    if generator is not None:
        base = int(torch.randint(2**62, (1,), generator=generator, device=generator.device).item())
    with reproducible():
        # In this layout whatever the caller's is: kernels and draws go by the order in memory.
        images = images.detach().clone(memory_format=torch.contiguous_format)

        # Also where there is no image, the shapes are those of the models.
        none = config.run(images[:0], models, weights, config, base, keep)
        parts = [none.finish()]

        def begin(chosen: Tensor) -> Run:
            batch = chosen if none.alone else _filled(chosen, config.batch_size)
            return config.run(batch, models, weights, config, base, keep)

        if config.may_stop:
            parts += _refilled(images, begin, config, progress)
        else:
            for chunk in batches(len(images), config.batch_size):
                count = len(images[chunk])
                parts.append(_first(begin(images[chunk]).optimise(count, progress), count))
    return Protected(
        images=torch.cat([part.images for part in parts]),
        features=tuple(torch.cat([part.features[m] for part in parts]) for m in range(len(models))),
        trace=torch.cat([part.trace for part in parts]),
        steps=torch.cat([part.steps for part in parts]),
        error=torch.cat([part.error for part in parts]),
        cosine=torch.cat([part.cosine for part in parts]),
        finite=torch.cat([part.finite for part in parts]),
        kept=torch.cat([part.kept for part in parts], dim=1),
    )


def _filled(images: Tensor, batch_size: int) -> Tensor:
    """A batch of a size at which every image gets the same bits as in any other batch.

    Libraries choose a convolution's algorithm by the batch's size, and a last bit that differs grows into another
    image within a hundred steps. So every batch has the same size; a shorter one is filled up with copies, but where
    all is computed an image at a time.
    """
    missing = batch_size - len(images)
    return torch.cat([images, images[:1].expand(missing, -1, -1, -1)]) if missing else images


def _refilled(
    images: Tensor, begin: Callable[[Tensor], Run], config: PMTConfig, progress: Callable[[int], Any] | None
) -> list[Protected]:
    """Optimise images that stop at different times: a place in the batch that is free goes to the next image.

    Nothing in a batch depends on what else is in it, nor on when it came: the bits are those of batches that wait for
    their last image.
    """
    total, size = len(images), config.batch_size
    share = _REFILLED_AT if config.augmentation == "none" else _REFILLED_AT_ONCE
    if not total:
        return []
    run = begin(images[:size])
    owners = [place if place < total else None for place in range(size)]
    run.active[total:] = False
    following = min(size, total)
    ends: list[_State] = [{}] * total
    while any(owner is not None for owner in owners):
        if config.steps:
            run.step()
        going = run.active.tolist()
        reported = 0
        for place, owner in enumerate(owners):
            if owner is None:
                continue
            reported += 1
            if not going[place] or run.at[place] >= config.steps:
                ends[owner] = run.end(place)
                owners[place] = None
                reported += config.steps - int(run.at[place])
        if progress is not None and config.steps:
            progress(reported)
        free = [place for place, owner in enumerate(owners) if owner is None]
        if following < total and share * len(free) >= size:
            chosen = images[following : following + len(free)]
            places = free[: len(chosen)]
            run.adopt(places, begin(chosen))
            for place in places:
                owners[place], following = following, following + 1
        run.active[[place for place, owner in enumerate(owners) if owner is None]] = False
    parts = []
    for chunk in batches(total, size):
        last = begin(images[chunk])
        last.take(ends[chunk])
        parts.append(_first(last.finish(), len(ends[chunk])))
    return parts


def _first(part: Protected, count: int) -> Protected:
    return Protected(
        images=part.images[:count],
        features=tuple(feature[:count] for feature in part.features),
        trace=part.trace[:count],
        steps=part.steps[:count],
        error=part.error[:count],
        cosine=part.cosine[:count],
        finite=part.finite[:count],
        kept=part.kept[:, :count],
    )


def _check(images: Tensor, models: Sequence[ShallowModel], config: PMTConfig) -> list[float]:
    if not models:
        raise ConfigError("no authorised model; name at least one")
    if images.ndim != 4 or images.shape[1] != 3 or not all(images.shape[2:]) or not images.is_floating_point():
        raise ConfigError(f"images must be a float tensor (N, 3, H, W), got {images.dtype} {tuple(images.shape)}")
    for model in models:
        dtype = next((one.dtype for one in model.parameters()), images.dtype)
        if images.dtype != dtype:
            raise ConfigError(
                f"images are {images.dtype}, and {model.name} computes in {dtype}; give images.to({dtype})"
            )
    if len(images) and not (torch.isfinite(images).all() and images.min() >= 0 and images.max() <= 1):
        raise ConfigError("images must be in [0, 1] without NaN; divide 8-bit pixels by 255")
    return model_weights(config, len(models))


def model_weights(config: PMTConfig, count: int) -> list[float]:
    """The weight of each of ``count`` models in Eq. 8.

    Raises:
        ConfigError: the configuration's do not fit.
    """
    weights = list(config.weights) if config.weights is not None else [1.0] * count
    if len(weights) != count or any(not math.isfinite(w) or w < 0 for w in weights) or not any(weights):
        raise ConfigError(f"weights {weights} do not fit {count} model(s): one each, none negative, not all 0")
    return weights


_MOMENTS: tuple[Callable[[int], float], ...] = (
    lambda step: 1 - 0.9 ** (step + 1),
    lambda step: 1 - 0.999 ** (step + 1),
)
"""What Adam's moments after a step are divided by, for they began at 0."""
_State = Mapping[str, Tensor]
_MADE = MappingProxyType({"current": 0, "trace": 0, "steps": 0, "finite": 0, "kept": 1})
"""What becomes of images, of a :class:`Run`'s state, with the axis of the images."""
_GIVEN = MappingProxyType({"original": 0, "active": 0, "at": 0, "seeded": 0, "draws": 0})
"""The rest of it that is a tensor with a row an image."""


class Run:
    """One batch being optimised. Every quantity has the image as its first axis and no operation mixes images.

    A variant of the transform is a subclass of :class:`PMTConfig`, whose ``run`` is a subclass of this class. It
    overrides the step that it changes and leaves the others; what it returns is per image, and what it draws comes
    from the image's own generator, or an image's bits would depend on its batch.

    ===========================  ====================================================================================
    ``_start()``                 the initial images (N, 3, H, W)
    ``_limited(x)``              images that may be uploaded, of those that a step or the start gives
    ``_draw_augmentation()``     called once a step, first: the place for any other draw of a step
    ``_aggregate(o, m)``         what of model m's outputs is compared, (N, F) parts, for both sides alike
    ``_penalty(x, T, target)``   a differentiable term (N,) added to the loss of the candidates x, or None
    ``_step_size(step)``         alpha of this step
    ``OF_IMAGES``                names of cached properties that hold something for each image; it must follow from
                                 ``original`` and ``seeds`` alone, for all are made anew when images change places. A
                                 state of another kind is moved by an ``adopt`` of the variant's own.
    ===========================  ====================================================================================

    To match only what recognition needs is an ``_aggregate`` too: it may put the outputs through a head and return
    the embedding, multiply them by weights (N, F) that were taken from the photographs (a Jacobian's norms), or
    return one of several projections, by the step's draw. ``Protected.error`` and ``cosine`` then speak of that.
    :mod:`pmtlib.variants.decoy` overrides the other steps; a variant that does both inherits from its run.

    Attributes:
        original: the photographs (N, 3, H, W).
        seeds: one an image, of its pixels and the base seed.
        generators: one an image, seeded with it, on the device.
        at: how many steps each place has made since its image began, (N,), on the CPU; one that has stopped counts on.
        models: the shallow models.
        config: the configuration.
    """

    OF_IMAGES: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        images: Tensor,
        models: Sequence[ShallowModel],
        weights: Sequence[float],
        config: PMTConfig,
        base: int,
        keep: Sequence[int],
    ) -> None:
        self.original = images.detach()
        self.models = models
        self.weights = weights
        self.config = config
        count = len(images)
        device = images.device
        self.seeds = image_seeds(base, self.original)
        # One kernel draws for all images, where there is one; its numbers are not those of the generators.
        self.kernels = images.dtype == torch.float32 and fused.usable(device)
        self.seeded = torch.tensor(self.seeds, dtype=torch.int64, device=device)
        self.draws = torch.zeros(count, dtype=torch.int64, device=device)
        self.fused = [self._fuse(model) for model in models]
        kernel = smoothing_kernel(config.kernel, config.kernel_length)
        self.kernel = None if kernel is None else kernel.to(device, images.dtype)[None]
        usual = {name for name in vars(Run) if getattr(type(self), name) is getattr(Run, name)}
        by_norm = config.rule in ("l1", "mean-abs")
        # On a processor, all models an image at a time: so is the rest of a step then, where it can be.
        self.by_image = not self.kernels and all(isinstance(one, ImageWise) for one in self.fused)
        moving = (by_norm and self.kernels) or ((by_norm or config.rule == "adam") and self.by_image)
        self.moving = moving and {"_direction", "_limited"} <= usual and self.kernel is not None
        # Rules to stop look at features, so these must be there.
        compared = [one is not None and one.compares(images, *self._wanted(one)) for one in self.fused]
        self.at_once = not config.may_stop and all(compared)
        # Noise moves images, but not the derivative by them.
        noise_alone = config.augmentation == "noise" and {"_draw_augmentation", "_gaussian", "_penalty"} <= usual
        rows = self.kernels and self._quarters
        self.noising = (rows or self.by_image) and self.at_once and noise_alone
        # Whether what becomes of an image hangs on no other of its batch, nor on their number, down to the last bit.
        no_layer = self.noising or config.augmentation == "none"
        plain = type(self) is Run and config.initialisation != "blur"
        self.alone = self.by_image and self.at_once and self.moving and no_layer and plain
        # A copy, for it is moved in place.
        self.current = self._start().clone(memory_format=torch.contiguous_format)
        self.at = torch.zeros(count, dtype=torch.int64)
        self.keep = list(keep)
        self.kept = images.new_zeros((len(self.keep), *images.shape))
        self._keep()
        self.trace = torch.full((count, config.steps), math.nan, device=device)
        self.steps = torch.zeros(count, dtype=torch.int64, device=device)
        self.active = torch.ones(count, dtype=torch.bool, device=device)
        self.finite = torch.ones(count, dtype=torch.bool, device=device)
        self.moments = (torch.zeros_like(images), torch.zeros_like(images)) if config.rule == "adam" else None
        # Without augmentation the target never changes, so the photograph is looked at once.
        self.fixed_target = self._features(self.original) if config.augmentation == "none" else None

    @cached_property
    def generators(self) -> list[torch.Generator]:
        """Made when first drawn from: where a kernel draws, they are not needed."""
        return [torch.Generator(device=self.original.device).manual_seed(seed) for seed in self.seeds]

    @property
    def _quarters(self) -> bool:
        """Whether an image's numbers are as many as a kernel draws: four at a time."""
        return math.prod(self.original.shape[1:]) % 4 == 0

    def optimise(self, count: int, progress: Callable[[int], Any] | None) -> Protected:
        """Run all steps (Algorithm 1, lines 4 to 9), reporting them for ``count`` images."""
        step = self.step
        for number in range(self.config.steps):
            if number == 1:
                step = self._recorded() or step
            step()
            if progress is not None:
                progress(count)
        return self.finish()

    def _recorded(self) -> Callable[[], None] | None:
        """:meth:`step` with its kernels as one CUDA graph, or None where that is not for this run.

        Starting the kernels of a step one by one takes a processor some milliseconds, whatever their size. Recorded,
        they are started at once. It is not done for large batches, which compute for longer than that and whose maps
        would be in memory twice, nor where what a step does may depend on how far it is. What goes wrong while it is
        recorded, for want of memory say, has changed nothing: steps are then made one by one.
        """
        simple = type(self) is Run and not self.config.may_stop and self.config.augmentation in ("none", "noise")
        fusing = self.moving and all(found is not None for found in self.fused)
        if not (simple and fusing and self.original.is_cuda and 0 < len(self.original) <= _RECORDED):
            return None
        device = self.original.device
        free, total = torch.cuda.mem_get_info(device)
        if free < total / 2:
            # Memory of former recordings is free, but not given back while another one is made.
            torch.cuda.empty_cache()
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(device))
        try:
            with torch.cuda.stream(stream):
                # Other threads may use the device meanwhile.
                graph.capture_begin(capture_error_mode="thread_local")
                try:
                    told = self._update()
                finally:
                    graph.capture_end()
        except RuntimeError:
            torch.cuda.empty_cache()
            return None
        torch.cuda.current_stream(device).wait_stream(stream)

        def step() -> None:
            graph.replay()
            self._tell(told)

        return step

    def step(self) -> None:
        """One update of the images that have not stopped (Algorithm 1, lines 5 to 8)."""
        self._tell(self._update())

    def _update(self) -> Tensor:
        """A step but for what is kept of it: the loss before it, (N,), NaN where an image has stopped."""
        if self.noising:
            photographs, candidate = self._noised()
            transform, target = None, self._features(photographs)
            seen = candidate.requires_grad_(True)
        else:
            transform = self._draw_augmentation()
            target = self.fixed_target or self._features(transform(self.original))
            candidate = self.current.detach().requires_grad_(True)
            seen = transform(candidate)
        errors, features = self._errors(seen, target)
        loss = self._combine(errors)
        penalty = None if transform is None else self._penalty(candidate, transform, target)
        if penalty is not None:
            loss = loss + penalty
        if self.config.may_stop:
            self._stop_where_reached(features, target)
        gradient = torch.autograd.grad(loss.sum(), candidate)[0].contiguous()
        moving = self._moving(gradient)
        finite = torch.isfinite(gradient).flatten(1).all(1) if moving is None else torch.isfinite(moving)
        healthy = torch.isfinite(loss.detach()) & finite
        self.finite &= healthy | ~self.active
        self.active &= self.finite
        self.steps += self.active.to(self.steps)
        self._move(gradient, moving)
        return torch.where(self.active, loss.detach(), math.nan).to(self.trace)

    def _tell(self, told: Tensor) -> None:
        """Put the loss before a step into the trace, count the step, and keep what was asked for."""
        if self.config.may_stop:
            # A place whose image is done may have gone beyond the last step.
            column = self.at.clamp_max(self.config.steps - 1).to(self.trace.device)
            self.trace.scatter_(1, column[:, None], told[:, None])
        elif len(self.at):
            # Nothing here waits for the device.
            self.trace[:, int(self.at[0])] = told
        self.at += 1
        self._keep()

    def _moving(self, gradient: Tensor) -> Tensor | None:
        """The gradients' L1 norms (N,), where one kernel makes the step; NaN or infinite as they are."""
        if not self.moving:
            return None
        return image_wise.row_sizes(gradient) if self.by_image else fused.row_sizes(gradient.flatten(1))

    def _move(self, gradient: Tensor, norms: Tensor | None) -> None:
        """Lines 6 to 8 of Algorithm 1: a step downhill, within [0, 1], of the images that have not stopped."""
        size = self._by_step(self._step_size)
        if norms is None or self.kernel is None:
            moved = self._limited(self.current - size * self._direction(gradient))
            self.current = torch.where(self.active.view(-1, 1, 1, 1), moved, self.current)
            return
        if self.moments is not None:
            shares = [self._each(self._by_step(part)) for part in _MOMENTS]
            factors = [size * active for size, active in zip(self._each(size), self.active.tolist(), strict=True)]
            image_wise.adapt_(
                self.current, gradient, self.moments, factors, list(zip(*shares, strict=True)), self.kernel
            )
            return
        scale = norms / gradient[0].numel() if self.config.rule == "mean-abs" and len(norms) else norms
        size = size.flatten() if isinstance(size, Tensor) else size
        limits = torch.finfo(gradient.dtype)
        # Where there is nothing to go by, a gradient of 0 times infinity would be no number.
        factor = (size / scale.to(gradient.dtype).clamp_min(limits.tiny)).clamp_max(limits.max)
        factor = torch.where(self.active, factor, torch.zeros_like(factor))
        (image_wise if self.by_image else fused).move_(self.current, gradient, factor, self.kernel)

    def _by_step(self, value: Callable[[int], float]) -> float | Tensor:
        """What depends on how many steps an image has made: a number, or (N, 1, 1, 1) where these may differ."""
        if not self.config.may_stop:
            return value(int(self.at[0]) if len(self.at) else 0)
        # Always so where images come and go: a device may divide by a number and by a tensor in two ways.
        steps = self.at.clamp_max(self.config.steps - 1).tolist()
        return self.current.new_tensor([value(step) for step in steps]).view(-1, 1, 1, 1)

    def _each(self, value: float | Tensor) -> list[float]:
        """What :meth:`_by_step` has given, one number an image."""
        return value.flatten().tolist() if isinstance(value, Tensor) else [value] * len(self.current)

    def _keep(self) -> None:
        for place, wanted in enumerate(self.keep):
            rows = self.at == wanted
            if rows.any():
                chosen = rows.view(-1, 1, 1, 1).to(self.current.device)
                self.kept[place] = torch.where(chosen, self.current, self.kept[place])

    def end(self, place: int) -> _State:
        """What has become of the image at a place, which is done."""
        made = {name: getattr(self, name).select(axis, place).clone() for name, axis in _MADE.items()}
        for number, wanted in enumerate(self.keep):
            if wanted > self.at[place]:
                # It moves no more: what was asked for of later steps is what is there.
                made["kept"][number] = made["current"]
        return made

    def adopt(self, places: Sequence[int], other: Run) -> None:
        """Put the first images of a run that has not begun in the places of images that are done."""
        count, chosen = len(places), list(places)

        def put(own: Tensor, new: Tensor, axis: int = 0) -> Tensor:
            return own.index_copy(axis, torch.tensor(chosen, device=own.device), new.narrow(axis, 0, count))

        for name, axis in (_GIVEN | _MADE).items():
            setattr(self, name, put(getattr(self, name), getattr(other, name), axis))
        for place, new in zip(chosen, range(count), strict=True):
            self.seeds[place] = other.seeds[new]
            if "generators" in self.__dict__:
                self.generators[place] = other.generators[new]
        if self.moments is not None and other.moments is not None:
            first, second = (put(own, new) for own, new in zip(self.moments, other.moments, strict=True))
            self.moments = (first, second)
        if self.fixed_target is not None and other.fixed_target is not None:
            self.fixed_target = [
                _joined(mine, theirs, put) for mine, theirs in zip(self.fixed_target, other.fixed_target, strict=True)
            ]
        for name in self.OF_IMAGES:
            self.__dict__.pop(name, None)

    def take(self, ends: Sequence[_State]) -> None:
        """Put images that are done in the first places, for :meth:`finish`."""
        for name, axis in _MADE.items():
            own, count = getattr(self, name), len(ends)
            rest = own.narrow(axis, count, own.shape[axis] - count)
            setattr(self, name, torch.cat([torch.stack([end[name] for end in ends], axis), rest], axis))

    def finish(self) -> Protected:
        """Features and agreement of the final images, without augmentation."""
        with torch.no_grad():
            features, own_parts = zip(*map(self._found, range(len(self.models))), strict=True)
        goal_parts = self.fixed_target or self._features(self.original)
        pairs = list(zip(own_parts, goal_parts, strict=True))

        def told(measure: Callable[[list[Tensor], list[Tensor]], Tensor]) -> Tensor:
            found = torch.stack([measure(own, goal) for own, goal in pairs], 1).detach().cpu()
            # Batches that are not filled up show in the order of sums, that is in float64's last bits.
            return found.float().to(found.dtype) if self.alone else found

        return Protected(
            images=self.current,
            features=features,
            trace=self.trace.cpu(),
            steps=self.steps.cpu(),
            error=told(relative_error),
            cosine=told(_feature_cosine),
            finite=self.finite.cpu(),
            kept=self.kept,
        )

    def _found(self, model: int) -> tuple[Tensor, list[Tensor]]:
        """One model's shallow feature of the images as they are, and what is compared of its outputs."""
        found = self.fused[model]
        if found is not None:
            return found.feature(self.current), self._compared(self.current, model)
        with self._arithmetic():
            outputs = self.models[model](self.current)
        return outputs[-1].to(self.current.dtype).contiguous(), self._aggregate(outputs, model)

    def _limited(self, images: Tensor) -> Tensor:
        """Images that may be uploaded: within [0, 1]. The paper's algorithms have no such line."""
        return images.clamp(0.0, 1.0)

    def _start(self) -> Tensor:
        """The initial obfuscated images (Section 5.3, "Initialization for PMT")."""
        config, x = self.config, self.original
        if config.initialisation == "noise":
            return self._limited(0.5 + self._gaussian(config.noise_start))
        if config.initialisation == "blur":
            if not len(x):
                return x.clone()
            size = 2 * math.ceil(3 * config.blur_start) + 1
            limit = 2 * min(x.shape[-2:]) - 1
            kernel = (min(size, limit), min(size, limit))
            # Imported where it is used, as below: the default configuration needs none of it on a processor.
            from kornia.filters import gaussian_blur2d

            blurred: Tensor = gaussian_blur2d(x, kernel, (config.blur_start,) * 2, border_type="replicate")
            return blurred
        shuffled = torch.empty_like(x)
        pixels = x.flatten(2)
        for i, generator in enumerate(self.generators):
            order = torch.randperm(pixels.shape[2], generator=generator, device=x.device)
            shuffled[i] = pixels[i][:, order].view_as(x[i])
        return shuffled

    def _gaussian(self, scale: float) -> Tensor:
        """Normal numbers of a standard deviation, as the images, from each image's own seed."""
        if self.kernels and self._quarters:
            noise = fused.normal_rows(self.seeded, self.draws, self.original, scale)
            self.draws += 1
            return noise
        noise = torch.empty_like(self.original)
        for row, generator in zip(noise, self.generators, strict=True):
            row.normal_(generator=generator)
        return noise * scale

    def _noised(self) -> tuple[Tensor, Tensor]:
        """Photographs and obfuscated images under this step's T, where that is noise alone."""
        scale = self.config.noise_std
        if self.by_image:
            return image_wise.noised(self.original, self.current, self.generators, scale)
        made = fused.noised(self.seeded, self.draws, self.original, self.current, scale)
        self.draws += 1
        return made

    def _draw_augmentation(self) -> Transform:
        """This step's T: one draw an image, used for photograph and obfuscated image alike."""
        kind = self.config.augmentation
        matrix = self._affine() if kind in ("affine", "mix") else None
        noise = self._gaussian(self.config.noise_std) if kind in ("noise", "mix") else None

        def transform(images: Tensor) -> Tensor:
            if matrix is not None:
                from kornia.geometry.transform import warp_affine

                size = (images.shape[2], images.shape[3])
                images = warp_affine(images, matrix, size, padding_mode="border", align_corners=True)
            return images if noise is None else images + noise

        return transform

    def _affine(self) -> Tensor:
        from kornia.geometry.transform import get_affine_matrix2d

        config, x = self.config, self.original
        draws = torch.stack([torch.rand(4, generator=g, dtype=torch.float32, device=x.device) for g in self.generators])
        draws = (draws * 2 - 1).to(x)
        height, width = x.shape[-2:]
        size = draws.new_tensor([width, height])
        matrix: Tensor = get_affine_matrix2d(
            translations=draws[:, :2] * config.affine_shift * size,
            center=((size - 1) / 2).expand(len(draws), 2),
            scale=(1 + draws[:, 2:3] * config.affine_scale).expand(len(draws), 2),
            angle=draws[:, 3] * config.affine_degrees,
        )
        return matrix[:, :2]

    def _arithmetic(self) -> AbstractContextManager[Any]:
        if self.config.precision == "float32":
            return nullcontext()
        return torch.autocast(self.original.device.type, dtype=getattr(torch, self.config.precision))

    def _features(self, images: Tensor, *, gradient: bool = False) -> list[list[Tensor]]:
        with torch.set_grad_enabled(gradient), self._arithmetic():
            return [self._compared(images, m) for m in range(len(self.models))]

    def _compared(self, images: Tensor, model: int) -> list[Tensor]:
        """What is compared of one model's outputs for images."""
        found = self.fused[model]
        if found is None:
            return self._aggregate(self.models[model](images), model)
        return found.means(images, *self._wanted(found))

    def _wanted(self, found: FusedUnits) -> tuple[Sequence[int], int]:
        """Which units' outputs are compared, and over windows of which side."""
        return (range(found.units), self.config.pool) if self.config.aggregate else ([found.units - 1], 1)

    def _fuse(self, model: ShallowModel) -> FusedUnits | None:
        """A shallow model as one function, where there is one for it and what is compared is as published."""
        if type(self)._aggregate is not Run._aggregate:
            return None
        aggregate, precision = self.config.aggregate, self.config.precision
        found = model.fused(self.original, self.config.pool if aggregate else 1, precision)
        return None if found is not None and found.head is not None and aggregate else found

    def _aggregate(self, outputs: list[Tensor], model: int) -> list[Tensor]:
        """The features that are compared: (N, F) parts whose concatenation is z of Algorithm 2."""
        if not self.config.aggregate:
            return [outputs[-1].flatten(1).to(self.original.dtype)]
        parts = []
        for output in outputs:
            pooled = window_means(output, min(self.config.pool, *output.shape[2:]) if output.ndim == 4 else 1)
            if output.ndim == 4 and self.models[model].layout == "channels_last":
                # In the order in which they lie: distances do not depend on it, and nothing is copied.
                pooled = pooled.permute(0, 2, 3, 1)
            parts.append(pooled.flatten(1).to(self.original.dtype))
        return parts

    def _errors(self, images: Tensor, target: list[list[Tensor]]) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Each model's distance, (N,), and the features of images: none where kernels find distances on the way."""
        if not self.at_once:
            features = self._features(images, gradient=True)
            squared = [_squared_error(own, goal) for own, goal in zip(features, target, strict=True)]
        else:
            features = []
            squared = [
                one.distance(images, goal, *self._wanted(one))
                for one, goal in zip(self.fused, target, strict=True)
                if one
            ]
        return [self._error(one, goal) for one, goal in zip(squared, target, strict=True)], features

    def _error(self, squared: Tensor, goal: list[Tensor]) -> Tensor:
        """One model's distance, (N,), from its square."""
        if self.config.relative:
            squared = squared / _size(goal)
        if self.config.distance == "norm":
            # The square root has no derivative at 0, where the image is already done.
            squared = (squared + torch.finfo(torch.float32).tiny).sqrt()
        return squared.to(self.original.dtype)

    def _combine(self, errors: Sequence[Tensor]) -> Tensor:
        weighted = [weight * error for weight, error in zip(self.weights, errors, strict=True)]
        return torch.stack(weighted).sum(0)

    def _penalty(self, candidate: Tensor, transform: Transform, target: list[list[Tensor]]) -> Tensor | None:
        """What a variant adds to the loss, (N,); ``target`` are the photographs' features under this step's T."""
        return None

    def _step_size(self, step: int) -> float:
        return self.config.step_size

    def _stop_where_reached(self, features: Sequence[list[Tensor]], target: list[list[Tensor]]) -> None:
        config = self.config
        with torch.no_grad():
            pairs = list(zip(features, target, strict=True))
            if config.stop_error is not None:
                total = torch.stack([relative_error(own, goal) for own, goal in pairs]).sum(0)
                # Written so that NaN has not stopped: it is told as not finite.
                self.active &= ~(total <= config.stop_error)
            if config.stop_cosine is not None:
                lowest = torch.stack([_feature_cosine(own, goal) for own, goal in pairs]).amin(0)
                self.active &= ~(lowest >= config.stop_cosine)

    def _direction(self, gradient: Tensor) -> Tensor:
        """A gradient (N, 3, H, W) to the step's direction (Algorithm 2, line 8)."""
        rule = self.config.rule
        gradient = torch.nan_to_num(gradient)
        if rule in ("l1", "mean-abs"):
            scale = row_sums(gradient.abs().flatten(1))
            if rule == "mean-abs":
                scale = scale / gradient[0].numel()
            scale = scale.to(gradient.dtype).clamp_min(torch.finfo(gradient.dtype).tiny)
            gradient = gradient / scale.view(-1, 1, 1, 1)
        if self.kernel is not None and len(gradient):
            gradient = _smoothed(gradient, self.kernel)
        if rule == "sign":
            return gradient.sign()
        if self.moments is not None:
            first, second = self.moments
            first.lerp_(gradient, 0.1)
            second.lerp_(gradient.square(), 0.001)
            one, other = map(self._by_step, _MOMENTS)
            return first / one / ((second / other).sqrt() + 1e-12)
        return gradient


def _joined(own: list[Tensor], new: list[Tensor], put: Callable[[Tensor, Tensor], Tensor]) -> Means:
    """Features with some images' rows in the places of others."""
    made = Means(put(a, b) for a, b in zip(own, new, strict=True))
    squares = [getattr(one, "squares", None) for one in (own, new)]
    if squares[0] is not None and squares[1] is not None:
        made.squares = put(squares[0], squares[1])
    return made


def _smoothed(images: Tensor, kernel: Tensor) -> Tensor:
    """Images (N, C, H, W) correlated with a kernel (1, k, k), zeros around them.

    In float32 a processor does so several times as fast with channels last, bit for bit.
    """
    if images.device.type != "cpu" or images.dtype != torch.float32:
        from kornia.filters import filter2d

        correlated: Tensor = filter2d(images, kernel, border_type="constant")
        return correlated
    channels = images.shape[1]
    weights = kernel.expand(channels, -1, -1).unsqueeze(1)
    last = images.contiguous(memory_format=torch.channels_last)
    return F.conv2d(last, weights, padding=kernel.shape[-1] // 2, groups=channels).contiguous()


def row_sums(values: Tensor) -> Tensor:
    """Sums (N,) of values (N, F) over axis 1, in float64.

    The order in which a sum is taken depends on the batch's size, and a last bit that differs grows into another
    image within a hundred steps. Taken in float64 and rounded afterwards, the order no longer shows.
    """
    # Apple's GPUs have no float64.
    return values.sum(1, dtype=None if values.device.type == "mps" else torch.float64)


def _squared_error(own: list[Tensor], goal: list[Tensor]) -> Tensor:
    if _by_kernel([*own, *goal]) and not any(part.requires_grad for part in goal):
        pairs = zip(own, goal, strict=True)
        return torch.stack([fused.squared_distance(o.contiguous(), g.contiguous()) for o, g in pairs]).sum(0)
    return torch.stack([_RowDistance.apply(o, g) for o, g in zip(own, goal, strict=True)]).sum(0)  # type: ignore[no-untyped-call]


class _RowDistance(torch.autograd.Function):
    """Sums (N,) over axis 1 of squared differences of (N, F), with torch's bits and fewer passes over them."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, goal: Tensor) -> Tensor:
        difference = own - goal
        ctx.save_for_backward(difference)
        return row_sums(difference.square())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (difference,) = ctx.saved_tensors
        derivative = difference * (2 * gradient.to(difference.dtype))[:, None]
        wanted = ctx.needs_input_grad
        return derivative if wanted[0] else None, -derivative if wanted[1] else None


def _by_kernel(parts: list[Tensor]) -> bool:
    """Whether sums over rows of features are taken by one kernel that reads them once."""
    return all(part.dtype == torch.float32 and part.ndim == 2 for part in parts) and fused.usable(parts[0].device)


def _size(goal: list[Tensor]) -> Tensor:
    if isinstance(goal, Means) and goal.squares is not None:
        squares = goal.squares
    elif _by_kernel(goal):
        squares = torch.stack([fused.row_squares(g.contiguous()) for g in goal]).sum(0)
    else:
        squares = torch.stack([row_sums(g.square()) for g in goal]).sum(0)
    return squares.clamp_min(torch.finfo(squares.dtype).tiny)


def relative_error(own: list[Tensor], goal: list[Tensor]) -> Tensor:
    """The squared distance of features from their goal, divided by the goal's squared size, (N,)."""
    return _squared_error(own, goal) / _size(goal)


def _feature_cosine(own: list[Tensor], goal: list[Tensor]) -> Tensor:
    dot = torch.stack([row_sums(o * g) for o, g in zip(own, goal, strict=True)]).sum(0)
    return (dot / (_size(own) * _size(goal)).sqrt()).detach()
