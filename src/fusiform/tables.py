"""The two papers' tables: what a width means in channels, without any framework.

The PyTorch networks (``nets/``) and the framework-free graphs (``graph/``) are both built from these numbers.
"""

from __future__ import annotations

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
