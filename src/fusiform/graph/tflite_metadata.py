"""What TensorFlow Lite's own tools read of a model: its metadata, and the label file in the archive at its end.

Android Studio, MediaPipe and the TFLite Support library look for a flatbuffer under ``TFLITE_METADATA`` (the schema:
github.com/tensorflow/tflite-support, metadata_schema.fbs 1.0.0), which names files that a zip archive behind the model
holds. The fields' numbers below are their positions in that schema's tables.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import flatbuffers
import numpy as np

from fusiform.errors import SpecError, WeightsError
from fusiform.graph.ir import Graph, reads_pixels
from fusiform.graph.tflite import to_tflite
from fusiform.graph.tflite_detection_metadata import OUTPUT_GROUPS, PARSER_VERSION, detection_outputs, output_groups
from fusiform.spec import FEATURES, ModelSpec

METADATA_NAME = "TFLITE_METADATA"
"""The name of the metadata entry in the TFLite file."""
LABEL_FILE = "labels.txt"

Reads = Literal["normalized", "uint8"]

_FILE_IDENTIFIER = b"M001"
_SCHEMA_VERSION = "1.0.0"
_FEATURE_PROPERTIES, _IMAGE_PROPERTIES = 1, 2  # union ContentProperties
_RGB = 1  # enum ColorSpaceType, which has no other order: 0 is "unknown"
_NORMALIZATION_OPTIONS = 1  # union ProcessUnitOptions
_DESCRIPTIONS, _TENSOR_AXIS_LABELS = 1, 2  # enum AssociatedFileType
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # the first moment that a zip archive can name
_MAX_LABEL_FILE = 1 << 24  # bytes; a file that unpacks to more is no list of labels


def to_described_tflite(graph: Graph, *, half: bool = False) -> bytes:
    """The graph as ``to_tflite`` writes it, with TensorFlow Lite's own metadata and label file beside the spec.

    Raises SpecError for labels that no label file can hold.
    """
    reads: Reads = "uint8" if reads_pixels(graph) else "normalized"
    data = to_tflite(graph, half=half, metadata={METADATA_NAME: make_metadata(graph.spec, reads=reads)})
    return attach_files(data, {LABEL_FILE: make_label_file(graph.spec)})


def make_metadata(spec: ModelSpec, *, reads: Reads) -> bytes:
    """The metadata of a model with one input and the spec's answers, as the flatbuffer under ``METADATA_NAME``.

    ``reads`` is what the input takes: float32 pictures that the application normalises, with the mean and standard
    deviation of pixel values 0..255 that the metadata then hold; or pixels as uint8. The metadata of the logits (or
    probabilities, with their range) name ``LABEL_FILE``.
    """
    return _Writer(spec, reads).finish()


def make_label_file(spec: ModelSpec) -> bytes:
    """The labels in the order of the outputs, one a line, in UTF-8.

    Raises SpecError for a label that is blank or has a line break, because every reader would count the lines wrong.
    """
    for label in spec.labels:
        if not label.strip() or "\n" in label or "\r" in label:
            raise SpecError(
                f"{spec.name}: no label file can hold {label!r}, which is not a line of text: rename the class"
            )
    return "".join(f"{label}\n" for label in spec.labels).encode()


def attach_files(tflite: bytes, files: Mapping[str, bytes]) -> bytes:
    """Append ``files`` (contents by name) to a TFLite file as a zip archive, as TensorFlow Lite's tools do.

    The flatbuffer is unchanged, the archive not compressed and without times, so that the same files give the same
    bytes; an archive that the model has already grows by them. Distances are counted from the model's first byte: the
    result opens as a zip archive.
    """
    whole = io.BytesIO(tflite)
    with zipfile.ZipFile(whole, "a", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _EARLIEST)
            entry.create_system = 3  # Unix, wherever it is written
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    return whole.getvalue()


def read_label_file(data: bytes, *, source: str = "the file") -> tuple[str, ...] | None:
    """The labels that the archive at a TFLite file's end holds in ``LABEL_FILE``; None where there is no such file.

    Raises WeightsError, which names ``source``, for an archive that is damaged or a label file that is not UTF-8 text.
    """
    stream = io.BytesIO(data)
    if not zipfile.is_zipfile(stream):
        return None
    try:
        with zipfile.ZipFile(stream) as archive:
            if LABEL_FILE not in archive.namelist():
                return None
            entry = archive.getinfo(LABEL_FILE)
            # The readers of such files know no other; and zipfile unpacks these two alone no further than it is asked.
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise WeightsError(
                    f"{source}: its {LABEL_FILE} is compressed in a way that no reader of such files knows; write the "
                    "file again"
                )
            with archive.open(entry) as file:
                text = file.read(_MAX_LABEL_FILE + 1)
        if len(text) > _MAX_LABEL_FILE:
            raise WeightsError(f"{source}: its {LABEL_FILE} is too large for a list of labels; write the file again")
        return tuple(text.decode().replace("\r\n", "\n").removesuffix("\n").split("\n"))
    # What zipfile raises for damaged archives, encrypted files and compressions that it does not know.
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, UnicodeDecodeError, ValueError) as error:
        raise WeightsError(f"{source}: its {LABEL_FILE} cannot be read ({error}); write the file again") from None


class _Writer:
    """Children before parents, as flatbuffers want it: every method returns the distance of what it wrote."""

    def __init__(self, spec: ModelSpec, reads: Reads) -> None:
        self.spec = spec
        self.reads = reads
        self.builder = flatbuffers.Builder(1024)

    def finish(self) -> bytes:
        spec = self.spec
        does = {
            "classification": "Names what a photograph shows: one of",
            "detection": "Finds the objects that a photograph shows: boxes of",
            "segmentation": "Names what each pixel of a photograph shows: one of",
        }[spec.task]
        description = f"{does} {spec.num_classes} classes. {spec.provenance}"
        parts = {2: self.tables([self.input()]), 3: self.tables(self.outputs())}
        grouped = spec.decoded and spec.task == "detection"
        if grouped:
            parts[OUTPUT_GROUPS] = output_groups(self)
        subgraph = self.table(parts)
        fields = {
            0: self.text(spec.name),
            1: self.text(description.rstrip()),
            3: self.tables([subgraph]),
            7: self.text(PARSER_VERSION if grouped else _SCHEMA_VERSION),
        }
        if spec.license:
            fields[5] = self.text(spec.license)
        self.builder.Finish(self.table(fields), file_identifier=_FILE_IDENTIFIER)
        return bytes(self.builder.Output())

    def input(self) -> int:
        preprocess, pictures = self.spec.preprocess, self.spec.input_channels == 3
        mean, std = (255 * np.asarray(values, np.float32) for values in (preprocess.mean, preprocess.std))
        fields = {
            0: self.text("image"),
            1: self.text(self.input_description()),
            2: self.texts(["batch", "height", "width", "channels"]),
            3: self.image_content() if pictures else self.content(_FEATURE_PROPERTIES, self.table({})),
        }
        if self.reads == "uint8":
            fields[5] = self.stats(0, 255)
        elif pictures:
            options = self.table({0: self.floats(mean), 1: self.floats(std)})
            unit = self.table({1: options}, small={0: _NORMALIZATION_OPTIONS})
            fields[4] = self.tables([unit])
            fields[5] = self.stats(-mean / std, (255 - mean) / std)
        return self.table(fields)

    def input_description(self) -> str:
        preprocess = self.spec.preprocess
        if self.spec.input_channels != 3:
            return f"{self.spec.input_channels} channels, normalised"
        form = {
            "normalized": "less the mean and divided by the standard deviation of each",
            "uint8": "0 to 255",
        }[self.reads]
        order = "red, green, blue" if preprocess.color_order == "rgb" else "blue, green, red"
        how = f"({preprocess.interpolation}{', antialiased' if preprocess.antialias else ''})"
        side, square = f"{preprocess.resize} pixels {how}", f"{preprocess.crop} x {preprocess.crop}"
        fit = {
            "crop": f"its shorter side resized to {side}, of which the central {square} are taken",
            "stretch": f"all of it resized to {square} pixels {how}, whatever its aspect",
            "pad": f"its longer side resized to {side}, at the top left of {square} of the mean colour",
        }[preprocess.fit]
        return f"A photograph, {fit}: {order}, {form}"

    def image_content(self) -> int:
        self.builder.StartObject(2)
        self.builder.PrependUint32Slot(0, self.spec.input_size, 0)
        self.builder.PrependUint32Slot(1, self.spec.input_size, 0)
        size = self.builder.EndObject()
        rgb = {0: _RGB} if self.spec.preprocess.color_order == "rgb" else {}
        return self.content(_IMAGE_PROPERTIES, self.table({1: size}, small=rgb))

    def outputs(self) -> list[int]:
        """The metadata of each answer; the first, of which the last axis are the classes, has the label file."""
        if self.spec.decoded and self.spec.task == "detection":
            return detection_outputs(self, LABEL_FILE)
        if self.spec.task == "detection":
            scores = self.output("logits", ["batch", "priors", "classes"], labels=_DESCRIPTIONS)
            return [scores, self.output("codes", ["batch", "priors", "coordinates"], labels=None)]
        axes = ["rows", "columns", "classes"] if self.spec.task == "segmentation" else ["classes"]
        name, *others = self.spec.answers
        answers = [self.output(name, ["batch", *axes], labels=_TENSOR_AXIS_LABELS)]
        return answers + [self.output(other, ["batch", "channels"], labels=None) for other in others]

    def output(self, name: str, axes: Sequence[str], *, labels: int | None) -> int:
        """``labels`` is what the label file is to this output: with a line for each class of the last axis, or not."""
        files = []
        if labels is not None:
            before = "" if labels == _TENSOR_AXIS_LABELS else ", which have the background before them"
            names = self.text(LABEL_FILE), self.text(f"The names of the classes, in the order of the outputs{before}.")
            files.append(self.table(dict(enumerate(names)), small={2: labels}))
        fields = {
            0: self.text(name),
            1: self.text(self.output_description(name)),
            2: self.texts(axes),
            3: self.content(_FEATURE_PROPERTIES, self.table({})),
        }
        if files:
            fields[6] = self.tables(files)
        if name == "probabilities":
            fields[5] = self.stats(0, 1)
        return self.table(fields)

    def output_description(self, name: str) -> str:
        spec = self.spec
        if name == "probabilities":
            return "The probability of each class." if not spec.decoded else "The probability of each class of a pixel."
        if name == FEATURES:
            return "What the last layer reads: the average of each channel of the last feature map."
        if name == "codes":
            return (
                "Where the box of each prior is: its middle less the prior's, x and y, in tenths of the prior's width "
                "and height, then five times the logarithms of its width and height as shares of the prior's."
            )
        if spec.task == "detection":
            makes = "softmax" if spec.scores == "softmax" else "sigmoid"
            return f"The score of background and of each class in each prior; their {makes} gives the probabilities."
        if spec.task == "segmentation":
            stand = (
                "the first and last stand on the input's first and last pixels"
                if spec.align_corners
                else "each stands in the middle of its equal part of the input"
            )
            return (
                f"The score of each class for {spec.output_stride} x {spec.output_stride} pixels, to be interpolated "
                f"(bilinear) between them: {stand}. The class of a pixel is the one with the largest."
            )
        divided = "" if spec.temperature == 1 else f", divided by {spec.temperature}"
        return f"The score of each class; the softmax of the scores{divided} are the probabilities."

    def content(self, kind: int, properties: int) -> int:
        return self.table({1: properties}, small={0: kind})

    def stats(self, smallest: Any, largest: Any) -> int:
        return self.table({0: self.floats(np.atleast_1d(largest)), 1: self.floats(np.atleast_1d(smallest))})

    def table(self, distances: Mapping[int, int], *, small: Mapping[int, int] | None = None) -> int:
        """A table: fields that lie elsewhere, and ``small`` ones of one byte (enums and the kinds of unions)."""
        small = small or {}
        self.builder.StartObject(1 + max([*distances, *small], default=-1))
        for field, distance in distances.items():
            self.builder.PrependUOffsetTRelativeSlot(field, distance, 0)
        for field, value in small.items():
            self.builder.PrependUint8Slot(field, value, 0)
        return int(self.builder.EndObject())

    def text(self, text: str) -> int:
        return int(self.builder.CreateString(text))

    def texts(self, texts: Sequence[str]) -> int:
        return self.tables([self.text(text) for text in texts])

    def tables(self, distances: Sequence[int]) -> int:
        self.builder.StartVector(4, len(distances), 4)
        for distance in reversed(distances):
            self.builder.PrependUOffsetTRelative(distance)
        return int(self.builder.EndVector())

    def floats(self, values: Any) -> int:
        return int(self.builder.CreateNumpyVector(np.asarray(values, np.float32)))
