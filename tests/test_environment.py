"""pyproject.toml, requirements.lock, environment.yml and the release files say the same thing."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from pmtlib import __version__

ROOT = Path(__file__).resolve().parent.parent
LOCK = (ROOT / "requirements.lock").read_text()
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = ("attributes", "book", "dev")
ASKED_FOR: list[str] = [
    *PROJECT["dependencies"],
    *(row for extra in EXTRAS for row in PROJECT["optional-dependencies"][extra]),
]
# What the lock must serve: both Python versions on the three systems.
ENVIRONMENTS = [
    {
        "python_version": version,
        "python_full_version": f"{version}.9",
        "sys_platform": system,
        "platform_machine": machine,
    }
    for version in ("3.11", "3.12")
    for system, machine in (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"), ("win32", "AMD64"))
]


def locked() -> list[tuple[str, str, Marker | None, list[str]]]:
    """(canonical name, version, marker, hashes) of each pin."""
    pins = []
    for block in re.split(r"\n(?=[a-z0-9])", LOCK):
        joined = block.replace("\\\n", " ")
        match = re.match(r"([a-z0-9][\w.-]*)==(\S+)\s*(?:;\s*(.*?))?\s+--hash", joined)
        if match:
            marker = Marker(match[3]) if match[3] else None
            pins.append((canonicalize_name(match[1]), match[2], marker, re.findall(r"--hash=(\S+)", joined)))
    return pins


def test_the_lock_is_made_of_hashed_pins_only() -> None:
    pins = locked()
    statements = [line for line in LOCK.splitlines() if line and not line.startswith((" ", "#"))]
    assert len(pins) == len(statements) > 100
    for name, _, _, hashes in pins:
        assert hashes, name
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in hashes), name


@pytest.mark.parametrize("row", ASKED_FOR)
def test_the_lock_satisfies(row: str) -> None:
    wanted = Requirement(row)
    for environment in ENVIRONMENTS:
        versions = [
            version
            for name, version, marker, _ in locked()
            if name == canonicalize_name(wanted.name) and (marker is None or marker.evaluate(environment))
        ]
        assert len(versions) == 1, (environment, versions)
        assert wanted.specifier.contains(versions[0], prereleases=True)


@pytest.mark.parametrize("name", ["requirements.lock", "environment.yml", "pyproject.toml"])
def test_no_address_of_an_index_is_written_down(name: str) -> None:
    text = (ROOT / name).read_text()
    assert not re.search(
        r"\w+://|--(?:extra-)?index-url|--find-links|--trusted-host", text.replace("--no-emit-index-url", "")
    )
    assert not re.search(r"\b[\w-]+\.(?:org|com|net|io|dev)\b", text)


def test_the_lock_says_the_command_that_make_lock_runs() -> None:
    header = re.search(r"^#\s+(uv pip compile .*)$", LOCK, re.MULTILINE)
    assert header
    done = subprocess.run(["make", "--dry-run", "lock"], cwd=ROOT, capture_output=True, text=True)
    assert header[1] in done.stdout


def test_the_conda_environment_asks_for_what_the_project_asks_for() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["channels"] == ["conda-forge"]
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip == [*ASKED_FOR, "-e ."]
    plain = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (python,) = [entry for entry in plain if entry.startswith("python ")]
    assert SpecifierSet(python.removeprefix("python ")) == SpecifierSet(PROJECT["requires-python"])
    assert {"pip", "nodejs"} <= set(plain)


def test_version_and_paper_are_the_same_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    released = re.search(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released
    assert released[1] in (__version__, "Unreleased")
    assert citation["version"] == __version__
    assert citation["license"] == PROJECT["license"] == "MIT"
    paper = citation["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == ["Pu", "Chen", "Pan", "Yan", "Zhang", "Ji"]
    assert paper["doi"] in (ROOT / "README.md").read_text()
    assert paper["doi"] in (ROOT / "book" / "references.bib").read_text()
