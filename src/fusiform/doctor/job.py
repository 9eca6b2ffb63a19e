"""A dataset to all that is wrong with it: what ``fusiform doctor`` runs."""

from __future__ import annotations

import os

from fusiform.data.annotated import AnnotatedSet, AnnotationTask
from fusiform.data.dataset import DataSet
from fusiform.data.masks import Ignore
from fusiform.data.open import open_dataset, recognise
from fusiform.doctor.annotated import examine_annotated
from fusiform.doctor.classification import examine
from fusiform.doctor.clean import check_clean_folder, check_listable, write_clean_boxes, write_clean_list
from fusiform.doctor.findings import Diagnosis
from fusiform.errors import UsageError
from fusiform.progress import Tracker, tracker
from fusiform.spec import Task
from fusiform.zoo.model import Model


def diagnose(
    data: str | os.PathLike[str],
    *,
    task: Task | None = None,
    ignore: Ignore | None = None,
    root: str | os.PathLike[str] | None = None,
    model: str | os.PathLike[str] | Model | None = None,
    html: str | os.PathLike[str] | None = None,
    fix: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    progress: bool | Tracker | None = None,
) -> Diagnosis[DataSet] | Diagnosis[AnnotatedSet]:
    """Find what is wrong with a dataset before a model is trained on it.

    Every image is read once. Found are files that cannot be read or are unusual, images that are there more than once,
    within or across splits, and classes that are missing or too small; of bounding boxes and masks also those that are
    damaged, empty, outside their images or of another size.

    Args:
        data: For a classifier a folder with a folder for each class, also within train, val and test, a CSV file or
            tar shards; for a detector boxes of COCO, YOLO, Pascal VOC, LabelMe, CVAT, a CSV list or Hugging Face's
            metadata; for a segmenter Pascal VOC's masks, or the outlines of COCO, YOLO, LabelMe or CVAT; or a zip
            file of these.
        task: What the dataset is for; None is what it is laid out for.
        ignore: Of masks: ``"255"`` takes that value as pixels of no class, ``"none"`` as the last class; None is 255
            unless it seems to be a class, which is refused.
        root: The folder that the paths in a list begin in; None is the list's own.
        model: What to look for wrong labels with, by name, file or as ``fusiform.open_model`` has opened it; best one
            that was not trained on these images. For labels any classifier will do, such as ``"mobilenet_v2"``, for
            only its features are used. For boxes a detector and for masks a segmenter that knows the dataset's classes.
        html: Where to write a page that shows the images in question, with the boxes and masks on them.
        fix: Where to write what is left without the images that cannot be used and without copies: a CSV file with a
            list of images, or for boxes a new folder with COCO's JSON. No image is touched.
        threads: The number of cores to use; None is all.
        progress: Whether to show how far it is; None does on a terminal and in a notebook.

    Returns:
        The findings, errors first, then warnings, then notes; and ``clean``, the dataset without what training should
        not see.

    Raises:
        UsageError: For what is no dataset for the task, and for arguments that do not fit.
        FusiformError: For a model that cannot be opened.
        OutputError: For a page, a list or a folder that cannot be written.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> import fusiform
        >>> folder = Path(mkdtemp())
        >>> photograph = Path("examples/cat.jpg").read_bytes()
        >>> for name in ("cat", "dog"):
        ...     (folder / name).mkdir()
        ...     size = (folder / name / "1.jpg").write_bytes(photograph)
        >>> diagnosis = fusiform.diagnose(folder)
        >>> diagnosis.count("error")
        1
        >>> diagnosis.findings[0].kind
        'contradictory labels'

    """
    task = task or recognise(data) or "classification"
    if ignore is not None and task != "segmentation":
        raise UsageError(f"--ignore is for masks, and {data} is for {task}: leave it out")
    diagnosis: Diagnosis[DataSet] | Diagnosis[AnnotatedSet]
    if task == "classification":
        diagnosis = _of_labels(data, root=root, model=model, fix=fix, threads=threads, progress=tracker(progress))
    else:
        diagnosis = _of_annotations(
            data, task, ignore=ignore, root=root, model=model, fix=fix, threads=threads, progress=tracker(progress)
        )
    if html is not None:
        diagnosis.page().write(html)
    return diagnosis


def _of_labels(
    data: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None,
    model: str | os.PathLike[str] | Model | None,
    fix: str | os.PathLike[str] | None,
    threads: int | None,
    progress: Tracker,
) -> Diagnosis[DataSet]:
    with progress(total=None, label="read the dataset"):
        dataset = open_dataset(data, task="classification", root=root)
    if fix is not None:
        check_listable(dataset, fix)
    diagnosis = examine(dataset, model=model, threads=threads, progress=progress)
    if fix is not None:
        write_clean_list(diagnosis, fix)
    return diagnosis


def _of_annotations(
    data: str | os.PathLike[str],
    task: AnnotationTask,
    *,
    ignore: Ignore | None,
    root: str | os.PathLike[str] | None,
    model: str | os.PathLike[str] | Model | None,
    fix: str | os.PathLike[str] | None,
    threads: int | None,
    progress: Tracker,
) -> Diagnosis[AnnotatedSet]:
    if fix is not None:
        check_clean_folder(task, fix)
    diagnosis = examine_annotated(data, task, ignore=ignore, root=root, model=model, threads=threads, progress=progress)
    if fix is not None:
        write_clean_boxes(diagnosis, fix)
    return diagnosis
