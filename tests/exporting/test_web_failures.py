"""Downloads that fail, come incomplete or bring something else: a sentence that names the file, and reloading helps."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

import fusiform
from fusiform.exporting.targets.web import write
from fusiform.zoo.model import open_model

sys.path.insert(0, str(Path(__file__).parent))

from browser import CHROMIUM, browsing, serving
from page import LISTEN, Page
from pictures import EXAMPLES

sys.path.pop(0)

pytestmark = pytest.mark.skipif(CHROMIUM is None or os.name != "posix", reason="there is no Chromium to drive")

MODEL = "shufflenet_v2_x1_0_int8.tflite"
RUNTIME = "runtime/litert_wasm_internal.wasm.gz"


def refuse(status):
    return lambda handler: handler.send_error(status)


def send(handler, content, length):
    handler.send_response(200)
    handler.send_header("Content-Length", str(length))
    handler.send_header("Cache-Control", "max-age=3600")  # reloading must not bring it again
    handler.end_headers()
    handler.wfile.write(content)
    handler.close_connection = True


def read(handler):
    return Path(handler.translate_path(handler.path)).read_bytes()


def break_off(handler):
    """Half of it, then the connection ends."""
    content = read(handler)
    send(handler, content[: len(content) // 2], len(content))


def keep_half(handler):
    """Half of it, as if that were all: an upload that was not finished."""
    content = read(handler)
    send(handler, content[: len(content) // 2], len(content) // 2)


def change(handler):
    content = bytearray(read(handler))
    content[len(content) // 2] ^= 1
    send(handler, content, len(content))


def ask_for_a_password(handler):
    """What a network answers that has not let one in yet, and hosts that have one page for all."""
    content = b"<!doctype html><title>Welcome</title>"
    send(handler, content, len(content))


def once(fault, faults, name):
    def answer(handler):
        del faults[name]
        fault(handler)

    return answer


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return write(open_model("shufflenet_v2_x1_0").graph(), "int8", tmp_path_factory.mktemp("site"))[0].path


@pytest.fixture
def fresh(tmp_path_factory):
    with browsing(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def browser(fresh):
    fresh.preload(LISTEN)
    return fresh


def check(page, site):
    path = EXAMPLES / "cat.jpg"
    expected = fusiform.predict(path, model=site)[0].top
    guesses = page.answer(path)["guesses"]
    assert [guess["name"] for guess in guesses] == [guess.name for guess in expected]


# Whether anything of a file is kept for later.
KEPT = """(async () => {
  for (const name of await caches.keys()) {
    const kept = await (await caches.open(name)).keys();
    if (kept.some(({ url }) => url.includes("NAME"))) return true;
  }
  return false;
})()"""

FAULTS = {
    (MODEL, refuse(404)): "refused",
    (MODEL, refuse(500)): "refused",
    (MODEL, break_off): "otherFile",
    (MODEL, keep_half): "otherFile",
    (MODEL, change): "otherFile",
    (MODEL, ask_for_a_password): "otherFile",
    (RUNTIME, refuse(503)): "refused",
    (RUNTIME, break_off): "otherFile",
    (RUNTIME, keep_half): "otherFile",
    (RUNTIME, change): "otherFile",
    ("model.json", refuse(500)): "refused",
    ("model.json", keep_half): "otherFile",
    ("model.json", ask_for_a_password): "otherFile",
    ("network.js", refuse(500)): "unreachable",
}


def test_a_download_that_fails_is_said_and_reloading_helps(site, browser):
    """One browser for all: nothing of a fault is kept for the next."""
    for (name, fault), reason in FAULTS.items():
        about = (name, fault.__name__)
        with serving(site) as server:
            server.faults[name] = fault
            browser.open(server.address)
            error = browser.wait("window.told && window.told[0] && window.told[0].error")
            assert error["reason"] == reason, (about, error)
            assert error["file"] in (name, "*.js"), (about, error)
            assert error["message"].startswith(name if error["file"] == name else "the page's scripts"), (about, error)
            told = browser.wait("!document.body.innerText.includes('...') && document.body.innerText")
            assert error["file"] in told or "scripts" in told, (about, told)
            if name in (MODEL, RUNTIME):
                assert not browser.evaluate(KEPT.replace("NAME", name)), about
            del server.faults[name]
            check(Page(browser, server.address), site)


def test_a_slow_download_says_how_far_it_is(site, fresh):
    def drip(handler):
        content = read(handler)
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        for at in range(0, len(content), len(content) // 20):
            handler.wfile.write(content[at : at + len(content) // 20])
            time.sleep(0.05)

    note = "if (data.progress) window.progress.push(data.progress);"
    fresh.preload(LISTEN.replace("({ data }) => {", f"({{ data }}) => {{ {note}"))
    fresh.preload("window.progress = []")
    with serving(site) as server:
        server.faults[MODEL] = drip
        check(Page(fresh, server.address), site)
        told = fresh.evaluate("window.progress")
    steps = [step for step in told if step["name"] == MODEL]
    length = (site / MODEL).stat().st_size
    assert len(steps) > 5
    assert {step["total"] for step in steps} == {length}
    loaded = [step["loaded"] for step in steps]
    assert loaded == sorted(loaded)
    assert loaded[-1] == length
    assert {step["name"] for step in told} == {MODEL, RUNTIME}


@pytest.mark.parametrize("name", [MODEL, RUNTIME])
@pytest.mark.parametrize("fault", [break_off, keep_half, change])
def test_what_comes_wrong_once_is_fetched_again(name, fault, site, browser):
    with serving(site) as server:
        server.faults[name] = once(fault, server.faults, name)
        check(Page(browser, server.address), site)
        assert len([path for path, _ in server.requests if path.startswith(f"/{name}")]) == 1  # and the one in vain
    check(Page(browser, server.address), site)  # where nobody answers any more


def test_a_server_that_unpacks_on_the_way(site, browser):
    """Gzip as an encoding: the runtime comes as WebAssembly, whose hash is another."""

    def encoded(handler):
        content = read(handler)
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.send_header("Content-Encoding", "gzip")
        handler.end_headers()
        handler.wfile.write(content)

    with serving(site) as server:
        server.faults[RUNTIME] = encoded
        check(Page(browser, server.address), site)
    check(Page(browser, server.address), site)


def test_a_server_in_trouble_does_not_take_the_page_away(site, browser):
    with serving(site) as server:
        check(Page(browser, server.address), site)
        for name in ("", "index.html", "app.js", "worker.js", "model.json", MODEL):
            server.faults[name] = refuse(500)
        check(Page(browser, server.address), site)
