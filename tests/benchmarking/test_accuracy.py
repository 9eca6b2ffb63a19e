"""How good the contenders are: as their evaluation says, or their descriptions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fusiform.benchmarking.job import benchmark
from fusiform.errors import UsageError
from fusiform.spec import Accuracy, ModelSpec, Preprocess
from fusiform.zoo.checkpoint import write_safetensors

SPEC = ModelSpec("mobilenet_v2", 0.35, ("red", "green"), input_size=32, preprocess=Preprocess(resize=32, crop=32))


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
    from fusiform.evaluation.job import evaluate

    model = folder / "lite.tflite"
    report = benchmark([model], threads=(1, 2), seconds=0.02, data=pictures)
    expected = evaluate(model, pictures).value
    assert [row["top1"] for row in report.rows] == [pytest.approx(expected, abs=1e-5)] * 2
    assert {row["measured_on"] for row in report.rows} == {"6 images of data (all)"}


def test_data_that_does_not_fit_is_told_before_the_work(folder: Path, pictures: Path) -> None:
    (pictures / "red").rename(pictures / "purple")
    with pytest.raises(UsageError, match="purple"):
        benchmark([folder / "lite.tflite"], data=pictures, progress=lambda **_: pytest.fail("it began to measure"))


def test_accuracy_from_the_description_is_on_the_same_pictures_if_it_can_be(
    tmp_path: Path, lived_in_state: Callable[..., Any]
) -> None:
    def write(name: str, *measured: tuple[str, float]) -> Path:
        accuracy = tuple(Accuracy(dataset, top1, 1, 50, "by hand") for dataset, top1 in measured)
        path = tmp_path / f"{name}.safetensors"
        write_safetensors(path, lived_in_state(SPEC), SPEC.replace(accuracy=accuracy))
        return path

    one, two = write("one", ("scenes", 0.9), ("cats", 0.8)), write("two", ("cats", 0.7))
    rows = benchmark([one, two], seconds=0.02).rows
    assert [(row["top1"], row["measured_on"]) for row in rows] == [(0.8, "cats"), (0.7, "cats")]
    rows = benchmark([one, write("none")], seconds=0.02).rows
    assert [(row["top1"], row["measured_on"]) for row in rows] == [(0.9, "scenes"), (None, None)]


def test_map_and_miou_on_data(tasks: dict[str, Path], voc: Path, folder: Path) -> None:
    from fusiform.evaluation.job import evaluate

    pytest.importorskip("faster_coco_eval")
    report = benchmark(list(tasks.values()), seconds=0.02, data=voc)
    assert [row["error"] for row in report.rows] == [None, None]
    detector, segmenter = report.rows
    boxes = evaluate(tasks["detection"], voc)
    assert detector["map"] == pytest.approx(boxes.scores.ap, abs=1e-5)
    # A mask of background and one of foxes, and what the network makes of them.
    confusion = evaluate(tasks["segmentation"], voc).confusion
    ious = [
        confusion[k, k] / union
        for k in range(3)
        if (union := confusion[k].sum() + confusion[:, k].sum() - confusion[k, k])
    ]
    assert segmenter["miou"] == pytest.approx(np.mean(ious), abs=1e-5)
    assert {row["measured_on"] for row in report.rows} == {f"2 images of {voc.name} (all)"}
    assert detector["top1"] is detector["miou"] is segmenter["map"] is None
    with pytest.raises(UsageError, match="is no dataset with boxes"):
        benchmark([tasks["detection"]], data=folder, progress=lambda **_: pytest.fail("it began to measure"))
