"""``fusiform predict --part``, and evaluate's and embed's: very many images, into a folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusiform.cli.process import command_line
from fusiform.report import printable

if TYPE_CHECKING:
    from fusiform.scaling.run import Parts


def _shard(_ctx: click.Context, _param: click.Parameter, text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if found is None or int(found[1]) >= int(found[2]):
        raise click.BadParameter(f"{text!r} is not I/N with I from 0 to N - 1, such as 0/64 to 63/64")
    return int(found[1]), int(found[2])


def _on(_ctx: click.Context, _param: click.Parameter, text: str | None) -> str | None:
    if text is not None and text != "ray" and not text.startswith("ray://"):
        raise click.BadParameter(f"{text!r} is not ray or ray://HOST:PORT")
    return text


_SHARED = (
    click.option(
        "--part",
        type=click.IntRange(min=1),
        metavar="N",
        help="For very many images: write a file for every N of them into the folder --out, and go on there when run "
        "again. 10000 are a minute or two of work.",
    ),
    click.option(
        "--shard",
        callback=_shard,
        metavar="I/N",
        help="With --part, answer every N-th part from part I on: 0/64 to 63/64 on 64 machines do all.",
    ),
    click.option(
        "--on",
        callback=_on,
        metavar="ray[://HOST]",
        help="With --part, let the workers of a Ray cluster answer the parts (extra ray).",
    ),
)
_LISTED = (
    click.option(
        "--root",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="With --part, the folder that the paths in a list are relative to.  [default: the list's own]",
    ),
    click.option(
        "--column",
        metavar="NAME",
        help="With --part, the column of a list or Parquet file that has the images, their paths or addresses.  "
        "[default: by its name]",
    ),
)


def part_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of parts of a dataset, in their order."""
    for option in reversed(_SHARED):
        command = option(command)
    return command


