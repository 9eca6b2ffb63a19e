"""Training with quantisation in the loop: the int8 network learns to answer as the float32 one does.

Weights and activations are rounded in every forward pass as the runtime will round them, and gradients pass through
(Jacob et al., arXiv 1712.05877, Section 3). The target are the float network's answers to the same crops (arXiv
1503.02531), so that no labels are needed. The weights and biases learn; the ranges of the activations stay what the
calibration found.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusiform.data.dataset import Sample
from fusiform.errors import UsageError
from fusiform.evaluation.classification import answers
from fusiform.exporting.quantization.quantize import QuantizedNetwork
from fusiform.graph.ir import Graph
from fusiform.graph.tflite import to_tflite
from fusiform.machine import usable_cores
from fusiform.progress import Tracker, silent
from fusiform.tasks import classification_metrics as metrics
from fusiform.training.distributed import World
from fusiform.training.loader import Batch, ClassExamples, Pictures, load
from fusiform.training.loop import fit, is_better
from fusiform.training.losses import distillation_loss
from fusiform.training.recipe import Recipe
from fusiform.training.recipes import quantize_small
from fusiform.training.run_folder import Say
from fusiform.zoo.model import Model

LOGITS_WEIGHT = 0.1
"""Weight of the squared distance of the logits beside the distillation loss: it pins their size."""
_TOLD = 10
"""How many unreadable pictures are named one by one."""


class Likeness(NamedTuple):
    """How close the answers of an int8 network are to those of the float network on the same pictures.

    ``agreement`` is the share of pictures with the same first answer, in [0, 1]; ``divergence`` the mean
    Kullback-Leibler divergence of the int8 probabilities from the float ones, in nats. ``top1`` and ``float_top1`` are
    the shares of the labelled pictures that are named right, in [0, 1], None where no picture has a label.
    """

    pictures: int
    agreement: float
    divergence: float
    top1: float | None
    float_top1: float | None


class HeldOut:
    """Pictures that are not trained on, with the float network's answers to them.

    All answers come from LiteRT, as users will have them, with the exact preprocessing of the spec. The labels are
    indices of the network's outputs; a label below 0 says that the picture has none. ``samples`` are those that could
    be read, ``errors`` says what was wrong with the others.
    """

    def __init__(self, teacher: Graph, samples: Sequence[Sample], *, threads: int | None = None) -> None:
        self.threads = threads
        self.samples: list[Sample] = []
        self.errors: list[str] = []
        self.wanted = np.empty((0, teacher.spec.num_classes), np.float32)
        if samples:
            found = answers(_in_memory(teacher), samples, threads=threads)
            self.samples = [sample for i, sample in enumerate(samples) if i not in found.errors]
            self.errors = list(found.errors.values())
            self.wanted = found.values[~np.isnan(found.values).any(axis=1)]

    def measure(self, graph: Graph) -> Likeness | None:
        """How close ``graph`` comes to the float network; None where there are no pictures."""
        if not self.samples:
            return None
        given = answers(_in_memory(graph), self.samples, threads=self.threads).values
        read = ~np.isnan(given).any(axis=1)  # a picture may have gone since
        if not read.any():
            return None
        given, wanted = given[read], self.wanted[read]
        labels = np.array([sample.label for sample in self.samples], np.int64)[read]
        known = labels >= 0
        right = [
            metrics.top_k_accuracy(values[known], labels[known]) if known.any() else None for values in (given, wanted)
        ]
        divergence = float(distillation_loss(torch.from_numpy(given), torch.from_numpy(wanted), 1.0))
        agreement = float((given.argmax(1) == wanted.argmax(1)).mean())
        return Likeness(len(given), agreement, divergence, *right)


class QuantizedTask:
    """An int8 network that learns to answer as the float one does, as ``loop.Task`` describes it.

    ``network`` is calibrated, and is changed by the training. What is right is what the teacher answers: the labels of
    the pictures play no part, and ``val_top1`` is the agreement. ``kept`` are the weights that were best on the
    held-out pictures, those at the start among them; without such pictures, the last.
    """

    score = "top1"

    def __init__(
        self,
        network: QuantizedNetwork,
        teacher: Graph,
        pictures: Pictures,
        *,
        held_out: HeldOut,
        recipe: Recipe,
        say: Say = lambda _: None,
    ) -> None:
        self.network: nn.Module = network
        self.student = network
        self.spec = network.graph.spec
        self.head: list[nn.Parameter] = []
        self.extra = nn.ModuleDict()
        self.stages: list[nn.Module] = []
        self.steps, self.batch = pictures.steps, pictures.batch
        self.pictures, self.held_out, self.recipe, self.say = pictures, held_out, recipe, say
        self.layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self.teacher = QuantizedNetwork(teacher).requires_grad_(False).to(memory_format=self.layout)
        self.teacher.quantize = False
        self.kept: dict[str, Tensor] = {}
        self.best: dict[str, float] = {}
        self._measured = 0

    def batches(self, epoch: int, step: int) -> Iterator[Batch]:
        """See ``Pictures.batches``."""
        return self.pictures.batches(epoch, step)

    def pixels(self, pictures: Tensor) -> Tensor:
        """Pictures (N, 3, H, W) of RGB as the networks take them: float32 in [0, 255], in the spec's order."""
        if self.spec.preprocess.color_order == "bgr":
            pictures = pictures.flip(1)
        return pictures.float().contiguous(memory_format=self.layout)

    def loss(self, network: nn.Module, batch: Batch, seed: int) -> tuple[Tensor, float]:
        """The distance to the teacher's answers, and how often the first answers are the same."""
        del seed  # nothing here is left to chance
        pixels = self.pixels(batch.pictures)
        with torch.no_grad():
            wanted = self.teacher(pixels)
        logits = network(pixels)
        distance = distillation_loss(logits, wanted, self.recipe.temperature)
        loss = distance + LOGITS_WEIGHT * F.mse_loss(logits, wanted)
        if not math.isfinite(loss.item()):
            raise UsageError(
                f"training with quantisation: the loss became {loss.item()}: check the float model with fusiform "
                "evaluate, or train with a smaller learning rate"
            )
        return loss, float((logits.argmax(1) == wanted.argmax(1)).sum())

    def measure(self, world: World) -> dict[str, float]:
        """Agreement and divergence on the held-out pictures, in LiteRT; keeps the weights if they are the best yet."""
        del world  # there is one process
        likeness = self.held_out.measure(self.student.freeze())
        figures: dict[str, float] = {}
        if likeness:
            figures = {
                "val_loss": likeness.divergence,
                "val_top1": likeness.agreement,
                "val_images": likeness.pictures,
            }
            when = f"epoch {self._measured}/{self.recipe.epochs}" if self._measured else "calibrated"
            self.say(f"{when}: {describe(likeness)}")
        self._measured += 1
        if is_better(figures, self.best, self.recipe.metric):
            self.best = figures
            self.kept = {name: value.detach().clone() for name, value in self.student.state_dict().items()}
        return figures


