"""A classifier's, a detector's and a segmenter's last layers as a graph."""

from __future__ import annotations

from collections.abc import Callable

from fusiform.graph.backbones import BACKBONES
from fusiform.graph.builder import Builder, FeatureMap
from fusiform.graph.ir import Gather, Mean, Spread, Stack
from fusiform.spec import Task
from fusiform.tables import DEEPLAB_ASPP_RATES, DEEPLAB_CHANNELS, SSD_PRIORS_PER_CELL, TRAITS, ssd_extra_channels


def build_nodes(build: Builder) -> None:
    """Add all nodes of the network that the builder's spec describes."""
    HEADS[build.spec.task](build)


def classifier(build: Builder) -> None:
    """The mean over the last feature map, and one linear layer."""
    features = BACKBONES[build.spec.architecture](build)
    build.classifier(features["last"].name, TRAITS[build.spec.architecture].classifier)


def ssdlite(build: Builder) -> None:
    """SSDLite's extra maps and predictions, as ``nets.ssdlite`` has them."""
    spec = build.spec
    features = BACKBONES[spec.architecture](build)
    build.prefix = ""
    traits = TRAITS[spec.architecture]
    maps = [features[traits.detection_map], features["last"]]
    for k, (half, outputs) in enumerate(ssd_extra_channels(traits.head_width(spec.width))):
        at = f"extras.{k}"
        x = build.conv(maps[-1].name, f"{at}.0.0", f"{at}.0.1", half, activation="relu6")
        x = build.conv(x, f"{at}.1.0", f"{at}.1.1", half, stride=2, depthwise=True, activation="relu6")
        maps.append(FeatureMap(build.conv(x, f"{at}.2.0", f"{at}.2.1", outputs, activation="relu6")))
    for layers, answer, values in (("classes", "logits", spec.num_classes + 1), ("boxes", "codes", 4)):
        predictions = []
        for k, (source, priors) in enumerate(zip(maps, SSD_PRIORS_PER_CELL, strict=True)):
            at, channels = f"{layers}.{k}", build.channels[source.name]
            x = build.conv(
                source.name,
                f"{at}.0.0",
                f"{at}.0.1",
                channels,
                depthwise=True,
                activation="relu6",
                out_order=source.order,
            )
            predictions.append(build.conv(x, f"{at}.1", "", priors * values, activation=None, in_order=source.order))
        build.add(Stack(answer, tuple(predictions), values), values)


def deeplab_v3(build: Builder) -> None:
    """DeepLabv3's head, as ``nets.deeplab_v3`` has it; its logits are those before they are resized."""
    spec = build.spec
    source, order = BACKBONES[spec.architecture](build)["stride_32"]
    build.prefix = ""
    cells = spec.network_answers["logits"][0]
    pooled = build.add(Mean("pool", source, as_map=True), build.channels[source])
    pooled = build.conv(pooled, "pooling.0", "pooling.1", DEEPLAB_CHANNELS, activation="relu", in_order=order)
    parts = [build.add(Spread("spread", pooled, cells, cells), DEEPLAB_CHANNELS)]
    for k, rate in enumerate((1, *(DEEPLAB_ASPP_RATES[spec.output_stride] if spec.aspp else ()))):
        kernel = 1 if k == 0 else 3
        at = f"branches.{k}"
        x = build.conv(
            source,
            f"{at}.0",
            f"{at}.1",
            DEEPLAB_CHANNELS,
            kernel=kernel,
            dilation=rate,
            activation="relu",
            in_order=order,
        )
        parts.append(x)
    pieces = tuple((name, 0, DEEPLAB_CHANNELS) for name in parts)
    x = build.add(Gather("branches", pieces), len(pieces) * DEEPLAB_CHANNELS)
    x = build.conv(x, "projection.0", "projection.1", DEEPLAB_CHANNELS, activation="relu")
    build.conv(x, "classifier", "", spec.num_classes, activation=None)


HEADS: dict[Task, Callable[[Builder], None]] = {
    "classification": classifier,
    "detection": ssdlite,
    "segmentation": deeplab_v3,
}
