"""ONNX files: servers, Windows, and everything that imports them."""

from __future__ import annotations

import json
from pathlib import Path

from fusiform.exporting.targets.base import Precision, Written, file_stem
from fusiform.exporting.targets.model_info import model_info
from fusiform.files import write_file
from fusiform.graph.ir import Graph, reads_pixels
from fusiform.graph.onnx import to_onnx


def write(graph: Graph, precision: Precision, folder: Path) -> list[Written]:
    """Write NAME_PRECISION.onnx for batches of any size, with labels and preprocessing in ``metadata_props``.

    Written by ``graph.onnx`` from the list of operators, with batch normalisation folded away, rather than by
    PyTorch's exporter and a simplifier after it; the tests hold both against each other.
    """
    spec = graph.spec
    # What other readers of ONNX files look for: class names by number. A task tells them how to decode the answers,
    # and the detectors and segmenters that they know answer otherwise.
    names = {str(k): label for k, label in enumerate(spec.labels)}
    metadata = {"imgsz": json.dumps([spec.input_size] * 2), "names": json.dumps(names)}
    if spec.task == "classification":
        metadata = {"task": "classify", **metadata}  # the word that these programs know
    info = model_info(spec, reads_pixels=reads_pixels(graph))
    metadata |= {f"model_info {key}": value for key, value in info.items()}
    path = folder / f"{file_stem(spec, precision)}.onnx"
    write_file(path, to_onnx(graph, half=precision == "float16", metadata=metadata))
    return [Written(path, (path,))]
