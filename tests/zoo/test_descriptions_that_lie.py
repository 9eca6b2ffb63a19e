"""Every field of a model's description with every wrong value, in every kind of file that carries one."""

from __future__ import annotations

import dataclasses
import html
import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from fusiform import spec as limits
from fusiform.analysis import analyze
from fusiform.errors import FusiformError, SpecError, UsageError, WeightsError
from fusiform.graph.build import build_graph
from fusiform.graph.shapes import state_shapes
from fusiform.graph.tflite import to_tflite
from fusiform.porting.port import port
from fusiform.spec import METADATA_KEY, Accuracy, ModelSpec, Preprocess
from fusiform.zoo.info import describe
from fusiform.zoo.model import open_model

SPEC = ModelSpec(
    "mobilenet_v2",
    0.35,
    ("cat", "dog"),
    label_ids=("n1", "n2"),
    input_size=32,
    preprocess=Preprocess(36, 32),
    accuracy=(Accuracy("Sundays", 0.5, 0.75, 4, "me"),),
)
# In JSON, which has numbers that no field holds.
VALUES = (
    *("9223372036854775808", "-1", "0", "1", "33", "100001", "1" + "0" * 400, "1.5", "1e308", "1e-320", "-0.0"),
    *("NaN", "Infinity", "true", "null", '"x"', '""', '"\\ud800"', '"\\u0000\\u202e"', "[]", "{}", "[1, 2, 3]"),
    *("[NaN, 1, 1]", "[1e-300, 1, 1]", "[[1]]", json.dumps("x" * 200_000), json.dumps(["x" * 2000, "y"])),
    *('["\\ud800", "b"]', json.dumps([""] * 2), json.dumps([1] * 200_000)),
)


def state() -> dict[str, np.ndarray[Any, Any]]:
    luck = np.random.default_rng(0)
    return {name: luck.random(shape, np.float32) for name, shape in state_shapes(SPEC).items()}


def safetensors(text: str) -> bytes:
    return save(state(), metadata={METADATA_KEY: text})


def torchscript(text: str) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr("x/code/__torch__.py", "class Network(Module):\n  pass\n")
        archive.writestr(f"x/extra/{METADATA_KEY}", text)
    return written.getvalue()


def openvino(text: str) -> bytes:
    return f'<?xml version="1.0"?>\n<net name="m"><fusiform><spec value="{html.escape(text)}" /></fusiform>'.encode()


FORMATS: dict[str, Callable[[str], bytes]] = {
    "m.safetensors": safetensors,
    "m.pt": torchscript,
    "m.xml": openvino,
}


def with_fields() -> list[str]:
    """The description with each field replaced by each wrong value, or taken away."""
    plain = json.loads(SPEC.to_json())
    for field in dataclasses.fields(ModelSpec):
        plain.setdefault(field.name, getattr(SPEC, field.name))
    plain["preprocess"].setdefault("fit", "crop")
    texts = []
    for holder in (plain, plain["preprocess"], plain["accuracy"][0]):
        for name, own in list(holder.items()):
            for value in VALUES:
                holder[name] = "@"
                texts.append(json.dumps(plain).replace('"@"', value))
            holder[name] = own
    return texts


def is_told(path: Path, text: str) -> bool:
    """Whether the file opens; where it does not, a line that can be shown names it."""
    try:
        describe(path)
    except FusiformError as error:
        message = str(error)
    else:
        return True
    assert len(message) < 1000, text[:300]
    assert message.isprintable(), text[:300]
    assert path.name in message, (message, text[:300])
    return False


@pytest.mark.parametrize("name", FORMATS)
def test_every_wrong_value_in_every_field(name: str, tmp_path: Path) -> None:
    texts = with_fields()
    assert len(texts) > 900
    path, opened = tmp_path / name, 0
    whole = FORMATS[name](SPEC.to_json()) if name == "m.safetensors" else b""
    for text in texts:
        if whole:  # the weights stay as they are
            header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
            header["__metadata__"][METADATA_KEY] = text
            encoded = json.dumps(header).encode()
            path.write_bytes(
                len(encoded).to_bytes(8, "little") + encoded + whole[8 + int.from_bytes(whole[:8], "little") :]
            )
        else:
            path.write_bytes(FORMATS[name](text))
        opened += is_told(path, text)
    assert opened > 20  # other names, of whatever is said of it


