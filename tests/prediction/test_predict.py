from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fusiform import engines
from fusiform.data.image import read_image as read_image_function
from fusiform.engines.crew import GROUP, LOOK_AHEAD
from fusiform.errors import SpecError, UsageError
from fusiform.prediction.predict import predict, predict_iter
from fusiform.prediction.predictor import MASKS_AHEAD
from fusiform.prediction.results import Prediction
from fusiform.prediction.sources import stem_of
from fusiform.spec import ModelSpec, Preprocess
from fusiform.tasks.classification import Classification, Guess
from fusiform.tasks.detection import Box, Detections
from fusiform.tasks.segmentation import SegmentationMap
from fusiform.zoo.model import Model

SPEC = ModelSpec(
    "mobilenet_v2", 1.0, ("red", "green", "blue"), input_size=32, preprocess=Preprocess(resize=32, crop=32)
)
COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class ColorEngine:
    """Answers which of the three channels is brightest, and remembers how it was used."""

    opened: list[ColorEngine]

    def __init__(self, threads: int) -> None:
        self.spec = SPEC
        self.threads = threads
        self.batches: list[int] = []
        self.users: set[int] = set()

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        assert batch.dtype == np.uint8
        assert batch.shape[1:] == (32, 32, 3)
        self.users.add(threading.get_ident())
        self.batches.append(len(batch))
        return {"logits": batch.mean(axis=(1, 2), dtype=np.float32) / 32}


@pytest.fixture(autouse=True)
def opened(monkeypatch: pytest.MonkeyPatch) -> list[ColorEngine]:
    """The engines that were opened; every one is a ColorEngine."""
    opened: list[ColorEngine] = []

    def open_engine(
        model: str, *, engine: str = "litert", threads: int = 1, device: str = "cpu", features: bool = False
    ) -> ColorEngine:
        opened.append(ColorEngine(threads))
        return opened[-1]

    monkeypatch.setattr(engines, "open_engine", open_engine, raising=False)
    describe(monkeypatch, SPEC)
    return opened


def describe(monkeypatch: pytest.MonkeyPatch, spec: ModelSpec) -> None:
    """Let every model's file say ``spec`` of itself."""
    model = Model(Path("model.tflite"), "tflite", spec, b"")
    monkeypatch.setattr("fusiform.prediction.predictor.open_model", lambda name: model)


def picture(path: Path, color: str, size: tuple[int, int] = (40, 40)) -> Path:
    Image.new("RGB", size, COLORS[color]).save(path)
    return path


def encoded(color: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 40), COLORS[color]).save(file, "PNG")
    return file.getvalue()


def best(predictions: list[Prediction]) -> list[str | None]:
    return [prediction.top[0].name if prediction.top else None for prediction in predictions]


