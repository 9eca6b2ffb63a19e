"""Classifiers as LiteRT files in every form, for programs of other makers, and a photograph that needs no preparing."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

import fusiform
from fusiform.data.image import read_image
from fusiform.data.preprocess import crop_pixels
from fusiform.graph.conventions import for_litert
from fusiform.graph.numbers import to_float
from fusiform.graph.tflite_metadata import to_described_tflite
from fusiform.spec import Preprocess
from fusiform.zoo.catalog import BUNDLED_FOLDER
from fusiform.zoo.model import open_model

PHOTOGRAPH = Path(__file__).parents[2] / "examples" / "cat.jpg"
NETWORKS = ("mobilenet_v2_x1_0", "shufflenet_v2_x1_0")
FORMS = (
    "bundled",
    "float32",
    "float16",
    "int8",
    "float32 that reads normalised pictures",
    "float32, one mean for all colours",
    "int8, another temperature",
)
GOOGLES = "ported Google's"
CLASSIFIERS = (*(f"{network}: {form}" for network in NETWORKS for form in FORMS), GOOGLES)


@pytest.fixture(autouse=True)
def _mediapipe_runs_here(request: pytest.FixtureRequest) -> None:
    """MediaPipe's own library needs the system's libEGL and libGLESv2, which small machines have not."""
    if not request.module.__name__.startswith("test_mediapipe") or not sys.platform.startswith("linux"):
        return
    import mediapipe

    try:
        ctypes.CDLL(str(Path(mediapipe.__file__).parent / "tasks" / "c" / "libmediapipe.so"))
    except OSError as error:
        pytest.skip(f"MediaPipe does not run here: {error}")


class Client(NamedTuple):
    """A file to give to other programs, the pixels to show them (as large as the network's input), and our answer."""

    name: str
    path: Path
    pixels: NDArray[np.uint8]
    expected: tuple[tuple[str, float], ...]

    def check(self, answer: list[tuple[str, float]]) -> None:
        """The same five classes in the same order, and their probabilities."""
        assert [name for name, _ in answer] == [name for name, _ in self.expected]
        np.testing.assert_allclose([share for _, share in answer], [share for _, share in self.expected], atol=0.003)


@functools.cache
def write(name: str) -> bytes:
    """The bytes of one of ``CLASSIFIERS``, but for Google's."""
    network, form = name.split(": ")
    if form == "bundled":
        return (BUNDLED_FOLDER / f"{network}.tflite").read_bytes()
    graph = open_model(network).graph()
    spec = graph.spec
    if form.startswith("float"):
        graph = to_float(graph)
    if "one mean" in form:  # the colours change, and with them the answer: ours is of the same file
        spec = spec.replace(preprocess=Preprocess(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)))
    if "temperature" in form:
        spec = spec.replace(temperature=1.6)
    graph = dataclasses.replace(graph, spec=spec)
    pixels = False if "normalised" in form else None
    return to_described_tflite(for_litert(graph, pixels=pixels), half=form == "float16")


@pytest.fixture(params=CLASSIFIERS)
def classifier(request: pytest.FixtureRequest, tmp_path: Path) -> Client:
    path = tmp_path / "model.tflite"
    if request.param == GOOGLES:
        weights = request.getfixturevalue("shared_data") / "weights" / "mobilenet_v2_1.0_224_quant.tflite"
        fusiform.port(weights, path)
    else:
        path.write_bytes(write(request.param))
    pixels = crop_pixels(read_image(PHOTOGRAPH), open_model(path).spec.preprocess)
    answer = fusiform.predict(PHOTOGRAPH, model=path)[0].classification
    assert answer is not None
    return Client(request.param, path, pixels, tuple((guess.name, guess.probability) for guess in answer.top))
