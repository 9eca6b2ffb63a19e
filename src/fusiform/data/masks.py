"""Masks as pictures: which value or colour of a pixel stands for which class."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from fusiform.data import limits
from fusiform.data.image import identify, without_warnings
from fusiform.errors import ImageError
from fusiform.report import printable

VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""VOC's names in the order of its masks' values."""


IGNORE = 255
"""The value of a mask's pixels that belong to no class: the border around objects, and what is hard to tell."""


Ignore = Literal["255", "none"]
"""What ``IGNORE`` is in a dataset's masks: pixels of no class, or with ``none`` those of the last class."""


def _voc_palette() -> NDArray[np.uint8]:
    # VOC's development kit, VOClabelcolormap.m: bits 0, 3, 6 of the value are red's highest, 1, 4, 7 green's,
    # 2, 5 blue's.
    values = np.arange(256)
    colours = np.zeros((256, 3), int)
    for place in range(3):
        for channel in range(3):
            colours[:, channel] |= (values >> (3 * place + channel) & 1) << (7 - place)
    return colours.astype(np.uint8)


PALETTE = _voc_palette()
"""VOC's colour of each value of a mask, uint8 [256, 3] RGB."""


def read_mask(
    path: str | os.PathLike[str], size: tuple[int, int] | None, *, classes: int | None = None, ignore: bool = True
) -> NDArray[np.uint8]:
    """Read a mask: uint8 [height, width] with the label of each pixel, 255 where it belongs to none.

    A palette's indices are the labels whatever its colours; so are the levels of a grey PNG. An RGB mask must be in
    VOC's colours (``PALETTE``; (224, 224, 192) is 255). Transparency is not looked at. ``size`` is the width and
    height in pixels of the mask's picture, ``classes`` the number of labels, where they are known. Without ``ignore``
    the value 255 is the last of ``classes``.

    Raises ImageError, which names the file, for one that is missing, damaged or no PNG, of another size than
    its picture, with a colour that is none of VOC's, or a label of ``classes`` or more.
    """
    name = printable(os.fspath(path))
    try:
        data = limits.read_file(Path(path), name)
    except FileNotFoundError:
        raise ImageError(f"{name}: no such mask: check the path", "missing mask") from None
    except OSError as error:
        message = f"{name}: the mask cannot be read ({error.strerror}): check its permissions"
        raise ImageError(message, "damaged mask") from None
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        message = f"{name}: is no PNG, and other formats blur a mask or change it: save the mask as PNG"
        raise ImageError(message, "mask is no PNG")
    try:
        with without_warnings(), identify(io.BytesIO(data), data[:32], name) as image:
            if size is not None and image.size != size:
                raise ImageError(
                    f"{name}: the mask is {image.width} x {image.height} pixels and its picture {size[0]} x {size[1]}: "
                    "draw it again in the picture's size",
                    "mask of another size",
                )
            try:
                limits.check_memory(image, io.BytesIO(data), name)
            except ImageError as error:
                raise ImageError(str(error), "damaged mask") from None
            image.load()
            if image.mode in ("RGB", "RGBA"):
                labels = _from_colours(np.asarray(image.convert("RGB")), name)
                return _check_labels(labels, name, classes=classes, ignore=ignore)
            values = np.asarray(image.getchannel(0) if image.mode == "LA" else image)
    except ImageError:
        raise
    except Exception as error:  # a damaged file can make Pillow raise nearly anything
        message = f"{name}: the mask is damaged ({error}): copy or download it again"
        raise ImageError(message, "damaged mask") from error
    # Pillow spreads grey of 2 and 4 bits over 0..255; the depth is byte 24 of a PNG (ISO/IEC 15948, 11.2.2).
    if image.mode == "L" and (depth := data[24]) in (2, 4):
        values = values // (255 // ((1 << depth) - 1))
    return _check_labels(values, name, classes=classes, ignore=ignore)


