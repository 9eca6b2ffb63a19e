"""The tables of docs/reference/output.md, from the schemas and the vocabulary."""

from __future__ import annotations

import result_tables

from fusiform.schemas import json_schema, names
from fusiform.vocabulary import KEYS

_UNITS = {
    "text": "text",
    "flag": "true or false",
    "count": "whole number",
    "number": "number",
    "share": "share, 0 to 1",
    "difference": "difference of shares, -1 to 1",
    "ratio": "ratio, 0 or more",
    "rate": "so many a second",
    "bytes": "bytes, whole",
    "seconds": "seconds",
    "milliseconds": "milliseconds",
    "shape": "list of whole numbers",
    "texts": "list of texts",
    "numbers": "list of numbers",
}


def schemas(_: str) -> str:
    """A line for each schema, with its file."""
    lines = []
    for name in names():
        schema = json_schema(name)
        writers = schema["description"].removeprefix("Written by ").removesuffix(".")
        lines.append([f"[`{name}.json`](schemas/{name}.json)", schema["title"], writers])
    return result_tables.markdown(["schema", "what it is", "where"], lines)


def vocabulary(_: str) -> str:
    """A line for each key."""
    lines = [
        [f"`{name}`", _UNITS[key.unit], key.says]
        for name, key in sorted(KEYS.items())
        if name != "precision_of_weights"
    ]
    return result_tables.markdown(["key", "value", "meaning"], lines)
