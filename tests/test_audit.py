"""``pmt audit``: the attacks on one's own uploads, against loops, and what it says of folders that do not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pmtlib import audit, cache, calibration, cli, metrics, zoo
from pmtlib.attacks.adaptive.deobfuscate import DeobfuscatorConfig, make_pairs
from pmtlib.attacks.adaptive.purify import candidates, purify
from pmtlib.attacks.adaptive.translate import TranslatorConfig, Uploads, train_translator, translation_thresholds
from pmtlib.errors import ConfigError, PhotoError, ResultError
from pmtlib.images import to_tensor
from pmtlib.pipeline import Job
from pmtlib.pipeline import run as protect
from pmtlib.report import LINES
from pmtlib.shallow import ShallowModel
from pmtlib.transform import PMTConfig
from pmtlib.variants.deep import DeepConfig
from tests import photographs
from tests.crowd import crowd
from tests.oracles import network_or_skip

SERVICE, ATTACKER = "mobilefacenet", "sface"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two photographs, one of them below a folder, and what pmt protect made of them."""
    photographs.ready()
    network_or_skip(ATTACKER)
    root = tmp_path_factory.mktemp("audit")
    photographs.portrait(root / "in" / "a.jpg")
    photographs.pair(root / "in" / "below" / "b.jpg")
    job = Job([root / "in"], root / "out", [SERVICE], PMTConfig(steps=6, batch_size=2), device="cpu")
    assert protect(job, show=False).done == 3
    return root / "in", root / "out"


def test_the_faces_are_those_of_the_report(folders: tuple[Path, Path]) -> None:
    cases, failed = audit.gather(*folders)
    assert failed == {}
    assert {case.name for case in cases} == {"a.png", "below/b.png", "below/b-face2.png"}
    for case in cases:
        assert case.row is not None
        assert case.row.ssim is not None
        # The report's SSIM is of the same crop, so the crop that was found again is the one that was protected.
        found = metrics.ssim(to_tensor([case.original]), to_tensor([case.upload]))[0]
        assert found == pytest.approx(case.row.ssim, abs=1e-6)


def test_the_numbers_are_those_of_a_loop(folders: tuple[Path, Path]) -> None:
    cases, _ = audit.gather(*folders)
    found = audit.run(cases, networks=[ATTACKER], device="cpu")
    assert found.authorised == (SERVICE,)
    network = zoo.load(ATTACKER)
    entry = calibration.find(ATTACKER, "lfw", weights=zoo.weights_checksum(ATTACKER))
    assert entry is not None
    by_name = {attack.name: attack for attack in found.attacks}
    gaussian = by_name["gaussian"]
    assert gaussian.strength is not None
    accepted, cosines, ssim = [], [], []
    for case in cases:
        original = to_tensor([case.original])
        filtered = purify(to_tensor([case.upload]), "gaussian", gaussian.strength)
        one, other = network(filtered)[0].double(), network(original)[0].double()
        cosines.append(float(one @ other / one.norm() / other.norm()))
        accepted.append(cosines[-1] > entry.threshold_far_1e2)
        ssim.append(float(metrics.ssim(filtered, original)[0]))
    assert gaussian.accepted[ATTACKER] == gaussian.others == pytest.approx(np.mean(accepted))
    assert gaussian.cosine == pytest.approx(np.mean(cosines), abs=1e-6)
    assert gaussian.ssim == pytest.approx(np.mean(ssim), abs=1e-6)
    assert gaussian.worst == cases[int(np.argmax(ssim))].name
    assert found.best.others == max(attack.others for attack in found.attacks)
    assert "Not tried" in found.note
    assert found.attacks[0].name == "as it is"
    assert f"{found.best.others:.0%} of 3 faces" in found.verdict


