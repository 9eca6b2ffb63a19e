"""The model card of a model: the sections of Mitchell et al., Model Cards for Model Reporting (arXiv 1810.03993).

What nobody but the author knows is asked, and never made up.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fusiform.advice.cards.facts import Facts
from fusiform.advice.cards.licences import hub_licence, library_rows
from fusiform.advice.cards.personal import NOTE
from fusiform.advice.cards.sections import Block, Items, Questions, Section, Table, interval, percent, plural
from fusiform.evaluation.uses import learned_from, widen
from fusiform.report import Cell, cell_text, value_text
from fusiform.tables import TRAITS
from fusiform.tasks.bootstrap import Interval

FEW_IMAGES = 20
"""Images of a class from which its figures say something about it."""
SHOWN_CLASSES = 200
"""Classes that a table has at most."""
NAMED_CLASSES = 50
"""Classes that are named at most."""
WIDE_INTERVAL = 0.06
MAIN = {"classification": ("top1", "top-1 accuracy"), "detection": ("map", "mAP"), "segmentation": ("miou", "mean IoU")}
"""The figure that decides, by the task: its key, and what people call it."""
_PIPELINES = {
    "classification": "image-classification",
    "detection": "object-detection",
    "segmentation": "image-segmentation",
}
_HUB_METRICS = {"top1": "accuracy", "map": "map", "miou": "mean_iou"}
_DOES = {
    "classification": "names what an image shows, one of {classes}",
    "detection": "finds objects of {classes} in an image, with a box and a confidence score for each",
    "segmentation": "says of each pixel of an image which of {classes} it shows",
}


class Reached(NamedTuple):
    """The figure that decides: its key, what it is called, its interval, and the images that it is of.

    ``models`` are how many may have been chosen among by these images, ``widened`` the interval that holds for all.
    ``data`` is the name of the dataset, and ``held_out`` whether it is the run's own.
    """

    key: str
    what: str
    value: float
    low: float | None
    high: float | None
    split: str
    images: int
    models: int
    widened: Interval
    data: str
    held_out: bool = False
    of_spec: bool = False


def reached(facts: Facts) -> Reached | None:
    """The figure on most test images, or the training's, or the one in the file; None where there is none."""
    key, what = MAIN[facts.spec.task]
    figures = facts.use.line["figures"] if facts.use else facts.reached
    value, low, high = (_number(figures.get(f"{key}{end}")) for end in ("", "_low", "_high"))
    images = figures.get("images")
    if value is not None and isinstance(images, int):
        split = str(facts.use.line["split"] if facts.use else figures.get("split"))
        models = facts.use.runs if facts.use else 1
        if split == "val":
            models = max(1, facts.epochs) * (int(facts.chosen["trainings"]) if facts.chosen else 1)
        widened = widen(Interval(value, low, high), models, images)
        source = str(figures.get("data") or facts.settings.get("data", ""))
        held_out = split == "test" and facts.run is not None and learned_from(facts.run, Path(source))
        return Reached(key, what, value, low, high, split, images, models, widened, Path(source).name, held_out)
    if facts.spec.accuracy:
        stated = facts.spec.accuracy[-1]
        none = Interval(stated.top1, None, None)
        return Reached(key, what, stated.top1, None, None, "", stated.pictures, 1, none, stated.dataset, of_spec=True)
    return None


def front_matter(facts: Facts) -> dict[str, Any]:
    """The metadata of Hugging Face's model cards (https://huggingface.co/docs/hub/model-cards), by its names.

    Identifiers of the Hub's own datasets and base models are not known, and left out.
    """
    spec = facts.spec
    found: dict[str, Any] = {}
    if spec.license:
        known = hub_licence(spec.license)
        found |= {"license": known} if known else {"license": "other", "license_name": spec.license}
    found |= {
        "library_name": "fusiform",
        "pipeline_tag": _PIPELINES[spec.task],
        "tags": [spec.architecture.replace("_", "-"), spec.task],
    }
    best = reached(facts)
    if best is not None:
        split = {"split": best.split} if best.split in ("test", "val") else {}
        dataset = {"type": best.data, "name": best.data, **split}
        metric = {"type": _HUB_METRICS[best.key], "value": float(f"{best.value:.6g}"), "name": best.what}
        task = {"type": _PIPELINES[spec.task]}
        found["metrics"] = [_HUB_METRICS[best.key]]
        found["model-index"] = [
            {"name": facts.name, "results": [{"task": task, "dataset": dataset, "metrics": [metric]}]}
        ]
    return found


