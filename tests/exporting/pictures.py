"""Picture files of every kind that a visitor may choose, made from one photograph: for the page's tests.

The folders that ``make_pictures`` writes: ``same``, which every browser reads and Python too; ``close``, the same but
for rounding; ``refused``, which neither reads; ``elsewhere``, which Python reads and not every browser.
"""

from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, features

TESTS = Path(__file__).parents[1]
EXAMPLES = TESTS.parent / "examples"

sys.path.insert(0, str(TESTS / "data"))

from test_image import ADOBE_RGB, DISPLAY_P3, SRGB, matrix_profile

sys.path.pop(0)

ORIENTATION = 0x0112
LONG_NAME = f"{'ein sehr langer Name ' * 11}.jpg"  # 235 letters; file systems take 255 bytes
NAMES = ("صورة قطة.jpg", "חתול.png", "\N{CAT FACE}\N{FAMILY}\N{VARIATION SELECTOR-16}.jpg", "<b>&amp;'\".jpg")


def make_pictures(folder):
    """The files by the kinds above, each in a folder of its own; the reason why the page refuses by name."""
    places = {kind: folder / kind for kind in ("same", "close", "refused", "elsewhere")}
    for place in places.values():
        place.mkdir(parents=True)
    with Image.open(EXAMPLES / "cat.jpg") as image:
        photograph = image.convert("RGB")
    make_same(places["same"], photograph)
    make_close(places["close"], photograph)
    return make_refused(places["refused"], photograph) | make_elsewhere(places["elsewhere"], photograph)


def held(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def make_same(folder, photograph):
    for orientation in (*range(1, 9), 0, 9):  # two of which are none
        photograph.save(folder / f"held_{orientation}.jpg", exif=held(orientation), quality=95)
    for orientation in (2, 3, 5, 6, 8):
        photograph.save(folder / f"held_{orientation}.png", exif=held(orientation), compress_level=1)
        photograph.save(folder / f"held_{orientation}.webp", exif=held(orientation), lossless=True)
    grey, palette = photograph.convert("L"), photograph.quantize(100)
    grey.save(folder / "grey.jpg", quality=95)
    grey.save(folder / "grey.png")
    photograph.convert("1").save(folder / "bilevel.png")
    palette.save(folder / "palette.gif")
    palette.save(folder / "palette.png")
    palette.save(folder / "one_colour_clear.png", transparency=3)
    palette.save(folder / "one_colour_clear.gif", transparency=3)
    photograph.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    for subsampling in (0, 1, 2):
        photograph.save(folder / f"subsampling_{subsampling}.jpg", quality=90, subsampling=subsampling)
    photograph.save(folder / "progressive.jpg", quality=90, progressive=True)
    photograph.save(folder / "letters_rgb.jpg", quality=95, keep_rgb=True)
    photograph.save(folder / "a.bmp")
    photograph.save(folder / "lossless.webp", lossless=True)
    # Of moving pictures the first counts.
    turned = photograph.rotate(180)
    palette.save(folder / "moving.gif", save_all=True, append_images=[turned.quantize(100)], duration=50)
    photograph.save(folder / "moving.webp", save_all=True, append_images=[turned], duration=50, lossless=True)
    photograph.save(folder / "moving.png", save_all=True, append_images=[turned], duration=50)
    # Sixteen bits, whose lower ones count for nothing.
    pixels = np.asarray(grey).astype(np.uint16)
    (folder / "sixteen_bits_grey.png").write_bytes(png((pixels << 8 | pixels)[..., None], 16, 0))
    # Profiles that say nothing of the pixels, and PNG's own notes of colour, which Python does not follow.
    p3 = matrix_profile(DISPLAY_P3)
    photograph.save(folder / "profile_of_srgb.jpg", icc_profile=matrix_profile(SRGB, 1.8), quality=95)
    photograph.save(folder / "profile_of_srgb.png", icc_profile=matrix_profile(SRGB, 1.8))
    photograph.save(folder / "profile_broken.jpg", icc_profile=b"nonsense", quality=95)
    photograph.save(folder / "profile_of_grey.webp", icc_profile=p3[:16] + b"GRAY" + p3[20:], lossless=True)
    grey.save(folder / "grey_with_profile.jpg", icc_profile=grey_profile(), quality=95)
    grey.save(folder / "grey_with_profile.png", icc_profile=grey_profile())
    photograph.convert("CMYK").save(folder / "cmyk_with_profile.jpg", icc_profile=p3, quality=95)
    rgb = np.asarray(photograph)
    notes = {
        "gamma": chunk(b"gAMA", struct.pack(">I", 100_000)),
        "primaries": chunk(b"gAMA", struct.pack(">I", 45_455))
        + chunk(b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)),
        "code_points": chunk(b"cICP", bytes([12, 13, 0, 1])),
        "srgb": chunk(b"sRGB", b"\0") + chunk(b"gAMA", struct.pack(">I", 45_455)),
    }
    for name, note in notes.items():
        (folder / f"note_of_{name}.png").write_bytes(png(rgb, 8, 2, note))
    photograph.resize((1, 1)).save(folder / "one_pixel.png")
    photograph.resize((20_000, 10)).save(folder / "wide.png")
    photograph.resize((10, 20_000)).save(folder / "tall.png")
    whole = (EXAMPLES / "cat.jpg").read_bytes()
    (folder / "more_behind.jpg").write_bytes(whole + b"more" * 100)
    (folder / "of_another_name.png").write_bytes(whole)
    for name in (LONG_NAME, *NAMES):
        (folder / name).write_bytes(whole)


