"""TorchScript: files that PyTorch runs without Python, on servers in C++ and on phones.

``torch.jit`` is deprecated in favour of ExecuTorch and ``torch.export``, but what it writes still loads everywhere:
``torch::jit::load("NAME.scripted.pt")`` in C++, ``Module.load(path)`` of ``org.pytorch:pytorch_android`` on Android
(its lite interpreter reads another format), ``torch.jit.load("NAME.scripted.pt")`` in Python, and
``fusiform predict --model NAME.scripted.pt``, which takes labels and preprocessing from the file.
"""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
from pathlib import Path

import torch

from fusiform.errors import UsageError
from fusiform.exporting.targets.base import Precision, Written, file_stem
from fusiform.exporting.targets.module import to_module
from fusiform.files import write_file
from fusiform.graph.ir import INPUT, Graph
from fusiform.spec import METADATA_KEY, ModelSpec


def write(graph: Graph, precision: Precision, folder: Path) -> list[Written]:
    """Write a float32 graph twice: compiled from its source (``scripted``) and recorded from one run (``traced``).

    Both read normalised float32 NCHW pictures of any batch size, and are frozen: their weights are constants. A
    classifier answers with logits (N, classes), or the tuple of logits and features (N, num_features); a segmenter with
    logits (N, rows, columns, classes), a detector with the tuple of logits (N, priors, 1 + classes) and codes
    (N, priors, 4). Beside them lie ``fusiform.spec`` (JSON),
    ``labels.txt`` (one a line, in the order of the logits, of which a detector's have the background before them) and
    ``preprocessing.json``, which ``torch.jit.load(path, _extra_files={"labels.txt": ""})`` fills in; where there
    are not logits alone also ``outputs.json``: each answer's name and shape, in their order. Raises UsageError for
    another precision than float32.
    """
    if precision != "float32":
        raise UsageError(f"TorchScript files are float32, not {precision}: take litert or onnx for smaller ones")
    module = to_module(graph)
    size, _, channels = graph.shapes[INPUT]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is (deprecated|not supported in Python)")
        # Scripting looks at the attributes of fx.GraphModule itself, which are none of the network's.
        warnings.filterwarnings("ignore", "The TorchScript type system doesn't support", UserWarning)
        picture = torch.zeros(1, channels, size, size)
        programs = {
            "scripted": torch.jit.freeze(torch.jit.script(module)),
            "traced": torch.jit.freeze(torch.jit.trace(module, picture)),  # type: ignore[no-untyped-call]
        }
        archives = {form: _archive(program, graph.spec) for form, program in programs.items()}
    written = []
    for form, archive in archives.items():
        path = folder / f"{file_stem(graph.spec, precision)}.{form}.pt"
        write_file(path, archive)
        written.append(Written(path, (path,), {"form": form}))
    return written


def _archive(program: torch.jit.ScriptModule, spec: ModelSpec) -> bytes:
    """The program's archive with the spec beside it, less everything that says where and how often it was made."""
    saved = io.BytesIO()
    torch.jit.save(program, saved)
    records: dict[str, bytes] = {}
    with zipfile.ZipFile(saved) as archive:
        for entry in archive.namelist():
            name = entry.partition("/")[2]
            # Source positions are paths of this machine; the others are PyTorch's own to write, below.
            if not name.endswith(".debug_pkl") and name not in ("version", "byteorder", ".data/serialization_id"):
                records[name] = archive.read(entry)
        records["version"] = archive.read("archive/version")  # no lower than the operators in it need
    records |= {f"extra/{name}": text.encode() for name, text in _extra_files(spec).items()}
    written = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(written)  # what torch.jit.save writes with: records aligned, without times
    for name, data in records.items():
        if name == "data.pkl" or name.startswith("code/"):
            name, data = _unmangled(name.encode()).decode(), _unmangled(data)
        writer.write_record(name, data, len(data))
    writer.write_end_of_file()
    return written.getvalue()


def _unmangled(text: bytes) -> bytes:
    """The class's name without the number of its kind in this process: ``__torch__.shufflenet_v2_x1_0``.

    The pickle in data.pkl ends names with line breaks and does not count their letters.
    """
    return re.sub(rb"__torch__([./])torch\1fx\1graph_module(\1___torch_mangle_\d+)?", b"__torch__", text)


def _extra_files(spec: ModelSpec) -> dict[str, str]:
    preprocess = spec.to_dict()["preprocess"]
    files = {
        METADATA_KEY: spec.to_json(),
        "labels.txt": "".join(" ".join(label.splitlines()) + "\n" for label in spec.labels),
        "preprocessing.json": json.dumps(preprocess, indent=2) + "\n",
    }
    if spec.task != "classification" or spec.features:
        files["outputs.json"] = json.dumps(spec.answers, indent=2) + "\n"
    return files
