"""Evaluations in parts: the same figures as in one go, for every task, over kills and shards; and what is refused."""

from __future__ import annotations

import doctest
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fusiform
from fusiform.errors import InputError, MissingExtraError, UsageError
from fusiform.evaluation.classification import ClassificationEvaluation
from fusiform.evaluation.parts import evaluate_parts
from fusiform.spec import Task

sys.path.insert(0, str(Path(__file__).parent))

from every_task import NAMES, TASKS, Edges, one_box, write_images, write_model

sys.path.pop(0)

ROOT = Path(__file__).parents[2]
PICTURES = 7
BROKEN = 4
ARRAYS = {
    "classification": ("truth", "logits"),
    "detection": ("truth", "found"),
    "segmentation": ("counts", "confusion"),
}


def some_boxes(k: int, edges: Edges) -> list[dict[str, Any]]:
    """None, one of another area than its sides say, or with that a crowd."""
    (box,) = one_box(k, edges)
    left, top, width, height = box["bbox"]
    return [
        {"bbox": [left + n, top, width, height], "iscrowd": n, **({} if n else {"area": 123.25})} for n in range(k % 3)
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For each task a model and a dataset of seven images, of which the fifth is broken."""
    folder = tmp_path_factory.mktemp("parts")
    for task in TASKS:
        write_model(folder / f"{task}.safetensors", task, 3)
    write_images(folder, PICTURES, boxes=some_boxes, broken=BROKEN)
    return folder


def place_of(made: Path, task: Task) -> tuple[Path, Path]:
    return made / f"{task}.safetensors", made / task


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("part-*")}


def without_times(evaluation: Any) -> dict[str, Any]:
    told: dict[str, Any] = evaluation.to_dict()
    assert told["figures"].pop("seconds") >= 0
    return told


@pytest.mark.parametrize("task", TASKS)
def test_two_shards_come_to_the_same_as_one_evaluation(
    made: Path, tmp_path: Path, task: Task, valid: Callable[..., Any]
) -> None:
    pytest.importorskip("faster_coco_eval")
    model, data = place_of(made, task)
    out = tmp_path / "out"
    parts = [evaluate_parts(model, data, out, part=2, shard=(k, 2), threads=1) for k in range(2)]
    assert [each.images for each in parts] == [4, 3]
    assert sum(each.errors for each in parts) == 1
    assert sorted(content(out)) == [f"part-0000{k}.npz" for k in range(4)]
    assert valid((out / "parts.json").read_text(encoding="utf-8"))["images"] == PICTURES
    direct = fusiform.evaluate(model, data, threads=1)
    joined = fusiform.evaluate(model, data, answers=out, threads=1)
    assert type(joined) is type(direct)
    assert joined.skipped == direct.skipped
    assert len(direct.skipped) == 1
    assert joined.samples == direct.samples
    for name in ARRAYS[task]:
        one, two = getattr(direct, name), getattr(joined, name)
        if isinstance(one, np.ndarray):
            assert one.dtype == two.dtype
            assert np.array_equal(one, two)
        else:
            assert one == two
    assert joined.seconds > 0
    assert without_times(joined) == without_times(direct)
    page, same = (each.including(seconds=0.0).page() for each in (direct, joined))
    direct_file, joined_file = tmp_path / "direct.html", tmp_path / "joined.html"
    page.write(direct_file)
    same.write(joined_file)
    assert direct_file.read_bytes() == joined_file.read_bytes()
    # In one process they are the same files, and nothing is made again.
    assert evaluate_parts(model, data, tmp_path / "whole", part=2, threads=1)[1:] == (7, 1, 4, 0)
    assert content(tmp_path / "whole") == content(out)
    assert evaluate_parts(model, data, out, part=2, threads=1)[1:] == (7, 1, 4, 4)


def test_promises_of_a_calibrated_model_are_the_same(made: Path, tmp_path: Path) -> None:
    model, data = place_of(made, "classification")
    many = tmp_path / "many"
    for name in NAMES:
        (many / name).mkdir(parents=True)
        for k in range(12):
            pixels = np.random.default_rng(k).integers(0, 256, (40, 40, 3), np.uint8)
            Image.fromarray(pixels).save(many / name / f"{k}.png")
    sure = tmp_path / "sure.safetensors"
    fusiform.evaluate(model, many, calibrate=sure, certain=0.5, threads=1)
    assert fusiform.open_model(sure).spec.certainty is not None
    evaluate_parts(sure, data, tmp_path / "out", part=3, threads=1)
    direct, joined = fusiform.evaluate(sure, data, threads=1), fusiform.evaluate(sure, data, answers=tmp_path / "out")
    assert isinstance(direct, ClassificationEvaluation)
    assert isinstance(joined, ClassificationEvaluation)
    assert direct.features is not None
    assert joined.features is not None
    assert np.array_equal(direct.features, joined.features)
    assert without_times(joined) == without_times(direct)


def test_an_evaluation_of_parts_is_compared_and_scored_as_any(made: Path, tmp_path: Path) -> None:
    pytest.importorskip("faster_coco_eval")
    model, data = place_of(made, "detection")
    other = tmp_path / "other.safetensors"
    write_model(other, "detection", 4)
    evaluate_parts(model, data, tmp_path / "out", part=3, threads=1)
    options: list[dict[str, Any]] = [{"score": 0.1}, {"compare": other}]
    for more in options:
        direct = fusiform.evaluate(model, data, threads=1, **more)
        joined = fusiform.evaluate(model, data, threads=1, answers=tmp_path / "out", **more)
        assert without_times(joined) == without_times(direct)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is not Windows's")
def test_killed_at_any_moment_it_goes_on_to_the_same_folder(made: Path, tmp_path: Path) -> None:
    model, data = place_of(made, "classification")
    whole, out = tmp_path / "whole", tmp_path / "out"
    evaluate_parts(model, data, whole, part=1, threads=1)
    # Killed within a part, and between a part and the line that tells of it.
    for moment in ("np.lib.format.write_array", "os.replace"):
        code = (
            "import os, signal, sys, numpy as np, fusiform\n"
            f"real, calls = {moment}, []\n"
            "def kill(*args, **kwargs):\n"
            "    calls.append(real(*args, **kwargs))\n"
            "    if 'part-00003' in str(args) or len(calls) == 9: os.kill(os.getpid(), signal.SIGKILL)\n"
            f"{moment} = kill\n"
            "fusiform.evaluate_parts(*sys.argv[1:], part=1, threads=1)\n"
        )
        ended = subprocess.run(
            [sys.executable, "-c", code, str(model), str(data), str(out)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            timeout=120,
            check=False,
        )
        assert ended.returncode == -9
        assert 0 < len(content(out)) < PICTURES
    again = evaluate_parts(model, data, out, part=1, threads=1)
    assert again.images == PICTURES
    assert 0 < again.earlier < PICTURES
    assert content(out) == content(whole)
    assert not list(out.glob(".*"))


@pytest.fixture(scope="module")
def begun(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier's answers in two parts."""
    out = tmp_path_factory.mktemp("begun") / "out"
    evaluate_parts(*place_of(made, "classification"), out, part=4, threads=1)
    return out


def test_the_answers_of_anything_else_are_refused(made: Path, begun: Path, tmp_path: Path) -> None:
    model, data = place_of(made, "classification")
    other = tmp_path / "other.safetensors"
    write_model(other, "classification", 9)
    more = tmp_path / "more"
    shutil.copytree(data, more)
    shutil.copy(more / "red" / "0.png", more / "red" / "8.png")
    moved = tmp_path / "moved"
    shutil.copytree(data, moved)
    (moved / "red" / "0.png").rename(moved / "blue" / "0.png")
    refused: list[tuple[Path, Path, dict[str, Any], str]] = [
        (other, data, {}, "was begun with another model, and its answers are not those that are asked for"),
        (model, data, {"labels": ["blue", "red", "green"]}, "other labels or another preprocessing"),
        (model, more, {}, r"with other images or other ground truth \(then 7 images, now 8 images\)"),
        (model, moved, {}, "with other images or other ground truth"),
        (model, data, {"engine": "onnxruntime"}, "with another --engine"),
        (model, data, {"calibrate": tmp_path / "a.safetensors"}, "--calibrate shows the model other images"),
        (model, data, {"stress": True}, "--stress shows the model other images"),
    ]
    for one, two, given, said in refused:
        with pytest.raises(UsageError, match=said):
            fusiform.evaluate(one, two, answers=begun, threads=1, **given)
        if not {"calibrate", "stress"} & set(given):
            with pytest.raises(UsageError, match="was begun with"):
                evaluate_parts(one, two, begun, part=4, threads=1, **given)
    with pytest.raises(UsageError, match="was begun with another --part, "):
        evaluate_parts(model, data, begun, part=3, threads=1)
    with pytest.raises(InputError, match="was begun with fusiform evaluate --part, "):
        fusiform.predict_parts(data, begun, "shufflenet_v2_x1_0", part=4, threads=1)
    # A copy elsewhere is the same.
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(data, elsewhere)
    shutil.copy(model, tmp_path / "copy.safetensors")
    found = fusiform.evaluate(tmp_path / "copy.safetensors", elsewhere, answers=begun)
    assert found.source == str(elsewhere)


def test_missing_and_damaged_parts_are_named(made: Path, begun: Path, tmp_path: Path) -> None:
    model, data = place_of(made, "classification")

    def refused(said: str, folder: Path) -> None:
        with pytest.raises(InputError, match=said):
            fusiform.evaluate(model, data, answers=folder, threads=1)

    out = tmp_path / "out"
    refused("out: holds no answers: fusiform evaluate MODEL DATA --part 10000 --out .*out writes them", out)
    shutil.copytree(begun, out)
    second = out / "part-00001.npz"
    second.unlink()
    refused(r"out: lacks 1 of 2 parts \(1\): run the command that began it", out)
    shutil.copy(out / "part-00000.npz", second)
    refused("part-00001.npz: is part 0 with 4 images, and part 1 has 3", out)
    second.write_bytes((begun / "part-00001.npz").read_bytes()[:300])
    refused("part-00001.npz: cannot be read as a part: remove it", out)
    write_model(tmp_path / "other.safetensors", "classification", 9)
    evaluate_parts(tmp_path / "other.safetensors", data, tmp_path / "others", part=4, threads=1)
    shutil.copy(tmp_path / "others" / "part-00001.npz", second)
    refused("part-00001.npz: was made with another model than the rest of its folder: remove it", out)
    second.unlink()
    assert evaluate_parts(model, data, out, part=4, threads=1).earlier == 1
    assert content(out) == content(begun)
    predicted = tmp_path / "predicted"
    fusiform.predict_parts(data, predicted, "shufflenet_v2_x1_0", format="jsonl", threads=1)
    refused("predicted: was begun with fusiform predict --part, and its answers are not", predicted)


def test_what_does_not_fit_is_refused_before_anything_is_written(made: Path, tmp_path: Path) -> None:
    model, data = place_of(made, "classification")
    for given, said in (
        ({"part": 0}, "part must be at least 1"),
        ({"shard": (2, 2)}, "shard must be I/N"),
        ({"multi_scale": True}, "--multi-scale is for a segmenter"),
        ({"ignore": "255"}, "--ignore is for a segmenter"),
        ({"split": "test"}, "test"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"engine": "onnxruntime", "batch": 0}, "batch must be at least 1"),
    ):
        with pytest.raises(UsageError, match=said):
            evaluate_parts(model, data, tmp_path / "out", **given)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="is a file, and parts need a folder"):
        evaluate_parts(model, data, model)
    assert not list(tmp_path.iterdir())


