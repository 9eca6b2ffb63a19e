"""Whether there are enough images: on two colours, and from a quarter of the scenes to all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fusiform
import fusiform.advice.seen
from fusiform.advice.plan import Plan, _limit, plan
from fusiform.advice.seen import see
from fusiform.data.looks import LOOKS, measure
from fusiform.data.open import open_dataset
from fusiform.errors import InputError, UsageError
from fusiform.zoo.model import Model


def test_two_colours(data: Path, model: Model) -> None:
    found = plan(data, model=model, threads=1)
    figures = found.figures
    assert (figures["train_images"], figures["test_images"], figures["split"]) == (40, 20, "test")
    assert figures["measured"] == "last layer"
    assert figures["top1"] == 1
    # All of twenty: 0.025 ** (1 / 20)
    assert figures["top1_low"] == pytest.approx(0.8316, abs=1e-4)
    assert [row["class"] for row in found.rows] == ["green", "red"]
    assert [row["limit"] for row in found.rows] == [None, None]
    assert [row["train_images"] for row in found.curve] == [8, 10, 15, 20, 30, 40]
    assert [row["train_images"] for row in found.more] == [240, 1040]
    assert all(row["foretold_low"] <= row["foretold"] <= row["foretold_high"] for row in found.more)


def test_the_report_is_as_its_schema_says(data: Path, model: Model, valid: object) -> None:
    report = plan(data, model=model, threads=1).report()
    assert callable(valid)
    valid(report.to_json())
    assert "foretold" in report.to_table()


def test_a_second_plan_shows_no_image_again(data: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[object] = []
    look = fusiform.advice.seen._look
    monkeypatch.setattr(fusiform.advice.seen, "_look", lambda engine, item: shown.append(item) or look(engine, item))
    first = plan(data, model=model, threads=1)
    assert len(shown) == 60
    assert plan(data, model=model, threads=1) == first
    assert len(shown) == 60
    # One that has changed is.
    Image.new("RGB", (40, 40), (40, 160, 40)).save(data / "test" / "red" / "25.png")
    plan(data, model=model, threads=1)
    assert [item.file.name for item in shown[60:]] == ["25.png"]


def test_a_damaged_cache_is_done_without(data: Path, model: Model, cache: Path) -> None:
    first = plan(data, model=model, threads=1)
    (kept,) = (cache / "features").iterdir()
    kept.write_bytes(kept.read_bytes()[:1000])
    assert plan(data, model=model, threads=1) == first
    assert kept.stat().st_size > 1000


def test_data_without_splits_and_with_damage(data: Path, model: Model, tmp_path: Path) -> None:
    (data / "train" / "red" / "3.png").write_bytes(b"none")
    found = plan(data / "train", model=model, threads=1)
    assert found.figures["split"] == "all"
    assert (found.figures["train_images"], found.figures["test_images"]) == (31, 8)
    assert any("1 images could not be read" in note for note in found.notes)
    assert any("no test split" in note for note in found.notes)


def test_too_few_for_a_curve(data: Path, model: Model) -> None:
    for path in sorted((data / "train").glob("*/*")):
        if int(path.stem) > 1:
            path.unlink()
    found = plan(data, model=model, threads=1)
    assert found.curve == found.more == ()
    assert all(row["limit"] is None for row in found.rows)


def test_arguments(data: Path, model: Model, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="more must be"):
        plan(data, model=model, more=(0,))
    with pytest.raises(InputError, match="one class"):
        plan(_of_one_class(tmp_path), model=model)


def _of_one_class(root: Path) -> Path:
    (root / "one" / "green").mkdir(parents=True)
    Image.new("RGB", (40, 40)).save(root / "one" / "green" / "a.png")
    return root / "one"


def test_what_a_class_lacks() -> None:
    assert _limit(0.05, 0.01, 0.1) == "labels"
    assert _limit(0.005, 0.02, 0.1) == "images"
    assert _limit(0.0, 0.001, 0.1) is None  # neither brings anything
    assert _limit(0.05, 0.01, 0.0) is None  # it is right as it is
    assert _limit(0.05, None, 0.1) is None


def test_looks() -> None:
    pixels = np.zeros((10, 10, 3), np.uint8)
    pixels[:, 5:] = (100, 100, 100)
    brightness, contrast, sharpness, colour, warmth, tint, size = measure(Image.new("RGB", (20, 30)), pixels)
    assert (brightness, contrast, colour, warmth, tint) == (50, 50, 0, 0, 0)
    assert size == pytest.approx(np.log(600))
    # Of the 8 x 8 inner pixels two columns differ from one of their neighbours by 100: a quarter of 10,000, and 1.
    assert sharpness == pytest.approx(np.log(2501))
    assert len(LOOKS) == 7


def test_what_was_seen_is_in_the_order_of_the_images(data: Path, model: Model) -> None:
    samples = open_dataset(data, task="classification").splits["train"]
    seen = see(model, samples, threads=2)
    back = see(model, samples[::-1], threads=1)
    np.testing.assert_array_equal(seen.features, back.features[::-1])
    assert seen.numbers == tuple(range(40))
    assert seen.values.shape == (40, 2)


def test_the_function_is_public() -> None:
    assert fusiform.plan is plan
    assert Plan.__name__ == "Plan"
