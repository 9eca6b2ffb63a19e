"""Weight files to numpy and back: the project's own safetensors, and other people's pickles.

A state here is a dict from torchvision's parameter names to arrays, in PyTorch's layouts.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import pathlib
import re
import types
import warnings
import zipfile
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from fusiform.errors import MissingExtraError, WeightsError
from fusiform.fields import show
from fusiform.files import write_file
from fusiform.graph.builder import Shape
from fusiform.graph.shapes import Shapes, expected_shapes
from fusiform.report import printable
from fusiform.spec import (
    MAX_CHANNELS,
    MAX_DESCRIPTION_BYTES,
    MAX_TENSORS,
    MAX_WIDTH,
    METADATA_KEY,
    Architecture,
    ModelSpec,
    network_name,
)
from fusiform.tables import TRAITS
from fusiform.zoo.foreign_names import choose, common_prefix, shown, torchvision_names

State = dict[str, NDArray[Any]]

# The types of a safetensors header that become numpy's; half and double precision become float32.
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}

# Where training scripts keep the weights in what they save; the moving average is the one they publish.
_NESTED = ("model_ema", "state_dict_ema", "ema_state_dict", "state_dict", "model_state_dict", "model")
_WRAPPERS = ("module.", "_orig_mod.")
_TORCH_DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
_MOST_GROWTH = 4
"""The most that tensors take of their file's bytes, times: half precision takes two, and some may share values."""
_SMALL = 16 << 20
"""Bytes that are never too many."""
_MAX_HEADER = (1 << 24) + MAX_DESCRIPTION_BYTES
"""Bytes of a safetensors file's header: 100,000 tensors, and a description."""
_MAX_DICTS = 256
"""Dicts in one checkpoint that are looked into."""
_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
"""The number that PyTorch's files began with before they were zip archives."""
# What archives of torch.export have, by its versions: the graph as JSON, or the version of its schema.
_EXPORTED = ("serialized_exported_program.json", "archive_format", "archive_version", "model.json")


def read_safetensors(path: str | os.PathLike[str]) -> tuple[ModelSpec | None, State]:
    """The spec (None in other people's files) and the state of a safetensors file, without PyTorch.

    Half, bfloat16 and double values come as float32, whole numbers as they are. Other people's names become
    torchvision's where a network fits (``torchvision_names``). Raises WeightsError for a missing or
    damaged file and SpecError for a spec that does not read.
    """
    data = _read_bytes(path)
    if (header := int.from_bytes(data[:8], "little")) > _MAX_HEADER:
        raise WeightsError(
            f"{path} is not a whole safetensors file (its header would have {header:,} bytes): fetch or export it again"
        )
    if (count := data.count(b'"data_offsets"', 8, 8 + header)) > MAX_TENSORS:
        raise WeightsError(_too_many(path, count))
    try:
        tensors = deserialize(data)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a whole safetensors file ({error}): fetch or export it again") from None
    if len(tensors) > MAX_TENSORS:  # whose header spells that word in another way
        raise WeightsError(_too_many(path, len(tensors)))
    state = {name: _array(path, name, tensor) for name, tensor in tensors}
    # deserialize has checked the header: its length in 8 bytes, then JSON.
    text = (json.loads(data[8 : 8 + header]).get("__metadata__") or {}).get(METADATA_KEY)
    if text is not None:
        spec = ModelSpec.from_json(text, source=str(path))
        _check_floats(path, state)
        return spec, state
    return None, _renamed(path, state)


def write_safetensors(path: str | os.PathLike[str], state: Mapping[str, NDArray[Any]], spec: ModelSpec) -> None:
    """Write a state and its spec; the same input gives the same bytes, and an existing file is replaced whole.

    Raises OutputError where the file cannot be written.
    """
    arrays = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in sorted(state.items())}
    write_file(path, save(arrays, metadata={METADATA_KEY: spec.to_json()}))


