"""The page keeps the sketches that ``predict --sketch`` does, in the browser alone, for ``fusiform drift``."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import random
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

import fusiform
from fusiform.advice.drift import drift
from fusiform.calibration.answer import Reader
from fusiform.calibration.reference import MEASURES, mark
from fusiform.data.looks import measure, rgb
from fusiform.data.preprocess import crop_pixels
from fusiform.engines import open_engine
from fusiform.errors import InputError
from fusiform.exporting.demo.job import page_files
from fusiform.exporting.targets import web
from fusiform.exporting.targets.base import Written
from fusiform.exporting.targets.web_samples import PageSample, make_sample
from fusiform.exporting.targets.web_single import in_one_file
from fusiform.graph.build import build_graph
from fusiform.graph.tflite import to_tflite
from fusiform.prediction.kept import ROWS, Thinned, read_kept
from fusiform.tasks.classification import to_probabilities
from fusiform.zoo.model import open_model

sys.path.insert(0, str(Path(__file__).parent))

from browser import CHROMIUM, axe_core, browsing, serving
from node import run_tests

sys.path.pop(0)

pytestmark = pytest.mark.usefixtures("unpacked_once")
needs_browser = pytest.mark.skipif(CHROMIUM is None or os.name != "posix", reason="there is no Chromium to drive")
EXAMPLES = Path(__file__).parents[2] / "examples"
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
TITLE = "document.getElementById('sketch-title').textContent"
COLUMNS = len(MEASURES) + 1
SEEN = 60


def scene(rng, side=40):
    """A smooth scene with grain, in one of two colours."""
    coarse = rng.integers(0, 120, (5, 5, 3), np.uint8)
    coarse[..., int(rng.integers(2))] += 60
    smooth = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)).astype(float)
    return Image.fromarray((smooth + rng.normal(20, 8, smooth.shape)).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """120 images to calibrate on, and others as they are and blurred."""
    root, rng = tmp_path_factory.mktemp("scenes"), np.random.default_rng(6)
    for k in range(120):
        (root / "known" / ("one", "two")[k % 2]).mkdir(parents=True, exist_ok=True)
        scene(rng).save(root / "known" / ("one", "two")[k % 2] / f"{k}.png")
    for name in ("clean", "blurred", "jpeg"):
        (root / name).mkdir()
    for k in range(SEEN):
        image = scene(rng)
        image.save(root / "clean" / f"{k:02}.png")
        image.filter(ImageFilter.GaussianBlur(1.5)).save(root / "blurred" / f"{k:02}.png")
    for k in range(20):
        scene(rng, 90 + 17 * k).save(root / "jpeg" / f"{k:02}.jpg", quality=(60, 75, 95)[k % 3], subsampling=k % 3)
    return root


def calibrate(spec, state, scenes, folder):
    path = folder / "plain.tflite"
    path.write_bytes(to_tflite(build_graph(spec, state)))
    fusiform.evaluate(open_model(path), scenes / "known", calibrate=folder / "sure.tflite", threads=1)
    return open_model(folder / "sure.tflite")


@pytest.fixture(scope="module")
def model(small_spec, lived_in_state, scenes, tmp_path_factory):
    spec = small_spec("mobilenet_v2", 0.35, classes=2).replace(labels=("one", "two"))
    return calibrate(spec, lived_in_state(spec), scenes, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def other(small_spec, lived_in_state, scenes, tmp_path_factory):
    spec = small_spec("mobilenet_v2", 0.35, classes=2).replace(labels=("one", "two"))
    return calibrate(spec, lived_in_state(spec, seed=8), scenes, tmp_path_factory.mktemp("other"))


@pytest.fixture(scope="module")
def site(model, tmp_path_factory):
    sample = PageSample("sample.jpg", make_sample(scene(np.random.default_rng(9))))
    return web.write(model.graph(), "float32", tmp_path_factory.mktemp("site"), [sample])[0].path


def bits_of(rows):
    return np.asarray(rows, np.float16).view(np.uint16).tolist()


def halves():
    rng = np.random.default_rng(0)
    exact = np.arange(0, 0x7BFF, 37, np.uint16).view(np.float16).astype(float)
    middles = (exact[1:] + np.nextafter(exact[1:].astype(np.float16), np.float16(0)).astype(float)) / 2
    spread = rng.normal(size=2000) * 10.0 ** rng.integers(-9, 5, 2000)
    close = [np.nextafter(2.0**k, (0, 1e9)[up]) for k in range(-25, 16) for up in (0, 1)]
    powers = [2.0**k for k in range(-26, 16)]
    values = np.concatenate([exact, middles, -middles, spread, close, powers, [0, 65000, -65000]]).clip(-65000, 65000)
    return [{"value": float(v), "bits": int(np.float16(v).view(np.uint16))} for v in values]


def photographs(model, scenes):
    """Images as the network sees them, its answers, and Python's rows of them; upright, in other shapes and orders."""
    files = [*sorted((scenes / "clean").iterdir())[:20], *sorted((scenes / "jpeg").iterdir())]
    for order, temperature in (("rgb", 1.0), ("bgr", 2.5)):
        preprocess = dataclasses.replace(model.spec.preprocess, color_order=order)
        spec = model.spec.replace(preprocess=preprocess, temperature=temperature)
        images = [Image.open(path).convert("RGB") for path in files] + [Image.new("RGB", (32, 32), (7, 7, 7))]
        pixels = np.array([crop_pixels(image, preprocess) for image in images])
        looks = np.array([measure(image, rgb(one, preprocess)) for image, one in zip(images, pixels, strict=True)])
        said = open_engine(model, features=True).run(pixels)
        rows = Reader(spec.certainty).rows(looks, to_probabilities(said["logits"], spec), said["features"])
        for k, image in enumerate(images):
            yield {
                "spec": json.loads(spec.to_json()),
                "pixels": base64.b64encode(pixels[k].tobytes()).decode(),
                "size": dict(zip(("width", "height"), image.size, strict=True)),
                "logits": said["logits"][k].tolist(),
                "features": said["features"][k].tolist(),
                "row": bits_of(rows[k]),
            }


