"""What a model knows about itself, and carries inside every file that holds it."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fusiform.certainty import Certainty
from fusiform.errors import SpecError
from fusiform.fields import check_types, from_dict, show
from fusiform.tables import TRAITS, num_features, ssd_priors

SPEC_VERSION = 2
"""Version 1, which fusiform 0.1 wrote, had accuracies in percent; what has none is still written as that."""
METADATA_KEY = "fusiform.spec"
"""The name under which the JSON lies in a safetensors header, TFLite metadata or ONNX metadata_props."""
FEATURES = "features"
"""The name of a classifier's second answer."""
DECODED_BOXES = 100
"""How many boxes a decoded detector answers with, those that are none included."""

# What a description may ask for. It is text, and whoever wrote it may ask for any number: what opens a file of some
# kilobytes would make arrays of it. docs/reference/models.md has the same limits.
MAX_INPUT_SIZE = 4096
"""Pixels of the input's side, and of ``resize``; no network stays below ``MAX_ACTIVATION_BYTES`` with more."""
MAX_ACTIVATION_BYTES = 640_000_000
"""What a network may hold of activations and answers for one picture, in float32; see ``zoo.model.check_memory``.

With a runtime's own copies that is about 1 GB: MobileNetV2 1.0 at 2,200 pixels, ShuffleNetV2 x1.0 at 3,900.
"""
MAX_WIDTH = 4.0
"""The widest published network is 2.0 wide. Weights grow with the square: MobileNetV2 4.0 has 164 MB of them."""
MAX_LABELS = 100_000
"""ImageNet-21k has 21,841 classes; the matrix for 100,000 takes half a gigabyte."""
MAX_LABEL_LENGTH = 1000
"""Characters of a label or its identifier; the longest of ImageNet has 121."""
MAX_TEXT_LENGTH = 100_000
"""Characters of any other text, such as ``provenance``."""
MAX_CHANNELS = 256
"""Of the input: photographs have 3, hyperspectral cameras some 200."""
MAX_ACCURACIES = 1000
"""Entries of ``accuracy``: files have two."""
MAX_DESCRIPTION_BYTES = 1 << 24
"""Of the whole description as JSON: 100,000 labels of 150 characters."""
MAX_MODEL_BYTES = 1 << 30
"""Of a model file: the widest network with an optimiser's state and a moving average takes 656 MB."""
MAX_TENSORS = 20_000
"""Of a checkpoint: a network here has some 400, with an optimiser's state and a moving average four times as many."""

# Beyond these, no picture's answer is a number in float32.
_TEMPERATURES = (1e-3, 1e3)
_LARGEST_MEAN = 1e6
_STDS = (1e-6, 1e6)