def test_without_ray_the_extra_is_named(made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"--on ray needs ray, which is not installed"):
        evaluate_parts(*place_of(made, "classification"), tmp_path / "out", on="ray")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Ray starts slowly there")
def test_the_workers_of_ray_leave_the_same_parts(made: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    pytest.importorskip("faster_coco_eval")
    driver = (
        "import sys, ray, fusiform\n"
        "ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level='error')\n"
        "for model, data, out in zip(*[iter(sys.argv[1:])] * 3):\n"
        "    fusiform.evaluate_parts(model, data, out, part=2, threads=1, on='ray')\n"
    )
    words = [str(word) for task in TASKS for word in (*place_of(made, task), tmp_path / task)]
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", driver, *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
        check=True,
    )
    for task in TASKS:
        evaluate_parts(*place_of(made, task), tmp_path / "alone" / task, part=2, threads=1)
        assert content(tmp_path / task) == content(tmp_path / "alone" / task)


def test_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, file in (("Egyptian cat", "cat.jpg"), ("espresso", "coffee.jpg")):
        (tmp_path / "photographs" / name).mkdir(parents=True)
        shutil.copy(ROOT / "examples" / file, tmp_path / "photographs" / name)
    monkeypatch.chdir(tmp_path)
    (example,) = doctest.DocTestFinder(recurse=False).find(evaluate_parts, "evaluate_parts", globs={})
    found = doctest.DocTestRunner(verbose=False).run(example)
    assert (found.attempted, found.failed) == (5, 0)
