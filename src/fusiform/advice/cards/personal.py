"""What the files of images say of people: where they were taken, by whom, with which device, and where a face is.

Read are EXIF (CIPA DC-008, Exif 2.32), XMP (ISO 16684-1), with the regions of the Metadata Working Group's guidelines
(2.0, Section 5.9) and of Microsoft's people tags, and IPTC's older records (IIM 4.2). Makers' own notes are not read;
that there are some is counted.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from PIL import Image, ImageFile, IptcImagePlugin

from fusiform.data import limits
from fusiform.data.annotated import AnnotatedSample
from fusiform.data.dataset import Sample
from fusiform.data.image import identify, open_file, without_warnings
from fusiform.errors import ImageError
from fusiform.progress import Tracker, silent

POSITION = "GPS position"
PLACE = "name of a place"
PERSON = "name of the owner or author"
SERIAL = "serial number of a device"
FACE = "face or named person"
SUBJECT = "subject area"
NOTE = "maker's note, not read"
KINDS = (POSITION, PLACE, PERSON, SERIAL, FACE, SUBJECT, NOTE)
"""What is looked for, the most telling first."""

_EXIF_DIRECTORY, _GPS_DIRECTORY = 0x8769, 0x8825
_LATITUDE, _LONGITUDE = 2, 4
_ARTIST, _AUTHOR_OF_WINDOWS, _OWNER = 0x013B, 0x9C9D, 0xA430
_SERIALS = (0xA431, 0xA435, 0xC62F)  # of body and lens; DNG's of the camera
_SUBJECTS = (0x9214, 0xA214)  # SubjectArea and SubjectLocation
_MAKER_NOTE, _MAKE, _MODEL, _TAKEN = 0x927C, 0x010F, 0x0110, 0x9003

_IN_XMP: Mapping[str, re.Pattern[bytes]] = {
    POSITION: re.compile(rb"\bexif:GPS(?:Latitude|Longitude)\b"),
    PLACE: re.compile(
        rb"\bphotoshop:(?:City|State|Country)\b|\bIptc4xmpCore:(?:Location|CountryCode)\b"
        rb"|\bIptc4xmpExt:Location(?:Created|Shown)\b"
    ),
    PERSON: re.compile(rb"\b(?:aux:OwnerName|exifEX:CameraOwnerName|dc:creator|tiff:Artist)\b"),
    SERIAL: re.compile(rb"\b(?:aux|exifEX|exif):(?:Body|Lens)?SerialNumber\b"),
    FACE: re.compile(
        rb"\bmwg-rs:Type\b\W{1,4}Face\b|\bMPReg:(?:PersonDisplayName|Rectangle)\b|\b\w+:PersonInImage\b"
        rb"|\bacdsee-rs:Type\b\W{1,4}Face\b"
    ),
    SUBJECT: re.compile(rb"\bexif:Subject(?:Area|Location)\b|\bmwg-rs:Type\b\W{1,4}Focus\b"),
}
_IN_IPTC: Mapping[str, tuple[int, ...]] = {PLACE: (90, 92, 95, 101), PERSON: (80, 122)}
"""Of the records' second part: city, sublocation, province and country; by-line and writer."""


@dataclass
class Personal:
    """What the files of ``images`` images say, by the kind: the names of the files, in their order.

    ``unread`` could not be looked at. ``first`` and ``last`` are the dates, such as 2024-05-31, that cameras wrote when
    images were taken, of ``dated`` of them; ``cameras`` are makes and models with their images.
    """

    images: int = 0
    unread: int = 0
    files: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    dated: int = 0
    first: str = ""
    last: str = ""
    cameras: dict[str, int] = field(default_factory=dict)

    def rows(self) -> list[dict[str, str | int]]:
        """A row for each kind that there is: images, and an example."""
        return [
            {"in the files": kind, "images": len(names), "for example": names[0]}
            for kind, names in self.files.items()
            if names
        ]


def look_at_all(
    samples: Iterable[Sample | AnnotatedSample],
    name_of: Callable[[Any], str],
    *,
    count: int,
    progress: Tracker = silent,
) -> Personal:
    """Look at the files of images one after the other, nothing decoded; ``name_of`` is what to call one."""
    found = Personal()
    with progress(total=count, label="look at metadata") as bar:
        for sample in samples:
            found.images += 1
            try:
                with without_warnings(), _stream(sample) as stream:
                    kinds, taken, camera = _look(stream)
            except Exception:  # a damaged file can make Pillow raise nearly anything
                found.unread += 1
            else:
                for kind in kinds:
                    found.files[kind].append(name_of(sample))
                if taken:
                    found.dated += 1
                    found.first, found.last = min(found.first or taken, taken), max(found.last, taken)
                if camera:
                    found.cameras[camera] = found.cameras.get(camera, 0) + 1
            bar.advance(1)
    return found


