"""What can be said of an image without knowing what it shows: its size, its file, its light and its sharpness."""

from __future__ import annotations

import io
import re
from datetime import datetime
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from fusiform.data.image import FORMATS, identify, without_warnings

SIDE = 128
"""Pixels; of the longer side, for light and sharpness."""
FRAME = 0.04
"""The part of each side that counts as the image's border."""

_MAKE, _MODEL, _DATE, _EXIF, _TAKEN = 271, 272, 306, 0x8769, 36867
DARK = 0.3
"""Where 99 % of the pixels are darker, in [0, 1], there is hardly anything to see."""
LIGHT = 0.95
"""Where 95 % are lighter, likewise."""
BLURRED = 100.0
"""The variance of the edges, in grey levels squared, below which an image has none that are sharp."""
LITTLE = 3.0
"""Bits; the entropy of the grey levels below which there is little to see."""


class Appearance(NamedTuple):
    """What an image looks like, and its file; light in [0, 1], ``sharpness`` in grey levels squared.

    ``dark`` and ``light`` are the levels below which 99 % and 5 % of the pixels lie. ``border`` is the mean colour of
    the outermost pixels and their deviation, ``entropy`` that of the grey levels in bits. ``quality`` is the mean of a
    JPEG's first quantisation table, 0 for other formats; ``taken`` the time in seconds since 1970, and ``camera`` the
    maker and model, each None where the file does not say.
    """

    width: int
    height: int
    bytes: int
    format: str
    quality: float
    camera: str | None
    taken: float | None
    brightness: float
    contrast: float
    dark: float
    light: float
    border: tuple[float, float, float, float]
    sharpness: float
    entropy: float


def appearance(data: bytes, image: Image.Image) -> Appearance:
    """Look at an image that was read, RGB and upright, and at its file's content; nothing is raised."""
    small = image.copy()
    small.thumbnail((SIDE, SIDE))
    grey = small.convert("L")
    levels = np.asarray(grey, np.float32) / 255
    light = np.asarray(small, np.float32).mean(2) / 255  # no colour is to count for more than another
    share = np.bincount(np.asarray(grey).ravel(), minlength=256) / levels.size
    found = share[share > 0]
    edges = np.asarray(grey.filter(ImageFilter.FIND_EDGES), np.float32)[1:-1, 1:-1]
    quality, camera, taken = _about_file(data)
    return Appearance(
        *image.size,
        len(data),
        next((name for name, (signature, _, _) in FORMATS.items() if re.match(signature, data[:32], re.DOTALL)), ""),
        quality,
        camera,
        taken,
        float(light.mean()),
        float(light.std()),
        float(np.percentile(levels, 99)),
        float(np.percentile(levels, 5)),
        _border(np.asarray(small, np.float32)),
        float(edges.var()) if edges.size else 0.0,
        float(-(found * np.log2(found)).sum()),
    )


def _border(pixels: NDArray[np.float32]) -> tuple[float, float, float, float]:
    width = max(1, round(FRAME * min(pixels.shape[:2])))
    inner = np.zeros(pixels.shape[:2], bool)
    inner[width:-width, width:-width] = True
    frame = pixels[~inner]
    red, green, blue = (frame.mean(0) / 255).tolist()
    return red, green, blue, float(frame.std(0).mean()) / 255


def _about_file(data: bytes) -> tuple[float, str | None, float | None]:
    """How strongly a JPEG is compressed, and what EXIF says of camera and time."""
    try:
        with without_warnings():
            header = identify(io.BytesIO(data), data[:32], "image")
            tables = getattr(header, "quantization", None) or {}
            exif = header.getexif()
            parts = [str(exif[tag]).strip(" \0") for tag in (_MAKE, _MODEL) if tag in exif]
            when = exif.get_ifd(_EXIF).get(_TAKEN) or exif.get(_DATE)
    except Exception:  # damaged EXIF takes nothing from the pixels
        return 0.0, None, None
    quality = float(np.mean(tables[0])) if 0 in tables else 0.0
    return quality, " ".join(filter(None, parts)) or None, _seconds(when)


def _seconds(when: object) -> float | None:
    try:
        return (datetime.strptime(str(when).strip(" \0"), "%Y:%m:%d %H:%M:%S") - datetime(1970, 1, 1)).total_seconds()
    except ValueError:
        return None
