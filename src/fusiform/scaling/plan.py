"""Which pictures each part holds: listed once, kept compressed on disk, the same on every machine."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from fusiform.prediction.listing import Item, of_line

T = TypeVar("T")


class Planned(Protocol):
    """Parts, and what each of them holds."""

    def __len__(self) -> int: ...

    def count(self, part: int) -> int | None:
        """The number of pictures of a part, None where that is not known."""
        ...

    def items(self, part: int) -> Sequence[Any]:
        """What a part holds."""
        ...


class Slices(Generic[T]):
    """The parts of a list: ``size`` of its things each, in its order."""

    def __init__(self, things: Sequence[T], size: int) -> None:
        self._things, self._size = things, size

    def __len__(self) -> int:
        return -(-len(self._things) // self._size)

    def count(self, part: int) -> int:
        """The number of things of a part."""
        return len(self.items(part))

    def items(self, part: int) -> Sequence[T]:
        """What a part holds."""
        return self._things[part * self._size : (part + 1) * self._size]


class _Place(NamedTuple):
    """Where the lines of a part lie in the file, and how many pictures it has; None where that is not known."""

    offset: int
    size: int
    images: int | None


class Plan:
    """The parts of a listing: ``size`` pictures each, in its order; a tar file is a part of its own.

    ``fingerprint`` is the SHA-256 of the listing, and ``images`` the number of its pictures, None with tar files.
    """

    def __init__(self, items: Iterable[Item], size: int) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the plan
        self._places: list[_Place] = []
        digest = sha256()

        def hashed() -> Iterator[Item]:
            for item in items:
                digest.update(item.line().encode() + b"\n")
                yield item

        try:
            for lines, images in _parts(hashed(), size):
                packed = zlib.compress("\n".join(lines).encode(), 1)
                self._places.append(_Place(self._file.tell(), len(packed), images))
                self._file.write(packed)
        except BaseException:
            self.close()
            raise
        self.fingerprint = digest.hexdigest()
        counts = [place.images for place in self._places]
        self.images = None if None in counts else sum(count or 0 for count in counts)

    def __len__(self) -> int:
        return len(self._places)

    def count(self, part: int) -> int | None:
        """The number of pictures of a part, None of a tar file."""
        return self._places[part].images

    def items(self, part: int) -> list[Item]:
        """What a part holds."""
        place = self._places[part]
        self._file.seek(place.offset)
        return [of_line(line) for line in zlib.decompress(self._file.read(place.size)).decode().split("\n")]

    def close(self) -> None:
        """Let go of the file, which goes with it."""
        self._file.close()


def _parts(items: Iterable[Item], size: int) -> Iterator[tuple[list[str], int | None]]:
    """The lines of each part, and the number of its pictures."""
    lines: list[str] = []
    have = 0
    for item in items:
        if item.kind == "tar":
            if lines:
                yield lines, have
            yield [item.line()], None
            lines, have = [], 0
            continue
        start, left = item.start, item.images
        while left:
            taken = min(left, size - have)
            lines.append(item._replace(start=start, images=taken).line())
            start, left, have = start + taken, left - taken, have + taken
            if have == size:
                yield lines, have
                lines, have = [], 0
    if lines:
        yield lines, have
