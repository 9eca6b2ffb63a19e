"""``fusiform demo``."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click

from fusiform.cli import options
from fusiform.cli.output import open_output, tell_next
from fusiform.cli.process import Ended
from fusiform.report import printable


@click.command(
    "demo",
    cls=options.Command,
    extra="--out",
    examples=(
        "fusiform demo",
        "fusiform demo runs/first",
        "fusiform demo runs/first --out space/",
    ),
)
@click.argument("model", default="mobilenet_v2", type=click.Path(), shell_complete=options.complete_model)
@options.out_folder("Write the page into DIR, ready for a static host, in place of serving it.", required=False)
@click.option(
    "--samples",
    type=click.Path(path_type=Path),
    metavar="IMAGES",
    help="An image, or a folder of which up to six are shown, for visitors to try.  [default: two of the package, if "
    "the model knows what they show]",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="The address to listen at; 0.0.0.0 lets others in the network in.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="The port to listen at; 0 takes any free one.  [default: 3874, or the next free one]",
)
@click.option("--browser/--no-browser", default=True, help="Whether to open the page in a browser.  [default: browser]")
def command(model: str, out: Path | None, samples: Path | None, host: str, port: int | None, browser: bool) -> None:
    """Show MODEL on a web page that runs it in the visitor's browser.

    MODEL is a name, a model file, the folder of a run or of an exported page. It is served from this machine, and the
    browser opens, until Ctrl-C. No photograph leaves the browser. It needs no PyTorch; the file in the page is not
    verified, as fusiform export --to web does.

    With --out the page is written for Hugging Face Spaces, GitHub Pages or any other static host.

    Exit codes: 0 also after Ctrl-C, which is how it ends.
    """
    from fusiform.exporting.demo.job import LOCAL, demo

    if out is not None and (host != "127.0.0.1" or port is not None):
        raise click.UsageError("--host and --port are for a page that is served: leave them or --out out")
    with demo(
        model,
        out,
        samples=samples,
        host=host,
        port=port,
        browser=browser,
        say=lambda line: click.echo(f"fusiform: {printable(line)}", err=True),
    ) as page:
        if page.address is None:
            with open_output(None):
                click.echo(str(page.folder))
            place = shlex.quote(str(page.folder))
            tell_next(
                "table",
                f"fusiform demo {place}  # looks at it",
                f"hf upload USER/NAME {place} . --repo-type space  # for others; its README.md has more",
            )
            return
        try:
            with open_output(None):
                click.echo(page.address)
            for line in _hints(host, page.port, local=host in LOCAL):
                click.echo(f"fusiform: {line}", err=True)
            page.wait()
        except KeyboardInterrupt as interrupt:
            if isinstance(interrupt, Ended):
                interrupt.args = ("",)  # nothing is lost
                raise


def _hints(host: str, port: int | None, *, local: bool) -> list[str]:
    """What to know beside the address."""
    lines = ["Ctrl-C ends it"]
    if not local:
        lines.append("others in the network can open it; for a camera, and to keep the page, browsers need https there")
    elif here := os.environ.get("SSH_CONNECTION", "").split()[2:3]:
        from getpass import getuser

        lines.append(
            f"from your own machine: ssh -L {port}:{host}:{port} {getuser()}@{here[0]}  # then open the address"
        )
    return lines
