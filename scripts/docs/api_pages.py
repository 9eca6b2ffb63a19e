"""The Python reference: which names stand under which heading; the text itself is that of the docstrings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import griffe

SOURCE = Path(__file__).resolve().parents[2] / "src"

GROUPS: dict[str, tuple[str, ...]] = {
    "Predict": ("predict", "predict_iter", "predict_parts", "predict_video", "watch", "Predictor"),
    "Features and search": ("embed", "embed_parts", "search", "add_class", "Embeddings", "Matches"),
    "Train and measure": ("train", "evaluate", "evaluate_parts", "diagnose"),
    "Export and verify": ("export", "demo", "verify", "benchmark", "choose", "analyze", "port"),
    "Serve": ("serve", "Server", "Client"),
    "Models": ("load", "open_model", "list_models", "Model", "ModelSpec", "Preprocess"),
    "Results": ("Predictions", "Prediction", "Run", "Report"),
}
"""The names of ``fusiform.__all__``; those that no group has come under the last heading."""

PARTS = (
    "fusiform.prediction.answer.Answer",
    "fusiform.tasks.classification.Classification",
    "fusiform.tasks.classification.Guess",
    "fusiform.tasks.detection.Detections",
    "fusiform.tasks.detection.Box",
    "fusiform.tasks.segmentation.SegmentationMap",
    "fusiform.report.Report",
)
"""What results consist of; what else the functions return is found in their annotations."""

ERRORS = (
    "FusiformError",
    "UsageError",
    "InputError",
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
    paths = {title: [f"fusiform.{name}" for name in names] for title, names in groups.items()}
    returned = [path for name in public for path in _returned(package, name)]
    shown = {package[name].canonical_path for name in public}
    paths["Results"] += [path for path in (*returned, *PARTS) if path not in shown]
    paths["Errors"] = [f"fusiform.errors.{name}" for name in ERRORS]
    paths["Other"] = [f"fusiform.{name}" for name in public if name not in grouped]
    parts = []
    for title, listed in paths.items():
        if listed:
            parts += [f"## {title}", *(f"::: {path}" for path in dict.fromkeys(listed))]
    return "\n\n".join(parts)


def _returned(package: griffe.Module | griffe.Alias, name: str) -> Iterator[str]:
    """The classes of this package that a public function returns; PyTorch's modules are described elsewhere."""
    found = package[name]
    if found.is_alias:
        found = found.final_target
    if found.is_function and isinstance(found.returns, griffe.Expr):
        for path in _classes(found.returns):
            if path.startswith("fusiform.") and not path.startswith("fusiform.modules."):
                yield path


def _classes(annotation: griffe.Expr) -> Iterator[str]:
    """The names in an annotation, less what stands in brackets."""
    if isinstance(annotation, griffe.ExprSubscript):
        annotation = annotation.left
    if isinstance(annotation, griffe.ExprBinOp):
        for side in (annotation.left, annotation.right):
            if isinstance(side, griffe.Expr):
                yield from _classes(side)
    elif isinstance(annotation, griffe.ExprName):
        yield annotation.canonical_path
