"""The end of ONNX files that answer with boxes, or with masks at the size of their input.

Boxes are suppressed by ``NonMaxSuppression``, class by class, whose number of answers depends on the picture; what is
left is brought into a fixed number of rows, highest-scoring first, so that programs that want to know the shapes of
answers beforehand read it too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from onnx import TensorProto, helper

from fusiform.graph.ir import Graph
from fusiform.graph.priors import (
    CODE_SCALES,
    EVALUATED_SCORE,
    IOU_THRESHOLD,
    LARGEST_EXPONENT,
    MAX_BOXES,
    box_decoding,
)
from fusiform.spec import ModelSpec

BOXES = "bboxes"
"""What OpenVINO's Model API calls the boxes, beside ``labels`` and ``scores``."""


class Writer(Protocol):
    """What ``graph.onnx`` writes a file with."""

    graph: Graph
    nodes: list[Any]

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str: ...

    def constant(self, name: str, value: Any) -> str: ...


def add_decoding(writer: Writer, made: Mapping[str, str]) -> list[Any]:
    """Add what makes boxes or masks of the network's answers, the values ``made``; the outputs that the file gives.

    Of a detector: ``bboxes`` (1, N, 4) as left, top, right and bottom in [0, 1], highest-scoring first, ``labels``
    (1, N) int64 and ``scores`` (1, N), which are zeros where there is no box; for one picture. Of a segmenter:
    ``probabilities`` (pictures, classes, height, width) at the size of its input.
    """
    spec = writer.graph.spec
    if spec.task == "segmentation":
        return [_probabilities(writer, made["logits"], spec)]
    return _Boxes(writer).finish(made["logits"], made["codes"])


def _probabilities(writer: Writer, logits: str, spec: ModelSpec) -> Any:
    (rows, _, _), side = spec.network_answers["logits"], spec.input_size
    scale = np.float32(side / rows)
    if rows * float(scale) < side:  # runtimes cut what is left of a pixel off
        scale = np.nextafter(scale, np.float32(np.inf))
    scales = writer.constant("decoded/scales", np.array([1, 1, scale, scale], np.float32))
    where = "align_corners" if spec.align_corners else "half_pixel"
    resized = writer.add(
        "Resize", [logits, "", scales], "decoded/resized", mode="linear", coordinate_transformation_mode=where
    )
    found = writer.add("Softmax", [resized], "probabilities", axis=1)
    return helper.make_tensor_value_info(found, TensorProto.FLOAT, ["N", spec.num_classes, side, side])


