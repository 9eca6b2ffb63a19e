"""Core ML packages for Apple's machines, and an interpreter that reads them back anywhere.

Core ML itself runs on a Mac or a phone only. So that a package can be verified where it is made, ``open_package``
computes what is in the file, operator by operator, with PyTorch.
"""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fusiform.engines.batch import Batch, as_normalized, check_batch
from fusiform.engines.quiet import quietly
from fusiform.errors import MissingExtraError, OutputError, WeightsError
from fusiform.exporting.targets.base import Precision, Written, file_stem
from fusiform.files import write_file
from fusiform.graph.inputs import read_pixels
from fusiform.graph.ir import (
    INPUT,
    Add,
    Center,
    Conv,
    Gather,
    Graph,
    Linear,
    MaxPool,
    Mean,
    Node,
    Spread,
    Stack,
    pads,
    reads_pixels,
)
from fusiform.spec import METADATA_KEY, ModelSpec, Padding
from fusiform.zoo.programs import COREML_MODEL, read_coreml_model, read_coreml_spec

_WEIGHTS = "com.apple.CoreML/weights"
_LABEL, _PROBABILITIES = "classLabel", "probabilities"
Given = Mapping[str, Any]
"""An operator's inputs by their names in MIL."""


def write(graph: Graph, precision: Precision, folder: Path) -> list[Written]:
    """Write ``NAME_PRECISION.mlpackage``, a folder, from a float32 graph, for iOS 15 or macOS 12 and later.

    A network of three colours takes a picture as iOS hands it over, an image of the input size in the spec's colour
    order: the mean is subtracted first, and the first weights divide by the standard deviation. Others take normalised
    float32 (1, channels, size, size). The answers are multi-arrays under the spec's names: ``logits`` (or
    ``probabilities``) of a classifier, its ``features`` where the spec says so, and where no two of its labels are the
    same, ``classLabel`` and the probability of each label; ``logits`` (1, priors, 1 + classes) and ``codes`` (1,
    priors, 4) of a detector, ``logits`` (1, rows, columns, classes) of a segmenter. ``float16`` stores weights and
    activations in half the space.

    Raises MissingExtraError without coremltools.
    """
    assert graph.quantization is None, "Core ML packages are made from float32 graphs"
    spec = graph.spec
    if spec.input_channels == 3 and not reads_pixels(graph):
        graph = read_pixels(graph)
    with quietly():
        tools = _import_tools()
        shape = (1, spec.input_channels, spec.input_size, spec.input_size)
        given = tools.TensorType(name=INPUT, shape=shape)
        if reads_pixels(graph):
            given = tools.ImageType(name=INPUT, shape=shape, color_layout=spec.preprocess.color_order.upper())
        classifier = None
        if _classifies(spec):
            classifier = tools.ClassifierConfig(list(spec.labels), _LABEL, _PROBABILITIES)
        model = tools.convert(
            _program(graph, tools.target.iOS15),
            convert_to="mlprogram",
            inputs=[given],
            classifier_config=classifier,
            minimum_deployment_target=tools.target.iOS15,
            compute_precision=tools.precision.FLOAT16 if precision == "float16" else tools.precision.FLOAT32,
            skip_model_load=True,
        )
        description = model.get_spec()
        weights = (Path(model.weights_dir) / "weight.bin").read_bytes()
    _describe(description, spec)
    path = folder / f"{file_stem(spec, precision)}.mlpackage"
    _write_package(path, description.SerializeToString(deterministic=True), weights)
    return [Written(path, (path,), {"verified_by": "interpreter, not Core ML"})]


def open_package(path: Path) -> PackageInterpreter:
    """A Core ML package as an engine for machines without Core ML; see ``PackageInterpreter``."""
    return PackageInterpreter(path)


