"""What a contender's process does, here in the process of the test."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusiform.benchmarking import worker as module
from fusiform.errors import WeightsError
from fusiform.spec import ModelSpec, Preprocess

SPEC = ModelSpec("mobilenet_v2", 0.35, ("red", "green"), input_size=32, preprocess=Preprocess(resize=32, crop=32))


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


def test_a_model_whose_answers_are_not_finite_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    class Spoilt:
        spec = SPEC

        def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
            return {"logits": np.full((len(batch), 2), np.nan, np.float32)}

    monkeypatch.setattr(module, "open_engine", lambda *given, **more: Spoilt())
    with pytest.raises(WeightsError, match=r"^x\.onnx: answers with values that are not finite: export or train it"):
        module._Bench().open("x.onnx", "onnxruntime", 1)
