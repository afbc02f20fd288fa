"""Weights converted to the names of our own modules: safetensors files in the cache, checked whenever they are read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from pmtlib import assets, cache
from pmtlib.errors import NetworkError
from pmtlib.images import write_atomic

_CONTENT = "content-sha256"
_Module = TypeVar("_Module", bound=nn.Module)


def checksum(asset_names: Sequence[str], conversion: int) -> str:
    """SHA-256 that stands for converted weights: of their assets' checksums and the version of their conversion.

    It comes from the asset table alone; no file is needed.
    """
    parts = sorted(assets.ASSETS[asset].sha256 for asset in asset_names)
    return hashlib.sha256("\n".join([*parts, f"conversion {conversion}"]).encode()).hexdigest()


def location(name: str, weights: str) -> Path:
    """Where converted weights are kept, by the network's name and their :func:`checksum`; the file need not exist."""
    return cache.folder("converted") / f"{name}-{weights[:12]}.safetensors"


def load(name: str, path: Path, build: Callable[[], _Module], convert: Callable[[], Mapping[str, Tensor]]) -> _Module:
    """A network with its weights, frozen, in evaluation mode, on the CPU.

    The weights are read from ``path``, and converted and written there where it is absent, damaged or foreign. The
    global random state of torch is left as it was.

    Args:
        name: what errors call the network.
        path: the converted file.
        build: gives the architecture, its parameters at random.
        convert: gives its state dict from the original files.

    Raises:
        NetworkError: the weights do not fit the architecture, or the file cannot be written.
        AssetError: an original file cannot be had.
    """
    with torch.random.fork_rng(devices=[]):
        network = build()
    state = read(path)
    if state is None or not _fits(network, state):
        state = {key: tensor.detach().contiguous() for key, tensor in convert().items()}
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise NetworkError(
                f"the weights of {name} do not fit its architecture: {reason}; upgrade pmtlib"
            ) from error
        write(path, state)
    return network.eval().requires_grad_(False)


def read(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a converted file, or None where it is absent or not what was written."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, RuntimeError, safetensors.SafetensorError):
        # The second of these is torch's, which opens the file once more: another process may have taken it away since.
        return None
    return state if metadata.get(_CONTENT) == _digest(state) else None


def write(path: Path, state: dict[str, Tensor]) -> None:
    """Write tensors with a digest of their content, whole or not at all.

    Raises:
        NetworkError: the file cannot be written.
    """
    content = safetensors.torch.save(state, metadata={_CONTENT: _digest(state)})
    try:
        write_atomic(path, content)
    except OSError as error:
        raise NetworkError(
            f"cannot write {path} ({error.strerror}); set PMT_CACHE to a folder with room that you may write to"
        ) from error


def _fits(network: nn.Module, state: Mapping[str, Tensor]) -> bool:
    try:
        network.load_state_dict(state)
    except RuntimeError:
        return False
    return True


def _digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and bytes of the tensors."""
    digest = hashlib.sha256()
    for key in sorted(state):
        tensor = state[key]
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
