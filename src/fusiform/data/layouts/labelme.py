"""Reading boxes and outlines in LabelMe's JSON, a file for each picture: https://github.com/wkentaro/labelme."""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fusiform.data.annotated import AnnotatedSet, AnnotationTask, PassOver
from fusiform.data.faults import AnnotationFault
from fusiform.data.image import is_of_system, natural_key, unread_note
from fusiform.data.limits import MAX_PIXELS
from fusiform.data.lookup import Finder, by_split, photographs, split_of_path
from fusiform.data.names import is_name, listed, nfc
from fusiform.data.objects import Object, Page, around, gather, rectangle
from fusiform.data.outlines import box_of, counts_of, ellipse, encode_counts
from fusiform.errors import InputError, UsageError
from fusiform.fields import show

LAYOUT = "pictures, beside each a JSON file of its name as LabelMe saves it"
_NO_AREA = ("point", "line", "linestrip", "points")


def read_labelme(
    source: str | os.PathLike[str],
    task: AnnotationTask = "detection",
    *,
    classes: Sequence[str] | None = None,
    faults: list[AnnotationFault] | None = None,
) -> AnnotatedSet:
    """Read a dataset's pictures with the boxes or, for ``segmentation``, the outlines of LabelMe's JSON files.

    The files lie anywhere below ``source``, each about the picture that its ``imagePath`` names from its folder, or
    that has its name, beside it or elsewhere where there is one such; pictures within the files are not read. Of a
    polygon, rectangle, circle or mask the box is taken; points and lines have none. Folders may name splits (``train``,
    ``valid``, ``test``). Pictures without a file are nobody's background: they are left out. What is damaged is told,
    see ``gather``.

    Raises UsageError for a source that is missing or of no such layout, and what ``gather`` raises.
    """
    root = Path(source)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder: check the path")
    notes: list[str] = []
    unread: list[Path] = []
    pictures = photographs(root, unlisted=notes, unread=unread)
    notes += unread_note(unread)
    finder = Finder(root, ())
    found: list[tuple[Path, Path, dict[str, Any] | UsageError]] = []
    others: list[Path] = []
    missing: list[Path] = []
    for file in _json_files(root):
        content = _read(file)
        if content is None:
            others.append(file)
        elif (picture := _picture(file, content, finder)) is None:
            missing.append(file)
        else:
            found.append((picture, file, content))
    if not found:
        hint = "export the pictures that are within the files, and put them beside" if missing else f"give {LAYOUT}"
        raise InputError(f"{root}: none of its {len(missing)} files of LabelMe's has its picture: {hint}")
    splits, note = by_split([split_of_path(picture.relative_to(root).parts[:-1]) for picture, _, _ in found])
    notes += [note] if note else []
    pages = [
        _page(file, content)._replace(split=split, picture=picture, annotation=file)
        for (picture, file, content), split in zip(found, splits, strict=True)
        if split is not None
    ]
    annotated = {picture for picture, _, _ in found}
    without = [file for file in pictures if file not in annotated]
    if faults is not None:
        for file in without:
            text = "has no JSON of its name, and is left out: annotate it, or save it without objects"
            faults.append(AnnotationFault("missing annotation", "error", text, file))
        for file in missing:
            text = "has no picture: put it beside"
            faults.append(AnnotationFault("missing picture", "error", text, file))
    else:
        if without:
            names = listed([file.name for file in without])
            notes.append(f"{len(without)} of {len(pictures)} pictures have no JSON of their name, left out: {names}")
        if missing:
            names = listed([file.name for file in missing])
            notes.append(f"{len(missing)} files of LabelMe's have no picture, passed over: {names}")
    if others:
        notes.append(f"{len(others)} JSON files are not LabelMe's, passed over: {listed([f.name for f in others])}")
    return gather(root, task, pages, notes, classes=classes, faults=faults)


def _json_files(root: Path) -> Iterator[Path]:
    found = [file for file in root.rglob("*") if file.suffix.lower() == ".json" and file.is_file()]
    for file in sorted(found, key=lambda file: [natural_key(part) for part in file.relative_to(root).parts]):
        if not any(map(is_of_system, file.relative_to(root).parts)):
            yield file


def _read(file: Path) -> dict[str, Any] | UsageError | None:
    """The content of a file of LabelMe's, what is wrong with it, or None for another one."""
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        return InputError(f"{file}: cannot be read ({error.strerror}): check its permissions")
    except (ValueError, RecursionError) as error:
        return InputError(f"{file}: is no JSON ({error}): save it again")
    if not isinstance(content, dict) or "shapes" not in content:
        return None
    return content


