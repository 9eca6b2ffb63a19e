"""Rows of every task: Parquet holds what JSON lines hold, nested, and both are counted."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

from fusiform.certainty import Certainty, Decision, Sets, Table, Threshold
from fusiform.prediction.results import Prediction
from fusiform.scaling.rows import ROW_GROUP, PartFormat, count_rows, rows_to
from fusiform.spec import ModelSpec, Task
from fusiform.tasks.classification import Classification, Guess
from fusiform.tasks.detection import Box, Detections
from fusiform.tasks.segmentation import SegmentationMap

SPECS: dict[Task, ModelSpec] = {
    "classification": ModelSpec("mobilenet_v2", 1.0, ("cat", "hen")),
    "detection": ModelSpec("mobilenet_v2", 1.0, ("cat", "dog"), task="detection"),
    "segmentation": ModelSpec("mobilenet_v2", 1.0, ("ground", "cat"), task="segmentation", output_stride=16),
}
ANSWERS: dict[Task, Prediction] = {
    "classification": Prediction("a.png", Classification("a.png", (Guess(3, "cat", 0.75), Guess(0, "hen", 0.2)))),
    "detection": Prediction("a.png", detections=Detections((Box(1, "dog", 0.5, 1.0, 2.0, 3.0, 4.5),), 30, 20)),
    "segmentation": Prediction("a.png", segmentation=SegmentationMap(np.eye(4, dtype=np.uint8), ("ground", "cat"))),
}


def written(form: PartFormat, spec: ModelSpec, answers: list[Prediction]) -> io.BytesIO:
    file = io.BytesIO()
    rows = rows_to(file, form, spec)
    for answer in answers:
        rows.add(answer)
    rows.close()
    file.seek(0)
    return file


@pytest.mark.parametrize("task", ANSWERS)
def test_parquet_holds_what_json_lines_hold(task: Task) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    answers = [ANSWERS[task], Prediction("b\udcff.png", error="b\udcff.png: none"), ANSWERS[task]]
    lines = [json.loads(line) for line in written("jsonl", SPECS[task], answers)]
    rows = parquet.read_table(written("parquet", SPECS[task], answers)).to_pylist()
    assert lines[1]["path"] == "b\udcff.png"  # the name of the file, to be opened by
    assert rows[1]["path"] == "b\\udcff.png"  # Parquet's texts are UTF-8
    for k in (0, 2):
        assert {key: value for key, value in lines[k].items() if key != "mask"} == rows[k]
    assert {value for key, value in rows[1].items() if key not in ("path", "error")} == {None}
    for form in ("jsonl", "parquet"):
        assert count_rows(written(form, SPECS[task], answers), form) == (3, 1)  # type: ignore[arg-type]


def test_a_calibrated_models_rows_have_its_promises() -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    spec = SPECS["classification"].replace(certainty=Certainty(Sets("lac", Table(1, (1,), (0.5,))), None, 1, "val"))
    top = (Guess(0, "cat", 0.75), Guess(1, "hen", 0.25))
    answers = [
        Prediction("a.png", Classification("a.png", top, top, 0.25, 0.9)),
        Prediction("b.png", Classification("b.png", top, top[:1], None, 0.9)),
    ]
    lines = [json.loads(line) for line in written("jsonl", spec, answers)]
    assert parquet.read_table(written("parquet", spec, answers)).to_pylist() == lines
    assert [(line["known"], line["p_known"], len(line["set"])) for line in lines] == [(True, 0.25, 2), (None, None, 1)]
    decision = Decision((Threshold(1, 0.2),))
    ruled = spec.replace(certainty=Certainty(Sets("lac", Table(1, (1,), (0.5,))), None, 1, "val", decision=decision))
    given = [
        Prediction("a.png", Classification("a.png", (top[1], top[0]), top, 0.25, 0.9, "thresholds", top[1])),
        Prediction("b.png", Classification("b.png", top, top[:1], None, 0.9, "thresholds")),
    ]
    decided = [json.loads(line) for line in written("jsonl", ruled, given)]
    assert parquet.read_table(written("parquet", ruled, given)).to_pylist() == decided
    # A part of errors alone has the same columns, so that all are one table.
    names = parquet.read_table(written("parquet", spec, [Prediction("c.png", error="none")])).column_names
    assert names == [*list(lines[0])[:3], "set", "known", "p_known", "certain"]


def test_more_rows_than_a_group() -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    answers = [Prediction(f"{k}.png", error="none") for k in range(ROW_GROUP + 1)]
    file = parquet.ParquetFile(written("parquet", SPECS["detection"], answers))
    assert (file.metadata.num_rows, file.metadata.num_row_groups) == (ROW_GROUP + 1, 2)


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_what_is_no_part_is_not_counted(form: PartFormat) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(ValueError, match=r"\w"):
        count_rows(io.BytesIO(b"half a row"), form)
