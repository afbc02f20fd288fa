"""Privacy minimization transformation (PMT) of face images: the transform, the attacks, the measurements.

The public API in one screen; everything is loaded when first used, so that importing the package is quick.

    >>> import pmtlib
    >>> shallow = pmtlib.ShallowModel(pmtlib.load_network("mobilefacenet"), cut=5)
    >>> crop = pmtlib.faces.extract("photo.jpg", largest=True)[0].image
    >>> result = pmtlib.protect(pmtlib.to_tensor([crop]), [shallow], pmtlib.PMTConfig())
    >>> upload = pmtlib.png_bytes(pmtlib.to_uint8(result.images)[0])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "PMTConfig": "transform",
    "Protected": "transform",
    "protect": "transform",
    "ShallowModel": "shallow",
    "ServerModel": "shallow",
    "load_network": "zoo",
    "network_names": "zoo",
    "load_pairs": "datasets",
    "to_tensor": "images",
    "to_uint8": "images",
    "png_bytes": "images",
    "PMTError": "errors",
}
_RENAMED = {"load_network": "load", "network_names": "names", "load_pairs": "load"}
_MODULES = (
    "assets",
    "datasets",
    "experiments",
    "faces",
    "figures",
    "images",
    "metrics",
    "protocols",
    "variants",
    "zoo",
)

__all__ = [
    "PMTConfig",
    "PMTError",
    "Protected",
    "ServerModel",
    "ShallowModel",
    "load_network",
    "load_pairs",
    "network_names",
    "png_bytes",
    "protect",
    "to_tensor",
    "to_uint8",
]

if TYPE_CHECKING:
    from pmtlib.datasets import load as load_pairs
    from pmtlib.errors import PMTError
    from pmtlib.images import png_bytes, to_tensor, to_uint8
    from pmtlib.shallow import ServerModel, ShallowModel
    from pmtlib.transform import PMTConfig, Protected, protect
    from pmtlib.zoo import load as load_network
    from pmtlib.zoo import names as network_names


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"pmtlib.{_HOME[name]}"), _RENAMED.get(name, name))
    if name in _MODULES:
        return importlib.import_module(f"pmtlib.{name}")
    raise AttributeError(f"module 'pmtlib' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME, *_MODULES])
