"""The page for a static host: its files, its JavaScript against the arithmetic in Python, and the page in a browser."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image

import fusiform
from fusiform.data.preprocess import crop_pixels
from fusiform.errors import OutputError, UsageError
from fusiform.exporting.job import export
from fusiform.exporting.targets.litert import write as write_litert
from fusiform.exporting.targets.web import PAGE, RUNTIME, unpack_runtime, write
from fusiform.graph.build import build_graph
from fusiform.graph.inputs import read_pixels
from fusiform.graph.tflite import input_type
from fusiform.spec import ModelSpec, Preprocess
from fusiform.zoo.model import open_model

sys.path.insert(0, str(Path(__file__).parent))

from browser import CHROMIUM, browsing, serving
from networks import small_network
from node import node_or_skip

sys.path.pop(0)

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"
MARKUP = "<img src=x onerror=alert(1)> & Zürich \N{CAT FACE}"


@pytest.fixture(scope="module")
def graph(small_spec, lived_in_state):
    spec = small_spec("mobilenet_v2", size=48)
    return build_graph(spec.replace(labels=tuple(f"{MARKUP} {k}" for k in range(10))), lived_in_state(spec))


@pytest.fixture(scope="module")
def node():
    return node_or_skip()


def run_node(node, script, *arguments, text=""):
    result = subprocess.run(
        [node, HERE / script, *arguments], input=text, capture_output=True, encoding="utf-8", timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def network(node, tmp_path_factory):
    """A function that runs network.js on a list of cases."""
    folder = tmp_path_factory.mktemp("network")
    shutil.copy(PAGE / "network.js", folder)
    (folder / "package.json").write_text('{"type": "module"}')  # what the page's <script type=module> says
    return lambda cases: run_node(node, "web_network.mjs", folder / "network.js", text=json.dumps(cases))


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def description_of(site):
    return json.loads((site / "model.json").read_text(encoding="utf-8"))


def test_the_folder_holds_the_model_its_description_the_page_and_the_runtime(graph, tmp_path):
    (written,) = write(graph, "float32", tmp_path)
    site = tmp_path / "mobilenet_v2_x0_5_float32_web"
    assert (written.path, written.files) == (site, (site,))
    page = set(files_of(PAGE))
    assert page >= {"index.html", "app.js", "worker.js", "network.js", "litert.js", "sw.js", "style.css"}
    runtime = {f"runtime/{name}" for name in unpack_runtime()}
    assert set(files_of(site)) == page | runtime | {"model.json", "mobilenet_v2_x0_5_float32.tflite"}

    description = description_of(site)
    assert description["model"] == "mobilenet_v2_x0_5_float32.tflite"
    assert ModelSpec.from_json(json.dumps(description["spec"])) == graph.spec
    large = {name for name, content in files_of(site).items() if len(content) > 1e6}
    assert description["sha256"] == {
        name: hashlib.sha256((site / name).read_bytes()).hexdigest() for name in large | {description["model"]}
    }


@pytest.mark.parametrize("form", ["normalized", "pixels"])
def test_the_folder_is_a_model_that_reads_pixels(form, graph, tmp_path):
    (written,) = write(read_pixels(graph) if form == "pixels" else graph, "float32", tmp_path)
    opened = open_model(written.path)
    assert (opened.format, opened.spec, input_type(opened.data)) == ("tflite", graph.spec, "uint8")
    (alone,) = write_litert(graph, "float32", tmp_path)
    ours, theirs = (fusiform.predict(EXAMPLES / "cat.jpg", model=path)[0].top for path in (written.path, alone.path))
    assert [guess.name for guess in ours] == [guess.name for guess in theirs]
    assert [guess.probability for guess in ours] == pytest.approx([g.probability for g in theirs], abs=1e-5)


def test_the_bundled_int8_model_reads_pixels(tmp_path):
    (written,) = write(open_model("shufflenet_v2_x1_0").graph(), "int8", tmp_path)
    assert written.path.name == "shufflenet_v2_x1_0_int8_web"
    assert input_type(open_model(written.path).data) == "uint8"


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_the_same_graph_gives_the_same_bytes(precision, graph, tmp_path):
    contents = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        contents.append(files_of(write(graph, precision, tmp_path / name)[0].path))
    assert contents[0] == contents[1]
    assert files_of(write(graph, precision, tmp_path / "a")[0].path) == contents[0]  # and over what was there


def test_networks_of_other_channels_are_refused(small_spec, lived_in_state, tmp_path):
    spec = small_spec("mobilenet_v2", channels=1)
    with pytest.raises(UsageError, match="reads 1 channels"):
        write(build_graph(spec, lived_in_state(spec)), "float32", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(graph, tmp_path):
    (tmp_path / "mobilenet_v2_x0_5_float32_web").write_text("a file")
    with pytest.raises(OutputError, match=r"cannot write .*_web \(File exists\): choose another place"):
        write(graph, "float32", tmp_path)


def test_a_page_has_no_other_numbers_than_pixels(tmp_path):
    with pytest.raises(UsageError, match=r"--no-pixels: a page gives its model pixels; leave it out for web"):
        export("shufflenet_v2_x1_0", "litert,web", tmp_path / "out", pixels=False)


def test_the_runtime_is_the_one_that_is_locked():
    lock = json.loads((RUNTIME / "lock.json").read_text(encoding="utf-8"))
    files = unpack_runtime()
    assert files.pop("LICENSE") == (HERE.parents[1] / "LICENSE").read_bytes()
    found = {
        name.removesuffix(".gz"): gzip.decompress(data) if name.endswith(".gz") else data
        for name, data in files.items()
    }
    # The one change: a browser knows files and no packages.
    assert found["index.js"].count(b'from "./wasm-utils.js"') == 1
    found["index.js"] = found["index.js"].replace(b'from "./wasm-utils.js"', b'from "@litertjs/wasm-utils"')
    assert {name: hashlib.sha256(data).hexdigest() for name, data in found.items()} == {
        name: file["sha256"] for name, file in lock["files"].items()
    }
    assert {file["package"] for file in lock["files"].values()} == set(lock["packages"])
    notices = (HERE.parents[1] / "THIRD_PARTY.md").read_text(encoding="utf-8")
    for name, package in lock["packages"].items():
        assert f"`{name}` {package['version']} ({package['license']})" in notices


def test_what_is_kept_for_later_is_the_whole_page():
    kept = re.search(r"const PAGE = (\[.*?\]);", (PAGE / "sw.js").read_text(encoding="utf-8"), re.DOTALL).group(1)
    assert set(json.loads(kept)) == {"./", "model.json"} | set(files_of(PAGE)) - {"sw.js"}


def test_nothing_is_loaded_from_elsewhere():
    """No address of another host, no inline script, and the policy that forbids both."""
    for name, content in files_of(PAGE).items():
        if name.endswith(".png"):
            continue
        text = re.sub(r"(?m)^\s*//.*$", "", content.decode())
        assert re.findall(r"(?:https?:)?//[a-z0-9-]+[.:][^\s<]*", text) in ([], ["http://localhost:8000"])
    page = (PAGE / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<script\b[^>]*>(.*?)</script>", page, re.DOTALL) == [""]
    policy = page.partition('Content-Security-Policy"')[2].partition(">")[0]
    assert "default-src 'none'; script-src 'self'; worker-src 'self'; connect-src 'self'" in policy


def pictures():
    """Noise, in which every pixel counts, of shapes that round in different ways."""
    random = np.random.default_rng(0)
    for width, height in ((53, 37), (37, 53), (64, 64), (31, 200), (7, 5), (301, 299), (1, 40)):
        yield Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))


PREPROCESSES = [
    Preprocess(),
    Preprocess(resize=32, crop=32),
    Preprocess(resize=33, crop=32, mean=(0.1, 0.2, 0.3), std=(1.0, 0.5, 0.25)),
    Preprocess(resize=20, crop=32),
    Preprocess(resize=64, crop=64, color_order="bgr"),
    Preprocess(resize=48, crop=48, fit="stretch"),
    Preprocess(resize=48, crop=48, fit="pad", color_order="bgr"),
    Preprocess(resize=48, crop=48, fit="pad", interpolation="bicubic", antialias=False),
    *(
        Preprocess(resize=resize, crop=32, interpolation=interpolation, antialias=antialias)
        for resize in (32, 45, 64)
        for interpolation, antialias in (
            ("bicubic", True),
            ("lanczos", True),
            ("nearest", True),
            ("nearest", False),
            ("bilinear", False),
            ("bicubic", False),
        )
    ),
]


@pytest.mark.parametrize("rows", [1000, 7])
def test_pictures_are_prepared_as_in_python(rows, network):
    cases = [(picture, preprocess) for picture in pictures() for preprocess in PREPROCESSES]
    answers = network(
        [
            {
                "picture": {
                    "data": base64.b64encode(picture.convert("RGBA").tobytes()).decode(),
                    "width": picture.width,
                    "height": picture.height,
                },
                "preprocess": dataclasses.asdict(preprocess),
                "rows": rows,
            }
            for picture, preprocess in cases
        ]
    )
    for (picture, preprocess), answer in zip(cases, answers, strict=True):
        actual = np.frombuffer(base64.b64decode(answer), np.uint8).reshape(preprocess.crop, preprocess.crop, 3)
        expected = crop_pixels(picture, preprocess)
        # Pillow's fixed-point sums to the bit, as of the version whose order of rows and columns this is; PyTorch's
        # sampling, in another precision, to a rounding.
        exact = preprocess.antialias and int(PIL.__version__.partition(".")[0]) >= 13
        difference = np.abs(actual.astype(int) - expected).max()
        assert difference <= (0 if exact else 1), (picture.size, preprocess)


needs_browser = pytest.mark.skipif(CHROMIUM is None or os.name != "posix", reason="there is no Chromium to drive")
STATUS = "document.getElementById('status')"
# What the worker tells the page, in full precision.
LISTEN = """
window.told = [];
window.Worker = class extends Worker {
  constructor(...given) {
    super(...given);
    this.addEventListener("message", ({ data }) => { if (!data.progress) window.told.push(data); });
  }
};
"""
SHOWN = """({
  status: document.getElementById("status").textContent,
  error: document.getElementById("status").classList.contains("error"),
  hidden: document.getElementById("answer").hidden,
  rows: [...document.querySelectorAll("#guesses tr")].map((row) => [...row.children].map((cell) => cell.textContent)),
  share: document.querySelector("#guesses tr")?.style.getPropertyValue("--share"),
  about: document.getElementById("about").textContent,
})"""


@pytest.fixture
def browser(tmp_path_factory):
    with browsing(tmp_path_factory.mktemp("profile")) as opened:
        opened.send("Page.addScriptToEvaluateOnNewDocument", source=LISTEN)
        yield opened


def start(browser, address):
    browser.open(address)
    browser.wait(f"!document.getElementById('file').disabled || {STATUS}.classList.contains('error')")
    assert browser.evaluate(f"{STATUS}.textContent") == "Ready."


def show(browser, path):
    """What the worker tells of a picture that the visitor chooses, once the page shows it."""
    browser.evaluate("window.told.length = 0")
    browser.choose("#file", path)
    told = browser.wait("window.told[0] && { ...window.told[0].value, pixels: null, error: window.told[0].error }")
    browser.wait(f"!{STATUS}.textContent.endsWith('...')")
    return told


def check_answers(browser, site, photographs):
    for path in photographs:
        guesses = show(browser, path)["guesses"]
        expected = fusiform.predict(path, model=site)[0].top
        assert [guess["name"] for guess in guesses] == [guess.name for guess in expected], path
        difference = max(abs(a["probability"] - b.probability) for a, b in zip(guesses, expected, strict=True))
        assert difference < 1e-6, path


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundled")
    return {
        name: write(open_model(name).graph(), "int8", folder)[0].path
        for name in ("mobilenet_v2_x1_0", "shufflenet_v2_x1_0")
    }


@needs_browser
@pytest.mark.parametrize("name", ["mobilenet_v2_x1_0", "shufflenet_v2_x1_0"])
def test_the_page_answers_as_python_does_and_without_the_network(name, bundled, browser):
    photographs = [EXAMPLES / "cat.jpg", EXAMPLES / "coffee.jpg"]
    with serving(bundled[name]) as server:
        start(browser, server.address)
        check_answers(browser, bundled[name], photographs)
        # Once, the build for this browser alone, and in fewer bytes than 7.3 MB.
        asked = [path.partition("?")[0] for path, _ in server.requests]
        assert len([path for path in asked if path.endswith((".gz", ".tflite"))]) == 2
        assert sum(count for _, count in server.requests) < 7.3e6
        assert browser.problems == []
    browser.send("Page.reload")
    start(browser, server.address)  # where nobody answers any more
    check_answers(browser, bundled[name], photographs[:1])


@needs_browser
def test_browsers_without_relaxed_simd(bundled, browser, tmp_path):
    """Safari's build, which Chromium runs as well."""
    site = tmp_path / "site"
    shutil.copytree(bundled["shufflenet_v2_x1_0"], site)
    script = (site / "litert.js").read_text(encoding="utf-8")
    assert script.count('(await supportsFeature("relaxedSimd"))') == 1
    (site / "litert.js").write_text(script.replace('(await supportsFeature("relaxedSimd"))', "false"))
    with serving(site) as server:
        start(browser, server.address)
        check_answers(browser, site, [EXAMPLES / "cat.jpg"])
    asked = [path for path, _ in server.requests if ".wasm" in path]
    assert [path.partition("?")[0] for path in asked] == ["/runtime/litert_wasm_compat_internal.wasm.gz"]


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v2_x1_0", "shufflenet_v2_x1_0"])
def test_a_hundred_photographs(name, bundled, browser, shared_data):
    photographs = sorted((shared_data / "imagenet_val").rglob("*.JPEG"))[::5]
    assert len(photographs) == 100
    with serving(bundled[name]) as server:
        start(browser, server.address)
        check_answers(browser, bundled[name], photographs)
        assert browser.problems == []


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_photographs_on_float_pages(precision, browser, shared_data, tmp_path):
    photographs = sorted((shared_data / "imagenet_val").rglob("*.JPEG"))[::25]
    assert len(photographs) == 20
    export("mobilenet_v2", "web", tmp_path, precision=precision)
    (site,) = tmp_path.glob("*_web")
    with serving(site) as server:
        start(browser, server.address)
        for path in photographs:
            guesses = show(browser, path)["guesses"]
            expected = fusiform.predict(path, model=site)[0].top
            assert [guess["name"] for guess in guesses] == [guess.name for guess in expected], path
            for ours, theirs in zip(guesses, expected, strict=True):
                assert abs(ours["probability"] - theirs.probability) < 1e-3, path
        assert browser.problems == []


