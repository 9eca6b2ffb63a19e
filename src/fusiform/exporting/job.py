"""A model to verified files: what ``fusiform export`` runs."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np

from fusiform.calibration.decision import Rule
from fusiform.data.dataset import Sample
from fusiform.data.masks import Ignore
from fusiform.data.open import check_named
from fusiform.errors import FusiformError, InputError, SpecError, UsageError, WeightsError
from fusiform.evaluation.calibration import fit_calibration
from fusiform.evaluation.classification import answers
from fusiform.evaluation.promises import Seen
from fusiform.exporting.golden import write_golden
from fusiform.exporting.pictures import Pictures, find_pictures
from fusiform.exporting.quantization.calibrate import CALIBRATION_PICTURES, calibrate, load_pixels, rank_layers
from fusiform.exporting.quantization.quantize import LayerError
from fusiform.exporting.quantization.train_quantized import train_quantized
from fusiform.exporting.targets.base import Precision, TargetName, Written, file_stem
from fusiform.exporting.targets.targets import DECODING, TARGETS, page_writer
from fusiform.exporting.targets.web_samples import PageSample, read_samples
from fusiform.exporting.targets.web_single import in_one_file
from fusiform.exporting.verification.parity import MEASURES, Parity, ParityError
from fusiform.exporting.verification.verify import verify_answers
from fusiform.files import held, move, remove_leftovers, write_file
from fusiform.graph.conventions import for_litert
from fusiform.graph.inputs import read_pixels
from fusiform.graph.ir import Graph, reads_pixels
from fusiform.graph.numbers import to_float
from fusiform.graph.split import split_expansion
from fusiform.graph.tflite import to_tflite
from fusiform.progress import Tracker, silent, tell, tracker
from fusiform.report import Cell, Report, printable
from fusiform.spec import Colours, Fit, Output
from fusiform.tasks.classification import rename
from fusiform.training.recipes import quantize_small
from fusiform.training.run_folder import make_folder
from fusiform.zoo.model import Model, open_model
from fusiform.zoo.stated import assumption

Say = Callable[[str], None]

_PROGRAMS: Sequence[TargetName] = ("torchscript", "openvino", "executorch")
"""Targets whose files answer what they were made to answer, whoever opens them."""
VERIFICATION_PICTURES = 500
"""Photographs that a file is verified on: held-out ones if there are any."""
TRAINING_PICTURES = 5000
"""Photographs at most that an epoch of training looks at, evenly spread."""
KEPT = (0, 1, 2, 4, 8)
"""How many of the worst layers are tried in float, one number after the other, until the budget holds."""


_VERIFIED = (
    *(
        "images",
        "largest_error",
        "agreement",
        "features_cosine",
        "boxes",
        "boxes_same",
        "boxes_near",
        "pixel_agreement",
    ),
    *(f"{whose}{name}" for name in MEASURES.values() for whose in ("", "reference_")),
    *("drop", "drop_low", "drop_high"),
)
COLUMNS = (
    *("target", "precision", "passed", "file", "bytes", "golden", "layers_in_float", *_VERIFIED),
    # What one of the targets has to say.
    *("delegated", "not_delegated", "int8_layers", "layers", "form", "verified_by", "runtime"),
    "error",
)
"""The columns of a report's rows, all of them in every row."""


class ExportError(FusiformError):
    """Some of the files that were asked for could not be made or did not pass; ``report`` has all that did happen."""

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