def test_the_same_in_onnx_and_tflite(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from fusiform.graph.onnx import to_onnx

    graph = build_graph(SPEC, state())
    model = onnx.load_from_string(to_onnx(graph))
    luck = np.random.default_rng(0)
    texts = with_fields()
    for k in luck.choice(len(texts), 60, replace=False):
        model.metadata_props[0].value = texts[k] if texts[k].isascii() else SPEC.to_json()
        (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
        (tmp_path / "m.tflite").write_bytes(to_tflite(graph, metadata={METADATA_KEY: texts[k].encode()}))
        for name in ("m.onnx", "m.tflite"):
            is_told(tmp_path / name, texts[k])


def changed(**fields: Any) -> str:
    return json.dumps(json.loads(SPEC.to_json()) | fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input_size": 4128, "preprocess": {"crop": 4128}}, "preprocess: crop must be at most 4096 pixels, got 4128"),
        ({"preprocess": {"crop": 32, "resize": 2**63}}, "preprocess: resize must be at most 4096 pixels"),
        ({"width": 4.5}, "width must be at most 4, got 4.5"),
        ({"labels": ["a"] * 100_001}, "field 'labels' has 100,001 entries; at most 100,000"),
        ({"labels": ["a" * 1001, "b"]}, "a label has at most 1000 characters, not 1,001"),
        ({"label_ids": ["a" * 1001, "b"]}, "a label_id has at most 1000 characters"),
        ({"input_channels": 257}, "input_channels must be at most 256, got 257"),
        ({"accuracy": [{}] * 1001}, "field 'accuracy' has 1,001 entries, at most 1,000"),
        ({"provenance": "x" * 100_001}, "provenance has at most 100,000 characters, not 100,001"),
        ({"license": "\ud800"}, "license is not Unicode text"),
        ({"label_ids": ["\ud800", "b"]}, "label_ids are not Unicode text"),
        ({"temperature": 1e-320}, r"temperature must be 0\.001 to 1000, got 9\.99989e-321"),
        ({"preprocess": {"crop": 32, "mean": [0, 0, 1e308]}}, "preprocess: mean must be at most"),
        ({"preprocess": {"crop": 32, "std": [1, 1, 1e-320]}}, "preprocess: mean must be at most"),
        ({"labels": ["a" * 900] * 20_000}, r"the model's description has .* bytes, and at most 16,777,216 are"),
    ],
)
def test_what_is_more_than_the_limits(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=f"^m.xml: {message}"):
        ModelSpec.from_json(changed(**fields), source="m.xml")


def test_the_limits_themselves_are_allowed() -> None:
    fields = {
        "width": limits.MAX_WIDTH,
        "labels": ["a" * limits.MAX_LABEL_LENGTH, "b"],
        "input_size": limits.MAX_INPUT_SIZE,
        "input_channels": limits.MAX_CHANNELS,
        "preprocess": {"resize": limits.MAX_INPUT_SIZE, "crop": limits.MAX_INPUT_SIZE},
    }
    assert ModelSpec.from_json(changed(**fields)).input_size == 4096
    many = SPEC.replace(labels=("a",) * limits.MAX_LABELS, label_ids=())
    assert ModelSpec.from_json(many.to_json()) == many


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input_size": 4096, "preprocess": {"crop": 4096, "resize": 4096}, "width": 1.0}, "classification, 2 classes"),
        ({"input_size": 1200, "preprocess": {"crop": 1200, "resize": 1200}, "width": 4.0}, "classification, 2 classes"),
        (
            {
                "task": "detection",
                "labels": ["a"] * 90_000,
                "label_ids": [],
                "input_size": 320,
                "preprocess": {"crop": 320, "resize": 320},
            },
            "detection, 90000 classes, 320 px, would hold",
        ),
        (
            {
                "task": "segmentation",
                "output_stride": 8,
                "labels": ["a"] * 1000,
                "label_ids": [],
                "input_size": 1024,
                "decoded": True,
                "preprocess": {"crop": 1024, "resize": 1024},
            },
            "segmentation, 1000 classes, 1024 px, would hold",
        ),
    ],
)
def test_networks_that_would_fill_the_memory(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    """M7, M9: each field is within its limit, and the network is not."""
    for name in ("m.pt", "m.xml"):
        (tmp_path / name).write_bytes(FORMATS[name](changed(**fields)))
        for use in (describe, analyze, open_model):
            with pytest.raises(SpecError, match=rf"{name}: .*{message}.* MB of activations for one picture, and no mo"):
                use(tmp_path / name)


@pytest.mark.parametrize(("architecture", "size"), [("shufflenet_v2", 3900), ("mobilenet_v2", 2048)])
def test_large_pictures_that_fit(architecture: str, size: int, tmp_path: Path) -> None:
    text = changed(architecture=architecture, width=1.0, input_size=size, preprocess={"crop": size, "resize": size})
    (tmp_path / "m.xml").write_bytes(openvino(text))
    assert describe(tmp_path / "m.xml").figures["input_size"] == size


def test_a_program_of_the_widest_network_is_counted_without_its_weights(tmp_path: Path) -> None:
    import tracemalloc

    many = ["a"] * limits.MAX_LABELS
    (tmp_path / "m.xml").write_bytes(openvino(changed(width=4.0, labels=many, label_ids=[])))
    tracemalloc.start()
    figures = describe(tmp_path / "m.xml").figures
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert figures["parameters"] > 500_000_000
    assert peak < 100 << 20


def test_a_character_with_too_large_a_number(tmp_path: Path) -> None:
    (tmp_path / "m.xml").write_bytes(openvino("").replace(b'value=""', b'value="&#' + b"9" * 5000 + b';"'))
    with pytest.raises(WeightsError, match=r"m\.xml: damaged description"):
        open_model(tmp_path / "m.xml")


def test_lists_in_lists_as_deep_as_json_goes(tmp_path: Path) -> None:
    """Python says in words what less deep lists hold than those that it reads."""
    opened = 0
    for depth in (10, 300, *range(900, 1000, 5), 3000):
        (tmp_path / "m.xml").write_bytes(openvino(SPEC.to_json().replace("0.35", "[" * depth + "]" * depth)))
        opened += is_told(tmp_path / "m.xml", f"{depth} lists")
    assert not opened


def test_tensors_without_end(tmp_path: Path) -> None:
    """A header of some hundred thousand took 12 seconds."""
    empty = {f"t{k}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for k in range(20_001)}
    for name, word in {"m.safetensors": "data_offsets", "n.safetensors": "data\\u005foffsets"}.items():
        header = json.dumps(empty).replace("data_offsets", word).encode()
        (tmp_path / name).write_bytes(len(header).to_bytes(8, "little") + header)
        with pytest.raises(WeightsError, match=rf"{name}: has 20,001 tensors, and no network here has more"):
            open_model(tmp_path / name)


def test_a_crop_larger_than_any_input(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(save(state()))
    for name in ("crop", "resize"):
        with pytest.raises(UsageError, match=f"{name} must be at most 4096 pixels, got 8192"):
            open_model(tmp_path / "m.safetensors", **{name: 8192})
    with pytest.raises(SpecError, match=r"m\.safetensors: .*, 4000 px, would hold"):
        open_model(tmp_path / "m.safetensors", crop=4000, resize=4000)


def test_files_larger_than_any_model_and_what_is_no_file(tmp_path: Path) -> None:
    for name in ("m.safetensors", "m.onnx", "m.tflite", "m.pth"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(limits.MAX_MODEL_BYTES + 1)
        for use in (open_model, lambda path: port(path, tmp_path / "x.safetensors")):
            with pytest.raises(WeightsError, match=rf"{name}: has 1,073,741,825 bytes, more than any model"):
                use(tmp_path / name)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.onnx")
        with pytest.raises(WeightsError, match=r"pipe\.onnx: is no file but a device or a pipe"):
            open_model(tmp_path / "pipe.onnx")
        with pytest.raises(WeightsError, match=r"/dev/zero: is no file but a device or a pipe"):
            open_model("/dev/zero")


def test_packages_with_more_than_a_program(tmp_path: Path) -> None:
    package = tmp_path / "m.mlpackage"
    model = package / "Data" / "com.apple.CoreML" / "model.mlmodel"
    model.parent.mkdir(parents=True)
    (package / "Manifest.json").write_text("{}", encoding="utf-8")
    for large in (model, package / "Manifest.json"):
        with large.open("wb") as file:
            file.truncate(1 << 32)
        with pytest.raises(WeightsError, match=rf"{large.name}: has 4,294,967,296 bytes, more than any model here"):
            open_model(package)


def test_openvino_weights_that_are_no_file_or_too_large(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    from fusiform.engines import open_engine

    (tmp_path / "m.xml").write_bytes(openvino(SPEC.to_json()))
    with (tmp_path / "m.bin").open("wb") as file:
        file.truncate(1 << 33)
    with pytest.raises(WeightsError, match=r"m\.bin: has 8,589,934,592 bytes, more than any model here"):
        open_engine(tmp_path / "m.xml")
    if hasattr(os, "mkfifo"):
        (tmp_path / "m.bin").unlink()
        os.mkfifo(tmp_path / "m.bin")
        with pytest.raises(WeightsError, match=r"m\.bin: is no file but a device or a pipe"):
            open_engine(tmp_path / "m.xml")
