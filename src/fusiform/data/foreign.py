"""What lies in a folder and is no dataset of classes: boxes, outlines and masks as other tools keep them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fusiform.data.coco import coco_files, looks_like_coco
from fusiform.data.dataset import SPLIT_NAMES
from fusiform.data.image import EXTENSIONS, is_of_system
from fusiform.data.lookup import is_of_annotations, is_of_masks, without_hash
from fusiform.data.names import nfc
from fusiform.data.voc import voc_folders
from fusiform.errors import InputError
from fusiform.report import printable

READ_BOXES = (
    "COCO's layout (annotations/instances_*.json beside its pictures), YOLO's (data.yaml), Pascal VOC's (JPEGImages "
    "and Annotations, or XML beside the pictures), LabelMe's JSON, CVAT's annotations.xml, a CSV list of boxes, or "
    "Hugging Face's metadata.jsonl with objects"
)
"""The layouts of boxes that are read, for messages."""
READ_MASKS = (
    "Pascal VOC's layout (JPEGImages and SegmentationClass), or outlines in COCO's JSON, YOLO's text, LabelMe's JSON "
    "or CVAT's XML"
)
"""The layouts of masks that are read, for messages."""

_SIDECARS = (".txt", ".xml", ".json")
_LOOKED_AT = 20
"""How many files of annotations are opened."""
_PICTURE_FOLDERS = re.compile(r"images?|imgs?|jpegimages|photos?|pictures|inputs?")


YOLO = "boxes in text files as YOLO's and darknet's"


VOC = "boxes in XML as Pascal VOC's"
LABELME = "LabelMe's boxes or outlines"


class Beside(NamedTuple):
    """How many of the pictures have a file of their name that holds boxes, of which ``kind``, and such a file.

    ``named_alike`` says that they name nothing but the folder that each picture lies in.
    """

    pictures: int
    matched: int
    kind: str
    example: Path
    named_alike: bool

    @property
    def is_unsure(self) -> bool:
        """Whether the folders may be classes all the same: few pictures have boxes, or boxes name their folders."""
        return 4 * self.matched < self.pictures or self.named_alike


def find_beside(root: Path, ending: str) -> Beside | None:
    """Files of pictures' names with this ending that hold boxes, beside the pictures or in another folder, if any."""
    files: dict[str, Path] = {}
    for folder, names in _walk(root):
        _add(files, folder, [name for name in names if name.lower().endswith(ending)])
    return _find_boxes(root, ending, files) if files else None


def _add(files: dict[str, Path], folder: str, names: list[str]) -> None:
    for name in names:
        stem = os.path.splitext(name)[0]  # noqa: PTH122  # a Path for each of a million names takes seconds
        # A picture's own lies beside it, or else in another folder.
        files[stem] = files[os.path.join(folder, stem)] = Path(folder, name)  # noqa: PTH118
        if (plain := without_hash(stem)) != stem:
            files.setdefault(plain, Path(folder, name))


def check_unannotated(root: Path) -> list[str]:
    """Raise UsageError for a folder whose pictures have boxes, outlines or masks; else what a user should know of it.

    Found are files of a picture's name that hold boxes (YOLO's and darknet's text, Pascal VOC's XML, LabelMe's and
    others' JSON), COCO's JSON anywhere, and folders of masks beside folders of pictures. Where the annotations name
    nothing but the folder that each picture lies in, the folders are classes all the same, which is told. No picture
    is opened.
    """
    sidecars: dict[str, dict[str, Path]] = {ending: {} for ending in _SIDECARS}
    has_masks = False
    for folder, names in _walk(root):
        for ending, files in sidecars.items():
            _add(files, folder, [name for name in names if name.lower().endswith(ending)])
        has_masks = has_masks or (
            is_of_annotations(Path(folder).relative_to(root).parts) and any(map(_is_picture, names))
        )
    if has_masks:
        _check_masks(root)
    notes: list[str] = []
    for ending, files in sidecars.items():
        found = _find_boxes(root, ending, files) if files else None
        if found is None or 4 * found.matched < found.pictures:
            continue
        what = (
            f"{found.matched} of {found.pictures} pictures have {found.kind}, such as {printable(str(found.example))}"
        )
        if not found.named_alike:
            way = f"give {READ_BOXES}"
            if found.kind == YOLO:
                way = f"write {root / 'data.yaml'} with names, train and val"
            elif found.kind in (VOC, LABELME):
                inside = voc_folders(root)
                way = f"give {inside[0]}" if inside else "give it without --task classification"
            raise InputError(
                f"{root}: is no dataset of classes: {what}: for a detector {way}, for "
                f"a classifier a folder for each class without the {ending} files"
            )
        notes.append(f"{what}, which name the folders' classes: not read")
    known = set(coco_files(root))
    for file in [file for file in dict.fromkeys(sidecars[".json"].values()) if file not in known][: 5 * _LOOKED_AT]:
        if looks_like_coco(file):
            raise InputError(
                f"{root}: is no dataset of classes: {file} holds COCO's boxes: give that file, or put the files of all "
                "splits into a folder annotations, called instances_train.json and instances_val.json"
            )
        if _holds_other_boxes(file):
            raise InputError(
                f"{root}: is no dataset of classes: {file} holds boxes in JSON of a kind that is not read: for a "
                f"detector give {READ_BOXES}"
            )
    return notes


