"""MobileNetV2's layers in a foreign file."""

from __future__ import annotations

from collections.abc import Sequence

from fusiform.porting.matcher import Matcher
from fusiform.porting.tracer import Layer, Numbers
from fusiform.tables import MOBILENET_V2_BOTTLENECKS


def resembles(layers: Sequence[Layer]) -> bool:
    """Whether a network of these layers is to be compared with this one, which has no max pooling."""
    return not any(layer.kind == "maximum" for layer in layers)


def match(net: Matcher) -> Numbers:
    """Table 2 of arXiv 1801.04381."""
    stem = net.conv(net.input, "features.0.0", kernel=3, stride=2, activation="relu6")
    x = net.write(stem, net.input, "features.0.0", "features.0.1")
    block = 0
    for expansion, _, repeats, first_stride in MOBILENET_V2_BOTTLENECKS:
        for repeat in range(repeats):
            block += 1
            stride = first_stride if repeat == 0 else 1
            y, at, layer = x, f"features.{block}.conv", 0
            if expansion != 1:
                expand = net.conv(y, f"{at}.0.0", activation="relu6")
                y, layer = net.write(expand, y, f"{at}.0.0", f"{at}.0.1"), 1
            name = f"{at}.{layer}.0"
            depthwise = net.conv(y, name, kernel=3, stride=stride, depthwise=True, activation="relu6")
            y = net.write(depthwise, y, name, f"{at}.{layer}.1")
            project = net.conv(y, f"{at}.{layer + 1}", activation=None)
            y = net.write(project, y, f"{at}.{layer + 1}", f"{at}.{layer + 2}")
            x = net.add(x, y, f"features.{block}") if stride == 1 and len(x) == len(y) else y
    name = f"features.{block + 1}"
    x = net.write(net.conv(x, f"{name}.0", activation="relu6"), x, f"{name}.0", f"{name}.1")
    return net.classifier(x, "classifier.1")