def test_the_best_attack_is_never_worse_than_none() -> None:
    def attack(name: str, others: float, cosine: float) -> audit.Attack:
        return audit.Attack(name, None, "", {}, others, cosine, 0.1, 0.2, "a.png")

    plain, alike, strong = attack("as it is", 0.5, 0.1), attack("median", 0.2, 0.9), attack("gaussian", 0.5, 0.3)
    found = audit.Audit(1, (), {}, (plain, alike, strong), {}, {}, {}, {}, "", {})
    assert found.best == strong
    assert audit.Audit(1, (), {}, (plain, alike), {}, {}, {}, {}, "", {}).best == plain


def test_shares_of_the_report_have_their_n_and_wilsons_interval(capsys: pytest.CaptureFixture[str]) -> None:
    attacks = [
        audit.Attack(name, None, "", {ATTACKER: share}, share, 0.5, 0.1, 0.2, "a.png")
        for name, share in (("as it is", 0.0), ("median", 1 / 3))
    ]
    thresholds = {SERVICE: 0.3, ATTACKER: 0.4}
    found = audit.Audit(3, (SERVICE,), {SERVICE: 2 / 3}, tuple(attacks), {}, {}, {}, thresholds, "", {})
    cli._show_audit(found)
    shown = capsys.readouterr().out
    lines = {line.split()[0]: " ".join(line.split()) for line in shown.splitlines() if line.strip()}
    assert lines[SERVICE] == f"{SERVICE} (service) 67 [21, 94] 0.300"
    assert lines[ATTACKER] == f"{ATTACKER} 0 [0, 56] 33 [6, 79] 0.400"
    assert "Faces of 3 " in shown
    assert f"33% of 3 faces after median ({ATTACKER} 33%; as they are, in the mean, 0%)" in shown


def test_a_photograph_that_was_not_protected_is_read_in_full(folders: tuple[Path, Path]) -> None:
    case = audit.gather(*folders)[0][0]
    open_case = audit.Case("open", case.original, case.original)
    found = audit.run([open_case], authorised=[SERVICE], networks=[ATTACKER], device="cpu")
    assert found.attacks[0].others == found.service[SERVICE] == 1.0
    assert found.attacks[0].ssim == pytest.approx(1.0)
    assert all(plain == 1.0 for plain, _ in found.attributes.values())


