"""Photograph the web pages of exported models, as phones, tablets and computers show them, in light and dark.

    python scripts/docs/web_screenshots.py page/mobilenet_v2_x1_0_int8_web --photo examples/cat.jpg --out shots/

Writes STATE_WIDTH_SCHEME.png for each of the states before, answer, error and offline; or with ``--docs 1280,light``
the answer alone into one file, as docs/web_page.webp and docs/web_page_phone.webp were made. Needs a Chromium, which
tests/exporting/browser.py drives.
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import io
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parents[2]
WIDTHS = {390: 844, 768: 1024, 1280: 800}
SCHEMES = ("light", "dark")
# What a telephone says of its pointer, which is coarse and hovers over nothing, and what a computer says.
PHONE = "--blink-settings=primaryHoverType=1,availableHoverTypes=1,primaryPointerType=2,availablePointerTypes=2"
MOUSE = "--blink-settings=primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,availablePointerTypes=4"
SPEED = {"downloadThroughput": -1, "uploadThroughput": -1}
SETTLED = "['ready', 'answered', 'failed'].includes(document.body.dataset.state)"


def load_browser() -> Any:
    """The module of the tests that drives Chromium."""
    spec = importlib.util.spec_from_file_location("browser", ROOT / "tests" / "exporting" / "browser.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def set_up(browser: Any, width: int, scheme: str, scale: float = 1) -> None:
    browser.send(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=WIDTHS[width],
        deviceScaleFactor=scale,
        mobile=width < 700,
    )
    browser.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])


def shoot(browser: Any, *, whole: bool = True) -> Image.Image:
    """The page as it stands; ``whole`` with what is below the window's edge."""
    browser.evaluate("new Promise((done) => setTimeout(done, 400))")
    width, height = browser.evaluate("[innerWidth, document.documentElement.scrollHeight]")
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    given = {"clip": clip, "captureBeyondViewport": True} if whole else {}
    return Image.open(io.BytesIO(base64.b64decode(browser.send("Page.captureScreenshot", **given)["data"])))


def choose(browser: Any, photo: Path) -> None:
    browser.evaluate("document.body.dataset.state = 'asked'")
    browser.choose("#file", photo.resolve())
    browser.wait("['answered', 'failed'].includes(document.body.dataset.state)")


def shoot_all(site: Path, photo: Path, out: Path, language: str) -> None:
    """Every state at every width in both schemes."""
    tools = load_browser()
    out.mkdir(parents=True, exist_ok=True)
    for width in WIDTHS:
        with tempfile.TemporaryDirectory() as profile, tools.serving(site) as server:
            no_photo = Path(profile) / "notes.txt"
            no_photo.write_text("no photograph")
            with tools.browsing(profile, f"--lang={language}", PHONE if width < 700 else MOUSE) as browser:
                for scheme in SCHEMES:
                    set_up(browser, width, scheme)
                    browser.open(f"{server.address}?lang={language}")
                    browser.wait(SETTLED)
                    name = f"{width}_{scheme}.png"
                    shoot(browser).save(out / f"before_{name}")
                    choose(browser, photo)
                    shoot(browser).save(out / f"answer_{name}")
                    choose(browser, no_photo)
                    shoot(browser).save(out / f"error_{name}")
                    browser.send("Network.emulateNetworkConditions", offline=True, latency=0, **SPEED)
                    choose(browser, photo)
                    shoot(browser).save(out / f"offline_{name}")
                    browser.send("Network.emulateNetworkConditions", offline=False, latency=0, **SPEED)


def shoot_one(site: Path, photo: Path, width: int, scheme: str, path: Path) -> None:
    """The page's answer to a photograph, as a small file."""
    tools = load_browser()
    flags = PHONE if width < 700 else MOUSE
    with (
        tempfile.TemporaryDirectory() as profile,
        tools.serving(site) as server,
        tools.browsing(profile, flags) as browser,
    ):
        set_up(browser, width, scheme)
        browser.open(server.address)
        browser.wait(SETTLED)
        browser.send("Emulation.setScrollbarsHidden", hidden=True)
        choose(browser, photo)
        choose(browser, photo)  # the first of all takes longer than those that follow
        shoot(browser, whole=False).convert("RGB").save(path, "WEBP", quality=85, method=6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path, help="a folder that fusiform export --to web wrote")
    parser.add_argument("--photo", type=Path, default=ROOT / "examples" / "cat.jpg")
    parser.add_argument("--out", type=Path, default=Path("shots"), help="a folder, or with --docs a .webp file")
    parser.add_argument("--lang", default="en")
    parser.add_argument("--docs", metavar="WIDTH,SCHEME", help="one small picture of the answer: 1280,light")
    arguments = parser.parse_args()
    if arguments.docs:
        width, scheme = arguments.docs.split(",")
        shoot_one(arguments.site, arguments.photo, int(width), scheme, arguments.out)
    else:
        shoot_all(arguments.site, arguments.photo, arguments.out, arguments.lang)


if __name__ == "__main__":
    main()