def train_quantized(
    student: QuantizedNetwork,
    teacher: Graph,
    samples: Sequence[Sample],
    *,
    held_out: Sequence[Sample] = (),
    recipe: Recipe = quantize_small,
    threads: int | None = None,
    say: Say = lambda _: None,
    progress: Tracker = silent,
) -> QuantizedNetwork:
    """A copy of a calibrated network whose weights have learned to answer as the float network does.

    ``student`` stays as it is; what comes back has its scales of activations. ``teacher`` is the float32 network
    before it was equalised, or another one with the same labels and preprocessing. ``samples`` are trained on,
    without their labels, in crops of the recipe's size, or of the network's where that is smaller. After each epoch
    both are compared on ``held_out`` (see ``HeldOut``) and the best weights are kept, which are the student's own
    where training never helped; without held-out pictures they are those of the last epoch. ``threads`` is the number
    of cores, all by default. ``say`` gets a line now and then. Nothing is written.

    Of the recipe, what concerns labels, heads, teachers' shares and batch normalisation has no meaning here. Raises
    UsageError for detectors and segmenters, a student without scales, networks that do not fit each other, a precision
    other than float32, and pictures of which none can be read.
    """
    spec = student.graph.spec
    if spec.task != "classification":
        raise UsageError(f"{spec.name}: is for {spec.task}; training with quantisation is for classifiers")
    if not student.scales:
        raise UsageError("the network has no scales of activations yet: calibrate it before training it")
    if (teacher.spec.labels, teacher.spec.preprocess) != (spec.labels, spec.preprocess):
        raise UsageError("the float network has other labels or another preprocessing than the one it is to teach")
    if recipe.precision != "float32":
        # Runtimes add up whole numbers exactly. bfloat16 would bring an error of its own, a fifth of that of rounding
        # where it was measured (MobileNetV2 0.35), and the weights would learn to make up for both.
        raise UsageError(
            f"recipe {recipe.name}: int8 is simulated in float32, not in {recipe.precision}: set precision=float32"
        )
    sizes = tuple(min(size, spec.input_size) for size in recipe.sizes)
    recipe = dataclasses.replace(recipe, size=min(recipe.size, spec.input_size), sizes=sizes)
    had = torch.get_num_threads()
    threads = threads or usable_cores()
    torch.set_num_threads(threads)
    try:
        if recipe.deterministic:
            torch.use_deterministic_algorithms(True)
        return _train(student, teacher, samples, held_out, recipe, threads, say, progress)
    finally:
        if recipe.deterministic:
            torch.use_deterministic_algorithms(False)
        torch.set_num_threads(had)


