"""``/v2``: the Open Inference Protocol over REST with binary tensors, for the clients of Triton, KServe and others.

Its specification: https://github.com/kserve/open-inference-protocol, and Triton's extension for binary data,
https://github.com/triton-inference-server/server (protocol/extension_binary_data.md).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response

from fusiform.machine import installed_version
from fusiform.prediction.results import Prediction
from fusiform.prediction.sources import Picture
from fusiform.serving.answering import OPTIONS, Answering, Json, query, read_options
from fusiform.serving.models import Served
from fusiform.serving.protocols import tensors
from fusiform.serving.reading import off_the_loop, picture_of, read_body
from fusiform.serving.refusals import Refusal, bad
from fusiform.spec import ModelSpec, Task

INPUT = "image"
OUTPUTS: dict[Task, tuple[tuple[str, str, tuple[int, ...]], ...]] = {
    "classification": (("probability", "FP32", (-1, -1)), ("index", "INT64", (-1, -1)), ("label", "BYTES", (-1, -1))),
    "detection": (
        ("count", "INT64", (-1,)),
        ("box", "FP32", (-1, -1, 4)),
        ("score", "FP32", (-1, -1)),
        ("index", "INT64", (-1, -1)),
        ("label", "BYTES", (-1, -1)),
    ),
    "segmentation": (("classes", "UINT8", (-1, -1, -1)),),
}
"""The outputs of each task: name, datatype and shape, images first. Boxes after an image's count are zeros."""
PROMISED: tuple[tuple[str, str, tuple[int, ...]], ...] = (
    ("set_count", "INT64", (-1,)),
    ("set_index", "INT64", (-1, -1)),
    ("set_label", "BYTES", (-1, -1)),
    ("known", "INT64", (-1,)),
    ("p_known", "FP32", (-1,)),
)
"""Those of a calibrated classifier beside its task's; ``known`` and ``p_known`` are -1 where that is not told."""
DECIDED = ("decided", "INT64", (-1,))
"""That of one that decides by a rule: the index of the class that this gives, -1 where it gives none."""

_Output = tuple[NDArray[Any] | list[str], tuple[int, ...]]


def outputs_of(spec: ModelSpec) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
    """The outputs of a model."""
    if spec.certainty is None:
        return OUTPUTS[spec.task]
    return (*OUTPUTS[spec.task], *PROMISED, *((DECIDED,) if spec.certainty.decision is not None else ()))


