"""Golden folders: inputs with the answers that are expected of a file, for the tests of programs in any language.

Beside ``NAME`` lies ``NAME_golden/``: the bytes of each input tensor and of each answer, the input as an image, and
``golden.json``, which says what they are and how far another build of the runtime may be off. A page's folder has them
inside, in ``golden/``, where its self-test reads them.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusiform.data.annotated import AnnotatedSample
from fusiform.data.dataset import Sample
from fusiform.data.preprocess import crop_pixels
from fusiform.errors import ImageError, WeightsError
from fusiform.exporting.runtimes import Plain, Values, open_plain
from fusiform.exporting.targets.base import Precision, Written
from fusiform.exporting.targets.web import PAGE_GOLDEN, is_page, tell_of_golden
from fusiform.exporting.verification.parity import MIN_AGREEMENT, NEAR_BOX, SAME_BOX, Parity
from fusiform.exporting.verification.verify import evenly, smooth_image
from fusiform.files import write_file
from fusiform.spec import ModelSpec, Preprocess
from fusiform.tasks.detection import EVALUATED_SCORE, SCORE_THRESHOLD, detect
from fusiform.zoo.model import Model, open_model

SCHEMA = "fusiform.golden/1"
DESCRIPTION = "golden.json"


OTHER_KERNELS = (0.1, 0.2)
"""The tolerance of an int8 file's logits is what its verification allows, but neither less nor more than this.

Verification holds the file against the float model; here another build of its runtime is held against this one, in
which a step of rounding in a layer is many in the last. LiteRT's own three sets of kernels (XNNPACK's, the optimised,
the reference ones) were 0.08 apart with the bundled MobileNetV2 and 0.05 with ShuffleNetV2, root mean square of the
logits over 34 images, and 0.11 over three; single probabilities by half of the largest. Colours in the wrong order were
0.23 with the bundled networks and a flipped image 0.22; a network that hardly looks at colours can differ by less.
"""
_SMALLEST = 1e-30
"""Probabilities below are taken for it before their logarithm."""

Compare = Literal["largest", "rms", "log_rms", "classes", "boxes"]


class Rule(NamedTuple):
    """How an answer is compared, and the ``tolerance`` as a share.

    ``largest`` is the largest difference of a number, against the largest number; ``rms`` the root mean square of the
    differences, against the numbers' own; ``log_rms`` the same of the natural logarithms less their mean, for
    probabilities; ``classes`` the share of pixels of another likeliest class; ``boxes`` compares no numbers: two boxes
    of nearly the same score may change places.
    """

    compare: Compare
    tolerance: float | None


class Chosen(NamedTuple):
    """An input: its pixels (height, width, 3), uint8 in the spec's colour order, and where they are from."""

    pixels: NDArray[np.uint8]
    source: str
    label: str | None


def golden_folder(file: Path) -> Path:
    """Where the golden folder of an exported file or folder lies: in a page's folder, or else beside it."""
    return file / PAGE_GOLDEN if is_page(file) else file.with_name(f"{file.name}_golden")


def choose_inputs(
    samples: Sequence[Sample | AnnotatedSample], spec: ModelSpec, count: int, *, labelled: bool
) -> list[Chosen]:
    """``count`` inputs: photographs, those with a label first and each kind evenly, then synthetic images.

    What cannot be read is passed over. The same samples give the same inputs.
    """
    chosen: list[Chosen] = []
    for sample in _in_turn(samples, count, labelled=labelled):
        if len(chosen) == count:
            break
        try:
            pixels = crop_pixels(sample.read(), spec.preprocess)
        except ImageError:
            continue
        known = labelled and isinstance(sample, Sample) and sample.label >= 0
        label = spec.labels[sample.label] if known and isinstance(sample, Sample) else None
        # Its name alone: the folders of this machine are nobody's business.
        chosen.append(Chosen(pixels, PurePath(sample.name).name, label))
    random = np.random.default_rng(0)
    for k in range(1, count - len(chosen) + 1):
        pixels = crop_pixels(smooth_image(random, _photograph(spec.preprocess)), spec.preprocess)
        chosen.append(Chosen(pixels, f"synthetic image {k}", None))
    return chosen


def _in_turn(
    samples: Sequence[Sample | AnnotatedSample], count: int, *, labelled: bool
) -> Iterator[Sample | AnnotatedSample]:
    """All samples in the order in which they are to be tried."""
    first = [sample for sample in samples if labelled and _has_label(sample)]
    others = [sample for sample in samples if not (labelled and _has_label(sample))]
    for group in (first, others):
        spread = evenly(group, count) if group else []
        yield from spread
        taken = {id(sample) for sample in spread}
        yield from (sample for sample in group if id(sample) not in taken)


