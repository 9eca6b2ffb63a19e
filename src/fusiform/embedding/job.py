"""From images to their features: what ``fusiform embed`` runs."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from fusiform.embedding.index import Embeddings, Growing, Origin, check_ending, write_features
from fusiform.engines import EngineName
from fusiform.errors import InputError
from fusiform.prediction.predictor import Predictor
from fusiform.prediction.sources import Source
from fusiform.progress import Tracker
from fusiform.spec import Colours, Fit
from fusiform.zoo.model import Model, open_model


def embed(
    sources: Source | Iterable[Source],
    model: str | os.PathLike[str] | Model = "mobilenet_v2",
    *,
    out: str | os.PathLike[str] | None = None,
    engine: EngineName | None = None,
    device: str = "auto",
    threads: int | None = None,
    batch: int = 1,
    fast: bool = False,
    mean: Colours | None = None,
    std: Colours | None = None,
    resize: int | None = None,
    crop: int | None = None,
    fit: Fit | None = None,
    progress: bool | Tracker | None = None,
) -> Embeddings:
    """Compute the features of images: what a classifier's last layer reads, vectors that similar images have in common.

    An image that cannot be read stops no other.

    Args:
        sources: As for ``fusiform.predict``.
        model: A classifier: a name, a model file, the folder of a training run, or an opened model. Its file need not
            have been exported with features, unless it is a program (TorchScript, OpenVINO, ExecuTorch).
        out: A file to keep them in, ``.npz``, ``.npy`` (with its paths in ``FILE.npy.json``), ``.parquet`` or
            ``.csv``; None keeps them in memory.
        engine: See ``fusiform.predict``.
        device: See ``fusiform.predict``.
        threads: See ``fusiform.predict``.
        batch: See ``fusiform.predict``.
        fast: See ``fusiform.predict``.
        mean: See ``fusiform.open_model``.
        std: See ``fusiform.open_model``.
        resize: See ``fusiform.open_model``.
        crop: See ``fusiform.open_model``.
        fit: See ``fusiform.open_model``.
        progress: Whether to show how far it is; None does on a terminal and in a notebook.

    Returns:
        ``paths`` and ``features`` (images, C) float32 of the images that could be read, and the ``errors`` of the
        others. While they are computed the features lie in a temporary file: memory does not grow with them.

    Raises:
        UsageError: For arguments that do not fit, and a model without features.
        InputError: Where no image could be read.
        FusiformError: For a model that cannot be opened, and a file that cannot be written.

    Example:
        >>> import fusiform
        >>> found = fusiform.embed("examples", "shufflenet_v2_x1_0")
        >>> found.features.shape, found.features.dtype.name
        ((2, 1024), 'float32')

    """
    if out is not None:
        check_ending(out)
    opened = open_model(model, mean=mean, std=std, resize=resize, crop=crop, fit=fit)
    predictor = Predictor(opened, engine=engine, device=device, threads=threads, batch=batch, fast=fast, features=True)
    paths, errors = [], []
    with Growing(opened.spec.num_features) as rows:
        for answer in predictor.iter(sources, top=1, progress=progress):
            if answer.features is None:
                errors.append(answer.error or answer.path)
            else:
                rows.add(answer.features)
                paths.append(answer.path)
        features = rows.rows()
    if not paths:
        reason = f": {errors[0]}" if errors else ""
        raise InputError(f"no image could be read{reason}")
    name = str(opened.path) if isinstance(model, Model) else os.fspath(model)
    origin, file = Origin.of(opened, name), None if out is None else Path(out)
    if file is not None:
        write_features(paths, features, origin, file)
    return Embeddings(tuple(paths), features, origin, tuple(errors), file)
