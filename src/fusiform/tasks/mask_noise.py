"""Which regions of masks are probably wrong: where a segmenter is sure of another class than the mask has.

What is sure follows from the probability that each class gets where it is labelled, as in confident learning (Northcutt
et al., arXiv 1911.00068, Section 3.1). A mask's quality is the softmin over its pixels of what their label gets (Lad
and Mueller, arXiv 2307.05080).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

LARGEST_SIDE = 256
"""Pixels: pictures are judged at this size, which is finer than what segmenters say, every 8 or 16 pixels."""
BORDER = 4
"""Pixels by which a region is made smaller at its border, where masks and networks are both off a little."""
LEAST = 0.005
"""The share of the picture that has to be left of a region then."""
CONFIDENT = 0.6
"""The least mean probability of a region's class, whatever the class gets where it is labelled."""
TEMPERATURE = 0.1
"""Of the softmin, as the paper has it: the smaller, the more the worst pixels count."""


class Region(NamedTuple):
    """Connected pixels of one ``label`` that look like one ``other`` class, with its mean ``probability`` there.

    ``edges`` are left, top, right and bottom in ``pixels``; ``gain`` in (0, 1] is the share of the picture's labelled
    pixels that is expected to be right besides, if they get the other class.
    """

    label: int
    other: int
    pixels: int
    probability: float
    gain: float
    edges: tuple[int, int, int, int]


class MaskLook(NamedTuple):
    """What one mask shows: its ``size`` (width, height), its regions that look otherwise, and its ``quality``.

    ``sums`` and ``counts`` (classes,) are the probabilities that labelled pixels give to their own class, and their
    number. The quality, in [0, 1], is None where no pixel is labelled.
    """

    size: tuple[int, int]
    regions: tuple[Region, ...]
    quality: float | None
    sums: NDArray[np.float64]
    counts: NDArray[np.int64]


def look_at_mask(
    probabilities: NDArray[np.float32], truth: NDArray[np.integer[Any]], *, known: Collection[int]
) -> MaskLook:
    """Compare what a segmenter says of every pixel, (height, width, classes), with the mask, -1 where it says nothing.

    Of the classes only those ``known`` to the dataset are regions looked for.
    """
    height, width, classes = probabilities.shape
    labelled = truth >= 0
    label = np.where(labelled, truth, 0)
    own = np.take_along_axis(probabilities, label[..., None].astype(np.intp), 2)[..., 0].astype(np.float64)
    counts = np.bincount(label[labelled], minlength=classes)
    sums = np.asarray(np.bincount(label[labelled], weights=own[labelled], minlength=classes), np.float64)
    quality = softmin(own[labelled]) if labelled.any() else None
    likeliest = probabilities.argmax(2)
    best = probabilities.max(2).astype(np.float64)
    differs = labelled & (likeliest != label) & np.isin(likeliest, list(known))
    pairs = np.where(differs, label * classes + likeliest, -1)
    regions = []
    for pair in np.unique(pairs[differs]):
        core = _eroded(pairs == pair, BORDER)
        for rows, columns in connected(core):
            if len(rows) < LEAST * height * width:
                continue
            gain = float((best - own)[rows, columns].sum() / labelled.sum())
            edges = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
            mean = float(best[rows, columns].mean())
            regions.append(Region(int(pair // classes), int(pair % classes), len(rows), mean, gain, edges))
    return MaskLook((width, height), tuple(regions), quality, sums, counts)


def confident_regions(looks: Iterable[MaskLook], classes: int) -> NDArray[np.float64]:
    """The mean probability (classes,) from which a region counts: what the class gets where it is labelled, or more."""
    sums, counts = np.zeros(classes), np.zeros(classes, np.int64)
    for look in looks:
        sums += look.sums
        counts += look.counts
    means = np.divide(sums, counts, out=np.ones(classes), where=counts > 0)
    least: NDArray[np.float64] = np.maximum(means, CONFIDENT)
    return least


def doubted_regions(looks: Mapping[int, MaskLook], confident: NDArray[np.float64]) -> list[tuple[int, Region]]:
    """The regions that are probably wrong, with their pictures' keys, those first whose correction gains most."""
    doubts = [
        (key, region)
        for key, look in looks.items()
        for region in look.regions
        if region.probability >= confident[region.other]
    ]
    return sorted(doubts, key=lambda doubt: -doubt[1].gain)


def softmin(scores: NDArray[np.float64]) -> float:
    """The mean of scores, in which low ones weigh more: by exp((1 - score) / ``TEMPERATURE``)."""
    weights = np.exp((scores.min() - scores) / TEMPERATURE)
    return float((weights * scores).sum() / weights.sum())


def connected(mask: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """The rows and columns of each region of true pixels (height, width) that touch each other by their sides."""
    height, width = mask.shape
    padded = np.zeros((height, width + 2), np.int8)
    padded[:, 1:-1] = mask
    # Runs of a row, row by row; two of neighbouring rows that share a column are of one region.
    steps = np.diff(padded, axis=1)
    rows, starts = np.nonzero(steps == 1)
    ends = np.nonzero(steps == -1)[1]
    parents = list(range(len(rows)))

    def root(run: int) -> int:
        while parents[run] != run:
            parents[run] = parents[parents[run]]
            run = parents[run]
        return run

    first = np.searchsorted(rows, np.arange(height + 2))
    for row in range(height - 1):
        above, below = int(first[row]), int(first[row + 1])
        while above < first[row + 1] and below < first[row + 2]:
            if starts[above] < ends[below] and starts[below] < ends[above]:
                parents[root(below)] = root(above)
            if ends[above] <= ends[below]:
                above += 1
            else:
                below += 1
    groups: dict[int, list[int]] = {}
    for run in range(len(rows)):
        groups.setdefault(root(run), []).append(run)
    for runs in groups.values():
        columns = [np.arange(starts[run], ends[run]) for run in runs]
        yield np.repeat(rows[runs], [len(each) for each in columns]), np.concatenate(columns)


def _eroded(mask: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    """The pixels whose square of ``by`` pixels around is true as well; the picture's edge is no border."""
    for axis in (0, 1):
        padded = np.pad(mask, [(by, by) if k == axis else (0, 0) for k in (0, 1)], constant_values=True)
        mask = np.asarray(np.lib.stride_tricks.sliding_window_view(padded, 2 * by + 1, axis=axis).all(-1))
    return mask
