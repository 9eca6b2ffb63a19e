"""What every target makes of a detector and a segmenter: verified files, their size, mAP or mIoU, and speed.

    python benchmarks/tasks.py RUN... [--data SHAPES] [--keep DIR] [--json FILE] [--docs]

Exports the best model of each training run (of the made shapes: see the README) to every target that runs on Linux, in
float32, and float16 and int8 where the target has them. int8 is calibrated on 160 of the run's training pictures;
nothing is trained. Each file passed the verification of ``fusiform export`` or is listed as failed: boxes matched at
IoU 0.95 or pixels that agree for float files, at most two points of mAP or mIoU less for int8.

mAP@0.5 or mIoU is of the file in its own runtime on the validation pictures of ``--data``, with the 95 % interval of a
bootstrap over the pictures. Latency is one picture, one thread, median, all files of a network in turns; decoding, with
the suppression of boxes or the enlarging of masks, comes on top and is the same for every runtime. Core ML runs on
Apple's machines alone: its files are verified by an interpreter and not timed. ``--docs`` renews the table in
docs/tasks.md from the JSON file and measures nothing.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import common

from fusiform.report import Cell

DOCS = common.ROOT / "docs" / "tasks.md"
RESULT = common.ROOT / "benchmarks" / "results" / "tasks.json"
MARK = "<!-- table -->"


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN", help="the folder of a training run")
    parser.add_argument("--data", type=Path, metavar="SHAPES", help="the data set that they were trained on")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the files there")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each file's latency (default: %(default)s)")
    parser.add_argument("--docs", action="store_true", help="only write the table of the JSON file into the docs")
    arguments = parser.parse_args()
    if arguments.docs:
        write_docs(json.loads((arguments.json or RESULT).read_text(encoding="utf-8")))
        return
    if not arguments.runs or arguments.data is None:
        sys.exit("tasks: name the folders of training runs, and their data with --data")
    from fusiform.train.allocator import keep_freed_memory

    keep_freed_memory()
    packages = ("fusiform", "torch", "ai-edge-litert", "onnxruntime", "openvino", "executorch", "coremltools")
    about = common.machine(*packages)
    rows: list[dict[str, Cell]] = []
    with tempfile.TemporaryDirectory() as scratch:
        keep: Path = arguments.keep or Path(scratch)
        for run in arguments.runs:
            rows += measure(run, keep / run.name, arguments.data, seconds=arguments.seconds)
    common.finish("tasks", about, {"latency": "one picture, one thread, median of turns"}, rows, arguments.json)


def measure(run: Path, out: Path, data: Path, *, seconds: float) -> list[dict[str, Cell]]:
    """A row for each file of one network; the first is PyTorch with the weights as they were."""
    from fusiform.benchmark import benchmark
    from fusiform.export.job import ExportError, export_model
    from fusiform.export.targets import TARGETS
    from fusiform.zoo.model import open_model

    exported: list[dict[str, Any]] = []
    for precision in ("float32", "float16", "int8"):
        targets = [name for name, target in TARGETS.items() if precision in target.precisions and name != "web"]
        print(f"{run.name}: {precision}", file=sys.stderr, flush=True)
        try:
            made = export_model(run, out, targets=targets, precision=precision)  # type: ignore[arg-type]
        except ExportError as error:
            print(f"{run.name}: {error}", file=sys.stderr, flush=True)
            made = error.report
        exported += made.rows

    opened = open_model(run)
    about: dict[str, Cell] = {"network": opened.spec.name, "task": opened.spec.task, "side": opened.spec.input_size}
    rows: list[dict[str, Cell]] = [
        {**about, "target": "PyTorch eager", "precision": "float32", "bytes": opened.path.stat().st_size}
        | score(opened.path, data, engine="torch")
    ]
    for found in exported:
        row: dict[str, Cell] = {**about, "target": label(found), "precision": found["precision"]}
        row |= {"passed": found["passed"]}
        if found["passed"]:
            row |= {"bytes": found["bytes"]}
            if open_model(found["file"]).format != "coreml":
                row |= score(Path(found["file"]), data)
            row |= {key: found[key] for key in ("delegated", "not_delegated", "layers_in_float") if key in found}
        rows.append(row)
    files = [Path(found["file"]) for found in exported if found["passed"]]
    times = benchmark([file for file in files if open_model(file).format != "coreml"], data=data, seconds=seconds)
    by_file = {row["model"]: row for row in times.rows}
    eager = benchmark([run], engines=["torch"], data=data, seconds=seconds)
    rows[0] |= {"latency_ms": eager.rows[0]["median_ms"], "decode_ms": eager.rows[0]["decode_ms"]}
    for found, row in zip(exported, rows[1:], strict=True):
        timed = by_file.get(found.get("file"))
        if timed is not None:
            row |= {"latency_ms": timed["median_ms"], "decode_ms": timed["decode_ms"], "load_ms": timed["load_ms"]}
    return rows


def score(file: Path, data: Path, *, engine: Any = None) -> dict[str, Cell]:
    """mAP@0.5 and mAP, or mIoU, with its interval."""
    from fusiform.evaluate import boxes, masks
    from fusiform.zoo.model import open_model

    if open_model(file).spec.task == "detection":
        figures = boxes.report(boxes.evaluate(file, data, split="val", engine=engine)).figures
        names = ("map50", "map50_low", "map50_high", "map")
    else:
        figures = masks.report(masks.evaluate(file, data, split="val", engine=engine)).figures
        names = ("miou", "miou_low", "miou_high", "pixel_accuracy")
    return {name: figures[name] for name in ("pictures", *names)}


def label(row: dict[str, Any]) -> str:
    form = row.get("form")
    return f"{row['target']}, {form}" if form else str(row["target"])


def write_docs(result: dict[str, Any]) -> None:
    """Put the rows into the document, a table for each network."""
    parts = []
    networks: dict[str, list[dict[str, Any]]] = {}
    for row in result["rows"]:
        networks.setdefault(f"{row['network']}, {row['side']} x {row['side']} pixels", []).append(row)
    for name, rows in networks.items():
        what, other = ("mAP@0.5", "mAP") if rows[0]["task"] == "detection" else ("mIoU", "pixels right")
        lines = [
            f"### {name}",
            "",
            f"| target | precision | MB | {what} (95 % interval) | {other} | ms, 1 thread | ms, decoding |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [table_row(row) for row in rows]
        parts.append("\n".join(lines))
    about = result["about"]
    machine = f"{about['processor']}, {about['cores']} cores; " + ", ".join(
        f"{name} {about[name]}" for name in ("torch", "ai-edge-litert", "onnxruntime", "openvino", "executorch")
    )
    before, _, rest = DOCS.read_text(encoding="utf-8").partition(MARK)
    after = rest.partition(MARK)[2]
    text = f"{before}{MARK}\n\nMeasured on {machine}.\n\n" + "\n\n".join(parts) + f"\n\n{MARK}{after}"
    DOCS.write_text(text, encoding="utf-8")


def table_row(row: dict[str, Any]) -> str:
    if row.get("passed") is False:
        return f"| {row['target']} | {row['precision']} | | did not pass verification | | | |"
    main, other = ("map50", "map") if row["task"] == "detection" else ("miou", "pixel_accuracy")
    scored = main in row
    cells = (
        row["target"],
        row["precision"],
        f"{row['bytes'] / 1e6:.2f}",
        f"{row[main]:.3f} ({row[f'{main}_low']:.3f} to {row[f'{main}_high']:.3f})" if scored else "",
        f"{row[other]:.3f}" if scored else "",
        f"{row['latency_ms']:.2f}" if row.get("latency_ms") is not None else "",
        f"{row['decode_ms']:.2f}" if row.get("decode_ms") is not None else "",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
