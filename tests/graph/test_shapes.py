"""The state dict that is read off a graph, held against the PyTorch module's own."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch

from fusiform.graph.backbones import BACKBONES
from fusiform.graph.shapes import expected_shapes, state_shapes
from fusiform.modules import ARCHITECTURES, build_backbone, build_network
from fusiform.porting.network import NETWORKS
from fusiform.spec import ModelSpec, Preprocess
from fusiform.tables import TRAITS

TASKS: tuple[dict[str, Any], ...] = (
    {"task": "classification"},
    {"task": "detection"},
    *({"task": "segmentation", "output_stride": s, "aspp": aspp} for s in (8, 16) for aspp in (False, True)),
)
NETWORKS_AND_WIDTHS = [
    *((architecture, width) for architecture, traits in TRAITS.items() for width in traits.widths),
    *((architecture, width) for architecture, traits in TRAITS.items() if traits.any_width for width in (0.1, 0.87, 2)),
]


def of_module(spec: ModelSpec) -> list[tuple[str, tuple[int, ...]]]:
    """The entries of the PyTorch network's state dict; only shapes are asked for, so no numbers are made."""
    with torch.device("meta"):
        network = build_network(spec)
    return [(name, tuple(value.shape)) for name, value in network.state_dict().items()]


@pytest.mark.parametrize(("architecture", "width"), NETWORKS_AND_WIDTHS)
def test_names_order_and_shapes_are_those_of_the_module(architecture: str, width: float) -> None:
    for fields, (classes, channels) in product(TASKS, ((1, 1), (10, 3))):
        spec = ModelSpec(
            architecture,
            width,
            tuple(f"class {k}" for k in range(classes)),
            input_size=32,
            input_channels=channels,
            preprocess=Preprocess(resize=32, crop=32),
            **fields,
        )
        shapes = of_module(spec)
        assert list(state_shapes(spec).items()) == shapes
        if spec.task == "classification":
            found = expected_shapes(architecture, width, num_classes=classes, input_channels=channels)
            assert list(found.items()) == shapes


@pytest.mark.parametrize("architecture", TRAITS)
def test_the_record_speaks_of_the_module(architecture: str) -> None:
    traits = TRAITS[architecture]
    assert list(traits.widths) == sorted(traits.widths)
    spec = ModelSpec(architecture, traits.widths[0], ("cat", "dog", "cow"))
    network = build_backbone(spec, 3)
    assert network.traits is traits
    assert type(network).__name__ == traits.title
    state = network.state_dict()
    assert next(iter(state)) == f"{traits.stem}.weight"
    assert list(state)[-2:] == [f"{traits.classifier}.weight", f"{traits.classifier}.bias"]
    ends = [name for name in state if name.startswith(f"{traits.last}.")]
    assert len(state[ends[0]]) == network.feature_channels["last"] == state[f"{traits.classifier}.weight"].shape[1]
    assert {traits.detection_map, "stride_4", "stride_8", "stride_16", "stride_32", "last"} <= set(
        network.feature_channels
    )


def test_every_dictionary_has_every_architecture() -> None:
    assert TRAITS.keys() == BACKBONES.keys() == ARCHITECTURES.keys()
    assert NETWORKS.keys() <= TRAITS.keys()  # there need be no other framework that has it
