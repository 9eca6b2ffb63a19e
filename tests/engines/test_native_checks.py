"""What Python checks and plans before the native library computes, which has no checks of its own."""

from __future__ import annotations

from functools import cache

import pytest

from fusiform.engines import default_engine, open_engine
from fusiform.engines.litert import LiteRTEngine
from fusiform.engines.native import checks, compiled, engine
from fusiform.engines.native import layers as kinds
from fusiform.engines.native import plan as plan_file
from fusiform.engines.native.checks import check_layers, check_weights
from fusiform.engines.native.layers import Layer, OtherNetworkError, Piece, Program
from fusiform.engines.native.plan import plan
from fusiform.errors import UsageError
from fusiform.zoo.model import open_model

pytestmark = pytest.mark.skipif(not compiled.usable_kernels(), reason="the library was not compiled")


@cache
def program(name):
    return Program(open_model(name).data)


def copied(name, vector=64):
    """A network's layers, packed, and pieces, to be changed."""
    whole = program(name)
    layers = [Layer.from_buffer_copy(layer) for layer in whole.packed(compiled.load(), vector)[0]]
    return layers, [Piece.from_buffer_copy(piece) for piece in whole.pieces]


def checked(layers, pieces, vector=64):
    check_layers(layers, pieces)
    check_weights(layers, vector)
    return plan(layers, pieces)


@pytest.mark.parametrize("vector", [16, 32, 64])
@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v2_x1_0"])
def test_whole_networks_pass(name, vector):
    layers, pieces = copied(name, vector)
    checked(layers, pieces, vector)
    if vector != 64:  # packed for other vectors
        with pytest.raises(OtherNetworkError, match="more weights than it reads, or fewer"):
            check_weights(layers, 64)


FAULTS = [
    (kinds.INPUT, {"channels": 4}),
    (kinds.INPUT, {"height": 0}),
    (kinds.INPUT, {"width": 4097}),
    (kinds.INPUT, {"kind": kinds.CONV}),
    (kinds.CONV, {"source": 1}),
    (kinds.CONV, {"source": -1}),
    (kinds.CONV, {"stride": 3}),
    (kinds.CONV, {"stride": 0}),
    (kinds.CONV, {"before": 2}),
    (kinds.CONV, {"after": -1}),
    (kinds.CONV, {"weights": None}),
    (kinds.CONV, {"weight_size": 1}),
    (kinds.POINTWISE, {"channels": 0}),
    (kinds.POINTWISE, {"channels": -(2**31)}),
    (kinds.POINTWISE, {"channels": 8193}),
    (kinds.POINTWISE, {"channels": 999}),
    (kinds.POINTWISE, {"source": 2**31 - 1}),
    (kinds.POINTWISE, {"source": 0}),
    (kinds.POINTWISE, {"zero": 256}),
    (kinds.POINTWISE, {"low": 2, "high": 1}),
    (kinds.POINTWISE, {"low": -1}),
    (kinds.POINTWISE, {"kind": 99}),
    (kinds.POINTWISE, {"kind": kinds.CLASSIFIER}),
    (kinds.POINTWISE, {"biases": None}),
    (kinds.POINTWISE, {"bias_size": 2**62}),
    (kinds.DEPTHWISE, {"channels": 16}),
    (kinds.DEPTHWISE, {"after": 0, "stride": 1}),
    (kinds.DEPTHWISE, {"scale_size": 0}),
    (kinds.ADD, {"other": 0}),
    (kinds.ADD, {"other": 2**31 - 1}),
    (kinds.ADD, {"source": 1}),
    (kinds.ADD, {"shift": 32}),
    (kinds.GATHER, {"first_piece": -1}),
    (kinds.GATHER, {"first_piece": 2**31 - 1}),
    (kinds.GATHER, {"pieces": 2**31 - 1}),
    (kinds.GATHER, {"pieces": 1}),
    (kinds.GATHER, {"channels": 115}),
    (kinds.MAXPOOL, {"stride": 1}),
    (kinds.MAXPOOL, {"channels": 48}),
    (kinds.CLASSIFIER, {"channels": 1025}),
    (kinds.CLASSIFIER, {"kind": kinds.POINTWISE}),
    (kinds.CLASSIFIER, {"scales": None}),
    (kinds.CLASSIFIER, {"scale_size": 1024}),
]


