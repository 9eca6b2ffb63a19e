"""Answers as records: JSON, CSV and COCO's result format.

What every JSON has of an image is ``to_dict``: the command, Python and a server give the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TextIO

from fusiform.errors import UsageError
from fusiform.report import Cell, Format, align, csv_lines, printable

if TYPE_CHECKING:
    from fusiform.drawing.masks import MaskFolder
    from fusiform.prediction.answer import Answer
    from fusiform.spec import ModelSpec, Task
    from fusiform.tasks.classification import Classification, Guess
    from fusiform.tasks.detection import Box


PredictionFormat = Format | Literal["coco"]

CSV_COLUMNS: dict[Task, tuple[str, ...]] = {
    "classification": ("path", "rank", "index", "name", "probability", "error"),
    "detection": (
        *("path", "image_id", "category_id", "name", "score"),
        *("left", "top", "width", "height", "error"),
    ),
    "segmentation": ("path", "width", "height", "index", "name", "share", "mask", "error"),
}


_PROMISED = ("set", "known", "p_known")
"""Columns of a calibrated classifier, before the error; a set's names stand with semicolons between them."""
_RULED = ("rule", "decided")
"""Columns after those, of one that decides by a rule; ``decided`` is empty where that gives no class."""


def csv_columns(spec: ModelSpec) -> tuple[str, ...]:
    """The columns of a model's answers."""
    columns = CSV_COLUMNS[spec.task]
    if spec.certainty is None:
        return columns
    ruled = () if spec.certainty.decision is None else _RULED
    return (*columns[:-1], *_PROMISED, *ruled, columns[-1])


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


def _rows(
    prediction: Answer, spec: ModelSpec, results: Sequence[dict[str, Any]], mask: str | None
) -> Iterator[Sequence[Cell]]:
    path = prediction.path
    if prediction.error is not None:
        yield (path, *[None] * (len(csv_columns(spec)) - 2), prediction.error)
    for rank, guess in enumerate(prediction.top, 1):
        yield path, rank, guess.index, guess.name, _rounded(guess.probability), *_promised(prediction, spec), None
    for result in results:
        where = (path, result["image_id"], result["category_id"], result["name"], result["score"])
        yield (*where, *result["bbox"], None)
    if prediction.segmentation is not None:
        found = prediction.segmentation
        for share in found.shares():
            yield path, found.width, found.height, share.index, share.name, _rounded(share.share), mask, None


def _promised(prediction: Answer, spec: ModelSpec) -> Sequence[Cell]:
    """What stands in the columns of ``_PROMISED`` and ``_RULED``, if there are those."""
    found = prediction.classification
    if spec.certainty is None or found is None:
        return ()
    names = "; ".join(guess.name for guess in found.names or ())
    promised = names, found.known, None if found.p_known is None else _rounded(found.p_known)
    if spec.certainty.decision is None:
        return promised
    return (*promised, found.rule, None if found.decided is None else found.decided.name)


def _rounded(value: float) -> float:
    """Six significant digits: more than float32 networks agree on between two machines."""
    return float(f"{value:.6g}")


def to_dict(prediction: Answer, mask: str | None = None) -> dict[str, Any]:
    """See ``Prediction.to_dict``; ``mask`` is the file that a segmenter's mask was written to."""
    record: dict[str, Any] = {**prediction.place(), "path": prediction.path, "error": prediction.error}
    if prediction.error is not None:
        return record
    if prediction.detections is not None:
        found = prediction.detections
        boxes = [
            {
                "index": box.index,
                "name": box.name,
                "score": _rounded(box.score),
                "bbox": [_rounded(length) for length in _bbox(box)],
            }
            for box in found.boxes
        ]
        return {**record, "width": found.width, "height": found.height, "boxes": boxes}
    if prediction.segmentation is not None:
        pixels = prediction.segmentation
        shares = [
            {"index": share.index, "name": share.name, "share": _rounded(share.share)} for share in pixels.shares()
        ]
        return {**record, "width": pixels.width, "height": pixels.height, "classes": shares, "mask": mask}
    record["top"] = _guesses(prediction.top)
    named = prediction.classification
    if named is not None and named.names is not None:
        p_known = None if named.p_known is None else _rounded(named.p_known)
        record |= {"set": _guesses(named.names), "known": named.known, "p_known": p_known, "certain": named.certain}
        if named.rule is not None:
            decided = None if named.decided is None else {"index": named.decided.index, "name": named.decided.name}
            record |= {"rule": named.rule, "decided": decided}
    return record


def _guesses(found: Sequence[Guess]) -> list[dict[str, Any]]:
    return [{"index": guess.index, "name": guess.name, "probability": _rounded(guess.probability)} for guess in found]


