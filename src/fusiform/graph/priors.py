"""SSD's priors, and the numbers by which a detector's answers become boxes.

They lie here because files that decode boxes themselves are written with them; ``tasks.detection`` does the same in
numpy, and has the sources.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusiform.spec import DECODED_BOXES
from fusiform.tables import SSD_STRIDES, ssd_map_sizes

MIN_SCALE, MAX_SCALE = 0.2, 0.95
ASPECT_RATIOS = (1.0, 2.0, 1 / 2, 3.0, 1 / 3)
"""Width over height. TensorFlow's configuration rounds the last to 0.3333."""
CODE_SCALES = (10.0, 10.0, 5.0, 5.0)
"""Factors of the codes of x, y, width and height: SSD divides by variances of 0.1 and 0.2 instead."""

SCORE_THRESHOLD = 0.3
"""For people to look at; average precision wants every box above ``EVALUATED_SCORE``."""
EVALUATED_SCORE = 0.001
IOU_THRESHOLD = 0.6
MAX_BOXES = DECODED_BOXES
"""Files that decode boxes themselves have ``EVALUATED_SCORE``, ``IOU_THRESHOLD`` and ``MAX_BOXES`` inside: what is
evaluated is what the network alone would be, and programs that show boxes have a threshold of their own."""

LARGEST_EXPONENT = math.log(1000 / 16)
"""Where torchvision stops too: 62 times as wide as its prior, a box covers any picture, and nothing overflows."""


@lru_cache(maxsize=8)
def prior_boxes(input_size: int = 320) -> NDArray[np.float64]:
    """The priors (priors, 4) for a square input in pixels, in units of the input; 2,034 of them for 320.

    In the order of the network's answers: map by map, row by row, cell by cell, and within a cell as
    ``ssd_anchor_generator`` lists them. They are not clipped, as there. The array is shared and cannot be written to.
    """
    priors = []
    for level, (cells, _) in enumerate(ssd_map_sizes(input_size, input_size)):
        middles = (np.arange(cells) + 0.5) / cells
        y, x = (axis.ravel()[:, None] for axis in np.meshgrid(middles, middles, indexing="ij"))
        width, height = _prior_shapes(level)
        edges = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        priors.append(np.stack(edges, axis=-1).reshape(-1, 4))
    found = np.concatenate(priors)
    found.flags.writeable = False
    return found


def _prior_shapes(level: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Widths and heights of the priors of each cell of a map."""
    steps = len(SSD_STRIDES) - 1
    scales = [MIN_SCALE + (MAX_SCALE - MIN_SCALE) * k / steps for k in range(len(SSD_STRIDES))] + [1.0]
    scale = scales[level]
    if level == 0:  # reduce_boxes_in_lowest_layer: one small square for the small objects, and two oblongs
        shapes = [(0.1, 1.0), (scale, 2.0), (scale, 1 / 2)]
    else:
        # Beside the ratios one more square, half way to the next map's scale.
        shapes = [*((scale, ratio) for ratio in ASPECT_RATIOS), (math.sqrt(scale * scales[level + 1]), 1.0)]
    sizes, ratios = np.array(shapes).T
    return sizes * np.sqrt(ratios), sizes / np.sqrt(ratios)


class Decoding(NamedTuple):
    """What makes boxes of codes (1, priors, 4), as float32 (1, priors, 2) of x and y, in units of the input.

    The middle is ``steps`` times the first two codes, plus ``middles``; half the sides are ``halves`` times the
    exponential of the last two, which are at most ``LARGEST_EXPONENT``, each divided by ``CODE_SCALES``.
    """

    middles: NDArray[np.float32]
    steps: NDArray[np.float32]
    halves: NDArray[np.float32]


def box_decoding(input_size: int) -> Decoding:
    """The numbers of ``tasks.detection.decode_boxes``, for files that decode boxes themselves."""
    low, high = np.split(prior_boxes(input_size)[None], 2, axis=-1)
    sides = high - low
    numbers = ((low + high) / 2, sides / CODE_SCALES[:2], sides / 2)
    return Decoding(*(values.astype(np.float32) for values in numbers))
