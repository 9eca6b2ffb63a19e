from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms, ImageDraw, ImageOps

from fusiform.data import image as image_module
from fusiform.data.dataset import Sample
from fusiform.data.image import read_image, to_rgb
from fusiform.errors import ImageError, UsageError


def photograph(width: int = 96, height: int = 64) -> Image.Image:
    """A picture with gradients and a shape off its centre, so that no two orientations look alike."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    rgb = np.stack([255 * x / width, 255 * y / height, 255 * (x + y) / (width + height)], axis=-1)
    picture = Image.fromarray(rgb.astype(np.uint8))
    ImageDraw.Draw(picture).ellipse((width // 8, height // 8, width // 3, height // 2), fill=(200, 30, 60))
    return picture


def encoded(
    picture: Image.Image, file_format: str, *, exif: Image.Exif | None = None, icc: bytes | None = None
) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, file_format, exif=exif if exif is not None else Image.Exif(), icc_profile=icc)
    return buffer.getvalue()


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes, rows: bytes = b"") -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + b"".join(chunks)
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )


# Formats


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_every_format_is_what_pillow_decodes_whatever_the_name(tmp_path: Path, file_format: str) -> None:
    path = tmp_path / "named.wrong"
    path.write_bytes(encoded(photograph(), file_format))
    with Image.open(path) as opened:
        expected = pixels(opened.convert("RGB"))
    for source in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes())):
        picture = read_image(source)
        assert picture.mode == "RGB"
        np.testing.assert_array_equal(pixels(picture), expected)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_plain_jpeg_has_exactly_pillows_pixels(tmp_path: Path, subsampling: int, progressive: bool) -> None:
    path = tmp_path / "a.jpg"
    photograph(333, 251).save(path, quality=87, subsampling=subsampling, progressive=progressive)
    with Image.open(path) as opened:
        assert read_image(path).tobytes() == opened.convert("RGB").tobytes()


def test_first_frame_of_animations_and_pages() -> None:
    first, second = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))
    for file_format in ("GIF", "WEBP", "TIFF", "PNG", "MPO"):
        buffer = io.BytesIO()
        first.save(buffer, file_format, save_all=True, append_images=[second])
        assert np.abs(pixels(read_image(buffer.getvalue())) - (255, 0, 0)).max() <= 2, file_format


def test_stream_is_read_from_where_it_stands_and_a_pipe_will_do() -> None:
    content = encoded(photograph(), "PNG")
    stream = io.BytesIO(b"skipped" + content)
    stream.seek(7)
    assert read_image(stream).size == (96, 64)

    end, start = os.pipe()

    def write() -> None:
        with os.fdopen(start, "wb") as stream:
            stream.write(content)

    writer = threading.Thread(target=write)
    writer.start()
    assert read_image(f"/dev/fd/{end}").size == (96, 64)  # as a shell's <(command) gives it
    writer.join()
    os.close(end)


# Colour modes


def over_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return rgb * (alpha / 255) + 255 * (1 - alpha / 255)


def test_transparency_lies_over_white() -> None:
    rgb = photograph(16, 16)
    alpha = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    expected = over_white(pixels(rgb), pixels(alpha)[..., None])
    rgba = Image.merge("RGBA", (*rgb.split(), alpha))
    for content in (encoded(rgba, "PNG"), encoded(rgba, "TIFF")):
        assert np.abs(pixels(read_image(content)) - expected).max() <= 1
    assert np.abs(pixels(to_rgb(rgba.convert("RGBa"))) - expected).max() <= 2

    grey = rgb.convert("L")
    la = Image.merge("LA", (grey, alpha))
    expected = over_white(pixels(grey), pixels(alpha))[..., None].repeat(3, axis=-1)
    assert np.abs(pixels(read_image(encoded(la, "PNG"))) - expected).max() <= 1
    assert np.abs(pixels(to_rgb(la.convert("La"))) - expected).max() <= 2


def test_palettes_with_and_without_transparency() -> None:
    picture = Image.new("P", (3, 1))
    picture.putpalette([10, 20, 30, 100, 0, 0, 0, 0, 200])
    for i in range(3):
        picture.putpixel((i, 0), i)
    opaque = [[10, 20, 30], [100, 0, 0], [0, 0, 200]]
    assert pixels(read_image(encoded(picture, "PNG")))[0].tolist() == opaque
    assert pixels(to_rgb(picture.convert("PA")))[0].tolist() == opaque

    for file_format, transparency in (("PNG", 1), ("GIF", 1), ("PNG", b"\xff\x00\xff")):
        buffer = io.BytesIO()
        picture.save(buffer, file_format, transparency=transparency)
        assert pixels(read_image(buffer.getvalue()))[0].tolist() == [opaque[0], [255, 255, 255], opaque[2]]

    alphas = Image.new("P", (1, 1))
    alphas.putpalette([255, 0, 0, 0], "RGBA")
    assert to_rgb(alphas).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(("mode", "key"), [("RGB", (10, 20, 30)), ("L", 10), ("1", 0)])
def test_transparent_colour_key_lies_over_white(mode: str, key: int | tuple[int, int, int]) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (2, 2), key).save(buffer, "PNG", transparency=key)
    assert read_image(buffer.getvalue()).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr", "HSV", "LAB", "RGBX"])
def test_other_modes_are_pillows_conversion(mode: str) -> None:
    if mode == "LAB":
        transform = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
        picture = ImageCms.applyTransform(photograph(), transform)
        assert picture is not None
    else:
        picture = photograph().convert(mode)
    expected = pixels(picture.convert("RGB"))
    np.testing.assert_array_equal(pixels(to_rgb(picture)), expected)
    if mode in ("1", "L", "CMYK", "LAB"):
        np.testing.assert_array_equal(pixels(read_image(encoded(picture, "TIFF"))), expected)
    if mode not in ("1", "L"):
        assert np.abs(expected - pixels(photograph())).mean() < 2


def test_cmyk_jpeg_is_inverted_as_adobe_writes_it() -> None:
    content = encoded(photograph().convert("CMYK"), "JPEG")
    assert b"Adobe" in content
    assert np.abs(pixels(read_image(content)) - pixels(photograph())).mean() < 4


def test_sixteen_bit_grey_keeps_its_high_byte() -> None:
    values = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    expected = (values >> 8)[..., None].repeat(3, axis=-1)
    for file_format in ("PNG", "TIFF"):
        np.testing.assert_array_equal(pixels(read_image(encoded(Image.fromarray(values), file_format))), expected)
    big_endian = Image.frombytes("I;16B", (5, 1), values.astype(">u2").tobytes())
    np.testing.assert_array_equal(pixels(to_rgb(big_endian)), expected)
    np.testing.assert_array_equal(pixels(to_rgb(Image.fromarray(values.astype(np.int32)))), expected)
    pgm = b"P5 5 1 65535\n" + values.astype(">u2").tobytes()
    np.testing.assert_array_equal(pixels(read_image(pgm)), expected)


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([0, 70000, 140000], np.int32, [0, 128, 255]),
        ([-100, 0, 100], np.int32, [0, 128, 255]),
        ([0.0, 0.5, 1.0], np.float32, [0, 128, 255]),
        ([0.0, 100.0, 255.0], np.float32, [0, 100, 255]),
        ([-1.0, 0.0, 1.0], np.float32, [0, 128, 255]),
        ([0.0, 300.0, 600.0], np.float32, [0, 128, 255]),
        ([np.nan, np.inf, 1.0], np.float32, [0, 0, 255]),
        ([1000.0, 1000.0, 1000.0], np.float32, [0, 0, 0]),
    ],
)
def test_integer_and_float_grey_are_scaled_by_the_stated_rule(
    values: list[float], dtype: type, expected: list[int]
) -> None:
    picture = Image.fromarray(np.array([values], dtype))
    assert pixels(read_image(encoded(picture, "TIFF")))[0, :, 0].tolist() == expected


def test_sixteen_bit_rgb_png() -> None:
    row = b"\0" + struct.pack(">6H", 65535, 32768, 0, 256, 255, 65280)
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(row)) + png_chunk(b"IEND", b"")
    assert pixels(read_image(content))[0].tolist() == [[255, 128, 0], [1, 0, 255]]


# Orientation

TURNED = Image.Exif()
TURNED[ExifTags.Base.Orientation] = 6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_applied_once(file_format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    content = encoded(photograph(), file_format, exif=exif)
    with Image.open(io.BytesIO(content)) as opened:
        expected = ImageOps.exif_transpose(opened).convert("RGB")
    picture = read_image(content)
    assert picture.size == ((96, 64) if orientation < 5 else (64, 96))
    assert picture.tobytes() == expected.tobytes()
    assert not picture.info
    assert ImageOps.exif_transpose(picture).tobytes() == expected.tobytes()
    assert pickle.loads(pickle.dumps(picture)).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "damage", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12"]
)
def test_damaged_exif_costs_neither_the_picture_nor_a_warning(damage: bytes) -> None:
    buffer = io.BytesIO()
    photograph().save(buffer, "JPEG", exif=damage)
    assert read_image(buffer.getvalue()).size == (96, 64)


# Colour profiles

# Primaries adapted to D50, as their owners' profiles hold them.
DISPLAY_P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
D50 = (0.9642, 1.0, 0.8249)


def matrix_profile(primaries: tuple[tuple[float, ...], ...], gamma: float = 2.2) -> bytes:
    """A minimal ICC version 2 display profile: three primaries, one tone curve, D50 white."""

    def fixed(*values: float) -> bytes:
        return struct.pack(f">{len(values)}i", *(round(v * 65536) for v in values))

    def xyz(values: tuple[float, ...]) -> bytes:
        return b"XYZ \0\0\0\0" + fixed(*values)

    curve = b"curv\0\0\0\0" + struct.pack(">IHxx", 1, round(gamma * 256))
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(4 + 4 + 2 + 1 + 67)
    contents = {b"desc": text + bytes(-len(text) % 4), b"cprt": b"text\0\0\0\0none\0\0\0\0", b"wtpt": xyz(D50)}
    contents |= {tag: xyz(primary) for tag, primary in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)}
    contents |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, data = struct.pack(">I", len(contents)), b""
    for tag, content in contents.items():
        table += tag + struct.pack(">II", 128 + 4 + 12 * len(contents) + len(data), len(content))
        data += content
    header = struct.pack(">I4sI4s4s4s12x4s", 0, b"\0\0\0\0", 0x02100000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    header = header.ljust(68, b"\0") + fixed(*D50)
    profile = header.ljust(128, b"\0") + table + data
    return struct.pack(">I", len(profile)) + profile[4:]


def converted(rgb: np.ndarray, primaries: tuple[tuple[float, ...], ...], gamma: float = 2.2) -> np.ndarray:
    """The same conversion from the definitions: linear light, XYZ under D50, linear sRGB, sRGB's curve."""
    xyz = (rgb / 255) ** gamma @ np.array(primaries)
    linear = np.clip(xyz @ np.linalg.inv(np.array(SRGB)), 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("primaries", [DISPLAY_P3, ADOBE_RGB])
@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_wide_gamut_becomes_srgb(file_format: str, primaries: tuple[tuple[float, ...], ...]) -> None:
    content = encoded(photograph(), file_format, icc=matrix_profile(primaries))
    with Image.open(io.BytesIO(content)) as opened:
        raw = pixels(opened.convert("RGB"))
    picture = pixels(read_image(content))
    assert np.abs(picture - raw).mean() > 2
    assert np.abs(picture - converted(raw, primaries)).max() <= 2


def test_wide_gamut_with_alpha_and_palette() -> None:
    profile = matrix_profile(DISPLAY_P3)
    expected = converted(np.array([255.0, 0, 0]), DISPLAY_P3)
    for mode in ("RGBA", "P"):
        picture = read_image(encoded(Image.new("RGB", (2, 2), (255, 0, 0)).convert(mode), "PNG", icc=profile))
        assert np.abs(pixels(picture) - expected).max() <= 2


def test_srgb_broken_and_foreign_profiles_change_nothing() -> None:
    plain = read_image(encoded(photograph(), "PNG")).tobytes()
    real = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    p3 = matrix_profile(DISPLAY_P3)
    grey_space = p3[:16] + b"GRAY" + p3[20:]
    for profile in (real, matrix_profile(SRGB), b"nonsense", p3[:200], p3[:300], grey_space):
        assert read_image(encoded(photograph(), "PNG", icc=profile)).tobytes() == plain
    untouched = read_image(encoded(photograph(), "TIFF", icc=p3 + bytes(1 << 20)))
    assert untouched.tobytes() == plain
    assert image_module.has_srgb_primaries(real)
    assert not image_module.has_srgb_primaries(p3)


def test_transforms_are_built_once_a_profile() -> None:
    content = encoded(photograph(), "PNG", icc=matrix_profile(ADOBE_RGB, gamma=1.9))
    before = image_module._transform.cache_info().misses
    read_image(content)
    read_image(content)
    assert image_module._transform.cache_info().misses == before + 1


def test_torch_and_colour_management_are_not_imported(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    photograph().save(path, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    code = (
        "import sys; from fusiform.data.preprocess import crop_pixels, normalize; from fusiform.spec import Preprocess;"
        "from fusiform.data.image import read_image; way = Preprocess();"
        "normalize(crop_pixels(read_image(sys.argv[1]), way, fast=True), way);"
        "print(sorted({'torch', 'torchvision', 'PIL.ImageCms', 'PIL.TiffImagePlugin'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


# Decoding at a reduced scale


@pytest.mark.parametrize(
    ("size", "shorter_side", "decoded"),
    [
        ((1000, 800), 256, (500, 400)),  # libjpeg through Pillow knows no 1/3
        ((1600, 1200), 256, (400, 300)),
        ((4096, 2048), 256, (512, 256)),
        ((4095, 2047), 256, (1024, 512)),
        ((500, 375), 256, (500, 375)),
        ((512, 511), 256, (512, 511)),
        ((512, 512), 256, (256, 256)),
    ],
)
def test_jpeg_is_decoded_at_the_smallest_scale_that_suffices(
    size: tuple[int, int], shorter_side: int, decoded: tuple[int, int]
) -> None:
    content = encoded(photograph(*size), "JPEG")
    picture = read_image(content, shorter_side=shorter_side)
    assert picture.size == decoded
    exact = read_image(content).resize(decoded, Image.Resampling.BOX)
    assert np.abs(pixels(picture) - pixels(exact)).mean() < 2


def test_reduced_scale_is_for_jpeg_only_and_turns_with_the_picture() -> None:
    assert read_image(encoded(photograph(1024, 1024), "PNG"), shorter_side=16).size == (1024, 1024)
    assert read_image(encoded(photograph(1024, 512), "JPEG", exif=TURNED), shorter_side=128).size == (128, 256)
    with pytest.raises(UsageError, match="shorter_side"):
        read_image(b"", shorter_side=0)


# What cannot be read


def refused(source: Path | bytes, *words: str, name: str | None = None) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(source, name=name)
    message = str(caught.value)
    assert message.startswith(name if name is not None else str(source))
    for word in words:
        assert word in message
    assert "\n" not in message
    return message


def test_missing_folder_unreadable_and_empty(tmp_path: Path) -> None:
    refused(tmp_path / "no.jpg", "no such file", "check the path")
    folder = tmp_path / "x.jpg"
    folder.mkdir()
    refused(folder, "is a folder", "name the pictures")
    empty = tmp_path / "empty.png"
    empty.touch()
    refused(empty, "empty (0 bytes)", "download it again")
    loop = tmp_path / "loop.jpg"
    loop.symlink_to(loop)
    refused(loop, "cannot be read")
    refused(b"", "empty", name="picture 3")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read every file")
def test_permission_denied(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(photograph(), "PNG"))
    path.chmod(0)
    refused(path, "permission denied", "change its permissions")


def test_permission_denied_is_said_plainly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    refused(tmp_path / "a.png", "permission denied", "change its permissions")


def test_what_is_not_a_picture(tmp_path: Path) -> None:
    text = tmp_path / "notes.jpg"
    text.write_text("<html>404 Not Found</html>")
    refused(text, "is not a picture", "JPEG, PNG, WebP, GIF, BMP, TIFF", "save it as")
    refused(b"\0\0\0\x18ftypisom" + bytes(100), "video", "save frames as JPEG or PNG", name="a film.jpg")
    refused(b"%!PS-Adobe-3.0 EPSF-3.0\n", "is not a picture", name="figure.eps")
    strange = "a\nb\udcff.jpg"
    with pytest.raises(ImageError) as caught:
        read_image(b"", name=strange)
    assert str(caught.value).encode().startswith(rb"'a\nb\udcff.jpg'")


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_cut_short_files(tmp_path: Path, file_format: str) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    content = encoded(picture, file_format)
    for length in (len(content) // 2, 40):
        path = tmp_path / f"{length}.{file_format.lower()}"
        path.write_bytes(content[:length])
        refused(path, "copy or download it again")


def test_a_half_jpeg_is_said_to_be_cut_short() -> None:
    content = encoded(photograph(640, 480), "JPEG")
    refused(content[: len(content) // 2], "is cut short", "truncated", name="half.jpg")


def test_bombs_are_refused_by_their_header(tmp_path: Path) -> None:
    gif = b"GIF89a" + struct.pack("<HH", 50000, 50000) + b"\0\0\0," + struct.pack("<4HB", 0, 0, 50000, 50000, 0)
    bmp = b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 50000, 50000, 1, 24, 0, 0, 0, 0, 0, 0)
    jpeg = bytearray(encoded(photograph(), "JPEG"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 50000, 50000)
    bombs = {
        "png": png(50000, 50000, rows=bytes(1000)),
        "gif": gif + b"\x08\x01\x00\x00;",
        "bmp": bmp,
        "ppm": b"P6 50000 50000 255\n",
        "jpg": bytes(jpeg),
    }
    for extension, content in bombs.items():
        path = tmp_path / f"bomb.{extension}"
        path.write_bytes(content)
        read_image(encoded(photograph(8, 8), "JPEG"))  # nothing left to import
        tracemalloc.start()
        start = time.perf_counter()
        refused(path, "is 50000 x 50000 pixels", "no more than 870 MB are used", "make the picture smaller")
        elapsed, (_, peak) = time.perf_counter() - start, tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert elapsed < 0.5
        assert peak < 4 << 20
    assert Image.MAX_IMAGE_PIXELS == 89478485  # Pillow's own limit is as it was


def test_a_picture_that_pillow_warns_about_is_read_without_a_warning() -> None:
    content = encoded(Image.new("1", (10000, 9100)), "PNG")
    with pytest.warns(Image.DecompressionBombWarning), Image.open(io.BytesIO(content)):
        pass
    assert read_image(content).size == (10000, 9100)


def test_text_chunks_of_no_size_and_of_every_size() -> None:
    rows = b"\0\xff\0\0" * 1
    declared = struct.pack(">I", 0x7FFFFFFF) + b"tEXt" + b"key\0value"
    refused(png(1, 1, declared, rows=rows), name="text.png")
    for kind in (b"tEXt", b"zTXt", b"iTXt"):
        assert read_image(png(1, 1, png_chunk(kind, b""), rows=rows)).getpixel((0, 0)) == (255, 0, 0)


def test_pictures_of_no_size() -> None:
    refused(png(0, 5), name="zero.png")
    refused(b"P6 0 0 255\n", name="zero.ppm")
    refused(b"GIF89a" + bytes(7), name="zero.gif")


SAMPLES = [
    *(
        encoded(photograph(24, 16), file_format, exif=TURNED, icc=matrix_profile(DISPLAY_P3))
        for file_format in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM")
    ),
    encoded(photograph(24, 16).convert("LA"), "PNG"),
]


@settings(max_examples=400, deadline=None)
@given(
    sample=st.sampled_from(SAMPLES),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    cut=st.one_of(st.just(1.0), st.floats(0, 1)),
    shorter_side=st.one_of(st.none(), st.integers(1, 64)),
)
def test_damage_gives_rgb_or_an_image_error(
    sample: bytes, changes: list[tuple[float, int]], cut: float, shorter_side: int | None
) -> None:
    damaged = bytearray(sample)
    for place, value in changes:
        damaged[int(place * len(damaged))] = value
    content = bytes(damaged[: round(cut * len(damaged))])
    try:
        picture = read_image(content, name="damaged", shorter_side=shorter_side)
    except ImageError as error:
        assert str(error).startswith("damaged: ")  # noqa: PT017  # both outcomes are right
    else:
        assert picture.mode == "RGB"
        assert len(picture.tobytes()) == 3 * picture.width * picture.height


@settings(max_examples=100, deadline=None)
@given(tail=st.binary(max_size=200), head=st.sampled_from([sample[:16] for sample in SAMPLES]))
def test_noise_behind_a_good_beginning(head: bytes, tail: bytes) -> None:
    try:
        assert read_image(head + tail, name="noise").mode == "RGB"
    except ImageError as error:
        assert str(error).startswith("noise: ")  # noqa: PT017  # both outcomes are right


# Warnings and threads


def damaged_exif_jpeg() -> bytes:
    """A picture whose EXIF Pillow warns about as soon as it is opened."""
    entry = struct.pack("<HHII", 0x011A, 5, 1, 0x00FFFFFF)
    directory = b"II*\0" + struct.pack("<IH", 8, 1) + entry
    content = encoded(photograph(), "JPEG")
    app1 = b"Exif\0\0" + directory
    at = content.index(b"\xff\xdb")
    return b"\xff\xd8\xff\xe1" + struct.pack(">H", len(app1) + 2) + app1 + content[at:]


def test_pillows_warnings_are_silent_while_reading_and_only_then() -> None:
    content = damaged_exif_jpeg()
    with pytest.warns(UserWarning, match="Truncated File Read"), Image.open(io.BytesIO(content)) as opened:
        opened.getexif()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_image(content)
        read_image(content)
        length = len(warnings.filters)
        read_image(content)
        assert len(warnings.filters) == length
    assert not caught
    with pytest.warns(UserWarning, match="mine"):
        warnings.warn("mine", stacklevel=1)
    pickle.dumps(warnings.filters)


def test_many_threads_read_at_once() -> None:
    contents = [damaged_exif_jpeg(), encoded(photograph(), "PNG", icc=matrix_profile(ADOBE_RGB)), b"P6 nonsense"]

    def read(i: int) -> bytes | str:
        try:
            return read_image(contents[i % 3], name="x").tobytes()
        except ImageError as error:
            return str(error)

    expected = [read(i) for i in range(3)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, range(300))) == expected * 100


def test_files_are_closed(tmp_path: Path) -> None:
    good, bad = tmp_path / "a.tif", tmp_path / "b.tif"
    good.write_bytes(encoded(photograph(), "TIFF"))
    bad.write_bytes(good.read_bytes()[:100])
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("this system does not list a process's open files in /proc/self/fd")
    before = len(list(descriptors.iterdir()))
    kept = [read_image(good) for _ in range(5)]
    for _ in range(5):
        refused(bad)
    assert len(list(descriptors.iterdir())) == before
    assert all(picture.size == (96, 64) for picture in kept)


def test_a_link_that_was_copied_as_text_is_followed(tmp_path):
    (tmp_path / "photographs").mkdir()
    (tmp_path / "linked").mkdir()
    Image.new("RGB", (3, 2), (200, 10, 30)).save(tmp_path / "photographs" / "a.png")
    link = tmp_path / "linked" / "b.jpg"
    for text in ("../photographs/a.png", "../photographs/a.png\n"):
        link.write_text(text)
        assert read_image(link).getpixel((0, 0)) == (200, 10, 30)
        assert Sample(link, 0).read_bytes() == (tmp_path / "photographs" / "a.png").read_bytes()
    (tmp_path / "photographs" / "notes.txt").write_text("private")
    elsewhere = str(tmp_path / "photographs" / "a.png")
    for text in (
        "../photographs/none.png",
        "../photographs/notes.txt",
        elsewhere,
        "../photographs",
        "b\nc.png",
        "\0.png",
    ):
        link.write_text(text)
        with pytest.raises(ImageError, match=r"linked.b\.jpg: is not a picture"):
            read_image(link)
    link.write_text("b.jpg")  # itself: one step is taken and no more
    with pytest.raises(ImageError, match=r"b\.jpg: is not a picture"):
        read_image(link)
