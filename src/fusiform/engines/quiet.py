"""Keeping other libraries from talking: what they warn, log and print says nothing to who runs or exports a model."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator


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
