"""Every engine against the others, and what each refuses."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusiform.data.preprocess import crop_pixels, normalize
from fusiform.engines import ENGINES, open_engine
from fusiform.engines.batch import as_pixels, check_batch
from fusiform.engines.litert import LiteRTEngine
from fusiform.engines.native.compiled import usable_kernels
from fusiform.errors import MissingExtraError, SpecError, UsageError, WeightsError
from fusiform.graph.build import build_graph
from fusiform.graph.tflite import to_tflite
from fusiform.spec import Preprocess
from fusiform.tasks.classification import to_logits
from fusiform.zoo.catalog import ALIASES, CATALOG
from fusiform.zoo.checkpoint import write_safetensors

EXAMPLES = Path(__file__).parents[2] / "examples"
BUNDLED = ["mobilenet_v2", "shufflenet_v2_x1_0"]
NEEDS = {"litert": "ai_edge_litert", "onnxruntime": "onnxruntime", "torch": "torch", "openvino": "openvino"}
# ExecuTorch runs no file but its own, and the native engine runs int8 classifiers.
ANY_FILE = [engine for engine in ENGINES if engine not in ("executorch", "native")]


def need(engine):
    if engine == "native":
        if not usable_kernels():
            pytest.skip("the library was not compiled")
        return
    pytest.importorskip(NEEDS[engine])
    if engine in ("onnxruntime", "openvino"):
        pytest.importorskip("onnx")


def pixels(spec, count=3, seed=0):
    """Random soft pictures, uint8 NHWC: noise would look the same to a network whatever the seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 6, 6, 3)).astype(np.uint8)
    size = (spec.input_size, spec.input_size)
    return np.stack([np.array(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)) for picture in coarse])


@pytest.fixture(scope="module", params=["mobilenet_v2", "shufflenet_v2"])
def float_file(request, small_spec, lived_in_state, tmp_path_factory):
    spec = small_spec(request.param, size=64)
    path = tmp_path_factory.mktemp("float") / f"{spec.name}.safetensors"
    write_safetensors(path, lived_in_state(spec), spec)
    return path


def close(actual, expected, tolerance=1e-4):
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype == np.float32
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


# Batches


def test_the_two_forms_of_a_batch(small_spec):
    spec = small_spec("mobilenet_v2", size=40)
    check_batch(np.zeros((2, 3, 40, 40), np.float32), spec)
    check_batch(np.zeros((2, 40, 40, 3), np.uint8), spec)
    check_batch(np.zeros((0, 40, 40, 3), np.uint8), spec)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((1, 40, 40, 3), "float32"),
        ((1, 3, 40, 40), "uint8"),
        ((1, 3, 40, 40), "float64"),
        ((1, 3, 40, 40), "int8"),
        ((3, 40, 40), "float32"),
        ((40, 40, 3), "uint8"),
        ((1, 3, 40, 41), "float32"),
        ((1, 4, 40, 40), "float32"),
        ((1, 1, 3, 40, 40), "float32"),
        ((), "float32"),
    ],
)
def test_anything_else_is_told_what_to_be(shape, dtype, small_spec):
    with pytest.raises(UsageError) as raised:
        check_batch(np.zeros(shape, dtype), small_spec("mobilenet_v2", size=40))
    assert "takes float32 (N, 3, 40, 40) or uint8 (N, 40, 40, 3)" in str(raised.value)
    assert f"got {dtype} {shape}" in str(raised.value)


def test_pixels_have_three_colours(small_spec):
    spec = small_spec("mobilenet_v2", channels=1)
    check_batch(np.zeros((1, 1, 32, 32), np.float32), spec)
    with pytest.raises(UsageError, match="reads 1 channels, pixels have 3"):
        check_batch(np.zeros((1, 32, 32, 1), np.uint8), spec)


@pytest.mark.parametrize(
    "preprocess", [Preprocess(), Preprocess(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)), Preprocess(mean=(0, 0, 0))]
)
def test_as_pixels_undoes_the_normalisation_of_every_pixel(preprocess):
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(2, 8, 16, 3)
    back = as_pixels(normalize(every, preprocess), preprocess)
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, every)


def test_as_pixels_ends_at_black_and_white():
    outside = np.array([-9.0, 9.0], np.float32).reshape(1, 1, 1, 2).repeat(3, axis=1)
    assert as_pixels(outside, Preprocess()).tolist() == [[[[0, 0, 0], [255, 255, 255]]]]


# Engines on the same weights


@pytest.mark.parametrize("engine", ANY_FILE)
def test_float_weights(engine, float_file):
    need(engine)
    opened = open_engine(float_file, engine=engine)
    batch = pixels(opened.spec)
    answers = opened.run(batch)
    assert list(answers) == ["logits"]
    assert answers["logits"].std() > 0.1
    # Pixels and normalised pictures, a batch and its pictures one by one, and this engine and the default one agree.
    close(opened.run(normalize(batch, opened.spec.preprocess))["logits"], answers["logits"])
    singles = np.concatenate([opened.run(picture[None])["logits"] for picture in batch])
    close(singles, answers["logits"])
    close(open_engine(float_file).run(batch)["logits"], answers["logits"])
    close(open_engine(float_file, engine=engine, threads=2).run(batch)["logits"], answers["logits"])


