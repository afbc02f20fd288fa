"""Appendix: what the transform costs, as curves over batch, steps, cut and size of photographs, and for a million.

Times are of one machine in one run, in turns, several rounds over; ratios are formed within a round. A million
photographs are not protected here: :func:`simulate` plays a cluster through, with times drawn from those measured.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import cv2
import numpy as np
import pandas as pd
import torch
from pydantic import Field

from pmtlib import costs, devices, faces, paths, pipeline
from pmtlib.errors import DatasetError
from pmtlib.experiments.common import Floats, Outcome, Source
from pmtlib.experiments.variants import Variants, VariantSettings
from pmtlib.images import UInt8Image, png_bytes, to_uint8, write_atomic
from pmtlib.progress import progress_bar
from pmtlib.shallow import ShallowModel, fast_layout
from pmtlib.transform import protect

VERSION = 3
"""2 had maps in torch's own layout, which ``pmt protect`` does not take on processors."""
BATCH, STEPS, CUT, SIDE = "batch", "steps", "cut", "side"


class SpeedSettings(VariantSettings):
    """Parameters of the appendix on cost.

    Attributes:
        batches: images that are optimised together.
        steps: numbers of steps K.
        cuts: units of the shallow model.
        sides: longer side of the photographs whose faces are found, pixels.
        images: aligned faces for the curves over steps and cuts, and how many photographs of each side.
        timed_steps: steps of the runs over batches and cuts.
        rounds: how often everything is timed, in turn.
        threads: that torch computes with; 0 for one a processor, as ``pmt protect`` does.
        million: photographs of the simulation.
        side: their longer side, pixels.
        workers: machines of the simulation.
        hours_to_failure: mean time until a machine of it dies and what it had begun is done again.
    """

    section: ClassVar[str] = "speed"

    batches: tuple[int, ...] = (1, 2, 4, 8, 16)
    steps: tuple[int, ...] = (5, 10, 20)
    cuts: tuple[int, ...] = (1, 3, 5, 8)
    sides: tuple[int, ...] = (250, 500, 1000, 2000, 4000)
    images: int = Field(8, ge=1)
    timed_steps: int = Field(5, ge=1)
    rounds: int = Field(3, ge=1)
    threads: int = Field(0, ge=0)
    million: int = Field(1_000_000, ge=1)
    side: int = Field(1000, ge=1)
    workers: tuple[int, ...] = (1, 10, 100, 1000)
    hours_to_failure: float = Field(100.0, gt=0)


def measure(bench: Variants[SpeedSettings], settings: SpeedSettings) -> Outcome:
    """Seconds of everything, a number a round.

    Returns:
        Outcome whose values hold for each of ``batch``, ``steps`` and ``cut`` the seconds of an image-step by value;
        for ``side`` those of decoding a photograph, finding its face and aligning it; ``run``, seconds a photograph of
        what ``pmt protect`` does with a batch, see :func:`_beside`; ``writing``, those of a PNG's file;
        ``arithmetic``, the share of the machine's arithmetic limit that a step reaches, by cut.
    """
    sample = None if not settings.datasets else bench.sample(settings.datasets[0])
    if sample is None or isinstance(sample, DatasetError):
        return Outcome(None, "not run: data not present")
    fields = ("batches", "steps", "cuts", "sides", "images", "timed_steps", "rounds", "cut", "side")
    parameters = {name: getattr(settings, name) for name in fields}
    parameters = {name: list(value) if isinstance(value, tuple) else value for name, value in parameters.items()}
    parameters |= {"pmt": settings.pmt.model_dump(mode="json"), "authorised": settings.authorised}
    parameters |= {"threads": settings.threads} if settings.threads else {}
    request = bench.request("speed", "curves", VERSION, parameters)

    def compute() -> dict[str, Any]:
        return _timed(bench, settings)

    # A time is not reproduced to the digit, so a recomputation would always be a change.
    with _threads(settings.threads):
        return bench.obtain(request, Source.of_pairs(sample), compute, recompute=False)


