"""``fusiform evaluate`` of detectors and segmenters: networks with random weights, on synthetic images."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

import fusiform.cli
from fusiform.graph.build import build_graph
from fusiform.graph.shapes import state_shapes
from fusiform.graph.tflite import to_tflite
from fusiform.spec import ModelSpec, Preprocess, Task
from fusiform.zoo.checkpoint import write_safetensors

NAMES = ("red", "green", "blue")
PICTURES = 4


def make_spec(task: Task, width: float = 0.35) -> ModelSpec:
    size = {"classification": 32, "detection": 64, "segmentation": 65}[task]
    fit: Any = {"classification": "crop", "detection": "stretch", "segmentation": "pad"}[task]
    fields: dict[str, Any] = {"output_stride": 16} if task == "segmentation" else {}
    labels = ("background", *NAMES) if task == "segmentation" else NAMES
    preprocess = Preprocess(resize=size, crop=size, fit=fit)
    return ModelSpec("mobilenet_v2", width, labels, task=task, input_size=size, preprocess=preprocess, **fields)


def write_model(path: Path, spec: ModelSpec, seed: int = 3) -> None:
    random = np.random.default_rng(seed)
    state: dict[str, NDArray[Any]] = {}
    for name, shape in state_shapes(spec).items():
        if name.endswith("num_batches_tracked"):
            state[name] = np.array(5)
        elif len(shape) == 1:
            low, high = (-0.3, 0.3) if name.endswith(("mean", "bias")) else (0.7, 1.3)
            state[name] = random.uniform(low, high, shape).astype(np.float32)
        else:
            state[name] = random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)
    if path.suffix == ".tflite":
        path.write_bytes(to_tflite(build_graph(spec, state)))
    else:
        write_safetensors(path, state, spec)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models for every task, and the same pictures with boxes, with masks, and in folders of classes."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_model(folder / "classifier.tflite", make_spec("classification"))
    write_model(folder / "detector.tflite", make_spec("detection"))
    write_model(folder / "another.tflite", make_spec("detection"), seed=4)
    write_model(folder / "segmenter.safetensors", make_spec("segmentation"))
    write_model(folder / "another.safetensors", make_spec("segmentation"), seed=4)
    for name in ("coco/val2017", "coco/annotations", "voc/JPEGImages", "voc/SegmentationClass", "classes/red"):
        (folder / name).mkdir(parents=True)
    images, annotations = [], []
    for k in range(PICTURES):
        image = Image.new("RGB", (60 + k, 50), (40, 40, 40))
        mask = Image.new("L", image.size, 0)
        box = (5 + k, 8, 35, 40)
        image.paste((200, 0, 0), box)
        mask.paste(1, box)
        for place in ("coco/val2017", "voc/JPEGImages", "classes/red"):
            image.save(folder / place / f"{k}.png")
        mask.save(folder / "voc/SegmentationClass" / f"{k}.png")
        images.append({"id": k, "file_name": f"{k}.png", "width": image.width, "height": image.height})
        bbox = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
        annotations.append({"id": k + 1, "image_id": k, "category_id": 5, "bbox": bbox, "iscrowd": 0})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 5, "name": "red"}]}
    (folder / "coco/annotations/instances_val2017.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / "voc/class_names.txt").write_text("background\nred", encoding="utf-8")
    return folder


def run(folder: Path, model: str, data: str, *arguments: str | Path) -> Result:
    words = ["evaluate", str(folder / model), str(folder / data), *map(str, arguments)]
    result = CliRunner().invoke(fusiform.cli.commands, words, prog_name="fusiform")
    # Anything but an exit is a traceback on the user's screen.
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


@pytest.fixture
def evaluator() -> None:
    pytest.importorskip("faster_coco_eval")


@pytest.mark.usefixtures("evaluator")
def test_a_detector_in_every_form(made: Path, valid: Callable[..., Any]) -> None:
    table = run(made, "detector.tflite", "coco")
    assert table.exit_code == 0
    for words in (
        "detector.tflite on",
        "mAP 0.50:0.95",
        "over 1,000 resamples",
        "boxes scored above 0.3",
        "4 of 1 classes; the model knows 3",
    ):
        assert words in table.stdout
    content = valid(run(made, "detector.tflite", "coco", "--format", "json", "--score", "0.1").stdout)
    assert content["figures"]["objects"] == PICTURES
    assert content["figures"]["score"] == 0.1
    assert 0 <= content["figures"]["map_low"] <= content["figures"]["map"] <= content["figures"]["map_high"] <= 1
    records = list(csv.DictReader(io.StringIO(run(made, "detector.tflite", "coco", "--format", "csv").stdout)))
    lines = [json.loads(line) for line in run(made, "detector.tflite", "coco", "--format", "jsonl").stdout.splitlines()]
    assert records[0]["class"] == lines[0]["class"] == "red"
    assert float(records[0]["ap"]) == lines[0]["ap"]
    assert int(records[0]["objects"]) == PICTURES


def test_a_segmenter_in_every_form(made: Path, valid: Callable[..., Any]) -> None:
    table = run(made, "segmenter.safetensors", "voc")
    assert table.exit_code == 0
    for words in (
        "mean IoU",
        "pixel accuracy",
        "over 1,000 resamples",
        "2; the model chooses among its 4",
        "Worst pictures",
    ):
        assert words in table.stdout
    content = valid(run(made, "segmenter.safetensors", "voc", "--format", "json").stdout)
    assert content["figures"]["pixels"] == sum((60 + k) * 50 for k in range(PICTURES))
    assert content["confusion"]["columns"] == ["background", "red", "other"]
    assert len(content["worst_images"]) == PICTURES
    records = list(csv.DictReader(io.StringIO(run(made, "segmenter.safetensors", "voc", "--format", "csv").stdout)))
    assert [record["class"] for record in records] == ["background", "red"]
    assert sum(int(record["pixels"]) for record in records) == content["figures"]["pixels"]


def test_several_scales(made: Path) -> None:
    pytest.importorskip("torch")
    result = run(made, "segmenter.safetensors", "voc", "--multi-scale", "--format", "json")
    figures = json.loads(result.stdout)["figures"]
    assert (figures["engine"], figures["multi_scale"]) == ("torch", True)
    refused = run(made, "segmenter.safetensors", "voc", "--multi-scale", "--engine", "onnxruntime")
    assert refused.exit_code == 2
    assert "several scales are for the engine torch, not onnxruntime" in refused.stderr


@pytest.mark.usefixtures("evaluator")
def test_two_models_of_a_task_are_compared(made: Path, valid: Callable[..., Any]) -> None:
    for model, other, data, name in (
        ("detector.tflite", "another.tflite", "coco", "map"),
        ("segmenter.safetensors", "another.safetensors", "voc", "miou"),
    ):
        result = run(made, model, data, "--compare", made / other, "--format", "json", "--html", made / "page.html")
        compared = valid(result.stdout)["comparison"]
        assert compared["images"] == PICTURES
        difference = compared[name] - compared[f"other_{name}"]
        assert compared[f"{name}_difference"] == pytest.approx(difference, abs=1e-5)
        low, high = compared[f"{name}_difference_low"], compared[f"{name}_difference_high"]
        assert compared[f"{name}_excludes_zero"] == (low > 0 or high < 0)
        assert compared["sentence"] in run(made, model, data, "--compare", made / other).stdout
        assert ">Comparison</h2>" in (made / "page.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("evaluator")
@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
def test_other_engines_answer_alike(made: Path, engine: str) -> None:
    pytest.importorskip(engine)
    for model, data, name in (("detector.tflite", "coco", "map50"), ("segmenter.safetensors", "voc", "pixel_accuracy")):
        first, second = (
            json.loads(run(made, model, data, "--format", "json", *more).stdout)["figures"]
            for more in ((), ("--engine", engine, "--batch", "3"))
        )
        assert (first["engine"], second["engine"]) == ("litert", engine)
        assert second[name] == pytest.approx(first[name], abs=2e-3)


@pytest.mark.parametrize(
    ("model", "data", "arguments", "message"),
    [
        ("detector.tflite", "coco", ("--explain", "2", "--html", "x.html"), "--explain is for a classifier; "),
        (
            "segmenter.safetensors",
            "voc",
            ("--calibrate", "x.tflite"),
            "segmenter.safetensors is a segmenter: leave it",
        ),
        ("segmenter.safetensors", "voc", ("--score", "0.2"), "--score is for a detector; "),
        ("classifier.tflite", "classes", ("--score", "0.2"), "classifier.tflite is a classifier: leave it out"),
        ("detector.tflite", "coco", ("--multi-scale",), "--multi-scale is for a segmenter; "),
        ("detector.tflite", "classes", (), "is no dataset with boxes, and"),
        ("detector.tflite", "voc", (), "has masks and no boxes, and"),
        ("segmenter.safetensors", "coco", (), "has boxes and no outlines, and a segmenter learns"),
        ("classifier.tflite", "coco", (), "is a dataset with boxes, and"),
        ("classifier.tflite", "voc", (), "is a dataset with masks, and"),
        ("detector.tflite", "coco", ("--split", "test"), "no pictures for --split test; there are val"),
        ("detector.tflite", "nowhere", (), "nowhere: no such file or folder"),
    ],
)
def test_what_does_not_go_together_is_refused(
    made: Path, model: str, data: str, arguments: tuple[str, ...], message: str
) -> None:
    result = run(made, model, data, *arguments)
    # An option that is not for the model's task is wrong usage, data that do not fit the model are not.
    assert result.exit_code == (2 if message.endswith(("; ", "leave it", "leave it out")) else 1)
    assert message in result.stderr
    assert result.stdout == ""


def test_models_of_two_tasks_are_not_compared(made: Path) -> None:
    result = run(made, "detector.tflite", "coco", "--compare", made / "segmenter.safetensors")
    assert result.exit_code == 1
    assert "segmenter.safetensors: is a segmenter; " in result.stderr


def test_what_cannot_be_read_is_told_and_the_rest_goes_on(made: Path, tmp_path: Path) -> None:
    for name in ("JPEGImages", "SegmentationClass"):
        (tmp_path / "voc" / name).mkdir(parents=True)
        for file in (made / "voc" / name).iterdir():
            (tmp_path / "voc" / name / file.name).write_bytes(file.read_bytes())
    (tmp_path / "voc" / "class_names.txt").write_text("background\nred", encoding="utf-8")
    Image.new("L", (9, 9)).save(tmp_path / "voc" / "SegmentationClass" / "1.png")
    model = str(made / "segmenter.safetensors")
    for arguments, code in (((), 0), (("--strict",), 3)):
        result = run(tmp_path, model, "voc", *arguments)
        assert result.exit_code == code
        assert "1 of 4 pictures could not be read:" in result.stderr
        assert "1.png: the mask is 9 x 9 pixels and its picture 61 x 50" in result.stderr
        assert "3, 1 could not be read" in result.stdout
