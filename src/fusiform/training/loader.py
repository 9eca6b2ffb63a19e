"""Training pictures: decoded once and kept where they fit, augmented from seeds, in an order one can return to.

What a step sees depends on the seed, the epoch and its place in it, and on nothing else: not on the number of worker
processes, and not on whether the run was interrupted before.
"""

from __future__ import annotations

import functools
import itertools
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fusiform.data.dataset import Sample
from fusiform.errors import ImageError, InputError, UsageError
from fusiform.machine import free_memory, usable_cores
from fusiform.progress import Tracker
from fusiform.spec import Preprocess
from fusiform.training.augment import apply_seeded, make_transform
from fusiform.training.distributed import World
from fusiform.training.recipe import Cache, Recipe
from fusiform.training.schedule import crop_size

Pixels = NDArray[np.uint8]

SHARE_OF_MEMORY = 0.5
"""How much of the free memory decoded pictures may take."""
AHEAD = 4
"""Batches that each worker process makes ahead."""


class Batch(NamedTuple):
    """Pictures as uint8 (N, 3, size, size) and what is to be said of them: of a classifier int64 (N,)."""

    pictures: Tensor
    labels: Tensor


class Example(NamedTuple):
    """A decoded picture, (height, width, 3), and what is to be said of it, as its task's ``Examples`` keep it."""

    pixels: Pixels
    target: Any


class Examples(Protocol):
    """How a task's samples become what a step learns from."""

    def decode(self, sample: Any) -> Example:
        """Read a sample, no larger than training needs it; ImageError where it cannot be read."""
        ...

    def augment(self, example: Example, size: int, seed: int) -> tuple[Tensor, Tensor]:
        """A picture, uint8 (3, size, size), and its label as a tensor, changed at random from the seed."""
        ...


class Loaded(NamedTuple):
    """The pictures that could be read, decoded where there was room, what was wrong with others, and the bytes held."""

    samples: list[Any]
    decoded: list[Example | None]
    errors: list[str]
    bytes: int


class ClassExamples:
    """Classification's ``Examples``: a picture is kept with its shorter side no longer than ``shorter_side`` pixels."""

    def __init__(self, recipe: Recipe, *, shorter_side: int) -> None:
        self.transforms = {
            size: make_transform(recipe, size) for size in {crop_size(recipe, e) for e in range(max(recipe.epochs, 1))}
        }
        self.shorter_side = shorter_side

    def decode(self, sample: Sample) -> Example:
        """See ``Examples``."""
        # Decoded at a reduced size only where twice what is kept remains; see the fast mode of predict.
        image = sample.read(shorter_side=2 * self.shorter_side)
        return Example(np.array(shrink(image, self.shorter_side)), sample.label)

    def augment(self, example: Example, size: int, seed: int) -> tuple[Tensor, Tensor]:
        """See ``Examples``."""
        picture = torch.from_numpy(example.pixels).permute(2, 0, 1)
        return apply_seeded(self.transforms[size], picture, seed), torch.tensor(example.target)


class Normalization:
    """From pixels (N, 3, H, W) of training pictures, in RGB, to what the network takes, as evaluation gives it."""

    def __init__(self, preprocess: Preprocess, recipe: Recipe, world: World) -> None:
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in (preprocess.mean, preprocess.std))
        self.mean, self.std = mean.to(world.device), std.to(world.device)
        self.swaps = preprocess.color_order == "bgr"
        self.layout = torch.channels_last if recipe.channels_last else torch.contiguous_format

    def __call__(self, pictures: Tensor) -> Tensor:
        if self.swaps:
            pictures = pictures.flip(1)
        return ((pictures.float() - self.mean) / self.std).contiguous(memory_format=self.layout)


def shrink(image: Image.Image, shorter_side: int) -> Image.Image:
    """The picture with a shorter side of ``shorter_side`` pixels, or as it is if that is no longer."""
    scale = shorter_side / min(image.size)
    if scale >= 1:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


def load(samples: Sequence[Any], examples: Examples, *, cache: Cache, threads: int, progress: Tracker) -> Loaded:
    """Decode pictures until the memory that they may take is full; the rest is read when its turn comes.

    With ``cache`` none, nothing is read here, so that unreadable pictures are found only in training.
    """
    if cache == "none":
        return Loaded(list(samples), [None] * len(samples), [], 0)
    room = free_memory() * SHARE_OF_MEMORY if cache == "fit" else float("inf")
    read, decoded, errors, held = list[Any](), list[Example | None](), list[str](), 0
    decode = functools.partial(_decode, examples)
    with ThreadPoolExecutor(threads) as pool, progress(total=len(samples), label="decode") as bar:
        for at in range(0, len(samples), 64):  # in portions, so that no more is decoded than there is room for
            for sample, found in zip(samples[at : at + 64], pool.map(decode, samples[at : at + 64]), strict=True):
                if isinstance(found, str):
                    errors.append(found)
                else:
                    held += found.pixels.nbytes + getattr(found.target, "nbytes", 0)
                    read.append(sample)
                    decoded.append(found)
            bar.advance(len(samples[at : at + 64]))
            if held > room:
                rest = samples[at + 64 :]
                return Loaded([*read, *rest], [*decoded, *[None] * len(rest)], errors, held)
    return Loaded(read, decoded, errors, held)


