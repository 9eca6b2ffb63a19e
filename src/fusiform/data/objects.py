"""From the objects that a reader found to a dataset of boxes or masks: the same for every layout."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from fusiform.data.annotated import (
    AnnotatedSample,
    AnnotatedSet,
    AnnotationTask,
    BoxCheck,
    BoxLabel,
    bind_classes,
    missing_objects,
)
from fusiform.data.dataset import SPLIT_ORDER, Split
from fusiform.data.faults import AnnotationFault
from fusiform.data.image import natural_key, read_size
from fusiform.data.names import listed, nfc
from fusiform.data.outlines import MAX_CLASSES, Outline, pack
from fusiform.errors import ImageError, InputError, UsageError
from fusiform.report import printable

BACKGROUND = "background"
_FARTHEST = 10
"""How many times a picture's longer side an outline may lie away from it."""
TAGS = "tags"
"""The kind of what is said of a whole picture."""
_BACKGROUNDS = ("background", "_background_", "__background__")


class Object(NamedTuple):
    """One object: its class, its box from edge to edge in pixels, and its outline, where more than a box is known.

    ``polygons`` are x, y, x, y, ... in pixels, ``counts`` COCO's string of run lengths. ``kind`` is what to call an
    object that is no area, such as a point; it has no ``edges``.
    """

    name: str
    edges: tuple[float, float, float, float] | None
    polygons: tuple[Sequence[float], ...] = ()
    counts: str = ""
    crowd: bool = False
    difficult: bool = False
    kind: str = ""
    area: float | None = None


class Page(NamedTuple):
    """A picture with its objects, and ``annotation``, the file that names them; ``damage`` is what was wrong first.

    ``size`` is the picture's width and height in pixels; None where the annotations do not say.
    """

    split: Split
    picture: Path
    annotation: Path
    size: tuple[int, int] | None
    objects: Sequence[Object]
    damage: UsageError | None = None
    image_id: int | None = None


def rectangle(left: float, top: float, right: float, bottom: float) -> Sequence[float]:
    """A box as a polygon."""
    return (left, top, right, top, right, bottom, left, bottom)


