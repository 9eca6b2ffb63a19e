"""``fusiform serve``."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from fusiform.cli import options

if TYPE_CHECKING:
    from fusiform.engines import EngineName
    from fusiform.serving.log import LogLevel


@click.command(
    "serve",
    cls=options.Command,
    examples=(
        "fusiform serve mobilenet_v2",
        "fusiform serve birds=runs/birds street=detector.tflite --port 9000",
        "fusiform serve mobilenet_v2 --host 0.0.0.0 --token-file tokens.txt",
        "fusiform serve mobilenet_v2 --page",
    ),
)
@click.argument("models", metavar="[NAME=]MODEL...", nargs=-1, required=True, shell_complete=options.complete_model)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="The address to listen at; 0.0.0.0 is every one.",
)
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="The port to listen at; 0 is any that is free.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="Cores to use: a thread with an engine of its own on each.  [default: all]",
)
@click.option(
    "--workers",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="Processes that the threads are spread over, behind one socket.",
)
@click.option(
    "--queue-seconds",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, 3600, min_open=True),
    metavar="S",
    help="The longest an image may wait; what would wait longer is answered with 429.",
)
@click.option("--max-bytes", default="20M", show_default=True, metavar="SIZE", help="The largest request, as in 500K.")
@click.option("--max-pixels", default="50M", show_default=True, metavar="N", help="The most pixels of an image.")
@click.option(
    "--timeout",
    default=10.0,
    show_default=True,
    type=click.FloatRange(0, 3600, min_open=True),
    metavar="S",
    help="How long a request's headers, and then its body, may take to arrive.",
)
@click.option(
    "--drain",
    default=2.0,
    show_default=True,
    type=click.FloatRange(0, 3600),
    metavar="S",
    help="How long requests are still taken after SIGTERM, while /readyz says no.",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Tokens, one a line; clients show one as Authorization: Bearer TOKEN.  [default: those in FUSIFORM_TOKENS]",
)
@click.option(
    "--cors",
    multiple=True,
    metavar="ORIGIN",
    help="An origin whose web pages may ask, such as https://example.org; may be repeated.",
)
@click.option(
    "--page",
    is_flag=True,
    help="Answer / with the web page of fusiform demo, of the first MODEL. Anybody may open it, and so has that model: "
    "tokens guard the other addresses alone.",
)
@click.option(
    "--sketch",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Keep a sketch of what each model sees in DIR, for fusiform drift: some kilobytes without image or name. "
    "Models have to be calibrated classifiers.",
)
@options.engine
@options.device
@click.option("--fast", is_flag=True, help="Decode large JPEGs at a reduced size; answers may differ a little.")
@click.option(
    "--log",
    default="requests",
    show_default=True,
    type=click.Choice(["requests", "events", "nothing"]),
    help="What standard error gets, in lines of JSON.",
)
def command(
    models: tuple[str, ...],
    host: str,
    port: int,
    threads: int | None,
    workers: int,
    queue_seconds: float,
    max_bytes: str,
    max_pixels: str,
    timeout: float,
    drain: float,
    token_file: Path | None,
    cors: tuple[str, ...],
    page: bool,
    sketch: Path | None,
    engine: EngineName | None,
    device: str,
    fast: bool,
    log: LogLevel,
) -> None:
    """Answer over HTTP: images in, JSON out.

    MODEL is a name, a model file or the folder of a training run. NAME is what it is called in addresses, by default
    the model's own name, or the file's or folder's. Images are sent to /v1/models/NAME:predict, or as the clients of
    the Open Inference Protocol (/v2) and of TorchServe (/predictions/NAME) send them.

    Standard output gets one line, the address, once all models are open and have answered. SIGTERM ends the server:
    /readyz fails at once, requests are taken for --drain seconds more, and all of them are answered. Ctrl-C does so
    without the wait, and a second signal cuts it short. SIGHUP opens the models again, and so does a change of their
    files. Either end is exit code 0.
    """
    from fusiform.serving.server import serve

    server = serve(
        models,
        host=host,
        port=port,
        threads=threads,
        workers=workers,
        queue_seconds=queue_seconds,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        timeout=timeout,
        drain=drain,
        token_file=token_file,
        cors=cors,
        page=page,
        sketch=sketch,
        engine=engine,
        device=device,
        fast=fast,
        log=log,
    )
    stopping = False

    def stop(number: int, _: FrameType | None) -> None:
        nonlocal stopping
        server.stop(0 if stopping or number == signal.SIGINT else None)
        stopping = True

    def reload(_: int, __: FrameType | None) -> None:
        server.reload()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, reload)
    click.echo(f"fusiform: listening at {server.address}")
    while not server.wait(1.0):  # on Windows, a wait without end would keep Ctrl-C waiting
        pass
