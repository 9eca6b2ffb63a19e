"""What every target's writer takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fusiform.graph.ir import Graph
from fusiform.report import Cell
from fusiform.spec import ModelSpec

Precision = Literal["float32", "float16", "int8"]


TargetName = Literal["litert", "onnx", "torchscript", "openvino", "executorch", "coreml", "web"]


@dataclass(frozen=True)
class Written:
    """One model that a writer made: what to open, all of its files, and what the target has to say of it.

    ``path`` and ``files`` lie in the folder that the writer was given; a folder counts as one file.
    """

    path: Path
    files: tuple[Path, ...]
    figures: Mapping[str, Cell] = field(default_factory=dict)


def file_stem(spec: ModelSpec, precision: Precision) -> str:
    """What a target's files are called, but for their ending: those that answer otherwise lie beside the others."""
    return f"{spec.name}_{precision}{'_decoded' if spec.decoded else ''}{'_features' if spec.features else ''}"


Writer = Callable[[Graph, Precision, Path], list[Written]]
"""Write a graph into a folder, the spec inside: float32 graphs for ``float32`` and ``float16``, quantised for ``int8``.

The files are named by ``file_stem`` (``mobilenet_v2_x1_0_int8.tflite``), and the same graph gives the same bytes.
Raises MissingExtraError where the target's library is not installed.
"""