def stream(images=2100, seed=5):
    """Which of many images Python keeps, by their numbers; and the draws that decided it."""
    thinned, drawn, draws = Thinned(seed=seed), random.Random(seed), []
    checkpoints, kept = {}, []
    for k in range(images):
        draws += [] if thinned.every == 1 else [drawn.random()]
        if thinned.wants():
            before = thinned.every
            thinned.add(np.zeros(COLUMNS, np.float16))
            kept.append(k)
            kept = kept if thinned.every == before else kept[::2]
        assert len(kept) == len(thinned)
        if k + 1 in (1, ROWS, ROWS + 1, 700, 1300, images):
            checkpoints[k + 1] = [thinned.every, list(kept)]
    return {"images": images, "draws": draws, "checkpoints": checkpoints}


def test_sketches_are_kept_as_in_python(model, scenes, tmp_path):
    rng = np.random.default_rng(3)
    rows = (rng.normal(size=(300, COLUMNS)) * 100).astype(np.float16)
    rows[0, :3] = -0.0, 65504, -65504
    vectors = {
        "halves": halves(),
        "photographs": list(photographs(model, scenes)),
        "stream": stream(),
        "rows": bits_of(rows),
        "mark": mark(model.spec),
    }
    (tmp_path / "sketch.json").write_text(json.dumps(vectors), encoding="utf-8")
    assert run_tests("web_sketch.test.mjs", tmp_path) == 5
    kept = read_kept(tmp_path / "kept.json", model)
    assert (kept.images, kept.every) == (307, 2)
    np.testing.assert_array_equal(kept.rows.view(np.uint16), rows.view(np.uint16))
    with pytest.raises(InputError, match="has no image in it yet"):
        drift(model, tmp_path / "empty.json")


def test_only_a_page_whose_sketches_can_be_tested_offers_one(model, site):
    described = json.loads((site / "model.json").read_text(encoding="utf-8"))
    assert described["sketch"] == mark(open_model(site).spec) == mark(model.spec)
    certainty = model.spec.certainty
    for changed in (None, dataclasses.replace(certainty, reference=None), dataclasses.replace(certainty, unknown=None)):
        graph = dataclasses.replace(model.graph(), spec=model.spec.replace(certainty=changed))
        found = json.loads(web.site_files(graph, "float32", level=1)["model.json"])
        assert list(found) == ["model", "runtime", "answers", "sha256", "samples", "spec"], changed
    assert "sketch" in json.loads(page_files(model, None, lambda _: None, level=1)["model.json"])


@pytest.fixture
def browser(tmp_path_factory):
    with browsing(tmp_path_factory.mktemp("profile"), *CAMERA) as opened:
        yield opened


def open_page(browser, address):
    browser.open(address)
    browser.wait("document.body.dataset.state === 'ready'")


def show(browser, *paths):
    """Drop photographs, and wait for the answer to the last one."""
    browser.drop(*paths)
    browser.wait(f"document.getElementById('status').textContent.startsWith({json.dumps(paths[-1].name)} + ':')", 120)


