"""The camera and videos on the page for a static host: in a browser with a fake camera; what needs none, in Node."""

from __future__ import annotations

import base64
import io
import json
import os
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fusiform
from fusiform.exporting.targets.web import write
from fusiform.exporting.targets.web_single import in_one_file
from fusiform.zoo.model import open_model

sys.path.insert(0, str(Path(__file__).parent))

from browser import CHROMIUM, browsing, serving
from moving_pictures import make_mjpeg, make_webm, vp8_of
from networks import small_network
from node import run_tests

sys.path.pop(0)

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"
SIZE = (640, 480)
FAKE = "--use-fake-device-for-media-stream"
ALLOWED = "--use-fake-ui-for-media-stream"

needs_browser = pytest.mark.skipif(CHROMIUM is None or os.name != "posix", reason="there is no Chromium to drive")

# What the worker tells the page, and what the page asks the browser for.
LISTEN = """
window.told = [];
window.Worker = class extends Worker {
  constructor(...given) {
    super(...given);
    this.addEventListener("message", ({ data: { value, error } }) => {
      if (error || value?.pixels) window.told.push(error ? { error } : value); // no drawings
    });
  }
};
window.streams = [];
window.wishes = [];
const devices = navigator.mediaDevices;
const get = devices?.getUserMedia.bind(devices);
if (devices) devices.getUserMedia = async (wish) => {
  window.wishes.push(wish);
  await window.gate;
  const stream = await get(wish);
  window.streams.push(stream);
  return stream;
};
window.addresses = new Set();
const { createObjectURL, revokeObjectURL } = URL;
URL.createObjectURL = (file) => {
  const address = createObjectURL(file);
  if (file instanceof File) window.addresses.add(address); // no sample photograph
  return address;
};
URL.revokeObjectURL = (address) => {
  window.addresses.delete(address);
  revokeObjectURL(address);
};
"""
STATES = "window.streams.flatMap((stream) => stream.getTracks()).map((track) => track.readyState)"
LAST = """(() => {
  const { preview, pixels, mask, ...value } = window.told.at(-1);
  return { ...value, pixels: pixels.reduce((text, byte) => text + String.fromCharCode(byte), "") };
})()"""


def test_what_is_no_page(tmp_path):
    assert run_tests("web_live.test.mjs", tmp_path)


class Page:
    """The page at an address; its camera is switched on and off as a visitor would."""

    def __init__(self, browser, address):
        self.browser = browser
        browser.send("Page.addScriptToEvaluateOnNewDocument", source=LISTEN)
        browser.open(address)
        browser.wait("!document.getElementById('camera').hidden")
        browser.evaluate("window.told.length = 0")

    def press(self, name):
        self.browser.wait(
            f"""{{ const button = [...document.querySelectorAll("button")].find(
              (button) => button.textContent === {json.dumps(name)} && button.checkVisibility() && !button.disabled);
            button?.click();
            return button !== undefined; }}"""
        )

    def start(self, answers=3):
        self.press("Camera")
        return self.answer(answers)

    def answer(self, count=1):
        """The newest answer, once there are so many more."""
        self.browser.evaluate("window.told.length = 0")
        self.browser.wait(f"window.told.length >= {count}")
        return self.newest()

    def newest(self):
        return self.browser.evaluate(LAST)

    def says(self, sentence):
        text = json.dumps(sentence)
        self.browser.wait(f"document.getElementById('status').textContent.includes({text})")

    def rows(self):
        return self.browser.evaluate(
            """[...document.querySelectorAll("#live tbody tr")].map(
              (row) => [...row.children].map((cell) => cell.textContent))"""
        )

    def is_off(self):
        """The camera's light is off, and nothing is left of its picture."""
        self.browser.wait(f"{STATES}.every((state) => state === 'ended')")
        return self.browser.evaluate(
            "document.getElementById('live').hidden && document.querySelector('#live *') === null"
            " && document.getElementById('camera').getAttribute('aria-pressed') === 'false'"
        )


def check_requests(server, site):
    """Nothing was asked for but the page's own files; what is sent would be refused, and that stand on the console."""
    asked = {path.partition("?")[0][1:] for path, _ in server.requests}
    assert asked <= {path.relative_to(site).as_posix() for path in site.rglob("*")} | {""}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return write(open_model("mobilenet_v2_x1_0").graph(), "int8", tmp_path_factory.mktemp("classifier"))[0].path


@pytest.fixture(scope="module")
def photographs():
    """Of one size, as a camera's frames are."""
    return [Image.open(EXAMPLES / f"{name}.jpg").convert("RGB").resize(SIZE) for name in ("cat", "coffee")]


