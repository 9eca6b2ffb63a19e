"""Sources of many images, listed in streams: folders, lists, Parquet columns, shards and patterns."""

from __future__ import annotations

import io
import os
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image

import fusiform
from fusiform.data.image import find_images
from fusiform.errors import InputError
from fusiform.prediction.listing import Item, list_items, of_line

TINY = io.BytesIO()
Image.new("RGB", (40, 40), "red").save(TINY, "PNG")


def listed(*sources: Path | str, root: str | None = None, column: str | None = None) -> list[Item]:
    return list(list_items([str(source) for source in sources], root=root, column=column))


def names(*sources: Path | str, root: str | None = None, column: str | None = None) -> list[str]:
    items = listed(*sources, root=root, column=column)
    assert {item.kind for item in items} <= {"picture"}, items
    return [item.name for item in items]


def touch(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(TINY.getvalue())


def test_a_folder_comes_in_the_order_that_it_always_has(tmp_path: Path) -> None:
    touch(tmp_path, "10.png", "9.png", "a/b.jpg", "a/10/x.png", "a/9/x.png", "a.png", "B.PNG", "b/1.webp", "01.png")
    touch(tmp_path, "1.png", ".hidden/x.png", "@eaDir/x.png", "a/.x.png", "z/deep/er/x.jpeg")
    (tmp_path / "notes.md").write_text("no image")
    (tmp_path / "empty").mkdir()
    assert names(tmp_path) == [str(path) for path in find_images(tmp_path)]
    assert len(names(tmp_path)) == 11


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")
def test_links_lead_outside_and_never_in_a_circle(tmp_path: Path) -> None:
    touch(tmp_path, "in/z/1.png", "out/2.png", "out/sub/3.png")
    inside = tmp_path / "in"
    (inside / "a").symlink_to(inside / "z")
    (inside / "b").symlink_to(tmp_path / "out")
    (inside / "c").symlink_to(tmp_path / "out")
    (tmp_path / "out" / "back").symlink_to(inside)
    (inside / "y").symlink_to(inside)
    (inside / "nowhere.png").symlink_to(tmp_path / "nothing.png")
    os.mkfifo(inside / "pipe.png")
    assert names(inside) == [str(inside / name) for name in ("b/2.png", "b/sub/3.png", "nowhere.png", "z/1.png")]


def test_what_cannot_be_listed_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.tar.gz").write_bytes(b"")
    found = listed(tmp_path / "empty", tmp_path / "none*.png", tmp_path / "a.tar.gz", tmp_path / "none.csv")
    assert [item.kind for item in found] == ["error"] * 4
    said = ("no pictures in this folder", "no file matches this pattern", "is compressed", "no such file")
    assert all(words in item.more for item, words in zip(found, said, strict=True)), found


def test_lists_hold_paths_from_their_own_folder_or_another(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(
        "\ufeffx.png\r\nsub dir/y, z.jpg\n\nhttps://example.org/a.jpg\n/abs/b.png\n", "utf-8"
    )
    expected = ["x.png", "sub dir/y, z.jpg"]
    rest = ["https://example.org/a.jpg", "/abs/b.png"]
    assert names(tmp_path / "a.txt") == [*(str(tmp_path / name) for name in expected), *rest]
    assert names(tmp_path / "a.txt", root="/data") == [*(f"/data/{name}" for name in expected), *rest]
    assert names(tmp_path / "a.txt", root="s3://bucket/x/") == [*(f"s3://bucket/x/{name}" for name in expected), *rest]

    (tmp_path / "b.csv").write_text('id,Path,label\n1,"a,b.png",cat\n\n2,c.png,dog\n')
    assert names(tmp_path / "b.csv", root="r") == ["r/a,b.png", "r/c.png"]
    (tmp_path / "c.tsv").write_text("id\tphoto\n1\ta b.png\n")
    assert names(tmp_path / "c.tsv", root="r", column="photo") == ["r/a b.png"]
    (tmp_path / "d.csv").write_text("a.png\nb.png\n")
    assert names(tmp_path / "d.csv", root="r") == ["r/a.png", "r/b.png"]
    (tmp_path / "e.csv").write_text("")
    assert names(tmp_path / "e.csv") == []


@pytest.mark.parametrize(
    ("text", "column", "said"),
    [
        ("id,photo\n1,a.png\n", None, "no column is called like one of paths or addresses"),
        ("id,path\n1,a.png\n", "photo", "has no column 'photo'; there are id, path"),
        ("id,path\n1\n", None, "line 2: has no 'path'"),
        ("id,path\n1,\n", None, "line 2: has no 'path'"),
    ],
)
def test_a_list_that_cannot_be_understood_is_refused(tmp_path: Path, text: str, column: str | None, said: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=said):
        listed(tmp_path / "a.csv", column=column)


def test_a_pattern_takes_for_a_list_only_what_it_names(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png")
    (tmp_path / "notes.txt").write_text("b.png\n")
    assert names(tmp_path / "*") == [str(tmp_path / name) for name in ("a.png", "b.png", "notes.txt")]
    assert names(tmp_path / "*.txt") == [str(tmp_path / "b.png")]
    assert names(tmp_path / "{a,b}.png") == [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    for pattern, paths in (("*", ["a.png", "b.png", "notes.txt"]), ("n*.txt", ["b.png"])):
        found = fusiform.predict(tmp_path / pattern, "shufflenet_v2_x1_0", threads=1)
        assert [Path(each.path).name for each in found] == paths


def test_a_list_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("é.png\n".encode("latin-1"))
    with pytest.raises(InputError, match="is not UTF-8 text"):
        listed(tmp_path / "a.txt")


def test_parquet_holds_addresses_or_images(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    def write(name: str, columns: dict[str, object]) -> Path:
        parquet.write_table(pyarrow.table(columns), tmp_path / name)
        return tmp_path / name

    addresses = write("a.parquet", {"id": ["1", "2"], "url": ["https://x/a.jpg", "b.jpg"]})
    assert names(addresses) == ["https://x/a.jpg", str(tmp_path / "b.jpg")]
    assert names(addresses, column="id", root="r") == ["r/1", "r/2"]
    images = write("b.parquet", {"path": ["a", "b"], "data": [b"1", b"2"]})
    assert listed(images) == [Item("rows", str(images), 0, 2, "data")]
    assert names(images, column="path", root="r") == ["r/a", "r/b"]
    for file, column, said in (
        (write("c.parquet", {"x": ["a"], "y": ["b"]}), None, "says not which column"),
        (write("d.parquet", {"x": [b"a"], "y": [b"b"]}), None, "says not which column"),
        (write("e.parquet", {"n": [1], "path": ["b"]}), "n", "has no column 'n' of pictures, paths or addresses"),
    ):
        with pytest.raises(InputError, match=said):
            listed(file, column=column)
    (tmp_path / "f.parquet").write_bytes(b"PAR1 none")
    (item,) = listed(tmp_path / "f.parquet")
    assert "is damaged or no Parquet file" in item.more
    (item,) = listed(write("g.parquet", {"path": pyarrow.array([None], pyarrow.string())}))
    assert "names no picture" in item.more


def test_an_item_is_a_line_and_comes_back() -> None:
    for item in (Item("picture", "a\n'\udc80.png"), Item("rows", "x.parquet", 3, 7, "image"), Item("tar", "t", 5, 0)):
        assert "\n" not in item.line()
        assert of_line(item.line()) == item


def test_predict_reads_lists_and_shards_as_well(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png")
    (tmp_path / "list.txt").write_text("b.png\nnone.png\n")
    with tarfile.open(tmp_path / "s-0.tar", "w") as archive:
        archive.add(tmp_path / "a.png", "x/a.png")
        archive.add(tmp_path / "list.txt", "x/a.txt")
    found = fusiform.predict([tmp_path / "list.txt", tmp_path / "s-0.tar"], "shufflenet_v2_x1_0", threads=1)
    paths = [tmp_path / "b.png", tmp_path / "none.png", tmp_path / "s-0.tar" / "x" / "a.png"]
    assert [Path(each.path) for each in found] == paths
    assert [each.error is None for each in found] == [True, False, True]