def envelope(spec: ModelSpec, schema: str = "predictions") -> dict[str, Any]:
    """What stands around the predictions of a model."""
    return {"schema": f"fusiform.{schema}/1", "network": spec.name, "task": spec.task}


def to_rows(predictions: Sequence[Answer], spec: ModelSpec) -> list[Mapping[str, Cell]]:
    """See ``Predictions.rows``."""
    image_ids, categories = ImageIds(), _category_ids(spec) if spec.task == "detection" else ()
    rows: list[Mapping[str, Cell]] = []
    for place, prediction in enumerate(predictions, 1):
        results = [] if prediction.detections is None else _coco(prediction, place, image_ids, categories)
        columns = csv_columns(spec)
        rows += [dict(zip(columns, row, strict=True)) for row in _rows(prediction, spec, results, None)]
    return rows


BAR_WIDTH = 20
NAMED_IN_SET = 3
"""Names of a set that people are shown."""


def promise(prediction: Answer) -> str | None:
    """What a calibrated classifier's answer comes to, in words; None for any other."""
    found = prediction.classification
    if found is None or found.names is None:
        return None
    if found.rule is None:
        return _promise(found, found.names)
    decided = "no class" if found.decided is None else found.decided.name
    return f"decided by {found.rule}: {decided}; {_promise(found, found.names)}"


def _promise(found: Classification, inside: Sequence[Guess]) -> str:
    first = inside[0].name
    if found.known is False:
        return f"unknown, nearest: {first}"
    if len(inside) == 1:
        return f"sure: {first}"
    names = [guess.name for guess in inside]
    if len(names) > NAMED_IN_SET + 1:
        names = [*names[:NAMED_IN_SET], f"one of {len(names) - NAMED_IN_SET} more"]
    return f"unsure: {', '.join(names[:-1])} or {names[-1]}"


def write_predictions(
    predictions: Iterable[Answer],
    spec: ModelSpec,
    form: PredictionFormat,
    stream: TextIO,
    masks: MaskFolder | None,
    image_ids: ImageIds,
    *,
    schema: str = "predictions",
    places: Sequence[str] = (),
) -> Iterator[Answer]:
    """Write each prediction of the model that ``spec`` describes as it comes, and its mask, if any; then pass it on.

    ``places`` are the keys of what the predictions' ``place`` gives, ``schema`` names the document of ``json``. Raises
    UsageError for COCO's format and a model that is no detector.
    """
    task = spec.task
    if form == "coco" and task != "detection":
        raise UsageError(f"--format coco is for detection, and the model ({spec.name}) is for {task}: take json")
    categories = _category_ids(spec) if task == "detection" else ()
    ascii_only = not (stream.encoding or "").lower().startswith("utf")
    full, begun = ("#", "") if ascii_only else ("\N{FULL BLOCK}", "\N{LEFT HALF BLOCK}")
    before = "\n  "  # what stands before the next object in a list of JSON
    if form == "json":
        stream.write(f'{json.dumps(envelope(spec, schema))[:-1]}, "predictions": [')
    elif form == "coco":
        stream.write("[")
    elif form == "csv":
        stream.write(csv_lines([(*places, *csv_columns(spec))]))
    for place, prediction in enumerate(predictions, 1):
        mask = _write_mask(prediction, masks)
        if form == "table":
            stream.write(_table(prediction, mask, full, begun))
            yield prediction
            continue
        results = []
        if form in ("csv", "coco") and prediction.detections is not None:
            results = _coco(prediction, place, image_ids, categories)
        if form == "csv":
            which = tuple(prediction.place().values())
            stream.write(csv_lines((*which, *row) for row in _rows(prediction, spec, results, mask)))
        else:
            # COCO's format has a place neither for an error nor for an image without boxes.
            for record in results if form == "coco" else [to_dict(prediction, mask)]:
                text = json.dumps(record, ensure_ascii=ascii_only)
                stream.write(f"{text}\n" if form == "jsonl" else f"{before}{text}")
                before = ",\n  "
        yield prediction
    if form in ("json", "coco"):
        stream.write("\n]}\n" if form == "json" else "\n]\n")


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
    if (said := promise(prediction)) is not None:
        lines.insert(0, printable(said))
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
    return "\n  ".join([printable(prediction.title()), *lines]) + "\n"


NOTHING = "nothing found"
OF_PICTURE = " of the picture"
"""What stands behind the share of a class in a mask, which else looks like a confidence."""


def percent(share: float) -> str:
    """A share of the pixels that is there, in six letters."""
    return f"{share:6.1%}" if share >= 0.0005 else " <0.1%"
