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
from PIL import Image

from fusiform.cli import commands


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two healthy classes of five pictures, larger than the input."""
    root = tmp_path / "data"
    random = np.random.default_rng(3)
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for number in range(5):
            noise = Image.fromarray(random.integers(0, 256, (7, 7, 3), np.uint8))
            noise.resize((240, 240), Image.Resampling.NEAREST).save(root / name / f"{number}.jpg")
    return root


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(commands, ["doctor", *map(str, arguments)])


def test_healthy(data: Path) -> None:
    result = run(data, "--strict")
    assert result.exit_code == 0
    assert result.stdout.startswith("classification, laid out as class folders: 2 classes, 10 pictures\n")
    assert "10 pictures, 0 errors, 0 warnings, 0 notes" in result.stdout
    assert "Nothing was found." in result.stdout
    # No bar where nobody looks, and it took no time.
    assert result.stderr == f"next: fusiform train {data} --task classification --out runs/first\n"
    assert run(data, "--format", "json").stderr == ""


def test_what_may_come_next(data: Path) -> None:
    (data / "cat" / "copy of a dog.jpg").write_bytes((data / "dog" / "0.jpg").read_bytes())
    assert run(data, "--root", data).exit_code != 0  # a folder has no root
    lines = run(data).stderr.splitlines()
    assert lines == [
        f"next: fusiform doctor {data} --task classification --fix clean.csv",
        f"next: fusiform train {data} --task classification --out runs/first",
    ]
    clean = data.parent / "my clean.csv"
    assert (
        run(data, "--fix", clean).stderr == f"next: fusiform train '{clean}' --task classification --out runs/first\n"
    )


def test_exit_codes(data: Path) -> None:
    (data / "cat/5.jpg").write_text("no picture", encoding="utf-8")
    result = run(data)
    assert result.exit_code == 0
    assert "error: not a picture (1)" in result.stdout
    assert run(data, "--strict").exit_code == 3
    (data / "cat/5.jpg").unlink()
    Image.open(data / "cat/4.jpg").convert("CMYK").save(data / "cat/4.jpg")
    assert run(data, "--strict").exit_code == 0  # only a note


@pytest.mark.parametrize("form", ["json", "jsonl", "csv"])
def test_formats_and_out(data: Path, tmp_path: Path, form: str, valid: Callable[..., Any]) -> None:
    (data / "dog/5.jpg").write_bytes((data / "cat/1.jpg").read_bytes())
    (data / "dog/6.png").touch()
    result = run(data, "--format", form, "--out", tmp_path / "found")
    assert result.exit_code == 0
    assert result.stdout == ""
    left_out = f"fusiform: {form} has no place for figures, kinds, by_class: --format json has all\n"
    assert result.stderr == ("" if form == "json" else left_out)
    text = (tmp_path / "found").read_text(encoding="utf-8")
    if form == "json":
        rows = valid(text)["rows"]
    elif form == "jsonl":
        rows = [json.loads(line) for line in text.splitlines()]
    else:
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert {(row["severity"], row["kind"]) for row in rows} == {
        ("error", "empty file"),
        ("error", "contradictory labels"),
    }


def test_page_and_list(data: Path, tmp_path: Path) -> None:
    (data / "cat/5.jpg").touch()
    result = run(data, "--html", tmp_path / "page.html", "--fix", tmp_path / "clean.csv", "--threads", "2")
    assert result.exit_code == 0
    assert "empty file" in (tmp_path / "page.html").read_text(encoding="utf-8")
    rows = list(csv.reader((tmp_path / "clean.csv").read_text(encoding="utf-8").splitlines()))
    assert rows[:2] == [["path", "label"], ["data/cat/0.jpg", "cat"]]
    assert len(rows) == 11
    assert run(tmp_path / "clean.csv", "--strict").exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clean.csv", "data", "page.html"]


def test_usage_errors(data: Path, tmp_path: Path) -> None:
    assert run(tmp_path / "nowhere").exit_code != 0
    assert run(data, "--threads", "0").exit_code == 2
    assert run(data, "--model", "no_such_model").exit_code == 1
    assert run(data, "--model", "mobilenet_v2").exit_code == 0  # its cats and dogs have longer names: it need not know

    assert run(data, "--fix", tmp_path / "clean.csv").exit_code == 0
    before = (tmp_path / "clean.csv").read_bytes()
    result = run(tmp_path / "clean.csv", "--fix", tmp_path / "clean.csv")
    assert result.exit_code == 2
    assert "elsewhere" in result.stderr
    assert (tmp_path / "clean.csv").read_bytes() == before


@pytest.fixture
def boxes(tmp_path: Path) -> Path:
    """Twelve pictures with a box of each of two classes, larger than the input, in COCO's layout."""
    root = tmp_path / "boxes"
    (root / "images").mkdir(parents=True)
    random = np.random.default_rng(4)
    images, annotations = [], []
    for n in range(1, 13):
        noise = Image.fromarray(random.integers(0, 256, (7, 7, 3), np.uint8))
        noise.resize((400, 330), Image.Resampling.NEAREST).save(root / "images" / f"{n}.jpg")
        images.append({"id": n, "file_name": f"{n}.jpg", "width": 400, "height": 330})
        annotations += [{"image_id": n, "category_id": k, "bbox": [9 * k, 9 * n, 90, 70 + n]} for k in (1, 2)]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "boxes.json").write_text(json.dumps(content), encoding="utf-8")
    return root


