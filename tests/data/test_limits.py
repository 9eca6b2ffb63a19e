"""What one picture may take of memory and time, and all of a folder together."""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from fusiform.data import limits
from fusiform.data.image import read_image, to_rgb
from fusiform.data.names import is_file
from fusiform.errors import ImageError

SIDE = 2400
"""Pixels: so that what is measured is well above what Python takes by the way."""
PEAK = """
import sys
from fusiform.data import image, limits

said, count = [], limits.decoding_bytes
limits.decoding_bytes = lambda *given, **more: said.append(count(*given, **more)) or said[0]


def peak():
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])


image.read_image(sys.argv[1])  # a small one, so that nothing is left to import
said.clear()
before = peak()
size = image.read_image(sys.argv[2]).size
print(size[0] * size[1], peak() - before, said[0])
"""


def refusal(source: object) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(source)  # type: ignore[arg-type]
    return str(caught.value)


def pictures(side: int) -> dict[str, tuple[Image.Image, dict[str, object]]]:
    """A picture in each format and mode that is read in a way of its own, under its file's name."""
    grey = np.add.outer(np.arange(side), np.arange(side) // 3).astype(np.uint8)
    rgb = Image.fromarray(np.stack([grey, grey.T, grey[::-1]], -1))
    alpha = Image.new("L", (side, side), 200)
    rgba, la = Image.merge("RGBA", (*rgb.split(), alpha)), Image.merge("LA", (Image.fromarray(grey), alpha))
    palette, cmyk, deep = rgb.quantize(16), rgb.convert("CMYK"), Image.fromarray(grey.astype(np.uint16) * 200)
    turned = Image.Exif()
    turned[274] = 6
    return {
        "rgb.jpg": (rgb, {}),
        "turned.jpg": (rgb, {"exif": turned}),
        "scans.jpg": (rgb, {"progressive": True}),
        "scans444.jpg": (rgb, {"progressive": True, "subsampling": 0}),
        "grey.jpg": (rgb.convert("L"), {}),
        "cmyk.jpg": (cmyk, {"progressive": True}),
        "rgb.png": (rgb, {"compress_level": 1}),
        "rgba.png": (rgba, {"compress_level": 1}),
        "la.png": (la, {"compress_level": 1}),
        "transparent.png": (palette, {"transparency": 3}),
        "deep.png": (deep, {"compress_level": 1}),
        "palette.gif": (palette, {"transparency": 3}),
        "rgb.bmp": (rgb, {}),
        "rgb.ppm": (rgb, {}),
        "rgb.webp": (rgb, {"quality": 30, "method": 0}),
        "rgba.webp": (rgba, {"quality": 30, "method": 0}),
        "rgb.tif": (rgb, {"compression": "tiff_lzw"}),
        "jpeg.tif": (rgb, {"compression": "jpeg"}),
        "cmyk.tif": (cmyk, {}),
        "deep.tif": (deep, {}),
        "deep_lzw.tif": (deep, {"compression": "tiff_lzw"}),
        "float.tif": (Image.fromarray(grey.astype(np.float32)), {}),
        "float_lzw.tif": (Image.fromarray(grey.astype(np.float32)), {"compression": "tiff_lzw"}),
        **({"rgb.avif": (rgb, {"quality": 30, "speed": 10})} if features.check("avif") else {}),
        **({"rgba.jp2": (rgba, {})} if features.check("jpg_2000") else {}),
    }


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc has the most memory that was taken")
@pytest.mark.parametrize("name", pictures(8))
def test_no_picture_takes_more_memory_than_is_said_before(name: str, tmp_path: Path) -> None:
    for folder, side in (("small", 16), ("large", SIDE)):
        (tmp_path / folder).mkdir()
        picture, options = pictures(side)[name]
        picture.save(tmp_path / folder / name, **options)  # type: ignore[arg-type]
    command = [sys.executable, "-c", PEAK, *(str(tmp_path / folder / name) for folder in ("small", "large"))]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    pixels, taken, said = map(int, done.stdout.split())
    assert pixels == SIDE**2
    assert taken <= said * 1.02 + 12e6  # allocators round, and decoders have rows of their own
    assert said <= 2 * taken + 12e6


def tiff(entries: dict[int, tuple[int, ...]], data: bytes) -> bytes:
    table, beyond, behind = b"", b"", 8 + 2 + 12 * (len(entries) + 1) + 4
    entries = {**entries, 273 if 322 not in entries else 324: (0,)}
    place = behind + sum(4 * len(values) for values in entries.values() if len(values) > 1)
    entries[273 if 322 not in entries else 324] = (place,)
    for tag, values in sorted(entries.items()):
        packed = struct.pack(f"<{len(values)}I", *values)
        if len(packed) > 4:
            packed, beyond = struct.pack("<I", behind + len(beyond)), beyond + packed
        table += struct.pack("<HHI", tag, 4, len(values)) + packed
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4) + beyond + data


