from __future__ import annotations

import hashlib
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from pmtlib import assets, datasets, faces
from pmtlib.errors import AssetError, DatasetError
from pmtlib.paths import data_dir

PEOPLE = ("Ada_Lovelace", "Alan_Turing", "Emmy_Noether", "Kurt_Goedel")


def need_detector() -> None:
    try:
        assets.path("yunet-onnx")
    except AssetError as error:
        pytest.skip(f"the detector cannot be had: {error}")


def crop(seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.asarray(Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((112, 112)))


def put(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(crop(seed)).save(path)
    return path


@pytest.fixture
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PMT_DATA", raising=False)


@pytest.fixture
def lfw(tmp_path: Path) -> Path:
    """Two folds of two and two pairs: four persons with three images each."""
    folder = tmp_path / "lfw"
    for who, person in enumerate(PEOPLE):
        for number in (1, 2, 3):
            put(folder / "data" / person / f"{person}_{number:04d}.png", 10 * who + number)
    a, b, c, d = PEOPLE
    lines = [
        "2\t2",
        f"{a}\t1\t2", f"{b}\t1\t3", f"{a}\t1\t{b}\t1", f"{a}\t3\t{b}\t2",
        f"{c}\t1\t2", f"{d}\t2\t3", f"{c}\t1\t{d}\t1", f"{c}\t2\t{d}\t3",
    ]  # fmt: skip
    (folder / "pairs.txt").write_text("\n".join(lines) + "\n")
    return folder


def encoded(seed: int) -> bytes:
    import io

    buffer = io.BytesIO()
    Image.fromarray(crop(seed)).save(buffer, "PNG")
    return buffer.getvalue()


def message(action: Callable[[], object]) -> str:
    with pytest.raises(DatasetError) as caught:
        action()
    text = str(caught.value)
    assert "\n" not in text
    assert "Remedy:" in text
    return text


# --------------------------------------------------------------------------------------------------------------- LFW


def test_lfw_folder(lfw: Path) -> None:
    found = datasets.load(str(lfw))
    assert (found.name, found.title, found.note) == ("lfw", "LFW", "")
    assert len(found) == 8
    assert found.same.tolist() == [True, True, False, False] * 2
    assert found.folds.tolist() == [0] * 4 + [1] * 4
    assert len(found.images) == 11  # Kurt_Goedel and Emmy_Noether: 5 of 6 images; the others: all 6
    assert found.identities is not None
    first, second = found.pairs[3]
    assert np.array_equal(found.images[first], crop(3))
    assert np.array_equal(found.images[second], crop(12))
    assert (found.identities[first], found.identities[second]) == (PEOPLE[0], PEOPLE[1])
    for (one, two), same in zip(found.pairs, found.same, strict=True):
        assert (found.identities[one] == found.identities[two]) == same
    tensor = found.tensor([first, second])
    assert tensor.shape == (2, 3, 112, 112)
    assert np.array_equal((tensor[1].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8), crop(12))


def test_images_are_read_when_asked_for(lfw: Path) -> None:
    found = datasets.load(lfw)
    broken = Path(found.images.name(0))
    broken.write_bytes(b"")
    assert broken.name in message(lambda: found.images[0])
    Image.new("RGB", (100, 100)).save(broken)
    assert "100x100" in message(lambda: found.images[0])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("Ada_Lovelace\t1\t9", "there is no image"),
        ("Ada_Lovelace\t1\tNobody\t1", "there is no image"),
        ("Ada_Lovelace\t1", "not a pair"),
        ("Ada_Lovelace\tone\ttwo", "not a pair"),
        ("Ada_Lovelace\t1\tAlan_Turing\t1\t5", "not a pair"),
    ],
)
def test_wrong_lines_are_named(lfw: Path, line: str, words: str) -> None:
    listing = lfw / "pairs.txt"
    lines = listing.read_text().splitlines()
    lines[5] = line
    listing.write_text("\n".join(lines))
    text = message(lambda: datasets.load(lfw))
    assert f"{listing}:6" in text
    assert words in text


