"""What a description says of how sure its answers are: thresholds by hand, and what is refused."""

from __future__ import annotations

import base64
import dataclasses
import itertools
import json
from typing import Any

import pytest

from fusiform.certainty import Certainty, Part, Sets, Table, Unknown, kept_ranks
from fusiform.errors import SpecError
from fusiform.spec import ModelSpec

LABELS = ("cat", "dog", "cow")
TABLE = Table(9, tuple(range(1, 10)), tuple(k / 10 for k in range(1, 10)))
SETS = Sets("lac", TABLE, 0.8)


def encoded(size: int) -> str:
    return base64.b64encode(bytes(size)).decode("ascii")


def unknown(**changes: Any) -> Unknown:
    """A detector of two dimensions for MobileNetV2's 1280 features."""
    fields: dict[str, Any] = {
        "parts": (Part("energy", 1.5), Part("residual", 0.5)),
        "table": TABLE,
        "features": 1280,
        "classes": 3,
        "dimensions": 2,
        "centre": encoded(2560),
        "projection": encoded(2560),
        "scales": encoded(8),
        "head": encoded(18),
    }
    return Unknown(**(fields | changes))


def spec(certainty: Certainty | None) -> ModelSpec:
    return ModelSpec("mobilenet_v2", 1.0, LABELS, certainty=certainty)


def test_thresholds_are_the_order_statistics_of_the_literature() -> None:
    # ceil(10 * 0.8) = 8 of 9 scores; 0.9 takes all nine, and more than that takes more images.
    assert [TABLE.threshold(share) for share in (0.05, 0.8, 0.81, 0.9, 0.91)] == [0.1, 0.8, 0.9, 0.9, None]
    assert TABLE.most == 0.9


def test_p_values_count_the_new_image_itself() -> None:
    # (1 + the scores as large) / 10
    assert [TABLE.p_value(score) for score in (0.0, 0.1, 0.15, 0.9, 1.0)] == [1.0, 1.0, 0.9, 0.2, 0.1]


def test_a_table_with_gaps_keeps_its_promises_for_rather_more() -> None:
    thin = Table(9, (2, 5, 9), (0.2, 0.5, 0.9))
    assert [thin.threshold(share) for share in (0.1, 0.5, 0.51)] == [0.2, 0.5, 0.9]
    for score in (0.1, 0.2, 0.3, 0.6, 0.95):
        assert thin.p_value(score) >= TABLE.p_value(score)


@pytest.mark.parametrize("count", [1, 2, 30, 420, 5000])
def test_kept_ranks_are_dense_where_promises_are_large(count: int) -> None:
    ranks = kept_ranks(count)
    assert ranks[-1] == count
    assert ranks == sorted(set(ranks))
    assert ranks[-min(count, 30) :] == list(range(count + 1 - min(count, 30), count + 1))
    above = [count + 1 - rank for rank in ranks]
    assert all(far <= near * 1.03 + 1 for far, near in itertools.pairwise(above))


def test_a_description_brings_it_back_and_is_unchanged_without() -> None:
    bare = spec(None)
    assert "certainty" not in json.loads(bare.to_json())
    full = spec(Certainty(SETS, unknown(), 9, "photos (val)"))
    assert ModelSpec.from_json(full.to_json()) == full
    only_sets = spec(Certainty(dataclasses.replace(SETS, classes=(TABLE,) * 3), None, 9, "photos"))
    assert ModelSpec.from_json(only_sets.to_json()) == only_sets
    assert full.replace(certainty=None) == bare


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 0}, "count must be 1 to"),
        ({"count": 10**9}, "count must be 1 to"),
        ({"ranks": (1, 2), "values": (0.1,)}, "as many ranks as values"),
        ({"ranks": tuple(range(1, 3001)), "values": (0.0,) * 3000, "count": 3000}, "up to 2,000"),
        ({"ranks": (1, 1, 9), "values": (0.1, 0.2, 0.3)}, "must rise"),
        ({"ranks": (0, 2, 9), "values": (0.1, 0.2, 0.3)}, "must rise"),
        ({"ranks": (1, 2, 8), "values": (0.1, 0.2, 0.3)}, "to its count, 9"),
        ({"values": (0.1, float("nan"), *(1.0,) * 7)}, "must be numbers"),
        ({"values": (*(0.5,) * 8, float("inf"))}, "must be numbers"),
        ({"values": (0.9, *(0.5,) * 8)}, "values of a table must rise"),
    ],
)
def test_a_table_that_is_none_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        dataclasses.replace(TABLE, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parts": ()}, "one part or more"),
        ({"parts": (Part("knn", 1.0), Part("knn", 1.0))}, "each of another evidence"),
        ({"features": 10**9}, "features and classes must be"),
        ({"dimensions": 0}, "dimensions must be 1 to 256"),
        ({"dimensions": 10**6}, "dimensions must be 1 to 256"),
        ({"centre": encoded(2558)}, "centre must be the base64 of 2,560 bytes"),
        ({"projection": ""}, "projection must be the base64 of 2,560 bytes"),
        ({"means": encoded(12)}, "means must be the base64 of 0 bytes"),
        ({"points": encoded(60_000)}, "at most 10,000 points"),
        ({"projection": "A" * (1 << 23)}, "at most 4,194,304 characters"),
        ({"auroc": 1.5}, "auroc must be 0 to 1"),
    ],
)
def test_a_detector_that_is_none_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        unknown(**changes)


def test_what_does_not_fit_the_network_is_refused() -> None:
    with pytest.raises(SpecError, match="a detector for 2 classes and 1280 features, and the network has 3 and 1280"):
        spec(Certainty(SETS, unknown(classes=2, head=encoded(12)), 9, "photos"))
    with pytest.raises(SpecError, match="tables of 2 classes for a network of 3"):
        spec(Certainty(dataclasses.replace(SETS, classes=(TABLE,) * 2), None, 9, "photos"))
    with pytest.raises(SpecError, match="certainty is for classification"):
        ModelSpec("mobilenet_v2", 1.0, LABELS, task="detection", certainty=Certainty(SETS, None, 9, "photos"))
    with pytest.raises(SpecError, match="coverage must be between 0 and 1"):
        dataclasses.replace(SETS, coverage=1.0)
    with pytest.raises(SpecError, match="weight must be above 0"):
        Part("energy", float("nan"))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("sets",), 3, "certainty"),
        (("sets", "score"), "best", "'lac', 'aps', 'raps'"),
        (("sets", "table", "values"), "123456789", "values"),
        (("unknown", "parts", 0, "evidence"), "luck", "evidence"),
        (("unknown", "centre"), None, "centre"),
        (("more",), 1, "unknown field"),
        (("images",), 10**12, "images must be"),
    ],
)
def test_hostile_json_is_refused_by_name(place: tuple[str | int, ...], value: Any, message: str) -> None:
    fields = json.loads(spec(Certainty(SETS, unknown(), 9, "photos")).to_json())
    *way, last = ("certainty", *place)
    inside: Any = fields
    for step in way:
        inside = inside[step]
    inside[last] = value
    with pytest.raises(SpecError, match=message):
        ModelSpec.from_json(json.dumps(fields), source="model.tflite")


def test_a_share_that_takes_more_images_is_refused() -> None:
    certainty = Certainty(SETS, None, 9, "photos")
    assert certainty.check_share(None) == 0.8
    assert certainty.check_share(0.9) == 0.9
    for share in (0.91, 0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"at most 0\.9"):
            certainty.check_share(share)
