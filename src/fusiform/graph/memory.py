"""How much memory a network's activations take: the paper's formula, and tensor by tensor as a runtime runs it."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from fusiform.errors import UsageError
from fusiform.graph.ir import INPUT, Add, Conv, Graph, Mean, sources
from fusiform.graph.split import find_expansions


class Peak(NamedTuple):
    """The most memory that activations take, in bytes, and the node that is computed then."""

    bytes: int
    node: str


class Resolution(NamedTuple):
    """A line of the paper's Table 3: the most channels that have to be held at a size, and their bytes."""

    height: int
    width: int
    channels: int
    bytes: int


def peak_memory(graph: Graph, *, bytes_per_value: int = 4, separate_norms: bool = False) -> Peak:
    """The peak of ``live_memory``: the largest sum of the tensors that are held at one time, for one picture."""
    live = live_memory(graph, bytes_per_value=bytes_per_value, separate_norms=separate_norms)
    node = max(live, key=lambda name: live[name])
    return Peak(live[node], node)


def live_memory(graph: Graph, *, bytes_per_value: int = 4, separate_norms: bool = False) -> dict[str, int]:
    """The bytes of activations held while each node is computed, its inputs and its output among them.

    A tensor is held from the node that makes it until its last reader is done, the picture to the end, since it is
    the caller's. An activation works in place, as in every runtime that fuses it. With ``separate_norms`` each
    convolution's batch normalisation writes a tensor of its own while the convolution's is still there, as PyTorch
    does without a compiler. Weights and what a kernel needs for itself do not count.
    """
    size = {name: h * w * c * bytes_per_value for name, (h, w, c) in graph.shapes.items()}
    last = {name: node.name for node in graph.nodes for name in sources(node)}
    held = {INPUT}
    live = {}
    for node in graph.nodes:
        held.add(node.name)
        live[node.name] = sum(size[name] for name in held)
        if separate_norms and isinstance(node, Conv):
            live[node.name] += size[node.name]
        held -= {name for name in sources(node) if last[name] == node.name and name != INPUT}
    return live


ALIGNMENT = 64
"""Where tensors begin in LiteRT's arena."""


def arena_memory(graph: Graph, *, bytes_per_value: int = 4) -> int:
    """The bytes of one block of memory with a fixed place for each tensor, as LiteRT plans it for its own kernels.

    The picture, which lives throughout, comes first, then the largest tensors, each into the smallest gap that it fits
    while it lives (greedy by size: Pisarchyk and Lee, arXiv 2001.03288, Section 5); gaps may stay empty. A sum takes
    the place of the first of its terms that nobody else reads. The windows of a 3x3 convolution that is not depthwise
    are copied side by side. For the padding ``same``: other rules take operators of their own there. XNNPACK, which
    LiteRT uses where it may, plans in another way.
    """
    first = {INPUT: -1} | {node.name: k for k, node in enumerate(graph.nodes)}
    last = dict(first) | {name: k for k, node in enumerate(graph.nodes) for name in sources(node)}
    last |= dict.fromkeys((INPUT, *graph.outputs.values()), len(graph.nodes))
    size = {name: h * w * c * bytes_per_value for name, (h, w, c) in graph.shapes.items()}
    readers = Counter(name for node in graph.nodes for name in sources(node))
    home: dict[str, str] = {}
    for node in graph.nodes:
        if isinstance(node, Add):
            own = [name for name in (node.left, node.right) if readers[name] == 1 and name != INPUT]
            if own:
                home[node.name] = home.get(own[0], own[0])
                last[home[node.name]] = max(last[home[node.name]], last[node.name])
                del size[node.name]
    for node in graph.nodes:
        if isinstance(node, Conv) and node.kernel > 1 and not node.depthwise:
            height, width, _ = graph.shapes[node.name]
            windows = f"{node.name}/windows"
            size[windows] = height * width * node.weight[0].size * bytes_per_value
            first[windows] = last[windows] = first[node.name]
    placed: list[tuple[int, int, str]] = []  # start, end, name
    for name in sorted(size, key=lambda name: (name != INPUT, -size[name], first[name])):
        start, best, smallest = 0, None, None
        for begin, end, other in sorted(placed):
            if first[other] > last[name] or first[name] > last[other]:
                continue
            gap = begin - start
            if gap >= size[name] and (smallest is None or gap < smallest):
                best, smallest = start, gap
            start = max(start, -(-end // ALIGNMENT) * ALIGNMENT)
        start = start if best is None else best
        placed.append((start, start + size[name], name))
    return max(end for _, end, _ in placed)


def formula_memory(graph: Graph, *, slices: int = 1, bytes_per_value: int = 2) -> Peak:
    """The paper's M(G) (Section 5.1): over all operators the largest sum of inputs, outputs and inner storage.

    In one slice every convolution is an operator. In more, an inverted residual is one, its addition included; of its
    inner tensor one of the slices is stored, and the picture's own convolution belongs to the first. The paper's
    activations have 16 bits. Unlike ``peak_memory`` it knows nothing of tensors that wait for a later reader, of the
    depthwise convolution's output, or of the partial sum. Raises UsageError for less than one slice.
    """
    if slices < 1:
        raise UsageError(f"an expansion is computed in 1 slice or more, not in {slices}")
    size = {name: h * w * c * bytes_per_value for name, (h, w, c) in graph.shapes.items()}
    memory = {node.name: size[node.name] + sum(size[name] for name in sources(node)) for node in graph.nodes}
    if slices > 1:
        shortcuts = {node.right: node for node in graph.nodes if isinstance(node, Add)}
        for expand, depthwise, project in find_expansions(graph):
            del memory[expand.name], memory[depthwise.name]
            inner = -(-graph.shapes[expand.name][2] // slices) * size[expand.name] // graph.shapes[expand.name][2]
            memory[project.name] = size[expand.source] + inner + size[project.name]
            add = shortcuts.get(project.name)
            if add is not None and add.left == expand.source:
                del memory[add.name]
    node = max(memory, key=lambda name: memory[name])
    return Peak(memory[node], node)


def held_by_resolution(graph: Graph, *, bytes_per_value: int = 2) -> tuple[Resolution, ...]:
    """The paper's Table 3: for every size the tensor of most channels that cannot be computed slice by slice.

    Not held are the picture, what lies inside an inverted residual, and what global pooling alone reads. The largest
    of MobileNetV2 1.0 at 224 is 112x112x16, the 400 KB that the paper reports with 16-bit activations. Its rows for
    56, 28 and 14 (32, 64 and 160 channels) are of the layers after these: Table 2 has 24, 32 and 96 there.
    """
    skipped = {INPUT}
    for expand, depthwise, _ in find_expansions(graph):
        skipped |= {expand.name, depthwise.name}
    skipped |= {node.source for node in graph.nodes if isinstance(node, Mean)}
    most: dict[tuple[int, int], int] = {}
    for name, (height, width, channels) in graph.shapes.items():
        if name not in skipped and name not in graph.outputs.values():
            most[height, width] = max(channels, most.get((height, width), 0))
    return tuple(
        Resolution(height, width, channels, height * width * channels * bytes_per_value)
        for (height, width), channels in sorted(most.items(), reverse=True)
    )
