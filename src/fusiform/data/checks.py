"""What one file of a dataset has that a user should know of, found without any model."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageFile

from fusiform.data.faults import Fault
from fusiform.data.image import (
    FORMATS,
    deep_scale,
    has_srgb_primaries,
    identify,
    orientation,
    read_image,
    without_warnings,
)
from fusiform.errors import ImageError

TINY_SIDE = 32
"""Pixels; a picture whose shorter side is shorter is more likely an icon than a photograph."""
ENORMOUS_PIXELS = 50_000_000
LONGEST_RATIO = 5.0
"""Longer to shorter side; of a longer picture, the centre square that a network sees shows too little."""
BLANK_RANGE = 4
"""Grey levels between the darkest and the lightest pixel of a blank picture: compression may add some."""

DARKEST_PEAK = 15
"""The largest value of a deep picture up to which it is taken for black, not for one of few bits in many."""

# The endings that each format's files have, in lower case.
_ENDINGS = {
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"},
    "PNG": {".png", ".apng"},
    "WebP": {".webp"},
    "GIF": {".gif"},
    "BMP": {".bmp"},
    "TIFF": {".tif", ".tiff"},
    "PPM": {".ppm", ".pgm", ".pbm", ".pnm", ".pfm"},
    "AVIF": {".avif", ".avifs"},
    "HEIF": {".heic", ".heics", ".heif", ".heifs", ".hif"},
    "JPEG2000": {".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"},
}
PICTURE_ENDINGS = frozenset().union(*_ENDINGS.values())
"""The endings of files that are read, in lower case, with their dots; HEIF's need an extra."""

_NAME = "picture"


@dataclass(frozen=True)
class Checked:
    """What ``check_picture`` found: the faults, and the picture as ``read_image`` reads it.

    ``image`` is None where it cannot be read; then one of the faults is an error. ``grey`` says that the file holds
    one channel.
    """

    faults: tuple[Fault, ...]
    image: Image.Image | None = None
    grey: bool = False


def check_picture(data: bytes, *, name: str) -> Checked:
    """Read a picture from its file's content and look for what is wrong or unusual about it.

    ``name`` is the file's, for its ending. Whatever the content, nothing is raised. Errors are pictures that cannot
    be read, warnings what probably harms training, notes what other programs may treat in another way.
    """
    try:
        image = read_image(data, name=_NAME)
    except ImageError as error:
        message = str(error).removeprefix(f"{_NAME}: ")
        return Checked((Fault(error.kind, "error", message),))

    form = _format(data)
    faults = list(_shape_faults(image))
    if (ending := Path(name).suffix.lower()) in PICTURE_ENDINGS and ending not in _ENDINGS[form]:
        faults.append(
            Fault("wrong extension", "warning", f"is a {form} file called {ending}: other tools may refuse it; rename")
        )
    if form == "JPEG" and (damage := jpeg_damage(data)) is not None:
        faults.append(
            Fault("damaged inside", "warning", f"can be read, but {damage}: look at it, and copy or download it again")
        )
    grey = False
    with without_warnings():
        header = identify(io.BytesIO(data), data[:32], _NAME)
        grey = header.mode in ("1", "L", "LA")
        faults += _header_faults(header, form, data)
        if (deep := _deep_fault(header, data)) is not None:
            # What is nearly black by its scale does not show a single colour for that.
            faults = [fault for fault in faults if fault.kind != "blank"]
            faults.append(deep)
    return Checked(tuple(faults), image, grey)


def jpeg_damage(data: bytes) -> str | None:
    """What shows that the compressed pixels of a JPEG were damaged, or None; decoders go on over such places.

    Within the pixels a byte FF is followed by 00 or by a marker: restarts count from 0 to 7 over and over, and the end
    marker comes last (ITU-T T.81, B.1.1 and B.2.1). Damage that does not break these rules is not seen.
    """
    at, in_pixels, restarts = 2, False, 0
    while True:
        found = _MARKER.search(data, at)
        if found is None:
            return "its end is missing"
        code, at = found[1][0], found.end()
        if 0xD0 <= code <= 0xD7:
            if not in_pixels or code - 0xD0 != restarts % 8:
                return f"its pixels are out of order at byte {found.start():,}"
            restarts += 1
        elif code == 0xD9:
            return None
        elif in_pixels and not (code in (0xC4, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE) or 0xE0 <= code <= 0xEF):
            return f"its pixels are damaged at byte {found.start():,}"
        elif code not in (0x01, 0xD8):
            # A segment that is no pixels, with its length.
            if at + 2 > len(data):
                return "its end is missing"
            at += max(int.from_bytes(data[at : at + 2], "big"), 2)
            in_pixels, restarts = code == 0xDA, 0


_MARKER = re.compile(rb"\xff+([\x01-\xfe])", re.DOTALL)


