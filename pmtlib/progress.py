"""One progress bar for terminals and notebooks.

In a notebook the bar disappears when the work is done, so that an executed notebook holds results only.
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


@contextmanager
def progress_bar(description: str, total: int, *, show: bool = True) -> Iterator[Advance]:
    """Yield a function that advances a bar of ``total`` units; the bar is on standard error."""
    if not show or total <= 0:
        yield lambda _count: None
    elif _in_kernel():
        yield from _kernel_bar(description, total)
    else:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
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
    done, shown, begun = 0, 0.0, time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, shown
        done += count
        now = time.monotonic()
        if now - shown >= 1.0:
            shown = now
            left = (now - begun) * (total - done) / max(done, 1)
            text = f"{description}: {done} of {total}, about {left:.0f} s left"
            handle.update({"text/plain": text}, raw=True)

    try:
        yield advance
    finally:
        handle.update({"text/plain": ""}, raw=True)
