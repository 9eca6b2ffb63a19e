"""What is compared: models in engines with numbers of threads, and the data that each is measured on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fusiform.benchmarking.process import Child
from fusiform.benchmarking.rows import COLUMNS
from fusiform.data.annotated import AnnotatedSet
from fusiform.data.dataset import DataSet
from fusiform.data.masks import Ignore
from fusiform.data.open import bind_classes, choose_split, open_dataset
from fusiform.engines import ENGINES, EngineName, default_engine, own_engine, runs_natively
from fusiform.errors import FusiformError, InputError, UsageError
from fusiform.report import Cell
from fusiform.spec import ModelSpec
from fusiform.zoo.info import precision_of, size_of
from fusiform.zoo.model import PROGRAMS, Model, open_model

DECODED = 8
"""Photographs whose answers are decoded, over and over."""

_Data = DataSet | AnnotatedSet


class Contender:
    """A model in an engine with so many threads, the process that runs it, and the row that tells of it."""

    def __init__(self, name: str, model: Model, engine: EngineName, threads: int, data: _Data | None) -> None:
        self.name, self.spec, self.engine, self.threads, self.data = name, model.spec, engine, threads, data
        self.row: dict[str, Cell] = dict.fromkeys(COLUMNS)
        self.row |= {
            "model": name,
            "engine": engine,
            "precision": _given_precision(model, engine),
            "threads": threads,
            "bytes": size_of(model),
        }
        self.child: Child | None = None
        self.estimate = 0.0
        """Seconds that a picture takes, roughly."""

    @property
    def failed(self) -> bool:
        return self.row["error"] is not None

    @property
    def photographs(self) -> list[str]:
        """Some of the data's, to decode answers to; none for classifiers."""
        if not isinstance(self.data, AnnotatedSet):
            return []
        _, samples = choose_split(self.data.source, self.data.splits, None)
        chosen = np.linspace(0, len(samples) - 1, min(DECODED, len(samples))).round().astype(int)
        return [os.fspath(samples[k].file) for k in chosen]

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer of the contender's process; what it cannot do ends in the row, and the answer is empty."""
        if self.failed or self.child is None:
            return {}
        try:
            return self.child.ask(request)
        except FusiformError as error:
            self.row |= dict.fromkeys(("median_ms", "p95_ms", "best_ms", "runs", "decode_ms", "images_per_second"))
            self.row["error"] = str(error)
            self.child.close()
            return {}


def _given_precision(model: Model, engine: EngineName) -> str | None:
    stored = precision_of(model)
    as_it_is = model.format not in ("safetensors", "pth") and engine == own_engine(model)
    if stored is None or as_it_is or (stored == "int8" and engine != "torch"):
        return stored
    return "float32"


def list_entries(
    models: Sequence[str | os.PathLike[str]],
    engines: Sequence[EngineName],
    threads: Sequence[int],
    data: DataSet | AnnotatedSet | str | os.PathLike[str] | None,
    *,
    ignore: Ignore | None = None,
    root: str | os.PathLike[str] | None = None,
) -> list[Contender | dict[str, Cell]]:
    """The contenders in order, and a row with the reason for each model that cannot be one."""
    entries: list[Contender | dict[str, Cell]] = []
    errors: list[FusiformError] = []
    for name in dict.fromkeys(os.fspath(model) for model in models):
        try:
            opened = open_model(name)
            chosen = list(dict.fromkeys(engines)) or [default_engine(opened)]
            if set(chosen) == set(ENGINES):
                chosen = list(possible_engines(opened))
        except FusiformError as error:
            errors.append(error)
            entries.append({**dict.fromkeys(COLUMNS), "model": name, "error": str(error)})
            continue
        read = None
        if data is not None:
            read = _read(
                data, opened.spec, name, ignore, root
            )  # what is wrong with it is told before the work, and not after it
            if isinstance(read, DataSet):
                data = read  # once is enough for all classifiers
        entries += [Contender(name, opened, engine, number, read) for engine in chosen for number in threads]
    if len(errors) == len(entries):
        raise errors[0]
    return entries


def possible_engines(model: Model) -> tuple[EngineName, ...]:
    """The engines that can run a model's file: its own for a program, for weights all but ExecuTorch.

    The native one runs int8 classifiers alone, where it is fast. PyTorch does not run files that decode their answers
    themselves. Raises UsageError for Core ML, which runs on Apple's machines alone.
    """
    if model.format in PROGRAMS:
        return (own_engine(model),)
    others = ["executorch"]
    others += ["torch"] if model.spec.decoded else []
    others += [] if runs_natively(model) else ["native"]
    return tuple(engine for engine in ENGINES if engine not in others)


def _read(
    data: _Data | str | os.PathLike[str],
    spec: ModelSpec,
    name: str,
    ignore: Ignore | None,
    root: str | os.PathLike[str] | None,
) -> _Data:
    """The dataset as a model can use it."""
    if spec.task != "classification":
        if isinstance(data, AnnotatedSet):
            return data
        return open_dataset(_place(data), spec=spec, model=name, ignore=ignore, root=root)
    if ignore is not None:
        raise UsageError(f"--ignore is for masks, and {name} is for {spec.task}: leave it out")
    if isinstance(data, AnnotatedSet):
        raise InputError(f"{data.source}: has boxes or masks, and {name} is a classifier: measure it on its own data")
    found = data if isinstance(data, DataSet) else open_dataset(data, task="classification", root=root)
    bind_classes(found.classes, spec)
    return found


def _place(data: _Data | str | os.PathLike[str]) -> str | os.PathLike[str]:
    return data.source if isinstance(data, DataSet | AnnotatedSet) else data
