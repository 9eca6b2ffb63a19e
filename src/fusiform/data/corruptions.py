"""The fifteen corruptions of ImageNet-C at five strengths (Hendrycks and Dietterich, arXiv 1903.12261, Section 4.1).

The strengths are those of the authors' program, which are for images of 224 pixels: lengths grow with the image here,
so that other sizes see the same. Where this is not their program: frost is drawn, as their photographs of it are not
free; glass blur moves all pixels at once in place of one after the other; and Gaussian blurs end at four standard
deviations.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusiform.errors import UsageError

STRENGTHS = (1, 2, 3, 4, 5)
REFERENCE = 224
"""The side, in pixels, of the images that the strengths are for."""

Pixels = NDArray[np.floating[Any]]
Generator = np.random.Generator
_Corruption = Callable[[Pixels, int, Generator], Pixels]


def corrupt(pixels: NDArray[np.uint8], name: str, strength: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """An image (height, width, 3) in RGB, corrupted; the same for the same ``seed``.

    ``name`` is one of ``CORRUPTIONS``, ``strength`` 1 to 5. UsageError for others.
    """
    if name not in CORRUPTIONS:
        raise UsageError(f"there is no corruption {name!r}; there are {', '.join(CORRUPTIONS)}")
    if strength not in STRENGTHS:
        raise UsageError(f"strength must be 1 to 5, got {strength}")
    luck = np.random.default_rng((seed, crc32(name.encode()), strength))
    corrupted = CORRUPTIONS[name](pixels.astype(np.float32) / 255, strength - 1, luck)
    return (np.clip(corrupted, 0, 1) * 255).astype(np.uint8)


# Noise


def _gaussian_noise(x: Pixels, k: int, luck: Generator) -> Pixels:
    return x + luck.normal(0, (0.08, 0.12, 0.18, 0.26, 0.38)[k], x.shape).astype(np.float32)


def _shot_noise(x: Pixels, k: int, luck: Generator) -> Pixels:
    photons = (60, 25, 12, 5, 3)[k]
    return luck.poisson(x * photons).astype(np.float32) / photons


def _impulse_noise(x: Pixels, k: int, luck: Generator) -> Pixels:
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[k]
    hit = luck.random(x.shape) < share
    return np.where(hit, luck.random(x.shape) < 0.5, x).astype(np.float32)


# Blur


def _defocus_blur(x: Pixels, k: int, _: Generator) -> Pixels:
    radius, sigma = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[k]
    reach = radius * _scale(x)
    across = np.arange(-math.ceil(reach), math.ceil(reach) + 1)
    disk = (across**2 + across[:, None] ** 2 <= reach**2).astype(np.float32)
    kernel = _gaussian(np.pad(disk, 2)[..., None], sigma)[..., 0]
    return _convolve(x, kernel / kernel.sum())


def _glass_blur(x: Pixels, k: int, luck: Generator) -> Pixels:
    sigma, farthest, rounds = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[k]
    sigma, farthest = sigma * _scale(x), max(1, round(farthest * _scale(x)))
    seen = np.round(_gaussian(x, sigma) * 255) / 255
    # The authors' program goes from the last pixel to the first, and swaps two views of one array: that copies.
    inner = np.indices(x.shape[:2])[:, farthest : x.shape[0] - farthest, farthest : x.shape[1] - farthest]
    for _ in range(rounds):
        down, across = inner + luck.integers(-farthest, farthest, inner.shape)
        seen[inner[0], inner[1]] = seen[down, across]
    return _gaussian(seen, sigma)


def _motion_blur(x: Pixels, k: int, luck: Generator) -> Pixels:
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[k]
    return _along(x, radius, sigma, luck.uniform(-45, 45))


def _zoom_blur(x: Pixels, k: int, _: Generator) -> Pixels:
    end, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))[k]
    zooms = np.arange(1, end, step)
    return (x + sum((_zoomed(x, float(zoom)) for zoom in zooms), np.zeros_like(x))) / (len(zooms) + 1)


# Weather


def _snow(x: Pixels, k: int, luck: Generator) -> Pixels:
    mean, deviation, zoom, least, radius, sigma, kept = (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[k]
    flakes = _zoomed(luck.normal(mean, deviation, (*x.shape[:2], 1)).astype(np.float32), zoom)
    flakes = np.clip(np.where(flakes < least, 0, flakes), 0, 1)
    flakes = _along(flakes, radius, sigma, luck.uniform(-135, -45))
    grey = (x @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    snowy: Pixels = kept * x + (1 - kept) * np.maximum(x, grey * 1.5 + 0.5)
    snowy += flakes + flakes[::-1, ::-1]
    return snowy


def _frost(x: Pixels, k: int, luck: Generator) -> Pixels:
    kept, laid = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))[k]
    # Needles of ice, the ridges of rough clouds, on a pane that is frozen here and there.
    needles = sum((1 - np.abs(2 * _plasma(x.shape[:2], rough, luck) - 1)) ** 2 for rough in (1.2, 1.5)) / 2
    pane = _plasma(x.shape[:2], 2, luck)
    ice = np.clip(1.6 * needles * (0.3 + pane), 0, 1)
    return kept * x + laid * ice[..., None] * np.array([0.85, 0.95, 1], np.float32)


def _fog(x: Pixels, k: int, luck: Generator) -> Pixels:
    amount, decay = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))[k]
    brightest = float(x.max())
    return (x + amount * _plasma(x.shape[:2], decay, luck)[..., None]) * brightest / (brightest + amount)


def _brightness(x: Pixels, k: int, _: Generator) -> Pixels:
    # Hue and saturation stay where HSV's value grows.
    value = x.max(2, keepdims=True)
    brighter = np.minimum(value + (0.1, 0.2, 0.3, 0.4, 0.5)[k], 1)
    found: Pixels = np.where(value > 0, x * (brighter / np.maximum(value, 1e-6)), brighter)
    return found


# Digital


def _contrast(x: Pixels, k: int, _: Generator) -> Pixels:
    mean = x.mean((0, 1), keepdims=True)
    flat: Pixels = (x - mean) * (0.4, 0.3, 0.2, 0.1, 0.05)[k] + mean
    return flat


def _elastic_transform(x: Pixels, k: int, luck: Generator) -> Pixels:
    far, smooth, tilt = ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))[k]
    height, width = x.shape[:2]
    unit = 244 / REFERENCE * min(height, width)  # the authors' own number
    # An affine map that moves three points at random, then every pixel by a smooth field.
    third = min(height, width) // 3
    points = np.array([[third, third], [third, -third], [-third, -third]], np.float64)
    points += np.array([width // 2, height // 2])
    moved = points + luck.uniform(-tilt * unit, tilt * unit, points.shape)
    forward = np.linalg.solve(np.column_stack([points, np.ones(3)]), moved)  # (3, 2): (x, y, 1) -> (x', y')
    back = np.linalg.inv(np.column_stack([forward, [0, 0, 1]]))
    across, down = np.meshgrid(np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64))
    fields = [
        _gaussian(luck.uniform(-1, 1, (height, width, 1)).astype(np.float32), smooth * unit)[..., 0] * far * unit
        for _ in range(2)
    ]
    affine = (across * back[0, k] + down * back[1, k] + back[2, k] for k in (0, 1))
    tilted = _sampled(x, *affine)
    return _sampled(tilted, across + fields[0], down + fields[1])


def _pixelate(x: Pixels, k: int, _: Generator) -> Pixels:
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[k]
    height, width = x.shape[:2]
    image = _image(x).resize((max(1, int(width * share)), max(1, int(height * share))), Image.Resampling.BOX)
    return _pixels(image.resize((width, height), Image.Resampling.BOX))


def _jpeg_compression(x: Pixels, k: int, _: Generator) -> Pixels:
    file = io.BytesIO()
    _image(x).save(file, "JPEG", quality=(25, 18, 15, 10, 7)[k])
    with Image.open(file) as image:
        return _pixels(image.convert("RGB"))


CORRUPTIONS: dict[str, _Corruption] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "glass_blur": _glass_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "snow": _snow,
    "frost": _frost,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic_transform": _elastic_transform,
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg_compression,
}
"""By the names, and in the order, of the paper's Table 1: noise, blur, weather, digital."""

