"""One file a runtime, one protocol.

``open_engine`` is the only place that knows them all; each runtime is imported in its own file, when it is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from fusiform.errors import FusiformError, InputError, MissingExtraError, UsageError, WeightsError
from fusiform.report import printable
from fusiform.spec import ModelSpec
from fusiform.zoo.model import PROGRAMS, FileFormat, Model, open_model

if TYPE_CHECKING:  # a photograph is named in a fraction of the time that numpy's import takes
    import numpy as np
    from numpy.typing import NDArray

    from fusiform.engines.batch import Batch

EngineName = Literal["litert", "onnxruntime", "torch", "openvino", "executorch", "native"]
ENGINES: tuple[EngineName, ...] = ("litert", "onnxruntime", "torch", "openvino", "executorch", "native")
CHOICE = "FUSIFORM_ENGINE"
"""The environment's variable with the engine to take where none is named."""

_OWN: dict[FileFormat, EngineName] = {
    "tflite": "litert",
    "onnx": "onnxruntime",
    "torchscript": "torch",
    "openvino": "openvino",
    "executorch": "executorch",
}
"""The runtime that a file is for; weights (safetensors, pth) are for every one, and LiteRT is the fastest."""


class Engine(Protocol):
    """A network ready to answer; one instance serves one thread at a time."""

    spec: ModelSpec

    def run(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        """Answer a batch.

        ``batch`` is either float32 NCHW, normalised as the spec's preprocessing says, or uint8 NHWC pixels in the
        spec's colour order, which the engine normalises itself. The answer holds the spec's ``answers``, each with the
        batch's size in front.
        """
        ...


@runtime_checkable
class PlainEngine(Engine, Protocol):
    """An engine that answers in plain numbers too, for whom numpy's import would take longer than the answer."""

    def rows(self, pictures: Sequence[bytearray]) -> list[list[float]]:
        """The spec's ``output`` alone of each picture, (classes,), from its pixels as ``run`` takes them, in bytes."""
        ...


class Running:
    """An engine of a model file: whatever its runtime raises while it runs is an error of that file.

    ``engine`` is the runtime's own. Too little memory stays a MemoryError where the runtime says so.
    """

    def __init__(self, engine: Engine, path: Path, runtime: EngineName) -> None:
        self.engine, self.spec = engine, engine.spec
        self._path, self._runtime = path, runtime

    def run(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        """Answer a batch; see ``Engine.run``. WeightsError, which names the file, where the runtime breaks off."""
        import numpy as np

        with self._blamed(), np.errstate(all="ignore"):  # who reads the answers sees what is not finite
            return self.engine.run(batch)

    @contextmanager
    def _blamed(self) -> Iterator[None]:
        try:
            yield
        except (FusiformError, MemoryError):
            raise
        except Exception as error:  # the runtimes raise many kinds
            reason = printable((str(error).splitlines() or [type(error).__name__])[0])
            raise WeightsError(
                f"{self._path}: {self._runtime} broke off while it ran it ({reason}): export it again from its model, "
                "fetch it again, or try another engine"
            ) from None


class RunningPlain(Running):
    """One that answers in plain numbers too."""

    engine: PlainEngine

    def rows(self, pictures: Sequence[bytearray]) -> list[list[float]]:
        """See ``PlainEngine.rows``; raises what ``run`` does."""
        with self._blamed():
            return self.engine.rows(pictures)


def open_engine(
    model: str | os.PathLike[str] | Model,
    *,
    engine: EngineName | None = None,
    threads: int = 1,
    device: str = "cpu",
    features: bool = False,
) -> Running:
    """Open a model, by catalogue name, file of any kind, or as it was opened before, in an engine.

    ``engine`` None is what ``default_engine`` says. ``threads`` is the number of
    threads inside the runtime, ``device`` where PyTorch computes (``cpu``, ``cuda``, ``mps``). An int8 model stays
    int8 but in PyTorch, which runs it dequantised. With ``features`` a classifier answers those too, what its last
    layer reads, whether its file does or not; a program (TorchScript, OpenVINO, ExecuTorch) only where its file does.
    Raises UsageError for an unknown name, engine or device and for features that there are none of, MissingExtraError
    for a runtime that is not installed, and WeightsError or SpecError for a file that cannot be used.
    """
    if threads < 1:
        raise UsageError(f"threads must be at least 1, got {threads}")
    opened = model if isinstance(model, Model) else open_model(model)
    engine = engine or default_engine(opened)
    device = place_of(opened, engine, device)
    if device != "cpu" and engine != "torch":
        raise UsageError(f"engine {engine} runs on the CPU; device {device} needs the engine torch")
    if features:
        check_features(opened)
    try:
        started = _start(opened, engine, threads, device, features)
        return (RunningPlain if isinstance(started, PlainEngine) else Running)(started, opened.path, engine)
    except WeightsError as error:  # an engine is given weights, and does not know the file that they came from
        if str(opened.path) in str(error):
            raise
        raise WeightsError(f"{opened.path}: {printable(' '.join(str(error).split()))}") from None


def place_of(model: Model, engine: EngineName | None, device: str) -> str:
    """The device that an engine computes on: ``auto`` is the CPU, but for PyTorch what ``choose_device`` says.

    So PyTorch is not imported for the question where another engine answers. Raises MissingExtraError without it.
    """
    if device != "auto":
        return device
    if (engine or default_engine(model)) != "torch":
        return "cpu"
    try:
        from fusiform.engines.device import choose_device

        return choose_device()
    except ImportError:
        raise MissingExtraError("PyTorch", "torch", "the engine torch") from None


def default_engine(model: Model) -> EngineName:
    """The engine that a model is run in where none is named: the runtime that its file is for, LiteRT for weights.

    For int8 classifiers it is ``native``, whose answers are LiteRT's, where it is installed and the processor has what
    it is fast with. ``FUSIFORM_ENGINE`` in the environment names another for all files but programs; ``litert`` keeps
    ``native`` out, and ``native`` takes it for int8 classifiers however fast it is. Raises UsageError for a name there
    that is none.
    """
    own, named = own_engine(model), named_engine()
    if model.format not in PROGRAMS and named not in (None, "native", "executorch"):
        return named
    return "native" if own == "litert" and runs_natively(model, asked=named == "native") else own


def named_engine() -> EngineName | None:
    """The engine that ``FUSIFORM_ENGINE`` names, None where it is not set; UsageError for one that there is none of."""
    named = os.environ.get(CHOICE) or None
    for engine in ENGINES:
        if engine == named:
            return engine
    if named is not None:
        raise UsageError(f"{CHOICE}={printable(named)}: there is no such engine; there are {', '.join(ENGINES)}")
    return None


def runs_natively(model: Model, *, asked: bool = False) -> bool:
    """Whether the engine ``native`` runs a model's file, and, unless ``asked`` for, faster than LiteRT does here."""
    if model.format != "tflite" or model.spec.task != "classification":
        return False
    from fusiform.engines.native.compiled import fast_kernels, usable_kernels

    if fast_kernels() is None and not (asked and usable_kernels()):
        return False
    from fusiform.engines.native.engine import can_run

    return can_run(model.data)


def own_engine(model: Model) -> EngineName:
    """The runtime that a model's file is for."""
    if model.format == "coreml":
        raise InputError(f"{model.path}: Core ML runs on Apple's machines alone; fusiform verifies it when it exports")
    return _OWN.get(model.format, "litert")


def tells_unknown(model: Model) -> bool:
    """Whether a classifier tells unknown images by its features, and can answer those."""
    certainty = model.spec.certainty
    if certainty is None or certainty.unknown is None:
        return False
    return model.spec.features or model.format not in PROGRAMS


def check_features(model: Model) -> None:
    """UsageError for a model that has no features to answer with: no classifier, or a program without them."""
    if model.spec.task != "classification":
        raise UsageError(f"{model.path}: is for {model.spec.task}, and features are a classifier's: take one")
    if model.format in PROGRAMS and not model.spec.features:
        raise UsageError(
            f"{model.path}: is a program that answers without features: export it again from its model with "
            f"--features (fusiform export MODEL --to {model.format} --features)"
        )


def _start(opened: Model, engine: EngineName, threads: int, device: str, features: bool) -> Engine:
    # A file that was made for another runtime is written anew from its weights, and those answer logits.
    runtime = "litert" if engine == "native" else engine
    spec = opened.spec if _OWN.get(opened.format) == runtime else opened.spec.with_logits()
    if features and not spec.features:
        spec = spec.replace(features=True)
    if engine not in ENGINES:
        raise UsageError(f"there is no engine {engine!r}; there are {', '.join(ENGINES)}")
    if opened.format in PROGRAMS and engine != own_engine(opened):
        raise UsageError(f"{opened.path}: is a program for {own_engine(opened)}; the engine {engine} cannot run it")
    if engine == "litert":
        from fusiform.engines.litert import LiteRTEngine, check_litert

        if opened.format == "tflite":
            check_litert(opened, described=True)
        return LiteRTEngine(opened.tflite(features=features), spec, threads=threads)
    if engine == "native":
        from fusiform.engines.native.engine import NativeEngine

        return NativeEngine(opened.tflite(), spec)  # it has the features anyhow
    if engine == "onnxruntime":
        from fusiform.engines.onnxruntime import OnnxRuntimeEngine

        return OnnxRuntimeEngine(opened.onnx(features=features), spec, threads=threads)
    if engine == "openvino":
        from fusiform.engines.openvino import OpenVinoEngine

        if opened.format == "openvino":
            return OpenVinoEngine(opened.path, spec, threads=threads)
        return OpenVinoEngine(opened.onnx(features=features), spec, threads=threads)
    if engine == "executorch":
        from fusiform.engines.executorch import ExecuTorchEngine

        if opened.format != "executorch":
            raise UsageError(
                f"{opened.path}: ExecuTorch runs files made for it: fusiform export {opened.path} --to executorch"
            )
        from fusiform.engines.trial import try_executorch

        try_executorch(opened)
        return ExecuTorchEngine(opened.data, spec, threads=threads)
    if opened.format == "torchscript":
        from fusiform.engines.torchscript import TorchScriptEngine

        return TorchScriptEngine(opened.data, spec, threads=threads, device=device)
    if opened.spec.decoded:
        raise UsageError(
            f"{opened.path}: decodes its answers itself, after the network that PyTorch runs: leave --engine out, or "
            "take the model that it was exported from"
        )
    from fusiform.engines.torch import TorchEngine

    return TorchEngine(opened.state(), spec, threads=threads, device=device)