def lead(facts: Facts) -> str:
    """A sentence or two that say it all."""
    spec = facts.spec
    classes = plural(spec.num_classes, "class").replace("classs", "classes")
    text = f"{TRAITS[spec.architecture].title} {spec.width!r} that {_DOES[spec.task].format(classes=classes)}."
    best = reached(facts)
    if best is None:
        return f"{text} How good it is has not been measured."
    ends = interval(best.low, best.high)
    known = f" (95 % interval {ends})" if ends else ""
    if best.of_spec:
        return f"{text} Its {best.what} is {percent(best.value)}{known} on {best.data}."
    of = {"test": "test images", "val": "validation images"}.get(best.split, "images")
    return f"{text} Its {best.what} is {percent(best.value)}{known} on {best.images:,} {of} of {best.data}."


def model_card(facts: Facts) -> list[Section]:
    """All sections."""
    sections = [
        Section("Model details", list(_details(facts))),
        Section("Intended use", list(_use(facts))),
        Section("Factors", list(_factors(facts))),
        Section("Metrics", list(_metrics(facts))),
        Section("Evaluation data", list(_evaluation_data(facts))),
        Section("Training data", list(_training_data(facts))),
        Section("Quantitative analyses", list(_analyses(facts))),
        Section("Ethical considerations", list(_ethics(facts))),
        Section("Caveats and recommendations", [Items(list(caveats(facts)))]),
        Section("Licences", list(_licences(facts))),
        Section("Hyperparameters", list(_hyperparameters(facts)), folded=True),
    ]
    return [section for section in sections if section.blocks]


def _details(facts: Facts) -> Iterator[Block]:
    spec, about, environment = facts.spec, facts.about, facts.environment
    figures: dict[str, Cell] = {
        "network": spec.name,
        "task": spec.task,
        "classes": spec.num_classes,
        "input": f"{spec.input_size} x {spec.input_size} pixels",
        "file": facts.model.path.name,
        "size": value_text("bytes", about["bytes"]),
        "parameters": about["parameters"],
        "multiply-adds": about["multiply_adds"],
        "weights": str(about["precision"]),
        "trained": str(environment.get("started", "")).partition("T")[0],
        "with": f"fusiform {environment['fusiform']}" if environment.get("fusiform") else "",
        "started from": str(facts.settings.get("model", "")).replace("\\", "/").rpartition("/")[2]
        + (", random weights" if facts.settings.get("scratch") else ""),
        "origin": spec.provenance,
        "temperature": f"{spec.temperature:.3g}" if spec.temperature != 1 else "",
    }
    yield {name: value for name, value in figures.items() if value not in ("", None)}
    shown = spec.labels[:NAMED_CLASSES]
    rest = f", and {spec.num_classes - len(shown):,} more" if len(shown) < spec.num_classes else ""
    yield f"Classes: {', '.join(shown)}{rest}."
    if spec.certainty is not None:
        yield (
            "It states how sure it is: sets of names that hold the right one for "
            f"{spec.certainty.sets.coverage:.0%} of images like those it was calibrated on "
            f"({spec.certainty.source or 'not stated'})"
            + (", and whether an image shows none of the classes." if spec.certainty.unknown is not None else ".")
        )
    yield Questions(["Who made the model, and whom does one ask or tell of faults?", "How is it to be cited?"])


