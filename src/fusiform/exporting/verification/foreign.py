"""Running LiteRT and ONNX files that other tools wrote, as they are, so that a port can be held against its original.

Such a file says nothing of labels and preprocessing: those are of the model that it is compared with.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusiform.engines.batch import Batch, as_normalized, check_batch
from fusiform.engines.litert import check_litert
from fusiform.engines.onnxruntime import SILENT
from fusiform.engines.quiet import import_onnxruntime, without_lines
from fusiform.errors import InputError, MissingExtraError, WeightsError
from fusiform.report import printable
from fusiform.spec import METADATA_KEY, ModelSpec
from fusiform.zoo.model import FileFormat, Model

_BACKGROUND = 1001
"""TensorFlow's ImageNet networks have one class more, the background, before the others; a port drops it."""
_EIGHT_BITS = (np.uint8, np.int8)


def is_foreign(model: Model) -> bool:
    """Whether this is a LiteRT or ONNX file without fusiform's description of it."""
    return model.format in ("tflite", "onnx") and METADATA_KEY.encode() not in model.data


def open_foreign(path: Path, spec: ModelSpec) -> Model | None:
    """A LiteRT or ONNX file without a description as a model with another model's spec; None for any other file.

    Raises UsageError for such a file beside a detector or a segmenter: other tools' answers to these are in forms of
    their own (decoded boxes, masks), which no description tells.
    """
    try:
        data = path.read_bytes()
    except OSError:
        return None
    format_: FileFormat = "tflite" if data[4:8] == b"TFL3" else "onnx"
    # A protobuf that starts with ir_version, and no safetensors file whose header has eight bytes of length before it.
    if format_ == "onnx" and not (data[:1] == b"\x08" and data[8:9] != b"{"):
        return None
    model = Model(path, format_, spec, data)
    if not is_foreign(model):
        return None
    if spec.task != "classification":
        raise InputError(
            f"{path}: has no description of fusiform's, and the answers of another tool's files for {spec.task} cannot "
            "be compared: export the model with fusiform export, and verify that file"
        )
    return model


