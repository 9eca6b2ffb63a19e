"""One ``evaluate()`` for three tasks: whatever the model comes as, and the same as the command says."""

from __future__ import annotations

import doctest
import json
import shutil
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

import fusiform.cli
from fusiform.data.annotated import AnnotatedSet
from fusiform.data.dataset import DataSet
from fusiform.data.folders import read_dataset
from fusiform.data.open import open_dataset
from fusiform.errors import MissingExtraError, OutputError, UsageError
from fusiform.evaluation import job
from fusiform.evaluation.classification import ClassificationEvaluation
from fusiform.evaluation.detection import DetectionEvaluation
from fusiform.evaluation.job import evaluate
from fusiform.evaluation.segmentation import SegmentationEvaluation
from fusiform.progress import silent
from fusiform.spec import Task
from fusiform.zoo.model import open_model

sys.path.insert(0, str(Path(__file__).parent))

from every_task import NAMES, TASKS, write_images, write_model

sys.path.pop(0)

ROOT = Path(__file__).parents[2]
PICTURES = 6
EVALUATIONS = {
    "classification": ClassificationEvaluation,
    "detection": DetectionEvaluation,
    "segmentation": SegmentationEvaluation,
}
MAIN = {"classification": "top1", "detection": "map", "segmentation": "miou"}


@pytest.fixture(autouse=True)
def _evaluator() -> None:
    pytest.importorskip("faster_coco_eval")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For each task a model, another one, a run's folder, and a dataset, all called after it."""
    folder = tmp_path_factory.mktemp("job")
    for task in TASKS:
        write_model(folder / f"{task}.safetensors", task, 3)
        write_model(folder / f"other_{task}.safetensors", task, 4)
        run = folder / f"{task}_run"
        run.mkdir()
        shutil.copy(folder / f"{task}.safetensors", run / "best.safetensors")
        shutil.copy(folder / f"other_{task}.safetensors", run / "last.safetensors")
        (run / "run.json").write_text("{}")
    write_images(folder, PICTURES)
    return folder


def without_times(content: dict[str, Any]) -> dict[str, Any]:
    assert content["figures"].pop("seconds") >= 0
    return content


def by_command(*words: str | Path) -> str:
    result = CliRunner().invoke(fusiform.cli.commands, ["evaluate", *map(str, words)], prog_name="fusiform")
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("task", TASKS)
def test_the_command_says_the_same(made: Path, task: Task, valid: Callable[..., Any]) -> None:
    model, other, data = made / f"{task}.safetensors", made / f"other_{task}.safetensors", made / task
    result = evaluate(model, data, compare=other)
    assert type(result) is EVALUATIONS[task]
    said = valid(by_command(model, data, "--compare", other, "--format", "json"))
    assert without_times(said) == without_times(result.to_dict())
    assert json.loads(result.to_json()) == json.loads(json.dumps(result.to_dict()))
    table = by_command(model, data, "--compare", other)
    assert [line for line in table.splitlines() if not line.startswith("engine ")] == [
        line for line in result.to_table().splitlines() if not line.startswith("engine ")
    ]
    assert by_command(model, data, "--format", "csv") == result.report().to_csv().replace("\r\n", "\n")
    assert by_command(model, data, "--format", "jsonl") == result.report().to_jsonl()


@pytest.mark.parametrize("task", TASKS)
def test_a_model_comes_as_a_file_a_run_or_open(made: Path, task: Task) -> None:
    file = made / f"{task}.safetensors"
    first = without_times(evaluate(file, made / task).to_dict())
    for model, called in ((str(file), str(file)), (open_model(file), str(file)), (made / f"{task}_run", None)):
        content = without_times(evaluate(model, made / task).to_dict())
        name = called or str(made / f"{task}_run")
        assert content["figures"].pop("model") == name
        assert content.pop("title") == f"{name} on {made / task} ({content['figures']['split']})"
        assert content == {key: value for key, value in first.items() if key != "title"} | {
            "figures": {key: value for key, value in first["figures"].items() if key != "model"}
        }


@pytest.mark.parametrize("task", TASKS)
def test_data_may_have_been_read_before(made: Path, task: Task) -> None:
    model = open_model(made / f"{task}.safetensors")
    data: Any
    if task == "classification":
        data = open_dataset(made / task, task=task)
    else:
        data = open_dataset(made / task, task=task, spec=model.spec, model="it")
    assert without_times(evaluate(model, data).to_dict()) == without_times(evaluate(model, made / task).to_dict())


