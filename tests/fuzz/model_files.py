"""Model files of every format for ``test_fuzz``: small whole ones, and what the commands do with one.

Bytes changed at random mostly end at the first check. So half of the changes are made inside, by ``model_changes``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import sys
import tempfile
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
from fusiform.zoo.programs import COREML_MODEL

sys.path.insert(0, str(Path(__file__).parent))
from model_changes import FOREIGN_KEY, joined, split

sys.path.pop(0)
Seeds = Mapping[str, bytes]
SUFFIXES = {
    "tflite": ".tflite",
    "onnx": ".onnx",
    "safetensors": ".safetensors",
    "pth": ".pth",
    "torchscript": ".pt",
    "openvino": ".xml",
    "executorch": ".pte",
    "coreml": ".mlpackage",
}
COREML_PARTS = Path("Manifest.json"), Path("Data") / COREML_MODEL
PORTED = ("tflite", "onnx", "safetensors", "pth")
WRITTEN = ("float32", "int8")


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
            if target == "executorch" and precision == "int8" and graph.spec.task != "classification":
                continue  # each takes ten seconds and more
            with tempfile.TemporaryDirectory() as folder:
                written = wanted.writer()(graph, precision, Path(folder))[0].path
                made[name] = pack(written)
        return made

    return seeds


def pack(path: Path) -> bytes:
    """The bytes of a file; of OpenVINO's two and of a Core ML package's, each behind its length."""
    parts = parts_of(path)
    return path.read_bytes() if len(parts) == 1 else joined(*(part.read_bytes() for part in parts))


def unpack(content: bytes, path: Path) -> None:
    """Write what was packed."""
    parts = parts_of(path)
    for part, inside in zip(parts, split(content) if len(parts) > 1 else (content,), strict=True):
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(inside)


def parts_of(path: Path) -> tuple[Path, ...]:
    if path.suffix == ".mlpackage":
        return tuple(path / part for part in COREML_PARTS)
    return (path, path.with_suffix(".bin")) if path.suffix == ".xml" else (path,)


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


# Commands


def reader(kind: str) -> Callable[[bytes, str], object]:
    """What does with a model file what the commands do: info, predict, port, and at times the others."""

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
    from fusiform.analysis import analyze
    from fusiform.benchmarking.job import benchmark
    from fusiform.exporting.job import export
    from fusiform.porting.port import port
    from fusiform.prediction.predict import predict
    from fusiform.zoo.info import describe

    pictures = [np.arange(40 * 48 * 3, dtype=np.uint8).reshape(40, 48, 3), np.full((33, 32, 3), 200, np.uint8)]
    yield lambda: describe(path).to_json()
    yield lambda: predict(pictures, path, threads=1, progress=False).to_json()
    if kind in PORTED:
        yield lambda: port(path, path.with_name("ported.safetensors"))
    rare = zlib.crc32(content) % 64
    if rare % 16 == 0 and kind != "pth":
        yield lambda: _verify(name, path)
    if kind in ("tflite", "onnx") and FOREIGN_KEY.encode() in content:
        yield lambda: _verify(name, path)
    if rare % 16 == 1 and "classification" in name:
        yield lambda: _evaluate(path)
    if rare % 16 == 2:
        yield lambda: analyze(path).to_json()
    if rare % 16 == 3:
        yield lambda: export(path, "onnx" if kind != "onnx" else "litert", path.with_name("out"), progress=False)
    if rare == 4:
        yield lambda: benchmark(path, seconds=0.01, progress=False).to_json()


def _evaluate(path: Path) -> object:
    from fusiform.evaluation.job import evaluate

    for k in range(4):
        folder = path.with_name("data") / f"class {k}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "x.ppm").write_bytes(b"P6 32 32 255\n" + bytes(range(0, 256, k + 1))[:64] * 48)
    return evaluate(path, path.with_name("data"), progress=False).report().to_json()


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