def test_wrong_lists(lfw: Path) -> None:
    listing = lfw / "pairs.txt"
    lines = listing.read_text().splitlines()
    listing.write_text("\n".join(lines[:-1]))
    assert "announces 8 pairs and holds 7" in message(lambda: datasets.load(lfw))
    listing.write_text("\n")
    assert "no pairs" in message(lambda: datasets.load(lfw))
    listing.write_bytes(b"\xff\xfe\x00")
    assert "not text" in message(lambda: datasets.load(lfw))
    listing.unlink()
    assert "pair list" in message(lambda: datasets.load(lfw))


def test_header_of_one_number_and_none(lfw: Path) -> None:
    listing = lfw / "pairs.txt"
    lines = listing.read_text().splitlines()[1:]
    lines.sort(key=lambda line: line.count("\t"))
    listing.write_text("\n".join(["4", *lines]))
    announced = datasets.load(lfw)
    listing.write_text("\n".join(lines))
    bare = datasets.load(lfw)
    assert announced.fingerprint == bare.fingerprint
    for fold in range(4):
        assert sorted(bare.same[bare.folds == fold].tolist()) == [False, True]


def test_pairs_of_paths_with_labels(lfw: Path) -> None:
    a = PEOPLE[0]
    (lfw / "pairs.txt").write_text(
        f"{a}/{a}_0001.png {a}/{a}_0002.png 1\n{a}/{a}_0001.png Alan_Turing/Alan_Turing_0001.png 0\n"
    )
    found = datasets.load(lfw)
    assert found.same.tolist() == [True, False]
    assert found.identities is not None


# ---------------------------------------------------------------------------------------------------- finding by name


def test_names_are_found_in_any_spelling(lfw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = lfw.parent
    monkeypatch.setenv("PMT_DATA", str(root))
    pack = pickle.dumps(([encoded(1), encoded(2)], [True]), protocol=2)
    (root / "AgeDB-30.bin").write_bytes(pack)
    shutil.copytree(lfw, root / "CALFW")
    for asked, name in (
        ("lfw", "lfw"),
        ("LFW", "lfw"),
        ("agedb_30", "agedb_30"),
        ("AgeDB30", "agedb_30"),
        ("calfw", "calfw"),
    ):
        assert datasets.load(asked).name == name
        assert datasets.available(asked)
    assert not datasets.available("cfp_ff")
    assert str(root) in message(lambda: datasets.load("cfp_ff"))


@pytest.mark.usefixtures("no_data")
def test_absent_sets() -> None:
    assert "PMT_DATA is not set" in message(lambda: datasets.load("lfw"))
    assert not datasets.available("lfw")
    assert "/nowhere/lfw.bin" in message(lambda: datasets.load("/nowhere/lfw.bin"))


def test_a_folder_without_a_pair_list_does_not_hide_the_bin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMT_DATA", str(tmp_path))
    (tmp_path / "lfw").mkdir()
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps(([encoded(1), encoded(2)], [True])))
    assert len(datasets.load("lfw")) == 1


# --------------------------------------------------------------------------------------------------------------- .bin


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", [bytes, bytearray, lambda blob: np.frombuffer(blob, np.uint8)])
def test_bin_files(tmp_path: Path, protocol: int, kind: Callable[[bytes], object]) -> None:
    blobs = [encoded(seed) for seed in (1, 2, 1, 3, 4, 4)]
    labels = np.array([True, False, True])
    path = tmp_path / "agedb_30.bin"
    path.write_bytes(pickle.dumps(([kind(blob) for blob in blobs], list(labels)), protocol=protocol))
    found = datasets.load(path)
    assert (found.name, found.title) == ("agedb_30", "AgeDB-30")
    assert found.same.tolist() == labels.tolist()
    assert found.pairs.tolist() == [[0, 1], [0, 2], [3, 3]]  # an image that is stored twice is one image
    assert found.identities is None
    assert found.folds.tolist() == [0, 1, 2]
    assert np.array_equal(found.images[2], crop(3))


