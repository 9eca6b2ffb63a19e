"""The descriptions inside ExecuTorch programs and Core ML packages, read from files built here."""

from __future__ import annotations

import json

import flatbuffers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusiform.errors import SpecError, WeightsError
from fusiform.spec import METADATA_KEY
from fusiform.zoo.model import open_model
from fusiform.zoo.programs import (
    EXECUTORCH_DIGEST,
    EXECUTORCH_SPEC,
    NO_DIGEST,
    executorch_digest,
    is_executorch,
    is_whole_executorch,
    read_coreml_spec,
    read_executorch_spec,
)

# ExecuTorch: Program {1: execution_plan: [ExecutionPlan {0: name, 2: values: [EValue {0: kind, 1: value}]}]}


def evalue(builder, value):
    """An EValue: a text, the sixth kind of its union, or a whole number, the second."""
    if isinstance(value, str):
        text = builder.CreateString(value)
        builder.StartObject(1)
        builder.PrependUOffsetTRelativeSlot(0, text, 0)
    else:
        builder.StartObject(1)
        builder.PrependInt64Slot(0, value, 0)
    inner = builder.EndObject()
    builder.StartObject(2)
    builder.PrependUint8Slot(0, 6 if isinstance(value, str) else 2, 0)
    builder.PrependUOffsetTRelativeSlot(1, inner, 0)
    return builder.EndObject()


def offsets(builder, tables):
    builder.StartVector(4, len(tables), 4)
    for table in reversed(tables):
        builder.PrependUOffsetTRelative(table)
    return builder.EndVector()


def program(methods):
    """An ExecuTorch program with nothing but methods that answer with constants."""
    builder = flatbuffers.Builder(0)
    plans = []
    for name, values in methods.items():
        made = offsets(builder, [evalue(builder, value) for value in values])
        text = builder.CreateString(name)
        builder.StartObject(11)
        builder.PrependUOffsetTRelativeSlot(0, text, 0)
        builder.PrependUOffsetTRelativeSlot(2, made, 0)
        plans.append(builder.EndObject())
    vector = offsets(builder, plans)
    builder.StartObject(8)
    builder.PrependUint32Slot(0, 1, 0)
    builder.PrependUOffsetTRelativeSlot(1, vector, 0)
    builder.Finish(builder.EndObject(), file_identifier=b"ET12")
    return bytes(builder.Output())


@pytest.fixture(scope="module")
def spec(small_spec):
    return small_spec("mobilenet_v2").replace(labels=("강아지", f"{EXECUTORCH_SPEC}:{{}}", *"abcdefgh"))


@pytest.fixture(scope="module")
def whole(spec):
    methods = {
        "a": [1],
        "forward": [2, "no spec"],
        "labels": spec.labels,
        EXECUTORCH_SPEC: [spec.to_json()],
        EXECUTORCH_DIGEST: [NO_DIGEST],
    }
    data = program(methods)
    return data.replace(NO_DIGEST.encode(), executorch_digest(data))


def test_executorch(whole, spec, tmp_path):
    assert is_executorch(whole)
    assert read_executorch_spec(whole, source="the file") == spec
    (tmp_path / "named.bin").write_bytes(whole)
    model = open_model(tmp_path / "named.bin")  # by content
    assert (model.format, model.spec, model.data) == ("executorch", spec, whole)
    with pytest.raises(WeightsError, match="is a program for one runtime"):
        model.graph()


@pytest.mark.parametrize("methods", [{}, {"forward": [1]}, {EXECUTORCH_SPEC: [7]}, {EXECUTORCH_SPEC: [""]}])
def test_executorch_without_a_description(methods):
    with pytest.raises(SpecError, match=r"model\.pte: carries no description by fusiform"):
        read_executorch_spec(program(methods), source="model.pte")


@pytest.mark.parametrize("methods", [{EXECUTORCH_SPEC: []}])
def test_executorch_with_a_description_that_is_empty(methods):
    with pytest.raises(WeightsError, match=r"model\.pte: damaged"):
        read_executorch_spec(program(methods), source="model.pte")


def test_executorch_with_a_wrong_description():
    with pytest.raises(SpecError, match=r"model\.pte: the model's description is not JSON"):
        read_executorch_spec(program({EXECUTORCH_SPEC: ["{"]}), source="model.pte")


