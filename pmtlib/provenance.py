"""What ran: versions, hardware, weights, data and commit, beside every stored number."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from pmtlib import __version__, devices, paths, zoo

PACKAGES = ("torch", "torchvision", "numpy", "kornia", "timm", "opencv-contrib-python-headless", "scikit-image")


def manifest(networks: Sequence[str], device: torch.device, *, seconds: float, command: str) -> dict[str, Any]:
    """The circumstances of a computation, as plain JSON values and without any path of the machine.

    Args:
        networks: the networks that took part.
        device: where it ran.
        seconds: how long it took, wall clock.
        command: what a reader types to run it again.
    """
    return {
        "pmtlib": __version__,
        "commit": commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "seconds": round(seconds, 1),
        "command": command,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "hardware": {
            "device": devices.describe(device),
            "system": platform.system(),
            "machine": platform.machine(),
            "processor": processor(),
            # A hypervisor's name for a processor hides its generation, and speed hangs on the widest vectors.
            "vectors": torch.backends.cpu.get_cpu_capability(),
            "cpu_count": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
        },
        "weights": {name: zoo.weights_checksum(name) for name in networks},
    }


def processor() -> str | None:
    """The processor's model, on which last bits depend; None where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def commit() -> str | None:
    """The checkout's commit, with ``+changes`` where ``pmtlib/`` differs from it; None outside a checkout."""
    root = paths.project_dir()

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        revision = git("rev-parse", "--short=12", "HEAD")
        changed = git("status", "--porcelain", "--", "pmtlib")
    except (OSError, subprocess.CalledProcessError):
        return None
    return revision + ("+changes" if changed else "")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
