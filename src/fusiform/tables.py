"""The papers' tables and what sets the architectures apart, without any framework.

The PyTorch networks (``modules/``) and the framework-free graphs (``graph/``) are both built from these numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

# MobileNetV2, Table 2 (arXiv 1801.04381): expansion t, output channels c, repeats n, stride s of the first repeat.
MOBILENET_V2_STEM = 32
MOBILENET_V2_BOTTLENECKS = (
    # t, c, n, s
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
MOBILENET_V2_LAST = 1280
MOBILENET_V2_WIDTHS = (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)

# ShuffleNetV2, Table 5 (arXiv 1807.11164): repeats of stages 2 to 4; output channels of
# conv1, stage 2, stage 3, stage 4 and conv5 for each width.
SHUFFLENET_V2_REPEATS = (4, 8, 4)
SHUFFLENET_V2_CHANNELS = {
    0.5: (24, 48, 96, 192, 1024),
    1.0: (24, 116, 232, 464, 1024),
    1.5: (24, 176, 352, 704, 1024),
    2.0: (24, 244, 488, 976, 2048),
}


@dataclass(frozen=True)
class Traits:
    """What sets an architecture apart for all that serves any: heads, weight files, training, the search.

    Names are those of the state dict, without ``.weight``: ``stem`` is the first convolution, by which a state is
    recognised, ``last`` what begins the names of the last 1x1 convolution and its normalisation, which segmenters
    leave out, and ``classifier`` the linear layer. ``detection_map`` is the feature map that SSDLite reads first, the
    widest at stride 16; the other two that heads read have one name everywhere, ``stride_32`` (DeepLabv3) and
    ``last`` (classifier and SSDLite).

    ``widths`` are the published ones, in ascending order; only with ``any_width`` can others be built, and layers
    then only grow with the width. ``scales_heads`` says that the width also multiplies SSDLite's extra layers.
    """

    title: str
    stem: str
    last: str
    classifier: str
    detection_map: str
    widths: tuple[float, ...]
    any_width: bool = False
    scales_heads: bool = False

    def head_width(self, width: float) -> float:
        """What SSDLite's extra layers are multiplied by, for a backbone of ``width``."""
        return width if self.scales_heads else 1.0


TRAITS: dict[str, Traits] = {
    "mobilenet_v2": Traits(
        title="MobileNetV2",
        stem="features.0.0",
        last="features.18",
        classifier="classifier.1",
        detection_map="expansion_13",
        widths=MOBILENET_V2_WIDTHS,
        any_width=True,
        scales_heads=True,
    ),
    "shufflenet_v2": Traits(
        title="ShuffleNetV2",
        stem="conv1.0",
        last="conv5",
        classifier="fc",
        detection_map="stride_16",
        widths=tuple(SHUFFLENET_V2_CHANNELS),
    ),
}
"""The architectures there are, by their names in specs and commands."""

# SSDLite (arXiv 1801.04381, Section 6.2): the pixels from cell to cell and the priors of a cell in each of the six
# maps, and the channels of the last four. The first map has fewer priors because it has the most cells.
SSD_STRIDES = (16, 32, 64, 128, 256, 512)
SSD_PRIORS_PER_CELL = (3, 6, 6, 6, 6, 6)
SSD_EXTRA_CHANNELS = (512, 256, 256, 128)
SSD_SMALLEST_DEPTH = 16  # the implementation's min_depth: no extra layer gets narrower, whatever the width

# DeepLabv3 (arXiv 1706.05587, Section 3.3): the channels of the head, and the rates of the atrous branches by output
# stride, the same pixels of the picture at either.
DEEPLAB_CHANNELS = 256
DEEPLAB_ASPP_RATES = {16: (6, 12, 18), 8: (12, 24, 36)}


def round_channels(channels: float, divisor: int = 8) -> int:
    """The multiple of ``divisor`` nearest to ``channels``, never more than 10 % below it nor below ``divisor``."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def mobilenet_v2_channels(width: float) -> tuple[int, tuple[int, ...], int]:
    """Channels of the stem, of each row of Table 2 and of the last 1x1 convolution at ``width``.

    The last layer grows only above width 1.0 (Section 4, trade-off hyper parameters).
    """
    stem = round_channels(MOBILENET_V2_STEM * width)
    rows = tuple(round_channels(c * width) for _, c, _, _ in MOBILENET_V2_BOTTLENECKS)
    return stem, rows, round_channels(MOBILENET_V2_LAST * max(1.0, width))


def num_features(architecture: str, width: float) -> int:
    """The channels of the last map, which a classifier averages before its last layer."""
    return _LAST_CHANNELS[architecture](width)


_LAST_CHANNELS: dict[str, Callable[[float], int]] = {
    "mobilenet_v2": lambda width: mobilenet_v2_channels(width)[2],
    "shufflenet_v2": lambda width: SHUFFLENET_V2_CHANNELS[width][-1],
}


def trade_strides(strides: Iterable[int], reached: int, output_stride: int) -> list[tuple[int, int]]:
    """The (stride, dilation) of each block once strides beyond ``output_stride`` have become dilation.

    ``strides`` are the table's, block by block, and ``reached`` the stride in front of the first. A block that gives
    up its stride looks at the pixels it looked at before, at more places; only the blocks after it have a denser
    input and must spread their 3x3 windows to see the same pixels (DeepLabv3, arXiv 1706.05587, Section 3.1).
    """
    blocks = []
    dilation = 1
    for stride in strides:
        if reached * stride > output_stride:
            blocks.append((1, dilation))
            dilation *= stride
        else:
            blocks.append((stride, dilation))
            reached *= stride
    return blocks


def ssd_map_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """The (rows, columns) of SSDLite's maps for pictures of ``height`` x ``width`` pixels, with either padding."""
    return [(math.ceil(height / stride), math.ceil(width / stride)) for stride in SSD_STRIDES]


def ssd_priors(input_size: int) -> int:
    """The number of priors for a square input in pixels: 2,034 for 320."""
    maps = zip(ssd_map_sizes(input_size, input_size), SSD_PRIORS_PER_CELL, strict=True)
    return sum(rows * columns * priors for (rows, columns), priors in maps)


def ssd_extra_channels(width: float) -> list[tuple[int, int]]:
    """For each of SSDLite's four extra maps, the channels of its narrow 1x1 convolution and of the map itself."""

    def depth(channels: float) -> int:
        return max(SSD_SMALLEST_DEPTH, round_channels(channels))

    return [(depth(channels / 2 * width), depth(channels * width)) for channels in SSD_EXTRA_CHANNELS]
