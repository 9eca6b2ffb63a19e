"""Verification: its figures against sums by hand, what it refuses, and files of other tools."""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from ai_edge_litert import schema_py_generated as tfl

import fusiform.exporting.verification.verify as verification
from fusiform.data.dataset import Sample
from fusiform.engines import open_engine
from fusiform.errors import UsageError, WeightsError
from fusiform.exporting.quantization.quantize import QuantizedNetwork
from fusiform.exporting.verification.comparison import compare
from fusiform.exporting.verification.foreign import ForeignEngine, open_foreign
from fusiform.exporting.verification.pair import find_errors, relative_error
from fusiform.exporting.verification.parity import Comparison, Parity, ParityError, find_failures
from fusiform.exporting.verification.precision import stored_precision
from fusiform.exporting.verification.verify import verify, verify_answers
from fusiform.graph.build import build_graph
from fusiform.graph.onnx import to_onnx
from fusiform.graph.tflite import to_tflite
from fusiform.tasks.classification import softmax
from fusiform.zoo.checkpoint import write_safetensors
from fusiform.zoo.model import Model, open_model

SIZE = 48
TOLERANCE = 1e-3


def soft_picture(seed, size=(70, 60)):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for k in range(7):
        soft_picture(k).save(folder / f"{k}.png")
    return [Sample(folder / f"{k}.png", 0) for k in range(7)]


@pytest.fixture(scope="module")
def spec(small_spec):
    made = small_spec("shufflenet_v2", size=SIZE)
    return made.replace(preprocess=dataclasses.replace(made.preprocess, resize=56))


@pytest.fixture(scope="module")
def state(spec, lived_in_state):
    return lived_in_state(spec)


@pytest.fixture(scope="module")
def reference(spec, state, tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "reference.safetensors"
    write_safetensors(path, state, spec)
    return open_model(path)


@pytest.fixture(scope="module")
def answered(reference, samples):
    """The likeliest class of each picture, by the reference."""
    from fusiform.data.preprocess import crop_pixels

    pixels = np.stack([crop_pixels(sample.read(), reference.spec.preprocess) for sample in samples])
    return open_engine(reference, engine="torch").run(pixels)["logits"].argmax(1)


def write(tmp_path, graph, ending="onnx", **options):
    path = tmp_path / f"file.{ending}"
    path.write_bytes(to_onnx(graph, **options) if ending == "onnx" else to_tflite(graph, **options))
    return open_model(path)


def quantised(graph):
    network = QuantizedNetwork(graph)
    pictures = np.stack([np.array(soft_picture(seed, (SIZE, SIZE))) for seed in range(20, 36)])
    network.calibrate([torch.from_numpy(pictures.transpose(0, 3, 1, 2).astype(np.float32))])
    return network.freeze()


@pytest.mark.parametrize("ending", ["onnx", "tflite"])
def test_the_same_network_passes(ending, spec, state, reference, samples, tmp_path, valid):
    candidate = write(tmp_path, build_graph(spec, state), ending)
    parity = verify_answers(candidate, reference, samples, labelled=False, tolerance=TOLERANCE, threads=1)
    assert parity.passed
    assert parity.failures == parity.notes == ()
    assert [(c.kind, c.batch) for c in parity.comparisons] == [
        (kind, batch) for kind in ("photographs", "synthetic images", "noise") for batch in (1, 3)
    ]
    assert 0 < parity.largest_error < 1e-4
    assert parity.batch_error < 1e-4
    assert parity.agreement == 1
    assert parity.drop is None
    report = parity.report()
    assert report.title.endswith("the same answers")
    assert report.figures["passed"] is True
    assert report.figures["engine"] == {"onnx": "onnxruntime", "tflite": "litert"}[ending]
    assert report.figures["images"] == 7
    assert report.figures["tolerance"] == TOLERANCE
    # Wilson's interval of 7 of 7: the lower end is n / (n + z^2).
    assert report.figures["agreement_low"] == pytest.approx(7 / (7 + 1.959964**2), rel=1e-5)
    assert [row["images"] for row in report.rows] == [7, 7, 12, 12, 12, 12]
    valid(report.to_json())


def test_without_photographs(spec, state, reference, tmp_path):
    candidate = write(tmp_path, build_graph(spec, state))
    parity = verify_answers(candidate, reference, [], labelled=False, tolerance=TOLERANCE, threads=1)
    assert parity.passed
    assert parity.agreement is None
    assert "no photographs were given: synthetic images only" in parity.notes
    assert {c.kind for c in parity.comparisons} == {"synthetic images", "noise"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"resize": 64}, "its resize is 64, not 56"),
        ({"interpolation": "nearest"}, "its interpolation is nearest, not bilinear"),
        ({"color_order": "bgr"}, "its color_order is bgr, not rgb"),
        ({"antialias": False}, "its antialias is False, not True"),
        ({"std": (0.25, 0.25, 0.25)}, "its std is (0.25, 0.25, 0.25), not (0.229, 0.224, 0.225)"),
    ],
)
def test_wrong_preprocessing_shows_in_the_answers(change, told, spec, state, reference, samples, tmp_path):
    lying = spec.replace(preprocess=dataclasses.replace(spec.preprocess, **change))
    candidate = write(tmp_path, build_graph(lying, state))
    parity = verify_answers(candidate, reference, samples, labelled=False, tolerance=TOLERANCE, threads=1)
    assert told in parity.failures
    assert any("a logit differs" in failure and "photographs" in failure for failure in parity.failures)


