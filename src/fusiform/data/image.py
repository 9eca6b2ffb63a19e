"""From a file, or bytes, to an upright 8-bit RGB picture; and the pictures of a folder in their natural order."""

from __future__ import annotations

import importlib
import io
import os
import re
import struct
import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from PIL import Image, ImageFile

from fusiform.data import limits, png
from fusiform.errors import ImageError, ImageFault, InputError, UsageError
from fusiform.report import printable

# Each format's first bytes and what reads it, mostly a class of Pillow's. A file is known by its content, whatever its
# name; only the class it needs is imported. Going to the class spares Pillow's own check of the size, which warns about
# pictures half as large as the ones it refuses, and gives the decoder's reason in place of "cannot identify".
FORMATS = {
    "JPEG": (rb"\xff\xd8\xff", "PIL.JpegImagePlugin", "JpegImageFile"),
    "PNG": (rb"\x89PNG\r\n\x1a\n", "PIL.PngImagePlugin", "PngImageFile"),
    "WebP": (rb"RIFF....WEBP", "PIL.WebPImagePlugin", "WebPImageFile"),
    "GIF": (rb"GIF8[79]a", "PIL.GifImagePlugin", "GifImageFile"),
    "BMP": (rb"BM", "PIL.BmpImagePlugin", "BmpImageFile"),
    "TIFF": (rb"II[*+]\0|MM\0[*+]", "fusiform.data.tiff", "open_tiff"),
    "PPM": (rb"P[1-6f]\s", "fusiform.data.ppm", "PpmFile"),
    # Of a file's brands the first is the main one; a general one is followed by others (ISO/IEC 14496-12, 4.3).
    "AVIF": (rb"....ftyp(?:avi[fs]|m[is]f1....(?:....){0,3}avi[fs])", "fusiform.data.newer_formats", "open_avif"),
    "HEIF": (rb"....ftyp(?:he[iv][cmsx]|m[is]f1)", "fusiform.data.newer_formats", "open_heif"),
    "JPEG2000": (rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n", "fusiform.data.newer_formats", "open_jpeg_2000"),
}
_OTHERS = {
    rb"....TFL3|.{6}\0\0\{|\x08.[\x12:]|\x80[\x02-\x05]": "is a model, and no picture: give it as --model",
    rb"....ftyp(?:isom|iso\d|mp4\d|avc1|M4V |qt  |3g..)|RIFF....AVI |\x1a\x45\xdf\xa3": (
        "is a video, and no picture: save frames as JPEG or PNG, or fusiform predict --video FILE"
    ),
    rb"....ftyp": "is a video or RAW file, which is not read: save it as JPEG or PNG",
    rb"PK\x03\x04": "is a zip file, and no picture: unzip it, and give its folder",
    rb"%PDF": "is a PDF, and no picture: save its pages as PNG",
}
"""How files begin that are given in a picture's place, and what to do with them."""
EXTENSIONS = re.compile(
    r"\.(jpe?g|jpe|jfif|mpo|a?png|webp|gif|bmp|tiff?|p[bgnpf]m|avifs?|hei[cf]s?|hif|jp2|j2[kc]|jp[cfx])", re.IGNORECASE
)
UNREAD_PICTURE_ENDINGS = frozenset(
    [
        ".jxl",
        ".psd",
        ".svg",
        ".ico",
        ".tga",
        ".exr",
        ".dcm",
        ".dng",
        ".cr1",
        ".cr2",
        ".cr3",
        ".nef",
        ".nrw",
        ".arw",
        ".orf",
        ".rw2",
        ".raf",
        ".pef",
        ".srw",
        ".raw",
    ]
)
"""The endings of pictures that are not read, RAW files among them, in lower case."""

VIDEO_ENDINGS = frozenset((".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".3gp", ".mts"))
"""The endings of videos, in lower case."""

_OF_SYSTEMS = frozenset(
    # macOS, Synology, QNAP, Windows, Linux, Python; all others begin with a dot.
    (
        *("__macosx", "icon\r", "network trash folder", "temporary items"),
        *("@eadir", "#recycle", "#snapshot", "@sharebin", "@tmp"),
        *("@recycle", "@recently-snapshot", "@__thumb"),
        *("$recycle.bin", "recycler", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini"),
        *("lost+found", "__pycache__"),
    )
)

# What each EXIF orientation asks for (Exif 2.32, 4.6.4 A).
_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION_TAG = 0x0112
_LONGEST_LINK = 1024


class MissingDecoderError(Exception):
    """A picture of a format that this installation does not read; the text says what it is and what to install."""


class UnreadKindError(ValueError):
    """A whole picture of a kind that would be read wrong or not at all; the text says what kind it is."""


def read_image(
    source: str | os.PathLike[str] | bytes | BinaryIO,
    *,
    name: str | None = None,
    shorter_side: int | None = None,
    max_pixels: int | None = None,
) -> Image.Image:
    """Read a picture as upright 8-bit RGB, whatever its file format and colour mode.

    ``source`` is a path, the content of a file, or a binary stream, which is read from where it stands to its end.
    The keys of ``FORMATS`` are known by their content; HEIF needs the extra ``heif``, AVIF and JPEG 2000 a Pillow that
    reads them. Of several frames the first is taken. Samples
    of more than 8 bits are scaled by their type, or by what the file declares of them (``deep_scale``). EXIF
    orientation is applied, transparency is laid over white, and the colours of a wider RGB space whose ICC profile
    the file carries become sRGB; ``to_rgb`` says what becomes of the other modes. The pixels of a plain RGB JPEG are
    those of ``Image.open(path).convert("RGB")``. The picture carries no metadata. May be called from several threads.

    A file that holds nothing but the relative path of a picture, as a link that was copied as text does, stands for it.

    ``shorter_side`` (pixels) is the fast mode: libjpeg decodes a JPEG at 1/2, 1/4 or 1/8 of its scale, the smallest
    that leaves the shorter side no shorter than this. Other formats ignore it. ``max_pixels`` is the most pixels that a
    file may say it has, below what ``limits`` allows.

    Raises ImageError, which names the file (``name``, by default the path), for one that is missing, unreadable,
    empty, cut short, damaged, of another format, a pipe or device rather than a file, or larger than ``limits`` allows,
    which is seen before it is decoded. Threads that read large pictures wait for each other's memory.
    """
    if shorter_side is not None and shorter_side < 1:
        raise UsageError(f"shorter_side must be at least 1 pixel, got {shorter_side}: give a length or None")
    if name is None:
        name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else "the picture given as bytes"
    name = name if name.isprintable() else repr(name)
    with _open(source, name) as stream, without_warnings():
        try:
            return _decode(stream, name, shorter_side, max_pixels)
        except ImageError:
            raise
        except Image.DecompressionBombError as error:
            raise limits.too_large(name) from error  # Pillow's own limit, at another size for each format
        except MemoryError as error:
            raise ImageError(
                f"{name}: not enough memory to decode it: make the picture smaller", "too large"
            ) from error
        except Exception as error:
            # A damaged file can make Pillow raise nearly anything: OSError, SyntaxError, ValueError, struct.error,
            # zlib.error, KeyError, ...
            reason = str(error) or type(error).__name__
            cut_short = isinstance(error, EOFError) or "truncated" in reason.lower()
            damage = "is cut short" if cut_short else "is damaged"
            kind: ImageFault = "truncated" if cut_short else "corrupt"
            raise ImageError(f"{name}: {damage} ({reason}): copy or download it again", kind) from error


def read_size(path: Path) -> tuple[int, int]:
    """The width and height in pixels that a picture has once it is upright, from its header; ImageError without one."""
    name = printable(str(path))
    with _open(path, name) as stream, without_warnings():
        head = stream.read(32)
        stream.seek(0)
        try:
            image = identify(stream, head, name)
        except ImageError:
            raise
        except Exception as error:  # a damaged file can make Pillow raise nearly anything
            raise ImageError(f"{name}: is damaged ({error}): copy or download it again", "corrupt") from error
        width, height = image.size
        return (height, width) if orientation(image) >= 5 else (width, height)


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn an open picture of any Pillow mode into 8-bit RGB; an RGB picture is returned as it is.

    Transparency is laid over white. CMYK, YCbCr, HSV, LAB, palettes and bilevel are converted as Pillow does. 16-bit
    grey keeps its high byte (65535 becomes 255). Mode I is read as 16-bit grey, and mode F as grey in 0..1 or, if a
    value is larger, in 0..255; if values lie outside that range, the range from smallest to largest is stretched to
    0..255. Values of F that are not finite become black. Neither EXIF nor an ICC profile is looked at.
    """
    mode = image.mode
    if mode in ("I", "F") or mode.startswith("I;16"):
        from fusiform.data.deep import to_grey  # in numpy, whose import most pictures are not to wait for

        return to_grey(image).convert("RGB")
    if mode == "La":
        image = image.convert("LA")
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or _has_alpha_palette(image) or "transparency" in image.info:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", rgba.size, "white")
        white.paste(rgba, mask=rgba)
        return white
    return image if mode == "RGB" else image.convert("RGB")


def find_images(
    folder: Path, *, unlisted: list[str] | None = None, unread: list[Path] | None = None, videos: bool = False
) -> list[Path]:
    """The pictures in a folder and the folders below it, by their extension in upper or lower case.

    They come in natural order (1, 2, 10), a folder's own among its subfolders. What systems make is passed over, see
    ``is_of_system``. Links to folders are followed; no folder is visited twice. Pictures of kinds that are not read are
    added to ``unread``, and with ``videos`` these, too.

    Raises UsageError if ``folder`` is not a folder. A folder that cannot be listed raises ImageError, or, with
    ``unlisted``, adds its message to that list, and the others go on.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder: check the path")

    def refuse(error: OSError) -> None:
        message = f"{error.filename}: the folder cannot be listed ({error.strerror}): change its permissions"
        if unlisted is None:
            raise ImageError(message) from error
        unlisted.append(message)

    found: list[Path] = []
    passed_over = UNREAD_PICTURE_ENDINGS | VIDEO_ENDINGS if videos else UNREAD_PICTURE_ENDINGS
    visited: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        here = Path(parent).stat()
        if (here.st_dev, here.st_ino) in visited:
            folders.clear()
            continue
        visited.add((here.st_dev, here.st_ino))
        folders[:] = [name for name in folders if not is_of_system(name)]
        # Links last, so that a folder goes by its own name rather than a link's, and the answer is always the same.
        folders.sort(key=lambda name: (Path(parent, name).is_symlink(), natural_key(name)))
        paths = [Path(parent, name) for name in files if not is_of_system(name)]
        # Reading from a named pipe would wait for ever; a link to nowhere is kept, to be reported when it is read.
        found += [p for p in paths if EXTENSIONS.fullmatch(p.suffix) and (p.is_file() or not p.exists())]
        if unread is not None:
            unread += [p for p in paths if p.suffix.lower() in passed_over and p.is_file()]
    return sorted(found, key=lambda path: [natural_key(part) for part in path.relative_to(folder).parts])


def is_of_system(name: str) -> bool:
    """Whether a file or folder is hidden or made by a system beside the user's own: thumbnails, bins, indices."""
    return name.startswith(".") or name.casefold() in _OF_SYSTEMS


def unread_note(unread: Sequence[Path]) -> list[str]:
    """What to tell the user of pictures that are not read, by their endings."""
    endings = Counter(path.suffix.lower() for path in unread)
    return [
        f"{count} {'file' if count == 1 else 'files'} ending in {ending}, such as {_example(unread, ending)}: "
        f"not read; save {'frames of them' if ending in VIDEO_ENDINGS else 'them'} as JPEG or PNG"
        for ending, count in sorted(endings.items())
    ]


def _example(unread: Sequence[Path], ending: str) -> str:
    return printable(next(path.name for path in unread if path.suffix.lower() == ending))


def natural_key(name: str) -> tuple[list[str | int], str]:
    """A sorting key that counts: 1, 2, 10."""
    # Text and numbers take turns, so that like is compared with like; the name itself settles "01" and "1".
    parts = re.split(r"(\d{1,1000})", name.casefold())  # int() refuses thousands of digits
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def _open(source: str | os.PathLike[str] | bytes | BinaryIO, name: str) -> BinaryIO:
    """A stream over the source that can seek and that the caller closes."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    try:
        if not isinstance(source, (str, os.PathLike)):
            return io.BytesIO(limits.read_bounded(source, name))
        limits.check_kind(source, name)
        file = open_file(Path(source))
        if file.seekable():
            return file
        with file:
            return io.BytesIO(limits.read_bounded(file, name))
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file: check the path") from error
    except (OSError, ValueError) as error:
        if isinstance(source, (str, os.PathLike)) and os.path.isdir(source):  # noqa: PTH112  # of names of any length
            raise ImageError(f"{name}: is a folder, not a picture: name the pictures in it") from error
        if isinstance(error, PermissionError):
            raise ImageError(f"{name}: may not be read (permission denied): change its permissions") from error
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise ImageError(f"{name}: cannot be read ({reason}): check where it comes from") from error


def open_file(path: Path) -> BinaryIO:
    """A picture's file, or where its only content is the path from its own folder to a picture, that one.

    Git leaves links as such text on systems without them, and archives of datasets are packed there. Raises what
    ``Path.open`` raises.
    """
    file = path.open("rb")
    head = file.peek()
    if len(head) > _LONGEST_LINK or not head.isascii() or not (text := head.decode().strip()).isprintable():
        return file
    target = path.parent / text
    if not EXTENSIONS.fullmatch(target.suffix) or Path(text).is_absolute() or not target.is_file():
        return file
    file.close()
    return target.open("rb")


def _decode(stream: BinaryIO, name: str, shorter_side: int | None, max_pixels: int | None) -> Image.Image:
    head = stream.read(32)
    stream.seek(0)
    if not head:
        raise ImageError(f"{name}: is empty (0 bytes): copy or download it again", "empty file")
    image = identify(stream, head, name)
    size = image.size
    if max_pixels is not None and size[0] * size[1] > max_pixels:
        raise ImageError(
            f"{name}: is {size[0]} x {size[1]} pixels, and no more than {max_pixels:,} are taken: make the picture "
            "smaller",
            "too large",
        )
    if shorter_side is not None and image.format == "JPEG":  # HEIF would give a thumbnail
        image.draft(None, (shorter_side, shorter_side))
    profile = _foreign_profile(image)
    # Where a PNG says how it was held, only its end may tell.
    again = profile is not None or image.format == "PNG" or orientation(image) in _ORIENTATIONS
    needed = limits.decoding_bytes(image, size, stream, again=again and image.format != "PNG")
    if needed > limits.MAX_DECODED_BYTES:
        raise limits.too_large(name, size, needed)
    twice = 8 * image.size[0] * image.size[1]
    with limits.memory_for(max(needed, twice) if again else needed):
        image.load()
        if image.mode.startswith("I") and (scale := deep_scale(image, stream)) is not None and scale.full < 65535:
            from fusiform.data.deep import whitened

            rgb = whitened(image, scale.full).convert("RGB")
        else:
            rgb = to_rgb(image)
        method = _ORIENTATIONS.get(orientation(image))
        if (method is not None or profile is not None) and twice > limits.MAX_DECODED_BYTES:
            raise limits.too_large(name, size, twice)
        if rgb is not image:
            del image
        # Only a profile for RGB says anything about these pixels; CMYK and grey keep Pillow's conversion.
        if profile is not None:
            rgb = _to_srgb(rgb, profile)
        if method is not None:
            rgb = rgb.transpose(method)
    rgb.info = {}
    return rgb


class DeepScale(NamedTuple):
    """How far the samples of a picture of more than 8 bits reach, what is read as white, and the most of their type."""

    largest: int
    full: int
    type_full: int


def deep_scale(image: ImageFile.ImageFile, stream: BinaryIO) -> DeepScale | None:
    """The scale of a PNG of 16 bits or a deep TIFF of whole numbers that was decoded; None of others.

    Cameras put 10, 12 or 14 bits into 16. Where the file says so and no sample is larger, its largest value is white:
    of PNG, sBIT tells the bits (ISO/IEC 15948, 11.3.2.4), whose writers should have scaled the samples, and often have
    not. A TIFF is scaled by ``DeepTiff``.
    """
    if image.format == "PNG" and not image.mode.startswith("I"):
        if image.mode not in ("RGB", "RGBA", "LA") or not png.is_16_bit(stream):
            return None
        # Of colours, Pillow keeps the upper byte alone.
        channels = image.getextrema()[: 1 if image.mode == "LA" else 3]
        high = max(cast(tuple[int, int], channel)[1] for channel in channels)
        return DeepScale(high and high << 8 | 255, 65535, 65535)
    if image.format == "PNG":
        from fusiform.data.deep import largest_of

        largest = largest_of(image)
        bits = png.significant_bits(stream)
        full = 2**bits - 1 if bits is not None and 8 <= bits < 16 and largest < 2**bits else 65535
        return DeepScale(largest, full, 65535)
    scale = getattr(image, "scale", None)
    return scale if isinstance(scale, DeepScale) else None


def identify(stream: BinaryIO, head: bytes, name: str) -> ImageFile.ImageFile:
    """Pillow's reader for a picture that begins with ``head``, nothing decoded yet; ImageError for another format."""
    for format_, (signature, module, reader) in FORMATS.items():
        if re.match(signature, head, re.DOTALL):
            if format_ == "PNG":
                stream = png.without_long_text(stream)
            bounded = limits.BoundedStream(stream)
            try:
                image: ImageFile.ImageFile = getattr(importlib.import_module(module), reader)(bounded)
                bounded.begin_pixels(image.width * image.height)
                return image
            except MissingDecoderError as error:
                raise ImageError(f"{name}: {error}", "kind not read") from error
            except UnreadKindError as error:
                message = f"{name}: this kind of {format_} is not read ({error}): save it as PNG"
                raise ImageError(message, "kind not read") from error
    for signature, said in _OTHERS.items():
        if re.match(signature, head, re.DOTALL):
            raise ImageError(f"{name}: {said}", "not a picture")
    message = f"{name}: is not a picture ({', '.join(FORMATS)} are read): remove it or save it as JPEG or PNG"
    raise ImageError(message, "not a picture")


def orientation(image: Image.Image) -> int:
    """What EXIF says of how the picture was held, 1 (upright) to 8; 1 where it says nothing."""
    try:
        return cast(int, image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # damaged EXIF takes nothing from the pixels
        return 1


def _has_alpha_palette(image: Image.Image) -> bool:
    return image.mode == "P" and image.palette is not None and image.palette.mode != "RGB"


def _foreign_profile(image: Image.Image) -> bytes | None:
    """The profile of another RGB space than sRGB that the picture's colours are in."""
    profile = image.info.get("icc_profile")
    # "RGB " stands in byte 16 of its header (ICC.1:2022 7.2.6). One is some kilobytes; a megabyte is other data.
    if not isinstance(profile, bytes) or profile[16:20] != b"RGB " or image.mode not in ("RGB", "RGBA", "P", "PA"):
        return None
    return None if len(profile) > 1 << 20 or has_srgb_primaries(profile) else profile


def _to_srgb(rgb: Image.Image, profile: bytes) -> Image.Image:
    if (transform := _transform(profile)) is None:
        return rgb
    from PIL import ImageCms

    return ImageCms.applyTransform(rgb, transform) or rgb


# The sRGB primaries seen under D50, as profiles store them (IEC 61966-2-1, adapted as in ICC.1:2022 Annex E).
_SRGB_PRIMARIES = {
    b"rXYZ": (0.4361, 0.2225, 0.0139),
    b"gXYZ": (0.3851, 0.7169, 0.0971),
    b"bXYZ": (0.1431, 0.0606, 0.7139),
}


def has_srgb_primaries(profile: bytes) -> bool:
    """Whether a profile is one of the many for sRGB, judged by its primaries: that takes microseconds and no lcms."""
    try:
        (count,) = struct.unpack_from(">I", profile, 128)
        tags = {tag: at for tag, at, _ in struct.iter_unpack(">4sII", profile[132 : 132 + 12 * count])}
        return all(
            abs(stored / 65536 - xyz) < 0.003
            for tag, primary in _SRGB_PRIMARIES.items()
            for stored, xyz in zip(struct.unpack_from(">3i", profile, tags[tag] + 8), primary, strict=True)
        )
    except (struct.error, KeyError):
        return False


@lru_cache(maxsize=16)
def _transform(profile: bytes) -> Any:
    """The way from a profile to sRGB (an ImageCmsTransform), or None for a broken profile."""
    from PIL import ImageCms

    try:
        return ImageCms.buildTransform(io.BytesIO(profile), ImageCms.createProfile("sRGB"), "RGB", "RGB")
    except Exception:  # lcms tells no more than that it failed; the pixels are then taken as sRGB
        return None


# Pillow warns about damaged EXIF and the like on pictures that it reads all the same. Nobody reading a folder can do
# anything about that, and under "error" the warning would cost the picture. warnings.catch_warnings is not safe with
# threads before Python 3.14, so one filter stands first in the list for good, and matches only in a thread that is
# inside read_image. It holds no state of its own, because some libraries pickle the list of filters.


class _Reading(threading.local):
    now = False


_reading = _Reading()


class _WhileReading:
    def match(self, _: str) -> bool:
        return _reading.now


_IGNORE_WHILE_READING = ("ignore", _WhileReading(), Warning, None, 0)
_filters_lock = threading.Lock()


@contextmanager
def without_warnings() -> Iterator[None]:
    """Silence warnings in this thread within ``with``."""
    filters = cast("list[Any]", warnings.filters)
    if not filters or filters[0] is not _IGNORE_WHILE_READING:
        with _filters_lock:
            filters.insert(0, _IGNORE_WHILE_READING)
            if _IGNORE_WHILE_READING in filters[1:]:
                del filters[filters.index(_IGNORE_WHILE_READING, 1)]
    _reading.now = True
    try:
        yield
    finally:
        _reading.now = False
