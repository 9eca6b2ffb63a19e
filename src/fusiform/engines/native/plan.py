"""Which layers run together, and where everything lies in memory: decided once a file, before the library computes."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fusiform.engines.native.layers import (
    ADD,
    DEPTHWISE,
    GATHER,
    MAXPOOL,
    POINTWISE,
    Layer,
    OtherNetworkError,
    Piece,
)

_LINE, _SLACK = 64, 64
"""Bytes: a line of the cache, where each buffer begins, and what vectors may read and write behind it."""
_TILE = 128 << 10
"""Bytes of expanded rows at a time: they stay in the cache until the projection has read them."""
_MOST_MEMORY = 1 << 30


class Plan(NamedTuple):
    """The bytes that a network needs beside its weights, and where in them each buffer begins."""

    size: int
    buffers: Mapping[str, int]
    widest: int
    """Bytes of the widest pixel."""


def plan(layers: Sequence[Layer], pieces: Sequence[Piece]) -> Plan:
    """Say in each layer, as ``check_layers`` leaves it, what runs together with it, and where its map begins.

    Raises OtherNetworkError for a network that needs too much memory.
    """
    _join(layers, pieces)
    expanded = between = row = 0
    sizes = []
    for layer in layers[1:-1]:
        if layer.within:
            continue
        source, end = layers[layer.source], layers[layer.add or layer.project] if layer.project else layer
        if layer.kind == MAXPOOL:
            expanded = max(expanded, _row(source) + 2 * source.step)
        if layer.expand:
            expanded = max(expanded, (layer.rows * layer.stride + 2) * _row(source))
        between = max(between, layer.rows * _row(layer))
        row = max(row, _row(source), _row(layer))
        sizes.append((end, end.height * _row(end)))
    at = _LINE  # 0 is none
    for layer, size in sizes:
        layer.map = at
        at = _behind(at, size)
    widest = max(layer.step for layer in layers)
    needed = {"picture": 3 * (layers[0].width + 2) * (layers[0].height + 2), "expanded": expanded, "between": between}
    needed |= {"spare": row, "pads": row, "quantized": widest, "means": 4 * widest}
    buffers = {}
    for name, size in needed.items():
        buffers[name] = at
        at = _behind(at, size)
    if at > _MOST_MEMORY:
        raise OtherNetworkError("needs more than a gigabyte of memory")
    return Plan(at, buffers, widest)


class Network(ctypes.Structure):
    """``struct fusiform_network`` of native.h: layers and pieces in memory of their own."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("layer", "piece", "nearby", "window")),
        *((name, ctypes.c_void_p) for name in ("picture", "expanded", "between", "spare", "pads", "quantized")),
        ("means", ctypes.c_void_p),
        *((name, ctypes.c_int32) for name in ("layers", "kernels", "picture_step")),
    )

    def __init__(
        self, layers: Sequence[Layer] | ctypes.Array[Layer], pieces: Sequence[Piece], planned: Plan, kernels: int
    ) -> None:
        memory = ctypes.create_string_buffer(planned.size + _LINE)
        start = ctypes.addressof(memory) + -ctypes.addressof(memory) % _LINE
        own = (Layer * len(layers))(*layers)
        for layer in own:
            if layer.map is not None:
                layer.map += start
        picture_step = 3 * (layers[0].width + 2)
        nearby = (ctypes.c_int32 * (planned.widest // 4))(*range(0, planned.widest, 4))
        window = (ctypes.c_int32 * 9)(*(y * picture_step + 4 * x for y in range(3) for x in range(3)))
        given = (Piece * len(pieces))(*pieces)
        super().__init__(
            *(ctypes.addressof(array) for array in (own, given, nearby, window)),
            layers=len(own),
            kernels=kernels,
            picture_step=picture_step,
        )
        for name, at in planned.buffers.items():
            setattr(self, name, start + at)
        self._memory = memory, own, given, nearby, window  # as long as it is there


def _join(layers: Sequence[Layer], pieces: Sequence[Piece]) -> None:
    """Expand, depthwise, project and add run together where nothing else reads what is between them."""
    uses = [0] * len(layers)
    for layer in layers[1:]:
        uses[layer.source] += 1
        if layer.kind == ADD:
            uses[layer.other] += 1
        elif layer.kind == GATHER:
            for piece in pieces[layer.first_piece : layer.first_piece + layer.pieces]:
                uses[piece.source] += 1
        layer.expand = layer.project = layer.add = layer.rows = layer.within = 0
        layer.map = None

    def follows(index: int, kind: int) -> bool:
        following = layers[index + 1]  # there is one: the classifier is the last
        reads = following.source, following.other if kind == ADD else -1
        return following.kind == kind and uses[index] == 1 and index in reads

    for index, layer in enumerate(layers[:-1]):
        if layer.kind != DEPTHWISE:
            continue
        before = layers[index - 1]
        if before.kind == POINTWISE and not before.within and follows(index - 1, DEPTHWISE):
            layer.expand = index - 1
        if follows(index, POINTWISE):
            layer.project = index + 1
            if follows(index + 1, ADD):
                layer.add = index + 2
        for other in (layer.expand, layer.project, layer.add):
            if other:
                layers[other].within = 1
        most = _TILE // _row(layers[layer.source])
        layer.rows = min((most - 2) // layer.stride // 2 * 2 if most > 6 else 2, layer.height)


def _row(layer: Layer) -> int:
    """Bytes of a row of its map."""
    return int(layer.width * layer.step)


def _behind(at: int, size: int) -> int:
    """Where the next buffer begins."""
    return at + -(-(size + _SLACK) // _LINE) * _LINE