def test_one_picture_in_every_form(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", "green")
    for source in (path, str(path), path.read_bytes(), Image.open(path), [path]):
        (prediction,) = predict(source)
        assert [guess.name for guess in prediction.top] == ["green", "red", "blue"]
        assert prediction.top[0].probability > 0.99
        assert prediction.error is None
    assert predict(str(path))[0].path == str(path)
    assert predict(Image.open(path))[0].path == str(path)


def test_a_pil_picture_is_turned_upright() -> None:
    image = Image.new("RGB", (96, 32), COLORS["red"])
    image.paste(COLORS["green"], (32, 0, 64, 32))
    image.paste(COLORS["blue"], (32, 0, 64, 15))
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = io.BytesIO()
    image.save(turned, "PNG", exif=exif)
    opened = Image.open(turned)
    seen: list[np.ndarray] = []
    original = ColorEngine.run

    def run(self: ColorEngine, batch: np.ndarray) -> dict[str, np.ndarray]:
        seen.append(batch)
        return original(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ColorEngine, "run", run)
        predict(opened)
        predict(turned.getvalue())
    assert (seen[0] == seen[1]).all()
    assert seen[0][0, -1, 16, 2] == 255  # the blue stripe, on top in the file, is at the bottom


def test_answers_come_in_order_from_one_engine_a_thread(tmp_path: Path, opened: list[ColorEngine]) -> None:
    colors = [list(COLORS)[i * 7 % 3] for i in range(100)]
    # Large and small in turns, so that the workers finish out of order.
    paths = [picture(tmp_path / f"{i}.png", c, (40 + 600 * (i % 2),) * 2) for i, c in enumerate(colors)]
    predictions = predict(paths, threads=3)
    assert best(predictions) == colors
    assert [prediction.path for prediction in predictions] == list(map(str, paths))
    assert [engine.threads for engine in opened] == [1, 1, 1]
    assert all(len(engine.users) <= 1 for engine in opened)
    assert sum(sum(engine.batches) for engine in opened) == 100


def test_no_more_workers_than_pictures(tmp_path: Path, opened: list[ColorEngine]) -> None:
    paths = [picture(tmp_path / f"{i}.png", "red") for i in range(2)]
    predict(paths, threads=8)
    assert [engine.threads for engine in opened] in ([4, 4], [4])  # one where it was done before another was needed
    opened.clear()
    predict(paths[0], threads=8)
    assert [engine.threads for engine in opened] == [8]
    assert opened[0].users == {threading.get_ident()}


def test_batches_hold_the_pictures_that_can_be_read(tmp_path: Path, opened: list[ColorEngine]) -> None:
    colors = ["red", "green", "blue", "green", "blue", "red", "green"]
    paths = [picture(tmp_path / f"{i}.png", color) for i, color in enumerate(colors)]
    paths[1].write_bytes(b"")
    for i in (3, 4, 5):
        paths[i].write_bytes(b"not a picture")
    assert best(predict(paths, threads=1, batch=3)) == ["red", None, "blue", None, None, None, "green"]
    assert opened[0].batches == [3]


def test_what_is_wrong_with_a_picture_is_in_its_prediction(tmp_path: Path) -> None:
    good = picture(tmp_path / "good.png", "blue")
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"hello")
    empty = tmp_path / "empty folder"
    empty.mkdir()
    sources = [bad, tmp_path / "absent.jpg", good, empty, f"{tmp_path}/*.gif", b"", "nul\0.jpg"]
    predictions = predict(sources, threads=2)
    assert best(predictions) == [None, None, "blue", None, None, None, None]
    errors = [prediction.error for prediction in predictions if prediction.error]
    assert "bad.jpg: is not a picture" in errors[0]
    assert "absent.jpg: no such file" in errors[1]
    assert errors[2] == f"{empty}: no pictures in this folder"
    assert errors[3] == f"{tmp_path}/*.gif: no file matches this pattern"
    assert errors[4].startswith("<bytes>: is empty")
    assert errors[5].startswith("'nul\\x00.jpg': ")


