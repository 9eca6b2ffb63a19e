"""TensorFlow Lite's own metadata, read back by its schema, and the archive behind the model."""

from __future__ import annotations

import io
import struct
import zipfile

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from flatbuffers import encode
from flatbuffers import number_types as types
from flatbuffers.table import Table
from hypothesis import given
from hypothesis import strategies as st

from fusiform.engines.litert import LiteRTEngine
from fusiform.errors import SpecError, WeightsError
from fusiform.graph.build import build_graph
from fusiform.graph.tflite import from_tflite, to_tflite
from fusiform.graph.tflite_metadata import attach_files, make_label_file, make_metadata, read_label_file
from fusiform.spec import ModelSpec, Preprocess

# metadata_schema.fbs, as far as an image classifier goes: each table's fields in order, and what they are. A field
# whose name ends in "_type" says which table of the union the next field is.
SCHEMA = {
    "ModelMetadata": [
        ("name", "string"),
        ("description", "string"),
        ("version", "string"),
        ("subgraph_metadata", ["SubGraphMetadata"]),
        ("author", "string"),
        ("license", "string"),
        ("associated_files", ["AssociatedFile"]),
        ("min_parser_version", "string"),
    ],
    "SubGraphMetadata": [
        ("name", "string"),
        ("description", "string"),
        ("input_tensor_metadata", ["TensorMetadata"]),
        ("output_tensor_metadata", ["TensorMetadata"]),
        ("associated_files", ["AssociatedFile"]),
    ],
    "TensorMetadata": [
        ("name", "string"),
        ("description", "string"),
        ("dimension_names", ["string"]),
        ("content", "Content"),
        ("process_units", ["ProcessUnit"]),
        ("stats", "Stats"),
        ("associated_files", ["AssociatedFile"]),
    ],
    "Content": [
        ("content_properties_type", ("NONE", "FeatureProperties", "ImageProperties", "BoundingBoxProperties")),
        ("content_properties", "union"),
    ],
    "FeatureProperties": [],
    "ImageProperties": [("color_space", ("UNKNOWN", "RGB", "GRAYSCALE")), ("default_size", "ImageSize")],
    "ImageSize": [("width", "uint"), ("height", "uint")],
    "ProcessUnit": [
        ("options_type", ("NONE", "NormalizationOptions", "ScoreCalibrationOptions", "ScoreThresholdingOptions")),
        ("options", "union"),
    ],
    "NormalizationOptions": [("mean", ["float"]), ("std", ["float"])],
    "Stats": [("max", ["float"]), ("min", ["float"])],
    "AssociatedFile": [
        ("name", "string"),
        ("description", "string"),
        ("type", ("UNKNOWN", "DESCRIPTIONS", "TENSOR_AXIS_LABELS", "TENSOR_VALUE_LABELS")),
        ("locale", "string"),
    ],
}


def read_table(table, kind):
    content = {}
    for number, (name, form) in enumerate(SCHEMA[kind]):
        at = table.Offset(4 + 2 * number)
        if at:
            if form == "union":
                form = content[SCHEMA[kind][number - 1][0]]
            content[name] = read_value(table, at + table.Pos, form)
    return content


def read_value(table, at, form):
    if isinstance(form, tuple):
        return form[table.Get(types.Uint8Flags, at)]
    if isinstance(form, list):
        start, size = table.Vector(at - table.Pos), table.VectorLen(at - table.Pos)
        return [read_value(table, start + 4 * k, form[0]) for k in range(size)]
    if form == "string":
        return table.String(at).decode()
    if form in ("uint", "float"):
        return table.Get(types.Uint32Flags if form == "uint" else types.Float32Flags, at)
    return read_table(Table(table.Bytes, table.Indirect(at)), form)


def read_metadata_flatbuffer(data):
    assert data[4:8] == b"M001"
    return read_table(Table(data, encode.Get(flatbuffers.packer.uoffset, data, 0)), "ModelMetadata")