def export(
    model: str | os.PathLike[str] | Model,
    to: str | Sequence[str],
    out: str | os.PathLike[str],
    *,
    precision: Precision = "float32",
    calibrate: str | os.PathLike[str] | None = None,
    data: str | os.PathLike[str] | None = None,
    ignore: Ignore | None = None,
    root: str | os.PathLike[str] | None = None,
    max_drop: float | None = None,
    keep_float: int | None = None,
    train_epochs: int = 0,
    pixels: bool | None = None,
    output: Output | None = None,
    decoded: bool = False,
    features: bool = False,
    single_file: bool = False,
    golden: int = 0,
    samples: str | os.PathLike[str] | None = None,
    slices: int = 1,
    threads: int | None = None,
    labels: str | os.PathLike[str] | Sequence[str] | None = None,
    mean: Colours | None = None,
    std: Colours | None = None,
    resize: int | None = None,
    crop: int | None = None,
    fit: Fit | None = None,
    say: Say | None = None,
    progress: bool | Tracker | None = None,
) -> Report:
    """Write a model for other runtimes, and leave there only files that are verified to give the same answers.

    Each file is opened again in its own runtime and held against the model in PyTorch: on photographs, on synthetic
    images and on noise. See ``fusiform.verify`` for what has to be the same.

    Args:
        model: A name, a model file, the folder of a training run, or what ``fusiform.open_model`` has opened.
        to: The targets: ``litert``, ``onnx``, ``torchscript``, ``openvino``, ``executorch``, ``coreml``, ``web``;
            several in a list or with commas between them, or ``all``, which is every one that has the precision.
        out: The folder to write into.
        precision: ``float32``, ``float16`` or ``int8``.
        calibrate: Photographs to quantise with; None is those that the run was trained on.
        data: Photographs to verify with: a labelled dataset, or a folder of images; None is those the run held out.
        ignore: For a segmenter: what 255 is in the masks of ``data``, see ``fusiform.train``.
        root: The folder that the paths in the lists of ``calibrate`` and ``data`` begin in; None is each list's own.
        max_drop: What int8 may lose, in percentage points of top-1, mAP or mIoU; None is 1 for a classifier, else 2.
        keep_float: The number of layers, those that suffer most, that stay in float32 in an int8 file; None tries 0,
            1, 2, 4 and 8 until the budget holds.
        train_epochs: Train the int8 network for so many epochs to answer as the float one does.
        pixels: Let float files read uint8 pixels, or normalised pictures; int8 files always read pixels. None is
            pixels in LiteRT files of models that normalise each colour in its own way, and pictures elsewhere.
        output: What a classifier's LiteRT file answers with, ``probabilities`` or ``logits``; None is probabilities.
            The files of the other targets answer with logits.
        decoded: Let a detector's file decode and suppress its boxes itself, and a segmenter's give probabilities at the
            size of its input: for ``litert``, ``onnx`` and ``openvino``.
        features: Let a classifier's files answer with its features too, what its last layer reads, beside its logits or
            probabilities: programs of your own find similar images by them. MediaPipe shows a second answer as a second
            list of classes: leave it out for MediaPipe.
        single_file: Write the web page as one ``.html`` with everything inside, which is opened from a disk.
        golden: Write so many inputs with the expected answers into ``NAME_golden`` beside each file, for the tests of
            programs in any language: photographs of ``data``, else of the run, and synthetic images. A page has them
            inside, for its self-test.
        samples: A photograph, or a folder of them, of which a page shows up to six for visitors to try; None is the
            package's own, for a model that knows what they show.
        slices: Compute MobileNetV2's expansions in so many pieces, in less memory.
        threads: The number of cores to use; None is all.
        labels: Other names for the model's classes, one for each, or a UTF-8 file with one a line.
        mean: What weights that were saved without fusiform do not say of their preprocessing; see
            ``fusiform.open_model``.
        std: See ``fusiform.open_model``.
        resize: See ``fusiform.open_model``.
        crop: See ``fusiform.open_model``.
        fit: See ``fusiform.open_model``.
        say: Gets a line now and then; None prints on standard error where progress is shown.
        progress: Whether to show how far it is; None does on a terminal and in a notebook.

    Returns:
        A report with a row for each file: its path, size and how far its answers are from the model's.

    Raises:
        UsageError: For arguments that do not fit.
        ExportError: If any file could not be made or failed verification; it has the report. The others are written.

    Example:
        >>> import fusiform
        >>> report = fusiform.export("shufflenet_v2_x1_0", "onnx", "ship")
        >>> [row["file"] for row in report.rows]
        ['ship/shufflenet_v2_x1_0_float32.onnx']

    """
    tracked = tracker(progress)
    if say is None:
        say = tell if tracked is not silent else lambda _: None
    check_named(data if calibrate is None else calibrate, ignore=ignore, root=root)
    opened = open_model(model, mean=mean, std=std, resize=resize, crop=crop, fit=fit)
    if opened.assumed:
        say(assumption(str(opened.path), opened.spec.preprocess, opened.assumed))
    if labels is not None:
        opened = replace(opened, spec=rename(opened.spec, labels))
    targets = _targets(to, precision, decoded=decoded)
    form = _Form(pixels, output, decoded, single_file, features)
    _check(targets, precision, form, slices=slices, keep_float=keep_float, golden=golden)
    _check_output(targets, output, opened)
    _check_decoded(opened, decoded=decoded)
    if features and opened.spec.task != "classification":
        raise UsageError(f"{opened.path}: is for {opened.spec.task}; --features is for classifiers: leave it out")
    if train_epochs and opened.spec.task != "classification":
        raise UsageError(f"{opened.path}: is for {opened.spec.task}; --train-epochs is for classifiers: leave it out")
    graph = opened.graph()
    graph = replace(graph, spec=graph.spec.replace(features=False))  # of a file that has them; see _Form
    if labels is not None:
        graph = replace(graph, spec=rename(graph.spec, labels))
    pictures = find_pictures(opened, calibrate, data, ignore, root)
    shown = read_samples(samples, targets)
    work = _Work(opened, pictures, Path(out), precision, form, max_drop, golden, shown, threads, say, tracked)
    if precision != "int8":
        graph = to_float(graph)
        if slices > 1:
            graph = split_expansion(graph, slices)
    try:
        if precision != "int8" or graph.quantization is not None:
            if precision == "int8" and (keep_float or train_epochs or calibrate):
                raise InputError(
                    f"{opened.path}: is int8 already: take the float32 model to quantise it in another way"
                )
            work.write(targets, {0: lambda: graph})
        else:
            work.write(targets, work.quantise(graph, keep_float, train_epochs))
    except KeyboardInterrupt as interrupt:
        interrupt.args = (work.kept(),)
        raise
    return work.finish()


