"""What a classifier that decides by a rule says: the same by every engine, format, server and client."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import fusiform
from fusiform.certainty import Certainty, Decision, Sets, Table, Threshold
from fusiform.cli import commands
from fusiform.drawing import overlay
from fusiform.graph.build import build_graph
from fusiform.graph.tflite import to_tflite
from fusiform.prediction.answer import Answer
from fusiform.prediction.formats import promise
from fusiform.prediction.sheet import Drawing
from fusiform.prediction.streams.saving import drawn
from fusiform.spec import ModelSpec
from fusiform.tasks.classification import Classification, Guess
from fusiform.zoo.model import open_model
from fusiform.zoo.restamp import restamp

SETS = Sets("lac", Table(9, tuple(range(1, 10)), tuple(k / 10 for k in range(1, 10))), 0.8)
RARE = Decision(costs=((0, 1, 1), (1, 0, 1), (10_000, 10_000, 0)))
"""What is missed of class 2 costs much: it is always the answer."""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "noise.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def ruled(
    tmp_path_factory: pytest.TempPathFactory, small_spec: Callable[..., Any], lived_in_state: Callable[..., Any]
) -> Callable[[Decision | None], Path]:
    """A model of three classes that decides by a rule, the last class the least likely of all on noise."""
    spec = small_spec("mobilenet_v2", classes=3)
    folder = tmp_path_factory.mktemp("ruled")
    bare = folder / "bare.tflite"
    state = lived_in_state(spec)
    state["classifier.1.bias"] = state["classifier.1.bias"] + np.array([2, 1, -3], np.float32)
    bare.write_bytes(to_tflite(build_graph(spec, state)))

    def make(decision: Decision | None) -> Path:
        path = folder / f"{abs(hash(decision))}.tflite"
        certainty = Certainty(SETS, None, 9, "noise", decision=decision)
        path.write_bytes(restamp(open_model(bare), spec.replace(certainty=certainty)))
        return path

    return make


def top_of(model: Path, image: Path, **asked: Any) -> Classification:
    found = fusiform.predict(image, model, **asked)[0].classification
    assert found is not None
    return found


def test_the_class_of_the_rule_is_the_first(ruled: Callable[..., Path], image: Path) -> None:
    plain, found = top_of(ruled(None), image), top_of(ruled(RARE), image)
    assert (plain.rule, plain.decided) == (None, None)
    assert plain.top[0].index != 2
    assert (found.rule, found.decided) == ("costs", found.top[0])
    assert found.top[0].index == 2
    others = [guess.index for guess in plain.top if guess.index != 2]
    assert [guess.index for guess in found.top] == [2, *others]
    assert found.names == plain.names  # sets are of probabilities alone
    assert [guess.index for guess in top_of(ruled(RARE), image, top=1).top] == [2]
    assert [guess.index for guess in top_of(ruled(RARE), image, top=2).top] == [2, others[0]]


def test_no_class_is_said(ruled: Callable[..., Path], image: Path) -> None:
    plain = top_of(ruled(None), image)
    never = Decision(tuple(Threshold(k, 1.0, 0.9) for k in range(3)))
    found = top_of(ruled(never), image)
    assert (found.rule, found.decided) == ("thresholds", None)
    assert found.top == plain.top
    record = fusiform.predict(image, ruled(never))[0].to_dict()
    assert (record["rule"], record["decided"]) == ("thresholds", None)


@pytest.mark.parametrize("engine", ["litert", "torch", "onnxruntime"])
@pytest.mark.parametrize("decision", [RARE, Decision((Threshold(2, 0.001),)), Decision((Threshold(0, 1.0),))])
def test_every_engine_decides_the_same(
    ruled: Callable[..., Path], image: Path, engine: Any, decision: Decision
) -> None:
    pytest.importorskip({"litert": "ai_edge_litert"}.get(engine, engine))
    model = ruled(decision)
    first, second = top_of(model, image), top_of(model, image, engine=engine)
    assert first.rule == second.rule == decision.rule
    assert [guess.index for guess in first.top] == [guess.index for guess in second.top]
    assert (first.decided is None) == (second.decided is None)


def run(*words: str | Path) -> str:
    result = CliRunner().invoke(commands, [str(word) for word in words], prog_name="fusiform")
    assert result.exit_code == 0, result.output
    return result.stdout


def test_it_is_written_in_every_format(ruled: Callable[..., Path], image: Path, valid: Callable[..., Any]) -> None:
    model = ruled(RARE)
    (said,) = valid(run("predict", image, "--model", model, "--format", "json"))["predictions"]
    assert (said["rule"], said["decided"]) == ("costs", {"index": 2, "name": "class 2"})
    assert said["top"][0]["name"] == "class 2"
    (line,) = run("predict", image, "--model", model, "--format", "jsonl").splitlines()
    assert json.loads(line) == said
    rows = list(csv.DictReader(io.StringIO(run("predict", image, "--model", model, "--format", "csv"))))
    assert list(rows[0])[-3:] == ["rule", "decided", "error"]
    assert {(row["rule"], row["decided"]) for row in rows} == {("costs", "class 2")}
    assert rows[0]["name"] == "class 2"
    assert "  decided by costs: class 2; " in run("predict", image, "--model", model)
    row = fusiform.predict(image, model).rows()[0]
    assert (row["rule"], row["decided"]) == ("costs", "class 2")
    empty = csv.DictReader(
        io.StringIO(run("predict", image.with_name("gone.png"), image, "--model", model, "--format", "csv"))
    )
    assert [each["decided"] for each in empty][:1] == [""]


def test_what_people_are_told() -> None:
    guesses = tuple(Guess(k, f"class {k}", 0.5 / (k + 1)) for k in range(3))
    found = Classification("a.jpg", guesses, guesses[:2], None, 0.95, "thresholds", None)
    assert promise(Answer("a.jpg", found)) == "decided by thresholds: no class; unsure: class 0 or class 1"
    first = dataclasses.replace(found, top=(guesses[2], *guesses[:2]), decided=guesses[2], rule="costs")
    assert promise(Answer("a.jpg", first)) == "decided by costs: class 2; unsure: class 0 or class 1"
    strange = dataclasses.replace(first, p_known=0.01)
    assert promise(Answer("a.jpg", strange)) == "decided by costs: class 2; unknown, nearest: class 0"
    with pytest.raises(ValueError, match="must be the first"):
        dataclasses.replace(found, decided=guesses[2])
    with pytest.raises(ValueError, match="likeliest first"):
        dataclasses.replace(first, top=(guesses[2], guesses[1], guesses[0]))


def test_parts_keep_it(ruled: Callable[..., Path], image: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    fusiform.predict_parts(str(image), tmp_path / "lines", ruled(RARE), part=1, format="jsonl", threads=1)
    (file,) = (tmp_path / "lines").glob("part-*.jsonl")
    assert json.loads(file.read_text(encoding="utf-8"))["decided"]["index"] == 2
    fusiform.predict_parts(str(image), tmp_path / "table", ruled(RARE), part=1, format="parquet", threads=1)
    (file,) = (tmp_path / "table").glob("part-*.parquet")
    (decided,) = parquet.read_table(file).column("decided").to_pylist()
    assert decided["name"] == "class 2"


def test_drawings_say_where_there_is_no_class(monkeypatch: pytest.MonkeyPatch) -> None:
    guesses = tuple(Guess(k, f"class {k}", 0.5 / (k + 1)) for k in range(3))
    none = Answer("a.jpg", Classification("a.jpg", guesses, guesses[:2], None, 0.95, "thresholds", None))
    given = Answer("a.jpg", Classification("a.jpg", guesses, guesses[:2], None, 0.95, "thresholds", guesses[0]))
    assert (none.prefix, given.prefix, Answer("a.jpg", error="gone").prefix) == ("no class: ", "", "")
    said: list[str] = []
    monkeypatch.setattr(overlay, "draw_names", lambda image, names: said.extend(text for _, text in names))
    drawn(Image.new("RGB", (8, 8)), none)
    drawn(Image.new("RGB", (8, 8)), given)
    assert said[0] == "no class: class 0 50%"
    assert said[3] == "class 0 50%"
    spec = ModelSpec("mobilenet_v2", 1.0, ("class 0", "class 1", "class 2"))
    drawing = Drawing(spec)
    drawing.add(none)
    drawing.add(given)
    assert [tile.caption for tile in drawing.tiles] == ["no class: 50.0%  class 0", "50.0%  class 0"]
