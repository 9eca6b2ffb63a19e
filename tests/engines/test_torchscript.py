"""TorchScript files in their engine: the answers of PyTorch's, and what is refused before it runs."""

from __future__ import annotations

import io
import pickle
import sys
import warnings
import zipfile

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fusiform.data.preprocess import normalize
from fusiform.engines import open_engine
from fusiform.engines.torch import TorchEngine
from fusiform.engines.torchscript import TorchScriptEngine
from fusiform.errors import MissingExtraError, UsageError, WeightsError
from fusiform.exporting.targets.torchscript import write
from fusiform.graph.build import build_graph


@pytest.fixture(scope="module", params=["mobilenet_v2", "shufflenet_v2"])
def network(request, small_spec, lived_in_state, tmp_path_factory):
    """Spec, state, and the paths of the scripted and the traced file."""
    spec = small_spec(request.param, size=40)
    state = lived_in_state(spec)
    written = write(build_graph(spec, state), "float32", tmp_path_factory.mktemp("torchscript"))
    return spec, state, [item.path for item in written]


@pytest.fixture(scope="module")
def scripted(small_spec, lived_in_state, tmp_path_factory):
    """The spec and the bytes of one file, to be damaged."""
    spec = small_spec("shufflenet_v2")
    written = write(build_graph(spec, lived_in_state(spec)), "float32", tmp_path_factory.mktemp("scripted"))
    return spec, written[0].path.read_bytes()


def rewritten(data, change):
    """The archive with each record changed as ``change(name, bytes)`` says, its checksums right."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(result, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return result.getvalue()


def test_it_answers_like_pytorch(network):
    spec, state, paths = network
    pixels = np.random.default_rng(3).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)
    expected = TorchEngine(state, spec).run(pixels)["logits"]
    for path in paths:
        engine = open_engine(path)
        assert isinstance(engine.engine, TorchScriptEngine)
        assert engine.spec == spec
        for count in (3, 1, 0):
            for batch in (pixels[:count], normalize(pixels[:count], spec.preprocess)):
                answers = engine.run(batch)["logits"]
                assert answers.dtype == np.float32
                np.testing.assert_allclose(answers, expected[:count], rtol=0, atol=1e-4 * np.abs(expected).max())


def test_only_its_own_engine_runs_it(network):
    with pytest.raises(UsageError, match="is a program for torch; the engine litert cannot run it"):
        open_engine(network[2][0], engine="litert")


def test_a_wrong_batch(scripted):
    with pytest.raises(UsageError, match="takes float32"):
        TorchScriptEngine(scripted[1], scripted[0]).run(np.zeros((1, 3, 32, 33), np.float32))


def test_a_device_that_is_not_there(scripted):
    with pytest.raises(UsageError, match="PyTorch has no device warp here: "):
        TorchScriptEngine(scripted[1], scripted[0], device="warp")


def test_without_pytorch(scripted, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fusiform\[torch\]'"):
        TorchScriptEngine(scripted[1], scripted[0])


def test_labels_that_do_not_match_the_answers(scripted):
    spec, data = scripted
    with pytest.raises(WeightsError, match=r"answers a picture with \(1, 10\), but its description names 11 classes"):
        TorchScriptEngine(data, spec.replace(labels=(*spec.labels, "one more")))
    more = rewritten(data, lambda name, record: record.replace(b'"class 9"', b'"class 9", "one more"'))
    with pytest.raises(WeightsError, match="names 11 classes"):
        TorchScriptEngine(more, spec.replace(labels=(*spec.labels, "one more")))


@pytest.mark.parametrize("kept", [0, 3, 4, 100, 10_000, -1_000, -1])
def test_a_file_that_was_cut_off(kept, scripted, tmp_path):
    spec, data = scripted
    with pytest.raises(WeightsError, match="not a TorchScript archive, or a damaged one; export it again"):
        TorchScriptEngine(data[:kept], spec)
    path = tmp_path / "short.pt"
    path.write_bytes(data[:kept])
    with pytest.raises(WeightsError, match=r"short\.pt"):
        open_engine(path)


def test_weights_with_another_bit(scripted):
    spec, data = scripted
    middle = len(data) // 2  # in the weights of the last convolution
    damaged = data[:middle] + bytes([data[middle] ^ 64]) + data[middle + 1 :]
    with pytest.raises(WeightsError, match="a damaged one"):
        TorchScriptEngine(damaged, spec)


@pytest.mark.parametrize("record", ["constants/0", "constants.pkl", "data.pkl"])
def test_records_that_are_cut_off(record, scripted):
    spec, data = scripted
    short = rewritten(data, lambda name, content: content[:-4] if name == f"archive/{record}" else content)
    with pytest.raises(WeightsError, match="export it again"):
        TorchScriptEngine(short, spec)


def test_a_tensor_that_is_larger_than_its_bytes(scripted):
    """PyTorch itself would read what lies behind them in memory."""
    spec, data = scripted
    # The first one: 24 x 3 x 3 x 3 numbers.
    shape, larger = b"(K\x18K\x03K\x03K\x03t", b"(K\x19K\x03K\x03K\x03t"
    forged = rewritten(data, lambda name, content: content.replace(shape, larger, 1))
    assert forged != rewritten(data, lambda name, content: content)
    with pytest.raises(WeightsError, match="a damaged one"):
        TorchScriptEngine(forged, spec)


def test_weights_are_described_by_nothing_that_runs(scripted, tmp_path):
    spec, data = scripted
    made = tmp_path / "made"

    class Opens:
        def __reduce__(self):
            return open, (str(made), "w")

    forged = rewritten(
        data, lambda name, content: pickle.dumps(Opens(), 2) if name.endswith("constants.pkl") else content
    )
    with pytest.raises(WeightsError, match="a damaged one"):
        TorchScriptEngine(forged, spec)
    assert not made.exists()
    pickle.loads(pickle.dumps(Opens(), 2)).close()  # as it would have been
    assert made.exists()


class OpensAFile(torch.nn.Module):
    """``from_file`` makes the file that it maps."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def forward(self, x):
        return x.mean((2, 3)) + torch.from_file(self.path, True, 1)


