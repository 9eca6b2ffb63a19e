"""What commands have in common: options that are called and explained alike, examples, and hints for wrong words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

Option = Callable[[Callable[..., Any]], Callable[..., Any]]

# Named again, because importing what they are of takes longer than printing the help.
ENGINES = ("litert", "onnxruntime", "torch", "openvino", "executorch", "native")
RECIPES = {
    "classification": (
        "finetune_small",
        "finetune_full",
        "prototypes",
        "distill_small",
        "quantize_small",
        "imagenet_paper",
        "imagenet_modern",
        "shufflenet_paper",
    ),
    "detection": ("ssdlite_small", "coco_ssdlite_paper", "voc_ssdlite"),
    "segmentation": ("deeplab_small", "voc_deeplab_paper"),
}


class Command(click.Command):
    """A command with examples at the end of its help, and with a hint where an option is not its own.

    ``old`` are words that options had, with those that they have now: they are taken with a note until 0.3. ``extra``
    is the option that one argument too many was probably meant for.
    """

    def __init__(
        self,
        *args: Any,
        examples: tuple[str, ...] = (),
        old: Mapping[str, str] | None = None,
        extra: str = "",
        **attrs: Any,
    ) -> None:
        super().__init__(*args, **attrs)
        self.examples = examples
        self.old = dict(old or {})
        self.extra = extra

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples, each on a line of its own."""
        super().format_epilog(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line; wrong words are answered with the right ones."""
        ctx.allow_extra_args = True  # what is left is told below
        try:
            left = super().parse_args(ctx, self._with_new_words(ctx, args))
        except click.NoSuchOption as error:
            from fusiform.cli.hints import for_option

            if hint := for_option(self, ctx, error.option_name):
                raise click.UsageError(f"No such option: {error.option_name}. {hint}", ctx) from None
            raise
        if ctx.args and not ctx.resilient_parsing:
            self._refuse(ctx)
        return left

    def _with_new_words(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        changed = list(args)
        for k, word in enumerate(args[:end]):
            name, equals, value = word.partition("=")
            if name in self.old:
                changed[k] = self.old[name] + equals + value
                if not ctx.resilient_parsing:
                    click.echo(f"fusiform: {name} is now {self.old[name]}; the old word is taken until 0.3", err=True)
        return changed

    def _refuse(self, ctx: click.Context) -> NoReturn:
        first = ctx.args[0]
        several = f" (and {len(ctx.args) - 1} more)" if len(ctx.args) > 1 else ""
        given = {word for p in self.params if ctx.get_parameter_source(str(p.name)) is _TYPED for word in p.opts}
        hint = f" Did you mean {self.extra} {first}?" if self.extra and self.extra not in given else ""
        raise click.UsageError(f"Unexpected argument {first!r}{several}.{hint}", ctx)


_TYPED = click.core.ParameterSource.COMMANDLINE


def complete_model(_ctx: click.Context, _param: click.Parameter, start: str) -> list[CompletionItem]:
    """Shell completion for a model: the names that begin like it, or else files."""
    from click.shell_completion import CompletionItem

    import fusiform

    names = [CompletionItem(name) for name in fusiform.list_models() if name.startswith(start)]
    return names or [CompletionItem(start, type="file")]


engine = click.option(
    "--engine",
    type=click.Choice(ENGINES),
    help="The runtime.  [default: the one the file is for, or native where that is faster]",
)
device = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="DEVICE",
    help="Where the engine torch computes: auto (a CUDA GPU if there is one), cpu, cuda, cuda:1 or mps.",
)
threads = click.option("--threads", type=click.IntRange(min=1), metavar="N", help="CPU cores to use.  [default: all]")
batch = click.option(
    "--batch",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="Images per forward pass.",
)
form = click.option(
    "--format",
    "-f",
    "form",
    default="table",
    show_default=True,
    type=click.Choice(["table", "json", "jsonl", "csv"]),
    help="How the result is written: a table for people, the others for programs.",
)
out = click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the result to FILE.  [default: standard output]",
)


def several(
    word: str,
    convert: Callable[[Any, click.Parameter, click.Context], Any],
    metavar: str,
    text: str,
    *,
    default: tuple[Any, ...] = (),
) -> Option:
    """An option that takes several values, with commas or by being repeated; ``convert`` is a click type's."""

    def split(ctx: click.Context, param: click.Parameter, groups: tuple[str, ...]) -> tuple[Any, ...]:
        return tuple(convert(value.strip(), param, ctx) for group in groups for value in group.split(","))

    return click.option(word, multiple=True, default=default, type=str, callback=split, metavar=metavar, help=text)


def out_folder(text: str, *, required: bool = True) -> Option:
    """``--out`` of a command that writes several files."""
    return click.option("--out", "-o", required=required, type=click.Path(path_type=Path), metavar="DIR", help=text)


CERTAIN = (
    "Calibrated classifiers: the share of images whose set of names holds the right one, and that are not called "
    "unknown wrongly.  [default: 95%, or what it was calibrated for]"
)
"""What ``--certain`` is for those that answer images."""


def certain(text: str) -> Option:
    """``--certain``: a share, as ``99%`` or ``0.99``."""
    return click.option("--certain", type=ShareType(), metavar="PERCENT", help=text)


def shares(word: str, metavar: str, text: str) -> Option:
    """An option ``NAME=SHARE`` that may be repeated, each name once: the shares by their names."""

    def read(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> dict[str, float]:
        found: dict[str, float] = {}
        for each in given:
            name, equals, share = each.rpartition("=")  # a name may have one in it
            if not (equals and name.strip()):
                raise click.BadParameter(f"{each} names no class: write {metavar}, such as cat=95%", ctx, param)
            if name.strip() in found:
                raise click.BadParameter(f"{name.strip()} is there twice: give it once", ctx, param)
            found[name.strip()] = ShareType().convert(share, param, ctx)
        return found

    return click.option(word, multiple=True, type=str, callback=read, metavar=metavar, help=text)


class ShareType(click.ParamType[float]):
    """A share between 0 and 1, written as one or, with its sign, in percent."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The share; what is none, or is 0 or 1 or beyond, is refused."""
        if isinstance(value, float):
            return value
        text = str(value).strip()
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            share = -1.0
        if not 0 < share < 1:
            self.fail(f"{value} is no share: write 99% or 0.99, above 0 and below 1", param, ctx)
        return share


def model(text: str, *, default: str | None = None) -> Option:
    """``--model`` of a command that is about images."""
    return click.option(
        "--model",
        "-m",
        default=default,
        show_default=default is not None,
        metavar="NAME|FILE",
        shell_complete=complete_model,
        help=text,
    )


def html(text: str) -> Option:
    """``--html``, a page beside the result."""
    return click.option("--html", type=click.Path(path_type=Path), metavar="FILE.html", help=text)


def data(text: str) -> Option:
    """``--data`` of a command that is about models."""
    return click.option("--data", type=click.Path(path_type=Path), metavar="DATA", help=text)


def recipe(default: str | None, tasks: tuple[str, ...], text: str = "") -> Option:
    """``--recipe``, which names those of the tasks."""
    names = "; ".join(f"{task}: {', '.join(RECIPES[task])}" for task in tasks)
    return click.option(
        "--recipe",
        default=default,
        show_default=default is not None,
        metavar="NAME",
        help=f"A preset of hyperparameters. For {names}.{text}",
    )


def slices(default: int, text: str) -> Option:
    """``--slices`` of a network's expansions."""
    return click.option(
        "--slices", default=default, show_default=True, type=click.IntRange(min=1), metavar="N", help=text
    )


def measured_threads(text: str, *, default: int | None = None) -> Option:
    """``--threads`` of a command that measures or compares: a setting of what is measured, hence one unless named."""
    return click.option("--threads", default=default, type=click.IntRange(min=1), metavar="N", help=text)


settings = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="Change a hyperparameter of the recipe, as in --set lr=0.001; may be repeated. fusiform train --recipes "
    "explains them.",
)
score = click.option(
    "--score",
    type=click.FloatRange(0, 1),
    metavar="SCORE",
    help="Detectors: leave out boxes below this confidence score, from 0 to 1.  [default: 0.3]",
)
top = click.option(
    "--top",
    type=click.IntRange(min=1),
    metavar="N",
    help="Classifiers: how many classes to list per image.  [default: 5]",
)
iou = click.option(
    "--iou",
    type=click.FloatRange(0, 1),
    metavar="IOU",
    help="Detectors: of boxes of one class that overlap by more than this (intersection over union), keep the "
    "highest-scoring.  [default: 0.6]",
)
limit = click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="Detectors: the most boxes per image.  [default: 100]"
)
fast = click.option("--fast", is_flag=True, help="Decode large JPEGs at a reduced size; answers may change a little.")


