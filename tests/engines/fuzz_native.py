"""Gives the native library layers that are changed at random, under the sanitizers; see ``test_native.py``.

python fuzz_native.py LIBRARY COUNT FILE...
"""

from __future__ import annotations

import ctypes
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from fusiform.engines.native import resize
from fusiform.engines.native.checks import check_layers, check_weights
from fusiform.engines.native.compiled import load
from fusiform.engines.native.layers import Layer, OtherNetworkError, Piece, Program
from fusiform.engines.native.plan import Network, plan
from fusiform.zoo.model import open_model

PLANNED = ("step", "expand", "project", "add", "rows", "within")
NUMBERS = [name for name, kind in Layer._fields_ if kind is ctypes.c_int32 and name not in PLANNED]
SIZES = ("weight_size", "bias_size", "scale_size")
VALUES = (
    -(2**31),
    -129,
    -128,
    -1,
    0,
    1,
    2,
    3,
    7,
    15,
    16,
    17,
    31,
    64,
    127,
    128,
    255,
    4096,
    8192,
    8193,
    2**20,
    2**31 - 1,
)
MOST_PIXELS = 128 * 128


def attempt(library, kernels, layers, pieces, given) -> str:
    try:
        check_layers(layers, pieces)
        check_weights(layers, library.fusiform_native_bytes(kernels))
        network = Network(layers, pieces, plan(layers, pieces), kernels)
    except OtherNetworkError:
        return "refused"
    handle = ctypes.byref(network)
    height, width, classes = layers[0].height, layers[0].width, layers[-1].channels
    answers = np.empty(classes, np.float32)
    pixels = np.resize(given, 3 * height * width)
    for size, count in ((pixels.size - 1, classes), (pixels.size, classes + 1), (-1, classes)):
        assert library.fusiform_native_run(handle, pixels.ctypes.data, size, answers.ctypes.data, count, None, 0, 1)
    if height * width <= MOST_PIXELS:
        features = np.empty(layers[layers[-1].source].channels, np.float32)
        run = pixels.ctypes.data, pixels.size, answers.ctypes.data, classes, features.ctypes.data
        assert library.fusiform_native_run(handle, *run, features.size + 1, 1)
        assert not library.fusiform_native_run(handle, *run, features.size, 1)
    return "ran"


def packed(program, library, kernels):
    return copies(program.packed(library, library.fusiform_native_bytes(kernels))[0], Layer)


def copies(items, kind):
    return [kind.from_buffer_copy(item) for item in items]


def change(layers, pieces, random) -> None:
    """One to three numbers of one layer or piece, or two layers the other way round."""
    for _ in range(random.integers(1, 4)):
        what = random.integers(0, 10)
        layer = layers[random.integers(0, len(layers))]
        if what == 0 and pieces:
            setattr(pieces[random.integers(0, len(pieces))], random.choice(("source", "first", "end")), value(random))
        elif what == 1:
            setattr(layer, random.choice(SIZES), int(random.choice([-1, 0, 1, 27, 2**40, layer.weight_size + 1])))
        elif what == 2:
            setattr(layer, random.choice(("weights", "biases", "scales")), None)
        elif what == 3:
            layer.scale = float(random.choice([0, -1, np.inf, np.nan, 1e-30, 1e30, 0.02]))
        elif what == 4:
            i, j = random.integers(1, len(layers), 2)
            layers[i], layers[j] = layers[j], layers[i]
        elif what == 5:
            del layers[random.integers(0, len(layers))]
        elif what == 6:  # a picture of another size: everything after it follows
            layers[0].height, layers[0].width = (int(side) for side in random.integers(1, 90, 2))
        elif what == 7:
            layer.before, layer.after, layer.stride = (int(n) for n in random.integers(0, 3, 3))
        elif what == 8:
            layer.source = int(random.integers(0, len(layers)))
        else:
            setattr(layer, random.choice(NUMBERS), value(random))


def resize_some(library, kernels, random) -> int:
    """Resize pictures of random sizes with a set of kernels; the last one, portable, does not resize."""
    resize.load, resize.fast_kernels = lambda: library, lambda: kernels
    preprocess = open_model("mobilenet_v2").spec.preprocess
    resize._is_pillow.cache_clear()
    for crop in (224, 33, 31):
        for width, height in random.integers(1, 400, (20, 2)).tolist():
            image = Image.frombytes("RGB", (width, height), random.bytes(width * height * 3))
            resize.crop_pixels(image, replace(preprocess, crop=crop, resize=crop + 7))
    return int(resize._is_pillow())


def value(random) -> int:
    return int(random.choice(VALUES)) if random.integers(0, 2) else int(random.integers(-3, 40))


def main() -> None:
    library = load(Path(sys.argv[1]))
    assert library is not None
    programs = [Program(Path(name).read_bytes()) for name in sys.argv[3:]]
    kernels = [k for k in range(3) if library.fusiform_native_kernels(k)]
    random = np.random.default_rng(int(sys.argv[2]))
    given = random.integers(0, 256, 3 * 97 * 89, dtype=np.uint8)
    found = {"whole": 0, "ran": 0, "refused": 0, "kernels": len(kernels)}
    for program in programs:
        for k in kernels:
            assert attempt(library, k, packed(program, library, k), program.pieces, given) == "ran"
            found["whole"] += 1
    for _ in range(int(sys.argv[2])):
        program = programs[random.integers(0, len(programs))]
        k = int(random.choice(kernels))
        layers, pieces = packed(program, library, k), copies(program.pieces, Piece)
        change(layers, pieces, random)
        found[attempt(library, k, layers, pieces, given)] += 1
    found["resized"] = sum(resize_some(library, k, random) for k in kernels if k != max(kernels))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
