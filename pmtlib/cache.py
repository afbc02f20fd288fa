"""What is kept in the user's cache, where, and how to be rid of it.

Every kind has a folder of its own, which only the user can open. The cache holds nothing of the photographs that
``pmt protect`` and ``pmt verify`` are given: no photograph, crop or feature. ``pmt audit --learn`` and the experiments
keep what they made of the photographs that they were told to learn from.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from pmtlib.errors import ConfigError, ResultError
from pmtlib.paths import cache_dir

KINDS: Mapping[str, str] = MappingProxyType(
    {
        "assets": "weights and sample photographs, as they were fetched",
        "converted": "weights of public networks in the form that is read here",
        "protected": "uploads that experiments made of the photographs of data sets",
        "pairs": "uploads made of other people's photographs, for an attacker to learn from",
        "recface": "trained reconstruction networks, and the state of their training",
        "inverter": "the same, trained on features of uploads",
        "deobfuscator": "trained networks that restore faces, and the state of their training",
        "translator": "trained heads that translate features, and the state of their training",
        "head": "trained heads on shared shallow models, and the state of their training",
        "stitched": "recognisers completed from shared shallow models, and the state of their training",
        "recogniser": "recognition networks trained by the experiments, and the state of their training",
        "loops": "loops for this processor, built from C",
    }
)
"""Every kind of thing that is cached, and what it is."""


class Usage(NamedTuple):
    """What one kind takes.

    Attributes:
        kind: a name of :data:`KINDS`.
        files: number of files.
        size: their bytes.
    """

    kind: str
    files: int
    size: int


def folder(kind: str) -> Path:
    """The folder of a kind, which need not exist; :func:`pmtlib.paths.make_folder` makes it, for the user alone."""
    assert kind in KINDS, kind
    return cache_dir() / kind


def usage() -> list[Usage]:
    """What each kind takes, in the order of :data:`KINDS`; links are not followed."""
    found = []
    for kind in KINDS:
        files, size = 0, 0
        for parent, _, names in os.walk(cache_dir() / kind):
            for name in names:
                with contextlib.suppress(OSError):
                    size += (Path(parent) / name).lstat().st_size
                    files += 1
        found.append(Usage(kind, files, size))
    return found


def clear(kinds: Iterable[str] = ()) -> list[Usage]:
    """Delete what is cached of these kinds, or all of them; other files in the cache's folder stay.

    What is deleted is fetched or computed again when it is needed. A run that is using it may have to be started anew.

    Returns:
        What was there.

    Raises:
        ConfigError: there is no such kind.
        ResultError: a file cannot be deleted; what could be is gone.
    """
    chosen = list(dict.fromkeys(kinds)) or list(KINDS)
    unknown = [kind for kind in chosen if kind not in KINDS]
    if unknown:
        raise ConfigError(f"nothing called {unknown[0]!r} is cached; there are {', '.join(KINDS)}")
    before = [one for one in usage() if one.kind in chosen]
    for kind in chosen:
        place = cache_dir() / kind
        try:
            # A link is taken away and what it points to is left: it is not the cache's.
            if place.is_symlink():
                place.unlink()
            elif place.exists():
                shutil.rmtree(place)
        except OSError as error:
            raise ResultError(
                f"{error.filename or place} cannot be deleted ({error.strerror}). Remedy: check its permissions"
            ) from error
    return before