@given(data=st.data())
def test_a_changed_executorch_program_is_not_whole_and_never_a_crash(whole, spec, data):
    assert is_whole_executorch(whole)
    at = data.draw(st.integers(8, len(whole) - 1))
    cut = data.draw(st.booleans())
    changed = whole[:at] if cut else whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    assert not is_whole_executorch(changed)
    try:
        read_executorch_spec(changed, source="the file")
    except (WeightsError, SpecError) as error:
        assert "the file" in str(error)  # noqa: PT017


# Core ML: Model {2: description {100: metadata {100: userDefined: {1: key, 2: value}}}}


def varint(number):
    made = bytearray()
    while number > 127:
        made.append(number & 127 | 128)
        number >>= 7
    return bytes([*made, number])


def field(number, content):
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def mlmodel(entries):
    metadata = field(1, b"short") + b"".join(
        field(100, field(1, key.encode()) + field(2, value.encode())) for key, value in entries.items()
    )
    fixed = varint(7 << 3 | 5) + b"1234" + varint(8 << 3 | 1) + b"12345678"  # numbers of four and of eight bytes
    return field(1, 6) + fixed + field(2, field(1, b"input") + field(100, metadata)) + field(502, b"\x08\x01")


def package(folder, model, place="com.apple.CoreML/model.mlmodel"):
    manifest = {"itemInfoEntries": {"A": {"path": place}}, "rootModelIdentifier": "A"}
    (folder / "Data/com.apple.CoreML").mkdir(parents=True, exist_ok=True)
    (folder / "Manifest.json").write_text(json.dumps(manifest))
    (folder / "Data/com.apple.CoreML/model.mlmodel").write_bytes(model)
    return folder


def test_coreml(spec, tmp_path):
    folder = package(tmp_path / "any name", mlmodel({"other": "text", METADATA_KEY: spec.to_json()}))
    assert read_coreml_spec(folder) == spec
    model = open_model(folder)
    assert (model.format, model.spec, model.path) == ("coreml", spec, folder)


@pytest.mark.parametrize("model", [b"", mlmodel({}), mlmodel({"other": "text"})])
def test_coreml_without_a_description(model, tmp_path):
    with pytest.raises(SpecError, match="carries no description by fusiform"):
        read_coreml_spec(package(tmp_path, model))


def test_coreml_with_a_wrong_description(tmp_path):
    with pytest.raises(SpecError, match="the model's description is not JSON"):
        read_coreml_spec(package(tmp_path, mlmodel({METADATA_KEY: "{"})))


@pytest.mark.parametrize("place", ["../../elsewhere.mlmodel", "/etc/passwd", "com.apple.CoreML/other.mlmodel", 7, None])
def test_a_manifest_that_names_another_model(place, spec, tmp_path):
    with pytest.raises(WeightsError, match=r"Manifest\.json is damaged"):
        read_coreml_spec(package(tmp_path, mlmodel({METADATA_KEY: spec.to_json()}), place))


@pytest.mark.parametrize("manifest", ["", "[]", "7", "{}", '{"rootModelIdentifier": []}', "[" * 100_000])
def test_a_damaged_manifest(manifest, spec, tmp_path):
    package(tmp_path, mlmodel({METADATA_KEY: spec.to_json()}))
    (tmp_path / "Manifest.json").write_text(manifest)
    with pytest.raises(WeightsError, match=r"Manifest\.json is damaged"):
        read_coreml_spec(tmp_path)


def test_a_missing_model(spec, tmp_path):
    package(tmp_path, mlmodel({METADATA_KEY: spec.to_json()}))
    (tmp_path / "Data/com.apple.CoreML/model.mlmodel").unlink()
    with pytest.raises(WeightsError, match="No such file"):
        read_coreml_spec(tmp_path)


@given(data=st.data())
def test_a_changed_mlmodel_is_never_a_crash(spec, tmp_path_factory, data):
    model = mlmodel({METADATA_KEY: spec.to_json()})
    at = data.draw(st.integers(0, len(model) - 1))
    changed = data.draw(st.sampled_from([model[:at], model[:at] + data.draw(st.binary(min_size=1)) + model[at + 1 :]]))
    folder = package(tmp_path_factory.mktemp("changed"), changed)
    try:
        read_coreml_spec(folder)
    except (WeightsError, SpecError) as error:
        assert str(folder) in str(error)  # noqa: PT017
