"""The reference of the hyperparameters: a recipe's fields from their docstrings, and the presets' values."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import griffe

SOURCE = Path(__file__).resolve().parents[2] / "src"


def _documented(path: str) -> griffe.Object | griffe.Alias:
    return griffe.load(path, search_paths=[SOURCE])


def hyperparameters(_: str) -> str:
    """A definition for each field of a recipe: its type, its default, its meaning and what is allowed."""
    from fusiform.training.recipe import _RANGES

    parts = []
    for name, field in _documented("fusiform.training.recipe.Recipe").attributes.items():
        if field.docstring is not None:
            text = _one_line(field.docstring.value)
            allowed = _RANGES[name][0] if name in _RANGES else ""
            if allowed.replace(" pixels", "") not in text:
                text = f"{text} Allowed: {allowed}."
            default = "" if field.value is None else f" = {field.value}"
            parts.append(f"`{name}: {field.annotation}{default}`{{ #{name} }}\n:   {text}")
    return "\n\n".join(parts)


def presets(_: str) -> str:
    """A section for each recipe: what it is for, and the values that are not the defaults."""
    from fusiform.training.recipe import Recipe
    from fusiform.training.recipes import DEFAULTS, RECIPES

    module = _documented("fusiform.training.recipes")
    usual = {field.name: field.default for field in dataclasses.fields(Recipe)}
    parts = []
    for name, recipe in RECIPES.items():
        docstring = module[name].docstring
        assert docstring is not None, name
        values = {key: value for key, value in dataclasses.asdict(recipe).items() if value != usual[key]}
        task = f"For {recipe.task}{', and its default' if DEFAULTS[recipe.task] == name else ''}."
        settings = ", ".join(f"`{key}={_text(value)}`" for key, value in values.items() if key not in ("name", "task"))
        parts.append(f"### {name}\n\n{task}\n\n{docstring.value}\n\nValues: {settings}.")
    return "\n\n".join(parts).replace("``", "`")


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("``", "`")


def _text(value: Any) -> str:
    """A value as ``--set`` takes it."""
    if isinstance(value, tuple):
        return ",".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