def _use(facts: Facts) -> Iterator[Block]:
    spec = facts.spec
    told = spec.certainty is not None and spec.certainty.unknown is not None
    if spec.task == "classification":
        yield (
            "Images that show none of its classes are out of scope: it names one of them all the same"
            + (", though it says of most such images that they are unknown." if told else ", and does not say so.")
        )
    else:
        yield "What is of none of its classes it takes for background, or for the class that looks most like it."
    yield Questions(
        [
            "What is the model for, and who is to use it?",
            "What is it not to be used for, though it might seem fit?",
        ]
    )


def _factors(facts: Facts) -> Iterator[Block]:
    measured = "the class" + (", and corruption of the image" if facts.use and facts.use.line.get("stress") else "")
    yield f"Figures below are told apart by {measured}. No other factor was measured."
    yield Questions(
        [
            "On what else may its answers depend: camera, light, season, place, people shown?",
            "Are there groups of people or things for which it should be measured apart?",
        ]
    )


def _metrics(facts: Facts) -> Iterator[Block]:
    yield {
        "classification": "Top-1 accuracy: the share of images whose likeliest class is the true one, with Wilson's "
        "95 % interval. Precision, recall and F1 of each class.",
        "detection": "COCO's mean average precision at intersections over union of 0.50 to 0.95, with 95 % intervals "
        "by the bootstrap over images.",
        "segmentation": "The mean over classes of the intersection over union, with 95 % intervals by the bootstrap "
        "over images.",
    }[facts.spec.task]


def _evaluation_data(facts: Facts) -> Iterator[Block]:
    best = reached(facts)
    if best is None:
        return
    if best.of_spec:
        yield f"{best.data}, as the model's file says."
        return
    where = {
        "test": f"the split test of {best.data}",
        "val": f"the split val of {best.data}, which chose the best epoch",
    }.get(best.split, best.data)
    if best.held_out:
        where += ", which took no part in training"
    elif best.split != "val":
        where += ". It is another dataset than the one that was learned from; whether they share images is not known"
    yield f"{best.images:,} images of {where}."
    if facts.use:
        yield {
            "measured": str(facts.use.line["date"]).partition("T")[0],
            "SHA-256 of the images": str(facts.use.line["images_sha256"]),
            "uses of these images": f"{facts.use.times:,}, for {plural(facts.use.runs, 'run')} beside each other",
        }
    if best.models > 1:
        who = "epochs" if best.split == "val" else "runs"
        if facts.chosen and best.split == "val":
            who = f"epochs of {facts.chosen['trainings']} trainings"
        text = (
            f"If it is the best of {best.models:,} {who} on these images, it was chosen by them, and is rather too good"
        )
        if ends := interval(best.widened.low, best.widened.high):
            text += f": an interval that holds for all {best.models:,} together for 95 % (Bonferroni) is {ends} %"
        yield f"{text}."


def _training_data(facts: Facts) -> Iterator[Block]:
    data = facts.data
    if data is None:
        yield Questions(["What did it learn from?"])
        return
    splits = ", ".join(f"{count:,} {split}" for split, count in data.splits.items())
    if facts.run is None:
        yield f"The dataset that was named, {data.name}, has {splits} images; whether it learned from it is unknown."
    else:
        val = data.splits.get("val", 0)
        chose = f" {plural(val, 'image')} of val chose the best epoch." if val and facts.recipe.get("epochs") else ""
        yield f"It learned from {plural(data.splits.get('train', 0), 'image')} of {data.name}.{chose}"
    yield "The data sheet has more."
    if data.change:
        yield data.change


