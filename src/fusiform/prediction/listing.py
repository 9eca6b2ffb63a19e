"""What sources of many pictures hold, listed in a stream: folders, lists, Parquet files, tar shards, object stores."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from fusiform.data.folders import PATH_COLUMNS
from fusiform.data.image import EXTENSIONS, UNREAD_PICTURE_ENDINGS, is_of_system, natural_key
from fusiform.data.remote import is_remote
from fusiform.data.shards import COMPRESSED, expand_braces, pictures_in
from fusiform.errors import ImageError, InputError, MissingExtraError
from fusiform.report import printable

LISTS = (".txt", ".csv", ".tsv")
ADDRESS_COLUMNS = (*PATH_COLUMNS, "url", "image_url", "uri", "address", "key")
PICTURE_COLUMNS = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp", "bytes", "content")
ROWS = 64
"""Rows of a Parquet file that are read together."""


class Item(NamedTuple):
    """What a listing has a line for: a picture's name, a tar file, or rows of a Parquet file; or what is wrong.

    ``images`` is the number of pictures, 0 of a tar file, which is read to know it; ``more`` the column of the rows,
    from ``start`` on, or the message of an error.
    """

    kind: Literal["picture", "tar", "rows", "error"]
    name: str
    start: int = 0
    images: int = 1
    more: str = ""

    def line(self) -> str:
        """The item as a line of JSON, which ``of_line`` reads."""
        return json.dumps(self)


def of_line(line: str) -> Item:
    """The item of a line."""
    return Item(*json.loads(line))


def list_items(sources: Sequence[str], *, root: str | None = None, column: str | None = None) -> Iterator[Item]:
    """What the sources hold, in an order that is always the same, without holding more of it than a folder's names.

    ``root`` is where relative paths of lists begin, ``column`` names the column of lists and Parquet files. Raises
    InputError for a list that cannot be understood, and MissingExtraError for what a source needs.
    """
    for source in sources:
        yield from _of_source(source, root, column)


def _of_source(source: str, root: str | None, column: str | None) -> Iterator[Item]:
    if is_remote(source):
        yield from _of_remote(source, root, column)
    elif source == "-" or source.lower().startswith(("http://", "https://")):
        yield Item("picture", source)
    elif os.path.isdir(source):  # noqa: PTH112  # Path("./a") would not show the name as it was given
        yield from _of_folder(source)
    elif os.path.exists(source) or not any(c in source for c in "*?[{"):  # noqa: PTH110  # as above
        yield from _of_file(source, root, column)
    else:
        yield from _of_pattern(source, root, column)


def _of_pattern(pattern: str, root: str | None, column: str | None) -> Iterator[Item]:
    import glob

    braced = re.search(r"\{[^{}]*(?:,|\.\.)[^{}]*\}", pattern)
    for expanded in expand_braces(pattern) if braced else [pattern]:
        if not any(c in expanded for c in "*?["):
            yield from _of_source(expanded, root, column)
            continue
        matches = sorted(glob.glob(expanded, recursive=True), key=natural_key)  # noqa: PTH207  # it may be absolute
        if not matches:
            yield Item("error", expanded, more=f"{expanded}: no file matches this pattern")
        for match in matches:
            if is_of_system(os.path.basename(match)):  # noqa: PTH119
                continue
            if match.lower().endswith((*LISTS, ".parquet")) and not _asks_for(expanded, match):
                yield Item("picture", match)  # notes beside images are no list of them: it says that it is no image
            else:
                yield from _of_source(match, root, column)


def _asks_for(pattern: str, match: str) -> bool:
    """Whether a pattern names the ending of what it matched."""
    return os.path.splitext(pattern)[1].lower() == os.path.splitext(match)[1].lower()  # noqa: PTH122


def _of_file(name: str, root: str | None, column: str | None) -> Iterator[Item]:
    lower = name.lower()
    if lower.endswith(COMPRESSED):
        yield _compressed(name)
    elif lower.endswith(".tar"):
        yield Item("tar", name, start=_size(name), images=0)
    elif lower.endswith(".parquet"):
        yield from _of_parquet(name, root, column)
    elif lower.endswith(LISTS):
        yield from _of_list(name, root, column)
    else:
        yield Item("picture", name)


def _compressed(name: str) -> Item:
    return Item("error", name, more=f"{name}: is compressed, which saves nothing of photographs: unpack it to a .tar")


def _size(name: str) -> int:
    """Bytes, so that a tar file that was written anew is another source; 0 where there is none."""
    try:
        return os.stat(name).st_size  # noqa: PTH116  # as above
    except OSError:
        return 0


# Folders


def _of_folder(folder: str) -> Iterator[Item]:
    root, visited = os.path.realpath(folder), set[tuple[int, int]]()
    empty = True
    for item in _walk(folder, root, visited):
        empty = False
        yield item
    if empty:
        yield Item("error", folder, more=f"{folder}: no pictures in this folder")


def _walk(folder: str, root: str, visited: set[tuple[int, int]]) -> Iterator[Item]:
    """A folder's pictures and tar files in natural order, each subfolder's in its place; no folder is visited twice.

    A link goes to what lies outside: what is within comes under its own name.
    """
    try:
        here = os.stat(folder)  # noqa: PTH116  # of very many
        if (here.st_dev, here.st_ino) in visited:
            return
        visited.add((here.st_dev, here.st_ino))
        with os.scandir(folder) as entries:
            found = sorted(
                ((entry.name, entry.is_dir()) for entry in entries if not is_of_system(entry.name)),
                key=lambda entry: natural_key(entry[0]),
            )
    except OSError as error:
        message = f"{folder}: the folder cannot be listed ({error.strerror}): change its permissions"
        yield Item("error", folder, more=message)
        return
    for name, is_folder in found:
        path = os.path.join(folder, name)  # noqa: PTH118  # of very many
        if is_folder:
            if not (os.path.islink(path) and _lies_within(path, root)):  # noqa: PTH114
                yield from _walk(path, root, visited)
            continue
        ending = os.path.splitext(name)[1].lower()  # noqa: PTH122
        if name.lower().endswith(COMPRESSED):
            yield _compressed(path)
        elif ending == ".tar":
            yield Item("tar", path, start=_size(path), images=0)
        elif EXTENSIONS.fullmatch(ending):
            # Reading from a named pipe would wait for ever; a link to nowhere is kept, to be reported.
            if os.path.isfile(path) or not os.path.exists(path):  # noqa: PTH113, PTH110
                yield Item("picture", path)
        elif ending in UNREAD_PICTURE_ENDINGS and os.path.isfile(path):  # noqa: PTH113
            yield Item("picture", path)


def _lies_within(link: str, root: str) -> bool:
    target = os.path.realpath(link)
    if target != root and not target.startswith(root.rstrip(os.sep) + os.sep):
        return False
    return not any(map(is_of_system, Path(target).relative_to(root).parts))


# Lists of paths and addresses


def _of_list(name: str, root: str | None, column: str | None) -> Iterator[Item]:
    base = os.path.dirname(name) if root is None else root  # noqa: PTH120  # also of addresses
    try:
        with _opened(name) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as stream:
            entries = _lines(stream) if name.lower().endswith(".txt") else _cells(stream, name, column)
            for entry in entries:
                yield Item("picture", _joined(base, entry))
    except OSError as error:
        yield _unread(name, error)
    except UnicodeDecodeError:
        raise InputError(f"{name}: is not UTF-8 text: save it as UTF-8, a path or address on each line") from None


def _unread(name: str, error: OSError) -> Item:
    if isinstance(error, FileNotFoundError):
        return Item("error", name, more=f"{name}: no such file: check the path")
    return Item("error", name, more=f"{name}: cannot be read ({error.strerror or error}): check where it comes from")


def _lines(stream: Iterable[str]) -> Iterator[str]:
    for line in stream:
        if text := line.rstrip("\r\n"):
            yield text


def _cells(stream: Iterable[str], name: str, column: str | None) -> Iterator[str]:
    rows = csv.reader(stream, delimiter="\t" if name.lower().endswith(".tsv") else ",")
    try:
        head = next((row for row in rows if row), None)
        if head is None:
            return
        where = _column_of([cell.strip() for cell in head], name, column)
        if where is None:
            where = 0
            yield head[0]
        for row in rows:
            if len(row) > where and row[where]:
                yield row[where]
            elif row:
                raise InputError(f"{name}, line {rows.line_num}: has no {head[where]!r}: fill it in or drop the line")
    except csv.Error as error:
        raise InputError(f"{name}, line {rows.line_num}: is no CSV ({error}): save it again") from None


def _column_of(head: list[str], name: str, column: str | None) -> int | None:
    """Where the paths stand; None where the first line is no line of names but a path itself, the only cell."""
    if column is not None:
        if column not in head:
            raise InputError(f"{name}: has no column {column!r}; there are {', '.join(map(printable, head))}")
        return head.index(column)
    lower = [cell.casefold() for cell in head]
    for known in ADDRESS_COLUMNS:
        if known in lower:
            return lower.index(known)
    if len(head) == 1 and ("." in head[0] or "/" in head[0]):
        return None
    raise InputError(
        f"{name}: no column is called like one of paths or addresses ({', '.join(ADDRESS_COLUMNS)}): name yours with "
        "--column"
    )


def _joined(base: str, entry: str) -> str:
    if "://" in entry or not base or os.path.isabs(entry):  # noqa: PTH117  # as it is written in the list
        return entry
    if "://" in base:
        return f"{base.rstrip('/')}/{entry}"
    return os.path.join(base, entry)  # noqa: PTH118


# Parquet


def _of_parquet(name: str, root: str | None, column: str | None) -> Iterator[Item]:
    parquet = _need_parquet(name)
    import pyarrow

    base = os.path.dirname(name) if root is None else root  # noqa: PTH120
    try:
        with _opened(name) as raw, parquet.ParquetFile(raw) as file:
            chosen, holds_pictures = _parquet_column(file.schema_arrow, name, column)
            if holds_pictures:
                yield Item("rows", name, 0, file.metadata.num_rows, chosen)
                return
            for batch in file.iter_batches(batch_size=8192, columns=[chosen]):
                for entry in batch.column(0).to_pylist():
                    if entry:
                        yield Item("picture", _joined(base, entry))
                    else:
                        yield Item("error", name, more=f"{name}: a row of {chosen} names no picture: fill it in")
    except OSError as error:
        yield _unread(name, error)
    except pyarrow.ArrowException as error:
        yield Item("error", name, more=f"{name}: is damaged or no Parquet file ({_first_line(error)}): copy it again")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _need_parquet(name: str) -> Any:
    try:
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise MissingExtraError("pyarrow", "parquet", f"reading {name}") from None
    return parquet


def _parquet_column(schema: Any, name: str, column: str | None) -> tuple[str, bool]:
    """The column of pictures, or of paths and addresses, and whether it is one of pictures."""
    from pyarrow import types

    def holds_pictures(kind: Any) -> bool:
        if types.is_struct(kind):
            return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    kinds = {field.name: field.type for field in schema}
    pictures = [each for each, kind in kinds.items() if holds_pictures(kind)]
    texts = [each for each, kind in kinds.items() if types.is_string(kind) or types.is_large_string(kind)]
    if column is not None:
        if column not in (*pictures, *texts):
            raise InputError(
                f"{name}: has no column {column!r} of pictures, paths or addresses; there are "
                f"{', '.join(map(printable, kinds))}"
            )
        return column, column in pictures
    if len(pictures) == 1:
        return pictures[0], True
    lower = {each.casefold(): each for each in pictures}
    for known in PICTURE_COLUMNS if pictures else ():
        if known in lower:
            return lower[known], True
    lower = {each.casefold(): each for each in texts}
    for known in ADDRESS_COLUMNS:
        if known in lower and not pictures:
            return lower[known], False
    raise InputError(
        f"{name}: says not which column is that of pictures, paths or addresses, of "
        f"{', '.join(map(printable, kinds))}: name it with --column"
    )


# Object stores and other file systems


def _of_remote(address: str, root: str | None, column: str | None) -> Iterator[Item]:
    from fusiform.data import remote

    if re.search(r"\{[^{}]*(?:,|\.\.)[^{}]*\}", address):
        for expanded in expand_braces(address):
            yield from _of_remote(expanded, root, column)
        return
    try:
        if address.endswith("/") or any(c in address for c in "*?["):
            empty = True
            for name, size in remote.list_objects(address):
                ending = os.path.splitext(name)[1].lower()  # noqa: PTH122  # of an address
                parts = name.split("://", 1)[1].split("/")
                if any(map(is_of_system, parts[1:])):
                    continue
                if ending == ".tar" or name.lower().endswith(COMPRESSED):
                    yield _compressed(name) if ending != ".tar" else Item("tar", name, start=size, images=0)
                elif ending == ".parquet" and not address.endswith("/"):
                    yield from _of_parquet(name, root, column)
                elif EXTENSIONS.fullmatch(ending) or ending in UNREAD_PICTURE_ENDINGS:
                    yield Item("picture", name)
                else:
                    continue
                empty = False
            if empty:
                yield Item("error", address, more=f"{address}: no pictures there: a folder's address ends in /")
        elif address.lower().endswith(".tar"):
            yield Item("tar", address, start=remote.size_of(address), images=0)
        else:
            yield from _of_file(address, root, column)
    except ImageError as error:
        yield Item("error", address, more=str(error))


def _opened(name: str) -> AbstractContextManager[BinaryIO]:
    if is_remote(name):
        from fusiform.data import remote

        try:
            return remote.open_object(name)
        except ImageError as error:
            raise OSError(str(error)) from None
    return open(name, "rb")  # noqa: PTH123  # the name as it was given


# From items to pictures

Content = tuple[str, Callable[[], bytes]]
"""A picture's name, and what gives its bytes or raises ImageError."""


