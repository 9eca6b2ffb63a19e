"""From a float32 network and photographs to the int8 network that loses least, without training."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fusiform.data.open import Picture
from fusiform.data.preprocess import crop_pixels
from fusiform.errors import ImageError, InputError
from fusiform.exporting.quantization.equalize import equalize
from fusiform.exporting.quantization.quantize import LayerError, QuantizedNetwork
from fusiform.graph.ir import Graph
from fusiform.machine import usable_cores
from fusiform.progress import Tracker, silent
from fusiform.spec import ModelSpec

CALIBRATION_PICTURES = 160
"""Photographs that are looked at; a quarter of them only chooses among the ways of quantising."""
_CORRECTION_PICTURES = 48
_SENSITIVITY_PICTURES = 8
_BATCH = 16
_FULL_SIZE = 320
"""The largest input, in pixels a side, at which as many pictures are looked at at once as these numbers say."""


class Calibrated(NamedTuple):
    """An int8 network ready to freeze, how it was made, and the error of each way that was tried.

    Errors are root mean squares of the logits' errors over the logits', on photographs that had no part in choosing
    scales or biases.
    """

    network: QuantizedNetwork
    way: str
    errors: dict[str, float]
    pixels: Tensor
    """The photographs that ranges and biases were made from."""


def load_pixels(samples: Sequence[Picture], spec: ModelSpec, count: int) -> tuple[NDArray[np.uint8], list[str]]:
    """Up to ``count`` of the photographs, evenly spread, as the network sees them: (N, size, size, 3).

    The second value is a message about each that could not be read.
    """
    chosen = [samples[i] for i in np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)]
    errors: list[str] = []

    def load(sample: Picture) -> NDArray[np.uint8] | None:
        try:
            return crop_pixels(sample.read(), spec.preprocess)
        except ImageError as error:
            errors.append(str(error))
            return None

    with ThreadPoolExecutor(usable_cores()) as pool:
        pixels = [picture for picture in pool.map(load, chosen) if picture is not None]
    if not pixels:
        size = spec.input_size
        return np.empty((0, size, size, 3), np.uint8), errors
    return np.stack(pixels), errors


def pictures_at_once(spec: ModelSpec, count: int) -> int:
    """How many pictures go through a network at once: ``count``, fewer where its inputs are larger than 320 pixels.

    All tensors of all of them are held at once: 16 pictures of 513 pixels would take gigabytes.
    """
    return max(1, min(count, count * _FULL_SIZE**2 // spec.input_size**2))


def calibrate(graph: Graph, pixels: NDArray[np.uint8], progress: Tracker = silent) -> Calibrated:
    """Quantise a float32 graph in four ways and keep the one whose logits are nearest to its own.

    ``pixels`` are photographs (N, size, size, 3), 16 or more, as the network sees them. The ways are with and without
    cross-layer equalisation, each with and without correction of the biases; which of them help depends on the
    network. Raises UsageError for too few photographs.
    """
    if len(pixels) < _BATCH:
        raise InputError(
            f"{len(pixels)} pictures are too few to calibrate int8 with: give {_BATCH} or more, 100 are plenty"
        )
    whole = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().contiguous(memory_format=torch.channels_last)
    held_out = torch.arange(len(whole)) % 4 == 3
    seen, unseen = whole[~held_out], whole[held_out]
    once = pictures_at_once(graph.spec, _BATCH)
    batches = list(torch.split(seen, once))
    # Statistics are over pixels, of which fewer large pictures have as many.
    correction = _evenly(seen, pictures_at_once(graph.spec, _CORRECTION_PICTURES))
    plain = _network(graph)
    errors: dict[str, float] = {}
    found: dict[str, QuantizedNetwork] = {}
    with progress(total=2 + 2 * 4, label="calibrate", unit="steps") as bar:
        with torch.no_grad(), plain.in_float():
            wanted = _answers(plain, unseen, once)
        bar.advance()
        ranges = plain.channel_ranges(batches)
        bar.advance()
        for name, network in (("plain", plain), ("equalised", _network(equalize(graph, ranges)))):
            network.calibrate(batches)
            bar.advance()
            corrected = copy.deepcopy(network)
            corrected.correct_biases(correction)
            bar.advance()
            for way, candidate in ((name, network), (f"{name}, biases corrected", corrected)):
                errors[way] = _error(candidate, unseen, wanted, once)
                found[way] = candidate
                bar.advance()
    best = min(errors, key=errors.__getitem__)
    return Calibrated(found[best], best, errors, seen)


def rank_layers(network: QuantizedNetwork, pixels: Tensor, progress: Tracker = silent) -> list[LayerError]:
    """The layers by what rounding each alone does to the logits, the worst first, over a few of the photographs."""
    chosen = _evenly(pixels, pictures_at_once(network.graph.spec, _SENSITIVITY_PICTURES))
    return network.layer_errors(chosen, progress)


def _network(graph: Graph) -> QuantizedNetwork:
    return QuantizedNetwork(graph).eval().to(memory_format=torch.channels_last)


@torch.no_grad()
def _error(network: QuantizedNetwork, pixels: Tensor, wanted: list[Tensor], once: int) -> float:
    """The mean over the network's answers of the error of each, relative to its size."""
    found = _answers(network, pixels, once)
    errors = [float((a - b).norm() / b.norm()) for a, b in zip(found, wanted, strict=True)]
    return sum(errors) / len(errors)


def _answers(network: QuantizedNetwork, pixels: Tensor, once: int) -> list[Tensor]:
    parts = [network.answers(batch) for batch in torch.split(pixels, once)]
    return [torch.cat(answers) for answers in zip(*parts, strict=True)]


def _evenly(pixels: Tensor, count: int) -> Tensor:
    """``count`` of the pictures from all over: they may lie sorted by class."""
    places = np.linspace(0, len(pixels) - 1, min(count, len(pixels))).round().astype(int)
    return pixels[torch.from_numpy(places)].contiguous(memory_format=torch.channels_last)
