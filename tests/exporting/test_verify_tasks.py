"""Detectors and segmenters exported and verified: what passes, and the faults that have to be found."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from fusiform.data.annotated import AnnotatedSample, AnnotatedSet, BoxLabel
from fusiform.data.open import read_pictures
from fusiform.data.preprocess import crop_pixels, placement
from fusiform.engines import open_engine
from fusiform.errors import SpecError, UsageError
from fusiform.evaluation.job import evaluate
from fusiform.exporting.job import ExportError, export
from fusiform.exporting.quantization.quantize import QuantizedNetwork
from fusiform.exporting.quantization.train_quantized import train_quantized
from fusiform.exporting.verification.parity import Measured
from fusiform.exporting.verification.verify import verify, verify_answers
from fusiform.graph.build import build_graph
from fusiform.graph.ir import Graph
from fusiform.graph.onnx import to_onnx
from fusiform.graph.shapes import state_shapes
from fusiform.graph.tflite import to_tflite
from fusiform.spec import ModelSpec, Preprocess
from fusiform.tasks import detection, segmentation
from fusiform.tasks.classification_metrics import Difference
from fusiform.zoo.checkpoint import write_safetensors
from fusiform.zoo.model import Model, open_model

TOLERANCE = 1e-3
SIZE = (130, 90)
"""Of the photographs, in pixels: oblong, so that squeezing differs from padding."""
LABELS = ("background", "fox", "owl", "newt")


def make_spec(task: Any, **changes: Any) -> ModelSpec:
    size = 65
    preprocess = Preprocess(resize=size, crop=size, fit="stretch" if task == "detection" else "pad")
    stride = 16 if task == "segmentation" else 32
    labels = LABELS[1:] if task == "detection" else LABELS
    spec = ModelSpec(
        "mobilenet_v2", 0.35, labels, task=task, input_size=size, output_stride=stride, preprocess=preprocess
    )
    return spec.replace(**changes)


def lived_in(spec: ModelSpec) -> dict[str, Any]:
    """Weights whose statistics and biases are far from those that they were born with."""
    random = np.random.default_rng(5)
    state: dict[str, Any] = {}
    for name, shape in state_shapes(spec).items():
        if name.endswith("num_batches_tracked"):
            state[name] = np.array(5)
            continue
        if name.endswith("running_mean"):
            values = random.uniform(-0.3, 0.3, shape)
        elif name.endswith("bias"):
            values = random.uniform(-0.3, 0.7, shape)
        elif len(shape) == 1:
            values = random.uniform(0.7, 1.3, shape)
        else:
            values = random.normal(0, np.sqrt(1.5 / np.prod(shape[1:])), shape)
        state[name] = values.astype(np.float32)
    return state


def soft_picture(seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[AnnotatedSample]:
    folder = tmp_path_factory.mktemp("pictures")
    for k in range(16):
        soft_picture(k).save(folder / f"{k}.png")
    return [AnnotatedSample(folder / f"{k}.png") for k in range(16)]


class Healthy:
    """A network with its file."""

    def __init__(self, task: str, folder: Path) -> None:
        self.spec = make_spec(task)
        self.state = lived_in(self.spec)
        write_safetensors(folder / f"{task}.safetensors", self.state, self.spec)
        self.model = open_model(folder / f"{task}.safetensors")
        self.graph = build_graph(self.spec, self.state)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Healthy:
    return Healthy("detection", tmp_path_factory.mktemp("detector"))


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Healthy:
    return Healthy("segmentation", tmp_path_factory.mktemp("segmenter"))


@pytest.fixture(params=["detector", "segmenter"])
def healthy(request: pytest.FixtureRequest) -> Healthy:
    found: Healthy = request.getfixturevalue(request.param)
    return found


def write(folder: Path, graph: Graph, ending: str = "tflite") -> Model:
    path = folder / f"file.{ending}"
    path.write_bytes(to_onnx(graph) if ending == "onnx" else to_tflite(graph))
    return open_model(path)


def quantised(graph: Graph) -> Graph:
    network = QuantizedNetwork(graph)
    pictures = np.stack([crop_pixels(soft_picture(seed), graph.spec.preprocess) for seed in range(60, 76)])
    network.calibrate([torch.from_numpy(pictures.transpose(0, 3, 1, 2).astype(np.float32))])
    return network.freeze()


# Faults


def none(healthy: Healthy) -> Graph:
    return healthy.graph


def swapped_colors(healthy: Healthy) -> Graph:
    first = next(name for name in healthy.state if name.endswith("weight"))
    return build_graph(healthy.spec, {**healthy.state, first: healthy.state[first][:, ::-1]})


def wrong_mean(healthy: Healthy) -> Graph:
    preprocess = dataclasses.replace(healthy.spec.preprocess, mean=(0.0, 0.0, 0.0))
    return build_graph(healthy.spec.replace(preprocess=preprocess), healthy.state)


def other_fit(healthy: Healthy) -> Graph:
    fit = "pad" if healthy.spec.preprocess.fit == "stretch" else "stretch"
    preprocess = dataclasses.replace(healthy.spec.preprocess, fit=fit)
    return build_graph(healthy.spec.replace(preprocess=preprocess), healthy.state)


def shuffled_labels(healthy: Healthy) -> Graph:
    labels = (*healthy.spec.labels[1:], healthy.spec.labels[0])
    return build_graph(healthy.spec.replace(labels=labels), healthy.state)


def scaled_codes(healthy: Healthy) -> Graph:
    last = [f"boxes.{k}.1" for k in range(6)]
    nodes = tuple(
        dataclasses.replace(node, weight=node.weight * np.float32(1.1), bias=node.bias * np.float32(1.1))  # type: ignore[union-attr]
        if node.name in last
        else node
        for node in healthy.graph.nodes
    )
    return dataclasses.replace(healthy.graph, nodes=nodes)


def other_scores(healthy: Healthy) -> Graph:
    return build_graph(healthy.spec.replace(scores="sigmoid"), healthy.state)


def other_align_corners(healthy: Healthy) -> Graph:
    return build_graph(healthy.spec.replace(align_corners=False), healthy.state)


FAULTS = [
    *(("detector", fault) for fault in (swapped_colors, wrong_mean, other_fit, scaled_codes, other_scores)),
    *(("segmenter", fault) for fault in (swapped_colors, wrong_mean, other_fit, other_align_corners)),
]


@pytest.mark.parametrize("ending", ["onnx", "tflite"])
def test_the_same_network_passes(ending: str, healthy: Healthy, samples: list[AnnotatedSample], tmp_path: Path) -> None:
    candidate = write(tmp_path, healthy.graph, ending)
    parity = verify_answers(candidate, healthy.model, samples[:5], labelled=False, tolerance=TOLERANCE)
    assert parity.passed
    assert parity.failures == parity.notes == ()
    assert parity.largest_error is not None
    assert parity.largest_error < 1e-4
    detects = healthy.spec.task == "detection"
    answers = ("logits", "codes") if detects else ("logits",)
    kinds = ("photographs", "synthetic images", "noise")
    assert [(c.kind, c.batch, c.answer) for c in parity.comparisons] == [
        (kind, batch, answer) for kind in kinds for batch in (1, 3) for answer in answers
    ]
    assert [(d.kind, d.what, d.same) for d in parity.decoded] == [
        (kind, "boxes" if detects else "masks", 1.0) for kind in kinds
    ]
    report = parity.report()
    assert [row["compared"] for row in report.rows[:2]] == ["logits", "codes" if detects else "logits"]
    assert report.rows[-1]["compared"] == ("boxes" if detects else "masks")
    if detects:
        assert report.figures["boxes_same"] == 1
        assert report.figures["boxes"] == parity.decoded[0].number > 20
    else:
        assert report.figures["pixel_agreement"] == 1
        assert parity.decoded[0].number == 5 * SIZE[0] * SIZE[1]
    report.to_json()
    report.to_table()


@pytest.mark.parametrize(("which", "fault"), FAULTS)
def test_faults_show_in_what_users_see(
    which: str, fault: Any, request: pytest.FixtureRequest, samples: list[AnnotatedSample], tmp_path: Path
) -> None:
    healthy: Healthy = request.getfixturevalue(which)
    candidate = write(tmp_path, fault(healthy))
    parity = verify_answers(candidate, healthy.model, samples[:4], labelled=False, tolerance=TOLERANCE)
    seen = "are not on both sides (photographs" if which == "detector" else "are of another class (photographs"
    assert any(seen in failure for failure in parity.failures), parity.failures
    # What only the description says wrongly changes no number.
    numbers = any(" differs by " in failure for failure in parity.failures)
    assert numbers == (fault not in (other_scores, other_align_corners))
    assert parity.report().figures["passed"] is False


@pytest.mark.parametrize(
    ("which", "changes", "told"),
    [
        ("detector", {"scores": "sigmoid"}, "its scores is sigmoid, not softmax"),
        ("segmenter", {"align_corners": False}, "its align_corners is False, not True"),
        ("detector", {"padding": "same"}, "its padding is same, not symmetric"),
        ("segmenter", {"padding": "same"}, "its padding is same, not symmetric"),
    ],
)
def test_what_a_file_says_of_itself(
    which: str,
    changes: dict[str, Any],
    told: str,
    request: pytest.FixtureRequest,
    samples: list[AnnotatedSample],
    tmp_path: Path,
) -> None:
    healthy: Healthy = request.getfixturevalue(which)
    candidate = write(tmp_path, build_graph(healthy.spec.replace(**changes), healthy.state))
    parity = verify_answers(candidate, healthy.model, samples[:1], labelled=False, tolerance=TOLERANCE)
    assert told in parity.failures


def test_other_labels(healthy: Healthy, samples: list[AnnotatedSample], tmp_path: Path) -> None:
    candidate = write(tmp_path, shuffled_labels(healthy))
    parity = verify_answers(candidate, healthy.model, samples[:1], labelled=False, tolerance=TOLERANCE)
    (failure,) = parity.failures
    first, second = healthy.spec.labels[:2]
    assert f"of its labels are others: class 0 is {second!r}, not {first!r}" in failure


def test_answers_of_another_form_are_not_compared(
    segmenter: Healthy, detector: Healthy, samples: list[AnnotatedSample], tmp_path: Path
) -> None:
    smaller = make_spec("segmentation", input_size=49, preprocess=Preprocess(resize=49, crop=49, fit="pad"))
    parity = verify_answers(
        write(tmp_path, build_graph(smaller, segmenter.state)),
        segmenter.model,
        samples,
        labelled=False,
        tolerance=TOLERANCE,
    )
    assert "its input_size is 49, not 65" in parity.failures
    assert parity.comparisons == ()
    parity = verify_answers(
        write(tmp_path, detector.graph), segmenter.model, samples, labelled=False, tolerance=TOLERANCE
    )
    assert "its task is detection, not segmentation" in parity.failures
    assert parity.report().figures["passed"] is False


def test_a_segmenter_that_crops_photographs(segmenter: Healthy, samples: list[AnnotatedSample], tmp_path: Path) -> None:
    preprocess = dataclasses.replace(segmenter.spec.preprocess, fit="crop")
    candidate = write(tmp_path, build_graph(segmenter.spec.replace(preprocess=preprocess), segmenter.state))
    with pytest.raises(SpecError, match=r"file\.tflite: crops photographs"):
        verify_answers(candidate, segmenter.model, samples, labelled=False, tolerance=TOLERANCE)


def test_int8_passes_within_what_rounding_explains(
    healthy: Healthy, samples: list[AnnotatedSample], tmp_path: Path
) -> None:
    candidate = write(tmp_path, quantised(healthy.graph))
    parity = verify_answers(candidate, healthy.model, samples, labelled=False, tolerance=None)
    assert parity.failures == ()
    assert parity.max_drop == 2.0
    assert set(parity.max_error) == set(healthy.spec.answers)
    figures = parity.report().figures
    assert figures["max_error"] == pytest.approx(1.5 * parity.explained_error["logits"], rel=1e-4)
    assert ("max_error_codes" in figures) == (healthy.spec.task == "detection")
    assert figures["min_agreement"] == 0.85
    # The rounded network is not the float one.
    assert not verify_answers(candidate, healthy.model, samples[:2], labelled=False, tolerance=TOLERANCE).passed


@pytest.mark.parametrize(
    ("which", "fault"), [case for case in FAULTS if case[1] not in (other_scores, other_align_corners)]
)
def test_int8_faults_are_more_than_rounding(
    which: str, fault: Any, request: pytest.FixtureRequest, samples: list[AnnotatedSample], tmp_path: Path
) -> None:
    healthy: Healthy = request.getfixturevalue(which)
    candidate = write(tmp_path, quantised(fault(healthy)))
    parity = verify_answers(candidate, healthy.model, samples, labelled=False, tolerance=None)
    assert any("of the photographs are" in failure for failure in parity.failures), parity.failures


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory, detector: Healthy, samples: list[AnnotatedSample]) -> Path:
    """The photographs with what the detector itself finds in them for the truth, its categories in another order."""
    root = tmp_path_factory.mktemp("coco")
    engine = open_engine(detector.model, engine="torch")
    content: dict[str, list[Any]] = {"images": [], "annotations": []}
    content["categories"] = [{"id": 7 - k, "name": name} for k, name in enumerate(detector.spec.labels)]
    (root / "annotations").mkdir()
    (root / "val2017").mkdir()
    for k, sample in enumerate(samples):
        image = sample.read()
        image.save(root / "val2017" / f"{k}.png")
        content["images"].append({"id": k, "file_name": f"{k}.png", "width": SIZE[0], "height": SIZE[1]})
        found = engine.run(crop_pixels(image, detector.spec.preprocess)[None])
        for box in detection.decode(found["logits"], found["codes"], detector.spec, sizes=[SIZE])[0].boxes:
            width, height = box.right - box.left, box.bottom - box.top
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": k,
                    "category_id": 7 - box.index,
                    "bbox": [box.left, box.top, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory, segmenter: Healthy, samples: list[AnnotatedSample]) -> Path:
    """The photographs with the segmenter's own masks for the truth, their values in another order."""
    root = tmp_path_factory.mktemp("voc")
    engine = open_engine(segmenter.model, engine="torch")
    for name in ("JPEGImages", "SegmentationClass"):
        (root / name).mkdir()
    labels = segmenter.spec.labels
    (root / "class_names.txt").write_text("\n".join((labels[0], *labels[:0:-1])))
    for k, sample in enumerate(samples):
        image = sample.read()
        image.save(root / "JPEGImages" / f"{k}.png")
        logits = engine.run(crop_pixels(image, segmenter.spec.preprocess)[None])["logits"][0]
        place = placement(SIZE, segmenter.spec.preprocess)
        classes = segmentation.decode(logits, segmenter.spec, SIZE, placement=place).classes
        values = np.array([0, *range(len(labels) - 1, 0, -1)], np.uint8)[classes]
        Image.fromarray(values).save(root / "SegmentationClass" / f"{k}.png")
    return root


