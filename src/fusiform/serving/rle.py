"""Run lengths of masks as COCO's tools write them (https://github.com/cocodataset/cocoapi, maskApi.c)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_PIECES = 7
"""So many pieces of 5 bits hold any difference of two counts of 32 bits."""


def encode(mask: NDArray[np.bool_]) -> dict[str, object]:
    """A mask (H, W) as ``size`` [H, W] and ``counts``, COCO's compressed text.

    The counts are of pixels in turns outside and inside, column by column.
    """
    pixels = mask.ravel(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    ends = np.concatenate((changes, [pixels.size]))
    counts = np.diff(ends, prepend=0)
    if pixels[0]:
        counts = np.concatenate(([0], counts))
    return {"size": list(mask.shape), "counts": _text(counts.astype(np.int64))}


def _text(counts: NDArray[np.int64]) -> str:
    """COCO's rleToString: from the fourth count on the difference to the one before last, 5 bits a letter from "0"."""
    rest = counts.copy()
    rest[3:] -= counts[1:-2]
    letters = np.zeros((len(rest), _PIECES), np.uint8)
    open_ = np.ones(len(rest), bool)
    for k in range(_PIECES):
        low = rest & 0x1F
        rest = rest >> 5
        more = open_ & np.where(low & 0x10, rest != -1, rest != 0)
        letters[open_, k] = (low[open_] | np.where(more[open_], 0x20, 0)) + 48
        open_ = more
    return letters[letters > 0].tobytes().decode("ascii")
