"""The same weights with another description."""

from __future__ import annotations

import dataclasses
import json

from fusiform.errors import InputError
from fusiform.spec import METADATA_KEY, ModelSpec
from fusiform.zoo.model import Model

_OF_THE_WEIGHTS = (
    "architecture",
    "width",
    "task",
    "num_classes",
    "input_size",
    "input_channels",
    "padding",
    "output",
    "scores",
    "output_stride",
    "aspp",
    "align_corners",
)
"""What weights were trained for, whether or not their shapes show it."""


def restamp(model: Model, spec: ModelSpec) -> bytes:
    """The model's file with ``spec`` in place of its own description; the weights stay what they are.

    ``spec`` must describe the same network; what may change is what is said of it: labels, temperature, accuracy,
    provenance. Raises UsageError for another network and for a .pth file, which has no place for a description;
    MissingExtraError for an ONNX file where onnx is not installed.
    """
    for name in _OF_THE_WEIGHTS:
        if getattr(spec, name) != getattr(model.spec, name):
            raise InputError(
                f"{model.path}: {name} is {getattr(model.spec, name)} and cannot become {getattr(spec, name)} without "
                "other weights"
            )
    if model.format == "tflite":
        return _tflite(model, spec)
    if model.format == "safetensors":
        return _safetensors(model.data, spec)
    if model.format == "onnx":
        return _onnx(model.data, spec)
    raise InputError(
        f"{model.path}: a .pth file has no place for a description; "
        f"make a file that has: fusiform port {model.path} --out FILE.safetensors"
    )


def _tflite(model: Model, spec: ModelSpec) -> bytes:
    """Written again from its graph: as float16 where it was, with a label file for other programs where it had one.

    A softmax inside divides by the new temperature. An int8 file reads uint8 pixels then, if it read int8 before.
    """
    from fusiform.graph.tflite import stores_halves, to_tflite
    from fusiform.graph.tflite_metadata import read_label_file, to_described_tflite

    described = read_label_file(model.data, source=str(model.path)) is not None
    write = to_described_tflite if described else to_tflite
    return write(dataclasses.replace(model.graph(), spec=spec), half=stores_halves(model.data))


def _safetensors(data: bytes, spec: ModelSpec) -> bytes:
    """The header's length in 8 bytes, the header as JSON, then the tensors; their offsets count from there."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = {**header.get("__metadata__", {}), METADATA_KEY: spec.to_json()}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the tensors in this way
    return len(text).to_bytes(8, "little") + text + data[end:]


def _onnx(data: bytes, spec: ModelSpec) -> bytes:
    import onnx

    import fusiform.graph.onnx  # noqa: F401  # says which extra to install where onnx is not

    model = onnx.load_from_string(data)
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            entry.value = spec.to_json()
    return bytes(model.SerializeToString(deterministic=True))