def around(polygons: Sequence[Sequence[float]]) -> tuple[float, float, float, float]:
    """The box around polygons."""
    xs = [value for polygon in polygons for value in polygon[::2]]
    ys = [value for polygon in polygons for value in polygon[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def gather(
    source: Path,
    task: AnnotationTask,
    pages: Sequence[Page],
    notes: list[str],
    *,
    present: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    faults: list[AnnotationFault] | None = None,
    category_ids: Mapping[str, int] | None = None,
) -> AnnotatedSet:
    """The dataset of these pictures, for ``detection`` with boxes and for ``segmentation`` with outlines.

    ``present`` are the names of the source's classes in its order, by default those that an object bears, in natural
    order; ``classes``, the labels that a model has already, gives names and order instead. ``notes`` is added to. Boxes
    are clipped to their pictures. A picture that is damaged, has two annotations, or has an object of a class of boxes
    that is none, such as a point, is left out, or with ``faults`` marked as ``damaged``; so is one without any box that
    can be used, and in ``segmentation`` one with an object that has no outline.

    Raises UsageError where nothing is left, and for classes not in ``classes``.
    """
    pages = [page._replace(size=page.size or _size_of(page.picture)) for page in _once(pages)]
    has_area = [
        thing.edges is not None and (task == "detection" or _has_outline(thing)) for p in pages for thing in p.objects
    ]
    things = [thing for page in pages for thing in page.objects]
    used = {nfc(thing.name) for thing, area in zip(things, has_area, strict=True) if area}
    names = [nfc(name) for name in present] if present is not None else sorted(used, key=natural_key)
    if unnamed := used - set(names):
        raise InputError(f"{source}: has objects of {listed(sorted(unnamed))}, which its list of classes does not name")
    if not used:
        _refuse_empty(source, task, pages, things)
    if task == "segmentation":
        names = [BACKGROUND, *(name for name in names if name.casefold() not in _BACKGROUNDS)]
        if len(names) > MAX_CLASSES:
            raise InputError(f"{source}: has {len(names)} classes, and a mask holds {MAX_CLASSES} with the background")
    bound, labels = bind_classes(source, names, used & set(names), classes=classes)
    splits: dict[Split, tuple[AnnotatedSample, ...]] = {}
    first = next((page.damage for page in pages if page.damage is not None), None)
    for split in SPLIT_ORDER:
        here = [page for page in pages if page.split == split]
        check = BoxCheck(faults, split)
        samples = [_sample(page, task, labels, used, check) for page in here]
        lost = sum(sample.damaged for sample in samples)
        if faults is None:
            samples = [sample for sample in samples if not sample.damaged]
        if lost and faults is None:
            why = f": {first}" if first is not None else ""
            notes.append(f"{split}: {lost} of {len(here)} pictures have annotations that cannot be used, left out{why}")
        if samples:
            splits[split] = tuple(samples)
        if task == "detection":
            notes += check.notes(split)
    _tell(pages, task, used, notes, faults)
    drawn = task == "detection" or any(sample.outlines for samples in splits.values() for sample in samples)
    if not splits or not (drawn or faults is not None):
        raise InputError(f"{source}: none of its pictures can be used ({'; '.join(notes)}): run fusiform doctor on it")
    if faults is None and task == "detection":
        notes += missing_objects(bound, splits)
    ids = tuple((category_ids or {}).get(nfc(name), -1) for name in bound) if category_ids else ()
    return AnnotatedSet(source, task, bound, splits, tuple(notes), ids)


def tell_unmatched(
    file: Path,
    folder: Path,
    missing: Sequence[str],
    unlisted: Sequence[Path],
    count: int,
    notes: list[str],
    faults: list[AnnotationFault] | None,
) -> None:
    """Say which of the ``count`` pictures that a file names are not in a folder, and which there it does not name."""
    if unlisted:
        names = listed([picture.name for picture in unlisted])
        text = f"{len(unlisted)} pictures are not in {printable(file.name)}, left out: {names}"
        if faults is None:
            notes.append(text)
        else:
            faults.append(AnnotationFault("pictures not used", "note", text, file))
    if missing and faults is None:
        notes.append(f"{len(missing)} of {count} pictures are not there: {listed(missing)}")
    elif faults is not None:
        text = f"is not there: put it there, or take it out of {printable(file.name)}"
        faults += [AnnotationFault("missing picture", "error", text, folder / name) for name in missing]


def _once(pages: Sequence[Page]) -> list[Page]:
    """The pages, of several of one picture the first alone, as damaged: whose the annotations are cannot be known."""
    found: dict[Path, Page] = {}
    for page in pages:
        other = found.setdefault(page.picture, page)
        if other is not page and other.damage is None:
            text = f"{other.annotation}: is about {page.picture.name}, as {page.annotation} is: remove one of them"
            found[page.picture] = other._replace(damage=InputError(text))
    return list(found.values())


def _size_of(picture: Path) -> tuple[int, int] | None:
    try:
        return read_size(picture)
    except ImageError:  # whoever looks at the picture says so
        return None


def _has_outline(thing: Object) -> bool:
    return bool(thing.polygons or thing.counts)


def _refuse_empty(
    source: Path,
    task: AnnotationTask,
    pages: Sequence[Page],
    things: Sequence[Object],
) -> None:
    damage = next((page.damage for page in pages if page.damage is not None), None)
    if damage is not None:
        raise damage
    if things and task == "segmentation" and any(thing.edges for thing in things):
        raise InputError(f"{source}: has boxes and no outlines, and a segmenter learns from outlines: draw polygons")
    kinds = listed(sorted({thing.kind for thing in things if thing.kind}))
    what = f"nothing but {kinds}, which are not read" if kinds else "no object"
    raise InputError(f"{source}: its {len(pages)} pictures have {what}: draw boxes or polygons")


def _sample(
    page: Page, task: AnnotationTask, labels: Mapping[str, int], used: set[str], check: BoxCheck
) -> AnnotatedSample:
    size = page.size
    is_damaged = page.damage is not None
    boxes: list[BoxLabel] = []
    outlines: list[Outline] = []
    for thing in page.objects:
        name = nfc(thing.name)
        # An object of a class that is learned, and lies nobody knows where, would be background.
        if _lacks(thing, page, task, used):
            is_damaged = True
        elif thing.edges is None:
            continue
        elif task == "detection":
            if edges := check.clip(*thing.edges, size=size, file=page.picture, name=name):
                label = labels[name]
                boxes.append(BoxLabel(label, *edges, crowd=thing.crowd, difficult=thing.difficult, area=thing.area))
        else:
            label = 0 if name.casefold() in _BACKGROUNDS else labels[name]
            outlines.append(Outline(label, tuple(map(pack, thing.polygons)), thing.counts, thing.crowd))
    if task == "segmentation":
        drawn = None if is_damaged else tuple(outlines)
        return AnnotatedSample(page.picture, size=size, damaged=is_damaged, outlines=drawn)
    is_damaged = is_damaged or (not boxes and any(thing.edges for thing in page.objects))
    return AnnotatedSample(page.picture, tuple(boxes), size=size, image_id=page.image_id, damaged=is_damaged)


def _tell(
    pages: Sequence[Page], task: AnnotationTask, used: set[str], notes: list[str], faults: list[AnnotationFault] | None
) -> None:
    """Say what was not read: objects that are no areas; with ``faults`` also each picture's damage."""
    kinds = Counter(thing.kind for page in pages for thing in page.objects if thing.edges is None)
    notes += [f"{count} objects are {kind}, which have no area, not read" for kind, count in sorted(kinds.items())]
    if faults is None:
        return
    for page in pages:
        if page.damage is not None:
            message = str(page.damage).removeprefix(str(page.picture)).lstrip(",: ")
            faults.append(AnnotationFault("damaged annotation", "error", message, page.picture, page.split))
            continue
        lacking = [thing for thing in page.objects if _lacks(thing, page, task, used)]
        if lacking:
            what = "outline" if task == "segmentation" else "box"
            text = f"has an object of {printable(lacking[0].name)} without {what} that can be used: left out, draw it"
            faults.append(AnnotationFault("damaged annotation", "error", text, page.picture, page.split))


def _lacks(thing: Object, page: Page, task: AnnotationTask, used: set[str]) -> bool:
    """Whether it is not known where an object of a class that is learned is.

    Of a class without any box nothing is learned; what only tags a picture may be said of one that has its box.
    """
    if thing.edges is not None:
        # Who walks along an outline that is miles away fills the memory with its steps.
        farthest = _FARTHEST * max(page.size or (0, 0)) or math.inf
        is_far = any(abs(value) > farthest for polygon in thing.polygons for value in polygon)
        return task == "segmentation" and (is_far or not _has_outline(thing))
    if nfc(thing.name) not in used:
        return False
    has_box = any(other.edges is not None and nfc(other.name) == nfc(thing.name) for other in page.objects)
    return not (thing.kind == TAGS and has_box)
