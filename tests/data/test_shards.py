from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from fusiform.data.folders import read_dataset
from fusiform.data.shards import expand_braces
from fusiform.errors import UsageError


def picture(level: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (level, level, level)).save(buffer, "PNG")
    return buffer.getvalue()


def pack(path: Path, members: dict[str, bytes | str], *, form: int = tarfile.GNU_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def found(source: str | Path, **arguments: list[str]) -> dict[str, list[tuple[str, str]]]:
    """Split -> (name within the shard, class) of each picture."""
    dataset = read_dataset(source, **arguments)
    return {
        split: [(sample.key, dataset.classes[sample.label]) for sample in samples]
        for split, samples in dataset.splits.items()
    }


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("a-{08..10}.tar", ["a-08.tar", "a-09.tar", "a-10.tar"]),
        ("a-{9..11}.tar", ["a-9.tar", "a-10.tar", "a-11.tar"]),
        ("{2..1}", ["2", "1"]),
        ("{train,val}/{0..1}.tar", ["train/0.tar", "train/1.tar", "val/0.tar", "val/1.tar"]),
    ],
)
def test_braces_expand_as_in_a_shell(pattern: str, names: list[str]) -> None:
    assert expand_braces(pattern) == names


@pytest.mark.parametrize("pattern", ["{", "a{}b", "{0..x}", "{a", "{a,{b,c}}", "{0..999999999}", "{0..9999}{0..9999}"])
def test_other_braces_are_refused(pattern: str) -> None:
    with pytest.raises(UsageError, match=r"braces say|more than"):
        expand_braces(pattern)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_read_in_place(tmp_path: Path, form: int) -> None:
    # Long and Korean names make the GNU and PAX formats write headers of their own before the member's.
    names = ["./cat/1.png", "dog/" + "x" * 90 + ".PNG", "고양이/2.jpeg"]
    contents = {name: picture(level) for level, name in enumerate(names)}
    shard = pack(tmp_path / "all.tar", dict(contents), form=form)
    dataset = read_dataset(shard)
    assert dataset.classes == ("cat", "dog", "고양이")
    assert [sample.label for sample in dataset.splits["all"]] == [0, 1, 2]
    for sample, data in zip(dataset.splits["all"], contents.values(), strict=True):
        assert sample.read_bytes() == data
        assert sample.read().size == (8, 8)
    assert dataset.splits["all"][0].name == f"{shard}/cat/1.png"


def test_labels_stand_beside_the_pictures(tmp_path: Path) -> None:
    shard = pack(
        tmp_path / "x.tar",
        {
            "a.png": picture(),
            "a.cls": "zebra\n",
            "b.json": '{"label": 7, "class": "ape"}',
            "b.jpg": picture(),
            "b.seg.png": picture(),  # a mask beside the picture
            "v1.5.webp": picture(),
            "v1.5.cls": "ape",
            "v1.6.png": picture(),
            "v1.6.cls": "zebra",
            "c.left.png": picture(),
            "c.cls": "ape",
            "none.png": picture(),
            "._a.png": b"from a Mac",
            "notes.txt": "hello",
        },
    )
    dataset = read_dataset(shard)
    assert [(sample.key, dataset.classes[sample.label]) for sample in dataset.splits["all"]] == [
        ("a.png", "zebra"),
        ("b.jpg", "ape"),
        ("v1.5.webp", "ape"),
        ("v1.6.png", "zebra"),
        ("c.left.png", "ape"),
    ]
    assert dataset.notes == (
        "pictures in the shards beside another of their key, such as masks, passed over: 1",
        "pictures in the shards without a class, passed over: 1",
    )


