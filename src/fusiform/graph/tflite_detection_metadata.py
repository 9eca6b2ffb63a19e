"""The metadata of the four outputs of TFLite files that decode boxes themselves.

Names, order, the places of edges and the group are those by which MediaPipe and the Task Library know a detector
(mediapipe/tasks/python/metadata/metadata_writers, ``add_detection_output``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from fusiform.graph.priors import EVALUATED_SCORE, MAX_BOXES, SCORE_THRESHOLD

OUTPUT_GROUPS = 8
"""The field of a subgraph's metadata that says which outputs belong together."""
PARSER_VERSION = "1.2.0"
"""The first version of the schema with ``OUTPUT_GROUPS``."""

_FEATURE_PROPERTIES, _BOUNDING_BOX_PROPERTIES = 1, 3  # union ContentProperties
_BOUNDARIES = 1  # enum BoundingBoxType; edges as shares of the picture are CoordinateType 0
_SCORE_THRESHOLDING_OPTIONS = 3  # union ProcessUnitOptions
_TENSOR_VALUE_LABELS = 3  # enum AssociatedFileType
_EDGES = (1, 0, 3, 2)  # where left, top, right and bottom lie in a row
_GROUPED = ("location", "category", "score")


class Writer(Protocol):
    """What ``graph.tflite_metadata`` writes them with: each method answers with the distance of what it wrote."""

    builder: Any

    def table(self, distances: Mapping[int, int], *, small: Mapping[int, int] | None = None) -> int: ...

    def tables(self, distances: Sequence[int]) -> int: ...

    def text(self, text: str) -> int: ...

    def texts(self, texts: Sequence[str]) -> int: ...

    def stats(self, smallest: Any, largest: Any) -> int: ...


def detection_outputs(writer: Writer, label_file: str) -> list[int]:
    """The tensors of boxes, classes, scores and their number, in that order."""
    what = {
        "location": f"The top, left, bottom and right of {MAX_BOXES} boxes, as shares of the picture.",
        "category": "The class of each box, a line of the label file.",
        "score": f"The score of each box, highest first; those below {EVALUATED_SCORE} are left out.",
        "number of detections": "How many boxes there are; what comes after them means nothing.",
    }
    tensors = []
    for name, description in what.items():
        fields = {0: writer.text(name), 1: writer.text(description)}
        if name != "number of detections":
            fields[2] = writer.texts(["batch", "boxes", "coordinates"][: 3 if name == "location" else 2])
            fields[3] = _content(writer, name)
        if name == "category":
            file = {0: writer.text(label_file), 1: writer.text("The names of the classes.")}
            fields[6] = writer.tables([writer.table(file, small={2: _TENSOR_VALUE_LABELS})])
        if name == "score":
            fields[4] = writer.tables([_threshold(writer)])
            fields[5] = writer.stats(0, 1)
        tensors.append(writer.table(fields))
    return tensors


def output_groups(writer: Writer) -> int:
    """The group of outputs that describe one box each."""
    group = writer.table({0: writer.text("detection_result"), 1: writer.texts(_GROUPED)})
    return writer.tables([group])


def _content(writer: Writer, name: str) -> int:
    """What a tensor holds for each value of its second axis: an edge of a box, or a number."""
    builder = writer.builder
    builder.StartObject(2)
    for field in (0, 1):  # the smallest and the largest axis that a box's values lie along
        builder.PrependInt32Slot(field, 2, 0)
    axes = int(builder.EndObject())
    if name == "location":
        places = int(builder.CreateNumpyVector(np.array(_EDGES, np.uint32)))
        kind, properties = _BOUNDING_BOX_PROPERTIES, writer.table({0: places}, small={1: _BOUNDARIES})
    else:
        kind, properties = _FEATURE_PROPERTIES, writer.table({})
    return writer.table({1: properties, 2: axes}, small={0: kind})


def _threshold(writer: Writer) -> int:
    """Below which score programs leave boxes out unless they are told otherwise: as ``fusiform predict``."""
    builder = writer.builder
    builder.StartObject(1)
    builder.PrependFloat32Slot(0, SCORE_THRESHOLD, 0.0)
    return writer.table({1: int(builder.EndObject())}, small={0: _SCORE_THRESHOLDING_OPTIONS})
