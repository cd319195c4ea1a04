"""One way to check settings: every mistake of a config at once, in one dialect.

The one idea: a config is a frozen dataclass whose annotations are its types; `check` compares each
value with its annotation and with one rule a field, and raises one `ValueError` that says for every
wrong field what was got and what is allowed. `read_config` does the same for plain settings (YAML,
JSON), where unknown names are mistakes, too.

>>> @dataclass(frozen=True)
... class Limits:
...     window: int | None = 1
...     temperature: float = 0.0
...     def __post_init__(self):
...         check(self, window=at_least(1), temperature=between(0, 2))
>>> read_config(Limits, {"window": 0, "temperature": "hot", "windows": 3})
Traceback (most recent call last):
ValueError: Limits: unknown setting 'windows', perhaps 'window'? (allowed: window, temperature); \
window must be a whole number of at least 1, or null, got 0; \
temperature must be a number from 0 to 2, got 'hot'

Covers: whole numbers, numbers, words, flags, paths, fixed choices, sequences and mappings of
anything, and `X | None`. Does not cover: settings that are each fine and contradict one another;
a config appends those with `problems`.
"""

from __future__ import annotations

import importlib
import math
import os
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")


@dataclass(frozen=True)
class Rule:
    """What a value of the right type must also be."""

    words: str
    """Completes `... must be a whole number ...`."""
    is_kept: Callable[[Any], bool]


def at_least(least: float) -> Rule:
    """Ask for a number of at least `least`; for texts and sequences, for so many items."""
    return Rule(f"of at least {least:g}", lambda value: _size(value) >= least)


def above(limit: float) -> Rule:
    """Ask for a number above `limit`."""
    return Rule(f"above {limit:g}", lambda value: value > limit)


def between(low: float, high: float) -> Rule:
    """Ask for a number from `low` to `high`, both included."""
    return Rule(f"from {low:g} to {high:g}", lambda value: low <= value <= high)


def fulfils(words: str, is_kept: Callable[[Any], bool]) -> Rule:
    """Ask for anything that can be said in words."""
    return Rule(words, is_kept)


NOT_EMPTY = Rule("that is not empty", lambda value: len(value) > 0)


def check(config: Any, problems: Iterable[str] = (), **rules: Rule) -> None:
    """Raise one `ValueError` for every field of a dataclass that is not of its type or breaks its
    rule, and for every further problem in words; None passes where the annotation allows it."""
    config_class: type = type(config)
    hints = _read_hints(config_class)
    found = []
    for field in fields(config):
        value, kinds = getattr(config, field.name), _split_union(hints[field.name])
        rule = rules.get(field.name)
        if value is None and type(None) in kinds:
            continue
        is_typed = any(_is_of(value, kind) for kind in kinds)
        if not is_typed or (rule is not None and not rule.is_kept(value)):
            found.append(f"{field.name} must be {_describe(kinds, rule)}, got {value!r}")
    found += problems
    if found:
        raise ValueError(f"{type(config).__name__}: " + "; ".join(found))


def read_config(cls: type[Config], settings: Mapping[str, Any]) -> Config:
    """Build a config from plain settings; unknown names and bad values are one `ValueError`.

    A class that has renamed settings lists them in `FORMER_NAMES` (old to new)."""
    hints, names = _read_hints(cls), [field.name for field in fields(cls)]
    settings = _rename_old(getattr(cls, "FORMER_NAMES", {}), settings)
    problems = [_describe_unknown(name, names) for name in settings if name not in names]
    known = {name: value for name, value in settings.items() if name in names}
    config: Config | None = None
    try:
        config = cls(**{name: _revive(value, hints[name]) for name, value in known.items()})
    except ValueError as error:
        problems.append(str(error).removeprefix(f"{cls.__name__}: "))
    if config is None or problems:
        raise ValueError(f"{cls.__name__}: " + "; ".join(problems))
    return config


def import_object(where: str) -> Any:
    """Import what a setting names as `pkg://module:name` (verl's way to write it); `ValueError`
    says why it cannot be. Modules of the current folder are found, as `python -m` finds them.

    >>> import_object("pkg://math:pi")
    3.141592653589793
    """
    module, _, name = where.removeprefix("pkg://").partition(":")
    if not where.startswith("pkg://") or not module or not name:
        raise ValueError(
            f"must be pkg://module:name, such as pkg://my_package.mine:Mine, got {where!r}"
        )
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{where!r} cannot be imported: {error}") from error


@lru_cache(maxsize=64)
def _read_hints(cls: type) -> Mapping[str, Any]:
    """Return the types of a class's fields; kept, for every record of a run is checked."""
    return typing.get_type_hints(cls)


def _describe_unknown(name: str, allowed: Sequence[str]) -> str:
    close = get_close_matches(str(name), allowed, n=1)
    hint = f", perhaps {close[0]!r}?" if close else ""
    return f"unknown setting {name!r}{hint} (allowed: {', '.join(allowed)})"


def _rename_old(former: Mapping[str, str], settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Read settings by the names that they had; both names at once stay, and are refused."""
    return {
        former[name] if name in former and former[name] not in settings else name: value
        for name, value in settings.items()
    }


def _size(value: Any) -> float:
    return value if isinstance(value, int | float) else len(value)


def _split_union(hint: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)


def _is_of(value: Any, kind: Any) -> bool:
    """True when a value is of an annotated type; a bool is no number, a whole number is a float."""
    kind = typing.get_origin(kind) or kind
    if kind is typing.Any:
        return True
    if kind is float:
        return type(value) in (int, float) and not math.isnan(value)
    if kind is int:
        return type(value) is int
    if kind is Path:
        return isinstance(value, str | Path)
    return isinstance(value, kind)


def _revive(value: Any, hint: Any) -> Any:
    """Turn plain data into the enum, path or tuple that the annotation names; else leave it."""
    for kind in _split_union(hint):
        origin = typing.get_origin(kind) or kind
        if isinstance(origin, type) and issubclass(origin, Enum):
            if value in [member.value for member in origin]:
                return origin(value)
        elif origin is Path and isinstance(value, str):
            return Path(value)
        elif origin is tuple and isinstance(value, list):
            return tuple(value)
    return value


def _describe(kinds: Sequence[Any], rule: Rule | None) -> str:
    words = " or ".join(_describe_kind(kind) for kind in kinds if kind is not type(None))
    if rule is not None:
        words += f" {rule.words}"
    return words + (", or null" if type(None) in kinds else "")


def _describe_kind(kind: Any) -> str:
    origin = typing.get_origin(kind) or kind
    if isinstance(origin, type) and issubclass(origin, Enum):
        return "one of " + ", ".join(repr(member.value) for member in origin)
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    names |= {Path: "a path", tuple: "a list", list: "a list", dict: "a mapping"}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a mapping"
    return names.get(origin, getattr(origin, "__name__", str(origin)))
