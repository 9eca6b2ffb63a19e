"""Many pictures in parts: each is written whole, a rerun goes on, several machines share them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fusiform.engines import EngineName
from fusiform.errors import InputError, MissingExtraError, UsageError
from fusiform.prediction.listing import Item, list_items
from fusiform.prediction.predictor import Predictor
from fusiform.prediction.worker import Asked, check_asked
from fusiform.progress import Tracker, tracker
from fusiform.scaling.folder import Done, PartsFolder, Shard, read_settings
from fusiform.scaling.plan import Plan
from fusiform.scaling.rows import PartFormat, has_parquet
from fusiform.scaling.run import PART, Parts, check_parts, folder_of, hash_model, run_parts
from fusiform.scaling.work import Answering, Setup, on_this_machine
from fusiform.spec import Colours, Fit
from fusiform.zoo.model import Model, open_model


def predict_parts(
    sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    model: str | os.PathLike[str] | Model = "mobilenet_v2",
    *,
    part: int = PART,
    shard: tuple[int, int] | None = None,
    on: str | None = None,
    format: PartFormat | None = None,  # noqa: A002  # the option's name
    root: str | os.PathLike[str] | None = None,
    column: str | None = None,
    top: int | None = None,
    score: float | None = None,
    iou: float | None = None,
    limit: int | None = None,
    certain: float | None = None,
    engine: EngineName | None = None,
    device: str = "auto",
    threads: int | None = None,
    batch: int = 1,
    fast: bool = False,
    labels: str | os.PathLike[str] | Sequence[str] | None = None,
    tiles: int | None = None,
    overlap: float = 0.2,
    mean: Colours | None = None,
    std: Colours | None = None,
    resize: int | None = None,
    crop: int | None = None,
    fit: Fit | None = None,
    progress: bool | Tracker | None = None,
) -> Parts:
    """Answer very many images into a folder of files, each of ``part`` images and written whole or not at all.

    Run again after whatever ended it, it goes on: a part that is there is not made again, and an image that cannot be
    read is a row with an error. The images of a part, and so the name of the file that an image's answer is in, depend
    on the sources and ``part`` alone, so that several machines can write into one folder.

    Args:
        sources: Paths and addresses: what ``predict`` takes by name, and WebDataset shards (``.tar``, also
            ``train-{0000..0009}.tar``), lists of paths or addresses (``.txt``, ``.csv``, ``.tsv``, ``.parquet``),
            Parquet files of images, and ``s3://``, ``gs://``, ``az://`` and other addresses, where one that ends in
            ``/`` is a folder. They are listed in a stream.
        out: The folder to write to: ``part-00000.parquet`` or ``.jsonl`` and so on, ``parts.json`` and a file for each
            shard that says what is done.
        model: This and the arguments that are not explained here are those of ``predict``.
        part: The number of images in a file; a tar file's images are always a file of their own.
        shard: ``(3, 64)`` answers every 64th part from part 3 on, so that 64 machines do all; None answers all.
        on: ``ray`` or ``ray://HOST:PORT`` hands the parts to the workers of a Ray cluster; they need the images and
            the model under the same names, and this machine alone writes.
        format: ``parquet`` or ``jsonl``; None is that of a folder that was begun, else Parquet where pyarrow is
            installed.
        root: The folder that relative paths in lists begin at; None is the list's own.
        column: The column of lists and Parquet files that holds the images, their paths or addresses, where its name
            does not say so.
        top: See ``predict``.
        score: See ``predict``.
        iou: See ``predict``.
        limit: See ``predict``.
        certain: See ``predict``.
        engine: See ``predict``.
        device: See ``predict``.
        threads: See ``predict``.
        batch: See ``predict``.
        fast: See ``predict``.
        labels: See ``predict``.
        tiles: See ``predict``.
        overlap: See ``predict``.
        mean: See ``predict``.
        std: See ``predict``.
        resize: See ``predict``.
        crop: See ``predict``.
        fit: See ``predict``.
        progress: See ``predict``.

    Returns:
        How many images the parts hold, and how many of them have an error.

    Raises:
        UsageError: For arguments that do not fit, and for a folder that was begun with another model, other images or
            other options, or that another process is writing these parts to.
        FusiformError: For a model that cannot be opened.

    Example:
        >>> import fusiform, tempfile
        >>> folder = tempfile.mkdtemp()
        >>> parts = fusiform.predict_parts("examples", folder, part=1, format="jsonl")
        >>> parts.images, parts.errors, parts.parts, parts.earlier
        (2, 0, 2, 0)
        >>> fusiform.predict_parts("examples", folder, part=1, format="jsonl").earlier
        2

    """
    ours = check_parts(part, shard)
    names = names_of(sources)
    folder = folder_of(out)
    form = form_of(folder, format, "jsonl")
    opened = open_model(model, mean=mean, std=std, resize=resize, crop=crop, fit=fit)
    asked = Asked(top, score, iou, limit, certain)
    setup = Setup(opened, asked, engine, device, threads, batch, fast, _names(labels), tiles, overlap)
    predictor = setup.predictor()
    check_asked(predictor.spec, asked)
    settings: dict[str, Any] = {
        "schema": "fusiform.parts/1",
        "fusiform": version("fusiform"),
        "model": str(opened.path if isinstance(model, Model) else os.fspath(model)),
        "sources": names,
        "images_per_part": part,
        "format": form,
        "engine": engine,
        **asked._asdict(),
        "fast": fast,
        "tiles": tiles,
        "overlap": None if tiles is None else overlap,
        "model_sha256": hash_model(opened),
        "description_sha256": sha256(predictor.spec.to_json().encode()).hexdigest(),
    }
    job = Answering(setup, form)
    return answer_sources(
        names,
        folder,
        settings,
        job,
        predictor,
        ours,
        on=on,
        root=root,
        column=column,
        label="predict",
        progress=progress,
    )


def answer_sources(
    names: Sequence[str],
    folder: Path,
    settings: dict[str, Any],
    job: Answering,
    predictor: Predictor,
    ours: Shard,
    *,
    on: str | None,
    root: str | os.PathLike[str] | None,
    column: str | None,
    label: str,
    progress: bool | Tracker | None,
) -> Parts:
    """Answer the images of sources into a folder's parts, here or ``on`` a cluster; see ``predict_parts``."""
    show = tracker(progress)
    with ExitStack() as stack:
        listing = list_items(names, root=None if root is None else os.fspath(root), column=column)
        plan = stack.enter_context(closing(Plan(_counted(listing, names, show), settings["images_per_part"])))
        settings |= {"images": plan.images, "parts": len(plan), "listing_sha256": plan.fingerprint}
        target = stack.enter_context(closing(PartsFolder(folder, settings, ours, job.count)))

        def answer(waiting: Sequence[int], advance: Callable[[int], None]) -> Iterator[tuple[int, Done]]:
            if on is None:
                rows_of = partial(job.rows, predictor)
                return on_this_machine(predictor, plan, waiting, target, job.setup.asked, rows_of, advance)
            from fusiform.scaling.ray import on_ray

            return on_ray(on, job, plan, waiting, target, advance)

        return run_parts(plan, target, ours, answer, show=show, label=label)


