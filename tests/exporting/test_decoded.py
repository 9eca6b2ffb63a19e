"""Files that decode boxes and masks themselves: what they answer, in plain runtimes and in every command."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from ai_edge_litert.interpreter import Interpreter

from fusiform.analysis import analyze
from fusiform.data.annotated import AnnotatedSample, AnnotatedSet
from fusiform.data.preprocess import crop_pixels
from fusiform.engines import Engine, open_engine
from fusiform.errors import SpecError, UsageError, WeightsError
from fusiform.evaluation.detection import find_boxes
from fusiform.evaluation.multi_scale import MultiScaleEngine
from fusiform.exporting.job import export
from fusiform.exporting.quantization.quantize import QuantizedNetwork
from fusiform.exporting.targets.base import Precision, TargetName
from fusiform.exporting.targets.targets import DECODING
from fusiform.exporting.verification.verify import verify, verify_answers
from fusiform.graph import onnx_decoded
from fusiform.graph.build import build_graph
from fusiform.graph.inputs import read_pixels
from fusiform.graph.ir import Graph
from fusiform.graph.onnx import from_onnx, to_onnx
from fusiform.graph.priors import EVALUATED_SCORE, IOU_THRESHOLD, MAX_BOXES, SCORE_THRESHOLD
from fusiform.graph.tflite import from_tflite, to_tflite
from fusiform.prediction.predictor import Predictor
from fusiform.spec import ModelSpec
from fusiform.tasks import detection, segmentation
from fusiform.tasks.detection import Detections, iou_matrix
from fusiform.training.annotation_job import AnnotatedJob
from fusiform.training.recipes import RECIPES
from fusiform.zoo.checkpoint import write_safetensors
from fusiform.zoo.info import describe
from fusiform.zoo.model import open_model

sys.path.insert(0, str(Path(__file__).parent))

from decoded_files import LABELS, PHOTOGRAPH, Healthy, decoded, make_spec, make_state, soft_picture, write

sys.path.pop(0)

RARE = 20.0
"""A background, as BACKGROUND of decoded_files is, with which few boxes score above what a file is cut at."""


def pixels_of(spec: ModelSpec, count: int = 3) -> NDArray[np.uint8]:
    return np.stack([crop_pixels(soft_picture(seed), spec.preprocess) for seed in range(count)])


def quantised(graph: Graph) -> Graph:
    network = QuantizedNetwork(graph)
    network.calibrate([torch.from_numpy(pixels_of(graph.spec, 16).transpose(0, 3, 1, 2).astype(np.float32))])
    return network.freeze()


def both(target: TargetName, graph: Graph, folder: Path, precision: Precision = "float32") -> tuple[Engine, Engine]:
    """The runtime with the network's own answers, and with the decoded ones."""
    return tuple(open_engine(write(target, each, folder, precision)) for each in (graph, decoded(graph)))  # type: ignore[return-value]


def rows(found: Detections) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Edges, scores and classes of all but slivers that clipping left, whose share of another is rounding's."""
    boxes = [b for b in found.boxes if min(b.right - b.left, b.bottom - b.top) > 0.1]
    edges = np.array([(b.left, b.top, b.right, b.bottom) for b in boxes]).reshape(-1, 4)
    return edges, np.array([b.score for b in boxes]), np.array([b.index for b in boxes], np.int64)


def check_boxes(found: Detections, expected: Detections, *, tolerance: float = 1e-4) -> None:
    """The same boxes; those of one score may come in another order."""
    (edges, scores, classes), (true_edges, true_scores, true_classes) = rows(found), rows(expected)
    assert scores.shape == true_scores.shape
    np.testing.assert_allclose(scores, true_scores, atol=tolerance)
    # Where the file has no room for more, which of those of the lowest score remains is a matter of chance.
    cut = true_scores.min() + tolerance if len(expected.boxes) == MAX_BOXES else -1.0
    same = np.abs(edges[:, None] - true_edges).max(-1) < 100 * tolerance
    same &= (classes[:, None] == true_classes) & (np.abs(scores[:, None] - true_scores) < tolerance)
    assert (same.any(0) | (true_scores < cut)).all()
    assert (same.any(1) | (scores < cut)).all()


# What the files answer


