"""``fusiform predict``."""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from fusiform.cli import options
from fusiform.cli.models import complete_model
from fusiform.cli.output import open_output
from fusiform.report import Format, csv_lines, printable

if TYPE_CHECKING:
    from fusiform.engines import EngineName
    from fusiform.grid import Tile
    from fusiform.predict import Prediction

BAR_WIDTH = 20
SAVED = 64
"""More pictures than these make no grid that anyone looks at."""
GREEN, RED, GREY = "#1b7a2f", "#c0281c", "#666666"
CSV_COLUMNS = ("path", "rank", "index", "name", "probability", "error")


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
@click.option("--top", default=5, show_default=True, type=click.IntRange(min=1), help="Names for each picture.")
@options.form
@options.out
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=f"Draw the first {SAVED} pictures with their answers there, as PNG or JPEG.",
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
    top: int,
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
    """Name what photographs show.

    SOURCE is a picture, a folder (searched with its subfolders), a glob pattern, an http(s) address, or - for a
    picture on standard input. Pictures that cannot be read are listed on standard error at the end.

    The grid of --save shows each picture's likeliest name: in green or red where the picture lies in a folder named
    after one of the model's classes, and thus is known to be right or wrong.

    Exit codes: 0 if any picture was named (3 with --strict if another could not be read), 1 if none was or the model
    cannot be used, 2 for wrong usage, 130 after Ctrl-C.
    """
    from fusiform.predict import predict_iter
    from fusiform.tasks.classification import read_labels

    labels = None if labels_file is None else read_labels(labels_file)
    classes: dict[str, dict[int, str]] = {}
    if save is not None:
        from fusiform.grid import check_place

        check_place(save)
        classes = _class_folders(model, labels)
    tiles: list[Tile] = []
    with open_output(out) as stream:
        predictions = predict_iter(
            sources,
            model=model,
            top=top,
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
        errors: list[str] = []
        answered = 0
        for prediction in _written(predictions, form, stream):
            if prediction.error is None:
                answered += 1
            else:
                errors.append(prediction.error)
            if save is not None and len(tiles) < SAVED:
                tiles.append(_tile(prediction, classes))
    if save is not None:
        _save(tiles, save, answered + len(errors))
    if errors:
        click.echo(f"fusiform: {len(errors)} of {len(errors) + answered} pictures could not be read:", err=True)
        for error in errors:
            click.echo(f"  {printable(error)}", err=True)
    if not answered:
        ctx.exit(1)
    if errors and strict:
        ctx.exit(3)


def _class_folders(model: str, labels: tuple[str, ...] | None) -> dict[str, dict[int, str]]:
    """What a folder of pictures of a class may be called, and for each the classes, by index and name, it may mean."""
    from fusiform.tasks.classification import relabel
    from fusiform.zoo.model import open_model

    spec = open_model(model).spec
    if labels is not None:
        spec = relabel(spec, labels)
    folders: dict[str, dict[int, str]] = {}
    for names in (spec.labels, spec.label_ids):
        for index, name in enumerate(names):
            # Two classes of ImageNet are called crane.
            folders.setdefault(_folder_key(name), {})[index] = spec.labels[index]
    return folders


def _folder_key(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).casefold().replace("_", " ").split())


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


def _save(tiles: list[Tile], path: Path, pictures: int) -> None:
    from fusiform.grid import draw_grid, missing_letters, save_picture

    save_picture(draw_grid(tiles), path)
    if len(tiles) < pictures:
        note = f"fusiform: {path}: shows the first {len(tiles)} of {pictures} pictures"
        click.echo(printable(note), err=True)
    if missing := missing_letters(text for tile in tiles for text in (tile.caption, tile.second_line)):
        shown = missing if len(missing) <= 10 else f"{missing[:10]}..."
        note = f"fusiform: {path}: no font here has {shown}: boxes stand for them; install one, such as Noto Sans CJK"
        click.echo(printable(note), err=True)


def _written(predictions: Iterable[Prediction], form: Format, stream: TextIO) -> Iterator[Prediction]:
    """Write each prediction as it comes, then pass it on."""
    ascii_only = not (stream.encoding or "").lower().startswith("utf")
    full, begun = ("#", "") if ascii_only else ("\N{FULL BLOCK}", "\N{LEFT HALF BLOCK}")
    if form == "json":
        stream.write("[")
    elif form == "csv":
        stream.write(csv_lines([CSV_COLUMNS]))
    for number, prediction in enumerate(predictions):
        if form == "table":
            stream.write(_table(prediction, full, begun))
        elif form == "csv":
            stream.write(_csv(prediction))
        else:
            text = json.dumps(_record(prediction), ensure_ascii=ascii_only)
            stream.write(f"{text}\n" if form == "jsonl" else f"{',' if number else ''}\n  {text}")
        yield prediction
    if form == "json":
        stream.write("\n]\n")


def _table(prediction: Prediction, full: str, begun: str) -> str:
    if prediction.error is not None:
        return ""
    lines = [printable(prediction.path)]
    for guess in prediction.top:
        halves = round(guess.probability * 2 * BAR_WIDTH)
        bar = full * (halves // 2) + begun * (halves % 2)
        lines.append(f"  {guess.probability:6.1%}  {bar:{BAR_WIDTH}}  {printable(guess.name)}")
    return "\n".join(lines) + "\n"


def _record(prediction: Prediction) -> dict[str, object]:
    if prediction.error is not None:
        return {"path": prediction.path, "error": prediction.error}
    top = [
        {"index": guess.index, "name": guess.name, "probability": _rounded(guess.probability)}
        for guess in prediction.top
    ]
    return {"path": prediction.path, "top": top}


def _csv(prediction: Prediction) -> str:
    if prediction.error is not None:
        return csv_lines([(prediction.path, None, None, None, None, prediction.error)])
    return csv_lines(
        (prediction.path, rank, guess.index, guess.name, _rounded(guess.probability), None)
        for rank, guess in enumerate(prediction.top, 1)
    )


def _rounded(probability: float) -> float:
    """Six significant digits: more than float32 networks agree on between two machines."""
    return float(f"{probability:.6g}")
