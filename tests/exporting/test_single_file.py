"""A page in one file: its text, its imports, the model in it, and the page in a browser that opens it from a disk."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import fusiform
from fusiform.errors import InputError, UsageError, WeightsError
from fusiform.exporting.job import export
from fusiform.exporting.targets.web import site_files, write
from fusiform.exporting.targets.web_single import in_one_file, rewrite_imports, to_page
from fusiform.zoo.model import open_model
from fusiform.zoo.pages import read_text, write_text
from fusiform.zoo.snippets import languages_for, write_snippet

sys.path.insert(0, str(Path(__file__).parent))

from browser import CHROMIUM, Browser, serving
from networks import small_network

sys.path.pop(0)

EXAMPLES = Path(__file__).parents[2] / "examples"
MARKUP = "</script><img src=x onerror=alert(1)> & Zürich \N{CAT FACE}"
LABELS = tuple(f"{MARKUP} {k}" for k in range(3))


@pytest.fixture(scope="module")
def graph():
    return small_network("classification", *LABELS)


@pytest.fixture(scope="module")
def files(graph):
    return site_files(graph, "float32", level=1)


@pytest.fixture(scope="module")
def page(files):
    return to_page(files)


def text_of(page):
    return page.decode("utf-16")


def test_text_holds_any_bytes():
    random = np.random.default_rng(0)
    for length in (*range(40), 10_000):
        for data in (random.bytes(length), bytes(length), b"\xff" * length):
            text = write_text(data)
            assert len(text) == -(-8 * length // 15)
            assert all(0x3400 <= ord(letter) < 0xB400 for letter in text)
            assert read_text(text, length) == data


@pytest.mark.parametrize(("text", "length"), [("", 1), ("\u3400\u3400", 1), ("a", 1), ("\ub400", 1), ("\ud800", 1)])
def test_other_text_is_refused(text, length):
    with pytest.raises(ValueError, match="another text"):
        read_text(text, length)


BOXES = ["boxes.js"]
HELD = dict.fromkeys(("app.js", "boxes.js", "texts/en.js", "texts/forms.js", "worker.js"), b"")


@pytest.mark.parametrize(
    ("name", "given", "made", "before"),
    [
        ("app.js", 'import { a, b as c } from "./boxes.js";', 'import { a, b as c } from "@file/boxes.js";', BOXES),
        ("app.js", "import * as boxes from './boxes.js'", 'import * as boxes from "@file/boxes.js"', BOXES),
        ("app.js", 'import {\n  a,\n  b,\n} from "./boxes.js"', 'import {\n  a,\n  b,\n} from "@file/boxes.js"', BOXES),
        ("app.js", 'import{a}from"./boxes.js";x()', 'import{a}from"@file/boxes.js";x()', BOXES),
        ("app.js", 'import "./boxes.js";', 'import "@file/boxes.js";', BOXES),
        ("app.js", 'export { a } from "./boxes.js";', 'export { a } from "@file/boxes.js";', BOXES),
        ("app.js", 'export * from "./texts/en.js";', 'export * from "@file/texts/en.js";', ["texts/en.js"]),
        ("texts/en.js", 'import "./forms.js";', 'import "@file/texts/forms.js";', ["texts/forms.js"]),
        ("texts/en.js", 'import { a } from "../boxes.js";', 'import { a } from "@file/boxes.js";', BOXES),
        ("app.js", 'const t = () => import("./texts/en.js");', 'const t = () => importFile("", "./texts/en.js");', []),
        ("texts/en.js", "await import(`./${name}.js`)", "await importFile(\"texts/\", `./${name}.js`)", []),
        ("worker.js", "names.map((name) => import(name))", 'names.map((name) => importFile("", name))', []),
        ("worker.js", 'importScripts("boxes.js")', 'importScripts("boxes.js")', []),
        ("app.js", 'export default "text";', 'export default "text";', []),
        ("app.js", 'export const a = "./b.js"; // to import', 'export const a = "./b.js"; // to import', []),
        ("app.js", "// imports nothing, and would import it otherwise", None, []),
        ("app.js", 'const text = "import";', None, []),
    ],
)  # fmt: skip
def test_imports_get_whole_names(name, given, made, before):
    assert rewrite_imports(name, given, HELD) == (made or given, before)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ('import { a } from "lodash";', 'app.js: imports "lodash", which is no file of the page'),
        ('import { a } from "./nothing.js";', 'app.js: imports "./nothing.js", which is no file of the page'),
        ('import { a } from "../boxes.js";', 'app.js: imports "../boxes.js", which is no file of the page'),
        ('import { a } from "https://example.org/a.js";', 'imports "https://example.org/a.js"'),
        ("const here = import.meta.url;", "app.js: this import is not understood: import.meta.url;"),
        ('import /* all */ "./boxes.js";', "app.js: this import is not understood"),
        ('import { "a b" as c } from "./boxes.js";', "app.js: this import is not understood"),
    ],
)
def test_an_import_that_is_not_understood_is_an_error(given, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        rewrite_imports("app.js", given, HELD)


def changed(files, name, old, new):
    text = files[name].decode()
    assert text.count(old) == 1
    return {**files, name: text.replace(old, new).encode()}


def test_a_page_that_is_not_understood_is_an_error(files):
    policy = "default-src 'none'; "
    for other, said in (
        ({**files, "masks.js": b'import "./tasks.js";'}, "in a circle: .*masks.js"),
        (
            changed(files, "index.html", 'src="app.js"', 'src="app.js"></script><img src="cat.jpg"'),
            "cat.jpg is no file",
        ),
        (changed(files, "index.html", policy, ""), "the policy does not forbid"),
        (changed(files, "index.html", ' id="status"', ' id="line"'), "no line that says"),
        ({**files, "style.css": b"a { background: url(x.png) }"}, "style.css: loads another file"),
        ({**files, "style.css": b"/* </style> */"}, "style.css: </style would end it"),
    ):
        with pytest.raises(ValueError, match=said):
            to_page(other)


def test_the_page_holds_all_and_asks_for_nothing(files, page):
    text = text_of(page)
    held = set(re.findall(r'data-file="([^"]+)"', text))
    left_out = {"index.html", "style.css", "sw.js", "manifest.webmanifest"}
    assert {name for name in set(files) - held - left_out if not name.startswith("icons/")} == {
        "runtime/litert_wasm_internal.js",
        "runtime/litert_wasm_internal.wasm.gz",
    }
    policy = re.search(r'Content-Security-Policy"\s+content="([^"]*)"', text).group(1)
    rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split(";")}
    assert rules["default-src"] == ["'none'"]
    assert "connect-src" not in rules
    assert "'self'" not in policy
    assert "unsafe-inline" not in policy
    assert "http" not in policy
    assert rules["require-trusted-types-for"] == ["'script'"]
    assert not re.search(r'(?:href|src)="(?!data:|#)', text)
    assert MARKUP not in text


def test_the_same_files_give_the_same_page(files, page):
    assert to_page(dict(reversed(files.items()))) == page


def test_a_page_is_a_model(graph, files, page, tmp_path):
    path = tmp_path / "page.html"
    path.write_bytes(page)
    opened = open_model(path)
    assert (opened.path, opened.format, opened.spec) == (path, "tflite", graph.spec)
    assert opened.data == next(data for name, data in files.items() if name.endswith(".tflite"))
    first = fusiform.predict(EXAMPLES / "cat.jpg", model=path)[0].top
    (written,) = write(graph, "float32", tmp_path)
    assert first == fusiform.predict(EXAMPLES / "cat.jpg", model=written.path)[0].top
    # An editor makes UTF-8 of it, with a byte order mark or without.
    for encoding in ("utf-8", "utf-8-sig"):
        path.write_bytes(text_of(page).encode(encoding))
        assert open_model(path).data == opened.data


def test_the_precision_of_a_page_is_that_of_its_model(graph, tmp_path):
    from fusiform.zoo.info import precision_of

    for precision in ("float32", "float16"):
        path = tmp_path / f"{precision}.html"
        path.write_bytes(to_page(site_files(graph, precision, level=1)))
        assert precision_of(open_model(path)) == precision


def test_other_programs_read_no_pages(page, tmp_path):
    path = tmp_path / "page.html"
    path.write_bytes(page)
    with pytest.raises(InputError, match=r"is a web page with the model inside, .* --to litert --out DIR"):
        write_snippet(path, "python")
    assert languages_for(path) == ()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda text: text[: text.index(".tflite") + 5000], "or cut off"),
        (lambda text: re.sub(r'(\.tflite"[^>]*>.{999}).', "\\1\u3401", text), "the model in this page is dam"),
        (lambda text: re.sub(r'(\.tflite"[^>]*>.{999}).', r"\1a", text), "the model in this page is dam"),
        (lambda text: re.sub(r'(\.tflite" data-bytes=)"', r'\1"9', text), "the model in this page is dam"),
        (lambda text: text.replace(".tflite", ".other"), "a web page without a model in it"),
        (lambda text: "<!doctype html><title>Photographs</title>", "a web page without a model in it"),
    ],
)  # fmt: skip
def test_a_damaged_page_is_no_model(spoil, said, page, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(spoil(text_of(page)), encoding="utf-16")
    with pytest.raises(WeightsError, match=said):
        open_model(path)


def test_an_export_leaves_the_file_alone(tmp_path):
    report = export("shufflenet_v2_x1_0", "web", tmp_path, precision="int8", single_file=True)
    path = tmp_path / "shufflenet_v2_x1_0_int8_web.html"
    (row,) = report.rows
    assert (row["file"], row["bytes"], row["passed"]) == (str(path), path.stat().st_size, True)
    assert row["runtime"].endswith("in the file")
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(
        (path.name, "shufflenet_v2_x1_0_int8_export.json")
    )
    assert path.stat().st_size < 6e6
    assert fusiform.predict(EXAMPLES / "cat.jpg", model=path)[0].top[0].name == "Egyptian cat"
    assert fusiform.verify(path, "shufflenet_v2_x1_0").passed


def test_the_option_is_for_pages(tmp_path):
    with pytest.raises(UsageError, match="--single-file: is for the page of --to web; leave it out"):
        export("shufflenet_v2_x1_0", "litert", tmp_path / "out", single_file=True)
    assert not (tmp_path / "out").exists()


needs_browser = pytest.mark.skipif(CHROMIUM is None or os.name != "posix", reason="there is no Chromium to drive")
STATUS = "document.getElementById('status')"
LISTEN = """
window.told = [];
window.Worker = class extends Worker {
  constructor(...given) {
    super(...given);
    this.addEventListener("message", ({ data }) => { if (!data.progress) window.told.push(data); });
  }
};
"""


EDGES = ("left", "top", "right", "bottom")
"""Of boxes, in pixels."""


class Watched(Browser):
    """Notes every address that is asked for."""

    def __init__(self, profile):
        self.asked = []
        super().__init__(profile)
        self.send("Page.addScriptToEvaluateOnNewDocument", source=LISTEN)

    def _note(self, event):
        super()._note(event)
        if event.get("method") == "Network.requestWillBeSent":
            self.asked.append(event["params"]["request"]["url"])


@pytest.fixture
def browser(tmp_path_factory):
    with contextlib.closing(Watched(tmp_path_factory.mktemp("profile"))) as opened:
        yield opened


def start(browser, address):
    browser.open(address)
    browser.wait(f"!document.getElementById('file').disabled || {STATUS}.classList.contains('error')")


def show(browser, path):
    """What the worker tells of a picture that the visitor chooses, without what is too large to be compared."""
    browser.evaluate("window.told.length = 0")
    browser.choose("#file", path)
    told = browser.wait("window.told[0] && { ...window.told[0].value, error: window.told[0].error }")
    browser.wait("!document.getElementById('answer').hidden")
    return {name: told[name] for name in ("guesses", "boxes", "shares") if name in told}


@needs_browser
@pytest.mark.parametrize("task", ["classification", "detection", "segmentation"])
def test_the_page_in_a_file_answers_as_the_folder_does(task, browser, tmp_path):
    (written,) = write(small_network(task, *LABELS), "float32", tmp_path)
    path = in_one_file(written).path
    with serving(written.path) as server:
        start(browser, server.address)
        expected = [show(browser, EXAMPLES / name) for name in ("cat.jpg", "coffee.jpg")]
    browser.asked.clear()
    start(browser, path.as_uri())
    assert browser.evaluate(f"{STATUS}.textContent") == "Ready."
    actual = [show(browser, EXAMPLES / name) for name in ("cat.jpg", "coffee.jpg")]
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name, rows in theirs.items():
            assert [row["name"] for row in ours[name]] == [row["name"] for row in rows]
            assert all(
                own[key] == pytest.approx(value, abs=0.05 if key in EDGES else 1e-4)
                for own, row in zip(ours[name], rows, strict=True)
                for key, value in row.items()
            )
    assert [address for address in browser.asked if not address.startswith(("blob:", "data:"))] == [path.as_uri()]
    assert browser.problems == []


@needs_browser
def test_the_bundled_model_answers_as_python_does(browser, tmp_path):
    (written,) = write(open_model("mobilenet_v2").graph(), "int8", tmp_path)
    path = in_one_file(written).path
    assert path.stat().st_size < 7e6
    start(browser, path.as_uri())
    guesses = show(browser, EXAMPLES / "cat.jpg")["guesses"]
    expected = fusiform.predict(EXAMPLES / "cat.jpg", model=path)[0].top
    assert [guess["name"] for guess in guesses] == [guess.name for guess in expected]
    assert [guess["probability"] for guess in guesses] == pytest.approx([g.probability for g in expected], abs=1e-5)
    assert browser.problems == []


@needs_browser
def test_the_worker_can_send_nothing(files, browser, tmp_path):
    """The policy is the worker's too: a worker that tries is heard only without it."""
    path = tmp_path / "page.html"
    (tmp_path / "heard.txt").write_text("heard")
    with serving(tmp_path) as server:
        asking = """
          new WebSocket("ws://HOST/heard.txt");
          const asking = new XMLHttpRequest();
          asking.open("GET", "http://HOST/heard.txt");
          asking.send();
        """.replace("HOST", f"127.0.0.1:{server.port}")
        page = to_page({**files, "worker.js": files["worker.js"] + asking.encode()})
        path.write_bytes(page)
        start(browser, path.as_uri())
        show(browser, EXAMPLES / "cat.jpg")
        assert server.requests == []
        path.write_text(re.sub(r"<meta http-equiv[^>]*>", "", text_of(page)), encoding="utf-16")
        start(browser, path.as_uri())
        show(browser, EXAMPLES / "cat.jpg")
        assert [name for name, _ in server.requests] == ["/heard.txt", "/heard.txt"]


