"""Our ONNX files beside those of PyTorch's own exporter."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from fusiform.exporting.targets.model_info import model_info
from fusiform.exporting.targets.onnx import write
from fusiform.graph.build import build_graph
from fusiform.graph.inputs import read_pixels
from fusiform.modules import build_network
from fusiform.spec import ModelSpec
from fusiform.zoo.load import load_state


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("architecture", ["mobilenet_v2", "shufflenet_v2"])
def test_pytorchs_exporter_gives_the_same_answers(architecture, tmp_path, small_spec, lived_in_state, capfd):
    spec = small_spec(architecture, size=64)
    state = lived_in_state(spec)
    network = build_network(spec).eval()
    load_state(network, state, source="test")
    batch = np.random.default_rng(0).normal(size=(3, 3, 64, 64)).astype(np.float32)
    program = torch.onnx.export(
        network, (torch.from_numpy(batch),), dynamo=True, dynamic_shapes=({0: torch.export.Dim("N", min=1)},)
    )
    program.optimize()
    theirs = io.BytesIO()
    program.save(theirs)

    (written,) = write(build_graph(spec, state), "float32", tmp_path)
    answers = []
    for file in (theirs.getvalue(), written.path.read_bytes()):
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        answers.append(session.run(None, {session.get_inputs()[0].name: batch})[0])
    assert np.abs(answers[0] - answers[1]).max() <= 1e-4 * np.abs(answers[0]).max()
    kinds = {node.op_type for node in onnx.load(str(written.path)).graph.node}
    assert not kinds & {"Transpose", "Reshape", "BatchNormalization"}  # nothing is shuffled or normalised any more


def test_labels_are_where_other_readers_look(tmp_path, small_spec, lived_in_state):
    spec = small_spec("mobilenet_v2", classes=2).replace(labels=("고양이", 'a "dog"'))
    (written,) = write(build_graph(spec, lived_in_state(spec)), "float32", tmp_path)
    properties = {entry.key: entry.value for entry in onnx.load(str(written.path)).metadata_props}
    assert json.loads(properties["names"]) == {"0": "고양이", "1": 'a "dog"'}
    assert properties["imgsz"] == "[32, 32]"
    assert properties["task"] == "classify"  # their word, whatever it is called here


@pytest.mark.parametrize("form", ["normalised", "pixels"])
def test_model_api_finds_its_keys(form, tmp_path, small_spec, lived_in_state):
    """OpenVINO's Model API splits the names of ``metadata_props`` and the labels at spaces."""
    spec = small_spec("mobilenet_v2", classes=2).replace(labels=("a  dog", "고양이"))
    graph = build_graph(spec, lived_in_state(spec))
    (written,) = write(read_pixels(graph) if form == "pixels" else graph, "float32", tmp_path)
    properties = {entry.key: entry.value for entry in onnx.load(str(written.path)).metadata_props}
    info = {key.split()[1]: value for key, value in properties.items() if key.startswith("model_info ")}
    expected = {
        "model_type": "Classification",
        "labels": "a_dog 고양이",
        "resize_type": "crop",
        "reverse_input_channels": "True",
    }
    normalisation = {"mean_values": "123.675 116.28 103.53", "scale_values": "58.395 57.12 57.375"}
    assert info == (expected if form == "pixels" else expected | normalisation)


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_model_api_is_given_no_type_for_answers_that_it_would_misread(task):
    stride = {"output_stride": 16} if task == "segmentation" else {}
    spec = ModelSpec("mobilenet_v2", 0.5, ("a dog", "cat"), task=task, **stride)
    info = model_info(spec, reads_pixels=True)
    assert "model_type" not in info
    assert info["labels"] == "a_dog cat"