def look(data: bytes) -> tuple[set[str], str, str]:
    """Of an image's encoded bytes the kinds of ``KINDS``, the date it was taken and the camera, "" where unknown.

    ImageError where it is none, and whatever Pillow raises for a damaged one.
    """
    with without_warnings():
        return _look(io.BytesIO(data))


def _stream(sample: Sample | AnnotatedSample) -> BinaryIO:
    if isinstance(sample, Sample) and sample.key:
        return io.BytesIO(sample.read_bytes())
    limits.check_kind(sample.file, sample.name)
    return open_file(sample.file)


def _look(stream: BinaryIO) -> tuple[set[str], str, str]:
    head = stream.read(32)
    stream.seek(0)
    if not head:
        raise ImageError("the image: is empty", "empty file")
    image = identify(stream, head, "the image")
    xmp = _xmp(image, stream)
    exif = _exif(image, stream)
    inner, position = exif.get_ifd(_EXIF_DIRECTORY), exif.get_ifd(_GPS_DIRECTORY)
    kinds = {kind for kind, pattern in _IN_XMP.items() if pattern.search(xmp)}
    if all(_is_place(position.get(tag)) for tag in (_LATITUDE, _LONGITUDE)):
        kinds.add(POSITION)
    for kind, tags in (
        (PERSON, (_ARTIST, _AUTHOR_OF_WINDOWS, _OWNER)),
        (SERIAL, _SERIALS),
        (SUBJECT, _SUBJECTS),
        (NOTE, (_MAKER_NOTE,)),
    ):
        if any(_text(exif.get(tag)) or _text(inner.get(tag)) for tag in tags):
            kinds.add(kind)
    records = IptcImagePlugin.getiptcinfo(image) or {}
    kinds |= {kind for kind, tags in _IN_IPTC.items() if any(_text(records.get((2, tag))) for tag in tags)}
    date = re.match(r"(\d{4}):([01]\d):([0-3]\d)\b", _text(inner.get(_TAKEN)))
    taken = "-".join(date.groups()) if date and date[1] > "1900" else ""
    make, model = _text(exif.get(_MAKE)), _text(exif.get(_MODEL))
    return kinds, taken, model if model.startswith(make) else f"{make} {model}".strip()


def _xmp(image: ImageFile.ImageFile, stream: BinaryIO) -> bytes:
    """The XMP packet; of a PNG the chunks behind the pixels are searched too, without decoding them."""
    found = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    if image.format == "TIFF" and not found:
        found = getattr(image, "tag_v2", {}).get(700, b"")
    if isinstance(found, tuple):
        found = bytes(found)
    if image.format == "PNG" and not found:
        stream.seek(0)
        data = limits.read_bounded(stream, "the image")
        start = data.find(b"iTXtXML:com.adobe.xmp")
        found = data[start : data.find(b"IEND", start)] if start >= 0 else b""
        if "exif" not in image.info and (at := data.find(b"eXIf")) >= 0:
            size = int.from_bytes(data[at - 4 : at], "big")
            image.info["exif"] = b"Exif\0\0" + data[at + 4 : at + 4 + size]
        image.info.setdefault("exif", b"")  # else Pillow would decode all of it to look
    return found.encode("utf-8", "replace") if isinstance(found, str) else bytes(found)


def _exif(image: ImageFile.ImageFile, stream: BinaryIO) -> Image.Exif:
    if image.format != "TIFF":
        return image.getexif()
    stream.seek(0)
    exif = Image.Exif()
    exif.load(b"Exif\0\0" + limits.read_bounded(stream, "the image"))  # the file is what EXIF is elsewhere
    return exif


def _text(value: object) -> str:
    """A tag's value as text, "" for what holds nothing; of several the first."""
    if isinstance(value, list):
        value = next(iter(value), None)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return "" if value is None else str(value).strip(" \0\t\r\n")


def _is_place(value: Any) -> bool:
    """Whether degrees, minutes and seconds are numbers, as cameras that know no position leave them out."""
    try:
        degrees = [float(each) for each in value]
    except (TypeError, ValueError, ZeroDivisionError):
        return False
    return bool(degrees) and all(each == each for each in degrees)
