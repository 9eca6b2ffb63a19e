"""Moving pictures for a browser's fake camera and its video element, made of still ones."""

from __future__ import annotations

import io
import struct

from PIL import Image


def make_mjpeg(path, frames):
    """What Chromium's ``--use-file-for-fake-video-capture`` takes: one JPEG after the other."""
    path.write_bytes(b"".join(_encode(frame, "JPEG", quality=95) for frame in frames))
    return path


def make_webm(path, frames, milliseconds):
    """A WebM of frames of one size that are shown for so long each: VP8, every frame a whole picture, as in a WebP."""
    header = _element(
        0x1A45DFA3,
        _number(0x4286, 1) + _number(0x42F7, 1) + _number(0x42F2, 4) + _number(0x42F3, 8),
        _element(0x4282, b"webm") + _number(0x4287, 2) + _number(0x4285, 2),
    )
    width, height = frames[0].size
    info = _element(
        0x1549A966,
        _number(0x2AD7B1, 1_000_000),  # nanoseconds of a unit of time
        _element(0x4489, struct.pack(">d", len(frames) * milliseconds)),
        _element(0x4D80, b"test") + _element(0x5741, b"test"),
    )
    shape = _element(0xE0, _number(0xB0, width), _number(0xBA, height))
    track = _element(0xAE, _number(0xD7, 1), _number(0x73C5, 1), _number(0x83, 1), _element(0x86, b"V_VP8"), shape)
    tracks = _element(0x1654AE6B, track)
    clusters = [
        _element(0x1F43B675, _number(0xE7, k * milliseconds), _element(0xA3, b"\x81\0\0\x80", vp8_of(frame)))
        for k, frame in enumerate(frames)
    ]

    def cues(positions):
        return _element(
            0x1C53BB6B,
            *(
                _element(
                    0xBB, _number(0xB3, k * milliseconds), _element(0xB7, _number(0xF7, 1), _number(0xF1, position))
                )
                for k, position in enumerate(positions)
            ),
        )

    at = len(info + tracks + cues([0] * len(frames)))
    positions = [at + sum(map(len, clusters[:k])) for k in range(len(frames))]
    path.write_bytes(header + _element(0x18538067, info, tracks, cues(positions), *clusters))
    return path


def vp8_of(frame):
    """The one picture of a lossy WebP is a key frame of VP8."""
    data = _encode(frame, "WEBP", quality=95)
    assert data[12:16] == b"VP8 "
    return data[20 : 20 + struct.unpack("<I", data[16:20])[0]]


def _encode(frame, kind, **options):
    file = io.BytesIO()
    Image.frombytes("RGB", frame.size, frame.convert("RGB").tobytes()).save(file, kind, **options)
    return file.getvalue()


def _element(number, *parts):
    content = b"".join(parts)
    return number.to_bytes((number.bit_length() + 7) // 8, "big") + b"\x01" + len(content).to_bytes(7, "big") + content


def _number(number, value):
    return _element(number, value.to_bytes(8, "big"))
