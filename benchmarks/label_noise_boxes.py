"""Does the doctor find planted faults of boxes: missed, shifted, swapped and spurious ones, and what of clean ones?

``--model`` is a detector and ``--data`` a dataset that it has not learned from, which is shown to it once. Of the boxes
``--rate`` percent each, drawn by each of ``--seeds``, are removed, moved, or given another class, and as many are drawn
where nothing is labelled. A moved one goes a quarter to a half of its width aside and as much of its height up or down.
Precision is the share of the named that were planted, as what they were; recall the share of the planted that are named
so; with the least and greatest of the seeds. ``--cleanlab`` (``pip install cleanlab``) asks ObjectLab the same, which
judges images: which have any fault, of those with a box; average precision is that of its ranking and of ours, the sum
of the gains.

    python scripts/make_shapes.py --out shapes --count 400 --photographs PHOTOS
    fusiform train shapes --task detection --set epochs=16 --out run
    python scripts/make_shapes.py --out others --count 2000 --seed 1 --photographs PHOTOS
    python benchmarks/label_noise_boxes.py --model run/best.safetensors --data others
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import common
import numpy as np

from fusiform.data.annotated import BoxLabel
from fusiform.data.open import open_dataset
from fusiform.evaluation.detection import find_boxes
from fusiform.report import Cell
from fusiform.tasks.box_noise import BoxDoubt, box_norms, doubted_boxes
from fusiform.tasks.detection import Box, Detections, iou_matrix
from fusiform.zoo.model import open_model

KINDS = ("missed", "shifted", "swapped", "spurious")


class Planted(NamedTuple):
    """The boxes of each picture with faults, and of each fault its picture, its kind and the box before and after."""

    truth: list[list[BoxLabel]]
    faults: list[tuple[int, str, BoxLabel, BoxLabel | None]]


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a detector")
    parser.add_argument("--data", type=Path, required=True, help="boxes that it has not learned from, a split val")
    parser.add_argument("--rate", type=float, default=5, help="percent of the boxes, of each fault (%(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--cleanlab", action="store_true", help="compare with ObjectLab, image by image")
    arguments = parser.parse_args()
    model = open_model(arguments.model)
    data = open_dataset(arguments.data, task="detection", spec=model.spec)
    samples = data.splits["val"]
    answers = find_boxes(model, samples)
    classes, sizes = len(data.classes), [sample.size or (1, 1) for sample in samples]

    def named(truth: Sequence[Sequence[BoxLabel]]) -> list[BoxDoubt]:
        return doubted_boxes(truth, answers.found, box_norms(truth, answers.found, classes))

    boxes = sum(map(len, answers.truth))
    clean = named(answers.truth)
    rows: list[dict[str, Cell]] = []
    runs = []
    for seed in range(arguments.seeds):
        planted = plant(answers.truth, sizes, classes, arguments.rate / 100, np.random.default_rng(seed))
        runs.append((planted, named(planted.truth)))
    for kind in KINDS:
        count = sum(doubt.fault == kind for doubt in clean)
        row: dict[str, Cell] = {"fault": kind, "named of clean boxes": count, "%": round(100 * count / boxes, 2)}
        values = np.array([figures(planted, doubts, kind) for planted, doubts in runs])
        for name, column in (("precision", 0), ("recall", 1)):
            low, mean, high = (float(each(values[:, column])) for each in (np.min, np.mean, np.max))
            row |= {name: round(mean, 3), f"{name} from": round(low, 3), f"{name} to": round(high, 3)}
        rows.append(row)
    if arguments.cleanlab:
        values = np.array([beside(planted, doubts, answers.found, classes) for planted, doubts in runs])
        for name, three in zip(("fusiform", "cleanlab"), values.mean(0), strict=True):
            figures_ = zip(("precision", "recall", "average precision"), three, strict=True)
            rows.append({"fault": f"images, {name}"} | {key: round(float(value), 3) for key, value in figures_})
    about: dict[str, Cell] = {"images": len(samples), "boxes": boxes, "rate %": arguments.rate}
    about |= {"seeds": arguments.seeds, "model": model.spec.name}
    common.finish("label noise of boxes", common.machine("numpy"), about, rows, arguments.json)


def plant(
    truth: Sequence[Sequence[BoxLabel]],
    sizes: Sequence[tuple[int, int]],
    classes: int,
    rate: float,
    random: np.random.Generator,
) -> Planted:
    places = [(i, k) for i, boxes in enumerate(truth) for k in range(len(boxes))]
    drawn = random.permutation(len(places))[: 3 * round(rate * len(places))]
    found: list[list[BoxLabel | None]] = [list(boxes) for boxes in truth]
    faults = []
    for number, place in enumerate(drawn):
        i, k = places[place]
        box, kind = truth[i][k], KINDS[number % 3]
        after: BoxLabel | None = None
        if kind == "shifted":
            after = moved(box, sizes[i], random)
        elif kind == "swapped":
            after = replace(box, label=int(box.label + random.integers(1, classes)) % classes)
        found[i][k] = after
        faults.append((i, kind, box, after))
    for _ in range(round(rate * len(places))):
        i = int(random.integers(len(truth)))
        while (box := drawn_box(sizes[i], classes, random)) and any(shared(box, other) > 0.1 for other in truth[i]):
            pass
        found[i].append(box)
        faults.append((i, "spurious", box, box))
    return Planted([[box for box in boxes if box is not None] for boxes in found], faults)


def drawn_box(size: tuple[int, int], classes: int, random: np.random.Generator) -> BoxLabel:
    """A box of a tenth to a half of the picture's width and height."""
    width, height = random.uniform(0.1, 0.5, 2) * size
    left, top = random.uniform(0, size[0] - width), random.uniform(0, size[1] - height)
    return BoxLabel(int(random.integers(classes)), left, top, left + width, top + height)