def test_pictures_that_are_not_read_are_answered_as_such(tmp_path: Path) -> None:
    picture(tmp_path / "1.png", "red")
    for name in ("2.heic", "only/3.HEIC", "only/4.AVIF", "@eaDir/1.png/thumb.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    predictions = predict(tmp_path)
    assert [Path(prediction.path).name for prediction in predictions] == ["1.png", "2.heic", "3.HEIC", "4.AVIF"]
    assert best(predictions) == ["red", None, None, None]
    assert "2.heic: " in str(predictions[1].error)  # needs an extra, or is damaged where there is that
    assert [prediction.path for prediction in predict(f"{tmp_path}/*.png")] == [str(tmp_path / "1.png")]
    assert [Path(prediction.path).name for prediction in predict(f"{tmp_path}/*")] == [
        "1.png",
        "2.heic",
        "3.HEIC",
        "4.AVIF",
    ]


def test_folders_are_searched_and_patterns_matched(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("10.png", "9.png", "sub/1.png", "[1] odd*name.png"):
        picture(tmp_path / name, "red")
    (tmp_path / "notes.txt").write_text("no picture")

    def names(source: str) -> list[str]:
        return [os.path.relpath(prediction.path, tmp_path) for prediction in predict(source)]

    assert sorted(names(str(tmp_path))) == sorted(["[1] odd*name.png", "9.png", "10.png", "sub/1.png"])
    assert names(f"{tmp_path}/[1] odd*name.png") == ["[1] odd*name.png"]
    assert names(f"{tmp_path}/*0.p?g") == ["10.png"]
    assert names(f"{tmp_path}/**/1.png") == ["sub/1.png"]
    assert names(f"{tmp_path}/s*") == ["sub/1.png"]


def test_sources_are_taken_only_a_little_ahead(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", "red")
    before = set(threading.enumerate())
    taken = 0

    def endless() -> Iterator[Path]:
        nonlocal taken
        while True:
            taken += 1
            yield path

    predictions = predict_iter(endless(), threads=2)
    for _ in range(200):
        next(predictions)
    assert taken <= 200 + 2 * (LOOK_AHEAD + 1) * GROUP
    predictions.close()  # type: ignore[attr-defined]
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("threads", [1, 2])
def test_a_bug_is_not_mistaken_for_a_bad_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    def run(self: ColorEngine, batch: np.ndarray) -> dict[str, np.ndarray]:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(ColorEngine, "run", run)
    paths = [picture(tmp_path / f"{i}.png", "red") for i in range(4)]
    with pytest.raises(ZeroDivisionError, match="a bug"):
        predict(paths, threads=threads)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"top": 0}, "top must be at least 1"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"score": 1.5}, "score must be from 0 to 1, got 1.5"),
        ({"iou": float("nan")}, "iou must be from 0 to 1"),
        ({"score": 0.5}, r"score is for detection, and the model \(mobilenet_v2_x1_0\) is for classification"),
        ({"engine": "caffe"}, "no engine 'caffe'"),
        ({"labels": ["one", "two"]}, "2 labels for the 3 classes"),
    ],
)
def test_wrong_arguments_are_told_before_anything_is_read(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        predict_iter("absent.jpg", **arguments)  # type: ignore[arg-type]


def test_labels_and_top(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", "blue")
    (prediction,) = predict(path, labels=["rot", "grün", "blau"], top=2)
    assert [(guess.index, guess.name) for guess in prediction.top] == [(2, "blau"), (0, "rot")]
    assert len(predict(path, top=99)[0].top) == 3


def test_progress_counts_the_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusiform.progress.GAP_SECONDS", 0.0)  # of short jobs nothing is said
    paths = [picture(tmp_path / f"{i}.png", "red") for i in range(3)]
    assert best(predict(paths, progress=True)) == ["red"] * 3
    assert "3/3" in capsys.readouterr().err


class Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = encoded("green")
        if self.path.startswith("/missing"):
            self.send_error(404)
        elif self.path.startswith("/short"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(body) + 1000))
            self.end_headers()
            self.wfile.write(body)
        elif self.path.startswith("/endless"):
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(bytes(2**16))
            except OSError:  # the client has seen enough
                self.close_connection = True
        elif self.path.startswith("/silent"):
            time.sleep(1)
            self.close_connection = True
        elif self.path in ("/a%20dog%C3%A9.png", "/a.png?size=1&name=%20b"):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)
        else:
            self.send_error(500, self.path)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.delenv("FUSIFORM_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_addresses(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert best(predict([f"{server}/a dogé.png", f"{server}/a.png?size=1&name= b"])) == ["green", "green"]
    monkeypatch.setattr("fusiform.prediction.sources.DOWNLOAD_LIMIT", 2**20)
    monkeypatch.setattr("fusiform.prediction.sources.STALL_SECONDS", 0.2)
    sources = [f"{server}/{name}" for name in ("missing", "short", "endless", "silent")]
    predictions = predict([*sources, "http://127.0.0.1:1/x", "http://[broken/x"], threads=2)
    messages = ["answered 404 Not Found", "broke off after", "larger than 1 MiB", "timed out", "refused", "IPv6"]
    for prediction, message in zip(predictions, messages, strict=True):
        assert prediction.error is not None
        assert prediction.error.startswith(f"{prediction.path}: ")
        assert message in prediction.error


def test_a_slow_download_ends_at_the_deadline(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusiform.prediction.sources.DOWNLOAD_SECONDS", -1)
    assert "not complete after" in str(predict(f"{server}/endless")[0].error)


def test_offline_no_address_is_opened(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSIFORM_OFFLINE", "1")
    assert "FUSIFORM_OFFLINE is set" in str(predict(f"{server}/a.png")[0].error)


def whole(task: Any, size: int, **changes: Any) -> ModelSpec:
    """A detector or a segmenter."""
    fit = "stretch" if task == "detection" else "pad"
    stride = 32 if task == "detection" else 16
    preprocess = Preprocess(resize=size, crop=size, fit=fit)  # type: ignore[arg-type]
    spec = ModelSpec(
        "mobilenet_v2", 1.0, ("a", "b"), task=task, input_size=size, output_stride=stride, preprocess=preprocess
    )
    return spec.replace(**changes)


def serve(monkeypatch: pytest.MonkeyPatch, spec: ModelSpec) -> list[tuple[int, ...]]:
    """Have every engine be one for this spec, and get the shapes of what it is given.

    It says the same of every picture: one box of class b in the middle, or class b everywhere.
    """
    seen: list[tuple[int, ...]] = []

    class Engine:
        def __init__(self) -> None:
            self.spec = spec

        def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
            seen.append(batch.shape)
            answers = {name: np.zeros((len(batch), *shape), np.float32) for name, shape in spec.answers.items()}
            if spec.task == "segmentation":
                answers["logits"][..., 1] = 1
            else:
                answers["logits"][..., 0] = 30
                answers["logits"][:, -6, 2] = 40  # the square of scale 0.95
            return answers

    monkeypatch.setattr(engines, "open_engine", lambda *_, **__: Engine())
    describe(monkeypatch, spec)
    return seen


@pytest.mark.parametrize("fast", [False, True])
def test_boxes_are_in_pixels_of_the_upright_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    seen = serve(monkeypatch, whole("detection", 64))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (1000, 400)).save(tmp_path / "a.jpg", exif=exif)
    pil = Image.open(tmp_path / "a.jpg")
    for prediction in predict([tmp_path / "a.jpg", pil], fast=fast, threads=1, batch=2):
        found = prediction.detections
        assert found is not None
        assert (found.width, found.height) == (400, 1000)
        (box,) = found.boxes
        assert (box.index, box.name) == (1, "b")
        edges = (box.left, box.top, box.right, box.bottom)
        assert edges == pytest.approx((10, 25, 390, 975))  # 0.95 of either side
        assert prediction.top == ()
        assert prediction.classification is None
    assert seen == [(2, 64, 64, 3)]


def test_masks_are_in_pixels_of_the_upright_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, whole("segmentation", 33))
    (tmp_path / "bad.png").write_bytes(b"")
    paths = [picture(tmp_path / f"{k}.png", "red", (50 + k, 30)) for k in range(20)]
    predictions = predict([*paths[:9], tmp_path / "bad.png", *paths[9:]], threads=2)
    assert predictions.pop(9).error is not None
    for k, prediction in enumerate(predictions):
        assert prediction.segmentation is not None
        assert prediction.segmentation.classes.shape == (30, 50 + k)
        assert (prediction.segmentation.classes == 1).all()


def test_few_masks_wait_for_their_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, whole("segmentation", 33))
    path = picture(tmp_path / "a.png", "red")
    read: list[str] = []
    original = read_image_function

    def read_image(*arguments: Any, **options: Any) -> Image.Image:
        read.append(options["name"])
        return original(*arguments, **options)

    monkeypatch.setattr("fusiform.prediction.worker.read_image", read_image)
    predictions = predict_iter([path] * 100, threads=2)
    assert predictions.spec.task == "segmentation"
    for taken in range(1, 30):
        next(predictions)
        assert len(read) <= taken + 2 * (MASKS_AHEAD + 1)
    predictions.close()


