"""Models that break off, or answer with what is no number: one line that names the file, for every task."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

import fusiform
from fusiform import engines
from fusiform.errors import WeightsError
from fusiform.graph.shapes import state_shapes
from fusiform.spec import ModelSpec, Preprocess
from fusiform.zoo.checkpoint import write_safetensors

TASKS = {"classification": (32, "crop"), "detection": (64, "stretch"), "segmentation": (33, "stretch")}
PICTURES = list(np.random.default_rng(0).integers(0, 256, (20, 40, 48, 3), np.uint8))


def spec_of(task):
    size, fit = TASKS[task]
    more = {"output_stride": 16} if task == "segmentation" else {}
    preprocess = Preprocess(resize=size, crop=size, fit=fit)
    return ModelSpec("mobilenet_v2", 0.1, ("a", "b"), task=task, input_size=size, preprocess=preprocess, **more)


def state_of(spec):
    luck = np.random.default_rng(0)
    state = {}
    for name, shape in state_shapes(spec).items():
        state[name] = (luck.uniform(0.5, 1, shape) / max(1, math.prod(shape[1:]))).astype(np.float32)
    return state


def spoil_nan(state):
    state["features.3.conv.0.0.weight"][0] = np.nan


def spoil_inf(state):
    state["features.3.conv.0.0.weight"][:] = np.inf


def spoil_variance(state):
    state["features.3.conv.0.1.running_var"][:] = -3


@pytest.fixture
def network(tmp_path):
    """Writes a network of a task with its weights spoiled; its path."""

    def write(task, spoil):
        spec = spec_of(task)
        state = state_of(spec)
        if task != "classification":
            state = {name: values.copy() for name, values in state.items()}
            prefix = next(name for name in state if name.endswith("features.3.conv.0.0.weight"))[
                : -len("features.3.conv.0.0.weight")
            ]
            short = {name.removeprefix(prefix): values for name, values in state.items()}
            spoil(short)
        else:
            spoil(state)
        write_safetensors(tmp_path / "x.safetensors", state, spec)
        return tmp_path / "x.safetensors"

    return write


@pytest.mark.parametrize("spoil", [spoil_nan, spoil_inf, spoil_variance])
@pytest.mark.parametrize("task", TASKS)
def test_answers_that_are_not_finite(task, spoil, network):
    path = network(task, spoil)
    with pytest.raises(WeightsError) as raised:
        fusiform.predict(PICTURES[:2], path, progress=False)
    assert re.fullmatch(
        rf"{path}: \w+: the answer holds values that are not finite: export or train it again", str(raised.value)
    )


def test_a_temperature_that_leaves_no_numbers(tmp_path):
    spec = spec_of("classification").replace(temperature=1e-3)
    state = state_of(spec)
    state["classifier.1.bias"][:] = 1e37
    write_safetensors(tmp_path / "x.safetensors", state, spec)
    with pytest.raises(
        WeightsError, match=r"x\.safetensors: .*divided by its temperature, 0\.001, the answer is not finite"
    ):
        fusiform.predict(PICTURES[0], tmp_path / "x.safetensors", progress=False)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_runtime_that_breaks_off_in_the_middle_of_a_folder(threads, network, monkeypatch):
    path = network("classification", lambda state: None)
    start, runs = engines._start, []

    def fragile(*given):
        engine = start(*given)
        run = engine.run

        def break_off(batch):
            runs.append(1)
            if len(runs) > 9:
                raise RuntimeError("Input tensor 33 lacks data")
            return run(batch)

        engine.run = break_off
        return engine

    monkeypatch.setattr(engines, "_start", fragile)
    answers = []
    with pytest.raises(
        WeightsError, match=rf"^{path}: litert broke off while it ran it \(Input tensor 33 lacks data\)"
    ):
        answers.extend(fusiform.predict_iter(PICTURES, path, threads=threads))
    assert all(answer.error is None for answer in answers)