@pytest.mark.parametrize(("kind", "fault"), FAULTS)
def test_layers_that_do_not_fit_are_refused(kind, fault):
    layers, pieces = copied("mobilenet_v2" if kind == kinds.ADD else "shufflenet_v2_x1_0")
    layer = next(layer for layer in layers if layer.kind == kind)
    for name, value in fault.items():
        setattr(layer, name, value)
    with pytest.raises(OtherNetworkError):
        checked(layers, pieces)


@pytest.mark.parametrize("fault", [{"source": 0}, {"source": 63}, {"first": -1}, {"end": 0}, {"end": 4096}, {"end": 1}])
def test_pieces_that_are_not_there_are_refused(fault):
    layers, pieces = copied("shufflenet_v2_x1_0")
    for name, value in fault.items():
        setattr(pieces[0], name, value)
    with pytest.raises(OtherNetworkError, match="does not fit the others"):
        checked(layers, pieces)


def test_too_few_layers_or_too_much_memory(monkeypatch):
    layers, pieces = copied("mobilenet_v2")
    with pytest.raises(OtherNetworkError, match="too few layers"):
        checked(layers[:2], pieces)
    monkeypatch.setattr(plan_file, "_MOST_MEMORY", 1 << 20)
    with pytest.raises(OtherNetworkError, match="memory"):
        checked(layers, pieces)


def test_a_network_that_is_too_wide_runs_in_litert(monkeypatch, tmp_path):
    model = open_model("mobilenet_v2")
    monkeypatch.setattr(engine, "_latest", [])
    monkeypatch.setattr(compiled, "fast_kernels", lambda: 0)
    monkeypatch.setattr(checks, "_MOST_CHANNELS", 1000)
    assert default_engine(model) == "litert"
    assert isinstance(open_engine(model).engine, LiteRTEngine)
    if compiled.usable_kernels():
        with pytest.raises(UsageError, match=r"native runs int8 classifiers alone, and .* is out of range"):
            open_engine(model, engine="native")


@pytest.mark.parametrize(
    ("name", "depthwise", "expanded", "added"), [("mobilenet_v2", 17, 16, 10), ("shufflenet_v2_x1_0", 19, 16, 0)]
)
def test_blocks_run_together(name, depthwise, expanded, added):
    layers, pieces = copied(name)
    planned = checked(layers, pieces)
    blocks = [layer for layer in layers if layer.kind == kinds.DEPTHWISE]
    assert len(blocks) == depthwise
    assert all(layer.project and not layer.within and layer.rows >= 1 for layer in blocks)
    assert [sum(1 for layer in blocks if layer.expand), sum(1 for layer in blocks if layer.add)] == [expanded, added]
    together = [k for layer in blocks for k in (layer.expand, layer.project, layer.add) if k]
    assert sorted(together) == [k for k, layer in enumerate(layers) if layer.within]
    # What leaves a block has a place of its own, with room behind it, and nothing else has one.
    ends = {id(layers[layer.add or layer.project]) for layer in blocks}
    begins = []
    for layer in layers[1:-1]:
        leaves = (not layer.within and layer.kind != kinds.DEPTHWISE) or id(layer) in ends
        assert leaves == (layer.map is not None)
        if layer.map:
            begins += [layer.map, layer.map + layer.height * layer.width * layer.step + 64]
    begins += sorted(planned.buffers.values())
    assert begins == sorted(begins)
    assert planned.size > begins[-1]


def test_what_two_layers_read_is_kept():
    layers, pieces = copied("mobilenet_v2")
    checked(layers, pieces)
    index = next(k for k, layer in enumerate(layers) if layer.add)
    twice = layers[layers[index].add]
    twice.source = twice.other = layers[index].project
    checked(layers, pieces)
    assert layers[index].project
    assert not layers[index].add
