"""Whether images have changed: on two colours, through a sketch and without one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from fusiform.advice.drift import drift, judge
from fusiform.advice.seen import Seen
from fusiform.advice.sketch import Sketch, make_sketch, read_sketch
from fusiform.calibration.reference import MEASURES, Rows, make_reference, to_columns
from fusiform.errors import InputError, OutputError, UsageError
from fusiform.spec import ModelSpec
from fusiform.zoo.model import Model


def noise(random: np.random.Generator) -> Image.Image:
    """A smooth scene with grain, in one of two colours."""
    coarse = random.integers(0, 120, (5, 5, 3), np.uint8)
    coarse[..., int(random.integers(2))] += 60
    smooth = np.asarray(Image.fromarray(coarse).resize((40, 40), Image.Resampling.BICUBIC)).astype(float)
    return Image.fromarray((smooth + random.normal(20, 8, smooth.shape)).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 reference images in two classes, and 60 new ones as they are, blurred, and darkened."""
    root = tmp_path_factory.mktemp("scenes")
    random = np.random.default_rng(5)
    for k in range(200):
        folder = root / "reference" / "ab"[k % 2]
        folder.mkdir(parents=True, exist_ok=True)
        noise(random).save(folder / f"{k}.png")
    for k in range(60):
        image = noise(random)
        for name, changed in (
            ("clean", image),
            ("blurred", image.filter(ImageFilter.GaussianBlur(1.5))),
            ("dark", image.point(lambda value: value // 3)),
        ):
            (root / name).mkdir(exist_ok=True)
            changed.save(root / name / f"{k:02}.png")
    return root


def test_what_has_changed_is_named(scenes: Path, model: Model, tmp_path: Path, valid: object) -> None:
    clean = drift(model, scenes / "clean", reference=scenes / "reference", sketch=tmp_path / "sketch.json", threads=1)
    assert not clean.alarm
    assert {row["changed"] for row in clean.rows} == {None}
    assert (tmp_path / "sketch.json").stat().st_size < 30_000
    for name, changed in (("blurred", "blurred"), ("dark", "darker")):
        found = drift(model, scenes / name, reference=tmp_path / "sketch.json", threads=1)
        assert found.alarm
        assert changed in [row["changed"] for row in found.rows]
        row = next(row for row in found.rows if row["changed"] == changed)
        assert len(row["examples"]) == 8  # type: ignore[arg-type]
        assert row["now"] < row["reference_median"]  # type: ignore[operator]
        assert str(found).startswith("changed: ")
        assert callable(valid)
        valid(found.report().to_json())


def test_a_sketch_answers_as_its_images_do(scenes: Path, model: Model, tmp_path: Path) -> None:
    place = tmp_path / "sketch.json"
    direct = drift(model, scenes / "dark", reference=scenes / "reference", sketch=place, threads=1)
    assert drift(model, scenes / "dark", reference=place, threads=1) == direct
    written = drift(model, reference=scenes / "reference", sketch=tmp_path / "again.json", threads=1)
    assert written.figures["images"] == 0
    assert (tmp_path / "again.json").read_bytes() == place.read_bytes()


def test_arguments_and_damage(scenes: Path, model: Model, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="false_alarms"):
        drift(model, scenes / "clean", reference=scenes, false_alarms=0)
    with pytest.raises(UsageError, match="no images to look at"):
        drift(model, reference=scenes / "reference")
    with pytest.raises(UsageError, match="a sketch is a file"):
        drift(model, reference=scenes / "reference", sketch=tmp_path / "sketch.txt")
    with pytest.raises(OutputError):
        drift(model, reference=scenes / "reference", sketch=tmp_path / "nowhere" / "sketch.json")
    (tmp_path / "no.json").write_text('{"schema": "fusiform.sketch/1"}')
    with pytest.raises(InputError, match="is no sketch"):
        drift(model, scenes / "clean", reference=tmp_path / "no.json")


def few(count: int) -> Seen:
    random = np.random.default_rng(0)
    features, values, looks = (random.normal(size=(count, n)).astype(np.float32) for n in (64, 3, 7))
    return Seen(tuple(range(count)), features, values, looks, {})


def test_a_sketch_of_another_model_is_refused(tmp_path: Path) -> None:
    spec = ModelSpec("mobilenet_v2", 1.0, ("a", "b", "c"))
    sketch = make_sketch(few(60), spec)
    sketch.write(tmp_path / "sketch.json", spec.labels)
    assert read_sketch(tmp_path / "sketch.json", spec).reference == sketch.reference
    for found, expected in zip(sketch.columns(spec)[9:12], few(60).values[:, :3].T, strict=True):
        assert len(found) == 30 < len(expected)  # the other half says what is strange
    content = json.loads((tmp_path / "sketch.json").read_text(encoding="utf-8"))
    assert content["labels"] == ["a", "b", "c"]
    del content["named"], content["together"]  # as before images were kept together
    (tmp_path / "old.json").write_text(json.dumps(content), encoding="utf-8")
    old = read_sketch(tmp_path / "old.json", spec)
    assert len(old.measures(spec)) == 12  # nine measures and three classes
    np.testing.assert_equal(old.columns(spec), sketch.columns(spec))
    with pytest.raises(InputError, match="another model"):
        read_sketch(tmp_path / "sketch.json", spec.replace(labels=("a", "b", "d")))
    with pytest.raises(InputError, match="at least 40"):
        make_sketch(few(39), spec)


LETTERS = ModelSpec("mobilenet_v2", 1.0, tuple("abcde"))


def rows_of(random: np.random.Generator, count: int, new: float) -> Rows:
    """Rows of images of five classes, in some of which the model is less sure than in others; all but the looks hang
    together. A share ``new`` of them is named b, and unlike it by a standard deviation and a half.
    """
    named, strange = random.integers(5, size=count), random.random(count) < new
    named[strange] = 1
    rows = random.normal(size=(count, len(MEASURES) + 1))
    unlike = random.normal(size=(count, 1)) + 1.5 * strange[:, None] + 2.0 * named[:, None]
    rows[:, -4:-1] = unlike * [-1, 1, 1] + 0.5 * rows[:, -4:-1]
    rows[:, -1] = named
    return rows.astype(np.float16)


def found(number: int, new: float, false_alarms: float, *, together: bool = True) -> tuple[int | None, list[object]]:
    """After how many of 200 images there is an alarm, and what is said to have changed."""
    random = np.random.default_rng(number)
    reference = make_reference(rows_of(random, 400, 0), 5)
    assert reference is not None
    known = Sketch(replace(reference, together=together), "")
    values = to_columns(rows_of(random, 200, new), known.measures(LETTERS))
    after, rows = judge(known, values, None, LETTERS, false_alarms=false_alarms, seed=number)
    assert [row["measure"] for row in rows if str(row["measure"]).startswith("class ")].count("class b") == 1
    return after, [row["changed"] for row in rows if row["changed"]]


def test_streams_like_the_reference_raise_no_more_alarms_than_stated() -> None:
    alarms = [found(number, 0, 0.2) for number in range(150)]
    assert all((after is None) == (not changed) for after, changed in alarms)
    # A fifth, and 3 standard errors.
    assert sum(after is not None for after, _ in alarms) / 150 <= 0.2 + 3 * np.sqrt(0.16 / 150)


def test_a_new_class_that_takes_a_known_ones_name_is_found() -> None:
    told = [found(number, 0.2, 0.01) for number in range(20)]
    assert sum(after is not None for after, _ in told) >= 17
    assert {after for after, _ in told} <= {50, 100, 200, None}  # when it is tested
    assert {name for _, changed in told for name in changed} <= {"strangers named b", "more b"}
    # By a reference from before images were kept together fewer are, of which only the number of the b can tell.
    before = [found(number, 0.2, 0.01, together=False) for number in range(20)]
    assert sum(after is not None for after, _ in before) <= 16
    assert {name for _, changed in before for name in changed} <= {"more b", "strangers", "less sure answers"}
