"""Everything a model says of itself, and what can be counted in it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

from fusiform.errors import FusiformError
from fusiform.graph.build import outline
from fusiform.graph.count import count_multiply_adds, count_parameters
from fusiform.graph.ir import reads_pixels
from fusiform.graph.shapes import state_shapes
from fusiform.report import Cell, Report
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
        "megabytes": round(size_of(opened) / 1e6, 3),
        "parameters": count_parameters(graph),
        "multiply_adds": count_multiply_adds(graph),
        "classes": spec.num_classes,
        "first_classes": ", ".join(spec.labels[:5]) + (", ..." if spec.num_classes > 5 else ""),
        "input_size": spec.input_size,
        "input_channels": spec.input_channels,
        "padding": spec.padding,
        **_reads(opened),
        "output": spec.output,
        **_of_task(spec),
        "resize": preprocess.resize,
        "crop": preprocess.crop,
        **({} if spec.task == "classification" else {"fit": preprocess.fit}),
        "interpolation": preprocess.interpolation,
        "antialias": preprocess.antialias,
        "mean": ", ".join(f"{value:g}" for value in preprocess.mean),
        "std": ", ".join(f"{value:g}" for value in preprocess.std),
        "color_order": preprocess.color_order,
        "provenance": spec.provenance,
        "license": spec.license,
        "spec_version": spec.version,
    }
    rows: tuple[Mapping[str, Cell], ...] = tuple(
        {
            "measured on": accuracy.dataset,
            "top1": accuracy.top1,
            "top5": accuracy.top5,
            "pictures": accuracy.pictures,
            "measured by": accuracy.source,
        }
        for accuracy in spec.accuracy
    )
    return Report(f"{spec.name}: {opened.path.name}", rows, figures)


def _reads(model: Model) -> dict[str, Cell]:
    """What a LiteRT or ONNX file takes; nothing of weights, which no runtime reads as they are."""
    if model.format == "tflite":
        from fusiform.graph.tflite import input_type

        kind = input_type(model.data)
    elif model.format == "onnx":
        kind = "uint8" if reads_pixels(model.graph()) else "float32"
    else:
        return {}
    forms = {"int8": "pixels less 128 (int8)", "uint8": "pixels (uint8)", "float32": "normalised pictures (float32)"}
    return {"reads": forms[kind]}


def _of_task(spec: ModelSpec) -> dict[str, Cell]:
    """What a detector or a segmenter has to say beside what classifiers do."""
    if spec.task == "classification":
        return {}
    answers = {name: "x".join(map(str, shape)) for name, shape in spec.answers.items()}
    figures: dict[str, Cell] = {"decoded": True} if spec.decoded else {}
    figures |= {name: shape for name, shape in answers.items() if (name, spec.decoded) != ("scores", True)}
    if spec.task == "detection":
        return figures | {"scores": spec.scores}
    return figures | {"output_stride": spec.output_stride, "aspp": spec.aspp, "align_corners": spec.align_corners}


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
    return "float16" if size_of(model) < 3 * count_parameters(graph) else "float32"


def size_of(model: Model) -> int:
    """The bytes of a model's file, with the weights that OpenVINO keeps beside it, or of its folder."""
    if model.path.is_dir():
        return sum(path.stat().st_size for path in model.path.rglob("*") if path.is_file())
    files = [model.path]
    if model.format == "openvino":
        files.append(model.path.with_suffix(".bin"))
    return sum(path.stat().st_size for path in files if path.is_file())
