"""Images in object stores: a local S3 (moto_server, on the PATH or named by FUSIFORM_TEST_MOTO) and fsspec's memory."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fusiform
from fusiform.data import remote
from fusiform.errors import ImageError, InputError, UsageError

MODEL = "shufflenet_v2_x1_0"


def picture(seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3)).repeat(6, 0).repeat(6, 1).astype(np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    pytest.importorskip("obstore")
    program = os.environ.get("FUSIFORM_TEST_MOTO") or shutil.which("moto_server")
    if not program:
        pytest.skip("needs moto_server, on the PATH or named by FUSIFORM_TEST_MOTO")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [program, "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 240
        while True:
            try:
                put(f"{address}/photos")
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait()


def put(address: str, data: bytes = b"") -> None:
    # Of urllib's own type, a form, moto waits for more.
    request = urllib.request.Request(address, data, {"Content-Type": "application/octet-stream"}, method="PUT")
    with urllib.request.urlopen(request, timeout=10):
        pass


@pytest.fixture
def s3(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket's address, with the environment that leads there, as for any program."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.delenv("FUSIFORM_OFFLINE", raising=False)
    monkeypatch.setattr(remote, "_stores", {})
    return "s3://photos"


def test_an_object_a_folder_and_a_pattern(server: str, s3: str) -> None:
    for name, data in (("x/a b.png", picture(1)), ("x/sub/c.png", picture(2)), ("x/n.txt", b"-"), ("y.png", b"none")):
        put(f"{server}/photos/{name.replace(' ', '%20')}", data)
    one, missing, none, nowhere = fusiform.predict(
        [f"{s3}/x/a b.png", f"{s3}/x/z.png", f"{s3}/y.png", "s3://nowhere/a.png"], MODEL, threads=1
    )
    assert (one.path, one.top) == (f"{s3}/x/a b.png", fusiform.predict(picture(1), MODEL, threads=1)[0].top)
    assert missing.error == f"{s3}/x/z.png: no such object: check the address"
    assert str(none.error).startswith(f"{s3}/y.png: ")
    assert nowhere.error is not None
    assert [each.path for each in fusiform.predict(f"{s3}/x/", MODEL, threads=1)] == [
        f"{s3}/x/a b.png",
        f"{s3}/x/sub/c.png",
    ]
    assert [each.path for each in fusiform.predict(f"{s3}/*/c.*", MODEL, threads=1)] == [f"{s3}/x/sub/c.png"]
    (empty,) = fusiform.predict(f"{s3}/empty/", MODEL, threads=1)
    assert str(empty.error).startswith(f"{s3}/empty/: no pictures there")


def test_parts_of_a_bucket_are_those_of_the_same_files(server: str, s3: str, tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    for k in range(30):
        put(f"{server}/photos/many/{k:02}.png", picture(k))
        (tmp_path / "local" / f"{k:02}.png").write_bytes(picture(k))
    given = {"part": 7, "format": "jsonl", "threads": 1}
    parts = fusiform.predict_parts(f"{s3}/many/", tmp_path / "a", MODEL, **given)  # type: ignore[arg-type]
    fusiform.predict_parts(tmp_path / "local", tmp_path / "b", MODEL, **given)  # type: ignore[arg-type]
    assert parts[1:] == (30, 0, 5, 0)
    for k in range(5):
        found, expected = (
            [json.loads(line) for line in (tmp_path / side / f"part-0000{k}.jsonl").read_text().splitlines()]
            for side in "ab"
        )
        assert [row["top"] for row in found] == [row["top"] for row in expected]
        assert [row["path"].rpartition("/")[2] for row in found] == [Path(row["path"]).name for row in expected]


def test_shards_lists_and_tables_in_a_bucket(server: str, s3: str, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in ("a.png", "b.png"):
            info = tarfile.TarInfo(name)
            info.size = len(picture(1))
            archive.addfile(info, io.BytesIO(picture(1)))
    table = io.BytesIO()
    parquet.write_table(pyarrow.table({"image": [picture(k) for k in range(3)]}), table)
    put(f"{server}/photos/p/s-0.tar", packed.getvalue())
    put(f"{server}/photos/p/t.parquet", table.getvalue())
    put(f"{server}/photos/p/list.txt", b"q/x.png\n")
    put(f"{server}/photos/p/q/x.png", picture(5))
    put(f"{server}/photos/p/s-1.tar", packed.getvalue()[:700])
    sources = [f"{s3}/p/s-{{0..1}}.tar", f"{s3}/p/*.parquet", f"{s3}/p/list.txt"]
    parts = fusiform.predict_parts(sources, tmp_path / "out", MODEL, part=2, format="jsonl", threads=1)
    rows = [
        json.loads(line) for file in sorted((tmp_path / "out").glob("part-*")) for line in file.read_text().splitlines()
    ]
    tars = [row for row in rows if ".tar" in row["path"]]
    assert [row["path"] for row in tars[:2]] == [f"{s3}/p/s-0.tar/{name}.png" for name in "ab"]
    assert tars[-1]["error"] is not None
    assert [row["path"] for row in rows[len(tars) :]] == [
        *(f"{s3}/p/t.parquet#{k}" for k in range(3)),
        f"{s3}/p/q/x.png",
    ]
    assert parts.errors == sum(row["error"] is not None for row in rows) == 1


def test_a_bucket_that_cannot_be_listed_begins_no_folder(s3: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="s3://nowhere/x/: "):
        fusiform.predict_parts("s3://nowhere/x/", tmp_path / "out", MODEL, threads=1)
    assert not (tmp_path / "out").exists()


def test_offline_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FUSIFORM_OFFLINE", "1")
    (answer,) = fusiform.predict("s3://photos/a.png", MODEL, threads=1)
    assert answer.error == "s3://photos/a.png: not fetched, because FUSIFORM_OFFLINE is set"
    with pytest.raises(InputError, match="not fetched, because FUSIFORM_OFFLINE is set"):
        fusiform.predict_parts("s3://photos/", tmp_path / "out", MODEL, threads=1)
    with pytest.raises(ImageError, match="FUSIFORM_OFFLINE"):
        remote.size_of("gs://photos/a.tar")


def test_other_addresses_go_through_fsspec(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for name, data in (("m/b.png", picture(2)), ("m/a.png", picture(1)), ("m/z/c.png", picture(3)), ("m/n.md", b"-")):
        memory.pipe(f"/{name}", data)
    found = fusiform.predict("memory://m/", MODEL, threads=1)
    assert [each.path for each in found] == [f"memory://m/{name}.png" for name in ("a", "b", "z/c")]
    assert found[0].top == fusiform.predict(picture(1), MODEL, threads=1)[0].top
    (missing,) = fusiform.predict("memory://m/none.png", MODEL, threads=1)
    assert missing.error == "memory://m/none.png: no such object: check the address"
    with pytest.raises(UsageError, match=r"xyzzy://a/b\.png: fsspec cannot read xyzzy://"):
        fusiform.predict("xyzzy://a/b.png", MODEL, threads=1)


def test_what_may_pass_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(remote.time, "sleep", pauses.append)
    answers: list[OSError | bytes] = [ConnectionError("reset"), TimeoutError("late"), b"there"]

    def read(_: str) -> bytes:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(remote, "_read_file", read)
    assert remote.read_object("hf://datasets/a/b.png") == b"there"
    assert pauses == [0.5, 1.0]
    answers[:] = [ConnectionError("reset")] * 5
    with pytest.raises(ImageError, match=r"hf://datasets/a/b\.png: cannot be fetched: reset"):
        remote.read_object("hf://datasets/a/b.png")
    answers[:] = [PermissionError("no"), b"there"]
    with pytest.raises(ImageError, match="check the credentials in the environment"):
        remote.read_object("hf://datasets/a/b.png")


@pytest.mark.parametrize(
    ("name", "far"),
    [
        ("s3://a/b", True),
        ("hf://datasets/a", True),
        ("S3://a", True),
        ("https://a/b.jpg", False),
        ("file:///a.jpg", False),
        ("a.jpg", False),
        ("C://a.jpg", False),
    ],
)
def test_what_is_an_address(name: str, far: bool) -> None:
    assert remote.is_remote(name) is far
