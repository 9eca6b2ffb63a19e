"""What the JSON Schemas are put together from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fusiform.vocabulary import KEYS, Key

Schema = dict[str, Any]
TASKS = ("classification", "detection", "segmentation")
VERSIONS: Mapping[str, int] = {}
"""Those whose schema is no longer the first."""


def object_of(keys: str) -> Schema:
    """An object with the keys named, separated by blanks, and no others.

    ``NAME?`` may be null, ``NAME...`` comes with the ends of its interval, and ``NAME:OTHER`` means what the vocabulary
    says of another key.
    """
    properties: dict[str, Schema] = {}
    for word in keys.split():
        interval, word = word.endswith("..."), word.removesuffix("...")
        null, word = word.endswith("?"), word.removesuffix("?")
        name, _, other = word.partition(":")
        for end in ("", "_low", "_high") if interval else ("",):
            properties[name + end] = value_of(KEYS[(other or name) + end], null=null)
    return closed(properties)


def closed(properties: Mapping[str, Schema], *, optional: Sequence[str] = ()) -> Schema:
    """An object with these keys, all but the ``optional`` ones always there, and no others."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


UNITS: dict[str, Schema] = {
    "text": {"type": "string"},
    "flag": {"type": "boolean"},
    "count": {"type": "integer", "minimum": 0},
    "number": {"type": "number"},
    "share": {"type": "number", "minimum": 0, "maximum": 1},
    "difference": {"type": "number", "minimum": -1, "maximum": 1},
    "ratio": {"type": "number", "minimum": 0},
    "rate": {"type": "number", "minimum": 0},
    "bytes": {"type": "integer", "minimum": 0},
    "seconds": {"type": "number", "minimum": 0},
    "milliseconds": {"type": "number", "minimum": 0},
    "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}},
    "texts": {"type": "array", "items": {"type": "string"}},
    "numbers": {"type": "array", "items": {"type": "number"}},
}


def value_of(key: Key, *, null: bool = False) -> Schema:
    """A value that the vocabulary knows; with ``null`` there may be nothing to say."""
    schema = dict(UNITS[key.unit])
    if null:
        schema["type"] = [schema["type"], "null"]
    return {"description": key.says, **schema}


def list_of(items: Schema) -> Schema:
    """A list, of any length."""
    return {"type": "array", "items": items}


def or_null(schema: Schema) -> Schema:
    """What ``schema`` says, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def named(name: str) -> Schema:
    """The name of a document's schema, as it stands in ``schema``."""
    return {"const": f"fusiform.{name}/{VERSIONS.get(name, 1)}"}


CLASS: dict[str, Schema] = {"index": {"type": "integer", "minimum": 0}, "name": {"type": "string"}}