def spec_of(**changes):
    preprocess = changes.pop("preprocess", Preprocess(resize=256, crop=224, mean=(0.5, 0.4, 0.2), std=(0.5, 0.2, 0.1)))
    return ModelSpec(
        "mobilenet_v2", 1.0, ("Zürich", "a cat"), preprocess=preprocess, provenance="Trained by hand.", **changes
    )


DESCRIPTION = (
    "A photograph, its shorter side resized to 256 pixels (bilinear, antialiased), of which the central 224 x 224 are "
    "taken: red, green, blue, "
)
# As the MetadataDisplayer of tflite-support 0.4.4 prints it.
FLOAT = {
    "name": "mobilenet_v2_x1_0",
    "description": "Names what a photograph shows: one of 2 classes. Trained by hand.",
    "subgraph_metadata": [
        {
            "input_tensor_metadata": [
                {
                    "name": "image",
                    "description": DESCRIPTION + "less the mean and divided by the standard deviation of each",
                    "dimension_names": ["batch", "height", "width", "channels"],
                    "content": {
                        "content_properties_type": "ImageProperties",
                        "content_properties": {"color_space": "RGB", "default_size": {"width": 224, "height": 224}},
                    },
                    "process_units": [
                        {
                            "options_type": "NormalizationOptions",
                            "options": {"mean": [127.5, 102.0, 51.0], "std": [127.5, 51.0, 25.5]},
                        }
                    ],
                    "stats": {"max": [1.0, 3.0, 8.0], "min": [-1.0, -2.0, -2.0]},
                }
            ],
            "output_tensor_metadata": [
                {
                    "name": "logits",
                    "description": "The score of each class; the softmax of the scores are the probabilities.",
                    "dimension_names": ["batch", "classes"],
                    "content": {"content_properties_type": "FeatureProperties", "content_properties": {}},
                    "associated_files": [
                        {
                            "name": "labels.txt",
                            "description": "The names of the classes, in the order of the outputs.",
                            "type": "TENSOR_AXIS_LABELS",
                        }
                    ],
                }
            ],
        }
    ],
    "license": "Apache-2.0",
    "min_parser_version": "1.0.0",
}


def rounded(value):
    """Single precision to six digits, as the reference prints it."""
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return round(value, 5) if isinstance(value, float) else value


def tensor(spec, reads, side="input"):
    (subgraph,) = read_metadata_flatbuffer(make_metadata(spec, reads=reads))["subgraph_metadata"]
    (only,) = subgraph[f"{side}_tensor_metadata"]
    return only


def preprocess_of(fit):
    return Preprocess(224, 224, mean=(0.5, 0.4, 0.2), std=(0.5, 0.2, 0.1), fit=fit)


def test_a_detector_has_two_outputs():
    spec = spec_of(task="detection", preprocess=preprocess_of("stretch"))
    content = read_metadata_flatbuffer(make_metadata(spec, reads="uint8"))
    assert content["description"] == ("Finds the objects that a photograph shows: boxes of 2 classes. Trained by hand.")
    (subgraph,) = content["subgraph_metadata"]
    (given_tensor,) = subgraph["input_tensor_metadata"]
    assert given_tensor["description"] == (
        "A photograph, all of it resized to 224 x 224 pixels (bilinear, antialiased), whatever its aspect: red, green, "
        "blue, 0 to 255"
    )
    logits, codes = subgraph["output_tensor_metadata"]
    assert (logits["name"], logits["dimension_names"]) == ("logits", ["batch", "priors", "classes"])
    assert (codes["name"], codes["dimension_names"]) == ("codes", ["batch", "priors", "coordinates"])
    # Their number is one less than the axis's: no reader is to take them for its names.
    assert logits["associated_files"] == [
        {
            "name": "labels.txt",
            "description": "The names of the classes, in the order of the outputs, which have the background before "
            "them.",
            "type": "DESCRIPTIONS",
        }
    ]
    assert "associated_files" not in codes
    assert "softmax" in logits["description"]
    assert "sigmoid" in tensor_list(spec.replace(scores="sigmoid"), "output")[0]["description"]


def tensor_list(spec, side):
    (subgraph,) = read_metadata_flatbuffer(make_metadata(spec, reads="uint8"))["subgraph_metadata"]
    return subgraph[f"{side}_tensor_metadata"]