def _picture(file: Path, content: dict[str, Any] | UsageError, finder: Finder) -> Path | None:
    named = content.get("imagePath") if isinstance(content, dict) else None
    if is_name(named):
        beside = Finder(file.parent, (file.parent,))
        plain = named.replace("\\", "/")
        tried = (plain, plain.rpartition("/")[2])
        # A copy of a dataset is about its own pictures, even while the others are still there.
        for name in tried[:: -1 if re.match(r"/|[A-Za-z]:", plain) else 1]:
            if (found := beside.find_exactly(name)) is not None:
                return found
    return finder.find_partner(file)


def _page(file: Path, content: dict[str, Any] | UsageError) -> Page:
    page = Page("all", Path(), file, None, ())
    if isinstance(content, UsageError):
        return page._replace(damage=content)
    width, height = content.get("imageWidth"), content.get("imageHeight")
    # 0 and null are what is not known.
    if isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0:
        page = page._replace(size=(width, height))
    shapes = content["shapes"]
    if not isinstance(shapes, list):
        return page._replace(damage=InputError(f"{file}: shapes must be a list, got {show(shapes)}: fix it"))
    objects: list[Object] = []
    damage = PassOver([], "damaged annotation", file=file, split=None)
    for i, shape in enumerate(shapes):
        with damage:
            objects.append(_object(shape, page.size, f"{file}, shapes[{i}]"))
    return page._replace(objects=objects, damage=damage.first)


def _object(shape: Any, size: tuple[int, int] | None, where: str) -> Object:
    if not isinstance(shape, dict):
        raise InputError(f"{where}: must be an object, got {show(shape)}: fix it")
    label = shape.get("label")
    if isinstance(label, (int, float)) and not isinstance(label, bool):
        label = f"{label:g}"
    if not is_name(label):
        raise InputError(f"{where}: label must be the name of a class, got {show(label)}: fix it")
    name = nfc(label.strip())
    # Its first versions drew polygons alone, and said nothing of it.
    kind = shape.get("shape_type") or "polygon"
    if kind in _NO_AREA:
        return Object(name, None, kind=f"{str(kind).removesuffix('s')}s")
    corners = _corners(shape.get("points"), where)
    flags = shape.get("flags")
    difficult = isinstance(flags, Mapping) and flags.get("difficult") is True
    if kind == "mask":
        return _mask(name, corners, shape.get("mask"), size, where)
    if kind in ("rectangle", "oriented_rectangle", "polygon"):
        fewest = 2 if kind == "rectangle" else 3
        if len(corners) < 2 * fewest:
            raise InputError(f"{where}: a {kind} has {fewest} points or more, got {len(corners) // 2}: draw it again")
        polygon = rectangle(*around([corners])) if kind == "rectangle" else corners
    elif kind == "circle":
        if len(corners) != 4:
            raise InputError(f"{where}: a circle has its centre and a point on it, got {len(corners) // 2}: fix it")
        x, y, other_x, other_y = corners
        radius = math.hypot(other_x - x, other_y - y)
        return Object(name, (x - radius, y - radius, x + radius, y + radius), (ellipse(x, y, radius, radius),))
    else:
        raise InputError(f"{where}: is a {show(kind)}, which is not read: draw a polygon or rectangle")
    return Object(name, around([polygon]), (polygon,), difficult=difficult)


def _corners(points: Any, where: str) -> list[float]:
    numbers = [value for point in points for value in point] if _is_list_of_pairs(points) else []
    if not numbers or not all(math.isfinite(value) for value in numbers):
        raise InputError(f"{where}: points must be pairs of numbers, got {show(points)}: draw it again")
    return [float(value) for value in numbers]


def _is_list_of_pairs(points: Any) -> bool:
    return isinstance(points, list) and all(
        isinstance(point, list)
        and len(point) == 2
        and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in point)
        for point in points
    )


def _mask(name: str, corners: list[float], packed: Any, size: tuple[int, int] | None, where: str) -> Object:
    """An object drawn as pixels: a PNG in base64, whose upper left corner the first point is."""
    if len(corners) != 4 or not isinstance(packed, str):
        raise InputError(f"{where}: a mask has two points and a PNG: draw it again")
    left, top = round(corners[0]), round(corners[1])
    try:
        with Image.open(io.BytesIO(base64.b64decode(packed)), formats=("PNG",)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError("too large")
            pixels = np.asarray(image.convert("L")) > 0
    except (binascii.Error, ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{where}: its mask cannot be read ({error}): draw it again") from None
    box = box_of(pixels)
    if box is None or left < 0 or top < 0:
        raise InputError(f"{where}: its mask is empty or outside of the picture: draw it again")
    edges = left + box[0], top + box[1], left + box[2], top + box[3]
    if size is None or size[0] * size[1] > MAX_PIXELS:
        return Object(name, edges)
    whole = np.zeros(size[::-1], np.bool_)
    part = whole[top : top + pixels.shape[0], left : left + pixels.shape[1]]
    part |= pixels[: part.shape[0], : part.shape[1]]
    return Object(name, edges, counts=encode_counts(counts_of(whole)))
