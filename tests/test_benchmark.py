"""What a benchmark measures: relations that hold on every machine, and real processes that fail in every way."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fusiform import benchmark as module
from fusiform.benchmark import (
    COLUMNS,
    ROUNDS,
    benchmark,
    draw_benchmark,
    measure_latency,
    peak_memory,
    possible_engines,
)
from fusiform.engines import ENGINES
from fusiform.errors import UsageError, WeightsError
from fusiform.graph.build import build_graph
from fusiform.graph.tflite import to_tflite
from fusiform.machine import usable_cores
from fusiform.report import Report
from fusiform.spec import Accuracy, ModelSpec, Preprocess
from fusiform.zoo.checkpoint import state_shapes, write_safetensors
from fusiform.zoo.info import precision_of, size_of
from fusiform.zoo.model import Model, open_model

SPEC = ModelSpec("mobilenet_v2", 0.35, ("red", "green"), input_size=32, preprocess=Preprocess(resize=32, crop=32))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, lived_in_state: Callable[..., Any]) -> Path:
    """Weights, and the same network as a file for LiteRT."""
    folder = tmp_path_factory.mktemp("models")
    state = lived_in_state(SPEC)
    write_safetensors(folder / "weights.safetensors", state, SPEC)
    (folder / "lite.tflite").write_bytes(to_tflite(build_graph(SPEC, state)))
    return folder


@pytest.fixture
def fake_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a package of this code before the real one, in the processes that the benchmark starts."""

    def put(name: str, code: str) -> None:
        (tmp_path / "fake").mkdir(exist_ok=True)
        (tmp_path / "fake" / f"{name}.py").write_text(code, encoding="utf-8")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))

    return put


