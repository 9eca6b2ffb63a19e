"""Kinds of fault are values: an error says which it is, whatever its message says."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

import fusiform
from fusiform.data import limits
from fusiform.data.image import read_image
from fusiform.data.masks import read_mask
from fusiform.doctor.findings import Kind
from fusiform.errors import ImageError, ImageFault


def jpeg() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


JPEG = jpeg()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "empty file"),
        (b"<html>make the picture smaller", "not a picture"),
        (b"\0\0\0\x18ftypisom" + bytes(100), "not a picture"),
        (JPEG[:-300], "truncated"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "corrupt"),
    ],
)
def test_what_is_wrong_with_a_picture(data: bytes, kind: ImageFault) -> None:
    # A name that holds the words of another fault's message.
    with pytest.raises(ImageError) as caught:
        read_image(data, name="is cut short, make the picture smaller")
    assert caught.value.kind == kind


def test_a_picture_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_DECODED_BYTES", 7999)
    with pytest.raises(ImageError, match="make the picture smaller") as caught:
        read_image(JPEG)
    assert caught.value.kind == "too large"


def test_a_picture_that_cannot_be_opened(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jpg", tmp_path):
        with pytest.raises(ImageError) as caught:
            read_image(path)
        assert caught.value.kind == "unreadable"


@pytest.mark.parametrize(
    ("values", "options", "kind"),
    [
        (np.full((4, 5), 3, np.uint16), {"classes": 3}, "label of no class"),
        (np.full((4, 5), 300, np.uint16), {}, "label of no class"),
        (np.full((4, 6), 0, np.uint8), {}, "mask of another size"),
        (np.full((4, 5, 3), 7, np.uint8), {}, "mask of unknown colours"),
    ],
)
def test_what_is_wrong_with_a_mask(
    tmp_path: Path, values: np.ndarray, options: dict[str, int], kind: ImageFault
) -> None:
    file = tmp_path / "no such mask, has the label.png"
    Image.fromarray(values).save(file)
    with pytest.raises(ImageError) as caught:
        read_mask(file, (5, 4), **options)
    assert caught.value.kind == kind


def test_what_is_no_mask(tmp_path: Path) -> None:
    found = []
    (tmp_path / "a.png").write_bytes(JPEG)
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    for name in ("none.png", "", "a.png", "b.png"):
        with pytest.raises(ImageError) as caught:
            read_mask(tmp_path / name, (5, 4))
        found.append(caught.value.kind)
    assert found == ["missing mask", "damaged mask", "mask is no PNG", "damaged mask"]


def test_an_error_keeps_its_kind_on_the_way_to_another_process() -> None:
    error = ImageError("a.png: is empty", "empty file")
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (str(other), other.kind) == ("a.png: is empty", "empty file")


def test_every_kind_that_is_declared_is_found_somewhere() -> None:
    package = Path(fusiform.__file__).parent
    source = "\n".join(file.read_text(encoding="utf-8") for file in package.rglob("*.py"))
    kinds = get_args(Kind)
    assert len(kinds) == len(set(kinds))
    assert {"corrupt", "damaged entry", "leak between splits"} <= set(kinds)
    assert [kind for kind in kinds if source.count(f'"{kind}"') < 2] == []