def switch(browser):
    browser.evaluate("document.getElementById('sketch-on').click()")


def save(browser, folder):
    """The sketch as the visitor downloads it."""
    behaviour = {"behavior": "allow", "downloadPath": str(folder)}
    browser.send("Browser.setDownloadBehavior", session=False, **behaviour)
    browser.evaluate("document.getElementById('sketch-save').click()")
    said = browser.wait("document.getElementById('sketch-said').textContent")
    path = folder / said.rpartition(" ")[2]
    assert said == f"Saved. To test it: fusiform drift MODEL {path.name}"
    end = time.monotonic() + 30
    while not path.is_file() and time.monotonic() < end:
        browser.evaluate("new Promise((done) => setTimeout(done, 50))")
    return path


def hold(rows, expected):
    """The rows of two sketches: at most a step of half precision apart, or 1e-4 where a number is near 0."""
    assert rows.shape == expected.shape
    bits = [each.view(np.uint16).astype(int) for each in (rows, expected)]
    one, other = (np.where(each & 0x8000, -(each & 0x7FFF), each) for each in bits)
    near = np.abs(rows.astype(float) - expected.astype(float)) <= 1e-4
    assert (near | (np.abs(one - other) <= 1)).all(), np.abs(one - other).max(0)


def verdict(found):
    return found.figures["alarm_after"], {row["changed"] for row in found.rows}


@needs_browser
@pytest.mark.parametrize("name", ["clean", "blurred"])
def test_drift_says_of_the_pages_sketch_what_it_says_of_predicts(name, model, other, site, scenes, tmp_path, browser):
    paths = sorted((scenes / name).iterdir())
    fusiform.predict(paths, model, sketch=tmp_path / "seen.json", threads=1)
    with serving(site) as server:
        open_page(browser, server.address)
        switch(browser)
        show(browser, *paths)
        assert browser.evaluate(TITLE) == f"Sketch for the drift test: on, {SEEN} photographs"
        saved = save(browser, tmp_path)
        asked = [path for path, _ in server.requests]
        assert browser.problems == []
    assert saved.name == "mobilenet_v2_x0_35_float32-sketch.json"
    text = saved.read_text(encoding="utf-8")
    assert ".png" not in text
    assert len(text) < 4000
    assert not [path for path in asked if "sketch" in path and not path.startswith(("/sketch.js", "/sketching.js"))]
    kept, expected = read_kept(saved, model), read_kept(tmp_path / "seen.json", model)
    assert kept[:2] == expected[:2] == (SEEN, 1)
    hold(kept.rows, expected.rows)
    found = drift(model, saved)
    assert verdict(found) == verdict(drift(model, tmp_path / "seen.json")) == verdict(drift(site, saved))
    assert found.alarm == (name == "blurred")
    with pytest.raises(InputError, match="was kept with another model"):
        drift(other, saved)


@needs_browser
def test_rows_of_jpegs_are_pythons(model, site, scenes, tmp_path, browser):
    paths = [*sorted((scenes / "jpeg").iterdir()), EXAMPLES / "cat.jpg", EXAMPLES / "coffee.jpg"]
    fusiform.predict(paths, model, sketch=tmp_path / "seen.json", threads=1)
    with serving(site) as server:
        open_page(browser, server.address)
        switch(browser)
        show(browser, *paths)
        kept = read_kept(save(browser, tmp_path), model)
    hold(kept.rows, read_kept(tmp_path / "seen.json", model).rows)


