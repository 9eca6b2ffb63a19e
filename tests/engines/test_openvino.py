"""OpenVINO in its engine: the answers of the others, and the files that it refuses."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("openvino")
pytest.importorskip("onnx")

from fusiform.data.preprocess import normalize
from fusiform.engines import open_engine
from fusiform.engines.litert import LiteRTEngine
from fusiform.engines.openvino import OpenVinoEngine, open_core
from fusiform.errors import MissingExtraError, UsageError, WeightsError
from fusiform.exporting.targets.openvino import write
from fusiform.graph.build import build_graph
from fusiform.graph.inputs import read_pixels
from fusiform.graph.ir import Conv, Linear
from fusiform.graph.onnx import to_onnx
from fusiform.graph.tflite import to_tflite
from fusiform.tasks.classification import to_logits
from fusiform.zoo.model import open_model


@pytest.fixture(scope="module", params=["mobilenet_v2", "shufflenet_v2"])
def graph(request, small_spec, lived_in_state):
    spec = small_spec(request.param, size=40, padding="same")
    return build_graph(spec, lived_in_state(spec))


@pytest.fixture(scope="module")
def written(small_spec, lived_in_state, tmp_path_factory):
    """The spec of a small network, its description and its weights."""
    spec = small_spec("shufflenet_v2")
    (item,) = write(build_graph(spec, lived_in_state(spec)), "float32", tmp_path_factory.mktemp("openvino"))
    return spec, item.files[0].read_bytes(), item.files[1].read_bytes()


@pytest.fixture
def put(tmp_path):
    """A function that writes both files, or the description alone, and gives the path to open."""

    def put_files(description, weights=None):
        path = tmp_path / "model.xml"
        path.write_bytes(description)
        if weights is not None:
            path.with_suffix(".bin").write_bytes(weights)
        return path

    return put_files


def test_it_answers_like_litert(graph, tmp_path):
    spec = graph.spec
    pixels = np.random.default_rng(3).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)
    expected = LiteRTEngine(to_tflite(graph), spec).run(pixels)["logits"]
    for precision, tolerance in (("float32", 1e-4), ("float16", 2e-2)):
        (item,) = write(graph, precision, tmp_path)
        engine = open_engine(item.path, threads=2)
        assert isinstance(engine.engine, OpenVinoEngine)
        assert engine.spec == spec
        for count in (3, 1, 0):
            for batch in (pixels[:count], normalize(pixels[:count], spec.preprocess)):
                answers = engine.run(batch)["logits"]
                assert answers.dtype == np.float32
                np.testing.assert_allclose(answers, expected[:count], rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("reads_pixels", [False, True])
def test_it_runs_onnx_files(reads_pixels, graph):
    pixels = np.random.default_rng(3).integers(0, 256, (2, 40, 40, 3), dtype=np.uint8)
    expected = LiteRTEngine(to_tflite(graph), graph.spec).run(pixels)["logits"]
    engine = OpenVinoEngine(to_onnx(read_pixels(graph) if reads_pixels else graph), graph.spec)
    for batch in (pixels, normalize(pixels, graph.spec.preprocess)):
        np.testing.assert_allclose(engine.run(batch)["logits"], expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_int8_through_onnx_sees_what_litert_sees():
    engines = [open_engine("shufflenet_v2_x1_0", engine=name) for name in ("litert", "openvino")]
    coarse = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3))
    pixels = coarse.repeat(56, 1).repeat(56, 2).astype(np.uint8)
    expected, actual = (to_logits(engine.run(pixels)[engine.spec.output], engine.spec) for engine in engines)
    assert all(np.corrcoef(*pair)[0, 1] > 0.99 for pair in zip(expected, actual, strict=True))


@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v2_x1_0"])
def test_int8_onnx_is_computed_in_int8_from_the_first_convolution_to_the_classifier(name):
    model = open_model(name)
    core = open_core("tests")
    compiled = core.compile_model(core.read_model(model.onnx()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    details = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    kernels = [
        detail["primitiveType"].astype(str).lower()
        for detail in details
        if "Convolution" in detail["layerType"].astype(str) or "FullyConnected" in detail["layerType"].astype(str)
    ]
    assert len(kernels) == sum(isinstance(node, Conv | Linear) for node in model.graph().nodes)
    assert [kernel for kernel in kernels if not kernel.endswith("_i8")] == []


def test_one_picture_and_several_are_answered_alike():
    engine = open_engine("shufflenet_v2_x1_0", engine="openvino")
    coarse = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3))
    pixels = coarse.repeat(56, 1).repeat(56, 2).astype(np.uint8)
    together = engine.run(pixels)["logits"]
    alone = np.concatenate([engine.run(pixels[k : k + 1])["logits"] for k in range(3)])
    np.testing.assert_allclose(alone, together, rtol=0, atol=1e-4 * np.abs(together).max())


def test_answers_are_the_callers_own(written, put):
    spec, description, weights = written
    engine = OpenVinoEngine(put(description, weights), spec)
    first = engine.run(np.zeros((1, 32, 32, 3), np.uint8))["logits"]
    kept = first.copy()
    engine.run(np.full((1, 32, 32, 3), 255, np.uint8))
    np.testing.assert_array_equal(first, kept)


def test_files_may_change_once_they_are_open(written, put):
    spec, description, weights = written
    path = put(description, weights)
    engine = OpenVinoEngine(path, spec)
    path.with_suffix(".bin").write_bytes(b"")
    assert engine.run(np.zeros((2, 32, 32, 3), np.uint8))["logits"].shape == (2, 10)


def test_only_its_own_engine_runs_it(written, put):
    with pytest.raises(UsageError, match="is a program for openvino; the engine litert cannot run it"):
        open_engine(put(*written[1:]), engine="litert")


def test_a_wrong_batch(written, put):
    with pytest.raises(UsageError, match="takes float32"):
        open_engine(put(*written[1:])).run(np.zeros((1, 3, 32, 33), np.float32))


def test_without_openvino(written, put, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fusiform\[openvino\]'"):
        open_engine(put(*written[1:]))


def test_without_its_weights(written, put):
    with pytest.raises(WeightsError, match=r"model\.xml: its weights, model\.bin, are not beside it: copy both files"):
        open_engine(put(written[1]))


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_weights_that_were_cut_off(kept, written, put):
    _, description, weights = written
    with pytest.raises(WeightsError, match=r"model\.bin is damaged, or another model's"):
        open_engine(put(description, weights[:kept]))
    # A file that came without the checksum, as OpenVINO's own tools write it.
    unknown = re.sub(rb"<weights_sha256 [^>]*>", b"", description)
    with pytest.raises(WeightsError, match=r"model\.xml: OpenVINO cannot run shufflenet_v2_x0_5: .*; export it again"):
        open_engine(put(unknown, weights[:kept]))


def test_weights_of_another_model(written, put):
    _, description, weights = written
    with pytest.raises(WeightsError, match=r"model\.bin is damaged, or another model's"):
        open_engine(put(description, weights[::-1]))


def test_labels_that_do_not_match_the_answers(written, put):
    _, description, weights = written
    more = description.replace(b"&quot;class 9&quot;", b"&quot;class 9&quot;, &quot;one more&quot;")
    with pytest.raises(WeightsError, match=r"answers \[\?,10\], but its description says .* and 11 classes"):
        open_engine(put(more, weights))


def test_a_size_that_does_not_match_the_input(written, put):
    _, description, weights = written
    other = description.replace(b"input_size&quot;: 32", b"input_size&quot;: 64")
    other = other.replace(b"crop&quot;: 32", b"crop&quot;: 64")
    with pytest.raises(WeightsError, match=r"reads \[\?,3,32,32\] .* but its description says \(3, 64, 64\)"):
        open_engine(put(other, weights))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'offset="0"', b'offset="99999999999"'),
        (b'type="Convolution"', b'type="Konvolution"'),
        (b"</layers>", b""),
        (b"<dim>", b"<dim>-"),
        (b'strides="2, 2"', b'strides="0, 0"'),
    ],
)
def test_descriptions_that_openvino_refuses(old, new, written, put):
    spec, description, weights = written
    assert old in description
    with pytest.raises(WeightsError, match=r"OpenVINO cannot run shufflenet_v2_x0_5: .*; export it again"):
        OpenVinoEngine(put(description.replace(old, new), weights), spec)


def test_descriptions_of_nothing(written, put):
    spec, description, weights = written
    with pytest.raises(WeightsError, match="OpenVINO cannot run"):
        OpenVinoEngine(put(description[:5000], weights), spec)
    with pytest.raises(WeightsError, match=r"the file reads .* but its description says"):
        OpenVinoEngine(put(b'<?xml version="1.0"?><net name="nothing" version="11"></net>', b""), spec)


@pytest.mark.parametrize("data", [b"", b"\x08\x08nonsense", b"<?xml"])
def test_bytes_that_are_no_onnx_file(data, written):
    with pytest.raises(WeightsError, match="OpenVINO cannot run shufflenet_v2_x0_5: "):
        OpenVinoEngine(data, written[0])


@pytest.mark.skipif(sys.platform != "linux", reason="signals and their stacks are Linux's here")
def test_a_signal_after_an_engine_was_given_back_by_another_thread(written, put):
    """OpenVINO's Core takes the main thread's signal stack with it: a process with one of its own would die here."""
    path = put(*written[1:])
    program = (
        "import faulthandler, signal, subprocess, sys, threading\n"
        "faulthandler.enable()\n"
        "from fusiform.engines import open_engine\n"
        "signal.signal(signal.SIGCHLD, lambda *_: None)\n"
        "held = [open_engine(sys.argv[1], engine='openvino')]\n"
        "thread = threading.Thread(target=held.clear)\n"
        "thread.start(), thread.join()\n"
        "subprocess.run([sys.executable, '-c', ''], check=True)\n"
        "print('alive')\n"
    )
    result = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "alive\n"), result.stderr
