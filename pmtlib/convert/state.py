"""The last step of every conversion: tensors that fit an architecture exactly, or one clear error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pmtlib.errors import NetworkError

REMEDY = "fetch the original file again"
"""What a user can do about a weight file that does not hold what its reader expects."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type: foreign libraries write several."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def fitted(state: Mapping[str, Tensor], build: Callable[[], nn.Module], source: Path) -> dict[str, Tensor]:
    """``state`` as contiguous float32 tensors, if its names and shapes are those of the architecture.

    Args:
        state: parameters and running statistics under the architecture's names.
        build: makes the architecture; called on the meta device, so it costs no memory.
        source: the file that ``state`` was read from, for the message.

    Raises:
        NetworkError: a tensor is missing, superfluous, of another shape, or not finite.
    """
    with torch.device("meta"):
        expected = {
            name: tuple(tensor.shape)
            for name, tensor in build().state_dict().items()
            if not name.endswith("num_batches_tracked")
        }
    if missing := sorted(expected.keys() - state.keys()):
        raise NetworkError(f"{source}: no weights for {missing[0]} ({len(missing)} missing); {REMEDY}")
    if unknown := sorted(state.keys() - expected.keys()):
        raise NetworkError(f"{source}: weights for an unknown {unknown[0]} ({len(unknown)} too many); {REMEDY}")
    result: dict[str, Tensor] = {}
    for name, shape in expected.items():
        tensor = state[name].detach().to("cpu", torch.float32).contiguous()
        if tuple(tensor.shape) != shape:
            raise NetworkError(f"{source}: {name} has shape {tuple(tensor.shape)}, not {shape}; {REMEDY}")
        if not bool(torch.isfinite(tensor).all()):
            raise NetworkError(f"{source}: {name} holds values that are not finite; {REMEDY}")
        result[name] = tensor
    return result
