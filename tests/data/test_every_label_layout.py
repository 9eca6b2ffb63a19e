"""Twelve pictures of three classes in every layout that classifiers are trained on: always the same labels."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from fusiform.data.open import open_dataset, recognise
from fusiform.doctor.job import diagnose

CLASSES = ("Abyssinian", "fox", "hedgehog")


class Twelve(NamedTuple):
    """One of the pictures: its number, class, split, and file's content."""

    number: int
    class_name: str
    split: str
    data: bytes

    @property
    def label(self) -> int:
        return CLASSES.index(self.class_name)


def draw(number: int, form: str) -> bytes:
    """A picture of its own; as JPEG what is decoded is compared, too."""
    noise = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).resize((64, 48), Image.Resampling.NEAREST).save(stream, form)
    return stream.getvalue()


def twelve(form: str = "PNG") -> list[Twelve]:
    splits = ("train", "train", "val", "test")
    return [Twelve(i, CLASSES[i % 3], splits[i // 3], draw(i, form)) for i in range(12)]


def put(path: Path, data: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


# Each writes the pictures as a tool or publisher does, and returns what a user names, and the splits that this knows.

Made = tuple[Path, dict[str, str]]
ALL = {"train": "all", "val": "all", "test": "all"}
THREE = {"train": "train", "val": "val", "test": "test"}
TWO = {"train": "train", "val": "train", "test": "test"}


def class_folders(root: Path) -> Made:
    for one in twelve():
        put(root / one.class_name / f"{one.number}.png", one.data)
    return root, ALL


def split_folders(root: Path) -> Made:
    for one in twelve():
        put(root / one.split / one.class_name / f"{one.number}.png", one.data)
    return root, THREE


def odd_split_folders(root: Path) -> Made:
    """Kaggle's: seg_train/seg_train, and so on."""
    for one in twelve():
        put(root / f"seg_{one.split}" / f"seg_{one.split}" / one.class_name / f"{one.number}.png", one.data)
    return root, THREE


def around(root: Path) -> Made:
    """caltech-101's: archives, annotations and, in a folder, the class folders."""
    class_folders(root / "dataset" / "101_ObjectCategories")
    put(root / "dataset" / "Annotations" / "Annotation_0001.mat", b"MATLAB 5.0")
    put(root / "dataset" / "101_ObjectCategories.tar.gz", b"")
    return root, ALL


def csv_list(header: str | None, line: str) -> Callable[[Path], Made]:
    def make(root: Path) -> Made:
        for one in twelve():
            put(root / "pictures" / f"{one.number}.png", one.data)
        lines = [
            line.format(n=one.number, c=one.class_name, s=one.split, v=one.split == "val")
            for one in twelve()
            if "{v}" not in line or one.split != "test"
        ]
        put(root / "list.csv", "\n".join([*([header] if header else []), *lines]) + "\n")
        splits = THREE if "{s}" in line else {"train": "train", "val": "val"} if "{v}" in line else ALL
        return root / "list.csv", splits

    return make


def image_folder(write: Callable[[Path, list[dict[str, Any]]], None], *, folders: bool) -> Callable[[Path], Made]:
    """Hugging Face's, with metadata for the whole or for each split."""

    def make(root: Path) -> Made:
        rows: dict[str, list[dict[str, Any]]] = {}
        for one in twelve():
            place = f"{one.split}/" if folders else ""
            put(root / f"{place}{one.number}.png", one.data)
            row = {"file_name": f"{one.number}.png", "label": one.class_name, "additional": one.number}
            rows.setdefault(place, []).append(row)
        for place, found in rows.items():
            write(root / place, found)
        return root, THREE if folders else ALL

    return make


def write_jsonl(folder: Path, rows: list[dict[str, Any]]) -> None:
    put(folder / "metadata.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def write_csv(folder: Path, rows: list[dict[str, Any]]) -> None:
    put(folder / "metadata.csv", "\n".join([",".join(rows[0]), *(",".join(map(str, r.values())) for r in rows)]))


def write_parquet(folder: Path, rows: list[dict[str, Any]]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    write_table(pyarrow.Table.from_pylist(rows), folder / "metadata.parquet")


def features() -> dict[bytes, bytes]:
    kinds = {"image": {"_type": "Image"}, "label": {"names": list(CLASSES), "_type": "ClassLabel"}}
    return {b"huggingface": json.dumps({"info": {"features": kinds}}).encode()}


def tables(split: str) -> Any:
    pyarrow = pytest.importorskip("pyarrow")
    here = [one for one in twelve("JPEG") if one.split == split]
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    pictures = pyarrow.array([{"bytes": one.data, "path": f"{one.number}.jpg"} for one in here], kind)
    labels = pyarrow.array([one.label for one in here], pyarrow.int64())
    table = pyarrow.table({"image": pictures, "label": labels})
    return table.replace_schema_metadata(features())


def parquet(root: Path) -> Made:
    """What push_to_hub writes, in groups of so few rows that there are several."""
    for split in THREE:
        table = tables(split)
        from pyarrow.parquet import write_table

        (root / "data").mkdir(parents=True, exist_ok=True)
        name = "validation" if split == "val" else split
        write_table(table, root / "data" / f"{name}-00000-of-00001.parquet", row_group_size=2)
    return root, THREE


def parquet_of_plain_bytes(root: Path) -> Made:
    """A column of bytes, no description, labels as text."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    root.mkdir()
    rows = [{"id": one.number, "img": one.data, "class": one.class_name} for one in twelve("JPEG")]
    write_table(pyarrow.Table.from_pylist(rows), root / "birds.parquet")
    return root / "birds.parquet", ALL


def saved_to_disk(root: Path) -> Made:
    """What save_to_disk writes: Arrow's stream format in a folder for each split."""
    for split in THREE:
        table = tables(split)
        import pyarrow

        put(root / split / "state.json", "{}")
        path = str(root / split / "data-00000-of-00001.arrow")
        with pyarrow.OSFile(path, "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
            for batch in table.to_batches(max_chunksize=2):
                writer.write_batch(batch)
    put(root / "dataset_dict.json", '{"splits": ["train", "val", "test"]}')
    return root, THREE


def shards(label: Callable[[Twelve], tuple[str, str]] | None, *, names: bool = False) -> Callable[[Path], Made]:
    def make(root: Path) -> Made:
        root.mkdir()
        for split in THREE:
            with tarfile.open(root / f"{split}-000000.tar", "w") as tar:
                for one in twelve("JPEG"):
                    if one.split != split:
                        continue
                    key = f"{one.number:05d}" if label else f"{one.class_name}/{one.number}"
                    members = [(f"{key}.jpg", one.data)]
                    if label is not None:
                        ending, text = label(one)
                        members.append((f"{key}{ending}", text.encode()))
                    for name, data in members:
                        info = tarfile.TarInfo(name)
                        info.size = len(data)
                        tar.addfile(info, io.BytesIO(data))
        if names:
            put(root / "classes.txt", "\n".join(CLASSES) + "\n")
        return root, THREE

    return make


def food(root: Path) -> Made:
    lists: dict[str, list[str]] = {"train": [], "test": []}
    for one in twelve("JPEG"):
        put(root / "images" / one.class_name / f"{one.number}.jpg", one.data)
        lists[TWO[one.split]].append(f"{one.class_name}/{one.number}")
    for split, lines in lists.items():
        put(root / "meta" / f"{split}.txt", "\n".join(lines) + "\n")
        by_class = {name: [line for line in lines if line.startswith(name)] for name in CLASSES}
        put(root / "meta" / f"{split}.json", json.dumps(by_class))
    put(root / "meta" / "classes.txt", "\n".join(CLASSES))
    return root, TWO


def matrix(name: str, values: list[int]) -> bytes:
    """A matrix of MATLAB's level 5, as scipy's savemat writes it: flags, dimensions, name, values, compressed."""

    def element(kind: int, data: bytes) -> bytes:
        return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)

    content = (
        element(6, struct.pack("<II", 9, 0))
        + element(5, struct.pack("<ii", 1, len(values)))
        + (
            struct.pack("<I", len(name) << 16 | 1) + name.encode().ljust(4)
            if len(name) <= 4
            else element(1, name.encode())
        )
        + element(2, bytes(values))
    )
    packed = zlib.compress(element(14, content))
    return struct.pack("<II", 15, len(packed)) + packed


MATLAB = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"


def flowers(root: Path) -> Made:
    parts: dict[str, list[int]] = {"trnid": [], "valid": [], "tstid": []}
    for one in twelve("JPEG"):
        put(root / "jpg" / f"image_{one.number + 1:05d}.jpg", one.data)
        parts[{"train": "trnid", "val": "valid", "test": "tstid"}[one.split]].append(one.number + 1)
    put(root / "imagelabels.mat", MATLAB + matrix("labels", [one.label + 1 for one in twelve()]))
    put(root / "setid.mat", MATLAB + b"".join(matrix(name, numbers) for name, numbers in parts.items()))
    put(root / "cat_to_name.json", json.dumps({str(i + 1): name for i, name in enumerate(CLASSES)}))
    return root, THREE


def pets(root: Path) -> Made:
    lists: dict[str, list[str]] = {"list": [], "trainval": [], "test": []}
    for one in twelve("JPEG"):
        name = f"{one.class_name}_{one.number}"
        put(root / "images" / f"{name}.jpg", one.data)
        put(root / "annotations" / "trimaps" / f"{name}.png", draw(one.number + 50, "PNG"))
        lists["list"].append(f"{name} {one.label + 1} 1 {one.label + 1}")
        lists["test" if one.split == "test" else "trainval"].append(lists["list"][-1])
    put(
        root / "annotations" / "xmls" / "Abyssinian_0.xml", "<annotation><object><name>cat</name></object></annotation>"
    )
    for name, lines in lists.items():
        heading = "#Image CLASS-ID SPECIES BREED ID\n" if name == "list" else ""
        put(root / "annotations" / f"{name}.txt", heading + "\n".join(lines) + "\n")
    return root, TWO


def cub(root: Path) -> Made:
    lines: dict[str, list[str]] = {"images": [], "image_class_labels": [], "train_test_split": []}
    for one in twelve("JPEG"):
        path = f"{one.label + 1:03d}.{one.class_name}/{one.number} x.jpg"
        put(root / "images" / path, one.data)
        lines["images"].append(f"{one.number} {path}")
        lines["image_class_labels"].append(f"{one.number} {one.label + 1}")
        lines["train_test_split"].append(f"{one.number} {int(one.split != 'test')}")
    lines["classes"] = [f"{i + 1} {name}" for i, name in enumerate(CLASSES)]
    lines["bounding_boxes"] = [f"{i} 60.0 27.0 325.0 304.0" for i in range(12)]
    for name, written in lines.items():
        put(root / f"{name}.txt", "\n".join(written) + "\n")
    return root, TWO


def tiny_imagenet(root: Path) -> Made:
    listed = []
    for one in twelve("JPEG"):
        if one.split == "train":
            put(root / "train" / one.class_name / "images" / f"{one.number}.JPEG", one.data)
            put(root / "train" / one.class_name / f"{one.class_name}_boxes.txt", "0.JPEG\t0\t0\t62\t62\n")
        elif one.split == "val":
            put(root / "val" / "images" / f"val_{one.number}.JPEG", one.data)
            listed.append(f"val_{one.number}.JPEG\t{one.class_name}\t0\t32\t44\t62")
        else:
            put(root / "test" / "images" / f"test_{one.number}.JPEG", one.data)
    put(root / "val" / "val_annotations.txt", "\n".join(listed) + "\n")
    put(root / "wnids.txt", "\n".join(CLASSES))
    return root, {"train": "train", "val": "val"}


LAYOUTS: dict[str, Callable[[Path], Made]] = {
    "class folders": class_folders,
    "split folders": split_folders,
    "folders called after splits": odd_split_folders,
    "folders around it": around,
    "a list": csv_list("path,label", "pictures/{n}.png,{c}"),
    "a list of file_name": csv_list("file_name,label,split", "pictures/{n}.png,{c},{s}"),
    "a list with is_valid": csv_list("file;labels;is_valid", "pictures/{n}.png;{c};{v}"),
    "a list without names": csv_list(None, "pictures\\{n}.png,{c}"),
    "ImageFolder, jsonl": image_folder(write_jsonl, folders=True),
    "ImageFolder, csv": image_folder(write_csv, folders=True),
    "ImageFolder, parquet": image_folder(write_parquet, folders=True),
    "ImageFolder without splits": image_folder(write_jsonl, folders=False),
    "Parquet": parquet,
    "Parquet of plain bytes": parquet_of_plain_bytes,
    "save_to_disk": saved_to_disk,
    "shards with .cls": shards(lambda one: (".cls", str(one.label)), names=True),
    "shards with .json": shards(lambda one: (".json", json.dumps({"label": one.class_name}))),
    "shards of folders": shards(None),
    "food-101": food,
    "flowers-102": flowers,
    "Oxford-IIIT Pet": pets,
    "CUB-200": cub,
    "tiny-imagenet-200": tiny_imagenet,
}


def pixels(data: bytes) -> bytes:
    return Image.open(io.BytesIO(data)).convert("RGB").tobytes()


def expected(splits: dict[str, str]) -> Iterator[tuple[str, str, bytes]]:
    for one in [*twelve("PNG"), *twelve("JPEG")]:
        if one.split in splits:
            yield splits[one.split], one.class_name, pixels(one.data)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_labels_are_the_same_in_every_layout(layout: str, tmp_path: Path) -> None:
    source, splits = LAYOUTS[layout](tmp_path / "data")
    assert recognise(source) is None
    data = open_dataset(source, task="classification")
    found = [
        (split, data.classes[sample.label], sample.read().tobytes())
        for split, samples in data.splits.items()
        for sample in samples
    ]
    assert data.classes == CLASSES
    assert len(found) == len(set(found)) == sum(one.split in splits for one in twelve())
    assert set(found) <= set(expected(splits))
    # Found again in whichever order, from the name and place that a run's list keeps.
    for samples in data.splits.values():
        for sample in reversed(samples):
            assert Image.open(io.BytesIO(sample.read_bytes())).size == (64, 48)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_doctor_finds_nothing_wrong_in_any_layout(layout: str, tmp_path: Path) -> None:
    source, splits = LAYOUTS[layout](tmp_path / "data")
    diagnosis = diagnose(source)
    assert diagnosis.pictures == sum(one.split in splits for one in twelve())
    assert {f.kind for f in diagnosis.findings if f.severity != "note"} <= {"small class", "class missing"}


def test_a_data_set_steps_down_one_folder_whatever_it_is(tmp_path: Path) -> None:
    for name in ("food-101", "ImageFolder, csv", "tiny-imagenet-200"):
        LAYOUTS[name](tmp_path / name / "downloads" / "within")
        data = open_dataset(tmp_path / name)
        assert data.classes == CLASSES, name
        assert f"{name}: the dataset is the folder downloads within it" in data.notes
        assert data.source == tmp_path / name / "downloads" / "within"
    LAYOUTS["Parquet"](tmp_path / "downloads" / "within")
    assert open_dataset(tmp_path / "downloads").classes == CLASSES


@pytest.mark.parametrize(
    ("layout", "reader", "folder"),
    [
        ("class folders", "ImageFolder", ""),
        ("food-101", "Food101", "food-101"),
        ("Oxford-IIIT Pet", "OxfordIIITPet", "oxford-iiit-pet"),
        ("flowers-102", "Flowers102", "flowers-102"),
    ],
)
def test_torchvision_reads_the_same_labels(
    layout: str, reader: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    if reader == "Flowers102":
        pytest.importorskip("scipy")
        monkeypatch.setattr(datasets.Flowers102, "_check_integrity", lambda _: True)  # of the published pictures
    source, _ = LAYOUTS[layout](tmp_path / "data" / folder)
    names = {"ImageFolder": ("all",), "Flowers102": ("train", "val", "test"), "OxfordIIITPet": ("trainval", "test")}
    theirs: set[tuple[str, int, bytes]] = set()
    for split in names.get(reader, ("train", "test")):
        made = getattr(datasets, reader)(tmp_path / "data", **({} if split == "all" else {"split": split}))
        theirs |= {("train" if split == "trainval" else split, label, picture.tobytes()) for picture, label in made}
    data = open_dataset(source, task="classification")
    ours = {
        (split, sample.label, sample.read().tobytes()) for split, samples in data.splits.items() for sample in samples
    }
    assert ours == theirs
    # From the folder that torchvision takes, too.
    assert open_dataset(tmp_path / "data", task="classification").fingerprint() == data.fingerprint()
