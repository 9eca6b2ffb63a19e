"""The JSON Schemas (draft 2020-12) of what commands print and files hold: ``json_schema("evaluation")``.

Every document names its schema in ``schema``, such as ``fusiform.evaluation/1``; the number grows when a key goes or
changes its meaning. Its keys are those of ``vocabulary.KEYS``, all of them always there: what there is nothing to say
of is null. A document that differs between the tasks has a variant for each, told apart by ``task``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fusiform.schemas import records
from fusiform.schemas.parts import (
    CLASS,
    TASKS,
    UNITS,
    VERSIONS,
    Schema,
    closed,
    list_of,
    named,
    object_of,
    or_null,
    value_of,
)
from fusiform.schemas.server import refusal, served, served_model
from fusiform.vocabulary import KEYS

DRAFT = "https://json-schema.org/draft/2020-12/schema"


class Variant(NamedTuple):
    """The keys of a report, as ``object_of`` reads them: ``figures``, ``rows``, further ``tables``, and ``more``."""

    figures: str = ""
    rows: str = ""
    tables: Mapping[str, str] = {}
    more: Mapping[str, Schema] = {}


class Document(NamedTuple):
    """What is written, what writes it, and its keys: one variant, or one for each task."""

    says: str
    writers: str
    variants: Mapping[str, Variant]


TEXTS = UNITS["texts"]
WEIGHTS = "precision:precision_of_weights"

_EVALUATION = "model data split task engine"
_CONFUSION: Schema = {
    "type": "object",
    "description": "counts has a list for each of the data's classes, in the order of columns",
    "properties": {"columns": TEXTS, "counts": list_of(list_of(UNITS["count"]))},
    "required": ["columns", "counts"],
    "additionalProperties": False,
}
_STRESS = object_of("images clean_top1 corrupted_top1... mean_corruption_error retained? seconds")
_STRESS["properties"]["corruptions"] = list_of(
    object_of("corruption strength_1 strength_2 strength_3 strength_4 strength_5 top1...")
)
_STRESS["required"].append("corruptions")
_POINTS: dict[str, Schema] = {
    "precisions": list_of(value_of(KEYS["precision"], null=True)),
    "recalls": list_of(value_of(KEYS["recall"], null=True)),
    "false_positive_rates": list_of({**UNITS["share"], "type": ["number", "null"]}),
}
_CLASS_CURVES = closed(
    {
        "thresholds": {**list_of(UNITS["share"]), "description": "the probabilities that the lists are at"},
        "classes": list_of(
            closed(
                {
                    **object_of("class images average_precision?... auroc?...")["properties"],
                    **_POINTS,
                }
            )
        ),
    }
)
_DECISION = object_of("rule decided_share... decided_top1?... cost?... top1_cost?... cost_saved?...")
_DECISION["properties"]["classes"] = list_of(
    object_of("class threshold? promised_precision? decided_images precision? precision_low? precision_high? recall?")
)
_DECISION["required"].append("classes")
_CURVES = list_of(
    {
        "type": "object",
        "properties": {
            "iou": UNITS["share"],
            "precisions": or_null(list_of(UNITS["share"])),
        },
        "required": ["iou", "precisions"],
        "additionalProperties": False,
    }
)


def _of_evaluation(comparison: str, calibration: str = "") -> dict[str, Schema]:
    """What every evaluation has beside its report."""
    return {
        "skipped_images": TEXTS,
        "notes": TEXTS,
        "comparison": or_null(object_of(f"model other images {comparison} sentence")),
        "calibration": or_null(object_of(calibration)) if calibration else {"type": "null"},
        "test_use": or_null(object_of("uses runs_compared level widened_low? widened_high? recorded")),
    }


def _compared(*names: str) -> str:
    """The keys of a comparison by resampling."""
    each = (f"{name}? other_{name}? {name}_difference?... {name}_excludes_zero" for name in names)
    return f"resamples {' '.join(each)}"


_VERIFIED = "file reference engine task int8 passed failures images"
_LIMITS = "min_agreement? allowed_drop? notes"
_ERRORS = "explained_error? max_error? tolerance? largest_error? batch_error?"
_EXPORTED = (
    f"target {WEIGHTS} passed file? bytes? golden? layers_in_float? images? largest_error? agreement? features_cosine? "
    "boxes? boxes_same? boxes_near? pixel_agreement? top1? reference_top1? map? reference_map? miou? reference_miou? "
    "drop?... delegated? not_delegated? int8_layers? layers? form? verified_by? runtime? error?"
)
_DIAGNOSED = (
    "data task layout? images objects? classes train_images? val_images? test_images? error_count warning_count "
    "note_count"
)
_FINDING = (
    "kind severity path? split? class? message suggested? gain? others left? top? right? bottom? "
    "found_left? found_top? found_right? found_bottom?"
)
_DOUBTFUL = "path split? doubts gains quality?"
_SUGGESTED = "path suggested? probability? margin?"
_DRIFTED = "measure changed? evidence reference_median now examples"
_FRAME = "frame? seconds:seconds_of_frame? dropped age_ms?"
_TRAINED = "run model network task classes train_images best_epoch epochs split? images?"


def _diagnosis(by_class: str, **tables: str) -> Variant:
    return Variant(_DIAGNOSED, _FINDING, {"kinds": "kind severity findings", "by_class": f"class {by_class}", **tables})


DOCUMENTS: dict[str, Document] = {
    "models": Document(
        "The models that can be used by name",
        "`fusiform models`",
        {
            "": Variant(
                "",
                f"name short? {WEIGHTS} bytes top1? top5? bundled usable license architecture width measured_on? url? "
                "sha256? sha256_prefix? source unloadable?",
            )
        },
    ),
    "model": Document(
        "What a model says of itself",
        "`fusiform info`",
        {
            "": Variant(
                f"network task file format {WEIGHTS}? bytes parameters multiply_adds classes labels label_ids? "
                "input_size input_channels padding input_type? output temperature? decoded? scores? output_stride? "
                "aspp? align_corners? resize crop fit interpolation antialias mean std color_order provenance? "
                "license?",
                "",
                {"answers": "answer shape", "accuracy": "measured_on top1 top5 images measured_by"},
            )
        },
    ),
    "engines": Document(
        "What a machine has to run models with",
        "`fusiform engines`",
        {
            "": Variant(
                "machine instructions cores kernels int8_engine float_engine why", "engine files version? install?"
            )
        },
    ),
    "analysis": Document(
        "A network layer by layer",
        "`fusiform analyze`",
        {
            "": Variant(
                "network task input_size classes parameters multiply_adds multiply_adds_tensorflow? bits peak_bytes "
                "peak_at expansions slices peak_sliced_bytes peak_sliced_at arena_bytes arena_sliced_bytes "
                "formula_bytes formula_sliced_bytes held_bytes",
                "layer operator kernel? dilation? stride? output_shape parameters multiply_adds bytes receptive_field",
                {"resolutions": "resolution channels bytes"},
            )
        },
    ),
    "evaluation": Document(
        "How good a model is on labelled images, with a row for each class",
        "`fusiform evaluate`",
        {
            "classification": Variant(
                f"{_EVALUATION} images skipped classes model_classes top1... top5... macro_f1 balanced_accuracy ece "
                "nll temperature best_temperature macro_average_precision?... macro_auroc?... certain? unknown_images? "
                "coverage?... set_size?... false_unknown?... "
                "auroc?... caught?... seconds",
                "class images precision recall f1",
                {
                    "most_confused": "true predicted images share",
                    "mistakes": "predicted confidence true probability path",
                    "slipped": "predicted p_known path",
                },
                {
                    "confusion": _CONFUSION,
                    "stress": or_null(_STRESS),
                    "curves": _CLASS_CURVES,
                    "decision": or_null(_DECISION),
                    **_of_evaluation(
                        "top1 other_top1 both only_model only_other neither p_value top1_difference...",
                        "temperature fitted_on images ece_before ece_after nll_before nll_after refused set_score "
                        "detected_by? detector_auroc?",
                    ),
                },
            ),
            "detection": Variant(
                f"{_EVALUATION} images skipped classes model_classes objects map?... map50?... map75? map_small? "
                "map_medium? map_large? resamples score found wrong precision? recall? seconds",
                "class objects ap? ap50? found wrong precision? recall?",
                {"worst_images": "path objects found missed wrong"},
                {"curves": _CURVES, **_of_evaluation(_compared("map", "map50"))},
            ),
            "segmentation": Variant(
                f"{_EVALUATION} multi_scale images skipped classes model_classes pixels miou?... pixel_accuracy?... "
                "resamples seconds",
                "class pixels iou? precision? recall?",
                {"worst_images": "path miou pixel_accuracy?"},
                {"confusion": _CONFUSION, **_of_evaluation(_compared("miou", "pixel_accuracy"))},
            ),
        },
    ),
    "training": Document(
        "What the best weights of a training reach",
        "`fusiform train`, `report.json` of a run",
        {
            "classification": Variant(f"{_TRAINED} top1?... top5? seconds"),
            "detection": Variant(f"{_TRAINED} map? map50? seconds"),
            "segmentation": Variant(f"{_TRAINED} miou? pixel_accuracy? seconds"),
        },
    ),
    "embeddings": Document(
        "Features of images, kept in a file",
        "`fusiform embed`",
        {"": Variant("model sha256 network images feature_count unread file?")},
    ),
    "matches": Document(
        "The images of an index that are most similar to each query",
        "`fusiform search`",
        {"": Variant("images unread", "query rank path similarity")},
    ),
    "added_classes": Document(
        "Classes that were added to a model, with a row for each",
        "`fusiform add-class`",
        {"": Variant("model file classes data? images? top1_before? top1_after?", "class images recall?")},
    ),
    "learning_rate": Document(
        "A learning rate to begin with", "`fusiform train --find-lr`", {"": Variant("lr steps plot")}
    ),
    "diagnosis": Document(
        "What is wrong with a dataset, with a row for each finding",
        "`fusiform doctor`",
        {
            "classification": _diagnosis("images train_images? val_images? test_images?"),
            "detection": _diagnosis("objects train_objects? val_objects? test_objects? small", by_image=_DOUBTFUL),
            "segmentation": _diagnosis("images train_images? val_images? test_images? pixel_share", by_image=_DOUBTFUL),
        },
    ),
    "plan": Document(
        "Whether there are enough images, with a row for each class",
        "`fusiform plan`",
        {
            "": Variant(
                "data model measured split classes train_images test_images top1... images_to_tell images_to_compare "
                "doubted notes",
                "class train_images test_images recall? recall_low? recall_high? images_to_tell? doubted limit?",
                {
                    "curve": "train_images top1",
                    "more": "more_images train_images foretold foretold_low foretold_high foretold_gain",
                },
            )
        },
    ),
    "suggestions": Document(
        "The images to label next, a row for each, and the strangers apart",
        "`fusiform suggest`",
        {"": Variant("model images labelled_images? strangers notes", _SUGGESTED, {"strangers": _SUGGESTED})},
    ),
    "drift": Document(
        "Whether images are still as the reference, with a row for each thing that was measured",
        "`fusiform drift`",
        {"": Variant("model reference_images images false_alarms alarm_after? notes", _DRIFTED)},
    ),
    "export": Document(
        "The files that a model was exported to",
        "`fusiform export`, `NAME_export.json` beside the files",
        {
            "": Variant(
                f"model network task out {WEIGHTS} verified_on quantised? calibrated_error? layers_file?", _EXPORTED
            )
        },
    ),
    "verification": Document(
        "Whether a file gives the answers of the model that it was made from",
        "`fusiform verify`",
        {
            "classification": Variant(
                f"{_VERIFIED} {_ERRORS} agreement?... top1?... reference_top1?... drop?... p_value? "
                f"explained_error_features? max_error_features? features_error? features_cosine? {_LIMITS}",
                "kind batch images largest_error rms_error agreement? other_class",
            ),
            "detection": Variant(
                f"{_VERIFIED} {_ERRORS} explained_error_codes? max_error_codes? boxes? boxes_same? boxes_near? map? "
                f"reference_map? drop?... resamples? {_LIMITS}",
                "kind compared batch images largest_error? rms_error? count? same? near? map? reference_map? drop?...",
            ),
            "segmentation": Variant(
                f"{_VERIFIED} {_ERRORS} pixel_agreement? miou? reference_miou? drop?... resamples? {_LIMITS}",
                "kind compared batch images largest_error? rms_error? count? same? near? miou? reference_miou? "
                "drop?...",
            ),
        },
    ),
    "benchmark": Document(
        "How fast models are on a machine, with a row for each model, engine and number of threads",
        "`fusiform benchmark`",
        {
            "": Variant(
                "processor cores system python fusiform? timed_seconds rounds",
                f"model engine? {WEIGHTS}? threads? median_ms? p95_ms? best_ms? runs? decode_ms? images_per_second? "
                "workers? load_ms? memory_bytes? process_bytes? bytes? top1? map? miou? measured_on? error?",
                {"packages": "package version?"},
            )
        },
    ),
    "choice": Document(
        "The model that was chosen, with a row for each file and training",
        "`fusiform choose`",
        {
            "": Variant(
                f"model network input_size {WEIGHTS} median_ms slowest_ms bytes split images top1... run engine "
                "threads shortfall?",
                f"network input_size epochs val_top1 {WEIGHTS}? median_ms? bytes? run",
            )
        },
    ),
}
"""The reports, by the name that stands in their ``schema``."""


def json_schema(name: str) -> Schema:
    """The JSON Schema of a document, one of ``names()``; KeyError for any other.

    Example:
        >>> from fusiform.schemas import json_schema
        >>> json_schema("models")["properties"]["schema"]
        {'const': 'fusiform.models/1'}

    """
    head = {"$schema": DRAFT, "$id": f"urn:fusiform:{name}:{VERSIONS.get(name, 1)}"}
    if name in FILES:
        says, writers, body = FILES[name]
        return {**head, "title": says, "description": f"Written by {writers}.", **body}
    document = DOCUMENTS[name]
    head |= {"title": document.says, "description": f"Written by {document.writers}."}
    variants = [_report(name, task, variant) for task, variant in document.variants.items()]
    return {**head, **variants[0]} if len(variants) == 1 else {**head, "oneOf": variants}


def names() -> Sequence[str]:
    """The documents that there are schemas of."""
    return (*DOCUMENTS, *FILES)


def _report(name: str, task: str, variant: Variant) -> Schema:
    figures = object_of(variant.figures)
    if task:
        figures["properties"]["task"] = {"const": task}
    properties: dict[str, Schema] = {
        "schema": named(name),
        "title": {"type": "string", "description": "for people; what it says is in the figures"},
        "figures": figures,
        "rows": list_of(object_of(variant.rows)) if variant.rows else {"type": "array", "maxItems": 0},
        **{table: list_of(object_of(keys)) for table, keys in variant.tables.items()},
        **variant.more,
    }
    return closed(properties)


_IMAGE: dict[str, Schema] = {
    "path": {"type": "string", "description": "the image as it was named"},
    "error": {"type": "null"},
}
_SIZED: dict[str, Schema] = {
    **_IMAGE,
    "width": {"type": "integer", "minimum": 1},
    "height": {"type": "integer", "minimum": 1},
}


def _prediction() -> Schema:
    """An image with what the model says of it, or with an error."""
    share = UNITS["share"]
    box = {
        **CLASS,
        "score": share,
        "bbox": {
            "type": "array",
            "description": "left, top, width and height in pixels of the upright image",
            "items": {"type": "number"},
            "minItems": 4,
            "maxItems": 4,
        },
    }
    mask = {
        "type": ["string", "null"],
        "description": "the file of --masks; of a server that is asked with mask=png the PNG file in base64",
    }
    rle = {
        **closed({"size": UNITS["shape"], "counts": {"type": "string"}}),
        "description": "of a server that is asked with mask=rle: the class's pixels in COCO's compressed run lengths",
    }
    named_classes = list_of(closed({**CLASS, "probability": share}))
    promised: dict[str, Schema] = {
        "set": {**named_classes, "description": "of a calibrated model: the right class is among these, as promised"},
        "known": {"type": ["boolean", "null"], "description": "whether it shows any of the classes; null: not told"},
        "p_known": value_of(KEYS["p_known"], null=True),
        "certain": value_of(KEYS["certain"]),
    }
    ruled: dict[str, Schema] = {
        "rule": {
            "enum": ["thresholds", "costs"],
            "description": "what the model decides by; top begins with its class",
        },
        "decided": {**or_null(closed(CLASS)), "description": "the class that the rule gives; null: none"},
    }
    shown = closed({**CLASS, "share": share, "rle": rle}, optional=("rle",))
    return {
        "oneOf": [
            closed({**_IMAGE, "error": {"type": "string", "description": "why there is no answer"}}),
            closed({**_IMAGE, "top": named_classes}),
            closed({**_IMAGE, "top": named_classes, **promised}),
            closed({**_IMAGE, "top": named_classes, **promised, **ruled}),
            closed({**_SIZED, "boxes": list_of(closed(box))}),
            closed({**_SIZED, "classes": list_of(shown), "mask": mask}),
        ]
    }


def _predictions(name: str = "predictions", keys: str = "") -> Schema:
    fields = {"schema": named(name), "network": value_of(KEYS["network"]), "task": {"enum": list(TASKS)}}
    return closed({**fields, "predictions": list_of(_placed(keys))})


def _placed(keys: str) -> Schema:
    """As a prediction, with ``keys`` in front of the others that say which picture it is."""
    place = object_of(keys)["properties"]
    return {"oneOf": [closed({**place, **each["properties"]}) for each in _prediction()["oneOf"]]}


def _epoch() -> Schema:
    """A line of metrics.jsonl: the first has what training starts from, and none has what is not measured."""
    always = object_of("phase epoch step")
    more = object_of(
        "lr train_loss train_top1 train_object_accuracy train_pixel_accuracy images_per_second waited seconds val_loss "
        "val_top1 val_map val_map50 val_miou val_pixel_accuracy val_images"
    )
    return closed({**always["properties"], **more["properties"]}, optional=list(more["properties"]))


def _search() -> Schema:
    """choose.json."""
    plan = "network architecture width input_size"
    times = list_of({"type": "number", "minimum": 0})
    candidate = object_of(f"{plan} {WEIGHTS} median_ms bytes multiply_adds fits")["properties"]
    file = object_of(f"{plan} {WEIGHTS} file median_ms bytes val_top1 holds")["properties"]
    recipe = {"type": "object", "description": "the hyperparameters, as in recipe.json"}
    chosen = {**object_of(DOCUMENTS["choice"].variants[""].figures)}
    return closed(
        {
            "schema": named("search"),
            "data": {"type": "string"},
            "classes": {**TEXTS, "description": "the names of the classes"},
            "recipe": recipe,
            "distillation": recipe,
            "engine": value_of(KEYS["engine"]),
            "threads": value_of(KEYS["threads"]),
            "noise": {
                "type": "number",
                "minimum": 0,
                "description": "the share by which latencies vary",
            },
            "budget": object_of("median_ms? bytes? top1?"),
            "candidates": list_of(closed({**candidate, "passes_ms": times})),
            "trainings": list_of(object_of(f"{plan} epochs distilled val_top1 val_loss seconds run")),
            "files": list_of(closed({**file, "checks_ms": times})),
            "chosen": or_null(chosen),
        }
    )


_SERVER = "`fusiform serve`"
FILES: dict[str, tuple[str, str, Schema]] = {
    "predictions": ("What a model says of images", "`fusiform predict` and `fusiform serve`", _predictions()),
    "prediction": ("What a model says of an image", "`fusiform predict --format jsonl`, a line each", _prediction()),
    "frames": ("What a model says of a video", "`fusiform predict --video`", _predictions("frames", _FRAME)),
    "frame": ("What a model says of a frame", "`fusiform predict --video --format jsonl`", _placed(_FRAME)),
    "watched": ("What a model says of a file in a folder", "`fusiform watch`, a line each", _placed("bytes modified")),
    "epoch": ("What an epoch of a training came to", "`metrics.jsonl` of a run, a line each", _epoch()),
    "run": ("What was asked of a training", "`run.json` of a run", records.run()),
    "environment": ("Where a training took place", "`environment.json` of a run", records.environment()),
    "use": ("What test images were used for", "`evaluations.jsonl` of a run, a line each", records.use()),
    "parts": ("What a folder of parts was begun with", "`parts.json` of `fusiform predict --part`", records.parts()),
    "answers": (
        "What a folder of answers was begun with",
        "`parts.json` of `fusiform evaluate --part`",
        records.answers(),
    ),
    "feature_parts": (
        "What a folder of features was begun with",
        "`parts.json` of `fusiform embed --part`",
        records.feature_parts(),
    ),
    "search": ("All that a search measured", "`choose.json`", _search()),
    "golden": (
        "Inputs and the answers that are expected of an exported file",
        "`golden.json` of `fusiform export --golden`",
        records.golden(),
    ),
    "spec": ("What a model says of itself, in its file", "every file with a model", records.spec()),
    "served": ("The models of a server", f"{_SERVER}, `/v1/models`", served()),
    "served_model": (
        "What a served model says of itself",
        f"{_SERVER}, `/v1/models/NAME`",
        served_model(records.spec()),
    ),
    "refusal": ("Why a request was not answered", f"{_SERVER}, with a status from 400 on", refusal()),
}
"""The other documents: title, what writes them, and the schema."""