def expected_of(photograph, site, tmp_path):
    photograph.save(tmp_path / "frame.png")
    return fusiform.predict(tmp_path / "frame.png", model=site)[0]


@pytest.fixture
def camera(photographs, tmp_path):
    """The flags of a browser whose camera shows the first photograph, and may be used."""
    file = make_mjpeg(tmp_path / "camera.mjpeg", photographs[:1])
    return (FAKE, ALLOWED, f"--use-file-for-fake-video-capture={file}")


@needs_browser
def test_the_camera_answers_as_its_photograph_and_is_switched_off(classifier, camera, photographs, tmp_path):
    with browsing(tmp_path / "profile", *camera) as browser, serving(classifier) as server:
        page = Page(browser, server.address)
        told = page.start()
        expected = expected_of(photographs[0], classifier, tmp_path).top
        assert told["guesses"][0]["name"] == expected[0].name
        assert told["guesses"][0]["probability"] == pytest.approx(expected[0].probability, abs=0.05)  # it is a JPEG
        assert told["size"]["width"] <= 800
        assert browser.evaluate("window.wishes[0]") == {
            "audio": False,
            "video": {"width": {"ideal": 1280}, "height": {"ideal": 720}, "facingMode": {"ideal": "environment"}},
        }
        page.says("The camera is on. What it shows stays on this device.")
        assert page.rows()[0][0] == expected[0].name
        browser.wait("/^[0-9.]+ answered frames a second$/.test(document.querySelector('.rate').textContent)")
        assert browser.evaluate("document.querySelector('.heard').textContent") == expected[0].name
        assert browser.evaluate(STATES) == ["live"]
        page.press("Stop")
        assert page.is_off()
        page.start()
        page.press("Camera")
        assert page.is_off()
        assert len(browser.evaluate(STATES)) == 2
        check_requests(server, classifier)
        assert browser.problems == []


@needs_browser
def test_a_kept_frame_is_answered_as_a_photograph(classifier, camera, photographs, tmp_path):
    with browsing(tmp_path / "profile", *camera) as browser, serving(classifier) as server:
        page = Page(browser, server.address)
        live = page.start()
        page.press("Keep this frame")
        assert page.is_off()
        page.says("Camera, ")
        browser.wait("!document.getElementById('answer').hidden")
        kept = page.newest()
        assert kept["size"] == {"width": SIZE[0], "height": SIZE[1]}  # all of it
        assert kept["pixels"] == live["pixels"]
        assert kept["guesses"] == live["guesses"]
        page.start()
        assert browser.evaluate("document.getElementById('answer').hidden")
        browser.choose("#file", EXAMPLES / "coffee.jpg")  # a photograph switches the camera off
        page.says("coffee.jpg: ")
        assert page.is_off()
        assert browser.problems == []


SEEN = """(async () => {
  const seen = [];
  for (let k = 0; k < 40; k++) {
    await new Promise((resolve) => setTimeout(resolve, 23));
    const canvas = document.querySelector("#live canvas");
    const { pixels } = window.told.at(-1);
    const [middle, side] = [canvas.width / 2, Math.sqrt(pixels.length / 3)];
    const level = canvas.getContext("2d").getImageData(middle, canvas.height / 2, 1, 1).data[0];
    seen.push([level, pixels[3 * (side * side / 2 + side / 2)]]);
  }
  return seen;
})()"""


@needs_browser
def test_a_frame_is_shown_with_its_own_answer(classifier, tmp_path):
    """Whatever the camera shows by then."""
    frames = [Image.new("RGB", SIZE, (25 * k, 128, 128)) for k in range(11)]
    file = make_mjpeg(tmp_path / "camera.mjpeg", frames)
    flags = (FAKE, ALLOWED, f"--use-file-for-fake-video-capture={file}")
    with browsing(tmp_path / "profile", *flags) as browser, serving(classifier) as server:
        page = Page(browser, server.address)
        page.start()
        seen = np.array(browser.evaluate(SEEN))
        assert len(np.unique(seen[:, 0])) > 3
        assert np.abs(seen[:, 0] - seen[:, 1]).max() <= 3
        assert browser.problems == []


ON_TOP = """(() => {
  const { left, top, width, height } = document.querySelector("#live .stage").getBoundingClientRect();
  return document.elementFromPoint(left + width / 2, top + height / 2).tagName;
})()"""
HALVES = """(() => {
  const canvas = document.querySelector("#live canvas");
  const context = canvas.getContext("2d");
  return [1 / 4, 3 / 4].map((x) => [...context.getImageData(x * canvas.width, canvas.height / 2, 1, 1).data]);
})()"""