def test_what_a_file_says_of_itself(spec, state, reference, samples, tmp_path):
    def failures(changed):
        candidate = write(tmp_path, build_graph(changed, state))
        return verify_answers(
            candidate, reference, samples[:1], labelled=False, tolerance=TOLERANCE, threads=1
        ).failures

    assert failures(spec.replace(label_ids=tuple("abcdefghij"))) == ("it has extra label_ids",)
    labels = ("class 0", "class 2", "class 1", *spec.labels[3:])
    assert failures(spec.replace(labels=labels)) == ("2 of its labels are others: class 1 is 'class 2', not 'class 1'",)
    assert failures(spec.replace(temperature=2.0)) == ("its temperature is 2.0, not 1.0",)
    # What other tools round is no other preprocessing.
    mean = tuple(np.float32(value).item() for value in spec.preprocess.mean)
    assert failures(spec.replace(preprocess=dataclasses.replace(spec.preprocess, mean=mean))) == ()


def test_another_number_of_classes(small_spec, lived_in_state, reference, samples, tmp_path):
    spec = small_spec("shufflenet_v2", size=SIZE, classes=9)
    candidate = write(tmp_path, build_graph(spec, lived_in_state(spec)))
    parity = verify_answers(candidate, reference, samples, labelled=False, tolerance=TOLERANCE, threads=1)
    assert "it names 9 classes, the reference 10" in parity.failures
    assert parity.comparisons == ()
    assert parity.report().figures["passed"] is False


def test_answers_that_are_no_numbers(spec, state, reference, samples, tmp_path):
    bias = state["fc.bias"].copy()
    bias[3] = np.nan
    candidate = write(tmp_path, build_graph(spec, {**state, "fc.bias": bias}))
    parity = verify_answers(candidate, reference, samples, labelled=False, tolerance=TOLERANCE, threads=1)
    assert parity.failures == ("62 answers hold values that are not finite",)  # (7 + 12 + 12) pictures, twice
    write_safetensors(tmp_path / "nan.safetensors", {**state, "fc.bias": bias}, spec)
    good = write(tmp_path, build_graph(spec, state))
    with pytest.raises(WeightsError, match=r"nan\.safetensors: answers with values that are not finite"):
        verify_answers(
            good, open_model(tmp_path / "nan.safetensors"), samples, labelled=False, tolerance=TOLERANCE, threads=1
        )


def test_labelled_pictures(spec, state, reference, samples, answered, tmp_path):
    """Five of seven labels are what the reference says: both are right five times."""
    labels = [int(k) for k in answered]
    labels[0], labels[1] = (labels[0] + 1) % 10, (labels[1] + 1) % 10
    labelled = [dataclasses.replace(s, label=label) for s, label in zip(samples, labels, strict=True)]
    candidate = write(tmp_path, build_graph(spec, state))
    parity = verify_answers(candidate, reference, labelled, labelled=True, tolerance=TOLERANCE, threads=1)
    assert parity.outcomes == (5, 0, 0, 2)
    figures = parity.report().figures
    assert figures["top1"] == figures["reference_top1"] == pytest.approx(5 / 7, rel=1e-5)
    assert figures["drop"] == 0


def int8_parity(agreement, pictures, outcomes, *, error=0.1, max_drop=1.0):
    shown = [Comparison("photographs", batch, pictures, 0.2, "x.png", error, agreement, 1) for batch in (1, 3)]
    limits, explained = {"logits": 0.15}, {"logits": 0.1}
    return Parity("f", "r", "litert", None, max_drop, 0.85, limits, pictures, tuple(shown), 0.0, explained, outcomes)


