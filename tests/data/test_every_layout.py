"""One dataset of 12 pictures in every layout of boxes and outlines: the same labels, to the pixel."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fusiform.data.annotated import AnnotatedSample, AnnotatedSet
from fusiform.data.open import LAYOUTS, open_dataset, recognise
from fusiform.doctor.job import diagnose
from fusiform.errors import ImageError, UsageError

sys.path.insert(0, str(Path(__file__).parent))

from every_layout import (
    BOXES,
    HEIGHT,
    NAMES,
    OUTLINES,
    WIDTH,
    Picture,
    coco,
    filled,
    flat,
    hugging_face,
    labelme,
    pictures,
)

sys.path.pop(0)


def by_name(data: AnnotatedSet, split: str) -> dict[str, AnnotatedSample]:
    return {sample.file.stem: sample for sample in data.splits[split]}  # type: ignore[index]


def boxes_of(data: AnnotatedSet, sample: AnnotatedSample) -> list[tuple[str, tuple[float, ...]]]:
    # Shares of nine digits are off by a millionth of a pixel.
    return sorted(
        (data.classes[box.label], tuple(round(edge, 4) for edge in (box.left, box.top, box.right, box.bottom)))
        for box in sample.boxes or ()
    )


@pytest.mark.parametrize("name", BOXES)
def test_boxes_are_the_same_in_every_layout(name: str, tmp_path: Path) -> None:
    case = BOXES[name]
    source = case.make(tmp_path / "data")
    assert recognise(source) == "detection"
    fitting = [name for name, layout in LAYOUTS.items() if layout.task == "detection" and layout.fits(source)]
    assert fitting[0] == case.layout
    data = open_dataset(source)
    assert isinstance(data, AnnotatedSet)
    assert sorted(data.classes) == sorted(NAMES)
    for split in ("train", "val"):
        found = by_name(data, split)
        truth = {picture.name: picture for picture in pictures() if picture.split == split}
        assert set(found) == set(truth)
        for key, sample in found.items():
            things = sorted((thing.name, tuple(map(float, thing.box))) for thing in truth[key].things)
            assert boxes_of(data, sample) == things, key
            assert sample.size == (WIDTH, HEIGHT) or (sample.size is None and case.layout == "boxes in CSV lists")
            assert (np.asarray(sample.read()) == truth[key].pixels).all()
    told = [note for note in data.notes if "no objects, kept as background" not in note]
    assert len(told) == LOOSE.get(name, 0)
    assert all("pictures are not where they are said to be" in note for note in told)


LOOSE = {
    **dict.fromkeys(("Label Studio's uploads", "Label Studio's local files", "paths of Windows", "addresses"), 2),
    "one list": 1,
}
"""How many lists name pictures that lie elsewhere, which is told."""


@pytest.mark.parametrize("name", ["XML beside", "LabelMe", "CVAT", "keras-retinanet", "Hugging Face"])
def test_doctor_finds_nothing_wrong_and_writes_the_same(name: str, tmp_path: Path) -> None:
    source = BOXES[name].make(tmp_path / "data")
    diagnosis = diagnose(source, fix=tmp_path / "clean")
    assert diagnosis.count("error") == 0
    clean, data = open_dataset(tmp_path / "clean"), open_dataset(source)
    assert isinstance(clean, AnnotatedSet)
    assert isinstance(data, AnnotatedSet)
    for split in ("train", "val"):
        before, after = by_name(data, split), by_name(clean, split)
        assert set(before) == set(after)
        for key, sample in after.items():
            assert boxes_of(clean, sample) == boxes_of(data, before[key])


@pytest.mark.parametrize("name", ["Roboflow's COCO", "CVAT", "XML beside", "TensorFlow in splits", "Hugging Face"])
def test_a_zip_file_is_as_its_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSIFORM_CACHE", str(tmp_path / "cache"))
    source = BOXES[name].make(tmp_path / "data")
    packed = shutil.make_archive(str(tmp_path / "export"), "zip", source)
    assert recognise(packed) == "detection"
    data, plain = open_dataset(packed), open_dataset(source)
    assert isinstance(data, AnnotatedSet)
    assert isinstance(plain, AnnotatedSet)
    assert data.fingerprint() == plain.fingerprint()
    assert data.notes[1:] == plain.notes


def masks_of_truth(picture: Picture, names: Sequence[str]) -> NDArray[np.uint8]:
    """Drawn with COCO's tool, the smaller over the larger."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    parts = [(filled(thing), names.index(thing.name)) for thing in picture.things]
    for pixels, label in sorted(parts, key=lambda part: -int(part[0].sum())):
        labels[pixels] = label
    return labels