@needs_browser
@pytest.mark.parametrize("facing", ["user", "environment", None])
def test_who_looks_into_the_camera_sees_a_mirror_and_the_network_does_not(facing, classifier, tmp_path):
    red_left = Image.new("RGB", SIZE, "blue")
    red_left.paste("red", (0, 0, SIZE[0] // 2, SIZE[1]))
    file = make_mjpeg(tmp_path / "camera.mjpeg", [red_left])
    flags = (FAKE, ALLOWED, f"--use-file-for-fake-video-capture={file}")
    with browsing(tmp_path / "profile", *flags) as browser, serving(classifier) as server:
        page = Page(browser, server.address)
        browser.evaluate(
            f"""MediaStreamTrack.prototype.getSettings = () => ({{ facingMode: {json.dumps(facing)} ?? undefined }})"""
        )
        told = page.start()
        pixels = np.frombuffer(told["pixels"].encode("latin-1"), np.uint8).reshape(224, 224, 3)
        assert pixels[112, 50].argmax() == 0
        assert pixels[112, 170].argmax() == 2
        left, right = browser.evaluate(HALVES)
        red = right if facing != "environment" else left
        assert red[0] > 200
        assert (left if red is right else right)[2] > 200
        assert browser.evaluate(ON_TOP) == "CANVAS"
        mirrored = browser.evaluate("document.querySelector('#live video').classList.contains('mirrored')")
        assert mirrored == (facing != "environment")


@needs_browser
def test_another_camera_is_offered_where_there_is_one(classifier, tmp_path):
    with browsing(tmp_path / "profile", f"{FAKE}=device-count=2", ALLOWED) as browser, serving(classifier) as server:
        page = Page(browser, server.address)
        page.start()
        devices = "window.streams.map((stream) => stream.getVideoTracks()[0].getSettings().deviceId)"
        page.press("Switch camera")
        browser.wait("window.streams.length === 2")
        page.answer(2)
        assert browser.evaluate(STATES) == ["ended", "live"]
        assert len(set(browser.evaluate(devices))) == 2
        page.press("Switch camera")
        browser.wait("window.streams.length === 3")
        page.answer(2)
        first, _, third = browser.evaluate(devices)
        assert third == first
        page.press("Stop")
        assert page.is_off()
        assert browser.problems == []


@needs_browser
def test_one_camera_cannot_be_switched(classifier, camera, tmp_path):
    with browsing(tmp_path / "profile", *camera) as browser, serving(classifier) as server:
        page = Page(browser, server.address)
        page.start()
        page.says("The camera is on.")
        buttons = browser.evaluate(
            """[...document.querySelectorAll("#live button")].filter((button) => button.checkVisibility())
            .map((button) => button.textContent)"""
        )
        assert buttons == ["Keep this frame", "Stop"]


@needs_browser
def test_the_camera_goes_off_when_the_page_is_out_of_sight_and_when_it_is_unplugged(classifier, camera, tmp_path):
    with browsing(tmp_path / "profile", *camera) as browser, serving(classifier) as server:
        page = Page(browser, server.address)
        page.start()
        browser.evaluate(
            """Object.defineProperty(document, "hidden", { get: () => window.away, configurable: true });
            window.away = true;
            document.dispatchEvent(new Event("visibilitychange"));"""
        )
        page.says("The camera was switched off because the page was out of sight.")
        assert page.is_off()
        page.press("Camera")  # asked for in sight, allowed when it is not any more
        page.says("The camera was switched off because the page was out of sight.")
        assert page.is_off()
        browser.evaluate("window.away = false")
        page.start()
        browser.evaluate("window.streams.at(-1).getTracks()[0].dispatchEvent(new Event('ended'))")
        page.says("The camera has stopped: it was disconnected, or its permission was withdrawn.")
        assert page.is_off()
        assert browser.problems == []


@needs_browser
def test_a_camera_that_is_allowed_too_late_stays_off(classifier, camera, tmp_path):
    with browsing(tmp_path / "profile", *camera) as browser, serving(classifier) as server:
        page = Page(browser, server.address)
        browser.evaluate("window.gate = new Promise((resolve) => { window.allow = resolve; }); undefined")
        page.press("Camera")
        page.says("Starting the camera ...")
        browser.choose("#file", EXAMPLES / "coffee.jpg")
        page.says("coffee.jpg: ")
        browser.evaluate("window.allow()")
        browser.wait("window.streams.length === 1")
        assert page.is_off()
        page.says("coffee.jpg: ")  # still
        assert browser.problems == []


@needs_browser
@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ((FAKE,), "This page may not use the camera: allow it in the browser's settings, then start the camera again."),
        ((), "No camera was found."),
    ],
    ids=["denied", "none"],
)
def test_no_camera_is_said_and_photographs_are_answered(flags, sentence, classifier, tmp_path):
    with browsing(tmp_path / "profile", *flags) as browser, serving(classifier) as server:
        if flags:
            browser.send(
                "Browser.setPermission",
                session=False,
                permission={"name": "camera"},
                setting="denied",
                origin=server.address.rstrip("/"),
            )
        page = Page(browser, server.address)
        page.press("Camera")
        page.says(sentence)
        assert browser.evaluate("document.getElementById('status').classList.contains('error')")
        assert page.is_off()
        browser.choose("#file", EXAMPLES / "coffee.jpg")
        page.says("coffee.jpg: ")
        assert browser.problems == []


