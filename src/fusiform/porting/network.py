"""Which network a foreign file holds, and what the file says of it."""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

from fusiform.errors import WeightsError
from fusiform.porting import mobilenet_v2, shufflenet_v2
from fusiform.porting.matcher import Matcher
from fusiform.porting.tracer import Layer, Numbers, Tensor, Tracer
from fusiform.spec import Architecture, Padding
from fusiform.tables import TRAITS
from fusiform.zoo.checkpoint import State


class ForeignNetwork(NamedTuple):
    """What a foreign file says of itself: a state with torchvision's names, and how its pictures are prepared.

    ``mean`` and ``std`` are None where the file does not say; they apply to values in [0, 1].
    """

    state: State
    padding: Padding
    input_size: int
    mean: float | None = None
    std: float | None = None


NETWORKS: dict[Architecture, ModuleType] = {"mobilenet_v2": mobilenet_v2, "shufflenet_v2": shufflenet_v2}
"""The file of each network that other frameworks have: ``resembles`` tells by the layers whether it is one to compare
with, and ``match`` finds its layers, and returns the channels of its answer."""


def match_network(tracer: Tracer, output: Tensor) -> ForeignNetwork:
    """The network that ends in ``output``, with torchvision's names. WeightsError if it is none of those known."""
    layers = tracer.behind(output)
    refused: list[WeightsError] = []
    for architecture, network in NETWORKS.items():
        if network.resembles(layers):
            try:
                return _match(tracer, output, layers, architecture)
            except WeightsError as error:
                refused.append(error)
    raise refused[0] if refused else tracer.refuse("the layers resemble none of the networks that are known")


def _match(tracer: Tracer, output: Tensor, layers: list[Layer], architecture: Architecture) -> ForeignNetwork:
    matcher = Matcher(tracer, TRAITS[architecture].title, layers)
    x: Numbers = NETWORKS[architecture].match(matcher)
    if output.numbers.size % len(x) or (output.numbers.reshape(-1, len(x)) != x).any():
        raise tracer.refuse(f"the network goes on after {matcher.title}'s classifier")
    return ForeignNetwork(matcher.finish(), matcher.padding(), tracer.input_size)
