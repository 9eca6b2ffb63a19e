"""``fusiform evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusiform.cli import options
from fusiform.cli.models import complete_model
from fusiform.cli.output import open_output
from fusiform.errors import UsageError
from fusiform.report import Format, align, cell_text, printable, rows_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusiform.data.dataset import DataSet, Sample, Split
    from fusiform.engines import EngineName
    from fusiform.evaluation.calibration import Calibration
    from fusiform.evaluation.classification import Comparison, Evaluation
    from fusiform.evaluation.detection import BoxEvaluation
    from fusiform.evaluation.segmentation import MaskEvaluation
    from fusiform.spec import ModelSpec, Task
    from fusiform.tasks import bootstrap

SHOWN = 10
"""Pairs, mistakes and pictures in a table; json has all."""

_MODELS = {"classification": "classifier", "detection": "detector", "segmentation": "segmenter"}


@click.command("evaluate")
@click.argument("model", type=click.Path(), shell_complete=complete_model)
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test", "all"]),
    help="Which pictures.  [default: test if there is one, else val, else all]",
)
@click.option(
    "--compare",
    "other",
    metavar="NAME|FILE",
    shell_complete=complete_model,
    help="Another model for the same pictures, and whether the difference is more than chance.",
)
@options.engine
@options.device
@options.threads
@options.batch
@options.form
@options.out
@click.option(
    "--html",
    "page",
    type=click.Path(path_type=Path),
    metavar="PAGE",
    help="Also write a page with drawings and thumbnails.",
)
@click.option(
    "--explain",
    "explained",
    multiple=True,
    metavar="N|PICTURE",
    help="On the page, show with Grad-CAM what the network looks at: in N pictures, or in this one. May be repeated.",
)
@click.option(
    "--calibrate",
    "calibrated",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Fit a temperature, and write a copy of the model whose probabilities use it.",
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
    help="For a segmenter: show every picture at six scales and mirrored, as in the papers' best figures (PyTorch).",
)
@options.strict
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    data: Path,
    split: Split | None,
    other: str | None,
    engine: EngineName | None,
    device: str,
    threads: int | None,
    batch: int,
    form: Format,
    out: Path | None,
    page: Path | None,
    explained: tuple[str, ...],
    calibrated: Path | None,
    score: float | None,
    multi_scale: bool,
    strict: bool,
) -> None:
    """Measure how often MODEL, a name or a file, is right about the labelled pictures in DATA.

    For a classifier DATA is a folder with a folder for each class, named by the class's name, number or WordNet id, or
    such folders within train, val and test. It may have only some of the model's classes; the model still chooses among
    all of its own. For a detector DATA has boxes, in COCO's layout or Pascal VOC's, and for a segmenter masks, in
    Pascal VOC's; classes are bound by their names. Pictures that cannot be read are listed on standard error and not
    counted. json has everything, jsonl and csv one record for each class.

    Exit codes: 0 if any picture was read (3 with --strict if another could not be), 1 if the model or the data cannot
    be used, 2 for wrong usage, 130 after Ctrl-C.
    """
    if explained and page is None:
        raise UsageError("--explain draws on the page: add --html PAGE")

    from fusiform.progress import track
    from fusiform.zoo.model import open_model

    spec = open_model(model).spec
    only: dict[Task, dict[str, bool]] = {
        "classification": {"--explain": bool(explained), "--calibrate": calibrated is not None},
        "detection": {"--score": score is not None},
        "segmentation": {"--multi-scale": multi_scale},
    }
    for task, given in only.items():
        for name, asked in given.items():
            if asked and task != spec.task:
                raise UsageError(f"{name} is for a {_MODELS[task]}; {model} is a {_MODELS[spec.task]}: leave it out")
    if other is not None and (task := open_model(other).spec.task) != spec.task:
        raise UsageError(f"--compare {other}: is a {_MODELS[task]}; {model} is a {_MODELS[spec.task]}: name another")

    models = [model] if other is None else [model, other]
    if spec.task == "detection":
        from fusiform.evaluation import detection
        from fusiform.tasks.detection import SCORE_THRESHOLD

        threshold = SCORE_THRESHOLD if score is None else score
        found = [
            detection.evaluate(
                name,
                data,
                split=split,
                score=threshold,
                engine=engine,
                device=device,
                threads=threads,
                batch=batch,
                progress=track,
            )
            for name in models
        ]
        _write(found, form=form, out=out, page=page, threads=threads)
        _tell_skipped(ctx, found[0], strict=strict)
        return
    if spec.task == "segmentation":
        from fusiform.evaluation import segmentation

        outlined = [
            segmentation.evaluate(
                name,
                data,
                split=split,
                multi_scale=multi_scale,
                engine=engine,
                device=device,
                threads=threads,
                batch=batch,
                progress=track,
            )
            for name in models
        ]
        _write(outlined, form=form, out=out, page=page, threads=threads)
        _tell_skipped(ctx, outlined[0], strict=strict)
        return

    from fusiform.evaluation import classification
    from fusiform.evaluation.calibration import calibrate, check_calibration

    # What cannot work at the end is told before the work.
    if calibrated is not None:
        check_calibration(model, calibrated)
    network = None
    if explained:
        from fusiform.evaluation.classification_page import open_network

        network = open_network(model)
        for name in explained:
            if not name.isdecimal() and not Path(name).is_file():
                raise UsageError(f"--explain {name}: no such picture; give a number or a picture's path")

    pictures = _read_classes(data, spec, model)
    result, *others = (
        classification.evaluate(
            name, pictures, split=split, engine=engine, device=device, threads=threads, batch=batch, progress=track
        )
        for name in models
    )
    comparison = classification.compare(result, others[0]) if others else None
    calibration = None if calibrated is None else calibrate(result, calibrated)
    with open_output(out) as stream:
        if form == "table":
            stream.write(_table(result, comparison, calibration))
        elif form == "json":
            stream.write(classification.to_json(result, comparison=comparison, calibration=calibration))
        else:
            stream.write(classification.report(result).render(form))
    if page is not None:
        from fusiform.evaluation import classification_page as drawing

        shown = [] if network is None else drawing.explain(result, network, _samples(result, explained))
        drawing.write_page(result, page, comparison=comparison, calibration=calibration, explained=shown)
    _tell_skipped(ctx, result, strict=strict)


def _read_classes(data: Path, spec: ModelSpec, model: str) -> DataSet:
    """The dataset of a classifier; UsageError, which says so, where it is one with boxes or masks."""
    from fusiform.data.folders import read_dataset
    from fusiform.data.open import bind_classes, recognise

    try:
        pictures = read_dataset(data)
        bind_classes(pictures.classes, spec)
    except UsageError:
        # Only now: a folder of classes may hold what looks like another layout.
        if (task := recognise(data)) is None:
            raise
        what = {"detection": "boxes", "segmentation": "masks"}[task]
        raise UsageError(
            f"{data}: is a dataset with {what}, and {model} is a classifier: give a folder with one for each class"
        ) from None
    return pictures


def _tell_skipped(ctx: click.Context, result: Evaluation | BoxEvaluation | MaskEvaluation, *, strict: bool) -> None:
    if not result.skipped:
        return
    total = len(result.skipped) + len(result.samples)
    click.echo(f"fusiform: {len(result.skipped)} of {total} pictures could not be read:", err=True)
    for error in result.skipped:
        click.echo(f"  {printable(error)}", err=True)
    if strict:
        ctx.exit(3)


def _write(
    results: Sequence[BoxEvaluation] | Sequence[MaskEvaluation],
    *,
    form: Format,
    out: Path | None,
    page: Path | None,
    threads: int | None,
) -> None:
    """A detector's or a segmenter's evaluation in every form asked for, compared with the second if there is one."""
    from fusiform.evaluation.compare import compare

    result = results[0]
    comparison = compare(result, results[1]) if len(results) > 1 else None
    with open_output(out) as stream:
        stream.write(_task_text(result, comparison, form))
    if page is not None:
        from fusiform.evaluation.annotation_page import write_page

        write_page(result, page, comparison=comparison, threads=threads)


def _task_text(result: BoxEvaluation | MaskEvaluation, comparison: bootstrap.Comparison | None, form: Format) -> str:
    """The evaluation in one of the forms; for people with the worst pictures."""
    from fusiform.evaluation import detection, segmentation
    from fusiform.evaluation.compare import comparison_figures
    from fusiform.evaluation.detection import BoxEvaluation
    from fusiform.evaluation.figures import shortened

    if isinstance(result, BoxEvaluation):
        if form == "json":
            return detection.to_json(result, comparison=comparison)
        made, worst = detection.report(result), detection.pictures(result)
        lines = detection.headlines(made)
    else:
        if form == "json":
            return segmentation.to_json(result, comparison=comparison)
        made, worst = segmentation.report(result), segmentation.pictures(result)
        lines = segmentation.headlines(made)
    if form != "table":
        return made.render(form)
    parts = [printable(made.title), align(list(lines.items()), "<<")]
    if made.rows:
        parts.append(rows_table(shortened(made.rows)))
    if worst:
        parts.append("Worst pictures\n\n" + rows_table(shortened(worst[:SHOWN])))
    if comparison is not None:
        parts.append(printable(comparison.sentence))
        figures = comparison_figures(comparison)
        parts.append(align([[name, cell_text(value)] for name, value in figures.items() if name != "sentence"], "<<"))
    parts += [printable(note) for note in result.notes]
    return "\n\n".join(parts) + "\n"


def _samples(result: Evaluation, explained: tuple[str, ...]) -> list[Sample]:
    """The pictures that --explain asks for, by number or by name."""
    from fusiform.data.dataset import Sample
    from fusiform.evaluation.classification_page import examples

    samples: list[Sample] = []
    for name in explained:
        samples += examples(result, int(name)) if name.isdecimal() else [Sample(Path(name), label=0)]
    return samples


def _table(result: Evaluation, comparison: Comparison | None, calibration: Calibration | None) -> str:
    """For people: what the report says, with the most confused pairs and the most confident mistakes."""
    from fusiform.evaluation import classification
    from fusiform.evaluation.calibration import calibration_text
    from fusiform.evaluation.figures import shortened

    made = classification.report(result)
    parts = [
        printable(made.title),
        align(list(classification.headlines(made).items()), "<<"),
        rows_table(shortened(made.rows)),
    ]
    if pairs := classification.most_confused(result)[:SHOWN]:
        parts.append("Most confused\n\n" + rows_table(shortened(pairs)))
    if wrong := classification.mistakes(result)[:SHOWN]:
        parts.append("Most confident mistakes\n\n" + rows_table(shortened(wrong)))
    if comparison is not None:
        parts.append(printable(comparison.sentence))
        figures = classification.comparison_figures(comparison)
        parts.append(align([[name, cell_text(value)] for name, value in figures.items() if name != "sentence"], "<<"))
    if calibration is not None:
        parts.append(calibration_text(calibration))
    parts += [printable(note) for note in result.notes]
    return "\n\n".join(parts) + "\n"
