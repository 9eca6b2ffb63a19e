"""Parts: each image once, whole or not at all, gone on with, shared, and refused where they would not fit together."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fusiform
from fusiform.errors import InputError, OutputError, UsageError
from fusiform.files import hold
from fusiform.scaling.parts import predict_parts

MODEL = "shufflenet_v2_x1_0"


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3)).repeat(6, 0).repeat(6, 1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven images, of which the fifth is broken, in a folder and its subfolder."""
    folder = tmp_path / "photos"
    (folder / "b").mkdir(parents=True)
    for name, number in (("a10.png", 3), ("a2.png", 2), ("b/1.png", 4), ("c.png", 6), ("a1.png", 1), ("d.png", 7)):
        (folder / name).write_bytes(picture(number))
    (folder / "b" / "2.png").write_bytes(b"no image")
    return folder


IN_ORDER = ("a1.png", "a2.png", "a10.png", "b/1.png", "b/2.png", "c.png", "d.png")


def rows(folder: Path) -> list[dict[str, object]]:
    if list(folder.glob("part-*.parquet")):
        parquet = pytest.importorskip("pyarrow.parquet")
        return [row for file in sorted(folder.glob("part-*.parquet")) for row in parquet.read_table(file).to_pylist()]
    lines = [line for file in sorted(folder.glob("part-*.jsonl")) for line in file.read_text("utf-8").splitlines()]
    return [json.loads(line) for line in lines]


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("part-*")}


def test_each_image_has_its_row_in_the_order_of_the_sources(photos: Path, tmp_path: Path) -> None:
    parts = predict_parts(photos, tmp_path / "out", MODEL, part=3, format="jsonl", threads=1)
    assert parts == (tmp_path / "out", 7, 1, 3, 0)
    expected = [prediction.to_dict() for prediction in fusiform.predict(photos, MODEL, threads=1)]
    assert rows(tmp_path / "out") == expected
    assert [row["path"] for row in expected] == [str(photos / name) for name in IN_ORDER]
    assert [len(file.splitlines()) for _, file in sorted(content(tmp_path / "out").items())] == [3, 3, 1]


