"""Answers as records: JSON, CSV and COCO's result format."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from fusiform.report import Cell, Format, align, csv_lines, printable

if TYPE_CHECKING:
    from fusiform.drawing.masks import MaskFolder
    from fusiform.prediction.answer import Answer
    from fusiform.spec import ModelSpec, Task
    from fusiform.tasks.detection import Box


CSV_COLUMNS: dict[Task, tuple[str, ...]] = {
    "classification": ("path", "rank", "index", "name", "probability", "error"),
    "detection": (
        *("path", "image_id", "category_id", "name", "score"),
        *("left", "top", "width", "height", "error"),
    ),
    "segmentation": ("path", "width", "height", "index", "name", "share", "mask", "error"),
}


class ImageIds:
    """COCO's number of each picture: the one that its file is named by, else its place among the pictures, from 1.

    ``shared`` counts the pictures that had the number of an earlier one.
    """

    def __init__(self) -> None:
        self.shared = 0
        self._seen: set[int] = set()

    def of(self, path: str, place: int) -> int:
        from fusiform.prediction.sources import stem_of

        named = re.fullmatch(r"(?:COCO_\w+_)?([0-9]{1,12})", stem_of(path))
        number = int(named[1]) if named else place
        self.shared += number in self._seen
        self._seen.add(number)
        return number


def _category_ids(spec: ModelSpec) -> Sequence[int]:
    """COCO's number of each class: its identifier where those are numbers, else its place among the classes, from 1."""
    ids = spec.label_ids
    if ids and all(re.fullmatch("[0-9]{1,12}", text) for text in ids):
        return [int(text) for text in ids]
    return range(1, spec.num_classes + 1)


def _coco(prediction: Answer, place: int, image_ids: ImageIds, categories: Sequence[int]) -> list[dict[str, Any]]:
    """The picture's boxes in COCO's result format (https://cocodataset.org/#format-results)."""
    assert prediction.detections is not None
    image_id = image_ids.of(prediction.path, place)
    return [
        {
            "image_id": image_id,
            "category_id": categories[box.index],
            "bbox": [_rounded(length) for length in _bbox(box)],
            "score": _rounded(box.score),
            "name": box.name,
            "path": prediction.path,
        }
        for box in prediction.detections.boxes
    ]


def _bbox(box: Box) -> tuple[float, float, float, float]:
    """Left, top, width and height in pixels."""
    return box.left, box.top, box.right - box.left, box.bottom - box.top


def _record(prediction: Answer, mask: str | None) -> dict[str, Any]:
    if prediction.error is not None:
        return {"path": prediction.path, "error": prediction.error}
    if prediction.segmentation is not None:
        found = prediction.segmentation
        classes = [
            {"index": share.index, "name": share.name, "share": _rounded(share.share)} for share in found.shares()
        ]
        record = {"path": prediction.path, "width": found.width, "height": found.height, "classes": classes}
        return record if mask is None else {**record, "mask": mask}
    top = [
        {"index": guess.index, "name": guess.name, "probability": _rounded(guess.probability)}
        for guess in prediction.top
    ]
    return {"path": prediction.path, "top": top}


def _rows(
    prediction: Answer, task: Task, results: Sequence[dict[str, Any]], mask: str | None
) -> Iterator[Sequence[Cell]]:
    path = prediction.path
    if prediction.error is not None:
        yield (path, *[None] * (len(CSV_COLUMNS[task]) - 2), prediction.error)
    for rank, guess in enumerate(prediction.top, 1):
        yield path, rank, guess.index, guess.name, _rounded(guess.probability), None
    for result in results:
        where = (path, result["image_id"], result["category_id"], result["name"], result["score"])
        yield (*where, *result["bbox"], None)
    if prediction.segmentation is not None:
        found = prediction.segmentation
        for share in found.shares():
            yield path, found.width, found.height, share.index, share.name, _rounded(share.share), mask, None


def _rounded(value: float) -> float:
    """Six significant digits: more than float32 networks agree on between two machines."""
    return float(f"{value:.6g}")


def to_dict(prediction: Answer) -> dict[str, Any]:
    """See ``Prediction.to_dict``."""
    found = prediction.detections
    if found is None:
        return _record(prediction, None)
    boxes = [
        {
            "index": box.index,
            "name": box.name,
            "score": _rounded(box.score),
            "bbox": [_rounded(length) for length in _bbox(box)],
        }
        for box in found.boxes
    ]
    return {"path": prediction.path, "width": found.width, "height": found.height, "boxes": boxes}


