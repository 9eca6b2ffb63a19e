"""A folder that a static host can serve: the model as a LiteRT file, and a page that runs it in the visitor's browser.

``web_page/`` has the page, which prepares the photograph in the arithmetic of ``data.preprocess``. ``web_runtime/`` has
the files of the npm packages that run the model there, LiteRT.js, as ``scripts/vendor_litert_js.py`` packed them.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fusiform.calibration.reference import mark
from fusiform.errors import OutputError, UsageError
from fusiform.exporting.targets.base import Precision, Written, file_stem
from fusiform.exporting.targets.web_samples import PageSample, own_samples
from fusiform.files import write_file
from fusiform.graph.inputs import read_pixels
from fusiform.graph.ir import Graph, reads_pixels
from fusiform.graph.tflite import to_tflite

PAGE = Path(__file__).with_name("web_page")
RUNTIME = Path(__file__).with_name("web_runtime")
PAGE_GOLDEN = "golden"
"""The folder within a page's that golden answers lie in, for its self-test."""

_DESCRIPTION = "model.json"
_LOCK = json.loads((RUNTIME / "lock.json").read_text(encoding="utf-8"))
RUNTIME_NAME = f"LiteRT.js {_LOCK['packages']['@litertjs/core']['version']}"

_ARCHIVE = RUNTIME / "litert_js.tar.xz"
_NAMED = b'from "@litertjs/wasm-utils"'
_BESIDE = b'from "./wasm-utils.js"'


def write(
    graph: Graph, precision: Precision, folder: Path, samples: Sequence[PageSample] | None = None
) -> list[Written]:
    """Write the folder ``NAME_PRECISION_web``: the LiteRT file, ``model.json`` with the spec, the page, its runtime.

    ``folder`` exists. Raises what ``site_files`` raises, and OutputError where nothing can be written.
    """
    site = folder / f"{file_stem(graph.spec, precision)}_web"
    write_site(site_files(graph, precision, samples), site)
    return [Written(site, (site,), {"runtime": f"{RUNTIME_NAME}, in the folder"})]


def site_files(
    graph: Graph, precision: Precision, samples: Sequence[PageSample] | None = None, *, level: int = 9
) -> dict[str, bytes]:
    """The files of a model's page, by their names; ``level`` is how hard gzip tries, from 1 to 9.

    None for ``samples`` are the package's own, if the model knows what they show. The model reads pixels, whatever the
    graph reads: the page has no other numbers. Where it tells unknown photographs, which is by its features, it answers
    those too. Raises UsageError for a network that does not read photographs.
    """
    spec = graph.spec
    if spec.input_channels != 3:
        raise UsageError(f"the page shows photographs to a network, {spec.name} reads {spec.input_channels} channels")
    stem = file_stem(spec, precision)
    if spec.certainty is not None and spec.certainty.unknown is not None:
        spec = spec.replace(features=True)
        graph = replace(graph, spec=spec)
    files = {f"runtime/{name}": content for name, content in unpack_runtime(level).items()}
    model = to_tflite(graph if reads_pixels(graph) else read_pixels(graph), half=precision == "float16")
    files |= {f"{stem}.tflite": model}
    # Their addresses have these, so that a browser fetches such a file again only if it is another one.
    large = {
        name: hashlib.sha256(data).hexdigest() for name, data in files.items() if name.endswith((".gz", ".tflite"))
    }
    photographs = {f"samples/{k}.jpg": each for k, each in enumerate(own_samples(spec) if samples is None else samples)}
    files |= {name: each.data for name, each in photographs.items()}
    description = {
        "model": f"{stem}.tflite",
        "runtime": RUNTIME_NAME,
        "answers": list(spec.answers),
        "sha256": large,
        "samples": [{"file": name, "name": each.name} for name, each in photographs.items()],
        "spec": json.loads(spec.to_json()),
    }
    if spec.certainty is not None and spec.certainty.unknown is not None and spec.certainty.reference is not None:
        description["sketch"] = mark(spec)  # that of the sketches which the page may keep
    files[_DESCRIPTION] = _as_json(description)
    files |= {path.relative_to(PAGE).as_posix(): path.read_bytes() for path in PAGE.rglob("*") if path.is_file()}
    return files


def write_site(files: Mapping[str, bytes], site: Path) -> None:
    """Write the files into the folder ``site``, whose own folder exists; OutputError where that cannot be done."""
    try:
        for place in (site, *sorted({(site / name).parent for name in files})):
            place.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {site} ({error.strerror or error}): choose another place") from None
    for name, content in files.items():
        write_file(site / name, content)


def is_page(path: Path) -> bool:
    """Whether an exported file is a page's folder."""
    return (path / _DESCRIPTION).is_file()


def tell_of_golden(site: Path) -> None:
    """Let a page know of the golden answers in its folder; it asks for no file that may not be there."""
    path = site / _DESCRIPTION
    description = {**json.loads(path.read_text(encoding="utf-8")), "golden": PAGE_GOLDEN}
    write_file(path, _as_json(description))


def _as_json(description: dict[str, Any]) -> bytes:
    return (json.dumps(description, indent=1, ensure_ascii=False) + "\n").encode()


def unpack_runtime(level: int = 9) -> dict[str, bytes]:
    """The runtime's files by name, as a page reads them: WebAssembly is gzipped, and the names of packages are files'.

    Browsers unpack gzip, which few static hosts would make of it on the way; and only a program that puts packages
    together knows where to find one by its name. All else is as npm has it.
    """
    files = {}
    with tarfile.open(fileobj=io.BytesIO(_ARCHIVE.read_bytes())) as archive:
        for member in archive:
            content = archive.extractfile(member)
            assert content is not None
            files[member.name] = content.read()
    files["index.js"] = files["index.js"].replace(_NAMED, _BESIDE)
    return {
        f"{name}.gz" if name.endswith(".wasm") else name: gzip.compress(data, level, mtime=0)
        if name.endswith(".wasm")
        else data
        for name, data in files.items()
    }
