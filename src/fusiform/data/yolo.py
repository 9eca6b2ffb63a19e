"""Reading boxes and outlines in YOLO's layout: https://docs.ultralytics.com/datasets/detect."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

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
from fusiform.data.faults import AnnotationFault
from fusiform.data.image import EXTENSIONS, find_images, read_size, unread_note
from fusiform.data.lookup import read_text
from fusiform.data.names import is_file, listed, nfc
from fusiform.data.objects import Object, Page, gather
from fusiform.errors import ImageError, InputError, UsageError
from fusiform.report import printable

LAYOUT = (
    "a folder with data.yaml (names, train and val), and images/train beside labels/train or train/images beside "
    "train/labels"
)
NAME_FILES = ("classes.txt", "obj.names", "labels/classes.txt", "labels.txt")
"""Where the classes' names are without a YAML file, one a line."""


def read_yolo(
    source: str | os.PathLike[str],
    task: AnnotationTask = "detection",
    *,
    classes: Sequence[str] | None = None,
    faults: list[AnnotationFault] | None = None,
) -> AnnotatedSet:
    """Read a dataset's pictures and boxes, or outlines, in YOLO's layout; of the pictures only the headers are read.

    ``source`` is the YAML file, darknet's ``obj.data``, or the folder that holds it; its ``names`` are a list or a map,
    ``train``, ``val`` and ``test`` a folder, a list of pictures, or several of them, from ``path`` or the file's own
    folder. Without such a file the splits are folders in ``images``, or such that hold ``images``; names are then the
    lines of one of ``NAME_FILES``, or the numbers themselves. The labels of ``images/x/1.jpg`` are in
    ``labels/x/1.txt``, or else beside the picture: a class's number with the centre, width and height of its box, or
    with the corners of its outline, whose box is taken; all as shares of the picture's upright width and height.
    Pictures without labels are background, as YOLO has it; those with a damaged line are left out, which is told. For
    ``segmentation`` the classes are the background and the names, and the masks are drawn from the outlines; a picture
    with a box is left out.

    Raises UsageError for a source that is missing, damaged or of no such layout, and for classes not in ``classes``.
    With a list of ``faults`` what the notes count is added to it instead, one by one.
    """
    path = Path(source)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder: check the path")
    file = yaml_file(path)
    notes: list[str] = []
    darknet = _darknet_file(path) if file is None else None
    if file is None and darknet is None:
        names, places = _names_beside(path), _folders(path)
    elif (file := file or darknet) is not None:
        content = read_yaml(file) if darknet is None else _read_darknet(file)
        names, places = _names_in(file, content), _places(file, content)
        if not places:
            places = _folders(file.parent)
    unread: list[Path] = []
    pictures = {split: list(_pictures(place, unread)) for split, place in places.items()}
    notes += unread_note(unread)
    pictures = {split: files for split, files in pictures.items() if files}
    if not pictures:
        raise InputError(f"{path}: no pictures in its folders of images: give {LAYOUT}")

    objects: dict[Split, list[tuple[Path, list[_Object]]]] = {}
    labelled = 0
    for split, files in pictures.items():
        damaged: list[str] = []
        objects[split] = []
        for picture in files:
            label = label_file(picture)
            labelled += label is not None
            found: list[UsageError] = []
            lines = [] if label is None else list(_read_lines(label, names, found))
            if not found:
                objects[split].append((picture, lines))
                continue
            damaged.append(str(found[0]))
            for error in found if faults is not None and label is not None else ():
                with PassOver(faults, "damaged annotation", file=picture, split=split):
                    raise error
        if damaged and faults is None:
            notes.append(
                f"{split}: {len(damaged)} of {len(files)} pictures have damaged labels, left out: {damaged[0]}"
            )
    if not labelled:
        raise InputError(f"{path}: none of its {sum(map(len, pictures.values()))} pictures has labels: give {LAYOUT}")
    highest = max((thing.label for pairs in objects.values() for _, things in pairs for thing in things), default=-1)
    if names is None:
        names = tuple(str(label) for label in range(highest + 1))
        notes.append("neither data.yaml nor classes.txt names the classes: they are called by their numbers")
    if not names or highest < 0:
        raise InputError(f"{path}: none of its labels that can be read has an object: draw boxes")
    if task == "segmentation":
        pages = [_page(split, *pair, names) for split, pairs in objects.items() for pair in pairs]
        return gather(path, task, pages, notes, present=names, classes=classes, faults=faults)
    used = {names[thing.label] for pairs in objects.values() for _, things in pairs for thing in things}
    bound, labels = bind_classes(path, names, used, classes=classes)

    splits: dict[Split, tuple[AnnotatedSample, ...]] = {}
    for split, pairs in objects.items():
        check = BoxCheck(faults, split)
        samples = []
        for picture, things in pairs:
            try:
                size = read_size(picture)
            except ImageError:  # whoever looks at the picture says so
                samples.append(AnnotatedSample(picture, ()))
                continue
            width, height = size
            boxes = []
            for thing in things:
                left, top, right, bottom = thing.edges
                name = names[thing.label]
                edges = left * width, top * height, right * width, bottom * height
                if (clipped := check.clip(*edges, size=size, file=picture, name=name)) is not None:
                    boxes.append(BoxLabel(labels[name], *clipped))
            samples.append(AnnotatedSample(picture, tuple(boxes), size=size))
        if samples:
            splits[split] = tuple(samples)
        notes += check.notes(split)
    if faults is None:
        notes += missing_objects(bound, splits)
    return AnnotatedSet(path, "detection", bound, splits, tuple(notes))


