"""Boxes that are probably wrong: answers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fusiform.data.annotated import BoxLabel
from fusiform.tasks.box_noise import BoxNorms, box_norms, doubted_boxes
from fusiform.tasks.detection import Box, Detections

NORMS = BoxNorms(np.array([0.8, 0.6]), np.array([0.55, 0.55]), np.array([1.0, 0.9]), np.array([True, True]))
CAT = BoxLabel(0, 10, 10, 50, 50)
"""40 x 40 pixels."""


def box(index: int, score: float, *edges: float) -> Box:
    return Box(index, ["cat", "dog"][index], score, *edges)


def seen(*boxes: Box) -> list[Detections]:
    return [Detections(boxes, 200, 200)]


def told(labels: list[BoxLabel], *boxes: Box) -> list[tuple[str, float]]:
    return [(doubt.fault, doubt.gain) for doubt in doubted_boxes([labels], seen(*boxes), NORMS)]


def test_what_is_seen_as_it_is_labelled_is_not_doubted() -> None:
    assert told([CAT], box(0, 0.9, 10, 10, 50, 50)) == []
    # Neither is it where the model is not sure of anything, as long as it sees something.
    assert told([CAT], box(1, 0.02, 10, 10, 50, 30)) == []


def test_a_missed_object() -> None:
    found = box(0, 0.9, 100, 100, 150, 150)
    assert told([CAT], found, box(0, 0.85, 10, 10, 50, 50)) == [("missed", 0.9)]
    # The class's usual score is 0.8: less is not confident.
    assert told([], box(0, 0.79, 100, 100, 150, 150)) == []
    # One object is told once, whatever it is taken for: 49 * 49 of 51 * 51 pixels or so are one.
    assert told([], found, box(1, 0.7, 101, 101, 150, 150)) == [("missed", 0.9)]


def test_a_box_of_another_class() -> None:
    own = box(0, 0.1, 11, 10, 50, 50)
    doubts = doubted_boxes([[CAT]], seen(box(1, 0.7, 10, 10, 50, 50), own), NORMS)
    assert [(doubt.fault, doubt.label, doubt.picture) for doubt in doubts] == [("swapped", CAT, 0)]
    assert doubts[0].gain == pytest.approx(0.7 - 0.1)
    # 0.8 of the usual 0.6 is enough beside a label, and less is not.
    assert told([CAT], box(1, 0.48, 10, 10, 50, 50)) == [("swapped", 0.48)]
    assert told([CAT], box(1, 0.47, 10, 10, 50, 50)) == []
    # A box of another object in the same place is that object's own.
    both = [CAT, BoxLabel(1, 10, 10, 50, 50)]
    assert told(both, box(1, 0.95, 10, 10, 50, 50), box(0, 0.5, 10, 10, 50, 50)) == []


def test_a_shifted_box() -> None:
    # Moved by 20 of 40 pixels aside: a third of the union is common.
    assert told([CAT], box(0, 0.9, 30, 10, 70, 50)) == [("shifted", pytest.approx(0.9 * 2 / 3))]
    # A weak answer where the label is takes its score off.
    weak = box(0, 0.3, 10, 10, 50, 50)
    assert told([CAT], box(0, 0.9, 30, 10, 70, 50), weak) == [("shifted", pytest.approx(0.6 * 2 / 3))]
    # A sure one says that there are two, of which the second is not labelled; they lie apart by more than 0.3.
    sure = box(0, 0.88, 10, 10, 50, 50)
    assert told([CAT], box(0, 0.9, 35, 10, 75, 50), sure) == [("missed", 0.9)]
    # On the label, but less than the class's boxes fit: 40 * 21 of 40 * 40 pixels.
    assert told([CAT], box(0, 0.9, 10, 10, 50, 31)) == [("shifted", pytest.approx(0.9 * (1 - 21 / 40)))]


def test_a_box_of_nothing() -> None:
    assert told([CAT], box(0, 0.01, 100, 100, 140, 140)) == [("spurious", 0.8)]
    # A tenth of the dogs is not seen at all, so that nothing follows from one more.
    assert told([BoxLabel(1, 10, 10, 50, 50)]) == []


def test_crowds_and_difficult_boxes_are_left_alone() -> None:
    for label in (BoxLabel(0, 10, 10, 90, 90, crowd=True), BoxLabel(0, 10, 10, 90, 90, difficult=True)):
        assert told([label]) == []
        assert told([label], box(0, 0.9, 20, 20, 40, 40)) == []


def test_classes_of_which_too_little_is_known_are_left_alone() -> None:
    norms = NORMS._replace(judged=np.array([True, False]))
    found = seen(box(1, 0.99, 10, 10, 50, 50), box(1, 0.95, 100, 100, 150, 150), box(0, 0.5, 10, 10, 50, 50))
    assert doubted_boxes([[CAT]], found, norms) == []
    assert doubted_boxes([[BoxLabel(1, 150, 10, 190, 50)]], seen(), norms) == []


def test_those_that_gain_most_come_first_and_what_was_not_read_is_left_out() -> None:
    found = [None, *seen(box(0, 0.9, 30, 10, 70, 50)), *seen(box(0, 0.95, 100, 100, 150, 150))]
    doubts = doubted_boxes([[CAT], [CAT], []], found, NORMS)
    assert [(doubt.picture, doubt.fault) for doubt in doubts] == [(2, "missed"), (1, "shifted")]


def test_what_is_usual_follows_from_what_is_found_on_the_labels() -> None:
    truth = [[CAT]] * 12 + [[BoxLabel(1, 10, 10, 50, 50)]] * 9 + [[CAT]]
    found = [
        *(seen(box(0, 0.9 - 0.02 * i, 10, 10, 50, 50 - i % 2))[0] for i in range(12)),
        *(seen(box(1, 0.3, 10, 10, 50, 50))[0] for _ in range(9)),
        None,
    ]
    norms = box_norms(truth, found, 3)
    # 0.90, 0.88, ... 0.68; the dogs' 0.3 is not confident.
    np.testing.assert_allclose(norms.scores, [0.79, 0.5, 1.0])
    # The fits are 1 and 39 / 40: however well they go, 0.6 is no shift.
    np.testing.assert_allclose(norms.fits, [0.6, 0.6, 0.6])
    np.testing.assert_allclose(norms.seen, [1, 1, 0])
    assert norms.judged.tolist() == [True, False, False]
