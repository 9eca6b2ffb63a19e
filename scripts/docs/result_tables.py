"""Tables of what the benchmarks measured, from benchmarks/results/*.json: no figure on those pages is typed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"

Row = dict[str, Any]


@cache
def result(name: str) -> dict[str, Any]:
    """What ``benchmarks/NAME.py`` wrote: ``about``, ``figures`` and ``rows``."""
    read: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return read


def machine(name: str) -> str:
    """The machine and the versions that a result was measured with, as a sentence."""
    about = result(name)["about"]
    versions = [f"{key} {value}" for key, value in about.items() if key not in _MACHINE and value is not None]
    return (
        f"Measured on {about['processor']}, {about['cores']} cores, {about['system']}, Python {about['python']}, with "
        f"{', '.join(versions)}; load average before the start {about['load before']}."
    )


_MACHINE = ("processor", "cores", "load before", "system", "python", "fusiform")


def table(name: str) -> str:
    """The table that a page asks for by name."""
    return _TABLES[name]()


def value(name: str) -> str:
    """A single figure within a sentence."""
    return _VALUES[name]()


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose columns but the first stand to the right where they hold figures."""
    lines = [list(row) for row in rows]
    sides = [
        "---:" if k and all(_is_figure(line[k]) for line in lines) and any(line[k] for line in lines) else "---"
        for k in range(len(header))
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, sides, *lines))


def _is_figure(text: str) -> bool:
    return not text or text[0].isdigit() or text[0] == "-"


def _augmentations() -> str:
    rows = result("augmentations")["rows"]
    families = ("noise", "blur", "weather", "digital")

    def cells(name: str) -> Iterable[str]:
        mine = {row["corruptions"]: row for row in rows if row["augmentation"] == name}
        whole = mine["all"]
        yield f"`{name if '=' in name else f'augment={name}'}`"
        yield f"{whole['clean %']:.1f}"
        yield f"{whole['corrupted %']:.1f}"
        for family in ("all", *families):
            row = mine[family]
            own = name == "crop"
            yield "" if own else f"{row['points']:+.1f} ({row['points from']:+.1f} to {row['points to']:+.1f})"

    header = ["augmentation", "clean, %", "corrupted, %", "gain, all, points", *families]
    return markdown(header, (list(cells(name)) for name in dict.fromkeys(row["augmentation"] for row in rows)))


def _augmented() -> str:
    figures = result("augmentations")["figures"]
    count = figures["seeds"]
    return (
        f"ShuffleNetV2 x1.0 at 112 pixels, {figures['training photographs']:,} training and "
        f"{figures['test photographs']:,} test photographs of six scenes, the mean of {count} seeds."
    )


def _cold_start() -> str:
    rows = result("cold_start")["rows"]
    names = {
        "fusiform predict": "`fusiform predict cat.jpg`",
        "PyTorch Hub's script": "the script of PyTorch Hub's page, with local weights",
    }
    return markdown(
        ["one image, from the prompt to five names", "seconds", "MB"],
        ([names[row["contender"]], f"{row['median s']:.2f}", f"{row['median MB']:.0f}"] for row in rows),
    )


_CONTENDERS = {
    "fusiform": "`fusiform.predict`",
    "fusiform fast": "with `fast=True`",
    "LiteRT, Pillow": "without its own kernels: LiteRT and Pillow",
    "LiteRT loop": "a plain loop over LiteRT with Pillow, the same int8 file, two runtime threads",
    "timm": "timm's inference loop, two loader workers, batch 32",
    "torchvision": "torchvision, DataLoader with two workers, batch 32",
}


def _folder() -> str:
    networks = [{row["contender"]: row for row in result(name)["rows"]} for name in ("folder", "folder_shufflenet_v2")]
    lines = []
    for contender, text in _CONTENDERS.items():
        cells = [text]
        for rows in networks:
            row = rows.get(contender, {})
            ratio = "" if contender.startswith("fusiform") or not row else f"{row['fusiform is x faster']:.2f}"
            cells += [f"{row['pictures/s']:.0f}" if row else "", ratio]
        lines.append(cells)
    header = ["500 JPEGs, two cores", "MobileNetV2, images/s", "ratio", "ShuffleNetV2 x1.0, images/s", "ratio"]
    return markdown(header, lines)


def _stages() -> str:
    stages = [key for key in result("folder")["figures"] if "ms" in key or key.startswith("the whole")]
    figures = [result(name)["figures"] for name in ("folder", "folder_shufflenet_v2")]
    return markdown(
        ["of an image", "MobileNetV2", "ShuffleNetV2 x1.0"],
        ([key.replace("a picture", "an image"), *(f"{of[key]:.3f}" for of in figures)] for key in stages),
    )


