"""Write the JSON Schemas of what fusiform prints into docs/reference/schemas, where programs can fetch them."""

from __future__ import annotations

import json
from pathlib import Path

from fusiform.schemas import json_schema, names

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "reference" / "schemas"


def text_of(name: str) -> str:
    """A schema's file."""
    return json.dumps(json_schema(name), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for name in names():
        (FOLDER / f"{name}.json").write_text(text_of(name), encoding="utf-8")
