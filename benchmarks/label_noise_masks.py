"""Does the doctor find planted faults of masks: objects that are not drawn, or as another class?

``--model`` is a segmenter that has not learned from ``--data``, shapes of ``scripts/make_shapes.py``. Of the objects of
its split val that cover at least ``--share`` percent of the image, ``--rate`` percent each, drawn by each of
``--seeds``, become background or another class. A region counts as planted where its two classes are those of a planted
object and half of its box lies in the object's.

    python scripts/make_shapes.py --out shapes --count 400 --photographs PHOTOS
    fusiform train shapes --task segmentation --set epochs=8 --out run
    python scripts/make_shapes.py --out others --count 2000 --seed 1 --photographs PHOTOS
    python benchmarks/label_noise_masks.py --model run/best.safetensors --data others
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import common
import numpy as np
from PIL import Image

from fusiform.doctor.findings import Finding
from fusiform.doctor.job import diagnose
from fusiform.report import Cell
from fusiform.zoo.model import Model, open_model

FAULTS = ("not drawn", "another class")
NAMES = ("background", "circle", "square", "triangle", "star", "ring")


class Fault(NamedTuple):
    """An object that is drawn wrongly: its image and number, its class, what it became, and its box."""

    name: str
    number: int
    before: int
    after: int
    edges: tuple[float, float, float, float]

    @property
    def kind(self) -> str:
        return FAULTS[int(self.after > 0)]


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a segmenter")
    parser.add_argument("--data", type=Path, required=True, help="shapes that it has not learned from")
    parser.add_argument("--rate", type=float, default=5, help="percent of the objects, of each fault (%(default)s)")
    parser.add_argument("--share", type=float, default=2, help="percent of the image (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="(default: %(default)s)")
    arguments = parser.parse_args()
    model = open_model(arguments.model)
    objects = read_objects(arguments.data, arguments.share / 100)
    clean = named(arguments.data, model, [])
    runs = []
    for seed in range(arguments.seeds):
        faults = plant(objects, arguments.rate / 100, np.random.default_rng(seed))
        runs.append((faults, named(arguments.data, model, faults)))
    rows: list[dict[str, Cell]] = []
    for kind in (*FAULTS, "both"):
        recalls = []
        for faults, found in runs:
            mine = [fault for fault in faults if kind in (fault.kind, "both")]
            recalls.append(sum(any(meets(each, fault) for each in found) for fault in mine) / len(mine))
        row: dict[str, Cell] = {"fault": kind, "recall": round(float(np.mean(recalls)), 3)}
        row |= {"recall from": round(min(recalls), 3), "recall to": round(max(recalls), 3)}
        if kind == "both":
            hits = [[any(meets(each, fault) for fault in faults) for each in found] for faults, found in runs]
            precisions = [np.mean(each) for each in hits]
            row["precision"] = round(float(np.mean(precisions)), 3)
        rows.append(row)
    about: dict[str, Cell] = {"images": len({each.name for each in objects}), "objects": len(objects)}
    about |= {"named of clean images": len(clean), "rate %": arguments.rate, "seeds": arguments.seeds}
    common.finish("label noise of masks", common.machine("numpy"), about, rows, arguments.json)


def read_objects(data: Path, share: float) -> list[Fault]:
    found = []
    for name in (data / "ImageSets/Segmentation/val.txt").read_text(encoding="utf-8").split():
        labels, numbers = (
            np.asarray(Image.open(data / folder / f"{name}.png"))
            for folder in ("SegmentationClass", "SegmentationObject")
        )
        for number in np.unique(numbers[(numbers > 0) & (numbers < 255)]):
            rows, columns = np.nonzero(numbers == number)
            if len(rows) >= share * labels.size:
                edges = float(columns.min()), float(rows.min()), columns.max() + 1.0, rows.max() + 1.0
                found.append(Fault(name, int(number), int(labels[rows[0], columns[0]]), 0, edges))
    return found


def plant(objects: Sequence[Fault], rate: float, random: np.random.Generator) -> list[Fault]:
    drawn = random.permutation(len(objects))[: 2 * round(rate * len(objects))]
    faults = []
    for number, i in enumerate(drawn):
        each = objects[i]
        other = 1 + (each.before - 1 + int(random.integers(1, len(NAMES) - 1))) % (len(NAMES) - 1)
        faults.append(each._replace(after=0 if number % 2 == 0 else other))
    return faults


def named(data: Path, model: Model, faults: Sequence[Fault]) -> list[Finding]:
    """The regions that are named of the split val with these faults."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "JPEGImages").symlink_to((data / "JPEGImages").resolve())
        (root / "SegmentationClass").mkdir()
        (root / "ImageSets/Segmentation").mkdir(parents=True)
        (root / "class_names.txt").write_text("\n".join(NAMES) + "\n", encoding="utf-8")
        names = (data / "ImageSets/Segmentation/val.txt").read_text(encoding="utf-8")
        (root / "ImageSets/Segmentation/val.txt").write_text(names, encoding="utf-8")
        for name in names.split():
            labels = np.array(Image.open(data / "SegmentationClass" / f"{name}.png"))
            numbers = np.asarray(Image.open(data / "SegmentationObject" / f"{name}.png"))
            for fault in faults:
                if fault.name == name:
                    labels[numbers == fault.number] = fault.after
            Image.fromarray(labels).save(root / "SegmentationClass" / f"{name}.png")
        diagnosis = diagnose(root, task="segmentation", model=model)
    return [finding for finding in diagnosis.findings if finding.kind == "wrong region"]


def meets(finding: Finding, fault: Fault) -> bool:
    if Path(finding.path).stem != fault.name:
        return False
    if (finding.class_name, finding.suggested) != (NAMES[fault.after], NAMES[fault.before]):
        return False
    (mark,) = finding.marks
    left, top, right, bottom = mark.edges
    width = min(right, fault.edges[2]) - max(left, fault.edges[0])
    height = min(bottom, fault.edges[3]) - max(top, fault.edges[1])
    return max(width, 0) * max(height, 0) >= 0.5 * (right - left) * (bottom - top)


if __name__ == "__main__":
    main()
