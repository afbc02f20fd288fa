"""The kernels for GPUs: by Triton's interpreter everywhere, on a GPU where there is one."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from pmtlib import transform
from pmtlib.errors import SlowWarning
from pmtlib.networks import fused
from pmtlib.networks.mobilefacenet import SIRIUS, MobileFaceNet
from pmtlib.shallow import ShallowModel

pytest.importorskip("triton", reason="no Triton here: kernels for GPUs are not tested")
SAME = 2e-6
"""Float32 sums in another order."""


def run(name, **variables):
    """What a script beside this file prints: Triton is set up for a process when it is imported."""
    script = Path(__file__).with_name(name)
    environment = {**os.environ, "PYTHONPATH": str(script.parents[1]), "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def found():
    return run("interpreted.py")


@pytest.mark.parametrize(
    "case",
    [
        "separable stem, all units",
        "plain stem, fewer columns",
        "last unit alone",
        "a 1x1 convolution last",
        "odd maps",
        "windows of 3",
        "wide",
        "some units",
    ],
)
def test_fused_units_are_the_plain_ones(found, case):
    assert max(found[case].values()) < SAME


@pytest.mark.parametrize("case", ["distance", "distance, plain stem"])
def test_the_distance_from_a_goal_is_that_of_the_means(found, case):
    made = found[case]
    assert all(made.pop("compares"))
    assert max(made.values()) < SAME


def test_maps_of_16_bits_round_distance_and_derivative_and_no_more(found):
    assert found["rounded"]["distance"] < 1e-3
    assert found["rounded"]["gradient"] < 1e-2


def test_a_goal_of_other_images_or_units_is_refused(found):
    assert len(found["refused"]) == 4
    assert all("is not of these units and images" in said for said in found["refused"])


def test_draws_are_normal_and_a_row_depends_on_its_seed_and_place_alone(found):
    draws = found["draws"]
    assert draws["order"]
    assert draws["next_differs"]
    # Of 150,528 numbers: four standard errors, which are 0.0026, 0.0018 and 0.025.
    assert abs(draws["mean"]) < 0.0103
    assert abs(draws["std"] - 1) < 0.0073
    assert abs(draws["fourth"] - 3) < 0.1
    assert draws["added"] < 1e-6
    assert draws["correlation"] < 0.021


def test_sums_over_rows_are_those_of_torch(found):
    sums = found["sums"]
    assert sums.pop("infinite")
    assert max(sums.values()) < SAME


def test_an_image_that_has_stopped_stays_whatever_its_gradient_is(found):
    for moves in found["moves"]:
        assert moves["moved"] < 1e-6
        assert moves["still"]


def test_a_step_of_the_transform_by_kernels_is_one_by_torch(found):
    made = found["transform"]
    assert made["fused"]
    # A twentieth of an 8-bit level: where a value is near 0, rounding may choose the other slope.
    assert made["images"] < 2e-4
    assert made["moved"] > 0.1
    assert made["noising"]
    assert max(made["trace"], made["error"]) < 1e-5
    assert made["features"] < 1e-4


def test_every_distance_by_kernels_is_the_one_by_torch_whatever_the_layout_of_the_photographs(found):
    made = found["other distances"]
    assert made["at once"]
    assert made["images"] < 2e-4
    assert made["moved"] > 0.01
    assert made["trace"] < 1e-5


def test_features_of_images_that_come_later_take_their_places_with_their_squares():
    def put(own, new):
        return own.index_copy(0, torch.tensor([1]), new[:1])

    own, new = (fused.Means([torch.full((2, 3), value), torch.full((2, 4), value)]) for value in (1.0, 2.0))
    assert transform._joined(own, new, put).squares is None
    own.squares, new.squares = torch.tensor([7.0, 7.0]), torch.tensor([28.0, 28.0])
    made = transform._joined(own, new, put)
    assert made.squares.tolist() == [7.0, 28.0]
    assert [part[:, 0].tolist() for part in made] == [[1.0, 2.0], [1.0, 2.0]]


def test_bytes_are_counted_and_what_has_no_kernels_is_left_to_torch(found):
    assert found["bytes"] > 2 * 32 * 32 * 3 * 4
    assert found["none"] == [True, True]
    assert found["no image"] == [0, 8 * 8 * 64 // 4]


def test_without_a_gpu_nothing_is_fused():
    shallow = ShallowModel(MobileFaceNet(SIRIUS), 3)
    assert not fused.usable(torch.device("cpu"))
    assert shallow.fused(torch.rand(1, 3, 112, 112), 2, "bfloat16") is None


@pytest.mark.parametrize("broken", [True, False])
def test_without_a_gpu_triton_is_not_asked_for(broken):
    """It takes a while to import, and one that is broken is in nobody's way."""
    script = """
import sys, torch
if sys.argv[1] == "True":
    sys.modules["triton"] = None
from pmtlib.networks import fused
assert not fused.usable(torch.device("cpu"))
assert sys.modules.get("triton") is None
assert sys.argv[1] == "False" or fused.kernels() is None
"""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", script, str(broken)], check=True, env=environment)


