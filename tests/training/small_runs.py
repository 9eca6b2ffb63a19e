"""The network of quick trainings, and the weights that a run left: for the tests of whole trainings."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fusiform.zoo.checkpoint import read_safetensors

NETWORK = "mobilenet_v2_x0_35"


def weights(run: Path, name: str = "last.safetensors") -> dict[str, np.ndarray]:
    return read_safetensors(run / name)[1]


def assert_equal(first: Path, second: Path, name: str = "last.safetensors", tolerance: float = 0.0) -> None:
    a, b = weights(first, name), weights(second, name)
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_allclose(a[key], b[key], rtol=tolerance, atol=tolerance, err_msg=key)