def _latency() -> str:
    times: dict[tuple[str, str, str], dict[int, str]] = {}
    for row in result("latency")["rows"]:
        if row.get("median ms") is not None:
            key = (row["network"], row["engine"], row["precision"])
            times.setdefault(key, {})[row["threads"]] = f"{row['median ms']:.2f}"
    networks = {"mobilenet_v2": "MobileNetV2", "shufflenet_v2_x1_0": "ShuffleNetV2 x1.0"}
    columns = [(network, precision) for network in networks for precision in ("int8", "float")]
    lines = []
    for engine in sorted({engine for _, engine, _ in times}):
        cells = [times.get((network, engine, precision), {}) for network, precision in columns]
        lines.append([engine, *(" / ".join(found[threads] for threads in sorted(found)) for found in cells)])
    header = [f"{networks[network]} {precision}" for network, precision in columns]
    return markdown(["ms an image, one thread / two", *header], lines)


def _accuracy() -> str:
    forms = {"reference": "float32 original", "int8": "int8", "dequantised": "int8 weights, computed in float"}
    lines = [
        [
            f"`{row['model']}`",
            row["engine"],
            forms[row["form"]],
            f"{row['top-1 %']:.1f} ({row['top-1 95%']})",
            f"{row['top-5 %']:.1f} ({row['top-5 95%']})",
            f"{row['same first answer %']:.1f}" if "same first answer %" in row else "",
        ]
        for row in result("accuracy")["rows"]
        if row["form"] in forms
    ]
    header = ["model", "engine", "precision", "top-1 % (95 % interval)", "top-5 % (95 % interval)"]
    return markdown([*header, "same first answer %"], lines)


def _fast() -> str:
    lines = []
    for row in result("accuracy")["rows"]:
        if "read ms" in row:
            form = row["form"].removeprefix("int8, ")
            agreement = ""
            if "compared with" in row:
                agreement = f"{row['same first answer %']:.1f} ({row['same first answer 95%']})"
            lines.append([f"`{row['model']}`", form, f"{row['read ms']:.2f}", f"{row['top-1 %']:.1f}", agreement])
    header = ["model", "decoding", "ms to read", "top-1 %", "same first answer as exact, % (95 % interval)"]
    return markdown(header, lines)


def _time_to_accuracy() -> str:
    names = {
        "fusiform": "fusiform, two epochs with the lower third frozen",
        "tutorial": "the settings of PyTorch's transfer-learning tutorial",
        "copied": "the commonly copied script (Adam 1e-5, batches of 128)",
    }
    lines = []
    for row in result("time_to_accuracy")["rows"]:
        reached = row["seconds to reach it"]
        lines.append(
            [
                names[row["contender"]],
                "not reached" if reached is None else f"{reached:.0f}",
                f"{row['best top-1 %']:.1f}",
                f"{row['after seconds']:.0f}",
            ]
        )
    asked = result("time_to_accuracy")["figures"]["accuracy asked for %"]
    return markdown(["", f"seconds to {asked} % top-1", "best top-1 %", "stopped after seconds"], lines)


def _small_sets() -> str:
    lines = [
        [
            f"`{row['set']}`, {row['recipe']}",
            str(row["images"]),
            f"{row['head top-1 %']:.1f}",
            f"{row['top-1 %']:.1f}",
            f"{row['lowest']:.1f} to {row['highest']:.1f}",
            f"{row['size']} / {row['input']}",
            str(row["steps"]),
            f"{row['image passes']:,}",
            f"{row['CPU seconds'] / 60:.1f}",
            f"{row['minutes']:.1f}",
        ]
        for row in result("small_sets")["rows"]
    ]
    header = ["set, recipe", "training images", "head's top-1 %", "top-1 %", "of the seeds", "training / input pixels"]
    return markdown([*header, "steps", "image passes", "CPU minutes", "minutes"], lines)


def _training_step() -> str:
    names = {
        "plain": "plain eager PyTorch, float32",
        "+ allocator": "and malloc keeps memory",
        "+ channels last": "and channels last",
        "+ bfloat16": "and bfloat16",
        "+ fuse": "and fused steps",
        "fuse in float32": "fused steps, all in float32",
        "torch.compile": "`torch.compile` instead of fused steps",
        "fuse, frozen": "fused steps, batch normalisation frozen as in the recipe `finetune_small`",
    }
    found = result("training_step")
    rows, batch = found["rows"], found["figures"]["batch"].replace("pictures", "images")
    lines = ([names[row["contender"]], f"{row['pictures/s']:.1f}", f"{row['times plain']:.2f}"] for row in rows)
    return markdown([f"one step, {batch}", "images/s", "times plain"], lines)