@pytest.mark.parametrize(
    ("parity", "told"),
    [
        (int8_parity(0.9, 200, (140, 3, 5, 52)), []),  # exactly one point of 200 pictures
        (int8_parity(0.9, 200, (140, 2, 5, 53)), ["it is right 1.5 points less often"]),
        (int8_parity(0.9, 200, (140, 2, 5, 53), max_drop=2.0), []),
        (int8_parity(0.9, 100, (70, 0, 7, 23), max_drop=7.0), []),  # seven points, which are more than 7 in floats
        (int8_parity(0.9, 200, (140, 9, 5, 46)), []),  # better than the reference
        (int8_parity(0.84, 200, None), ["it names the same class for 84.0% of 200 photographs, less than 85%"]),
        # 8 of 10: Wilson's interval ends at 0.943. 5 of 10: at 0.763.
        (int8_parity(0.8, 10, None), []),
        (int8_parity(0.5, 10, None), ["it names the same class for 50.0% of 10"]),
        (
            int8_parity(0.9, 200, None, error=0.16),
            ["the answers to the photographs are 0.16 off, more than 0.15 (rounding explains 0.1)"],
        ),
    ],
)
def test_what_int8_may_lose(parity, told):
    failures = find_failures(parity)
    assert len(failures) == len(told)
    assert all(text in failure for text, failure in zip(told, failures, strict=True))


def test_figures_by_hand():
    reference = np.array([[4.0, 0.0, -2.0], [1.0, 0.999, 0.0], [0.0, 3.0, 1.0]])
    mine = np.array([[4.0, 0.0, -1.0], [0.999, 1.0, 0.0], [3.0, 2.0, 1.0]])
    errors = find_errors(mine, reference, centred=True)
    found = compare("photographs", 1, ["a", "b", "c"], errors, tolerance=0.01)
    assert found.largest_error == 1.0  # 3 of 3, on the last
    assert found.worst == "c"
    assert found.agreement == pytest.approx(1 / 3)
    assert found.others == 1  # the second is a tie within the tolerance
    # Less their means: (1, -1) and (1.5, -1.5).
    errors = find_errors(np.array([[2.0, -1.0]]), np.array([[1.0, -1.0]]), centred=True)
    assert relative_error(errors) == pytest.approx(0.5)
    errors = find_errors(reference + np.array([[5.0], [-1.0], [2.0]]), reference, centred=True)
    assert relative_error(errors) == pytest.approx(0, abs=1e-12)


class Altered:
    """The reference itself, with its answers changed."""

    def __init__(self, model, change, name="logits"):
        self.engine, self.spec, self.change, self.name = open_engine(model, engine="torch"), model.spec, change, name

    def run(self, batch):
        return {self.name: self.change(self.engine.run(batch)["logits"])}


def verify_altered(monkeypatch, reference, samples, change, name="logits"):
    engine = Altered(reference, change, name)
    monkeypatch.setattr(verification, "_open_candidate", lambda model, threads: (engine, "altered"))
    return verify_answers(reference, reference, samples, labelled=False, tolerance=TOLERANCE, threads=1)


def test_pictures_mixed_up_in_a_batch(monkeypatch, reference, samples):
    parity = verify_altered(monkeypatch, reference, samples, lambda logits: logits[::-1])
    alone, together = (next(c for c in parity.comparisons if c.batch == batch) for batch in (1, 3))
    assert alone.largest_error < 1e-6
    assert together.largest_error > TOLERANCE
    assert any("alone and in a batch of 3 the answers differ" in failure for failure in parity.failures)


def test_a_file_that_ends_in_a_softmax(monkeypatch, reference, samples):
    def probabilities(logits):
        return softmax(logits).astype(np.float32)

    assert verify_altered(monkeypatch, reference, samples, probabilities, "probabilities").passed
    parity = verify_altered(monkeypatch, reference, samples, lambda x: probabilities(1.1 * x), "probabilities")
    assert not parity.passed


def test_logits_with_a_constant_are_other_logits(monkeypatch, reference, samples):
    parity = verify_altered(monkeypatch, reference, samples, lambda logits: logits + np.float32(1))
    assert any("a logit differs" in failure for failure in parity.failures)


def test_a_runtime_that_breaks_off_is_one_line(monkeypatch, reference, samples):
    def fail(logits):
        raise RuntimeError("node 3 failed\nat 0x1234")

    with pytest.raises(WeightsError, match=r"its runtime broke off at 1 pictures \(node 3 failed\)"):
        verify_altered(monkeypatch, reference, samples, fail)