class Clock:
    """Time that only engines take."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


class Slow:
    """An engine whose answers take as many seconds of the clock as the list says, one after the other, and then 1."""

    spec = SPEC

    def __init__(self, clock: Clock, seconds: list[float]) -> None:
        self.clock, self.seconds, self.shapes = clock, seconds, []

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        self.clock.now += self.seconds.pop(0) if self.seconds else 1.0
        self.shapes.append((batch.dtype.name, batch.shape))
        return {}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


# measure_latency


def test_latency_by_hand(clock: Clock) -> None:
    # Two to warm up, which do not count; then 21 runs: numpy's 95th percentile of 1..21 is the 20th.
    engine = Slow(clock, [50.0, 50.0, *map(float, range(21, 0, -1))])
    latency = measure_latency(engine, seconds=sum(range(1, 22)), warm_up=2)
    assert (latency.best_ms, latency.median_ms, latency.p95_ms, latency.runs) == (1000, 11000, 20000, 21)
    assert set(engine.shapes) == {("uint8", (1, 32, 32, 3))}


def test_latency_is_of_at_least_ten_runs(clock: Clock) -> None:
    assert measure_latency(Slow(clock, []), seconds=0, warm_up=0).runs == 10
    assert measure_latency(Slow(clock, []), seconds=12.5).runs == 13


def test_latency_of_a_network_for_grey_pictures(clock: Clock) -> None:
    engine = Slow(clock, [])
    engine.spec = replace(SPEC, input_channels=1)
    measure_latency(engine, seconds=0)
    assert set(engine.shapes) == {("float32", (1, 1, 32, 32))}


@pytest.mark.parametrize(
    "wrong", [{"seconds": -1.0}, {"seconds": float("nan")}, {"seconds": float("inf")}, {"warm_up": -1}]
)
def test_latency_refuses(clock: Clock, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="must be numbers from 0 on"):
        measure_latency(Slow(clock, []), **wrong)


# What is told of a model without running it


def test_size_engines_and_precision(folder: Path, tmp_path: Path) -> None:
    weights, lite = open_model(folder / "weights.safetensors"), open_model(folder / "lite.tflite")
    assert size_of(weights) == (folder / "weights.safetensors").stat().st_size
    assert possible_engines(weights) == ("litert", "onnxruntime", "torch", "openvino") == possible_engines(lite)
    assert precision_of(weights) == precision_of(lite) == "float32"
    assert precision_of(open_model("mobilenet_v2")) == "int8"

    (tmp_path / "a.xml").write_bytes(b"<net>" + b"x" * 95)
    (tmp_path / "a.bin").write_bytes(b"w" * 1000)
    data = b'<net version="11"> <data element_type="i8" shape="8, 3, 3, 3" offset="0" size="216"/>'
    program = Model(tmp_path / "a.xml", "openvino", SPEC, data)
    assert size_of(program) == 1100
    assert possible_engines(program) == ("openvino",)
    assert precision_of(program) == "int8"
    assert precision_of(replace(program, data=data.replace(b"i8", b"f16"))) == "float16"
    assert precision_of(replace(program, data=data.replace(b"i8", b"f32"))) == "float32"

    # The parameters of MobileNetV2 0.35: torchvision's count for 1000 classes, less the classifier's other 998.
    count = 1_677_128 - 998 * 1281
    assert precision_of(Model(tmp_path / "a.pte", "executorch", SPEC, bytes(4 * count))) == "float32"
    assert precision_of(Model(tmp_path / "a.pte", "executorch", SPEC, bytes(count + 200_000))) == "int8"

    package = tmp_path / "a.mlpackage"
    (package / "Data").mkdir(parents=True)
    (package / "Manifest.json").write_bytes(b"{}")
    (package / "Data" / "weights").write_bytes(b"w" * 10)
    apple = Model(package, "coreml", SPEC, b"")
    assert size_of(apple) == 12
    assert precision_of(apple) is None
    with pytest.raises(UsageError, match="Apple"):
        possible_engines(apple)


def test_peak_memory_grows_with_what_is_held() -> None:
    if peak_memory() is None:
        pytest.skip("this system does not tell")
    code = (
        "from fusiform.benchmark import peak_memory; a = peak_memory(); b'x' * 90_000_000; b = peak_memory()\n"
        "print(a, b, peak_memory())"
    )
    # Started by a process that is larger than the new one is to become.
    held = b"x" * 300_000_000
    before, with_it, later = map(int, subprocess.check_output([sys.executable, "-c", code]).split())
    assert len(held) == 300_000_000
    assert 80_000_000 < with_it - before < 100_000_000
    assert with_it <= later < with_it + 10_000_000
    assert before < 200_000_000


# benchmark


def test_every_model_in_every_engine_with_every_number_of_threads(folder: Path) -> None:
    models = [folder / "lite.tflite", folder / "weights.safetensors"]
    told: list[tuple[str, int | None, int]] = []

    @contextmanager
    def progress(*, total: int | None, label: str, unit: str = "pictures") -> Iterator[Any]:
        class Bar:
            done = 0

            def advance(self, amount: int = 1) -> None:
                Bar.done += amount

        yield Bar()
        told.append((label, total, Bar.done))

    # Named twice is measured once.
    report = benchmark([*models, models[0]], threads=(1, 2, 1), seconds=0.05, progress=progress)
    assert [(row["model"], row["threads"]) for row in report.rows] == [(str(m), t) for m in models for t in (1, 2)]
    for row in report.rows:
        assert tuple(row) == COLUMNS
        assert row["error"] is None
        assert (row["engine"], row["precision"]) == ("litert", "float32")
        assert 0 < row["best_ms"] <= row["median_ms"] <= row["p95_ms"]
        assert row["runs"] >= 10
        assert row["runs"] % ROUNDS == 0
        assert row["workers"] == max(1, usable_cores() // row["threads"])
        assert row["pictures_per_second"] > 0
        # To the first answer is longer than one more answer.
        assert row["load_ms"] > row["best_ms"]
        assert row["bytes"] == Path(row["model"]).stat().st_size
        assert row["top1"] is row["measured_on"] is None
        if peak_memory() is not None:
            assert 0 < row["memory_mb"] < row["process_mb"]
    assert report.figures["cores"] == usable_cores()
    assert report.figures["ai-edge-litert"]
    assert [label for label, _, _ in told] == ["first answers", "benchmark"]
    assert all(total == done > 0 for _, total, done in told)


def test_what_cannot_run_is_listed_and_the_rest_goes_on(
    folder: Path, tmp_path: Path, fake_package: Callable[[str, str], None]
) -> None:
    fake_package("onnxruntime", "raise ImportError('not here')")
    fake_package("torch", "import sys, os\nprint('no such instruction', file=sys.stderr, flush=True)\nos._exit(9)")
    fake_package("openvino", "print('hello')\nraise RuntimeError('of its own')")
    broken, apple = tmp_path / "broken.tflite", tmp_path / "none.tflite"
    broken.write_bytes((folder / "lite.tflite").read_bytes()[:1000])
    report = benchmark([broken, folder / "weights.safetensors", apple], engines=ENGINES, seconds=0.02)
    errors = {(Path(str(row["model"])).name, row["engine"]): row["error"] for row in report.rows}
    assert list(errors) == [
        ("broken.tflite", None),
        ("weights.safetensors", "litert"),
        ("weights.safetensors", "onnxruntime"),
        ("weights.safetensors", "torch"),
        ("weights.safetensors", "openvino"),
        ("none.tflite", None),
    ]
    assert errors["weights.safetensors", "litert"] is None
    assert "pip install 'fusiform[onnx]'" in str(errors["weights.safetensors", "onnxruntime"])
    assert errors["weights.safetensors", "torch"] == "the process that ran it ended with 9: no such instruction"
    assert "of its own" in str(errors["weights.safetensors", "openvino"])
    assert "no such model file" in str(errors["none.tflite", None])
    assert str(broken) in str(errors["broken.tflite", None])
    for row in report.rows:
        assert tuple(row) == COLUMNS
        assert (row["median_ms"] is None) == (row["pictures_per_second"] is None) == (row["error"] is not None)


def test_an_engine_named_for_a_model_that_it_cannot_run_is_told(folder: Path) -> None:
    report = benchmark([folder / "lite.tflite"], engines=["executorch", "litert"], seconds=0.02)
    first, second = report.rows
    assert first["engine"] == "executorch"
    assert "fusiform export" in str(first["error"])
    assert second["median_ms"] is not None


def test_a_runtime_that_crashes_later_loses_its_row_alone(
    folder: Path, fake_package: Callable[[str, str], None]
) -> None:
    # The 30th answer never comes: past the first ones, within the rounds.
    fake_package(
        "onnxruntime",
        "import os, types, numpy\n"
        "class SessionOptions: pass\n"
        "class InferenceSession:\n"
        "    left = 30\n"
        "    def __init__(self, *_, **__): pass\n"
        "    def get_inputs(self):\n"
        "        return [types.SimpleNamespace(name='x', type='tensor(float)', shape=['N', 3, 32, 32])]\n"
        "    def get_outputs(self): return [types.SimpleNamespace(shape=['N', 2])]\n"
        "    def run(self, *_):\n"
        "        self.left -= 1\n"
        "        if not self.left: os._exit(3)\n"
        "        return [numpy.zeros((1, 2), 'float32')]\n",
    )
    pytest.importorskip("onnx")
    report = benchmark([folder / "lite.tflite"], engines=["litert", "onnxruntime"], seconds=0.02)
    assert report.rows[0]["median_ms"] is not None
    assert report.rows[1]["error"] == "the process that ran it ended with 3"
    assert report.rows[1]["median_ms"] is report.rows[1]["runs"] is report.rows[1]["pictures_per_second"] is None
    assert report.rows[1]["load_ms"] is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"models": []}, "name a model"),
        ({"seconds": 0.0}, "seconds must be"),
        ({"seconds": float("nan")}, "seconds must be"),
        ({"threads": (1, 0)}, "threads must be"),
        ({"engines": ["abacus"]}, "there is no engine 'abacus'"),
        ({"models": ["no_such_model"]}, "no_such_model"),
    ],
)
def test_wrong_arguments(folder: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        benchmark(**{"models": [folder / "lite.tflite"], "seconds": 0.02, **arguments})


def test_the_first_models_error_where_none_can_be_opened(tmp_path: Path) -> None:
    (tmp_path / "empty.tflite").touch()
    with pytest.raises(WeightsError, match=r"empty\.tflite"):
        benchmark([tmp_path / "empty.tflite", "no_such_model"])


def test_processes_end_with_an_interruption(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[str]] = []

    class Watched(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            started.append(self)

    monkeypatch.setattr(module.subprocess, "Popen", Watched)

    @contextmanager
    def interrupt(*, total: int | None, label: str, unit: str = "pictures") -> Iterator[Any]:
        class Bar:
            def advance(self, amount: int = 1) -> None:
                if label == "benchmark":
                    raise KeyboardInterrupt

        yield Bar()

    with pytest.raises(KeyboardInterrupt):
        benchmark([folder / "lite.tflite"], threads=(1, 2), seconds=0.02, progress=interrupt)
    assert len(started) == 2
    assert all(process.poll() is not None for process in started)


def test_a_process_ends_when_its_parent_does() -> None:
    code = "import subprocess, sys; from fusiform.benchmark import _Child; print(_Child()._process.pid, flush=True)"
    code += "; import os; os._exit(0)"
    pid = int(subprocess.check_output([sys.executable, "-W", "ignore", "-c", code]))
    status = Path(f"/proc/{pid}/status")
    if not Path("/proc/self/status").is_file():
        pytest.skip("no /proc here")
    for _ in range(300):
        if not status.is_file() or "State:\tZ" in status.read_text():
            return
        time.sleep(0.1)
    raise AssertionError("it still runs")


# Accuracy, and the plot


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three pictures of a class that the model takes every one of for the same."""
    for name, color in (("red", (200, 0, 0)), ("green", (0, 200, 0))):
        (tmp_path / "data" / name).mkdir(parents=True)
        for k in range(3):
            Image.new("RGB", (40, 40), tuple(max(0, c - 30 * k) for c in color)).save(
                tmp_path / "data" / name / f"{k}.png"
            )
    return tmp_path / "data"


