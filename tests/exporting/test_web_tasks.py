"""What the page makes of a network's answers, in JavaScript, against what Python makes of them."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import fusiform.exporting.targets
from fusiform.data.preprocess import placement
from fusiform.drawing.overlay import _readable_on, color_of
from fusiform.graph.priors import IOU_THRESHOLD, MAX_BOXES, SCORE_THRESHOLD, prior_boxes
from fusiform.spec import ModelSpec, Preprocess
from fusiform.tasks import classification, detection, segmentation

PAGE = Path(fusiform.exporting.targets.__file__).with_name("web_page")
TESTS = Path(__file__).with_name("web_tasks.test.mjs")


def as_text(values, kind="<f4"):
    return base64.b64encode(np.ascontiguousarray(values, kind).tobytes()).decode()


def names(count):
    return tuple(f"class {k}" for k in range(count))


def spec_of(task, classes, side, fit="stretch", **changes):
    preprocess = Preprocess(side, side, fit=fit)
    return ModelSpec(
        "mobilenet_v2", 1.0, names(classes), task=task, input_size=side, preprocess=preprocess, **changes
    )


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


def as_dict(spec):
    return json.loads(spec.to_json())


def write_vectors(folder):
    vectors = {"classification": [], "detection": [], "segmentation": []}
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
    return sum(len(vectors[task]) for task in ("classification", "detection", "segmentation"))


def test_answers_are_decoded_as_in_python(tmp_path):
    """Classes and their order, boxes and masks are the same; probabilities to 1e-12, edges to 1e-8 pixels.

    Not to the bit, because exponentials differ between numpy and browsers in the last digit.
    """
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed, which runs the page's JavaScript")
    for module in PAGE.glob("*.js"):
        shutil.copy(module, tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')  # what the page's <script type=module> says
    cases = write_vectors(tmp_path)
    result = subprocess.run(
        [node, "--test", "--test-reporter=tap", TESTS],
        env={**os.environ, "FUSIFORM_WEB": str(tmp_path)},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, "\n".join(re.findall(r"(?ms)^ *not ok.*?^ *\.\.\.$", result.stdout)) + result.stderr
    passed = re.search(r"^# pass (\d+)$", result.stdout, re.MULTILINE)
    assert passed is not None
    assert int(passed[1]) > cases, result.stdout
