"""Images a second of the transform, against what a reader of the paper would write, in one run.

    python benchmarks/transform.py --steps 20 --images 16 --json speed.json

Five ways to the same images, timed in turns, round by round, each round beginning with another; ratios are formed
within a round:

    literal        Algorithm 1 as it stands: an image at a time, the whole network in the graph, gradients of weights
    batched        the same for a batch at once: a plain loop over the steps
    truncated      the batched loop on the shallow model alone, frozen
    channels last  the truncated loop with maps in the layout that torch's layers are faster in on processors
    pmtlib         pmtlib.protect

The draws are the same, so the images must be, up to last bits, which grow with the steps: after 10 steps they may not
show, and after more of them pmtlib's images may be not much farther than torch's from those that the same steps make
with the units in float64. The run ends in an error where that is not so.

Beside the times stand what a step has to compute, and the fraction of the machine's limits that pmtlib reaches: these
are measured before the first network and after the last, and the better of the two stands for all. Where
``torchattacks`` is installed (``pip install --no-deps torchattacks``), its PGD, the closest public optimiser of an
image against a network, makes as many steps in the same rounds; it makes other images, and sees no photograph anew at
each step. ``--layers`` times the layers that pmtlib computes in a way of its own against torch's, forwards and
backwards.

``--mixed`` times pmtlib in bfloat16 in the same rounds, and makes the images of 100 steps in both kinds of arithmetic,
to say what the service's cosine loses: mixed precision is for where it loses nothing.

``--stop 0.9`` times something else, and that alone: images that stop where the cosine of their features has come so
far, as one stream in which the place of an image that is done goes to the next one, against batch after batch. So does
``--compiled``: the gradient of the squared distance of all shared maps, as it is and through ``torch.compile``, which
needs a compiler of C++.

``--count-only`` times nothing: it counts what a step has to compute and to move, for all networks whose weights can be
had and for several cuts. These numbers are the same on every machine.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pmtlib import memory

memory.keep()  # for all ways alike

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import pmtlib
from pmtlib import costs, datasets, devices, metrics, provenance
from pmtlib.images import write_atomic
from pmtlib.networks.base import FaceNetwork
from pmtlib.networks.frozen import FrozenDepthwise, FrozenImageConv, FrozenPReLU, window_means
from pmtlib.progress import progress_bar
from pmtlib.randomness import reproducible
from pmtlib.shallow import fast_layout
from pmtlib.transform import image_seed, smoothing_kernel

PEER = "torchattacks PGD"
MIXED = "bfloat16"
MIXED_STEPS = 100
"""K at which the two kinds of arithmetic are compared: few steps would not show what rounding grows to."""
SAME = 0.999
"""The least cosine of embeddings, and SSIM, of an image made in two ways by :data:`EARLY` steps or fewer."""
EARLY = 10
FARTHER = {"mean_cosine": 2.0, "cosine": 4.0, "ssim": 4.0}
"""How many times as far from float64 as the farthest of torch's ways pmtlib may be after more steps, by 1 less the mean
of cosines, and less the least cosine and SSIM: what rounding grows to is drawn, as it were, and varies, the least of
some images more than their mean."""
COUNTED = 4
"""Images on which a step is counted; its bytes are an image's share of what is moved for so many at once."""
AVERAGES, STRIDED = "means over 2x2, channels first", "strided depthwise convolution in bfloat16"
"""Layers that are timed in a way of their own."""
Outputs = Callable[[Tensor], list[Tensor]]