def test_labels_are_bound_by_name(detector: Healthy, segmenter: Healthy, coco: Path, voc: Path, tmp_path: Path) -> None:
    """The reference finds what it found: all of it."""
    boxes = verify(write(tmp_path, detector.graph).path, against=detector.model.path, data=coco)
    assert boxes.passed
    assert boxes.measured is not None
    assert boxes.measured.reference == pytest.approx(boxes.measured.value)
    assert boxes.measured.reference > 0.9
    figures = boxes.report().figures
    assert figures["map"] == figures["reference_map"] == pytest.approx(boxes.measured.value, rel=1e-5)
    assert figures["drop"] == figures["drop_low"] == figures["drop_high"] == 0
    masks = verify(write(tmp_path, segmenter.graph).path, against=segmenter.model.path, data=voc)
    assert masks.passed
    assert masks.measured == Measured(1.0, 1.0, Difference(0.0, 0.0, 0.0))
    assert masks.report().figures["reference_miou"] == 1


@pytest.fixture(scope="module")
def voc_of_three(tmp_path_factory: pytest.TempPathFactory, voc: Path) -> Path:
    """The same pictures in a dataset that does not know one of the segmenter's classes."""
    root = tmp_path_factory.mktemp("three")
    shutil.copytree(voc, root, dirs_exist_ok=True)
    names = (voc / "class_names.txt").read_text().split()
    (root / "class_names.txt").write_text("\n".join(names[:3]))
    for file in (root / "SegmentationClass").iterdir():
        values = np.array(Image.open(file))
        Image.fromarray(np.where(values == 3, 255, values).astype(np.uint8)).save(file)
    return root


