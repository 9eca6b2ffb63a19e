"""Changes that reach behind the checksums of model files, for ``model_files``.

In the fields of a flatbuffer or a protobuf, the operations of a pickle, the entries of an archive, the description;
with lengths, checksums and digests made anew.
"""

from __future__ import annotations

import hashlib
import html
import io
import json
import pickletools
import random
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from fusiform.spec import METADATA_KEY

Luck = random.Random
Change = Callable[[bytes, bytes, Luck], bytes]
NUMBERS = (0, 1, -1, 2, 3, 5, 127, 255, 256, 1 << 16, (1 << 31) - 1, -(1 << 31))
HUGE = (1 << 32, 1 << 40, (1 << 62) + 1, 1 << 63, -(1 << 63), 10**30)
REALS = (0.0, -1.0, 1e-45, 1e-38, 1e38, float("inf"), float("nan"), 0.5, 3.0)
FOREIGN_KEY = METADATA_KEY[:-1] + "_"
"""Under this key a description is that of another tool."""


def other_description(text: str, luck: Luck) -> str:
    """A description with another value in one of its fields, one field less, or one more."""
    said = json.loads(text)
    inside = luck.choice([said, *(value for value in said.values() if isinstance(value, dict))])
    name = luck.choice(list(inside) or ["x"])
    values: list[Any] = [
        *NUMBERS,
        *HUGE,
        *REALS,
        1e400,
        -(10**400),
        1e308,
        "",
        "\x1b[31m\u202e",
        "x" * 5000,
        None,
        True,
    ]
    values += [[], {}, [[]], ["a"] * 3, ["a"] * 20_000, [0.5] * 3, [1e-320] * 3, [1e308] * 3, {"x": {}}, "crop", "1e9"]
    kind = luck.randrange(8)
    if kind == 0:
        inside.pop(name, None)
    elif kind == 1:
        inside[luck.choice(("", "x", "input_channels", "schema", name + "_"))] = luck.choice(values)
    elif kind == 2 and isinstance(said.get("labels"), list):
        said["labels"] = luck.choice(
            ([f"{k}" for k in range(luck.choice((1, 3, 5, 100_000)))], ["a"] * 4, [1, 2, 3, 4])
        )
    else:
        inside[name] = luck.choice(values)
    if luck.randrange(60) == 0:
        return "[" * 100_000
    return json.dumps(said).replace("Infinity", "1e999")


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
    from fusiform.graph.tflite_metadata import read_label_file

    model = tfl.ModelT.InitFromPackedBuf(data)
    for _ in range(luck.choice((1, 1, 1, 2, 3))):
        _change_graph(model, luck)
    if luck.randrange(12) == 0:
        for entry in model.metadata:
            if entry.name == METADATA_KEY.encode():
                buffer = model.buffers[entry.buffer]
                buffer.data = other_description(bytes(buffer.data).decode(), luck).encode()
    model.buffers = [_Buffer(data=None if buffer.data is None else bytes(buffer.data)) for buffer in model.buffers]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    labels = "".join(f"{label}\n" for label in read_label_file(data) or ()).encode()
    return bytes(builder.Output()) + label_file(labels, luck)


def label_file(labels: bytes, luck: Luck) -> bytes:
    """The archive behind a TFLite file; now and then one that unpacks to much, in another way, or to other labels."""
    method, content = zipfile.ZIP_STORED, labels
    if luck.randrange(12) == 0:
        method = luck.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
        content = luck.choice((labels, labels, labels[:-1], b"x\n" * 4, b"\xff\n", b"", bytes(20 << 20)))
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(zipfile.ZipInfo("labels.txt", (1980, 1, 1, 0, 0, 0)), content, method)
    archived = made.getvalue()
    if luck.randrange(24) == 0:
        at = luck.randrange(len(archived))
        archived = archived[:at] + luck.randbytes(1) + archived[at + 1 :]
    return archived


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
        kind = luck.randrange(12)
        if kind == 10:
            for entry in model.metadata_props:
                if entry.key == METADATA_KEY:
                    entry.value = other_description(entry.value, luck)
        elif kind == 11 and graph.initializer:
            _change_storage(luck.choice(graph.initializer), luck)
        elif kind <= 1 and node.input:
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
    return bytes(model.SerializeToString())


