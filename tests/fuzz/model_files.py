"""Model files of every format for ``test_fuzz``: small whole ones, changes that reach behind checksums, and commands.

Bytes changed at random mostly end at the first check. So half of the changes are made inside: in the fields of a
flatbuffer or a protobuf, the entries of an archive, the description; with lengths, checksums and digests made anew.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import random
import re
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusiform.errors import FusiformError
from fusiform.exporting.targets.targets import TARGETS
from fusiform.graph.build import build_graph
from fusiform.graph.ir import INPUT, Conv, Graph, Linear, Mean, Quantization, Scale
from fusiform.graph.shapes import state_shapes
from fusiform.spec import ModelSpec, Preprocess
from fusiform.zoo.checkpoint import write_safetensors

Seeds = Mapping[str, bytes]
Luck = random.Random
FOLDER = Path(tempfile.gettempdir())
SUFFIXES = {
    "tflite": ".tflite",
    "onnx": ".onnx",
    "safetensors": ".safetensors",
    "pth": ".pth",
    "torchscript": ".pt",
    "openvino": ".xml",
    "executorch": ".pte",
}
PORTED = ("tflite", "onnx", "safetensors", "pth")
WRITTEN = ("float32", "int8")
NUMBERS = (0, 1, -1, 2, 3, 5, 127, 255, 256, 1 << 16, (1 << 31) - 1, -(1 << 31))
REALS = (0.0, -1.0, 1e-45, 1e-38, 1e38, float("inf"), float("nan"), 0.5, 3.0)


# Whole files


def specs() -> dict[str, ModelSpec]:
    """The smallest network of each kind."""
    made = {}
    for architecture, width in (("mobilenet_v2", 0.1), ("shufflenet_v2", 0.5)):
        fields: dict[str, dict[str, Any]] = {
            "classification": {"input_size": 32},
            "detection": {"input_size": 64},
            "segmentation": {"input_size": 33, "output_stride": 16, "aspp": architecture == "mobilenet_v2"},
        }
        for task, more in fields.items():
            size = more["input_size"]
            preprocess = Preprocess(resize=size, crop=size, fit="crop" if task == "classification" else "stretch")
            labels = tuple(f"class {k}" for k in range(4))
            spec = ModelSpec(architecture, width, labels, task=task, preprocess=preprocess, **more)
            made[f"{architecture}_{task}"] = spec
    return made


def weights(spec: ModelSpec) -> dict[str, NDArray[Any]]:
    """Random weights under which a picture reaches the end of the network."""
    luck = np.random.default_rng(3)
    state: dict[str, NDArray[Any]] = {}
    for name, shape in state_shapes(spec).items():
        if name.endswith("num_batches_tracked"):
            state[name] = np.array(5)
        elif len(shape) == 1:
            low, high = (-0.3, 0.7) if name.endswith(("bias", "running_mean")) else (0.7, 1.3)
            state[name] = luck.uniform(low, high, shape).astype(np.float32)
        else:
            state[name] = luck.normal(0, np.sqrt(1.5 / np.prod(shape[1:])), shape).astype(np.float32)
    return state


def quantised(graph: Graph) -> Graph:
    """An int8 graph of random numbers, every activation in one scale."""
    luck = np.random.default_rng(3)
    nodes, scales = [], {}
    for node in graph.nodes:
        if isinstance(node, Conv | Linear):
            scales[node.name] = luck.uniform(0.001, 0.01, len(node.bias)).astype(np.float32)
            weight = luck.integers(-127, 128, node.weight.shape).astype(np.int8)
            bias = luck.integers(-1000, 1000, len(node.bias)).astype(np.int32)
            node = dataclasses.replace(node, weight=weight, bias=bias if isinstance(node, Conv) else node.bias)
        nodes.append(node)
    vectors = [node for node in graph.nodes if isinstance(node, Linear) or (isinstance(node, Mean) and not node.as_map)]
    shared = Scale(float(np.float32(0.02)), -128)
    activations = {INPUT: Scale(1.0, -14)} | {node.name: shared for node in graph.nodes if node not in vectors}
    return Graph(graph.spec, tuple(nodes), Quantization(activations, scales))


def graphs() -> Iterator[tuple[str, str, Graph]]:
    """The name, the precision and the graph of each whole model; of detectors and segmenters decoded ones too."""
    for name, spec in specs().items():
        plain = build_graph(spec, weights(spec))
        for precision, graph in (("float32", plain), ("int8", quantised(plain))):
            yield f"{name}_{precision}", precision, graph
            if spec.task != "classification":
                decoded = dataclasses.replace(graph, spec=spec.replace(decoded=True))
                yield f"{name}_{precision}_decoded", precision, decoded


def exported(target: Any) -> Callable[[], Seeds]:
    """What makes the whole files of an export's target."""

    def seeds() -> Seeds:
        made: dict[str, bytes] = {}
        for name, precision, graph in graphs():
            wanted = TARGETS[target]
            if precision not in wanted.precisions or (
                graph.spec.decoded and target not in ("litert", "onnx", "openvino")
            ):
                continue
            with tempfile.TemporaryDirectory() as folder:
                written = wanted.writer()(graph, precision, Path(folder))[0].path
                made[name] = pack(written)
        return made

    return seeds


