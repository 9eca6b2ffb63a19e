"""Making a model file of the project's own from weights of another framework."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from fusiform.data.masks import VOC_CLASSES
from fusiform.errors import FusiformError, SpecError, UsageError, WeightsError
from fusiform.files import write_file
from fusiform.graph.build import build_graph
from fusiform.graph.conventions import for_litert
from fusiform.graph.numbers import to_state
from fusiform.graph.shapes import state_shapes
from fusiform.graph.tflite_metadata import to_described_tflite
from fusiform.porting import deeplab_v3
from fusiform.porting.network import ForeignNetwork
from fusiform.porting.onnx import read_onnx
from fusiform.porting.tflite import read_tflite
from fusiform.spec import METADATA_KEY, Colours, Fit, ModelSpec, Preprocess
from fusiform.tables import MOBILENET_V2_WIDTHS, TRAITS
from fusiform.tasks.classification import read_labels
from fusiform.zoo.bounds import check_file
from fusiform.zoo.catalog import imagenet_labels
from fusiform.zoo.checkpoint import Network, State, guess_architecture, read_pth, read_safetensors, write_safetensors
from fusiform.zoo.kinds import what_else, what_folder
from fusiform.zoo.model import PICKLES, Model, open_model
from fusiform.zoo.stated import Stated, assumption, in_words

Format = Literal["TensorFlow Lite", "ONNX", "PyTorch", "safetensors"]

_NOTHING = Stated()
_DEFAULT_SIZE = 224
_DEEPLAB_SIZE = 513
_IMAGENET_CLASSES = 1000
"""TensorFlow's networks have one more, the background, before them."""


def port(
    foreign: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    labels: str | os.PathLike[str] | Sequence[str] | None = None,
    mean: Colours | None = None,
    std: Colours | None = None,
    resize: int | None = None,
    crop: int | None = None,
    fit: Fit | None = None,
    say: Callable[[str], None] | None = None,
) -> ModelSpec:
    """Make a model file of fusiform's own from weights of another framework.

    Args:
        foreign: A .tflite, .onnx, .pth or .safetensors file; ``read_foreign`` says what is read of it.
        out: The file to write, .safetensors or a float32 .tflite in the form that ``fusiform.export`` gives it.
        labels: The names of the classes in their order, or a UTF-8 file with one a line.
        mean: How images were prepared for the weights, where the file does not say it: see ``fusiform.open_model``.
            Assumed is ImageNet's mean, and 0.5 for weights of TensorFlow's.
        std: See ``fusiform.open_model``; likewise.
        resize: See ``fusiform.open_model``.
        crop: See ``fusiform.open_model``; the input's size where the file says it.
        fit: See ``fusiform.open_model``.
        say: Gets a line that tells what of these is assumed.

    Returns:
        The description that the new file has.

    Raises:
        UsageError: For another ending of ``out``, and for a preprocessing that is none, or of a file that says its own.
        WeightsError: For a file that is missing, damaged or of another network, and where ``out`` cannot be written.
            After an error there is no new or changed file.
        MissingExtraError: Where reading needs a package that is not installed.

    Example:
        >>> import fusiform
        >>> fusiform.port("ship/shufflenet_v2_x1_0_float32.onnx", "ported.safetensors")
        <ModelSpec shufflenet_v2_x1_0, classification, 1000 classes, 224 px>

    """
    out = Path(out)
    if isinstance(labels, (str, os.PathLike)):
        labels = read_labels(labels)
    ending = out.suffix.lower()
    if ending not in (".safetensors", ".tflite"):
        raise UsageError(f"{out}: a port is written as .safetensors or .tflite; end the name in one of them")
    stated = Stated(mean, std, resize, crop, fit)
    spec, state = read_foreign(Path(foreign), labels, stated=stated, say=say)
    try:
        graph = build_graph(spec, state)
    except WeightsError as error:
        raise WeightsError(f"{foreign}: {error}") from None
    if ending == ".safetensors":
        write_safetensors(out, state, spec)
        return spec
    graph = for_litert(graph)
    write_file(out, to_described_tflite(graph))
    return graph.spec


