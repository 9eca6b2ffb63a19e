from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fusiform import engines
from fusiform.data.dataset import DataSet, Sample, Split
from fusiform.errors import UsageError, WeightsError
from fusiform.evaluation.calibration import calibrate, calibration_text, check_calibration, divide
from fusiform.evaluation.classification import ClassificationEvaluation, answers
from fusiform.evaluation.explanation import examples, explain, open_network, overlay
from fusiform.evaluation.job import evaluate
from fusiform.evaluation.promises import Seen, measure_promises, promise_figures
from fusiform.graph.build import build_graph
from fusiform.graph.tflite import to_tflite
from fusiform.spec import ModelSpec, Preprocess
from fusiform.zoo.model import open_model

COLORS = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200), "black": (0, 0, 0)}
SPEC = ModelSpec(
    "mobilenet_v2", 0.35, ("red", "green", "blue", "grey"), input_size=32, preprocess=Preprocess(resize=32, crop=32)
)
SMALLEST = float(np.finfo(np.float32).tiny)
LOGITS = {"red": [5.0, 2, 0, 0], "green": [2.0, 4, 0, 0], "blue": [0.0, 3, 2, 0], "black": [0.0, 0, 0, 1]}


class ColorEngine:
    """Answers by the colour of the first pixel; takes blue for green."""

    spec = SPEC

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        names = [next(n for n, c in COLORS.items() if tuple(pixels[0, 0]) == c) for pixels in batch]
        return {self.spec.output: np.float32([LOGITS[name] for name in names])}