def test_data_of_another_task_is_refused_however_it_comes(made: Path) -> None:
    spec = open_model(made / "detection.safetensors").spec
    boxes = open_dataset(made / "detection", task="detection", spec=spec, model="it")
    with pytest.raises(UsageError, match=r"is a dataset with boxes, and .* is a classifier: give a folder with one"):
        evaluate(made / "classification.safetensors", boxes)
    with pytest.raises(UsageError, match=r"is a dataset with boxes, and .* is a classifier: give a folder with one"):
        evaluate(made / "classification.safetensors", made / "detection")
    with pytest.raises(UsageError, match=r"was read without masks, and .* is a segmenter: give its path"):
        evaluate(made / "segmentation.safetensors", boxes)
    classes = read_dataset(made / "classification")
    with pytest.raises(UsageError, match=r"is no dataset with boxes, and .* is a detector"):
        evaluate(made / "detection.safetensors", classes)
    masks = AnnotatedSet(made, "segmentation", spec.labels, boxes.splits)
    with pytest.raises(UsageError, match=r"was not read with the classes of .*: give its path"):
        evaluate(made / "detection.safetensors", masks)


@pytest.mark.parametrize("task", TASKS)
def test_the_headline_numbers(made: Path, task: Task) -> None:
    result = evaluate(made / f"{task}.safetensors", made / task)
    figures = result.report().figures
    names = {
        "classification": {"top1", "top5", "balanced_accuracy", "macro_f1", "ece", "nll"},
        "detection": {"map", "map50", "map75", "precision", "recall"},
        "segmentation": {"miou", "pixel_accuracy"},
    }[task]
    assert result.metrics == {name: figures[name] for name in names}
    assert result.value == pytest.approx(result.metrics[MAIN[task]], abs=1e-5)
    value, low, high = (float(each or 0) for each in result.interval)
    assert value == result.value
    assert 0 <= low <= value <= high <= 1
    assert high > 0


@pytest.mark.parametrize("task", TASKS)
def test_it_is_short_to_print_and_a_table_in_a_notebook(made: Path, task: Task) -> None:
    result = evaluate(made / f"{task}.safetensors", made / task, compare=made / f"other_{task}.safetensors")
    text = repr(result)
    assert text == str(result)
    assert text.startswith(f"<{EVALUATIONS[task].__name__} {result.title}: {result.main} ")
    assert "95 % interval" in text
    assert text.endswith(f", {PICTURES} images>")
    assert "\n" not in text
    assert len(text) < 120 + len(result.title)
    html = result._repr_html_()
    assert '<th scope="row">engine</th>' in html
    assert result.comparison is not None
    assert result.comparison.sentence in html
    assert '<th scope="row">red</th>' in html
    for outside in ("<style", "<script", "<img", "src=", "http", "<html", "<body"):
        assert outside not in html
    assert len(html) < 10_000


def test_a_notebook_does_not_list_a_thousand_classes(made: Path) -> None:
    result = evaluate("mobilenet_v2", classes_of_imagenet(made), threads=1)
    html = result._repr_html_()
    assert html.count("<tr>") <= 12 + 21
    assert "and 5 more classes: see report()" in html
    assert len(result.report().rows) == 25


def classes_of_imagenet(made: Path) -> Path:
    folder = made / "imagenet"
    if not folder.exists():
        for k in range(25):
            (folder / str(k)).mkdir(parents=True)
            Image.new("RGB", (64, 64), (10 * k, 99, 99)).save(folder / str(k) / "0.png")
    return folder


def before_the_work(*, total: int | None, label: str, unit: Any = "images") -> Any:
    """A tracker of work that must not begin: only the dataset is read."""
    if total is not None:
        pytest.fail(f"it began to {label}")
    return silent(total=total, label=label, unit=unit)


def test_wrong_classes_of_the_second_model_are_told_before_the_work(made: Path) -> None:
    with pytest.raises(UsageError, match="3 of 3 classes fit no output of mobilenet_v2"):
        evaluate(
            made / "classification.safetensors",
            made / "classification",
            compare="mobilenet_v2",
            progress=before_the_work,
        )


