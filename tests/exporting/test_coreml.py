"""Core ML packages: what the interpreter reads back against PyTorch, and what Core ML's own tools read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from fusiform.engines.quiet import quietly

with quietly():
    coremltools = pytest.importorskip("coremltools")

import torch

from fusiform.data.preprocess import normalize
from fusiform.errors import MissingExtraError, SpecError, WeightsError
from fusiform.exporting.targets.coreml import open_package, write
from fusiform.exporting.targets.module import to_module
from fusiform.graph.build import build_graph
from fusiform.spec import METADATA_KEY, Preprocess
from fusiform.zoo.model import open_model

SIZE = 32
LABELS = ("강아지", "a,b", "two\nlines", " ", 'a "quoted" one', *(f"class {k}" for k in range(5)))
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
MODEL = "Data/com.apple.CoreML/model.mlmodel"


def smooth_pixels(count, seed=5):
    """uint8 NHWC pictures of random soft blobs: noise would average out to one grey."""
    coarse = torch.from_numpy(np.random.default_rng(seed).uniform(-60, 315, (count, 3, 5, 5)).astype(np.float32))
    grown = torch.nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode="bicubic", align_corners=False)
    return grown.round().clamp(0, 255).permute(0, 2, 3, 1).to(torch.uint8).contiguous().numpy()


@pytest.fixture(scope="module")
def make(small_spec, lived_in_state):
    def make_graph(architecture, padding="symmetric", *, channels=3, **changes):
        spec = small_spec(architecture, size=SIZE, padding=padding, channels=channels)
        return build_graph(spec, lived_in_state(spec)), spec.replace(labels=LABELS, **changes)

    def graph(architecture, padding="symmetric", **changes):
        made, spec = make_graph(architecture, padding, **changes)
        return type(made)(spec, made.nodes)

    return graph


@pytest.fixture(scope="module")
def package(make, tmp_path_factory):
    """A package of each network, paddings and precisions mixed, with its graph; made once."""
    folder, made = tmp_path_factory.mktemp("packages"), {}

    def one(architecture, padding, precision):
        key = architecture, padding, precision
        if key not in made:
            graph = make(
                architecture,
                padding,
                provenance="the tests",
                license="Apache-2.0",
                temperature=1.5,
                preprocess=Preprocess(resize=SIZE, crop=SIZE, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3)),
            )
            (written,) = write(graph, precision, folder)
            made[key] = graph, written
        return made[key]

    return one


def expected(graph, pictures):
    with torch.inference_mode():
        return to_module(graph)(torch.from_numpy(pictures)).numpy()


@pytest.mark.parametrize(
    ("architecture", "padding", "precision", "tolerance"),
    [
        ("mobilenet_v2", "symmetric", "float32", 1e-4),
        ("shufflenet_v2", "same", "float32", 1e-4),
        ("mobilenet_v2", "same", "float32", 1e-4),
        ("shufflenet_v2", "symmetric", "float32", 1e-4),
        ("mobilenet_v2", "same", "float16", 1e-2),
        ("shufflenet_v2", "symmetric", "float16", 1e-2),
    ],
)
def test_the_answers_are_pytorch_s(architecture, padding, precision, tolerance, package):
    graph, written = package(architecture, padding, precision)
    assert written.path.name == f"{architecture}_x0_5_{precision}.mlpackage"
    assert written.figures == {"verified_by": "interpreter, not Core ML"}
    assert open_model(written.path).spec == graph.spec
    engine = open_package(written.path)
    pixels = smooth_pixels(4)
    noise = np.random.default_rng(0).normal(0, 1, (3, 3, SIZE, SIZE)).astype(np.float32)
    for batch in (pixels, noise):
        wanted = expected(graph, normalize(batch, graph.spec.preprocess) if batch is pixels else batch)
        actual = engine.run(batch)["logits"]
        np.testing.assert_allclose(actual, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())
        if precision == "float16":
            assert np.abs(actual - wanted).max() > 1e-5 * np.abs(wanted).max()  # it does round
            assert (actual.argmax(1) == wanted.argmax(1)).all()


def test_float16_is_half_as_large(package):
    weights = package("mobilenet_v2", "same", "float16")[1].path / WEIGHTS
    whole = package("mobilenet_v2", "symmetric", "float32")[1].path / WEIGHTS
    assert weights.stat().st_size < 0.55 * whole.stat().st_size


def test_what_xcode_and_ios_read(package):
    graph, written = package("mobilenet_v2", "symmetric", "float32")
    spec = graph.spec
    model = coremltools.utils.load_spec(str(written.path))  # by way of the manifest
    (given,) = model.description.input
    assert given.type.imageType.width == given.type.imageType.height == SIZE
    assert given.type.imageType.ColorSpace.Name(given.type.imageType.colorSpace) == "RGB"
    assert {made.name: made.type.WhichOneof("Type") for made in model.description.output} == {
        "classLabel": "stringType",
        "classLabel_probs": "dictionaryType",
        "logits": "multiArrayType",
    }
    assert model.description.predictedFeatureName == "classLabel"
    assert model.description.predictedProbabilitiesName == "classLabel_probs"
    metadata = model.description.metadata
    assert (metadata.author, metadata.license) == ("the tests", "Apache-2.0")
    assert "10 classes" in metadata.shortDescription
    own = metadata.userDefined
    assert json.loads(own["labels"]) == list(LABELS)
    assert json.loads(own["preprocess"])["mean"] == list(spec.preprocess.mean)
    assert json.loads(own[METADATA_KEY])["architecture"] == "mobilenet_v2"
    assert model.specificationVersion == 6  # of iOS 15
    with quietly():
        coremltools.models.MLModel(str(written.path), skip_model_load=True)


def test_the_probabilities_are_tempered(package):
    """What iOS shows as confidence, by an interpreter of which the test asks another tensor."""
    graph, written = package("mobilenet_v2", "symmetric", "float32")
    engine = open_package(written.path)
    pixels = smooth_pixels(1)
    logits = engine.run(pixels)["logits"][0] / 1.5
    (classify,) = (op for op in engine._operations if op.op_type == "classify")
    engine.spec = graph.spec.replace(output="probabilities", temperature=1.0)
    assert classify.probabilities.name == "probabilities"
    np.testing.assert_allclose(engine.run(pixels)["probabilities"][0], np.exp(logits) / np.exp(logits).sum(), rtol=1e-5)


def test_colours_the_other_way_round_and_labels_that_repeat(make, tmp_path):
    preprocess = Preprocess(resize=SIZE, crop=SIZE, color_order="bgr")
    graph = make("mobilenet_v2", preprocess=preprocess)
    graph = type(graph)(graph.spec.replace(labels=("one", "one", *LABELS[2:])), graph.nodes)
    (written,) = write(graph, "float32", tmp_path)
    model = coremltools.utils.load_spec(str(written.path))
    space = model.description.input[0].type.imageType
    assert space.ColorSpace.Name(space.colorSpace) == "BGR"
    assert [made.name for made in model.description.output] == ["logits"]
    pixels = smooth_pixels(2)
    wanted = expected(graph, normalize(pixels, preprocess))
    np.testing.assert_allclose(
        open_package(written.path).run(pixels)["logits"], wanted, rtol=0, atol=1e-4 * np.abs(wanted).max()
    )
    # A package that asks iOS for the colours in another order than it was trained with answers otherwise here too.
    space.colorSpace = space.ColorSpace.Value("RGB")
    (written.path / MODEL).write_bytes(model.SerializeToString())
    assert np.abs(open_package(written.path).run(pixels)["logits"] - wanted).max() > 0.1


def test_other_inputs_than_pictures(make, tmp_path):
    graph = make("mobilenet_v2", channels=4)
    (written,) = write(graph, "float32", tmp_path)
    batch = np.random.default_rng(0).normal(0, 1, (2, 4, SIZE, SIZE)).astype(np.float32)
    wanted = expected(graph, batch)
    actual = open_package(written.path).run(batch)["logits"]
    np.testing.assert_allclose(actual, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


# Packages that lie


@pytest.fixture
def copy(package, tmp_path):
    _, written = package("mobilenet_v2", "symmetric", "float32")
    return shutil.copytree(written.path, tmp_path / "copy.mlpackage")


def change(path, edit):
    model = coremltools.utils.load_spec(str(path))
    edit(model)
    (path / MODEL).write_bytes(model.SerializeToString())


def operations(model):
    function = model.mlProgram.functions["main"]
    return function.block_specializations[function.opset].operations


def test_an_unknown_operator(copy):
    def edit(model):
        next(op for op in operations(model) if op.type == "relu6").type = "tanh"

    change(copy, edit)
    with pytest.raises(WeightsError, match="holds the operator tanh"):
        open_package(copy)


def test_a_changed_weight_is_read(copy):
    """The answers come from the file: from its weights, not from what was meant to be written."""
    pixels = smooth_pixels(2)
    before = open_package(copy).run(pixels)["logits"]
    data = bytearray((copy / WEIGHTS).read_bytes())
    weights = np.frombuffer(data, np.float32)
    weights[len(weights) // 2 : len(weights) // 2 + 2000] *= 1.5
    (copy / WEIGHTS).write_bytes(data)
    assert np.abs(open_package(copy).run(pixels)["logits"] - before).max() > 1e-3


def test_shuffled_labels(copy):
    def edit(model):
        spec = json.loads(model.description.metadata.userDefined[METADATA_KEY])
        spec["labels"].reverse()
        model.description.metadata.userDefined[METADATA_KEY] = json.dumps(spec)

    change(copy, edit)
    with pytest.raises(WeightsError, match="classifies by other labels"):
        open_package(copy)


def test_another_size_than_described(copy):
    def edit(model):
        spec = json.loads(model.description.metadata.userDefined[METADATA_KEY])
        spec["input_size"] = spec["preprocess"]["crop"] = 64
        model.description.metadata.userDefined[METADATA_KEY] = json.dumps(spec)

    change(copy, edit)
    with pytest.raises(WeightsError, match=r"reads \{'image': \(1, 3, 32, 32\)\}"):
        open_package(copy)


@pytest.mark.parametrize("what", [MODEL, WEIGHTS, "Manifest.json"])
@pytest.mark.parametrize("share", [0, 0.3, 0.95])
def test_cut_off(what, share, copy):
    data = (copy / what).read_bytes()
    (copy / what).write_bytes(data[: int(share * len(data))])
    with pytest.raises((WeightsError, SpecError), match=r"copy\.mlpackage"):
        open_package(copy)


@pytest.mark.parametrize("what", [MODEL, WEIGHTS, "Manifest.json"])
def test_a_missing_part(what, copy):
    (copy / what).unlink()
    with pytest.raises(WeightsError, match=r"copy\.mlpackage"):
        open_package(copy)


def test_another_process_writes_the_same_bytes_and_says_nothing(small_spec, lived_in_state, tmp_path):
    code = (
        "import sys, pathlib\nsys.path.insert(0, 'tests')\nfrom conftest import small_spec, lived_in_state\n"
        "from fusiform.exporting.targets.coreml import write, open_package\n"
        "from fusiform.graph.build import build_graph\n"
        "spec = small_spec('shufflenet_v2')\n"
        "open_package(write(build_graph(spec, lived_in_state(spec)), 'float16', pathlib.Path(sys.argv[1]))[0].path)"
    )
    (tmp_path / "there").mkdir()
    (tmp_path / "here").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "there"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=300,
        check=True,
    )
    assert (done.stdout, done.stderr) == (b"", b"")
    spec = small_spec("shufflenet_v2")
    write(build_graph(spec, lived_in_state(spec)), "float16", tmp_path / "here")

    def files(folder):
        return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    assert files(tmp_path / "here") == files(tmp_path / "there")
    name = f"{spec.name}_float16.mlpackage"
    assert sorted(map(str, files(tmp_path / "here"))) == [
        f"{name}/{what}" for what in (MODEL, WEIGHTS, "Manifest.json")
    ]


def test_without_coremltools(make, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fusiform\[coreml\]'"):
        write(make("mobilenet_v2"), "float32", tmp_path)
