"""Everything a model says of itself, and what can be counted in it."""

from __future__ import annotations

import math
import os

from fusiform.errors import FusiformError
from fusiform.graph.build import outline
from fusiform.graph.count import count_multiply_adds, count_parameters
from fusiform.graph.ir import reads_pixels
from fusiform.graph.shapes import state_shapes
from fusiform.report import Cell, Report, Row
from fusiform.spec import ModelSpec
from fusiform.zoo.model import PROGRAMS, Model, open_model


def describe(model: str | os.PathLike[str]) -> Report:
    """What a model file says of itself, its parameters, multiply-adds and size, without PyTorch but for .pth files.

    Raises what ``open_model`` raises.
    """
    opened = open_model(model)
    spec, preprocess = opened.spec, opened.spec.preprocess
    # Of a program what can be counted follows from the network.
    graph = outline(spec) if opened.format in PROGRAMS else opened.graph()
    figures: dict[str, Cell] = {
        "network": spec.name,
        "task": spec.task,
        "file": str(opened.path),
        "format": opened.format,
        "precision": precision_of(opened),
        "bytes": size_of(opened),
        "parameters": count_parameters(graph),
        "multiply_adds": count_multiply_adds(graph),
        "classes": spec.num_classes,
        "labels": spec.labels,
        "label_ids": spec.label_ids or None,
        "input_size": spec.input_size,
        "input_channels": spec.input_channels,
        "padding": spec.padding,
        "input_type": _input_type(opened),
        "output": spec.output,
        **_of_task(spec),
        "resize": preprocess.resize,
        "crop": preprocess.crop,
        "fit": preprocess.fit,
        "interpolation": preprocess.interpolation,
        "antialias": preprocess.antialias,
        "mean": preprocess.mean,
        "std": preprocess.std,
        "color_order": preprocess.color_order,
        "provenance": spec.provenance or None,
        "license": spec.license or None,
    }
    answers: list[Row] = [{"answer": name, "shape": shape} for name, shape in spec.answers.items()]
    measured: list[Row] = [
        {
            "measured_on": accuracy.dataset,
            "top1": accuracy.top1,
            "top5": accuracy.top5,
            "images": accuracy.pictures,
            "measured_by": accuracy.source,
        }
        for accuracy in spec.accuracy
    ]
    tables = {"answers": answers, "accuracy": measured}
    return Report(f"{spec.name}: {opened.path.name}", (), figures, tables, "fusiform.model/1")


def _input_type(model: Model) -> str | None:
    """What a LiteRT or ONNX file takes; None for weights, which no runtime reads as they are.

    ``uint8`` are pixels, ``int8`` pixels less 128, ``float32`` normalised images.
    """
    if model.format == "tflite":
        from fusiform.graph.tflite import input_type

        return input_type(model.data)
    if model.format == "onnx":
        return "uint8" if reads_pixels(model.graph()) else "float32"
    return None


def _of_task(spec: ModelSpec) -> dict[str, Cell]:
    """What the description says for some tasks alone; None for the others."""
    detector, segmenter = spec.task == "detection", spec.task == "segmentation"
    return {
        "temperature": spec.temperature if spec.task == "classification" else None,
        "decoded": None if spec.task == "classification" else spec.decoded,
        "scores": spec.scores if detector else None,
        "output_stride": spec.output_stride if segmenter else None,
        "aspp": spec.aspp if segmenter else None,
        "align_corners": spec.align_corners if segmenter else None,
    }


def precision_of(model: Model) -> str | None:
    """What a model file's weights are stored in, ``float32``, ``float16`` or ``int8``; None where it does not tell."""
    if model.format == "openvino":
        stored = model.data  # the description; the weights lie beside it
        return "int8" if b'element_type="i8"' in stored else "float16" if b'element_type="f16"' in stored else "float32"
    if model.format == "executorch":  # fusiform makes no others, and four bytes a weight are not to be missed
        spec = model.spec
        shapes = state_shapes(spec)
        return "int8" if len(model.data) < 3 * sum(map(math.prod, shapes.values())) else "float32"
    if model.format == "torchscript":
        return "float32"
    try:
        graph = model.graph()
    except FusiformError:
        return None
    if graph.quantization:
        return "int8"
    stored_bytes = len(model.data) or size_of(model)  # of a page, the model in it
    return "float16" if stored_bytes < 3 * count_parameters(graph) else "float32"


def size_of(model: Model) -> int:
    """The bytes of a model's file, with the weights that OpenVINO keeps beside it, or of its folder."""
    if model.path.is_dir():
        return sum(path.stat().st_size for path in model.path.rglob("*") if path.is_file())
    files = [model.path]
    if model.format == "openvino":
        files.append(model.path.with_suffix(".bin"))
    return sum(path.stat().st_size for path in files if path.is_file())