def logits(engine, batch):
    """The logits, less their mean, of a file that answers with probabilities, or of its weights in another engine."""
    values = to_logits(engine.run(batch)[engine.spec.output], engine.spec)
    return values - values.mean(1, keepdims=True)


@pytest.mark.parametrize("model", BUNDLED)
@pytest.mark.parametrize("engine", [*ANY_FILE, "native"])
def test_bundled_weights(engine, model):
    need(engine)
    opened = open_engine(model, engine=engine)
    batch = pixels(opened.spec, 2)
    answers = logits(opened, batch)
    assert answers.shape == (2, 1000)
    close(logits(opened, normalize(batch, opened.spec.preprocess)), answers, 1e-5 if engine == "torch" else 0)
    singles = np.concatenate([logits(opened, picture[None]) for picture in batch])
    # Of an ONNX file the range is chosen of the classifier's features over the batch.
    close(singles, answers, 0.02 if engine in ("onnxruntime", "openvino") else 1e-5)


@pytest.mark.parametrize("model", BUNDLED)
@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
def test_other_engines_see_in_a_photograph_what_the_default_sees(engine, model):
    need(engine)
    expected, actual = [], []
    for name in ("cat.jpg", "coffee.jpg"):
        with Image.open(EXAMPLES / name) as picture:
            opened = open_engine(model)
            batch = crop_pixels(picture, opened.spec.preprocess)[None]
        expected.append(logits(opened, batch)[0])
        actual.append(logits(open_engine(model, engine=engine), batch)[0])
    assert [values.argmax() for values in actual] == [values.argmax() for values in expected]
    for ours, theirs in zip(actual, expected, strict=True):
        assert np.corrcoef(ours, theirs)[0, 1] > 0.99
        assert np.abs(ours - theirs).mean() < 0.35  # logits; int8 is a twentieth of their spread away from float


@pytest.mark.parametrize("model", BUNDLED)
def test_the_example_is_a_cat(model):
    opened = open_engine(model)
    with Image.open(EXAMPLES / "cat.jpg") as picture:
        batch = crop_pixels(picture, opened.spec.preprocess)[None]
    assert "cat" in opened.spec.labels[opened.run(batch)["probabilities"][0].argmax()]


@pytest.mark.parametrize("engine", ANY_FILE)
def test_an_empty_batch(engine, float_file):
    need(engine)
    opened = open_engine(float_file, engine=engine)
    assert opened.run(np.zeros((0, 64, 64, 3), np.uint8))["logits"].shape == (0, 10)


@pytest.mark.parametrize("engine", ANY_FILE)
def test_a_wrong_batch(engine, float_file):
    need(engine)
    with pytest.raises(UsageError, match="takes float32"):
        open_engine(float_file, engine=engine).run(np.zeros((1, 3, 64, 65), np.float32))


@pytest.mark.parametrize("engine", ANY_FILE)
def test_a_batch_that_is_a_view(engine, float_file):
    need(engine)
    opened = open_engine(float_file, engine=engine)
    batch = pixels(opened.spec, 4)
    normalised = normalize(batch, opened.spec.preprocess)
    whole = opened.run(np.ascontiguousarray(batch[::2, ::-1]))["logits"]
    close(opened.run(batch[::2, ::-1])["logits"], whole, 1e-6)
    close(opened.run(normalised[::2, :, ::-1])["logits"], whole)


def test_a_batch_that_is_a_view_of_pixels_for_int8():
    opened = open_engine("shufflenet_v2_x1_0")
    batch = pixels(opened.spec, 4)
    whole = opened.run(np.ascontiguousarray(batch[::2, :, ::-1, ::-1]))["probabilities"]
    np.testing.assert_array_equal(opened.run(batch[::2, :, ::-1, ::-1])["probabilities"], whole)


def test_answers_are_the_callers_own(float_file):
    opened = open_engine(float_file)
    first = opened.run(pixels(opened.spec, 1))["logits"]
    kept = first.copy()
    opened.run(pixels(opened.spec, 1, seed=1))
    np.testing.assert_array_equal(first, kept)


# What cannot be opened


def test_an_unknown_engine(float_file):
    with pytest.raises(
        UsageError, match="no engine 'tensorrt'; there are litert, onnxruntime, torch, openvino, executorch"
    ):
        open_engine(float_file, engine="tensorrt")
    with pytest.raises(UsageError, match=r"ExecuTorch runs files made for it: fusiform export .* --to executorch"):
        open_engine(float_file, engine="executorch")


def test_threads_and_devices(float_file):
    with pytest.raises(UsageError, match="threads must be at least 1, got 0"):
        open_engine(float_file, threads=0)
    with pytest.raises(UsageError, match="engine litert runs on the CPU; device cuda needs the engine torch"):
        open_engine(float_file, device="cuda")