def is_yolo(path: Path) -> bool:
    """Whether a file or folder is a dataset in YOLO's layout, by its YAML file or its folders and their labels."""
    if path.is_file() and path.suffix.lower() != ".data":
        return path.suffix.lower() in (".yaml", ".yml") and yaml_file(path) is not None
    if path.is_file() or not path.is_dir():
        return _darknet_file(path) is not None
    if yaml_file(path) is not None or _darknet_file(path) is not None:
        return True
    folders = [path / "labels", *(path / name / "labels" for name in _names_of_splits(path))]
    for folder in folders:
        if (folder.parent / "images").is_dir() and folder.is_dir():
            for file in folder.rglob("*.txt"):
                if file.name not in ("classes.txt", "labels.txt") and (text := read_text(file).strip()):
                    return all(_numbers(line) is not None for line in text.splitlines())
    return False


def yaml_file(path: Path) -> Path | None:
    """The YAML file that describes a dataset: itself, or the one in a folder that names classes and a split."""
    files = [path] if path.is_file() else sorted([*path.glob("*.yaml"), *path.glob("*.yml")])
    found = []
    for file in files:
        text = read_text(file)
        if re.search(r"^names\s*:", text, re.MULTILINE) and re.search(r"^(train|val|test|nc)\s*:", text, re.MULTILINE):
            found.append(file)
    if len(found) > 1:
        named = [file for file in found if file.stem in ("data", "dataset")]
        if len(named) != 1:
            raise InputError(f"{path}: has several descriptions, {listed([file.name for file in found])}: give one")
        found = named
    return found[0] if found else None


def _darknet_file(path: Path) -> Path | None:
    """Darknet's description of a dataset, lines such as ``names = data/obj.names``: itself or the one in a folder."""
    files = [path] if path.is_file() else sorted(path.glob("*.data"))
    small = [file for file in files if file.suffix == ".data" and file.is_file() and file.stat().st_size < 1 << 16]
    found = [file for file in small if {"names", "train"} <= set(_read_darknet(file))]
    return found[0] if len(found) == 1 else None


def _read_darknet(file: Path) -> dict[str, str | list[str] | dict[str, str]]:
    """What darknet's description says; its paths count from wherever darknet is started."""
    content: dict[str, str | list[str] | dict[str, str]] = {}
    for line in file.read_bytes().decode("utf-8-sig", "replace").splitlines():
        key, equals, value = (part.strip() for part in line.partition("="))
        if equals and key in ("names", "train", "valid", "val", "test"):
            content[key] = _below(file.parent, value)
    return content


def _below(folder: Path, name: str) -> str:
    """A path as it is from a folder on, without those of its first folders that are not there."""
    parts = name.replace("\\", "/").split("/")
    tried = ["/".join(parts[i:]) for i in range(len(parts))]
    return next((part for part in tried if part and (folder / part).exists()), name)


# YAML


