"""MobileNetV2 as a graph (arXiv 1801.04381)."""

from __future__ import annotations

from fusiform.graph.builder import Builder, FeatureMap
from fusiform.graph.ir import INPUT, Add
from fusiform.tables import MOBILENET_V2_BOTTLENECKS, mobilenet_v2_channels, trade_strides


def mobilenet_v2(build: Builder) -> dict[str, FeatureMap]:
    """Table 2 of arXiv 1801.04381; the maps are called as in ``nets.mobilenet_v2``.

    Without the last convolution for a segmenter, which does not read it.
    """
    spec = build.spec
    stem, rows, last = mobilenet_v2_channels(spec.width)
    strides = [s if i == 0 else 1 for _, _, n, s in MOBILENET_V2_BOTTLENECKS for i in range(n)]
    steps = iter(trade_strides(strides, 2, spec.output_stride))
    maps: dict[str, FeatureMap] = {}
    x = build.conv(INPUT, "features.0.0", "features.0.1", stem, kernel=3, stride=2, activation="relu6")
    block = 0
    for (expansion, _, repeats, first_stride), narrow in zip(MOBILENET_V2_BOTTLENECKS, rows, strict=True):
        for repeat in range(repeats):
            block += 1
            stride, dilation = next(steps)
            source, at, layer = x, f"features.{block}.conv", 0
            wide = expansion * build.channels[source]
            if expansion != 1:
                x = build.conv(x, f"{at}.0.0", f"{at}.0.1", wide, activation="relu6")
                layer = 1
            if block == _EXPANSION_13:
                maps["expansion_13"] = FeatureMap(x)
            x = build.conv(
                x,
                f"{at}.{layer}.0",
                f"{at}.{layer}.1",
                wide,
                stride=stride,
                dilation=dilation,
                depthwise=True,
                activation="relu6",
            )
            x = build.conv(x, f"{at}.{layer + 1}", f"{at}.{layer + 2}", narrow, activation=None)
            # By the table's stride: a block that gave up its stride has not learned to work with a shortcut.
            if (repeat or first_stride == 1) and build.channels[source] == narrow:
                x = build.add(Add(f"{build.prefix}features.{block}", source, x), narrow)
    maps["stride_32"] = FeatureMap(x)
    if spec.task != "segmentation":
        x = build.conv(x, f"features.{block + 1}.0", f"features.{block + 1}.1", last, activation="relu6")
        maps["last"] = FeatureMap(x)
    return maps


_EXPANSION_13 = 14
"""The block whose expansion SSDLite reads: the last at stride 16, counted from 1; TensorFlow counts from 0."""
