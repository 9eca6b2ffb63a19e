"""The bytes of exported files, held to those of before: what changes them is seen in a review of ``bytes.json``.

After a change that is meant: FUSIFORM_WRITE_GOLDEN=1 pytest tests/exporting/test_bytes.py writes the file again.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from fusiform.exporting.targets.base import Precision
from fusiform.exporting.targets.targets import TARGETS
from fusiform.graph.conventions import for_litert
from fusiform.graph.numbers import to_float
from fusiform.porting.port import port
from fusiform.zoo.model import open_model

GOLDEN = Path(__file__).with_name("bytes.json")
# The formats that fusiform writes by itself: the bytes of the others change with their libraries' versions.
FORMATS = ("litert", "onnx")
PRECISIONS: tuple[Precision, ...] = ("float32", "float16", "int8")
DEEPLAB = "deeplab_v3_mobilenet_v2_voc_tf"


def digests(model: str | Path, folder: Path) -> dict[str, str]:
    """The SHA-256 of a model's file in each format and precision."""
    graph = open_model(model).graph()
    plain = to_float(graph)
    found = {}
    for target in FORMATS:
        if target == "onnx":
            pytest.importorskip("onnx")
        for precision in PRECISIONS:
            if precision == "int8" and graph.quantization is None:
                continue
            given = graph if precision == "int8" else plain
            made = TARGETS[target].writer()(for_litert(given) if target == "litert" else given, precision, folder)
            found[f"{target} {precision}"] = hashlib.sha256(made[0].path.read_bytes()).hexdigest()
    return found


def check(name: str, found: dict[str, str]) -> None:
    golden: dict[str, dict[str, str]] = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {}
    if os.environ.get("FUSIFORM_WRITE_GOLDEN"):
        GOLDEN.write_text(json.dumps({**golden, name: found}, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        return
    assert found == golden[name]


@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v2_x1_0"])
def test_bundled_networks_are_written_as_before(name: str, tmp_path: Path) -> None:
    check(name, digests(name, tmp_path))


def test_deeplab_is_written_as_before(shared_data: Path, tmp_path: Path) -> None:
    port(shared_data / "weights" / f"{DEEPLAB}.safetensors", tmp_path / "deeplab.safetensors")
    check(DEEPLAB, digests(tmp_path / "deeplab.safetensors", tmp_path))


@pytest.mark.parametrize("name", ["mobilenet_v2_x1_0", "shufflenet_v2_x1_0"])
def test_bundled_files_are_those_of_before(name: str) -> None:
    from fusiform.zoo.catalog import BUNDLED_FOLDER

    files = sorted(BUNDLED_FOLDER.glob(f"{name}*"))
    check(f"{name} bundled", {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files})
