"""A network layer by layer, without running it: what it costs to compute and to hold."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from fusiform.data.masks import VOC_CLASSES
from fusiform.errors import UsageError
from fusiform.graph.build import outline
from fusiform.graph.count import count_multiply_adds, count_parameters, node_parameters
from fusiform.graph.ir import Add, Conv, Gather, Graph, Linear, MaxPool, Mean, Node, Spread, Stack
from fusiform.graph.memory import arena_memory, formula_memory, held_by_resolution, peak_memory
from fusiform.graph.receptive_field import receptive_fields
from fusiform.graph.split import find_expansions, split_expansion
from fusiform.report import Cell, Report, Row
from fusiform.spec import Architecture, ModelSpec, Preprocess, parse_network_name
from fusiform.zoo.catalog import find_weights, imagenet_labels
from fusiform.zoo.model import open_model

BITS = (8, 16, 32)


def analyze(
    model: str | os.PathLike[str],
    *,
    size: int | None = None,
    classes: int | None = None,
    output_stride: int | None = None,
    aspp: bool = False,
    slices: int = 4,
    bits: int = 32,
) -> Report:
    """Analyse a network layer by layer without running it: parameters, multiply-adds, activations, receptive fields.

    All sizes are for one image, in bytes. ``peak_bytes`` is held by a runtime that keeps each tensor from the layer
    that makes it to the last that reads it (see ``peak_memory``), ``arena_bytes`` is what LiteRT plans for its own
    kernels (see ``arena_memory``), ``formula_bytes`` the formula of MobileNetV2's paper (Section 5.1); those with
    ``sliced`` in their names are with each of the ``expansions``, the inverted residuals, computed in ``slices``
    slices. ``held_bytes`` is the largest of the table ``resolutions``, the paper's Table 3 (see
    ``held_by_resolution``). ``multiply_adds_tensorflow`` is what dilated convolutions make of ``multiply_adds`` where
    they are computed as TensorFlow does (see ``nets.deeplab_v3``), which the paper's Table 7 counts.

    Args:
        model: A model file or the name of a network, at any width (``mobilenet_v2_x0_35``,
            ``ssdlite_mobilenet_v2_x1_0``, ``deeplab_v3_mobilenet_v2_x1_0``): nothing but its shapes matters, and
            nothing is downloaded.
        size: The image's side in pixels; None is the model's own, for the name of a network 224, for a detector 320,
            for a segmenter 513.
        classes: The number of classes, a detector's without the background; None is the model's own, for the name of
            a network ImageNet's 1000, COCO's 80, Pascal VOC's 21.
        output_stride: A segmenter's, 8 or 16; None is its own, 16 for a name.
        aspp: Give a segmenter atrous spatial pyramid pooling.
        slices: Slices of each expansion, for the peak of memory with them.
        bits: What a value of an activation takes: 8, 16 or 32.

    Returns:
        A report with the totals and a row for each layer.

    Raises:
        UsageError: For numbers out of their range and unknown names.
        SpecError: For a width, an output stride or ASPP that a network does not have.
        FusiformError: For a file that cannot be opened.

    Example:
        >>> import fusiform
        >>> figures = fusiform.analyze("mobilenet_v2_x1_0").figures
        >>> figures["parameters"], figures["multiply_adds"]
        (3504872, 300774272)

    """
    if bits not in BITS:
        raise UsageError(f"a value of an activation has 8, 16 or 32 bits, not {bits}")
    if slices < 1:
        raise UsageError(f"an expansion is computed in 1 slice or more, not in {slices}")
    spec = _spec(os.fspath(model))
    if size is not None:
        if size < 32:
            raise UsageError(f"the picture has at least 32 pixels a side, not {size}")
        resize = spec.preprocess.resize if spec.preprocess.fit == "crop" else size
        preprocess = dataclasses.replace(spec.preprocess, crop=size, resize=resize)
        spec = spec.replace(input_size=size, preprocess=preprocess)
    if classes is not None:
        if classes < 1:
            raise UsageError(f"there is at least 1 class, not {classes}")
        spec = spec.replace(labels=tuple(f"class {k}" for k in range(classes)), label_ids=(), certainty=None)
    spec = spec.replace(output_stride=output_stride or spec.output_stride, aspp=aspp or spec.aspp)
    graph = graph_of_zeros(spec)
    title = f"{spec.name} at {spec.input_size}x{spec.input_size}"
    held = held_by_resolution(graph, bytes_per_value=bits // 8)
    figures = {**_figures(graph, slices, bits // 8), "held_bytes": max(row.bytes for row in held)}
    resolutions: list[Row] = [
        {"resolution": (row.height, row.width), "channels": row.channels, "bytes": row.bytes} for row in held
    ]
    rows = tuple(_rows(graph, bits // 8))
    return Report(title, rows, figures, {"resolutions": resolutions}, "fusiform.analysis/1")


def graph_of_zeros(spec: ModelSpec) -> Graph:
    """The graph that a spec describes, for questions about its shapes: every weight is zero."""
    return outline(spec)


def _spec(name: str) -> ModelSpec:
    """The description of a file, or of what a name stands for, downloaded or not."""
    path = Path(name)
    if path.exists() or path.name != name:
        return open_model(name).spec
    for system in ("", "ssdlite_", "deeplab_v3_"):
        if name.startswith(system) and (network := parse_network_name(name.removeprefix(system))):
            return _named(system, *network)
    try:
        weights = find_weights(name)
    except UsageError:
        return open_model(name).spec  # says what else the name might have been
    return open_model(name).spec if weights.bundled else weights.spec()


def _named(system: str, architecture: Architecture, width: float) -> ModelSpec:
    """A network with the classes and the picture that its paper counts it with."""
    if system == "ssdlite_":
        preprocess = Preprocess(resize=320, crop=320, fit="stretch")
        labels = tuple(f"class {k}" for k in range(80))
        return ModelSpec(architecture, width, labels, task="detection", input_size=320, preprocess=preprocess)
    if system == "deeplab_v3_":
        preprocess = Preprocess(resize=513, crop=513, fit="pad")
        return ModelSpec(
            architecture,
            width,
            VOC_CLASSES,
            task="segmentation",
            input_size=513,
            output_stride=16,
            preprocess=preprocess,
        )
    return ModelSpec(architecture, width, imagenet_labels()[0])


def _figures(graph: Graph, slices: int, bytes_per_value: int) -> dict[str, Cell]:
    sliced = split_expansion(graph, slices)
    peak = peak_memory(graph, bytes_per_value=bytes_per_value)
    peak_sliced = peak_memory(sliced, bytes_per_value=bytes_per_value)
    formula = formula_memory(graph, bytes_per_value=bytes_per_value)
    formula_sliced = formula_memory(graph, slices=slices, bytes_per_value=bytes_per_value)
    return {
        "network": graph.spec.name,
        "task": graph.spec.task,
        "input_size": graph.spec.input_size,
        "classes": graph.spec.num_classes,
        "parameters": count_parameters(graph),
        "multiply_adds": count_multiply_adds(graph),
        "multiply_adds_tensorflow": _in_tensorflow(graph),
        "bits": 8 * bytes_per_value,
        "peak_bytes": peak.bytes,
        "peak_at": peak.node,
        "expansions": len(find_expansions(graph)),
        "slices": slices,
        "peak_sliced_bytes": peak_sliced.bytes,
        "peak_sliced_at": peak_sliced.node,
        "arena_bytes": arena_memory(graph, bytes_per_value=bytes_per_value),
        "arena_sliced_bytes": arena_memory(sliced, bytes_per_value=bytes_per_value),
        "formula_bytes": formula.bytes,
        "formula_sliced_bytes": formula_sliced.bytes,
    }


def _in_tensorflow(graph: Graph) -> int | None:
    """The multiply-adds with each map that is read at a rate cut into interleaved ones, padded to one size.

    None where no map is.
    """
    atrous = [node for node in graph.nodes if isinstance(node, Conv) and node.dilation > 1]
    if not atrous:
        return None
    more = 0
    for node in atrous:
        height, width, _ = graph.shapes[node.name]
        padded = [-(-side // node.dilation) * node.dilation for side in (height, width)]
        more += (padded[0] * padded[1] - height * width) * node.weight.size
    return count_multiply_adds(graph) + more


def _rows(graph: Graph, bytes_per_value: int) -> list[dict[str, Cell]]:
    fields = receptive_fields(graph)
    rows: list[dict[str, Cell]] = []
    for node in graph.nodes:
        height, width, channels = graph.shapes[node.name]
        operator, kernel, dilation, stride = _operator(node)
        weights = node.weight.size if isinstance(node, Conv | Linear) else 0
        rows.append(
            {
                "layer": node.name,
                "operator": operator,
                "kernel": kernel,
                "dilation": dilation,
                "stride": stride,
                "output_shape": (height, width, channels),
                "parameters": node_parameters(node),
                "multiply_adds": height * width * weights,
                "bytes": height * width * channels * bytes_per_value,
                "receptive_field": fields[node.name],
            }
        )
    return rows


def _operator(node: Node) -> tuple[str, tuple[int, int] | None, int | None, int | None]:
    """What a node does, its window, dilation and stride."""
    match node:
        case Conv():
            name = "depthwise conv" if node.depthwise else "conv"
            return name, (node.kernel, node.kernel), node.dilation, node.stride
        case MaxPool():
            return "max pool", (3, 3), 1, 2
        case Add():
            return "add", None, None, None
        case Gather():
            return "gather", None, None, None
        case Mean():
            return "mean", None, None, None
        case Linear():
            return "linear", None, None, None
        case Spread():
            return "spread", None, None, None
        case Stack():
            return "stack", None, None, None
        case _:
            return "center", None, None, None
