"""Pictures that a dataset holds more than once: byte for byte, or saved again at another size or quality.

Near copies are found in two steps. A 64-bit hash of the coarse brightness pattern proposes pairs; skies, horizons and
fog share that with each other, so the fine pattern of a thumbnail has to agree as well.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusiform.data.dataset import Sample
from fusiform.data.image import read_image
from fusiform.errors import ImageError, UsageError
from fusiform.progress import Tracker, silent

THUMBNAIL = 32
"""The thumbnail's side in pixels."""
MAX_DISTANCE = 12
"""Bits of the 64 that may differ: copies cut by 3 % differ in up to 12, other distortions in up to 8."""
MIN_CORRELATION = 0.45
"""Of the fine patterns: 0.96 and more for copies saved again, resized or made lighter, 0.5 and more for those cut by
3 %, and not above 0.31 between different pictures of similar hashes among 5,900 photographs."""
MIN_CONTRAST = 1.5
"""Grey levels, the standard deviation of the fine pattern; below it there is noise and no pattern to compare."""

# What one step may hold: pairs of hashes that are compared, and pairs of thumbnails.
_ROWS, _COLUMNS, _PAIRS = 1024, 4096, 2048
_FILES = 32  # a thread takes so many at a time


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What a picture is known by.

    ``sha256`` (hex) is of its encoded bytes. ``hash`` (64 bits) says which of the 64 lowest frequencies of the grey
    thumbnail's cosine transform are above their median; ``thumbnail`` is uint8, 32 x 32, the whole picture squeezed.
    """

    sha256: str
    hash: int
    thumbnail: NDArray[np.uint8]


@dataclass(frozen=True)
class Group:
    """Two or more pictures that are the same, as ascending indices into the fingerprints.

    ``exact``: all of them byte for byte. ``near``: seen as one picture; some of them may be exact copies.
    """

    kind: Literal["exact", "near"]
    members: tuple[int, ...]


def fingerprint(data: bytes, *, name: str = "the picture given as bytes") -> Fingerprint:
    """The fingerprint of a picture's encoded bytes; ImageError, which names it, where they cannot be decoded."""
    picture = read_image(data, name=name, shorter_side=2 * THUMBNAIL).convert("L")
    thumbnail = np.asarray(picture.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR))
    frequencies = (_COSINES @ thumbnail.astype(np.float64) @ _COSINES.T)[_LOWEST]
    bits = np.packbits(frequencies > np.median(frequencies))
    return Fingerprint(hashlib.sha256(data).hexdigest(), int.from_bytes(bits.tobytes(), "big"), thumbnail)


