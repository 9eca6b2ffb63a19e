from __future__ import annotations

import io
import json
import re
import shutil
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw

import fusiform.doctor.judge
from fusiform.data.dataset import DataSet, Sample, Split
from fusiform.data.folders import read_dataset
from fusiform.doctor.classification import examine
from fusiform.doctor.clean import write_clean_list
from fusiform.doctor.findings import Diagnosis
from fusiform.engines.batch import Batch
from fusiform.errors import ImageError, OutputError, UsageError
from fusiform.spec import ModelSpec
from fusiform.zoo.model import Model

CLASSES = ("blue", "green", "red")


def photograph(channel: int, seed: int, width: int = 256, height: int = 240) -> Image.Image:
    """A scene that no other seed gives: patches and shapes, all but the border in the colour of one channel."""
    random = np.random.default_rng([channel, seed])
    noise = random.integers(0, 250, (10, 10, 3), np.uint8)
    noise[1:-1, 1:-1] = random.integers(0, 140, (8, 8, 3), np.uint8)
    noise[1:-1, 1:-1, channel] += 110
    image = Image.fromarray(noise).resize((width, height), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(image)
    for _ in range(5):
        x, y, right, down = (int(v) for v in random.integers(10, (width - 80, height - 80, 70, 70)))
        colour = [int(v) for v in random.integers(0, 90, 3)]
        colour[channel] += 120
        (draw.ellipse if random.random() < 0.5 else draw.rectangle)((x, y, x + right, y + down), tuple(colour))
    grain = random.normal(0, 4, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))


CHANNELS = {"red": 0, "green": 1, "blue": 2}


@pytest.fixture(scope="session")
def clean_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """72 pictures of three classes, 16 of each to train on and 8 to test with."""
    root = tmp_path_factory.mktemp("clean")
    for name, channel in CHANNELS.items():
        for number in range(24):
            folder = root / ("train" if number < 16 else "test") / name
            folder.mkdir(parents=True, exist_ok=True)
            photograph(channel, number).save(folder / f"{number}.jpg", quality=90)
    return root


