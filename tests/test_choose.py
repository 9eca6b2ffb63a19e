"""The search for a model within a budget: its decisions by made-up measurements, its pieces, and one whole search."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip("torch")

from fusiform.choose import (
    SIZES,
    Budget,
    Candidate,
    ChooseEngine,
    Journal,
    Plan,
    Shipped,
    Training,
    advice,
    choose,
    fitting,
    impossible,
    measure,
    noise,
    plans,
    promising,
    recipe_for,
    rungs,
    search,
    stand_in,
)
from fusiform.engines.litert import LiteRTEngine
from fusiform.errors import FusiformError, UsageError
from fusiform.export.quantize import QuantizedNetwork
from fusiform.export.targets import Precision
from fusiform.graph.tflite import to_tflite
from fusiform.train.recipe import Recipe
from fusiform.train.recipes import distill_small, finetune_small
from fusiform.zoo.checkpoint import read_safetensors
from fusiform.zoo.model import open_model

LABELS = ("one", "two", "three")


def plan(network: str, width: float, size: int) -> Plan:
    return Plan("mobilenet_v2" if network == "mobile" else "shufflenet_v2", width, size)


MOBILE, SHUFFLE, SMALL_SHUFFLE, CUT = (
    plan("mobile", 1.0, 224),
    plan("shuffle", 1.0, 224),
    plan("shuffle", 1.0, 192),
    plan("mobile", 0.35, 224),
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


def run(made: Made, budget: Budget, **settings: object) -> Shipped:
    return search(CANDIDATES, budget, made, margin=0.05, epochs=(4, 50), clock=lambda: made.time, **settings)  # type: ignore[arg-type]


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


def test_one_slow_measurement_of_five_is_forgiven_and_two_are_not() -> None:
    training = Training(SHUFFLE, 4, False, 0.9, 1.0, 1.0, Path("run"))
    for slow, holds in ((1, True), (2, False)):
        checks = (1.9,) * (5 - slow) + (3.0,) * slow
        assert Shipped(training, "int8", Path("f"), checks, 1.0, 0.9).holds(Budget(max_ms=2)) is holds
    assert not Shipped(training, "int8", Path("f"), (1.0,) * 5, 2.01, 0.9).holds(Budget(max_mb=2))


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


def test_without_scratch_every_plan_has_weights_to_start_from() -> None:
    assert {p.network for p in plans(SIZES, scratch=False)} == {
        "mobilenet_v2_x0_35",
        "mobilenet_v2_x0_5",
        "mobilenet_v2_x0_75",
        "mobilenet_v2_x1_0",
        "shufflenet_v2_x1_0",
    }
    every = plans(SIZES, scratch=True)
    assert len(every) == len(set(every)) == 10 * len(SIZES)


@pytest.mark.parametrize(
    ("count", "epochs", "expected"),
    [(1, 4, []), (2, 4, []), (3, 4, [1]), (4, 4, [1]), (4, 40, [10]), (8, 40, [2, 10]), (5, 1, [1, 1]), (4, 0, [0])],
)
def test_the_rungs_grow_fourfold_until_the_whole(count: int, epochs: int, expected: list[int]) -> None:
    assert rungs(count, epochs) == expected


def test_noise_is_how_much_more_a_latency_may_be_when_measured_again() -> None:
    def passes(*times: float) -> Candidate:
        return Candidate(SHUFFLE, "int8", times, 1.0, 1)

    assert noise([passes(1.0, 1.0, 1.08)]) == pytest.approx(0.08)
    assert noise([passes(1.0, 1.0, 1.0)]) == 0.02
    assert noise([passes(1.0, 1.0, 9.0)]) == 0.2
    assert noise([*[passes(1.0, 1.0, 1.05)] * 10, passes(1.0, 1.0, 3.0)]) == pytest.approx(0.05)  # one in eleven


@pytest.mark.parametrize("plan", [plan("mobile", 0.35, 64), plan("shuffle", 0.5, 64)], ids=str)
def test_the_stand_in_has_the_size_and_operators_of_a_real_network(
    plan: Plan,
    small_spec: Callable[..., object],
    lived_in_state: Callable[..., object],
) -> None:
    import torch

    from fusiform.graph.build import build_graph

    spec = small_spec(plan.architecture, plan.width, size=64, classes=3)
    real = build_graph(spec, lived_in_state(spec))  # type: ignore[arg-type]
    quantised = QuantizedNetwork(real)
    quantised.calibrate([torch.randint(0, 256, (2, 3, 64, 64)).float()])
    for precision, graph in (("float32", real), ("int8", quantised.freeze())):
        made = stand_in(plan, spec.labels, precision)  # type: ignore[attr-defined, arg-type]
        assert [type(node) for node in made.nodes] == [type(node) for node in graph.nodes]
        assert made.shapes == graph.shapes
        file, expected = to_tflite(made), to_tflite(graph)
        assert abs(len(file) - len(expected)) < 0.01 * len(expected)
        if graph.quantization is not None:
            assert made.quantization is not None
            assert made.quantization.activations.keys() == graph.quantization.activations.keys()
        answer = LiteRTEngine(file, made.spec).run(np.full((1, 64, 64, 3), 90, np.uint8))["logits"]
        assert np.isfinite(answer).all()
        assert np.ptp(answer) > 0  # the picture reaches the answer: no layer stands still at zero


@pytest.mark.parametrize("engine", ["litert", "onnxruntime"])
def test_measuring_gives_every_plan_in_every_precision(engine: ChooseEngine) -> None:
    wanted = [plan("mobile", 0.35, 32), plan("shuffle", 0.5, 32)]
    measured = measure(wanted, LABELS, engine=engine, threads=1, seconds=0)
    assert [(c.plan, c.precision) for c in measured] == [(p, q) for p in wanted for q in ("float32", "int8")]
    for one in measured:
        assert len(one.passes) == 3
        assert min(one.passes) > 0
    for float32, int8 in zip(measured[::2], measured[1::2], strict=True):
        assert float32.multiply_adds == int8.multiply_adds
        assert 2.5 < float32.megabytes / int8.megabytes < 4  # a fourth of the weights' bytes, and the rest stays


def test_a_recipe_for_another_size_and_number_of_epochs() -> None:
    changed = recipe_for(finetune_small, SMALL_SHUFFLE, 2)
    assert (changed.size, changed.eval_size, changed.epochs) == (128, 192, 2)  # 144 * 192 / 224 = 123.4
    assert changed.warmup_epochs == pytest.approx(0.15)
    assert changed.batch_norm == "frozen"
    assert recipe_for(finetune_small, MOBILE, 4) == finetune_small
    cut = recipe_for(distill_small, plan("mobile", 0.35, 96), 2)
    assert cut.sizes == (48, 64)  # of 41, 54.9 and 68.6, the last two for two epochs
    assert cut.batch_norm == "train"
    assert recipe_for(finetune_small, plan("shuffle", 1.0, 32), 1).size == 32


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"max_ms": 0}, "max-ms"),
        ({"max_mb": -1}, "max-mb"),
        ({"max_ms": math.nan}, "max-ms"),
        ({"min_accuracy": 101}, "percent"),
    ],
)
def test_budgets_that_mean_nothing_are_refused(budget: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Budget(**budget)


SHAPES = ("circle", "cross", "square")


def make_shapes(folder: Path, count: int, *, seed: int) -> None:
    """Shapes of three kinds and colours on grey, a folder a class."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:40, :40]
    for k, name in enumerate(SHAPES):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            u, v = x - random.uniform(14, 26), y - random.uniform(14, 26)
            inside = [u**2 + v**2 < 100, (abs(u) < 4) | (abs(v) < 4), (abs(u) < 10) & (abs(v) < 10)][k]
            pixels = random.normal(110, 25, (5, 5, 3)).repeat(8, 0).repeat(8, 1)
            pixels[inside] = random.normal(40, 10, 3)
            pixels[inside, k] += 160
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / name / f"{i}.png")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    make_shapes(tmp_path / "data" / "train", 30, seed=1)
    make_shapes(tmp_path / "data" / "test", 12, seed=2)
    return tmp_path / "data"


