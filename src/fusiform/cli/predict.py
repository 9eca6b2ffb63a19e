"""``fusiform predict``."""

from __future__ import annotations

import json
import os
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from fusiform.cli import options
from fusiform.cli.models import complete_model
from fusiform.cli.output import open_output
from fusiform.errors import UsageError
from fusiform.report import Cell, Format, align, csv_lines, printable

if TYPE_CHECKING:
    from fusiform.draw import MaskFolder
    from fusiform.engines import EngineName
    from fusiform.grid import Tile
    from fusiform.predict import Prediction, Predictions
    from fusiform.spec import ModelSpec, Task
    from fusiform.tasks.detection import Box
    from fusiform.tasks.segmentation import Share

BAR_WIDTH = 20
SAVED = 64
"""More pictures than these make no grid that anyone looks at."""
GREEN, RED, GREY = "#1b7a2f", "#c0281c", "#666666"
NOTHING = "nothing found"
CSV_COLUMNS: dict[Task, tuple[str, ...]] = {
    "classification": ("path", "rank", "index", "name", "probability", "error"),
    "detection": (
        *("path", "image_id", "category_id", "name", "score"),
        *("left", "top", "width", "height", "error"),
    ),
    "segmentation": ("path", "width", "height", "index", "name", "share", "mask", "error"),
}


@click.command("predict")
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True, type=click.Path())
@click.option(
    "--model",
    default="mobilenet_v2",
    show_default=True,
    metavar="NAME|FILE",
    shell_complete=complete_model,
    help='A name from "fusiform models", or a model file.',
)
@click.option(
    "--top", type=click.IntRange(min=1), metavar="N", help="Classifiers: names for each picture.  [default: 5]"
)
@click.option(
    "--score",
    type=click.FloatRange(0, 1),
    metavar="SCORE",
    help="Detectors: leave out boxes that are not surer than this, from 0 to 1.  [default: 0.3]",
)
@click.option(
    "--iou",
    type=click.FloatRange(0, 1),
    metavar="IOU",
    help="Detectors: of boxes of one class whose intersection over union is above this, keep the surest."
    "  [default: 0.6]",
)
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="Detectors: the most boxes in a picture.  [default: 100]"
)
@click.option(
    "--masks",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Segmenters: write each picture's mask there as NAME.png, a palette PNG whose pixels are indices of classes.",
)
@options.form
@options.out
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=f"Draw the first {SAVED} pictures with their answers there, as PNG or JPEG; boxes and masks of a single one"
    " at its own size, up to 1600 pixels.",
)
@options.threads
@options.engine
@options.device
@options.batch
@click.option("--fast", is_flag=True, help="Decode large JPEGs at a reduced size; the answers may differ a little.")
@click.option(
    "--labels",
    "labels_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Other names for the model's classes: UTF-8, one a line.",
)
@options.strict
@click.pass_context
def command(
    ctx: click.Context,
    sources: tuple[str, ...],
    model: str,
    top: int | None,
    score: float | None,
    iou: float | None,
    limit: int | None,
    masks: Path | None,
    form: Format,
    out: Path | None,
    save: Path | None,
    threads: int | None,
    engine: EngineName | None,
    device: str,
    batch: int,
    fast: bool,
    labels_file: Path | None,
    strict: bool,
) -> None:
    """Name what photographs show, find it or outline it, as the model's task is.

    SOURCE is a picture, a folder (searched with its subfolders), a glob pattern, an http(s) address, or - for a
    picture on standard input. Pictures that cannot be read are listed on standard error at the end.

    A classifier gives the likeliest names. The grid of --save shows each picture's likeliest one: in green or red where
    the picture lies in a folder named after one of the model's classes, and thus is known to be right or wrong.

    A detector gives boxes: score, name, left, top, width and height in pixels. As JSON they are in COCO's result format
    and for its tools, with name and path beside. The image_id is the number that a file is named by as in COCO
    (000000000139.jpg, COCO_val2014_000000000139.jpg: up to 12 digits), else the picture's place among all, from 1. The
    category_id is the identifier that the model has for the class where it is a number, else the class's place among
    the model's classes, from 1.

    A segmenter gives the share of the pixels that each class has. The masks of --masks are of the upright picture's
    size and in Pascal VOC's colours; 0 is the model's first class, the background.

    Exit codes: 0 if any picture was answered (3 with --strict if another could not be read), 1 if none was or the model
    cannot be used, 2 for wrong usage, 130 after Ctrl-C.
    """
    from fusiform.predict import predict_iter
    from fusiform.tasks.classification import read_labels

    labels = None if labels_file is None else read_labels(labels_file)
    if save is not None:
        from fusiform.grid import check_place

        check_place(save)
    with open_output(out) as stream:
        predictions = predict_iter(
            sources,
            model=model,
            top=top,
            score=score,
            iou=iou,
            limit=limit,
            engine=engine,
            device=device,
            threads=threads,
            batch=batch,
            fast=fast,
            labels=labels,
            # On a terminal that already shows the answers as they come, a bar would only get between them.
            progress=sys.stderr.isatty() and not (out is None and sys.stdout.isatty()),
            thumbnails=0 if save is None else SAVED,
        )
        folder = None if masks is None else _mask_folder(masks, predictions.spec)
        drawing = None if save is None else _Drawing(predictions.spec)
        image_ids = _ImageIds()
        errors: list[str] = []
        answered = 0
        for prediction in _written(predictions, form, stream, folder, image_ids):
            if prediction.error is None:
                answered += 1
            else:
                errors.append(prediction.error)
            if drawing is not None:
                drawing.add(prediction)
    if save is not None and drawing is not None:
        drawing.save(save, answered + len(errors))
    if image_ids.shared:
        note = f"fusiform: {image_ids.shared} pictures have the image_id of another one: go by their paths"
        click.echo(note, err=True)
    if errors:
        click.echo(f"fusiform: {len(errors)} of {len(errors) + answered} pictures could not be read:", err=True)
        for error in errors:
            click.echo(f"  {printable(error)}", err=True)
    if not answered:
        ctx.exit(1)
    if errors and strict:
        ctx.exit(3)