@pytest.mark.parametrize("aligned", [True, False])
def test_a_segmenter_s_output_is_a_map(aligned):
    spec = spec_of(task="segmentation", output_stride=16, align_corners=aligned, preprocess=preprocess_of("pad"))
    (given_tensor,) = tensor_list(spec, "input")
    assert given_tensor["description"] == (
        "A photograph, its longer side resized to 224 pixels (bilinear, antialiased), at the top left of 224 x 224 of "
        "the mean colour: red, green, blue, 0 to 255"
    )
    (logits,) = tensor_list(spec, "output")
    assert logits["name"] == "logits"
    assert logits["dimension_names"] == ["batch", "rows", "columns", "classes"]
    assert logits["associated_files"][0]["type"] == "TENSOR_AXIS_LABELS"
    assert "16 x 16 pixels" in logits["description"]
    assert ("first and last pixels" in logits["description"]) == aligned


def test_every_field_of_a_float_model():
    metadata = make_metadata(spec_of(license="Apache-2.0"), reads="normalized")
    assert rounded(read_metadata_flatbuffer(metadata)) == FLOAT
    assert make_metadata(spec_of(license="Apache-2.0"), reads="normalized") == metadata


def test_nothing_is_said_that_is_not_known():
    content = read_metadata_flatbuffer(make_metadata(spec_of().replace(provenance=""), reads="normalized"))
    assert "license" not in content
    assert content["description"] == "Names what a photograph shows: one of 2 classes."


def test_models_that_read_pixels_ask_for_no_normalisation():
    given_tensor = tensor(spec_of(), "uint8")
    assert "process_units" not in given_tensor
    assert given_tensor["stats"] == {"max": [255], "min": [0]}
    assert given_tensor["description"] == DESCRIPTION + "0 to 255"
    assert given_tensor["content"] == FLOAT["subgraph_metadata"][0]["input_tensor_metadata"][0]["content"]


def test_a_blue_green_red_model_is_not_called_rgb():
    spec = spec_of(preprocess=Preprocess(color_order="bgr", mean=(0.2, 0.4, 0.5), std=(0.1, 0.2, 0.5)))
    given_tensor = rounded(tensor(spec, "normalized"))
    assert given_tensor["content"]["content_properties"] == {"default_size": {"width": 224, "height": 224}}
    assert "blue, green, red" in given_tensor["description"]
    # In the order of the tensor's channels.
    assert given_tensor["process_units"][0]["options"] == {"mean": [51.0, 102.0, 127.5], "std": [25.5, 51.0, 127.5]}


def test_a_model_of_other_channels_reads_no_picture():
    given_tensor = tensor(spec_of(input_channels=4), "normalized")
    assert given_tensor["content"] == {"content_properties_type": "FeatureProperties", "content_properties": {}}
    assert "process_units" not in given_tensor
    assert "stats" not in given_tensor


def test_probabilities_have_a_range_and_temperatures_are_named():
    assert tensor(spec_of(output="probabilities"), "uint8", "output")["stats"] == {"max": [1], "min": [0]}
    assert "stats" not in tensor(spec_of(), "uint8", "output")
    assert "divided by 1.7" in tensor(spec_of(temperature=1.7), "uint8", "output")["description"]


@pytest.fixture(scope="module")
def model(small_spec, lived_in_state):
    spec = small_spec("mobilenet_v2").replace(labels=("Zürich", "\N{CAT FACE}", *(f"class {k}" for k in range(8))))
    return spec, to_tflite(build_graph(spec, lived_in_state(spec)), metadata={"TFLITE_METADATA": b"x"})


def test_the_model_runs_and_is_read_with_the_archive_behind_it(model):
    spec, data = model
    whole = attach_files(data, {"labels.txt": make_label_file(spec)})
    assert whole.startswith(data)
    assert attach_files(data, {"labels.txt": make_label_file(spec)}) == whole
    picture = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)
    expected = LiteRTEngine(data, spec).run(picture)["logits"]
    assert np.array_equal(LiteRTEngine(whole, spec).run(picture)["logits"], expected)
    assert to_tflite(from_tflite(whole)) == to_tflite(from_tflite(data))
    assert read_label_file(whole) == spec.labels


