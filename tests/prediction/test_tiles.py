"""Tiles: how they lie, what is merged, and that small objects in large pictures are found."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fusiform
from fusiform import engines
from fusiform.errors import UsageError
from fusiform.prediction.tiles import Region, Tiles, merge, regions
from fusiform.spec import DECODED_BOXES, ModelSpec, Preprocess
from fusiform.tasks.detection import Box, Detections
from fusiform.zoo.model import Model

SIDE = 64
SPEC = ModelSpec(
    "mobilenet_v2",
    1.0,
    ("red", "green"),
    task="detection",
    input_size=SIDE,
    preprocess=Preprocess(resize=SIDE, crop=SIDE, fit="stretch"),
    decoded=True,
)
MODEL = Model(Path("model.tflite"), "tflite", SPEC, b"")


# How tiles lie.


def test_the_whole_picture_comes_first_and_tiles_cover_it() -> None:
    assert regions((1000, 700), Tiles(640, 0.2)) == [
        (0, 0, 1000, 700),
        (0, 0, 640, 640),
        (360, 0, 1000, 640),
        (0, 60, 640, 700),
        (360, 60, 1000, 700),
    ]
    assert regions((640, 640), Tiles(640, 0.2)) == [(0, 0, 640, 640)]
    assert regions((641, 100), Tiles(640, 0.2)) == [(0, 0, 641, 100), (0, 0, 640, 100), (1, 0, 641, 100)]


@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("size", [(65, 64), (300, 200), (1000, 37), (64, 129)])
def test_every_pixel_is_in_a_tile_and_neighbours_overlap(size: tuple[int, int], overlap: float) -> None:
    _, *tiles = regions(size, Tiles(64, overlap))
    covered = np.zeros(size[::-1], int)
    for left, top, right, bottom in tiles:
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]
        assert (right - left, bottom - top) == (min(64, size[0]), min(64, size[1]))
        covered[top:bottom, left:right] += 1
    assert covered.min() >= 1
    starts = sorted({left for left, *_ in tiles})
    for first, second in pairwise(starts):
        assert second - first <= round(64 * (1 - overlap))


# What is merged: a picture of 180 x 100 in two tiles that have 20 pixels in common.

SIZE = (180, 100)
WHOLE, LEFT, RIGHT = (0, 0, 180, 100), (0, 0, 100, 100), (80, 0, 180, 100)


def seen(region: Region, *boxes: tuple[int, float, float, float, float, float]) -> tuple[Region, Detections]:
    """Boxes (class, score, left, top, right, bottom) in a region's own pixels."""
    size = region[2] - region[0], region[3] - region[1]
    ordered = sorted(boxes, key=lambda box: -box[1])
    return region, Detections(tuple(Box(k, SPEC.labels[k], *rest) for k, *rest in ordered), *size)


def merged(
    *found: tuple[Region, Detections], iou: float = 0.6, limit: int = 100
) -> list[tuple[int, float, float, float, float, float]]:
    answer = merge(found, SIZE, iou_threshold=iou, limit=limit)
    assert (answer.width, answer.height) == SIZE
    return [(box.index, box.score, box.left, box.top, box.right, box.bottom) for box in answer.boxes]


def test_boxes_are_moved_to_their_place_in_the_picture() -> None:
    assert merged(seen(WHOLE), seen(LEFT, (0, 0.9, 10, 20, 30, 40)), seen(RIGHT, (1, 0.8, 30, 5, 50, 25))) == [
        (0, 0.9, 10, 20, 30, 40),
        (1, 0.8, 110, 5, 130, 25),
    ]
    assert merged(seen(WHOLE), seen(LEFT), seen(RIGHT)) == []


def test_an_object_in_two_tiles_and_the_whole_is_told_once_by_the_highest_score() -> None:
    found = (
        seen(WHOLE, (0, 0.5, 83, 41, 97, 59)),
        seen(LEFT, (0, 0.7, 82, 40, 98, 60)),
        seen(RIGHT, (0, 0.9, 3, 40, 18, 60)),
    )
    assert merged(*found) == [(0, 0.9, 83, 40, 98, 60)]


