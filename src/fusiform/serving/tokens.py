"""The tokens that clients show: ``Authorization: Bearer TOKEN`` (RFC 6750)."""

from __future__ import annotations

import hmac
import os
import re
from pathlib import Path

from fusiform.errors import InputError

VARIABLE = "FUSIFORM_TOKENS"
"""The environment variable with tokens, separated by blanks."""
SHORTEST = 16


class Tokens:
    """The tokens of a file, one a line, or of the environment; none at all let everybody in.

    InputError for a file that cannot be read or that has none, and for tokens that are short or that no header can
    carry; no message has a token in it.
    """

    def __init__(self, file: str | os.PathLike[str] | None = None) -> None:
        self._file = None if file is None else Path(file)
        self._tokens: list[bytes] = []
        self.read()

    def read(self) -> None:
        """Read them again; what was known stays where that fails."""
        if self._file is None:
            where, found = f"the variable {VARIABLE}", os.environ.get(VARIABLE, "").split()
        else:
            where = str(self._file)
            try:
                text = self._file.read_text(encoding="ascii")
            except UnicodeDecodeError:
                raise InputError(
                    f"{where}: holds more than ASCII, which no token may: write one token a line"
                ) from None
            except OSError as error:
                raise InputError(f"{where}: cannot be read ({error.strerror}): check the path of the tokens") from None
            found = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
            if not found:
                raise InputError(f"{where}: holds no token: write one a line, or leave --token-file out")
        for number, token in enumerate(found, 1):
            if len(token) < SHORTEST or not re.fullmatch(r"[A-Za-z0-9._~+/-]+=*", token):
                raise InputError(
                    f"{where}: token {number} is none: take {SHORTEST} or more letters, digits and -._~+/, such as "
                    "openssl rand -hex 32 prints"
                )
        self._tokens = [token.encode() for token in found]

    def __bool__(self) -> bool:
        return bool(self._tokens)

    def admit(self, header: bytes | None) -> bool:
        """Whether a header's value shows a token, in a time that says nothing of the tokens."""
        scheme, _, shown = (header or b"").partition(b" ")
        # All are compared, so that the time does not tell which one it was.
        matches = [hmac.compare_digest(shown.strip(), token) for token in self._tokens]
        return scheme.lower() == b"bearer" and any(matches)