def pack(path: Path) -> bytes:
    """The bytes of a file; of OpenVINO's two, each behind its length."""
    if path.suffix != ".xml":
        return path.read_bytes()
    parts = path.read_bytes(), path.with_suffix(".bin").read_bytes()
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def unpack(content: bytes, path: Path) -> None:
    """Write what was packed."""
    if path.suffix != ".xml":
        path.write_bytes(content)
        return
    parts = []
    for _ in range(2):
        length = min(len(content), 4 + int.from_bytes(content[:4], "little"))
        parts.append(content[4:length])
        content = content[length:]
    path.write_bytes(parts[0])
    path.with_suffix(".bin").write_bytes(parts[1])


def safetensors() -> Seeds:
    made = {}
    for name, spec in specs().items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "x.safetensors"
            write_safetensors(path, weights(spec), spec)
            made[name] = path.read_bytes()
    return made


def checkpoints() -> Seeds:
    import torch

    made = {}
    for name, spec in specs().items():
        state = {key: torch.from_numpy(np.array(value)) for key, value in weights(spec).items()}
        for form in (True, False):
            stream = io.BytesIO()
            torch.save(state, stream, _use_new_zipfile_serialization=form)
            made[f"{name}_{'zip' if form else 'legacy'}"] = stream.getvalue()
    return made


# Changes inside


def in_description(data: bytes, luck: Luck) -> bytes:
    """Other numbers or words in the JSON of the description, which stays as long as it is."""
    found = re.search(rb'\{(?:\\?"|&quot;)architecture.*?\}', data, re.DOTALL)
    if found is None:
        return data
    inside = found[0]
    numbers = list(re.finditer(rb"\d+(?:\.\d+)?|true|false|[a-z_]{4,}", inside))
    one = luck.choice(numbers)
    length = one.end() - one.start()
    options = [b"9" * length, b"1" + b"0" * (length - 1), b"-" + b"1" * (length - 1), b"x" * length]
    options += [b"0" * length, b"true"[:length].ljust(length), b"1e9".ljust(length)[:length], b" " * length]
    at = found.start() + one.start()
    return data[:at] + luck.choice(options) + data[at + length :]