@needs_browser
def test_an_address_without_https_gets_no_camera(classifier, tmp_path):
    flags = (FAKE, ALLOWED, "--host-resolver-rules=MAP fusiform.test 127.0.0.1")
    with browsing(tmp_path / "profile", *flags) as browser, serving(classifier) as server:
        page = Page(browser, f"http://fusiform.test:{server.port}/")
        page.press("Camera")
        page.says("Browsers give the camera only to pages with an https address, and to those of localhost.")
        assert page.is_off()


@needs_browser
def test_a_page_in_one_file_has_a_camera_and_plays_videos(camera, video, tmp_path):
    (written,) = write(small_network("detection"), "float32", tmp_path)
    with browsing(tmp_path / "profile", *camera) as browser:
        page = Page(browser, in_one_file(written).path.as_uri())
        page.start()
        browser.choose("#file", video)
        page.says("pets.webm: play it")
        assert browser.evaluate(STATES) == ["ended"]
        browser.wait("document.querySelector('#live tbody th')")
        assert browser.problems == []


@needs_browser
def test_boxes_on_a_camera(camera, photographs, tmp_path):
    (written,) = write(small_network("detection"), "float32", tmp_path)
    with browsing(tmp_path / "profile", *camera) as browser, serving(written.path) as server:
        page = Page(browser, server.address)
        told = page.start()
        expected = expected_of(photographs[0], written.path, tmp_path).detections.boxes
        assert abs(len(told["boxes"]) - len(expected)) <= 2  # scores near the threshold
        assert told["boxes"][0]["score"] == pytest.approx(expected[0].score, abs=0.02)
        assert 0 < len(page.rows()) <= 5
        page.press("Keep this frame")
        browser.wait("!document.getElementById('answer').hidden")
        assert page.is_off()
        assert browser.problems == []


