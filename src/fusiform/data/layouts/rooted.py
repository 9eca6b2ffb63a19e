"""Lists whose pictures lie elsewhere: one line that says so, and where they are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from fusiform.data.image import EXTENSIONS, is_of_system
from fusiform.errors import InputError, UsageError
from fusiform.report import printable

_FIRST = 50
"""How many pictures are looked for first, spread over the list: mostly one of them is there."""
_LOOKED_AT = 200_000
"""How many files are looked at for the pictures of a list that are not where it says."""


def refuse_root(source: Path, root: str | os.PathLike[str]) -> UsageError:
    """The error for a ``root`` of what is no list and finds its pictures itself."""
    return UsageError(
        f"--root {os.fspath(root)}: says where the pictures of a list lie, and {source} is no list: leave it out, or "
        "give a CSV file"
    )


def check_there(source: Path, files: Sequence[Path], root: Path | None) -> None:
    """Raise UsageError where none of a list's pictures is there; it names the folder that they seem to lie in.

    One that is missing among others is told by whoever reads it.
    """
    if any(file.exists() for file in files[:: max(1, len(files) // _FIRST)]) or any(file.exists() for file in files):
        return
    base = root or (source if source.is_dir() else source.parent)
    example = files[0]
    missing = f"none of its {len(files):,} pictures is" if len(files) > 1 else "its only picture is not"
    shown = f"{source}: {missing} there, such as {printable(str(example))}"
    there, listed = _look_for(files, base if base.is_dir() else source.absolute().parent) or (None, None)
    if there is None or listed is None:
        if root is not None:
            raise InputError(f"{shown}: the list's paths do not begin in --root {printable(str(root))}: name another")
        raise InputError(f"{shown}: name the folder that the paths in the list begin in with --root DIR")
    if there.name != listed.name:
        raise InputError(f"{shown}: {printable(str(there))} is: write the names in the list with their endings")
    place = _beginning(there, listed.relative_to(base).parts if listed.is_relative_to(base) else listed.parts)
    if place is None:
        raise InputError(f"{shown}: {printable(str(there))} is: change the paths in the list, or move the pictures")
    raise InputError(f"{shown}: they lie in {printable(str(place))}: add --root {printable(str(place))}")


def _look_for(files: Sequence[Path], base: Path) -> tuple[Path, Path] | None:
    """A file below ``base`` that bears the name of a picture of the list, perhaps with an ending more; and that one."""
    by_name = {file.name: file for file in reversed(files)}
    looked_at = 0
    for folder, folders, names in os.walk(base):
        folders[:] = sorted(name for name in folders if not is_of_system(name))
        for name in sorted(names):
            stem, ending = os.path.splitext(name)  # noqa: PTH122  # a Path for each of many names takes seconds
            listed = by_name.get(name) or (by_name.get(stem) if EXTENSIONS.fullmatch(ending) else None)
            if listed is not None:
                return Path(folder, name), listed
        looked_at += len(names)
        if looked_at > _LOOKED_AT:
            break
    return None


def _beginning(there: Path, parts: Sequence[str]) -> Path | None:
    """The folder in which a path of these parts begins that leads ``there``, if one does."""
    for part in reversed(parts):
        if there.name != part:
            return None
        there = there.parent
    return there