def fingerprint_all(
    samples: Sequence[Sample], *, threads: int | None = None, progress: Tracker = silent
) -> tuple[list[Fingerprint | None], list[str]]:
    """The fingerprints in the order of the samples, None for unreadable pictures, and those pictures' messages.

    ``threads`` is the number of pictures decoded at a time, by default one for each core.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads must be at least 1, got {threads}")
    fingerprints: list[Fingerprint | None] = []
    messages: list[str] = []
    with (
        progress(total=len(samples), label="compare") as bar,
        ThreadPoolExecutor(threads or os.cpu_count()) as pool,
    ):

        def work(start: int) -> list[Fingerprint | str]:
            results: list[Fingerprint | str] = []
            for sample in samples[start : start + _FILES]:
                try:
                    results.append(fingerprint(sample.read_bytes(), name=sample.name))
                except ImageError as error:
                    results.append(str(error))
                bar.advance()
            return results

        try:
            for results in pool.map(work, range(0, len(samples), _FILES)):
                fingerprints += [None if isinstance(result, str) else result for result in results]
                messages += [result for result in results if isinstance(result, str)]
        except BaseException:  # Control-C must not wait for all that is still queued
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return fingerprints, messages


def find_groups(fingerprints: Sequence[Fingerprint | None], *, max_distance: int = MAX_DISTANCE) -> list[Group]:
    """The groups of pictures that are the same, by their first member; None, an unreadable picture, is in none.

    Finds copies that were saved again, resized by whatever factor, squeezed, made slightly lighter or darker, or cut
    at the edges by up to about 3 %; not mirrored or turned ones. Pictures without a fine pattern, an empty sky or
    plain fog, are only ever exact copies. A copy of a copy belongs to the group. ``max_distance`` is the number of
    bits (0..64) by which two hashes may differ. Takes time with the square of the number, and little memory.
    """
    if not 0 <= max_distance <= 64:
        raise UsageError(f"max_distance must be 0 to 64 bits, got {max_distance}")
    copies: dict[str, list[int]] = {}
    known: list[Fingerprint] = []
    for index, each in enumerate(fingerprints):
        if each is not None:
            if each.sha256 not in copies:
                known.append(each)
            copies.setdefault(each.sha256, []).append(index)

    parents = np.arange(len(known))
    for first, second in _near_pairs(known, parents, max_distance):
        one, other = sorted((_root(parents, first), _root(parents, second)))
        parents[other] = one

    same: dict[int, list[str]] = {}
    for index, each in enumerate(known):
        same.setdefault(_root(parents, index), []).append(each.sha256)
    groups = [
        Group("exact" if len(hashes) == 1 else "near", tuple(sorted(i for sha256 in hashes for i in copies[sha256])))
        for hashes in same.values()
    ]
    return sorted((group for group in groups if len(group.members) > 1), key=lambda group: group.members)


def _near_pairs(known: Sequence[Fingerprint], parents: NDArray[Any], max_distance: int) -> Iterator[tuple[int, int]]:
    """Pairs of near copies; those already under one root in ``parents``, which the caller joins, are left out."""
    contrasts = [
        _fine(np.stack([each.thumbnail for each in known[start : start + _PAIRS]])).std(axis=(1, 2))
        for start in range(0, len(known), _PAIRS)
    ]
    patterned = np.flatnonzero(np.concatenate([np.empty(0), *contrasts]) >= MIN_CONTRAST)
    hashes = np.array([known[i].hash for i in patterned.tolist()], dtype=">u8")
    # Of +1 and -1 in 64 places the product is 64 less twice the number of places that differ: a matrix product counts.
    signs = np.unpackbits(hashes.view(np.uint8)).reshape(-1, 64).astype(np.float32) * 2 - 1
    for top in range(0, len(signs), _ROWS):
        for left in range(top, len(signs), _COLUMNS):
            products = signs[top : top + _ROWS] @ signs[left : left + _COLUMNS].T
            rows, columns = np.nonzero(products >= 64 - 2 * max_distance)
            rows, columns = rows + top, columns + left
            rows, columns = patterned[rows[rows < columns]], patterned[columns[rows < columns]]
            for start in range(0, len(rows), _PAIRS):
                first, second = rows[start : start + _PAIRS], columns[start : start + _PAIRS]
                apart = _roots(parents, first) != _roots(parents, second)
                first, second = first[apart], second[apart]
                if len(first) == 0:
                    continue
                one = _fine(np.stack([known[i].thumbnail for i in first.tolist()]))
                other = _fine(np.stack([known[i].thumbnail for i in second.tolist()]))
                correlation = (one * other).mean(axis=(1, 2)) / (one.std(axis=(1, 2)) * other.std(axis=(1, 2)))
                same = correlation >= MIN_CORRELATION
                yield from zip(first[same].tolist(), second[same].tolist(), strict=True)


def _fine(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What is left of each thumbnail when its 5 x 5 averages, and of that each row's and column's mean, are taken away.

    Without the rows' means two horizons at one height would have the same fine pattern.
    """
    grey = thumbnails.astype(np.float32)
    sums = np.pad(grey, ((0, 0), (3, 2), (3, 2)), mode="edge").cumsum(axis=1).cumsum(axis=2)
    averages = (sums[:, 5:, 5:] - sums[:, :-5, 5:] - sums[:, 5:, :-5] + sums[:, :-5, :-5]) / 25
    fine: NDArray[np.float32] = grey - averages
    fine -= fine.mean(axis=1, keepdims=True)
    fine -= fine.mean(axis=2, keepdims=True)
    return fine


def _root(parents: NDArray[Any], index: int) -> int:
    while parents[index] != index:
        parents[index] = parents[parents[index]]
        index = int(parents[index])
    return index


def _roots(parents: NDArray[Any], indices: NDArray[Any]) -> NDArray[Any]:
    roots: NDArray[Any] = parents[indices]
    while np.any(parents[roots] != roots):
        roots = parents[roots]
    return roots


def _cosines() -> NDArray[np.float64]:
    """The rows of the cosine transform (DCT-II) that the hash needs."""
    frequency, position = np.mgrid[0:11, 0:THUMBNAIL]
    cosines: NDArray[np.float64] = np.cos(np.pi * (2 * position + 1) * frequency / (2 * THUMBNAIL))
    return cosines


_COSINES = _cosines()
_BY_FREQUENCY = sorted(((row, column) for row in range(11) for column in range(11)), key=lambda at: (sum(at), at))
# Without the first, the mean, which brightness changes.
_LOWEST = tuple(np.array(_BY_FREQUENCY[1:65]).T)
