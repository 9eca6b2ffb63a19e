"""The end of TFLite files that answer with boxes, or with masks at the size of their input.

Boxes come out of ``TFLite_Detection_PostProcess``, the operator that TensorFlow's own detectors end in and that
MediaPipe and the Task Library look for. It clips no box to the picture, neither before one suppresses another nor in
its answer, as TensorFlow's training and ``tasks.detection`` do: so the boxes are decoded and clipped here, and given to
it as codes of one anchor that is the whole picture.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from ai_edge_litert import schema_py_generated as tfl
from flatbuffers import flexbuffers
from numpy.typing import NDArray

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

POSTPROCESS = "TFLite_Detection_PostProcess"
"""The custom operator's name: github.com/tensorflow/tensorflow, lite/kernels/detection_postprocess.cc."""

_SMALLEST_SIDE = 1e-9  # a box without an area has no logarithm; its scores are zeros


class Writer(Protocol):
    """What ``graph.tflite`` writes a file with."""

    graph: Graph
    tensors: list[Any]
    operators: list[Any]

    def tensor(
        self, name: str, shape: tuple[int, ...], dtype: str, scale: None = None, data: NDArray[Any] | None = None
    ) -> int: ...

    def constant(self, name: str, values: list[Any]) -> int: ...

    def operator(
        self,
        code: int,
        inputs: list[int],
        output: int,
        options: str | None = None,
        *,
        version: int | None = None,
        **fields: Any,
    ) -> None: ...


def add_decoding(writer: Writer, made: list[int]) -> list[int]:
    """Add what makes boxes or masks of the network's answers, the tensors ``made``; the tensors that the file gives.

    Of a detector: boxes (1, N, 4) as top, left, bottom and right in [0, 1], their classes (1, N), scores (1, N) and
    number (1,). Of a segmenter: probabilities (1, height, width, classes) at the size of its input.
    """
    if writer.graph.spec.task == "segmentation":
        return [_probabilities(writer, made[0])]
    return _boxes(writer, *made)