@pytest.mark.parametrize(
    ("which", "source"), [("detector", "coco"), ("segmenter", "voc"), ("segmenter", "voc_of_three")]
)
def test_the_drop_is_what_evaluate_compares(
    which: str, source: str, request: pytest.FixtureRequest, tmp_path: Path, valid: Callable[..., Any]
) -> None:
    healthy: Healthy = request.getfixturevalue(which)
    data: Path = request.getfixturevalue(source)
    candidate = write(tmp_path, quantised(healthy.graph))
    parity = verify(candidate.path, against=healthy.model.path, data=data)
    reference: Any = evaluate(healthy.model.path, data, engine="torch", threads=1)
    file = evaluate(candidate.path, data, threads=1)
    (name, value, other, difference), *_ = reference.compare(file).compared
    measured = parity.measured
    assert measured is not None
    assert (measured.reference, measured.value) == pytest.approx((value, other), abs=1e-9)
    assert measured.drop == pytest.approx(difference, abs=1e-9)
    assert measured.drop.low < measured.drop.value < measured.drop.high
    report = parity.report()
    valid(report.to_json())
    points = {f"drop{end}": x for end, x in zip(("", "_low", "_high"), measured.drop, strict=True)}
    assert {key: report.figures[key] for key in points} == pytest.approx(points, rel=1e-5)
    assert report.figures["resamples"] == 1000
    assert {key: report.rows[-1][key] for key in points} == pytest.approx(points, rel=1e-5)
    assert (report.rows[-1]["compared"], report.rows[-1][f"reference_{name}"]) == (
        name,
        report.figures[f"reference_{name}"],
    )


