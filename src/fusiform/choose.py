"""The most accurate network within milliseconds and megabytes, found by measuring and training.

Speed and size hang on a network's shape alone, so every network, input size and precision is measured first, with
random weights. Of those that fit, the promising ones are trained by successive halving (arXiv 1502.07943): all for a
quarter of the epochs, the better half in full. The finalists are exported, verified and measured again; what does not
hold the budget then is not chosen.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np

from fusiform.benchmark import measure_latency
from fusiform.data.annotated import recognise
from fusiform.data.dataset import Split
from fusiform.data.layouts import read_dataset
from fusiform.engines import open_engine
from fusiform.errors import FusiformError, MissingExtraError, UsageError
from fusiform.evaluate.classification import evaluate, report
from fusiform.export.job import export_model
from fusiform.export.targets import Precision, TargetName
from fusiform.files import write_file
from fusiform.graph.build import build_graph, fold_normalization, pixel_zero_point
from fusiform.graph.count import count_multiply_adds
from fusiform.graph.ir import INPUT, Add, Conv, Gather, Graph, Linear, MaxPool, Quantization, Scale
from fusiform.graph.tflite import to_tflite
from fusiform.pareto import Point, check_place, draw_pareto
from fusiform.progress import Tracker, silent
from fusiform.report import Cell, Report
from fusiform.spec import Architecture, ModelSpec, Preprocess, network_name
from fusiform.tables import MOBILENET_V2_WIDTHS, SHUFFLENET_V2_CHANNELS
from fusiform.train.curves import read_metrics
from fusiform.train.job import read_list, train
from fusiform.train.recipe import Recipe
from fusiform.train.recipes import distill_small, finetune_small
from fusiform.train.run import make_folder
from fusiform.zoo.checkpoint import expected_shapes
from fusiform.zoo.model import FileFormat, Model

SIZES = (96, 128, 160, 192, 224)
"""Input sizes that are searched, in pixels."""
PRECISIONS: tuple[Precision, ...] = ("float32", "int8")
TRIALS = 4
"""Networks that are trained at all."""
SIZES_A_NETWORK = 2
"""Input sizes of one network among them, the largest that fit: a smaller one is hardly ever more accurate."""
QUARTER = 4
"""A rung of the halving trains for this many times the epochs of the one before."""
FINALISTS = 2
PASSES, PASS_SECONDS = 3, 0.25
"""Every candidate is measured in turns with all others, so that a slow moment of the machine hits no one alone."""
CHECKS, CHECK_SECONDS = 5, 0.5
"""How often a finished file is measured; all but one have to hold the limit."""
SIZE_MARGIN = 1.01
"""Metadata that an exported file has and a candidate's does not."""
EQUAL = 0.005
"""Files whose shares of right answers differ by less count as equally good: the faster one is chosen."""

ChooseEngine = Literal["litert", "onnxruntime"]
_TARGETS: Mapping[ChooseEngine, TargetName] = {"litert": "litert", "onnxruntime": "onnx"}
_JOURNAL = "choose.json"
_RUNS = "runs"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Budget:
    """What the model may take: milliseconds a picture, megabytes (10^6 bytes), and the top-1 it must reach in percent.

    None is no limit. UsageError for what is not above 0, and for more than 100 %.
    """

    max_ms: float | None = None
    max_mb: float | None = None
    min_accuracy: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("max-ms", self.max_ms), ("max-mb", self.max_mb), ("min-accuracy", self.min_accuracy)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UsageError(f"--{name} must be above 0, got {value:g}")
        if self.min_accuracy is not None and self.min_accuracy > 100:
            raise UsageError(f"--min-accuracy is in percent, up to 100, got {self.min_accuracy:g}")

    def excess(self, ms: float, megabytes: float) -> float:
        """How many times the limit it takes, of the limit that it breaks more; at most 1 is within both."""
        return max(
            0.0 if self.max_ms is None else ms / self.max_ms, 0.0 if self.max_mb is None else megabytes / self.max_mb
        )

    def limits(self) -> str:
        """The limits in words."""
        parts = [f"{value:g} {unit}" for value, unit in ((self.max_ms, "ms"), (self.max_mb, "MB")) if value is not None]
        return " and ".join(parts)


