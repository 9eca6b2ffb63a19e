"""Networks and pictures for the tests of the native engine."""

from __future__ import annotations

import dataclasses

import numpy as np

from fusiform.graph.build import build_graph
from fusiform.graph.builder import POOL
from fusiform.graph.ir import INPUT, Add, Conv, Gather, Graph, Linear, MaxPool, Mean, Quantization, Scale
from fusiform.graph.tflite import to_tflite


def int8_graph(graph: Graph, seed: int = 0) -> Graph:
    """Random weights with such scales that activations use their range and reach its ends, and any zero points."""
    random = np.random.default_rng(seed)
    one_scale = graph.spec.architecture == "shufflenet_v2"  # pieces that are gathered share theirs
    activations = {INPUT: Scale(1.0, -14)}
    for node in graph.nodes:
        if isinstance(node, Mean | Linear):
            continue
        free = not one_scale or (isinstance(node, Conv) and node.depthwise)
        scale, zero = (random.uniform(0.01, 0.04), int(random.integers(-128, 40))) if free else (0.02, -128)
        activations[node.name] = Scale(float(np.float32(scale)), zero)
    nodes, scales = [], {}
    for node in graph.nodes:
        if isinstance(node, Conv | Linear):
            weight = random.integers(-127, 128, node.weight.shape).astype(np.int8)
            inputs = int(np.prod(weight.shape[1:]))
            if isinstance(node, Conv):
                step = activations[node.name].scale / activations[node.source].scale
                bias = random.integers(-9000, 9000, len(node.bias)).astype(np.int32)
                node = dataclasses.replace(node, weight=weight, bias=bias)
            else:
                step, node = 1.0, dataclasses.replace(node, weight=weight)
            spread = random.uniform(0.3, 3, len(weight)) * step * 50 / (73 * 60 * np.sqrt(inputs))
            scales[node.name] = spread.astype(np.float32)
        nodes.append(node)
    return Graph(graph.spec, tuple(nodes), Quantization(activations, scales))


def int8_file(spec, lived_in_state, seed=0):
    return to_tflite(int8_graph(build_graph(spec, lived_in_state(spec)), seed))


def pictures(size, count=3, seed=0):
    """Noise, soft blobs and stripes: small and large values at every place."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, -(-size // 8), -(-size // 8), 3), dtype=np.uint8)
    soft = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :size, :size]
    noise = random.integers(-20, 21, soft.shape)
    return np.clip(soft + noise, 0, 255).astype(np.uint8)


def random_graph(spec, seed=0):
    """Layers of any shapes that the library has, with odd numbers of channels: no network, but a chain of them all."""
    random = np.random.default_rng(seed)
    one_scale = spec.architecture == "shufflenet_v2"
    nodes, maps = [], {INPUT: (3, spec.input_size)}

    def conv(source, channels, *, kernel=1, stride=1, depthwise=False):
        inputs, side = maps[source]
        weight = np.zeros((channels, 1 if depthwise else inputs, kernel, kernel), np.float32)
        node = Conv(f"layer {len(nodes)}", "", source, weight, np.zeros(channels, np.float32), stride)
        padding = str(random.choice(["same", "symmetric"]))
        activation = random.choice([None, "relu", "relu6"])
        groups = channels if depthwise else 1
        node = dataclasses.replace(node, padding=padding, activation=activation, groups=groups)
        return add(node, channels, -(-side // stride))

    def add(node, channels, side):
        nodes.append(node)
        maps[node.name] = channels, side
        return node.name

    x = conv(INPUT, int(random.integers(2, 70)), kernel=3, stride=int(random.integers(1, 3)))
    plain = [x]  # those whose scale is everybody's
    for _ in range(int(random.integers(8, 16))):
        channels, side = maps[x]
        kind = random.choice(["pointwise", "depthwise", "block", "pool", "gather"])
        if kind in ("pointwise", "block"):
            x = conv(x, int(random.integers(2, 150)))
            plain.append(x)
        if kind in ("depthwise", "block"):
            x = conv(x, maps[x][0], kernel=3, stride=int(random.integers(1, 3)), depthwise=True)
        if kind == "block":
            x = conv(x, channels)
            plain.append(x)
            if maps[x][1] == side and not one_scale:
                source = nodes[-3].source
                x = add(Add(f"layer {len(nodes)}", *random.permutation([source, x]).tolist()), channels, side)
        if kind == "pool" and one_scale and x in plain and side > 1:
            x = add(MaxPool(f"layer {len(nodes)}", x), channels, (side + 1) // 2)
            plain.append(x)
        if kind == "gather" and one_scale:
            alike = [name for name in plain if maps[name][1] == maps[x][1]]
            pieces = []
            for name in random.choice(alike, min(len(alike), 3), replace=False).tolist():
                first, end = np.sort(random.choice(maps[name][0] + 1, 2, replace=False)).tolist()
                pieces.append((name, first, end))
            if len(pieces) > 1:
                count = sum(end - first for _, first, end in pieces)
                x = add(Gather(f"layer {len(nodes)}", tuple(pieces)), count, maps[x][1])
                plain.append(x)
    x = conv(x, spec.num_features)
    classes, channels = len(spec.labels), spec.num_features
    nodes += [Mean(POOL, x), Linear("last", POOL, np.zeros((classes, channels), np.float32), np.zeros(classes))]
    return Graph(spec, tuple(nodes))
