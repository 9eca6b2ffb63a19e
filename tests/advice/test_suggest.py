"""Which images to label: on two colours, with copies and strangers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusiform.advice.suggest import suggest
from fusiform.data.open import open_dataset
from fusiform.errors import InputError, OutputError, UsageError
from fusiform.zoo.model import Model


@pytest.fixture
def pool(data: Path, tmp_path: Path) -> Path:
    """The test images without their labels, one of them saved again, and a stranger."""
    (tmp_path / "pool").mkdir()
    for path in (data / "test").glob("*/*"):
        shutil.copy(path, tmp_path / "pool" / f"{path.parent.name}{path.name}")
    Image.new("RGB", (40, 40), (0, 0, 255)).save(tmp_path / "pool" / "blue.png")
    return tmp_path / "pool"


def test_labelled_images_tell_classes_and_strangers(
    pool: Path, data: Path, model: Model, valid: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    # tests/tasks/test_picking.py says what is strange; here the first image of the pool is, the blue one.
    monkeypatch.setattr(
        "fusiform.advice.suggest.strangeness", lambda new, _: np.array([0.001] + [0.5] * (len(new) - 1))
    )
    found = suggest(pool, model=model, count=5, labelled=data / "train", threads=1)
    assert len(found.rows) == 5
    assert all(str(row["suggested"]) in Path(str(row["path"])).name for row in found.rows)
    assert [Path(str(row["path"])).name for row in found.strangers] == ["blue.png"]
    margins = [row["margin"] for row in found.rows]
    assert margins == sorted(margins)  # type: ignore[type-var]
    assert callable(valid)
    valid(found.report().to_json())


def test_what_is_labelled_already_is_left_out(data: Path, model: Model) -> None:
    labelled = open_dataset(data / "train", task="classification")
    found = suggest(data, model=model, count=30, labelled=labelled, threads=1)
    assert found.figures["labelled_images"] == 40
    assert len(found.rows) + len(found.strangers) == 20
    assert all("/test/" in str(row["path"]) for row in found.rows)
    with pytest.raises(InputError, match="are labelled"):
        suggest(data / "train", model=model, labelled=labelled, threads=1)


def test_near_copies_are_there_once(pool: Path, model: Model) -> None:
    for path in list(pool.glob("*.png")):
        shutil.copy(path, pool / f"copy of {path.name}")
    found = suggest(pool, model=model, count=60, diverse=True, threads=1)
    names = [Path(str(row["path"])).name.removeprefix("copy of ") for row in found.rows]
    assert len(names) == len(set(names)) == 21
    assert all(row["suggested"] is None for row in found.rows)


def test_what_to_label_in(pool: Path, data: Path, model: Model, tmp_path: Path) -> None:
    found = suggest(pool, model=model, count=4, labelled=data / "train", save=tmp_path / "sheet.png", threads=1)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 400
    found.write(tmp_path / "list.csv")
    listed = open_dataset(tmp_path / "list.csv", task="classification")
    assert sum(map(len, listed.splits.values())) == 4
    found.write(tmp_path / "tasks.json")
    tasks = json.loads((tmp_path / "tasks.json").read_text(encoding="utf-8"))
    assert [task["predictions"][0]["result"][0]["value"]["choices"][0] for task in tasks] == [
        row["suggested"] for row in found.rows
    ]
    assert tasks[0]["data"]["image"] == f"/data/local-files/?d={str(found.rows[0]['path']).lstrip('/')}"
    found.write(tmp_path / "folder")
    found.write(tmp_path / "folder")  # what is there stays
    copied = open_dataset(tmp_path / "folder", task="classification")
    assert sum(map(len, copied.splits.values())) == 8
    with pytest.raises(OutputError):
        found.write(tmp_path / "list.csv" / "folder")


def test_a_models_own_answers(pool: Path, model: Model) -> None:
    found = suggest([str(pool)], model=model, count=3, threads=1)
    assert {row["suggested"] for row in found.rows} <= {"one", "two"}
    assert any("--labelled" in note for note in found.notes)


def test_arguments(pool: Path, data: Path, model: Model) -> None:
    with pytest.raises(UsageError, match="count"):
        suggest(pool, model=model, count=0)
    with pytest.raises(UsageError, match="diverse"):
        suggest(pool, model=model, diverse=True, labelled=data)