def describe(likeness: Likeness) -> str:
    """A line for people."""
    text = (
        f"{likeness.agreement:.1%} of {likeness.pictures:,} held-out pictures are named as by the float network, "
        f"divergence {likeness.divergence:.4f}"
    )
    if likeness.top1 is None or likeness.float_top1 is None:
        return text
    return f"{text}; {likeness.top1:.1%} are named right, by the float network {likeness.float_top1:.1%}"


def _train(
    student: QuantizedNetwork,
    teacher: Graph,
    samples: Sequence[Sample],
    held_out: Sequence[Sample],
    recipe: Recipe,
    threads: int,
    say: Say,
    progress: Tracker,
) -> QuantizedNetwork:
    world = World(0, 1, torch.device("cpu"))
    # Even the smallest random part of a picture then has the pixels it needs.
    largest = max((recipe.size, *recipe.sizes))
    smallest: float = recipe.crop_scale[0] if recipe.augment.startswith("crop") else 1.0
    side = min(2 * largest, round(largest / math.sqrt(smallest)))
    examples = ClassExamples(recipe, shorter_side=side)
    loaded = load(samples, examples, cache=recipe.cache, threads=threads, progress=progress)
    _say_left_out(loaded.errors, say)
    if not loaded.samples:
        raise UsageError(
            f"none of the {len(samples)} pictures to train on can be read: name a folder of photographs; "
            "fusiform doctor says what is wrong with one"
        )
    compared = HeldOut(teacher, held_out, threads=threads)
    _say_left_out(compared.errors, say)
    pictures = Pictures(loaded, examples, recipe, world)
    task = QuantizedTask(copy.deepcopy(student), teacher, pictures, held_out=compared, recipe=recipe, say=say)
    fit(task, recipe, world, run=None, progress=progress)
    trained = copy.deepcopy(student)  # not the network that learned, whose weights may lie in another order
    trained.load_state_dict(task.kept)
    return trained


def _say_left_out(errors: Sequence[str], say: Say) -> None:
    for error in errors[:_TOLD]:
        say(f"left out: {error}")
    if len(errors) > _TOLD:
        say(f"left out: {len(errors) - _TOLD} more; fusiform doctor lists all")


def _in_memory(graph: Graph) -> Model:
    """A LiteRT model that is in no file and answers with logits."""
    spec = graph.spec.replace(output="logits")
    return Model(Path(f"{spec.name} in training"), "tflite", spec, to_tflite(dataclasses.replace(graph, spec=spec)))
