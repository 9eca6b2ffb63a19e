from __future__ import annotations

import unicodedata
from collections.abc import Callable

import pytest

from fusiform.data.open import bind_classes
from fusiform.errors import UsageError
from fusiform.spec import ModelSpec

SmallSpec = Callable[..., ModelSpec]
LABELS = ("tench", "great white shark", "crane", "Egyptian cat", "crane")
IDS = ("n01440764", "n01484850", "n02012849", "n02124075", "n03126707")


@pytest.fixture
def spec(small_spec: SmallSpec) -> ModelSpec:
    return small_spec("mobilenet_v2").replace(labels=LABELS, label_ids=IDS)


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (("Egyptian cat", "tench"), (3, 0)),
        (("egyptian_cat", "Great-White  Shark"), (3, 1)),
        (("n02124075", "N01440764"), (3, 0)),
        (("3", "0", "04"), (3, 0, 4)),
        (("tench", "n02012849", "1"), (0, 2, 1)),
        ((), ()),
    ],
)
def test_a_class_goes_by_name_then_id_then_index(
    spec: ModelSpec, classes: tuple[str, ...], expected: tuple[int, ...]
) -> None:
    assert bind_classes(classes, spec) == expected


def test_an_exact_name_comes_before_a_similar_one_and_unicode_forms_are_one(small_spec: SmallSpec) -> None:
    spec = small_spec("mobilenet_v2").replace(labels=("polish", "Polish", unicodedata.normalize("NFD", "고양이")))
    assert bind_classes(["Polish", "polish", unicodedata.normalize("NFC", "고양이")], spec) == (1, 0, 2)
    with pytest.raises(UsageError, match=r"2 outputs of mobilenet_v2_x0_5 bear that name \(0, 1\).*index"):
        bind_classes(["POLISH"], spec)


def test_the_digits_of_a_digit_model_are_names(small_spec: SmallSpec) -> None:
    spec = small_spec("mobilenet_v2").replace(labels=("1", "10", "2", "3"))
    assert bind_classes(["1", "2", "3", "10"], spec) == (0, 2, 3, 1)
    with pytest.raises(UsageError, match="1 of 2 classes fit no output"):
        bind_classes(["1", "0"], spec)


def test_what_fits_nothing_is_named_with_what_comes_close(spec: ModelSpec) -> None:
    with pytest.raises(UsageError, match=r"2 of 3 classes .*'tensh' \(close: tench\), '5'"):
        bind_classes(["tensh", "5", "n02124075"], spec)
    with pytest.raises(UsageError, match=r"6 of 6 .* and 1 more"):
        bind_classes([f"q{k}" for k in range(6)], spec)
    with pytest.raises(UsageError, match="fit no output"):
        bind_classes(["²", "9" * 5000], spec)


def test_a_name_of_two_outputs_and_two_names_of_one_output_are_refused(spec: ModelSpec) -> None:
    with pytest.raises(UsageError, match=r"'crane': 2 outputs .*\(2, 4\): call the class by its id or index"):
        bind_classes(["crane"], spec)
    with pytest.raises(UsageError, match="'tench' and 'n01440764' both come to output 0"):
        bind_classes(["tench", "n01440764"], spec)
