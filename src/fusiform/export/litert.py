"""LiteRT (TensorFlow Lite) files: phones, microcontrollers, and the default engine here."""

from __future__ import annotations

from pathlib import Path

from fusiform.export.targets import Precision, Written
from fusiform.files import write_file
from fusiform.graph.ir import Center, Graph
from fusiform.graph.tflite import to_tflite
from fusiform.graph.tflite_metadata import LABEL_FILE, METADATA_NAME, attach_files, make_label_file, make_metadata


def write(graph: Graph, precision: Precision, folder: Path) -> list[Written]:
    """Write NAME_PRECISION.tflite, with TensorFlow Lite's own metadata and label file beside the spec.

    The flatbuffer is written by ``graph.tflite`` and not by a converter: no operator is added, nothing has to be
    installed, and ShuffleNetV2 comes out without its shuffle.
    """
    spec = graph.spec
    if graph.quantization is not None:
        metadata = make_metadata(spec, reads="int8")
    else:
        metadata = make_metadata(spec, reads="uint8" if isinstance(graph.nodes[0], Center) else "normalized")
    data = to_tflite(graph, half=precision == "float16", metadata={METADATA_NAME: metadata})
    path = folder / f"{spec.name}_{precision}.tflite"
    write_file(path, attach_files(data, {LABEL_FILE: make_label_file(spec)}))
    return [Written(path, (path,))]