def _change_storage(tensor: Any, luck: Luck) -> None:
    """Weights that lie elsewhere, or in another field."""
    kind = luck.randrange(4)
    if kind <= 1:
        tensor.ClearField("raw_data")
        tensor.data_location = 1
        places = ("/etc/passwd", "../x", "model.onnx", "~/x", "", "/dev/zero", "*" * 300)
        for key, value in (("location", luck.choice(places)), ("offset", luck.choice(("0", "-1", "9" * 30, "x")))):
            tensor.external_data.add(key=key, value=value)
        if luck.randrange(2):
            tensor.external_data.add(key="length", value=luck.choice(("4", "-1", "1" + "0" * 14)))
    elif kind == 2:
        tensor.ClearField("raw_data")
        luck.choice((tensor.float_data, tensor.int64_data, tensor.int32_data)).extend([1] * luck.choice((1, 24, 1000)))
    else:
        tensor.ClearField("raw_data")
        tensor.dims[:] = [luck.choice((1 << 30, 1 << 40, 1 << 62))] * luck.choice((1, 2))


def in_header(data: bytes, luck: Luck) -> bytes:
    """A safetensors file with another entry in its header, whose length is told right."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    name = luck.choice([key for key in header if key != "__metadata__"])
    number = luck.choice((*NUMBERS, luck.randrange(300), 1 << 40, 1 << 62))
    kind = luck.randrange(8)
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
    elif kind == 7:  # a tensor that takes no bytes, however large a side is
        header["empty"] = {"dtype": "F32", "shape": [0, number], "data_offsets": [0, 0]}
    elif kind == 5:
        header["__metadata__"][METADATA_KEY] = other_description(header["__metadata__"][METADATA_KEY], luck)
    else:
        values = bytearray(data[8 + length :])
        start, end = header[name]["data_offsets"]
        values[start:end] = struct.pack("<f", luck.choice(REALS)) * ((end - start) // 4) + bytes((end - start) % 4)
        return data[: 8 + length] + bytes(values)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def in_pickle(data: bytes, luck: Luck) -> bytes:
    """A pickle, or several one after the other, with other numbers, texts and names of types."""
    for _ in range(luck.choice((1, 1, 2, 4))):
        start, places = 0, []
        while data[start : start + 1] == b"\x80" and len(places) < 20_000:  # PyTorch's old files have five
            stream = io.BytesIO(data[start:])
            found = [(op.name, at) for op, _, at in pickletools.genops(stream) if at is not None]
            ends = [at for _, at in found[1:]] + [stream.tell()]
            places += [(name, start + at, start + end) for (name, at), end in zip(found, ends, strict=True)]
            start += stream.tell()
        numbers = [place for place in places if place[0] in ("BININT", "BININT1", "BININT2", "LONG1")]
        others = [place for place in places if place[0] in ("BINUNICODE", "GLOBAL", "NEWTRUE", "NEWFALSE", "TUPLE")]
        name, at, end = luck.choice(numbers if numbers and (luck.randrange(3) or not others) else others)
        if name == "GLOBAL":
            new = luck.choice(_GLOBALS)
        elif name == "BINUNICODE":
            text = luck.choice((data[at + 5 : end] + b"x", b"", b"cuda:0", b"meta", b"x" * 300, b"../0", b"1"))
            new = b"X" + struct.pack("<I", len(text)) + text
        elif name in ("BININT", "BININT1", "BININT2", "LONG1"):
            number = luck.choice((*NUMBERS, *HUGE, luck.randrange(300)))
            new = b"\x8a\x10" + number.to_bytes(16, "little", signed=True)
        else:
            new = luck.choice((b"N", b"]", b")", b"}", b"\x88", b"G" + struct.pack(">d", 1e300)))
        data = data[:at] + new + data[end:]
    return data


_GLOBALS = tuple(
    f"c{module}\n{name}\n".encode()
    for module, name in (
        *(
            ("torch", f"{kind}Storage")
            for kind in ("Double", "Half", "Byte", "Bool", "ComplexFloat", "QInt8", "BFloat16")
        ),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_parameter"),
        ("torch._utils", "_rebuild_meta_tensor_no_storage"),
        ("torch._utils", "_rebuild_sparse_tensor"),
        ("collections", "OrderedDict"),
        ("builtins", "eval"),
        ("os", "system"),
    )
)


def in_code(data: bytes, luck: Luck) -> bytes:
    """TorchScript's code with another number or name."""
    words = list(re.finditer(rb"\b\d+\b|\b[a-z_]{3,}\b", data))
    if not words:
        return data
    one = luck.choice(words)
    number = str(luck.choice((*NUMBERS, 1 << 40, luck.randrange(300)))).encode()
    new = number if one[0].isdigit() else luck.choice((luck.choice(words)[0], b"nothing", b"None"))
    return data[: one.start()] + new + data[one.end() :]