def _beside() -> str:
    names = {"now": "each thread its images", "before": "each layer in all threads, as in 0.1"}
    situations = ("alone", "two busy", "two at once")
    rows = result("beside")["rows"]
    header = ["images/s", "alone", "beside two busy processes", "two trainings at once, each"]
    return markdown(
        header, ([names[row["contender"]], *(f"{row[f'{s}, images/s']:.0f}" for s in situations)] for row in rows)
    )


def _curve() -> str:
    found = result("training_step_curve")
    steps = [key for key in found["rows"][0] if key.startswith("steps")]
    header = ["training", "seed", *(f"loss, {key}" for key in steps)]
    rows = found["rows"]
    return markdown(header, ([row["run"], str(row["seed"]), *(f"{row[key]:.3f}" for key in steps)] for row in rows))


def _formats() -> str:
    def cells(row: Row) -> tuple[str, ...]:
        agreement = "" if row.get("agreement") is None else f"{100 * row['agreement']:.1f} %"
        return _interval(row, "top1", percent=True), agreement, _number(row, "latency_ms", 2)

    return _by_network(
        result("formats")["rows"],
        title=lambda row: f"{row['network']}, {row['classes']:,} classes",
        columns=lambda _: ("top-1 (95 % interval)", "agrees with float", "ms, 1 thread"),
        cells=cells,
    )


FIGURES = {"detection": ("map50", "map"), "segmentation": ("miou", "pixel_accuracy")}
"""Of each task: the figure with an interval, and another."""
NAMES = {"map50": "mAP@0.5", "map": "mAP", "miou": "mIoU", "pixel_accuracy": "pixel accuracy"}


def _tasks() -> str:
    def columns(row: Row) -> tuple[str, ...]:
        main, other = (NAMES[name] for name in FIGURES[row["task"]])
        return f"{main} (95 % interval)", other, "ms, 1 thread", "ms, decoding"

    def cells(row: Row) -> tuple[str, ...]:
        main, other = FIGURES[row["task"]]
        times = (_number(row, name, 2) for name in ("latency_ms", "decode_ms"))
        return _interval(row, main), _number(row, other, 3), *times

    return _by_network(
        result("tasks")["rows"],
        title=lambda row: f"{row['network']}, {row['side']} x {row['side']} pixels",
        columns=columns,
        cells=cells,
    )


def _by_network(
    rows: Sequence[Row],
    *,
    title: Callable[[Row], str],
    columns: Callable[[Row], Sequence[str]],
    cells: Callable[[Row], Sequence[str]],
) -> str:
    """A table for each ``title``; ``cells`` are those after target, precision and megabytes, under ``columns``."""
    networks: dict[str, list[Row]] = {}
    for row in rows:
        networks.setdefault(title(row), []).append(row)
    parts = []
    for name, of_network in networks.items():
        header = ["target", "precision", "MB", *columns(of_network[0])]
        lines = []
        for row in of_network:
            if row.get("passed") is False:
                values = ["", "did not pass verification", *[""] * (len(header) - 4)]
            else:
                values = [f"{row['bytes'] / 1e6:.2f}", *cells(row)]
            lines.append([row["target"], row["precision"], *values])
        parts.append(f"## {name}\n\n{markdown(header, lines)}")
    return "\n\n".join(parts)


def _interval(row: Row, name: str, *, percent: bool = False) -> str:
    """A figure with its 95 % interval; nothing where it was not measured."""
    if row.get(name) is None:
        return ""
    found, low, high = (row[key] for key in (name, f"{name}_low", f"{name}_high"))
    if percent:
        return f"{100 * found:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
    return f"{found:.3f} ({low:.3f} to {high:.3f})"


def _number(row: Row, name: str, decimals: int) -> str:
    """A figure; nothing where it was not measured."""
    return "" if row.get(name) is None else f"{row[name]:.{decimals}f}"


