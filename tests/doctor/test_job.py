"""The doctor from Python: what it returns, and how that looks."""

from __future__ import annotations

import base64
import inspect
import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

from fusiform.cli import commands
from fusiform.cli.doctor import command
from fusiform.data.annotated import AnnotatedSet
from fusiform.data.dataset import DataSet
from fusiform.data.open import open_dataset
from fusiform.doctor.findings import EXAMPLES, Diagnosis
from fusiform.doctor.job import diagnose
from fusiform.errors import UsageError
from fusiform.zoo.model import open_model


def photograph(file: Path, seed: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    noise = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (7, 7, 3), np.uint8))
    noise.resize((240, 240), Image.Resampling.NEAREST).save(file)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two classes of five pictures; one more of each is the same, and a file is empty."""
    root = tmp_path / "<data>"
    for k, name in enumerate(("cat", "dog")):
        for number in range(5):
            photograph(root / name / f"{number}.jpg", 10 * k + number)
        photograph(root / name / "same.jpg", 99)
    (root / "cat/empty.jpg").touch()
    return root


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    root = tmp_path / "masks"
    for number in range(2):
        photograph(root / f"JPEGImages/{number}.jpg", number)
        (root / "SegmentationClass").mkdir(exist_ok=True)
        Image.fromarray(np.full((240, 240), number, np.uint8)).save(root / f"SegmentationClass/{number}.png")
    return root


def test_what_is_found_is_returned(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    diagnosis = diagnose(data)
    assert isinstance(diagnosis.dataset, DataSet)
    assert [finding.kind for finding in diagnosis.findings] == ["empty file", "contradictory labels"]
    assert sum(map(len, diagnosis.clean.splits.values())) == 10
    assert capsys.readouterr() == ("", "")  # nothing is printed


def test_it_is_what_the_command_prints(data: Path) -> None:
    diagnosis = diagnose(data, threads=1)
    printed = CliRunner().invoke(commands, ["doctor", str(data), "--format", "json", "--threads", "1"])
    assert printed.stdout == diagnosis.to_json()
    assert json.loads(diagnosis.to_json()) == diagnosis.to_dict()
    assert [row["kind"] for row in diagnosis.to_dict()["rows"]] == ["empty file", "contradictory labels"]
    assert CliRunner().invoke(commands, ["doctor", str(data)]).stdout == str(diagnosis) == diagnosis.to_table()


def test_its_parameters_are_the_options_of_the_command() -> None:
    parameters = inspect.signature(diagnose).parameters
    options = {option.name for option in command.params}
    # Where and how the text is printed, and the exit code, are the command's; progress is shown there on a terminal.
    assert options - {"form", "out", "strict"} == set(parameters) - {"progress"}
    assert all(parameters[name].default is None for name in parameters if name != "data")
    task = next(option for option in command.params if option.name == "task")
    assert isinstance(task.type, click.Choice)
    assert tuple(task.type.choices) == ("classification", "detection", "segmentation")


def test_every_task(data: Path, masks: Path) -> None:
    diagnosis = diagnose(masks)
    assert isinstance(diagnosis.dataset, AnnotatedSet)
    assert diagnosis.dataset.task == "segmentation"
    with pytest.raises(UsageError, match="no dataset of classes: its pictures have masks"):
        diagnose(masks, task="classification")
    with pytest.raises(UsageError, match="has no folder Annotations"):
        diagnose(masks, task="detection")
    with pytest.raises(UsageError, match="has no folder JPEGImages"):
        diagnose(data, task="segmentation")


def test_a_page_and_a_list_are_written(data: Path, tmp_path: Path) -> None:
    page, clean = tmp_path / "page.html", tmp_path / "clean.csv"
    diagnosis = diagnose(data, html=page, fix=clean)
    assert page.read_text(encoding="utf-8") == diagnosis.page().render()
    assert open_dataset(clean).splits == diagnosis.clean.splits


def test_nothing_is_examined_for_a_list_that_cannot_be_written(
    data: Path, masks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusiform.doctor.job.examine", pytest.fail)
    monkeypatch.setattr("fusiform.doctor.job.examine_annotated", pytest.fail)
    with pytest.raises(UsageError, match=r"ends in \.csv"):
        diagnose(data, fix=data.parent / "clean.txt")
    with pytest.raises(UsageError, match="these are masks"):
        diagnose(masks, fix=data.parent / "clean")


def test_a_model_that_is_open(tmp_path: Path) -> None:
    model = open_model("mobilenet_v2")
    for number in range(2):
        photograph(tmp_path / "tabby" / f"{number}.png", number)
        photograph(tmp_path / "beagle" / f"{number}.png", 10 + number)
    judged = diagnose(tmp_path, model=model)
    # Noise is no beagle: the model does not know the class by these pictures.
    assert "beagle" in [finding.class_name for finding in judged.findings if finding.kind == "class not judged"]
    assert judged.to_dict() == diagnose(tmp_path, model="mobilenet_v2").to_dict()


def test_progress_is_shown_to_whoever_asks(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusiform.progress.GAP_SECONDS", 0.0)  # of short jobs nothing is said
    diagnose(data, progress=True)
    assert "doctor: 100 %" in capsys.readouterr().err
    diagnose(data, progress=False)
    assert capsys.readouterr().err == ""
    steps: list[int] = []

    class Bar:
        def advance(self, amount: int = 1, note: str = "") -> None:
            steps.append(amount)

    @contextmanager
    def count(*, total: int | None, label: str, unit: Any = "images") -> Iterator[Bar]:
        assert (total, label) in ((None, "read the dataset"), (13, "doctor"), (None, "find copies"))
        yield Bar()

    diagnose(data, progress=count)
    assert sum(steps) == 13


def test_how_it_looks(data: Path) -> None:
    diagnosis = diagnose(data)
    title = f"{data}: 13 pictures, 2 errors, 0 warnings, 0 notes"
    assert repr(diagnosis) == f"<Diagnosis {title}>"
    shown = diagnosis._repr_html_()
    assert "<data>" not in shown  # names are escaped
    for text in ("&lt;data&gt;: 13 pictures, 2 errors", "error: empty file (1)", "cat/empty.jpg", "<td>dog</td>"):
        assert text in shown
    assert "http" not in shown
    assert "src=" not in shown


def test_many_findings_are_cut_short(tmp_path: Path) -> None:
    for number in range(EXAMPLES + 3):
        (tmp_path / "cat").mkdir(exist_ok=True)
        (tmp_path / f"cat/{number}.jpg").touch()
    diagnosis: Diagnosis[Any] = diagnose(tmp_path)
    shown = diagnosis._repr_html_()
    assert f"error: empty file (the first {EXAMPLES} of {EXAMPLES + 3})" in shown
    assert shown.count("is empty (0 bytes)") == EXAMPLES
    assert len(repr(diagnosis)) < 200


def sections(diagnosis: Diagnosis[Any]) -> dict[str, str]:
    """The page's sections by their headings."""
    parts = diagnosis.page().render().split("<section")[1:]
    return {re.findall(r"<h[23] id=[^>]*>([^<]+)", part)[0]: part for part in parts}