def _mask_folder(folder: Path, spec: ModelSpec) -> MaskFolder:
    if spec.task != "segmentation":
        raise UsageError(f"--masks is for segmentation, and the model ({spec.name}) is for {spec.task}: leave it out")
    from fusiform.draw import MaskFolder, check_palette

    check_palette(spec.num_classes)
    return MaskFolder(folder)


def _class_folders(spec: ModelSpec) -> dict[str, dict[int, str]]:
    """What a folder of pictures of a class may be called, and for each the classes, by index and name, it may mean."""
    folders: dict[str, dict[int, str]] = {}
    for names in (spec.labels, spec.label_ids):
        for index, name in enumerate(names):
            # Two classes of ImageNet are called crane.
            folders.setdefault(_folder_key(name), {})[index] = spec.labels[index]
    return folders


def _folder_key(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).casefold().replace("_", " ").split())


class _Drawing:
    """The first pictures with their answers, each drawn as it comes; one alone is drawn large, several as a grid."""

    def __init__(self, spec: ModelSpec) -> None:
        self.task = spec.task
        self.classes = _class_folders(spec) if spec.task == "classification" else {}
        self.tiles: list[Tile] = []
        self.letters: set[str] = set()
        self.shares: list[Share] = []

    def add(self, prediction: Prediction) -> None:
        if len(self.tiles) == SAVED:
            return
        if self.task == "classification":
            self.tiles.append(_tile(prediction, self.classes))
        else:
            self.tiles.append(self._drawn(prediction))

    def save(self, path: Path, pictures: int) -> None:
        from fusiform.grid import TEXT_SIZE, TILE, draw_grid, missing_letters, save_picture
        from fusiform.predict import DRAWN_THUMBNAIL

        texts = ["".join(self.letters)]
        alone = self.tiles[0].image if pictures == 1 and self.task != "classification" else None
        if alone is None:
            side = TILE if self.task == "classification" else DRAWN_THUMBNAIL
            picture = draw_grid(self.tiles, side=side)
            texts += [line for tile in self.tiles for line in (tile.caption, tile.second_line)]
        else:
            picture = alone
        if self.shares:
            from fusiform.draw import add_legend

            if alone is None:
                names = sorted({(share.index, share.name) for share in self.shares})
                picture = add_legend(picture, names, size=TEXT_SIZE)
            else:
                picture = add_legend(picture, [(share.index, _with_share(share)) for share in self.shares])
        save_picture(picture, path)
        if len(self.tiles) < pictures:
            note = f"fusiform: {path}: shows the first {len(self.tiles)} of {pictures} pictures"
            click.echo(printable(note), err=True)
        if missing := missing_letters(texts):
            shown = missing if len(missing) <= 10 else f"{missing[:10]}..."
            note = (
                f"fusiform: {path}: no font here has {shown}: boxes stand for them; install one, such as Noto Sans CJK"
            )
            click.echo(printable(note), err=True)

    def _drawn(self, prediction: Prediction) -> Tile:
        from fusiform.draw import draw_boxes, draw_mask
        from fusiform.grid import Tile

        name = os.path.basename(prediction.path) or prediction.path  # noqa: PTH119  # also of an address
        image = prediction.thumbnail
        if prediction.error is not None or image is None:
            return Tile(None, name, color=GREY)
        if prediction.detections is not None:
            found = Counter(box.name for box in prediction.detections.boxes)
            self.letters.update(*found)
            summary = ", ".join(name if count == 1 else f"{name} ({count})" for name, count in found.items())
            return Tile(draw_boxes(image, prediction.detections), summary or NOTHING, name)
        assert prediction.segmentation is not None
        shares = [share for share in prediction.segmentation.shares() if share.index]
        self.shares += shares
        self.letters.update(*(share.name for share in shares))
        summary = ", ".join(map(_with_share, shares))
        return Tile(draw_mask(image, prediction.segmentation), summary or NOTHING, name)