class ColourEngine:
    """Sees the mean of each channel; its classes are none of the dataset's."""

    spec = ModelSpec("mobilenet_v2", 1.0, ("something else",))

    def run(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        assert batch.dtype == np.uint8
        return {"features": (batch.mean((1, 2)) / 255).astype(np.float32)}


def model_of(monkeypatch: pytest.MonkeyPatch, engine: Any) -> Model:
    """A model that this engine answers for."""
    monkeypatch.setattr(fusiform.doctor.judge, "open_engine", lambda model, features: engine)
    return Model(Path("made.tflite"), "tflite", engine.spec, b"")


@pytest.fixture
def colour_model(monkeypatch: pytest.MonkeyPatch) -> Model:
    return model_of(monkeypatch, ColourEngine())


def found(diagnosis: Diagnosis) -> set[tuple[str, str, str]]:
    """Severity, kind and file of every finding, the file from the dataset's folder on."""
    source = diagnosis.dataset.source
    return {
        (f.severity, f.kind, Path(f.path).relative_to(source).as_posix() if f.path else "") for f in diagnosis.findings
    }


def test_nothing_is_wrong_with_clean_pictures(clean_pictures: Path, colour_model: Model) -> None:
    diagnosis = examine(clean_pictures, model=colour_model)
    assert diagnosis.findings == ()
    assert diagnosis.clean == diagnosis.dataset
    assert diagnosis.pictures == 72
    assert "Nothing was found." in diagnosis.to_table()


def plant(root: Path) -> dict[str, tuple[str, str]]:
    """Spoil a copy of the clean pictures; what is planted where: file to severity and kind."""
    train, test = root / "train", root / "test"
    (train / "red/corrupt.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(3000))
    whole = (train / "red/1.jpg").read_bytes()
    (train / "red/truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (train / "green/list.jpg").write_text("apples\npears\n" * 50, encoding="utf-8")
    (train / "green/empty.png").touch()
    photograph(1, 101).convert("CMYK").save(train / "green/cmyk.jpg")
    photograph(1, 102).save(train / "green/really_png.jpg", "PNG")
    turned = Image.Exif()
    turned[0x0112] = 6
    photograph(2, 103).save(train / "blue/turned.jpg", exif=turned, quality=90)
    Image.new("RGB", (240, 240), (20, 20, 250)).save(train / "blue/blank.png")
    (train / "blue/IMG_1.NEF").write_bytes(b"\0\0\0\x18ftypheic")
    (train / "blue/notes.db").write_bytes(b"x")
    (root / "README.txt").write_text("Not in a class folder.", encoding="utf-8")

    # The same picture twice: in a class, in two classes, in two splits, saved again in the other split.
    shutil.copy(train / "red/3.jpg", train / "red/3 copy.jpg")
    shutil.copy(train / "red/4.jpg", train / "green/4 too.jpg")
    shutil.copy(test / "blue/18.jpg", train / "blue/leak.jpg")
    Image.open(test / "red/19.jpg").resize((200, 188)).save(train / "red/saved again.jpg", quality=70)
    Image.open(train / "blue/5.jpg").save(train / "blue/5 again.jpg", quality=60)

    # Wrong labels.
    shutil.move(train / "green/7.jpg", train / "red/wrong.jpg")
    shutil.move(test / "blue/20.jpg", test / "green/wrong.jpg")
    return {
        "train/red/corrupt.jpg": ("error", "corrupt"),
        "train/red/truncated.jpg": ("error", "truncated"),
        "train/green/list.jpg": ("error", "not a picture"),
        "train/green/empty.png": ("error", "empty file"),
        "train/green/cmyk.jpg": ("note", "CMYK"),
        "train/green/really_png.jpg": ("warning", "wrong extension"),
        "train/blue/turned.jpg": ("note", "orientation"),
        "train/blue/blank.png": ("warning", "blank"),
        "train/blue/leak.jpg": ("error", "leak between splits"),
        "train/red/saved again.jpg": ("error", "leak between splits"),
        "train/red/wrong.jpg": ("warning", "suspicious label"),
        "test/green/wrong.jpg": ("warning", "suspicious label"),
    }


@pytest.fixture
def spoiled(clean_pictures: Path, tmp_path: Path) -> Path:
    return shutil.copytree(clean_pictures, tmp_path / "spoiled")


def test_everything_planted_is_found_and_nothing_else(spoiled: Path, colour_model: Model, tmp_path: Path) -> None:
    expected = {(severity, kind, file) for file, (severity, kind) in plant(spoiled).items()}
    before = {path: path.read_bytes() for path in spoiled.rglob("*") if path.is_file()}
    diagnosis = examine(spoiled, model=colour_model)
    # Of a group the first picture is named, in the order of the dataset.
    by_kind = {(f.kind, f.path): f for f in diagnosis.findings}
    pair = {
        kind: {
            Path(s.name).name for f in diagnosis.findings if f.kind == kind and f.sample for s in (f.sample, *f.others)
        }
        for kind in ("exact duplicates", "near duplicates", "contradictory labels")
    }
    assert pair == {
        "exact duplicates": {"3.jpg", "3 copy.jpg"},
        "near duplicates": {"5.jpg", "5 again.jpg"},
        "contradictory labels": {"4.jpg", "4 too.jpg"},
    }
    rest = {item for item in found(diagnosis) if item[1] not in pair}
    # The copy of a red picture among the green is a wrong label, too.
    expected |= {
        ("warning", "suspicious label", "train/green/4 too.jpg"),
        ("warning", "pictures not read", "train/blue"),
        ("note", "other files", "train/blue"),
        ("note", "dataset", ""),  # the pictures that are not read, as training counts them
        ("note", "small", ""),
    }
    assert rest == expected
    leak = by_kind["leak between splits", str(spoiled / "train/blue/leak.jpg")]
    assert [other.file for other in leak.others] == [spoiled / "test/blue/18.jpg"]
    assert leak.split == "train"

    assert [f.severity for f in diagnosis.findings] == sorted(
        (f.severity for f in diagnosis.findings), key=["error", "warning", "note"].index
    )

    # The clean list: what the faults above leave, read back as a dataset.
    write_clean_list(diagnosis, tmp_path / "lists.csv")
    cleaned = read_dataset(tmp_path / "lists.csv")
    assert cleaned.classes == CLASSES
    kept = {
        (split, cleaned.classes[s.label], s.file.resolve().relative_to(spoiled.resolve()).as_posix())
        for split, samples in cleaned.splits.items()
        for s in samples
    }
    clean_now = {
        (split, diagnosis.dataset.classes[s.label], s.file.relative_to(spoiled).as_posix())
        for split, samples in diagnosis.clean.splits.items()
        for s in samples
    }
    assert kept == clean_now
    everything = {s.file.relative_to(spoiled).as_posix() for v in diagnosis.dataset.splits.values() for s in v}
    left_out = everything - {file for _, _, file in kept}
    unreadable = {"train/red/corrupt.jpg", "train/red/truncated.jpg", "train/green/list.jpg", "train/green/empty.png"}
    both = {"train/red/4.jpg", "train/green/4 too.jpg", "train/blue/leak.jpg", "train/red/saved again.jpg"}
    assert unreadable | both <= left_out
    copies = left_out - unreadable - both
    assert len(copies & {"train/red/3.jpg", "train/red/3 copy.jpg"}) == 1
    assert len(copies & {"train/blue/5.jpg", "train/blue/5 again.jpg"}) == 1
    assert len(copies) == 2
    # And it is healthy but for the labels and what is only unusual.
    again = examine(tmp_path / "lists.csv", model=colour_model)
    assert again.count("error") == 0
    assert {f.kind for f in again.findings if f.severity == "warning"} == {
        "suspicious label",
        "wrong extension",
        "blank",
    }
    assert {path: path.read_bytes() for path in spoiled.rglob("*") if path.is_file()} == before


def test_report_table_and_page(spoiled: Path, colour_model: Model, tmp_path: Path) -> None:
    plant(spoiled)
    photo = photograph(0, 500)
    for number in range(13):
        photo.crop((0, 0, 60 + 9 * number, 10)).save(spoiled / "train/red" / f"<b>{number}.png")
    diagnosis = examine(spoiled, model=colour_model)
    report = diagnosis.report()
    content = json.loads(report.to_json())
    assert len(content["rows"]) == len(diagnosis.findings)
    assert content["figures"]["images"] == diagnosis.pictures
    assert {"kind": "tiny", "severity": "warning", "findings": 13} in content["kinds"]
    errors, warnings = content["figures"]["error_count"], content["figures"]["warning_count"]
    assert errors == sum(row["severity"] == "error" for row in content["rows"])
    leak = next(row for row in content["rows"] if row["kind"] == "leak between splits" and "leak.jpg" in row["path"])
    assert leak["split"] == "train"
    assert leak["class"] == "blue"
    assert leak["others"] == [str(spoiled / "test/blue/18.jpg")]

    table = diagnosis.to_table()
    assert f"{errors} errors, {warnings} warnings" in table
    assert re.search(r"^green +\d+ +9$", table, re.MULTILINE)
    assert "warning: tiny (13)" in table
    assert "... and 3 more (--format json has all)" in table
    assert "train/red/truncated.jpg: is cut short" in table

    diagnosis.page().write(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<b>" not in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    # The four that cannot be read are told and have no picture; the wrong labels have both.
    listed = [part for part in page.split("<section")[1:] if "<img" not in part and 'class="plain"' in part]
    for name in ("corrupt.jpg", "truncated.jpg", "list.jpg", "empty.png"):
        assert sum(name in part for part in listed) == 1
    assert "train/green/4 too.jpg" in page


def test_the_page_shows_at_most_sixty_pictures_of_a_kind(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for number in range(35):
            image = photograph(0, 1000 + number).resize((30, 30))
            if name == "b":
                image = image.transpose(Image.Transpose.ROTATE_90)
            image.save(root / name / f"{number}.png")
    page = examine(root).page().render()
    (tiny,) = (part for part in page.split("<section")[1:] if ">tiny<" in part)
    assert '<span class="count"> 70</span>' in tiny
    assert "<summary>48 more</summary>" in tiny
    assert tiny.count("<img") == 60
    assert "... and 10 more" in tiny


def make(root: Path, folders: dict[str, int], seed: int = 0) -> Path:
    for folder, count in folders.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            seed += 1
            photograph(seed % 3, 5000 + seed).save(root / folder / f"{number}.jpg")
    return root


def test_classes(tmp_path: Path) -> None:
    folders = {"train/cat": 45, "train/dog": 4, "train/Dog ": 5, "val/cat": 3, "val/dog": 2}
    diagnosis = examine(make(tmp_path, folders))
    warnings = {(f.kind, f.class_name, f.split) for f in diagnosis.findings if f.severity == "warning"}
    odd = next(name for name in diagnosis.dataset.classes if name.startswith("Dog"))
    assert {w for w in warnings if w[0] != "class names"} == {
        ("imbalance", None, "train"),
        ("small class", "dog", "train"),
        ("class missing", odd, "val"),
    }
    assert "class names" in {kind for kind, _, _ in warnings}
    rows = {str(row["class"]).strip(): row for row in diagnosis.rows}
    assert {name: value for name, value in rows["cat"].items() if value is not None} == {
        "class": "cat",
        "images": 48,
        "train_images": 45,
        "val_images": 3,
    }


def test_ten_to_one_is_no_imbalance(tmp_path: Path) -> None:
    assert not [f for f in examine(make(tmp_path, {"cat": 50, "dog": 5})).findings if f.severity == "warning"]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    make(tmp_path, {"a": 5, "b": 5})
    lines = [f"{name}/{number}.jpg,{name}" for name in "ab" for number in range(6)]
    (tmp_path / "list.csv").write_text("path,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    diagnosis = examine(tmp_path / "list.csv")
    errors = {(f.kind, Path(f.path).name, f.message) for f in diagnosis.findings if f.severity == "error"}
    assert errors == {("unreadable", "5.jpg", "no such file: check the path")}
    write_clean_list(diagnosis, tmp_path / "clean.csv")
    assert (tmp_path / "clean.csv").read_text(encoding="utf-8").splitlines()[:2] == ["path,label", "a/0.jpg,a"]


def test_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, {"a": 5, "b": 5})
    read = Sample.read_bytes

    def refuse(self: Sample) -> bytes:
        if self.file.name == "3.jpg":
            raise ImageError(f"{self.name}: cannot be read (Permission denied)")
        return read(self)

    monkeypatch.setattr(Sample, "read_bytes", refuse)  # the tests may run as root, who may read everything
    diagnosis = examine(tmp_path)
    assert [(f.severity, f.kind) for f in diagnosis.findings if f.kind != "small"] == [("error", "unreadable")] * 2


def test_clean_list_from_another_folder(tmp_path: Path) -> None:
    data = make(tmp_path / "da ta", {"train/a": 5, 'train/b, "c"': 5, "test/a": 1, 'test/b, "c"': 1})
    (tmp_path / "lists").mkdir()
    diagnosis = examine(data)
    write_clean_list(diagnosis, tmp_path / "lists/clean.csv")
    text = (tmp_path / "lists/clean.csv").read_text(encoding="utf-8")
    assert text.splitlines()[0] == "path,label,split"
    assert "../da ta/train/a/0.jpg,a,train" in text
    read = read_dataset(tmp_path / "lists/clean.csv")
    assert read.classes == diagnosis.dataset.classes
    for split, samples in diagnosis.dataset.splits.items():
        assert [(s.file.resolve(), s.label) for s in read.splits[split]] == [(s.file, s.label) for s in samples]


def test_clean_list_refusals(tmp_path: Path) -> None:
    make(tmp_path, {"a": 5, "b": 5})
    lines = [f"{name}/{number}.jpg,{name}" for name in "ab" for number in range(5)]
    (tmp_path / "list.csv").write_text("path,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    listed = examine(tmp_path / "list.csv")
    with pytest.raises(UsageError, match=r"list\.csv: is the dataset itself"):
        write_clean_list(listed, tmp_path / "a/../list.csv")
    sharded = DataSet(tmp_path, ("a",), {"all": (Sample(tmp_path / "x.tar", 0, 512, 100, "1.jpg"),)})
    with pytest.raises(UsageError, match="unpack"):
        write_clean_list(Diagnosis(sharded, (), sharded), tmp_path / "clean.csv")
    undecodable = DataSet(
        tmp_path, ("a",), {"all": (Sample(tmp_path / "a/0.jpg", 0), Sample(tmp_path / "\udce9.jpg", 0))}
    )
    with pytest.raises(OutputError, match=r"udce9\.jpg.*rename"):
        write_clean_list(Diagnosis(undecodable, (), undecodable), tmp_path / "clean.csv")
    spaced = DataSet(tmp_path, ("a ",), {"all": (Sample(tmp_path / "a/0.jpg", 0),)})
    with pytest.raises(OutputError, match="space"):
        write_clean_list(Diagnosis(spaced, (), spaced), tmp_path / "clean.csv")
    with pytest.raises(OutputError, match="no picture is left"):
        write_clean_list(Diagnosis(spaced, (), DataSet(tmp_path, ("a ",), {"all": ()})), tmp_path / "clean.csv")
    with pytest.raises(UsageError, match=r"\.csv"):
        write_clean_list(listed, tmp_path / "clean")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "list.csv"]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pictures=st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=8),
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8),
            st.sampled_from(["train", "val", "test"]),
        ),
        min_size=1,
        max_size=6,
        unique_by=lambda picture: picture[0],
    )
)
def test_a_clean_list_reads_back_as_it_was_or_is_refused(
    tmp_path: Path, pictures: list[tuple[str, str, Split]]
) -> None:
    """Whatever the files and classes are called."""
    pictures = [(file, unicodedata.normalize("NFC", name), split) for file, name, split in pictures]
    classes = tuple(dict.fromkeys(name for _, name, _ in pictures))
    splits: dict[Split, tuple[Sample, ...]] = {}
    for file, name, split in pictures:
        splits[split] = (*splits.get(split, ()), Sample(tmp_path / "da ta" / f"{file}.jpg", classes.index(name)))
    dataset = DataSet(tmp_path / "da ta", classes, splits)
    try:
        write_clean_list(Diagnosis(dataset, (), dataset), tmp_path / "clean.csv")
    except OutputError:
        assert any("\\" in file or name != name.strip() for file, name, _ in pictures)
        return
    read = read_dataset(tmp_path / "clean.csv")
    back = {(split, read.classes[s.label], s.file) for split, samples in read.splits.items() for s in samples}
    assert back == {(split, name, tmp_path / "da ta" / f"{file}.jpg") for file, name, split in pictures}


