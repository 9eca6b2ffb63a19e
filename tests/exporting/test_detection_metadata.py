"""TensorFlow Lite's metadata of a detector that decodes its boxes itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from flatbuffers import number_types
from flatbuffers.table import Table

from fusiform.analysis import graph_of_zeros
from fusiform.exporting.targets.targets import TARGETS
from fusiform.graph.flatbuffer import read_metadata
from fusiform.graph.priors import SCORE_THRESHOLD
from fusiform.spec import ModelSpec


def strings(table: Table, field: int) -> list[str]:
    at = table.Offset(4 + 2 * field)
    first = table.Vector(at)
    return [table.String(first + 4 * k).decode() for k in range(table.VectorLen(at))]


def text(table: Table, field: int) -> str:
    return str(table.String(table.Pos + table.Offset(4 + 2 * field)).decode())


def tables(table: Table, field: int) -> list[Table]:
    at = table.Offset(4 + 2 * field)
    if not at:
        return []
    first = table.Vector(at)
    return [Table(table.Bytes, table.Indirect(first + 4 * k)) for k in range(table.VectorLen(at))]


def child(table: Table, field: int) -> Table:
    return Table(table.Bytes, table.Indirect(table.Pos + table.Offset(4 + 2 * field)))


def number(table: Table, field: int, flags: Any) -> Any:
    at = table.Offset(4 + 2 * field)
    return table.Get(flags, table.Pos + at) if at else 0


def test_metadata_name_the_four_outputs(tmp_path: Path) -> None:
    """As MediaPipe's and the Task Library's writers have them: names, group, order of edges, labels by value."""
    labels = ("fox", "barn owl", "newt", "ibis")
    graph = graph_of_zeros(ModelSpec("mobilenet_v2", 0.35, labels, task="detection"))
    graph = dataclasses.replace(graph, spec=graph.spec.replace(decoded=True))
    (written,) = TARGETS["litert"].writer()(graph, "float32", tmp_path)
    data = written.path.read_bytes()
    metadata = bytearray(read_metadata(data, source="file", key="TFLITE_METADATA"))
    model = Table(metadata, int.from_bytes(metadata[:4], "little"))
    assert text(model, 7) == "1.2.0"  # the first version of the schema with groups of outputs
    (subgraph,) = tables(model, 3)
    outputs = tables(subgraph, 3)
    assert [text(output, 0) for output in outputs] == ["location", "category", "score", "number of detections"]
    (group,) = tables(subgraph, 8)
    assert text(group, 0) == "detection_result"
    assert strings(group, 1) == ["location", "category", "score"]
    location, category, score, _ = outputs
    content = child(location, 3)
    assert number(content, 0, number_types.Uint8Flags) == 3  # BoundingBoxProperties
    properties = child(content, 1)
    at = properties.Offset(4)
    first = properties.Vector(at)
    assert [properties.Get(number_types.Uint32Flags, first + 4 * k) for k in range(4)] == [1, 0, 3, 2]
    assert number(properties, 1, number_types.Int8Flags) == 1  # BOUNDARIES
    assert number(properties, 2, number_types.Int8Flags) == 0  # RATIO
    span = child(content, 2)
    assert [number(span, field, number_types.Int32Flags) for field in (0, 1)] == [2, 2]
    (file,) = tables(category, 6)
    assert text(file, 0) == "labels.txt"
    assert number(file, 2, number_types.Int8Flags) == 3  # TENSOR_VALUE_LABELS
    (unit,) = tables(score, 4)
    assert number(unit, 0, number_types.Uint8Flags) == 3  # ScoreThresholdingOptions
    threshold = child(unit, 1)
    assert number(threshold, 0, number_types.Float32Flags) == pytest.approx(SCORE_THRESHOLD)