def _targets(to: str | Sequence[str], precision: Precision, *, decoded: bool) -> list[TargetName]:
    """The targets named, each once; ``all`` is every one that has the precision, and can be ``decoded`` if that is."""
    if to == "all":
        having = [name for name, target in TARGETS.items() if precision in target.precisions]
        return [name for name in having if name in DECODING or not decoded]
    names = [name.strip() for name in to.split(",") if name.strip()] if isinstance(to, str) else list(to)
    for name in names:
        if name not in TARGETS:
            raise UsageError(f"--to: there is no target {name!r}; there are {', '.join(TARGETS)}, and all")
    return cast("list[TargetName]", list(dict.fromkeys(names)))


def _check(
    targets: Sequence[TargetName],
    precision: Precision,
    form: _Form,
    *,
    slices: int,
    keep_float: int | None,
    golden: int,
) -> None:
    for name in targets:
        if precision not in TARGETS[name].precisions:
            raise UsageError(f"{name} has no {precision} here, only {', '.join(TARGETS[name].precisions)}")
        if form.pixels and name in ("torchscript", "executorch"):
            raise UsageError(f"--pixels: {name} files read normalised pictures; leave it out for them")
        if form.decoded and name not in DECODING:
            raise UsageError(f"--decoded: {name} files give the network's own answers; it is for {', '.join(DECODING)}")
        if form.pixels is False and name == "web":
            raise UsageError("--no-pixels: a page gives its model pixels; leave it out for web")
    if form.single_file and "web" not in targets:
        raise UsageError("--single-file: is for the page of --to web; leave it out")
    if form.pixels is False and precision == "int8":
        raise UsageError("--no-pixels: int8 files read pixels; leave it out")
    if not targets:
        raise UsageError(f"name a target: {', '.join(TARGETS)}")
    if slices < 1:
        raise UsageError(f"slices must be at least 1, got {slices}")
    if precision == "int8" and slices > 1:
        raise UsageError("--slices is for float32 and float16: int8 has no scales for the sums of the pieces")
    if keep_float is not None and keep_float < 0:
        raise UsageError(f"keep-float must be at least 0, got {keep_float}")
    if golden < 0:
        raise UsageError(f"golden must be at least 0, got {golden}")


