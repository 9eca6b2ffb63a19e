"""A model file as any other program meets it: the tensors by the names, types and shapes that its own runtime knows.

The engines of ``fusiform.engines`` bring answers into one form; here they stay as the runtime gives them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from fusiform.data.preprocess import normalize
from fusiform.engines import Engine, open_engine, own_engine
from fusiform.zoo.model import Model
from fusiform.zoo.snippets import Reads, input_form

Values = NDArray[Any]


class Tensor(NamedTuple):
    """An input or output: ``dtype`` by numpy's name, ``shape`` with the batch of one in front."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class Plain(NamedTuple):
    """A file opened in ``runtime``: it takes the one array ``given`` by ``feed`` and answers with those of ``run``.

    ``feed`` makes what the file takes of pixels (height, width, 3), uint8 in the spec's colour order; ``layout`` says
    where the channels are in it. ``names`` are those of the answers. ``engine`` is the same file as verification runs
    it.
    """

    runtime: str
    reads: Reads
    layout: str
    input_name: str
    names: tuple[str, ...]
    feed: Callable[[NDArray[np.uint8]], Values]
    run: Callable[[NDArray[np.uint8]], list[Values]]
    engine: Engine


def open_plain(model: Model) -> Plain:
    """Open an exported file in its own runtime, on one thread, for one picture at a time.

    TorchScript, ExecuTorch and Core ML answer through fusiform's engines, which change nothing of those answers.
    Raises what ``open_engine`` raises.
    """
    engine: Engine
    if model.format == "coreml":
        from fusiform.exporting.targets.coreml import open_package

        engine, runtime = open_package(model.path), "coreml, interpreted"
    else:
        runtime = own_engine(model)
        engine = open_engine(model, engine=runtime)
    reads = input_form(model)
    layout = "NHWC" if model.format == "tflite" or reads in ("uint8", "image") else "NCHW"

    def feed(pixels: NDArray[np.uint8]) -> Values:
        if reads == "normalized":
            return normalize(pixels, model.spec.preprocess, layout="nhwc" if layout == "NHWC" else "nchw")[None]
        given: Values = pixels if layout == "NHWC" else pixels.transpose(2, 0, 1)
        return np.ascontiguousarray(given, np.float32 if reads == "float_pixels" else np.uint8)[None]

    openers = {"tflite": _litert, "onnx": _onnx, "openvino": _openvino}
    if model.format in openers:
        name, names, answer = openers[model.format](model)
        return Plain(runtime, reads, layout, name, names, feed, lambda pixels: answer(feed(pixels)), engine)

    def through_engine(pixels: NDArray[np.uint8]) -> list[Values]:
        return list(engine.run(pixels[None]).values())

    return Plain(runtime, reads, layout, "image", tuple(model.spec.answers), feed, through_engine, engine)


_Opened = tuple[str, tuple[str, ...], Callable[[Values], list[Values]]]
"""The input's name, the answers', and what runs the file."""


def _litert(model: Model) -> _Opened:
    from ai_edge_litert.interpreter import Interpreter

    from fusiform.engines.quiet import without_lines

    with without_lines(b"INFO: "):
        interpreter = Interpreter(model_content=model.data, num_threads=1)
        interpreter.allocate_tensors()
    given, made = interpreter.get_input_details()[0], interpreter.get_output_details()

    def run(values: Values) -> list[Values]:
        interpreter.set_tensor(given["index"], values)
        interpreter.invoke()
        answers = [interpreter.get_tensor(output["index"]) for output in made]
        if len(answers) > len(model.spec.answers):  # a detector's last answer counts the boxes; what follows is old
            for answer in answers[:-1]:
                answer[:, int(answers[-1][0]) :] = 0
        return answers

    return given["name"], tuple(output["name"] for output in made), run


def _onnx(model: Model) -> _Opened:
    from fusiform.engines.onnxruntime import SILENT
    from fusiform.engines.quiet import import_onnxruntime

    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = SILENT
    session = onnxruntime.InferenceSession(model.data, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    name = session.get_inputs()[0].name

    def run(values: Values) -> list[Values]:
        return cast("list[Values]", session.run(None, {name: values}))

    return name, tuple(output.name for output in session.get_outputs()), run


def _openvino(model: Model) -> _Opened:
    from fusiform.engines.openvino import open_core

    core = open_core("the expected answers of OpenVINO files")
    network = core.read_model(model.data, model.path.with_suffix(".bin").read_bytes())
    network.reshape([1, *list(network.inputs[0].partial_shape)[1:]])
    # As the engine has it: on processors with bfloat16 that is the default, and two digits fewer.
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False}
    compiled = core.compile_model(network, "CPU", settings)

    def run(values: Values) -> list[Values]:
        found = compiled(values)
        answers = [np.array(found[k]) for k in range(len(network.outputs))]
        if model.spec.decoded and model.spec.task == "detection" and len(answers) == 1:
            rows = answers[0][0, 0]
            ends = np.flatnonzero(rows[:, 0] < 0)
            rows[ends[0] + 1 if len(ends) else len(rows) :] = 0  # what follows the row of -1 is old
        return answers

    names: Sequence[str] = [output.get_any_name() for output in network.outputs]
    return network.inputs[0].get_any_name(), tuple(names), run
