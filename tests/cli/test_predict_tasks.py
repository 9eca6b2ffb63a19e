"""Boxes and masks through ``fusiform predict``, with networks whose answers are known."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

import fusiform.cli
from fusiform import engines
from fusiform.data.masks import PALETTE
from fusiform.data.preprocess import Placement
from fusiform.drawing.grid import GAP
from fusiform.graph.build import build_graph
from fusiform.graph.shapes import state_shapes
from fusiform.graph.tflite import to_tflite
from fusiform.prediction.answer import ALONE, DRAWN_THUMBNAIL
from fusiform.spec import ModelSpec, Preprocess
from fusiform.tasks import detection, segmentation
from fusiform.zoo.model import Model

DETECTOR = ModelSpec(
    "mobilenet_v2",
    1.0,
    ("dog", "traffic light"),
    task="detection",
    label_ids=("18", "10"),
    input_size=64,
    preprocess=Preprocess(resize=64, crop=64, fit="stretch"),
)
SEGMENTER = ModelSpec(
    "mobilenet_v2",
    1.0,
    ("background", "cat", "bird"),
    task="segmentation",
    input_size=33,
    output_stride=16,
    preprocess=Preprocess(resize=33, crop=33, fit="pad", mean=(0, 0, 0)),
)
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


class BoxEngine:
    """Finds a dog in 0.025 to 0.975 of a picture that is red, and a smaller traffic light too if it is red at all."""

    spec = DETECTOR

    def run(self, batch: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        answers = {name: np.zeros((len(batch), *shape), np.float32) for name, shape in self.spec.answers.items()}
        red = batch[..., 0].mean((1, 2)) / 255
        answers["logits"][..., 0] = 20  # background
        # The last map is a single cell: its first prior is the square of scale 0.95 in the middle of the picture, its
        # second is twice as wide as high.
        answers["logits"][:, -6, 1] = 20 + 4 * red  # 1 / (1 + e^-4) = 0.982 where all is red
        answers["logits"][:, -5, 2] = np.where(red > 0, 21, 0)  # 1 / (1 + e^-1) = 0.731
        answers["logits"][red == 0, :, 1:] = 0
        return answers


def boxes_of(result: Result) -> list[dict[str, Any]]:
    """The boxes of the only picture, as JSON has them."""
    (answer,) = json.loads(result.stdout)["predictions"]
    boxes: list[dict[str, Any]] = answer["boxes"]
    return boxes


class MaskEngine:
    """Takes red for background, green for a cat and blue for the third."""

    spec = SEGMENTER

    def run(self, batch: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        return {"logits": batch[:, ::16, ::16].astype(np.float32)}


def serve(monkeypatch: pytest.MonkeyPatch, engine: type) -> None:
    """Let every model be one that this engine answers for."""
    monkeypatch.setattr(engines, "open_engine", lambda *_, **__: engine())
    model = Model(Path("model.tflite"), "tflite", engine.spec, b"")
    monkeypatch.setattr("fusiform.prediction.predictor.open_model", lambda _: model)


@pytest.fixture
def detector(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, BoxEngine)


@pytest.fixture
def segmenter(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, MaskEngine)


def picture(path: Path, *colors: tuple[int, int, int], size: tuple[int, int] = (200, 100)) -> Path:
    """Stripes of equal width."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stripes = Image.fromarray(np.array([colors], np.uint8))
    stripes.resize(size, Image.Resampling.NEAREST).save(path)
    return path


def run(*arguments: str | Path, stdin: bytes | None = None) -> Result:
    words = ["predict", *map(str, arguments)]
    result = CliRunner().invoke(fusiform.cli.commands, words, input=stdin, prog_name="fusiform")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def mask(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "P")
        return np.asarray(image)


