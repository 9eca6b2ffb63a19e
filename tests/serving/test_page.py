"""``--page``: the page of ``fusiform demo`` at ``/``, beside all that the server answers otherwise."""

from __future__ import annotations

import functools
import gzip
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fusiform
from fusiform.errors import FusiformError
from fusiform.exporting.demo.job import page_files
from fusiform.exporting.targets.web import unpack_runtime
from fusiform.graph.build import build_graph
from fusiform.graph.tflite import to_tflite
from fusiform.spec import ModelSpec, Preprocess

from .conftest import ask, encoded

sys.path.insert(0, str(Path(__file__).parents[1] / "exporting"))

from browser import CHROMIUM, browsing
from page import Page

sys.path.pop(0)

Start = Callable[..., fusiform.Server]
SPEC = ModelSpec("mobilenet_v2", 0.35, ("green", "red"), input_size=32, preprocess=Preprocess(resize=32, crop=32))
OTHER = SPEC.replace(labels=("black", "white", "grey"))
TOKEN = "0123456789abcdef0123"


@pytest.fixture(scope="module", autouse=True)
def _unpacked_once() -> Iterator[None]:
    """The runtime, which takes a second each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fusiform.exporting.targets.web.unpack_runtime", functools.cache(unpack_runtime))
        yield


@pytest.fixture
def model(tmp_path: Path, lived_in_state: Callable[..., Any]) -> Path:
    path = tmp_path / "small.tflite"
    path.write_bytes(to_tflite(build_graph(SPEC, lived_in_state(SPEC))))
    return path


def files_of(model: Path) -> dict[str, bytes]:
    return page_files(model, None, lambda _: None, level=1)


def test_every_file_of_the_page_is_answered(start: Start, model: Path) -> None:
    server = start(str(model), page=True)
    files = files_of(model)
    assert len(files) >= 50
    for name, data in files.items():
        answer = ask(server, f"/{name}")
        assert (answer.status, answer.body) == (200, data), name
    kinds = {name: ask(server, f"/{name}").headers["content-type"] for name in ("app.js", "style.css", "model.json")}
    assert kinds == {
        "app.js": "text/javascript; charset=utf-8",
        "style.css": "text/css; charset=utf-8",
        "model.json": "application/json; charset=utf-8",
    }
    root = ask(server, "/")
    assert (root.body, root.headers["content-type"]) == (files["index.html"], "text/html; charset=utf-8")
    policy = root.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; worker-src 'self';")
    assert "  " not in policy
    # A worker has the policy of its own answer, and has to compile WebAssembly.
    assert "content-security-policy" not in ask(server, "/worker.js").headers


def test_what_the_page_refers_to_is_there(start: Start, model: Path) -> None:
    server = start(str(model), page=True)
    root = ask(server, "/").body.decode()
    names = re.findall(r'(?:href|src)="([^"#]+)"', root)
    kept = re.search(r"const PAGE = (\[.*?\]);", ask(server, "/sw.js").body.decode(), re.DOTALL)
    assert kept is not None
    description = ask(server, "/model.json").json
    names += json.loads(kept[1]) + [f"{name}?sha256={digest}" for name, digest in description["sha256"].items()]
    assert {"app.js", "style.css", "worker.js"} < set(names)
    for name in names:
        assert ask(server, f"/{name.removeprefix('./')}").status == 200, name


def test_caches_gzip_and_head(start: Start, model: Path) -> None:
    server = start(str(model), page=True)
    plain = ask(server, "/app.js")
    assert plain.headers["cache-control"] == "no-cache"
    packed = ask(server, "/app.js", headers={"Accept-Encoding": "gzip"})
    assert (packed.headers["content-encoding"], packed.headers["vary"]) == ("gzip", "Accept-Encoding")
    assert gzip.decompress(packed.body) == plain.body
    again = ask(server, "/app.js", headers={"If-None-Match": plain.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    head = ask(server, "/app.js", method="HEAD")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(plain.body)))
    ((name, digest),) = ((n, d) for n, d in ask(server, "/model.json").json["sha256"].items() if n.endswith(".tflite"))
    assert ask(server, f"/{name}?sha256={digest}").headers["cache-control"] == "max-age=31536000, immutable"
    assert ask(server, f"/{name}?sha256=0").headers["cache-control"] == "no-cache"


def test_nothing_else_is_answered_otherwise(start: Start, model: Path) -> None:
    plain, server = start(str(model)), start(str(model), page=True)
    assert ask(plain, "/").status == ask(plain, "/app.js").status == 404
    for path in ("/v1/models", "/v2", "/ping", "/healthz", "/openapi.json", "/nothing", "/../app.js", "/texts"):
        assert ask(server, path)[::2] == ask(plain, path)[::2], path
    path = "/v1/models/small:predict"
    assert ask(server, path).status == 405
    assert ask(server, path, encoded()).json == ask(plain, path, encoded()).json
    wrong = ask(server, "/app.js", b"x")
    assert (wrong.status, wrong.json["code"], wrong.headers["allow"]) == (405, "not_allowed", "GET, HEAD")
    assert 'fusiform_requests_total{code="405",endpoint="page"} 1.0' in ask(server, "/metrics").body.decode()


def test_tokens_guard_all_but_the_page(start: Start, model: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN)
    server = start(str(model), page=True, token_file=tokens)
    for name, data in files_of(model).items():
        assert ask(server, f"/{name}").body == data, name
    assert ask(server, "/").status == 200
    for path in ("/v1/models", "/v2", "/metrics", "/openapi.json", "/v1/models/small", "/nothing"):
        assert ask(server, path).status == 401, path
    assert ask(server, "/v1/models/small:predict", encoded()).status == 401
    shown = {"Authorization": f"Bearer {TOKEN}"}
    assert ask(server, "/v1/models/small:predict", encoded(), shown).status == 200


def test_the_page_is_of_the_first_model(start: Start, model: Path, lived_in_state: Callable[..., Any]) -> None:
    other = model.with_name("other.tflite")
    other.write_bytes(to_tflite(build_graph(OTHER, lived_in_state(OTHER))))
    server = start([f"b={other}", f"a={model}"], page=True)
    assert ask(server, "/model.json").json["spec"]["labels"] == list(OTHER.labels)


def test_a_model_that_is_replaced_is_so_on_the_page(
    start: Start, model: Path, lived_in_state: Callable[..., Any]
) -> None:
    server = start(str(model), page=True)
    tag = ask(server, "/model.json").headers["etag"]
    fresh = model.with_name("fresh.part")
    fresh.write_bytes(to_tflite(build_graph(OTHER, lived_in_state(OTHER))))
    fresh.replace(model)
    server.reload()
    for _ in range(100):
        if ask(server, "/model.json").headers["etag"] != tag:
            break
        time.sleep(0.1)
    description = ask(server, "/model.json").json
    assert description["spec"]["labels"] == list(OTHER.labels)
    files = files_of(model)
    assert ask(server, f"/{description['model']}").body == files[description["model"]]


def test_a_model_that_no_page_shows_is_refused_at_the_start(
    start: Start, tmp_path: Path, lived_in_state: Callable[..., Any]
) -> None:
    grey = SPEC.replace(preprocess=Preprocess(resize=32, crop=32), input_channels=1)
    path = tmp_path / "grey.tflite"
    path.write_bytes(to_tflite(build_graph(grey, lived_in_state(grey))))
    with pytest.raises(FusiformError, match="the page shows photographs to a network"):
        start(str(path), page=True)


@pytest.mark.skipif(os.name != "posix", reason="Windows has one process")
def test_every_process_has_the_page(start: Start, model: Path) -> None:
    server = start(str(model), page=True, threads=2, workers=2)
    assert {ask(server, "/").headers["etag"] for _ in range(20)} == {ask(server, "/").headers["etag"]}
    assert ask(server, "/app.js").status == 200


@pytest.mark.skipif(CHROMIUM is None or os.name != "posix", reason="there is no Chromium to drive")
def test_the_page_answers_in_a_browser(start: Start, model: Path, tmp_path: Path) -> None:
    photo = tmp_path / "green.png"
    photo.write_bytes(encoded("green"))
    server = start(str(model), page=True)
    (expected,) = fusiform.predict(photo, str(model))
    with browsing(tmp_path / "profile") as browser:
        told = Page(browser, f"{server.address}/").answer(photo)
        assert browser.problems == []
        # The page keeps copies of its own files, and of nothing else that the server answers.
        browser.wait("navigator.serviceWorker.controller")
        kept = browser.evaluate(
            "(async () => { await fetch('healthz'); await new Promise((done) => setTimeout(done, 500));"
            "const names = await caches.keys(); const cache = await caches.open(names[0]);"
            "return (await cache.keys()).map(({ url }) => new URL(url).pathname); })()"
        )
    assert told["guesses"][0]["index"] == expected.top[0].index
    assert "/app.js" in kept
    assert "/healthz" not in kept
