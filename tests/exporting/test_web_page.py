"""What a visitor meets on the page: languages, samples, what can be taken away, the self-test, accessibility."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import os
import re
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fusiform
from fusiform.errors import ImageError, InputError, UsageError
from fusiform.exporting.job import export
from fusiform.exporting.targets.web import PAGE, write
from fusiform.exporting.targets.web_samples import LARGEST, LONGEST, MOST, make_sample, own_samples, read_samples
from fusiform.graph.build import build_graph
from fusiform.spec import Accuracy
from fusiform.tasks.classification_metrics import wilson_interval
from fusiform.zoo.checkpoint import write_safetensors
from fusiform.zoo.model import open_model

sys.path.insert(0, str(Path(__file__).parent))

from browser import CHROMIUM, axe_core, browsing, serving
from networks import lively_state, small_spec
from node import run_tests

sys.path.pop(0)

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
CAT = EXAMPLES / "cat.jpg"
TASKS = ("classification", "detection", "segmentation")
LANGUAGES = ("de", "en", "es", "ko", "zh")
needs_browser = pytest.mark.skipif(CHROMIUM is None or os.name != "posix", reason="there is no Chromium to drive")
PHONE = "--blink-settings=primaryHoverType=1,availableHoverTypes=1,primaryPointerType=2,availablePointerTypes=2"
MOUSE = "--blink-settings=primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,availablePointerTypes=4"
# The clipboard is the machine's.
CATCH = "navigator.clipboard.writeText = async (text) => { window.copied = text; };"


def spec_of(task):
    """A small network, one of whose classes is a cat, as a photograph of the package shows."""
    labels = (*(f"class {k}" for k in range(11)), "cat") if task == "classification" else ("wall", "cat", "dog")
    if task != "classification":
        return small_spec(task, labels)
    accuracy = (Accuracy("a dataset of ours", 0.5, 0.75, 2000, "a test"),)
    return small_spec(task, labels, resize=56, license="MIT", accuracy=accuracy)


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    """A page for each task."""
    folder = tmp_path_factory.mktemp("sites")
    specs = {task: spec_of(task) for task in TASKS}
    return {
        task: write(build_graph(spec, lively_state(spec)), "float32", folder)[0].path for task, spec in specs.items()
    }


def description_of(site):
    return json.loads((site / "model.json").read_text(encoding="utf-8"))


@pytest.fixture
def browser(tmp_path_factory):
    with browsing(tmp_path_factory.mktemp("profile"), MOUSE) as opened:
        opened.send("Page.addScriptToEvaluateOnNewDocument", source=CATCH)
        yield opened


def text_of(browser, name):
    return browser.evaluate(f"document.getElementById('{name}').textContent")


def open_page(browser, address):
    browser.open(address)
    browser.wait("['ready', 'failed'].includes(document.body.dataset.state)")


def show(browser, path=CAT):
    """Choose a photograph and wait for its answer."""
    browser.evaluate("document.body.dataset.state = 'asked'")
    browser.choose("#file", path)
    return browser.wait("/answered|failed/.exec(document.body.dataset.state)?.[0]")


def pixels_of(browser):
    """What stands on the page's canvas."""
    url = browser.evaluate("document.getElementById('seen').toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB"))


def pixels_after(browser, before):
    """The same once it is no longer as before: masks are drawn by the worker."""
    for _ in range(100):
        if ((now := pixels_of(browser)) != before).any():
            return now
        browser.evaluate("new Promise((done) => setTimeout(done, 50))")
    raise AssertionError("the picture stays as it was")


def test_texts_languages_and_numbers(tmp_path):
    """All that does not need a browser, in Node."""
    counts = [(0, 7), (7, 7), (347, 500), (1, 3), (36000, 50000)]
    intervals = [(right, count, *wilson_interval(right, count)) for right, count in counts]
    specs = [spec_of(task).replace(width=width) for task in TASKS for width in (0.35, 1.0, 0.5, 2.0)]
    values = [*np.random.default_rng(0).random(200).tolist(), 1e-7, 0.0, 1.0, 0.1234565, 3.3e-12]
    expected = {
        "intervals": [{"share": r / n, "count": n, "low": low, "high": high} for r, n, low, high in intervals],
        "networks": [{"spec": json.loads(spec.to_json()), "name": spec.name} for spec in specs],
        "digits": [{"value": value, "rounded": float(f"{value:.6g}")} for value in values],
    }
    (tmp_path / "numbers.json").write_text(json.dumps(expected))
    assert run_tests("web_page.test.mjs", tmp_path) == 10


