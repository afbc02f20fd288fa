from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

import pmtlib
from pmtlib import __version__, assets, cli, faces, zoo
from pmtlib.cli import main
from pmtlib.errors import SlowWarning
from pmtlib.pipeline import Summary, run
from pmtlib.transform import PMTConfig
from pmtlib.variants import VARIANTS
from tests import photographs
from tests.photographs import NETWORK

OPTIONS = ["-a", NETWORK, "--steps", "2", "--device", "cpu"]


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pmtlib.cli", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment, **options)


def test_without_arguments_and_with_help_it_explains_itself_and_the_exit_codes(pmt: Any) -> None:
    bare, asked = pmt(), pmt("--help")
    assert bare.code == asked.code == 0
    for name in ("protect", "verify", "networks", "config", "assets"):
        assert name in bare.out
        assert name in asked.out
    words = " ".join(asked.out.split())
    for code in ("0 done", "1 inputs", "2 wrong usage", "130 interrupted"):
        assert code in words
    assert pmt("assets").code == 0
    defaults = " ".join(pmt("protect", "--help").out.split())
    assert f"[default: ({faces.MIN_FACE})]" in defaults
    assert f"[default: ({zoo.card(NETWORK).default_cut})]" in defaults
    assert pmt("--version").out == f"pmt {__version__}\n"