@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
@pytest.mark.parametrize("target", DECODING)
def test_boxes_are_those_of_the_network(target: TargetName, precision: Any, scores: Any, tmp_path: Path) -> None:
    spec = make_spec("detection", scores=scores)
    graph = build_graph(spec, make_state(spec))
    graph = quantised(graph) if precision == "int8" else graph
    network, file = both(target, graph, tmp_path, precision)
    pixels = pixels_of(spec, 4)
    sizes = [PHOTOGRAPH] * len(pixels)
    for score, fewest in ((SCORE_THRESHOLD, 1), (EVALUATED_SCORE, 20)):
        wanted = detection.detect(network.run(pixels), network.spec, sizes=sizes, score_threshold=score)
        given = file.run(pixels)
        found = detection.detect(given, file.spec, sizes=sizes, score_threshold=score)
        assert sum(len(each.boxes) for each in wanted) >= fewest
        # OpenVINO stores priors in half precision as well: less than a tenth of a pixel.
        tolerance = 1e-3 if (target, precision) == ("openvino", "float16") else 1e-4
        for mine, theirs in zip(found, wanted, strict=True):
            check_boxes(mine, theirs, tolerance=tolerance)
    assert {name: values.shape[1:] for name, values in given.items()} == file.spec.answers


@pytest.mark.parametrize("target", DECODING)
def test_boxes_are_clipped_before_they_suppress(target: TargetName, tmp_path: Path) -> None:
    """Many boxes reach out of the picture, some lie beside it, and some would be wider than 62 times their prior."""
    spec = make_spec("detection")
    graph = build_graph(spec, make_state(spec, codes=12.0))
    network, file = both(target, graph, tmp_path)
    pixels = pixels_of(spec)
    answers = network.run(pixels)
    codes, priors = answers["codes"][0], detection.prior_boxes(spec.input_size)
    boxes = detection.decode_boxes(codes, priors)
    sides = np.clip(boxes, 0, 1)[:, 2:] - np.clip(boxes, 0, 1)[:, :2]
    assert (sides.min(1) <= 0).sum() > 5
    assert ((boxes < 0) | (boxes > 1)).any(1).mean() > 0.2
    assert (codes[:, 2:] > 5 * np.log(1000 / 16)).sum() > 5
    sizes = [PHOTOGRAPH] * len(pixels)
    wanted = detection.detect(answers, spec, sizes=sizes, score_threshold=EVALUATED_SCORE)
    found = detection.detect(file.run(pixels), file.spec, sizes=sizes, score_threshold=EVALUATED_SCORE)
    for mine, theirs in zip(found, wanted, strict=True):
        check_boxes(mine, theirs)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("target", DECODING)
def test_masks_are_those_of_the_network(
    target: TargetName, precision: Any, align_corners: bool, tmp_path: Path
) -> None:
    spec = make_spec("segmentation", align_corners=align_corners)
    graph = build_graph(spec, make_state(spec))
    graph = quantised(graph) if precision == "int8" else graph
    network, file = both(target, graph, tmp_path, precision)
    pixels = pixels_of(spec)
    found = file.run(pixels)["probabilities"]
    assert found.shape == (len(pixels), spec.input_size, spec.input_size, len(LABELS))
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
    for logits, shares in zip(network.run(pixels)["logits"], found, strict=True):
        side = (spec.input_size, spec.input_size)
        assert (segmentation.decode(logits, spec, side).classes == shares.argmax(-1)).mean() > 0.999
        # Torch resizes by its own arithmetic, and so says more than which class is the largest.
        planes = torch.from_numpy(logits.transpose(2, 0, 1)[None])
        wide = torch.nn.functional.interpolate(planes, side, mode="bilinear", align_corners=align_corners)
        np.testing.assert_allclose(shares, wide.softmax(1)[0].permute(1, 2, 0).numpy(), atol=2e-4)


def test_tflite_in_a_plain_interpreter(tmp_path: Path) -> None:
    spec = make_spec("detection")
    graph = build_graph(spec, make_state(spec))
    path = write("litert", read_pixels(decoded(graph)), tmp_path)
    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    (given,), made = interpreter.get_input_details(), interpreter.get_output_details()
    assert [output["name"] for output in made] == ["boxes", "labels", "scores", "count"]
    assert [output["shape"].tolist() for output in made] == [[1, MAX_BOXES, 4], [1, MAX_BOXES], [1, MAX_BOXES], [1]]
    assert {output["dtype"] for output in made} == {np.float32}
    pixels = pixels_of(spec, 1)
    interpreter.set_tensor(given["index"], pixels)
    interpreter.invoke()
    boxes, labels, scores, count = (interpreter.get_tensor(output["index"])[0] for output in made)
    (wanted,) = detection.detect(
        open_engine(write("onnx", graph, tmp_path)).run(pixels),
        spec,
        sizes=[PHOTOGRAPH],
        score_threshold=EVALUATED_SCORE,
    )
    edges, true_scores, classes = rows(wanted)
    assert 0 < int(count) == len(true_scores)
    top, left, bottom, right = boxes[: int(count)].T
    width, height = PHOTOGRAPH
    np.testing.assert_allclose(
        np.stack((left * width, top * height, right * width, bottom * height), 1), edges, atol=0.01
    )
    np.testing.assert_allclose(scores[: int(count)], true_scores, atol=1e-5)
    assert labels[: int(count)].tolist() == classes.tolist()


