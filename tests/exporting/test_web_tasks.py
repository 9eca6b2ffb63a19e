"""What the page makes of a network's answers, in JavaScript, against what Python makes of them."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import fusiform.exporting.targets
from fusiform.data.preprocess import placement
from fusiform.drawing import overlay, text
from fusiform.drawing.overlay import _readable_on, color_of
from fusiform.graph.priors import IOU_THRESHOLD, MAX_BOXES, SCORE_THRESHOLD, prior_boxes
from fusiform.spec import ModelSpec, Preprocess
from fusiform.tasks import classification, detection, segmentation

sys.path.insert(0, str(Path(__file__).parent))

from node import run_tests

sys.path.pop(0)

PAGE = Path(fusiform.exporting.targets.__file__).with_name("web_page")
TESTS = Path(__file__).with_name("web_tasks.test.mjs")


def as_text(values, kind="<f4"):
    return base64.b64encode(np.ascontiguousarray(values, kind).tobytes()).decode()


def names(count):
    return tuple(f"class {k}" for k in range(count))


def spec_of(task, classes, side, fit="stretch", **changes):
    preprocess = Preprocess(side, side, fit=fit)
    return ModelSpec("mobilenet_v2", 1.0, names(classes), task=task, input_size=side, preprocess=preprocess, **changes)


def classifications():
    """Floats, and a quantised network's few levels, which are often equal."""
    for seed in range(3):
        random = np.random.default_rng(seed)
        for classes in (1, 2, 12, 91, 1000):
            spec = ModelSpec("mobilenet_v2", 1.0, names(classes))
            logits = random.normal(scale=8, size=classes)
            shares = random.dirichlet(np.ones(classes))
            yield "logits", logits, spec, 5
            yield "levels", (logits * 2).round() / 2, spec.replace(temperature=1.7), 10
            yield "all levels", logits.round(), spec.replace(temperature=0.3), 2 * classes
            yield "one", logits, spec, 1
            yield "probabilities", shares, spec.replace(output="probabilities"), 5
            yield "levels of probability", (shares * 256).round() / 256, spec.replace(output="probabilities"), 20
    three = ModelSpec("mobilenet_v2", 1.0, names(3))
    yield "equal", np.zeros(3), three, 5
    yield "huge", [3e38, -3e38, 0], three, 3
    yield "all too small to be told apart", [0, -900, -800], three, 3
    yield "a rounding error above one", [1.0039, 0, 1], three.replace(output="probabilities"), 3


def detections():
    """Random boxes, few and many; levels of a quantised network; nothing found, nothing left of a box."""
    photographs = [(320, 320), (1, 1), (4032, 3024), (37, 900)]
    for seed in range(4):
        random = np.random.default_rng(seed)
        for classes, side in ((1, 96), (3, 320), (7, 97), (91, 96)):
            spec = spec_of("detection", classes, side, scores=("softmax", "sigmoid")[seed % 2])
            priors = len(prior_boxes(side))
            logits = random.normal(scale=3, size=(priors, 1 + classes))
            codes = random.normal(scale=4, size=(priors, 4))
            size = photographs[seed]
            yield "boxes", logits, codes, spec, size, {}
            yield "every box", logits, codes, spec, size, {"scoreThreshold": 0.001}
            yield "levels", logits.round(), codes.round(), spec, size, {"scoreThreshold": 0.05}
            yield "some left", logits, codes / 4, spec, size, {"limit": 3, "iouThreshold": 0.3, "scoreThreshold": 0.1}
            yield "the same boxes", np.round(logits / 2), np.zeros_like(codes), spec, size, {"iouThreshold": 0.2}
            yield "nothing", np.where(np.arange(1 + classes), -20, 20) + 0 * logits, codes, spec, size, {}
            yield "outside", logits, 50 * codes, spec, size, {"scoreThreshold": 0.01}
    yield "far too large", 1e4 * logits, 1e30 * codes, spec, size, {}
    # Neither the threshold itself is above it, nor does a box that is another one share more than all with it.
    whole = np.tile([0.0, 0.0, 99.0, 99.0], (priors, 1))
    yield "no more than the threshold", np.minimum(logits.round(), 0), codes, spec, size, {"scoreThreshold": 0.5}
    yield "the whole picture", logits, whole, spec, size, {"iouThreshold": 1}


def decoded_detections():
    spec = spec_of("detection", 3, 96, decoded=True)
    for seed in range(3):
        random = np.random.default_rng(seed)
        scores = np.sort(random.random(100))[::-1].copy()
        scores[60:] = 0
        scores[20 + seed] = 0.3  # the threshold, in single precision
        middles, sides = random.random((100, 2)), random.random((100, 2)) / 2
        sides[::9, seed % 2] = 0
        boxes = np.concatenate([middles - sides, middles + sides], axis=1)
        answers = {"boxes": boxes, "labels": random.integers(0, 3, 100), "scores": scores}
        yield f"{seed}", answers, spec, (640, 427), [{}, {"scoreThreshold": 0.001, "limit": 7}][seed % 2]
    nothing = {"boxes": np.zeros((100, 4)), "labels": np.zeros(100), "scores": np.zeros(100)}
    yield "nothing", nothing, spec, (640, 427), {}