Architecture = str
"""A key of ``tables.TRAITS``: ``mobilenet_v2`` or ``shufflenet_v2``."""
Padding = Literal["symmetric", "same"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
ColorOrder = Literal["rgb", "bgr"]
Task = Literal["classification", "detection", "segmentation"]
Output = Literal["logits", "probabilities"]
Colours = float | Sequence[float]
"""A number for each of the three channels, or one for all."""

Fit = Literal["crop", "stretch", "pad"]
Scores = Literal["softmax", "sigmoid"]


@dataclass(frozen=True)
class Preprocess:
    """The way from a decoded photograph to the network's input.

    ``crop`` is the side of the square that the network sees, in pixels, and ``fit`` how a photograph comes into it:
    ``crop`` cuts the central square out of the photograph whose shorter side was resized to ``resize``; ``stretch``
    squeezes all of it into the square, whatever its aspect; ``pad`` resizes its longer side to the square's, and fills
    the rest, at the right or the bottom, with the mean colour. ``resize`` equals ``crop`` but for ``crop``. ``mean``
    and ``std`` apply to values in [0, 1], in the order of ``color_order``.

    Example:
        >>> import fusiform
        >>> fusiform.open_model("mobilenet_v2").spec.preprocess.resize
        256

    """

    resize: int = 256
    crop: int = 224
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    color_order: ColorOrder = "rgb"
    fit: Fit = "crop"

    def __post_init__(self) -> None:
        check_types(self, SpecError)
        if self.resize < 1 or self.crop < 1:
            got = f"{show(self.resize)} and {show(self.crop)}"
            raise SpecError(f"preprocess: resize and crop must be at least 1 pixel, got {got}")
        for name, pixels in (("resize", self.resize), ("crop", self.crop)):
            if pixels > MAX_INPUT_SIZE:
                raise SpecError(f"preprocess: {name} must be at most {MAX_INPUT_SIZE} pixels, got {show(pixels)}")
        if self.fit != "crop" and self.resize != self.crop:
            raise SpecError(f"preprocess: fit={self.fit} needs resize equal to crop, got {self.resize}, {self.crop}")
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            raise SpecError(f"preprocess: mean must be finite and std positive, got mean={self.mean}, std={self.std}")
        if max(map(abs, self.mean)) > _LARGEST_MEAN or min(self.std) < _STDS[0] or max(self.std) > _STDS[1]:
            raise SpecError(
                f"preprocess: mean must be at most {_LARGEST_MEAN:g} and std {_STDS[0]:g} to {_STDS[1]:g}, got "
                f"mean={self.mean}, std={self.std}"
            )


@dataclass(frozen=True)
class Accuracy:
    """A measured accuracy: shares in [0, 1] of ``pictures`` photographs of ``dataset``, and who or what measured it."""

    dataset: str
    top1: float
    top5: float
    pictures: int
    source: str

    def __post_init__(self) -> None:
        check_types(self, SpecError)
        for name, text in (("dataset", self.dataset), ("source", self.source)):
            _check_text(f"accuracy: {name}", text)
        if not (0 <= self.top1 <= self.top5 <= 1 and self.pictures > 0):
            raise SpecError(
                f"accuracy on {show(self.dataset)}: need 0 <= top1 <= top5 <= 1 and pictures > 0, "
                f"got {self.top1}, {self.top5}, {show(self.pictures)}"
            )


@dataclass(frozen=True, repr=False)
class ModelSpec:
    """Everything needed to use a model's weights correctly, and where they came from.

    ``labels`` are the class names in the order of the outputs; ``label_ids`` (empty, or one each) are their
    identifiers in the dataset, WordNet ids for ImageNet. ``input_size`` is the square input's side in pixels (32 or
    more). ``padding`` is part of the weights: ``same`` is TensorFlow's rule, asymmetric at stride 2. Logits are divided
    by ``temperature`` before they become probabilities (Guo et al., arXiv 1706.04599, Section 4.2); where ``output`` is
    ``probabilities``, the file's own softmax has done so.

    A detector is SSDLite over ``architecture``. Its ``labels`` leave out the background, which its logits have first;
    ``scores`` is what makes scores of them. A segmenter is DeepLabv3 over ``architecture``, with ``aspp`` or without.
    Its logits, of which there is one for ``output_stride`` x ``output_stride`` pixels, are resized to the photograph:
    with ``align_corners`` the outermost ones stand on the outermost pixels.

    A file that is ``decoded`` ends in what users see, and not in the network's logits: a detector's boxes are decoded
    and suppressed inside, a segmenter's logits resized to its input and made probabilities.

    A classifier's file with ``features`` answers with those too: what its last layer reads, the averages of the last
    feature map.

    A classifier's ``certainty`` says which sets of names hold the right one, and which images show none of its classes;
    see ``fusiform.evaluate`` with ``calibrate``.

    Example:
        >>> import fusiform
        >>> spec = fusiform.ModelSpec("mobilenet_v2", 0.35, ("cat", "dog"))
        >>> spec.name, spec.replace(input_size=160, preprocess=fusiform.Preprocess(184, 160)).input_size
        ('mobilenet_v2_x0_35', 160)

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
    scores: Scores = "softmax"
    output_stride: int = 32
    aspp: bool = False
    align_corners: bool = True
    decoded: bool = False
    features: bool = False
    preprocess: Preprocess = field(default_factory=Preprocess)
    provenance: str = ""
    license: str = ""
    accuracy: tuple[Accuracy, ...] = ()
    certainty: Certainty | None = None
    version: int = SPEC_VERSION

    def __post_init__(self) -> None:
        check_types(self, SpecError)
        if self.version != SPEC_VERSION:
            raise SpecError(
                f"spec version {show(self.version)} is not the version {SPEC_VERSION} that this fusiform reads: "
                "update fusiform, or write the file again with this version"
            )
        if self.architecture not in TRAITS:
            known = ", ".join(map(repr, TRAITS))
            raise SpecError(f"field 'architecture' must be one of {known}, got {show(self.architecture)}")
        if not (math.isfinite(self.width) and self.width > 0):
            raise SpecError(f"width must be a positive number, got {self.width}")
        if self.width > MAX_WIDTH:
            raise SpecError(f"width must be at most {MAX_WIDTH:g}, got {self.width:g}")
        traits = TRAITS[self.architecture]
        if not traits.any_width and self.width not in traits.widths:
            raise SpecError(f"{self.architecture} has widths {list(traits.widths)}, not {self.width}")
        self._check_texts()
        if self.label_ids and len(self.label_ids) != len(self.labels):
            raise SpecError(f"{len(self.label_ids)} label_ids for {len(self.labels)} labels: give none or one each")
        if self.input_size < 32:
            raise SpecError(f"input_size must be at least 32 pixels, got {show(self.input_size)}")
        if self.input_size > MAX_INPUT_SIZE:
            raise SpecError(f"input_size must be at most {MAX_INPUT_SIZE} pixels, got {show(self.input_size)}")
        if self.preprocess.crop != self.input_size:
            raise SpecError(f"preprocess.crop is {self.preprocess.crop} but input_size is {self.input_size}")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise SpecError(f"temperature must be a positive number, got {self.temperature}")
        if not _TEMPERATURES[0] <= self.temperature <= _TEMPERATURES[1]:
            raise SpecError(
                f"temperature must be {_TEMPERATURES[0]:g} to {_TEMPERATURES[1]:g}, got {self.temperature:g}"
            )
        if self.input_channels < 1:
            raise SpecError(f"input_channels must be at least 1, got {show(self.input_channels)}")
        if self.input_channels > MAX_CHANNELS:
            raise SpecError(f"input_channels must be at most {MAX_CHANNELS}, got {show(self.input_channels)}")
        self._check_task()

    def _check_texts(self) -> None:
        if not self.labels:
            raise SpecError("labels must name at least one class")
        if len(self.labels) > MAX_LABELS:
            raise SpecError(f"labels must name at most {MAX_LABELS:,} classes, not {len(self.labels):,}")
        for label in self.labels:
            if not _is_unicode(label):
                raise SpecError(f"label {show(label)} is not Unicode text, so no file can hold it: rename the class")
        for name, texts in (("label", self.labels), ("label_id", self.label_ids)):
            if len(longest := max(texts, key=len, default="")) > MAX_LABEL_LENGTH:
                raise SpecError(f"a {name} has at most {MAX_LABEL_LENGTH} characters, not {len(longest):,}")
        if not _is_unicode("".join(self.label_ids)):
            raise SpecError("label_ids are not Unicode text, so no file can hold them")
        for name, text in (("provenance", self.provenance), ("license", self.license)):
            _check_text(name, text)

    def _check_task(self) -> None:
        strides = (8, 16) if self.task == "segmentation" else (32,)
        if self.output_stride not in strides:
            raise SpecError(
                f"{self.task}: output_stride must be {' or '.join(map(str, strides))}, got {show(self.output_stride)}"
            )
        if self.task != "classification" and self.output != "logits":
            raise SpecError(f"{self.task}: the output must be logits, got {self.output}")
        if self.task != "classification" and self.temperature != 1:
            raise SpecError(f"{self.task}: there is no temperature, got {self.temperature}")
        if self.task != "segmentation" and self.aspp:
            raise SpecError(f"{self.task}: aspp is for segmentation")
        if self.task != "detection" and self.scores != "softmax":
            raise SpecError(f"{self.task}: scores is for detection")
        if self.task == "classification" and self.decoded:
            raise SpecError(f"{self.task}: decoded is for detection and segmentation")
        if self.task != "classification" and self.features:
            raise SpecError(f"{self.task}: features is for classification")
        if self.certainty is not None:
            if self.task != "classification":
                raise SpecError(f"{self.task}: certainty is for classification")
            _check_text("certainty: source", self.certainty.source)
            self.certainty.check(self.num_classes, self.num_features)

    @property
    def backbone(self) -> str:
        """The backbone with its width, as in the paper: ``mobilenet_v2_x0_35``."""
        return network_name(self.architecture, self.width)

    @property
    def name(self) -> str:
        """The network with its width, as in the paper: ``mobilenet_v2_x0_35``, ``ssdlite_mobilenet_v2_x1_0``."""
        return {"classification": "", "detection": "ssdlite_", "segmentation": "deeplab_v3_"}[self.task] + self.backbone

    @property
    def answers(self) -> dict[str, tuple[int, ...]]:
        """The names of what an engine answers one picture with, and their shapes.

        Those of the network, unless the file is ``decoded``: a detector's gives the ``boxes`` (``DECODED_BOXES``, 4) as
        left, top, right and bottom in [0, 1], highest-scoring first, their ``labels`` and their ``scores``
        (``DECODED_BOXES``,), which are 0 where there is no box; a segmenter's ``probabilities`` (height, width,
        classes) at the size of its input.
        """
        if self.decoded and self.task == "detection":
            return {"boxes": (DECODED_BOXES, 4), "labels": (DECODED_BOXES,), "scores": (DECODED_BOXES,)}
        if self.decoded:
            return {"probabilities": (self.input_size, self.input_size, self.num_classes)}
        return self.network_answers

    @property
    def network_answers(self) -> dict[str, tuple[int, ...]]:
        """The names of what the network itself answers one picture with, and their shapes.

        A classifier gives ``logits`` or ``probabilities`` (classes,), and if asked to ``features`` (num_features,); a
        detector ``logits`` (priors, 1 + classes) and ``codes`` (priors, 4); a segmenter ``logits`` (rows, columns,
        classes).
        """
        if self.task == "detection":
            priors = ssd_priors(self.input_size)
            return {"logits": (priors, 1 + self.num_classes), "codes": (priors, 4)}
        if self.task == "segmentation":
            cells = math.ceil(self.input_size / self.output_stride)
            return {"logits": (cells, cells, self.num_classes)}
        features = {FEATURES: (self.num_features,)} if self.features else {}
        return {self.output: (self.num_classes,), **features}

    @property
    def num_classes(self) -> int:
        return len(self.labels)

    @property
    def num_features(self) -> int:
        """How many numbers a classifier's last layer reads: 1280 of MobileNetV2, above width 1 more; 1024 or 2048."""
        return num_features(self.architecture, self.width)

    def with_logits(self) -> ModelSpec:
        """The description of the same network without a softmax at its end: as its weights answer."""
        return self if self.output == "logits" else self.replace(output="logits")

    def summary(self) -> str:
        """The network, its task, classes and input in a line."""
        classes = f"{self.num_classes} class{'' if self.num_classes == 1 else 'es'}"
        return f"{self.name}, {self.task}, {classes}, {self.input_size} px"

    def __repr__(self) -> str:
        # The names of a thousand classes would bury everything else.
        return f"<ModelSpec {self.summary()}>"

    def replace(self, **changes: Any) -> ModelSpec:
        """A copy with some fields changed, checked like a new one."""
        return dataclasses.replace(self, **changes)

    def to_json(self, *, indent: int | None = None) -> str:
        """The JSON text that ``from_json`` reads back to an equal spec."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False)

    def to_dict(self) -> dict[str, Any]:
        """What ``to_json`` writes."""
        fields = dataclasses.asdict(self)
        # What says nothing is left out, which keeps the bytes of files from before there was such a field.
        for name in _LEFT_OUT:
            if fields[name] == _DEFAULTS[name]:
                del fields[name]
        if self.preprocess.fit == "crop":
            del fields["preprocess"]["fit"]
        if self.certainty is not None and self.certainty.reference is None:
            del fields["certainty"]["reference"]
        elif self.certainty is not None:
            for name in ("named", "together"):
                if not fields["certainty"]["reference"][name]:
                    del fields["certainty"]["reference"][name]
        if self.certainty is not None and self.certainty.decision is None:
            del fields["certainty"]["decision"]
        if not self.accuracy:
            fields["version"] = 1
        return fields

    @classmethod
    def from_json(cls, text: str | bytes, *, source: str = "spec") -> ModelSpec:
        """Read a spec; unknown, missing or wrong fields raise SpecError, which names ``source``, the file."""
        if len(text) > MAX_DESCRIPTION_BYTES:
            raise SpecError(
                f"{source}: the model's description has {len(text):,} bytes, and at most {MAX_DESCRIPTION_BYTES:,} are "
                "read: shorten its labels"
            )
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise SpecError(f"{source}: the model's description is not JSON ({error})") from None
        if isinstance(fields, dict) and isinstance(fields.get("version"), int) and fields["version"] > SPEC_VERSION:
            raise SpecError(
                f"{source}: written by a newer fusiform (spec version {show(fields['version'])}, this one reads "
                f"{SPEC_VERSION}): update fusiform"
            )
        measured = fields.get("accuracy") if isinstance(fields, dict) else None
        if isinstance(measured, list) and len(measured) > MAX_ACCURACIES:
            raise SpecError(f"{source}: field 'accuracy' has {len(measured):,} entries, at most {MAX_ACCURACIES:,}")
        if isinstance(fields, dict) and type(fields.get("version")) is int and fields["version"] == 1:
            fields = {**fields, "version": SPEC_VERSION, "accuracy": _as_shares(fields.get("accuracy", []))}
        try:
            return from_dict(cls, fields, SpecError)
        except SpecError as error:
            raise SpecError(f"{source}: {error}") from None


def _as_shares(accuracies: Any) -> Any:
    """The accuracies of version 1, which are in percent; what is none is left for the checks that follow."""
    if not isinstance(accuracies, list):
        return accuracies
    return [
        {
            name: round(value / 100, 12)
            if name in ("top1", "top5") and type(value) in (int, float) and abs(value) <= 100
            else value
            for name, value in each.items()
        }
        if isinstance(each, dict)
        else each
        for each in accuracies
    ]


_LEFT_OUT = ("temperature", "scores", "output_stride", "aspp", "align_corners", "decoded", "features", "certainty")
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(ModelSpec)}


def network_name(architecture: str, width: float) -> str:
    """``("shufflenet_v2", 0.5)`` -> ``shufflenet_v2_x0_5``."""
    return f"{architecture}_x{float(width)!r}".replace(".", "_")


def parse_network_name(name: str) -> tuple[Architecture, float] | None:
    """The other way round, whatever the width; None for what is not the name of an architecture with a width."""
    found = re.fullmatch(r"(\w+)_x(\d+)_(\d+)", name, re.ASCII)
    if found is None or found[1] not in TRAITS:
        return None
    return found[1], float(f"{found[2]}.{found[3]}")


def _check_text(name: str, text: str) -> None:
    if len(text) > MAX_TEXT_LENGTH:
        raise SpecError(f"{name} has at most {MAX_TEXT_LENGTH:,} characters, not {len(text):,}")
    if not _is_unicode(text):
        raise SpecError(f"{name} is not Unicode text, so no file can hold it: {show(text)}")


def _is_unicode(text: str) -> bool:
    """False for what Python makes of a file name in another encoding."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
