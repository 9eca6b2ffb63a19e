"""What every recipe and hyperparameter means: the docstrings beside their values, put in an order to read them in.

``fusiform train --recipes`` prints them, and the reference in the documentation is made of them.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import NamedTuple, get_type_hints

from fusiform.fields import describe
from fusiform.training import recipe as recipe_module
from fusiform.training import recipes as recipes_module
from fusiform.training.recipe import _RANGES, Recipe
from fusiform.training.recipes import DEFAULTS, RECIPES

GROUPS: dict[str, tuple[str, ...]] = {
    "Try these first": ("epochs", "lr", "size", "batch", "augment", "early_stop"),
    "Phases and learning rate": (
        "min_steps",
        "max_steps",
        "repeats",
        "give_up",
        "head",
        "head_epochs",
        "head_lr",
        "schedule",
        "warmup_epochs",
        "min_lr",
        "step_epochs",
        "decay_rate",
        "power",
        "backbone_lr",
        "freeze",
        "unfreeze_epochs",
    ),
    "Images": (
        "eval_size",
        "eval_resize",
        "fit_size",
        "sizes",
        "crop_scale",
        "flip",
        "color_jitter",
        "random_erasing",
        "mixup",
        "cutmix",
        "expand",
        "scale_range",
        "val_fraction",
        "sampler",
    ),
    "Optimizer": (
        "optimizer",
        "centre_steps",
        "weight_decay",
        "decay_norms_and_biases",
        "momentum",
        "nesterov",
        "rmsprop_decay",
        "eps",
        "clip",
        "ema",
        "accumulate",
    ),
    "Network and loss": (
        "batch_norm",
        "sync_batch_norm",
        "dropout",
        "label_smoothing",
        "class_weights",
        "metric",
        "box_loss",
        "negatives",
        "box_weight",
        "focal_gamma",
        "focal_alpha",
        "output_stride",
        "aspp",
    ),
    "Distillation": ("distill", "temperature", "distill_features"),
    "Speed and randomness": (
        "precision",
        "channels_last",
        "fused",
        "compile",
        "cache",
        "workers",
        "seed",
        "deterministic",
    ),
}
"""The fields by what they are about, those that matter most first; the rest follows as ``_REST``."""
_REST = "More"
_FACTS = ("name", "task")
"""Fields that say which recipe it is, and are not set."""

_WIDTH = 100


class Field(NamedTuple):
    """A hyperparameter: what it takes in words, with its range, and its default as ``--set`` takes it, if any."""

    name: str
    kind: str
    default: str | None
    text: str


class Preset(NamedTuple):
    """A recipe: ``task`` says whether it is the task's default, ``values`` are those that are not the fields' own."""

    name: str
    task: str
    text: str
    values: dict[str, str]


def fields() -> dict[str, list[Field]]:
    """Every field of a recipe but its name and task, in the groups that they are read in."""
    texts = _docstrings(recipe_module, Recipe.__name__)
    hints = get_type_hints(Recipe)
    known = {field.name: field for field in dataclasses.fields(Recipe) if field.name not in _FACTS}
    grouped = {name for names in GROUPS.values() for name in names}
    groups = {**GROUPS, _REST: tuple(name for name in known if name not in grouped)}
    found: dict[str, list[Field]] = {}
    for title, names in groups.items():
        for name in (name for name in names if name in known):
            default = known[name].default
            kind = describe(hints[name]).replace("'", "")
            if name in _RANGES:
                kind = f"{kind}, {_RANGES[name][0]}"
            shown = None if default is dataclasses.MISSING else as_set(default)
            found.setdefault(title, []).append(Field(name, kind, shown, texts.get(name, "")))
    return found


def presets() -> list[Preset]:
    """Every recipe with what it is for."""
    texts = _docstrings(recipes_module, None)
    usual = {field.name: field.default for field in dataclasses.fields(Recipe)}
    found = []
    for name, recipe in RECIPES.items():
        values = {key: value for key, value in dataclasses.asdict(recipe).items() if value != usual[key]}
        shown = {key: as_set(value) for key, value in values.items() if key not in _FACTS}
        default = ", the default" if DEFAULTS[recipe.task] == name else ""
        found.append(Preset(name, f"{recipe.task}{default}", texts.get(name, ""), shown))
    return found


def explain() -> str:
    """All of it as text for a terminal."""
    lines = ["Recipes, presets of hyperparameters: fusiform train DATA --out DIR --recipe NAME", ""]
    for preset in presets():
        values = ", ".join(f"{name}={value}" for name, value in preset.values.items())
        lines += [f"  {preset.name} ({preset.task})", *_wrapped(f"{preset.text}\n\nValues: {values}."), ""]
    lines += [
        "Hyperparameters: --set NAME=VALUE changes one, --show prints all as they would be used. The values below are",
        "those where the recipe says nothing else.",
        "",
    ]
    for title, group in fields().items():
        lines += [title, ""]
        for field in group:
            default = "" if field.default is None else f" = {field.default}"
            lines += [f"  {field.name}{default} ({field.kind})", *_wrapped(field.text)]
        lines.append("")
    return "\n".join(lines)


def as_set(value: object) -> str:
    """A value as ``--set`` takes it."""
    if isinstance(value, tuple):
        return ",".join(map(as_set, value)) or "none"
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _wrapped(text: str) -> Iterator[str]:
    for paragraph in text.replace("``", "").split("\n\n"):
        yield from textwrap.wrap(paragraph, _WIDTH, initial_indent="      ", subsequent_indent="      ")


@cache
def _docstrings(module: ModuleType, name: str | None) -> dict[str, str]:
    """The texts below the values of a module, or of a class in it: Python itself keeps none of them."""
    body = ast.parse(inspect.getsource(module)).body
    if name is not None:
        body = next(node.body for node in body if isinstance(node, ast.ClassDef) and node.name == name)
    found = {}
    for node, following in itertools.pairwise(body):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = following.value if isinstance(following, ast.Expr) else None
        if isinstance(target, ast.Name) and isinstance(value, ast.Constant) and isinstance(value.value, str):
            paragraphs = inspect.cleandoc(value.value).split("\n\n")
            found[target.id] = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    return found