def read_yaml(file: Path) -> dict[str, str | list[str] | dict[str, str]]:
    """The top of a YAML file such as YOLO's: values, and flat lists and maps in either of YAML's two forms.

    What is nested deeper is passed over, since nothing there is asked for. Raises UsageError, which names the line, for
    what this small part of YAML does not have.
    """
    content: dict[str, str | list[str] | dict[str, str]] = {}
    key: str | None = None
    lines = iter(list(enumerate(read_text(file).splitlines(), 1)))
    for number, line in lines:
        text = _uncommented(line)
        if not text.strip() or text.strip() in ("---", "..."):
            continue
        if not text[0].isspace() and not text.startswith("-"):
            pair = _pair(text)
            if pair is None:
                raise InputError(f"{file}, line {number}: is no line of YAML such as names: [cat, dog]: fix it")
            key, value = pair
            # A list or map in brackets may go on over several lines.
            while value[:1] in ("[", "{") and not value.endswith(("]", "}")):
                number, line = next(lines, (number, ""))
                if not line:
                    raise InputError(f"{file}, line {number}: {key} opens a bracket that nothing closes: close it")
                value += " " + _uncommented(line).strip()
            content[key] = _value(value, f"{file}, line {number}")
        elif key is not None:
            _add(content, key, text.strip())
    return content


def _add(content: dict[str, str | list[str] | dict[str, str]], key: str, text: str) -> None:
    """A line below a key: of a list, or of a map."""
    value = content[key]
    if text.startswith("- "):
        if value == "":
            content[key] = value = []
        if isinstance(value, list):
            value.append(_unquoted(text[2:]))
    elif (pair := _pair(text)) is not None:
        if value == "":
            content[key] = value = {}
        if isinstance(value, dict):
            value[pair[0]] = _unquoted(pair[1])


def _uncommented(line: str) -> str:
    quoted = r"\"[^\"]*\"|'[^']*'"
    return re.sub(rf"({quoted})|(?:^|(?<=\s))#.*", lambda match: match[1] or "", line).rstrip()


def _pair(text: str) -> tuple[str, str] | None:
    match = re.fullmatch(r"(\"[^\"]*\"|'[^']*'|[^:\s'\"][^:]*?)\s*:(?:\s+(.*))?", text.strip())
    return None if match is None else (_unquoted(match[1]), (match[2] or "").strip())


def _value(text: str, where: str) -> str | list[str] | dict[str, str]:
    if text[:1] not in ("[", "{"):
        return _unquoted(text)
    parts = [part.strip() for part in re.findall(r"(?:\"[^\"]*\"|'[^']*'|[^,])+", text[1:-1])]
    parts = [part for part in parts if part]
    if text.startswith("["):
        return [_unquoted(part) for part in parts]
    pairs = [_pair(part) for part in parts]
    if None in pairs:
        raise InputError(f"{where}: is no map such as {{0: cat, 1: dog}}: fix it")
    return {pair[0]: _unquoted(pair[1]) for pair in pairs if pair is not None}


