"""Where a command's text goes: standard output, or a file that appears only when it is complete."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from fusiform.cli.process import drop_output
from fusiform.errors import FusiformError
from fusiform.report import Format, Report, printable

if TYPE_CHECKING:
    from fusiform.engines import EngineName
    from fusiform.zoo.model import Model


@contextmanager
def open_output(out: Path | None) -> Iterator[TextIO]:
    """A text stream to ``out``, UTF-8, or to standard output where it is None.

    The file is written under another name in its folder and renamed at the end; nothing is left of it when the block
    fails. A device or pipe is written to directly. A file that cannot be written raises FusiformError.
    """
    if out is None:
        try:
            yield sys.stdout
            sys.stdout.flush()
        except BrokenPipeError:
            raise  # whoever reads has had enough
        except OSError as error:
            if error.filename is not None or error.errno is None:
                raise  # about a file, or a library that could not be loaded, within the block
            drop_output()
            raise FusiformError(f"standard output cannot be written: {error.strerror or error}") from None
        return
    import io
    from glob import escape  # here, as the next: standard output needs neither

    from fusiform.files import create, put, remove_leftovers

    target = out.resolve()  # behind a link: the file is to be replaced, not the link
    if target.is_dir():
        raise FusiformError(f"{out}: is a folder; --out takes a file")
    direct = target.exists() and not target.is_file()
    written = target if direct else target.with_name(f".{target.name}.{os.getpid()}-{os.urandom(4).hex()}.part")
    if not direct:
        remove_leftovers(target.parent, f".{escape(target.name)}.*.part")
    try:
        # Undecodable bytes of a file name stay readable; in JSON the escape even reads back as the same name.
        file = written.open("wb") if direct else create(written)
        with io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="\n") as stream:
            yield stream
            if not direct:
                put(stream, written, target)
    except KeyboardInterrupt as interrupt:
        interrupt.args = interrupt.args or (f"nothing was written to {out}",)
        raise
    except OSError as error:
        if error.filename not in (None, str(written)):
            raise  # about another file, within the block
        raise FusiformError(f"{out}: cannot be written: {error.strerror or error}") from None
    finally:
        if not direct:
            with suppress(OSError):  # as of a folder that is none
                written.unlink()


def suggest(form: Format, *commands: Sequence[str]) -> None:
    """Say to people, on standard error, what may come next: each command as its words, to be copied to a shell."""
    if form == "table":
        import shlex

        tell_next(form, *(shlex.join(["fusiform", *words]) for words in commands))


def tell_next(form: Format, *lines: str) -> None:
    """As ``suggest``, of lines that may have a shell's comment."""
    if form == "table":
        for line in lines:
            click.echo(f"next: {line}", err=True)


def open_told(model: str, engine: EngineName | None, device: str, **preprocess: Any) -> tuple[Model, str]:
    """The model, and the device that ``auto`` is, with what was assumed and taken said on standard error."""
    from fusiform.zoo.model import open_model

    opened = open_model(model, **preprocess)
    if opened.assumed:
        from fusiform.zoo.stated import assumption

        click.echo(f"fusiform: {printable(assumption(model, opened.spec.preprocess, opened.assumed))}", err=True)
    if device == "auto":
        from fusiform.engines import place_of

        device = place_of(opened, engine, device)
        tell_device(device)
    return opened, device


def tell_device(device: str) -> None:
    """Say on standard error what ``--device auto`` has taken, where that is not the CPU."""
    if device != "cpu":
        from fusiform.engines.device import describe_device

        click.echo(f"fusiform: computing on {describe_device(device)}", err=True)


def print_report(report: Report, form: Format) -> None:
    """Print the report on standard output in the format asked for, and say what that has no place for."""
    with open_output(None):
        click.echo(report.render(form), nl=False)
    tell_left_out(report.left_out(form), form)


def tell_left_out(names: Sequence[str], form: Format) -> None:
    """Say on standard error what a format has no place for."""
    if not names:
        return
    click.echo(f"fusiform: {form} has no place for {', '.join(names)}: --format json has all", err=True)
