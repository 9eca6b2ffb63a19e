"""Programs for one model file: Python's are run without fusiform, JavaScript's under node, the others are read."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fusiform
from fusiform.data.preprocess import crop_pixels, normalize
from fusiform.errors import UsageError
from fusiform.exporting.targets.targets import TARGETS
from fusiform.graph.build import build_graph
from fusiform.graph.inputs import read_pixels
from fusiform.graph.shapes import state_shapes
from fusiform.spec import ModelSpec, Preprocess
from fusiform.zoo.checkpoint import write_safetensors
from fusiform.zoo.snippets import _FORMATS, LANGUAGES, TEMPLATES, write_snippet

torch = pytest.importorskip("torch")

from fusiform.exporting.quantization.quantize import QuantizedNetwork

LABELS = ('a "quoted" $one', "강아지", "it's", "back\\slash", "tab\there", *(f"class {k}" for k in range(40)))
SIZE = 64

WITHOUT_FUSIFORM = (
    "import runpy, sys\n"
    "class Blocker:\n"
    "    def find_spec(self, name, path=None, target=None):\n"
    "        if name.partition('.')[0] == 'fusiform': raise ModuleNotFoundError(name)\n"
    "sys.meta_path.insert(0, Blocker())\n"
    "sys.argv = sys.argv[1:]\n"
    "runpy.run_path(sys.argv[0], run_name='__main__')\n"
)


def run_python(code, photo, folder):
    program = folder / "program.py"
    program.write_text(code, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT_FUSIFORM, program, photo],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONPATH": ""},
    )
    assert result.returncode == 0, result.stderr
    return [line.split("  ", 1) for line in result.stdout.splitlines()]


@functools.cache
def small_graph(**fields):
    """A network that answers pictures differently, with labels that are hard to write."""
    fields = {"labels": LABELS, "preprocess": Preprocess(72, SIZE), **fields}
    spec = ModelSpec("shufflenet_v2", 0.5, input_size=SIZE, **fields)
    return build_graph(spec, lively_state(spec))


def lively_state(spec):
    random = np.random.default_rng(7)
    state = {}
    for name, shape in state_shapes(spec).items():
        if name.endswith("num_batches_tracked"):
            state[name] = np.array(1, np.int64)
        elif name.endswith(("running_var", "weight")) and len(shape) == 1:
            state[name] = random.uniform(0.5, 1.5, shape).astype(np.float32)
        elif len(shape) > 1:
            spread = np.sqrt(2 / np.prod(shape[1:]))
            state[name] = random.normal(0, spread, shape).astype(np.float32)
        else:
            state[name] = random.normal(0, 0.1, shape).astype(np.float32)
    if spec.task == "classification":
        state["fc.weight"] /= 16  # no class is certain
    return state


@functools.cache
def int8_graph(**fields):
    graph = small_graph(**fields)
    network = QuantizedNetwork(graph)
    pixels = np.kron(np.random.default_rng(3).integers(0, 256, (16, 8, 8, 3)), np.ones((1, 8, 8, 1)))
    network.calibrate([torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2)])
    return network.freeze()


def written(target, form, folder, *, decoded=False, **fields):
    """The path of a model file in ``folder``, written once for all tests: some writers take ten seconds."""
    made = once_written(target, form, folder.parent, decoded=decoded, **fields)
    shutil.copytree(made.parent, folder, dirs_exist_ok=True)
    return folder / made.name


@functools.cache
def once_written(target, form, root, *, decoded, **fields):
    folder = Path(tempfile.mkdtemp(dir=root))
    graph = int8_graph(**fields) if form == "int8" else small_graph(**fields)
    graph = dataclasses.replace(graph, spec=graph.spec.replace(decoded=decoded))
    if form == "pixels":
        graph, form = read_pixels(graph), "float32"
    return TARGETS[target].writer()(graph, form, folder)[0].path


@pytest.fixture
def photo(tmp_path):
    """A photograph that is not square, with an orientation."""
    coarse = np.random.default_rng(5).integers(0, 256, (9, 13, 3)).astype(np.uint8)
    image = Image.fromarray(coarse).resize((200, 131), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    image.save(tmp_path / "photo.jpg", quality=95, exif=exif)
    return tmp_path / "photo.jpg"


PYTHON = [
    *(("litert", form) for form in ("float32", "float16", "int8", "pixels")),
    *(("onnx", form) for form in ("float32", "float16", "int8", "pixels")),
    *(("openvino", form) for form in ("float32", "float16", "int8", "pixels")),
    ("torchscript", "float32"),
    ("executorch", "float32"),
    ("executorch", "int8"),
]
NUMBERS = {
    "preprocess": Preprocess(80, SIZE, mean=(0.111, 0.222, 0.333), std=(0.444, 0.555, 0.666)),
    "temperature": 1.7,
}
"""What is found again in the text of a program."""
RUNTIMES = {"litert": "ai_edge_litert", "onnx": "onnxruntime"}


@pytest.mark.parametrize(("target", "form"), PYTHON)
def test_python_answers_as_fusiform_does(target, form, photo, tmp_path):
    pytest.importorskip(RUNTIMES.get(target, target if target != "torchscript" else "torch"))
    file = written(target, form, tmp_path, **NUMBERS)
    same_answer(file, photo, tmp_path)


def same_answer(file, photo, folder):
    lines = run_python(write_snippet(file, "python"), photo, folder)
    (prediction,) = fusiform.predict(photo, file, fast=False, threads=1)
    assert [name for _, name in lines] == [guess.name for guess in prediction.top]
    expected = [guess.probability for guess in prediction.top]
    np.testing.assert_allclose([float(number) for number, _ in lines], expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        {"preprocess": Preprocess(SIZE, SIZE, fit="stretch", interpolation="bicubic")},
        {"preprocess": Preprocess(SIZE, SIZE, fit="pad", color_order="bgr", mean=(0.2, 0.4, 0.6))},
        {"preprocess": Preprocess(51, SIZE, interpolation="lanczos")},  # smaller than the crop
        {"preprocess": Preprocess(80, SIZE, interpolation="nearest", color_order="bgr", std=(0.5, 0.4, 0.3))},
        {"temperature": 2.5},
    ],
    ids=["stretch", "pad", "small", "bgr", "temperature"],
)
@pytest.mark.parametrize("form", ["float32", "int8"])
def test_python_prepares_photographs_as_fusiform_does(form, changes, photo, tmp_path):
    pytest.importorskip("onnxruntime")
    same_answer(written("onnx", form, tmp_path, **changes), photo, tmp_path)


@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v2_x1_0"])
def test_python_for_the_bundled_files(name, tmp_path):
    lines = run_python(write_snippet(name, "python"), "examples/cat.jpg", tmp_path)
    (prediction,) = fusiform.predict("examples/cat.jpg", name, fast=False, threads=1)
    assert [name for _, name in lines] == [guess.name for guess in prediction.top]


BOXES = {"task": "detection", "labels": LABELS[:4], "preprocess": Preprocess(SIZE, SIZE, fit="stretch")}
MASKS = {"task": "segmentation", "labels": LABELS[:4], "preprocess": Preprocess(SIZE, SIZE, fit="pad")}


TASKS = [("onnx", "float32", False), ("litert", "int8", False)]
TASKS += [
    ("onnx", "float32", True),
    ("litert", "pixels", True),
    ("litert", "int8", True),
    ("openvino", "float32", True),
]


@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
@pytest.mark.parametrize(("target", "form", "decoded"), TASKS)
def test_python_decodes_boxes_as_fusiform_does(target, form, decoded, scores, photo, tmp_path):
    pytest.importorskip(RUNTIMES.get(target, target))
    file = written(target, form, tmp_path, decoded=decoded, **BOXES, scores=scores)
    lines = run_python(write_snippet(file, "python"), photo, tmp_path)
    (prediction,) = fusiform.predict(photo, file, fast=False, threads=1)
    assert len(prediction.detections.boxes) > 5
    found = [
        (name, float(score), *map(float, edges.split()))
        for score, rest in lines
        for name, edges in [rest.rsplit("  ", 1)]
    ]
    assert [box[0] for box in found] == [box.name for box in prediction.detections.boxes]
    expected = [(box.score, box.left, box.top, box.right, box.bottom) for box in prediction.detections.boxes]
    np.testing.assert_allclose([box[1:] for box in found], expected, rtol=0, atol=0.1)


@pytest.mark.parametrize(
    "changes", [{}, {"align_corners": False, "preprocess": BOXES["preprocess"]}], ids=["pad", "stretch"]
)
@pytest.mark.parametrize(("target", "form", "decoded"), TASKS)
def test_python_decodes_masks_as_fusiform_does(target, form, decoded, changes, photo, tmp_path):
    pytest.importorskip(RUNTIMES.get(target, target))
    file = written(target, form, tmp_path, decoded=decoded, **{**MASKS, **changes}, output_stride=16)
    lines = run_python(write_snippet(file, "python"), photo, tmp_path)
    (prediction,) = fusiform.predict(photo, file, fast=False, threads=1)
    shares = prediction.segmentation.shares()
    assert len(shares) > 1
    assert [name for _, name in lines] == [share.name for share in shares]
    np.testing.assert_allclose([float(number) for number, _ in lines], [s.share for s in shares], rtol=0, atol=1e-3)


# What the page's JavaScript finds in a browser, with pixels and answers that the test chose.
BROWSER = """
import { writeFileSync } from "node:fs";
const given = JSON.parse(process.env.GIVEN);
globalThis.OffscreenCanvas = class {
  constructor(width, height) { this.size = [width, height]; }
  getContext() {
    return {
      drawImage: (image, ...place) => { given.place = place; },
      fillRect() {},
      getImageData: () => ({ data: Uint8ClampedArray.from(given.rgba) }),
    };
  }
};
globalThis.record = (found) => { Object.assign(given, found); };
globalThis.answers = () => Float32Array.from(given.answers);
const { classify } = await import("./program.mjs");
const guesses = await classify({ width: 200, height: 100 });
writeFileSync("found.json", JSON.stringify({ ...given, guesses }));
"""
PACKAGES = {
    "onnxruntime-web": """