def _from_colours(colours: NDArray[np.uint8], name: str) -> NDArray[np.intp]:
    weights = np.array([1 << 16, 1 << 8, 1])
    known = PALETTE @ weights
    order = np.argsort(known)
    pixels = colours @ weights
    labels = order[np.searchsorted(known, pixels, sorter=order).clip(max=255)]
    if (wrong := known[labels] != pixels).any():
        row, column = np.argwhere(wrong)[0]
        red, green, blue = colours[row, column]
        raise ImageError(
            f"{name}: {np.count_nonzero(wrong)} pixels have colours that are none of VOC's, ({red}, {green}, {blue}) "
            f"at column {column}, row {row}: save the labels themselves as a grey or palette PNG",
            "mask of unknown colours",
        )
    return np.asarray(labels)


def _check_labels(values: NDArray[np.generic], name: str, *, classes: int | None, ignore: bool) -> NDArray[np.uint8]:
    labels = values.astype(np.int64)
    if not ignore and classes is not None:
        labels[labels == IGNORE] = classes - 1
    if labels.max() > IGNORE:
        message = f"{name}: has the label {labels.max()}, and no more than {IGNORE} (ignored) is read: fix it"
        raise ImageError(message, "label of no class")
    if classes is not None and (wrong := (labels >= classes) & (labels != IGNORE)).any():
        most = Counter(labels[wrong].tolist()).most_common(1)[0][0]
        raise ImageError(
            f"{name}: {np.count_nonzero(wrong)} pixels have labels beyond the {classes} classes, most of them {most}: "
            f"name the classes in {CLASS_NAMES_FILE}, or draw the mask again",
            "label of no class",
        )
    return labels.astype(np.uint8)


_LOOKED_AT = 40
_AREA = 0.01


class Areas(NamedTuple):
    """Where ``IGNORE`` covers areas: a mask that shows it, their share of all pixels, and whether they are a class."""

    example: Path
    share: float
    instead_of_class: bool


def find_areas(files: Sequence[Path], classes: int) -> Areas | None:
    """Areas of ``IGNORE`` in masks of so many classes, or None where it is borders and what is unclear.

    Areas are more than ``_AREA`` of all pixels, so far inside that no border is as wide: VOC's are 5 pixels of 500.
    They are a class where no mask shows the last one. So is anything of 255, however thin, that is all that masks have
    beside a ground. Some ``_LOOKED_AT`` masks are opened, and more if the last class is in none; those that are 255
    everywhere, or cannot be read, are passed over.
    """
    example: Path | None = None
    values: set[int] = set()
    shares = []
    chosen = files[:: max(1, len(files) // _LOOKED_AT)]
    for file in chosen:
        labels = _labels_of(file)
        if labels is None:
            continue
        found = set(np.unique(labels).tolist())
        values |= found
        shares.append(0.0)
        if IGNORE in found:
            ignored = Image.fromarray(np.where(labels == IGNORE, 255, 0).astype(np.uint8))
            # Means of squares, which are 255 where all of the square is; the edge goes on beyond the mask.
            core = np.asarray(ignored.filter(ImageFilter.BoxBlur(max(1, round(max(ignored.size) / 100))))) == 255
            shares[-1] = float(core.mean())
            example = example or file
            if shares[-1] > _AREA and max(shares[:-1], default=0.0) <= _AREA:
                example = file
    if example is None:
        return None
    share = sum(shares) / len(shares)
    if len(values) == 2:
        return Areas(example, share, True)
    if share <= _AREA:
        return None
    rest = (labels for file in files if file not in set(chosen) and (labels := _labels_of(file)) is not None)
    learned = classes - 1 in values or any((labels == classes - 1).any() for labels in rest)
    return Areas(example, share, not learned)


def _labels_of(file: Path) -> NDArray[np.uint8] | None:
    """A mask that can be read and has a label."""
    try:
        labels = read_mask(file, None)
    except ImageError:
        return None
    return None if (labels == IGNORE).all() else labels


CLASS_NAMES_FILE = "class_names.txt"