@needs_browser
def test_what_is_said_where_the_page_cannot_start(page, browser, tmp_path):
    path = tmp_path / "page.html"
    text = text_of(page)
    for spoilt, said in (
        (re.sub(r'(wasm.gz"[^>]*>)(.{999}).', r"\1\2" + "\u3401", text), "failed"),  # found when it is unpacked
        (
            re.sub(r'("texts/en.js"[^>]*>)(.{99}).', r"\1\2" + "\u3401", text),
            "This page is not whole: download it",
        ),
        (text[: len(text) // 2], "and the whole of the file: open it with Chrome"),
    ):
        path.write_text(spoilt, encoding="utf-16")
        browser.open(path.as_uri())
        if said == "failed":
            browser.wait(f"{STATUS}.classList.contains('error')")
        else:
            browser.wait(f"{STATUS}.textContent.includes('{said}')")
    path.write_bytes(page)
    browser.send("Page.addScriptToEvaluateOnNewDocument", source="delete self.DecompressionStream;")
    browser.open(path.as_uri())
    browser.wait(f"{STATUS}.textContent.startsWith('This browser is too old for this page: it needs Chrome 80')")


@needs_browser
def test_samples_languages_and_the_self_test_are_inside(tmp_path):
    export("shufflenet_v2_x1_0", "web", tmp_path, precision="int8", single_file=True, golden=2)
    path = tmp_path / "shufflenet_v2_x1_0_int8_web.html"
    assert [each.name for each in tmp_path.iterdir() if each.is_dir()] == []
    with contextlib.closing(Watched(tmp_path / "profile")) as browser:
        start(browser, f"{path.as_uri()}?lang=ko")
        assert browser.evaluate("document.documentElement.lang") == "ko"
        assert browser.wait("[...document.querySelectorAll('#sample-list img')].every((each) => each.naturalWidth)")
        browser.evaluate("document.querySelector('#sample-list button').click()")
        assert browser.wait("document.querySelector('#guesses th')?.textContent") == "Egyptian cat"
        browser.evaluate("document.getElementById('licence').open = true")
        browser.wait("document.getElementById('licence-text').textContent.includes('Apache License')")
        browser.evaluate("document.getElementById('test-run').click()")
        browser.wait("document.querySelector('#test-said').className")
        assert browser.evaluate("document.querySelector('#test-said').className") == "passed"
        assert browser.problems == []
