"""The server's OpenAPI document, from the JSON Schemas of what it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fusiform.machine import installed_version
from fusiform.schemas import json_schema
from fusiform.serving.protocols.own import MASKS
from fusiform.serving.reading import MAX_IMAGES
from fusiform.spec import Task

Schema = dict[str, Any]
_NUMBER: Schema = {"type": "number", "minimum": 0, "maximum": 1}
_COUNT: Schema = {"type": "integer", "minimum": 1}
_BASE64 = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
_IMAGE: Schema = {"schema": {"type": "string", "format": "binary"}}


def openapi(models: Mapping[str, Task], *, tokens: bool, calibrated: bool = False) -> Schema:
    """The document of a server with ``models``; ``tokens`` says whether it asks for one.

    ``calibrated`` says whether any of the models makes promises, for which ``certain`` can be asked.
    """
    names = list(models)
    document: Schema = {
        "openapi": "3.1.0",
        "info": {
            "title": "fusiform",
            "version": installed_version() or "0",
            "description": "Images in, the answers of a model out. The Open Inference Protocol (/v2) and TorchServe's "
            "addresses (/predictions) are described by their own projects.",
        },
        "paths": {
            "/v1/models/{name}:predict": {"post": _predict(names, set(models.values()), calibrated)},
            "/v1/models": {"get": _get("The models that are served", _document("served"))},
            "/v1/models/{name}": {
                "parameters": [_name(names)],
                "get": _get("What a model says of itself", _document("served_model"), "404"),
            },
            "/healthz": {"get": _get("Whether the server runs", _status("ok"), open_=True)},
            "/readyz": {"get": _get("Whether it takes requests", _status("ready"), "503", open_=True)},
            "/metrics": {"get": _get("What it counts, for Prometheus", {"text/plain": {"schema": {"type": "string"}}})},
        },
        "components": {"schemas": {"refusal": _without_draft("refusal")}},
    }
    if tokens:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
    return document


def _without_draft(name: str) -> Schema:
    return {key: value for key, value in json_schema(name).items() if key not in ("$schema", "$id")}


def _document(name: str) -> Schema:
    return {"application/json": {"schema": _without_draft(name)}}


def _status(word: str) -> Schema:
    schema = {"type": "object", "properties": {"status": {"const": word}}, "required": ["status"]}
    return {"application/json": {"schema": schema}}


def _name(names: Sequence[str]) -> Schema:
    return {"name": "name", "in": "path", "required": True, "schema": {"enum": list(names)}}


def _refusals(*codes: str) -> Schema:
    body = {"application/json": {"schema": {"$ref": "#/components/schemas/refusal"}}}
    return {code: {"description": _CODES[code], "content": body} for code in codes}


_CODES = {
    "400": "The request, or an image in it, cannot be read",
    "401": "No token, or a wrong one",
    "404": "There is no such model",
    "408": "The body took too long",
    "413": "More than is taken",
    "415": "A body of another type",
    "429": "More is asked than can be answered in time; Retry-After says when to ask again",
    "500": "The model failed",
    "503": "The server is about to stop, or short of memory",
}


def _get(summary: str, content: Schema, *more: str, open_: bool = False) -> Schema:
    described: Schema = {
        "summary": summary,
        "responses": {"200": {"description": summary, "content": content}, **_refusals("400", "401", *more)},
    }
    if open_:
        described["security"] = []
    return described


_OPTIONS: dict[str, tuple[Task, Schema, str]] = {
    "top": ("classification", _COUNT, "How many classes to name"),
    "certain": (
        "classification",
        _NUMBER,
        "Of a calibrated model: the share of images whose set of names holds the right one, and that are not called "
        "unknown wrongly. Without it the share that the model was calibrated for; the answer's certain says which",
    ),
    "score": ("detection", _NUMBER, "Leave out boxes below this confidence score"),
    "iou": ("detection", _NUMBER, "The intersection over union above which a box is left out"),
    "limit": ("detection", _COUNT, "At most so many boxes"),
    "mask": (
        "segmentation",
        {"enum": list(MASKS)},
        "Send the mask too, as a palette PNG in base64 or as COCO's run lengths",
    ),
}


def _predict(names: Sequence[str], tasks: set[Task], calibrated: bool) -> Schema:
    base64: Schema = {
        "type": "object",
        "properties": {"b64": {"type": "string", "contentEncoding": "base64", "pattern": _BASE64}},
        "required": ["b64"],
        "additionalProperties": False,
    }
    several: Schema = {"type": "array", "items": base64, "minItems": 1, "maxItems": MAX_IMAGES}
    json: Schema = {
        "type": "object",
        "properties": {"images": several},
        "required": ["images"],
        "additionalProperties": False,
    }
    files: Schema = {
        "type": "object",
        "properties": {"images": {"type": "array", "items": _IMAGE["schema"], "minItems": 1, "maxItems": MAX_IMAGES}},
        "required": ["images"],
        "additionalProperties": False,
    }
    return {
        "summary": "Ask a model of one image or several",
        "parameters": [
            _name(names),
            *(
                {"name": name, "in": "query", "schema": schema, "description": f"Of {task}: {says}"}
                for name, (task, schema, says) in _OPTIONS.items()
                if task in tasks and (name != "certain" or calibrated)
            ),
        ],
        "requestBody": {
            "required": True,
            "content": {
                "image/jpeg": _IMAGE,
                "image/png": _IMAGE,
                "application/octet-stream": _IMAGE,
                "multipart/form-data": {"schema": files},
                "application/json": {"schema": json},
            },
        },
        "responses": {
            "200": {"description": "An answer for each image, in their order", "content": _document("predictions")},
            **_refusals("400", "401", "404", "408", "413", "415", "429", "500", "503"),
        },
    }
