"""Errors that a user can act on.

Every error that reaches the command line is one line that names what is wrong and what to do about it.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import warnings
from types import FrameType
from typing import TextIO

_LONGEST = 900
"""Characters of a message, of which names in hostile files would make thousands."""


def one_line(text: str) -> str:
    """Text fit for one line of a terminal: control characters and undecodable bytes are spelled out."""
    decoded = text.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in decoded)


class PMTError(Exception):
    """Base class. The message is one line: what is wrong, with which file or name, and the remedy.

    Control characters, of names in files that others have made, are spelled out, and the middle of a very long message
    is left out.
    """

    def __init__(self, message: str = "") -> None:
        line = one_line(message)
        super().__init__(line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} … {line[-_LONGEST // 3 :]}")


class AssetError(PMTError):
    """A weight or image file cannot be had or is not what it should be."""


class NetworkError(PMTError):
    """A network cannot be built, loaded or trusted."""


class PhotoError(PMTError):
    """A photograph cannot be read, or holds no usable face."""


class DatasetError(PMTError):
    """A data set is absent, incomplete or malformed."""


class ConfigError(PMTError):
    """A configuration value is impossible."""


class ResultError(PMTError):
    """A stored result is absent, stale or damaged."""


class SlowWarning(UserWarning):
    """Something is computed far more slowly than it could be on this machine; the message ends in the remedy."""


def show_slowness() -> None:
    """From now on show each :class:`SlowWarning` as a line on standard error, whatever becomes of other warnings."""
    usual = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if not issubclass(category, SlowWarning):
            usual(message, category, filename, lineno, file, line)
            return
        # A reader that is gone must not end the work.
        with contextlib.suppress(OSError):
            print(f"warning: {one_line(str(message))}", file=sys.stderr, flush=True)

    warnings.showwarning = show
    warnings.simplefilter("always", SlowWarning)


SIGNALS: list[int] = []
"""The signals that ask the command to end, as they came."""


def interrupt(number: int, frame: FrameType | None) -> None:
    """Python's own handler of Ctrl-C, which also notes the signal: a library may lose the KeyboardInterrupt."""
    SIGNALS.append(number)
    signal.default_int_handler(number, frame)


def interrupted(error: BaseException | None) -> bool:
    """Whether an error came of Ctrl-C: an extension that is being loaded then says only that it failed."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None
