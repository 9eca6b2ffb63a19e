"""What every engine accepts, and the way between its two forms."""

from __future__ import annotations

from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from fusiform.data.preprocess import normalize
from fusiform.errors import UsageError
from fusiform.spec import ModelSpec, Preprocess

Batch = NDArray[np.float32] | NDArray[np.uint8]


def check_batch(batch: Batch, spec: ModelSpec) -> None:
    """Raise UsageError unless ``batch`` is float32 NCHW or uint8 NHWC of the network's input size."""
    size, channels = spec.input_size, spec.input_channels
    if batch.dtype == np.uint8 and channels != 3:
        raise UsageError(f"{spec.name} reads {channels} channels, pixels have 3: normalise, and pass float32 NCHW")
    wanted = {np.dtype("float32"): (channels, size, size), np.dtype("uint8"): (size, size, channels)}.get(batch.dtype)
    if wanted is None or batch.shape[1:] != wanted:
        raise UsageError(
            f"{spec.name} takes float32 (N, {channels}, {size}, {size}) or uint8 (N, {size}, {size}, {channels}), "
            f"got {batch.dtype} {batch.shape}"
        )


def as_pixels(batch: Batch, preprocess: Preprocess) -> NDArray[np.uint8]:
    """The batch as uint8 NHWC pixels: as it is, or with the normalisation undone and rounded."""
    if batch.dtype == np.uint8:
        return cast("NDArray[np.uint8]", batch)
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (preprocess.mean, preprocess.std))
    pixels = np.clip(np.rint((batch * std + mean) * 255), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))


def as_normalized(
    batch: Batch, preprocess: Preprocess, *, layout: Literal["nchw", "nhwc"] = "nchw"
) -> NDArray[np.float32]:
    """The batch as normalised float32 pictures, contiguous in ``layout``."""
    if batch.dtype == np.uint8:
        return normalize(cast("NDArray[np.uint8]", batch), preprocess, layout=layout)
    pictures = cast("NDArray[np.float32]", batch)
    return np.ascontiguousarray(pictures if layout == "nchw" else pictures.transpose(0, 2, 3, 1))