def test_the_warnings_of_libraries_are_for_those_who_debug(pmt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def warn() -> list[Any]:
        warnings.warn("install/path: this will change", UserWarning, stacklevel=1)
        return []

    monkeypatch.setattr(assets, "status", warn)
    for options, chosen, wanted in (([], [], 0), (["--debug"], [], 1), ([], ["default"], 1)):
        monkeypatch.setattr(sys, "warnoptions", chosen)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            assert pmt("assets", "list", *options).code == 0
        assert len(said) == wanted


def test_what_is_slow_is_a_line_whatever_becomes_of_other_warnings(pmt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def warn() -> list[Any]:
        warnings.warn("install/path: this will change", UserWarning, stacklevel=1)
        warnings.warn("slow here.\nRemedy: gcc", SlowWarning, stacklevel=1)
        return []

    monkeypatch.setattr(assets, "status", warn)
    monkeypatch.setattr(sys, "warnoptions", [])
    assert pmt("assets", "list").err == "warning: slow here.\\nRemedy: gcc\n"


def test_help_lists_and_complaints_do_not_wait_for_torch() -> None:
    script = """
import io, sys, contextlib
from pmtlib.cli import main
calls = ["--help", "protect --help", "assets list", "protekt", "protect", "verify a b", "protect x -a sface -o y"]
for arguments in map(str.split, calls):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main(arguments)
        except SystemExit:
            pass
print(sorted({"torch", "cv2", "kornia", "sklearn"} & set(sys.modules)))
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["protekt"], "No such command 'protekt'"),
        (["protect"], "Missing argument 'PHOTOS...'; see `pmt protect --help`"),
        (["protect", "IN"], "Missing option '--authorise'"),
        (["protect", "IN", "-a", NETWORK], "Missing option '--out'"),
        (["protect", "IN", "-o", "OUT", "-a", "nobody"], "no network 'nobody'"),
        (["protect", "IN", "-o", "OUT", "-a", ","], "no authorised network"),
        (["protect", "IN", "-o", "OUT", "-a", NETWORK, "--steps", "some"], "'--steps'"),
        (["protect", "IN", "-o", "OUT", "-a", NETWORK, "--step-size", "1/0"], "'1/0' is no number"),
        (["protect", "IN", "-o", "OUT", "-a", NETWORK, "--rule", "newton"], "rule: input should be"),
        (["protect", "IN", "-o", "OUT", "-a", NETWORK, "--cut", "99"], "cut 99 is outside"),
        (["protect", "IN", "-o", "OUT", "-a", NETWORK, "--cut=--5"], "no unit '--5'"),
        (["protect", "IN", "-o", "OUT", "-a", NETWORK, "--cut", "9" * 5000], "no unit '999"),
        (["protect", "IN", "-o", "OUT", "-a", NETWORK, "--variant", "decoi"], "'decoi'; there are pmt, decoy"),
        (["config", "--variant", "decoi"], "no variant 'decoi'; there are pmt, decoy"),
        (["protect", "IN", "-o", "IN", "-a", NETWORK], "both input and --out"),
        (["protect", "nowhere.jpg", "-o", "OUT", "-a", NETWORK], "no such file or folder: nowhere.jpg"),
        (["protect", "IN", "-o", "IN/a.jpg", "-a", NETWORK], "cannot write to"),
        (["verify", "IN/a.jpg", "nowhere.png"], "no such file or folder: nowhere.png"),
        (["verify", "IN/a.jpg", "IN/a.jpg", "-n", "nobody"], "no network 'nobody'"),
        (["networks", "mobilfacenet"], "did you mean 'mobilefacenet'"),
        (["networks", "--set", "lfw"], "--set needs --check"),
        (["networks", "--check", "--calibrate"], "exclude each other"),
        (["networks", "--check", NETWORK, "--set", "nowhere/set"], "nowhere/set"),
        (["assets", "fetch", "photo-obma"], "did you mean 'photo-obama'"),
        (["assets", "fetch", "--all", "photo-obama"], "exclude each other"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(pmt: Any, tmp_path: Path, arguments: list[str], message: str) -> None:
    photographs.ready()
    photographs.portrait(tmp_path / "in" / "a.jpg")
    named = [part.replace("IN", str(tmp_path / "in")).replace("OUT", str(tmp_path / "out")) for part in arguments]
    done = pmt(*named)
    assert done.code == 2
    assert message in done.error
    assert not list(tmp_path.glob("out/*.png"))


def test_patterns_are_files_where_the_shell_leaves_them(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.jpg", "c.png"):
        (tmp_path / name).touch()
    given = ["protect", str(tmp_path / "*.jpg"), "--out", "x", str(tmp_path / "*.gif")]
    found = [str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg")]
    assert cli._expanded(given) == ["protect", *found, "--out", "x", given[-1]]


def test_debug_shows_where_an_error_comes_from(tmp_path: Path) -> None:
    for arguments in (["--debug", "networks", "nobody"], ["networks", "nobody", "--debug"]):
        with pytest.raises(Exception, match="no network 'nobody'"):
            main(arguments)


def test_protect_reports_for_people_and_for_programs(pmt: Any, tmp_path: Path) -> None:
    photographs.ready()
    photographs.portrait(tmp_path / "in" / "a [red].jpg")
    (tmp_path / "in" / "bad.jpg").write_text("no picture")
    (tmp_path / "in" / "notes.txt").write_text("x")
    done = pmt("protect", tmp_path / "in", "-o", tmp_path / "out", *OPTIONS)
    assert done.code == 1
    assert "a [red].jpg" in done.out
    assert "failed: bad.jpg: is not an image that can be read" in done.out
    assert "2 photographs: 1 face done, 1 failed, 1 other file ignored" in done.out
    again = pmt("protect", tmp_path / "in", "-o", tmp_path / "out", *OPTIONS, "--json")
    assert again.code == 1
    found = json.loads(again.out)
    assert {key: found[key] for key in ("photographs", "done", "reused", "failed", "ignored", "stopped")} == {
        "photographs": 2,
        "done": 1,
        "reused": 1,
        "failed": 1,
        "ignored": 1,
        "stopped": None,
    }
    lines = (tmp_path / "out" / "report.jsonl").read_text("utf-8").splitlines()
    assert sorted(found["rows"], key=str) == sorted(map(json.loads, lines), key=str)
    (tmp_path / "in" / "bad.jpg").unlink()
    quiet = pmt("protect", tmp_path / "in", "-o", tmp_path / "out", *OPTIONS, "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")


@pytest.mark.parametrize("steps", [0, 1])
def test_a_result_that_serves_nobody_is_warned_about(pmt: Any, tmp_path: Path, steps: int) -> None:
    photographs.ready()
    photographs.portrait(tmp_path / "a.jpg")
    arguments = ["protect", tmp_path / "a.jpg", "-o", tmp_path / "out", *OPTIONS, "--steps", steps]
    done = pmt(*arguments)
    (row,) = map(json.loads, (tmp_path / "out" / "report.jsonl").read_text("utf-8").splitlines())
    # A step from noise is not enough for the network that it is meant for.
    assert row["networks"][0]["verdict"] == "rejected"
    assert row["warning"].startswith("nothing was optimised (0 steps); " if steps == 0 else f"{NETWORK} itself rejects")
    assert done.code == 0
    assert f"warning: a.jpg: {row['warning']}" in done.out.splitlines()
    assert "1 photograph: 1 face done; 1 face with a warning;" in done.out
    assert "itself rejects it" in (tmp_path / "out" / "report.txt").read_text("utf-8")
    assert json.loads(pmt(*arguments, "--json").out)["warned"] == 1


def test_options_reach_the_transform(pmt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photographs.ready()
    jobs = []

    def keep(job: Any, **options: Any) -> Summary:
        jobs.append(job)
        return run(job, **options)

    monkeypatch.setattr("pmtlib.pipeline.run", keep)
    photographs.portrait(tmp_path / "a.jpg")
    (tmp_path / "c.yaml").write_text("steps: 50\nnoise_std: 0.01\n")
    options = ["--steps", "1", "--step-size", "4/255", "--rule", "sign", "--seed", "3", "--precision", "bfloat16"]
    options += ["--batch-size", "7", "--config", str(tmp_path / "c.yaml"), "--cut", "block1", "--largest"]
    options += ["--min-face", "20", "--authorize", f"{NETWORK}, {NETWORK}", "--device", "cpu", "--features"]
    for vectors in ("AVX512", "AVX2"):
        monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda known=vectors: known)
        done = pmt("protect", tmp_path / "a.jpg", "-o", tmp_path / "out", *options)
        assert done.code == 0
        assert ("no instructions for bfloat16" in done.out) is (vectors == "AVX2")
    job, _ = jobs
    assert job.config == PMTConfig(
        steps=1, step_size=4 / 255, rule="sign", seed=3, precision="bfloat16", batch_size=7, noise_std=0.01
    )
    assert (job.authorised, job.cut, job.largest, job.min_face, job.features) == ([NETWORK], "block1", True, 20, True)
    assert (tmp_path / "out" / f"a.{NETWORK}.safetensors").is_file()


def test_verify_prints_a_table_or_json(pmt: Any, tmp_path: Path) -> None:
    photographs.ready()
    photographs.portrait(tmp_path / "a.jpg")
    pmt("protect", tmp_path / "a.jpg", "-o", tmp_path / "out", *OPTIONS)
    pair = [tmp_path / "a.jpg", tmp_path / "out" / "a.png", "--networks", NETWORK, "--device", "cpu"]
    done = pmt("verify", *pair)
    assert done.code == 0
    assert NETWORK in done.out
    for name in ("SSIM", "PSNR", "LPIPS-VGG", "LPIPS-AlexNet"):
        assert name in done.out
    found = json.loads(pmt("verify", *pair, "--json").out)
    row = json.loads((tmp_path / "out" / "report.jsonl").read_text("utf-8"))
    assert found["networks"][0]["cosine"] == pytest.approx(row["networks"][0]["cosine"], abs=1e-5)
    assert found["ssim"] == pytest.approx(row["ssim"], abs=1e-6)


def test_networks_lists_all_without_reading_weights(pmt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMT_OFFLINE", "1")
    monkeypatch.setenv("PMT_CACHE", str(tmp_path / "empty"))
    monkeypatch.delenv("PMT_WEIGHTS", raising=False)
    rows = json.loads(pmt("networks", "--json").out)
    assert [row["name"] for row in rows] == list(zoo.names())
    assert not any(row["present"] for row in rows)
    assert all("PMT_WEIGHTS" in row["source"] for row in rows)
    sizes = {row["name"]: row["parameters"] for row in rows}
    assert 0.9e6 < sizes["mobilefacenet-casia"] < sizes["mobilefacenet"] < 1.4e6 < sizes["sface"]
    assert not (tmp_path / "empty").exists()
    table = pmt("networks", NETWORK)
    assert table.code == 0
    assert "put mobilefacenet-tflite into PMT_WEIGHTS" in " ".join(table.out.split())


def test_networks_are_checked_and_one_at_chance_is_refused(pmt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    photographs.ready()
    for photo in ("photo-obama", "photo-hanks", "photo-group"):
        if not assets.available(photo):
            pytest.skip(f"{photo} is not here: `pmt assets fetch {photo}`")
    done = pmt("networks", "--check", NETWORK, "--set", "samples", "--json", "--quiet", "--device", "cpu")
    assert done.code == 0
    (found,) = json.loads(done.out)
    assert found["measured"]["auc"] == pytest.approx(1)
    card = zoo.card(NETWORK)
    load = zoo.load

    def spoilt(name: str, *arguments: Any) -> Any:
        network = load(name, *arguments)
        network.prepare = lambda images: images.mean((2, 3), keepdim=True).expand_as(images) * 0
        return network

    monkeypatch.setattr(zoo, "load", spoilt)
    refused = pmt("networks", "--check", card.name, "--set", "samples", "--quiet", "--device", "cpu")
    assert refused.code == 1
    assert f"{NETWORK} is at chance on samples" in refused.error


def test_calibration_measures_and_stores(pmt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pmtlib import calibration, protocols

    photographs.ready()
    if not assets.available("photo-group"):
        pytest.skip("photo-group is not here: `pmt assets fetch photo-group`")
    file = tmp_path / "calibration.json"
    measure = protocols.calibrate
    # The command writes into the package; the test's copy goes elsewhere.
    monkeypatch.setattr(protocols, "calibrate", lambda *args, **options: measure(*args, **options, path=file))
    done = pmt("networks", NETWORK, "--calibrate", "--set", "samples", "--device", "cpu")
    assert done.code == 0
    assert "1 operating point is stored" in done.out
    (entry,) = calibration.calibrations(file)
    assert (entry.network, entry.dataset, entry.weights) == (NETWORK, "samples", zoo.weights_checksum(NETWORK))


def test_config_prints_what_protect_takes(pmt: Any, tmp_path: Path) -> None:
    from pmtlib.settings import configure

    (tmp_path / "c.yaml").write_text(pmt("config").out)
    assert configure(tmp_path / "c.yaml") == PMTConfig()


@pytest.mark.parametrize("features", [False, True])
def test_a_variant_is_protected_with_reported_and_not_taken_for_another(
    pmt: Any, tmp_path: Path, features: bool
) -> None:
    photographs.ready()
    photographs.portrait(tmp_path / "a.jpg")
    arguments = ["protect", tmp_path / "a.jpg", "-o", tmp_path / "out", *OPTIONS, "--json"]
    arguments += ["--features"] * features
    rows = {}
    for variant in VARIANTS:
        found = json.loads(pmt(*arguments, "--variant", variant).out)
        assert (found["done"], found["reused"]) == (1, 0)
        (rows[variant],) = found["rows"]
        assert rows[variant]["variant"] == variant
        assert json.loads(pmt(*arguments, "--variant", variant).out)["reused"] == 1
        assert variant in (tmp_path / "out" / "report.txt").read_text("utf-8")
    assert len({json.dumps(row["outputs"]) for row in rows.values()}) == len(VARIANTS)
    # The results of the last one are there; a file that says the same finds them.
    (tmp_path / "c.yaml").write_text(pmt("config", "--variant", variant).out)
    again = json.loads(pmt(*arguments, "--config", tmp_path / "c.yaml").out)
    assert (again["reused"], again["rows"][0]["variant"]) == (1, variant)


def test_assets_are_listed_and_fetched_or_complained_about(
    pmt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = json.loads(pmt("assets", "list", "--json").out)
    assert [row["name"] for row in rows] == list(assets.ASSETS)
    here = [row["name"] for row in rows if row["present"]]
    if here:
        done = pmt("assets", "fetch", here[0])
        assert done.code == 0
        assert str(assets.path(here[0], download=False)) in done.out
    monkeypatch.setenv("PMT_OFFLINE", "1")
    monkeypatch.setenv("PMT_CACHE", str(tmp_path / "empty"))
    monkeypatch.delenv("PMT_WEIGHTS", raising=False)
    failed = pmt("assets", "fetch", "photo-obama", "sface-onnx")
    assert failed.code == 1
    lines = failed.err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("error: cannot get ") for line in lines)
    assert pmt("assets", "fetch").code == 2
    assert "photo-obama" in pmt("assets", "list").out


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise there")
def test_ctrl_c_keeps_what_is_done_and_the_next_run_ends_as_one_would_have(tmp_path: Path, pmt: Any) -> None:
    photographs.ready()
    for number in range(3):
        photographs.portrait(tmp_path / "in" / f"{number}.jpg", brightness=1 - number / 10)
    options = ["-a", NETWORK, "--steps", "12", "--device", "cpu", "--batch-size", "1"]

    def listen() -> None:
        """A shell starts what runs in its background deaf to SIGINT, and that is inherited."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    process = start("protect", tmp_path / "in", "-o", tmp_path / "out", *options, preexec_fn=listen)
    limit = time.monotonic() + 120
    while not list(tmp_path.glob("out/*.png")):
        assert time.monotonic() < limit
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert [line for line in err.splitlines() if line.startswith("error: ")] == [
        "error: interrupted; what was finished is kept, run again to go on"
    ]
    assert "Traceback" not in err
    kept = list(tmp_path.glob("out/*.png"))
    assert 1 <= len(kept) < 3
    assert not list(tmp_path.glob("out/.*.part"))
    found = json.loads(pmt("protect", tmp_path / "in", "-o", tmp_path / "out", *options, "--json").out)
    assert (found["done"], found["failed"]) == (3, 0)
    assert found["reused"] >= len(kept) - 1
    pmt("protect", tmp_path / "in", "-o", tmp_path / "whole", *options)
    for number in range(3):
        name = f"{number}.png"
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_second_run_on_the_same_folder_is_turned_away(pmt: Any, tmp_path: Path) -> None:
    from pmtlib.report import Report

    photographs.ready()
    photographs.portrait(tmp_path / "a.jpg")
    with Report(tmp_path / "out"):
        done = pmt("protect", tmp_path / "a.jpg", "-o", tmp_path / "out", *OPTIONS)
    assert done.code == 2
    assert "in use by another run" in done.error


@pytest.mark.skipif(sys.platform == "win32", reason="the lock needs fcntl")
def test_of_two_processes_on_one_folder_one_does_all_and_the_other_nothing(pmt: Any, tmp_path: Path) -> None:
    photographs.ready()
    photographs.pair(tmp_path / "in" / "two.png")
    # Long enough that neither is through before the other has begun.
    options = ("-a", NETWORK, "--steps", "150", "--batch-size", "2", "--device", "cpu", "--quiet")
    first, second = (start("protect", tmp_path / "in", "-o", tmp_path / "out", *options) for _ in range(2))
    said = {process.communicate(timeout=300)[1]: process.returncode for process in (first, second)}
    assert sorted(said.values()) == [0, 2], said
    (refused,) = (err for err, code in said.items() if code == 2)
    assert "in use by another run" in refused
    assert pmt("protect", tmp_path / "in", "-o", tmp_path / "whole", *options).code == 0
    for name in ("two.png", "two-face2.png"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_reader_that_leaves_is_one_line() -> None:
    process = start("assets", "list", "--json")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(timeout=60) == 1
    assert err == "error: the reader of the output is gone\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_output_that_cannot_be_written_is_one_line() -> None:
    command = [sys.executable, "-m", "pmtlib.cli", "assets", "list"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: No space left on device; make room or check the permissions, and run again\n"


def test_an_unexpected_error_is_one_line(pmt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr(assets, "status", broken)
    done = pmt("assets", "list")
    assert done.code == 2
    assert done.error == "unexpected RuntimeError: first second; run again with --debug and report what it shows"


def test_the_log_and_the_report_name_no_path_but_what_was_given(
    pmt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photographs.ready()
    monkeypatch.chdir(tmp_path)
    photographs.portrait(Path("in") / "a.png")
    Path("in/b.jpg").write_bytes(b"no picture")
    Path("in/c.png").touch()
    Path("in/link.jpg").symlink_to(Path(pmtlib.__file__))
    Path("in/gone.jpg").symlink_to("/nowhere/at/all.jpg")
    done = pmt("protect", "in", "-o", "out", *OPTIONS)
    wrong = pmt("protect", "in", "-o", "out", *OPTIONS, "--config", "absent.yaml")
    nothing = pmt("protect", "absent", "-o", "out", *OPTIONS)
    assert (done.code, wrong.code, nothing.code) == (1, 2, 2)
    told = [done.out, done.err, wrong.err, nothing.err]
    told += [path.read_text("utf-8") for path in Path("out").iterdir() if path.suffix in (".txt", ".jsonl")]
    assert sum("link.jpg" in text for text in told) >= 2
    for text in told:
        assert not re.search(r"(?<![\w.])/[\w.-]+", text), text


@pytest.mark.parametrize(
    ("cause", "code", "said"), [(KeyboardInterrupt, 130, "interrupted;"), (OSError, 2, "unexpected ImportError")]
)
def test_an_import_that_ctrl_c_breaks_is_an_interruption(
    cause: type[BaseException],
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An extension that is being loaded then raises an error of its own from it."""

    def loading(arguments: list[str]) -> int:
        try:
            raise cause
        except BaseException as error:
            raise ImportError("initialization failed") from error

    monkeypatch.setattr("pmtlib.cli._run", loading)
    with pytest.raises(SystemExit) as ended:
        main(["networks"])
    assert ended.value.code == code
    assert capsys.readouterr().err.startswith(f"error: {said}")
