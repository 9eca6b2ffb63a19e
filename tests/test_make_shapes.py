from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fusiform.data.coco import read_coco
from fusiform.data.masks import read_mask
from fusiform.data.voc import read_voc


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_shapes", Path(__file__).parents[1] / "scripts/make_shapes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_shapes"] = module  # where a dataclass looks for its module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made(script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shapes") / "out"
    script.main(["--out", str(out), "--count", "15"])
    return out


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_boxes_are_tight_around_the_visible_pixels_and_agree_with_the_masks(made: Path) -> None:
    counts = []
    for split, pictures in (("train", 12), ("val", 3)):
        content = json.loads((made / "annotations" / f"instances_{split}.json").read_text())
        assert len(content["images"]) == pictures
        names = (made / "ImageSets" / "Segmentation" / f"{split}.txt").read_text().split()
        assert [image["file_name"] for image in content["images"]] == [f"{name}.jpg" for name in names]
        for image, name in zip(content["images"], names, strict=True):
            objects = np.asarray(Image.open(made / "SegmentationObject" / f"{name}.png"))
            classes = np.asarray(Image.open(made / "SegmentationClass" / f"{name}.png"))
            boxes = [entry for entry in content["annotations"] if entry["image_id"] == image["id"]]
            counts.append(len(boxes))
            assert set(np.unique(objects)) == set(range(len(boxes) + 1))
            np.testing.assert_array_equal(objects == 0, classes == 0)
            for number, entry in enumerate(boxes, 1):
                rows, columns = np.nonzero(objects == number)
                left, top = columns.min(), rows.min()
                assert entry["bbox"] == [left, top, columns.max() + 1 - left, rows.max() + 1 - top]
                assert entry["area"] == len(rows)
                assert set(classes[rows, columns]) == {entry["category_id"]}
    assert set(counts) <= {1, 2, 3, 4, 5}
    assert len(set(counts)) > 2


def test_both_readers_read_it(made: Path) -> None:
    boxes, masks = read_coco(made), read_voc(made)
    assert boxes.classes == ("circle", "square", "triangle", "star", "ring")
    assert masks.classes == ("background", *boxes.classes)
    assert not [note for note in (*boxes.notes, *masks.notes) if "no objects of" not in note]
    for split in ("train", "val"):
        for boxed, masked in zip(boxes.splits[split], masks.splits[split], strict=True):
            assert boxed.file == masked.file
            assert masked.mask_file is not None
            labels = read_mask(masked.mask_file, boxed.read().size, classes=6)
            assert {box.label + 1 for box in boxed.boxes or ()} == set(np.unique(labels)) - {0}


def test_a_seed_gives_the_same_bytes(script: ModuleType, made: Path, tmp_path: Path) -> None:
    script.main(["--out", str(tmp_path / "same"), "--count", "15", "--seed", "0"])
    assert bytes_of(tmp_path / "same") == bytes_of(made)
    script.main(["--out", str(tmp_path / "other"), "--count", "5", "--seed", "1"])
    other = bytes_of(tmp_path / "other")
    assert other["JPEGImages/000001.jpg"] != bytes_of(made)["JPEGImages/000001.jpg"]


# What each shape covers of the circle around it, by geometry; a ring is a circle less one of half to 0.65 its radius.
COVERED = {
    "circle": (1, 1),
    "square": (2 / math.pi, 2 / math.pi),
    "triangle": (3 * math.sqrt(3) / 4 / math.pi,) * 2,
    "star": (5 * 0.42 * math.sin(math.pi / 5) / math.pi,) * 2,
    "ring": (1 - 0.65**2, 1 - 0.5**2),
}


@pytest.mark.parametrize("name", COVERED)
def test_shapes_have_their_form_and_size(script: ModuleType, name: str) -> None:
    random = np.random.default_rng(5)
    radii = []
    for _ in range(30):
        coverage = script.draw_shape(random, script.CLASSES.index(name))
        assert coverage.shape == (320, 320)
        assert (coverage[[0, -1]] == 0).all()
        assert (coverage[:, [0, -1]] == 0).all()
        rows, columns = np.nonzero(coverage > 0.1)
        middle = [np.average(places, weights=coverage[rows, columns]) for places in (rows, columns)]
        radius = np.hypot(rows - middle[0], columns - middle[1]).max()
        radii.append(radius)
        if radius > 25:  # else pixels are too coarse to tell
            low, high = COVERED[name]
            assert low * 0.93 < coverage.sum() / (math.pi * radius**2) < high * 1.07
    assert min(radii) > 10
    assert max(radii) < 82
    assert max(radii) > 2 * min(radii)


def test_a_shape_has_one_colour_that_differs_from_what_is_around_it(script: ModuleType) -> None:
    for seed in range(8):
        random = np.random.default_rng(seed)
        ground = Image.new("RGB", (320, 320), (90, 120, 150))
        picture, shapes = script.draw_picture(random, ground)
        pixels = np.asarray(picture, np.float64)
        outside = ~np.any([shape.visible for shape in shapes], 0)
        around = np.median(pixels[outside], 0)
        for shape in shapes:
            inner = shape.visible.copy()
            for _ in range(6):  # a blur reaches some pixels far
                inner[1:-1, 1:-1] &= inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
            if inner.any():
                assert pixels[inner].std(0).max() < 2
        # The lowest shape lies on the ground alone; the brightness may be 0.6 of what it was.
        lowest = np.linalg.norm(np.median(pixels[shapes[0].visible], 0) - around)
        assert lowest > 0.5 * script.CONTRAST


def test_val_has_photographs_of_its_own(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for i in range(10):
        Image.new("RGB", (64, 48), "#802020" if i % 5 == 0 else "#202080").save(photographs / f"{i}.png")
    (photographs / "3.png").write_bytes(b"damaged")
    out = tmp_path / "out"
    script.main(["--out", str(out), "--count", "10", "--photographs", str(photographs)])
    for number in range(1, 11):
        pixels = np.asarray(Image.open(out / "JPEGImages" / f"{number:06d}.jpg"), np.float64)
        ground = pixels[np.asarray(Image.open(out / "SegmentationClass" / f"{number:06d}.png")) == 0]
        red, _, blue = np.median(ground, 0)
        assert (red > blue + 30) == (number % 5 == 0)
    assert capsys.readouterr().out.endswith("8 + 2 pictures, " + str(total(out)) + " shapes\n")


def total(out: Path) -> int:
    contents: list[dict[str, Any]] = [json.loads(file.read_text()) for file in (out / "annotations").glob("*.json")]
    return sum(len(content["annotations"]) for content in contents)


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["--count", "4"], "--count must be at least 5", 2),
        (["--seed", "-1"], "--seed must not be negative", 2),
        (["--photographs", "absent"], "absent: is not a folder", 1),
    ],
)
def test_wrong_arguments_are_told_before_anything_is_written(
    script: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
    code: int,
) -> None:
    with pytest.raises(SystemExit) as stopped:
        script.main(["--out", str(tmp_path / "out"), *arguments])
    assert stopped.value.code == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it_is_left_alone(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(SystemExit):
        script.main(["--out", str(tmp_path)])
    assert "is there already: name a new folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