def _memory() -> str:
    widths: dict[float, dict[str, Row]] = {}
    for row in result("peak_memory")["rows"]:
        widths.setdefault(row["width"], {})[row["program"]] = row

    def pair(row: Mapping[str, Any], key: str) -> str:
        return f"{row[key] / 1e6:.2f} / {row[f'{key}_sliced'] / 1e6:.2f}"

    lines = []
    for width, rows in widths.items():
        paper = rows["the paper's formula"]
        cells = [pair(paper, "predicted")]
        cells += [pair(rows[name], key) for name in ("PyTorch", "LiteRT") for key in ("predicted", "measured")]
        cells += [pair(rows[name], "measured") for name in ("ONNX Runtime", "LiteRT, XNNPACK")]
        lines.append([str(width), f"{paper['table_3_16_bit'] / 1e3:.0f}", *cells])
    header = ["width", "the paper's Table 3, kB", "the paper's formula", "PyTorch, predicted", "PyTorch, measured"]
    header += ["LiteRT's own kernels, predicted", "measured", "ONNX Runtime, measured"]
    return markdown([*header, "LiteRT with XNNPACK, weights included, measured"], lines)


def _web() -> str:
    rows = result("web")["rows"]
    networks = {"mobilenet_v2_x1_0": "MobileNetV2 int8", "shufflenet_v2_x1_0": "ShuffleNetV2 x1.0 int8"}
    figures = (
        ("the network, in the page's worker, ms", "network", "page ms", "{:.1f}"),
        ("in Python's LiteRT, ms", "network", "Python ms", "{:.1f}"),
        ("the page takes times as long", "network", "page / Python", "{:.1f}"),
        ("in onnxruntime-web, ms", "network", "onnxruntime-web ms", "{:.1f}"),
        ("which takes times as long as the page", "network", "onnxruntime-web / page", "{:.1f}"),
        ("12 megapixels, from the file to the answer, ms", "12 megapixels", "page ms", "{:.0f}"),
        ("in Python, ms", "12 megapixels", "Python ms", "{:.0f}"),
        ("48 megapixels, ms", "48 megapixels", "page ms", "{:.0f}"),
        ("for which the page's own thread is blocked, ms", "48 megapixels", "blocked ms", "{:.0f}"),
    )
    lines = []
    for text, what, key, form in figures:
        found = {row["network"]: row[key] for row in rows if row["what"] == what and row.get(key) is not None}
        lines.append([text, *(form.format(found[name]) if name in found else "" for name in networks)])
    visits = {row["network"]: row for row in rows if row["what"] == "first visit"}
    for text, key in (("first visit, MB", "bytes"), ("with gzip, MB", "bytes gzipped")):
        lines.append([text, *(f"{visits[name][key] / 1e6:.2f}" for name in networks)])
    return markdown(["one thread each", *networks.values()], lines)


def _serving() -> str:
    rows = {row["contender"]: row for row in result("serving")["rows"]}
    names = {
        "predict": "`fusiform.predict`, without HTTP",
        "fusiform serve": "`fusiform serve`",
        "fusiform serve, 2 processes": "`fusiform serve --workers 2`",
        "plain FastAPI": "FastAPI, LiteRT behind a lock",
        "LitServe": "LitServe, LiteRT",
        "torchvision": "FastAPI, eager PyTorch in float32",
    }
    figures = (
        ("CPU ms an image", "CPU ms an image", "{:.2f}"),
        ("times predict's", "times predict's CPU", "{:.2f}"),
        ("images/s", "images a second", "{:.0f}"),
        ("generator accounted", "generator accounted", "{:.0f}"),
        ("of predict's", "share of predict's", "{:.2f}"),
        ("p50 / p99 ms, full load", ("p50 ms, full", "p99 ms, full"), "{:.0f}"),
        ("half load", ("p50 ms, half", "p99 ms, half"), "{:.0f}"),
        ("memory, MB", "memory MB", "{:.0f}"),
    )

    def cell(row: Row, keys: str | tuple[str, ...], form: str) -> str:
        found = [row[key] for key in ((keys,) if isinstance(keys, str) else keys)]
        return "" if None in found else " / ".join(map(form.format, found))

    lines = [
        [text, *(cell(rows[name], key, form) for _, key, form in figures)]
        for name, text in names.items()
        if name in rows
    ]
    return markdown(["", *(text for text, _, _ in figures)], lines)


