"""Sketches of what a model sees: kept by predict and serve, thinned, and told from the reference that it carries."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import ImageFilter

import fusiform
from fusiform.advice.drift import drift, look_at
from fusiform.advice.sketch import Sketch
from fusiform.calibration.reference import MEASURES, Rows, make_reference, mark, pack, unpack
from fusiform.certainty import Reference
from fusiform.cli import commands
from fusiform.errors import InputError, OutputError, SpecError, UsageError
from fusiform.prediction.kept import ROWS, Keeper, Kept, Thinned, read_kept
from fusiform.spec import ModelSpec
from fusiform.zoo.model import Model, open_model

from .conftest import SPEC
from .test_drift import noise

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 images to calibrate on, in the model's classes, and 70 new ones as they are and blurred."""
    root, random = tmp_path_factory.mktemp("scenes"), np.random.default_rng(6)
    for k in range(120):
        folder = root / "known" / SPEC.labels[k % 2]
        folder.mkdir(parents=True, exist_ok=True)
        noise(random).save(folder / f"{k}.png")
    for k in range(70):
        image = noise(random)
        for name, changed in (("clean", image), ("blurred", image.filter(ImageFilter.GaussianBlur(1.5)))):
            (root / name).mkdir(exist_ok=True)
            changed.save(root / name / f"{k:02}.png")
    return root