def read_pth(path: str | os.PathLike[str]) -> State:
    """The state in a PyTorch checkpoint; no code in it is ever run (``weights_only``).

    Takes a state dict, or a training checkpoint that holds one under any key (a moving average is preferred to the last
    weights), with any prefix; names become torchvision's where a network fits (``torchvision_names``). Half, bfloat16
    and double values come as float32. Raises WeightsError for anything else and MissingExtraError without PyTorch.
    """
    try:
        import torch
    except ImportError:
        raise MissingExtraError("PyTorch", "torch", f"reading {Path(path).name}") from None
    from fusiform.zoo.archives import check_archive
    from fusiform.zoo.pickled import HOLDS_MORE, check_pickles

    data = _read_bytes(path)
    if data.startswith(b"PK"):
        check_archive(data, source=str(path))
    _check_archive(path)
    if _newer_protocol(path) is None:  # else PyTorch reads nothing of it
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of Python, about escapes in old pickles' texts
            check_pickles(data, source=str(path))
    file_size = len(data)
    del data
    try:
        with torch.serialization.safe_globals(_plain_values()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old formats, which are no business of the user's
            loaded: object = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged files
        if found := re.search(r"\bGLOBAL (\S+)", str(error)):
            raise WeightsError(f"{path} {HOLDS_MORE.format(shown(found[1]))}") from None
        if (protocol := _newer_protocol(path)) is not None:
            raise WeightsError(
                f"{path} was saved with pickle protocol {protocol}, from which PyTorch reads nothing safely: load it "
                "where it was made and save it with torch.save(model.state_dict(), file), or ask for a safetensors file"
            ) from None
        raise WeightsError(
            f"{path} is damaged or no PyTorch state dict ({_first_sentence(error)}): fetch it again, or ask for a "
            "safetensors file"
        ) from None

    tensors = _find_state(path, loaded, torch.Tensor)
    _check_tensors(path, tensors, file_size)
    return _renamed(path, {name: _to_numpy(path, name, tensor) for name, tensor in tensors.items()})


def _too_many(path: str | os.PathLike[str], count: int) -> str:
    return f"{path}: has {count:,} tensors, and no network here has more than {MAX_TENSORS:,}: fetch another"


def _to_numpy(path: str | os.PathLike[str], name: str, tensor: Any) -> NDArray[Any]:
    try:
        plain = tensor.detach().resolve_neg()
        array: NDArray[Any] = (plain.float() if plain.is_floating_point() else plain).contiguous().numpy()
        return array
    except (RuntimeError, TypeError, ValueError, AttributeError, MemoryError) as error:  # of kinds that are yet to come
        raise WeightsError(
            f"{path}: {shown(name)} cannot be read ({_first_sentence(error)}): save it as a plain float32 tensor"
        ) from None


def _check_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Any], file_size: int) -> None:
    """WeightsError for tensors that hold no plain numbers, or together far more than the file has.

    One number, seen many times over, is a tensor of any size; thousands of tensors can be one that is seen in parts.
    """
    total = 0
    for name, tensor in tensors.items():
        if (kind := _odd_kind(tensor)) is not None:
            raise WeightsError(
                f"{path}: {shown(name)} is a {kind} tensor, which no network here takes: save the plain float weights"
            )
        total += 4 * tensor.numel()
        if total > _MOST_GROWTH * file_size + _SMALL:
            raise WeightsError(
                f"{path}: {shown(name)} has the shape {show(tuple(tensor.shape))}, and with it the tensors take "
                f"{total:,} bytes, of which a file of {file_size:,} bytes cannot hold its own for each: save "
                "{name: tensor.clone() for name, tensor in model.state_dict().items()}"
            )


def _odd_kind(tensor: Any) -> str | None:
    """What keeps a tensor of PyTorch's from being an array of numbers, in a word."""
    import torch

    if tensor.is_quantized or tensor.layout != torch.strided or tensor.is_nested:
        return "quantised or sparse"
    if tensor.is_meta:
        return "meta (it has no values)"
    if tensor.is_complex():
        return "complex"
    name = str(tensor.dtype).removeprefix("torch.")
    return None if name in _TORCH_DTYPES else name


class Network(NamedTuple):
    """What the names and shapes of a state say of its network."""

    architecture: Architecture
    width: float
    num_classes: int
    input_channels: int

    def shapes(self) -> Shapes:
        """The entries of its state dict, in torchvision's order."""
        return expected_shapes(
            self.architecture, self.width, num_classes=self.num_classes, input_channels=self.input_channels
        )


