"""The appendix on cost: curves are plain medians of what was timed, and the simulated cluster loses nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pmtlib import costs, results
from pmtlib.experiments import speed, variants
from pmtlib.experiments.common import Outcome, section_settings
from pmtlib.figures import speed as figures
from pmtlib.images import write_atomic
from tests import photographs

ROOT = Path(__file__).resolve().parent.parent
FILE = speed.LOOPS["against-loops-avx2"]
VALUES = {
    "batch": {"1": [0.02, 0.03, 0.02], "4": [0.01, 0.02, 0.015]},
    "steps": {"2": [0.01, 0.02, 0.03], "4": [0.01, 0.02, 0.03]},
    "cut": {"1": [0.005, 0.005, 0.005], "5": [0.01, 0.01, 0.01]},
    "side": {"250": [0.001, 0.001, 0.002], "1000": [0.01, 0.02, 0.01]},
    "run": {
        "finding": [0.02, 0.03, 0.02],
        "optimising": [0.25, 0.3, 0.36],
        "optimising_alone": [0.2, 0.25, 0.2],
    },
    "writing": 0.001,
    "arithmetic": {"1": 0.25, "5": 0.5},
    "gigaflops": 40.0,
}
SETTINGS = speed.SpeedSettings(
    datasets=("samples",), networks=("mobilefacenet",), batches=(1, 4), sides=(250, 1000), million=1000, workers=(1, 10)
)


def measured() -> Outcome:
    hardware = {"device": "cpu", "torch_threads": 1}
    manifest = {"hardware": hardware, "date": "2026-01-01", "packages": {"torch": "2"}, "seconds": 1.0}
    request = results.Request("speed", "curves", 1, {}, {})
    data = {"name": "samples", "title": "", "fingerprint": "", "n": 2}
    return Outcome(results.Result(request, data, json.loads(json.dumps(VALUES)), manifest))


def test_a_curve_is_the_median_of_its_rounds() -> None:
    frame = speed.curves(measured())
    assert len(frame) == 8
    many = frame[(frame["curve"] == "batch") & (frame["value"] == 4)].iloc[0]
    assert many["milliseconds"] == pytest.approx(15)
    assert (many["milliseconds_low"], many["milliseconds_high"]) == pytest.approx((10, 20))
    # Ratios are formed within a round: 1/2, 2/3 and 3/4.
    assert many["relative"] == pytest.approx(2 / 3)
    said = speed.reading(frame, speed.million(measured(), SETTINGS), measured(), SETTINGS)
    assert "0.67 [0.50, 0.75]" in said
    assert "25% (k = 1), 50% (k = 5)" in said
    # 0.25 / 0.2, 0.3 / 0.25 and 0.36 / 0.2.
    assert "a batch of 4 takes 1.25 [1.20, 1.80] times as long to optimise as alone" in said
    assert "1,000 photographs" in said
    assert speed.summary(frame, [])["batch_4_ms"] == 15.0
    html = figures.cost_table(frame).to_html()
    assert html.count("0.67 [0.50, 0.75]") == 1
    assert len(figures.cost_curves(frame).axes) == 4
    assert "machine-hours" in figures.million_table(speed.million(measured(), SETTINGS)).to_html()


def test_without_deaths_a_cluster_needs_the_longer_of_its_times() -> None:
    one, half = np.array([1.0]), np.array([0.5])
    alone = speed.simulate(1000, 1, one, half, batch=4, hours_to_failure=1e12, seed=0)
    assert (alone.deaths, alone.again) == (0, 0)
    # Finding goes on beside the optimisation, which for the last batch has nothing beside it.
    assert alone.hours == pytest.approx((1000 + 4 * 0.5) / 3600)
    other = speed.simulate(1000, 1, half, one, batch=4, hours_to_failure=1e12, seed=0)
    assert other.hours == pytest.approx(alone.hours)
    # 63 blocks of sixteen at most, on nine machines: seven each.
    many = speed.simulate(1000, 9, one, half, batch=4, hours_to_failure=1e12, seed=0)
    assert many.hours == pytest.approx((7 * 16 + 2) / 3600)
    assert many.busy == pytest.approx(alone.busy + 8 * 2 / 3600)
    idle = speed.simulate(10, 1000, one, half, batch=4, hours_to_failure=1e12, seed=0)
    assert idle.hours == pytest.approx((10 + 2) / 3600)


def test_times_of_a_round_are_drawn_together() -> None:
    finding, optimising = np.array([1.0, 3.0]), np.array([2.0, 1.0])
    run = speed.simulate(100_000, 1, finding, optimising, batch=4, hours_to_failure=1e12, seed=0)
    # The longer is 2 in one round and 3 in the other; drawn apart, it would be 2.25 on average.
    assert run.hours * 3600 / 100_000 == pytest.approx(2.5, rel=0.01)


@pytest.mark.parametrize("name", speed.WHOLE)
def test_one_simulated_machine_is_as_fast_as_a_whole_run_was(name: str) -> None:
    """Arithmetic on the stored runs: given the seconds of a run's parts, the simulation gives those of the run."""
    (whole,) = [run for run in speed.of_command() if run == json.loads((ROOT / name).read_text())]
    count = whole["photographs"]
    parts = {stage: [seconds / count] for stage, seconds in whole["stages"].items()}
    outcome = measured()
    assert outcome.result is not None
    values: dict[str, Any] = {**outcome.result.values, "run": parts, "writing": parts["writing"][0]}
    outcome = Outcome(dataclasses.replace(outcome.result, values=values))
    settings = SETTINGS.model_copy(
        update={"million": count, "workers": (1,), "batches": (whole["batch_size"],), "hours_to_failure": 1e12}
    )
    (run,) = speed.million(outcome, settings)
    # Finding and optimising one after the other, and not beside each other, would be off by 1.43 and 1.74.
    assert 1 / 1.25 < 3600 * run.hours / whole["run_seconds"] < 1.25


