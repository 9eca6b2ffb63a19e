"""Detectors and segmenters in every kind of file: the answers, names and shapes that LiteRT gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from fusiform.data.image import read_image
from fusiform.data.preprocess import crop_pixels, placement
from fusiform.engines import open_engine
from fusiform.engines.executorch import ExecuTorchEngine
from fusiform.engines.litert import LiteRTEngine
from fusiform.engines.quiet import quietly
from fusiform.errors import MissingExtraError, WeightsError
from fusiform.exporting.quantization.quantize import QuantizedNetwork
from fusiform.exporting.targets.base import Precision, TargetName, Written
from fusiform.exporting.targets.targets import TARGETS
from fusiform.graph.build import build_graph
from fusiform.graph.inputs import read_pixels
from fusiform.graph.ir import INPUT, Conv, Gather, Graph, Mean, Node, Spread, Stack
from fusiform.graph.shapes import state_shapes
from fusiform.graph.tflite import to_tflite
from fusiform.porting.deeplab_v3 import port
from fusiform.spec import METADATA_KEY, ModelSpec, Preprocess
from fusiform.tasks.segmentation import decode
from fusiform.zoo.checkpoint import read_safetensors
from fusiform.zoo.model import open_model
from fusiform.zoo.programs import COREML_MODEL

TASKS: dict[str, dict[str, Any]] = {
    "detection": {"task": "detection", "input_size": 96},
    "segmentation": {"task": "segmentation", "input_size": 97, "output_stride": 16},
    "segmentation_aspp_8": {"task": "segmentation", "input_size": 65, "output_stride": 8, "aspp": True},
}
NETWORKS = [(architecture, task) for task in TASKS for architecture in ("mobilenet_v2", "shufflenet_v2")]


def make_spec(architecture: Any, task: str, *, width: float = 0.5, **changes: Any) -> ModelSpec:
    fields = {**TASKS[task], **changes}
    size = fields["input_size"]
    preprocess = Preprocess(size, size, fit="stretch" if fields["task"] == "detection" else "pad")
    labels = tuple(f"class {k}" for k in range(4))
    return ModelSpec(architecture, width, labels, preprocess=preprocess, **fields)


def made(architecture: str, task: str, *, width: float = 0.5, padding: str = "symmetric") -> Graph:
    """A network whose statistics and biases are far from those that it was born with."""
    spec = make_spec(architecture, task, width=width, padding=padding)
    random = np.random.default_rng(3)
    state: dict[str, NDArray[Any]] = {}
    for name, shape in state_shapes(spec).items():
        if name.endswith("num_batches_tracked"):
            state[name] = np.array(5)
        elif name.endswith("running_mean"):
            state[name] = random.uniform(-0.3, 0.3, shape).astype(np.float32)
        elif name.endswith("bias"):
            state[name] = random.uniform(-0.3, 0.7, shape).astype(np.float32)
        elif len(shape) == 1:
            state[name] = random.uniform(0.7, 1.3, shape).astype(np.float32)
        else:
            state[name] = random.normal(0, np.sqrt(1.5 / np.prod(shape[1:])), shape).astype(np.float32)
    return build_graph(spec, state)


def tiny(task: str) -> Graph:
    """A few layers that are no network of the paper's, but answer like one: each kind of node, soon exported."""
    random = np.random.default_rng(4)
    spec = make_spec("mobilenet_v2", task, input_size=32 if task == "detection" else 33)

    def conv(name: str, source: str, inputs: int, outputs: int, kernel: int = 1, **options: Any) -> Conv:
        shape = (outputs, inputs // options.get("groups", 1), kernel, kernel)
        weight = random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)
        return Conv(name, "", source, weight, random.uniform(-0.3, 0.7, outputs).astype(np.float32), **options)

    nodes: list[Node] = [conv("stem", INPUT, 3, 8, 3, stride=2, activation="relu6")]
    for k in range(3):
        options: dict[str, Any] = {"stride": 2, "groups": 8, "activation": "relu6"}
        nodes.append(conv(f"down.{k}", nodes[-1].name, 8, 8, 3, **options))
    last = nodes[-1].name
    if task == "detection":
        nodes.append(conv("extra", last, 8, 8, 3, stride=2, activation="relu"))
        for layers, answer, values in (("classes", "logits", 5), ("boxes", "codes", 4)):
            # 3 priors in each of 2 x 2 cells; 6 in each of five maps of one cell, which are one map here.
            nodes.append(conv(f"{layers}.0", last, 8, 3 * values))
            nodes.append(conv(f"{layers}.1", "extra", 8, 30 * values))
            nodes.append(Stack(answer, (f"{layers}.0", f"{layers}.1"), values))
    else:
        nodes.append(Mean("pool", last, as_map=True))
        nodes.append(conv("pooled", "pool", 8, 4, activation="relu"))
        nodes.append(Spread("spread", "pooled", 3, 3))
        nodes.append(conv("far", last, 8, 4, 3, dilation=2, activation="relu"))
        nodes.append(conv("farther", last, 8, 8, 3, dilation=2, groups=8, activation="relu"))
        nodes.append(Gather("branches", (("spread", 0, 4), ("far", 0, 4), ("farther", 2, 8))))
        nodes.append(conv("classifier", "branches", 14, 4))
    return Graph(spec, tuple(nodes))