FAMILIES: dict[str, tuple[str, ...]] = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
"""The corruptions of each of the paper's four kinds."""


# What they are made of


def _scale(x: Pixels) -> float:
    return float(min(x.shape[:2])) / REFERENCE


def _image(x: Pixels) -> Image.Image:
    return Image.fromarray(np.round(np.clip(x, 0, 1) * 255).astype(np.uint8))


def _pixels(image: Image.Image) -> Pixels:
    return np.asarray(image, np.float32) / 255


def _reflected(place: NDArray[np.intp], side: int) -> NDArray[np.intp]:
    """Places outside of an axis, as a mirror at its edges shows them: d c b a | a b c d | d c b a."""
    place = place % (2 * side)
    return np.where(place < side, place, 2 * side - 1 - place)


def _gaussian(x: Pixels, sigma: float) -> Pixels:
    """Blurred along both axes (height, width, channels), mirrored at the edges."""
    down, across = (_blur_matrix(side, sigma) for side in x.shape[:2])
    blurred: Pixels = np.einsum("hi,iwc->hwc", down, np.einsum("wj,hjc->hwc", across, x, optimize=True), optimize=True)
    return blurred


@lru_cache(maxsize=64)
def _blur_matrix(side: int, sigma: float) -> Pixels:
    """What blurs a line of ``side`` pixels: as a matrix, whose size does not grow with ``sigma``."""
    reach = max(1, math.ceil(4 * sigma))
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-(offsets**2) / (2 * sigma**2))
    cells = np.arange(side)[:, None] * side + _reflected(np.arange(side)[:, None] + offsets, side)
    spread = np.broadcast_to(weights / weights.sum(), cells.shape)
    matrix = np.bincount(cells.ravel(), spread.ravel(), side * side).reshape(side, side)
    return matrix.astype(np.float32)


