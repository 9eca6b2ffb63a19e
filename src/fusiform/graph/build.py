"""The networks, and SSDLite and DeepLabv3 over them, as graphs: from their spec and torchvision-named weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusiform.errors import WeightsError
from fusiform.graph.builder import Builder, FoldedWeights, Numbers, Outline, State, Weights
from fusiform.graph.heads import build_nodes
from fusiform.graph.ir import Graph
from fusiform.spec import ModelSpec


def build_graph(spec: ModelSpec, state: State) -> Graph:
    """The graph of the network that ``spec`` describes, with the weights of ``state``.

    ``state`` maps torchvision's parameter names to arrays of any float type. It answers logits, also where the spec is
    of a file that ends in a softmax. Raises WeightsError for weights that do not fit the spec.
    """
    spec = spec.with_logits()
    try:
        with np.errstate(all="ignore"):  # weights that are not finite are told when the network answers
            graph = _build(spec, FoldedWeights(state))
    except KeyError as error:
        raise WeightsError(f"the weights lack {error}, which {spec.name} needs: are they of another network?") from None
    for name, shape in spec.network_answers.items():
        if (values := graph.shapes[graph.outputs[name]][2]) != shape[-1]:
            background = " and the background" if spec.task == "detection" else ""
            raise WeightsError(
                f"the weights answer with {values} classes, the spec names {spec.num_classes}{background}"
            )
    return graph


def number_weights(spec: ModelSpec, weights: Mapping[str, NDArray[Any]]) -> Graph:
    """The graph whose every weight is its own position in torchvision's array: it shows what was reordered how.

    ``weights`` gives the shape of each convolution's and the classifier's weight by name.
    """
    return _build(spec, Numbers(weights))


def outline(spec: ModelSpec) -> Graph:
    """The graph that ``spec`` describes, for questions about its shapes: weights that take no memory."""
    return _build(spec.with_logits(), Outline())


def _build(spec: ModelSpec, weights: Weights) -> Graph:
    build = Builder(weights, spec)
    build_nodes(build)
    return Graph(spec, tuple(build.nodes))