def segmentations():
    """Random and smooth logits, few levels, both rules of corners, both fits, photographs larger and smaller."""
    for seed in range(3):
        random = np.random.default_rng(seed)
        for classes in (1, 2, 21, 91, 255, 256):
            for fit, aligned, stride in (("stretch", True, 16), ("pad", False, 16), ("pad", True, 8)):
                side = (65, 64, 97)[seed]
                spec = spec_of("segmentation", classes, side, fit, output_stride=stride, align_corners=aligned)
                logits = random.normal(scale=5, size=spec.network_answers["logits"])
                size = [(200, 133), (31, 90), (1, 77), (64, 64)][(seed + classes) % 4]
                kind = ("logits", "levels")[(seed + stride // 8) % 2]
                yield kind, logits.round() if kind == "levels" else logits, spec, size
        yield "equal", np.zeros_like(logits), spec, (50, 40)
        spec = spec.replace(labels=names(5), decoded=True)
        yield "probabilities", random.dirichlet(np.ones(5), size=(side, side)), spec, (120, 80)
    spec = spec_of("segmentation", 21, 513, output_stride=16)
    yield "12 megapixels", random.normal(size=(33, 33, 21)), spec, (4032, 3024)


LONG = "a name that is far too long for any photograph that is as small as these are, and nonetheless goes on"
CLASSES = (
    "person",
    "",
    LONG,
    "Zu\u0308rich \N{HANGUL SYLLABLE GA}\n\tx \x07",
    "q\u0301" * 90,
    "\N{CAT FACE}" * 40,
    "a b " * 40,
)
"""Short, long and none; letters with marks, of two units in JavaScript, and what is no letter."""


def drawn_boxes():
    """Boxes on canvases smaller and larger than the photograph; in every second case some are narrower than lines."""
    canvases = (160, 120), (1300, 40), (90, 200), (301, 97), (9, 5)
    photographs = (160, 120), (1300, 40), (360, 801), (60, 33), (9, 5)
    for seed, (canvas, size) in enumerate(zip(canvases, photographs, strict=True)):
        random = np.random.default_rng(seed)
        for count, options in ((0, {}), (3, {}), (9, {}), (40, {"scores": False}), (12, {"textSize": 17})):
            first = 0.7 * random.random((count, 2))
            last = np.minimum(first + 0.3 + random.random((count, 2)), 1)
            if count == 9:
                last[::2, seed % 2] = first[::2, seed % 2] + 0.003
            edges = np.concatenate([first, last], axis=1) * (*size, *size)
            scores = np.sort(random.choice([0.125, 0.335, 0.995, 1, 0.5, *random.random(5)], count))[::-1]
            classes = random.integers(len(CLASSES), size=count)
            boxes = [
                detection.Box(int(k), CLASSES[k], float(score), *map(float, box))
                for k, score, box in zip(classes, scores, edges, strict=True)
            ]
            yield canvas, detection.Detections(tuple(boxes), *size), options


def drawn_masks():
    for seed, (canvas, size) in enumerate(
        [((70, 150), (70, 150)), ((97, 31), (40, 60)), ((1, 1), (9, 9)), ((1500, 3), (1500, 3))]
    ):
        random = np.random.default_rng(seed)
        blocks = random.integers(0, 5, (1 + size[1] // 9, 1 + size[0] // 9), np.uint8).repeat(9, 0).repeat(9, 1)
        edge = np.ones_like(blocks)
        edge[0], edge[:, size[0] - 1] = 7, 0
        for classes, options in (
            (edge, {}),
            (blocks, {}),
            (random.integers(0, 150, blocks.shape, np.uint8), {"alpha": 0.3}),
        ):
            yield canvas, segmentation.SegmentationMap(classes[: size[1], : size[0]], names(150)), options


def noise(canvas):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (canvas[1], canvas[0], 3), np.uint8))


def drawings(monkeypatch):
    """What Python draws, but for letters, of which fonts decide: lines are listed, and all letters are as wide.

    Pillow frames boxes that are narrower than two lines with rounded ends, which is no aim: their pixels are left out.
    """
    lines = []

    def note(draw, line, x, baseline, color, *, size):
        lines.append([line, x, baseline, color, size])

    for module in (text, overlay):
        monkeypatch.setattr(module, "text_width", lambda line, *, size: 0.5625 * size * len(line))
    monkeypatch.setattr(overlay, "draw_text", note)
    for canvas, found, options in drawn_boxes():
        image = noise(canvas)
        drawn = overlay.draw_boxes(image, found, scores=options.get("scores", True), size=options.get("textSize"))
        line = max(2, min(4, round(max(canvas) / 320)), round(options.get("textSize", 0) / 7))
        sides = [
            side * scale
            for box in found.boxes
            for side, scale in (
                (box.right - box.left, canvas[0] / found.width),
                (box.bottom - box.top, canvas[1] / found.height),
            )
        ]
        yield {
            "name": f"{len(found.boxes)} boxes on {canvas[0]} x {canvas[1]} {options}",
            "boxes": [dataclasses.asdict(box) for box in found.boxes],
            "size": {"width": found.width, "height": found.height},
            "lines": [*lines],
            **pictures(image, drawn if min(sides, default=9) > 2 * line else None, options),
        }
        lines.clear()
    for canvas, found, options in drawn_masks():
        image = noise(canvas)
        yield {
            "name": f"a mask on {canvas[0]} x {canvas[1]} {options}",
            "mask": as_text(found.classes, "u1"),
            "size": {"width": found.width, "height": found.height},
            **pictures(image, overlay.draw_mask(image, found, **options), options),
        }


def pictures(image, drawn, options):
    return {
        "canvas": {"width": image.width, "height": image.height},
        "image": as_text(image.convert("RGBA"), "u1"),
        "drawn": None if drawn is None else as_text(drawn.convert("RGBA"), "u1"),
        "options": options,
    }


def as_dict(spec):
    return json.loads(spec.to_json())


def write_vectors(folder, monkeypatch):
    vectors = {"classification": [], "detection": [], "segmentation": [], "drawing": list(drawings(monkeypatch))}
    for kind, values, spec, top in classifications():
        values = np.asarray(values, np.float32)
        (guesses,) = classification.decode(values[None], spec, top)
        vectors["classification"].append(
            {
                "name": f"{kind}, {spec.num_classes} classes, {spec.output}, temperature {spec.temperature}",
                "values": as_text(values),
                "spec": as_dict(spec),
                "top": top,
                "expected": [dataclasses.asdict(guess) for guess in guesses],
            }
        )
    cases = [
        (kind, {"logits": logits, "codes": codes}, *others) for kind, logits, codes, *others in detections()
    ] + list(decoded_detections())
    for kind, answers, spec, size, options in cases:
        answers = {key: np.asarray(values, np.float32) for key, values in answers.items()}
        (found,) = detection.detect(
            {key: values[None] for key, values in answers.items()},
            spec,
            sizes=[size],
            score_threshold=options.get("scoreThreshold", SCORE_THRESHOLD),
            iou_threshold=options.get("iouThreshold", IOU_THRESHOLD),
            limit=options.get("limit", MAX_BOXES),
        )
        how = "decoded" if spec.decoded else spec.scores
        vectors["detection"].append(
            {
                "name": f"{kind}, {spec.num_classes} classes, {how}, {spec.input_size} px, {len(found.boxes)} boxes",
                "answers": {key: as_text(values) for key, values in answers.items()},
                "spec": as_dict(spec),
                "size": {"width": size[0], "height": size[1]},
                "options": options,
                "expected": [dataclasses.asdict(box) for box in found.boxes],
            }
        )
    for kind, logits, spec, size in segmentations():
        logits = np.asarray(logits, np.float32)
        mask = segmentation.decode(logits, spec, size, placement=placement(size, spec.preprocess))
        data = np.ascontiguousarray(mask.classes, mask.classes.dtype.newbyteorder("<")).tobytes()
        vectors["segmentation"].append(
            {
                "name": f"{kind}, {spec.num_classes} classes, {spec.preprocess.fit}, {size[0]} x {size[1]}",
                "logits": as_text(logits),
                "spec": as_dict(spec),
                "size": {"width": size[0], "height": size[1]},
                "bytes": mask.classes.itemsize,
                "expected": base64.b64encode(data).decode() if len(data) < 1_000_000 else None,
                "sha256": hashlib.sha256(data).hexdigest(),
                "shares": [dataclasses.asdict(share) for share in mask.shares()],
            }
        )
    vectors["priors"] = [{"size": size, "priors": prior_boxes(size).tolist()} for size in (32, 96, 97, 320, 513)]
    vectors["numbers"] = [SCORE_THRESHOLD, IOU_THRESHOLD, MAX_BOXES]
    vectors["colours"] = [{"rgb": color_of(k), "on": _readable_on(color_of(k))} for k in range(300)]
    (folder / "vectors.json").write_text(json.dumps(vectors), encoding="utf-8")
    return sum(len(vectors[kind]) for kind in ("classification", "detection", "segmentation", "drawing"))


def test_answers_are_decoded_and_drawn_as_in_python(tmp_path, monkeypatch):
    """Classes and their order, boxes and masks are the same; probabilities to 1e-12, edges to 1e-8 pixels.

    Not to the bit, because exponentials differ between numpy and browsers in the last digit. Drawings are the same but
    for the letters.
    """
    cases = write_vectors(tmp_path, monkeypatch)
    assert run_tests("web_tasks.test.mjs", tmp_path, timeout=300) > cases
