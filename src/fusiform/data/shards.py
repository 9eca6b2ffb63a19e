"""WebDataset shards: tar files of pictures, listed by their headers and read in place."""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from fusiform.data.dataset import SPLIT_NAMES, Entry, Split
from fusiform.data.image import EXTENSIONS, UNREAD_PICTURE_ENDINGS, VIDEO_ENDINGS, is_of_system, natural_key
from fusiform.errors import InputError, UsageError
from fusiform.report import printable

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
CLASS_FILES = ("classes.txt", "labels.txt", "classnames.txt")
PICTURES = (".jpg", ".jpeg", ".png", ".webp")
"""The endings of pictures; others that can be read are pictures where their key has none of these."""

MAX_SHARDS = 100_000
_MAX_LABEL = 1 << 20  # bytes of a member that says a class
_COMPRESSIONS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")


class ShardList(NamedTuple):
    """What the shards hold: the pictures, the classes in the order of a file of names if there is one, and notes."""

    entries: list[Entry]
    classes: tuple[str, ...] | None
    notes: list[str]


def expand_braces(pattern: str) -> list[str]:
    """``a-{08..10}.tar`` -> ``a-08.tar``, ``a-09.tar``, ``a-10.tar``; ``{a,b}`` gives each alternative.

    Raises UsageError for braces that say neither, and for more than ``MAX_SHARDS`` names.
    """
    done, waiting = [""], pattern
    while "{" in waiting:
        before, _, rest = waiting.partition("{")
        inside, closed, waiting = rest.partition("}")
        if (ends := re.fullmatch(r"(\d{1,9})\.\.(\d{1,9})", inside)) is not None:
            first, last = int(ends[1]), int(ends[2])
            if abs(last - first) >= MAX_SHARDS:
                raise UsageError(f"{pattern}: names more than {MAX_SHARDS:,} shards: check the numbers")
            padded = any(len(end) > 1 and end.startswith("0") for end in ends.groups())
            width = max(map(len, ends.groups())) if padded else 0
            step = 1 if first <= last else -1
            choices = [f"{number:0{width}d}" for number in range(first, last + step, step)]
        elif closed and "," in inside and "{" not in inside:
            choices = inside.split(",")
        else:
            raise UsageError(f"{pattern}: braces say a range, {{0000..0009}}, or alternatives, {{a,b}}")
        if len(done) * len(choices) > MAX_SHARDS:
            raise UsageError(f"{pattern}: names more than {MAX_SHARDS:,} shards: check the numbers")
        done = [start + before + choice for start in done for choice in choices]
    return [start + waiting for start in done]


def find_shards(folder: Path) -> list[Path]:
    """The ``.tar`` files in a folder and below it, in natural order; UsageError if all there are compressed ones."""
    found, compressed = [], []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not _is_passed_over(name)]
        for name in files:
            if not _is_passed_over(name):
                if name.lower().endswith(".tar"):
                    found.append(Path(parent, name))
                elif name.lower().endswith(COMPRESSED):
                    compressed.append(Path(parent, name))
    if compressed and not found:
        raise InputError(_must_decompress(min(compressed)))
    return sorted(found, key=lambda path: [natural_key(part) for part in path.relative_to(folder).parts])


