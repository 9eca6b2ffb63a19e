"""What is asked of a decision: classes by name, and cost matrices in CSV, read right or refused by name."""

from __future__ import annotations

import contextlib
import csv
import io
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from fusiform.calibration.decision import Rule
from fusiform.data.names import nfc
from fusiform.errors import UsageError
from fusiform.evaluation.rules import read_costs, read_rule
from fusiform.spec import ModelSpec

LABELS = ("cat", "dog", "sea cow")
SPEC = ModelSpec("mobilenet_v2", 1.0, LABELS, label_ids=("n1", "n2", "n3"))
GOOD = "true,cat,dog,sea cow\ncat,0,1,2\ndog,3,0,4\nsea cow,5,6,0\n"


def read(folder: Path, text: str | bytes, spec: ModelSpec = SPEC) -> tuple[tuple[float, ...], ...]:
    file = folder / "costs.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_costs(file, spec)


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        b"\xef\xbb\xbf" + GOOD.encode(),
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("true", ""),
        GOOD.replace("sea cow", "Sea_Cow").replace("cat,0", " cat , 0 "),
        GOOD.replace("dog,3", '"dog","3"').replace(",2\n", ",2e0\n"),
        "true,sea cow,dog,cat\n\nsea cow,0,6,5\ncat,2,1,0\ndog,4,.0,+3.\n,,,\n",
        GOOD.replace("cat", "n1").replace("dog", "N2"),
    ],
)
def test_a_matrix_is_read_by_its_names(tmp_path: Path, text: str | bytes) -> None:
    assert read(tmp_path, text) == ((0, 1, 2), (3, 0, 4), (5, 6, 0))


