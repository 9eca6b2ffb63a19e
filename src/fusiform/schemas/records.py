"""The schemas of what is kept beside results: runs, parts, environments, searches, descriptions and golden files."""

from __future__ import annotations

from fusiform.schemas.parts import CLASS, TASKS, UNITS, Schema, closed, list_of, named, object_of, or_null, value_of
from fusiform.vocabulary import KEYS

TEXTS = UNITS["texts"]


def run() -> Schema:
    """What a training was asked, and where it ran: a run's ``run.json``."""
    text, absent = {"type": "string"}, {"type": ["string", "null"]}
    return closed(
        {
            "schema": named("run"),
            "data": text,
            "model": text,
            "teacher": absent,
            "scratch": {"type": "boolean"},
            "ignore": absent,
            "root": absent,
            "classes": {**TEXTS, "description": "the names of the classes"},
            "processes": {"type": "integer", "minimum": 1},
            "device": {"type": "string", "description": "what computed: cpu, cuda or mps"},
            "threads": {"type": ["integer", "null"], "minimum": 1},
        }
    )


def use() -> Schema:
    """A line of ``evaluations.jsonl``: when a model of a run was shown test images, and what came of it."""
    text, figures = {"type": "string"}, {"type": "object", "description": "as fusiform evaluate --format json has them"}
    return closed(
        {
            "schema": named("use"),
            "date": {"type": "string", "description": "ISO 8601 in UTC"},
            "fusiform": text,
            "file": {"type": "string", "description": "the model's, from the run's folder"},
            "split": {"enum": ["test", "all"]},
            "images_sha256": {"type": "string", "description": "of the sizes and first bytes of all images"},
            "figures": figures,
            "rows": list_of(figures),
            "stress": or_null(figures),
        }
    )


def parts() -> Schema:
    """What the parts of very many images are of: ``parts.json``."""
    texts = ("fusiform", "model", "model_sha256", "description_sha256", "listing_sha256", "format")
    of_counts = ("top", "limit", "tiles", "images", "parts")
    counts = {name: {"type": ["integer", "null"], "minimum": 1} for name in of_counts}
    shares = {name: {**UNITS["share"], "type": ["number", "null"]} for name in ("score", "iou", "overlap")}
    more = {"images_per_part": {"type": "integer", "minimum": 1}, "fast": {"type": "boolean"}, "sources": TEXTS}
    rest = {"schema": named("parts"), "engine": {"type": ["string", "null"]}, **more, **counts, **shares}
    return closed({**rest, **{name: {"type": "string"} for name in texts}})


def answers() -> Schema:
    """What the parts of an evaluation are of: their ``parts.json``."""
    texts = ("fusiform", "model", "data", "split", "engine", "model_sha256", "description_sha256", "dataset_sha256")
    counts: dict[str, Schema] = {
        name: {"type": "integer", "minimum": 1} for name in ("images", "images_per_part", "parts")
    }
    more: dict[str, Schema] = {"multi_scale": {"type": "boolean"}, "format": {"type": "string", "enum": ["npz"]}}
    return closed({"schema": named("answers"), **counts, **more, **{name: {"type": "string"} for name in texts}})


def feature_parts() -> Schema:
    """What the parts of very many images' features are of: their ``parts.json``."""
    texts = ("fusiform", "model", "model_sha256", "description_sha256", "listing_sha256")
    counts = {name: {"type": ["integer", "null"], "minimum": 1} for name in ("images", "parts")}
    more: dict[str, Schema] = {
        "images_per_part": {"type": "integer", "minimum": 1},
        "fast": {"type": "boolean"},
        "sources": TEXTS,
        "engine": {"type": ["string", "null"]},
        "format": {"type": "string", "enum": ["npz", "parquet"]},
    }
    return closed({"schema": named("feature_parts"), **counts, **more, **{name: {"type": "string"} for name in texts}})


def environment() -> Schema:
    """The machine and the packages of a training: ``environment.json``."""
    text, absent = {"type": "string"}, {"type": ["string", "null"]}
    count, size = {"type": ["integer", "null"]}, {"type": ["integer", "null"], "minimum": 0}
    device = closed(
        {"device": text, "name": text, "memory_bytes": size, "capability": text},
        optional=("memory_bytes", "capability"),
    )
    return closed(
        {
            "schema": named("environment"),
            "started": {"type": "string", "description": "ISO 8601 in UTC"},
            "command": TEXTS,
            "fusiform": text,
            "commit": absent,
            "python": text,
            "packages": {"type": "object", "additionalProperties": absent},
            "platform": text,
            "processor": text,
            "cores": count,
            "memory_bytes": size,
            "malloc": absent,
            "keeps_freed_memory": {"type": "boolean"},
            "threads": count,
            "interop_threads": count,
            "cuda": absent,
            "cudnn": count,
            "devices": list_of(device),
            "variables": {"type": "object", "additionalProperties": text},
        },
        optional=("interop_threads", "cuda", "cudnn"),
    )


