"""From a name or a file to a model that can be run: every kind of model file, read."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fusiform.errors import InputError, SpecError, UsageError, WeightsError
from fusiform.graph.flatbuffer import read_metadata
from fusiform.report import printable
from fusiform.spec import MAX_ACTIVATION_BYTES, MAX_LABELS, Colours, Fit, ModelSpec
from fusiform.zoo.bounds import check_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fusiform.graph.ir import Graph

FileFormat = Literal["tflite", "onnx", "safetensors", "pth", "torchscript", "openvino", "executorch", "coreml"]

PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""How PyTorch's files begin that are no zip archives, as before PyTorch 1.6: the pickle protocols."""

UNSTATED = ("mean", "std", "resize", "crop", "fit")
"""What weights that were saved without fusiform do not say of their preprocessing, as ``open_model`` calls it."""

PROGRAMS: tuple[FileFormat, ...] = ("torchscript", "openvino", "executorch", "coreml")
"""Formats that only their own runtime runs: the weights are not read back from them."""


@dataclass(frozen=True, repr=False)
class Model:
    """A model file, found and recognised: its spec is read, its weights when they are asked for.

    ``path`` is the file to open: of a folder (a web page, a Core ML package) the model inside, or the folder itself.

    Example:
        >>> import fusiform
        >>> model = fusiform.open_model("shufflenet_v2_x1_0")
        >>> model.format, model.state()["fc.weight"].shape
        ('tflite', (1000, 1024))

    """

    path: Path
    format: FileFormat
    spec: ModelSpec
    data: bytes
    """The file's bytes; empty for ``pth`` and ``coreml``, which are read by other means."""
    assumed: tuple[str, ...] = ()
    """What of ``spec.preprocess`` neither the file says nor the user stated: of ``mean``, ``std``, ``resize``, ``crop``
    and ``fit``. None of a file that describes itself."""

    def __post_init__(self) -> None:
        check_memory(self.spec, source=str(self.path))

    def __repr__(self) -> str:
        size = f", {len(self.data) / 1e6:.1f} MB" if self.data else ""
        return f"<Model {printable(self.path.name)}: {self.spec.summary()}, {self.format}{size}>"

    def graph(self) -> Graph:
        """The network as a graph, float32 or int8 as the file is; it answers logits, whatever the file does."""
        from fusiform.graph.build import build_graph

        if self.format in PROGRAMS:
            raise WeightsError(
                f"{self.path}: is a program for one runtime ({self.format}); take the model that it was exported from"
            )
        if self.format == "tflite":
            from fusiform.graph.tflite import from_tflite

            graph = from_tflite(self.data, source=str(self.path))
            return dataclasses.replace(graph, spec=graph.spec.with_logits())
        if self.format == "onnx":
            from fusiform.graph.onnx import from_onnx

            return from_onnx(self.data, source=str(self.path))
        state = self.state()
        try:
            return build_graph(self.spec, state)
        except WeightsError as error:
            raise WeightsError(f"{self.path}: {error}") from None

    def state(self) -> dict[str, NDArray[Any]]:
        """The weights in float32 under torchvision's names."""
        from fusiform.graph.numbers import to_state
        from fusiform.zoo.checkpoint import read_pth, read_safetensors

        if self.format == "pth":
            return read_pth(self.path)
        if self.format == "safetensors":
            return read_safetensors(self.path)[1]
        return to_state(self.graph())

    def tflite(self, *, features: bool = False) -> bytes:
        """The model as a file that LiteRT runs, a classifier's ``features`` among its answers where that is asked."""
        if self.format == "tflite":
            if not features or self.spec.features:
                return self.data
            from fusiform.graph.tflite_features import add_features

            return add_features(self.data, self.spec, source=str(self.path))
        from fusiform.graph.tflite import to_tflite

        return to_tflite(self._answering(features))

    def onnx(self, *, features: bool = False) -> bytes:
        """The model as a file that ONNX Runtime runs, likewise."""
        if self.format == "onnx":
            if not features or self.spec.features:
                return self.data
            from fusiform.graph.onnx import add_features

            return add_features(self.data, self.spec, source=str(self.path))
        from fusiform.graph.onnx import to_onnx

        return to_onnx(self._answering(features))

    def _answering(self, features: bool) -> Graph:
        graph = self.graph()
        return replace(graph, spec=graph.spec.replace(features=True)) if features else graph


