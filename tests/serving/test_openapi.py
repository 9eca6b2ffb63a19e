"""The OpenAPI document, and schemathesis's attempts to find what is not as it says."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

import fusiform
from fusiform.serving.models import Served

from .conftest import ask, encoded, form

Start = Callable[..., fusiform.Server]


def test_the_document_is_whole(start: Start, colors: list[Served]) -> None:
    server = start()
    document = ask(server, "/openapi.json").json
    assert document["openapi"] == "3.1.0"
    for path, item in document["paths"].items():
        for method, described in item.items():
            if method == "parameters":
                continue
            assert described["summary"]
            assert "200" in described["responses"], path
            for answer in described["responses"].values():
                for content in answer.get("content", {}).values():
                    Draft202012Validator.check_schema(content["schema"])
    assert ask(server, "/v1/models").json == ask(server, "/v1/models").json


HOOKS = """
import base64, schemathesis
from hypothesis import strategies as st
images = st.sampled_from([base64.b64decode(text) for text in {images!r}])
# Other bytes are no images, and refused: no schema can say what is one.
for kind in ("image/png", "image/jpeg", "application/octet-stream"):
    schemathesis.openapi.media_type(kind, images)
schemathesis.openapi.format("binary", images)
"""


@pytest.mark.slow
@pytest.mark.parametrize("task", ["colors", "detection", "segmentation"])
def test_schemathesis_finds_nothing(
    start: Start, colors: list[Served], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, task: str
) -> None:
    pytest.importorskip("schemathesis")
    token = "t" * 20
    monkeypatch.setenv("FUSIFORM_TOKENS", token)
    server = start(f"it={task}", threads=2, queue_seconds=30)
    images = [encoded("red"), encoded("blue", form="JPEG"), encoded(size=(1, 300))]
    hooks = tmp_path / "hooks.py"
    hooks.write_text(HOOKS.format(images=[base64.b64encode(image).decode() for image in images]))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{server.address}/openapi.json"),
            *("--checks", "all", "--max-examples", "60", "--seed", "1", "--header", f"Authorization: Bearer {token}"),
        ],
        cwd=tmp_path,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert ask(server, "/v1/models", headers={"Authorization": f"Bearer {token}"}).status == 200


def test_forms_of_several_files_are_as_documented(start: Start, colors: list[Served]) -> None:
    body, headers = form(("a", encoded()), ("b", encoded()))
    assert len(ask(start(), "/v1/models/colors:predict", body, headers).json["predictions"]) == 2
