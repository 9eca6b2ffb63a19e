"""Files that are cut, changed, or say what is not so: refused in one line, and nothing in them is ever executed.

They are opened and run in another process, since a runtime that reads past its memory takes the process with it.
"""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fusiform.errors import MissingExtraError
from fusiform.exporting.targets.targets import TARGETS
from fusiform.graph.build import build_graph
from fusiform.spec import METADATA_KEY, ModelSpec
from fusiform.zoo.checkpoint import write_safetensors
from fusiform.zoo.programs import NO_DIGEST, executorch_digest

SIZE = 32
SLOW = ("torchscript", "executorch", "coreml")
KINDS = ("safetensors", *(name for name in TARGETS if name != "web"))


def kinds(*, without=()):
    """Every kind of file; those that are not refused yet are expected to fail."""
    made = []
    for name in KINDS:
        marks = [pytest.mark.slow] if name in SLOW else []
        if name not in without:
            made.append(pytest.param(name, marks=marks))
    return made


# Opens each file named on a line of standard input, runs it, and says what came of it.
CHILD = """
import json, resource, sys, warnings
warnings.simplefilter("ignore")
import numpy as np
from fusiform.engines import open_engine
from fusiform.errors import FusiformError
from fusiform.zoo.model import open_model
for line in sys.stdin:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        model = open_model(line.strip())
        if model.format == "coreml":
            from fusiform.exporting.targets.coreml import open_package
            engine = open_package(model.path)
        else:
            engine = open_engine(model)
        size = engine.spec.input_size
        engine.run(np.zeros((1, size, size, 3), np.uint8))
        outcome, message = "opened", ""
    except FusiformError as error:
        outcome, message = "refused", str(error)
    except BaseException as error:
        outcome, message = f"raised {type(error).__name__}", str(error)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print("\\n" + json.dumps([outcome, message, grown]), flush=True)
"""


class Outcome(NamedTuple):
    """``opened``, ``refused``, ``raised ERROR`` or ``crashed``; the message; megabytes that the process grew by."""

    what: str
    message: str
    grown: float


