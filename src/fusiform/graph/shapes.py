"""The entries of a network's state dict, with their shapes."""

from __future__ import annotations

from fusiform.spec import Architecture, ModelSpec
from fusiform.tables import (
    DEEPLAB_CHANNELS,
    MOBILENET_V2_BOTTLENECKS,
    SHUFFLENET_V2_CHANNELS,
    SHUFFLENET_V2_REPEATS,
    SSD_PRIORS_PER_CELL,
    mobilenet_v2_channels,
    ssd_extra_channels,
)

Shape = tuple[int, ...]


Shapes = dict[str, Shape]


def expected_shapes(
    architecture: Architecture, width: float, *, num_classes: int = 1000, input_channels: int = 3
) -> Shapes:
    """Every entry of torchvision's state dict for a network, in its order, with its shape."""
    if architecture == "mobilenet_v2":
        return _mobilenet_v2_shapes(width, num_classes, input_channels)
    return _shufflenet_v2_shapes(width, num_classes, input_channels)


def state_shapes(spec: ModelSpec) -> Shapes:
    """Every entry of the state dict of the network that ``spec`` describes, in its order, with its shape."""
    shapes = expected_shapes(
        spec.architecture, spec.width, num_classes=spec.num_classes, input_channels=spec.input_channels
    )
    if spec.task == "classification":
        return shapes
    mobilenet = spec.architecture == "mobilenet_v2"
    last = "features.18." if mobilenet else "conv5."
    left_out = ("classifier.", "fc.", *((last,) if spec.task == "segmentation" else ()))
    found = {f"backbone.{name}": shape for name, shape in shapes.items() if not name.startswith(left_out)}
    channels = shapes[f"{last}0.weight"]
    heads = _ssdlite_shapes(spec, channels[0]) if spec.task == "detection" else _deeplab_shapes(spec, channels[1])
    return found | heads


def _ssdlite_shapes(spec: ModelSpec, last: int) -> Shapes:
    mobilenet = spec.architecture == "mobilenet_v2"
    wide = 6 * mobilenet_v2_channels(spec.width)[1][4] if mobilenet else SHUFFLENET_V2_CHANNELS[spec.width][2]
    shapes: Shapes = {}
    maps = [wide, last]
    for k, (half, outputs) in enumerate(ssd_extra_channels(spec.width if mobilenet else 1.0)):
        shapes |= _conv(f"extras.{k}.0.0", half, maps[-1], 1) | _norm(f"extras.{k}.0.1", half)
        shapes |= _conv(f"extras.{k}.1.0", half, 1, 3) | _norm(f"extras.{k}.1.1", half)
        shapes |= _conv(f"extras.{k}.2.0", outputs, half, 1) | _norm(f"extras.{k}.2.1", outputs)
        maps.append(outputs)
    for layers, values in (("classes", spec.num_classes + 1), ("boxes", 4)):
        for k, (channels, priors) in enumerate(zip(maps, SSD_PRIORS_PER_CELL, strict=True)):
            shapes |= _conv(f"{layers}.{k}.0.0", channels, 1, 3) | _norm(f"{layers}.{k}.0.1", channels)
            shapes |= _conv(f"{layers}.{k}.1", priors * values, channels, 1)
            shapes |= {f"{layers}.{k}.1.bias": (priors * values,)}
    return shapes


def _deeplab_shapes(spec: ModelSpec, inputs: int) -> Shapes:
    width = DEEPLAB_CHANNELS
    shapes = _conv("pooling.0", width, inputs, 1) | _norm("pooling.1", width)
    branches = 4 if spec.aspp else 1
    for k in range(branches):
        shapes |= _conv(f"branches.{k}.0", width, inputs, 3 if k else 1) | _norm(f"branches.{k}.1", width)
    shapes |= _conv("projection.0", width, (1 + branches) * width, 1) | _norm("projection.1", width)
    return shapes | _conv("classifier", spec.num_classes, width, 1) | {"classifier.bias": (spec.num_classes,)}


def _mobilenet_v2_shapes(width: float, num_classes: int, input_channels: int) -> Shapes:
    stem, rows, last = mobilenet_v2_channels(width)
    shapes = _conv("features.0.0", stem, input_channels, 3) | _norm("features.0.1", stem)
    before, index = stem, 1
    for (expansion, _, repeats, _), after in zip(MOBILENET_V2_BOTTLENECKS, rows, strict=True):
        for _ in range(repeats):
            block, wide, layer = f"features.{index}.conv", expansion * before, 0
            if expansion != 1:
                shapes |= _conv(f"{block}.0.0", wide, before, 1) | _norm(f"{block}.0.1", wide)
                layer = 1
            shapes |= _conv(f"{block}.{layer}.0", wide, 1, 3) | _norm(f"{block}.{layer}.1", wide)
            shapes |= _conv(f"{block}.{layer + 1}", after, wide, 1) | _norm(f"{block}.{layer + 2}", after)
            before, index = after, index + 1
    shapes |= _conv(f"features.{index}.0", last, before, 1) | _norm(f"features.{index}.1", last)
    return shapes | {"classifier.1.weight": (num_classes, last), "classifier.1.bias": (num_classes,)}


def _shufflenet_v2_shapes(width: float, num_classes: int, input_channels: int) -> Shapes:
    before, *stages, last = SHUFFLENET_V2_CHANNELS[width]
    shapes = _conv("conv1.0", before, input_channels, 3) | _norm("conv1.1", before)
    for stage, repeats, channels in zip((2, 3, 4), SHUFFLENET_V2_REPEATS, stages, strict=True):
        half = channels // 2
        for unit in range(repeats):
            name = f"stage{stage}.{unit}"
            if unit == 0:  # the unit that halves the picture works on all channels, in both branches
                shapes |= _conv(f"{name}.branch1.0", before, 1, 3) | _norm(f"{name}.branch1.1", before)
                shapes |= _conv(f"{name}.branch1.2", half, before, 1) | _norm(f"{name}.branch1.3", half)
            shapes |= _conv(f"{name}.branch2.0", half, half if unit else before, 1) | _norm(f"{name}.branch2.1", half)
            shapes |= _conv(f"{name}.branch2.3", half, 1, 3) | _norm(f"{name}.branch2.4", half)
            shapes |= _conv(f"{name}.branch2.5", half, half, 1) | _norm(f"{name}.branch2.6", half)
        before = channels
    shapes |= _conv("conv5.0", last, before, 1) | _norm("conv5.1", last)
    return shapes | {"fc.weight": (num_classes, last), "fc.bias": (num_classes,)}


def _conv(name: str, outputs: int, inputs: int, kernel: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs, kernel, kernel)}


def _norm(name: str, channels: int) -> Shapes:
    vectors: Shapes = {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}
    return vectors | {f"{name}.num_batches_tracked": ()}