def test_onnx_in_a_plain_session(tmp_path: Path) -> None:
    spec = make_spec("detection")
    path = write("onnx", read_pixels(decoded(build_graph(spec, make_state(spec, background=RARE)))), tmp_path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    shapes = {output.name: output.shape for output in session.get_outputs()}
    assert shapes == {"bboxes": [1, MAX_BOXES, 4], "labels": [1, MAX_BOXES], "scores": [1, MAX_BOXES]}
    assert session.get_inputs()[0].shape == [1, 96, 96, 3]
    boxes, labels, scores = session.run(None, {"pixels": pixels_of(spec, 1)})
    assert labels.dtype == np.int64
    there = scores[0] > 0
    assert 0 < there.sum() < MAX_BOXES
    assert (np.diff(scores[0]) <= 0).all()
    assert not boxes[0, ~there].any()
    assert not labels[0, ~there].any()
    information = session.get_modelmeta().custom_metadata_map
    assert information["model_info model_type"] == "SSD"
    assert information["model_info labels"] == "fox barn_owl newt ibis"
    assert float(information["model_info confidence_threshold"]) == SCORE_THRESHOLD


def test_masks_in_a_plain_session(tmp_path: Path) -> None:
    """Classes come before rows and columns, as torchvision's networks and OpenVINO's Model API have them."""
    spec = make_spec("segmentation")
    path = write("onnx", read_pixels(decoded(build_graph(spec, make_state(spec)))), tmp_path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.get_outputs()[0].shape == ["N", len(LABELS), 97, 97]
    (found,) = session.run(None, {"pixels": pixels_of(spec, 2)})
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    assert session.get_modelmeta().custom_metadata_map["model_info model_type"] == "Segmentation"


def test_rows_in_a_plain_openvino(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    spec = make_spec("detection")
    graph = read_pixels(decoded(build_graph(spec, make_state(spec, background=RARE))))
    path = write("openvino", graph, tmp_path)
    model = openvino.Core().read_model(path)
    pixels = pixels_of(spec, 2)
    settings = {"INFERENCE_PRECISION_HINT": "f32"}  # on some processors bfloat16 is the default
    answer = np.array(openvino.compile_model(model, "CPU", settings)(pixels)["detections"])
    assert answer.shape == (1, 1, 2 * MAX_BOXES, 7)
    wanted = open_engine(write("onnx", graph, tmp_path)).run(pixels)
    found = answer[0, 0]
    end = int(np.flatnonzero(found[:, 0] < 0)[0])
    for k in range(2):
        mine = found[:end][found[:end, 0] == k]
        assert len(mine) == (wanted["scores"][k] > 0).sum() > 0
        np.testing.assert_allclose(np.sort(mine[:, 2])[::-1], wanted["scores"][k][: len(mine)], atol=1e-5)
        assert ((mine[:, 3:] >= 0) & (mine[:, 3:] <= 1)).all()
    assert model.get_rt_info(["model_info", "model_type"]).value == "SSD"


@pytest.mark.parametrize("task", ["detection", "segmentation"])
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_files_are_read_back(precision: str, task: str) -> None:
    spec = make_spec(task)
    graph = build_graph(spec, make_state(spec))
    graph = decoded(quantised(graph) if precision == "int8" else graph)
    for data, again, to in ((to_tflite(graph), from_tflite, to_tflite), (to_onnx(graph), from_onnx, to_onnx)):
        back = again(data)
        assert back.spec == graph.spec
        assert to(back) == data


# Commands


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_exports(precision: Any, healthy: Healthy, samples: Sequence[AnnotatedSample], tmp_path: Path) -> None:
    folder = samples[0].file.parent
    settings: dict[str, Any] = {"calibrate": folder, "keep_float": 0} if precision == "int8" else {}
    targets = ["litert", "onnx"]
    report = export(healthy.path, targets, tmp_path, precision=precision, decoded=True, data=folder, **settings)
    assert [row["target"] for row in report.rows] == targets
    assert all(row["passed"] for row in report.rows)
    assert all(row["largest_error"] is not None for row in report.rows)
    stem = f"{healthy.spec.name}_{precision}_decoded"
    files = sorted(path.name for path in tmp_path.iterdir() if "layers" not in path.name)
    assert files == [f"{stem}{end}" for end in (".onnx", ".tflite", "_export.json")]
    for end in (".onnx", ".tflite"):
        figures = describe(tmp_path / f"{stem}{end}").figures
        assert figures["decoded"] is True
        assert figures["precision"] == precision


def test_all_targets_that_decode(detector: Healthy, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    report = export(detector.path, "all", tmp_path, precision="float16", decoded=True)
    assert [row["target"] for row in report.rows] == list(DECODING)
    assert verify(tmp_path / f"{detector.spec.name}_float16_decoded.xml", detector.path).passed


@pytest.mark.parametrize("target", DECODING)
def test_the_same_graph_gives_the_same_bytes(target: TargetName, healthy: Healthy, tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("one", "two")]
    for place in places:
        place.mkdir()
        write(target, decoded(healthy.graph), place)
    names = [sorted(path.name for path in place.iterdir()) for place in places]
    assert names[0] == names[1]
    for name in names[0]:
        assert (places[0] / name).read_bytes() == (places[1] / name).read_bytes()


def test_predictions_are_the_model_s(healthy: Healthy, samples: Sequence[AnnotatedSample], tmp_path: Path) -> None:
    pictures = [sample.file for sample in samples]
    with Predictor(healthy.path) as predictor:
        wanted = predictor(pictures)
    for target in DECODING:
        with Predictor(write(target, decoded(healthy.graph), tmp_path)) as predictor:
            found = predictor(pictures)
        for mine, theirs in zip(found, wanted, strict=True):
            if theirs.detections is not None:
                assert mine.detections is not None
                check_boxes(mine.detections, theirs.detections)
                assert mine.detections.boxes
            else:
                assert mine.segmentation is not None
                assert theirs.segmentation is not None
                assert (mine.segmentation.classes == theirs.segmentation.classes).mean() > 0.99


def test_other_runtimes_decode_too(healthy: Healthy, tmp_path: Path) -> None:
    """A file of one runtime is written anew for another, its end included."""
    path = write("litert", decoded(healthy.graph), tmp_path)
    pixels = pixels_of(healthy.spec)
    wanted = open_engine(path).run(pixels)
    engines = ["onnxruntime"]
    try:
        import openvino  # noqa: F401

        engines.append("openvino")
    except ImportError:
        pass
    for name in engines:
        found = open_engine(path, engine=name).run(pixels)  # type: ignore[arg-type]
        score = "scores" if healthy.spec.task == "detection" else "probabilities"
        np.testing.assert_allclose(found[score], wanted[score], atol=1e-4)
    with pytest.raises(UsageError, match="decodes its answers itself, after the network that PyTorch runs"):
        open_engine(path, engine="torch")


def test_evaluation_finds_the_same_boxes(detector: Healthy, samples: Sequence[AnnotatedSample], tmp_path: Path) -> None:
    known = [dataclasses.replace(sample, boxes=()) for sample in samples]
    wanted = find_boxes(detector.model, known)
    found = find_boxes(open_model(write("litert", decoded(detector.graph), tmp_path)), known)
    for mine, theirs in zip(found.found, wanted.found, strict=True):
        assert mine is not None
        assert theirs is not None
        check_boxes(mine, theirs)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"score": 0.0005}, "decodes its boxes itself, down to a score of 0.001, and score is 0.0005"),
        ({"iou": 0.4}, f"decodes its boxes itself, with an iou of {IOU_THRESHOLD}: leave iou out"),
        ({"limit": 101}, "decodes its boxes itself, up to 100 of them, and limit is 101"),
    ],
)
def test_what_the_file_has_decided_is_told(
    asked: dict[str, Any], told: str, detector: Healthy, samples: Sequence[AnnotatedSample], tmp_path: Path
) -> None:
    path = write("litert", decoded(detector.graph), tmp_path)
    with Predictor(path) as predictor:
        with pytest.raises(UsageError, match=told):
            predictor(samples[0].file, **asked)
        (few,) = predictor(samples[0].file, score=0.6, iou=IOU_THRESHOLD, limit=2)
        assert few.detections is not None
        assert len(few.detections.boxes) <= 2