class Child:
    """The process that opens files, started when it is first asked and again after it died of one."""

    def __init__(self, folder):
        self.process, self.errors = None, folder / "stderr"

    def open(self, path):
        if self.process is None:
            with self.errors.open("wb") as errors:
                self.process = subprocess.Popen(
                    [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
                )
        too_long = threading.Timer(600, self.process.kill)
        too_long.start()
        try:
            self.process.stdin.write(f"{path}\n".encode())
            self.process.stdin.flush()
            for line in self.process.stdout:  # runtimes print what they like
                if line.startswith(b'["'):
                    what, message, kilobytes = json.loads(line)
                    return Outcome(what, message, kilobytes / 1024)
        except BrokenPipeError:
            pass
        finally:
            too_long.cancel()
        return Outcome("crashed", self.close(), 0)

    def close(self):
        """Let the process end, if there is one; its exit code and its last words."""
        if self.process is None:
            return ""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        code = self.process.wait(60)
        self.process.stdout.close()
        self.process = None
        return f"{code}: {self.errors.read_text('utf-8', 'replace')[-300:]}"


@pytest.fixture(scope="module")
def child(tmp_path_factory):
    """One for all tests: what they open in it takes seconds to import."""
    child = Child(tmp_path_factory.mktemp("child"))
    yield child
    child.close()


def open_files(paths, child):
    """What comes of opening each file."""
    return [child.open(path) for path in paths]


def refused(paths, child):
    """All are refused, by a message of one line that names the file."""
    for path, outcome in zip(paths, open_files(paths, child), strict=True):
        assert outcome.what == "refused", (path, outcome)
        assert "\n" not in outcome.message, outcome.message
        assert path.name in outcome.message or path.parent.name in outcome.message, outcome.message


@pytest.fixture(scope="module")
def network(small_spec, lived_in_state):
    spec = small_spec("mobilenet_v2", 0.35, size=SIZE)
    return spec, lived_in_state(spec)


def write(name, spec, state, folder):
    """The file to open, of one kind."""
    folder.mkdir(parents=True, exist_ok=True)
    if name == "safetensors":
        write_safetensors(folder / "model.safetensors", state, spec)
        return folder / "model.safetensors"
    try:
        return TARGETS[name].writer()(build_graph(spec, state), "float32", folder)[0].path
    except MissingExtraError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def whole(network, tmp_path_factory):
    """A sound file of each kind, written once."""
    made = {}

    def file(name):
        if name not in made:
            made[name] = write(name, *network, tmp_path_factory.mktemp("whole") / name)
        return made[name]

    return file


def copy(path, folder):
    """The file, with whatever lies beside it, in another folder."""
    shutil.copytree(path.parent, folder)
    return folder / path.name


def parts(path):
    """The files that a model consists of."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file() and file.name != "Manifest.json")
    return sorted(file for file in path.parent.iterdir() if file.stem == path.stem)


def lying(name, network, whole, tmp_path, monkeypatch, text):
    """A file of a kind whose description is ``text`` instead of the network's."""
    honest, told = network[0].to_json().encode(), text.encode()
    if name == "executorch" and len(told) <= len(honest):
        # In the place of its own, with blanks behind it: to write another takes as long as all the other kinds.
        path = copy(whole(name), tmp_path / "lying")
        data = re.sub(rb"fusiform\.sha256:\w{64}", NO_DIGEST.encode(), path.read_bytes())
        assert data.count(honest) == 1
        data = data.replace(honest, told.ljust(len(honest)))
        path.write_bytes(data.replace(NO_DIGEST.encode(), executorch_digest(data)))
        return path
    monkeypatch.setattr(ModelSpec, "to_json", lambda self, *, indent=None: text)
    path = write(name, *network, tmp_path / "lying")
    monkeypatch.undo()
    return path


@pytest.mark.parametrize("name", kinds())
def test_the_whole_file_opens(name, whole, child):
    (outcome,) = open_files([whole(name)], child)
    assert outcome.what == "opened", outcome


@pytest.mark.parametrize("name", kinds())
def test_cut_files(name, whole, tmp_path, child):
    cut = []
    for number, part in enumerate(parts(whole(name))):
        size = part.stat().st_size
        # In a .tflite file the last kilobyte is a zip archive of labels for other programs.
        for length in (0, 1, 7, 40, 200, size // 10, size // 2, size * 9 // 10, size - 2000):
            if length < 0:
                continue
            path = copy(whole(name), tmp_path / f"{number}-{length}")
            victim = parts(path)[number]
            victim.write_bytes(part.read_bytes()[:length])
            cut.append(path)
    refused(cut, child)


def test_a_tflite_file_without_its_end(whole, tmp_path, child):
    path = copy(whole("litert"), tmp_path / "cut")
    path.write_bytes(path.read_bytes()[:-64])
    refused([path], child)


@pytest.mark.parametrize("name", kinds())
def test_changed_bytes(name, whole, tmp_path, child):
    """Anything may come of it, other weights too, but a crash or an error of Python's."""
    random = np.random.default_rng(0)
    changed = []
    for number, part in enumerate(parts(whole(name))):
        content = np.frombuffer(part.read_bytes(), np.uint8)
        changes = 9 if name == "executorch" else 24  # each file is tried in a process that imports PyTorch
        for k in range(changes):
            # The structure lies at the beginning of some kinds, at the end of others.
            reach = min(len(content), 3000 if k < changes * 2 // 3 else len(content))
            places = random.integers(0, reach, 4)
            places = places if k % 2 else len(content) - 1 - places
            damaged = content.copy()
            damaged[places] = random.integers(0, 256, len(places))
            path = copy(whole(name), tmp_path / f"{number}-{k}")
            parts(path)[number].write_bytes(damaged.tobytes())
            changed.append(path)
    for path, outcome in zip(changed, open_files(changed, child), strict=True):
        assert outcome.what in ("opened", "refused"), (path, outcome)


@pytest.mark.parametrize("name", kinds())
def test_one_label_too_few(name, network, whole, tmp_path, monkeypatch, child):
    spec = network[0]
    path = lying(name, network, whole, tmp_path, monkeypatch, spec.replace(labels=spec.labels[:-1]).to_json())
    refused([path], child)


# TorchScript programs of these networks answer pictures of any size.
@pytest.mark.parametrize("name", kinds(without=["torchscript"]))
def test_another_size_than_the_file_s(name, network, whole, tmp_path, monkeypatch, child):
    """Weights alone take pictures of any size; what lies about them is the width."""
    if name == "safetensors":
        text = network[0].replace(width=1.0).to_json()
    else:
        text = network[0].to_json().replace(f'"input_size": {SIZE}', '"input_size": 64')
        text = text.replace(f'"crop": {SIZE}', '"crop": 64')
    refused([lying(name, network, whole, tmp_path, monkeypatch, text)], child)


@pytest.mark.parametrize("name", kinds())
def test_a_description_without_end(name, network, whole, tmp_path, monkeypatch, child):
    refused([lying(name, network, whole, tmp_path, monkeypatch, "[" * 10**6)], child)


class Harm:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def test_pickles_by_other_names(tmp_path, child):
    trace = tmp_path / "trace"
    saved, legacy = io.BytesIO(), io.BytesIO()
    torch.save({"features.0.0.weight": Harm(trace)}, saved)
    torch.save({"features.0.0.weight": Harm(trace)}, legacy, _use_new_zipfile_serialization=False)
    contents = {f"pickle{k}": pickle.dumps(Harm(trace), protocol=k) for k in (0, 2, 4)}
    contents |= {"zip": saved.getvalue(), "legacy": legacy.getvalue()}
    paths = []
    for name, content in contents.items():
        for ending in ("safetensors", "pt", "pth", "onnx", "tflite", "pte", "xml", "bin"):
            paths.append(tmp_path / f"{name}.{ending}")
            paths[-1].write_bytes(content)
    refused(paths, child)
    assert not trace.exists()
    pickle.loads(contents["pickle4"])  # it would have
    assert trace.exists()


def rewritten(path, out, changes):
    """A zip archive with some entries' content changed, compressed; the others are stored as they were."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            within = name.partition("/")[2]
            content = changes.get(within, source.read(name))
            target.writestr(name, content, zipfile.ZIP_DEFLATED if within in changes else zipfile.ZIP_STORED)


@pytest.mark.slow
def test_a_pickle_inside_a_torchscript_archive(whole, tmp_path, child):
    trace = tmp_path / "trace"
    for name in ("data.pkl", "constants.pkl"):
        rewritten(whole("torchscript"), tmp_path / f"{name}.pt", {name: pickle.dumps(Harm(trace), protocol=2)})
    paths = [tmp_path / "data.pkl.pt", tmp_path / "constants.pkl.pt"]
    refused(paths, child)
    assert not trace.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "entry",
    [
        f"extra/{METADATA_KEY}",
        "data.pkl",
        "a state dict",
    ],
)
def test_bombs(entry, whole, tmp_path):
    """Archives with an entry that unpacks to a thousand times its size."""
    bomb = b" " * (400 << 20)
    path = tmp_path / "bomb.pt"
    if entry == "a state dict":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", bomb)
    else:
        rewritten(whole("torchscript"), path, {entry: bomb})
    assert path.stat().st_size < 8 << 20
    # In a process of its own, which has not grown yet; the sound file imports PyTorch before anything is measured.
    child = Child(tmp_path)
    _, outcome = open_files([whole("torchscript"), path], child)
    child.close()
    assert outcome.what == "refused", outcome
    assert outcome.grown < 200, outcome


def test_entities_without_end(tmp_path, child):
    """The billion laughs: an XML parser that follows entities would make gigabytes of this."""
    entities = "".join(f'<!ENTITY a{k} "{f"&a{k - 1};" * 10}">' for k in range(1, 10))
    (tmp_path / "laughs.xml").write_text(
        f'<?xml version="1.0"?><!DOCTYPE net [<!ENTITY a0 "ha">{entities}]><net name="x" version="11">&a9;</net>',
        encoding="utf-8",
    )
    refused([tmp_path / "laughs.xml"], child)
