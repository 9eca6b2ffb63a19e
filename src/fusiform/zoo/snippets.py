"""Code that runs one model file in a language, without fusiform: ``fusiform info FILE --snippet python``.

``snippet_templates/`` has one program a language, to be read as such. In it lines between ``%% if A !B`` and ``%% end``
are for files with the property A and without B (one pair may lie in another), and ``@name@`` stands for a value.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from fusiform.data.preprocess import mean_color
from fusiform.errors import InputError, UsageError
from fusiform.report import printable
from fusiform.tables import ssd_map_sizes
from fusiform.zoo.info import precision_of, size_of
from fusiform.zoo.model import FileFormat, Model, open_model

Language = Literal["python", "js", "kotlin", "swift", "cpp"]
LANGUAGES: tuple[Language, ...] = get_args(Language)

TEMPLATES = Path(__file__).with_name("snippet_templates")

_FORMATS: Mapping[Language, tuple[FileFormat, ...]] = {
    "python": ("tflite", "onnx", "openvino", "torchscript", "executorch", "coreml"),
    "js": ("tflite", "onnx"),
    "kotlin": ("tflite", "onnx", "executorch"),
    "swift": ("tflite", "coreml"),
    "cpp": ("tflite", "onnx", "openvino", "torchscript"),
}
"""The kinds of file that have a runtime in the language."""

_PACKAGES: Mapping[FileFormat, str] = {
    "tflite": "ai-edge-litert",
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "torchscript": "torch",
    "executorch": "executorch",
    "coreml": "coremltools",
}
"""Python's package for each."""

# How a control character is written in a text, by its number.
_CONTROL = {"python": "\\x{:02x}", "js": "\\x{:02x}", "kotlin": "\\u{:04x}", "swift": "\\u{{{:x}}}", "cpp": "\\{:03o}"}

_WIDTH = 120

Reads = Literal["normalized", "uint8", "int8", "float_pixels", "image"]
"""What a file takes: numbers to be normalised, or pixels in one of four forms, ``int8`` those less 128."""


def write_snippet(model: str | os.PathLike[str] | Model, language: Language) -> str:
    """The code of a program that runs a model file on a photograph, in the file's own runtime.

    Its numbers, names and labels are the file's. Raises what ``open_model`` raises, and UsageError, which lists what
    there is, where the file has no runtime in the language or does not read photographs. Detectors' boxes and
    segmenters' masks are decoded in Python alone.
    """
    opened = open_model(model)
    _check(opened, language)
    reads = input_form(opened)
    text = (TEMPLATES / f"{language}.txt").read_text(encoding="utf-8")
    labels = [_literal(label, language) for label in opened.spec.labels]
    return _fill(text, _properties(opened, reads), _values(opened, reads, language), labels)


def languages_for(model: str | os.PathLike[str] | Model) -> tuple[Language, ...]:
    """The languages that ``write_snippet`` knows for a model file."""
    opened = open_model(model)
    found: list[Language] = []
    for language in LANGUAGES:
        with contextlib.suppress(UsageError):
            _check(opened, language)
            found.append(language)
    return tuple(found)


def _check(opened: Model, language: Language) -> None:
    spec = opened.spec
    if language not in _FORMATS:
        raise UsageError(f"there is no snippet in {language!r}; there are {', '.join(LANGUAGES)}")
    if opened.format not in _PACKAGES:
        raise InputError(
            f"{opened.path}: is a file of weights, which no other program runs: export it first, as in: "
            f"fusiform export {opened.path} --to onnx --out DIR"
        )
    if opened.format == "tflite" and size_of(opened) != len(opened.data):
        raise InputError(
            f"{opened.path}: is a web page with the model inside, which other programs do not read: export it first, "
            f"as in: fusiform export {opened.path} --to litert --out DIR"
        )
    if opened.format not in _FORMATS[language]:
        raise UsageError(f"{opened.path}: there is no {language} for it; there is {_languages(opened.format)}")
    if spec.task != "classification" and language != "python":
        raise UsageError(f"{opened.path}: is for {spec.task}; to decode its answers there is python alone")
    if language != "python" and spec.preprocess.resize < spec.preprocess.crop:
        raise UsageError(
            f"{opened.path}: its preprocessing leaves black around a photograph; there is python alone for that"
        )
    if spec.input_channels != 3:
        raise InputError(f"{opened.path}: reads {spec.input_channels} channels; snippets are for photographs, of 3")
    if language == "js" and opened.format == "tflite" and _input_type(opened) == "int8":
        raise InputError(
            f"{opened.path}: reads int8, as fusiform 0.1 wrote it, and LiteRT for JavaScript takes uint8 and float32: "
            f"export it again, or take {_languages(opened.format, but='js')}"
        )


def _languages(form: FileFormat, but: str = "") -> str:
    return ", ".join(name for name, formats in _FORMATS.items() if form in formats and name != but)


def input_form(opened: Model) -> Reads:
    """What the file takes, as the file itself says."""
    if opened.format == "coreml":
        return "image"
    if opened.format == "executorch":
        return "float_pixels" if precision_of(opened) == "int8" else "normalized"
    kinds: Mapping[str, Reads] = {"float32": "normalized", "uint8": "uint8", "int8": "int8"}
    return kinds[_input_type(opened)]


