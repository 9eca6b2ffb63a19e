"""MobileNetV2 and ShuffleNetV2, from a folder of photographs to a verified model."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from fusiform.advice.cards.job import card
    from fusiform.advice.drift import drift
    from fusiform.advice.plan import plan
    from fusiform.advice.suggest import suggest
    from fusiform.analysis import analyze
    from fusiform.benchmarking.job import benchmark
    from fusiform.doctor.job import diagnose
    from fusiform.embedding.classes import add_class
    from fusiform.embedding.index import Embeddings
    from fusiform.embedding.job import embed
    from fusiform.embedding.parts import embed_parts
    from fusiform.embedding.search import Matches, search
    from fusiform.evaluation.job import evaluate
    from fusiform.evaluation.parts import evaluate_parts
    from fusiform.exporting.demo.job import demo
    from fusiform.exporting.job import export
    from fusiform.exporting.verification.verify import verify
    from fusiform.porting.port import port
    from fusiform.prediction.predict import predict, predict_iter
    from fusiform.prediction.predictor import Predictor
    from fusiform.prediction.results import Prediction, Predictions
    from fusiform.prediction.streams.video import predict_video
    from fusiform.prediction.streams.watch import watch
    from fusiform.report import Report
    from fusiform.runs import Run, train
    from fusiform.scaling.parts import predict_parts
    from fusiform.selection.job import choose
    from fusiform.serving.client import Client
    from fusiform.serving.server import Server, serve
    from fusiform.spec import ModelSpec, Preprocess
    from fusiform.zoo.load import load
    from fusiform.zoo.model import Model, open_model

    __version__: str

__all__ = [
    "Client",
    "Embeddings",
    "Matches",
    "Model",
    "ModelSpec",
    "Prediction",
    "Predictions",
    "Predictor",
    "Preprocess",
    "Report",
    "Run",
    "Server",
    "__version__",
    "add_class",
    "analyze",
    "benchmark",
    "card",
    "choose",
    "demo",
    "diagnose",
    "drift",
    "embed",
    "embed_parts",
    "evaluate",
    "evaluate_parts",
    "export",
    "list_models",
    "load",
    "open_model",
    "plan",
    "port",
    "predict",
    "predict_iter",
    "predict_parts",
    "predict_video",
    "search",
    "serve",
    "suggest",
    "train",
    "verify",
    "watch",
]

# Imported when first asked for: "import fusiform" and "fusiform --help" load neither numpy nor a runtime.
_WHERE = {
    "Client": "fusiform.serving.client",
    "Embeddings": "fusiform.embedding.index",
    "Matches": "fusiform.embedding.search",
    "Model": "fusiform.zoo.model",
    "ModelSpec": "fusiform.spec",
    "Prediction": "fusiform.prediction.results",
    "Predictions": "fusiform.prediction.results",
    "Predictor": "fusiform.prediction.predictor",
    "Preprocess": "fusiform.spec",
    "Report": "fusiform.report",
    "Run": "fusiform.runs",
    "Server": "fusiform.serving.server",
    "add_class": "fusiform.embedding.classes",
    "analyze": "fusiform.analysis",
    "benchmark": "fusiform.benchmarking.job",
    "card": "fusiform.advice.cards.job",
    "choose": "fusiform.selection.job",
    "demo": "fusiform.exporting.demo.job",
    "diagnose": "fusiform.doctor.job",
    "drift": "fusiform.advice.drift",
    "embed": "fusiform.embedding.job",
    "embed_parts": "fusiform.embedding.parts",
    "evaluate": "fusiform.evaluation.job",
    "evaluate_parts": "fusiform.evaluation.parts",
    "export": "fusiform.exporting.job",
    "load": "fusiform.zoo.load",
    "open_model": "fusiform.zoo.model",
    "plan": "fusiform.advice.plan",
    "port": "fusiform.porting.port",
    "predict": "fusiform.prediction.predict",
    "predict_iter": "fusiform.prediction.predict",
    "predict_parts": "fusiform.scaling.parts",
    "predict_video": "fusiform.prediction.streams.video",
    "search": "fusiform.embedding.search",
    "serve": "fusiform.serving.server",
    "suggest": "fusiform.advice.suggest",
    "train": "fusiform.runs",
    "verify": "fusiform.exporting.verification.verify",
    "watch": "fusiform.prediction.streams.watch",
}


def list_models() -> list[str]:
    """The names that stand for a model everywhere, bundled and downloadable, sorted.

    Returns:
        The names, such as ``mobilenet_v2``; ``fusiform models`` says more about each.

    Raises:
        FusiformError: Never; the list needs no network.

    Example:
        >>> import fusiform
        >>> "mobilenet_v2" in fusiform.list_models()
        True

    """
    from fusiform.zoo.catalog import ALIASES, CATALOG

    return sorted({*ALIASES, *(name for name, weights in CATALOG.items() if not weights.unloadable)})


def __getattr__(name: str) -> object:
    if name == "__version__":
        from fusiform.machine import installed_version

        return installed_version() or "0+unknown"  # a checkout on the path, as torch.hub uses it
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(_WHERE[name])
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _OF_TRAIN:
            raise
        return _missing(name, error.name)
    value = globals()[name] = getattr(module, name)
    return value


# What the extra "train" brings, without which some of the functions cannot even be imported.
_OF_TRAIN = ("torch", "torchvision", "matplotlib", "tensorboard")


def _missing(name: str, package: str) -> Callable[..., NoReturn]:
    """A function that says what is missing when it is called: looking at a name is not to fail."""

    def function(*_: object, **__: object) -> NoReturn:
        from fusiform.errors import MissingExtraError

        raise MissingExtraError(package, "train", f"fusiform.{name}")

    function.__name__ = function.__qualname__ = name
    return function


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