def read_shards(shards: Sequence[Path], folder: Path) -> ShardList:
    """List the pictures of the shards by reading their headers; nothing is unpacked, and nothing but labels is read.

    A picture ``KEY.jpg`` (jpeg, png, webp, or another of ``EXTENSIONS`` where the key has none of these) has its class
    in ``KEY.cls``, as an index or a name, or in ``KEY.json`` under ``class``, ``cls`` or ``label``; KEY ends at the
    file name's first dot, or at its last where that finds a
    label. Where no picture has either, the folder within the shard is the class. The names of indices are the lines of
    ``classes.txt``, ``labels.txt`` or ``classnames.txt`` in ``folder`` or beside the shards; else the numbers are the
    names. The split is the first word among a shard's path below ``folder`` and, where that has none, the folders
    within it, that ``SPLIT_NAMES`` has: ``train-0000.tar``, ``val/0.tar``, ``imagenet1k-test-3.tar``.

    Raises UsageError, which names the shard, for one that is missing, compressed, cut short or damaged, and for
    labels that cannot be understood.
    """
    contents = [_list_members(shard) for shard in shards]
    labelled = any(content.labels for content in contents)
    found: list[tuple[Split | None, str | int, Path, _Member]] = []
    unlabelled = links = beside = 0
    unread: Counter[str] = Counter()
    for shard, content in zip(shards, contents, strict=True):
        links += content.links
        unread += content.unread
        relative = shard.relative_to(folder) if shard.is_relative_to(folder) else Path(shard.name)
        shard_split = _split_of(relative.with_suffix("").as_posix())
        plain = {_stem(member.key) for member in content.pictures}
        for member in content.pictures:
            stem, first = _stem(member.key), _first_stem(member.key)
            parents = member.key.split("/")[:-1]
            label: str | int | None
            if labelled:
                if stem in content.labels:
                    label = content.labels[stem]
                elif first in plain and first != stem:
                    beside += 1  # a mask, key.seg.png, beside the picture key.jpg
                    continue
                else:
                    label = content.labels.get(first)
            else:
                label = parents[-1] if parents else None
            if label is None:
                unlabelled += 1
                continue
            within = "/".join(parents if labelled else parents[:-1])
            found.append((shard_split or _split_of(within, whole=True), label, shard, member))
    notes = [
        f"{printable(shard.name)}: {content.rest:,} bytes after its end mark, not read: pack what they are into it"
        for shard, content in zip(shards, contents, strict=True)
        if content.rest
    ]
    notes += [
        f"pictures in the shards ending in {ending}, not read or beside another of their key, passed over: {count}"
        for ending, count in sorted(unread.items())
    ]
    if beside:
        notes.append(f"pictures in the shards beside another of their key, such as masks, passed over: {beside}")
    if links:
        notes.append(f"links within the shards, passed over: {links}; pack the files themselves")
    if unlabelled:
        if not found:
            texts = " (a KEY.txt is a caption)" if any(content.texts for content in contents) else ""
            raise InputError(
                f"{shards[0]}: no picture has a class{texts}: put KEY.cls or KEY.json beside each KEY.jpg, or the "
                "pictures into folders called by their classes"
            )
        notes.append(f"pictures in the shards without a class, passed over: {unlabelled}")

    if len({split is None for split, _, _, _ in found}) > 1:
        odd = next(shard for split, _, shard, _ in found if split is None)
        raise InputError(f"{odd}: does not say its split, and others do: put train, val or test into its name")
    names = _read_class_names(shards, folder) if all(isinstance(label, int) for _, label, _, _ in found) else None
    entries = []
    for split, label, shard, member in found:
        if names is not None and isinstance(label, int):
            file, lines = names
            if label >= len(lines):
                raise InputError(f"{shard}/{member.key}: has class {label}, and {file} has {len(lines)} names: add it")
            label = lines[label]
        entries.append(Entry(split or "all", str(label), shard, member.offset, member.size, member.key))
    return ShardList(entries, None if names is None else names[1], notes)


def pictures_in(stream: BinaryIO, name: str) -> Iterator[tuple[str, bytes]]:
    """The pictures of a shard, each with its key, from the beginning to the end; masks and the like are among them.

    ``stream`` can seek, and is read forward. Raises InputError, which names the shard, where it breaks off.
    """
    try:
        if stream.read(8).startswith(_COMPRESSIONS):
            raise InputError(_must_decompress(Path(name)))
        size = stream.seek(0, os.SEEK_END)
        start: int | None = 0
        while start is not None:
            following = start
            for info, after in _members(stream, start, size):
                following = after
                key = info.name.removeprefix("./")
                if not info.isreg() or info.issparse() or any(_is_passed_over(part) for part in key.split("/")):
                    continue
                ending = key[key.rfind(".") :].lower()
                if EXTENSIONS.fullmatch(ending) or ending in UNREAD_PICTURE_ENDINGS:
                    stream.seek(info.offset_data)
                    yield key, stream.read(info.size)
            start, _ = _next_archive(stream, following, size)
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise InputError(
            f"{name}: is cut short, damaged or no tar file ({error}): copy, download or pack it again"
        ) from error


class _Member(NamedTuple):
    key: str
    offset: int
    size: int


class _Content(NamedTuple):
    pictures: list[_Member]
    labels: dict[str, str | int]
    links: int
    unread: Counter[str]
    rest: int
    texts: int


def _list_members(shard: Path) -> _Content:
    pictures: list[_Member] = []
    others: list[_Member] = []
    labels: dict[str, str | int] = {}
    links = rest = texts = 0
    unread: Counter[str] = Counter()
    try:
        with shard.open("rb") as stream:
            if stream.read(8).startswith(_COMPRESSIONS):
                raise InputError(_must_decompress(shard))
            size = stream.seek(0, os.SEEK_END)
            start: int | None = 0
            while start is not None:
                following = start
                for info, after in _members(stream, start, size):
                    following = after
                    key = info.name.removeprefix("./")
                    if any(_is_passed_over(part) for part in key.split("/")):
                        continue
                    links += info.islnk() or info.issym()
                    if not info.isreg() or info.issparse():
                        continue
                    ending = key[key.rfind(".") :].lower()
                    if ending in PICTURES:
                        pictures.append(_Member(key, info.offset_data, info.size))
                    elif EXTENSIONS.fullmatch(ending):
                        others.append(_Member(key, info.offset_data, info.size))
                    elif ending in UNREAD_PICTURE_ENDINGS or ending in VIDEO_ENDINGS:
                        unread[ending] += 1
                    elif ending == ".txt":
                        texts += 1
                    elif ending in (".cls", ".json"):
                        label = _read_label(stream, info, f"{shard}/{key}")
                        # An index may stand beside a JSON full of other things: .cls has the last word.
                        if label is not None and (ending == ".cls" or _stem(key) not in labels):
                            labels[_stem(key)] = label
                start, rest = _next_archive(stream, following, size)
    except FileNotFoundError:
        raise InputError(f"{shard}: no such shard: check the path") from None
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        raise InputError(
            f"{shard}: is cut short, damaged or no tar file ({error}): copy, download or pack it again"
        ) from error
    known = {stem for member in pictures for stem in (_stem(member.key), _first_stem(member.key))}
    for member in others:
        if known & {_stem(member.key), _first_stem(member.key)}:
            unread[member.key[member.key.rfind(".") :].lower()] += 1
        else:
            pictures.append(member)
    pictures.sort(key=lambda member: member.offset)
    return _Content(pictures, labels, links, unread, rest, texts)


