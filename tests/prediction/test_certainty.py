"""What a calibrated classifier says of an image: sets, the unknown, and how that is written down."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import fusiform
from fusiform.cli import commands
from fusiform.errors import UsageError
from fusiform.prediction.answer import Answer
from fusiform.prediction.formats import promise
from fusiform.tasks.classification import Classification, Guess
from fusiform.zoo.model import open_model


@pytest.fixture(name="model")
def model_fixture(calibrated: Path) -> Path:
    return calibrated


@pytest.fixture(name="images")
def images_fixture(noise_and_stripes: Path) -> Path:
    return noise_and_stripes


def run(*words: str | Path) -> Any:
    result = CliRunner().invoke(commands, [str(word) for word in words], prog_name="fusiform")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def test_answers_have_a_set_and_are_known_or_not(model: Path, images: Path) -> None:
    noise, strange = fusiform.predict(images, model)
    for answer in (noise, strange):
        found = answer.classification
        assert found is not None
        assert found.certain == 0.95
        assert found.names
        assert found.names[0] == found.top[0]
        assert found.p_known is not None
        assert answer.features is None  # which are nobody's question
    assert noise.classification is not None
    assert noise.classification.known
    assert strange.classification is not None
    assert strange.classification.known is False
    assert strange.classification.p_known == pytest.approx(1 / 151)


def test_more_certain_sets_are_no_smaller(model: Path, images: Path) -> None:
    sizes = []
    for certain in (0.5, 0.9, 0.99):
        found = fusiform.predict(images / "noise.png", model, certain=certain)[0].classification
        assert found is not None
        assert found.names is not None
        assert found.certain == certain
        sizes.append(len(found.names))
    assert sizes == sorted(sizes)


def test_promises_that_cannot_be_made_are_refused(model: Path, images: Path, tmp_path: Path) -> None:
    for certain in (0.0, 0.999, 1.0):
        with pytest.raises(UsageError, match="images of its calibration can promise"):
            fusiform.predict(images, model, certain=certain)
    bare = tmp_path / "bare.tflite"
    spec = open_model(model).spec.replace(certainty=None)
    from fusiform.zoo.restamp import restamp

    bare.write_bytes(restamp(open_model(model), spec))
    with pytest.raises(UsageError, match="certain is for calibrated models"):
        fusiform.predict(images, bare, certain=0.9)
    assert set(fusiform.predict(images, bare)[0].to_dict()) == {"path", "error", "top"}


def test_it_is_written_in_every_format(model: Path, images: Path, valid: Callable[..., Any]) -> None:
    text = run("predict", images, "--model", model, "--format", "json").stdout
    noise, strange = valid(text)["predictions"]
    assert (noise["known"], strange["known"], strange["certain"]) == (True, False, 0.95)
    assert strange["set"][0] == strange["top"][0]
    lines = run("predict", images, "--model", model, "--format", "jsonl", "--certain", "90%").stdout.splitlines()
    assert [json.loads(line)["certain"] for line in lines] == [0.9, 0.9]
    rows = run("predict", images, "--model", model, "--format", "csv", "--top", "1").stdout.splitlines()
    assert rows[0] == "path,rank,index,name,probability,set,known,p_known,error"
    assert rows[2].split(",")[-3] == "false"
    assert "unknown, nearest: class " in run("predict", images / "stripes.png", "--model", model).stdout
    record = fusiform.predict(images, model, top=1).rows()[1]
    assert record["known"] is False
    assert "unknown, nearest" in repr(fusiform.predict(images / "stripes.png", model)[0])
    assert "unknown, nearest" in fusiform.predict(images / "stripes.png", model)[0]._repr_html_()


@pytest.mark.parametrize("engine", ["litert", "torch", "onnxruntime"])
def test_every_engine_says_the_same(model: Path, images: Path, engine: Any) -> None:
    pytest.importorskip(engine.replace("litert", "ai_edge_litert"))
    first, second = fusiform.predict(images, model), fusiform.predict(images, model, engine=engine)
    for one, two in zip(first, second, strict=True):
        assert one.classification is not None
        assert two.classification is not None
        assert one.classification.known == two.classification.known
        assert [n.name for n in one.classification.names or ()] == [n.name for n in two.classification.names or ()]


def answered(names: int, *, p_known: float | None = 0.5) -> Answer:
    guesses = tuple(Guess(k, f"class {k}", 0.5 / (k + 1)) for k in range(6))
    return Answer("a.jpg", Classification("a.jpg", guesses, guesses[:names], p_known, 0.95))


def test_what_people_are_told() -> None:
    assert promise(answered(1)) == "sure: class 0"
    assert promise(answered(2)) == "unsure: class 0 or class 1"
    assert promise(answered(4)) == "unsure: class 0, class 1, class 2 or class 3"
    assert promise(answered(6)) == "unsure: class 0, class 1, class 2 or one of 3 more"
    assert promise(answered(2, p_known=0.05)) == "unknown, nearest: class 0"
    assert promise(answered(2, p_known=None)) == "unsure: class 0 or class 1"
    assert promise(Answer("a.jpg", Classification("a.jpg", (Guess(0, "class 0", 1.0),)))) is None
    assert promise(Answer("a.jpg", error="gone")) is None


@pytest.mark.parametrize("text", ["0", "1", "100%", "0%", "-5%", "much", "95", "nan", ""])
def test_what_is_no_share_is_refused(text: str) -> None:
    result = run("predict", "a.jpg", "--certain", text)
    assert result.exit_code == 2
    assert "is no share: write 99% or 0.99" in " ".join(result.stderr.split())


def test_images_in_memory_too(model: Path, images: Path) -> None:
    data = (images / "stripes.png").read_bytes()
    with fusiform.Predictor(model, threads=1) as predictor:
        found = predictor(data, certain=0.9)[0].classification
    assert found is not None
    assert (found.known, found.certain) == (False, 0.9)