def test_data_of_other_classes_and_folders_serve_unlabelled(
    segmenter: Healthy, detector: Healthy, voc: Path, coco: Path, tmp_path: Path
) -> None:
    pictures = read_pictures(
        voc, detector.model.spec, model=str(detector.model.path)
    )  # masks are no boxes, and no photographs either
    assert (len(pictures.samples), pictures.labelled) == (16, False)
    assert "is a detector" in pictures.notes[0]
    pictures = read_pictures(coco / "val2017", segmenter.model.spec, model=str(segmenter.model.path))
    assert (len(pictures.samples), pictures.labelled) == (16, False)
    parity = verify(write(tmp_path, segmenter.graph).path, against=segmenter.model.path, data=coco / "val2017")
    assert parity.passed
    assert parity.measured is None
    assert parity.notes[0].startswith("the pictures have no labels that the model knows: ")
    with pytest.raises(UsageError, match="no such file or folder"):
        read_pictures(coco / "nowhere", detector.model.spec, model=str(detector.model.path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="is no dataset with masks"):
        read_pictures(tmp_path / "empty", segmenter.model.spec, model=str(segmenter.model.path))


def test_pictures_without_objects_and_masks_that_cannot_be_read(
    detector: Healthy, segmenter: Healthy, samples: list[AnnotatedSample], tmp_path: Path
) -> None:
    empty = [dataclasses.replace(sample, boxes=()) for sample in samples[:3]]
    candidate = write(tmp_path, detector.graph)
    parity = verify_answers(candidate, detector.model, empty, labelled=True, tolerance=TOLERANCE)
    assert parity.passed
    assert parity.measured is None
    assert "the labels have no object: the pictures served unlabelled" in parity.notes
    Image.new("L", (9, 9)).save(tmp_path / "small.png")
    Image.new("L", SIZE).save(tmp_path / "right.png")
    masked = [
        dataclasses.replace(sample, mask_file=tmp_path / name)
        for sample, name in zip(samples, ("small.png", "right.png", "none.png"), strict=False)
    ]
    candidate = write(tmp_path, segmenter.graph)
    parity = verify_answers(candidate, segmenter.model, masked, labelled=True, tolerance=TOLERANCE)
    assert parity.pictures == 1
    assert parity.notes[0].startswith("2 pictures could not be read, the first: ")
    assert "the mask is 9 x 9 pixels" in parity.notes[0]
    assert parity.measured is not None


def test_exports_of_both_tasks_in_float_and_int8(
    detector: Healthy, segmenter: Healthy, coco: Path, voc: Path, tmp_path: Path
) -> None:
    for healthy, data, measure in ((detector, coco, "map"), (segmenter, voc, "miou")):
        report = export(healthy.model.path, ["litert", "onnx"], tmp_path, data=data)
        assert [row["passed"] for row in report.rows] == [True, True]
        assert report.figures["verified_on"] == str(data)
        assert all(row[measure] == pytest.approx(row[f"reference_{measure}"]) for row in report.rows)
        # Random weights are as hard to quantise as weights can be: what these lose is beside the point.
        report = export(
            healthy.model.path,
            ["litert"],
            tmp_path,
            precision="int8",
            calibrate=data,
            data=data,
            max_drop=100,
            keep_float=1,
        )
        (row,) = report.rows
        assert row["layers_in_float"] == 1
        assert row[measure] < row[f"reference_{measure}"]
        assert row["drop"] == pytest.approx(row[f"reference_{measure}"] - row[measure], abs=1e-5)
        assert (tmp_path / f"{healthy.spec.name}_int8.tflite").is_file()


def test_a_drop_beyond_the_default_leaves_no_file(detector: Healthy, coco: Path, tmp_path: Path) -> None:
    """The truth is what the float network finds, so that all that rounding moves is lost."""
    with pytest.raises(ExportError, match=r"its map is 0\.\d+, \d+\.\d points below") as caught:
        export(
            detector.model.path,
            ["litert"],
            tmp_path,
            precision="int8",
            calibrate=coco,
            data=coco,
            keep_float=0,
        )
    assert caught.value.report.rows[0]["passed"] is False
    assert not list(tmp_path.glob("*.tflite"))


def test_a_runs_own_pictures(
    detector: Healthy, samples: list[AnnotatedSample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verified on what the run held out to choose by, and not on the test pictures."""
    from fusiform.training import annotation_job

    run, labelled = tmp_path / "run", [dataclasses.replace(s, boxes=(BoxLabel(0, 1, 1, 9, 9),)) for s in samples]
    run.mkdir()
    write_safetensors(run / "best.safetensors", detector.state, detector.spec)
    for name in ("run.json", "data.json"):
        (run / name).write_text("{}")
    splits = {"train": tuple(labelled[:9]), "val": tuple(labelled[9:12]), "test": tuple(labelled[12:])}
    data = AnnotatedSet(tmp_path, "detection", detector.spec.labels, splits)  # type: ignore[arg-type]
    monkeypatch.setattr(annotation_job, "read_annotated_list", {run: data}.__getitem__)
    report = export(run, ["litert"], tmp_path / "out")
    assert report.figures["verified_on"] == "the run's val pictures"
    assert report.rows[0]["images"] == 3
    assert report.rows[0]["map"] == report.rows[0]["reference_map"]


def test_pixels_and_slices(healthy: Healthy, tmp_path: Path) -> None:
    report = export(healthy.model.path, ["onnx"], tmp_path, pixels=True, slices=2)
    assert report.rows[0]["largest_error"] < 1e-4


def test_half_precision(healthy: Healthy, tmp_path: Path) -> None:
    """Rounded weights move boxes and borders a little, and the tolerance knows it."""
    report = export(healthy.model.path, ["litert"], tmp_path, precision="float16")
    assert 1e-5 < report.rows[0]["largest_error"] < 3e-2


def test_what_is_for_classifiers_alone(healthy: Healthy, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--train-epochs is for classifiers"):
        export(healthy.model.path, ["litert"], tmp_path, precision="int8", train_epochs=1)
    with pytest.raises(UsageError, match="training with quantisation is for classifiers"):
        train_quantized(QuantizedNetwork(healthy.graph), healthy.graph, [])
    import onnx

    proto = onnx.load_from_string(to_onnx(healthy.graph))
    del proto.metadata_props[:]
    (tmp_path / "foreign.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(UsageError, match=r"foreign\.onnx: has no description of fusiform's"):
        verify(tmp_path / "foreign.onnx", against=healthy.model.path)
