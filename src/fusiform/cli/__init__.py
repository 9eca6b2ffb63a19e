"""The command line: every command is a file here, imported when the command is run."""

from __future__ import annotations

import contextlib
import sys
from importlib import import_module

import click

from fusiform.cli import process
from fusiform.errors import FusiformError

# Name -> the click command and what --help says of it, so that --help imports nothing more.
COMMANDS = {
    "predict": ("fusiform.cli.predict:command", "Classify images, detect objects in them or segment them."),
    "evaluate": ("fusiform.cli.evaluate:command", "Measure a model's accuracy, mAP or mean IoU."),
    "models": ("fusiform.cli.models:command", "List the models that can be used by name."),
    "train": ("fusiform.cli.train:command", "Train a model on your own images."),
    "choose": ("fusiform.cli.choose:command", "Train the best model within milliseconds and megabytes."),
    "export": ("fusiform.cli.export:command", "Write a model for other runtimes, proven to answer the same."),
    "info": ("fusiform.cli.info:command", "Print everything a model says of itself."),
    "analyze": ("fusiform.cli.analyze:command", "Print what each layer of a network costs."),
    "port": ("fusiform.cli.port:command", "Make a model file from another framework's weights."),
    "verify": ("fusiform.cli.verify:command", "Prove that a model file gives the answers of its model."),
    "doctor": ("fusiform.cli.doctor:command", "Find what is wrong with a dataset."),
    "benchmark": ("fusiform.cli.benchmark:command", "Measure the latency, throughput and memory of models."),
    "completion": ("fusiform.cli.completion:command", "Print the script that completes commands in a shell."),
}


class _Commands(click.Group):
    """Runs the table above, and turns what a user can fix into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            process.tell_interruption(interrupt)
            ctx.exit(process.exit_code_of(interrupt))
        except BrokenPipeError:
            raise  # click ends quietly when the reader of a pipe has gone
        except (FusiformError, OSError) as error:  # the latter is a full disk, a lost network folder, ...
            if process.lacks_memory(error):
                raise
            from fusiform.report import printable

            click.echo(f"fusiform: {printable(str(error))}", err=True)
            ctx.exit(error.exit_code if isinstance(error, FusiformError) else 1)


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        import fusiform

        click.echo(f"fusiform {fusiform.__version__}")
        ctx.exit()


@click.command(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 fine, 1 failed, 2 wrong usage, 3 faults found (--strict), 130 interrupted, 143 ended by "
    "SIGTERM, 129 by SIGHUP.",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="The version."
)
def commands() -> None:
    """MobileNetV2 and ShuffleNetV2, from a folder of photographs to a verified model."""


def main() -> None:
    """Run the command in ``sys.argv`` and exit with its code."""
    process.open_standard_streams()
    process.end_on_signals()
    try:
        try:
            commands.main(prog_name="fusiform")
        finally:
            sys.stdout.flush()  # here, where what goes wrong can be said
    except KeyboardInterrupt as interrupt:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        sys.exit(process.exit_code_of(interrupt))
    except BrokenPipeError:
        process.drop_output()
        sys.exit(1)
    except (OSError, MemoryError, ImportError, RuntimeError) as error:
        if process.lacks_memory(error):
            process.fail(process.NO_MEMORY)
        if isinstance(error, OSError):  # standard output's: those of files have been told
            process.fail(f"standard output cannot be written: {error.strerror or error}")
        raise
