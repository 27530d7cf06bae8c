"""Plain TOML data -> frozen dataclasses, by their annotations. Knows no section by name.

Refuses unknown keys, missing keys and wrong types, naming file, key and reason.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from triage.errors import ConfigError

T = typing.TypeVar("T")


def build(kind: type[T], data: Mapping[str, object], *, where: str, section: str = "") -> T:
    """Make one dataclass from a table. `where` is the file, `section` the table's dotted name."""
    hints = typing.get_type_hints(kind)
    names = keys(kind)
    for key in data:
        if key not in names:
            raise ConfigError(f"{where}: unknown key {_label(section, key)}{_nearest(key, names)}")
    values = {
        key: convert(hints[key], value, where=where, section=section, key=key)
        for key, value in data.items()
    }
    try:
        return kind(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}", hint=error.hint) from error
    except TypeError as error:
        missing = [name for name in _required(kind) if name not in data]
        if not missing:
            raise
        raise ConfigError(f"{where}: {_label(section, missing[0])} is missing") from error


def keys(kind: type) -> list[str]:
    """The keys that a file may give: every field but those with metadata `{"key": False}`."""
    fields = dataclasses.fields(typing.cast(typing.Any, kind))
    return [entry.name for entry in fields if entry.metadata.get("key", True)]


def _required(kind: type) -> list[str]:
    fields = dataclasses.fields(typing.cast(typing.Any, kind))
    nothing = dataclasses.MISSING
    return [
        entry.name
        for entry in fields
        if entry.default is nothing and entry.default_factory is nothing
    ]


def convert(kind: object, value: object, *, where: str, section: str, key: str) -> object:
    """Check one value against its annotation and convert it (Path, enum, tuple, table)."""
    origin = typing.get_origin(kind)
    arguments = typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        inner = next(each for each in arguments if each is not type(None))
        return convert(inner, value, where=where, section=section, key=key)
    if origin is tuple and isinstance(value, list):
        return tuple(
            convert(arguments[0], each, where=where, section=section, key=f"{key}[{number}]")
            for number, each in enumerate(value)
        )
    if origin in (dict, Mapping, typing.get_origin(Mapping[str, str])) and isinstance(value, dict):
        below = _label(section, key)
        return {
            name: convert(arguments[1], each, where=where, section=below, key=name)
            for name, each in value.items()
        }
    return _scalar(kind, value, where=where, section=section, key=key)


def _scalar(kind: object, value: object, *, where: str, section: str, key: str) -> object:
    label = _label(section, key)
    if isinstance(kind, type):
        if dataclasses.is_dataclass(kind) and isinstance(value, dict):
            return build(kind, value, where=where, section=f"{section}.{key}" if section else key)
        if issubclass(kind, StrEnum) and isinstance(value, str):
            if value not in list(kind):
                raise ConfigError(f"{where}: {label} must be one of {', '.join(kind)}")
            return kind(value)
        if kind is Path and isinstance(value, str | Path):
            return Path(value)
        if kind is float and type(value) in (int, float):
            return float(typing.cast(float, value))
        if type(value) is kind:
            return value
    raise ConfigError(f"{where}: {label} must be {_words(kind)}, not {_shown(kind, value)}")


def _shown(kind: object, value: object) -> str:
    """Return a value for a message; a list, a table and what stands for one may hold a secret."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a table"
    if isinstance(value, str) and kind not in (int, float, bool):
        return "text"
    return f"{value!r:.60}"


def _label(section: str, key: str) -> str:
    return f"[{section}] {key}" if section else key


def _nearest(key: str, names: list[str]) -> str:
    found = difflib.get_close_matches(key, names, n=1)
    return f" (did you mean {found[0]}?)" if found else ""


def _words(kind: object) -> str:
    if typing.get_origin(kind) is tuple:
        return "a list"
    if typing.get_origin(kind) is dict or (
        isinstance(kind, type) and dataclasses.is_dataclass(kind)
    ):
        return "a table"
    names: dict[object, str] = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text in quotes",
        Path: "a path in quotes",
    }
    return names.get(kind, "of another type")