def test_a_part_that_an_edge_cuts_goes_where_the_whole_is_known_though_its_score_is_higher() -> None:
    found = (seen(WHOLE, (0, 0.6, 60, 30, 140, 70)), seen(LEFT, (0, 0.95, 60, 30, 100, 70)))
    assert merged(*found) == [(0, 0.6, 60, 30, 140, 70)]
    # Of another class, or elsewhere, it is no part of it.
    assert len(merged(found[0], seen(LEFT, (1, 0.95, 60, 30, 100, 70)))) == 2
    assert len(merged(found[0], seen(LEFT, (0, 0.95, 60, 72, 100, 90)))) == 2


def test_a_part_stays_where_nothing_shows_the_whole() -> None:
    assert merged(seen(WHOLE), seen(LEFT, (0, 0.9, 50, 30, 100, 70))) == [(0, 0.9, 50, 30, 100, 70)]


def test_the_pictures_own_edges_cut_nothing() -> None:
    # Both end at the picture's left edge: the smaller one within the larger one is an object of its own.
    found = (seen(WHOLE, (0, 0.6, 0, 10, 60, 90)), seen(LEFT, (0, 0.9, 0, 30, 20, 50)))
    assert len(merged(*found)) == 2


def test_a_small_object_before_a_large_one_stays() -> None:
    found = (seen(WHOLE, (0, 0.9, 10, 10, 90, 90)), seen(LEFT, (0, 0.5, 40, 40, 60, 60)))
    assert len(merged(*found)) == 2


def test_iou_and_limit_are_those_that_were_asked_for() -> None:
    found = (seen(WHOLE, (0, 0.9, 10, 10, 50, 50)), seen(LEFT, (0, 0.8, 10, 30, 50, 70)))  # a third in common
    assert len(merged(*found)) == 2
    assert merged(*found, iou=0.3) == [(0, 0.9, 10, 10, 50, 50)]
    assert merged(*found, limit=1) == [(0, 0.9, 10, 10, 50, 50)]


# A detector of bright red or green squares that needs three pixels of them.


class Engine:
    def __init__(self) -> None:
        self.spec = SPEC
        self.batches: list[int] = []

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        self.batches.append(len(batch))
        boxes = np.zeros((len(batch), DECODED_BOXES, 4), np.float32)
        labels = np.zeros((len(batch), DECODED_BOXES), np.float32)
        scores = np.zeros((len(batch), DECODED_BOXES), np.float32)
        for k, pixels in enumerate(batch.astype(int)):
            n = 0
            for channel in (0, 1):
                bright = (pixels[..., channel] > 200) & (pixels[..., 1 - channel] < 60)
                for rows, columns in parts(bright):
                    if len(rows) >= 9:
                        edges = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                        boxes[k, n] = np.array(edges) / SIDE
                        labels[k, n], scores[k, n], n = channel, 0.9, n + 1
        return {"boxes": boxes, "labels": labels, "scores": scores}