class _Boxes:
    """Decodes as ``tasks.detection.decode`` does, and clips before boxes suppress each other as there."""

    def __init__(self, writer: Writer) -> None:
        self.writer, self.spec = writer, writer.graph.spec

    def add(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        return self.writer.add(kind, inputs, f"decoded/{name}", **attributes)

    def constant(self, name: str, values: Any, kind: Any = np.float32) -> str:
        return self.writer.constant(f"decoded/{name}", np.asarray(values, kind))

    def slice(self, value: str, name: str, first: int, end: int) -> str:
        """A part of the last of three axes."""
        bounds = [
            self.constant(f"{name}/{what}", [number], np.int64)
            for what, number in (("first", first), ("end", end), ("axis", 2))
        ]
        return self.add("Slice", [value, *bounds], name)

    def finish(self, logits: str, codes: str) -> list[Any]:
        low, high = self.edges(codes)
        boxes = self.add("Concat", [low, high], "boxes", axis=2)
        scores = self.scores(logits, low, high)
        limits = [
            self.constant("most", [MAX_BOXES], np.int64),
            self.constant("iou", [IOU_THRESHOLD]),
            self.constant("lowest", [EVALUATED_SCORE]),
        ]
        kept = self.add("NonMaxSuppression", [boxes, scores, *limits], "kept")  # rows of picture, class and prior
        return self.best(kept, boxes, scores)

    def edges(self, codes: str) -> tuple[str, str]:
        """Left and top, and right and bottom, of the box of each prior, clipped to the picture: (1, priors, 2) each."""
        numbers = box_decoding(self.spec.input_size)
        moved = self.add("Mul", [self.slice(codes, "xy", 0, 2), self.constant("steps", numbers.steps)], "moved")
        middles = self.add("Add", [moved, self.constant("middles", numbers.middles)], "placed")
        largest = self.constant("largest", CODE_SCALES[2] * LARGEST_EXPONENT)
        limited = self.add("Min", [self.slice(codes, "sizes", 2, 4), largest], "limited")
        shares = self.add("Mul", [limited, self.constant("scale", 1 / CODE_SCALES[2])], "exponent")
        grown = self.add("Exp", [shares], "grown")
        halves = self.add("Mul", [grown, self.constant("halves", numbers.halves)], "reach")
        limits = [self.constant("zero", 0), self.constant("one", 1)]
        low, high = (
            self.add("Clip", [self.add(kind, [middles, halves], what), *limits], f"{what}/clipped")
            for kind, what in (("Sub", "low"), ("Add", "high"))
        )
        return low, high

    def scores(self, logits: str, low: str, high: str) -> str:
        """The scores (1, classes, priors), zeros for boxes of which clipping left no area."""
        if self.spec.scores == "softmax":
            scores = self.add("Softmax", [logits], "all_scores", axis=2)
        else:
            scores = self.add("Sigmoid", [logits], "all_scores")
        scores = self.slice(scores, "objects", 1, 1 + self.spec.num_classes)  # without the background
        sides = self.add("Sub", [high, low], "sides")
        smaller = self.add("ReduceMin", [sides], "smaller", axes=[2], keepdims=1)
        there = self.add("Greater", [smaller, self.constant("nothing", 0)], "there")
        there = self.add("Cast", [there], "there/real", to=TensorProto.FLOAT)
        return self.add("Transpose", [self.add("Mul", [scores, there], "present")], "by_class", perm=[0, 2, 1])

    def best(self, kept: str, boxes: str, scores: str) -> list[Any]:
        """The highest-scoring of the boxes that remain, and rows of zeros after them."""
        priors = len(box_decoding(self.spec.input_size).middles[0])
        labels, rows = (
            self.add("Gather", [kept, self.constant(f"{name}/column", k, np.int64)], name, axis=1)
            for k, name in ((1, "label"), (2, "row"))
        )
        first = self.add("Mul", [labels, self.constant("priors", priors, np.int64)], "first")
        places = self.add("Add", [first, rows], "place")
        flat = self.add("Reshape", [scores, self.constant("flat", [-1], np.int64)], "flattened")
        values = self.add("Gather", [flat, places], "value", axis=0)

        def filled(name: str, value: str, empty: int, kind: Any) -> str:
            return self.add("Concat", [value, self.constant(f"{name}/empty", [empty] * MAX_BOXES, kind)], name, axis=0)

        values = filled("values", values, 0, np.float32)
        labels = filled("labels", labels, 0, np.int64)
        rows = filled("rows", rows, priors, np.int64)  # one after the last box: a row of zeros
        best, order = (f"decoded/{name}" for name in ("best", "order"))
        self.writer.nodes.append(
            helper.make_node(
                "TopK", [values, self.constant("k", [MAX_BOXES], np.int64)], [best, order], name="decoded/top", axis=0
            )
        )
        boxes = self.add("Reshape", [boxes, self.constant("rows_of_boxes", [-1, 4], np.int64)], "all_boxes")
        boxes = self.add("Concat", [boxes, self.constant("no_box", np.zeros((1, 4)))], "boxes_or_none", axis=0)
        chosen = self.add("Gather", [rows, order], "chosen", axis=0)
        axis = self.constant("batch", [0], np.int64)
        answers = []
        for name, value, kind, shape in (
            (BOXES, self.add("Gather", [boxes, chosen], "found", axis=0), TensorProto.FLOAT, [MAX_BOXES, 4]),
            ("labels", self.add("Gather", [labels, order], "named", axis=0), TensorProto.INT64, [MAX_BOXES]),
            ("scores", best, TensorProto.FLOAT, [MAX_BOXES]),
        ):
            self.writer.add("Unsqueeze", [value, axis], name)
            answers.append(helper.make_tensor_value_info(name, kind, [1, *shape]))
        return answers
