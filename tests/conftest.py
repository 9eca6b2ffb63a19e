"""How many processes run the tests, where the real weights and photographs lie, and weights made by a formula."""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from fusiform.machine import usable_cores

# Workers share the cores, and those that wait leave them to others. Said before numpy and PyTorch are imported, which
# ask for it once.
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0"))
if WORKERS:
    THREADS = max(1, usable_cores() // WORKERS)
    os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray
from PIL import Image

from fusiform.graph.shapes import expected_shapes
from fusiform.spec import Architecture, ModelSpec, Padding, Preprocess

# A job in the background inherits an ignored Ctrl-C, and would hand it on to the programs that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine draws examples slowly, and that says nothing of the tests.
settings.register_profile("fusiform", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fusiform")

SHARED_DATA = Path(os.environ.get("FUSIFORM_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """``-n auto``: a worker for each core that this process may use; one core is best used without any."""
    cores = usable_cores()
    return cores if cores > 1 else 0


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """The whole suite runs in as many processes as there are cores, unless the command says otherwise.

    Named files and folders run in this process, where a debugger and prints work, and which starts sooner. Said here
    and not in pyproject.toml, where ``-n`` would make an error of ``-p no:xdist``.
    """
    if WORKERS or not config.pluginmanager.hasplugin("xdist"):
        return  # a worker starts none
    if config.option.usepdb or config.option.capture == "no":
        return
    if config.args_source is config.ArgsSource.TESTPATHS and config.option.numprocesses is None:
        config.option.numprocesses = "auto"
    if config.option.numprocesses and config.option.dist == "no":
        config.option.dist = "worksteal"  # files differ a hundredfold in time


@pytest.fixture(autouse=WORKERS > 0)
def _threads_of_a_worker() -> Iterator[None]:
    """The threads that a test asks PyTorch for hold for the whole process: the next starts with its share again."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(THREADS)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real weights and photographs; a test that asks for it skips where it is absent."""
    if not (SHARED_DATA / "README.md").is_file():
        pytest.skip(f"no real weights and photographs at {SHARED_DATA} (set FUSIFORM_TEST_DATA)")
    return SHARED_DATA


def small_spec(
    architecture: Architecture,
    width: float = 0.5,
    *,
    size: int = 32,
    padding: Padding = "symmetric",
    classes: int = 10,
    channels: int = 3,
) -> ModelSpec:
    return ModelSpec(
        architecture,
        width,
        tuple(f"class {k}" for k in range(classes)),
        input_size=size,
        input_channels=channels,
        padding=padding,
        preprocess=Preprocess(resize=size, crop=size),
    )


def lived_in_state(spec: ModelSpec, *, seed: int = 7) -> dict[str, NDArray[Any]]:
    """Weights under torchvision's names such that a difference anywhere reaches the logits.

    Every convolution nearly keeps the variance, and every batch normalisation has statistics and parameters far from
    the zeros and ones that it was born with.
    """
    random = np.random.default_rng(seed)
    shapes = expected_shapes(
        spec.architecture, spec.width, num_classes=spec.num_classes, input_channels=spec.input_channels
    )
    state: dict[str, NDArray[Any]] = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = np.array(5)
        elif name.endswith("running_mean"):
            state[name] = random.uniform(-0.3, 0.3, shape)
        elif name.endswith("running_var"):
            state[name] = random.uniform(0.5, 1.5, shape)
        elif name.endswith("bias"):
            state[name] = random.uniform(-0.5, 1.0, shape)
        elif len(shape) == 1:
            state[name] = random.uniform(0.7, 1.5, shape)
        else:
            state[name] = random.normal(0, math.sqrt(1.2 / np.prod(shape[1:])), shape)
    return {name: array.astype(np.float32) if array.ndim else array for name, array in state.items()}


@pytest.fixture(scope="session", name="small_spec")
def small_spec_fixture() -> Callable[..., ModelSpec]:
    return small_spec


@pytest.fixture(scope="session", name="lived_in_state")
def lived_in_state_fixture() -> Callable[..., dict[str, NDArray[Any]]]:
    return lived_in_state


@pytest.fixture(scope="module")
def unpacked_once() -> Iterator[None]:
    """The runtime of pages, which takes seconds to pack as tightly as for a host, packed quickly and once."""
    from fusiform.exporting.targets import web

    files = web.unpack_runtime(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(web, "unpack_runtime", lambda level=1: files)
        yield


@pytest.fixture(scope="session")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that is calibrated on faint noise, of which its own first names are the truth, but for some."""
    from fusiform.calibration.fit import LastLayer, calibrate
    from fusiform.engines import open_engine
    from fusiform.graph.build import build_graph
    from fusiform.graph.tflite import to_tflite

    spec = small_spec("mobilenet_v2", classes=3)
    path = tmp_path_factory.mktemp("calibrated") / "sure.tflite"
    state = lived_in_state(spec)
    path.write_bytes(to_tflite(build_graph(spec, state)))
    pixels = np.random.default_rng(0).integers(110, 146, (150, 32, 32, 3), np.uint8)
    said = open_engine(path, features=True).run(pixels)
    truth = said["logits"].argmax(1)
    truth[:30] = np.arange(30) % 3
    last = LastLayer(state["classifier.1.weight"], state["classifier.1.bias"])
    found = calibrate(said["logits"], truth, features=said["features"], last=last, source="noise")
    assert found.certainty.unknown is not None
    sure = spec.replace(certainty=found.certainty, temperature=found.temperature.value)
    path.write_bytes(to_tflite(build_graph(sure, state)))
    return path


@pytest.fixture(scope="session")
def noise_and_stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Faint noise, which ``calibrated`` knows, and stripes of black and white, which are nothing like it."""
    folder = tmp_path_factory.mktemp("images")
    noise = np.random.default_rng(1).integers(110, 146, (32, 32, 3), np.uint8)
    stripes = np.tile(np.repeat([[0], [255]], 4, 0), (4, 96)).reshape(32, 32, 3).astype(np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    Image.fromarray(stripes).save(folder / "stripes.png")
    return folder


@pytest.fixture(scope="session", name="valid")
def valid_fixture() -> Callable[..., Any]:
    """Reads what a command printed or a file holds, and holds it against its JSON Schema.

    The schema is the one that it names itself, or else is named: that of a description or of a line.
    """
    import json
    import re

    from jsonschema import Draft202012Validator

    from fusiform.schemas import json_schema

    def valid(text: str | bytes, schema: str = "") -> Any:
        content = json.loads(text)
        if not (name := schema):
            named = re.fullmatch(r"fusiform\.(\w+)/\d+", content["schema"])
            assert named, content["schema"]
            name = named[1]
        errors = sorted(Draft202012Validator(json_schema(name)).iter_errors(content), key=str)
        assert not errors, f"{name}: {errors[0].json_path}: {errors[0].message}\n{errors[0].context}"
        return content

    return valid


@pytest.fixture
def unrendered_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in this process leave an empty curves.png: to draw takes half a second an epoch, more than to train."""
    monkeypatch.setattr("fusiform.training.run_folder.draw_curves", lambda records, path: Path(path).write_bytes(b""))


@pytest.fixture
def hasty_latencies(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search in this process takes each network's time for a moment, as often as ever: it finds, but not surely."""
    from fusiform.selection import job, work

    monkeypatch.setattr(job, "measure", partial(job.measure, seconds=0.02))
    monkeypatch.setattr(work, "CHECK_SECONDS", 0.02)
