from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from fusiform.errors import UsageError
from fusiform.spec import ModelSpec
from fusiform.tasks.classification import Classification, Guess, decode, likeliest, read_labels, relabel, softmax

finite = st.floats(-(2.0**99), 2.0**99, width=32)
batches = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=finite)


def spec(classes: int, output: str = "logits") -> ModelSpec:
    labels = tuple(f"class {i}" for i in range(classes))
    return ModelSpec("mobilenet_v2", 1.0, labels, output=output)  # type: ignore[arg-type]


@given(batches)
def test_softmax_gives_probabilities_in_the_order_of_the_logits(logits: np.ndarray) -> None:
    probabilities = softmax(logits)
    assert np.allclose(probabilities.sum(axis=1), 1)
    for row, row_probabilities in zip(logits, probabilities, strict=True):
        assert (np.diff(row_probabilities[np.argsort(row, kind="stable")]) >= 0).all()


def test_softmax_of_known_logits() -> None:
    assert softmax(np.log(np.float32([[1, 2, 5]]))) == pytest.approx(np.array([[0.125, 0.25, 0.625]]))


@given(batches, st.integers(1, 20))
def test_decode_is_a_stable_sort_by_value(logits: np.ndarray, top: int) -> None:
    classes = logits.shape[1]
    answers = decode(logits, spec(classes), top)
    assert len(answers) == len(logits)
    for row, guesses in zip(logits, answers, strict=True):
        expected = sorted(range(classes), key=lambda i: (-row[i], i))[:top]
        assert [guess.index for guess in guesses] == expected
        assert [guess.name for guess in guesses] == [f"class {i}" for i in expected]
        Classification("a.jpg", guesses)  # does not raise: likeliest first


@given(arrays(np.int8, (1, 30), elements=st.integers(-3, 3)), st.integers(1, 30))
def test_equal_values_come_in_the_order_of_their_index(values: np.ndarray, top: int) -> None:
    indices = [guess.index for guess in decode(values.astype(np.float32), spec(30), top)[0]]
    assert indices == sorted(range(30), key=lambda i: (-int(values[0, i]), i))[:top]


def test_probabilities_are_taken_as_they_are() -> None:
    (guesses,) = decode(np.float32([[0.25, 0.75]]), spec(2, "probabilities"), 1)
    assert guesses == (Guess(1, "class 1", 0.75),)


# Few values make ties, and some lie where a quantised softmax steps over 1.
probable = st.sampled_from([0.0, -0.0, 1e-45, 0.125, 0.25, 1.0, 1.00390625]) | st.floats(0, 1.0078125, width=32)


@given(arrays(np.float32, st.integers(1, 60), elements=probable), st.integers(1, 70))
def test_plain_numbers_are_named_as_arrays_are(values: np.ndarray, top: int) -> None:
    of = spec(len(values), "probabilities")
    (wanted,) = decode(values[None], of, top)
    found = likeliest(values.tolist(), of, top)
    assert found == wanted
    assert [np.float64(guess.probability).tobytes() for guess in found] == [
        np.float64(guess.probability).tobytes() for guess in wanted
    ]


def refusal(name: Callable[[], object]) -> str:
    """What is said of numbers that are no probabilities, without them: those of float32 have fewer digits."""
    try:
        name()
    except ValueError as error:
        return str(error).partition(" from ")[0]
    return ""


@given(arrays(np.float32, 3, elements=st.floats(-1, 2, width=32) | st.sampled_from([np.nan, np.inf, -np.inf])))
def test_plain_numbers_are_refused_as_arrays_are(values: np.ndarray) -> None:
    of = spec(3, "probabilities")
    assert refusal(lambda: likeliest(values.tolist(), of)) == refusal(lambda: decode(values[None], of))


@pytest.mark.parametrize(
    ("values", "output", "message"),
    [
        (np.zeros((1, 3), np.float32), "logits", "not (pictures, 2 classes)"),
        (np.zeros(2, np.float32), "logits", "shape (2,)"),
        (np.float32([[0, np.nan]]), "logits", "not finite"),
        (np.float32([[0, np.inf]]), "probabilities", "not finite"),
        (np.float32([[-3, 4]]), "probabilities", "probabilities reach from -3.0 to 4.0"),
    ],
)
def test_answers_that_do_not_fit_the_spec_are_refused(values: np.ndarray, output: str, message: str) -> None:
    with pytest.raises(ValueError, match="mobilenet_v2_x1_0") as caught:
        decode(values, spec(2, output))
    assert message in str(caught.value)


def test_top_must_be_positive() -> None:
    with pytest.raises(ValueError, match="top must be at least 1"):
        decode(np.zeros((1, 2), np.float32), spec(2), 0)
    with pytest.raises(ValueError, match="top must be at least 1"):
        likeliest([0.5, 0.5], spec(2, "probabilities"), 0)
    with pytest.raises(ValueError, match="3 values, not 2 classes"):
        likeliest([0.5, 0.5, 0.0], spec(2, "probabilities"))


def test_no_pictures_give_no_answers() -> None:
    assert decode(np.zeros((0, 2), np.float32), spec(2)) == []


def test_results_are_validated() -> None:
    with pytest.raises(ValueError, match="likeliest first"):
        Classification("a.jpg", (Guess(0, "a", 0.1), Guess(1, "b", 0.9)))
    with pytest.raises(ValueError, match="likeliest first"):
        Classification("a.jpg", ())
    with pytest.raises(ValueError, match="probability in"):
        Guess(0, "a", float("nan"))


def test_labels_are_read_whatever_the_line_endings(tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_bytes("\ufeffHündin\r\n 猫, ねこ \r\n\r\n".encode())
    assert read_labels(file) == ("Hündin", "猫, ねこ")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"dog\n\ncat\n", "line 2 is empty"), (b"", "line 1 is empty"), (b"\xff\xfe\x00dog", "not UTF-8")],
)
def test_bad_label_files_are_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "labels.txt"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=r"labels\.txt") as caught:
        read_labels(file)
    assert message in str(caught.value)


def test_a_missing_label_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.txt: cannot read the labels"):
        read_labels(tmp_path / "absent.txt")


def test_relabel_wants_one_name_for_each_class() -> None:
    named = spec(2).replace(label_ids=("n1", "n2"))
    assert relabel(named, ("Hund", "Katze")).labels == ("Hund", "Katze")
    with pytest.raises(UsageError, match="1 labels for the 2 classes"):
        relabel(named, ("Hund",))