@pytest.fixture(autouse=True)
def color_engine(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "shared_data" not in request.fixturenames:
        monkeypatch.setattr(engines, "open_engine", lambda *_, **__: ColorEngine())


@pytest.fixture
def model(tmp_path: Path, lived_in_state: Callable[..., Any]) -> Path:
    path = tmp_path / "colors.tflite"
    path.write_bytes(to_tflite(build_graph(SPEC, lived_in_state(SPEC))))
    return path


def sample(folder: Path, color: str, label: int, name: str = "") -> Sample:
    path = folder / f"{name or color}.png"
    Image.new("RGB", (40, 36), COLORS[color]).save(path)
    return Sample(path, label)


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    """Two blues, of which one looks black, a green and a red; in an order that is not the model's."""
    return DataSet(
        tmp_path,
        ("blue", "green", "red"),
        {
            "train": (sample(tmp_path, "red", 2, "train"),),
            "val": (
                sample(tmp_path, "blue", 0),
                sample(tmp_path, "black", 0, "night"),
                sample(tmp_path, "green", 1),
                sample(tmp_path, "red", 2),
            ),
        },
    )


def probability(color: str, k: int) -> float:
    odds = np.exp(LOGITS[color])
    return float(odds[k] / odds.sum())


def test_figures_by_hand(model: Path, data: DataSet) -> None:
    made = evaluate(model, data).report()
    figures = made.figures
    expected = {"split": "val", "images": 4, "skipped": 0, "classes": 3, "model_classes": 4, "top1": 0.5, "top5": 1.0}
    assert {name: figures[name] for name in expected} == expected
    # Wilson for 2 of 4 by hand: centre 0.5, half z sqrt(1/16 + z^2/64) / (1 + z^2/4).
    assert (figures["top1_low"], figures["top1_high"]) == pytest.approx((0.150039, 0.849961), abs=2e-6)
    assert figures["top5_high"] == 1
    assert figures["balanced_accuracy"] == pytest.approx(2 / 3, abs=1e-6)
    assert figures["macro_f1"] == pytest.approx((0 + 2 / 3 + 1) / 3, abs=1e-6)
    losses = [probability("blue", 2), probability("black", 2), probability("green", 1), probability("red", 0)]
    assert figures["nll"] == pytest.approx(-np.log(losses).mean(), rel=1e-5)
    sure = [(probability("blue", 1), 0), (probability("black", 3), 0)]
    sure += [(probability("green", 1), 1), (probability("red", 0), 1)]
    # 0.703 and 0.854, 0.475 and 0.946: each in a bin of its own.
    assert figures["ece"] == pytest.approx(sum(abs(right - p) for p, right in sure) / 4, rel=1e-5)
    assert figures["temperature"] == 1
    assert [row["class"] for row in made.rows] == ["blue", "green", "red"]
    assert [row["recall"] for row in made.rows] == [0, 1, 1]
    assert [row["precision"] for row in made.rows] == [0, 0.5, 1]


def test_confusion_pairs_and_mistakes(model: Path, data: DataSet) -> None:
    result = evaluate(model, data)
    content = result.to_dict()
    assert content["confusion"] == {
        "columns": ["blue", "green", "red", "other"],
        "counts": [[0, 1, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0]],
    }
    assert result.most_confused() == [
        {"true": "blue", "predicted": "green", "images": 1, "share": 0.5},
        {"true": "blue", "predicted": "grey", "images": 1, "share": 0.5},
    ]
    assert content["most_confused"] == result.most_confused()
    first, second = result.mistakes()
    assert (first["predicted"], second["predicted"]) == ("green", "grey")  # the more confident mistake first
    assert first["confidence"] == pytest.approx(probability("blue", 1), rel=1e-5)
    assert first["probability"] == pytest.approx(probability("blue", 2), rel=1e-5)
    assert first["path"] == str(data.source / "blue.png")
    assert set(content) == {
        *("schema", "title", "figures", "rows", "confusion", "most_confused", "mistakes", "skipped_images", "notes"),
        *("comparison", "calibration", "stress", "slipped", "curves", "decision", "test_use"),
    }


@pytest.mark.parametrize(
    ("splits", "asked", "chosen", "pictures"),
    [
        (("train", "val", "test"), None, "test", 1),
        (("train", "val"), None, "val", 1),
        (("all",), None, "all", 1),
        (("train",), None, "train", 1),
        (("train", "val", "test"), "train", "train", 1),
        (("train", "val", "test"), "all", "all", 3),
    ],
)
def test_split(model: Path, tmp_path: Path, splits: Any, asked: Any, chosen: str, pictures: int) -> None:
    data = DataSet(tmp_path, ("red",), {split: (sample(tmp_path, "red", 0, split),) for split in splits})
    result = evaluate(model, data, split=asked)
    assert (result.split, len(result.samples)) == (chosen, pictures)


def test_a_split_that_is_not_there_is_told(model: Path, data: DataSet) -> None:
    with pytest.raises(UsageError, match="no pictures for --split test; there are val, train"):
        evaluate(model, data, split="test")
    with pytest.raises(UsageError, match="there are no pictures in it"):
        evaluate(model, DataSet(data.source, ("red",), {"all": ()}))


@pytest.mark.parametrize(("threads", "batch"), [(1, 1), (1, 4), (3, 1), (2, 5)])
def test_unreadable_pictures_are_listed_and_not_counted(model: Path, tmp_path: Path, threads: int, batch: int) -> None:
    damaged, missing = Sample(tmp_path / "damaged.jpg", 0), Sample(tmp_path / "missing.jpg", 0)
    damaged.file.write_bytes(b"\xff\xd8\xff no")
    colors = ["red", "green", "blue", "black"] * 6
    samples = [sample(tmp_path, color, 0, f"{k}") for k, color in enumerate(colors)]
    samples[3], samples[20] = damaged, missing
    found = answers(model, samples, threads=threads, batch=batch)
    assert list(found.errors) == [3, 20]
    assert "damaged.jpg" in found.errors[3]
    assert "missing.jpg" in found.errors[20]
    for k, color in enumerate(colors):
        if k in found.errors:
            assert np.isnan(found.values[k]).all()
        else:
            assert found.values[k].tolist() == LOGITS[color]

    result = evaluate(model, DataSet(tmp_path, ("red",), {"all": tuple(samples)}), threads=threads, batch=batch)
    assert len(result.samples) == len(result.truth) == len(result.logits) == 22
    assert len(result.skipped) == 2
    assert result.report().figures["top1"] == pytest.approx(5 / 22, abs=1e-6)


def test_no_readable_picture_is_an_error(model: Path, tmp_path: Path) -> None:
    data = DataSet(tmp_path, ("red",), {"all": (Sample(tmp_path / "missing.jpg", 0),)})
    with pytest.raises(UsageError, match=r"none of the 1 pictures of all could be read: .*missing\.jpg"):
        evaluate(model, data)
    assert answers(model, []).values.shape == (0, 4)


def test_progress_counts_every_picture(model: Path, data: DataSet) -> None:
    from contextlib import contextmanager

    told: list[int] = []

    @contextmanager
    def tracker(*, total: int | None, label: str, unit: str = "images") -> Any:
        class Bar:
            def advance(self, amount: int = 1, note: str = "") -> None:
                told.append(amount)

        if total is not None:
            told.append(-total)
        yield Bar()

    evaluate(model, data, progress=tracker)
    assert told[0] == -4
    assert sum(told) == 0


def test_what_an_engine_raises_reaches_the_caller(model: Path, data: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(ColorEngine):
        def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
            raise WeightsError("broken")

    monkeypatch.setattr(engines, "open_engine", lambda *_, **__: Broken())
    with pytest.raises(WeightsError, match="broken"):
        answers(model, data.splits["val"])
    for value in (np.nan, np.inf):
        monkeypatch.setattr(Broken, "run", lambda _, batch, v=value: {"logits": np.full((len(batch), 4), v)})
        with pytest.raises(WeightsError, match="not finite"):
            answers(model, data.splits["val"])


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"threads": 0}])
def test_wrong_numbers_are_refused(model: Path, data: DataSet, wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="must be at least 1, got 0"):
        answers(model, data.splits["val"], **wrong)  # type: ignore[arg-type]


