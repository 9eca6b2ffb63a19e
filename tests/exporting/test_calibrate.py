"""Choosing among the ways of quantising, on photographs."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

from fusiform.data.dataset import Sample
from fusiform.errors import UsageError
from fusiform.exporting.quantization.calibrate import calibrate, load_pixels, rank_layers
from fusiform.graph.build import build_graph


def pictures(count, size, seed=0):
    """Soft blobs, uint8 (count, size, size, 3)."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 6, 6, 3)).astype(np.uint8)
    return np.stack([np.asarray(Image.fromarray(c).resize((size, size), Image.Resampling.BICUBIC)) for c in coarse])


@pytest.mark.parametrize("architecture", ["mobilenet_v2", "shufflenet_v2"])
def test_the_best_of_four_ways_is_taken(architecture, small_spec, lived_in_state):
    spec = small_spec(architecture, size=64)
    graph = build_graph(spec, lived_in_state(spec))
    found = calibrate(graph, pictures(48, 64))
    assert set(found.errors) == {"plain", "plain, biases corrected", "equalised", "equalised, biases corrected"}
    assert found.errors[found.way] == min(found.errors.values()) < 0.2
    assert found.network.freeze().quantization is not None
    # A quarter of the pictures had no part in the scales.
    assert len(found.pixels) == 36
    assert len(rank_layers(found.network, found.pixels)) > 50


def test_equalisation_is_taken_where_channels_differ(small_spec, lived_in_state):
    """One channel a hundred times larger than the rest, undone by its readers: the same network, hard to quantise."""
    spec = small_spec("mobilenet_v2", size=64)
    state = lived_in_state(spec)
    for block in (4, 5, 6):  # added to each other
        for name in ("weight", "bias"):
            state[f"features.{block}.conv.3.{name}"][0] *= 100.0
        state[f"features.{block + 1}.conv.0.0.weight"][:, 0] /= 100.0
    found = calibrate(build_graph(spec, state), pictures(32, 64))
    assert found.way.startswith("equalised")
    assert found.errors[found.way] < 0.5 * found.errors["plain"]


def test_too_few_pictures(small_spec, lived_in_state):
    spec = small_spec("mobilenet_v2")
    with pytest.raises(UsageError, match="3 pictures are too few to calibrate int8 with: give 16 or more"):
        calibrate(build_graph(spec, lived_in_state(spec)), pictures(3, 32))


def test_pictures_are_taken_from_all_over_and_bad_ones_listed(tmp_path, small_spec):
    spec = small_spec("mobilenet_v2")
    samples = []
    for k, picture in enumerate(pictures(10, 32)):
        path = tmp_path / f"{k}.png"
        Image.fromarray(np.full_like(picture, 10 * k)).save(path)
        samples.append(Sample(path, 0))
    (tmp_path / "9.png").write_bytes(b"no picture")
    pixels, errors = load_pixels(samples, spec, 4)
    assert pixels[:, 0, 0, 0].tolist() == [0, 30, 60]
    assert len(errors) == 1
    assert "9.png" in errors[0]
    assert load_pixels([], spec, 4)[0].shape == (0, 32, 32, 3)
