"""The way from a photograph to its names without numpy: the same answers, and numpy is not loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fusiform
from fusiform import engines
from fusiform.data import preprocess
from fusiform.engines import RunningPlain, open_engine
from fusiform.engines.native import resize
from fusiform.engines.native.compiled import fast_kernels
from fusiform.errors import WeightsError
from fusiform.prediction.plain import PlainWorker, names_plainly
from fusiform.prediction.sources import find_pictures
from fusiform.prediction.worker import Asked, Worker
from fusiform.spec import ModelSpec, Preprocess
from fusiform.zoo.model import open_model

ROOT = Path(__file__).parents[2]
BUNDLED = ["mobilenet_v2", "shufflenet_v2_x1_0"]
fast = pytest.mark.skipif(fast_kernels() is None, reason="the library was not compiled, or is not fast here")


@pytest.fixture(autouse=True)
def _no_engine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(engines.CHOICE, raising=False)


def run_python(code: str, *words: str) -> list[str]:
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()


@fast
@pytest.mark.parametrize("model", BUNDLED)
@pytest.mark.parametrize("source", ["examples/cat.jpg", "examples"])
def test_numpy_is_not_loaded(model: str, source: str) -> None:
    code = (
        "import sys, fusiform\n"
        "answers = fusiform.predict(sys.argv[1], model=sys.argv[2])\n"
        "print('numpy' in sys.modules)\n"
        "print(answers.to_json())"
    )
    loaded, text = run_python(code, source, model)
    assert loaded == "False"
    assert text == fusiform.predict(str(ROOT / source), model=model).to_json().replace(f"{ROOT}/", "")


@fast
@pytest.mark.parametrize("words", [["examples/cat.jpg"], ["examples", "--format", "json", "--top", "2"]])
def test_the_command_does_not_load_it_either(words: list[str]) -> None:
    code = "import sys\nfrom fusiform.cli import main\ntry:\n    main()\nfinally:\n    print('numpy' in sys.modules)"
    *answers, loaded = run_python(code, "predict", *words)
    assert loaded == "False"
    assert any("Egyptian cat" in line for line in answers)


def pictures(folder: Path) -> Path:
    """Pictures of every mode and of odd sizes, one that is damaged, and one that is none."""
    cat = Image.open(ROOT / "examples" / "cat.jpg").convert("RGB")
    random = np.random.default_rng(0)
    for mode, name in (
        ("L", "grey.png"),
        ("CMYK", "cmyk.jpg"),
        ("LA", "la.png"),
        ("P", "palette.png"),
        ("1", "bw.png"),
    ):
        cat.convert(mode).save(folder / name)
    Image.fromarray(random.integers(0, 1 << 16, (90, 120), dtype=np.uint16)).save(folder / "deep.png")
    clear = cat.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(cat.size))
    clear.save(folder / "clear.png")
    for width, height in ((1, 1), (1, 700), (300, 900), (900, 300), (2000, 1500), (40_000, 3)):
        noise = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{width}x{height}.png")
    (folder / "damaged.jpg").write_bytes((ROOT / "examples" / "cat.jpg").read_bytes()[:2000])
    (folder / "none.jpg").write_text("a text")
    return folder


@fast
@pytest.mark.parametrize("model", BUNDLED)
def test_answers_are_those_of_the_way_with_numpy(model: str, tmp_path: Path) -> None:
    folder = pictures(tmp_path)
    opened = open_model(model)
    engine = open_engine(opened)
    assert names_plainly(engine, opened.spec)
    plain, other = PlainWorker(engine, opened.spec, opened.path), Worker(engine, opened.spec, opened.path)
    asked = Asked(top=1000)
    found = plain.answer(list(find_pictures(folder)), asked)
    wanted = other.answer(list(find_pictures(folder)), asked)
    assert found == wanted
    assert [answer.path for answer in found if answer.error] == [str(folder / n) for n in ("damaged.jpg", "none.jpg")]
    assert fusiform.predict(folder, opened, top=1000) == wanted


@fast
def test_other_questions_go_the_way_with_numpy(calibrated: Path) -> None:
    opened = open_model("shufflenet_v2_x1_0")
    cat = ROOT / "examples" / "cat.jpg"
    with fusiform.Predictor(opened, features=True) as predictor:
        (answer,) = predictor(cat)
    assert answer.features is not None
    assert answer.top == fusiform.predict(cat, opened)[0].top
    assert not names_plainly(open_engine(opened, engine="litert"), opened.spec)
    assert not names_plainly(open_engine(opened), open_model(calibrated).spec)


def test_bytes_are_those_of_arrays() -> None:
    cat = Image.open(ROOT / "examples" / "cat.jpg")
    for way in (
        Preprocess(),
        Preprocess(color_order="bgr"),
        Preprocess(crop=320),
        Preprocess(resize=224, fit="pad", color_order="bgr"),
        Preprocess(antialias=False),
        Preprocess(interpolation="lanczos"),
    ):
        pixels = preprocess.crop_pixels(cat, way)
        assert pixels.shape == (way.crop, way.crop, 3)
        assert pixels.flags.writeable
        assert preprocess.crop_bytes(cat, way) == resize.crop_bytes(cat, way) == pixels.tobytes()


class Broken:
    """An engine that answers what no classifier does, or breaks off."""

    spec = ModelSpec(
        *("mobilenet_v2", 1.0, ("red", "green")),
        input_size=32,
        preprocess=Preprocess(resize=32, crop=32),
        output="probabilities",
    )

    def __init__(self, row: list[float] | None) -> None:
        self.row = row

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        raise AssertionError

    def rows(self, given: list[bytearray]) -> list[list[float]]:
        assert {len(pixels) for pixels in given} == {32 * 32 * 3}
        if self.row is None:
            raise RuntimeError("lost its way")
        return [self.row for _ in given]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([0.5, float("nan")], "model.tflite: mobilenet_v2_x1_0: the answer holds values that are not finite"),
        ([float("inf"), 0.0], "not finite"),
        ([-0.5, 0.5], r"probabilities reach from -0.5 to 0.5: export or train it again"),
        ([0.5], "not 2 classes"),
        (None, r"model.tflite: native broke off while it ran it \(lost its way\)"),
    ],
)
def test_what_no_classifier_answers_is_refused(row: list[float] | None, message: str) -> None:
    path = Path("model.tflite")
    worker = PlainWorker(RunningPlain(Broken(row), path, "native"), Broken.spec, path)
    with pytest.raises(WeightsError, match=message):
        worker.answer(list(find_pictures(Image.new("RGB", (40, 40)))), Asked())
