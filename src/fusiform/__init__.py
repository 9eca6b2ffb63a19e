"""MobileNetV2 and ShuffleNetV2, from a folder of photographs to a verified model."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fusiform.prediction.predict import predict, predict_iter
    from fusiform.spec import ModelSpec, Preprocess
    from fusiform.zoo.load import load
    from fusiform.zoo.model import open_model

    __version__: str

__all__ = ["ModelSpec", "Preprocess", "__version__", "list_models", "load", "open_model", "predict", "predict_iter"]

# Imported when first asked for: "import fusiform" and "fusiform --help" load neither numpy nor a runtime.
_WHERE = {
    "ModelSpec": "fusiform.spec",
    "Preprocess": "fusiform.spec",
    "load": "fusiform.zoo.load",
    "open_model": "fusiform.zoo.model",
    "predict": "fusiform.prediction.predict",
    "predict_iter": "fusiform.prediction.predict",
}


def list_models() -> list[str]:
    """The names that ``predict``, ``load`` and the command line take as a model, bundled and downloadable, sorted."""
    from fusiform.zoo.catalog import ALIASES, CATALOG

    return sorted({*ALIASES, *(name for name, weights in CATALOG.items() if not weights.unloadable)})


def __getattr__(name: str) -> object:
    if name == "__version__":
        return _version()
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_WHERE[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("fusiform")
    except PackageNotFoundError:  # a checkout on the path, as torch.hub uses it
        return "0+unknown"
