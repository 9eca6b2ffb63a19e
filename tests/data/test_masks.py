from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest
from PIL import Image

from fusiform.data.annotated import AnnotatedSet
from fusiform.data.masks import Ignore, read_mask
from fusiform.data.open import check_named, open_dataset, read_pictures
from fusiform.errors import UsageError
from fusiform.spec import ModelSpec, Preprocess

REFUSED = r'png: has areas of 255, which means "ignore".* add --ignore none, which takes 255 as the last class'


def dataset(root: Path, *masks: np.ndarray, names: str | None = "background\nthing\nother\n") -> Path:
    (root / "JPEGImages").mkdir(parents=True)
    (root / "SegmentationClass").mkdir()
    for i, mask in enumerate(masks):
        Image.new("RGB", mask.shape[::-1]).save(root / "JPEGImages" / f"{i}.png")
        Image.fromarray(mask).save(root / "SegmentationClass" / f"{i}.png")
    if names is not None:
        (root / "class_names.txt").write_text(names)
    return root


def painted(*parts: tuple[slice, slice, int], shape: tuple[int, int] = (72, 96), ground: int = 0) -> np.ndarray:
    mask = np.full(shape, ground, np.uint8)
    for rows, columns, value in parts:
        mask[rows, columns] = value
    return mask


SQUARE, LINE, LOW = slice(20, 50), slice(30, 31), slice(52, 70)


@pytest.mark.parametrize(
    "masks",
    [
        [painted((SQUARE, SQUARE, 255))],
        [painted((SQUARE, LINE, 255))],  # a crack or a vessel is an object, too
        [painted((SQUARE, SQUARE, 255), ground=1)],
        [painted(), painted((SQUARE, SQUARE, 255)), painted()],
        [painted((SQUARE, SQUARE, 255), (LOW, LOW, 1))],
        [painted((SQUARE, SQUARE, 255)), painted((SQUARE, SQUARE, 1))],
        [painted((slice(0, 30), slice(0, 96), 255), (LOW, LOW, 1))],  # at the edge
    ],
)
def test_areas_of_255_are_refused_unless_it_is_said_what_they_are(masks: list[np.ndarray], tmp_path: Path) -> None:
    root = dataset(tmp_path / "data", *masks)
    with pytest.raises(UsageError, match=REFUSED):
        open_dataset(root, task="segmentation")
    ignored = open_dataset(root, task="segmentation", ignore="255")
    taken = open_dataset(root, task="segmentation", ignore="none")
    assert isinstance(ignored, AnnotatedSet)
    assert isinstance(taken, AnnotatedSet)
    assert [sample.ignore for sample in (*ignored.splits["all"], *taken.splits["all"])] == [True] * len(masks) + [
        False
    ] * len(masks)
    assert ignored.fingerprint() != taken.fingerprint()
    # What verifies, calibrates and measures asks by the same word, and does not go on without labels then.
    preprocess = Preprocess(resize=224, crop=224, fit="stretch")
    spec = ModelSpec("mobilenet_v2", 1.0, taken.classes, preprocess=preprocess, task="segmentation", output_stride=16)
    assert not read_pictures(root, spec, model="m").labelled
    for ignore, expected in (("255", ignored), ("none", taken)):
        pictures = read_pictures(root, spec, model="m", ignore=cast("Ignore", ignore))
        assert pictures.labelled
        assert pictures.samples == expected.splits["all"]


@pytest.mark.parametrize(
    "masks",
    [
        [painted((slice(19, 51), slice(19, 51), 255), (SQUARE, SQUARE, 1))],
        [painted((slice(0, 72), slice(0, 2), 255), (SQUARE, SQUARE, 2)), painted()],
        [painted()],
        [painted((SQUARE, SQUARE, 1))],
        # One unclear object among many pictures, as VOC has them.
        [painted((slice(20, 26), slice(20, 26), 255)), *[painted((SQUARE, SQUARE, 1))] * 9],
    ],
)
def test_borders_of_255_are_what_they_always_were(masks: list[np.ndarray], tmp_path: Path) -> None:
    root = dataset(tmp_path / "data", *masks)
    assert open_dataset(root, task="segmentation") == open_dataset(root, task="segmentation", ignore="255")


def test_areas_of_255_beside_all_the_classes_are_told(tmp_path: Path) -> None:
    masks = [painted((SQUARE, SQUARE, 255), (LOW, LOW, 1))] * 50 + [painted((LOW, LOW, 2))]
    data = open_dataset(dataset(tmp_path / "data", *masks), task="segmentation")
    (note,) = data.notes
    assert note.endswith("% of the masks' pixels are areas of 255, of no class: nothing is learned there")


def test_the_last_class_must_have_a_name(tmp_path: Path) -> None:
    root = dataset(tmp_path / "data", painted((SQUARE, SQUARE, 255)), names=None)
    with pytest.raises(UsageError, match=REFUSED + r" \(name the classes in .*class_names.txt, the background first\)"):
        open_dataset(root, task="segmentation")
    with pytest.raises(UsageError, match=r"there is no class_names.txt that says which: write it"):
        open_dataset(root, task="segmentation", ignore="none")


def test_255_as_the_last_class(tmp_path: Path) -> None:
    mask = painted((SQUARE, SQUARE, 255), (LOW, LOW, 1))
    file = dataset(tmp_path / "data", mask) / "SegmentationClass/0.png"
    expected = np.where(mask == 255, 2, mask)
    np.testing.assert_array_equal(read_mask(file, (96, 72), classes=3, ignore=False), expected)
    np.testing.assert_array_equal(read_mask(file, (96, 72), classes=3), mask)


def test_what_255_is_can_be_asked_of_masks_alone(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "1.png")
    with pytest.raises(UsageError, match=r"--ignore is for masks, and .* is for classification: leave it out"):
        open_dataset(tmp_path, ignore="none")
    with pytest.raises(UsageError, match="--ignore is about a dataset, and none is named"):
        check_named(None, ignore="255", root=None)
    with pytest.raises(UsageError, match="--root is about a dataset, and none is named"):
        check_named(None, ignore=None, root=tmp_path)
    check_named(tmp_path, ignore="255", root=tmp_path)