_FEW_VALUES = 128
"""No network here holds as many values for a pixel of its input, at width 1; MobileNetV2 holds 31."""


def check_memory(spec: ModelSpec, *, source: str) -> None:
    """Raise SpecError for a network that holds more than ``MAX_ACTIVATION_BYTES`` while it answers one picture."""
    answers = 4 * sum(map(math.prod, spec.answers.values()))
    values = _FEW_VALUES * max(1, spec.width) + spec.input_channels
    if answers + 4 * values * spec.input_size**2 <= MAX_ACTIVATION_BYTES:
        return
    from fusiform.graph.build import outline
    from fusiform.graph.memory import peak_memory

    needed = answers + (0 if answers > MAX_ACTIVATION_BYTES else peak_memory(outline(spec)).bytes)
    if needed > MAX_ACTIVATION_BYTES:
        raise SpecError(
            f"{source}: {spec.summary()}, would hold {needed / 1e6:,.0f} MB of activations for one picture, and no "
            f"more than {MAX_ACTIVATION_BYTES / 1e6:,.0f} MB are used: take smaller pictures, or fewer classes"
        )


def open_model(
    model: str | os.PathLike[str] | Model,
    *,
    mean: Colours | None = None,
    std: Colours | None = None,
    resize: int | None = None,
    crop: int | None = None,
    fit: Fit | None = None,
) -> Model:
    """Find a model by its name in the catalogue or its file, and read what it says of itself.

    Weights that were saved without fusiform do not say how images were prepared for them: ``mean`` to ``fit`` do.

    Args:
        model: Whatever looks like a path (a file that exists, the folder of a training run, or a name with a folder or
            a model file's ending) is read; any other name is looked up in the catalogue, and downloaded if it has to
            be. A model that was opened before is returned as it is.
        mean: What is subtracted from values in [0, 1]: a number, or three for red, green and blue. ImageNet's unless
            stated.
        std: What they are then divided by, likewise.
        resize: The shorter side before the crop, in pixels (256, or as much more than the crop).
        crop: The side of the square that the network sees, in pixels (224).
        fit: How an image comes into the square: ``crop``, ``stretch`` or ``pad``; see ``fusiform.Preprocess``.

    Returns:
        The model: its description is ``spec``; ``graph()`` and ``state()`` read its weights.

    Raises:
        UsageError: For an unknown name, and for a stated preprocessing that is none, or of a file that says its own.
        WeightsError: For a file that is missing, damaged or of no known kind.
        SpecError: For a file that does not say how to use it.

    Example:
        >>> import fusiform
        >>> fusiform.open_model("mobilenet_v2")
        <Model mobilenet_v2_x1_0.tflite: mobilenet_v2_x1_0, classification, 1000 classes, 224 px, tflite, 3.8 MB>

    """
    found = _found(model)
    if all(value is None for value in (mean, std, resize, crop, fit)):
        return found
    return _stated(found, mean, std, resize, crop, fit)


def _found(model: str | os.PathLike[str] | Model) -> Model:
    if isinstance(model, Model):
        return model
    name = os.fspath(model)
    path = Path(name)
    if looks_like_a_file(name):
        return _read(path, None)
    from fusiform.zoo.catalog import BUNDLED_FOLDER, find_weights

    try:
        weights = find_weights(name)
    except InputError:
        if name and path.is_dir():
            return _read(_model_inside(path), None)  # which says what is wrong with the folder
        raise
    if weights.bundled:
        return _read(BUNDLED_FOLDER / weights.file, None)
    from fusiform.zoo.fetch import fetch

    weights.check_loadable()
    return _read(fetch(weights), weights.spec())