def test_pictures_that_cannot_be_read(spec, state, reference, samples, tmp_path):
    candidate = write(tmp_path, build_graph(spec, state))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    broken = Sample(tmp_path / "broken.png", 0)
    parity = verify_answers(candidate, reference, [broken, *samples], labelled=False, tolerance=TOLERANCE, threads=1)
    assert parity.passed
    assert parity.pictures == 7
    assert parity.notes[0].startswith("1 pictures could not be read, the first: ")
    # None among the first ones: the batches of three come from those that could be read.
    parity = verify_answers(
        candidate, reference, [broken] * 30 + samples, labelled=False, tolerance=TOLERANCE, threads=1
    )
    assert parity.passed
    with pytest.raises(UsageError, match="none of the 2 pictures could be read"):
        verify_answers(candidate, reference, [broken, broken], labelled=False, tolerance=TOLERANCE, threads=1)


def test_a_program_is_no_reference(reference, samples):
    program = Model(Path("model.pte"), "executorch", reference.spec, b"")
    with pytest.raises(UsageError, match=r"model\.pte: is a program for one runtime"):
        verify_answers(reference, program, samples, labelled=False, tolerance=TOLERANCE)


@pytest.mark.parametrize("ending", ["onnx", "tflite"])
def test_int8_files(ending, spec, state, reference, samples, tmp_path):
    graph = build_graph(spec, state)
    parity = verify_answers(
        write(tmp_path, quantised(graph), ending), reference, samples, labelled=False, tolerance=None
    )
    assert parity.failures == ()
    assert parity.int8
    assert 0.005 < parity.explained_error["logits"] < 0.1
    assert parity.max_error == {"logits": pytest.approx(1.5 * parity.explained_error["logits"])}
    figures = parity.report().figures
    assert figures["max_error"] == pytest.approx(1.5 * figures["explained_error"], rel=1e-4)
    # The rounded network is not the float one to a float's tolerance.
    path = tmp_path / f"file.{ending}"
    assert not verify_answers(open_model(path), reference, samples, labelled=False, tolerance=TOLERANCE).passed


def test_without_pytorch(monkeypatch, spec, state, reference, samples, tmp_path):
    """The reference runs in LiteRT then, and how far rounding leads is not measured."""
    graph = build_graph(spec, state)
    rounded = quantised(graph)
    monkeypatch.setitem(sys.modules, "torch", None)
    harmed = {**state, "fc.bias": state["fc.bias"] * np.float32(1.1)}
    for faithful, weights in ((True, state), (False, harmed)):
        candidate = write(tmp_path, build_graph(spec, weights))
        parity = verify_answers(candidate, reference, samples, labelled=False, tolerance=TOLERANCE, threads=1)
        assert parity.passed == faithful
        assert parity.notes == ("without PyTorch the reference ran in its own runtime",)
    parity = verify_answers(write(tmp_path, rounded), reference, samples, labelled=False, tolerance=None, threads=1)
    assert parity.max_error == {}
    assert parity.report().figures["max_error"] is None
    assert len(parity.notes) == 2


# Whole files


@pytest.mark.parametrize(
    ("ending", "options", "precision"),
    [
        ("onnx", {}, "float32"),
        ("onnx", {"half": True}, "float16"),
        ("tflite", {}, "float32"),
        ("tflite", {"half": True}, "float16"),
    ],
)
def test_the_precision_is_in_the_file(ending, options, precision, spec, state, tmp_path):
    graph = build_graph(spec, state)
    assert stored_precision(write(tmp_path, graph, ending, **options)) == precision
    assert stored_precision(write(tmp_path, quantised(graph), ending)) == "int8"


def test_verify_file_reads_labelled_folders(spec, state, reference, samples, answered, tmp_path):
    path = write(tmp_path, build_graph(spec, state)).path
    for k, sample in enumerate(samples):
        folder = tmp_path / "data" / spec.labels[answered[k]]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{k}.png").write_bytes(sample.file.read_bytes())
    parity = verify(path, against=reference.path, data=tmp_path / "data", threads=1)
    assert parity.passed
    assert parity.tolerance == 1e-3
    assert parity.outcomes == (7, 0, 0, 0)


def test_verify_file_takes_any_folder_of_pictures(spec, state, reference, samples, tmp_path):
    path = write(tmp_path, build_graph(spec, state)).path
    parity = verify(path, against=reference.path, data=samples[0].file.parent, threads=1)
    assert parity.passed
    assert parity.pictures == 7
    assert parity.outcomes is None
    assert parity.notes[0].startswith("the pictures have no labels that the model knows: ")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no pictures"):
        verify(path, against=reference.path, data=tmp_path / "empty")
    with pytest.raises(UsageError, match="no such file or folder"):
        verify(path, against=reference.path, data=tmp_path / "nowhere")
    with pytest.raises(UsageError, match="tolerance must be a number"):
        verify(path, against=reference.path, tolerance=math.nan)


