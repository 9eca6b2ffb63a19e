"""No command connects anywhere or leaves anything in the home: engines, exporters, and the tests' own eyes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fusiform.engines import ENGINES
from fusiform.engines.native.compiled import usable_kernels
from fusiform.exporting.targets.targets import TARGETS

EXAMPLES = Path(__file__).parents[2] / "examples"
STRACE = shutil.which("strace")
if STRACE and subprocess.run([STRACE, "-f", "true"], capture_output=True, check=False).returncode:
    STRACE = None  # as in containers that forbid it
NEEDS = {
    "onnx": "onnxruntime",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "executorch": "executorch",
    "coreml": "coremltools",
    "torch": "torch",
    "torchscript": "torch",
}
# With one of these the runtimes themselves send nothing, and there would be nothing to see.
OF_CI = ("CI", "TF_BUILD", "JENKINS_URL", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "XDG_DATA_HOME")


def watch(arguments: list[str], folder: Path) -> tuple[list[str], list[str]]:
    """The connections and look-ups that a Python program makes, as far as they can be seen, and the files in its home.

    strace sees those of native code and of children too; without it there is the home alone.
    """
    home, trace = folder / "home", folder / "trace"
    home.mkdir()
    traced = [STRACE, "-f", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o", str(trace)] if STRACE else []
    environment = {name: value for name, value in os.environ.items() if name not in OF_CI}
    environment |= {"HOME": str(home), "USERPROFILE": str(home), "LOCALAPPDATA": str(home), "FUSIFORM_OFFLINE": "1"}
    command = [*traced, sys.executable, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    lines = trace.read_text(errors="replace").splitlines() if STRACE else []
    # Within the machine, asking for a user's name goes through a socket as well.
    connections = [line for line in lines if "AF_INET" in line]
    return connections, [str(path.relative_to(home)) for path in home.rglob("*")]


@pytest.mark.parametrize("engine", [engine for engine in ENGINES if engine != "executorch"])
def test_an_engine_sends_nothing(engine, tmp_path):
    if engine in NEEDS:
        pytest.importorskip(NEEDS[engine])
    if engine == "native" and not usable_kernels():
        pytest.skip("the library was not compiled")
    command = ["-m", "fusiform", "predict", str(EXAMPLES / "cat.jpg"), "--engine", engine]
    assert watch(command, tmp_path) == ([], [])


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_an_export_and_its_verification_send_nothing(target, tmp_path):
    """An export opens what it wrote in its own runtime, so that this is ExecuTorch's and Core ML's engine too."""
    if target in NEEDS:
        pytest.importorskip(NEEDS[target])
    command = ["-m", "fusiform", "export", "shufflenet_v2_x1_0", "--to", target, "--out", str(tmp_path / "out")]
    assert watch(command, tmp_path) == ([], [])


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_runtime_imported_by_fusiform_sends_nothing_later(runtime, tmp_path):
    pytest.importorskip(runtime)
    waits = f"import fusiform.engines.quiet as q, time; q.import_{runtime}(); time.sleep(3)"
    assert watch(["-c", waits], tmp_path) == ([], [])


def test_the_watch_sees_what_a_runtime_does_by_itself(tmp_path):
    pytest.importorskip("openvino")
    pytest.importorskip("openvino_telemetry")
    connections, files = watch(["-c", "import openvino, time; time.sleep(3)"], tmp_path)
    assert any("openvino_ga_cid" in file for file in files)
    if STRACE:
        assert connections


def test_openvino_is_imported_without_its_reporter_which_stays_for_others():
    pytest.importorskip("openvino")
    code = (
        "import sys; from fusiform.engines.quiet import import_openvino; openvino = import_openvino()\n"
        "import openvino.tools.ovc.telemetry_utils as utils; print(utils.tm.__name__)\n"
        "print('openvino_telemetry' in sys.modules, import_openvino() is openvino)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.split() == ["openvino.tools.ovc.telemetry_stub", "False", "True"]
