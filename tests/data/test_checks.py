from __future__ import annotations

import io
import struct
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from fusiform.data import checks
from fusiform.data.checks import PICTURE_ENDINGS, check_picture, jpeg_damage


def photograph(width: int = 96, height: int = 64, *, seed: int = 0) -> Image.Image:
    """Smooth noise, which fills the whole range of each channel."""
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, form: str = "JPEG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def kinds(data: bytes, name: str) -> list[tuple[str, str]]:
    return [(fault.severity, fault.kind) for fault in check_picture(data, name=name).faults]


@pytest.mark.parametrize(
    ("form", "name", "options"),
    [
        ("JPEG", "a.jpg", {}),
        ("JPEG", "a.JPEG", {"progressive": True}),
        ("JPEG", "a.jfif", {"restart_marker_blocks": 3}),
        ("JPEG", "a.jpg", {"restart_marker_rows": 1, "progressive": True}),
        ("PNG", "a.png", {}),
        ("WEBP", "a.webp", {}),
        ("BMP", "a.bmp", {}),
        ("TIFF", "a.tif", {}),
        ("PPM", "a.ppm", {}),
        ("PNG", "no ending", {}),
    ],
)
def test_clean_pictures_have_no_faults(form: str, name: str, options: dict[str, object]) -> None:
    image = photograph()
    checked = check_picture(encoded(image, form, **options), name=name)
    assert checked.faults == ()
    assert checked.image is not None
    assert checked.image.size == image.size
    assert not checked.grey