@dataclass(frozen=True)
class Plan:
    """A network at an input size in pixels."""

    architecture: Architecture
    width: float
    size: int

    @property
    def network(self) -> str:
        return network_name(self.architecture, self.width)

    @property
    def name(self) -> str:
        return f"{self.network} at {self.size} px"

    @property
    def start(self) -> Literal["bundled", "cut", "random"]:
        """What a training begins with: weights that come along, a part of such weights, or none."""
        if self.width == 1.0:
            return "bundled"
        return "cut" if self.architecture == "mobilenet_v2" and self.width < 1 else "random"


@dataclass(frozen=True)
class Candidate:
    """A plan in a precision, measured with random weights: median milliseconds of each pass, and megabytes."""

    plan: Plan
    precision: Precision
    passes: tuple[float, ...]
    megabytes: float
    multiply_adds: int

    @property
    def ms(self) -> float:
        return float(np.median(self.passes))

    @property
    def text(self) -> str:
        return f"{self.plan.name} in {self.precision} ({self.ms:.2g} ms, {self.megabytes:.2g} MB)"


@dataclass(frozen=True)
class Training:
    """A finished training: the validation pictures' loss and share of right answers, and the run's folder."""

    plan: Plan
    epochs: int
    distilled: bool
    val_top1: float
    val_loss: float
    seconds: float
    run: Path


@dataclass(frozen=True)
class Shipped:
    """An exported and verified file: milliseconds of each measurement, megabytes, validation pictures' share right."""

    training: Training
    precision: Precision
    file: Path
    checks: tuple[float, ...]
    megabytes: float
    val_top1: float

    @property
    def ms(self) -> float:
        return float(np.median(self.checks))

    def holds(self, budget: Budget) -> bool:
        """Whether it is within the budget, in all measurements but one: another program may get in the way once."""
        return budget.excess(sorted(self.checks)[-2:][0], self.megabytes) <= 1


@dataclass(frozen=True)
class Choice:
    """The model's file, a report, and in words what is short of the accuracy asked for ("" if nothing)."""

    file: Path
    report: Report
    shortfall: str


class Steps(Protocol):
    """What takes time in a search; see ``_Work`` for the real ones."""

    def train(self, plan: Plan, epochs: int, teacher: Training | None) -> Training:
        """Train a plan for so many epochs, with a teacher by distillation."""
        ...

    def ship(self, training: Training, precision: Precision) -> Shipped:
        """Export, verify and measure; FusiformError where the file does not pass."""
        ...


@dataclass
class Journal:
    """What is known so far; ``keep`` writes it after every step."""

    trainings: list[Training] = field(default_factory=list)
    shipped: list[Shipped] = field(default_factory=list)
    keep: Callable[[], None] = lambda: None


