"""Reading boxes and outlines in CVAT's XML for images: https://docs.cvat.ai/docs/manual/advanced/formats/format-cvat."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from fusiform.data.annotated import AnnotatedSet, AnnotationTask, PassOver
from fusiform.data.dataset import SPLIT_NAMES
from fusiform.data.faults import AnnotationFault
from fusiform.data.limits import MAX_PIXELS
from fusiform.data.lookup import Finder, by_split, photographs, split_of_path
from fusiform.data.names import nfc
from fusiform.data.objects import TAGS, Object, Page, around, gather, rectangle, tell_unmatched
from fusiform.data.outlines import counts_of, ellipse, encode_counts, turned
from fusiform.data.voc import parse_xml
from fusiform.errors import InputError
from fusiform.fields import show
from fusiform.report import printable

LAYOUT = "annotations.xml as CVAT exports it for images, and the pictures in images beside it"
_NO_AREA = {"points": "points", "polyline": "lines", "skeleton": "skeletons", "cuboid": "cuboids", "tag": TAGS}
_UNBOXED_LABELS = ("points", "polyline", "skeleton", "cuboid", "tag")


def read_cvat(
    source: str | os.PathLike[str],
    task: AnnotationTask = "detection",
    *,
    classes: Sequence[str] | None = None,
    faults: list[AnnotationFault] | None = None,
) -> AnnotatedSet:
    """Read a dataset's pictures with the boxes or, for ``segmentation``, the outlines of CVAT's XML for images.

    ``source`` is the file or the folder with it; see ``cvat_files``. The pictures lie in ``images`` or beside it, in
    folders of the splits or not, or anywhere below where one alone has that name. A picture's ``subset`` is its split,
    or else what its folder names. Of polygons, ellipses and masks the box is taken, of turned boxes the one around
    them; points, lines, cuboids and skeletons are told. Pictures that the file lists without objects are background.
    The classes are the labels that the file defines, in its order, bound by name; what is damaged is told, see
    ``gather``.

    Raises UsageError for a source that is missing or of no such layout, and what ``gather`` raises.
    """
    path = Path(source)
    files = cvat_files(path)
    if not files:
        raise InputError(f"{path}: has no XML of CVAT's: give {LAYOUT}")
    root = path.parent if path.is_file() else path
    finder = Finder(root, [root / "images", root])
    notes: list[str] = []
    names: dict[str, None] = {}
    entries: list[tuple[Path, Element]] = []
    for file in files:
        document = parse_xml(file)
        if document.find("track") is not None:
            raise InputError(f"{file}: is CVAT's XML for video, which names no pictures: export it for images")
        names.update(dict.fromkeys(_labels(document)))
        entries += [(file, image) for image in document.iter("image")]
    if not entries:
        raise InputError(f"{files[0]}: lists no images: export it for images")
    found: list[tuple[Path, Path, Element]] = []
    missing: list[str] = []
    for file, image in entries:
        name = image.get("name", "")
        subset = SPLIT_NAMES.get(image.get("subset", "").casefold())
        inner = f"{image.get('subset')}/{name}"
        picture = (image.get("subset") and finder.find_exactly(inner)) or finder.find(name, subset)
        if picture is None:
            missing.append(name)
        else:
            found.append((picture, file, image))
    if not found:
        raise InputError(
            f"{files[0]}: none of its {len(entries)} pictures is there, such as {printable(missing[0])}: put them into "
            f"{root / 'images'}"
        )
    given = [SPLIT_NAMES.get(image.get("subset", "").casefold()) for _, _, image in found]
    in_folder = [split_of_path(picture.relative_to(root).parts[:-1]) for picture, _, _ in found]
    splits, note = by_split([a or b for a, b in zip(given, in_folder, strict=True)])
    notes += [*([note] if note else []), *finder.notes(len(entries))]
    pages = [
        _page(image, file)._replace(split=split, picture=picture)
        for (picture, file, image), split in zip(found, splits, strict=True)
        if split is not None
    ]
    known = {picture for picture, _, _ in found}
    unlisted = [file for file in photographs(root, unlisted=notes) if file not in known]
    tell_unmatched(files[0], root / "images", missing, unlisted, len(entries), notes, faults)
    return gather(path, task, pages, notes, present=_present(names, pages), classes=classes, faults=faults)


def cvat_files(path: Path) -> list[Path]:
    """The XML files of CVAT's for images: itself, or those in a folder, such as ``annotations.xml``."""
    if path.is_file():
        return [path] if path.suffix.lower() == ".xml" and _looks_like_cvat(path) else []
    if not path.is_dir():
        return []
    return [file for file in sorted(path.glob("*.[xX][mM][lL]")) if _looks_like_cvat(file)]