def names_of(sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[str]:
    """The sources as texts; UsageError for standard input."""
    names = [os.fspath(source) for source in ([sources] if isinstance(sources, (str, os.PathLike)) else sources)]
    if "-" in names:
        raise UsageError("parts are of images that can be read again, and - is standard input: give a file or a list")
    return names


def _names(labels: str | os.PathLike[str] | Sequence[str] | None) -> str | tuple[str, ...] | None:
    if labels is None or isinstance(labels, (str, os.PathLike)):
        return None if labels is None else os.fspath(labels)
    return tuple(labels)


def form_of(folder: Path, asked: str | None, plain: str) -> str:
    """What parts are written as: Parquet or, as where there is no pyarrow, ``plain``; a begun folder goes on with its.

    UsageError for another one, MissingExtraError where Parquet cannot be written.
    """
    if asked not in (None, plain, "parquet"):
        raise UsageError(f"parts are written as parquet or {plain}, not as {asked}")
    form: str = asked or read_settings(folder).get("format") or ("parquet" if has_parquet() else plain)
    if form == "parquet" and not has_parquet():
        raise MissingExtraError("pyarrow", "parquet", f"{folder}: writing Parquet")
    return form


def _counted(items: Iterator[Item], sources: Sequence[str], show: Tracker) -> Iterator[Item]:
    """The items, counted on the way; InputError where a source as a whole cannot be listed."""
    with show(total=None, label="list", unit="images") as bar:
        for item in items:
            if item.kind == "error" and item.name in sources:
                # Else it would be all that the folder is of, though it may be there in a minute.
                raise InputError(item.more)
            bar.advance(item.images)
            yield item
