"""The command line: every command is a file here, imported when the command is run."""

from __future__ import annotations

import contextlib
import sys
from importlib import import_module

import click

from fusiform.cli import process
from fusiform.errors import FusiformError

# Name -> the click command and what --help says of it, so that --help imports nothing more; in the order of the work.
COMMANDS = {
    "predict": ("fusiform.cli.predict:command", "Classify images, detect objects in them, or segment them."),
    "watch": ("fusiform.cli.watch:command", "Answer the images that come into a folder."),
    "embed": ("fusiform.cli.embed:command", "Compute the features of images."),
    "search": ("fusiform.cli.search:command", "Find the images that are most similar to one."),
    "drift": ("fusiform.cli.drift:command", "Say whether images are still what a model knows."),
    "doctor": ("fusiform.cli.doctor:command", "Check a dataset."),
    "plan": ("fusiform.cli.plan:command", "Say whether there are enough images."),
    "suggest": ("fusiform.cli.suggest:command", "Pick the images to label next."),
    "train": ("fusiform.cli.train:command", "Train a model on your own images."),
    "add-class": ("fusiform.cli.add_class:command", "Add classes from a few images."),
    "choose": ("fusiform.cli.choose:command", "Train the best model within limits of time and size."),
    "evaluate": ("fusiform.cli.evaluate:command", "Measure a model's accuracy, mAP or mean IoU."),
    "card": ("fusiform.cli.card:command", "Write a model card and a data sheet from a run."),
    "export": ("fusiform.cli.export:command", "Write a model for phones, browsers and other runtimes."),
    "verify": ("fusiform.cli.verify:command", "Check that a model file answers as its original does."),
    "benchmark": ("fusiform.cli.benchmark:command", "Measure latency, throughput and memory."),
    "demo": ("fusiform.cli.demo:command", "Show a model on a web page, or write one for a host."),
    "serve": ("fusiform.cli.serve:command", "Answer over HTTP."),
    "models": ("fusiform.cli.models:command", "List the models that have names."),
    "info": ("fusiform.cli.info:command", "Show what a model is, or code that runs it."),
    "analyze": ("fusiform.cli.analyze:command", "Show what each layer of a network costs."),
    "engines": ("fusiform.cli.engines:command", "Show the engines that this machine has."),
    "port": ("fusiform.cli.port:command", "Convert the weights of other programs."),
    "completion": ("fusiform.cli.completion:command", "Print the script that completes commands in a shell."),
}

# predict comes first because it needs nothing but an image; the rest is the way from images to a model in use.
SECTIONS = {
    "Use a model": ("predict", "watch", "embed", "search", "drift"),
    "Train on your images": ("doctor", "plan", "suggest", "train", "add-class", "choose", "evaluate", "card"),
    "Deploy": ("export", "verify", "benchmark", "demo", "serve"),
    "Look at models": ("models", "info", "analyze", "engines", "port"),
    "Shell": ("completion",),
}

EXIT_CODES = {
    "0": "Done.",
    "1": "It could not be done, or a check failed: what was named is missing, damaged or does not fit, or this machine "
    "lacks something, such as a GPU, an optional package or memory.",
    "2": "Wrong usage: an unknown command or option, a value out of range, or options that exclude each other or do "
    "not apply to the model's or the data's task.",
    "3": "Done, but with --strict: problems were found.",
    "129, 130, 143": "Ended by SIGHUP, by Ctrl-C, by SIGTERM.",
}
"""What every command exits with."""


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

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            from fusiform.cli.hints import for_command

            raise click.UsageError(f"No such command {name!r}. {for_command(name, args[1:], list(COMMANDS))}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        widest = max(map(len, COMMANDS))
        for title, names in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(widest), COMMANDS[name][1]) for name in names])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Exit codes"):
            formatter.write_dl(list(EXIT_CODES.items()))

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
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version."
)
def commands() -> None:
    """MobileNetV2 and ShuffleNetV2, from a folder of photographs to a verified model.

    fusiform COMMAND --help explains a command.
    """


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
        if process.ended:
            asked = process.Ended(process.ended[0])
            process.tell_interruption(asked)
            sys.exit(process.exit_code_of(asked))
        if process.lacks_memory(error):
            process.fail(process.NO_MEMORY)
        if isinstance(error, OSError):  # standard output's: those of files have been told
            process.fail(f"standard output cannot be written: {error.strerror or error}")
        raise
