"""How an image looks, in seven numbers that need no network: brightness, sharpness, colours and size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusiform.data.preprocess import crop_pixels
from fusiform.spec import Preprocess

LOOKS = ("brightness", "contrast", "sharpness", "colourfulness", "warmth", "tint", "size")
"""What is measured; see ``measure``."""


def look(image: Image.Image, preprocess: Preprocess) -> NDArray[np.float32]:
    """The looks of an image that was not cropped yet."""
    return measure(image, rgb(crop_pixels(image, preprocess), preprocess))


def rgb(pixels: NDArray[np.uint8], preprocess: Preprocess) -> NDArray[np.uint8]:
    """Cropped pixels, (height, width, 3), in the order in which they are measured."""
    return pixels[..., ::-1] if preprocess.color_order == "bgr" else pixels


def measure(image: Image.Image, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The looks of an image: of what the network sees of it (height, width, 3), and its own size.

    The mean brightness and its standard deviation (0 to 255); the logarithm of the mean square of the difference of
    each pixel's brightness from the mean of its neighbours, which blur makes small; the mean distance of the channels
    from their mean; how much more red than blue there is, and green than both; the logarithm of the number of pixels in
    the file.
    """
    values = pixels.astype(np.float32)
    grey = values.mean(2)
    edges = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    colour = np.abs(values - grey[..., None]).mean()
    sharpness = np.log(np.square(edges).mean() + 1.0)
    red, green, blue = values.mean((0, 1))
    size = np.log(image.width * image.height)
    return np.array(
        [grey.mean(), grey.std(), sharpness, colour, red - blue, green - (red + blue) / 2, size], np.float32
    )