class PackageInterpreter:
    """Computes what a Core ML package holds, read back from the disk, in float32.

    Where the package says float16, weights and each operator's result are rounded to that. It answers what ``write``
    can write: one picture in, the spec's answers out. Raises MissingExtraError without coremltools, and WeightsError
    for a package that is damaged, holds an operator that it does not know, or is not shaped or labelled as its
    description says.
    """

    def __init__(self, path: Path) -> None:
        self.spec = read_coreml_spec(path)
        self._path = path
        data = read_coreml_model(path)
        with quietly():
            tools = _import_tools()
            from coremltools.converters.mil.frontend.milproto import load

            try:
                description = tools.proto.Model_pb2.Model.FromString(data)
                weights = path / "Data" / _WEIGHTS
                program = load.load(description, description.specificationVersion, str(weights))
                self._function = program.functions["main"]
                self._operations = [op for op in self._function.operations if op.op_type != "const"]
            except Exception as error:  # protobuf's errors, those of the reader of weights, and its assertions
                raise WeightsError(f"{path}: damaged Core ML package ({error}); export it again") from None
        self._check(description.description)

    def _check(self, description: Any) -> None:
        spec, path = self.spec, self._path
        for op in self._operations:
            if op.op_type not in _OPERATORS and op.op_type != "classify":
                raise WeightsError(f"{path}: holds the operator {op.op_type}, which fusiform does not compute")
            if op.op_type == "classify" and tuple(op.classes.val) != spec.labels:
                raise WeightsError(f"{path}: classifies by other labels than its description says; export it again")
        shape = (1, spec.input_channels, spec.input_size, spec.input_size)
        given = {name: tuple(value.shape) for name, value in self._function.inputs.items()}
        made = {value.name: tuple(value.shape) for value in self._function.outputs if value.name in spec.answers}
        wanted = {name: (1, *answer) for name, answer in spec.answers.items()}
        if given != {INPUT: shape} or made != wanted:
            raise WeightsError(
                f"{path}: reads {given} and answers {made}, but its description says {shape} and "
                f"{spec.num_classes} classes, {wanted}; export it again"
            )
        (feature,) = description.input
        self._reads_image = feature.type.WhichOneof("Type") == "imageType"
        space = feature.type.imageType
        # Core ML hands over the colours in the order that the package asks for, whatever the spec says.
        self._swapped = (
            self._reads_image and space.ColorSpace.Name(space.colorSpace) != spec.preprocess.color_order.upper()
        )

    def run(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        """Answer a batch; see ``Engine.run``. Normalised pictures need not be whole pixels here, as images are."""
        check_batch(batch, self.spec)
        if self._reads_image and batch.dtype == np.uint8:
            pictures = batch.transpose(0, 3, 1, 2).astype(np.float32)
        else:
            pictures = as_normalized(batch, self.spec.preprocess)
            if self._reads_image:
                mean, std = (np.array(v)[:, None, None] for v in (self.spec.preprocess.mean, self.spec.preprocess.std))
                pictures = ((pictures * std + mean) * 255).astype(np.float32)
        if self._swapped:
            pictures = pictures[:, ::-1]
        answers = {name: np.empty((len(batch), *shape), np.float32) for name, shape in self.spec.answers.items()}
        for k, picture in enumerate(pictures):
            found = self._answer(torch.from_numpy(np.ascontiguousarray(picture[None])))
            for name, values in answers.items():
                values[k] = found[name].numpy()[0]
        return answers

    def _answer(self, picture: Tensor) -> dict[str, Tensor]:
        """Every tensor that is computed for one picture, by its name in MIL."""
        values: dict[str, Tensor] = {INPUT: picture}

        def value(variable: Any) -> Any:
            """A tensor that was computed, or a constant as it is; lists of either."""
            if variable is None:
                return None
            if isinstance(variable, (list, tuple)):
                return [value(one) for one in variable]
            return values.get(variable.name, variable.val)

        for op in self._operations:
            if op.op_type != "classify":  # only names the likeliest
                made = _OPERATORS[op.op_type]({name: value(given) for name, given in op.inputs.items()})
                half = "fp16" in str(op.outputs[0].dtype)
                values[op.outputs[0].name] = made.half().float() if half else made
        return values


def _import_tools() -> Any:
    try:
        import coremltools
    except ImportError:
        raise MissingExtraError("coremltools", "coreml", "writing and reading Core ML packages") from None
    return coremltools


def _classifies(spec: ModelSpec) -> bool:
    """Whether the package is a classifier to Core ML, whose classifiers name each class once."""
    return spec.task == "classification" and len(set(spec.labels)) == len(spec.labels)


def _program(graph: Graph, system: Any) -> Any:
    """The graph in MIL, the language of Core ML's programs, for this version of the operating system."""
    from coremltools.converters.mil import Builder

    spec = graph.spec
    shape = (1, spec.input_channels, spec.input_size, spec.input_size)

    def network(image: Any) -> list[Any]:
        values = {INPUT: image}
        for node in graph.nodes:
            values[node.name] = _operator(Builder, graph, node, values)
        if spec.task == "segmentation":
            return [
                Builder.transpose(x=values[name], perm=[0, 2, 3, 1], name=answer)
                for answer, name in graph.outputs.items()
            ]
        answers = [Builder.identity(x=values[name], name=answer) for answer, name in graph.outputs.items()]
        if not _classifies(spec):
            return answers
        scores = answers[0]
        if spec.temperature != 1:
            scores = Builder.mul(x=scores, y=np.float32(1 / spec.temperature), name="tempered")
        if spec.output == "logits":
            scores = Builder.softmax(x=scores, axis=-1, name=_PROBABILITIES)
        return [*answers, scores]

    program = Builder.program(input_specs=[Builder.TensorSpec(shape=shape)], opset_version=system)
    return program(network)


def _operator(build: Any, graph: Graph, node: Node, values: dict[str, Any]) -> Any:
    """One node of the graph in MIL, given the values of those before it."""

    def around(source: str, kernel: int, stride: int, padding: Padding) -> list[int]:
        height, width, _ = graph.shapes[source]
        return [*pads(height, kernel, stride, padding), *pads(width, kernel, stride, padding)]

    name = node.name
    match node:
        case Center():
            return build.sub(x=values[INPUT], y=np.array(node.color, np.float32)[None, :, None, None], name=name)
        case Conv():
            made = build.conv(
                x=values[node.source],
                weight=node.weight,
                bias=node.bias,
                strides=[node.stride] * 2,
                pad_type="custom",
                pad=around(node.source, node.reach, node.stride, node.padding),
                groups=node.groups,
                **({"dilations": [node.dilation] * 2} if node.dilation > 1 else {}),
                name=f"{name}.conv",
            )
            if node.activation is None:
                return made
            return (build.relu if node.activation == "relu" else build.relu6)(x=made, name=name)
        case Add():
            return build.add(x=values[node.left], y=values[node.right], name=name)
        case Gather():
            pieces = []
            for k, (source, first, end) in enumerate(node.pieces):
                height, width, channels = graph.shapes[source]
                piece = values[source]
                if end - first < channels:
                    bounds = {"begin": [0, first, 0, 0], "end": [1, end, height, width]}
                    piece = build.slice_by_index(x=piece, **bounds, name=f"{name}.{k}")
                pieces.append(piece)
            return build.concat(values=pieces, axis=1, name=name) if len(pieces) > 1 else pieces[0]
        case MaxPool():
            return build.max_pool(
                x=values[node.source],
                kernel_sizes=[3, 3],
                strides=[2, 2],
                pad_type="custom",
                pad=around(node.source, 3, 2, node.padding),
                name=name,
            )
        case Mean():
            return build.reduce_mean(x=values[node.source], axes=[2, 3], keep_dims=node.as_map, name=name)
        case Linear():
            return build.linear(x=values[node.source], weight=node.weight, bias=node.bias, name=name)
        case Spread():
            return build.tile(x=values[node.source], reps=[1, 1, node.height, node.width], name=name)
        case Stack():
            pieces = []
            for k, source in enumerate(node.sources):
                rows = math.prod(graph.shapes[source]) // node.values
                last = build.transpose(x=values[source], perm=[0, 2, 3, 1], name=f"{name}.{k}.last")
                pieces.append(build.reshape(x=last, shape=[1, rows, node.values], name=f"{name}.{k}"))
            return build.concat(values=pieces, axis=1, name=f"{name}.stack")


def _describe(description: Any, spec: ModelSpec) -> None:
    """Write into Core ML's description what the model is; take out the day and the machine that made it."""
    metadata = description.description.metadata
    metadata.shortDescription = f"{spec.name}: {spec.num_classes} classes, {spec.input_size} x {spec.input_size} pixels"
    metadata.author = spec.provenance
    metadata.license = spec.license
    metadata.userDefined.clear()
    for key, value in (
        (METADATA_KEY, spec.to_json()),
        ("labels", json.dumps(spec.labels, ensure_ascii=False)),
        ("preprocess", json.dumps(spec.to_dict()["preprocess"])),
    ):
        metadata.userDefined[key] = value
    description.mlProgram.attributes.pop("buildInfo", None)


def _write_package(path: Path, model: bytes, weights: bytes) -> None:
    """The folder that Core ML calls a package; its identifiers are made from what is in it."""
    entries, root = {}, ""
    for place, content, what in (
        (COREML_MODEL, model, "CoreML Model Specification"),
        (_WEIGHTS, weights, "CoreML Model Weights"),
    ):
        key = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{place} {hashlib.sha256(content).hexdigest()}")).upper()
        entries[key] = {"author": "com.apple.CoreML", "description": what, "name": place.split("/")[1], "path": place}
        root = root or key
    manifest = {"fileFormatVersion": "1.0.0", "itemInfoEntries": entries, "rootModelIdentifier": root}
    data = path / "Data"
    try:
        (data / _WEIGHTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {path} ({error.strerror}): choose another place") from None
    write_file(data / _WEIGHTS / "weight.bin", weights)
    write_file(data / COREML_MODEL, model)
    write_file(path / "Manifest.json", json.dumps(manifest, indent=4).encode())


# What the interpreter computes: each operator by the names of its inputs in MIL, with PyTorch.


def _tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.from_numpy(np.asarray(value, np.float32))


def _padded(x: Tensor, given: Given, fill: float) -> Tensor:
    """``x`` with ``fill`` around it, as the operator's ``pad_type`` and ``pad`` say."""
    kind = given["pad_type"]
    if kind == "valid":
        return x
    if kind != "custom":
        raise WeightsError(f"the Core ML package pads by the rule {kind!r}, which fusiform does not compute")
    top, bottom, left, right = (int(size) for size in given["pad"])
    return F.pad(x, (left, right, top, bottom), value=fill)


def _conv(given: Given) -> Tensor:
    bias = None if given["bias"] is None else _tensor(given["bias"])
    strides, dilations = ([int(n) for n in given[name]] for name in ("strides", "dilations"))
    x = _padded(given["x"], given, 0.0)
    return F.conv2d(x, _tensor(given["weight"]), bias, strides, 0, dilations, int(given["groups"]))


def _max_pool(given: Given) -> Tensor:
    sizes, strides = ([int(n) for n in given[name]] for name in ("kernel_sizes", "strides"))
    return F.max_pool2d(_padded(given["x"], given, -math.inf), sizes, strides, ceil_mode=bool(given["ceil_mode"]))


def _slice_by_index(given: Given) -> Tensor:
    x: Tensor = given["x"]
    rank = x.ndim
    begin_mask, end_mask, squeeze = (
        [False] * rank if given.get(name) is None else list(given[name])
        for name in ("begin_mask", "end_mask", "squeeze_mask")
    )
    strides = [1] * rank if given.get("stride") is None else [int(n) for n in given["stride"]]
    if any(squeeze) or min(strides) < 1:
        raise WeightsError(
            "the Core ML package slices backwards or to fewer dimensions, which fusiform does not compute"
        )
    return x[
        tuple(
            slice(None if no_begin else int(begin), None if no_end else int(end), stride)
            for begin, end, no_begin, no_end, stride in zip(
                given["begin"], given["end"], begin_mask, end_mask, strides, strict=True
            )
        )
    ]


def _linear(given: Given) -> Tensor:
    return F.linear(given["x"], _tensor(given["weight"]), None if given["bias"] is None else _tensor(given["bias"]))


_OPERATORS: Mapping[str, Callable[[Given], Tensor]] = {
    "identity": lambda given: given["x"],
    "cast": lambda given: given["x"],  # what comes out is rounded to its type
    "add": lambda given: _tensor(given["x"]) + _tensor(given["y"]),
    "sub": lambda given: _tensor(given["x"]) - _tensor(given["y"]),
    "mul": lambda given: _tensor(given["x"]) * _tensor(given["y"]),
    "conv": _conv,
    "relu": lambda given: F.relu(given["x"]),
    "relu6": lambda given: F.relu6(given["x"]),
    "clip": lambda given: given["x"].clamp(float(given["alpha"]), float(given["beta"])),
    "concat": lambda given: torch.cat(given["values"], int(given["axis"])),
    "slice_by_index": _slice_by_index,
    "max_pool": _max_pool,
    "reduce_mean": lambda given: given["x"].mean([int(n) for n in given["axes"]], bool(given["keep_dims"])),
    "linear": _linear,
    "tile": lambda given: given["x"].tile([int(n) for n in given["reps"]]),
    "transpose": lambda given: given["x"].permute([int(n) for n in given["perm"]]),
    "reshape": lambda given: given["x"].reshape([int(n) for n in given["shape"]]),
    "softmax": lambda given: given["x"].softmax(int(given["axis"])),
}
