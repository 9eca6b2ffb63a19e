"""Photographs of noise, and what is found in a dataset of them, for the tests of boxes and masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from fusiform.data.annotated import AnnotatedSet
from fusiform.doctor.findings import Diagnosis

WIDTH, HEIGHT = 200, 150


def photograph(seed: int, width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """Smooth noise with a grain of its own, which no other seed gives."""
    random = np.random.default_rng(seed)
    smooth = Image.fromarray(random.integers(0, 200, (7, 7, 3), np.uint8)).resize((width, height), 3)
    grain = random.normal(0, 12, (height // 5, width // 5, 1)).repeat(5, 0).repeat(5, 1)
    pixels = np.asarray(smooth).astype(float)
    pixels[: grain.shape[0], : grain.shape[1]] += grain
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def save(file: Path, seed: int, **size: int) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    photograph(seed, **size).save(file, quality=90)
    return file


def found(diagnosis: Diagnosis[AnnotatedSet]) -> set[tuple[str, str, str]]:
    """Severity, kind and file of every finding, the file from the dataset's folder on; without those about classes."""
    source = diagnosis.dataset.source
    return {
        (f.severity, f.kind, Path(f.path).relative_to(source).as_posix() if f.path else f.class_name or f.split or "")
        for f in diagnosis.findings
        if f.kind not in ("small class", "small", "imbalance")
    }


def message(diagnosis: Diagnosis[AnnotatedSet], kind: str) -> str:
    (one,) = (f.message for f in diagnosis.findings if f.kind == kind)
    return one