def _convolve(x: Pixels, kernel: NDArray[np.float32]) -> Pixels:
    """Filtered by a square kernel of odd side, mirrored at the edges without repeating them."""
    reach = kernel.shape[0] // 2
    height, width = x.shape[:2]
    padded = np.pad(x, ((reach, reach), (reach, reach), (0, 0)), "reflect" if reach < min(height, width) else "edge")
    shape = (padded.shape[0] + 2 * reach, padded.shape[1] + 2 * reach)
    spectrum = np.fft.rfft2(kernel, shape)[..., None] * np.fft.rfft2(padded, shape, axes=(0, 1))
    filtered = np.fft.irfft2(spectrum, shape, axes=(0, 1))
    return filtered[2 * reach : 2 * reach + height, 2 * reach : 2 * reach + width].astype(np.float32)


def _along(x: Pixels, radius: float, sigma: float, degrees: float) -> Pixels:
    """Smeared to one side along a line, as ImageMagick's motion blur: half a Gaussian of ``2 radius + 1`` steps."""
    radius, sigma = radius * _scale(x), sigma * _scale(x)
    steps = np.arange(2 * round(radius) + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    angle = math.radians(degrees)
    height, width = x.shape[:2]
    down = [math.ceil(step * math.sin(angle) - 0.5) for step in steps]
    across = [math.ceil(step * math.cos(angle) - 0.5) for step in steps]
    top, left = max(0, -min(down)), max(0, -min(across))
    padded = np.pad(x, ((top, max(0, *down)), (left, max(0, *across)), (0, 0)), "edge")
    smeared = np.zeros_like(x)
    for by_down, by_across, weight in zip(down, across, weights / weights.sum(), strict=True):
        row, column = top + by_down, left + by_across
        smeared += np.float32(weight) * padded[row : row + height, column : column + width]
    return smeared


def _zoomed(x: Pixels, factor: float) -> Pixels:
    """The middle of the image, larger by a factor."""
    height, width = x.shape[:2]
    inner = (math.ceil(height / factor), math.ceil(width / factor))
    top, left = ((height - inner[0]) // 2, (width - inner[1]) // 2)
    box = (left, top, left + inner[1], top + inner[0])
    planes = [
        np.asarray(Image.fromarray(x[..., c]).resize((width, height), Image.Resampling.BILINEAR, box=box), np.float32)
        for c in range(x.shape[2])
    ]
    return np.stack(planes, 2)


def _plasma(shape: tuple[int, int], decay: float, luck: Generator) -> NDArray[np.float32]:
    """A cloud in [0, 1] by the diamond-square algorithm, whose roughness falls by ``decay`` from scale to scale."""
    side = 1 << max(1, math.ceil(math.log2(max(shape))))
    cloud = np.zeros((side, side))
    step, wibble = side, 100.0
    while step >= 2:
        half = step // 2

        def wibbled(sums: NDArray[np.float64], wibble: float = wibble) -> NDArray[np.float64]:
            return sums / 4 + wibble * luck.uniform(-wibble, wibble, sums.shape)

        corners = cloud[::step, ::step]
        rows = corners + np.roll(corners, -1, 0)
        cloud[half::step, half::step] = wibbled(rows + np.roll(rows, -1, 1))
        middles = cloud[half::step, half::step]
        beside = middles + np.roll(middles, 1, 0)
        cloud[::step, half::step] = wibbled(beside + corners + np.roll(corners, -1, 1))
        below = middles + np.roll(middles, 1, 1)
        cloud[half::step, ::step] = wibbled(below + corners + np.roll(corners, -1, 0))
        step, wibble = half, wibble / decay
    cloud = (cloud - cloud.min()) / (cloud.max() - cloud.min())
    part: NDArray[np.float32] = cloud[: shape[0], : shape[1]].astype(np.float32)
    return part


def _sampled(x: Pixels, across: NDArray[np.float64], down: NDArray[np.float64]) -> Pixels:
    """The image at other places, between pixels linearly, mirrored outside."""
    height, width = x.shape[:2]
    left, top = np.floor(across).astype(np.intp), np.floor(down).astype(np.intp)
    right_share, bottom_share = (across - left)[..., None], (down - top)[..., None]
    columns = [_reflected(left + k, width) for k in (0, 1)]
    rows = [_reflected(top + k, height) for k in (0, 1)]
    above = x[rows[0], columns[0]] * (1 - right_share) + x[rows[0], columns[1]] * right_share
    below = x[rows[1], columns[0]] * (1 - right_share) + x[rows[1], columns[1]] * right_share
    return (above * (1 - bottom_share) + below * bottom_share).astype(np.float32)