def make_close(folder, photograph):
    for name, primaries in (("p3", DISPLAY_P3), ("adobe", ADOBE_RGB)):
        profile = matrix_profile(primaries)
        photograph.save(folder / f"{name}.jpg", icc_profile=profile, quality=95)
        photograph.save(folder / f"{name}.png", icc_profile=profile)
        photograph.save(folder / f"{name}.webp", icc_profile=profile, lossless=True)
    photograph.save(folder / "p3_held.png", icc_profile=matrix_profile(DISPLAY_P3), exif=held(6))
    shade = photograph.convert("RGBA")
    shade.putalpha(Image.linear_gradient("L").resize(photograph.size))
    shade.save(folder / "half_clear.png")
    shade.save(folder / "half_clear.webp", lossless=True, exact=True)
    shade.convert("LA").save(folder / "half_clear_grey.png")
    rgb = np.asarray(photograph).astype(np.uint16)
    (folder / "sixteen_bits.png").write_bytes(png(rgb << 8 | rgb, 16, 2))
    (folder / "sixteen_bits_half_clear.png").write_bytes(png(np.dstack([rgb << 8 | rgb, rgb[..., 1] << 8]), 16, 6))


def make_refused(folder, photograph):
    """The reason for each by its name."""
    whole = (EXAMPLES / "cat.jpg").read_bytes()
    for share in (0.03, 0.5, 0.9, 0.999):
        (folder / f"cut_{share}.jpg").write_bytes(whole[: int(len(whole) * share)])
    (folder / "cut_at_the_end.jpg").write_bytes(whole[:-2])
    palette = photograph.quantize(100)
    for name, image, options in (
        ("cut.png", photograph, {}),
        ("cut.gif", palette, {}),
        ("cut.bmp", photograph, {}),
        ("cut.webp", photograph, {"lossless": True}),
        ("cut_progressive.jpg", photograph, {"progressive": True}),
    ):
        image.save(folder / name, **options)
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
    reasons = dict.fromkeys((path.name for path in folder.iterdir()), "cutShort")
    photograph.save(folder / "damaged.png")
    content = bytearray((folder / "damaged.png").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (folder / "damaged.png").write_bytes(content)
    (folder / "empty.jpg").write_bytes(b"")
    for name, content in (
        ("text.jpg", b"no picture"),
        ("page.jpg", b"<!doctype html><title>not found</title>"),
        ("zip.jpg", b"PK\3\4" + bytes(100)),
        ("zeros.jpg", bytes(1000)),
    ):
        (folder / name).write_bytes(content)
        reasons[name] = "notPicture"
    (folder / "huge.png").write_bytes(png(np.zeros((1, 1, 1), np.uint8), 1, 0, size=(30_000, 30_000)))
    return reasons | {"damaged.png": "damaged", "empty.jpg": "empty", "huge.png": "tooLarge"}


def make_elsewhere(folder, photograph):
    """The format of each by its name, which the page says."""
    formats = {"a.tiff": "TIFF", "a.ppm": "PPM"}
    for name in formats:
        photograph.save(folder / name)
    if features.check_codec("jpg_2000"):
        photograph.save(folder / "a.jp2")
        formats["a.jp2"] = "JPEG 2000"
    # No encoder is needed for a browser that has no decoder.
    (folder / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    (folder / "heic.jpg").write_bytes((folder / "a.heic").read_bytes())
    square = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>'
    (folder / "a.svg").write_text(square)
    return formats | {"a.heic": "HEIC", "heic.jpg": "HEIC", "a.svg": "SVG"}


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(pixels, bits, colours, notes=b"", size=None):
    """A PNG of (height, width, channels), which Pillow does not write of more than 8 bits in colour."""
    height, width = size or pixels.shape[:2]
    lines = b"".join(b"\0" + line.astype(f">u{max(1, bits // 8)}").tobytes() for line in pixels)
    header = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0)
    content = chunk(b"IHDR", header) + notes + chunk(b"IDAT", zlib.compress(lines, 1)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


def grey_profile():
    """A profile of grey levels with a gamma of 1.8, as Adobe's programs add."""
    curve = b"curv\0\0\0\0" + struct.pack(">IHxx", 1, round(1.8 * 256))
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in (0.9642, 1.0, 0.8249)))
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"grey\0" + bytes(78)
    contents = {
        b"desc": text + bytes(-len(text) % 4),
        b"cprt": b"text\0\0\0\0none\0\0\0\0",
        b"wtpt": white,
        b"kTRC": curve,
    }
    table, data = struct.pack(">I", len(contents)), b""
    for tag, content in contents.items():
        table += tag + struct.pack(">II", 128 + 4 + 12 * len(contents) + len(data), len(content))
        data += content
    header = struct.pack(">I4sI4s4s4s12x4s", 0, b"\0\0\0\0", 0x02100000, b"mntr", b"GRAY", b"XYZ ", b"acsp")
    profile = header.ljust(128, b"\0") + table + data
    return struct.pack(">I", len(profile)) + profile[4:]