class OpensAFileWhenLoaded(torch.nn.Module):
    def __init__(self, path):
        super().__init__()
        self.path = path
        self.size = 0

    @torch.jit.export
    def __getstate__(self):
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]):
        self.path, self.training = state
        self.size = torch.from_file(self.path, True, 1).numel()

    def forward(self, x):
        return x.mean((2, 3))


@pytest.mark.parametrize("kind", [OpensAFile, OpensAFileWhenLoaded])
def test_a_file_of_a_stranger_is_not_run(kind, small_spec, tmp_path):
    spec, made, path = small_spec("mobilenet_v2", classes=3), tmp_path / "made", tmp_path / "stranger.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.jit.script(kind(str(made)))
        torch.jit.save(program, path, _extra_files={"fusiform.spec": spec.to_json()})
    with pytest.raises(WeightsError, match=r"stranger\.pt: its code does what none of fusiform's networks does"):
        open_engine(path)
    assert not made.exists()
    with warnings.catch_warnings():  # as it would have been
        warnings.simplefilter("ignore")
        torch.jit.load(path)(torch.zeros(1, 3, 32, 32))
    assert made.exists()


@pytest.mark.parametrize(
    ("code", "seen"),
    [
        (b"torch.from_file", "torch.from_file"),
        (b"ops.aten.mean", "ops.aten.mean"),
        (b"(torch).mean.from_file", "torch.mean.from_file"),
        (b"mean", "mean"),
        (b"[torch.mean][0]", "torch.mean"),
    ],
)
def test_code_that_calls_anything_else(code, seen, scripted):
    spec, data = scripted
    forged = rewritten(
        data, lambda name, record: record.replace(b"torch.mean", code) if name.startswith("archive/code/") else record
    )
    with pytest.raises(WeightsError, match=rf"none of fusiform's networks does \(.*{seen}.*nothing of it was run"):
        TorchScriptEngine(forged, spec)


@pytest.mark.parametrize(
    "line",
    [
        b"x = CONSTANTS[0]",
        b"x: Dict[str, Tensor] = 0",
        b"import os",
        b"while True:\n      pass",
        b"@staticmethod\n    def f(x): return x",
    ],
)
def test_code_of_another_kind(line, scripted):
    spec, data = scripted
    forged = rewritten(
        data,
        lambda name, record: (
            record.replace(b"  def forward", b"  " + line.replace(b"\n    ", b"\n  ") + b"\n  def forward")
            if name.startswith("archive/code/")
            else record
        ),
    )
    with pytest.raises(WeightsError, match="nothing of it was run"):
        TorchScriptEngine(forged, spec)


def test_code_that_cannot_be_read(scripted):
    spec, data = scripted
    forged = rewritten(data, lambda name, record: b"class (" if name.startswith("archive/code/") else record)
    with pytest.raises(WeightsError, match="a damaged one"):
        TorchScriptEngine(forged, spec)
