"""Pictures of more than 8 bits, TIFFs of every kind and PNGs with much beside their pixels."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from fusiform.data.checks import check_picture
from fusiform.data.image import read_image
from fusiform.errors import ImageError

SIZE = {1: "B", 2: "s", 3: "H", 4: "I", 11: "f", 12: "d"}


def scene(channels: int = 3) -> NDArray[np.uint8]:
    """Colours of every level, no two corners alike, 48 x 40 pixels."""
    y, x = np.mgrid[0:40, 0:48]
    planes = [(x + y) * 255 // 86, y * 255 // 39, x * 255 // 47, np.where(x > 20, 255, x * 12)]
    return np.stack(planes[:channels], axis=-1).astype(np.uint8)


def tiff(
    samples: NDArray[np.generic],
    *,
    photometric: int,
    order: str = "<",
    planar: int = 1,
    rows: int = 7,
    packed: tuple[int, bytes] | None = None,
    tags: dict[int, tuple[int, list[float]]] | None = None,
) -> bytes:
    """An uncompressed TIFF in strips; ``packed`` is a number of bits and the one strip that has them."""
    height, width, channels = samples.shape
    kind = {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    stored = samples.astype(samples.dtype.newbyteorder(order))
    planes = [stored[..., k] for k in range(channels)] if planar == 2 else [stored]
    strips = [plane[y : y + rows].tobytes() for plane in planes for y in range(0, height, rows)]
    bits = samples.dtype.itemsize * 8
    if packed is not None:
        bits, strips, rows = packed[0], [packed[1]], height
    entries: dict[int, tuple[int, list[float]]] = {
        256: (3, [width]),
        257: (3, [height]),
        258: (3, [bits] * channels),
        259: (3, [1]),
        262: (3, [photometric]),
        277: (3, [channels]),
        278: (3, [rows]),
        284: (3, [planar]),
        339: (3, [kind] * channels),
        273: (4, [0] * len(strips)),
        279: (4, [len(strip) for strip in strips]),
        **(tags or {}),
    }
    start = 8 + 2 + 12 * len(entries) + 4
    sizes = {tag: len(v) * struct.calcsize(SIZE[t]) for tag, (t, v) in entries.items()}
    at = start + sum(size for size in sizes.values() if size > 4)
    offsets: list[float] = []
    for strip in strips:
        offsets.append(at)
        at += len(strip)
    entries[273] = (4, offsets)
    table, beyond = b"", b""
    for tag, (type_, values) in sorted(entries.items()):
        data = struct.pack(f"{order}{len(values)}{SIZE[type_]}", *values)
        if len(data) > 4:
            data, beyond = struct.pack(f"{order}I", start + len(beyond)), beyond + data
        table += struct.pack(f"{order}HHI", tag, type_, len(values)) + data.ljust(4, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(entries))
    return head + table + bytes(4) + beyond + b"".join(strips)


def deep(levels: NDArray[np.uint8], kind: str) -> NDArray[np.generic]:
    """The same levels in another type: 255 becomes its largest value, or 1."""
    dtype = np.dtype(kind)
    if dtype.kind == "f":
        return (levels / 255).astype(dtype)
    if dtype.kind == "i":
        return np.rint(levels / 255 * np.iinfo(dtype).max).astype(dtype)
    return levels.astype(dtype) * dtype.type(np.iinfo(dtype).max // 255)


def pixels(content: bytes) -> NDArray[np.int64]:
    return np.asarray(read_image(content)).astype(np.int64)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize("kind", ["u2", "u4", "u8", "f2", "f4", "f8", "i2"])
def test_deep_colour_is_the_8_bit_picture(kind: str, planar: int, order: str) -> None:
    content = tiff(deep(scene(), kind), photometric=2, planar=planar, order=order)
    np.testing.assert_array_equal(pixels(content), scene())


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "u8", "f2", "f4", "f8", "i2"])
def test_deep_grey_is_the_8_bit_picture(kind: str, photometric: int, order: str) -> None:
    grey = scene(1)
    content = tiff(deep(grey if photometric else 255 - grey, kind), photometric=photometric, order=order)
    np.testing.assert_array_equal(pixels(content), grey.repeat(3, axis=-1))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "f4"])
@pytest.mark.parametrize("colours", [1, 3])
def test_deep_transparency_lies_over_white(colours: int, kind: str, planar: int, order: str) -> None:
    levels = np.concatenate([scene(colours), scene(4)[..., 3:]], axis=-1)
    content = tiff(
        deep(levels, kind), photometric=1 if colours == 1 else 2, planar=planar, order=order, tags={338: (3, [2])}
    )
    buffer = io.BytesIO()
    Image.fromarray(levels, "LA" if colours == 1 else "RGBA").save(buffer, "PNG")
    np.testing.assert_array_equal(pixels(content), pixels(buffer.getvalue()))
    if kind == "u1" and colours == 3 and planar == 1:
        return  # Pillow reads it, and a fourth sample of no meaning as alpha
    # What is no alpha means nothing to the picture.
    content = tiff(deep(levels, kind), photometric=1 if colours == 1 else 2, planar=planar, tags={338: (3, [0])})
    expected = scene(colours).repeat(3 if colours == 1 else 1, axis=-1)
    np.testing.assert_array_equal(pixels(content), expected)


@pytest.mark.parametrize(
    ("compression", "kind", "predictor"),
    [
        *(
            (compression, *way)
            for compression in ("tiff_lzw", "tiff_adobe_deflate", "zstd", "lzma")
            for way in (("u2", 1), ("u2", 2), ("f4", 1), ("f4", 3))
        ),
        *(("packbits", "u2", 1), ("packbits", "f4", 1)),
    ],
)
def test_compressed_deep_tiffs(compression: str, kind: str, predictor: int) -> None:
    image = Image.fromarray(deep(scene(1), kind)[..., 0])
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[317] = predictor
    buffer = io.BytesIO()
    image.save(buffer, "TIFF", compression=compression, tiffinfo=info)
    np.testing.assert_array_equal(pixels(buffer.getvalue()), scene(1).repeat(3, axis=-1))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("predictor", [1, 2])
def test_deep_tiles(order: str, predictor: int) -> None:
    levels = scene()
    wide = np.zeros((48, 64, 3), np.uint8)
    wide[:40, :48] = levels
    deep_levels = deep(wide, "u2")
    tiles = [deep_levels[y : y + 16, x : x + 32] for y in range(0, 48, 16) for x in range(0, 64, 32)]
    if predictor == 2:
        tiles = [np.diff(tile, axis=1, prepend=np.zeros_like(tile[:, :1])) for tile in tiles]
    stored = [zlib.compress(tile.astype(f"{order}u2").tobytes()) for tile in tiles]
    strip = b"".join(stored)
    plain = tiff(deep(levels, "u2"), photometric=2, order=order, packed=(16, strip))
    first = len(plain) - len(strip)
    # Two more tags, of 6 and 6 values beyond the table, move the tiles: 4 tags for tiles and one for the predictor.
    moved = first + 5 * 12 + 2 * 24
    offsets = [moved + sum(map(len, stored[:k])) for k in range(6)]
    content = tiff(
        deep(levels, "u2"),
        photometric=2,
        order=order,
        packed=(16, strip),
        tags={
            259: (3, [8]),
            317: (3, [predictor]),
            322: (3, [32]),
            323: (3, [16]),
            324: (4, offsets),
            325: (4, [len(one) for one in stored]),
        },
    )
    np.testing.assert_array_equal(pixels(content), levels)


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_bits_packed_without_gaps(bits: int) -> None:
    grey = scene(1).astype(np.uint16)
    values = np.rint(grey[..., 0] / 255 * (2**bits - 1)).astype(np.uint16)
    rows = [np.packbits((row[:, None] >> np.arange(bits)[::-1]) & 1) for row in values]
    content = tiff(grey, photometric=1, packed=(bits, np.concatenate(rows).tobytes()))
    assert np.abs(pixels(content)[..., :1] - grey).max() <= 1


@pytest.mark.parametrize(
    "content",
    [
        tiff(scene(1).astype(np.int8), photometric=1),
        tiff(deep(scene(), "u2"), photometric=6),
        tiff(deep(scene(), "u2"), photometric=8),
        tiff(deep(scene(1), "u2"), photometric=3),
        tiff(deep(scene(1), "u2"), photometric=1, tags={259: (3, [7])}),
        tiff(deep(scene(), "u2"), photometric=2, tags={258: (3, [16, 16, 8])}),
        tiff(deep(scene(), "u2"), photometric=2, tags={339: (3, [5, 5, 5])}),
        tiff(scene(), photometric=2, packed=(24, bytes(40 * 48 * 9))),
    ],
    ids=["int8", "YCbCr", "Lab", "palette", "JPEG", "unlike", "complex", "24 bits"],
)
def test_kinds_that_are_not_read_are_told(content: bytes) -> None:
    with pytest.raises(ImageError, match=r"a\.tif: this kind of TIFF is not read \(.*\): save it as PNG") as caught:
        read_image(content, name="a.tif")
    assert caught.value.kind == "kind not read"
    assert [fault.kind for fault in check_picture(content, name="a.tif").faults] == ["kind not read"]


def test_damaged_deep_tiffs_and_those_of_monstrous_size() -> None:
    whole = tiff(deep(scene(), "u2"), photometric=2)
    for cut in (len(whole) - 1, len(whole) // 2, 60):
        with pytest.raises(ImageError, match="copy or download it again"):
            read_image(whole[:cut])
    for lies in (
        {279: (4, [2**31] * 6)},
        {273: (4, [2**31] * 6), 278: (3, [0])},
        {322: (4, [2**31 - 16]), 323: (4, [2**31 - 16]), 324: (4, [8]), 325: (4, [8])},
        {256: (4, [14000]), 257: (4, [14000]), 278: (4, [14000])},
    ):
        tracemalloc.start()
        with pytest.raises(ImageError, match=r"copy or download it again|smaller"):
            read_image(tiff(deep(scene(), "u8"), photometric=2, tags=lies))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
        tracemalloc.stop()


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_deep_tiff_is_turned_as_it_asks(orientation: int) -> None:
    content = tiff(deep(scene(), "f4"), photometric=2, tags={274: (3, [orientation])})
    expected = scene()[::-1, ::-1] if orientation == 3 else np.rot90(scene(), -1)
    np.testing.assert_array_equal(pixels(content), expected)


# Few bits in many.


def grey_png(values: NDArray[np.uint16], *chunks: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()[:33] + b"".join(chunks) + buffer.getvalue()[33:]


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("tag", [281, 341])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_tiff_is_scaled_by_what_it_declares(bits: int, tag: int, channels: int) -> None:
    values = np.rint(scene(channels) / 255 * (2**bits - 1)).astype(np.uint16)
    content = tiff(values, photometric=1 if channels == 1 else 2, tags={tag: (3, [2**bits - 1] * channels)})
    assert np.abs(pixels(content)[..., :channels] - scene(channels)).max() <= 1
    assert "few bits" not in [fault.kind for fault in check_picture(content, name="a.tif").faults]
    # A smaller largest value than there is declares nothing.
    low = tiff(deep(scene(), "u2"), photometric=2, tags={tag: (3, [2**bits - 1] * 3)})
    np.testing.assert_array_equal(pixels(low), scene())


def test_floating_point_is_scaled_by_what_it_declares() -> None:
    values = (scene().astype(np.float32) * 20 - 1000).astype(np.float32)
    tags: dict[int, tuple[int, list[float]]] = {340: (11, [-1000.0] * 3), 341: (11, [4100.0] * 3)}
    np.testing.assert_array_equal(pixels(tiff(values, photometric=2, tags=tags)), scene())


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_a_png_is_scaled_by_its_significant_bits_unless_its_writer_did(bits: int) -> None:
    levels = scene(1)[..., 0]
    values = np.rint(levels / 255 * (2**bits - 1)).astype(np.uint16)
    declared = chunk(b"sBIT", bytes([bits]))
    assert np.abs(pixels(grey_png(values, declared))[..., 0] - levels).max() <= 1
    assert "few bits" not in [fault.kind for fault in check_picture(grey_png(values, declared), name="a.png").faults]
    np.testing.assert_array_equal(pixels(grey_png(levels.astype(np.uint16) * 257, declared))[..., 0], levels)


@pytest.mark.parametrize("bits", [9, 10, 12, 14])
@pytest.mark.parametrize("form", ["PNG", "TIFF", "colour TIFF", "colour PNG"])
def test_undeclared_bits_are_a_warning_and_no_blank_picture(bits: int, form: str) -> None:
    values = np.rint(scene() / 255 * (2**bits - 1)).astype(np.uint16)
    if form == "PNG":
        content = grey_png(values[..., 0])
    elif form == "colour PNG":
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", 48, 40, 16, 2, 0, 0, 0))
        content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    else:
        content = tiff(values if form == "colour TIFF" else values[..., :1], photometric=2 if "c" in form else 1)
    faults = check_picture(content, name=f"a.{form.split()[-1].lower()}").faults
    assert [fault.kind for fault in faults if fault.severity != "note"] == ["few bits"]
    text = next(fault.message for fault in faults if fault.kind == "few bits")
    assert f"holds {bits} bits in 16" in text
    assert f"Multiply its values by {2 ** (16 - bits)}" in text


def test_a_black_and_a_bright_deep_picture_give_no_warning_of_bits() -> None:
    kinds = [fault.kind for fault in check_picture(grey_png(np.zeros((40, 48), np.uint16)), name="a.png").faults]
    assert "blank" in kinds
    assert "few bits" not in kinds
    bright = grey_png(scene(1)[..., 0].astype(np.uint16) * 257)
    assert [fault.kind for fault in check_picture(bright, name="a.png").faults] == ["16-bit"]


# Much beside the pixels.


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"{}" * 1_500_000)),
        chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(b"{}" * 1_500_000)),
        chunk(b"iTXt", b"workflow\0\0\0\0\0" + b"{}" * 1_500_000),
        chunk(b"tEXt", b"workflow\0" + b"{}" * 1_500_000),
        b"".join(chunk(b"tEXt", b"%d\0" % k + b"x" * 1_000_000) for k in range(70)),
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(3_000_000))),
        chunk(b"zTXt", b"bomb\0\0" + zlib.compress(bytes(200 << 20))),
    ],
    ids=["zTXt", "compressed iTXt", "iTXt", "tEXt", "many", "profile", "bomb"],
)
@pytest.mark.parametrize("behind", [False, True])
def test_text_and_profiles_of_any_size_are_of_no_interest(extra: bytes, behind: bool) -> None:
    buffer = io.BytesIO()
    Image.fromarray(scene()).save(buffer, "PNG")
    png = buffer.getvalue()
    at = len(png) - 12 if behind else 33
    content = png[:at] + extra + png[at:]
    tracemalloc.start()
    np.testing.assert_array_equal(pixels(content), scene())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 << 20
    assert [fault for fault in check_picture(content, name="a.png").faults if fault.severity != "note"] == []


def test_an_orientation_among_long_texts_is_kept() -> None:
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'
    buffer = io.BytesIO()
    Image.fromarray(scene()).save(buffer, "PNG")
    png = buffer.getvalue()
    extra = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp) + chunk(b"tEXt", b"a\0" + bytes(2_000_000))
    np.testing.assert_array_equal(pixels(png[:33] + extra + png[33:]), scene()[::-1, ::-1])
