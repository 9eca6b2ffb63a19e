"""Entry points for ``torch.hub.load('PATH/TO/fusiform', 'mobilenet_v2', source='local')``: ``fusiform.nets``' builders.

``weights`` is None for fresh weights, as in torchvision, or ``'bundled'`` (no download), ``'IMAGENET1K_V1'``,
``'IMAGENET1K_V2'``, ``'DEFAULT'``, or a path to a model file. Detectors and segmenters take a path, such as a training
run's ``best.safetensors``; fresh ones take a classifier's weights for their backbone.
"""

import sys
from pathlib import Path

dependencies = ["torch", "numpy", "PIL", "safetensors", "flatbuffers", "ai_edge_litert"]

sys.path.insert(0, str(Path(__file__).parent / "src"))

from fusiform.nets import (  # noqa: E402, F401
    deeplab_v3_mobilenet_v2,
    deeplab_v3_shufflenet_v2_x1_0,
    mobilenet_v2,
    shufflenet_v2_x0_5,
    shufflenet_v2_x1_0,
    shufflenet_v2_x1_5,
    shufflenet_v2_x2_0,
    ssdlite_mobilenet_v2,
    ssdlite_shufflenet_v2_x1_0,
)
