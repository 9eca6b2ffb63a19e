"""The page of ``fusiform export --to web`` in Chromium: the network, photographs of telephones, the first visit.

    npm install --prefix ORT onnxruntime-web
    python benchmarks/web.py --onnxruntime-web ORT/node_modules/onnxruntime-web [--page SITE...] [--json FILE]

The bundled int8 networks, in one headless Chromium. Everybody has one thread, and they take turns, round by round:

- "network": the network alone from pixels to logits, in the page's own worker (LiteRT.js, as the worker itself takes
  the time), in Python's LiteRT, and in a worker with onnxruntime-web (WebAssembly, SIMD) on the int8 ONNX file of the
  same weights and scales. A turn is ``--runs`` runs after three that do not count, its time their median. Browsers give
  the time in steps of 0.1 ms.
- "12 megapixels": a JPEG of 4032 x 3024 pixels, from the file to the named classes: in the worker, with the preview
  that the page shows, and in Python by an open ``fusiform.Predictor``.
- "48 megapixels": a JPEG of 8064 x 6048 pixels is chosen on the page itself, and for how long the page's own thread
  does nothing else is seen by a timer and by what Chromium counts as long tasks. ``--page`` names more exported folders
  to watch, of detectors and segmenters.
- "first visit": bytes of all answers to a new browser until the page can be used offline, as ``python -m http.server``
  sends them, and with gzip of everything that is not packed already, as hosts send it.

Targets: at most 3 times Python's LiteRT, at least 3 times faster than onnxruntime-web, 12 megapixels at most 10 times
Python's, never blocked for more than 100 ms, a first visit of at most 7 MB gzipped.
"""

from __future__ import annotations

import gzip
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import common
import numpy as np
from PIL import Image

import fusiform
from fusiform.data.image import read_image
from fusiform.data.preprocess import crop_pixels
from fusiform.engines.litert import LiteRTEngine
from fusiform.exporting.targets.web import write
from fusiform.graph.inputs import read_pixels
from fusiform.graph.ir import reads_pixels
from fusiform.graph.onnx import to_onnx
from fusiform.report import Cell
from fusiform.zoo.model import open_model

sys.path.insert(0, str(common.ROOT / "tests" / "exporting"))

from browser import CHROMIUM, Browser, browsing, serving

NETWORKS = ("mobilenet_v2_x1_0", "shufflenet_v2_x1_0")
BENCH = Path(__file__).with_name("web_page")
WARM_UP = 3
TELEPHONE, LARGE = (4032, 3024), (8064, 6048)
# The longest time in which a timer of 4 ms did not come, and the longest of Chromium's long tasks, in milliseconds.
WATCH = """
window.watched = { gap: 0, task: 0 };
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) watched.task = Math.max(watched.task, entry.duration);
}).observe({ entryTypes: ["longtask"] });
{
  let last = performance.now();
  setInterval(() => {
    const now = performance.now();
    watched.gap = Math.max(watched.gap, now - last);
    last = now;
  }, 4);
}
"""
# Of the page itself only its input is known, and that its worker answers a "source".
LISTEN = """
const post = Worker.prototype.postMessage;
window.answered = 0;
Worker.prototype.postMessage = function (message, ...rest) {
  if (!this.heard) {
    this.heard = true;
    this.addEventListener("message", ({ data }) => { if (!data.progress) window.answered++; });
  }
  return post.call(this, message, ...rest);
};
"""


