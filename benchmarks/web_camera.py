"""How many frames of a camera does the page of ``--to web`` answer in a second, and what does each stage cost?

    python benchmarks/web_camera.py [PAGE...] [--json FILE]

The pages of the bundled models (int8), and every PAGE that is named, a folder that ``fusiform export --to web`` wrote,
in a headless Chromium, 1280 x 900, whose fake camera shows one of the repository's photographs, 1280 x 720, thirty
times a second: no rate exceeds that. The runtime has one thread. The stages are medians over the frames, in the worker:
pixels taken out of the frame and resized, the network, and what its answers mean (boxes, the mask at the size of the
screen). What is left of the time between two frames is the page's, which takes the frame and draws it with its answer,
and waiting for the next. Pages take turns, each in a browser of its own; the rate is the median of the rounds.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import common

from fusiform.report import Cell

BUNDLED = ("mobilenet_v2_x1_0", "shufflenet_v2_x1_0")
SIZE = (1280, 720)
STAGES = ("prepare", "network", "finish")
# Answers of so many seconds: the time between the first and the last, and the stages of each.
MEASURE = """(async () => {
  const canvas = document.querySelector("#live canvas");
  const [told, times] = [[], []];
  window.onAnswer = (value) => {
    told.push(value.milliseconds);
    times.push(performance.now());
  };
  await new Promise((resolve) => { setTimeout(resolve, 1000 * SECONDS); });
  window.onAnswer = null;
  return { told, rate: 1000 * (times.length - 1) / (times.at(-1) - times[0]), shown: [canvas.width, canvas.height] };
})()"""
LISTEN = """
window.Worker = class extends Worker {
  constructor(...given) {
    super(...given);
    this.addEventListener("message", ({ data: { value } }) => { if (value?.milliseconds) window.onAnswer?.(value); });
  }
};
"""


def main() -> None:
    parser = common.parser(__doc__, rounds=3)
    parser.add_argument("pages", type=Path, nargs="*", metavar="PAGE", help="pages beside those of the bundled models")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each page in a round (default: %(default)s)")
    arguments = parser.parse_args()
    sys.path.insert(0, str(common.ROOT / "tests" / "exporting"))
    from browser import CHROMIUM, browsing, serving
    from moving_pictures import make_mjpeg
    from PIL import Image

    from fusiform.exporting.targets.web import write
    from fusiform.zoo.model import open_model

    if CHROMIUM is None:
        sys.exit("web_camera: needs a Chromium")
    about = common.machine("ai-edge-litert")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        bundled = [write(open_model(name).graph(), "int8", folder)[0].path for name in BUNDLED]
        sites = {site.name: site for site in [*bundled, *arguments.pages]}
        with Image.open(common.EXAMPLES / "cat.jpg") as photograph:
            camera = make_mjpeg(folder / "camera.mjpeg", [photograph.resize(SIZE)])
        flags = (
            "--use-fake-device-for-media-stream=fps=30",
            "--use-fake-ui-for-media-stream",
            f"--use-file-for-fake-video-capture={camera}",
        )
        profiles = iter(range(10_000))

        def watch(site: Path) -> Any:
            profile = folder / f"profile {next(profiles)}"
            with serving(site) as server, browsing(profile, *flags) as browser:
                browser.send("Page.addScriptToEvaluateOnNewDocument", source=LISTEN)
                screen = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
                browser.send("Emulation.setDeviceMetricsOverride", **screen)
                browser.open(server.address)
                browser.wait("!document.getElementById('camera').hidden")
                browser.evaluate("document.getElementById('camera').click()")
                browser.wait("document.querySelector('#live .rate')?.textContent")
                return browser.evaluate(MEASURE.replace("SECONDS", str(arguments.seconds)))

        contenders = {name: partial(watch, site) for name, site in sites.items()}
        results = common.in_turns(contenders, arguments.rounds, warm_up=0)
    rows = [row_of(name, results[name]) for name in sites]
    figures: dict[str, Cell] = {"camera": f"{SIZE[0]} x {SIZE[1]}, 30 frames a second"}
    common.finish("web_camera", about, figures, rows, arguments.json)


def row_of(page: str, rounds: Sequence[Any]) -> dict[str, Cell]:
    """The rate, its range, and the milliseconds of each stage."""
    rates = [measured["rate"] for measured in rounds]
    frames = [stages for measured in rounds for stages in measured["told"]]
    width, height = rounds[0]["shown"]
    return {
        "page": page,
        "frames_per_second": round(statistics.median(rates), 1),
        "lowest": round(min(rates), 1),
        "highest": round(max(rates), 1),
        "drawn_at": f"{width} x {height}",
        **{f"{stage}_ms": round(statistics.median(each[stage] for each in frames), 1) for stage in STAGES},
    }


if __name__ == "__main__":
    main()