def _holds_other_boxes(file: Path) -> bool:
    """Whether a JSON file is one of CreateML's, or of the VGG Image Annotator's."""
    try:
        head = _head(file)
    except OSError:
        return False
    return re.search(rb'"shape_attributes"\s*:|"annotations"\s*:\s*\[\s*\{[^\]]*"coordinates"\s*:', head) is not None


def _head(file: Path) -> bytes:
    """The beginning of a file, which tells what it holds; LabelMe's may go on with the picture itself."""
    with file.open("rb") as stream:
        return stream.read(1 << 16)


def _walk(root: Path) -> Iterator[tuple[str, list[str]]]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not is_of_system(name))
        yield folder, [name for name in names if not is_of_system(name)]


def _is_picture(name: str) -> bool:
    return EXTENSIONS.fullmatch(os.path.splitext(name)[1]) is not None  # noqa: PTH122  # as above


def _check_masks(root: Path) -> None:
    """Raise UsageError where every folder is of pictures, of masks, or a split, and half the pictures have a mask."""
    pictures: set[str] = set()
    masks: dict[str, Path] = {}
    for folder, names in _walk(root):
        found = [name for name in names if _is_picture(name)]
        parts = [part.casefold() for part in Path(folder).relative_to(root).parts]
        if is_of_annotations(Path(folder).relative_to(root).parts):
            masks.update({re.sub(r"[_-](mask|gt|label)$", "", Path(name).stem): Path(folder, name) for name in found})
        elif found and all(_PICTURE_FOLDERS.fullmatch(part) or part in SPLIT_NAMES for part in parts):
            pictures.update(Path(name).stem for name in found)
        elif found:
            return  # a class of its own
    if masks and 2 * len(pictures & set(masks)) >= len(pictures):
        example = printable(str(min(masks.values())))
        raise InputError(
            f"{root}: is no dataset of classes: its pictures have masks, such as {example}: "
            "for a segmenter call the folder of pictures JPEGImages and the one of masks SegmentationClass, beside "
            "class_names.txt with the background first"
        )


def _find_boxes(root: Path, ending: str, files: dict[str, Path]) -> Beside | None:
    """Files that hold the boxes of pictures below ``root``; None where there are none."""
    pictures = 0
    matched: list[tuple[Path, str]] = []  # the file, and the name of the folder of its picture
    for folder, names in _walk(root):
        if is_of_masks(Path(folder).relative_to(root).parts):
            continue
        for name in filter(_is_picture, names):
            pictures += 1
            stem = os.path.splitext(name)[0]  # noqa: PTH122  # as above
            beside = os.path.join(folder, stem)  # noqa: PTH118
            # Some tools put their ending behind the picture's own: cat.jpg.json.
            if (file := files.get(beside) or files.get(stem) or files.get(name)) is not None:
                matched.append((file, os.path.basename(folder)))  # noqa: PTH119
    example = kind = None
    alike = ending != ".txt"
    for file, folder in matched[:: max(1, len(matched) // _LOOKED_AT)]:
        try:
            text = _head(file).decode("utf-8", "replace")
        except OSError:
            continue
        if (here := _kind(text, ending)) is not None:
            example, kind = example or file, here
            alike = alike and {nfc(name) for name in _names(text, ending)} == {nfc(folder)}
    if kind is None or example is None:
        return None
    return Beside(pictures, len(matched), kind, example, alike)


def _kind(text: str, ending: str) -> str | None:
    """What a file of a picture's name holds, if it is boxes or outlines."""
    if ending == ".xml":
        return VOC if re.search(r"<annotation\b", text) else None
    if ending == ".json":
        if re.search(r'"shapes"\s*:\s*\[', text):
            return LABELME
        return "boxes in JSON" if re.search(r'"(objects|annotations?|regions|boxes|bbox)"\s*:\s*[\[{]', text) else None
    lines = [line.split() for line in text.splitlines()[:_LOOKED_AT] if line.strip()]
    if not lines or not all(sum(map(_is_number, words)) >= 4 and len(words) >= 5 for words in lines):
        return None
    yolo = all(words[0].isdecimal() and all(map(_is_number, words)) for words in lines)
    return YOLO if yolo else "boxes in text files"


def _names(text: str, ending: str) -> list[str]:
    pattern = r"<name>\s*(.*?)\s*</name>" if ending == ".xml" else r'"label"\s*:\s*"(.*?)"'
    return re.findall(pattern, text)


def _is_number(word: str) -> bool:
    return re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", word, re.IGNORECASE) is not None