def test_parquet_holds_the_same_and_is_the_usual_form(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    predict_parts(photos, tmp_path / "out", MODEL, part=3, threads=1)
    predict_parts(photos, tmp_path / "lines", MODEL, part=3, format="jsonl", threads=1)
    assert sorted(content(tmp_path / "out")) == [f"part-0000{k}.parquet" for k in range(3)]
    assert rows(tmp_path / "out") == [{"top": None, **row} for row in rows(tmp_path / "lines")]


def test_a_rerun_makes_only_what_is_missing(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def run() -> tuple[int, int, int, int]:
        return predict_parts(photos, out, MODEL, part=2, format="jsonl", threads=1)[1:]

    assert run() == (7, 1, 4, 0)
    first, times = content(out), {file: file.stat().st_mtime_ns for file in out.glob("part-*")}
    assert run() == (7, 1, 4, 4)
    (out / "part-00001.jsonl").unlink()
    assert run() == (7, 1, 4, 3)
    assert content(out) == first
    kept = {file: file.stat().st_mtime_ns for file in out.glob("part-*")}
    assert [file.name for file in kept if kept[file] != times[file]] == ["part-00001.jsonl"]
    # Killed between a part and the line that tells of it, also within that line.
    (out / "done-0-of-1.jsonl").write_bytes(b'{"part": 0, "images": 2, "errors": 0}\n{"part": 1, "im')
    assert run() == (7, 1, 4, 4)
    (out / "part-00003.jsonl").unlink()
    assert run() == (7, 1, 4, 3)
    assert json.loads((out / "done-0-of-1.jsonl").read_bytes().splitlines()[-1])["part"] == 3


def test_shards_share_a_folder(photos: Path, tmp_path: Path) -> None:
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    predict_parts(photos, whole, MODEL, part=1, format="jsonl", threads=1)
    counts = [
        predict_parts(photos, shared, MODEL, part=1, shard=(k, 3), format="jsonl", threads=1)[1:] for k in range(3)
    ]
    assert counts == [(3, 0, 3, 0), (2, 1, 2, 0), (2, 0, 2, 0)]
    assert content(shared) == content(whole)
    # Another number of machines goes on with what is there.
    assert predict_parts(photos, shared, MODEL, part=1, format="jsonl", threads=1)[1:] == (7, 1, 7, 7)
    assert predict_parts(photos, tmp_path / "more", MODEL, part=4, shard=(2, 3), threads=1)[1:] == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"part": 3}, "was begun with another --part, "),
        ({"top": 3}, "was begun with another --top, "),
        ({"fast": True}, "was begun with another --fast, "),
        ({"format": "parquet"}, "was begun with another --format, "),
        ({"model": "mobilenet_v2"}, "another model"),
        ({"resize": 300}, "says itself"),
        ({"labels": [f"class {k}" for k in range(1000)]}, "was begun with other labels or another preprocessing, "),
    ],
)
def test_a_folder_that_was_begun_otherwise_is_refused(
    photos: Path, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    given: dict[str, object] = {"model": MODEL, "part": 2, "format": "jsonl", "threads": 1}
    predict_parts(photos, tmp_path / "out", **given)  # type: ignore[arg-type]
    before = content(tmp_path / "out")
    with pytest.raises(UsageError, match=said):
        predict_parts(photos, tmp_path / "out", **{**given, **change})  # type: ignore[arg-type]
    assert content(tmp_path / "out") == before


def test_other_images_are_refused_and_a_renamed_copy_of_the_model_is_not(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_parts(photos, out, MODEL, part=2, format="jsonl", threads=1)
    copy = tmp_path / "copy.tflite"
    copy.write_bytes(fusiform.open_model(MODEL).path.read_bytes())
    assert predict_parts(photos, out, copy, part=2, format="jsonl", threads=1).earlier == 4
    (photos / "e.png").write_bytes(picture(8))
    with pytest.raises(UsageError, match=r"begun with other images \(then 7 images, now 8 images\)"):
        predict_parts(photos, out, MODEL, part=2, format="jsonl", threads=1)


def test_what_is_no_folder_of_parts_is_refused(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "part-00000.jsonl").write_text("")
    with pytest.raises(InputError, match=r"holds parts but no parts\.json"):
        predict_parts(photos, out, MODEL, threads=1)
    (out / "parts.json").write_text("{")
    with pytest.raises(InputError, match=r"parts\.json: cannot be read"):
        predict_parts(photos, out, MODEL, threads=1)
    (out / "parts.json").write_text("{}")
    with pytest.raises(InputError, match=r"parts\.json: is not what --part writes"):
        predict_parts(photos, out, MODEL, threads=1)
    with pytest.raises(InputError, match="is a file, and parts need a folder"):
        predict_parts(photos, out / "parts.json", MODEL, threads=1)
    with pytest.raises(OutputError, match="cannot make the folder"):
        predict_parts(photos, out / "parts.json" / "below", MODEL, threads=1)
    with pytest.raises(InputError, match="no pictures in this folder"):
        predict_parts(out, tmp_path / "new", MODEL, threads=1)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"part": 0}, "part must be at least 1"),
        ({"shard": (2, 2)}, "shard must be I/N"),
        ({"format": "csv"}, "not as csv"),
        ({"score": 0.5}, "score is for detection"),
        ({"sources": "-"}, "standard input"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    photos: Path, tmp_path: Path, given: dict[str, object], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        predict_parts(**{"sources": photos, "out": tmp_path / "out", "model": MODEL, **given})  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")
def test_two_processes_cannot_be_the_same_shard(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_parts(photos, out, MODEL, part=2, shard=(0, 2), format="jsonl", threads=1)
    with (out / "done-0-of-2.jsonl").open("ab") as other:
        assert hold(other.fileno())
        with pytest.raises(InputError, match="another process answers shard 0/2 there"):
            predict_parts(photos, out, MODEL, part=2, shard=(0, 2), format="jsonl", threads=1)
        assert predict_parts(photos, out, MODEL, part=2, shard=(1, 2), format="jsonl", threads=1).parts == 2


def test_leftovers_of_a_killed_process_go(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_parts(photos, out, MODEL, part=4, format="jsonl", threads=1)
    ours, theirs = out / ".part-00000.jsonl.1.0-of-1.part", out / ".part-00000.jsonl.1.0-of-2.part"
    for left in (ours, theirs):
        left.write_text("half")
    predict_parts(photos, out, MODEL, part=4, format="jsonl", threads=1)
    assert theirs.exists()
    assert ours.exists() is (sys.platform == "win32")


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text there")
def test_a_file_name_that_is_no_utf8(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "p\udcff"
    photos.rename(folder)
    out = tmp_path / "out"
    assert predict_parts(folder, out, MODEL, part=3, format="jsonl", threads=1).errors == 1
    assert predict_parts(folder, out, MODEL, part=3, format="jsonl", threads=1).earlier == 3
    assert [row["path"] for row in rows(out)] == [str(folder / name) for name in IN_ORDER]


def tar_of(path: Path, names: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in names.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_a_tar_file_is_a_part_of_its_own(photos: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    for k in range(2):
        tar_of(shards / f"s-{k}.tar", {"x.png": picture(1), "x.cls": b"3", "y.png": picture(2), "z.png": b"none"})
    broken = tar_of(shards / "s-2.tar", {"x.png": picture(1), "y.png": picture(2)})
    broken.write_bytes(broken.read_bytes()[:1500])
    tar_of(shards / "s-3.tar", {"readme.txt": b"nothing"})
    parts = predict_parts(
        [photos / "a1.png", str(shards / "s-{0..3}.tar"), photos / "d.png"],
        tmp_path / "out",
        MODEL,
        part=100,
        format="jsonl",
        threads=1,
    )
    files = [[json.loads(line) for line in file.splitlines()] for _, file in sorted(content(tmp_path / "out").items())]
    assert [len(file) for file in files] == [1, 3, 3, len(files[3]), 1, 1]
    assert [row["path"] for row in files[1]] == [f"{shards}/s-0.tar/{name}.png" for name in "xyz"]
    assert [row["error"] is None for row in files[1]] == [True, True, False]
    assert "cut short" in str(files[3][-1]["error"])
    assert "no pictures in this tar file" in str(files[4][0]["error"])
    alone = fusiform.predict(picture(1), MODEL, threads=1)[0].to_dict()
    assert files[2][0]["top"] == files[0][0]["top"] == alone["top"]
    assert parts.parts == 6


def test_rows_of_parquet_are_cut_at_the_parts(photos: Path, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    values = [{"bytes": picture(k), "path": f"{k}.png"} for k in range(7)]
    values[4] = {"bytes": None, "path": "4.png"}
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table({"image": pyarrow.array(values, kind), "label": list(range(7))})
    file = tmp_path / "rows.parquet"
    parquet.write_table(table, file, row_group_size=2)
    out = tmp_path / "out"
    assert predict_parts(file, out, MODEL, part=3, format="jsonl", threads=1) == (out, 7, 1, 3, 0)
    found = rows(out)
    assert [row["path"] for row in found] == [f"{file}#{k}" for k in range(7)]
    for k in (0, 3, 6):
        assert found[k]["top"] == fusiform.predict(picture(k), MODEL, threads=1)[0].to_dict()["top"]
    assert str(found[4]["error"]).endswith("#4: holds no picture")


@pytest.mark.skipif(sys.platform == "win32", reason="signals are not Windows's")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interruption_keeps_the_parts_and_says_how_to_go_on(photos: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    command = ["predict", str(photos), "--out", str(out), "--part", "3", "--format", "jsonl", "--model", MODEL]
    # The pipe holds the second part up: nobody writes to it.
    code = (
        "import sys, os, signal, fusiform.prediction.sources as sources\n"
        "from fusiform.cli import main\n"
        "before = sources.Picture\n"
        "real = sources._one_picture\n"
        "def one(name):\n"
        f"    if name.endswith('c.png'): os.kill(os.getpid(), signal.{name})\n"
        "    return real(name)\n"
        "sources._one_picture = one\n"
        f"sys.argv[1:] = {command!r}\nmain()\n"
    )
    run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run
    ended = run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=120,
        check=False,
    )
    assert ended.returncode == {"SIGINT": 130, "SIGTERM": 143}[name]
    assert f"of 3 parts are finished in {out}; go on with: fusiform predict {photos} --out {out}" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list(out.glob(".*"))
    assert predict_parts(photos, out, MODEL, part=3, format="jsonl", threads=1).images == 7
    assert [row["path"] for row in rows(out)] == [str(photos / each) for each in IN_ORDER]