def guess_architecture(state: Mapping[str, NDArray[Any]], *, source: str = "the state dict") -> Network:
    """The network that a state with torchvision's names fits exactly; ``num_batches_tracked`` may be missing.

    Where an architecture has any width it is a published one if that fits, else the roundest number that does. Raises
    WeightsError, which names ``source`` and the first entries that are missing, unexpected or of another shape.
    """
    shapes = {name: tuple(array.shape) for name, array in state.items()}
    best: list[str] | None = None
    for network in _candidates(shapes):
        differences = _differences(shapes, network.shapes())
        if not differences:
            return network
        if best is None or len(differences) < len(best):
            best, nearest = differences, network_name(network.architecture, network.width)
    if best is None and "conv_stem.weight" in shapes:
        raise WeightsError(
            f"{source} has timm's names, but not exactly the layers of its mobilenetv2_035 to _140. EfficientNet, "
            "MobileNetV3 and the deeper mobilenetv2_110d and _120d have such names, too, and are not read"
        )
    if best is None:
        found = ", ".join(map(shown, list(shapes)[:3])) or "nothing"
        raise WeightsError(
            f"{source} is no {' or '.join(traits.title for traits in TRAITS.values())} with torchvision's names: it "
            f"has neither {' nor '.join(f'{traits.stem}.weight' for traits in TRAITS.values())}, but "
            f"{found}, ... Only these networks are read: save the state dict of one"
        )
    more = f" (and {len(best) - 3} more)" if len(best) > 3 else ""
    raise WeightsError(f"{source} does not fit {nearest}, the nearest network: {'; '.join(best[:3])}{more}")


def _candidates(shapes: Mapping[str, Shape]) -> Iterator[Network]:
    """The networks that a state may be of, by its first convolution: published widths first."""
    for architecture, traits in TRAITS.items():
        if (stem := shapes.get(f"{traits.stem}.weight")) is None:
            continue
        # A shape of another rank is told later, as a difference from what it should be.
        num_classes = (shapes.get(f"{traits.classifier}.weight") or (1000,))[0]
        input_channels = (*stem, 3, 3)[1]
        input_channels = input_channels if 0 < input_channels <= MAX_CHANNELS else 3
        for width in traits.widths:
            yield Network(architecture, width, num_classes, input_channels)
        if traits.any_width and (other := _other_width(architecture, shapes)) is not None:
            yield Network(architecture, other, num_classes, input_channels)


def _differences(shapes: Mapping[str, Shape], expected: Mapping[str, Shape]) -> list[str]:
    """What is missing, of another shape or unexpected, in words; empty where ``shapes`` fit."""
    missing = [
        f"{name} is missing" for name in expected if name not in shapes and not name.endswith(".num_batches_tracked")
    ]
    wrong = [
        f"{name} has shape {show(shapes[name])} where {shape} is expected"
        for name, shape in expected.items()
        if name in shapes and shapes[name] != shape
    ]
    return [*missing, *wrong, *(f"{shown(name)} is unexpected" for name in shapes if name not in expected)]