def read_foreign(
    path: Path,
    labels: Sequence[str] | None = None,
    *,
    stated: Stated = _NOTHING,
    say: Callable[[str], None] | None = None,
) -> tuple[ModelSpec, State]:
    """The spec and the weights, under torchvision's names, of a TensorFlow Lite, ONNX, .pth or .safetensors file.

    The file is recognised by its content. Networks are MobileNetV2 of any width and ShuffleNetV2; quantised weights
    are dequantised, normalisations folded, and a 1001st class, TensorFlow's background, is dropped. TensorFlow's
    DeepLabv3 on MobileNetV2 is read from a .safetensors file with its own names (``port_deeplab``). What a file does
    not say is ``stated``, or taken from where it must have been trained: ImageNet's mean and std where padding is
    symmetric, as in PyTorch, and 0.5 where it is TensorFlow's ``same``; in both, the central 87.5 % of the picture.
    ``labels`` name the classes in their order; without them a network of 1000 classes has ImageNet's. A file with a
    fusiform spec keeps it, but for the accuracy that was measured of an int8 network.

    Raises WeightsError for a file that is missing, damaged or of another network, and for a wrong number of labels;
    MissingExtraError where reading needs a package that is not installed.
    """
    path = Path(path)
    if path.is_dir():
        other = what_folder(path)
        raise WeightsError(f"{path}: {other or 'is a folder: name the model file in it'}")
    check_file(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror or error}): check the name") from None
    format_ = _recognise(path, data)
    if format_ != "PyTorch" and METADATA_KEY.encode() in data:
        return _read_own(path, labels, stated)

    origin = f"{path.name} (SHA-256 {hashlib.sha256(data).hexdigest()}), ported from {format_}"
    match format_:
        case "TensorFlow Lite":
            network = read_tflite(data, source=str(path))
        case "ONNX":
            network = read_onnx(path, data)
        case "PyTorch":
            network = _named(path, read_pth(path))
        case "safetensors":
            state = read_safetensors(path)[1]
            if deeplab_v3.is_deeplab(state):
                spec, state = _deeplab(path, state, labels, origin, stated)
                _tell(path, spec, stated.missing(), say)
                return spec, state
            network = _named(path, state)
    spec, state = _describe(path, network, labels, origin, stated)
    known = () if network.mean is None else ("mean", "std")
    _tell(path, spec, tuple(name for name in stated.missing() if name not in known), say)
    return spec, state


def _tell(path: Path, spec: ModelSpec, missing: tuple[str, ...], say: Callable[[str], None] | None) -> None:
    if say is not None and missing:
        say(assumption(str(path), spec.preprocess, missing))


def _deeplab(
    path: Path, arrays: State, labels: Sequence[str] | None, origin: str, stated: Stated
) -> tuple[ModelSpec, State]:
    """TensorFlow's DeepLabv3 as it was trained: 513 pixels, output stride 16, Pascal VOC's classes unless named."""
    state = deeplab_v3.port(arrays, source=str(path))
    classes = len(state["classifier.bias"])
    if labels is None and classes != len(VOC_CLASSES):
        raise WeightsError(f"{path}: has {classes} classes, not Pascal VOC's {len(VOC_CLASSES)}: name them in --labels")
    names = tuple(VOC_CLASSES if labels is None else labels)
    if len(names) != classes:
        raise WeightsError(f"{path}: {len(names)} labels for {classes} classes: give one for each, in order")
    half = (0.5, 0.5, 0.5)
    preprocess = stated.over(Preprocess(resize=_DEEPLAB_SIZE, crop=_DEEPLAB_SIZE, fit="pad", mean=half, std=half))
    shapes = {name: array.shape for name, array in state.items()}
    for width in MOBILENET_V2_WIDTHS:
        spec = ModelSpec(
            "mobilenet_v2",
            width,
            names,
            task="segmentation",
            input_size=preprocess.crop,
            padding="same",
            output_stride=16,
            preprocess=preprocess,
            provenance=origin,
        )
        if state_shapes(spec) == shapes:
            return spec, state
    raise WeightsError(f"{path}: is of no width of MobileNetV2 that fusiform knows: {MOBILENET_V2_WIDTHS}")


def _recognise(path: Path, data: bytes) -> Format:
    if (other := what_else(path, data)) is not None:
        raise WeightsError(f"{path}: {other}")
    if data[4:8] == b"TFL3":
        return "TensorFlow Lite"
    if data[8:9] == b"{":  # after the header's length
        return "safetensors"
    if data.startswith((b"PK\x03\x04", *PICKLES)):  # a zip archive, or a pickle as before PyTorch 1.6
        return "PyTorch"
    if data.startswith(b"\x08") or (data and path.suffix.lower() == ".onnx"):  # a protobuf that starts with ir_version
        return "ONNX"
    raise WeightsError(
        f"{path} is {'no' if data else 'empty, and no'} TensorFlow Lite, ONNX, PyTorch or safetensors file: "
        "fetch it again"
    )