def spec() -> Schema:
    """What a model says of itself inside its file: ``ModelSpec.to_dict``."""
    share = UNITS["share"]
    accuracy = {"dataset": {"type": "string"}, "top1": share, "top5": share}
    accuracy |= {"pictures": {"type": "integer", "minimum": 1}, "source": {"type": "string"}}
    three = {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3}
    preprocess = {
        **object_of("resize crop interpolation antialias")["properties"],
        "mean": three,
        "std": three,
        **object_of("color_order fit")["properties"],
    }
    first = ("architecture", "width", "labels")
    fields = object_of(
        "architecture width labels task label_ids input_size input_channels padding output temperature scores "
        "output_stride aspp align_corners decoded features"
    )["properties"]
    fields |= {
        "task": {"enum": list(TASKS)},
        "preprocess": closed(preprocess, optional=("fit",)),
        "provenance": {"type": "string"},
        "license": {"type": "string"},
        "accuracy": list_of(closed(accuracy)),
        "certainty": _certainty(),
        "version": {
            "enum": [1, 2],
            "description": "1 where there is no accuracy; in files of fusiform 0.1, which are 1, accuracies are in "
            "percent",
        },
    }
    return closed(fields, optional=[name for name in fields if name not in (*first, "version", "accuracy")])


def _certainty() -> Schema:
    """What a classifier's description says of how sure its answers are: ``certainty.Certainty``."""
    count, numbers = {"type": "integer", "minimum": 1}, UNITS["numbers"]
    table = closed({"count": count, "ranks": list_of(count), "values": numbers})
    weight: Schema = {"type": "number", "exclusiveMinimum": 0}
    sets: dict[str, Schema] = {
        "score": {"enum": ["lac", "aps", "raps"]},
        "table": table,
        "coverage": UNITS["share"],
        "penalty": UNITS["share"],
        "free": UNITS["count"],
        "classes": {**list_of(table), "description": "a table for each class, or none"},
    }
    encoded = {"type": "string", "contentEncoding": "base64"}
    unknown: dict[str, Schema] = {
        "parts": list_of(closed({"evidence": {"type": "string"}, "weight": weight})),
        "table": table,
        **dict.fromkeys(("features", "classes", "dimensions"), count),
        **dict.fromkeys(("centre", "projection", "scales", "means", "whitening", "head", "points"), encoded),
        "auroc": UNITS["share"],
    }
    precision = {**UNITS["share"], "type": ["number", "null"], "description": "what it was chosen for; null: given"}
    threshold = closed({"index": UNITS["count"], "value": value_of(KEYS["threshold"]), "precision": precision})
    costs = {
        **list_of(list_of({"type": "number", "minimum": 0})),
        "description": "a list for each class: what each answer costs, and, if there is one more, no answer",
    }
    decision = closed({"thresholds": list_of(threshold), "costs": costs})
    return closed(
        {
            "sets": closed(sets),
            "unknown": or_null(closed(unknown)),
            "images": count,
            "source": {"type": "string"},
            "decision": {**decision, "description": "the rule that the model decides by; either list is empty"},
        },
        optional=("decision",),
    )


def golden() -> Schema:
    """golden.json."""
    text, absent = {"type": "string"}, {"type": ["string", "null"]}
    number: Schema = {"type": ["number", "null"], "minimum": 0}
    written: dict[str, Schema] = {"path": text, "sha256": text}
    kind: dict[str, Schema] = {"name": text, "dtype": text, "shape": UNITS["shape"]}
    three = {"type": ["array", "null"], "items": {"type": "number"}, "minItems": 3, "maxItems": 3}
    share = {"type": "number"}
    given: dict[str, Schema] = {
        **kind,
        "layout": {"enum": ["NHWC", "NCHW"]},
        "reads": {"enum": ["pixels", "normalized", "image"], "description": "image is Core ML's, of the same pixels"},
        "color_order": {"enum": ["rgb", "bgr"]},
        "mean": {**three, "description": "of what is normalised, (value / 255 - mean) / std; null of pixels"},
        "std": three,
    }
    allowed = {**number, "description": "the largest difference, in the measure of compare; null for boxes"}
    compared: dict[str, Schema] = {
        "compare": {
            "enum": ["largest", "rms", "log_rms", "classes", "boxes"],
            "description": "the largest difference of a number; the root mean square of the differences; the same of "
            "the natural logarithms less their mean; the share of pixels of another class; or the boxes",
        },
        "tolerance": {**number, "description": "what is allowed, as a share of the answer's own numbers"},
    }
    box = {**CLASS, "score": UNITS["share"], **dict.fromkeys(("left", "top", "right", "bottom"), share)}
    case: dict[str, Schema] = {
        "source": {**text, "description": "the name of the photograph, or of the synthetic image"},
        "label": {**absent, "description": "the true class, where it is known"},
        "image": {**closed(written), "description": "the input as a PNG file, red, green, blue"},
        "input": {**closed(written), "description": "the bytes of the input tensor, little-endian"},
        "outputs": list_of(closed({**written, "allowed": allowed})),
        "top1": {**or_null(closed(CLASS)), "description": "the likeliest class"},
        "top1_certain": {
            "type": ["boolean", "null"],
            "description": "whether another class cannot be the likeliest by rounding",
        },
        "boxes": or_null(list_of(closed(box))),
    }
    return closed(
        {
            "schema": named("golden"),
            "file": {**text, "description": "what the runtime opens, from the folder that the golden folder lies in"},
            "files": {**list_of(closed(written)), "description": "all files that the model consists of"},
            "network": value_of(KEYS["network"]),
            "task": {"enum": list(TASKS)},
            "precision": value_of(KEYS["precision_of_weights"]),
            "runtime": {**text, "description": "what gave the expected answers"},
            "input": closed(given),
            "outputs": list_of(closed({**kind, **compared})),
            "min_iou": {**number, "description": "the intersection over union from which a box is the expected one"},
            "cases": list_of(closed(case)),
        }
    )