def test_a_column_unsure_is_the_last(tmp_path: Path) -> None:
    text = "true,cat,Unsure,dog,sea cow\ncat,0,.5,1,2\ndog,3,.6,0,4\nsea cow,5,.7,6,0\n"
    assert read(tmp_path, text) == ((0, 1, 2, 0.5), (3, 0, 4, 0.6), (5, 6, 0, 0.7))
    # A class that is called so is one.
    named = ModelSpec("mobilenet_v2", 1.0, ("cat", "unsure"))
    assert read(tmp_path, "true,cat,unsure\ncat,0,1\nunsure,2,0\n", named) == ((0, 1), (2, 0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no cost matrix"),
        ("cat\n", "is no cost matrix"),
        (GOOD.replace(",", ";"), "separated by semicolons: take commas"),
        (GOOD.replace(",", "\t"), "separated by tabs: take commas"),
        (GOOD.replace("dog,3", "wolf,3"), "1 of 3 classes fit no output"),
        (GOOD.replace("dog,3,0,4\n", ""), "has no row for dog: add what it costs"),
        ("true,cat,dog\ncat,0,1\ndog,3,0\nsea cow,5,6\n", "has no column for sea cow"),
        (GOOD + "cat,0,1,2\n", "two rows are called cat"),
        (GOOD.replace("true,cat,dog", "true,cat,cat"), "two columns are called cat"),
        (GOOD + "Cat,0,1,2\n", "both come to output 0"),
        (GOOD.replace("dog,3", ",3"), "a row has no name"),
        (GOOD.replace("3,0,4", "3,0"), "line 3 has 3 cells, and line 1 has 4"),
        (GOOD.replace("3,0,4", "3,0,4,5"), "line 3 has 5 cells, and line 1 has 4"),
        (GOOD.replace("3,0,4", "3,0,"), "line 3 has an empty cell"),
        (GOOD.replace("3,0,4", "3,0,-4"), "line 3: '-4' is no cost"),
        (GOOD.replace("3,0,4", "3,0,nan"), "line 3: 'nan' is no cost"),
        (GOOD.replace("3,0,4", "3,0,inf"), "line 3: 'inf' is no cost"),
        (GOOD.replace("3,0,4", "3,0,1e99"), "line 3: '1e99' is no cost"),
        (GOOD.replace("3,0,4", "3,0,1_0"), "line 3: '1_0' is no cost"),
        (GOOD.replace("3,0,4", '3,0,"1,5"'), "line 3: '1,5' is no cost"),
        (GOOD.replace("3,0,4", "3,9,4"), "line 3: the right answer costs 9 and another 3"),
        (
            "true,cat,dog,sea cow,unsure\ncat,1,1,2,0\ndog,3,0,4,1\nsea cow,5,6,0,1\n",
            "line 2: the right answer costs 1",
        ),
        ("true,cat,dog,sea cow,unsure,unsure\n" + GOOD[GOOD.index("cat,0") :], "two columns unsure"),
        ('true,"cat,dog\n', "line 1 is not CSV"),
        (b"true,c\xe4t\n", "not UTF-8 text"),
    ],
)
def test_what_is_no_matrix_is_refused_by_name(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        read(tmp_path, text)
    assert "costs.csv" in str(raised.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the costs: No such file"):
        read_costs(tmp_path / "none.csv", SPEC)
    with pytest.raises(UsageError, match="cannot read the costs"):
        read_costs(tmp_path, SPEC)
    with pytest.raises(UsageError, match=r"up to 256 classes, and .* has 1,000"):
        read(tmp_path, GOOD, ModelSpec("mobilenet_v2", 1.0, tuple(map(str, range(1000)))))


names = st.lists(
    st.text(st.characters(exclude_categories=("C", "Z"), exclude_characters="_-"), min_size=1, max_size=8),
    min_size=1,
    max_size=5,
    unique_by=lambda name: name.casefold(),
).filter(lambda found: not any(name.isdigit() or name.casefold() == "unsure" for name in found))


@given(names, st.booleans(), st.integers(0, 2**32))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
def test_any_matrix_is_read_back_in_any_order(tmp_path: Path, labels: list[str], unsure: bool, seed: int) -> None:
    spec = ModelSpec("mobilenet_v2", 1.0, tuple(labels))
    dice = random.Random(seed)
    count = len(labels)
    costs = [[dice.choice([0.5, 1.25, 3e5, 7.0]) for _ in range(count + unsure)] for _ in range(count)]
    for index, row in enumerate(costs):
        row[index] = 0.25
    answers = [*labels, *(["unsure"] if unsure else [])]
    columns, rows = dice.sample(range(len(answers)), len(answers)), dice.sample(range(count), count)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["", *(answers[k] for k in columns)])
    writer.writerows([[labels[i], *(costs[i][k] for k in columns)] for i in rows])
    assume(len({" ".join(nfc(name).casefold().split()) for name in labels}) == count)  # what is compared alike
    assert read(tmp_path, text.getvalue(), spec) == tuple(map(tuple, costs))


@given(st.text(alphabet='cat,dog0123456789.-\n"; eE_', max_size=80))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
def test_any_text_is_a_matrix_or_refused(tmp_path: Path, text: str) -> None:
    spec = ModelSpec("mobilenet_v2", 1.0, ("cat", "dog"))
    with contextlib.suppress(UsageError):
        assert [len(row) for row in read(tmp_path, text, spec)] in ([2, 2], [3, 3])


def rule(**asked: object) -> Rule | None:
    return read_rule(SPEC, **{"precision": None, "threshold": None, "costs": None, **asked})  # type: ignore[arg-type]


def test_classes_are_named_as_in_datasets() -> None:
    assert rule() is None
    assert rule(precision={"Cat": 0.9}, threshold={"n2": 0.3}) == Rule(LABELS, {1: 0.3}, {0: 0.9})


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"precision": {"cat": 0.9}, "costs": "costs.csv"}, "--costs decides by itself"),
        ({"precision": {"wolf": 0.9}}, "--precision: 1 of 1 classes fit no output"),
        ({"threshold": {"cat": 0.5, "CAT": 0.6}}, "--threshold: .* both come to output 0"),
        ({"threshold": {"cat": 0.5}, "precision": {"cat": 0.6}}, "cat has --precision and --threshold"),
        ({"threshold": {"cat": 0.0}}, "threshold of cat must be between 0 and 1"),
        ({"threshold": {"cat": 1.0}}, "threshold of cat must be between 0 and 1"),
        ({"precision": {"cat": float("nan")}}, "precision of cat must be between 0 and 1"),
    ],
)
def test_what_cannot_be_asked_is_refused(asked: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        rule(**asked)