def test_what_cannot_be_decoded(healthy: Healthy, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match="--decoded: torchscript files give the network's own answers; it is for litert"
    ):
        export(healthy.path, "torchscript", tmp_path, decoded=True)
    path = write("litert", decoded(healthy.graph), tmp_path)
    for again in (False, True):
        with pytest.raises(UsageError, match="decodes its answers itself; export the model that it was made from"):
            export(path, "onnx", tmp_path, decoded=again)
    with pytest.raises(UsageError, match="decodes its answers itself; hold the file against what it was made from"):
        verify(healthy.path, path)
    with pytest.raises(UsageError, match="decodes its answers itself, at one scale"):
        MultiScaleEngine(open_model(path))
    with pytest.raises(SpecError, match="classification: decoded is for detection and segmentation"):
        ModelSpec("mobilenet_v2", 1.0, LABELS, decoded=True)
    with pytest.raises(UsageError, match="is a classifier; --decoded is for detectors and segmenters: leave it out"):
        export("mobilenet_v2", "litert", tmp_path, decoded=True)


def test_files_whose_answers_are_not_what_they_say(healthy: Healthy, tmp_path: Path) -> None:
    """A description that says ``decoded`` of the network's own answers, and the other way round."""
    for target in DECODING:
        for graph, said in ((healthy.graph, True), (decoded(healthy.graph), False)):
            model = open_model(write(target, graph, tmp_path))
            with pytest.raises(WeightsError, match="its description says"):
                open_engine(dataclasses.replace(model, spec=model.spec.replace(decoded=said)))


