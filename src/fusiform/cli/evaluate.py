"""``fusiform evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusiform.cli import options, parts
from fusiform.cli.output import open_output, suggest, tell_left_out
from fusiform.errors import UsageError
from fusiform.report import Format, printable

if TYPE_CHECKING:
    from fusiform.data.dataset import Split
    from fusiform.data.masks import Ignore
    from fusiform.engines import EngineName
    from fusiform.spec import Fit


@click.command(
    "evaluate",
    cls=options.Command,
    old={"--fit-temperature": "--calibrate"},
    extra="--compare",
    examples=(
        "fusiform evaluate runs/first photos/",
        "fusiform evaluate runs/first photos/ --html report.html --explain 8",
        "fusiform evaluate small.tflite photos/ --compare runs/first",
        "fusiform evaluate runs/first photos/ --calibrate sure.safetensors",
        "fusiform evaluate runs/first many/ --part 10000 --out answers/",
    ),
)
@click.argument("model", type=click.Path(), shell_complete=options.complete_model)
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test", "all"]),
    help="Which images to use.  [default: test if there is one, else val, else all]",
)
@click.option(
    "--compare",
    metavar="NAME|FILE",
    shell_complete=options.complete_model,
    help="Another model for the same images: is the difference more than chance?",
)
@options.html("Also write a page with charts and thumbnails.")
@click.option(
    "--explain",
    multiple=True,
    metavar="N|IMAGE",
    help="On that page, show with Grad-CAM what a classifier looks at: in N images, or in this one; may be repeated.",
)
@options.form
@options.out
@click.option(
    "--calibrate",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a copy of a classifier to FILE that states how sure its answers are: a temperature, sets of names, and "
    "what is unknown, fitted on other images than the report's (val, else test, else half of them).",
)
@options.certain("What --calibrate promises: the share of images whose set holds the right name.  [default: 95%]")
@click.option("--per-class", is_flag=True, help="Let --calibrate promise that to each class that has enough images.")
@options.shares(
    "--precision",
    "CLASS=PERCENT",
    "Let --calibrate choose a threshold for CLASS: so large a share of what is named so is right, with 95 % "
    "confidence; may be repeated.",
)
@options.shares(
    "--threshold",
    "CLASS=PERCENT",
    "Let the model of --calibrate name CLASS where its probability reaches this, and nowhere else; may be repeated.",
)
@click.option(
    "--costs",
    type=click.Path(path_type=Path),
    metavar="FILE.csv",
    help="Let the model of --calibrate give the answer of the least expected cost: true classes are rows, answers "
    "columns, one of them perhaps unsure.",
)
@click.option(
    "--unknown",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="A folder of images that show none of the classes: how many does a calibrated classifier call unknown?",
)
@click.option(
    "--stress",
    is_flag=True,
    help="Classifiers: also show the images with ImageNet-C's fifteen corruptions (noise, blur, weather, compression) "
    "at five strengths; takes 76 times as long and more.",
)
@options.score
@click.option(
    "--multi-scale",
    is_flag=True,
    help="Segmenters: average the answers at six scales, mirrored too, as for the papers' best figures (PyTorch).",
)
@options.labels
@options.root
@options.ignore
@options.batch
@options.threads
@options.device
@options.engine
@options.strict
@options.preprocessing
@parts.part_options
@click.option(
    "--answers",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="A folder that --part has filled: take the answers to these images from there.",
)
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
    certain: float | None,
    per_class: bool,
    precision: dict[str, float],
    threshold: dict[str, float],
    costs: Path | None,
    unknown: Path | None,
    stress: bool,
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
    part: int | None,
    shard: tuple[int, int] | None,
    on: str | None,
    answers: Path | None,
) -> None:
    """Measure how accurate MODEL, a name or a file, is on the labelled images in DATA.

    For a classifier DATA is a folder with one folder per class, named by the class's name, number or WordNet ID, or
    such folders within train, val and test. DATA may have only some of the model's classes; the model still chooses
    among all of its own. For a detector DATA has boxes, and for a segmenter masks or outlines, in any layout that
    fusiform train reads; classes are matched by name. Images that cannot be read are listed on standard error and not
    counted. json has every figure, jsonl and csv one record per class.

    Of a detector, mAP uses all boxes; precision and recall those of --score and above.

    A calibrated classifier names a set of classes that holds the right one for a stated share of images like those it
    was calibrated on, and says of an image that it shows none of them. The report tells what that comes to, and what
    the rule comes to by which a model decides that has one.

    With --part the answers to very many images are kept in the folder that --out names, in files of so many images
    each; interrupted, the same command goes on, and prints the report when all are there. Several machines take a
    --shard each, and --answers then makes the report of what they left.

    Exit codes: 0 if any image was read, 1 if not, 3 with --strict if any image could not be read.
    """
    _check_page(explain, html)
    of_parts = {"shard": shard, "on": on}
    if part is None:
        parts.refuse_without_part(ctx, form, of_parts)
    elif parts.evaluate_in_parts(ctx, part, of_parts):
        answers, out = out, None
    else:
        return

    from fusiform.evaluation.job import evaluate
    from fusiform.progress import track

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
        certain=certain,
        per_class=per_class,
        precision=precision,
        threshold=threshold,
        costs=costs,
        unknown=unknown,
        stress=stress,
        answers=answers,
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
        # The parts have told it.
        say=None if part is not None else lambda line: click.echo(f"fusiform: {printable(line)}", err=True),
        progress=True,
    )
    with track(total=None, label="figures and their intervals"):
        text = result.render(form)
    with open_output(out) as stream:
        stream.write(text)
    tell_left_out(result.left_out(form), form)
    if html is not None:  # only now: the figures are not to be lost where a page cannot be written
        result.write_page(html)
    if result.skipped:
        total = len(result.skipped) + len(result.samples)
        click.echo(f"fusiform: {len(result.skipped)} of {total} pictures could not be read:", err=True)
        for error in result.skipped:
            click.echo(f"  {printable(error)}", err=True)
    if Path(model).suffix in (".tflite", ".onnx"):
        suggest(form, ["predict", "PHOTO", "--model", model])
    else:
        suggest(form, ["export", model, "--to", "litert", "--out", "export"])
    if result.skipped and strict:
        ctx.exit(3)


def _check_page(explain: tuple[str, ...], html: Path | None) -> None:
    if explain and html is None:
        raise UsageError("--explain draws on the page: add --html FILE.html")