def bombs() -> dict[str, bytes]:
    """Some hundred kilobytes that ask for gigabytes, in every kind that once got them."""

    def saved(picture: Image.Image, form: str, **options: object) -> bytes:
        stream = io.BytesIO()
        picture.save(stream, form, **options)
        return stream.getvalue()

    tile = {256: (10,), 257: (10,), 258: (8,), 259: (8,), 262: (1,), 277: (1,), 322: (32768,), 323: (21840,), 325: (9,)}
    jpeg = bytearray(saved(Image.new("CMYK", (64, 64)), "JPEG"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 14142, 14142)
    png = bytearray(saved(Image.new("RGBA", (8, 8)), "PNG"))
    png[16:24] = struct.pack(">II", 14142, 14142)
    png[29:33] = struct.pack(">I", __import__("zlib").crc32(png[12:29]))
    webp = bytearray(saved(Image.new("RGB", (16, 16)), "WEBP", lossless=True))
    at = webp.index(b"VP8L") + 9
    webp[at : at + 4] = struct.pack("<I", (10391 - 1) | (10391 - 1) << 14)
    return {
        "tile.tif": tiff(tile, b"x" * 9),
        "deep_tile.tif": tiff({**tile, 258: (16,)}, b"x" * 9),
        "float.tif": tiff({256: (7072,), 257: (7072,), 258: (32,) * 4, 259: (8,), 262: (2,), 277: (4,), 278: (7072,),
                           279: (9,), 339: (3,) * 4}, b"x" * 9),
        "pages.tif": tiff({256: (14142,), 257: (14142,), 258: (32,), 259: (1,), 262: (1,), 277: (1,), 278: (14142,),
                           279: (9,), 339: (3,)}, b"x" * 9),
        "rgba.png": bytes(png),
        "cmyk.jpg": bytes(jpeg),
        "rgb.webp": bytes(webp),
        "screen.gif": b"GIF89a" + struct.pack("<HH", 13400, 13400) + b"\0\0\0," + struct.pack("<4H", 0, 0, 13400, 13400)
        + b"\0\x08\x01\0\0;",
    }  # fmt: skip


@pytest.mark.parametrize("name", bombs())
def test_every_kind_of_bomb_is_refused_in_the_same_words(name: str) -> None:
    said = refusal(bombs()[name])
    assert "and no more than 870 MB are used: make the picture smaller" in said
    assert re.search(r"is \d+ x \d+ pixels, which take [\d,]+ MB to decode", said)


def test_what_no_header_tells_is_refused_in_nearly_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    stream = io.BytesIO()
    Image.new("RGB", (9, 9)).save(stream, "WEBP")
    assert "no more than 870 MB are used: make the picture smaller" in refusal(stream.getvalue())


def test_a_jpeg_of_endless_scans_is_refused_before_they_are_decoded() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (1024, 1024), "red").save(stream, "JPEG", progressive=True)
    content = stream.getvalue()
    first = content.index(b"\xff\xda")
    scan = content[first : content.index(b"\xff\xda", first + 2)]
    scan = scan[: scan.index(b"\xff\xc4")] if b"\xff\xc4" in scan else scan
    assert read_image(content[:-2] + scan * 20 + content[-2:]).size == (1024, 1024)
    began = time.process_time()
    assert "is damaged (it is sent in 40" in refusal(content[:-2] + scan * 4000 + content[-2:])
    assert time.process_time() - began < 1
    # As much as a photograph of 200 megapixels in the usual ten scans.
    assert limits.MAX_SCANS_PIXELS >= 200_000_000 * 20


@pytest.mark.parametrize(
    "start",
    [
        b"\xff\xd8\xff\xe0\0\4aa",  # then zeros, where a marker should stand
        b"GIF89a\x10\0\x10\0\0\0\0",
        b"P5 ",
        b"II*\0\x08\0\0\0\xff\xff" + struct.pack("<HHII", 1, 7, 1 << 29, 8) * 65535,
    ],
)
def test_a_header_that_never_ends_is_left_soon(start: bytes, tmp_path: Path) -> None:
    path = tmp_path / "sparse.bin"
    path.write_bytes(start)
    os.truncate(path, 3 << 30)
    began = time.process_time()
    assert "is damaged" in refusal(path) or "not a picture" in refusal(path)
    assert time.process_time() - began < 2


def test_markers_without_end_are_left_soon() -> None:
    for piece in (b"\xff\xfe\0\2", b"\xff", b"\xff\0"):
        began = time.process_time()
        assert "goes on and on without a picture" in refusal(b"\xff\xd8\xff\xfe\0\2" + piece * (1 << 21))
        assert time.process_time() - began < 2


