"""A model shown to people: what ``fusiform demo`` runs. It needs no PyTorch."""

from __future__ import annotations

import os
import socket
import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import cast

from fusiform.errors import InputError, UsageError
from fusiform.exporting.demo.hosts import is_site, write_folder
from fusiform.exporting.demo.server import Server
from fusiform.exporting.targets.base import Precision
from fusiform.exporting.targets.web import site_files
from fusiform.exporting.targets.web_samples import read_samples
from fusiform.zoo.info import precision_of
from fusiform.zoo.model import Model, open_model
from fusiform.zoo.stated import assumption

Say = Callable[[str], None]

LOCAL = ("127.0.0.1", "localhost", "::1")
"""Hosts that this machine alone reaches, and to which browsers lend a camera without https."""


class Demo:
    """A page that is served until it is closed, or that was written into a folder.

    ``address`` is where it is served, None where it is not; ``folder`` is where it was written, None where it was not.
    In a ``with`` statement it is closed at the end.
    """

    def __init__(self, address: str | None, folder: Path | None, server: Server | None) -> None:
        self.address, self.folder = address, folder
        self._server = server
        self._closed = threading.Event()

    @property
    def port(self) -> int | None:
        """The port that it is served at."""
        return None if self._server is None else self._server.port

    def wait(self) -> None:
        """Wait until it is closed, by another thread; Ctrl-C ends the wait."""
        # Windows hears Ctrl-C only between waits that end.
        while self._server is not None and not self._closed.wait(1):
            pass

    def close(self) -> None:
        """End the server; a second time does nothing."""
        if self._server is not None and not self._closed.is_set():
            self._server.close()
        self._closed.set()

    def __enter__(self) -> Demo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        if self.address is None:
            return f"<Demo in {self.folder}>"
        return f"<Demo {'closed' if self._closed.is_set() else f'at {self.address}'}>"


def demo(
    model: str | os.PathLike[str] | Model = "mobilenet_v2",
    out: str | os.PathLike[str] | None = None,
    *,
    samples: str | os.PathLike[str] | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    browser: bool = True,
    say: Say | None = None,
) -> Demo:
    """Show a model on a web page, which runs it in the visitor's browser: serve it from here, or write it for a host.

    The page is that of ``fusiform.export(model, "web", ...)``, which verifies the file in it as well. Nothing is
    installed beyond the light installation, and no photograph leaves the browser.

    Args:
        model: A name, a model file, the folder of a training run, what ``fusiform.open_model`` has opened, or the
            folder of a page, which is served as it is.
        out: A folder to write the page into, ready for a static host, in place of serving it.
        samples: A photograph, or a folder of them, that the page shows for visitors to try; see ``fusiform.export``.
        host: The address to listen at; ``0.0.0.0`` lets others in the network in, to whom browsers lend no camera
            without https.
        port: The port; None is 3874, or the next one that is free, and 0 any free one.
        browser: Whether to open the page in this machine's browser, if it has one.
        say: Gets a line where something is assumed of the model; None says nothing.

    Returns:
        The page: ``address``, ``wait()``, ``close()``; or with ``out`` its ``folder``.

    Raises:
        UsageError: For a port that is none, and for samples where the page is there already.
        InputError: For a port that is taken, a host that is not this machine's, and a folder with other files in it.
        WeightsError: For a model that cannot be read, or is for one runtime alone.
        OutputError: For a folder that cannot be written.

    Example:
        >>> import fusiform
        >>> with fusiform.demo("shufflenet_v2_x1_0", port=0, browser=False) as page:
        ...     page.address.startswith("http://127.0.0.1:")
        True

    """
    # On this machine's own wire a second at the start counts for more than a megabyte.
    files = page_files(model, samples, say or (lambda _: None), level=1 if out is None else 9)
    if out is not None:
        write_folder(files, Path(out))
        return Demo(None, Path(out), None)
    server = Server(files, host, port)
    address = address_of(host, server.port)
    if browser and has_browser():
        webbrowser.open(address)
    return Demo(address, None, server)


def page_files(
    model: str | os.PathLike[str] | Model, samples: str | os.PathLike[str] | None, say: Say, *, level: int
) -> dict[str, bytes]:
    """The files of a model's page, or those of a folder that is one; raises what ``demo`` does."""
    if not isinstance(model, Model) and is_site(folder := Path(model)):
        if samples is not None:
            raise UsageError(f"{folder}: is a page already; --samples is for a model: leave it out")
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.startswith(".") and path.name != "README.md"
        }
    opened = open_model(model)
    if opened.spec.decoded:
        raise InputError(f"{opened.path}: decodes its answers itself; show the model that it was made from")
    if opened.assumed:
        say(assumption(str(opened.path), opened.spec.preprocess, opened.assumed))
    precision = cast("Precision", precision_of(opened) or "float32")
    return site_files(opened.graph(), precision, read_samples(samples, ("web",)), level=level)


def address_of(host: str, port: int) -> str:
    """The address of a page at a host and port; of all addresses of a machine, the one that others know it by."""
    if host in ("", "0.0.0.0", "::"):
        host = _own_address() or "127.0.0.1"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _own_address() -> str | None:
    """The address that this machine has in its network; None without one. Nothing is sent."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))  # an address for documentation (RFC 5737)
            return str(probe.getsockname()[0])
    except OSError:
        return None


def has_browser() -> bool:
    """Whether there is likely a browser on a screen: not in a session from afar, not on Linux without a display."""
    if os.environ.get("BROWSER"):
        return True
    if os.environ.get("SSH_CONNECTION"):
        return False
    if os.name == "posix" and os.uname().sysname != "Darwin":
        return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return True