def _tile(prediction: Prediction, classes: dict[str, dict[int, str]]) -> Tile:
    from fusiform.grid import Tile

    path = prediction.path
    if prediction.error is not None:
        return Tile(None, os.path.basename(path) or path, color=GREY)  # noqa: PTH119  # also of an address
    best = prediction.top[0]
    caption = f"{best.probability:.1%}  {best.name}"
    truth: dict[int, str] = {}
    if os.path.exists(path):  # noqa: PTH110  # not an address, nor standard input
        # Not resolved: a link to a folder counts by its own name.
        folder = Path(os.path.abspath(path)).parent.name  # noqa: PTH100
        truth = classes.get(_folder_key(folder), {})
    if not truth:
        return Tile(prediction.thumbnail, caption)
    if best.index in truth:
        return Tile(prediction.thumbnail, caption, color=GREEN)
    return Tile(prediction.thumbnail, caption, f"true: {next(iter(truth.values()))}", RED)


class _ImageIds:
    """COCO's number of each picture: the one that its file is named by, else its place among the pictures, from 1.

    ``shared`` counts the pictures that had the number of an earlier one.
    """

    def __init__(self) -> None:
        self.shared = 0
        self._seen: set[int] = set()

    def of(self, path: str, place: int) -> int:
        from fusiform.predict import stem_of

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


def _written(
    predictions: Predictions, form: Format, stream: TextIO, masks: MaskFolder | None, image_ids: _ImageIds
) -> Iterator[Prediction]:
    """Write each prediction as it comes, and its mask where one is wanted, then pass it on."""
    task = predictions.spec.task
    categories = _category_ids(predictions.spec) if task == "detection" else ()
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


def _write_mask(prediction: Prediction, masks: MaskFolder | None) -> str | None:
    if masks is None or prediction.segmentation is None:
        return None
    from fusiform.predict import stem_of

    return str(masks.write(stem_of(prediction.path), prediction.segmentation, path=prediction.path))


def _table(prediction: Prediction, mask: str | None, full: str, begun: str) -> str:
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
        lines = [f"{_percent(share.share)}  {bar(share.share)}  {printable(share.name)}" for share in shares]
        lines += [f"mask: {printable(mask)}"] if mask else []
    return "\n  ".join([printable(prediction.path), *lines]) + "\n"


def _coco(prediction: Prediction, place: int, image_ids: _ImageIds, categories: Sequence[int]) -> list[dict[str, Any]]:
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


def _record(prediction: Prediction, mask: str | None) -> dict[str, object]:
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
    prediction: Prediction, task: Task, results: Sequence[dict[str, Any]], mask: str | None
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


def _percent(share: float) -> str:
    """A share of the pixels that is there, in six letters."""
    return f"{share:6.1%}" if share >= 0.0005 else " <0.1%"


def _with_share(share: Share) -> str:
    return f"{share.name} {_percent(share.share).strip()}"


def _rounded(value: float) -> float:
    """Six significant digits: more than float32 networks agree on between two machines."""
    return float(f"{value:.6g}")