def _other_width(architecture: Architecture, shapes: Mapping[str, Shape]) -> float | None:
    """The width of fewest digits, up to four behind the point, whose layers are as wide as these together.

    Layers only grow with the width, so that no two sets of channels have the same sum.
    """

    def channels(step: int) -> int:
        return _channels(expected_shapes(architecture, step / 10_000))

    found, limit = _channels(shapes), 10_000
    while channels(limit) <= found and limit < MAX_WIDTH * 10_000:
        limit *= 2
    first = bisect_left(range(limit + 1), found, 1, key=channels)
    end = bisect_right(range(limit + 1), found, first, key=channels)
    roundest = (-(-first // digit) * digit for digit in (1000, 100, 10, 1))
    return next((step / 10_000 for step in roundest if step < end), None)


def _channels(shapes: Mapping[str, Shape]) -> int:
    """The channels that all convolutions make."""
    return sum(shape[0] for shape in shapes.values() if len(shape) == 4)


def _array(path: str | os.PathLike[str], name: str, tensor: Mapping[str, Any]) -> NDArray[Any]:
    kind, shape = tensor["dtype"], tuple(tensor["shape"])
    array: NDArray[Any]
    if kind != "BF16" and kind not in _DTYPES:
        raise WeightsError(
            f"{path}: {shown(name)} has the type {kind}, which no network here takes: save it as float32"
        )
    try:
        if kind == "BF16":  # the upper half of a float32
            array = (np.frombuffer(tensor["data"], "<u2").astype(np.uint32) << 16).view(np.float32)
            return array.reshape(shape)
        array = np.frombuffer(tensor["data"], _DTYPES[kind])
        return array.astype(np.float32 if kind in ("F64", "F16") else array.dtype.newbyteorder("=")).reshape(shape)
    except (ValueError, OverflowError):  # an empty tensor may have any other dimensions, and any number of them
        raise WeightsError(
            f"{path}: {shown(name)} has the shape {show(shape)}, which no network here has: fetch or export it again"
        ) from None


def fits_a_network(shapes: Mapping[str, Shape]) -> bool:
    """Whether entries with torchvision's names are exactly those of a network."""
    return any(not _differences(shapes, network.shapes()) for network in _candidates(shapes))


def _renamed(path: str | os.PathLike[str], state: State) -> State:
    """A state under torchvision's names, or as it is where no network fits, but for a prefix of all."""
    shapes = {name: tuple(array.shape) for name, array in state.items()}
    if names := torchvision_names(shapes, fits_a_network, source=str(path)):
        named = {theirs: state[own] for theirs, own in names.items()}
        _check_floats(path, named)
        return named
    prefix = common_prefix(state)
    return {name.removeprefix(prefix): array for name, array in state.items()}


def _check_floats(path: str | os.PathLike[str], state: State) -> None:
    """WeightsError for a network's weights in whole numbers: without their scale they are no weights."""
    for name, array in state.items():
        if array.dtype.kind != "f" and name.endswith((".weight", ".bias", ".running_mean", ".running_var")):
            raise WeightsError(
                f"{path}: {shown(name)} holds {array.dtype} numbers, and a network's weights are floats: save it as "
                "float32"
            )


def _find_state(path: str | os.PathLike[str], loaded: object, tensor_type: type[Any]) -> dict[str, Any]:
    """The dict of tensors in what a checkpoint holds, without the wrappers' prefixes.

    Usual keys first; where they lead to no network, any dict within whose tensors are exactly one.
    """
    usual = loaded
    for _ in range(3):  # as deep as any script's file; one made to harm could go round for ever
        if isinstance(usual, Mapping):
            usual = next((usual[key] for key in _NESTED if isinstance(usual.get(key), Mapping)), usual)
    if not isinstance(usual, Mapping):
        raise WeightsError(
            f"{path} holds a {type(loaded).__name__}, not a state dict: write one with "
            "torch.save(model.state_dict(), file)"
        )
    tensors = _unwrapped(usual)
    if _names_of(path, tensors, tensor_type):
        return _only_tensors(tensors, tensor_type)
    others = {
        where: _only_tensors(_unwrapped(held), tensor_type)
        for where, held in _mappings(loaded)
        if held is not usual and any(isinstance(value, tensor_type) for value in held.values())
    }
    found = {where: {where: where} for where, held in others.items() if _names_of(path, held, tensor_type)}
    if found:
        return others[next(iter(choose(found, source=str(path))))]
    other = next((name for name, value in tensors.items() if not isinstance(value, tensor_type)), None)
    if (other is not None or not tensors) and len(others) == 1:
        return next(iter(others.values()))
    if other is not None or not tensors:
        raise WeightsError(
            f"{path} holds no state dict: its entries are {', '.join(map(shown, list(tensors)[:5])) or 'none'}"
            + (f", and {shown(other)} is of type {type(tensors[other]).__name__}" if other is not None else "")
        )
    return tensors


def _names_of(path: str | os.PathLike[str], held: Mapping[str, Any], tensor_type: type[Any]) -> bool:
    """Whether the tensors among these values are a network's, under whatever names."""
    shapes = {name: tuple(value.shape) for name, value in held.items() if isinstance(value, tensor_type)}
    return bool(torchvision_names(shapes, fits_a_network, source=str(path)))


def _only_tensors(held: Mapping[str, Any], tensor_type: type[Any]) -> dict[str, Any]:
    return {name: value for name, value in held.items() if isinstance(value, tensor_type)}


def _unwrapped(held: Mapping[Any, Any]) -> dict[str, Any]:
    tensors = {str(name): value for name, value in held.items() if name != "n_averaged"}  # the moving average's count
    while tensors and (wrapper := next((w for w in _WRAPPERS if all(name.startswith(w) for name in tensors)), None)):
        tensors = {name.removeprefix(wrapper): value for name, value in tensors.items()}
    return tensors


def _mappings(loaded: object) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """The dicts within a checkpoint and the keys that lead to each; those that are reached first, and not for ever."""
    waiting: list[tuple[str, object]] = [("", loaded)]
    seen: set[int] = set()
    while waiting and len(seen) < _MAX_DICTS:
        where, held = waiting.pop(0)
        if isinstance(held, Mapping) and id(held) not in seen:
            seen.add(id(held))
            yield where, held
            inner = ((f"{where}.{key}".removeprefix("."), value) for key, value in held.items())
            waiting += [(key, value) for key, value in inner if isinstance(value, Mapping)][:_MAX_DICTS]


def _plain_values() -> list[Any]:
    """What scripts keep beside the weights, and what holds values alone: unpickling it runs no code of the file's.

    Classes of numpy's dtypes are named one by one, and functions that only make scalars and arrays of bytes by the
    places that numpy 1 and 2 have for them. Lightning's dict of hyperparameters is read as a plain one.
    """
    scalar, array = np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]
    kinds = [type(np.dtype(code)) for code in "?bBhHiIlLqQefdgFDSUmM"]
    lightning = (
        "pytorch_lightning.utilities.parsing",
        "lightning_fabric.utilities.data",
        "lightning.fabric.utilities.data",
    )
    return [
        *(
            argparse.Namespace,
            types.SimpleNamespace,
            (_plain_dict, "collections.defaultdict"),
            set,
            list,
            dict,
            int,
            float,
            str,
        ),
        *(datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone),
        *((pathlib.PurePosixPath, f"pathlib.{kind}") for kind in ("PosixPath", "PurePosixPath")),
        *((pathlib.PureWindowsPath, f"pathlib.{kind}") for kind in ("WindowsPath", "PureWindowsPath")),
        *(np.dtype, np.ndarray, *dict.fromkeys(kinds)),
        *((scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
        *((array, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
        *((dict, f"{module}.AttributeDict") for module in lightning),
    ]


def _plain_dict(*_: object) -> dict[str, Any]:
    """Stands for a dict with a default, whose entries follow in the pickle."""
    return {}


def _check_archive(path: str | os.PathLike[str]) -> None:
    """WeightsError for the archives that PyTorch writes and that hold no state dict: programs."""
    from fusiform.zoo.archives import DAMAGED_ZIP

    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except DAMAGED_ZIP:  # whoever reads it says so
        return
    if any("/code/" in name for name in names):
        raise WeightsError(
            f"{path} is a TorchScript program, code and weights in one: save its weights with "
            "torch.save(torch.jit.load(file).state_dict(), new_file), and give that file"
        )
    if any(name.rpartition("/")[2] in _EXPORTED for name in names):
        raise WeightsError(
            f"{path} is a program of torch.export: save its weights with "
            "torch.save(dict(torch.export.load(file).state_dict), new_file), and give that file"
        )


def _newer_protocol(path: str | os.PathLike[str]) -> int | None:
    """The pickle protocol of a PyTorch file where it is above 2, the one that torch.save has and safe loading reads."""
    from fusiform.zoo.archives import DAMAGED_ZIP

    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
                with archive.open(name) as file:
                    head = file.read(2)
        else:
            with Path(path).open("rb") as file:
                head = file.read(32)
            if _MAGIC not in head:  # a pickle, and none of PyTorch's
                return None
    except DAMAGED_ZIP:
        return None
    return head[1] if head[:1] == b"\x80" and head[1] > 2 else None


def _check_file(path: str | os.PathLike[str]) -> None:
    if not Path(path).is_file():
        raise WeightsError(f"{path}: there is no such file")


def _read_bytes(path: str | os.PathLike[str]) -> bytes:
    _check_file(path)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror or error})") from None


def _first_sentence(error: BaseException) -> str:
    """The first sentence of what torch says, less its advice to trust the file."""
    text = str(error).rpartition("WeightsUnpickler error:")[2].strip() or type(error).__name__
    return printable(re.split(r"\n|\. ", text)[0])
