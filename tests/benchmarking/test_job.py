"""What a benchmark measures: relations that hold on every machine, and real processes that fail in every way."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fusiform.benchmarking import process
from fusiform.benchmarking.job import benchmark
from fusiform.benchmarking.memory import peak_memory
from fusiform.benchmarking.rounds import ROUNDS
from fusiform.benchmarking.rows import COLUMNS
from fusiform.engines import ENGINES
from fusiform.errors import UsageError, WeightsError
from fusiform.machine import usable_cores


@pytest.fixture
def fake_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a package of this code before the real one, in the processes that the benchmark starts."""

    def put(name: str, code: str) -> None:
        (tmp_path / "fake").mkdir(exist_ok=True)
        (tmp_path / "fake" / f"{name}.py").write_text(code, encoding="utf-8")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))

    return put


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
        assert row["images_per_second"] > 0
        # To the first answer is longer than one more answer.
        assert row["load_ms"] > row["best_ms"]
        assert row["bytes"] == Path(row["model"]).stat().st_size
        assert row["top1"] is row["measured_on"] is None
        if peak_memory() is not None:
            assert 0 < row["memory_bytes"] < row["process_bytes"]
    assert report.figures["cores"] == usable_cores()
    (package,) = report.tables["packages"]
    assert package["package"] == "ai-edge-litert"
    assert package["version"]
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
    report = benchmark([broken, folder / "weights.safetensors", apple], engine=ENGINES, seconds=0.02)
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
        assert (row["median_ms"] is None) == (row["images_per_second"] is None) == (row["error"] is not None)


def test_an_engine_named_for_a_model_that_it_cannot_run_is_told(folder: Path) -> None:
    report = benchmark([folder / "lite.tflite"], engine=["executorch", "litert"], seconds=0.02)
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
        "def disable_telemetry_events(): pass\n"
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
    report = benchmark([folder / "lite.tflite"], engine=["litert", "onnxruntime"], seconds=0.02)
    assert report.rows[0]["median_ms"] is not None
    assert report.rows[1]["error"] == "the process that ran it ended with 3"
    assert report.rows[1]["median_ms"] is report.rows[1]["runs"] is report.rows[1]["images_per_second"] is None
    assert report.rows[1]["load_ms"] is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"models": []}, "name a model"),
        ({"seconds": 0.0}, "seconds must be"),
        ({"seconds": float("nan")}, "seconds must be"),
        ({"threads": (1, 0)}, "threads must be"),
        ({"engine": ["abacus"]}, "there is no engine 'abacus'"),
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

    class Watched(subprocess.Popen[str]):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            started.append(self)

    monkeypatch.setattr(process.subprocess, "Popen", Watched)

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


def test_decoding_is_timed_apart(folder: Path, tasks: dict[str, Path]) -> None:
    report = benchmark([tasks["detection"], tasks["segmentation"], folder / "lite.tflite"], seconds=0.02)
    assert all(row["error"] is None for row in report.rows)
    detector, segmenter, classifier = report.rows
    assert detector["decode_ms"] > 0
    assert segmenter["decode_ms"] > 0
    assert classifier["decode_ms"] is None
    assert {row["map"] for row in report.rows} == {row["miou"] for row in report.rows} == {None}
