"""Which files of a folder are its images, in which order, and what is said of the others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fusiform.data.image import find_images, unread_note
from fusiform.errors import ImageError, UsageError


def test_find_images(tmp_path: Path) -> None:
    wanted = ["1.jpg", "2.JPEG", "10.PNG", "b/3.tiff", "b/12.WebP", "b/c/x.bmp", "class 2/y.gif", "class 10/y.pgm"]
    unwanted = [".DS_Store", "._1.jpg", ".ipynb_checkpoints/1.jpg", "__MACOSX/1.jpg", "notes.txt", "b/jpg", "b/.jpg"]
    for name in wanted + unwanted:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "folder.jpg").mkdir()
    assert [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)] == wanted


@pytest.mark.parametrize(
    "made", ["@eaDir/1.jpg/THUMB.jpg", "$RECYCLE.BIN/1.jpg", "#recycle/1.jpg", ".Trash-1000/1.jpg", ".thumbnails/1.jpg",
    "a/@__thumb/1.jpg", "System Volume Information/1.jpg", "lost+found/1.jpg", "__macosx/1.jpg"]
)  # fmt: skip
def test_folders_made_by_systems_are_passed_over(tmp_path: Path, made: str) -> None:
    for name in (made, "a/1.jpg", "b/2.jpg", "b/Thumbs.db", "@home/3.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)] == [
        "@home/3.jpg",
        "a/1.jpg",
        "b/2.jpg",
    ]


def test_pictures_that_are_not_read_are_counted(tmp_path: Path) -> None:
    for name in ("1.jpg", "2.NEF", "b/3.nef", "b/4.dng", "@eaDir/5.nef", ".6.nef", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    unread: list[Path] = []
    assert len(find_images(tmp_path, unread=unread)) == 1
    assert unread_note(sorted(unread)) == [
        "1 file ending in .dng, such as 4.dng: not read; save them as JPEG or PNG",
        "2 files ending in .nef, such as 2.NEF: not read; save them as JPEG or PNG",
    ]


def test_find_images_goes_by_number_and_leaves_no_tie(tmp_path: Path) -> None:
    for name in ("01.jpg", "1.jpg", "a9b10.jpg", "a9b9.jpg", "A10.jpg", "²3.jpg"):
        (tmp_path / name).touch()
    names = [path.name for path in find_images(tmp_path)]
    assert names == ["01.jpg", "1.jpg", "a9b9.jpg", "a9b10.jpg", "A10.jpg", "²3.jpg"]


def test_find_images_follows_links_once(tmp_path: Path) -> None:
    (tmp_path / "root" / "z").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root" / "z" / "1.jpg").touch()
    (tmp_path / "elsewhere" / "2.jpg").touch()
    (tmp_path / "root" / "a").symlink_to("z")
    (tmp_path / "root" / "z" / "up").symlink_to("..")
    (tmp_path / "root" / "other").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "gone.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(tmp_path / "root" / "pipe.jpg")
    found = [path.relative_to(tmp_path / "root").as_posix() for path in find_images(tmp_path / "root")]
    assert found == ["gone.jpg", "other/2.jpg", "z/1.jpg"]


def test_find_images_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"no.*is not a folder"):
        find_images(tmp_path / "no")

    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ImageError, match=r"cannot be listed.*Permission denied"):
        find_images(tmp_path)
    unlisted: list[str] = []
    assert find_images(tmp_path, unlisted=unlisted) == []
    assert "cannot be listed" in unlisted[0]