def test_a_class_of_pictures_that_are_not_read(tmp_path: Path) -> None:
    make(tmp_path, {"train/a": 5, "train/b": 5, "test/a": 1, "test/b": 1})
    (tmp_path / "train/fox").mkdir()
    for number in range(3):
        (tmp_path / f"train/fox/IMG_{number}.NEF").write_bytes(b"x")
    warnings = [f for f in examine(tmp_path).findings if f.severity == "warning"]
    assert [(f.kind, f.path) for f in warnings] == [("pictures not read", str(tmp_path / "train/fox"))]
    assert "3 files ending in .nef" in warnings[0].message


def test_pictures_within_tar_files(tmp_path: Path) -> None:
    first, second = io.BytesIO(), io.BytesIO()
    photograph(0, 1).save(first, "JPEG")
    photograph(0, 2).save(second, "PNG")
    shard = tmp_path / "0.tar"
    shard.write_bytes(b"#" * 512 + first.getvalue() + b"#" * 100 + second.getvalue()[:-500])
    samples = (
        Sample(shard, 0, 512, len(first.getvalue()), "1.jpg"),
        Sample(shard, 0, 612 + len(first.getvalue()), len(second.getvalue()) - 500, "2.jpg"),
    )
    diagnosis = examine(DataSet(tmp_path, ("a",), {"all": samples}))
    assert [(f.kind, f.path) for f in diagnosis.findings if f.severity == "error"] == [("truncated", f"{shard}/2.jpg")]
    assert [sample.key for sample in diagnosis.clean.splits["all"]] == ["1.jpg"]