@pytest.mark.usefixtures("detector")
def test_a_table_of_boxes(tmp_path: Path) -> None:
    found, none = picture(tmp_path / "a.png", RED, size=(400, 200)), picture(tmp_path / "b.png", GREEN)
    result = run(found, none)
    assert result.exit_code == 0
    # 0.95 x sqrt(2) = 1.34 is wider than the picture, 0.95 / sqrt(2) = 0.672 of its height.
    assert result.stdout.splitlines() == [
        str(found),
        "                                               left  top  width  height",
        f"   98.2%  {'█' * 19}▌  dog              10    5    380     190",
        f"   73.1%  {'█' * 14}▌       traffic light     0   33    400     134",
        str(none),
        "  nothing found",
    ]


@pytest.mark.usefixtures("detector")
def test_cocos_result_format(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    files = [
        picture(tmp_path / "000000000139.png", RED),
        picture(tmp_path / "COCO_val2014_000000000285.png", RED, size=(64, 64)),
        picture(tmp_path / "7.png", GREEN),
    ]
    (tmp_path / "bad.png").write_bytes(b"")
    out = tmp_path / "results.json"
    result = run(*files, tmp_path / "bad.png", "--format", "coco", "--out", out)
    assert result.exit_code == 0
    assert "bad.png: is empty" in result.stderr
    data = coco.COCO()
    data.dataset = {
        "images": [{"id": k, "width": 200, "height": 100} for k in (7, 139, 285)],
        "categories": [{"id": 18, "name": "dog"}, {"id": 10, "name": "traffic light"}],
        "annotations": [],
    }
    data.createIndex()
    loaded = data.loadRes(str(out))
    (dog,) = loaded.loadAnns(loaded.getAnnIds(imgIds=[139], catIds=[18]))
    assert dog["bbox"] == pytest.approx([5, 2.5, 190, 95], abs=1e-3)
    assert dog["score"] == pytest.approx(1 / (1 + np.exp(-4)), abs=1e-5)
    assert (dog["name"], dog["path"]) == ("dog", str(files[0]))
    assert [len(loaded.getAnnIds(imgIds=[k])) for k in (139, 285, 7)] == [2, 2, 0]


@pytest.mark.usefixtures("detector")
def test_json_has_each_picture_with_its_boxes(tmp_path: Path, valid: Callable[..., Any]) -> None:
    files = [picture(tmp_path / "a.png", RED), picture(tmp_path / "b.png", GREEN)]
    (tmp_path / "bad.png").write_bytes(b"")
    content = valid(run(*files, tmp_path / "bad.png", "--format", "json").stdout)
    assert (content["schema"], content["task"]) == ("fusiform.predictions/1", "detection")
    red, green, bad = content["predictions"]
    assert [(box["index"], box["name"]) for box in red["boxes"]] == [(0, "dog"), (1, "traffic light")]
    assert red["boxes"][0]["bbox"] == pytest.approx([5, 2.5, 190, 95], abs=1e-3)
    assert (red["width"], red["height"], red["error"]) == (200, 100, None)
    assert green["boxes"] == []
    assert bad.keys() == {"path", "error"}
    lines = run(*files, tmp_path / "bad.png", "--format", "jsonl").stdout.splitlines()
    assert [json.loads(line) for line in lines] == content["predictions"]


@pytest.mark.usefixtures("segmenter")
def test_cocos_format_is_for_detectors(tmp_path: Path) -> None:
    result = run(picture(tmp_path / "a.png", RED), "--format", "coco")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--format coco is for detection" in result.stderr


@pytest.mark.usefixtures("detector")
def test_a_picture_without_a_number_has_its_place(tmp_path: Path) -> None:
    # The second is named by a number, too long to be COCO's; the third has the number that is the first one's place.
    names = ["one.png", "2025112210305900.png", "1.png", "a/000000000007.png", "b/7.png"]
    paths = [picture(tmp_path / name, RED) for name in names]
    result = run(*paths, "-", "--format", "coco", "--limit", "1", stdin=paths[0].read_bytes())
    assert [box["image_id"] for box in json.loads(result.stdout)] == [1, 2, 1, 7, 7, 6]
    assert result.stderr == "fusiform: 2 pictures have the image_id of another one: go by their paths\n"


@pytest.mark.usefixtures("detector")
def test_nothing_found_is_an_empty_list(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", GREEN)
    result = run(path, "--format", "coco")
    assert json.loads(result.stdout) == []
    (answer,) = json.loads(run(path, "--format", "json").stdout)["predictions"]
    assert (answer["error"], answer["boxes"]) == (None, [])
    assert result.exit_code == 0


@pytest.mark.usefixtures("detector")
def test_boxes_as_csv(tmp_path: Path) -> None:
    path = picture(tmp_path / "12.png", RED)
    result = run(path, tmp_path / "absent.png", "--format", "csv", "--limit", "1")
    (box, error) = csv.DictReader(io.StringIO(result.stdout_bytes.decode(), newline=""))
    assert [box[name] for name in ("path", "image_id", "category_id", "name")] == [str(path), "12", "18", "dog"]
    numbers = [float(box[name]) for name in ("score", "left", "top", "width", "height")]
    assert numbers == pytest.approx([0.982014, 5, 2.5, 190, 95], abs=1e-3)
    assert box["error"] == ""
    assert "no such file" in error["error"]
    assert error["score"] == ""


@pytest.mark.usefixtures("detector")
@pytest.mark.parametrize(
    ("options", "names"),
    [
        ([], ["dog", "traffic light"]),
        (["--score", "0.75"], ["dog"]),
        (["--score", "0.99"], []),
        (["--limit", "1"], ["dog"]),
        (["--batch", "2", "--threads", "2"], ["dog", "traffic light"]),
    ],
)
def test_options_of_detectors(tmp_path: Path, options: list[str], names: list[str]) -> None:
    result = run(picture(tmp_path / "a.png", RED), *options, "--format", "json")
    assert [box["name"] for box in boxes_of(result)] == names


def test_iou_says_what_is_one_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Twice(BoxEngine):
        def run(self, batch: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
            answers = super().run(batch)
            answers["logits"][..., 1] = np.maximum(answers["logits"][..., 1], answers["logits"][..., 2])
            answers["logits"][..., 2] = 0
            return answers

    serve(monkeypatch, Twice)
    path = picture(tmp_path / "a.png", RED)
    # The square and the oblong share 0.95 x 0.672 of 0.95 x 0.95 + 0.05 x 0.672: 0.682.
    counts = [len(boxes_of(run(path, *o, "--format", "json"))) for o in ([], ["--iou", "0.7"])]
    assert counts == [1, 2]


@pytest.mark.usefixtures("detector")
def test_other_names_keep_cocos_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("Hund\nAmpel\n", encoding="utf-8")
    path = picture(tmp_path / "a.png", RED)

    def found() -> list[tuple[int, str]]:
        boxes = json.loads(run(path, "--labels", labels, "--format", "coco").stdout)
        return [(box["category_id"], box["name"]) for box in boxes]

    assert found() == [(18, "Hund"), (10, "Ampel")]
    for ids in ((), ("n1", "n2")):
        monkeypatch.setattr(BoxEngine, "spec", DETECTOR.replace(label_ids=ids))
        serve(monkeypatch, BoxEngine)
        assert found() == [(1, "Hund"), (2, "Ampel")]


@pytest.mark.parametrize(
    ("spec", "options", "words"),
    [
        (DETECTOR, ["--top", "3"], "top is for classification, and the model (ssdlite_mobilenet_v2_x1_0) is for"),
        (DETECTOR, ["--masks", "masks"], "--masks is for segmentation, and the model (ssdlite_mobilenet_v2_x1_0)"),
        (SEGMENTER, ["--top", "5"], "top is for classification"),
        (SEGMENTER, ["--score", "0.5"], "score is for detection, and the model (deeplab_v3_mobilenet_v2_x1_0) is for"),
        (SEGMENTER, ["--iou", "0.5"], "iou is for detection"),
        (SEGMENTER, ["--limit", "1"], "limit is for detection"),
        (ModelSpec("mobilenet_v2", 1.0, ("a", "b")), ["--limit", "1"], "limit is for detection"),
        (ModelSpec("mobilenet_v2", 1.0, ("a", "b")), ["--masks", "masks"], "--masks is for segmentation"),
        (SEGMENTER.replace(labels=tuple(map(str, range(300)))), ["--masks", "masks"], "256 classes apart"),
    ],
)
def test_an_option_of_another_task_is_wrong_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: ModelSpec, options: list[str], words: str
) -> None:
    serve(monkeypatch, type("E", (), {"spec": spec}))
    monkeypatch.chdir(tmp_path)
    result = run(picture(tmp_path / "a.png", RED), *options)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert words in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.usefixtures("segmenter")
def test_classes_and_their_shares(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", RED, GREEN, size=(100, 50))
    result = run(path, picture(tmp_path / "b.png", RED))
    lines = result.stdout.splitlines()
    assert lines[0] == str(path)
    shares = {line.split()[-1]: float(line.split("%")[0]) for line in lines[1:3]}
    assert shares == pytest.approx({"background": 50, "cat": 50}, abs=4)
    assert lines[3:] == [str(tmp_path / "b.png"), f"  100.0% of the picture  {'█' * 20}  background"]

    (record,) = json.loads(run(path, "--format", "json").stdout)["predictions"]
    assert {name: record[name] for name in ("path", "width", "height")} == {
        "path": str(path),
        "width": 100,
        "height": 50,
    }
    assert {entry["index"]: entry["name"] for entry in record["classes"]} == {0: "background", 1: "cat"}
    assert sum(entry["share"] for entry in record["classes"]) == pytest.approx(1, abs=1e-5)
    rows = csv.DictReader(io.StringIO(run(path, "--format", "csv").stdout_bytes.decode(), newline=""))
    assert [{"index": int(row["index"]), "name": row["name"], "share": float(row["share"])} for row in rows] == record[
        "classes"
    ]
    (error,) = json.loads(run(tmp_path / "absent.png", "--format", "json").stdout)["predictions"]
    assert set(error) == {"path", "error"}


@pytest.mark.usefixtures("segmenter")
def test_masks_are_of_the_upright_photographs_size(tmp_path: Path, valid: Callable[..., Any]) -> None:
    sideways = Image.new("RGB", (66, 99), RED)
    sideways.paste(BLUE, (0, 0, 66, 50))
    exif = sideways.getexif()
    exif[0x0112] = 6  # to be turned clockwise: what is the upper half becomes the right one
    sideways.save(tmp_path / "photo.jpg", exif=exif, quality=95)
    folder = tmp_path / "out" / "masks"
    (record,) = valid(run(tmp_path / "photo.jpg", "--masks", folder, "--format", "json").stdout)["predictions"]
    assert record["mask"] == str(folder / "photo.png")
    classes = mask(folder / "photo.png")
    assert classes.shape == (66, 99)
    assert (classes[:, :30] == 0).all()
    assert (classes[:, 57:] == 2).all()
    with Image.open(folder / "photo.png") as image:
        assert image.convert("RGB").getpixel((98, 0)) == tuple(PALETTE[2])
    assert run(tmp_path / "photo.jpg", "--masks", folder).stdout.endswith(f"\n  mask: {folder / 'photo.png'}\n")
    (row, *_) = csv.DictReader(
        io.StringIO(run(tmp_path / "photo.jpg", "--masks", folder, "--format", "csv").stdout, newline="")
    )
    assert row["mask"] == str(folder / "photo.png")


@pytest.mark.usefixtures("segmenter")
def test_pictures_of_one_name_have_masks_of_two(tmp_path: Path) -> None:
    paths = [
        picture(tmp_path / "in" / name, c) for name, c in (("a/x.png", GREEN), ("b/x.png", BLUE), ("x y.png", RED))
    ]
    result = run(*paths, "-", "--masks", tmp_path / "m", "--format", "jsonl", stdin=paths[0].read_bytes())
    names = [Path(json.loads(line)["mask"]).name for line in result.stdout.splitlines()]
    assert names == ["x.png", "x-2.png", "x y.png", "picture.png"]
    assert [int(mask(tmp_path / "m" / name).max()) for name in names] == [1, 2, 0, 1]


@pytest.mark.usefixtures("segmenter")
def test_masks_do_not_go_where_the_photographs_are(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", GREEN)
    before = path.read_bytes()
    result = run(path, "--masks", tmp_path)
    assert result.exit_code == 1
    assert f"{tmp_path}: is the folder of {path}" in result.stderr
    assert path.read_bytes() == before
    result = run(path, "--masks", path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"cannot write masks into {path}" in result.stderr


@pytest.mark.usefixtures("detector")
def test_one_picture_is_drawn_at_its_own_size(tmp_path: Path) -> None:
    path, saved = picture(tmp_path / "a.png", RED, size=(700, 500)), tmp_path / "drawn.png"
    without = run(path)
    result = run(path, "--save", saved)
    assert (result.stdout, result.stderr) == (without.stdout, "")
    with Image.open(saved) as image:
        drawn = np.asarray(image)
    assert drawn.shape == (500, 700, 3)
    # The dog's box is at 0.025 of either side, its line two pixels wide.
    assert len(np.unique(drawn[200, 18:20], axis=0)) == 1
    assert tuple(drawn[200, 18]) != RED
    assert (drawn[200, 25:600] == RED).all()

    large = picture(tmp_path / "large.png", RED, size=(2 * ALONE, 900))
    run(large, "--save", saved)
    with Image.open(saved) as image:
        assert image.size == (ALONE, 450)


@pytest.mark.usefixtures("detector")
def test_several_pictures_are_drawn_as_a_grid(tmp_path: Path) -> None:
    paths = [picture(tmp_path / f"{k}.png", c, size=(900, 900)) for k, c in enumerate((RED, GREEN))]
    (tmp_path / "bad.png").write_bytes(b"")
    run(*paths, tmp_path / "bad.png", "--save", tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as image:
        drawn = np.asarray(image)
    assert drawn.shape[1] == GAP + 2 * (DRAWN_THUMBNAIL + GAP)
    first, second = (
        drawn[GAP : GAP + DRAWN_THUMBNAIL, left : left + DRAWN_THUMBNAIL] for left in (GAP, 2 * GAP + DRAWN_THUMBNAIL)
    )
    assert (first[150, 20:350] == RED).all()
    assert len(np.unique(first.reshape(-1, 3), axis=0)) > 2
    assert (second == GREEN).all()
    # A single picture that cannot be read is a grid's grey tile.
    result = run(tmp_path / "bad.png", "--save", tmp_path / "grid.png")
    assert result.exit_code == 1
    with Image.open(tmp_path / "grid.png") as image:
        assert image.getpixel((GAP + 5, GAP + 5)) == (0xDD, 0xDD, 0xDD)


@pytest.mark.usefixtures("segmenter")
def test_masks_are_drawn_over_a_legend(tmp_path: Path) -> None:
    path, saved = picture(tmp_path / "a.png", RED, BLUE, size=(400, 300)), tmp_path / "drawn.png"
    assert run(path, "--save", saved).stderr == ""
    with Image.open(saved) as image:
        drawn = np.asarray(image).astype(int)
    assert drawn.shape[1] == 400
    assert drawn.shape[0] > 310
    assert (drawn[:300, :150] == RED).all()
    assert (drawn[150, 250:390] == drawn[150, 300]).all()
    swatch = 2 * drawn[150, 300] - BLUE
    assert (np.abs(drawn[305:] - swatch).max(-1) <= 1).sum() >= 100
    run(path, picture(tmp_path / "b.png", RED), "--save", saved)
    with Image.open(saved) as image:
        below = np.asarray(image).astype(int)[GAP + DRAWN_THUMBNAIL + 64 :]
    assert (np.abs(below - swatch).max(-1) <= 1).sum() >= 100
    # Where there is nothing but background there is nothing to explain.
    run(tmp_path / "b.png", "--save", saved)
    with Image.open(saved) as image:
        assert image.size == (200, 100)


def random_state(spec: ModelSpec) -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(3)
    state: dict[str, NDArray[Any]] = {}
    for name, shape in state_shapes(spec).items():
        fans = max(1, int(np.prod(shape[1:])))
        if name.endswith("num_batches_tracked"):
            state[name] = np.array(5)
        elif name.endswith(("running_var", "weight")) and len(shape) == 1:
            state[name] = random.uniform(0.7, 1.3, shape).astype(np.float32)
        else:
            state[name] = random.normal(0, np.sqrt(1.5 / fans), shape).astype(np.float32)
    return state


@pytest.mark.parametrize("spec", [DETECTOR, SEGMENTER], ids=lambda spec: spec.task)
def test_a_model_file_of_either_task_is_run(tmp_path: Path, spec: ModelSpec) -> None:
    """The command's answers are what decoding the runtime's answer gives."""
    if spec.task == "segmentation":
        preprocess = Preprocess(resize=97, crop=97, fit="pad", mean=(0, 0, 0))
        spec = spec.replace(input_size=97, preprocess=preprocess, labels=tuple(map(str, range(12))))
    spec = spec.replace(architecture="shufflenet_v2", width=0.5)
    model = tmp_path / "model.tflite"
    model.write_bytes(to_tflite(build_graph(spec, random_state(spec))))
    pixels = np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8)
    image = Image.fromarray(pixels).resize((140, 100), Image.Resampling.BICUBIC)
    image.save(tmp_path / "a.png")
    options = ["--model", model, "--threads", "1", "--format", "json"]
    if spec.task == "detection":
        batch = np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR))[None]
        answer = engines.open_engine(model).run(batch)
        (wanted,) = detection.decode(**answer, spec=spec, sizes=[(140, 100)], score_threshold=0.2)
        assert wanted.boxes
        found = boxes_of(run(tmp_path / "a.png", *options, "--score", "0.2"))
        assert [box["name"] for box in found] == [box.name for box in wanted.boxes]
        assert [box["score"] for box in found] == pytest.approx([box.score for box in wanted.boxes], rel=1e-4)
    else:
        batch = np.zeros((1, 97, 97, 3), np.uint8)
        batch[0, :69] = np.asarray(image.resize((97, 69), Image.Resampling.BILINEAR))
        logits = engines.open_engine(model).run(batch)["logits"][0]
        place = Placement(97, 97, 0, 0, 97, 69)
        wanted_map = segmentation.decode(logits, spec, (140, 100), placement=place)
        assert run(tmp_path / "a.png", *options, "--masks", tmp_path / "masks").exit_code == 0
        assert len(np.unique(wanted_map.classes)) > 1
        assert (mask(tmp_path / "masks" / "a.png") == wanted_map.classes).mean() > 0.999


@pytest.mark.slow
def test_real_weights_outline_the_samoyed(tmp_path: Path, shared_data: Path) -> None:
    from fusiform.data.masks import VOC_CLASSES
    from fusiform.porting.deeplab_v3 import port
    from fusiform.zoo.checkpoint import read_safetensors, write_safetensors

    half = (0.5, 0.5, 0.5)
    spec = ModelSpec(
        "mobilenet_v2",
        1.0,
        VOC_CLASSES,
        task="segmentation",
        input_size=513,
        output_stride=16,
        padding="same",
        preprocess=Preprocess(resize=513, crop=513, mean=half, std=half, fit="pad"),
    )
    weights = read_safetensors(shared_data / "weights" / "deeplab_v3_mobilenet_v2_voc_tf.safetensors")[1]
    write_safetensors(tmp_path / "voc.safetensors", port(weights), spec)
    options = ["--model", tmp_path / "voc.safetensors", "--masks", tmp_path, "--save", tmp_path / "drawn.jpg"]
    result = run(shared_data / "dog.jpg", *options, "--format", "json")
    (record,) = json.loads(result.stdout)["predictions"]
    assert [entry["name"] for entry in record["classes"]] == ["background", "dog"]
    classes = mask(tmp_path / "dog.png")
    with Image.open(shared_data / "dog.jpg") as photograph:
        assert classes.shape == photograph.size[::-1]
    assert classes[650, 600] == 12  # on its breast
    assert (classes[:, :100] == 0).all()
