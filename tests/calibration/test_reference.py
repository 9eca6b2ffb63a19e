"""References of calibrations: the images come back, and files from before these were kept together are read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fusiform.calibration.reference import (
    CLASSES,
    MEASURES,
    Measure,
    Rows,
    make_reference,
    measures_of,
    read_reference,
    to_columns,
)
from fusiform.certainty import Reference
from fusiform.errors import SpecError


def drawn(count: int, classes: int) -> Rows:
    random = np.random.default_rng(count)
    numbers = random.normal(size=(count, len(MEASURES)))
    return np.column_stack([numbers, random.integers(0, classes, count)]).astype(np.float16)


def test_columns_by_hand() -> None:
    rows = np.zeros((2, len(MEASURES) + 1), np.float16)
    rows[:, MEASURES.index("confidence")] = 0.75, 0.5
    rows[:, -1] = 1, 0
    found = to_columns(rows, (Measure("class", 1), Measure("confidence")))
    np.testing.assert_array_equal(found, [[1, 0], [0.75, 0.5]])


@pytest.mark.parametrize("classes", [1, 3, 20])
def test_a_reference_holds_what_its_images_have_of_each_measure(classes: int) -> None:
    rows, measures = drawn(900, classes), measures_of(classes, detector=True)
    assert len(measures) == len(MEASURES) + classes
    reference = make_reference(rows, classes)
    assert reference is not None
    assert reference.together
    assert sum(reference.named) == reference.kept == 800
    whole = np.column_stack(read_reference(reference, measures)[: len(MEASURES)])
    named = np.repeat(np.arange(classes), reference.named)
    assert sorted(map(tuple, np.column_stack([whole, named]))) == sorted(map(tuple, rows[:800].astype(float)))
    for measure, known, own in zip(
        measures, read_reference(reference, measures), to_columns(rows, measures), strict=True
    ):
        kept = own if measure.name == "class" else own[:800]
        np.testing.assert_array_equal(np.sort(known), np.sort(kept), err_msg=str(measure))


def test_its_size() -> None:
    """Whole rows of numbers that say nothing about each other take hardly more than their bytes."""
    whole = make_reference(drawn(800, 6), 6)
    assert whole is not None
    assert len(whole.values) < 800 * len(MEASURES) * 2 * 4 / 3
    smaller = make_reference(drawn(800, 6), 6, most_bytes=6000)
    assert smaller is not None
    assert len(smaller.values) <= 6000
    assert 150 <= smaller.kept < 300


def test_many_classes_are_not_told_apart() -> None:
    reference, measures = make_reference(drawn(300, 25), CLASSES + 1), measures_of(25, detector=True)
    assert reference is not None
    assert not reference.together
    assert reference.named == reference.classes == ()
    assert [measure.label for measure in measures] == [None] * len(MEASURES)


def test_counts_that_do_not_fit_are_refused() -> None:
    reference = make_reference(drawn(100, 3), 3)
    assert reference is not None
    a, b, c = reference.named
    for named in ((a, b), (a, b, c - 1), (a - 1, b, c + 1), (-1, b, c + a + 1)):
        with pytest.raises(SpecError, match="named classes"):
            replace(reference, named=named)
    with pytest.raises(SpecError, match="count the classes"):
        replace(reference, named=())
    assert Reference(reference.images, reference.kept, reference.values, reference.classes).named == ()
