"""Reading boxes and masks in Pascal VOC's layout: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import NamedTuple, NoReturn
from xml.etree.ElementTree import Element, ParseError, TreeBuilder
from xml.parsers import expat

from fusiform.data.annotated import (
    AnnotatedSample,
    AnnotatedSet,
    AnnotationTask,
    BoxCheck,
    BoxLabel,
    PassOver,
    bind_classes,
    missing_objects,
)
from fusiform.data.dataset import SPLIT_NAMES, SPLIT_ORDER, Split
from fusiform.data.faults import AnnotationFault, ReadingFault
from fusiform.data.image import find_images, is_of_system, natural_key, unread_note
from fusiform.data.lookup import Finder, by_split, photographs, read_text, split_of_path
from fusiform.data.masks import CLASS_NAMES_FILE, VOC_CLASSES
from fusiform.data.names import listed, nfc
from fusiform.errors import InputError, UsageError
from fusiform.fields import show
from fusiform.report import printable

LAYOUT = (
    "a folder with JPEGImages, lists in ImageSets/Main or ImageSets/Segmentation, and Annotations (XML files with "
    "boxes) or SegmentationClass (PNG masks)"
)


def read_voc(
    source: str | os.PathLike[str],
    task: AnnotationTask | None = None,
    *,
    classes: Sequence[str] | None = None,
    faults: list[AnnotationFault] | None = None,
) -> AnnotatedSet:
    """Read the list of a dataset's pictures with their boxes (``detection``) or masks (``segmentation``) in VOC layout.

    No picture or mask is opened. ``task`` is by default ``detection`` where there are XML files. The splits are
    ``ImageSets/Main/train.txt``, ``val.txt`` and ``test.txt`` for boxes and those in ``ImageSets/Segmentation`` for
    masks, a picture's name a line; ``trainval.txt`` is the split ``train`` where neither of its parts is there.
    Without lists, every picture that has an annotation is in the split ``all``.

    VOC counts pixels from 1 and includes the last: xmin 1 and xmax 500 become left 0 and right 500. A file
    ``class_names.txt``, a name a line, the background first, gives the classes. Without it those of boxes are the
    names found, in natural order (VOC's own order), and those of masks VOC's 21. ``classes``, the labels that a model
    has already, gives names and order instead. An outline without a box gives its box. Boxes are clipped to their
    pictures; empty ones are left out. Pictures without an object stay; those with a damaged one or without any box that
    can be used do not, nor those without an XML file or a mask, which is told in the notes.

    Raises UsageError for a source that is missing, damaged or of no such layout, and for classes not in ``classes``.
    With a list of ``faults`` what is damaged is added to it, one by one, and the pictures stay, marked as ``damaged``;
    so is what the notes count otherwise, and which files belong to nothing; UsageError is then for what leaves nothing
    to read.
    """
    root = Path(source)
    if not (root / "JPEGImages").is_dir():
        inside = voc_folders(root)
        hint = f"give {inside[0]}" if inside else f"give {LAYOUT}"
        raise InputError(f"{root}: has no folder JPEGImages, so it is not VOC's layout: {hint}")
    if task is None:
        task = "detection" if has_xml(root) else "segmentation"
    folder, extension = ("Annotations", ".xml") if task == "detection" else ("SegmentationClass", ".png")
    if not (root / folder).is_dir():
        raise InputError(f"{root}: has no folder {folder}: give {LAYOUT}")

    notes: list[str] = []
    unread: list[Path] = []
    found_pictures = find_images(root / "JPEGImages", unlisted=notes, unread=unread)
    notes += unread_note(unread)
    pictures = {_stem(file, root / "JPEGImages"): file for file in found_pictures}
    known = {
        _stem(file, root / folder): file
        for file in sorted((root / folder).rglob("*"))
        if file.suffix.lower() == extension and not any(map(is_of_system, file.relative_to(root).parts))
    }
    lists = _lists(root / "ImageSets" / ("Main" if task == "detection" else "Segmentation"))
    if not lists:
        lists = {"all": [name for name in pictures if name in known]}
        without = [name for name in pictures if name not in known]
        if without and faults is None and lists["all"]:
            notes.append(
                f"{len(without)} of {len(pictures)} pictures have no {extension} of their name in {folder}, left out: "
                f"{listed(without)}"
            )
    chosen: dict[Split, list[tuple[Path, Path]]] = {}
    for split, names in lists.items():
        found = {name: (pictures.get(name), known.get(name)) for name in (_listed_name(n, pictures) for n in names)}
        pairs = [(picture, file) for picture, file in found.values() if picture is not None and file is not None]
        for what, where, missing in (
            ("pictures", "JPEGImages", [name for name, (picture, _) in found.items() if picture is None]),
            ("annotations", folder, [name for name, (picture, file) in found.items() if picture and file is None]),
        ):
            if missing and faults is None:
                notes.append(f"{split}: {len(missing)} of {len(found)} {what} are not in {where}: {listed(missing)}")
        if faults is not None:
            faults += _without_partner(root, split, found, extension)
        if pairs:
            chosen[split] = pairs
    if faults is not None:
        faults += _unlisted(
            root, {_listed_name(n, pictures) for names in lists.values() for n in names}, pictures, known
        )
    if not chosen:
        raise InputError(f"{root}: no picture of JPEGImages has its annotation in {folder}: give {LAYOUT}")
    given = _class_names(root)
    if task == "segmentation":
        return _masks(root, chosen, notes, given=given, classes=classes)
    return _boxes(root, chosen, notes, given=given, classes=classes, faults=faults)


def voc_folders(root: Path) -> list[Path]:
    """The folders in VOC's layout within another, as VOCdevkit has them."""
    return [folder.parent for folder in sorted([*root.glob("*/JPEGImages"), *root.glob("VOCdevkit/*/JPEGImages")])]


def read_xml_beside(
    source: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    faults: list[AnnotationFault] | None = None,
) -> AnnotatedSet:
    """Read a dataset's pictures and boxes from VOC's XML files beside the pictures, or in any other folder.

    A file is about the picture of its name, beside it or in the folder that the way to it leads to as well
    (train/images/1.jpg and train/annotations/1.xml), or else about the one that it names; what two pictures fit is left
    out. Folders may name splits (``train``, ``valid``, ``test``). Pictures without a file are nobody's background: they
    are left out. All else is as ``read_voc`` has it.

    Raises UsageError for a source that is missing or of no such layout, and for classes not in ``classes``.
    """
    root = Path(source)
    notes: list[str] = []
    unread: list[Path] = []
    pictures = photographs(root, unlisted=notes, unread=unread)
    notes += unread_note(unread)
    files = [
        file
        for file in sorted(root.rglob("*.[xX][mM][lL]"))
        if not any(map(is_of_system, file.relative_to(root).parts))
    ]
    finder = Finder(root, ())
    partners: dict[Path, list[Path]] = {}
    alone: list[Path] = []
    for file in files:
        picture = finder.find_partner(file) or finder.find_only(_named_picture(file))
        if picture is None:
            alone.append(file)
        else:
            partners.setdefault(picture, []).append(file)
    twice = {picture: found for picture, found in partners.items() if len(found) > 1}
    pairs = [(picture, partners[picture][0]) for picture in pictures if picture in partners and picture not in twice]
    if not pairs:
        raise InputError(f"{root}: none of its {len(pictures)} pictures has an XML file of its name: give {LAYOUT}")
    splits, note = by_split([split_of_path(picture.relative_to(root).parts[:-1]) for picture, _ in pairs])
    notes += [note] if note else []
    chosen = {
        split: [pair for pair, its in zip(pairs, splits, strict=True) if its == split]
        for split in SPLIT_ORDER
        if split in splits
    }
    without = [picture for picture in pictures if picture not in partners]
    told: tuple[tuple[list[Path], ReadingFault, str, str], ...] = (
        (without, "missing annotation", "has no XML of its name: draw its boxes", "pictures have no XML of their name"),
        (alone, "missing picture", "has no picture of its name, or several", "XML files have no picture, or several"),
        (list(twice), "damaged annotation", "has several XML files: keep one", "pictures have several XML files"),
    )
    for files_of, kind, text, note in told:
        if faults is not None:
            faults += [AnnotationFault(kind, "error", f"{text}; left out", file) for file in files_of]
        elif files_of:
            notes.append(f"{len(files_of)} {note}, left out: {listed([file.name for file in files_of])}")
    return _boxes(root, chosen, notes, given=_class_names(root), classes=classes, faults=faults)


def _named_picture(file: Path) -> str:
    try:
        return (parse_xml(file).findtext("filename") or "").strip()
    except UsageError:  # told where it is read, if it has a picture
        return ""


def has_xml(root: Path) -> bool:
    """Whether there is an XML file of annotations, whose ending some tools write in upper case."""
    return any(file.suffix.lower() == ".xml" for file in (root / "Annotations").rglob("*.[xX][mM][lL]"))


def _without_partner(
    root: Path, split: Split, found: Mapping[str, tuple[Path | None, Path | None]], extension: str
) -> Iterator[AnnotationFault]:
    """The pictures and annotations of a split that are not there, by the pictures' names."""
    what = "annotation" if extension == ".xml" else "mask"
    missing: ReadingFault = "missing annotation" if extension == ".xml" else "missing mask"
    for name, (picture, file) in found.items():
        if picture is None:
            text = "no picture of this name is there: put it there, or take it out of the list"
            yield AnnotationFault("missing picture", "error", text, root / "JPEGImages" / name, split)
        elif file is None:
            text = f"has no {what} {printable(name)}{extension}, and is left out: draw it"
            yield AnnotationFault(missing, "error", text, picture, split)


def _unlisted(
    root: Path, used: Set[str], pictures: Mapping[str, Path], known: Mapping[str, Path]
) -> Iterator[AnnotationFault]:
    """What lies in the folders of pictures and annotations and belongs to no split."""
    if unused := [name for name in pictures if name not in used]:
        text = f"{len(unused)} of {len(pictures)} pictures are in no list, or have no annotation: {listed(unused)}"
        yield AnnotationFault("pictures not used", "note", text, root / "JPEGImages")
    for name, file in known.items():
        if name not in pictures and name not in used:
            text = "there is no picture of its name in JPEGImages: put it there, or remove this"
            yield AnnotationFault("missing picture", "warning", text, file)


def _stem(file: Path, folder: Path) -> str:
    return nfc(file.relative_to(folder).with_suffix("").as_posix())


def _listed_name(line: str, pictures: Mapping[str, Path]) -> str:
    """The picture that a line of a list names, perhaps with its extension, or with -1, 0 or 1 for a class in it.

    It may be a path of any system, alone or before the path of its annotation.
    """
    path = line.replace("\\", "/")
    for text in (line, re.sub(r"\s+-?[01]$", "", line), path, *path.split()[:1]):
        # From JPEGImages on, or from any folder of the path on.
        parts = text.split("/")
        for i in range(len(parts)):
            name = "/".join(parts[i:])
            for found in (name, Path(name).with_suffix("").as_posix() if Path(name).name else name):
                if found in pictures:
                    return found
    return line


def _lists(folder: Path) -> dict[Split, list[str]]:
    """The lines of each split's list; none where there are no lists."""
    files: dict[Split, Path] = {}
    for file in sorted(folder.glob("*.txt")):
        split = SPLIT_NAMES.get(file.stem.casefold())
        if split in files:
            raise InputError(f"{file}: is the split {split}, and so is {files[split]}: take one away")
        if split:
            files[split] = file
    if "train" not in files and "val" not in files and (folder / "trainval.txt").is_file():
        files["train"] = folder / "trainval.txt"
    lists = {split: [nfc(line) for line in _lines(files[split])] for split in SPLIT_ORDER if split in files}
    return {split: lines for split, lines in lists.items() if lines}


def _class_names(root: Path) -> tuple[str, ...] | None:
    file = root / CLASS_NAMES_FILE
    if not file.is_file():
        return None
    names = [nfc(line) for line in _lines(file)]
    if names and names[0] == "__ignore__":  # labelme's name for value 255
        del names[0]
    if not names or len(set(names)) < len(names):
        raise InputError(f"{file}: must name the background and each class once, a line each: fix it")
    return tuple(names)


def _lines(file: Path) -> list[str]:
    text = read_text(file)
    return [line.strip() for line in text.splitlines() if line.strip()]


def _masks(
    root: Path,
    chosen: Mapping[Split, Sequence[tuple[Path, Path]]],
    notes: list[str],
    *,
    given: tuple[str, ...] | None,
    classes: Sequence[str] | None,
) -> AnnotatedSet:
    names = given or VOC_CLASSES
    # The masks hold values, so a model's own order would need masks of its own.
    if classes is not None and tuple(map(nfc, classes)) != names:
        raise InputError(
            f"{root}: its masks are of {len(names)} classes, {listed(names)}, and others are asked for, "
            f"{listed(tuple(classes))}: name the classes in {root / CLASS_NAMES_FILE}, the background first"
        )
    if given is None:
        notes.append(f"there is no {CLASS_NAMES_FILE}, so the masks' values are taken as Pascal VOC's 21 classes")
    splits = {
        split: tuple(AnnotatedSample(picture, mask_file=mask) for picture, mask in pairs)
        for split, pairs in chosen.items()
    }
    return AnnotatedSet(root, "segmentation", names, splits, tuple(notes))


class _Object(NamedTuple):
    name: str
    edges: tuple[float, float, float, float]
    difficult: bool


class _Annotation(NamedTuple):
    """``damage`` is the first of its objects' errors, where some could not be read."""

    size: tuple[int, int] | None
    objects: list[_Object]
    damage: UsageError | None


def _boxes(
    root: Path,
    chosen: Mapping[Split, Sequence[tuple[Path, Path]]],
    notes: list[str],
    *,
    given: tuple[str, ...] | None,
    classes: Sequence[str] | None,
    faults: list[AnnotationFault] | None,
) -> AnnotatedSet:
    read: dict[Split, list[tuple[Path, _Annotation]]] = {split: [] for split in chosen}
    passed_over: list[AnnotationFault] = []
    first: UsageError | None = None
    for split, found in chosen.items():
        broken = 0
        for picture, file in found:
            damage = PassOver(passed_over, "damaged annotation", file=file, split=split)
            with damage:
                annotation = _read_xml(file, split, passed_over)
                damage.first = annotation.damage
                # What is left of its objects would teach that the others are background.
                if annotation.damage is None or faults is not None:
                    read[split].append((picture, annotation))
            if damage.first is not None:
                broken += 1
                first = first or damage.first
        if broken and faults is None:
            notes.append(f"{split}: {broken} of {len(found)} annotations are damaged, left out: {first}")
    if faults is not None:
        faults += passed_over
    elif first is not None and not any(read.values()):
        raise first
    counts = Counter(thing.name for pairs in read.values() for _, annotation in pairs for thing in annotation.objects)
    used = set(counts)
    present = list(given or sorted(used, key=natural_key))
    if given and given[0].strip("_") == "background":
        del present[0]
    if not present:
        if faults and (damaged := [fault for fault in faults if fault.kind == "damaged annotation"]):
            raise InputError(f"{damaged[0].file}: {damaged[0].message}")
        raise InputError(f"{root}: none of its {sum(map(len, read.values()))} annotations has an object: draw boxes")
    unknown = sorted(used - set(present), key=natural_key)
    if unknown and faults is None:
        raise InputError(
            f"{root}: has boxes of {listed(unknown)}, which {CLASS_NAMES_FILE} does not name: add them there"
        )
    if faults is not None:
        for name in unknown:
            text = f"does not name {printable(name)}, of which there are {counts[name]} boxes: add it, or rename them"
            faults.append(AnnotationFault("unknown class", "error", text, root / CLASS_NAMES_FILE))
    used -= set(unknown)
    names, labels = bind_classes(root, present, used, classes=classes)
    splits = {}
    for split, pairs in read.items():
        check = BoxCheck(faults, split)
        unsized = lost = 0
        samples = []
        for picture, annotation in pairs:
            unsized += annotation.size is None
            boxes = [
                BoxLabel(labels[thing.name], *edges, difficult=thing.difficult)
                for thing in annotation.objects
                if thing.name in labels
                and (edges := check.clip(*thing.edges, size=annotation.size, file=picture, name=thing.name))
            ]
            unnamed = any(thing.name not in labels for thing in annotation.objects)
            is_damaged = annotation.damage is not None or unnamed or (bool(annotation.objects) and not boxes)
            lost += is_damaged
            if not is_damaged or faults is not None:
                samples.append(AnnotatedSample(picture, tuple(boxes), size=annotation.size, damaged=is_damaged))
        if samples:
            splits[split] = tuple(samples)
        if lost and faults is None:
            notes.append(f"{split}: {lost} of {len(pairs)} pictures have no box that can be used, left out")
        if unsized and faults is None:
            notes.append(f"{split}: annotations without their picture's size, boxes not checked against it: {unsized}")
        notes += check.notes(split)
    if not splits:
        raise InputError(f"{root}: none of its pictures can be used ({'; '.join(notes)}): run fusiform doctor on it")
    if faults is None:
        notes += missing_objects(names, splits)
    return AnnotatedSet(root, "detection", names, splits, tuple(notes))


def _read_xml(file: Path, split: Split, faults: list[AnnotationFault]) -> _Annotation:
    root = parse_xml(file)
    if root.tag != "annotation":
        raise InputError(f"{file}: begins with <{printable(root.tag)}> in place of <annotation>: it is not VOC's")
    # The old LabelMe calls the sides rows and columns.
    sides = ("imagesize/ncols", "imagesize/nrows") if root.find("size") is None else ("size/width", "size/height")
    size = int(_number(root, sides[0], file, default=0)), int(_number(root, sides[1], file, default=0))
    objects = []
    damage = PassOver(faults, "damaged annotation", file=file, split=split)
    for i, element in enumerate(root.findall("object")):
        if (element.findtext("deleted") or "").strip() == "1":  # the old LabelMe keeps what its users take away
            continue
        with damage:
            objects.append(_read_object(element, f"{file}, object {i + 1}"))
    # labelImg writes a size of 0 x 0 where it has not looked.
    return _Annotation(size if min(size) > 0 else None, objects, damage.first)


def _read_object(element: Element, where: str) -> _Object:
    name = nfc((element.findtext("name") or "").strip())
    if not name:
        raise InputError(f"{where}: has no name: write the name of its class there")
    if element.find("bndbox") is None and (outline := element.find("polygon")) is not None:
        across, down = _outline(outline, where)
        left, right, top, bottom = min(across), max(across), min(down), max(down)
    else:
        left, top, right, bottom = (
            _number(element, f"bndbox/{edge}", where) for edge in ("xmin", "ymin", "xmax", "ymax")
        )
    # Who draws from the lower right may write that corner first. The last pixel counts: one less is a box of no area.
    if left > right + 1:
        left, right = right, left
    if top > bottom + 1:
        top, bottom = bottom, top
    # Labels such as Unspecified, or none at all, say that nobody has looked.
    difficult = (element.findtext("difficult") or "").strip().lower() in ("1", "1.0", "true", "yes")
    return _Object(name, (left - 1, top - 1, right, bottom), difficult)


def _outline(element: Element, where: str) -> tuple[list[float], list[float]]:
    """The corners of an outline: x1, y1, x2, ... as Darwin and Roboflow write them, or LabelMe's points."""
    points = element.findall("pt")
    if points:
        corners = [(_number(point, "x", where), _number(point, "y", where)) for point in points]
    else:
        count = sum(re.fullmatch(r"x\d+", child.tag) is not None for child in element)
        corners = [(_number(element, f"x{i}", where), _number(element, f"y{i}", where)) for i in range(1, count + 1)]
    if len(corners) < 3:
        raise InputError(f"{where}: has neither a bndbox nor an outline of three corners: draw its box")
    return [x for x, _ in corners], [y for _, y in corners]


def _number(element: Element, path: str, where: object, *, default: float | None = None) -> float:
    text = element.findtext(path)
    if text is None and default is not None:
        return default
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{where}: {path} must be a number, got {show((text or '').strip())}: fix it")
    return value


def parse_xml(file: Path) -> Element:
    """An XML file's outermost element. Entities are refused: a few lines of them can grow to gigabytes."""
    builder = TreeBuilder()
    parser = expat.ParserCreate()

    def refuse(name: str, *_: object) -> NoReturn:
        raise InputError(f"{file}: defines the entity {printable(name)}, which is refused: write the text itself")

    parser.buffer_text = True
    parser.EntityDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(file.read_bytes(), True)
        return builder.close()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}): check its permissions") from None
    except (expat.ExpatError, ParseError, ValueError, LookupError) as error:
        raise InputError(f"{file}: is no XML ({error}): write it again") from None
