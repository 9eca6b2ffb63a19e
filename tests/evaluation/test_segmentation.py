"""Segmenters on labelled pictures: figures against plain counts of pixels."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fusiform.data.annotated import AnnotatedSample
from fusiform.data.open import open_dataset
from fusiform.data.preprocess import placement
from fusiform.errors import UsageError, WeightsError
from fusiform.evaluation.comparison import comparison_figures
from fusiform.evaluation.figures import percentages
from fusiform.evaluation.job import evaluate
from fusiform.evaluation.segmentation import SegmentationEvaluation, mask_figures, outline, outline_again
from fusiform.tasks import segmentation
from fusiform.zoo.model import Model, open_model

sys.path.insert(0, str(Path(__file__).parent))

from every_task import random_weights
from numbered_pictures import DETECTOR, PICTURES, SEGMENTER, size_of, write_model, write_pictures

sys.path.pop(0)


def voc_folder(folder: Path, random: np.random.Generator, names: tuple[str, ...] | None = SEGMENTER.labels) -> Path:
    """Masks of classes in the data's own order, with pixels to ignore."""
    write_pictures(folder / "JPEGImages")
    (folder / "SegmentationClass").mkdir()
    if names is not None:
        (folder / "class_names.txt").write_text("\n".join(names), encoding="utf-8")
    for k in range(PICTURES):
        width, height = size_of(k)
        blocks = random.choice(np.array([0, 0, 1, 2, 255], np.uint8), (height // 10 + 1, width // 10 + 1))
        mask = blocks.repeat(10, 0).repeat(10, 1)[:height, :width]
        Image.fromarray(mask).save(folder / "SegmentationClass" / f"{k}.png")
    return folder


def segmenter_answers(random: np.random.Generator) -> list[dict[str, NDArray[np.float32]]]:
    return [{"logits": random.normal(0, 1, (5, 5, 4)).astype(np.float32)} for _ in range(PICTURES)]


@pytest.fixture
def masks(tmp_path: Path, answer: Any) -> SegmentationEvaluation:
    random = np.random.default_rng(4)
    answer(SEGMENTER, segmenter_answers(random))
    data = voc_folder(tmp_path / "voc", random)
    result = evaluate(write_model(tmp_path / "masks.tflite", SEGMENTER), data, ignore="255", threads=2)
    assert isinstance(result, SegmentationEvaluation)
    return result


def found_masks(folder: Path, seed: int = 4) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """What is true and what the fixture's engine says, at the photographs' own size."""
    for k, said in enumerate(segmenter_answers(np.random.default_rng(seed))):
        place = placement(size_of(k), SEGMENTER.preprocess)
        found = segmentation.decode(said["logits"], SEGMENTER, size_of(k), placement=place).classes
        yield np.array(Image.open(folder / "SegmentationClass" / f"{k}.png")), found


def plain_figures(pairs: list[tuple[NDArray[Any], NDArray[Any]]], labels: list[int]) -> tuple[float, float, list[Any]]:
    """The mean intersection over union and the share of right pixels, pixel by pixel."""
    seen = [
        (labels[t], int(p)) for true, found in pairs for t, p in zip(true.flat, found.flat, strict=True) if t != 255
    ]
    ious = []
    for k in labels:
        both = sum(t == k and p == k for t, p in seen)
        either = sum(k in pair for pair in seen)
        ious.append(both / either if either else None)
    known = [value for value in ious if value is not None]
    return sum(known) / len(known), sum(t == p for t, p in seen) / len(seen), ious


def test_figures_are_what_counting_pixels_says(masks: SegmentationEvaluation) -> None:
    pairs = list(found_masks(Path(masks.source)))
    miou, accuracy, ious = plain_figures(pairs, [0, 1, 2, 3])
    made = masks.report()
    figures = made.figures
    assert figures["miou"] == pytest.approx(miou, abs=1e-6)
    assert figures["pixel_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert [row["iou"] for row in made.rows] == pytest.approx(ious, abs=1e-6)
    assert figures["pixels"] == sum(int((true != 255).sum()) for true, _ in pairs)
    for k, row in enumerate(made.rows[:3]):
        true = sum(int((t == k).sum()) for t, _ in pairs)
        found = sum(int(((f == k) & (t != 255)).sum()) for t, f in pairs)
        right = sum(int(((f == k) & (t == k)).sum()) for t, f in pairs)
        assert (row["class"], row["pixels"]) == (SEGMENTER.labels[k], true)
        assert (row["precision"], row["recall"]) == pytest.approx((right / found, right / true), abs=1e-6)
    assert made.rows[3] == {"class": "bird", "pixels": 0, "iou": 0.0, "precision": 0.0, "recall": None}
    for name in ("miou", "pixel_accuracy"):
        low, value, high = (float(figures[key] or 0) for key in (f"{name}_low", name, f"{name}_high"))
        assert 0 < low < value < high < 1
    # And each picture's own.
    rows = {Path(str(row["path"])).stem: row for row in masks.pictures()}
    for k, pair in enumerate(pairs):
        expected = plain_figures([pair], [0, 1, 2, 3])
        assert (rows[str(k)]["miou"], rows[str(k)]["pixel_accuracy"]) == pytest.approx(expected[:2], abs=1e-6)
    assert [row["miou"] for row in rows.values()] == sorted(float(row["miou"] or 0) for row in rows.values())


def test_masks_are_bound_by_the_names_of_their_classes(tmp_path: Path, answer: Any) -> None:
    """The data's order is another one, and it has no birds: to take something for one is wrong, but no class's mean."""
    random = np.random.default_rng(4)
    answer(SEGMENTER, segmenter_answers(random))
    data = voc_folder(tmp_path / "voc", random, ("background", "dog", "cat"))
    result = evaluate(write_model(tmp_path / "masks.tflite", SEGMENTER), data, ignore="255", batch=4)
    assert result.outputs == (0, 2, 1)
    miou, accuracy, ious = plain_figures(list(found_masks(data)), [0, 2, 1])
    made = result.report()
    assert made.figures["miou"] == pytest.approx(miou, abs=1e-6)
    assert made.figures["pixel_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert [row["class"] for row in made.rows] == ["background", "dog", "cat"]
    assert [row["iou"] for row in made.rows] == pytest.approx(ious, abs=1e-6)
    columns, counts = result.confusion_columns()
    assert columns == ["background", "dog", "cat", "other"]
    assert counts.sum() == made.figures["pixels"]
    assert counts[:, 3].sum() == sum(int(((f == 3) & (t != 255)).sum()) for t, f in found_masks(data))
    assert [row["precision"] for row in made.rows] == pytest.approx(
        [counts[k, k] / result.confusion[:, label].sum() for k, label in enumerate((0, 2, 1))], abs=1e-6
    )
    headlines = result.headlines()
    assert headlines["classes"] == "3; the model chooses among its 4"


def test_training_is_told_the_same_of_masks(masks: SegmentationEvaluation) -> None:
    model = open_model(masks.model)
    in_memory = Model(Path("in training"), "tflite", model.spec, model.data)
    figures = masks.report().figures
    found = mask_figures(in_memory, masks.samples, threads=2)
    assert found == {
        "miou": pytest.approx(figures["miou"], abs=1e-6),
        "pixel_accuracy": pytest.approx(figures["pixel_accuracy"], abs=1e-6),
        "images": PICTURES,
    }
    no_mask = AnnotatedSample(masks.samples[0].file, mask_file=Path("nowhere.png"))
    assert mask_figures(in_memory, [*masks.samples, no_mask]) == found
    assert mask_figures(in_memory, [no_mask]) == {"miou": 0, "pixel_accuracy": 0, "images": 0}
    with pytest.raises(ValueError, match="its mask was not read"):
        mask_figures(in_memory, [AnnotatedSample(masks.samples[0].file)])


def test_masks_that_do_not_fit_are_told_and_the_rest_goes_on(masks: SegmentationEvaluation) -> None:
    folder = Path(masks.source)
    Image.new("L", (3, 3)).save(folder / "SegmentationClass" / "0.png")
    Image.new("L", size_of(1), 9).save(folder / "SegmentationClass" / "1.png")
    (folder / "JPEGImages" / "2.png").write_bytes(b"no picture")
    result = evaluate(masks.model, folder, ignore="255")
    assert [Path(sample.name).stem for sample in result.samples] == ["3", "4", "5"]
    for message, words in zip(
        result.skipped, ("mask is 3 x 3 pixels", "labels beyond the 4 classes", "2.png"), strict=True
    ):
        assert words in message
    miou, _, _ = plain_figures(list(found_masks_of(folder, (3, 4, 5))), [0, 1, 2, 3])
    assert result.report().figures["miou"] == pytest.approx(miou, abs=1e-6)
    # The same pictures, as far as both were shown them.
    compared = comparison_figures(result.compare(masks))
    assert (compared["images"], compared["miou_difference"], compared["miou_excludes_zero"]) == (3, 0, False)
    for file in (folder / "SegmentationClass").iterdir():
        file.write_bytes(b"no mask")
    with pytest.raises(UsageError, match=r"none of the 6 pictures of all could be read: .*0\.png: is no PNG"):
        evaluate(masks.model, folder, ignore="255")


def found_masks_of(folder: Path, chosen: tuple[int, ...]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    for k, said in enumerate(segmenter_answers(np.random.default_rng(4))):
        if k in chosen:
            place = placement(size_of(k), SEGMENTER.preprocess)
            found = segmentation.decode(said["logits"], SEGMENTER, size_of(k), placement=place).classes
            yield np.array(Image.open(folder / "SegmentationClass" / f"{k}.png")), found


def test_a_page_of_masks(masks: SegmentationEvaluation, tmp_path: Path) -> None:
    masks.including(comparison=masks.compare(masks)).write_page(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    headings = re.findall(r"<h2 id=[^>]*>([^<]+)", text)
    assert headings[:3] == ["Comparison", "Worst images", "Classes"]
    assert headings[-2:] == ["Confusion matrix", "Details"]
    assert text.count("data:image/jpeg") == 2 * PICTURES
    # What is shown again is what was counted.
    for (true, found), again in zip(
        found_masks(Path(masks.source)), outline_again(masks, range(PICTURES)), strict=True
    ):
        assert again is not None
        np.testing.assert_array_equal(again[2].classes, found)
        np.testing.assert_array_equal(again[1].classes, np.where(true == 255, 0, true))
    masks.samples[0].file.unlink()
    assert next(outline_again(masks, [0])) is None
    masks.write_page(tmp_path / "page.html")


def test_json_of_masks(masks: SegmentationEvaluation) -> None:
    content = json.loads(masks.to_json())
    assert content["confusion"]["columns"] == list(SEGMENTER.labels)
    counts = np.array(content["confusion"]["counts"])
    assert counts.sum() == content["figures"]["pixels"]
    assert np.diag(counts).sum() / counts.sum() == pytest.approx(content["figures"]["pixel_accuracy"], abs=1e-6)
    assert content["comparison"] is None


def test_what_a_segmenter_cannot_use_is_refused(masks: SegmentationEvaluation, tmp_path: Path) -> None:
    (tmp_path / "classes" / "cat").mkdir(parents=True)
    with pytest.raises(UsageError, match="no such file or folder"):
        open_dataset(tmp_path / "nowhere", task="segmentation", spec=SEGMENTER, model="masks")
    with pytest.raises(UsageError, match="no dataset with masks, and masks is a segmenter: give Pascal VOC's layout"):
        open_dataset(tmp_path / "classes", task="segmentation", spec=SEGMENTER, model="masks")
    (Path(masks.source) / "class_names.txt").write_text("background\ncat\nhorse", encoding="utf-8")
    with pytest.raises(
        UsageError, match=r"1 of its 3 classes are none of the 4 of .*: horse: name the masks' classes in"
    ):
        evaluate(masks.model, masks.source, ignore="255")
    twice = SEGMENTER.replace(labels=("background", "cat", "cat", "bird"))
    with pytest.raises(UsageError, match="more than one of its classes bears the same name"):
        open_dataset(masks.source, task="segmentation", spec=twice, model="masks")
    detector = write_model(tmp_path / "detector.tflite", DETECTOR)
    with pytest.raises(UsageError, match=r"has masks and no boxes, and .*detector\.tflite is a detector"):
        evaluate(detector, masks.source)
    with pytest.raises(UsageError, match="several scales are for the engine torch, not litert"):
        outline(open_model(masks.model), masks.samples, multi_scale=True, engine="litert")


def test_a_segmenter_that_answers_nan_is_told(masks: SegmentationEvaluation, answer: Any) -> None:
    answer(SEGMENTER, [{"logits": np.full((5, 5, 4), np.inf, np.float32)}] * PICTURES)
    with pytest.raises(WeightsError, match=r"masks\.tflite: answers with values that are not finite"):
        evaluate(masks.model, masks.source, ignore="255")


@pytest.mark.parametrize("height", [65, 49])
def test_several_scales_are_those_of_the_network(tmp_path: Path, height: int) -> None:
    """The mean of the network's own probabilities at six scales, mirrored or not, of a picture without padding."""
    torch = pytest.importorskip("torch")
    from fusiform.modules.deeplab_v3 import multi_scale_probabilities
    from fusiform.zoo.load import load

    noise = np.random.default_rng(0).integers(0, 256, (height, 65, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "picture.png")
    Image.fromarray(np.zeros((height, 65), np.uint8)).save(tmp_path / "mask.png")
    model = write_real_segmenter(tmp_path / "real.safetensors")
    network = load(model)
    normalised = (noise / np.float32(255) - np.float32(SEGMENTER.preprocess.mean)) / np.float32(
        SEGMENTER.preprocess.std
    )
    given = torch.from_numpy(normalised.astype(np.float32).transpose(2, 0, 1)[None].copy())
    wanted = multi_scale_probabilities(network, given).argmax(1)[0].numpy()  # type: ignore[arg-type]
    sample = AnnotatedSample(tmp_path / "picture.png", mask_file=tmp_path / "mask.png")
    found = outline(open_model(model), [sample], multi_scale=True)
    assert found.confusion[0].tolist() == np.bincount(wanted.ravel(), minlength=4).tolist()
    assert np.count_nonzero(found.confusion[0]) > 1
    plain = outline(open_model(model), [sample], engine="torch")
    assert plain.confusion.tolist() != found.confusion.tolist()


def write_real_segmenter(path: Path) -> Path:
    """Random weights that answer differently from place to place."""
    from fusiform.zoo.checkpoint import write_safetensors

    write_safetensors(path, random_weights(SEGMENTER, 3), SEGMENTER)
    return path


def test_percentages_add_up() -> None:
    counts = np.array([[1, 1, 1], [0, 0, 0], [999, 1, 0]])
    assert [sum(row) for row in percentages(counts)] == [100, 0, 100]
    assert percentages(counts)[2] == [100, 0, 0]
    assert sorted(percentages(counts)[0]) == [33, 33, 34]


@pytest.mark.slow
def test_real_weights_on_real_photographs(shared_data: Path, tmp_path: Path) -> None:
    """TensorFlow's DeepLabv3 on the 48 validation photographs."""
    from fusiform.porting.port import port

    pictures, data = tmp_path / "voc" / "JPEGImages", shared_data / "voc_from_coco"
    pictures.mkdir(parents=True)
    for folder in ("ImageSets", "SegmentationClass"):
        (tmp_path / "voc" / folder).symlink_to(data / folder)
    for file in (shared_data / "coco" / "val2017").glob("*.jpg"):
        (pictures / file.name).symlink_to(file)
    port(shared_data / "weights" / "deeplab_v3_mobilenet_v2_voc_tf.safetensors", tmp_path / "model.safetensors")
    figures = evaluate(tmp_path / "model.safetensors", tmp_path / "voc", split="val").report().figures
    assert figures["images"] == 48
    assert float(figures["pixel_accuracy"] or 0) > 0.85
    assert float(figures["miou"] or 0) > 0.40