def _serving_overload() -> str:
    (row,) = result("serving_overload")["rows"]
    asked = row["asked a second"] / row["capacity"]
    memory = [row[key] for key in ("memory before MB", "queue filled MB", "highest MB", "after MB")]
    return markdown(
        ["", "measured", "target"],
        [
            ["asked, times the capacity", f"{asked:.2f}", ""],
            ["answered, of the capacity", f"{row['share of capacity']:.2f}", "0.8 or more"],
            ["the same, generator accounted", f"{row['generator accounted']:.2f}", ""],
            ["answers 200 / 429", f"{row['200']:,} / {row['429']:,}", "nothing else"],
            ["other statuses, failed, wrong", f"{row['other statuses']}, {row['failed']}, {row['wrong']}", "0, 0, 0"],
            [
                "p50 / p99 of the answers, ms",
                f"{row['p50 ms']:.0f} / {row['p99 ms']:.0f}",
                f"p99 {row['p99 ms, target']:.0f}",
            ],
            [
                "memory before, with the queue full, at the most, a second after, MB",
                ", ".join(f"{size:.0f}" for size in memory),
                "20 more than with the queue full",
            ],
        ],
    )


def _serving_stop() -> str:
    rows = result("serving_stop")["rows"]
    well = sum(row["others"] == 0 and row["exit code"] == 0 for row in rows)
    answers = sum(row["200"] + row["429"] for row in rows)
    return f"{well} of {len(rows)} times nothing was reset, with {answers:,} requests answered and the exit code 0"


_TABLES: dict[str, Callable[[], str]] = {
    "accuracy": _accuracy,
    "augmentations": _augmentations,
    "beside": _beside,
    "cold_start": _cold_start,
    "curve": _curve,
    "fast": _fast,
    "folder": _folder,
    "formats": _formats,
    "latency": _latency,
    "memory": _memory,
    "serving": _serving,
    "serving_overload": _serving_overload,
    "small_sets": _small_sets,
    "stages": _stages,
    "tasks": _tasks,
    "time_to_accuracy": _time_to_accuracy,
    "training_step": _training_step,
    "web": _web,
}


def _overhead() -> str:
    shares = [found for key, found in result("latency")["figures"].items() if "over bare LiteRT" in key]
    return f"{min(shares):.1f} to {max(shares):.1f} %"


def _peak(program: str) -> Callable[[], str]:
    """What a program holds at width 1.0, plain and in slices."""

    def found() -> str:
        (row,) = (r for r in result("peak_memory")["rows"] if (r["width"], r["program"]) == (1.0, program))
        return f"{row['measured'] / 1e6:.2f} / {row['measured_sliced'] / 1e6:.2f} MB"

    return found


def _onnx_saves() -> str:
    rows = [row for row in result("peak_memory")["rows"] if row["program"] == "ONNX Runtime"]
    saved = [100 * (1 - row["measured_sliced"] / row["measured"]) for row in rows]
    return f"{min(saved):.0f} to {max(saved):.0f} %"


def _figure(name: str, key: str, form: str) -> Callable[[], str]:
    """A named figure of a result, formatted."""
    return lambda: form.format(result(name)["figures"][key])


_CURVE = "training_step_curve"

_VALUES: dict[str, Callable[[], str]] = {
    "augmentations": _augmented,
    "bfloat16_and_plain": _figure(_CURVE, "+ bfloat16 to plain: mean |difference|", "{:.2f}"),
    "engine_overhead": _overhead,
    "faster_start": _figure("cold_start", "times faster (target: 10)", "{:.0f}"),
    "fused_and_plain": _figure(_CURVE, "+ fuse to plain: mean |difference|", "{:.2f}"),
    "fused_bias": _figure(_CURVE, "+ fuse to plain: mean difference", "{:.2f}"),
    "fused_bias_error": _figure(_CURVE, "+ fuse to plain: its standard error", "{:.2f}"),
    "less_memory": _figure("cold_start", "times less memory (target: 5)", "{:.0f}"),
    "memory_error": _figure("peak_memory", "largest difference of PyTorch and LiteRT, % (target: 10)", "{} %"),
    "nchw_memory": _peak("PyTorch, NCHW"),
    "onnx_saves": _onnx_saves,
    "photograph_classes": _figure("accuracy", "classes among them", "{}"),
    "photographs": _figure("accuracy", "photographs", "{}"),
    "serving_stop": _serving_stop,
    "small_sets_at_a_time": _figure("small_sets", "trainings at a time", "{}"),
    "small_sets_date": _figure("small_sets", "date", "{}"),
    "small_sets_seeds": _figure("small_sets", "seeds", "{}"),
    "small_sets_threads": _figure("small_sets", "threads", "{}"),
    "seeds": _figure(_CURVE, "seeds", "{}"),
    "steps": _figure(_CURVE, "steps", "{}"),
    "two_seeds": _figure(_CURVE, "plain, two seeds: mean |difference|", "{:.2f}"),
}