def test_bin_of_python_2(tmp_path: Path) -> None:
    blob = encoded(5)
    # What Python 2's cPickle writes, protocol 2: BINSTRING for str.
    string = b"T" + len(blob).to_bytes(4, "little") + blob
    content = b"\x80\x02](" + string + string + b"e]\x88a\x86."
    path = tmp_path / "x.bin"
    path.write_bytes(content)
    found = datasets.load(path)
    assert found.pairs.tolist() == [[0, 0]]
    assert np.array_equal(found.images[0], crop(5))


def test_bin_folds_are_insightfaces(tmp_path: Path) -> None:
    from sklearn.model_selection import KFold

    blobs = [encoded(seed) for seed in range(46)]
    path = tmp_path / "x.bin"
    path.write_bytes(pickle.dumps((blobs, [bool(k % 2) for k in range(23)])))
    folds = datasets.load(path).folds
    for fold, (_, test) in enumerate(KFold(n_splits=10, shuffle=False).split(np.arange(23))):
        assert np.flatnonzero(folds == fold).tolist() == test.tolist()


class Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.marker),))


def test_hostile_bin_files(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    path = tmp_path / "lfw.bin"
    for protocol in (0, 2, 4):
        path.write_bytes(pickle.dumps(([Hostile(marker)], [True]), protocol=protocol))
        text = message(lambda: datasets.load(path))
        assert "mkdir" in text
        assert str(path) in text
        assert not marker.exists()
    path.write_bytes(b"cbuiltins\neval\n(S'1'\ntR.")
    assert "builtins.eval" in message(lambda: datasets.load(path))
    path.write_bytes(b"\x80\x02c_codecs\nencode\n(U\x01xU\x04zliblR.")
    message(lambda: datasets.load(path))
    path.write_bytes(pickle.dumps(np.array([{}], dtype=object)))
    message(lambda: datasets.load(path))


@pytest.mark.parametrize(
    "content",
    [
        b"", b"garbage", pickle.dumps(3), pickle.dumps(([], [])), pickle.dumps(([b"a"], [True])),
        pickle.dumps((["text", "text"], [True])), pickle.dumps(([b"a", b"b"], [7])), pickle.dumps(([b"a", b"b"], 1)),
        pickle.dumps(([b"a", b"b"], [True]))[:-9],
    ],
)  # fmt: skip
def test_broken_bin_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "lfw.bin"
    path.write_bytes(content)
    assert str(path) in message(lambda: datasets.load(path))


def test_bin_with_a_broken_image(tmp_path: Path) -> None:
    path = tmp_path / "lfw.bin"
    path.write_bytes(pickle.dumps(([b"broken", encoded(1)], [True])))
    found = datasets.load(path)
    assert "lfw.bin, image 0" in message(lambda: found.images[0])


# ------------------------------------------------------------------------------------------------------------- tables


def test_tables(lfw: Path) -> None:
    a, b = PEOPLE[:2]
    table = lfw / "mine.csv"
    rows = [
        (f"data/{a}/{a}_0001.png", f"data/{a}/{a}_0002.png", 1, 5),
        (f"data/{a}/{a}_0001.png", f"data/{b}/{b}_0001.png", 0, 3),
    ]
    table.write_text("\ufeffimg1,img2,same,fold\n" + "\n".join(",".join(map(str, row)) for row in rows), "utf-8")
    found = datasets.load(table)
    assert found.name == "mine"
    assert found.folds.tolist() == [1, 0]
    assert found.identities == (a, a, b)
    other = lfw / "mine.tsv"
    other.write_text("same\timg2\timg1\n" + "\n".join(f"{row[2]}\t{row[1]}\t{row[0]}" for row in rows))
    assert datasets.load(other).pairs.tolist() == found.pairs.tolist()
    table.write_text(table.read_text("utf-8").replace(",0,3", ",maybe,3"), "utf-8")
    assert f"{table}:3" in message(lambda: datasets.load(table))
    table.write_text("a,b\n1,2\n")
    assert "img1, img2, same" in message(lambda: datasets.load(table))
    table.write_text("img1,img2,same\n")
    assert "no pairs" in message(lambda: datasets.load(table))
    table.write_text("img1,img2,same\na.png,b.png\n")
    assert f"{table}:2" in message(lambda: datasets.load(table))
    table.write_text("img1,img2,same\na.png,b.png,1\n")
    assert "a.png" in message(lambda: datasets.load(table))


def test_folders_that_contradict_the_labels_are_no_identities(lfw: Path) -> None:
    table = lfw / "mine.csv"
    a = PEOPLE[0]
    table.write_text(f"img1,img2,same\ndata/{a}/{a}_0001.png,data/{a}/{a}_0002.png,0\n")
    assert datasets.load(table).identities is None


# ---------------------------------------------------------------------------------------------------------------- CFP


def make_cfp(folder: Path, *, flat: bool = False) -> Path:
    frontal, profile = [], []
    for person in range(1, 5):
        for number in (1, 2):
            inner = f"{person:03d}/frontal/{number:02d}.jpg"
            place = folder / "data" / f"{person:03d}" / f"{number:02d}.jpg" if flat else folder / "Data/Images" / inner
            put(place, 10 * person + number)
            frontal.append(f"{len(frontal) + 1} ../Data/Images/{inner}")
        inner = f"{person:03d}/profile/01.jpg"
        put(folder / "Data/Images" / inner, 100 + person)
        profile.append(f"{len(profile) + 1} ../Data/Images/{inner}")
    protocol = folder / "Protocol"
    for kind, splits in (
        ("FF", {"01": ("1,2\n3,4\n", "1,3\n2,4\n"), "02": ("5,6\n7,8\n", "5,7\n6,8\n")}),
        ("FP", {"01": ("1,1\n", "1,2\n")}),
    ):
        for split, (same, diff) in splits.items():
            place = protocol / "Split" / kind / split
            place.mkdir(parents=True)
            (place / "same.txt").write_text(same)
            (place / "diff.txt").write_text(diff)
    (protocol / "Pair_list_F.txt").write_text("\n".join(frontal))
    (protocol / "Pair_list_P.txt").write_text("\n".join(profile))
    return folder


def test_cfp_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_cfp(tmp_path / "cfp-dataset")
    monkeypatch.setenv("PMT_DATA", str(tmp_path))
    found = datasets.load("cfp_ff")
    assert found.same.tolist() == [True, True, False, False] * 2
    assert found.folds.tolist() == [0] * 4 + [1] * 4
    assert found.identities is not None
    assert [found.identities[image] for image in found.pairs[2]] == ["001", "002"]
    assert found.images.name(found.pairs[2][1]).endswith("002/frontal/01.jpg")
    profile = datasets.load("cfp_fp")
    assert profile.images.name(profile.pairs[1][1]).endswith("002/profile/01.jpg")
    assert profile.identities == ("001", "001", "002")
    flat = datasets.load(make_cfp(tmp_path / "flat", flat=True))
    assert flat.fingerprint == found.fingerprint
    (tmp_path / "cfp-dataset/Protocol/Split/FF/02/diff.txt").write_text("5,7\n6,99\n")
    assert "diff.txt:2" in message(lambda: datasets.load("cfp_ff"))
    (tmp_path / "cfp-dataset/Protocol/Split/FF/02/diff.txt").write_text("5 7\n")
    assert "diff.txt:1" in message(lambda: datasets.load("cfp_ff"))


# --------------------------------------------------------------------------------------------------------- face.evoLVe


def test_image_list_with_labels(tmp_path: Path) -> None:
    folder = tmp_path / "calfw"
    for number in range(24):
        put(folder / f"{number}.png", number)
    labels = tmp_path / "calfw_list.npy"
    np.save(labels, np.array([True, False] * 6))
    found = datasets.load(folder)
    assert found.name == "calfw"
    assert found.same.tolist() == [True, False] * 6
    assert np.array_equal(found.images[found.pairs[5][0]], crop(10))  # 10.png comes after 9.png
    assert found.identities is None
    np.save(labels, np.array([True, False] * 5))
    assert "24 images for the 10 labels" in message(lambda: datasets.load(folder))
    np.save(labels, np.array([{}, {}], dtype=object), allow_pickle=True)
    assert "calfw_list.npy" in message(lambda: datasets.load(folder))


def test_bcolz_arrays_are_refused_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "lfw" / "meta").mkdir(parents=True)
    (tmp_path / "lfw" / "meta" / "storage").write_text("{}")
    np.save(tmp_path / "lfw_list.npy", np.array([True]))
    assert "bcolz" in message(lambda: datasets.load(tmp_path / "lfw"))


