"""``/predictions/NAME`` and ``/ping``, as TorchServe's clients ask."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from fusiform.prediction.results import Prediction
from fusiform.serving.answering import OPTIONS, Answering, Json, query, read_options
from fusiform.serving.reading import read_pictures
from fusiform.serving.refusals import Refusal, bad

_OPTIONS = tuple(name for name in OPTIONS if name != "certain")
"""TorchServe's answers have no place for what a calibrated model promises."""


class TorchServe:
    """The endpoints of TorchServe's inference API, for one image a request."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering

    async def predictions(self, request: Request) -> Json:
        """``POST`` or ``PUT /predictions/NAME``: the image as the body, or as a form's file."""
        model = self._answering.model(request.path_params["name"])
        asked = read_options(query(request, _OPTIONS), model.spec)
        self._answering.check_queue()
        pictures, _ = await read_pictures(request)
        if len(pictures) != 1:
            raise bad(f"send one image, not {len(pictures)}; several are taken at /v1/models/{model.name}:predict")
        (prediction,) = await self._answering.answer(model, pictures, asked, request)
        if prediction.error is not None:
            raise Refusal(400, "unreadable_image", prediction.error)
        return Json(_answer(prediction))


def _answer(prediction: Prediction) -> Any:
    """As TorchServe's handlers answer: a classifier's names with probabilities, a detector's boxes with scores.

    A box is left, top, right, bottom. A segmenter's answer is the share of each class: TorchServe's, two numbers for
    each pixel, is larger than the image by far.
    """
    if prediction.detections is not None:
        return [
            {box.name: [box.left, box.top, box.right, box.bottom], "score": box.score}
            for box in prediction.detections.boxes
        ]
    if prediction.segmentation is not None:
        return {share.name: share.share for share in prediction.segmentation.shares()}
    answer: dict[str, float] = {}
    for guess in prediction.top:
        answer.setdefault(guess.name, guess.probability)  # the likelier of two classes of one name
    return answer
