"""ARM's kernels in an emulator: whole networks, answered bit for bit as the portable kernels answer them here.

Python writes each network as it lies in memory (``dump``), ``run_networks.c`` runs it. Needs Debian's qemu-user and
gcc-aarch64-linux-gnu, or the like.
"""

from __future__ import annotations

import ctypes
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fusiform.engines.native.checks import check_layers, check_weights
from fusiform.engines.native.compiled import load, usable_kernels
from fusiform.engines.native.engine import NativeEngine
from fusiform.engines.native.layers import Layer, Piece, Program
from fusiform.engines.native.plan import Network, plan
from fusiform.graph.tflite import to_tflite
from fusiform.zoo.model import open_model
from tests.engines.native_networks import int8_file, int8_graph, pictures, random_graph

ROOT = Path(__file__).parents[2]
COMPILER = shutil.which("aarch64-linux-gnu-gcc")
EMULATOR = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
EVERY = ["neon-i8mm", "neon-dotprod", "portable"]
# With both extensions, with dot products of signed bytes alone, and with neither.
PROCESSORS = {"max": EVERY, "neoverse-n1": EVERY[1:], "cortex-a72": EVERY[2:]}
LESS = {"neon-dotprod": 128}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not usable_kernels(), reason="the library was not compiled"),
    pytest.mark.skipif(
        not (COMPILER and EMULATOR), reason="no compiler for ARM (gcc-aarch64-linux-gnu) or no qemu-user"
    ),
]


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    """``run_networks.c`` with the library in it, for ARM."""
    sys.path.insert(0, str(ROOT))
    from hatch_build import FLAGS, FOLDER, SOURCES

    target = tmp_path_factory.mktemp("neon") / "run_networks"
    flags = [flag for flag in FLAGS if flag != "-shared"]
    sources = [ROOT / FOLDER / name for name in SOURCES]
    command = [COMPILER, *flags, "-Wall", "-Werror", "-static", f"-I{ROOT / FOLDER}", "-o", target, *sources]
    done = subprocess.run([*command, Path(__file__).with_name("run_networks.c"), "-lm"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


def emulated(runner, processor, *arguments):
    command = [EMULATOR, "-cpu", processor, runner, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def dump(path, file, less, batch, counts) -> None:
    """Write a network for vectors of 16 bytes: each part of its memory, which pointers lead to, and pictures."""
    program = Program(file)
    check_layers(program.layers, program.pieces)
    planned = plan(program.layers, program.pieces)
    layers, _ = program.packed(load(), 16, less)
    check_weights(layers, 16)
    network = Network(layers, program.pieces, planned, 0)
    parts = [(ctypes.addressof(network), ctypes.sizeof(network))]
    own = (Layer * len(layers)).from_address(network.layer)
    parts += [(network.layer, ctypes.sizeof(own)), (network.piece, ctypes.sizeof(Piece) * len(program.pieces) or 1)]
    parts += [(network.nearby, planned.widest), (network.window, 4 * 9)]
    first = min(network.picture, *(layer.map for layer in own if layer.map))
    parts.append((first, planned.size - 64))
    for layer in own:
        sizes = (1, layer.weight_size), (4, layer.bias_size), (4, layer.scale_size)
        starts = layer.weights, layer.biases, layer.scales
        parts += [(at, each * size) for at, (each, size) in zip(starts, sizes, strict=True) if at]
    head = struct.pack("<5q", len(parts), len(batch), batch.size, *(len(batch) * count for count in counts))
    with path.open("wb") as out:
        out.write(head)
        for part in parts:
            out.write(struct.pack("<2Q", *part) + ctypes.string_at(*part))
        out.write(batch.tobytes())


def files(small_spec, lived_in_state):
    """Networks of both families, and chains of any layers, each with its description and pictures."""
    for name in ("mobilenet_v2", "shufflenet_v2_x1_0"):
        model = open_model(name)
        yield model.spec, model.data, pictures(224, 1)
    for architecture, width, size, classes, padding in (
        ("mobilenet_v2", 0.35, 96, 10, "same"),
        ("mobilenet_v2", 0.5, 33, 1, "symmetric"),
        ("mobilenet_v2", 0.75, 97, 37, "same"),
        ("mobilenet_v2", 1.4, 64, 64, "symmetric"),
        ("shufflenet_v2", 0.5, 33, 2, "same"),
        ("shufflenet_v2", 1.0, 96, 65, "symmetric"),
        ("shufflenet_v2", 1.5, 47, 1000, "same"),
        ("shufflenet_v2", 2.0, 64, 17, "symmetric"),
    ):
        spec = small_spec(architecture, width, size=size, classes=classes, padding=padding)
        yield spec, int8_file(spec, lived_in_state, seed=size), pictures(size, 2, seed=size)
    for seed in range(100, 140):
        architecture = "shufflenet_v2" if seed % 2 else "mobilenet_v2"
        graph = random_graph(small_spec(architecture, size=32 + seed % 40, classes=seed - 95), seed)
        yield graph.spec, to_tflite(int8_graph(graph, seed)), pictures(graph.spec.input_size, 2, seed=seed)


def test_networks_are_answered_as_the_portable_kernels_answer_them(runner, small_spec, lived_in_state, tmp_path):
    wanted = {}
    for number, (spec, file, batch) in enumerate(files(small_spec, lived_in_state)):
        answers = NativeEngine(file, spec.replace(features=True), kernels="portable").run(batch)
        both = [answers[spec.output], answers["features"]]
        assert not np.array_equal(both[1], np.zeros_like(both[1]))
        for less in (0, 128):
            dump(tmp_path / f"{number}-{less}", file, less, batch, [values.shape[1] for values in both])
        wanted[number] = np.concatenate([values.ravel() for values in both])
    for processor, names in PROCESSORS.items():
        assert emulated(runner, processor) == names
        for name in names:
            if processor == "max" and name == "portable":
                continue  # the same instructions as on the others
            paths = [tmp_path / f"{number}-{LESS.get(name, 0)}" for number in wanted]
            emulated(runner, processor, name, *paths)
            for number, path in enumerate(paths):
                found = np.fromfile(f"{path}.out", np.float32)
                np.testing.assert_array_equal(found, wanted[number], err_msg=f"{name} on {processor}, network {number}")
                Path(f"{path}.out").unlink()