def _stated(
    model: Model,
    mean: Colours | None,
    std: Colours | None,
    resize: int | None,
    crop: int | None,
    fit: Fit | None,
) -> Model:
    """The model with the preprocessing that the user states, for weights that do not say it."""
    from fusiform.zoo.stated import Stated, in_words

    stated = Stated(mean, std, resize, crop, fit)
    if not model.assumed:
        raise UsageError(
            f"{model.path}: says itself how images are prepared ({in_words(model.spec.preprocess)}): leave out "
            f"{', '.join(stated.names)}"
        )
    preprocess = stated.over(model.spec.preprocess)
    spec = model.spec.replace(
        input_size=preprocess.crop,
        preprocess=preprocess,
        provenance=f"{model.path.name}, without a description: preprocessing as stated ({', '.join(stated.names)})",
    )
    return replace(model, spec=spec, assumed=stated.missing())


_SUFFIXES = (".tflite", ".onnx", ".safetensors", ".pth", ".pt", ".ckpt", ".xml", ".pte", ".mlpackage")


def looks_like_a_file(name: str) -> bool:
    """Whether a name is read as that of a file or folder, and not looked up in the catalogue."""
    path = Path(name)
    if path.is_file() or path.name != name or path.suffix in _SUFFIXES:
        return True
    if not name or not path.is_dir():
        return False
    from fusiform.zoo.kinds import what_folder

    return bool(_models_inside(path)) or what_folder(path) is not None