def _overlap(ctx: click.Context, param: click.Parameter, share: float) -> float:
    """The overlap; it is not asked for where there are no tiles, which are read before it."""
    if ctx.params.get("tiles") is None and ctx.get_parameter_source(str(param.name)) is _TYPED:
        raise click.UsageError("--overlap is for --tiles: give it too, or leave --overlap out", ctx)
    return share


tiles = click.option(
    "--tiles",
    is_eager=True,
    type=click.IntRange(min=64),
    metavar="PIXELS",
    help="Detectors, for small objects in large images: look at overlapping tiles of this side too, and merge the "
    "boxes.",
)
overlap = click.option(
    "--overlap",
    callback=_overlap,
    type=click.FloatRange(0, 0.9),
    default=0.2,
    show_default=True,
    metavar="SHARE",
    help="The share of a tile's side that neighbours have in common.",
)

max_drop = click.option(
    "--max-drop",
    type=click.FloatRange(min=0),
    metavar="POINTS",
    help="The most that int8 may lose, in percentage points of top-1, mAP or mIoU.  [default: 1; detectors and "
    "segmenters: 2]",
)
task = click.option(
    "--task",
    type=click.Choice(["classification", "detection", "segmentation"]),
    help="What DATA is for.  [default: what its layout is for]",
)
ignore = click.option(
    "--ignore",
    type=click.Choice(["255", "none"]),
    help="Segmentation masks: whether 255 marks pixels to ignore, or (none) is the last class.  [default: 255, unless "
    "it looks like a class]",
)
root = click.option(
    "--root",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The folder that the paths in a CSV list are relative to.  [default: the list's own]",
)
labels = click.option(
    "--labels",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The names of the classes, for a model without them or with others: UTF-8 text, one per line.",
)


def _colours(text: str) -> tuple[float, ...]:
    """A number for each of the three channels, with commas between them, or one for all."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is not a number, nor three with commas between them, such as 0.5 or 0.485,0.456,0.406"
        ) from None


_PREPROCESSING = (
    click.option(
        "--mean",
        type=_colours,
        metavar="R,G,B",
        help="For weights of other programs, like the next four options: the mean subtracted from values in [0, 1]; "
        "one number is for all channels.  [default: ImageNet's, 0.485,0.456,0.406]",
    ),
    click.option(
        "--std",
        type=_colours,
        metavar="R,G,B",
        help="The standard deviation that values are then divided by.  [default: 0.229,0.224,0.225]",
    ),
    click.option(
        "--resize",
        type=int,
        metavar="PIXELS",
        help="The shorter side before the crop.  [default: 256, or 8/7 of the crop]",
    ),
    click.option(
        "--crop", type=int, metavar="PIXELS", help="The side of the square that the network sees.  [default: 224]"
    ),
    click.option(
        "--fit",
        type=click.Choice(["crop", "stretch", "pad"]),
        help="How an image becomes that square: its centre is cut out, all of it is stretched, or it is padded.  "
        "[default: crop]",
    ),
)


def preprocessing(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what weights of other programs were trained with, in their order."""
    for option in reversed(_PREPROCESSING):
        command = option(command)
    return command


prediction_form = click.option(
    "--format",
    "-f",
    "form",
    default="table",
    show_default=True,
    type=click.Choice(["table", "json", "jsonl", "csv", "coco", "parquet"]),
    help="How the result is written: a table for people, the others for programs; coco is a detector's boxes in COCO's "
    "result format. Parts are parquet, where pyarrow is installed, or jsonl.",
)

strict = click.option("--strict", is_flag=True, help="Exit with code 3 if any image could not be read.")


_FRAMES = (
    click.option(
        "--video",
        metavar="VIDEO",
        help="In place of SOURCE: a video file, a camera (/dev/video0), a network stream (rtsp://..., http://...), or "
        "- for JPEG images one after the other on standard input.",
    ),
    click.option("--every", type=click.IntRange(min=1), metavar="N", help="Videos: answer each Nth frame."),
    click.option(
        "--fps",
        type=click.FloatRange(min=0, min_open=True),
        metavar="FPS",
        help="Videos: answer so many frames a second of the video's time, at most all.",
    ),
    click.option(
        "--reconnect",
        type=click.FloatRange(min=0),
        default=60,
        show_default=True,
        metavar="SECONDS",
        help="Videos: how long to try to connect again to a live source that was lost.",
    ),
)


def frames(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of videos, in their order."""
    for option in reversed(_FRAMES):
        command = option(command)
    return command