def make_pictures(folder):
    """Pictures held in several ways, of several kinds, with transparency, large, long and small."""
    with Image.open(EXAMPLES / "cat.jpg") as image:
        photograph = image.convert("RGB")
    exif = Image.Exif()
    for orientation in (3, 6, 7):
        exif[0x0112] = orientation
        photograph.save(folder / f"held_{orientation}.jpg", exif=exif, quality=95)
    photograph.convert("L").save(folder / "grey.png")
    photograph.quantize(60).save(folder / "palette.gif")
    photograph.save(folder / "lossless.webp", lossless=True)
    shade = photograph.convert("RGBA")
    shade.putalpha(Image.linear_gradient("L").resize(photograph.size).point(lambda value: 255 * (value > 99)))
    shade.save(folder / "transparent.png")
    photograph.resize((5000, 3600)).save(folder / "eighteen_megapixels.png", compress_level=1)
    photograph.resize((20_000, 40)).save(folder / "twenty_thousand_wide.png")
    photograph.resize((1, 1)).save(folder / "one.png")
    return sorted(folder.iterdir())


@needs_browser
def test_pictures_of_all_kinds(bundled, browser, tmp_path):
    site = bundled["shufflenet_v2_x1_0"]
    with serving(site) as server:
        start(browser, server.address)
        check_answers(browser, site, make_pictures(tmp_path))
        assert browser.problems == []


