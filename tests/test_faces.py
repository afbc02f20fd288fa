from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
from PIL import Image
from skimage.transform import estimate_transform

from pmtlib import assets, faces
from pmtlib.errors import AssetError, PhotoError
from pmtlib.images import UInt8Image


def need(asset: str) -> Path:
    try:
        return assets.path(asset)
    except AssetError as error:
        pytest.skip(f"{asset} cannot be had: {error}")


@pytest.fixture(scope="module")
def detector() -> faces.Detector:
    need("yunet-onnx")
    return faces.Detector()


@pytest.fixture(scope="module")
def astronaut() -> UInt8Image:
    return np.asarray(skimage.data.astronaut())


def save(picture: Image.Image, path: Path, **options: object) -> Path:
    picture.save(path, **options)
    return path


def reason(path: Path) -> tuple[str, str]:
    with pytest.raises(faces.UnusablePhoto) as caught:
        faces.read_photo(path)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    assert "Remedy:" in message
    assert isinstance(caught.value, PhotoError)
    return caught.value.reason, message


# ---------------------------------------------------------------------------------------------------------- reading


def test_rgb_is_read_as_it_is(tmp_path: Path, astronaut: UInt8Image) -> None:
    read = faces.read_photo(save(Image.fromarray(astronaut), tmp_path / "a.png"))
    assert read.dtype == np.uint8
    assert np.array_equal(read, astronaut)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :8] = 255  # top left
    upright[8:, 16:] = 120  # bottom right
    # How a camera stores the picture that has to be turned this way for display (EXIF 2.3, tag 0x0112).
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: np.rot90(upright, 1), 7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(Image.fromarray(np.ascontiguousarray(stored)), tmp_path / "a.png", exif=exif)
    assert np.array_equal(faces.read_photo(path), upright)


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[:, 0] = (10, 20, 30, 255)
    rgba[:, 1] = (10, 20, 30, 0)
    rgba[:, 2] = (0, 0, 0, 128)
    read = faces.read_photo(save(Image.fromarray(rgba), tmp_path / "a.png"))
    assert read[0, 0].tolist() == [10, 20, 30]
    assert read[0, 1].tolist() == [255, 255, 255]
    assert read[0, 2].tolist() == [127, 127, 127]