def _read(path: Path, spec: ModelSpec | None) -> Model:
    if path.is_dir():
        if (path / "Manifest.json").is_file():
            from fusiform.zoo.programs import read_coreml_spec

            return Model(path, "coreml", read_coreml_spec(path), b"")
        from fusiform.zoo.kinds import what_folder

        if (other := what_folder(path)) is not None:
            raise WeightsError(f"{path}: {other}")
        return _read(_model_inside(path), spec)
    check_file(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such model file; fusiform models lists the names there are") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from None
    if not data:
        raise WeightsError(f"{path}: the file is empty; download or write it again")
    if data[4:8] == b"TFL3":
        return _describe_tflite(path, data)
    from fusiform.zoo.kinds import what_else  # after LiteRT's files, whose first answer is not to wait for it

    if (other := what_else(path, data)) is not None:
        raise WeightsError(f"{path}: {other}")
    if data[:1] in (b"<", b"\xef", b"\xff"):
        from fusiform.zoo.pages import is_page, read_page_model

        if is_page(data):
            return _describe_tflite(path, read_page_model(data, source=str(path)))
    if data[8:9] == b"{":
        from fusiform.zoo.checkpoint import read_safetensors

        stored, state = read_safetensors(path)
        if stored is not None:
            return Model(path, "safetensors", stored, data)
        return Model(path, "safetensors", _guessed_spec(path, state), data, UNSTATED)
    from fusiform.zoo import programs

    if data[:2] == b"PK":
        from fusiform.zoo.archives import check_archive

        check_archive(data, source=str(path))
    if programs.is_torchscript(data):
        return Model(path, "torchscript", programs.read_torchscript_spec(data, source=str(path)), data)
    if programs.is_openvino(data):
        return Model(path, "openvino", programs.read_openvino_spec(data, source=str(path)), data)
    if programs.is_executorch(data):
        return Model(path, "executorch", programs.read_executorch_spec(data, source=str(path)), data)
    if data[:2] in (b"PK", *PICKLES) or path.suffix in (".pth", ".pt", ".ckpt"):
        from fusiform.zoo.checkpoint import read_pth

        if spec is not None:
            return Model(path, "pth", spec, b"")
        return Model(path, "pth", _guessed_spec(path, read_pth(path)), b"", UNSTATED)
    if path.suffix == ".onnx" or data[:1] == b"\x08":  # a protobuf that starts with ir_version
        from fusiform.graph.onnx import read_spec

        return Model(path, "onnx", read_spec(data, source=str(path)), data)
    raise WeightsError(
        f"{path}: not a model file that fusiform knows (.tflite, .safetensors, .onnx, .pth, TorchScript .pt, OpenVINO "
        ".xml, ExecuTorch .pte, Core ML .mlpackage)"
    )


def _describe_tflite(path: Path, data: bytes) -> Model:
    described = ModelSpec.from_json(read_metadata(data, source=str(path)), source=str(path))
    _check_label_file(path, data, described)
    return Model(path, "tflite", described, data)


_END_OF_ZIP = 22
_BEHIND_LABELS = 46 + len("labels.txt") + _END_OF_ZIP
"""The bytes of a zip archive's directory, with one file in it."""


def _check_label_file(path: Path, data: bytes, spec: ModelSpec) -> None:
    """The labels for other programs, where a file has them, are those of its spec: other programs would name others."""
    # As fusiform writes them: not compressed, and last. Importing zipfile would take longer than all else here.
    labels = "".join(f"{label}\n" for label in spec.labels).encode()
    archived = len(labels) + _BEHIND_LABELS
    if data[-archived : len(data) - _BEHIND_LABELS] == labels and data[-_END_OF_ZIP:].startswith(b"PK\5\6"):
        return
    try:
        read_metadata(data, source=str(path), key="TFLITE_METADATA")
    except SpecError:
        return
    from fusiform.graph.tflite_metadata import read_label_file

    found = read_label_file(data, source=str(path))
    if found is None:
        raise WeightsError(f"{path}: is cut off: the label file at its end is missing; download or export it again")
    if found != spec.labels:
        raise SpecError(f"{path}: its label file and its description name different classes; export it again")


def _model_inside(folder: Path) -> Path:
    """The model in a folder: a run's best weights, or the only model file there."""
    found = _models_inside(folder)
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found[:5])
        raise WeightsError(f"{folder}: is a folder with several models ({names}): name one")
    if (folder / "run.json").is_file():
        raise WeightsError(
            f"{folder}: holds a training that has no model yet: go on with fusiform train --resume --out {folder}"
        )
    raise WeightsError(
        f"{folder}: is a folder without a model in it: name a model file, the folder of a run, or one of the names "
        "that fusiform models lists"
    )


def _models_inside(folder: Path) -> list[Path]:
    if (folder / "best.safetensors").is_file():
        return [folder / "best.safetensors"]
    try:
        return sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES)
    except OSError:
        return []


def _guessed_spec(path: Path, state: dict[str, NDArray[Any]]) -> ModelSpec:
    """A spec for weights that come without one: the network from its shapes, and ImageNet's usual preprocessing."""
    from fusiform.zoo.catalog import imagenet_labels
    from fusiform.zoo.checkpoint import guess_architecture

    try:
        network = guess_architecture(state, source=str(path))
    except WeightsError as error:
        if any("/" in name for name in state):  # TensorFlow's names
            raise WeightsError(f"{error}. Files of other frameworks have to be ported first (fusiform port)") from None
        raise
    if network.input_channels != 3:
        raise SpecError(f"{path}: the network reads {network.input_channels} channels; photographs have 3")
    if network.num_classes > MAX_LABELS:
        raise SpecError(f"{path}: the network has {network.num_classes:,} classes; at most {MAX_LABELS:,} are read")
    names, ids = imagenet_labels() if network.num_classes == 1000 else ((), ())
    return ModelSpec(
        network.architecture,
        network.width,
        names or tuple(f"class {k}" for k in range(network.num_classes)),
        label_ids=ids,
        provenance=f"{path.name}, without a description: labels and preprocessing are torchvision's defaults",
    )