def test_what_a_dead_machine_had_begun_is_done_again() -> None:
    one = np.array([1.0])
    run = speed.simulate(2000, 4, one, one / 2, batch=4, hours_to_failure=0.05, seed=1)
    assert run.deaths > 0
    assert run.again == 16 * run.deaths
    # Nothing is lost: at least the work itself was done, and no more than every lost block once more.
    starts = 2 * (4 + run.deaths)
    assert 2000 <= 3600 * run.busy <= 2000 + run.again + starts
    assert run == speed.simulate(2000, 4, one, one / 2, batch=4, hours_to_failure=0.05, seed=1)
    assert run != speed.simulate(2000, 4, one, one / 2, batch=4, hours_to_failure=0.05, seed=2)


def test_everything_is_timed_and_nothing_of_it_is_zero(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    photographs.ready()
    monkeypatch.delenv("PMT_PROFILE", raising=False)
    monkeypatch.setenv("PMT_RESULTS", str(tmp_path))
    settings = section_settings(speed.SpeedSettings, "smoke")
    bench = variants.Variants(settings, torch.device("cpu"), profile="smoke")
    # A clock on which a file takes 100 seconds and measuring the machine 10,000, beside what they really take.
    clock, ahead, threads = time.perf_counter, [0.0], []

    def slow(work: Callable[..., Any], seconds: float) -> Callable[..., Any]:
        def slowed(*given: Any, **options: Any) -> Any:
            ahead[0] += seconds
            threads.append(torch.get_num_threads())
            return work(*given, **options)

        return slowed

    monkeypatch.setattr(time, "perf_counter", lambda: clock() + ahead[0])
    monkeypatch.setattr(speed, "write_atomic", slow(write_atomic, 100))
    monkeypatch.setattr(costs, "measure", slow(costs.measure, 10_000))
    monkeypatch.setattr(costs, "step_cost", slow(costs.step_cost, 10_000))
    before = torch.get_num_threads()
    outcome = speed.measure(bench, settings)
    assert outcome.result is not None
    assert set(threads) == {settings.threads} == {1}
    assert outcome.result.manifest["hardware"]["torch_threads"] == threads[0]
    assert torch.get_num_threads() == before
    with speed._threads(0):
        every = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        assert torch.get_num_threads() == every
    assert torch.get_num_threads() == before
    values = outcome.result.values
    for curve in ("batch", "steps", "cut", "side"):
        assert all(seconds > 0 for rounds in values[curve].values() for seconds in rounds)
    for part in ("finding", "optimising", "optimising_alone"):
        assert [0 < seconds < 100 for seconds in values["run"][part]] == [True] * settings.rounds
    assert values["writing"] == pytest.approx(100, abs=10)
    assert all(0 < share < 2 for share in values["arithmetic"].values())
    assert len(speed.million(outcome, settings)) == len(settings.workers)


def test_without_data_it_is_said() -> None:
    outcome = Outcome(None, "not run: data not present")
    assert speed.reading(speed.curves(outcome), [], outcome, SETTINGS) == "Nothing was measured."
    assert speed.million(outcome, SETTINGS) == []
    assert len(figures.cost_curves(speed.curves(outcome)).axes) == 4


def test_the_stored_benchmark_is_shown_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMT_PROJECT", str(tmp_path))
    assert len(speed.against_loops(FILE)[0]) == 0
    entry = {
        "images_a_second": 5.0,
        "ratios": {way: {"median": 2.0, "low": 1.5, "high": 2.5} for way in ("literal", "batched", "torchattacks PGD")},
        "equality": {way: {"cosine": 0.99999, "ssim": 1.0} for way in ("literal", "batched")},
        "step": {"of_arithmetic": 0.25, "of_memory": 0.5, "megaflops": 483.5, "megabytes": 158.36},
        "image_wise": False,
    }
    slower = {
        "truncated": {"median": 0.98, "low": 0.96, "high": 0.99},
        "batched": {"median": 1.9, "low": 1.8, "high": 2.2},
    }
    other = {**entry, "ratios": {**entry["ratios"], **slower}, "image_wise": True}
    hardware = {"device": "cpu", "processor": "Fast 9", "vectors": "AVX2", "torch_threads": 2}
    manifest = {"hardware": hardware, "command": "python b.py", "date": "2026-01-01"}
    (tmp_path / "benchmarks").mkdir()
    stored = {
        "networks": {"mobilefacenet": entry, "sface": other},
        "parameters": {"steps": 10, "cut": 5},
        "manifest": manifest,
    }
    (tmp_path / FILE).write_text(json.dumps(stored))
    frame, about = speed.against_loops(FILE)
    assert list(frame["way"])[:3] == ["literal", "batched", "torchattacks PGD"]
    html = figures.loops_table(frame, about, "against-loops").to_html()
    assert html.count("2.00 [1.50, 2.50]") == 5
    assert html.count("0.99999") == 4
    # PGD, and the way of which no equality is stored here.
    assert html.count("other images") == 3
    assert (html.count("6: missed"), html.count("2: reached"), html.count("2: missed")) == (2, 1, 1)
    assert "images/s at K = 10" in html
    assert html.count(">484, 158<") == len(frame)
    assert "python b.py: cpu, Fast 9, AVX2, 2 thread(s), 2026-01-01" in html
    literal, batched, taken, slow = speed.loops_reading(frame).splitlines()
    assert taken == "- Taken an image at a time ({py:mod}`pmtlib.networks.image_wise`): sface."
    none = speed.loops_reading(frame[frame["network"] == "mobilefacenet"])
    assert "image_wise`): no network." in none
    missed = "missed for mobilefacenet (2.00 [1.50, 2.50]), sface (2.00 [1.50, 2.50])."
    assert literal == f"- The goal of 6 times as fast as *literal* on 2 processor cores is {missed}"
    assert "is reached for mobilefacenet (2.00 [1.50, 2.50]) and missed for sface (1.90 [1.80, 2.20])." in batched
    assert slow == "- pmtlib is slower than *truncated* for sface (0.98 [0.96, 0.99] times as fast)."
    assert speed.saved_reading(frame) == ""
    counts = {"mobilefacenet": {"5": {"megaflops": 483.5, "megabytes": 158.36, "literal_megaflops": 967.0}}}
    (tmp_path / speed.COUNTS).write_text(json.dumps({"counts": counts}))
    assert "*literal* computes 2.0 times as much for mobilefacenet: its" in speed.saved_reading(frame)
    # With another number of threads the goals are not judged, and nothing is said of them but that.
    manifest["hardware"] = {"device": "cpu", "torch_threads": 1}
    (tmp_path / FILE).write_text(json.dumps(stored))
    frame, about = speed.against_loops(FILE)
    assert "missed" not in figures.loops_table(frame, about, "against-loops").to_html()
    assert speed.loops_reading(frame).count("was not judged") == 2


def test_a_long_run_is_held_against_float64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMT_PROJECT", str(tmp_path))
    assert speed.rounding_reading(FILE) == ""
    (tmp_path / "benchmarks").mkdir()
    short = {"equality": {}}
    early = {"literal": {"cosine": 0.99999, "ssim": 0.9998}, "batched": {"cosine": 0.99998, "ssim": 0.9999}}
    exact = {way: {"mean_cosine": 0.995, "cosine": 0.98, "ssim": 0.97} for way in ("literal", "pmtlib")}
    stored = {
        "networks": {"sface": {**short, "early": early, "float64": exact}, "dlib-resnet29": short},
        "parameters": {"steps": 100, "images": 8, "early": 12},
    }
    (tmp_path / FILE).write_text(json.dumps(stored))
    said = speed.rounding_reading(FILE)
    assert "(n = 8 images)" in said
    assert "after the first 12 steps no way" in said
    assert "than cosine 0.99998 and SSIM 0.99980. After 100 the mean" in said
    assert "literal 0.9950 (0.9800), pmtlib 0.9950 (0.9800)." in said
    assert "dlib" not in said
    (tmp_path / FILE).write_text(json.dumps({**stored, "networks": {"sface": short}}))
    assert speed.rounding_reading(FILE) == ""


def test_mixed_precision_is_told_with_what_it_loses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMT_PROJECT", str(tmp_path))
    assert speed.mixed_reading(FILE) == ""
    (tmp_path / "benchmarks").mkdir()

    def entry(low: float) -> dict[str, Any]:
        ratios = {
            way: {"median": value, "low": value - 0.1, "high": value + 0.1}
            for way, value in {"literal": 5.3, "batched": 3.4, "truncated": 3.0, "pmtlib": 1.4}.items()
        }
        loss = {"mean": 0.002, "low": low, "high": 0.004}
        return {"mixed": {"ratios": ratios, "loss": loss, "cosine": 0.97, "steps": 100, "images": 16}}

    stored = {
        "networks": {"mobilefacenet": entry(-0.001), "sface": entry(0.001), "dlib-resnet29": {}},
        "manifest": {"hardware": {"device": "cpu", "torch_threads": speed.GOAL_THREADS}},
    }
    (tmp_path / FILE).write_text(json.dumps(stored))
    _, *lines = speed.mixed_reading(FILE).split("\n- ")
    assert [line.split("`")[1] for line in lines] == ["mobilefacenet", "sface"]
    assert "1.40 [1.30, 1.50] times as fast as in float32" in lines[0]
    assert "5.30 [5.20, 5.40] times as fast as *literal* (goal 6: missed)" in lines[0]
    assert "as *batched* (goal 2: reached)" in lines[0]
    assert "lower by 0.0020 [-0.0010, 0.0040] so (n = 16 images), which is no loss that these images show." in lines[0]
    assert lines[1].endswith("which is a loss.")


def test_what_was_timed_aside_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMT_PROJECT", str(tmp_path))
    assert speed.aside() == ""
    (tmp_path / "benchmarks").mkdir()
    ratio = {"median": 1.2, "low": 1.1, "high": 1.3}
    stopping = {"ratio": ratio, "steps": {"mean": 23.8, "most": 30}, "waiting": 0.21}
    slow = {"ratio": {"median": 0.7, "low": 0.6, "high": 0.8}, "compiling_seconds": 90.4, "off": 0.0}
    stored = {
        "parameters": {"stop": 0.965, "images": 64, "batch": 16},
        "manifest": {"hardware": {"device": "cpu", "torch_threads": 2}, "command": "python d.py", "date": "2026-01-01"},
        "stopping": {"mobilefacenet": stopping},
        "compiled": {"mobilefacenet": slow, "sface": {**slow, "ratio": ratio}},
    }
    (tmp_path / speed.ASIDE).write_text(json.dumps(stored))
    stops, without, later, run = speed.aside().split("\n\n")
    assert "24 steps on average, 30 at most) would wait 21% of the time for the last of their batch of 16" in stops
    assert "1.20 [1.10, 1.30] times as fast as batch after batch" in stops
    assert "0.70 [0.60, 0.80] times as fast, after 90 seconds of compiling, at a relative difference of 0" in without
    assert without.endswith("; pmtlib does without.")
    assert later.endswith("it is not used yet.")
    assert run == "Median and range over the rounds of `python d.py`: cpu, 2 thread(s), 2026-01-01."


def test_counts_have_a_line_a_network_and_a_column_a_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMT_PROJECT", str(tmp_path))
    assert not len(speed.counted())
    (tmp_path / "benchmarks").mkdir()
    cost = {"megaflops": 1234.4, "megabytes": 56.7, "literal_megaflops": 2000.0}
    counts = {"one": {"1": cost, "5": {**cost, "megabytes": 99.0}}, "other": {"1": cost}}
    (tmp_path / speed.COUNTS).write_text(json.dumps({"counts": counts}))
    frame = speed.counted()
    assert frame.to_dict("records")[1] == {"network": "one", "cut": 5, **cost, "megabytes": 99.0}
    html = figures.counts_table(frame).to_html()
    for cell in ("1 unit<", "5 units<", "1,234, 57", "1,234, 99"):
        assert cell in html, cell
    assert "nan" not in html


def test_what_a_gpu_did_is_told_beside_the_goals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMT_PROJECT", str(tmp_path))
    assert speed.on_gpu()[1] == ""
    (tmp_path / "benchmarks").mkdir()
    stored = json.loads((ROOT / speed.GPU).read_text())
    fused = {"batch": 8, "steps": 100, "image_steps_a_second": 120_000.0, "cosine": 0.9}
    plain = {"batch": 8, "steps": 100, "image_steps_a_second": 10_000.0, "cosine": 0.1}
    half = {**plain, "image_steps_a_second": 40_000.0}
    # The fastest batch is one that torch's layers were not timed with.
    several = [{**fused, "image_steps_a_second": 100_000.0}, {**fused, "batch": 16}]
    stored |= {"rates": {"float32": [plain], "bfloat16": [half], "fused": several}}
    stored["step"] |= {"of_memory": 0.4, "of_arithmetic": 0.1}
    (tmp_path / speed.GPU).write_text(json.dumps(stored))
    frame, said = speed.on_gpu()
    assert frame["images_a_second"].tolist() == [100.0, 400.0, 1000.0, 1200.0]
    assert "1,200 images a second at K = 100, in batches of 16 (goal on one NVIDIA H200: 1,000, reached)" in said
    assert "in batches of 8 it is 1,000, 2.5 times as many as the fastest way by torch's layers (bfloat16)." in said
    assert "Each batch was timed once: from 1,000 to 1,200." in said
    assert "That is 40% of the" in said
    assert "(goal on one NVIDIA H200: 50%, missed)" in said
    html = figures.gpu_table(frame).to_html()
    for cell in ("fused", "120,000", "1,200", "0.900"):
        assert cell in html, cell
    stored["manifest"]["hardware"]["device"] = "another"
    stored["rates"] |= {"float32": [{**plain, "steps": 10}], "bfloat16": []}
    (tmp_path / speed.GPU).write_text(json.dumps(stored))
    said = speed.on_gpu()[1]
    assert "goal" not in said
    assert "as many as" not in said  # other numbers of steps


def test_whole_runs_are_broken_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMT_PROJECT", str(tmp_path))
    assert speed.of_command() == []
    assert len(figures.memory_figure([]).axes) == 1
    megabytes = [500.0, 900.0, 1000.0, 1010.0, 1020.0, 1030.0, 1110.0, 1130.0]
    run = {
        "photographs": 1000, "steps": 25, "broken": 50, "done": 950, "photographs_a_second": 1.5, "run_seconds": 666.7,
        "shares": {"finding": 0.4, "optimising": 0.9, "writing": 0.02}, "overlapped": 0.85,
        "memory": {"seconds": [float(i) for i in range(1, 9)], "megabytes": megabytes},
        "manifest": {"hardware": {"device": "cpu", "torch_threads": 2}, "command": "python c.py", "date": "2026-01-01"},
    }  # fmt: skip
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / speed.WHOLE[0]).write_text(json.dumps(run))
    (stored,) = speed.of_command()
    assert speed.memory_growth(stored) == pytest.approx((1110 + 1130) / 2 - (1000 + 1010) / 2)
    html = figures.command_table([stored]).to_html()
    for cell in ("1,000", "950", "1.50", "667", "40", "90", "85", "1130", "+115", "python c.py"):
        assert cell in html, cell
    (line,) = figures.memory_figure([stored]).axes[0].lines
    assert list(line.get_ydata()) == megabytes
    assert list(line.get_xdata())[-1] == 100
    assert "does not make it free" in html