def test_what_many_classes_lack_is_said_once(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b: c", "<d>"), 1):
        for copy in range(number):
            photograph(tmp_path / "train" / name / f"{copy}.png", 10 * number + copy)
    photograph(tmp_path / "val" / "a" / "0.png", 99)
    found = sections(diagnose(tmp_path))
    assert re.findall("<p class=.text.>([^<]+)", found["small class"]) == [
        "3 classes, the numbers are their pictures in train: collect more, or join it with another class"
    ]
    assert [re.sub("<[^>]+>", "", item) for item in re.findall("<li>(.*?)</li>", found["small class"])] == [
        "a 1",
        "b: c 2",
        "&lt;d&gt; 3",
    ]
    assert "2 classes, no pictures in val: put some there, or remove the class" in found["class missing"]
    assert list(found)[:2] == ["Warnings", "class missing"]
    assert list(found)[-1] == "Classes"


def test_a_mask_lies_only_over_pictures_whose_mask_is_in_question(tmp_path: Path) -> None:
    for folder in ("JPEGImages", "SegmentationClass"):
        (tmp_path / folder).mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (80, 60), "white").save(tmp_path / f"JPEGImages/{name}.jpg", quality=100)
        mask = Image.new("L", (80, 60), 1)
        mask = mask.convert("RGB") if name == "b" else mask
        if name == "b":
            mask.paste((128, 0, 0), (0, 0, 80, 60))  # aeroplane's colour
        mask.save(tmp_path / f"SegmentationClass/{name}.png")
    found = sections(diagnose(tmp_path))

    def pixels(kind: str) -> NDArray[np.int64]:
        data = re.findall(r'base64,([^"]+)"', found[kind])[0]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(int)

    assert pixels("blank").min() > 240
    assert pixels("RGB mask")[30, 40, 1] < 200
