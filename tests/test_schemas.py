"""The vocabulary and the JSON Schemas, in the source and as they are published; each command's tests use them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from fusiform.schemas import DOCUMENTS, json_schema, names
from fusiform.vocabulary import KEYS

PUBLISHED = Path(__file__).parents[1] / "docs" / "reference" / "schemas"


def objects(schema: Any) -> Iterator[dict[str, Any]]:
    """Every schema of an object within a schema."""
    if isinstance(schema, dict):
        if "properties" in schema:
            yield schema
        for value in schema.values():
            yield from objects(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from objects(value)


@pytest.mark.parametrize("name", names())
def test_a_schema_is_valid_strict_and_published_as_it_is(name: str) -> None:
    schema = json_schema(name)
    Draft202012Validator.check_schema(schema)
    published = (PUBLISHED / f"{name}.json").read_text(encoding="utf-8")
    assert json.loads(published) == schema, "python scripts/docs/write_schemas.py writes it again"
    found = list(objects(schema))
    assert found
    for each in found:
        assert each["additionalProperties"] is False
        for key in each["properties"]:
            assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", key), key
            old = name in ("spec", "served_model") and key == "pictures"  # a description's, as files have it
            assert old or not re.search(r"megabytes|percent|pictures|_mb$|_points$", key)


def test_nothing_else_is_published() -> None:
    assert {path.name for path in PUBLISHED.iterdir()} == {f"{name}.json" for name in names()}


def test_a_key_has_one_unit_everywhere() -> None:
    for name in DOCUMENTS:
        for each in objects(json_schema(name)):
            for key, value in each["properties"].items():
                types = value.get("type")
                kind = next((t for t in types if t != "null"), None) if isinstance(types, list) else types
                unit = KEYS[key].unit if key in KEYS else None
                if unit == "share" and kind != "string":
                    assert (value["minimum"], value["maximum"]) == (0, 1), (name, key)
                if key == "bytes" or key.endswith("_bytes"):
                    assert (kind, unit) == ("integer", "bytes"), (name, key)
                if key.endswith("_ms"):
                    assert unit == "milliseconds", (name, key)


def test_the_vocabulary_has_no_word_that_nothing_says() -> None:
    said = {key for name in names() for each in objects(json_schema(name)) for key in each["properties"]}
    unsaid = set(KEYS) - said
    # The other meanings of precision and seconds, and a column of the CSV file that layers_file names.
    assert unsaid == {"precision_of_weights", "seconds_of_frame", "logit_error"}


def test_what_is_not_of_the_schema_is_refused() -> None:
    validator = Draft202012Validator(json_schema("prediction"))
    answer = {"path": "a.png", "error": None, "top": [{"index": 0, "name": "cat", "probability": 0.5}]}
    assert validator.is_valid(answer)
    assert validator.is_valid({"path": "a.png", "error": "no such file"})
    for wrong in (
        {**answer, "error": "no such file"},
        {**answer, "boxes": []},
        {"path": "a.png", "error": None},
        {**answer, "top": [{"index": 0, "name": "cat", "probability": 50}]},
    ):
        assert not validator.is_valid(wrong)