def pictures(spec: ModelSpec, count: int = 2) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(0).integers(0, 256, (count, 14, 14, 3), dtype=np.uint8)
    return np.ascontiguousarray(coarse.repeat(7, 1).repeat(7, 2)[:, : spec.input_size, : spec.input_size])


def quantised(graph: Graph) -> Graph:
    network = QuantizedNetwork(graph)
    network.calibrate([torch.from_numpy(pictures(graph.spec, 16)).permute(0, 3, 1, 2).float()])
    return network.freeze()


def write(target: TargetName, graph: Graph, precision: Precision, folder: Path) -> list[Written]:
    try:
        return TARGETS[target].writer()(graph, precision, folder)
    except MissingExtraError as error:
        pytest.skip(str(error))


def answers(target: TargetName, path: Path, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    if target == "coreml":
        from fusiform.exporting.targets.coreml import open_package

        return open_package(path).run(pixels)
    return open_engine(path).run(pixels)


def litert(graph: Graph, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    return LiteRTEngine(to_tflite(graph), graph.spec).run(pixels)


def check(found: dict[str, NDArray[Any]], wanted: dict[str, NDArray[Any]], tolerance: float) -> None:
    assert list(found) == list(wanted)
    for name, values in wanted.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], values, rtol=0, atol=tolerance * np.abs(values).max(initial=0))


def check_near(found: dict[str, NDArray[Any]], wanted: dict[str, NDArray[Any]]) -> None:
    """Each layer rounds to 256 values, and what is close to a half may go either way."""
    assert list(found) == list(wanted)
    for name, values in wanted.items():
        assert np.linalg.norm(found[name] - values) < 0.15 * np.linalg.norm(values)


@pytest.mark.parametrize(
    ("target", "architecture", "task"),
    [(target, *network) for target in ("torchscript", "openvino") for network in NETWORKS]
    + [("coreml", "shufflenet_v2", "segmentation"), ("coreml", "mobilenet_v2", "segmentation_aspp_8")],
)
def test_float32_answers_like_litert(target: TargetName, architecture: str, task: str, tmp_path: Path) -> None:
    graph = made(architecture, task, padding="same" if architecture == "mobilenet_v2" else "symmetric")
    pixels = pictures(graph.spec, 3)
    wanted = litert(graph, pixels)
    for written in write(target, graph, "float32", tmp_path):
        assert written.path.name.startswith(f"{graph.spec.name}_float32.")
        assert open_model(written.path).spec == graph.spec
        check(answers(target, written.path, pixels), wanted, 1e-4)
        check(answers(target, written.path, pixels[1:2]), {name: v[1:2] for name, v in wanted.items()}, 1e-4)
        check(answers(target, written.path, pixels[:0]), {name: v[:0] for name, v in wanted.items()}, 0)


@pytest.mark.parametrize("target", ["openvino", "coreml", "litert", "onnx"])
@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_float16_and_pixels(target: TargetName, task: str, tmp_path: Path) -> None:
    graph = tiny(task)
    pixels = pictures(graph.spec)
    (half,) = write(target, read_pixels(graph), "float16", tmp_path)
    check(answers(target, half.path, pixels), litert(graph, pixels), 1e-2)


