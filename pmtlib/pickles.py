"""Pickles of numpy arrays, numbers, text and plain containers, from files of others: nothing in them is executed."""

from __future__ import annotations

import os
import pickle
import pickletools
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray


def load(file: BinaryIO, *, encoding: str = "ASCII") -> Any:
    """What a pickle holds.

    Args:
        file: that can be gone through twice, with nothing else in it.
        encoding: of the strings of Python 2; ``bytes`` leaves them bytes.

    Raises:
        pickle.UnpicklingError: it asks for anything but plain arrays of numbers.
        Exception: it is damaged; whatever its opcodes run into.
    """
    _check_memo(file)
    return _plain(_Unpickler(file, encoding=encoding).load(), {})


def _plain(content: Any, done: dict[int, Any]) -> Any:
    """The content with arrays in the place of what stands for them; None for one that was never filled.

    What is in several places is gone through once: a few lists of one another would be millions.
    """
    if isinstance(content, _Values):
        return content.array
    if not isinstance(content, (dict, list, tuple)):
        return content
    if id(content) not in done:
        if isinstance(content, dict):
            named: dict[Any, Any] = {}
            done[id(content)] = named
            named.update({name: _plain(part, done) for name, part in content.items()})
        elif isinstance(content, list):
            several: list[Any] = []
            done[id(content)] = several
            several.extend(_plain(part, done) for part in content)
        else:
            done[id(content)] = tuple(_plain(part, done) for part in content)
    return done[id(content)]


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How protocol 2 pickles carry bytes; any other codec is refused."""
    if encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError(f"the codec {encoding!r}")
    return text.encode("latin1")


def _bytearray(content: Any = b"", encoding: str = "latin1") -> bytes:
    """How bytes that can change are carried; a number would ask for that many bytes."""
    if isinstance(content, str) and encoding in ("latin-1", "latin1"):
        return content.encode("latin1")
    if not isinstance(content, (bytes, bytearray)):
        raise pickle.UnpicklingError(f"a bytearray of {type(content).__name__}")
    return bytes(content)


class _Kind:
    """What stands for a dtype: NumPy's own takes flags and fields from a pickle, and believes them."""

    def __init__(self, code: Any, *_options: Any) -> None:
        text = code.decode("latin1") if isinstance(code, bytes) else code
        if not isinstance(text, str) or not re.fullmatch(r"[<>|=]?[biuf?][0-9]?", text):
            raise pickle.UnpicklingError("an array of Python objects, or of something else than numbers")
        self.dtype = np.dtype(text)

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in (">", b">"):
            self.dtype = self.dtype.newbyteorder(">")


class _Values:
    """What stands for an array that the pickle fills next."""

    array: NDArray[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("an odd array")
        _, shape, kind, fortran, content = state
        self.array = _from_buffer(content, kind, shape, "F" if fortran else "C")


def _ndarray(*_arguments: Any) -> None:
    """Named in pickles as the class of an array and never called by them: NumPy gives memory of any size for it."""
    raise pickle.UnpicklingError("an array without content")


def _array(kind: Any, _shape: Any, _code: Any) -> _Values:
    """An empty array, whose shape and content the pickle sets next."""
    if kind is not _ndarray:
        raise pickle.UnpicklingError(f"an array of {type(kind).__name__}")
    return _Values()


def _from_buffer(content: Any, kind: Any, shape: Any, order: Any, _axes: Any = None) -> NDArray[Any]:
    """How protocol 5 carries an array."""
    if isinstance(content, str):
        # Python 2 wrote bytes that are shown as text; with this reader's encoding they are bytes already.
        content = content.encode("latin1")
    if not isinstance(kind, _Kind) or not isinstance(content, (bytes, bytearray)) or order not in ("C", "F"):
        raise pickle.UnpicklingError("an odd array")
    return np.frombuffer(content, dtype=kind.dtype).reshape(shape, order=order)


def _scalar(kind: Any, content: Any) -> Any:
    if not isinstance(kind, _Kind) or not isinstance(content, bytes):
        raise pickle.UnpicklingError("an odd number")
    return np.frombuffer(content, dtype=kind.dtype, count=1)[0]


_ADMITTED: Mapping[tuple[str, str], Any] = MappingProxyType(
    {
        ("_codecs", "encode"): _encode,
        ("builtins", "bytearray"): _bytearray,
        ("__builtin__", "bytearray"): _bytearray,
        ("numpy", "ndarray"): _ndarray,
        ("numpy", "dtype"): _Kind,
        ("numpy.core.multiarray", "_reconstruct"): _array,
        ("numpy._core.multiarray", "_reconstruct"): _array,
        ("numpy.core.numeric", "_frombuffer"): _from_buffer,
        ("numpy._core.numeric", "_frombuffer"): _from_buffer,
        ("numpy.core.multiarray", "scalar"): _scalar,
        ("numpy._core.multiarray", "scalar"): _scalar,
    }
)


class _Unpickler(pickle.Unpickler):
    """Refuses every class or function beyond plain arrays."""

    def find_class(self, module: str, name: str, /) -> Any:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name}") from None


def _check_memo(file: BinaryIO) -> None:
    """Refuse a pickle that numbers its objects beyond what can be in it: the numbers are the size of a table."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and not 0 <= int(argument or 0) <= size:
            raise pickle.UnpicklingError("a table that is larger than the file")
    file.seek(0)
