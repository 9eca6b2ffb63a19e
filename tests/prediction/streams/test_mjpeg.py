"""JPEG pictures in a stream of bytes."""

from __future__ import annotations

import io
import random
import sys
from pathlib import Path

import pytest
from PIL import Image

from fusiform.prediction.streams import mjpeg
from fusiform.prediction.streams.mjpeg import Splitter

sys.path.insert(0, str(Path(__file__).parent))

from numbered_frames import jpeg

sys.path.pop(0)

PICTURES = [jpeg(number) for number in range(5)]


def split(data: bytes, size: int) -> tuple[list[bytes], int]:
    splitter = Splitter()
    found = [picture for at in range(0, len(data), size) for picture in splitter.feed(data[at : at + size])]
    return found, splitter.damaged


@pytest.mark.parametrize("size", [1, 7, 1000, 10**6])
def test_pictures_are_found_in_pieces_of_any_length(size: int) -> None:
    assert split(b"".join(PICTURES), size) == (PICTURES, 0)


@pytest.mark.parametrize("size", [1, 64, 10**6])
def test_what_lies_between_is_passed_over(size: int) -> None:
    header = b"\r\n--frame\r\nContent-Type: image/jpeg\r\nContent-Length: 12\r\n\r\n"
    assert split(header + header.join(PICTURES) + header, size) == (PICTURES, 0)


def with_thumbnail(number: int) -> bytes:
    """A picture with another JPEG within its EXIF, as cameras write them."""
    body = jpeg(number)
    inner = jpeg(200)
    segment = b"Exif\0\0" + inner
    return body[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + body[2:]


@pytest.mark.parametrize("size", [1, 100, 10**6])
def test_a_thumbnail_within_a_picture_is_none(size: int) -> None:
    pictures = [with_thumbnail(1), with_thumbnail(2)]
    assert split(b"".join(pictures), size) == (pictures, 0)
    Image.open(io.BytesIO(pictures[0])).load()


def test_progressive_pictures_and_restart_markers_are_read_to_their_end() -> None:
    pictures = [jpeg(3, progressive=True), jpeg(4, restart_marker_blocks=1), jpeg(5, optimize=True)]
    assert b"\xff\xd0" in pictures[1]
    assert split(b"".join(pictures), 11) == (pictures, 0)


@pytest.mark.parametrize("size", [1, 50, 10**6])
def test_after_a_picture_that_breaks_off_the_next_one_is_whole(size: int) -> None:
    first, second, third = PICTURES[:3]
    for cut in (5, 100, len(first) // 2, len(first) - 1):
        assert split(first[:cut] + second + third, size)[0][-1] == third
    # Within the picture's data the next beginning is seen at once.
    assert split(first[: len(first) - 20] + second + third, size) == ([second, third], 1)


def test_what_has_no_end_is_given_up_and_takes_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mjpeg, "LARGEST_FRAME", 10_000)
    splitter = Splitter()
    splitter.feed(PICTURES[0][:-2])
    for _ in range(100):
        assert splitter.feed(b"\x11" * 1000) == []
        assert len(splitter._data) <= 11_000
    assert splitter.damaged == 1
    assert splitter.feed(PICTURES[1]) == [PICTURES[1]]


def test_bytes_by_chance_end_and_never_raise() -> None:
    chance = random.Random(1)
    for _ in range(200):
        data = bytearray(b"".join(PICTURES))
        for _ in range(chance.randrange(1, 40)):
            data[chance.randrange(len(data))] = chance.choice((0, 0xFF, 0xD8, 0xD9, 0xDA, chance.randrange(256)))
        found, _ = split(bytes(data), chance.choice((1, 33, 4096)))
        assert all(picture[:2] == b"\xff\xd8" and picture[-2:] == b"\xff\xd9" for picture in found)
