"""``fusiform completion``."""

from __future__ import annotations

import click

from fusiform.cli import options


@click.command(
    "completion",
    cls=options.Command,
    examples=(
        "fusiform completion bash > ~/.local/share/bash-completion/completions/fusiform",
        "fusiform completion zsh > ~/.zfunc/_fusiform",
        "fusiform completion fish > ~/.config/fish/completions/fusiform.fish",
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the script that completes commands, options and model names in a shell.

    Write it to where the shell looks for such scripts, and start a new shell; for zsh that is any folder of $fpath.
    """
    from click.shell_completion import get_completion_class

    from fusiform.cli import commands

    completion = get_completion_class(shell)
    assert completion is not None  # one of the three that click brings
    click.echo(completion(commands, {}, "fusiform", "_FUSIFORM_COMPLETE").source())