@needs_browser
def test_labels_are_text_and_a_broken_file_is_said(graph, browser, tmp_path):
    (written,) = write(graph, "float32", tmp_path)
    (tmp_path / "broken.png").write_text("no picture")
    (tmp_path / "empty.jpg").write_bytes(b"")
    with serving(written.path) as server:
        start(browser, server.address)
        show(browser, EXAMPLES / "cat.jpg")
        shown = browser.evaluate(SHOWN)
        expected = fusiform.predict(EXAMPLES / "cat.jpg", model=written.path)[0].top
        assert [label for label, _ in shown["rows"]] == [guess.name for guess in expected]
        assert shown["rows"][0][1] == f"{100 * expected[0].probability:.1f}%"
        assert float(shown["share"]) == pytest.approx(expected[0].probability)
        assert (shown["error"], shown["hidden"]) == (False, False)
        assert shown["status"] == f"cat.jpg: {expected[0].name}, {shown['rows'][0][1]}"
        assert shown["about"] == "Photographs stay on this device: nothing is sent anywhere."
        assert shown["rows"][0][0].startswith(MARKUP)  # as text

        # A file that is no picture is said, and the next one is answered all the same.
        for name, said in (("broken.png", "is not a picture"), ("empty.jpg", "is empty (0 bytes)")):
            show(browser, tmp_path / name)
            shown = browser.evaluate(SHOWN)
            assert shown["status"].startswith(f"{name} {said}")
            assert (shown["error"], shown["hidden"]) == (True, True)
        show(browser, EXAMPLES / "coffee.jpg")
        assert not browser.evaluate(SHOWN)["error"]
        assert browser.problems == []