class Pictures:
    """The training pictures of one process's share of each batch.

    ``labels`` are the classes of a balanced sampler. With fewer pictures than a batch, all of them are one. The last
    pictures of an epoch that do not fill a batch are left out; the order is new in each pass over them.
    """

    def __init__(
        self, loaded: Loaded, examples: Examples, recipe: Recipe, world: World, *, labels: Sequence[int] = ()
    ) -> None:
        count = len(loaded.samples)
        if count < world.size:
            raise InputError(f"{count} training pictures for {world.size} processes: start fewer processes")
        if recipe.batch % (world.size * recipe.accumulate):
            raise UsageError(
                f"recipe: batch {recipe.batch} is not a multiple of {world.size} processes x accumulate "
                f"{recipe.accumulate}: set batch to one"
            )
        self.count, self.labels = count, torch.tensor(labels, dtype=torch.int64)
        self.batch = min(recipe.batch, count // world.size * world.size)
        self.steps = count * recipe.repeats // self.batch
        self.recipe, self.world = recipe, world
        self.dataset = _Augmented(loaded, examples)
        self.workers = _choose_workers(recipe.workers, loaded, world)

    def order(self, number: int) -> Tensor:
        """The pictures in the order in which the ``number``-th pass over them shows them, as int64 indices."""
        generator = torch.Generator().manual_seed(mix_seed(self.recipe.seed, number))
        if self.recipe.sampler == "shuffle":
            return torch.randperm(self.count, generator=generator)
        weights = 1.0 / torch.bincount(self.labels)[self.labels].double()
        return torch.multinomial(weights, self.count, replacement=True, generator=generator)

    def batches(self, epoch: int, step: int) -> Iterator[Batch]:
        """The process's share of every batch from ``step`` of ``epoch`` to the end of the last epoch."""
        keys = self._keys(epoch, step)
        if not self.workers:
            return self._made_here(keys)
        loader = DataLoader(
            self.dataset,
            batch_sampler=cast("Iterable[list[int]]", _Once(keys)),
            num_workers=self.workers,
            prefetch_factor=AHEAD,
            collate_fn=_collate,
            worker_init_fn=_leave_interruptions,
        )
        return iter(loader)

    def _made_here(self, keys: Iterator[list[_Key]]) -> Iterator[Batch]:
        threads = torch.get_num_threads()
        for batch in keys:
            # Pictures are so small that threads take longer to meet than to work.
            torch.set_num_threads(1)
            made = _collate([self.dataset[key] for key in batch])
            torch.set_num_threads(threads)
            yield made

    def look(self, number: int, size: int, seed: int) -> Tensor:
        """One training picture by its number, augmented from ``seed``: uint8 (3, size, size)."""
        return self.dataset[_Key(number, size, seed)][0]

    def _keys(self, epoch: int, step: int) -> Iterator[list[_Key]]:
        share = self.batch // self.world.size
        for e in range(epoch, self.recipe.epochs):
            size = crop_size(self.recipe, e)
            passes = range(e * self.recipe.repeats, (e + 1) * self.recipe.repeats)
            shown = [(number, i) for number in passes for i in self.order(number).tolist()]
            for s in range(step if e == epoch else 0, self.steps):
                begin = s * self.batch + self.world.rank * share
                yield [
                    _Key(i, size, mix_seed(self.recipe.seed, number, i)) for number, i in shown[begin : begin + share]
                ]


def mix_seed(*numbers: int) -> int:
    """One seed, below 2^63, from several numbers; the constants are those of splitmix64 (Steele et al., 2014)."""
    mask = (1 << 64) - 1
    mixed = 0
    for number in numbers:
        mixed = (mixed ^ (number & mask)) + 0x9E3779B97F4A7C15 & mask
        mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & mask
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & mask
        mixed ^= mixed >> 31
    return mixed >> 1


class _Key(NamedTuple):
    """Which picture, to what side in pixels, and the seed of its augmentation."""

    number: int
    size: int
    seed: int


class _Augmented(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, loaded: Loaded, examples: Examples) -> None:
        self.samples, self.decoded, self.examples = loaded.samples, loaded.decoded, examples

    def __getitem__(self, key: object) -> tuple[Tensor, Tensor]:
        index, size, seed = cast("_Key", key)
        # A picture that cannot be read, and was not found out before, is replaced by the one after it in the list.
        for i in itertools.chain(range(index, len(self.samples)), range(index)):
            example = self.decoded[i]
            if example is None:
                found = _decode(self.examples, self.samples[i])
                if isinstance(found, str):
                    continue
                example = found
            return self.examples.augment(example, size, seed)
        raise ImageError("none of the training pictures can be read any more: check the disk they are on")


class _Once:
    """An iterator of batches as DataLoader wants a sampler."""

    def __init__(self, batches: Iterator[list[_Key]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[_Key]]:
        return self.batches


def _leave_interruptions(_: int) -> None:
    """Leave a terminal's Ctrl-C, which reaches all processes, to the one that trains: it needs pictures to its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _collate(items: list[tuple[Tensor, Tensor]]) -> Batch:
    pictures, labels = zip(*items, strict=True)
    return Batch(torch.stack(pictures), torch.stack(labels))


def _decode(examples: Examples, sample: Any) -> Example | str:
    try:
        return examples.decode(sample)
    except ImageError as error:
        return str(error)


def _choose_workers(asked: int, loaded: Loaded, world: World) -> int:
    if asked >= 0:
        return asked
    # Augmenting takes a hundredth of a training step on a CPU; another process would only take its cores. A GPU waits
    # for pictures, and so does a CPU for the disk and the decoder. Without fork, every worker would get its own copy
    # of the decoded pictures.
    cached = all(example is not None for example in loaded.decoded)
    if cached and (world.device.type == "cpu" or sys.platform != "linux"):
        return 0
    return max(1, min(8, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