@needs_browser
@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_speaks_the_language_of_its_visitor(language, sites, browser):
    agent = browser.evaluate("navigator.userAgent")
    browser.send("Network.setUserAgentOverride", userAgent=agent, acceptLanguage=f"fr,{language},en")
    with serving(sites["classification"]) as server:
        open_page(browser, server.address)
        said = browser.evaluate("[document.documentElement.lang, document.title]")
        source = (PAGE / "texts" / f"{language}.js").read_text(encoding="utf-8")
        assert said == ["zh-Hans" if language == "zh" else language, re.search('title: "(.*?)"', source)[1]]
        # Of the modules that the page itself loads; the service worker keeps the other languages.
        loaded = browser.evaluate("performance.getEntriesByType('resource').map(({ name }) => name)")
        names = {name.rpartition("/texts/")[2] for name in loaded if "/texts/" in name}
        assert names == {"en.js", f"{language}.js"}
        show(browser)
        percent = browser.evaluate("document.querySelector('#guesses td').textContent")
        assert re.fullmatch({"de": r"\d+,\d\s%", "es": r"\d+,\d\s%"}.get(language, r"\d+\.\d%"), percent)
        # The address has the last word.
        other = "ko" if language != "ko" else "en"
        open_page(browser, f"{server.address}?lang={other}")
        assert browser.evaluate("document.documentElement.lang") == other
        assert browser.problems == []


def test_the_packages_photographs_are_the_examples():
    for name in ("cat.jpg", "coffee.jpg"):
        (ours,) = (
            sample for sample in own_samples(spec_of("detection").replace(labels=("cat", "cup"))) if sample.name == name
        )
        with Image.open(EXAMPLES / name) as theirs, Image.open(io.BytesIO(ours.data)) as image:
            assert image.size == theirs.size
            assert np.abs(np.asarray(image, float) - np.asarray(theirs.convert("RGB"), float)).mean() < 4
        assert len(ours.data) <= LARGEST


def test_models_that_do_not_know_what_is_on_them_have_no_samples(tmp_path):
    names = [sample.name for sample in own_samples(open_model("shufflenet_v2_x1_0").spec)]
    assert names == ["cat.jpg", "coffee.jpg"]
    spec = spec_of("classification").replace(labels=("daisy", "rose"))
    assert own_samples(spec) == []
    (written,) = write(build_graph(spec, lively_state(spec)), "float32", tmp_path)
    assert description_of(written.path)["samples"] == []
    assert not (written.path / "samples").exists()