def contents_of(item: Item) -> Iterator[Content]:
    """The pictures of an item that is no picture itself, each read when the next is asked for, of an error its message.

    What breaks it off is a picture that cannot be read.
    """
    if item.kind == "tar":
        yield from _of_tar(item.name)
    elif item.kind == "rows":
        yield from _of_rows(item)
    else:
        yield _failing(item.name, item.more)


def _failing(name: str, message: str) -> Content:
    def fail() -> bytes:
        raise ImageError(message)

    return name, fail


def _of_tar(name: str) -> Iterator[Content]:
    found = False
    try:
        with _opened(name) as stream:
            for key, data in pictures_in(stream, name):
                found = True
                yield f"{name}/{key}", partial(_same, data)
    except (OSError, InputError) as error:
        yield _failing(name, _unread(name, error).more if isinstance(error, OSError) else str(error))
        return
    if not found:
        yield _failing(name, f"{name}: no pictures in this tar file")


def _same(data: bytes) -> bytes:
    return data


def _of_rows(item: Item) -> Iterator[Content]:
    """The pictures in rows of a Parquet file, called by the number of their row."""
    parquet = _need_parquet(item.name)
    import pyarrow

    row, end = item.start, item.start + item.images
    try:
        with _opened(item.name) as raw, parquet.ParquetFile(raw) as file:
            for group, first in _groups(file.metadata, item.start, end):
                at = first
                for batch in file.iter_batches(batch_size=ROWS, row_groups=[group], columns=[item.more]):
                    if at + len(batch) > row and at < end:
                        for value in batch.column(0).slice(row - at, end - row):
                            yield _of_value(f"{item.name}#{row}", value.as_py())
                            row += 1
                    at += len(batch)
    except (OSError, pyarrow.ArrowException) as error:
        # Those before it have their rows, and these are not to be lost.
        for number in range(row, end):
            yield _failing(f"{item.name}#{number}", f"{item.name}#{number}: cannot be read ({_first_line(error)})")


def _groups(metadata: Any, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The groups of rows that hold some of these, each with its first row."""
    first = 0
    for group in range(metadata.num_row_groups):
        count = metadata.row_group(group).num_rows
        if first < end and first + count > start:
            yield group, first
        first += count


def _of_value(name: str, value: Any) -> Content:
    data = value.get("bytes") if isinstance(value, dict) else value
    if not data:
        return _failing(name, f"{name}: holds no picture")
    return name, partial(_same, bytes(data))
