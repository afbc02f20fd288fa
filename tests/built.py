"""The book as a reader builds it: once for all tests that look at it, in whatever process they run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pmtlib.paths import exclusive

ROOT = Path(__file__).resolve().parent.parent


def toc_entries() -> list[str]:
    found: list[str] = []

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                if key in ("root", "file"):
                    found.append(value)
                else:
                    walk(value)
        elif isinstance(node, list):
            for part in node:
                walk(part)

    walk(yaml.safe_load((ROOT / "_toc.yml").read_text()))
    return found


def build(factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What ``jupyter-book build book/`` makes of a copy that holds only what the build may need, and what it printed.

    Processes of one run of pytest share it: the folder above that of a process of pytest-xdist is the run's own.
    """
    base = factory.getbasetemp()
    home = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    copy, told = home / "book", home / "book.json"
    with exclusive(home):
        if not told.is_file():
            shutil.rmtree(copy, ignore_errors=True)
            told.write_text(json.dumps(_build(copy)), encoding="utf-8")
    returncode, output = json.loads(told.read_text(encoding="utf-8"))
    problems = [line for line in output.splitlines() if re.search(r"\b(WARNING|ERROR|CRITICAL)\b", line)]
    assert returncode == 0, "\n".join(problems) or output[-3000:]
    return copy, output


def _build(copy: Path) -> tuple[int, str]:
    copy.mkdir()
    for name in ("_config.yml", "_toc.yml", "CHANGELOG.md"):
        shutil.copy(ROOT / name, copy / name)
    shutil.copytree(ROOT / "book", copy / "book", symlinks=True, ignore=shutil.ignore_patterns("_build"))
    command = [Path(sys.executable).parent / "jupyter-book", "build", "book/", "-n", "-W", "--keep-going"]
    done = subprocess.run(
        command, cwd=copy, capture_output=True, text=True, stdin=subprocess.DEVNULL, env={**os.environ, "NO_COLOR": "1"}
    )
    return done.returncode, re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
