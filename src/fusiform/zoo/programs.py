"""What files that are programs for one runtime say of themselves, read without that runtime and without running them.

Their weights are not read back: TorchScript, OpenVINO IR, ExecuTorch and Core ML files are made by ``fusiform export``
from a model that stays the original.
"""

from __future__ import annotations

import hashlib
import html
import io
import json
import re
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

from flatbuffers.table import Table

from fusiform.errors import SpecError, WeightsError
from fusiform.spec import METADATA_KEY, ModelSpec
from fusiform.zoo.archives import DAMAGED_ZIP
from fusiform.zoo.bounds import check_file


def is_torchscript(data: bytes) -> bool:
    """Whether these are the bytes of a TorchScript archive: a zip that holds code, unlike a state dict's."""
    return data[:2] == b"PK" and any("/code/" in name for name in _names(data))


def read_torchscript_spec(data: bytes, *, source: str) -> ModelSpec:
    """The spec among the extra files of a TorchScript archive; WeightsError where damaged, SpecError where missing."""
    for name in _names(data):
        if name.partition("/")[2] == f"extra/{METADATA_KEY}":
            try:
                archive = zipfile.ZipFile(io.BytesIO(data))
                # PyTorch stores extra files as they are: nothing of another size is unpacked.
                if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
                    raise zipfile.BadZipFile
                text = archive.read(name)
            except DAMAGED_ZIP:
                raise WeightsError(f"{source}: damaged TorchScript file; export it again") from None
            return ModelSpec.from_json(text, source=source)
    raise SpecError(
        f"{source}: carries no description by fusiform (labels, preprocessing). Its weights become a model in two "
        "steps, in Python torch.save(torch.jit.load(file).state_dict(), new_file), then fusiform port new_file --out "
        "FILE; torch.jit.load is for files that you trust"
    )


def is_openvino(data: bytes) -> bool:
    """Whether these are the bytes of an OpenVINO IR description, the .xml beside the .bin with the weights."""
    head = data[:500].lstrip()
    return head.startswith((b"<?xml", b"<net")) and b"<net " in head


def read_openvino_spec(data: bytes, *, source: str) -> ModelSpec:
    """The spec in the ``rt_info`` of an OpenVINO IR description; SpecError where it is missing."""
    # Not an XML parser: Python's follow a document's entities, and those of a file made to harm grow without end.
    found = re.search(rb'<fusiform>\s*<spec value="([^"]*)"', data)
    if found is None:
        raise _undescribed(source)
    try:
        text = html.unescape(found[1].decode("utf-8", "replace"))
    except ValueError:  # a character with a number of thousands of digits
        raise WeightsError(f"{source}: damaged description; export it again") from None
    return ModelSpec.from_json(text, source=source)


def is_executorch(data: bytes) -> bool:
    """Whether these are the bytes of an ExecuTorch program."""
    return re.fullmatch(rb"ET\d\d", data[4:8]) is not None


def _names(data: bytes) -> list[str]:
    try:
        return zipfile.ZipFile(io.BytesIO(data)).namelist()
    except DAMAGED_ZIP:
        return []


def _undescribed(source: str) -> SpecError:
    return SpecError(
        f"{source}: carries no description by fusiform (labels, preprocessing), and the weights of a program for one "
        "runtime are not read back: take the model that it was made from (.pth, .safetensors, .onnx, .tflite), port it "
        "with fusiform port and export it with fusiform export"
    )


EXECUTORCH_SPEC = "fusiform_spec"
"""The constant method of an ExecuTorch program that answers with the spec's JSON."""

# Positions of fields in executorch/schema/program.fbs.
_PROGRAM_METHODS, _METHOD_NAME, _METHOD_VALUES = 1, 0, 2
_VALUE_KIND, _VALUE, _STRING_TEXT = 0, 1, 0
_KIND_STRING = 6


EXECUTORCH_DIGEST = "fusiform_digest"
"""The constant method that answers with the SHA-256 of the program as it is when that answer is ``NO_DIGEST``."""

NO_DIGEST = f"fusiform.sha256:{0:064}"


def read_executorch_spec(data: bytes, *, source: str) -> ModelSpec:
    """The spec in an ExecuTorch program; WeightsError where damaged, SpecError where missing."""
    try:
        text = _executorch_text(data, EXECUTORCH_SPEC)
    except (struct.error, IndexError, TypeError, StopIteration):
        raise WeightsError(f"{source}: damaged ExecuTorch program; export it again") from None
    if not text:
        raise _undescribed(source)
    return ModelSpec.from_json(text, source=source)


def is_whole_executorch(data: bytes) -> bool:
    """Whether an ExecuTorch program by fusiform is as it was written."""
    try:
        digest = _executorch_text(data, EXECUTORCH_DIGEST)
    except (struct.error, IndexError, TypeError, StopIteration):
        return False
    return len(digest) == len(NO_DIGEST) and digest == executorch_digest(data.replace(digest, NO_DIGEST.encode()))


