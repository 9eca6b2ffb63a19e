"""``fusiform completion``."""

from __future__ import annotations

import click


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the script that completes fusiform's commands and options in SHELL.

    \b
    bash: fusiform completion bash > ~/.local/share/bash-completion/completions/fusiform
    zsh:  fusiform completion zsh > a folder of $fpath/_fusiform, then start a new shell
    fish: fusiform completion fish > ~/.config/fish/completions/fusiform.fish
    """  # noqa: D301  # \b keeps click from joining the lines
    from click.shell_completion import get_completion_class

    from fusiform.cli import commands

    completion = get_completion_class(shell)
    assert completion is not None  # one of the three that click brings
    click.echo(completion(commands, {}, "fusiform", "_FUSIFORM_COMPLETE").source())
