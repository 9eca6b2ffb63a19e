"""Small networks for the tests of pages: untrained, and yet they find something in any picture."""

from __future__ import annotations

import numpy as np

from fusiform.graph.build import build_graph
from fusiform.graph.shapes import state_shapes
from fusiform.spec import ModelSpec, Preprocess

SIDES = {"classification": 48, "detection": 96, "segmentation": 65}
FITS = {"classification": "crop", "detection": "stretch", "segmentation": "pad"}


def small_spec(task, labels=("class 0", "class 1", "class 2"), *, resize=None, **more):
    """A MobileNetV2 x0.5 for pictures as small as its task allows; a classifier crops what ``resize`` gives."""
    side, fit = SIDES[task], FITS[task]
    preprocess = Preprocess(resize or side, side, fit=fit)
    strides = {"output_stride": 16} if task == "segmentation" else {}
    return ModelSpec("mobilenet_v2", 0.5, labels, task, input_size=side, preprocess=preprocess, **strides, **more)


def lively_state(spec, seed=9):
    """Random weights, with which something is found in any picture."""
    random = np.random.default_rng(seed)
    state = {}
    for name, shape in state_shapes(spec).items():
        if name.endswith("num_batches_tracked"):
            state[name] = np.array(1)
        elif name.endswith("running_var"):
            state[name] = random.uniform(0.5, 1.5, shape).astype(np.float32)
        elif len(shape) > 1:
            state[name] = random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)
        else:
            low, high = (0.7, 1.5) if name.endswith("weight") else (-0.3, 0.3)
            state[name] = random.uniform(low, high, shape).astype(np.float32)
    return state


def small_network(task, *labels, seed=9):
    """The graph of such a network."""
    spec = small_spec(task, labels) if labels else small_spec(task)
    return build_graph(spec, lively_state(spec, seed))
