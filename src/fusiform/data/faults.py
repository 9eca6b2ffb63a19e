"""What can be wrong with a dataset's files and annotations: each kind of fault, declared once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fusiform.data.dataset import Split
from fusiform.errors import ImageFault

Severity = Literal["error", "warning", "note"]

FileFault = Literal[
    ImageFault,
    "wrong extension",
    "damaged inside",
    "tiny",
    "enormous",
    "long and narrow",
    "blank",
    "dark",
    "overexposed",
    "blurred",
    "little to see",
    "several frames",
    "orientation",
    "damaged EXIF",
    "CMYK",
    "16-bit",
    "few bits",
    "transparency",
    "palette",
    "colour profile",
    "picture of another size",
    "mask of nothing",
    "RGB mask",
]
"""What one file shows, a picture or a mask, without the others."""

ReadingFault = Literal[
    "damaged entry",
    "damaged annotation",
    "missing picture",
    "missing annotation",
    "missing mask",
    "pictures not used",
    "unknown picture",
    "unknown category",
    "unknown class",
    "box of no area",
    "box outside",
    "box reaching out",
    "box of a pixel",
]
"""What reading annotations shows, no picture opened."""


@dataclass(frozen=True)
class Fault:
    """One thing about a file: its ``kind``, and a ``message`` that says what to do."""

    kind: FileFault
    severity: Severity
    message: str


@dataclass(frozen=True)
class AnnotationFault:
    """One thing that is wrong with annotations: its ``kind``, and a ``message`` that says what to do.

    ``file`` is the picture that it is about, or else the annotations' own file. ``edges`` are a box's left, top, right
    and bottom in pixels as they are written, ``class_name`` what it is said to show.
    """

    kind: ReadingFault
    severity: Severity
    message: str
    file: Path
    split: Split | None = None
    class_name: str | None = None
    edges: tuple[float, float, float, float] | None = None
