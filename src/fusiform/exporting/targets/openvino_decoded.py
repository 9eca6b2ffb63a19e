"""The end of OpenVINO files that answer with boxes, or with masks at the size of their input.

Boxes come out of ``DetectionOutput``, as of every SSD in OpenVINO's Open Model Zoo: one tensor of rows, which Model API
and OpenVINO's samples read. It is given corners, decoded and clipped as ``tasks.detection.decode`` does, since of what
it decodes itself it limits no side.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from fusiform.graph.ir import Graph
from fusiform.graph.priors import (
    CODE_SCALES,
    EVALUATED_SCORE,
    IOU_THRESHOLD,
    LARGEST_EXPONENT,
    MAX_BOXES,
    box_decoding,
)

DETECTIONS = "detections"


class Writer(Protocol):
    """What ``targets.openvino`` writes a model with."""

    graph: Graph
    ops: Any

    def constant(self, name: str, values: Any) -> Any: ...


def add_decoding(writer: Writer, made: Mapping[str, Any]) -> dict[str, Any]:
    """Add what makes boxes or masks of the network's answers ``made``; the answers that the file gives, by their names.

    Of a detector: ``detections`` (1, 1, pictures * N, 7), rows of the picture's number (-1: no box from here on), the
    class, the score, left, top, right and bottom in [0, 1], class by class. Of a segmenter:
    ``probabilities`` (pictures, classes, height, width) at the size of its input.
    """
    spec = writer.graph.spec
    if spec.task == "segmentation":
        return {"probabilities": _probabilities(writer, made["logits"])}
    return {DETECTIONS: _boxes(writer, made["logits"], made["codes"])}


def _probabilities(writer: Writer, logits: Any) -> Any:
    from openvino import opset11  # the first whose Python says where pixels stand

    spec = writer.graph.spec
    size = writer.constant("decoded/size", np.array([spec.input_size] * 2, np.int64))
    axes = writer.constant("decoded/axes", np.array([2, 3], np.int64))
    resized = opset11.interpolate(
        logits,
        size,
        "linear_onnx",
        "sizes",
        axes=axes,
        coordinate_transformation_mode="align_corners" if spec.align_corners else "half_pixel",
        name="decoded/resized",
    )
    return writer.ops.softmax(resized, 1, name="probabilities")


def _boxes(writer: Writer, logits: Any, codes: Any) -> Any:
    ops, spec = writer.ops, writer.graph.spec
    low, high = _edges(writer, codes)
    boxes = ops.concat([low, high], 2, name="decoded/boxes")
    if spec.scores == "softmax":
        scores = ops.softmax(logits, 2, name="decoded/all_scores")
    else:
        scores = ops.sigmoid(logits, name="decoded/all_scores")
    scores = _part(writer, scores, "objects", 1, 1 + spec.num_classes)  # without the background
    # Of a box of which clipping left no area the scores are zeros.
    sides = ops.subtract(high, low, name="decoded/sides")
    last = writer.constant("decoded/last", np.array([2], np.int64))
    smaller = ops.reduce_min(sides, last, True, name="decoded/smaller")
    there = ops.greater(smaller, writer.constant("decoded/nothing", np.float32(0)), name="decoded/there")
    there = ops.convert(there, "f32", name="decoded/there/real")
    scores = ops.multiply(scores, there, name="decoded/scores")
    flat = writer.constant("decoded/flat", np.array([0, -1], np.int64))
    priors = len(box_decoding(spec.input_size).middles[0])
    corners = writer.constant("decoded/corners", np.zeros((1, 1, 4 * priors), np.float32))  # what the boxes add to
    settings = {
        "num_classes": spec.num_classes,
        "background_label_id": -1,
        "top_k": -1,
        "keep_top_k": [MAX_BOXES],
        "nms_threshold": IOU_THRESHOLD,
        "confidence_threshold": EVALUATED_SCORE,
        "code_type": "caffe.PriorBoxParameter.CORNER",
        "variance_encoded_in_target": True,
        "share_location": True,
        "normalized": True,
    }
    boxes, scores = (
        ops.reshape(value, flat, True, name=f"decoded/{name}/flat")
        for name, value in (("boxes", boxes), ("scores", scores))
    )
    return ops.detection_output(boxes, scores, corners, settings, name=DETECTIONS)


def _edges(writer: Writer, codes: Any) -> tuple[Any, Any]:
    """Left and top, and right and bottom, of the box of each prior, clipped to the picture: (N, priors, 2) each."""
    ops, numbers = writer.ops, box_decoding(writer.graph.spec.input_size)
    steps, placed = (
        writer.constant(f"decoded/{name}", values)
        for name, values in (("steps", numbers.steps), ("middles", numbers.middles))
    )
    moved = ops.multiply(_part(writer, codes, "xy", 0, 2), steps, name="decoded/moved")
    middles = ops.add(moved, placed, name="decoded/placed")
    largest = writer.constant("decoded/largest", np.float32(CODE_SCALES[2] * LARGEST_EXPONENT))
    limited = ops.minimum(_part(writer, codes, "sizes", 2, 4), largest, name="decoded/limited")
    scale = writer.constant("decoded/scale", np.float32(1 / CODE_SCALES[2]))
    grown = ops.exp(ops.multiply(limited, scale, name="decoded/exponent"), name="decoded/grown")
    halves = ops.multiply(grown, writer.constant("decoded/halves", numbers.halves), name="decoded/reach")
    low = ops.subtract(middles, halves, name="decoded/low")
    high = ops.add(middles, halves, name="decoded/high")
    return (
        ops.clamp(low, 0.0, 1.0, name="decoded/low/clipped"),
        ops.clamp(high, 0.0, 1.0, name="decoded/high/clipped"),
    )


def _part(writer: Writer, value: Any, name: str, first: int, end: int) -> Any:
    """A part of the last of three axes."""
    bounds = [
        writer.constant(f"decoded/{name}/{what}", np.array([number], np.int64))
        for what, number in (("first", first), ("end", end), ("step", 1), ("axis", 2))
    ]
    return writer.ops.slice(value, *bounds, name=f"decoded/{name}")
