"""The answer to most requests of a server that is asked too much: 429, before any of the application has run.

A server at twice its capacity refuses as many requests as it answers, on the same cores: what a refusal costs is taken
from the answers. So those whose headers say all that a refusal depends on get one whole from here; of any other, and
wherever something else might be wrong with a request, the application says what is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache

from fusiform.serving.answering import Answering
from fusiform.serving.limits import KEPT_OPEN, Limits
from fusiform.serving.metrics import Metrics
from fusiform.serving.models import NAME
from fusiform.serving.refusals import busy
from fusiform.serving.tokens import Tokens

_ASKED = re.compile(
    rf"/v1/models/(?P<predict>{NAME}):predict|/v2/models/(?P<infer>{NAME})/infer|/predictions/(?P<predictions>{NAME})"
)
"""The addresses that images are sent to, as the groups are called after the functions that answer them."""
_OTHER = frozenset((b"expect", b"transfer-encoding", b"content-encoding", b"origin", b"upgrade"))
"""Headers that more depends on than the queue."""


class Overload:
    """Says what is refused at once: a ``POST`` of images while the queue is full."""

    def __init__(self, answering: Answering, limits: Limits, tokens: Tokens, metrics: Metrics) -> None:
        self._answering, self._limits, self._tokens, self._metrics = answering, limits, tokens, metrics

    def refusal(self, method: bytes, address: bytes, headers: Sequence[tuple[bytes, bytes]]) -> bytes | None:
        """The answer from its ``Content-Type`` on, None where the application is to answer."""
        pool = self._answering.pool
        if (wait := pool.wait()) <= pool.seconds or self._answering.draining or method != b"POST":
            return None
        found = _ASKED.fullmatch(address.decode("latin-1"))
        if found is None or found.lastgroup is None or found[found.lastgroup] not in self._answering.models:
            return None
        given = dict(headers)
        if not _OTHER.isdisjoint(given) or not self._admits(given):
            return None
        pool.refuse()
        self._metrics.refused(found.lastgroup)
        self._answering.log.request("POST", found.lastgroup, 429, 0.0)
        return _written(-(-wait // 1))

    def _admits(self, headers: Mapping[bytes, bytes]) -> bool:
        length = headers.get(b"content-length", b"")
        if not length.isdigit() or int(length) > min(KEPT_OPEN, self._limits.max_bytes):
            return False
        return not self._tokens or self._tokens.admit(headers.get(b"authorization"))


@cache  # a queue is some seconds long
def _written(seconds: float) -> bytes:
    refusal = busy(seconds)
    body = json.dumps(refusal.to_dict(), separators=(",", ":"))
    headers = {**refusal.headers, "Content-Length": str(len(body)), "Content-Type": "application/json"}
    return "".join(f"{name.lower()}: {value}\r\n" for name, value in headers.items()).encode() + f"\r\n{body}".encode()
