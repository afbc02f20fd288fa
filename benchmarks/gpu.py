"""Images a second of the transform on an NVIDIA GPU, by batch and kind of arithmetic, beside what the GPU could do.

    python benchmarks/gpu.py --json benchmarks/gpu.json

On a processor ``benchmarks/transform.py`` compares ways to the same images. Here the batches are large, and the fused
kernels of :mod:`pmtlib.networks.fused` are compared with torch's layers: without them in float32 and bfloat16, and
``torch.compile`` of the shallow model. What the kernels compute is held against float32 beside what autocast computes;
where they are further from it, the run ends in an error.

The limits are measured in the same run: a copy of a large array, products of large matrices in float32 and bfloat16.
A step's bytes are those that its kernels read and write, each of a kernel's arrays once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from transform import COUNTED, pictures, step_cost

import pmtlib
from pmtlib import costs, devices, metrics, provenance
from pmtlib.errors import ConfigError
from pmtlib.images import write_atomic
from pmtlib.networks import fused
from pmtlib.shallow import ShallowModel
from pmtlib.transform import Run

CUT, WINDOW, ROUNDS = 5, 2, 5
PLAIN = {
    "float32": ("float32", "contiguous"),
    "float32, channels last": ("float32", "channels_last"),
    "bfloat16": ("bfloat16", "contiguous"),
    "bfloat16, channels last": ("bfloat16", "channels_last"),
}
"""Ways without fused layers: precision and layout."""


def limits(device: torch.device) -> dict[str, float]:
    """What the GPU copies (bytes a second, read and written) and multiplies (operations a second)."""
    machine = costs.measure(device)
    return {
        "gigabytes_a_second": round(machine.bandwidth / 1e9, 1),
        "float32_teraflops": round(machine.flops / 1e12, 2),
        "bfloat16_teraflops": round(costs.measure(device, dtype=torch.bfloat16).flops / 1e12, 1),
    }


def typical(work: Callable[[], object], device: torch.device) -> float:
    """The median of some seconds, after one that does not count."""
    work()
    return statistics.median(costs.timed(work, device) for _ in range(ROUNDS))


def without() -> AbstractContextManager[Any]:
    """No fused layers; the draws, sums and moves stay kernels."""
    return mock.patch.object(ShallowModel, "fused", return_value=None)


def agreement(shallow: ShallowModel, images: Tensor) -> dict[str, float]:
    """Largest relative distance of the means, and that of the derivative, from float32: of kernels and of autocast."""

    def of(outputs: Callable[[Tensor], list[Tensor]], above: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        given = images.clone().requires_grad_(True)
        parts = outputs(given)
        return [part.detach() for part in parts], torch.autograd.grad(parts, given, above[: len(parts)])[0]

    def layers(x: Tensor, *, half: bool) -> list[Tensor]:
        with torch.autocast("cuda", torch.bfloat16) if half else nullcontext():
            maps = shallow(x)
        return [F.avg_pool2d(one.float(), WINDOW).permute(0, 2, 3, 1).flatten(1) for one in maps]

    one = shallow.fused(images, WINDOW, "bfloat16")
    if one is None:
        raise SystemExit("error: there are no fused kernels for this device; see the warning above")
    with torch.no_grad():
        goals = layers(images.flip(0), half=False)
        above = [own - goal for own, goal in zip(layers(images, half=False), goals, strict=True)]
    ways: dict[str, Callable[[Tensor], list[Tensor]]] = {
        "fused": lambda x: one.means(x, range(CUT), WINDOW),
        "autocast": lambda x: layers(x, half=True),
    }
    usual, derivative = of(lambda x: layers(x, half=False), above)
    found = {}
    for name, way in ways.items():
        parts, gradient = of(way, above)
        distances = [float((a - b).norm() / b.norm()) for a, b in zip(parts, usual, strict=True)]
        found[f"{name}_means"] = round(max(distances), 4)
        found[f"{name}_derivative"] = round(float((gradient - derivative).norm() / derivative.norm()), 4)
    return found


def rate(network: Any, images: Tensor, steps: int, precision: str, layout: Any) -> dict[str, float]:
    """Image-steps a second of a whole :func:`pmtlib.protect`, in one batch."""
    shallow = ShallowModel(network, CUT, layout=layout)
    config = pmtlib.PMTConfig(steps=steps, batch_size=len(images), precision=precision)
    pmtlib.protect(images, [shallow], config.model_copy(update={"steps": 2}))
    made: list[pmtlib.Protected] = []
    seconds = costs.timed(lambda: made.append(pmtlib.protect(images, [shallow], config)), images.device)
    with torch.no_grad():
        some = slice(0, 64)
        cosine = metrics.cosine(network(made[0].images[some]), network(images[some]))
    return {
        "batch": len(images),
        "steps": steps,
        "image_steps_a_second": round(len(images) * steps / seconds, 1),
        "cosine": round(float(cosine.mean()), 4),
    }


def passes(shallow: ShallowModel, images: Tensor) -> dict[str, float]:
    """Milliseconds of a forward and backward pass: fused, and through torch.compile."""
    one = shallow.fused(images, WINDOW, "bfloat16")
    assert one is not None
    last = ShallowModel(shallow.network, CUT, layout="channels_last")
    faster: Callable[[Tensor], list[Tensor]] = torch.compile(last)
    goal = one.means(images.flip(0), range(CUT), WINDOW)

    def fused_passes() -> None:
        given = images.detach().requires_grad_(True)
        torch.autograd.grad(one.distance(given, goal, range(one.units), WINDOW).sum(), given)

    def compiled_passes() -> None:
        given = images.detach().requires_grad_(True)
        with torch.autocast("cuda", torch.bfloat16):
            parts = faster(given)
        torch.autograd.grad(parts, given, [torch.ones_like(part) for part in parts])

    return {
        "batch": len(images),
        "fused_milliseconds": round(1e3 * typical(fused_passes, images.device), 3),
        "compiled_milliseconds": round(1e3 * typical(compiled_passes, images.device), 3),
    }


def megabytes(shallow: ShallowModel, images: Tensor) -> float:
    """What the kernels of a step read and write, an image."""
    config = pmtlib.PMTConfig(steps=2, batch_size=len(images), precision="bfloat16")
    run = Run(images, [shallow], [1.0], config, 0, [])
    run.step()
    moved: list[int] = []
    with fused.watched(moved.append):
        run.step()
    return round(sum(moved) / len(images) / 1e6, 2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 1 where the kernels are further from float32 than autocast is."""
    parser = argparse.ArgumentParser(description="Images a second of the transform on a GPU.")
    parser.add_argument("--network", default="mobilefacenet", help="one of those with fused kernels")
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256, 512, 1024])
    parser.add_argument("--steps", type=int, default=100, help="K")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    given = parser.parse_args(arguments)
    try:
        device = devices.resolve(given.device)
    except ConfigError as error:
        parser.error(str(error))
    if device.type != "cuda":
        parser.error(f"this is for NVIDIA GPUs, not {device.type}; see benchmarks/transform.py")
    begun = time.perf_counter()
    network = pmtlib.load_network(given.network).to(device)
    shallow = ShallowModel(network, CUT)
    images = pictures(max(given.batches)).to(device)
    found: dict[str, Any] = {"agreement": agreement(shallow, images[:8]), "limits": limits(device)}
    print(f"{devices.describe(device)}: {found['limits']}; off float32: {found['agreement']}")
    rates: dict[str, list[dict[str, float]]] = {}
    plain = min(256, max(given.batches))
    for name, (precision, layout) in PLAIN.items():
        with without():
            rates[name] = [rate(network, images[:plain], given.steps, precision, layout)]
    rates["fused"] = [rate(network, images[:size], given.steps, "bfloat16", "contiguous") for size in given.batches]
    for name, entries in rates.items():
        for entry in entries:
            print(f"{name}, batches of {entry['batch']:g}: {entry['image_steps_a_second']:,.0f} image-steps a second")
    found["rates"] = rates
    found["passes"] = passes(shallow, images[: min(512, len(images))])
    moved = megabytes(shallow, images[: min(512, len(images))])
    best = max(one["image_steps_a_second"] for one in rates["fused"])
    cost = step_cost(network, CUT, images[:COUNTED], pmtlib.PMTConfig())
    found["step"] = {
        "megaflops": round(cost.flops / 1e6, 2),
        "megabytes_of_layers": round(cost.traffic / 1e6, 2),
        "megabytes": moved,
        "of_memory": round(moved * 1e6 * best / (1e9 * found["limits"]["gigabytes_a_second"]), 4),
        "of_arithmetic": round(cost.flops * best / (1e12 * found["limits"]["bfloat16_teraflops"]), 4),
    }
    print(f"best: {best / 100:,.0f} images a second at K = 100; {found['step']}, {found['passes']}")
    batches = " ".join(map(str, given.batches))
    command = f"python benchmarks/gpu.py --network {given.network} --batches {batches} --steps {given.steps}"
    found["manifest"] = provenance.manifest(
        [given.network], device, seconds=time.perf_counter() - begun, command=command
    )
    if given.json is not None:
        write_atomic(given.json, (json.dumps(found, indent=1, sort_keys=True) + "\n").encode())
    held = found["agreement"]
    # A quarter more than autocast is noise of rounding; the kernels round less often.
    if any(held[f"fused_{what}"] > 1.25 * held[f"autocast_{what}"] for what in ("means", "derivative")):
        print("error: the fused kernels are further from float32 than autocast is", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
