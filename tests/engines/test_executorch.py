"""The engine for ExecuTorch programs: threads, silence, and what it refuses."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("executorch")
pytest.importorskip("torch")

from fusiform.engines import open_engine, trial
from fusiform.engines.executorch import ExecuTorchEngine
from fusiform.engines.litert import LiteRTEngine
from fusiform.errors import MissingExtraError, SpecError, UsageError, WeightsError
from fusiform.exporting.targets.executorch import write
from fusiform.exporting.verification.verify import verify
from fusiform.graph.build import build_graph
from fusiform.graph.tflite import to_tflite
from fusiform.zoo.checkpoint import write_safetensors
from fusiform.zoo.programs import NO_DIGEST, executorch_digest, read_executorch_spec


@pytest.fixture(scope="module")
def program(small_spec, lived_in_state, tmp_path_factory):
    """The shortest network there is."""
    spec = small_spec("mobilenet_v2", 0.35)
    (written,) = write(build_graph(spec, lived_in_state(spec)), "float32", tmp_path_factory.mktemp("program"))
    return written.path


def pictures(count=3):
    return np.random.default_rng(0).normal(0, 1, (count, 3, 32, 32)).astype(np.float32)


def forged(data, old, new):
    """The program with a text replaced by one as long, and a digest that fits again."""
    assert len(old) == len(new)
    assert data.count(old)
    at = data.index(b"fusiform.sha256:")
    data = data.replace(data[at : at + len(NO_DIGEST)], NO_DIGEST.encode()).replace(old, new)
    return data.replace(NO_DIGEST.encode(), executorch_digest(data))


def test_it_answers_like_litert(program, small_spec, lived_in_state):
    spec = small_spec("mobilenet_v2", 0.35)
    wanted = LiteRTEngine(to_tflite(build_graph(spec, lived_in_state(spec))), spec).run(pictures())["logits"]
    found = open_engine(program).run(pictures())
    assert list(found) == ["logits"]
    np.testing.assert_allclose(found["logits"], wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


def test_engines_with_different_threads_take_turns(program):
    one, two = open_engine(program, threads=1), open_engine(program, threads=2)
    expected = one.run(pictures())["logits"]
    assert expected.std() > 0.1
    for engine in (two, one, two, two, one):
        np.testing.assert_allclose(engine.run(pictures())["logits"], expected, rtol=0, atol=1e-5)


def test_any_order_in_memory(program):
    engine = open_engine(program)
    batch = pictures()
    expected = engine.run(batch)["logits"]
    turned = np.ascontiguousarray(batch.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(engine.run(turned)["logits"], expected)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    turned = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(engine.run(turned)["logits"], engine.run(pixels)["logits"])


def test_batches(program):
    engine = open_engine(program)
    assert engine.run(pictures(0))["logits"].shape == (0, 10)
    with pytest.raises(UsageError, match="takes float32"):
        engine.run(np.zeros((1, 3, 32, 33), np.float32))


def test_it_says_nothing(program):
    code = (
        "import sys, numpy\nfrom fusiform.engines import open_engine\n"
        "open_engine(sys.argv[1]).run(numpy.zeros((1, 32, 32, 3), numpy.uint8))"
    )
    done = subprocess.run([sys.executable, "-c", code, program], capture_output=True, timeout=300, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


@pytest.mark.parametrize("share", [0.001, 0.02, 0.5, 0.999])
def test_a_program_that_is_cut_off(share, program, tmp_path):
    data = program.read_bytes()
    path = tmp_path / "cut.pte"
    path.write_bytes(data[: max(64, int(share * len(data)))])
    with pytest.raises((WeightsError, SpecError), match=r"cut\.pte"):
        open_engine(path)


def test_one_changed_byte_anywhere(program):
    """Inside XNNPACK's part some would end the process, and none of the weights would be noticed."""
    data = program.read_bytes()
    spec = read_executorch_spec(data, source="the file")
    for at in np.random.default_rng(0).integers(64, len(data), 20):
        damaged = bytearray(data)
        damaged[at] ^= 1
        with pytest.raises(WeightsError, match="cut off or damaged"):
            ExecuTorchEngine(bytes(damaged), spec)


def test_a_program_that_ends_the_process_ends_another_one(program, small_spec, lived_in_state, tmp_path, monkeypatch):
    """Its digest may have been made anew: every program is run in a child first, also by ``verify``, and there once."""
    monkeypatch.setattr(trial, "_tried", {})
    monkeypatch.setattr(trial, "_START", "import os; os.abort()")
    path = tmp_path / "x.pte"
    path.write_bytes(program.read_bytes())
    words = rf"^{path}: ended the process in which ExecuTorch tried it \(SIGABRT\), so it was not run here: export it "
    with pytest.raises(WeightsError, match=words):
        open_engine(path)
    monkeypatch.setattr(trial, "_START", "")
    spec = small_spec("mobilenet_v2", 0.35)
    write_safetensors(tmp_path / "x.safetensors", lived_in_state(spec), spec)
    with pytest.raises(WeightsError, match=words):
        verify(path, against=tmp_path / "x.safetensors", progress=False)


def test_another_shape_than_described(program):
    data = program.read_bytes()
    spec = read_executorch_spec(data, source="the file")
    for wrong in (
        spec.replace(labels=spec.labels[:-1]),
        spec.replace(input_size=64, preprocess=type(spec.preprocess)(resize=64, crop=64)),
    ):
        with pytest.raises(WeightsError, match="but its description says"):
            ExecuTorchEngine(data, wrong)


def test_other_labels_than_described(program, tmp_path):
    data = program.read_bytes()
    spec = read_executorch_spec(data, source="the file")
    ExecuTorchEngine(
        forged(data, b"class 1", b"class x"), spec.replace(labels=(spec.labels[0], "class x", *spec.labels[2:]))
    )
    with pytest.raises(WeightsError, match="labels are not those"):
        ExecuTorchEngine(forged(data, b"class 1", b"class x"), spec)


def test_a_file_of_weights_is_no_program(tmp_path):
    with pytest.raises(UsageError, match=r"fusiform export .*mobilenet_v2_x1_0\.tflite --to executorch"):
        open_engine("mobilenet_v2", engine="executorch")


def test_without_executorch(program, monkeypatch):
    monkeypatch.setitem(sys.modules, "executorch.extension.pybindings", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fusiform\[executorch\]'"):
        open_engine(program)
