"""``python -m tests.fuzz --minutes 20``: throw broken files at the parsers, each in a process of its own.

With the package ``atheris`` installed, libFuzzer mutates and is led by the coverage of pmtlib's code; without it, a
plain loop of random mutations runs the same targets. What is found is written below ``--out``, one file a finding.
``--record benchmarks/fuzz.json`` keeps what each target came to, beside what the file says of the others; the book
shows it.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pmtlib import provenance
from pmtlib.images import write_atomic

GIGABYTES = 4
SECONDS = 20
_MEMORY = Path("/dev/shm")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="of all targets together")
    parser.add_argument("--target", action="append", help="one of them; all by default")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations")
    parser.add_argument("--out", type=Path, default=Path("fuzz-findings"), help="folder of the findings")
    parser.add_argument("--record", type=Path, help="JSON file that keeps what each target came to")
    parser.add_argument("--plain", action="store_true", help="without atheris")
    parser.add_argument("--inside", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside is not None:
        faulthandler.enable()
        work = _mutate if given.plain else _atheris
        return work(given.target[0], given.inside, given.seed, given.out, given.folder)
    from tests.fuzz.targets import TARGETS

    chosen = given.target or list(TARGETS)
    if unknown := set(chosen) - set(TARGETS):
        parser.error(f"no target {sorted(unknown)[0]}; there are {', '.join(TARGETS)}")
    plain = given.plain or importlib.util.find_spec("atheris") is None
    print("mutations: " + ("plain" if plain else "atheris"), flush=True)
    total = 0
    for name in chosen:
        runs, findings = _outside(name, given.minutes * 60 / len(chosen), given.seed, given.out, plain)
        total += findings
        if given.record:
            record(
                given.record,
                name,
                minutes=round(given.minutes / len(chosen), 1),
                executions=runs,
                findings=findings,
                seed=given.seed,
                mutations="plain" if plain else f"atheris {importlib.metadata.version('atheris')}",
            )
    print(f"{total} findings" + (f", see {given.out}" if total else ""))
    return 1 if total else 0


def record(file: Path, name: str, **what: Any) -> None:
    """Put a target's run into a file of such runs, with commit and date, in place of an earlier one."""
    kept = json.loads(file.read_bytes()) if file.is_file() else {}
    kept[name] = {**what, "commit": provenance.commit(), "date": datetime.now(UTC).strftime("%Y-%m-%d")}
    write_atomic(file, (json.dumps(kept, indent=1) + "\n").encode())


