"""The state of a training in a folder: read with care, written whole, and never gone on with by another training."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pmtlib.errors import ConfigError, ResultError
from pmtlib.images import write_atomic


def read_state(path: Path) -> dict[str, Any]:
    """What :func:`write_state` wrote, on the CPU; tensors and plain containers alone are read.

    Raises:
        ResultError: the file is damaged.
    """
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no error of its own for a damaged file
        raise ResultError(f"{path} is damaged; {afresh(path.parent)}") from error
    return state


def afresh(folder: Path | None) -> str:
    """What is left to do where a training cannot go on: commands on a folder of one's own have --fresh, others not."""
    return f"start afresh with --fresh, or delete {folder}"


def write_state(path: Path, state: Any) -> None:
    """Write a state, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomic(path, buffer.getvalue())


def refuse_another(folder: Path, title: str, stored: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Check that a folder's training is the one that is asked for.

    Args:
        folder: the folder.
        title: what is trained.
        stored: what the folder says of its training.
        record: the same of the training that is asked for.

    Raises:
        ConfigError: the two differ.
    """
    differing = [name for name, value in record.items() if stored.get(name) != value]
    if differing:
        raise ConfigError(
            f"{folder} holds another {title} (other {', '.join(differing)}); name another folder, or {afresh(folder)}"
        )
