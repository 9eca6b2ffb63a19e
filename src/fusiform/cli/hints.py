"""What was probably meant by a command or an option that there is not; loaded only then."""

from __future__ import annotations

import difflib
import os
import shlex

import click

from fusiform.report import printable

_COMMANDS = {
    "classify": "predict",
    "detect": "predict",
    "segment": "predict",
    "infer": "predict",
    "run": "predict",
    "check": "doctor",
    "diagnose": "doctor",
    "fit": "train",
    "finetune": "train",
    "test": "evaluate",
    "eval": "evaluate",
    "val": "evaluate",
    "convert": "export",
    "quantize": "export",
    "compare": "verify",
    "list": "models",
    "show": "info",
    "summary": "analyze",
    "analyse": "analyze",
    "import": "port",
}
"""What other programs, or other people, call a command."""

_OPTIONS = {
    "--output": ("--out",),
    "--weights": ("--model", "MODEL"),
    "--checkpoint": ("--model", "MODEL"),
    "--source": ("SOURCE",),
    "--dataset": ("DATA", "--data"),
    "--conf": ("--score",),
    "--threshold": ("--score",),
    "--batch-size": ("--batch", "--set batch=N"),
    "--learning-rate": ("--set lr=RATE",),
    "--imgsz": ("--size", "--set size=PIXELS"),
    "--img-size": ("--size", "--set size=PIXELS"),
    "--gpu": ("--device cuda",),
    "--cuda": ("--device cuda",),
    "--cpu": ("--device cpu",),
    "--quantize": ("--precision int8",),
    "--int8": ("--precision int8",),
    "--json": ("--format json",),
    "--csv": ("--format csv",),
    "--reference": ("--against",),
    "--baseline": ("--compare", "--against"),
}
"""What other programs call an option -> what it is here, of which a command has the first or the second."""

_MODEL_FILES = (".tflite", ".onnx", ".pth", ".pt", ".pte", ".safetensors", ".xml", ".mlpackage")


def for_command(name: str, rest: list[str], commands: list[str]) -> str:
    """What to type in place of a command that there is not, with the ``rest`` of the line."""
    import fusiform

    ending = os.path.splitext(name)[1].lower()  # noqa: PTH122  # the name of what may be no path
    if name == "help":
        meant = [*(word for word in rest[:1] if word in commands), "--help"]
    elif ending in _MODEL_FILES or name in fusiform.list_models():
        meant = ["info", name, *rest]
    elif _is_folder(name):
        return f"Did you mean {_line('predict', name, *rest)}, or doctor or train?"
    elif ending or "/" in name:
        meant = ["predict", name, *rest]
    elif close := _COMMANDS.get(name.lower()) or next(iter(difflib.get_close_matches(name.lower(), commands, n=1)), ""):
        meant = [close, *rest]
    else:
        return "fusiform --help lists the commands."
    return f"Did you mean {_line(*meant)}?"


def for_option(command: click.Command, ctx: click.Context, name: str) -> str:
    """What to write in place of an option that the command has not; empty where click's own guess is as good."""
    options = {word for parameter in command.params for word in (*parameter.opts, *parameter.secondary_opts)}
    arguments = [p.make_metavar(ctx).rstrip(".").strip("[]") for p in command.params if isinstance(p, click.Argument)]
    usage = f"It is an argument: fusiform {ctx.info_name} {' '.join(command.collect_usage_pieces(ctx))}"
    wanted = name.removeprefix("--")
    if wanted.upper() in arguments:
        return usage
    for known in _OPTIONS.get(name, ()):
        if known in arguments:
            return usage
        if known.split()[0] in options:
            return f"Did you mean {known}?"
    if "--set" in options:
        import dataclasses

        from fusiform.training.recipe import Recipe

        if (field := wanted.replace("-", "_")) in {field.name for field in dataclasses.fields(Recipe)}:
            return f"It is a hyperparameter: --set {field}=VALUE"
    return ""


def _is_folder(name: str) -> bool:
    return os.path.isdir(name)  # noqa: PTH112  # False, too, for what can be no path


def _line(*words: str) -> str:
    return printable(shlex.join(["fusiform", *words]))