@pytest.mark.parametrize("name", OUTLINES)
def test_masks_are_the_same_in_every_layout(name: str, tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    source = OUTLINES[name].make(tmp_path / "data")
    assert recognise(source) == "detection"
    fitting = [name for name, layout in LAYOUTS.items() if layout.task == "segmentation" and layout.fits(source)]
    assert fitting[0] == OUTLINES[name].layout
    data = open_dataset(source, task="segmentation")
    assert data.classes[0] == "background"
    assert sorted(data.classes[1:]) == sorted(NAMES)
    for split in ("train", "val"):
        found = by_name(data, split)
        truth = {picture.name: picture for picture in pictures() if picture.split == split}
        assert set(found) == set(truth)
        for key, sample in found.items():
            labels = sample.read_labels((WIDTH, HEIGHT), classes=len(data.classes))
            assert (labels == masks_of_truth(truth[key], data.classes)).all(), key
    diagnosis = diagnose(source, task="segmentation", html=tmp_path / "page.html")
    assert diagnosis.count("error") == 0
    share = diagnosis.rows[1]["pixel_share"]
    assert isinstance(share, float)
    assert share > 0


@pytest.mark.parametrize("name", ["XML beside", "keras-retinanet", "Hugging Face"])
def test_boxes_alone_are_no_masks(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has boxes, and a segmenter learns from masks or outlines: give Pascal VOC's"):
        open_dataset(BOXES[name].make(tmp_path / "data"), task="segmentation")


def test_the_cases_are_of_every_layout() -> None:
    with_annotations = {name for name, layout in LAYOUTS.items() if layout.task != "classification"}
    elsewhere = {"Pascal VOC's masks"}
    assert {case.layout for case in (*BOXES.values(), *OUTLINES.values())} | elsewhere == with_annotations


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["XML beside", "LabelMe", "CVAT", "TensorFlow", "Hugging Face", "Label Studio's uploads"]
)
def test_a_detector_is_trained_and_evaluated_on_it(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("faster_coco_eval")
    from fusiform.runs import train

    source = BOXES[name].make(tmp_path / "data")
    settings = ["epochs=1", "warmup_epochs=0", "size=64", "eval_size=64", "batch=4"]
    run = train(source, tmp_path / "run", model="mobilenet_v2_x0_35", settings=settings, threads=1)
    assert run.model.spec.task == "detection"
    assert len(run.evaluate(source, threads=1).samples) == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", OUTLINES)
def test_a_segmenter_is_trained_and_evaluated_on_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from fusiform.runs import train

    monkeypatch.setenv("FUSIFORM_CACHE", str(tmp_path / "cache"))
    source = OUTLINES[name].make(tmp_path / "data")
    packed = shutil.make_archive(str(tmp_path / "export"), "zip", source)
    settings = ["epochs=1", "size=65", "eval_size=65", "batch=4"]
    run = train(packed, tmp_path / "run", model="mobilenet_v2_x0_35", task="segmentation", settings=settings, threads=1)
    assert run.model.spec.labels[0] == "background"
    assert len(run.evaluate(packed, threads=1).samples) == 4


ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        0,
        -1,
        1.5,
        1e300,
        float("nan"),
        float("inf"),
        10**30,
        "",
        "x",
        "1e5",
        "9" * 5000,
        "\ud800",
        "a/../b",
    ),
    *([], {}, [[]], [None], [1, 2, 3, 4], [[1, 2], [3]], {"counts": "abc", "size": [HEIGHT, WIDTH]}, {"a": 1}),
    *({"counts": [1, 2], "size": [3, 1]}, {"counts": [10**18], "size": [10**9, 10**9]}),
)
"""What no tool should write in place of something else."""


def places(value: Any, way: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The ways to everything in JSON."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [way, *(found for key, one in inner for found in places(one, (*way, key)))]


def changed(value: Any, way: tuple[str | int, ...], odd: Any) -> Any:
    if not way:
        return odd
    copied = value.copy()
    copied[way[0]] = changed(value[way[0]], way[1:], odd)
    return copied


@pytest.mark.parametrize(
    ("make", "file"),
    [
        (labelme("{split}", "{split}"), "train/p02.json"),
        (hugging_face("lists"), "train/metadata.jsonl"),
        (hugging_face("each"), "train/metadata.jsonl"),
        (lambda root: coco(root, lambda thing: [flat(thing)]), "annotations/instances_val.json"),
        (
            lambda root: coco(root, lambda thing: {"size": [HEIGHT, WIDTH], "counts": [9, 9, 3054]}),
            "annotations/instances_val.json",
        ),
    ],
    ids=["LabelMe", "Hugging Face", "Hugging Face, each", "COCO's polygons", "COCO's run lengths"],
)
def test_whatever_stands_anywhere_ends_in_pictures_or_an_error_for_users(
    make: Callable[[Path], Path], file: str, tmp_path: Path
) -> None:
    root = make(tmp_path / "data")
    lines = (root / file).read_text().splitlines()
    random = np.random.default_rng(3)
    whole = json.loads(lines[0])
    ways = places(whole)
    tasks = ("detection",) if "metadata" in file else ("detection", "segmentation")
    for _ in range(40):
        text = json.dumps(changed(whole, ways[random.integers(len(ways))], ODD[random.integers(len(ODD))]))
        (root / file).write_text("\n".join([text, *lines[1:]]))
        for task in tasks:
            with contextlib.suppress(UsageError):  # anything else fails
                data = open_dataset(root, task=task)  # type: ignore[call-overload]
                for sample in (sample for samples in data.splits.values() for sample in samples if sample.has_mask):
                    with contextlib.suppress(ImageError):
                        sample.read_labels(sample.read().size, classes=len(data.classes))
                data.fingerprint()
