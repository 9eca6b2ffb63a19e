"""ExecuTorch on the CPU, with XNNPACK."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusiform.engines.batch import Batch, as_normalized, as_pixels, check_batch
from fusiform.engines.quiet import quietly, without_lines
from fusiform.errors import MissingExtraError, WeightsError
from fusiform.spec import ModelSpec
from fusiform.zoo.programs import is_whole_executorch

_LOG_LINE = rb"\[\w+\.(cpp|h):\d+\] "  # of the runtime, which writes past Python and has no setting for it
_FLOAT = 6  # ExecuTorch's number of the type float32


def import_libraries() -> tuple[Any, Any]:
    """PyTorch, and ExecuTorch's runtime for it, which take seconds; MissingExtraError without them."""
    try:
        with quietly():  # it warns that its interface may change
            import torch
            from executorch.extension.pybindings import portable_lib
    except ImportError:
        raise MissingExtraError("executorch", "executorch", "the engine executorch") from None
    return torch, portable_lib


class ExecuTorchEngine:
    """Runs an ExecuTorch program made for one picture; a batch is answered picture by picture.

    ``threads`` is the number of threads inside the runtime. ExecuTorch has one pool of them in a process, so engines
    take turns, and one that meets a pool of another size makes it anew and loads its program again, which takes as
    long as opening it did.

    Raises MissingExtraError without executorch and WeightsError for a file that it refuses, that is cut off, or that
    is not shaped as ``spec`` says.
    """

    def __init__(self, data: bytes, spec: ModelSpec, *, threads: int = 1) -> None:
        torch, portable_lib = import_libraries()
        # The runtime ends the process for some kinds of damage.
        if not is_whole_executorch(data):
            raise WeightsError("the ExecuTorch program is cut off or damaged: export it again")
        self.spec = spec
        self._torch, self._library = torch, portable_lib
        self._data, self._threads = data, threads
        with _pool(self._library, threads), without_lines(_LOG_LINE):
            self._load()
        self._check()

    def _load(self) -> None:
        try:
            self._program = self._library._load_program_from_buffer(
                self._data, program_verification=self._library.Verification.InternalConsistency
            )
            self._method = self._program.load_method("forward")
            self._reads_pixels = self._constant("reads_pixels") == [True]
            self._labels = tuple(self._constant("labels"))
        except Exception as error:  # the runtime raises RuntimeError, KeyError and others
            raise WeightsError(f"ExecuTorch cannot run {self.spec.name}: {error}") from None
        self._loaded_in = _Pool.generation

    def _constant(self, name: str) -> list[Any]:
        return list(self._program.load_method(name)([]))

    def _check(self) -> None:
        """That the program reads and answers what the spec says, with the same labels."""
        meta = self._method.method_meta()
        shape = (1, self.spec.input_channels, self.spec.input_size, self.spec.input_size)
        given = [(tuple(info.sizes()), info.dtype()) for info in map(meta.input_tensor_meta, range(meta.num_inputs()))]
        made = [(tuple(info.sizes()), info.dtype()) for info in map(meta.output_tensor_meta, range(meta.num_outputs()))]
        wanted = [((1, *answer), _FLOAT) for answer in self.spec.answers.values()]
        if given != [(shape, _FLOAT)] or made != wanted:
            raise WeightsError(
                f"the program reads {given} and answers {made}, but its description says {shape} and "
                f"{self.spec.num_classes} classes, {wanted}: export it again"
            )
        if self._labels != self.spec.labels:
            raise WeightsError("the program's labels are not those of its description: export it again")

    def run(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        """Answer a batch; see ``Engine.run``."""
        check_batch(batch, self.spec)
        if self._reads_pixels:
            # The runtime takes the order of the memory for the order of the dimensions.
            pixels = as_pixels(batch, self.spec.preprocess).transpose(0, 3, 1, 2)
            pictures = np.ascontiguousarray(pixels, np.float32)
        else:
            pictures = as_normalized(batch, self.spec.preprocess)
        answers = {name: np.empty((len(batch), *shape), np.float32) for name, shape in self.spec.answers.items()}
        with _pool(self._library, self._threads):
            if self._loaded_in != _Pool.generation:
                with without_lines(_LOG_LINE):
                    self._load()
            for k in range(len(batch)):
                found = self._method([self._torch.from_numpy(pictures[k : k + 1])])
                for values, answer in zip(answers.values(), found, strict=True):
                    values[k] = answer.numpy()[0]
        return answers


class _Pool:
    """The process's one pool of threads: a program holds on to the pool that it was loaded with."""

    lock = threading.Lock()
    threads = 0  # as many as the runtime chose, until the first engine
    generation = 0


@contextlib.contextmanager
def _pool(library: Any, threads: int) -> Iterator[None]:
    """Hold the pool, of this many threads."""
    with _Pool.lock:
        if _Pool.threads != threads:
            with without_lines(_LOG_LINE):
                library._unsafe_reset_threadpool(threads)
            _Pool.threads = threads
            _Pool.generation += 1
        yield
