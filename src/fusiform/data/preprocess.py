"""From a decoded photograph to a network's input: the one implementation of it, in Pillow and numpy.

The same numbers as torchvision's ``Resize``, ``CenterCrop``, ``ToTensor`` and ``Normalize`` on a PIL picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

from PIL import Image

from fusiform.data.axis import Axis
from fusiform.data.image import to_rgb
from fusiform.spec import Interpolation, Preprocess

if TYPE_CHECKING:  # a photograph is named in a fraction of the time that numpy's import takes
    import numpy as np
    from numpy.typing import NDArray

RESAMPLING: dict[Interpolation, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

# Beyond this many pixels (0.25 GB) the resized picture is never made as a whole: resizing the shorter side of a
# picture of 1 x 100,000 pixels to 256 would make 6.5 gigapixels, of which the crop keeps 50,176.
_MAX_RESIZED_PIXELS = 1 << 26

# Pillow may first average whole blocks of pixels as long as that leaves twice the resolution that is needed.
_REDUCING_GAP = 2.0


Resize = Callable[[Image.Image, Axis, Axis, Interpolation], "bytearray | None"]
"""The kept pixels (rows, columns, 3) of an RGB picture that is resized, from its two axes."""


def crop_pixels(
    image: Image.Image, preprocess: Preprocess, *, fast: bool = False, resize: Resize | None = None
) -> NDArray[np.uint8]:
    """Bring a photograph into the network's square, as ``preprocess.fit`` says: (crop, crop, 3) uint8, ``color_order``.

    ``crop`` resizes its shorter side and cuts out the central square; ``placement`` tells where the other two put it.
    The bytes are those of torchvision's ``Resize(resize, interpolation)`` and ``CenterCrop(crop)`` on a PIL picture;
    where the resized picture is smaller than the crop it is padded with zeros. ``image`` may have any mode.

    ``fast`` computes only the pixels that the crop keeps, and averages blocks of pixels first where the picture is
    four times too large or more: a few grey levels away from exact, on average less than half of one; nearest has
    no fast form. A picture so long and narrow that resizing it would make more than 67 megapixels (1:1024, for a
    shorter side of 256) is always computed in this way, but without the averaging: with bilinear one or two grey
    levels away.

    ``antialias=False`` samples nearest, bilinear or bicubic with 1, 2 or 4 taps a side, as torchvision does on uint8
    tensors, to one grey level; ``fast`` makes no difference then. Raises SpecError for lanczos, which has no such form.

    ``resize`` computes what Pillow would, the same bytes, and gives None for what it leaves to Pillow. It is faster
    than ``fast``, which makes no difference then.
    """
    import numpy as np

    pixels = np.frombuffer(crop_bytes(image, preprocess, fast=fast, resize=resize), np.uint8)
    return pixels.reshape(preprocess.crop, preprocess.crop, 3)


def crop_bytes(
    image: Image.Image, preprocess: Preprocess, *, fast: bool = False, resize: Resize | None = None
) -> bytearray:
    """What ``crop_pixels`` makes of a photograph, as bytes."""
    image = to_rgb(image)
    width, height = image.size
    if preprocess.fit == "crop":
        shorter = min(width, height)
        # As torchvision: the longer side is rounded down.
        x = Axis.of(width, preprocess.resize * width // shorter, preprocess.crop)
        y = Axis.of(height, preprocess.resize * height // shorter, preprocess.crop)
    else:
        place = placement(image.size, preprocess)
        x, y = Axis(width, place.width, 0, place.width, 0), Axis(height, place.height, 0, place.height, 0)

    huge = x.resized * y.resized > _MAX_RESIZED_PIXELS
    if not preprocess.antialias:
        from fusiform.data.sampling import sample  # in numpy

        kept = sample(image, y, x, preprocess.interpolation)
    elif resize is not None and not huge and (found := resize(image, x, y, preprocess.interpolation)) is not None:
        if len(found) == 3 * preprocess.crop**2 and preprocess.color_order == "rgb":
            return found
        kept = Image.frombytes("RGB", (x.kept, y.kept), found)
    elif (fast and preprocess.interpolation != "nearest") or huge:
        gap = _REDUCING_GAP if fast else None
        kept = _resize_region(image, x, y, RESAMPLING[preprocess.interpolation], gap)
    else:
        resized = image.resize((x.resized, y.resized), RESAMPLING[preprocess.interpolation])
        kept = resized.crop((x.first, y.first, x.first + x.kept, y.first + y.kept))

    if preprocess.color_order == "bgr":
        kept = Image.merge("RGB", kept.split()[::-1])
    if kept.size != (preprocess.crop, preprocess.crop):
        padding = mean_color(preprocess) if preprocess.fit == "pad" else 0
        whole = Image.new("RGB", (preprocess.crop, preprocess.crop), padding)
        whole.paste(kept, (x.padding, y.padding))
        kept = whole
    return bytearray(kept.tobytes())


class Placement(NamedTuple):
    """Where a photograph lies in the network's input: the input's size, and the rectangle it fills, in pixels.

    Whatever surrounds the rectangle is padding.
    """

    input_width: int
    input_height: int
    left: int
    top: int
    width: int
    height: int


def placement(size: tuple[int, int], preprocess: Preprocess) -> Placement:
    """Where a photograph of ``size`` (width, height) lies in the network's square under ``stretch`` and ``pad``.

    ValueError for ``crop``, which does not show all of it.
    """
    side = preprocess.crop
    if preprocess.fit == "stretch":
        return Placement(side, side, 0, 0, side, side)
    if preprocess.fit == "pad":
        width, height = (max(1, math.floor(side * length / max(size) + 0.5)) for length in size)
        return Placement(side, side, 0, 0, width, height)
    raise ValueError("a photograph that is cropped does not lie in the input as a whole")


def mean_color(preprocess: Preprocess) -> tuple[int, int, int]:
    """The colour nearest to what normalisation turns into zero, in ``color_order``."""
    first, second, third = (min(max(round(255 * mean), 0), 255) for mean in preprocess.mean)
    return first, second, third


def normalize(
    pixels: NDArray[np.uint8], preprocess: Preprocess, *, layout: Literal["nchw", "nhwc"] = "nchw"
) -> NDArray[np.float32]:
    """Scale pixels to [0, 1], subtract the mean and divide by the standard deviation of each channel.

    ``pixels`` is uint8, (height, width, 3) or (batch, height, width, 3), in the spec's ``color_order``. The answer is
    contiguous float32 of the same size with the channels where ``layout`` puts them, equal to torchvision's
    ``ToTensor`` and ``Normalize``: the same operations in the same order and precision.
    """
    import numpy as np

    mean, std = np.array(preprocess.mean, np.float32), np.array(preprocess.std, np.float32)
    if layout == "nchw":
        values = np.moveaxis(pixels, -1, -3).astype(np.float32, order="C")
        mean, std = mean[:, None, None], std[:, None, None]
        scaled = values
    else:
        values = pixels.astype(np.float32, order="C")
        # Whole rows at a time: numpy is several times slower along an axis of three.
        width = pixels.shape[-2]
        mean, std = np.tile(mean, width), np.tile(std, width)
        scaled = values.reshape(*pixels.shape[:-2], width * 3)
    scaled /= np.float32(255)
    scaled -= mean
    scaled /= std
    return values


def _resize_region(
    image: Image.Image, x: Axis, y: Axis, resampling: Image.Resampling, gap: float | None
) -> Image.Image:
    """Only the kept pixels of the resized picture."""
    box = (x.first * x.scale, y.first * y.scale, (x.first + x.kept) * x.scale, (y.first + y.kept) * y.scale)
    if max(image.size) > 1 << 14:
        # Pillow holds the box in single precision: cut a margin wider than any filter's support around it first.
        margin_x, margin_y = (int(4 * max(axis.scale, 1)) + 1 for axis in (x, y))
        left, top = max(int(box[0]) - margin_x, 0), max(int(box[1]) - margin_y, 0)
        right, bottom = min(int(box[2]) + margin_x, x.length), min(int(box[3]) + margin_y, y.length)
        image = image.crop((left, top, right, bottom))
        box = (box[0] - left, box[1] - top, box[2] - left, box[3] - top)
    box = (box[0], box[1], min(box[2], image.width), min(box[3], image.height))
    return image.resize((x.kept, y.kept), resampling, box=box, reducing_gap=gap)
