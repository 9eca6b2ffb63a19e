"""PPM and PGM whose samples reach to another number than 255: Pillow scales them one by one, 1 s for a megapixel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO, cast

from PIL import Image, PpmImagePlugin

if TYPE_CHECKING:
    import numpy as np

_SAMPLES = 1 << 20
"""How many are read at a time."""


class PpmFile(PpmImagePlugin.PpmImageFile):
    """A picture as Pillow reads it, to the last digit."""

    def load(self) -> Any:
        """Decode the picture, once."""
        if self._im is None and self.tile and self.tile[0][0] == "ppm":
            import numpy as np

            _, _, offset, (mode, largest) = cast(tuple[str, Any, int, tuple[str, int]], self.tile[0])
            stream, bands = cast(BinaryIO, self.fp), len(self.getbands())
            stored = np.dtype(np.uint8 if largest < 256 else ">u2")
            full, kind = (65535, np.int32) if self.mode == "I" else (255, np.uint8)
            levels: np.ndarray[Any, np.dtype[Any]] = np.empty(self.width * self.height * bands, kind)
            stream.seek(offset)
            for start in range(0, levels.size, _SAMPLES):
                count = min(_SAMPLES, levels.size - start)
                data = stream.read(count * stored.itemsize)
                if len(data) < count * stored.itemsize:
                    raise EOFError("truncated: there are fewer samples than pixels")
                values = np.frombuffer(data, stored).astype(np.float64)
                levels[start : start + count] = np.minimum(full, np.rint(values / largest * full))
            self.im = Image.frombuffer(self.mode, self.size, levels, "raw", "I" if self.mode == "I" else mode, 0, 1).im
            self.tile = []
        return super().load()