class _Arithmetic:
    """Adds operators on float32 tensors; each answers with the tensor that it makes."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer

    def constant(self, name: str, values: Any) -> int:
        array = np.asarray(values, np.float32)
        return self.writer.tensor(f"decoded/{name}", array.shape, "float32", data=array)

    def operator(
        self,
        code: str,
        inputs: list[int],
        name: str,
        *,
        like: int | None = None,
        shape: tuple[int, ...] | None = None,
        dtype: str = "float32",
        options: str | None = None,
        version: int = 1,
        **fields: Any,
    ) -> int:
        """Add an operator whose answer has the ``shape`` given, or that of the tensor ``like`` (its first input)."""
        shape = shape or tuple(self.writer.tensors[inputs[0] if like is None else like].shape)
        output = self.writer.tensor(f"decoded/{name}", shape, dtype)
        code_number = getattr(tfl.BuiltinOperator, code)
        self.writer.operator(code_number, inputs, output, options, version=version, **fields)
        return output


def _probabilities(writer: Writer, logits: int) -> int:
    spec, add = writer.graph.spec, _Arithmetic(writer)
    shape = (1, *spec.answers["probabilities"])
    size = writer.constant("decoded/size", [spec.input_size] * 2)
    version = 1 if spec.align_corners else 3  # the first that knows middles of pixels
    resized = add.operator(
        "RESIZE_BILINEAR",
        [logits, size],
        "resized",
        shape=shape,
        options="ResizeBilinear",
        version=version,
        alignCorners=spec.align_corners,
        halfPixelCenters=not spec.align_corners,
    )
    # As rows of classes: of maps OpenCV takes the softmax along another axis.
    flat = (shape[1] * shape[2], shape[3])
    rows = writer.constant("decoded/rows", list(flat))
    rows = add.operator("RESHAPE", [resized, rows], "flat", shape=flat, options="Reshape", newShape=list(flat))
    shares = add.operator("SOFTMAX", [rows], "shares", options="Softmax", beta=1.0)
    whole = writer.constant("decoded/shape", list(shape))
    found = add.operator("RESHAPE", [shares, whole], "map", shape=shape, options="Reshape", newShape=list(shape))
    writer.tensors[found].name = "probabilities"
    return found


def _boxes(writer: Writer, logits: int, codes: int) -> list[int]:
    add, spec = _Arithmetic(writer), writer.graph.spec
    low, high = _edges(add, codes, spec)
    sides = add.operator("SUB", [high, low], "sides", options="Sub")

    # The boxes as codes of an anchor that is the whole picture: y, x, height, width.
    both = add.operator("ADD", [low, high], "both", options="Add")
    middle = add.operator("MUL", [both, add.constant("half", [0.5])], "middle", options="Mul")
    middle = add.operator("SUB", [middle, add.constant("anchor/middle", [0.5])], "offset", options="Sub")
    positive = add.operator("MAXIMUM", [sides, add.constant("smallest", [_SMALLEST_SIDE])], "positive")
    sizes = add.operator("LOG", [positive], "logarithm")
    priors = writer.tensors[codes].shape[1]
    shape = (1, priors, 4)
    joined = add.operator("CONCATENATION", [middle, sizes], "joined", shape=shape, options="Concatenation", axis=2)
    order = writer.constant("decoded/order", [1, 0, 3, 2])
    encoded = add.operator("GATHER", [joined, order], "encoded", options="Gather", axis=2)
    anchors = add.constant("anchors", np.tile([0.5, 0.5, 1.0, 1.0], (priors, 1)))

    scores = _scores(add, logits, sides, spec)
    return _suppressed(writer, [encoded, scores, anchors], spec)


def _edges(add: _Arithmetic, codes: int, spec: ModelSpec) -> tuple[int, int]:
    """Left and top, and right and bottom, of the box of each prior, clipped to the picture: (1, priors, 2) each."""
    numbers = box_decoding(spec.input_size)
    priors = len(numbers.middles[0])
    pairs = []
    for k, what in enumerate(("xy", "sizes")):
        begin = add.writer.constant(f"decoded/{what}/begin", [0, 0, 2 * k])
        size = add.writer.constant(f"decoded/{what}/size", [1, priors, 2])
        pairs.append(
            add.operator("SLICE", [codes, begin, size], f"codes/{what}", shape=(1, priors, 2), options="Slice")
        )
    steps = add.operator("MUL", [pairs[0], add.constant("steps", numbers.steps)], "moved", options="Mul")
    middles = add.operator("ADD", [steps, add.constant("middles", numbers.middles)], "placed", options="Add")
    largest = add.constant("largest", [CODE_SCALES[2] * LARGEST_EXPONENT])
    limited = add.operator("MINIMUM", [pairs[1], largest], "limited")
    shares = add.operator("MUL", [limited, add.constant("scale", [1 / CODE_SCALES[2]])], "exponent", options="Mul")
    grown = add.operator("EXP", [shares], "grown", options="Exp")
    halves = add.operator("MUL", [grown, add.constant("halves", numbers.halves)], "reach", options="Mul")
    zero, one = add.constant("zero", [0.0]), add.constant("one", [1.0])
    edges = []
    for code, what in (("SUB", "low"), ("ADD", "high")):
        edge = add.operator(code, [middles, halves], what, options=code.title())
        edge = add.operator("MAXIMUM", [edge, zero], f"{what}/inside")
        edges.append(add.operator("MINIMUM", [edge, one], f"{what}/clipped"))
    return edges[0], edges[1]


def _scores(add: _Arithmetic, logits: int, sides: int, spec: ModelSpec) -> int:
    """The scores (1, priors, 1 + classes), zeros for boxes of which clipping left no area."""
    if spec.scores == "softmax":
        scores = add.operator("SOFTMAX", [logits], "all_scores", options="Softmax", beta=1.0)
    else:
        scores = add.operator("LOGISTIC", [logits], "all_scores")
    shape = (1, add.writer.tensors[sides].shape[1], 1)
    last = add.writer.constant("decoded/last", [2])
    smaller = add.operator("REDUCE_MIN", [sides, last], "smaller", shape=shape, options="Reducer", keepDims=True)
    zero = add.constant("nothing", [0.0])
    there = add.operator("GREATER", [smaller, zero], "there", dtype="bool", options="Greater")
    kinds = {"inDataType": tfl.TensorType.BOOL, "outDataType": tfl.TensorType.FLOAT32}
    there = add.operator("CAST", [there], "there/real", options="Cast", **kinds)
    return add.operator("MUL", [scores, there], "scores", options="Mul")


def _suppressed(writer: Writer, inputs: list[int], spec: ModelSpec) -> list[int]:
    shapes = {"boxes": (1, MAX_BOXES, 4), "labels": (1, MAX_BOXES), "scores": (1, MAX_BOXES), "count": (1,)}
    outputs = [writer.tensor(name, shape, "float32") for name, shape in shapes.items()]
    writer.operator(tfl.BuiltinOperator.CUSTOM, inputs, outputs[0], version=1)
    writer.operators[-1].outputs = outputs
    writer.operators[-1].customOptions = postprocess_options(spec.num_classes)
    return outputs


def postprocess_options(classes: int) -> NDArray[np.uint8]:
    """The operator's options: suppression class by class, as ``tasks.detection.nms``."""
    builder = flexbuffers.Builder()
    with builder.Map():
        for name, value in {
            "max_detections": MAX_BOXES,
            "max_classes_per_detection": 1,
            "detections_per_class": MAX_BOXES,
            "num_classes": classes,
        }.items():
            builder.Key(name)
            builder.Int(value)
        builder.Key("use_regular_nms")
        builder.Bool(True)
        scales = dict.fromkeys(("y_scale", "x_scale", "h_scale", "w_scale"), 1.0)
        for name, real in {
            "nms_score_threshold": EVALUATED_SCORE,
            "nms_iou_threshold": IOU_THRESHOLD,
            **scales,
        }.items():
            builder.Key(name)
            builder.Float(real)
    return np.frombuffer(bytes(builder.Finish()), np.uint8)
