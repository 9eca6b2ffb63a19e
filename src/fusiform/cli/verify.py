"""``fusiform verify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusiform.cli import options
from fusiform.cli.models import complete_model
from fusiform.cli.output import open_output, tell_left_out
from fusiform.report import Format

if TYPE_CHECKING:
    from fusiform.data.masks import Ignore


@click.command("verify")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--against",
    required=True,
    type=click.Path(),
    metavar="NAME|FILE",
    shell_complete=complete_model,
    help="The model whose answers FILE has to give.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DATA",
    help="Photographs: a labelled dataset, or any folder.  [default: synthetic images only]",
)
@options.ignore
@options.root
@click.option(
    "--max-drop",
    type=click.FloatRange(min=0),
    metavar="POINTS",
    help="What an int8 FILE may lose, in percentage points of top-1, mAP or mIoU.  "
    "[default: 1; detectors, segmenters: 2]",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    metavar="SHARE",
    help="The largest error of an output value, as a share of the image's largest; of an int8 FILE the error "
    "on average.  [default: that of the kind of file; what rounding explains]",
)
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Cores for each runtime.  [default: 1]")
@options.form
@options.out
def command(
    file: Path,
    against: str,
    data: Path | None,
    ignore: Ignore | None,
    root: Path | None,
    max_drop: float | None,
    tolerance: float | None,
    threads: int | None,
    form: Format,
    out: Path | None,
) -> None:
    """Prove that FILE, a model file of any kind and origin, gives the answers of the model it was made from.

    FILE runs in its own runtime, with its own preprocessing, on photographs, synthetic images and noise, one at a time
    and three together; the model it is held against runs in PyTorch. Float files have to give the same numbers within
    a tolerance, int8 files the same classes within what rounding explains, and be right as often. A detector's boxes
    have to be the same ones too, a segmenter's masks the same pixels, and an int8 file's mAP or mIoU nearly as high:
    the drop itself decides, and is told with its 95 % interval over the photographs. What FILE says of itself, its
    labels and its preprocessing, has to be the same as well. LiteRT and ONNX files of other tools (classifiers) are
    held against the weights that fusiform port makes of them.

    Exit codes: 0 if FILE passed, 1 if it failed or cannot be used, 2 for wrong usage, 130 after Ctrl-C.
    """
    import dataclasses

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
    if form == "table":  # the figures above the rows have the drop already
        report = dataclasses.replace(report, rows=tuple(row for row in report.rows if row.get("drop") is None))
    with open_output(out) as stream:
        stream.write(report.render(form))
    tell_left_out(report.left_out(form), form)
    if not parity.passed:
        raise ParityError(parity)