def parts(mask: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The connected parts of a mask, as their pixels' rows and columns."""
    left = set(zip(*map(list, np.nonzero(mask)), strict=True))
    found = []
    while left:
        waiting = [left.pop()]
        part = list(waiting)
        while waiting:
            y, x = waiting.pop()
            for near in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if near in left:
                    left.remove(near)
                    waiting.append(near)
                    part.append(near)
        rows, columns = map(np.array, zip(*part, strict=True))
        found.append((rows, columns))
    return found


@pytest.fixture
def detector(monkeypatch: pytest.MonkeyPatch) -> Engine:
    engine = Engine()
    monkeypatch.setattr(engines, "open_engine", lambda model, **_: engine)
    return engine


OBJECTS = [(40, 50, 60, 70), (500, 310, 522, 334), (950, 580, 975, 600), (230, 400, 250, 424)]


def picture(objects: list[Region] = OBJECTS, size: tuple[int, int] = (1000, 620)) -> Image.Image:
    image = Image.new("RGB", size, (90, 90, 90))
    for k, edges in enumerate(objects):
        image.paste((255, 0, 0) if k % 2 == 0 else (0, 255, 0), edges)
    return image


def found_in(image: object, **how: object) -> list[tuple[str, float, float, float, float]]:
    answer = fusiform.predict(image, MODEL, threads=1, **how)[0]  # type: ignore[call-overload, arg-type]
    assert answer.error is None, answer.error
    return sorted((box.name, box.left, box.top, box.right, box.bottom) for box in answer.detections.boxes)


def near(found: list[tuple[str, float, float, float, float]], objects: list[Region], slack: float) -> bool:
    expected = sorted(("red" if k % 2 == 0 else "green", *edges) for k, edges in enumerate(objects))
    return len(found) == len(expected) and all(
        name == other and np.abs(np.subtract(edges, others)).max() <= slack
        for (name, *edges), (other, *others) in zip(found, expected, strict=True)
    )


def test_small_objects_that_the_whole_picture_hides_are_found_in_tiles(detector: Engine) -> None:
    assert found_in(picture()) == []
    found = found_in(picture(), tiles=200)
    assert near(found, OBJECTS, 8), found


@pytest.mark.parametrize("batch", [1, 4])
def test_large_and_small_objects_are_told_once_each(detector: Engine, batch: int) -> None:
    objects = [*OBJECTS, (100, 100, 420, 390)]
    found = found_in(picture(objects), tiles=200, batch=batch, overlap=0.25)
    assert near(found, objects, 20), found
    assert set(detector.batches[:-1]) == {batch}


def test_the_exif_orientation_comes_before_the_tiles(detector: Engine) -> None:
    turned = picture().transpose(Image.Transpose.ROTATE_90)  # what a phone stores that was held upright
    exif = Image.Exif()
    exif[0x0112] = 6
    data = io.BytesIO()
    turned.save(data, "PNG", exif=exif)
    answer = fusiform.predict(data.getvalue(), MODEL, tiles=200, threads=1)[0]
    assert answer.detections is not None
    assert (answer.detections.width, answer.detections.height) == (1000, 620)
    assert near(found_in(data.getvalue(), tiles=200), OBJECTS, 8)


def test_a_picture_no_larger_than_a_tile_is_answered_as_without(detector: Engine) -> None:
    small = picture([(10, 10, 40, 40)], (128, 100))
    assert found_in(small, tiles=128) == found_in(small)
    assert detector.batches == [1, 1]


def test_errors_drawings_and_several_pictures_go_on_as_without(detector: Engine, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    picture().save(tmp_path / "good.png")
    bad, good = fusiform.predict([tmp_path / "bad.jpg", tmp_path / "good.png"], MODEL, tiles=200, threads=2)
    assert bad.error is not None
    assert "bad.jpg" in bad.error
    assert good.detections is not None
    assert len(good.detections.boxes) == 4
    memory = fusiform.predict(picture(), MODEL, tiles=200)[0]
    assert memory.draw().size == (1000, 620)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"tiles": 63}, "tiles must be at least 64 pixels, got 63"),
        ({"tiles": 640, "overlap": 0.95}, r"overlap must be from 0 to 0\.9"),
        ({"tiles": 640, "overlap": -0.1}, r"overlap must be from 0 to 0\.9"),
        ({"tiles": 640, "overlap": float("nan")}, r"overlap must be from 0 to 0\.9"),
    ],
)
def test_numbers_out_of_range_are_refused(detector: Engine, how: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        fusiform.predict(picture(), MODEL, **how)  # type: ignore[arg-type]


def test_a_classifier_has_no_tiles() -> None:
    with pytest.raises(UsageError, match=r"tiles is for detection, and the model \(mobilenet_v2_x1_0\) is for classif"):
        fusiform.predict(picture(), tiles=640)
