"""The search's decisions and advice, by made-up measurements."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusiform.errors import FusiformError
from fusiform.exporting.targets.base import Precision
from fusiform.selection.advice import advice, impossible
from fusiform.selection.budget import Budget, Candidate, Plan, Shipped, Training, fitting
from fusiform.selection.journal import Journal
from fusiform.selection.latency import SIZES, plans
from fusiform.selection.search import promising, rungs, search

MOBILE, SHUFFLE, SMALL_SHUFFLE, CUT = (
    Plan("mobilenet_v2", 1.0, 224),
    Plan("shufflenet_v2", 1.0, 224),
    Plan("shufflenet_v2", 1.0, 192),
    Plan("mobilenet_v2", 0.35, 224),
)


def candidate(of: Plan, precision: Precision, ms: float, megabytes: float) -> Candidate:
    return Candidate(of, precision, (ms, ms, ms), megabytes, round(1e8 * of.width * (of.size / 224) ** 2))


CANDIDATES = [
    candidate(MOBILE, "float32", 12.0, 9.0),
    candidate(MOBILE, "int8", 4.0, 2.5),
    candidate(SHUFFLE, "float32", 5.0, 5.0),
    candidate(SHUFFLE, "int8", 1.9, 1.3),
    candidate(SMALL_SHUFFLE, "int8", 1.4, 1.3),
    candidate(CUT, "int8", 1.2, 0.6),
]


class Made:
    """Steps that take no time: accuracies by plan, latencies by plan and precision where they differ from before."""

    def __init__(
        self,
        accuracy: Mapping[Plan, float],
        *,
        ms: Mapping[tuple[Plan, Precision], float] | None = None,
        fails: tuple[tuple[Plan, Precision], ...] = (),
        drop: float = 0.0,
    ) -> None:
        self.accuracy, self.ms, self.fails, self.drop = accuracy, ms or {}, fails, drop
        self.trained: list[tuple[Plan, int, Plan | None]] = []
        self.time = 0.0

    def train(self, plan: Plan, epochs: int, teacher: Training | None) -> Training:
        self.trained.append((plan, epochs, teacher and teacher.plan))
        self.time += 10 * epochs
        return Training(plan, epochs, teacher is not None, self.accuracy[plan], 1.0, 10.0 * epochs, Path("run"))

    def ship(self, training: Training, precision: Precision) -> Shipped:
        if (training.plan, precision) in self.fails:
            raise FusiformError("does not give the same answers")
        before = next(c for c in CANDIDATES if (c.plan, c.precision) == (training.plan, precision))
        ms = self.ms.get((training.plan, precision), before.ms)
        top1 = training.val_top1 - (self.drop if precision == "int8" else 0)
        return Shipped(training, precision, Path("file.tflite"), (ms,) * 5, before.megabytes, top1)


def run(made: Made, budget: Budget, **settings: Any) -> Shipped:
    return search(CANDIDATES, budget, made, margin=0.05, epochs=(4, 50), clock=lambda: made.time, **settings)


def test_all_are_tried_shortly_and_the_better_half_in_full() -> None:
    made = Made({MOBILE: 0.92, SHUFFLE: 0.93, SMALL_SHUFFLE: 0.90, CUT: 0.5})
    best = run(made, Budget(max_ms=20, max_mb=20))
    assert sorted(made.trained[:4], key=str) == sorted(
        [(MOBILE, 1, None), (SHUFFLE, 1, None), (SMALL_SHUFFLE, 1, None), (CUT, 1, None)], key=str
    )
    assert made.trained[4:] == [(SHUFFLE, 4, None), (MOBILE, 4, None)]
    assert (best.training.plan, best.precision) == (SHUFFLE, "int8")


def test_of_files_that_are_equally_good_the_faster_one_is_taken_and_else_the_better() -> None:
    accuracy = {MOBILE: 0.80, SHUFFLE: 0.93, SMALL_SHUFFLE: 0.90, CUT: 0.5}
    close = run(Made(accuracy, drop=0.004), Budget(max_ms=20))
    assert close.precision == "int8"
    apart = run(Made(accuracy, drop=0.03), Budget(max_ms=20))
    assert (apart.training.plan, apart.precision) == (SHUFFLE, "float32")


def test_what_does_not_fit_is_neither_trained_nor_exported() -> None:
    made = Made({SHUFFLE: 0.93, SMALL_SHUFFLE: 0.90, CUT: 0.5})
    best = run(made, Budget(max_ms=2, max_mb=2))
    assert MOBILE not in {tried for tried, _, _ in made.trained}
    assert best.precision == "int8"
    assert best.holds(Budget(max_ms=2, max_mb=2))


def test_a_file_that_is_too_slow_when_measured_again_gives_way_to_the_next() -> None:
    accuracy = {SHUFFLE: 0.93, SMALL_SHUFFLE: 0.90, CUT: 0.95}
    made = Made(accuracy, ms={(SHUFFLE, "int8"): 2.1})
    best = run(made, Budget(max_ms=2, max_mb=2), trials=2)
    assert best.training.plan == SMALL_SHUFFLE
    # Both finalists fail: what lost the race is trained in full, and taken.
    made = Made({**accuracy, CUT: 0.2}, ms={(SHUFFLE, "int8"): 2.1, (SMALL_SHUFFLE, "int8"): 2.2})
    best = run(made, Budget(max_ms=2, max_mb=2))
    assert best.training == Training(CUT, 50, True, 0.2, 1.0, 500.0, Path("run"))


def test_a_file_that_fails_its_verification_gives_way_to_the_next() -> None:
    made = Made({SHUFFLE: 0.93, SMALL_SHUFFLE: 0.90}, fails=((SHUFFLE, "int8"),))
    assert run(made, Budget(max_ms=2, max_mb=2), trials=2).training.plan == SMALL_SHUFFLE
    made = Made({SHUFFLE: 0.93, SMALL_SHUFFLE: 0.90}, fails=((SHUFFLE, "int8"), (SMALL_SHUFFLE, "int8")))
    with pytest.raises(FusiformError, match="no file passed"):
        run(made, Budget(max_ms=2, max_mb=2), trials=2)


def test_nothing_that_holds_names_the_nearest() -> None:
    made = Made({CUT: 0.9, MOBILE: 0.9}, ms={(CUT, "int8"): 1.5})
    with pytest.raises(FusiformError, match=r"nothing holds 1\.3 ms and 1 MB .*\(1\.5 ms.*--resume"):
        run(made, Budget(max_ms=1.3, max_mb=1))


def test_a_network_without_weights_of_its_own_is_taught_by_a_wide_one() -> None:
    made = Made({CUT: 0.85, MOBILE: 0.93})
    best = run(made, Budget(max_mb=1))
    # Nothing wide was in the race, so a teacher is trained, although it does not fit itself.
    assert made.trained == [(MOBILE, 4, None), (CUT, 50, MOBILE)]
    assert best.training.plan == CUT


def test_no_training_starts_that_would_end_too_late() -> None:
    accuracy = {MOBILE: 0.92, SHUFFLE: 0.93, SMALL_SHUFFLE: 0.90, CUT: 0.85}
    made = Made(accuracy)
    best = run(made, Budget(max_ms=20), until=0)  # not even one: the first is done all the same
    assert len(made.trained) == 1
    assert best.training.plan == made.trained[0][0]
    made = Made(accuracy)
    best = run(made, Budget(max_ms=20), until=45)
    assert {epochs for _, epochs, _ in made.trained} == {1}  # time for the race, not for a whole training
    assert best.training.plan == SHUFFLE
    made = Made(accuracy)
    best = run(made, Budget(max_mb=1), until=70)  # time for a teacher, not for learning from it: learns without it
    assert made.trained == [(MOBILE, 4, None), (CUT, 4, None)]
    assert best.training.plan == CUT


def test_finished_trainings_are_not_done_again() -> None:
    accuracy = {MOBILE: 0.92, SHUFFLE: 0.93, SMALL_SHUFFLE: 0.90, CUT: 0.5}
    journal = Journal()
    first = run(Made(accuracy), Budget(max_ms=20), journal=journal)
    again = Made(accuracy)
    assert run(again, Budget(max_ms=20), journal=Journal(list(journal.trainings))) == first
    assert again.trained == []
    # Another budget goes on from there: the finalists that fit it were trained in full before.
    tighter = run(again, Budget(max_ms=1.5, max_mb=2), journal=Journal(list(journal.trainings)))
    assert tighter.training.plan == SMALL_SHUFFLE
    assert again.trained == [(SMALL_SHUFFLE, 4, None)]


def test_the_journal_is_kept_after_every_step() -> None:
    kept: list[tuple[int, int]] = []
    journal = Journal()
    journal.keep = lambda: kept.append((len(journal.trainings), len(journal.shipped)))
    run(Made({SHUFFLE: 0.93, SMALL_SHUFFLE: 0.9}), Budget(max_ms=2, max_mb=2), trials=2, journal=journal)
    assert kept == [(1, 0), (2, 0), (2, 1), (2, 2)]


def test_an_impossible_budget_says_what_is_possible_and_trains_nothing() -> None:
    made = Made({})
    with pytest.raises(FusiformError) as raised:
        run(made, Budget(max_ms=0.2, max_mb=0.1))
    assert made.trained == []
    message = str(raised.value)
    assert "nothing is below 0.2 ms and 0.1 MB" in message
    assert "the fastest is mobilenet_v2_x0_35 at 224 px in int8 (1.2 ms, 0.6 MB)" in message
    assert "--max-ms 1.3 --max-mb 0.61 would do" in message  # 1.2 ms and 5 %, rounded up


@given(
    ms=st.floats(0.05, 20),
    megabytes=st.floats(0.05, 20),
    margin=st.floats(0.02, 0.2),
)
def test_the_budget_that_is_advised_is_enough(ms: float, megabytes: float, margin: float) -> None:
    budget = Budget(max_ms=ms, max_mb=megabytes)
    if fitting(CANDIDATES, budget, margin):
        return
    words = impossible(CANDIDATES, budget, margin).split()
    wider = Budget(float(words[words.index("--max-ms") + 1]), float(words[words.index("--max-mb") + 1]))
    assert fitting(CANDIDATES, wider, margin)
    assert wider.max_ms >= ms  # type: ignore[operator]
    assert wider.max_mb >= megabytes  # type: ignore[operator]


def test_advice_names_the_next_larger_network_or_says_that_there_is_none() -> None:
    # MobileNetV2 has as many multiply-adds here as ShuffleNetV2 at 224, so the smaller one is the one to ask for.
    text = advice(CANDIDATES, Budget(max_ms=1.5), 0.05, SMALL_SHUFFLE)
    assert "shufflenet_v2_x1_0 at 224 px in int8" in text
    assert "--max-ms 2 " in text
    assert "nothing larger" in advice(CANDIDATES, Budget(max_ms=20), 0.05, MOBILE)


def test_the_promising_ones_are_pretrained_then_large() -> None:
    measured = [
        dataclasses.replace(candidate(of, "int8", 1, 1), multiply_adds=round(3e8 * of.width * of.size**2))
        for of in plans(SIZES, scratch=True)
    ]
    chosen = promising(measured, 6)
    assert [(p.network, p.size) for p in chosen] == [
        ("mobilenet_v2_x1_0", 224),
        ("shufflenet_v2_x1_0", 224),
        ("mobilenet_v2_x1_0", 192),
        ("shufflenet_v2_x1_0", 192),
        ("mobilenet_v2_x0_75", 224),
        ("mobilenet_v2_x0_5", 224),
    ]
    assert {p.start for p in promising(measured, 1000)} == {"bundled", "cut", "random"}


@pytest.mark.parametrize(
    ("count", "epochs", "expected"),
    [(1, 4, []), (2, 4, []), (3, 4, [1]), (4, 4, [1]), (4, 40, [10]), (8, 40, [2, 10]), (5, 1, [1, 1]), (4, 0, [0])],
)
def test_the_rungs_grow_fourfold_until_the_whole(count: int, epochs: int, expected: list[int]) -> None:
    assert rungs(count, epochs) == expected