@needs_browser
def test_it_is_the_visitors_and_stays_until_it_is_forgotten(site, scenes, tmp_path, browser):
    paths = sorted((scenes / "clean").iterdir())
    stored = "Object.keys(localStorage).length"
    buttons = "['save', 'forget'].map((name) => document.getElementById(`sketch-${name}`).hidden)"
    with serving(site) as server:
        open_page(browser, server.address)
        assert browser.evaluate(TITLE) == "Sketch for the drift test"
        show(browser, paths[0])
        assert browser.evaluate(f"[{stored}, ...{buttons}]") == [0, True, True]
        # With the keyboard alone.
        browser.evaluate("document.getElementById('sketch-title').focus()")
        for key, text in (("Enter", "\r"), ("Tab", ""), (" ", " ")):
            for kind in ("keyDown", "keyUp"):
                code = {"Enter": 13, "Tab": 9, " ": 32}[key]
                browser.send("Input.dispatchKeyEvent", type=kind, key=key, text=text, windowsVirtualKeyCode=code)
        assert browser.evaluate("document.getElementById('sketch').open")
        assert browser.evaluate("document.activeElement.id") == "sketch-on"
        assert browser.evaluate(TITLE) == "Sketch for the drift test: on, 0 photographs"
        show(browser, *paths[1:4])
        # What the page brings along is not counted, nor what it cannot read.
        browser.evaluate("document.querySelector('#sample-list button').click()")
        browser.wait("document.getElementById('status').textContent.startsWith('sample.jpg:')")
        (tmp_path / "broken.png").write_bytes(b"nothing")
        browser.drop(tmp_path / "broken.png")
        browser.wait("document.body.dataset.state === 'failed'")
        open_page(browser, server.address)
        assert browser.evaluate(TITLE) == "Sketch for the drift test: on, 3 photographs"
        assert browser.evaluate("document.getElementById('sketch-on').checked")
        # Of what moves, a frame that is kept.
        browser.evaluate("document.getElementById('camera').click()")
        browser.wait("document.querySelector('#live tbody tr')")
        assert browser.evaluate(TITLE) == "Sketch for the drift test: on, 3 photographs"
        browser.evaluate("document.querySelector('#live button').click()")
        browser.wait("document.body.dataset.state === 'answered'")
        assert browser.evaluate(TITLE) == "Sketch for the drift test: on, 4 photographs"
        switch(browser)
        show(browser, paths[4])
        assert browser.evaluate(TITLE) == "Sketch for the drift test: off, 4 photographs"
        # That of another model, which this page had before, goes too; what is of others stays.
        browser.evaluate("localStorage.setItem('fusiform sketch / 0123', '{}'), localStorage.setItem('others', '')")
        browser.evaluate("document.getElementById('sketch').open = true")
        browser.evaluate("document.getElementById('sketch-forget').focus()")
        browser.evaluate("document.getElementById('sketch-forget').click()")
        assert browser.evaluate(f"[{stored}, ...{buttons}]") == [1, True, True]
        assert browser.evaluate("document.activeElement.id") == "sketch-on"
        assert browser.evaluate(TITLE) == "Sketch for the drift test"
        # A browser that stores nothing.
        browser.preload("Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no'); } })")
        open_page(browser, server.address)
        switch(browser)
        show(browser, *paths[:2])
        assert browser.evaluate(TITLE) == "Sketch for the drift test: on, 2 photographs"
        said = browser.evaluate("document.getElementById('sketch-where').textContent")
        assert said.startswith("This browser does not let the page store anything")
        assert browser.problems == []


@needs_browser
def test_a_page_in_one_file_keeps_one_too(model, site, scenes, tmp_path, browser):
    page = in_one_file(Written(site, (site,))).path
    browser.open(page.as_uri())
    browser.wait("document.body.dataset.state === 'ready'")
    switch(browser)
    show(browser, *sorted((scenes / "clean").iterdir())[:3])
    browser.open(page.as_uri())
    browser.wait("document.body.dataset.state === 'ready'")
    assert read_kept(save(browser, tmp_path), model).images == 3
    assert browser.problems == []


@needs_browser
def test_nothing_is_wider_than_a_small_window(site, scenes, tmp_path, browser):
    browser.send("Emulation.setDeviceMetricsOverride", width=320, height=800, deviceScaleFactor=1, mobile=True)
    with serving(site) as server:
        open_page(browser, server.address)
        switch(browser)
        show(browser, scenes / "clean" / "00.png")
        save(browser, tmp_path)
        for language in ("en", "de", "es", "ko", "zh"):
            open_page(browser, f"{server.address}?lang={language}")
            browser.evaluate("document.getElementById('sketch').open = true")
            browser.evaluate("document.getElementById('sketch-save').click()")
            browser.wait("document.getElementById('sketch-said').textContent.endsWith('-sketch.json')")
            assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth"), language


@needs_browser
@pytest.mark.skipif(axe_core() is None, reason="there is no axe-core: see CONTRIBUTING.md")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(scheme, site, scenes, tmp_path, browser):
    browser.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    with serving(site) as server:
        open_page(browser, server.address)
        browser.evaluate("document.getElementById('sketch').open = true")
        browser.evaluate(axe_core().read_text(encoding="utf-8"))
        find = "axe.run().then(({ violations }) => violations.map(({ id, nodes }) => [id, nodes.map((n) => n.html)]))"
        assert browser.evaluate(find) == []
        switch(browser)
        show(browser, scenes / "clean" / "00.png")
        save(browser, tmp_path)
        assert browser.evaluate(find) == []
