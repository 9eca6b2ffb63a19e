"""One look at each picture of a dataset, in threads; and which copy of a picture is the one to keep."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

from PIL import Image

from fusiform.data.appearance import Appearance, appearance
from fusiform.data.checks import check_picture
from fusiform.data.dataset import Sample, Split
from fusiform.data.duplicates import Fingerprint, fingerprint
from fusiform.data.faults import Fault
from fusiform.doctor.findings import Finding, Kind, counted
from fusiform.doctor.shortcuts import faults_of
from fusiform.errors import ImageError

LOOK_AHEAD = 4
"""Pictures a thread that may be examined before their turn."""

KEPT: Mapping[Split, int] = {"all": 0, "train": 0, "val": 1, "test": 2}
"""Of the copies of a picture in several splits, the one with the highest number stays."""

DUPLICATES: Mapping[Literal["exact", "near"], Kind] = {"exact": "exact duplicates", "near": "near duplicates"}
"""What to call copies within a split, by how alike they are."""


@dataclass(frozen=True)
class Look:
    """What one look at a picture left; its width and height in pixels are 0 where it cannot be read."""

    faults: tuple[Fault, ...]
    size: tuple[int, int] = (0, 0)
    grey: bool = False
    fingerprint: Fingerprint | None = None
    appearance: Appearance | None = None

    @property
    def pixels(self) -> int:
        return self.size[0] * self.size[1]


class Seen(NamedTuple):
    """A look, and the picture for those who want to see more of it; None where it cannot be used."""

    look: Look
    image: Image.Image | None = None


def look_at(sample: Sample) -> Seen:
    """Read a picture's file once and check it; nothing is raised, what is wrong is among the faults."""
    try:
        data = sample.read_bytes()
    except ImageError as error:
        return Seen(Look((Fault(error.kind, "error", str(error).removeprefix(f"{sample.name}: ")),)))
    checked = check_picture(data, name=sample.name)
    if checked.image is None:
        return Seen(Look(checked.faults))
    try:
        known = fingerprint(data, name=sample.name)
    except ImageError as error:  # decoded once more, at a smaller scale, which damage may hinder that hit nothing else
        message = str(error).removeprefix(f"{sample.name}: ")
        return Seen(Look((*checked.faults, Fault("corrupt", "error", message))))
    seen = appearance(data, checked.image)
    # What shows a single colour, or is an icon, is neither dark nor blurred besides.
    plain = any(fault.kind in ("blank", "tiny", "few bits") for fault in checked.faults)
    faults = checked.faults if plain else (*checked.faults, *faults_of(seen))
    return Seen(Look(faults, checked.image.size, checked.grey, known, seen), checked.image)


def about_pictures(looks: Iterable[Look], side: int, *, padded: bool = False) -> Iterator[Finding]:
    """What many pictures share and each alone need not be told for.

    ``side`` is the input's in pixels, which the shorter side of a picture has to fill, or of a ``padded`` one the
    longer.
    """
    filling = max if padded else min
    read = [look for look in looks if look.pixels]
    readable = counted(len(read), "picture")
    if grey := sum(look.grey for look in read):
        text = f"{grey:,} of {readable} hold grey values only: red, green and blue are equal when they are read"
        yield Finding("grey", "note", text)
    if small := sum(filling(look.size) < side for look in read):
        text = f"{small:,} of {readable} are smaller than the input of {side} pixels: they are enlarged for it"
        yield Finding("small", "note", text)


Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """The function's results in the order of the items, computed in threads not far ahead of where they are taken."""
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= LOOK_AHEAD * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def joined(groups: Iterable[Sequence[int]]) -> list[set[int]]:
    """Groups that share a member as one."""
    group_of: dict[int, set[int]] = {}
    for group in groups:
        whole = set(group).union(*(group_of[i] for i in group if i in group_of))
        group_of.update(dict.fromkeys(whole, whole))
    return list({id(group): group for group in group_of.values()}.values())


def copies_to_leave(members: set[int], splits: Sequence[Split], pixels: Sequence[int]) -> set[int]:
    """The copies of a picture but for the one in the split that is kept, and there the largest."""
    return members - {max(members, key=lambda i: (KEPT[splits[i]], pixels[i], -i))}
