"""A judge of labels that has not learned them: a last layer on a model's features, for each fold from the others."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusiform.data.dataset import DataSet, Sample, Split
from fusiform.data.preprocess import crop_pixels
from fusiform.doctor.findings import Finding
from fusiform.engines import Engine, open_engine
from fusiform.errors import InputError
from fusiform.spec import FEATURES
from fusiform.tasks.label_noise import doubted_labels
from fusiform.tasks.linear_head import out_of_fold
from fusiform.zoo.model import PROGRAMS, Model, open_model

KNOWN = 0.5
"""A class whose pictures get their own label with less than this on average is not one that can be judged."""
FEW = 10
"""Pictures; a class with fewer leaves too few for a head to learn it from when a fold is left out."""


class Judge:
    """What a model sees in the pictures, and the labels that do not go with it.

    Any classifier will do, whatever its classes are: its features are asked for, and a program that answers without
    them gives its logits. ``look`` may be called from several threads.
    """

    def __init__(self, model: str | os.PathLike[str] | Model) -> None:
        self._model = model if isinstance(model, Model) else open_model(model)
        if self._model.spec.task != "classification":
            raise InputError(
                f"{self._model.path}: is for {self._model.spec.task}; labels are judged with a classifier's features"
            )
        self._features = self._model.format not in PROGRAMS or self._model.spec.features
        # Opened here, so that a model that cannot be used is told before any picture is read.
        engine = self._open()
        self.spec = engine.spec
        self._answer = FEATURES if self._features else self.spec.output
        self._spare = [engine]
        self._mine = threading.local()

    def look(self, image: Image.Image) -> NDArray[np.float16]:
        """What the model sees in a picture; half precision, for there may be a million of them."""
        values = self._engine().run(crop_pixels(image, self.spec.preprocess)[None])[self._answer][0]
        halved: NDArray[np.float16] = values.clip(-6e4, 6e4).astype(np.float16)
        return halved

    def findings(
        self,
        dataset: DataSet,
        entries: Sequence[tuple[Split, Sample]],
        seen: Sequence[NDArray[np.float16] | None],
        groups: Sequence[Sequence[int]],
    ) -> Iterator[Finding]:
        """The labels that are probably wrong, those first whose correction gains most, and classes that are not judged.

        ``seen`` has what ``look`` gave of each of the ``entries``, and None where it could not be read; ``groups`` are
        the numbers of those that are one picture.
        """
        read = [i for i, values in enumerate(seen) if values is not None]
        labels = np.array([entries[i][1].label for i in read], np.int64)
        counts = np.bincount(labels, minlength=len(dataset.classes))
        for label, name in enumerate(dataset.classes):
            if 0 < counts[label] < FEW:
                message = f"{name} has fewer than {FEW} pictures, so their labels were not judged"
                yield Finding("class not judged", "note", message, class_name=name)
        read = [i for i, label in zip(read, labels, strict=True) if counts[label] >= FEW]
        judged = np.flatnonzero(counts >= FEW)
        if len(judged) < 2:
            return  # there is no other class that a picture could be of
        labels = np.array([np.searchsorted(judged, entries[i][1].label) for i in read], np.int64)
        features = np.array([seen[i] for i in read])
        place = {number: k for k, number in enumerate(read)}
        kept = [[place[i] for i in group if i in place] for group in groups]
        found = out_of_fold(features, labels, len(judged), groups=[group for group in kept if group]).probabilities
        own = found[np.arange(len(labels)), labels]
        means = np.bincount(labels, weights=own) / np.bincount(labels)
        names = [dataset.classes[label] for label in judged]
        for number, other, gain in doubted_labels(found, labels):
            if min(means[labels[number]], means[other]) < KNOWN:
                continue
            split, sample = entries[read[number]]
            message = (
                f"is labelled {names[labels[number]]}, but looks like {names[other]} to what has learned from the "
                f"others alone ({found[number, other]:.1%}, and {own[number]:.1%} for the label): look at it, and "
                "correct the label (--fix does not)"
            )
            yield Finding(
                "suspicious label",
                "warning",
                message,
                sample.name,
                sample,
                split,
                names[labels[number]],
                suggested=names[other],
                gain=gain,
            )
        for label, name in enumerate(names):
            if means[label] < KNOWN:
                message = (
                    f"pictures of {name} get only {means[label]:.0%} for their class on average by what has learned "
                    "from the others, so their labels were not judged: the model does not see what makes the class, or "
                    "most labels are wrong"
                )
                yield Finding("class not judged", "note", message, class_name=name)

    def _open(self) -> Engine:
        return open_engine(self._model, features=self._features)

    def _engine(self) -> Engine:
        """The engine of this thread: one serves one thread at a time."""
        if not hasattr(self._mine, "engine"):
            try:
                self._mine.engine = self._spare.pop()
            except IndexError:
                self._mine.engine = self._open()
        engine: Engine = self._mine.engine
        return engine
