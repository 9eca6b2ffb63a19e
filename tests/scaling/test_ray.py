"""Parts on the workers of a local Ray, one of which is killed at work; skipped where Ray is not installed."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fusiform
from fusiform.errors import MissingExtraError
from fusiform.scaling import ray as on_ray

MODEL = "shufflenet_v2_x1_0"
COUNT = 60
DRIVER = """
import sys, ray, fusiform
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
print(fusiform.predict_parts(sys.argv[1], sys.argv[2], sys.argv[3], part=4, format="jsonl", threads=1, on="ray")[1:])
"""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(COUNT):
        pixels = np.random.default_rng(seed).integers(0, 256, (300, 300, 3)).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        (folder / f"{seed:03}.png").write_bytes(file.getvalue() if seed != 7 else b"broken")
    return folder


def rows(folder: Path) -> list[dict[str, object]]:
    files = sorted(folder.glob("part-*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()]


def start(photos: Path, out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", DRIVER, str(photos), str(out), MODEL],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """The processes of the driver's session that hold a Predictor."""
    found = []
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = status.read_bytes()
            session = int((status.parent / "stat").read_text().rpartition(") ")[2].split()[3])
        except OSError:
            continue
        if session == os.getsid(process.pid) and line.startswith(b"ray::PartWorker"):
            found.append(int(status.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds workers in /proc")
def test_a_killed_worker_loses_nothing(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    fusiform.predict_parts(photos, tmp_path / "alone", MODEL, part=4, format="jsonl", threads=1)
    process = start(photos, tmp_path / "out")
    try:
        deadline = time.monotonic() + 300
        while len(list((tmp_path / "out").glob("part-*"))) < 3:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        killed = workers_of(process)[0]
        os.kill(killed, signal.SIGKILL)
        told, errors = process.communicate(timeout=300)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert told.splitlines()[-1] == f"({COUNT}, 1, 15, 0)", errors  # Ray tells of the death before
    assert rows(tmp_path / "out") == rows(tmp_path / "alone")
    assert len({row["path"] for row in rows(tmp_path / "out")}) == COUNT


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ends Ray's processes by their session")
def test_a_killed_driver_goes_on(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    out = tmp_path / "out"
    process = start(photos, out)
    deadline = time.monotonic() + 300
    while len(list(out.glob("part-*"))) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    again = fusiform.predict_parts(photos, out, MODEL, part=4, format="jsonl", threads=1)
    assert again.earlier >= 3
    fusiform.predict_parts(photos, tmp_path / "alone", MODEL, part=4, format="jsonl", threads=1)
    assert rows(out) == rows(tmp_path / "alone")


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        MissingExtraError, match=r"--on ray needs ray, which is not installed: pip install 'fusiform\[ray\]'"
    ):
        fusiform.predict_parts("examples", tmp_path / "out", MODEL, threads=1, on="ray")


def test_one_machine_imports_no_ray() -> None:
    code = (
        "import sys, tempfile, fusiform\n"
        "fusiform.predict_parts('examples', tempfile.mkdtemp(), format='jsonl', threads=1)\n"
        "assert not {'ray', 'obstore', 'fsspec', 'pyarrow'} & set(sys.modules)"
    )
    root = Path(on_ray.__file__).parents[3]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=120)
