"""Asking a server as ``fusiform.predict`` is asked; HTTP by the standard library alone."""

from __future__ import annotations

import base64
import io
import json
import socket
import ssl
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

import numpy as np
from PIL import Image, ImageOps

from fusiform.data.limits import read_file
from fusiform.engines.crew import in_order
from fusiform.errors import FusiformError, ImageError, InputError, UsageError
from fusiform.prediction.results import Prediction, Predictions
from fusiform.prediction.sources import Picture, Source, find_pictures
from fusiform.report import printable
from fusiform.spec import ModelSpec
from fusiform.tasks.classification import Classification, Guess

if TYPE_CHECKING:
    from fusiform.schemas.server import Code

MOST_BYTES = 1 << 30
"""The most that an answer may have."""
LONGEST_PAUSE = 30.0
"""Seconds; a server that asks to wait longer is asked no more often all the same."""


class Client:
    """A server of ``fusiform serve``, asked from any thread; connections are kept.

    Args:
        address: Where it is: ``http://HOST:PORT``, or ``https://`` and a path in front of a proxy's.
        token: What it asks for, if it asks for a token.
        timeout: Seconds without an answer after which the server is taken to be gone.
        patience: Seconds for which an image is sent again where the server says that it is busy (429) or about to stop
            (503), waiting as it says between.
        connections: How many images are under way at the same time.

    Raises:
        UsageError: For what is no address.

    Example:
        >>> import fusiform
        >>> with fusiform.serve("mobilenet_v2", port=0, threads=1, log="nothing") as server:
        ...     client = fusiform.Client(server.address)
        ...     cat, missing = client.predict(["examples/cat.jpg", "missing.jpg"], top=2)
        >>> [guess.name for guess in cat.top], missing.error
        (['Egyptian cat', 'tiger cat'], 'missing.jpg: no such file: check the path')

    """

    def __init__(
        self,
        address: str = "http://127.0.0.1:8000",
        token: str | None = None,
        *,
        timeout: float = 30.0,
        patience: float = 60.0,
        connections: int = 4,
    ) -> None:
        try:
            parts = urlsplit(address)
            self._host, self._port = parts.hostname, parts.port
        except ValueError:
            self._host = None
        if not self._host or parts.scheme not in ("http", "https") or parts.query or parts.username:
            raise UsageError(f"{address}: is no address of a server: give http://HOST:PORT")
        if connections < 1:
            raise UsageError(f"connections must be at least 1, got {connections}")
        if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
            raise UsageError("the token is none: it is one word of ASCII, as the server's --token-file has it")
        self.address = address.rstrip("/")
        self._secure, self._prefix = parts.scheme == "https", parts.path.rstrip("/")
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._timeout, self._patience, self._connections = timeout, patience, connections
        self._free: SimpleQueue[HTTPConnection] = SimpleQueue()
        weakref.finalize(self, _close, self._free)

    def predict(
        self,
        sources: Source | Iterable[Source],
        model: str | None = None,
        *,
        top: int | None = None,
        score: float | None = None,
        iou: float | None = None,
        limit: int | None = None,
        certain: float | None = None,
    ) -> Predictions:
        """Ask about images: arguments and answers are those of ``fusiform.predict``, ``sources`` of this machine.

        ``model`` is a name of ``models()``, and None the only one there is. Raises InputError where the server cannot
        be reached, does not answer or is busy for longer than the client is patient; UsageError for what it refuses.
        """
        if model is None:
            model = self._only_model()
        spec = self.spec(model)
        options = {"top": top, "score": score, "iou": iou, "limit": limit, "certain": certain}
        asked = {name: str(value) for name, value in options.items() if value is not None}
        if spec.task == "segmentation":
            asked["mask"] = "png"
        path = f"/v1/models/{quote(model)}:predict" + (f"?{urlencode(asked)}" if asked else "")
        pictures = list(find_pictures(sources))
        ask = partial(self._ask, path, spec)
        workers = min(self._connections, len(pictures))
        return Predictions(in_order(pictures, ask, workers=workers) if workers > 1 else map(ask, pictures), spec)

    def models(self) -> list[str]:
        """The names of the models that are served; raises what ``predict`` does."""
        return [model["name"] for model in self._get("/v1/models")["models"]]

    def spec(self, model: str) -> ModelSpec:
        """What a model says of itself; raises what ``predict`` does."""
        found = self._get(f"/v1/models/{quote(model, safe='')}")
        return ModelSpec.from_json(json.dumps(found["spec"]), source=f"{self.address}, {model}")

    def close(self) -> None:
        """Let go of the connections; the next question opens new ones."""
        _close(self._free)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client of {self.address}>"

    def _only_model(self) -> str:
        names = self.models()
        if len(names) != 1:
            raise UsageError(f"{self.address}: serves {', '.join(names)}: name one as model")
        return names[0]

    def _get(self, path: str) -> dict[str, Any]:
        status, found = self._exchange("GET", path, None)
        if status != 200:
            raise self._refused(status, found)
        return found

    def _ask(self, path: str, spec: ModelSpec, picture: Picture) -> Prediction:
        try:
            content = _content(picture)
        except ImageError as error:
            return Prediction(picture.path, error=str(error))
        except OSError as error:
            return Prediction(picture.path, error=_of_file(picture.path, error))
        if not content:
            return Prediction(picture.path, error=f"{picture.path}: is empty (0 bytes): copy or download it again")
        status, found = self._exchange("POST", path, content)
        code: Code | None = found.get("code")
        if code in ("unreadable_image", "too_large"):
            # The server calls the only image of a request "image".
            reason = str(found.get("error")).removeprefix("image: ")
            return Prediction(picture.path, error=f"{picture.path}: {printable(reason)}")
        if status != 200:
            raise self._refused(status, found)
        try:
            return _prediction(picture.path, found["predictions"][0], spec)
        except (KeyError, IndexError, TypeError, ValueError, OSError):
            raise InputError(f"{self.address}: answers as no server of fusiform does: check the address") from None

    def _refused(self, status: int, found: dict[str, Any]) -> FusiformError:
        message = f"{self.address}: {printable(str(found.get('error', f'answered {status}')))}"
        return UsageError(message) if status in (400, 404) else InputError(message)

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, dict[str, Any]]:
        """The status and the JSON of an answer, after waiting where the server says so."""
        end = time.monotonic() + self._patience
        while True:
            status, pause, text = self._send(method, path, body)
            left = end - time.monotonic()
            if pause is None or left <= 0:
                break
            time.sleep(min(pause, left))
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise InputError(f"{self.address}: answered {status} without JSON: is it a server of fusiform?")
        return status, found

    def _send(self, method: str, path: str, body: bytes | None) -> tuple[int, float | None, bytes]:
        """The status of an answer, the seconds to wait before asking again (None: do not), and its text."""
        headers = self._headers if body is None else {**self._headers, "Content-Type": "application/octet-stream"}
        try:
            with self._connection() as (connection, used):
                try:
                    connection.request(method, self._prefix + path, body, headers)
                    response = connection.getresponse()
                except (ConnectionError, HTTPException):
                    if not used:
                        raise
                    connection.close()  # the server had closed it meanwhile
                    connection.request(method, self._prefix + path, body, headers)
                    response = connection.getresponse()
                text = response.read(MOST_BYTES)
                return response.status, _pause(response), text
        except (OSError, HTTPException, ssl.SSLError) as error:
            late = isinstance(error, (TimeoutError, socket.timeout))
            reason = f"no answer in {self._timeout:g} s" if late else (getattr(error, "strerror", None) or error)
            raise InputError(f"{self.address}: cannot be asked ({reason}): is the server running there?") from None

    @contextmanager
    def _connection(self) -> Iterator[tuple[HTTPConnection, bool]]:
        """A connection for one exchange, and whether it was used before; one on which it failed is closed."""
        try:
            connection, used = self._free.get_nowait(), True
        except Empty:
            make = HTTPSConnection if self._secure else HTTPConnection
            assert self._host is not None
            connection, used = make(self._host, self._port, timeout=self._timeout), False
        try:
            yield connection, used
        except BaseException:
            connection.close()
            raise
        self._free.put(connection)


