"""One of a server's processes: ``python -m fusiform.serving.process``, which ``server`` starts and talks to."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading

from fusiform.errors import FusiformError
from fusiform.serving.server import Serving
from fusiform.serving.settings import Settings


def main() -> None:
    """Serve as the first line of standard input says, until another says stop or the parent is gone."""
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
    threading.Thread(target=_obey, args=(serving,), daemon=True).start()
    while not serving.wait(0.1):
        pass
    os._exit(0)  # without waiting for what a library left behind


def _obey(serving: Serving) -> None:
    """Do what the parent says, and end where it is gone."""
    for line in sys.stdin:
        word, _, rest = line.strip().partition(" ")
        if word == "stop":
            serving.stop(float(rest))
        elif word == "reload":
            serving.reload()
    serving.stop(0)


if __name__ == "__main__":
    main()
