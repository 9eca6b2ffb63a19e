"""What a model knows about itself, and carries inside every file that holds it."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from fusiform.errors import SpecError
from fusiform.fields import check_types, from_dict
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
        check_types(self, SpecError)
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
        check_types(self, SpecError)
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
    more). ``padding`` is part of the weights: ``same`` is TensorFlow's rule, asymmetric at stride 2. Logits are divided
    by ``temperature`` before they become probabilities (Guo et al., arXiv 1706.04599, Section 4.2).
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
    temperature: float = 1.0
    preprocess: Preprocess = field(default_factory=Preprocess)
    provenance: str = ""
    license: str = ""
    accuracy: tuple[Accuracy, ...] = ()
    version: int = SPEC_VERSION

    def __post_init__(self) -> None:
        check_types(self, SpecError)
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
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise SpecError(f"temperature must be a positive number, got {self.temperature}")
        if self.temperature != 1 and self.output != "logits":
            raise SpecError("temperature applies to logits; this model's file ends in a softmax")
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
        fields = dataclasses.asdict(self)
        if self.temperature == 1:
            del fields["temperature"]  # says nothing, and keeps the bytes of files from before there was one
        return json.dumps(fields, indent=indent, ensure_ascii=False)

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
            return from_dict(cls, fields, SpecError)
        except SpecError as error:
            raise SpecError(f"{source}: {error}") from None


def network_name(architecture: str, width: float) -> str:
    """``("shufflenet_v2", 0.5)`` -> ``shufflenet_v2_x0_5``."""
    return f"{architecture}_x{float(width)!r}".replace(".", "_")


def _is_unicode(text: str) -> bool:
    """False for what Python makes of a file name in another encoding."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
