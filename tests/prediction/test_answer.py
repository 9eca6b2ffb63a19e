"""Answers to hold: short in a line, pictures in a notebook, plain values for programs."""

from __future__ import annotations

import base64
import io
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fusiform.errors import ImageError, UsageError
from fusiform.prediction.results import Prediction, Predictions
from fusiform.spec import ModelSpec, Preprocess
from fusiform.tasks.classification import Classification, Guess
from fusiform.tasks.detection import Box, Detections
from fusiform.tasks.segmentation import SegmentationMap

CLASSIFIER = ModelSpec("mobilenet_v2", 1.0, ("cat", "<b>dog</b>", "cow", "ant"))
WHOLE = Preprocess(resize=320, crop=320, fit="stretch")
DETECTOR = ModelSpec("mobilenet_v2", 1.0, ("cat", "dog"), task="detection", input_size=320, preprocess=WHOLE)
SEGMENTER = ModelSpec(
    "mobilenet_v2",
    1.0,
    ("background", "cat"),
    task="segmentation",
    input_size=320,
    output_stride=16,
    preprocess=WHOLE,
)


def classified(path: Path | str = "a.png") -> Prediction:
    guesses = (Guess(0, "cat", 0.7), Guess(1, "<b>dog</b>", 0.2), Guess(2, "cow", 0.08), Guess(3, "ant", 0.02))
    return Prediction(str(path), Classification(str(path), guesses))


def detected(path: Path | str = "a.png") -> Prediction:
    boxes = (Box(0, "cat", 0.9, 10, 10, 60, 50), Box(1, "dog", 0.6, 70, 10, 90, 30), Box(0, "cat", 0.5, 0, 0, 5, 5))
    return Prediction(str(path), detections=Detections(boxes, 100, 60))


def segmented(path: Path | str = "a.png") -> Prediction:
    classes = np.zeros((60, 100), np.uint8)
    classes[:15] = 1
    return Prediction(str(path), segmentation=SegmentationMap(classes, ("background", "cat")))


FAILED = Prediction("b.png", error="b.png: no such file: check the path")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    Image.new("RGB", (100, 60), "#888").save(path)
    return path


def test_reprs_are_a_line() -> None:
    assert repr(classified()) == "<Prediction a.png: cat 70.0%, <b>dog</b> 20.0%, cow 8.0%, ...>"
    assert repr(detected()) == "<Prediction a.png: cat (2), dog>"
    assert repr(segmented()) == "<Prediction a.png: background 75.0%, cat 25.0% of the picture>"
    assert repr(FAILED) == "<Prediction b.png: b.png: no such file: check the path>"
    assert repr(Prediction("a.png", detections=Detections((), 9, 9))) == "<Prediction a.png: nothing found>"
    several = Predictions([classified(), FAILED], CLASSIFIER)
    assert repr(several).startswith("<2 predictions of mobilenet_v2_x1_0, 1 could not be read: <Prediction a.png: cat")
    assert repr(Predictions([], CLASSIFIER)) == "<0 predictions of mobilenet_v2_x1_0>"
    many = Predictions([detected()] * 10_000, DETECTOR)
    assert len(repr(many)) < 200


def test_plain_values(valid: Callable[..., Any]) -> None:
    assert classified().to_dict()["top"][0] == {"index": 0, "name": "cat", "probability": 0.7}
    assert detected().to_dict()["boxes"][1] == {"index": 1, "name": "dog", "score": 0.6, "bbox": [70, 10, 20, 20]}
    assert segmented().to_dict()["classes"][1] == {"index": 1, "name": "cat", "share": 0.25}
    assert valid(FAILED.to_json(), "prediction") == {"path": "b.png", "error": "b.png: no such file: check the path"}
    several = Predictions([classified(), FAILED], CLASSIFIER)
    assert valid(several.to_json()) == {
        "schema": "fusiform.predictions/1",
        "network": CLASSIFIER.name,
        "task": "classification",
        "predictions": [classified().to_dict(), FAILED.to_dict()],
    }
    for one in (classified(), detected(), segmented()):
        assert valid(one.to_json(), "prediction")["error"] is None
    assert several.errors == [FAILED]
    rows = several.rows()
    assert len(rows) == 5
    assert rows[0] == {"path": "a.png", "rank": 1, "index": 0, "name": "cat", "probability": 0.7, "error": None}
    assert rows[4]["error"] == FAILED.error
    assert Predictions([detected()], DETECTOR).rows()[0]["width"] == 50
    assert Predictions([segmented()], SEGMENTER).rows()[1]["share"] == 0.25


@pytest.mark.parametrize(("library", "method"), [("pandas", "to_pandas"), ("pyarrow", "to_arrow")])
def test_tables_of_other_libraries(library: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    several = Predictions([classified(), FAILED], CLASSIFIER)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, library, None)
        with pytest.raises(UsageError, match=f"pip install {library}"):
            getattr(several, method)()
    pytest.importorskip(library)
    table = getattr(several, method)()
    names = table.columns if library == "pandas" else table.column_names
    assert list(names) == ["path", "rank", "index", "name", "probability", "error"]
    assert len(table) == 5


def shown(html: str) -> Image.Image:
    """The picture in a cell."""
    found = re.search(r'src="data:image/png;base64,([^"]+)"', html)
    assert found
    return Image.open(io.BytesIO(base64.b64decode(found[1])))


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_a_cell_shows_the_picture_with_what_was_found(picture: Path) -> None:
    html = classified(picture)._repr_html_()
    assert shown(html).size == (100, 60)
    assert "&lt;b&gt;dog" in html
    assert "<b>dog" not in html
    assert html.count("<tr>") == 4
    plain = Image.new("RGB", (100, 60), "#888").tobytes()
    for answer in (detected(picture), segmented(picture)):
        drawn = shown(answer._repr_html_())
        assert drawn.width >= 100
        assert drawn.convert("RGB").tobytes() != plain
        png = answer._repr_png_()
        assert png is not None
        assert Image.open(io.BytesIO(png)).size == drawn.size
    assert "no such file" in FAILED._repr_html_()
    assert FAILED._repr_png_() is None
    # An image that was in memory is gone, and its answer is shown all the same.
    assert "cat" in classified("<image>")._repr_html_()
    assert "cat (2)" in detected("<image>")._repr_html_()
    with pytest.raises(ImageError, match="is not there to be drawn"):
        detected("<image>").draw()


def test_a_cell_shows_many_as_a_grid(picture: Path, tmp_path: Path) -> None:
    several = Predictions([classified(picture), FAILED] * 2, CLASSIFIER)
    grid = shown(several._repr_html_())
    assert grid.width > 2 * 220
    assert "the first 64 of 70" in Predictions([FAILED] * 70, CLASSIFIER)._repr_html_()
    assert "no pictures" in Predictions([], CLASSIFIER)._repr_html_()
    assert Predictions([classified(picture)], CLASSIFIER)._repr_html_() == classified(picture)._repr_html_()
    assert several.save(tmp_path / "grid.png") == []
    assert size(tmp_path / "grid.png") == grid.size
    detected(picture).save(tmp_path / "boxes.jpg")
    assert size(tmp_path / "boxes.jpg") == (100, 60)
    with pytest.raises(UsageError, match=r"end in \.png or \.jpg"):
        detected(picture).save(tmp_path / "boxes.bmp")