def test_accuracy_on_data(folder: Path, pictures: Path) -> None:
    from fusiform.evaluate.classification import evaluate

    model = folder / "lite.tflite"
    report = benchmark([model], threads=(1, 2), seconds=0.02, data=pictures)
    expected = 100 * evaluate(model, pictures).right.mean()
    assert [row["top1"] for row in report.rows] == [pytest.approx(expected, abs=1e-3)] * 2
    assert {row["measured_on"] for row in report.rows} == {"6 pictures of data (all)"}


def test_data_that_does_not_fit_is_told_before_the_work(folder: Path, pictures: Path) -> None:
    (pictures / "red").rename(pictures / "purple")
    with pytest.raises(UsageError, match="purple"):
        benchmark([folder / "lite.tflite"], data=pictures, progress=lambda **_: pytest.fail("it began to measure"))


def test_accuracy_from_the_description_is_on_the_same_pictures_if_it_can_be(
    tmp_path: Path, lived_in_state: Callable[..., Any]
) -> None:
    def write(name: str, *measured: tuple[str, float]) -> Path:
        accuracy = tuple(Accuracy(dataset, top1, 100, 50, "by hand") for dataset, top1 in measured)
        path = tmp_path / f"{name}.safetensors"
        write_safetensors(path, lived_in_state(SPEC), SPEC.replace(accuracy=accuracy))
        return path

    one, two = write("one", ("scenes", 90), ("cats", 80)), write("two", ("cats", 70))
    rows = benchmark([one, two], seconds=0.02).rows
    assert [(row["top1"], row["measured_on"]) for row in rows] == [(80, "cats"), (70, "cats")]
    rows = benchmark([one, write("none")], seconds=0.02).rows
    assert [(row["top1"], row["measured_on"]) for row in rows] == [(90, "scenes"), (None, None)]