def judged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, features: Sequence[tuple[str, tuple[float, float]]]
) -> Diagnosis:
    """Examine pictures of a class each, the first letter of their names, of which a model sees these features."""
    asked = iter([seen for _, seen in features])

    class Engine:
        spec = ModelSpec("mobilenet_v2", 1.0, ("something else",))

        def run(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
            return {"features": np.array([next(asked)], np.float32)}

    samples = []
    for number, (name, _) in enumerate(features):
        path = tmp_path / f"{name}.png"
        photograph(0, 7000 + number).save(path)
        samples.append(Sample(path, "abc".index(name[0])))
    dataset = DataSet(tmp_path, ("a", "b", "c"), {"all": tuple(samples)})
    return examine(dataset, model=model_of(monkeypatch, Engine()), threads=1)


def around(name: str, x: float, y: float, count: int) -> list[tuple[str, tuple[float, float]]]:
    """Pictures of a class whose features lie around a point, the same on all machines."""
    return [(f"{name}{i}", (x + i % 3 - 1, y + i // 3 % 3 - 1)) for i in range(count)]


def test_labels_that_the_others_speak_against(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of the two wrong ones that among the b is the farther from its label: its correction comes first.
    wrong = [("a wrong", (17.0, 0.0)), ("b wrong", (-3.0, 0.0))]
    diagnosis = judged(monkeypatch, tmp_path, [*around("a", 0, 0, 20), *around("b", 20, 0, 20), *wrong])
    labels = [f for f in diagnosis.findings if f.kind == "suspicious label"]
    assert [Path(f.path).stem for f in labels] == ["b wrong", "a wrong"]
    assert [(f.class_name, f.suggested) for f in labels] == [("b", "a"), ("a", "b")]
    assert 0.5 < labels[1].gain < labels[0].gain <= 1
    assert "is labelled b, but looks like a to what has learned from the others alone" in labels[0].message
    assert labels[0].row()["suggested"] == "a"


def test_classes_that_are_not_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mixed = [(f"{'ab'[i % 2]}{i}", (i % 5, i % 7)) for i in range(40)]
    diagnosis = judged(monkeypatch, tmp_path, [*mixed, *around("c", 50, 50, 9)])
    assert not [f for f in diagnosis.findings if f.kind == "suspicious label"]
    notes = [f for f in diagnosis.findings if f.kind == "class not judged"]
    assert ("note", "c") in {(f.severity, f.class_name) for f in notes}
    assert "c has fewer than 10 pictures" in next(f.message for f in notes if f.class_name == "c")
    assert all("get only" in f.message for f in notes if f.class_name != "c")


def test_arguments(clean_pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="threads"):
        examine(clean_pictures, threads=0)
    with pytest.raises(UsageError):
        examine(tmp_path)


def test_answers_do_not_depend_on_the_threads(spoiled: Path, colour_model: Model) -> None:
    plant(spoiled)
    dataset = read_dataset(spoiled)
    one, four = (examine(dataset, model=colour_model, threads=threads) for threads in (1, 4))
    assert one == four


@pytest.fixture
def linked(tmp_path: Path) -> Callable[[Path, str, str], None]:
    def link(picture: Path, split: str, name: str) -> None:
        folder = tmp_path / "linked" / split / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{picture.parent.name}_{picture.name}").symlink_to(picture)

    return link


@pytest.mark.slow
def test_few_alarms_on_real_clean_pictures(shared_data: Path) -> None:
    diagnosis = examine(shared_data / "imagenet_val", model="mobilenet_v2")
    assert diagnosis.pictures == 500
    assert diagnosis.count("error") + diagnosis.count("warning") <= 10, diagnosis.to_table()


@pytest.mark.slow
def test_wrong_labels_among_real_pictures(
    shared_data: Path, tmp_path: Path, linked: Callable[[Path, str, str], None]
) -> None:
    folders = sorted(path for path in (shared_data / "imagenet_val").iterdir() if path.is_dir())[:10]
    wrong = set()
    for number, folder in enumerate(folders):
        for at, picture in enumerate(sorted(folder.iterdir())):
            if at == 7:
                linked(picture, ".", folders[(number + 3) % 10].name)
                wrong.add(f"{folder.name}_{picture.name}")
            else:
                linked(picture, ".", folder.name)
    diagnosis = examine(tmp_path / "linked", model="mobilenet_v2")
    named = [Path(f.path).name for f in diagnosis.findings if f.kind == "suspicious label"]
    assert len(set(named[:10]) & wrong) >= 7
    assert len(set(named) & wrong) >= 8
    assert len(set(named) - wrong) <= 10


@pytest.mark.slow
def test_intel_scenes_have_pictures_in_both_splits(shared_data: Path, linked: Callable[[Path, str, str], None]) -> None:
    diagnosis = examine(shared_data / "intel_scenes")
    leaks = [f for f in diagnosis.findings if f.kind == "leak between splits"]
    assert leaks
    for leak in leaks:
        assert leak.split == "train"
        assert any("test" in other.file.parts for other in leak.others)
    kept = {sample for samples in diagnosis.clean.splits.values() for sample in samples}
    assert not kept & {leak.sample for leak in leaks}