def listed_part_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of parts of sources, in their order."""
    for option in reversed(_LISTED):
        command = option(command)
    return part_options(command)


def _is_typed(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def refuse_without_part(ctx: click.Context, form: str, of_parts: Mapping[str, object]) -> None:
    """UsageError for an option, or a format, that is of parts alone."""
    names = [name for name, value in of_parts.items() if value is not None]
    if names or form == "parquet":
        what = f"--{names[0]}" if names else "--format parquet"
        raise click.UsageError(f"{what} goes with --part: add --part 10000 and a folder for --out", ctx)


def answer_in_parts(ctx: click.Context, part: int, of_parts: Mapping[str, Any]) -> None:
    """Run ``predict_parts`` as the options say, and tell what came of it."""
    given = ctx.params
    for name in ("save", "masks", "sketch"):
        if given[name] is not None:
            raise click.UsageError(f"--{name} is for few images: leave out it or --part", ctx)
    _check_out(ctx)
    form = given["form"] if _is_typed(ctx, "form") else None
    if form not in (None, "jsonl", "parquet"):
        raise click.UsageError(f"parts are written as parquet or jsonl, not as {form}: leave --format out", ctx)

    from fusiform.cli.output import tell_device
    from fusiform.engines import place_of
    from fusiform.scaling.parts import predict_parts
    from fusiform.zoo.model import open_model

    opened = open_model(given["model"], **{name: given[name] for name in ("mean", "std", "resize", "crop", "fit")})
    if opened.assumed:
        from fusiform.zoo.stated import assumption

        note = assumption(given["model"], opened.spec.preprocess, opened.assumed)
        click.echo(f"fusiform: {printable(note)}", err=True)
    device = given["device"]
    if device == "auto" and of_parts["on"] is None:
        device = place_of(opened, given["engine"], device)
        tell_device(device)
    same = (
        *("top", "certain", "score", "iou", "limit"),
        *("engine", "threads", "batch", "fast", "labels", "tiles", "overlap"),
    )
    with _going_on():
        parts = predict_parts(
            given["sources"],
            given["out"],
            opened,
            part=part,
            format=form,
            device=device,
            progress=True,
            **of_parts,
            **{name: given[name] for name in same},
        )
    _tell(ctx, parts, "their rows have an error")


def embed_in_parts(ctx: click.Context, part: int, of_parts: Mapping[str, Any]) -> None:
    """Run ``embed_parts`` as the options say, and tell what came of it."""
    given = ctx.params
    if _is_typed(ctx, "form"):
        raise click.UsageError("--format is for the report of a file: leave out it or --part", ctx)
    if given["out"].suffix in (".npz", ".npy", ".parquet", ".csv"):
        raise click.UsageError(f"--part writes a folder, and {given['out']} is called like a file: name a folder", ctx)

    from fusiform.cli.output import open_told
    from fusiform.embedding.parts import embed_parts

    stated = {name: given[name] for name in ("mean", "std", "resize", "crop", "fit")}
    _, device = open_told(given["model"], given["engine"], given["device"], **stated)
    with _going_on():
        found = embed_parts(
            given["sources"],
            given["out"],
            given["model"],  # by its name, which the index keeps
            part=part,
            device=device if of_parts["on"] is None else given["device"],
            progress=True,
            **of_parts,
            **stated,
            **{name: given[name] for name in ("engine", "threads", "batch", "fast")},
        )
    _tell(ctx, found, "they have no features")


def evaluate_in_parts(ctx: click.Context, part: int, of_parts: Mapping[str, Any]) -> bool:
    """Run ``evaluate_parts`` as the options say, and tell what came of it; whether all parts are there now."""
    given = ctx.params
    for name in ("calibrate", "certain", "per_class", "precision", "threshold", "costs", "stress", "answers"):
        if given[name]:
            flag = name.replace("_", "-")
            raise click.UsageError(f"--{flag} does not go with --part: leave out one of the two", ctx)
    of_report = {name: given[name] for name in ("compare", "html", "explain", "unknown", "score")}
    if of_parts["shard"] is not None:
        for name, value in of_report.items():
            if value not in (None, ()):
                raise click.UsageError(
                    f"--{name} is for the figures, which --answers DIR tells when all parts are there: leave it out",
                    ctx,
                )
    _check_out(ctx)

    from fusiform.evaluation.job import check_report
    from fusiform.evaluation.parts import evaluate_parts
    from fusiform.zoo.model import open_model

    same = ("split", "multi_scale", "engine", "device", "threads", "batch", "ignore", "root", "labels")
    stated = ("mean", "std", "resize", "crop", "fit")
    if of_parts["shard"] is None:
        opened = open_model(given["model"], **{name: given[name] for name in stated})
        check_report(opened, given["model"], **of_report)
    with _going_on():
        parts = evaluate_parts(
            given["model"],
            given["data"],
            given["out"],
            part=part,
            say=lambda line: click.echo(f"fusiform: {printable(line)}", err=True),
            progress=True,
            **of_parts,
            **{name: given[name] for name in (*same, *stated)},
        )
    if of_parts["shard"] is None:
        return True
    hint = (
        f"when all shards have ended, --answers {parts.folder} in place of --part, --shard and --out prints the report"
    )
    _tell(ctx, parts, "they count in no figure", hint)
    return False


def _check_out(ctx: click.Context) -> None:
    if ctx.params["out"] is None:
        raise click.UsageError("--part writes several files: name a folder for them with --out", ctx)


@contextmanager
def _going_on() -> Iterator[None]:
    """Have an interruption say how to go on."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if interrupt.args:
            interrupt.args = (f"{interrupt.args[0]}; go on with: {command_line()}",)
        raise


def _tell(ctx: click.Context, parts: Parts, of_errors: str, hint: str = "") -> None:
    """Say what parts hold, and end with the exit code for it where that is not 0."""
    answered = parts.images - parts.errors
    before = f", {parts.earlier} of which were there before" if parts.earlier else ""
    click.echo(
        f"fusiform: {answered:,} of {parts.images:,} images answered, in {parts.parts} parts in "
        f"{printable(str(parts.folder))}{before}",
        err=True,
    )
    if parts.errors:
        click.echo(f"fusiform: {parts.errors:,} images could not be read: {of_errors}", err=True)
    if hint:
        click.echo(f"fusiform: {printable(hint)}", err=True)
    if parts.images and not answered:
        ctx.exit(1)
    if parts.errors and ctx.params.get("strict"):
        ctx.exit(3)