@pytest.fixture(scope="module")
def calibrated(scenes: Path, model: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    out = tmp_path_factory.mktemp("calibrated") / "sure.tflite"
    fusiform.evaluate(model, scenes / "known", calibrate=out, threads=1)
    return open_model(out)


def test_a_calibrated_model_carries_its_reference(calibrated: Model, model: Model, scenes: Path) -> None:
    certainty = calibrated.spec.certainty
    assert certainty is not None
    assert certainty.reference is not None
    assert certainty.reference.images == certainty.images == 60  # half of what was given
    assert sum(certainty.reference.classes) == 60
    parameters = sum(value.size for value in calibrated.state().values())
    assert len(certainty.reference.values) <= 0.01 * parameters
    assert ModelSpec.from_json(calibrated.spec.to_json()) == calibrated.spec
    assert certainty.reference.together
    # As before images were kept together.
    older = replace(certainty, reference=replace(certainty.reference, named=(), together=False))
    text = calibrated.spec.replace(certainty=older).to_json()
    assert "named" not in text
    assert "together" not in text
    assert ModelSpec.from_json(text).certainty == older
    found = drift(calibrated, scenes / "blurred", threads=1)
    assert found.alarm
    assert found.figures["reference_images"] == 60
    assert "blurred" in [row["changed"] for row in found.rows]
    assert not drift(calibrated, scenes / "clean", threads=1).alarm
    with pytest.raises(UsageError, match="has no reference in it"):
        drift(model, scenes / "clean", threads=1)


def test_what_predict_keeps_tells_what_the_images_do(calibrated: Model, scenes: Path, tmp_path: Path) -> None:
    place = tmp_path / "seen.json"
    fusiform.predict(scenes / "blurred", calibrated, sketch=place, threads=2)
    kept = read_kept(place, calibrated)
    assert (kept.images, kept.every, kept.rows.shape) == (70, 1, (70, len(MEASURES) + 1))
    text = place.read_text(encoding="utf-8")
    assert len(text) < 4000
    assert "blurred" not in text
    assert ".png" not in text
    found, direct = drift(calibrated, place), drift(calibrated, scenes / "blurred", threads=1)
    # 0.9 of the chance for a false alarm, against all of it, may cost an image.
    assert isinstance(found.figures["alarm_after"], int)
    assert isinstance(direct.figures["alarm_after"], int)
    assert 0 <= found.figures["alarm_after"] - direct.figures["alarm_after"] <= 2
    assert "blurred" in [row["changed"] for row in found.rows]
    assert {row["examples"] for row in found.rows} == {()}
    # It is gone on with, by who asks one after the other too.
    with fusiform.Predictor(calibrated, threads=1, sketch=place) as predictor:
        predictor(scenes / "blurred" / "00.png")
        predictor([scenes / "clean" / "00.png", scenes / "nowhere.png"])
    again = read_kept(place, calibrated)
    assert again.images == 72
    np.testing.assert_array_equal(again.rows[:71], np.concatenate([kept.rows, kept.rows[:1]]))


def test_the_command(calibrated: Model, scenes: Path, tmp_path: Path, valid: Callable[..., Any]) -> None:
    def run(*words: str | Path) -> Any:
        result = CliRunner().invoke(commands, [str(word) for word in words], prog_name="fusiform")
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        return result

    place, model = tmp_path / "seen.json", calibrated.path
    assert run("predict", scenes / "blurred", "--model", model, "--sketch", place, "--threads", "1").exit_code == 0
    result = run("drift", model, place, "--strict", "--format", "json")
    assert result.exit_code == 3
    figures = valid(result.stdout)["figures"]
    assert (figures["images"], figures["reference_images"]) == (70, 60)
    assert run("drift", model, "--sketch", tmp_path / "reference.json").exit_code == 0
    assert run("drift", model, place, "--reference", tmp_path / "reference.json", "--strict").exit_code == 3
    for words in (["--part", "10", "--out", tmp_path / "parts"], ["--video", "clip.mp4"], ["--fast"]):
        sources = [] if "--video" in words else [scenes / "clean"]
        refused = run("predict", *sources, "--model", model, "--sketch", place, *words)
        assert refused.exit_code == 2, words
        assert "sketch" in refused.stderr


def test_other_files_and_models_are_refused(calibrated: Model, model: Model, scenes: Path, tmp_path: Path) -> None:
    place = tmp_path / "seen.json"
    with pytest.raises(UsageError, match="is calibrated"):
        Keeper(place, model)
    with pytest.raises(UsageError, match="is a file that ends in"):
        Keeper(tmp_path / "seen.txt", calibrated)
    with pytest.raises(OutputError):
        Keeper(tmp_path / "nowhere" / "seen.json", calibrated)
    Keeper(place, calibrated)
    with pytest.raises(InputError, match="has no image in it yet"):
        drift(calibrated, place)
    with pytest.raises(UsageError, match="name it alone"):
        drift(calibrated, [place, scenes / "clean"])
    with pytest.raises(InputError, match="was kept with another model"):
        drift(model, place, reference=scenes / "known")
    content = json.loads(place.read_text(encoding="utf-8"))
    for change in ({"rows": 3}, {"images": -1}, {"every": 3}, {"model": None}, {"values": "!", "rows": 1, "images": 1}):
        (tmp_path / "bad.json").write_text(json.dumps(content | change), encoding="utf-8")
        with pytest.raises(InputError, match=r"is no sketch|another model"):
            read_kept(tmp_path / "bad.json", calibrated)
    reference = tmp_path / "uncalibrated.json"
    drift(model, reference=scenes / "known", sketch=reference, threads=1)
    with pytest.raises(InputError, match="another model"):
        drift(calibrated, place, reference=reference)


def test_a_server_keeps_a_sketch(calibrated: Model, model: Model, scenes: Path, tmp_path: Path) -> None:
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    folder = tmp_path / "seen"
    place = folder / f"sure-{mark(calibrated.spec)[:8]}.json"

    def serve(count: int) -> None:
        with fusiform.serve([str(calibrated.path)], port=0, threads=1, log="nothing", sketch=folder) as server:
            images = sorted((scenes / "blurred").glob("*.png"))[:count]
            assert len(fusiform.Client(server.address).predict(images)) == count
            server.reload()

    serve(20)
    assert read_kept(place, calibrated).images == 20
    serve(3)
    kept = read_kept(place, calibrated)
    assert (kept.images, len(kept.rows)) == (23, 23)
    first, last = ({row.tobytes() for row in rows} for rows in (kept.rows[:20], kept.rows[20:]))
    assert len(last) == 3
    assert last < first  # the same images
    with pytest.raises(UsageError, match="is calibrated"):
        fusiform.serve([str(model.path)], port=0, threads=1, log="nothing", sketch=folder)
    with pytest.raises(UsageError, match="fast"):
        fusiform.serve([str(calibrated.path)], port=0, threads=1, log="nothing", sketch=folder, fast=True)


def test_numbers_are_packed_exactly() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 11)).astype(np.float16)
    rows[0, 0], rows[1, 1], rows[2, 2] = -0.0, 65504, -65504
    np.testing.assert_array_equal(unpack(pack(rows), 50, 11).view(np.uint16), rows.view(np.uint16))
    for text in (pack(rows)[:-4], "!", "", pack(rows[:49])):
        with pytest.raises(ValueError, match="does not hold"):
            unpack(text, 50, 11)