def in_flatbuffer(data: bytes, luck: Luck) -> bytes:
    """A TFLite file with other fields: operands, options, shapes, types, scales, constants."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as tfl

    from fusiform.graph.tflite import _Buffer
    from fusiform.graph.tflite_metadata import attach_files, read_label_file

    model = tfl.ModelT.InitFromPackedBuf(data)
    for _ in range(luck.choice((1, 1, 1, 2, 3))):
        _change_graph(model, luck)
    model.buffers = [_Buffer(data=None if buffer.data is None else bytes(buffer.data)) for buffer in model.buffers]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    labels = read_label_file(data) or ()
    return attach_files(bytes(builder.Output()), {"labels.txt": "".join(f"{label}\n" for label in labels).encode()})


def _change_graph(model: Any, luck: Luck) -> None:
    graph = model.subgraphs[0]
    operator, tensor = luck.choice(graph.operators), luck.choice(graph.tensors)
    number = luck.choice((*NUMBERS, luck.randrange(300)))
    index = luck.choice((-1, 0, len(graph.tensors) - 1, len(graph.tensors), luck.randrange(len(graph.tensors)), number))
    kind = luck.randrange(16)
    if kind <= 2:
        operands = [int(one) for one in (operator.outputs if kind == 2 and luck.randrange(3) == 0 else operator.inputs)]
        if operands and luck.randrange(3):
            operands[luck.randrange(len(operands))] = index
        elif operands and luck.randrange(2):
            del operands[luck.randrange(len(operands))]
        else:
            operands.insert(luck.randrange(len(operands) + 1), index)
        if kind == 2:
            operator.outputs = operands
        else:
            operator.inputs = operands
    elif kind <= 5 and operator.builtinOptions is not None:
        name = luck.choice(list(vars(operator.builtinOptions)) or [""])
        value = vars(operator.builtinOptions).get(name)
        if isinstance(value, bool):
            setattr(operator.builtinOptions, name, not value)
        elif isinstance(value, float):
            setattr(operator.builtinOptions, name, luck.choice(REALS))
        elif isinstance(value, int):
            small = number if "stride" in name.lower() or "ilter" in name or "ilation" in name else number % 100
            setattr(operator.builtinOptions, name, small if name != "padding" else number % 4)
    elif kind == 6:
        shape = [] if tensor.shape is None else [int(side) for side in tensor.shape]
        if shape and luck.randrange(4):
            shape[luck.randrange(len(shape))] = number
        elif shape and luck.randrange(2):
            shape.pop()
        else:
            shape.append(luck.choice((1, 2, number)))
        tensor.shape = shape
    elif kind == 7:
        tensor.type = luck.randrange(19)
    elif kind == 8:
        tensor.buffer = luck.choice((0, luck.randrange(len(model.buffers)), abs(number)))
    elif kind == 9 and tensor.quantization is not None and tensor.quantization.scale is not None:
        scaling = tensor.quantization
        what = luck.randrange(4)
        if what == 0:
            scales = np.array(scaling.scale, np.float32)
            scales[luck.randrange(len(scales)) :] = luck.choice(REALS)
            scaling.scale = scales
        elif what == 1:
            scaling.scale = np.array(scaling.scale, np.float32)[: luck.randrange(3)]
        elif what == 2:
            scaling.zeroPoint = np.array([number] * luck.choice((1, 1, 2, 7)), np.int64)
        else:
            scaling.quantizedDimension = number
    elif kind == 10:
        name = luck.choice(("inputs", "outputs"))
        indices = [int(one) for one in getattr(graph, name)]
        indices[luck.randrange(len(indices))] = index
        setattr(graph, name, indices if luck.randrange(4) else indices * 2)
    elif kind == 11:
        code = luck.choice(model.operatorCodes)
        if luck.randrange(3):
            operator.opcodeIndex = luck.choice((luck.randrange(len(model.operatorCodes)), abs(number)))
        else:
            code.builtinCode = luck.randrange(210)
            code.deprecatedBuiltinCode = min(127, code.builtinCode)
    elif kind <= 13:
        small = [buffer for buffer in model.buffers if buffer.data is not None and 4 <= len(buffer.data) <= 64]
        if small:
            values = bytearray(bytes(luck.choice(small).data))
            chosen = luck.choice(small)
            values = bytearray(bytes(chosen.data))
            place = 4 * luck.randrange(len(values) // 4)
            values[place : place + 4] = struct.pack("<i", number)
            chosen.data = bytes(values)
    elif kind == 14:
        first, second = luck.randrange(len(graph.operators)), luck.randrange(len(graph.operators))
        if luck.randrange(2):
            operators = graph.operators
            operators[first], operators[second] = operators[second], operators[first]
        else:
            del graph.operators[first]
    elif (values_of := luck.choice(model.buffers)).data is not None:
        values_of.data = bytes(values_of.data)[: luck.randrange(len(values_of.data))]


def in_protobuf(data: bytes, luck: Luck) -> bytes:
    """An ONNX file with other names of inputs, attributes, shapes, types and weights."""
    import onnx

    model = onnx.load_from_string(data)
    graph = model.graph
    for _ in range(luck.choice((1, 1, 1, 2, 3))):
        node = luck.choice(graph.node)
        names = [name for each in graph.node for name in (*each.input, *each.output)]
        number = luck.choice((*NUMBERS, luck.randrange(300)))
        kind = luck.randrange(10)
        if kind <= 1 and node.input:
            node.input[luck.randrange(len(node.input))] = luck.choice((*names, "", "nowhere"))
        elif kind == 2:
            node.op_type = luck.choice((luck.choice(graph.node).op_type, "Loop", "NonZero", "Nothing"))
        elif kind <= 4 and node.attribute:
            attribute = luck.choice(node.attribute)
            if attribute.ints:
                attribute.ints[luck.randrange(len(attribute.ints))] = number
            else:
                attribute.i = number
                attribute.f = luck.choice(REALS)
        elif kind <= 6 and graph.initializer:
            tensor = luck.choice(graph.initializer)
            if luck.randrange(2) and tensor.dims:
                tensor.dims[luck.randrange(len(tensor.dims))] = number
            elif luck.randrange(2):
                tensor.data_type = luck.randrange(24)
            else:
                tensor.raw_data = tensor.raw_data[: luck.randrange(len(tensor.raw_data) + 1)]
        elif kind == 7:
            which = luck.choice((graph.input, graph.output))
            shape = luck.choice(which).type.tensor_type
            if luck.randrange(2) and shape.shape.dim:
                luck.choice(shape.shape.dim).dim_value = number
            else:
                shape.elem_type = luck.randrange(24)
        elif kind == 8:
            del graph.node[luck.randrange(len(graph.node))]
        elif graph.initializer:
            tensor = luck.choice(graph.initializer)
            if len(tensor.raw_data) >= 8:
                form = luck.choice(("<q", "<d"))
                tensor.raw_data = struct.pack(form, number) + tensor.raw_data[8:]
    return model.SerializeToString()


def in_header(data: bytes, luck: Luck) -> bytes:
    """A safetensors file with another entry in its header, whose length is told right."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    name = luck.choice([key for key in header if key != "__metadata__"])
    number = luck.choice((*NUMBERS, luck.randrange(300), 1 << 40, 1 << 62))
    kind = luck.randrange(7)
    if kind == 0 and header[name]["shape"]:
        header[name]["shape"][luck.randrange(len(header[name]["shape"]))] = number
    elif kind == 1:
        header[name]["dtype"] = luck.choice(("F64", "F16", "BF16", "I8", "BOOL", "F8_E4M3", "C64", "none"))
    elif kind == 2:
        header[name]["data_offsets"][luck.randrange(2)] = number
    elif kind == 3:
        header[f"{name}x"] = header.pop(name)
    elif kind == 4:
        del header[name]
    elif kind == 5:
        header["__metadata__"]["fusiform.spec"] = in_description(
            header["__metadata__"]["fusiform.spec"].encode(), luck
        ).decode("utf-8", "replace")
    else:
        values = bytearray(data[8 + length :])
        start, end = header[name]["data_offsets"]
        values[start:end] = struct.pack("<f", luck.choice(REALS)) * ((end - start) // 4) + bytes((end - start) % 4)
        return data[: 8 + length] + bytes(values)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def in_archive(data: bytes, luck: Luck, change: Callable[[bytes, bytes, Luck], bytes]) -> bytes:
    """A zip archive of PyTorch's with one entry changed, its checksum right; another name, compression or nothing."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w") as new:
        names = old.namelist()
        telling = [name for name in names if name.endswith((".pkl", ".py", "spec", "version", "byteorder"))]
        chosen = luck.choice(telling if luck.randrange(4) else names)
        for name in names:
            content, label = old.read(name), name
            if name == chosen:
                kind = luck.randrange(8)
                if kind == 0:
                    continue
                if kind == 1:
                    label = luck.choice((name + "x", "../" + name, name.partition("/")[2], luck.choice(names)))
                    if label in new.namelist() or (label != name and label in names):
                        label = name + "y"
                elif kind == 2 and name.endswith("spec"):
                    content = in_description(content, luck)
                else:
                    content = change(content, content, luck)
            method = zipfile.ZIP_DEFLATED if luck.randrange(20) == 0 else zipfile.ZIP_STORED
            new.writestr(label, content, method)
    return made.getvalue()


def in_pair(data: bytes, luck: Luck, change: Callable[[bytes, bytes, Luck], bytes]) -> bytes:
    """OpenVINO's description or weights changed; mostly with the weights' digest told right."""
    import hashlib

    first = int.from_bytes(data[:4], "little")
    xml, weights_ = data[4 : 4 + first], data[8 + first :]
    kind = luck.randrange(4)
    if kind == 0:
        weights_ = change(weights_, weights_, luck)
    elif kind == 1:
        xml = change(xml, xml, luck)
    elif kind == 2:
        xml = in_description(xml, luck)
    else:  # a value of the description of the network
        values = list(re.finditer(rb'="([^"]{1,20})"|<dim>(\d+)</dim>', xml))
        one = luck.choice(values)
        group = 1 if one[1] is not None else 2
        other = luck.choice((str(luck.choice(NUMBERS)).encode(), b"nan", b"-1", b"f32", b"i64", b"", b"1, 1, 1, 1"))
        xml = xml[: one.start(group)] + other + xml[one.end(group) :]
    if luck.randrange(5):
        digest = hashlib.sha256(weights_).hexdigest().encode()
        xml = re.sub(rb'<weights_sha256 value="\w+"', b'<weights_sha256 value="' + digest + b'"', xml)
    return b"".join(struct.pack("<I", len(part)) + part for part in (xml, weights_))


def signed(data: bytes) -> bytes:
    """An ExecuTorch program with the digest that it should have."""
    from fusiform.zoo.programs import NO_DIGEST, executorch_digest

    plain = re.sub(rb"fusiform\.sha256:\w{64}", NO_DIGEST.encode(), data)
    return plain.replace(NO_DIGEST.encode(), executorch_digest(plain))


def changed(
    kind: str, content: bytes, other: bytes, luck: Luck, change: Callable[[bytes, bytes, Luck], bytes]
) -> bytes:
    """The content with bytes changed by ``change``, or something inside it."""
    if luck.randrange(8) == 0 and kind not in ("openvino", "executorch"):
        return in_description(content, luck)
    inside = luck.randrange(2) == 0
    if kind == "openvino":
        return in_pair(content, luck, change)
    if kind == "executorch":
        return signed(in_description(content, luck) if luck.randrange(8) == 0 else change(content, other, luck))
    if not inside:
        return change(content, other, luck)
    try:
        if kind == "tflite":
            return in_flatbuffer(content, luck)
        if kind == "onnx":
            return in_protobuf(content, luck)
        if kind == "safetensors":
            return in_header(content, luck)
        if content[:2] == b"PK":
            return in_archive(content, luck, change)
    except (ValueError, TypeError, struct.error, OverflowError, AttributeError):  # what no file can hold
        return change(content, other, luck)
    return change(content, other, luck)


# Commands


def reader(kind: str) -> Callable[[bytes, str], object]:
    """What does with a model file what the commands do: info, predict, port, and at times verify."""

    def read(content: bytes, name: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"model{SUFFIXES[kind]}"
            unpack(content, path)
            with quiet_streams() as said:
                for command in commands(kind, name, content, path):
                    do(command, path)
        if words := said():
            raise AssertionError(f"said on standard output or error: {words[-300:]!r}")

    return read


def do(command: Callable[[], object], path: Path) -> None:
    """Answers and errors for users are both right; AssertionError for an error that does not serve them."""
    try:
        command()
    except FusiformError as error:
        if path.name not in str(error):
            raise AssertionError(f"an error that names no file: {error}") from None
        if len(str(error)) > 2000 or not str(error).isprintable():
            raise AssertionError(f"its message cannot be shown: {str(error)[:200]!r}") from None


def commands(kind: str, name: str, content: bytes, path: Path) -> Iterator[Callable[[], object]]:
    from fusiform.porting.port import port
    from fusiform.prediction.predict import predict
    from fusiform.zoo.info import describe

    pictures = [np.arange(40 * 48 * 3, dtype=np.uint8).reshape(40, 48, 3), np.full((33, 32, 3), 200, np.uint8)]
    yield lambda: describe(path).to_json()
    yield lambda: predict(pictures, path, threads=1, progress=False).to_json()
    if kind in PORTED:
        yield lambda: port(path, path.with_name("ported.safetensors"))
    if zlib.crc32(content) % 16 == 0 and kind != "pth":
        yield lambda: _verify(name, path)


def _verify(name: str, path: Path) -> object:
    from fusiform.exporting.verification.verify import verify

    spec = next(spec for key, spec in specs().items() if name.startswith(key))
    against = path.with_name("against.safetensors")
    write_safetensors(against, weights(spec), spec)
    return verify(path, against, progress=False).report()


@contextlib.contextmanager
def quiet_streams() -> Iterator[Callable[[], str]]:
    """Catch what is written on standard output and error, also past Python; a function gives it afterwards."""
    with tempfile.TemporaryFile() as caught:
        kept = os.dup(1), os.dup(2)
        for stream in (1, 2):
            os.dup2(caught.fileno(), stream)
        words = ""
        try:
            yield lambda: words
        finally:
            for stream, old in zip((1, 2), kept, strict=True):
                os.dup2(old, stream)
                os.close(old)
            caught.seek(0)
            words = caught.read().decode("utf-8", "replace").strip()
