"""The notebooks run from their first cell to their last, on small data, and show what they promise."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("torch")

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "docs" / "notebooks"

SHOWN = {
    "predict.ipynb": ("Egyptian cat", "data:image/png;base64", "no such file", "<th>probability</th>"),
    "train.ipynb": ("data:image/png;base64", "image/png", "top1"),
    "export.ipynb": ("ship/shufflenet_v2_x1_0_float32.onnx", "True", "Egyptian cat"),
}
"""What has to be in the outputs of each."""


def test_every_notebook_is_here() -> None:
    assert {path.name for path in NOTEBOOKS.glob("*.ipynb")} == set(SHOWN)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHOWN)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Proactor event loop", "ignore::RuntimeWarning")
def test_a_notebook_runs(name: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    outputs = str([cell.get("outputs") for cell in notebook.cells])
    for text in SHOWN[name]:
        assert text in outputs, f"{name} does not show {text}"
    assert "Traceback" not in outputs
    if folder := os.environ.get("FUSIFORM_WRITE_NOTEBOOKS"):  # for whoever wants to look at them
        nbformat.write(notebook, Path(folder) / name)
