"""AVIF, JPEG 2000 and HEIF pictures, whose decoders not every installation has."""

from __future__ import annotations

import importlib
from typing import Any, BinaryIO, cast

from PIL import ImageFile, features

from fusiform.data.image import MissingDecoderError


def open_avif(stream: BinaryIO) -> ImageFile.ImageFile:
    """An AVIF picture, nothing decoded yet; MissingDecoderError where the installed Pillow reads none."""
    # Pillow reads them since 11.3; older ones do not know the feature, and warn.
    try:
        plugin = importlib.import_module("PIL.AvifImagePlugin")
    except ImportError:
        plugin = None
    if plugin is None or not plugin.SUPPORTED:
        raise MissingDecoderError(
            "is an AVIF file, which the installed Pillow does not read: pip install --upgrade pillow, or save it as "
            "JPEG or PNG"
        )
    return cast(ImageFile.ImageFile, plugin.AvifImageFile(stream))


def open_jpeg_2000(stream: BinaryIO) -> ImageFile.ImageFile:
    """A JPEG 2000 picture, nothing decoded yet; MissingDecoderError where the installed Pillow reads none."""
    if not features.check_codec("jpg_2000"):
        raise MissingDecoderError(
            "is a JPEG 2000 file, which the installed Pillow does not read: install Pillow from PyPI, or save it as "
            "JPEG or PNG"
        )
    from PIL import Jpeg2KImagePlugin

    return Jpeg2KImagePlugin.Jpeg2KImageFile(stream)


def open_heif(stream: BinaryIO) -> ImageFile.ImageFile:
    """A HEIC or HEIF picture, nothing decoded yet; MissingDecoderError without the extra ``heif``."""
    try:
        from pillow_heif.as_plugin import HeifImageFile
    except ImportError:
        raise MissingDecoderError(
            "is a HEIC file, which needs pillow-heif to be read: pip install 'fusiform[heif]', or save it as JPEG or "
            "PNG"
        ) from None
    opener: Any = HeifImageFile  # which has no types
    return cast(ImageFile.ImageFile, opener(stream))
