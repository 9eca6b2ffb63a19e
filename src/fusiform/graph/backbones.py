"""The networks as graphs, by architecture."""

from __future__ import annotations

from fusiform.graph.mobilenet_v2 import mobilenet_v2
from fusiform.graph.shufflenet_v2 import shufflenet_v2

BACKBONES = {"mobilenet_v2": mobilenet_v2, "shufflenet_v2": shufflenet_v2}
