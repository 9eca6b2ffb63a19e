"""The tensors of the Open Inference Protocol's binary extension: bytes in, bytes out, each length checked."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusiform.report import printable
from fusiform.serving.reading import MAX_IMAGES, decode_base64, read_json, too_many_images
from fusiform.serving.refusals import bad

LENGTH_HEADER = "Inference-Header-Content-Length"
"""The header that says how many bytes of JSON stand before the binary data."""
_NAMES = {"f4": "FP32", "i8": "INT64", "u1": "UINT8", "u2": "UINT16"}
_MOST_DIMENSIONS = 8


class Tensor(NamedTuple):
    """An input as it was sent: ``data`` is its bytes, or what JSON had of it."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes | list[Any]


class Asked(NamedTuple):
    """A request for inference: ``outputs`` are the names asked for, each with whether its data is to be binary."""

    id: str | None
    parameters: dict[str, Any]
    inputs: list[Tensor]
    outputs: dict[str, bool] | None


def read_request(body: bytes | bytearray, header_length: str | None) -> Asked:
    """A request from its body; ``header_length`` is the value of ``LENGTH_HEADER``. Refusal for what does not fit."""
    text, rest = bytes(body), b""
    if header_length is not None:
        if not (header_length.isascii() and header_length.isdigit()) or len(header_length) > 18:
            raise bad(f"{LENGTH_HEADER} must be a number of bytes")
        length = int(header_length)
        if length > len(body):
            raise bad(f"{LENGTH_HEADER} is {length}, and the body has {len(body)} bytes")
        text, rest = text[:length], text[length:]
    found = read_json(text)
    parameters = _parameters(found, "the request")
    inputs, used = [], 0
    for entry in _list_of(found, "inputs"):
        tensor, size = _tensor(entry, rest, used)
        inputs.append(tensor)
        used += size
    if used != len(rest):
        raise bad(f"the inputs' binary_data_size are {used} bytes together, and {len(rest)} follow the JSON")
    outputs = None
    if found.get("outputs") is not None:
        binary = parameters.get("binary_data_output", False) is True
        outputs = {}
        for entry in _list_of(found, "outputs"):
            name, its_own = _text(entry, "name"), _parameters(entry, "an output")
            outputs[name] = its_own.get("binary_data", binary) is True
    given = found.get("id")
    if given is not None and not isinstance(given, str):
        raise bad("id must be a text")
    return Asked(given, parameters, inputs, outputs)


def _list_of(found: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    entries = found.get(key)
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise bad(f"{key} must be a list of objects")
    if len(entries) > MAX_IMAGES:
        raise bad(f"{key} has {len(entries)} entries, and up to {MAX_IMAGES} are read")
    return entries


def _text(entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str):
        raise bad(f"{key} must be a text")
    return printable(value)[:100]


def _parameters(entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    parameters = entry.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise bad(f"the parameters of {where} must be an object")
    return parameters


def _tensor(entry: Mapping[str, Any], rest: bytes | bytearray, at: int) -> tuple[Tensor, int]:
    name, datatype, shape = _text(entry, "name"), _text(entry, "datatype"), entry.get("shape")
    if (
        not isinstance(shape, list)
        or not 1 <= len(shape) <= _MOST_DIMENSIONS
        or not all(isinstance(length, int) and not isinstance(length, bool) and length > 0 for length in shape)
    ):
        raise bad(f"the shape of {name} must be a list of whole numbers from 1")
    size = _parameters(entry, name).get("binary_data_size")
    data = entry.get("data")
    if (size is None) == (data is None):
        raise bad(f"{name} must have either data or a binary_data_size")
    if size is None:
        if not isinstance(data, list):
            raise bad(f"the data of {name} must be a list")
        return Tensor(name, datatype, tuple(shape), data), 0
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(rest) - at:
        raise bad(f"the binary_data_size of {name} is not a number of bytes that follow the JSON")
    return Tensor(name, datatype, tuple(shape), bytes(rest[at : at + size])), size


def byte_strings(tensor: Tensor) -> list[bytes]:
    """The elements of a tensor of BYTES: of binary data each after its length in 4 bytes, of JSON in base64."""
    count = math.prod(tensor.shape)
    if count > MAX_IMAGES:
        raise too_many_images(count)
    if isinstance(tensor.data, list):
        texts = _flat(tensor.data, tensor.name)
        found = [decode_base64(text, f"{tensor.name}[{k}]") for k, text in enumerate(texts)]
    else:
        found, at = [], 0
        while at < len(tensor.data):
            if len(found) == count or at + 4 > len(tensor.data):
                raise bad(f"the data of {tensor.name} does not end with its {count} elements")
            (length,) = struct.unpack_from("<I", tensor.data, at)
            at += 4
            if at + length > len(tensor.data):
                raise bad(f"an element of {tensor.name} is said to have {length} bytes, more than there are")
            found.append(tensor.data[at : at + length])
            at += length
    if len(found) != count:
        raise bad(f"{tensor.name} has {len(found)} elements, and its shape says {count}")
    return found


def pixels(tensor: Tensor) -> list[NDArray[np.uint8]]:
    """The images (H, W, 3) of a tensor of UINT8, (N, H, W, 3) or (H, W, 3)."""
    shape = tensor.shape if len(tensor.shape) == 4 else (1, *tensor.shape)
    if len(shape) != 4 or shape[3] != 3:
        raise bad(f"{tensor.name} must be (images, height, width, 3) in red, green, blue, not {list(tensor.shape)}")
    if shape[0] > MAX_IMAGES:
        raise too_many_images(shape[0])
    if isinstance(tensor.data, list):
        values = _flat(tensor.data, tensor.name)
        if not all(type(value) is int and 0 <= value <= 255 for value in values):
            raise bad(f"the data of {tensor.name} must be whole numbers from 0 to 255")
        data = bytes(values)
    else:
        data = tensor.data
    if len(data) != math.prod(shape):
        raise bad(f"{tensor.name} has {len(data)} values, and its shape {list(tensor.shape)} says {math.prod(shape)}")
    return list(np.frombuffer(data, np.uint8).reshape(shape))


def _flat(data: list[Any], name: str) -> list[Any]:
    """The elements of nested lists, in their order."""
    for _ in range(_MOST_DIMENSIONS):
        if not any(isinstance(each, list) for each in data):
            return data
        if not all(isinstance(each, list) for each in data):
            break
        data = [value for each in data for value in each]
    raise bad(f"the data of {name} is nested unevenly or too deeply")


def write_answer(
    head: dict[str, Any], outputs: Sequence[tuple[str, NDArray[Any] | list[str], Sequence[int], bool]]
) -> tuple[dict[str, Any], bytes]:
    """The answer's JSON and the binary data behind it, from each output's name, values, shape and whether binary."""
    entries: list[dict[str, Any]] = []
    pieces: list[bytes] = []
    for name, values, shape, binary in outputs:
        if isinstance(values, list):
            entry = {"name": name, "datatype": "BYTES", "shape": list(shape)}
            encoded = [value.encode("utf-8", "replace") for value in values]
            data = b"".join(struct.pack("<I", len(value)) + value for value in encoded)
        else:
            entry = {"name": name, "datatype": _NAMES[values.dtype.str[1:]], "shape": list(shape)}
            data = values.astype(values.dtype.newbyteorder("<")).tobytes()
        if binary:
            entries.append({**entry, "parameters": {"binary_data_size": len(data)}})
            pieces.append(data)
        else:
            entries.append({**entry, "data": values if isinstance(values, list) else values.ravel().tolist()})
    return {**head, "outputs": entries}, b"".join(pieces)
