"""What becomes of one side of a photograph on its way into a network's square."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """One side of the picture: its length, the length it is resized to, and the part of that which the crop keeps.

    ``first`` is the first kept pixel, ``kept`` their number, ``padding`` the zeros before them; all in pixels.
    """

    length: int
    resized: int
    first: int
    kept: int
    padding: int

    @classmethod
    def of(cls, length: int, resized: int, crop: int) -> Axis:
        if resized < crop:
            return cls(length, resized, first=0, kept=resized, padding=(crop - resized) // 2)
        # As torchvision: halves are rounded to even.
        return cls(length, resized, first=round((resized - crop) / 2), kept=crop, padding=0)

    @property
    def scale(self) -> float:
        return self.length / self.resized
