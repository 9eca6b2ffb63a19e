"""Sources from memory: arrays, tensors, file objects and file addresses."""

from __future__ import annotations

import io
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fusiform
from fusiform.errors import ImageError, UsageError
from fusiform.prediction.sources import find_pictures


def colours(seed: int = 0, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (24, 32, channels), np.uint8)


def seen(source: Any) -> list[np.ndarray]:
    """The pixels of each picture, as ``predict`` would see them."""
    pictures = []
    for picture in find_pictures(source):
        content = picture.fetch()
        opened = content if isinstance(content, Image.Image) else Image.open(io.BytesIO(content))
        pictures.append(np.asarray(opened))
    return pictures


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("array", [colours(), colours(channels=4), colours()[..., 0], colours()[:, ::2, ::-1]])
def test_one_array_is_one_image_and_several_are_several(array: np.ndarray) -> None:
    assert [np.array_equal(one, array) for one in seen(array)] == [True]
    assert [np.array_equal(one, array) for one in seen([array, array])] == [True, True]
    assert [np.array_equal(one, array) for one in seen(one for one in (array, array))] == [True, True]


def test_tensors_are_taken_without_importing_torch() -> None:
    torch = pytest.importorskip("torch")
    array = colours()
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    for given in (tensor, tensor / 255, (tensor / 255).double(), torch.nn.Parameter(tensor / 255)):
        assert [np.array_equal(one, array) for one in seen(given)] == [True]
    halves = seen((tensor / 255).bfloat16())[0].astype(int)
    assert np.abs(halves - array).max() <= 1
    assert len(seen([tensor, tensor])) == 2


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, io.BytesIO])
def test_bytes_and_file_objects(kind: Any) -> None:
    assert np.array_equal(seen(kind(png(colours())))[0], colours())
    assert len(seen([kind(png(colours())), kind(png(colours(1)))])) == 2


def test_file_objects_of_files_and_archives(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(colours()))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(path, "in/a.png")
    with path.open("rb") as file:
        (picture,) = find_pictures(file)
        assert picture.path == str(path)
        assert picture.fetch() == path.read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive, archive.open("in/a.png") as file:
        assert np.array_equal(seen(file)[0], colours())
    (closed,) = find_pictures(file)
    with pytest.raises(ImageError, match=r"in/a\.png: cannot be read"):
        closed.fetch()


def test_an_iterator_may_use_its_array_and_its_file_again(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(colours()))

    def frames() -> Iterator[Any]:
        frame = np.zeros((8, 8, 4), np.uint8)
        for level in range(3):
            frame[:] = level
            yield frame
        with (tmp_path / "a.png").open("rb") as file:
            yield file

    pictures = list(find_pictures(frames()))
    assert [np.asarray(picture.fetch()).max() for picture in pictures[:3]] == [0, 1, 2]
    assert pictures[3].fetch() == (tmp_path / "a.png").read_bytes()


def test_file_addresses(tmp_path: Path) -> None:
    folder = tmp_path / "my photos #1"
    folder.mkdir()
    (folder / "a b [1].png").write_bytes(png(colours()))
    address = (folder / "a b [1].png").as_uri()
    assert address.startswith("file:///")
    for form in (address, address.replace("file:///", "file://localhost/"), address.replace("file:///", "FILE:/")):
        assert [picture.path for picture in find_pictures(form)] == [str(folder / "a b [1].png")]
    assert [picture.path for picture in find_pictures(folder.as_uri())] == [str(folder / "a b [1].png")]
    (other,) = find_pictures("file://server/share/a.png")
    with pytest.raises(ImageError, match="is on another machine"):
        other.fetch()


def test_arrays_of_names_are_names(tmp_path: Path) -> None:
    for names in (np.array(["a.png", "b.png"]), np.array([Path("a.png"), Path("b.png")], object)):
        assert [picture.path for picture in find_pictures(names)] == ["a.png", "b.png"]


@pytest.mark.parametrize(
    "source",
    [
        None,
        7,
        {"a.png": 1},
        [None],
        [["a.png"]],
        [[1, 2], [3, 4]],
        np.zeros((2, 24, 32, 3), np.uint8),
        np.zeros((24, 32, 3)),
        np.zeros((24, 32, 3), np.uint16),
        np.zeros((24, 32), bool),
        np.zeros((3, 24, 32), np.uint8),
        np.zeros((24, 32, 1), np.uint8),
        np.zeros((0, 32, 3), np.uint8),
        np.zeros(5, np.uint8),
        [np.zeros(5)],
    ],
    ids=repr,
)
def test_everything_else_is_told_what_is_taken(source: Any) -> None:
    with pytest.raises(UsageError, match=r"not taken for an image: give a file, .* numpy array .* torch tensor"):
        list(find_pictures(source))


def test_other_tensors_and_text_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r'open it with open\(path, "rb"\)'):
        list(find_pictures(io.StringIO("text")))
    torch = pytest.importorskip("torch")
    for tensor in (
        *(torch.zeros(2, 3, 8, 8), torch.zeros(8, 8, 3), torch.zeros(3, 8), torch.zeros(3, 0, 8)),
        *(torch.zeros(3, 8, 8, dtype=torch.int64), torch.full((3, 8, 8), -0.1), torch.full((3, 8, 8), 255.0)),
        torch.full((3, 8, 8), float("nan")),
    ):
        with pytest.raises(UsageError, match=r"a tensor .* not taken for an image"):
            list(find_pictures([tensor]))


def test_predict_gives_an_array_the_answer_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(colours()))
    with path.open("rb") as file:
        answers = fusiform.predict([path, colours(), colours(), file, path.as_uri(), colours(channels=4)], top=1)
    assert len(answers) == 6
    assert answers[0].top
    assert all(answer.top == answers[0].top for answer in answers[1:5])
    assert len(fusiform.predict(colours())) == 1
    with pytest.raises(UsageError, match="not taken for an image"):
        fusiform.predict(np.zeros((8, 8, 3)))


def test_standard_input_and_files_without_end_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            assert 0 < size <= 1 << 24
            return bytes(size)

    class Standard:
        buffer = Endless()

    monkeypatch.setattr("sys.stdin", Standard())
    monkeypatch.setattr("fusiform.data.limits.MAX_FILE_BYTES", 1 << 24)
    for source, name in (("-", "-"), (Endless(), "<file>")):
        (picture,) = find_pictures(source)
        with pytest.raises(ImageError, match=f"^{name}: is longer than 16 MB"):
            picture.fetch()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such files")
def test_a_pattern_that_finds_a_pipe_goes_on(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(png(colours()))
    piped, other = fusiform.predict(str(tmp_path / "*.png"), threads=1)
    assert "is a named pipe" in str(piped.error)
    assert other.error is None
