"""Variants of the transform, by name. Each is a configuration of its own: :func:`pmtlib.transform.protect` takes any.

>>> from pmtlib.transform import protect
>>> result = protect(images, [shallow], VARIANTS["decoy"].config())  # doctest: +SKIP
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from pmtlib import filters, transform
from pmtlib.errors import ConfigError
from pmtlib.transform import PMTConfig
from pmtlib.variants import deep
from pmtlib.variants.decoy import DecoyConfig

PLAIN = "pmt"
"""The transform as published."""


class Method(NamedTuple):
    """A way to protect.

    Attributes:
        config: its configuration.
        summary: what it is, one line.
        cut: where the networks are cut unless another cut is asked for (:func:`pmtlib.shallow.resolve_cut`); None for
            each network's own default.
    """

    config: type[PMTConfig]
    summary: str
    cut: str | None = None


VARIANTS: Mapping[str, Method] = MappingProxyType(
    {
        PLAIN: Method(PMTConfig, "the transform as published (Algorithm 1 and 2, Eq. 8)"),
        "decoy": Method(
            DecoyConfig, "experimental: the same features, low frequencies pulled to a face that is nobody's"
        ),
        "deep": Method(
            deep.DeepConfig, "only the last shared map is matched, and the network is shared up to 7x7", cut=deep.CUT
        ),
    }
)
"""Every variant by its name."""


def find(name: str) -> Method:
    """A variant by its name.

    Raises:
        ConfigError: there is no such variant.
    """
    if name not in VARIANTS:
        raise ConfigError(f"no variant {name!r}; there are {', '.join(VARIANTS)}")
    return VARIANTS[name]


def name_of(config: PMTConfig) -> str:
    """The name of the variant that a configuration belongs to.

    Plain PMT has no field for it: the keys of results stored before there were variants stay what they were.
    """
    return str(getattr(config, "variant", PLAIN))


def code_digest(config: PMTConfig) -> str:
    """sha256 over the code that makes an upload of a configuration; caches of uploads are out of date without it."""
    files = [Path(transform.__file__)]
    if name_of(config) != PLAIN:
        files += [Path(filters.__file__), *sorted(Path(__file__).parent.glob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
