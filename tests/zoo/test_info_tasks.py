"""What a detector's and a segmenter's file says of itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusiform.graph.build import build_graph
from fusiform.graph.shapes import state_shapes
from fusiform.graph.tflite import to_tflite
from fusiform.report import Report
from fusiform.spec import ModelSpec, Preprocess
from fusiform.zoo.info import describe

COMMON = {"format": "tflite", "precision": "float32", "classes": 3, "input_size": 97, "resize": 97, "crop": 97}


def describe_file(folder: Path, fit: Any, **fields: Any) -> Report:
    preprocess = Preprocess(resize=97, crop=97, fit=fit)
    spec = ModelSpec("mobilenet_v2", 0.35, ("a", "b", "c"), input_size=97, preprocess=preprocess, **fields)
    state = {name: np.ones(shape, np.float32) for name, shape in state_shapes(spec).items()}
    (folder / "model.tflite").write_bytes(to_tflite(build_graph(spec, state)))
    return describe(folder / "model.tflite")


def test_a_detector(tmp_path: Path, valid: Callable[..., Any]) -> None:
    report = describe_file(tmp_path, "stretch", task="detection", scores="sigmoid")
    figures = report.figures
    # Maps of 7, 4, 2, 1, 1 and 1 cells a side at 97 pixels; three priors a cell on the first, six on the others.
    priors = 3 * 7**2 + 6 * (4**2 + 2**2 + 1 + 1 + 1)
    wanted = {"network": "ssdlite_mobilenet_v2_x0_35", "task": "detection", "scores": "sigmoid", "fit": "stretch"}
    assert {**figures, **COMMON, **wanted} == figures
    assert figures["output_stride"] is figures["temperature"] is None
    answers = [{"answer": name, "shape": [priors, 4]} for name in ("logits", "codes")]
    assert valid(report.to_json())["answers"] == answers


def test_a_segmenter(tmp_path: Path, valid: Callable[..., Any]) -> None:
    report = describe_file(tmp_path, "pad", task="segmentation", output_stride=16, aspp=True, align_corners=False)
    figures = report.figures
    wanted = {"network": "deeplab_v3_mobilenet_v2_x0_35", "task": "segmentation", "fit": "pad"}
    wanted |= {"output_stride": 16, "aspp": True, "align_corners": False}
    assert {**figures, **COMMON, **wanted} == figures
    assert figures["scores"] is None
    assert valid(report.to_json())["answers"] == [{"answer": "logits", "shape": [7, 7, 3]}]


def test_a_program_is_counted_as_its_network(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from fusiform.exporting.targets.torchscript import write

    preprocess = Preprocess(resize=65, crop=65, fit="stretch")
    spec = ModelSpec("shufflenet_v2", 0.5, ("a",), task="detection", input_size=65, preprocess=preprocess)
    state = {name: np.ones(shape, np.float32) for name, shape in state_shapes(spec).items()}
    graph = build_graph(spec, state)
    (tmp_path / "model.tflite").write_bytes(to_tflite(graph))
    program = write(graph, "float32", tmp_path)[0].path
    counted, expected = describe(program), describe(tmp_path / "model.tflite")
    for name in ("parameters", "multiply_adds"):
        assert counted.figures[name] == expected.figures[name]
    assert counted.tables["answers"] == expected.tables["answers"]
