"""Keeping other libraries from talking.

What they warn, log and print says nothing to who runs or exports a model, and what two of the runtimes report to their
makers is nobody's business: fusiform imports those here alone, with their reports switched off.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep warnings, log lines, prints and progress bars off the terminal, and log handlers out of the root logger."""
    import io
    import logging  # here: LiteRT's engine uses this file, and every import counts against the time to the first answer

    handlers, disabled = logging.root.handlers[:], logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        logging.root.handlers[:] = handlers


_importing = threading.Lock()


def import_onnxruntime() -> Any:
    """The package ``onnxruntime``, which then sends nothing and writes no identifier; ImportError without it.

    It reports to Microsoft from its import on unless this variable is set (its Privacy.md, "Disabling Telemetry"). The
    function is what its builds for Windows applications go by, and all where a program imported it before.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    return onnxruntime


def import_openvino() -> Any:
    """The package ``openvino``, which then sends nothing and writes nothing into the home; ImportError without it.

    It reports to Intel through the package ``openvino_telemetry`` when it is imported. The documented way to forbid
    that, ``opt_in_out --opt_out``, writes into the home and holds for every program of the user; without that package
    OpenVINO takes a stub that sends nothing (openvino/tools/ovc/telemetry_stub.py), so that it is hidden for as long.
    """
    with _importing:
        if "openvino" not in sys.modules:
            modules: dict[str, Any] = sys.modules
            reporter = modules.get("openvino_telemetry")
            modules["openvino_telemetry"] = None  # Python's way of saying that there is none
            try:
                import openvino
            finally:
                del modules["openvino_telemetry"]
                if reporter is not None:
                    modules["openvino_telemetry"] = reporter
        import openvino
    return openvino


_filtering = threading.Lock()


@contextlib.contextmanager
def without_lines(pattern: bytes) -> Iterator[None]:
    """Keep lines that start like this regular expression off stderr, also those written past Python; pass on others."""
    with _filtering, contextlib.ExitStack() as stack:
        try:
            sys.stderr.flush()
            stderr = os.dup(2)
            stack.callback(os.close, stderr)
            # A file: a pipe would be full at some size, and not end while a child started meanwhile holds it.
            written = stack.enter_context(tempfile.TemporaryFile())
            os.dup2(written.fileno(), 2)
        except (OSError, ValueError, AttributeError):  # no stderr to keep clean
            yield
            return
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            written.seek(0)
            for line in written:
                if not re.match(pattern, line):
                    os.write(2, line)
