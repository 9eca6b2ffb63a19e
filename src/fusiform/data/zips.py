"""Datasets in zip files, as CVAT, Roboflow and others export them: unpacked once, into the cache folder."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from fusiform.data.dataset import SPLIT_NAMES
from fusiform.data.image import EXTENSIONS, is_of_system
from fusiform.errors import InputError
from fusiform.files import cache_dir
from fusiform.report import printable

MAX_MEMBERS = 2_000_000
MAX_BYTES = 1 << 40
MAX_RATIO = 100
"""How many times larger than its zip file what it holds may be; pictures hardly shrink, text to a tenth."""
_ALLOWANCE = 64 << 20
"""Bytes that may come of any zip file, whatever the ratio."""
_KEPT_NAMES = re.compile(r"images?|labels|annotations?|jpegimages|data|obj_(train|valid|test)_data")
"""Folders that mean something to a reader, even where nothing else lies beside them."""


def is_zip(path: Path) -> bool:
    """Whether a file is called a zip file; what is in it is looked at when it is unpacked."""
    return path.suffix.lower() == ".zip" and path.is_file()


def unpacked(source: Path) -> Path:
    """The folder with what a zip file holds, unpacked into the cache folder if it is not there yet; or ``source``.

    Files of systems are left out. A folder that holds all the rest is the dataset itself, unless its name means
    something to a reader, as ``train`` does. The folder is another one when the zip file has changed.

    Raises UsageError for a zip file that is damaged, encrypted, holds links or names outside itself, or unpacks to
    more than ``MAX_MEMBERS`` files, ``MAX_BYTES`` or ``MAX_RATIO`` times its size, and where there is no room.
    """
    if not is_zip(source):
        return source
    try:
        size, changed = (about := source.stat()).st_size, about.st_mtime_ns
        stamp = hashlib.sha256(f"{source.resolve()}\0{size}\0{changed}".encode("utf-8", "surrogateescape")).hexdigest()
        folder = cache_dir() / "unpacked" / stamp[:16] / source.stem
        if not folder.is_dir():
            _unpack(source, size, folder)
    except OSError as error:
        raise InputError(
            f"{source}: cannot be unpacked ({error.strerror or error}): unzip it, and give the folder"
        ) from None
    return _dataset_in(folder)


def _dataset_in(folder: Path) -> Path:
    inside = list(folder.iterdir())
    if len(inside) != 1 or not inside[0].is_dir():
        return folder
    (only,) = inside
    name = only.name.casefold()
    # A folder of nothing but pictures may be a class.
    if (
        name in SPLIT_NAMES
        or _KEPT_NAMES.fullmatch(name)
        or all(EXTENSIONS.fullmatch(p.suffix) for p in only.iterdir())
    ):
        return folder
    return _dataset_in(only)


def _unpack(source: Path, size: int, folder: Path) -> None:
    part = folder.with_name(f"{folder.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        with zipfile.ZipFile(source) as archive:
            members = _members(source, size, archive)
            part.mkdir(parents=True)
            needed = sum(member.file_size for member in members.values())
            if (free := shutil.disk_usage(part).free) < needed + _ALLOWANCE:
                raise InputError(
                    f"{source}: unpacks to {needed >> 20:,} MB, and there are {free >> 20:,} free in {part.parent}: "
                    "make room, set FUSIFORM_CACHE to a folder elsewhere, or unzip it, and give the folder"
                )
            for name, member in members.items():
                file = part / name
                file.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as packed, file.open("xb") as written:
                    shutil.copyfileobj(packed, written, 1 << 20)
        try:
            part.rename(folder)
        except OSError:  # another process was faster
            if not folder.is_dir():
                raise
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise InputError(f"{source}: is no zip file that can be read ({error}): copy or download it again") from None
    except (NotImplementedError, RuntimeError) as error:  # kinds of compression and encryption
        raise InputError(f"{source}: cannot be unpacked ({error}): unzip it, and give the folder") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _members(source: Path, size: int, archive: zipfile.ZipFile) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """The files to unpack, by their names within the folder; UsageError for names and sizes that could do harm."""
    members: dict[PurePosixPath, zipfile.ZipInfo] = {}
    total = 0
    for member in archive.infolist():
        # Some programs of Windows write its backslashes.
        name = PurePosixPath(member.filename.replace("\\", "/"))
        if member.is_dir() or member.filename.endswith("\\"):
            continue
        if name.is_absolute() or ".." in name.parts or re.match(r"[A-Za-z]:", member.filename):
            raise InputError(
                f"{source}: holds {printable(member.filename)}, which lies outside of the folder that it is unpacked "
                "to: make the zip file again"
            )
        if any(map(is_of_system, name.parts)):
            continue
        if stat.S_ISLNK(member.external_attr >> 16):
            raise InputError(
                f"{source}: holds the link {printable(member.filename)}, which is not followed: unzip it, and give "
                "the folder"
            )
        if member.flag_bits & 1:
            raise InputError(f"{source}: is encrypted: unzip it with its password, and give the folder")
        if name in members:
            raise InputError(f"{source}: holds {printable(str(name))} twice: make the zip file again")
        members[name] = member
        total += member.file_size
        if len(members) > MAX_MEMBERS or total > min(MAX_BYTES, MAX_RATIO * size + _ALLOWANCE):
            raise InputError(
                f"{source}: unpacks to much more than a dataset of its {size >> 20:,} MB would (over "
                f"{total >> 20:,} MB in {len(members):,} files): unzip it if you trust it, and give the folder"
            )
    if not members:
        raise InputError(f"{source}: holds no files: make the zip file again")
    return members