def _read_own(path: Path, labels: Sequence[str] | None, stated: Stated) -> tuple[ModelSpec, State]:
    """A file that describes itself; other labels replace those it has, and another preprocessing is refused."""
    try:
        model = open_model(path, **stated._asdict())
        spec = model.spec.with_logits()  # as the weights answer, whatever the file does with them
        if model.format == "safetensors":
            state: State = model.state()
        else:
            state, quantised = _own_state(model)
            if quantised:  # what was measured was the int8 network
                origin = f"{spec.provenance}; dequantised from {path.name}".removeprefix("; ")
                spec = spec.replace(accuracy=(), provenance=origin)
    except FusiformError:
        raise
    except Exception as error:  # the formats' libraries raise many kinds for damaged files
        raise WeightsError(f"{path} is damaged ({type(error).__name__}: {error}): fetch or write it again") from None
    found = guess_architecture(state, source=str(path))
    if found.shapes() != Network(spec.architecture, spec.width, spec.num_classes, spec.input_channels).shapes():
        raise SpecError(
            f"{path} describes itself as {spec.name} with {spec.num_classes} classes, but its weights are those of "
            f"another network: write it again"
        )
    if labels is not None:
        _check_labels(path, labels, spec.num_classes)
        spec = spec.replace(labels=tuple(labels), label_ids=())
    return spec, state


def _own_state(model: Model) -> tuple[State, bool]:
    """The weights of a file that describes itself, and whether they were quantised.

    Another tool may have rewritten it since and left the description: then it is read as that tool's.
    """
    try:
        graph = model.graph()
    except WeightsError:
        read = read_tflite(model.data, source=str(model.path)) if model.format == "tflite" else None
        network = read or read_onnx(model.path, model.data)
        described = model.spec.preprocess
        normalised = (
            network.mean is None
            or network.std is None
            or (
                np.allclose(described.mean, network.mean, atol=1e-3)
                and np.allclose(described.std, network.std, atol=1e-3)
            )
        )
        if network.padding != model.spec.padding or not normalised:
            raise SpecError(f"{model.path}: its description and its layers differ: export it again") from None
        return network.state, False
    return {**to_state(graph)}, graph.quantization is not None


def _named(path: Path, state: State) -> ForeignNetwork:
    """A state with torchvision's names as it came, in torchvision's order and complete."""
    shapes = guess_architecture(state, source=str(path)).shapes()
    counted = {name: np.array(0, np.int64) for name in shapes if name.endswith(".num_batches_tracked")}
    ordered = {name: state[name] if name in state else counted[name] for name in shapes}
    return ForeignNetwork(ordered, "symmetric", _DEFAULT_SIZE)


def _describe(
    path: Path, network: ForeignNetwork, labels: Sequence[str] | None, origin: str, stated: Stated
) -> tuple[ModelSpec, State]:
    found = guess_architecture(network.state, source=str(path))
    state, classes = network.state, found.num_classes
    if classes == _IMAGENET_CLASSES + 1 and (labels is None or len(labels) == _IMAGENET_CLASSES):
        matrix = TRAITS[found.architecture].classifier
        state = state | {name: state[name][1:] for name in (f"{matrix}.weight", f"{matrix}.bias")}
        classes -= 1
        origin += ", class 0 (background) dropped"

    ids: tuple[str, ...] = ()
    if labels is not None:
        _check_labels(path, labels, classes)
        names = tuple(labels)
    elif classes == _IMAGENET_CLASSES:
        names, ids = imagenet_labels()
    else:
        names = tuple(f"class {k}" for k in range(classes))

    preprocess = Preprocess(resize=round(network.input_size * 256 / 224), crop=network.input_size)
    mean, std = network.mean, network.std
    if network.padding == "same" and mean is None:
        mean = std = 0.5
    if mean is not None and std is not None:
        preprocess = Preprocess(
            resize=preprocess.resize, crop=preprocess.crop, mean=(mean, mean, mean), std=(std, std, std)
        )
    own, preprocess = preprocess, stated.over(preprocess)
    if network.mean is not None and (own.mean, own.std) != (preprocess.mean, preprocess.std):
        raise UsageError(f"{path}: says itself how its values are normalised ({in_words(own)}): leave out mean and std")
    spec = ModelSpec(
        found.architecture,
        found.width,
        names,
        label_ids=ids,
        input_size=preprocess.crop,
        input_channels=found.input_channels,
        padding=network.padding,
        preprocess=preprocess,
        provenance=origin,
    )
    return spec, state


def _check_labels(path: Path, labels: Sequence[str], classes: int) -> None:
    if len(labels) != classes:
        raise WeightsError(
            f"{path} answers with {classes} classes, but {len(labels)} labels were given: give one for each"
        )