def test_a_single_picture_to_draw_on_is_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [picture(tmp_path / f"{k}.png", "red", (2000, 1000)) for k in range(2)]
    for task, size, several, alone in (
        ("detection", 64, (400, 200), (1600, 800)),
        ("segmentation", 33, (400, 200), (1600, 800)),
    ):
        serve(monkeypatch, whole(task, size))
        assert [p.thumbnail and p.thumbnail.size for p in predict_iter(paths, thumbnails=1)] == [several, None]
        assert [p.thumbnail and p.thumbnail.size for p in predict_iter(paths[0], thumbnails=5)] == [alone]
        assert next(predict_iter(paths[0])).thumbnail is None


@pytest.mark.parametrize(("task", "fits"), [("detection", ("crop", "pad")), ("segmentation", ("crop",))])
def test_a_model_that_does_not_see_all_of_a_photograph_is_refused(
    monkeypatch: pytest.MonkeyPatch, task: str, fits: tuple[Any, ...]
) -> None:
    for fit in fits:
        serve(monkeypatch, whole(task, 64, preprocess=Preprocess(resize=64, crop=64, fit=fit)))
        with pytest.raises(SpecError, match=f"says fit={fit}, and for {task} it must be stretch"):
            predict_iter("absent.jpg")


def test_a_prediction_is_one_answer_or_an_error() -> None:
    answers: dict[str, Any] = {
        "classification": Classification("a", (Guess(0, "x", 1.0),)),
        "detections": Detections((Box(0, "x", 0.5, 0, 0, 1, 1),), 2, 2),
        "segmentation": SegmentationMap(np.zeros((2, 2), np.uint8), ("x",)),
        "error": "a: is empty",
    }
    for name, answer in answers.items():
        assert getattr(Prediction("a", **{name: answer}), name) is answer
    for first in answers:
        for second in answers:
            if first != second:
                with pytest.raises(ValueError, match="answer of one task or an error"):
                    Prediction("a", **{first: answers[first], second: answers[second]})
    with pytest.raises(ValueError, match="a: a prediction is"):
        Prediction("a")


@pytest.mark.parametrize(
    ("path", "stem"),
    [
        ("photos/a b.c.jpg", "a b.c"),
        ("-", "picture"),
        ("<bytes>", "_bytes_"),
        ("http://host/a/dog%20%C3%A9.png?size=1", "dog é"),
        ("http://host/", "picture"),
        ("http://[broken/x", "picture"),
        ("https://host/..%2F..%2Fetc.png", "etc"),
        ("https://host/%2e%2e%2f%2e%2e%5cx.png", ".._x"),
        ("a?:*.jpg", "a___"),
    ],
)
def test_what_files_about_a_picture_are_called(path: str, stem: str) -> None:
    assert stem_of(path) == stem


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_import_fusiform_is_light() -> None:
    code = """
import sys, fusiform
fusiform.list_models(), fusiform.__version__, fusiform.ModelSpec, dir(fusiform)
print([name for name in ("numpy", "torch", "PIL", "ai_edge_litert") if name in sys.modules])
assert "mobilenet_v2" in fusiform.list_models()
try: fusiform.nothing
except AttributeError as error: assert "'nothing'" in str(error)
else: raise AssertionError
"""
    assert run_python(code) == "[]\n"