def _input_type(opened: Model) -> str:
    """The type of the numbers that the file takes, by numpy's name."""
    if opened.format == "tflite":
        from fusiform.graph.tflite import input_type

        return input_type(opened.data)
    if opened.format == "onnx":
        from fusiform.graph.onnx import reads_uint8

        return "uint8" if reads_uint8(opened.data, source=str(opened.path)) else "float32"
    if opened.format == "openvino":
        parameter = re.search(rb'type="Parameter".*?element_type="(\w+)"', opened.data, re.DOTALL)
        return "uint8" if parameter is not None and parameter[1] == b"u8" else "float32"
    return "float32"


def _properties(opened: Model, reads: Reads) -> set[str]:
    """What the conditions in the templates ask for."""
    spec = opened.spec
    found: set[str] = {
        opened.format,
        reads,
        spec.task,
        spec.output,
        spec.preprocess.fit,
        spec.preprocess.color_order,
        spec.scores,
    }
    if spec.align_corners:
        found.add("aligned")
    if spec.decoded:
        found.add("decoded")
    if spec.features:
        found.add("features")
    found.add("nhwc" if opened.format == "tflite" or reads == "uint8" else "nchw")
    if not spec.preprocess.antialias:
        found.add("sampled")
    if spec.temperature != 1 and spec.output == "logits":
        found.add("tempered")
    if spec.preprocess.resize < spec.preprocess.crop:
        found.add("small")
    if opened.format == "tflite":
        from fusiform.graph.tflite_metadata import read_label_file

        if read_label_file(opened.data, source=str(opened.path)) is not None:
            found.add("label_file")
    return found


def _values(opened: Model, reads: Reads, language: Language) -> dict[str, str]:
    """What the names in the templates stand for."""
    spec, preprocess, path = opened.spec, opened.spec.preprocess, opened.path
    side, first = spec.input_size, opened.format == "tflite" or reads == "uint8"
    shape = [1, side, side, 3] if first else [1, 3, side, side]
    mean, std = ([float(value) for value in values] for values in (preprocess.mean, preprocess.std))
    fill = list(mean_color(preprocess))
    if preprocess.color_order == "bgr":
        fill.reverse()
    return {
        "about": f"{printable(path.name)}: {spec.summary()}. Written by: fusiform info FILE --snippet {language}",
        "package": _PACKAGES[opened.format],
        "file": _literal(str(path), language),
        "file_name": _literal(path.name, language),
        "stem": _literal(path.stem, language)[1:-1],
        "resize": str(preprocess.resize),
        "crop": str(side),
        "RESAMPLING": preprocess.interpolation.upper(),
        "fill": f"({', '.join(map(str, fill))})",
        "fill_list": str(fill),
        "fill_bgr": ", ".join(map(str, fill[::-1])),
        "mean": str(mean),
        "std": str(std),
        "mean_list": ", ".join(map(str, mean)),
        "std_list": ", ".join(map(str, std)),
        "mean_list_f": ", ".join(f"{value}f" for value in mean),
        "std_list_f": ", ".join(f"{value}f" for value in std),
        "temperature": str(float(spec.temperature)),
        "shape": str(shape),
        "shape_list": ", ".join(map(str, shape)),
        "type": "uint8" if reads == "uint8" else "float32",
        "input": "pixels" if reads == "uint8" else "image",
        "output": spec.output,
        "outputs": str(list(spec.answers)),
        "num_features": str(spec.num_features),
        "cells": str([rows for rows, _ in ssd_map_sizes(side, side)]),
    }


def _literal(text: str, language: Language) -> str:
    """A text in quotes, as the language writes it."""
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    if language == "kotlin":
        quoted = quoted.replace("$", "\\$")
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda found: _CONTROL[language].format(ord(found[0])), quoted) + '"'


def _fill(text: str, properties: set[str], values: Mapping[str, str], labels: Sequence[str]) -> str:
    """The template with the lines that hold for a file, its values and its labels."""
    lines: list[str] = []
    conditions: list[bool] = []  # those around the line
    for line in text.splitlines():
        if line.startswith("%% if "):
            names = line.split()[2:]
            conditions.append(all((name.lstrip("!") in properties) != name.startswith("!") for name in names))
        elif line == "%% end":
            conditions.pop()
        elif all(conditions) and line.strip() == "@labels@":
            lines += _wrap(labels, line[: line.index("@")])
        elif all(conditions):
            lines.append(re.sub(r"@(\w+)@", lambda found: values[found[1]], line))
    return "\n".join(lines) + "\n"


def _wrap(items: Sequence[str], indent: str) -> list[str]:
    """A list's items with commas between them, in lines of up to 120 characters where the items are shorter."""
    lines = [indent]
    for k, item in enumerate(items):
        piece = item if k == len(items) - 1 else f"{item},"
        if lines[-1] != indent and len(lines[-1]) + 1 + len(piece) > _WIDTH:
            lines.append(indent)
        lines[-1] += piece if lines[-1] == indent else f" {piece}"
    return lines