def choose(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    budget: Budget,
    threads: int = 1,
    engine: ChooseEngine = "litert",
    sizes: Sequence[int] = SIZES,
    trials: int = TRIALS,
    scratch: bool = False,
    minutes: float | None = None,
    recipe: Recipe = finetune_small,
    distillation: Recipe = distill_small,
    resume: bool = False,
    say: Say = lambda _: None,
    progress: Tracker = silent,
) -> Choice:
    """Find the most accurate model of the pictures of ``data`` within ``budget``, and leave it in the folder ``out``.

    Latency is the runtime's median for a picture on this machine with ``threads`` cores; training takes all cores.
    Networks without weights to start from take part with ``scratch``. No training starts that would probably end
    later than ``minutes`` from now; what there is then is exported. ``recipe`` is for its own ``eval_size``; for other
    input sizes its training sizes change in proportion. ``distillation`` is for a network that was cut from a wider
    one or starts from random weights, if it gets as far as the last rung. ``resume`` takes over what an earlier search
    in ``out`` trained, also under another budget; ``say`` gets a line now and then.

    ``out`` then holds ``model.tflite`` (or .onnx), ``choose.json`` with everything that was measured, two drawings of
    it (``candidates.png``, ``frontier.png``), and the trainings in ``runs``. The model is chosen on validation
    pictures; the accuracy in the report is that of the finished file, on the test pictures if the data has any.

    Raises UsageError for data or arguments that cannot be used, and FusiformError, before any training, for a budget
    that nothing fits, with what would be possible.
    """
    began = time.monotonic()
    folder = Path(out)
    if folder.absolute().is_relative_to(Path(data).absolute()):
        raise UsageError(f"{folder}: lies within the data, where it would be taken for a class: choose another --out")
    if recipe.distill or recipe.distill_features:
        raise UsageError(f"recipe {recipe.name}: learns from a teacher; choose takes one where it helps: leave it out")
    if not sizes or min(sizes) < 32:
        raise UsageError("--size must be 32 pixels or more")
    if trials < 1:
        raise UsageError(f"--trials must be at least 1, got {trials}")
    if recipe.task != "classification" or recognise(data) is not None:
        raise UsageError(
            f"{data}: choose is for classifiers; fusiform train takes boxes and masks, and benchmark times it"
        )
    dataset = read_dataset(data)
    if len(dataset.classes) < 2:
        raise UsageError(f"{data}: has one class, and a classifier needs two or more")
    settings = {
        "data": str(Path(data).absolute()),
        "classes": list(dataset.classes),
        "recipe": dataclasses.asdict(recipe),
        "distillation": dataclasses.asdict(distillation),
    }
    journal = Journal(_read_trainings(folder, settings) if resume else [])
    if not resume and (folder / _RUNS).exists():
        raise UsageError(f"{folder}: holds a search already: add --resume to go on with it, or choose another --out")
    make_folder(folder)
    check_place(folder / "frontier.png")

    say(f"measuring {len(plans(sizes, scratch=scratch)) * len(PRECISIONS)} candidates, {_cores(threads)}")
    candidates = measure(plans(sizes, scratch=scratch), dataset.classes, engine=engine, threads=threads)
    margin = noise(candidates)
    about = {**settings, "budget": dataclasses.asdict(budget), "engine": engine, "threads": threads, "noise": margin}

    def keep(chosen: Mapping[str, Cell] | None = None) -> None:
        _write_journal(folder, about, candidates, journal, chosen or {})

    journal.keep = keep
    keep()
    work = _Work(folder, Path(data), recipe, distillation, engine, threads, say, progress)
    try:
        best = search(
            candidates,
            budget,
            work,
            margin=margin,
            epochs=(recipe.epochs, distillation.epochs),
            trials=trials,
            until=math.inf if minutes is None else began + 60 * minutes,
            journal=journal,
            say=say,
        )
    except KeyboardInterrupt:
        count = len(journal.trainings)
        kept = "1 finished training is" if count == 1 else f"{count} finished trainings are"
        say(f"interrupted: {kept} kept in {folder}; --resume goes on from there")
        raise
    finally:
        draw(folder, candidates, journal, budget)

    file = folder / f"model{best.file.suffix}"
    write_file(file, best.file.read_bytes())
    figures = {"model": str(file), **_figures(best, work.judge(best)), "engine": engine, "threads": threads}
    keep(figures)
    draw(folder, candidates, journal, budget, chosen=best)
    shortfall = ""
    if budget.min_accuracy is not None and 100 * cast("float", figures["top1"]) < budget.min_accuracy:
        shortfall = (
            f"{100 * cast('float', figures['top1']):.4g} % is the best that was reached, and {budget.min_accuracy:g} % "
            f"was asked for: {advice(candidates, budget, margin, best.training.plan)}"
        )
    return Choice(file, Report("Chosen", _rows(journal), figures), shortfall)


def plans(sizes: Iterable[int], *, scratch: bool) -> list[Plan]:
    """Every network at every size; those without weights to start from only for ``scratch``."""
    widths: list[tuple[Architecture, float]] = [("mobilenet_v2", width) for width in MOBILENET_V2_WIDTHS]
    widths += [("shufflenet_v2", width) for width in SHUFFLENET_V2_CHANNELS]
    every = [Plan(architecture, width, size) for architecture, width in widths for size in dict.fromkeys(sizes)]
    return [plan for plan in every if scratch or plan.start != "random"]


