"""TorchServe's addresses."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from shutil import which

import pytest

import fusiform
from fusiform.serving.models import Served

from .conftest import ask, encoded, form

Start = Callable[..., fusiform.Server]
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_classifier_answers_names_with_probabilities(start: Start, colors: list[Served], method: str) -> None:
    server = start()
    assert ask(server, "/ping").json == {"status": "Healthy"}
    answer = ask(server, "/predictions/colors?top=2", encoded("blue"), method=method).json
    assert list(answer) == ["blue", "red"]
    assert answer["blue"] > 0.9
    body, headers = form(("photo.png", encoded("red")), field="data")
    assert next(iter(ask(server, "/predictions/colors", body, headers).json)) == "red"


def test_boxes_and_shares(start: Start, colors: list[Served]) -> None:
    server = start(["boxes=detection", "pixels=segmentation"])
    (box,) = ask(server, "/predictions/boxes?limit=1", encoded(size=(64, 64))).json
    left, top, right, bottom = box["b"]
    assert 0 <= left < right <= 64
    assert 0 <= top < bottom <= 64
    assert box["score"] > 0.9
    assert ask(server, "/predictions/pixels", encoded()).json == {"b": 1.0}


def test_what_is_refused(start: Start, colors: list[Served]) -> None:
    server = start()
    body, headers = form(("a", encoded()), ("b", encoded()))
    assert ask(server, "/predictions/colors", body, headers).status == 400
    assert ask(server, "/predictions/colors", b"no image").status == 400
    assert ask(server, "/predictions/other", encoded()).status == 404
    assert ask(server, "/predictions/colors").status == 405


@pytest.mark.skipif(which("curl") is None, reason="no curl")
def test_curl_as_torchserves_users_do(start: Start) -> None:
    server = start("mobilenet_v2")
    address, photo = f"{server.address}/predictions/mobilenet_v2", str(EXAMPLES / "cat.jpg")
    for options in (["-T", photo], ["-F", f"data=@{photo}"], ["--data-binary", f"@{photo}"]):
        done = subprocess.run(["curl", "-s", *options, address], capture_output=True, check=True, timeout=30)
        assert done.stdout.startswith(b'{"Egyptian cat":')