def _analyses(facts: Facts) -> Iterator[Block]:
    best = reached(facts)
    if best is None:
        yield "It has not been measured: fusiform evaluate MODEL DATA does."
        return
    line: Mapping[str, Any] = facts.use.line if facts.use else {"figures": facts.reached, "rows": [], "stress": None}
    rows = list(_overall(line["figures"])) or [{"figure": best.what, "value": percent(best.value)}]
    yield Table(rows, "All images")
    if line["rows"]:
        yield Table([_class_row(row) for row in line["rows"][:SHOWN_CLASSES]], "Each class")
    stress = line.get("stress")
    if isinstance(stress, dict):
        yield (
            f"On images with ImageNet-C's fifteen corruptions at five strengths it is right for "
            f"{percent(stress.get('corrupted_top1'))} "
            f"({interval(stress.get('corrupted_top1_low'), stress.get('corrupted_top1_high'))}), "
            f"against {percent(stress.get('clean_top1'))} on the same images as they are."
        )
        corruptions = sorted(stress.get("corruptions") or [], key=lambda row: float(row.get("top1") or 0))
        yield Table(
            [
                {
                    "corruption": str(row.get("corruption")).replace("_", " "),
                    "top-1": percent(row.get("top1")),
                    "95 % interval": interval(row.get("top1_low"), row.get("top1_high")),
                }
                for row in corruptions
            ],
            "Corrupted images, the worst first",
        )
    if facts.exported:
        yield Table([_exported_row(row, facts.spec.task) for row in facts.exported], "Exported files")
    if facts.chosen:
        yield Table(
            [
                {
                    "file": str(facts.chosen.get("model", "")).replace("\\", "/").rpartition("/")[2],
                    "runtime": str(facts.chosen.get("engine", "")),
                    "threads": cell_text(facts.chosen.get("threads")),
                    "median latency": value_text("median_ms", facts.chosen.get("median_ms")),
                    "size": value_text("bytes", facts.chosen.get("bytes")),
                }
            ],
            "Latency, measured by fusiform choose on the machine of the training",
        )


_OVERALL = {
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "ece": "calibration error",
    "coverage": "sets with the right name, promised for {certain}",
    "set_size": "names in a set",
    "false_unknown": "known, but called unknown",
    "caught": "unknown, and called so",
    "auroc": "AUROC of unknown images",
    "map": "mAP",
    "map50": "mAP at IoU 0.50",
    "map75": "mAP at IoU 0.75",
    "precision": "precision",
    "recall": "recall",
    "miou": "mean IoU",
    "pixel_accuracy": "pixels right",
}


def _overall(figures: Mapping[str, Any]) -> Iterator[dict[str, Cell]]:
    for key, name in _OVERALL.items():
        value, low, high = (_number(figures.get(f"{key}{end}")) for end in ("", "_low", "_high"))
        if value is None or (key == "top5" and int(figures.get("model_classes") or 6) <= 5):
            continue
        shown = f"{value:.2f}" if key == "set_size" else percent(value)
        ends = interval(low, high)
        if key == "set_size" and low is not None and high is not None:
            ends = f"{low:.2f} to {high:.2f}"
        yield {"figure": name.format(certain=percent(figures.get("certain"))), "value": shown, "95 % interval": ends}


def _class_row(row: Mapping[str, Any]) -> dict[str, Cell]:
    counts = {name: row[name] for name in ("images", "objects", "pixels") if isinstance(row.get(name), int)}
    shares = {"ap": "AP", "ap50": "AP at IoU 0.50", "iou": "IoU", "precision": "precision", "recall": "recall"}
    shares["f1"] = "F1"
    found = {label: percent(row[name]) for name, label in shares.items() if name in row}
    return {"class": str(row.get("class")), **counts, **found}


def _exported_row(row: Mapping[str, Any], task: str) -> dict[str, Cell]:
    key, what = MAIN[task]
    return {
        "file": str(row["file"]),
        "target": str(row.get("target")),
        "weights": str(row.get("precision")),
        "size": value_text("bytes", row.get("bytes")),
        what: percent(row.get(key)),
        "of the model": percent(row.get(f"reference_{key}")),
        "same answer": percent(row.get("agreement")),
    }


def _ethics(facts: Facts) -> Iterator[Block]:
    personal = facts.data.personal if facts.data else None
    if personal is not None:
        rows = personal.rows()
        if [row for row in rows if row["in the files"] != NOTE]:
            yield (
                "The files of the images say something of people beside what the images show. A network does not see "
                "it, but whoever gets the images does."
            )
            yield Table(rows, "EXIF, XMP and IPTC of the images")
        else:
            yield "No position, place, name, serial number or face was found in EXIF, XMP and IPTC of the images."
    yield Questions(
        [
            "Do the images show people, or what belongs to them, and did they agree?",
            "Who may be harmed by a wrong answer, or by a right one?",
        ]
    )