def _close(connections: SimpleQueue[HTTPConnection]) -> None:
    with suppress(Empty):
        while True:
            connections.get_nowait().close()


def _pause(response: HTTPResponse) -> float | None:
    if response.status not in (429, 503):
        return None
    told = response.getheader("Retry-After", "1")
    return min(LONGEST_PAUSE, float(told)) if told.isascii() and told.isdigit() else 1.0


def _content(picture: Picture) -> bytes:
    """An image's file as it is; of one in memory a PNG."""
    content = picture.fetch()
    if isinstance(content, Image.Image):
        file = io.BytesIO()
        ImageOps.exif_transpose(content).save(file, "PNG")
        return file.getvalue()
    if isinstance(content, bytes):
        return content
    return read_file(Path(content), picture.path)


def _of_file(path: str, error: OSError) -> str:
    """What ``read_image`` says of a file that cannot be read."""
    if isinstance(error, FileNotFoundError):
        return f"{path}: no such file: check the path"
    return f"{path}: cannot be read ({error.strerror or error}): check where it comes from"


def _prediction(path: str, found: dict[str, Any], spec: ModelSpec) -> Prediction:
    """An answer from its JSON."""
    if found["error"] is not None:
        return Prediction(path, error=f"{path}: {printable(str(found['error']))}")
    if spec.task == "detection":
        from fusiform.tasks.detection import Box, Detections

        width, height = found["width"], found["height"]
        boxes = []
        for box in found["boxes"]:
            left, top, wide, high = box["bbox"]
            # Rounded numbers may leave the image by a little.
            right, bottom = min(left + wide, width), min(top + high, height)
            boxes.append(Box(box["index"], box["name"], box["score"], left, top, right, bottom))
        return Prediction(path, detections=Detections(tuple(boxes), width, height))
    if spec.task == "segmentation":
        from fusiform.tasks.segmentation import SegmentationMap

        with Image.open(io.BytesIO(base64.b64decode(found["mask"])), formats=["PNG"]) as mask:
            return Prediction(path, segmentation=SegmentationMap(np.array(mask), spec.labels))
    top, names = (
        tuple(Guess(guess["index"], guess["name"], guess["probability"]) for guess in found.get(key, ()))
        for key in ("top", "set")
    )
    if "set" not in found:
        return Prediction(path, Classification(path, top))
    decided = top[0] if found.get("decided") is not None else None
    promised = names, found["p_known"], found["certain"]
    return Prediction(path, Classification(path, top, *promised, found.get("rule"), decided))
