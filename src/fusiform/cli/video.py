"""What ``fusiform predict --video`` does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from fusiform.cli.output import open_output
from fusiform.cli.process import exit_code_of
from fusiform.errors import UsageError
from fusiform.report import printable

if TYPE_CHECKING:
    from fusiform.prediction.streams.frames import FramePrediction
    from fusiform.prediction.streams.video import FrameStream
    from fusiform.zoo.model import Model


def check(ctx: click.Context) -> None:
    """UsageError for options of images with a video, or of videos without one."""
    given = [
        (str(parameter.name), max(parameter.opts, key=len))
        for parameter in ctx.command.params
        if ctx.get_parameter_source(str(parameter.name)) is click.core.ParameterSource.COMMANDLINE
    ]
    if ctx.params["video"] is None:
        if not ctx.params["sources"]:
            raise click.UsageError("Missing argument 'SOURCE...'.", ctx)
        if words := [word for name, word in given if name in ("every", "fps", "reconnect")]:
            raise UsageError(f"{words[0]} is for --video: leave it out")
        return
    if ctx.params["sources"]:
        raise UsageError("--video takes the video as its value, and images are answered apart: leave SOURCE out")
    if words := [word for name, word in given if name in ("masks", "fast", "sketch")]:
        raise UsageError(f"{words[0]} is for images: leave it out with --video")
    if ctx.params["form"] == "coco":
        raise UsageError("--format coco is for images: take jsonl with --video")


ALIKE = ("save", "top", "certain", "score", "iou", "limit", "tiles", "overlap", "engine", "threads", "batch", "labels")
"""The options that mean for frames what they mean for images."""


def run(ctx: click.Context, model: Model, device: str, **frames: Any) -> None:
    """Answer the frames, write each answer as it comes, and sum up at the end; ``frames`` are the options of videos.

    Ctrl-C, the usual end of a live source, completes the files.
    """
    from fusiform.prediction.formats import ImageIds, write_predictions
    from fusiform.prediction.streams.frames import COLUMNS
    from fusiform.prediction.streams.video import predict_video

    form, out, strict = (ctx.params[name] for name in ("form", "out", "strict"))
    asked = {name: ctx.params[name] for name in ALIKE}
    stream = predict_video(ctx.params["video"], model, device=device, **frames, **asked)
    answers = _UntilInterrupted(stream)
    answered = errors = 0
    with open_output(out) as output:
        for prediction in write_predictions(
            answers, stream.spec, form, output, None, ImageIds(), schema="frames", places=COLUMNS
        ):
            output.flush()  # whoever reads a live source's answers is not to wait for more of them
            if prediction.error is None:
                answered += 1
            else:
                errors += 1
                click.echo(f"fusiform: {printable(prediction.error)}", err=True)
        stream.close()
    for note in stream.notes:
        click.echo(f"fusiform: {printable(note)}", err=True)
    if stream.live or answers.interrupt:
        _summarize(stream, answered)
    if answers.interrupt is not None:
        ctx.exit(exit_code_of(answers.interrupt))
    if not answered:
        ctx.exit(1)
    if errors and strict:
        ctx.exit(3)


class _UntilInterrupted:
    """The answers until the user ends them: what is written then gets its end, too."""

    def __init__(self, stream: FrameStream) -> None:
        self.interrupt: KeyboardInterrupt | None = None
        self._stream = stream

    def __iter__(self) -> Iterator[FramePrediction]:
        while True:
            try:
                answer = next(self._stream)
            except StopIteration:
                return
            except KeyboardInterrupt as interrupt:
                self.interrupt = interrupt
                return
            yield answer


def _summarize(stream: FrameStream, answered: int) -> None:
    parts = [f"{answered:,} frame{'' if answered == 1 else 's'} answered"]
    if stream.live:
        parts.append(f"{stream.dropped:,} dropped because newer ones came")
    if stream.lost:
        parts.append(f"the source was lost {stream.lost} time{'' if stream.lost == 1 else 's'}")
    click.echo(f"fusiform: {', '.join(parts)}", err=True)
