"""The reference of the hyperparameters, from what ``fusiform train --recipes`` prints."""

from __future__ import annotations

from fusiform.training import glossary


def hyperparameters(_: str) -> str:
    """A definition for each field of a recipe, in the command's groups: its type, its default and its meaning."""
    parts = []
    for title, fields in glossary.fields().items():
        parts.append(f"### {title}")
        for field in fields:
            default = "" if field.default is None else f" = {field.default}"
            parts.append(f"`{field.name}{default}`{{ #{field.name} }}\n:   {_code(field.text)} *({field.kind})*")
    return "\n\n".join(parts)


def presets(_: str) -> str:
    """A section for each recipe: what it is for, and the values that are not the defaults."""
    parts = []
    for preset in glossary.presets():
        settings = ", ".join(f"`{name}={value}`" for name, value in preset.values.items())
        parts.append(f"### {preset.name}\n\nFor {preset.task}.\n\n{_code(preset.text)}\n\nValues: {settings}.")
    return "\n\n".join(parts)


def _code(text: str) -> str:
    return text.replace("``", "`")
