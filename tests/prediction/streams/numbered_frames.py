"""Videos whose frames have their numbers in them, and an engine that answers at once, or as slowly as is asked."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusiform.spec import ModelSpec, Preprocess
from fusiform.zoo.model import Model

SPEC = ModelSpec(
    "mobilenet_v2", 1.0, ("red", "green", "blue"), input_size=32, preprocess=Preprocess(resize=32, crop=32)
)
MODEL = Model(Path("model.tflite"), "tflite", SPEC, b"")
BITS = 8


class Engine:
    """Answers which channel is brightest, after so many seconds."""

    seconds = 0.0

    def __init__(self) -> None:
        self.spec = SPEC

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        if self.seconds:
            time.sleep(self.seconds)
        return {"logits": batch.mean(axis=(1, 2), dtype=np.float32) / 32}


def numbered(number: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """A frame with its number in it: stripes from the left, white for each bit that is set, under a red half."""
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2] = (230, 20, 20)
    for bit in range(BITS):
        pixels[height // 2 :, bit * width // BITS : (bit + 1) * width // BITS] = 255 * (number >> bit & 1)
    return Image.fromarray(pixels)


def number_of(image: Image.Image) -> int:
    """The number in a frame, also where compression has changed its colours a little."""
    grey = np.asarray(image.convert("L"), float)
    row = grey[3 * grey.shape[0] // 4 - 2 : 3 * grey.shape[0] // 4 + 2].mean(0)
    width = len(row)
    bits = [row[bit * width // BITS + 2 : (bit + 1) * width // BITS - 2].mean() > 128 for bit in range(BITS)]
    return sum(bit << k for k, bit in enumerate(bits))


def jpeg(number: int, size: tuple[int, int] = (64, 48), **how: object) -> bytes:
    """The frame as a JPEG file."""
    data = io.BytesIO()
    numbered(number, size).save(data, "JPEG", quality=90, **how)
    return data.getvalue()


def make_video(
    path: Path,
    times: Iterable[float],
    *,
    codec: str = "libx264",
    size: tuple[int, int] = (64, 48),
    turn: Callable[[object], None] | None = None,
    picture: Callable[[int], Image.Image] | None = None,
    sound: bool = False,
) -> Path:
    """A video with a numbered frame at each of the times, in seconds; ``turn`` changes its stream before the first."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        if turn is not None:
            turn(stream)
        if sound:
            track = container.add_stream("aac", rate=8000)
        for number, seconds in enumerate(times):
            frame = av.VideoFrame.from_image(picture(number) if picture else numbered(number, size))
            frame.pts, frame.time_base = round(seconds * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound:
            quiet = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            quiet.sample_rate, quiet.pts = 8000, 0
            container.mux(track.encode(quiet))
            container.mux(track.encode(None))
    return path


def damage(path: Path, number: int) -> None:
    """Make zeros of the packet of this number, all but its beginning."""
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    at, size = places[number]
    data = bytearray(path.read_bytes())
    data[at + 8 : at + size] = bytes(size - 8)
    path.write_bytes(data)
