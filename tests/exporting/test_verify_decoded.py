"""Verification of files that decode boxes and masks themselves: the same network passes, and faults are found."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from fusiform.data.annotated import AnnotatedSample
from fusiform.engines import open_engine
from fusiform.exporting.targets.base import TargetName
from fusiform.exporting.targets.targets import DECODING
from fusiform.exporting.verification.decoded import DecodedBoxes
from fusiform.exporting.verification.parity import Parity
from fusiform.exporting.verification.verify import verify_answers
from fusiform.graph import onnx_decoded, tflite_decoded
from fusiform.graph.build import build_graph
from fusiform.graph.ir import Graph
from fusiform.graph.priors import MAX_BOXES
from fusiform.tasks import detection
from fusiform.zoo.model import Model, open_model

sys.path.insert(0, str(Path(__file__).parent))

from decoded_files import LABELS, Healthy, decoded, make_spec, write

sys.path.pop(0)


def verified(candidate: Model, healthy: Healthy, samples: Sequence[AnnotatedSample]) -> Parity:
    return verify_answers(candidate, healthy.model, samples, labelled=False, tolerance=1e-3)


def test_the_same_network_passes(healthy: Healthy, samples: Sequence[AnnotatedSample], tmp_path: Path) -> None:
    for target in DECODING:
        parity = verified(open_model(write(target, decoded(healthy.graph), tmp_path)), healthy, samples)
        assert parity.failures == ()
        assert parity.comparisons == ()
        assert [(d.kind, d.same) for d in parity.decoded] == [
            (kind, 1.0) for kind in ("photographs", "synthetic images", "noise")
        ]
        assert parity.decoded[0].number > 30
        assert "the file decodes its answers itself: what users see was compared" in parity.notes[0]
        parity.report().to_table()


def scaled_codes(healthy: Healthy) -> Graph:
    state = {
        name: values * (3 if name.startswith("boxes.") and ".1." in name else 1)
        for name, values in healthy.state.items()
    }
    return build_graph(healthy.spec, {name: np.asarray(v, np.float32) for name, v in state.items()})


def swapped_colors(healthy: Healthy) -> Graph:
    first = next(name for name in healthy.state if name.endswith("weight"))
    return build_graph(healthy.spec, {**healthy.state, first: healthy.state[first][:, ::-1]})


def other_align_corners(healthy: Healthy) -> Graph:
    return build_graph(healthy.spec.replace(align_corners=False), healthy.state)


def other_scores(healthy: Healthy) -> Graph:
    return build_graph(healthy.spec.replace(scores="sigmoid"), healthy.state)


@pytest.mark.parametrize("target", ["litert", "onnx"])
@pytest.mark.parametrize(
    ("which", "fault"),
    [
        ("detector", scaled_codes),
        ("detector", swapped_colors),
        ("detector", other_scores),
        ("segmenter", swapped_colors),
        ("segmenter", other_align_corners),
    ],
)
def test_faults_of_the_network_show(
    which: str,
    fault: Any,
    target: TargetName,
    request: pytest.FixtureRequest,
    samples: Sequence[AnnotatedSample],
    tmp_path: Path,
) -> None:
    healthy: Healthy = request.getfixturevalue(which)
    parity = verified(open_model(write(target, decoded(fault(healthy)), tmp_path)), healthy, samples)
    seen = "are not on both sides (photographs" if which == "detector" else "are of another class (photographs"
    assert any(seen in failure for failure in parity.failures), parity.failures


@pytest.mark.parametrize("writer", [tflite_decoded, onnx_decoded])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("IOU_THRESHOLD", 0.95),  # boxes that others should have suppressed remain
        ("IOU_THRESHOLD", 0.3),  # boxes go that should remain
        ("EVALUATED_SCORE", 0.6),
        ("CODE_SCALES", (5.0, 5.0, 2.5, 2.5)),
    ],
)
def test_faults_of_decoding_show(
    name: str,
    value: Any,
    writer: Any,
    detector: Healthy,
    samples: Sequence[AnnotatedSample],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writer, name, value)
    target: TargetName = "litert" if writer is tflite_decoded else "onnx"
    parity = verified(open_model(write(target, decoded(detector.graph), tmp_path)), detector, samples)
    assert any("boxes are not on both sides (photographs" in text for text in parity.failures)


PRIORS = detection.prior_boxes(96)
LARGE, CLOSE, APART = (0.2, 0.2, 0.8, 0.8), (0.25, 0.2, 0.85, 0.8), (0.35, 0.2, 0.95, 0.8)
"""CLOSE shares 0.55 / 0.65 = 0.846 with LARGE, APART 0.45 / 0.75 = 0.6, which rounding puts on either side."""


def of_network(boxes: dict[int, tuple[tuple[float, float, float, float], int, float]]) -> dict[str, Any]:
    """An answer that shows at some priors a box of a class, with a logit; else background."""
    logits = np.zeros((len(PRIORS), 1 + len(LABELS)), np.float32)
    logits[:, 0] = 10
    codes = np.zeros((len(PRIORS), 4), np.float32)
    for prior, (box, label, logit) in boxes.items():
        logits[prior] = -10
        logits[prior, [0, 1 + label]] = 0, logit
        codes[prior] = detection.encode_boxes(np.array([box]), PRIORS[prior : prior + 1])[0]
    return {"logits": logits, "codes": codes}


def of_file(boxes: Sequence[tuple[tuple[float, float, float, float], int, float]]) -> dict[str, Any]:
    """A decoded answer with these boxes, their classes, and the scores that these logits make."""
    answer = {
        "boxes": np.zeros((MAX_BOXES, 4), np.float32),
        "labels": np.zeros(MAX_BOXES, np.float32),
        "scores": np.zeros(MAX_BOXES, np.float32),
    }
    for k, (box, label, logit) in enumerate(boxes):
        answer["boxes"][k], answer["labels"][k], answer["scores"][k] = box, label, 1 / (1 + np.exp(-logit))
    return answer


@pytest.mark.parametrize(
    ("mine", "theirs", "expected"),
    [
        ([(LARGE, 1, 3.0)], {9: (LARGE, 1, 3.0)}, (2, 2)),
        # Of another class, of another score (0.953 and 0.924), and missing on either side.
        ([(LARGE, 2, 3.0)], {9: (LARGE, 1, 3.0)}, (2, 0)),
        ([(LARGE, 1, 2.5)], {9: (LARGE, 1, 3.0)}, (2, 0)),
        ([], {9: (LARGE, 1, 3.0)}, (1, 0)),
        ([(LARGE, 1, 3.0)], {}, (1, 0)),
        # Either of two boxes remains that have all but the same score.
        ([(LARGE, 1, 3.001)], {9: (LARGE, 1, 3.0), 11: (CLOSE, 1, 3.001)}, (2, 2)),
        # But not the lower-scoring one, where the other is missed once, and not both of them.
        ([(LARGE, 1, 2.0)], {9: (LARGE, 1, 2.0), 11: (CLOSE, 1, 3.0)}, (2, 1)),
        ([(CLOSE, 1, 3.0), (LARGE, 1, 2.0)], {9: (LARGE, 1, 2.0), 11: (CLOSE, 1, 3.0)}, (3, 2)),
        # Rounding decides what shares just as much as the threshold.
        ([(LARGE, 1, 3.0)], {9: (LARGE, 1, 3.0), 11: (APART, 1, 2.0)}, None),
        ([(LARGE, 1, 3.0), (APART, 1, 2.0)], {9: (LARGE, 1, 3.0), 11: (APART, 1, 2.0)}, None),
    ],
)
def test_boxes_by_hand(mine: Any, theirs: Any, expected: tuple[int, int] | None) -> None:
    spec = make_spec("detection")
    boxes = DecodedBoxes(spec.replace(decoded=True), spec, tolerance=1e-3)
    boxes.add("x.png", (100, 100), of_file(mine), of_network(theirs), None)
    found = boxes.decoded("photographs")
    assert (found.number, round(found.number * found.same)) == (expected or (found.number, found.number))
    assert found.number >= 1


def test_edges_and_classes_in_another_order_show(
    detector: Healthy, samples: Sequence[AnnotatedSample], tmp_path: Path
) -> None:
    path = write("litert", decoded(detector.graph), tmp_path)
    model = open_model(path)
    for change in ({"boxes": [1, 0, 3, 2]}, {"boxes": [2, 3, 0, 1]}):
        (place,) = change.values()

        class Changed:
            spec = model.spec
            engine = open_engine(model)

            def run(self, batch: Any, place: Sequence[int] = place) -> dict[str, Any]:
                answers = self.engine.run(batch)
                return {**answers, "boxes": answers["boxes"][..., place]}

        from fusiform.exporting.verification import verify as module

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_open_candidate", lambda *_: (Changed(), "changed"))
            parity = verified(model, detector, samples)
        assert any("are not on both sides (photographs" in text for text in parity.failures)


def test_logits_for_probabilities_show(
    segmenter: Healthy, samples: Sequence[AnnotatedSample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their largest is the same class, but whoever reads confidences would read nonsense."""
    operator = tflite_decoded._Arithmetic.operator

    def without_softmax(self: Any, code: str, *arguments: Any, **fields: Any) -> int:
        if code == "SOFTMAX":
            return operator(self, "ADD", [*arguments[0], self.constant("none", [0.0])], *arguments[1:], options="Add")
        return operator(self, code, *arguments, **fields)

    monkeypatch.setattr(tflite_decoded._Arithmetic, "operator", without_softmax)
    parity = verified(open_model(write("litert", decoded(segmenter.graph), tmp_path)), segmenter, samples)
    assert any("100.00% of the pixels are of another class" in text for text in parity.failures)
