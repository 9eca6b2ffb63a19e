"""From a request's body to the images in it, in memory alone: no temporary file, no address fetched, no path opened."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from fusiform.prediction.sources import Picture
from fusiform.report import printable
from fusiform.serving.limits import Receive
from fusiform.serving.refusals import Refusal, bad

MAX_IMAGES = 64
"""The most images of one request."""
LONGEST_NAME = 200
_AT_ONCE = 1 << 18
"""Bytes of JSON that are read in the event loop; longer texts would keep others waiting."""


class Given(NamedTuple):
    """The images of a request; ``alone`` says that the body is one, and its fault the request's."""

    pictures: list[Picture]
    alone: bool


def picture_of(name: str, data: bytes | bytearray) -> Picture:
    """An image under the name that it is to have in the answer."""
    return Picture(name, partial(bytes, data), fleeting=True)


async def read_body(receive: Receive) -> bytes | bytearray:
    """All of a body, within the limits that ``receive`` keeps."""
    body: bytes | bytearray = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise Refusal(499, "client_left", "the client left before the end of the body")
        piece, more = message.get("body", b""), message.get("more_body", False)
        if not body and not more:  # most come whole, and are not copied
            return bytes(piece)
        body = bytearray(body) if isinstance(body, bytes) else body
        body += piece
        if not more:
            return body


async def read_pictures(request: Request) -> Given:
    """The images of a request: the body itself, the files of a form, or base64 in JSON.

    Raises Refusal for what is none of these.
    """
    kind, parameters = parse_options_header(request.headers.get("content-type", ""))
    if kind == b"multipart/form-data":
        return Given(await _read_form(request.receive, parameters.get(b"boundary", b"")), alone=False)
    if kind == b"application/json":
        body = await read_body(request.receive)
        return Given(await off_the_loop(_pictures_of_json, body), alone=False)
    # The third is what curl says of --data-binary unless told otherwise.
    raw = (b"", b"application/octet-stream", b"application/x-www-form-urlencoded")
    if kind in raw or kind.startswith(b"image/"):
        body = await read_body(request.receive)
        if not body:
            raise bad("the body is empty: send an image in it")
        return Given([picture_of("image", body)], alone=True)
    shown = printable(kind.decode("latin-1"))[:LONGEST_NAME]
    raise Refusal(
        415,
        "unsupported_type",
        f"a body of type {shown} is not read: send an image as image/jpeg (or any image type, or "
        "application/octet-stream), files as multipart/form-data, or base64 in application/json",
    )


async def off_the_loop(read: Callable[[bytes | bytearray], Any], body: bytes | bytearray) -> Any:
    """What ``read`` makes of a body, in a thread where that would take long."""
    if len(body) <= _AT_ONCE:
        return read(body)
    return await asyncio.to_thread(read, body)


def read_json(body: bytes | bytearray) -> dict[str, Any]:
    """A JSON object; Refusal for anything else."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "not UTF-8, or nested too deeply"
        raise bad(f"the body is not JSON ({reason}): check it") from None
    if not isinstance(found, dict):
        raise bad("the body is not a JSON object: send one")
    return found


def decode_base64(text: object, where: str) -> bytes:
    """The bytes of a base64 text; Refusal, which names ``where``, for anything else."""
    if not isinstance(text, str):
        raise bad(f"{where}: is not a text: give the image's bytes in base64")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise bad(f"{where}: is not base64: give the image's bytes in it (and no data: in front)") from None


def too_many_images(count: int | None = None) -> Refusal:
    """A request with more than ``MAX_IMAGES``."""
    given = "more" if count is None else f"{count:,}"
    return Refusal(400, "too_many_images", f"up to {MAX_IMAGES} images are taken at a time, not {given}: send less")


def _pictures_of_json(body: bytes | bytearray) -> list[Picture]:
    found = read_json(body)
    keys = [key for key in ("images", "instances") if key in found]
    if len(keys) != 1 or len(found) > 1:
        raise bad('the body must be {"images": [{"b64": "..."}, ...]}, with nothing beside it')
    images = found[keys[0]]
    if not isinstance(images, list) or not images:
        raise bad(f"{keys[0]} must be a list of images")
    if len(images) > MAX_IMAGES:
        raise too_many_images(len(images))
    pictures = []
    for k, image in enumerate(images):
        where = f"{keys[0]}[{k}]"
        if not isinstance(image, dict) or set(image) != {"b64"}:
            raise bad(f'{where}: must be {{"b64": "..."}}: images are sent in base64, never as addresses or paths')
        pictures.append(picture_of(where, decode_base64(image["b64"], f"{where}.b64")))
    return pictures


class _Form:
    """The files of a form as they arrive, in memory."""

    def __init__(self, boundary: bytes) -> None:
        self.pictures: list[Picture] = []
        self.ended = False
        self._field, self._value, self._data = bytearray(), bytearray(), bytearray()
        self._disposition = b""
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._add_to_field,
                "on_header_value": self._add_to_value,
                "on_header_end": self._end_header,
                "on_part_data": self._add_to_data,
                "on_part_end": self._end,
                "on_end": self._finish,
            },
        )

    def write(self, piece: bytes) -> None:
        """Take the next piece of the body; Refusal for what is no form."""
        try:
            self._parser.write(piece)
        except FormParserError:
            raise bad("the body is not a form as its Content-Type says: check how it is sent") from None

    def _begin(self) -> None:
        if len(self.pictures) >= MAX_IMAGES:
            raise too_many_images()
        self._disposition, self._data = b"", bytearray()

    def _add_to_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _add_to_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._field.clear()
        self._value.clear()

    def _add_to_data(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]

    def _end(self) -> None:
        _, options = parse_options_header(self._disposition)
        field = _name(options.get(b"name", b""))
        if b"filename" not in options:
            raise bad(f"the field {field or 'without a name'} is no file: send files alone, options in the address")
        name = _name(options[b"filename"]) or f"image {len(self.pictures) + 1}"
        self.pictures.append(picture_of(name, self._data))

    def _finish(self) -> None:
        self.ended = True


def _name(sent: bytes) -> str:
    """A name as it was sent, fit to be shown: it stands for the image in the answer, and for nothing else."""
    return printable(sent.decode("utf-8", "replace"))[:LONGEST_NAME]


async def _read_form(receive: Receive, boundary: bytes) -> list[Picture]:
    if not re.fullmatch(rb"[\x21-\x7e]([\x20-\x7e]{0,199}[\x21-\x7e])?", boundary):
        raise bad("the form's Content-Type has no boundary: send it as a browser or curl -F does")
    form = _Form(boundary)
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise Refusal(499, "client_left", "the client left before the end of the body")
        form.write(message.get("body", b""))
        more = message.get("more_body", False)
    if not form.ended:
        raise bad("the form is cut short: send it again")
    if not form.pictures:
        raise bad("the form has no file: send at least one")
    return form.pictures