@pytest.mark.parametrize("task", TASKS)
def test_a_comparison_is_part_of_it(made: Path, task: Task) -> None:
    model, other = (made / f"{name}{task}.safetensors" for name in ("", "other_"))
    alone = evaluate(model, made / task)
    assert alone.comparison is None
    assert alone.to_dict()["comparison"] is None
    compared = evaluate(model, made / task, compare=open_model(other))
    found = compared.comparison
    assert found is not None
    assert (found.model, found.other, found.pictures) == (str(model), str(other), PICTURES)
    assert compared.to_dict()["comparison"]["sentence"] == found.sentence
    second = evaluate(other, made / task)
    assert found == alone.compare(second)
    with pytest.raises(UsageError, match="no picture in common"):
        alone.including(samples=()).compare(second)


def test_evaluations_of_two_tasks_are_not_compared(made: Path) -> None:
    results = [evaluate(made / f"{task}.safetensors", made / task) for task in TASKS]
    for first, second in ((0, 1), (1, 2), (2, 0)):
        with pytest.raises(UsageError, match="are for two tasks: compare models of one task"):
            results[first].compare(results[second])


def test_a_copy_keeps_what_was_computed(made: Path) -> None:
    result = evaluate(made / "detection.safetensors", made / "detection")
    assert isinstance(result, DetectionEvaluation)
    matches = result.matches
    copied = result.including(notes=("more",))
    assert copied.matches is matches
    assert copied.notes == ("more",)
    assert result.notes == ("2 of 3 classes have no objects: green, blue",)


def test_calibration_is_part_of_it(made: Path, tmp_path: Path) -> None:
    model, out = made / "classification.safetensors", tmp_path / "calibrated.safetensors"
    told = evaluate(model, made / "classification")
    assert isinstance(told, ClassificationEvaluation)
    # A dataset of which the model is right about four of six images.
    labels = [int(k) if i % 3 else (int(k) + 1) % 3 for i, k in enumerate(told.predicted)]
    samples = tuple(replace(each, label=k) for each, k in zip(told.samples, labels, strict=True))
    data = DataSet(made / "classification", NAMES, {"val": samples, "test": samples[:4]})
    result = evaluate(open_model(model), data, calibrate=out)
    assert result.calibration is not None
    assert open_model(out).spec.temperature == pytest.approx(result.calibration.temperature)
    assert result.to_dict()["calibration"]["ece_before"] == result.calibration.ece_before
    assert "The temperature stays" in result.to_table()  # six pictures tell none
    assert "The temperature stays" in result._repr_html_()
    assert result.calibration.fitted_on == "val"
    again = evaluate(out, data)
    assert again.metrics["ece"] == pytest.approx(result.calibration.ece_after, abs=1e-5)
    assert again.calibration is None
    with pytest.raises(UsageError, match=r"end its name in \.safetensors"):
        evaluate(model, made / "classification", calibrate=tmp_path / "copy.onnx")


