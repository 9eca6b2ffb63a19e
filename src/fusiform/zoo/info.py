"""Everything a model says of itself, and what can be counted in it."""

from __future__ import annotations

import os
from collections.abc import Mapping

from fusiform.graph.count import count_multiply_adds, count_parameters
from fusiform.report import Cell, Report
from fusiform.zoo.model import open_model


def describe(model: str | os.PathLike[str]) -> Report:
    """What a model file says of itself, its parameters, multiply-adds and size, without PyTorch but for .pth files.

    Raises what ``open_model`` raises.
    """
    opened = open_model(model)
    spec, graph = opened.spec, opened.graph()
    preprocess = spec.preprocess
    size = opened.path.stat().st_size
    figures: dict[str, Cell] = {
        "network": spec.name,
        "task": spec.task,
        "file": str(opened.path),
        "format": opened.format,
        "precision": "int8" if graph.quantization else "float32",
        "megabytes": round(size / 1e6, 3),
        "parameters": count_parameters(graph),
        "multiply_adds": count_multiply_adds(graph),
        "classes": spec.num_classes,
        "first_classes": ", ".join(spec.labels[:5]) + (", ..." if spec.num_classes > 5 else ""),
        "input_size": spec.input_size,
        "input_channels": spec.input_channels,
        "padding": spec.padding,
        "output": spec.output,
        "resize": preprocess.resize,
        "crop": preprocess.crop,
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
