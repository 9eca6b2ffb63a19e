"""Golden folders, read as another program does: the folder, numpy and the file's own runtime, nothing of fusiform."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from ai_edge_litert.interpreter import Interpreter, OpResolverType
from click.testing import CliRunner

from fusiform.cli import commands
from fusiform.errors import UsageError
from fusiform.exporting import job
from fusiform.exporting.golden import choose_inputs
from fusiform.exporting.job import ExportError, export
from fusiform.exporting.targets.targets import TARGETS, Target
from fusiform.exporting.verification.verify import verify
from fusiform.graph.shapes import state_shapes
from fusiform.prediction.predict import predict
from fusiform.spec import ModelSpec, Preprocess
from fusiform.zoo.checkpoint import write_safetensors
from fusiform.zoo.model import open_model

LABELS = ("red fox", "owl", "newt")
COUNT = 3


def soft_picture(seed: int, size: tuple[int, int] = (40, 40)) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def weights_of(spec: ModelSpec, seed: int = 3) -> dict[str, Any]:
    """Weights of chance, such that a detector finds some boxes."""
    random = np.random.default_rng(seed)
    state: dict[str, Any] = {}
    for name, shape in state_shapes(spec).items():
        if name.endswith("num_batches_tracked"):
            state[name] = np.array(5)
            continue
        if name.endswith(("bias", "running_mean")):
            values = random.uniform(-0.3, 0.5, shape)
        elif len(shape) == 1:
            values = random.uniform(0.7, 1.3, shape)
        else:
            values = random.normal(0, np.sqrt(1.5 / np.prod(shape[1:])), shape)
        if name.startswith("boxes.") and ".1." in name:
            values = values * 0.3
        if name.startswith("classes.") and name.endswith(".1.bias"):
            values[:: len(LABELS) + 1] += 6  # background
        state[name] = values.astype(np.float32)
    return state


@pytest.fixture(scope="module")
def models(tmp_path_factory, small_spec, lived_in_state) -> Path:
    """A model of each task, and photographs in folders named after what the classifier calls them."""
    folder = tmp_path_factory.mktemp("models")
    spec = small_spec("mobilenet_v2", size=32, classes=3).replace(labels=LABELS)
    write_safetensors(folder / "classification.safetensors", lived_in_state(spec), spec)
    write_safetensors(folder / "other.safetensors", lived_in_state(spec, seed=8), spec)
    for task, side, fit in (("detection", 96, "stretch"), ("segmentation", 97, "pad")):
        stride = 16 if task == "segmentation" else 32
        spec = ModelSpec(
            "mobilenet_v2",
            0.35,
            LABELS,
            task=task,
            input_size=side,
            output_stride=stride,
            preprocess=Preprocess(side, side, fit=fit),
        )
        write_safetensors(folder / f"{task}.safetensors", weights_of(spec), spec)
    files = [folder / f"{k}.png" for k in range(24)]
    for k, file in enumerate(files):
        soft_picture(k).save(file)
    for file, answer in zip(files, predict(files, model=folder / "classification.safetensors"), strict=True):
        place = folder / "photos" / answer.top[0].name
        place.mkdir(parents=True, exist_ok=True)
        file.rename(place / file.name)
    return folder


@pytest.fixture(scope="module")
def classifiers(models, tmp_path_factory) -> Path:
    """Float files of a classifier with their golden folders."""
    out = tmp_path_factory.mktemp("float")
    targets = ["litert", "onnx", "torchscript", "openvino", "web"]
    export(models / "classification.safetensors", targets, out, data=models / "photos", golden=COUNT)
    return out


@pytest.fixture(scope="module")
def int8(models, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("int8")
    export(
        models / "classification.safetensors",
        ["litert", "onnx", "openvino"],
        out,
        precision="int8",
        calibrate=models / "photos",
        max_drop=30,
        golden=COUNT,
    )
    return out


# A program of somebody else, which knows the description alone.


def answer(file: Path, values: NDArray[Any], resolver: OpResolverType = OpResolverType.AUTO) -> list[NDArray[Any]]:
    """What a file answers in its own runtime."""
    if file.suffix == ".tflite":
        interpreter = Interpreter(str(file), experimental_op_resolver_type=resolver)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], values)
        interpreter.invoke()
        return [interpreter.get_tensor(output["index"]) for output in interpreter.get_output_details()]
    if file.suffix == ".onnx":
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        return session.run(None, {session.get_inputs()[0].name: values})
    if file.suffix == ".xml":
        openvino = pytest.importorskip("openvino")
        compiled = openvino.compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        found = compiled(values)
        return [found[k] for k in range(len(compiled.outputs))]
    assert file.suffix == ".pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = torch.jit.load(file)
    with torch.inference_mode():
        found = network(torch.from_numpy(values.copy()))
    return [each.numpy() for each in (found if isinstance(found, tuple) else (found,))]


def boxes_of(names: list[str], answers: list[NDArray[Any]]) -> list[tuple[int, list[float]]]:
    """Class and left, top, right and bottom of the boxes of a detector that decodes them itself."""
    if names == ["detections"]:
        return [(int(row[1]), row[3:].tolist()) for row in answers[0][0, 0] if row[0] == 0 and row[2] > 0]
    edges, classes = answers[0][0], answers[1][0]
    if names[-1] == "count":
        edges, classes = edges[: int(answers[3][0]), [1, 0, 3, 2]], classes[: int(answers[3][0])]
    return [(int(k), box.tolist()) for k, box in zip(classes, edges, strict=True)]


def overlap(one: list[float], other: list[float]) -> float:
    (left, top, right, bottom), (left2, top2, right2, bottom2) = one, other
    shared = max(0.0, min(right, right2) - max(left, left2)) * max(0.0, min(bottom, bottom2) - max(top, top2))
    return shared / ((right - left) * (bottom - top) + (right2 - left2) * (bottom2 - top2) - shared)


def distance(made: NDArray[Any], wanted: NDArray[Any], compare: str) -> float:
    """How far an answer is from the expected one."""
    if compare == "classes":  # the classes are the shortest axis but the batch
        axis = 1 + int(np.argmin(made.shape[1:]))
        return float((made.argmax(axis) != wanted.argmax(axis)).mean())
    if compare == "log_rms":
        made, wanted = (np.log(np.maximum(values, 1e-30)) for values in (made, wanted))
        made, wanted = made - made.mean(), wanted - wanted.mean()
    difference = made.astype(np.float64) - wanted
    return float(np.abs(difference).max() if compare == "largest" else np.sqrt((difference**2).mean()))


def find_faults(folder: Path, run: Any = answer, change: Any = lambda values: values) -> list[str]:
    """What a file answers otherwise than its golden folder says."""
    golden = json.loads((folder / "golden.json").read_text(encoding="utf-8"))
    faults = [
        f"{part['path']} is another file"
        for part in golden["files"]
        if hashlib.sha256((folder.parent / part["path"]).read_bytes()).hexdigest() != part["sha256"]
    ]
    given = golden["input"]
    for case in golden["cases"]:
        values = np.fromfile(folder / case["input"]["path"], np.dtype(given["dtype"]).newbyteorder("<"))
        answers = run(folder.parent / golden["file"], change(values.reshape(given["shape"])))
        assert len(answers) == len(golden["outputs"])
        for made, output, expected in zip(answers, golden["outputs"], case["outputs"], strict=True):
            wanted = np.fromfile(folder / expected["path"], np.dtype(output["dtype"]).newbyteorder("<"))
            assert (list(made.shape), made.dtype.name) == (output["shape"], output["dtype"])
            if output["compare"] == "boxes":
                assert case["boxes"]
                assert expected["allowed"] is None
            elif not distance(made, wanted.reshape(made.shape), output["compare"]) <= expected["allowed"]:
                faults.append(f"{expected['path']} differs")
        if golden["outputs"][0]["compare"] == "boxes":
            found = boxes_of([output["name"] for output in golden["outputs"]], answers)
            for box in case["boxes"]:
                edges = [box[name] for name in ("left", "top", "right", "bottom")]
                if not any(k == box["index"] and overlap(edges, other) >= golden["min_iou"] for k, other in found):
                    faults.append(f"{case['source']}: a box is missing")
        if case["top1_certain"] and int(answers[0].argmax()) != case["top1"]["index"]:
            faults.append(f"{case['source']}: is not {case['top1']['name']}")
    return faults


def folders(out: Path) -> list[Path]:
    return sorted(path for path in out.iterdir() if path.name.endswith("_golden"))


def check_whole(folder: Path, valid: Any) -> dict[str, Any]:
    """The description is as its schema says, and names all files of the folder; the image is the input."""
    golden: dict[str, Any] = valid((folder / "golden.json").read_bytes())
    listed = {"golden.json"}
    given = golden["input"]
    for case in golden["cases"]:
        for file in (case["image"], case["input"], *case["outputs"]):
            listed.add(file["path"])
            assert hashlib.sha256((folder / file["path"]).read_bytes()).hexdigest() == file["sha256"]
        for output, expected in zip(golden["outputs"], case["outputs"], strict=True):
            wanted = np.fromfile(folder / expected["path"], np.dtype(output["dtype"]).newbyteorder("<"))
            assert wanted.size == np.prod(output["shape"])
            if output["compare"] == "largest":
                assert expected["allowed"] == pytest.approx(output["tolerance"] * np.abs(wanted).max(), rel=1e-4)
        with Image.open(folder / case["image"]["path"]) as image:
            pixels = np.asarray(image.convert("RGB"))
        pixels = pixels[..., ::-1] if given["color_order"] == "bgr" else pixels
        pixels = pixels if given["layout"] == "NHWC" else pixels.transpose(2, 0, 1)
        values = np.fromfile(folder / case["input"]["path"], np.dtype(given["dtype"]).newbyteorder("<"))
        if given["reads"] == "normalized":
            shape = (1, 3) if given["layout"] == "NHWC" else (3, 1, 1)
            mean, std = (np.array(given[name]).reshape(shape) for name in ("mean", "std"))
            np.testing.assert_allclose(values.reshape(given["shape"])[0], (pixels / 255 - mean) / std, atol=1e-6)
        else:
            assert (values.reshape(given["shape"])[0] == pixels).all()
    assert {path.name for path in folder.iterdir()} == listed
    return golden


FLOAT_FILES = ("tflite", "onnx", "scripted.pt", "traced.pt", "xml")


@pytest.mark.parametrize("ending", FLOAT_FILES)
def test_a_plain_runtime_finds_the_expected_answers(ending: str, classifiers: Path, valid: Any) -> None:
    if ending == "xml":
        pytest.importorskip("openvino")
    folder = classifiers / f"mobilenet_v2_x0_5_float32.{ending}_golden"
    golden = check_whole(folder, valid)
    assert golden["file"] == f"mobilenet_v2_x0_5_float32.{ending}"
    assert len(golden["files"]) == (2 if ending == "xml" else 1)
    assert [(output["compare"], output["tolerance"]) for output in golden["outputs"]] == [("largest", 1e-3)]
    assert len(golden["cases"]) == COUNT
    assert all(case["label"] == case["top1"]["name"] for case in golden["cases"])  # the folders are named so
    assert find_faults(folder) == []


def test_the_page_has_the_golden_folder_of_the_file_inside_it(classifiers: Path, valid: Any) -> None:
    site = classifiers / "mobilenet_v2_x0_5_float32_web"
    folder = site / "golden"
    golden = check_whole(folder, valid)
    assert golden["file"] == "mobilenet_v2_x0_5_float32.tflite"
    assert json.loads((site / "model.json").read_text(encoding="utf-8"))["golden"] == "golden"
    assert find_faults(folder) == []


@pytest.mark.parametrize("ending", ["tflite", "onnx", "xml"])
def test_int8_files_are_allowed_what_rounding_explains(ending: str, int8: Path, valid: Any) -> None:
    if ending == "xml":
        pytest.importorskip("openvino")
    folder = int8 / f"mobilenet_v2_x0_5_int8.{ending}_golden"
    golden = check_whole(folder, valid)
    assert golden["input"]["dtype"] == "uint8"
    (output,) = golden["outputs"]
    assert output["compare"] == ("log_rms" if ending == "tflite" else "rms")
    assert 0.1 <= output["tolerance"] <= 0.2
    assert all(case["label"] is None for case in golden["cases"])
    assert find_faults(folder) == []
    faults = find_faults(folder, change=lambda values: np.ascontiguousarray(values[..., ::-1]))
    assert any("differs" in fault for fault in faults)


def test_kernels_of_another_kind_stay_within_the_tolerance_of_int8(int8: Path) -> None:
    """LiteRT's reference kernels, on which those of microcontrollers are modelled, round otherwise than XNNPACK's."""

    def run(file: Path, values: NDArray[Any]) -> list[NDArray[Any]]:
        return answer(file, values, OpResolverType.BUILTIN_REF)

    folder = int8 / "mobilenet_v2_x0_5_int8.tflite_golden"
    case = json.loads((folder / "golden.json").read_text())["cases"][0]
    values = np.fromfile(folder / case["input"]["path"], np.uint8).reshape(1, 32, 32, 3)
    file = folder.with_name("mobilenet_v2_x0_5_int8.tflite")
    assert (run(file, values)[0] != answer(file, values)[0]).any()
    assert find_faults(folder, run) == []


@pytest.mark.parametrize("ending", FLOAT_FILES)
def test_a_wrong_program_is_found_out(ending: str, classifiers: Path) -> None:
    """Colours the other way round, and an image upside down."""
    if ending == "xml":
        pytest.importorskip("openvino")
    folder = classifiers / f"mobilenet_v2_x0_5_float32.{ending}_golden"
    layout = json.loads((folder / "golden.json").read_text())["input"]["layout"]
    channels, rows = layout.index("C"), layout.index("H")
    for axis in (channels, rows):
        faults = find_faults(folder, change=lambda values, axis=axis: np.ascontiguousarray(np.flip(values, axis)))
        assert len([fault for fault in faults if "differs" in fault]) == COUNT


@pytest.mark.parametrize(("target", "ending"), [("litert", "tflite"), ("onnx", "onnx")])
def test_another_model_is_found_out_by_its_hash_and_by_its_answers(
    target: str, ending: str, models: Path, classifiers: Path, tmp_path: Path
) -> None:
    name = f"mobilenet_v2_x0_5_float32.{ending}"
    export(models / "other.safetensors", target, tmp_path)
    (classifiers / f"{name}_golden").rename(tmp_path / f"{name}_golden")
    try:
        faults = find_faults(tmp_path / f"{name}_golden")
    finally:
        (tmp_path / f"{name}_golden").rename(classifiers / f"{name}_golden")
    assert f"{name} is another file" in faults
    assert len([fault for fault in faults if "differs" in fault]) == COUNT


@pytest.mark.parametrize("decoded", [False, True])
@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_detectors_and_segmenters(task: str, decoded: bool, models: Path, tmp_path: Path, valid: Any) -> None:
    pytest.importorskip("openvino")
    report = export(models / f"{task}.safetensors", "litert,onnx,openvino", tmp_path, decoded=decoded, golden=2)
    assert [Path(str(row["golden"])) for row in report.rows] == [
        tmp_path / f"{Path(str(row['file'])).name}_golden" for row in report.rows
    ]
    assert len(folders(tmp_path)) == 3
    for folder in folders(tmp_path):
        golden = check_whole(folder, valid)
        assert [case["source"] for case in golden["cases"]] == ["synthetic image 1", "synthetic image 2"]
        assert all(case["top1"]["name"] in LABELS for case in golden["cases"])
        assert find_faults(folder) == []
        assert (golden["min_iou"] is None) == (task == "segmentation")
        faults = find_faults(folder, change=lambda values: np.ascontiguousarray(values[..., ::-1, :]))
        assert faults, folder


def test_an_int8_detector_that_decodes_has_the_tolerance_of_boxes(models: Path, tmp_path: Path, valid: Any) -> None:
    export(
        models / "detection.safetensors",
        "litert",
        tmp_path,
        precision="int8",
        calibrate=_annotated(models, tmp_path),
        decoded=True,
        max_drop=100,
        golden=2,
    )
    (folder,) = folders(tmp_path)
    golden = check_whole(folder, valid)
    assert golden["min_iou"] == 0.5
    assert all(case["source"].endswith(".png") for case in golden["cases"])
    assert find_faults(folder) == []


def _annotated(models: Path, place: Path) -> Path:
    """Photographs with a box each, in COCO's layout."""
    root = place / "coco"
    (root / "train").mkdir(parents=True)
    (root / "annotations").mkdir()
    images, annotations = [], []
    for k in range(16):
        soft_picture(k, (96, 96)).save(root / "train" / f"{k}.png")
        images.append({"id": k, "file_name": f"{k}.png", "width": 96, "height": 96})
        box = {"bbox": [20, 20, 40, 40], "area": 1600, "iscrowd": 0}
        annotations.append({"id": k, "image_id": k, "category_id": 1 + k % 3, **box})
    categories = [{"id": k, "name": name} for k, name in enumerate(LABELS, 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content))
    return root


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_executorch(precision: Any, models: Path, tmp_path: Path, valid: Any) -> None:
    library = pytest.importorskip("executorch.extension.pybindings.portable_lib")

    def run(file: Path, values: NDArray[Any]) -> list[NDArray[Any]]:
        program = library._load_for_executorch(str(file))
        return [each.numpy() for each in program.forward([torch.from_numpy(values.copy())])]

    data = {"calibrate": models / "photos", "max_drop": 30} if precision == "int8" else {}
    export(models / "classification.safetensors", "executorch", tmp_path, precision=precision, golden=2, **data)
    (folder,) = folders(tmp_path)
    golden = check_whole(folder, valid)
    assert (golden["input"]["dtype"], golden["input"]["layout"]) == ("float32", "NCHW")
    assert golden["input"]["reads"] == ("pixels" if precision == "int8" else "normalized")
    assert find_faults(folder, run) == []
    assert find_faults(folder, run, change=lambda values: np.ascontiguousarray(values[:, ::-1]))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_coreml(precision: Any, models: Path, tmp_path: Path, valid: Any) -> None:
    pytest.importorskip("coremltools")
    from fusiform.exporting.targets.coreml import open_package

    def run(file: Path, values: NDArray[Any]) -> list[NDArray[Any]]:
        return list(open_package(file).run(values).values())

    export(models / "classification.safetensors", "coreml", tmp_path, precision=precision, golden=2)
    (folder,) = folders(tmp_path)
    golden = check_whole(folder, valid)
    assert (golden["input"]["reads"], golden["runtime"]) == ("image", "coreml, interpreted")
    assert len(golden["files"]) == 3
    assert golden["outputs"][0]["tolerance"] == (1e-3 if precision == "float32" else 3e-2)
    assert find_faults(folder, run) == []