@pytest.mark.parametrize("task", TASKS)
def test_the_page_is_written(made: Path, tmp_path: Path, task: Task) -> None:
    page = tmp_path / "page.html"
    result = evaluate(
        made / f"{task}.safetensors", made / task, compare=made / f"other_{task}.safetensors", html=page, threads=1
    )
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert ">Comparison</h2>" in text
    assert "data:image/jpeg" in text
    assert result.page().render() == text
    result.write_page(tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == text
    by_command(
        *(made / f"{task}.safetensors", made / task, "--compare", made / f"other_{task}.safetensors"),
        *("--html", tmp_path / "command.html", "--threads", "1"),
    )
    lines = [
        [line for line in each.replace("<dt>", "\n<dt>").splitlines() if "<dt>time</dt>" not in line]
        for each in (text, (tmp_path / "command.html").read_text(encoding="utf-8"))
    ]
    assert lines[0] == lines[1]
    with pytest.raises(OutputError, match="choose another place"):
        result.write_page(tmp_path / "nowhere" / "page.html")


@pytest.mark.parametrize("option", ["html", "calibrate"])
def test_a_place_that_is_not_there_is_told_before_the_work(made: Path, tmp_path: Path, option: str) -> None:
    where: Any = {option: tmp_path / "nowhere" / "file.safetensors"}
    model, data = made / "classification.safetensors", made / "classification"
    with pytest.raises(OutputError, match=r"file\.safetensors \(there is no such folder\): choose another place"):
        evaluate(model, data, progress=before_the_work, **where)


def test_explained_images_are_on_the_page(made: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    model, data = made / "classification.safetensors", made / "classification"
    named = data / "green" / "1.png"
    result = evaluate(model, data, explain=[2, "1", named], html=tmp_path / "page.html")
    assert isinstance(result, ClassificationEvaluation)
    captions = [caption for _, caption in result.explained]
    assert sum(caption.endswith(".png") for caption in captions) == 2 + 1 + 1
    assert captions.count("1.png") >= 1
    assert "What it looks at" in (tmp_path / "page.html").read_text(encoding="utf-8")
    with pytest.raises(UsageError, match=r"--explain gone\.png: no such picture; give a number or a picture's path"):
        evaluate(model, data, explain=["gone.png"])


def test_explaining_needs_pytorch(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"--explain needs PyTorch.*fusiform\[torch\]"):
        evaluate(made / "classification.safetensors", made / "classification", explain=[1])


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("detection", {"explain": [2]}, "--explain is for a classifier; .* is a detector: leave it out"),
        (
            "segmentation",
            {"calibrate": "x.tflite"},
            "--calibrate is for a classifier; .* is a segmenter: leave it out",
        ),
        ("detection", {"unknown": "strangers"}, "--unknown is for a classifier; .* is a detector: leave it out"),
        ("classification", {"unknown": "strangers"}, "does not tell unknown images: calibrate it"),
        ("classification", {"certain": 0.9}, "--certain and --per-class are for --calibrate FILE"),
        ("classification", {"per_class": True}, "--certain and --per-class are for --calibrate FILE"),
        ("classification", {"precision": {"red": 0.9}}, "--precision, --threshold and --costs are for --calibrate"),
        ("classification", {"threshold": {"red": 0.9}}, "--precision, --threshold and --costs are for --calibrate"),
        ("classification", {"costs": "costs.csv"}, "--precision, --threshold and --costs are for --calibrate"),
        ("segmentation", {"score": 0.2}, "--score is for a detector; .* is a segmenter: leave it out"),
        ("classification", {"score": 0.0}, "--score is for a detector; .* is a classifier: leave it out"),
        ("detection", {"multi_scale": True}, "--multi-scale is for a segmenter; .* is a detector: leave it out"),
        ("detection", {"score": 1.5}, r"score must be in \[0, 1\], got 1.5"),
        ("detection", {"batch": 0}, "batch must be at least 1, got 0"),
        ("detection", {"split": "test"}, "no pictures for --split test; there are val"),
        ("segmentation", {"multi_scale": True, "engine": "litert"}, "several scales are for the engine torch"),
    ],
)
def test_what_does_not_go_together_is_refused(made: Path, task: Task, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        evaluate(made / f"{task}.safetensors", made / task, **options)


def test_models_of_two_tasks_are_not_compared(made: Path) -> None:
    other = made / "segmentation.safetensors"
    with pytest.raises(UsageError, match=f"--compare {other}: is a segmenter; .* is a detector: name another"):
        evaluate(made / "detection.safetensors", made / "detection", compare=other)


@pytest.mark.parametrize("task", TASKS)
def test_progress_is_told_to_whoever_asks(
    made: Path, task: Task, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusiform.progress.GAP_SECONDS", 0.0)  # of short jobs nothing is said
    told: list[int] = []

    @contextmanager
    def tracker(*, total: int | None, label: str, unit: str = "images") -> Any:
        class Bar:
            def advance(self, amount: int = 1, note: str = "") -> None:
                told.append(amount)

        told.append(-(total or 0))
        yield Bar()

    evaluate(made / f"{task}.safetensors", made / task, progress=tracker)
    assert -PICTURES in told
    assert sum(told) == 0
    for progress in (False, None):  # standard error is neither a terminal nor a notebook
        evaluate(made / f"{task}.safetensors", made / task, progress=progress)
    assert capfd.readouterr().err == ""
    evaluate(made / f"{task}.safetensors", made / task, progress=True)
    assert f"evaluate: 100 % {PICTURES}/{PICTURES} images" in capfd.readouterr().err


def test_its_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, file in (("tabby", "cat.jpg"), ("espresso", "coffee.jpg")):
        (tmp_path / "photographs" / name).mkdir(parents=True)
        shutil.copy(ROOT / "examples" / file, tmp_path / "photographs" / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fusiform, "evaluate", evaluate, raising=False)
    (example,) = doctest.DocTestFinder(recurse=False).find(evaluate, "evaluate", globs={})
    found = doctest.DocTestRunner(verbose=False).run(example)
    assert (found.attempted, found.failed) == (3, 0)
    assert job.evaluate is evaluate