@pytest.mark.parametrize(("architecture", "task"), NETWORKS)
def test_int8_openvino_is_near_litert_s(architecture: str, task: str, tmp_path: Path) -> None:
    graph = quantised(made(architecture, task))
    pixels = pictures(graph.spec)
    (written,) = write("openvino", graph, "int8", tmp_path)
    layers = sum(isinstance(node, Conv) for node in graph.nodes)
    assert written.figures == {"int8_layers": layers, "layers": layers}
    check_near(answers("openvino", written.path, pixels), litert(graph, pixels))


@pytest.mark.parametrize("task", ["detection", "segmentation"])
@pytest.mark.parametrize(
    ("target", "precision"),
    [
        ("torchscript", "float32"),
        ("openvino", "float32"),
        ("executorch", "float32"),
        ("coreml", "float32"),
        ("openvino", "int8"),
        ("executorch", "int8"),
    ],
)
def test_a_few_layers_of_each_kind(target: TargetName, task: str, precision: Precision, tmp_path: Path) -> None:
    graph = quantised(tiny(task)) if precision == "int8" else tiny(task)
    pixels = pictures(graph.spec)
    for written in write(target, graph, precision, tmp_path):
        assert written.figures.get("not_delegated", 0) == 0
        found, wanted = answers(target, written.path, pixels), litert(graph, pixels)
        assert {name: values.shape[1:] for name, values in found.items()} == graph.spec.answers
        check(found, wanted, 0.02 if precision == "int8" else 1e-4)


@pytest.mark.parametrize("task", ["detection", "segmentation"])
@pytest.mark.parametrize("target", ["litert", "torchscript", "openvino", "coreml"])
def test_the_same_graph_gives_the_same_bytes(target: TargetName, task: str, tmp_path: Path) -> None:
    contents = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        write(target, tiny(task), "float32", tmp_path / name)
        files = [file for file in (tmp_path / name).rglob("*") if file.is_file()]
        contents.append({file.relative_to(tmp_path / name): file.read_bytes() for file in files})
    assert contents[0] == contents[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "task", "precision"),
    [("mobilenet_v2", "detection", "float32"), ("mobilenet_v2", "segmentation", "int8")],
)
def test_executorch_answers_like_litert(architecture: str, task: str, precision: Precision, tmp_path: Path) -> None:
    """An export takes ExecuTorch half a minute: each task and each precision once."""
    graph = made(architecture, task, width=0.35)
    graph = quantised(graph) if precision == "int8" else graph
    pixels = pictures(graph.spec)
    (written,) = write("executorch", graph, precision, tmp_path)
    assert written.figures["not_delegated"] == 0
    assert open_model(written.path).spec == graph.spec
    found, wanted = answers("executorch", written.path, pixels), litert(graph, pixels)
    if precision == "int8":
        check_near(found, wanted)
    else:
        check(found, wanted, 1e-4)


@pytest.mark.slow
def test_real_weights_give_the_same_masks(shared_data: Path, tmp_path: Path) -> None:
    weights = shared_data / "weights" / "deeplab_v3_mobilenet_v2_voc_tf.safetensors"
    spec = ModelSpec(
        "mobilenet_v2",
        1.0,
        tuple(f"class {k}" for k in range(21)),
        task="segmentation",
        input_size=513,
        output_stride=16,
        padding="same",
        preprocess=Preprocess(513, 513, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), fit="pad"),
    )
    graph = build_graph(spec, port(read_safetensors(weights)[1]))
    image = read_image(sorted((shared_data / "coco" / "val2017").glob("*.jpg"))[0])
    pixels = crop_pixels(image, spec.preprocess)[None]

    def mask(logits: NDArray[Any]) -> NDArray[Any]:
        return decode(logits[0], spec, image.size, placement=placement(image.size, spec.preprocess)).classes

    wanted = litert(graph, pixels)
    assert len(np.unique(mask(wanted["logits"]))) > 1
    for target in ("torchscript", "openvino"):
        for written in write(target, graph, "float32", tmp_path):
            found = answers(target, written.path, pixels)
            check(found, wanted, 1e-4)
            assert (mask(found["logits"]) == mask(wanted["logits"])).mean() > 0.999