# Which inputs


def test_the_same_command_gives_the_same_bytes(models: Path, classifiers: Path, tmp_path: Path) -> None:
    export(models / "classification.safetensors", "litert", tmp_path, data=models / "photos", golden=COUNT)
    (folder,) = folders(tmp_path)
    for path in folder.iterdir():
        assert path.read_bytes() == (classifiers / folder.name / path.name).read_bytes(), path.name


def test_labelled_photographs_come_first_then_others_then_synthetic_images(models: Path, tmp_path: Path) -> None:
    from fusiform.data.dataset import Sample

    spec = open_model(models / "classification.safetensors").spec
    files = []
    for k in range(4):
        files.append(tmp_path / f"{k}.png")
        soft_picture(k).save(files[-1])
    files[2].write_bytes(b"no image")
    samples = [Sample(files[0], -1), Sample(files[1], 2), Sample(files[2], 0), Sample(files[3], -1)]
    found = choose_inputs(samples, spec, 5, labelled=True)
    wanted = [("1.png", "newt"), ("0.png", None), ("3.png", None)]
    made = [(f"synthetic image {k}", None) for k in (1, 2)]
    assert [(one.source, one.label) for one in found] == [*wanted, *made]
    assert (found[3].pixels != found[4].pixels).any()
    assert [one.source for one in choose_inputs(samples, spec, 1, labelled=True)] == ["1.png"]
    unlabelled = choose_inputs(samples, spec, 3, labelled=False)
    assert [(one.source, one.label) for one in unlabelled] == [("0.png", None), ("3.png", None), ("1.png", None)]