def _check_output(targets: Sequence[TargetName], output: Output | None, opened: Model) -> None:
    if output not in (None, "logits", "probabilities"):
        raise UsageError(f"--output: logits or probabilities, not {output!r}")
    if output != "probabilities":
        return
    if opened.spec.task != "classification":
        raise UsageError(f"{opened.path}: is for {opened.spec.task}; --output is for classifiers: leave it out")
    others = [name for name in targets if name != "litert"]
    if others:
        raise UsageError(
            f"--output probabilities: {', '.join(others)} files answer with logits; export them apart, without it"
        )


def _check_decoded(opened: Model, *, decoded: bool) -> None:
    if opened.spec.decoded:
        raise InputError(f"{opened.path}: decodes its answers itself; export the model that it was made from")
    if decoded and opened.spec.task == "classification":
        raise UsageError(f"{opened.path}: is a classifier; --decoded is for detectors and segmenters: leave it out")


@dataclass(frozen=True)
class _Form:
    """What files are to read and to answer with, as in ``export``; None is what their readers expect."""

    pixels: bool | None
    output: Output | None
    decoded: bool
    single_file: bool
    features: bool

    def of(self, graph: Graph, target: TargetName) -> Graph:
        """The graph in the form that a target's file is to have, before it decodes its answers."""
        certainty = graph.spec.certainty
        # A program cannot be given features later, as other files are when they are opened.
        needed = target in _PROGRAMS and certainty is not None and certainty.unknown is not None
        graph = replace(graph, spec=graph.spec.replace(features=self.features or needed))
        if target == "litert":
            return for_litert(graph, pixels=self.pixels, output=self.output)
        return read_pixels(graph) if self.pixels and not reads_pixels(graph) else graph