@pytest.mark.parametrize("target", ["torchscript", "openvino", "executorch", "coreml"])
def test_other_answers_than_described(target: TargetName, tmp_path: Path) -> None:
    """A file of one class, or one task, with the description of another."""
    written = write(target, tiny("detection"), "float32", tmp_path)[0]
    spec = open_model(written.path).spec
    wrong = [spec.replace(labels=spec.labels[:-1]), make_spec("mobilenet_v2", "segmentation", input_size=32)]
    for other in wrong:
        with pytest.raises(WeightsError, match="export it again"):
            open_as(target, written.path, other)


def open_as(target: TargetName, path: Path, spec: ModelSpec) -> None:
    """Open the file as if it were described so."""
    if target == "torchscript":
        from fusiform.engines.torchscript import TorchScriptEngine

        TorchScriptEngine(path.read_bytes(), spec)
    elif target == "openvino":
        from fusiform.engines.openvino import OpenVinoEngine

        OpenVinoEngine(path, spec)
    elif target == "executorch":
        ExecuTorchEngine(path.read_bytes(), spec)
    else:
        import coremltools

        from fusiform.exporting.targets.coreml import open_package

        model = coremltools.utils.load_spec(str(path))
        model.description.metadata.userDefined[METADATA_KEY] = spec.to_json()
        (path / "Data" / COREML_MODEL).write_bytes(model.SerializeToString())
        open_package(path)


# What the files say of themselves, by the tools that read them


@pytest.mark.parametrize(("task", "resize"), [("detection", "standard"), ("segmentation", "fit_to_window")])
def test_model_api_is_told_of_the_pictures_alone(task: str, resize: str) -> None:
    """Its detectors answer with boxes and its segmenters with channels first: it would decode ours to nonsense."""
    pytest.importorskip("openvino")
    from fusiform.exporting.targets.openvino import _rt_info

    info = _rt_info(tiny(task))
    assert ("model_info", "model_type") not in info
    assert info["model_info", "resize_type"] == resize
    assert info["model_info", "labels"] == "class_0 class_1 class_2 class_3"


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_outputs_are_named_in_openvino(task: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    from fusiform.engines.openvino import open_core

    graph = tiny(task)
    (written,) = write("openvino", graph, "float32", tmp_path)
    model = open_core("tests").read_model(written.path)
    assert {port.any_name: tuple(port.partial_shape)[1:] for port in model.outputs} == graph.spec.answers
    assert [port.any_name for port in model.outputs] == list(graph.spec.answers)


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_core_ml_takes_them_for_plain_models(task: str, tmp_path: Path) -> None:
    with quietly():
        coremltools = pytest.importorskip("coremltools")
    graph = tiny(task)
    (written,) = write("coreml", graph, "float32", tmp_path)
    description = coremltools.utils.load_spec(str(written.path)).description
    assert description.predictedFeatureName == ""
    outputs = {made.name: made.type for made in description.output}
    assert list(outputs) == list(graph.spec.answers)
    assert {kind.WhichOneof("Type") for kind in outputs.values()} == {"multiArrayType"}
    assert json.loads(description.metadata.userDefined["preprocess"])["fit"] == graph.spec.preprocess.fit


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is (deprecated|not supported in Python)")
@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_torchscript_lists_its_outputs(task: str, tmp_path: Path) -> None:
    graph = tiny(task)
    for written in write("torchscript", graph, "float32", tmp_path):
        extra = dict.fromkeys(("outputs.json", "labels.txt", "preprocessing.json"), "")
        torch.jit.load(written.path, _extra_files=extra)
        assert {name: tuple(shape) for name, shape in json.loads(extra["outputs.json"]).items()} == graph.spec.answers
        assert extra["labels.txt"].splitlines() == [label.encode() for label in graph.spec.labels]
        assert json.loads(extra["preprocessing.json"])["fit"] == graph.spec.preprocess.fit


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_onnx_names_the_classes_and_no_way_to_decode(task: str, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    (written,) = write("onnx", tiny(task), "float32", tmp_path)
    properties = {entry.key: entry.value for entry in onnx.load(str(written.path)).metadata_props}
    assert json.loads(properties["names"])["3"] == "class 3"
    assert "task" not in properties
