"""The page for a static host: its files, and its JavaScript against the arithmetic in Python."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusiform.data.preprocess import crop_pixels, normalize
from fusiform.errors import OutputError, UsageError
from fusiform.graph.build import build_graph
from fusiform.graph.inputs import read_pixels
from fusiform.spec import ModelSpec, Preprocess
from fusiform.tasks.classification import decode
from fusiform.zoo.model import open_model

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from fusiform.engines import open_engine
from fusiform.exporting.targets.web import FETCH_RUNTIME, PAGE, RUNTIME, write

HERE = Path(__file__).parent
MARKUP = "<img src=x onerror=alert(1)> & Zürich \N{CAT FACE}"


@pytest.fixture(scope="module")
def graph(small_spec, lived_in_state):
    spec = small_spec("mobilenet_v2", size=48)
    return build_graph(spec.replace(labels=(MARKUP, *spec.labels[1:])), lived_in_state(spec))


@pytest.fixture(scope="module")
def node():
    found = shutil.which("node")
    if found is None:
        pytest.skip("node is not installed, which runs the page's JavaScript")
    return found


def run_node(node, script, *arguments, text=""):
    result = subprocess.run(
        [node, HERE / script, *arguments], input=text, capture_output=True, encoding="utf-8", timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def network(node, tmp_path_factory):
    """A function that runs network.js on a list of cases."""
    folder = tmp_path_factory.mktemp("network")
    shutil.copy(PAGE / "network.js", folder)
    (folder / "package.json").write_text('{"type": "module"}')  # what the page's <script type=module> says
    return lambda cases: run_node(node, "web_network.mjs", folder / "network.js", text=json.dumps(cases))


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_folder_holds_the_model_its_description_and_the_page(graph, tmp_path):
    (written,) = write(graph, "float32", tmp_path)
    site = tmp_path / "mobilenet_v2_x0_5_float32_web"
    assert (written.path, written.files) == (site, (site,))
    page = {path.name for path in PAGE.iterdir()}
    assert page >= {"index.html", "app.js", "network.js", "style.css"}
    assert {path.name for path in site.iterdir()} == page | {"model.json", "mobilenet_v2_x0_5_float32.onnx"}

    description = json.loads((site / "model.json").read_text(encoding="utf-8"))
    assert description["model"] == "mobilenet_v2_x0_5_float32.onnx"
    assert description["reads"] == "normalized"
    assert ModelSpec.from_json(json.dumps(description["spec"])) == graph.spec


@pytest.mark.parametrize("name", ["float", "pixels"])
def test_the_folder_is_a_model_that_answers(name, graph, tmp_path):
    graph = read_pixels(graph) if name == "pixels" else graph
    (written,) = write(graph, "float32", tmp_path)
    assert json.loads((written.path / "model.json").read_text(encoding="utf-8"))["reads"] == (
        "pixels" if name == "pixels" else "normalized"
    )
    opened = open_model(written.path)
    assert (opened.format, opened.spec) == ("onnx", graph.spec)
    assert open_engine(opened).run(np.zeros((1, 48, 48, 3), np.uint8))["logits"].shape == (1, 10)


def test_the_bundled_int8_model_reads_pixels(tmp_path):
    (written,) = write(open_model("shufflenet_v2_x1_0").graph(), "int8", tmp_path)
    assert written.path.name == "shufflenet_v2_x1_0_int8_web"
    assert json.loads((written.path / "model.json").read_text(encoding="utf-8"))["reads"] == "pixels"


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_the_same_graph_gives_the_same_bytes(precision, graph, tmp_path):
    contents = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        contents.append(files_of(write(graph, precision, tmp_path / name)[0].path))
    assert contents[0] == contents[1]
    assert files_of(write(graph, precision, tmp_path / "a")[0].path) == contents[0]  # and over what was there


def test_networks_of_other_channels_are_refused(small_spec, lived_in_state, tmp_path):
    spec = small_spec("mobilenet_v2", channels=1)
    with pytest.raises(UsageError, match="reads 1 channels"):
        write(build_graph(spec, lived_in_state(spec)), "float32", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(graph, tmp_path):
    (tmp_path / "mobilenet_v2_x0_5_float32_web").write_text("a file")
    with pytest.raises(OutputError, match=r"cannot write .*_web \(File exists\): choose another place"):
        write(graph, "float32", tmp_path)


def test_nothing_is_loaded_from_elsewhere():
    """No address of another host, no inline script, and the policy that forbids both."""
    for path in PAGE.iterdir():
        text = path.read_text(encoding="utf-8")
        assert re.findall(r"(?:https?:)?//[a-z0-9-]+[.:][^\s<]*", re.sub(r"(?m)^\s*//.*$", "", text)) in (
            [],
            ["http://localhost:8000"],
        )
    page = (PAGE / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<script\b[^>]*>(.*?)</script>", page, re.DOTALL) == [""]
    policy = page.partition('Content-Security-Policy"')[2].partition(">")[0]
    assert "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; connect-src 'self'" in policy


def pictures():
    """Noise, in which every pixel counts, of shapes that round in different ways."""
    random = np.random.default_rng(0)
    for width, height in ((53, 37), (37, 53), (64, 64), (31, 200), (7, 5), (301, 299), (1, 40)):
        yield Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))


PREPROCESSES = [
    Preprocess(),
    Preprocess(resize=32, crop=32),
    Preprocess(resize=33, crop=32, mean=(0.1, 0.2, 0.3), std=(1.0, 0.5, 0.25)),
    Preprocess(resize=20, crop=32),
    Preprocess(resize=64, crop=64, color_order="bgr"),
    *(
        Preprocess(resize=resize, crop=32, interpolation=interpolation, antialias=antialias)
        for resize in (32, 45, 64)
        for interpolation, antialias in (
            ("bicubic", True),
            ("lanczos", True),
            ("nearest", True),
            ("nearest", False),
            ("bilinear", False),
            ("bicubic", False),
        )
    ),
]


def test_pictures_are_prepared_as_in_python(network):
    cases = [(picture, preprocess) for picture in pictures() for preprocess in PREPROCESSES]
    answers = network(
        [
            {
                "picture": {
                    "data": base64.b64encode(picture.convert("RGBA").tobytes()).decode(),
                    "width": picture.width,
                    "height": picture.height,
                },
                "preprocess": dataclasses.asdict(preprocess),
            }
            for picture, preprocess in cases
        ]
    )
    for (picture, preprocess), answer in zip(cases, answers, strict=True):
        pixels, values = (base64.b64decode(text) for text in answer)
        actual = np.frombuffer(pixels, np.uint8).reshape(preprocess.crop, preprocess.crop, 3)
        expected = crop_pixels(picture, preprocess)
        # Pillow's fixed-point sums to the bit, unless it starts with the rows of a tall picture; PyTorch's sampling, in
        # another precision, to a rounding.
        exact = preprocess.antialias and picture.height < 2 * picture.width
        difference = np.abs(actual.astype(int) - expected).max()
        assert difference <= (0 if exact else 1), (picture.size, preprocess)
        normalized = np.frombuffer(values, "<f4").reshape(3, preprocess.crop, preprocess.crop)
        assert np.array_equal(normalized, normalize(actual, preprocess)), preprocess


def test_answers_are_decoded_as_in_python(network):
    random = np.random.default_rng(1)
    spec = ModelSpec("mobilenet_v2", 1.0, tuple(f"class {k}" for k in range(12)))
    cases = []
    for changed in (spec, spec.replace(temperature=2.5), spec.replace(output="probabilities")):
        for top in (1, 5, 20):
            logits = random.normal(scale=30, size=12).round()  # some are equal
            shares = random.dirichlet(np.ones(12))
            cases.append((changed, top, (logits if changed.output == "logits" else shares).astype(np.float32)))
    answers = network(
        [
            {"values": values.tolist(), "spec": json.loads(changed.to_json()), "top": top}
            for changed, top, values in cases
        ]
    )
    for (changed, top, values), answer in zip(cases, answers, strict=True):
        (expected,) = decode(values[None], changed, top)
        assert [guess["name"] for guess in answer] == [guess.name for guess in expected]
        assert [guess["probability"] for guess in answer] == pytest.approx(
            [guess.probability for guess in expected],
            rel=1e-5,  # Python divides by the temperature in single precision
        )


@pytest.fixture
def site(graph, tmp_path):
    (written,) = write(graph, "float32", tmp_path)
    (written.path / "package.json").write_text('{"type": "module"}')
    return written.path


def picture_file(folder, name, content):
    (folder / name).write_text(content)
    return folder / name


def test_the_page_says_what_to_fetch_where_the_runtime_is_missing(node, site):
    shown = run_node(node, "web_app.mjs", site)
    assert shown["error"]
    assert shown["said"] == [
        f'The folder "runtime" lacks {RUNTIME}, which runs the model. In the folder of this page run this, then load '
        "the page again:"
    ]
    assert shown["command"] == FETCH_RUNTIME
    assert FETCH_RUNTIME.startswith(f"npm pack {RUNTIME} && ")


def test_the_page_shows_answers_and_labels_as_text(node, site, tmp_path):
    """With a runtime that answers with the picture's first values: white is class 0, whose name is markup."""
    (site / "runtime").mkdir()
    (site / "runtime" / "ort.wasm.bundle.min.mjs").write_text(
        """
        export const env = { wasm: {} };
        export class Tensor { constructor(type, data, dims) { Object.assign(this, { type, data, dims }); } }
        export const InferenceSession = {
          create: async (name, { executionProviders }) => ({
            inputNames: ["image"],
            outputNames: ["logits"],
            run: async ({ image }) => {
              if (`${image.dims}` !== "1,3,48,48" || image.type !== "float32") throw new Error(`got ${image.dims}`);
              const white = image.data[0] > 2;
              return { logits: { data: Array.from({ length: 10 }, (_, k) => (k === (white ? 0 : 7) ? 60 : k)) } };
            },
          }),
        };
        """
    )
    white = picture_file(tmp_path, "white.png", '{"width": 60, "height": 50, "colour": [255, 255, 255, 255]}')
    black = picture_file(tmp_path, "black.png", '{"width": 60, "height": 50, "colour": [0, 0, 0, 255]}')
    broken = picture_file(tmp_path, "broken.png", "no picture")

    shown = run_node(node, "web_app.mjs", site, white)
    assert shown["said"] == ["Ready.", "white.png"]
    assert not shown["error"]
    assert [row["label"] for row in shown["rows"]] == [MARKUP, "class 9", "class 8", "class 7", "class 6"]
    assert (shown["rows"][0]["value"], shown["rows"][0]["width"]) == ("100.0 %", "100%")
    assert shown["about"].startswith("mobilenet_v2_x0_5_float32.onnx: 10 classes.")

    # A file that is no picture is said, and the next one is answered all the same.
    shown = run_node(node, "web_app.mjs", site, broken, black)
    assert shown["said"][1].startswith("broken.png: this browser cannot decode it (")
    assert shown["said"][2] == "black.png"
    assert not shown["error"]
    assert shown["rows"][0]["label"] == "class 7"


def test_no_text_becomes_markup():
    scripts = "".join((PAGE / name).read_text(encoding="utf-8") for name in ("app.js", "network.js"))
    assert "textContent" in scripts
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\(", scripts)
