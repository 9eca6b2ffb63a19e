"""TorchScript files against the PyTorch network, loaded as an app loads them."""

from __future__ import annotations

import io
import json
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fusiform.errors import UsageError
from fusiform.exporting.targets.torchscript import write
from fusiform.graph.build import build_graph
from fusiform.modules import build_network
from fusiform.spec import Preprocess
from fusiform.zoo.load import load_state
from fusiform.zoo.model import open_model

LABELS = ('a "quoted" & <tagged> one', "강아지", "it's", "two\nlines", *(f"class {k}" for k in range(6)))


def load(file, **extra):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.load` is (deprecated|not supported in Python)")
        return torch.jit.load(file, **extra)


@pytest.fixture(
    scope="module",
    params=[(network, padding) for network in ("mobilenet_v2", "shufflenet_v2") for padding in ("symmetric", "same")],
    ids=" ".join,
)
def exported(request, small_spec, lived_in_state, tmp_path_factory):
    """The PyTorch network, its spec, and both files."""
    spec = small_spec(request.param[0], size=48, padding=request.param[1]).replace(
        labels=LABELS, preprocess=Preprocess(60, 48, "bicubic", mean=(0.1, 0.2, 0.3), color_order="bgr")
    )
    state = lived_in_state(spec)
    network = build_network(spec)
    load_state(network, state, source="the test")
    folder = tmp_path_factory.mktemp("torchscript")
    return network.eval(), spec, write(build_graph(spec, state), "float32", folder)


def test_both_forms_answer_like_the_network_at_any_batch_size(exported):
    network, spec, written = exported
    names = [f"{spec.name}_float32.scripted.pt", f"{spec.name}_float32.traced.pt"]
    assert [item.path.name for item in written] == names
    for item in written:
        assert item.files == (item.path,)
        program = load(item.path)
        for batch in (1, 3):
            pictures = torch.from_numpy(np.random.default_rng(batch).normal(size=(batch, 3, 48, 48)).astype(np.float32))
            with torch.inference_mode():
                expected, answers = network(pictures), program(pictures)
            assert answers.shape == (batch, 10)
            assert (answers - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_the_files_describe_themselves(exported):
    _, spec, written = exported
    for item in written:
        assert open_model(item.path).format == "torchscript"
        assert open_model(item.path).spec == spec
        extra = {"labels.txt": "", "preprocessing.json": ""}
        load(item.path, _extra_files=extra)
        lines = extra["labels.txt"].decode().splitlines()
        assert lines == [*LABELS[:3], "two lines", *LABELS[4:]]
        assert json.loads(extra["preprocessing.json"]) == {
            "resize": 60,
            "crop": 48,
            "interpolation": "bicubic",
            "antialias": True,
            "mean": [0.1, 0.2, 0.3],
            "std": [0.229, 0.224, 0.225],
            "color_order": "bgr",
        }


def test_the_same_graph_gives_the_same_bytes(small_spec, lived_in_state, tmp_path):
    spec = small_spec("shufflenet_v2")
    graph = build_graph(spec, lived_in_state(spec))
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
    first, second = (write(graph, "float32", tmp_path / folder) for folder in ("first", "second"))
    assert [item.path.read_bytes() for item in first] == [item.path.read_bytes() for item in second]


def test_the_files_know_nothing_of_where_they_were_made(exported):
    _, spec, written = exported
    for item in written:
        with zipfile.ZipFile(io.BytesIO(item.path.read_bytes())) as archive:
            assert archive.testzip() is None
            assert "archive/code/__torch__.py" in archive.namelist()
            program = archive.read("archive/code/__torch__.py").decode()
            everything = b"".join(archive.read(name) for name in archive.namelist())
        assert f"class {spec.name}(Module)" in program
        for place in (sys.prefix, str(Path.cwd()), str(item.path.parent), "site-packages", "torch_mangle"):
            assert place.encode() not in everything


def test_the_weights_are_constants(exported):
    _, _, written = exported
    for item in written:
        assert list(load(item.path).state_dict()) == []


def test_other_precisions_are_refused(small_spec, lived_in_state, tmp_path):
    spec = small_spec("mobilenet_v2")
    with pytest.raises(UsageError, match="TorchScript files are float32, not float16"):
        write(build_graph(spec, lived_in_state(spec)), "float16", tmp_path)
    assert list(tmp_path.iterdir()) == []
