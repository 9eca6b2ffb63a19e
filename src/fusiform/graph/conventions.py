"""The form of a graph that the readers of LiteRT files expect: what it reads, and what it answers."""

from __future__ import annotations

import dataclasses

from fusiform.graph.inputs import read_pixels
from fusiform.graph.ir import Graph, reads_pixels
from fusiform.spec import ModelSpec, Output


def for_litert(graph: Graph, *, pixels: bool | None = None, output: Output | None = None) -> Graph:
    """The graph as a LiteRT file is to have it; int8 graphs read pixels in any case.

    MediaPipe normalises with one mean and one standard deviation for all channels, and refuses others, so that by
    default a float32 graph with others reads uint8 pixels and normalises them itself: a program that goes on giving it
    normalised numbers is told so by the type, as it would not be if the graph read pixels as float32. A classifier
    answers with probabilities by default, since what MediaPipe and TensorFlow Lite's Task Library show as a score, and
    compare with thresholds, is what the file answers.
    """
    spec = graph.spec
    if output is None:
        output = "probabilities" if spec.task == "classification" else "logits"
    graph = dataclasses.replace(graph, spec=spec.replace(output=output))
    if pixels is None:
        pixels = normalizes_by_channel(spec)
    return read_pixels(graph) if pixels and not reads_pixels(graph) else graph


def normalizes_by_channel(spec: ModelSpec) -> bool:
    """Whether photographs are normalised with a mean or a standard deviation that is not the same for all colours."""
    preprocess = spec.preprocess
    return spec.input_channels == 3 and len({*zip(preprocess.mean, preprocess.std, strict=True)}) > 1
