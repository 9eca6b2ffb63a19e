"""Finding the pictures that annotations name, wherever the tool that wrote them thought that they lie."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import unquote

from fusiform.data.dataset import SPLIT_NAMES, SPLIT_ORDER, Split
from fusiform.data.image import find_images
from fusiform.data.names import is_file, nfc
from fusiform.errors import InputError

_MASKS = r"(?:(?:train|val|valid|validation|test)_?)?masks?|gt|ground_?truth|trimaps?|segmentation(?:class|object)"
_LABELS = rf"{_MASKS}|labels?|annotations?"


def read_text(file: Path) -> str:
    """A text file of a dataset, in UTF-8 with or without a mark; UsageError, which names it, where that fails."""
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{file}: is not UTF-8 text: save it in UTF-8") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}): check its permissions") from None


def is_of_masks(parts: Iterable[str]) -> bool:
    """Whether one of these folders is called as those of masks are."""
    return _is_called(_MASKS, parts)


def is_of_annotations(parts: Iterable[str]) -> bool:
    """Whether one of these folders is called as those of masks or of other annotations are."""
    return _is_called(_LABELS, parts)


def _is_called(names: str, parts: Iterable[str]) -> bool:
    return any(re.fullmatch(names, part.casefold()) for part in parts)


def photographs(root: Path, *, unlisted: list[str] | None = None, unread: list[Path] | None = None) -> list[Path]:
    """The pictures below a folder, without those in folders that are called as those of masks or annotations are.

    Where all pictures lie among annotations, they are no masks.
    """
    found = find_images(root, unlisted=unlisted, unread=unread)
    for names in (_LABELS, _MASKS):
        chosen = [file for file in found if not _is_called(names, file.relative_to(root).parts[:-1])]
        if chosen:
            return chosen
    return []


def split_of_path(parts: Iterable[str]) -> Split | None:
    """The split that folders name, or None where they name none or several: ``train`` also in ``train2017``."""
    words = {word for part in parts for word in re.findall(r"[^\W\d_]+", part.casefold())}
    found = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
    return found.pop() if len(found) == 1 else None


def by_split(found: Sequence[Split | None]) -> tuple[list[Split | None], str]:
    """A split for each of what may have none, and what to tell the user of those that stay without one.

    Where nothing names a split all are in ``all``; what is in none is for training where no other is.
    """
    named = {split for split in found if split is not None}
    without = sum(split is None for split in found)
    if not named or not without:
        return (["all"] * len(found) if not named else list(found)), ""
    if "train" not in named:
        return [split or "train" for split in found], ""
    there = " and ".join(split for split in SPLIT_ORDER if split in named)
    return list(found), f"{without} of {len(found)} pictures are in none of the splits {there}, left out"


def last_part(name: str) -> str:
    """The name of a file without its folders, whatever system or server wrote the path."""
    return re.split(r"[/\\]", spellings(name)[-1])[-1]


def spellings(name: str) -> list[str]:
    """How a picture's file may be called that is named so: as it is, decoded, and as what an address asks for."""
    plain = name.replace("\\", "/")
    decoded = unquote(plain)
    # Label Studio's local files are /data/local-files/?d=folder/name.jpg.
    asked = re.sub(r"^.*[?&]d=([^&]+).*$", r"\1", decoded)
    return list(dict.fromkeys([plain, decoded, asked, re.sub(r"[?#].*$", "", asked)]))


def without_hash(name: str) -> str:
    """A name without the eight hexadecimal digits that Label Studio puts before those of uploaded pictures."""
    return re.sub(r"^[0-9a-fA-F]{8}-", "", name)


def _way_together(one: Sequence[str], other: Sequence[str]) -> int:
    """How many folders two ways share from their beginning and from their end."""
    if one == other:
        return len(one) + 1
    ahead = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    rest = zip(reversed(one[ahead:]), reversed(other[ahead:]), strict=False)
    return ahead + next((i for i, (a, b) in enumerate(rest) if a != b), min(len(one), len(other)) - ahead)


class Finder:
    """Looks up pictures by name: from each of ``folders``, and then anywhere below ``root`` by the last part alone.

    That counts only where one file below ``root`` has it, apart from those in another ``split`` than the one given;
    then without the eight hexadecimal digits that Label Studio puts before a name; then, for a name without an
    extension, by what comes before it. ``loosely`` are the names that were found so.
    """

    def __init__(self, root: Path, folders: Sequence[Path]) -> None:
        self._root, self._folders = root, folders
        self._index: dict[str, list[Path]] | None = None
        self._stems: dict[str, list[Path]] = {}
        self.loosely: list[str] = []

    def find(self, name: str, split: Split | None = None) -> Path | None:
        """The picture's file, or None where there is none, or more than one that it could be."""
        if (file := self.find_exactly(name)) is not None:
            return file
        file = self._by_last_part(nfc(last_part(name)), split)
        # Who names pictures without their extensions says nothing of where they lie.
        if file is not None and file.stem != name:
            self.loosely.append(name)
        return file

    def find_exactly(self, name: str) -> Path | None:
        """The picture's file, if it is where its name says."""
        for spelling in spellings(name):
            for folder in self._folders:
                if spelling and is_file(folder / spelling):
                    # The same picture by the same path, whoever names it.
                    plain = Path(os.path.normpath(folder / spelling))
                    return plain if is_file(plain) else folder / spelling
        return None

    def find_partner(self, file: Path) -> Path | None:
        """The picture of the same name as a file of annotations: the one that most of the way to it leads to as well.

        It lies beside, or in another folder: train/images/1.jpg for train/annotations/1.xml. None where there is none,
        or where several fit as well.
        """
        index, stems = self._indices()
        name = nfc(file.stem)
        # Some tools put their ending behind the picture's own: cat.jpg.json.
        pictures = [*stems.get(name, []), *index.get(name, [])] or stems.get(without_hash(name), [])
        split = split_of_path(file.relative_to(self._root).parts[:-1])
        pictures = [picture for picture in pictures if self._may_be(picture, split)]
        scores = [(_way_together(picture.parent.parts, file.parent.parts), picture) for picture in pictures]
        best = [picture for score, picture in scores if score == max(scores)[0]]
        return best[0] if len(best) == 1 else None

    def find_only(self, name: str) -> Path | None:
        """The picture of this name, wherever it lies, if there is one and no more."""
        found = self._indices()[0].get(nfc(last_part(name)), []) if name else []
        return found[0] if len(found) == 1 else None

    def _indices(self) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
        if self._index is None:
            self._index = {}
            for file in photographs(self._root, unlisted=[]):
                self._index.setdefault(nfc(file.name), []).append(file)
                self._stems.setdefault(nfc(file.stem), []).append(file)
        return self._index, self._stems

    def _by_last_part(self, name: str, split: Split | None) -> Path | None:
        index, stems = self._indices()
        tried = [index.get(name), index.get(without_hash(name))]
        if "." not in name:
            tried.append(stems.get(name))
        for files in tried:
            here = [file for file in files or () if self._may_be(file, split)]
            if here:
                return here[0] if len(here) == 1 else None
        return None

    def _may_be(self, file: Path, split: Split | None) -> bool:
        if split is None or split == "all":
            return True
        return split_of_path(file.relative_to(self._root).parts[:-1]) in (None, split)

    def notes(self, count: int) -> list[str]:
        """What to tell the user of pictures that were found by the last part of their names."""
        if not self.loosely:
            return []
        example = self.loosely[0]
        return [
            f"{len(self.loosely)} of {count} pictures are not where they are said to be, such as {example!r}: found by "
            "the last part of their names"
        ]