@needs_browser
def test_the_page_finds_the_boxes_that_python_finds(browser, tmp_path):
    (written,) = write(small_network("detection"), "float32", tmp_path)
    with serving(written.path) as server:
        start(browser, server.address)
        for path in (EXAMPLES / "cat.jpg", EXAMPLES / "coffee.jpg"):
            told = show(browser, path)
            expected = fusiform.predict(path, model=written.path)[0].detections.boxes
            assert len(expected) > 3
            assert [box["name"] for box in told["boxes"]] == [box.name for box in expected]
            for ours, theirs in zip(told["boxes"], expected, strict=True):
                assert ours["score"] == pytest.approx(theirs.score, abs=1e-5)
                edges = [ours[edge] for edge in ("left", "top", "right", "bottom")]
                assert edges == pytest.approx(
                    [theirs.left, theirs.top, theirs.right, theirs.bottom], abs=0.05
                )  # pixels
            shown = browser.evaluate(SHOWN)
            assert shown["status"] == f"{path.name}: {len(expected)} objects"
            assert [name for name, _ in shown["rows"]] == [box.name for box in expected]
        assert browser.problems == []


@needs_browser
def test_the_page_tints_the_pixels_that_python_tints(browser, tmp_path):
    (written,) = write(small_network("segmentation", seed=15), "float32", tmp_path)
    with serving(written.path) as server:
        start(browser, server.address)
        path = EXAMPLES / "cat.jpg"
        show(browser, path)
        text = browser.evaluate(
            "btoa(window.told[0].value.mask.classes.reduce((s, k) => s + String.fromCharCode(k), ''))"
        )
        expected = fusiform.predict(path, model=written.path)[0].segmentation.classes
        mask = np.frombuffer(base64.b64decode(text), np.uint8).reshape(expected.shape)
        assert len(np.unique(expected)) == 3
        assert (mask == expected).mean() > 0.9999
        shown = browser.evaluate(SHOWN)
        assert sum(float(share.rstrip("%")) for _, share in shown["rows"]) == pytest.approx(100, abs=0.2)
        assert browser.problems == []


@needs_browser
def test_a_page_without_its_model_says_so(graph, browser, tmp_path):
    (written,) = write(graph, "float32", tmp_path)
    (written.path / "mobilenet_v2_x0_5_float32.tflite").unlink()
    with serving(written.path) as server:
        browser.open(server.address)
        browser.wait(f"{STATUS}.classList.contains('error')")
        said = browser.evaluate(f"{STATUS}.textContent")
    assert said == "mobilenet_v2_x0_5_float32.tflite: the server answers 404 File not found"


def test_no_text_becomes_markup():
    scripts = b"".join(data for name, data in files_of(PAGE).items() if name.endswith(".js")).decode()
    assert "textContent" in scripts
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\(", scripts)
