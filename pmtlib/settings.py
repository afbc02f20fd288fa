"""The transform's configuration as a YAML file: what ``pmt config`` writes and ``pmt protect --config`` reads."""

from __future__ import annotations

import inspect
import re
import reprlib
import textwrap
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from pmtlib.errors import ConfigError
from pmtlib.intake import shown
from pmtlib.transform import PMTConfig
from pmtlib.variants import PLAIN, VARIANTS, find

_Model = TypeVar("_Model", bound=BaseModel)
_LARGEST = 1 << 20
"""Bytes of the largest file that is read: a configuration has some kilobytes."""
_HINT = "`pmt config` prints one to start from"
_FIELDS = "`pmt config` prints them all, with --variant those of a variant"
_BRIEF = reprlib.Repr()
_BRIEF.maxlevel, _BRIEF.maxstring, _BRIEF.maxother = 2, 62, 62


class _Loader(yaml.SafeLoader):
    """YAML in which a key may not occur twice: which of the two counts would be a guess."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = set()
    for place, _ in node.value:
        key = loader.construct_object(place)
        if not isinstance(key, Hashable):
            raise yaml.constructor.ConstructorError(None, None, "a key is a list or a mapping", node.start_mark)
        if key in keys:
            raise yaml.constructor.ConstructorError(None, None, f"{_brief(key)} occurs twice", node.start_mark)
        keys.add(key)
    return loader.construct_mapping(node)


def _brief(value: object) -> str:
    """A value for a message: aliases make text of any length out of a few lines, and a number has a million digits."""
    try:
        text = _BRIEF.repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:79]}…"


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def configure(
    file: Path | None = None, given: Mapping[str, Any] | None = None, variant: str | None = None
) -> PMTConfig:
    """The transform's configuration from a file, with options laid over it.

    Args:
        file: YAML, ``variant`` and fields of its configuration; those not in it keep their defaults.
        given: fields by option; None means not given.
        variant: a name of :data:`pmtlib.variants.VARIANTS`; None means the file's, or else plain PMT.

    Raises:
        ConfigError: the file cannot be read, there is no such variant, the file is for another one, or a field is
            unknown or impossible; the line names file and field.
    """
    values = {} if file is None else _read(file)
    where = "" if file is None else f"{shown(file)}: "
    model = PMTConfig if variant is None else find(variant).config
    written = values.pop("variant", variant or PLAIN)
    if file is not None and written != variant:
        if not isinstance(written, str):
            raise ConfigError(f"{where}no variant {_brief(written)}; there are {', '.join(VARIANTS)}")
        try:
            model = find(written).config
        except ConfigError as error:
            raise ConfigError(f"{where}{error}") from error
        if variant is not None:
            raise ConfigError(f"{where}it is for the variant {written}, not {variant}; give one of the two")
    _validated(model, values, where)
    options = {key: value for key, value in (given or {}).items() if value is not None}
    return _validated(model, {**values, **options}, "")


def layered(model: type[_Model], file: Path | None, given: Mapping[str, Any], hint: str) -> _Model:
    """A configuration of any kind from a file, with options laid over it.

    Args:
        model: the kind.
        file: YAML, fields of it; those not in it keep their defaults.
        given: fields by option; None means not given.
        hint: what to look at for the fields there are.

    Raises:
        ConfigError: the file cannot be read, or a field is unknown or impossible; the line names file and field.
    """
    values = {} if file is None else _read(file, hint)
    if file is not None:
        _validated(model, values, f"{shown(file)}: ", hint)
    return _validated(model, {**values, **{key: value for key, value in given.items() if value is not None}}, "", hint)


def _read(file: Path, hint: str = _HINT) -> dict[str, Any]:
    try:
        with file.open("rb") as opened:
            content = opened.read(_LARGEST + 1)
        text = content.decode("utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(f"{shown(file)} cannot be read ({reason}); {hint}") from error
    if len(content) > _LARGEST:
        raise ConfigError(f"{shown(file)} cannot be read (it is larger than {_LARGEST >> 20} MiB); {hint}")
    try:
        values = yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line = "" if mark is None else f", line {mark.line + 1}"
        why = getattr(error, "problem", None) or getattr(error, "reason", None)
        reason = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(why or error).split())[:120]
        raise ConfigError(f"{shown(file)}{line}: not YAML ({reason}); {hint}") from error
    except (ValueError, LookupError, AttributeError, TypeError, OverflowError) as error:
        # What YAML's own constructors raise on a date, number or tag that is none.
        raise ConfigError(f"{shown(file)}: not YAML (a value that does not fit its form); {hint}") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{shown(file)}: expected lines of `field: value`; {hint}")
    return values


def _validated(model: type[_Model], values: Mapping[str, Any], where: str, hint: str = _FIELDS) -> _Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"{where}there is no field {_brief(name)}; {hint}") from error
        message = str(first["msg"])[:1].lower() + str(first["msg"])[1:]
        named = f"{name}: " if name else ""
        given = first["input"] if isinstance(first["input"], str) else _brief(first["input"])
        raise ConfigError(f"{where}{named}{message}, and not {given[:60]!r}") from error


def as_yaml(config: PMTConfig | None = None) -> str:
    """A configuration as YAML, each field with what it means."""
    config = config or PMTConfig()
    values = config.model_dump(mode="json")
    if "variant" in values:
        values = {"variant": values["variant"], **values}
    meanings = _meanings(type(config))
    lines = ["# The transform's configuration, for `pmt protect --config FILE`. Leave out what shall keep its default."]
    for name, value in values.items():
        lines.append("")
        lines += textwrap.wrap(meanings[name], 110, initial_indent="# ", subsequent_indent="# ")
        lines.append(yaml.safe_dump({name: value}, default_flow_style=False).strip())
    return "\n".join(lines) + "\n"


def _meanings(model: type[PMTConfig]) -> dict[str, str]:
    """What the docstrings of a configuration and of those it extends say of each field."""
    meanings: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        text = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")[2]
        if issubclass(kind, PMTConfig):
            entries = re.split(r"^    (?=\w+: )", text, flags=re.MULTILINE)[1:]
            pairs = (entry.split(": ", 1) for entry in entries)
            meanings |= {name: " ".join(meaning.replace("``", "").split()) for name, meaning in pairs}
    return meanings
