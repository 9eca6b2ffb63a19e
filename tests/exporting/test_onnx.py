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

from fusiform.exporting.targets.onnx import write
from fusiform.graph.build import build_graph
from fusiform.modules import build_network
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