def _has_label(sample: Sample | AnnotatedSample) -> bool:
    return sample.label >= 0 if isinstance(sample, Sample) else bool(sample.boxes) or sample.has_mask


def _photograph(preprocess: Preprocess) -> tuple[int, int]:
    """The size of a synthetic image: oblong where the network sees whole photographs, so that padding shows."""
    side = preprocess.resize
    return (side, side) if preprocess.fit == "crop" else (side, max(1, 3 * side // 4))


def write_golden(
    written: Written,
    network: Parity,
    samples: Sequence[Sample | AnnotatedSample],
    count: int,
    *,
    labelled: bool,
    precision: Precision,
) -> Path:
    """Write the golden folder of a file that has passed, beside it; ``choose_inputs`` of the ``samples`` for it.

    ``network`` is what its verification found, of a decoded file that of the same file before it decoded. Raises
    WeightsError where the runtime's plain answers are not those that were verified, OutputError where nothing can be
    written.
    """
    model = open_model(written.path)
    plain = open_plain(model)
    inputs = choose_inputs(samples, model.spec, count, labelled=labelled)
    place = golden_folder(written.path)
    folder = place.parent
    place.mkdir()
    rules = [_rule(name, model.spec, network) for name in plain.names]
    given, answers = plain.feed(inputs[0].pixels), plain.run(inputs[0].pixels)
    # Run twice, because those of a segmenter that decodes would fill the memory.
    sizes = [[_size(values, rule) for values, rule in zip(plain.run(one.pixels), rules, strict=True)] for one in inputs]
    allowed = [_allowed(each, rule) for each, rule in zip(zip(*sizes, strict=True), rules, strict=True)]
    cases = [
        _write_case(place, f"{k:03}", one, model, plain, rules, [each[k] for each in allowed])
        for k, one in enumerate(inputs)
    ]
    spec = model.spec
    normalised = plain.reads == "normalized"
    mean, std = (list(values) if normalised else None for values in (spec.preprocess.mean, spec.preprocess.std))
    reads = plain.reads if plain.reads in ("normalized", "image") else "pixels"
    description = {
        "schema": SCHEMA,
        "file": model.path.relative_to(folder).as_posix(),
        "files": [{"path": p.relative_to(folder).as_posix(), "sha256": _sha256(p.read_bytes())} for p in _files(model)],
        "network": spec.name,
        "task": spec.task,
        "precision": precision,
        "runtime": plain.runtime,
        "input": {
            "name": plain.input_name,
            **_type(given),
            "layout": plain.layout,
            "reads": reads,
            "color_order": spec.preprocess.color_order,
            "mean": mean,
            "std": std,
        },
        "outputs": [
            {"name": name, **_type(values), **rule._asdict()}
            for name, values, rule in zip(plain.names, answers, rules, strict=True)
        ],
        "min_iou": (NEAR_BOX if precision == "int8" else SAME_BOX) if spec.task == "detection" else None,
        "cases": cases,
    }
    write_file(place / DESCRIPTION, (json.dumps(description, indent=1, ensure_ascii=False) + "\n").encode())
    if is_page(written.path):
        tell_of_golden(written.path)
    return place


def _write_case(
    place: Path,
    number: str,
    chosen: Chosen,
    model: Model,
    plain: Plain,
    rules: Sequence[Rule],
    allowed: Sequence[float | None],
) -> dict[str, Any]:
    """Write an input and its answers; what the description says of them."""
    answers = plain.run(chosen.pixels)
    verified = plain.engine.run(chosen.pixels[None])
    same = all(np.isfinite(values).all() for values in answers)
    if same and not model.spec.decoded:  # what decoded files answer has another form in verification
        for values, other, rule, largest in zip(answers, verified.values(), rules, allowed, strict=True):
            apart = _measure(_scaled(values, rule) - _scaled(other, rule), rule)
            same = same and largest is not None and apart <= largest
    if not same:
        raise WeightsError(f"{model.path}: does not answer the golden inputs as it does in verification: export again")
    outputs = [
        {**_write(place / f"{number}_{name}.bin", _bytes(values)), "allowed": largest}
        for name, values, largest in zip(plain.names, answers, allowed, strict=True)
    ]
    return {
        "source": chosen.source,
        "label": chosen.label,
        "image": _write(place / f"{number}.png", _png(chosen.pixels, model.spec.preprocess)),
        "input": _write(place / f"{number}_input.bin", _bytes(plain.feed(chosen.pixels))),
        "outputs": outputs,
        **_meaning(model.spec, answers, verified, rules[0], allowed[0]),
    }


def _rule(name: str, spec: ModelSpec, network: Parity) -> Rule:
    """How an answer is compared: as in verification, for int8 numbers within ``OTHER_KERNELS``."""
    if spec.decoded and spec.task == "detection":
        return Rule("boxes", None)
    if network.tolerance is not None:
        return Rule("largest", network.tolerance)
    if spec.decoded:
        return Rule("classes", _rounded(1 - MIN_AGREEMENT))
    least, most = OTHER_KERNELS
    explained = network.max_error.get(name, network.max_error["logits"])  # of probabilities that of their logits
    return Rule("log_rms" if name == "probabilities" else "rms", _rounded(min(max(explained, least), most)))


def _allowed(sizes: Sequence[float], rule: Rule) -> list[float | None]:
    """The largest difference from each expected answer, whose sizes are given, in the measure of the rule.

    As in verification a largest difference is held against the numbers of the same image, a mean against all images'.
    """
    if rule.tolerance is None or rule.compare == "classes":
        return [rule.tolerance] * len(sizes)
    if rule.compare != "largest":
        sizes = [float(np.sqrt(np.mean(np.square(sizes))))] * len(sizes)
    return [_rounded(rule.tolerance * size) for size in sizes]


def _size(values: Values, rule: Rule) -> float:
    return _measure(_scaled(values, rule), rule)


def _scaled(values: Values, rule: Rule) -> NDArray[np.float64]:
    """The numbers that are compared."""
    given: NDArray[np.float64] = values.astype(np.float64)
    if rule.compare != "log_rms":
        return given
    logs: NDArray[np.float64] = np.log(np.maximum(given, _SMALLEST))
    logs -= logs.mean()
    return logs


def _measure(values: NDArray[np.float64], rule: Rule) -> float:
    return float(np.abs(values).max() if rule.compare == "largest" else np.sqrt((values**2).mean()))


def _meaning(
    spec: ModelSpec, answers: Sequence[Values], verified: Mapping[str, Values], rule: Rule, allowed: float | None
) -> dict[str, Any]:
    """What an answer says: the likeliest class, and a detector's boxes with their edges as shares of the input."""
    if spec.task == "detection":
        side = spec.input_size
        (found,) = detect(verified, spec, sizes=[(side, side)], score_threshold=EVALUATED_SCORE)
        seen = [box for box in found.boxes if box.score > SCORE_THRESHOLD] or list(found.boxes[:1])
        boxes = [
            {"index": box.index, "name": box.name, "score": _rounded(box.score)}
            | {edge: _rounded(getattr(box, edge) / side) for edge in ("left", "top", "right", "bottom")}
            for box in seen
        ]
        first = {"index": seen[0].index, "name": seen[0].name} if seen else None
        return {"top1": first, "top1_certain": None, "boxes": boxes}
    certain = None
    if spec.task == "segmentation":  # the class of most places
        (values,) = verified.values()
        index = int(np.bincount(values.argmax(-1).ravel(), minlength=spec.num_classes).argmax())
    else:
        values = _scaled(answers[0][0], rule)
        index = int(values.argmax())
        # Each of the two may move by what is allowed; where that is a mean, single ones move twice as far.
        steps = 2 if rule.compare == "largest" else 4
        certain = bool((np.delete(values, index) < values[index] - steps * (allowed or 0.0)).all())
    return {"top1": {"index": index, "name": spec.labels[index]}, "top1_certain": certain, "boxes": None}


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _type(values: Values) -> dict[str, Any]:
    return {"dtype": values.dtype.name, "shape": list(values.shape)}


def _bytes(values: Values) -> bytes:
    """Row after row, little-endian."""
    return np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()


def _png(pixels: NDArray[np.uint8], preprocess: Preprocess) -> bytes:
    rgb = pixels[..., ::-1] if preprocess.color_order == "bgr" else pixels
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(file, "PNG")
    return file.getvalue()


def _write(path: Path, data: bytes) -> dict[str, str]:
    write_file(path, data)
    return {"path": path.name, "sha256": _sha256(data)}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _files(model: Model) -> list[Path]:
    """All files that the model consists of."""
    if model.path.is_dir():
        return sorted(path for path in model.path.rglob("*") if path.is_file())
    return [model.path, *([model.path.with_suffix(".bin")] if model.format == "openvino" else [])]
