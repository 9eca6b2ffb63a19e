"""The Python reference: which names stand under which heading; the text itself is that of the docstrings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import griffe

SOURCE = Path(__file__).resolve().parents[2] / "src"

GROUPS: dict[str, tuple[str, ...]] = {
    "Predict": ("predict", "predict_iter", "Predictor"),
    "Train and measure": ("train", "evaluate", "diagnose"),
    "Export and verify": ("export", "verify", "benchmark", "choose", "analyze", "port"),
    "Models": ("load", "open_model", "list_models", "ModelSpec", "Preprocess"),
}
"""The names of ``fusiform.__all__``; those that no group has come last."""

PARTS = (
    "fusiform.prediction.answer.Prediction",
    "fusiform.tasks.classification.Classification",
    "fusiform.tasks.classification.Guess",
    "fusiform.tasks.detection.Detections",
    "fusiform.tasks.detection.Box",
    "fusiform.tasks.segmentation.SegmentationMap",
    "fusiform.report.Report",
)
"""What results consist of; what the functions themselves return is found in their annotations."""

ERRORS = (
    "FusiformError",
    "UsageError",
    "ImageError",
    "SpecError",
    "WeightsError",
    "DownloadError",
    "OutputError",
    "MissingExtraError",
)


def render(_: str) -> str:
    """Markdown for mkdocstrings: every public name of the package, the results, and the errors."""
    package = griffe.load("fusiform", search_paths=[SOURCE])
    public = [str(name).strip("'") for name in package.exports or ()]
    groups = {title: [name for name in names if name in public] for title, names in GROUPS.items()}
    grouped = {name for names in groups.values() for name in names}
    groups["More"] = [name for name in public if name not in grouped]
    results = {path: None for name in public for path in _returned(package, name)}
    shown = {package[name].canonical_path for name in public}
    parts = []
    for title, names in groups.items():
        if names:
            parts += [f"## {title}", *(f"::: fusiform.{name}" for name in names)]
    parts += ["## Results", *(f"::: {path}" for path in (*results, *PARTS) if path not in shown)]
    parts += ["## Errors", *(f"::: fusiform.errors.{name}" for name in ERRORS)]
    return "\n\n".join(dict.fromkeys(parts))


def _returned(package: griffe.Module | griffe.Alias, name: str) -> Iterator[str]:
    """The classes of this package that a public function, or a public class's methods, return."""
    found = package[name]
    if found.is_alias:
        found = found.final_target
    functions = [found] if found.is_function else [member for member in found.members.values() if member.is_function]
    for function in functions:
        if function.returns is None or isinstance(function.returns, str):
            continue
        for part in function.returns.iterate(flat=True):
            path = part.canonical_path if isinstance(part, griffe.ExprName) else ""
            if path.startswith("fusiform.") and ".nets." not in path:
                yield path