def _unquoted(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


# Names and places


def _names_in(file: Path, content: Mapping[str, str | list[str] | dict[str, str]]) -> tuple[str, ...]:
    found = content.get("names", "")
    if isinstance(found, str):
        names = _lines(file.parent / found) if found and is_file(file.parent / found) else [found]
    elif isinstance(found, list):
        names = found
    else:
        numbers = sorted((int(key), name) for key, name in found.items() if key.isdecimal())
        if [number for number, _ in numbers] != list(range(len(found))):
            raise InputError(f"{file}: names must be numbered 0, 1, 2, ...: fix it")
        names = [name for _, name in numbers]
    return _checked(file, names)


def _names_beside(path: Path) -> tuple[str, ...] | None:
    files = [path / name for name in NAME_FILES if (path / name).is_file()]
    return _checked(files[0], _lines(files[0])) if files else None


def _checked(file: Path, names: Sequence[str]) -> tuple[str, ...]:
    normal = tuple(nfc(name) for name in names)
    if not all(normal) or len(set(normal)) < len(normal):
        raise InputError(f"{file}: must name each class once, and none of them nothing: fix its names")
    return normal


def _lines(file: Path) -> list[str]:
    return [line.strip() for line in read_text(file).splitlines() if line.strip()]


def _places(file: Path, content: Mapping[str, str | list[str] | dict[str, str]]) -> dict[Split, list[Path]]:
    """The folders and lists of each split that a YAML file names."""
    base = content.get("path", "")
    roots = [file.parent / base, file.parent] if isinstance(base, str) else [file.parent]
    places: dict[Split, list[Path]] = {}
    for key, value in content.items():
        if (split := SPLIT_NAMES.get(key)) is None or not value or isinstance(value, dict):
            continue
        for name in [value] if isinstance(value, str) else value:
            plain = name.replace("\\", "/")
            # Roboflow writes ../train/images for the folder train/images beside the file.
            inside = re.sub(r"^(\.\./)+", "", plain)
            tried = [root / part for root in roots for part in (plain, inside)]
            place = next((place for place in tried if place.exists()), None)
            if place is None:
                # The test split is often named and not there.
                if split == "test":
                    continue
                raise InputError(f"{file}: {key} names {printable(name)}, which is not there: put it into {tried[-1]}")
            places.setdefault(split, []).append(place)
    return {split: places[split] for split in SPLIT_ORDER if split in places}


def _names_of_splits(path: Path) -> list[str]:
    return sorted(name.name for name in path.iterdir() if name.is_dir() and name.name.casefold() in SPLIT_NAMES)


def _folders(path: Path) -> dict[Split, list[Path]]:
    """The folders of pictures of each split, without a YAML file."""
    images = path / "images"
    found: dict[Split, list[Path]] = {}
    for parent in (images, path):
        for name in _names_of_splits(parent) if parent.is_dir() else ():
            folder = parent / name if parent == images else parent / name / "images"
            if folder.is_dir():
                found.setdefault(SPLIT_NAMES[name.casefold()], []).append(folder)
    if not found:
        return {"all": [images]} if images.is_dir() else {}
    return {split: found[split] for split in SPLIT_ORDER if split in found}


def _pictures(places: Sequence[Path], unread: list[Path]) -> Iterator[Path]:
    for place in places:
        if place.is_dir():
            # The folder of a split may hold its images and labels.
            yield from find_images(place, unread=unread)
        else:
            for line in _lines(place):
                name = line.replace("\\", "/")
                picture = Path(name) if Path(name).is_absolute() else place.parent / name
                if not picture.exists():
                    picture = place.parent / _below(place.parent, name)
                if EXTENSIONS.fullmatch(picture.suffix):
                    yield Path(os.path.normpath(picture))


# Labels


class _Object(NamedTuple):
    label: int
    edges: tuple[float, float, float, float]
    outline: Sequence[float] = ()


def _page(split: Split, picture: Path, things: Sequence[_Object], names: Sequence[str]) -> Page:
    """A picture with its outlines in pixels."""
    file = label_file(picture) or picture
    try:
        size = read_size(picture)
    except ImageError:  # whoever looks at the picture says so
        return Page(split, picture, file, None, ())
    objects = [
        Object(
            names[thing.label],
            thing.edges,
            (tuple(share * size[i % 2] for i, share in enumerate(thing.outline)),) if thing.outline else (),
        )
        for thing in things
    ]
    return Page(split, picture, file, size, objects)


def label_file(picture: Path) -> Path | None:
    """The file of a picture's labels: below labels in place of the last folder called images, or beside it."""
    parts = picture.parent.parts
    tried = []
    for i in reversed(range(len(parts))):
        if parts[i] == "images":
            tried.append(Path(*parts[:i], "labels", *parts[i + 1 :], picture.stem + ".txt"))
            break
    tried.append(picture.with_suffix(".txt"))
    return next((file for file in tried if is_file(file)), None)


def _read_lines(file: Path, names: tuple[str, ...] | None, damaged: list[UsageError]) -> Iterator[_Object]:
    """The objects of a file of labels; what is wrong with its lines is added to ``damaged``."""
    try:
        text = read_text(file)
    except UsageError as error:
        damaged.append(error)
        return
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        values = _numbers(line)
        where = f"{file}, line {number}"
        if values is None:
            form = "a class's number with x, y, width and height of its box, or the corners of its outline"
            damaged.append(InputError(f"{where}: is not {form}, as shares of the picture: fix it"))
            continue
        label, *numbers = values
        if names is not None and label >= len(names):
            damaged.append(InputError(f"{where}: has class {label:g}, and there are {len(names)} names: add its name"))
            continue
        if len(numbers) == 4:
            x, y, width, height = numbers
            yield _Object(int(label), (x - width / 2, y - height / 2, x + width / 2, y + height / 2))
        else:
            across, down = numbers[::2], numbers[1::2]
            yield _Object(int(label), (min(across), min(down), max(across), max(down)), numbers)


def _numbers(line: str) -> list[float] | None:
    """The numbers of a line of labels, or None where it is none."""
    words = line.split()
    if not (len(words) == 5 or (len(words) >= 7 and len(words) % 2)):
        return None
    if not re.fullmatch(r"\d{1,6}(\.0+)?", words[0]):
        return None
    try:
        values = [float(word) for word in words]
    except ValueError:
        return None
    # Shares a little outside are clipped; pixels are another format.
    return values if all(-0.5 <= value <= 1.5 for value in values[1:]) else None