def test_probabilities_are_measured_as_they_are(
    tmp_path: Path, data: DataSet, lived_in_state: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = SPEC.replace(output="probabilities", temperature=2.0)  # which the softmax of the file has divided by
    path = tmp_path / "softmax.tflite"
    path.write_bytes(to_tflite(dataclasses.replace(build_graph(spec, lived_in_state(spec)), spec=spec)))
    given = {"red": [0.5, 0.5, 0, 0], "green": [0.2, 0.8, 0, 0], "blue": [0, 0, 1, 0], "black": [0, 0, 0, 1.0]}

    class Softmax(ColorEngine):
        def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
            names = [next(n for n, c in COLORS.items() if tuple(pixels[0, 0]) == c) for pixels in batch]
            return {"probabilities": np.float32([given[name] for name in names])}

    Softmax.spec = spec
    monkeypatch.setattr(engines, "open_engine", lambda *_, **__: Softmax())
    result = evaluate(path, data)
    assert result.confidence == pytest.approx([1, 1, 0.8, 0.5])
    assert result.right.tolist() == [True, False, True, True]
    assert result.logits[-1].tolist() == pytest.approx([2 * np.log(0.5)] * 2 + [2 * np.log(SMALLEST)] * 2, abs=1e-4)
    check_calibration(open_model(path), tmp_path / "out.tflite")


def make(
    name: str, spec: ModelSpec, outputs: tuple[int, ...], samples: tuple[Sample, ...], truth: Any, logits: Any
) -> ClassificationEvaluation:
    return ClassificationEvaluation(
        model=name,
        spec=spec,
        engine="litert",
        source="data",
        split="all",
        outputs=outputs,
        samples=samples,
        truth=truth,
        logits=logits,
    )


def test_equal_names_are_told_apart() -> None:
    spec = SPEC.replace(labels=("crane", "owl", "crane", "wren"), label_ids=("n1", "n2", "n3", "n4"))
    empty = np.zeros((0, 4), np.float32)
    result = make("m", spec, (0, 2), (), np.zeros(0, np.int64), empty)
    assert result.names == ("crane (n1)", "owl", "crane (n3)", "wren")


def with_logits(name: str, logits: Any, truth: list[int], folder: Path) -> ClassificationEvaluation:
    samples = tuple(Sample(folder / f"{k}.png", 0) for k in range(len(truth)))
    return make(name, SPEC, (0, 1, 2, 3), samples, np.array(truth), np.asarray(logits, np.float32))


def test_comparison_by_hand(tmp_path: Path) -> None:
    right, wrong = [1.0, 0, 0, 0], [0.0, 1, 0, 0]
    # Both right 3, only the first 9, only the second 1, neither 2.
    first = with_logits("first", [right] * 12 + [wrong] * 3, [0] * 15, tmp_path)
    second = with_logits("second", [right] * 3 + [wrong] * 9 + [right] + [wrong] * 2, [0] * 15, tmp_path)
    found = first.compare(second)
    assert (found.both, found.only_model, found.only_other, found.neither) == (3, 9, 1, 2)
    assert (found.top1, found.other_top1) == pytest.approx((12 / 15, 4 / 15))
    assert found.p == pytest.approx(2 * (1 + 10) / 2**10)
    assert found.difference.value == pytest.approx(8 / 15)
    assert found.sentence.startswith("first is right more often, by 53.3 percentage points")
    assert found.sentence.endswith("the difference is real (p = 0.021)")
    turned = second.compare(first)
    assert turned.sentence == found.sentence
    assert "cannot be told from chance (p = 1)" in first.compare(first).sentence


def test_models_without_common_pictures_cannot_be_compared(tmp_path: Path) -> None:
    first = with_logits("first", [[1, 0, 0, 0]], [0], tmp_path / "a")
    with pytest.raises(UsageError, match="no picture in common"):
        first.compare(with_logits("second", [[1, 0, 0, 0]], [0], tmp_path / "b"))


def overconfident(model: Path, folder: Path) -> ClassificationEvaluation:
    """Always the same margin of 4, right for three quarters in both halves: the temperature is 4 / ln(3 * 3)."""
    logits = [[4.0, 0, -99, -99]] * 80
    truth = [1 if k % 8 in (0, 1) else 0 for k in range(80)]
    made = with_logits(str(model), logits, truth, folder)
    assert made.right.mean() == 0.75
    return made


def told(result: ClassificationEvaluation, rows: slice) -> tuple[Seen, NDArray[np.int64]]:
    """Some of the answers, and the true classes."""
    return result.seen.part(rows), result.truth[rows]


def test_calibration_writes_a_copy_with_the_temperature(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "calibrated.tflite"
    result = overconfident(model, tmp_path)
    reported = result.logits[40:], result.truth[40:]
    found, notes = calibrate(open_model(model), *told(result, slice(40)), reported, out, source="data", fitted_on="val")
    assert (found.temperature, found.refused) == (pytest.approx(4 / np.log(3), rel=1e-6), "")
    assert found.ece_before == pytest.approx(result.confidence[0] - 0.75)
    assert found.ece_after == pytest.approx(0, abs=1e-6)
    assert found.nll_before > found.nll_after == pytest.approx(-0.75 * np.log(0.75) - 0.25 * np.log(0.25), rel=1e-5)
    assert (found.fitted_on, found.pictures, found.set_score, found.detected_by) == ("val", 40, "lac", None)
    assert notes == ()
    copy = open_model(out).spec
    assert copy.temperature == pytest.approx(found.temperature)
    assert copy.certainty is not None
    assert copy.certainty.sets.table.count == copy.certainty.images == 40
    assert "temperature and promises fitted on 40 pictures of data (val)" in copy.provenance
    assert copy.replace(temperature=1.0, provenance="", certainty=None) == SPEC
    assert "they can promise up to 97.6%" in calibration_text(found)


def test_a_model_that_cannot_hold_a_calibration_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"end its name in \.tflite"):
        check_calibration(open_model(model), tmp_path / "calibrated.onnx")


def test_a_temperature_that_does_not_fit_is_left_out_and_the_promises_are_written(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "calibrated.tflite"
    perfect = with_logits(str(model), [[1.0, 0, 0, 0]] * 9, [0] * 9, tmp_path)
    reported = perfect.logits, perfect.truth
    found, _ = calibrate(open_model(model), perfect.seen, perfect.truth, reported, out, source="data", fitted_on="val")
    assert (found.temperature, found.ece_after) == (1.0, found.ece_before)
    assert "The temperature stays 1.000: no temperature fits 9 images of which 9 are named right" in calibration_text(
        found
    )
    copy = open_model(out).spec
    assert (copy.temperature, copy.certainty is None) == (1.0, False)
    assert "; promises fitted on 9" in f"; {copy.provenance}"


def test_promises_by_hand(model: Path, tmp_path: Path) -> None:
    """Of 40 pictures 30 have the first name right, and the second is right of the others: two names for 95 %."""
    result = overconfident(model, tmp_path)
    reported = result.logits[40:], result.truth[40:]
    found, _ = calibrate(
        open_model(model),
        *told(result, slice(40)),
        reported,
        tmp_path / "calibrated.tflite",
        source="data",
        fitted_on="val",
    )
    seen, truth = told(result, slice(40, 80))
    promises = measure_promises(found.spec, seen, truth, None)
    assert promises.coverage.value == 1
    assert promises.set_size == (2, 2, 2)
    assert promises.false_unknown == (None, None, None)
    whole = result.including(promises=promises)
    figures = promise_figures(promises)
    assert (figures["certain"], figures["coverage"], figures["caught"]) == (0.95, 1.0, None)
    assert whole.headlines()["names in a set"] == "2.00 (95 % interval 2.00 to 2.00)"
    assert promise_figures(None)["certain"] is None
    bare = [line for line in result.headlines() if "promised" in line]
    assert bare == []


def test_what_a_temperature_is_fitted_on_is_never_what_the_report_is_about() -> None:
    def samples(split: str, count: int) -> tuple[Sample, ...]:
        return tuple(Sample(Path(split, f"{i}.png"), i % 3) for i in range(count))

    three: dict[Split, tuple[Sample, ...]] = {"train": samples("a", 9), "val": samples("b", 8), "test": samples("c", 7)}
    data = DataSet(Path("data"), ("x", "y", "z"), three)
    for split, reported, fitted in ((None, "test", "val"), ("val", "val", "test"), ("train", "train", "val")):
        found = divide(data, cast("Split | None", split))
        assert (found.reported_split, found.fitted_split, found.fitted_on) == (reported, fitted, fitted)
        assert found.reported.splits is found.fitted.splits is three
    for splits, split, fitted_on in (
        ({"all": three["val"]}, None, "half of all"),
        ({"train": three["train"], "val": three["val"]}, None, "half of val"),
        (three, "all", "half of all"),
    ):
        halved = divide(DataSet(Path("data"), ("x", "y", "z"), cast("Any", splits)), cast("Split | None", split))
        one, other = halved.fitted.splits[halved.fitted_split], halved.reported.splits[halved.reported_split]
        assert not set(one) & set(other)
        assert abs(len(one) - len(other)) <= 1
        assert halved.fitted_on == fitted_on
        assert f"{len(one)} of the {len(one) + len(other)} pictures (half, seed 0)" in halved.notes[0]
        for label in range(3):
            counts = [sum(sample.label == label for sample in half) for half in (one, other)]
            assert abs(counts[0] - counts[1]) <= 1
    with pytest.raises(UsageError, match="has one picture, and calibration needs others to be judged on"):
        divide(DataSet(Path("data"), ("x",), {"all": samples("a", 1)}), None)


def test_page_shows_it_all_and_escapes_names(model: Path, data: DataSet, tmp_path: Path) -> None:
    sneaky = sample(tmp_path, "blue", 1, "<b>bold")
    result = evaluate(model, DataSet(tmp_path, data.classes, {"val": (*data.splits["val"], sneaky)}, ("a <note>",)))
    path = tmp_path / "page.html"
    explained = ((Image.new("RGB", (8, 8)), "looks"),)
    result.including(comparison=result.compare(result), explained=explained).write_page(path)
    text = path.read_text(encoding="utf-8")
    assert "&lt;b&gt;bold.png" in text
    assert "<b>" not in text
    assert "a &lt;note&gt;" in text
    assert text.count("<svg") == 1 + 4  # the interval, the matrix, two curves and the calibration
    assert "blue, taken for green: 1 of 2" in text
    assert "green, recognised: 2 of 2" in text
    assert "true: blue" in text
    assert "cannot be told from chance" in text
    # Two mistakes, five unsure answers and the explained one.
    assert text.count("<img") == 2 + 5 + 1
    assert "://" not in text.replace("http://www.w3.org/2000/svg", "")


def test_page_of_many_classes_has_no_matrix(model: Path, tmp_path: Path) -> None:
    spec = SPEC.replace(labels=tuple(f"c{k}" for k in range(60)))
    samples = (sample(tmp_path, "red", 0), sample(tmp_path, "blue", 1))
    logits = np.zeros((2, 60), np.float32)
    result = make("m", spec, tuple(range(60)), samples, np.array([0, 1]), logits)
    result.write_page(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.count("<svg") == 1 + 3
    assert '<th scope="row">c1</th><td>c0</td>' in text


def test_examples_are_mistakes_and_right_ones(tmp_path: Path) -> None:
    logits = [[k, 0, 0, 0] for k in range(1, 11)]
    made = with_logits("m", logits, [0] * 7 + [1] * 3, tmp_path)
    names = [int(each.file.stem) for each in examples(made, 4)]
    assert names == [9, 8, 0, 6]
    assert len(examples(made, 99)) == 10
    assert examples(made, 0) == []


def test_overlay_is_the_picture_where_nothing_is_hot() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (28, 28, 3), np.uint8)
    assert np.array_equal(np.asarray(overlay(pixels, np.zeros((7, 7), np.float32))), pixels)
    hot = np.asarray(overlay(np.zeros((28, 28, 3), np.uint8), np.ones((7, 7), np.float32)))
    assert np.array_equal(hot, np.broadcast_to(np.rint(0.65 * np.array([252, 255, 164])), hot.shape))


def test_explained_pictures(model: Path, data: DataSet, tmp_path: Path) -> None:
    network = open_network(open_model(model))
    result = evaluate(model, data)
    stranger = sample(tmp_path, "red", 0, "stranger")
    shown = explain(result, network, [data.splits["val"][0], data.splits["val"][3], stranger])
    captions = [caption for _, caption in shown]
    assert captions[:6] == ["blue.png", "predicted: green", "true: blue", "red.png", "right: red", "stranger.png"]
    assert captions[6].removeprefix("predicted: ") in SPEC.labels
    assert len(captions) == 7
    assert all(image.size == (32, 32) for image, _ in shown)
    assert shown[0][0].getpixel((5, 5)) == COLORS["blue"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_name", "top1", "top5"), [("mobilenet_v2", 0.694, 0.914), ("shufflenet_v2_x1_0", 0.674, 0.914)]
)
def test_bundled_models_on_real_photographs(shared_data: Path, model_name: str, top1: float, top5: float) -> None:
    # The int8 networks differ by a picture or two from one processor to another.
    figures = evaluate(model_name, shared_data / "imagenet_val").report().figures
    assert figures["images"] == 500
    assert (figures["top1"], figures["top5"]) == pytest.approx((top1, top5), abs=0.007)
