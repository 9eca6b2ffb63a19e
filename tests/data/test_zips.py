from __future__ import annotations

import io
import json
import stat
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from fusiform.data import zips
from fusiform.data.annotated import AnnotatedSet
from fusiform.data.open import open_dataset, recognise
from fusiform.data.zips import unpacked
from fusiform.doctor.job import diagnose
from fusiform.errors import UsageError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FUSIFORM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def picture(shade: int = 9) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 6), (shade, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def zipped(file: Path, members: dict[str, bytes | str], **options: int) -> Path:
    with zipfile.ZipFile(file, "w", **options) as archive:  # type: ignore[arg-type]
        for name, content in members.items():
            archive.writestr(name, content)
    return file


CLASSES: dict[str, bytes | str] = {"cat/1.png": picture(1), "dog/2.png": picture(2), "dog/3.png": picture(3)}
COCO = json.dumps(
    {
        "images": [{"id": 1, "file_name": "1.png", "width": 8, "height": 6}],
        "categories": [{"id": 3, "name": "dog"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 1, 4, 4]}],
    }
)


@pytest.mark.parametrize("top", ["", "my pets/", "out/my pets/"])
def test_a_zip_of_class_folders_is_those_folders(top: str, tmp_path: Path, cache: Path) -> None:
    members = {top + name: content for name, content in CLASSES.items()}
    members |= {"__MACOSX/cat/._1.png": b"x", top + ".DS_Store": b"x"}
    data = open_dataset(zipped(tmp_path / "pets.zip", members), task="classification")
    assert data.classes == ("cat", "dog")
    assert [data.locate(sample) for sample in data.splits["all"]] == ["cat/1.png", "dog/2.png", "dog/3.png"]
    assert data.source.is_relative_to(cache / "unpacked")
    assert data.notes == (f"pets.zip is unpacked, into {data.source}",)
    assert not list(cache.rglob("*.part"))
    assert not list(cache.rglob("._1.png"))


def test_splits_and_folders_that_readers_know_are_no_mere_wrapping(tmp_path: Path) -> None:
    data = open_dataset(zipped(tmp_path / "a.zip", {"train/" + k: v for k, v in CLASSES.items()}))
    assert list(data.splits) == ["train"]
    coco = zipped(tmp_path / "b.zip", {"images/1.png": picture(), "annotations/instances_val.json": COCO})
    assert recognise(coco) == "detection"
    boxes = open_dataset(coco)
    assert isinstance(boxes, AnnotatedSet)
    assert [len(sample.boxes or ()) for sample in boxes.splits["val"]] == [1]
    assert "unpacked" in diagnose(coco).dataset.notes[0]
    assert unpacked(zipped(tmp_path / "c.zip", {"cat/1.png": picture()})).name == "c"


def test_a_zip_is_unpacked_once_and_again_when_it_has_changed(tmp_path: Path, cache: Path) -> None:
    file = zipped(tmp_path / "pets.zip", CLASSES)
    folder = unpacked(file)
    mark = folder / "mark"
    mark.touch()
    assert unpacked(file) == folder
    assert mark.exists()
    zipped(file, CLASSES | {"emu/4.png": picture()})
    assert unpacked(file) != folder
    assert open_dataset(file, task="classification").classes == ("cat", "dog", "emu")
    assert unpacked(tmp_path) == tmp_path


def test_names_of_windows_are_folders(tmp_path: Path) -> None:
    file = zipped(tmp_path / "x.zip", {})
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in CLASSES.items():
            info = zipfile.ZipInfo("x")
            info.filename = name.replace("/", "\\")
            archive.writestr(info, content)
    assert open_dataset(file, task="classification").classes == ("cat", "dog")


@pytest.mark.parametrize("name", ["../evil.png", "/evil.png", "a/../../evil.png", "C:/evil.png", "..\\evil.png"])
def test_names_outside_the_folder_are_refused_and_nothing_is_written(name: str, tmp_path: Path, cache: Path) -> None:
    file = zipped(tmp_path / "x.zip", CLASSES | {name: b"x"})
    with pytest.raises(UsageError, match=r"x\.zip: holds .*evil\.png, which lies outside"):
        open_dataset(file)
    assert not list(tmp_path.rglob("evil.png"))
    assert not list(tmp_path.rglob("1.png"))


def test_links_are_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("cat/link.png")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(UsageError, match=r"holds the link cat/link\.png, which is not followed: unzip it"):
        unpacked(tmp_path / "x.zip")


def test_what_grows_beyond_measure_is_refused(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = zipped(tmp_path / "bomb.zip", {"a.json": bytes(80 << 20)}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(UsageError, match=r"unpacks to much more than .* unzip it if you trust it"):
        unpacked(bomb)
    monkeypatch.setattr(zips, "MAX_MEMBERS", 2)
    with pytest.raises(UsageError, match="in 3 files"):
        unpacked(zipped(tmp_path / "many.zip", CLASSES))
    assert not list(cache.rglob("*.png"))


def test_damage_is_named(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "no.zip").write_bytes(b"not a zip")
    with pytest.raises(UsageError, match=r"no\.zip: is no zip file that can be read .*download it again"):
        open_dataset(tmp_path / "no.zip")
    content = bytearray(zipped(tmp_path / "cut.zip", CLASSES).read_bytes())
    content[content.index(b"IDAT") + 6] ^= 255
    (tmp_path / "cut.zip").write_bytes(content)
    with pytest.raises(UsageError, match=r"cut\.zip: is no zip file that can be read \(Bad CRC"):
        open_dataset(tmp_path / "cut.zip")
    with pytest.raises(UsageError, match="holds no files"):
        unpacked(zipped(tmp_path / "empty.zip", {"__MACOSX/x": b""}))
    locked = bytearray(zipped(tmp_path / "locked.zip", CLASSES).read_bytes())
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(locked)
    with pytest.raises(UsageError, match="is encrypted: unzip it with its password"):
        unpacked(tmp_path / "locked.zip")
    assert not list(cache.rglob("*.png"))