def test_a_network_can_learn_from_other_people(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cases, _ = audit.gather(*folders)
    monkeypatch.setattr(cache, "cache_dir", lambda: tmp_path)
    few = DeobfuscatorConfig(batch_size=2, width=8, linear_images=8, validate_every=2)
    short = TranslatorConfig(batch_size=2, width=4, validate_every=2, validation_people=2)
    learning: dict[str, Any] = {
        "learn": "samples", "training": few, "translation": short, "steps": 2, "device": "cpu"
    }  # fmt: skip
    found = audit.run(cases, networks=[ATTACKER], **learning)
    assert found.attacks[-1].name == "learned"
    assert found.translated == {}
    assert "too few for a threshold" in found.note
    assert "By a translation" not in found.verdict
    stored = [json.loads(path.read_text())["steps_done"] for path in tmp_path.glob("deobfuscator/*/deobfuscator.json")]
    assert stored == [2]
    by_hand = [audit.Case(case.name, case.original, case.upload) for case in cases]
    with pytest.raises(ConfigError, match="all uploads must be of one folder"):
        audit.run(by_hand, authorised=[SERVICE], networks=[ATTACKER], **learning)


def test_what_is_learned_from_is_made_as_the_uploads_were(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The learner is trained on uploads of the very configuration, stopping rule, rule and all, not of the defaults."""
    config = DeepConfig(steps=3, batch_size=2, step_size=0.1, rule="sign", stop_cosine=0.01)
    job = Job([folders[0]], tmp_path / "out", [SERVICE], config, cut="14x14", device="cpu")
    assert protect(job, show=False).done == 3
    cases, _ = audit.gather(folders[0], tmp_path / "out")
    asked: list[Any] = []

    class Enough(Exception):
        pass

    def noted(people: Any, shared: Any, configs: Any, **_: Any) -> None:
        asked.extend((shared[0].cut, configs))
        raise Enough

    monkeypatch.setattr(audit, "make_pairs", noted)
    with pytest.raises(Enough):
        audit.run(cases, networks=[ATTACKER], learn="samples", device="cpu")
    assert asked == [ShallowModel(zoo.load(SERVICE), "14x14").cut, [config]]
    lines = (tmp_path / "out" / LINES).read_text()
    for written, refused in (
        ('"sign"', '"no-rule"'), ('"settings":', '"sittings":')
    ):  # fmt: skip
        (tmp_path / "out" / LINES).write_text(lines.replace(written, refused))
        changed, _ = audit.gather(folders[0], tmp_path / "out")
        with pytest.raises(ConfigError, match=r"a setting that cannot be \(rule\)|does not say with which settings"):
            audit.run(changed, networks=[ATTACKER], learn="samples", device="cpu")


def test_with_enough_people_uploads_are_translated(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The people are random pictures: what is held against loops is which numbers are compared with which."""
    cases, _ = audit.gather(*folders)
    people = crowd(24, 1)
    zoo.load(ATTACKER), zoo.load(SERVICE)
    monkeypatch.setattr(audit, "training_people", lambda _: people)
    monkeypatch.setattr(audit, "_learned", lambda kind, pairs, uploads, *_, **__: uploads)
    monkeypatch.setattr(cache, "cache_dir", lambda: tmp_path)
    config = TranslatorConfig(batch_size=2, width=4, validation_people=12)
    found = audit.run(cases, networks=[ATTACKER], learn="crowd", translation=config, steps=1, device="cpu")
    config = config.model_copy(update={"steps": 1})
    shared = ShallowModel(zoo.load(SERVICE), cases[0].row.networks[0].cut, name=SERVICE)  # type: ignore[union-attr]
    network = zoo.load(ATTACKER)
    row = cases[0].row
    assert row is not None
    made_with = PMTConfig.model_validate(row.settings)
    made = make_pairs(people, [shared], [made_with], seeds=(1, 2, 3, 4), chunk=made_with.batch_size)
    uploads = Uploads(made.protected, made.rows)
    translator = train_translator(shared, people, {ATTACKER: network}, config, uploads=uploads)
    limit = translation_thresholds(translator, people, {ATTACKER: network}, config, uploads=uploads)[ATTACKER]
    assert found.translation_thresholds[ATTACKER] == pytest.approx(limit, abs=1e-6)
    recognised = []
    for case in cases:
        said = translator(to_tensor([case.upload]))[ATTACKER][0].double()
        own = network(to_tensor([case.original]))[0].double()
        recognised.append(float(said @ own / said.norm() / own.norm()) > limit)
    assert found.translated == {ATTACKER: pytest.approx(np.mean(recognised))}
    assert f"they recognise {np.mean(recognised):.0%}." in found.verdict
    # Networks whose weights this machine has not fetched yet are named too.
    assert found.note == " ".join(part for part in (audit.NEVER_TRIED, audit._absent([ATTACKER])) if part)


def test_what_does_not_fit_is_named_and_the_rest_goes_on(folders: tuple[Path, Path], tmp_path: Path) -> None:
    photos, results = tmp_path / "in", tmp_path / "out"
    shutil.copytree(folders[0], photos)
    shutil.copytree(folders[1], results)
    (photos / "a.jpg").unlink()
    Image.new("RGB", (20, 20)).save(results / "below" / "b.png")
    cases, failed = audit.gather(photos, results)
    assert [case.name for case in cases] == ["below/b-face2.png"]
    assert "photograph a.jpg is not in" in failed["a.png"]
    assert "112" in failed["below/b.png"]
    with pytest.raises(ResultError, match="give the output folder of pmt protect"):
        audit.gather(photos, photos)
    with pytest.raises(PhotoError, match="must both be files or both be folders"):
        audit.gather(photos, results / "a.png")
    with pytest.raises(PhotoError, match=r"no protected face to audit; a\.png: gone"):
        audit.run([], failed={"a.png": "gone"})
    with pytest.raises(ConfigError, match="no network to attack with"):
        audit.run(cases, authorised=zoo.names(), device="cpu")


def test_a_single_upload_is_a_case_of_the_report_that_tells_of_it(folders: tuple[Path, Path], tmp_path: Path) -> None:
    whole = {case.name: case for case in audit.gather(*folders)[0]}
    photograph, uploads = folders[0] / "below" / "b.jpg", folders[1] / "below"
    # Each of two faces is held against itself, though both are of one photograph.
    for name in ("b.png", "b-face2.png"):
        (case,), failed = audit.gather(photograph, uploads / name)
        wanted = whole[f"below/{name}"]
        assert failed == {}
        assert case.row == wanted.row
        assert np.array_equal(case.original, wanted.original)
    with pytest.raises(
        PhotoError, match=r"a\.png was made of a\.jpg, as the report beside it says, and not of .*b\.jpg"
    ):
        audit.gather(photograph, folders[1] / "a.png")
    # A report of other files in a folder on the way up says nothing of it.
    shutil.copytree(folders[1], tmp_path / "out")
    job = Job([folders[0] / "a.jpg"], tmp_path / "out" / "below", [SERVICE], PMTConfig(steps=1), device="cpu")
    assert protect(job, show=False).done == 1
    (case,), _ = audit.gather(photograph, tmp_path / "out" / "below" / "b.png")
    assert case.row == whole["below/b.png"].row
    # Without a report nothing is known of it.
    shutil.copy(folders[1] / "a.png", tmp_path)
    (case,), _ = audit.gather(folders[0] / "a.jpg", tmp_path / "a.png")
    assert case.row is None


def test_attribute_networks_that_are_not_here_are_named_and_not_fetched(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cases, _ = audit.gather(folders[0] / "a.jpg", folders[1] / "a.png")
    monkeypatch.setattr(audit, "candidates", lambda: candidates()[:1])
    monkeypatch.setattr(audit.attribute_zoo, "is_present", lambda name: False)
    monkeypatch.setattr(audit.attribute_zoo, "load", lambda *_: pytest.fail("nothing is to be fetched"))
    found = audit.run(cases, networks=[ATTACKER], device="cpu")
    assert found.attributes == {}
    assert f"their weights are not here: {', '.join(audit.attribute_zoo.names())}." in found.note


def test_the_command_prints_a_table_or_json_and_its_code(pmt: Any, folders: tuple[Path, Path], tmp_path: Path) -> None:
    table = pmt("audit", *folders, "-n", ATTACKER, "--device", "cpu", "-q")
    assert table.code == 0
    for shown in ("as it is", "gaussian", f"{SERVICE} (service)", ATTACKER, "Networks that are not authorised"):
        assert shown in table.out
    pair = (folders[0] / "a.jpg", folders[1] / "a.png")
    alone = json.loads(pmt("audit", *pair, "-a", SERVICE, "-n", ATTACKER, "--device", "cpu", "--json", "-q").out)
    assert (alone["faces"], alone["authorised"]) == (1, [SERVICE])
    assert {attack["name"] for attack in alone["attacks"]} >= {"as it is", "contrast", "gaussian", "median"}
    shutil.copytree(folders[0], tmp_path / "in")
    (tmp_path / "in" / "a.jpg").unlink()
    some = pmt("audit", tmp_path / "in", folders[1], "-n", ATTACKER, "--device", "cpu", "-q")
    assert some.code == 1
    assert "failed: a.png" in some.out
    assert pmt("audit", *pair, "--steps", "3").code == 2
    assert pmt("audit", tmp_path / "nowhere", folders[1]).code == 2
