"""``fusiform embed``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusiform.cli import options, parts
from fusiform.cli.output import open_told, print_report, suggest
from fusiform.report import Format, printable

if TYPE_CHECKING:
    from fusiform.engines import EngineName
    from fusiform.spec import Fit


@click.command(
    "embed",
    cls=options.Command,
    examples=(
        "fusiform embed photos/ --out photos.npz",
        "fusiform embed photos/ --model runs/first --out photos.parquet",
        "fusiform embed s3://bucket/photos/ --out features/ --part 10000",
    ),
)
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True, type=click.Path())
@options.model("A classifier: a name, a model file, or the folder of a run.", default="mobilenet_v2")
@click.option(
    "--out",
    "-o",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The file to write: .npz (features, paths and the model's hash), .npy (features alone, the rest in "
    "FILE.npy.json), .parquet, or .csv. With --part, the folder.",
)
@options.fast
@options.batch
@options.threads
@options.device
@options.engine
@options.form
@options.preprocessing
@parts.listed_part_options
@click.pass_context
def command(
    ctx: click.Context,
    sources: tuple[str, ...],
    model: str,
    out: Path,
    fast: bool,
    batch: int,
    threads: int | None,
    device: str,
    engine: EngineName | None,
    form: Format,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    resize: int | None,
    crop: int | None,
    fit: Fit | None,
    part: int | None,
    shard: tuple[int, int] | None,
    on: str | None,
    root: Path | None,
    column: str | None,
) -> None:
    """Compute the features of images: vectors that similar images have in common.

    They are what a classifier's last layer reads, of any classifier: its file need not answer them, unless it is a
    program (TorchScript, OpenVINO, ExecuTorch), which has to be exported with --features. SOURCE is as for fusiform
    predict. Images that cannot be read are listed on standard error.

    With --part the features of very many images go into the folder that --out names, as files of so many images each,
    which fusiform search takes as one index. Interrupted, the same command goes on.

    Exit codes: 0 if any image could be read, 1 if none could.
    """
    of_parts = {"shard": shard, "on": on, "root": root, "column": column}
    if part is not None:
        parts.embed_in_parts(ctx, part, of_parts)
        return
    parts.refuse_without_part(ctx, form, of_parts)
    from fusiform.embedding.index import check_ending
    from fusiform.embedding.job import embed
    from fusiform.progress import track

    check_ending(out)
    _, device = open_told(model, engine, device, mean=mean, std=std, resize=resize, crop=crop, fit=fit)
    found = embed(
        sources,
        model,
        out=out,
        engine=engine,
        device=device,
        threads=threads,
        batch=batch,
        fast=fast,
        mean=mean,
        std=std,
        resize=resize,
        crop=crop,
        fit=fit,
        progress=track,
    )
    print_report(found.report(), form)
    if found.errors:
        click.echo(f"fusiform: {len(found.errors)} images could not be read:", err=True)
        for error in found.errors:
            click.echo(f"  {printable(error)}", err=True)
    if out.suffix.lower() != ".csv":
        suggest(form, ("search", "PHOTO", str(out)))
