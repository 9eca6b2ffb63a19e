"""OpenVINO on the CPU."""

from __future__ import annotations

import hashlib
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusiform.engines.batch import Batch, as_normalized, as_pixels, check_batch
from fusiform.engines.quiet import import_openvino
from fusiform.errors import MissingExtraError, WeightsError
from fusiform.spec import DECODED_BOXES, ModelSpec
from fusiform.zoo.bounds import check_file

_CORE: list[Any] = []
_LOCK = threading.Lock()


def open_core(purpose: str) -> Any:
    """OpenVINO's ``Core``, one for the whole process and never given back; MissingExtraError names the ``purpose``.

    Its CPU plugin gives the thread that starts it a stack of its own for signals, and takes the memory away when it is
    released, wherever that happens: in another thread, the first one dies of the next signal (2026.4.1).
    """
    try:
        openvino = import_openvino()
    except ImportError:
        raise MissingExtraError("openvino", "openvino", purpose) from None
    with _LOCK:
        if not _CORE:
            _CORE.append(openvino.Core())
    return _CORE[0]


class OpenVinoEngine:
    """Runs an OpenVINO IR file, or an ONNX file, a whole batch at once.

    It is compiled for one picture, and again, for any number, when the first other batch comes: where the runtime knows
    the number, it drops steps that only move pixels about, a tenth of MobileNetV2's time and a fifth of ShuffleNetV2's.
    ``file`` is the path of an ``.xml`` with its ``.bin`` beside it, or the bytes of an ONNX file. ``threads`` is the
    number of threads inside the runtime. What is not int8 is computed in float32, float16 files too. Raises
    MissingExtraError without openvino, and WeightsError for a file that it refuses, whose weights are missing or
    another file's, or that is not shaped as ``spec`` says.
    """

    def __init__(self, file: Path | bytes, spec: ModelSpec, *, threads: int = 1) -> None:
        core = open_core("the engine openvino")
        self.spec = spec
        self._settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            # On processors that have bfloat16, that is the default, and two digits fewer.
            "INFERENCE_PRECISION_HINT": "f32",
            # Each process would pin its threads to the same first cores.
            "ENABLE_CPU_PINNING": False,
        }
        # Bytes rather than a path: the runtime maps files into memory, and would fall with one that is cut off later.
        parts = (file,) if isinstance(file, bytes) else _read_files(file)
        try:
            self._model = core.read_model(*parts)
            self._reads_pixels = _reads_pixels(self._model, spec)
            # Of ONNX files, which answer for one picture as they answer everywhere.
            self._alone = spec.decoded and spec.task == "detection" and len(self._model.outputs) > 1
            single = self._model.clone()
            single.reshape([1, *list(self._model.inputs[0].partial_shape)[1:]])
            self._for_one = core.compile_model(single, "CPU", self._settings)
            self._for_any: Any = None
        except WeightsError:
            raise
        except Exception as error:  # the runtime's exceptions share no public base
            lines = str(error).split("\n")  # places in OpenVINO's own code, then what went wrong
            reason = [line for line in lines if line.strip()][-1:] or [repr(error)]
            raise WeightsError(f"OpenVINO cannot run {spec.name}: {reason[0].strip()}; export it again") from None

    def run(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        """Answer a batch; see ``Engine.run``."""
        check_batch(batch, self.spec)
        if len(batch) == 0:  # the runtime makes one answer out of none
            return {name: np.empty((0, *shape), np.float32) for name, shape in self.spec.answers.items()}
        preprocess = self.spec.preprocess
        pictures = as_pixels(batch, preprocess) if self._reads_pixels else as_normalized(batch, preprocess)
        if self._alone:
            shapes = self.spec.answers
            runs = [self._for_one(np.ascontiguousarray(pictures[k : k + 1])) for k in range(len(pictures))]
            return {
                name: np.array([run[k][0] for run in runs], np.float32).reshape(-1, *shape)
                for k, (name, shape) in enumerate(shapes.items())
            }
        if len(batch) > 1 and self._for_any is None:
            self._for_any = open_core("the engine openvino").compile_model(self._model, "CPU", self._settings)
        compiled = self._for_one if len(batch) == 1 else self._for_any
        # Without copies of its own: the pictures are not touched until it returns, and the answers are copied below.
        answers = compiled(np.ascontiguousarray(pictures), share_inputs=True, share_outputs=True)
        if self.spec.decoded and self.spec.task == "detection":
            return _read_rows(np.array(answers[0], np.float32)[0, 0], len(pictures), self.spec)
        if self.spec.decoded:  # classes first, as the input
            return {"probabilities": np.array(answers[0], np.float32).transpose(0, 2, 3, 1)}
        return {name: np.array(answers[k], np.float32) for k, name in enumerate(self.spec.answers)}


def _read_files(file: Path) -> tuple[bytes, bytes]:
    """The description and the weights beside it; WeightsError where they are missing, or another file's."""
    weights_file = file.with_suffix(".bin")
    check_file(weights_file)
    try:
        description, weights = file.read_bytes(), weights_file.read_bytes()
    except FileNotFoundError:
        raise WeightsError(f"{file}: its weights, {weights_file.name}, are not beside it: copy both files") from None
    except OSError as error:
        raise WeightsError(f"{file}, {weights_file.name}: cannot be read ({error.strerror})") from None
    expected = re.search(rb'<weights_sha256 value="(\w+)"', description)
    if expected and expected[1].decode() != hashlib.sha256(weights).hexdigest():
        raise WeightsError(
            f"{file}: {weights_file.name} is damaged, or another model's: copy both files again, or export them again"
        )
    return description, weights


def _reads_pixels(model: Any, spec: ModelSpec) -> bool:
    """Whether the model takes uint8 NHWC; WeightsError for one that is not shaped as the spec says."""
    given, made = [port.partial_shape for port in model.inputs], [port.partial_shape for port in model.outputs]
    pixels = bool(model.inputs) and model.inputs[0].element_type.get_type_name() == "u8"
    size, channels = spec.input_size, spec.input_channels
    picture = [size, size, channels] if pixels else [channels, size, size]
    sides = [[str(side) for side in shape][1:] for shape in given + made]
    answers = list(spec.answers.values())
    if spec.decoded and spec.task == "segmentation":
        answers = [(spec.num_classes, size, size)]
    elif spec.decoded and len(made) == 1:  # rows of picture, class, score and edges: of each picture so many
        sides[1][1] = str(DECODED_BOXES) if "?" in sides[1][1] else sides[1][1]
        answers = [(1, DECODED_BOXES, 7)]
    wanted = [picture, *map(list, answers)]
    if len(given) != 1 or sides != [[str(side) for side in shape] for shape in wanted]:
        expected = ", ".join(map(str, answers))
        raise WeightsError(
            f"the file reads {', '.join(map(str, given))} and answers {', '.join(map(str, made))}, but its description "
            f"says {tuple(picture)} for a picture and {spec.num_classes} classes, {expected}: export it again"
        )
    return pixels


def _read_rows(rows: NDArray[np.float32], pictures: int, spec: ModelSpec) -> dict[str, NDArray[np.float32]]:
    """The spec's answers of rows of picture, class, score and edges; from a picture of -1 on there are no more."""
    answers = {name: np.zeros((pictures, *shape), np.float32) for name, shape in spec.answers.items()}
    ends = np.flatnonzero(rows[:, 0] < 0)
    rows = rows[: ends[0]] if len(ends) else rows
    for k in range(pictures):
        mine = rows[rows[:, 0] == k]
        mine = mine[np.argsort(-mine[:, 2], kind="stable")]
        answers["boxes"][k, : len(mine)] = mine[:, 3:]
        answers["labels"][k, : len(mine)] = mine[:, 1]
        answers["scores"][k, : len(mine)] = mine[:, 2]
    return answers
