"""The files of a page as they are sent: in memory, so that no request can lead anywhere else."""

from __future__ import annotations

import gzip
import hashlib
import posixpath
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple

YEAR = 31_536_000

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json; charset=utf-8",
    ".webmanifest": "application/manifest+json; charset=utf-8",
    ".svg": "image/svg+xml",
    ".md": "text/markdown; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".ico": "image/x-icon",
    ".wasm": "application/wasm",
    ".gz": "application/gzip",
}
_BINARY = "application/octet-stream"
_POLICY = re.compile(rb'http-equiv="Content-Security-Policy"\s+content="([^"]*)"')

# Other pages that the visitor has open neither read these files nor take them for what they are not.
SAFE = {"X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin"}


class Served:
    """A file as it is sent: its bytes, gzipped ones where that is worth it, its type, and a tag for caches."""

    def __init__(self, name: str, data: bytes) -> None:
        ending = posixpath.splitext(name)[1].lower()
        self.data, self.kind = data, TYPES.get(ending, _BINARY)
        self.packed: bytes | None = None
        # Models and pictures hardly shrink, and the page counts the bytes of a model as they come.
        if "charset" in self.kind or ending == ".svg":
            packed = gzip.compress(data, 6, mtime=0)
            self.packed = packed if len(packed) < len(data) else None
        self.hash = hashlib.sha256(data).hexdigest()
        self.tag = f'"{self.hash[:32]}"'
        # What the page says of itself; its worker may more (WebAssembly), and is not told.
        policy = _POLICY.search(data) if ending == ".html" else None
        self.policy = None if policy is None else " ".join(policy[1].decode("ascii").split())


class Answer(NamedTuple):
    """What a file is answered with; of a file that the client has, no bytes."""

    status: HTTPStatus
    headers: dict[str, str]
    data: bytes


def name_of(path: str) -> str:
    """The name of the file at an address's path, which is decoded."""
    return path.removeprefix("/") or "index.html"


def answer(served: Served, query: str, *, accepted: str, known: str) -> Answer:
    """The answer to a request with this ``Accept-Encoding`` and ``If-None-Match``; "" is none."""
    # Addresses with a file's hash are of that content for ever; all else is asked for again.
    kept = f"max-age={YEAR}, immutable" if query == f"sha256={served.hash}" else "no-cache"
    headers = {"ETag": served.tag, "Cache-Control": kept, **SAFE}
    if served.policy is not None:
        headers["Content-Security-Policy"] = served.policy
    if served.packed is not None:
        headers["Vary"] = "Accept-Encoding"
    if served.tag in known:
        return Answer(HTTPStatus.NOT_MODIFIED, headers, b"")
    data = served.data
    if served.packed is not None and _takes_gzip(accepted):
        data = served.packed
        headers["Content-Encoding"] = "gzip"
    return Answer(HTTPStatus.OK, headers | {"Content-Type": served.kind}, data)


def serve_all(files: Mapping[str, bytes]) -> dict[str, Served]:
    """All files of a page, ready to be sent."""
    return {name: Served(name, data) for name, data in files.items()}


def _takes_gzip(accepted: str) -> bool:
    """Whether a request's ``Accept-Encoding`` has gzip in it, and not with the weight 0."""
    for part in accepted.lower().split(","):
        coding, _, weight = part.replace(" ", "").partition(";q=")
        if coding in ("gzip", "*"):
            return weight.rstrip("0") not in ("0.", "0", "") or not weight
    return False