class OpenInference:
    """The endpoints of the Open Inference Protocol."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering

    async def server(self, request: Request) -> Json:
        """``GET /v2``."""
        query(request, ())
        version = installed_version() or "unknown"
        return Json({"name": "fusiform", "version": version, "extensions": ["binary_tensor_data"]})

    async def live(self, request: Request) -> Json:
        """``GET /v2/health/live``."""
        query(request, ())
        return Json({"live": True})

    async def model(self, request: Request) -> Json:
        """``GET /v2/models/NAME``."""
        query(request, ())
        model = self._answering.model(request.path_params["name"])
        outputs = [
            {"name": name, "datatype": kind, "shape": list(shape)} for name, kind, shape in outputs_of(model.spec)
        ]
        inputs = [{"name": INPUT, "datatype": "BYTES", "shape": [-1]}]
        return Json(
            {"name": model.name, "versions": ["1"], "platform": "fusiform", "inputs": inputs, "outputs": outputs}
        )

    async def ready(self, request: Request) -> Json:
        """``GET /v2/models/NAME/ready``."""
        query(request, ())
        model = self._answering.model(request.path_params["name"])
        return Json({"name": model.name, "ready": True})

    async def infer(self, request: Request) -> Response:
        """``POST /v2/models/NAME/infer``."""
        model = self._answering.model(request.path_params["name"])
        query(request, ())
        self._answering.check_queue()
        length = request.headers.get(tensors.LENGTH_HEADER)
        body = await read_body(request.receive)
        given = await off_the_loop(partial(tensors.read_request, header_length=length), body)
        binary = given.parameters.pop("binary_data_output", False) is True
        if unknown := sorted(set(given.parameters) - set(OPTIONS)):
            raise bad(f"there is no parameter {unknown[0][:50]!r}; there are {', '.join(OPTIONS)}, binary_data_output")
        asked = read_options(given.parameters, model.spec)
        known = [name for name, _, _ in outputs_of(model.spec)]
        outputs = given.outputs if given.outputs is not None else dict.fromkeys(known, binary)
        if wrong := [name for name in outputs if name not in known]:
            raise bad(f"{model.name} has no output {wrong[0]!r}; it has {', '.join(known)}")
        predictions = await self._answering.answer(model, _pictures(given.inputs), asked, request)
        for prediction in predictions:
            if prediction.error is not None:  # the protocol has no place for an answer to some of the images
                raise Refusal(400, "unreadable_image", prediction.error)
        head: dict[str, Any] = {"model_name": model.name, "model_version": "1"}
        if given.id is not None:
            head["id"] = given.id
        return await asyncio.to_thread(_answer, head, model, predictions, outputs)


def _pictures(inputs: Sequence[tensors.Tensor]) -> list[Picture]:
    if len(inputs) != 1 or inputs[0].name != INPUT:
        raise bad(f"there is one input, {INPUT}: encoded images as BYTES, or pixels as UINT8")
    (tensor,) = inputs
    if tensor.datatype == "BYTES":
        return [picture_of(f"{INPUT}[{k}]", data) for k, data in enumerate(tensors.byte_strings(tensor))]
    if tensor.datatype == "UINT8":
        return [
            Picture(f"{INPUT}[{k}]", partial(Image.fromarray, each), fleeting=True)
            for k, each in enumerate(tensors.pixels(tensor))
        ]
    raise bad(f"{INPUT} must be BYTES (encoded images) or UINT8 (pixels), not {tensor.datatype}")


def _answer(
    head: dict[str, Any], model: Served, predictions: Sequence[Prediction], outputs: dict[str, bool]
) -> Response:
    made = _outputs(model.spec.task, predictions)
    written = [(name, *made[name], binary) for name, binary in outputs.items()]
    found, data = tensors.write_answer(head, written)
    if not any(outputs.values()):
        return Json(found)
    text = json.dumps(found, allow_nan=False).encode("ascii")
    headers = {tensors.LENGTH_HEADER: str(len(text))}
    return Response(text + data, media_type="application/octet-stream", headers=headers)


def _outputs(task: Task, predictions: Sequence[Prediction]) -> dict[str, _Output]:
    if task == "detection":
        return _boxes(predictions)
    if task == "segmentation":
        masks = [each.segmentation.classes for each in predictions if each.segmentation is not None]
        if len({mask.shape for mask in masks}) > 1:
            raise bad("images of several sizes have masks that fit in no tensor: send them one at a time")
        classes = np.stack(masks)
        return {"classes": (classes, classes.shape)}
    tops = [each.top for each in predictions]
    shape = (len(tops), len(tops[0]))
    return {
        "probability": (np.array([[guess.probability for guess in top] for top in tops], np.float32), shape),
        "index": (np.array([[guess.index for guess in top] for top in tops], np.int64), shape),
        "label": ([guess.name for top in tops for guess in top], shape),
        **_promises(predictions),
    }


def _promises(predictions: Sequence[Prediction]) -> dict[str, _Output]:
    """A calibrated classifier's sets, with zeros and no names up to the most that one has, and what is known."""
    found = [each.classification for each in predictions if each.classification is not None]
    sets = [each.names for each in found if each.names is not None]
    if not sets:
        return {}
    most = max(map(len, sets))
    index, labels = np.zeros((len(sets), most), np.int64), [[""] * most for _ in sets]
    for i, names in enumerate(sets):
        for k, guess in enumerate(names):
            index[i, k], labels[i][k] = guess.index, guess.name
    known = np.array([-1 if each.known is None else each.known for each in found], np.int64)
    decided = np.array([-1 if each.decided is None else each.decided.index for each in found], np.int64)
    p_known = np.array([-1 if each.p_known is None else each.p_known for each in found], np.float32)
    return {
        "set_count": (np.array([len(names) for names in sets], np.int64), (len(sets),)),
        "set_index": (index, index.shape),
        "set_label": ([name for each in labels for name in each], index.shape),
        "known": (known, known.shape),
        "p_known": (p_known, p_known.shape),
        "decided": (decided, decided.shape),
    }


def _boxes(predictions: Sequence[Prediction]) -> dict[str, _Output]:
    """Each image's boxes (left, top, width, height in pixels), and zeros up to the most that one has."""
    found = [each.detections.boxes for each in predictions if each.detections is not None]
    most = max(map(len, found))
    box = np.zeros((len(found), most, 4), np.float32)
    score, index = np.zeros((len(found), most), np.float32), np.zeros((len(found), most), np.int64)
    labels = [[""] * most for _ in found]
    for i, boxes in enumerate(found):
        for k, each in enumerate(boxes):
            box[i, k] = each.left, each.top, each.right - each.left, each.bottom - each.top
            score[i, k], index[i, k], labels[i][k] = each.score, each.index, each.name
    return {
        "count": (np.array([len(boxes) for boxes in found], np.int64), (len(found),)),
        "box": (box, box.shape),
        "score": (score, score.shape),
        "index": (index, index.shape),
        "label": ([name for each in labels for name in each], score.shape),
    }
