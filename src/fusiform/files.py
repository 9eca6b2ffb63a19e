"""Writing files so that nobody ever finds half of one."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from fusiform.errors import OutputError


def write_file(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` under a temporary name in the same folder and rename it; an existing file is replaced whole.

    Raises OutputError where that cannot be done; nothing is left behind then.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)  # noqa: PTH105  # says that it replaces
    except OSError as error:
        raise OutputError(f"cannot write {path} ({error.strerror or error}): choose another place") from None
    finally:
        part.unlink(missing_ok=True)