def in_state(data: bytes, luck: Luck) -> bytes:
    """A checkpoint with a tensor of a kind that no network has, or other things among its weights."""
    import torch

    state = dict(torch.load(io.BytesIO(data), weights_only=True))
    name = luck.choice(list(state))
    value = state[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        changes: tuple[Callable[[], Any], ...] = (
            lambda: torch.zeros(1).expand(luck.choice((1 << 20, 1 << 30, 1 << 40))),
            lambda: torch.zeros(1, 1).expand(1 << luck.randrange(1, 31), 1 << luck.randrange(1, 31)),
            lambda: value.float().flatten()[:1].expand(value.shape) if value.dim() and value.numel() else value,
            lambda: torch.empty(luck.choice((value.shape, (1 << 40,))), device="meta"),
            lambda: torch.view_as_complex(torch.zeros(*value.shape, 2)).conj(),
            lambda: torch.view_as_complex(torch.zeros(*value.shape, 2)).conj().imag,
            lambda: value.float().to_sparse(),
            lambda: value.to(luck.choice((torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.bool))),
            lambda: value.to(luck.choice((torch.complex64, torch.float8_e4m3fn))),
            lambda: torch.quantize_per_tensor(value.float(), 0.1, 0, torch.qint8),
            lambda: torch.nn.Parameter(value.float()),
            lambda: torch.full(value.shape, luck.choice(REALS)),
            lambda: value.transpose(0, -1) if value.ndim else value,
            lambda: torch.zeros(luck.choice(((), (0,), (0, 1 << 40), (1,) * 30))),
            lambda: luck.choice(("x", 1, None, [1, [2]], {"x": value}, [value] * 3)),
        )
        state[name] = luck.choice(changes)()
        kind = luck.randrange(6)
        if kind == 0:
            state[luck.choice((f"module.{name}", f"{name}\x1b", "x" * 3000))] = state.pop(name)
        whole: Any = {luck.choice(("state_dict", "model_ema", "x")): state} if kind == 1 else state
        made = io.BytesIO()
        torch.save(whole, made, _use_new_zipfile_serialization=data[:2] == b"PK")
    return made.getvalue()


def in_archive(data: bytes, luck: Luck, change: Change) -> bytes:
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
                elif name.endswith("spec") and kind <= 5:
                    content = other_description(content.decode(), luck).encode()
                elif name.endswith(".pkl") and kind <= 5:
                    content = in_pickle(content, luck)
                elif name.endswith(".py") and kind <= 5:
                    content = in_code(content, luck)
                else:
                    content = change(content, content, luck)
            method = zipfile.ZIP_DEFLATED if luck.randrange(20) == 0 else zipfile.ZIP_STORED
            new.writestr(label, content, method)
    return made.getvalue()


def in_pair(data: bytes, luck: Luck, change: Change) -> bytes:
    """OpenVINO's description or weights changed; mostly with the weights' digest told right."""
    xml, weights_ = split(data)
    kind = luck.randrange(5)
    if kind == 0:
        weights_ = change(weights_, weights_, luck)
    elif kind == 1:
        xml = change(xml, xml, luck)
    elif kind == 2:
        xml = in_description(xml, luck)
    elif kind == 3:
        said = re.search(rb'<spec value="([^"]*)"', xml)
        if said is not None:
            text = other_description(html.unescape(said[1].decode()), luck)
            xml = xml[: said.start(1)] + html.escape(text).encode() + xml[said.end(1) :]
    else:  # a value of the description of the network
        values = list(re.finditer(rb'="([^"]{1,20})"|<dim>(\d+)</dim>', xml))
        one = luck.choice(values)
        group = 1 if one[1] is not None else 2
        other = luck.choice((str(luck.choice(NUMBERS)).encode(), b"nan", b"-1", b"f32", b"i64", b"", b"1, 1, 1, 1"))
        xml = xml[: one.start(group)] + other + xml[one.end(group) :]
    if luck.randrange(5):
        digest = hashlib.sha256(weights_).hexdigest().encode()
        xml = re.sub(rb'<weights_sha256 value="\w+"', b'<weights_sha256 value="' + digest + b'"', xml)
    return joined(xml, weights_)


def joined(*parts: bytes) -> bytes:
    """Several files as one, each behind its length."""
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def split(content: bytes) -> tuple[bytes, bytes]:
    """The two files that were joined; what was changed since may have cut them off."""
    parts = []
    for _ in range(2):
        length = min(len(content), 4 + int.from_bytes(content[:4], "little"))
        parts.append(content[4:length])
        content = content[length:]
    return parts[0], parts[1]


def in_package(data: bytes, luck: Luck, change: Change) -> bytes:
    """A Core ML package's list of its files, or its model, changed."""
    manifest, model = split(data)
    kind = luck.randrange(4)
    if kind == 0:
        manifest = change(manifest, manifest, luck)
    elif kind == 1:
        values = list(re.finditer(rb'"[^"]*"', manifest))
        one = luck.choice(values)
        other = luck.choice((b'"../../x"', b'"/etc/passwd"', b"1", b"null", b"[]", b'""', luck.choice(values)[0]))
        manifest = manifest[: one.start()] + other + manifest[one.end() :]
    elif kind == 2:
        model = in_description(model, luck)
    else:
        model = change(model, model, luck)
    return joined(manifest, model)


def signed(data: bytes) -> bytes:
    """An ExecuTorch program with the digest that it should have."""
    from fusiform.zoo.programs import NO_DIGEST, executorch_digest

    plain = re.sub(rb"fusiform\.sha256:\w{64}", NO_DIGEST.encode(), data)
    return plain.replace(NO_DIGEST.encode(), executorch_digest(plain))


def changed(kind: str, content: bytes, other: bytes, luck: Luck, change: Change) -> bytes:
    """The content with bytes changed by ``change``, or something inside it; at times as another tool's file."""
    made = _changed(kind, content, other, luck, change)
    if kind in ("tflite", "onnx") and luck.randrange(12) == 0:
        made = made.replace(METADATA_KEY.encode(), FOREIGN_KEY.encode())
    return made


def _changed(kind: str, content: bytes, other: bytes, luck: Luck, change: Change) -> bytes:
    if kind == "openvino":
        return in_pair(content, luck, change)
    if kind == "coreml":
        return in_package(content, luck, change)
    if kind == "executorch":
        return signed(in_description(content, luck) if luck.randrange(8) == 0 else change(content, other, luck))
    if luck.randrange(8) == 0:
        return in_description(content, luck)
    if luck.randrange(2):
        return change(content, other, luck)
    try:
        if kind == "tflite":
            return in_flatbuffer(content, luck)
        if kind == "onnx":
            return in_protobuf(content, luck)
        if kind == "safetensors":
            return in_header(content, luck)
        if kind == "pth" and luck.randrange(2):
            return in_state(content, luck)
        return in_archive(content, luck, change) if content[:2] == b"PK" else in_pickle(content, luck)
    except (ValueError, TypeError, struct.error, OverflowError, AttributeError, RecursionError):  # what no file holds
        return change(content, other, luck)