def test_blue_first_is_told_and_the_image_is_red_first(models: Path, tmp_path: Path, valid: Any) -> None:
    model = open_model(models / "classification.safetensors")
    spec = model.spec.replace(preprocess=Preprocess(32, 32, color_order="bgr"))
    write_safetensors(tmp_path / "bgr.safetensors", model.state(), spec)
    export(tmp_path / "bgr.safetensors", "onnx,litert", tmp_path / "out", golden=1)
    for folder in folders(tmp_path / "out"):
        assert check_whole(folder, valid)["input"]["color_order"] == "bgr"
        assert find_faults(folder) == []


# What is left


def test_a_file_that_fails_leaves_no_golden_folder(models: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def harmed(graph, precision, place):
        nodes = list(graph.nodes)
        nodes[3] = job.dataclasses.replace(nodes[3], weight=nodes[3].weight * np.float32(1.3))
        return TARGETS["litert"].writer()(job.dataclasses.replace(graph, nodes=tuple(nodes)), precision, place)

    good = TARGETS["litert"]
    monkeypatch.setattr(
        job, "TARGETS", {**TARGETS, "litert": Target("litert", good.precisions, good.tolerance, lambda: harmed)}
    )
    with pytest.raises(ExportError) as caught:
        export(models / "classification.safetensors", "litert,onnx", tmp_path, golden=1)
    assert [row["golden"] is None for row in caught.value.report.rows] == [True, False]
    assert [folder.name for folder in folders(tmp_path)] == ["mobilenet_v2_x0_5_float32.onnx_golden"]


def test_an_interrupted_one_leaves_neither(models: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def interrupted(path: Path, data: bytes) -> dict[str, str]:
        if path.name.startswith("001"):
            raise KeyboardInterrupt
        path.write_bytes(data)
        return {"path": path.name, "sha256": ""}

    monkeypatch.setattr("fusiform.exporting.golden._write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(models / "classification.safetensors", "litert", tmp_path, golden=2)
    assert list(tmp_path.iterdir()) == []


def test_answers_other_than_those_that_were_verified_are_refused(
    models: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    from fusiform.exporting import golden

    real = golden.open_plain

    def other(model):
        plain = real(model)
        return plain._replace(run=lambda pixels: [2 * values for values in plain.run(pixels)])

    monkeypatch.setattr(golden, "open_plain", other)
    with pytest.raises(ExportError, match=r"litert: .*float32\.tflite: does not answer the golden inputs as it does"):
        export(models / "classification.safetensors", "litert", tmp_path, golden=1)
    assert [path.name for path in tmp_path.iterdir()] == ["mobilenet_v2_x0_5_float32_export.json"]


def test_a_new_export_replaces_the_folder_and_none_is_written_unasked(models: Path, tmp_path: Path) -> None:
    model = models / "classification.safetensors"
    (row,) = export(model, "litert", tmp_path).rows
    assert row["golden"] is None
    assert folders(tmp_path) == []
    export(model, "litert", tmp_path, golden=3)
    export(model, "litert", tmp_path, golden=1)
    (folder,) = folders(tmp_path)
    assert len(list(folder.glob("*.png"))) == 1
    assert verify(tmp_path, model).passed  # the folder beside it is not taken for a model
    with pytest.raises(UsageError, match="golden must be at least 0, got -1"):
        export(model, "litert", tmp_path, golden=-1)


def test_the_command(models: Path, tmp_path: Path, valid: Any) -> None:
    model = str(models / "classification.safetensors")
    arguments = ["export", model, "--to", "litert", "--out", str(tmp_path), "--golden", "2", "--format", "json"]
    result = CliRunner().invoke(commands, arguments)
    assert result.exit_code == 0, result.output
    (row,) = valid(result.stdout)["rows"]
    assert find_faults(Path(row["golden"])) == []