@pytest.mark.parametrize("device", ["warp", "cuda:7", "mps"])
def test_a_device_that_is_not_there(device, float_file):
    torch = pytest.importorskip("torch")
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has an Apple GPU")
    with pytest.raises(UsageError, match=f"PyTorch has no device {device} here: "):
        open_engine(float_file, engine="torch", device=device)


@pytest.mark.parametrize("engine", [*ENGINES, None])
def test_an_unknown_model(engine):
    with pytest.raises(UsageError, match="no weights are called 'mobilenet_v9'"):
        open_engine("mobilenet_v9", engine=engine)


@pytest.mark.parametrize(
    ("engine", "blocked", "extra"), [("onnxruntime", "onnxruntime", "onnx"), ("torch", "torch", "torch")]
)
def test_a_runtime_that_is_not_installed(engine, blocked, extra, float_file, monkeypatch):
    if engine == "onnxruntime":
        pytest.importorskip("onnx")
    monkeypatch.setitem(sys.modules, blocked, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'fusiform\[{extra}\]'"):
        open_engine(float_file, engine=engine)


def test_onnx_that_is_not_installed(float_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "fusiform.graph.onnx", raising=False)
    with pytest.raises(MissingExtraError, match=r"needs onnx, .* pip install 'fusiform\[onnx\]'"):
        open_engine(float_file, engine="onnxruntime")


def test_a_file_that_litert_refuses(small_spec, lived_in_state):
    spec = small_spec("mobilenet_v2")
    file = to_tflite(build_graph(spec, lived_in_state(spec)))
    with pytest.raises(WeightsError, match=r"LiteRT cannot run mobilenet_v2_x0_5: "):
        LiteRTEngine(file[:-1000], spec)
    with pytest.raises(WeightsError, match=r"its description says \[1, 64, 64, 3\] and \[\[1, 10\]\]"):
        LiteRTEngine(file, small_spec("mobilenet_v2", size=64))
    with pytest.raises(WeightsError, match=r"\[\[1, 11\]\]"):
        LiteRTEngine(file, small_spec("mobilenet_v2", classes=11))


def test_a_file_without_a_description(tmp_path, small_spec, lived_in_state):
    spec = small_spec("mobilenet_v2")
    file = to_tflite(build_graph(spec, lived_in_state(spec)))
    path = tmp_path / "anonymous.tflite"
    path.write_bytes(file.replace(b"fusiform.spec", b"somebody.spec"))
    with pytest.raises(SpecError, match=r"anonymous\.tflite: carries no description"):
        open_engine(path)


def test_onnxruntime_refuses_what_is_no_model(small_spec):
    need("onnxruntime")
    from fusiform.engines.onnxruntime import OnnxRuntimeEngine

    with pytest.raises(WeightsError, match="ONNX Runtime cannot run mobilenet_v2_x0_5"):
        OnnxRuntimeEngine(b"\x08\x08nonsense", small_spec("mobilenet_v2"))


# Standard error, and threads

QUIET = """
import os, sys
from fusiform.engines import litert, open_engine
original = litert.Interpreter
def talkative(**arguments):
    os.write(2, b"WARNING: something to know\\nINFO: something not to know\\n" + b"x" * 300_000 + b"\\n")
    return original(**arguments)
litert.Interpreter = talkative
sys.stderr.write("before\\n")
open_engine("mobilenet_v2", engine="litert")
sys.stderr.write("after\\n")
"""


def test_litert_announces_nothing_and_hides_nothing():
    answer = subprocess.run([sys.executable, "-c", QUIET], capture_output=True, text=True, check=True)
    assert answer.stdout == ""
    assert answer.stderr == "before\nWARNING: something to know\n" + "x" * 300_000 + "\nafter\n"


def test_a_process_without_standard_error():
    script = "from fusiform.engines import open_engine; open_engine('mobilenet_v2', engine='litert'); print('opened')"
    for close_first in ("import os; os.close(2); ", "import sys; sys.stderr = None; "):
        answer = subprocess.run(
            [sys.executable, "-c", close_first + script], capture_output=True, text=True, check=True
        )
        assert answer.stdout == "opened\n"


def test_standard_error_comes_back_when_opening_fails(small_spec, capfd):
    with pytest.raises(WeightsError):
        LiteRTEngine(b"\0\0\0\0TFL3", small_spec("mobilenet_v2"))
    print("still here", file=sys.stderr, flush=True)
    assert capfd.readouterr().err.endswith("still here\n")


def test_engines_opened_and_run_in_many_threads_at_once(float_file):
    batch = pixels(open_engine(float_file).spec)
    expected = open_engine(float_file).run(batch)["logits"]
    answers = []

    def work():
        answers.extend(open_engine(float_file).run(batch)["logits"] for _ in range(3))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 18
    for answer in answers:
        np.testing.assert_array_equal(answer, expected)


def test_every_bundled_model_is_tested_here():
    assert {ALIASES[name] for name in BUNDLED} == {name for name, record in CATALOG.items() if record.bundled}
