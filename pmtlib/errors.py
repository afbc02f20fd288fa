"""Errors that a user can act on.

Every error that reaches the command line is one line that names what is wrong and what to do about it.
"""

from __future__ import annotations


class PMTError(Exception):
    """Base class. The message is one line: what is wrong, with which file or name, and the remedy."""


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