def main() -> None:
    parser = common.parser(__doc__, rounds=15)
    parser.add_argument("--onnxruntime-web", type=Path, metavar="DIR", help="the npm package, unpacked")
    parser.add_argument("--page", type=Path, nargs="*", default=[], metavar="SITE", help="more folders of --to web")
    parser.add_argument("--runs", type=int, default=20, help="runs of the network in a turn (default: %(default)s)")
    arguments = parser.parse_args()
    if CHROMIUM is None:
        parser.error("there is no Chromium to drive: install one")
    runtime: Path | None = arguments.onnxruntime_web
    if runtime is not None and not (runtime / "dist" / "ort.wasm.min.js").is_file():
        parser.error(f"{runtime}: has no dist/ort.wasm.min.js: name the folder of the npm package onnxruntime-web")

    about = common.machine("fusiform", "ai-edge-litert", "numpy", "pillow")
    rows: list[dict[str, Cell]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with browsing(folder / "asked") as browser:
            about["browser"] = browser.send("Browser.getVersion", session=False)["product"]
        if runtime is not None:
            about["onnxruntime-web"] = json.loads((runtime / "package.json").read_text(encoding="utf-8"))["version"]
        photographs = make_photographs(folder)
        for name in NETWORKS:
            rows += measure(name, folder / name, runtime, photographs, arguments)
        for site in arguments.page:
            rows.append(watch(site, photographs[1], folder / f"watching_{site.name}"))
    common.finish("web", about, figures_of(rows, arguments), rows, arguments.json)


def make_photographs(folder: Path) -> tuple[Path, Path]:
    """Photographs as large as telephones take them, of 12 and 48 megapixels, with as much grain."""
    paths = []
    with Image.open(common.EXAMPLES / "cat.jpg") as image:
        photograph = image.convert("RGB")
    grain = np.random.default_rng(0).normal(0, 4, (512, 512, 3))
    for size in (TELEPHONE, LARGE):
        large = np.asarray(photograph.resize(size, Image.Resampling.BICUBIC), np.float32)
        tiles = [-(-length // 512) for length in large.shape[:2]]
        large += np.tile(grain, (*tiles, 1))[: large.shape[0], : large.shape[1]]
        paths.append(folder / f"photograph_{size[0]}.jpg")
        Image.fromarray(large.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=92)
    return paths[0], paths[1]


def measure(
    name: str, folder: Path, runtime: Path | None, photographs: tuple[Path, Path], arguments: Any
) -> list[dict[str, Cell]]:
    """The rows of one network."""
    folder.mkdir()
    model = open_model(name)
    (written,) = write(model.graph(), "int8", folder)
    site, spec = written.path, model.spec
    rows: list[dict[str, Cell]] = [first_visit(site, folder / "new"), watch(site, photographs[1], folder / "watching")]
    crop = crop_pixels(read_image(common.EXAMPLES / "cat.jpg"), spec.preprocess)
    bench = folder / "bench"
    shutil.copytree(site, bench)
    shutil.copytree(BENCH, bench, dirs_exist_ok=True)  # over the page, whose policy lets no other script in
    Image.fromarray(crop).save(bench / "small.png")
    (bench / "pixels.bin").write_bytes(crop.tobytes())
    graph = model.graph()
    (bench / "model.onnx").write_bytes(to_onnx(graph if reads_pixels(graph) else read_pixels(graph)))
    shutil.copy(photographs[0], bench / "telephone.jpg")
    if runtime is not None:
        shutil.copytree(runtime / "dist", bench / "ort", ignore=shutil.ignore_patterns("*.map"))
    engine = LiteRTEngine(open_model(site).data, spec, threads=1)
    with browsing(folder / "profile") as browser, serving(bench) as server:
        browser.open(server.address)
        browser.evaluate("start('page', 'worker.js').then(() => 0)")
        contenders: dict[str, Callable[[], dict[str, Any]]] = {
            "page": partial(run, browser, f"timePage('small.png', {WARM_UP + arguments.runs})"),
            "Python": partial(run_python, engine, crop[None], WARM_UP + arguments.runs),
        }
        if runtime is not None:
            browser.evaluate("start('ort', 'ort_worker.js', { model: 'model.onnx' }).then(() => 0)")
            contenders["onnxruntime-web"] = partial(run, browser, f"timeOrt('pixels.bin', {WARM_UP + arguments.runs})")
        rows.append({"network": name, "what": "network"} | in_turns(contenders, arguments.rounds))
        with fusiform.Predictor(site, threads=1) as predictor:
            answers = {
                "page": partial(run_answer, browser),
                "Python": partial(predict, predictor, photographs[0]),
            }
            rows.append({"network": name, "what": "12 megapixels"} | in_turns(answers, max(3, arguments.rounds // 3)))
    return [{**row, "network": name} for row in rows]


def in_turns(contenders: dict[str, Callable[[], dict[str, Any]]], rounds: int) -> dict[str, Cell]:
    """Milliseconds of each contender, the ratios to the page, and whether all have the same first answer."""
    turns = common.in_turns(contenders, rounds)
    times = {name: [statistics.median(turn["times"]) for turn in of] for name, of in turns.items()}
    row: dict[str, Cell] = {f"{name} ms": round(statistics.median(of), 2) for name, of in times.items()}
    row["page / Python"] = round(common.median_ratio(times["page"], times["Python"]), 2)
    if "onnxruntime-web" in times:
        row["onnxruntime-web / page"] = round(common.median_ratio(times["onnxruntime-web"], times["page"]), 2)
    row["same first answer"] = len({turn["top"] for of in turns.values() for turn in of}) == 1
    return row


def run(browser: Browser, expression: str) -> dict[str, Any]:
    found: dict[str, Any] = browser.evaluate(expression)
    return {"times": found["times"][WARM_UP:], "top": found["top"]}


def run_answer(browser: Browser) -> dict[str, Any]:
    found: dict[str, Any] = browser.evaluate("timeAnswer('telephone.jpg')")
    return {"times": [found["time"]], "top": found["top"]}


def run_python(engine: LiteRTEngine, batch: Any, runs: int) -> dict[str, Any]:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        answers = engine.run(batch)
        times.append(1000 * (time.perf_counter() - start))
    (logits,) = answers.values()
    return {"times": times[WARM_UP:], "top": int(logits[0].argmax())}


def predict(predictor: fusiform.Predictor, path: Path) -> dict[str, Any]:
    start = time.perf_counter()
    (prediction,) = predictor(path)
    assert prediction.top is not None
    return {"times": [1000 * (time.perf_counter() - start)], "top": prediction.top[0].index}


def first_visit(site: Path, profile: Path) -> dict[str, Cell]:
    """What a new browser is sent until the page works and is kept for later."""
    with browsing(profile) as browser, serving(site) as server:
        browser.open(server.address)
        browser.wait("!document.querySelector('#file').disabled")
        browser.evaluate("navigator.serviceWorker.ready.then(() => new Promise((done) => setTimeout(done, 1000)))")
        asked = [(path.partition("?")[0].lstrip("/") or "index.html", count) for path, count in server.requests]
    contents = {name: (site / name).read_bytes() for name, _ in asked if (site / name).is_file()}
    packed = {name: min(len(data), len(gzip.compress(data, 6))) for name, data in contents.items()}
    return {
        "network": site.name,
        "what": "first visit",
        "requests": len(asked),
        "bytes": sum(count for _, count in asked),
        "bytes gzipped": sum(packed.get(name, count) for name, count in asked),
    }


def watch(site: Path, photograph: Path, profile: Path) -> dict[str, Cell]:
    """For how long the page's own thread was blocked by a large photograph, and how long its answer took."""
    with browsing(profile) as browser, serving(site) as server:
        browser.preload(LISTEN)
        browser.open(server.address)
        browser.wait("!document.querySelector('#file').disabled")
        browser.evaluate("new Promise((done) => setTimeout(done, 2000))")  # to rest: samples come last
        browser.evaluate(WATCH)
        start = time.perf_counter()
        browser.evaluate("window.answered = 0")
        browser.choose("#file", photograph)
        browser.wait("window.answered > 0")
        milliseconds = 1000 * (time.perf_counter() - start)
        browser.evaluate("new Promise((done) => setTimeout(done, 1500))")  # what it shows belongs to it
        watched = browser.evaluate("window.watched")
    return {
        "network": site.name,
        "what": "48 megapixels",
        "page ms": round(milliseconds),
        "blocked ms": round(max(watched.values())),
        "longest task ms": round(watched["task"]),
    }


def figures_of(rows: list[dict[str, Cell]], arguments: Any) -> dict[str, Cell]:
    def of(what: str, key: str) -> list[Any]:
        return [row[key] for row in rows if row["what"] == what and key in row]

    figures: dict[str, Cell] = {
        "rounds": arguments.rounds,
        "network, times Python's, at most (target: 3)": max(of("network", "page / Python")),
        "12 megapixels, times Python's, at most (target: 10)": max(of("12 megapixels", "page / Python")),
        "48 megapixels, ms blocked, at most (target: 100)": max(of("48 megapixels", "blocked ms")),
        "first visit, MB gzipped, at most (target: 7)": round(max(of("first visit", "bytes gzipped")) / 1e6, 2),
    }
    if faster := of("network", "onnxruntime-web / page"):
        figures["network, times faster than onnxruntime-web, at least (target: 3)"] = min(faster)
    return figures


if __name__ == "__main__":
    main()
