"""What a step costs, counted by hand on a network of two convolutions, and the benchmark that times it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import pmtlib
from pmtlib import metrics
from pmtlib.costs import Cost, Machine, measure, step_cost
from pmtlib.shallow import ShallowModel
from tests import photographs
from tests.oracles import network_or_skip
from tests.small_network import SmallNetwork
from tests.small_network import photographs as small_photographs

ROOT = Path(__file__).parents[1]


def test_operations_are_those_of_the_convolutions_by_hand() -> None:
    images = small_photographs(3)
    side = images.shape[2]
    # A multiplication and an addition for each weight at each place of the output.
    first = 2 * 4 * 3 * 9 * (side // 2) ** 2
    second = 2 * 6 * 4 * 9 * (side // 4) ** 2
    forward, backward = step_cost(ShallowModel(SmallNetwork(), 2), images)
    assert forward.flops == first + second
    # Backwards only the input's gradient is computed, none of a weight.
    assert backward.flops == first + second


def test_traffic_is_at_least_what_goes_in_and_comes_out_and_grows_with_the_cut() -> None:
    images = small_photographs(2)
    one, two = (step_cost(ShallowModel(SmallNetwork(), cut), images) for cut in (1, 2))
    pixels = images[0].numel() * images.element_size()
    assert one[0].traffic > pixels
    assert two[0].traffic > one[0].traffic
    assert two[1].traffic > one[1].traffic


def test_an_image_costs_the_same_whatever_the_batch() -> None:
    costs = [step_cost(ShallowModel(SmallNetwork(), 2), small_photographs(count))[0] for count in (1, 4)]
    assert costs[0].flops == costs[1].flops


def test_costs_add_up_and_a_machine_is_measured() -> None:
    assert Cost(1.0, 2.0) + Cost(3.0, 4.0) == Cost(4.0, 6.0)
    measured = measure(torch.device("cpu"), size=64, repeats=1)
    assert measured.flops > 0
    assert measured.bandwidth > 0


def test_the_benchmark_ends_well_where_all_ways_give_the_same_images(tmp_path: Path) -> None:
    """Shows that it runs and that the images are equal; times of a test say nothing."""
    photographs.ready()
    done = subprocess.run(
        [sys.executable, "benchmarks/transform.py", "--steps", "2", "--images", "3", "--rounds", "1", "--layers",
         "--device", "cpu", "--json", str(tmp_path / "speed.json")],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "speed.json").read_text())
    entry = found["networks"]["mobilefacenet"]
    assert (
        set(entry["ratios"]) - {"torchattacks PGD"}
        == set(entry["equality"])
        == {"literal", "batched", "truncated", "channels last"}
    )
    for same in entry["equality"].values():
        assert same["cosine"] == pytest.approx(1, abs=1e-3)
        assert same["ssim"] == pytest.approx(1, abs=1e-3)
    assert set(entry["float64"]) == {"literal", "batched", "truncated", "channels last", "pmtlib"}
    assert all(same["cosine"] > 0.999 for same in entry["float64"].values())
    assert "early" not in entry
    # Images a second hold for the steps that were made; the machine is one for all networks.
    assert entry["steps"] == 2
    assert entry["image_steps_a_second"] == pytest.approx(2 * entry["images_a_second"], rel=0.01)
    assert found["machine"]["gigaflops"] > 0
    seconds, step = 1 / entry["image_steps_a_second"], entry["step"]
    for share, limit, work in (
        ("of_arithmetic", "gigaflops", step["megaflops"]),
        ("of_memory", "gigabytes_a_second", step["megabytes"]),
    ):
        assert step[share] == pytest.approx(work / 1e3 / found["machine"][limit] / seconds, rel=0.01, abs=1e-4)
    assert len(found["layers"]) == 4
    assert str(ROOT) not in json.dumps(found)
    assert found["manifest"]["command"].startswith("python benchmarks/transform.py --networks mobilefacenet --cut 5")


def test_the_benchmark_tells_other_images_from_last_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import transform

    def same(cosine: float, ssim: float = 1.0) -> dict[str, float]:
        return {"cosine": cosine, "mean_cosine": cosine, "ssim": ssim}

    right = {"equality": {"literal": same(1.0), "batched": same(0.9995)}}
    assert transform.wrong(right) == []
    assert transform.wrong({"equality": {"literal": same(0.998)}}) == ["literal does not give the images of pmtlib"]
    assert transform.wrong({"equality": {"literal": same(1.0, ssim=0.99)}}) != []
    # After more steps it is the first ones that count, and how far from float64 the last ones are.
    grown = {"equality": {"literal": same(0.96)}, "early": {"literal": same(0.9999)}}
    assert transform.wrong({**grown, "float64": {"literal": same(0.985), "pmtlib": same(0.98)}}) == []
    assert transform.wrong({**grown, "float64": {"literal": same(0.99999), "pmtlib": same(0.9995)}}) == []
    far = transform.wrong({**grown, "float64": {"literal": same(0.985), "batched": same(0.99), "pmtlib": same(0.96)}})
    assert far == ["pmtlib is farther from float64 than the other ways (mean_cosine)"]
    broken = {**same(0.99), "ssim": 0.4}
    far = transform.wrong({**grown, "float64": {"literal": same(0.985, ssim=0.95), "pmtlib": broken}})
    assert far == ["pmtlib is farther from float64 than the other ways (ssim)"]
    exact = {"literal": same(0.985), "pmtlib": same(0.985)}
    begun_otherwise = {**grown, "early": {"literal": same(0.99)}, "float64": exact}
    assert transform.wrong(begun_otherwise) == ["literal does not give the images of pmtlib"]


def test_what_grows_is_last_bits_and_what_is_another_step_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import transform

    images, network = transform.pictures(2), network_or_skip("mobilefacenet")
    monkeypatch.setattr(transform, "EARLY", 2)
    config = pmtlib.PMTConfig(steps=3, batch_size=2)
    assert all(same["cosine"] > 0.999 for same in transform.early(network, 5, images, config)["early"].values())
    exact = transform.in_float64(network, 5, images, config)
    made = pmtlib.protect(images, [transform.shared(network, 5)], config)
    assert transform.alike(network, made.images, exact)["cosine"] > 0.9999
    other = config.model_copy(update={"kernel": "none"})
    made = pmtlib.protect(images, [transform.shared(network, 5)], other)
    assert transform.alike(network, made.images, exact)["ssim"] < 0.999


def test_the_machine_is_measured_before_and_after_all_networks_and_its_best_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    photographs.ready()
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import transform

    done = []
    machines = iter([Machine(2e9, 1e9), Machine(1e9, 3e9)])

    def measured(_device: torch.device) -> Machine:
        done.append("machine")
        return next(machines)

    def timed(name: str, *_given: object, mixed: bool) -> dict[str, Any]:
        assert not mixed
        done.append(name)
        step = {"megaflops": 4.0, "megabytes": 3.0, "milliseconds": 8.0}
        return {"images_a_second": 1.0, "ratios": {}, "equality": {}, "step": step}

    monkeypatch.setattr(transform.costs, "measure", measured)
    monkeypatch.setattr(transform, "benchmark", timed)
    path = tmp_path / "speed.json"
    assert transform.main(["--networks", "mobilefacenet", "sface", "--device", "cpu", "--json", str(path)]) == 0
    assert done == ["machine", "mobilefacenet", "sface", "machine"]
    found = json.loads(path.read_text())
    assert found["machine"] == {"gigaflops": 2.0, "gigabytes_a_second": 3.0}
    for entry in found["networks"].values():
        assert (entry["step"]["of_arithmetic"], entry["step"]["of_memory"]) == (0.25, 0.125)


def test_steps_are_counted_for_all_networks_and_cuts_without_a_clock(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs.ready()
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import transform

    monkeypatch.setattr(transform.costs, "timed", lambda *_given: pytest.fail("something is timed"))
    path = tmp_path / "counts.json"
    # Two of them, for those of the others come from packages that may not be here.
    monkeypatch.setattr(transform.pmtlib.zoo, "available", lambda name: name in ("mobilefacenet", "sface"))
    assert transform.main(["--count-only", "--cuts", "1", "5", "99", "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    assert {name: list(by_cut) for name, by_cut in found["counts"].items()} == {
        "mobilefacenet": ["1", "5"],
        "sface": ["1", "5"],
    }
    images = transform.pictures(4)
    forward, backward = step_cost(ShallowModel(transform.pmtlib.load_network("sface"), 5), images)
    counted = found["counts"]["sface"]["5"]
    assert counted["megaflops"] == pytest.approx((2 * forward.flops + backward.flops) / 1e6, abs=0.01)
    assert counted["megabytes"] == pytest.approx((2 * forward.traffic + backward.traffic) / 1e6, abs=0.01)
    # Backwards to an input and to weights is as much as forwards, each; and the whole network forwards, twice.
    whole = transform.pmtlib.load_network("sface")
    all_units, _ = step_cost(ShallowModel(whole, len(whole.units)), images)
    assert counted["literal_megaflops"] == pytest.approx(2 * (all_units.flops + forward.flops) / 1e6, rel=0.02)
    assert f"sface, 5 units: {counted['megaflops']:g} Mflop" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        transform.main(["--count-only", "--layers"])


def test_the_benchmark_of_images_that_stop_compares_equal_images(tmp_path: Path) -> None:
    photographs.ready()
    done = subprocess.run(
        [sys.executable, "benchmarks/transform.py", "--steps", "6", "--images", "7", "--rounds", "1", "--stop", "0.85",
         "--batch", "2", "--device", "cpu", "--json", str(tmp_path / "speed.json")],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "speed.json").read_text())
    entry = found["stopping"]["mobilefacenet"]
    assert "networks" not in found
    assert 0 < entry["steps"]["mean"] <= entry["steps"]["most"] <= 6
    assert 0 <= entry["waiting"] < 1
    assert entry["ratio"]["median"] > 0
    assert found["parameters"]["stop"] == 0.85
    assert "with the same bits" in done.stdout
    command = [sys.executable, "benchmarks/transform.py", "--stop", "0.85"]
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "give --images 32 or more" in refused.stderr


def test_bfloat16_is_timed_in_the_same_rounds_and_held_against_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs.ready()
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import transform  # type: ignore[import-not-found]

    monkeypatch.setattr(transform, "MIXED_STEPS", 2)
    options = ["--steps", "1", "--images", "2", "--rounds", "2", "--device", "cpu", "--mixed"]
    assert transform.main([*options, "--json", str(tmp_path / "speed.json")]) == 0
    entry = json.loads((tmp_path / "speed.json").read_text())["networks"]["mobilefacenet"]
    mixed, seconds = entry["mixed"], entry["seconds"]
    assert "bfloat16" not in entry["ratios"]
    assert "bfloat16" not in entry["equality"]
    for way in ("literal", "batched", "truncated", "channels last", "pmtlib"):
        by_round = sorted(slow / fast for slow, fast in zip(seconds[way], seconds["bfloat16"], strict=True))
        # Ratios are stored to three places, and small where a processor has no instructions for bfloat16.
        assert mixed["ratios"][way]["low"] == pytest.approx(by_round[0], rel=0.02, abs=6e-4)
        assert mixed["ratios"][way]["high"] == pytest.approx(by_round[-1], rel=0.02, abs=6e-4)
    assert mixed["loss"]["low"] <= mixed["loss"]["mean"] <= mixed["loss"]["high"]
    network, images = transform.pmtlib.load_network("mobilefacenet"), transform.pictures(2)
    made = {}
    for precision in ("float32", "bfloat16"):
        config = transform.pmtlib.PMTConfig(steps=2, batch_size=2, precision=precision)
        images_made = transform.pmtlib.protect(images, [transform.shared(network, 5)], config).images
        made[precision] = metrics.cosine(network(images_made), network(images)).mean()
    assert mixed["cosine"] == pytest.approx(made["float32"], abs=1e-4)
    assert mixed["loss"]["mean"] == pytest.approx(made["float32"] - made["bfloat16"], abs=1e-4)
    assert "in bfloat16: " in capsys.readouterr().out


def test_a_way_that_gives_other_images_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs.ready()
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import transform  # type: ignore[import-not-found]

    honest = transform.plain_loop

    def darker(*given: object, **options: object) -> torch.Tensor:
        made: torch.Tensor = honest(*given, **options)
        return made * 0.5

    monkeypatch.setattr(transform, "plain_loop", darker)
    assert transform.main(["--steps", "1", "--images", "2", "--rounds", "1", "--device", "cpu"]) == 1
    assert "literal does not give the images of pmtlib" in capsys.readouterr().err


def test_the_whole_command_is_broken_down(tmp_path: Path) -> None:
    photographs.ready()
    done = subprocess.run(
        [sys.executable, "benchmarks/command.py", "--count", "9", "--steps", "1", "--batch-size", "4",
         "--sides", "300", "500", "--broken", "0.25", "--device", "cpu", "--json", str(tmp_path / "command.json")],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "command.json").read_text())
    assert (found["photographs"], found["broken"]) == (9, 2)
    assert 0 < found["done"] <= 7
    assert max(found["memory"]["megabytes"]) > 100
    assert set(found["stages"]) == {"finding", "optimising", "writing"}
    assert found["wall_seconds"] >= found["run_seconds"] > found["stages"]["optimising"] > 0
    assert str(tmp_path) not in json.dumps(found)