def test_transparent_palette_and_grey_are_laid_on_white(tmp_path: Path) -> None:
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((0, 0), 0)
    read = faces.read_photo(save(palette, tmp_path / "a.gif", transparency=0))
    assert read[0, 0].tolist() == [255, 255, 255]
    assert read[1, 1].tolist() == [0, 0, 255]
    grey = np.array([[[0, 255], [0, 0]]], np.uint8)
    assert faces.read_photo(save(Image.fromarray(grey, "LA"), tmp_path / "b.png"))[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(tmp_path: Path, astronaut: UInt8Image, mode: str) -> None:
    picture = Image.fromarray(astronaut).convert(mode)
    suffix = "png" if mode in ("1", "L") else "tif"
    read = faces.read_photo(save(picture, tmp_path / f"a.{suffix}"))
    assert read.shape == astronaut.shape
    assert np.abs(read.astype(int) - np.asarray(picture.convert("RGB")).astype(int)).max() <= 2


def test_wide_greys_are_scaled(tmp_path: Path) -> None:
    wide = np.array([[0, 257 * 7, 65535]], np.uint16)
    expected = [0, 7, 255]
    for name in ("a.png", "a.tif"):
        path = save(Image.fromarray(wide), tmp_path / name)
        assert faces.read_photo(path)[0, :, 0].tolist() == expected
    whole = save(Image.fromarray(wide.astype(np.int32)), tmp_path / "b.tif")
    assert faces.read_photo(whole)[0, :, 0].tolist() == expected
    unit = save(Image.fromarray(np.array([[0.0, 0.5, 1.0, np.nan]], np.float32)), tmp_path / "c.tif")
    assert faces.read_photo(unit)[0, :, 0].tolist() == [0, 128, 255, 0]
    bytes_ = save(Image.fromarray(np.array([[0.0, 128.0, 255.0]], np.float32)), tmp_path / "d.tif")
    assert faces.read_photo(bytes_)[0, :, 0].tolist() == [0, 128, 255]


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    path = save(frames[0], tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert faces.read_photo(path)[4, 4].tolist() == [255, 0, 0]


def test_unreadable_files(tmp_path: Path, astronaut: UInt8Image) -> None:
    empty = tmp_path / "empty.jpg"
    empty.write_bytes(b"")
    text = tmp_path / "text.jpg"
    text.write_text("not a picture")
    buffer = io.BytesIO()
    Image.fromarray(astronaut).save(buffer, "JPEG")
    truncated = tmp_path / "truncated.jpg"
    truncated.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    heic = tmp_path / "phone.heic"
    heic.write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    expected = {
        empty: "zero bytes", text: "not an image", truncated: "truncated or broken", tmp_path: "is a folder",
        tmp_path / "none.jpg": "does not exist",
    }  # fmt: skip
    for path, words in expected.items():
        code, message = reason(path)
        assert code == "unreadable"
        assert words in message
    assert reason(heic)[0] == "unreadable"
    if not faces._register_heif():
        assert "pip install -e '.[heic]'" in reason(heic)[1]


def test_a_file_without_permission(tmp_path: Path) -> None:
    path = save(Image.new("RGB", (8, 8)), tmp_path / "a.png")
    path.chmod(0)
    try:
        path.read_bytes()
    except PermissionError:
        assert "Permission denied" in reason(path)[1]
    else:
        pytest.skip("this user may read every file")


def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    side = 1 + int(faces.MAX_PIXELS**0.5)
    path = save(Image.new("1", (side, side)), tmp_path / "bomb.png")
    assert path.stat().st_size < 100_000
    code, message = reason(path)
    assert code == "unreadable"
    assert "million pixels" in message


def test_load_aligned_takes_crops_alone(tmp_path: Path, astronaut: UInt8Image) -> None:
    crop = np.ascontiguousarray(astronaut[:112, 100:212])
    assert np.array_equal(faces.load_aligned(save(Image.fromarray(crop), tmp_path / "a.png")), crop)
    wrong = save(Image.fromarray(astronaut[:224, :160]), tmp_path / "wrong.png")
    with pytest.raises(faces.UnusablePhoto, match=r"wrong\.png is 160x224.*Remedy") as caught:
        faces.load_aligned(wrong)
    assert caught.value.reason == "not_aligned"


# -------------------------------------------------------------------------------------------------------- alignment


def test_similarity_is_umeyamas() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        source, target = generator.normal(size=(2, 5, 2)) * 40 + 60
        target = 0.3 * target + source @ np.array([[0.0, 1.0], [-1.0, 0.0]])
        expected = estimate_transform("similarity", source, target).params[:2]
        assert np.allclose(faces.similarity(source, target), expected, atol=1e-9)


def test_similarity_refuses_a_point() -> None:
    for landmarks in (np.full((5, 2), 3.0), np.full((5, 2), np.nan)):
        with pytest.raises(PhotoError, match="Remedy"):
            faces.similarity(landmarks, faces.TEMPLATE)


def test_align_of_the_template_is_the_picture_itself(astronaut: UInt8Image) -> None:
    crop = np.ascontiguousarray(astronaut[:112, 150:262])
    assert np.array_equal(faces.align(crop, faces.TEMPLATE), crop)


def test_align_puts_the_landmarks_on_the_template() -> None:
    generator = np.random.default_rng(1)
    for scale in (0.8, 1.6, 3.0, 6.5):
        turn = generator.uniform(-0.5, 0.5)
        rotation = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        landmarks = faces.TEMPLATE @ rotation.T
        landmarks += 40 * scale - landmarks.min(0)
        side = int(landmarks.max() + 60 * scale)
        rows, columns = np.mgrid[:side, :side]
        dots = sum(np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * (2.5 * scale) ** 2)) for x, y in landmarks)
        photo = np.repeat(np.round(255 * np.clip(dots, 0, 1)).astype(np.uint8)[:, :, None], 3, axis=2)
        crop = faces.align(photo, landmarks).astype(float)[:, :, 0]
        ys, xs = np.mgrid[:112, :112]
        for x, y in faces.TEMPLATE:
            near = crop * (np.hypot(xs - x, ys - y) < 9)
            assert abs((near * xs).sum() / near.sum() - x) < 0.1
            assert abs((near * ys).sum() / near.sum() - y) < 0.1


