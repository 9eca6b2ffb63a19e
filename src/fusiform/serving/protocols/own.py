"""``/v1/models``: images in, what ``fusiform predict --format json`` prints out."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from starlette.requests import Request

from fusiform.drawing.masks import mask_png
from fusiform.errors import UsageError
from fusiform.prediction.formats import envelope
from fusiform.prediction.results import Prediction
from fusiform.serving.answering import OPTIONS, Answering, Json, query, read_options
from fusiform.serving.models import Served
from fusiform.serving.reading import read_pictures
from fusiform.serving.refusals import Refusal, bad
from fusiform.serving.rle import encode

MASKS = ("png", "rle")


class Own:
    """The endpoints of fusiform's own protocol."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering

    async def predict(self, request: Request) -> Json:
        """``POST /v1/models/NAME:predict``: an image, several, or base64 in JSON."""
        model = self._answering.model(request.path_params["name"])
        given = query(request, (*OPTIONS, "mask"))
        mask = given.pop("mask", None)
        asked = read_options(given, model.spec)
        _check_mask(mask, model)
        self._answering.check_queue()
        pictures, alone = await read_pictures(request)
        predictions = await self._answering.answer(model, pictures, asked, request)
        if alone and (error := predictions[0].error) is not None:
            raise Refusal(400, "unreadable_image", error)
        if model.spec.task == "segmentation":  # of large masks this takes long
            records = await asyncio.to_thread(_records, predictions, mask)
        else:
            records = _records(predictions, mask)
        return Json({**envelope(model.spec), "predictions": records})

    async def models(self, request: Request) -> Json:
        """``GET /v1/models``: what is served."""
        query(request, ())
        models = [
            {
                "name": name,
                "network": model.spec.name,
                "task": model.spec.task,
                "classes": model.spec.num_classes,
                "input_size": model.spec.input_size,
            }
            for name, model in self._answering.models.items()
        ]
        return Json({"schema": "fusiform.served/1", "models": models})

    async def model(self, request: Request) -> Json:
        """``GET /v1/models/NAME``: what a model says of itself."""
        query(request, ())
        model = self._answering.model(request.path_params["name"])
        loaded = model.loaded.isoformat(timespec="seconds")
        record = {"schema": "fusiform.served_model/1", "name": model.name, "loaded": loaded}
        return Json({**record, "spec": model.spec.to_dict()})


def _check_mask(mask: str | None, model: Served) -> None:
    if mask is None:
        return
    if mask not in MASKS:
        raise bad(f"mask must be {' or '.join(MASKS)}, not {mask[:50]!r}")
    if model.spec.task != "segmentation":
        raise bad(f"mask is for segmentation, and {model.name} is for {model.spec.task}: leave mask out")


def _records(predictions: Sequence[Prediction], mask: str | None) -> list[dict[str, Any]]:
    records = []
    for prediction in predictions:
        record = prediction.to_dict()
        found = prediction.segmentation
        if found is not None and mask == "png":
            try:
                record["mask"] = base64.b64encode(mask_png(found)).decode("ascii")
            except UsageError as error:
                raise bad(str(error)) from None
        elif found is not None and mask == "rle":
            for share in record["classes"]:
                share["rle"] = encode(np.equal(found.classes, share["index"]))
        records.append(record)
    return records