def _outside(name: str, seconds: float, seed: int, out: Path, plain: bool) -> tuple[int, int]:
    """Run a target until its time is over, again after each finding that ends the process.

    Returns:
        how often it was run, and how many findings there were.
    """
    out.mkdir(parents=True, exist_ok=True)
    end, runs, findings, idle = time.monotonic() + seconds, 0, 0, 0
    while (left := end - time.monotonic()) > 1 and idle < 20:
        command = [sys.executable, "-m", "tests.fuzz", "--target", name, "--seed", str(seed), "--out", str(out)]
        command += ["--inside", str(left)] + ["--plain"] * plain
        # Removed here: libFuzzer ends its process without a farewell.
        with tempfile.TemporaryDirectory(prefix="pmt-fuzz-", dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
            command += ["--folder", folder]
            done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        output = done.stdout + done.stderr
        counted = re.findall(r"number_of_executed_units: (\d+)", output) or re.findall(r"^#(\d+)", output, re.MULTILINE)
        runs += int(counted[-1]) if counted else 0
        if done.returncode:
            findings, idle, seed = findings + 1, idle + 1, seed + 1
            (out / f"{name}-{findings}.log").write_text(output[-20000:])
        else:
            break
    print(f"{name:>14}: {runs:>9} executions, {findings} findings", flush=True)
    return runs, findings


def _atheris(name: str, seconds: float, seed: int, out: Path, folder: Path) -> int:
    import atheris

    with atheris.instrument_imports(include=["pmtlib"]):
        from tests.fuzz.targets import TARGETS, check
    corpus = folder / "corpus"
    corpus.mkdir()
    for seeded in TARGETS[name].seeds():
        (corpus / hashlib.sha256(seeded).hexdigest()[:16]).write_bytes(seeded)
    work = folder / "work"
    work.mkdir()

    def once(data: bytes) -> None:
        check(name, data, work)

    # What is imported at the first call counts against the time of none.
    for seeded in TARGETS[name].seeds():
        check(name, seeded, work)
    arguments = [
        sys.argv[0], str(corpus), f"-max_total_time={max(1, int(seconds))}", f"-timeout={SECONDS}",
        f"-seed={seed + 1}", f"-rss_limit_mb={GIGABYTES * 1024}", "-max_len=16384", "-print_final_stats=1",
        f"-artifact_prefix={out}/{name}-",
    ]  # fmt: skip
    atheris.Setup(arguments, once)
    atheris.Fuzz()
    return 0


def _mutate(name: str, seconds: float, seed: int, out: Path, folder: Path) -> int:
    from tests.fuzz.targets import TARGETS, check

    def late(_number: int, _frame: Any) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    signal.signal(signal.SIGALRM, late)
    generator, corpus = random.Random(f"{name} {seed}"), list(TARGETS[name].seeds())
    said, end, runs = set(), time.monotonic() + seconds, 0
    while time.monotonic() < end:
        data = mutated(generator, generator.choice(corpus), corpus)
        try:
            signal.alarm(SECONDS)
            line = check(name, data, folder)
            signal.alarm(0)
            if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > GIGABYTES << 20:
                raise MemoryError(f"more than {GIGABYTES} GiB")
        except BaseException as error:
            signal.alarm(0)
            (out / f"{name}-crash-{hashlib.sha256(data).hexdigest()[:16]}").write_bytes(data)
            traceback.print_exc()
            print(f"number_of_executed_units: {runs}", flush=True)
            if isinstance(error, KeyboardInterrupt):
                raise
            return 1
        runs += 1
        # An answer that was not given before is a way that was not gone before, and a place to go on from.
        kind = re.sub(r"\d+|0x[0-9a-f]+", "0", line)[:120]
        if kind not in said and len(corpus) < 2000:
            said.add(kind)
            corpus.append(data)
    print(f"number_of_executed_units: {runs}", flush=True)
    return 0


def mutated(generator: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """A few changes of the kinds that break parsers."""
    changed = bytearray(data)
    for _ in range(generator.choice((1, 1, 2, 3, 8))):
        place = generator.randrange(len(changed) + 1)
        kind = generator.randrange(8)
        if kind == 0 and changed:
            changed[place % len(changed)] ^= 1 << generator.randrange(8)
        elif kind == 1:
            del changed[place:]
        elif kind == 2:
            del changed[place : place + generator.randrange(1, 9)]
        elif kind == 3:
            changed[place:place] = generator.randbytes(generator.randrange(1, 9))
        elif kind == 4:
            width = generator.choice((1, 2, 4, 8))
            value = generator.choice((0, 1, 0x7F, 0x80, 0xFF, 0x7FFFFFFF, 0x80000000, 2**63 - 1, 2**64 - 1)) & (
                (1 << 8 * width) - 1
            )
            changed[place : place + width] = value.to_bytes(width, generator.choice(("little", "big")))
        elif kind == 5:
            end = generator.randrange(len(changed) + 1)
            changed[place:place] = changed[min(place, end) : max(place, end)][:256]
        elif kind == 6:
            other = generator.choice(others)
            start = generator.randrange(len(other) + 1)
            changed[place : place + 64] = other[start : start + 64]
        else:
            changed[place : place + 1] = generator.choice((b"-1", b"1e999", b"NaN", b"9" * 30, b"\0", b"\n", b"[" * 50))
    return bytes(changed[:16384])


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
