"""One progress bar for terminals, notebooks and logs.

In a notebook the bar disappears when the work is done, so that an executed notebook holds results only. Where standard
error goes to a file there is a line now and then.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Advance = Callable[[int], None]
_LOGGED_EVERY = 60.0
"""Seconds between lines in a log."""


@contextmanager
def progress_bar(description: str, total: int, *, show: bool = True) -> Iterator[Advance]:
    """Yield a function that advances a bar of ``total`` units; the bar is on standard error."""
    if not show or total <= 0:
        yield lambda _count: None
    elif _in_kernel():
        yield from _kernel_bar(description, total)
    elif not (console := Console(stderr=True)).is_terminal:
        with _throttled(
            description, total, _LOGGED_EVERY, lambda text: print(text, file=sys.stderr, flush=True)
        ) as log:
            yield log
    else:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task(description, total=total)
            yield lambda count: progress.advance(task, count)


def _in_kernel() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


def _kernel_bar(description: str, total: int) -> Iterator[Advance]:
    from IPython import display

    show: Any = display.display  # IPython has no types here
    handle = show({"text/plain": description}, raw=True, display_id=True)
    try:
        with _throttled(description, total, 1.0, lambda text: handle.update({"text/plain": text}, raw=True)) as advance:
            yield advance
    finally:
        handle.update({"text/plain": ""}, raw=True)


@contextmanager
def _throttled(description: str, total: int, every: float, tell: Callable[[str], Any]) -> Iterator[Advance]:
    """Tell how far it is, at most once in so many seconds."""
    done = 0
    begun = told = time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, told
        done += count
        now = time.monotonic()
        if now - told >= every and done < total:
            told = now
            left = (now - begun) * (total - done) / max(done, 1)
            tell(f"{description}: {done} of {total}, about {left:.0f} s left")

    yield advance
