"""From images, in files, folders, at addresses or in memory, to what a model says of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from fusiform.engines import EngineName
from fusiform.prediction.predictor import PredictionStream, Predictor
from fusiform.prediction.results import Predictions
from fusiform.prediction.sources import Source
from fusiform.progress import Tracker
from fusiform.spec import Colours, Fit
from fusiform.zoo.model import Model, open_model


def predict(
    sources: Source | Iterable[Source],
    model: str | os.PathLike[str] | Model = "mobilenet_v2",
    *,
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
    sketch: str | os.PathLike[str] | None = None,
    mean: Colours | None = None,
    std: Colours | None = None,
    resize: int | None = None,
    crop: int | None = None,
    fit: Fit | None = None,
    progress: bool | Tracker | None = None,
) -> Predictions:
    """Classify images, detect objects in them or segment them, as the model's task is.

    An image that cannot be read stops no other.

    Whoever asks often opens a ``fusiform.Predictor`` once.

    Args:
        sources: A file, a folder (searched recursively), a glob pattern, ``-`` (an image's bytes on standard input), an
            http(s) or file address, an image's bytes, a binary file object, a PIL image, a numpy array (height, width)
            or (height, width, 3 or 4) of uint8 in RGB or RGBA, a torch tensor (3, height, width) of uint8 or of floats
            in [0, 1], or several of these: one array is one image, a list of arrays several.
        model: A name from ``fusiform.list_models()``, a model file, the folder of a training run, or what
            ``fusiform.open_model`` has opened.
        top: How many names a classifier gives (5).
        score: A detector's boxes below this confidence score, in [0, 1], are left out (0.3).
        iou: Of a detector's boxes of one class whose intersection over union is above this, in [0, 1], the
            highest-scoring one remains (0.6): non-maximum suppression.
        limit: At most so many boxes an image (100).
        certain: For a calibrated classifier: the share of images, in (0, 1), whose set of ``names`` holds the right
            one, and that are not called unknown if they show one of the classes; None is what it was calibrated for,
            0.95.
        engine: The runtime; None is the one that the file is for, or ``native`` where that is faster.
        device: Where the engine ``torch`` computes: ``auto`` (``cuda`` where it finds such a GPU, else ``cpu``),
            ``cpu``, ``cuda``, ``cuda:1`` or ``mps``. Other engines compute on the CPU.
        threads: The number of cores to use; None is all.
        batch: How many images go through the network together.
        fast: Decode large JPEGs at a reduced size: the answers may differ a little. Detectors and segmenters decode
            whole images all the same, to answer in their own pixels.
        labels: Other names for the model's classes, one for each, or a UTF-8 file with one a line.
        tiles: For small objects in large images: the side of the tiles, in pixels, that a detector is shown one by
            one, beside the whole image; the boxes of all are merged. None shows it the whole image alone.
        overlap: The share of a tile's side that neighbours have in common (0.2), up to 0.9: objects up to so large are
            whole in one of them.
        sketch: A .json file in which to keep a sketch of what a calibrated classifier sees, for ``fusiform.drift``; one
            that is there is gone on with.
        mean: What weights that were saved without fusiform do not say of their preprocessing; see
            ``fusiform.open_model``.
        std: See ``fusiform.open_model``.
        resize: See ``fusiform.open_model``.
        crop: See ``fusiform.open_model``.
        fit: See ``fusiform.open_model``.
        progress: Whether to show how far it is; None does on a terminal and in a notebook.

    Returns:
        One answer an image, in the order of ``sources``; what is wrong with an image is in its ``error``. Boxes and
        masks are in pixels of the upright image; a mask is as large as its image, so that for many of them
        ``predict_iter`` takes less memory.

    Raises:
        UsageError: For arguments that do not fit, also not the model's task.
        FusiformError: For a model that cannot be opened.

    Example:
        >>> import fusiform
        >>> cat, missing = fusiform.predict(["examples/cat.jpg", "missing.jpg"], top=2)
        >>> [guess.name for guess in cat.top]
        ['Egyptian cat', 'tiger cat']
        >>> missing.error
        'missing.jpg: no such file: check the path'

    """
    opened = open_model(model, mean=mean, std=std, resize=resize, crop=crop, fit=fit)
    predictor = Predictor(
        opened,
        engine=engine,
        device=device,
        threads=threads,
        batch=batch,
        fast=fast,
        labels=labels,
        tiles=tiles,
        overlap=overlap,
        sketch=sketch,
    )
    return predictor(sources, top=top, score=score, iou=iou, limit=limit, certain=certain, progress=progress)


def predict_iter(
    sources: Source | Iterable[Source],
    model: str | os.PathLike[str] | Model = "mobilenet_v2",
    *,
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
    sketch: str | os.PathLike[str] | None = None,
    mean: Colours | None = None,
    std: Colours | None = None,
    resize: int | None = None,
    crop: int | None = None,
    fit: Fit | None = None,
    progress: bool | Tracker | None = False,
    thumbnails: int = 0,
) -> PredictionStream:
    """Like ``predict``, but yields each answer as soon as its turn comes, in memory that does not grow.

    Args:
        sources: As for ``predict``; they are taken from their iterable a little ahead of the answers, or all at once
            with ``progress``, which has to count them.
        model: This and the other arguments are those of ``predict``.
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
        sketch: See ``predict``.
        mean: See ``predict``.
        std: See ``predict``.
        resize: See ``predict``.
        crop: See ``predict``.
        fit: See ``predict``.
        progress: See ``predict``; off unless asked for.
        thumbnails: The first so many answers bring their image along, in ``thumbnail``, since an address or standard
            input can be read only once.

    Returns:
        An iterator of answers, with the model's description in ``spec``. ``close`` ends it before its end.

    Raises:
        UsageError: For arguments that do not fit, before anything is read.
        FusiformError: For a model that cannot be opened, before anything is read.

    Example:
        >>> import fusiform
        >>> for answer in fusiform.predict_iter("examples", top=1):
        ...     print(answer.path, answer.top[0].name)
        examples/cat.jpg Egyptian cat
        examples/coffee.jpg espresso

    """
    opened = open_model(model, mean=mean, std=std, resize=resize, crop=crop, fit=fit)
    predictor = Predictor(
        opened,
        engine=engine,
        device=device,
        threads=threads,
        batch=batch,
        fast=fast,
        labels=labels,
        tiles=tiles,
        overlap=overlap,
        sketch=sketch,
    )
    return predictor.iter(
        sources,
        top=top,
        score=score,
        iou=iou,
        limit=limit,
        certain=certain,
        progress=progress,
        thumbnails=thumbnails,
    )
