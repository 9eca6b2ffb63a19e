"""One file a runtime, one protocol.

``open_engine`` is the only place that knows them all; each runtime is imported in its own file, when it is asked for.
"""

from __future__ import annotations

import os
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fusiform.engines.batch import Batch
from fusiform.errors import UsageError, WeightsError
from fusiform.spec import ModelSpec
from fusiform.zoo.model import Model, open_model

EngineName = Literal["litert", "onnxruntime", "torch"]
ENGINES: tuple[EngineName, ...] = ("litert", "onnxruntime", "torch")


class Engine(Protocol):
    """A network ready to answer; one instance serves one thread at a time."""

    spec: ModelSpec

    def run(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        """Answer a batch.

        ``batch`` is either float32 NCHW, normalised as the spec's preprocessing says, or uint8 NHWC pixels in the
        spec's colour order, which the engine normalises itself. For classification the answer holds ``logits``
        (N, classes), or ``probabilities`` where the model file ends in a softmax (``spec.output``).
        """
        ...


def open_engine(
    model: str | os.PathLike[str] | Model, *, engine: EngineName = "litert", threads: int = 1, device: str = "cpu"
) -> Engine:
    """Open a model, by catalogue name, file of any kind, or as it was opened before, in an engine.

    ``threads`` is the number of threads inside the runtime, ``device`` where PyTorch computes (``cpu``, ``cuda``,
    ``mps``). An int8 model stays int8 in LiteRT and ONNX Runtime; PyTorch runs it dequantised. Raises UsageError for
    an unknown name, engine or device, MissingExtraError for a runtime that is not installed, and WeightsError or
    SpecError for a file that cannot be used.
    """
    if threads < 1:
        raise UsageError(f"threads must be at least 1, got {threads}")
    if device != "cpu" and engine != "torch":
        raise UsageError(f"engine {engine} runs on the CPU; device {device} needs the engine torch")
    opened = model if isinstance(model, Model) else open_model(model)
    try:
        return _start(opened, engine, threads, device)
    except WeightsError as error:  # an engine is given weights, and does not know the file that they came from
        if str(opened.path) in str(error):
            raise
        raise WeightsError(f"{opened.path}: {error}") from None


def _start(opened: Model, engine: EngineName, threads: int, device: str) -> Engine:
    if engine == "litert":
        from fusiform.engines.litert import LiteRTEngine

        return LiteRTEngine(opened.tflite(), opened.spec, threads=threads)
    if engine == "onnxruntime":
        from fusiform.engines.onnxruntime import OnnxRuntimeEngine

        return OnnxRuntimeEngine(opened.onnx(), opened.spec, threads=threads)
    if engine == "torch":
        from fusiform.engines.torch import TorchEngine

        return TorchEngine(opened.state(), opened.spec, threads=threads, device=device)
    raise UsageError(f"there is no engine {engine!r}; there are {', '.join(ENGINES)}")
