"""What a server says beside its answers."""

from __future__ import annotations

from typing import Literal, get_args

from fusiform.schemas.parts import TASKS, Schema, closed, list_of, named, object_of

Code = Literal[
    "bad_request",
    "busy",
    "client_left",
    "draining",
    "failed",
    "no_memory",
    "no_such_model",
    "not_allowed",
    "not_found",
    "slow_body",
    "too_large",
    "too_many_images",
    "unauthorized",
    "unreadable_image",
    "unsupported_type",
]
"""What a server's refusal is about, for programs."""
REFUSALS: tuple[Code, ...] = get_args(Code)


def served() -> Schema:
    """The answer of /v1/models."""
    model = {"name": {"type": "string", "description": "what addresses call it"}}
    model |= object_of("network task classes input_size")["properties"]
    return closed({"schema": named("served"), "models": list_of(closed({**model, "task": {"enum": list(TASKS)}}))})


def served_model(spec: Schema) -> Schema:
    """The answer of /v1/models/NAME."""
    text = {"type": "string"}
    return closed(
        {
            "schema": named("served_model"),
            "name": {**text, "description": "what addresses call it"},
            "loaded": {**text, "description": "when it was opened, ISO 8601 in UTC"},
            "spec": spec,
        }
    )


def refusal() -> Schema:
    """The answer to a request that is refused."""
    text = {"type": "string"}
    return closed(
        {
            "error": {**text, "description": "what is wrong and what to do, for people"},
            "code": {"enum": list(REFUSALS), "description": "what it is about, for programs"},
        }
    )