def _looks_like_cvat(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            head = stream.read(1 << 12)
    except OSError:
        return False
    return re.search(rb"<annotations\b", head) is not None


def _labels(document: Element) -> list[str]:
    """The labels that the file defines for areas; those within a skeleton belong to it."""
    return [
        nfc(name)
        for label in document.iter("label")
        if (name := (label.findtext("name") or "").strip())
        and label.find("parent") is None
        and (label.findtext("type") or "").strip() not in _UNBOXED_LABELS
    ]


def _present(names: dict[str, None], pages: Sequence[Page]) -> list[str] | None:
    """The classes in the file's order, and after them what objects bear besides; None for a file that defines none."""
    if not names:
        return None
    used = [nfc(thing.name) for page in pages for thing in page.objects if thing.edges is not None]
    return list(dict.fromkeys([*names, *used]))


def _page(image: Element, file: Path) -> Page:
    where = f"{file}, image {printable(image.get('name', ''))}"
    objects: list[Object] = []
    damage = PassOver([], "damaged annotation", file=file, split=None)
    size: tuple[int, int] | None = None
    with damage:
        width, height = (int(_number(image, side, where)) for side in ("width", "height"))
        size = (width, height) if width > 0 and height > 0 else None
    for element in image:
        if element.tag == "attribute":
            continue
        with damage:
            objects.append(_object(element, size, where))
    return Page("all", Path(), file, size, objects, damage.first)


def _object(element: Element, size: tuple[int, int] | None, where: str) -> Object:
    name = nfc(element.get("label", "").strip())
    if not name:
        raise InputError(f"{where}: a {printable(element.tag)} has no label: write the name of its class there")
    if element.tag in _NO_AREA:
        return Object(name, None, kind=_NO_AREA[element.tag])
    where = f"{where}, {printable(element.tag)} of {printable(name)}"
    if element.tag == "mask":
        return _mask(name, element, size, where)
    if element.tag == "box":
        left, top, right, bottom = (_number(element, edge, where) for edge in ("xtl", "ytl", "xbr", "ybr"))
        polygon = rectangle(min(left, right), min(top, bottom), max(left, right), max(top, bottom))
        x, y = (left + right) / 2, (top + bottom) / 2
    elif element.tag == "ellipse":
        x, y, radius_x, radius_y = (_number(element, key, where) for key in ("cx", "cy", "rx", "ry"))
        polygon = ellipse(x, y, radius_x, radius_y)
    elif element.tag == "polygon":
        polygon = _points(element.get("points", ""), where)
        x, y = polygon[:2]
    else:
        raise InputError(f"{where}: is a shape that is not read: draw a box or polygon")
    if element.get("rotation"):
        polygon = turned(polygon, _number(element, "rotation", where), x, y)
    return Object(name, around([polygon]), (polygon,))


def _points(text: str, where: str) -> list[float]:
    numbers = [_as_number(word) for word in re.split(r"[;,]", text)]
    known = [number for number in numbers if number is not None]
    if len(known) < len(numbers) or len(known) < 6 or len(known) % 2:
        raise InputError(f"{where}: points must be three pairs of numbers or more, got {show(text)}: draw it again")
    return known


def _mask(name: str, element: Element, size: tuple[int, int] | None, where: str) -> Object:
    """Pixels as run lengths, row by row within their own box."""
    left, top, width, height = (int(_number(element, key, where)) for key in ("left", "top", "width", "height"))
    numbers = [_as_number(word) for word in element.get("rle", "").split(",")]
    counts = [int(number) for number in numbers if number is not None and number >= 0]
    if len(counts) < len(numbers) or sum(counts) != width * height or min(left, top) < 0 or min(width, height) < 1:
        raise InputError(f"{where}: its run lengths do not fill its {width} x {height} pixels: draw it again")
    edges = float(left), float(top), float(left + width), float(top + height)
    if size is None or edges[2] > size[0] or edges[3] > size[1] or size[0] * size[1] > MAX_PIXELS:
        raise InputError(f"{where}: its pixels lie outside of the picture: draw it again")
    whole = np.zeros(size[::-1], np.bool_)
    pixels = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(height, width)
    whole[top : top + height, left : left + width] = pixels
    return Object(name, edges, counts=encode_counts(counts_of(whole)))


def _number(element: Element, key: str, where: str) -> float:
    value = _as_number(element.get(key, ""))
    if value is None:
        raise InputError(f"{where}: {key} must be a number, got {show(element.get(key))}: fix it")
    return value


def _as_number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