def test_indices_are_names_or_lines_of_a_file_of_names(tmp_path: Path) -> None:
    members: dict[str, bytes | str] = {}
    for key, label in (("a", "10"), ("b", "2"), ("c", "1")):
        members |= {f"{key}.png": picture(), f"{key}.cls": label}
    shard = pack(tmp_path / "train" / "0.tar", members)
    assert read_dataset(tmp_path).classes == ("1", "2", "10")
    (tmp_path / "classes.txt").write_text("\n".join(f"class {k}" for k in range(12)) + "\n\n", encoding="utf-8")
    assert found(tmp_path)["train"] == [("a.png", "class 10"), ("b.png", "class 2"), ("c.png", "class 1")]
    assert len(read_dataset(tmp_path).classes) == 12
    (tmp_path / "classes.txt").write_text("a\nb\nc\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"0\.tar/a\.png: has class 10, and .*classes\.txt has 3 names"):
        read_dataset(tmp_path)
    (tmp_path / "classes.txt").write_text("a\nb\na\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"classes\.txt, line 3: 'a' stands there already"):
        read_dataset(shard.parents[1])


def test_splits_come_from_the_names_of_shards_and_folders(tmp_path: Path) -> None:
    for name in ("train-0001.tar", "imagenet-validation-0.tar", "Test/0.tar", "train-0000.tar"):
        pack(tmp_path / name, {f"cat/{name}.png": picture(), f"valley/{name}.png": picture()})
    by_split = {split: [key for key, _ in listed] for split, listed in found(tmp_path).items()}
    assert by_split["train"] == [
        f"{name}/{shard}.png" for shard in ("train-0000.tar", "train-0001.tar") for name in ("cat", "valley")
    ]
    assert set(by_split) == {"train", "val", "test"}
    assert set(found(f"{tmp_path}/train-{{0000..0001}}.tar")) == {"train"}
    pack(tmp_path / "valley.tar", {"cat/1.png": picture()})
    with pytest.raises(UsageError, match=r"valley\.tar: does not say its split"):
        read_dataset(tmp_path)


def test_a_whole_data_set_in_one_shard_has_its_splits_inside(tmp_path: Path) -> None:
    pack(tmp_path / "d.tar", {"d/train/cat/1.png": picture(), "d/val/cat/2.png": picture()})
    assert found(tmp_path / "d.tar") == {"train": [("d/train/cat/1.png", "cat")], "val": [("d/val/cat/2.png", "cat")]}
    pack(tmp_path / "e.tar", {"train/1.png": picture(), "train/1.cls": "cat"})
    assert found(tmp_path / "e.tar") == {"train": [("train/1.png", "cat")]}


def test_where_the_shards_lie_does_not_matter(tmp_path: Path) -> None:
    for place in ("one", "two/deep"):
        for k in range(2):
            pack(tmp_path / place / f"x-{k}.tar", {f"cat/{k}.png": picture(k)})
    one, two = tmp_path / "one", tmp_path / "two" / "deep"
    prints = {
        read_dataset(source).fingerprint() for source in (one, two, f"{one}/x-{{0..1}}.tar", f"{two}/x-{{0,1}}.tar")
    }
    assert len(prints) == 1


def test_a_shard_cut_anywhere_is_refused_or_whole(tmp_path: Path) -> None:
    whole = pack(tmp_path / "whole.tar", {"cat/1.png": picture(1), "dog/2.png": picture(2)})
    data = whole.read_bytes()
    end = len(data.rstrip(b"\0"))
    cut = tmp_path / "cut.tar"
    for length in (0, 100, 512, 600, 1024, 1100, 1536, end, 2048):
        cut.write_bytes(data[:length])
        with pytest.raises(UsageError, match=r"cut\.tar: is cut short, damaged or no tar file"):
            read_dataset(cut)
    cut.write_bytes(data[: 2048 + 512])
    assert len(read_dataset(cut).splits["all"]) == 2


def test_damage_between_members_is_not_taken_for_the_end(tmp_path: Path) -> None:
    shard = pack(tmp_path / "x.tar", {f"cat/{k}.png": picture(k) for k in range(3)})
    data = bytearray(shard.read_bytes())
    data[1024 + 10] ^= 0xFF  # in the header of the second member
    shard.write_bytes(data)
    with pytest.raises(UsageError, match="no end mark after 1,024 bytes"):
        read_dataset(shard)


def test_compressed_and_missing_shards_are_named(tmp_path: Path) -> None:
    plain = pack(tmp_path / "x.tar", {"cat/1.png": picture()}).read_bytes()
    (tmp_path / "gz").mkdir()
    (tmp_path / "gz" / "x.tar.gz").write_bytes(gzip.compress(plain))
    (tmp_path / "disguised.tar").write_bytes(gzip.compress(plain))
    for source in (tmp_path / "gz", tmp_path / "gz" / "x.tar.gz", tmp_path / "disguised.tar"):
        with pytest.raises(UsageError, match=r"is compressed, .* decompress it"):
            read_dataset(source)
    with pytest.raises(UsageError, match=r"x-1\.tar: no such shard \(2 of 2 are missing\)"):
        read_dataset(f"{tmp_path}/x-{{1..2}}.tar")


def test_labels_that_cannot_be_understood_are_named(tmp_path: Path) -> None:
    for name, content, reason in (
        ("a.cls", b"\xff\xfe", "not UTF-8"),
        ("a.cls", b" ", "says no class"),
        ("a.json", b"{", "not JSON"),
        ("a.cls", bytes(2 << 20), "too many"),
    ):
        shard = pack(tmp_path / "x.tar", {"a.png": picture(), name: content})
        with pytest.raises(UsageError, match=rf"x\.tar/{name}: .*{reason}"):
            read_dataset(shard)
    with pytest.raises(UsageError, match="no picture has a class"):
        read_dataset(pack(tmp_path / "y.tar", {"a.png": picture()}))
    with pytest.raises(UsageError, match="no pictures"):
        read_dataset(pack(tmp_path / "z.tar", {"a.txt": "x"}))


def test_links_within_a_shard_are_told(tmp_path: Path) -> None:
    shard = pack(tmp_path / "x.tar", {"cat/1.png": picture()})
    with tarfile.open(shard, "a") as tar:
        link = tarfile.TarInfo("cat/2.png")
        link.type, link.linkname = tarfile.LNKTYPE, "cat/1.png"
        tar.addfile(link)
    dataset = read_dataset(shard)
    assert len(dataset.splits["all"]) == 1
    assert dataset.notes == ("links within the shards, passed over: 1; pack the files themselves",)


def encoded(form: str, level: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (level, level, level)).save(buffer, form)
    return buffer.getvalue()


@pytest.mark.parametrize(("ending", "form"), [("bmp", "BMP"), ("tif", "TIFF"), ("TIFF", "TIFF"), ("gif", "GIF")])
def test_every_picture_that_can_be_read_is_read(tmp_path: Path, ending: str, form: str) -> None:
    members: dict[str, bytes | str] = {}
    for i in range(4):
        name, data = (f"{i}.jpg", encoded("JPEG", 9 * i)) if i % 2 else (f"{i}.{ending}", encoded(form, 9 * i))
        members |= {name: data, f"{i}.cls": "cat" if i % 2 else "dog"}
    dataset = read_dataset(pack(tmp_path / "x.tar", members))
    assert [dataset.classes[sample.label] for sample in dataset.splits["all"]] == ["dog", "cat", "dog", "cat"]
    assert [sample.read().getpixel((0, 0))[0] // 9 for sample in dataset.splits["all"]] == [0, 1, 2, 3]  # type: ignore[index]


def test_pictures_that_are_not_read_are_counted(tmp_path: Path) -> None:
    members: dict[str, bytes | str] = {"cat/1.jpg": picture(), "cat/1.tif": encoded("TIFF"), "dog/2.jpg": picture(1)}
    members |= {"dog/3.nef": b"x", "dog/4.NEF": b"x", "@eaDir/5.jpg": b"x"}
    dataset = read_dataset(pack(tmp_path / "x.tar", members))
    assert len(dataset.splits["all"]) == 2
    assert dataset.notes == (
        "pictures in the shards ending in .nef, not read or beside another of their key, passed over: 2",
        "pictures in the shards ending in .tif, not read or beside another of their key, passed over: 1",
    )
    with pytest.raises(UsageError, match=r"no pictures in it \(pictures in the shards ending in \.nef"):
        read_dataset(pack(tmp_path / "only.tar", {"dog/3.nef": b"x"}))


def test_joined_shards_are_read_whole(tmp_path: Path) -> None:
    parts = [
        pack(tmp_path / f"{k}.tar", {f"cat/{k}.png": picture(k), f"dog/{k}.png": picture(9 + k)}) for k in range(3)
    ]
    joined = tmp_path / "joined.tar"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    dataset = read_dataset(joined)
    assert [sample.key for sample in dataset.splits["all"]] == [
        f"{c}/{k}.png" for k in range(3) for c in ("cat", "dog")
    ]
    assert dataset.splits["all"][-1].read().getpixel((0, 0)) == (11, 11, 11)
    # The second part is cut: damaged, as it would be alone.
    joined.write_bytes(parts[0].read_bytes() + parts[1].read_bytes()[:900])
    with pytest.raises(UsageError, match="cut short, damaged or no tar"):
        read_dataset(joined)


@pytest.mark.parametrize("rest", [b"some text", b"\xff" * 5000])
def test_what_follows_the_end_and_is_no_archive_is_told(tmp_path: Path, rest: bytes) -> None:
    shard = pack(tmp_path / "x.tar", {"cat/1.png": picture()})
    shard.write_bytes(shard.read_bytes() + rest)
    dataset = read_dataset(shard)
    assert len(dataset.splits["all"]) == 1
    assert dataset.notes == (f"x.tar: {len(rest):,} bytes after its end mark, not read: pack what they are into it",)


def test_videos_masks_and_captions_are_counted(tmp_path: Path) -> None:
    members: dict[str, bytes | str] = {"a.png": picture(), "a.cls": "0", "a.seg.png": picture(), "a.txt": "a cat"}
    pack(tmp_path / "x.tar", {**members, "b.mp4": b"", "b.cls": "0", "c.svg": "<svg/>", "c.cls": "0"})
    dataset = read_dataset(tmp_path)
    assert [sample.key for sample in dataset.splits["all"]] == ["a.png"]
    assert dataset.notes == (
        "pictures in the shards ending in .mp4, not read or beside another of their key, passed over: 1",
        "pictures in the shards ending in .svg, not read or beside another of their key, passed over: 1",
        "pictures in the shards beside another of their key, such as masks, passed over: 1",
    )
    pack(tmp_path / "y.tar", {"a.png": picture(), "a.txt": "a cat"})
    with pytest.raises(UsageError, match=r"no picture has a class \(a KEY\.txt is a caption\): put KEY\.cls"):
        read_dataset(tmp_path / "y.tar")