@contextlib.contextmanager
def _threads(wanted: int) -> Iterator[None]:
    """So many threads, or for 0 as many as ``pmt protect`` has of itself, whatever this process was started with."""
    threads = torch.get_num_threads()
    torch.set_num_threads(wanted or devices.processors())
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _timed(bench: Variants[SpeedSettings], settings: SpeedSettings) -> dict[str, Any]:
    originals = bench.photographs(settings.datasets[0]).originals
    repeats = -(-max(settings.images, *settings.batches) // len(originals))
    originals = originals.repeat(repeats, 1, 1, 1).to(bench.device)

    def step(batch: int, steps: int, model: ShallowModel) -> float:
        config = settings.pmt.model_copy(update={"steps": steps, "batch_size": batch})
        taken = costs.timed(lambda: protect(originals[:batch], [model], config), bench.device)
        return taken / (steps * batch)

    layout = fast_layout(bench.device)
    shared = bench.shallow(settings.authorised, layout=layout)
    cut_models = {cut: bench.shallow(settings.authorised, cut, layout) for cut in settings.cuts}
    photographs = {side: _photograph(side) for side in settings.sides}
    detector = faces.Detector()
    tasks: list[tuple[str, int, Callable[[], float]]] = [
        *((BATCH, n, lambda n=n: step(n, settings.timed_steps, shared)) for n in settings.batches),
        *((STEPS, n, lambda n=n: step(settings.images, n, shared)) for n in settings.steps),
        *((CUT, n, lambda n=n: step(settings.images, settings.timed_steps, cut_models[n])) for n in settings.cuts),
        *((SIDE, n, lambda n=n: _found(photographs[n], detector, settings.images)) for n in settings.sides),
    ]
    step(settings.images, 1, shared)
    before = costs.measure(bench.device)
    crops = list(to_uint8(originals[: max(settings.batches)]))
    config = settings.pmt.model_copy(update={"batch_size": len(crops)})
    job = pipeline.Job((), Path(), [settings.authorised], config, cut=settings.cut)
    optimise = pipeline.Optimiser(job, bench.device)
    found: dict[str, dict[str, list[float]]] = {name: {} for name in (BATCH, STEPS, CUT, SIDE)}
    beside: dict[str, list[float]] = {}
    with progress_bar("cost, rounds", settings.rounds * (len(tasks) + 1)) as advance:
        for _ in range(settings.rounds):
            for name, value, run in tasks:
                found[name].setdefault(str(value), []).append(round(run(), 6))
                advance(1)
            for part, seconds in _beside(photographs[_nearest(settings)], detector, crops, optimise).items():
                beside.setdefault(part, []).append(round(seconds, 6))
            advance(1)
    writing = _written(png_bytes(crops[0]), settings.images)
    # Something else may be busy at one of the two times; nothing makes a machine faster than it is.
    machine = max(before, costs.measure(bench.device), key=lambda one: one.flops)
    arithmetic = {}
    for cut, model in cut_models.items():
        forward, backward = costs.step_cost(model, originals[:4])
        flops = forward.flops * (2 if settings.pmt.augmentation != "none" else 1) + backward.flops
        arithmetic[str(cut)] = round(flops / machine.flops / float(np.median(found[CUT][str(cut)])), 4)
    return {
        **found,
        "run": beside,
        "writing": round(writing, 6),
        "arithmetic": arithmetic,
        "gigaflops": round(machine.flops / 1e9, 2),
    }


def _nearest(settings: SpeedSettings) -> int:
    """The side that is measured and comes nearest to that of the simulated photographs."""
    return min(settings.sides, key=lambda one: abs(one - settings.side))


def _beside(
    content: bytes, detector: faces.Detector, crops: Sequence[UInt8Image], optimise: pipeline.Optimiser
) -> dict[str, float]:
    """Seconds a photograph of a batch, as ``pmt protect`` has them: it finds faces in a thread beside the optimisation.

    Returns:
        ``finding`` and ``optimising``, of as many photographs as the batch has faces, while both go on;
        ``optimising_alone``, without finding beside it.
    """

    def optimising() -> float:
        begun = time.perf_counter()
        optimise(crops)
        return (time.perf_counter() - begun) / len(crops)

    alone = optimising()
    with ThreadPoolExecutor(1) as pool:
        finding = pool.submit(_found, content, detector, len(crops))
        return {"optimising": optimising(), "finding": finding.result(), "optimising_alone": alone}


def _written(content: bytes, count: int) -> float:
    """Seconds in which a file is written."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        for place in range(count):
            write_atomic(Path(folder) / f"{place}.png", content)
        return (time.perf_counter() - begun) / count


def _photograph(side: int) -> bytes:
    """A JPEG of a face in a picture whose longer side is ``side`` pixels: a portrait that scikit-image carries."""
    from skimage.data import astronaut

    scale = side / 512
    portrait: UInt8Image = astronaut()  # type: ignore[no-untyped-call]
    picture = cv2.resize(portrait, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    done, content = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    assert done
    return bytes(content)


def _found(content: bytes, detector: faces.Detector, count: int) -> float:
    begun = time.perf_counter()
    for _ in range(count):
        picture = faces.decode(content, "photograph")
        for face in detector(picture)[:1]:
            faces.align(picture, face.landmarks)
    return (time.perf_counter() - begun) / count


def curves(outcome: Outcome) -> pd.DataFrame:
    """The curves: medians over the rounds, with the lowest and the highest.

    Returns:
        DataFrame with columns curve (``batch``, ``steps``, ``cut``, ``side``), value, rounds, milliseconds (of an
        image-step, or of a photograph), relative (to the first value of the curve, within a round), each with
        ``_low``, ``_high``.
    """
    lines = []
    for curve in (BATCH, STEPS, CUT, SIDE) if outcome.result else ():
        assert outcome.result is not None
        rounds = {int(value): np.array(taken) for value, taken in outcome.result.values[curve].items()}
        first = rounds[min(rounds)]
        for value, taken in sorted(rounds.items()):
            line: dict[str, Any] = {"curve": curve, "value": value, "rounds": len(taken)}
            for name, numbers in (("milliseconds", 1000 * taken), ("relative", taken / first)):
                line |= {name: np.median(numbers), f"{name}_low": numbers.min(), f"{name}_high": numbers.max()}
            lines.append(line)
    return pd.DataFrame(lines)


@dataclass(frozen=True)
class Run:
    """One simulated run.

    Attributes:
        workers: machines.
        hours: until the last result was there.
        busy: machine-hours of work, what was done again included.
        again: photographs that were begun again, since a machine died.
        deaths: of machines.
    """

    workers: int
    hours: float
    busy: float
    again: int
    deaths: int


def simulate(
    photographs: int,
    workers: int,
    finding: Floats,
    optimising: Floats,
    *,
    batch: int,
    hours_to_failure: float,
    seed: int,
) -> Run:
    """Play a cluster through, block by block.

    A block is four batches, what :mod:`pmtlib.cluster` writes to its manifest at once. A free machine takes the next
    one. It finds faces beside the optimisation, so that a photograph takes the longer of the two times of a drawn
    round; where it begins, one of the two has nothing to do for a batch, which takes the shorter. Machines die at
    random (exponential times), are there again at once, and what they had begun is begun again.

    Args:
        photographs: how many, each with one face.
        workers: machines.
        finding: seconds a photograph that were measured while the optimisation went on, a number a round.
        optimising: the same, of the same rounds, for its steps and for writing.
        batch: faces a batch.
        hours_to_failure: mean time of a machine between failures.
        seed: of all draws.
    """
    draw, block = np.random.default_rng(seed), 4 * batch
    rounds = [(float(found), float(done)) for found, done in zip(finding, optimising, strict=True)]
    left = [min(block, photographs - first) for first in range(0, photographs, block)][::-1]
    free = [(0.0, worker) for worker in range(min(workers, len(left)))]
    dies = draw.exponential(3600 * hours_to_failure, len(free))
    idle = [True] * len(free)
    hours = busy = 0.0
    again = deaths = 0
    while left:
        now, worker = heapq.heappop(free)
        size = left.pop()
        # The mean of so many draws: their sum, without drawing each.
        shorter, longer = sorted(rounds[draw.integers(len(rounds))])
        seconds = size * longer + idle[worker] * min(size, batch) * shorter
        idle[worker] = False
        end = now + seconds
        if end > dies[worker]:
            left.append(size)
            again, deaths = again + size, deaths + 1
            end, seconds = float(dies[worker]), max(float(dies[worker]) - now, 0.0)
            dies[worker] = end + draw.exponential(3600 * hours_to_failure)
            idle[worker] = True
        busy += seconds
        hours = max(hours, end)
        heapq.heappush(free, (end, worker))
    return Run(workers, hours / 3600, busy / 3600, again, deaths)


def million(outcome: Outcome, settings: SpeedSettings) -> list[Run]:
    """Runs for each number of machines, from the times measured side by side; none without them.

    Args:
        outcome: of :func:`measure`.
        settings: of the section.
    """
    if outcome.result is None:
        return []
    values: Mapping[str, Any] = outcome.result.values
    optimising = np.array(values["run"]["optimising"]) + values["writing"]
    return [
        simulate(
            settings.million, workers, np.array(values["run"]["finding"]), optimising,
            batch=max(settings.batches), hours_to_failure=settings.hours_to_failure, seed=0,
        )
        for workers in settings.workers
    ]  # fmt: skip


LOOPS: Mapping[str, str] = MappingProxyType(
    {
        "against-loops-avx512": "benchmarks/transform-avx512.json",
        "against-loops-avx2": "benchmarks/transform-avx2.json",
    }
)
"""What ``benchmarks/transform.py --json`` wrote, in the project's folder, on two processors, by the table that shows
it; the first is of bfloat16 as well."""


GOALS: Mapping[str, float] = MappingProxyType({"literal": 6.0, "batched": 2.0})
"""What was set out for: how many times as fast as these ways pmtlib is to be, on :data:`GOAL_THREADS` processors."""
GOAL_THREADS = 2


def against_loops(file: str) -> tuple[pd.DataFrame, Mapping[str, Any]]:
    """A stored run of ``benchmarks/transform.py``.

    Args:
        file: one of those of :data:`LOOPS`.

    Returns:
        DataFrame with columns network, way, ratio, low, high (how many times as fast pmtlib is; median and range over
        the rounds), goal (the ratio that was set out for; not a number where there is none, or the run had another
        number of threads), cosine, ssim (the lowest between its images and the way's; not a number for other images)
        and, the same for each way, steps (K), cut, images_a_second at this K, megaflops and megabytes (of a step of an
        image), of_arithmetic, of_memory (shares of the limits), image_wise (whether
        :mod:`pmtlib.networks.image_wise` took it); and the run's manifest. Empty where there is no such file.
    """
    stored = _stored(file)
    if stored is None:
        return pd.DataFrame(), {}
    lines = []
    judged = stored["manifest"]["hardware"]["torch_threads"] == GOAL_THREADS
    for network, entry in stored["networks"].items():
        whole = {name: stored["parameters"][name] for name in ("steps", "cut")}
        whole["images_a_second"] = entry["images_a_second"]
        whole |= {name: entry["step"][name] for name in ("megaflops", "megabytes", "of_arithmetic", "of_memory")}
        whole["image_wise"] = entry["image_wise"]
        for way, ratio in entry["ratios"].items():
            same = entry["equality"].get(way, {"cosine": float("nan"), "ssim": float("nan")})
            about = {
                "network": network,
                "way": way,
                "ratio": ratio["median"],
                "low": ratio["low"],
                "high": ratio["high"],
                "goal": GOALS.get(way, float("nan")) if judged else float("nan"),
            }
            lines.append({**about, "cosine": same["cosine"], "ssim": same["ssim"], **whole})
    return pd.DataFrame(lines), stored["manifest"]


def loops_reading(frame: pd.DataFrame) -> str:
    """What the ratios come to, in words (Markdown): the goals, and where pmtlib is the slower way.

    Args:
        frame: of :func:`against_loops`, not empty.
    """
    lines = []
    for way, goal in GOALS.items():
        part = frame[(frame["way"] == way) & frame["goal"].notna()]
        if not len(part):
            lines.append(f"- The goal of {goal:g} times as fast as *{way}* was not judged: it is one for {_cores()}.")
            continue
        told: dict[bool, list[str]] = {True: [], False: []}
        for line in part.to_dict("records"):
            told[bool(line["ratio"] >= goal)].append(f"{line['network']} ({_interval(line)})")
        parts = [
            f"{word} for {', '.join(told[met])}" for met, word in ((True, "reached"), (False, "missed")) if told[met]
        ]
        lines.append(f"- The goal of {goal:g} times as fast as *{way}* on {_cores()} is {' and '.join(parts)}.")
    taken = frame[frame["image_wise"]]["network"].unique()
    lines.append(
        "- Taken an image at a time ({py:mod}`pmtlib.networks.image_wise`): "
        + (f"{', '.join(taken)}." if len(taken) else "no network.")
    )
    slower = frame[frame["ratio"] < 1]
    if len(slower):
        told_slower = "; ".join(
            f"*{line['way']}* for {line['network']} ({_interval(line)} times as fast"
            + (")" if line["high"] < 1 else ", a range that holds 1)")
            for line in slower.to_dict("records")
        )
        lines.append(f"- pmtlib is slower than {told_slower}.")
    else:
        lines.append("- pmtlib is slower than none of these ways.")
    return "\n".join(lines)


def saved_reading(frame: pd.DataFrame) -> str:
    """How much of the ratio to *literal* is work left out (Markdown); the rest comes from how the work is done.

    Args:
        frame: of :func:`against_loops`, not empty.
    """
    counts = counted()
    if not len(counts):
        return ""
    part = frame[frame["way"] == "literal"].merge(counts[["network", "cut", "literal_megaflops"]])
    if not len(part):
        return ""
    told = ", ".join(
        f"{line['literal_megaflops'] / line['megaflops']:.1f} times as much for {line['network']}"
        for line in part.to_dict("records")
    )
    return (
        f"By the count of operations *literal* computes {told}: its forward passes go through the whole network, and "
        "its backward pass also to the weights. The rest of a ratio is how these operations are done."
    )


def rounding_reading(file: str) -> str:
    """What a stored run says of last bits, which grow with the steps, in words (Markdown); nothing of a short run.

    Args:
        file: one of those of :data:`LOOPS`.
    """
    stored = _stored(file)
    if stored is None:
        return ""
    told, about = [], stored["parameters"]
    for network, entry in stored["networks"].items():
        if "early" not in entry:
            continue
        least = {measure: min(same[measure] for same in entry["early"].values()) for measure in ("cosine", "ssim")}
        exact = ", ".join(
            f"{way} {same['mean_cosine']:.4f} ({same['cosine']:.4f})" for way, same in entry["float64"].items()
        )
        told.append(
            # The first run that had early steps did not say how many.
            f"- `{network}`: after the first {about.get('early', 10)} steps no way's images are farther from pmtlib's "
            f"than cosine {least['cosine']:.5f} and SSIM {least['ssim']:.5f}. After {about['steps']} the mean (lowest) "
            f"cosine of embeddings with those of float64 is {exact}."
        )
    if not told:
        return ""
    return (
        "*Last bits.* Sums in another order differ in their last bits, which the steps amplify, so that after many of "
        "them no two ways give the same image. Each way is therefore held against the same steps with the network's "
        f"units in float64 (n = {about['images']} images): pmtlib is as good as torch where it is about as far from "
        "them.\n\n" + "\n".join(told)
    )


def mixed_reading(file: str) -> str:
    """What a stored run says of bfloat16, in words (Markdown): the goals, and what the service loses.

    Args:
        file: one of those of :data:`LOOPS`.

    A loss is called one where its 95% bootstrap interval over images lies above 0.
    """
    stored = _stored(file)
    if stored is None:
        return ""
    judged = stored["manifest"]["hardware"]["torch_threads"] == GOAL_THREADS
    timed = {network: entry["mixed"] for network, entry in stored["networks"].items() if "mixed" in entry}
    told = []
    for network, mixed in timed.items():
        ratios, loss = mixed["ratios"], mixed["loss"]
        against = [
            f"{_times(ratios[way])} as fast as *{way}*"
            + (f" (goal {goal:g}: {'reached' if ratios[way]['median'] >= goal else 'missed'})" if judged else "")
            for way, goal in GOALS.items()
        ]
        lost = "which is a loss" if loss["low"] > 0 else "which is no loss that these images show"
        told.append(
            f"- `{network}`: {_times(ratios['pmtlib'])} as fast as in float32, {', '.join(against)}. After "
            f"{mixed['steps']} steps the service's cosine is {mixed['cosine']:.4f} in float32 and lower by "
            f"{loss['mean']:.4f} [{loss['low']:.4f}, {loss['high']:.4f}] so (n = {mixed['images']} images), {lost}."
        )
    if not told:
        return ""
    return (
        "*Mixed precision*, `pmt protect --precision bfloat16`, in the same rounds. It is not the default: the images "
        "are others, a network is taken an image at a time in float32 alone, which was the faster way here, "
        "and on processors without instructions for bfloat16 it is slower by far, of which the command warns.\n\n"
        + "\n".join(told)
    )


COUNTS = "benchmarks/counts.json"
"""What ``benchmarks/transform.py --count-only --json`` wrote."""


def counted() -> pd.DataFrame:
    """What a step of the transform computes and moves, by the stored count.

    Returns:
        DataFrame with columns network, cut (shared units), megaflops and megabytes (of an image's step, each operation
        reading and writing the device's memory), and literal_megaflops (of a step of *literal*). Empty where there is
        no such file.
    """
    stored = _stored(COUNTS)
    counts = {} if stored is None else stored["counts"]
    return pd.DataFrame(
        [{"network": name, "cut": int(cut), **cost} for name, by_cut in counts.items() for cut, cost in by_cut.items()]
    )


GPU = "benchmarks/gpu.json"
"""What ``benchmarks/gpu.py --json`` wrote."""
GPU_GOAL, GPU_STEPS, GPU_SHARE, GPU_OF = 1000, 100, 0.5, "NVIDIA H200"
"""Set out for: images a second at so many steps, and a share of the limit of memory or arithmetic, on that GPU."""


def on_gpu() -> tuple[pd.DataFrame, str]:
    """The stored run of ``benchmarks/gpu.py``.

    Returns:
        DataFrame with columns layers, batch, steps (K), image_steps_a_second, images_a_second (at ``GPU_STEPS``, from
        the former) and cosine (of the service's embeddings of images and photographs, mean of 64); and what it comes
        to, in words (Markdown). Empty where there is no such file.
    """
    stored = _stored(GPU)
    if stored is None:
        return pd.DataFrame(), ""
    lines = [
        {"layers": name, **entry, "images_a_second": entry["image_steps_a_second"] / GPU_STEPS}
        for name, entries in stored["rates"].items()
        for entry in entries
    ]
    frame = pd.DataFrame(lines)
    return frame, _gpu_reading(frame, stored)


def _gpu_reading(frame: pd.DataFrame, stored: Mapping[str, Any]) -> str:
    step, limits, held, passes, manifest = (
        stored[name] for name in ("step", "limits", "agreement", "passes", "manifest")
    )
    hardware, (network,) = manifest["hardware"]["device"], manifest["weights"]
    fastest = max(frame[frame["layers"] == "fused"].to_dict("records"), key=lambda line: line["images_a_second"])
    best = fastest["images_a_second"]
    # What is done once an image weighs more where steps are few.
    alike = frame[frame["steps"] == fastest["steps"]]
    fused, layers = (alike[(alike["layers"] == "fused") == one] for one in (True, False))
    # Batches that both were timed with: larger ones alone would be in one's favour.
    both = sorted(set(fused["batch"]) & set(layers["batch"]))
    against = ""
    if both:
        mine = fused[fused["batch"] == both[-1]]["images_a_second"].max()
        rival = max(layers[layers["batch"] == both[-1]].to_dict("records"), key=lambda one: one["images_a_second"])
        against = (
            f"; in batches of {both[-1]} it is {mine:,.0f}, {mine / rival['images_a_second']:.1f} times as many as the "
            f"fastest way by torch's layers ({rival['layers']})"
        )
    slowest = fused["images_a_second"].min()
    against += f". Each batch was timed once: from {slowest:,.0f} to {best:,.0f}" if len(fused) > 1 else ""
    share = max(step["of_memory"], step["of_arithmetic"])
    judged = [
        f" (goal on one {GPU_OF}: {goal}, {'reached' if met else 'missed'})" if hardware == GPU_OF else ""
        for goal, met in ((f"{GPU_GOAL:,}", best >= GPU_GOAL), (f"{100 * GPU_SHARE:.0f}%", share >= GPU_SHARE))
    ]
    told = [
        f"- One {hardware}, `{network}`: {best:,.0f} images a second at K = {GPU_STEPS}, in batches of "
        f"{fastest['batch']}{judged[0]}{against}.",
        f"- A step of an image moves {step['megabytes']:.1f} MB through fused kernels; one operation after another in "
        f"float32, it would be {step['megabytes_of_layers']:.0f} MB. That is {100 * step['of_memory']:.0f}% of the "
        f"{limits['gigabytes_a_second']:,.0f} GB/s at which an array is copied, and "
        f"{100 * step['of_arithmetic']:.0f}% of the {limits['bfloat16_teraflops']:.0f} Tflop/s of a product of "
        f"matrices in bfloat16{judged[1]}.",
        f"- Forwards and backwards, a batch of {passes['batch']} takes {passes['fused_milliseconds']:.2f} ms by these "
        f"kernels and {passes['compiled_milliseconds']:.2f} ms by `torch.compile`.",
        f"- Off float32 (relative): means {held['fused_means']:.3f}, by autocast {held['autocast_means']:.3f}; the "
        f"image's derivative {held['fused_derivative']:.3f}, by autocast {held['autocast_derivative']:.3f}.",
    ]
    packages = ", ".join(f"{name} {version}" for name, version in manifest["packages"].items() if version)
    run, note = ("An earlier form", f" {manifest['note']}") if "note" in manifest else ("One run", "")
    return "\n".join(told) + f"\n\n{run} of `{manifest['command']}`, {manifest['date']}, {packages}.{note}"


def _cores() -> str:
    return f"{GOAL_THREADS} processor cores"


def _interval(ratio: Mapping[Any, Any]) -> str:
    return f"{ratio['ratio']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"


ASIDE = "benchmarks/aside.json"
"""What ``benchmarks/transform.py --stop COSINE --compiled --json`` wrote."""


def aside() -> str:
    """What the stored run on images that stop early and on ``torch.compile`` came to, in words (Markdown)."""
    stored = _stored(ASIDE)
    if stored is None:
        return ""
    told, parameters, manifest = [], stored["parameters"], stored["manifest"]
    for network, entry in stored.get("stopping", {}).items():
        told.append(
            f"*Images that stop early* (`{network}`, PMT as published, at a cosine of {parameters['stop']:g}: "
            f"{entry['steps']['mean']:.0f} steps on average, {entry['steps']['most']} at most) would wait "
            f"{100 * entry['waiting']:.0f}% of the time for the last of their batch of {parameters['batch']}. Their "
            f"place goes to the next one, with the same bits: {_times(entry['ratio'])} as fast as batch after batch, "
            f"for {parameters['images']} images."
        )
    for network, entry in stored.get("compiled", {}).items():
        used = "pmtlib does without" if entry["ratio"]["median"] <= 1 else "it is not used yet"
        told.append(
            f"*torch.compile* (`{network}`): the gradient of the distance of all shared maps is "
            f"{_times(entry['ratio'])} as fast, after {entry['compiling_seconds']:.0f} seconds of compiling, at a "
            f"relative difference of {entry['off']:g}; {used}."
        )
    hardware = manifest["hardware"]
    where = f"{hardware['device']}, {hardware['torch_threads']} thread(s), {manifest['date']}"
    told.append(f"Median and range over the rounds of `{manifest['command']}`: {where}.")
    return "\n\n".join(told)


def _times(ratio: Mapping[str, float]) -> str:
    return f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}] times"


WHOLE = ("benchmarks/command.json", "benchmarks/load.json")
"""What ``benchmarks/command.py --json`` wrote: a run at the default settings, and one of very many photographs."""


def of_command() -> list[dict[str, Any]]:
    """The stored runs of ``benchmarks/command.py``, those that are there."""
    return [run for run in map(_stored, WHOLE) if run is not None]


def _stored(name: str) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads((paths.project_dir() / name).read_text("utf-8"))
    except OSError:
        return None
    return content


def memory_growth(run: Mapping[str, Any]) -> float:
    """Megabytes by which the resident memory grew from the second quarter of a run to the last, between the medians."""
    values = run["memory"]["megabytes"]
    quarter = len(values) // 4
    late, early = values[-max(quarter, 1) :], values[quarter : 2 * quarter] or values
    return float(statistics.median(late) - statistics.median(early))


def summary(frame: pd.DataFrame, runs: Sequence[Run]) -> dict[str, float]:
    """Headline numbers: milliseconds of an image-step by batch, hours of the simulation by machines."""
    found = {
        f"{line['curve']}_{line['value']}_ms": round(float(line["milliseconds"]), 3)
        for line in frame.to_dict("records")
    }
    return {**found, **{f"million_{run.workers}_hours": round(run.hours, 2) for run in runs}}


def reading(frame: pd.DataFrame, runs: Sequence[Run], outcome: Outcome, settings: SpeedSettings) -> str:
    """What the curves come to, in words (Markdown)."""
    if outcome.result is None:
        return "Nothing was measured."
    hardware = outcome.result.manifest["hardware"]
    by_curve = {str(name): part for name, part in frame.groupby("curve", sort=False)}

    def ends(curve: str) -> tuple[Any, Any]:
        part = by_curve[curve].sort_values("value")
        return part.iloc[0], part.iloc[-1]

    def ratio(line: Any) -> str:
        return f"{line['relative']:.2f} [{line['relative_low']:.2f}, {line['relative_high']:.2f}]"

    _, many = ends(BATCH)
    few, more = ends(STEPS)
    small, large = ends(SIDE)
    values = outcome.result.values
    rounds = np.array(values["run"]["optimising"]) / np.array(values["run"]["optimising_alone"])
    slower = f"{np.median(rounds):.2f} [{rounds.min():.2f}, {rounds.max():.2f}]"
    shares = ", ".join(f"{100 * share:.0f}% (k = {cut})" for cut, share in values["arithmetic"].items())
    lines = [
        f"Measured with {settings.authorised} on {hardware['device']}, {hardware['torch_threads']} thread(s), medians "
        f"of {settings.rounds} rounds, in brackets the lowest and the highest.",
        f"- **Batch.** An image-step of {many['value']} images takes {ratio(many)} of one alone.",
        f"- **Steps.** A step takes as long among {more['value']} as among {few['value']}: {ratio(more)}.",
        f"- **The cut.** A step reaches this share of the machine's arithmetic limit "
        f"({values['gigaflops']:g} Gflop/s): {shares}.",
        f"- **Size of the photograph.** Finding a face takes {small['milliseconds']:.0f} ms at {small['value']} pixels "
        f"and {large['milliseconds']:.0f} ms at {large['value']}; the optimisation sees 112x112 pixels of either.",
        f"- **Finding beside optimising.** While faces are found in as many photographs of {_nearest(settings)} "
        f"pixels, a batch of {max(settings.batches)} takes {slower} times as long to optimise as alone: both want the "
        "same processors.",
    ]
    if runs:
        told = "; ".join(
            f"{run.workers} {'machine' if run.workers == 1 else 'machines'}: {_duration(run.hours)}, {run.deaths} "
            f"died and {run.again} photographs were begun again"
            for run in runs
        )
        lines.append(
            f"- **{settings.million:,} photographs**, simulated for machines like this one at K = {settings.pmt.steps},"
            f" each dying once in {settings.hours_to_failure:g} hours: {told}."
        )
        alone = next((run for run in runs if run.workers == 1), None)
        # The run at another K says nothing of these.
        whole = next((run for run in of_command() if run["steps"] == settings.pmt.steps), None)
        if alone is not None and whole is not None:
            lines.append(
                f"- **Is the simulation like a run?** One machine needs {3600 * alone.hours / settings.million:.2f} "
                f"seconds a photograph in it, of {_nearest(settings)} pixels; the whole run below at "
                f"K = {whole['steps']}, of {min(whole['sides'])} to {max(whole['sides'])} pixels, took "
                f"{1 / whole['photographs_a_second']:.2f}."
            )
    return "\n".join([lines[0], "", *lines[1:]])


def _duration(hours: float) -> str:
    return (
        f"{hours / 24:.1f} days" if hours >= 48 else f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes"
    )
