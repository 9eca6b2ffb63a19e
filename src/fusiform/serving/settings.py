"""How a server is to be: its options, read and checked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from fusiform import engines
from fusiform.engines import EngineName
from fusiform.errors import UsageError
from fusiform.machine import usable_cores
from fusiform.serving.log import LOG_LEVELS, LogLevel
from fusiform.serving.models import named_models

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
MOST_BYTES = 256 << 20
"""No body may be larger: no image file is (``data.limits.MAX_FILE_BYTES``)."""


@dataclass(frozen=True)
class Settings:
    """The options of ``fusiform.serve``, which describes them; made of plain values, to be told another process."""

    models: dict[str, str]
    host: str
    port: int
    threads: int
    workers: int
    queue_seconds: float
    max_bytes: int
    max_pixels: int
    timeout: float
    drain: float
    token_file: str | None
    cors: tuple[str, ...]
    page: bool
    sketch: str | None
    engine: EngineName | None
    device: str
    fast: bool
    log: LogLevel

    def __post_init__(self) -> None:
        for name, least in (("threads", 1), ("workers", 1), ("max_bytes", 1), ("max_pixels", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 <= self.port <= 65535:
            raise UsageError(f"port must be from 0 (any free one) to 65535, got {self.port}")
        for name, above in (("queue_seconds", 0.0), ("timeout", 0.0)):
            if not above < getattr(self, name) <= 3600:
                raise UsageError(f"{name} must be more than {above:g} and up to 3600, got {getattr(self, name)}")
        if not 0 <= self.drain <= 3600:
            raise UsageError(f"drain must be from 0 to 3600 seconds, got {self.drain}")
        if self.max_bytes > MOST_BYTES:
            raise UsageError(f"max_bytes must be up to {MOST_BYTES:,}, got {self.max_bytes:,}")
        if self.engine is not None and self.engine not in engines.ENGINES:
            raise UsageError(f"there is no engine {self.engine!r}; there are {', '.join(engines.ENGINES)}")
        if self.log not in LOG_LEVELS:
            raise UsageError(f"log must be {', '.join(LOG_LEVELS)}, not {self.log!r}")
        for origin in self.cors:
            parts = urlsplit(origin)
            if origin != "*" and (not parts.netloc or origin != f"{parts.scheme}://{parts.netloc}"):
                raise UsageError(f"{origin}: is no origin: give one such as https://example.org, without a path")
        if self.sketch is not None and self.fast:
            raise UsageError("a sketch needs images as they are, and fast decodes them smaller: leave out either")
        if self.threads < self.workers:
            raise UsageError(f"{self.workers} workers need a thread each, and threads is {self.threads}")


def read_settings(models: str | Sequence[str], *, threads: int | None, workers: int, **others: object) -> Settings:
    """The settings of what ``fusiform.serve`` was given; UsageError for what does not fit."""
    named = named_models([models] if isinstance(models, str) else list(models))
    cores = usable_cores()
    # Every process needs a thread.
    return Settings(
        models=named,
        threads=max(cores, workers) if threads is None else threads,
        workers=workers,
        **others,  # type: ignore[arg-type]
    )


def read_count(value: int | str, name: str) -> int:
    """A number such as 20000000, "20M" or "1.5M" (K, M, G: thousands, millions, thousand millions)."""
    if isinstance(value, int):
        return value
    found = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?([KMG]?)B?", value.strip(), re.IGNORECASE)
    if found is None:
        raise UsageError(f"{name} must be a number such as 20000000 or 20M, not {value!r}")
    return round(float(found[1]) * _UNITS[found[2].upper()])