_FORMAT_OF = re.compile(
    b"|".join(b"(?P<%s>%s)" % (name.encode("ascii"), signature) for name, (signature, _, _) in FORMATS.items()),
    re.DOTALL,
)


def _format(data: bytes) -> str:
    """The format of a picture that was read: a key of FORMATS."""
    found = _FORMAT_OF.match(data)
    return (found and found.lastgroup) or ""


def _shape_faults(image: Image.Image) -> Iterator[Fault]:
    width, height = image.size
    shorter, longer = sorted(image.size)
    if shorter < TINY_SIDE:
        yield Fault("tiny", "warning", f"is only {width} x {height} pixels: remove it if it is an icon")
    if width * height > ENORMOUS_PIXELS:
        megapixels = width * height / 1e6
        yield Fault(
            "enormous", "note", f"has {megapixels:.0f} megapixels, which take long to read: a smaller copy will do"
        )
    if longer > LONGEST_RATIO * shorter:
        text = f"is {width} x {height} pixels, and only the square in the middle is looked at: crop it to what matters"
        yield Fault("long and narrow", "warning", text)
    if all(high - low <= BLANK_RANGE for low, high in image.getextrema()):  # type: ignore[misc]  # RGB: three pairs
        yield Fault("blank", "warning", "shows a single colour: remove it")


def _header_faults(header: ImageFile.ImageFile, form: str, data: bytes) -> Iterator[Fault]:
    if (frames := _frames(header)) > 1:
        yield Fault("several frames", "note", f"has {frames} frames or pages: only the first is used")

    turned = orientation(header)
    exif = header.info.get("exif")
    if turned in range(2, 9):
        text = f"is turned when read, as its EXIF orientation {turned} asks: other tools may show it sideways"
        yield Fault("orientation", "note", text)
    if isinstance(exif, bytes) and not _is_exif(exif):
        yield Fault("damaged EXIF", "note", "has damaged EXIF data: an orientation in it is not seen")

    mode = header.mode
    if mode == "CMYK":
        yield Fault("CMYK", "note", "is CMYK, made for print: its colours change a little on the way to RGB")
    if mode[0] in "IF" or (form == "PNG" and data[24] == 16) or (form == "TIFF" and _tiff_bits(header) > 8):
        yield Fault("16-bit", "note", "has more than 8 bits a channel: the lower ones are dropped when it is read")
    if _is_transparent(header):
        yield Fault("transparency", "note", "is transparent in places: white is put behind it")
    elif mode in ("P", "PA"):
        yield Fault("palette", "note", "has a palette of few colours: photographs lose by that; find the original")

    profile = header.info.get("icc_profile")
    if isinstance(profile, bytes) and profile[16:20] == b"RGB " and not has_srgb_primaries(profile):
        text = "carries a colour profile other than sRGB: it is converted when read; other tools may show paler colours"
        yield Fault("colour profile", "note", text)


def _deep_fault(header: ImageFile.ImageFile, data: bytes) -> Fault | None:
    """A warning of few bits in many, which are read nearly black: no value is larger than 10, 12 or 14 bits hold."""
    header.load()
    scale = deep_scale(header, io.BytesIO(data))
    if scale is None or scale.full < scale.type_full or not DARKEST_PEAK < scale.largest <= scale.type_full >> 2:
        return None
    bits, depth = max(8, scale.largest.bit_length()), scale.type_full.bit_length()
    text = (
        f"holds {bits} bits in {depth}, as cameras write them, and does not say so: it is read nearly black. Multiply "
        f"its values by {2 ** (depth - bits)}, or save it in 8 bits"
    )
    return Fault("few bits", "warning", text)


def _frames(header: ImageFile.ImageFile) -> int:
    try:
        return int(getattr(header, "n_frames", 1))
    except Exception:  # damage behind the first frame takes nothing from it
        return 1


def _tiff_bits(header: ImageFile.ImageFile) -> int:
    bits = getattr(header, "tag_v2", {}).get(258, (8,))  # BitsPerSample, TIFF 6.0 section 8
    return max(bits) if isinstance(bits, tuple) and bits else 8


def _is_transparent(header: ImageFile.ImageFile) -> bool:
    if header.mode not in ("LA", "La", "PA", "RGBA", "RGBa") and "transparency" not in header.info:
        return False
    # The picture was read before from the same bytes, so it decodes.
    lowest, _ = header.convert("RGBA").getchannel("A").getextrema()
    return isinstance(lowest, (int, float)) and lowest < 255


def _is_exif(exif: bytes) -> bool:
    """Whether EXIF data hold a whole first directory (TIFF 6.0, section 2)."""
    tiff = exif.removeprefix(b"Exif\0\0")
    if tiff[:4] not in (b"II*\0", b"MM\0*"):
        return False
    order = "<" if tiff[:2] == b"II" else ">"
    try:
        (first,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, first)
    except struct.error:
        return False
    return bool(first + 2 + 12 * entries <= len(tiff))