def stand_in(plan: Plan, labels: Sequence[str], precision: Precision) -> Graph:
    """A network of random weights, as fast and as large as a trained one: float32, or int8 with made-up scales."""
    spec = ModelSpec(
        plan.architecture,
        plan.width,
        tuple(labels),
        input_size=plan.size,
        preprocess=Preprocess(resize=plan.size, crop=plan.size),
    )
    random = np.random.default_rng(0)
    state: dict[str, Any] = {}
    for name, shape in expected_shapes(plan.architecture, plan.width, num_classes=len(labels)).items():
        if len(shape) > 1:  # keeps the activations' size, so that no number is too small for the processor's fast path
            state[name] = random.standard_normal(shape, np.float32) * math.sqrt(2 / math.prod(shape[1:]))
        else:
            state[name] = np.full(shape, name.endswith((".running_var", ".weight")), np.float32)
    graph = build_graph(spec, state)
    if precision == "float32":
        return graph
    graph = fold_normalization(graph)
    # Two scales will do, since what is gathered together has passed a ReLU, and what is added together has not.
    positive, signed = Scale(6 / 255, -128), Scale(12 / 255, 0)
    activations = {INPUT: Scale(1.0, pixel_zero_point(spec.preprocess) - 128)}
    scales: dict[str, Any] = {}
    nodes = []
    for node in graph.nodes:
        if isinstance(node, Conv | Add | Gather | MaxPool):
            linear = isinstance(node, Add) or (isinstance(node, Conv) and node.activation is None)
            activations[node.name] = signed if linear else positive
        if isinstance(node, Conv | Linear):
            largest = np.abs(node.weight).max(axis=tuple(range(1, node.weight.ndim)), keepdims=True)
            scales[node.name] = (largest / 127).ravel().astype(np.float32)
            weight = np.rint(node.weight / largest * 127).astype(np.int8)
            bias: Any = np.zeros_like(node.bias, np.int32 if isinstance(node, Conv) else np.float32)
            node = dataclasses.replace(node, weight=weight, bias=bias)
        nodes.append(node)
    return Graph(graph.spec, tuple(nodes), Quantization(activations, scales))


def measure(
    of: Sequence[Plan], labels: Sequence[str], *, engine: ChooseEngine, threads: int, seconds: float = PASS_SECONDS
) -> list[Candidate]:
    """Latency and size of every plan in every precision, in ``PASSES`` turns of so many seconds each."""
    models: list[tuple[Plan, Precision, Model, int]] = []
    for plan in of:
        for precision in PRECISIONS:
            graph = stand_in(plan, labels, precision)
            models.append((plan, precision, _in_memory(graph, engine), count_multiply_adds(graph)))
    passes: list[list[float]] = [[] for _ in models]
    for turn in range(PASSES):
        # Every other turn backwards, so that nobody always comes after the same one.
        for k in range(len(models))[:: -1 if turn % 2 else 1]:
            opened = open_engine(models[k][2], engine=engine, threads=threads)
            passes[k].append(measure_latency(opened, seconds=seconds).median_ms)
    return [
        Candidate(plan, precision, tuple(times), len(model.data) / 1e6, multiply_adds)
        for (plan, precision, model, multiply_adds), times in zip(models, passes, strict=True)
    ]


def _in_memory(graph: Graph, engine: ChooseEngine) -> Model:
    form: FileFormat = "tflite"
    if engine == "litert":
        data = to_tflite(graph)
    else:
        from fusiform.graph.onnx import to_onnx

        form, data = "onnx", to_onnx(graph)
    return Model(Path(f"{graph.spec.name} of random weights"), form, graph.spec, data)


def noise(candidates: Iterable[Candidate]) -> float:
    """By which share a latency may come out higher when measured again, as seen between the passes; 0.02 to 0.2."""
    above = [max(candidate.passes) / candidate.ms - 1 for candidate in candidates]
    return float(np.clip(np.quantile(above, 0.9), 0.02, 0.2))


def fitting(candidates: Iterable[Candidate], budget: Budget, margin: float) -> list[Candidate]:
    """The candidates within the budget, with a margin for what measuring again may give."""
    return [
        candidate
        for candidate in candidates
        if budget.excess(candidate.ms * (1 + margin), candidate.megabytes * SIZE_MARGIN) <= 1
    ]


def promising(candidates: Iterable[Candidate], trials: int) -> list[Plan]:
    """The plans to train, best first: with pretrained weights before without, large inputs first, then multiply-adds.

    At most ``SIZES_A_NETWORK`` sizes of a network.
    """
    multiply_adds = {candidate.plan: candidate.multiply_adds for candidate in candidates}
    place: dict[Plan, int] = {}
    for plan in sorted(multiply_adds, key=lambda plan: -plan.size):
        place[plan] = sum(other.network == plan.network for other in place)
    kept = [plan for plan in place if place[plan] < SIZES_A_NETWORK]
    order = ("bundled", "cut", "random")
    return sorted(kept, key=lambda plan: (order.index(plan.start), place[plan], -multiply_adds[plan]))[:trials]


