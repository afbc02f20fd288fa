"""Which device to compute on."""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping

import torch

from pmtlib.errors import ConfigError

_RANKS = ("LOCAL_RANK", "SLURM_LOCALID")
"""Variables in which torchrun and Slurm tell a process its number on its machine."""


def resolve(device: str = "auto") -> torch.device:
    """``auto`` is the first CUDA device, else Apple's GPU, else the processor; any torch device name is taken.

    ``auto:3`` is for the fourth process of a machine, and takes the CUDA devices in turn.

    Raises:
        ConfigError: the device is not known or not there.
    """
    kind, _, number = device.partition(":")
    if kind == "auto" and (not number or number.isdecimal()):
        if torch.cuda.is_available():
            return torch.device("cuda", int(number) % torch.cuda.device_count()) if number else torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {device!r} cannot be used ({reason}); try --device cpu") from error
    return chosen


def processors() -> int:
    """How many processors this process may use, at least one."""
    known = getattr(os, "sched_getaffinity", None)
    return (len(known(0)) if known is not None else os.cpu_count()) or 1


def for_process(device: str, environment: Mapping[str, str]) -> str:
    """The device of one of several processes on a machine: those that torchrun or Slurm started take the GPUs in turn.

    Args:
        device: as for :func:`resolve`; one that is named in full stays.
        environment: the process's own variables.

    Raises:
        ConfigError: ``cuda`` is asked for and not there.
    """
    rank = next((environment[name] for name in _RANKS if environment.get(name, "").isdecimal()), None)
    if rank is None or device not in ("auto", "cuda"):
        return device
    if device == "cuda":
        resolve(device)
    return f"auto:{rank}"


def describe(device: torch.device) -> str:
    """A device in words, for manifests: the GPU's name, or ``cpu``."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def crawls(device: torch.device, precision: str) -> bool:
    """Whether a device computes in less than float32 far more slowly than in float32: processors with AVX2 at most."""
    narrow = torch.backends.cpu.get_cpu_capability() in ("NO AVX", "AVX2")
    return device.type == "cpu" and precision != "float32" and narrow


_TOO_LITTLE = (
    "can't allocate memory",
    "out of memory",
    # cuBLAS, cuSOLVER and cuDNN, whose workspaces torch does not allocate; the longer form is that of cuDNN 9.
    "_ALLOC_FAILED",
    "_ALLOCATION_FAILED",
    # Apple's GPUs, for a single tensor above their limit.
    "Invalid buffer size",
)
"""What errors of no kind of their own say where memory does not suffice: on processors, Apple's GPUs, in libraries."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a computation failed because memory did not suffice, on any kind of device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _TOO_LITTLE)


def release(device: torch.device) -> None:
    """Give memory back that nothing holds any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
