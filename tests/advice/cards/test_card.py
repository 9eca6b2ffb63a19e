"""Model cards and data sheets: all that a run knows stands there, what it does not know is asked."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

pytest.importorskip("torch")

import fusiform
from fusiform.advice.cards.licences import hub_licence, library_rows
from fusiform.advice.cards.sections import Items, Questions
from fusiform.data.dataset import DataSet, Sample, Split
from fusiform.errors import InputError, OutputError, UsageError
from fusiform.evaluation.uses import note_use, widen
from fusiform.spec import ModelSpec, Preprocess
from fusiform.tasks.bootstrap import Interval
from fusiform.tasks.classification_metrics import wilson_interval
from fusiform.training.recipes import finetune_small
from fusiform.zoo.checkpoint import write_safetensors

CLASSES = ("<b>|red_*", "green")
SPEC = ModelSpec(
    "mobilenet_v2",
    0.35,
    CLASSES,
    input_size=32,
    preprocess=Preprocess(resize=32, crop=32),
    provenance="trained by hand",
    license="BSD-3-Clause",
)
LOW, HIGH = wilson_interval(5, 6)
REACHED = {"split": "test", "images": 6, "top1": 5 / 6, "top1_low": LOW, "top1_high": HIGH}
ROWS = [
    {"class": CLASSES[0], "images": 3, "precision": 1.0, "recall": 2 / 3, "f1": 0.8},
    {"class": "green", "images": 3, "precision": 0.75, "recall": 1.0, "f1": 0.857},
]


def write_run(run: Path, data: Path, state: Any, *, split: str = "test") -> None:
    """A run's folder, as ``fusiform train`` leaves it."""
    splits: dict[Split, tuple[Sample, ...]] = {}
    names: tuple[Split, ...] = ("train", "val", "test")
    for each in names:
        files = [(k, file) for k, name in enumerate(CLASSES) for file in sorted((data / "of" / name).glob(f"{each}*"))]
        splits[each] = tuple(Sample(file, k) for k, file in files)
    dataset = DataSet(data / "of", CLASSES, splits)
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(("path", "label", "split", "offset", "size", "key"))
    writer.writerows(
        (sample.file, CLASSES[sample.label], name, 0, "", "") for name, samples in splits.items() for sample in samples
    )
    run.mkdir(parents=True)
    write_safetensors(run / "best.safetensors", state, SPEC)
    settings = {"data": str(data / "of"), "model": "mobilenet_v2", "teacher": None, "scratch": False}
    (run / "run.json").write_text(json.dumps({**settings, "classes": list(CLASSES)}))
    (run / "recipe.json").write_text(finetune_small.to_json())
    (run / "data.csv").write_text(text.getvalue(), newline="")
    (run / "data.sha256").write_text(f"{dataset.fingerprint()}  data.csv\n")
    environment = {"started": "2026-03-04T05:06:07+00:00", "fusiform": "0.2.0", "packages": {"torch": "9.8.7"}}
    (run / "environment.json").write_text(json.dumps(environment))
    figures = {**REACHED, "split": split, "network": SPEC.name}
    report = {"title": "training", "figures": figures, "rows": []}
    (run / "report.json").write_text(json.dumps(report))
    lines = [{"phase": "main", "epoch": k, "step": k, "val_top1": 0.5} for k in range(3)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def made(tmp_path: Path, lived_in_state: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs beside each other on images of two classes, one of which has a position; six were a test."""
    monkeypatch.chdir(tmp_path)
    for name in CLASSES:
        (tmp_path / "of" / name).mkdir(parents=True)
        for split, count in (("train", 5), ("val", 2), ("test", 3)):
            for k in range(count):
                exif = Image.Exif()
                if (name, split, k) == ("green", "train", 4):
                    exif.get_ifd(0x8825).update({1: "N", 2: (1.0, 2.0, 3.0), 3: "E", 4: (1.0, 2.0, 3.0)})
                Image.new("RGB", (40, 40), (20 * k, 9, len(name + split))).save(
                    tmp_path / "of" / name / f"{split}{k}.jpg", exif=exif
                )
    state = lived_in_state(SPEC)
    for name in ("first", "second"):
        write_run(tmp_path / "runs" / name, tmp_path, state)
    return tmp_path


def used(run: Path, **more: Any) -> None:
    """A line of an evaluation of its test images."""
    samples = [Sample(file, 0) for file in sorted(run.parents[1].glob("of/*/test*"))]
    interval = Interval(5 / 6, LOW, HIGH)
    figures = {**REACHED, "data": str(run.parents[1] / "of"), "skipped": 0, "model_classes": 2}
    given: dict[str, Any] = {"figures": figures, "rows": ROWS, **more}
    note_use(run, run / "best.safetensors", samples, split="test", what="top-1", interval=interval, **given)


def test_a_card_has_what_the_run_knows(made: Path) -> None:
    used(made / "runs" / "first")
    text = fusiform.card("runs/first").to_markdown()
    ends = f"{100 * LOW:.1f} to {100 * HIGH:.1f}"
    for part in (
        f"Its top-1 accuracy is 83.3 % (95 % interval {ends}) on 6 test images of of.",
        "6 images of the split test of of, which took no part in training.",
        "- **trained**: 2026-03-04",
        "- **uses of these images**: 1, for 1 run beside each other",
        "It learned from 10 images of of. 4 images of val chose the best epoch.",
        "| green | 3 | 75.0 % | 100.0 % | 85.7 % |",
        "| torch | 9.8.7 |",
        "the weights it began with: BSD-3-Clause",
        "Fewer than 20 images were measured of",
        "- **max\\_steps**: 2,000",
        "There are 20 images and 2 classes.",
        "| GPS position | 1 | green/train4.jpg |",
        "fusiform train kept 4 images back for validation",
        "It is not calibrated",
    ):
        assert part in text, part
    assert (made / "runs" / "first" / "data.sha256").read_text().split()[0] in text
    assert "\\<b\\>\\|red\\_\\*" in text
    assert "<b>" not in text
    assert "has changed" not in text
    for title in ("Intended use", "Factors", "Quantitative analyses", "Composition", "Maintenance"):
        assert f"\n## {title}\n" in text
    assert text.count("- [ ] ") > 15


def test_what_only_the_author_knows_is_asked_and_not_made_up(made: Path) -> None:
    card = fusiform.card("runs/first")
    by_title = {section.title: section.blocks for section in (*card.card, *card.sheet)}
    for title in ("Motivation", "Distribution", "Maintenance"):
        assert all(isinstance(block, Questions) for block in by_title[title]), title
    for title in ("Intended use", "Licences", "Collection process"):
        assert isinstance(by_title[title][-1], Questions)


def test_the_metadata_is_hugging_face_s(made: Path) -> None:
    card = fusiform.card("runs/first")
    found = yaml.safe_load(re.split(r"^---$", card.to_markdown(), flags=re.MULTILINE)[1])
    assert found == card.metadata
    assert found["license"] == "bsd-3-clause"
    assert found["pipeline_tag"] == "image-classification"
    (result,) = found["model-index"][0]["results"]
    assert result["dataset"] == {"type": "of", "name": "of", "split": "test"}
    assert result["metrics"] == [{"type": "accuracy", "value": 0.833333, "name": "top-1 accuracy"}]
    assert (hub_licence("Apache-2.0 AND BSD-3-Clause"), hub_licence(" MIT")) == (None, "mit")


def test_the_same_run_gives_the_same_bytes(made: Path) -> None:
    used(made / "runs" / "first")
    files = [path.read_bytes() for path in fusiform.card("runs/first").write("card")]
    assert [path.read_bytes() for path in fusiform.card("runs/first").write("again")] == files
    assert sorted(path.name for path in (made / "again").iterdir()) == ["card.html", "data_sheet.md", "model_card.md"]


def test_the_half_that_a_calibration_leaves_does_not_take_the_place_of_the_whole(made: Path) -> None:
    run = made / "runs" / "first"
    used(run)
    used(run, figures={**REACHED, "images": 3, "top1": 1.0, "top1_low": 0.4, "top1_high": 1.0})
    assert "Its top-1 accuracy is 83.3 %" in fusiform.card("runs/first").to_markdown()


def test_of_several_runs_on_the_same_test_the_interval_is_wider(made: Path) -> None:
    for name in ("first", "second"):
        used(made / "runs" / name)
    text = fusiform.card("runs/second").to_markdown()
    low, high = wilson_interval(5, 6, level=0.975)
    assert "2, for 2 runs beside each other" in text
    assert f"all 2 together for 95 % (Bonferroni) is {100 * low:.1f} to {100 * high:.1f} %." in text
    assert "2 runs were measured on the same test images: see the wider interval above." in text


def test_figures_of_the_images_that_chose_the_epoch_are_called_so(
    made: Path, lived_in_state: Callable[..., Any]
) -> None:
    write_run(made / "runs" / "third", made, lived_in_state(SPEC), split="val")
    text = fusiform.card("runs/third").to_markdown()
    wide = widen(Interval(5 / 6, LOW, HIGH), 3, 6)
    assert wide.low is not None
    assert "If it is the best of 3 epochs on these images, it was chosen by them" in text
    assert f"is {100 * wide.low:.1f} to" in text
    assert "There was no test split: the figures are of the validation images" in text


def test_a_dataset_that_has_changed_moved_or_gone_is_named(made: Path) -> None:
    shutil.copytree("of", "moved")
    (made / "of" / "green" / "train0.jpg").unlink()
    shutil.copy("of/green/train1.jpg", "of/green/new.jpg")
    shutil.move("of/green/train2.jpg", "of/<b>|red_*/train2.png")
    text = fusiform.card("runs/first").to_markdown()
    assert "has changed since the training, and no longer has the hash of its list: 2 images are gone, 2 are new." in (
        text.replace("\\", "")
    )
    moved = fusiform.card("runs/first", data="moved").to_markdown()
    assert "has changed" not in moved
    shutil.rmtree("of")
    gone = fusiform.card("runs/first")
    assert "of is no longer there: what its files say of people is not known." in gone.to_markdown()
    assert "There are 20 images" in gone.to_markdown()
    with pytest.raises(UsageError, match="nowhere"):
        fusiform.card("runs/first", data="nowhere")


def test_what_was_measured_and_exported_beside_is_told(made: Path) -> None:
    run = made / "runs" / "first"
    corruptions = [{"corruption": name, "top1": top1, "top1_low": 0.1, "top1_high": 0.9} for name, top1 in SHAKEN]
    stress = {"corrupted_top1": 0.5, "corrupted_top1_low": 0.4, "corrupted_top1_high": 0.6, "clean_top1": 0.8}
    used(run, stress={**stress, "corruptions": corruptions})
    used(run)  # and once more without
    (run / "export").mkdir()
    row = {"target": "litert", "precision": "int8", "file": "elsewhere/a.tflite", "passed": True, "bytes": 1_500_000}
    rows = [row, {**row, "file": "gone.tflite"}, {**row, "passed": False}]
    (run / "export" / "a_export.json").write_text(json.dumps({"rows": rows}))
    (run / "export" / "a.tflite").write_bytes(b"x")
    chosen = {
        "model": "best/model.tflite",
        "run": "best/runs/first",
        "engine": "litert",
        "threads": 1,
        "median_ms": 3.25,
    }
    (made / "choose.json").write_text(json.dumps({"chosen": chosen, "trainings": [{}, {}]}))
    text = fusiform.card("runs/first").to_markdown()
    assert "it is right for 50.0 % (40.0 to 60.0), against 80.0 %" in text
    assert text.index("| shot noise |") < text.index("| fog |")
    assert text.count("a.tflite") == 1
    assert "| export/a.tflite | litert | int8 | 1.50 MB |" in text
    assert "| model.tflite | litert | 1 | 3.25 ms |" in text
    assert "Corrupted images were not measured" not in text


def test_another_file_of_a_run_does_not_have_the_figures_of_the_best(made: Path) -> None:
    used(made / "runs" / "first")
    shutil.copy("runs/first/best.safetensors", "runs/first/last.safetensors")
    last = fusiform.card("runs/first/last.safetensors")
    assert last.name == "first (last.safetensors)"
    assert "How good it is has not been measured." in last.to_markdown()
    assert "There are 20 images" in last.to_markdown()
    shutil.copytree("runs", "best/runs")
    shutil.copy("runs/first/best.safetensors", "best/model.safetensors")
    chosen = {"run": "best/runs/second", "model": "best/model.safetensors", **REACHED, "top1": 0.5, "split": "val"}
    Path("best/choose.json").write_text(json.dumps({"chosen": chosen, "trainings": [{}, {}, {}, {}]}))
    text = fusiform.card("best/model.safetensors").to_markdown()
    assert "Its top-1 accuracy is 50.0 %" in text
    assert "If it is the best of 12 epochs of 4 trainings on these images" in text


SHAKEN = (("fog", 0.7), ("shot_noise", 0.2))


def test_a_model_without_a_run_has_a_card_too(made: Path) -> None:
    card = fusiform.card("shufflenet_v2_x1_0")
    assert not card.sheet
    assert card.write("only.md") == (Path("only.md"),)
    shutil.copy("runs/first/best.safetensors", "alone.safetensors")
    alone = fusiform.card("alone.safetensors", data="of")
    text = alone.to_markdown()
    assert "How good it is has not been measured." in text
    assert "whether it learned from it is unknown" in text
    assert "| GPS position | 1 | green/train4.jpg |" in text


def test_a_page_shows_the_same_and_lets_no_name_in(made: Path) -> None:
    used(made / "runs" / "first")
    card = fusiform.card("runs/first")
    (page,) = card.write("card.html")
    text = page.read_text(encoding="utf-8")
    assert "&lt;b&gt;|red_*" in text
    assert "<b>|" not in text
    for section in (*card.card, *card.sheet):
        assert section.title in text
        for block in section.blocks:
            for line in block.lines if isinstance(block, (Items, Questions)) else ():
                assert line.split(" ")[0] in text
    assert "GPS position" in text
    assert repr(card).startswith("<ModelCard first: MobileNetV2 0.35 that names")
    assert "<h2>" in card._repr_html_()


@pytest.mark.parametrize("file", ["run.json", "environment.json", "recipe.json", "metrics.jsonl", "data.csv"])
def test_a_damaged_file_of_the_run_is_named(made: Path, file: str) -> None:
    (made / "runs" / "first" / file).write_text("{")
    if file == "metrics.jsonl":  # lines are left out
        assert fusiform.card("runs/first").card
        return
    with pytest.raises(InputError, match=re.escape(file)):
        fusiform.card("runs/first")


def test_files_that_are_no_cards_and_places_that_are_none_are_refused(made: Path) -> None:
    card = fusiform.card("runs/first")
    with pytest.raises(UsageError, match=r"a.pdf: a card is FILE.md, FILE.html, or a folder"):
        card.write("a.pdf")
    with pytest.raises(OutputError, match="there is no folder for it"):
        card.write("no/where")
    Path("taken").write_text("x")
    with pytest.raises(UsageError, match="taken: a card is"):
        card.write("taken")


def test_packages_state_their_licences() -> None:
    rows = {row["package"]: row for row in library_rows("detection", {"torch": "1.2.3", "numpy": None})}
    assert rows["fusiform"]["licence"] == "Apache-2.0"
    assert rows["torch"]["version"] == "1.2.3"
    assert "BSD" in rows["numpy"]["licence"]
    assert "faster-coco-eval" in rows
    assert "faster-coco-eval" not in {row["package"] for row in library_rows("classification", {})}
