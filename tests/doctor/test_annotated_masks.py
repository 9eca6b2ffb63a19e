"""Masks with planted faults: all of them are found and shown, and nothing else."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fusiform.data.annotated import AnnotatedSample
from fusiform.data.masks import PALETTE
from fusiform.doctor.annotated import examine_annotated
from fusiform.doctor.clean import write_clean_boxes
from fusiform.doctor.thumbnails import annotated_thumbnail
from fusiform.drawing.overlay import color_of
from fusiform.errors import UsageError

sys.path.insert(0, str(Path(__file__).parent))

from spoiled_pictures import HEIGHT, WIDTH, found, message, save

sys.path.pop(0)


def mask(file: Path, labels: NDArray[np.uint8], mode: str = "P") -> None:
    image = Image.fromarray(labels)
    if mode != "L":
        image.putpalette(PALETTE.tobytes())
    if mode == "RGB":
        image = image.convert("RGB")
    file.parent.mkdir(exist_ok=True)
    image.save(file, "PNG")


def outlined(label: int = 1, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    labels = np.zeros((height, width), np.uint8)
    labels[20:70, 30:130] = label
    labels[20:22] = 255
    return labels


@pytest.fixture
def spoiled_masks(tmp_path: Path) -> Path:
    root = tmp_path / "masks"
    names = ("good", "two", "other_size", "rgb", "colours", "beyond", "ignored", "jpeg", "cut", "empty", "missing")
    for seed, name in enumerate((*names, "good_again")):
        save(root / "JPEGImages" / f"{name}.jpg", 80 + seed)
        mask(root / "SegmentationClass" / f"{name}.png", outlined())
    shutil.copy(root / "JPEGImages/good.jpg", root / "JPEGImages/good_again.jpg")
    folder = root / "SegmentationClass"
    mask(folder / "two.png", outlined(2))
    mask(folder / "other_size.png", outlined(width=100, height=75))
    mask(folder / "rgb.png", outlined(), "RGB")
    wrong = np.full((HEIGHT, WIDTH, 3), (1, 2, 3), np.uint8)
    Image.fromarray(wrong).save(folder / "colours.png")
    mask(folder / "beyond.png", outlined(3), "L")
    mask(folder / "ignored.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
    Image.fromarray(outlined()).save(folder / "jpeg.png", "JPEG")
    whole = (folder / "cut.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) - 60])
    mask(folder / "empty.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    (folder / "missing.png").unlink()
    (root / "class_names.txt").write_text("background\ncat\ndog\n")
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/train.txt").write_text("\n".join(name for name in names if name != "two"))
    (root / "ImageSets/Segmentation/val.txt").write_text("two\ngood_again\n")
    return root


def test_every_fault_of_masks_is_found_and_nothing_else(spoiled_masks: Path) -> None:
    diagnosis = examine_annotated(spoiled_masks, "segmentation")
    assert found(diagnosis) == {
        ("error", "missing mask", "JPEGImages/missing.jpg"),
        ("error", "mask of another size", "JPEGImages/other_size.jpg"),
        ("error", "mask of unknown colours", "JPEGImages/colours.jpg"),
        ("error", "label of no class", "JPEGImages/beyond.jpg"),
        ("error", "mask is no PNG", "JPEGImages/jpeg.jpg"),
        ("error", "damaged mask", "JPEGImages/cut.jpg"),
        ("warning", "mask of nothing", "JPEGImages/ignored.jpg"),
        ("note", "RGB mask", "JPEGImages/rgb.jpg"),
        ("error", "leak between splits", "JPEGImages/good.jpg"),
        ("note", "nothing annotated", "train"),
        ("warning", "class not learned", "dog"),
    }
    (empty,) = (f for f in diagnosis.findings if f.kind == "nothing annotated")
    assert [other.file.name for other in empty.others] == ["empty.jpg"]
    assert message(diagnosis, "label of no class").startswith(
        "beyond.png: 4800 pixels have labels beyond the 3 classes"
    )
    assert [
        {k: row[f"{k}_images" if k != "class" else k] for k in ("class", "train", "val")} for row in diagnosis.rows
    ] == [
        {"class": "background", "train": 3, "val": 2},
        {"class": "cat", "train": 2, "val": 1},
        {"class": "dog", "train": 0, "val": 1},
    ]
    # Usable are good, rgb, empty, two and good_again: 4 of them have 48 x 100 pixels of a class, and two rows ignored.
    labelled = 5 * WIDTH * HEIGHT - 4 * 2 * WIDTH
    assert [round(100 * float(row["pixel_share"]), 2) for row in diagnosis.rows[1:]] == [
        round(100 * count * 4800 / labelled, 2) for count in (3, 1)
    ]
    assert {s.file.name for s in diagnosis.clean.splits["train"]} == {"rgb.jpg", "ignored.jpg", "empty.jpg"}
    assert {s.file.name for s in diagnosis.clean.splits["val"]} == {"two.jpg", "good_again.jpg"}
    with pytest.raises(UsageError, match="these are masks"):
        write_clean_boxes(diagnosis, spoiled_masks / "clean")


def test_no_mask_can_be_used(tmp_path: Path) -> None:
    save(tmp_path / "JPEGImages/1.jpg", 1)
    mask(tmp_path / "SegmentationClass/1.png", outlined(40))
    kinds = {f.kind for f in examine_annotated(tmp_path, "segmentation").findings}
    assert kinds == {"label of no class", "dataset", "small"}  # nothing of classes without pictures


def test_thumbnails_of_masks(spoiled_masks: Path) -> None:
    def shown(name: str) -> NDArray[np.int64]:
        sample = AnnotatedSample(
            spoiled_masks / f"JPEGImages/{name}.jpg", mask_file=spoiled_masks / f"SegmentationClass/{name}.png"
        )
        return np.asarray(annotated_thumbnail(sample, ())).astype(int)

    def plain(name: str) -> NDArray[np.int64]:
        return np.asarray(annotated_thumbnail(AnnotatedSample(spoiled_masks / f"JPEGImages/{name}.jpg"), ())).astype(
            int
        )

    # 160 of 200 pixels: the object is at 24..104, 18..56.
    changed = (shown("beyond") != plain("beyond")).any(2)
    assert changed[20:54, 28:100].all()
    assert not changed[60:].any()
    inner = 0.5 * plain("beyond")[30:40, 40:90] + 0.5 * np.array(color_of(3))
    assert np.abs(shown("beyond")[30:40, 40:90] - inner).max() <= 1
    # A mask of half the size is spread over the picture: 20..70 of 75 rows are 32..112 of 120.
    assert (shown("other_size") != plain("other_size")).any(2)[40:100, 60:150].all()
    # RGB is blended in, and what cannot be read is left out.
    blended = 0.5 * plain("colours") + 0.5 * np.array((1, 2, 3))
    assert np.abs(shown("colours") - blended).max() <= 1
    assert np.array_equal(shown("cut"), plain("cut"))
    assert np.array_equal(shown("missing"), plain("missing"))
