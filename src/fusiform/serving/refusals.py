"""Requests that are not answered with what they ask for: a status, a word for programs and a sentence for people."""

from __future__ import annotations

from collections.abc import Mapping

from fusiform.schemas.server import Code


class Refusal(Exception):  # noqa: N818  # a refusal is an answer, and mostly no error of the server's
    """The answer to a request that is refused; ``str(refusal)`` is the sentence."""

    def __init__(self, status: int, code: Code, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, dict(headers or {})

    def to_dict(self) -> dict[str, str]:
        """The answer's body: ``error`` and ``code``."""
        return {"error": str(self), "code": self.code}


def bad(message: str) -> Refusal:
    """A request that is written wrong."""
    return Refusal(400, "bad_request", message)


def too_large(what: str, most: int, unit: str = "bytes") -> Refusal:
    """A request with more than is taken."""
    return Refusal(413, "too_large", f"{what} more than {most:,} {unit}, and no more are taken: send less")


def busy(seconds: float) -> Refusal:
    """More is asked than can be answered in time: to be asked again after so many seconds, 1 or more, rounded up."""
    wait = max(1, int(-(-seconds // 1)))
    message = f"more is asked than can be answered in time: ask again in {wait} s"
    return Refusal(429, "busy", message, {"Retry-After": str(wait)})
