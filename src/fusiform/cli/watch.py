"""``fusiform watch``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusiform.cli import options
from fusiform.cli.output import open_told
from fusiform.cli.process import Ended
from fusiform.report import printable

if TYPE_CHECKING:
    from fusiform.engines import EngineName
    from fusiform.spec import Fit


@click.command(
    "watch",
    cls=options.Command,
    examples=(
        "fusiform watch incoming/ --out answers.jsonl",
        "fusiform watch /mnt/share --recursive --poll --out answers.jsonl",
    ),
)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--out",
    "-o",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Append each answer to FILE, a JSON line each; what it has already is not answered again.",
)
@options.model("A name that fusiform models lists, a model file, or the folder of a run.", default="mobilenet_v2")
@click.option("--recursive", is_flag=True, help="Folders within DIR too.")
@click.option(
    "--poll",
    is_flag=True,
    help="Look at DIR every second, in place of being told by the system: for folders that other machines write to "
    "(NFS, SMB).",
)
@options.top
@options.certain(options.CERTAIN)
@options.score
@options.iou
@options.limit
@options.tiles
@options.overlap
@options.labels
@options.fast
@options.batch
@options.threads
@options.device
@options.engine
@options.preprocessing
def command(
    folder: Path,
    out: Path,
    model: str,
    recursive: bool,
    poll: bool,
    top: int | None,
    certain: float | None,
    score: float | None,
    iou: float | None,
    limit: int | None,
    tiles: int | None,
    overlap: float,
    labels: Path | None,
    fast: bool,
    batch: int,
    threads: int | None,
    device: str,
    engine: EngineName | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    resize: int | None,
    crop: int | None,
    fit: Fit | None,
) -> None:
    """Answer the images in a folder, and those that come into it, until Ctrl-C.

    An image is answered when it is complete: moved into DIR, or not changed for half a second and, as far as the system
    tells, not open to be written. One that is replaced is answered again. A line is printed for each, and FILE has all
    of the answer.

    Started again with the same FILE, it goes on: files whose path, length and time of change FILE has are not answered
    again. A line that a killed process left incomplete is cut off and written again.

    Exit codes: 0 after Ctrl-C, 143 after SIGTERM, 1 where DIR goes or FILE cannot be written.
    """
    from fusiform.prediction.show import summary
    from fusiform.prediction.streams.watch import watch

    opened, device = open_told(model, engine, device, mean=mean, std=std, resize=resize, crop=crop, fit=fit)
    answers = watch(
        folder,
        out,
        opened,
        recursive=recursive,
        poll=poll,
        top=top,
        certain=certain,
        score=score,
        iou=iou,
        limit=limit,
        tiles=tiles,
        overlap=overlap,
        engine=engine,
        device=device,
        threads=threads,
        batch=batch,
        fast=fast,
        labels=labels,
        say=_say,
    )
    count = 0
    try:
        for answer in answers:
            count += 1
            words = summary(answer) if answer.error is not None else f"{answer.path}: {summary(answer)}"
            click.echo(printable(words))
    except KeyboardInterrupt as interrupt:
        answers.close()
        told = f"{count:,} answer{'' if count == 1 else 's'} written to {out}; the same command goes on"
        if isinstance(interrupt, Ended):
            interrupt.args = (told,)
            raise
        _say(told)  # the usual end of it


def _say(text: str) -> None:
    click.echo(f"fusiform: {printable(text)}", err=True)
