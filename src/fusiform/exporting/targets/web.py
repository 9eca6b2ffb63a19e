"""A folder that a static host can serve: the model as ONNX, and a page that runs it in the browser.

``web_page/`` has the page. It prepares the photograph in the arithmetic of ``data.preprocess`` and runs the model in
ONNX Runtime's WebAssembly build, which is too large to ship with every model: who serves the folder fetches it once.
"""

from __future__ import annotations

import json
from pathlib import Path

from fusiform.errors import OutputError, UsageError
from fusiform.exporting.targets.base import Precision, Written
from fusiform.exporting.targets.onnx import write as write_onnx
from fusiform.files import write_file
from fusiform.graph.ir import Graph, reads_pixels

RUNTIME = "onnxruntime-web@1.30.0"
"""The npm package, in the version that the page is tested with."""
PAGE = Path(__file__).with_name("web_page")

_ARCHIVE = f"{RUNTIME.replace('@', '-')}.tgz"
_RUNTIME_FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
FETCH_RUNTIME = " && ".join(
    (
        f"npm pack {RUNTIME}",
        "mkdir runtime",
        f"tar -xzf {_ARCHIVE} -C runtime --strip-components=2 "
        + " ".join(f"package/dist/{name}" for name in _RUNTIME_FILES),
        f"rm {_ARCHIVE}",
    )
)
"""What puts the runtime (14 MB) beside the page, run in its folder: npm checks what it downloads, no script runs."""


def write(graph: Graph, precision: Precision, folder: Path) -> list[Written]:
    """Write the folder ``NAME_PRECISION_web``: the ONNX file, ``model.json`` with the spec, and the page.

    ``folder`` exists. The runtime is not in it: until it is, the page shows ``FETCH_RUNTIME``. Raises UsageError for a
    network that is no classifier or does not read photographs, MissingExtraError without onnx, OutputError where
    nothing can be written.
    """
    spec = graph.spec
    if spec.task != "classification":
        raise UsageError(
            f"the page names what a photograph shows, and {spec.name} is for {spec.task}: export it to onnx or litert"
        )
    if spec.input_channels != 3:
        raise UsageError(f"the page shows photographs to a network, {spec.name} reads {spec.input_channels} channels")
    site = folder / f"{spec.name}_{precision}_web"
    try:
        site.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {site} ({error.strerror or error}): choose another place") from None
    (model,) = write_onnx(graph, precision, site)
    description = {
        "model": model.path.name,
        "reads": "pixels" if reads_pixels(graph) else "normalized",
        "runtime": {"package": RUNTIME, "command": FETCH_RUNTIME},
        "spec": json.loads(spec.to_json()),
    }
    write_file(site / "model.json", (json.dumps(description, indent=1, ensure_ascii=False) + "\n").encode())
    for file in sorted(PAGE.iterdir()):
        write_file(site / file.name, file.read_bytes())
    return [Written(site, (site,), {**model.figures, "runtime": f"{RUNTIME}, fetched once: the page says how"})]
