"""ONNX Runtime on the CPU."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fusiform.engines.batch import Batch, as_normalized, as_pixels, check_batch
from fusiform.engines.quiet import import_onnxruntime
from fusiform.errors import MissingExtraError, WeightsError
from fusiform.spec import ModelSpec

SILENT = 4
"""The severity from which on the runtime writes lines of its own: what is less than fatal is an exception as well."""


class OnnxRuntimeEngine:
    """Runs an ONNX file, a whole batch at once.

    ``threads`` is the number of threads inside the runtime. Raises MissingExtraError without onnxruntime and
    WeightsError for a file that it refuses.
    """

    def __init__(self, file: bytes, spec: ModelSpec, *, threads: int = 1) -> None:
        try:
            onnxruntime = import_onnxruntime()
        except ImportError:
            raise MissingExtraError("onnxruntime", "onnx", "the engine onnxruntime") from None
        self.spec = spec
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = SILENT
        try:
            self._session = onnxruntime.InferenceSession(
                file, options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
        except Exception as error:  # the runtime's exceptions share no public base
            reason = " ".join(str(error).split())
            raise WeightsError(f"ONNX Runtime cannot run {spec.name}: {reason[:500]}") from None
        given = self._session.get_inputs()[0]
        self._input = given.name
        self._reads_pixels = given.type == "tensor(uint8)"
        size, channels = spec.input_size, spec.input_channels
        picture = [size, size, channels] if self._reads_pixels else [channels, size, size]
        made = [output.shape[1:] for output in self._session.get_outputs()]
        wanted = [list(shape) for shape in spec.answers.values()]
        self._alone = spec.decoded and spec.task == "detection"
        self._planes = spec.decoded and spec.task == "segmentation"
        if self._planes:  # classes first, as the input
            wanted = [[spec.num_classes, size, size]]
        if given.shape[1:] != picture or made != wanted:
            raise WeightsError(
                f"the file reads {given.shape[1:]} and answers {made}, but its description says {picture} and "
                f"{wanted}: export it again"
            )

    def run(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        """Answer a batch; see ``Engine.run``."""
        check_batch(batch, self.spec)
        preprocess = self.spec.preprocess
        pictures = as_pixels(batch, preprocess) if self._reads_pixels else as_normalized(batch, preprocess)
        if self._alone:
            runs = [self._session.run(None, {self._input: pictures[k : k + 1]}) for k in range(len(pictures))]
            shapes = self.spec.answers.items()
            return {
                name: np.array([run[k][0] for run in runs], np.float32).reshape(-1, *shape)
                for k, (name, shape) in enumerate(shapes)
            }
        answers = self._session.run(None, {self._input: pictures})
        if self._planes:
            answers = [answers[0].transpose(0, 2, 3, 1)]
        return {name: np.asarray(found, np.float32) for name, found in zip(self.spec.answers, answers, strict=True)}
