"""The engine native: every answer is LiteRT's, bit for bit, and what it does not compute it says so of."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fusiform import engines
from fusiform.engines import default_engine, open_engine
from fusiform.engines.litert import LiteRTEngine
from fusiform.engines.native import compiled as native
from fusiform.engines.native import engine as engine_file
from fusiform.engines.native.compiled import usable_kernels
from fusiform.engines.native.engine import NativeEngine
from fusiform.engines.native.layers import Layer, Numbers, Piece
from fusiform.engines.native.plan import Network
from fusiform.errors import UsageError, WeightsError
from fusiform.graph.build import build_graph
from fusiform.graph.ir import Graph
from fusiform.graph.tflite import to_tflite
from fusiform.graph.tflite_features import add_features
from fusiform.zoo.checkpoint import write_safetensors
from fusiform.zoo.model import open_model
from tests.engines.native_networks import int8_file, int8_graph, pictures, random_graph

ROOT = Path(__file__).parents[2]
BUNDLED = ["mobilenet_v2", "shufflenet_v2_x1_0"]
KERNELS = list(usable_kernels())
ARM = platform.machine() in ("aarch64", "arm64")
compiled = pytest.mark.skipif(not KERNELS, reason="the library was not compiled: no C compiler, or another processor")


def equal(spec, file, batch, kernels=None):
    asked = spec.replace(features=True)
    answers = LiteRTEngine(add_features(file, spec, source="the file"), asked).run(batch)
    wanted = answers[spec.output]
    for name in kernels or KERNELS:
        both = NativeEngine(file, asked, kernels=name).run(batch)
        np.testing.assert_array_equal(both["features"], answers["features"], err_msg=name)
        found = NativeEngine(file, spec, kernels=name).run(batch)[spec.output]
        np.testing.assert_array_equal(both[spec.output], found)
        assert found.dtype == np.float32
        if "avx512-vnni" in KERNELS:
            np.testing.assert_array_equal(found, wanted, err_msg=name)
        elif ARM:  # LiteRT rounds a feature that lies halfway between two bytes up there, and to the even one here
            np.testing.assert_allclose(found, wanted, atol=0.01 * np.ptp(wanted), err_msg=name)
        else:  # LiteRT adds the exponentials of probabilities in another order on processors without AVX-512
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7, err_msg=name)
        assert not (wanted == wanted[:1]).all() or len(batch) == 1


# The same answers


@compiled
@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_files_are_answered_as_litert_answers_them(name):
    model = open_model(name)
    equal(model.spec, model.data, pictures(224))


@compiled
@pytest.mark.parametrize(
    ("architecture", "width", "size", "classes", "padding"),
    [
        ("mobilenet_v2", 0.35, 96, 10, "same"),
        ("mobilenet_v2", 0.5, 32, 1, "symmetric"),
        ("mobilenet_v2", 0.75, 97, 37, "same"),
        ("mobilenet_v2", 1.0, 128, 101, "symmetric"),
        ("mobilenet_v2", 1.3, 65, 1001, "same"),
        ("mobilenet_v2", 1.4, 64, 64, "symmetric"),
        ("shufflenet_v2", 0.5, 96, 10, "symmetric"),
        ("shufflenet_v2", 0.5, 33, 2, "same"),
        ("shufflenet_v2", 1.0, 128, 65, "symmetric"),
        ("shufflenet_v2", 1.5, 47, 1000, "same"),
        ("shufflenet_v2", 2.0, 64, 17, "symmetric"),
    ],
)
def test_random_networks_of_every_shape(architecture, width, size, classes, padding, small_spec, lived_in_state):
    spec = small_spec(architecture, width, size=size, classes=classes, padding=padding)
    equal(spec, int8_file(spec, lived_in_state, seed=size), pictures(size, seed=size))


@compiled
@pytest.mark.parametrize("seed", range(16))
def test_random_chains_of_layers(seed, small_spec):
    graph = random_graph(small_spec("shufflenet_v2" if seed % 2 else "mobilenet_v2", size=32 + 5 * seed), seed)
    equal(graph.spec, to_tflite(int8_graph(graph, seed)), pictures(graph.spec.input_size, seed=seed))


@compiled
@pytest.mark.slow
@pytest.mark.parametrize("size", range(96, 225, 8))
@pytest.mark.parametrize("width", [0.35, 0.5, 0.75, 1.0, 1.3, 1.4])
def test_every_width_and_size_of_mobilenet_v2(width, size, small_spec, lived_in_state):
    spec = small_spec("mobilenet_v2", width, size=size, classes=size % 41 + 1)
    equal(spec, int8_file(spec, lived_in_state, seed=size), pictures(size, 1), [k for k in KERNELS if k != "portable"])


@compiled
@pytest.mark.slow
@pytest.mark.parametrize("size", range(96, 225, 16))
@pytest.mark.parametrize("width", [0.5, 1.0, 1.5, 2.0])
def test_every_width_and_size_of_shufflenet_v2(width, size, small_spec, lived_in_state):
    spec = small_spec("shufflenet_v2", width, size=size, classes=size % 41 + 1)
    equal(spec, int8_file(spec, lived_in_state, seed=size), pictures(size, 1), [k for k in KERNELS if k != "portable"])


@compiled
@pytest.mark.slow
@pytest.mark.parametrize("name", BUNDLED)
def test_500_photographs_are_answered_as_litert_answers_them(name, shared_data):
    from fusiform.data.image import find_images, read_image
    from fusiform.data.preprocess import crop_pixels

    model = open_model(name)
    paths = find_images(shared_data / "imagenet_val")
    assert len(paths) == 500
    batch = np.stack([crop_pixels(read_image(path), model.spec.preprocess) for path in paths])
    equal(model.spec, model.data, batch, [k for k in KERNELS if k != "portable"])


@compiled
def test_normalised_pictures_and_empty_batches(small_spec, lived_in_state):
    from fusiform.data.preprocess import normalize

    spec = small_spec("mobilenet_v2", size=40)
    engine = NativeEngine(int8_file(spec, lived_in_state), spec)
    batch = pictures(40)
    np.testing.assert_array_equal(engine.run(normalize(batch, spec.preprocess))["logits"], engine.run(batch)["logits"])
    np.testing.assert_array_equal(engine.run(batch[:, ::-1])["logits"], engine.run(batch[:, ::-1].copy())["logits"])
    assert engine.run(batch[:0])["logits"].shape == (0, 10)


@compiled
def test_engines_in_threads_do_not_disturb_each_other():
    from concurrent.futures import ThreadPoolExecutor

    model = open_model("shufflenet_v2_x1_0")
    batches = [pictures(224, 4, seed) for seed in range(4)]
    wanted = [NativeEngine(model.data, model.spec).run(batch)["probabilities"] for batch in batches]
    made = [NativeEngine(model.data, model.spec) for _ in batches]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            found = list(pool.map(lambda pair: pair[0].run(pair[1])["probabilities"], zip(made, batches, strict=True)))
            np.testing.assert_array_equal(found, wanted)


# Which engine is taken


@compiled
def test_it_is_the_default_where_it_is_fast(monkeypatch, small_spec, lived_in_state, tmp_path):
    monkeypatch.delenv(engines.CHOICE, raising=False)
    model = open_model("mobilenet_v2")
    fast = KERNELS[0] not in (native.PORTABLE, *native.UNMEASURED)
    assert default_engine(model) == ("native" if fast else "litert")
    monkeypatch.setattr(native, "fast_kernels", lambda: None)
    assert default_engine(model) == "litert"
    monkeypatch.setattr(native, "fast_kernels", lambda: 0)
    assert default_engine(model) == "native"
    spec = small_spec("mobilenet_v2")
    write_safetensors(tmp_path / "float.safetensors", lived_in_state(spec), spec)
    assert default_engine(open_model(tmp_path / "float.safetensors")) == "litert"
    (tmp_path / "float.tflite").write_bytes(to_tflite(build_graph(spec, lived_in_state(spec))))
    assert default_engine(open_model(tmp_path / "float.tflite")) == "litert"


def test_the_environment_names_another(monkeypatch):
    model = open_model("shufflenet_v2_x1_0")
    monkeypatch.setattr(native, "fast_kernels", lambda: 0)
    for name, wanted in (("litert", "litert"), ("onnxruntime", "onnxruntime"), ("native", "native"), ("", "native")):
        monkeypatch.setenv(engines.CHOICE, name)
        assert default_engine(model) == wanted
    monkeypatch.setenv(engines.CHOICE, "fastest")
    with pytest.raises(UsageError, match="FUSIFORM_ENGINE=fastest: there is no such engine"):
        default_engine(model)
    monkeypatch.setenv(engines.CHOICE, "native")
    assert isinstance(open_engine(model, engine="litert").engine, LiteRTEngine)


@compiled
def test_where_it_is_not_known_to_be_faster_it_has_to_be_asked_for(monkeypatch, small_spec, lived_in_state, tmp_path):
    monkeypatch.delenv(engines.CHOICE, raising=False)
    monkeypatch.setattr(native, "load", lambda: FakeLibrary)
    monkeypatch.setattr(native, "fast_kernels", native.fast_kernels.__wrapped__)
    assert native.usable_kernels() == {"neon-i8mm": 0, "portable": 2}
    model = open_model("mobilenet_v2")
    assert default_engine(model) == "litert"
    monkeypatch.setenv(engines.CHOICE, "native")
    assert default_engine(model) == "native"
    spec = small_spec("mobilenet_v2")
    (tmp_path / "float.tflite").write_bytes(to_tflite(build_graph(spec, lived_in_state(spec))))
    assert default_engine(open_model(tmp_path / "float.tflite")) == "litert"


class FakeLibrary:
    """That of an ARM machine."""

    @staticmethod
    def fusiform_native_kernels(number):
        return [b"neon-i8mm", b"", b"portable", None][number]


@compiled
def test_other_networks_are_refused(small_spec, lived_in_state, tmp_path):
    spec = small_spec("mobilenet_v2")
    path = tmp_path / "float.tflite"
    path.write_bytes(to_tflite(build_graph(spec, lived_in_state(spec))))
    with pytest.raises(UsageError, match=r"engine native runs int8 classifiers alone, and .* does not read pixels"):
        open_engine(path, engine="native")
    graph = int8_graph(build_graph(spec, lived_in_state(spec)))
    kept = graph.nodes[-1].name
    quantization = dataclasses.replace(graph.quantization, in_float=frozenset({kept}))
    linear = dataclasses.replace(graph.nodes[-1], weight=graph.nodes[-1].weight.astype(np.float32))
    path.write_bytes(to_tflite(Graph(spec, (*graph.nodes[:-1], linear), quantization)))
    with pytest.raises(UsageError, match="ends in something else than a classifier in int8"):
        open_engine(path, engine="native")
    assert default_engine(open_model(path)) == "litert"


def test_without_the_library_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(native, "load", lambda: None)
    monkeypatch.setattr(engine_file, "load", lambda: None)
    with pytest.raises(UsageError, match="was not compiled when fusiform was installed: install a C compiler"):
        open_engine("mobilenet_v2", engine="native")


@compiled
def test_a_description_of_another_network_is_refused(small_spec, lived_in_state):
    spec = small_spec("mobilenet_v2", size=40)
    file = int8_file(spec, lived_in_state)
    with pytest.raises(WeightsError, match=r"reads \[40, 40, 3\] and answers 10 numbers"):
        NativeEngine(file, small_spec("mobilenet_v2", size=48))
    with pytest.raises(WeightsError, match="damaged"):
        NativeEngine(file[:2000], spec)


@compiled
def test_litert_is_not_loaded_for_it():
    code = (
        "import sys, fusiform.engines as e, numpy as np\n"
        "e.open_engine('mobilenet_v2', engine='native').run(np.zeros((1, 224, 224, 3), np.uint8))\n"
        "print([name for name in sys.modules if name.startswith(('ai_edge_litert', 'flatbuffers'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Whatever it is given, it reads and writes nothing but its own

COMPILER = shutil.which("gcc") or shutil.which("cc")
FUZZ = Path(__file__).with_name("fuzz_native.py")


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory):
    """The library with the address and undefined-behaviour sanitizers in it, and the environment to load it in."""
    if COMPILER is None or platform.machine().lower() not in ("x86_64", "amd64") or sys.platform != "linux":
        pytest.skip("needs Linux on x86-64 and GCC")
    sys.path.insert(0, str(ROOT))
    from hatch_build import FLAGS, FOLDER, SOURCES

    target = tmp_path_factory.mktemp("native") / "sanitized.so"
    sources = [str(ROOT / FOLDER / name) for name in SOURCES]
    options = ["-fPIC", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    done = subprocess.run(
        [COMPILER, *FLAGS, *options, "-o", str(target), *sources, "-lm"], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"the compiler has no sanitizers: {done.stderr[:200]}")
    runtime = subprocess.run([COMPILER, "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    return target, {**os.environ, "LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1"}


def run_sanitized(sanitized, *arguments):
    library, environment = sanitized
    command = [sys.executable, str(FUZZ), str(library), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("count", [300, pytest.param(3000, marks=pytest.mark.slow)])
def test_hostile_layers_under_the_sanitizers(count, sanitized, small_spec, lived_in_state, tmp_path):
    files = []
    for architecture, width, size in (
        ("mobilenet_v2", 0.35, 33),
        ("shufflenet_v2", 0.5, 40),
        ("mobilenet_v2", 1.0, 32),
    ):
        spec = small_spec(architecture, width, size=size, classes=7)
        files.append(tmp_path / f"{architecture}-{width}.tflite")
        files[-1].write_bytes(int8_file(spec, lived_in_state))
    found = run_sanitized(sanitized, str(count), *map(str, files))
    # As they are all run; changed, most are refused and some are not.
    assert found["whole"] == len(files) * found["kernels"]
    assert found["refused"] > count / 4
    assert found["ran"] > count / 20
    assert found["resized"] == found["kernels"] - 1


@compiled
def test_a_library_of_other_sources_is_left_alone(monkeypatch):
    monkeypatch.setattr(native, "VERSION", native.VERSION + 1)
    assert native.load.__wrapped__() is None


def test_its_c_stays_short_enough_to_be_read():
    sources = [path for path in native.LIBRARY.parent.iterdir() if path.suffix in (".c", ".h", ".inc")]
    assert len(sources) >= 6
    lines = [line.strip() for path in sources for line in path.read_text().splitlines()]
    assert sum(1 for line in lines if line and not line.startswith("//")) < 800


def test_the_version_is_that_of_the_sources():
    assert f"VERSION = {native.VERSION} " in (native.LIBRARY.parent / "native.h").read_text()


def test_layers_are_laid_out_as_in_c():
    assert ctypes.sizeof(Layer) == 26 * 4 + 7 * 8
    assert ctypes.sizeof(Piece) == 12
    assert ctypes.sizeof(Numbers) == 3 * 8 + 6 * 4
    assert ctypes.sizeof(Network) == 11 * 8 + 4 * 4
