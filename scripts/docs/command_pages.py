"""The reference of the command line, made from the click commands themselves."""

from __future__ import annotations

import inspect
import re
from typing import Any

import click


def render() -> str:
    """Markdown: a section for each command with its usage, its help, its arguments, options and exit codes."""
    from fusiform.cli import COMMANDS, EXIT_CODES, SECTIONS, commands, options

    general = click.Context(commands, info_name="fusiform")
    parts = []
    for title, names in SECTIONS.items():
        parts.append(f"**{title}**")
        parts.append("\n".join(f"- [`fusiform {name}`](#{name}): {COMMANDS[name][1]}" for name in names))
    parts.append("## Exit codes {#exit-codes}")
    parts.append("The same for every command; what they mean for one of them is said there.")
    rows = [f"| {codes} | {meaning} |" for codes, meaning in EXIT_CODES.items()]
    parts.append("\n".join(["| exit code | meaning |", "|---|---|", *rows]))
    for name in COMMANDS:
        command = commands.get_command(general, name)
        assert command is not None, name
        context = click.Context(command, info_name=name, parent=general)
        parts.append(f"## fusiform {name} {{ #{name} }}")
        usage = " ".join(["fusiform", name, *command.collect_usage_pieces(context)])
        parts += [f"```text\n{usage}\n```", *_paragraphs(command.help or "")]
        assert isinstance(command, options.Command), name
        parts.append("```sh\n" + "\n".join(command.examples) + "\n```")
        listed = [found for found in command.get_params(context) if isinstance(found, click.Option)]
        listed = [found for found in listed if found.name != "help"]
        parts.append("\n\n".join(_option(found, context, name) for found in listed))
    return "\n\n".join(parts)


def _paragraphs(text: str) -> list[str]:
    """The help as Markdown: lines after click's mark of a preformatted block stay as they are."""
    made = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b\n"):
            made.append("```text\n" + paragraph.removeprefix("\b\n") + "\n```")
        else:
            words = _plain(" ".join(paragraph.split()))
            made.append(words.replace("Exit codes:", "**Exit codes:**"))
    return made


def _option(option: click.Option, context: click.Context, command: str) -> str:
    """A definition: the option with what it takes, what it does, and its default."""
    long = max(option.opts, key=len)
    flags = ", ".join((*option.opts, *option.secondary_opts))
    takes = "" if option.is_flag else " " + option.make_metavar(context)
    text, default = _default(option)
    anchor = f"{command}{long.removeprefix('-')}"
    return f"`{flags}{takes}`{{ #{anchor} }}\n:   {' '.join([*([_plain(text)] if text else []), default])}"


def _default(option: click.Option) -> tuple[str, str]:
    """What the help says apart from the default, and the default."""
    text = " ".join((option.help or "").split())
    if found := re.search(r" *\[default: (.*)\]$", text):
        return text[: found.start()], f"Default: {_plain(found[1])}."
    if option.required:
        return text, "Required."
    if option.is_flag:
        return text, "Default: off."
    value: Any = option.default
    if option.show_default and isinstance(value, str | int | float):
        return text, f"Default: `{value}`."
    return text, "Default: none."


def _plain(text: str) -> str:
    """Text in which nothing is Markdown, such as names with underscores, but options, which become code."""
    escaped = re.sub(r"([\\`*_<>\[\]{}#|])", r"\\\1", text)
    return re.sub(r"(?<!\w)--[a-z][a-z-]*[a-z]", r"`\g<0>`", escaped)