def test_samples_are_small_upright_and_carry_nothing_else(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    noise = np.random.default_rng(0).integers(0, 256, (900, 1500, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise 1.png")
    for k in range(2, 10):
        Image.open(CAT).save(tmp_path / f"photo {k}.jpeg", exif=exif)
    samples = read_samples(tmp_path, ["web"])
    assert [sample.name for sample in samples] == [
        "noise 1.jpg",
        *(f"photo {k}.jpg" for k in (3, 4, 6, 7, 9)),
    ]
    for sample in samples:
        assert len(sample.data) <= LARGEST
        with Image.open(io.BytesIO(sample.data)) as image:
            assert max(image.size) <= LONGEST
            assert not image.getexif()
            assert b"a camera" not in sample.data
    assert Image.open(io.BytesIO(samples[1].data)).size == (300, 451)  # turned
    assert len(samples) == MOST
    (alone,) = read_samples(CAT, ["litert", "web"])
    assert alone == ("cat.jpg", make_sample(Image.open(CAT)))
    assert read_samples(None, ["litert"]) is None


def test_samples_that_cannot_be_are_refused_before_any_work(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.jpg").write_text("no picture")
    for source, target, error, message in (
        (tmp_path / "empty", "web", InputError, "has no pictures: name a folder of pictures, or a picture"),
        (tmp_path / "broken.jpg", "web", ImageError, "broken.jpg"),
        (tmp_path / "missing.jpg", "web", ImageError, "missing.jpg"),
        (CAT, "litert", UsageError, "--samples: are for the page of --to web; leave it out"),
    ):
        with pytest.raises(error, match=re.escape(message)):
            export("shufflenet_v2_x1_0", target, tmp_path / "out", precision="int8", samples=source)
        assert not (tmp_path / "out").exists()


@needs_browser
def test_a_sample_is_answered_as_the_file_is(sites, browser):
    site = sites["classification"]
    assert description_of(site)["samples"] == [{"file": "samples/0.jpg", "name": "cat.jpg"}]
    with serving(site) as server:
        open_page(browser, server.address)
        browser.wait("document.querySelector('#sample-list img').naturalWidth")
        browser.evaluate("document.querySelector('#sample-list button').click()")
        browser.wait("document.body.dataset.state === 'answered'")
        expected = fusiform.predict(site / "samples" / "0.jpg", model=site)[0].top[0]
        assert text_of(browser, "best") == expected.name
        assert text_of(browser, "status") == f"cat.jpg: {expected.name}, {100 * expected.probability:.1f}%"
        # It was fetched once, after all that the first answer needs.
        asked = [path for path, _ in server.requests]
        assert asked.count("/samples/0.jpg") == 1
        assert asked.index("/samples/0.jpg") > max(k for k, path in enumerate(asked) if "sha256" in path)


@needs_browser
@pytest.mark.parametrize("task", TASKS)
def test_the_record_is_what_predict_prints(task, sites, browser):
    site = sites[task]
    with serving(site) as server:
        open_page(browser, server.address)
        show(browser)
        browser.evaluate("document.getElementById('copy').click()")
        browser.wait("document.getElementById('done').textContent")
        assert text_of(browser, "done") == "Copied."
        copied = json.loads(browser.evaluate("window.copied"))
    found = fusiform.predict(CAT, model=site)
    expected = {**json.loads(found.to_json()), "predictions": [{**found[0].to_dict(), "path": "cat.jpg"}]}
    assert list(copied) == list(expected)
    assert_near(copied, expected)


def assert_near(found, expected):
    """The same, numbers to 1e-4 of themselves."""
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert_near(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_near(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)
    else:
        assert found == expected


@needs_browser
@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_the_drawing_is_saved_at_the_pictures_own_size(task, sites, browser, tmp_path):
    large = tmp_path / "a large.cat.png"
    Image.open(CAT).resize((2255, 1500)).save(large)
    with serving(sites[task]) as server:
        open_page(browser, server.address)
        show(browser, large)
        behaviour = {"behavior": "allow", "downloadPath": str(tmp_path / "downloads")}
        browser.send("Browser.setDownloadBehavior", session=False, **behaviour)
        browser.evaluate("document.getElementById('save').click()")
        browser.wait("/Saved|cannot/.test(document.getElementById('done').textContent)")
        assert text_of(browser, "done") == "Saved: 2,255 \N{MULTIPLICATION SIGN} 1,500 pixels."
        saved = tmp_path / "downloads" / f"a large.cat_{'boxes' if task == 'detection' else 'mask'}.png"
        end = time.monotonic() + 30
        while not saved.is_file() and time.monotonic() < end:
            browser.evaluate("new Promise((done) => setTimeout(done, 50))")
        assert browser.problems == []
    image = Image.open(saved)
    assert (image.format, image.size) == ("PNG", (2255, 1500))
    difference = np.abs(np.asarray(image.convert("RGB"), float) - np.asarray(Image.open(large), float))
    assert 0.005 < (difference.max(-1) > 30).mean() < 0.99  # something is drawn, and not over all


@needs_browser
def test_an_object_is_seen_alone(sites, browser):
    with serving(sites["detection"]) as server:
        open_page(browser, server.address)
        show(browser)
        before = pixels_of(browser)
        count = browser.evaluate("document.querySelectorAll('#guesses tr').length")
        assert count > 2
        assert text_of(browser, "caption") == f"{count} objects"
        pressed = "[...document.querySelectorAll('.row')].map((row) => row.getAttribute('aria-pressed'))"
        assert set(browser.evaluate(pressed)) == {"false"}
        # With the pointer, with the keyboard, and pressed for as long as one likes.
        browser.evaluate("document.querySelector('#guesses tr').dispatchEvent(new PointerEvent('pointerenter'))")
        alone = pixels_of(browser)
        assert (alone != before).any()
        browser.evaluate("document.querySelector('#guesses tr').dispatchEvent(new PointerEvent('pointerleave'))")
        assert (pixels_of(browser) == before).all()
        browser.evaluate("document.querySelector('.row').click()")
        assert (pixels_of(browser) == alone).all()
        assert browser.evaluate(pressed)[:2] == ["true", "false"]
        browser.evaluate("document.querySelector('.row').click()")
        assert (pixels_of(browser) == before).all()


@needs_browser
def test_a_class_of_a_mask_is_hidden_and_shown(sites, browser):
    site = sites["segmentation"]
    with serving(site) as server:
        open_page(browser, server.address)
        show(browser)
        before = pixels_of(browser)
        mask = fusiform.predict(CAT, model=site)[0].segmentation.classes
        name = spec_of("segmentation").labels[1]
        button = f"[...document.querySelectorAll('.row')].find((row) => row.textContent === '{name}')"
        browser.evaluate(f"{button}.click()")
        assert browser.evaluate(f"{button}.ariaPressed") == "false"
        hidden = pixels_after(browser, before)
        photograph = np.asarray(Image.open(CAT).convert("RGB"), int)
        changed = (hidden != before).any(-1)
        assert changed[mask == 1].mean() > 0.95
        assert np.abs(hidden[mask == 1] - photograph[mask == 1]).mean() < 3
        browser.evaluate(f"{button}.click()")
        assert (pixels_after(browser, hidden) == before).all()
        # The background has no colour that could be hidden.
        names = browser.evaluate("[...document.querySelectorAll('.row')].map((row) => row.textContent)")
        assert sorted(names) == sorted({spec_of("segmentation").labels[k] for k in np.unique(mask)} - {"wall"})


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    """Pages of a classifier and a detector with golden answers, as the command writes them."""
    folder = tmp_path_factory.mktemp("golden")
    found = {}
    for task in ("classification", "detection"):
        spec = spec_of(task)
        write_safetensors(folder / f"{task}.safetensors", lively_state(spec), spec)
        report = export(folder / f"{task}.safetensors", "web", folder / task, golden=2)
        found[task] = Path(report.rows[0]["file"])
        assert Path(report.rows[0]["golden"]) == found[task] / "golden"
    return found


def run_self_test(browser, site):
    """What the page says of the golden answers, and the rows of its table."""
    with serving(site) as server:
        open_page(browser, server.address)
        browser.evaluate("document.getElementById('test').open = true")
        browser.evaluate("document.getElementById('test-run').click()")
        browser.wait("/passed|error/.test(document.getElementById('test-said').className)")
        rows = browser.evaluate(
            "[...document.querySelectorAll('#test-rows tr')].map((row) => [...row.children].map((c) => c.textContent))"
        )
        assert browser.problems == []
        return text_of(browser, "test-said"), rows


@needs_browser
@pytest.mark.parametrize("task", ["classification", "detection"])
def test_the_self_test_runs_the_golden_answers(task, tested, browser):
    said, rows = run_self_test(browser, tested[task])
    assert said == "Passed: the answers to 2 inputs are within the tolerance."
    golden = json.loads((tested[task] / "golden" / "golden.json").read_text(encoding="utf-8"))
    assert [row[0] for row in rows] == [output["name"] for output in golden["outputs"]]
    for (_, error, allowed, result), output in zip(rows, range(len(rows)), strict=True):
        assert result == "passed"
        assert 0 <= float(error) < float(allowed)
        every = [case["outputs"][output]["allowed"] for case in golden["cases"]]
        assert any(float(allowed) == pytest.approx(one, rel=0.06) for one in every)  # two digits


@needs_browser
def test_the_self_test_finds_wrong_answers_and_other_files(tested, browser, tmp_path):
    site = tmp_path / "site"
    shutil.copytree(tested["classification"], site)
    golden = json.loads((site / "golden" / "golden.json").read_text(encoding="utf-8"))
    answer = site / "golden" / golden["cases"][1]["outputs"][0]["path"]
    values = np.fromfile(answer, "<f4")
    values[0] += 1
    values.tofile(answer)
    said, rows = run_self_test(browser, site)
    assert said == "Failed: the answers to 1 of 2 inputs are beyond the tolerance."
    assert rows[0][3] == "failed"
    assert float(rows[0][1]) == pytest.approx(1, rel=0.1)
    golden["files"][0]["sha256"] = "0" * 64
    (site / "golden" / "golden.json").write_text(json.dumps(golden))
    said, _ = run_self_test(browser, site)
    assert said == "Failed: the expected answers are those of another model file. Export the page again."


@needs_browser
def test_a_page_without_golden_answers_asks_for_none(sites, browser):
    with serving(sites["classification"]) as server:
        open_page(browser, server.address)
        assert browser.evaluate("document.getElementById('test').hidden")
        assert not [path for path, _ in server.requests if "golden/" in path]


@needs_browser
def test_what_the_page_says_of_its_model(sites, browser):
    site = sites["classification"]
    with serving(site) as server:
        open_page(browser, server.address)
        facts = dict(
            browser.evaluate(
                "[...document.querySelectorAll('dl > div')].map((d) => [...d.children].map((c) => c.textContent))"
            )
        )
        low, high = wilson_interval(1000, 2000)
        assert facts["Accuracy"] == (
            f"Top-1 50.0% (95% interval {100 * low:.1f}% to {100 * high:.1f}%), top-5 75.0%: "
            "a dataset of ours, 2,000 images"
        )
        assert facts["Licence of the weights"] == "MIT"
        assert facts["Task"] == "Classification"
        size = (site / description_of(site)["model"]).stat().st_size
        assert facts["Size"] == f"{size / 1e6:.1f} MB"
        assert text_of(browser, "model") == "mobilenet_v2_x0_5"
        # The classes can be searched.
        names = "[...document.querySelectorAll('#class-list li')].map((item) => item.textContent)"
        browser.evaluate("document.getElementById('classes').open = true")
        browser.wait(f"{names}.length === 12")
        browser.evaluate("document.getElementById('filter').value = 'CAT'")
        browser.evaluate("document.getElementById('filter').dispatchEvent(new Event('input'))")
        assert browser.evaluate(names) == ["cat"]
        browser.evaluate("document.getElementById('licence').open = true")
        browser.wait("document.getElementById('licence-text').textContent.includes('Apache License')")
        assert browser.problems == []


@needs_browser
def test_a_bar_is_as_long_as_its_share_of_the_track(sites, browser):
    with serving(sites["classification"]) as server:
        open_page(browser, server.address)
        show(browser)
        share, sizes = browser.evaluate(
            "(() => { const row = document.querySelector('#guesses tr');"
            " return [row.style.getPropertyValue('--share'), getComputedStyle(row).backgroundSize]; })()"
        )
        _, bar, track = (size.split()[0] for size in sizes.split(","))
        assert track == "100%"
        assert float(re.search(r"[\d.]+", bar.replace("calc(", ""))[0]) == pytest.approx(100 * float(share), abs=0.1)


@needs_browser
def test_the_page_says_that_it_is_offline(sites, browser):
    site = sites["classification"]
    with serving(site) as server:
        open_page(browser, server.address)
        assert browser.evaluate("document.getElementById('offline').hidden")
    browser.send("Page.navigate", url=f"{server.address}?lang=es")  # of the languages, all are kept
    browser.wait("document.body?.dataset.state === 'ready'")
    browser.wait("!document.getElementById('offline').hidden")
    assert text_of(browser, "offline").startswith("Sin conexión")
    assert show(browser) == "answered"


@needs_browser
def test_states_are_said_to_those_who_do_not_see_them(sites, browser, tmp_path):
    (tmp_path / "notes.txt").write_text("no photograph")
    with serving(sites["detection"]) as server:
        browser.send("Page.navigate", url=server.address)
        assert browser.wait("document.getElementById('main')?.getAttribute('aria-busy')") == "true"
        browser.wait("document.body.dataset.state === 'ready'")
        busy = "document.getElementById('main').getAttribute('aria-busy')"
        assert browser.evaluate(busy) == "false"
        assert show(browser) == "answered"
        assert show(browser, tmp_path / "notes.txt") == "failed"
        assert browser.evaluate(busy) == "false"
        assert browser.evaluate("document.getElementById('answer').hidden")
        assert show(browser) == "answered"
        assert browser.problems == []


@needs_browser
@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_is_wider_than_the_window(width, sites, tmp_path_factory):
    with (
        browsing(tmp_path_factory.mktemp("profile"), PHONE if width < 700 else MOUSE) as browser,
        serving(sites["detection"]) as server,
    ):
        browser.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 700
        )
        for language in LANGUAGES:
            open_page(browser, f"{server.address}?lang={language}")
            # Nobody drops a file on a telephone.
            shown = browser.evaluate("getComputedStyle(document.getElementById('hint')).display !== 'none'")
            assert shown == (width > 700)
            show(browser)
            assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth"), language


@pytest.fixture
def camera(tmp_path_factory):
    """A browser that has a camera, which shows a disc."""
    flags = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    with browsing(tmp_path_factory.mktemp("profile"), MOUSE, *flags) as opened:
        yield opened


@needs_browser
@pytest.mark.skipif(
    axe_core() is None, reason="there is no axe-core: npm install axe-core, or set AXE_CORE to axe.min.js"
)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("task", TASKS)
def test_axe_finds_nothing(task, scheme, sites, tested, camera, tmp_path):
    (tmp_path / "notes.txt").write_text("no photograph")
    script = axe_core().read_text(encoding="utf-8")
    camera.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def check(state):
        found = camera.evaluate("axe.run().then(({ violations }) => violations)")
        told = [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found]
        assert told == [], state

    with serving(tested.get(task, sites[task])) as server:
        open_page(camera, server.address)
        camera.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
        camera.wait("document.getElementById('licence-text').textContent")
        camera.evaluate(script)
        check("before")
        show(camera)
        check("answer")
        if task in tested:
            camera.evaluate("document.getElementById('test-run').click()")
            camera.wait("document.getElementById('test-said').className === 'passed'")
            check("self-test")
        show(camera, tmp_path / "notes.txt")
        check("error")
        camera.evaluate("document.getElementById('offline').hidden = false")
        check("offline")
        camera.evaluate("document.getElementById('camera').click()")
        camera.wait("document.querySelector('#live tbody tr') || document.querySelector('.rate')?.textContent")
        check("camera")


def test_the_icons_are_drawn_by_the_script():
    spec = importlib.util.spec_from_file_location("icons", ROOT / "scripts" / "draw_page_icons.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    manifest = json.loads((PAGE / "manifest.webmanifest").read_text(encoding="utf-8"))
    assert {icon["src"] for icon in manifest["icons"]} == {"icons/192.png", "icons/512.png"}
    assert all("maskable" in icon["purpose"] for icon in manifest["icons"])
    page = (PAGE / "index.html").read_text(encoding="utf-8")
    for side, share in script.SIDES.items():
        with Image.open(PAGE / "icons" / f"{side}.png") as image:
            assert image.size == (side, side)
            drawn = script.draw(side, share).convert("RGB")
            assert np.abs(np.asarray(image.convert("RGB"), int) - np.asarray(drawn, int)).mean() < 1
        assert (
            f"icons/{side}.png" in page
            or {"src": f"icons/{side}.png"}.items()
            <= {
                key: value
                for icon in manifest["icons"]
                if icon["sizes"] == f"{side}x{side}"
                for key, value in icon.items()
            }.items()
        )
    # Systems cut an icon to a circle of four fifths: the spindle lies in it.
    corner = np.hypot(20, 17) / 24 * 0.62
    assert corner < 0.8