def test_boxes_through_the_same_command(boxes: Path, tmp_path: Path) -> None:
    result = run(boxes, "--strict")
    assert result.exit_code == 0
    assert "12 pictures, 24 objects, 0 errors, 0 warnings, 0 notes" in result.stdout
    assert "Nothing was found." in result.stdout

    content = json.loads((boxes / "boxes.json").read_text(encoding="utf-8"))
    content["annotations"][0]["bbox"] = [10, 10, 0, 20]
    (boxes / "boxes.json").write_text(json.dumps(content), encoding="utf-8")
    page, clean = tmp_path / "page.html", tmp_path / "clean"
    result = run(boxes / "boxes.json", "--strict", "--format", "csv", "--html", page, "--fix", clean, "--threads", 1)
    assert result.exit_code == 3
    rows = list(csv.DictReader(io.StringIO(result.stdout, newline="")))
    assert [(row["severity"], row["kind"], row["class"]) for row in rows] == [("error", "box of no area", "cat")]
    assert [float(rows[0][edge]) for edge in ("left", "top", "right", "bottom")] == [10, 10, 10, 30]
    assert "box of no area (1)" in page.read_text(encoding="utf-8")
    assert "11 " in run(clean, "--strict").stdout  # cats
    assert run(clean, "--strict").exit_code == 0


def test_masks_and_what_is_asked_for(boxes: Path, tmp_path: Path) -> None:
    (boxes / "images").rename(boxes / "JPEGImages")
    (boxes / "SegmentationClass").mkdir()
    labels = np.zeros((330, 400), np.uint8)
    labels[50:200, 50:300] = 1
    for n in range(1, 12):
        Image.fromarray(labels).save(boxes / "SegmentationClass" / f"{n}.png")
    (boxes / "class_names.txt").write_text("background\ncat\n", encoding="utf-8")
    # What has both is for boxes unless asked.
    assert "24 objects" in run(boxes).stdout
    result = run(boxes, "--task", "segmentation")
    assert result.exit_code == 0
    assert "11 pictures, 0 errors, 0 warnings, 2 notes" in result.stdout
    assert "1 of 12 pictures are in no list, or have no annotation: 12" in result.stdout
    assert "label" not in run(boxes, "--task", "classification").stdout

    result = run(boxes, "--task", "segmentation", "--fix", tmp_path / "clean")
    assert result.exit_code == 2
    assert "these are masks" in result.stderr
    result = run(boxes, "--model", "mobilenet_v2")
    assert result.exit_code == 1
    assert "is for classification; boxes are judged with a detector of their classes: train one" in result.stderr
    result = run(boxes, "--fix", tmp_path / "clean.csv")
    assert result.exit_code == 2
    assert "name a folder" in result.stderr
    (boxes / "boxes.json").write_text("[]", encoding="utf-8")
    result = run(boxes / "boxes.json", "--task", "detection", "--out", tmp_path / "report")
    assert result.exit_code == 1
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "report").exists()


def test_help_names_the_exit_codes() -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert "3 with --strict" in " ".join(result.stdout.split())
