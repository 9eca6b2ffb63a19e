"""Whose licences a model stands under: what its file says of the weights, and what packages say of themselves."""

from __future__ import annotations

import re
from importlib import metadata
from typing import Any

from fusiform.report import printable
from fusiform.spec import Task

_LIBRARIES = (
    *("ai-edge-litert", "click", "flatbuffers", "numpy", "pillow", "safetensors"),
    *("torch", "torchvision", "matplotlib", "tensorboard"),
)
"""What fusiform needs, and what training does beside."""

HUB = (
    *("apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "bsl-1.0", "isc", "mpl-2.0", "unlicense", "zlib"),
    *("cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0"),
)
"""Some identifiers of licences that Hugging Face knows (https://hf.co/docs/hub/repositories-licenses)."""

_FIELDS = ("License-Expression", "License", "Classifier")


def hub_licence(text: str) -> str | None:
    """The identifier of a licence in Hugging Face's list; None for what is not plainly one of it."""
    name = text.strip().lower()
    return name if name in HUB else None


def library_rows(task: Task, versions: dict[str, Any]) -> list[dict[str, str]]:
    """Packages that a model of this task is made with: their versions (those of ``versions`` first), and licences.

    The licences are those that the packages installed here state; a package that is not here states none.
    """
    rows = []
    for name in ("fusiform", *_LIBRARIES, *(("faster-coco-eval",) if task == "detection" else ())):
        version, licence = _stated(name)
        version = str(versions.get(name) or version)
        if version:
            rows.append({"package": name, "version": version, "licence": licence or "not stated"})
    return rows


def _stated(name: str) -> tuple[str, str]:
    """Version and licence by the metadata of a package (PEP 639, or the older fields); "" for both where it is none."""
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return "", ""
    version = str(about["Version"] or "")
    expression, given, classifiers = ([str(each) for each in about.get_all(name) or ()] for name in _FIELDS)
    if expression:
        return version, printable(expression[0])
    short = [each.rpartition(":: ")[2] for each in classifiers if re.match(r"License ::(?!.*OSI Approved$)", each)]
    text = "".join(given[:1]).strip()
    if text and "\n" not in text and len(text) <= 60:
        return version, printable(text)
    return version, printable(", ".join(short) or re.split(r"[\n.]", text)[0][:60])
