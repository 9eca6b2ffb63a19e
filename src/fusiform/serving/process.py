"""One of a server's processes: ``python -m fusiform.serving.process``, which ``server`` starts and talks to."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys

from fusiform.errors import FusiformError
from fusiform.serving.server import Serving
from fusiform.serving.settings import Settings


def main() -> None:
    """Serve as the first line of standard input says, until a line says stop or the parent is gone."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the parent gets them, and tells
    told = json.loads(sys.stdin.readline())
    listener = socket.socket(fileno=told.pop("listener"))
    try:
        serving = Serving(Settings(**{**told, "cors": tuple(told["cors"])}), listener)
    except FusiformError as error:
        print(error, flush=True)
        sys.exit(1)
    print("ready", flush=True)
    drain = 0.0
    for line in sys.stdin:
        word, _, rest = line.strip().partition(" ")
        if word == "stop":
            drain = float(rest)
            serving.stop(drain)
            # A second word may only shorten it.
            break
        if word == "reload":
            serving.reload()
    else:
        serving.stop(0)  # the parent is gone
    while not serving.wait(0.1):
        pass
    os._exit(0)  # without waiting for what a library left behind


if __name__ == "__main__":
    main()
