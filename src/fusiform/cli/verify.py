"""``fusiform verify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusiform.cli import options
from fusiform.cli.output import open_output, suggest, tell_left_out
from fusiform.errors import UsageError
from fusiform.report import Format

if TYPE_CHECKING:
    from fusiform.data.masks import Ignore


@click.command(
    "verify",
    cls=options.Command,
    extra="--against",
    examples=(
        "fusiform verify ship/model.tflite --against runs/first",
        "fusiform verify ship/model.tflite --against runs/first --data photos/",
    ),
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--against",
    type=click.Path(),
    metavar="NAME|FILE",
    shell_complete=options.complete_model,
    help="The model that FILE was made from, whose answers it has to give.  [required]",
)
@options.data("Images to compare on: a labelled dataset, or any folder.  [default: synthetic images only]")
@options.root
@options.ignore
@options.max_drop
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    metavar="SHARE",
    help="The largest error of an output value, as a share of the largest output for that image; for int8 the mean "
    "error.  [default: what is usual for the kind of file, or what rounding explains]",
)
@options.measured_threads("Threads of each runtime.  [default: 1, because two runtimes take turns]")
@options.form
@options.out
def command(
    file: Path,
    against: str | None,
    data: Path | None,
    ignore: Ignore | None,
    root: Path | None,
    max_drop: float | None,
    tolerance: float | None,
    threads: int | None,
    form: Format,
    out: Path | None,
) -> None:
    """Check that FILE, a model file of any kind and origin, gives the same answers as the model it was made from.

    FILE runs in its own runtime with its own preprocessing, on photographs, synthetic images and noise, one at a time
    and in a batch of three; the other model runs in PyTorch. Float files have to give the same numbers within a
    tolerance; int8 files the same classes within what rounding explains, and be right as often. A detector's boxes and
    a segmenter's masks have to be the same too, and the mAP or mIoU of an int8 file nearly as high: the drop itself
    decides, and is printed with its 95 % interval over the photographs. What FILE says of itself, its labels and its
    preprocessing, has to match as well. Classifiers in LiteRT and ONNX files of other tools are compared with the
    weights that fusiform port reads from them.

    Exit codes: 0 if FILE passed, 1 if it failed or could not be checked.
    """
    import dataclasses

    if against is None:
        raise UsageError("what was FILE made from? Name that model with --against NAME|FILE")
    from fusiform.exporting.verification.parity import ParityError
    from fusiform.exporting.verification.verify import verify
    from fusiform.progress import track

    parity = verify(
        file,
        against,
        data=data,
        ignore=ignore,
        root=root,
        max_drop=max_drop,
        tolerance=tolerance,
        threads=threads,
        progress=track,
    )
    report = parity.report()
    if form == "table":  # the figures above the rows have the drop already, and the error below them the failures
        rows = tuple(row for row in report.rows if row.get("drop") is None)
        report = dataclasses.replace(report, rows=rows, figures={**report.figures, "failures": ()})
    with open_output(out) as stream:
        stream.write(report.render(form))
    tell_left_out(report.left_out(form), form)
    if not parity.passed:
        raise ParityError(parity)
    if data is None:  # nothing was said of how often it is right
        suggest(form, ["verify", str(file), "--against", against, "--data", "DATA"])
    suggest(form, ["benchmark", str(file), against])
