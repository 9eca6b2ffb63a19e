"""LiteRT (TensorFlow Lite): the default, the fastest measured for these networks on a CPU."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Iterator

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from fusiform.engines.batch import Batch, as_normalized, as_pixels, check_batch
from fusiform.errors import WeightsError
from fusiform.spec import ModelSpec


class LiteRTEngine:
    """Runs a TFLite file made for one picture; a batch is answered picture by picture, which is as fast.

    ``threads`` is the number of threads inside the runtime. Raises WeightsError for a file that LiteRT refuses or
    that is not shaped as ``spec`` says.
    """

    def __init__(self, file: bytes, spec: ModelSpec, *, threads: int = 1) -> None:
        self.spec = spec
        try:
            with _without_announcement():
                self._interpreter = Interpreter(model_content=file, num_threads=threads)
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise WeightsError(f"LiteRT cannot run {spec.name}: {error}") from None
        given, made = self._interpreter.get_input_details()[0], self._interpreter.get_output_details()[0]
        shape = (1, spec.input_size, spec.input_size, spec.input_channels)
        if tuple(given["shape"]) != shape or made["shape"][-1] != spec.num_classes:
            raise WeightsError(
                f"the file reads {tuple(given['shape'])} and answers {tuple(made['shape'])}, but its description "
                f"says {shape} and {spec.num_classes} classes: write it again with fusiform port"
            )
        # Called for each picture: LiteRT may move its memory while it runs, and refuses to while anyone holds it.
        self._input_memory = self._interpreter.tensor(given["index"])
        self._output_memory = self._interpreter.tensor(made["index"])
        self._reads_pixels = given["dtype"] == np.int8

    def run(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        """Answer a batch; see ``Engine.run``."""
        check_batch(batch, self.spec)
        answers = np.empty((len(batch), self.spec.num_classes), np.float32)
        if self._reads_pixels:
            pixels = as_pixels(batch, self.spec.preprocess)
        else:
            pictures = as_normalized(batch, self.spec.preprocess, layout="nhwc")
        for k in range(len(batch)):
            if self._reads_pixels:
                # Less 128, from uint8 to int8, straight into the runtime's memory.
                np.bitwise_xor(pixels[k], np.uint8(128), out=self._input_memory()[0].view(np.uint8))
            else:
                np.copyto(self._input_memory()[0], pictures[k])
            self._interpreter.invoke()
            answers[k] = self._output_memory()[0]
        return {self.spec.output: answers}


_announcing = threading.Lock()


@contextlib.contextmanager
def _without_announcement() -> Iterator[None]:
    """Keep LiteRT's "INFO: Created TensorFlow Lite XNNPACK delegate for CPU." off stderr; pass on all else.

    The runtime writes it to the file descriptor, past Python, and has no setting for it.
    """
    with _announcing, contextlib.ExitStack() as stack:
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
                if not line.startswith(b"INFO: "):
                    os.write(2, line)
