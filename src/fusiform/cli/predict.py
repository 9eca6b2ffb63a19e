"""``fusiform predict``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from fusiform.cli.models import complete_model
from fusiform.cli.output import open_output
from fusiform.report import Format, csv_lines, printable

if TYPE_CHECKING:
    from fusiform.engines import EngineName
    from fusiform.predict import Prediction

BAR_WIDTH = 20
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
@click.option(
    "--format", "form", default="table", show_default=True, type=click.Choice(["table", "json", "jsonl", "csv"])
)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help="Write there instead of to standard output."
)
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Cores to use.  [default: all]")
@click.option(
    "--engine",
    default="litert",
    show_default=True,
    # Named again, because importing the engines takes longer than printing the help.
    type=click.Choice(["litert", "onnxruntime", "torch"]),
    help="The runtime.",
)
@click.option(
    "--device", default="cpu", show_default=True, help="Where the engine torch computes: cpu, cuda, cuda:1 or mps."
)
@click.option(
    "--batch",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="Pictures that go through the network together.",
)
@click.option("--fast", is_flag=True, help="Decode large JPEGs at a reduced size; the answers may differ a little.")
@click.option(
    "--labels",
    "labels_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Other names for the model's classes: UTF-8, one a line.",
)
@click.option("--strict", is_flag=True, help="Exit with 3 if any picture could not be read.")
@click.pass_context
def command(
    ctx: click.Context,
    sources: tuple[str, ...],
    model: str,
    top: int,
    form: Format,
    out: Path | None,
    threads: int | None,
    engine: EngineName,
    device: str,
    batch: int,
    fast: bool,
    labels_file: Path | None,
    strict: bool,
) -> None:
    """Name what photographs show.

    SOURCE is a picture, a folder (searched with its subfolders), a glob pattern, an http(s) address, or - for a
    picture on standard input. Pictures that cannot be read are listed on standard error at the end.

    Exit codes: 0 if any picture was named (3 with --strict if another could not be read), 1 if none was or the model
    cannot be used, 2 for wrong usage, 130 after Ctrl-C.
    """
    from fusiform.predict import predict_iter
    from fusiform.tasks.classification import read_labels

    labels = None if labels_file is None else read_labels(labels_file)
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
        )
        errors: list[str] = []
        answered = 0
        for prediction in _written(predictions, form, stream):
            if prediction.error is None:
                answered += 1
            else:
                errors.append(prediction.error)
    if errors:
        click.echo(f"fusiform: {len(errors)} of {len(errors) + answered} pictures could not be read:", err=True)
        for error in errors:
            click.echo(f"  {printable(error)}", err=True)
    if not answered:
        ctx.exit(1)
    if errors and strict:
        ctx.exit(3)


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
