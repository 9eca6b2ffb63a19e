"""Frozen dataclasses that people write by hand or in JSON: their fields checked, and read strictly."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, Literal, TypeVar, Union

from fusiform.errors import FusiformError

T = TypeVar("T")

_MAX_ITEMS = 100_000
"""Entries of a list in JSON, each of which is looked at: a hundredth of a second for ten thousand."""


def from_dict(cls: type[T], fields: object, error: type[FusiformError], *, where: str = "") -> T:
    """An instance of the dataclass ``cls`` from what JSON gave; nested dataclasses and tuples are made too.

    Raises ``error`` for unknown, missing or wrong fields; ``where`` leads their names, such as ``preprocess.``.
    """
    if not isinstance(fields, dict):
        raise error(f"{where or 'the description'} must be an object, got {show(fields)}")
    known = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]  # cls is a dataclass
    if unknown := sorted(set(fields) - set(known)):
        raise error(f"unknown field {where}{show(unknown[0])}; known are {', '.join(known)}")
    required = {
        name
        for name, field in known.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    if missing := sorted(required - set(fields)):
        raise error(f"field {where}{missing[0]!r} is missing")
    hints = _hints(cls)
    return cls(
        **{name: _from_json_value(hints[name], value, error, f"{where}{name}") for name, value in fields.items()}
    )


_annotations: dict[type, dict[str, Any]] = {}
"""Those of the classes that were asked for: Python reads each anew from its text."""


def _hints(cls: type) -> dict[str, Any]:
    if cls not in _annotations:
        _annotations[cls] = typing.get_type_hints(cls)
    return _annotations[cls]


def _from_json_value(hint: Any, value: object, error: type[FusiformError], where: str) -> object:
    """Turn JSON's lists and objects into the tuples and dataclasses that the fields hold; leave the rest."""
    if typing.get_origin(hint) in (Union, types.UnionType) and isinstance(value, dict):
        hint = next((arm for arm in typing.get_args(hint) if dataclasses.is_dataclass(arm)), hint)
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast("type[Any]", hint), value, error, where=f"{where}.")
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        item = typing.get_args(hint)[0]
        if len(value) > _MAX_ITEMS:
            raise error(f"field {where!r} has {len(value):,} entries; at most {_MAX_ITEMS:,} are read")
        if item is str:  # a thousand labels, which need nothing made of them
            return tuple(value)
        return tuple(_from_json_value(item, entry, error, f"{where}[{i}]") for i, entry in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return _float(value, error, where)
    return value


def check_types(instance: Any, error: type[FusiformError]) -> None:
    """Hold each field of a frozen dataclass against its annotation, in ``__post_init__``; raises ``error``.

    Lists become tuples and whole numbers become floats where the annotation says so.
    """
    for name, hint in _hints(type(instance)).items():
        value = getattr(instance, name)
        if typing.get_origin(hint) is tuple and isinstance(value, list):
            value = tuple(value)  # frozen all the way down
            object.__setattr__(instance, name, value)
        if hint is float and isinstance(value, int) and not isinstance(value, bool):
            object.__setattr__(instance, name, _float(value, error, name))
        elif not _fits(hint, value):
            raise error(f"field {name!r} must be {describe(hint)}, got {show(value)}")


def _float(value: int, error: type[FusiformError], name: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise error(f"field {name!r} is too large a number") from None


def _fits(hint: Any, value: object) -> bool:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in args and not isinstance(value, bool)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if args[-1] is Ellipsis:
            return all(isinstance(item, str) if args[0] is str else _fits(args[0], item) for item in value)
        return len(value) == len(args) and all(_fits(arg, item) for arg, item in zip(args, value, strict=True))
    if origin in (Union, types.UnionType):
        return any(_fits(arg, value) for arg in args)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def describe(hint: Any) -> str:
    """What an annotation allows, in words: ``a whole number``, ``one of 'sgd', 'adamw'``."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(repr(arg) for arg in args)
    if origin is tuple:
        inner = describe(args[0])
        return f"a list of {inner}" if args[-1] is Ellipsis else f"a list of {len(args)} x {inner}"
    if origin in (Union, types.UnionType):
        return " or ".join(map(describe, args))
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", types.NoneType: "none"}
    return words.get(hint, str(hint))


def show(value: object) -> str:
    """A wrong value in a message, cut where it is long."""
    try:
        text = repr(value)
    except RecursionError:  # lists in lists, as deep as JSON's reader goes and Python's words for them do not
        return "lists or objects within each other"
    return text if len(text) <= 60 else text[:57] + "..."
