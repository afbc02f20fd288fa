"""Where the time of ``pmt protect`` goes on a folder of photographs, decoding and detection included.

    python benchmarks/command.py --count 1000 --json command.json

The photographs are made from the sample photographs, mirrored, darkened and scaled, no two the same: a JPEG each, the
longer side 400 to 1,600 pixels. Each is one line of the report. ``overlapped`` is the share of the seconds of reading,
finding and aligning that cost the run nothing, because the optimisation went on beside them; 1 is all of them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2

import pmtlib
from pmtlib import datasets, devices, provenance
from pmtlib.images import UInt8Image, write_atomic
from pmtlib.progress import progress_bar

SIDES = (400, 800, 1200, 1600)


def photograph(place: int) -> UInt8Image:
    """The photograph at a place in the folder, RGB (H, W, 3)."""
    samples = datasets.sample_photos()
    picture = samples[place % len(samples)].read()
    turn = place // len(samples)
    side = SIDES[turn % len(SIDES)]
    scale = side / max(picture.shape[:2])
    size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
    scaled = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    if turn // len(SIDES) % 2:
        scaled = scaled[:, ::-1]
    # Darker from turn to turn, so that no two photographs have the same bytes.
    darker: UInt8Image = (scaled * (1 - 0.4 * (turn % 97) / 97)).astype("uint8")
    return darker


def write(folder: Path, count: int) -> int:
    """Write the photographs; returns their bytes."""
    with progress_bar("photographs", count) as advance:
        for place in range(count):
            fine, encoded = cv2.imencode(".jpg", photograph(place)[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
            assert fine
            (folder / f"{place:05d}.jpg").write_bytes(encoded.tobytes())
            advance(1)
    return sum(file.stat().st_size for file in folder.iterdir())


def measured(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One run of the command in a process of its own."""
    command = [sys.executable, "-m", "pmtlib", "protect", str(folder / "in"), "-a", arguments.network]
    command += ["-o", str(folder / "out"), "--largest", "--steps", str(arguments.steps), "--json"]
    command += ["--batch-size", str(arguments.batch_size), "--device", arguments.device]
    begun = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    wall = time.monotonic() - begun
    if done.returncode not in (0, 1):
        raise SystemExit(f"pmt protect ended with exit code {done.returncode}; its message is above")
    said = json.loads(done.stdout)
    stages = said["stages"]
    hidden = sum(stages.values()) - said["seconds"]
    return {
        "photographs": said["photographs"],
        "done": said["done"],
        "failed": said["failed"],
        "wall_seconds": round(wall, 2),
        "run_seconds": said["seconds"],
        "stages": stages,
        "shares": {name: round(seconds / said["seconds"], 4) for name, seconds in stages.items()},
        "overlapped": round(min(max(hidden / stages["finding"], 0.0), 1.0), 4) if stages["finding"] else None,
        "photographs_a_second": round(said["photographs"] / said["seconds"], 3),
        "over_optimising": round(said["seconds"] / stages["optimising"], 4) if stages["optimising"] else None,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="photographs")
    parser.add_argument("--network", default="mobilefacenet")
    parser.add_argument("--steps", type=int, default=pmtlib.PMTConfig().steps)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    if min(arguments.count, arguments.steps, arguments.batch_size) < 1:
        parser.error("--count, --steps and --batch-size must be 1 or more")
    device = devices.resolve(arguments.device)
    arguments.device = str(device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        size = write(folder / "in", arguments.count)
        found = measured(arguments, folder)
    found |= {"steps": arguments.steps, "network": arguments.network, "megabytes_read": round(size / 1e6, 1)}
    # Where the numbers go and by what path the script was named say nothing of how they came about.
    options = f"--count {arguments.count} --network {arguments.network} --steps {arguments.steps}"
    command = f"python benchmarks/command.py {options} --batch-size {arguments.batch_size} --device {arguments.device}"
    found["manifest"] = provenance.manifest([arguments.network], device, seconds=found["wall_seconds"], command=command)
    for name in ("run_seconds", "photographs_a_second", "over_optimising", "overlapped"):
        print(f"{name.replace('_', ' '):24} {found[name]}")
    for name, seconds in found["stages"].items():
        print(f"{name:24} {seconds:10.1f} s   {100 * found['shares'][name]:5.1f}% of the run")
    if arguments.json:
        write_atomic(arguments.json, (json.dumps(found, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