class ForeignEngine:
    """Runs a foreign LiteRT or ONNX file of one input and one output in its own runtime.

    The file reads pictures normalised as the spec says, in either layout: in floats, or in 8 bits with its own scale
    and zero point. Answers in 8 bits come back as numbers, without TensorFlow's background class, and as
    ``probabilities`` where the file ends in a softmax; ``step`` is their coarseness, 0 for floats. Raises WeightsError
    for a file of another shape than the spec's or that its runtime refuses, MissingExtraError without the runtime.
    """

    def __init__(self, model: Model, *, threads: int = 1) -> None:
        self.spec = model.spec
        self._source = str(model.path)
        if model.format == "tflite":
            check_litert(model, described=False)
        start = _start_litert if model.format == "tflite" else _start_onnx
        if model.format == "onnx":
            _check_onnx(model)
        try:
            self._network = start(model, threads)
        except MissingExtraError:
            raise
        except Exception as error:  # the runtimes raise many kinds
            reason = printable((str(error).splitlines() or [type(error).__name__])[0])
            raise WeightsError(f"{model.path}: its runtime cannot run it ({reason}): fetch it again") from None
        self.step = self._network.step
        shape, size, channels = self._network.shape, self.spec.input_size, self.spec.input_channels
        nhwc, nchw = (size, size, channels), (channels, size, size)
        if len(shape) != 4 or not (_fits(shape[1:], nhwc) or _fits(shape[1:], nchw)):
            raise WeightsError(
                f"{model.path}: reads {shape}, but the model it is compared with reads {size} x {size} pixels of "
                f"{channels} colours: compare it with weights ported from it (fusiform port)"
            )
        self._layout: Literal["nhwc", "nchw"] = "nchw" if _fits(shape[1:], nchw) else "nhwc"

    def run(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        """Answer a batch; see ``Engine.run``."""
        check_batch(batch, self.spec)
        pictures = as_normalized(batch, self.spec.preprocess, layout=self._layout)
        together = self._network.shape[0] or max(1, len(pictures))  # a file that names no number takes any
        if len(pictures) % together:
            raise WeightsError(
                f"{self._source}: takes exactly {together} pictures at a time: export it for one picture"
            )
        parts = [self._network.answer(pictures[k : k + together]) for k in range(0, len(pictures), together)]
        # (pictures, 1, 1, classes) and (pictures, classes, 1, 1) are the same in a row.
        answers = np.concatenate([part.reshape(len(part), -1) for part in parts]).astype(np.float32)
        if answers.shape[1] == _BACKGROUND == self.spec.num_classes + 1:
            answers = answers[:, 1:]
            if self._network.softmax:
                answers /= np.maximum(answers.sum(1, keepdims=True), np.finfo(np.float32).tiny)
        if answers.shape != (len(pictures), self.spec.num_classes):
            raise WeightsError(
                f"{self._source}: answers {len(pictures)} pictures with {answers.shape}, but the model it is compared "
                f"with has {self.spec.num_classes} classes: compare it with weights ported from it (fusiform port)"
            )
        return {"probabilities" if self._network.softmax else "logits": answers}


def _fits(shape: tuple[int | None, ...], wanted: tuple[int, int, int]) -> bool:
    return all(side is None or side == want for side, want in zip(shape, wanted, strict=True))


class _Network(NamedTuple):
    """``answer`` takes normalised float32 pictures in the file's layout; ``shape`` is the input's, None for any.

    ``step`` is between neighbouring answers in 8 bits, 0 for floats.
    """

    shape: tuple[int | None, ...]
    softmax: bool
    step: float
    answer: Callable[[NDArray[np.float32]], NDArray[Any]]


def _start_litert(model: Model, threads: int) -> _Network:
    from ai_edge_litert import schema_py_generated as tfl
    from ai_edge_litert.interpreter import Interpreter

    with without_lines(b"INFO: "):
        interpreter = Interpreter(model_content=model.data, num_threads=threads)
        interpreter.allocate_tensors()
    given, made = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    step, zero = made["quantization"] if made["dtype"] in _EIGHT_BITS else (0.0, 0)
    file = tfl.ModelT.InitFromPackedBuf(model.data, 0)
    code = file.operatorCodes[file.subgraphs[0].operators[-1].opcodeIndex]
    ends_in_softmax = max(code.builtinCode, code.deprecatedBuiltinCode) == tfl.BuiltinOperator.SOFTMAX

    def answer(pictures: NDArray[np.float32]) -> NDArray[Any]:
        interpreter.set_tensor(given["index"], _quantized(pictures, given["dtype"], *given["quantization"]))
        interpreter.invoke()
        values = interpreter.get_tensor(made["index"])
        return np.asarray((values.astype(np.float32) - zero) * np.float32(step) if step else values)

    shape = tuple(int(side) for side in given["shape"])
    return _Network(shape, ends_in_softmax, step, answer)


def _quantized(pictures: NDArray[np.float32], dtype: Any, scale: float, zero: int) -> NDArray[Any]:
    if dtype not in _EIGHT_BITS:
        return pictures.astype(dtype)
    limits = np.iinfo(dtype)
    rounded: NDArray[Any] = np.clip(np.rint(pictures / scale) + zero, limits.min, limits.max).astype(dtype)
    return rounded


def _check_onnx(model: Model) -> None:
    try:
        import onnx

        from fusiform.graph.onnx_limits import check_growth, check_sizes
    except ImportError:
        raise MissingExtraError("onnx", "onnx", f"running {model.path.name}") from None
    try:
        file = onnx.load_from_string(model.data)
    except Exception:  # protobuf's DecodeError is not ours to import
        raise WeightsError(f"{model.path}: not an ONNX file, or a damaged one") from None
    check_sizes(file, str(model.path), external=True)
    check_growth(file, str(model.path))


def _start_onnx(model: Model, threads: int) -> _Network:
    try:
        import onnx

        onnxruntime = import_onnxruntime()
    except ImportError:
        raise MissingExtraError("onnxruntime", "onnx", f"running {model.path.name}") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = SILENT
    # By its name: weights in files of their own are looked for beside it.
    session = onnxruntime.InferenceSession(
        str(model.path), options, providers=["CPUExecutionProvider"], enable_fallback=0
    )
    given = session.get_inputs()[0]
    dtype = {"tensor(float)": np.float32, "tensor(float16)": np.float16}.get(given.type)
    if dtype is None:
        raise WeightsError(f"its input is {given.type}, neither float32 nor float16")
    nodes = onnx.load_from_string(model.data).graph.node
    makers = {name: node for node in nodes for name in node.output}
    last = makers.get(session.get_outputs()[0].name)
    while last is not None and last.op_type in ("Identity", "Cast", "DequantizeLinear", "QuantizeLinear"):
        last = makers.get(last.input[0])

    def answer(pictures: NDArray[np.float32]) -> NDArray[Any]:
        return np.asarray(session.run(None, {given.name: pictures.astype(dtype)})[0])

    shape = tuple(side if isinstance(side, int) else None for side in given.shape)
    return _Network(shape, last is not None and last.op_type == "Softmax", 0.0, answer)
