from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusiform.data.dataset import DataSet, Sample, Split
from fusiform.data.split import split_dataset
from fusiform.errors import UsageError


def dataset(counts: list[int], *, split: Split = "all", root: str = "/data") -> DataSet:
    samples = [Sample(Path(root, f"c{c}", f"{k}.jpg"), c) for c, count in enumerate(counts) for k in range(count)]
    return DataSet(Path(root), tuple(f"c{c}" for c in range(len(counts))), {split: tuple(samples)})


def names(found: DataSet, split: Split) -> list[str]:
    return [found.locate(sample) for sample in found.splits.get(split, ())]


counts = st.lists(st.integers(1, 40), min_size=1, max_size=5)
fractions = st.floats(0.01, 0.95)


@given(counts, fractions, st.integers(0, 2**40))
def test_nothing_is_lost_or_doubled_and_each_class_is_split_within_one(
    counts: list[int], fraction: float, seed: int
) -> None:
    whole = dataset(counts)
    parts = split_dataset(whole, fraction=fraction, seed=seed)
    assert sorted(names(parts, "train") + names(parts, "val")) == sorted(names(whole, "all"))
    assert set(parts.splits) <= {"train", "val"}
    held = Counter(sample.label for sample in parts.splits.get("val", ()))
    for label, count in enumerate(counts):
        assert held[label] < count  # one stays in train
        assert abs(held[label] - fraction * count) <= 1
        assert held[label] >= 1 or count == 1


@given(counts, fractions, st.data())
def test_groups_stay_together_whatever_classes_they_span(
    counts: list[int], fraction: float, data: st.DataObject
) -> None:
    whole = dataset(counts)
    samples = whole.splits["all"]
    groups = [
        [samples[i] for i in indices]
        for indices in data.draw(st.lists(st.lists(st.integers(0, len(samples) - 1), max_size=12), max_size=6))
    ]
    parts = split_dataset(whole, fraction=fraction, groups=groups)
    train, val = set(parts.splits["train"]), set(parts.splits.get("val", ()))
    assert train | val == set(samples)
    assert not train & val
    assert all(not train & set(group) or not val & set(group) for group in groups)
    assert {sample.label for sample in train} == set(range(len(counts)))
    held = Counter(sample.label for sample in val)
    assert all(held[c] <= max(fraction * count + 1, count / 2) for c, count in enumerate(counts))


def test_the_choice_hangs_on_seed_and_names_alone() -> None:
    here = split_dataset(dataset([30, 10], root="/here"), seed=3)
    backwards = dataset([30, 10], root="elsewhere/deep")
    backwards = DataSet(backwards.source, backwards.classes, {"all": backwards.splits["all"][::-1]})
    assert sorted(names(split_dataset(backwards, seed=3), "val")) == sorted(names(here, "val"))
    # Written down once: SHA-256 of seed and name orders them the same on every machine.
    golden = ["c0/5.jpg", "c0/10.jpg", "c0/18.jpg", "c1/9.jpg"]
    assert names(here, "val") == golden
    assert names(split_dataset(dataset([30, 10]), seed=4), "val") != golden
    assert here.notes == ("4 of 40 pictures are held out for validation (seed 3)",)


def test_train_is_split_where_val_is_missing_and_test_is_left_alone() -> None:
    train = dataset([20], split="train")
    both = DataSet(train.source, train.classes, {**train.splits, "test": (Sample(Path("/data/t.jpg"), 0),)})
    parts = split_dataset(both, fraction=0.25)
    assert {split: len(samples) for split, samples in parts.splits.items()} == {"train": 15, "val": 5, "test": 1}
    assert parts.splits["test"] == both.splits["test"]
    # In the order they had.
    assert names(parts, "train") == [name for name in names(train, "train") if name in names(parts, "train")]


def test_a_split_of_its_own_is_left_as_it_is() -> None:
    whole = dataset([20], split="train")
    own = DataSet(whole.source, whole.classes, {**whole.splits, "val": (Sample(Path("/data/v.jpg"), 0),)})
    assert split_dataset(own, fraction=0.5) is own
    only_test = dataset([20], split="test")
    assert split_dataset(only_test) is only_test


def test_a_fraction_of_nothing_holds_nothing_out() -> None:
    parts = split_dataset(dataset([5]), fraction=0)
    assert set(parts.splits) == {"train"}
    assert parts.notes == ()


def test_the_smallest_classes_are_told() -> None:
    parts = split_dataset(dataset([1, 2, 10]))
    assert Counter(sample.label for sample in parts.splits["val"]) == {1: 1, 2: 1}
    assert parts.notes[1:] == ("held out nothing of classes with one picture, which stays in train: c0",)
    whole = dataset([4, 10])
    parts = split_dataset(whole, groups=[whole.splits["all"][:4]])
    assert {sample.label for sample in parts.splits["val"]} == {1}
    assert "near copies of each other and stay in train: c0" in parts.notes[1]


def test_of_a_class_of_large_groups_the_smallest_is_held_out() -> None:
    whole = dataset([12])
    samples = whole.splits["all"]
    parts = split_dataset(whole, fraction=0.1, groups=[samples[:7], samples[7:]])
    assert parts.splits["val"] == samples[7:]


def test_a_file_that_a_list_names_twice_goes_to_one_side() -> None:
    twice = [Sample(Path(f"/data/{k}.jpg"), label) for k in range(10) for label in (0, 1)]
    whole = DataSet(Path("/data/list.csv"), ("a", "b"), {"all": tuple(twice)})
    parts = split_dataset(whole, fraction=0.3)
    train, val = ({sample.file for sample in parts.splits[split]} for split in ("train", "val"))
    assert len(train) == 7
    assert len(val) == 3
    assert not train & val


@pytest.mark.parametrize("fraction", [-0.1, 1, 1.5, math.nan])
def test_an_impossible_fraction_is_refused(fraction: float) -> None:
    with pytest.raises(UsageError, match="fraction"):
        split_dataset(dataset([5]), fraction=fraction)
