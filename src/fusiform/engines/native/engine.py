"""The engine native: int8 classifiers in the library's kernels."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fusiform.engines.native.checks import check_layers, check_weights
from fusiform.engines.native.compiled import load, usable_kernels
from fusiform.engines.native.layers import OtherNetworkError, Program
from fusiform.engines.native.plan import Network, Plan, plan
from fusiform.errors import UsageError, WeightsError
from fusiform.spec import ModelSpec

if TYPE_CHECKING:  # a photograph is named in a fraction of the time that numpy's import takes
    import numpy as np
    from numpy.typing import NDArray

    from fusiform.engines.batch import Batch

_latest: list[tuple[bytes, tuple[Program, Plan] | str]] = []
"""The file that was read last: whoever asks whether one can be run, runs it next, and each thread opens it again."""


def _read(data: bytes) -> tuple[Program, Plan] | str:
    """The program in a file and the plan of its memory, or what in it is not for the library."""
    for file, latest in _latest[:]:
        if file is data:
            return latest
    found: tuple[Program, Plan] | str
    try:
        program = Program(data)
        check_layers(program.layers, program.pieces)
        found = program, plan(program.layers, program.pieces)
    except OtherNetworkError as reason:
        found = str(reason)
    _latest[:] = [(data, found)]
    return found


def can_run(data: bytes) -> bool:
    """Whether the library computes what a TFLite file holds; what is wrong with a damaged one LiteRT's engine says."""
    try:
        return not isinstance(_read(data), str)
    except WeightsError:
        return False


class NativeEngine:
    """Runs a TFLite file of an int8 classifier, picture by picture, in one thread.

    It answers with the features where ``spec`` does, whether the file does or not, and releases the interpreter's lock
    while it computes, so engines in several threads use several cores. ``kernels`` is one of ``usable_kernels``, None
    the fastest. Raises UsageError where the library is not there, and for a file that it does not compute; WeightsError
    for one that is not shaped as ``spec`` says.
    """

    def __init__(self, file: bytes, spec: ModelSpec, *, kernels: str | None = None) -> None:
        self.spec = spec
        usable, library = usable_kernels(), load()
        if library is None or not usable:
            raise UsageError(
                "the engine native was not compiled when fusiform was installed: install a C compiler and then "
                "fusiform again, or leave --engine out"
            )
        self._library = library
        found = _read(file)
        if isinstance(found, str):
            raise UsageError(f"the engine native runs int8 classifiers alone, and {spec.name} {found}")
        program, planned = found
        first, last = program.layers[0], program.layers[-1]
        shape, features = (first.height, first.width, first.channels), program.layers[last.source].channels
        sizes = [(last.channels,), (features,)][: len(spec.answers)]
        if shape != (spec.input_size, spec.input_size, spec.input_channels) or sizes != [*spec.answers.values()]:
            raise WeightsError(
                f"the file reads {list(shape)} and answers {last.channels} numbers, but its description says "
                f"otherwise: write it again with fusiform port"
            )
        wanted = usable[kernels or next(iter(usable))]
        vector, less = library.fusiform_native_bytes(wanted), library.fusiform_native_less(wanted)
        layers, _ = self._packed = program.packed(library, vector, less)  # it is read where it lies
        try:
            check_weights(layers, vector)
        except OtherNetworkError as reason:
            raise UsageError(f"the engine native runs int8 classifiers alone, and {spec.name} {reason}") from None
        self._network = Network(layers, program.pieces, planned, wanted)

    def run(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        """Answer a batch; see ``Engine.run``."""
        import numpy as np

        from fusiform.engines.batch import as_pixels, check_batch

        check_batch(batch, self.spec)
        pixels = np.ascontiguousarray(as_pixels(batch, self.spec.preprocess))
        answers = {name: np.empty((len(batch), *shape), np.float32) for name, shape in self.spec.answers.items()}
        memory: list[int | None] = [n for values in answers.values() for n in (values.ctypes.data, values.size)]
        memory += [None, 0] if len(answers) == 1 else []
        network = ctypes.byref(self._network)
        status = self._library.fusiform_native_run(network, pixels.ctypes.data, pixels.size, *memory, len(batch))
        if status:
            raise UsageError(f"{self.spec.name}: the library refused the pictures")
        return answers

    def rows(self, pictures: Sequence[bytearray]) -> list[list[float]]:
        """See ``PlainEngine.rows``."""
        answers = array("f", bytes(4 * self.spec.num_classes))
        memory, rows = answers.buffer_info(), []
        for pixels in pictures:
            start = ctypes.addressof(ctypes.c_char.from_buffer(pixels))
            if self._library.fusiform_native_run(ctypes.byref(self._network), start, len(pixels), *memory, None, 0, 1):
                raise UsageError(f"{self.spec.name}: the library refused the pictures")
            rows.append(answers.tolist())
        return rows
