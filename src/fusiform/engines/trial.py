"""A model file that may end the process is run in another one first.

The runtimes read what files say without looking at all of it, and what is wrong there ends the process with no error
that Python could catch. A digest inside a file shows damage, but whoever means harm makes it anew. What is not known to
be sound (a TFLite file with operators that fusiform does not write, any ExecuTorch program) is therefore opened and run
once in a child process, which takes a second or two, once for each file. A child that dies is an error of the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fusiform.errors import FusiformError, WeightsError
from fusiform.report import printable
from fusiform.spec import ModelSpec
from fusiform.zoo.model import Model

Runtime = Literal["LiteRT", "ExecuTorch"]

MOST_MEMORY = 1 << 30
"""Bytes that a file may make the child grow by."""
_DATA_LIMIT = 4 << 30
"""Bytes that the child may have of its own; a runtime alone takes up to a fifth of them."""
_PROCESSOR_SECONDS, _SECONDS = 60, 600

_START = """
import sys
sys.path = [place for place in sys.path if place] + [sys.argv[1]]
from fusiform.engines.trial import serve
serve()
"""

_tried: dict[bytes, str] = {}
"""What is wrong with the files that were tried, or nothing, by their digest: each thread opens an engine of its own."""
_trying = threading.RLock()


class _Here:
    """Whether this process may end, since another one waits for it: nothing is tried first then."""

    expendable = False


def may_end() -> None:
    """Say that this process may end with a model file: its parent sees that, and tells it."""
    _Here.expendable = True


def try_litert(model: Model) -> None:
    """Raise WeightsError for a TFLite file that ends the process that runs it, or takes too much."""
    if not _Here.expendable:
        with _trial("LiteRT", model):
            pass


def try_executorch(model: Model) -> None:
    """Raise WeightsError for an ExecuTorch program that ends the process that runs it.

    What that process imports takes seconds, in which this one imports the same.
    """
    if _Here.expendable:
        return
    from fusiform.engines.executorch import import_libraries

    with _trial("ExecuTorch", model):
        import_libraries()


@contextlib.contextmanager
def _trial(runtime: Runtime, model: Model) -> Iterator[None]:
    """Have the file run in a child during the ``with`` statement; at its end, raise WeightsError if it should not."""
    request = {"runtime": runtime, "bytes": len(model.data), "spec": model.spec.to_json()}
    head = json.dumps(request).encode() + b"\n"
    key = hashlib.sha256(head + model.data).digest()
    with _trying:  # the threads that open the same file wait for one answer
        if key not in _tried:
            # Files: a pipe is full at some size, and the child may end before it has read it.
            with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as said:
                given.write(head + model.data)
                given.seek(0)
                command = [sys.executable, "-c", _START, str(Path(__file__).parents[2])]
                try:
                    child = subprocess.Popen(command, stdin=given, stdout=said, stderr=subprocess.DEVNULL)
                except OSError as error:
                    raise WeightsError(f"{model.path}: cannot be tried in a process of its own ({error})") from None
                try:
                    yield
                    code: int | None = child.wait(_SECONDS)
                except subprocess.TimeoutExpired:
                    code = None
                finally:
                    child.kill()
                    child.wait()
                said.seek(0)
                _tried[key] = _outcome(runtime, code, said.read())
        else:
            yield
        if _tried[key]:
            raise WeightsError(f"{model.path}: {_tried[key]}")


def _outcome(runtime: Runtime, code: int | None, said: bytes) -> str:
    """What is wrong with the file of which a child answered so, in words; nothing if nothing is."""
    again = "export it again from its model, or fetch it again"
    if code is None or (code < 0 and -code == getattr(signal, "SIGXCPU", 0)):
        return f"one picture takes {runtime} more than {_PROCESSOR_SECONDS} s: {again}"
    try:
        answer = json.loads(said)
        if answer["error"]:
            return f"{runtime} cannot run it ({printable(answer['error'])}): {again}"
        memory = int(answer["memory"])
    except (ValueError, LookupError, TypeError):
        return f"ended the process in which {runtime} tried it ({_ending(code)}), so it was not run here: {again}"
    return f"one picture takes {runtime} {memory / 1e6:,.0f} MB: {again}" if memory > MOST_MEMORY else ""


def _ending(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"code {code}"


def serve() -> None:
    """Run the file on standard input, and say on standard output what came of it: the main function of the child."""
    may_end()
    _limit()
    # Runtimes write on standard output, past Python too: the answer goes where only it goes.
    with os.fdopen(os.dup(1), "w", encoding="ascii") as answers:
        os.dup2(2, 1)
        request = json.loads(sys.stdin.buffer.readline())
        data = sys.stdin.buffer.read(request["bytes"])
        memory, error = 0, ""
        try:
            run = _litert() if request["runtime"] == "LiteRT" else _executorch()
            before = _most_memory()
            run(data, ModelSpec.from_json(request["spec"]))
            memory = _most_memory() - before
        except FusiformError as refused:
            error = str(refused)
        except Exception as raised:  # the runtimes raise many kinds
            error = (str(raised).splitlines() or [type(raised).__name__])[0]
        answers.write(json.dumps({"error": error, "memory": memory}))
        answers.flush()
        os._exit(0)  # a runtime that falls while it is taken apart has answered


def _litert() -> Any:
    from ai_edge_litert.interpreter import Interpreter

    def run(data: bytes, _: ModelSpec) -> None:
        interpreter = Interpreter(model_content=data, num_threads=1)
        interpreter.allocate_tensors()
        for given in interpreter.get_input_details():
            interpreter.set_tensor(given["index"], np.zeros(given["shape"], given["dtype"]))
        interpreter.invoke()
        for made in interpreter.get_output_details():
            interpreter.get_tensor(made["index"])

    return run


def _executorch() -> Any:
    from fusiform.engines.executorch import ExecuTorchEngine, import_libraries

    import_libraries()

    def run(data: bytes, spec: ModelSpec) -> None:
        size = spec.input_size
        ExecuTorchEngine(data, spec).run(np.zeros((1, spec.input_channels, size, size), np.float32))

    return run


def _limit() -> None:
    """Bound what the child may use, where the system can: it is the file that decides how much it asks for."""
    try:
        import resource
    except ImportError:  # Windows
        return
    limits = (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, _PROCESSOR_SECONDS),
        (resource.RLIMIT_DATA, _DATA_LIMIT),
    )
    for kind, value in limits:
        hard = resource.getrlimit(kind)[1]
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _most_memory() -> int:
    """The most bytes that this process has had so far; 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)