class _Work:
    """Files of one model: written into a hidden folder, verified, and moved to their place or thrown away."""

    def __init__(
        self,
        opened: Model,
        pictures: Pictures,
        out: Path,
        precision: Precision,
        form: _Form,
        max_drop: float | None,
        golden: int,
        samples: Sequence[PageSample] | None,
        threads: int | None,
        say: Say,
        progress: Tracker,
    ) -> None:
        self.opened, self.pictures, self.out, self.precision, self.form = opened, pictures, out, precision, form
        self.max_drop, self.threads, self.say, self.progress = max_drop, threads, say, progress
        self.golden, self.samples = golden, samples
        self.name = file_stem(opened.spec.replace(decoded=form.decoded, features=form.features), precision)
        self.figures: dict[str, Cell] = {
            "model": str(opened.path),
            "network": opened.spec.name,
            "task": opened.spec.task,
            "out": str(out),
            "precision": precision,
            "verified_on": pictures.verified_on,
            "quantised": None,
            "calibrated_error": None,
            "layers_file": None,
        }
        self.rows: list[dict[str, Cell]] = []
        self.failures: list[str] = []

    def quantise(self, graph: Graph, keep_float: int | None, train_epochs: int) -> dict[int, Callable[[], Graph]]:
        """The int8 graphs to try in turn, by the number of layers in float."""
        samples = self.pictures.calibration
        if not samples:
            raise UsageError(
                f"{self.opened.path}: int8 needs photographs like those it will see: add --calibrate FOLDER"
            )
        with self.progress(total=None, label="read photographs"):
            pixels, errors = load_pixels(samples, self.opened.spec, CALIBRATION_PICTURES)
        for error in errors:
            self.say(f"left out: {error}")
        self.say(f"calibrating int8 on {len(pixels)} photographs")
        calibrated = calibrate(graph, pixels, self.progress)
        tried = ", ".join(f"{way} {error:.1%}" for way, error in calibrated.errors.items())
        self.say(f"error of the logits: {tried}; taken: {calibrated.way}")
        self.figures |= {"quantised": calibrated.way, "calibrated_error": round(calibrated.errors[calibrated.way], 4)}
        network = calibrated.network
        if train_epochs:
            # The best epoch is chosen on photographs that neither it learns from nor the file is verified on.
            chosen = samples[:: max(1, -(-len(samples) // TRAINING_PICTURES))]
            classified = [sample for sample in chosen if isinstance(sample, Sample)]
            network = train_quantized(
                network,
                graph,
                [sample for k, sample in enumerate(classified) if k % 10],
                held_out=classified[::10],
                recipe=dataclasses.replace(quantize_small, epochs=train_epochs),
                threads=self.threads,
                say=self.say,
                progress=self.progress,
            )
        layers = rank_layers(network, calibrated.pixels, self.progress)
        self._write_layers(layers)
        worst = [layer.name for layer in layers]
        self.say(f"the layers whose rounding changes the logits most: {', '.join(worst[:5])}")

        def freeze(kept: int) -> Graph:
            network.kept = frozenset(worst[:kept])
            with self.progress(total=None, label="make int8"):
                frozen = network.freeze()
            return self._calibrated(frozen)

        return {kept: partial(freeze, kept) for kept in (KEPT if keep_float is None else (keep_float,))}

    def _calibrated(self, graph: Graph) -> Graph:
        """An int8 graph whose promises are made anew, from its own answers; without labelled photographs, with none."""
        if graph.spec.certainty is None:
            return graph
        decision = graph.spec.certainty.decision
        rule = None if decision is None else Rule.of(decision, graph.spec.labels)
        graph = replace(graph, spec=graph.spec.replace(certainty=None))
        samples = [sample for sample in self.pictures.held_out if isinstance(sample, Sample)]
        if not self.pictures.labelled:
            self.say("int8 answers otherwise, and there are no labelled photographs: calibrate it (fusiform evaluate)")
            if rule is not None:
                self.say("without a calibration it gives the likeliest class, and does not decide by the model's rule")
            return graph
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "int8.tflite"
            file.write_bytes(to_tflite(graph))
            model = open_model(file)
            found = answers(model, samples, threads=self.threads, features=True, progress=self.progress)
            read = [k for k in range(len(samples)) if k not in found.errors]
            if not read or found.features is None:
                return graph
            seen = Seen(tuple(samples[k] for k in read), found.values[read], found.features[read])
            truth = np.array([samples[k].label for k in read])
            fit = partial(fit_calibration, model, seen, truth, source=printable(self.pictures.verified_on))
            try:
                calibrated = fit(rule=rule)
            except UsageError as error:  # of what the rule wants
                self.say(f"{error}; until then int8 gives the likeliest class")
                calibrated = fit()
        self.say(f"calibrated int8 on {self.pictures.verified_on}: {len(read)} photographs")
        certainty, temperature = calibrated.certainty, calibrated.temperature.value
        return replace(graph, spec=graph.spec.replace(certainty=certainty, temperature=temperature))

    def _write_layers(self, layers: Sequence[LayerError]) -> None:
        rows: tuple[dict[str, Cell], ...] = tuple(
            {"layer": e.name, "rms_error": round(e.noise, 5), "logit_error": round(e.logits, 5)} for e in layers
        )
        make_folder(self.out)
        path = self.out / f"{self.name}_layers.csv"
        write_file(path, Report("layers", rows).to_csv().encode())
        self.figures |= {"layers_file": str(path)}

    def write(self, targets: Sequence[TargetName], graphs: Mapping[int, Callable[[], Graph]]) -> None:
        """Write and verify each target; the others go on where one fails."""
        make_folder(self.out)
        made: dict[int, Graph] = {}
        attempts = list(graphs)
        for name in targets:
            self.say(f"{name}: writing and verifying")
            for kept in attempts:
                if kept not in made:
                    made[kept] = graphs[kept]()
                try:
                    rows = self._one(name, made[kept], kept)
                except FusiformError as error:
                    if isinstance(error, ParityError) and kept != attempts[-1]:
                        self.say(f"{error}; the next try keeps more layers in float")
                        continue
                    self.failures.append(f"{name}: {error}")
                    failed: dict[str, Cell] = {"target": name, "precision": self.precision, "passed": False}
                    self.rows.append({**dict.fromkeys(COLUMNS), **failed, "error": str(error)})
                else:
                    self.rows += rows
                    attempts = [more for more in attempts if more >= kept]  # the next target need not try fewer
                break

    def _one(self, name: TargetName, graph: Graph, kept: int) -> list[dict[str, Cell]]:
        """The rows of a target's files, which have passed and are in their place."""
        remove_leftovers(self.out, ".export-*")
        with tempfile.TemporaryDirectory(prefix=".export-", dir=self.out) as staging, held(Path(staging)) as folder:
            rows, golden = [], []
            try:
                formed = self.form.of(graph, name)
                numbers: dict[str, Cell] = {}
                network = None
                if self.form.decoded:
                    # First the same file without its last operators, whose numbers can be held against the model's.
                    for model in self._written(name, formed, folder):
                        network = self._passed(name, model)
                        numbers = _summary(network)
                    formed = replace(formed, spec=formed.spec.replace(decoded=True))
                written = self._written(name, formed, folder)
                for model in written:
                    parity = self._passed(name, model)
                    row: dict[str, Cell] = {**dict.fromkeys(COLUMNS), "target": name, "precision": self.precision}
                    row |= {"passed": True}
                    row |= {"file": str(self.out / model.path.relative_to(folder)), "bytes": _size(model.files)}
                    row |= {"layers_in_float": kept} if self.precision == "int8" else {}
                    seen = {figure: value for figure, value in _summary(parity).items() if value is not None}
                    if self.golden:
                        place = self._golden(model, network or parity)
                        golden += [place] if place.parent == folder else []  # a page's moves with it
                        row |= {"golden": str(self.out / place.relative_to(folder))}
                    rows.append(row | numbers | seen | dict(model.figures))
            except (WeightsError, SpecError) as error:  # they name a file that nobody will find
                raise type(error)(str(error).replace(f"{folder}{os.sep}", "")) from None
            if self.form.single_file and name == "web":
                written = [in_one_file(model) for model in written]
                for row, model in zip(rows, written, strict=True):
                    row |= {"file": str(self.out / model.path.name), "bytes": _size(model.files), **model.figures}
                    row |= {"golden": row["file"]} if self.golden else {}
            for file in (*(file for model in written for file in model.files), *golden):
                move(file, self.out / file.relative_to(folder))
        return rows

    def _golden(self, model: Written, network: Parity) -> Path:
        samples, labelled = self.pictures.held_out or self.pictures.calibration, self.pictures.labelled
        with self.progress(total=None, label="golden"):
            return write_golden(model, network, samples, self.golden, labelled=labelled, precision=self.precision)

    def _written(self, name: TargetName, graph: Graph, folder: Path) -> Sequence[Written]:
        with self.progress(total=None, label=f"write {name}"):
            writer = page_writer(self.samples) if name == "web" else TARGETS[name].writer()
            return writer(graph, self.precision, folder)

    def _passed(self, name: TargetName, model: Written) -> Parity:
        """What the verification found; ParityError, with the file's name to be, if it did not pass."""
        parity = self._verify(name, model)
        if not parity.passed:
            raise ParityError(dataclasses.replace(parity, file=str(self.out / model.path.name)))
        return parity

    def _verify(self, name: TargetName, model: Written) -> Parity:
        held_out = self.pictures.held_out
        return verify_answers(
            open_model(model.path),
            self.opened,
            held_out,
            labelled=self.pictures.labelled,
            mask_labels=self.pictures.mask_labels,
            tolerance=None
            if self.precision == "int8"
            else TARGETS[name].allowed(self.precision, self.opened.spec.task),
            max_drop=self.max_drop,
            pictures=VERIFICATION_PICTURES,
            threads=self.threads,
            progress=self.progress,
        )

    def kept(self) -> str:
        """What an interruption leaves."""
        files = [str(row["file"]) for row in self.rows if row["passed"]]
        if not files:
            return f"no file was written to {self.out}; the same command begins again"
        return f"{', '.join(files)} passed and stay; the same command writes all again"

    def finish(self) -> Report:
        """The report, also written beside the files; ExportError if anything failed."""
        title = f"{self.opened.spec.name} exported to {self.out}"
        report = Report(title, tuple(self.rows), self.figures, schema="fusiform.export/1")
        write_file(self.out / f"{self.name}_export.json", report.to_json().encode())
        if self.failures:
            raise ExportError("\n".join(self.failures), report)
        return report


def _summary(parity: Parity) -> dict[str, Cell]:
    figures = parity.report().figures
    return {name: figures[name] for name in _VERIFIED if name in figures}


def _size(files: Sequence[Path]) -> int:
    return sum(
        sum(inside.stat().st_size for inside in file.rglob("*") if inside.is_file())
        if file.is_dir()
        else file.stat().st_size
        for file in files
    )
