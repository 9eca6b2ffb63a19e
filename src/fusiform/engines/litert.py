"""LiteRT (TensorFlow Lite): the default, the fastest measured for these networks on a CPU."""

from __future__ import annotations

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from fusiform.engines.batch import Batch, as_normalized, as_pixels, check_batch
from fusiform.engines.quiet import without_lines
from fusiform.errors import WeightsError
from fusiform.spec import ModelSpec
from fusiform.zoo.catalog import BUNDLED_FOLDER
from fusiform.zoo.model import Model


def check_litert(model: Model, *, described: bool) -> None:
    """Raise WeightsError for a TFLite file that LiteRT may not be given; ``described`` says that fusiform wrote it.

    What is not known to be sound runs in a process of its own first. The files that came with fusiform are known.
    """
    if model.path.parent == BUNDLED_FOLDER:
        return
    from fusiform.graph.tflite_checks import check_tflite

    if check_tflite(model.data, source=str(model.path), described=described) is not None:
        from fusiform.engines.trial import try_litert  # no other file is to wait for it

        try_litert(model)


class LiteRTEngine:
    """Runs a TFLite file made for one picture; a batch is answered picture by picture, which is as fast.

    ``threads`` is the number of threads inside the runtime. Raises WeightsError for a file that LiteRT refuses or
    that is not shaped as ``spec`` says.
    """

    def __init__(self, file: bytes, spec: ModelSpec, *, threads: int = 1) -> None:
        self.spec = spec
        try:
            # Its "INFO: Created TensorFlow Lite XNNPACK delegate for CPU." has no setting.
            with without_lines(b"INFO: "):
                self._interpreter = Interpreter(model_content=file, num_threads=threads)
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise WeightsError(f"LiteRT cannot run {spec.name}: {error}") from None
        given, made = self._interpreter.get_input_details()[0], self._interpreter.get_output_details()
        shape = [1, spec.input_size, spec.input_size, spec.input_channels]
        found = [output["shape"].tolist() for output in made]
        wanted = [[1, *answer] for answer in spec.answers.values()]
        if spec.decoded and spec.task == "detection":
            wanted.append([1])  # the number of boxes
        if given["shape"].tolist() != shape or found != wanted:
            raise WeightsError(
                f"the file reads {given['shape'].tolist()} and answers {found}, but its description says {shape} and "
                f"{wanted}: write it again with fusiform port"
            )
        # Called for each picture: LiteRT may move its memory while it runs, and refuses to while anyone holds it.
        self._input_memory = self._interpreter.tensor(given["index"])
        self._output_memory = [self._interpreter.tensor(output["index"]) for output in made]
        self._counts = len(made) > len(spec.answers)
        self._reads_pixels = given["dtype"] in (np.int8, np.uint8)
        # Less 128 where they are read as int8.
        self._flip = np.uint8(128 if given["dtype"] == np.int8 else 0)

    def run(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        """Answer a batch; see ``Engine.run``."""
        check_batch(batch, self.spec)
        answers = {name: np.empty((len(batch), *shape), np.float32) for name, shape in self.spec.answers.items()}
        if self._reads_pixels:
            pixels = as_pixels(batch, self.spec.preprocess)
        else:
            pictures = as_normalized(batch, self.spec.preprocess, layout="nhwc")
        for k in range(len(batch)):
            if self._reads_pixels:
                # From uint8 to what the file reads, straight into the runtime's memory.
                np.bitwise_xor(pixels[k], self._flip, out=self._input_memory()[0].view(np.uint8))
            else:
                np.copyto(self._input_memory()[0], pictures[k])
            self._interpreter.invoke()
            if self._counts:
                self._read_boxes(answers, k)
                continue
            for values, memory in zip(answers.values(), self._output_memory, strict=True):
                values[k] = memory()[0]
        return answers

    def _read_boxes(self, answers: dict[str, NDArray[np.float32]], k: int) -> None:
        """The boxes that the file counts: what lies after them is old. It has their top before their left."""
        count = int(self._output_memory[-1]()[0])
        for values, memory in zip(answers.values(), self._output_memory[:-1], strict=True):
            values[k] = 0
            values[k, :count] = memory()[0, :count]
        answers["boxes"][k] = answers["boxes"][k][:, [1, 0, 3, 2]]