def test_align_of_a_fine_photograph_sees_every_pixel() -> None:
    # A checkerboard of single pixels is grey from afar; sampled with gaps it is black, white or moire.
    photo = np.repeat((np.indices((1400, 1400)).sum(0) % 2 * 255).astype(np.uint8)[:, :, None], 3, axis=2)
    crop = faces.align(photo, faces.TEMPLATE * 10 + 100)
    assert np.abs(crop.astype(int) - 127).max() <= 3


def test_align_is_black_beyond_the_picture_and_takes_long_panoramas() -> None:
    photo = np.full((150, 40_000, 3), 200, np.uint8)
    crop = faces.align(photo, faces.TEMPLATE + np.array([39_950.0, 10.0]))
    assert (crop[:, :49] == 200).all()
    assert (crop[:, 52:] == 0).all()


# -------------------------------------------------------------------------------------------------------- detection


def test_one_face_of_the_astronaut(detector: faces.Detector, astronaut: UInt8Image) -> None:
    found = detector(astronaut)
    assert len(found) == 1
    face = found[0]
    assert face.score > 0.9
    assert face.landmarks.shape == (5, 2)
    assert face.landmarks.dtype == np.float32
    right_eye, left_eye, nose, right_mouth, left_mouth = face.landmarks
    assert right_eye[0] < nose[0] < left_eye[0]  # the person's right is the picture's left
    assert right_mouth[0] < left_mouth[0]
    assert max(right_eye[1], left_eye[1]) < nose[1] < min(right_mouth[1], left_mouth[1])
    # The pupils, as read off the picture.
    assert np.abs(right_eye - [203, 101]).max() < 4
    assert np.abs(left_eye - [246, 103]).max() < 4
    again = faces.Detector()(astronaut.copy())
    assert np.array_equal(again[0].landmarks, face.landmarks)
    assert again[0].box == face.box


def test_the_mirrored_photograph_has_the_mirrored_face(detector: faces.Detector, astronaut: UInt8Image) -> None:
    face = detector(astronaut)[0]
    mirrored = detector(np.ascontiguousarray(astronaut[:, ::-1]))[0].landmarks.copy()
    mirrored[:, 0] = astronaut.shape[1] - 1 - mirrored[:, 0]
    assert np.abs(mirrored[[1, 0, 2, 4, 3]] - face.landmarks).max() < 1.5


