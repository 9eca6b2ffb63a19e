"""What a frame is, which frames are answered, and what is said of one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from PIL import Image

from fusiform.errors import UsageError
from fusiform.prediction.results import Prediction


class Frame(NamedTuple):
    """A frame not yet made a picture of, or (``read`` None) the ``error`` that stands in its place.

    ``number`` counts from 0, ``seconds`` from the beginning; ``arrived`` is when a live one came, by
    ``time.monotonic``, and ``dropped`` how many came before it that nobody answers. ``read`` gives the upright picture,
    or raises ImageError.
    """

    number: int | None
    seconds: float | None
    read: Callable[[], Image.Image] | None
    error: str | None = None
    arrived: float | None = None
    dropped: int = 0


class Pick:
    """Which frames are answered: every one, each ``every``-th, or ``fps`` a second; asked once for each, in order."""

    def __init__(self, every: int | None, fps: float | None) -> None:
        if every is not None and fps is not None:
            raise UsageError("every and fps exclude each other: give one of them")
        if every is not None and every < 1:
            raise UsageError(f"every must be at least 1, got {every}")
        if fps is not None and not (fps > 0 and math.isfinite(fps)):
            raise UsageError(f"fps must be above 0, got {fps:g}")
        self._every, self._fps, self._next = every, fps, 0

    def __call__(self, number: int, seconds: float) -> bool:
        """Whether the frame is the first at or after its turn; those turns that no frame came in are passed over."""
        if self._fps is None:
            return number % (self._every or 1) == 0
        # Times are rounded, in Matroska to milliseconds: a frame may seem to come before its turn.
        turn = math.floor(seconds * self._fps + min(6e-4 * self._fps, 0.5))
        if turn < self._next:
            return False
        self._next = turn + 1
        return True


@dataclass(frozen=True, repr=False)
class FramePrediction(Prediction):
    """The answer for a frame: as of an image, and ``frame``, its number from 0, and ``seconds`` from the beginning.

    Of a live source ``dropped`` is how many frames came since the one answered before and were not answered, and
    ``age_ms`` how many milliseconds after its arrival the frame was answered. ``frame`` is None where there is only an
    ``error``: of a damaged part, or a connection that was lost. ``thumbnail`` is the whole frame, to draw on.
    """

    frame: int | None = None
    seconds: float | None = None
    dropped: int = 0
    age_ms: float | None = None

    def place(self) -> dict[str, Any]:
        """What says which frame it is; the columns and keys that stand before the others."""
        seconds = None if self.seconds is None else round(self.seconds, 6)
        age_ms = None if self.age_ms is None else round(self.age_ms, 3)
        return {"frame": self.frame, "seconds": seconds, "dropped": self.dropped, "age_ms": age_ms}

    def title(self) -> str:
        """Which frame it is, for people."""
        if self.frame is None:
            return self.path
        return f"{self.path}  {clock(self.seconds)}  frame {self.frame}"


COLUMNS = ("frame", "seconds", "dropped", "age_ms")


def clock(seconds: float | None) -> str:
    """A time within a video, as players show it: 1:02:03.400."""
    if seconds is None:
        return "?"
    total = round(seconds * 1000)
    hours, minutes, rest = total // 3_600_000, total // 60_000 % 60, total % 60_000
    head = f"{hours}:{minutes:02}" if hours else f"{minutes}"
    return f"{head}:{rest // 1000:02}.{rest % 1000:03}"