# Detectors and segmenters


def write_task(folder: Path, task: Any, fit: Any, labels: tuple[str, ...]) -> Path:
    """A small network of random weights."""
    preprocess = Preprocess(resize=64, crop=64, fit=fit)
    stride = 16 if task == "segmentation" else 32
    spec = ModelSpec(
        "mobilenet_v2", 0.35, labels, task=task, input_size=64, output_stride=stride, preprocess=preprocess
    )
    random = np.random.default_rng(0)
    state = {
        name: np.array(5)
        if not shape
        else random.uniform(0.8, 1.2, shape).astype(np.float32)
        if name.endswith("running_var")
        else random.normal(0, (1.5 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)
        for name, shape in state_shapes(spec).items()
    }
    (folder / f"{task}.tflite").write_bytes(to_tflite(build_graph(spec, state)))
    return folder / f"{task}.tflite"


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs in Pascal VOC's layout, each with a box and a mask; a third that cannot be read."""
    root = tmp_path_factory.mktemp("voc")
    for name in ("JPEGImages", "Annotations", "SegmentationClass"):
        (root / name).mkdir()
    (root / "class_names.txt").write_text("background\nfox\nowl")
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>50</xmax><ymax>40</ymax></bndbox>"
    for k in range(3):
        Image.effect_noise((90, 60), 80).convert("RGB").save(root / "JPEGImages" / f"{k}.png")
        size = "<size><width>90</width><height>60</height><depth>3</depth></size>"
        text = f"<annotation>{size}<object><name>fox</name>{box}</object></annotation>"
        (root / "Annotations" / f"{k}.xml").write_text(text)
        Image.new("L", (90, 60), k).save(root / "SegmentationClass" / f"{k}.png")
    (root / "JPEGImages" / "2.png").write_bytes(b"no picture")
    return root


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tasks")
    return {
        "detection": write_task(folder, "detection", "stretch", ("fox", "owl")),
        "segmentation": write_task(folder, "segmentation", "pad", ("background", "fox", "owl")),
    }


def test_decoding_is_timed_apart(folder: Path, tasks: dict[str, Path]) -> None:
    report = benchmark([tasks["detection"], tasks["segmentation"], folder / "lite.tflite"], seconds=0.02)
    assert all(row["error"] is None for row in report.rows)
    detector, segmenter, classifier = report.rows
    assert detector["decode_ms"] > 0
    assert segmenter["decode_ms"] > 0
    assert classifier["decode_ms"] is None
    assert {row["map"] for row in report.rows} == {row["miou"] for row in report.rows} == {None}


def test_map_and_miou_on_data(tasks: dict[str, Path], voc: Path, folder: Path) -> None:
    from fusiform.evaluate import boxes as evaluate_boxes
    from fusiform.evaluate import masks as evaluate_masks

    pytest.importorskip("faster_coco_eval")
    report = benchmark(list(tasks.values()), seconds=0.02, data=voc)
    assert [row["error"] for row in report.rows] == [None, None]
    detector, segmenter = report.rows
    boxes = evaluate_boxes.evaluate(tasks["detection"], voc)
    assert detector["map"] == pytest.approx(100 * boxes.scores.ap, abs=1e-3)
    # A mask of background and one of foxes, and what the network makes of them.
    confusion = evaluate_masks.evaluate(tasks["segmentation"], voc).confusion
    ious = [
        confusion[k, k] / union
        for k in range(3)
        if (union := confusion[k].sum() + confusion[:, k].sum() - confusion[k, k])
    ]
    assert segmenter["miou"] == pytest.approx(100 * np.mean(ious), abs=1e-3)
    assert {row["measured_on"] for row in report.rows} == {f"2 pictures of {voc.name} (all)"}
    assert detector["top1"] is detector["miou"] is segmenter["map"] is None
    with pytest.raises(UsageError, match="is no data set with boxes"):
        benchmark([tasks["detection"]], data=folder, progress=lambda **_: pytest.fail("it began to measure"))


def test_decoding_is_of_the_photographs_own_size(
    tasks: dict[str, Path], voc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that can be read, again and again; without any the made picture stands for one of 640 x 480."""
    sizes: list[tuple[int, int]] = []
    real = module.segmentation.decode

    def decode(logits: Any, spec: Any, size: Any, **more: Any) -> Any:
        sizes.append(size)
        return real(logits, spec, size, **more)

    monkeypatch.setattr(module.segmentation, "decode", decode)
    bench = module._Bench()
    bench.open(str(tasks["segmentation"]), "litert", 1)
    files = [str(voc / "JPEGImages" / f"{k}.png") for k in range(3)]
    assert len(bench.decode(files)["times"]) == len(bench.decode(files)["times"]) == 2
    assert sizes == [(90, 60)] * 5  # one of them to warm up
    bench = module._Bench()
    bench.open(str(tasks["segmentation"]), "litert", 1)
    assert len(bench.decode([])["times"]) == 1
    assert sizes[5:] == [(640, 480)] * 2


def row(model: str, **values: Any) -> dict[str, Any]:
    return {
        **dict.fromkeys(COLUMNS),
        "model": model,
        "engine": "litert",
        "threads": 1,
        "median_ms": 1.0,
        "bytes": 2_500_000,
        **values,
    }


def test_plot_takes_what_the_task_is_measured_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(module, "draw_pareto", lambda points, path, **more: drawn.append((points, more)))
    detectors = [row("a.tflite", map=20.0, measured_on="x"), row("b.tflite", map=30.0, measured_on="x")]
    draw_benchmark(Report("", tuple(detectors)), tmp_path / "a.png")
    points, more = drawn.pop()
    assert [point.y for point in points] == [20.0, 30.0]
    assert more["y_label"] == "mAP %, x"
    # Two measures have no common axis.
    draw_benchmark(Report("", (detectors[0], row("c.tflite", miou=50.0, measured_on="x"))), tmp_path / "a.png")
    points, more = drawn.pop()
    assert more["smaller_y"]


def test_plot_takes_accuracy_if_it_can_be_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(module, "draw_pareto", lambda points, path, **more: drawn.append((points, more)))
    accurate = [row("runs/a.tflite", top1=90.0, measured_on="x"), row("runs/b.tflite", top1=80.0, measured_on="x")]
    failed = row("c", median_ms=None, error="no")
    draw_benchmark(Report("", (*accurate, failed)), tmp_path / "a.png")
    points, more = drawn.pop()
    assert [(point.name, point.x, point.y, point.group) for point in points] == [
        ("a", 1.0, 90.0, "litert"),
        ("b", 1.0, 80.0, "litert"),
    ]
    assert not more["smaller_y"]
    other = row("else/a.tflite", top1=80.0, measured_on="y", threads=2)
    draw_benchmark(Report("", (accurate[0], other)), tmp_path / "a.png")
    points, more = drawn.pop()
    assert [(point.name, point.y) for point in points] == [
        ("runs/a.tflite, 1 thread", 2.5),
        ("else/a.tflite, 2 threads", 2.5),
    ]
    assert more["smaller_y"]
    runs = [row("runs/a/best.safetensors"), row("runs/b/best.safetensors")]
    draw_benchmark(Report("", tuple(runs)), tmp_path / "a.png")
    assert [point.name for point in drawn.pop()[0]] == ["a", "b"]


def test_throughput_counts_every_picture_once() -> None:
    answered: list[int] = []

    class Counting:
        spec = SPEC

        def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
            answered.append(1)
            time.sleep(0.002)
            return {}

    bench = module._Bench()
    bench.start, bench.crew, bench.picture = Counting, [Counting()], np.zeros((1, 32, 32, 3), np.uint8)
    rates = [bench.throughput(workers, 20)["rate"] for workers in (1, 4)]
    # One to warm up each worker, then the pictures.
    assert len(answered) == 1 + 20 + 4 + 20
    # Whatever else the machine does, no worker answers faster than it sleeps.
    assert rates[0] <= 1 / 0.002
    assert rates[1] <= 4 / 0.002
    assert statistics.mean(rates) > 0
