"""``fusiform evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusiform.cli import options
from fusiform.cli.models import complete_model
from fusiform.cli.output import open_output, tell_left_out
from fusiform.errors import UsageError
from fusiform.report import Format, printable

if TYPE_CHECKING:
    from fusiform.data.dataset import Split
    from fusiform.data.masks import Ignore
    from fusiform.engines import EngineName
    from fusiform.spec import Fit


@click.command("evaluate")
@click.argument("model", type=click.Path(), shell_complete=complete_model)
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test", "all"]),
    help="Which images.  [default: test if there is one, else val, else all]",
)
@click.option(
    "--compare",
    metavar="NAME|FILE",
    shell_complete=complete_model,
    help="Another model for the same images, and whether the difference is more than chance.",
)
@options.engine
@options.device
@options.threads
@options.batch
@options.form
@options.out
@click.option(
    "--html",
    type=click.Path(path_type=Path),
    metavar="PAGE",
    help="Also write a page with drawings and thumbnails.",
)
@click.option(
    "--explain",
    multiple=True,
    metavar="N|PICTURE",
    help="On the page, show with Grad-CAM what the network looks at: in N images, or in this one. May be repeated.",
)
@click.option(
    "--calibrate",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Fit a temperature on other images than the report's (val, else test, else half of them), and write a copy of "
    "the model whose probabilities use it, unless the report's get worse.",
)
@click.option(
    "--score",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="For a detector: boxes scored above it count for precision and recall.  [default: 0.3]",
)
@click.option(
    "--multi-scale",
    is_flag=True,
    help="For a segmenter: show every image at six scales and mirrored, as in the papers' best figures (PyTorch).",
)
@options.ignore
@options.root
@options.labels
@options.preprocessing
@options.strict
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    data: Path,
    split: Split | None,
    compare: str | None,
    engine: EngineName | None,
    device: str,
    threads: int | None,
    batch: int,
    form: Format,
    out: Path | None,
    html: Path | None,
    explain: tuple[str, ...],
    calibrate: Path | None,
    score: float | None,
    multi_scale: bool,
    ignore: Ignore | None,
    root: Path | None,
    labels: Path | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    resize: int | None,
    crop: int | None,
    fit: Fit | None,
    strict: bool,
) -> None:
    """Measure how good MODEL, a name or a file, is on the labelled images (the ground truth) in DATA.

    For a classifier DATA is a folder with a folder for each class, named by the class's name, number or WordNet id, or
    such folders within train, val and test. It may have only some of the model's classes; the model still chooses among
    all of its own. For a detector DATA has boxes, and for a segmenter masks or outlines, in any layout that fusiform
    train reads; classes are bound by their names. Images that cannot be read are listed on standard error and not
    counted. json has everything, jsonl and csv one record for each class.

    Exit codes: 0 if any image was read (3 with --strict if another could not be), 1 if the model or the data cannot
    be used, or --calibrate wrote nothing because its own figures got worse (the report is printed), 2 for wrong usage,
    130 after Ctrl-C.
    """
    if explain and html is None:
        raise UsageError("--explain draws on the page: add --html PAGE")

    from fusiform.evaluation.calibration import NOTHING_WRITTEN
    from fusiform.evaluation.job import evaluate

    result = evaluate(
        model,
        data,
        split=split,
        compare=compare,
        engine=engine,
        device=device,
        threads=threads,
        batch=batch,
        explain=explain,
        calibrate=calibrate,
        score=score,
        multi_scale=multi_scale,
        ignore=ignore,
        root=root,
        labels=labels,
        mean=mean,
        std=std,
        resize=resize,
        crop=crop,
        fit=fit,
        say=lambda line: click.echo(f"fusiform: {printable(line)}", err=True),
        progress=True,
    )
    with open_output(out) as stream:
        stream.write(result.render(form))
    tell_left_out(result.left_out(form), form)
    if html is not None:  # only now: the figures are not to be lost where a page cannot be written
        result.write_page(html)
    if result.skipped:
        total = len(result.skipped) + len(result.samples)
        click.echo(f"fusiform: {len(result.skipped)} of {total} pictures could not be read:", err=True)
        for error in result.skipped:
            click.echo(f"  {printable(error)}", err=True)
    if result.calibration is not None and not result.calibration.written:
        click.echo(f"fusiform: --calibrate {calibrate}: {NOTHING_WRITTEN}", err=True)
        ctx.exit(1)
    if result.skipped and strict:
        ctx.exit(3)