# ------------------------------------------------------------------------------------------------------------ samples


def many(folds: int = 5, each: int = 6) -> datasets.PairSet:
    """A set without files: image k is a crop of seed k; two images a person."""

    class Made(datasets.Images):
        def __len__(self) -> int:
            return 2 * folds * each

        def __getitem__(self, index: int) -> np.ndarray:
            return crop(index)

        def name(self, index: int) -> str:
            return str(index)

        def content(self, index: int) -> bytes:
            return f"image {index}".encode()

    people = folds * each
    pairs = [(2 * k, 2 * k + 1) for k in range(people)] + [(2 * k, 2 * ((k + 1) % people)) for k in range(people)]
    same = np.arange(2 * people) < people
    fold = np.arange(2 * people) % people // each
    return datasets.PairSet(
        "made", Made(), np.array(pairs), same, fold, tuple(str(k // 2) for k in range(2 * people)), "made"
    )


@pytest.mark.parametrize(("n", "low", "high"), [(20, 2, 2), (30, 3, 3), (13, 1, 2), (60, 6, 6), (2, 0, 1)])
def test_sample_is_even(n: int, low: int, high: int) -> None:
    whole = many()
    part = whole.sample(n, 7)
    assert len(part) == n
    assert int(part.same.sum()) == n - n // 2
    for kind in (True, False):
        counts = np.bincount(part.folds[part.same == kind], minlength=5)
        assert low <= counts.min()
        assert counts.max() <= high


def test_sample_is_the_seeds_and_in_order() -> None:
    whole = many()
    names = [[whole.sample(12, seed).images.name(i) for i in range(8)] for seed in (1, 1, 2)]
    assert names[0] == names[1]
    assert names[0] != names[2]
    part = whole.sample(12, 1)
    rows = [
        next(k for k in range(len(whole)) if tuple(whole.pairs[k]) == tuple(int(part.images.name(i)) for i in pair))
        for pair in part.pairs
    ]
    assert rows == sorted(rows)
    assert len(set(rows)) == 12


def test_sample_fills_up_a_short_fold() -> None:
    whole = many()
    short = whole.subset(np.flatnonzero((whole.folds != 2) | (np.arange(len(whole)) % 6 == 0)))
    counts = np.bincount(short.sample(20, 0).folds)
    assert counts.sum() == 20
    assert counts[2] == 2
    assert "needs 31" in message(lambda: whole.sample(62, 0))
    message(lambda: whole.sample(0, 0))


def test_subset_keeps_the_used_images_alone() -> None:
    whole = many()
    part = whole.subset([40, 3])
    assert [[part.images.name(i) for i in pair] for pair in part.pairs] == [["20", "22"], ["6", "7"]]
    assert part.same.tolist() == [False, True]
    assert part.identities == ("3", "3", "10", "11")
    again = part.subset(np.array([False, True]))
    assert [again.images.name(i) for i in again.pairs[0]] == ["6", "7"]
    assert len(again.images) == 2
    assert len(whole.subset([])) == 0
    assert whole.subset([]).tensor([]).shape == (0, 3, 112, 112)


def test_fingerprint_depends_on_what_is_measured(lfw: Path) -> None:
    whole = datasets.load(lfw)
    fingerprint = whole.fingerprint
    assert whole.subset(range(len(whole))).fingerprint == fingerprint
    assert whole.subset(range(7)).fingerprint != fingerprint
    assert whole.subset([1, 0, *range(2, 8)]).fingerprint != fingerprint
    assert datasets.load(lfw).fingerprint == fingerprint
    moved = lfw.parent / "elsewhere"
    shutil.copytree(lfw, moved)
    assert datasets.load(moved).fingerprint == fingerprint
    put(Path(whole.images.name(0)), 99)
    assert datasets.load(lfw).fingerprint != fingerprint


def test_fingerprint_by_hand() -> None:
    part = many().subset([0])
    expected = hashlib.sha256()
    for image in (b"image 0", b"image 1"):
        expected.update(hashlib.sha256(image).digest())
    expected.update(np.array([[0, 1]], "<i8").tobytes() + b"\x01" + np.array([0], "<i8").tobytes())
    assert part.fingerprint == expected.hexdigest()


@pytest.mark.parametrize("named", [True, False])
def test_disjoint_pairs_share_nobody(named: bool) -> None:
    whole = many()
    if not named:
        whole = datasets.PairSet("made", whole.images, whole.pairs, whole.same, whole.folds, None, "made")
    evaluated = [0, 5, 33]
    rows = datasets.disjoint(whole, evaluated)
    assert np.array_equal(rows, datasets.disjoint(whole, whole.subset(evaluated)))

    def met(row: int) -> set[int]:
        return {int(image) // 2 if named else int(image) for image in whole.pairs[row]}

    taken = set().union(*(met(row) for row in evaluated))
    assert rows.tolist() == [row for row in range(len(whole)) if not met(row) & taken]
    assert 0 < len(rows) < len(whole) - 3
    assert len(datasets.disjoint(whole, range(len(whole)))) == 0


def test_impossible_sets_are_refused() -> None:
    whole = many()
    with pytest.raises(DatasetError, match="outside"):
        datasets.PairSet("x", whole.images, np.array([[0, 999]]), np.array([True]), np.array([0]), None, "x")
    with pytest.raises(DatasetError, match="one label"):
        datasets.PairSet("x", whole.images, whole.pairs, whole.same[1:], whole.folds, None, "x")
    with pytest.raises(DatasetError, match="identities"):
        datasets.PairSet("x", whole.images, whole.pairs, whole.same, whole.folds, ("a",), "x")


# -------------------------------------------------------------------------------------------- photographs, aligned here


@pytest.fixture
def lfw_home(tmp_path: Path) -> Path:
    """scikit-learn's folder in miniature, 250x250 photographs: a large face beside the central one, and no face."""
    home = tmp_path / "lfw_home"
    photo = Image.fromarray(np.asarray(skimage.data.astronaut())).crop((60, 0, 390, 250))
    central = photo.crop((35, 0, 285, 250))
    beside = photo.resize((250, 250)).crop((60, 20, 190, 150)).resize((110, 110))
    crowd = Image.new("RGB", (250, 250))
    crowd.paste(central.resize((120, 120)), (65, 70))
    crowd.paste(beside, (0, 0))
    for name, picture in (
        ("Eileen_Collins_0001", central),
        ("Eileen_Collins_0002", crowd),
        ("No_One_0001", Image.new("RGB", (250, 250), "gray")),
    ):
        place = home / "lfw_funneled" / name[:-5] / f"{name}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        picture.save(place, quality=95)
    for listing, head in (("pairs.txt", "1\t1"), ("pairsDevTrain.txt", "1"), ("pairsDevTest.txt", "1")):
        (home / listing).write_text(f"{head}\nEileen_Collins\t1\t2\nEileen_Collins\t1\tNo_One\t1\n")
    return home


def test_fetch_lfw_reads_scikit_learns_folder(lfw_home: Path) -> None:
    need_detector()
    from sklearn.datasets import fetch_lfw_pairs

    theirs = fetch_lfw_pairs(subset="10_folds", data_home=lfw_home.parent, download_if_missing=False)
    found = datasets.fetch_lfw(lfw_home.parent, download=False)
    assert theirs.target.tolist() == found.same.astype(int).tolist() == [1, 0]
    assert found.identities == ("Eileen_Collins", "Eileen_Collins", "No_One")
    assert "YuNet" in found.note
    first, second, nobody = found.images
    assert first.shape == (112, 112, 3)
    refound = faces.Detector()(first)[0].landmarks
    assert np.abs(refound - faces.TEMPLATE).max() < 6
    # The face at the centre is taken, not the larger one: it is the same photograph, so the crops agree.
    assert np.abs(first.astype(int) - second.astype(int)).mean() < 20
    assert np.ptp(nobody) < 8


def test_fetch_lfw_without_a_network(tmp_path: Path) -> None:
    assert "scikit-learn" in message(lambda: datasets.fetch_lfw(tmp_path, download=False))


def test_fetch_lfw_stays_offline_where_it_is_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sklearn.datasets

    asked: list[bool] = []

    def fetch(*, download_if_missing: bool, **_: object) -> None:
        asked.append(download_if_missing)
        raise OSError("nothing is here")

    monkeypatch.setattr(sklearn.datasets, "fetch_lfw_pairs", fetch)
    for offline in "1", "0":
        monkeypatch.setenv("PMT_OFFLINE", offline)
        assert "nothing is here" in message(lambda: datasets.fetch_lfw(tmp_path))
    assert asked == [False, True]


def test_fetch_lfw_fetches_through_scikit_learn(lfw_home: Path, tmp_path: Path) -> None:
    # The fetcher unpacks an archive that was fetched before: the same way as after a download.
    need_detector()
    import tarfile

    home = tmp_path / "other" / "lfw_home"
    home.mkdir(parents=True)
    with tarfile.open(home / "lfw-funneled.tgz", "w:gz") as archive:
        archive.add(lfw_home / "lfw_funneled", "lfw_funneled")
    for listing in lfw_home.glob("*.txt"):
        shutil.copy(listing, home)
    assert len(datasets.fetch_lfw(home.parent, download=False)) == 2


def test_crops_are_kept_only_where_asked(lfw_home: Path, tmp_path: Path) -> None:
    need_detector()
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    plain = datasets.load(lfw_home)
    first = plain.images[0]
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before
    kept = datasets.load(lfw_home, crop_cache=tmp_path / "crops")
    assert np.array_equal(kept.images[0], first)
    files = list((tmp_path / "crops").iterdir())
    assert len(files) == 1
    assert np.array_equal(faces.load_aligned(files[0]), first)
    Image.fromarray(crop(1)).save(files[0])
    assert np.array_equal(kept.images[0], crop(1))
    files[0].write_bytes(b"broken")
    assert np.array_equal(kept.images[0], first)
    assert kept.fingerprint == plain.fingerprint


def test_photographs_without_a_face_are_named(tmp_path: Path) -> None:
    need_detector()
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / "pairs.csv").write_text("img1,img2,same\na.png,a.png,1\n")
    found = datasets.load(tmp_path)
    assert "no face found" in message(lambda: found.images[0])


# ------------------------------------------------------------------------------------------------------------- people


def test_people(lfw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMT_DATA", str(lfw.parent))
    everyone = datasets.load_people("lfw")
    assert len(everyone) == 12
    assert everyone.names == PEOPLE
    assert np.array_equal(everyone.images[4], crop(12))
    assert everyone.identities[4] == "Alan_Turing"
    (lfw / "list.txt").write_text("Kurt_Goedel\nAda_Lovelace\n")
    two = datasets.load_people(lfw, identities="list.txt")
    assert two.names == ("Ada_Lovelace", "Kurt_Goedel")
    assert two.fingerprint == datasets.load_people(lfw, identities=["Ada_Lovelace", "Kurt_Goedel"]).fingerprint
    assert two.fingerprint != everyone.fingerprint
    assert two.subset([5, 0]).identities == ("Kurt_Goedel", "Ada_Lovelace")
    assert two.tensor([0, 1]).shape == (2, 3, 112, 112)
    (lfw / "list.txt").write_text("Kurt_Goedel\nNobody\n")
    assert "list.txt:2" in message(lambda: datasets.load_people(lfw, identities="list.txt"))
    assert "none.txt" in message(lambda: datasets.load_people(lfw, identities="none.txt"))
    message(lambda: datasets.load_people(lfw, identities=["../lfw"]))
    message(lambda: datasets.load_people("nobody-at-all"))


# --------------------------------------------------------------------------------------------------- built-in samples


def test_sample_set() -> None:
    found = datasets.samples()
    assert found.stand_in
    assert "demonstration" in found.note
    assert int(found.same.sum()) * 2 == len(found)
    assert found.identities is not None
    for (one, two), same in zip(found.pairs, found.same, strict=True):
        assert one != two
        assert (found.identities[one] == found.identities[two]) == same
    assert len({tuple(sorted(pair)) for pair in found.pairs.tolist()}) == len(found)
    for fold in range(5):
        assert sorted(found.same[found.folds == fold].tolist()) == [False, False, True, True]


def test_sample_photographs() -> None:
    photos = {photo.name: photo for photo in datasets.sample_photos()}
    shown = {name for name, photo in photos.items() if photo.display}
    assert shown == {"astronaut", "obama", "obama2", "obama3", "obama-partial", "obama-partial2", "biden"}
    assert all(photo.asset in assets.ASSETS for photo in photos.values() if photo.asset is not None)


def test_sample_faces_are_found() -> None:
    need_detector()
    if not datasets.available("samples"):
        pytest.skip("the sample photographs cannot be had")
    try:
        images = list(datasets.load("samples").images)
    except AssetError as error:
        pytest.skip(f"a sample photograph cannot be had: {error}")
    assert len(images) == 14
    # The two cut portraits are parts of the first one: their crops agree where both show the face.
    names = [datasets.load("samples").images.name(index) for index in range(14)]
    whole = images[names.index("obama")][30:100, 45:70].astype(int)
    for cut in ("obama-partial", "obama-partial2"):
        assert np.abs(images[names.index(cut)][30:100, 45:70] - whole).mean() < 20


# ------------------------------------------------------------------------------------------------------ research data


@pytest.mark.parametrize(
    ("name", "pairs", "images", "identities"), [("lfw", 6000, 7701, 4281), ("cfp_ff", 7000, None, 500)]
)
def test_research_sets(name: str, pairs: int, images: int | None, identities: int) -> None:
    if data_dir() is None or not datasets.available(name):
        pytest.skip(f"{name} is not in PMT_DATA")
    found = datasets.load(name)
    assert len(found) == pairs
    assert int(found.same.sum()) == pairs // 2
    assert np.bincount(found.folds).tolist() == [pairs // 10] * 10
    if found.identities is not None:
        assert len(set(found.identities)) == identities
        assert images in (None, len(found.images))
        evaluated = found.sample(200, 0)
        rest = found.subset(datasets.disjoint(found, evaluated))
        assert rest.identities is not None
        assert evaluated.identities is not None
        assert not set(rest.identities) & set(evaluated.identities)
        assert len(rest) > 1000
    assert found.tensor(found.pairs[0]).shape == (2, 3, 112, 112)


def test_research_people() -> None:
    root = data_dir()
    if root is None or not (root / "lfw_rest").is_dir() or not datasets.available("lfw"):
        pytest.skip("lfw_rest is not in PMT_DATA")
    people = datasets.load_people("lfw_rest", identities="identities_disjoint_from_pairs.txt")
    assert len(people.names) == 1467
    evaluated = datasets.load("lfw").identities
    assert evaluated is not None
    assert not set(people.names) & set(evaluated)


def test_the_two_forms_of_cfp_agree() -> None:
    root = data_dir()
    if root is None or not (root / "cfp_ff" / "pairs_ff.tsv").is_file() or not (root / "cfp_ff" / "Protocol").is_dir():
        pytest.skip("CFP in both forms is not in PMT_DATA")
    table = datasets.load("cfp_ff")
    protocol = datasets._load_cfp(root / "cfp_ff" / "Protocol" / "Split" / "FF", "cfp_ff", None)
    assert protocol.fingerprint == table.fingerprint