def to_rows(predictions: Sequence[Answer], spec: ModelSpec) -> list[Mapping[str, Cell]]:
    """See ``Predictions.rows``."""
    image_ids, categories = ImageIds(), _category_ids(spec) if spec.task == "detection" else ()
    rows: list[Mapping[str, Cell]] = []
    for place, prediction in enumerate(predictions, 1):
        results = [] if prediction.detections is None else _coco(prediction, place, image_ids, categories)
        columns = CSV_COLUMNS[spec.task]
        rows += [dict(zip(columns, row, strict=True)) for row in _rows(prediction, spec.task, results, None)]
    return rows


BAR_WIDTH = 20


def write_predictions(
    predictions: Iterable[Answer],
    spec: ModelSpec,
    form: Format,
    stream: TextIO,
    masks: MaskFolder | None,
    image_ids: ImageIds,
) -> Iterator[Answer]:
    """Write each prediction of the model that ``spec`` describes as it comes, and its mask, if any; then pass it on."""
    task = spec.task
    categories = _category_ids(spec) if task == "detection" else ()
    ascii_only = not (stream.encoding or "").lower().startswith("utf")
    full, begun = ("#", "") if ascii_only else ("\N{FULL BLOCK}", "\N{LEFT HALF BLOCK}")
    before = "\n  "  # what stands before the next object in a list of JSON
    if form == "json":
        stream.write("[")
    elif form == "csv":
        stream.write(csv_lines([CSV_COLUMNS[task]]))
    for place, prediction in enumerate(predictions, 1):
        mask = _write_mask(prediction, masks)
        if form == "table":
            stream.write(_table(prediction, mask, full, begun))
            yield prediction
            continue
        results = [] if prediction.detections is None else _coco(prediction, place, image_ids, categories)
        if form == "csv":
            stream.write(csv_lines(_rows(prediction, task, results, mask)))
        else:
            # In COCO's format there is no place for an error.
            records = results if task == "detection" else [_record(prediction, mask)]
            for record in records:
                text = json.dumps(record, ensure_ascii=ascii_only)
                stream.write(f"{text}\n" if form == "jsonl" else f"{before}{text}")
                before = ",\n  "
        yield prediction
    if form == "json":
        stream.write("\n]\n")


def _write_mask(prediction: Answer, masks: MaskFolder | None) -> str | None:
    if masks is None or prediction.segmentation is None:
        return None
    from fusiform.prediction.sources import stem_of

    return str(masks.write(stem_of(prediction.path), prediction.segmentation, path=prediction.path))


def _table(prediction: Answer, mask: str | None, full: str, begun: str) -> str:
    if prediction.error is not None:
        return ""

    def bar(share: float) -> str:
        halves = round(share * 2 * BAR_WIDTH)
        return f"{full * (halves // 2) + begun * (halves % 2):{BAR_WIDTH}}"

    lines = [f"{guess.probability:6.1%}  {bar(guess.probability)}  {printable(guess.name)}" for guess in prediction.top]
    if prediction.detections is not None:
        cells = [
            [f"{box.score:6.1%}", bar(box.score), printable(box.name), *(f"{length:.0f}" for length in _bbox(box))]
            for box in prediction.detections.boxes
        ]
        header = ["", "", "", "left", "top", "width", "height"]
        lines = align([header, *cells], "><<>>>>").split("\n") if cells else [NOTHING]
    elif prediction.segmentation is not None:
        shares = prediction.segmentation.shares()
        lines = [f"{percent(share.share)}{OF_PICTURE}  {bar(share.share)}  {printable(share.name)}" for share in shares]
        lines += [f"mask: {printable(mask)}"] if mask else []
    return "\n  ".join([printable(prediction.path), *lines]) + "\n"


NOTHING = "nothing found"
OF_PICTURE = " of the picture"
"""What stands behind the share of a class in a mask, which else looks like a confidence."""


def percent(share: float) -> str:
    """A share of the pixels that is there, in six letters."""
    return f"{share:6.1%}" if share >= 0.0005 else " <0.1%"
