"""What a model knows about itself, and carries inside every file that holds it."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, Union

from fusiform.errors import SpecError
from fusiform.tables import SHUFFLENET_V2_CHANNELS

SPEC_VERSION = 1
METADATA_KEY = "fusiform.spec"
"""The name under which the JSON lies in a safetensors header, TFLite metadata or ONNX metadata_props."""

Architecture = Literal["mobilenet_v2", "shufflenet_v2"]
Padding = Literal["symmetric", "same"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
ColorOrder = Literal["rgb", "bgr"]
Task = Literal["classification"]
Output = Literal["logits", "probabilities"]


@dataclass(frozen=True)
class Preprocess:
    """The way from a decoded photograph to the network's input.

    ``resize`` is the length of the shorter side after resizing, ``crop`` the side of the central square, both in
    pixels. ``mean`` and ``std`` apply to values in [0, 1], in the order of ``color_order``.
    """

    resize: int = 256
    crop: int = 224
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    color_order: ColorOrder = "rgb"

    def __post_init__(self) -> None:
        _check_types(self)
        if self.resize < 1 or self.crop < 1:
            raise SpecError(f"preprocess: resize and crop must be at least 1 pixel, got {self.resize} and {self.crop}")
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            raise SpecError(f"preprocess: mean must be finite and std positive, got mean={self.mean}, std={self.std}")


@dataclass(frozen=True)
class Accuracy:
    """A measured accuracy: percentages over ``pictures`` photographs of ``dataset``, and who or what measured it."""

    dataset: str
    top1: float
    top5: float
    pictures: int
    source: str

    def __post_init__(self) -> None:
        _check_types(self)
        if not (0 <= self.top1 <= self.top5 <= 100 and self.pictures > 0):
            raise SpecError(
                f"accuracy on {self.dataset}: need 0 <= top1 <= top5 <= 100 and pictures > 0, "
                f"got {self.top1}, {self.top5}, {self.pictures}"
            )


@dataclass(frozen=True)
class ModelSpec:
    """Everything needed to use a model's weights correctly, and where they came from.

    ``labels`` are the class names in the order of the outputs; ``label_ids`` (empty, or one each) are their
    identifiers in the data set, WordNet ids for ImageNet. ``input_size`` is the square input's side in pixels (32 or
    more). ``padding`` is part of the weights: ``same`` is TensorFlow's rule, asymmetric at stride 2.
    """

    architecture: Architecture
    width: float
    labels: tuple[str, ...]
    task: Task = "classification"
    label_ids: tuple[str, ...] = ()
    input_size: int = 224
    input_channels: int = 3
    padding: Padding = "symmetric"
    output: Output = "logits"
    preprocess: Preprocess = field(default_factory=Preprocess)
    provenance: str = ""
    license: str = ""
    accuracy: tuple[Accuracy, ...] = ()
    version: int = SPEC_VERSION

    def __post_init__(self) -> None:
        _check_types(self)
        if self.version != SPEC_VERSION:
            raise SpecError(
                f"spec version {self.version} is not the version {SPEC_VERSION} that this fusiform reads: "
                "update fusiform, or write the file again with this version"
            )
        if not (math.isfinite(self.width) and self.width > 0):
            raise SpecError(f"width must be a positive number, got {self.width}")
        if self.architecture == "shufflenet_v2" and self.width not in SHUFFLENET_V2_CHANNELS:
            raise SpecError(f"shufflenet_v2 has widths {sorted(SHUFFLENET_V2_CHANNELS)}, not {self.width}")
        if not self.labels:
            raise SpecError("labels must name at least one class")
        for label in self.labels:
            if not _is_unicode(label):
                raise SpecError(f"label {label!r} is not Unicode text, so no file can hold it: rename the class")
        if self.label_ids and len(self.label_ids) != len(self.labels):
            raise SpecError(f"{len(self.label_ids)} label_ids for {len(self.labels)} labels: give none or one each")
        if self.input_size < 32:
            raise SpecError(f"input_size must be at least 32 pixels, got {self.input_size}")
        if self.preprocess.crop != self.input_size:
            raise SpecError(f"preprocess.crop is {self.preprocess.crop} but input_size is {self.input_size}")
        if self.input_channels < 1:
            raise SpecError(f"input_channels must be at least 1, got {self.input_channels}")

    @property
    def name(self) -> str:
        """The network with its width, as in the paper: ``mobilenet_v2_x0_35``."""
        return network_name(self.architecture, self.width)

    @property
    def num_classes(self) -> int:
        return len(self.labels)

    def replace(self, **changes: Any) -> ModelSpec:
        """A copy with some fields changed, checked like a new one."""
        return dataclasses.replace(self, **changes)

    def to_json(self, *, indent: int | None = None) -> str:
        """The JSON text that ``from_json`` reads back to an equal spec."""
        return json.dumps(dataclasses.asdict(self), indent=indent, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes, *, source: str = "spec") -> ModelSpec:
        """Read a spec; unknown, missing or wrong fields raise SpecError, which names ``source``, the file."""
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise SpecError(f"{source}: the model's description is not JSON ({error})") from None
        if isinstance(fields, dict) and isinstance(fields.get("version"), int) and fields["version"] > SPEC_VERSION:
            raise SpecError(
                f"{source}: written by a newer fusiform (spec version {fields['version']}, this one reads "
                f"{SPEC_VERSION}): update fusiform"
            )
        try:
            return _from_dict(cls, fields, "")
        except SpecError as error:
            raise SpecError(f"{source}: {error}") from None


def network_name(architecture: str, width: float) -> str:
    """``("shufflenet_v2", 0.5)`` -> ``shufflenet_v2_x0_5``."""
    return f"{architecture}_x{float(width)!r}".replace(".", "_")


T = TypeVar("T")


def _from_dict(cls: type[T], fields: object, where: str) -> T:
    if not isinstance(fields, dict):
        raise SpecError(f"{where or 'the description'} must be an object, got {_show(fields)}")
    known = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]  # cls is a dataclass
    if unknown := sorted(set(fields) - set(known)):
        raise SpecError(f"unknown field {where}{unknown[0]!r}; known are {', '.join(known)}")
    required = {
        name
        for name, field in known.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    if missing := sorted(required - set(fields)):
        raise SpecError(f"field {where}{missing[0]!r} is missing")
    hints = typing.get_type_hints(cls)
    return cls(**{name: _from_json_value(hints[name], value, f"{where}{name}") for name, value in fields.items()})


def _from_json_value(hint: Any, value: object, where: str) -> object:
    """Turn JSON's lists and objects into the tuples and dataclasses that the fields hold; leave the rest."""
    if dataclasses.is_dataclass(hint):
        return _from_dict(typing.cast("type[Any]", hint), value, f"{where}.")
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        args = typing.get_args(hint)
        item = args[0]
        return tuple(_from_json_value(item, entry, f"{where}[{i}]") for i, entry in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return _float(value, where)
    return value


def _check_types(instance: Any) -> None:
    for name, hint in typing.get_type_hints(type(instance)).items():
        value = getattr(instance, name)
        if typing.get_origin(hint) is tuple and isinstance(value, list):
            value = tuple(value)  # frozen all the way down
            object.__setattr__(instance, name, value)
        if hint is float and isinstance(value, int) and not isinstance(value, bool):
            object.__setattr__(instance, name, _float(value, name))
        elif not _fits(hint, value):
            raise SpecError(f"field {name!r} must be {_describe(hint)}, got {_show(value)}")


def _float(value: int, name: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise SpecError(f"field {name!r} is too large a number") from None


def _is_unicode(text: str) -> bool:
    """False for what Python makes of a file name in another encoding."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _fits(hint: Any, value: object) -> bool:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in args and not isinstance(value, bool)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if args[-1] is Ellipsis:
            return all(_fits(args[0], item) for item in value)
        return len(value) == len(args) and all(_fits(arg, item) for arg, item in zip(args, value, strict=True))
    if origin in (Union, types.UnionType):
        return any(_fits(arg, value) for arg in args)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _describe(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(repr(arg) for arg in args)
    if origin is tuple:
        inner = _describe(args[0])
        return f"a list of {inner}" if args[-1] is Ellipsis else f"a list of {len(args)} x {inner}"
    return {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}.get(hint, str(hint))


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