def test_litert_opens_the_file_by_its_path(model, tmp_path):
    spec, data = model
    path = tmp_path / "model.tflite"
    path.write_bytes(attach_files(data, {"labels.txt": make_label_file(spec)}))
    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    assert list(interpreter.get_input_details()[0]["shape"]) == [1, 32, 32, 3]
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        (entry,) = archive.infolist()
        assert archive.read(entry).decode() == "".join(f"{label}\n" for label in spec.labels)
    assert (entry.filename, entry.header_offset, entry.date_time[0]) == ("labels.txt", len(data), 1980)
    assert entry.compress_type == zipfile.ZIP_STORED  # other readers take the bytes where they lie


def test_an_archive_grows(model):
    _, data = model
    whole = attach_files(attach_files(data, {"a.txt": b"a"}), {"b.txt": b"b", "c/d.bin": b"\0"})
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == {
            "a.txt": b"a",
            "b.txt": b"b",
            "c/d.bin": b"\0",
        }
    assert whole.startswith(data)
    assert read_label_file(whole) is None


lines = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), min_size=1).filter(str.strip)


@given(st.lists(lines, min_size=1, max_size=20))
def test_labels_come_back(labels):
    spec = spec_of().replace(labels=tuple(labels))
    assert read_label_file(attach_files(b"model", {"labels.txt": make_label_file(spec)})) == spec.labels


@pytest.mark.parametrize("label", ["", "  ", "a\nb", "a\r", "\n"])
def test_labels_that_are_no_lines_are_refused(label):
    with pytest.raises(SpecError, match="not a line of text: rename the class"):
        make_label_file(spec_of().replace(labels=("a", label)))


def test_label_files_of_other_tools():
    assert read_label_file(b"no archive here") is None
    assert read_label_file(attach_files(b"", {"labels.txt": b"a\r\nb\r\n"})) == ("a", "b")
    assert read_label_file(attach_files(b"", {"labels.txt": b"a\nb"})) == ("a", "b")


def test_damaged_archives_are_refused():
    whole = attach_files(b"model", {"labels.txt": b"one\ntwo\n"})
    at = whole.index(b"one\n")
    changed = whole[:at] + b"0" + whole[at + 1 :]
    encrypted = bytearray(whole)
    for header, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        struct.pack_into("<H", encrypted, whole.index(header) + flags, 1)
    unknown = bytearray(whole)
    for header, method in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
        struct.pack_into("<H", unknown, whole.index(header) + method, 77)
    latin = attach_files(b"model", {"labels.txt": "Zürich".encode("latin-1")})
    cut = whole[:at] + whole[at + 2 :]
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.txt", bytes((1 << 24) + 1))
    for damaged in (changed, encrypted, unknown, latin, cut, bomb.getvalue()):
        with pytest.raises(WeightsError, match=r"^m\.tflite: its labels\.txt .*; write the file again$"):
            read_label_file(bytes(damaged), source="m.tflite")


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_label_files_packed_as_nobody_does_are_not_unpacked(method, monkeypatch):
    """What unpacks these two in Python gives all at once, however much it is."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        archive.writestr("labels.txt", "one\ntwo\n")
    monkeypatch.setattr(zipfile, "_get_decompressor", None)
    with pytest.raises(WeightsError, match=r"^m\.tflite: its labels\.txt is compressed in a way that no reader"):
        read_label_file(b"model" + packed.getvalue(), source="m.tflite")


def test_random_damage_never_ends_in_a_traceback():
    whole = attach_files(b"model", {"labels.txt": b"one\ntwo\n"})
    outcomes = set()
    for at in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << bit
            try:
                outcomes.add(read_label_file(bytes(damaged)))
            except WeightsError:
                outcomes.add("refused")
    assert {None, ("one", "two"), "refused"} <= outcomes
    assert outcomes <= {None, ("one", "two"), "refused"}