def test_a_parity_error_says_which_file_and_why():
    parity = int8_parity(0.5, 200, None)
    error = ParityError(dataclasses.replace(parity, failures=("one", "two"), file="a.tflite", reference="b"))
    assert str(error).startswith("a.tflite: does not give the answers of b: one; two: ")
    assert error.parity.file == "a.tflite"
    assert error.exit_code == 1


# Files of other tools: without fusiform's description


def without_description(model):
    """The file as another tool would have written it."""
    if model.format == "onnx":
        proto = onnx.load_from_string(model.data)
        del proto.metadata_props[:]
        return proto
    file = tfl.ModelT.InitFromPackedBuf(model.data, 0)
    for entry in file.metadata:
        file.buffers[entry.buffer].data = None
    file.metadata = None
    return file


def pack(file, path):
    if path.suffix == ".onnx":
        path.write_bytes(file.SerializeToString())
        return
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(file.Pack(builder), file_identifier=b"TFL3")
    path.write_bytes(bytes(builder.Output()))


@pytest.mark.parametrize("ending", ["onnx", "tflite"])
def test_a_foreign_file(ending, spec, state, reference, samples, tmp_path):
    path = tmp_path / f"foreign.{ending}"
    pack(without_description(write(tmp_path, build_graph(spec, state), ending)), path)
    parity = verify(path, against=reference.path, data=samples[0].file.parent, threads=1)
    assert parity.passed
    assert any("the reference's labels and preprocessing were taken" in note for note in parity.notes)
    harmed = {**state, "fc.bias": state["fc.bias"] * np.float32(1.1)}
    pack(without_description(write(tmp_path, build_graph(spec, harmed), ending)), path)
    assert not verify(path, against=reference.path, threads=1).passed


def test_a_foreign_file_with_a_softmax(spec, state, reference, samples, tmp_path):
    proto = without_description(write(tmp_path, build_graph(spec, state)))
    proto.graph.node.append(onnx.helper.make_node("Softmax", ["logits"], ["chances"], axis=1))
    proto.graph.output[0].name = "chances"
    pack(proto, tmp_path / "foreign.onnx")
    foreign = open_foreign(tmp_path / "foreign.onnx", spec)
    (name,) = ForeignEngine(foreign).run(np.zeros((2, SIZE, SIZE, 3), np.uint8))
    assert name == "probabilities"
    assert verify(tmp_path / "foreign.onnx", against=reference.path, threads=1).passed


def test_the_background_class_is_dropped(small_spec, lived_in_state, tmp_path):
    spec = small_spec("shufflenet_v2", size=32, classes=1000)
    more = small_spec("shufflenet_v2", size=32, classes=1001)
    state = lived_in_state(more)
    write_safetensors(
        tmp_path / "ported.safetensors",
        {**state, "fc.weight": state["fc.weight"][1:], "fc.bias": state["fc.bias"][1:]},
        spec,
    )
    pack(without_description(write(tmp_path, build_graph(more, state))), tmp_path / "foreign.onnx")
    assert verify(tmp_path / "foreign.onnx", against=tmp_path / "ported.safetensors", threads=1).passed


def test_foreign_files_that_do_not_fit(small_spec, lived_in_state, spec, state, reference, tmp_path):
    larger = small_spec("shufflenet_v2", size=64)
    pack(without_description(write(tmp_path, build_graph(larger, lived_in_state(larger)))), tmp_path / "size.onnx")
    with pytest.raises(WeightsError, match=r"size\.onnx: reads .* 48 x 48 pixels"):
        verify(tmp_path / "size.onnx", against=reference.path)
    other = small_spec("shufflenet_v2", size=SIZE, classes=9)
    pack(without_description(write(tmp_path, build_graph(other, lived_in_state(other)))), tmp_path / "classes.onnx")
    with pytest.raises(WeightsError, match=r"classes\.onnx: answers .* has 10 classes"):
        verify(tmp_path / "classes.onnx", against=reference.path)
    whole = (tmp_path / "size.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match=r"cut\.onnx"):
        verify(tmp_path / "cut.onnx", against=reference.path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shufflenet-v2-12-int8.onnx", "mobilenet_v2_1.0_224_quant.tflite"])
def test_published_files_pass_against_their_port(name, shared_data, tmp_path):
    from fusiform.porting.port import port

    foreign = shared_data / "weights" / name
    port(foreign, tmp_path / "ported.safetensors")
    parity = verify(foreign, against=tmp_path / "ported.safetensors", data=shared_data / "imagenet_val")
    assert parity.failures == ()
    assert parity.agreement > 0.9