@pytest.fixture
def quick() -> Recipe:
    return dataclasses.replace(
        finetune_small, epochs=1, batch=16, size=32, eval_size=32, head_epochs=30, val_fraction=0.3, precision="float32"
    )


@pytest.mark.slow
def test_a_whole_search_leaves_a_model_that_holds_the_budget_and_is_measured_on_test_pictures(
    data: Path, tmp_path: Path, quick: Recipe
) -> None:
    out = tmp_path / "out"
    budget = Budget(max_ms=100, max_mb=8.9, min_accuracy=40)
    said: list[str] = []
    choice = choose(data, out, budget=budget, sizes=(32,), trials=2, recipe=quick, say=said.append)
    assert choice.shortfall == ""
    assert choice.file == out / "model.tflite"
    assert choice.file.stat().st_size <= 8.9e6
    spec = open_model(choice.file).spec
    assert (spec.labels, spec.input_size) == (SHAPES, 32)
    figures = choice.report.figures
    assert (figures["split"], figures["pictures"]) == ("test", 36)
    assert 0.4 <= figures["top1_low"] <= figures["top1"] <= figures["top1_high"] <= 1  # type: ignore[operator]
    assert {path.name for path in out.iterdir()} == {
        "model.tflite",
        "choose.json",
        "candidates.png",
        "frontier.png",
        "runs",
    }
    journal = json.loads((out / "choose.json").read_text(encoding="utf-8"))
    assert len(journal["candidates"]) == 10
    assert all(c["fits"] == (c["megabytes"] * 1.01 <= 8.9) for c in journal["candidates"])
    assert {t["network"] for t in journal["trainings"]} == {"mobilenet_v2_x1_0", "shufflenet_v2_x1_0"}
    assert journal["chosen"]["top1"] == figures["top1"]
    held = [file for file in journal["files"] if file["holds"]]
    assert max(file["val_top1"] for file in held) - 0.005 < next(
        file["val_top1"] for file in held if file["ms"] == pytest.approx(figures["ms"], abs=1e-4)
    )
    # Of MobileNetV2 only int8 is small enough.
    assert {(file["network"], file["precision"]) for file in journal["files"]} == {
        ("mobilenet_v2_x1_0", "int8"),
        ("shufflenet_v2_x1_0", "float32"),
        ("shufflenet_v2_x1_0", "int8"),
    }

    with pytest.raises(UsageError, match="--resume"):
        choose(data, out, budget=budget, sizes=(32,), trials=2, recipe=quick)
    with pytest.raises(UsageError, match="other recipe"):
        choose(data, out, budget=budget, sizes=(32,), recipe=dataclasses.replace(quick, lr=1e-5), resume=True)
    # Under another budget nothing is trained that was trained before, and an accuracy out of reach is told.
    times = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/last.safetensors")}
    asked = Budget(max_ms=99, max_mb=8.9, min_accuracy=100)
    again = choose(data, out, budget=asked, sizes=(32,), trials=1, recipe=quick, resume=True)
    assert {path: path.stat().st_mtime_ns for path in out.glob("runs/*/last.safetensors")} == times
    assert again.report.figures["network"] == "mobilenet_v2_x1_0"
    assert bool(again.shortfall) == (again.report.figures["top1"] < 1)  # type: ignore[operator]