@needs_browser
def test_masks_on_a_camera(camera, tmp_path):
    """A mask has the pixels of the frame as it is shown, and the frame's own when it is kept."""
    (written,) = write(small_network("segmentation"), "float32", tmp_path)
    with browsing(tmp_path / "profile", *camera) as browser, serving(written.path) as server:
        browser.send("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1, mobile=False)
        page = Page(browser, server.address)
        told = page.start()
        width = told["size"]["width"]
        assert 300 < width <= 390
        assert told["size"]["height"] == round(0.75 * width)
        assert browser.evaluate("window.told.at(-1).mask.width") == width
        assert browser.evaluate("document.querySelector('#live canvas').width") == width
        page.press("Keep this frame")
        browser.wait("!document.getElementById('answer').hidden")
        assert page.newest()["size"]["width"] == SIZE[0]
        assert browser.problems == []


@pytest.fixture
def video(photographs, tmp_path):
    """A second of each photograph."""
    cat, coffee = photographs
    return make_webm(tmp_path / "pets.webm", [cat] * 10 + [coffee] * 10, 100)


def vp8_frame(photograph):
    """What a decoder makes of the frame of a photograph."""
    data = vp8_of(photograph)
    data += b"\0" * (len(data) % 2)
    file = b"WEBP" + b"VP8 " + len(data).to_bytes(4, "little") + data
    return Image.open(io.BytesIO(b"RIFF" + len(file).to_bytes(4, "little") + file)).convert("RGB")


@needs_browser
@pytest.mark.parametrize("callback", [True, False], ids=["frame callbacks", "none"])
def test_a_video_is_answered_where_it_is_sought_and_as_it_plays(callback, classifier, video, photographs, tmp_path):
    names = [expected_of(vp8_frame(p), classifier, tmp_path).top[0].name for p in photographs]
    assert names[0] != names[1]
    with browsing(tmp_path / "profile") as browser, serving(classifier) as server:
        if not callback:
            source = "delete HTMLVideoElement.prototype.requestVideoFrameCallback"
            browser.send("Page.addScriptToEvaluateOnNewDocument", source=source)
        page = Page(browser, server.address)
        browser.choose("#file", video)
        page.says("pets.webm: play it, or seek a frame. It stays on this device.")
        shows = "document.querySelector('#live tbody th')?.textContent === "
        browser.wait(shows + json.dumps(names[0]))
        for time, name in ((1.55, names[1]), (0.35, names[0]), (1.05, names[1])):
            browser.evaluate(f"document.querySelector('#live video').currentTime = {time}")
            browser.wait(shows + json.dumps(name))
        assert browser.evaluate("document.querySelector('.rate').textContent") == ""  # nothing moves
        browser.evaluate("document.querySelector('#live video').currentTime = 0")
        browser.wait(shows + json.dumps(names[0]))
        browser.evaluate("window.told.length = 0")
        # With sound only for who has touched the page.
        browser.evaluate("Object.assign(document.querySelector('#live video'), { muted: true }).play()")
        browser.wait("document.querySelector('#live video').ended")
        browser.wait(shows + json.dumps(names[1]))
        seen = set(browser.evaluate("window.told.map(({ guesses }) => guesses[0].name)"))
        assert seen == set(names)

        page.press("Keep this frame")
        page.says("pets.webm, 0:0")
        browser.wait("!document.getElementById('answer').hidden")
        assert page.newest()["guesses"][0]["name"] == names[1]
        assert browser.evaluate("window.addresses.size") == 0
        check_requests(server, classifier)
        assert browser.problems == []


DROP = """(async () => {
  const bytes = Uint8Array.from(atob(DATA), (letter) => letter.charCodeAt(0));
  const given = new DataTransfer();
  given.items.add(new File([bytes], "dropped.webm", { type: "video/webm" }));
  document.dispatchEvent(EVENT);
})()"""


@needs_browser
def test_videos_are_dropped_and_pasted_and_one_takes_the_place_of_the_other(classifier, camera, video, tmp_path):
    data = json.dumps(base64.b64encode(video.read_bytes()).decode())
    with browsing(tmp_path / "profile", *camera) as browser, serving(classifier) as server:
        page = Page(browser, server.address)
        page.start()
        for event in (
            "new DragEvent('drop', { dataTransfer: given, cancelable: true })",
            "new ClipboardEvent('paste', { clipboardData: given })",
        ):
            browser.evaluate(DROP.replace("DATA", data).replace("EVENT", event))
            page.says("dropped.webm: play it")
            browser.wait("document.querySelector('#live tbody th')")
            assert browser.evaluate("document.querySelectorAll('#live video').length") == 1
            assert browser.evaluate("window.addresses.size") == 1
        assert browser.evaluate(STATES) == ["ended"]
        page.start()  # and the camera of the video
        assert browser.evaluate("window.addresses.size") == 0
        browser.choose("#file", video)
        page.says("pets.webm: play it")
        page.press("Close the video")
        assert page.is_off()
        assert browser.evaluate("window.addresses.size") == 0
        assert browser.problems == []


@needs_browser
def test_a_video_that_cannot_be_played_is_said_and_the_next_one_is(classifier, video, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "empty.webm").write_bytes(b"")
    (tmp_path / "cut.webm").write_bytes(video.read_bytes()[:300])
    with wave.open(str(tmp_path / "sound.mp4"), "wb") as file:  # which the browser would play
        file.setparams((1, 2, 8000, 8000, "NONE", ""))
        file.writeframes(b"\0\0" * 8000)
    with browsing(tmp_path / "profile") as browser, serving(classifier) as server:
        page = Page(browser, server.address)
        for name in ("broken.mp4", "empty.webm", "cut.webm", "sound.mp4"):
            browser.choose("#file", tmp_path / name)
            page.says(f"{name}: this browser cannot play it. Try an MP4 (H.264) or a WebM.")
            assert page.is_off()
            assert browser.evaluate("window.addresses.size") == 0
        browser.choose("#file", video)
        page.says("pets.webm: play it")
        browser.wait("document.querySelector('#live tbody th')")
        browser.choose("#file", EXAMPLES / "coffee.jpg")
        page.says("coffee.jpg: ")
        assert page.is_off()
        assert browser.problems == []