export class Tensor { constructor(type, data, shape) { Object.assign(this, { type, data, shape }); } }
export const InferenceSession = { create: async (file) => ({ run: async (feeds) => {
  const [[input, tensor]] = Object.entries(feeds);
  record({ file, input, type: tensor.type, shape: tensor.shape, values: Array.from(tensor.data) });
  return { logits: { data: answers() } };
} }) };
""",
    "@litertjs/core": """
let loaded = false;
export class Tensor {
  constructor(data, shape) {
    if (!loaded) throw new Error("LiteRT is not initialized yet"); // as the real one does
    Object.assign(this, { data, shape });
  }
  delete() {}
}
export const loadLiteRt = async () => {
  await new Promise((ready) => setTimeout(ready, 20));
  loaded = true;
};
export const loadAndCompile = async (file) => ({ run: (tensor) => {
  const type = tensor.data instanceof Uint8Array ? "uint8" : "float32";
  const input = type === "uint8" ? "pixels" : "image";
  record({ file, input, type, shape: tensor.shape, values: Array.from(tensor.data) });
  return [{ moveTo: async () => ({ toTypedArray: answers }) }];
} });
""",
}


@pytest.mark.parametrize(
    ("target", "form"), [("onnx", "float32"), ("onnx", "int8"), ("litert", "float32"), ("litert", "int8")]
)
@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_javascript_reads_and_answers_as_fusiform_does(target, form, order, tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed, which runs JavaScript")
    preprocess = Preprocess(72, SIZE, color_order=order, mean=(0.1, 0.4, 0.6), std=(0.2, 0.3, 0.4))
    file = written(target, form, tmp_path, preprocess=preprocess, temperature=2.0)
    (tmp_path / "program.mjs").write_text(write_snippet(file, "js"), encoding="utf-8")
    (tmp_path / "browser.mjs").write_text(BROWSER, encoding="utf-8")
    for name, code in PACKAGES.items():
        package = tmp_path / "node_modules" / name
        package.mkdir(parents=True)
        (package / "index.js").write_text(code, encoding="utf-8")
        (package / "package.json").write_text('{"type": "module", "main": "index.js"}', encoding="utf-8")
    random = np.random.default_rng(2)
    pixels = random.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    rgba = np.concatenate([pixels, np.full((SIZE, SIZE, 1), 255, np.uint8)], axis=2)
    logits = random.normal(0, 3, len(LABELS))
    given = {"rgba": rgba.ravel().tolist(), "answers": logits.tolist()}
    result = subprocess.run(
        [node, "browser.mjs"],
        cwd=tmp_path,
        env={**os.environ, "GIVEN": json.dumps(given)},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))

    assert found["file"] == file.name
    # The shorter side of 200 x 100 pixels becomes 72, of which the middle is seen.
    assert found["place"] == [-40, -4, 144, 72]
    ours = crop_pixels(Image.fromarray(pixels), preprocess.__class__(SIZE, SIZE, color_order=order))
    if form == "int8":
        assert (found["input"], found["type"], found["shape"]) == ("pixels", "uint8", [1, SIZE, SIZE, 3])
        expected = ours
    else:
        layout = "nchw" if target == "onnx" else "nhwc"
        shape = [1, 3, SIZE, SIZE] if target == "onnx" else [1, SIZE, SIZE, 3]
        assert (found["input"], found["type"], found["shape"]) == ("image", "float32", shape)
        expected = normalize(ours, preprocess, layout=layout)
    np.testing.assert_allclose(found["values"], expected.ravel(), rtol=0, atol=1e-5)
    probabilities = np.exp(logits / 2) / np.exp(logits / 2).sum()
    best = np.argsort(-probabilities)[:5]
    assert [guess["label"] for guess in found["guesses"]] == [LABELS[k] for k in best]
    np.testing.assert_allclose([guess["probability"] for guess in found["guesses"]], probabilities[best], atol=1e-6)


FILES = {
    "tflite": "litert",
    "onnx": "onnx",
    "openvino": "openvino",
    "torchscript": "torchscript",
    "executorch": "executorch",
    "coreml": "coreml",
}


def forms_of(target):
    return [form for form in ("float32", "int8") if form in TARGETS[target].precisions]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_program_is_filled_with_the_files_numbers_and_names(language, tmp_path):
    for file_format in _FORMATS[language]:
        pytest.importorskip(
            RUNTIMES.get(
                FILES[file_format], {"coreml": "coremltools", "torchscript": "torch"}.get(file_format, file_format)
            )
        )
        for form in forms_of(FILES[file_format]):
            if (language, file_format, form) == ("js", "tflite", "int8"):
                continue
            file = written(FILES[file_format], form, tmp_path, **NUMBERS)
            code = write_snippet(file, language)
            assert not re.search(r"(?<![\w@/])@(?!litertjs|Suppress)\w+@?|%%", code), (file_format, form)
            for number in ("80", str(SIZE), "1.7"):
                assert number in code, (file_format, form, number)
            normalised = form == "float32" and file_format != "coreml"
            assert all((value in code) == normalised for value in ("0.111", "0.222", "0.666")), (file_format, form)
            assert file.name in code or file.stem in code
            if language != "python":
                assert '"back\\\\slash"' in code
                assert code.count('"class ') == 40
                assert ('"a \\"quoted\\" \\$one"' in code) == (language == "kotlin")
                for opened, closed in ("()", "[]", "{}"):
                    # Of quoted labels none holds a bracket, so that all of the program's are in pairs.
                    assert code.count(opened) == code.count(closed), (file_format, form, opened)


def test_there_is_a_whole_template_for_each_language():
    assert {path.stem for path in TEMPLATES.iterdir()} == set(LANGUAGES)
    for path in TEMPLATES.iterdir():
        depth = 0
        for line in path.read_text(encoding="utf-8").splitlines():
            depth += line.startswith("%% if ") - (line == "%% end")
            assert depth in (0, 1, 2)
        assert depth == 0


def of_version_0_1(folder):
    """A file that reads int8, as none is written now."""
    old = Path(__file__).parents[1] / "graph" / "int8_of_version_0_1.tflite.gz"
    (folder / "old.tflite").write_bytes(gzip.decompress(old.read_bytes()))
    return folder / "old.tflite"


def test_what_there_is_no_code_for(tmp_path):
    graph = small_graph()
    weights = tmp_path / "weights.safetensors"
    write_safetensors(weights, lively_state(graph.spec), graph.spec)
    with pytest.raises(UsageError, match=r"is a file of weights.*fusiform export .* --to onnx --out DIR"):
        write_snippet(weights, "python")
    onnx = written("onnx", "float32", tmp_path)
    with pytest.raises(UsageError, match="there is no swift for it; there is python, js, kotlin, cpp"):
        write_snippet(onnx, "swift")
    with pytest.raises(UsageError, match="there is no snippet in 'cobol'; there are python, js, kotlin, swift, cpp"):
        write_snippet(onnx, "cobol")
    with pytest.raises(UsageError, match=r"takes uint8 and float32: export it again, or take python, kotlin, swift"):
        write_snippet(of_version_0_1(tmp_path), "js")
    with pytest.raises(UsageError, match="is for detection; to decode its answers there is python alone"):
        write_snippet(written("onnx", "float32", tmp_path, **BOXES), "kotlin")
    with pytest.raises(UsageError, match="leaves black around a photograph; there is python alone"):
        write_snippet(written("onnx", "float32", tmp_path, preprocess=Preprocess(51, SIZE)), "cpp")
    grey = ModelSpec("shufflenet_v2", 0.5, LABELS, input_size=SIZE, input_channels=1, preprocess=Preprocess(72, SIZE))
    path = TARGETS["onnx"].writer()(build_graph(grey, lively_state(grey)), "float32", tmp_path)[0].path
    with pytest.raises(UsageError, match="reads 1 channels; snippets are for photographs"):
        write_snippet(path, "python")


def test_the_command_prints_the_code_alone(tmp_path):
    from click.testing import CliRunner

    from fusiform.cli import commands
    from fusiform.cli.info import LANGUAGES as OFFERED

    file = written("onnx", "float32", tmp_path)
    result = CliRunner().invoke(commands, ["info", str(file), "--snippet", "python"])
    assert (result.exit_code, result.stdout) == (0, write_snippet(file, "python"))
    assert OFFERED == LANGUAGES


def test_a_name_is_no_code(tmp_path):
    """What a file is called, and its labels, stay texts in every language."""
    wicked = 'end"); system("x\n${y}'
    file = written("onnx", "float32", tmp_path, labels=(wicked, "b"))
    moved = file.rename(tmp_path / 'a"\nimport os #.onnx')
    code = write_snippet(moved, "python")
    assert "\nimport os" not in code
    for language in ("js", "kotlin", "cpp"):
        code = write_snippet(moved, language)
        assert 'end"' not in code
        assert "\nimport os" not in code
    assert "\\${y}" in write_snippet(moved, "kotlin")
