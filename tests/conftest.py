"""What tests of the command share, and those of variants of the transform."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from pmtlib.cli import main
from pmtlib.shallow import ShallowModel
from tests.built import build
from tests.small_network import SmallNetwork

# Networks that the developer has added are no part of what is tested; the folder is never made.
os.environ["PMT_NETWORKS"] = str(Path(tempfile.gettempdir()) / "pmtlib-tests-have-no-added-networks")


LONGEST = (
    "test_notebooks", "test_cluster", "test_browser", "test_book", "test_audit", "test_interruption", "test_adding",
    "test_fused", "test_costs", "test_experiments_audit_beyond", "test_training", "test_runner", "test_hostile",
    "test_printing",
)  # fmt: skip
"""Files that take minutes, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: a file is one worker's, and the others shall not wait for the last one."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which the book was built (``_build/html`` in it), and what the build printed."""
    return build(tmp_path_factory)


@pytest.fixture
def images() -> torch.Tensor:
    """Three images of noise, (3, 3, 32, 32)."""
    return torch.rand((3, 3, 32, 32), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def shallow() -> ShallowModel:
    """A network that can be followed by hand, cut at a map of 8x8."""
    return ShallowModel(SmallNetwork(), 2)


class Done:
    """What a call of the command left: exit code and output."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def error(self) -> str:
        """The one line of the error, or a failure where it is not one line."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        return lines[0].removeprefix("error: ")


@pytest.fixture
def pmt(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("COLUMNS", "100")

    def call(*arguments: object) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as leave:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert isinstance(leave.value.code, int)
        return Done(leave.value.code, captured.out, captured.err)

    return call