def test_analysis_counts_the_network(healthy: Healthy, tmp_path: Path) -> None:
    path = write("litert", decoded(healthy.graph), tmp_path)
    assert analyze(path).figures["multiply_adds"] == analyze(healthy.path).figures["multiply_adds"]


def test_the_network_in_a_file_is_trained_on(healthy: Healthy, tmp_path: Path) -> None:
    """What is trained of a decoded file answers with logits again."""
    path = write("litert", decoded(healthy.graph), tmp_path)
    task = healthy.spec.task
    recipe = RECIPES[{"detection": "ssdlite_small", "segmentation": "deeplab_small"}[task]]
    data = AnnotatedSet(tmp_path, task, LABELS, {})  # type: ignore[arg-type]
    job: Any = SimpleNamespace(recipe=recipe)
    start = AnnotatedJob.adapt(job, open_model(path), data, str(path))
    assert not start.spec.decoded
    assert start.spec.answers == start.spec.network_answers


def test_nothing_found_is_an_answer_too(tmp_path: Path) -> None:
    """No box scores above the file's threshold."""
    spec = make_spec("detection")
    state = make_state(spec, background=100)
    for target in DECODING:
        engine = open_engine(write(target, decoded(build_graph(spec, state)), tmp_path))
        for batch in (1, 3):
            answers = engine.run(pixels_of(spec, batch))
            assert not any(values.any() for values in answers.values())
            found = detection.detect(answers, engine.spec, sizes=[PHOTOGRAPH] * batch)
            assert [each.boxes for each in found] == [()] * batch


def test_unsure_networks_are_compared_too(samples: Sequence[AnnotatedSample], tmp_path: Path) -> None:
    """No box scores above 0.3, and yet a file whose boxes are others is found out."""
    spec = make_spec("detection")
    state = make_state(spec, background=RARE)
    write_safetensors(tmp_path / "unsure.safetensors", state, spec)
    model, graph = open_model(tmp_path / "unsure.safetensors"), decoded(build_graph(spec, state))
    for scales in (onnx_decoded.CODE_SCALES, (5.0, 5.0, 2.5, 2.5)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(onnx_decoded, "CODE_SCALES", scales)
            candidate = open_model(write("onnx", graph, tmp_path))
        found = detection.detect(open_engine(candidate).run(pixels_of(spec)), candidate.spec, sizes=[PHOTOGRAPH] * 3)
        assert not any(each.boxes for each in found)
        parity = verify_answers(candidate, model, samples, labelled=False, tolerance=1e-3)
        assert parity.decoded[0].number >= 8 * len(samples)
        assert parity.passed == (scales == onnx_decoded.CODE_SCALES)


def test_boxes_share_by_the_rule(tmp_path: Path) -> None:
    """No two boxes of a class that remain share more than the threshold."""
    spec = make_spec("detection")
    path = write("onnx", decoded(build_graph(spec, make_state(spec))), tmp_path)
    answers = open_engine(path).run(pixels_of(spec, 1))
    (found,) = detection.detect(answers, spec.replace(decoded=True), sizes=[PHOTOGRAPH], score_threshold=0.001)
    edges, _, classes = rows(found)
    shared = iou_matrix(edges, edges) * (classes[:, None] == classes)
    assert np.triu(shared, 1).max() <= IOU_THRESHOLD + 1e-6