def moved(box: BoxLabel, size: tuple[int, int], random: np.random.Generator) -> BoxLabel:
    edges = []
    for low, high, length in ((box.left, box.right, size[0]), (box.top, box.bottom, size[1])):
        by = random.uniform(0.25, 0.5) * (high - low) * random.choice((-1, 1))
        # To the other side where it would leave the picture.
        by = -by if low + by < 0 or high + by > length else by
        edges.append((max(0.0, low + by), min(float(length), high + by)))
    (left, right), (top, bottom) = edges
    return replace(box, left=left, top=top, right=right, bottom=bottom)


def figures(planted: Planted, doubts: Sequence[BoxDoubt], kind: str) -> tuple[float, float]:
    """Precision and recall of one kind of fault; a missed box is found where what is found lies on it by half."""
    mine = [doubt for doubt in doubts if doubt.fault == kind]
    faults = [fault for fault in planted.faults if fault[1] == kind]
    hits = sum(any(meets(doubt, fault) for fault in faults) for doubt in mine)
    met = sum(any(meets(doubt, fault) for doubt in mine) for fault in faults)
    return hits / max(1, len(mine)), met / max(1, len(faults))


def beside(
    planted: Planted, doubts: Sequence[BoxDoubt], found: Sequence[Detections | None], classes: int
) -> list[tuple[float, float, float]]:
    """Precision, recall and average precision of images with faults, by ours and by ObjectLab."""
    from cleanlab.object_detection.filter import find_label_issues
    from cleanlab.object_detection.rank import get_label_quality_scores

    gains, wrong = np.zeros(len(found)), np.zeros(len(found), bool)
    np.add.at(gains, [doubt.picture for doubt in doubts], [doubt.gain for doubt in doubts])
    wrong[[fault[0] for fault in planted.faults]] = True
    kept = [i for i, boxes in enumerate(planted.truth) if boxes]
    labels = [
        {
            "bboxes": np.array([(box.left, box.top, box.right, box.bottom) for box in planted.truth[i]]),
            "labels": np.array([box.label for box in planted.truth[i]]),
        }
        for i in kept
    ]
    answers = []
    for i in kept:
        of_class = np.empty(classes, object)
        shown = found[i]
        for k in range(classes):
            boxes = [box for box in shown.boxes if box.index == k] if shown else []
            rows = [(box.left, box.top, box.right, box.bottom, box.score) for box in boxes]
            of_class[k] = np.array(rows).reshape(-1, 5)
        answers.append(of_class)
    named = find_label_issues(labels, answers)
    quality = get_label_quality_scores(labels, answers, verbose=False)
    wrong, gains = wrong[kept], gains[kept]
    return [of_images(gains > 0, gains, wrong), of_images(named, 1 - quality, wrong)]


def of_images(named: np.ndarray, scores: np.ndarray, wrong: np.ndarray) -> tuple[float, float, float]:
    hits = wrong[np.argsort(-scores, kind="stable")]
    precisions = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    both = int((named & wrong).sum())
    return both / max(1, int(named.sum())), both / int(wrong.sum()), float(precisions[hits].mean())


def meets(doubt: BoxDoubt, fault: tuple[int, str, BoxLabel, BoxLabel | None]) -> bool:
    picture, kind, before, after = fault
    if doubt.picture != picture:
        return False
    if kind != "missed":
        return doubt.label == after
    return doubt.found is not None and shared(doubt.found, before) >= 0.5


def shared(one: BoxLabel | Box, other: BoxLabel | Box) -> float:
    edges = [np.array([[box.left, box.top, box.right, box.bottom]]) for box in (one, other)]
    return float(iou_matrix(*edges)[0, 0])


if __name__ == "__main__":
    main()