def test_what_is_read_whole_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "animation.webp"
    path.write_bytes(b"RIFF\xff\xff\xff\x7fWEBPVP8 ")
    os.truncate(path, 3 << 30)
    assert "is damaged (it goes on and on without a picture)" in refusal(path)

    class Endless(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            assert 0 < size <= 1 << 24
            return bytes(size)

    assert f"is longer than {limits.MAX_FILE_BYTES >> 20} MB" in refusal(Endless())


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such files")
def test_pipes_and_devices_are_refused_before_they_are_opened(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe.jpg", tmp_path / "zero.jpg"
    os.mkfifo(pipe)
    link.symlink_to("/dev/zero")
    assert refusal(pipe) == (
        f"{pipe}: is a named pipe, not a file: write the picture to a file, or give - for standard input"
    )
    assert "is a device, not a file" in refusal(link)
    assert "is a device, not a file" in refusal("/dev/zero")


@pytest.mark.parametrize(
    ("kind", "largest"), [(b"P5", 254), (b"P5", 1023), (b"P6", 100), (b"P6", 1023), (b"P6", 65535)]
)
def test_a_deep_ppm_is_read_as_pillow_reads_it_and_soon(kind: bytes, largest: int) -> None:
    random, bands = np.random.default_rng(0), 3 if kind == b"P6" else 1
    samples = random.integers(0, largest + 3, (50, 40, bands)).clip(max=65535 if largest > 255 else 255)
    content = b"%s 40 50 %d\n" % (kind, largest) + samples.astype(">u2" if largest > 255 else np.uint8).tobytes()
    with Image.open(io.BytesIO(content)) as expected:
        assert np.array_equal(np.asarray(read_image(content)), np.asarray(to_rgb(expected)))
    assert "is cut short" in refusal(content[:-1])
    began = time.process_time()
    assert read_image(b"%s 2000 2000 %d\n" % (kind, largest) + bytes(2000 * 2000 * 6)).size == (2000, 2000)
    assert time.process_time() - began < 2


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere libtiff's lines are seen")
def test_libtiff_says_nothing_beside_the_message(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(stream, "TIFF", compression="tiff_lzw")
    path = tmp_path / "damaged.tif"
    path.write_bytes(stream.getvalue()[:40] + bytes(range(255, 0, -1)) * 4 + stream.getvalue()[1060:])
    code = (
        f"from fusiform.data.image import read_image\ntry: read_image({str(path)!r})\nexcept Exception as e: print(e)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert "is damaged" in done.stdout
    assert done.stderr == ""
    alone = f"from PIL import Image\ntry: Image.open({str(path)!r}).load()\nexcept Exception: pass"
    assert subprocess.run([sys.executable, "-c", alone], capture_output=True, check=True).stderr != b""


def test_pillow_says_nothing_beside_the_message(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "TIFF")
    samples = struct.pack("<HHII", 277, 3, 1, 3)  # SamplesPerPixel, a SHORT
    assert samples in stream.getvalue()
    path = tmp_path / "many.tif"
    path.write_bytes(stream.getvalue().replace(samples, struct.pack("<HHII", 277, 3, 1, 127)))
    read = "from fusiform.data.image import read_image\ntry: read_image({!r})\nexcept Exception as e: print(e)"
    done = subprocess.run([sys.executable, "-c", read.format(str(path))], capture_output=True, text=True, check=True)
    assert str(path) in done.stdout
    assert done.stderr == ""
    alone = f"from PIL import Image\ntry: Image.open({str(path)!r})\nexcept Exception: pass"
    assert b"More samples" in subprocess.run([sys.executable, "-c", alone], capture_output=True, check=True).stderr


def test_a_name_of_any_length_is_no_file(tmp_path: Path) -> None:
    assert "cannot be read (File name too long): check where" in refusal(tmp_path / ("n" * 300 + ".jpg"))
    assert "no such file" in refusal(tmp_path / "a" / "b.jpg")
    assert not is_file(tmp_path / ("n" * 300))
    assert not is_file(Path("a\0b"))
    assert is_file(Path(__file__))


# The budget


def test_threads_wait_for_each_others_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_DECODED_BYTES", 100 << 20)
    now, most, lock = [0], [0], threading.Lock()

    def decode(size: int) -> None:
        with limits.one_picture():
            with limits.memory_for(size):
                with lock:
                    now[0] += size
                    most[0] = max(most[0], now[0])
                time.sleep(0.002)
            time.sleep(0.002)  # cropped meanwhile
            with lock:
                now[0] -= size

    sizes = [size << 20 for size in (60, 30, 99, 100, 20, 45, 50, 9, 70, 33) * 3]
    threads = [threading.Thread(target=decode, args=(size,)) for size in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert 60 << 20 < most[0] <= 100 << 20
    assert limits._BUDGET._used == 0


def test_small_pictures_never_wait_and_a_thread_never_for_itself() -> None:
    with limits.one_picture(), limits.memory_for(limits.MAX_DECODED_BYTES), limits.memory_for(limits.MAX_DECODED_BYTES):
        other = threading.Thread(target=lambda: limits.memory_for(1 << 20).__enter__())
        other.start()
        other.join(timeout=20)
        assert not other.is_alive()
    assert limits._BUDGET._used == 0


def test_memory_is_given_back_when_decoding_fails() -> None:
    stream = io.BytesIO()
    Image.effect_noise((4000, 4000), 90).save(stream, "PNG", compress_level=0)
    with limits.one_picture():
        assert "cut short" in refusal(stream.getvalue()[: 1 << 20])
    assert limits._BUDGET._used == 0