@pytest.mark.parametrize("scale", [0.5, 3.0, 9.0])
def test_landmarks_follow_the_photographs_size(detector: faces.Detector, astronaut: UInt8Image, scale: float) -> None:
    face = detector(astronaut)[0]
    other = detector(cv2.resize(astronaut, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
    assert len(other) == 1
    assert np.abs((other[0].landmarks + 0.5) / scale - 0.5 - face.landmarks).max() < 3


@pytest.mark.parametrize("scale", [1.0, 12.0])
def test_a_face_that_fills_the_picture(detector: faces.Detector, astronaut: UInt8Image, scale: float) -> None:
    face = detector(astronaut)[0]
    x, y, width, height = (int(value) for value in face.box)
    tight = astronaut[y + 6 : y + height - 6, x + 6 : x + width - 6]
    found = detector(cv2.resize(tight, None, fx=scale, fy=scale))
    assert len(found) == 1
    assert np.abs((found[0].landmarks + 0.5) / scale - 0.5 + [x + 6, y + 6] - face.landmarks).max() < 6


def test_a_face_in_a_corner_of_a_large_photograph(detector: faces.Detector, astronaut: UInt8Image) -> None:
    photo = np.zeros((3000, 4500, 3), np.uint8)
    photo[2400:2912, 3900:4412] = astronaut
    found = detector(photo)
    assert len(found) == 1
    assert np.abs(found[0].landmarks - [3900, 2400] - detector(astronaut)[0].landmarks).max() < 4


def test_pictures_without_a_face(detector: faces.Detector) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    for photo in (noise, skimage.data.coffee(), np.full((1, 1, 3), 9, np.uint8), np.full((2, 900, 3), 9, np.uint8)):
        found = detector.detect(np.asarray(photo))
        assert not found.faces
        assert not found.too_small


def test_detector_refuses_what_is_no_photograph(detector: faces.Detector) -> None:
    with pytest.raises(ValueError, match="8-bit RGB"):
        detector(np.zeros((8, 8, 3), np.float32))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="score_threshold"):
        faces.Detector(score_threshold=1.5)


def test_extract_reports_its_reasons(tmp_path: Path, detector: faces.Detector, astronaut: UInt8Image) -> None:
    portrait = save(Image.fromarray(astronaut), tmp_path / "portrait.png")
    crops = faces.extract(portrait, detector=detector)
    assert [crop.index for crop in crops] == [0]
    assert crops[0].image.shape == (112, 112, 3)
    assert 38 < crops[0].eye_distance < 48
    small = save(Image.fromarray(cv2.resize(astronaut, (96, 96), interpolation=cv2.INTER_AREA)), tmp_path / "small.png")
    with pytest.raises(faces.UnusablePhoto, match=r"small\.png \(1\d px; at least 32\)") as caught:
        faces.extract(small, detector=detector)
    assert caught.value.reason == "too_small"
    assert len(faces.extract(small, min_size=10, detector=detector)) == 1
    blank = save(Image.new("RGB", (64, 64)), tmp_path / "blank.png")
    with pytest.raises(faces.UnusablePhoto, match=r"no face found in .*blank\.png") as caught:
        faces.extract(blank, detector=detector)
    assert caught.value.reason == "no_face"
    with pytest.raises(faces.UnusablePhoto) as caught:
        faces.extract(tmp_path / "none.png", detector=detector)
    assert caught.value.reason == "unreadable"


def test_small_faces_are_reported_beside_usable_ones(
    tmp_path: Path, detector: faces.Detector, astronaut: UInt8Image
) -> None:
    photo = np.zeros((512, 700, 3), np.uint8)
    photo[:, :512] = astronaut
    photo[:120, 560:680] = cv2.resize(astronaut, (120, 120), interpolation=cv2.INTER_AREA)
    path = save(Image.fromarray(photo), tmp_path / "two.png")
    found = faces.examine(path, detector=detector)
    assert len(found.crops) == 1
    assert len(found.too_small) == 1
    assert 15 < found.too_small[0].size < 32
    both = faces.extract(path, min_size=10, detector=detector)
    assert [crop.index for crop in both] == [0, 1]
    assert both[0].box[2] > both[1].box[2]
    assert len(faces.extract(path, min_size=10, largest=True, detector=detector)) == 1


@pytest.mark.parametrize(
    ("asset", "count"),
    [("photo-group", 6), *((f"photo-{name}", 1) for name in ("obama", "obama2", "obama3", "biden", "hanks"))],
)
def test_faces_of_the_sample_photographs(detector: faces.Detector, asset: str, count: int) -> None:
    found = detector(faces.read_photo(need(asset)))
    assert len(found) == count
    areas = [face.box[2] * face.box[3] for face in found]
    assert areas == sorted(areas, reverse=True)
