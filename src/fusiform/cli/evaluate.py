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
    from fusiform.data.dataset import Sample, Split
    from fusiform.engines import EngineName
    from fusiform.evaluate import Calibration, Comparison, Evaluation

SHOWN = 10
"""Pairs and mistakes in a table; json has all."""


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
    strict: bool,
) -> None:
    """Measure how often MODEL, a name or a file, is right about the labelled pictures in DATA.

    DATA is a folder with a folder for each class, named by the class's name, number or WordNet id, or such folders
    within train, val and test. It may have only some of the model's classes; the model still chooses among all of its
    own. Pictures that cannot be read are listed on standard error and not counted. json has everything, jsonl and csv
    one record for each class.

    Exit codes: 0 if any picture was read (3 with --strict if another could not be), 1 if the model or the data cannot
    be used, 2 for wrong usage, 130 after Ctrl-C.
    """
    if explained and page is None:
        raise UsageError("--explain draws on the page: add --html PAGE")

    from fusiform import evaluate
    from fusiform.data.layouts import read_dataset
    from fusiform.progress import track

    # What cannot work at the end is told before the work.
    if calibrated is not None:
        evaluate.check_calibration(model, calibrated)
    network = None
    if explained:
        from fusiform.evaluate_page import open_network

        network = open_network(model)
        for name in explained:
            if not name.isdecimal() and not Path(name).is_file():
                raise UsageError(f"--explain {name}: no such picture; give a number or a picture's path")

    pictures = read_dataset(data)
    result, *others = (
        evaluate.evaluate(
            name, pictures, split=split, engine=engine, device=device, threads=threads, batch=batch, progress=track
        )
        for name in ([model] if other is None else [model, other])
    )
    comparison = evaluate.compare(result, others[0]) if others else None
    calibration = None if calibrated is None else evaluate.calibrate(result, calibrated)
    with open_output(out) as stream:
        if form == "table":
            stream.write(_table(result, comparison, calibration))
        elif form == "json":
            stream.write(evaluate.to_json(result, comparison=comparison, calibration=calibration))
        else:
            stream.write(evaluate.report(result).render(form))
    if page is not None:
        from fusiform import evaluate_page

        shown = [] if network is None else evaluate_page.explain(result, network, _samples(result, explained))
        evaluate_page.write_page(result, page, comparison=comparison, calibration=calibration, explained=shown)
    if result.skipped:
        total = len(result.skipped) + len(result.samples)
        click.echo(f"fusiform: {len(result.skipped)} of {total} pictures could not be read:", err=True)
        for error in result.skipped:
            click.echo(f"  {printable(error)}", err=True)
        if strict:
            ctx.exit(3)


def _samples(result: Evaluation, explained: tuple[str, ...]) -> list[Sample]:
    """The pictures that --explain asks for, by number or by name."""
    from fusiform.data.dataset import Sample
    from fusiform.evaluate_page import examples

    samples: list[Sample] = []
    for name in explained:
        samples += examples(result, int(name)) if name.isdecimal() else [Sample(Path(name), label=0)]
    return samples


def _table(result: Evaluation, comparison: Comparison | None, calibration: Calibration | None) -> str:
    """For people: what the report says, with the most confused pairs and the surest mistakes."""
    from fusiform import evaluate

    made = evaluate.report(result)
    parts = [
        printable(made.title),
        align(list(evaluate.headlines(made).items()), "<<"),
        rows_table(evaluate.shortened(made.rows)),
    ]
    if pairs := evaluate.most_confused(result)[:SHOWN]:
        parts.append("Most confused\n\n" + rows_table(evaluate.shortened(pairs)))
    if wrong := evaluate.mistakes(result)[:SHOWN]:
        parts.append("Surest mistakes\n\n" + rows_table(evaluate.shortened(wrong)))
    if comparison is not None:
        parts.append(printable(comparison.sentence))
        figures = evaluate.comparison_figures(comparison)
        parts.append(align([[name, cell_text(value)] for name, value in figures.items() if name != "sentence"], "<<"))
    if calibration is not None:
        parts.append(evaluate.calibration_text(calibration))
    parts += [printable(note) for note in result.notes]
    return "\n\n".join(parts) + "\n"
