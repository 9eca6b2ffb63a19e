"""What image files say of people, found in each format without decoding it."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import IFDRational

from fusiform.advice.cards.personal import (
    FACE,
    KINDS,
    NOTE,
    PERSON,
    PLACE,
    POSITION,
    SERIAL,
    SUBJECT,
    look,
    look_at_all,
)
from fusiform.data.dataset import Sample
from fusiform.errors import ImageError

ALL = {POSITION, PERSON, SERIAL, SUBJECT, NOTE}


def exif(*, position: bool = True) -> Image.Exif:
    """All that is looked for, as a camera writes it."""
    made = Image.Exif()
    made[0x010F], made[0x0110], made[0x013B] = "Canon", "Canon EOS R5", "Ada"
    inner = made.get_ifd(0x8769)
    inner[0x9003], inner[0xA431], inner[0x9214], inner[0x927C] = "2024:05:31 10:00:00", "123", (9, 9, 4, 4), b"maker"
    place = made.get_ifd(0x8825)
    place[0] = b"\x02\x03\x00\x00"
    if position:
        place[1], place[2], place[3], place[4] = "N", (52.0, 30.0, 1.0), "E", (13.0, 2.0, 1.0)
    return made


def encoded(form: str, **fields: Any) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (20, 10), (90, 120, 30)).save(out, form, **fields)
    return out.getvalue()


def xmp(inside: str) -> bytes:
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF>{inside}</rdf:RDF></x:xmpmeta>'.encode()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_exif_is_read_in_every_format(form: str) -> None:
    assert look(encoded(form, exif=exif())) == (ALL, "2024-05-31", "Canon EOS R5")
    assert look(encoded(form)) == (set(), "", "")


def test_a_tiff_is_its_own_exif() -> None:
    pixels = bytes(20 * 10 * 3)
    made = exif()
    tags = {256: 20, 257: 10, 258: 8, 259: 1, 262: 2, 277: 3, 278: 10, 279: len(pixels)}
    for tag, value in {**tags, 273: 1 << 20}.items():
        made[tag] = value
    size = len(made.tobytes()) - 6
    made[273] = size
    assert look(made.tobytes()[6:] + pixels)[0] == ALL


def test_a_camera_that_knows_no_position_says_none() -> None:
    assert POSITION not in look(encoded("JPEG", exif=exif(position=False)))[0]
    made = exif()
    made.get_ifd(0x8825)[2] = (IFDRational(0, 0),) * 3
    made[0x013B] = "  \0"
    assert look(encoded("JPEG", exif=made))[0] == ALL - {POSITION, PERSON}


@pytest.mark.parametrize(
    ("inside", "kind"),
    [
        ('<rdf:li mwg-rs:Type="Face" mwg-rs:Name="Ada"/>', FACE),
        ("<mwg-rs:Type>Face</mwg-rs:Type>", FACE),
        ('<rdf:li MPReg:PersonDisplayName="Ada"/>', FACE),
        ("<Iptc4xmpExt:PersonInImage>", FACE),
        ('<rdf:li mwg-rs:Type="Focus"/>', SUBJECT),
        ('aux:SerialNumber="7"', SERIAL),
        ('exifEX:BodySerialNumber="7"', SERIAL),
        ('exif:GPSLatitude="52,30N"', POSITION),
        ('aux:OwnerName="Ada"', PERSON),
        ("<dc:creator>", PERSON),
        ("<photoshop:City>Ulm</photoshop:City>", PLACE),
        ('<rdf:li Iptc4xmpExt:LocationCreated="x"/>', PLACE),
        ('<rdf:li mwg-rs:Type="Pet"/>', None),
        ("<dc:title>Facebook</dc:title>", None),
    ],
)
def test_xmp_is_searched(inside: str, kind: str | None) -> None:
    packet = xmp(inside)
    note = PngInfo()
    note.add_itxt("XML:com.adobe.xmp", packet.decode())
    for data in (
        encoded("JPEG", xmp=packet),
        encoded("WEBP", xmp=packet),
        encoded("TIFF", tiffinfo={700: packet}),
        encoded("PNG", pnginfo=note),
    ):
        assert look(data)[0] == ({kind} if kind else set())


def iptc(*records: tuple[int, bytes]) -> bytes:
    """IIM's second part, its version first."""
    return b"".join(
        b"\x1c\x02" + bytes([tag]) + struct.pack(">H", len(value)) + value for tag, value in ((0, b"\0\2"), *records)
    )


def in_jpeg(records: bytes) -> bytes:
    """A JPEG with the records as Photoshop's resource in APP13."""
    resource = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(records)) + records + b"\0" * (len(records) % 2)
    content = b"Photoshop 3.0\0" + resource
    data = encoded("JPEG")
    return data[:2] + b"\xff\xed" + struct.pack(">H", len(content) + 2) + content + data[2:]


@pytest.mark.parametrize(
    ("records", "kinds"),
    [
        ([(80, b"Ada")], {PERSON}),
        ([(90, b"Ulm"), (101, b"Germany")], {PLACE}),
        ([(80, b"Ada"), (80, b"Eve"), (92, b"Old Town")], {PERSON, PLACE}),
        ([(105, b"A headline"), (25, b"keyword"), (90, b"  ")], set()),
    ],
)
def test_iptcs_older_records_are_searched(records: list[tuple[int, bytes]], kinds: set[str]) -> None:
    block = iptc(*records)
    assert look(in_jpeg(block))[0] == kinds
    assert look(encoded("TIFF", tiffinfo={33723: block}))[0] == kinds
    cut = block[:-1]  # its last record is longer than what there is
    assert look(in_jpeg(cut))[0] <= kinds


def test_what_a_png_says_behind_its_pixels_is_found() -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    data = encoded("PNG")
    end = data.rindex(b"IEND") - 4
    behind = chunk(b"eXIf", exif().tobytes()[6:])
    behind += chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp('<rdf:li mwg-rs:Type="Face"/>'))
    assert look(data[:end] + behind + data[end:])[0] == ALL | {FACE}


def test_many_are_counted_by_file_and_damage_ends_nothing(tmp_path: Path) -> None:
    older = exif()
    older.get_ifd(0x8769)[0x9003] = "1999:01:02 00:00:00"
    files = {
        "a.jpg": encoded("JPEG", exif=exif()),
        "b.jpg": encoded("JPEG", exif=older),
        "c.jpg": encoded("JPEG"),
        "d.jpg": b"\xff\xd8\xff\xe0 damaged",
        "e.jpg": b"",
        "f.jpg": b"no image at all",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    names = [*files, "gone.jpg"]
    samples = [Sample(tmp_path / name, 0) for name in names]
    found = look_at_all(samples, lambda sample: sample.file.name, count=len(samples))
    assert (found.images, found.unread) == (7, 4)
    assert found.files == {kind: ["a.jpg", "b.jpg"] if kind in ALL else [] for kind in KINDS}
    assert (found.dated, found.first, found.last) == (2, "1999-01-02", "2024-05-31")
    assert found.cameras == {"Canon EOS R5": 2}
    assert found.rows()[0] == {"in the files": POSITION, "images": 2, "for example": "a.jpg"}


def test_what_is_no_image_is_an_error() -> None:
    with pytest.raises(ImageError):
        look(b"")
