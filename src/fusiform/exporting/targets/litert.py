"""LiteRT (TensorFlow Lite) files: phones, microcontrollers, and the default engine here."""

from __future__ import annotations

from pathlib import Path

from fusiform.exporting.targets.base import Precision, Written, file_stem
from fusiform.files import write_file
from fusiform.graph.ir import Graph
from fusiform.graph.tflite_metadata import to_described_tflite


def write(graph: Graph, precision: Precision, folder: Path) -> list[Written]:
    """Write NAME_PRECISION.tflite, with TensorFlow Lite's own metadata and label file beside the spec.

    What it reads and answers is the graph's: ``graph.conventions.for_litert`` gives it the form that readers expect.
    The flatbuffer is written by ``graph.tflite`` and not by a converter: no operator is added, nothing has to be
    installed, and ShuffleNetV2 comes out without its shuffle.
    """
    path = folder / f"{file_stem(graph.spec, precision)}.tflite"
    write_file(path, to_described_tflite(graph, half=precision == "float16"))
    return [Written(path, (path,))]