def test_a_gpu_that_cannot_build_kernels_is_used_without_them(monkeypatch):
    def broken(*given):
        raise RuntimeError("Failed to find C compiler\nand more")

    monkeypatch.setattr(fused, "normal_rows", broken)
    monkeypatch.setattr(fused.torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(fused.torch.cuda, "get_device_name", lambda device: "A GPU")
    monkeypatch.setattr(fused.torch, "zeros", lambda *given, **others: None)
    monkeypatch.setattr(fused.torch, "empty", lambda *given, **others: None)
    fused._works.cache_clear()
    with pytest.warns(SlowWarning, match=r"A GPU is used without fused kernels.*Failed to find C compiler.*Remedy"):
        assert not fused.usable(torch.device("cuda", 0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not fused.usable(torch.device("cuda", 0))  # told once
    monkeypatch.setattr(fused.torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert not fused.usable(torch.device("cuda", 1))
    fused._works.cache_clear()
    monkeypatch.setattr(fused.torch.cuda, "get_device_capability", lambda device: (9, 0))
    with monkeypatch.context() as patched:
        patched.setattr(fused, "kernels", lambda: None)
        with pytest.warns(SlowWarning, match="A GPU is used without fused kernels.*Triton cannot be imported"):
            assert not fused.usable(torch.device("cuda", 0))
    fused._works.cache_clear()

    def full(*given):
        raise torch.OutOfMemoryError("CUDA out of memory")

    # A GPU that is full now may not be later: nothing is remembered of it.
    monkeypatch.setattr(fused.torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(fused, "normal_rows", full)
    with pytest.raises(torch.OutOfMemoryError):
        fused.usable(torch.device("cuda", 0))
    assert fused._works.cache_info().currsize == 0


MOST_LINES = 6_000
"""Of PTX; where a kernel's sums are kept in a layout that repeats them in every warp, it has several times as many."""


def test_every_kernel_is_built_for_an_nvidia_gpu_as_it_is_started(tmp_path):
    made = run("kernels_built.py", TRITON_CACHE_DIR=str(tmp_path))
    kernels = vars(fused.kernels())
    assert set(made) == {
        name for name, one in kernels.items() if hasattr(one, "arg_names") and not name.startswith("_")
    }
    assert all(one["entry"] for one in made.values())
    assert max(one["lines"] for one in made.values()) < MOST_LINES


@pytest.fixture
def on_gpu():
    """A shallow model and five images on a GPU, where there is one."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here: kernels are not run on one")
    torch.manual_seed(0)
    return ShallowModel(MobileFaceNet(SIRIUS).cuda(), 5), torch.rand((5, 3, 112, 112), device="cuda")


def test_on_a_gpu_bfloat16_is_as_near_to_float32_as_autocast_is(on_gpu):
    shallow, images = on_gpu
    one = shallow.fused(images, 2, "bfloat16")
    assert one is not None
    plain = transform.PMTConfig(precision="float32")
    run = transform.Run(images, [shallow], [1.0], plain, 0, [])
    wanted = [part.view(len(images), -1) for part in run._aggregate(shallow(images), 0)]
    with torch.autocast("cuda", torch.bfloat16):
        rounded = run._aggregate(shallow(images), 0)
    for place, mine in enumerate(one.means(images, range(5), 2)):
        channels = mine.shape[1] // 28**2 if place < 2 else mine.shape[1] // 14**2
        mine = mine.view(len(images), -1, channels).transpose(1, 2).flatten(1)
        assert (mine - wanted[place]).norm() < 1.5 * (rounded[place] - wanted[place]).norm()


@pytest.mark.parametrize("augmentation", ["noise", "none"])
def test_on_a_gpu_a_recorded_step_has_the_bits_of_one_that_is_not(on_gpu, monkeypatch, augmentation):
    shallow, images = on_gpu
    config = transform.PMTConfig(steps=6, precision="bfloat16", batch_size=5, augmentation=augmentation)
    run = transform.Run(images, [shallow], [1.0], config, 0, [])
    run.step()
    assert run._recorded() is not None
    recorded = transform.protect(images, [shallow], config, keep=[2])
    monkeypatch.setattr(transform, "_RECORDED", 0)
    one_by_one = transform.protect(images, [shallow], config, keep=[2])
    assert torch.equal(recorded.images, one_by_one.images)
    assert torch.equal(recorded.kept, one_by_one.kept)
    assert torch.equal(recorded.trace, one_by_one.trace)
    assert torch.equal(recorded.steps, one_by_one.steps)


def test_on_a_gpu_an_image_has_the_same_bits_in_any_batch_and_twice(on_gpu):
    shallow, images = on_gpu
    config = transform.PMTConfig(steps=4, precision="bfloat16", batch_size=3)
    together = transform.protect(images, [shallow], config).images
    assert torch.equal(together, transform.protect(images, [shallow], config).images)
    alone = torch.cat([transform.protect(one[None], [shallow], config).images for one in images])
    assert torch.equal(together, alone)