def caveats(facts: Facts) -> Iterator[str]:
    """The limits that were found, and what could not be looked at."""
    best = reached(facts)
    spec, data = facts.spec, facts.data
    if best is None:
        yield "It was not measured on images that took no part in training."
    elif best.split == "val":
        yield (
            "There was no test split: the figures are of the validation images, which chose the best epoch, and are "
            "rather too good."
        )
    if best is not None and best.split != "val" and best.models > 1:
        yield f"{best.models:,} runs were measured on the same test images: see the wider interval above."
    if best is not None and best.low is not None and best.high is not None and best.high - best.low > WIDE_INTERVAL:
        yield (
            f"The 95 % interval is {100 * (best.high - best.low):.0f} points wide: differences smaller than that "
            f"cannot be seen on {best.images:,} images."
        )
    line: Mapping[str, Any] = facts.use.line if facts.use else {}
    rows = [row for row in line.get("rows", ()) if isinstance(row.get("images"), int)]
    if few := [str(row["class"]) for row in rows if row["images"] < FEW_IMAGES]:
        yield f"Fewer than {FEW_IMAGES} images were measured of {_some(few)}: their own figures say little."
    scored = [row for row in rows if row["images"] >= FEW_IMAGES and isinstance(row.get("recall"), float)]
    if len(scored) > 1:
        worst = min(scored, key=lambda row: float(row["recall"]))
        yield f"It is worst at {worst['class']}, of whose images it names {percent(worst['recall'])} rightly."
    if skipped := line.get("figures", {}).get("skipped"):
        yield f"{skipped:,} images could not be read and count in no figure."
    if spec.task == "classification":
        yield from _of_classifiers(facts, line)
    if data is not None and data.change:
        yield data.change
    if data is not None and data.personal is not None and data.personal.unread:
        yield f"{data.personal.unread:,} images could not be searched for EXIF, XMP and IPTC."
    yield "Images unlike those that it learned from were not measured: other cameras, places and times may be harder."


def _of_classifiers(facts: Facts, line: Mapping[str, Any]) -> Iterator[str]:
    certainty = facts.spec.certainty
    if certainty is None:
        yield "It is not calibrated: its confidence is no probability, and it never says that an image is unknown."
    elif facts.run is not None and certainty.source.endswith("(val)"):
        yield (
            "Temperature, sets of names and the threshold for unknown images were fitted on the validation images, "
            "which had helped to choose the best epoch: the promises are a little too good. fusiform evaluate MODEL "
            "DATA --calibrate FILE takes others."
        )
    if line and not line.get("stress"):
        yield "Corrupted images were not measured (fusiform evaluate MODEL DATA --stress)."


def _licences(facts: Facts) -> Iterator[Block]:
    spec = facts.spec
    stated = spec.license or "not stated"
    yield f"The licence that the model's file states, that of the weights it began with: {stated}."
    versions = {"fusiform": facts.environment.get("fusiform"), **(facts.environment.get("packages") or {})}
    yield Table(library_rows(spec.task, versions), "Packages that it was made with, as they state their licences")
    yield Questions(["Under which licence is the model given to others?"])


def _hyperparameters(facts: Facts) -> Iterator[Block]:
    if not facts.recipe:
        return
    from fusiform.training.recipe import Recipe

    plain = {field.name: field.default for field in dataclasses.fields(Recipe)}
    yield f"Recipe {facts.recipe.get('name')}; what is not named is at its default."
    yield {
        name: cell_text(tuple(value) if isinstance(value, list) else value)
        for name, value in facts.recipe.items()
        if name not in ("name", "task") and value != _plain(plain.get(name))
    }


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _some(names: list[str], shown: int = 5) -> str:
    rest = f" and {len(names) - shown:,} more classes" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)