def test_a_reference_takes_what_it_may() -> None:
    rows = drawn(np.random.default_rng(0), 900)
    reference = make_reference(rows, 3)
    assert reference is not None
    assert (reference.images, reference.kept) == (900, 800)
    small = make_reference(rows, 3, most_bytes=2000)
    assert small is not None
    assert len(small.values) <= 2000
    assert small.kept < 400
    assert small.classes == reference.classes
    assert make_reference(rows, 3, most_bytes=100) is make_reference(rows[:39], 3) is None
    for changes in ({"kept": 901}, {"kept": 0}, {"classes": (1, 2, 3)}, {"values": "x" * 70_000}):
        fields: dict[str, Any] = {"images": 900, "kept": 800, "values": "", "classes": ()}
        with pytest.raises(SpecError, match="reference"):
            Reference(**(fields | changes))


def drawn(random: np.random.Generator, count: int) -> Rows:
    """Rows of images of three classes."""
    numbers = random.normal(size=(count, len(MEASURES)))
    return np.column_stack([numbers, random.integers(0, 3, count)]).astype(np.float16)


def test_a_sketch_that_grows_is_thinned_and_raises_no_more_alarms_than_stated() -> None:
    spec, alarms, streams = SPEC.replace(labels=("a", "b", "c")), 0, 50
    for number in range(streams):
        random, thinned = np.random.default_rng(number), Thinned(seed=number)
        reference = make_reference(drawn(random, 100), 3)
        assert reference is not None
        looked = []
        for row in drawn(random, 1300):
            if thinned.wants():
                before = thinned.kept() if len(thinned) == ROWS else None
                thinned.add(row)
                looked += [] if before is None else [before]
        looked.append(thinned.kept())
        assert looked[0].rows.shape == (ROWS, len(MEASURES) + 1)
        assert (looked[0].images, looked[0].every, looked[-1].images) == (ROWS + 1, 1, 1300)
        assert looked[1].every == 2
        np.testing.assert_array_equal(looked[1].rows[:256], looked[0].rows[::2])
        known = Sketch(reference, "")
        alarms += any(look_at(known, each, spec, false_alarms=0.2)[0] is not None for each in looked)
    # A fifth, and 3 standard errors.
    assert alarms / streams <= 0.2 + 3 * np.sqrt(0.16 / streams)


def test_more_images_change_nothing_of_what_was_found() -> None:
    spec, random = SPEC.replace(labels=("a", "b", "c")), np.random.default_rng(1)
    reference, rows = make_reference(drawn(random, 200), 3), drawn(random, 300)
    assert reference is not None
    rows[:, MEASURES.index("residual")] += 1
    found = [look_at(Sketch(reference, ""), Kept(count, 1, rows[:count]), spec)[0] for count in (60, 300)]
    assert found[0] is not None
    assert found[0] == found[1]
