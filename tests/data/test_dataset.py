from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from fusiform.data.dataset import DataSet, Sample
from fusiform.errors import ImageError


def dataset(root: Path, *names: str, label: int = 0) -> DataSet:
    return DataSet(root, ("a", "b"), {"all": tuple(Sample(root / name, label) for name in names)})


def test_a_fingerprint_knows_the_pictures_and_not_where_or_in_which_order_they_lie() -> None:
    first = dataset(Path("/one"), "a/1.jpg", "a/2.jpg").fingerprint()
    assert dataset(Path("relative/two"), "a/2.jpg", "a/1.jpg").fingerprint() == first
    assert dataset(Path("/one"), "a/1.jpg", "a/3.jpg").fingerprint() != first
    assert dataset(Path("/one"), "a/1.jpg", "a/2.jpg", label=1).fingerprint() != first
    moved = DataSet(Path("/one"), ("a", "b"), {"train": dataset(Path("/one"), "a/1.jpg", "a/2.jpg").splits["all"]})
    assert moved.fingerprint() != first


def test_both_unicode_spellings_of_a_file_name_are_one() -> None:
    names = [unicodedata.normalize(form, "한국/é.jpg") for form in ("NFC", "NFD")]
    assert names[0] != names[1]
    assert dataset(Path("x"), names[0]).fingerprint() == dataset(Path("x"), names[1]).fingerprint()


@pytest.mark.parametrize("source", ["list.csv", "shard.tar"])
def test_a_list_and_a_shard_locate_pictures_from_their_folder(source: str) -> None:
    found = DataSet(Path("/far/away") / source, ("a",), {})
    assert found.locate(Sample(Path("/far/away/pictures/1.jpg"), 0)) == "pictures/1.jpg"


def test_a_member_is_read_where_it_lies(tmp_path: Path) -> None:
    file = tmp_path / "x.tar"
    file.write_bytes(b"abcdefgh")
    sample = Sample(file, 0, offset=2, size=3, key="a/1.jpg")
    assert sample.read_bytes() == b"cde"
    assert sample.name == f"{file}/a/1.jpg"
    with pytest.raises(ImageError, match=r"a/1\.jpg: is not a picture"):
        sample.read()
    with pytest.raises(ImageError, match="no such file"):
        Sample(tmp_path / "none.jpg", 0).read_bytes()
