"""The stored frames of the interactive page belong together, and are what the code makes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pmtlib import variants, zoo
from pmtlib.errors import ConfigError, ResultError
from pmtlib.figures import frames
from pmtlib.figures.frames import FrameSettings
from pmtlib.images import to_uint8
from tests import photographs
from tests.oracles import network_or_skip

STORED = frames.default_folder()


@pytest.fixture(scope="module")
def content() -> dict:
    return frames.read(STORED)


def test_the_stored_frames_are_whole_small_and_those_of_the_default_settings(content: dict) -> None:
    settings = FrameSettings()
    assert FrameSettings(**content["provenance"]["settings"]) == settings
    assert sum(path.stat().st_size for path in STORED.iterdir()) < frames.LIMIT
    keys = [(frame["variant"], frame["sigma"], frame["steps"]) for frame in content["frames"]]
    assert keys == [(v, s, k) for v in settings.variants for s in settings.sigmas for k in settings.steps]
    for frame in content["frames"]:
        assert set(frame["cosine"]) == {settings.authorised, *settings.others}
        assert all(-1 <= value <= 1 for value in (frame["ssim"], *frame["cosine"].values()))


def test_every_variant_has_a_frame_at_its_own_number_of_steps(content: dict) -> None:
    for entry in content["variants"]:
        assert entry["default_steps"] == variants.find(entry["name"]).config().steps
        assert entry["default_steps"] in content["steps"]


def test_weights_thresholds_and_configurations_are_todays(content: dict) -> None:
    settings = FrameSettings()
    for entry in content["networks"]:
        calibration = zoo.calibration(entry["name"])
        assert calibration is not None
        assert entry["threshold"] == pytest.approx(calibration.threshold_far_1e2, abs=1e-4)
        assert content["provenance"]["weights"][entry["name"]] == zoo.weights_checksum(entry["name"])
    for name, stored in content["provenance"]["configurations"].items():
        assert stored == frames.configuration(name, settings).model_dump(mode="json")
    assert content["provenance"]["commit"]


@pytest.mark.parametrize(("variant", "steps", "sigma"), [("pmt", 3, 1.5), ("deep", 5, None), ("decoy", 2, 0.0)])
def test_a_frame_made_again_has_the_stored_measurement_and_picture(
    content: dict, variant: str, steps: int, sigma: float | None
) -> None:
    photographs.ready()
    network_or_skip("sface")
    settings = FrameSettings(variants=(variant,), steps=(steps,), sigmas=(sigma,), others=("sface",))
    made = frames.make(settings, "cpu")
    (again,) = made.measurements
    index, stored = next(
        (place, frame)
        for place, frame in enumerate(content["frames"])
        if (frame["variant"], frame["steps"], frame["sigma"]) == (variant, steps, sigma)
    )
    # Another processor's last bits grow over the steps; these are few.
    assert again["ssim"] == pytest.approx(stored["ssim"], abs=2e-3)
    for name, value in again["cosine"].items():
        assert value == pytest.approx(stored["cosine"][name], abs=5e-3), name

    # Compression thins the colours of noise, so that brightness is compared; the frame of another attack
    # differs by more. (That of the step before hardly differs.)
    brightness = made.pictures[0].mean(axis=2)

    def apart(place: int) -> float:
        return float(np.abs(frames.tile(STORED, place).mean(axis=2) - brightness).mean())

    columns = content["sprite"]["columns"]
    rows = (index - columns, index, index + columns)
    distances = {place: apart(place) for place in rows if 0 <= place < len(content["frames"])}
    assert min(distances, key=distances.__getitem__) == index, distances


def test_a_sprite_has_its_pictures_row_after_row() -> None:
    pictures = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 5, 3), dtype=np.uint8)
    whole = frames.sprite(pictures, 3)
    assert whole.shape == (8, 15, 3)
    for place in range(6):
        row, column = divmod(place, 3)
        assert (whole[4 * row : 4 * row + 4, 5 * column : 5 * column + 5] == place).all()
    with pytest.raises(ConfigError, match="do not fill"):
        frames.sprite(pictures, 4)


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    shutil.copytree(STORED, folder)
    (folder / frames.SPRITE).write_bytes((folder / frames.SPRITE).read_bytes() + b"\0")
    with pytest.raises(ResultError, match="not written together"):
        frames.read(folder)
    shutil.copy(STORED / frames.SPRITE, folder / frames.SPRITE)
    content = json.loads((folder / frames.MEASUREMENTS).read_text())
    del content["frames"][0]
    (folder / frames.MEASUREMENTS).write_text(json.dumps(content))
    with pytest.raises(ResultError, match="has not the frames"):
        frames.read(folder)
    (folder / frames.SPRITE).unlink()
    with pytest.raises(ResultError, match="damaged or missing"):
        frames.read(folder)


def test_what_cannot_be_shown_is_refused() -> None:
    with pytest.raises(ConfigError, match="figures may show"):
        frames.make(FrameSettings(photo="hanks"))
    with pytest.raises(ValueError, match="ascend"):
        FrameSettings(steps=(3, 1))


def test_no_attack_leaves_an_upload_and_a_blur_restores_the_contrast() -> None:
    from tests.oracles import astronaut_crop

    image = astronaut_crop() * 0.3 + 0.3
    assert frames.attacked(image, None) is image
    blurred = frames.attacked(image, 1.5)
    assert blurred.std() > 1.5 * image.std()
    assert (to_uint8(blurred) == to_uint8(frames.attacked(image, 1.5))).all()
