"""Where the time and the memory of ``pmt protect`` go on a folder of photographs, decoding and detection included.

    python benchmarks/command.py --json command.json
    python benchmarks/command.py --count 10000 --steps 2 --sides 400 --broken 0.05 --json load.json

The photographs are made from the sample photographs, mirrored, darkened and scaled, no two the same: a JPEG each, the
longer side as ``--sides`` says. ``overlapped`` is the share of the seconds of reading, finding and aligning in which
optimising or writing went on beside them; 1 is all of them. It does not say that they cost the run nothing: on the same
processors each part takes longer for the other. Of every hundred photographs as many as ``--broken`` says are cut off
in the middle: each must get its own line in the report, and the others none of it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import psutil  # type: ignore[import-untyped]

import pmtlib
from pmtlib import datasets, devices, provenance
from pmtlib.images import UInt8Image, write_atomic
from pmtlib.progress import progress_bar

POINTS = 200
"""Most values of the memory that are stored."""


def photographs(sides: Sequence[int]) -> Iterator[UInt8Image]:
    """Photographs RGB (H, W, 3) without end; the sample photographs in turn, sizes and darkness changing."""
    samples = [sample.read() for sample in datasets.sample_photos()]
    turn = 0
    while True:
        scaled = []
        for picture in samples:
            scale = sides[turn % len(sides)] / max(picture.shape[:2])
            size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
            scaled.append(cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC))
        for one in scaled:
            mirrored = one[:, ::-1] if turn // len(sides) % 2 else one
            yield (mirrored * (1 - 0.4 * (turn % 997) / 997)).astype("uint8")
        turn += 1


def write(folder: Path, count: int, sides: Sequence[int], broken: float) -> tuple[int, int]:
    """Write the photographs; returns their bytes and how many are broken."""
    size, cut = 0, 0
    with progress_bar("photographs", count) as advance:
        for place, picture in zip(range(count), photographs(sides), strict=False):
            fine, encoded = cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
            assert fine
            content = encoded.tobytes()
            if int((place + 1) * broken) > int(place * broken):
                content, cut = content[: len(content) // 2], cut + 1
            (folder / f"{place:06d}.jpg").write_bytes(content)
            size += len(content)
            advance(1)
    return size, cut


def watched(command: Sequence[str], output: Path) -> tuple[int, float, list[tuple[float, float]]]:
    """Run a command: its exit code, its seconds, and (second, megabytes of resident memory) four times a second."""
    begun, memory = time.monotonic(), []
    with output.open("wb") as file, subprocess.Popen(command, stdout=file) as process:
        seen = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                memory.append((time.monotonic() - begun, seen.memory_info().rss / 1e6))
            except psutil.Error:
                break
            time.sleep(0.25)
    return process.returncode, time.monotonic() - begun, memory


def thinned(memory: Sequence[tuple[float, float]]) -> dict[str, list[float]]:
    """The highest memory of each of at most :data:`POINTS` stretches of the run."""
    step = max(1, -(-len(memory) // POINTS))
    parts = [memory[start : start + step] for start in range(0, len(memory), step)]
    return {
        "seconds": [round(part[-1][0], 1) for part in parts],
        "megabytes": [round(max(value for _, value in part), 1) for part in parts],
    }


def measured(arguments: argparse.Namespace, folder: Path, broken: int) -> dict[str, Any]:
    """One run of the command in a process of its own.

    Raises:
        SystemExit: the command failed, or its report does not tell of every photograph.
    """
    command = [sys.executable, "-m", "pmtlib", "protect", str(folder / "in"), "-a", arguments.network]
    command += ["-o", str(folder / "out"), "--largest", "--steps", str(arguments.steps), "--json"]
    command += ["--batch-size", str(arguments.batch_size), "--device", arguments.device]
    code, wall, memory = watched(command, folder / "said.json")
    if code not in (0, 1):
        raise SystemExit(f"pmt protect ended with exit code {code}; its message is above")
    said = json.loads((folder / "said.json").read_text("utf-8"))
    stages = said["stages"]
    # A photograph without a face that is large enough has a line for each of them, and no image.
    lines = {row["input"] for row in said["rows"]}
    done = Counter(row["input"] for row in said["rows"] if row["status"] == "done")
    unread = sum("truncated or broken" in (row["reason"] or "") for row in said["rows"])
    pictures = sum(1 for _ in (folder / "out").glob("*.png"))
    if (
        len(lines) != arguments.count
        or max(done.values(), default=0) > 1
        or unread != broken
        or pictures != said["done"]
    ):
        raise SystemExit(
            f"error: {arguments.count} photographs, {broken} of them broken, gave {len(said['rows'])} lines on "
            f"{len(lines)} photographs, {unread} of broken ones, and {pictures} images of {said['done']}"
        )
    hidden = sum(stages.values()) - said["seconds"]
    return {
        "photographs": said["photographs"],
        "done": said["done"],
        "failed": said["failed"],
        "broken": broken,
        "wall_seconds": round(wall, 2),
        "run_seconds": said["seconds"],
        "stages": stages,
        "shares": {name: round(seconds / said["seconds"], 4) for name, seconds in stages.items()},
        "overlapped": round(min(max(hidden / stages["finding"], 0.0), 1.0), 4) if stages["finding"] else None,
        "photographs_a_second": round(said["photographs"] / said["seconds"], 3),
        "over_optimising": round(said["seconds"] / stages["optimising"], 4) if stages["optimising"] else None,
        "memory": thinned(memory),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="photographs")
    parser.add_argument("--network", default="mobilefacenet")
    parser.add_argument("--steps", type=int, default=pmtlib.PMTConfig().steps)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--sides", type=int, nargs="+", default=[400, 800, 1200, 1600], help="longer sides, pixels")
    parser.add_argument("--broken", type=float, default=0.0, help="share of photographs that are cut off")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    if min(arguments.count, arguments.steps, arguments.batch_size, *arguments.sides) < 1:
        parser.error("--count, --steps, --batch-size and --sides must be 1 or more")
    if not 0 <= arguments.broken < 1:
        parser.error("--broken must be at least 0 and below 1")
    device = devices.resolve(arguments.device)
    arguments.device = str(device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        size, broken = write(folder / "in", arguments.count, arguments.sides, arguments.broken)
        found = measured(arguments, folder, broken)
    found |= {name: getattr(arguments, name) for name in ("network", "steps", "batch_size", "sides")}
    found["megabytes_read"] = round(size / 1e6, 1)
    # Where the numbers go and by what path the script was named say nothing of how they came about.
    options = f"--count {arguments.count} --network {arguments.network} --steps {arguments.steps}"
    options += f" --batch-size {arguments.batch_size} --sides {' '.join(map(str, arguments.sides))}"
    command = f"python benchmarks/command.py {options} --broken {arguments.broken:g} --device {arguments.device}"
    found["manifest"] = provenance.manifest([arguments.network], device, seconds=found["wall_seconds"], command=command)
    for name in ("done", "failed", "run_seconds", "photographs_a_second", "over_optimising", "overlapped"):
        print(f"{name.replace('_', ' '):24} {found[name]}")
    for name, seconds in found["stages"].items():
        print(f"{name:24} {seconds:10.1f} s   {100 * found['shares'][name]:5.1f}% of the run")
    values = found["memory"]["megabytes"]
    if values:
        print(
            f"resident memory          {values[len(values) // 4]:.0f} MB after a quarter, at most {max(values):.0f} MB"
        )
    if arguments.json:
        write_atomic(arguments.json, (json.dumps(found, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
