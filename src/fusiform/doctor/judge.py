"""A model that looks at the labels of a dataset, and says which it doubts."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from fusiform.data.dataset import DataSet, Sample, Split
from fusiform.data.open import bind_classes
from fusiform.data.preprocess import crop_pixels
from fusiform.doctor.findings import Finding
from fusiform.engines import Engine, open_engine
from fusiform.errors import InputError
from fusiform.tasks.classification import softmax
from fusiform.zoo.model import Model

SURE = 0.9
"""The probability from which a model's other answer makes a label suspicious."""
UNLIKELY = 0.05
"""The probability below which the given label has to be for that."""
KNOWN = 0.5
"""A class whose pictures get their own label with less than this on average is not one that the model can judge."""


class Answer(NamedTuple):
    """A model's answer: the given class's probability, and the first answer (-1 for none of the dataset's)."""

    given: float
    top: int
    probability: float


class Judge:
    """A model that looks at the labels; ``answer`` may be called from several threads."""

    def __init__(self, model: str | os.PathLike[str] | Model, classes: Sequence[str]) -> None:
        self.model = model
        self.classes = classes
        # Opened here, so that a wrong model is told before any picture is read.
        engine = open_engine(model)
        self.spec = engine.spec
        if self.spec.task != "classification":
            name = model.path if isinstance(model, Model) else os.fspath(model)
            raise InputError(f"{name}: is for {self.spec.task}; labels are judged by a classifier")
        self.outputs = np.array(bind_classes(classes, self.spec))
        self._spare = [engine]
        self._mine = threading.local()
        self._given: list[list[float]] = [[] for _ in classes]
        self._doubted: list[tuple[int, int, Answer]] = []

    def answer(self, image: Image.Image, label: int) -> Answer:
        """The model's answer for a picture that is labelled with the class of this index."""
        values = self._engine().run(crop_pixels(image, self.spec.preprocess)[None])[self.spec.output][0]
        values = values.astype(np.float64)
        if self.spec.output == "logits":
            probabilities = softmax(values[self.outputs] / self.spec.temperature)
        else:
            probabilities = values[self.outputs] / max(values[self.outputs].sum(), 1e-12)
        top = int(probabilities.argmax())
        is_first = values[self.outputs[top]] == values.max()
        return Answer(float(probabilities[label]), top if is_first else -1, float(probabilities[top]))

    def note(self, number: int, label: int, answer: Answer) -> None:
        """Remember what matters of an answer for ``findings``."""
        self._given[label].append(answer.given)
        if answer.top not in (-1, label) and answer.probability >= SURE and answer.given < UNLIKELY:
            self._doubted.append((number, label, answer))

    def findings(self, dataset: DataSet, entries: Sequence[tuple[Split, Sample]]) -> Iterator[Finding]:
        """The labels that the model doubts, and the classes that it cannot judge."""
        means = [float(np.mean(given)) if given else 0.0 for given in self._given]
        for number, label, answer in self._doubted:
            if min(means[label], means[answer.top]) < KNOWN or answer.probability < means[answer.top]:
                continue
            split, sample = entries[number]
            message = (
                f"is labelled {self._named(label)}, but the model says {self._named(answer.top)} "
                f"({answer.probability:.1%}, and {answer.given:.1%} for the label): look at it, and correct the label "
                "(--fix does not)"
            )
            yield Finding("suspicious label", "warning", message, sample.name, sample, split, dataset.classes[label])
        for label, name in enumerate(dataset.classes):
            if self._given[label] and means[label] < KNOWN:
                message = (
                    f"the model gives pictures of {self._named(label)} only {means[label]:.0%} for their class on "
                    "average, so their labels were not judged: it does not know the class, or most labels are wrong"
                )
                yield Finding("class not judged", "note", message, class_name=name)

    def _named(self, label: int) -> str:
        """The dataset's name for a class, and the model's where that is another one."""
        name, other = self.classes[label], self.spec.labels[self.outputs[label]]
        return name if name == other else f"{name} ({other})"

    def _engine(self) -> Engine:
        """The engine of this thread: one serves one thread at a time."""
        if not hasattr(self._mine, "engine"):
            try:
                self._mine.engine = self._spare.pop()
            except IndexError:
                self._mine.engine = open_engine(self.model)
        engine: Engine = self._mine.engine
        return engine