def rungs(count: int, epochs: int) -> list[int]:
    """The epochs of each rung before the last, for ``count`` plans and at last ``epochs``: none for a few plans."""
    before = 0
    while count > FINALISTS:
        count, before = -(-count // 2), before + 1
    return [max(min(1, epochs), round(epochs / QUARTER**k)) for k in range(before, 0, -1)]


def search(
    candidates: Sequence[Candidate],
    budget: Budget,
    steps: Steps,
    *,
    margin: float,
    epochs: tuple[int, int],
    trials: int = TRIALS,
    until: float = math.inf,
    journal: Journal | None = None,
    say: Say = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Shipped:
    """Train, export and compare what fits the budget, and give the best file that holds it.

    ``epochs`` are those of a whole training, and of one by distillation; ``until`` is the ``clock``'s time by which
    trainings have to end. The journal's trainings are not done again. Raises FusiformError for a budget that nothing
    fits and where no file holds it at last.
    """
    journal = journal or Journal()
    fits = fitting(candidates, budget, margin)
    if not fits:
        raise FusiformError(impossible(candidates, budget, margin))
    whole, by_distillation = epochs
    cost = {candidate.plan: candidate.multiply_adds for candidate in candidates}
    racing = {candidate.plan for candidate in fits}

    def known() -> list[Training]:
        return [done for done in journal.trainings if done.plan in cost]

    def learn(plan: Plan, count: int, teacher: Training | None = None) -> Training | None:
        """The training, or None where it would end too late; a first one within the budget is always done."""
        for done in known():
            if (done.plan, done.epochs, done.distilled) == (plan, count, teacher is not None):
                return done
        # Besides its own three passes (one forward, two backward) a step of distillation has one of the teacher.
        work = count * (cost[plan] + (cost[teacher.plan] / 3 if teacher else 0))
        plain = [done for done in known() if not done.distilled]
        needed = teacher is None and not any(done.plan in racing for done in known())
        if not needed and (seen := sum(done.epochs * cost[done.plan] for done in plain)):
            seconds = work * sum(done.seconds for done in plain) / seen
            if clock() + seconds > until:
                say(f"{plan.name}: {_epochs(count)} would take about {seconds / 60:.1f} minutes, too long")
                return None
        say(f"{plan.name}: {_epochs(count)}" + (f" with {teacher.plan.name} as teacher" if teacher else ""))
        training = steps.train(plan, count, teacher)
        journal.trainings.append(training)
        journal.keep()
        say(f"{plan.name}: {100 * training.val_top1:.1f} % of the validation pictures")
        return training

    def in_full(plan: Plan) -> Training | None:
        if plan.start == "bundled":
            return learn(plan, whole)
        # A network cut from a wider one hardly sees more than a random one: it learns for long, from a wide one.
        wide = [done for done in known() if done.plan.start == "bundled"]
        teacher = min(wide, key=_rank) if wide else learn(max(cost, key=_teaches), whole)
        return (learn(plan, by_distillation, teacher) if teacher else None) or learn(plan, whole)

    racers = promising(fits, trials)
    say(f"{len(racing)} of {len(cost)} networks and sizes fit; trying {_listed(racers)}")
    for count in rungs(len(racers), whole):
        results = sorted((done for plan in racers if (done := learn(plan, count))), key=_rank)
        if not results:
            break
        racers = [done.plan for done in results[: -(-len(racers) // 2)]]
    # One that is not pretrained needs a long training: it is given only to the best, and where no pretrained one won.
    pretrained = [plan for plan in racers if plan.start == "bundled"]
    racers = pretrained if pretrained and racers[0].start == "bundled" else racers[:1]
    finalists = [done for plan in racers[:FINALISTS] if (done := in_full(plan))]

    tried: set[Plan] = set()
    while True:
        if not finalists:  # no time for a whole training, or nothing has held: the next best, as far as it was trained
            waiting = sorted((done for done in known() if done.plan in racing - tried), key=_rank)
            if not waiting:
                raise FusiformError(_nothing_held(journal, budget))
            finalists = [in_full(waiting[0].plan) or waiting[0]]
        for training in finalists:
            tried.add(training.plan)
            for candidate in fits:
                if candidate.plan == training.plan:
                    _ship(training, candidate.precision, steps, journal, budget, say)
        finalists = []
        holding = [file for file in journal.shipped if file.holds(budget)]
        if holding:
            top = max(file.val_top1 for file in holding)
            return min((file for file in holding if file.val_top1 > top - EQUAL), key=lambda file: file.ms)


def _ship(training: Training, precision: Precision, steps: Steps, journal: Journal, budget: Budget, say: Say) -> None:
    try:
        file = steps.ship(training, precision)
    except MissingExtraError:
        raise
    except FusiformError as error:
        say(f"{training.plan.name} in {precision}: {error}")
        return
    journal.shipped.append(file)
    journal.keep()
    verdict = "" if file.holds(budget) else f", not within {budget.limits()}"
    say(
        f"{training.plan.name} in {precision}: {100 * file.val_top1:.1f} % of the validation pictures, "
        f"{file.ms:.3g} ms, {file.megabytes:.3g} MB{verdict}"
    )


def _rank(training: Training) -> tuple[float, float, float]:
    """Smaller is better: trained for longer, then more right answers, then surer of them."""
    return -training.epochs, -training.val_top1, training.val_loss


def _teaches(plan: Plan) -> tuple[bool, bool, int]:
    return plan.start == "bundled", plan.architecture == "mobilenet_v2", plan.size


def impossible(candidates: Sequence[Candidate], budget: Budget, margin: float) -> str:
    """What is possible on this machine where the budget is not, and the nearest budget that is."""
    fastest = min(candidates, key=lambda candidate: candidate.ms)
    smallest = min(candidates, key=lambda candidate: candidate.megabytes)
    nearest = min(candidates, key=lambda candidate: budget.excess(candidate.ms, candidate.megabytes))
    return (
        f"nothing is below {budget.limits()} here (with a margin of {100 * margin:.0f} % for what measuring again may "
        f"give); the fastest is {fastest.text}, the smallest is {smallest.text}. The nearest is {nearest.text}: "
        f"{_allowing(nearest, budget, margin)} would do"
    )


def advice(candidates: Sequence[Candidate], budget: Budget, margin: float, chosen: Plan) -> str:
    """What would help where the best network within the budget is not accurate enough."""
    enough = next(candidate.multiply_adds for candidate in candidates if candidate.plan == chosen)
    fits = fitting(candidates, budget, margin)
    larger = [
        candidate
        for candidate in candidates
        if candidate.multiply_adds > enough and candidate.plan.start == "bundled" and candidate not in fits
    ]
    if not larger:
        return "the budget leaves out nothing larger; more pictures or a longer training (--recipe) may help"
    nearest = min(larger, key=lambda candidate: budget.excess(candidate.ms, candidate.megabytes))
    return f"the next larger network is {nearest.text}; {_allowing(nearest, budget, margin)} would let it in"


def _allowing(candidate: Candidate, budget: Budget, margin: float) -> str:
    """The options that would let a candidate in; a limit that it holds stays."""
    ms, megabytes = candidate.ms * (1 + margin), candidate.megabytes * SIZE_MARGIN
    parts = []
    if budget.max_ms is not None:
        parts.append(f"--max-ms {_plain(budget.max_ms)}" if ms <= budget.max_ms else f"--max-ms {_up(ms)}")
    if budget.max_mb is not None:
        parts.append(
            f"--max-mb {_plain(budget.max_mb)}" if megabytes <= budget.max_mb else f"--max-mb {_up(megabytes)}"
        )
    return " ".join(parts)


def _plain(value: float) -> str:
    return repr(float(value)).removesuffix(".0")


def _up(value: float) -> str:
    """Two digits, rounded up."""
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.ceil(value / step) * step:g}"


def _nothing_held(journal: Journal, budget: Budget) -> str:
    if not journal.shipped:
        return "no file passed its verification; the lines above say why"
    nearest = min(journal.shipped, key=lambda file: budget.excess(file.ms, file.megabytes))
    return (
        f"nothing holds {budget.limits()} when measured again; the nearest is {nearest.file} ({nearest.ms:.3g} ms, "
        f"{nearest.megabytes:.3g} MB): raise the limit, or add --resume when the machine has nothing else to do"
    )


class _Work:
    """The real steps: trainings in ``runs``, each with its exported files."""

    def __init__(
        self,
        folder: Path,
        data: Path,
        recipe: Recipe,
        distillation: Recipe,
        engine: ChooseEngine,
        threads: int,
        say: Say,
        progress: Tracker,
    ) -> None:
        self.folder, self.data, self.recipe = folder, data, recipe
        # All trainings hold the same pictures out, or their accuracies could not be compared.
        self.distillation = dataclasses.replace(distillation, val_fraction=recipe.val_fraction, seed=recipe.seed)
        self.engine, self.threads, self.say, self.progress = engine, threads, say, progress

    def train(self, plan: Plan, epochs: int, teacher: Training | None) -> Training:
        """See ``Steps``; a run that was interrupted goes on."""
        recipe = recipe_for(self.distillation if teacher else self.recipe, plan, epochs)
        name = f"{plan.network}_{plan.size}px_{epochs}_epochs" + ("_distilled" if teacher else "")
        run = self.folder / _RUNS / name
        if not (run / "data.sha256").exists():  # the last thing that is written before a training begins
            (run / "run.json").unlink(missing_ok=True)
        if (run / "run.json").exists():
            report = train(None, run, resume=True, say=self.say, progress=self.progress)
        else:
            report = train(
                self.data,
                run,
                model=plan.network,
                recipe=recipe,
                teacher=teacher.run / "best.safetensors" if teacher else None,
                scratch=plan.start == "random",
                say=self.say,
                progress=self.progress,
            )
        records = read_metrics(run / "metrics.jsonl")
        best = [record for record in records if record.get("epoch") == report.figures["best epoch"]]
        if not best or "val_top1" not in best[-1]:
            raise UsageError(
                f"{self.data}: has no validation pictures, on which choose decides: add more pictures, a "
                "folder val, or --set val_fraction=0.2"
            )
        return Training(
            plan,
            epochs,
            teacher is not None,
            float(best[-1]["val_top1"]),
            float(best[-1]["val_loss"]),
            float(cast("float", report.figures["seconds"])),
            run,
        )

    def ship(self, training: Training, precision: Precision) -> Shipped:
        """See ``Steps``."""
        report = export_model(
            training.run / "best.safetensors",
            training.run / "export",
            targets=[_TARGETS[self.engine]],
            precision=precision,
            say=self.say,
            progress=self.progress,
        )
        file = Path(str(report.rows[0]["file"]))
        opened = open_engine(file, engine=self.engine, threads=self.threads)
        checks = tuple(measure_latency(opened, seconds=CHECK_SECONDS).median_ms for _ in range(CHECKS))
        answered = evaluate(file, read_list(training.run), split="val", progress=self.progress)
        return Shipped(training, precision, file, checks, file.stat().st_size / 1e6, float(answered.right.mean()))

    def judge(self, file: Shipped) -> Mapping[str, Cell]:
        """``split``, ``pictures``, ``top1`` and its 95 % interval; on pictures without a part in the choice if any."""
        pictures = read_list(file.training.run)
        split: Split = "test" if pictures.splits.get("test") else "val"
        figures = report(evaluate(file.file, pictures, split=split, progress=self.progress)).figures
        return {name: figures[name] for name in ("split", "pictures", "top1", "top1_low", "top1_high")}


def recipe_for(recipe: Recipe, plan: Plan, epochs: int) -> Recipe:
    """A recipe for another input size and number of epochs: what is counted in pixels or epochs changes in proportion.

    Training sizes are rounded to 16 pixels, 32 or more. Batch statistics of a network that is no longer, or never was,
    the pretrained one are learned anew.
    """

    def pixels(size: int) -> int:
        return max(32, 16 * round(size * plan.size / recipe.eval_size / 16))

    share = epochs / recipe.epochs if recipe.epochs else 1.0
    return dataclasses.replace(
        recipe,
        epochs=epochs,
        size=pixels(recipe.size),
        sizes=tuple(map(pixels, recipe.sizes))[-max(epochs, 1) :],
        eval_size=plan.size,
        eval_resize=round(recipe.eval_resize * plan.size / recipe.eval_size),
        warmup_epochs=recipe.warmup_epochs * share,
        step_epochs=recipe.step_epochs * (share or 1.0),
        unfreeze_epochs=recipe.unfreeze_epochs * share,
        batch_norm=recipe.batch_norm if plan.start == "bundled" else "train",
    )


def _read_trainings(folder: Path, settings: Mapping[str, object]) -> list[Training]:
    """The finished trainings of an earlier search with the same data and recipe."""
    path = folder / _JOURNAL
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []  # it ended before it had measured anything
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}): choose another --out") from None
    try:
        content = json.loads(text)
        changed = [name for name, value in settings.items() if content[name] != json.loads(json.dumps(value))]
        trainings = [
            Training(
                Plan(row["architecture"], row["width"], row["size"]),
                row["epochs"],
                row["distilled"],
                row["val_top1"],
                row["val_loss"],
                row["seconds"],
                folder / _RUNS / row["run"],
            )
            for row in content["trainings"]
        ]
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{path}: is not what a search wrote: choose another --out") from None
    if changed:
        raise UsageError(f"{folder}: was begun with other {' and '.join(changed)}: choose another --out")
    return [training for training in trainings if (training.run / "best.safetensors").is_file()]


def _write_journal(
    folder: Path,
    about: Mapping[str, object],
    candidates: Sequence[Candidate],
    journal: Journal,
    chosen: Mapping[str, Cell],
) -> None:
    budget = Budget(**cast("dict[str, Any]", about["budget"]))
    fits = fitting(candidates, budget, cast("float", about["noise"]))

    def of_plan(plan: Plan) -> dict[str, object]:
        return {"network": plan.network, **dataclasses.asdict(plan)}

    content = {
        **about,
        "candidates": [
            {
                **of_plan(candidate.plan),
                "precision": candidate.precision,
                "ms": candidate.ms,
                "passes_ms": candidate.passes,
                "megabytes": candidate.megabytes,
                "multiply_adds": candidate.multiply_adds,
                "fits": candidate in fits,
            }
            for candidate in candidates
        ],
        "trainings": [
            {**of_plan(done.plan), **dataclasses.asdict(done), "plan": done.plan.name, "run": done.run.name}
            for done in journal.trainings
        ],
        "files": [
            {
                **of_plan(file.training.plan),
                "precision": file.precision,
                "file": file.file.relative_to(folder).as_posix(),
                "ms": file.ms,
                "checks_ms": file.checks,
                "megabytes": file.megabytes,
                "val_top1": file.val_top1,
                "holds": file.holds(budget),
            }
            for file in journal.shipped
        ],
        "chosen": dict(chosen),
    }
    write_file(folder / _JOURNAL, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def _figures(file: Shipped, accuracy: Mapping[str, Cell]) -> dict[str, Cell]:
    return {
        "network": file.training.plan.network,
        "input size": file.training.plan.size,
        "precision": file.precision,
        "ms": round(file.ms, 4),
        "slowest ms": round(max(file.checks), 4),
        "MB": round(file.megabytes, 4),
        **accuracy,
        "run": str(file.training.run),
    }


def _rows(journal: Journal) -> tuple[dict[str, Cell], ...]:
    """The files, then the trainings of which there is none."""
    rows: list[dict[str, Cell]] = [
        {
            "network": file.training.plan.network,
            "px": file.training.plan.size,
            "epochs": file.training.epochs,
            "val_top1": round(file.val_top1, 4),
            "precision": file.precision,
            "ms": round(file.ms, 3),
            "MB": round(file.megabytes, 3),
        }
        for file in journal.shipped
    ]
    shipped = {file.training for file in journal.shipped}
    rows += [
        {
            "network": done.plan.network,
            "px": done.plan.size,
            "epochs": done.epochs,
            "val_top1": round(done.val_top1, 4),
        }
        for done in journal.trainings
        if done not in shipped
    ]
    return tuple(rows)


def _listed(of: Iterable[Plan]) -> str:
    return ", ".join(plan.name for plan in of)


def _cores(threads: int) -> str:
    return "one core" if threads == 1 else f"{threads} cores"


def draw(
    folder: Path, candidates: Sequence[Candidate], journal: Journal, budget: Budget, *, chosen: Shipped | None = None
) -> None:
    """Draw ``candidates.png``, size over latency, and ``frontier.png``, accuracy over latency of what was trained.

    A training without a file stands at the latency of its fastest candidate.
    """
    draw_pareto(
        [Point(_short(one.plan, one.precision), one.ms, one.megabytes, one.plan.network) for one in candidates],
        folder / "candidates.png",
        x_label="latency (ms)",
        y_label="size (MB)",
        title="Every candidate, with random weights",
        smaller_y=True,
        x_limit=budget.max_ms,
        y_limit=budget.max_mb,
    )
    points = [
        Point(
            ("chosen: " if file is chosen else "") + _short(file.training.plan, file.precision),
            file.ms,
            100 * file.val_top1,
            file.training.plan.network,
        )
        for file in journal.shipped
    ]
    shipped = {file.training for file in journal.shipped}
    for done in journal.trainings:
        times = [candidate.ms for candidate in candidates if candidate.plan == done.plan]
        if times and done not in shipped:
            name = _short(done.plan, _epochs(done.epochs))
            points.append(Point(name, min(times), 100 * done.val_top1, done.plan.network))
    if points:
        draw_pareto(
            points,
            folder / "frontier.png",
            x_label="latency (ms)",
            y_label="validation top-1 (%)",
            title="What was trained",
            x_limit=budget.max_ms,
            y_limit=budget.min_accuracy,
        )


def _epochs(count: int) -> str:
    return "1 epoch" if count == 1 else f"{count} epochs"


def _short(plan: Plan, what: str) -> str:
    return f"{plan.size} px, {what}"
