"""A Predictor: opened once, asked often, from any thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fusiform
from fusiform import engines
from fusiform.errors import UsageError, WeightsError
from fusiform.prediction.predictor import Predictor
from fusiform.prediction.worker import Worker
from fusiform.spec import ModelSpec, Preprocess
from fusiform.zoo.model import Model

SPEC = ModelSpec(
    "mobilenet_v2", 1.0, ("red", "green", "blue"), input_size=32, preprocess=Preprocess(resize=32, crop=32)
)
MODEL = Model(Path("model.tflite"), "tflite", SPEC, b"")


class Engine:
    """Answers which channel is brightest; finds out whether two threads use it at once."""

    def __init__(self, threads: int) -> None:
        self.spec, self.threads = SPEC, threads
        self.busy = threading.Lock()
        self.runs = 0

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        assert self.busy.acquire(blocking=False), "two threads use one engine"
        time.sleep(0.002)
        self.runs += 1
        self.busy.release()
        return {"logits": batch.mean(axis=(1, 2), dtype=np.float32) / 32}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Engine]:
    found: list[Engine] = []

    def open_engine(model: Model, *, engine: str | None, threads: int, device: str, features: bool) -> Engine:
        assert model is MODEL
        found.append(Engine(threads))
        return found[-1]

    monkeypatch.setattr(engines, "open_engine", open_engine)
    return found


def image(color: str) -> Image.Image:
    return Image.new("RGB", (40, 40), color)


def test_it_is_opened_once_and_asked_often(opened: list[Engine]) -> None:
    with Predictor(MODEL, threads=1) as predictor:
        assert predictor.spec is SPEC
        for color in ("red", "blue", "#0f0"):
            (answer,) = predictor(image(color))
            assert answer.top[0].name in (color, "green")
        assert [answer.top[0].name for answer in predictor.iter([image("red"), image("blue")])] == ["red", "blue"]
        assert len(predictor(image("red"), top=2)[0].top) == 2
    assert len(opened) == 1
    assert opened[0].runs == 6


def test_what_answers_is_made_once_for_an_engine(opened: list[Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []

    class Counted(Worker):
        def __init__(self, engine: Any, *given: Any, **more: Any) -> None:
            made.append(engine)
            super().__init__(engine, *given, **more)

    monkeypatch.setattr("fusiform.prediction.predictor.Worker", Counted)
    with Predictor(MODEL, threads=2) as predictor:
        for _ in range(3):
            assert len(list(predictor.iter([image("red")] * 40))) == 40
    assert sorted(map(id, made)) == sorted(map(id, opened))


def test_many_threads_may_ask_it_at_once(opened: list[Engine]) -> None:
    predictor = Predictor(MODEL, threads=3)
    wrong: list[object] = []

    def ask(color: str, name: str) -> None:
        for _ in range(10):
            answer = predictor(image(color))[0]
            if answer.top[0].name != name:
                wrong.append(answer)

    def ask_for_many() -> None:
        names = [answer.top[0].name for answer in predictor([image("red"), image("blue")] * 20)]
        if names != ["red", "blue"] * 20:
            wrong.append(names)

    threads = [threading.Thread(target=ask, args=("red", "red")) for _ in range(4)]
    threads += [threading.Thread(target=ask, args=("blue", "blue")) for _ in range(4)]
    threads += [threading.Thread(target=ask_for_many) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    # No more engines of a width than there are cores for.
    for width in {engine.threads for engine in opened}:
        assert sum(engine.threads == width for engine in opened) <= 3 // width


def test_one_image_alone_gets_all_cores_and_many_share_them(opened: list[Engine]) -> None:
    predictor = Predictor(MODEL, threads=2)
    predictor(image("red"))
    assert [engine.threads for engine in opened] == [2]
    predictor([image("red")] * 40)
    assert sorted({engine.threads for engine in opened}) == [1, 2]


def test_what_is_wrong_is_told_when_it_is_opened_or_asked(opened: list[Engine], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"absent\.tflite: no such model file"):
        Predictor("absent.tflite")
    with pytest.raises(UsageError, match="no engine 'abacus'"):
        Predictor(MODEL, engine="abacus")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="batch must be at least 1, got 0"):
        Predictor(MODEL, batch=0)
    with pytest.raises(UsageError, match="2 labels for the 3 classes"):
        Predictor(MODEL, labels=["a", "b"])
    (tmp_path / "labels.txt").write_text("rot\ngrün\nblau\n", encoding="utf-8")
    predictor = Predictor(MODEL, labels=tmp_path / "labels.txt")
    assert predictor(image("red"))[0].top[0].name == "rot"
    with pytest.raises(UsageError, match="score is for detection"):
        predictor(image("red"), score=0.5)
    with pytest.raises(UsageError, match="top must be at least 1, got 0"):
        predictor.iter(image("red"), top=0)


def test_an_engine_that_cannot_be_opened_is_told_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> Engine:
        raise WeightsError("model.tflite: LiteRT cannot run it")

    monkeypatch.setattr(engines, "open_engine", fail)
    taken: list[str] = []

    def sources() -> Iterator[Image.Image]:
        for color in ("red", "blue"):
            taken.append(color)
            yield image(color)

    predictor = Predictor(MODEL, threads=2)
    with pytest.raises(WeightsError, match="cannot run it"):
        predictor.iter(sources())
    monkeypatch.setattr(engines, "open_engine", lambda *_, threads, **__: Engine(threads))
    assert predictor(image("red"))[0].top[0].name == "red"


def test_it_goes_on_after_it_was_closed(opened: list[Engine]) -> None:
    predictor = Predictor(MODEL, threads=1)
    predictor(image("red"))
    predictor.close()
    predictor(image("red"))
    assert len(opened) == 2
    assert repr(predictor) == "<Predictor of mobilenet_v2_x1_0, classification, 3 classes, 32 px, 1 core>"


def test_the_real_model_answers_as_predict_does() -> None:
    examples = Path(__file__).parents[2] / "examples"
    with fusiform.Predictor(fusiform.open_model("shufflenet_v2_x1_0"), threads=2) as predictor:
        assert predictor(examples) == fusiform.predict(examples, "shufflenet_v2_x1_0", threads=2)
