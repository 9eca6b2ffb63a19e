"""What every target makes of the networks: verified files, their size, accuracy, agreement and speed.

    python benchmarks/formats.py [--scenes RUN] [--keep DIR] [--json FILE] [--docs]

Exports MobileNetV2 1.0 and ShuffleNetV2 x1.0 (the shared data's float weights, ImageNet) and the network of a training
run on the Intel scenes (``--scenes``, the folder of the run; the README's last training command makes one) to every
target, in float32, and float16 and int8 where the target has them. int8 is calibrated on 160 of the 300 shared ImageNet
training photographs, or of the run's training photographs; nothing is trained. Each file passed the verification of
``fusiform export`` or is listed as failed.

Accuracy is top-1 on the 500 ImageNet validation photographs, or on the 1,200 test scenes, of the file in its own
runtime, with Wilson's 95 % interval; agreement is how often the float network in PyTorch gives the same first answer,
on 500 of them. Latency is one picture, one thread, median, all files of a network in turns. Core ML runs on Apple's
machines alone: its files are verified by an interpreter and not timed. ``--docs`` renews the table in
docs/formats.md from the JSON file and measures nothing.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common

from fusiform.report import Cell

NETWORKS = ("mobilenet_v2_1.0_224.safetensors", "shufflenet_v2_x1_0.safetensors")
DOCS = common.ROOT / "docs" / "formats.md"
RESULT = common.ROOT / "benchmarks" / "results" / "formats.json"
MARK = "<!-- table -->"


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--scenes", type=Path, metavar="RUN", help="the folder of a training run on the Intel scenes")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the files there")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each file's latency (default: %(default)s)")
    parser.add_argument("--docs", action="store_true", help="only write the table of the JSON file into the docs")
    arguments = parser.parse_args()
    if arguments.docs:
        write_docs(json.loads((arguments.json or RESULT).read_text(encoding="utf-8")))
        return
    if not common.SHARED_DATA.is_dir():
        sys.exit(f"formats: needs the shared weights and photographs ({common.SHARED_DATA} is not there)")
    from fusiform.train.allocator import keep_freed_memory

    keep_freed_memory()
    packages = ("fusiform", "torch", "ai-edge-litert", "onnxruntime", "openvino", "executorch", "coremltools")
    about = common.machine(*packages)
    rows: list[dict[str, Cell]] = []
    with tempfile.TemporaryDirectory() as scratch:
        keep: Path = arguments.keep or Path(scratch)
        data = common.SHARED_DATA
        for name in NETWORKS:
            rows += measure(
                data / "weights" / name,
                keep / Path(name).stem,
                calibrate=data / "imagenet_train_samples",
                photographs=data / "imagenet_val",
                seconds=arguments.seconds,
            )
        if arguments.scenes is not None:
            scenes = data / "intel_scenes"
            rows += measure(
                arguments.scenes, keep / "scenes", calibrate=None, photographs=scenes, seconds=arguments.seconds
            )
    common.finish("formats", about, {"latency": "one picture, one thread, median of turns"}, rows, arguments.json)


def measure(
    model: Path, out: Path, *, calibrate: Path | None, photographs: Path, seconds: float
) -> list[dict[str, Cell]]:
    """A row for each file of one network; the first is PyTorch with the weights as they were."""
    from fusiform.benchmark import benchmark
    from fusiform.evaluate.classification import evaluate, report
    from fusiform.export.job import ExportError, export_model
    from fusiform.export.targets import TARGETS
    from fusiform.zoo.model import open_model

    exported: list[dict[str, Any]] = []
    for precision in ("float32", "float16", "int8"):
        targets = [name for name, target in TARGETS.items() if precision in target.precisions and name != "web"]
        print(f"{model.name}: {precision}", file=sys.stderr, flush=True)
        try:
            made = export_model(
                model,
                out,
                targets=targets,
                precision=precision,  # type: ignore[arg-type]
                calibrate_on=calibrate,
                data=photographs,
            )
        except ExportError as error:
            print(f"{model.name}: {error}", file=sys.stderr, flush=True)
            made = error.report
        exported += [
            {**row, **{key: made.figures[key] for key in ("quantised",) if key in made.figures}} for row in made.rows
        ]

    opened = open_model(model)
    float_figures = report(evaluate(model, photographs, engine="torch")).figures
    rows: list[dict[str, Cell]] = [
        {"network": opened.spec.name, "classes": opened.spec.num_classes, "target": "PyTorch eager"}
        | {"precision": "float32", "bytes": opened.path.stat().st_size, **accuracy(float_figures)}
    ]
    for found in exported:
        row: dict[str, Cell] = {"network": opened.spec.name, "classes": opened.spec.num_classes}
        row |= {"target": label(found), "precision": found["precision"], "passed": found["passed"]}
        if found["passed"]:
            row |= {"bytes": found["bytes"]}
            if open_model(found["file"]).format != "coreml":
                row |= accuracy(report(evaluate(found["file"], photographs)).figures)
            row |= {
                key: found[key]
                for key in ("agreement", "largest_error", "quantised", "layers_in_float")
                if key in found
            }
            row |= {key: found[key] for key in ("delegated", "not_delegated", "int8_layers", "layers") if key in found}
        rows.append(row)
    runnable = [found for found in exported if found["passed"] and open_model(found["file"]).format != "coreml"]
    times = benchmark([found["file"] for found in runnable], seconds=seconds)
    by_file = {row["model"]: row for row in times.rows}
    eager = benchmark([model], engines=["torch"], seconds=seconds)
    rows[0]["latency_ms"] = eager.rows[0]["median_ms"]
    for found, row in zip(exported, rows[1:], strict=True):
        timed = by_file.get(found.get("file"))
        if timed is not None:
            row["latency_ms"] = timed["median_ms"]
            row["load_ms"] = timed["load_ms"]
            row["memory_mb"] = timed["memory_mb"]
    return rows


def accuracy(figures: Any) -> dict[str, Cell]:
    return {key: figures[key] for key in ("pictures", "top1", "top1_low", "top1_high")}


def label(row: dict[str, Any]) -> str:
    form = row.get("form")
    return f"{row['target']}, {form}" if form else str(row["target"])


def write_docs(result: dict[str, Any]) -> None:
    """Put the rows into the document, a table for each network."""
    parts = []
    networks: dict[str, list[dict[str, Any]]] = {}
    for row in result["rows"]:
        networks.setdefault(f"{row['network']}, {row['classes']:,} classes", []).append(row)
    for name, rows in networks.items():
        lines = [
            f"### {name}",
            "",
            "| target | precision | MB | top-1 (95 % interval) | agrees with float | ms, 1 thread |",
            "|---|---|---|---|---|---|",
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
        return f"| {row['target']} | {row['precision']} | | did not pass verification | | |"
    cells: Sequence[str] = (
        row["target"],
        row["precision"],
        f"{row['bytes'] / 1e6:.2f}",
        f"{100 * row['top1']:.1f} % ({100 * row['top1_low']:.1f} to {100 * row['top1_high']:.1f})"
        if "top1" in row
        else "",
        f"{100 * row['agreement']:.1f} %" if row.get("agreement") is not None else "",
        f"{row['latency_ms']:.2f}" if row.get("latency_ms") is not None else "",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