@pytest.mark.slow
def test_a_network_that_is_cut_learns_from_a_teacher(data: Path, tmp_path: Path, quick: Recipe) -> None:
    distillation = dataclasses.replace(
        distill_small, epochs=2, warmup_epochs=0.5, batch=16, size=32, sizes=(), eval_size=32, precision="float32"
    )
    out = tmp_path / "out"
    budget = Budget(max_mb=0.8)
    with contextlib.suppress(FusiformError):  # hardly trained, it may lose more to int8 than a file may
        choose(data, out, budget=budget, sizes=(32,), trials=1, recipe=quick, distillation=distillation)
    assert {run.name for run in (out / "runs").iterdir()} == {
        "mobilenet_v2_x1_0_32px_1_epochs",
        "mobilenet_v2_x0_35_32px_2_epochs_distilled",
    }
    settings = json.loads((out / "runs" / "mobilenet_v2_x0_35_32px_2_epochs_distilled" / "run.json").read_text())
    assert settings["teacher"].endswith("mobilenet_v2_x1_0_32px_1_epochs/best.safetensors")
    journal = json.loads((out / "choose.json").read_text(encoding="utf-8"))
    assert [(done["width"], done["distilled"]) for done in journal["trainings"]] == [(1.0, False), (0.35, True)]
    spec, _ = read_safetensors(out / "runs" / journal["trainings"][1]["run"] / "best.safetensors")
    assert spec is not None
    assert spec.width == 0.35