def _members(stream: BinaryIO, start: int, size: int) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """The members of the archive that begins at ``start``, each with where the next begins; TarError for damage."""
    stream.seek(start)
    with tarfile.open(fileobj=stream, mode="r:") as tar:
        while (info := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header, a gigabyte for ImageNet
            if info.size < 0 or info.offset_data + info.size > size:
                raise tarfile.ReadError(f"{info.name} ends outside the file")
            yield info, tar.offset
        # tarfile takes anything after the first member for the end; a whole file ends in a block of zeros.
        stream.seek(tar.offset)
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"no end mark after {tar.offset:,} bytes")


def _next_archive(stream: BinaryIO, end: int, size: int) -> tuple[int | None, int]:
    """Where another archive begins after the end mark, as ``cat a.tar b.tar`` leaves it; else the bytes that follow."""
    stream.seek(end)
    while block := stream.read(1 << 20):
        if (rest := block.lstrip(b"\0")) != b"":
            first = stream.tell() - len(rest)
            first -= first % tarfile.BLOCKSIZE
            stream.seek(first)
            try:
                tarfile.TarInfo.frombuf(stream.read(tarfile.BLOCKSIZE), "utf-8", "surrogateescape")
            except tarfile.TarError:
                return None, size - first
            return first, 0
    return None, 0


def _read_label(stream: BinaryIO, info: tarfile.TarInfo, name: str) -> str | int | None:
    if info.size > _MAX_LABEL:
        raise InputError(f"{name}: {info.size:,} bytes are too many for a label: check how the shard was made")
    stream.seek(info.offset_data)
    data = stream.read(info.size)
    try:
        text = data.decode("utf-8-sig").strip()
        if name.lower().endswith(".cls"):
            if not text:
                raise InputError(f"{name}: says no class: check how the shard was made")
            return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else text
        content = json.loads(text)
    except UnicodeDecodeError:
        raise InputError(f"{name}: is not UTF-8 text: check how the shard was made") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: is not JSON ({error}): check how the shard was made") from None
    if not isinstance(content, dict):
        return None
    # A name says more than an index.
    values = [content.get(field) for field in ("class", "cls", "label")]
    for value in values:
        if isinstance(value, str) and value.strip():
            return int(value) if re.fullmatch(r"[0-9]{1,9}", value.strip()) else value.strip()
    return next((v for v in values if isinstance(v, int) and not isinstance(v, bool) and v >= 0), None)


def _read_class_names(shards: Sequence[Path], folder: Path) -> tuple[Path, tuple[str, ...]] | None:
    for place in dict.fromkeys([folder, *(shard.parent for shard in shards)]):
        for name in CLASS_FILES:
            file = place / name
            if not file.is_file():
                continue
            try:
                names = tuple(line.strip() for line in file.read_text(encoding="utf-8-sig").rstrip().splitlines())
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(f"{file}: cannot be read as UTF-8 text ({error}): save it again") from None
            for number, line in enumerate(names):
                if not line or line in names[:number]:
                    what = f"{line!r} stands there already" if line else "it is empty"
                    raise InputError(f"{file}, line {number + 1}: {what}: give each class a name of its own")
            return file, names
    return None


def _split_of(path: str, *, whole: bool = False) -> Split | None:
    """The first split that is named in a path: by one of its words, or by the ``whole`` of a folder's name."""
    words = path.split("/") if whole else re.findall(r"[a-z]+", path.casefold())
    return next((SPLIT_NAMES[word.casefold()] for word in words if word.casefold() in SPLIT_NAMES), None)


def _stem(key: str) -> str:
    return key[: key.rfind(".")]


def _first_stem(key: str) -> str:
    folder, slash, name = key.rpartition("/")
    return folder + slash + name.partition(".")[0]


def _is_passed_over(name: str) -> bool:
    return is_of_system(name) and name not in (".", "..")


def _must_decompress(path: Path) -> str:
    return f"{path}: is compressed, and pictures are read in place: decompress it to a .tar file, or unpack it"
