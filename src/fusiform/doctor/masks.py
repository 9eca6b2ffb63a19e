"""What is wrong with a picture's mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusiform.data.annotated import AnnotatedSample
from fusiform.data.faults import Fault
from fusiform.data.masks import IGNORE
from fusiform.errors import ImageError
from fusiform.report import printable


@dataclass(frozen=True)
class CheckedMask:
    """What ``check_mask`` found: the faults, and how many pixels each label has, None where the mask is not usable."""

    faults: tuple[Fault, ...]
    pixels: NDArray[np.int64] | None = None


def check_mask(sample: AnnotatedSample, size: tuple[int, int], classes: Sequence[str]) -> CheckedMask:
    """Read the mask of a picture of ``size`` (width, height in pixels); whatever it is, nothing is raised.

    Errors are masks that cannot be learned from, warnings what probably harms, notes what only happens to work.
    """
    file = sample.mask_file or sample.file
    try:
        labels = sample.read_labels(size, classes=len(classes))
    except ImageError as error:
        message = str(error).removeprefix(f"{printable(str(file))}: ")
        return CheckedMask((Fault(error.kind, "error", f"{file.name}: {message}"),))
    pixels: NDArray[Any] = np.bincount(labels.ravel(), minlength=IGNORE + 1)
    faults = []
    if pixels[IGNORE] == labels.size:
        text = f"{file.name}: is {IGNORE}, to be ignored, everywhere, so that nothing is learned: draw it, or remove it"
        faults.append(Fault("mask of nothing", "warning", text))
    colour_type = 0
    if sample.mask_file is not None:
        with file.open("rb") as stream:
            colour_type = stream.read(26)[25]
    if colour_type in (2, 6):  # RGB, RGBA (ISO/IEC 15948, 11.2.2)
        text = (
            f"{file.name}: is RGB in VOC's colours, which is read: other tools want the labels in a grey or palette PNG"
        )
        faults.append(Fault("RGB mask", "note", text))
    return CheckedMask(tuple(faults), pixels[: len(classes)])