JPEG = encoded(photograph(200, 150), quality=90)
PNG = encoded(photograph(), "PNG")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "empty file"),
        (b"A list of things to do\n", "not a picture"),
        (b"\0\0\0\x18ftypisom" + bytes(100), "not a picture"),
        (JPEG[: len(JPEG) // 2], "truncated"),
        (PNG[: len(PNG) // 2], "truncated"),
        (JPEG[:4] + bytes(500), "corrupt"),
        # The length of the picture's header chunk is damaged, and its CRC with it.
        (PNG[:20] + b"\xff\xff" + PNG[22:], "corrupt"),
        (b"P6 20000 20000 255\n", "too large"),
    ],
)
def test_what_cannot_be_read_is_an_error(data: bytes, kind: str) -> None:
    checked = check_picture(data, name="a.jpg" if data[:1] == b"\xff" else "a.png")
    assert [(fault.severity, fault.kind) for fault in checked.faults] == [("error", kind)]
    assert checked.image is None
    assert not checked.faults[0].message.startswith("picture:"), "the stand-in for the name is gone"


def test_wrong_extension() -> None:
    assert kinds(PNG, "a.JPG") == [("warning", "wrong extension")]
    assert kinds(JPEG, "a.png") == [("warning", "wrong extension")]


@pytest.mark.parametrize("progressive", [False, True])
def test_overwritten_pixels_of_a_jpeg_are_seen(progressive: bool) -> None:
    data = bytearray(encoded(photograph(200, 150), quality=95, progressive=progressive))
    middle = len(data) // 2
    # FF 42 is no marker that may stand within the pixels. Decoders go on over it.
    data[middle : middle + 2] = b"\xff\x42"
    damage = jpeg_damage(bytes(data))
    assert damage is not None
    assert f"{middle:,}" in damage


def test_damaged_inside_is_a_warning_that_pillow_does_not_give() -> None:
    data = bytearray(JPEG)
    middle = len(data) * 3 // 4
    data[middle : middle + 6] = b"\x11\x22\xff\xd3\x33\x44"  # a restart, where there are none
    Image.open(io.BytesIO(data)).load()
    assert kinds(bytes(data), "a.jpg") == [("warning", "damaged inside")]


def test_lost_restart_interval_is_seen() -> None:
    data = encoded(photograph(200, 150), quality=90, restart_marker_blocks=8)
    assert jpeg_damage(data) is None
    start, end = data.index(b"\xff\xd2"), data.index(b"\xff\xd3")
    damage = jpeg_damage(data[:start] + data[end:])
    assert damage is not None
    assert "out of order" in damage


def test_zeros_in_place_of_the_end_are_seen() -> None:
    # What a download leaves in a file whose space was taken beforehand.
    damage = jpeg_damage(JPEG[: len(JPEG) * 3 // 4] + bytes(len(JPEG) // 4))
    assert damage == "its end is missing"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.integers(0, len(JPEG)))
def test_any_bytes_are_checked_without_an_exception(junk: bytes, at: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checked = check_picture(JPEG[:at] + junk + JPEG[at + len(junk) :], name="a.jpg")
    assert (checked.image is None) == any(fault.severity == "error" for fault in checked.faults)


def exif(orientation: int) -> bytes:
    data = Image.Exif()
    data[0x0112] = orientation
    return data.tobytes()


def test_orientation() -> None:
    data = encoded(photograph(96, 64), exif=exif(6))
    checked = check_picture(data, name="a.jpg")
    assert [(f.severity, f.kind) for f in checked.faults] == [("note", "orientation")]
    assert checked.image is not None
    assert checked.image.size == (64, 96)
    assert kinds(encoded(photograph(), exif=exif(1)), "a.jpg") == []


@pytest.mark.parametrize(
    "damaged",
    [
        b"Exif\0\0rubbish",
        b"Exif\0\0MM\0*",
        # The first directory starts beyond the end; and holds more entries than there is room for.
        b"Exif\0\0MM\0*" + struct.pack(">I", 5000),
        b"Exif\0\0II*\0" + struct.pack("<IH", 8, 300) + bytes(12),
    ],
)
def test_damaged_exif_is_a_note(damaged: bytes) -> None:
    assert kinds(encoded(photograph(), exif=damaged), "a.jpg") == [("note", "damaged EXIF")]


def test_colour_modes() -> None:
    image = photograph()
    deep = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    half = image.copy()
    half.putalpha(Image.linear_gradient("L").resize(image.size))
    opaque = image.convert("RGBA")
    assert kinds(encoded(image.convert("CMYK")), "a.jpg") == [("note", "CMYK")]
    assert kinds(encoded(deep, "PNG"), "a.png") == [("note", "16-bit")]
    assert kinds(encoded(deep, "TIFF"), "a.tiff") == [("note", "16-bit")]
    assert kinds(encoded(image.quantize(16), "PNG"), "a.png") == [("note", "palette")]
    assert kinds(encoded(half, "PNG"), "a.png") == [("note", "transparency")]
    assert kinds(encoded(half.convert("LA"), "PNG"), "a.png") == [("note", "transparency")]
    assert kinds(encoded(opaque, "PNG"), "a.png") == []


def test_16_bit_colour_png() -> None:
    # Pillow writes none: one row of two pixels of 16 bits a channel, by hand.
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + bytes([y * 7 % 256, 3]) * 3 * 40 for y in range(40))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 40, 40, 16, 2, 0, 0, 0))
    png += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert kinds(png, "a.png") == [("note", "16-bit")]


def test_grey_is_no_fault_of_its_own() -> None:
    checked = check_picture(encoded(photograph().convert("L")), name="a.jpg")
    assert checked.grey
    assert checked.faults == ()


def test_colour_profiles() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert kinds(encoded(photograph(), icc_profile=srgb), "a.jpg") == []
    # Its red primary moved towards Adobe RGB's, as the profile stores it.
    at = struct.unpack_from(">I", srgb, srgb.index(b"rXYZ") + 4)[0]
    wider = srgb[: at + 8] + struct.pack(">3i", 39958, 20389, 1270) + srgb[at + 20 :]
    assert kinds(encoded(photograph(), icc_profile=wider), "a.jpg") == [("note", "colour profile")]


def test_frames() -> None:
    frames = [photograph(seed=seed) for seed in range(3)]
    data = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])
    assert kinds(data, "a.png") == [("note", "several frames")]
    assert "3 frames" in check_picture(data, name="a.png").faults[0].message
    assert ("note", "several frames") in kinds(
        encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), "a.gif"
    )


def test_shapes() -> None:
    assert kinds(encoded(photograph(31, 40)), "a.jpg") == [("warning", "tiny")]
    assert kinds(encoded(photograph(32, 40)), "a.jpg") == []
    assert kinds(encoded(photograph(321, 64)), "a.jpg") == [("warning", "long and narrow")]
    assert kinds(encoded(photograph(64, 320)), "a.jpg") == []


def test_enormous(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "ENORMOUS_PIXELS", 96 * 64)  # fifty million take seconds
    assert kinds(encoded(photograph(96, 64)), "a.jpg") == []
    assert kinds(encoded(photograph(97, 64)), "a.jpg") == [("note", "enormous")]


def test_blank() -> None:
    assert kinds(encoded(Image.new("RGB", (64, 64), (200, 30, 90))), "a.jpg") == [("warning", "blank")]
    assert kinds(encoded(Image.new("L", (64, 64), 0), "PNG"), "a.png") == [("warning", "blank")]
    # A dark photograph is not blank.
    dark = Image.fromarray(np.asarray(photograph()) // 16)
    assert kinds(encoded(dark, "PNG"), "a.png") == []


def test_endings_are_those_that_are_read() -> None:
    from fusiform.data.image import EXTENSIONS

    assert all(EXTENSIONS.fullmatch(ending) for ending in PICTURE_ENDINGS)
    assert all(ending in PICTURE_ENDINGS for ending in (".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".ppm"))