def executorch_digest(data: bytes) -> bytes:
    """What to put in the place of ``NO_DIGEST`` in a program."""
    return f"fusiform.sha256:{hashlib.sha256(data).hexdigest()}".encode()


def _executorch_text(data: bytes, name: str) -> bytes:
    """The text that a constant method answers with; empty where there is none."""
    program = Table(data, int.from_bytes(data[:4], "little"))
    for method in _tables(program, _PROGRAM_METHODS):
        if _string(method, _METHOD_NAME) == name.encode():
            value = next(_tables(method, _METHOD_VALUES))
            kind, at = value.Offset(_slot(_VALUE_KIND)), value.Offset(_slot(_VALUE))
            if kind and at and data[value.Pos + kind] == _KIND_STRING:
                return _string(Table(data, value.Indirect(value.Pos + at)), _STRING_TEXT)
    return b""


def _slot(field: int) -> int:
    """Where the vtable of a FlatBuffers table says where this field lies."""
    return 4 + 2 * field


def _tables(table: Table, field: int) -> Iterator[Table]:
    """The tables of a vector of tables."""
    at = table.Offset(_slot(field))
    if at:
        first = table.Vector(at)
        for k in range(table.VectorLen(at)):
            yield Table(table.Bytes, table.Indirect(first + 4 * k))


def _string(table: Table, field: int) -> bytes:
    at = table.Offset(_slot(field))
    return bytes(table.String(table.Pos + at)) if at else b""


COREML_MODEL = "com.apple.CoreML/model.mlmodel"
"""Where the model lies in the folder ``Data`` of a Core ML package."""

_MAX_PROGRAM = 1 << 26
"""Bytes of a Core ML program without its weights; MobileNetV2's has 100 thousand, and the description 16 million."""

# Numbers of fields in Core ML's Model.proto.
_MODEL_DESCRIPTION, _DESCRIPTION_METADATA, _METADATA_USER_DEFINED = 2, 100, 100
_ENTRY_KEY, _ENTRY_VALUE = 1, 2


def read_coreml_spec(folder: Path) -> ModelSpec:
    """The spec in a Core ML package; WeightsError where the package is damaged, SpecError where the spec is missing."""
    data = read_coreml_model(folder)
    try:
        for description in _fields(data, _MODEL_DESCRIPTION):
            for metadata in _fields(description, _DESCRIPTION_METADATA):
                for entry in _fields(metadata, _METADATA_USER_DEFINED):
                    if bytes(next(_fields(entry, _ENTRY_KEY), b"")) == METADATA_KEY.encode():
                        text = bytes(next(_fields(entry, _ENTRY_VALUE), b""))
                        return ModelSpec.from_json(text, source=str(folder))
    except IndexError:
        raise WeightsError(f"{folder}: damaged Core ML package; export it again") from None
    raise _undescribed(str(folder))


def read_coreml_model(folder: Path) -> bytes:
    """The model's description and program, without its weights; WeightsError where the package is not whole."""
    check_file(folder / "Manifest.json", most=_MAX_PROGRAM)
    check_file(folder / "Data" / COREML_MODEL, most=_MAX_PROGRAM)
    try:
        manifest = json.loads((folder / "Manifest.json").read_bytes())
        place = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
        if place != COREML_MODEL:  # a package that names another place would show one model and run another
            raise KeyError(place)
        return (folder / "Data" / COREML_MODEL).read_bytes()
    except OSError as error:
        raise WeightsError(f"{folder}: damaged Core ML package ({error.strerror}); export it again") from None
    except (ValueError, LookupError, TypeError, RecursionError):
        raise WeightsError(
            f"{folder}: Manifest.json is damaged, or not of a Core ML package; export it again"
        ) from None


def _fields(message: bytes | memoryview, number: int) -> Iterator[memoryview]:
    """The fields of this number in a protobuf message, of those that have a length (texts, messages).

    https://protobuf.dev/programming-guides/encoding. Raises IndexError where the message is damaged.
    """
    message, at = memoryview(message), 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            _, at = _varint(message, at)
        elif kind == 1:
            at += 8
        elif kind == 5:
            at += 4
        elif kind == 2:
            length, at = _varint(message, at)
            if at + length > len(message):
                raise IndexError(at)
            if tag >> 3 == number:
                yield message[at : at + length]
            at += length
        else:
            raise IndexError(at)


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, least first, and where it ends."""
    value = 0
    for k in range(10):
        byte = message[at + k]
        value |= (byte & 127) << 7 * k
        if byte < 128:
            return value, at + k + 1
    raise IndexError(at)