def pictures(count: int) -> Tensor:
    """Sample photographs (N, 3, 112, 112) as often as needed, mirrored and darkened so that no two are the same."""
    crops = pmtlib.to_tensor([photo.crops()[0].image for photo in datasets.sample_photos()])
    made = [
        (crops[place % len(crops)].flip(2) if place // len(crops) % 2 else crops[place % len(crops)])
        * 0.98 ** (place // (2 * len(crops)))
        for place in range(count)
    ]
    return torch.stack(made)


def plain_loop(images: Tensor, outputs: Outputs, config: pmtlib.PMTConfig, *, weights: Sequence[Tensor] = ()) -> Tensor:
    """Algorithms 1 and 2 as the paper has them, for the default configuration; images (N, 3, H, W) at once.

    Args:
        images: the photographs.
        outputs: the maps that are compared.
        config: steps, step size, noise and pooling are read.
        weights: parameters that gather gradients, as they do in a graph that nobody told otherwise.
    """
    generators = [torch.Generator(device=images.device).manual_seed(image_seed(config.seed, image)) for image in images]

    def noise() -> Tensor:
        return torch.stack([torch.empty_like(x).normal_(generator=g) for x, g in zip(images, generators, strict=True)])

    def features(x: Tensor) -> Tensor:
        return torch.cat([F.avg_pool2d(map_, min(config.pool, *map_.shape[2:])).flatten(1) for map_ in outputs(x)], 1)

    kernel = smoothing_kernel(config.kernel, config.kernel_length)
    assert kernel is not None
    smoothing = kernel.to(images)[None, None].expand(3, 1, -1, -1)
    made = (0.5 + config.noise_start * noise()).clamp(0, 1)
    for _ in range(config.steps):
        draw = config.noise_std * noise()
        made = made.detach().requires_grad_(True)
        goal = features(images + draw).detach()
        loss = (features(made + draw) - goal).square().sum(1) / goal.square().sum(1)
        for parameter in weights:
            parameter.grad = None
        loss.sum().backward()  # type: ignore[no-untyped-call]
        gradient = made.grad
        assert gradient is not None
        gradient = gradient / gradient.abs().mean((1, 2, 3), keepdim=True)
        gradient = F.conv2d(gradient, smoothing, padding=config.kernel_length, groups=3)
        made = (made.detach() - config.step_size * gradient).clamp(0, 1)
    return made.detach()


def ways(
    network: FaceNetwork, cut: int, config: pmtlib.PMTConfig, *, mixed: bool = False
) -> dict[str, Callable[[Tensor], Tensor]]:
    """The five ways by name, each from photographs to images; and pmtlib's in bfloat16."""
    trained = copy.deepcopy(network).requires_grad_(True)
    weights = list(trained.parameters())
    shallow = shared(network, cut)
    cut_off = copy.deepcopy(network)
    cut_off.truncate(cut)
    cut_off.requires_grad_(False)

    def whole(x: Tensor) -> list[Tensor]:
        return trained.run_units(trained.prepare(x), 0, len(trained.units))[:cut]

    last = copy.deepcopy(cut_off)
    last.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def truncated(x: Tensor) -> list[Tensor]:
        return cut_off.run_units(cut_off.prepare(x), 0, cut)

    def channels_last(x: Tensor) -> list[Tensor]:
        return last.run_units(last.prepare(x).contiguous(memory_format=torch.channels_last), 0, cut)

    found = {
        "literal": lambda x: torch.cat([plain_loop(one[None], whole, config, weights=weights) for one in x]),
        "batched": lambda x: plain_loop(x, whole, config, weights=weights),
        "truncated": lambda x: plain_loop(x, truncated, config),
        # The layout alone, which whoever looks for speed on a processor tries first.
        "channels last": lambda x: plain_loop(x, channels_last, config),
        "pmtlib": lambda x: pmtlib.protect(x, [shallow], config).images,
    }
    if mixed:
        half = config.model_copy(update={"precision": MIXED})
        found[MIXED] = lambda x: pmtlib.protect(x, [shallow], half).images
    return found


def shared(network: FaceNetwork, cut: int) -> pmtlib.ShallowModel:
    """The shallow model as ``pmt protect`` has it."""
    return pmtlib.ShallowModel(network, cut, layout=fast_layout(next(network.parameters()).device))


def peer(network: FaceNetwork, config: pmtlib.PMTConfig) -> Callable[[Tensor], Tensor] | None:
    """PGD of torchattacks on the whole network, an embedding's entries in the place of classes; None without it."""
    if importlib.util.find_spec("torchattacks") is None:
        return None
    import torchattacks

    frozen = copy.deepcopy(network).requires_grad_(False).eval()
    attack = torchattacks.PGD(frozen, eps=1.0, alpha=config.step_size, steps=config.steps, random_start=True)
    return lambda x: attack(x, torch.arange(len(x)))


def benchmark(
    name: str,
    cut: int,
    images: Tensor,
    config: pmtlib.PMTConfig,
    rounds: int,
    device: torch.device,
    *,
    mixed: bool = False,
) -> Any:
    """Times, ratios, equality and cost of one network; the shares of the machine's limits are added by :func:`rate`."""
    network = pmtlib.load_network(name).to(device)
    methods = ways(network, cut, config, mixed=mixed)
    short = config.model_copy(update={"steps": 1})
    for warm in ways(network, cut, short, mixed=mixed).values():
        warm(images)
    pgd, short_pgd = peer(network, config), peer(network, short)
    if pgd is not None and short_pgd is not None:
        methods[PEER] = pgd
        short_pgd(images)
    seconds: dict[str, list[float]] = {way: [] for way in methods}
    made: dict[str, Tensor] = {}
    with progress_bar(f"{name}, {len(methods)} ways", rounds * len(methods)) as advance:
        for turn in range(rounds):
            # Each round begins with another way: none always comes after the same one.
            order = list(methods.items())
            for way, method in order[turn % len(order) :] + order[: turn % len(order)]:
                seconds[way].append(costs.timed(lambda: made.__setitem__(way, method(images)), device))  # noqa: B023
                advance(1)
    exact = in_float64(network, cut, images, config)
    step = step_cost(network, cut, images, config)
    per_step = [one / (len(images) * config.steps) for one in seconds["pmtlib"]]
    own = [way for way in made if way not in (PEER, MIXED)]
    return {
        "seconds": {way: [round(one, 4) for one in taken] for way, taken in seconds.items()},
        "image_wise": shared(network, cut).fused(images, config.pool, config.precision) is not None,
        # At this K: a run of another number of steps takes another time, and an image-step about the same.
        "steps": config.steps,
        "images_a_second": round(len(images) / statistics.median(seconds["pmtlib"]), 3),
        "image_steps_a_second": round(1 / statistics.median(per_step), 2),
        "ratios": {
            way: _spread([slow / fast for slow, fast in zip(seconds[way], seconds["pmtlib"], strict=True)])
            for way in methods
            if way not in ("pmtlib", MIXED)
        },
        **({"mixed": arithmetic(network, cut, images, config, seconds)} if mixed else {}),
        "equality": {way: alike(network, made[way], made["pmtlib"]) for way in own if way != "pmtlib"},
        **early(network, cut, images, config),
        **({} if exact is None else {"float64": {way: alike(network, made[way], exact) for way in own}}),
        "step": {
            **told(step),
            "milliseconds": round(1e3 * statistics.median(per_step), 3),
        },
    }


def alike(network: FaceNetwork, one: Tensor, other: Tensor) -> dict[str, float]:
    """How much images made in two ways are the same: the least and the mean cosine of embeddings, the least SSIM."""
    with torch.no_grad():
        cosines = metrics.cosine(network(one), network(other))
    return {
        "cosine": round(float(cosines.min()), 6),
        "mean_cosine": round(float(cosines.mean()), 6),
        "ssim": round(float(metrics.ssim(one, other).min()), 6),
    }


def early(network: FaceNetwork, cut: int, images: Tensor, config: pmtlib.PMTConfig) -> dict[str, Any]:
    """Equality after :data:`EARLY` steps, where the run makes more of them and float64 judges the rest."""
    if config.steps <= EARLY or images.device.type == "mps":
        return {}
    made = {
        way: method(images) for way, method in ways(network, cut, config.model_copy(update={"steps": EARLY})).items()
    }
    return {"early": {way: alike(network, made[way], made["pmtlib"]) for way in made if way != "pmtlib"}}


def in_float64(network: FaceNetwork, cut: int, images: Tensor, config: pmtlib.PMTConfig) -> Tensor | None:
    """The images that the same steps make with the units in float64; None on a device that has no such numbers.

    What the network makes of a picture before its first unit is in float32: where a chip samples a crop is rounded to
    it, and is as much part of the network as its weights.
    """
    if images.device.type == "mps":
        return None
    exact = copy.deepcopy(network)
    exact.truncate(cut)
    exact.requires_grad_(False).double()

    def outputs(x: Tensor) -> list[Tensor]:
        return exact.run_units(network.prepare(x).double(), 0, cut)

    return plain_loop(images, outputs, config)


def wrong(entry: dict[str, Any]) -> list[str]:
    """What of a network's entry says that pmtlib does not give the images of the other ways."""
    found = [
        f"{way} does not give the images of pmtlib"
        for way, same in entry.get("early", entry["equality"]).items()
        if min(same["cosine"], same["ssim"]) < SAME
    ]
    if "early" not in entry:
        return found
    exact = entry["float64"]
    for measure, times in FARTHER.items():
        off = {way: 1 - same[measure] for way, same in exact.items()}
        if off.pop("pmtlib") > max(1 - SAME, times * max(off.values())):
            found.append(f"pmtlib is farther from float64 than the other ways ({measure})")
    return found


def arithmetic(
    network: FaceNetwork, cut: int, images: Tensor, config: pmtlib.PMTConfig, seconds: dict[str, list[float]]
) -> dict[str, Any]:
    """How many times as fast bfloat16 is as each way of the same rounds, and what the service's cosine loses by it."""
    shallow, long = shared(network, cut), config.model_copy(update={"steps": MIXED_STEPS})
    cosines = {}
    with torch.no_grad():
        theirs = network(images)
        for precision in ("float32", MIXED):
            made = pmtlib.protect(images, [shallow], long.model_copy(update={"precision": precision})).images
            cosines[precision] = metrics.cosine(network(made), theirs)
    lost = cosines["float32"] - cosines[MIXED]
    loss = metrics.bootstrap(lost, seed=0)
    return {
        "ratios": {
            way: _spread([slow / fast for slow, fast in zip(taken, seconds[MIXED], strict=True)])
            for way, taken in seconds.items()
            if way not in (MIXED, PEER)
        },
        "steps": MIXED_STEPS,
        "images": len(images),
        "cosine": round(float(cosines["float32"].mean()), 5),
        "loss": {"mean": round(float(lost.mean()), 5), "low": round(loss.low, 5), "high": round(loss.high, 5)},
    }


def step_cost(network: FaceNetwork, cut: int, images: Tensor, config: pmtlib.PMTConfig) -> costs.Cost:
    """What a step of the transform costs an image: backwards once, forwards twice where T is drawn anew each step.

    Counted with channels first, by torch's layers or nearly so: with channels last some of ours multiply by zeros and
    some move less, to be faster, and that is to count neither as work nor as less of it.
    """
    shallow = pmtlib.ShallowModel(network, cut).to(images.device)
    forward, backward = costs.step_cost(shallow, images[:COUNTED])
    return forward + forward + backward if config.augmentation != "none" else forward + backward


def literal_flops(network: FaceNetwork, cut: int, images: Tensor) -> float:
    """Operations of a step of *literal* an image: the whole network forwards twice, and backwards from the cut.

    Backwards to the weights is counted as much as forwards. torch's counter is not asked: to weights of a convolution
    in groups it counts what one without groups would be.
    """
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        network.run_units(network.prepare(images), 0, len(network.units))
    forward, backward = costs.step_cost(pmtlib.ShallowModel(network, cut), images)
    return float(2 * counted.get_total_flops() / len(images) + backward.flops + forward.flops)


def told(cost: costs.Cost) -> dict[str, float]:
    """A cost in the units of the stored file."""
    return {"megaflops": round(cost.flops / 1e6, 2), "megabytes": round(cost.traffic / 1e6, 2)}


def better(one: costs.Machine, other: costs.Machine) -> costs.Machine:
    """The limits of a machine that was measured twice: what it could do at its best."""
    return costs.Machine(max(one.flops, other.flops), max(one.bandwidth, other.bandwidth))


def rate(step: dict[str, float], machine: costs.Machine) -> None:
    """Write into a network's entry of a step which shares of the machine's limits it reaches."""
    seconds = step["milliseconds"] / 1e3
    step["of_arithmetic"] = round(step["megaflops"] * 1e6 / machine.flops / seconds, 4)
    step["of_memory"] = round(step["megabytes"] * 1e6 / machine.bandwidth / seconds, 4)


def counts(names: Sequence[str], cuts: Sequence[int], config: pmtlib.PMTConfig) -> dict[str, dict[str, Any]]:
    """A step's cost by network and cut; cuts that a network has not are left out. On the processor, nothing timed."""
    images = pictures(COUNTED)
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        network = pmtlib.load_network(name)
        fitting = [cut for cut in cuts if cut <= len(network.units)]
        found[name] = {
            str(cut): {
                **told(step_cost(network, cut, images, config)),
                "literal_megaflops": round(literal_flops(network, cut, images) / 1e6, 2),
            }
            for cut in fitting
        }
    return found


def stopping(
    name: str, cut: int, images: Tensor, config: pmtlib.PMTConfig, rounds: int, device: torch.device
) -> dict[str, Any]:
    """How many times as fast images that stop at different times are as one stream, and how many steps they make."""
    shallow = pmtlib.ShallowModel(pmtlib.zoo.load(name, device), cut)
    size = config.batch_size

    def stream() -> Tensor:
        return pmtlib.protect(images, [shallow], config).images

    def batches() -> Tensor:
        chunks = torch.split(images, size)
        return torch.cat([pmtlib.protect(chunk, [shallow], config).images for chunk in chunks])

    if not torch.equal(stream(), batches()):
        raise SystemExit(f"error: {name}: one stream does not give the images of batch after batch")
    steps = pmtlib.protect(images, [shallow], config).steps
    ratios = [costs.timed(batches, device) / costs.timed(stream, device) for _ in range(rounds)]
    waited = sum(int(chunk.max()) * len(chunk) for chunk in torch.split(steps, size))
    return {
        "ratio": _spread(ratios),
        "steps": {"mean": round(float(steps.double().mean()), 2), "most": int(steps.max())},
        "waiting": round(1 - float(steps.sum()) / max(waited, 1), 3),
    }


def compiled(name: str, cut: int, images: Tensor, rounds: int, device: torch.device) -> dict[str, Any]:
    """How many times as fast the gradient of the maps' squared distance is by ``torch.compile``, and how far off."""
    shallow = pmtlib.ShallowModel(pmtlib.zoo.load(name, device), cut)
    with torch.no_grad():
        goals = [output.clone() for output in shallow(images.flip(0))]

    def loss(candidates: Tensor) -> Tensor:
        outputs = zip(shallow(candidates), goals, strict=True)
        return torch.stack([(own - goal).square().flatten(1).sum(1) for own, goal in outputs]).sum()

    def gradient(function: Callable[[Tensor], Tensor]) -> Tensor:
        given = images.clone().requires_grad_(True)
        return torch.autograd.grad(function(given), given)[0]

    faster = torch.compile(loss)
    with reproducible():
        begun = time.perf_counter()
        found = gradient(faster)
        seconds = time.perf_counter() - begun
        usual = gradient(loss)
        ratios = [
            costs.timed(lambda: gradient(loss), device) / costs.timed(lambda: gradient(faster), device)
            for _ in range(5 * rounds)
        ]
    off = float((found - usual).norm() / usual.norm())
    return {"ratio": _spread(ratios), "compiling_seconds": round(seconds, 1), "off": float(f"{off:.2g}")}


def layers(device: torch.device, rounds: int) -> dict[str, dict[str, float]]:
    """How many times as fast as torch's own the layers of :mod:`pmtlib.networks.frozen` are, as maps lie here."""
    usual = torch.nn.PReLU(128).to(device).requires_grad_(False)
    stem = torch.nn.Conv2d(3, 64, 3, 2, 1).to(device).requires_grad_(False)
    maps, images = (16, 128, 28, 28), (16, 3, 112, 112)

    strided = torch.nn.Conv2d(128, 128, 3, 2, 1, groups=128).to(device).requires_grad_(False)

    def half(layer: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def made(values: Tensor) -> Tensor:
            with torch.autocast(device.type, dtype=torch.bfloat16):
                return layer(values).float()

        return made

    pairs: dict[str, tuple[tuple[int, ...], Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
        "parametric ReLU": (maps, usual, FrozenPReLU(usual)),
        AVERAGES: (maps, lambda x: F.avg_pool2d(x, 2), lambda x: window_means(x, 2)),
        "convolution of a picture": (images, stem, FrozenImageConv(stem)),
        STRIDED: (maps, half(strided), half(FrozenDepthwise(strided))),
    }  # fmt: skip
    found = {}
    for name, (shape, *pair) in pairs.items():
        values = torch.randn(shape, device=device)
        if fast_layout(device) == "channels_last" and name != AVERAGES:
            values = values.contiguous(memory_format=torch.channels_last)
        above = torch.randn_like(pair[0](values))

        def both_ways(layer: Callable[[Tensor], Tensor], values: Tensor = values, above: Tensor = above) -> Tensor:
            given = values.clone().requires_grad_(True)
            return torch.autograd.grad(layer(given), given, above)[0]

        off = 2e-2 if name == STRIDED else 1e-5
        if not torch.allclose(both_ways(pair[0]), both_ways(pair[1]), rtol=off, atol=off):
            raise SystemExit(f"error: {name} does not give the gradient of torch's own")
        found[name] = _spread(
            [
                costs.timed(lambda: both_ways(pair[0]), device) / costs.timed(lambda: both_ways(pair[1]), device)  # noqa: B023
                for _ in range(5 * rounds)
            ]
        )
    return found


def _spread(ratios: Sequence[float]) -> dict[str, float]:
    return {"median": round(statistics.median(ratios), 3), "low": round(min(ratios), 3), "high": round(max(ratios), 3)}


def count(given: argparse.Namespace) -> int:
    """Print and store what steps cost."""
    begun = time.perf_counter()
    found: dict[str, Any] = {"counts": counts(given.networks, given.cuts, pmtlib.PMTConfig())}
    for name, by_cut in found["counts"].items():
        for cut, cost in by_cut.items():
            print(f"{name}, {cut} units: {cost['megaflops']:g} Mflop and {cost['megabytes']:g} MB an image-step")
    cuts = " ".join(map(str, given.cuts))
    command = f"python benchmarks/transform.py --count-only --networks {' '.join(given.networks)} --cuts {cuts}"
    found["manifest"] = provenance.manifest(
        given.networks, torch.device("cpu"), seconds=time.perf_counter() - begun, command=command
    )
    found["parameters"] = {"cuts": given.cuts, "images": COUNTED}
    if given.json is not None:
        write_atomic(given.json, (json.dumps(found, indent=1, sort_keys=True) + "\n").encode())
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 1 where two ways do not give the same images."""
    parser = argparse.ArgumentParser(description="Images a second of the transform, against plain loops, in one run.")
    parser.add_argument(
        "--networks", nargs="+", help="names from `pmt networks`; default: mobilefacenet, or all to count"
    )
    parser.add_argument("--cut", type=int, default=5, help="units that are shared")
    parser.add_argument("--cuts", type=int, nargs="+", default=[1, 3, 5, 8], help="the same, with --count-only")
    parser.add_argument("--steps", type=int, default=20, help="K; times grow with it, ratios hardly change")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--batch", type=int, default=16, help="images that are optimised together, at most")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    parser.add_argument("--layers", action="store_true", help="time single layers against torch's own too")
    parser.add_argument("--mixed", action="store_true", help="time bfloat16 too, and say what the cosine loses by it")
    parser.add_argument("--stop", type=float, metavar="COSINE", help="time images that stop there, and nothing else")
    parser.add_argument("--compiled", action="store_true", help="time torch.compile, and nothing else")
    parser.add_argument("--count-only", action="store_true", help="count what steps cost, and time nothing")
    given = parser.parse_args(arguments)
    if min(given.cuts) < 1:
        parser.error("--cuts are numbers of units, 1 or more")
    if given.count_only and (given.stop is not None or given.compiled or given.layers or given.mixed):
        parser.error("--count-only times nothing; leave --stop, --compiled, --layers and --mixed out")
    every = [name for name in pmtlib.zoo.names() if given.count_only and pmtlib.zoo.available(name)]
    given.networks = given.networks or every or ["mobilefacenet"]
    if given.stop is not None and given.images < 2 * given.batch:
        parser.error(f"--stop compares several batches; give --images {2 * given.batch} or more, or a smaller --batch")
    if given.count_only:
        return count(given)
    begun = time.perf_counter()
    device = devices.resolve(given.device)
    config = pmtlib.PMTConfig(steps=given.steps, batch_size=max(2, min(given.images, given.batch)))
    images = pictures(given.images).to(device)
    found: dict[str, Any] = {}
    different: list[str] = []
    for name in given.networks if given.stop is not None else ():
        stop = config.model_copy(update={"stop_cosine": given.stop})
        entry = stopping(name, given.cut, images, stop, given.rounds, device)
        found.setdefault("stopping", {})[name], ratio = entry, entry["ratio"]
        print(
            f"{name}: {ratio['median']:.2f}x [{ratio['low']:.2f}, {ratio['high']:.2f}] as fast as batch after batch, "
            f"with the same bits; {entry['steps']['mean']:g} steps on average, {entry['steps']['most']} at most; "
            f"images would wait {100 * entry['waiting']:.0f}% of the time for the last of their batch"
        )
    for name in given.networks if given.compiled else ():
        entry = compiled(name, given.cut, images[: config.batch_size], given.rounds, device)
        found.setdefault("compiled", {})[name], ratio = entry, entry["ratio"]
        print(
            f"{name}: {ratio['median']:.2f}x [{ratio['low']:.2f}, {ratio['high']:.2f}] as fast through torch.compile, "
            f"after {entry['compiling_seconds']:g} s; relative difference {entry['off']:g}"
        )
    timed = () if given.compiled or given.stop is not None else given.networks
    machine = costs.measure(device) if timed else costs.Machine(0, 0)
    entries = {
        name: benchmark(name, given.cut, images, config, given.rounds, device, mixed=given.mixed) for name in timed
    }
    if timed:
        # Measured beside each network, a machine that is busy for a while would look slower for one of them.
        machine = better(machine, costs.measure(device))
        found["networks"], found["machine"] = (
            entries,
            {
                "gigaflops": round(machine.flops / 1e9, 2),
                "gigabytes_a_second": round(machine.bandwidth / 1e9, 2),
            },
        )
    for name, entry in entries.items():
        step = entry["step"]
        rate(step, machine)
        print(f"{name}, {given.cut} units, K = {given.steps}: {entry['images_a_second']:g} images a second")
        for way, ratio in entry["ratios"].items():
            same = entry["equality"].get(way)
            equal = "" if same is None else f"; lowest cosine {same['cosine']:.5f}, SSIM {same['ssim']:.5f}"
            if "early" in entry and same is not None:
                equal += (
                    f" (after {EARLY} steps {entry['early'][way]['cosine']:.5f}, {entry['early'][way]['ssim']:.5f})"
                )
            print(f"  {ratio['median']:.2f}x [{ratio['low']:.2f}, {ratio['high']:.2f}] as fast as {way}{equal}")
        if "float64" in entry:
            told_off = ", ".join(
                f"{way} {same['mean_cosine']:.5f} ({same['cosine']:.5f})" for way, same in entry["float64"].items()
            )
            print(f"  mean (lowest) cosine with the units in float64: {told_off}")
        different += [f"{name}: {one}" for one in wrong(entry)]
        print(
            f"  an image-step: {step['megaflops']:g} Mflop, {step['megabytes']:g} MB, {step['milliseconds']:g} ms; "
            f"{100 * step['of_arithmetic']:.0f}% of the arithmetic limit ({found['machine']['gigaflops']:g} Gflop/s), "
            f"{100 * step['of_memory']:.0f}% of the memory limit ({found['machine']['gigabytes_a_second']:g} GB/s)"
        )
        if given.mixed:
            other = entry["mixed"]
            told_ratios = ", ".join(
                f"{ratio['median']:.2f}x [{ratio['low']:.2f}, {ratio['high']:.2f}] as fast as {way}"
                for way, ratio in other["ratios"].items()
            )
            loss = other["loss"]
            print(
                f"  in {MIXED}: {told_ratios}; after {MIXED_STEPS} steps the service's cosine is {other['cosine']:.4f} "
                f"in float32, and {loss['mean']:.4f} [{loss['low']:.4f}, {loss['high']:.4f}] less so"
            )
    if given.layers:
        found["layers"] = layers(device, given.rounds)
        for name, ratio in found["layers"].items():
            print(f"{name}: {ratio['median']:.2f}x [{ratio['low']:.2f}, {ratio['high']:.2f}] as fast as torch's own")
    # Where the numbers go and by what path the script was named say nothing of how they came about.
    options = f"--cut {given.cut} --steps {given.steps} --images {given.images} --rounds {given.rounds}"
    options += "" if given.batch == parser.get_default("batch") else f" --batch {given.batch}"
    options += ("" if given.stop is None else f" --stop {given.stop:g}") + " --compiled" * given.compiled
    options += " --mixed" * given.mixed
    command = f"python benchmarks/transform.py --networks {' '.join(given.networks)} {options} --device {device.type}"
    found["manifest"] = provenance.manifest(
        given.networks, device, seconds=time.perf_counter() - begun, command=command
    )
    found["parameters"] = {"cut": given.cut, "steps": given.steps, "images": given.images, "rounds": given.rounds}
    found["parameters"]["early"] = EARLY
    if given.stop is not None:
        found["parameters"] |= {"stop": given.stop, "batch": given.batch}
    if given.json is not None:
        write_atomic(given.json, (json.dumps(found, indent=1, sort_keys=True) + "\n").encode())
    for one in different:
        print(f"error: {one}", file=sys.stderr)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
